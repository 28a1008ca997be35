//! Machines of several disks through `p2v`, `adapt`, `define` and `recover`.
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

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use common::Place;
use vdisk_testkit::loops::Loop;
use vdisk_testkit::lvm::Lvm;
use vdisk_testkit::machines::{Part, assemble, programs};
use vdisk_testkit::tools::{arg, must, sha256, sha256_file};

const MIB: u64 = 1 << 20;
const UUID: &str = "11111111-2222-3333-4444-555555555555";
const DATA: &str = "22222222-2222-3333-4444-555555555555";

/// The files of a Debian that has what it needs for KVM, but not in its initramfs.
fn tree(root: &Path, fstab: &str) {
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("etc/os-release", "ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n");
    write("etc/hostname", "penguin\n");
    write("etc/fstab", fstab);
    write("boot/vmlinuz-6.1", "kernel");
    write(
        "lib/modules/6.1/modules.dep",
        "kernel/virtio_pci.ko:\nkernel/virtio_scsi.ko: kernel/virtio_pci.ko\n",
    );
    write("lib/modules/6.1/modules.builtin", "kernel/sd_mod.ko\n");
    for name in ["virtio_pci", "virtio_scsi"] {
        write(&format!("lib/modules/6.1/kernel/{name}.ko"), name);
    }
    let archive = arg(&root.join("boot/initrd.img-6.1")).to_owned();
    let inside = tempfile::tempdir().unwrap();
    fs::create_dir_all(inside.path().join("scripts/init-top")).unwrap();
    let script =
        format!("cd {} && find . | cpio -o -H newc --quiet | gzip > {archive}", arg(inside.path()));
    must("sh", &["-c", &script]);
}

fn volume(folder: &Path, name: &str, mib: u64, uuid: &str, tree: Option<&Path>) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(mib * MIB).unwrap();
    let mut args = vec!["-q", "-F", "-t", "ext4", "-U", uuid];
    args.extend(tree.iter().flat_map(|tree| ["-d", arg(tree)]));
    args.push(arg(&path));
    must("mke2fs", &args);
    path
}

fn possible() -> bool {
    programs(&["sfdisk", "mke2fs", "e2fsck", "debugfs", "cpio"])
}

/// The system on one disk, with /srv on the other.
fn system_and_data(place: &Place) {
    let parts = tempfile::tempdir().unwrap();
    let files = parts.path().join("tree");
    tree(&files, "/dev/sda1 / ext4 defaults 0 1\n/dev/sdb1 /srv ext4 defaults 0 2\n");
    let root = volume(parts.path(), "root", 32, UUID, Some(&files));
    let data = volume(parts.path(), "data", 16, DATA, None);
    let disks = [("one", "0x11111111", &root), ("two", "0x22222222", &data)];
    for (name, id, content) in disks {
        assemble(&place.path(name), "dos", id, &[Part { kind: "83", more: "bootable", content }]);
    }
}

/// A file of the ext4 at byte `start` of a raw disk, as debugfs reads it.
fn cat(disk: &Path, start: u64, path: &str) -> String {
    must("debugfs", &["-R", &format!("cat {path}"), &format!("{}?offset={start}", arg(disk))])
}

#[test]
fn data_on_another_disk_is_found_by_its_identity() {
    if !possible() {
        return;
    }
    let place = Place::new();
    system_and_data(&place);
    let sources = ["one", "two"].map(|name| sha256_file(&place.path(name)));
    let Some(one) = Loop::attach(&place.path("one"), &[]) else { return };
    let Some(two) = Loop::attach(&place.path("two"), &[]) else { return };
    let line = format!("p2v {} {} vm --target kvm -O vhdx", arg(&one.path), arg(&two.path));
    let shown = place.run(&format!("{line} --dry-run --output json")).code(0).json();
    assert!(shown.to_string().contains(DATA), "{shown}");
    let done = place.run(&format!("{line} --output json")).code(0).json();
    assert_eq!(done["disks"][0]["plan"]["actions"], shown["actions"], "what was shown is done");
    drop((one, two));
    assert_eq!(sources, ["one", "two"].map(|name| sha256_file(&place.path(name))));
    let images: Vec<String> =
        (0..2).map(|disk| done["disks"][disk]["target"].as_str().unwrap().to_owned()).collect();
    let definition = done["definition"][0].as_str().unwrap();
    let definition = fs::read_to_string(place.path(definition)).unwrap();
    for image in &images {
        let converted = Path::new(image).with_extension("img");
        let name = converted.file_name().unwrap().to_str().unwrap();
        assert!(definition.contains(name), "{name}: {definition}");
    }

    place.run(&format!("convert {} a.raw", images[0])).ok();
    assert_eq!(
        cat(&place.path("a.raw"), MIB, "/etc/fstab"),
        format!("UUID={UUID} / ext4 defaults 0 1\nUUID={DATA} /srv ext4 defaults 0 2\n")
    );
    // All of it is taken back with both.
    let back = format!("adapt {} --undo {}.p2v-1.json", images[0], images[0]);
    place.run(&back).fails(7, &["--with"]);
    place.run(&format!("{back} --with {}", images[1])).code(0);
    let digest = place.run(&format!("checksum {}", images[0])).ok().out;
    assert!(digest.starts_with(&sources[0]), "{digest}");
    let line = format!("adapt {} --with {} --target kvm", images[0], images[1]);
    place.run(&line).fails(0, &["the way back", "--with"]);
    place.run(&line).code(0);
    place.run(&format!("convert {} b.raw", images[0])).ok();
    assert!(cat(&place.path("b.raw"), MIB, "/etc/fstab").contains(DATA));
}

#[test]
fn a_volume_group_over_two_disks_goes_through() {
    if !possible() {
        return;
    }
    let place = Place::new();
    let Some(lvm) = Lvm::blank(&[20, 21]) else { return };
    lvm.group("vg0");
    // The second disk first, so that the root is on both.
    lvm.volume_on("vg0", &["-l", "20", "-n", "root"], &[lvm.device(1)]);
    lvm.run("lvextend", &["-q", "-l", "+19", "vg0/root", lvm.device(0)]);
    let pieces = [(1, 20 * MIB), (0, 19 * MIB)];
    let parts = lvm.finish(place.folder());
    let files = place.path("tree");
    tree(&files, "/dev/mapper/vg0-root / ext4 defaults 0 1\n");
    fs::write(files.join("var"), vec![7; 18 << 20]).unwrap();
    let root = fs::read(volume(place.folder(), "root", 39, UUID, Some(&files))).unwrap();
    let mut rest = &root[..];
    for (disk, len) in pieces {
        let (now, later) = rest.split_at(len as usize);
        File::options().write(true).open(&parts[disk]).unwrap().write_all_at(now, MIB).unwrap();
        rest = later;
    }
    for (name, id, content) in [("one", "0x11111111", &parts[0]), ("two", "0x22222222", &parts[1])]
    {
        assemble(&place.path(name), "dos", id, &[Part { kind: "8e", more: "", content }]);
    }
    assert!(!place.run("inspect -f raw one").code(3).out.contains("Debian"));
    let both = place.json("inspect -f raw one --with two");
    assert_eq!(both["images"][0]["systems"][0]["root-volume"], "vg0/root", "{both}");
    assert_eq!(both["images"][1]["systems"], serde_json::json!([]));
    place.run("inspect -f raw one two --with two").fails(64, &["one machine"]);
    place.run("p2v -f raw one vm --target kvm --identity new").fails(0, &["no guest system"]);
    fs::remove_dir_all(place.path("vm")).ok();
    fs::remove_file(place.path("vm")).ok();
    let line = "p2v -f raw one two vm --target kvm --identity new --output json";
    let done = place.run(line).code(0).json();
    assert_eq!(done["disks"][0]["plan"]["system"], "Debian GNU/Linux 12");
    let mut volume = Vec::new();
    for (disk, len) in pieces {
        let name = ["vm/one.img", "vm/two.img"][disk];
        let mut piece = vec![0; len as usize];
        // The physical volume begins at 1 MiB, and its first extent 1 MiB later.
        File::open(place.path(name)).unwrap().read_exact_at(&mut piece, 2 * MIB).unwrap();
        volume.extend(piece);
    }
    place.write("volume", &volume);
    must("e2fsck", &["-fn", arg(&place.path("volume"))]);
    assert!(cat(&place.path("volume"), 0, "/etc/fstab").contains("vg0-root"));
    let listed = must("debugfs", &["-R", "ls -l /boot", arg(&place.path("volume"))]);
    let before = must("debugfs", &["-R", "ls -l /boot", arg(&place.path("root"))]);
    assert_ne!(listed, before, "the initramfs grew");
    // The definition has the guest's name, which only both disks tell.
    assert!(fs::read_to_string(place.path("vm/one.xml")).unwrap().contains("penguin"));
    let shown = place.run("define -f raw vm/one.img vm/two.img --target kvm --dry-run");
    assert!(shown.code(0).out.contains("penguin"));
}

#[test]
fn a_capture_killed_at_the_second_disk_goes_on() {
    let place = Place::new();
    let disks = [("one", 4 * MIB), ("two", 12 * MIB)];
    let bytes = disks.map(|(name, len)| place.raw(name, len, &[0..len]));
    let line = "p2v -f raw one two vm -O vhdx --checkpoint 1M";
    let mut child = place
        .command()
        .args(line.split_whitespace())
        .args(["--rate-limit", "8M"])
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let state = place.path("vm/.two.vhdx.vdisk-p2v/state.json");
    let done = || -> u64 {
        let text = fs::read_to_string(&state).unwrap_or_default();
        let state: serde_json::Value = serde_json::from_str(&text).unwrap_or_default();
        state["done"].as_u64().unwrap_or_default()
    };
    for _ in 0..3000 {
        if done() > 2 * MIB {
            break;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(!place.path("vm/one.vhdx").exists(), "it waits for the other");
    let done = place.run(&format!("{line} --output json")).code(0).json();
    assert_eq!(done["disks"][0]["resumed-at"], 4 * MIB, "{done}");
    assert_eq!(done["disks"][0]["written"], 0);
    assert!(done["disks"][1]["resumed-at"].as_u64().unwrap() > 2 * MIB, "{done}");
    for ((name, _), bytes) in disks.iter().zip(bytes) {
        let digest = place.run(&format!("checksum vm/{name}.vhdx")).ok().out;
        assert!(digest.starts_with(&sha256(&bytes)), "{name}: {digest}");
    }
}
