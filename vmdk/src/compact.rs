//! Giving space back: grains that nobody needs leave the tables, those at the end of a file move
//! into the gaps, and the file is cut. Flat extents get holes.
//!
//! Each step is durable before the next: grains are copied; the entries change (see
//! [`Hosted::switch`]); what they led to is free. Whatever a table says, redundant or not, leads to
//! the grain it is about, for copies that an earlier power cut left apart are mended first; a table
//! that may have been lost, and lives on only in its copy, is none of ours to give up.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use vdisk_core::compact::{Fit, Units, copy_within, punch, punchable};
use vdisk_core::{Compaction, Error, Packing, PagedTable, Ranges, Result, StoreExt, Vacant, Watch};

use crate::allocate::{ALIGNMENT, DATA, TABLE};
use crate::extent::{Body, Extent, Flat};
use crate::hosted::Hosted;
use crate::layer::VmdkLayer;
use crate::tables::{Entry, GrainTables, Holes};
use crate::unit::{SECTOR, round_up, to_usize};

/// Grains that are moved between flushes.
const BATCH: usize = 4096;
/// Runs of grains that are looked at: 100 MB of memory.
const MOST_RUNS: usize = 4 << 20;

impl VmdkLayer {
    /// See [`vdisk_core::Layer::plan_compact`].
    pub(crate) fn plan(&self, vacant: &Vacant) -> Result<Compaction> {
        let mut plan = Compaction::default();
        for extent in self.extents.iter().filter(|extent| extent.writable) {
            plan += match &extent.body {
                Body::Zero => Compaction::default(),
                Body::Flat(flat) => flat.plan(extent, vacant)?,
                Body::Hosted(hosted) => hosted.plan(extent.start, vacant)?,
                Body::Stream(_) | Body::Foreign(_) => return Err(self.not_compacted(extent)),
            };
        }
        Ok(plan)
    }

    fn not_compacted(&self, extent: &Extent) -> Error {
        let subformat = &self.info.subformat;
        Error::unsupported(format!("{subformat} is only read, not compacted in place"))
            .in_file(self.store_name(extent.store))
            .hint("convert it to a new image, which holds only what is needed")
    }

    /// See [`vdisk_core::LayerMut::compact`].
    pub(crate) fn compact_extents(
        &mut self,
        vacant: &Vacant,
        watch: Watch<'_>,
    ) -> Result<Compaction> {
        self.refuse_change()?;
        // All that could be refused is, before anything is changed.
        self.plan(vacant)?;
        self.change(|layer| {
            layer.stamp()?;
            let mut done = Compaction::default();
            for extent in layer.extents.iter_mut().filter(|extent| extent.writable) {
                done += match &mut extent.body {
                    Body::Flat(_) => extent.punch(vacant)?,
                    Body::Hosted(hosted) => hosted.compact(extent.start, vacant, watch)?,
                    _ => Compaction::default(),
                };
            }
            Ok(done)
        })
    }
}

impl Extent {
    fn punch(&self, vacant: &Vacant) -> Result<Compaction> {
        let mut done = Compaction::default();
        if let Body::Flat(flat) = &self.body {
            for range in flat.vacant(self, vacant) {
                done.punched += punch(&*flat.store, range, DATA)?;
            }
            flat.store.flush()?;
        }
        Ok(done)
    }
}

impl Flat {
    fn plan(&self, extent: &Extent, vacant: &Vacant) -> Result<Compaction> {
        let mut plan = Compaction::default();
        for range in self.vacant(extent, vacant) {
            plan.punched += punchable(&*self.store, range)?;
        }
        Ok(plan)
    }

    /// The vacant bytes of the file.
    fn vacant<'a>(
        &'a self,
        extent: &'a Extent,
        vacant: &'a Vacant,
    ) -> impl Iterator<Item = Range<u64>> + 'a {
        let place = |at: u64| (at - extent.start).saturating_add(self.offset);
        vacant
            .unsaid
            .within(extent.start..extent.end())
            .map(move |range| place(range.start)..place(range.end))
    }
}

impl Hosted {
    fn plan(&self, start: u64, vacant: &Vacant) -> Result<Compaction> {
        self.refuse_unfinished()?;
        self.refuse_lost()?;
        let shape = self.tables.shape;
        let grains = vacant.units(start, shape.len, shape.grain);
        let mut units = self.units(0..shape.grains())?;
        let released = Units::count(&Units::take_out(&mut units, &grains.unsaid));
        let mut plan = Compaction { released, ..Compaction::default() };
        if self.header.zero_grain() {
            plan.released += Units::count(&Units::take_out(&mut units, &grains.zeros));
        } else {
            for zeros in Units::take_out(&mut units.clone(), &grains.zeros) {
                plan.punched += punchable(&*self.tables.store, zeros.at..zeros.end())?;
            }
        }
        let mut packing = self.packing(units)?;
        plan.moved = packing.by_ref().count() as u64;
        plan.cut = self.tables.end.saturating_sub(packing.end());
        Ok(plan)
    }

    /// A header that counts more than the descriptor may have grains that only other programs see.
    fn refuse_unfinished(&self) -> Result<()> {
        let (header, len) = (self.header.capacity, self.tables.shape.len);
        if header <= len {
            return Ok(());
        }
        Err(Error::refused(format!("the header says {header} bytes, the descriptor {len}"))
            .at("VMDK sparse header", 12)
            .in_file(self.tables.store.name())
            .hint("a resize was cut off: finish it with vdisk resize, to its old or its new size"))
    }

    fn compact(&mut self, start: u64, vacant: &Vacant, watch: Watch<'_>) -> Result<Compaction> {
        let before = self.tables.end;
        self.mark()?;
        self.clear_beyond_end()?;
        self.flush()?;
        self.mend_redundant()?;
        let shape = self.tables.shape;
        let grains = vacant.units(start, shape.len, shape.grain);
        let released = self.set_all(&grains.unsaid, 0)?;
        let mut done = Compaction { released, ..Compaction::default() };
        if self.header.zero_grain() {
            done.released += self.set_all(&grains.zeros, 1)?;
        } else {
            // Zeros that hide what the parents hold have to stay, but not on the disk.
            for range in &grains.zeros {
                for zeros in self.units(range.clone())? {
                    done.punched += punch(&*self.tables.store, zeros.at..zeros.end(), DATA)?;
                }
            }
        }
        done.moved = self.pack(watch)?;
        done.cut = before.saturating_sub(self.tables.end);
        Ok(done)
    }

    /// Moves grains from the end of the file into gaps that can hold them, and cuts the end off.
    fn pack(&mut self, watch: Watch<'_>) -> Result<u64> {
        let shape = self.tables.shape;
        let mut packing = self.packing(self.units(0..shape.grains())?)?;
        let (mut moved, mut changes) = (0, BTreeMap::new());
        while !watch.cancel.is_cancelled()
            && let Some(step) = packing.next()
        {
            copy_within(&*self.tables.store, step.from, step.to, step.len, DATA)?;
            let sector = u32::try_from(step.to / SECTOR);
            changes.insert(step.unit, sector.map_err(|_| Error::internal("a grain beyond 2 TiB"))?);
            watch.progress.advance(step.len);
            moved += 1;
            if changes.len() >= BATCH {
                self.switch(&mut changes)?;
            }
        }
        self.switch(&mut changes)?;
        let end = packing.end();
        if end < self.tables.end {
            self.tables.store.resize(end)?;
            self.tables.end = end;
        }
        for gap in packing.free() {
            punch(&*self.tables.store, gap, "free space")?;
        }
        self.tables.store.flush()?;
        Ok(moved)
    }

    /// The grains of a range that stand in the file.
    fn units(&self, grains: Range<u64>) -> Result<Vec<Units>> {
        let len = self.tables.shape.grain;
        let mut units = Vec::new();
        let mut next = grains.start;
        while next < grains.end {
            let (entry, count) = self.tables.run(next, grains.end)?;
            if let Entry::At(at) = entry {
                Units::add(&mut units, Units { at, first: next, count, len });
            }
            if units.len() > MOST_RUNS {
                return Err(Error::unsupported("the file is too scattered to be compacted")
                    .in_file(self.tables.store.name())
                    .hint("convert it to a new image, which is in order"));
            }
            next += count;
        }
        Ok(units)
    }

    /// How grains are packed among the other structures of the file.
    fn packing(&self, grains: Vec<Units>) -> Result<Packing> {
        let shape = self.tables.shape;
        let mut fixed: Vec<_> = std::iter::once(0..shape.floor).collect();
        for directory in std::iter::once(&self.tables.directory).chain(&self.redundant) {
            let end = directory.offset() + directory.len();
            fixed.push(directory.offset()..round_up(end, SECTOR));
        }
        for at in self.tables_of(0..shape.tables())? {
            fixed.push(at..at.saturating_add(shape.table_bytes()));
        }
        let fit = Fit { align: shape.grain.min(ALIGNMENT), skew: 0, least: SECTOR };
        Ok(Packing::new(grains, fixed, fit))
    }

    /// Gives the entries of all grains of these ranges that stand in the file a value. Returns how
    /// many there were.
    fn set_all(&mut self, ranges: &Ranges, value: u32) -> Result<u64> {
        let (mut count, mut changes) = (0, BTreeMap::new());
        for range in ranges {
            for units in self.units(range.clone())? {
                for grain in units.first..units.first + units.count {
                    changes.insert(grain, value);
                    count += 1;
                    if changes.len() >= BATCH {
                        self.switch(&mut changes)?;
                    }
                }
            }
        }
        self.switch(&mut changes)?;
        Ok(count)
    }

    /// Changes the entries of grains that are there, in both copies of their tables. The copies
    /// never name two different places, which nobody could tell from damage: the redundant entry
    /// is absent until the other has changed. Each step is durable before the next, and before the
    /// second all that was written earlier.
    fn switch(&mut self, changes: &mut BTreeMap<u64, u32>) -> Result<()> {
        if changes.is_empty() {
            return Ok(());
        }
        let per_table = self.tables.shape.per_table;
        let mut tables: BTreeMap<u64, [Vec<u8>; 2]> = BTreeMap::new();
        for (grain, value) in std::mem::take(changes) {
            let [blank, new] = match tables.entry(grain / per_table) {
                std::collections::btree_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::btree_map::Entry::Vacant(fresh) => {
                    let (_, table) = self
                        .tables
                        .table(grain / per_table, &mut Holes::default())?
                        .ok_or_else(|| Error::internal("a grain without a table"))?;
                    fresh.insert([table.to_vec(), table.to_vec()])
                }
            };
            let at = to_usize(grain % per_table * 4);
            for (table, value) in [(blank, 0), (new, value)] {
                if let Some(entry) = table.get_mut(at..at + 4) {
                    entry.copy_from_slice(&u32::to_le_bytes(value));
                }
            }
        }
        let store = self.tables.store.clone();
        for step in 0..3 {
            for (index, [blank, new]) in &tables {
                let (at, bytes) = match step {
                    0 => (self.redundant_at(*index)?, blank),
                    1 => (self.tables.table_at(*index)?, new),
                    _ => (self.redundant_at(*index)?, new),
                };
                if let Some(at) = at {
                    store.put(bytes, at, TABLE)?;
                }
            }
            store.flush()?;
        }
        self.tables.forget();
        Ok(())
    }

    /// Fails where a table that counts names no grain and its copy does: after a power cut it may
    /// be the copy that is right, and nothing tells.
    fn refuse_lost(&self) -> Result<()> {
        self.each_differing(|at, table, copy| {
            if self.places(&table)?.is_empty() && !self.places(&copy)?.is_empty() {
                let message = "only the redundant copy of a grain table names grains: a write \
                               that was cut off, or a table that was lost";
                return Err(Error::refused(message)
                    .at(TABLE, at)
                    .in_file(self.tables.store.name())
                    .hint("compacting would settle which; convert the disk to a new image"));
            }
            Ok(())
        })
    }

    /// The end of the last grain in the file that only a redundant table names.
    pub(crate) fn end_of_copies(&self) -> Result<u64> {
        let mut end = 0;
        self.each_differing(|_, _, copy| {
            let ends = self.places(&copy)?.into_iter().map(|at| at + self.tables.shape.grain);
            end = ends.filter(|end| *end <= self.tables.end).fold(end, u64::max);
            Ok(())
        })?;
        Ok(end)
    }

    /// Where the grains stand that a table names.
    fn places(&self, table: &[u8]) -> Result<Vec<u64>> {
        let mut places = Vec::new();
        for slot in 0..self.tables.shape.per_table {
            if let Entry::At(at) = self.tables.entry(table, slot * 4, 0)? {
                places.push(at);
            }
        }
        Ok(places)
    }

    /// Makes the redundant tables say what the others say.
    fn mend_redundant(&mut self) -> Result<()> {
        let store = &self.tables.store;
        self.each_differing(|at, table, _| store.put(&table, at, TABLE))?;
        store.flush()
    }

    /// Calls `each` with the place of every redundant table that differs from the table it is a
    /// copy of, with that table, and with the copy.
    fn each_differing(
        &self,
        mut each: impl FnMut(u64, Arc<[u8]>, Vec<u8>) -> Result<()>,
    ) -> Result<()> {
        let (store, bytes) = (&*self.tables.store, self.tables.shape.table_bytes());
        let (mut holes, mut other_holes) = (Holes::default(), Holes::default());
        if self.redundant.as_ref().is_none_or(PagedTable::is_empty) {
            return Ok(());
        }
        for index in 0..self.tables.shape.tables() {
            let Some(other) = self.redundant_at(index)? else { continue };
            let table = self.tables.table(index, &mut holes)?;
            if table.is_none() && other_holes.covers(store, other, bytes, self.tables.end)? {
                continue;
            }
            let table = table.map_or_else(|| vec![0; to_usize(bytes)].into(), |(_, table)| table);
            let copy = GrainTables::load(store, other, bytes)?;
            if *copy != *table {
                each(other, table, copy)?;
            }
        }
        Ok(())
    }
}
