//! A disk of which some parts are not wanted.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Disk, Extent, ExtentKind, Extents, in_range};
use crate::error::Result;
use crate::ranges::Ranges;
use crate::store::Store;

/// A disk that reads as zeros in some ranges, whatever stands there: how a copy leaves out what a
/// guest does not use.
#[derive(Debug)]
pub struct Masked<'a> {
    base: &'a dyn Disk,
    hidden: &'a Ranges,
}

impl<'a> Masked<'a> {
    /// `base` without what stands in the `hidden` ranges.
    #[must_use]
    pub fn new(base: &'a dyn Disk, hidden: &'a Ranges) -> Self {
        Self { base, hidden }
    }

    /// The piece of one kind that starts at `start`, and whether it is hidden.
    fn piece(&self, start: u64, end: u64) -> (Range<u64>, bool) {
        match self.hidden.at_or_after(start) {
            Some(range) if range.start <= start => (start..range.end.min(end), true),
            Some(range) => (start..range.start.min(end), false),
            None => (start..end, false),
        }
    }

    fn pieces(&self, range: Range<u64>) -> impl Iterator<Item = (Range<u64>, bool)> + Send + '_ {
        let mut at = range.start;
        std::iter::from_fn(move || {
            (at < range.end).then(|| {
                let (piece, hidden) = self.piece(at, range.end);
                at = piece.end;
                (piece, hidden)
            })
        })
    }
}

fn nothing(range: Range<u64>) -> Extent {
    let len = range.end - range.start;
    Extent { start: range.start, len, depth: 0, kind: ExtentKind::Zero { explicit: false } }
}

impl Disk for Masked<'_> {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        in_range(offset, buf.len() as u64, self.len())?;
        let mut rest = buf;
        for (piece, hidden) in self.pieces(offset..offset + rest.len() as u64) {
            let len = usize::try_from(piece.end - piece.start).unwrap_or(rest.len());
            let (part, later) = rest.split_at_mut(len.min(rest.len()));
            if hidden {
                part.fill(0);
            } else {
                self.base.read_at(part, piece.start)?;
            }
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        let (piece, hidden) = self.piece(offset, end);
        if hidden { Ok(nothing(piece)) } else { self.base.extent_at(piece.start, piece.end) }
    }

    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        Box::new(self.pieces(range).flat_map(|(piece, hidden)| -> Extents<'_> {
            if hidden {
                Box::new(std::iter::once(Ok(nothing(piece))))
            } else {
                self.base.extents(piece)
            }
        }))
    }

    fn store(&self, id: usize) -> Option<&Arc<dyn Store>> {
        self.base.store(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cow::CowDisk;
    use crate::disk::ZeroDisk;

    #[test]
    fn hides_what_it_should_and_nothing_else() {
        let base = CowDisk::new(Arc::new(ZeroDisk(20_000)), 1 << 20);
        base.write_at(&[7; 20_000], 0).unwrap();
        let hidden: Ranges = [0..10, 4096..8192, 19_999..20_000].into_iter().collect();
        let disk = Masked::new(&base, &hidden);
        let mut model = vec![7; 20_000];
        for range in hidden.iter() {
            model[range.start as usize..range.end as usize].fill(0);
        }
        for offset in (0..20_000).step_by(777) {
            let mut seen = vec![1; 20_000 - offset];
            disk.read_at(&mut seen, offset as u64).unwrap();
            assert_eq!(seen, model[offset..], "{offset}");
        }
        let mut at = 0;
        for extent in disk.extents(0..20_000) {
            let extent = extent.unwrap();
            assert_eq!(extent.start, at);
            at = extent.end();
            let zero = model[extent.start as usize..at as usize].iter().all(|byte| *byte == 0);
            assert_eq!(extent.is_zero(), zero, "{extent:?}");
        }
        assert_eq!(at, 20_000);
        assert!(disk.read_at(&mut [0; 2], 19_999).is_err());
    }
}
