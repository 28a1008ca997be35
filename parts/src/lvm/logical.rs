//! A logical volume as a disk: runs of bytes on physical volumes.

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::disk::in_range;
use vdisk_core::{Disk, Error, Extent, ExtentKind, Result, Store};

use super::group::Segment;

/// A logical volume of linear and striped segments. Reading it reads the disks under it; for
/// writing, [`map`](LogicalVolume::map) tells where its bytes stand.
#[derive(Clone, Debug)]
pub struct LogicalVolume {
    /// In order, without gaps; areas name disks by their index.
    segments: Vec<Segment>,
    disks: Vec<Arc<dyn Disk>>,
    has_snapshots: bool,
}

/// Where some bytes of a logical volume stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// The first of them on the logical volume.
    pub start: u64,
    /// The disk, by its index among those that were scanned.
    pub disk: usize,
    /// The first of them on that disk.
    pub offset: u64,
    /// How many, at least 1.
    pub len: u64,
}

/// The byte after the last of `segments`.
pub(super) fn end(segments: &[Segment]) -> u64 {
    segments.last().map_or(0, |last| last.start + last.len)
}

impl LogicalVolume {
    /// A volume whose segments are in order, without gaps, and lie on the disks.
    pub(super) fn new(
        segments: Vec<Segment>,
        disks: Vec<Arc<dyn Disk>>,
        has_snapshots: bool,
    ) -> Self {
        Self { segments, disks, has_snapshots }
    }

    /// Whether snapshots read from it what was not changed since they were made: only LVM2 itself
    /// can write to it without changing them.
    #[must_use]
    pub fn has_snapshots(&self) -> bool {
        self.has_snapshots
    }

    /// Where the bytes of `range` stand, in order. Pieces of striped segments are as long as a
    /// stripe at most.
    ///
    /// # Errors
    /// [`OutOfRange`](vdisk_core::ErrorKind::OutOfRange) beyond the end.
    pub fn map(&self, range: Range<u64>) -> Result<impl Iterator<Item = Piece> + '_> {
        in_range(range.start, range.end.saturating_sub(range.start), self.len())?;
        let mut at = range.start;
        Ok(std::iter::from_fn(move || {
            let piece = self.piece(at, range.end)?;
            at += piece.len;
            Some(piece)
        }))
    }

    /// The piece that starts at byte `at`, at most up to `end`.
    fn piece(&self, at: u64, end: u64) -> Option<Piece> {
        let index = self.segments.partition_point(|segment| segment.start <= at);
        let segment = self.segments.get(index.checked_sub(1)?)?;
        let within = at - segment.start;
        let (chunk, skip) = (within / segment.stripe, within % segment.stripe);
        let stripes = segment.areas.len() as u64;
        let area = usize::try_from(chunk % stripes).ok()?;
        let (disk, start) = *segment.areas.get(area)?;
        let left = (segment.stripe - skip).min(segment.len - within).min(end.checked_sub(at)?);
        let offset = start + chunk / stripes * segment.stripe + skip;
        (left > 0).then_some(Piece { start: at, disk, offset, len: left })
    }

    fn disk(&self, index: usize) -> Result<&dyn Disk> {
        let disk = self.disks.get(index).map(|disk| &**disk);
        disk.ok_or_else(|| Error::internal("a logical volume lost one of its disks"))
    }
}

impl Disk for LogicalVolume {
    fn len(&self) -> u64 {
        end(&self.segments)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        let mut rest = buf;
        for piece in self.map(offset..end)? {
            let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
            let (part, later) = rest.split_at_mut(len.min(rest.len()));
            self.disk(piece.disk)?.read_at(part, piece.offset)?;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        in_range(offset, end - offset, self.len())?;
        let piece =
            self.piece(offset, end).ok_or_else(|| Error::internal("a logical volume has a gap"))?;
        let disk = self.disk(piece.disk)?;
        let found = disk.extent_at(piece.offset, piece.offset + piece.len)?;
        let kind = match found.kind {
            ExtentKind::Data { store, at } => store
                .checked_mul(self.disks.len())
                .and_then(|store| store.checked_add(piece.disk))
                .map_or(ExtentKind::Opaque, |store| ExtentKind::Data { store, at }),
            // A grain may reach into what stands elsewhere.
            ExtentKind::Compressed(_) => ExtentKind::Opaque,
            kind => kind,
        };
        Ok(Extent { start: offset, kind, ..found })
    }

    /// The stores of all disks, numbered in turns.
    fn store(&self, id: usize) -> Option<&Arc<dyn Store>> {
        let disk = self.disks.get(id.checked_rem(self.disks.len())?)?;
        disk.store(id / self.disks.len())
    }
}
