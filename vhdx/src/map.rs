//! Where each guest byte stands (\[MS-VHDX\] 2.4, 2.5): the block table and the sector bitmaps,
//! read on demand. Every entry is checked when it is used.

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::table::PageView;
use vdisk_core::{Error, ErrorKind, LayerExtent, LayerKind, PagedTable, Result, Store};

use crate::MAX_FILE;
use crate::bat::{self, BITMAP_BYTES, ENTRY, Geometry, Payload, State};
use crate::bitmap;
use crate::header::{self, Header};
use crate::region::Regions;

/// The block table's name in messages.
pub(crate) const BAT: &str = "VHDX BAT";

/// The tables of an open image.
#[derive(Debug)]
pub(crate) struct Map {
    /// The table's shape.
    pub(crate) geometry: Geometry,
    /// The block table.
    pub(crate) bat: PagedTable,
    /// The whole file, of which only sector bitmaps are read.
    pub(crate) bitmaps: PagedTable,
    /// Bytes of the file.
    pub(crate) file_len: u64,
    /// Where no block may stand: header area, log, regions; in order.
    reserved: Vec<Range<u64>>,
}

impl Map {
    /// The tables as `store` shows them.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the BAT region is too small for the disk.
    pub(crate) fn new(
        store: &Arc<dyn Store>,
        geometry: Geometry,
        header: &Header,
        regions: &Regions,
        file_len: u64,
    ) -> Result<Self> {
        let (needed, there) = (geometry.table_bytes(), regions.bat.length);
        if needed > there {
            return Err(Error::corrupt(
                BAT,
                regions.bat.offset,
                format!("the region has {there} bytes, the disk needs {needed}"),
            ));
        }
        let bat = PagedTable::new(store.clone(), BAT, regions.bat.offset, needed);
        let bitmaps = PagedTable::new(store.clone(), "VHDX sector bitmap", 0, MAX_FILE);
        Ok(Self { geometry, bat, bitmaps, file_len, reserved: reserved(header, regions) })
    }

    /// The checked entry of a payload block.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where it breaks the rules, the host's.
    pub(crate) fn payload(&self, block: u64) -> Result<Payload> {
        let index = self.geometry.payload_index(block);
        self.parse_payload(index, u64::from_le_bytes(self.bat.entry(index * ENTRY)?))
    }

    /// Parses and checks the entry `raw` of a payload block.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where it breaks the rules.
    pub(crate) fn parse_payload(&self, index: u64, raw: u64) -> Result<Payload> {
        let payload = Payload::parse(raw).map_err(|why| self.bad_entry(index, &why))?;
        if payload.state.has_block() {
            self.check_place(index, payload.offset, self.geometry.block_size)?;
        }
        if payload.state == State::Partial && !self.geometry.has_parent {
            let why = "the block is partially present, but the disk has no parent";
            return Err(self.bad_entry(index, why));
        }
        Ok(payload)
    }

    /// Where the sector bitmap of a chunk stands, `None` where there is none.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where its entry breaks the rules, the host's.
    pub(crate) fn bitmap(&self, chunk: u64) -> Result<Option<u64>> {
        let index = self.geometry.bitmap_index(chunk);
        self.parse_bitmap(index, u64::from_le_bytes(self.bat.entry(index * ENTRY)?))
    }

    /// Parses and checks the entry `raw` of a sector bitmap.
    ///
    /// # Errors
    /// As [`Map::bitmap`].
    pub(crate) fn parse_bitmap(&self, index: u64, raw: u64) -> Result<Option<u64>> {
        let parsed = bat::parse_bitmap(raw).map_err(|why| self.bad_entry(index, &why))?;
        if let Some(offset) = parsed {
            self.check_place(index, offset, BITMAP_BYTES)?;
            if offset.saturating_add(BITMAP_BYTES) > self.file_len {
                return Err(self.beyond_file(index, offset, BITMAP_BYTES));
            }
        }
        Ok(parsed)
    }

    /// The bitmap that a partially present block cannot do without.
    ///
    /// # Errors
    /// As [`Map::bitmap`], and where there is none.
    pub(crate) fn bitmap_of(&self, block: u64) -> Result<u64> {
        let chunk = self.geometry.chunk(block);
        self.bitmap(chunk)?.ok_or_else(|| {
            let index = self.geometry.bitmap_index(chunk);
            let why = format!("block {block} is partially present, but has no sector bitmap");
            self.bad_entry(index, &why)
        })
    }

    /// The guest bytes of a block that stand within the file; fails where none do. `offset` is
    /// where the block stands.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`].
    pub(crate) fn within_file(&self, block: u64, offset: u64, at: u64) -> Result<Range<u64>> {
        let range = self.geometry.block_range(block);
        let end = range.end.min(range.start + self.file_len.saturating_sub(offset));
        if at < end {
            return Ok(range.start..end);
        }
        let index = self.geometry.payload_index(block);
        Err(self.beyond_file(index, offset, range.end - range.start))
    }

    /// The extent that starts at `at`: see [`vdisk_core::Layer::extent_at`].
    ///
    /// # Errors
    /// As [`Map::payload`].
    pub(crate) fn extent_at(&self, at: u64, end: u64) -> Result<LayerExtent> {
        let mut walk = Walk { map: self, page: None };
        let (kind, mut len) = walk.piece(at, end)?;
        while at + len < end && self.at_block_edge(at + len) {
            if self.is_absent(kind) {
                let skipped = walk.skip_hole(at + len, end)?;
                if skipped > 0 {
                    len += skipped;
                    continue;
                }
            }
            // What is wrong further on is told to who asks for those bytes.
            match walk.piece(at + len, end) {
                Ok((next, more)) if continues(kind, len, next) => len += more,
                _ => break,
            }
        }
        Ok(LayerExtent { start: at, len, kind })
    }

    /// Calls `each(index, entry)` for every entry of the table that is not 0.
    ///
    /// # Errors
    /// Those of `each`, and the host's.
    pub(crate) fn walk(&self, mut each: impl FnMut(u64, u64) -> Result<()>) -> Result<()> {
        let mut at = 0;
        while at < self.bat.len() {
            let hole = self.bat.hole_end(at)? / ENTRY * ENTRY;
            if hole > at {
                at = hole;
                continue;
            }
            let page = self.bat.rest_of_page(at)?;
            for (raw, index) in page.as_chunks().0.iter().zip(at / ENTRY..) {
                let raw = u64::from_le_bytes(*raw);
                if raw != 0 {
                    each(index, raw)?;
                }
            }
            at += (page.len() as u64).max(ENTRY);
        }
        Ok(())
    }

    /// The header or the regions have changed.
    pub(crate) fn update_reserved(&mut self, header: &Header, regions: &Regions) {
        self.reserved = reserved(header, regions);
    }

    /// Where no block may stand, in order.
    pub(crate) fn reserved(&self) -> &[Range<u64>] {
        &self.reserved
    }

    /// An error about an entry of the block table.
    pub(crate) fn bad_entry(&self, index: u64, why: &str) -> Error {
        Error::corrupt(BAT, self.bat.offset() + index * ENTRY, format!("entry {index}: {why}"))
    }

    fn beyond_file(&self, index: u64, offset: u64, len: u64) -> Error {
        let message = format!(
            "entry {index}: {len} bytes at {offset}, but the file has {} bytes",
            self.file_len
        );
        Error::new(ErrorKind::Truncated, message).at(BAT, self.bat.offset() + index * ENTRY)
    }

    /// Refuses a block that stands where no block may stand.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`].
    pub(crate) fn check_place(&self, index: u64, offset: u64, len: u64) -> Result<()> {
        let end = offset.saturating_add(len);
        let nearest = self.reserved.partition_point(|range| range.end <= offset);
        match self.reserved.get(nearest) {
            Some(range) if range.start < end => Err(self.bad_entry(
                index,
                &format!("a block of {len} bytes at {offset}, where headers, log or regions stand"),
            )),
            _ => Ok(()),
        }
    }

    fn at_block_edge(&self, at: u64) -> bool {
        at.is_multiple_of(self.geometry.block_size)
    }

    /// What an entry of 0 means.
    fn absent(&self) -> LayerKind {
        if self.geometry.has_parent { LayerKind::Hole } else { LayerKind::Zero { explicit: false } }
    }

    fn is_absent(&self, kind: LayerKind) -> bool {
        kind == self.absent()
    }
}

fn reserved(header: &Header, regions: &Regions) -> Vec<Range<u64>> {
    let mut list = vec![0..header::AREA, header.log_range()];
    list.extend(regions.list.iter().map(crate::region::Region::range));
    list.retain(|range| !range.is_empty());
    list.sort_by_key(|range| range.start);
    list
}

/// Whether `next` goes on where `kind`, of `len` bytes, ends.
fn continues(kind: LayerKind, len: u64, next: LayerKind) -> bool {
    match (kind, next) {
        (LayerKind::Data { at, .. }, LayerKind::Data { at: next, .. }) => at + len == next,
        (kind, next) => kind == next,
    }
}

/// A walk over successive blocks, which keeps the table's page at hand.
struct Walk<'a> {
    map: &'a Map,
    /// Table offset of the page's first byte, and the page.
    page: Option<(u64, PageView)>,
}

impl Walk<'_> {
    /// What stands at `at`, and for how many bytes, within one block.
    fn piece(&mut self, at: u64, end: u64) -> Result<(LayerKind, u64)> {
        let map = self.map;
        let block = at / map.geometry.block_size;
        let index = map.geometry.payload_index(block);
        let payload = map.parse_payload(index, self.entry(index)?)?;
        let range = map.geometry.block_range(block);
        let to_end = range.end.min(end) - at;
        match payload.state {
            State::NotPresent => Ok((map.absent(), to_end)),
            State::Undefined => Ok((LayerKind::Zero { explicit: false }, to_end)),
            State::Zero | State::Unmapped => Ok((LayerKind::Zero { explicit: true }, to_end)),
            State::Full => self.data(block, payload.offset, at, at + to_end),
            State::Partial => {
                let base = map.bitmap_of(block)?;
                let bits = map.geometry.bits(&(at..at + to_end));
                let (here, count) = bitmap::run(&map.bitmaps, base, bits)?;
                let sector = map.geometry.logical_sector;
                let run_end = (at / sector + count) * sector;
                let run_end = run_end.min(at + to_end);
                if here {
                    self.data(block, payload.offset, at, run_end)
                } else {
                    Ok((LayerKind::Hole, run_end - at))
                }
            }
        }
    }

    fn data(&self, block: u64, offset: u64, at: u64, end: u64) -> Result<(LayerKind, u64)> {
        let inside = self.map.within_file(block, offset, at)?;
        let kind = LayerKind::Data { store: 0, at: offset + (at - inside.start) };
        Ok((kind, end.min(inside.end) - at))
    }

    /// Guest bytes from `at` whose entries lie in a hole of the host file; 0 where not. Looks
    /// only when the walk comes to a new page of the table, because looking is not free.
    fn skip_hole(&self, at: u64, end: u64) -> Result<u64> {
        let Map { geometry, bat, .. } = self.map;
        let entry = geometry.payload_index(at / geometry.block_size) * ENTRY;
        if self.cached(entry).is_some() {
            return Ok(0);
        }
        let index = bat.hole_end(entry)? / ENTRY;
        if index * ENTRY <= entry {
            return Ok(0);
        }
        let until = geometry.block_from_index(index) * geometry.block_size;
        Ok(until.min(end).saturating_sub(at))
    }

    fn entry(&mut self, index: u64) -> Result<u64> {
        let at = index * ENTRY;
        if let Some(raw) = self.cached(at) {
            return Ok(raw);
        }
        self.page = Some((at, self.map.bat.rest_of_page(at)?));
        self.cached(at).ok_or_else(|| self.map.bad_entry(index, "the table ends before it"))
    }

    fn cached(&self, at: u64) -> Option<u64> {
        let (start, page) = self.page.as_ref()?;
        let within = usize::try_from(at.checked_sub(*start)?).ok()?;
        page.get(within..)?.first_chunk().map(|raw| u64::from_le_bytes(*raw))
    }
}
