//! Where on the volume the blocks of the journal stand.

use std::sync::Arc;

use vdisk_core::disk::read_padded;
use vdisk_core::{CowDisk, Disk, Result};

use super::{be32, crc, damaged, unsupported};
use crate::fs::ExtFile;

/// Where the file system's superblock stands, and its fields, bytes.
const SUPERBLOCK: u64 = 1024;
const BLOCKS_LOW: usize = 0x4;
const BLOCK_SIZE: usize = 0x18;
const COMPATIBLE: usize = 0x5c;
const INCOMPATIBLE: usize = 0x60;
const READ_ONLY_COMPATIBLE: usize = 0x64;
const JOURNAL_INODE: usize = 0xe0;
const LAST_ORPHAN: usize = 0xe8;
const BLOCKS_HIGH: usize = 0x150;
const SUM: usize = 0x3fc;

const HAS_JOURNAL: u32 = 0x4;
const NEEDS_RECOVERY: u32 = 0x4;
const SIZE_64: u32 = 0x80;
const METADATA_SUMS: u32 = 0x400;
const ORPHANS: u32 = 0x10000;
const LARGEST_BLOCK: u64 = 65536;

/// The journal of a volume, block by block.
#[derive(Debug)]
pub(super) struct Area {
    volume: Arc<dyn Disk>,
    file: ExtFile,
    /// Bytes of a block, of the journal and of the file system.
    pub(super) block_size: u64,
    /// Blocks of the file system.
    pub(super) blocks: u64,
    /// Blocks of the journal.
    pub(super) len: u64,
}

impl Area {
    /// The journal of the file system on `volume`; `None` where nothing waits in it.
    pub(super) fn find(volume: Arc<dyn Disk>) -> Result<Option<Self>> {
        let head = superblock(&*volume)?;
        let wide = le32(&head, INCOMPATIBLE) & SIZE_64 != 0;
        let waits = le32(&head, COMPATIBLE) & HAS_JOURNAL != 0
            && le32(&head, INCOMPATIBLE) & NEEDS_RECOVERY != 0;
        if !waits {
            return Ok(None);
        }
        let number = le32(&head, JOURNAL_INODE);
        if number == 0 {
            return Err(unsupported("journals on other disks"));
        }
        let block_size = 1024_u64.checked_shl(le32(&head, BLOCK_SIZE)).unwrap_or(0);
        if !(1024..=LARGEST_BLOCK).contains(&block_size) {
            return Err(damaged(SUPERBLOCK, "the size of its file system's blocks is none"));
        }
        let high = if wide { u64::from(le32(&head, BLOCKS_HIGH)) << 32 } else { 0 };
        let blocks = u64::from(le32(&head, BLOCKS_LOW)) | high;
        let file = ExtFile::open(volume.clone(), number)?;
        // Else one block of the volume could stand in many places of the journal.
        if file.size() > volume.len() {
            return Err(damaged(SUPERBLOCK, "it is longer than the volume"));
        }
        let len = file.size() / block_size;
        Ok(Some(Self { volume, file, block_size, blocks, len }))
    }

    /// Where block `number` of the journal stands, bytes.
    pub(super) fn place(&self, number: u64) -> Result<u64> {
        let block = self.file.block(number)?.filter(|block| *block < self.blocks);
        let at = block.and_then(|block| block.checked_mul(self.block_size));
        at.ok_or_else(|| damaged(0, "a block of it is nowhere on the volume"))
    }

    /// Block `number` of the journal, and where it stands.
    pub(super) fn read(&self, number: u64) -> Result<(Vec<u8>, u64)> {
        let at = self.place(number)?;
        let mut block = vec![0; usize::try_from(self.block_size).unwrap_or_default()];
        self.volume.read_at(&mut block, at)?;
        Ok((block, at))
    }

    /// Notes in the file system's superblock that nothing waits in the journal.
    pub(super) fn say_recovered(&self, after: &CowDisk) -> Result<()> {
        let mut head = superblock(after)?;
        let flags = le32(&head, INCOMPATIBLE) & !NEEDS_RECOVERY;
        put(&mut head, INCOMPATIBLE, flags);
        if le32(&head, READ_ONLY_COMPATIBLE) & METADATA_SUMS != 0 {
            let sum = crc(!0, head.get(..SUM).unwrap_or_default());
            put(&mut head, SUM, sum);
        }
        after.write_at(&head, SUPERBLOCK)
    }
}

/// Whether the file system tells of files that wait to be removed.
pub(super) fn has_orphans(volume: &dyn Disk) -> Result<bool> {
    let head = superblock(volume)?;
    let listed = le32(&head, READ_ONLY_COMPATIBLE) & ORPHANS != 0;
    Ok(listed || le32(&head, LAST_ORPHAN) != 0)
}

fn superblock(disk: &dyn Disk) -> Result<[u8; 1024]> {
    let mut head = [0; 1024];
    read_padded(disk, &mut head, SUPERBLOCK)?;
    Ok(head)
}

fn le32(head: &[u8; 1024], at: usize) -> u32 {
    be32(head, at).swap_bytes()
}

fn put(head: &mut [u8; 1024], at: usize, number: u32) {
    if let Some(place) = head.get_mut(at..at + 4) {
        place.copy_from_slice(&number.to_le_bytes());
    }
}
