//! Disks with a machine on them, made by the programs of the field: partitions by sfdisk, file
//! systems by their own makers, Windows' registry from the corpus.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::loops::Loop;
use crate::tools::{arg, must, said, skip};

const MIB: u64 = 1 << 20;

/// Partition types of GPT: an EFI system partition.
pub const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
/// A Linux file system.
pub const LINUX: &str = "0FC63DAF-8483-4772-8E79-3D69D8477DE4";
/// A file system of Windows.
pub const DATA: &str = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";
/// A physical volume of LVM2.
pub const LVM: &str = "E6D6D379-F507-44C2-A23C-238F2A3DF928";
/// The identity of GPT disks that are made here.
pub const DISK: &str = "AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE";

/// A partition of a disk to make.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// Its type, as sfdisk takes it.
    pub kind: &'a str,
    /// More for sfdisk, such as `bootable` or `name=root`.
    pub more: &'a str,
    /// What it holds.
    pub content: &'a Path,
}

/// Makes `disk` with a table (`gpt` or `dos`, with this identity) and its partitions, one after
/// another from the first MiB on. Where an MBR has more than four, the fourth on are logical ones,
/// numbered from 5.
///
/// # Panics
/// Where sfdisk does not work.
pub fn assemble(disk: &Path, table: &str, id: &str, parts: &[Part<'_>]) {
    let made = assemble_in(512, disk, table, id, parts);
    assert!(made, "sectors of 512 bytes need nothing of this machine");
}

/// The same in sectors of a size; `false` where this machine has no loop devices, and the sectors
/// are not those of a file.
///
/// # Panics
/// As [`assemble`].
pub fn assemble_in(sector: u64, disk: &Path, table: &str, id: &str, parts: &[Part<'_>]) -> bool {
    let primary = if table == "dos" && parts.len() > 4 { 3 } else { parts.len() };
    let length =
        |part: &Part<'_>| fs::metadata(part.content).expect("content").len().next_multiple_of(MIB);
    let mut script = format!("label: {table}\nlabel-id: {id}\nunit: sectors\n");
    let mut at = MIB;
    let mut places = Vec::new();
    for (index, part) in parts.iter().enumerate() {
        let len = length(part);
        let mut number = index + 1;
        if index >= primary {
            if index == primary {
                let all: u64 = parts.iter().skip(primary).map(|part| length(part) + MIB).sum();
                script += &format!("4 : start={}, size={}, type=5\n", at / sector, all / sector);
            }
            number += 1;
            // Its own small table stands before it.
            at += MIB;
        }
        let (start, size) = (at / sector, len / sector);
        script += &format!("{number} : start={start}, size={size}, type={}", part.kind);
        script += &format!("{}{}\n", if part.more.is_empty() { "" } else { ", " }, part.more);
        places.push(at);
        at += len;
    }
    let file = fs::File::create(disk).expect("disk");
    file.set_len(at + MIB).expect("length");
    if sector == 512 {
        sfdisk(disk, &script);
    } else {
        let size = sector.to_string();
        let Some(device) = Loop::attach(disk, &["--sector-size", &size]) else { return false };
        sfdisk(&device.path, &script);
    }
    for (part, at) in parts.iter().zip(places) {
        copy_sparse(part.content, &file, at);
    }
    true
}

/// Partitions `device` as the script says.
fn sfdisk(device: &Path, script: &str) {
    let mut child = Command::new("sfdisk")
        .args(["--quiet", "--no-reread", "--no-tell-kernel", arg(device)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("sfdisk");
    let mut input = child.stdin.take().expect("stdin");
    std::io::Write::write_all(&mut input, script.as_bytes()).expect("script");
    drop(input);
    let done = child.wait_with_output().expect("sfdisk");
    assert!(done.status.success(), "{script}: {}", said(&done));
}

/// Copies a file to byte `at` of another, which has zeros there.
fn copy_sparse(from: &Path, to: &fs::File, at: u64) {
    let from = fs::File::open(from).expect("content");
    let mut piece = vec![0; 65536];
    let mut done = 0;
    loop {
        let len = from.read_at(&mut piece, done).expect("read");
        if len == 0 {
            return;
        }
        if piece[..len].iter().any(|byte| *byte != 0) {
            to.write_all_at(&piece[..len], at + done).expect("write");
        }
        done += len as u64;
    }
}

/// Whether all of these programs are there; says that a test was left out where not.
#[must_use]
pub fn programs(names: &[&str]) -> bool {
    names.iter().all(|name| {
        let found = Command::new("sh").args(["-c", &format!("command -v {name}")]).output();
        let there = found.is_ok_and(|done| done.status.success());
        if !there {
            skip(name, "it is not installed");
        }
        there
    })
}

/// An EFI system partition (FAT32) with these files, empty but for their names.
///
/// # Panics
/// Where dosfstools or mtools do not work.
#[must_use]
pub fn esp(folder: &Path, files: &[&str]) -> PathBuf {
    let image = folder.join("esp.part");
    sized(&image, 40);
    must("mkfs.vfat", &["-F", "32", "-s", "1", "-n", "SYSTEM", "-i", "ABCD1234", arg(&image)]);
    let stub = folder.join("stub");
    fs::write(&stub, "MZ").expect("stub");
    for file in files {
        let mut path = String::from("::");
        let (folders, _) = file.rsplit_once('/').expect("a folder");
        for name in folders.split('/') {
            path += &format!("/{name}");
            // What exists already is no failure.
            drop(Command::new("mmd").args(["-D", "s", "-i", arg(&image), &path]).output());
        }
        must("mcopy", &["-i", arg(&image), arg(&stub), &format!("::/{file}")]);
    }
    image
}

/// Makes the links that a Windows has in its volume.
const WINDOWS_LINKS: &str = include_str!("windows_links.py");

/// An NTFS volume of `mib` MiB with the tree `source` in it, and where that is a Windows, the links
/// that every Windows has; none where FUSE does not work.
///
/// # Panics
/// Where mkntfs does not work.
#[must_use]
pub fn ntfs(folder: &Path, mib: u64, source: &Path) -> Option<PathBuf> {
    let image = folder.join("ntfs.part");
    sized(&image, mib);
    must("mkntfs", &["-q", "-F", "-p", "0", "-H", "255", "-S", "63", "-L", "Windows", arg(&image)]);
    let target = folder.join("mounted");
    fs::create_dir_all(&target).expect("folder");
    let done = Command::new("ntfs-3g").args([arg(&image), arg(&target)]).output().expect("ntfs-3g");
    if !done.status.success() {
        skip("ntfs-3g", &said(&done));
        return None;
    }
    must("cp", &["-r", "--sparse=never", &format!("{}/.", arg(source)), arg(&target)]);
    if source.join("Windows/System32").is_dir() {
        must("python3", &["-c", WINDOWS_LINKS, arg(&target)]);
    }
    must("umount", &[arg(&target)]);
    // FUSE lets go of the image a moment after the unmount.
    while Command::new("fuser").arg(&image).output().is_ok_and(|done| done.status.success()) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    Some(image)
}

/// An ext4 volume of `mib` MiB with the tree `source` in it.
///
/// # Panics
/// Where mke2fs does not work.
#[must_use]
pub fn ext4(folder: &Path, mib: u64, source: &Path) -> PathBuf {
    let image = folder.join("ext4.part");
    sized(&image, mib);
    let uuid = "11111111-2222-3333-4444-555555555555";
    must(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-L", "root", "-U", uuid, "-d", arg(source), arg(&image)],
    );
    image
}

fn sized(image: &Path, mib: u64) {
    fs::File::create(image).and_then(|file| file.set_len(mib * MIB)).expect("image");
}

/// Unpacks the hives of a Windows 7 into `root`, with a program head in place of the kernel; what
/// they say is in `MANIFEST.tsv` of the corpus.
///
/// # Panics
/// Where the corpus lacks one of them.
pub fn windows_tree(corpus: &Path, root: &Path) {
    let config = root.join("Windows/System32/config");
    fs::create_dir_all(&config).expect("folder");
    for (name, hive) in [
        ("SYSTEM", "hive_SYSTEM_win7sp1_plaso.hive"),
        ("SOFTWARE", "hive_SOFTWARE_win7sp1_plaso.hive"),
        ("SAM", "hive_SAM_win7_plaso.hive"),
        ("SECURITY", "hive_SECURITY_dfwinreg.hive"),
    ] {
        hive_to(corpus, hive, &config.join(name));
    }
    let mut kernel = vec![0; 512];
    kernel[0x3c] = 0x80;
    kernel[0x80..0x86].copy_from_slice(b"PE\0\0\x4c\x01");
    fs::write(root.join("Windows/System32/ntoskrnl.exe"), kernel).expect("kernel");
}

/// Unpacks a hive of the corpus.
///
/// # Panics
/// Where it is not there.
pub fn hive_to(corpus: &Path, name: &str, target: &Path) {
    let output = fs::File::create(target).expect("hive");
    let packed = corpus.join(format!("{name}.xz"));
    let done = Command::new("xz")
        .args(["-dc", "--no-sparse"])
        .arg(&packed)
        .stdout(output)
        .status()
        .expect("xz");
    assert!(done.success(), "{}", packed.display());
}

/// The files by which a small Debian is known.
///
/// # Panics
/// Where they cannot be written.
pub fn linux_tree(root: &Path) {
    let write = |path: &str, content: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        fs::write(path, content).expect("file");
    };
    write(
        "usr/lib/os-release",
        b"PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\n",
    );
    write("etc/hostname", b"penguin\n");
    write("etc/machine-id", b"0123456789abcdef0123456789abcdef\n");
    write("etc/fstab", b"UUID=11111111-2222-3333-4444-555555555555 / ext4 rw 0 1\n");
    write("etc/cloud/cloud.cfg", b"");
    write("usr/sbin/update-initramfs", b"#!/bin/sh\n");
    write("usr/sbin/qemu-ga", b"\x7fELF");
    write("boot/grub/grub.cfg", b"");
    write("boot/vmlinuz-6.1.0-18-amd64", b"");
    write("boot/initrd.img-6.1.0-18-amd64", b"\x28\xb5\x2f\xfd");
    write("usr/lib/modules/6.1.0-18-amd64/modules.dep", b"");
    write("usr/lib/modules/6.1.0-9-amd64/modules.dep", b"");
    write("usr/bin/sh", b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x02\0\x3e\0");
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, root.join(name)).expect("link");
    };
    link("../usr/lib/os-release", "etc/os-release");
    link("/usr/share/zoneinfo/Europe/Berlin", "etc/localtime");
    link("usr/lib", "lib");
    link("usr/bin", "bin");
}
