//! New images: the options, and which files each variant consists of.

mod child;
mod parts;
mod sparse;
mod stream;

use vdisk_core::{Error, Files, ImageWriter, Result};

pub(crate) use child::content_id;
pub use child::{ChildOptions, create_child};

use crate::descriptor::UNSET_CID;
use crate::template::{Template, check_name, new_cid, new_long_id, new_uuid};
use crate::unit::{SECTOR, round_up};
use parts::{Part, PartsWriter};
use sparse::{Layout, SparseFile};
use stream::StreamWriter;

/// The largest virtual size in bytes, that of flat disks: 62 TiB.
pub const MAX_SIZE: u64 = 62 << 40;

/// The largest virtual size of a sparse file: its tables count sectors in 32 bits.
pub(crate) const MOST_SPARSE: u64 = 2 << 40;
/// Bytes of one file of a split disk, as VMware makes them: 2047 MiB.
pub(crate) const SPLIT: u64 = 2047 << 20;
/// Sectors reserved for an embedded descriptor. Readers count on this place and size.
pub(crate) const DESCRIPTOR_SECTORS: u64 = 20;
/// Bytes of it that stay free for the lines that other programs add.
const DESCRIPTOR_SPARE: u64 = 10 * SECTOR;

/// The variants that can be made; `createType` in the descriptor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subformat {
    /// One sparse file with the descriptor inside: Workstation, VirtualBox, qemu. Up to 2 TiB.
    MonolithicSparse,
    /// A descriptor and one flat file.
    MonolithicFlat,
    /// A descriptor and sparse files of 2047 MiB of the disk each.
    TwoGbMaxExtentSparse,
    /// A descriptor and flat files of up to 2047 MiB.
    TwoGbMaxExtentFlat,
    /// One file of compressed grains in order, written once: what OVF packages hold.
    StreamOptimized,
    /// A descriptor and one flat file as ESXi keeps them on a datastore.
    Vmfs {
        /// Marks the disk as thin.
        thin: bool,
    },
}

impl Subformat {
    /// Every variant.
    pub const ALL: [Self; 7] = [
        Self::MonolithicSparse,
        Self::MonolithicFlat,
        Self::TwoGbMaxExtentSparse,
        Self::TwoGbMaxExtentFlat,
        Self::StreamOptimized,
        Self::Vmfs { thin: false },
        Self::Vmfs { thin: true },
    ];

    /// The name as users give it; that of `createType`, but for the thin flag of `vmfsThin`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Vmfs { thin: true } => "vmfsThin",
            _ => self.create_type(),
        }
    }

    /// The variant called `name`, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|subformat| subformat.name().eq_ignore_ascii_case(name))
    }

    fn create_type(self) -> &'static str {
        match self {
            Self::MonolithicSparse => "monolithicSparse",
            Self::MonolithicFlat => "monolithicFlat",
            Self::TwoGbMaxExtentSparse => "twoGbMaxExtentSparse",
            Self::TwoGbMaxExtentFlat => "twoGbMaxExtentFlat",
            Self::StreamOptimized => "streamOptimized",
            Self::Vmfs { .. } => "vmfs",
        }
    }

    /// The largest virtual size in bytes.
    #[must_use]
    pub fn max_size(self) -> u64 {
        match self {
            Self::MonolithicSparse => MOST_SPARSE,
            Self::TwoGbMaxExtentSparse | Self::TwoGbMaxExtentFlat => {
                SPLIT * crate::descriptor::MOST_EXTENTS as u64
            }
            Self::MonolithicFlat | Self::StreamOptimized | Self::Vmfs { .. } => MAX_SIZE,
        }
    }

    fn is_sparse(self) -> bool {
        matches!(self, Self::MonolithicSparse | Self::TwoGbMaxExtentSparse | Self::StreamOptimized)
    }

    fn is_split(self) -> bool {
        matches!(self, Self::TwoGbMaxExtentSparse | Self::TwoGbMaxExtentFlat)
    }
}

/// The controller a disk is made for; `ddb.adapterType`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdapterType {
    /// IDE, and SATA.
    Ide,
    /// BusLogic SCSI.
    BusLogic,
    /// LSI Logic SCSI: what ESXi expects.
    LsiLogic,
    /// Of old ESX servers.
    LegacyEsx,
    /// VMware paravirtual SCSI, which descriptors call `lsilogic`.
    PvScsi,
}

impl AdapterType {
    /// Every type.
    pub const ALL: [Self; 5] =
        [Self::Ide, Self::BusLogic, Self::LsiLogic, Self::LegacyEsx, Self::PvScsi];

    /// The name as users give it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ide => "ide",
            Self::BusLogic => "buslogic",
            Self::LsiLogic => "lsilogic",
            Self::LegacyEsx => "legacyESX",
            Self::PvScsi => "pvscsi",
        }
    }

    /// The type called `name`, in any case.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|adapter| adapter.name().eq_ignore_ascii_case(name))
    }

    fn in_descriptor(self) -> &'static str {
        match self {
            Self::PvScsi => "lsilogic",
            other => other.name(),
        }
    }
}

/// What a new image shall be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Bytes the guest sees; a multiple of the logical sector.
    pub virtual_size: u64,
    /// The variant; `monolithicSparse` by default.
    pub subformat: Subformat,
    /// The controller; `lsilogic` by default.
    pub adapter_type: AdapterType,
    /// `ddb.virtualHWVersion`; 4 by default, which every product takes.
    pub hw_version: u32,
    /// Bytes of a grain of the sparse variants: a power of two from 8 KiB to 1 MiB, by default
    /// 64 KiB as everywhere.
    pub grain_size: u64,
    /// Deflate level of `streamOptimized`, 1 (fast) to 12 (small); 4 by default.
    pub compression_level: u8,
    /// The content id; random by default.
    pub cid: Option<u32>,
    /// `ddb.uuid`; random by default.
    pub uuid: Option<[u8; 16]>,
    /// Bytes of a sector the guest addresses: 512 (default) or 4096.
    pub logical_sector: u32,
    /// Bytes of a sector of the medium: 512 (default) or 4096.
    pub physical_sector: u32,
}

impl CreateOptions {
    /// The defaults for a disk of `virtual_size` bytes.
    #[must_use]
    pub fn new(virtual_size: u64) -> Self {
        Self {
            virtual_size,
            subformat: Subformat::MonolithicSparse,
            adapter_type: AdapterType::LsiLogic,
            hw_version: 4,
            grain_size: 64 << 10,
            compression_level: 4,
            cid: None,
            uuid: None,
            logical_sector: 512,
            physical_sector: 512,
        }
    }

    fn check(&self) -> Result<()> {
        let sectors_fit =
            matches!((self.logical_sector, self.physical_sector), (512, 512 | 4096) | (4096, 4096));
        if !sectors_fit {
            return Err(Error::usage(format!(
                "sectors of {} bytes on a medium of {}",
                self.logical_sector, self.physical_sector
            ))
            .hint("use 512/512, 512/4096 or 4096/4096"));
        }
        if self.virtual_size == 0 || !self.virtual_size.is_multiple_of(self.logical_sector.into()) {
            return Err(Error::usage(format!("a disk of {} bytes", self.virtual_size))
                .hint(format!("give a positive multiple of {}", self.logical_sector)));
        }
        let most = self.subformat.max_size();
        if self.virtual_size > most {
            return Err(Error::usage(format!(
                "a disk of {} bytes: {} holds at most {most}",
                self.virtual_size,
                self.subformat.name()
            ))
            .hint("choose vmfs, monolithicFlat or streamOptimized for larger disks"));
        }
        let grains = (8 << 10)..=(1 << 20);
        if !self.grain_size.is_power_of_two() || !grains.contains(&self.grain_size) {
            return Err(Error::usage(format!("a grain of {} bytes", self.grain_size))
                .hint("give a power of two from 8 KiB to 1 MiB; 64 KiB is what all programs use"));
        }
        if self.cid.is_some_and(|cid| cid >= UNSET_CID) {
            return Err(Error::usage(
                "content ids fffffffe and ffffffff have a meaning of their own",
            ));
        }
        Ok(())
    }

    fn template(&self, extents: Vec<String>) -> Template {
        Template {
            cid: self.cid.unwrap_or_else(new_cid),
            parent: None,
            create_type: self.subformat.create_type(),
            extents,
            adapter: self.adapter_type.in_descriptor().to_owned(),
            hardware: self.hw_version,
            sectors: self.virtual_size / SECTOR,
            uuid: Some(self.uuid.unwrap_or_else(new_uuid)),
            thin: self.subformat == (Subformat::Vmfs { thin: true }),
            sector_sizes: (self.physical_sector != 512)
                .then_some((self.logical_sector, self.physical_sector)),
            // Given both ids, the same options make the same bytes.
            long_id: match (self.cid, self.uuid) {
                (Some(_), Some(uuid)) => uuid.first_chunk().copied().unwrap_or_default(),
                _ => new_long_id(),
            },
        }
    }

    /// The files beside the descriptor, as name, extent line and bytes of the disk in them.
    fn extents(&self, main: &str) -> Vec<(String, String, u64)> {
        let split = if self.subformat.is_split() { SPLIT } else { self.virtual_size };
        let count = self.virtual_size.div_ceil(split);
        (0..count)
            .map(|index| {
                let len = split.min(self.virtual_size - index * split);
                let name = self.extent_name(main, index + 1);
                let line = self.extent_line(&name, len / SECTOR);
                (name, line, len)
            })
            .collect()
    }

    fn extent_name(&self, main: &str, number: u64) -> String {
        let stem = stem(main);
        match self.subformat {
            Subformat::MonolithicSparse | Subformat::StreamOptimized => main.to_owned(),
            Subformat::MonolithicFlat | Subformat::Vmfs { .. } => format!("{stem}-flat.vmdk"),
            Subformat::TwoGbMaxExtentSparse => format!("{stem}-s{number:03}.vmdk"),
            Subformat::TwoGbMaxExtentFlat => format!("{stem}-f{number:03}.vmdk"),
        }
    }

    fn extent_line(&self, name: &str, sectors: u64) -> String {
        match self.subformat {
            Subformat::MonolithicFlat | Subformat::TwoGbMaxExtentFlat => {
                format!("RW {sectors} FLAT \"{name}\" 0")
            }
            // qemu takes no offset here, and ESXi writes none.
            Subformat::Vmfs { .. } => format!("RW {sectors} VMFS \"{name}\""),
            _ => format!("RW {sectors} SPARSE \"{name}\""),
        }
    }
}

/// Makes a new image. Finished at once, it is an empty one.
///
/// # Errors
/// [`Usage`](vdisk_core::ErrorKind::Usage) for options that do not go together; those of `files`.
pub fn create(files: &mut dyn Files, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    options.check()?;
    let main = files.main_name().to_owned();
    check_name(&main)?;
    let extents = options.extents(&main);
    let text = options.template(extents.iter().map(|(_, line, _)| line.clone()).collect()).text();
    if options.subformat == Subformat::StreamOptimized {
        return Ok(Box::new(StreamWriter::new(files.create(&main)?, options, embedded(&text)?)?));
    }
    let mut parts = Vec::with_capacity(extents.len());
    for (name, _, len) in &extents {
        let store = files.create(name)?;
        parts.push(match options.subformat {
            Subformat::MonolithicSparse => Part::Sparse(SparseFile::new(
                store,
                options.grain_size,
                *len,
                Some(embedded(&text)?),
            )),
            Subformat::TwoGbMaxExtentSparse => {
                Part::Sparse(SparseFile::new(store, options.grain_size, *len, None))
            }
            _ => Part::flat(store, *len)?,
        });
    }
    let descriptor = match options.subformat {
        Subformat::MonolithicSparse => None,
        _ => Some((files.create(&main)?, text)),
    };
    // A flat file has no units of its own; pages are what a host file shares and leaves out.
    let unit = if options.subformat.is_sparse() { options.grain_size } else { 4096 };
    Ok(Box::new(PartsWriter::new(options.virtual_size, unit, parts, descriptor)))
}

/// Bytes that all files of a new image take together when `units_with_data` units (see
/// [`ImageWriter::unit`]) hold data. For `streamOptimized` the most it can be; for flat disks
/// their full length.
///
/// # Errors
/// As [`create`].
pub fn file_size(options: &CreateOptions, units_with_data: u64) -> Result<u64> {
    options.check()?;
    let extents = options.extents("disk.vmdk");
    let text = options.template(extents.iter().map(|(_, line, _)| line.clone()).collect()).text();
    let text = text.len() as u64;
    let sparse = |len, descriptor| Layout::new(len, options.grain_size, descriptor).overhead;
    let data = units_with_data.saturating_mul(options.grain_size);
    Ok(match options.subformat {
        Subformat::MonolithicSparse => sparse(options.virtual_size, true).saturating_add(data),
        Subformat::TwoGbMaxExtentSparse => {
            let tables: u64 = extents.iter().map(|(_, _, len)| sparse(*len, false)).sum();
            tables.saturating_add(data).saturating_add(text)
        }
        Subformat::StreamOptimized => stream::most_bytes(options, units_with_data),
        _ => options.virtual_size + text,
    })
}

/// The text as it stands inside a sparse file, padded with zeros.
fn embedded(text: &str) -> Result<Vec<u8>> {
    let room = DESCRIPTOR_SECTORS * SECTOR;
    if text.len() as u64 + DESCRIPTOR_SPARE > room {
        return Err(Error::usage("the names are too long for an embedded descriptor")
            .hint("use shorter file names"));
    }
    let mut bytes = text.as_bytes().to_vec();
    bytes.resize(crate::unit::to_usize(round_up(room, SECTOR)), 0);
    Ok(bytes)
}

/// A file's name without `.vmdk`.
fn stem(name: &str) -> &str {
    let cut = name.len().saturating_sub(5);
    match name.split_at_checked(cut) {
        Some((stem, end)) if end.eq_ignore_ascii_case(".vmdk") && !stem.is_empty() => stem,
        _ => name,
    }
}
