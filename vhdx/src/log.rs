//! The log's entries (\[MS-VHDX\] 2.3.1): reading and writing one. What they mean is `replay`.

use std::collections::BTreeMap;
use std::ops::Range;

use uuid::Uuid;
use vdisk_core::{Error, Result, Store, StoreExt};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::crc::{self, Crc};

const SECTOR_BYTES: usize = 4096;
/// Bytes of a log sector, and of the file pages it speaks of.
pub(crate) const SECTOR: u64 = SECTOR_BYTES as u64;
/// Most descriptors of an entry that are read: a log of 1 GiB full of pages has no more.
pub(crate) const MAX_DESCRIPTORS: u64 = 1 << 18;
const HEAD_BYTES: u64 = 64;
const DESCRIPTOR_BYTES: u64 = 32;
const WHAT: &str = "VHDX log";

/// A page of the file.
pub(crate) type Page = Box<[u8; SECTOR_BYTES]>;

/// The start of an entry (2.3.1.1).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct EntryHead {
    signature: [u8; 4],
    checksum: U32,
    entry_length: U32,
    tail: U32,
    sequence_number: U64,
    descriptor_count: U32,
    reserved: U32,
    log_guid: [u8; 16],
    flushed_file_offset: U64,
    last_file_offset: U64,
}
const _: () = assert!(size_of::<EntryHead>() as u64 == HEAD_BYTES);

/// A descriptor (2.3.1.2 and 2.3.1.3): of zeros (`detail` is their length), or of a data sector
/// (`trailing` and `detail` are the page's last 4 and first 8 bytes).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DiskDescriptor {
    signature: [u8; 4],
    trailing: [u8; 4],
    detail: [u8; 8],
    file_offset: U64,
    sequence_number: U64,
}
const _: () = assert!(size_of::<DiskDescriptor>() as u64 == DESCRIPTOR_BYTES);

/// A data sector (2.3.1.4): the middle of a page.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DataSector {
    signature: [u8; 4],
    sequence_high: U32,
    middle: [u8; 4084],
    sequence_low: U32,
}
const _: () = assert!(size_of::<DataSector>() == SECTOR_BYTES);

/// What an entry does to the file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Descriptor {
    /// These bytes become zero.
    Zero(Range<u64>),
    /// The page at `offset` is replaced.
    Page {
        /// Byte offset in the file.
        offset: u64,
        /// The page's first 8 bytes.
        leading: [u8; 8],
        /// The page's last 4 bytes.
        trailing: [u8; 4],
        /// Where in the log the sector with the rest stands.
        sector: u64,
    },
}

impl Descriptor {
    /// The bytes of the file that it changes.
    pub(crate) fn range(&self) -> Range<u64> {
        match self {
            Self::Zero(range) => range.clone(),
            Self::Page { offset, .. } => *offset..offset.saturating_add(SECTOR),
        }
    }
}

/// A valid entry.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    /// Where it starts in the log.
    pub(crate) at: u64,
    /// Bytes.
    pub(crate) length: u64,
    /// Where the oldest entry that still counted started when this one was written.
    pub(crate) tail: u64,
    /// Its number.
    pub(crate) sequence: u64,
    /// Bytes of the file that were durable when it was written.
    pub(crate) flushed: u64,
    /// Bytes the file needs.
    pub(crate) last: u64,
    /// What it does.
    pub(crate) descriptors: Vec<Descriptor>,
}

/// The log: a ring of sectors. Positions in it are bytes from its start.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ring<'a> {
    /// The file.
    pub(crate) store: &'a dyn Store,
    /// Byte offset of the log in it.
    pub(crate) offset: u64,
    /// Bytes of the log; not 0.
    pub(crate) length: u64,
}

impl Ring<'_> {
    fn sector(&self, at: u64) -> Result<[u8; SECTOR_BYTES]> {
        let mut sector = [0; SECTOR_BYTES];
        self.store.fetch(&mut sector, self.offset + at % self.length, WHAT)?;
        Ok(sector)
    }

    /// The entry that starts at `at`, if it is valid and of this log. Stops at the first sector
    /// that does not fit, so that false starts cost little.
    ///
    /// # Errors
    /// The host's; [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where it has too many
    /// descriptors.
    pub(crate) fn entry(&self, at: u64, guid: Uuid) -> Result<Option<Entry>> {
        let first = self.sector(at)?;
        let Some(shape) = Shape::parse(&first, guid, self.length) else { return Ok(None) };
        if shape.count > MAX_DESCRIPTORS {
            return Err(Error::unsupported(format!(
                "a log entry of {} descriptors, expected at most {MAX_DESCRIPTORS}",
                shape.count
            ))
            .at(WHAT, self.offset + at));
        }
        let mut crc = Crc::first(&first);
        let mut descriptors = Vec::new();
        let mut data = at + shape.descriptor_bytes();
        for number in 0..shape.descriptor_bytes() / SECTOR {
            let sector = if number == 0 { first } else { self.sector(at + number * SECTOR)? };
            if number > 0 {
                crc = crc.then(&sector);
            }
            let Some(()) =
                shape.descriptors(number, &sector, self.length, &mut data, &mut descriptors)
            else {
                return Ok(None);
            };
        }
        if data != at + shape.length {
            return Ok(None);
        }
        let mut sector_at = at + shape.descriptor_bytes();
        while sector_at < data {
            let sector = self.sector(sector_at)?;
            if !is_data(&sector, shape.sequence) {
                return Ok(None);
            }
            crc = crc.then(&sector);
            sector_at += SECTOR;
        }
        Ok((crc.value() == shape.checksum).then(|| shape.into_entry(at, descriptors)))
    }

    /// The whole page of a page descriptor.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn page(&self, leading: &[u8; 8], trailing: &[u8; 4], at: u64) -> Result<Page> {
        let sector = self.sector(at)?;
        let mut page = Vec::with_capacity(SECTOR_BYTES);
        page.extend_from_slice(leading);
        page.extend_from_slice(sector.get(8..SECTOR_BYTES - 4).unwrap_or_default());
        page.extend_from_slice(trailing);
        page.into_boxed_slice()
            .try_into()
            .map_err(|_| Error::internal("a log page is not 4096 bytes"))
    }
}

fn is_data(sector: &[u8], sequence: u64) -> bool {
    DataSector::ref_from_bytes(sector).is_ok_and(|data| {
        let found = u64::from(data.sequence_high.get()) << 32 | u64::from(data.sequence_low.get());
        &data.signature == b"data" && found == sequence
    })
}

/// An entry's head that obeys the rules.
struct Shape {
    checksum: u32,
    length: u64,
    tail: u64,
    sequence: u64,
    count: u64,
    flushed: u64,
    last: u64,
}

impl Shape {
    fn parse(sector: &[u8], guid: Uuid, log_length: u64) -> Option<Self> {
        let (head, _) = EntryHead::ref_from_prefix(sector).ok()?;
        let shape = Self {
            checksum: head.checksum.get(),
            length: head.entry_length.get().into(),
            tail: head.tail.get().into(),
            sequence: head.sequence_number.get(),
            count: head.descriptor_count.get().into(),
            flushed: head.flushed_file_offset.get(),
            last: head.last_file_offset.get(),
        };
        let fits = &head.signature == b"loge"
            && head.log_guid == guid.to_bytes_le()
            && shape.length.is_multiple_of(SECTOR)
            && (SECTOR..=log_length).contains(&shape.length)
            && shape.tail.is_multiple_of(SECTOR)
            && shape.tail < log_length
            && shape.sequence > 0
            && shape.descriptor_bytes() <= shape.length;
        fits.then_some(shape)
    }

    /// Bytes of the sectors that hold the head and the descriptors.
    fn descriptor_bytes(&self) -> u64 {
        (HEAD_BYTES + DESCRIPTOR_BYTES * self.count).next_multiple_of(SECTOR)
    }

    /// Parses the descriptors in descriptor sector `number`; `data` is where the next data sector
    /// of the entry stands.
    fn descriptors(
        &self,
        number: u64,
        sector: &[u8],
        log_length: u64,
        data: &mut u64,
        list: &mut Vec<Descriptor>,
    ) -> Option<()> {
        let skip = if number == 0 { HEAD_BYTES } else { 0 };
        let raw = sector.get(usize::try_from(skip).ok()?..)?;
        let room = (SECTOR - skip) / DESCRIPTOR_BYTES;
        let here = room.min(self.count - list.len() as u64);
        let (raw, _) =
            <[DiskDescriptor]>::ref_from_prefix_with_elems(raw, usize::try_from(here).ok()?)
                .ok()?;
        for descriptor in raw {
            let offset = descriptor.file_offset.get();
            if descriptor.sequence_number.get() != self.sequence || offset % SECTOR != 0 {
                return None;
            }
            list.push(match &descriptor.signature {
                b"zero" => {
                    let length = u64::from_le_bytes(descriptor.detail);
                    if length % SECTOR != 0 {
                        return None;
                    }
                    Descriptor::Zero(offset..offset.checked_add(length)?)
                }
                b"desc" => {
                    let sector = *data % log_length;
                    *data += SECTOR;
                    Descriptor::Page {
                        offset,
                        leading: descriptor.detail,
                        trailing: descriptor.trailing,
                        sector,
                    }
                }
                _ => return None,
            });
        }
        Some(())
    }

    fn into_entry(self, at: u64, descriptors: Vec<Descriptor>) -> Entry {
        let Self { length, tail, sequence, flushed, last, .. } = self;
        Entry { at, length, tail, sequence, flushed, last, descriptors }
    }
}

/// What a new entry says of itself.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stamp {
    /// The log's GUID.
    pub(crate) guid: Uuid,
    /// The entry's number.
    pub(crate) sequence: u64,
    /// Where the oldest entry that counts starts.
    pub(crate) tail: u64,
    /// Bytes of the file: durable, and needed.
    pub(crate) file_len: u64,
}

/// Bytes of an entry that replaces so many pages.
pub(crate) fn entry_bytes(pages: u64) -> u64 {
    (HEAD_BYTES + DESCRIPTOR_BYTES * pages).next_multiple_of(SECTOR) + pages * SECTOR
}

/// A new entry that replaces the pages, by page number.
pub(crate) fn encode(stamp: &Stamp, pages: &BTreeMap<u64, Page>) -> Vec<u8> {
    let count = pages.len() as u64;
    let length = entry_bytes(count);
    let narrow = |value: u64| U32::from(u32::try_from(value).unwrap_or(u32::MAX));
    let head = EntryHead {
        signature: *b"loge",
        checksum: U32::ZERO,
        entry_length: narrow(length),
        tail: narrow(stamp.tail),
        sequence_number: stamp.sequence.into(),
        descriptor_count: narrow(count),
        reserved: U32::ZERO,
        log_guid: stamp.guid.to_bytes_le(),
        flushed_file_offset: stamp.file_len.into(),
        last_file_offset: stamp.file_len.into(),
    };
    let mut entry = head.as_bytes().to_vec();
    for (number, page) in pages {
        let descriptor = DiskDescriptor {
            signature: *b"desc",
            trailing: *page.last_chunk().unwrap_or(&[0; 4]),
            detail: *page.first_chunk().unwrap_or(&[0; 8]),
            file_offset: (number * SECTOR).into(),
            sequence_number: stamp.sequence.into(),
        };
        entry.extend_from_slice(descriptor.as_bytes());
    }
    entry.resize(entry.len().next_multiple_of(SECTOR_BYTES), 0);
    for page in pages.values() {
        entry.extend_from_slice(b"data");
        entry.extend_from_slice(narrow(stamp.sequence >> 32).as_bytes());
        entry.extend_from_slice(page.get(8..SECTOR_BYTES - 4).unwrap_or_default());
        entry.extend_from_slice(narrow(stamp.sequence & u64::from(u32::MAX)).as_bytes());
    }
    crc::seal(&mut entry);
    entry
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdisk_core::MemStore;

    const GUID: Uuid = Uuid::from_u128(42);

    fn pages(count: u64) -> BTreeMap<u64, Page> {
        let page =
            |n: u64| Box::new(std::array::from_fn(|i| ((i as u64 * 7 + n) % 251).to_le_bytes()[0]));
        (0..count).map(|n| (100 + 3 * n, page(n))).collect()
    }

    #[test]
    fn entries_round_trip_wherever_they_stand_in_the_ring() {
        let length = 1 << 20;
        for count in [0u64, 1, 126, 127, 200] {
            for at in [0, 4096, length - 4096, length - 2 * 4096] {
                let store = MemStore::new("t");
                store.set_len(2 << 20).unwrap();
                let stamp = Stamp { guid: GUID, sequence: 1 << 40 | 9, tail: at, file_len: 77 };
                let entry = encode(&stamp, &pages(count));
                assert_eq!(entry.len() as u64, entry_bytes(count));
                for (sector, n) in entry.chunks(4096).zip(0u64..) {
                    store.write_all_at(sector, (1 << 20) + (at + n * 4096) % length).unwrap();
                }
                let ring = Ring { store: &store, offset: 1 << 20, length };
                let read = ring.entry(at, GUID).unwrap().unwrap();
                assert_eq!((read.length, read.sequence), (entry.len() as u64, stamp.sequence));
                assert_eq!((read.tail, read.flushed, read.last), (at, 77, 77));
                assert_eq!(read.descriptors.len() as u64, count);
                for (descriptor, (number, page)) in read.descriptors.iter().zip(&pages(count)) {
                    let Descriptor::Page { offset, leading, trailing, sector } = descriptor else {
                        panic!("{descriptor:?}")
                    };
                    assert_eq!(*offset, number * 4096);
                    assert_eq!(ring.page(leading, trailing, *sector).unwrap(), *page);
                }
                assert!(ring.entry(at, Uuid::from_u128(1)).unwrap().is_none());
            }
        }
    }

    #[test]
    fn no_changed_byte_goes_unnoticed() {
        let stamp = Stamp { guid: GUID, sequence: 5, tail: 0, file_len: 1 << 20 };
        let entry = encode(&stamp, &pages(2));
        for at in (0..entry.len()).step_by(13).chain(0..160) {
            let mut bytes = entry.clone();
            bytes[at] ^= 0x10;
            bytes.resize(1 << 20, 0);
            let store = MemStore::from_bytes("t", &bytes);
            let ring = Ring { store: &store, offset: 0, length: 1 << 20 };
            assert!(ring.entry(0, GUID).unwrap().is_none(), "byte {at}");
        }
    }
}
