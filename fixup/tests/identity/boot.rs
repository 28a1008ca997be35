//! A disk's id stays where what starts Windows may name it and is not changed with it.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vdisk_fixup::{Machine, MachineDisk, Plan, StripOptions};
use vdisk_hive::ValueKind;
use vdisk_parts::DiskId;
use vdisk_testkit::VecDisk;
use vdisk_testkit::machines::{Part, assemble, esp};
use vdisk_testkit::tools::{arg, must};

use crate::common::original::{ELEMENT, SIGNATURE, mbr_element};
use crate::common::{self, Registry, Spec, X86, partition, windows_with_bcd};

/// A Windows XP whose volume has these files.
fn xp<'a>(files: &'a [(&'a str, &'a [u8])]) -> Spec<'a> {
    Spec { version: "5.1.2600", machine: X86, files, ..Spec::SMALL }
}

const MULTI: &[u8] = b"default=multi(0)disk(0)rdisk(0)partition(1)\\WINDOWS\r\n";
const SIGNED: &[u8] = b"default=Signature(5cbea03e)disk(0)rdisk(0)partition(1)\\WINDOWS\r\n";

/// A disk with a Windows whose boot configuration names the disk of this signature.
fn windows(folder: &Path, name: &str, spec: &Spec<'_>, signature: u32) -> Option<PathBuf> {
    let place = folder.join(name);
    fs::create_dir(&place).unwrap();
    windows_with_bcd(&place, spec, |_| {}, |bcd| names(bcd, signature))
}

fn names(bcd: &mut Registry, signature: u32) {
    bcd.set(ELEMENT, "Element", ValueKind::BINARY, &mbr_element(signature));
}

/// An active volume that holds one file.
fn active(folder: &Path, file: &Path, path: &str) -> PathBuf {
    let volume = esp(folder, &["Boot/fonts"]);
    must("mcopy", &["-o", "-i", arg(&volume), arg(file), &format!("::{path}")]);
    volume
}

/// A disk of its own for it, with this signature.
fn boot_disk(folder: &Path, file: &Path, path: &str) -> PathBuf {
    let (volume, disk) = (active(folder, file, path), folder.join("boot.raw"));
    let part = Part { kind: "c", more: "bootable", content: &volume };
    assemble(&disk, "dos", "0x0b001b00", &[part]);
    disk
}

/// Why the last of the disks keeps its id; none where it gets another one.
fn kept(disks: &[&Path]) -> Option<String> {
    let disk = |path: &&Path| MachineDisk::new(Arc::new(VecDisk(fs::read(path).unwrap())), 512);
    let mut machine = Machine::of_disks(disks.iter().map(disk).collect()).unwrap();
    let mut plan = Plan::default();
    let keep = ["windows.sid".to_owned()].into();
    let options = StripOptions { keep, ..StripOptions::default() };
    vdisk_fixup::strip(&mut machine, &options, &mut plan).unwrap();
    assert_eq!(plan.refusals, []);
    let warning = plan.warnings.iter().find(|one| one.id == "windows.disk-id");
    let id = machine.table(disks.len() - 1).unwrap().id;
    assert_eq!(id == Some(DiskId::Mbr(SIGNATURE)), warning.is_some(), "{warning:?}");
    warning.map(|warning| warning.message.clone())
}

fn assert_kept(disks: &[&Path], why: &str) {
    let kept = kept(disks).unwrap_or_else(|| panic!("another id, although {why}"));
    assert!(kept.contains(why), "{kept}");
}

#[test]
fn boot_configuration_on_another_disk_goes_on_naming_the_partition() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let folder = folder.path();
    let Some(own) = windows(folder, "own", &Spec::SMALL, SIGNATURE) else { return };
    assert_eq!(kept(&[&own]), None);
    let Some(other) = windows(folder, "other", &Spec::SMALL, 7) else { return };
    assert_kept(&[&other], "nothing on it is seen to start this Windows");

    let bcd = folder.join("own/BCD");
    let boot = boot_disk(folder, &bcd, "/Boot/BCD");
    assert_kept(&[&boot, &other], "what starts from disk 1 names it");
    assert_kept(&[&boot, &own], "what starts from disk 1 names it");
    let boot = boot_disk(folder, &folder.join("other/BCD"), "/Boot/BCD");
    assert_eq!(kept(&[&boot, &own]), None);
    fs::write(&bcd, [7; 4096]).unwrap();
    let boot = boot_disk(folder, &bcd, "/Boot/BCD");
    assert_kept(&[&boot, &own], "what starts from disk 1 cannot be told");
}

#[test]
fn boot_ini_may_name_the_disk_from_wherever_it_is() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let folder = folder.path();
    let Some(own) = windows(folder, "own", &xp(&[("boot.ini", MULTI)]), 7) else { return };
    assert_eq!(kept(&[&own]), None);
    let signed = windows(folder, "signed", &xp(&[("boot.ini", SIGNED)]), 7).unwrap();
    assert_kept(&[&signed], "boot.ini names it");
    let without = windows(folder, "without", &xp(&[]), SIGNATURE).unwrap();
    assert_kept(&[&without], "nothing on it is seen to start this Windows");

    let ini = folder.join("boot.ini");
    let root = folder.join("root");
    partition(&without, 1, &root);
    let with_active = |content: &[u8]| {
        fs::write(&ini, content).unwrap();
        let disk = folder.join("two.raw");
        let boot = active(folder, &ini, "/boot.ini");
        let parts = [
            Part { kind: "c", more: "bootable", content: &boot },
            Part { kind: "7", more: "", content: &root },
        ];
        assemble(&disk, "dos", common::SIGNATURE, &parts);
        disk
    };
    assert_eq!(kept(&[&with_active(MULTI)]), None);
    assert_kept(&[&with_active(SIGNED)], "boot.ini names it");
    let boot = boot_disk(folder, &ini, "/boot.ini");
    assert_kept(&[&boot, &own], "what starts from disk 1 names it");
}
