//! Finding zeros at memory speed.

use std::ops::Range;

/// Whether every byte of `buf` is zero.
#[must_use]
pub fn is_zero(buf: &[u8]) -> bool {
    // Wide blocks without an early exit inside let the compiler use vector registers.
    let mut blocks = buf.chunks_exact(256);
    blocks.all(|block| block.iter().fold(0, |any, byte| any | byte) == 0)
        && buf.chunks_exact(256).remainder().iter().all(|byte| *byte == 0)
}

/// Cuts `buf` at multiples of `unit` bytes into runs that are all zero or not, in order:
/// each item is the run's range in `buf` and whether it is zero. `unit` is at least 1.
pub fn runs(buf: &[u8], unit: usize) -> impl Iterator<Item = (Range<usize>, bool)> + '_ {
    let mut units = buf.chunks(unit.max(1)).map(|chunk| (chunk.len(), is_zero(chunk))).peekable();
    let mut at = 0;
    std::iter::from_fn(move || {
        let (mut len, zero) = units.next()?;
        while let Some((more, _)) = units.next_if(|(_, next)| *next == zero) {
            len += more;
        }
        let range = at..at + len;
        at += len;
        Some((range, zero))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_single_bytes_anywhere() {
        for len in [0, 1, 255, 256, 257, 1000] {
            let mut buf = vec![0u8; len];
            assert!(is_zero(&buf));
            for at in 0..len {
                buf[at] = 1;
                assert!(!is_zero(&buf), "byte {at} of {len}");
                buf[at] = 0;
            }
        }
    }

    #[test]
    fn runs_merge_and_cover() {
        let mut buf = vec![0u8; 1300];
        buf[512] = 1;
        let found: Vec<_> = runs(&buf, 512).collect();
        assert_eq!(found, [(0..512, true), (512..1024, false), (1024..1300, true)]);
    }
}
