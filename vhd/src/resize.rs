//! Changing the virtual size.
//!
//! Each step leaves a file that opens, with the old size or the new one and everything that
//! either has; a power cut costs space at most.

use vdisk_core::{Error, Result, Store, StoreExt, Watch};

use crate::bat::{Bat, ENTRY};
use crate::create::MAX_SIZE;
use crate::facts;
use crate::footer::FOOTER;
use crate::footers::Footers;
use crate::open::{Body, Fixed, VhdLayer};
use crate::shape::{SECTOR, to_usize};
use crate::sparse::Sparse;

impl VhdLayer {
    /// Whether the image can have `size` bytes.
    pub(crate) fn may_resize(&self, size: u64) -> Result<()> {
        let usage = |message: String, hint: &str| Err(Error::usage(message).hint(hint));
        if size == 0 || !size.is_multiple_of(SECTOR) {
            let message = format!("{size} bytes is no size of a VHD");
            return usage(message, "give a multiple of 512 bytes");
        }
        let shape = match &self.body {
            Body::Sparse(sparse) if sparse.differencing => {
                return Err(Error::unsupported("a differencing disk has its parent's size")
                    .in_file(self.stores[0].name())
                    .hint("merge or convert it first"));
            }
            Body::Sparse(sparse) => Some(sparse.shape),
            Body::Fixed(_) => None,
        };
        let fits = shape.is_none_or(|shape| shape.fits(shape.blocks(size)));
        if !fits || size > MAX_SIZE.max(self.info.virtual_size) {
            let message = format!("a VHD of {size} bytes is too large");
            return usage(message, "at most 2040 GiB fit; convert to VHDX for larger disks");
        }
        Ok(())
    }

    /// Whether an earlier resize to the present size was cut off after the footer had it.
    pub(crate) fn resize_is_unfinished(&self) -> bool {
        let size = self.info.virtual_size;
        match &self.body {
            Body::Fixed(fixed) => fixed.footer_at > size.next_multiple_of(SECTOR),
            Body::Sparse(sparse) => u64::from(sparse.bat.entries()) > sparse.shape.blocks(size),
        }
    }

    /// Changes the size to one that [`VhdLayer::may_resize`].
    pub(crate) fn resize_body(&mut self, size: u64) -> Result<()> {
        let store = &self.stores[0];
        match &mut self.body {
            Body::Fixed(fixed) => fixed.resize(&**store, self.info.virtual_size, size)?,
            Body::Sparse(sparse) => sparse.resize(size)?,
        }
        if let Some(footers) = Footers::find(&**store)? {
            self.info = facts::describe(&**store, &footers, &self.body, size);
        }
        Ok(())
    }
}

impl Fixed {
    /// The file ends with a right footer all the time: first one of the old size goes to the new
    /// end, then it takes the new size, then what is cut off goes.
    fn resize(&mut self, store: &dyn Store, old: u64, new: u64) -> Result<()> {
        let len = store.size()?;
        let misplaced = len - self.footer_at != FOOTER || !self.footer_at.is_multiple_of(SECTOR);
        if misplaced {
            self.put(store, len.next_multiple_of(SECTOR))?;
        }
        if new > self.footer_at {
            self.put(store, new)?;
        }
        if new > old {
            // The old footer stands there, and whatever a file longer than its disk had.
            store.clear(old, new.min(len) - old, "guest data")?;
            store.flush()?;
        }
        if new != old {
            self.footer.set_size(new);
            self.put(store, self.footer_at)?;
        }
        if new < self.footer_at {
            self.put(store, new)?;
            store.resize(new + FOOTER)?;
            store.flush()?;
        }
        Ok(())
    }

    fn put(&mut self, store: &dyn Store, at: u64) -> Result<()> {
        store.put(&self.footer.to_bytes(), at, "VHD footer")?;
        self.footer_at = at;
        store.flush()
    }
}

impl Sparse {
    fn resize(&mut self, new: u64) -> Result<()> {
        self.prepare()?;
        self.flush()?;
        let old = self.size;
        if new < old {
            self.set_size(new)?;
        }
        self.clear_beyond(new.min(old))?;
        self.set_entries(self.block_of(new - 1).saturating_add(1))?;
        if new > old {
            self.set_size(new)?;
        }
        self.pack(Watch::default()).map(|_| ())
    }

    /// Puts a size into both footers, the copy first.
    fn set_size(&mut self, size: u64) -> Result<()> {
        self.size = size;
        self.footer.set_size(size);
        // The footer does not name tapdisk any more, so nobody looks for its map.
        self.batmap = None;
        let bytes = self.footer.to_bytes();
        self.store.put(&bytes, 0, "VHD footer copy")?;
        self.store.flush()?;
        self.store.put(&bytes, self.end, "VHD footer")?;
        self.store.flush()
    }

    /// Gives up all that blocks hold beyond `size` bytes of the disk: it must not show up when
    /// the disk grows.
    fn clear_beyond(&mut self, size: u64) -> Result<()> {
        let within = size % self.shape.block;
        if within > 0
            && let Some(place) = self.block_at(self.block_of(size))?
        {
            self.store.clear(place.data + within, self.shape.block - within, "guest data")?;
        }
        let first_beyond = self.block_of(size - 1).saturating_add(1);
        if self.bat.drop_from(first_beyond)? {
            self.bitmaps.forget();
        }
        self.store.flush()
    }

    /// Makes the block table `entries` long, moving blocks out of its way. The entries given up
    /// are absent already.
    fn set_entries(&mut self, entries: u32) -> Result<()> {
        if entries == self.bat.entries() {
            return Ok(());
        }
        if entries > self.bat.entries() {
            self.make_room(entries)?;
        }
        self.header.set_entries(entries);
        // The number and the checksum stand in one sector, so they change together.
        let bytes = self.header.to_bytes();
        let sector = bytes.get(..512).unwrap_or(&bytes);
        self.store.put(sector, self.header.at, "VHD dynamic header")?;
        self.store.flush()?;
        self.bat = Bat::new(self.store.clone(), self.header.table_at(), entries);
        Ok(())
    }

    /// Clears the file behind the block table for a table of `entries`, and fills it with
    /// absent entries.
    fn make_room(&mut self, entries: u32) -> Result<()> {
        let table = self.bat.range();
        let end = (table.start + u64::from(entries) * ENTRY).next_multiple_of(SECTOR);
        if self.metadata.iter().any(|range| range.start < end && table.end < range.end) {
            return Err(Error::unsupported("the block table has no room to grow")
                .at("VHD block table", table.start)
                .in_file(self.store.name())
                .hint("convert the image to a new one and resize that"));
        }
        if self.end < end {
            self.move_end(end)?;
        }
        for (sector, block) in self.blocks()? {
            let at = u64::from(sector) * SECTOR;
            if at < end && table.end < at + self.shape.slot() {
                let to = self.append()?;
                self.move_block(block, at, u64::from(to) * SECTOR)?;
            }
        }
        self.flush()?;
        let from = table.start + u64::from(self.bat.entries()) * ENTRY;
        fill(&*self.store, from, end)?;
        self.store.flush()
    }
}

/// Fills bytes of the file with absent block table entries.
fn fill(store: &dyn Store, from: u64, end: u64) -> Result<()> {
    const PIECE: &[u8] = &[0xFF; 65536];
    let mut at = from;
    while at < end {
        let step = to_usize(end - at).min(PIECE.len());
        store.put(PIECE.get(..step).unwrap_or(PIECE), at, "VHD block table")?;
        at += step as u64;
    }
    Ok(())
}
