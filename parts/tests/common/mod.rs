//! Disks made by programs that are not ours, and what those programs say of them.
#![allow(dead_code)] // each test uses some of it

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use vdisk_core::{Disk, Format};
use vdisk_testkit::tools::{arg, must, said, skip};

/// Whether all of these programs are there; else says so under the name `tool`.
pub(crate) fn there(tool: &str, programs: &[&str]) -> bool {
    programs.iter().all(|program| {
        let found = Command::new(program).arg("--version").output().is_ok();
        if !found {
            skip(tool, &format!("{program} is not there"));
        }
        found
    })
}

/// A file of `len` zeros.
pub(crate) fn blank(folder: &Path, name: &str, len: u64) -> PathBuf {
    let path = folder.join(name);
    std::fs::File::create(&path).unwrap().set_len(len).unwrap();
    path
}

/// The raw file as a disk.
pub(crate) fn open(path: &Path) -> Arc<dyn Disk> {
    Arc::new(vdisk::OpenOptions::new().format(Format::Raw).open(path).unwrap())
}

/// Partitions `device` as the script says.
pub(crate) fn sfdisk(device: &Path, script: &str) {
    let mut child = Command::new("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel", arg(device)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(script.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "{script}: {}", said(&done));
}

/// A file as a block device with sectors of a size; needs root.
pub(crate) struct Loop(pub(crate) PathBuf);

impl Loop {
    pub(crate) fn over(file: &Path, sector: u64) -> Option<Self> {
        let size = sector.to_string();
        let done = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", &size, arg(file)])
            .output();
        match done {
            Ok(done) if done.status.success() => {
                Some(Self(String::from_utf8_lossy(&done.stdout).trim().into()))
            }
            _ => {
                skip("loop", "losetup does not work");
                None
            }
        }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        must("losetup", &["--detach", arg(&self.0)]);
    }
}
