//! XFS: the free space B+ trees by block number ("XFS Algorithms & Data Structures", AG free space
//! management).

use vdisk_core::{Disk, Result};

use super::contradiction;
use super::field::Fields;
use super::runs::Runs;

/// Most levels of a tree.
const MOST_LEVELS: u32 = 16;

/// Adds the free runs of the volume, bytes. What waits in the lists of free blocks for the trees
/// themselves counts as used.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where a tree does not hold what its group counts.
pub(super) fn free(volume: &dyn Disk, free: &mut Runs) -> Result<()> {
    let layout = Layout::read(volume)?;
    for number in 0..layout.groups {
        Group::read(volume, &layout, number)?.free(volume, free)?;
    }
    Ok(())
}

#[derive(Debug)]
struct Layout {
    /// Bytes of a block.
    block: u64,
    /// Blocks of a group but the last.
    group: u64,
    groups: u64,
    /// Blocks of the file system.
    blocks: u64,
    /// Bytes of a sector.
    sector: u64,
    /// Bytes before the records of a tree's block.
    header: usize,
    /// What a tree's block begins with.
    magic: &'static [u8],
}

impl Layout {
    fn read(volume: &dyn Disk) -> Result<Self> {
        let superblock = Fields::read(volume, 0, 512)?;
        let v5 = superblock.be16(100) & 0xF == 5;
        let layout = Self {
            block: superblock.be32(4).into(),
            group: superblock.be32(84).into(),
            groups: superblock.be32(88).into(),
            blocks: superblock.be64(8),
            sector: superblock.be16(102).into(),
            header: if v5 { 56 } else { 16 },
            magic: if v5 { b"AB3B" } else { b"ABTB" },
        };
        let possible = layout.block.is_power_of_two()
            && (512..=65536).contains(&layout.block)
            && (512..=32768).contains(&layout.sector)
            && layout.group.saturating_mul(layout.groups) >= layout.blocks
            && layout.blocks.saturating_mul(layout.block) <= volume.len();
        if possible {
            Ok(layout)
        } else {
            Err(contradiction("XFS superblock", 0, "its parts do not fit the volume"))
        }
    }

    fn block_len(&self) -> usize {
        usize::try_from(self.block).unwrap_or_default()
    }
}

/// An allocation group.
#[derive(Debug)]
struct Group<'a> {
    layout: &'a Layout,
    /// First byte.
    start: u64,
    /// Blocks.
    len: u64,
    /// The tree's root block, and how many levels it has.
    root: u64,
    levels: u32,
    /// Free blocks, as the group counts them.
    counted: u64,
}

impl<'a> Group<'a> {
    fn read(volume: &dyn Disk, layout: &'a Layout, number: u64) -> Result<Self> {
        let start = number * layout.group * layout.block;
        let at = start + layout.sector;
        let header = Fields::read(volume, at, 128)?;
        let len = layout.group.min(layout.blocks.saturating_sub(number * layout.group));
        let group = Self {
            layout,
            start,
            len,
            root: header.be32(16).into(),
            levels: header.be32(28),
            counted: header.be32(52).into(),
        };
        if !header.has(b"XAGF", 0)
            || u64::from(header.be32(12)) != len
            || !(1..=MOST_LEVELS).contains(&group.levels)
        {
            return Err(contradiction("XFS free space header", at, "it does not fit the volume"));
        }
        Ok(group)
    }

    fn free(&self, volume: &dyn Disk, free: &mut Runs) -> Result<()> {
        let (mut number, mut found, mut last) = (self.first_leaf(volume)?, 0, 0);
        // A leaf names the next; more of them than the group has blocks would be a ring.
        for _ in 0..self.len {
            let leaf = self.node(volume, number, 0)?;
            let records = usize::from(leaf.be16(6));
            if records == 0 && number != self.root {
                return Err(self.wrong(number, "a leaf without records"));
            }
            for index in 0..records {
                let record = self.layout.header + index * 8;
                let (start, len) = (u64::from(leaf.be32(record)), u64::from(leaf.be32(record + 4)));
                if start < last || len == 0 || start + len > self.len {
                    return Err(self.wrong(number, "its records do not ascend"));
                }
                let byte = |block: u64| self.start + block * self.layout.block;
                free.push(byte(start)..byte(start + len));
                (found, last) = (found + len, start + len);
            }
            number = leaf.be32(12).into();
            if number == u64::from(u32::MAX) {
                break;
            }
        }
        if found == self.counted {
            return Ok(());
        }
        Err(self.wrong(self.root, &format!("{found} free blocks, where {} are", self.counted)))
    }

    /// The leaf with the lowest records.
    fn first_leaf(&self, volume: &dyn Disk) -> Result<u64> {
        let mut number = self.root;
        for level in (1..self.levels).rev() {
            let node = self.node(volume, number, level)?;
            // Keys of 8 bytes for as many records as fit, then as many pointers of 4.
            let most = (self.layout.block_len() - self.layout.header) / 12;
            number = node.be32(self.layout.header + most * 8).into();
        }
        Ok(number)
    }

    fn node(&self, volume: &dyn Disk, number: u64, level: u32) -> Result<Fields> {
        if number >= self.len {
            return Err(self.wrong(number.min(self.len), "it leads out of its group"));
        }
        let at = self.start + number * self.layout.block;
        let node = Fields::read(volume, at, self.layout.block_len())?;
        let most = (self.layout.block_len() - self.layout.header) / 8;
        let sound = node.has(self.layout.magic, 0)
            && u32::from(node.be16(4)) == level
            && usize::from(node.be16(6)) <= most;
        if sound { Ok(node) } else { Err(self.wrong(number, "it is no node of it")) }
    }

    fn wrong(&self, block: u64, what: &str) -> vdisk_core::Error {
        let at = self.start + block * self.layout.block;
        contradiction("XFS free space tree", at, what)
    }
}
