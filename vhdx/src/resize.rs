//! Changing the size of a disk without a parent. The size item is what decides: everything that a
//! larger size exposes is made ready before it grows, everything that a smaller size hides is
//! given up after it shrank.

use std::ops::Range;

use vdisk_core::zeros::is_zero;
use vdisk_core::{Error, Result, StoreExt};

use crate::bat::{ENTRY, Geometry, Payload, Slot, State};
use crate::log::SECTOR;
use crate::open::VhdxLayer;
use crate::region;
use crate::{MAX_SIZE, MIB};

impl VhdxLayer {
    /// See [`vdisk_core::LayerMut::resize`].
    ///
    /// # Errors
    /// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for a child,
    /// [`Usage`](vdisk_core::ErrorKind::Usage) for an impossible size, the host's.
    pub(crate) fn change_size(&mut self, virtual_size: u64) -> Result<()> {
        self.writer_mut()?;
        if self.metadata.has_parent {
            return Err(Error::unsupported("a differencing disk has the size of its parent")
                .hint("merge it into its parent or convert it, then resize the result"));
        }
        check_size(virtual_size, self.metadata.logical_sector)?;
        let old = self.map.geometry;
        if virtual_size == old.virtual_size {
            return self.forget_beyond();
        }
        self.begin()?;
        let new = Geometry { virtual_size, ..old };
        if virtual_size > old.virtual_size {
            self.grow(&old, new)
        } else {
            self.shrink(&old, new)
        }?;
        self.refresh_info()
    }

    fn grow(&mut self, old: &Geometry, new: Geometry) -> Result<()> {
        self.clear_behind_end(old)?;
        self.make_room_in_table(&new)?;
        let journal = self.writer_mut()?.view();
        // The old entries stay where they are; what follows may be left over from larger times.
        self.map.geometry = new;
        let region = self.regions.bat.offset;
        self.map.replace_table(journal, region);
        self.clear_entries(old.entries()..new.entries(), false)?;
        if self.metadata.leave_allocated && new.blocks() > old.blocks() {
            let added = old.blocks()..new.blocks();
            let start = self.allocate((added.end - added.start) * new.block_size)?;
            self.set_payloads(added.clone(), |block| Payload {
                state: State::Full,
                offset: start + (block - added.start) * new.block_size,
            })?;
        }
        self.write_size(new.virtual_size)
    }

    fn shrink(&mut self, old: &Geometry, new: Geometry) -> Result<()> {
        self.write_size(new.virtual_size)?;
        self.clear_entries(new.entries()..old.entries(), true)?;
        self.commit()?;
        self.map.geometry = new;
        let journal = self.writer_mut()?.view();
        let region = self.regions.bat.offset;
        self.map.replace_table(journal, region);
        Ok(())
    }

    /// Zeros what the last block holds behind the disk's end.
    fn clear_behind_end(&mut self, old: &Geometry) -> Result<()> {
        let last = old.blocks() - 1;
        let payload = self.map.payload(last)?;
        let used = old.virtual_size - last * old.block_size;
        if !payload.state.has_block() || used == old.block_size {
            return Ok(());
        }
        self.cover(payload.offset + old.block_size)?;
        self.file()?.clear(payload.offset + used, old.block_size - used, "guest data")
    }

    /// Moves the table to a larger region where it is too small. The copy is complete and durable
    /// before the region tables name it.
    fn make_room_in_table(&mut self, new: &Geometry) -> Result<()> {
        let needed = new.table_bytes().next_multiple_of(MIB);
        if needed <= self.regions.bat.length {
            return Ok(());
        }
        self.commit()?;
        let start = self.allocate(needed)?;
        let file = self.file()?.clone();
        let mut at = 0;
        while at < self.map.bat.len() {
            let hole = self.map.bat.hole_end(at)? / ENTRY * ENTRY;
            if hole > at {
                at = hole;
                continue;
            }
            let page = self.map.bat.rest_of_page(at)?;
            file.put(&page, start + at, "VHDX BAT")?;
            at += page.len() as u64;
        }
        let old = self.regions.bat.range();
        for listed in &mut self.regions.list {
            if listed.guid == region::BAT {
                (listed.offset, listed.length) = (start, needed);
                self.regions.bat = listed.clone();
            }
        }
        self.write_regions()?;
        self.writer_mut()?.space.give_up(old);
        Ok(())
    }

    /// Makes entries of the table 0; with `release`, gives up the blocks they name.
    fn clear_entries(&mut self, entries: Range<u64>, release: bool) -> Result<()> {
        let mut at = entries.start * ENTRY;
        while at < entries.end * ENTRY {
            let hole = self.map.bat.hole_end(at)? / ENTRY * ENTRY;
            if hole > at {
                at = hole;
                continue;
            }
            self.make_room(1)?;
            let end = (at / SECTOR * SECTOR + SECTOR).min(entries.end * ENTRY);
            let page = self.map.bat.rest_of_page(at)?;
            let page = page.get(..usize::try_from(end - at).unwrap_or(0)).unwrap_or_default();
            if page.iter().any(|byte| *byte != 0) {
                if release {
                    self.release(at / ENTRY, page)?;
                }
                self.map.bat.write(at, &vec![0; page.len()])?;
            }
            at = end;
        }
        Ok(())
    }

    /// Gives up the blocks of the entries from `first` on, whose bytes are `raw`.
    fn release(&mut self, first: u64, raw: &[u8]) -> Result<()> {
        let geometry = self.map.geometry;
        for (raw, index) in raw.as_chunks().0.iter().zip(first..) {
            // What is cut off is gone, so nobody cares any more whether its entry was in order.
            let parsed = self.map.parse_payload(index, u64::from_le_bytes(*raw));
            if let (Slot::Payload(_), Ok(payload)) = (geometry.slot(index), parsed)
                && payload.state.has_block()
            {
                let range = payload.offset..payload.offset + geometry.block_size;
                self.writer_mut()?.space.give_up(range);
            }
        }
        Ok(())
    }

    /// Clears the rest of the table's region, where a shrink that was cut off leaves entries of
    /// blocks that are free.
    fn forget_beyond(&mut self) -> Result<()> {
        let view = self.writer_mut()?.view();
        let end = self.regions.bat.range().end;
        let mut at = self.map.bat.offset() + self.map.bat.len();
        while at < end {
            let run = view
                .run_at(at, end)
                .map_err(|e| Error::io(e, "look for holes").at(crate::map::BAT, at))?;
            if run.hole {
                at += run.len;
                continue;
            }
            let next = (at / SECTOR * SECTOR + SECTOR).min(end);
            let mut entries = vec![0; usize::try_from(next - at).unwrap_or_default()];
            view.fetch(&mut entries, at, crate::map::BAT)?;
            if !is_zero(&entries) {
                self.begin_aside()?;
                self.make_room(1)?;
                entries.fill(0);
                view.put(&entries, at, crate::map::BAT)?;
            }
            at = next;
        }
        Ok(())
    }

    fn write_size(&mut self, virtual_size: u64) -> Result<()> {
        self.make_room(2)?;
        let journal = self.writer_mut()?.view();
        let at = self.metadata.virtual_size_at;
        journal.put(&virtual_size.to_le_bytes(), at, "VHDX virtual disk size")?;
        self.commit()?;
        self.metadata.virtual_size = virtual_size;
        Ok(())
    }
}

/// Refuses sizes that no disk can have.
pub(crate) fn check_size(virtual_size: u64, logical_sector: u32) -> Result<()> {
    if virtual_size == 0 || virtual_size > MAX_SIZE {
        return Err(Error::usage(format!("a VHDX disk of {virtual_size} bytes is not possible"))
            .hint("choose a size from one sector to 64 TiB"));
    }
    if !virtual_size.is_multiple_of(logical_sector.into()) {
        return Err(Error::usage(format!(
            "{virtual_size} bytes are not a whole number of sectors of {logical_sector} bytes"
        ))
        .hint(format!("choose a multiple of {logical_sector}")));
    }
    Ok(())
}
