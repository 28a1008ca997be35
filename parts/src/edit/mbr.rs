//! A master boot record that is being changed.

use vdisk_core::{Change, Disk, Error, Result};

use super::{aligned_end, does_not_fit, growable, not_smaller};
use crate::mbr::{ENTRIES, ENTRY_BYTES, Mbr, SIGNATURE};
use crate::table::{Partition, Table};

#[derive(Debug)]
pub(super) struct Edited {
    table: Table,
    mbr: Mbr,
    /// Bytes of the disk.
    len: u64,
}

impl Edited {
    pub(super) fn new(disk: &dyn Disk, table: Table, mbr: Mbr) -> Self {
        Self { table, mbr, len: disk.len() }
    }

    pub(super) fn fit_to(&mut self, len: u64) -> Result<()> {
        if let Some(last) = self.last().filter(|last| last.range().end > len) {
            return Err(does_not_fit(last.number, last.range().end, len));
        }
        self.len = len;
        Ok(())
    }

    pub(super) fn set_signature(&mut self, signature: u32) {
        self.mbr.raw.put(SIGNATURE, &signature.to_le_bytes());
    }

    pub(super) fn grow_last(&mut self) -> Result<Option<u32>> {
        let Some(last) = self.last() else { return Ok(None) };
        growable(last.number, last.kind.role())?;
        if last.logical {
            let message = format!("partition {}, the last one, is a logical one", last.number);
            return Err(Error::unsupported(message).hint("grow it on the running system"));
        }
        let sector = self.table.sector_size;
        // Sector numbers have 32 bits.
        let room = (self.len / sector).min(u64::from(u32::MAX)) * sector;
        let end = aligned_end(last.start, room);
        if end <= last.range().end {
            return Ok(None);
        }
        let number = last.number;
        Ok(self.set_end(number, end)?.then_some(number))
    }

    pub(super) fn shrink(&mut self, number: u32, end: u64) -> Result<()> {
        let found = self.table.partitions.iter().find(|one| one.number == number);
        let found =
            found.ok_or_else(|| Error::usage(format!("the disk has no partition {number}")))?;
        growable(number, found.kind.role())?;
        if found.logical {
            let message = format!("partition {number} is a logical one: it is not shrunk");
            return Err(Error::unsupported(message).hint("shrink it on the running system"));
        }
        let smaller = (found.start + self.table.sector_size..found.range().end).contains(&end);
        match smaller && self.set_end(number, end)? {
            true => Ok(()),
            false => Err(not_smaller(number, end)),
        }
    }

    /// Whether the primary partition `number` could be made to end at byte `end`.
    fn set_end(&mut self, number: u32, end: u64) -> Result<bool> {
        let sector = self.table.sector_size;
        let found = self.table.partitions.iter_mut().find(|one| one.number == number);
        let found = found.ok_or_else(|| Error::internal("a partition that is not there"))?;
        let sectors = (end - found.start) / sector;
        let Ok(count) = u32::try_from(sectors) else { return Ok(false) };
        let index = usize::try_from(number.saturating_sub(1)).unwrap_or_default();
        let at = ENTRIES + index * ENTRY_BYTES;
        self.mbr.raw.put(at + 5, &cylinder_head_sector(end / sector - 1));
        self.mbr.raw.put(at + 12, &count.to_le_bytes());
        found.len = sectors * sector;
        Ok(true)
    }

    pub(super) fn content(&self) -> Vec<Change> {
        vec![Change { offset: 0, bytes: self.mbr.raw.0.clone() }]
    }

    /// The partition that ends last; of an extended one and the logical one at its end, the
    /// extended one.
    fn last(&self) -> Option<&Partition> {
        let partitions = self.table.partitions.iter();
        partitions.max_by_key(|one| (one.range().end, !one.logical))
    }
}

/// The place of a sector on a disk of 255 heads and 63 sectors a track, as all write it since
/// disks have no such places; the last that can be written for all behind it.
fn cylinder_head_sector(sector: u64) -> [u8; 3] {
    const TRACK: u64 = 63;
    const CYLINDER: u64 = 255 * TRACK;
    let cylinder = sector / CYLINDER;
    if cylinder > 1023 {
        return [0xfe, 0xff, 0xff];
    }
    let (head, number) = (sector % CYLINDER / TRACK, sector % TRACK + 1);
    [head, number | cylinder >> 8 << 6, cylinder & 0xff]
        .map(|value| u8::try_from(value).unwrap_or(0xff))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_of_sectors() {
        // As sfdisk 2.38 writes them.
        assert_eq!(cylinder_head_sector(2048), [0x20, 0x21, 0]);
        assert_eq!(cylinder_head_sector(0), [0, 1, 0]);
        assert_eq!(cylinder_head_sector(1023 * 255 * 63), [0, 0xc1, 0xff]);
        assert_eq!(cylinder_head_sector(1024 * 255 * 63), [0xfe, 0xff, 0xff]);
    }
}
