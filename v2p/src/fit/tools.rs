//! The programs of the host that change the size of file systems.

use std::path::Path;
use std::process::{Command, Stdio};

use vdisk::{Error, ErrorKind, Result};
use vdisk_parts::VolumeKind;

/// Whether a file system can be grown before it is mounted; else how it is.
pub(crate) fn grows(kind: VolumeKind) -> std::result::Result<(), String> {
    let (program, package) = match kind {
        VolumeKind::Ext2 | VolumeKind::Ext3 | VolumeKind::Ext4 => ("resize2fs", "e2fsprogs"),
        VolumeKind::Ntfs => ("ntfsresize", "ntfs-3g"),
        VolumeKind::Xfs => return Err("in the started system: xfs_growfs MOUNTPOINT".to_owned()),
        VolumeKind::Btrfs => {
            return Err("in the started system: btrfs filesystem resize max MOUNTPOINT".to_owned());
        }
        VolumeKind::Lvm2 => {
            return Err("in the started system: pvresize, then lvextend --resizefs".to_owned());
        }
        other => return Err(format!("no program is known that grows {}", other.name())),
    };
    if is_there(program) {
        Ok(())
    } else {
        Err(format!("{program} is not installed here (package {package})"))
    }
}

/// Fails unless a file system can be made smaller here.
pub(crate) fn insist_shrinks(number: u32, kind: Option<VolumeKind>) -> Result<()> {
    let name = kind.map_or("nothing known", VolumeKind::name);
    let program = match kind {
        Some(VolumeKind::Ext2 | VolumeKind::Ext3 | VolumeKind::Ext4) => "resize2fs",
        Some(VolumeKind::Ntfs) => "ntfsresize",
        _ => {
            return Err(Error::unsupported(format!(
                "partition {number} cannot be made smaller: no program is known that shrinks \
                 {name} offline"
            ))
            .hint("move its files to a smaller file system in the guest, or take a larger disk"));
        }
    };
    if is_there(program) {
        return Ok(());
    }
    Err(Error::unsupported(format!("{program}, which shrinks {name}, is not installed here")))
}

/// Makes the file system in the file `volume` at most `len` bytes long, and cuts the file.
pub(crate) fn shrink(number: u32, kind: Option<VolumeKind>, volume: &Path, len: u64) -> Result<()> {
    let name = volume.as_os_str();
    let done = match kind {
        Some(VolumeKind::Ntfs) => {
            let size = len.to_string();
            run("ntfsresize", &["-P".as_ref(), "-f".as_ref(), "-s".as_ref(), size.as_ref(), name])
        }
        _ => check_ext(volume).and_then(|()| {
            let size = format!("{}K", len / 1024);
            run("resize2fs", &[name, size.as_ref()])
        }),
    };
    done.map_err(|error| {
        Error::refused(format!("partition {number} could not be made smaller: {error}"))
            .hint("take a larger disk, or free more space in the guest")
    })?;
    let file = std::fs::OpenOptions::new().write(true).open(volume);
    file.and_then(|file| file.set_len(len).and_then(|()| file.sync_all()))
        .map_err(|error| Error::io(error, "cut it").in_file(volume))
}

/// Lets the file system that stands on `device` fill it.
pub(crate) fn grow(kind: Option<VolumeKind>, device: &Path) -> Result<()> {
    let name = device.as_os_str();
    match kind {
        Some(VolumeKind::Ntfs) => run("ntfsresize", &["-P".as_ref(), "-f".as_ref(), name]),
        _ => {
            check_ext(device)?;
            run("resize2fs", &[name])
        }
    }
}

/// resize2fs insists on a check just before.
fn check_ext(volume: &Path) -> Result<()> {
    run("e2fsck", &["-f".as_ref(), "-p".as_ref(), volume.as_os_str()])
}

fn is_there(program: &str) -> bool {
    let output = Command::new(program).arg("-V").stdin(Stdio::null()).output();
    output.is_ok()
}

/// Runs a program that says what is wrong where it fails.
pub(crate) fn run(program: &str, args: &[&std::ffi::OsStr]) -> Result<()> {
    output_of(program, args).map(drop)
}

/// What the program printed.
pub(crate) fn output_of(program: &str, args: &[&std::ffi::OsStr]) -> Result<String> {
    let done = Command::new(program)
        .args(args)
        .env("LC_ALL", "C")
        .stdin(Stdio::null())
        .output()
        .map_err(|error| Error::io(error, format_args!("run {program}")))?;
    // e2fsck: 1 says that something was mended, which is well.
    let well = done.status.success() || program == "e2fsck" && done.status.code() == Some(1);
    if well {
        return Ok(String::from_utf8_lossy(&done.stdout).into_owned());
    }
    let said =
        String::from_utf8_lossy(&done.stderr).into_owned() + &String::from_utf8_lossy(&done.stdout);
    let last: Vec<&str> = said.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let tail = last.iter().rev().take(3).rev().copied().collect::<Vec<_>>().join("; ");
    Err(Error::new(ErrorKind::Io, format!("{program} failed: {tail}")))
}
