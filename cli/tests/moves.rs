//! `p2v` and `v2p`: disks to images and back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    missing_docs
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use common::{Place, assert_keys, linux_by, windows};
use vdisk_testkit::faulty::{Faults, Faulty};
use vdisk_testkit::loops::{Loop, Mounted};
use vdisk_testkit::machines::programs;
use vdisk_testkit::tools::{arg, must, said, sha256, sha256_file};

const MIB: u64 = 1 << 20;

/// Waits until `what` holds.
fn until(what: impl Fn() -> bool) {
    for _ in 0..3000 {
        if what() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("it never came to that");
}

/// Waits until the job's state file says that some of it is done, and kills it.
fn kill_in_the_middle(mut child: Child, state: &Path) {
    let done = || -> u64 {
        let text = std::fs::read_to_string(state).unwrap_or_default();
        let document: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        document["done"].as_u64().unwrap_or_default()
    };
    until(|| done() > 2 * MIB);
    child.kill().unwrap();
    child.wait().unwrap();
}

fn spawn(place: &Place, line: &str) -> Child {
    let mut command = place.command();
    command.args(line.split_whitespace()).stderr(Stdio::null());
    command.spawn().unwrap()
}

#[test]
fn the_list_has_its_keys() {
    let place = Place::new();
    let list = place.json("p2v --list");
    assert_eq!(list["schema"], "vdisk.disks/1");
    for disk in list["disks"].as_array().unwrap() {
        assert_keys(
            disk,
            &[
                "name",
                "path",
                "model",
                "serial",
                "by-id",
                "size",
                "logical-sector-size",
                "physical-sector-size",
                "rotational",
                "removable",
                "read-only",
                "partitions",
                "uses",
            ],
            &[],
        );
    }
    place.run("p2v --list").code(0);
}

#[test]
fn a_capture_killed_in_the_middle_goes_on() {
    let place = Place::new();
    let bytes = place.raw("disk", 24 * MIB, &[0..9 * MIB, 12 * MIB..24 * MIB]);
    let Some(device) = Loop::attach(&place.path("disk"), &[]) else { return };
    let device = arg(&device.path);
    for (name, state) in [("a.vhdx", ".a.vhdx.vdisk-p2v"), ("b.vmdk", ".b.vmdk.vdisk-p2v")] {
        let line = format!("p2v {device} {name} --checkpoint 1M");
        let child = spawn(&place, &format!("{line} --rate-limit 12M"));
        kill_in_the_middle(child, &place.path(state).join("state.json"));
        assert!(!place.path(name).exists());
        let done = place.run(&format!("{line} --output json")).code(0).json();
        let disk = &done["disks"][0];
        assert!(disk["resumed-at"].as_u64().unwrap() > 2 * MIB, "{done}");
        assert!(disk["written"].as_u64().unwrap() < 20 * MIB, "{done}");
        assert_eq!(disk["bad"]["bytes"], 0);
        let digest = place.run(&format!("checksum {name}")).ok().out;
        assert!(digest.starts_with(&sha256(&bytes)), "{name}: {digest}");
        place.run(&format!("check {name}")).code(0);
    }
    let names = place.names();
    assert_eq!(names, ["a.vhdx", "b.vmdk", "disk"]);
}

#[test]
fn bad_sectors_are_told_loudly() {
    let place = Place::new();
    let mut bytes = place.raw("disk", 8 * MIB, &[0..8 * MIB]);
    let bad = 3 * MIB + 512..3 * MIB + 1024;
    let faults = Faults { bad: vec![bad.clone()], ..Faults::default() };
    let Some(faulty) = Faulty::mount(&place.path("disk"), &place.path("mnt"), faults) else {
        return;
    };
    let line = format!("p2v -f raw {} out.vhd --retries 1", arg(&faulty.path));
    let ran = place.run(&format!("{line} --output json"));
    let ran = ran.fails(3, &["WARNING", "ZEROS", "out.vhd.map"]);
    let disk = &ran.json()["disks"][0];
    assert_eq!(disk["bad"]["ranges"][0]["start"], bad.start);
    assert_eq!(disk["bad"]["bytes"], 512);
    bytes[bad.start as usize..bad.end as usize].fill(0);
    let digest = place.run("checksum out.vhd").ok().out;
    assert!(digest.starts_with(&sha256(&bytes)), "{digest}");
}

#[test]
fn several_disks_become_a_folder_of_images() {
    let place = Place::new();
    place.raw("one.img", MIB, &[0..512]);
    std::fs::create_dir(place.path("sub")).unwrap();
    place.raw("sub/one.img", 2 * MIB, &[0..512]);
    place.run("p2v -f raw one.img sub/one.img out").fails(64, &["format"]);
    place.run("p2v -f raw one.img sub/one.img out --target hyper-v-gen2").code(0);
    let mut names: Vec<_> =
        place.path("out").read_dir().unwrap().map(|one| one.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, ["one-2.vhdx", "one.vhdx"]);
    place.run("p2v -f raw one.img a.vmdk --target hyper-v-gen2").fails(7, &["generation 2"]);
    place.run("p2v -f raw one.img a.vmdk -o subformat=streamOptimized").fails(5, &["convert"]);
    place.run("p2v no-such-disk a.vmdk").fails(8, &["--list"]);
    place.run("p2v one.img").fails(64, &["DEST"]);
    assert_eq!(place.names(), ["one.img", "out", "sub"]);
}

/// A disk with an ext4 that is mounted; the disk and where.
fn mounted(place: &Place) -> Option<(Loop, Mounted)> {
    let file = std::fs::File::create(place.path("disk")).unwrap();
    file.set_len(48 * MIB).unwrap();
    let device = Loop::attach(&place.path("disk"), &[])?;
    must("mke2fs", &["-q", "-t", "ext4", arg(&device.path)]);
    let mounted = Mounted::new(&device.path, &place.path("mnt"))?;
    Some((device, mounted))
}

#[test]
fn a_disk_in_use_is_copied_only_when_asked_and_held_still() {
    let place = Place::new();
    let Some((device, mounted)) = mounted(&place) else { return };
    let path = arg(&device.path);
    place.run(&format!("p2v {path} a.vhdx")).fails(7, &["mounted at", "--live"]);
    place.run(&format!("p2v {path} mnt/a.vhdx --live")).fails(7, &["the disk that is copied"]);

    // Somebody writes all the time.
    let writer = Command::new("sh")
        .args(["-c", "i=0; while [ -d $0 ]; do i=$((i+1)); echo $i > $0/f$((i%50)); done"])
        .arg(&mounted.point)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn();
    let writer = Writer(writer.unwrap());
    let ran = place.run(&format!("p2v {path} a.vhdx --live --output json"));
    let ran = ran.code(0);
    assert_eq!(ran.json()["disks"][0]["live"][0]["how"], "frozen", "{ran:#?}");
    place.run("convert a.vhdx a.img").code(0);
    must("e2fsck", &["-fn", arg(&place.path("a.img"))]);

    // Killed while it holds the file system: the guardian lets go.
    let line = format!("p2v {path} b.vhdx --live --rate-limit 1M --skip-free=none");
    let mut child = spawn(&place, &line);
    let count = place.path("mnt/count");
    until(|| place.path(".b.vhdx.vdisk-p2v/state.json").exists());
    child.kill().unwrap();
    child.wait().unwrap();
    until(|| std::fs::write(&count, b"it can be written to").is_ok());

    // So does a run that is asked to stop, and what it leaves is begun anew, not gone on with.
    std::fs::remove_dir_all(place.path(".b.vhdx.vdisk-p2v")).unwrap();
    let child = spawn(&place, &line);
    until(|| place.path(".b.vhdx.vdisk-p2v/b.vhdx").exists());
    must("kill", &["-INT", &child.id().to_string()]);
    let stopped = child.wait_with_output().unwrap();
    assert!(matches!(stopped.status.code(), Some(130)), "{stopped:?}");
    std::fs::write(&count, b"it can be written to").unwrap();
    let ran = place.run(&format!("p2v {path} b.vhdx --live --output json")).code(0);
    assert_eq!(ran.json()["disks"][0]["resumed-at"], serde_json::Value::Null);
    drop(writer);
}

/// A disk that is mounted without its journal's work being done: the image has it done.
#[test]
fn journals_of_a_disk_in_use_are_replayed_in_the_image() {
    let place = Place::new();
    let Some((device, mounted)) = mounted(&place) else { return };
    std::fs::create_dir(mounted.point.join("folder")).unwrap();
    std::fs::write(mounted.point.join("folder/file"), "all of it\n").unwrap();
    must("sync", &["-f", arg(&mounted.point)]);
    std::fs::copy(place.path("disk"), place.path("left")).unwrap();
    drop((mounted, device));
    let image = place.path("left");
    assert!(must("dumpe2fs", &["-h", arg(&image)]).contains("needs_recovery"));

    let Some(device) = Loop::attach(&image, &[]) else { return };
    must("mount", &["-o", "ro,noload", arg(&device.path), arg(&place.path("mnt"))]);
    let mounted = Mounted { point: place.path("mnt") };
    let before = sha256_file(&image);
    let ran = place.run(&format!("p2v {} a.vhdx --live --output json", arg(&device.path)));
    let disk = &ran.fails(0, &["of its journal"]).json()["disks"][0];
    assert_eq!(disk["live"][0]["how"], "read-only");
    assert!(disk["recovered"][0]["transactions"].as_u64().unwrap() > 0, "{disk}");
    assert_eq!(sha256_file(&image), before, "the source was written to");
    drop(mounted);
    place.run("convert a.vhdx a.img").ok();
    must("e2fsck", &["-fn", arg(&place.path("a.img"))]);
    place.run("cat -f raw a.img:/folder/file").ok();
}

/// A freeze leaves work in the log of an XFS; in the image there is none.
#[test]
fn the_log_of_a_frozen_xfs_is_ended_in_the_image() {
    if !programs(&["mkfs.xfs", "xfs_repair", "xfs_logprint"]) {
        return;
    }
    let place = Place::new();
    let file = std::fs::File::create(place.path("disk")).unwrap();
    file.set_len(320 * MIB).unwrap();
    must("mkfs.xfs", &["-q", "-f", arg(&place.path("disk"))]);
    let Some(device) = Loop::attach(&place.path("disk"), &[]) else { return };
    let Some(mounted) = Mounted::new(&device.path, &place.path("mnt")) else { return };
    std::fs::write(mounted.point.join("file"), "all of it\n").unwrap();
    let ran = place.run(&format!("p2v {} a.vhdx --live --output json", arg(&device.path)));
    let disk = &ran.code(0).json()["disks"][0];
    assert_eq!(disk["live"][0]["how"], "frozen");
    assert_eq!(disk["recovered"][0]["volume"], "the disk", "{disk}");
    drop(mounted);
    place.run("convert a.vhdx a.img").ok();
    let image = place.path("a.img");
    must("xfs_repair", &["-n", "-f", arg(&image)]);
    assert!(must("xfs_logprint", &["-t", arg(&image)]).contains("state: <CLEAN>"));
    let found = place.json("inspect -f raw a.img");
    assert!(!found.to_string().contains("journal"), "{found}");
}

/// A program that writes, until this is dropped.
struct Writer(Child);

impl Drop for Writer {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

#[test]
fn an_image_becomes_a_disk_and_an_image_again() {
    let place = Place::new();
    let bytes = place.raw("disk", 16 * MIB, &[0..6 * MIB, 9 * MIB..16 * MIB]);
    place.run("convert -f raw disk image.vhdx").ok();
    let before = sha256_file(&place.path("image.vhdx"));
    place.write("target", &vec![0x5a; 16 << 20]);
    let Some(device) = Loop::attach(&place.path("target"), &[]) else { return };
    let path = arg(&device.path);
    let line = format!("v2p image.vhdx {path} --checkpoint 1M");
    place.run(&line).fails(7, &["all that is on it", &format!("--confirm '{path}'")]);
    place.run(&format!("{line} --confirm /dev/sdx")).fails(7, &["confirmed as /dev/sdx"]);
    assert_eq!(std::fs::read(place.path("target")).unwrap(), vec![0x5a; 16 << 20]);
    place.run(&format!("{line} --dry-run")).code(0);
    assert_eq!(std::fs::read(place.path("target")).unwrap(), vec![0x5a; 16 << 20]);

    let line = format!("{line} --confirm {path}");
    let child = spawn(&place, &format!("{line} --rate-limit 8M"));
    kill_in_the_middle(child, &hidden(&place, ".image.vhdx.vdisk-v2p").join("state.json"));
    let half = std::fs::read(place.path("target")).unwrap();
    assert!(half[..1 << 20].iter().all(|byte| *byte == 0), "no partition table yet");
    assert!(half[15 << 20..].ends_with(&[0; 512]) && half != bytes);
    let done = place.run(&format!("{line} --output json")).code(0).json();
    assert!(done["resumed-at"].as_u64().unwrap() > 2 * MIB, "{done}");
    assert!(done["written"].as_u64().unwrap() < 12 * MIB, "{done}");
    drop(device);
    assert_eq!(sha256_file(&place.path("target")), sha256(&bytes));
    assert_eq!(sha256_file(&place.path("image.vhdx")), before);
    assert_eq!(place.names(), ["disk", "image.vhdx", "target"]);
}

#[test]
fn a_windows_goes_there_and_back() {
    if !programs(&["ntfsinfo"]) {
        return;
    }
    let Some(place) = windows("disk") else { return };
    let before = sha256_file(&place.path("disk"));
    let Some(device) = Loop::attach(&place.path("disk"), &[]) else { return };
    let line = format!("p2v {} vm.vhdx --target hyper-v-gen1", arg(&device.path));
    let shown = place.run(&format!("{line} --dry-run --output json")).code(0).json();
    let of_plans = ["schema", "system", "actions", "warnings", "refusals"];
    assert_keys(&shown, &of_plans, &["disks"]);
    assert_eq!(shown["disks"][0]["plan"]["actions"], shown["actions"]);
    assert_eq!(place.names(), ["disk"], "a dry run writes nothing");
    let ran = place.run(&format!("{line} --output json"));
    let ran = ran.fails(0, &["keeps its identity"]);
    let done = ran.json();
    assert!(!done["disks"][0]["plan"]["actions"].as_array().unwrap().is_empty(), "{done}");
    assert_eq!(done["definition"][0], "vm.ps1");
    drop(device);
    assert_eq!(sha256_file(&place.path("disk")), before, "the source was written to");
    assert_eq!(
        place.names(),
        ["disk", "vm.ps1", "vm.vhdx", "vm.vhdx.p2v-1.json", "vm.vhdx.p2v-1.undo"]
    );
    // Its hives are of several machines, which `inspect` tells.
    let found = place.run("inspect vm.vhdx --output json").code(3).json();
    assert_eq!(found["systems"][0]["family"], "windows");

    // And onto a larger disk, with its file system grown.
    let file = std::fs::File::create(place.path("target")).unwrap();
    file.set_len(160 * MIB).unwrap();
    let Some(device) = Loop::attach(&place.path("target"), &[]) else { return };
    let path = arg(&device.path);
    let image = sha256_file(&place.path("vm.vhdx"));
    let shown = place.run(&format!("v2p vm.vhdx {path} --grow --dry-run --output json"));
    let shown = shown.code(0).json();
    assert_keys(&shown, &of_plans, &["filename", "device", "steps"]);
    let line = format!("v2p vm.vhdx {path} --confirm {path} --grow --output json");
    let done = place.run(&line).code(0).json();
    assert_eq!(done["verified"], true);
    assert_eq!(done["plan"]["actions"], shown["actions"], "what was done is what was shown");
    assert_eq!(sha256_file(&place.path("vm.vhdx")), image, "the image was written to");
    drop(device);
    let found = place.run("inspect -f raw target --output json").code(3).json();
    assert_eq!(found["systems"][0]["family"], "windows");
    let mut volume = vec![0; 158 << 20];
    let disk = std::fs::File::open(place.path("target")).unwrap();
    std::os::unix::fs::FileExt::read_exact_at(&disk, &mut volume, MIB).unwrap();
    place.write("volume", &volume);
    let facts = must("ntfsinfo", &["-m", "-f", arg(&place.path("volume"))]);
    let clusters = facts.lines().find(|line| line.contains("Volume Size in Clusters")).unwrap();
    let clusters: u64 = clusters.rsplit(' ').next().unwrap().parse().unwrap();
    assert!(clusters * 4096 > 155 * MIB, "{facts}");
}

/// Of a disk that stays in this machine; efibootmgr reads the entry, and makes the same.
#[test]
fn a_boot_entry_is_added_when_asked() {
    if !programs(&["efibootmgr"]) {
        return;
    }
    let Some(place) = linux_by("disk", "EFI/BOOT/BOOTX64.EFI") else { return };
    place.run("convert -f raw disk image.vhdx").ok();
    std::fs::copy(place.path("disk"), place.path("target")).unwrap();
    let Some(device) = Loop::attach(&place.path("target"), &[]) else { return };
    let path = arg(&device.path);
    let line = format!("v2p image.vhdx {path} --confirm {path} --as-is --output json");
    let refused = place.run(&format!("{line} --boot-entry --efivars none"));
    refused.fails(5, &["variables of a UEFI"]);

    std::fs::create_dir(place.path("efivars")).unwrap();
    let efibootmgr = |words: &[&str]| {
        let mut command = Command::new("efibootmgr");
        let folder = format!("{}/", arg(&place.path("efivars")));
        let done = command.args(words).env("EFIVARFS_PATH", folder).output().unwrap();
        assert!(done.status.success(), "{words:?}: {}", said(&done));
        String::from_utf8(done.stdout).unwrap()
    };
    let done = place.run(&line).code(0).json();
    assert_eq!(done["boot-entry"], serde_json::Value::Null);
    assert_eq!(place.path("efivars").read_dir().unwrap().count(), 0, "nobody asked");
    // Two that are there already.
    for label in ["one", "two"] {
        let there = ["-c", "-d", path, "-p", "2", "-L", label, "-l", "\\EFI\\other.efi"];
        efibootmgr(&there);
    }
    let line = format!("{line} --boot-entry --efivars efivars");
    for _ in 0..2 {
        let done = place.run(&line).code(0).json();
        assert_eq!(done["boot-entry"], "Boot0002", "{done}");
        let listed = efibootmgr(&["-v"]);
        assert!(listed.contains("BootOrder: 0002,0001,0000"), "{listed}");
        let entry = listed.lines().find(|line| line.starts_with("Boot0002*")).unwrap();
        for words in ["vdisk", "HD(1,GPT,", ",0x800,0x14000)", "\\EFI\\BOOT\\BOOTX64.EFI"] {
            assert!(entry.contains(words), "{words}: {entry}");
        }
    }
    let file = place.path("efivars/Boot0002-8be4df61-93ca-11d2-aa0d-00e098032b8c");
    let ours = std::fs::read(&file).unwrap();
    efibootmgr(&["-B", "-b", "2"]);
    assert!(!file.exists());
    let loader = "\\EFI\\BOOT\\BOOTX64.EFI";
    efibootmgr(&["-c", "-b", "2", "-d", path, "-p", "1", "-L", "vdisk", "-l", loader]);
    assert_eq!(std::fs::read(&file).unwrap(), ours, "the same as efibootmgr's own");

    // A disk that no UEFI starts is whole all the same.
    place.raw("plain", MIB, &[0..MIB]);
    let line = format!("v2p -f raw plain {path} --confirm {path} --as-is --boot-entry");
    place.run(&format!("{line} --efivars efivars")).fails(3, &["no boot entry", "no loader"]);
}

fn hidden(place: &Place, prefix: &str) -> PathBuf {
    let found = || place.names().into_iter().find(|name| name.starts_with(prefix));
    for _ in 0..200 {
        if let Some(name) = found() {
            return place.path(&name);
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    place.path(prefix)
}
