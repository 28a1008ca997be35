//! Changing a hosted sparse extent: new grains at the end of the file, tables in memory until
//! they are flushed.
//!
//! What a power cut may leave at worst is space that nothing refers to: grains are flushed before
//! the tables that show them, new tables before the directory that shows those, and the space of
//! one grain is never used for another (but see `compact`).

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::disk::read_padded;
use vdisk_core::zeros::is_zero;
use vdisk_core::{Disk, Error, ErrorKind, Findings, Result, StoreExt};

use crate::check::{COPY_AHEAD, check_hosted};
use crate::header::UNCLEAN_AT;
use crate::hosted::Hosted;
use crate::tables::{Entry, Holes};
use crate::unit::{SECTOR, round_up, to_usize};

/// Changed tables kept before they are flushed on their own: 2 MiB.
const MOST_CHANGED: usize = 1024;
/// Grains start at multiples of this in the file, or of their own size where that is less.
pub(crate) const ALIGNMENT: u64 = 64 << 10;
/// Bytes copied from below at a time.
const PIECE: u64 = 1 << 20;
pub(crate) const DATA: &str = "guest data";
pub(crate) const TABLE: &str = "VMDK grain table";

/// What the parents hold, for the rest of a grain that is written in part.
pub(crate) struct Below<'a> {
    /// The parents.
    pub(crate) disk: &'a dyn Disk,
    /// The guest byte where the extent starts.
    pub(crate) start: u64,
    /// Whether what is absent is theirs.
    pub(crate) delta: bool,
}

impl Hosted {
    /// Writes `data` at byte `at` of the extent.
    pub(crate) fn write(&mut self, data: &[u8], at: u64, below: &Below<'_>) -> Result<()> {
        self.mark()?;
        let grain = self.tables.shape.grain;
        let end = at + data.len() as u64;
        let mut next = at;
        while next < end {
            let first = next / grain;
            let (entry, count) = self.tables.run(first, end.div_ceil(grain))?;
            let stop = (first + count).saturating_mul(grain).min(end);
            let piece = data
                .get(to_usize(next - at)..to_usize(stop - at))
                .ok_or_else(|| Error::internal("a run outside the data"))?;
            if let Entry::At(place) = entry {
                self.tables.store.put(piece, place + next % grain, DATA)?;
            } else {
                let place = self.room(count)?;
                if entry == Entry::Absent && below.delta {
                    let grains_end =
                        (first + count).saturating_mul(grain).min(self.tables.shape.len);
                    self.copy_up(first * grain..next, place, first, below)?;
                    self.copy_up(stop..grains_end, place, first, below)?;
                }
                self.tables.store.put(piece, place + next % grain, DATA)?;
                self.take(first, count, place)?;
            }
            next = stop;
        }
        Ok(())
    }

    /// Makes a range of the extent read as zeros. Grains that are there stay there, as holes of
    /// the host file: their space is given back without an order of writes to keep.
    pub(crate) fn zero(&mut self, range: Range<u64>, below: &Below<'_>) -> Result<()> {
        self.mark()?;
        let shape = self.tables.shape;
        let mut next = range.start;
        while next < range.end {
            let first = next / shape.grain;
            let (entry, count) = self.tables.run(first, range.end.div_ceil(shape.grain))?;
            let stop = (first + count).saturating_mul(shape.grain).min(range.end);
            match entry {
                Entry::At(place) => {
                    let from = place + next % shape.grain;
                    let len = (stop - next).min(self.tables.end.saturating_sub(from));
                    self.tables.store.clear(from, len, DATA)?;
                }
                Entry::Absent if below.delta => self.hide(next..stop, below)?,
                Entry::Absent | Entry::Zero => {}
            }
            next = stop;
        }
        Ok(())
    }

    /// Puts zeros over absent grains of a delta: whole grains by a zero entry where the header
    /// announces those, else as a hole of the host file; every reader takes that, while not all
    /// know zero entries.
    fn hide(&mut self, range: Range<u64>, below: &Below<'_>) -> Result<()> {
        let shape = self.tables.shape;
        let first = range.start.div_ceil(shape.grain);
        let end = if range.end == shape.len { shape.grains() } else { range.end / shape.grain };
        if first >= end {
            return self.write_zeros(range, below);
        }
        self.write_zeros(range.start..first * shape.grain, below)?;
        if self.header.zero_grain() {
            self.set_entries(first, end - first, 1, 0)?;
        } else {
            let place = self.room(end - first)?;
            self.take(first, end - first, place)?;
        }
        self.write_zeros((end * shape.grain).min(range.end)..range.end, below)
    }

    fn write_zeros(&mut self, range: Range<u64>, below: &Below<'_>) -> Result<()> {
        let mut next = range.start;
        while next < range.end {
            let len = (range.end - next).min(PIECE);
            self.write(&vec![0; to_usize(len)], next, below)?;
            next += len;
        }
        Ok(())
    }

    /// Copies what the parents hold of a range of the extent into grains that stand at `place`
    /// and begin with grain `first`. Zeros are there already: the file was never that long.
    fn copy_up(&self, range: Range<u64>, place: u64, first: u64, below: &Below<'_>) -> Result<()> {
        let base = first * self.tables.shape.grain;
        let mut next = range.start;
        while next < range.end {
            let len = (range.end - next).min(PIECE);
            let mut buf = vec![0; to_usize(len)];
            read_padded(below.disk, &mut buf, below.start + next)?;
            if !is_zero(&buf) {
                self.tables.store.put(&buf, place + (next - base), DATA)?;
            }
            next += len;
        }
        Ok(())
    }

    /// Where `count` new grains in a row can go: behind everything.
    fn room(&self, count: u64) -> Result<u64> {
        let grain = self.tables.shape.grain;
        let place = round_up(self.tables.end, grain.min(ALIGNMENT));
        let last = (count - 1).checked_mul(grain).and_then(|n| n.checked_add(place));
        match last.map(|last| u32::try_from(last / SECTOR)) {
            Some(Ok(_)) => Ok(place),
            _ => Err(Error::new(ErrorKind::NoSpace, "a sparse VMDK file ends at 2 TiB")
                .in_file(self.tables.store.name())
                .hint("convert the disk to a flat variant, or compact it")),
        }
    }

    /// Makes the room at `place` that of `count` grains from `first` on.
    fn take(&mut self, first: u64, count: u64, place: u64) -> Result<()> {
        self.extend(place + count * self.tables.shape.grain)?;
        let sector =
            u32::try_from(place / SECTOR).map_err(|_| Error::internal("a grain beyond 2 TiB"))?;
        let step = u32::try_from(self.tables.shape.grain / SECTOR)
            .map_err(|_| Error::internal("a grain beyond 2 TiB"))?;
        self.set_entries(first, count, sector, step)
    }

    /// Makes the file at least `end` bytes long.
    pub(crate) fn extend(&mut self, end: u64) -> Result<()> {
        if end > self.tables.end {
            self.tables.store.resize(end)?;
            self.tables.end = end;
        }
        Ok(())
    }

    /// Sets the entries of `count` grains from `first` on to `value` and what follows in `step`s.
    pub(crate) fn set_entries(
        &mut self,
        first: u64,
        count: u64,
        value: u32,
        step: u32,
    ) -> Result<()> {
        let per_table = self.tables.shape.per_table;
        let (mut next, mut value) = (first, value);
        while next < first + count {
            let stop = (first + count).min((next / per_table + 1) * per_table);
            let table = self.table_mut(next / per_table)?;
            let from = to_usize(next % per_table * 4);
            let entries = table.get_mut(from..).unwrap_or_default().chunks_exact_mut(4);
            for entry in entries.take(to_usize(stop - next)) {
                entry.copy_from_slice(&value.to_le_bytes());
                value = value.wrapping_add(step);
            }
            next = stop;
            if self.tables.changed.len() >= MOST_CHANGED {
                self.flush()?;
            }
        }
        Ok(())
    }

    /// A table to be changed, and to be written at the next flush. Where there is none it is
    /// added, in both directories.
    fn table_mut(&mut self, index: u64) -> Result<&mut [u8]> {
        let bytes = self.tables.shape.table_bytes();
        if !self.tables.changed.contains_key(&index) {
            if self.redundant.is_some() && self.redundant_at(index)?.is_none() {
                let at = round_up(self.tables.end, SECTOR);
                self.extend(at + bytes)?;
                self.added_redundant.insert(index, at);
            }
            if self.tables.table_at(index)?.is_none() {
                let at = round_up(self.tables.end, SECTOR);
                self.extend(at + bytes)?;
                self.tables.added.insert(index, at);
            }
            let table = match self.tables.table(index, &mut Holes::default())? {
                Some((_, table)) => table,
                None => vec![0; to_usize(bytes)].into(),
            };
            self.tables.changed.insert(index, table);
        }
        let table = self.tables.changed.get_mut(&index);
        table.map(Arc::make_mut).ok_or_else(|| Error::internal("a table that was just put there"))
    }

    /// Returns once everything is durable: grains, then tables, then directories.
    pub(crate) fn flush(&mut self) -> Result<()> {
        let store = self.tables.store.clone();
        store.flush()?;
        if self.tables.changed.is_empty() {
            return Ok(());
        }
        for (index, table) in &self.tables.changed {
            if let Some(at) = self.redundant_at(*index)? {
                store.put(table, at, TABLE)?;
            }
        }
        for (index, table) in &self.tables.changed {
            if let Some(at) = self.tables.table_at(*index)? {
                store.put(table, at, TABLE)?;
            }
        }
        if !self.tables.added.is_empty() || !self.added_redundant.is_empty() {
            store.flush()?;
            if let Some(redundant) = &self.redundant {
                for (index, at) in &self.added_redundant {
                    redundant.write(index * 4, &sector_bytes(*at)?)?;
                }
            }
            for (index, at) in &self.tables.added {
                self.tables.directory.write(index * 4, &sector_bytes(*at)?)?;
            }
        }
        store.flush()?;
        self.tables.changed.clear();
        self.tables.added.clear();
        self.added_redundant.clear();
        self.tables.forget();
        Ok(())
    }

    /// Notes in the header that the file is being changed.
    pub(crate) fn mark(&mut self) -> Result<()> {
        if !self.marked {
            self.cut_off = self.header.unclean();
            self.set_unclean(1)?;
            self.marked = true;
        }
        Ok(())
    }

    /// Notes in the header that the file was closed. Where an earlier session that was cut off
    /// left the redundant tables ahead, the mark stays: it is what tells that from a lost table.
    pub(crate) fn unmark(&mut self) -> Result<()> {
        if self.marked {
            if !self.cut_off || !self.is_copy_ahead()? {
                self.set_unclean(0)?;
            }
            self.marked = false;
        }
        Ok(())
    }

    fn is_copy_ahead(&self) -> Result<bool> {
        let mut findings = Findings::new();
        check_hosted(self, &mut findings)?;
        Ok(findings.list().iter().any(|finding| finding.code == COPY_AHEAD))
    }

    fn set_unclean(&mut self, value: u8) -> Result<()> {
        self.tables.store.put(&[value], UNCLEAN_AT, "VMDK sparse header")?;
        self.tables.store.flush()?;
        self.header.raw.unclean = value;
        Ok(())
    }
}

/// A directory's entry for the table at byte `at`.
pub(crate) fn sector_bytes(at: u64) -> Result<[u8; 4]> {
    u32::try_from(at / SECTOR)
        .map(u32::to_le_bytes)
        .map_err(|_| Error::new(ErrorKind::NoSpace, "a sparse VMDK file ends at 2 TiB"))
}
