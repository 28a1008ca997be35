//! Cutting long stretches of a disk into pieces that fit a buffer.

use std::ops::Range;

use vdisk_core::Result;

/// Bytes worked on at once: a few megabytes hide the cost of a system call and stay near the
/// processor's caches.
pub(crate) const WINDOW: u64 = 1 << 20;

/// A piece of a disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Piece {
    /// All of it reads as zero; of any length.
    Zero(Range<u64>),
    /// Some of it may hold data; within one window.
    Window {
        /// The whole piece.
        range: Range<u64>,
        /// The parts that may hold data, ascending, not touching.
        data: Vec<Range<u64>>,
    },
}

/// Turns ranges that ascend, and whether each is surely zero, into pieces cut at multiples of
/// `window` bytes. Small zero ranges between data stay part of a window.
pub(crate) fn pieces(
    ranges: impl Iterator<Item = Result<(Range<u64>, bool)>>,
    window: u64,
) -> impl Iterator<Item = Result<Piece>> {
    let mut ranges = ranges;
    // What the last piece did not take.
    let mut rest: Option<(Range<u64>, bool)> = None;
    let mut next = move |rest: &mut Option<(Range<u64>, bool)>| match rest.take() {
        Some(kept) => Some(Ok(kept)),
        None => {
            ranges.by_ref().find(|next| next.as_ref().map_or(true, |(range, _)| !range.is_empty()))
        }
    };
    std::iter::from_fn(move || {
        let first = match next(&mut rest)? {
            Err(error) => return Some(Err(error)),
            Ok((range, true)) => return Some(Ok(Piece::Zero(range))),
            Ok((range, false)) => range,
        };
        let window_end = (first.start / window + 1) * window;
        let mut range = first.start..first.start;
        let mut data: Vec<Range<u64>> = Vec::new();
        rest = Some((first, false));
        while range.end < window_end {
            match next(&mut rest) {
                None => break,
                Some(Err(error)) => return Some(Err(error)),
                // Zeros up to the window's end stand for themselves; smaller ones stay inside.
                Some(Ok((zeros, true))) if zeros.end >= window_end => {
                    rest = Some((zeros, true));
                    break;
                }
                Some(Ok((zeros, true))) => range.end = zeros.end,
                Some(Ok((part, false))) => {
                    let cut = part.end.min(window_end);
                    match data.last_mut() {
                        Some(last) if last.end == part.start => last.end = cut,
                        _ => data.push(part.start..cut),
                    }
                    range.end = cut;
                    if cut < part.end {
                        rest = Some((cut..part.end, false));
                    }
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
                ranges.push((at..at + len, rng.bool()));
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
                }
            }
            for (range, is_zero) in ranges {
                for at in range {
                    assert_eq!(zero[at as usize], u8::from(is_zero), "byte {at}");
                }
            }
        }
    }
}
