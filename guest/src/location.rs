//! `IMAGE:PARTITION:/path`: a place inside an image, as people type it.

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vdisk_core::{Disk, Error, ErrorKind, Result};
use vdisk_parts::{Table, lvm};

/// A path in a volume of an image.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Location {
    /// The image file.
    pub image: PathBuf,
    /// The volume in it.
    pub volume: Place,
    /// The path in the volume; begins with `/`.
    pub path: Vec<u8>,
}

/// Where in an image a volume stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Place {
    /// The whole disk is the volume.
    Disk,
    /// The partition of that number, from 1.
    Partition(u32),
    /// A logical volume of LVM: its group and its name.
    Logical(String, String),
    /// A place on another disk of the machine, which are numbered from 0.
    OnDisk(usize, Box<Place>),
}

impl Location {
    /// Takes the text apart. A colon may be part of the image's name or of the path, so where the
    /// text can be read in several ways, the longest image name that `is_image` accepts counts.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where it can be read in no way.
    pub fn parse(text: &OsStr, is_image: impl Fn(&Path) -> bool) -> Result<Self> {
        let mut readings = readings(text.as_bytes());
        let best = readings.iter().rposition(|location| is_image(&location.image)).unwrap_or(0);
        if readings.is_empty() {
            return Err(Error::usage(format!("{} names no path in an image", text.display()))
                .hint("write IMAGE:PARTITION:/path, such as disk.vhdx:2:/Windows"));
        }
        Ok(readings.swap_remove(best))
    }
}

/// All ways to read it, shortest image name first.
fn readings(text: &[u8]) -> Vec<Location> {
    let mut found = Vec::new();
    for (colon, _) in text.iter().enumerate().filter(|(_, byte)| **byte == b':') {
        let (Some(image), Some(rest)) = (text.get(..colon), text.get(colon + 1..)) else {
            continue;
        };
        if image.is_empty() {
            continue;
        }
        let place_and_path = if rest.starts_with(b"/") {
            Some((Place::Disk, rest))
        } else {
            rest.iter().position(|byte| *byte == b':').and_then(|end| {
                let path = rest.get(end + 1..).filter(|path| path.starts_with(b"/"))?;
                Some((Place::parse(rest.get(..end)?)?, path))
            })
        };
        if let Some((volume, path)) = place_and_path {
            let image = OsString::from_vec(image.to_vec()).into();
            found.push(Location { image, volume, path: path.to_vec() });
        }
    }
    found
}

impl fmt::Display for Place {
    /// For people: `partition 2`, `volume vg/root`, `the disk`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Disk => f.write_str("the disk"),
            Self::Partition(number) => write!(f, "partition {number}"),
            Self::Logical(group, name) => write!(f, "volume {group}/{name}"),
            Self::OnDisk(disk, place) => write!(f, "{place} of disk {}", disk.saturating_add(1)),
        }
    }
}

impl Place {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        if text.is_empty() || text == "0" {
            return Some(Self::Disk);
        }
        if let Ok(number) = text.parse() {
            return Some(Self::Partition(number));
        }
        let (group, name) = text.split_once('/')?;
        let is_name = |name: &str| {
            !name.is_empty()
                && name.chars().all(|c| c.is_ascii_alphanumeric() || "+_.-".contains(c))
        };
        (is_name(group) && is_name(name)).then(|| Self::Logical(group.into(), name.into()))
    }

    /// The volume on `disk`, whose sectors have `sector_size` bytes.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such partition or logical volume; damage of the
    /// partition table or of LVM's metadata; the disk's.
    pub fn open(&self, disk: Arc<dyn Disk>, sector_size: u64) -> Result<Arc<dyn Disk>> {
        match self {
            Self::Disk => Ok(disk),
            Self::Partition(number) => {
                let table = Table::read(&*disk, sector_size)?;
                let found = table.partitions.iter().find(|partition| partition.number == *number);
                let partition = found.ok_or_else(|| {
                    let there: Vec<String> =
                        table.partitions.iter().map(|one| one.number.to_string()).collect();
                    let hint = if there.is_empty() {
                        "it has no partitions; for a file system on the whole disk leave the \
                         number out: IMAGE:/path"
                            .to_owned()
                    } else {
                        format!("it has: {}", there.join(", "))
                    };
                    Error::new(ErrorKind::NotFound, format!("there is no partition {number}"))
                        .hint(hint)
                })?;
                Ok(Arc::new(partition.open(disk)?))
            }
            Self::Logical(group, name) => {
                let members = members(&disk, sector_size)?.into_iter();
                let disks: Vec<Arc<dyn Disk>> = members.map(|(_, disk)| disk).collect();
                Ok(Arc::new(logical(&disks, group, name)?))
            }
            Self::OnDisk(..) => {
                Err(Error::new(ErrorKind::NotFound, format!("{self} is on another disk")))
            }
        }
    }
}

/// What of a disk may be a physical volume, and the byte of the disk at which it begins.
///
/// # Errors
/// Damage of the partition table; the disk's.
pub fn members(disk: &Arc<dyn Disk>, sector_size: u64) -> Result<Vec<(u64, Arc<dyn Disk>)>> {
    let table = Table::read(&**disk, sector_size)?;
    let mut members = vec![(0, disk.clone())];
    for partition in &table.partitions {
        members.push((partition.start, Arc::new(partition.open(disk.clone())?)));
    }
    Ok(members)
}

/// The logical volume `name` of `group`, whose physical volumes are among `disks`.
///
/// # Errors
/// [`ErrorKind::NotFound`] where it is not there, or a disk is missing; damage of LVM's metadata;
/// the disks'.
pub fn logical(disks: &[Arc<dyn Disk>], group: &str, name: &str) -> Result<lvm::LogicalVolume> {
    let groups = lvm::scan(disks)?;
    let found = groups.iter().find(|one| one.name() == group).ok_or_else(|| {
        let there: Vec<&str> = groups.iter().map(lvm::VolumeGroup::name).collect();
        Error::new(ErrorKind::NotFound, format!("there is no volume group {group}"))
            .hint(format!("volume groups there: {}", there.join(", ")))
    })?;
    found.open(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str, images: &[&str]) -> Option<(String, Place, String)> {
        let is_image = |path: &Path| images.contains(&path.to_str().unwrap());
        let found = Location::parse(OsStr::new(text), is_image).ok()?;
        let path = String::from_utf8(found.path).unwrap();
        Some((found.image.to_str().unwrap().to_owned(), found.volume, path))
    }

    #[test]
    fn parts_are_told_apart() {
        let some =
            |image: &str, place, path: &str| Some((image.to_owned(), place, path.to_owned()));
        assert_eq!(parse("a.vhd:2:/x", &[]), some("a.vhd", Place::Partition(2), "/x"));
        assert_eq!(parse("a.vhd:/x", &[]), some("a.vhd", Place::Disk, "/x"));
        assert_eq!(parse("a.vhd:0:/x", &[]), some("a.vhd", Place::Disk, "/x"));
        assert_eq!(parse("a.vhd::/", &[]), some("a.vhd", Place::Disk, "/"));
        let logical = Place::Logical("vg-0".into(), "root".into());
        assert_eq!(parse("a:vg-0/root:/etc", &[]), some("a", logical, "/etc"));
        // Colons in the path, and in the image's name.
        assert_eq!(parse("a:1:/b:/c", &[]), some("a", Place::Partition(1), "/b:/c"));
        assert_eq!(parse("a:1:/b:/c", &["a:1"]), some("a:1", Place::Disk, "/b:/c"));
        assert_eq!(parse("a:b.img:3:/c", &["a:b.img"]), some("a:b.img", Place::Partition(3), "/c"));
        for wrong in ["", "a", "a:", "a:1", ":/c", "a:1:c"] {
            assert_eq!(parse(wrong, &[]), None, "{wrong}");
        }
    }
}
