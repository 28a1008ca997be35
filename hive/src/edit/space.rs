//! Cells as an edit needs them: taken, given back, written to; and all of it undone if need be.

use std::collections::{BTreeMap, BTreeSet};

use vdisk_core::{Error, Result};

use crate::base::{BASE, MAX_BINS};
use crate::bytes::index;
use crate::hive::Hive;
use crate::image::{BIN_HEADER, BIN_UNIT, Offset, RawCell};

/// A hive with its free cells, and the way back to where the current edit began.
#[derive(Debug)]
pub(super) struct Space {
    pub(super) hive: Hive,
    /// Free cells, by place: their size.
    free: BTreeMap<Offset, u32>,
    /// The same as size and place.
    by_size: BTreeSet<(u32, Offset)>,
    undo: Vec<Undo>,
    /// Whether anything was written since the hive was opened.
    pub(super) changed: bool,
}

#[derive(Debug)]
enum Undo {
    /// These bytes stood at this index of the file.
    Bytes(usize, Vec<u8>),
    /// The bins were this long, and the file.
    Length { bins_size: u32, file: usize },
}

impl Space {
    pub(super) fn of(hive: Hive) -> Result<Self> {
        let (free, by_size) = (BTreeMap::new(), BTreeSet::new());
        let mut space = Self { hive, free, by_size, undo: Vec::new(), changed: false };
        space.count()?;
        Ok(space)
    }

    /// Finds the free and the allocated cells anew.
    fn count(&mut self) -> Result<()> {
        let mut cells = Vec::new();
        self.hive.image.each_cell(|cell| cells.push(cell))?;
        self.free.clear();
        self.by_size.clear();
        for RawCell { at, size, allocated } in cells {
            if allocated {
                self.hive.image.starts.set(at);
            } else {
                self.hive.image.starts.clear(at);
                self.offer(at, size);
            }
        }
        Ok(())
    }

    /// Does all of `edit`, or nothing of it where it fails.
    pub(super) fn whole<T>(&mut self, edit: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        self.undo.clear();
        let result = edit(self);
        match result {
            Ok(_) => self.changed |= !self.undo.is_empty(),
            Err(_) => self.take_back()?,
        }
        self.undo.clear();
        result
    }

    fn take_back(&mut self) -> Result<()> {
        // Cells that the edit made may end up within others.
        self.hive.image.starts = crate::image::Marks::new();
        while let Some(step) = self.undo.pop() {
            match step {
                Undo::Bytes(at, old) => crate::base::put(&mut self.hive.image.bytes, at, &old),
                Undo::Length { bins_size, file } => {
                    self.hive.image.bins_size = bins_size;
                    self.hive.image.bytes.truncate(file);
                }
            }
        }
        self.count()
    }

    /// Writes at an index of the file.
    fn write(&mut self, at: usize, bytes: &[u8]) -> Result<()> {
        let place =
            self.hive.image.bytes.get_mut(at..).and_then(|rest| rest.get_mut(..bytes.len()));
        let place = place.ok_or_else(|| Error::internal("a write beyond the end of a hive"))?;
        if place != bytes {
            self.undo.push(Undo::Bytes(at, place.to_vec()));
            place.copy_from_slice(bytes);
        }
        Ok(())
    }

    /// Writes into an allocated cell, `field` bytes behind its size.
    pub(super) fn put(&mut self, cell: Offset, field: usize, bytes: &[u8]) -> Result<()> {
        self.hive.image.cell("registry cell", cell)?.slice("registry cell", field, bytes.len())?;
        self.write(cell.index().saturating_add(4).saturating_add(field), bytes)
    }

    /// As [`Space::put`], of a number.
    pub(super) fn put_u32(&mut self, cell: Offset, field: usize, value: u32) -> Result<()> {
        self.put(cell, field, &value.to_le_bytes())
    }

    /// Fills a cell: the bytes, and zeros to its end.
    pub(super) fn fill(&mut self, cell: Offset, bytes: &[u8]) -> Result<()> {
        let mut content = bytes.to_vec();
        content.resize(self.room(cell)?.max(bytes.len()), 0);
        self.put(cell, 0, &content)
    }

    /// Bytes that a cell can hold.
    pub(super) fn room(&self, cell: Offset) -> Result<usize> {
        Ok(self.hive.image.cell("registry cell", cell)?.bytes.len())
    }

    /// A new cell that holds `bytes`.
    pub(super) fn add(&mut self, bytes: &[u8]) -> Result<Offset> {
        let need = bytes.len().saturating_add(4).next_multiple_of(8);
        let need = u32::try_from(need).ok().filter(|need| *need < MAX_BINS);
        let need = need.ok_or_else(|| {
            Error::usage(format!("{} bytes are too many for a hive", bytes.len()))
        })?;
        if self.by_size.range((need, Offset(0))..).next().is_none() {
            self.grow(need)?;
        }
        let found = self.by_size.range((need, Offset(0))..).next().copied();
        let (size, at) = found.ok_or_else(|| Error::internal("a new bin has no room"))?;
        self.withdraw(at, size);
        if size > need {
            let rest = Offset(at.0 + need);
            self.write(rest.index(), &(size - need).to_le_bytes())?;
            self.offer(rest, size - need);
        }
        self.write(at.index(), &need.cast_signed().wrapping_neg().to_le_bytes())?;
        self.hive.image.starts.set(at);
        self.fill(at, bytes)?;
        Ok(at)
    }

    /// Gives a cell back. Its content is zeroed: what was deleted shall not be read again.
    pub(super) fn release(&mut self, at: Offset) -> Result<()> {
        self.fill(at, &[])?;
        self.hive.image.starts.clear(at);
        let (mut start, mut size) = (at, self.hive.image.size_of(at));
        // A bin begins with a header, so neighbours are of the same bin.
        let after = Offset(at.0 + size);
        if let Some(more) = self.free.get(&after).copied() {
            self.withdraw(after, more);
            self.write(after.index(), &[0; 4])?;
            size += more;
        }
        let before = self.free.range(..at).next_back().map(|(start, size)| (*start, *size));
        if let Some((before, more)) = before.filter(|(before, more)| before.0 + more == at.0) {
            self.withdraw(before, more);
            self.write(at.index(), &[0; 4])?;
            (start, size) = (before, size + more);
        }
        self.write(start.index(), &size.to_le_bytes())?;
        self.offer(start, size);
        Ok(())
    }

    fn offer(&mut self, at: Offset, size: u32) {
        self.free.insert(at, size);
        self.by_size.insert((size, at));
    }

    fn withdraw(&mut self, at: Offset, size: u32) {
        self.free.remove(&at);
        self.by_size.remove(&(size, at));
    }

    /// Adds a bin with a free cell of `need` bytes, in the file's slack as far as there is any.
    fn grow(&mut self, need: u32) -> Result<()> {
        let start = Offset(self.hive.image.bins_size);
        let size =
            need.checked_add(BIN_HEADER).and_then(|size| size.checked_next_multiple_of(BIN_UNIT));
        let end = size.and_then(|size| start.0.checked_add(size)).filter(|end| *end <= MAX_BINS);
        let (Some(size), Some(end)) = (size, end) else {
            return Err(Error::refused("the hive would grow beyond 2 GiB"));
        };
        let file = self.hive.image.bytes.len();
        self.undo.push(Undo::Length { bins_size: start.0, file });
        if file < Offset(end).index() {
            self.hive.image.bytes.resize(Offset(end).index(), 0);
        }
        let mut bin = vec![0; index(size)];
        let cell = size - BIN_HEADER;
        for (at, field) in [(0, *b"hbin"), (4, start.0.to_le_bytes()), (8, size.to_le_bytes())] {
            crate::base::put(&mut bin, at, &field);
        }
        crate::base::put(&mut bin, index(BIN_HEADER), &cell.to_le_bytes());
        self.write(start.index(), &bin)?;
        self.hive.image.bins_size = end;
        self.offer(Offset(start.0 + BIN_HEADER), cell);
        Ok(())
    }

    /// The hive's bytes, as a file marked whole: both sequence numbers one above all seen.
    pub(super) fn sealed(&self, now: crate::time::FileTime) -> Vec<u8> {
        let mut bytes = self.hive.image.bytes.clone();
        if let Some(base) = bytes.get_mut(..BASE) {
            crate::base::put(base, crate::base::field::TIME, &now.0.to_le_bytes());
            let sequence = self.hive.sequence.wrapping_add(1);
            crate::base::seal(base, sequence, self.hive.image.bins_size);
        }
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::edit::tests::minimal;

    fn free(space: &Space) -> Vec<(u32, u32)> {
        space.free.iter().map(|(at, size)| (at.0, *size)).collect()
    }

    #[test]
    fn cells_are_taken_and_grow_together_again() {
        let mut space = Space::of(minimal(5)).unwrap();
        let before = (free(&space), space.hive.image.bytes.clone());
        let cells: Vec<_> = (0..5).map(|n| space.add(&[n; 20]).unwrap()).collect();
        assert!(cells.windows(2).all(|pair| pair[0].0 + 24 == pair[1].0));
        for at in [1, 3, 2, 0, 4] {
            space.release(cells[at]).unwrap();
        }
        assert_eq!(before, (free(&space), space.hive.image.bytes.clone()));
    }

    #[test]
    fn bins_are_added_and_taken_back() {
        let mut space = Space::of(minimal(3)).unwrap();
        let before = (free(&space), space.hive.image.clone());
        let failed: Result<()> = space.whole(|space| {
            let cell = space.add(&[7; 5000])?;
            assert_eq!(cell.0, 4096 + 32);
            assert_eq!(space.hive.image.bins_size, 4096 + 8192);
            let other = space.add(&[8; 100])?;
            space.release(cell)?;
            space.put(other, 90, &[1; 20])
        });
        assert!(failed.is_err());
        assert!(!space.changed);
        assert_eq!(free(&space), before.0);
        assert_eq!(space.hive.image.bytes, before.1.bytes);
        assert_eq!(space.hive.image.bins_size, before.1.bins_size);
    }
}
