//! By which rules a disk may be overwritten.

use std::ffi::OsStr;

use vdisk::{Error, ErrorKind, Result};
use vdisk_p2v::{DiskInfo, Machine};

/// Devices that stand on others, or cannot hold a machine.
const NO_TARGETS: [&str; 6] = ["ram", "zram", "dm-", "md", "sr", "fd"];

/// The disk that the user means, if it may be overwritten at all: a whole disk that can be written
/// to, that nothing uses, and that the running system does not stand on.
///
/// # Errors
/// [`NotFound`](ErrorKind::NotFound), [`Refused`](ErrorKind::Refused),
/// [`InUse`](ErrorKind::InUse).
pub fn choose(machine: &Machine, name: &OsStr) -> Result<DiskInfo> {
    let found = machine.find(name)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "is no disk of this machine")
            .in_file(name)
            .hint("name a disk by its path or serial number; see: vdisk p2v --list")
    })?;
    let refused = |why: &str, hint: &str| Err(Error::refused(why).in_file(&found.path).hint(hint));
    if NO_TARGETS.iter().any(|kind| found.name.starts_with(kind)) {
        return refused("is no whole disk", "name the disk; see: vdisk p2v --list");
    }
    if found.size == 0 {
        return refused("has no medium, or nothing is attached to it", "see: vdisk p2v --list");
    }
    if found.is_of_system() {
        return refused("is the disk that this system runs from", "start from another disk first");
    }
    if found.read_only {
        return refused("cannot be written to", "see to its write protection");
    }
    found
        .refuse_used()
        .map_err(|error| error.hint("unmount it and stop what uses it, then try again"))?;
    Ok(found)
}

/// Fails unless `given` is what the disk is confirmed by: its serial number, or its path where it
/// has none of its own.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused), with what to give.
pub fn confirm(disk: &DiskInfo, given: Option<&str>) -> Result<()> {
    let expected = disk.confirmation();
    if given == Some(expected.as_str()) {
        return Ok(());
    }
    let why = match given {
        None => "all that is on it would be lost".to_owned(),
        Some(given) if disk.shares_serial && disk.serial.as_deref() == Some(given) => {
            format!("another disk has the serial number {given}, too")
        }
        Some(given) => format!("it was confirmed as {given}, and is {expected}"),
    };
    Err(Error::refused(why)
        .in_file(&disk.path)
        .hint(format!("if that disk is meant, add --confirm '{expected}'")))
}
