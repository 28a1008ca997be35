//! Bitmaps in which a set bit is a unit in use.

use std::ops::Range;

/// Finds the runs of clear bits, bit 0 being the lowest of the first byte, in bitmaps given piece
/// by piece.
#[derive(Debug, Default)]
pub(super) struct ClearRuns {
    /// The number of the next bit.
    next: u64,
    /// Where the run that is still growing began.
    open: Option<u64>,
}

impl ClearRuns {
    /// Looks at the first `count` bits of `bytes`; gives each run that ended to `each`.
    pub(super) fn look(&mut self, bytes: &[u8], count: u64, mut each: impl FnMut(Range<u64>)) {
        let mut left = count;
        for byte in bytes {
            if left == 0 {
                break;
            }
            let width = left.min(8);
            left -= width;
            match (*byte, self.open) {
                // Most bytes are all used or all free.
                (0, _) if width == 8 => self.open = self.open.or(Some(self.next)),
                (0xFF, None) => {}
                _ => {
                    for bit in 0..width {
                        let number = self.next + bit;
                        if byte >> bit & 1 == 0 {
                            self.open = self.open.or(Some(number));
                        } else if let Some(start) = self.open.take() {
                            each(start..number);
                        }
                    }
                }
            }
            self.next += width;
        }
    }

    /// The run that reaches to the end, if one does.
    pub(super) fn end(self) -> Option<Range<u64>> {
        self.open.map(|start| start..self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_every_run_however_the_map_is_cut() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..200 {
            let bytes: Vec<u8> = (0..64)
                .map(|_| match rng.u8(0..4) {
                    0 => 0,
                    1 => 0xFF,
                    _ => rng.u8(..),
                })
                .collect();
            let count = rng.u64(1..=512);
            let mut model = Vec::new();
            for bit in 0..count {
                if bytes[usize::try_from(bit / 8).unwrap()] >> (bit % 8) & 1 == 0 {
                    match model.last_mut() {
                        Some(Range { end, .. }) if *end == bit => *end += 1,
                        _ => model.push(bit..bit + 1),
                    }
                }
            }
            let cut = rng.usize(0..usize::try_from(count.div_ceil(8)).unwrap());
            let mut runs = ClearRuns::default();
            let mut found = Vec::new();
            runs.look(&bytes[..cut], cut as u64 * 8, |run| found.push(run));
            runs.look(&bytes[cut..], count - cut as u64 * 8, |run| found.push(run));
            found.extend(runs.end());
            assert_eq!(found, model);
        }
    }
}
