//! Hosted Sparse Extent header (VMware Virtual Disk Format 5.0, "Hosted Sparse Extent Header"):
//! the sector at the start of every `KDMV` file, and the footer of a stream.

use std::ops::Range;

use vdisk_core::{Error, Result, Store, StoreExt};
use zerocopy::little_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::unit::{SECTOR, sectors};

/// `KDMV`.
pub(crate) const MAGIC: [u8; 4] = *b"KDMV";
/// What open-vmdk writes as magic until the file is complete.
pub(crate) const UNFINISHED_MAGIC: [u8; 4] = *b"kdmv";
/// `gdOffset` of a stream whose footer says where the directory is.
pub(crate) const GD_AT_END: u64 = u64::MAX;
/// Entries of a grain table; the specification allows no other number.
pub(crate) const GTES: u64 = 512;
/// Byte offset of `uncleanShutdown` in the header.
pub(crate) const UNCLEAN_AT: u64 = 72;

/// Flag: the newline detection bytes are set.
pub(crate) const FLAG_NEWLINES: u32 = 1;
/// Flag: the redundant grain directory is maintained.
pub(crate) const FLAG_REDUNDANT: u32 = 1 << 1;
/// Flag: a grain table entry of 1 means a grain of zeros.
pub(crate) const FLAG_ZERO_GRAIN: u32 = 1 << 2;
/// Flag: grains are compressed.
pub(crate) const FLAG_COMPRESSED: u32 = 1 << 16;
/// Flag: markers stand before grains and metadata.
pub(crate) const FLAG_MARKERS: u32 = 1 << 17;

const STRUCTURE: &str = "VMDK sparse header";
const NEWLINES: [u8; 4] = *b"\n \r\n";
/// Largest grain taken, in sectors: 1 GiB.
const MOST_GRAIN: u64 = 1 << 21;

/// The header as it stands on disk, little-endian, sizes and offsets in sectors of 512 bytes.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawHeader {
    /// `magicNumber`.
    pub(crate) magic: [u8; 4],
    /// `version`: 1, 2 or 3.
    pub(crate) version: U32,
    /// `flags`.
    pub(crate) flags: U32,
    /// `capacity`.
    pub(crate) capacity: U64,
    /// `grainSize`.
    pub(crate) grain_size: U64,
    /// `descriptorOffset`; 0 where there is none.
    pub(crate) descriptor_offset: U64,
    /// `descriptorSize`.
    pub(crate) descriptor_size: U64,
    /// `numGTEsPerGT`: 512.
    pub(crate) gtes_per_gt: U32,
    /// `rgdOffset`: the redundant grain directory.
    pub(crate) rgd_offset: U64,
    /// `gdOffset`: the grain directory.
    pub(crate) gd_offset: U64,
    /// `overHead`: sectors of metadata, where the first grain stands.
    pub(crate) overhead: U64,
    /// `uncleanShutdown`.
    pub(crate) unclean: u8,
    /// `singleEndLineChar` to `doubleEndLineChar2`: show a transfer in text mode.
    pub(crate) newlines: [u8; 4],
    /// `compressAlgorithm`: 0 none, 1 deflate.
    pub(crate) compress: U16,
    /// Zeros.
    pub(crate) pad: [u8; 433],
}

const _: () = assert!(size_of::<RawHeader>() == 512);

impl RawHeader {
    /// A header with the fixed fields filled in.
    pub(crate) fn new(version: u32, flags: u32, capacity: u64, grain_size: u64) -> Self {
        Self {
            magic: MAGIC,
            version: version.into(),
            flags: (flags | FLAG_NEWLINES).into(),
            capacity: capacity.into(),
            grain_size: grain_size.into(),
            descriptor_offset: 0.into(),
            descriptor_size: 0.into(),
            gtes_per_gt: 512.into(),
            rgd_offset: 0.into(),
            gd_offset: 0.into(),
            overhead: 0.into(),
            unclean: 0,
            newlines: NEWLINES,
            compress: u16::from(flags & FLAG_COMPRESSED != 0).into(),
            pad: [0; 433],
        }
    }
}

/// The header, checked; everything in bytes.
#[derive(Clone, Debug)]
pub(crate) struct SparseHeader {
    /// As it stands on disk.
    pub(crate) raw: RawHeader,
    /// Guest bytes the tables cover.
    pub(crate) capacity: u64,
    /// Bytes of a grain; a power of two.
    pub(crate) grain: u64,
    /// Where the embedded descriptor stands.
    pub(crate) descriptor: Option<Range<u64>>,
    /// Where the grain directory stands; `None`: the footer says.
    pub(crate) directory: Option<u64>,
    /// Where the redundant grain directory stands, where it is maintained.
    pub(crate) redundant: Option<u64>,
    /// Bytes of metadata at the start: no grain stands before.
    pub(crate) overhead: u64,
}

impl SparseHeader {
    /// Reads and checks the header at byte `at` of `store`.
    pub(crate) fn read(store: &dyn Store, at: u64) -> Result<Self> {
        let mut sector = [0; 512];
        store.fetch(&mut sector, at, STRUCTURE)?;
        Self::parse(&sector, at).map_err(|e| e.in_file(store.name()))
    }

    /// Checks the header that stands at byte `at` of a file.
    pub(crate) fn parse(sector: &[u8; 512], at: u64) -> Result<Self> {
        let raw: RawHeader = zerocopy::transmute!(*sector);
        check_fixed(&raw, at)?;
        let bytes = |field: U64, what: &str| {
            sectors(field.get()).ok_or_else(|| {
                Error::corrupt(STRUCTURE, at, format!("the {what} of {field} sectors is no size"))
            })
        };
        let grain = raw.grain_size.get();
        if !grain.is_power_of_two() || grain > MOST_GRAIN {
            return Err(Error::corrupt(
                STRUCTURE,
                at + 20,
                format!("a grain of {grain} sectors: expected a power of two up to {MOST_GRAIN}"),
            ));
        }
        let flags = raw.flags.get();
        let directory = match raw.gd_offset.get() {
            GD_AT_END if flags & FLAG_COMPRESSED == 0 => {
                return Err(Error::corrupt(
                    STRUCTURE,
                    at + 56,
                    "the grain directory is said to be at the end, but grains are not compressed",
                ));
            }
            GD_AT_END => None,
            _ => Some(bytes(raw.gd_offset, "grain directory offset")?),
        };
        let descriptor = match raw.descriptor_offset.get() {
            0 => None,
            _ => {
                let start = bytes(raw.descriptor_offset, "descriptor offset")?;
                let len = bytes(raw.descriptor_size, "descriptor size")?;
                let end = start.checked_add(len).ok_or_else(|| {
                    Error::corrupt(STRUCTURE, at + 28, "the descriptor's end is no offset")
                })?;
                Some(start..end)
            }
        };
        let redundant = match flags & FLAG_REDUNDANT {
            0 => None,
            _ => Some(bytes(raw.rgd_offset, "redundant grain directory offset")?),
        };
        Ok(Self {
            capacity: bytes(raw.capacity, "capacity")?,
            grain: grain * SECTOR,
            descriptor,
            directory,
            redundant,
            overhead: bytes(raw.overhead, "overhead")?,
            raw,
        })
    }

    /// Whether grains are compressed.
    pub(crate) fn compressed(&self) -> bool {
        self.raw.flags.get() & FLAG_COMPRESSED != 0
    }

    /// Whether markers stand before grains.
    pub(crate) fn markers(&self) -> bool {
        self.raw.flags.get() & FLAG_MARKERS != 0
    }

    /// Whether an entry of 1 means a grain of zeros.
    pub(crate) fn zero_grain(&self) -> bool {
        self.raw.flags.get() & FLAG_ZERO_GRAIN != 0
    }

    /// Whether the file was not closed after the last writing.
    pub(crate) fn unclean(&self) -> bool {
        self.raw.unclean != 0
    }
}

/// The fields whose values do not depend on the disk.
fn check_fixed(raw: &RawHeader, at: u64) -> Result<()> {
    if raw.magic == UNFINISHED_MAGIC {
        return Err(Error::corrupt(
            STRUCTURE,
            at,
            "the program that wrote this file did not finish",
        )
        .hint("make the file again; its tables are not complete"));
    }
    if raw.magic != MAGIC {
        return Err(Error::corrupt(STRUCTURE, at, "the magic number KDMV is missing"));
    }
    let (version, flags) = (raw.version.get(), raw.flags.get());
    if !(1..=3).contains(&version) {
        return Err(
            Error::unsupported(format!("version {version} is not 1, 2 or 3")).at(STRUCTURE, at + 4)
        );
    }
    let unknown = flags & 0xFFFF_0000 & !(FLAG_COMPRESSED | FLAG_MARKERS);
    if unknown != 0 {
        return Err(Error::unsupported(format!("unknown incompatible flags {unknown:#010x}"))
            .at(STRUCTURE, at + 8));
    }
    if flags & FLAG_NEWLINES != 0 && raw.newlines != NEWLINES {
        return Err(Error::corrupt(
            STRUCTURE,
            at + 73,
            format!("the newline bytes are {:02x?}, expected {NEWLINES:02x?}", raw.newlines),
        )
        .hint("the file was transferred in text mode; copy it again in binary mode"));
    }
    if raw.gtes_per_gt.get() != 512 {
        return Err(Error::corrupt(
            STRUCTURE,
            at + 44,
            format!("grain tables of {} entries, expected 512", raw.gtes_per_gt),
        ));
    }
    let compressed = flags & FLAG_COMPRESSED != 0;
    match (compressed, raw.compress.get()) {
        (false, 0) | (true, 1) => Ok(()),
        (_, algorithm) => Err(Error::corrupt(
            STRUCTURE,
            at + 77,
            format!("compression algorithm {algorithm} with flags {flags:#x}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdisk_core::ErrorKind;

    fn valid() -> RawHeader {
        let mut raw = RawHeader::new(1, FLAG_REDUNDANT, 2048, 128);
        raw.rgd_offset = 21.into();
        raw.gd_offset = 26.into();
        raw.overhead = 128.into();
        raw
    }

    fn parse(raw: RawHeader) -> Result<SparseHeader> {
        SparseHeader::parse(&zerocopy::transmute!(raw), 0)
    }

    #[test]
    fn takes_what_is_valid() {
        let header = parse(valid()).unwrap();
        assert_eq!((header.capacity, header.grain), (1 << 20, 65536));
        assert_eq!(header.redundant, Some(21 * 512));
        assert_eq!(header.directory, Some(26 * 512));
    }

    #[test]
    fn refuses_what_is_not() {
        type Case = (fn(&mut RawHeader), ErrorKind, u64);
        let cases: [Case; 9] = [
            (|h| h.magic = *b"kdmv", ErrorKind::Corrupt, 0),
            (|h| h.version = 4.into(), ErrorKind::Unsupported, 4),
            (|h| h.flags = 0x0004_0003.into(), ErrorKind::Unsupported, 8),
            (|h| h.grain_size = 100.into(), ErrorKind::Corrupt, 20),
            (|h| h.grain_size = 0.into(), ErrorKind::Corrupt, 20),
            (|h| h.gtes_per_gt = 4096.into(), ErrorKind::Corrupt, 44),
            (|h| h.gd_offset = GD_AT_END.into(), ErrorKind::Corrupt, 56),
            (|h| h.newlines = *b"\n \n\n", ErrorKind::Corrupt, 73),
            (|h| h.compress = 1.into(), ErrorKind::Corrupt, 77),
        ];
        for (change, kind, offset) in cases {
            let mut raw = valid();
            change(&mut raw);
            let error = parse(raw).unwrap_err();
            assert_eq!((error.kind(), error.offset()), (kind, Some(offset)), "{error}");
        }
    }
}
