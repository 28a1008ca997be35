//! Whether a disk is still the one it was when a copy of it began.

use sha2::{Digest, Sha256};
use vdisk::{Disk, Ranges};
use vdisk_core::hex;
use vdisk_parts::Table;

/// Bytes looked at in each place.
const PIECE: u64 = 64 << 10;

/// A digest of the disk's size, of the beginnings of the disk and its partitions, of its end, and of
/// what is `left_out` of it. What a file system does to a disk shows in one of them: it counts
/// mounts, or it uses other blocks. What cannot be read counts as nothing.
#[must_use]
pub fn fingerprint(disk: &dyn Disk, sector: u64, left_out: &Ranges) -> String {
    let mut hash = Sha256::new();
    hash.update(disk.len().to_le_bytes());
    let table = Table::read(disk, sector).ok();
    let partitions = table.iter().flat_map(|table| &table.partitions);
    let starts = partitions.map(|partition| partition.start);
    for start in starts.chain([0, disk.len().saturating_sub(PIECE)]) {
        let len = disk.len().saturating_sub(start).min(PIECE);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        if disk.read_at(&mut bytes, start).is_ok() {
            hash.update(start.to_le_bytes());
            hash.update(&bytes);
        }
    }
    for range in left_out.iter() {
        hash.update(range.start.to_le_bytes());
        hash.update(range.end.to_le_bytes());
    }
    hex(&hash.finalize())
}
