//! Holding still the file systems of a disk in use, while it is copied.
//!
//! What can be frozen is frozen (`fsfreeze`: what is in memory goes to the disk, the journal is
//! emptied, writers wait); what cannot, such as FAT, is remounted read-only. A guardian, a process
//! of its own, undoes all of that as soon as its standard input ends: when [`Frozen`] is dropped,
//! and as well when this program is killed.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::fs::FileType;
use serde::Serialize;
use vdisk::{Error, Result};

use crate::disks::{DiskInfo, Machine, Use};

/// Waits for the end of its input, then thaws: arguments that begin with `f` are mount points that
/// were frozen, those with `r` ones that were remounted.
const GUARDIAN: &str = r#"
trap '' INT TERM HUP
while read -r point; do :; done
for point in "$@"; do
    case $point in
    f*) fsfreeze -u "${point#f}" 2>/dev/null ;;
    r*) mount -o remount,rw "${point#r}" 2>/dev/null ;;
    esac
done
"#;

/// File systems that are held still until this is dropped.
#[derive(Debug)]
pub struct Frozen {
    /// How each was held.
    pub held: Vec<Held>,
    guardians: Vec<Child>,
}

/// A mounted file system of the disk.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Held {
    /// Where it is mounted.
    pub point: PathBuf,
    /// How it is held still.
    pub how: Hold,
}

/// How a file system is held still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Hold {
    /// Frozen.
    Frozen,
    /// Remounted read-only.
    Remounted,
    /// It was mounted read-only before.
    ReadOnly,
    /// Not at all: what is copied of it may be half changed.
    NotHeld,
}

impl Frozen {
    /// Holds still what is mounted of `disks`, and has what the host remembers of the disks' bytes
    /// read anew. `keep_out` must lie on none of the file systems, nor may standard error go to
    /// a file there: what is written to them waits until they are thawed.
    ///
    /// # Errors
    /// [`Refused`](vdisk::ErrorKind::Refused) where something is written to one of the disks; the
    /// host's.
    pub fn hold(disks: &[&DiskInfo], keep_out: &Path) -> Result<Self> {
        let mounts = mounts(disks);
        refuse_inside(&mounts, keep_out)?;
        refuse_told_inside(&mounts)?;
        let devices = Machine::default().mounted_at(mounts.iter().map(|(point, _)| &**point))?;
        let mut by_device: BTreeMap<String, Hold> = BTreeMap::new();
        let mut frozen = Self { held: Vec::new(), guardians: Vec::new() };
        // The innermost first, so that what lies deeper is not waited for.
        for ((point, read_only), device) in mounts.into_iter().zip(devices).rev() {
            // What is mounted in several places is held by any of them.
            let known = device.as_ref().and_then(|device| by_device.get(device)).copied();
            let how = match known {
                Some(how) => how,
                None if read_only => Hold::ReadOnly,
                None => frozen.hold_one(&point)?,
            };
            // One place that is read-only says nothing of the others.
            if let Some(device) = device.filter(|_| how != Hold::ReadOnly) {
                by_device.insert(device, how);
            }
            frozen.held.push(Held { point, how });
        }
        disks.iter().try_for_each(|disk| disk.forget_cached())?;
        Ok(frozen)
    }

    fn hold_one(&mut self, point: &Path) -> Result<Hold> {
        for (how, letter, program, args) in [
            (Hold::Frozen, "f", "fsfreeze", &["-f"][..]),
            (Hold::Remounted, "r", "mount", &["-o", "remount,ro"][..]),
        ] {
            // Its guardian comes first: from here on nothing can leave it frozen.
            let guardian = guardian(letter, point)
                .map_err(|error| Error::io(error, "start a guardian for what is frozen"))?;
            let done = Command::new(program)
                .args(args)
                .arg(point)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .status();
            if done.is_ok_and(|status| status.success()) {
                self.guardians.push(guardian);
                return Ok(how);
            }
            dismiss(guardian);
        }
        Ok(Hold::NotHeld)
    }
}

impl Drop for Frozen {
    fn drop(&mut self) {
        for guardian in self.guardians.drain(..).rev() {
            let mut guardian = guardian;
            drop(guardian.stdin.take());
            // It ends by itself; waiting makes sure that it has thawed.
            let _ = guardian.wait();
        }
    }
}

fn guardian(letter: &str, point: &Path) -> io::Result<Child> {
    let mut tagged = std::ffi::OsString::from(letter);
    tagged.push(point);
    Command::new("sh")
        .args(["-c", GUARDIAN, "guardian"])
        .arg(tagged)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
}

/// Ends a guardian that has nothing to guard.
fn dismiss(mut guardian: Child) {
    let _ = guardian.kill();
    let _ = guardian.wait();
}

/// Where the file systems of the disks are mounted, outermost first, and whether read-only.
fn mounts(disks: &[&DiskInfo]) -> Vec<(PathBuf, bool)> {
    let mut mounts: Vec<(PathBuf, bool)> = disks
        .iter()
        .flat_map(|disk| disk.all_uses())
        .filter_map(|(_, one)| match one {
            Use::Mount { point, read_only, .. } => Some((point.clone(), *read_only)),
            _ => None,
        })
        .collect();
    mounts.sort();
    mounts.dedup();
    mounts
}

/// Fails where what this program tells meanwhile, on standard error, goes to a file on what is to be
/// frozen: the next word would wait for the thaw, and the thaw for this program.
fn refuse_told_inside(mounts: &[(PathBuf, bool)]) -> Result<()> {
    let told = rustix::fs::fstat(io::stderr()).ok();
    let file = told.filter(|found| FileType::from_raw_mode(found.st_mode).is_file());
    let Some(device) = file.map(|found| found.st_dev) else { return Ok(()) };
    let inside = |point: &Path| point.metadata().is_ok_and(|found| found.dev() == device);
    match mounts.iter().find(|(point, _)| inside(point)) {
        Some((point, _)) => Err(Error::refused(format!(
            "what is told goes to a file on the disk that is copied, mounted at {}",
            point.display()
        ))
        .hint("have it go to the terminal, or to a file on another disk")),
        None => Ok(()),
    }
}

/// Fails where the image would be written to what is to be frozen.
fn refuse_inside(mounts: &[(PathBuf, bool)], keep_out: &Path) -> Result<()> {
    let own = Machine::default().mount_of(keep_out)?;
    match mounts.iter().find(|(point, _)| Some(point) == own.as_ref()) {
        Some((point, _)) => Err(Error::refused(format!(
            "the image would be written to the disk that is copied, mounted at {}",
            point.display()
        ))
        .in_file(keep_out)
        .hint("write it to another disk, or to a share")),
        None => Ok(()),
    }
}
