//! A guest made of a few files, as a disk; and how its files are read back by e2fsprogs.

use std::fs::File;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use tempfile::{NamedTempFile, TempDir};
use vdisk_fixup::{AdaptOptions, Machine, Plan, StripOptions, Target, adapt, strip};
use vdisk_testkit::VecDisk;
use vdisk_testkit::tools::{arg, must, said, skip};

pub(crate) const START: u64 = 1 << 20;
pub(crate) const SIZE: u64 = 64 << 20;
pub(crate) const UUID: &str = "11111111-2222-3333-4444-555555555555";

/// A guest's files, before they become a disk.
pub(crate) struct Guest(pub(crate) TempDir);

impl Guest {
    /// What every Linux has here: a release, a kernel with two modules on files, an initramfs.
    pub(crate) fn new(id: &str) -> Self {
        let this = Self(tempfile::tempdir().unwrap());
        this.file("etc/os-release", &format!("ID={id}\nPRETTY_NAME=\"A Linux\"\n"));
        this.file("etc/fstab", "/dev/sda1 / ext4 defaults 0 1\n/dev/sdb1 /data ext4 noauto 0 0\n");
        this.file("boot/vmlinuz-6.1", "kernel");
        let modules = "lib/modules/6.1";
        this.file(
            &format!("{modules}/modules.dep"),
            "kernel/virtio_pci.ko: kernel/virtio.ko\nkernel/virtio.ko:\n\
             kernel/virtio_scsi.ko: kernel/virtio.ko\nkernel/hv_vmbus.ko:\nkernel/ahci.ko:\n",
        );
        this.file(&format!("{modules}/modules.builtin"), "kernel/sd_mod.ko\n");
        this.file(&format!("{modules}/modules.alias"), "alias pci:v00001AF4* virtio_pci\n");
        for name in ["virtio_pci", "virtio", "virtio_scsi", "hv_vmbus", "ahci"] {
            this.file(&format!("{modules}/kernel/{name}.ko"), name);
        }
        this
    }

    pub(crate) fn file(&self, path: &str, text: &str) {
        let path = self.0.path().join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// An initramfs with these files and one link, made by cpio and packed by a program.
    pub(crate) fn initramfs(&self, path: &str, files: &[(&str, &str)], packer: &[&str]) {
        let tree = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(tree.path().join("usr/lib")).unwrap();
        std::os::unix::fs::symlink("usr/lib", tree.path().join("lib")).unwrap();
        for (path, text) in files {
            let path = tree.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        let script = format!(
            "cd '{}' && find . | cpio -o -H newc --quiet | {}",
            arg(tree.path()),
            packer.join(" ")
        );
        let done = Command::new("sh").args(["-c", &script]).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
        std::fs::write(self.0.path().join(path), done.stdout).unwrap();
    }

    /// A disk with one partition.
    pub(crate) fn disk(&self) -> NamedTempFile {
        self.disk_with(&["-t", "ext4"])
    }

    /// The same, with a file system as mke2fs makes it with these options.
    pub(crate) fn disk_with(&self, options: &[&str]) -> NamedTempFile {
        let image = NamedTempFile::new().unwrap();
        image.as_file().set_len(START + SIZE).unwrap();
        let mut sfdisk = Command::new("sfdisk")
            .args(["-q", arg(image.path())])
            .stdin(Stdio::piped())
            .spawn()
            .unwrap();
        sfdisk
            .stdin
            .take()
            .unwrap()
            .write_all(b"label: dos\nstart=2048, type=83, bootable\n")
            .unwrap();
        assert!(sfdisk.wait().unwrap().success());
        let offset = format!("offset={START}");
        let blocks = format!("{}k", SIZE >> 10);
        let folder = arg(self.0.path());
        let args = ["-q", "-U", UUID, "-d", folder, "-E", &offset, arg(image.path()), &blocks];
        must("mke2fs", &[options, &args].concat());
        image
    }
}

pub(crate) fn machine(image: &Path) -> Machine {
    Machine::open(Arc::new(VecDisk(std::fs::read(image).unwrap())), 512).unwrap()
}

/// Carries the changes out.
pub(crate) fn carry_out(machine: &Machine, image: &Path) {
    let file = File::options().write(true).open(image).unwrap();
    for change in machine.changes().unwrap() {
        file.write_all_at(&change.bytes, change.offset).unwrap();
    }
    let volume = NamedTempFile::new().unwrap();
    let bytes = std::fs::read(image).unwrap();
    std::fs::write(volume.path(), &bytes[START as usize..]).unwrap();
    must("e2fsck", &["-fn", arg(volume.path())]);
}

/// A file as debugfs reads it; empty where there is none.
pub(crate) fn cat(image: &Path, path: &str) -> Vec<u8> {
    let place = format!("{}?offset={START}", arg(image));
    let request = format!("cat {path}");
    Command::new("debugfs").args(["-R", &request, &place]).output().unwrap().stdout
}

pub(crate) fn text(image: &Path, path: &str) -> String {
    String::from_utf8(cat(image, path)).unwrap()
}

pub(crate) fn adapted(image: &Path, target: Target) -> Plan {
    let mut machine = machine(image);
    let mut plan = Plan::default();
    adapt(&mut machine, &AdaptOptions::new(target), &mut plan).unwrap();
    if plan.refusals.is_empty() {
        carry_out(&machine, image);
    }
    plan
}

pub(crate) fn stripped(image: &Path, options: &StripOptions) -> Plan {
    let mut machine = machine(image);
    let mut plan = Plan::default();
    strip(&mut machine, options, &mut plan).unwrap();
    plan.refuse().unwrap();
    carry_out(&machine, image);
    plan
}

pub(crate) fn ids(plan: &Plan) -> Vec<&str> {
    plan.actions.iter().map(|action| action.id.as_str()).collect()
}

/// Whether the makers and judges are there.
pub(crate) fn tools() -> bool {
    ["mke2fs", "e2fsck", "debugfs", "sfdisk", "cpio"].iter().all(|tool| {
        let there = Command::new(tool).arg("-V").output().is_ok();
        if !there {
            skip(tool, "it makes or judges guests");
        }
        there
    })
}
