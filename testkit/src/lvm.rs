//! LVM2's own tools over files, without the device mapper.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;

use crate::loops::Loop;
use crate::machines::programs;
use crate::tools::{arg, said};

/// Files as physical volumes, and a configuration that lets LVM2 see these only.
#[derive(Debug)]
pub struct Lvm {
    /// The files.
    pub files: Vec<PathBuf>,
    devices: Vec<Loop>,
    folder: TempDir,
}

impl Lvm {
    /// Blank files of these sizes, MiB; `None` where LVM2 or loop devices are missing.
    ///
    /// # Panics
    /// Where the files cannot be made.
    #[must_use]
    pub fn blank(sizes: &[u64]) -> Option<Self> {
        if !programs(&["pvcreate", "losetup"]) {
            return None;
        }
        let folder = tempfile::tempdir().expect("a folder");
        let blank = |(number, size): (usize, &u64)| {
            let path = folder.path().join(format!("pv{number}"));
            fs::File::create(&path).and_then(|file| file.set_len(size << 20)).expect("a file");
            path
        };
        let files: Vec<PathBuf> = sizes.iter().enumerate().map(blank).collect();
        let devices: Option<Vec<Loop>> = files.iter().map(|file| Loop::attach(file, &[])).collect();
        Some(Self { files, devices: devices?, folder })
    }

    /// The device over a file.
    ///
    /// # Panics
    /// Where there are fewer.
    #[must_use]
    pub fn device(&self, index: usize) -> &str {
        arg(&self.devices[index].path)
    }

    /// Runs one of LVM2's programs; what it printed.
    ///
    /// # Panics
    /// Where it fails.
    pub fn run(&self, program: &str, args: &[&str]) -> String {
        let device = |one: &Loop| format!("\"a|^{}$|\"", arg(&one.path));
        let filter: Vec<String> = self.devices.iter().map(device).collect();
        let config = format!(
            "devices {{ scan=\"/dev\" filter=[{},\"r|.*|\"] use_devicesfile=0 \
             obtain_device_list_from_udev=0 external_device_info_source=\"none\" }} \
             global {{ activation=0 use_lvmlockd=0 use_lvmpolld=0 event_activation=0 }} \
             activation {{ udev_sync=0 udev_rules=0 monitoring=0 }} \
             backup {{ backup=0 archive=0 }}",
            filter.join(",")
        );
        let done = Command::new(program)
            .env("LVM_SYSTEM_DIR", self.folder.path())
            .env("LVM_SUPPRESS_FD_WARNINGS", "1")
            .args(["--config", &config])
            .args(args)
            .output()
            .expect("LVM2");
        assert!(done.status.success(), "{program} {args:?}: {}", said(&done));
        String::from_utf8_lossy(&done.stdout).into_owned()
    }

    /// Makes all files one volume group with extents of 1 MiB, the first of which begins 1 MiB
    /// into each file.
    ///
    /// # Panics
    /// Where LVM2 fails.
    pub fn group(&self, name: &str) {
        let devices: Vec<&str> = (0..self.files.len()).map(|index| self.device(index)).collect();
        self.run("pvcreate", &[&["-ff", "-y", "-q"][..], &devices].concat());
        let group = ["-q", "--physicalextentsize", "1M", name];
        self.run("vgcreate", &[&group[..], &devices].concat());
    }

    /// Makes a logical volume; `more` says of what size and name.
    ///
    /// # Panics
    /// Where LVM2 fails.
    pub fn volume(&self, group: &str, more: &[&str]) {
        self.volume_on(group, more, &[]);
    }

    /// The same on these devices only.
    ///
    /// # Panics
    /// Where LVM2 fails.
    pub fn volume_on(&self, group: &str, more: &[&str], devices: &[&str]) {
        let fixed = ["-q", "-an", "-Zn", "-Wn", "-y"];
        self.run("lvcreate", &[&fixed[..], more, &[group], devices].concat());
    }

    /// Lets go of the devices; the files as they are now, in `folder`.
    ///
    /// # Panics
    /// Where they cannot be copied.
    #[must_use]
    pub fn finish(self, folder: &Path) -> Vec<PathBuf> {
        drop(self.devices);
        let copied = |(number, from): (usize, &PathBuf)| {
            let to = folder.join(format!("pv{number}.part"));
            fs::copy(from, &to).expect("a copy");
            to
        };
        self.files.iter().enumerate().map(copied).collect()
    }
}
