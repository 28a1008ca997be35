//! Files as disks of this machine.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::tools::{arg, said, skip};

/// A loop device over a file, which goes when it is dropped.
#[derive(Debug)]
pub struct Loop {
    /// Its device node.
    pub path: PathBuf,
}

impl Loop {
    /// Attaches `file`, with `more` arguments for losetup; `None` where this machine has no loop
    /// devices, which is said.
    ///
    /// # Panics
    /// Where losetup prints no path.
    #[must_use]
    pub fn attach(file: &Path, more: &[&str]) -> Option<Self> {
        let mut args = vec!["--find", "--show"];
        args.extend(more);
        args.push(arg(file));
        // Several tests may take the same free device at the same time: one of them gets it.
        for _ in 0..20 {
            match Command::new("losetup").args(&args).output() {
                Ok(done) if done.status.success() => {
                    let path = String::from_utf8(done.stdout).expect("a path");
                    return Some(Self { path: PathBuf::from(path.trim()) });
                }
                Ok(done) if said(&done).contains("busy") => {
                    std::thread::sleep(std::time::Duration::from_millis(50));
                }
                failed => {
                    skip("loop", &format!("losetup {args:?}: {failed:?}"));
                    return None;
                }
            }
        }
        panic!("losetup {args:?}: no device is free");
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        drop(Command::new("losetup").arg("--detach").arg(&self.path).status());
    }
}

/// What is mounted at a folder, unmounted when it is dropped.
#[derive(Debug)]
pub struct Mounted {
    /// Where.
    pub point: PathBuf,
}

impl Mounted {
    /// Mounts `device` at the folder `point`, which is made; `None` where that is not allowed.
    ///
    /// # Panics
    /// Where the folder cannot be made.
    #[must_use]
    pub fn new(device: &Path, point: &Path) -> Option<Self> {
        std::fs::create_dir_all(point).expect("folder");
        let done = Command::new("mount").args([arg(device), arg(point)]).output().expect("mount");
        if !done.status.success() {
            skip("loop", &format!("mount {}: {}", device.display(), said(&done)));
            return None;
        }
        Some(Self { point: point.to_owned() })
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        drop(Command::new("umount").arg(&self.point).status());
    }
}
