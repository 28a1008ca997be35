//! The shape of blocks: how long they and their bitmaps are, and where in a file they may go.
//!
//! VHD 1.0, "Block Allocation Table and Data Blocks": a block is a bitmap, padded to a sector,
//! and right behind it the data.

use vdisk_core::compact::Fit;
use vdisk_core::{Error, ErrorKind, Result};

/// Bytes of a sector, always.
pub(crate) const SECTOR: u64 = 512;
/// Data of new blocks starts at a multiple of this, so that it lies on whole pages and clusters.
pub(crate) const ALIGNMENT: u64 = 4096;
/// Bitmap bytes are filled and set as a whole, so sectors become present in groups of this many
/// bytes. Windows does so too, and libvhdi misreads bytes that are set in part.
pub(crate) const GRANULE: u64 = 4096;
/// The largest block read or written.
pub(crate) const MAX_BLOCK: u64 = 256 << 20;
/// A block must start below this byte: block table entries are sector numbers in 32 bits, of
/// which the last means "absent".
pub(crate) const FIRST_BEYOND: u64 = 0xFFFF_FFFF * SECTOR;

/// Lengths of a block's parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Shape {
    /// Bytes of data in a block; a power of two.
    pub(crate) block: u64,
    /// Bytes of the bitmap before it; a multiple of 512.
    pub(crate) bitmap: u64,
}

impl Shape {
    /// Blocks of `block` data bytes; `None` unless that is a power of two from 512 bytes to
    /// 256 MiB.
    pub(crate) fn new(block: u32) -> Option<Self> {
        let block = u64::from(block);
        let known = block.is_power_of_two() && (SECTOR..=MAX_BLOCK).contains(&block);
        let bitmap = block.div_ceil(SECTOR * 8).next_multiple_of(SECTOR);
        known.then_some(Self { block, bitmap })
    }

    /// Bytes of a block with its bitmap.
    pub(crate) fn slot(self) -> u64 {
        self.bitmap + self.block
    }

    /// Sectors in a block.
    pub(crate) fn sectors(self) -> usize {
        usize::try_from(self.block / SECTOR).unwrap_or(usize::MAX)
    }

    /// Bytes of a granule: what one bitmap byte covers, or the whole of a smaller block.
    pub(crate) fn granule(self) -> u64 {
        GRANULE.min(self.block)
    }

    /// Blocks of a disk of `size` bytes.
    pub(crate) fn blocks(self, size: u64) -> u64 {
        size.div_ceil(self.block)
    }

    /// Whether a file can hold `entries` blocks, all of them stored.
    pub(crate) fn fits(self, entries: u64) -> bool {
        let tables = entries.saturating_mul(4).saturating_add(1 << 20);
        entries.saturating_mul(self.slot()).saturating_add(tables) <= FIRST_BEYOND
    }

    /// Where the data of new blocks may start: at multiples of 4 KiB, unless blocks are smaller
    /// or so many that the padding could keep a full image of `entries` blocks from fitting.
    fn alignment(self, entries: u64) -> u64 {
        let padded = self.slot().next_multiple_of(ALIGNMENT).saturating_mul(entries);
        let tables = entries.saturating_mul(4).saturating_add(1 << 20);
        if self.block >= ALIGNMENT && padded.saturating_add(tables) <= FIRST_BEYOND {
            ALIGNMENT
        } else {
            SECTOR
        }
    }

    /// The first place at or after byte `from` for the bitmap of a new block, in an image of
    /// `entries` blocks, so that the data is aligned.
    pub(crate) fn place_from(self, from: u64, entries: u64) -> u64 {
        let data = from.saturating_add(self.bitmap);
        data.checked_next_multiple_of(self.alignment(entries)).unwrap_or(u64::MAX) - self.bitmap
    }

    /// Where a block may stand in a gap, in an image of `entries` blocks: better aligned.
    pub(crate) fn fit(self, entries: u64) -> Fit {
        Fit { align: self.alignment(entries), skew: self.bitmap, least: SECTOR }
    }

    /// The place of a new block as a block table entry.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] beyond what an entry can say.
    pub(crate) fn entry(self, at: u64) -> Result<u32> {
        u32::try_from(at / SECTOR).ok().filter(|_| at < FIRST_BEYOND).ok_or_else(|| {
            Error::new(ErrorKind::NoSpace, "a VHD file cannot address blocks beyond 2 TiB")
                .hint("use VHDX for disks of this size")
        })
    }
}

/// A length in memory. A length that does not fit becomes one that no slice has.
pub(crate) fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_those_of_the_specification() {
        for (block, bitmap) in
            [(2 << 20, 512), (512 << 10, 512), (512, 512), (4 << 20, 1024), (256 << 20, 65536)]
        {
            let shape = Shape::new(block).unwrap();
            assert_eq!((shape.block, shape.bitmap), (block.into(), bitmap));
        }
        for bad in [0, 1, 511, 513, 3 << 20, 512 << 20, u32::MAX] {
            assert_eq!(Shape::new(bad), None);
        }
    }

    #[test]
    fn data_is_aligned_while_a_full_image_fits() {
        let large = Shape::new(2 << 20).unwrap();
        assert_eq!(large.place_from(2048, (2040 << 30) / (2 << 20)), 3584);
        // 2040 GiB in blocks of 512 KiB: the padding would take the file beyond 2 TiB.
        let small = Shape::new(512 << 10).unwrap();
        assert_eq!(small.place_from(2048, (2040 << 30) / (512 << 10)), 2048);
        assert_eq!(small.place_from(2048, 100), 3584);
        assert!(large.entry(FIRST_BEYOND).is_err());
    }
}
