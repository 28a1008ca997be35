//! Which MiBs of the file are taken: finding room for new blocks, and blocks that overlap.

use std::ops::Range;

use vdisk_core::{Error, ErrorKind, Result};

use crate::{MAX_FILE, MIB};

/// One bit for each MiB of the file. All ranges are bytes and are rounded out to MiBs.
#[derive(Debug, Default)]
pub(crate) struct Space {
    words: Vec<u64>,
    /// Given up, but the metadata that says so is not durable yet: may not be reused.
    pending: Vec<Range<u64>>,
    /// No room for a block was found before this MiB since something was last given up.
    searched: u64,
}

impl Space {
    /// Takes a range; `false` where part of it was taken before. Then the rest is taken as well.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] beyond the longest file.
    pub(crate) fn claim(&mut self, range: &Range<u64>) -> Result<bool> {
        if range.end > MAX_FILE {
            return Err(Error::unsupported(format!(
                "byte {} lies beyond the longest file of {MAX_FILE} bytes",
                range.end
            )));
        }
        let mut free = true;
        for mib in range.start / MIB..range.end.div_ceil(MIB) {
            let (index, bit) = place(mib);
            if index >= self.words.len() {
                self.words.resize(index + 1, 0);
            }
            if let Some(word) = self.words.get_mut(index) {
                free &= *word & bit == 0;
                *word |= bit;
            }
        }
        Ok(free)
    }

    /// Takes `len` bytes wherever there is room: in a gap, or behind all that is taken. Returns
    /// where they start. What stood there before is still there.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] where the file would get too long.
    pub(crate) fn allocate(&mut self, len: u64) -> Result<u64> {
        let end = self.end();
        let start = self.gap(len, end).unwrap_or(end);
        let range = start..start + len;
        if range.end > MAX_FILE {
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("the file would be longer than {MAX_FILE} bytes"),
            ));
        }
        self.claim(&range)?;
        Ok(start)
    }

    /// Gives a range up, as soon as [`Space::settle`] is called.
    pub(crate) fn give_up(&mut self, range: Range<u64>) {
        self.pending.push(range);
    }

    /// The metadata that gave ranges up is durable: they may be reused. Returns them.
    pub(crate) fn settle(&mut self) -> Vec<Range<u64>> {
        let settled = std::mem::take(&mut self.pending);
        for range in &settled {
            for mib in range.start / MIB..range.end.div_ceil(MIB) {
                let (index, bit) = place(mib);
                if let Some(word) = self.words.get_mut(index) {
                    *word &= !bit;
                }
            }
            self.searched = self.searched.min(range.start / MIB);
        }
        settled
    }

    /// Where the last taken MiB ends.
    pub(crate) fn end(&self) -> u64 {
        let last = self.words.iter().rposition(|word| *word != 0);
        last.map_or(0, |index| {
            let word = self.words.get(index).copied().unwrap_or_default();
            (index as u64 * 64 + 64 - u64::from(word.leading_zeros())) * MIB
        })
    }

    /// The stretches of the file that nobody took.
    pub(crate) fn gaps(&self, file_len: u64) -> impl Iterator<Item = Range<u64>> + '_ {
        let end = file_len.div_ceil(MIB);
        let mut at = 0;
        std::iter::from_fn(move || {
            let start = self.next(at, end, false)?;
            at = self.next(start, end, true).unwrap_or(end);
            Some(start * MIB..(at * MIB).min(file_len))
        })
    }

    fn gap(&mut self, len: u64, end: u64) -> Option<u64> {
        let (wanted, end) = (len.div_ceil(MIB), end / MIB);
        let mut at = self.searched;
        while let Some(start) = self.next(at, end, false) {
            at = self.next(start, end, true).unwrap_or(end);
            if at - start >= wanted {
                self.searched = start;
                return Some(start * MIB);
            }
        }
        self.searched = end;
        None
    }

    /// The first MiB in `from..end` that is taken, or free.
    fn next(&self, from: u64, end: u64, taken: bool) -> Option<u64> {
        let mut at = from;
        while at < end {
            let (index, bit) = place(at);
            let word = self.words.get(index).copied().unwrap_or_default();
            let wanted = (if taken { word } else { !word }) & !(bit - 1);
            if wanted != 0 {
                let found = at / 64 * 64 + u64::from(wanted.trailing_zeros());
                return (found < end).then_some(found);
            }
            at = (at / 64 + 1) * 64;
        }
        None
    }
}

/// The word and the bit of a MiB.
fn place(mib: u64) -> (usize, u64) {
    (usize::try_from(mib / 64).unwrap_or(usize::MAX), 1 << (mib % 64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_overlaps_and_gaps() {
        let mut space = Space::default();
        assert!(space.claim(&(0..3 * MIB)).unwrap());
        assert!(space.claim(&(5 * MIB..5 * MIB + 1)).unwrap());
        assert!(!space.claim(&(2 * MIB..4 * MIB)).unwrap());
        assert!(space.claim(&(100 * MIB..200 * MIB)).unwrap());
        let gaps: Vec<_> = space.gaps(201 * MIB - 5).map(|g| (g.start / MIB, g.end)).collect();
        assert_eq!(gaps, [(4, 5 * MIB), (6, 100 * MIB), (200, 201 * MIB - 5)]);
        assert_eq!(space.end(), 200 * MIB);
        assert!(space.claim(&(0..u64::MAX)).is_err());
    }

    #[test]
    fn space_given_up_is_reused_only_once_settled() {
        let mut space = Space::default();
        assert!(space.claim(&(0..8 * MIB)).unwrap());
        space.give_up(4 * MIB..6 * MIB);
        assert_eq!(space.allocate(2 * MIB).unwrap(), 8 * MIB);
        assert_eq!(space.settle(), vec![4 * MIB..6 * MIB]);
        assert_eq!(space.allocate(2 * MIB).unwrap(), 4 * MIB);
        assert_eq!(space.allocate(MIB).unwrap(), 10 * MIB);
    }
}
