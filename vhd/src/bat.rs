//! The block allocation table: where each block stands.
//!
//! VHD 1.0, "Block Allocation Table and Data Blocks": big-endian sector numbers of the blocks'
//! bitmaps, `0xFFFFFFFF` for a block that is not there.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use byteorder::{BigEndian, ByteOrder};
use vdisk_core::{PagedTable, Result, Store};

use crate::shape::to_usize;

/// The entry of a block that is not there.
pub(crate) const ABSENT: u32 = 0xFFFF_FFFF;
/// Bytes of an entry.
pub(crate) const ENTRY: u64 = 4;

/// The table of an image, with the changes that wait to be written.
#[derive(Debug)]
pub(crate) struct Bat {
    table: PagedTable,
    entries: u32,
    waiting: BTreeMap<u32, u32>,
}

impl Bat {
    /// The table of `entries` entries at byte `at` of `store`.
    pub(crate) fn new(store: Arc<dyn Store>, at: u64, entries: u32) -> Self {
        let table = PagedTable::new(store, "VHD block table", at, u64::from(entries) * ENTRY);
        Self { table, entries, waiting: BTreeMap::new() }
    }

    /// The number of entries.
    pub(crate) fn entries(&self) -> u32 {
        self.entries
    }

    /// The bytes of the file the table takes, to the end of its last sector.
    pub(crate) fn range(&self) -> Range<u64> {
        self.table.offset()..self.table.offset() + self.table.len().next_multiple_of(512)
    }

    /// Where in the file the entry of `block` stands.
    pub(crate) fn entry_at(&self, block: u32) -> u64 {
        self.table.offset() + u64::from(block) * ENTRY
    }

    /// The sector where `block` starts; `None` where it is not there.
    pub(crate) fn get(&self, block: u32) -> Result<Option<u32>> {
        if let Some(sector) = self.waiting.get(&block) {
            return Ok(Some(*sector));
        }
        let sector = u32::from_be_bytes(self.table.entry(u64::from(block) * ENTRY)?);
        Ok((sector != ABSENT).then_some(sector))
    }

    /// The first block from `from` on that is there, or `end`, which is at most the number of
    /// entries.
    pub(crate) fn next_present(&self, from: u32, end: u32) -> Result<u32> {
        if from >= end {
            return Ok(end);
        }
        let end = self.waiting.range(from..end).next().map_or(end, |(block, _)| *block);
        let mut block = from;
        while block < end {
            let page = self.table.rest_of_page(u64::from(block) * ENTRY)?;
            let absent = page.chunks_exact(4).take_while(|entry| **entry == [0xFF; 4]).count();
            let in_page = page.len() / 4;
            block = block.saturating_add(u32::try_from(absent).unwrap_or(u32::MAX)).min(end);
            if absent < in_page || in_page == 0 {
                break;
            }
        }
        Ok(block)
    }

    /// Changes an entry; it waits to be written.
    pub(crate) fn set(&mut self, block: u32, sector: u32) {
        self.waiting.insert(block, sector);
    }

    /// Changes that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Writes what waits, neighbours together.
    pub(crate) fn write(&mut self) -> Result<()> {
        while let Some((first, sector)) = self.waiting.first_key_value() {
            let (first, mut sectors) = (*first, vec![*sector]);
            let after = self.waiting.range(first..).skip(1).zip(first.saturating_add(1)..);
            let neighbours = after.take_while(|((block, _), next)| **block == *next);
            sectors.extend(neighbours.map(|((_, sector), _)| *sector));
            let mut bytes = vec![0; size_of_val(sectors.as_slice())];
            BigEndian::write_u32_into(&sectors, &mut bytes);
            self.table.write(u64::from(first) * ENTRY, &bytes)?;
            let written = u32::try_from(sectors.len()).unwrap_or(1);
            for block in first..first.saturating_add(written) {
                self.waiting.remove(&block);
            }
        }
        Ok(())
    }

    /// Gives up all blocks from `from` on, in the file, at once. Says whether there were any.
    pub(crate) fn drop_from(&mut self, from: u32) -> Result<bool> {
        let waited = self.waiting.range(from..).next().is_some();
        let first = self.next_present(from, self.entries)?;
        self.drop_range(first..self.entries)?;
        self.waiting.retain(|block, _| *block < from);
        Ok(waited || first < self.entries)
    }

    /// Gives up the blocks of a range, in the file, at once.
    pub(crate) fn drop_range(&mut self, blocks: Range<u32>) -> Result<()> {
        const CHUNK: &[u8] = &[0xFF; 65536];
        self.waiting.retain(|block, _| !blocks.contains(block));
        let end = u64::from(blocks.end) * ENTRY;
        let mut at = u64::from(blocks.start) * ENTRY;
        while at < end {
            let step = to_usize(end - at).min(CHUNK.len());
            self.table.write(at, CHUNK.get(..step).unwrap_or(CHUNK))?;
            at += step as u64;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use vdisk_core::{MemStore, StoreExt};

    use super::*;

    #[test]
    fn waiting_entries_are_seen_and_written_in_runs() {
        let store = Arc::new(MemStore::new("t"));
        store.put(&[0xFF; 200_000], 512, "table").unwrap();
        let mut bat = Bat::new(store.clone(), 512, 50_000);
        assert_eq!(bat.next_present(0, 50_000).unwrap(), 50_000);
        for block in [3, 4, 5, 20_000, 49_999] {
            bat.set(block, block + 100);
        }
        for round in 0..2 {
            let mut found = Vec::new();
            let mut block = bat.next_present(0, 50_000).unwrap();
            while block < 50_000 {
                assert_eq!(bat.get(block).unwrap(), Some(block + 100), "round {round}");
                found.push(block);
                block = bat.next_present(block + 1, 50_000).unwrap();
            }
            assert_eq!(found, [3, 4, 5, 20_000, 49_999]);
            assert_eq!(bat.next_present(6, 100).unwrap(), 100);
            bat.write().unwrap();
            assert_eq!(bat.waiting(), 0);
        }
        assert!(bat.drop_from(5).unwrap());
        assert_eq!(bat.next_present(5, 50_000).unwrap(), 50_000);
        assert_eq!(bat.get(4).unwrap(), Some(104));
    }
}
