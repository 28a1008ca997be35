//! Replaying a log (\[MS-VHDX\] 2.3.3): which entries count, and what becomes of the file.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use vdisk_core::{Error, ErrorKind, OverlayStore, Result, Store, StoreExt};

use crate::header::Header;
use crate::log::{Descriptor, Entry, MAX_DESCRIPTORS, Page, Ring, SECTOR};
use crate::{KIB, MAX_FILE, MIB};

/// Where what a log may change begins: the region tables. Identifier and headers stand before.
const FIRST_LOGGED: u64 = 192 * KIB;
/// Most pages that are replaced in memory: 64 MiB.
const MAX_PAGES: u64 = 16384;
/// Most pages that are zeroed in memory.
const MAX_ZERO_PAGES: u64 = 1 << 18;
const WHAT: &str = "VHDX log";

/// A log that waits to be replayed; every entry was found valid and harmless.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    ring: Ring<'a>,
    entries: Vec<Entry>,
    /// Bytes the file has to have.
    len: u64,
}

impl<'a> Replay<'a> {
    /// Finds what the header's log holds; `None` where it has a GUID but no entry.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where an entry would change what it must not,
    /// [`ErrorKind::Truncated`] where the file has lost its end, the host's.
    pub(crate) fn find(
        store: &'a dyn Store,
        header: &Header,
        file_len: u64,
    ) -> Result<Option<Self>> {
        let ring = Ring { store, offset: header.log_offset, length: header.log_length.into() };
        let Some(entries) = active_sequence(&ring, header)? else { return Ok(None) };
        let len = check(&entries, header, file_len)?;
        Ok(Some(Self { ring, entries, len }))
    }

    /// The file as it would be afterwards.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where that would take too much memory, the host's.
    pub(crate) fn in_memory(&self, base: Arc<dyn Store>) -> Result<OverlayStore> {
        let base_len = base.size()?;
        let name = base.name().to_owned();
        let mut pages: BTreeMap<u64, Option<Page>> = BTreeMap::new();
        let (mut replaced, mut zeroed) = (0, 0);
        for descriptor in self.descriptors() {
            match descriptor {
                Descriptor::Page { offset, leading, trailing, sector } => {
                    replaced += 1;
                    let page = self.ring.page(leading, trailing, *sector)?;
                    pages.insert(offset / SECTOR, Some(page));
                }
                Descriptor::Zero(range) => {
                    let numbers = range.start / SECTOR..range.end / SECTOR;
                    let before: Vec<u64> = pages.range(numbers.clone()).map(|(n, _)| *n).collect();
                    for number in before {
                        pages.remove(&number);
                    }
                    // What lies beyond the file's end is zero already.
                    let end = numbers.end.min(base_len.div_ceil(SECTOR));
                    zeroed += end.saturating_sub(numbers.start);
                    if zeroed <= MAX_ZERO_PAGES {
                        pages.extend((numbers.start..end).map(|number| (number, None)));
                    }
                }
            }
            if replaced > MAX_PAGES || zeroed > MAX_ZERO_PAGES {
                return Err(Error::unsupported("the log is too large to be replayed in memory")
                    .at(WHAT, self.ring.offset)
                    .hint("replay it into the file: vdisk check -r leaks"));
            }
        }
        let mut view =
            OverlayStore::new(base).map_err(|e| Error::io(e, "find the length").in_file(name))?;
        view.extend_to(self.len);
        for (number, page) in pages {
            view.replace(number, page);
        }
        Ok(view)
    }

    /// Changes the file; the caller has given it a new file write GUID, and clears the log GUID
    /// afterwards.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn in_place(&self, file: &dyn Store) -> Result<()> {
        // Nothing to zero beyond this byte: the file grows by zeros.
        let mut high = file.size()?;
        if high < self.len {
            file.resize(self.len)?;
        }
        for descriptor in self.descriptors() {
            match descriptor {
                Descriptor::Page { offset, leading, trailing, sector } => {
                    let page = self.ring.page(leading, trailing, *sector)?;
                    file.put(&*page, *offset, WHAT)?;
                    high = high.max(offset + SECTOR);
                }
                Descriptor::Zero(range) => {
                    let end = range.end.min(high);
                    if range.start < end {
                        file.clear(range.start, end - range.start, WHAT)?;
                    }
                }
            }
        }
        file.flush()
    }

    fn descriptors(&self) -> impl Iterator<Item = &Descriptor> {
        self.entries.iter().flat_map(|entry| &entry.descriptors)
    }
}

/// The entries to replay, oldest first: of all sequences whose newest entry names one of its own
/// as the tail, that with the newest entry (2.3.2).
fn active_sequence(ring: &Ring<'_>, header: &Header) -> Result<Option<Vec<Entry>>> {
    let mut best: Option<Vec<Entry>> = None;
    let mut start = 0;
    while start < ring.length {
        let found = sequence_from(ring, header, start)?;
        let bytes: u64 = found.iter().map(|entry| entry.length).sum();
        start += bytes.max(SECTOR);
        let newest = |list: &[Entry]| list.last().map_or(0, |head| head.sequence);
        let counted = counted_from_tail(found);
        if newest(&counted) > newest(best.as_deref().unwrap_or_default()) {
            best = Some(counted);
        }
    }
    Ok(best)
}

/// The valid entries from `start` on, each the successor of the one before.
fn sequence_from(ring: &Ring<'_>, header: &Header, start: u64) -> Result<Vec<Entry>> {
    let mut list: Vec<Entry> = Vec::new();
    let mut bytes = 0;
    let mut descriptors = 0;
    while bytes < ring.length {
        let at = (start + bytes) % ring.length;
        let Some(entry) = ring.entry(at, header.log)? else { break };
        let follows =
            list.last().is_none_or(|before| before.sequence.checked_add(1) == Some(entry.sequence));
        bytes += entry.length;
        descriptors += entry.descriptors.len() as u64;
        if !follows || bytes > ring.length {
            break;
        }
        if descriptors > MAX_DESCRIPTORS {
            return Err(Error::unsupported(format!("a log of more than {MAX_DESCRIPTORS} pages"))
                .at(WHAT, ring.offset + at));
        }
        list.push(entry);
    }
    Ok(list)
}

/// The sequence from the tail that its newest entry names; nothing where that is not in it.
fn counted_from_tail(mut list: Vec<Entry>) -> Vec<Entry> {
    let tail = list.last().map(|head| head.tail);
    match list.iter().position(|entry| Some(entry.at) == tail) {
        Some(first) => list.split_off(first),
        None => Vec::new(),
    }
}

/// Refuses entries that would change what they must not; the bytes the file has to have.
fn check(entries: &[Entry], header: &Header, file_len: u64) -> Result<u64> {
    let at = |entry: &Entry| header.log_offset + entry.at;
    let bad = |entry: &Entry, message: String| Err(Error::corrupt(WHAT, at(entry), message));
    if let Some(entry) = entries.iter().find(|entry| entry.flushed > file_len) {
        return Err(Error::new(
            ErrorKind::Truncated,
            format!("the file had {} bytes, now it has {file_len}", entry.flushed),
        )
        .at(WHAT, at(entry))
        .hint("the file lost its end, for example in a copy; take the whole file"));
    }
    let mut len = file_len;
    for entry in entries {
        if entry.last > MAX_FILE {
            return bad(entry, format!("the file should have {} bytes", entry.last));
        }
        // Blocks and regions are multiples of 1 MiB; qemu leaves the rounding to the reader.
        if entry.last > len {
            len = entry.last.next_multiple_of(MIB);
        }
    }
    let end = len.next_multiple_of(MIB);
    for entry in entries {
        for range in entry.descriptors.iter().map(Descriptor::range) {
            if range.start < FIRST_LOGGED || range.end > end {
                return bad(entry, format!("would change bytes {range:?} of {end}"));
            }
            if overlap(&range, &header.log_range()) {
                return bad(entry, format!("would change bytes {range:?}, which are the log"));
            }
        }
    }
    Ok(len)
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}
