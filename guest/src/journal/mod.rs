//! The journal of ext3 and ext4 (jbd2), replayed.
//!
//! What a volume that was not closed in order has only in its journal is put in its place, as the
//! guest's own kernel would at its next start: committed transactions, whole and in order, without
//! the blocks that were revoked. Nothing counts unless all of it does: every block that carries a
//! checksum must keep it. Structures are those of the kernel's
//! `Documentation/filesystems/ext4/journal.rst`; numbers in the journal are big-endian, those of
//! the file system little-endian.
//!
//! The log of an XFS is not replayed; but what a freeze leaves in it is known, and ended (`covered`).
//!
//! `area` finds the journal's blocks, `head` is the journal's own superblock, `log` reads what the
//! blocks hold; this file puts it in place and says that the journal is empty.

mod area;
mod covered;
mod head;
mod log;

use std::sync::Arc;

use vdisk_core::{Change, CowDisk, Disk, Error, Result};
use vdisk_parts::{VolumeKind, recognise};

use self::area::{Area, has_orphans};
use self::head::{Head, MAGIC};
use self::log::Log;
use crate::fs::remove_orphans;

/// Most bytes that one journal may change.
const LIMIT: u64 = 2 << 30;

/// What a journal held.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Replay {
    /// What is to be written to the volume, in order, bytes from its beginning.
    pub changes: Vec<Change>,
    /// Transactions that were complete.
    pub transactions: u32,
    /// Blocks of the file system that were put in their places.
    pub blocks: u64,
    /// Whether files that were open when their last name went still wait to be removed: the guest
    /// does that when it mounts the volume. Where that is possible, it is done here.
    pub orphans: bool,
}

/// Reads what waits in the journal of the ext3 or ext4 on `volume`, or in the log of a frozen XFS;
/// `None` where nothing does, or it is another file system.
///
/// # Errors
/// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for fast commits, asynchronous commits, checksums of version 1, and
/// journals on other disks, and for an XFS whose log holds more than a freeze leaves; [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where the journal is damaged, or the guest noted
/// an error in it; the disk's.
pub fn replay(volume: &Arc<dyn Disk>) -> Result<Option<Replay>> {
    match recognise(&**volume)?.map(|found| found.kind) {
        Some(VolumeKind::Ext2 | VolumeKind::Ext3 | VolumeKind::Ext4) => replay_ext(volume),
        Some(VolumeKind::Xfs) => covered::replay(volume),
        _ => Ok(None),
    }
}

fn replay_ext(volume: &Arc<dyn Disk>) -> Result<Option<Replay>> {
    let after = Arc::new(CowDisk::new(volume.clone(), LIMIT));
    let mut replay = Replay::default();
    let journal = Area::find(volume.clone())?;
    if let Some(area) = &journal {
        let head = Head::read(area)?;
        if head.start != 0 {
            let log = Log::read(area, &head)?;
            replay.transactions = log.transactions;
            replay.blocks = log.blocks.len() as u64;
            put_in_place(area, &log, &after)?;
            after.write_at(&head.emptied(log.next), area.place(0)?)?;
        }
        area.say_recovered(&after)?;
    }
    let orphans = has_orphans(&*after)?;
    if journal.is_none() && !orphans {
        return Ok(None);
    }
    replay.changes = after.changes()?;
    if orphans {
        match remove_orphans(after.clone()).and_then(|()| has_orphans(&*after)) {
            Ok(false) => replay.changes = after.changes()?,
            _ => replay.orphans = true,
        }
    }
    Ok(Some(replay))
}

/// Writes each block as the last transaction has it.
fn put_in_place(area: &Area, log: &Log, after: &CowDisk) -> Result<()> {
    for (number, copy) in &log.blocks {
        let (mut block, at) = area.read(copy.block)?;
        if copy.escaped
            && let Some(start) = block.get_mut(..4)
        {
            start.copy_from_slice(&MAGIC.to_be_bytes());
        }
        let to = number.checked_mul(area.block_size).filter(|_| *number < area.blocks);
        let to = to.ok_or_else(|| damaged(at, "a block of it lies beyond the file system"))?;
        after.write_at(&block, to)?;
    }
    Ok(())
}

fn damaged(at: u64, what: &str) -> Error {
    Error::corrupt("ext4 journal", at, what)
        .hint("let the guest's own e2fsck see to it, on a copy first")
}

fn unsupported(what: &str) -> Error {
    Error::unsupported(format!("{what} are not replayed"))
        .hint("the guest does it at its first start; or: e2fsck -E journal_only")
}

/// Big-endian numbers in a block; zero beyond its end.
fn be32(block: &[u8], at: usize) -> u32 {
    block.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u32::from_be_bytes(*bytes))
}

fn be16(block: &[u8], at: usize) -> u16 {
    block.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u16::from_be_bytes(*bytes))
}

fn be64(block: &[u8], at: usize) -> u64 {
    block.get(at..).and_then(<[u8]>::first_chunk).map_or(0, |bytes| u64::from_be_bytes(*bytes))
}

/// CRC-32C as the kernel runs it: without the last inversion.
fn crc(seed: u32, bytes: &[u8]) -> u32 {
    !crc32c::crc32c_append(!seed, bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_are_those_of_the_kernel() {
        // The check value of CRC-32C, whose last step is an inversion.
        assert_eq!(!crc(!0, b"123456789"), 0xe306_9283);
        assert_eq!(crc(crc(!0, b"1234"), b"56789"), crc(!0, b"123456789"));
    }
}
