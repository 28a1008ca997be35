//! What `p2v` and `v2p` leave alone, and whom they do not keep waiting.
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

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use common::Place;
use vdisk_testkit::loops::{Loop, Mounted};
use vdisk_testkit::machines::programs;
use vdisk_testkit::tools::{arg, must, sha256_file, skip};

const MIB: u64 = 1 << 20;

/// Kills a program when it is dropped.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

fn empty(place: &Place, name: &str, mib: u64) -> Option<Loop> {
    File::create(place.path(name)).unwrap().set_len(mib * MIB).unwrap();
    Loop::attach(&place.path(name), &[])
}

#[test]
fn a_capture_does_not_replace_what_it_reads() {
    let place = Place::new();
    place.raw("disk", 4 * MIB, &[0..MIB]);
    place.run("convert -f raw disk base.vhdx").ok();
    place.run("create -f vhdx -b base.vhdx child.vhdx").ok();
    let before = ["base.vhdx", "child.vhdx"].map(|name| sha256_file(&place.path(name)));
    for name in ["base.vhdx", "child.vhdx"] {
        let ran = place.run(&format!("p2v child.vhdx {name} --target kvm --force"));
        ran.fails(7, &[name, "input"]);
    }
    let now = ["base.vhdx", "child.vhdx"].map(|name| sha256_file(&place.path(name)));
    assert_eq!(now, before);
    let Some(device) = Loop::attach(&place.path("disk"), &[]) else { return };
    let path = arg(&device.path);
    place.run(&format!("p2v {path} disk -O raw --force")).fails(7, &["input"]);
    place.run(&format!("p2v child.vhdx {path} -O raw --force")).fails(7, &["device"]);
    assert_eq!(place.names(), ["base.vhdx", "child.vhdx", "disk"]);
}

#[test]
fn nobody_waits_for_a_word_to_a_frozen_disk() {
    let place = Place::new();
    let Some(device) = empty(&place, "disk", 48) else { return };
    must("mke2fs", &["-q", "-t", "ext4", arg(&device.path)]);
    let Some(mounted) = Mounted::new(&device.path, &place.path("mnt")) else { return };
    let log = File::create(mounted.point.join("log")).unwrap();
    let mut command = place.command();
    command.args(["p2v", arg(&device.path), "a.vhdx", "--live"]).stderr(log);
    let mut child = command.spawn().unwrap();
    let begun = Instant::now();
    let ended = loop {
        if let Some(status) = child.try_wait().unwrap() {
            break Some(status);
        }
        if begun.elapsed() > Duration::from_secs(120) {
            break None;
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    if ended.is_none() {
        must("fsfreeze", &["-u", arg(&mounted.point)]);
        child.wait().unwrap();
        panic!("it waits for itself");
    }
    assert_eq!(ended.unwrap().code(), Some(7));
    let said = std::fs::read_to_string(mounted.point.join("log")).unwrap();
    assert!(said.contains("what is told goes to a file on the disk that is copied"), "{said}");
}

/// One file system in two places is frozen once, and told for both.
#[test]
fn what_is_mounted_twice_is_held_still_once() {
    let place = Place::new();
    let Some(device) = empty(&place, "disk", 48) else { return };
    must("mke2fs", &["-q", "-t", "ext4", arg(&device.path)]);
    let Some(first) = Mounted::new(&device.path, &place.path("mnt")) else { return };
    let second = place.path("other");
    std::fs::create_dir(&second).unwrap();
    must("mount", &["--bind", arg(&first.point), arg(&second)]);
    let second = Mounted { point: second };
    let ran = place.run(&format!("p2v {} a.vhdx --live --output json", arg(&device.path)));
    let ran = ran.code(0);
    let held = ran.json()["disks"][0]["live"].as_array().unwrap().clone();
    assert!(held.len() == 2 && held.iter().all(|one| one["how"] == "frozen"), "{held:?}");
    for point in [&first.point, &second.point] {
        std::fs::write(point.join("file"), "thawed").unwrap();
    }
}

/// Its bitmap would tell of clusters as free that are used by the time they are reached.
#[test]
fn what_cannot_be_held_still_is_copied_whole() {
    if !programs(&["mkfs.ntfs", "ntfs-3g"]) {
        return;
    }
    let place = Place::new();
    let Some(device) = empty(&place, "disk", 32) else { return };
    must("mkfs.ntfs", &["-Q", "-F", "-q", arg(&device.path)]);
    let point = place.path("mnt");
    std::fs::create_dir(&point).unwrap();
    must("ntfs-3g", &[arg(&device.path), arg(&point)]);
    let mounted = Mounted { point };
    let open = File::create(mounted.point.join("file")).unwrap();
    open.write_all_at(b"being written", 0).unwrap();
    let ran = place.run(&format!("p2v {} a.vhdx --live --output json", arg(&device.path)));
    let ran = ran.fails(0, &["cannot be held still", "is copied whole"]);
    let disk = &ran.json()["disks"][0];
    assert_eq!(disk["live"][0]["how"], "not-held", "{disk}");
    assert_eq!(disk["skipped"], serde_json::Value::Null);
}

#[test]
fn a_use_that_cannot_be_seen_from_here_counts() {
    let place = Place::new();
    let Some(device) = empty(&place, "disk", 48) else { return };
    must("mke2fs", &["-q", "-t", "ext4", arg(&device.path)]);
    let point = place.path("mnt");
    std::fs::create_dir(&point).unwrap();
    // As a container has it: in a mount namespace of its own.
    let script = "mount $0 $1 && touch $1/ready && exec sleep 600";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, arg(&device.path), arg(&point)]);
    let held = Running(command.stderr(Stdio::null()).spawn().unwrap());
    let inside = format!("/proc/{}/root{}/ready", held.0.id(), point.display());
    let ready = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        Path::new(&inside).exists()
    });
    if !ready {
        skip("unshare", "a namespace with a mount of its own could not be made");
        return;
    }
    let path = arg(&device.path);
    place.run(&format!("p2v {path} a.vhdx")).fails(7, &["--live"]);
    let ran = place.run(&format!("p2v {path} a.vhdx --live"));
    ran.fails(0, &["may be half changed", "copied whole"]);
}

#[test]
fn a_disk_is_not_written_from_itself() {
    let place = Place::new();
    place.raw("disk", 16 * MIB, &[MIB..15 * MIB]);
    std::fs::write(place.path("table"), "label: dos\nstart=2048, size=8192, type=83\n").unwrap();
    let Some(device) = Loop::attach(&place.path("disk"), &[]) else { return };
    let path = arg(&device.path);
    let line = format!("v2p -f raw disk {path} --confirm {path} --as-is");
    place.run(&line).fails(7, &["is also the image"]);
    if !programs(&["sfdisk", "partx"]) {
        return;
    }
    must("sh", &["-c", &format!("sfdisk -q {path} < {}", arg(&place.path("table")))]);
    must("sh", &["-c", &format!("partx -a {path} || partx -u {path}")]);
    let before = sha256_file(&place.path("disk"));
    let part = format!("{path}p1");
    if Path::new(&part).exists() {
        let line = format!("v2p -f raw {part} {path} --confirm {path} --as-is --state .");
        place.run(&line).fails(7, &["is also the image"]);
    }
    assert_eq!(sha256_file(&place.path("disk")), before);
    must("partx", &["-d", path]);
}

#[test]
fn the_folder_of_the_state_keeps_what_is_in_it() {
    let place = Place::new();
    place.raw("disk", 4 * MIB, &[0..4 * MIB]);
    place.run("convert -f raw disk image.vhdx").ok();
    let Some(device) = empty(&place, "target", 4) else { return };
    let path = arg(&device.path);
    std::fs::create_dir(place.path("keep")).unwrap();
    place.write("keep/changes", b"mine");
    for folder in ["keep", "."] {
        let line = format!("v2p image.vhdx {path} --confirm {path} --state {folder} --as-is");
        place.run(&line).code(0);
    }
    assert_eq!(place.read("keep/changes"), b"mine");
    assert_eq!(place.names(), ["disk", "image.vhdx", "keep", "target"]);
    assert_eq!(sha256_file(&place.path("target")), sha256_file(&place.path("disk")));
}

/// Bytes of an extent may change while the descriptor stays as it is.
#[test]
fn a_write_does_not_go_on_with_an_image_that_changed() {
    let place = Place::new();
    place.raw("disk", 24 * MIB, &[0..24 * MIB]);
    place.run("convert -f raw disk image.vmdk -o subformat=monolithicFlat").ok();
    let Some(device) = empty(&place, "target", 24) else { return };
    let path = arg(&device.path);
    let line =
        format!("v2p image.vmdk {path} --confirm {path} --as-is --no-verify --checkpoint 1M");
    let mut command = place.command();
    let words = format!("{line} --rate-limit 8M --state state");
    command.args(words.split_whitespace()).stderr(Stdio::null());
    let mut child = Running(command.spawn().unwrap());
    let tag = path.replace(|one: char| !one.is_ascii_alphanumeric(), "-");
    let state = place.path(&format!("state/.image.vmdk.vdisk-v2p-{tag}/state.json"));
    let done = || {
        let text = std::fs::read_to_string(&state).unwrap_or_default();
        let found: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        found["done"].as_u64().unwrap_or_default()
    };
    while done() <= 4 * MIB {
        assert!(child.0.try_wait().unwrap().is_none(), "it ended");
        std::thread::sleep(Duration::from_millis(10));
    }
    drop(child);
    let flat = File::options().write(true).open(place.path("image-flat.vmdk")).unwrap();
    flat.write_all_at(&[0x33; 4096], 2 * MIB).unwrap();
    drop(flat);
    let done = place.run(&format!("{line} --state state --output json")).code(0).json();
    assert_eq!(done["resumed-at"], serde_json::Value::Null, "{done}");
    assert_eq!(sha256_file(&place.path("target")), sha256_file(&place.path("image-flat.vmdk")));
}
