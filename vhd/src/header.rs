//! The dynamic header: where the block table stands and how large blocks are.
//!
//! VHD 1.0, "Dynamic Disk Header Format". All fields are big-endian.

use uuid::Uuid;
use vdisk_core::{Error, Result, Store, StoreExt};
use zerocopy::byteorder::big_endian::{U16, U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::footer::{NO_OFFSET, checksum, seal};
use crate::locator::{LOCATORS, RawLocator};
use crate::shape::{SECTOR, Shape};

/// Bytes of a dynamic header.
pub(crate) const HEADER: u64 = 1024;
/// The first bytes of every dynamic header.
pub(crate) const COOKIE: &[u8; 8] = b"cxsparse";
/// UTF-16 units of the parent's name.
pub(crate) const NAME_UNITS: usize = 256;

const WHAT: &str = "VHD dynamic header";
/// Where the checksum field stands in a header.
pub(crate) const CHECKSUM_AT: usize = 36;

/// The header as it stands in the file; names and order are the specification's.
#[derive(Clone, Debug, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
struct RawHeader {
    cookie: [u8; 8],
    data_offset: U64,
    table_offset: U64,
    header_version: U32,
    max_table_entries: U32,
    block_size: U32,
    checksum: U32,
    parent_unique_id: [u8; 16],
    parent_time_stamp: U32,
    reserved: U32,
    parent_unicode_name: [U16; NAME_UNITS],
    parent_locators: [RawLocator; LOCATORS],
    reserved2: [u8; 256],
}

const _: () = assert!(size_of::<RawHeader>() == 1024);

/// What a child says of its parent in the header.
#[derive(Clone, Debug)]
pub(crate) struct ParentFields {
    /// *Parent Unique ID*.
    pub(crate) unique_id: Uuid,
    /// *Parent Time Stamp*: when the parent was last changed.
    pub(crate) time_stamp: u32,
    /// *Parent Unicode Name*, UTF-16 units, at most 256.
    pub(crate) name: Vec<u16>,
    /// *Parent Locator Entries*, at most 8.
    pub(crate) locators: Vec<RawLocator>,
}

/// A dynamic header whose fields make sense.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    raw: RawHeader,
    /// Byte offset in the file.
    pub(crate) at: u64,
    /// The lengths of a block.
    pub(crate) shape: Shape,
    /// Whether the checksum fits; many programs never look at it.
    pub(crate) checksum_ok: bool,
}

impl Header {
    /// A new header at byte `at`, for `entries` blocks whose table stands at `table_at`.
    pub(crate) fn new(at: u64, table_at: u64, entries: u32, shape: Shape) -> Self {
        let block_size = u32::try_from(shape.block).unwrap_or_default();
        let raw = RawHeader {
            cookie: *COOKIE,
            data_offset: NO_OFFSET.into(),
            table_offset: table_at.into(),
            header_version: 0x0001_0000.into(),
            max_table_entries: entries.into(),
            block_size: block_size.into(),
            checksum: 0.into(),
            parent_unique_id: [0; 16],
            parent_time_stamp: 0.into(),
            reserved: 0.into(),
            parent_unicode_name: [0.into(); NAME_UNITS],
            parent_locators: [RawLocator::default(); LOCATORS],
            reserved2: [0; 256],
        };
        Self { raw, at, shape, checksum_ok: true }
    }

    /// Reads the header at byte `at`.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where a field makes no sense,
    /// [`Truncated`](vdisk_core::ErrorKind::Truncated) where the file ends before it,
    /// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for another version; the host's.
    pub(crate) fn read(store: &dyn Store, at: u64) -> Result<Self> {
        if !at.is_multiple_of(SECTOR) || !(SECTOR..=i64::MAX as u64 - HEADER).contains(&at) {
            return Err(Error::corrupt(
                WHAT,
                at,
                "the footer places it off a sector's start, over the footer's copy or outside",
            )
            .in_file(store.name()));
        }
        let mut bytes = [0; 1024];
        store.fetch(&mut bytes, at, WHAT)?;
        Self::parse(&bytes, at).map_err(|error| error.in_file(store.name()))
    }

    fn parse(bytes: &[u8; 1024], at: u64) -> Result<Self> {
        let corrupt = |message: String| Error::corrupt(WHAT, at, message);
        let raw = RawHeader::read_from_bytes(bytes)
            .map_err(|_| Error::internal("a dynamic header of another length"))?;
        if raw.cookie != *COOKIE {
            return Err(corrupt(format!("begins with {:02x?}, not \"cxsparse\"", raw.cookie)));
        }
        if raw.header_version.get() >> 16 != 1 {
            let version = raw.header_version.get();
            return Err(Error::unsupported(format!("header version {version:#x}")).at(WHAT, at));
        }
        let block_size = raw.block_size.get();
        let shape = Shape::new(block_size).ok_or_else(|| {
            corrupt(format!("block size {block_size} is no power of two from 512 to 256 MiB"))
        })?;
        let table_at = raw.table_offset.get();
        if !table_at.is_multiple_of(SECTOR) {
            return Err(corrupt(format!("block table at {table_at}, off a sector's start")));
        }
        let checksum_ok = raw.checksum.get() == checksum(bytes, CHECKSUM_AT);
        Ok(Self { raw, at, shape, checksum_ok })
    }

    /// The bytes to write; the checksum is right.
    pub(crate) fn to_bytes(&self) -> [u8; 1024] {
        let mut bytes: [u8; 1024] = zerocopy::transmute!(self.raw.clone());
        seal(&mut bytes, CHECKSUM_AT);
        bytes
    }

    /// *Table Offset*: byte offset of the block table.
    pub(crate) fn table_at(&self) -> u64 {
        self.raw.table_offset.get()
    }

    /// *Max Table Entries*.
    pub(crate) fn entries(&self) -> u32 {
        self.raw.max_table_entries.get()
    }

    /// Changes the number of table entries. Only bytes of the header's first sector change.
    pub(crate) fn set_entries(&mut self, entries: u32) {
        self.raw.max_table_entries = entries.into();
    }

    /// *Header Version*: major and minor number.
    pub(crate) fn version(&self) -> (u32, u32) {
        let version = self.raw.header_version.get();
        (version >> 16, version & 0xFFFF)
    }

    /// What it says of the parent.
    pub(crate) fn parent(&self) -> ParentFields {
        ParentFields {
            unique_id: Uuid::from_bytes(self.raw.parent_unique_id),
            time_stamp: self.raw.parent_time_stamp.get(),
            name: self.raw.parent_unicode_name.iter().map(|unit| unit.get()).collect(),
            locators: self.raw.parent_locators.to_vec(),
        }
    }

    /// Whether all that means nothing in a disk without parent is as a writer leaves it.
    pub(crate) fn is_plain(&self) -> bool {
        let bytes = self.to_bytes();
        let unused = bytes.get(40..).unwrap_or_default();
        self.raw.data_offset == NO_OFFSET && unused.iter().all(|byte| *byte == 0)
    }

    /// Puts a parent in; nothing of another one stays.
    pub(crate) fn set_parent(&mut self, parent: &ParentFields) {
        self.raw.parent_unique_id = parent.unique_id.into_bytes();
        self.raw.parent_time_stamp = parent.time_stamp.into();
        self.raw.parent_unicode_name = [0.into(); NAME_UNITS];
        for (field, unit) in self.raw.parent_unicode_name.iter_mut().zip(&parent.name) {
            *field = (*unit).into();
        }
        self.raw.parent_locators = [RawLocator::default(); LOCATORS];
        for (field, locator) in self.raw.parent_locators.iter_mut().zip(&parent.locators) {
            *field = *locator;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn goes_round_and_refuses_nonsense() {
        let shape = Shape::new(2 << 20).unwrap();
        let bytes = Header::new(512, 1536, 77, shape).to_bytes();
        let header = Header::parse(&bytes, 512).unwrap();
        assert_eq!((header.table_at(), header.entries(), header.shape), (1536, 77, shape));
        assert!(header.checksum_ok);
        for (at, value) in [(0, 0), (25, 2), (33, 0x21), (32, 0xFF), (23, 1)] {
            let mut bad = bytes;
            bad[at] = value;
            let error = Header::parse(&bad, 512).unwrap_err();
            assert_eq!(error.offset(), Some(512), "byte {at}");
        }
        let mut odd = bytes;
        odd[300] ^= 1;
        assert!(!Header::parse(&odd, 512).unwrap().checksum_ok);
    }
}
