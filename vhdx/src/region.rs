//! The region table (\[MS-VHDX\] 2.2.3): where the BAT and the metadata stand. Kept twice.

use std::ops::Range;

use uuid::{Uuid, uuid};
use vdisk_core::{Error, ErrorKind, Result, Store};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc;
use crate::header;
use crate::{KIB, MIB};

/// Where the two copies stand.
pub(crate) const COPIES: [u64; 2] = [192 * KIB, 256 * KIB];
/// Bytes of a copy.
pub(crate) const TABLE_BYTES: usize = 65536;
/// Most entries of a table.
const MAX_ENTRIES: usize = 2047;
/// The block allocation table's region.
pub(crate) const BAT: Uuid = uuid!("2dc27766-f623-4200-9d64-115e9bfd4a08");
/// The metadata region.
pub(crate) const METADATA: Uuid = uuid!("8b7ca206-4790-4b9a-b8fe-575f050f886e");
const WHAT: &str = "VHDX region table";

/// The start of the table (2.2.3.1).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TableHead {
    signature: [u8; 4],
    checksum: U32,
    entry_count: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<TableHead>() == 16);

/// One entry (2.2.3.2).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Entry {
    guid: [u8; 16],
    file_offset: U64,
    length: U32,
    required: U32,
}
const _: () = assert!(size_of::<Entry>() == 32);

/// A region.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Region {
    /// What it is.
    pub(crate) guid: Uuid,
    /// Byte offset in the file.
    pub(crate) offset: u64,
    /// Bytes.
    pub(crate) length: u64,
    /// Whether who does not know it must not open the file.
    pub(crate) required: bool,
}

impl Region {
    /// Where it stands.
    pub(crate) fn range(&self) -> Range<u64> {
        self.offset..self.offset.saturating_add(self.length)
    }
}

/// The regions of a file, and the state of the table's two copies.
#[derive(Clone, Debug)]
pub(crate) struct Regions {
    /// All regions, the unknown ones too.
    pub(crate) list: Vec<Region>,
    /// What is wrong with each copy.
    pub(crate) faults: [Option<String>; 2],
    /// Whether both copies hold the same bytes.
    pub(crate) identical: bool,
    /// The BAT.
    pub(crate) bat: Region,
    /// The metadata.
    pub(crate) metadata: Region,
}

impl Regions {
    /// Reads both copies, and takes the first valid one.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where neither is valid or the regions break the rules,
    /// [`ErrorKind::Unsupported`] for an unknown region that is required.
    pub(crate) fn read(store: &dyn Store, log: Range<u64>, file_len: u64) -> Result<Self> {
        let raw = COPIES.map(|at| {
            let mut table = vec![0; TABLE_BYTES];
            store.read_exact_at(&mut table, at).map(|()| table)
        });
        let identical = matches!(&raw, [Ok(first), Ok(second)] if first == second);
        let parsed = raw.map(|table| match table {
            Ok(table) => parse(&table),
            Err(error) => Err(format!("cannot be read: {error}")),
        });
        let faults = parsed.each_ref().map(|table| table.as_ref().err().cloned());
        let (at, list) = match parsed {
            [Ok(list), _] => (192 * KIB, list),
            [_, Ok(list)] => (256 * KIB, list),
            [Err(first), Err(second)] => {
                return Err(Error::corrupt(
                    WHAT,
                    192 * KIB,
                    format!("neither copy is valid: first {first}; second {second}"),
                ));
            }
        };
        check(&list, log, at)?;
        let bat = known(&list, BAT, "BAT", at, file_len)?;
        let metadata = known(&list, METADATA, "metadata", at, file_len)?;
        Ok(Self { list, faults, identical, bat, metadata })
    }
}

/// The 64 KiB of a copy.
pub(crate) fn encode(list: &[Region]) -> Vec<u8> {
    let count = u32::try_from(list.len()).unwrap_or_default();
    let head = TableHead {
        signature: *b"regi",
        checksum: U32::ZERO,
        entry_count: count.into(),
        reserved: U32::ZERO,
    };
    let mut table = head.as_bytes().to_vec();
    for region in list {
        let entry = Entry {
            guid: region.guid.to_bytes_le(),
            file_offset: region.offset.into(),
            length: u32::try_from(region.length).unwrap_or(u32::MAX).into(),
            required: u32::from(region.required).into(),
        };
        table.extend_from_slice(entry.as_bytes());
    }
    table.resize(TABLE_BYTES, 0);
    crc::seal(&mut table);
    table
}

fn parse(table: &[u8]) -> Result<Vec<Region>, String> {
    let (head, entries) = TableHead::ref_from_prefix(table).map_err(|_| "too short".to_owned())?;
    if &head.signature != b"regi" {
        return Err(format!("signature {:02x?}, expected \"regi\"", head.signature));
    }
    let (found, expected) = (head.checksum.get(), crc::checksum(table));
    if found != expected {
        return Err(format!("checksum {found:#010x}, expected {expected:#010x}"));
    }
    let count = usize::try_from(head.entry_count.get()).unwrap_or(usize::MAX);
    if count > MAX_ENTRIES {
        return Err(format!("{count} entries, expected at most {MAX_ENTRIES}"));
    }
    let (entries, _) = <[Entry]>::ref_from_prefix_with_elems(entries, count)
        .map_err(|_| format!("{count} entries do not fit"))?;
    Ok(entries
        .iter()
        .map(|entry| Region {
            guid: Uuid::from_bytes_le(entry.guid),
            offset: entry.file_offset.get(),
            length: entry.length.get().into(),
            required: entry.required.get() & 1 != 0,
        })
        .collect())
}

/// The rules that hold between regions. The Required bit of the known ones is not demanded,
/// because qemu does not set it.
fn check(list: &[Region], log: Range<u64>, at: u64) -> Result<()> {
    let bad = |message: String| Err(Error::corrupt(WHAT, at, message));
    let mut ranges = vec![0..header::AREA, log];
    for region in list {
        let Region { guid, offset, length, .. } = region;
        if offset % MIB != 0 || length % MIB != 0 || *length == 0 {
            return bad(format!(
                "region {guid} of {length} bytes at {offset}, expected multiples of 1 MiB"
            ));
        }
        if offset.checked_add(*length).is_none() {
            return bad(format!("region {guid} at {offset} lies beyond any file"));
        }
        if region.required && ![BAT, METADATA].contains(guid) {
            return Err(
                Error::unsupported(format!("region {guid} is required but not known")).at(WHAT, at)
            );
        }
        ranges.push(region.range());
    }
    ranges.sort_by_key(|range| range.start);
    for (one, next) in ranges.iter().zip(ranges.iter().skip(1)) {
        if next.start < one.end && !next.is_empty() {
            return bad(format!(
                "bytes from {} belong to two of: header area, log, regions",
                next.start
            ));
        }
    }
    let mut guids: Vec<Uuid> = list.iter().map(|region| region.guid).collect();
    guids.sort_unstable();
    match guids.iter().zip(guids.iter().skip(1)).find(|(one, next)| one == next) {
        Some((guid, _)) => bad(format!("region {guid} appears twice")),
        None => Ok(()),
    }
}

fn known(list: &[Region], guid: Uuid, name: &str, at: u64, file_len: u64) -> Result<Region> {
    let region = list
        .iter()
        .find(|region| region.guid == guid)
        .ok_or_else(|| Error::corrupt(WHAT, at, format!("no {name} region")))?;
    if region.range().end > file_len {
        return Err(Error::new(
            ErrorKind::Truncated,
            format!(
                "{name} region of {} bytes at {}, but the file has {file_len} bytes",
                region.length, region.offset
            ),
        )
        .at(WHAT, at));
    }
    Ok(region.clone())
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdisk_core::MemStore;

    fn regions() -> Vec<Region> {
        vec![
            Region { guid: METADATA, offset: 2 * MIB, length: MIB, required: true },
            Region { guid: BAT, offset: 3 * MIB, length: MIB, required: false },
        ]
    }

    fn read(list: &[Region], file_len: u64) -> Result<Regions> {
        let store = MemStore::new("t");
        store.write_all_at(&encode(list), COPIES[0]).unwrap();
        store.write_all_at(&encode(list), COPIES[1]).unwrap();
        Regions::read(&store, MIB..2 * MIB, file_len)
    }

    #[test]
    fn reads_what_it_writes() {
        let read = read(&regions(), 4 * MIB).unwrap();
        assert_eq!(read.list, regions());
        assert!(read.identical && read.faults == [None, None]);
        assert_eq!(read.bat.offset, 3 * MIB);
    }

    #[test]
    fn refuses_overlaps_duplicates_and_strangers() {
        let with = |change: &dyn Fn(&mut Vec<Region>)| {
            let mut list = regions();
            change(&mut list);
            read(&list, 16 * MIB).unwrap_err().kind()
        };
        let corrupt = ErrorKind::Corrupt;
        assert_eq!(with(&|list| list[0].offset = MIB), corrupt);
        assert_eq!(with(&|list| list[0].offset = 0), corrupt);
        assert_eq!(with(&|list| list[0].offset = 3 * MIB), corrupt);
        assert_eq!(with(&|list| list[0].offset += 512), corrupt);
        assert_eq!(with(&|list| list[0].length = 0), corrupt);
        assert_eq!(with(&|list| list[0].offset = u64::MAX - MIB + 1), corrupt);
        assert_eq!(with(&|list| list[0].guid = BAT), corrupt);
        assert_eq!(with(&|list| list.truncate(1)), corrupt);
        assert_eq!(with(&|list| list[1].offset = 16 * MIB), ErrorKind::Truncated);
        let stranger = Region { guid: Uuid::nil(), offset: 8 * MIB, length: MIB, required: true };
        assert_eq!(with(&|list| list.push(stranger.clone())), ErrorKind::Unsupported);
    }

    #[test]
    fn either_copy_will_do() {
        let store = MemStore::new("t");
        store.write_all_at(&encode(&regions()), COPIES[1]).unwrap();
        let read = Regions::read(&store, MIB..2 * MIB, 4 * MIB).unwrap();
        assert!(read.faults[0].is_some() && !read.identical);
    }
}
