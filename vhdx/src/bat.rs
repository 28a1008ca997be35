//! The block allocation table (\[MS-VHDX\] 2.2.5): geometry and entries. Pure arithmetic.

use std::ops::Range;

use crate::{KIB, MIB};

/// Bytes of an entry.
pub(crate) const ENTRY: u64 = 8;
/// Bytes of a sector bitmap block, which is one bit for each logical sector of a chunk.
pub(crate) const BITMAP_BYTES: u64 = MIB;
/// Logical sectors of a chunk.
const CHUNK_SECTORS: u64 = 1 << 23;
/// The bits of an entry that hold the state.
const STATE: u64 = 7;
/// The bits of an entry that hold the offset, which is a multiple of 1 MiB.
const OFFSET: u64 = !(MIB - 1);

/// What the table's shape follows from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Geometry {
    /// Bytes of the disk.
    pub(crate) virtual_size: u64,
    /// Bytes of a payload block.
    pub(crate) block_size: u64,
    /// Bytes of a logical sector.
    pub(crate) logical_sector: u64,
    /// Whether it is a child.
    pub(crate) has_parent: bool,
}

/// What an entry of the table is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Slot {
    /// Payload block number.
    Payload(u64),
    /// Sector bitmap of chunk number.
    Bitmap(u64),
}

impl Geometry {
    /// Payload blocks of the disk.
    pub(crate) fn blocks(&self) -> u64 {
        self.virtual_size.div_ceil(self.block_size)
    }

    /// Payload blocks of a chunk.
    pub(crate) fn ratio(&self) -> u64 {
        CHUNK_SECTORS * self.logical_sector / self.block_size
    }

    /// Chunks of the disk.
    pub(crate) fn chunks(&self) -> u64 {
        self.blocks().div_ceil(self.ratio())
    }

    /// Entries of the table. In a child the last chunk is as long as the others.
    pub(crate) fn entries(&self) -> u64 {
        if self.has_parent {
            self.chunks() * (self.ratio() + 1)
        } else {
            self.blocks() + (self.blocks() - 1) / self.ratio()
        }
    }

    /// Bytes of the table.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.entries() * ENTRY
    }

    /// Index of a payload block's entry.
    pub(crate) fn payload_index(&self, block: u64) -> u64 {
        block + block / self.ratio()
    }

    /// Index of the entry of a chunk's sector bitmap.
    pub(crate) fn bitmap_index(&self, chunk: u64) -> u64 {
        (chunk + 1) * self.ratio() + chunk
    }

    /// What the entry at an index is about.
    pub(crate) fn slot(&self, index: u64) -> Slot {
        let (chunk, within) = (index / (self.ratio() + 1), index % (self.ratio() + 1));
        if within == self.ratio() {
            Slot::Bitmap(chunk)
        } else {
            Slot::Payload(chunk * self.ratio() + within)
        }
    }

    /// The first block whose entry has this index or a later one.
    pub(crate) fn block_from_index(&self, index: u64) -> u64 {
        match self.slot(index) {
            Slot::Payload(block) => block,
            Slot::Bitmap(chunk) => (chunk + 1) * self.ratio(),
        }
    }

    /// The guest bytes of a block; the last block may end early.
    pub(crate) fn block_range(&self, block: u64) -> Range<u64> {
        let start = block * self.block_size;
        start..(start + self.block_size).min(self.virtual_size)
    }

    /// The chunk that a block belongs to.
    pub(crate) fn chunk(&self, block: u64) -> u64 {
        block / self.ratio()
    }

    /// The bits of a guest range within its chunk's bitmap: every sector it touches. The range
    /// lies in one block.
    pub(crate) fn bits(&self, range: &Range<u64>) -> Range<u64> {
        let chunk_bytes = CHUNK_SECTORS * self.logical_sector;
        let base = range.start / chunk_bytes * chunk_bytes;
        (range.start - base) / self.logical_sector..(range.end - base).div_ceil(self.logical_sector)
    }

    /// Most bytes of bitmap that one block has.
    pub(crate) fn bitmap_bytes_per_block(&self) -> u64 {
        (self.block_size / self.logical_sector).div_ceil(8).max(4 * KIB)
    }
}

/// State of a payload block (2.2.5.1.1).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// 0: zeros, or the parent's bytes in a child.
    NotPresent,
    /// 1: contents undefined; read as zeros.
    Undefined,
    /// 2: zeros.
    Zero,
    /// 3: unmapped; read as zeros.
    Unmapped,
    /// 6: the block is in this file.
    Full,
    /// 7: the sector bitmap says which sectors are in this file; only in a child.
    Partial,
}

impl State {
    fn number(self) -> u64 {
        match self {
            Self::NotPresent => 0,
            Self::Undefined => 1,
            Self::Zero => 2,
            Self::Unmapped => 3,
            Self::Full => 6,
            Self::Partial => 7,
        }
    }

    /// Whether the entry's offset must name a block.
    pub(crate) fn has_block(self) -> bool {
        matches!(self, Self::Full | Self::Partial)
    }
}

/// An entry for a payload block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Payload {
    /// The state.
    pub(crate) state: State,
    /// Byte offset of the block; without a block, of the space still reserved for it, or 0.
    pub(crate) offset: u64,
}

impl Payload {
    /// Zeros without space.
    pub(crate) const ZERO: Self = Self { state: State::Zero, offset: 0 };

    /// Parses the entry; the error says what is wrong with it.
    pub(crate) fn parse(raw: u64) -> Result<Self, String> {
        let state = match raw & STATE {
            0 => State::NotPresent,
            1 => State::Undefined,
            2 => State::Zero,
            3 => State::Unmapped,
            6 => State::Full,
            7 => State::Partial,
            5 => return Err("state 5, which only the unreleased format 0.95 had".to_owned()),
            state => return Err(format!("reserved state {state}")),
        };
        reserved_bits(raw)?;
        Ok(Self { state, offset: raw & OFFSET })
    }

    /// The entry as it stands in the table.
    pub(crate) fn encode(self) -> u64 {
        self.offset | self.state.number()
    }
}

/// The state of a sector bitmap that is there (2.2.5.1.2).
const BITMAP_PRESENT: u64 = 6;

/// Parses the entry for a sector bitmap: its byte offset, `None` where there is none.
pub(crate) fn parse_bitmap(raw: u64) -> Result<Option<u64>, String> {
    reserved_bits(raw)?;
    match raw & STATE {
        0 => Ok(None),
        BITMAP_PRESENT => Ok(Some(raw & OFFSET)),
        state => Err(format!("state {state}, expected 0 or 6")),
    }
}

/// The entry for the sector bitmap at byte `offset`.
pub(crate) fn encode_bitmap(offset: u64) -> u64 {
    offset | BITMAP_PRESENT
}

fn reserved_bits(raw: u64) -> Result<(), String> {
    match raw & !OFFSET & !STATE {
        0 => Ok(()),
        bits => Err(format!("reserved bits {bits:#x}, expected 0")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn geometry(virtual_size: u64, block_size: u64, logical_sector: u64, child: bool) -> Geometry {
        Geometry { virtual_size, block_size, logical_sector, has_parent: child }
    }

    #[test]
    fn numbers_of_the_specification() {
        let mib = 1 << 20;
        assert_eq!(geometry(1, 2 * mib, 512, false).ratio(), 2048);
        assert_eq!(geometry(1, mib, 512, false).ratio(), 4096);
        assert_eq!(geometry(1, 32 * mib, 512, false).ratio(), 128);
        assert_eq!(geometry(1, 256 * mib, 512, false).ratio(), 16);
        assert_eq!(geometry(1, mib, 4096, false).ratio(), 32768);
        let child = geometry(8 * mib, mib, 512, true);
        assert_eq!((child.bitmap_index(0), child.table_bytes()), (4096, 32776));
        assert_eq!(geometry(8 * mib, mib, 512, false).entries(), 8);
        assert_eq!(geometry(64 << 40, mib, 512, false).entries(), (1 << 26) + (1 << 14) - 1);
    }

    #[test]
    fn index_and_slot_are_inverse() {
        for child in [false, true] {
            let geometry = geometry((17 << 30) + 512, 32 << 20, 512, child);
            let mut payloads = 0;
            for index in 0..geometry.entries() {
                match geometry.slot(index) {
                    Slot::Payload(block) => {
                        assert_eq!(geometry.payload_index(block), index);
                        payloads += 1;
                    }
                    Slot::Bitmap(chunk) => assert_eq!(geometry.bitmap_index(chunk), index),
                }
            }
            assert!(payloads >= geometry.blocks());
        }
    }

    #[test]
    fn entries_round_trip_and_refuse() {
        for raw in [0u64, 1, 2, 3, 6 | 5 << 20, 7 | 9 << 20, 3 | 4 << 20] {
            assert_eq!(Payload::parse(raw).unwrap().encode(), raw);
        }
        for raw in [4u64, 5, 6 | 1 << 19, 8] {
            assert!(Payload::parse(raw).is_err(), "{raw:#x}");
        }
        assert_eq!(parse_bitmap(6 | 7 << 20), Ok(Some(7 << 20)));
        assert_eq!(parse_bitmap(0), Ok(None));
        assert!(parse_bitmap(7).is_err());
    }

    #[test]
    fn bits_count_from_the_chunk() {
        let geometry = geometry(16 << 30, 2 << 20, 512, true);
        assert_eq!(geometry.bits(&(0..1)), 0..1);
        assert_eq!(geometry.bits(&(511..1025)), 0..3);
        assert_eq!(geometry.bits(&((4 << 30) + 512..(4 << 30) + 1024)), 1..2);
        assert_eq!(geometry.bits(&((8 << 30) - 512..8 << 30)), (1 << 23) - 1..1 << 23);
    }
}
