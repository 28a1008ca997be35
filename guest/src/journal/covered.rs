//! The log of an XFS that was frozen.
//!
//! A freeze writes everything to its place, and then the superblock to the log, twice, so that a
//! system that stops there is told to look at its lists of removed files. Such a log is ended here
//! with the record of an unmount, where those lists are empty. A log with anything else in it is
//! the guest's to replay.
//!
//! The heads of records and of the operations in them are big-endian; what operations carry is of
//! the machine that wrote it, and only little-endian ones are read.

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::{CowDisk, Disk, Error, Result};

use super::{LIMIT, Replay, be16, be32, be64};
use crate::fs::XfsLog;

const SECTOR: usize = 512;
const MAGIC: u32 = 0xfeed_babe;
const LITTLE_ENDIAN: u32 = 1;
/// Where a record's head has the length of its data, its own place, that of the oldest record in
/// use, its checksum, the record before it, the number of its operations, the words that were
/// stamped over, the byte order, and the size it is made for.
const LEN: usize = 12;
const LSN: usize = 16;
const TAIL: usize = 24;
const SUM_OF_RECORD: usize = 32;
const BEFORE: usize = 36;
const OPERATIONS: usize = 40;
const STAMPED: usize = 44;
const FORMAT: usize = 300;
const SIZE: usize = 320;
/// Most bytes of a record whose head is one sector.
const MOST: u32 = 32 << 10;
/// Operations of a transaction that changes one buffer: begin, head, buffer, its bytes, commit.
const OF_ONE_BUFFER: u32 = 5;
const OPERATION_HEAD: usize = 12;
const BUFFER: u16 = 0x123c;
/// A buffer is logged in pieces of this many bytes.
const PIECE: usize = 128;
/// Most records between the oldest in use and the newest.
const MOST_RECORDS: usize = 16;
/// Where the superblock has its checksum, and the counts of inodes, free inodes and free blocks.
const SUM: usize = 224;
const COUNTS: [usize; 3] = [128, 136, 144];
/// The heads of a group's space and inodes: their magic, and the lists of removed files.
const SPACE: u32 = 0x5841_4746;
const INODES: u32 = 0x5841_4749;
const REMOVED: Range<usize> = 40..296;

/// Ends the log of the frozen XFS on `volume`; `None` where nothing waits in it.
pub(super) fn replay(volume: &Arc<dyn Disk>) -> Result<Option<Replay>> {
    let Some(log) = XfsLog::waiting(volume.clone())? else { return Ok(None) };
    let mut replay = Replay::default();
    let after = Arc::new(CowDisk::new(volume.clone(), LIMIT));
    let records = records(&**volume, &log)?;
    write_superblock(&after, &log, &records)?;
    replay.transactions = u32::try_from(records.len()).unwrap_or(u32::MAX);
    replay.blocks = 1;
    log.end(after.clone())?;
    replay.changes = after.changes()?;
    Ok(Some(replay))
}

fn more() -> Error {
    Error::unsupported("its log holds more than a freeze leaves, and is not replayed")
        .hint("the guest does it at its first start; or: mount and umount")
}

/// A part of the superblock: where it stands in it, and its bytes.
type Piece = (usize, Vec<u8>);

/// What each record that is in use has of the superblock, oldest first.
fn records(volume: &dyn Disk, log: &XfsLog) -> Result<Vec<Vec<Piece>>> {
    let mut record = Record::read(volume, log, log.newest)?;
    let tail = be64(&record.head, TAIL);
    let mut found = Vec::new();
    loop {
        found.push(record.superblock()?);
        let lsn = be64(&record.head, LSN);
        if lsn == tail {
            found.reverse();
            return Ok(found);
        }
        let before = Record::read(volume, log, be32(&record.head, BEFORE).into())?;
        if found.len() >= MOST_RECORDS || lsn < tail || be64(&before.head, LSN) >= lsn {
            return Err(more());
        }
        record = before;
    }
}

/// A record of the log: its head, and its data as it was before it was stamped.
struct Record {
    head: Vec<u8>,
    data: Vec<u8>,
}

impl Record {
    /// The record at a sector of the log, which has its checksum.
    fn read(volume: &dyn Disk, log: &XfsLog, sector: u64) -> Result<Self> {
        let at = log.place.start.saturating_add(sector.saturating_mul(SECTOR as u64));
        let mut head = vec![0; SECTOR];
        volume.read_at(&mut head, at)?;
        let len = be32(&head, LEN);
        let end = at.saturating_add(SECTOR as u64).saturating_add(len.into());
        let well = be32(&head, 0) == MAGIC
            && be64(&head, LSN) & 0xffff_ffff == sector
            && be32(&head, FORMAT) == LITTLE_ENDIAN
            && be32(&head, SIZE) <= MOST
            && len < MOST
            && end <= log.place.end;
        if !well {
            return Err(more());
        }
        let mut data = vec![0; usize::try_from(len).unwrap_or_default()];
        volume.read_at(&mut data, at + SECTOR as u64)?;
        if XfsLog::sum(&head, &data)? != be32(&head, SUM_OF_RECORD).swap_bytes() {
            return Err(more());
        }
        // Each sector begins with the number of the round instead of its own bytes.
        let saved = head.get(STAMPED..FORMAT).unwrap_or_default().chunks(4);
        for (sector, saved) in data.chunks_mut(SECTOR).zip(saved) {
            if let Some(start) = sector.get_mut(..4) {
                start.copy_from_slice(saved);
            }
        }
        Ok(Self { head, data })
    }

    /// What it has of the superblock, where that is all it has.
    fn superblock(&self) -> Result<Vec<Piece>> {
        let operations = self.operations().ok_or_else(more)?;
        let [[], _, buffer, bytes, []] = operations[..] else { return Err(more()) };
        let le16 = |at| be16(buffer, at).swap_bytes();
        let blocks = be32(buffer, 16).swap_bytes();
        let of_superblock = le16(0) == BUFFER && le16(2) == 2 && be64(buffer, 8) == 0;
        if !of_superblock || blocks == 0 || buffer.len() != 20 + 4 {
            return Err(more());
        }
        let map = be32(buffer, 20).swap_bytes();
        let places = (0..32).filter(|bit| map & 1 << bit != 0).map(|bit| bit * PIECE);
        let pieces: Vec<Piece> = places.zip(bytes.chunks(PIECE).map(<[u8]>::to_vec)).collect();
        let whole = bytes.len() == pieces.len() * PIECE
            && map.count_ones() == u32::try_from(pieces.len()).unwrap_or_default();
        if whole { Ok(pieces) } else { Err(more()) }
    }

    /// What its operations carry, in order, if they are of one transaction.
    fn operations(&self) -> Option<Vec<&[u8]>> {
        if be32(&self.head, OPERATIONS) != OF_ONE_BUFFER {
            return None;
        }
        let mut rest = self.data.as_slice();
        let mut found = Vec::new();
        for _ in 0..OF_ONE_BUFFER {
            let (head, later) = rest.split_at_checked(OPERATION_HEAD)?;
            let (content, later) = later.split_at_checked(usize::try_from(be32(head, 4)).ok()?)?;
            found.push(content);
            rest = later;
        }
        Some(found)
    }
}

/// Puts what the records have of the superblock in its place, with the counts of the groups, which
/// a kernel that mounts an unmounted volume no longer adds up.
fn write_superblock(after: &CowDisk, log: &XfsLog, records: &[Vec<Piece>]) -> Result<()> {
    let mut sector = vec![0; usize::try_from(log.sector).unwrap_or_default()];
    after.read_at(&mut sector, 0)?;
    for (at, bytes) in records.iter().flatten() {
        put(&mut sector, *at, bytes)?;
    }
    let mut counts = [0_u64; 3];
    for at in log.inode_heads() {
        let group = Group::read(after, at, log.sector)?;
        for (all, one) in counts.iter_mut().zip([group.inodes, group.free_inodes, group.free]) {
            *all = all.saturating_add(one);
        }
    }
    for (at, count) in COUNTS.into_iter().zip(counts) {
        put(&mut sector, at, &count.to_be_bytes())?;
    }
    put(&mut sector, SUM, &[0; 4])?;
    let sum = crc32c::crc32c(&sector);
    put(&mut sector, SUM, &sum.to_le_bytes())?;
    after.write_at(&sector, 0)
}

fn put(sector: &mut [u8], at: usize, bytes: &[u8]) -> Result<()> {
    sector.get_mut(at..at + bytes.len()).ok_or_else(more)?.copy_from_slice(bytes);
    Ok(())
}

/// What an allocation group counts.
struct Group {
    inodes: u64,
    free_inodes: u64,
    /// Free blocks, those kept for its trees' growth and of the trees themselves included.
    free: u64,
}

impl Group {
    /// The group whose inodes' head stands at `at`; fails where files of it wait to be removed.
    fn read(volume: &dyn Disk, at: u64, sector: u64) -> Result<Self> {
        let (mut inodes, mut space) = ([0; SECTOR], [0; SECTOR]);
        volume.read_at(&mut inodes, at)?;
        volume.read_at(&mut space, at.saturating_sub(sector))?;
        let none_removed = inodes[REMOVED].iter().all(|byte| *byte == 0xff);
        if be32(&inodes, 0) != INODES || be32(&space, 0) != SPACE || !none_removed {
            return Err(more());
        }
        let sum = |block: &[u8], places: &[usize]| -> u64 {
            places.iter().map(|at| u64::from(be32(block, *at))).sum()
        };
        Ok(Self {
            inodes: sum(&inodes, &[16]),
            free_inodes: sum(&inodes, &[28]),
            free: sum(&space, &[48, 52, 60]),
        })
    }
}
