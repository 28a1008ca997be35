//! A whole guest becomes another machine.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use vdisk_fixup::windows::identity::rewrite::rewrite;
use vdisk_fixup::windows::identity::sid::MachineSid;
use vdisk_fixup::windows::identity::swap::Swap;
use vdisk_fixup::{Identity, Plan, StripOptions};
use vdisk_hive::{Editor, FileTime, Hive, ValueKind};
use vdisk_testkit::regf::empty_hive;
use vdisk_testkit::tools::{Tool, arg, must};

use crate::common::{
    PARTITION, Registry, Spec, cat, machine, partition, utf16, windows, write_out,
};
use crate::volume::{judge, mounted};
use crate::{OLD, hives, secure};

const GUID: &str = "0f1e2d3c-4b5a-4968-8776-655443322110";
const CONFIG: &str = "Windows/System32/config";
const TASK: &str = "Windows/System32/Tasks/Backup";

/// Puts a staged tree on a mounted volume, and gives some files of it descriptors.
const COPY: &str = r"
import shutil, sys
shutil.copytree(sys.argv[2], sys.argv[1], dirs_exist_ok=True)
";

fn now() -> FileTime {
    FileTime::from(SystemTime::now())
}

/// The hive in `path` with the old SID in the place of the one it has.
fn adopt(path: &Path, own: MachineSid) {
    let mut editor = Editor::new(Hive::parse(fs::read(path).unwrap()).unwrap(), now()).unwrap();
    rewrite(&mut editor, &Swap::new(own, OLD)).unwrap();
    fs::write(path, editor.finish().unwrap()).unwrap();
}

/// A hive that names the user in every way there is.
fn user_hive(path: &Path) {
    let mut editor = Editor::new(Hive::parse(empty_hive(5)).unwrap(), now()).unwrap();
    let root = editor.hive().root().unwrap().id();
    let sid = format!("{OLD}-1000");
    for name in [sid.as_str(), "S-1-5-18", "S-1-5-21-9-9-9-500", "Software"] {
        editor.create_key(root, name).unwrap();
    }
    editor.set_value(root, sid.as_str(), ValueKind::SZ, &utf16(&sid)).unwrap();
    let binary = [&[1, 5, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0][..], &OLD.words(), &[0xe8, 3, 0, 0]];
    editor.set_value(root, "binary", ValueKind::BINARY, &binary.concat()).unwrap();
    editor.set_value(root, "gone", ValueKind::SZ, &utf16(&sid)).unwrap();
    editor.set_class(root, &utf16(&sid)).unwrap();
    let head = [1, 0, 4, 0x80, 20, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    editor.set_security(root, &[&head[..], &binary.concat()].concat()).unwrap();
    editor.delete_value(root, "gone").unwrap();
    let mut bytes = editor.finish().unwrap();
    // The end of the only bin is a free cell, as another tool would leave it.
    let dead = utf16(&sid);
    let at = bytes.len() - dead.len() - 2;
    assert!(bytes[at - 8..].iter().all(|byte| *byte == 0));
    bytes[at..at + dead.len()].copy_from_slice(&dead);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    let log = [vec![0x11; 512], utf16(&sid), vec![0; 600]].concat();
    fs::write(format!("{}.LOG1", arg(path)), log).unwrap();
}

/// An entry of the boot configuration that names the partition of the test's disk.
const ELEMENT: &str = "Objects\\{11111111-1111-1111-1111-111111111111}\\Elements\\21000001";
const SIGNATURE: u32 = 0x5cbe_a03e;
/// Where the test's partition begins.
const START: u64 = 1 << 20;

fn element(signature: u32) -> Vec<u8> {
    let mut bytes = vec![0; 88];
    bytes[16] = 6;
    bytes[24] = 0x48;
    bytes[32..40].copy_from_slice(&START.to_le_bytes());
    bytes[52] = 1;
    bytes[56..60].copy_from_slice(&signature.to_le_bytes());
    bytes
}

/// What MountedDevices says of that partition.
fn mounted_as(signature: u32) -> Vec<u8> {
    [&signature.to_le_bytes()[..], &START.to_le_bytes()].concat()
}

/// A disk with a Windows 7 whose hives are of one machine, with a user.
fn guest(folder: &Path, prepare: impl FnOnce(&mut Registry)) -> Option<PathBuf> {
    let disk = windows(folder, &Spec::SEVEN, prepare)?;
    let volume = folder.join("volume");
    partition(&disk, 1, &volume);
    let tree = folder.join("staged");
    fs::create_dir_all(tree.join(CONFIG)).unwrap();
    let at = |path: &str| tree.join(path);
    for name in ["SAM", "SECURITY", "SOFTWARE"] {
        cat(&volume, &format!("{CONFIG}/{name}"), &at(&format!("{CONFIG}/{name}")));
    }
    let policy = hives::commonest(&fs::read(at(&format!("{CONFIG}/SECURITY"))).unwrap()).unwrap();
    adopt(&at(&format!("{CONFIG}/SECURITY")), policy);
    let task = format!("<Task><UserId>{OLD}-1000</UserId></Task>");
    let task = [&[0xff, 0xfe][..], &utf16(&task)].concat();
    let software = at(&format!("{CONFIG}/SOFTWARE"));
    let mut registry = Registry::open(&software);
    let nt = "Microsoft\\Windows NT\\CurrentVersion";
    registry.text(nt, "SystemRoot", "C:\\Windows");
    let profile = format!("{nt}\\ProfileList\\{OLD}-1000");
    registry.text(&profile, "ProfileImagePath", "%SystemDrive%\\Users\\bob");
    let cache = format!("{nt}\\Schedule\\TaskCache");
    registry.text(&format!("{cache}\\Tree\\Backup"), "Id", "{1}");
    let hash = Sha256::digest(&task);
    registry.set(&format!("{cache}\\Tasks\\{{1}}"), "Hash", ValueKind::BINARY, &hash);
    registry.text("Microsoft\\Cryptography", "MachineGuid", GUID);
    registry.text("Microsoft\\SQMClient", "MachineId", "{OLD}");
    let update = "Microsoft\\Windows\\CurrentVersion\\WindowsUpdate";
    registry.text(update, "SusClientId", GUID);
    registry.save(&software);
    user_hive(&at("Users/bob/NTUSER.DAT"));
    user_hive(&at("Users/bob/AppData/Local/Microsoft/Windows/UsrClass.dat"));
    user_hive(&at("Windows/System32/config/RegBack/SOFTWARE"));
    fs::create_dir_all(at("Boot")).unwrap();
    cat(&volume, "Boot/BCD", &at("Boot/BCD"));
    let mut registry = Registry::open(&at("Boot/BCD"));
    registry.set(ELEMENT, "Element", ValueKind::BINARY, &element(SIGNATURE));
    registry.save(&at("Boot/BCD"));
    let sid = format!("{OLD}-1000");
    for (path, content) in [
        (TASK.to_owned(), task),
        (format!("$Recycle.Bin/{sid}/desktop.ini"), b"x".to_vec()),
        (format!("Users/bob/AppData/Roaming/Microsoft/Protect/{sid}/Preferred"), vec![1]),
        (format!("Users/bob/AppData/Roaming/Microsoft/Crypto/RSA/{sid}/{sid}_key"), vec![2]),
    ] {
        fs::create_dir_all(at(&path).parent().unwrap()).unwrap();
        fs::write(at(&path), content).unwrap();
    }
    mounted(&volume, COPY, &[arg(&tree)])?;
    let [a, b, c] = OLD.0.map(|word| word.to_string());
    mounted(&volume, secure::GIVE, &["200", &a, &b, &c])?;
    let start = must("sfdisk", &["--json", arg(&disk)]);
    let start: serde_json::Value = serde_json::from_str(&start).unwrap();
    let start = start["partitiontable"]["partitions"][0]["start"].as_u64().unwrap() * 512;
    let file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.write_all_at(&fs::read(&volume).unwrap(), start).unwrap();
    Some(disk)
}

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
    let Some(disk) = guest(folder.path(), letter) else { return };
    let volume = folder.path().join("volume");
    let options = StripOptions {
        identity: Identity::New,
        hostname: Some("next-1".into()),
        ..StripOptions::default()
    };
    let (machine, plan) = strip(&disk, &options);
    assert_eq!(plan.refusals, []);
    let first = plan.actions.iter().find(|action| action.id == "windows.sid").unwrap();
    let new = MachineSid::parse(first.after.as_ref().unwrap()).unwrap();
    let swap = Swap::new(OLD, new);
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
    let told = serde_json::to_string(&plan).unwrap();
    assert_eq!(serde_json::from_str::<Plan>(&told).unwrap(), plan);

    let after = folder.path().join("after.raw");
    write_out(&machine, &disk, &after);
    let changed = folder.path().join("changed");
    partition(&after, 1, &changed);
    judge(&changed);
    // What was deleted before stands in free clusters.
    must("ntfswipe", &["--force", "--unused", arg(&changed)]);
    let all = fs::read(&changed).unwrap();
    let places: Vec<usize> = memchr::memmem::find_iter(&all, &OLD.words()).collect();
    assert_eq!((swap.count(&all), places), (0, vec![]), "the old SID is in nothing that lives");

    for name in ["SAM", "SECURITY", "SOFTWARE", "RegBack/SOFTWARE"] {
        let path = format!("{CONFIG}/{name}");
        let [one, other] = ["one", "other"].map(|file| folder.path().join(file));
        cat(&volume, &path, &one);
        cat(&changed, &path, &other);
        if name.len() < 4 || name.starts_with("Reg") {
            hives::assert_swapped(name, &one, &other, &swap, &[Tool::Hivex, Tool::Regipy]);
        }
    }
    let list = r"
import os, sys
for top, folders, files in os.walk(sys.argv[1]):
    for name in folders + files:
        print(os.path.join(top, name)[len(sys.argv[1]):])
";
    let lines = |volume: &Path| {
        let said = mounted(volume, list, &[]).unwrap();
        let mut lines: Vec<String> = said.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let mut expected: Vec<String> = lines(&volume)
        .iter()
        .map(|line| line.replace(&OLD.to_string(), &new.to_string()))
        .collect();
    expected.sort_unstable();
    assert_eq!(lines(&changed), expected);

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
        ("Boot/BCD".to_owned(), ELEMENT, "Element", element(signature)),
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

#[test]
fn the_guids_of_a_gpt_disk_are_new() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let letter = |system: &mut Registry| {
        let partition = uuid::Uuid::parse_str(PARTITION).unwrap();
        let data = [b"DMIO:ID:", &partition.to_bytes_le()[..]].concat();
        system.set("MountedDevices", "#{1}", ValueKind::BINARY, &data);
    };
    let Some(disk) = windows(folder.path(), &Spec::TEN, letter) else { return };
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

/// A Windows whose registry holds little.
const SMALL: Spec<'_> = Spec { system: None, ..Spec::SEVEN };

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
        let Some(disk) = windows(&place, &SMALL, service(name)) else { return };
        let (_, plan) = strip(&disk, &new);
        assert_eq!(plan.refusals[0].id, refused);
        let (_, plan) = strip(&disk, &StripOptions { force: true, ..new.clone() });
        assert_eq!(!plan.refusals.is_empty(), always, "{name}");
        let (_, plan) = strip(&disk, &StripOptions { identity: Identity::Keep, ..new.clone() });
        assert_eq!(plan.refusals, [], "{name}");
    }
}

#[test]
fn hives_of_two_machines_are_refused() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(disk) = windows(folder.path(), &SMALL, |_| {}) else { return };
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
