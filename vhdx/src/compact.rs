//! Giving space back: blocks that nobody needs leave the table, those at the end of the file move
//! into the gaps, and the file is cut.
//!
//! All changes of the table go through the log. What an entry led to is free only when the new
//! entry is durable, and a block is copied before that: see `session`. The file is cut when the
//! header names no log any more, for a log may ask for the file's old length.

use std::ops::Range;

use vdisk_core::compact::{Fit, Units, copy_within, punch, punchable};
use vdisk_core::{Compaction, Error, Packing, Ranges, Result, StoreExt, Vacant, Watch};

use crate::MIB;
use crate::bat::{self, ENTRY, Payload, Slot, State};
use crate::bitmap;
use crate::open::VhdxLayer;
use crate::writer::Taken;

/// Runs of blocks that are looked at: 100 MB of memory.
const MOST_RUNS: usize = 4 << 20;
const DATA: &str = "guest data";

/// What a file consists of.
struct Layout {
    /// Blocks and sector bitmaps, numbered by their entries.
    units: Vec<Units>,
    /// What does not move.
    fixed: Vec<Range<u64>>,
}

impl VhdxLayer {
    /// See [`vdisk_core::Layer::plan_compact`].
    pub(crate) fn plan(&self, vacant: &Vacant) -> Result<Compaction> {
        let mut layout = self.layout()?;
        let mut units = layout.units.clone();
        let gone = self.vacant_entries(vacant).map(|entries| Units::take_out(&mut units, &entries));
        let mut plan = Compaction::default();
        if self.metadata.leave_allocated {
            for units in gone.iter().flatten() {
                plan.punched += punchable(&**self.file()?, units.at..units.end())?;
            }
        } else {
            plan.released = gone.iter().map(|units| Units::count(units)).sum();
            layout.units = units;
        }
        let mut packing = packing(layout);
        plan.moved = packing.by_ref().count() as u64;
        plan.cut = self.map.file_len.saturating_sub(packing.end());
        Ok(plan)
    }

    /// See [`vdisk_core::LayerMut::compact`].
    pub(crate) fn compact_file(&mut self, vacant: &Vacant, watch: Watch<'_>) -> Result<Compaction> {
        let settled = self.writer_mut()?.settled;
        self.begin()?;
        let before = self.map.file_len;
        let [unsaid, zeros] = self.vacant_entries(vacant);
        let mut units = self.layout()?.units;
        let mut done = Compaction::default();
        let absent = Payload { state: State::NotPresent, offset: 0 };
        for (entries, payload) in [(unsaid, absent), (zeros, Payload::ZERO)] {
            for gone in Units::take_out(&mut units, &entries) {
                if self.metadata.leave_allocated {
                    done.punched += punch(&**self.file()?, gone.at..gone.end(), DATA)?;
                    continue;
                }
                for index in gone.first..gone.first + gone.count {
                    self.vacate(self.map.geometry.block_from_index(index), payload)?;
                    done.released += 1;
                }
            }
        }
        done.moved = self.pack(watch)?;
        self.end()?;
        self.file()?.flush()?;
        if settled {
            // The promise outlasts the session that ended here.
            self.settle(self.current.header.data_write)?;
        }
        done.cut = before.saturating_sub(self.map.file_len);
        Ok(done)
    }

    /// The entries of the blocks that are vacant as a whole, as ranges of their indexes: those of
    /// which nothing need be said, and those that must stay zeros.
    fn vacant_entries(&self, vacant: &Vacant) -> [Ranges; 2] {
        let geometry = self.map.geometry;
        let blocks = vacant.units(0, geometry.virtual_size, geometry.block_size);
        [blocks.unsaid, blocks.zeros].map(|ranges| {
            let mut entries = Ranges::new();
            for range in &ranges {
                let mut block = range.start;
                while block < range.end {
                    let end = range.end.min((geometry.chunk(block) + 1) * geometry.ratio());
                    let index = geometry.payload_index(block);
                    entries.push(index..index + (end - block));
                    block = end;
                }
            }
            entries
        })
    }

    fn layout(&self) -> Result<Layout> {
        let mut layout = Layout { units: Vec::new(), fixed: self.map.reserved().to_vec() };
        self.map.walk(|index, raw| {
            match self.map.taken_by(index, raw)? {
                Some(Taken::Block(place)) => {
                    let len = place.end - place.start;
                    Units::add(
                        &mut layout.units,
                        Units { at: place.start, first: index, count: 1, len },
                    );
                }
                Some(Taken::Anchor(place)) if place.end <= self.map.file_len => {
                    layout.fixed.push(place);
                }
                _ => {}
            }
            if layout.units.len() + layout.fixed.len() > MOST_RUNS {
                return Err(Error::unsupported("the file is too scattered to be compacted")
                    .hint("convert it to a new image, which is in order"));
            }
            Ok(())
        })?;
        Ok(layout)
    }

    /// Takes a block that is there out of the file; `payload` is what it is from then on.
    pub(crate) fn vacate(&mut self, block: u64, payload: Payload) -> Result<()> {
        let old = self.map.payload(block)?;
        self.make_room(self.pages_per_block())?;
        let geometry = self.map.geometry;
        if geometry.has_parent
            && let Some(base) = self.map.bitmap(geometry.chunk(block))?
        {
            // Some readers look at the bits whatever the block's state is.
            let bits = geometry.bits(&geometry.block_range(block));
            bitmap::fill(&self.map.bitmaps, base, bits, false)?;
        }
        self.set_payloads(block..block + 1, |_| payload)?;
        self.writer_mut()?.space.give_up(old.offset..old.offset + geometry.block_size);
        Ok(())
    }

    /// Moves blocks and bitmaps from the end of the file into gaps that can hold them. Returns how
    /// many.
    fn pack(&mut self, watch: Watch<'_>) -> Result<u64> {
        // What was given up is free afterwards, and no page of a bitmap waits.
        self.commit()?;
        let mut packing = packing(self.layout()?);
        let mut moved = 0;
        while !watch.cancel.is_cancelled()
            && let Some(step) = packing.next()
        {
            self.make_room(1)?;
            if !self.writer_mut()?.space.claim(&(step.to..step.to + step.len))? {
                return Err(Error::internal("a block would move over something else"));
            }
            copy_within(&**self.file()?, step.from, step.to, step.len, DATA)?;
            self.lead_to(step.unit, step.to)?;
            self.writer_mut()?.space.give_up(step.from..step.from + step.len);
            watch.progress.advance(step.len);
            moved += 1;
        }
        self.commit()?;
        for gap in packing.free().collect::<Ranges>().within(0..self.map.file_len) {
            punch(&**self.file()?, gap, "free space")?;
        }
        Ok(moved)
    }

    /// Has the entry `index` name the same block or bitmap at byte `offset`.
    fn lead_to(&mut self, index: u64, offset: u64) -> Result<()> {
        let raw = match self.map.geometry.slot(index) {
            Slot::Payload(block) => Payload { offset, ..self.map.payload(block)? }.encode(),
            Slot::Bitmap(_) => {
                self.map.bitmaps.forget();
                bat::encode_bitmap(offset)
            }
        };
        self.map.bat.write(index * ENTRY, &raw.to_le_bytes())
    }
}

/// How blocks are packed: at whole MiBs, as everything in the file.
fn packing(layout: Layout) -> Packing {
    Packing::new(layout.units, layout.fixed, Fit { align: MIB, skew: 0, least: MIB })
}
