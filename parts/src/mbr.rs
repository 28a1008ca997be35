//! The master boot record and its logical partitions.
//!
//! No standard describes it; this is what Windows, Linux (`block/partitions/msdos.c`) and
//! util-linux (`libfdisk/src/dos.c`) agree on. All sector numbers have 32 bits.

use std::collections::BTreeSet;

use vdisk_core::{Disk, Findings, Result, Severity};

use crate::block::Block;
use crate::table::Partition;
use crate::types::{PartitionType, Role};

/// Bytes read of the sector, whatever its size.
pub(crate) const BYTES: usize = 512;
/// Where the disk's signature stands.
pub(crate) const SIGNATURE: usize = 0x1b8;
/// Where the four entries stand.
pub(crate) const ENTRIES: usize = 0x1be;
/// Bytes of an entry.
pub(crate) const ENTRY_BYTES: usize = 16;
/// Logical partitions that are followed; util-linux stops at 60 in all.
const MOST_LOGICAL: usize = 1024;

/// The sector's content.
#[derive(Clone, Debug)]
pub(crate) struct Mbr {
    pub(crate) raw: Block,
    pub(crate) signature: u32,
    pub(crate) entries: [Entry; 4],
}

/// One of the four entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    status: u8,
    pub(crate) kind: u8,
    /// First sector; in an extended boot record relative to something.
    pub(crate) first: u32,
    pub(crate) sectors: u32,
}

impl Mbr {
    /// Takes the disk's first 512 bytes apart; `None` where they cannot be a master boot record.
    /// The boot sector of a file system can still look like one.
    pub(crate) fn parse(raw: Block) -> Option<Self> {
        let entries = entries(&raw)?;
        let plausible = entries.iter().all(|entry| matches!(entry.status, 0 | 0x80));
        let signature = raw.u32(SIGNATURE);
        plausible.then_some(Self { raw, signature, entries })
    }

    /// Whether it covers a GPT.
    pub(crate) fn is_protective(&self) -> bool {
        self.entries.iter().any(|entry| entry.role() == Some(Role::Protective))
    }

    /// Whether it covers a GPT and has partitions of its own besides.
    pub(crate) fn is_hybrid(&self) -> bool {
        self.is_protective() && self.used().any(|(_, entry)| entry.role() != Some(Role::Protective))
    }

    /// The last sector that it says a GPT reaches to: where the backup was when it was made.
    pub(crate) fn protected_end(&self) -> Option<u64> {
        let entry = self.entries.iter().find(|entry| entry.role() == Some(Role::Protective))?;
        (u64::from(entry.first) + u64::from(entry.sectors)).checked_sub(1)
    }

    /// The entries that hold something, numbered from 1.
    pub(crate) fn used(&self) -> impl Iterator<Item = (u32, &Entry)> {
        (1..).zip(&self.entries).filter(|(_, entry)| entry.is_used())
    }

    /// The partitions, the logical ones among them, in the order of their numbers.
    pub(crate) fn partitions(
        &self,
        disk: &dyn Disk,
        sector: u64,
        findings: &mut Findings,
    ) -> Result<Vec<Partition>> {
        let mut found: Vec<Partition> =
            self.used().map(|(number, entry)| entry.partition(number, 0, sector)).collect();
        let mut walk = Walk { disk, sector, findings, found: Vec::new() };
        for (_, entry) in self.used().filter(|(_, entry)| entry.is_extended()) {
            walk.follow(u64::from(entry.first))?;
        }
        found.append(&mut walk.found);
        Ok(found)
    }
}

impl Entry {
    fn is_used(&self) -> bool {
        self.kind != 0 && self.sectors != 0
    }

    fn role(&self) -> Option<Role> {
        PartitionType::Mbr(self.kind).role()
    }

    fn is_extended(&self) -> bool {
        self.is_used() && self.role() == Some(Role::Extended)
    }

    /// The partition this is, its first sector counted from sector `base`.
    fn partition(&self, number: u32, base: u64, sector: u64) -> Partition {
        Partition {
            number,
            start: (base + u64::from(self.first)) * sector,
            len: u64::from(self.sectors) * sector,
            kind: PartitionType::Mbr(self.kind),
            name: None,
            uuid: None,
            attributes: u64::from(self.status),
            active: self.status & 0x80 != 0,
            logical: base != 0,
        }
    }
}

/// The entries of a master or extended boot record, where the sector ends as one must.
fn entries(raw: &Block) -> Option<[Entry; 4]> {
    raw.has(&[0x55, 0xaa], BYTES - 2).then(|| {
        [0, 1, 2, 3].map(|index| {
            let at = ENTRIES + index * ENTRY_BYTES;
            Entry {
                status: raw.byte(at),
                kind: raw.byte(at + 4),
                first: raw.u32(at + 8),
                sectors: raw.u32(at + 12),
            }
        })
    })
}

/// The walk along the extended boot records. Each leads to its partition, counted from itself,
/// and to the next record, counted from the start of the extended partition.
struct Walk<'a> {
    disk: &'a dyn Disk,
    sector: u64,
    findings: &'a mut Findings,
    found: Vec<Partition>,
}

impl Walk<'_> {
    fn follow(&mut self, start: u64) -> Result<()> {
        let mut seen = BTreeSet::new();
        let mut at = start;
        loop {
            let offset = at * self.sector;
            let ends = |walk: &mut Self, reason: &str| {
                let message = format!("the chain of logical partitions ends here: {reason}");
                walk.findings.corruption("mbr-chain-broken", offset, message);
            };
            if !seen.insert(at) {
                ends(self, "it leads back to itself");
                return Ok(());
            }
            if self.found.len() >= MOST_LOGICAL || seen.len() > MOST_LOGICAL {
                ends(self, "too many partitions");
                return Ok(());
            }
            let Some(raw) = Block::read(self.disk, offset, BYTES)? else {
                ends(self, "it leads beyond the disk's end");
                return Ok(());
            };
            let Some(entries) = entries(&raw) else {
                ends(self, "there is no extended boot record");
                return Ok(());
            };
            let data = entries.iter().find(|entry| entry.is_used() && !entry.is_extended());
            if let Some(entry) = data {
                let number = u32::try_from(5 + self.found.len()).unwrap_or(u32::MAX);
                self.found.push(entry.partition(number, at, self.sector));
            }
            let Some(link) = entries.iter().find(|entry| entry.is_extended()) else {
                return Ok(());
            };
            if link.first == 0 {
                // What an emptied record is left with, here and there.
                self.findings.add(
                    Severity::Note,
                    "mbr-chain-broken",
                    offset,
                    "the chain of logical partitions ends with a link to its own start",
                );
                return Ok(());
            }
            at = start + u64::from(link.first);
        }
    }
}
