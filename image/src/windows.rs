//! Cutting long stretches of a disk into pieces that fit a buffer.

use std::ops::Range;

use vdisk_core::Result;

/// Bytes worked on at once: a few megabytes hide the cost of a system call and stay near the
/// processor's caches.
pub(crate) const WINDOW: u64 = 1 << 20;

/// Most bytes of a piece that stands apart.
const APART: u64 = 256 << 20;

/// What is known of a range before it is cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part<T> {
    /// It surely reads as zero.
    Zero,
    /// It may hold data.
    Data,
    /// It is not for windows: somebody else moves it.
    Apart(T),
}

impl Part<std::convert::Infallible> {
    /// A range that is nothing but zero or not.
    pub(crate) fn zero_or_data(zero: bool) -> Self {
        if zero { Self::Zero } else { Self::Data }
    }
}

/// A piece of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece<T = std::convert::Infallible> {
    /// All of it reads as zero; of any length.
    Zero(Range<u64>),
    /// Some of it may hold data; within one window.
    Window {
        /// The whole piece.
        range: Range<u64>,
        /// The parts that may hold data, ascending, not touching.
        data: Vec<Range<u64>>,
    },
    /// Part of a range that stands apart, of a bounded length.
    Apart(Range<u64>, T),
}

/// Turns ranges that ascend and touch into pieces cut at multiples of `window` bytes. Zero ranges
/// between data that do not reach a window's end stay part of the window.
pub(crate) fn pieces<T: Copy>(
    ranges: impl Iterator<Item = Result<(Range<u64>, Part<T>)>>,
    window: u64,
) -> impl Iterator<Item = Result<Piece<T>>> {
    let mut ranges = ranges.filter(|next| !matches!(next, Ok((range, _)) if range.is_empty()));
    // What the last piece did not take.
    let mut rest = None;
    std::iter::from_fn(move || {
        let first = match rest.take().map(Ok).or_else(|| ranges.next())? {
            Err(error) => return Some(Err(error)),
            Ok((range, Part::Zero)) => return Some(Ok(Piece::Zero(range))),
            Ok((range, Part::Apart(what))) => {
                let cut = range.end.min((range.start / APART + 1) * APART);
                rest =
                    Some((cut..range.end, Part::Apart(what))).filter(|(left, _)| !left.is_empty());
                return Some(Ok(Piece::Apart(range.start..cut, what)));
            }
            Ok((range, Part::Data)) => range,
        };
        let window_end = (first.start / window + 1) * window;
        let mut range = first.start..first.start;
        let mut data: Vec<Range<u64>> = Vec::new();
        rest = Some((first, Part::Data));
        while range.end < window_end {
            match rest.take().map(Ok).or_else(|| ranges.next()) {
                None => break,
                Some(Err(error)) => return Some(Err(error)),
                Some(Ok((zeros, Part::Zero))) if zeros.end < window_end => range.end = zeros.end,
                Some(Ok((part, Part::Data))) => {
                    let cut = part.end.min(window_end);
                    match data.last_mut() {
                        Some(last) if last.end == part.start => last.end = cut,
                        _ => data.push(part.start..cut),
                    }
                    range.end = cut;
                    rest = Some((cut..part.end, Part::Data)).filter(|(left, _)| !left.is_empty());
                }
                // Long zeros and what stands apart are pieces of their own.
                Some(Ok(other)) => {
                    rest = Some(other);
                    break;
                }
            }
        }
        Some(Ok(Piece::Window { range, data }))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pieces_cover_everything_once() {
        let mut rng = fastrand::Rng::with_seed(5);
        for _ in 0..300 {
            let mut at = 0;
            let mut ranges = Vec::new();
            for _ in 0..rng.usize(1..30) {
                let longest = [5, 100, 1000][rng.usize(0..3)];
                let len = rng.u64(1..=longest);
                let part = [Part::Zero, Part::Data, Part::Apart(at)][rng.usize(0..3)];
                ranges.push((at..at + len, part));
                at += len;
            }
            let mut zero = vec![9u8; at as usize];
            for piece in pieces(ranges.iter().cloned().map(Ok), 128) {
                let mut mark = |range: Range<u64>, value| {
                    for byte in &mut zero[range.start as usize..range.end as usize] {
                        assert!(*byte == 9 || (*byte == 1 && value == 0), "covered twice");
                        *byte = value;
                    }
                };
                match piece.unwrap() {
                    Piece::Zero(range) => mark(range, 1),
                    Piece::Window { range, data } => {
                        assert!(
                            range.start / 128 == (range.end - 1) / 128
                                && data[0].start == range.start
                        );
                        mark(range, 1);
                        data.into_iter().for_each(|range| mark(range, 0));
                    }
                    Piece::Apart(range, start) => {
                        assert!(start <= range.start);
                        mark(range, 2);
                    }
                }
            }
            for (range, part) in ranges {
                let expected = match part {
                    Part::Data => 0,
                    Part::Zero => 1,
                    Part::Apart(_) => 2,
                };
                for at in range {
                    assert_eq!(zero[at as usize], expected, "byte {at}");
                }
            }
        }
    }

    #[test]
    fn long_ranges_are_cut_as_they_are_asked_for() {
        // Longer than memory could hold, were the pieces made at once.
        let end = 1u64 << 60;
        let apart = pieces([Ok((1000..end, Part::Apart(7)))].into_iter(), WINDOW);
        let cut: Vec<_> = apart.take(2).map(Result::unwrap).collect();
        assert_eq!(cut, [Piece::Apart(1000..APART, 7), Piece::Apart(APART..2 * APART, 7)]);
        let data = pieces([Ok((1000..end, Part::<u8>::Data))].into_iter(), WINDOW);
        assert_eq!(data.take(3).count(), 3);
    }
}
