//! What a new image shall be, from `key=value` options.

use vdisk_core::{Error, Files, Format, HostFile, ImageWriter, ParentLink, Result};

use crate::raw::RawWriter;
use crate::size::parse_size;

/// One option of a format, for help.
#[derive(Clone, Copy, Debug)]
pub struct OptionHelp {
    /// The key.
    pub key: &'static str,
    /// What holds without it.
    pub default: &'static str,
    /// What it does.
    pub meaning: &'static str,
}

const fn option(key: &'static str, default: &'static str, meaning: &'static str) -> OptionHelp {
    OptionHelp { key, default, meaning }
}

const PREALLOCATION: OptionHelp = option(
    "preallocation",
    "off",
    "off, or falloc: have the host reserve all room (raw, fixed and flat images)",
);

const RAW: &[OptionHelp] = &[PREALLOCATION];

const VHD: &[OptionHelp] = &[
    option("subformat", "dynamic", "dynamic or fixed"),
    option("block_size", "2M", "bytes of a block of a dynamic image, a power of two"),
    option("force_size", "on", "accepted for qemu-img's sake: the size is always exact"),
    option("allow_large", "off", "on: a fixed image may exceed 2040 GiB (only Azure reads it)"),
    PREALLOCATION,
];

const VHDX: &[OptionHelp] = &[
    option("subformat", "dynamic", "dynamic or fixed"),
    option("block_size", "2M, above 4T 32M", "bytes of a block, a power of two from 1M to 256M"),
    option("logical_sector_size", "512", "512 or 4096; the source's when converting"),
    option("physical_sector_size", "4096", "512 or 4096"),
    option("log_size", "1M", "bytes of the log, a multiple of 1M"),
    PREALLOCATION,
];

const VMDK: &[OptionHelp] = &[
    option(
        "subformat",
        "monolithicSparse",
        "monolithicSparse, monolithicFlat, twoGbMaxExtentSparse, twoGbMaxExtentFlat, \
         streamOptimized, vmfs, vmfsThin (ESXi)",
    ),
    option("adapter_type", "lsilogic", "ide, buslogic, lsilogic, legacyESX or pvscsi"),
    option("hwversion", "4", "virtual hardware version in the descriptor"),
    option("grain_size", "64k", "bytes of a grain of a sparse image, a power of two"),
    option("compression_level", "4", "1 (fast) to 12 (small), for streamOptimized"),
    PREALLOCATION,
];

/// The options of a format.
#[must_use]
pub fn option_list(format: Format) -> &'static [OptionHelp] {
    match format {
        Format::Raw => RAW,
        Format::Vhd => VHD,
        Format::Vhdx => VHDX,
        Format::Vmdk => VMDK,
    }
}

/// The format that a name on the command line means.
#[must_use]
pub fn parse_format(name: &str) -> Option<Format> {
    match name.to_ascii_lowercase().as_str() {
        "raw" => Some(Format::Raw),
        "vhd" | "vpc" => Some(Format::Vhd),
        "vhdx" | "avhdx" => Some(Format::Vhdx),
        "vmdk" => Some(Format::Vmdk),
        _ => None,
    }
}

/// The format that an output's file name asks for by its ending.
#[must_use]
pub fn format_of_name(path: &std::path::Path) -> Option<Format> {
    match path.extension()?.to_str()?.to_ascii_lowercase().as_str() {
        "img" | "raw" | "bin" | "dd" => Some(Format::Raw),
        "vhd" | "avhd" => Some(Format::Vhd),
        "vhdx" | "avhdx" => Some(Format::Vhdx),
        "vmdk" => Some(Format::Vmdk),
        _ => None,
    }
}

/// A new image to be made: format, size, options.
#[derive(Clone, Debug)]
pub struct NewImage {
    spec: Spec,
    preallocate: bool,
}

#[derive(Clone, Debug)]
enum Spec {
    Raw(u64),
    Vhd(vdisk_vhd::CreateOptions),
    Vhdx(vdisk_vhdx::CreateOptions),
    Vmdk(vdisk_vmdk::CreateOptions),
}

impl NewImage {
    /// An image of `virtual_size` bytes with the format's defaults.
    #[must_use]
    pub fn new(format: Format, virtual_size: u64) -> Self {
        let spec = match format {
            Format::Raw => Spec::Raw(virtual_size),
            Format::Vhd => Spec::Vhd(vdisk_vhd::CreateOptions::new(virtual_size)),
            Format::Vhdx => Spec::Vhdx(vdisk_vhdx::CreateOptions::new(virtual_size)),
            Format::Vmdk => Spec::Vmdk(vdisk_vmdk::CreateOptions::new(virtual_size)),
        };
        Self { spec, preallocate: false }
    }

    /// The format.
    #[must_use]
    pub fn format(&self) -> Format {
        match self.spec {
            Spec::Raw(_) => Format::Raw,
            Spec::Vhd(_) => Format::Vhd,
            Spec::Vhdx(_) => Format::Vhdx,
            Spec::Vmdk(_) => Format::Vmdk,
        }
    }

    /// The virtual size in bytes.
    #[must_use]
    pub fn virtual_size(&self) -> u64 {
        match &self.spec {
            Spec::Raw(size) => *size,
            Spec::Vhd(options) => options.virtual_size,
            Spec::Vhdx(options) => options.virtual_size,
            Spec::Vmdk(options) => options.virtual_size,
        }
    }

    /// Rounds the virtual size up to what the format can express: whole sectors.
    pub fn round_up_size(&mut self) {
        let whole =
            |size: u64, sector: u64| size.max(1).checked_next_multiple_of(sector).unwrap_or(size);
        match &mut self.spec {
            Spec::Raw(_) => {}
            Spec::Vhd(options) => options.virtual_size = whole(options.virtual_size, 512),
            Spec::Vhdx(options) => {
                let sector = options.logical_sector.into();
                options.virtual_size = whole(options.virtual_size, sector);
            }
            Spec::Vmdk(options) => options.virtual_size = whole(options.virtual_size, 512),
        }
    }

    /// Takes over the sector sizes of a source, where the format has any; options set later win.
    pub fn set_sectors(&mut self, logical: u32, physical: u32) {
        if let Spec::Vhdx(options) = &mut self.spec {
            options.logical_sector = logical;
            options.physical_sector = physical.max(logical).max(options.physical_sector);
        }
    }

    /// Bytes of the sectors that a guest of the new image will address.
    #[must_use]
    pub fn logical_sector(&self) -> u32 {
        match &self.spec {
            Spec::Vhdx(options) => options.logical_sector,
            _ => 512,
        }
    }

    /// Sets options from a list `key=value,key=value`.
    ///
    /// # Errors
    /// [`Usage`](vdisk_core::ErrorKind::Usage) for an unknown key or value.
    pub fn set_list(&mut self, list: &str) -> Result<()> {
        for pair in list.split(',').filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, "on"));
            self.set(key, value)?;
        }
        Ok(())
    }

    /// Sets one option.
    ///
    /// # Errors
    /// [`Usage`](vdisk_core::ErrorKind::Usage) for an unknown key or value.
    pub fn set(&mut self, key: &str, value: &str) -> Result<()> {
        let format = self.format();
        let one = Pair { key, value };
        if key == "preallocation" {
            self.preallocate = match value {
                "off" => false,
                "falloc" | "full" => true,
                _ => return Err(one.unknown_value("off, falloc")),
            };
            return Ok(());
        }
        let known = match &mut self.spec {
            Spec::Raw(_) => false,
            Spec::Vhd(options) => set_vhd(options, one)?,
            Spec::Vhdx(options) => set_vhdx(options, one)?,
            Spec::Vmdk(options) => set_vmdk(options, one)?,
        };
        if known {
            return Ok(());
        }
        let keys: Vec<&str> = option_list(format).iter().map(|option| option.key).collect();
        Err(Error::usage(format!("{format} has no option {key:?}"))
            .hint(format!("known options: {}", keys.join(", "))))
    }

    /// Creates the image's files; the writer takes the content.
    ///
    /// # Errors
    /// [`Usage`](vdisk_core::ErrorKind::Usage) for options that do not go together; the host's.
    pub fn create(&self, files: &mut dyn Files) -> Result<Box<dyn ImageWriter>> {
        let mut writer: Box<dyn ImageWriter> = match &self.spec {
            Spec::Raw(size) => Box::new(RawWriter::create(files, *size)?),
            Spec::Vhd(options) => vdisk_vhd::create(files, options)?,
            Spec::Vhdx(options) => vdisk_vhdx::create(files, options)?,
            Spec::Vmdk(options) => vdisk_vmdk::create(files, options)?,
        };
        if self.preallocate {
            self.reserve_room(&mut *writer)?;
        }
        Ok(writer)
    }

    /// Has the host reserve the place of every byte, which flat images know beforehand.
    fn reserve_room(&self, writer: &mut dyn ImageWriter) -> Result<()> {
        if !self.is_flat() {
            return Err(Error::usage("only raw, fixed and flat images can be preallocated")
                .hint("add subformat=fixed (vhd, vhdx) or a flat subformat (vmdk)"));
        }
        let mut at = 0;
        while at < writer.virtual_size() {
            let place = writer.place(at..writer.virtual_size())?;
            if let Some(file) = place.store.host() {
                HostFile::allocate(file, place.at, place.len)
                    .map_err(|e| Error::io(e, "reserve room").in_file(file.path()))?;
            }
            at += place.len;
        }
        Ok(())
    }

    fn is_flat(&self) -> bool {
        use vdisk_vmdk::Subformat as Vmdk;
        match &self.spec {
            Spec::Raw(_) => true,
            Spec::Vhd(options) => options.subformat == vdisk_vhd::Subformat::Fixed,
            Spec::Vhdx(options) => options.fixed,
            Spec::Vmdk(options) => matches!(
                options.subformat,
                Vmdk::MonolithicFlat | Vmdk::TwoGbMaxExtentFlat | Vmdk::Vmfs { .. }
            ),
        }
    }

    /// Bytes of all files of the image when `units` allocation units hold data.
    ///
    /// # Errors
    /// As [`NewImage::create`].
    pub fn file_size(&self, units: u64) -> Result<u64> {
        match &self.spec {
            Spec::Raw(size) => Ok(*size),
            Spec::Vhd(options) => vdisk_vhd::file_size(options, units),
            Spec::Vhdx(options) => vdisk_vhdx::file_size(options, units),
            Spec::Vmdk(options) => vdisk_vmdk::file_size(options, units),
        }
    }
}

/// Writes an empty differencing image of `format` on `parent`.
pub(crate) fn create_child(
    files: &mut dyn Files,
    format: Format,
    parent: &ParentLink,
    list: &[String],
) -> Result<()> {
    let mut block_size = None;
    for pair in list.iter().flat_map(|list| list.split(',')).filter(|pair| !pair.is_empty()) {
        let one = pair.split_once('=').map(|(key, value)| Pair { key, value });
        match one {
            Some(one) if one.key == "block_size" => {
                block_size = Some(one.size()?);
            }
            _ => {
                return Err(Error::usage(format!("a differencing image has no option {pair:?}"))
                    .hint("known options: block_size (vhd, vhdx)"));
            }
        }
    }
    let small = |size: u64| {
        u32::try_from(size)
            .map_err(|_| Error::usage(format!("a block of {size} bytes is too large")))
    };
    match format {
        Format::Raw => Err(Error::usage("a raw image cannot have a parent")
            .hint("choose -f vhd, vhdx or vmdk, the parent's format")),
        Format::Vhd => {
            let mut options = vdisk_vhd::ChildOptions::new(parent);
            if let Some(size) = block_size {
                options.block_size = small(size)?;
            }
            vdisk_vhd::create_child(files, &options)
        }
        Format::Vhdx => {
            let mut options = vdisk_vhdx::ChildOptions::new(parent);
            if let Some(size) = block_size {
                options.block_size = size;
            }
            vdisk_vhdx::create_child(files, &options)
        }
        Format::Vmdk if block_size.is_some() => {
            Err(Error::usage("the grains of a differencing VMDK are always 64 KiB"))
        }
        Format::Vmdk => vdisk_vmdk::create_child(files, &vdisk_vmdk::ChildOptions::new(parent)),
    }
}

#[derive(Clone, Copy)]
struct Pair<'a> {
    key: &'a str,
    value: &'a str,
}

impl Pair<'_> {
    fn unknown_value(self, known: &str) -> Error {
        Error::usage(format!("{:?} is no value of {}", self.value, self.key))
            .hint(format!("known values: {known}"))
    }

    fn size(self) -> Result<u64> {
        parse_size(self.value)
    }

    fn small_size(self) -> Result<u32> {
        u32::try_from(self.size()?).map_err(|_| self.unknown_value("sizes below 4G"))
    }

    fn number(self) -> Result<u32> {
        self.value.parse().map_err(|_| self.unknown_value("whole numbers"))
    }

    fn switch(self) -> Result<bool> {
        match self.value {
            "on" | "true" | "yes" | "1" => Ok(true),
            "off" | "false" | "no" | "0" => Ok(false),
            _ => Err(self.unknown_value("on, off")),
        }
    }
}

fn set_vhd(options: &mut vdisk_vhd::CreateOptions, one: Pair<'_>) -> Result<bool> {
    match one.key {
        "subformat" => {
            options.subformat = match one.value {
                "dynamic" => vdisk_vhd::Subformat::Dynamic,
                "fixed" => vdisk_vhd::Subformat::Fixed,
                _ => return Err(one.unknown_value("dynamic, fixed")),
            }
        }
        "block_size" => options.block_size = one.small_size()?,
        "allow_large" => options.allow_large = one.switch()?,
        "force_size" => {
            one.switch()?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_vhdx(options: &mut vdisk_vhdx::CreateOptions, one: Pair<'_>) -> Result<bool> {
    match one.key {
        "subformat" => {
            options.fixed = match one.value {
                "dynamic" => false,
                "fixed" => true,
                _ => return Err(one.unknown_value("dynamic, fixed")),
            }
        }
        "block_size" => options.block_size = one.size()?,
        "logical_sector_size" => {
            options.logical_sector = one.small_size()?;
            options.physical_sector = options.physical_sector.max(options.logical_sector);
        }
        "physical_sector_size" => options.physical_sector = one.small_size()?,
        "log_size" => options.log_size = one.small_size()?,
        _ => return Ok(false),
    }
    Ok(true)
}

fn set_vmdk(options: &mut vdisk_vmdk::CreateOptions, one: Pair<'_>) -> Result<bool> {
    use vdisk_vmdk::{AdapterType, Subformat};
    match one.key {
        "subformat" => {
            let known = || Subformat::ALL.map(Subformat::name).join(", ");
            let named = Subformat::from_name(one.value);
            options.subformat = named.ok_or_else(|| one.unknown_value(&known()))?;
        }
        "adapter_type" => {
            let known = || AdapterType::ALL.map(AdapterType::name).join(", ");
            let named = AdapterType::from_name(one.value);
            options.adapter_type = named.ok_or_else(|| one.unknown_value(&known()))?;
        }
        "hwversion" => options.hw_version = one.number()?,
        "grain_size" => options.grain_size = one.size()?,
        "compression_level" => {
            let level = u8::try_from(one.number()?).ok().filter(|level| (1..=12).contains(level));
            options.compression_level = level.ok_or_else(|| one.unknown_value("1 to 12"))?;
        }
        _ => return Ok(false),
    }
    Ok(true)
}
