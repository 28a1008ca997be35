//! What waits in the journal: a ring of transactions, each of descriptors with the copies of
//! blocks they name, revocations, and a commit.
//!
//! A log ends where a block does not carry the number of the transaction that would be next. What
//! stands there may be left from an earlier round, or from a transaction that was never committed;
//! so a checksum that is wrong there is no damage, but one inside a committed transaction is.

use std::collections::BTreeMap;

use vdisk_core::Result;

use super::area::Area;
use super::head::{Head, MAGIC, Sums};
use super::{be16, be32, be64, crc, damaged};

/// Kinds of blocks.
const DESCRIPTOR: u32 = 1;
const COMMIT: u32 = 2;
const REVOCATION: u32 = 5;
/// Bytes that blocks of these kinds begin with.
const HEADER: usize = 12;
/// Where a commit has its checksum, and its time in seconds.
const COMMIT_SUM: usize = 16;
const COMMIT_TIME: usize = 0x30;
/// Flags of a tag.
const ESCAPED: u32 = 1;
const SAME_UUID: u32 = 2;
const LAST: u32 = 8;
const UUID: usize = 16;
/// Most blocks of a journal that are read, and that are revoked; mke2fs makes none that is larger.
const MOST_BLOCKS: u64 = 10_240_000;

/// A block's last copy.
#[derive(Clone, Copy, Debug)]
pub(super) struct Copied {
    /// The block of the journal that holds it.
    pub(super) block: u64,
    /// Its first four bytes are the journal's own magic number, and zeros in the copy.
    pub(super) escaped: bool,
    sequence: u32,
}

/// The committed transactions of a journal.
#[derive(Debug, Default)]
pub(super) struct Log {
    pub(super) transactions: u32,
    /// The number that the next transaction has.
    pub(super) next: u32,
    /// By the number of the block in the file system.
    pub(super) blocks: BTreeMap<u64, Copied>,
    /// Blocks that were revoked, and by which transaction last.
    revoked: BTreeMap<u64, u32>,
    /// Seconds, of the last commit.
    time: u64,
}

/// A transaction that is being read.
#[derive(Debug, Default)]
struct Transaction {
    copies: Vec<(u64, Copied)>,
    revoked: Vec<u64>,
    /// A block of it whose checksum is wrong, and where it stands.
    wrong: Option<u64>,
}

impl Log {
    pub(super) fn read(area: &Area, head: &Head) -> Result<Self> {
        let mut log = Self { next: head.sequence, ..Self::default() };
        let mut at = head.start;
        let mut left = (head.end - head.first).min(MOST_BLOCKS);
        while let Some((transaction, behind)) = log.transaction(area, head, at, &mut left)? {
            log.keep(transaction);
            at = behind;
        }
        // The kernel leaves one number out, so that nothing of the old log is taken for new.
        log.next = log.next.wrapping_add(1);
        let revoked = std::mem::take(&mut log.revoked);
        log.blocks.retain(|number, copy| {
            revoked.get(number).is_none_or(|by| is_before(*by, copy.sequence))
        });
        Ok(log)
    }

    /// The transaction that begins at `at`, and the block behind it; `None` where none is complete.
    fn transaction(
        &mut self,
        area: &Area,
        head: &Head,
        mut at: u64,
        left: &mut u64,
    ) -> Result<Option<(Transaction, u64)>> {
        let sequence = self.next;
        let mut found = Transaction::default();
        while *left > 0 {
            *left -= 1;
            let (block, place) = area.read(at)?;
            if be32(&block, 0) != MAGIC || be32(&block, 8) != sequence {
                return Ok(None);
            }
            at = head.after(at);
            let kind = be32(&block, 4);
            let sound = match kind {
                COMMIT => commit_is_sound(head, &block),
                DESCRIPTOR | REVOCATION => tail_is_sound(head, &block),
                _ => return Ok(None),
            };
            if !sound {
                found.wrong.get_or_insert(place);
            }
            match kind {
                COMMIT => return self.committed(area, head, found, &block, at),
                DESCRIPTOR => {
                    for tag in tags(head, &block) {
                        let copied = Copied { block: at, escaped: tag.escaped, sequence };
                        let Some(less) = left.checked_sub(1) else { return Ok(None) };
                        *left = less;
                        if !copy_is_sound(area, head, &tag, &copied)? {
                            found.wrong.get_or_insert(area.place(at)?);
                        }
                        found.copies.push((tag.number, copied));
                        at = head.after(at);
                    }
                }
                _ => found.revoked.extend(revocations(head, &block)),
            }
            if (self.revoked.len() + found.revoked.len()) as u64 > MOST_BLOCKS {
                return Err(damaged(place, "it revokes more blocks than a journal can name"));
            }
        }
        Ok(None)
    }

    /// What a commit makes of a transaction: an old one that was never overwritten ends the log,
    /// and so does the last one where it was cut off; damage elsewhere is told.
    fn committed(
        &mut self,
        area: &Area,
        head: &Head,
        found: Transaction,
        commit: &[u8],
        behind: u64,
    ) -> Result<Option<(Transaction, u64)>> {
        let time = be64(commit, COMMIT_TIME);
        let Some(place) = found.wrong else {
            self.time = time;
            return Ok(Some((found, behind)));
        };
        let torn = !commit_is_sound(head, commit) && !goes_on(area, self.next, behind)?;
        if time < self.time || torn {
            return Ok(None);
        }
        Err(damaged(place, "a block of a committed transaction does not have its checksum"))
    }

    fn keep(&mut self, transaction: Transaction) {
        for number in transaction.revoked {
            self.revoked.insert(number, self.next);
        }
        self.blocks.extend(transaction.copies);
        self.transactions += 1;
        self.next = self.next.wrapping_add(1);
    }
}

/// Whether transaction `sequence` is followed by another one at `block`.
fn goes_on(area: &Area, sequence: u32, block: u64) -> Result<bool> {
    let (block, _) = area.read(block)?;
    Ok(be32(&block, 0) == MAGIC && be32(&block, 8) == sequence.wrapping_add(1))
}

/// Numbers of transactions begin again at 0 behind the largest.
fn is_before(one: u32, other: u32) -> bool {
    one != other && other.wrapping_sub(one) < 1 << 31
}

/// What a descriptor tells of one copied block.
#[derive(Debug)]
struct Tag {
    number: u64,
    escaped: bool,
    sum: u32,
}

/// The tags of a descriptor.
fn tags(head: &Head, block: &[u8]) -> Vec<Tag> {
    let len = match (head.sums, head.wide) {
        (Sums::Three, _) => 16,
        (Sums::Two, true) => 14,
        (Sums::Two, false) => 10,
        (Sums::None, true) => 12,
        (Sums::None, false) => 8,
    };
    let end = block.len() - tail(head);
    let (mut tags, mut at) = (Vec::new(), HEADER);
    while at + len <= end {
        let low = u64::from(be32(block, at));
        let (flags, sum) = match head.sums {
            Sums::Three => (be32(block, at + 4), be32(block, at + 12)),
            _ => (be16(block, at + 6).into(), be16(block, at + 4).into()),
        };
        let high = if head.wide { u64::from(be32(block, at + 8)) << 32 } else { 0 };
        tags.push(Tag { number: low | high, escaped: flags & ESCAPED != 0, sum });
        if flags & LAST != 0 {
            break;
        }
        at += if flags & SAME_UUID == 0 { len + UUID } else { len };
    }
    tags
}

/// The blocks that a revocation names.
fn revocations(head: &Head, block: &[u8]) -> Vec<u64> {
    let used = usize::try_from(be32(block, HEADER)).unwrap_or(usize::MAX);
    let end = used.min(block.len() - tail(head));
    let numbers = block.get(HEADER + 4..end).unwrap_or_default();
    match head.wide {
        true => numbers.chunks_exact(8).map(|number| be64(number, 0)).collect(),
        false => numbers.chunks_exact(4).map(|number| be32(number, 0).into()).collect(),
    }
}

/// Bytes at the end of a descriptor or revocation that hold its checksum.
fn tail(head: &Head) -> usize {
    if head.sums == Sums::None { 0 } else { 4 }
}

fn tail_is_sound(head: &Head, block: &[u8]) -> bool {
    sum_is_at(head, block, block.len() - tail(head))
}

fn commit_is_sound(head: &Head, block: &[u8]) -> bool {
    sum_is_at(head, block, COMMIT_SUM)
}

/// Whether a block has its checksum at `at`, which counts as zeros itself.
fn sum_is_at(head: &Head, block: &[u8], at: usize) -> bool {
    if head.sums == Sums::None {
        return true;
    }
    let (before, rest) = block.split_at(at.min(block.len()));
    let sum = crc(crc(head.seed, before), &[0; 4]);
    crc(sum, rest.get(4..).unwrap_or_default()) == be32(block, at)
}

fn copy_is_sound(area: &Area, head: &Head, tag: &Tag, copied: &Copied) -> Result<bool> {
    let mask = match head.sums {
        Sums::None => return Ok(true),
        Sums::Two => 0xffff,
        Sums::Three => !0,
    };
    let (block, _) = area.read(copied.block)?;
    let sum = crc(crc(head.seed, &copied.sequence.to_be_bytes()), &block);
    Ok(sum & mask == tag.sum)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_transactions_go_round() {
        assert!(is_before(1, 2) && !is_before(2, 1) && !is_before(2, 2));
        assert!(is_before(u32::MAX, 0) && !is_before(0, u32::MAX));
    }
}
