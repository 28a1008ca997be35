//! Giving space back: blocks that nobody needs leave the table, those at the end of the file move
//! into the gaps, and the file is cut.
//!
//! The steps, each durable before the next:
//!
//! 1. entries of blocks that are given up become absent: the disk reads the same with any of them;
//!    a batmap says nothing of them before;
//! 2. blocks are copied from the end of the file into gaps, then the entries lead there: as with
//!    every write, see `write`. What a block leaves behind stays as it is;
//! 3. a second footer goes to the new end, and the file is cut behind it.

use std::ops::Range;

use vdisk_core::compact::{Units, copy_within, punch, punchable};
use vdisk_core::{Compaction, Packing, Ranges, Result, StoreExt, Vacant, Watch};

use crate::batmap::{Batmap, overlap};
use crate::open::{Body, VhdLayer};
use crate::shape::SECTOR;
use crate::sparse::{BlockAt, Sparse};

const BLOCK: &str = "VHD block";

impl VhdLayer {
    /// See [`vdisk_core::Layer::plan_compact`].
    pub(crate) fn plan(&self, vacant: &Vacant) -> Result<Compaction> {
        let Body::Sparse(sparse) = &self.body else {
            let mut plan = Compaction::default();
            for range in &vacant.unsaid {
                plan.punched += punchable(&*self.stores[0], range.clone())?;
            }
            return Ok(plan);
        };
        sparse.plan(&sparse.vacant_blocks(vacant))
    }

    /// See [`vdisk_core::LayerMut::compact`].
    pub(crate) fn compact_body(&mut self, vacant: &Vacant, watch: Watch<'_>) -> Result<Compaction> {
        let Body::Sparse(sparse) = &mut self.body else {
            let mut done = Compaction::default();
            for range in &vacant.unsaid {
                done.punched += punch(&*self.stores[0], range.clone(), "guest data")?;
            }
            self.stores[0].flush()?;
            return Ok(done);
        };
        sparse.compact(&sparse.vacant_blocks(vacant), watch)
    }
}

impl Sparse {
    fn vacant_blocks(&self, vacant: &Vacant) -> Vacant {
        vacant.units(0, self.size, self.shape.block)
    }

    fn plan(&self, blocks: &Vacant) -> Result<Compaction> {
        let mut units = self.units()?;
        let released = Units::count(&Units::take_out(&mut units, &blocks.unsaid));
        let mut plan = Compaction { released, ..Compaction::default() };
        for place in self.places(&blocks.zeros)? {
            plan.punched += punchable(&*self.store, self.data_of(place))?;
        }
        let mut packing = self.packing(units);
        plan.moved = packing.by_ref().count() as u64;
        plan.cut = self.store.size()?.saturating_sub(packing.end() + SECTOR);
        Ok(plan)
    }

    fn compact(&mut self, blocks: &Vacant, watch: Watch<'_>) -> Result<Compaction> {
        let before = self.store.size()?;
        self.prepare()?;
        self.flush()?;
        let released = self.places(&blocks.unsaid)?.len() as u64;
        let mut done = Compaction { released, ..Compaction::default() };
        // A block that is not there must not count as full, not even once it is there again.
        if released > 0
            && let Some(map) = &self.batmap
            && !is_taken(map, &self.units()?)
        {
            map.forget(&*self.store)?;
        }
        for range in &blocks.unsaid {
            self.bat.drop_range(number(range.start)..number(range.end))?;
        }
        self.bitmaps.forget();
        // The zeros of a child that hide its parents' bytes have to stay, but not on the disk.
        for place in self.places(&blocks.zeros)? {
            done.punched += punch(&*self.store, self.data_of(place), BLOCK)?;
        }
        self.store.flush()?;
        done.moved = self.pack(watch)?;
        done.cut = before.saturating_sub(self.store.size()?);
        Ok(done)
    }

    /// Where the blocks of these ranges stand that are there.
    fn places(&self, ranges: &Ranges) -> Result<Vec<BlockAt>> {
        let mut found = Vec::new();
        for range in ranges {
            let end = number(range.end);
            let mut block = self.bat.next_present(number(range.start), end)?;
            while block < end {
                found.extend(self.block_at(block)?);
                block = self.bat.next_present(block + 1, end)?;
            }
        }
        Ok(found)
    }

    fn data_of(&self, place: BlockAt) -> Range<u64> {
        place.data..place.data + self.shape.block
    }

    /// Moves blocks from the end of the file into gaps that can hold them, cuts the end off and
    /// gives the gaps that are left back to the host. Nothing waits in memory before, and what is
    /// not in the table may be overwritten. Returns the number of blocks moved.
    pub(crate) fn pack(&mut self, watch: Watch<'_>) -> Result<u64> {
        let mut moved = 0;
        let mut packing = self.packing(self.units()?);
        while !watch.cancel.is_cancelled()
            && let Some(step) = packing.next()
        {
            self.move_block(number(step.unit), step.from, step.to)?;
            watch.progress.advance(step.len);
            moved += 1;
        }
        let (end, free) = (packing.end(), packing.free().collect::<Vec<_>>());
        self.flush()?;
        if end != self.end {
            self.end = end;
            self.put_tail()?;
        }
        for gap in free {
            punch(&*self.store, gap, "free space")?;
        }
        self.store.flush()?;
        Ok(moved)
    }

    /// All blocks that are there.
    fn units(&self) -> Result<Vec<Units>> {
        let len = self.shape.slot();
        let unit = |(sector, block): (u32, u32)| {
            let at = u64::from(sector) * SECTOR;
            Units { at, first: block.into(), count: 1, len }
        };
        Ok(self.blocks()?.into_iter().map(unit).collect())
    }

    /// How blocks are packed among the other structures of the file.
    fn packing(&self, blocks: Vec<Units>) -> Packing {
        let mut fixed = self.metadata.clone();
        fixed.push(self.bat.range());
        let batmap = self.batmap.iter().filter(|map| !is_taken(map, &blocks));
        fixed.extend(batmap.flat_map(Batmap::ranges).cloned());
        Packing::new(blocks, fixed, self.shape.fit(self.bat.entries().into()))
    }

    /// Copies a block with its bitmap from one byte of the file to another, where nothing stands.
    pub(crate) fn move_block(&mut self, block: u32, from: u64, to: u64) -> Result<()> {
        let sector = self.shape.entry(to)?;
        copy_within(&*self.store, from, to, self.shape.slot(), BLOCK)?;
        self.bat.set(block, sector);
        if self.waits_much() { self.flush() } else { Ok(()) }
    }
}

/// Whether blocks stand where the batmap should.
fn is_taken(map: &Batmap, blocks: &[Units]) -> bool {
    let mut blocks = blocks.iter().map(|block| block.at..block.end());
    blocks.any(|block| map.ranges().into_iter().any(|range| overlap(range, &block)))
}

/// A block's number; the table has no more than these.
fn number(block: u64) -> u32 {
    u32::try_from(block).unwrap_or(u32::MAX)
}
