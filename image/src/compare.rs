//! Do two disks hold the same bytes?

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use vdisk_core::{Disk, Result};

use crate::convert::Watch;
use crate::pair::pairs;
use crate::parallel::for_each;
use crate::readahead::ReadAhead;
use crate::windows::{Part, Piece, WINDOW, pieces};

/// Ranges reported at most.
pub const MOST_RANGES: usize = 1000;

/// Equal bytes between two differing ones that are too few to end a range.
const JOINED: u64 = 512;

/// Ranges kept while comparing, before they are joined and cut to [`MOST_RANGES`].
const KEPT: usize = 1 << 16;

/// How two disks compare.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Comparison {
    /// No byte differs; a longer disk's rest is zero.
    pub identical: bool,
    /// Bytes that differ.
    pub differing_bytes: u64,
    /// Where they are, in order, from the first differing byte to the last of each range; equal
    /// stretches below 512 bytes do not end a range. At most [`MOST_RANGES`].
    pub ranges: Vec<Range<u64>>,
    /// There are more ranges than these.
    pub truncated: bool,
}

/// Compares the bytes of two disks; where one is longer, the rest of it is compared with zeros.
/// What both maps show as zero, or as the same place of the same file, is not read.
///
/// # Errors
/// Those of both disks.
pub fn compare(
    left: &dyn Disk,
    right: &dyn Disk,
    threads: usize,
    watch: Watch<'_>,
) -> Result<Comparison> {
    let len = left.len().max(right.len());
    watch.progress.begin("compare", len);
    let found = Mutex::new(Found::default());
    let ranges = pairs(left, right, 0..len).map(|pair| {
        pair.map(|pair| (pair.start..pair.start + pair.len, Part::zero_or_data(pair.same)))
    });
    let ahead = [ReadAhead::new(left), ReadAhead::new(right)];
    for_each(pieces(ranges, WINDOW), threads, watch.cancel, |piece, _turn| {
        let range = match piece {
            Piece::Zero(range) => {
                watch.progress.advance(range.end - range.start);
                return Ok(());
            }
            Piece::Window { range, .. } => range,
        };
        ahead.iter().for_each(|side| side.reach(range.end));
        let mut sides = [(left, Vec::new()), (right, Vec::new())];
        for (disk, bytes) in &mut sides {
            *bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
            vdisk_core::disk::read_padded(*disk, bytes, range.start)?;
        }
        let [(_, a), (_, b)] = &sides;
        if a != b {
            let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
            found.note(range.start, a, b);
        }
        watch.progress.advance(range.end - range.start);
        Ok(())
    })?;
    watch.progress.end();
    Ok(found.into_inner().unwrap_or_else(PoisonError::into_inner).summary())
}

#[derive(Debug, Default)]
struct Found {
    bytes: u64,
    /// Start to end; windows arrive in any order.
    ranges: BTreeMap<u64, u64>,
    dropped: bool,
}

impl Found {
    fn note(&mut self, start: u64, a: &[u8], b: &[u8]) {
        let mut open: Option<Range<u64>> = None;
        for (block_index, (block_a, block_b)) in a.chunks(4096).zip(b.chunks(4096)).enumerate() {
            if block_a == block_b {
                continue;
            }
            let base = start + block_index as u64 * 4096;
            for (index, (x, y)) in block_a.iter().zip(block_b).enumerate() {
                if x == y {
                    continue;
                }
                self.bytes += 1;
                let at = base + index as u64;
                match &mut open {
                    Some(range) if at - range.end < JOINED => range.end = at + 1,
                    _ => {
                        let done = open.replace(at..at + 1);
                        self.keep(done);
                    }
                }
            }
        }
        self.keep(open);
    }

    fn keep(&mut self, range: Option<Range<u64>>) {
        let Some(range) = range else { return };
        self.ranges.insert(range.start, range.end);
        if self.ranges.len() > KEPT {
            self.ranges.pop_last();
            self.dropped = true;
        }
    }

    /// Joins ranges across the edges of windows and cuts the list.
    fn summary(self) -> Comparison {
        let mut ranges: Vec<Range<u64>> = Vec::new();
        for (start, end) in self.ranges {
            match ranges.last_mut() {
                Some(last) if start - last.end < JOINED => last.end = end,
                _ => ranges.push(start..end),
            }
        }
        let truncated = self.dropped || ranges.len() > MOST_RANGES;
        ranges.truncate(MOST_RANGES);
        Comparison { identical: self.bytes == 0, differing_bytes: self.bytes, ranges, truncated }
    }
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // lists of ranges, some of one
mod tests {
    use super::*;
    use vdisk_testkit::VecDisk;

    fn run(a: Vec<u8>, b: Vec<u8>) -> Comparison {
        compare(&VecDisk(a), &VecDisk(b), 3, Watch::default()).unwrap()
    }

    #[test]
    fn counts_bytes_and_names_ranges() {
        let base = vec![7u8; 3 << 20];
        assert!(run(base.clone(), base.clone()).identical);
        let mut other = base.clone();
        other[5] = 0;
        other[400] = 0;
        other[(1 << 20) - 1] = 0;
        other[1 << 20] = 0;
        let found = run(base, other);
        assert_eq!(found.differing_bytes, 4);
        assert_eq!(found.ranges, [5..401, (1 << 20) - 1..(1 << 20) + 1]);
        assert!(!found.identical && !found.truncated);
    }

    #[test]
    fn a_longer_disk_is_the_same_if_its_rest_is_zero() {
        assert!(run(vec![1; 1000], [vec![1; 1000], vec![0; 5000]].concat()).identical);
        let found = run(vec![1; 1000], [vec![1; 1000], vec![0; 10], vec![3; 2]].concat());
        assert_eq!(found.ranges, [1010..1012]);
    }

    #[test]
    fn long_lists_are_cut() {
        let len = 4 << 20;
        let other: Vec<u8> = (0..len).map(|at| u8::from(at % 1024 == 0)).collect();
        let found = run(vec![0; len], other);
        assert_eq!((found.ranges.len(), found.truncated), (1000, true));
        assert_eq!(found.differing_bytes, 4096);
    }
}
