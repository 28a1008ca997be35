//! Digests of a disk's content, the same whatever format it is in.

use std::ops::Range;
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};
use vdisk_core::{Disk, Result, hex};

use crate::convert::Watch;
use crate::parallel::for_each;
use crate::readahead::ReadAhead;
use crate::windows::{Part, Piece, WINDOW, pieces};

/// A digest's definition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// SHA-256 of all bytes from first to last: what `sha256sum` says of the raw disk.
    Sha256,
    /// BLAKE3 of blocks, then of the list: parallel, and free for holes. The disk is cut into
    /// blocks of 1 MiB, the last one shorter where the length is no multiple. The digest is
    /// BLAKE3 of: the 13 ASCII bytes `vdisk-tree/1` and a line feed, the length in bytes as 8 bytes
    /// little-endian, then the BLAKE3 digest (32 bytes) of every block in order.
    Tree,
}

impl Algorithm {
    /// The name on the command line.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Tree => "tree",
        }
    }
}

/// Block of [`Algorithm::Tree`], bytes.
const BLOCK: u64 = 1 << 20;

/// The digest of all of `disk`, in lower-case hex.
///
/// # Errors
/// Those of the disk.
pub fn checksum(
    disk: &dyn Disk,
    algorithm: Algorithm,
    threads: usize,
    watch: Watch<'_>,
) -> Result<String> {
    watch.progress.begin("checksum", disk.len());
    let digest = match algorithm {
        Algorithm::Sha256 => sha256(disk, threads, watch)?,
        Algorithm::Tree => tree(disk, threads, watch)?,
    };
    watch.progress.end();
    Ok(hex(&digest))
}

fn sha256(disk: &dyn Disk, threads: usize, watch: Watch<'_>) -> Result<Vec<u8>> {
    let hasher = Mutex::new(Sha256::new());
    let ahead = ReadAhead::new(disk);
    for_each(pieces_of(disk), threads, watch.cancel, |piece, turn| match piece {
        Piece::Zero(range) => turn.take(|| {
            let zeros = vec![0; usize::try_from(WINDOW).unwrap_or_default()];
            let mut hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner);
            let mut left = range.end - range.start;
            while left > 0 {
                watch.cancel.check()?;
                let step = left.min(WINDOW);
                hasher.update(zeros.get(..usize::try_from(step).unwrap_or(0)).unwrap_or(&zeros));
                left -= step;
                watch.progress.advance(step);
            }
            Ok(())
        }),
        Piece::Window { range, .. } => {
            ahead.reach(range.end);
            let bytes = read(disk, &range)?;
            turn.take(|| {
                hasher.lock().unwrap_or_else(PoisonError::into_inner).update(&bytes);
                Ok(())
            })?;
            watch.progress.advance(range.end - range.start);
            Ok(())
        }
    })?;
    Ok(hasher.into_inner().unwrap_or_else(PoisonError::into_inner).finalize().to_vec())
}

fn tree(disk: &dyn Disk, threads: usize, watch: Watch<'_>) -> Result<Vec<u8>> {
    let len = disk.len();
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"vdisk-tree/1\n");
    hasher.update(&len.to_le_bytes());
    let hasher = Mutex::new(hasher);
    let zero_block = blake3::hash(&vec![0; usize::try_from(BLOCK).unwrap_or_default()]);
    let ahead = ReadAhead::new(disk);
    for_each(block_runs(disk), threads, watch.cancel, |(blocks, zero), turn| {
        let end = (blocks.end * BLOCK).min(len);
        let range = blocks.start * BLOCK..end;
        if !zero {
            ahead.reach(range.end);
        }
        let leaf = if zero { zero_block } else { blake3::hash(&read(disk, &range)?) };
        turn.take(|| {
            let mut hasher = hasher.lock().unwrap_or_else(PoisonError::into_inner);
            blocks.clone().for_each(|_| {
                hasher.update(leaf.as_bytes());
            });
            Ok(())
        })?;
        watch.progress.advance(range.end - range.start);
        Ok(())
    })?;
    Ok(hasher.into_inner().unwrap_or_else(PoisonError::into_inner).finalize().as_bytes().to_vec())
}

/// The disk's blocks by number: runs of whole blocks that are surely zero, single ones else.
fn block_runs(disk: &dyn Disk) -> impl Iterator<Item = Result<(Range<u64>, bool)>> + Send + '_ {
    let len = disk.len();
    let whole_blocks = len / BLOCK;
    let mut pieces = pieces_of(disk).peekable();
    let mut at = 0;
    std::iter::from_fn(move || {
        while at < len.div_ceil(BLOCK) {
            match pieces.peek()? {
                Err(_) => return pieces.next().map(|error| error.map(|_| (0..0, true))),
                Ok(Piece::Zero(range) | Piece::Window { range, .. }) if range.end <= at * BLOCK => {
                    pieces.next();
                }
                Ok(Piece::Zero(range)) if range.start <= at * BLOCK && at < whole_blocks => {
                    let end = (range.end / BLOCK).min(whole_blocks);
                    if end <= at {
                        let block = at..at + 1;
                        at += 1;
                        return Some(Ok((block, false)));
                    }
                    let run = at..end;
                    at = end;
                    return Some(Ok((run, true)));
                }
                Ok(_) => {
                    let block = at..at + 1;
                    at += 1;
                    return Some(Ok((block, false)));
                }
            }
        }
        None
    })
}

fn pieces_of(disk: &dyn Disk) -> impl Iterator<Item = Result<Piece>> + Send + '_ {
    let extents = disk.extents(0..disk.len()).map(|extent| {
        extent.map(|extent| (extent.start..extent.end(), Part::zero_or_data(extent.is_zero())))
    });
    pieces(extents, WINDOW)
}

fn read(disk: &dyn Disk, range: &Range<u64>) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(range.end - range.start).unwrap_or_default()];
    disk.read_at(&mut bytes, range.start)?;
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chain::Chain;
    use crate::raw::RawLayer;
    use std::sync::Arc;
    use vdisk_core::{MemStore, Store};
    use vdisk_testkit::content::Content;

    /// The definition of the tree digest, word for word.
    fn tree_by_hand(bytes: &[u8]) -> String {
        let mut list = b"vdisk-tree/1\n".to_vec();
        list.extend((bytes.len() as u64).to_le_bytes());
        for block in bytes.chunks(1 << 20) {
            list.extend(blake3::hash(block).as_bytes());
        }
        blake3::hash(&list).to_hex().to_string()
    }

    #[test]
    fn holes_and_zeros_make_no_difference() {
        for (seed, len) in
            [(1, 1), (2, 1 << 20), (3, (5 << 20) + 777), (4, 9 << 20), (5, 12_345_678)]
        {
            let content = Content::random(len, seed);
            let sparse = MemStore::new("sparse");
            sparse.set_len(len).unwrap();
            for range in content.data() {
                let part = &content.bytes()[range.start as usize..range.end as usize];
                sparse.write_all_at(part, range.start).unwrap();
            }
            let full = MemStore::from_bytes("full", content.bytes());
            for store in [sparse, full] {
                let layer = RawLayer::open(Arc::new(store), false).unwrap();
                let disk = Chain::new(vec![Box::new(layer)]);
                let digest = |algorithm| checksum(&disk, algorithm, 3, Watch::default()).unwrap();
                assert_eq!(digest(Algorithm::Tree), tree_by_hand(content.bytes()), "seed {seed}");
                let hex: String =
                    Sha256::digest(content.bytes()).iter().map(|b| format!("{b:02x}")).collect();
                assert_eq!(digest(Algorithm::Sha256), hex, "seed {seed}");
            }
        }
    }
}
