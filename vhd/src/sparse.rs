//! The body of a dynamic or differencing disk: which blocks are there, and what they hold.
//!
//! Invariant: a block table entry is believed only after [`Sparse::block_at`] found that the
//! block lies inside the file and outside the metadata.

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::{Error, ErrorKind, LayerExtent, LayerKind, Result, Store};

use crate::bat::Bat;
use crate::batmap::Batmap;
use crate::bitmap::Bitmaps;
use crate::footer::{FOOTER, Footer};
use crate::header::{HEADER, Header};
use crate::locator::RawLocator;
use crate::shape::{SECTOR, Shape, to_usize};

/// Blocks whose bitmaps one extent may span: reading them must not take for ever.
const MERGED: u32 = 1024;
/// Blocks an image may hold to be surveyed: 2040 GiB in blocks of 512 KiB.
const MOST_BLOCKS: usize = 4 << 20;

/// The body of a disk that stores blocks.
#[derive(Debug)]
pub(crate) struct Sparse {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) footer: Footer,
    pub(crate) header: Header,
    pub(crate) shape: Shape,
    /// Whether sectors that are not present are the parent's.
    pub(crate) differencing: bool,
    /// What the guest sees, bytes.
    pub(crate) size: u64,
    pub(crate) bat: Bat,
    pub(crate) bitmaps: Bitmaps,
    /// Footer copy, header and locator data; the table says itself where it stands.
    pub(crate) metadata: Vec<Range<u64>>,
    /// tapdisk's map of full blocks; no block goes there, but one that is there already counts.
    pub(crate) batmap: Option<Batmap>,
    /// Where blocks end: the footer at the end of the file, or the end itself.
    pub(crate) end: u64,
    /// Whether the file ends with the right footer, at `end`.
    pub(crate) tail_good: bool,
    /// Whether the copy at byte 0 is the right one.
    pub(crate) copy_good: bool,
}

/// Where a block stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockAt {
    pub(crate) block: u32,
    /// Byte offset of its bitmap.
    pub(crate) bitmap: u64,
    /// Byte offset of its data.
    pub(crate) data: u64,
}

/// Why a block cannot stand where its entry says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Misplaced {
    /// It lies beyond the end of the file, or over the footer.
    Outside,
    /// It lies over header, table, footer copy or locators.
    InMetadata,
}

impl Sparse {
    /// The extent at guest byte `offset`; see [`vdisk_core::Layer::extent_at`].
    pub(crate) fn extent_at(&self, offset: u64, end: u64) -> Result<LayerExtent> {
        let (mut stop, kind) = self.piece(offset, end)?;
        let mut spanned = 0;
        while stop < end && spanned < MERGED && !matches!(kind, LayerKind::Data { .. }) {
            // A fault further on is told when that place is asked for.
            match self.piece(stop, end) {
                Ok((next, same)) if same == kind => stop = next,
                _ => break,
            }
            spanned += 1;
        }
        Ok(LayerExtent { start: offset, len: stop - offset, kind })
    }

    /// What stands at `offset` and up to where: to the end of the block, or to the next block
    /// that is there.
    fn piece(&self, offset: u64, end: u64) -> Result<(u64, LayerKind)> {
        let nothing =
            if self.differencing { LayerKind::Hole } else { LayerKind::Zero { explicit: false } };
        let block = self.block_of(offset);
        let Some(place) = self.block_at(block)? else {
            let last = self.block_of(end - 1).saturating_add(1);
            let next = self.bat.next_present(block.saturating_add(1), last)?;
            return Ok(((u64::from(next) * self.shape.block).min(end), nothing));
        };
        let start = u64::from(block) * self.shape.block;
        let within = offset - start;
        let until = (end - start).min(self.shape.block).div_ceil(SECTOR);
        self.ask_for(self.bitmaps.wanted(block));
        let bits = self.bitmaps.get(block, place.bitmap)?;
        let (present, until) = bits.run(to_usize(within / SECTOR), to_usize(until));
        let stop = (start + until as u64 * SECTOR).min(end);
        let data = LayerKind::Data { store: 0, at: place.data + within };
        Ok((stop, if present { data } else { nothing }))
    }

    /// Has the host read the bitmaps of `blocks`, without waiting for it.
    fn ask_for(&self, blocks: Range<u32>) {
        let Some(host) = self.store.host() else { return };
        for block in blocks.start..blocks.end.min(self.bat.entries()) {
            // What is wrong with an entry is told to whoever reads the block.
            if let Ok(Some(place)) = self.block_at(block) {
                host.will_need(place.bitmap, self.shape.bitmap);
            }
        }
    }

    /// The number of the block that holds guest byte `offset`.
    pub(crate) fn block_of(&self, offset: u64) -> u32 {
        // The table covers the disk, so block numbers fit.
        u32::try_from(offset / self.shape.block).unwrap_or(u32::MAX)
    }

    /// Where `block` stands; `None` where it is not there.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) or [`Truncated`](ErrorKind::Truncated) where it cannot
    /// stand there.
    pub(crate) fn block_at(&self, block: u32) -> Result<Option<BlockAt>> {
        let Some(sector) = self.bat.get(block)? else { return Ok(None) };
        let place = self.place_of(block, sector);
        match self.misplaced(place) {
            None => Ok(Some(place)),
            Some(how) => Err(self.misplaced_error(place, how)),
        }
    }

    /// Where a block would stand that starts at `sector`.
    pub(crate) fn place_of(&self, block: u32, sector: u32) -> BlockAt {
        let bitmap = u64::from(sector) * SECTOR;
        BlockAt { block, bitmap, data: bitmap + self.shape.bitmap }
    }

    /// What keeps a block from standing at `place`.
    pub(crate) fn misplaced(&self, place: BlockAt) -> Option<Misplaced> {
        // Behind the disk's end the last block may be cut short: no guest byte is missing.
        let guest = self.size.saturating_sub(u64::from(place.block) * self.shape.block);
        if place.data + guest.min(self.shape.block) > self.end {
            return Some(Misplaced::Outside);
        }
        let slot = place.bitmap..place.bitmap + self.shape.slot();
        let taken = |range: &Range<u64>| slot.start < range.end && range.start < slot.end;
        let over = taken(&self.bat.range()) || self.metadata.iter().any(taken);
        over.then_some(Misplaced::InMetadata)
    }

    fn misplaced_error(&self, place: BlockAt, how: Misplaced) -> Error {
        let BlockAt { block, bitmap, .. } = place;
        let at = self.bat.entry_at(block);
        let error = match how {
            Misplaced::Outside => Error::new(
                ErrorKind::Truncated,
                format!("block {block} at byte {bitmap} reaches beyond the end at {}", self.end),
            )
            .at("VHD block table", at)
            .hint("the file was cut short, or its block table is damaged; see `vdisk check`"),
            Misplaced::InMetadata => Error::corrupt(
                "VHD block table",
                at,
                format!("block {block} at byte {bitmap} lies over the image's own structures"),
            )
            .hint("the block table is damaged; see `vdisk check`"),
        };
        error.in_file(self.store.name())
    }

    /// The start sector and number of every block that is there, sorted; blocks beyond the
    /// disk's end included. `None` where there are more than can be looked at.
    pub(crate) fn survey(&self) -> Result<Option<Vec<(u32, u32)>>> {
        let mut found = Vec::new();
        let entries = self.bat.entries();
        let mut block = self.bat.next_present(0, entries)?;
        while block < entries {
            if found.len() >= MOST_BLOCKS {
                return Ok(None);
            }
            if let Some(sector) = self.bat.get(block)? {
                found.push((sector, block));
            }
            block = self.bat.next_present(block + 1, entries)?;
        }
        found.sort_unstable();
        Ok(Some(found))
    }

    /// Where the batmap stands.
    pub(crate) fn batmap_ranges(&self) -> impl Iterator<Item = &Range<u64>> {
        self.batmap.iter().flat_map(Batmap::ranges)
    }

    /// The end of everything that is not a block.
    pub(crate) fn metadata_end(&self) -> u64 {
        let others = self.metadata.iter().chain(self.batmap_ranges()).map(|range| range.end);
        others.fold(self.bat.range().end, u64::max)
    }
}

/// The bytes that the footer copy, the header and the locators' data take. Locators that lead
/// out of the file take none.
pub(crate) fn metadata(header: &Header, differencing: bool, file_len: u64) -> Vec<Range<u64>> {
    let mut taken = vec![0..FOOTER, header.at..header.at + HEADER];
    if differencing {
        let locators = header.parent().locators;
        let inside = locators.iter().filter_map(RawLocator::range);
        let inside = inside.filter(|range| range.end <= file_len);
        taken.extend(inside.map(|range| range.start..range.end.next_multiple_of(SECTOR)));
    }
    taken
}
