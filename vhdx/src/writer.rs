//! What a layer has on top when it is open for writing, and the steps that all changes share.

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;
use vdisk_core::{Error, ErrorKind, PagedTable, Result, Store, StoreExt};

use crate::bat::{self, BITMAP_BYTES, ENTRY, Slot};
use crate::journal::Journal;
use crate::log::SECTOR;
use crate::map::{BAT, Map};
use crate::open::VhdxLayer;
use crate::region;
use crate::session::{self, Log};
use crate::space::Space;

/// The state of writing.
#[derive(Debug)]
pub(crate) struct Writer {
    /// Changed metadata.
    pub(crate) journal: Arc<Journal>,
    /// Which bytes of the file are taken.
    pub(crate) space: Space,
    /// Most pages of a commit.
    capacity: u64,
    /// The session's log; `None` until the first change, and again after a close.
    log: Option<Log>,
    /// The session has settled the data write GUID: the content may change.
    pub(crate) settled: bool,
    /// A commit failed: what is durable is not known, so nothing more may be written.
    failed: bool,
}

impl Writer {
    /// No change yet.
    pub(crate) fn new(file: Arc<dyn Store>, log_length: u32) -> Self {
        let journal = Arc::new(Journal::new(file));
        let capacity = session::capacity(log_length);
        Self {
            journal,
            space: Space::default(),
            capacity,
            log: None,
            settled: false,
            failed: false,
        }
    }

    /// The file as it looks with the changes.
    pub(crate) fn view(&self) -> Arc<dyn Store> {
        self.journal.clone()
    }
}

impl VhdxLayer {
    /// Finds out which bytes of the file are taken.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where two blocks share bytes or an entry is broken, the host's.
    pub(crate) fn claim_space(&mut self) -> Result<()> {
        let mut space = Space::default();
        for range in self.map.reserved() {
            space.claim(range)?;
        }
        let map = &self.map;
        let mut anchors = false;
        map.walk(|index, raw| match map.taken_by(index, raw)? {
            Some(Taken::Block(range)) if !space.claim(&range)? => {
                let why = format!("bytes {range:?} are taken twice");
                Err(map
                    .bad_entry(index, &why)
                    .hint("see `vdisk check`; an image like this is only read"))
            }
            Some(Taken::Anchor(_)) => {
                anchors = true;
                Ok(())
            }
            _ => Ok(()),
        })?;
        if anchors {
            map.walk(|index, raw| {
                if let Some(Taken::Anchor(range)) = map.taken_by(index, raw)?
                    && range.end <= map.file_len
                {
                    space.claim(&range)?;
                }
                Ok(())
            })?;
        }
        self.writer_mut()?.space = space;
        Ok(())
    }

    /// The state of writing, where there is one.
    ///
    /// # Errors
    /// [`ErrorKind::Denied`] in a layer opened for reading; [`ErrorKind::Io`] after a commit that
    /// failed.
    pub(crate) fn writer_mut(&mut self) -> Result<&mut Writer> {
        let denied = || Error::new(ErrorKind::Denied, "the image was opened for reading only");
        match &mut self.writer {
            None => Err(denied()),
            Some(writer) if writer.failed => Err(Error::new(
                ErrorKind::Io,
                "an earlier change could not be made durable, so nothing more is written",
            )
            .hint("open the image again: its log brings it to the last good state")),
            Some(writer) => Ok(writer),
        }
    }

    /// Begins a session that changes the content, unless one is under way. Comes before every
    /// such change.
    ///
    /// # Errors
    /// As [`VhdxLayer::writer_mut`], and the host's.
    pub(crate) fn begin(&mut self) -> Result<()> {
        if self.writer_mut()?.settled { Ok(()) } else { self.settle(Uuid::new_v4()) }
    }

    /// Begins a session under this data write GUID; what follows does not choose another.
    ///
    /// # Errors
    /// As [`VhdxLayer::begin`].
    pub(crate) fn settle(&mut self, data_write: Uuid) -> Result<()> {
        self.start(data_write)?;
        self.writer_mut()?.settled = true;
        Ok(())
    }

    /// Begins a session that leaves the content alone, unless one is under way.
    ///
    /// # Errors
    /// As [`VhdxLayer::begin`].
    pub(crate) fn begin_aside(&mut self) -> Result<()> {
        match self.writer_mut()?.log {
            Some(_) => Ok(()),
            None => self.start(self.current.header.data_write),
        }
    }

    fn start(&mut self, data_write: Uuid) -> Result<()> {
        let file = self.file()?.clone();
        self.writer_mut()?;
        session::begin(&*file, &mut self.current, data_write)?;
        let writer = self.writer_mut()?;
        if writer.log.is_none() {
            writer.log = Some(Log::new(file));
        }
        if !self.regions.identical {
            self.write_regions()?;
        }
        self.refresh_info()
    }

    /// Makes everything durable, and the space that was given up free.
    ///
    /// # Errors
    /// As [`VhdxLayer::writer_mut`], and the host's.
    pub(crate) fn commit(&mut self) -> Result<()> {
        let file = self.file()?.clone();
        let file_len = self.map.file_len;
        self.writer_mut()?;
        let Some(writer) = &mut self.writer else { return Ok(()) };
        let Some(log) = &mut writer.log else { return Ok(()) };
        writer.failed = true;
        log.commit(&mut self.current, &writer.journal)?;
        for range in writer.space.settle() {
            let end = range.end.min(file_len);
            if range.start < end {
                file.clear(range.start, end - range.start, "free space")?;
            }
        }
        writer.failed = false;
        Ok(())
    }

    /// Ends the session: everything is in its place, and the header names no log.
    ///
    /// # Errors
    /// As [`VhdxLayer::writer_mut`], and the host's.
    pub(crate) fn end(&mut self) -> Result<()> {
        self.commit()?;
        let file = self.file()?.clone();
        let writer = self.writer_mut()?;
        writer.settled = false;
        if writer.log.take().is_none() {
            return Ok(());
        }
        let end = writer.space.end();
        session::end(&*file, &mut self.current)?;
        if end < self.map.file_len {
            file.resize(end)?;
            self.map.file_len = end;
        }
        self.refresh_info()
    }

    /// Commits now if the pages that the next step changes might not fit any more.
    ///
    /// # Errors
    /// As [`VhdxLayer::commit`].
    pub(crate) fn make_room(&mut self, pages: u64) -> Result<()> {
        let writer = self.writer_mut()?;
        if writer.journal.len() + pages > writer.capacity { self.commit() } else { Ok(()) }
    }

    /// Pages that a change of one block may change: one of the table, and its bitmap's.
    pub(crate) fn pages_per_block(&self) -> u64 {
        // A new sector bitmap takes a second page of the table.
        2 + self.map.geometry.bitmap_bytes_per_block() / SECTOR
    }

    /// Takes `len` bytes of the file, a multiple of 1 MiB; they read as zeros.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`], the host's.
    pub(crate) fn allocate(&mut self, len: u64) -> Result<u64> {
        let start = self.writer_mut()?.space.allocate(len)?;
        let file = self.file()?;
        let (end, file_len) = (start + len, self.map.file_len);
        if start < file_len {
            file.clear(start, end.min(file_len) - start, "new block")?;
        }
        self.cover(end)?;
        Ok(start)
    }

    /// Makes the file at least `end` bytes long.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn cover(&mut self, end: u64) -> Result<()> {
        if end > self.map.file_len {
            self.file()?.resize(end)?;
            self.map.file_len = end;
        }
        Ok(())
    }

    /// Changes the entries of `blocks`, page by page of the table: `entry` gives the new one.
    ///
    /// # Errors
    /// As [`VhdxLayer::commit`].
    pub(crate) fn set_payloads(
        &mut self,
        blocks: Range<u64>,
        entry: impl Fn(u64) -> bat::Payload,
    ) -> Result<()> {
        let ratio = self.map.geometry.ratio();
        let mut block = blocks.start;
        while block < blocks.end {
            self.make_room(1)?;
            let index = self.map.geometry.payload_index(block);
            let page_left = (SECTOR - index * ENTRY % SECTOR) / ENTRY;
            let chunk_left = ratio - block % ratio;
            let count = page_left.min(chunk_left).min(blocks.end - block);
            let raw: Vec<u8> =
                (block..block + count).flat_map(|b| entry(b).encode().to_le_bytes()).collect();
            self.map.bat.write(index * ENTRY, &raw)?;
            block += count;
        }
        Ok(())
    }

    /// The sector bitmap of a block's chunk, which is created if there is none.
    ///
    /// # Errors
    /// As [`VhdxLayer::allocate`], and where the entry is broken.
    pub(crate) fn bitmap_for(&mut self, block: u64) -> Result<u64> {
        let chunk = self.map.geometry.chunk(block);
        if let Some(offset) = self.map.bitmap(chunk)? {
            return Ok(offset);
        }
        let offset = self.allocate(BITMAP_BYTES)?;
        self.map.bitmaps.forget();
        let at = self.map.geometry.bitmap_index(chunk) * ENTRY;
        self.map.bat.write(at, &bat::encode_bitmap(offset).to_le_bytes())?;
        Ok(offset)
    }

    /// Writes both copies of the region table to the journal.
    ///
    /// # Errors
    /// As [`VhdxLayer::writer_mut`].
    pub(crate) fn write_regions(&mut self) -> Result<()> {
        let table = region::encode(&self.regions.list);
        let journal = self.writer_mut()?.view();
        for at in region::COPIES {
            journal.put(&table, at, "VHDX region table")?;
        }
        self.regions.identical = true;
        self.regions.faults = [None, None];
        self.map.update_reserved(&self.current.header, &self.regions);
        Ok(())
    }
}

/// What an entry of the table takes of the file, bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// Bytes that are in use.
    Block(Range<u64>),
    /// Space that a block without content still reserves; others may not take it, but it is
    /// never given up here, because nobody vouches for it.
    Anchor(Range<u64>),
}

impl Map {
    /// What an entry of the table takes of the file. Bitmap entries of a disk without parent mean
    /// nothing.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where the entry breaks the rules.
    pub(crate) fn taken_by(&self, index: u64, raw: u64) -> Result<Option<Taken>> {
        match self.geometry.slot(index) {
            Slot::Payload(block) if block < self.geometry.blocks() => {
                let payload = self.parse_payload(index, raw)?;
                let range = payload.offset..payload.offset.saturating_add(self.geometry.block_size);
                if payload.state.has_block() {
                    let last = self.geometry.block_range(block).end - 1;
                    self.within_file(block, payload.offset, last)?;
                    return Ok(Some(Taken::Block(range)));
                }
                Ok((payload.offset != 0).then_some(Taken::Anchor(range)))
            }
            Slot::Bitmap(_) if self.geometry.has_parent => {
                let found = self.parse_bitmap(index, raw)?;
                Ok(found.map(|offset| Taken::Block(offset..offset + BITMAP_BYTES)))
            }
            _ => Ok(None),
        }
    }

    /// The table after the disk or the region has changed.
    pub(crate) fn replace_table(&mut self, store: Arc<dyn Store>, region_offset: u64) {
        let len = self.geometry.table_bytes();
        self.bat = PagedTable::new(store, BAT, region_offset, len);
    }
}
