//! What an edit changes in the file, for who writes it in place.

use std::ops::Range;

/// The bytes of a log (`.LOG`, `.LOG1`, `.LOG2`) that are set to zero in place once the hive they
/// belong to was replaced. Windows ignores the logs of a clean hive, so this is a second lock on the
/// door: a log without its header fits no hive. The log keeps its size; a shorter log, such as an
/// empty one, is left alone.
pub const LOG_HEADER: Range<u64> = 0..512;

/// Bytes of a file that change.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Byte offset in the file.
    pub offset: u64,
    /// What stands there afterwards.
    pub bytes: Vec<u8>,
}

/// A page of a hive.
const PAGE: usize = 4096;

/// The pages of 4096 bytes in which `after` differs from `before`, in order, and the first page,
/// which holds the base block, last of all: until it is written the file's header still is the old
/// one. Where `after` is longer the file grows first.
///
/// A power cut between two pages leaves a mixture of both hives; whoever writes in place needs a
/// journal of the old bytes, or a copy.
#[must_use]
pub fn changes(before: &[u8], after: &[u8]) -> Vec<Change> {
    let old = before.chunks(PAGE).map(Some).chain(std::iter::repeat(None));
    let pages = after.chunks(PAGE).zip(old).zip(0_u64..);
    let differ = pages.filter(|((new, old), _)| Some(*new) != *old);
    let mut changes: Vec<Change> = differ
        .map(|((new, _), page)| Change { offset: page * PAGE as u64, bytes: new.to_vec() })
        .collect();
    if changes.first().is_some_and(|first| first.offset == 0) {
        changes.rotate_left(1);
    }
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_base_block_comes_last() {
        let before = vec![1; 4 * PAGE];
        let mut after = before.clone();
        for at in [3, PAGE + 1, 3 * PAGE] {
            after[at] = 2;
        }
        after.resize(5 * PAGE, 0);
        let found = changes(&before, &after);
        let offsets: Vec<_> = found.iter().map(|change| change.offset).collect();
        assert_eq!(offsets, [4096, 3 * 4096, 4 * 4096, 0]);
        let mut file = before;
        file.resize(after.len(), 9);
        for Change { offset, bytes } in found {
            file[usize::try_from(offset).unwrap()..][..bytes.len()].copy_from_slice(&bytes);
        }
        assert_eq!(file, after);
        assert_eq!(changes(&after, &after), []);
    }
}
