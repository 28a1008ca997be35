//! Writing in place.
//!
//! VHD has no journal, so the order of writes is what survives a power cut:
//!
//! 1. data, fresh blocks (which read as zeros all through) and the footer behind them,
//! 2. flush,
//! 3. bitmap bits and block table entries that make them visible,
//! 4. flush.
//!
//! Step 3 waits in memory until [`LayerMut::flush`], or until much waits. Whatever part of the
//! writes since the last flush reaches the disk, the image opens: its blocks are those of the
//! table as flushed, each bit and entry that did get there shows data that was flushed before,
//! and where the footer at the end was caught in moving, its copy at byte 0 counts.

use std::ops::Range;

use vdisk_core::disk::{in_range, read_padded};
use vdisk_core::zeros::is_zero;
use vdisk_core::{
    Access, Compaction, Disk, Error, ErrorKind, Layer, LayerMut, ParentLink, Result, StoreExt,
    Vacant, Watch,
};

use crate::locator::RawLocator;
use crate::open::{Body, VhdLayer};
use crate::shape::{FIRST_BEYOND, SECTOR, to_usize};
use crate::sparse::{BlockAt, Sparse};

/// Block table entries that wait at most.
const MOST_ENTRIES: usize = 4096;
/// Bytes of bitmaps that wait at most.
const MOST_BITMAPS: u64 = 8 << 20;

impl VhdLayer {
    /// Looks at what makes writing unsafe, before anything is written.
    pub(crate) fn admit(&mut self) -> Result<()> {
        let footer = match &self.body {
            Body::Fixed(fixed) => &fixed.footer,
            Body::Sparse(sparse) => &sparse.footer,
        };
        if footer.saved_state() {
            return Err(Error::refused("the disk belongs to a machine in saved state")
                .at("VHD footer", 0)
                .hint("start the machine and shut it down, or open the disk for reading only"));
        }
        match &mut self.body {
            Body::Fixed(_) => Ok(()),
            Body::Sparse(sparse) => sparse.admit(),
        }
    }

    fn ready(&self) -> Result<()> {
        if self.access == Access::Read {
            return Err(Error::new(ErrorKind::Denied, "the image is open for reading only")
                .in_file(self.stores[0].name()));
        }
        if self.failed {
            return Err(Error::new(ErrorKind::Io, "an earlier flush or change of size failed")
                .in_file(self.stores[0].name())
                .hint("open the image again and check it"));
        }
        Ok(())
    }

    fn changing(&mut self, offset: u64, len: u64) -> Result<()> {
        self.ready()?;
        in_range(offset, len, self.info().virtual_size)
    }
}

impl LayerMut for VhdLayer {
    fn write(&mut self, data: &[u8], offset: u64, below: &dyn Disk) -> Result<()> {
        self.changing(offset, data.len() as u64)?;
        let (mut rest, mut at) = (data, offset);
        while !rest.is_empty() {
            let done = match &mut self.body {
                Body::Fixed(_) => {
                    self.stores[0].put(rest, at, "guest data")?;
                    rest.len()
                }
                Body::Sparse(sparse) => sparse.write(rest, at, below)?,
            };
            self.relieve()?;
            rest = rest.get(done..).unwrap_or_default();
            at += done as u64;
        }
        Ok(())
    }

    fn zero(&mut self, range: Range<u64>, below: &dyn Disk) -> Result<()> {
        let len = range.end.saturating_sub(range.start);
        self.changing(range.start, len)?;
        let mut at = range.start;
        while at < range.end {
            at = match &mut self.body {
                Body::Fixed(_) => {
                    self.stores[0].clear(at, len, "guest data")?;
                    range.end
                }
                Body::Sparse(sparse) => sparse.zero(at, range.end, below)?,
            };
            self.relieve()?;
        }
        Ok(())
    }

    /// Fixed and dynamic disks only. A child's size is its parent's.
    fn resize(&mut self, virtual_size: u64) -> Result<()> {
        self.ready()?;
        self.may_resize(virtual_size)?;
        if virtual_size == self.info.virtual_size && !self.resize_is_unfinished() {
            return Ok(());
        }
        self.failed = true;
        self.resize_body(virtual_size)?;
        self.failed = false;
        Ok(())
    }

    fn compact(&mut self, vacant: &Vacant, watch: Watch<'_>) -> Result<Compaction> {
        self.ready()?;
        self.failed = true;
        let done = self.compact_body(vacant, watch)?;
        self.failed = false;
        Ok(done)
    }

    fn flush(&mut self) -> Result<()> {
        self.ready()?;
        self.failed = true;
        match &mut self.body {
            Body::Fixed(_) => self.stores[0].flush()?,
            Body::Sparse(sparse) => sparse.flush()?,
        }
        self.failed = false;
        Ok(())
    }

    fn relink(&mut self, link: &ParentLink) -> Result<()> {
        self.ready()?;
        self.relink_to(link)
    }

    /// A VHD has no mark of a clean close: this is a flush.
    fn close(&mut self) -> Result<()> {
        self.flush()
    }
}

impl VhdLayer {
    /// Keeps what waits in memory within bounds.
    fn relieve(&mut self) -> Result<()> {
        match &self.body {
            Body::Sparse(sparse) if sparse.waits_much() => self.flush(),
            _ => Ok(()),
        }
    }
}

impl Sparse {
    /// See [`VhdLayer::admit`]. Finds the end of the blocks, where new ones are appended.
    fn admit(&mut self) -> Result<()> {
        let corrupt = |at, message| {
            let error = Error::corrupt("VHD block table", at, message);
            error.hint("nothing was changed; see `vdisk check`")
        };
        if !self.header.checksum_ok {
            return Err(Error::corrupt("VHD dynamic header", self.header.at, "wrong checksum")
                .hint("open it for reading only; `vdisk check -r all` mends what is certain"));
        }
        let mut end = self.metadata_end();
        let mut blocks_end = 0;
        for (sector, block) in self.blocks()? {
            let place = self.place_of(block, sector);
            // Fails where the block cannot stand there.
            self.block_at(block)?;
            if place.bitmap < blocks_end {
                let message = format!("block {block} overlaps the block before byte {blocks_end}");
                return Err(corrupt(self.bat.entry_at(block), message));
            }
            blocks_end = place.bitmap + self.shape.slot();
        }
        end = end.max(blocks_end);
        if self.tail_good {
            end = end.max(self.end);
        }
        self.tail_good &= end == self.end;
        self.end = end;
        Ok(())
    }

    /// The blocks there are, sorted; see [`Sparse::survey`].
    pub(crate) fn blocks(&self) -> Result<Vec<(u32, u32)>> {
        self.survey()?.ok_or_else(|| {
            Error::unsupported("the image has more blocks than vdisk changes in place")
                .hint("convert it to an image with larger blocks")
        })
    }

    /// Writes what of `data` goes into the block that holds `at`; returns how many bytes.
    fn write(&mut self, data: &[u8], at: u64, below: &dyn Disk) -> Result<usize> {
        self.prepare()?;
        let start = at % self.shape.block;
        let data = data.get(..to_usize(self.shape.block - start)).unwrap_or(data);
        let block = self.block_of(at);
        let place = match self.block_at(block)? {
            Some(place) => place,
            None if !self.differencing && is_zero(data) => return Ok(data.len()),
            None => self.allocate(block)?,
        };
        let range = start..start + data.len() as u64;
        self.fill_edges(place, &range, below)?;
        self.store.put(data, place.data + start, "guest data")?;
        self.set_present(place, &range)?;
        Ok(data.len())
    }

    /// Zeros from `at` to the end of its block, or to `end`; returns where it stopped.
    ///
    /// A dynamic disk keeps its blocks and gives their bytes back to the host as holes: a block
    /// that was given up would leave a gap in the file that only moving other blocks could close.
    /// A differencing disk must hold zeros of its own, for it has no other way to hide the
    /// parent's bytes.
    fn zero(&mut self, at: u64, end: u64, below: &dyn Disk) -> Result<u64> {
        self.prepare()?;
        let block = self.block_of(at);
        let start = u64::from(block) * self.shape.block;
        let stop = end.min(start + self.shape.block);
        let place = match self.block_at(block)? {
            Some(place) => place,
            None if !self.differencing => {
                let last = self.block_of(end - 1).saturating_add(1);
                let next = self.bat.next_present(block.saturating_add(1), last)?;
                return Ok((u64::from(next) * self.shape.block).min(end));
            }
            None => self.allocate(block)?,
        };
        let range = at - start..stop - start;
        if self.differencing {
            self.fill_edges(place, &range, below)?;
        }
        self.store.clear(place.data + range.start, range.end - range.start, "guest data")?;
        if self.differencing {
            self.set_present(place, &range)?;
        }
        Ok(stop)
    }

    /// Fills the granules at both ends of `range` with what they read as, where they are not
    /// present yet and the range covers them only in part.
    fn fill_edges(&self, place: BlockAt, range: &Range<u64>, below: &dyn Disk) -> Result<()> {
        let granule = self.shape.granule();
        let (first, last) = (range.start / granule, (range.end - 1) / granule);
        let edges = [Some(first), (last > first).then_some(last)];
        for index in edges.into_iter().flatten() {
            let edge = index * granule..(index + 1) * granule;
            if edge.start < range.start || range.end < edge.end {
                self.fill(place, &edge, below)?;
            }
        }
        Ok(())
    }

    /// Writes what the sectors of a granule that are not present read as. Nobody sees them until
    /// their bits are set.
    fn fill(&self, place: BlockAt, granule: &Range<u64>, below: &dyn Disk) -> Result<()> {
        let bits = self.bitmaps.get(place.block, place.bitmap)?;
        let until = to_usize(granule.end / SECTOR);
        let mut sector = to_usize(granule.start / SECTOR);
        while sector < until {
            let (present, stop) = bits.run(sector, until);
            if !present {
                let within = sector as u64 * SECTOR;
                let mut buf = vec![0; (stop - sector) * to_usize(SECTOR)];
                if self.differencing {
                    let guest = u64::from(place.block) * self.shape.block + within;
                    read_padded(below, &mut buf, guest)?;
                }
                self.store.put(&buf, place.data + within, "guest data")?;
            }
            sector = stop;
        }
        Ok(())
    }

    fn set_present(&mut self, place: BlockAt, range: &Range<u64>) -> Result<()> {
        let granule = self.shape.granule();
        let bytes = to_usize(range.start / granule)..to_usize(range.end.div_ceil(granule));
        self.bitmaps.set_bytes(place.block, place.bitmap, bytes)
    }

    /// Makes room for `block`, which reads as zeros, or in a differencing disk as the parent.
    fn allocate(&mut self, block: u32) -> Result<BlockAt> {
        let sector = self.append()?;
        let place = self.place_of(block, sector);
        if !self.differencing {
            // Many readers take every sector of a dynamic disk's block as present.
            let bitmap = vec![0xFF; to_usize(self.shape.bitmap)];
            self.store.put(&bitmap, place.bitmap, "VHD sector bitmap")?;
        }
        self.bat.set(block, sector);
        Ok(place)
    }

    /// Makes room for a block of zeros at the end of the file; returns its sector.
    pub(crate) fn append(&mut self) -> Result<u32> {
        self.refuse_stray_locators(u64::MAX, u64::MAX)?;
        let entries = self.bat.entries();
        let at = self.shape.place_from(self.end, entries.into());
        let sector = self.shape.entry(at).map_err(|e| e.in_file(self.store.name()))?;
        self.move_end(at + self.shape.slot())?;
        Ok(sector)
    }

    /// Fails where a locator that starts before byte `before` leads out of the file, and would not
    /// any more in a file of `grown` bytes. It takes no room until then; then it would lie over
    /// blocks.
    pub(crate) fn refuse_stray_locators(&self, before: u64, grown: u64) -> Result<()> {
        if !self.differencing {
            return Ok(());
        }
        let file_len = self.store.size()?;
        let before = before.min(FIRST_BEYOND);
        let locators = self.header.parent().locators;
        let mut claimed = locators.iter().filter_map(RawLocator::range);
        let outside = |range: &Range<u64>| range.end > file_len && range.end <= grown;
        match claimed.find(|range| range.start < before && outside(range)) {
            None => Ok(()),
            Some(range) => Err(Error::corrupt(
                "VHD parent locator",
                range.start,
                format!("it reaches beyond the file's end at byte {file_len}"),
            )
            .in_file(self.store.name())
            .hint(
                "convert the image to a new one, or name its parent anew with `vdisk rebase -u`",
            )),
        }
    }

    /// Moves the footer further on. What comes before it reads as zero.
    pub(crate) fn move_end(&mut self, end: u64) -> Result<()> {
        let len = self.store.size()?;
        self.store.put(&self.footer.to_bytes(), end, "VHD footer")?;
        // The old footer, and on a device whatever was there.
        let stale = len.min(end).saturating_sub(self.end);
        if stale > 0 {
            self.store.clear(self.end, stale, "VHD block")?;
        }
        self.end = end;
        Ok(())
    }

    /// Before the first change: both footers must be right, as each stands in for the other.
    pub(crate) fn prepare(&mut self) -> Result<()> {
        if !self.copy_good {
            self.store.put(&self.footer.to_bytes(), 0, "VHD footer copy")?;
            self.store.flush()?;
            self.copy_good = true;
        }
        if !self.tail_good {
            self.put_tail()?;
            self.tail_good = true;
        }
        Ok(())
    }

    /// Writes the footer where the blocks end, and lets the file end there.
    pub(crate) fn put_tail(&mut self) -> Result<()> {
        self.store.put(&self.footer.to_bytes(), self.end, "VHD footer")?;
        self.store.flush()?;
        self.store.resize(self.end + SECTOR)
    }

    /// Whether as much waits in memory as may.
    pub(crate) fn waits_much(&self) -> bool {
        self.bat.waiting() >= MOST_ENTRIES || self.bitmaps.waiting() >= MOST_BITMAPS
    }

    /// See the module's introduction.
    pub(crate) fn flush(&mut self) -> Result<()> {
        self.store.flush()?;
        if self.bat.waiting() == 0 && self.bitmaps.waiting() == 0 {
            return Ok(());
        }
        self.bitmaps.write()?;
        self.bat.write()?;
        self.store.flush()
    }
}
