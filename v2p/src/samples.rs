//! Whether a disk still holds what was written to it, told from some of it.

use std::ops::Range;

use vdisk::{Disk, ExtentKind, Result};
use vdisk_core::zeros::is_zero;

/// Bytes of a sample.
const PIECE: u64 = 64 << 10;
/// Samples spread over a range, and as many over the data in it.
const SAMPLES: u64 = 256;

/// Whether `now` agrees with `meant` wherever it is looked at in `range`: all over it, all over what
/// `meant` has data for, and at the end of that. Agreement of zeros alone says nothing of data, as
/// every empty disk has those.
pub(crate) fn agree(meant: &dyn Disk, now: &dyn Disk, range: Range<u64>) -> Result<bool> {
    let of_data = spread(|| data_in(meant, range.clone()))?;
    let mut seen = of_data.is_empty();
    for piece in spread(|| std::iter::once(Ok(range.clone())))?.into_iter().chain(of_data) {
        let (expected, found) = (read(meant, &piece)?, read(now, &piece)?);
        if expected != found {
            return Ok(false);
        }
        seen |= !is_zero(&expected);
    }
    Ok(seen)
}

/// What is not known to be zeros.
fn data_in(disk: &dyn Disk, range: Range<u64>) -> impl Iterator<Item = Result<Range<u64>>> + '_ {
    disk.extents(range).filter_map(|extent| match extent {
        Ok(extent) if matches!(extent.kind, ExtentKind::Zero { .. }) => None,
        Ok(extent) => Some(Ok(extent.start..extent.end())),
        Err(error) => Some(Err(error)),
    })
}

/// Pieces at even distances of all bytes of `ranges`, and the end of the last range.
fn spread<I>(ranges: impl Fn() -> I) -> Result<Vec<Range<u64>>>
where
    I: Iterator<Item = Result<Range<u64>>>,
{
    let mut total: u64 = 0;
    for range in ranges() {
        let range = range?;
        total = total.saturating_add(range.end - range.start);
    }
    let step = (total / SAMPLES).max(PIECE);
    let (mut pieces, mut last) = (Vec::new(), None);
    // From the beginning of each range to the next piece.
    let mut ahead = 0;
    for range in ranges() {
        let range = range?;
        let mut at = range.start.saturating_add(ahead);
        while at < range.end {
            pieces.push(at..range.end.min(at.saturating_add(PIECE)));
            at = at.saturating_add(step);
        }
        ahead = at - range.end;
        last = Some(range.end.saturating_sub(PIECE).max(range.start)..range.end);
    }
    pieces.extend(last.filter(|last| !last.is_empty()));
    Ok(pieces)
}

fn read(disk: &dyn Disk, range: &Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
    disk.read_at(&mut bytes, range.start)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_lie_at_even_distances_of_what_is_there() {
        const GIB: u64 = 1 << 30;
        let ranges = || [0..GIB, 3 * GIB..3 * GIB + 4096, 5 * GIB..6 * GIB].into_iter().map(Ok);
        let pieces = spread(ranges).unwrap();
        assert_eq!(pieces.first(), Some(&(0..PIECE)));
        assert_eq!(pieces.last(), Some(&(6 * GIB - PIECE..6 * GIB)));
        assert!(pieces.len() as u64 > SAMPLES && pieces.len() as u64 <= SAMPLES + 2);
        let few = spread(|| std::iter::once(Ok(10..10 + PIECE + 1))).unwrap();
        assert_eq!(few, [10..10 + PIECE, 10 + PIECE..11 + PIECE, 11..11 + PIECE]);
        assert!(spread(std::iter::empty).unwrap().is_empty());
    }
}
