//! Boot configuration data follows the ids of disk and partitions, and the EFI system partition
//! starts on a firmware that knows nothing of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::fs;
use std::path::Path;

use common::{Registry, Spec, assert_exactly, machine, partition, write_out};
use vdisk_fixup::windows::Hives;
use vdisk_fixup::windows::bcd::{PartitionId, retarget};
use vdisk_fixup::{AdaptOptions, Machine, Plan, Target, adapt};
use vdisk_guest::Place;
use vdisk_hive::{Hive, ValueKind};
use vdisk_testkit::tools::{arg, must};

const MANAGER: &str = "Objects\\{9dea862c-5cdd-4e70-acc1-f32b344d4795}\\Elements";
const LOADER: &str = "Objects\\{11111111-2222-3333-4444-555555555555}\\Elements";

/// Elements as a Windows 10 has them, for a partition told by these bytes of a GPT.
fn entries(bcd: &mut Registry) {
    let mut element = vec![0; 16];
    element.extend([6, 0, 0, 0, 0, 0, 0, 0, 0x48, 0, 0, 0, 0, 0, 0, 0]);
    element.extend([0x38; 16]);
    element.extend([0; 8]);
    element.extend([0xa9; 16]);
    element.extend([0; 16]);
    for (object, name) in [(MANAGER, "11000001"), (LOADER, "11000001"), (LOADER, "21000001")] {
        bcd.set(&format!("{object}\\{name}"), "Element", ValueKind::BINARY, &element);
    }
}

/// The disk of `spec`, with entries of another disk in its boot configuration data.
fn disk_of_a_clone(folder: &Path, spec: &Spec<'_>) -> Option<std::path::PathBuf> {
    common::windows_with_bcd(folder, spec, |_| {}, entries)
}

fn adapted(disk: &Path, target: Target) -> (Machine, Plan) {
    let mut machine = machine(disk);
    let mut plan = Plan::default();
    adapt(&mut machine, &AdaptOptions::new(target), &mut plan).unwrap();
    assert_eq!(plan.refusals, []);
    (machine, plan)
}

fn named(hive: &Path, element: &str) -> PartitionId {
    let hive = Hive::parse(fs::read(hive).unwrap()).unwrap();
    let value = hive.open(element).unwrap().unwrap().value("Element").unwrap().unwrap();
    PartitionId::find(&value.data().unwrap())[0].1
}

/// The boot configuration data of a disk's first partition, by mtools or ntfscat.
fn bcd_of(folder: &Path, disk: &Path, gpt: bool) -> std::path::PathBuf {
    let (part, bcd) = (folder.join("part"), folder.join(format!("{gpt}.bcd")));
    partition(disk, 1, &part);
    if gpt {
        must("mcopy", &["-n", "-i", arg(&part), "::/EFI/Microsoft/Boot/BCD", arg(&bcd)]);
    } else {
        common::cat(&part, "/Boot/BCD", &bcd);
    }
    bcd
}

#[test]
fn a_clone_on_a_gpt_disk_finds_its_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = disk_of_a_clone(folder.path(), &Spec::TEN) else { return };
    let (machine, plan) = adapted(&disk, Target::HyperVGen2);
    let after = folder.path().join("after.raw");
    write_out(&machine, &disk, &after);
    let other = tempfile::tempdir().unwrap();
    let (old, new) = (bcd_of(other.path(), &disk, true), bcd_of(folder.path(), &after, true));
    assert_exactly(&plan, "BCD", &old, &new);
    let PartitionId::Gpt { disk: id, partition } = named(&new, &format!("{LOADER}\\21000001"))
    else {
        panic!()
    };
    assert_eq!(id.to_string(), common::DISK.to_lowercase());
    assert_eq!(partition.to_string(), common::PARTITION);
    let manager = named(&new, &format!("{MANAGER}\\11000001"));
    assert!(matches!(manager, PartitionId::Gpt { partition: esp, .. } if esp != partition));
    // The loader of last resort is a copy of Windows' own.
    let esp = folder.path().join("part");
    let listed = must("mdir", &["-i", arg(&esp), "-b", "::/EFI/BOOT"]);
    assert!(listed.to_uppercase().contains("BOOTX64.EFI"), "{listed}");
    must("fsck.fat", &["-n", arg(&esp)]);
    assert!(plan.actions.iter().any(|one| one.id == "windows.esp.fallback"));
    let (again, second) = adapted(&after, Target::HyperVGen2);
    assert_eq!((second.actions, again.changes().unwrap()), (vec![], vec![]));
}

#[test]
fn a_clone_on_an_mbr_disk_finds_its_partition() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = disk_of_a_clone(folder.path(), &Spec::SEVEN) else { return };
    let (machine, _) = adapted(&disk, Target::HyperVGen1);
    let after = folder.path().join("after.raw");
    write_out(&machine, &disk, &after);
    let new = bcd_of(folder.path(), &after, false);
    let expected = PartitionId::Mbr { signature: 0x5cbe_a03e, start: 1 << 20 };
    for element in [format!("{LOADER}\\21000001"), format!("{MANAGER}\\11000001")] {
        assert_eq!(named(&new, &element), expected);
    }
}

#[test]
fn new_ids_are_carried_over() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = disk_of_a_clone(folder.path(), &Spec::SEVEN) else { return };
    let mut machine = machine(&disk);
    let mut plan = Plan::default();
    let mut hives = Hives::new(Place::Partition(1), "/Windows");
    let bcd = bcd_of(folder.path(), &disk, false);
    let old = named(&bcd, &format!("{LOADER}\\21000001"));
    let new = PartitionId::Mbr { signature: 7, start: 1 << 20 };
    retarget(&mut machine, &mut hives, &[(new, old), (old, new)], &mut plan).unwrap();
    hives.finish(&mut machine, &mut plan).unwrap();
    assert_eq!(plan.actions.iter().filter(|one| one.id == "windows.bcd").count(), 3);
    let after = folder.path().join("after.raw");
    write_out(&machine, &disk, &after);
    let bcd = bcd_of(folder.path(), &after, false);
    assert_eq!(named(&bcd, &format!("{LOADER}\\11000001")), new);
}
