//! The batmap: which blocks are full. No part of the specification: tapdisk (XenServer, XCP-ng) has
//! it in the images it makes, and refuses them with a wrong one.
//!
//! Its header stands right behind the block table and says where the map is, whose bytes have a
//! checksum. A bit that is not set says nothing, so a map of zeros is always right.

use std::ops::Range;

use vdisk_core::{Result, Store, StoreExt};
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, KnownLayout, Unaligned};

use crate::footer::Footer;
use crate::shape::SECTOR;

const WHAT: &str = "VHD batmap";

/// The start of the header, as it stands in the file.
#[derive(FromBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct RawHeader {
    cookie: [u8; 8],
    offset: U64,
    sectors: U32,
    version: U32,
    checksum: U32,
}

const _: () = assert!(size_of::<RawHeader>() == 28);

/// Where the checksum field stands in a header.
const CHECKSUM_AT: u64 = 24;

/// Where the batmap of an image stands.
#[derive(Clone, Debug)]
pub(crate) struct Batmap {
    header: Range<u64>,
    map: Range<u64>,
}

impl Batmap {
    /// The batmap behind the block table, in a file whose blocks end at byte `end`, where no other
    /// structure is; `others` are those, the table last.
    pub(crate) fn find(
        store: &dyn Store,
        footer: &Footer,
        others: &[Range<u64>],
        end: u64,
    ) -> Result<Option<Self>> {
        let at = others.last().map_or(end, |table| table.end);
        let header = at..at.saturating_add(SECTOR);
        if !footer.creator_application().starts_with(b"tap") || header.end > end {
            return Ok(None);
        }
        let mut bytes = [0; size_of::<RawHeader>()];
        store.fetch(&mut bytes, at, WHAT)?;
        let raw = RawHeader::read_from_bytes(&bytes).ok();
        let Some(raw) = raw.filter(|raw| raw.cookie == *b"tdbatmap") else { return Ok(None) };
        let start = raw.offset.get();
        let map = start..start.saturating_add(u64::from(raw.sectors.get()) * SECTOR);
        let taken = others.iter().chain([&header]).any(|other| overlap(other, &map));
        Ok((map.end <= end && !taken).then_some(Self { header, map }))
    }

    /// Header and map.
    pub(crate) fn ranges(&self) -> [&Range<u64>; 2] {
        [&self.header, &self.map]
    }

    /// Has the map say nothing of any block; durable when it returns.
    pub(crate) fn forget(&self, store: &dyn Store) -> Result<()> {
        store.clear(self.map.start, self.map.end - self.map.start, WHAT)?;
        store.flush()?;
        // The one's complement of the sum of the map's bytes.
        store.put(&[0xFF; 4], self.header.start + CHECKSUM_AT, WHAT)?;
        store.flush()
    }
}

/// Whether two ranges share a byte.
pub(crate) fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
