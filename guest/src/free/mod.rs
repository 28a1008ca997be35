//! What a guest does not use: the free space of its file systems, read from their own maps.
//!
//! A copy that leaves it out moves less. What is not known to be free counts as used: partitions
//! of unknown kinds, everything outside of partitions, what a file system keeps for itself. A map
//! that contradicts itself, or a volume that was not closed in order, is refused: the map of such a
//! volume may be older than its files.
//!
//! | file | reads |
//! | --- | --- |
//! | `ntfs.rs` | `$Bitmap` |
//! | `ext.rs` | the block bitmaps of ext2, ext3 and ext4 |
//! | `xfs.rs` | the free space B+ trees by block number |
//! | `lvm.rs` | where logical volumes stand, to look at the file systems on them |
//! | `fat.rs`, `exfat.rs` | the allocation table, the allocation bitmap |
//! | `swap.rs` | swap partitions and Linux's swap files, only where all of them may go |
//!
//! What they find goes to `runs.rs`, which bounds how much of it is remembered.

mod bits;
mod exfat;
mod ext;
mod fat;
mod field;
mod lvm;
mod ntfs;
mod runs;
mod swap;
mod xfs;

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::{Disk, Error, ErrorKind, Ranges, Result, Severity, Window};
use vdisk_parts::{Partition, Table, TableKind, VolumeKind, recognise};

pub use self::ntfs::has_shadow_copies;
use self::runs::Runs;
use crate::fs::{self, FsState};

/// Shortest run of free bytes worth leaving out.
const LEAST: u64 = 64 << 10;
/// Free runs start and end at multiples of this.
const GRAIN: u64 = 4096;

/// How much is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// What no file has.
    Free,
    /// That, and what the next start of the guest makes anew: swap partitions, and the content of
    /// Windows' page, swap and hibernation files, and of Linux's swap files on ext4
    /// and XFS.
    All,
}

/// What a guest does not use of its disk.
#[derive(Clone, Debug, Default)]
pub struct FreeSpace {
    /// Bytes of the disk.
    pub ranges: Ranges,
    /// Every volume that was looked at, in the order of the partition table.
    pub volumes: Vec<VolumeFree>,
}

/// What was found on one volume.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct VolumeFree {
    /// The partition's number; `None` for a disk without partitions, and for logical volumes.
    pub partition: Option<u32>,
    /// A logical volume's name: `GROUP/VOLUME`.
    pub volume: Option<String>,
    /// What stands there, as `inspect` names it; empty where nothing known does.
    pub kind: String,
    /// Bytes of the volume.
    pub len: u64,
    /// Bytes that are left out.
    pub free: u64,
    /// Why all of it is kept, where it is.
    pub kept: Option<String>,
}

/// Finds what the guest on `disk` does not use. `sector_size` is that of the disk, bytes.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) for a volume that was not closed in order, or a damaged
/// partition table; [`Corrupt`](ErrorKind::Corrupt) for a map that contradicts itself; the disk's.
pub fn free_space(disk: &Arc<dyn Disk>, sector_size: u64, scope: Scope) -> Result<FreeSpace> {
    let table = Table::read(&**disk, sector_size)?;
    let mut found = FreeSpace::default();
    if let Some(damage) = table.findings.iter().find(|one| one.severity == Severity::Corruption) {
        return Err(Error::refused(format!("the partition table is damaged: {}", damage.message))
            .hint("mend it first, or copy the disk whole, without --skip-free"));
    }
    if let Some(role) = table.volume_manager() {
        found.volumes.push(VolumeFree {
            kind: format!("{role:?}"),
            len: disk.len(),
            kept: Some("volumes lie across its partitions".to_owned()),
            ..VolumeFree::default()
        });
        return Ok(found);
    }
    let mut places: Vec<(Option<u32>, Range<u64>)> = Vec::new();
    if table.kind == TableKind::None {
        places.push((None, 0..disk.len()));
    }
    let partitions = table.partitions.iter().filter(|one| is_volume(one));
    places.extend(partitions.map(|one| (Some(one.number), one.range())));
    let (mut ranges, mut members) = (Runs::new(1, 1), Vec::new());
    for (partition, place) in places {
        let window: Arc<dyn Disk> = Arc::new(Window::new(disk.clone(), place.clone())?);
        if recognise(&*window)?.is_some_and(|volume| volume.kind == VolumeKind::Lvm2) {
            members.push((place.start, window));
            continue;
        }
        let len = window.len();
        let mut volume = VolumeFree { partition, len, ..VolumeFree::default() };
        let name = partition.map_or("the disk".to_owned(), |number| format!("partition {number}"));
        let free = measure(&window, &mut volume, scope).map_err(|error| of(&name, error))?;
        for run in &free {
            ranges.push(place.start + run.start..place.start + run.end);
        }
        found.volumes.push(volume);
    }
    found.volumes.extend(lvm::look(&members, scope, &mut ranges)?);
    found.ranges = ranges.finish();
    Ok(found)
}

/// Whether a volume may stand in the partition, rather than other partitions.
fn is_volume(partition: &Partition) -> bool {
    partition.kind.role() != Some(vdisk_parts::Role::Extended) && partition.len > 0
}

/// An error met on the volume called `name`.
fn of(name: &str, error: Error) -> Error {
    let hint = error.advice().map(str::to_owned);
    let outer = Error::new(error.kind(), format!("{name}: {error}")).caused_by(error);
    match hint {
        Some(hint) => outer.hint(hint),
        None => outer,
    }
}

/// The free runs of `disk`, which `volume` is about, and told there.
fn measure(disk: &Arc<dyn Disk>, volume: &mut VolumeFree, scope: Scope) -> Result<Ranges> {
    let kind = recognise(&**disk)?.map(|volume| volume.kind);
    volume.kind = kind.map_or("", VolumeKind::name).to_owned();
    let mut runs = Runs::new(GRAIN, LEAST);
    if let Err(why) = free_of(disk, kind, scope, &mut runs)? {
        volume.kept = Some(why);
        return Ok(Ranges::new());
    }
    let free = runs.finish();
    if let Some(run) = free.iter().find(|run| run.end > disk.len()) {
        let (end, len) = (run.end, disk.len());
        let message = format!("free space up to byte {end} of a volume of {len} bytes");
        return Err(Error::new(ErrorKind::Corrupt, message));
    }
    volume.free = free.total();
    Ok(free)
}

/// The free runs of a volume were found, or why all of it is kept.
type Found = std::result::Result<(), String>;

fn free_of(
    volume: &Arc<dyn Disk>,
    kind: Option<VolumeKind>,
    scope: Scope,
    free: &mut Runs,
) -> Result<Found> {
    let Some(kind) = kind else { return Ok(Err("nothing known stands there".to_owned())) };
    let disk = &**volume;
    let file_system = match kind {
        VolumeKind::Exfat => return exfat::free(disk, free),
        VolumeKind::Swap if scope == Scope::All => return swap::free(disk, free),
        VolumeKind::Swap => {
            return Ok(Err("swap space is left out only with --skip-free=all".to_owned()));
        }
        other => other,
    };
    let read: fn(&dyn Disk, Scope, &mut Runs) -> Result<Found> = match file_system {
        VolumeKind::Ntfs => ntfs::free,
        VolumeKind::Ext2 | VolumeKind::Ext3 | VolumeKind::Ext4 => {
            |disk, _, free| ext::free(disk, free).map(Ok)
        }
        VolumeKind::Xfs => |disk, _, free| xfs::free(disk, free).map(Ok),
        VolumeKind::Fat12 | VolumeKind::Fat16 | VolumeKind::Fat32 => {
            |disk, _, free| fat::free(disk, free).map(Ok)
        }
        other => return Ok(Err(format!("the free space of {} is not known", other.name()))),
    };
    let opened = match fs::open(volume.clone()) {
        Ok(Some(opened)) => opened,
        Ok(None) => return Ok(Err("how it was left is not known".to_owned())),
        Err(error) if error.kind() == ErrorKind::Unsupported => return Ok(Err(error.to_string())),
        Err(error) => return Err(error),
    };
    insist_clean(opened.info().state)?;
    let found = read(disk, scope, free)?;
    if found.is_ok() && scope == Scope::All && matches!(kind, VolumeKind::Ext4 | VolumeKind::Xfs) {
        swap::files(volume, &*opened, free)?;
    }
    Ok(found)
}

/// Fails unless the file system was closed in order.
fn insist_clean(state: FsState) -> Result<()> {
    let (why, way_out) = match state {
        FsState::Clean => return Ok(()),
        FsState::Journal => (
            "its journal holds work that was never done in place",
            "start the guest once and shut it down, or let its own tool replay the journal",
        ),
        FsState::Dirty => (
            "it was not closed in order",
            "start the guest once and shut it down, or check it with its own tool",
        ),
        FsState::Hibernated => (
            "Windows is hibernated on it, or was shut down with fast startup",
            "start it and shut it down with: shutdown /s /f /t 0",
        ),
    };
    Err(Error::refused(format!("what the file system does not use is not certain: {why}"))
        .hint(format!("{way_out}; or copy the disk whole, without --skip-free")))
}

/// A map that contradicts itself.
fn contradiction(structure: &'static str, offset: u64, message: impl Into<String>) -> Error {
    Error::corrupt(structure, offset, message).hint(
        "check the file system with its own tool, or copy the disk whole, without --skip-free",
    )
}
