//! FAT: the file allocation table (Microsoft's "FAT: General Overview of On-Disk Format").

use vdisk_core::{Disk, Result};

use super::contradiction;
use super::field::Fields;
use super::runs::Runs;

/// Bytes of the table read at once; a multiple of 3, as three bytes hold two entries of 12 bits.
const PIECE: u64 = 3 << 18;

/// Adds the free runs of the volume, bytes.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where its parts do not fit, or its tables differ.
pub(super) fn free(volume: &dyn Disk, free: &mut Runs) -> Result<()> {
    let layout = Layout::read(volume)?;
    let mut at = 0;
    while at < layout.used_table() {
        let len = PIECE.min(layout.used_table() - at);
        let piece = layout.read_tables(volume, at, len)?;
        let first = at * 8 / u64::from(layout.bits);
        let count = len * 8 / u64::from(layout.bits);
        for number in first.max(2)..(first + count).min(layout.clusters + 2) {
            if layout.entry(&piece, number - first) == 0 {
                let start = layout.data + (number - 2) * layout.cluster;
                free.push(start..start + layout.cluster);
            }
        }
        at += len;
    }
    Ok(())
}

#[derive(Debug)]
struct Layout {
    /// Bits of an entry.
    bits: u8,
    /// Bytes of a cluster.
    cluster: u64,
    clusters: u64,
    /// First byte of the first table.
    table: u64,
    /// Bytes of a table.
    table_len: u64,
    /// Tables that are kept alike.
    tables: u64,
    /// First byte of cluster 2.
    data: u64,
}

impl Layout {
    fn read(volume: &dyn Disk) -> Result<Self> {
        let boot = Fields::read(volume, 0, 512)?;
        let wrong = |what: &str| contradiction("FAT boot sector", 0, what);
        let sector = u64::from(boot.le16(11));
        let sectors_per_cluster = u64::from(boot.byte(13));
        if !sector.is_power_of_two() || sector < 512 || !sectors_per_cluster.is_power_of_two() {
            return Err(wrong("its sectors or clusters have no possible size"));
        }
        let either =
            |short: u16, long: u32| if short == 0 { long.into() } else { u64::from(short) };
        let table_sectors = either(boot.le16(22), boot.le32(36));
        let total = either(boot.le16(19), boot.le32(32));
        let copies = u64::from(boot.byte(16));
        let reserved = u64::from(boot.le16(14));
        let root = (u64::from(boot.le16(17)) * 32).div_ceil(sector);
        let front = reserved + copies * table_sectors + root;
        let clusters = total
            .checked_sub(front)
            .map(|sectors| sectors / sectors_per_cluster)
            .filter(|_| copies > 0)
            .ok_or_else(|| wrong("its parts are longer than the volume"))?;
        let bits = match clusters {
            0..4085 => 12,
            4085..65525 => 16,
            _ => 32,
        };
        // FAT32 may keep only one of its tables up to date.
        let single = bits == 32 && boot.le16(40) & 0x80 != 0;
        let active = if single { u64::from(boot.le16(40) & 0xF) } else { 0 };
        let layout = Self {
            bits,
            cluster: sectors_per_cluster * sector,
            clusters,
            table: (reserved + active * table_sectors) * sector,
            table_len: table_sectors * sector,
            tables: if single { 1 } else { copies },
            data: front * sector,
        };
        if layout.used_table() > layout.table_len || total * sector > volume.len() {
            return Err(wrong("its parts are longer than the volume"));
        }
        Ok(layout)
    }

    /// Bytes of the table that hold the entries of all clusters.
    fn used_table(&self) -> u64 {
        ((self.clusters + 2) * u64::from(self.bits)).div_ceil(8)
    }

    /// A piece of the table, after it was compared with its copies.
    fn read_tables(&self, volume: &dyn Disk, at: u64, len: u64) -> Result<Fields> {
        let len = usize::try_from(len).unwrap_or_default();
        let first = Fields::read(volume, self.table + at, len)?;
        for copy in 1..self.tables {
            let offset = self.table + copy * self.table_len + at;
            if Fields::read(volume, offset, len)?.0 != first.0 {
                return Err(contradiction("FAT", offset, "it differs from its copy"));
            }
        }
        Ok(first)
    }

    /// The entry that is number `index` of a piece.
    fn entry(&self, piece: &Fields, index: u64) -> u32 {
        let index = usize::try_from(index).unwrap_or(usize::MAX / 8);
        match self.bits {
            12 => {
                let pair = piece.le16(index / 2 * 3 + index % 2);
                u32::from(if index % 2 == 0 { pair & 0xFFF } else { pair >> 4 })
            }
            16 => piece.le16(index * 2).into(),
            _ => piece.le32(index * 4) & 0x0FFF_FFFF,
        }
    }
}
