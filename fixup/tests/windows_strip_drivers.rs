//! What belongs to the old machine is switched off, for a reason, and leaves no filter behind.
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

use common::{Registry, Spec, assert_exactly, assert_ntfs_sound, cat, machine, partition, utf16};
use common::{windows, write_out};
use vdisk_fixup::{Identity, Machine, Plan, StripOptions, strip};

const SET: &str = "ControlSet001";

fn stripped(disk: &Path, keep: &[&str]) -> (Machine, Plan) {
    let mut machine = machine(disk);
    let mut plan = Plan::default();
    let keep = keep.iter().map(|one| (*one).to_owned()).collect();
    let options = StripOptions { identity: Identity::Keep, keep, ..StripOptions::default() };
    strip(&mut machine, &options, &mut plan).unwrap();
    (machine, plan)
}

/// Services that a plan switches off, with their rules.
fn switched_off(plan: &Plan) -> Vec<(String, String)> {
    let starts = plan.actions.iter().filter(|one| one.place.ends_with(": Start"));
    starts
        .inspect(|one| assert_eq!(one.after.as_deref(), Some("4")))
        .map(|one| (one.place.split(['\\', ':']).nth(3).unwrap().to_owned(), one.id.clone()))
        .collect()
}

fn by(company: &str) -> Vec<u8> {
    let mut bytes = b"MZ..".to_vec();
    bytes.extend(utf16("CompanyName").iter().chain(&[0, 0]).chain(&utf16(company)));
    bytes
}

fn device(system: &mut Registry, bus: &str, id: &str, service: &str) {
    system.text(&format!("{SET}\\Enum\\{bus}\\{id}\\1"), "Service", service);
}

fn judged(folder: &Path, disk: &Path, machine: &Machine, plan: &Plan, root: usize) {
    let after = folder.join("after.raw");
    write_out(machine, disk, &after);
    let (old, new) = (folder.join("old.ntfs"), folder.join("new.ntfs"));
    partition(disk, root, &old);
    partition(&after, root, &new);
    assert_ntfs_sound(&new);
    let hives = [folder.join("old.hive"), folder.join("new.hive")];
    cat(&old, "/Windows/System32/config/SYSTEM", &hives[0]);
    cat(&new, "/Windows/System32/config/SYSTEM", &hives[1]);
    assert_exactly(plan, "SYSTEM", &hives[0], &hives[1]);
    let (_, again) = stripped(&after, &[]);
    assert_eq!(again.actions, [], "a second run plans nothing");
}

#[test]
fn a_windows_10_of_vmware_leaves_its_tools() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = windows(folder.path(), &Spec::TEN, |_| {}) else { return };
    let (machine, plan) = stripped(&disk, &[]);
    assert_eq!(plan.refusals, []);
    let off = switched_off(&plan);
    let names: Vec<&str> = off.iter().map(|(name, _)| name.as_str()).collect();
    for name in ["vmci", "vsock", "VMTools", "vmrawdsk"] {
        assert!(names.contains(&name), "{name} in {names:?}");
    }
    assert!(off.iter().all(|(_, id)| id == "windows.tools"), "{off:?}");
    judged(folder.path(), &disk, &machine, &plan, 2);
    let keep = ["windows.tools", "windows.network", "windows.mounted-devices"];
    let (machine, plan) = stripped(&disk, &keep);
    assert_eq!(switched_off(&plan), [], "what is kept is kept");
    assert!(machine.changes().unwrap().is_empty());
}

#[test]
fn hardware_is_told_by_what_it_drives_and_who_made_it() {
    let folder = tempfile::tempdir().unwrap();
    let (intel, microsoft) = (by("Intel Corporation"), by("Microsoft Corporation"));
    let drivers = "Windows/System32/drivers";
    let names = ["iaStor", "own", "iaStorV", "filter"].map(|name| format!("{drivers}/{name}.sys"));
    let spec = Spec {
        system: None,
        version: "6.0.6002",
        files: &[
            (&names[0], &intel),
            (&names[1], &microsoft),
            (&names[2], &intel),
            (&names[3], &intel),
        ],
        ..Spec::SEVEN
    };
    let prepare = |system: &mut Registry| {
        for name in ["iaStor", "own", "iaStorV", "filter", "hpdskflt"] {
            system.driver(name, 0);
        }
        system.driver("intelppm", 3);
        system.driver("CqMgHost", 2);
        for (service, id) in [("iaStor", "1"), ("own", "2"), ("iaStorV", "3")] {
            device(system, "PCI", id, service);
        }
        // It drives something that is not of the machine as well.
        device(system, "PCI", "4", "filter");
        device(system, "USB", "5", "filter");
        let disks = format!("{SET}\\Control\\Class\\{{4D36E967-E325-11CE-BFC1-08002BE10318}}");
        system.texts(&disks, "LowerFilters", &["hpdskflt"]);
        system.texts(&disks, "UpperFilters", &["PartMgr", "iaStor", "strange"]);
        system.texts(&format!("{SET}\\Enum\\PCI\\1\\1"), "UpperFilters", &["HPDSKFLT", "other"]);
        let card = format!("{SET}\\Control\\Class\\{{4D36E972-E325-11CE-BFC1-08002BE10318}}\\0007");
        system.text(&card, "NetworkAddress", "020000000001");
        let card = format!("{SET}\\Services\\Tcpip\\Parameters\\Interfaces\\{{1}}");
        system.number(&card, "EnableDHCP", 0);
        system.texts(&card, "IPAddress", &["10.1.2.3"]);
    };
    let Some(disk) = windows(folder.path(), &spec, prepare) else { return };
    let (machine, plan) = stripped(&disk, &[]);
    let off = switched_off(&plan);
    let off: Vec<(&str, &str)> = off.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
    assert_eq!(
        off,
        [
            ("CqMgHost", "windows.agent"),
            ("hpdskflt", "windows.driver.hardware"),
            ("iaStor", "windows.driver.hardware"),
            ("intelppm", "windows.driver.processor"),
        ]
    );
    let filters: Vec<(Option<&str>, Option<&str>)> = plan
        .actions
        .iter()
        .filter(|one| one.id == "windows.driver.filter")
        .map(|one| (one.before.as_deref(), one.after.as_deref()))
        .collect();
    assert_eq!(
        filters,
        [
            (Some("hpdskflt"), None),
            (Some("HPDSKFLT; other"), Some("other")),
            (Some("PartMgr; iaStor; strange"), Some("PartMgr; strange")),
        ]
    );
    let place = |name: &str| plan.actions.iter().position(|one| one.place.ends_with(name)).unwrap();
    assert!(place("LowerFilters") < place("hpdskflt: Start"), "filters go first");
    assert!(plan.actions.iter().any(|one| one.id == "windows.network.address"));
    let warned: Vec<&str> = plan.warnings.iter().map(|one| one.id.as_str()).collect();
    assert_eq!(warned, ["windows.filter", "windows.network.fixed"]);
    judged(folder.path(), &disk, &machine, &plan, 1);
}
