//! A disk's partition table, whichever kind it is.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;
use vdisk_core::{Disk, Error, ErrorKind, Finding, Findings, Result, Severity, Window};

use crate::block::Block;
use crate::gpt::Gpt;
use crate::mbr::{self, Entry, Mbr};
use crate::recognise::{VolumeKind, begins_with_volume, recognise};
use crate::types::{PartitionType, Role};

/// The sizes of sectors that tables count in, bytes.
pub(crate) const SECTORS: [u64; 2] = [512, 4096];

/// What a disk says of its partitions, and what is wrong with that.
#[derive(Clone, Debug)]
pub struct Table {
    /// Which kind of table it is.
    pub kind: TableKind,
    /// The bytes of a sector, as the table counts: 512 or 4096. Not what was asked for where the
    /// table says otherwise; then a finding `table-sector-size` tells.
    pub sector_size: u64,
    /// What tells the disk from others.
    pub id: Option<DiskId>,
    /// The partitions, in the order of their numbers. An MBR's extended partition is one of them,
    /// and so are the logical ones inside it.
    pub partitions: Vec<Partition>,
    /// What is wrong or odd, with byte offsets on the disk.
    pub findings: Vec<Finding>,
}

/// The kinds of partition tables.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum TableKind {
    /// GUID partition table.
    Gpt {
        /// The MBR before it has partitions of its own, as Boot Camp makes it. They are not
        /// listed.
        hybrid: bool,
    },
    /// Master boot record.
    Mbr,
    /// None: an empty disk, or one volume over all of it.
    None,
}

/// What a partition table calls its disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DiskId {
    /// A GPT's disk GUID.
    Gpt(Uuid),
    /// An MBR's disk signature; zero where none was set.
    Mbr(u32),
}

/// A partition as its table describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Partition {
    /// Its number, as Linux counts: logical partitions from 5, a GPT's by their place.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes. May reach beyond the disk's end, which is a finding `partition-beyond-disk`.
    pub len: u64,
    /// Its type.
    pub kind: PartitionType,
    /// GPT: its name.
    pub name: Option<String>,
    /// GPT: its unique GUID.
    pub uuid: Option<Uuid>,
    /// GPT: the 64 attribute bits of its entry; MBR: the status byte.
    pub attributes: u64,
    /// A BIOS boots from it: an MBR's active flag, a GPT's attribute bit 2.
    pub active: bool,
    /// MBR: it stands inside the extended partition.
    pub logical: bool,
}

impl Table {
    /// Reads the partition table of `disk`, whose sectors are said to have `sector_size` bytes.
    /// A GPT that counts in sectors of another size is found all the same. No table is a result
    /// too ([`TableKind::None`]).
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) where both copies of a GPT are damaged;
    /// [`Usage`](ErrorKind::Usage) for sectors of neither 512 nor 4096 bytes; the disk's own.
    pub fn read(disk: &dyn Disk, sector_size: u64) -> Result<Self> {
        if !SECTORS.contains(&sector_size) {
            return Err(Error::usage(format!("sectors of {sector_size} bytes are not known")));
        }
        let mut findings = Findings::new();
        let mut table = Self::find(disk, sector_size, &mut findings)?;
        table.check(disk.len(), &mut findings);
        table.findings = findings.list().to_vec();
        Ok(table)
    }

    /// How Linux names the partition in `PARTUUID=`: a GPT's GUID, or the disk's signature with
    /// the partition's number.
    #[must_use]
    pub fn part_uuid(&self, partition: &Partition) -> Option<String> {
        match (self.id, partition.uuid) {
            (_, Some(uuid)) => Some(uuid.to_string()),
            (Some(DiskId::Mbr(signature)), None) if signature != 0 => {
                Some(format!("{signature:08x}-{:02x}", partition.number))
            }
            _ => None,
        }
    }

    /// The Windows technique that lays volumes across the partitions, so that they are not the
    /// volumes themselves: [`Role::LdmData`] (dynamic disks) or [`Role::StorageSpaces`].
    #[must_use]
    pub fn volume_manager(&self) -> Option<Role> {
        let roles = self.partitions.iter().filter_map(|partition| partition.kind.role());
        roles
            .map(|role| if role == Role::LdmMetadata { Role::LdmData } else { role })
            .find(|role| matches!(role, Role::LdmData | Role::StorageSpaces))
    }

    fn find(disk: &dyn Disk, sector: u64, findings: &mut Findings) -> Result<Self> {
        let Some(first) = Block::read(disk, 0, mbr::BYTES)? else { return Ok(Self::none(sector)) };
        let mbr = Mbr::parse(first);
        if let Some(mbr) = mbr.as_ref().filter(|mbr| mbr.is_protective()) {
            return match find_gpt(disk, sector, Some(mbr))? {
                Some(gpt) => Ok(Self::of_gpt(disk, sector, &gpt, mbr.is_hybrid(), findings)),
                None => Err(Error::corrupt("GPT header", sector, "there is none, nor a backup")
                    .hint("the disk's first sector says there was one; gdisk may rebuild it")),
            };
        }
        // A disk that can be read only in part may still tell of its partitions.
        let volume = recognise(disk).ok().flatten().map(|volume| volume.kind);
        let partitioned = mbr.filter(|_| !volume.is_some_and(VolumeKind::has_boot_sector));
        // What a mere header without the sector that belongs before it is worth: no more than
        // what stands there instead of that sector.
        let gpt = find_gpt(disk, sector, None).ok().flatten();
        let stale = |gpt: Option<Gpt>, findings: &mut Findings| {
            let place = |gpt: Gpt| gpt.half().map(|half| half.lba.saturating_mul(gpt.sector));
            if let Some(offset) = gpt.and_then(place) {
                findings.add(
                    Severity::Note,
                    "gpt-stale",
                    offset,
                    "a GPT of former times is left on the disk",
                );
            }
        };
        match (partitioned, gpt) {
            (Some(mbr), gpt) if mbr.used().next().is_some() => {
                stale(gpt, findings);
                Self::of_mbr(disk, sector, &mbr, findings)
            }
            (_, gpt) if volume.is_some() => {
                stale(gpt, findings);
                Ok(Self::none(sector))
            }
            (_, Some(gpt)) => {
                findings.corruption(
                    "gpt-no-protective-mbr",
                    0,
                    "the first sector does not announce the GPT; most systems will not see it",
                );
                Ok(Self::of_gpt(disk, sector, &gpt, false, findings))
            }
            (Some(mbr), None) => Self::of_mbr(disk, sector, &mbr, findings),
            (None, None) => Ok(Self::none(sector)),
        }
    }

    fn none(sector_size: u64) -> Self {
        Self {
            kind: TableKind::None,
            sector_size,
            id: None,
            partitions: Vec::new(),
            findings: Vec::new(),
        }
    }

    fn of_gpt(
        disk: &dyn Disk,
        sector: u64,
        gpt: &Gpt,
        hybrid: bool,
        findings: &mut Findings,
    ) -> Self {
        if hybrid {
            findings.add(
                Severity::Note,
                "mbr-hybrid",
                0,
                "the MBR has partitions of its own beside the GPT, which counts",
            );
        }
        note_sector_size(gpt.sector, sector, findings);
        gpt.check(disk, findings);
        Self {
            kind: TableKind::Gpt { hybrid },
            sector_size: gpt.sector,
            id: gpt.id(),
            partitions: gpt.partitions(findings),
            findings: Vec::new(),
        }
    }

    fn of_mbr(disk: &dyn Disk, asked: u64, mbr: &Mbr, findings: &mut Findings) -> Result<Self> {
        let sector = mbr_sector_size(disk, asked, mbr);
        note_sector_size(sector, asked, findings);
        Ok(Self {
            kind: TableKind::Mbr,
            sector_size: sector,
            id: Some(DiskId::Mbr(mbr.signature)),
            partitions: mbr.partitions(disk, sector, findings)?,
            findings: Vec::new(),
        })
    }

    /// Partitions beyond the disk, over each other, or outside what holds them.
    fn check(&self, disk_len: u64, findings: &mut Findings) {
        for partition in self.partitions.iter().filter(|one| one.range().end > disk_len) {
            let Partition { number, start, len, .. } = partition;
            findings.corruption(
                "partition-beyond-disk",
                *start,
                format!("partition {number} ({len} bytes) reaches beyond the disk's {disk_len}"),
            );
        }
        let extended = |logical: &Partition| {
            self.partitions.iter().any(|outer| {
                outer.kind.role() == Some(Role::Extended)
                    && outer.start <= logical.start
                    && logical.range().end <= outer.range().end
            })
        };
        for stray in self.partitions.iter().filter(|one| one.logical && !extended(one)) {
            findings.corruption(
                "mbr-logical-outside",
                stray.start,
                format!("logical partition {} leaves the extended partition", stray.number),
            );
        }
        for logical in [false, true] {
            let mut row: Vec<&Partition> =
                self.partitions.iter().filter(|one| one.logical == logical).collect();
            row.sort_by_key(|partition| partition.start);
            let mut farthest: Option<&Partition> = None;
            for partition in row {
                if let Some(before) = farthest.filter(|before| before.range().end > partition.start)
                {
                    findings.corruption(
                        "partition-overlap",
                        partition.start,
                        format!("partitions {} and {} overlap", before.number, partition.number),
                    );
                }
                if farthest.is_none_or(|before| before.range().end < partition.range().end) {
                    farthest = Some(partition);
                }
            }
        }
    }
}

impl Partition {
    /// The bytes of the disk that it is said to take.
    #[must_use]
    pub fn range(&self) -> Range<u64> {
        self.start..self.start.saturating_add(self.len)
    }

    /// The partition as a disk. Where it reaches beyond the end of `disk`, it has what is there;
    /// a read behind that fails.
    ///
    /// # Errors
    /// [`Truncated`](ErrorKind::Truncated) where it begins beyond the end of `disk`.
    pub fn open(&self, disk: Arc<dyn Disk>) -> Result<Window> {
        if self.start >= disk.len() {
            let message = format!(
                "partition {} begins at byte {}, the disk ends at {}",
                self.number,
                self.start,
                disk.len()
            );
            return Err(Error::new(ErrorKind::Truncated, message)
                .at("partition", self.start)
                .hint("the image was cut, or is one of several that belong together"));
        }
        let range = self.range();
        let end = range.end.min(disk.len());
        Window::new(disk, range.start..end)
    }
}

impl TableKind {
    /// The name scripts see: `gpt`, `mbr`, `none`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Gpt { .. } => "gpt",
            Self::Mbr => "mbr",
            Self::None => "none",
        }
    }
}

impl fmt::Display for DiskId {
    /// The GUID, or the signature as `0x5b8a2f18`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpt(guid) => guid.fmt(f),
            Self::Mbr(signature) => write!(f, "{signature:#010x}"),
        }
    }
}

/// The GPT, which may count in sectors of another size than `sector`: a disk of 4096-byte sectors
/// copied to one of 512, or the other way round.
pub(crate) fn find_gpt(disk: &dyn Disk, sector: u64, mbr: Option<&Mbr>) -> Result<Option<Gpt>> {
    let mut failed = None;
    for size in [sector, SECTORS.into_iter().find(|other| *other != sector).unwrap_or(sector)] {
        match Gpt::read(disk, size, mbr) {
            Ok(Some(gpt)) => return Ok(Some(gpt)),
            Ok(None) => {}
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    failed.map_or(Ok(None), Err)
}

/// An MBR does not say in which sectors it counts. Where no partition begins with anything known
/// when counted as `asked`, and one does the other way, and all of them lie on the disk then, that
/// is the answer.
pub(crate) fn mbr_sector_size(disk: &dyn Disk, asked: u64, mbr: &Mbr) -> u64 {
    let range = |entry: &Entry, size: u64| {
        let start = u64::from(entry.first) * size;
        start..start + u64::from(entry.sectors) * size
    };
    let known = |size: u64| {
        mbr.used().any(|(_, entry)| {
            let range = range(entry, size);
            range.start > 0 && begins_with_volume(disk, range)
        })
    };
    let other = SECTORS.into_iter().find(|other| *other != asked).unwrap_or(asked);
    let fits = mbr.used().all(|(_, entry)| range(entry, other).end <= disk.len());
    if fits && !known(asked) && known(other) { other } else { asked }
}

fn note_sector_size(counts: u64, asked: u64, findings: &mut Findings) {
    if counts != asked {
        findings.add(
            Severity::Note,
            "table-sector-size",
            None,
            format!("the table counts in sectors of {counts} bytes, the disk's have {asked}"),
        );
    }
}
