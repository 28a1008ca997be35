//! A GUID partition table that is being changed. Entries stay as the bytes they are, so that
//! nothing is lost that we do not know.

use std::ops::Range;

use uuid::Uuid;
use vdisk_core::{Change, Disk, Error, Result};

use super::{aligned_end, does_not_fit, growable, not_smaller};
use crate::block::Block;
use crate::crc::crc32;
use crate::gpt::{ENTRY_BYTES, Gpt, field, header_crc};
use crate::mbr::{ENTRIES, Mbr};
use crate::types::{PartitionType, Role};

/// Where an entry's fields stand (UEFI 2.10, table 5.6).
const UNIQUE_GUID: usize = 16;
const FIRST_LBA: usize = 32;
const LAST_LBA: usize = 40;

#[derive(Debug)]
pub(super) struct Edited {
    sector: u64,
    /// The header that counts; what differs between the copies is set when they are made.
    header: Block,
    entries: Block,
    /// The sectors of the primary entries, the backup entries, and the backup header.
    primary_entries: u64,
    backup_entries: u64,
    backup: u64,
    /// Where the backup header was.
    old_backup: Option<u64>,
    /// The sector before the table, where it does nothing but cover it.
    protective: Option<Mbr>,
}

impl Edited {
    pub(super) fn new(disk: &dyn Disk, gpt: &Gpt, mbr: Option<Mbr>) -> Result<Self> {
        let half = gpt.half().ok_or_else(|| Error::internal("a GPT without a copy"))?;
        let sectors = (half.entries.0.len() as u64).div_ceil(gpt.sector);
        let primary_entries = match &gpt.primary {
            Ok(primary) => primary.raw.u64(field::ENTRIES_LBA),
            Err(_) if sectors.saturating_add(2) <= half.header.first_usable => 2,
            Err(_) => {
                return Err(Error::corrupt("GPT header", gpt.sector, "there is no room for it")
                    .hint("mend the table with gdisk first"));
            }
        };
        let mut edited = Self {
            sector: gpt.sector,
            header: half.raw.clone(),
            entries: half.entries.clone(),
            primary_entries,
            backup_entries: 0,
            backup: 0,
            old_backup: gpt.backup.as_ref().ok().map(|backup| backup.lba),
            protective: mbr.filter(|mbr| mbr.is_protective() && !mbr.is_hybrid()),
        };
        match &gpt.backup {
            Ok(backup) => {
                edited.backup = backup.lba;
                edited.backup_entries = backup.raw.u64(field::ENTRIES_LBA);
            }
            // Lost: it will stand where the disk ends.
            Err(_) => edited.fit_to(disk.len())?,
        }
        edited.check()?;
        Ok(edited)
    }

    pub(super) fn fit_to(&mut self, len: u64) -> Result<()> {
        let sectors = (self.entries.0.len() as u64).div_ceil(self.sector);
        let disk_sectors = len / self.sector;
        let end = disk_sectors.saturating_sub(1 + sectors);
        let used = self.used();
        let farthest = used.iter().max_by_key(|entry| entry.last);
        if let Some(entry) = farthest.filter(|entry| entry.last >= end) {
            let bytes = entry.last.saturating_add(1).saturating_mul(self.sector);
            return Err(does_not_fit(entry.number, bytes, end * self.sector));
        }
        let room = self.primary_entries.saturating_add(sectors);
        if end <= room {
            return Err(Error::refused(format!("a disk of {len} bytes has no room for the table")));
        }
        self.backup = disk_sectors - 1;
        self.backup_entries = end;
        self.header.put(field::LAST_USABLE, &(end - 1).to_le_bytes());
        let covered = u32::try_from(self.backup).unwrap_or(u32::MAX);
        if let Some(mbr) = &mut self.protective {
            let index = mbr.entries.iter().position(|entry| entry.kind != 0).unwrap_or_default();
            mbr.raw.put(ENTRIES + index * 16 + 12, &covered.to_le_bytes());
        }
        self.check()
    }

    /// Refuses a table that lies on itself or on a partition: changing it would destroy either.
    fn check(&self) -> Result<()> {
        let sectors = (self.entries.0.len() as u64).div_ceil(self.sector);
        let array = |start: u64| start..start.saturating_add(sectors);
        let parts = [
            0..1,
            1..2,
            array(self.primary_entries),
            array(self.backup_entries),
            self.backup..self.backup.saturating_add(1),
        ];
        let refused =
            |message: String| Err(Error::refused(message).hint("mend the table with gdisk first"));
        for (index, part) in parts.iter().enumerate() {
            if parts.iter().skip(index + 1).any(|other| overlap(part, other)) {
                return refused(format!("parts of the GPT overlap at sector {}", part.start));
            }
            for entry in self.used() {
                if overlap(part, &(entry.first..entry.last.saturating_add(1))) {
                    return refused(format!(
                        "partition {} overlaps the GPT itself at sector {}",
                        entry.number, part.start
                    ));
                }
            }
        }
        Ok(())
    }

    pub(super) fn set_disk_guid(&mut self, guid: Uuid) {
        self.header.put(field::DISK_GUID, &guid.to_bytes_le());
    }

    pub(super) fn set_partition_guid(&mut self, number: u32, guid: Uuid) -> Result<()> {
        let used = self.used();
        let entry = used.iter().find(|entry| entry.number == number);
        let at = entry
            .map(|entry| entry.at)
            .ok_or_else(|| Error::usage(format!("the disk has no partition {number}")))?;
        self.entries.put(at + UNIQUE_GUID, &guid.to_bytes_le());
        Ok(())
    }

    pub(super) fn grow_last(&mut self) -> Result<Option<u32>> {
        let used = self.used();
        // Where the end comes before the start, growing would make a partition of it.
        let sound = used.iter().filter(|entry| entry.first <= entry.last);
        let Some(entry) = sound.max_by_key(|entry| entry.last) else { return Ok(None) };
        growable(entry.number, entry.role)?;
        let room = self.header.u64(field::LAST_USABLE).saturating_add(1);
        let bytes = |sectors: u64| sectors.saturating_mul(self.sector);
        let end = aligned_end(bytes(entry.first), bytes(room)) / self.sector;
        if end <= entry.last.saturating_add(1) {
            return Ok(None);
        }
        let (number, at) = (entry.number, entry.at);
        self.entries.put(at + LAST_LBA, &(end - 1).to_le_bytes());
        Ok(Some(number))
    }

    pub(super) fn shrink(&mut self, number: u32, end: u64) -> Result<()> {
        let used = self.used();
        let entry = used.iter().find(|entry| entry.number == number);
        let entry =
            entry.ok_or_else(|| Error::usage(format!("the disk has no partition {number}")))?;
        growable(number, entry.role)?;
        let last = (end / self.sector).checked_sub(1);
        let last = last.filter(|last| (entry.first..entry.last).contains(last));
        let (at, last) = (entry.at, last.ok_or_else(|| not_smaller(number, end))?);
        self.entries.put(at + LAST_LBA, &last.to_le_bytes());
        Ok(())
    }

    /// Everything as it shall be, in the order it is safe to write: the backup, the primary (which
    /// counts), and then what only refers to them.
    pub(super) fn content(&self) -> Vec<Change> {
        let mut content = Vec::new();
        for (lba, other, entries) in
            [(self.backup, 1, self.backup_entries), (1, self.backup, self.primary_entries)]
        {
            let mut header = self.header.clone();
            header.put(field::MY_LBA, &lba.to_le_bytes());
            header.put(field::ALTERNATE_LBA, &other.to_le_bytes());
            header.put(field::ENTRIES_LBA, &entries.to_le_bytes());
            header.put(field::ENTRIES_CRC, &crc32(&self.entries.0).to_le_bytes());
            let crc = header_crc(&header);
            header.put(field::CRC, &crc.to_le_bytes());
            content.push(self.change(entries, self.entries.0.clone()));
            content.push(self.change(lba, header.0));
        }
        if let Some(mbr) = &self.protective {
            content.push(self.change(0, mbr.raw.0.clone()));
        }
        // Left where it was, it could be taken for the backup.
        let free = |lba: &u64| {
            *lba < self.backup_entries
                && !self.used().iter().any(|entry| (entry.first..=entry.last).contains(lba))
        };
        if let Some(lba) = self.old_backup.filter(free) {
            content.push(self.change(lba, vec![0; self.header.0.len()]));
        }
        content
    }

    fn change(&self, lba: u64, bytes: Vec<u8>) -> Change {
        Change { offset: lba.saturating_mul(self.sector), bytes }
    }

    fn used(&self) -> Vec<Entry> {
        let offsets = (0..self.entries.0.len()).step_by(ENTRY_BYTES);
        let entries = (1..).zip(offsets).map(|(number, at)| {
            let kind = Uuid::from_bytes_le(self.entries.array(at));
            (!kind.is_nil()).then(|| Entry {
                number,
                at,
                first: self.entries.u64(at + FIRST_LBA),
                last: self.entries.u64(at + LAST_LBA),
                role: PartitionType::Gpt(kind).role(),
            })
        });
        entries.flatten().collect()
    }
}

fn overlap(one: &Range<u64>, other: &Range<u64>) -> bool {
    one.start < other.end && other.start < one.end
}

/// An entry in use.
#[derive(Debug)]
struct Entry {
    number: u32,
    /// Its first byte among the entries.
    at: usize,
    first: u64,
    last: u64,
    role: Option<Role>,
}
