//! Transaction logs, as they stand: which pages of the hive they hold.
//!
//! The old generation (to Windows 8, and still for some hives) holds one state: a bitmap of dirty
//! 512-byte pages (`DIRT`) and those pages. The new one (from Windows 8.1) holds entries (`HvLE`),
//! each with a number one higher than the one before and two hashes. Source: the regf
//! specification of M. Suhanov, sections on transaction log files.

use vdisk_core::{Error, Result};

use crate::base::{BASE_USED, BaseBlock};
use crate::bytes::{index, u32_at, u64_at};
use crate::marvin::marvin32;

/// Which generation a log is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Generation {
    /// One set of pages, named by a bitmap.
    Old,
    /// A row of numbered entries.
    New,
}

/// A piece of the hive as a log holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page<'l> {
    /// Where it belongs, from the first bin.
    pub(crate) at: u32,
    pub(crate) bytes: &'l [u8],
}

/// One step of a log: pages that belong together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry<'l> {
    pub(crate) sequence: u32,
    /// The size of all bins after this step.
    pub(crate) bins_size: u32,
    pub(crate) pages: Vec<Page<'l>>,
}

/// A log with at least one whole entry.
#[derive(Clone, Debug)]
pub(crate) struct Log<'l> {
    pub(crate) base: BaseBlock,
    pub(crate) header: &'l [u8],
    pub(crate) generation: Generation,
    /// In order, each with a number one higher than the one before.
    pub(crate) entries: Vec<Entry<'l>>,
}

impl<'l> Log<'l> {
    pub(crate) const STRUCTURE: &'static str = "registry log";

    /// Reads a log; an error tells why nothing in it can be used.
    pub(crate) fn parse(bytes: &'l [u8]) -> Result<Self> {
        let base = BaseBlock::parse_log(bytes)?;
        let corrupt = |message: &str| Error::corrupt(Self::STRUCTURE, BASE_USED as u64, message);
        if base.is_dirty() {
            return Err(corrupt("writing it was not ended"));
        }
        let (header, body) = bytes.split_at_checked(BASE_USED).unwrap_or_default();
        let (generation, entries) = if body.starts_with(b"DIRT") {
            let entry = old_entry(&base, body).ok_or_else(|| {
                corrupt("it ends before the last of the pages that its bitmap names")
            })?;
            (Generation::Old, vec![entry])
        } else {
            (Generation::New, new_entries(&base, body))
        };
        if entries.is_empty() {
            return Err(corrupt("it holds no whole entry that belongs to its header"));
        }
        Ok(Self { base, header, generation, entries })
    }

    pub(crate) fn first(&self) -> u32 {
        self.entries.first().map_or(0, |entry| entry.sequence)
    }

    pub(crate) fn last(&self) -> u32 {
        self.entries.last().map_or(0, |entry| entry.sequence)
    }
}

/// Bytes of the hive for one bit of the bitmap.
const SECTOR: usize = 512;

fn old_entry<'l>(base: &BaseBlock, body: &'l [u8]) -> Option<Entry<'l>> {
    let bits = index(base.bins_size) / SECTOR;
    let bitmap = body.get(4..)?.get(..bits.div_ceil(8))?;
    let mut rest = body.get((4 + bitmap.len()).next_multiple_of(SECTOR)..)?;
    let mut pages = Vec::new();
    for number in 0..base.bins_size / 512 {
        let byte = bitmap.get(index(number / 8))?;
        if byte >> (number % 8) & 1 == 1 {
            let (bytes, after) = rest.split_at_checked(SECTOR)?;
            pages.push(Page { at: number * 512, bytes });
            rest = after;
        }
    }
    Some(Entry { sequence: base.primary_sequence, bins_size: base.bins_size, pages })
}

/// The entries that follow one another from the header's number on. What comes behind them is left
/// from earlier rounds, or was being written when the power went.
fn new_entries<'l>(base: &BaseBlock, mut body: &'l [u8]) -> Vec<Entry<'l>> {
    let mut entries = Vec::new();
    let mut wanted = base.primary_sequence;
    while let Some((entry, rest)) = new_entry(body) {
        if entry.sequence != wanted {
            break;
        }
        wanted = wanted.wrapping_add(1);
        entries.push(entry);
        body = rest;
    }
    entries
}

/// The whole and sound entry that `body` begins with, and what follows it.
fn new_entry(body: &[u8]) -> Option<(Entry<'_>, &[u8])> {
    const HEADER: usize = 40;
    let size = index(u32_at(body, 4).filter(|_| body.starts_with(b"HvLE"))?);
    if size < HEADER || !size.is_multiple_of(SECTOR) {
        return None;
    }
    let (entry, rest) = body.split_at_checked(size)?;
    let hashes = (u64_at(entry, 24)?, u64_at(entry, 32)?);
    if hashes != (marvin32(entry.get(HEADER..)?), marvin32(entry.get(..32)?)) {
        return None;
    }
    let count = index(u32_at(entry, 20)?);
    let (places, mut bytes) = entry.get(HEADER..)?.split_at_checked(count.checked_mul(8)?)?;
    let mut pages = Vec::new();
    for place in places.as_chunks::<8>().0 {
        let (page, after) = bytes.split_at_checked(index(u32_at(place, 4)?))?;
        pages.push(Page { at: u32_at(place, 0)?, bytes: page });
        bytes = after;
    }
    let entry = Entry { sequence: u32_at(entry, 12)?, bins_size: u32_at(entry, 16)?, pages };
    Some((entry, rest))
}
