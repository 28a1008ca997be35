//! An image's disk made to fit a real one of another size.

pub(crate) mod tools;

use std::path::Path;
use std::sync::Arc;

use vdisk::{Change, Disk, Error, NewImage, OpenOptions, Result, Watch};
use vdisk_core::Window;
use vdisk_guest::free::{Scope, free_space};
use vdisk_p2v::DiskInfo;
use vdisk_parts::{Edit, Partition, Table, TableKind, VolumeKind, recognise};

use crate::resized::{Resized, Spliced};

/// What a partition ends at, bytes.
const ALIGNMENT: u64 = 1 << 20;

/// What may be done to make a disk fit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FitOptions {
    /// Let the last partition, and the file system in it, reach to the end of a larger disk.
    pub grow: bool,
    /// Make the file system and partition that do not fit on a smaller disk smaller.
    pub shrink: bool,
}

/// How an image fits a disk.
#[derive(Debug)]
pub(crate) struct Fit {
    /// The disk as it shall be, but for `changes`.
    pub(crate) disk: Arc<dyn Disk>,
    /// What is written over that.
    pub(crate) changes: Vec<Change>,
    /// What is done, a sentence each.
    pub(crate) steps: Vec<String>,
    /// The file system that is grown once it is on the disk.
    pub(crate) grow: Option<u32>,
    /// The partition whose content stands in the scratch file, and where.
    pub(crate) shrunk: Option<Shrunk>,
}

/// A partition that was made smaller.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(crate) struct Shrunk {
    pub(crate) start: u64,
    pub(crate) end: u64,
}

/// Fails where a partition table counts in sectors of another size than the disk has.
pub(crate) fn insist_on_sectors(table: &Table, device: &DiskInfo) -> Result<()> {
    let (counts, has) = (table.sector_size, device.logical_sector_size);
    if table.kind == TableKind::None || counts == has {
        return Ok(());
    }
    let way_out = if has == 4096 {
        "take a disk with sectors of 512 bytes (512n or 512e), or one whose sectors can be set: \
         nvme format --lbaf, hdparm --set-sector-size"
    } else {
        "take a disk with sectors of 4096 bytes (4Kn)"
    };
    Err(Error::refused(format!(
        "the image's partition table and boot code count in sectors of {counts} bytes, the disk \
         has {has}: its firmware and systems would look for everything in the wrong places"
    ))
    .in_file(&device.path)
    .hint(way_out))
}

/// Plans how `disk` fits `device`. With [`FitOptions::shrink`] a copy of the partition is made
/// smaller in the file `scratch`.
pub(crate) fn fit(
    disk: Arc<dyn Disk>,
    sector: u64,
    device: &DiskInfo,
    options: FitOptions,
    scratch: &Path,
    watch: Watch<'_>,
) -> Result<Fit> {
    let table = Table::read(&*disk, sector)?;
    insist_on_sectors(&table, device)?;
    let (has, len) = (disk.len(), device.size);
    let mut fit = Fit {
        disk: Arc::new(Resized { base: disk.clone(), len }),
        changes: Vec::new(),
        steps: Vec::new(),
        grow: None,
        shrunk: None,
    };
    if table.kind == TableKind::None {
        if has > len {
            return Err(too_small(has, len, device)
                .hint("it has no partition table that would say how much of it is in use"));
        }
        return Ok(fit);
    }
    if has == len && !options.grow {
        return Ok(fit);
    }
    let mut edit = Edit::new(&*disk, sector)?;
    if has > len
        && let Some(partition) = beyond(&table, room(&table, len))
    {
        let end = room(&table, len) / ALIGNMENT * ALIGNMENT;
        if !options.shrink {
            return Err(too_small(has, len, device).hint(format!(
                "partition {} ends at byte {}; if its file system may be made smaller, add --shrink",
                partition.number,
                partition.range().end
            )));
        }
        shrink(&disk, partition, end, scratch, watch)?;
        edit.shrink(partition.number, end)?;
        fit.steps.push(format!(
            "partition {} and its file system are made smaller: {} bytes instead of {}",
            partition.number,
            end - partition.start,
            partition.len
        ));
        fit.shrunk = Some(Shrunk { start: partition.start, end });
    }
    edit.fit_to(len).map_err(|error| error.in_file(&device.path))?;
    if matches!(table.kind, TableKind::Gpt { .. }) && has != len {
        fit.steps.push("the backup of the partition table goes to the end of the disk".to_owned());
    }
    if options.grow && len > has {
        grow(&disk, &table, &mut edit, &mut fit)?;
    }
    fit.changes = edit.changes();
    if let Some(shrunk) = &fit.shrunk {
        fit.disk = with_scratch(disk, len, shrunk, scratch)?;
    }
    Ok(fit)
}

/// `disk` of length `len` with the content of `scratch` where the shrunk partition is.
pub(crate) fn with_scratch(
    disk: Arc<dyn Disk>,
    len: u64,
    shrunk: &Shrunk,
    scratch: &Path,
) -> Result<Arc<dyn Disk>> {
    let image = OpenOptions::new().format(vdisk::Format::Raw).open(scratch)?;
    let part = Arc::new(Resized { base: Arc::new(image), len: shrunk.end - shrunk.start });
    let base = Arc::new(Resized { base: disk, len });
    Ok(Arc::new(Spliced { base, part, at: shrunk.start..shrunk.end }))
}

fn too_small(has: u64, len: u64, device: &DiskInfo) -> Error {
    Error::refused(format!("the disk has {len} bytes, the image {has}")).in_file(&device.path)
}

/// Up to which byte partitions may reach on a disk of `len` bytes.
fn room(table: &Table, len: u64) -> u64 {
    let backup = match table.kind {
        // The header, and 128 entries of 128 bytes.
        TableKind::Gpt { .. } => table.sector_size + 16384,
        _ => 0,
    };
    len.saturating_sub(backup)
}

/// The partition that ends behind `room`; of several, the one that begins first.
fn beyond(table: &Table, room: u64) -> Option<&Partition> {
    let mut beyond: Vec<&Partition> =
        table.partitions.iter().filter(|one| one.range().end > room).collect();
    beyond.sort_by_key(|one| one.start);
    beyond.first().copied()
}

/// Makes a smaller copy of a partition in `scratch`.
fn shrink(
    disk: &Arc<dyn Disk>,
    partition: &Partition,
    end: u64,
    scratch: &Path,
    watch: Watch<'_>,
) -> Result<()> {
    let number = partition.number;
    if end <= partition.start {
        return Err(Error::refused(format!(
            "partition {number} begins behind the end of the smaller disk; partitions are not moved"
        )));
    }
    let window: Arc<dyn Disk> = Arc::new(partition.open(disk.clone())?);
    let kind = recognise(&*window)?.map(|volume| volume.kind);
    tools::insist_shrinks(number, kind)?;
    let free = free_space(&window, 512, Scope::Free).map_err(|error| {
        Error::refused(format!("partition {number} cannot be made smaller: {error}"))
    })?;
    vdisk::create(scratch, &NewImage::new(vdisk::Format::Raw, window.len()), true)?;
    let mut copy = OpenOptions::new().format(vdisk::Format::Raw).open_rw(scratch)?;
    let options =
        vdisk::CopyOptions { skip: Some(Arc::new(free.ranges)), ..vdisk::CopyOptions::default() };
    vdisk::copy_into(&*window, &mut copy, true, &options, watch)?;
    copy.close()?;
    tools::shrink(number, kind, scratch, end - partition.start)
}

fn grow(disk: &Arc<dyn Disk>, table: &Table, edit: &mut Edit<'_>, fit: &mut Fit) -> Result<()> {
    let Some(number) = edit.grow_last()? else { return Ok(()) };
    fit.steps.push(format!("partition {number} is made to reach to the end of the disk"));
    let partition = table.partitions.iter().find(|one| one.number == number);
    let range = partition.map(Partition::range).unwrap_or_default();
    let kind = recognise(&Window::new(disk.clone(), range)?)?.map(|volume| volume.kind);
    match kind.map_or_else(|| Err("nothing known stands in it".to_owned()), tools::grows) {
        Ok(()) => {
            fit.grow = Some(number);
            let name = kind.map_or("", VolumeKind::name);
            fit.steps.push(format!("its file system ({name}) is grown once it is on the disk"));
        }
        Err(why) => fit.steps.push(format!("what stands in it is not grown: {why}")),
    }
    Ok(())
}
