//! The journal's own superblock.

use vdisk_core::Result;

use super::area::Area;
use super::{be32, crc, damaged, unsupported};

/// What every block of the journal begins with that is not a copy of another.
pub(super) const MAGIC: u32 = 0xc03b_3998;
/// Bytes of the superblock that count, and the fields in it.
const LEN: usize = 1024;
const SEQUENCE: usize = 0x18;
const START: usize = 0x1c;
const SUM: usize = 0xfc;

/// Compatible: a checksum over all of a transaction. Incompatible features.
const SUM_1: u32 = 0x1;
const REVOKES: u32 = 0x1;
const SIZE_64: u32 = 0x2;
const ASYNCHRONOUS: u32 = 0x4;
const SUM_2: u32 = 0x8;
const SUM_3: u32 = 0x10;
const FAST: u32 = 0x20;
const CRC32C: u8 = 4;

/// What the superblock says.
#[derive(Clone, Debug)]
pub(super) struct Head {
    raw: Vec<u8>,
    /// The first block of the ring, and the one behind its last.
    pub(super) first: u64,
    pub(super) end: u64,
    /// Where the log begins; 0 where it is empty.
    pub(super) start: u64,
    /// The number of the first transaction.
    pub(super) sequence: u32,
    /// Numbers of blocks have 64 bits.
    pub(super) wide: bool,
    pub(super) sums: Sums,
    /// What each checksum begins with.
    pub(super) seed: u32,
}

/// How blocks of the journal are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sums {
    None,
    /// Tags have half a checksum.
    Two,
    /// Tags have all of it.
    Three,
}

impl Head {
    pub(super) fn read(area: &Area) -> Result<Self> {
        let (mut raw, at) = area.read(0)?;
        raw.truncate(LEN);
        let wrong = |what: &str| Err(damaged(at, what));
        let version = be32(&raw, 0x4);
        if be32(&raw, 0) != MAGIC || !(3..=4).contains(&version) {
            return wrong("it has no superblock");
        }
        // Version 1 has no features.
        let features = |at| if version == 4 { be32(&raw, at) } else { 0 };
        let (compatible, incompatible) = (features(0x24), features(0x28));
        let sums = match (incompatible & SUM_2 != 0, incompatible & SUM_3 != 0) {
            (false, false) => Sums::None,
            (true, false) => Sums::Two,
            (false, true) => Sums::Three,
            (true, true) => return wrong("it has checksums of two kinds"),
        };
        let seed = crc(!0, raw.get(0x30..0x40).unwrap_or_default());
        if sums != Sums::None {
            if compatible & SUM_1 != 0 || raw.get(0x50) != Some(&CRC32C) {
                return wrong("it has checksums of two kinds, or of an unknown one");
            }
            if sum(&raw) != be32(&raw, SUM) {
                return wrong("its superblock does not have its checksum");
            }
        } else if compatible & SUM_1 != 0 {
            return Err(unsupported("journals with checksums of version 1"));
        }
        if incompatible & FAST != 0 {
            return Err(unsupported("journals with fast commits"));
        }
        if incompatible & ASYNCHRONOUS != 0 {
            return Err(unsupported("journals with asynchronous commits"));
        }
        if incompatible & !(REVOKES | SIZE_64 | SUM_2 | SUM_3) != 0 || features(0x2c) != 0 {
            return Err(unsupported("journals with features that are not known"));
        }
        if be32(&raw, 0x20) != 0 {
            return wrong("the guest noted an error in it");
        }
        let [end, first, start] = [0x10, 0x14, START].map(|at| u64::from(be32(&raw, at)));
        let ring = first..end;
        let well = u64::from(be32(&raw, 0xc)) == area.block_size
            && first >= 1
            && end <= area.len
            && !ring.is_empty()
            && (start == 0 || ring.contains(&start));
        if !well {
            return wrong("its superblock contradicts itself, or its length");
        }
        let (sequence, wide) = (be32(&raw, SEQUENCE), incompatible & SIZE_64 != 0);
        Ok(Self { raw, first, end, start, sequence, wide, sums, seed })
    }

    /// The superblock of the same journal once it is empty; `next` is its next transaction.
    pub(super) fn emptied(&self, next: u32) -> Vec<u8> {
        let mut raw = self.raw.clone();
        put(&mut raw, SEQUENCE, next);
        put(&mut raw, START, 0);
        if self.sums != Sums::None {
            let sum = sum(&raw);
            put(&mut raw, SUM, sum);
        }
        raw
    }

    /// The block that follows `block` in the ring.
    pub(super) fn after(&self, block: u64) -> u64 {
        if block + 1 < self.end { block + 1 } else { self.first }
    }
}

fn sum(raw: &[u8]) -> u32 {
    let (before, rest) = raw.split_at(SUM.min(raw.len()));
    crc(crc(crc(!0, before), &[0; 4]), rest.get(4..).unwrap_or_default())
}

fn put(raw: &mut [u8], at: usize, number: u32) {
    if let Some(place) = raw.get_mut(at..at + 4) {
        place.copy_from_slice(&number.to_be_bytes());
    }
}
