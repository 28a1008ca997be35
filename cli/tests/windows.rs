//! A Windows through `p2v` and `v2p`, in both directions: hivex, regipy and ntfs-3g see what the
//! reports say, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;
#[path = "../../fixup/tests/common/mod.rs"]
mod guests;

use std::path::Path;
use std::process::Command;

use common::Place;
use guests::{Spec, assert_exactly, assert_ntfs_sound, cat, partition, windows};
use serde_json::Value;
use vdisk_fixup::Plan;
use vdisk_testkit::loops::Loop;
use vdisk_testkit::tools::{arg, must, sha256_file};
use vdisk_testkit::tree::{Tree, tree_on_host};

const MIB: u64 = 1 << 20;
const CONFIG: &str = "/Windows/System32/config";

/// The tree of an NTFS volume, as ntfs-3g mounts it.
fn tree(volume: &Path) -> Tree {
    let folder = tempfile::tempdir().unwrap();
    must("ntfs-3g", &["-o", "ro", arg(volume), arg(folder.path())]);
    // Links with a drive's letter lead to below where the volume is mounted.
    let tree = tree_on_host(folder.path()).into_iter();
    let tree = tree.map(|(path, node)| (path, node.replace(arg(folder.path()), "C:"))).collect();
    must("umount", &[arg(folder.path())]);
    while Command::new("fuser").arg(volume).output().is_ok_and(|done| done.status.success()) {
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    tree
}

/// Has others say whether two disks differ in what the plan names, and in nothing else.
fn judge(place: &Place, plan: &Value, before: &str, after: &str, root: usize) {
    let plan: Plan = serde_json::from_value(plan.clone()).unwrap();
    let volumes = ["before.ntfs", "after.ntfs"].map(|name| place.path(name));
    partition(&place.path(before), root, &volumes[0]);
    partition(&place.path(after), root, &volumes[1]);
    assert_ntfs_sound(&volumes[1]);
    let [old, new] = [tree(&volumes[0]), tree(&volumes[1])];
    for hive in ["SYSTEM", "SOFTWARE", "SAM", "SECURITY"] {
        let path = format!("{CONFIG}/{hive}");
        if !plan.actions.iter().any(|action| action.place.starts_with(&format!("{hive}\\"))) {
            assert_eq!(old[&path], new[&path], "no action names {hive}");
            continue;
        }
        let hives = ["before.hive", "after.hive"].map(|name| place.path(name));
        cat(&volumes[0], &path, &hives[0]);
        cat(&volumes[1], &path, &hives[1]);
        assert_exactly(&plan, hive, &hives[0], &hives[1]);
    }
    let config = CONFIG.to_owned() + "/";
    for path in old.keys().chain(new.keys()).filter(|path| old.get(*path) != new.get(*path)) {
        let named = |action: &vdisk_fixup::Action| {
            let place = action.place.replace('\\', "/");
            let hive = path.strip_prefix(&config);
            hive.is_some_and(|hive| place.starts_with(&format!("{hive}/")))
                || place.trim_start_matches('/') == &path[1..]
        };
        assert!(plan.actions.iter().any(named), "{path} changed, and no action says so");
    }
    volumes.iter().for_each(|volume| std::fs::remove_file(volume).unwrap());
}

/// From a disk to an image for `target`, with more options behind it where there are any, and from
/// that onto a larger disk.
fn there_and_back(spec: &Spec<'_>, root: usize, image: &str, target: &str, device: bool) {
    let place = Place::new();
    if windows(&place.path(""), spec, |_| {}).is_none() {
        return;
    }
    let source = place.path("disk.raw");
    let before = sha256_file(&source);
    let attached = if device {
        let Some(attached) = Loop::attach(&source, &[]) else { return };
        Some(attached)
    } else {
        None
    };
    let from = attached.as_ref().map_or("-f raw disk.raw", |attached| arg(&attached.path));
    let line = format!("p2v {from} {image} --target {target}");
    let shown = place.run(&format!("{line} --dry-run --output json")).code(0).json();
    let done = place.run(&format!("{line} --output json")).fails(0, &["keeps its identity"]).json();
    drop(attached);
    assert_ne!(done["disks"][0]["plan"]["actions"], serde_json::json!([]), "{target}");
    assert_eq!(done["disks"][0]["plan"]["actions"], shown["actions"], "as the dry run said");
    assert_eq!(sha256_file(&source), before, "the source was written to");
    place.run(&format!("check {image}")).code(0);
    place.run(&format!("convert {image} captured.raw")).ok();
    judge(&place, &done["disks"][0]["plan"], "disk.raw", "captured.raw", root);

    let file = std::fs::File::create(place.path("target")).unwrap();
    file.set_len(source.metadata().unwrap().len() + 32 * MIB).unwrap();
    let Some(device) = Loop::attach(&place.path("target"), &[]) else { return };
    let path = arg(&device.path);
    let digest = sha256_file(&place.path(image));
    let done =
        place.run(&format!("v2p {image} {path} --confirm {path} --output json")).code(0).json();
    drop(device);
    assert_eq!(done["verified"], true);
    assert_eq!(sha256_file(&place.path(image)), digest, "the image was written to");
    must("sfdisk", &["--verify", arg(&place.path("target"))]);
    judge(&place, &done["plan"], "captured.raw", "target", root);
}

#[test]
fn windows_7_by_way_of_vhdx() {
    there_and_back(&Spec::SEVEN, 1, "vm.vhdx", "hyper-v-gen1", true);
}

#[test]
fn windows_7_by_way_of_vhd() {
    there_and_back(&Spec::SEVEN, 1, "vm.vhd", "hyper-v-gen1", false);
}

#[test]
fn windows_7_by_way_of_vmdk() {
    let powershell = "Windows/System32/WindowsPowerShell/v1.0/powershell.exe";
    let spec = Spec { files: &[(powershell, b"MZ")], ..Spec::SEVEN };
    let target = "vmware --keep-network=10.3.58.5 --purge-ghosts";
    there_and_back(&spec, 1, "vm.vmdk", target, false);
}

#[test]
fn windows_10_by_way_of_vhdx() {
    there_and_back(&Spec::TEN, 2, "vm.vhdx", "hyper-v-gen2", true);
}
