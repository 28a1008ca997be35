//! Reading a GUID partition table: UEFI specification 2.10, chapter 5.
//!
//! The `gpt` crate takes headers and entries apart and proves their checksums. It is shown a
//! picture of what one header speaks of, since it would give up where only the entries of the
//! primary header are damaged, looks for the backup at the disk's end alone, and trusts the sizes
//! a header claims.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek, SeekFrom, Write};

use gpt::GptConfig;
use gpt::disk::LogicalBlockSize;
use gpt::header::Header;
use vdisk_core::{Disk, Error, Findings, Result};

use crate::block::Block;
use crate::crc::crc32;
use crate::mbr::Mbr;
use crate::table::{DiskId, Partition};
use crate::types::PartitionType;

/// Where the header's fields stand (UEFI 2.10, table 5.5), as far as we touch them ourselves.
pub(crate) mod field {
    pub(crate) const SIZE: usize = 12;
    pub(crate) const CRC: usize = 16;
    pub(crate) const MY_LBA: usize = 24;
    pub(crate) const ALTERNATE_LBA: usize = 32;
    pub(crate) const LAST_USABLE: usize = 48;
    pub(crate) const DISK_GUID: usize = 56;
    pub(crate) const ENTRIES_LBA: usize = 72;
    pub(crate) const ENTRIES: usize = 80;
    pub(crate) const ENTRY_BYTES: usize = 84;
    pub(crate) const ENTRIES_CRC: usize = 88;
}

/// Bytes of a header; it may claim more, which are reserved.
const HEADER_BYTES: usize = 92;
/// Bytes of an entry. The specification allows more, nobody writes or reads it.
pub(crate) const ENTRY_BYTES: usize = 128;
/// Most entries believed: 128 times what is usual.
const MOST_ENTRIES: u32 = 1 << 14;
const SIGNATURE: &[u8] = b"EFI PART";
const WHAT: &str = "GPT header";

/// A header whose checksums are right, with its entries.
#[derive(Clone, Debug)]
pub(crate) struct Half {
    /// The sector that the header stands in.
    pub(crate) lba: u64,
    /// That sector.
    pub(crate) raw: Block,
    pub(crate) header: Header,
    /// The entries' bytes.
    pub(crate) entries: Block,
    partitions: BTreeMap<u32, gpt::partition::Partition>,
}

/// Why a header is of no use.
#[derive(Clone, Debug)]
pub(crate) struct Damage {
    lba: u64,
    reason: String,
    /// There is nothing like a header.
    absent: bool,
}

/// A GUID partition table of which at least one copy is whole.
#[derive(Clone, Debug)]
pub(crate) struct Gpt {
    pub(crate) sector: u64,
    pub(crate) primary: Result<Half, Damage>,
    pub(crate) backup: Result<Half, Damage>,
}

impl Gpt {
    /// Reads the table of a disk with sectors of `sector` bytes; `None` where there is not even a
    /// damaged one. `mbr` is its first sector's table.
    pub(crate) fn read(disk: &dyn Disk, sector: u64, mbr: Option<&Mbr>) -> Result<Option<Self>> {
        let primary = Half::read(disk, sector, 1);
        let last = (disk.len() / sector).saturating_sub(1);
        let places = match &primary {
            Ok(half) => [half.header.backup_lba, last],
            Err(_) => [last, mbr.and_then(Mbr::protected_end).unwrap_or(last)],
        };
        let [first, second] = places.map(|lba| Half::read(disk, sector, lba));
        let backup = first.or_else(|damage| second.map_err(|_| damage));
        match (&primary, &backup) {
            (Err(primary), Err(backup)) if primary.absent && backup.absent => Ok(None),
            (Err(primary), Err(backup)) => Err(Error::corrupt(
                WHAT,
                primary.lba.saturating_mul(sector),
                format!("{}; and its backup: {}", primary.reason, backup.reason),
            )
            .hint("gdisk can often rebuild the table from what is left of it")),
            _ => Ok(Some(Self { sector, primary, backup })),
        }
    }

    /// The copy that counts.
    pub(crate) fn half(&self) -> Option<&Half> {
        self.primary.as_ref().ok().or(self.backup.as_ref().ok())
    }

    pub(crate) fn id(&self) -> Option<DiskId> {
        self.half().map(|half| DiskId::Gpt(half.header.disk_guid))
    }

    /// The partitions in the order of their numbers.
    pub(crate) fn partitions(&self, findings: &mut Findings) -> Vec<Partition> {
        let Some(half) = self.half() else { return Vec::new() };
        let used = half.partitions.iter().filter(|(_, entry)| entry.is_used());
        used.filter_map(|(number, entry)| {
            let partition = self.partition(*number, entry);
            if partition.is_none() {
                findings.corruption(
                    "partition-bad-range",
                    None,
                    format!(
                        "partition {number} is left out: it reaches from sector {} to {}",
                        entry.first_lba, entry.last_lba
                    ),
                );
            }
            let usable = half.header.first_usable..=half.header.last_usable;
            if partition.is_some()
                && !(usable.contains(&entry.first_lba) && usable.contains(&entry.last_lba))
            {
                findings.corruption(
                    "partition-outside-usable",
                    None,
                    format!(
                        "partition {number} (sectors {} to {}) leaves the room for partitions, \
                         sectors {} to {}",
                        entry.first_lba,
                        entry.last_lba,
                        usable.start(),
                        usable.end()
                    ),
                );
            }
            partition
        })
        .collect()
    }

    fn partition(&self, number: u32, entry: &gpt::partition::Partition) -> Option<Partition> {
        let sectors = entry.last_lba.checked_sub(entry.first_lba)?.checked_add(1)?;
        let start = entry.first_lba.checked_mul(self.sector)?;
        let len = sectors.checked_mul(self.sector)?;
        start.checked_add(len)?;
        Some(Partition {
            number,
            start,
            len,
            kind: PartitionType::Gpt(entry.part_type_guid.guid),
            name: (!entry.name.is_empty()).then(|| entry.name.clone()),
            uuid: Some(entry.part_guid),
            attributes: entry.flags,
            active: entry.flags & 4 != 0,
            logical: false,
        })
    }

    /// Reports what is wrong with the copies.
    pub(crate) fn check(&self, disk: &dyn Disk, findings: &mut Findings) {
        let at = |lba: u64| lba.saturating_mul(self.sector);
        for (code, half) in
            [("gpt-primary-damaged", &self.primary), ("gpt-backup-damaged", &self.backup)]
        {
            if let Err(damage) = half {
                findings.corruption(code, at(damage.lba), damage.reason.clone());
            }
        }
        if let (Ok(primary), Ok(backup)) = (&self.primary, &self.backup)
            && (primary.entries != backup.entries
                || primary.header.disk_guid != backup.header.disk_guid)
        {
            findings.corruption(
                "gpt-copies-differ",
                at(backup.lba),
                "the backup describes another table than the primary, which is used",
            );
        }
        let last = (disk.len() / self.sector).saturating_sub(1);
        let Some(backup) = self.backup_lba() else { return };
        if backup < last {
            findings.add(
                vdisk_core::Severity::Note,
                "gpt-backup-not-at-end",
                at(backup),
                format!("the backup stands at sector {backup}, the disk ends with sector {last}"),
            );
        } else if backup > last {
            findings.corruption(
                "gpt-disk-too-short",
                None,
                format!("the table was made for {} sectors, the disk has {}", backup + 1, last + 1),
            );
        }
    }

    /// The sector where the backup stands or ought to.
    fn backup_lba(&self) -> Option<u64> {
        match (&self.primary, &self.backup) {
            (_, Ok(half)) => Some(half.lba),
            (Ok(half), Err(_)) => Some(half.header.backup_lba).filter(|lba| *lba < u64::MAX),
            _ => None,
        }
    }
}

impl Half {
    /// Reads the header at sector `lba`. That the disk cannot be read is damage too: the other
    /// copy is there for that.
    fn read(disk: &dyn Disk, sector: u64, lba: u64) -> Result<Self, Damage> {
        let damage = |reason: String| Damage { lba, reason, absent: false };
        let absent = |reason: &str| Damage { lba, reason: reason.to_owned(), absent: true };
        let size = usize::try_from(sector).unwrap_or_default();
        let raw = lba
            .checked_mul(sector)
            .map_or(Ok(None), |offset| Block::read(disk, offset, size))
            .map_err(|error| damage(error.to_string()))?
            .ok_or_else(|| absent("it would stand beyond the disk's end"))?;
        if !raw.has(SIGNATURE, 0) {
            return Err(absent("there is no GPT header"));
        }
        let shown = shown(&raw).map_err(damage)?;
        let count = raw.u32(field::ENTRIES);
        let bytes = raw.u32(field::ENTRY_BYTES);
        if count > MOST_ENTRIES || bytes as usize != ENTRY_BYTES {
            return Err(damage(format!("it tells of {count} entries of {bytes} bytes")));
        }
        let start = raw.u64(field::ENTRIES_LBA).checked_mul(sector);
        let entries = start
            .map_or(Ok(None), |offset| Block::read(disk, offset, count as usize * ENTRY_BYTES))
            .map_err(|error| damage(error.to_string()))?
            .ok_or_else(|| damage("its entries lie beyond the disk's end".into()))?;
        let picture = Picture {
            header: (sector, shown),
            entries: (start.unwrap_or_default(), entries.0.clone()),
            len: disk.len(),
            at: 0,
        };
        let block = if size == 512 { LogicalBlockSize::Lb512 } else { LogicalBlockSize::Lb4096 };
        let read = GptConfig::new()
            .logical_block_size(block)
            .open_from_device(picture)
            .map_err(|error| damage(error.to_string()))?;
        let header = read.header().clone();
        if header.current_lba != lba {
            return Err(damage(format!(
                "it was made for sector {}, and stands at {lba}",
                header.current_lba
            )));
        }
        let partitions = read.partitions().clone();
        Ok(Self { lba, raw, header, entries, partitions })
    }
}

/// The header as the crate wants it: it sums 92 bytes, whatever the header says of its own size.
fn shown(raw: &Block) -> Result<Vec<u8>, String> {
    let size = raw.u32(field::SIZE) as usize;
    if !(HEADER_BYTES..=raw.0.len()).contains(&size) {
        return Err(format!("it says it is {size} bytes long"));
    }
    let mut shown = Block(raw.slice(0..HEADER_BYTES).to_vec());
    if size > HEADER_BYTES {
        if header_crc(raw) != raw.u32(field::CRC) {
            return Err("its checksum is wrong".into());
        }
        shown.put(field::CRC, &[0; 4]);
        let crc = crc32(&shown.0);
        shown.put(field::CRC, &crc.to_le_bytes());
    }
    Ok(shown.0)
}

/// The checksum that a header ought to have.
pub(crate) fn header_crc(raw: &Block) -> u32 {
    let mut summed = Block(raw.slice(0..raw.u32(field::SIZE) as usize).to_vec());
    summed.put(field::CRC, &[0; 4]);
    crc32(&summed.0)
}

/// A disk that holds one header, shown as the primary, and its entries; all else is zero.
#[derive(Debug)]
struct Picture {
    header: (u64, Vec<u8>),
    entries: (u64, Vec<u8>),
    len: u64,
    at: u64,
}

impl Read for Picture {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let there = self.len.saturating_sub(self.at).min(buf.len() as u64);
        let asked = self.at..self.at + there;
        let index = |base: u64, at: u64| usize::try_from(at - base).unwrap_or(usize::MAX);
        buf.fill(0);
        for (start, bytes) in [&self.header, &self.entries] {
            let from = asked.start.max(*start);
            let to = asked.end.min(start.saturating_add(bytes.len() as u64));
            if from < to
                && let Some(target) = buf.get_mut(index(asked.start, from)..index(asked.start, to))
                && let Some(source) = bytes.get(index(*start, from)..index(*start, to))
            {
                target.copy_from_slice(source);
            }
        }
        self.at = asked.end;
        Ok(index(asked.start, asked.end))
    }
}

impl Seek for Picture {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

impl Write for Picture {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
