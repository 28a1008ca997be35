//! A Windows is adapted to every target; hivex, regipy and ntfs-3g see the planned changes and no
//! others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::Path;

use common::{
    Spec, X86, assert_exactly, assert_ntfs_sound, cat, machine, partition, windows, write_out,
};
use vdisk_fixup::{AdaptOptions, Plan, Target, adapt};

const SYSTEM: &str = "/Windows/System32/config/SYSTEM";

fn planned(disk: &Path, options: &AdaptOptions) -> (vdisk_fixup::Machine, Plan) {
    let mut machine = machine(disk);
    let mut plan = Plan::default();
    adapt(&mut machine, options, &mut plan).unwrap();
    (machine, plan)
}

/// Adapts, writes the disk out and has it judged; the plan.
fn adapted(folder: &Path, disk: &Path, options: &AdaptOptions, root: usize) -> Plan {
    let (machine, plan) = planned(disk, options);
    assert_eq!(plan.refusals, [], "{}", options.target.name());
    let after = folder.join("after.raw");
    write_out(&machine, disk, &after);
    let (old, new) = (folder.join("old.ntfs"), folder.join("new.ntfs"));
    partition(disk, root, &old);
    partition(&after, root, &new);
    assert_ntfs_sound(&new);
    let hives = [folder.join("old.hive"), folder.join("new.hive")];
    cat(&old, SYSTEM, &hives[0]);
    cat(&new, SYSTEM, &hives[1]);
    assert_exactly(&plan, "SYSTEM", &hives[0], &hives[1]);
    let (again, second) = planned(&after, options);
    assert_eq!(second.actions, [], "a second run plans nothing");
    assert_eq!(again.changes().unwrap(), []);
    plan
}

/// The drivers that a plan starts at boot.
fn started(plan: &Plan) -> Vec<String> {
    let mut names: Vec<String> = plan
        .actions
        .iter()
        .filter(|action| action.id == "windows.driver.start")
        .map(|action| action.place.split(['\\', ':']).nth(3).unwrap().to_owned())
        .collect();
    names.dedup();
    names
}

#[test]
fn windows_10_starts_everywhere_its_firmware_does() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = windows(folder.path(), &Spec::TEN, |_| {}) else { return };
    // It ran on VMware with SATA, NVMe and IDE; the others are off by StartOverride.
    let hyper_v = ["vmbus", "storvsc", "storflt"];
    let plan = adapted(folder.path(), &disk, &AdaptOptions::new(Target::HyperVGen2), 2);
    assert_eq!(started(&plan), hyper_v);
    for (target, names) in [
        (Target::Kvm, &["pciide"][..]),
        (Target::Vmware, &["LSI_SAS", "pciide"]),
        (Target::VirtualBox, &["LSI_SAS", "pciide"]),
        (Target::Physical, &["pciide", "LSI_SAS"]),
    ] {
        let (_, plan) = planned(&disk, &AdaptOptions::new(target));
        assert_eq!(started(&plan), names, "{}", target.name());
    }
    let (machine, plan) = planned(&disk, &AdaptOptions::new(Target::HyperVGen1));
    assert_eq!(plan.refusals[0].id, "windows.firmware");
    assert_eq!(machine.changes().unwrap(), [], "a refused plan changes nothing");
}

#[test]
fn windows_7_starts_everywhere_but_on_generation_2() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = windows(folder.path(), &Spec::SEVEN, |_| {}) else { return };
    let plan = adapted(folder.path(), &disk, &AdaptOptions::new(Target::HyperVGen1), 1);
    assert_eq!(started(&plan), ["pciide", "storvsc"]);
    for target in [Target::Kvm, Target::Vmware] {
        let (_, plan) = planned(&disk, &AdaptOptions::new(target));
        assert_eq!(started(&plan), ["msahci", "pciide"], "{}", target.name());
    }
    let (_, plan) = planned(&disk, &AdaptOptions::new(Target::HyperVGen2));
    let ids: Vec<&str> = plan.refusals.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(ids, ["windows.gen2.version", "windows.gen2.arch", "windows.firmware"]);
}

#[test]
fn xp_gets_ide_or_a_word() {
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec {
        system: None,
        version: "5.1.2600",
        machine: X86,
        drivers: &["atapi", "intelide", "pciide", "pciidex"],
        ..Spec::SEVEN
    };
    let prepare = |system: &mut common::Registry| {
        for (name, start) in [("atapi", 0), ("intelide", 4), ("pciide", 4)] {
            system.driver(name, start);
        }
    };
    let Some(disk) = windows(folder.path(), &spec, prepare) else { return };
    let plan = adapted(folder.path(), &disk, &AdaptOptions::new(Target::HyperVGen1), 1);
    assert_eq!(started(&plan), ["intelide", "pciide"]);
    let critical = plan.actions.iter().filter(|one| one.id == "windows.driver.critical-device");
    assert_eq!(critical.count(), 14, "seven devices with class and service");

    let bare = tempfile::tempdir().unwrap();
    let spec = Spec { drivers: &["atapi"], ..spec };
    let disk = windows(bare.path(), &spec, prepare).unwrap();
    let (_, plan) = planned(&disk, &AdaptOptions::new(Target::HyperVGen1));
    assert_eq!(plan.refusals[0].id, "windows.driver.none");
    assert!(plan.refusals[0].hint.as_ref().unwrap().contains("driver.cab"));
}
