//! ext2, ext3 and ext4: block bitmaps and group descriptors (the kernel's
//! `Documentation/filesystems/ext4`).

use std::ops::Range;

use vdisk_core::{Disk, Error, Ranges, Result};

use super::bits::ClearRuns;
use super::contradiction;
use super::field::Fields;
use super::runs::Runs;

const SUPERBLOCK: u64 = 1024;
/// Feature bits: compatible, incompatible, read-only compatible.
const SPARSE_SUPER_2: u32 = 0x200;
const META_BG: u32 = 0x10;
const SIZE_64: u32 = 0x80;
const SPARSE_SUPER: u32 = 0x1;
const DESCRIPTOR_SUMS: u32 = 0x10 | 0x400;
const BIGALLOC: u32 = 0x200;
/// Group flag: the block bitmap was never written.
const BLOCK_UNINIT: u16 = 0x2;
/// Most groups; a file system of 1 EiB has that many.
const MOST_GROUPS: u64 = 1 << 33;

/// Adds the free runs of the volume, bytes.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where a bitmap does not hold what its group counts.
pub(super) fn free(volume: &dyn Disk, free: &mut Runs) -> Result<()> {
    let layout = Layout::read(volume)?;
    let mut groups = Vec::new();
    for number in 0..layout.groups() {
        groups.push(Group::read(volume, &layout, number)?);
    }
    // A bitmap that was never written leaves out the tables that lie in its group.
    let tables: Ranges = groups.iter().flat_map(|group| group.tables(&layout)).collect();
    for group in &groups {
        let blocks = match group.flags & BLOCK_UNINIT != 0 && layout.has_sums {
            true => layout.never_written(group.number).without(&tables),
            false => group.bitmap(volume, &layout)?,
        };
        for run in blocks.iter() {
            free.push(run.start * layout.block..run.end * layout.block);
        }
    }
    Ok(())
}

#[derive(Debug)]
struct Layout {
    /// Bytes of a block.
    block: u64,
    /// Blocks of the file system.
    blocks: u64,
    /// The block that group 0 starts with.
    first: u64,
    /// Blocks of a group.
    group: u64,
    /// Blocks of a cluster, the unit of the bitmaps.
    cluster: u64,
    /// Blocks of a group's table of inodes.
    inode_table: u64,
    /// Bytes of a group descriptor.
    descriptor: u64,
    /// Blocks kept for descriptors of a larger file system.
    reserved: u64,
    /// The first group of descriptors that stands with its own groups.
    first_meta: Option<u64>,
    sparse: bool,
    /// With sparse_super2: the groups that have a copy of the superblock.
    backups: Option<[u64; 2]>,
    has_sums: bool,
}

impl Layout {
    fn read(volume: &dyn Disk) -> Result<Self> {
        let sb = Fields::read(volume, SUPERBLOCK, 1024)?;
        let wrong = |what: &str| contradiction("ext superblock", SUPERBLOCK, what);
        let shift = sb.le32(0x18);
        let [compatible, incompatible, read_only] = [0x5C, 0x60, 0x64].map(|at| sb.le32(at));
        if shift > 6 {
            return Err(wrong("its blocks have no possible size"));
        }
        let block = 1024u64 << shift;
        let wide = incompatible & SIZE_64 != 0;
        let bigalloc = read_only & BIGALLOC != 0;
        let cluster_shift = if bigalloc { sb.le32(0x1C).saturating_sub(shift) } else { 0 };
        if cluster_shift > 30 {
            return Err(wrong("its clusters have no possible size"));
        }
        let high = if wide { u64::from(sb.le32(0x150)) << 32 } else { 0 };
        let inode_size = u64::from(sb.le16(0x58).max(128));
        let layout = Self {
            block,
            blocks: u64::from(sb.le32(0x4)) | high,
            first: sb.le32(0x14).into(),
            group: sb.le32(0x20).into(),
            cluster: 1 << cluster_shift,
            inode_table: (u64::from(sb.le32(0x28)) * inode_size).div_ceil(block),
            descriptor: if wide { sb.le16(0xFE).into() } else { 32 },
            reserved: sb.le16(0xCE).into(),
            first_meta: (incompatible & META_BG != 0).then(|| sb.le32(0x104).into()),
            sparse: read_only & SPARSE_SUPER != 0,
            backups: (compatible & SPARSE_SUPER_2 != 0)
                .then(|| [0x24C, 0x250].map(|at| sb.le32(at).into())),
            has_sums: read_only & DESCRIPTOR_SUMS != 0,
        };
        let possible = layout.blocks.saturating_mul(block) <= volume.len()
            && layout.first < layout.blocks
            && layout.group > 0
            && layout.group / layout.cluster <= block * 8
            && layout.group.is_multiple_of(layout.cluster)
            && (32..=1024).contains(&layout.descriptor)
            && layout.groups() < MOST_GROUPS;
        if possible { Ok(layout) } else { Err(wrong("its parts do not fit the volume")) }
    }

    fn groups(&self) -> u64 {
        (self.blocks - self.first).div_ceil(self.group)
    }

    /// The blocks of group `number`.
    fn range(&self, number: u64) -> Range<u64> {
        let start = self.first + number * self.group;
        start..(start + self.group).min(self.blocks)
    }

    /// Whether group `number` has a copy of the superblock.
    fn has_superblock(&self, number: u64) -> bool {
        let power = |base: u64| {
            let mut value = base;
            while value < number {
                value *= base;
            }
            value == number
        };
        match self.backups {
            _ if number == 0 => true,
            Some(backups) => backups.contains(&number),
            None => !self.sparse || number == 1 || [3, 5, 7].into_iter().any(power),
        }
    }

    fn descriptors_in_block(&self) -> u64 {
        self.block / self.descriptor
    }

    /// The first byte of the descriptor of group `number`.
    fn descriptor_at(&self, number: u64) -> u64 {
        let index = number / self.descriptors_in_block();
        // With clusters, group 0 begins in block 0 also where the superblock stands in block 1.
        let superblock = SUPERBLOCK / self.block;
        let block = match self.first_meta {
            Some(first) if index >= first => {
                let home = index * self.descriptors_in_block();
                let start = self.range(home).start.max(superblock);
                start + u64::from(self.has_superblock(home))
            }
            _ => superblock + 1 + index,
        };
        block * self.block + number % self.descriptors_in_block() * self.descriptor
    }

    /// The blocks of a group whose bitmap was never written, but for the tables in it.
    fn never_written(&self, number: u64) -> Ranges {
        let Range { start, end } = self.range(number);
        // More than there may be: the superblock, all descriptors, and room for more of them.
        let descriptors = self.groups().div_ceil(self.descriptors_in_block());
        let front = match self.has_superblock(number) || self.first_meta.is_some() {
            true => 2 + descriptors + self.reserved,
            false => 0,
        };
        let mut free = Ranges::new();
        free.push((start + front).min(end)..end);
        free
    }
}

/// A block group.
#[derive(Debug)]
struct Group {
    number: u64,
    bitmap: u64,
    inode_bitmap: u64,
    inode_table: u64,
    flags: u16,
    /// Free clusters, as the group counts them.
    counted: u64,
}

impl Group {
    fn read(volume: &dyn Disk, layout: &Layout, number: u64) -> Result<Self> {
        let at = layout.descriptor_at(number);
        let fields =
            Fields::read(volume, at, usize::try_from(layout.descriptor).unwrap_or_default())?;
        let wide = layout.descriptor >= 64;
        let high32 = |at: usize| if wide { u64::from(fields.le32(at)) << 32 } else { 0 };
        let high16 = |at: usize| if wide { u64::from(fields.le16(at)) << 16 } else { 0 };
        let group = Self {
            number,
            bitmap: u64::from(fields.le32(0)) | high32(0x20),
            inode_bitmap: u64::from(fields.le32(4)) | high32(0x24),
            inode_table: u64::from(fields.le32(8)) | high32(0x28),
            flags: fields.le16(0x12),
            counted: u64::from(fields.le16(0xC)) | high16(0x2C),
        };
        let inside = |block: u64, len: u64| {
            block > 0 && block.checked_add(len).is_some_and(|end| end <= layout.blocks)
        };
        if inside(group.bitmap, 1)
            && inside(group.inode_bitmap, 1)
            && inside(group.inode_table, layout.inode_table)
        {
            Ok(group)
        } else {
            Err(contradiction("ext group descriptor", at, "it leads out of the volume"))
        }
    }

    /// Blocks of its bitmaps and its inodes, in whatever group they stand.
    fn tables(&self, layout: &Layout) -> [Range<u64>; 3] {
        [
            self.bitmap..self.bitmap + 1,
            self.inode_bitmap..self.inode_bitmap + 1,
            self.inode_table..self.inode_table + layout.inode_table,
        ]
    }

    /// Its free blocks by its bitmap.
    fn bitmap(&self, volume: &dyn Disk, layout: &Layout) -> Result<Ranges> {
        let range = layout.range(self.number);
        let clusters = (range.end - range.start).div_ceil(layout.cluster);
        let at = self.bitmap * layout.block;
        let len = usize::try_from(clusters.div_ceil(8)).unwrap_or_default();
        let bytes = Fields::read(volume, at, len)?;
        let mut free = Ranges::new();
        let mut found = 0;
        let mut add = |run: Range<u64>| {
            found += run.end - run.start;
            let block = |cluster: u64| range.start + cluster * layout.cluster;
            free.push(block(run.start)..block(run.end).min(range.end));
        };
        let mut runs = ClearRuns::default();
        runs.look(&bytes.0, clusters, &mut add);
        if let Some(run) = runs.end() {
            add(run);
        }
        if found == self.counted { Ok(free) } else { Err(self.miscounted(at, found)) }
    }

    fn miscounted(&self, at: u64, found: u64) -> Error {
        contradiction(
            "ext block bitmap",
            at,
            format!("{found} units of group {} are free, where {} are", self.number, self.counted),
        )
    }
}
