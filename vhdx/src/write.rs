//! Changing what the guest sees, in place. See `session` for what makes it safe.

use std::ops::Range;

use uuid::Uuid;
use vdisk_core::disk::{in_range, read_padded};
use vdisk_core::{
    Compaction, Disk, Error, LayerKind, LayerMut, ParentLink, Result, StoreExt, Vacant, Watch,
};

use crate::bat::{Payload, State};
use crate::bitmap;
use crate::open::VhdxLayer;

/// What is written.
#[derive(Clone, Copy, Debug)]
enum Source<'a> {
    /// These bytes.
    Data(&'a [u8]),
    /// As many zeros as there is room.
    Zeros,
}

impl<'a> Source<'a> {
    /// The part from byte `skip` on, `len` bytes long.
    fn part(self, skip: u64, len: u64) -> Self {
        let cut = |data: &'a [u8]| {
            data.get(usize::try_from(skip).ok()?..)?.get(..usize::try_from(len).ok()?)
        };
        match self {
            Self::Data(data) => Self::Data(cut(data).unwrap_or_default()),
            Self::Zeros => Self::Zeros,
        }
    }
}

impl LayerMut for VhdxLayer {
    fn write(&mut self, data: &[u8], offset: u64, below: &dyn Disk) -> Result<()> {
        self.write_all(data, offset, below).map_err(|error| self.named(error))
    }

    fn zero(&mut self, range: Range<u64>, below: &dyn Disk) -> Result<()> {
        self.zero_all(range, below).map_err(|error| self.named(error))
    }

    fn resize(&mut self, virtual_size: u64) -> Result<()> {
        self.change_size(virtual_size).map_err(|error| self.named(error))
    }

    fn fresh_identity(&self) -> Option<String> {
        Some(Uuid::new_v4().to_string())
    }

    fn set_identity(&mut self, identity: &str) -> Result<()> {
        let guid = Uuid::try_parse(identity)
            .map_err(|_| Error::usage(format!("{identity:?} is no data write GUID")))?;
        self.settle(guid).map_err(|error| self.named(error))
    }

    fn relink(&mut self, link: &ParentLink) -> Result<()> {
        self.relink_to(link).map_err(|error| self.named(error))
    }

    fn compact(&mut self, vacant: &Vacant, watch: Watch<'_>) -> Result<Compaction> {
        self.compact_file(vacant, watch).map_err(|error| self.named(error))
    }

    fn flush(&mut self) -> Result<()> {
        self.commit().map_err(|error| self.named(error))
    }

    fn close(&mut self) -> Result<()> {
        self.end().map_err(|error| self.named(error))
    }
}

impl VhdxLayer {
    fn write_all(&mut self, data: &[u8], offset: u64, below: &dyn Disk) -> Result<()> {
        self.writer_mut()?;
        let len = data.len() as u64;
        in_range(offset, len, self.metadata.virtual_size)?;
        if data.is_empty() {
            return Ok(());
        }
        self.begin()?;
        let mut at = offset;
        while at < offset + len {
            let (block, piece) = self.piece(at, offset + len);
            let source = Source::Data(data).part(at - offset, piece.end - at);
            self.put_piece(block, &piece, source, below)?;
            at = piece.end;
        }
        Ok(())
    }

    fn zero_all(&mut self, range: Range<u64>, below: &dyn Disk) -> Result<()> {
        self.writer_mut()?;
        let len = range.end.saturating_sub(range.start);
        in_range(range.start, len, self.metadata.virtual_size)?;
        let mut at = range.start;
        while at < range.end {
            let extent = self.map.extent_at(at, range.end)?;
            let until = extent.start + extent.len;
            if matches!(extent.kind, LayerKind::Zero { .. }) {
                at = until;
                continue;
            }
            self.begin()?;
            while at < until {
                at = self.zero_some(at..range.end, below)?;
            }
        }
        Ok(())
    }

    /// Zeros a part of the range that it begins with, which does not read as zeros already: one
    /// block, or a run of absent ones. Returns where that part ends.
    fn zero_some(&mut self, range: Range<u64>, below: &dyn Disk) -> Result<u64> {
        let absent = self.whole_absent_blocks(&range)?;
        if !absent.is_empty() {
            self.set_payloads(absent.clone(), |_| Payload::ZERO)?;
            return Ok(self.map.geometry.block_range(absent.end - 1).end);
        }
        let (block, piece) = self.piece(range.start, range.end);
        self.zero_piece(block, &piece, below)?;
        Ok(piece.end)
    }

    /// The block that holds byte `at`, and what of it lies in `at..end`.
    fn piece(&self, at: u64, end: u64) -> (u64, Range<u64>) {
        let block = at / self.map.geometry.block_size;
        (block, at..self.map.geometry.block_range(block).end.min(end))
    }

    /// The blocks from the range's start on, up to its end or that of their chunk, that lie in it
    /// as a whole and that nobody wrote yet. Only in a child: elsewhere they read as zeros.
    fn whole_absent_blocks(&self, range: &Range<u64>) -> Result<Range<u64>> {
        let geometry = &self.map.geometry;
        let first = range.start / geometry.block_size;
        if !geometry.has_parent {
            return Ok(first..first);
        }
        let chunk_end = (geometry.chunk(first) + 1) * geometry.ratio();
        let mut end = first;
        while end < chunk_end.min(geometry.blocks())
            && range.start <= geometry.block_range(end).start
            && geometry.block_range(end).end <= range.end
            && self.map.payload(end)?.state == State::NotPresent
        {
            end += 1;
        }
        Ok(first..end)
    }

    /// Writes to one block. Everything it changes of the metadata goes into one commit.
    fn put_piece(
        &mut self,
        block: u64,
        piece: &Range<u64>,
        source: Source<'_>,
        below: &dyn Disk,
    ) -> Result<()> {
        self.make_room(self.pages_per_block())?;
        let payload = self.map.payload(block)?;
        let whole = *piece == self.map.geometry.block_range(block);
        match payload.state {
            State::Full => {
                self.complete_block(block, payload.offset)?;
                self.put_bytes(block, payload.offset, piece, source)
            }
            State::Partial => {
                self.complete_block(block, payload.offset)?;
                self.put_sectors(block, payload.offset, piece, source, below)
            }
            State::NotPresent if self.map.geometry.has_parent && !whole => {
                let base = self.bitmap_for(block)?;
                let offset = self.allocate(self.map.geometry.block_size)?;
                // Bits mean nothing while the block is absent, so they may hold anything.
                let bits = self.map.geometry.bits(&self.map.geometry.block_range(block));
                bitmap::fill(&self.map.bitmaps, base, bits, false)?;
                self.set_payload(block, Payload { state: State::Partial, offset })?;
                self.put_sectors(block, offset, piece, source, below)
            }
            State::NotPresent | State::Undefined | State::Zero | State::Unmapped => {
                let offset = self.allocate(self.map.geometry.block_size)?;
                self.put_bytes(block, offset, piece, source)?;
                self.set_payload(block, Payload { state: State::Full, offset })
            }
        }
    }

    /// Zeros a piece of one block that does not read as zeros already.
    fn zero_piece(&mut self, block: u64, piece: &Range<u64>, below: &dyn Disk) -> Result<()> {
        let payload = self.map.payload(block)?;
        let whole = *piece == self.map.geometry.block_range(block);
        if !whole || !payload.state.has_block() || self.metadata.leave_allocated {
            return self.put_piece(block, piece, Source::Zeros, below);
        }
        self.vacate(block, Payload::ZERO)
    }

    /// Writes to a partially present block: whole sectors, of which what the guest does not write
    /// comes from below. The bits become durable after the bytes.
    fn put_sectors(
        &mut self,
        block: u64,
        offset: u64,
        piece: &Range<u64>,
        source: Source<'_>,
        below: &dyn Disk,
    ) -> Result<()> {
        let geometry = self.map.geometry;
        let base = self.map.bitmap_of(block)?;
        let sector = geometry.logical_sector;
        let head = piece.start / sector * sector..piece.start;
        let tail = piece.end..piece.end.next_multiple_of(sector);
        for edge in [head, tail] {
            if edge.is_empty() {
                continue;
            }
            let (here, _) = bitmap::run(&self.map.bitmaps, base, geometry.bits(&edge))?;
            if !here {
                let mut bytes = vec![0; usize::try_from(edge.end - edge.start).unwrap_or(0)];
                read_padded(below, &mut bytes, edge.start)?;
                self.put_bytes(block, offset, &edge, Source::Data(&bytes))?;
            }
        }
        self.put_bytes(block, offset, piece, source)?;
        let bits = geometry.bits(piece);
        let count = bits.end - bits.start;
        if bitmap::run(&self.map.bitmaps, base, bits.clone())? == (true, count) {
            return Ok(());
        }
        bitmap::fill(&self.map.bitmaps, base, bits, true)?;
        let all = geometry.bits(&geometry.block_range(block));
        let count = all.end - all.start;
        if bitmap::run(&self.map.bitmaps, base, all)? == (true, count) {
            return self.set_payload(block, Payload { state: State::Full, offset });
        }
        Ok(())
    }

    /// Writes to the bytes of a block that stands at `offset`.
    fn put_bytes(
        &self,
        block: u64,
        offset: u64,
        piece: &Range<u64>,
        source: Source<'_>,
    ) -> Result<()> {
        let at = offset + (piece.start - self.map.geometry.block_range(block).start);
        match source {
            Source::Data(data) => self.file()?.put(data, at, "guest data"),
            Source::Zeros => self.file()?.clear(at, piece.end - piece.start, "guest data"),
        }
    }

    /// Some writers cut the file after the last byte of the disk; a block that is written to is
    /// made whole. Fails where the file lacks bytes of the disk.
    fn complete_block(&mut self, block: u64, offset: u64) -> Result<()> {
        self.map.within_file(block, offset, self.map.geometry.block_range(block).end - 1)?;
        self.cover(offset + self.map.geometry.block_size)
    }

    fn set_payload(&mut self, block: u64, payload: Payload) -> Result<()> {
        self.set_payloads(block..block + 1, |_| payload)
    }
}
