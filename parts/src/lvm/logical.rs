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

    /// On which bytes of which disks `range` stands, whatever their order: one run for each area of
    /// a segment, however short the stripes are.
    ///
    /// # Errors
    /// [`OutOfRange`](vdisk_core::ErrorKind::OutOfRange) beyond the end.
    pub fn spans(
        &self,
        range: Range<u64>,
    ) -> Result<impl Iterator<Item = (usize, Range<u64>)> + '_> {
        in_range(range.start, range.end.saturating_sub(range.start), self.len())?;
        let first = self.segments.partition_point(|one| one.start + one.len <= range.start);
        let segments = self.segments.get(first..).unwrap_or_default().iter();
        let segments = segments.take_while(move |one| one.start.max(range.start) < range.end);
        Ok(segments.flat_map(move |one| {
            let end = range.end.min(one.start + one.len) - one.start;
            spans(one, range.start.saturating_sub(one.start)..end)
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

/// The same for bytes of one segment, counted from its beginning; not none.
fn spans(segment: &Segment, within: Range<u64>) -> impl Iterator<Item = (usize, Range<u64>)> + '_ {
    let Segment { stripe, areas, .. } = segment;
    let stripes = areas.len() as u64;
    let (first, last) = (within.start / stripe, (within.end - 1) / stripe);
    // The first stripes are on an area each, and so are the last.
    (first..=last).take(areas.len()).filter_map(move |chunk| {
        let (disk, start) = *areas.get(usize::try_from(chunk % stripes).ok()?)?;
        let last_here = last - (last - chunk) % stripes;
        let byte = |chunk: u64| start + chunk / stripes * stripe;
        let from = if chunk == first { within.start % stripe } else { 0 };
        let to = if last_here == last { (within.end - 1) % stripe + 1 } else { *stripe };
        Some((disk, byte(chunk) + from..byte(last_here) + to))
    })
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

#[cfg(test)]
mod tests {
    use vdisk_core::Ranges;

    use super::*;

    /// Two stripes on disks 0 and 1 of 5 units each, then 7 units on disk 1, then three stripes.
    fn volume(unit: u64) -> LogicalVolume {
        let segment = |start, len, stripe, areas| Segment { start, len, stripe, areas };
        let segments = vec![
            segment(0, 10 * unit, unit, vec![(0, 100 * unit), (1, 50 * unit)]),
            segment(10 * unit, 7 * unit, 7 * unit, vec![(1, 200 * unit)]),
            segment(17 * unit, 9 * unit, unit, vec![(2, 0), (0, 300 * unit), (1, 400 * unit)]),
        ];
        LogicalVolume::new(segments, Vec::new(), false)
    }

    #[test]
    fn spans_are_where_the_pieces_are() {
        let volume = volume(8);
        for (start, end) in
            (0..volume.len()).flat_map(|a| (a + 1..=volume.len()).map(move |b| (a, b)))
        {
            let spans: Vec<_> = volume.spans(start..end).unwrap().collect();
            for disk in 0..3 {
                let pieces = volume.map(start..end).unwrap().filter(|piece| piece.disk == disk);
                let pieces: Ranges =
                    pieces.map(|piece| piece.offset..piece.offset + piece.len).collect();
                let here = spans.iter().filter(|(on, _)| *on == disk);
                assert_eq!(here.map(|(_, run)| run.clone()).collect::<Ranges>(), pieces);
            }
            let total: u64 = spans.iter().map(|(_, run)| run.end - run.start).sum();
            assert_eq!(total, end - start);
            assert!(spans.len() <= 6);
        }
        assert_eq!(volume.spans(5..5).unwrap().count(), 0);
        assert!(volume.spans(0..volume.len() + 1).is_err());
    }

    #[test]
    fn short_stripes_make_no_more_spans() {
        let areas = vec![(0, 0), (1, 0)];
        let segment = Segment { start: 0, len: 1 << 50, stripe: 512, areas };
        let volume = LogicalVolume::new(vec![segment], Vec::new(), false);
        let spans: Vec<_> = volume.spans(512..1 << 50).unwrap().collect();
        assert_eq!(spans, [(1, 0..1 << 49), (0, 512..1 << 49)]);
    }
}
