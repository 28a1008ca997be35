//! A whole guest becomes another machine.

use std::fs;
use std::path::Path;
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use vdisk_fixup::{AdaptOptions, Identity, Plan, StripOptions, Target};
use vdisk_hive::{Hive, ValueKind};
use vdisk_testkit::tools::{arg, must};

use crate::common::exactly::Change;
use crate::common::original::{
    CONFIG, ELEMENT, OLD, SIGNATURE, TASK, gpt_element, mbr_element, mounted_as, original,
};
use crate::common::volume::{dressed, judge};
use crate::common::{
    DISK, PARTITION, Registry, Spec, cat, machine, partition, windows, windows_with_bcd, write_out,
};

fn strip(disk: &Path, options: &StripOptions) -> (vdisk_fixup::Machine, Plan) {
    let mut machine = machine(disk);
    let mut plan = Plan::default();
    vdisk_fixup::strip(&mut machine, options, &mut plan).unwrap();
    (machine, plan)
}

fn ids(plan: &Plan) -> Vec<&str> {
    let mut ids: Vec<&str> = plan.actions.iter().map(|action| action.id.as_str()).collect();
    ids.sort_unstable();
    ids.dedup();
    ids
}

#[test]
fn the_old_machine_is_nowhere_any_more() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let letter = |system: &mut Registry| {
        for name in ["#{1}", "#{2}"] {
            system.set("MountedDevices", name, ValueKind::BINARY, &mounted_as(SIGNATURE));
        }
        system.set("MountedDevices", "#{3}", ValueKind::BINARY, &mounted_as(1));
    };
    let spec = Spec::SMALL;
    let Some(disk) = original(folder.path(), &spec, letter) else { return };
    let since = SystemTime::now();
    let options = StripOptions {
        identity: Identity::New,
        hostname: Some("next-1".into()),
        ..StripOptions::default()
    };
    let (machine, plan) = strip(&disk, &options);
    assert_eq!(plan.refusals, []);
    let first = plan.actions.iter().find(|action| action.id == "windows.sid").unwrap();
    assert_eq!(first.before, Some(OLD.to_string()));
    for id in [
        "windows.sid.acl",
        "windows.sid.hive",
        "windows.sid.name",
        "windows.sid.task",
        "windows.sid.unused",
        "windows.machine-guid",
        "windows.telemetry",
        "windows.wsus",
        "windows.hostname",
    ] {
        assert!(ids(&plan).contains(&id), "{id} of {:?}", ids(&plan));
    }
    assert!(plan.warnings.iter().any(|warning| warning.id == "windows.sid.dpapi"));
    // What cannot be looked at is told; links of every Windows are not.
    let told = |id: &str| -> Vec<&str> {
        let all = plan.warnings.iter().filter(|warning| warning.id == id);
        all.map(|warning| warning.message.as_str()).collect()
    };
    assert!(told("windows.sid.task")[0].starts_with("1 tasks are compressed"));
    let hives = told("windows.sid.hive");
    assert!(hives.len() == 1 && hives[0].starts_with("/Users/Default/NTUSER.DAT is compressed"));
    for user in ["bob", "ghost", "Default"] {
        let app = format!("/Users/{user}/AppData/Local/Packages/Moved");
        let count = told("windows.sid.app").iter().filter(|one| one.contains(&app)).count();
        assert_eq!(count, 1, "{app}");
    }
    assert_eq!(told("windows.sid.profile"), [""; 0]);
    let told = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&told).unwrap(), plan);

    let after = folder.path().join("after.raw");
    write_out(&machine, &disk, &after);
    let (root, gpt, plan_of) = (spec.root(), spec.gpt, &plan);
    Change { before: &disk, after: &after, root, gpt, plan: plan_of, since }
        .assert_exact(folder.path());
    let [volume, changed] = ["volume", "changed"].map(|name| folder.path().join(name));
    partition(&disk, root, &volume);
    partition(&after, root, &changed);

    let task = folder.path().join("task");
    cat(&changed, TASK, &task);
    let software = folder.path().join("SOFTWARE");
    cat(&changed, &format!("{CONFIG}/SOFTWARE"), &software);
    let hive = Hive::parse(fs::read(&software).unwrap()).unwrap();
    let key = "Microsoft\\Windows NT\\CurrentVersion\\Schedule\\TaskCache\\Tasks\\{1}";
    let hash = hive.open(key).unwrap().unwrap().value("Hash").unwrap().unwrap();
    assert_eq!(*hash.data().unwrap(), *Sha256::digest(fs::read(&task).unwrap()));

    let signature = must("sfdisk", &["--disk-id", arg(&after)]);
    let first = plan.actions.iter().find(|action| action.id == "windows.disk-id").unwrap();
    assert_eq!(Some(signature.trim()), first.after.as_deref());
    let signature = u32::from_str_radix(&signature.trim()[2..], 16).unwrap();
    assert_ne!(signature, SIGNATURE);
    for (path, key, name, data) in [
        (format!("{CONFIG}/SYSTEM"), "MountedDevices", "#{1}", mounted_as(signature)),
        (format!("{CONFIG}/SYSTEM"), "MountedDevices", "#{2}", mounted_as(signature)),
        (format!("{CONFIG}/SYSTEM"), "MountedDevices", "#{3}", mounted_as(1)),
        ("Boot/BCD".to_owned(), ELEMENT, "Element", mbr_element(signature)),
    ] {
        cat(&changed, &path, &software);
        let hive = Hive::parse(fs::read(&software).unwrap()).unwrap();
        let value = hive.open(key).unwrap().unwrap().value(name).unwrap().unwrap();
        assert_eq!(*value.data().unwrap(), data, "{key} {name}");
    }
    let serial = |volume: &Path| fs::read(volume).unwrap()[0x48..0x50].to_vec();
    assert_ne!(serial(&volume), serial(&changed));

    let (_, plan) = strip(&after, &StripOptions { identity: Identity::Keep, ..options });
    let left: Vec<&str> =
        ids(&plan).into_iter().filter(|id| id.starts_with("windows.sid")).collect();
    assert_eq!(left, [""; 0], "a second run that keeps the identity plans nothing of it");
}

/// The registry of a real Windows 10, another identity and another target, one after the other.
#[test]
fn a_real_registry_is_changed_as_planned() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let spec = Spec::TEN;
    let Some(disk) = original(folder.path(), &spec, |_| {}) else { return };
    let since = SystemTime::now();
    let (mut machine, mut plan) = strip(&disk, &StripOptions::default());
    let target = AdaptOptions::new(Target::HyperVGen2);
    vdisk_fixup::adapt(&mut machine, &target, &mut plan).unwrap();
    assert_eq!(plan.refusals, []);
    for id in ["windows.sid.hive", "windows.tools", "windows.driver.start", "windows.disk-id"] {
        assert!(ids(&plan).contains(&id), "{id} of {:?}", ids(&plan));
    }
    let after = folder.path().join("after.raw");
    write_out(&machine, &disk, &after);
    let (root, gpt, plan) = (spec.root(), spec.gpt, &plan);
    Change { before: &disk, after: &after, root, gpt, plan, since }.assert_exact(folder.path());
    let said = must("sgdisk", &["-v", arg(&after)]);
    assert!(said.contains("No problems found"), "{said}");
}

#[test]
fn the_guids_of_a_gpt_disk_are_new() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let letter = |system: &mut Registry| {
        let partition = uuid::Uuid::parse_str(PARTITION).unwrap();
        let data = [b"DMIO:ID:", &partition.to_bytes_le()[..]].concat();
        system.set("MountedDevices", "#{1}", ValueKind::BINARY, &data);
    };
    let own = |bcd: &mut Registry| {
        let element = gpt_element(DISK, PARTITION);
        bcd.set(ELEMENT, "Element", ValueKind::BINARY, &element);
    };
    let Some(disk) = windows_with_bcd(folder.path(), &Spec::TEN, letter, own) else { return };
    let options = StripOptions {
        identity: Identity::New,
        keep: ["windows.sid".to_owned()].into(),
        ..StripOptions::default()
    };
    let (machine, plan) = strip(&disk, &options);
    assert_eq!(plan.refusals, []);
    let after = folder.path().join("after.raw");
    write_out(&machine, &disk, &after);
    let said = must("sgdisk", &["-v", arg(&after)]);
    assert!(said.contains("No problems found"), "{said}");
    let table = |disk: &Path| -> serde_json::Value {
        serde_json::from_str(&must("sfdisk", &["--json", arg(disk)])).unwrap()
    };
    let [before, table] =
        [table(&disk), table(&after)].map(|table| table["partitiontable"].clone());
    assert_ne!(before["id"], table["id"]);
    for number in 0..2 {
        let [old, new] = [&before, &table].map(|table| &table["partitions"][number]);
        assert_ne!(old["uuid"], new["uuid"]);
        assert_eq!([&old["start"], &old["size"]], [&new["start"], &new["size"]]);
    }
    let volume = folder.path().join("changed");
    partition(&after, 2, &volume);
    let system = folder.path().join("SYSTEM");
    cat(&volume, &format!("{CONFIG}/SYSTEM"), &system);
    let hive = Hive::parse(fs::read(&system).unwrap()).unwrap();
    let key = hive.open("MountedDevices").unwrap().unwrap();
    let uuid = table["partitions"][1]["uuid"].as_str().unwrap();
    let uuid = uuid::Uuid::parse_str(uuid).unwrap().to_bytes_le();
    let value = key.value("#{1}").unwrap().unwrap();
    assert_eq!(*value.data().unwrap(), [b"DMIO:ID:", &uuid[..]].concat());
    judge(&volume);
}

#[test]
fn what_must_not_be_is_refused() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let service = |name: &'static str| {
        move |system: &mut Registry| {
            system.number(&format!("ControlSet001\\Services\\{name}"), "Start", 2);
        }
    };
    let new = StripOptions { keep: ["windows.sid".to_owned()].into(), ..StripOptions::default() };
    for (name, refused, always) in
        [("NTDS", "windows.sid.domain-controller", true), ("CertSvc", "windows.sid.role", false)]
    {
        let place = folder.path().join(name);
        fs::create_dir(&place).unwrap();
        let Some(disk) = windows(&place, &Spec::SMALL, service(name)) else { return };
        let (_, plan) = strip(&disk, &new);
        assert_eq!(plan.refusals[0].id, refused);
        let (_, plan) = strip(&disk, &StripOptions { force: true, ..new.clone() });
        assert_eq!(!plan.refusals.is_empty(), always, "{name}");
        let (_, plan) = strip(&disk, &StripOptions { identity: Identity::Keep, ..new.clone() });
        assert_eq!(plan.refusals, [], "{name}");
    }
}

/// The profile of a user of the machine itself is not left behind without a word.
#[test]
fn a_profile_behind_a_link_to_a_drive_is_refused() {
    const MOVE: &str = r#"
import os, struct, sys
top = sys.argv[1] + '/Users/'
os.rename(top + 'bob', sys.argv[1] + '/elsewhere')
os.mkdir(top + 'bob')
real = '\\??\\D:\\bob'.encode('utf-16-le')
data = struct.pack('<4H', 0, len(real), len(real) + 2, len(real) - 8)
data += real + b'\0\0' + real[8:] + b'\0\0'
data = struct.pack('<IHH', 0xA0000003, len(data), 0) + data
os.setxattr(top + 'bob', 'system.ntfs_reparse_data', data)
"#;
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(disk) = original(folder.path(), &Spec::SMALL, |_| {}) else { return };
    if dressed(&disk, 1, MOVE, &[]).is_none() {
        return;
    }

    let of = |notes: &[vdisk_fixup::Notice]| {
        let found = notes.iter().find(|note| note.id == "windows.sid.profile");
        found.map(|note| note.message.clone()).unwrap_or_default()
    };
    let (_, plan) = strip(&disk, &StripOptions::default());
    assert!(of(&plan.refusals).contains("/Users/bob is a link to D:"), "{:?}", plan.refusals);
    let (_, plan) = strip(&disk, &StripOptions { force: true, ..StripOptions::default() });
    assert_eq!(plan.refusals, []);
    assert!(of(&plan.warnings).contains("/Users/bob is a link to D:"), "{:?}", plan.warnings);
}

#[test]
fn hives_of_two_machines_are_refused() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(disk) = windows(folder.path(), &Spec::SMALL, |_| {}) else { return };
    let (_, plan) = strip(&disk, &StripOptions::default());
    assert!(plan.refusals[0].message.contains("SECURITY"), "{:?}", plan.refusals);
    let keep = ["windows.sid", "windows.disk-id"];
    let options = StripOptions {
        keep: keep.into_iter().map(str::to_owned).collect(),
        ..StripOptions::default()
    };
    let (_, plan) = strip(&disk, &options);
    assert_eq!(plan.refusals, []);
    let ids = ids(&plan);
    assert!(ids.iter().all(|id| keep.iter().all(|kept| !id.starts_with(kept))), "{ids:?}");
    assert!(ids.contains(&"windows.volume-serial"), "{ids:?}");
}
