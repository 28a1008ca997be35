//! A Linux through `p2v`: its files, compared one by one with the source, differ only where the
//! report says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use common::Place;
use serde_json::Value;
use vdisk_fixup::Plan;
use vdisk_testkit::loops::{Loop, Mounted};
use vdisk_testkit::machines::{Part, assemble, programs};
use vdisk_testkit::tools::{arg, must, sha256_file};
use vdisk_testkit::tree::fill;

type Files = BTreeMap<String, [Value; 2]>;

/// The guest's files, with what only its own file system keeps.
fn put_guest(root: &Path) {
    let write = |path: &str, text: &[u8]| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write("etc/os-release", b"ID=debian\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n");
    write("etc/fstab", b"/dev/sda1 / ext4 defaults 0 1\n");
    write("etc/machine-id", b"0123456789abcdef0123456789abcdef\n");
    write("etc/udev/rules.d/70-persistent-net.rules", b"ATTR{address}==\"52:54:00:aa:bb:01\"\n");
    write("var/lib/systemd/random-seed", &[5; 512]);
    write("var/log/journal/0123456789abcdef0123456789abcdef/system.journal", &[1; 9000]);
    write("boot/vmlinuz-6.1", b"kernel");
    let modules = "lib/modules/6.1";
    write(
        &format!("{modules}/modules.dep"),
        b"kernel/virtio_pci.ko: kernel/virtio.ko\nkernel/virtio.ko:\n\
          kernel/virtio_scsi.ko: kernel/virtio.ko\n",
    );
    write(&format!("{modules}/modules.builtin"), b"kernel/sd_mod.ko\n");
    write(&format!("{modules}/modules.alias"), b"alias pci:v00001AF4* virtio_pci\n");
    for name in ["virtio_pci", "virtio", "virtio_scsi"] {
        write(&format!("{modules}/kernel/{name}.ko"), name.as_bytes());
    }
    // Debian's, which loads what conf/modules names.
    let initramfs = tempfile::tempdir().unwrap();
    fs::create_dir_all(initramfs.path().join("conf")).unwrap();
    fs::create_dir_all(initramfs.path().join("usr/lib")).unwrap();
    symlink("usr/lib", initramfs.path().join("lib")).unwrap();
    for name in ["init", "conf/modules", "conf/initramfs.conf"] {
        fs::write(initramfs.path().join(name), "").unwrap();
    }
    let to = arg(&root.join("boot/initrd.img-6.1")).to_owned();
    let folder = arg(initramfs.path());
    must("sh", &["-c", &format!("cd {folder} && find . | cpio -o -H newc --quiet | gzip > {to}")]);

    fill(&root.join("srv"));
    fs::hard_link(root.join("srv/small.txt"), root.join("srv/again.txt")).unwrap();
    must("mknod", &["-m", "640", arg(&root.join("srv/null")), "c", "1", "3"]);
    must("mkfifo", &[arg(&root.join("srv/pipe"))]);
    must("chmod", &["4750", arg(&root.join("srv/medium.bin"))]);
    must("chown", &["1000:50", arg(&root.join("srv/medium.bin")), arg(&root.join("srv/deep"))]);
    must("touch", &["-d", "2001-02-03 04:05:06.789", arg(&root.join("srv/big.bin"))]);
    let attributes = "import os, sys\nos.setxattr(sys.argv[1], 'user.colour', b'blue' * 100)\n\
        os.setxattr(sys.argv[1], 'security.capability', bytes.fromhex('0100000200200000' + '00' * 12))";
    must("python3", &["-c", attributes, arg(&root.join("srv/empty"))]);
}

/// All files of the volume in the disk's first partition.
fn files(place: &Place, disk: &str, kind: &str) -> Files {
    let device = partition(place, disk, &["--read-only"]).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let options = if kind == "xfs" { "ro,nouuid,norecovery" } else { "ro,noload" };
    must("mount", &["-t", kind, "-o", options, arg(&device.path), arg(folder.path())]);
    let _mounted = Mounted { point: folder.path().to_owned() };
    let all = common::attributes(folder.path()).into_iter();
    all.map(|(path, [lasting, content, _])| (path, [lasting, content])).collect()
}

fn partition(place: &Place, disk: &str, more: &[&str]) -> Option<Loop> {
    let len = (fs::metadata(place.path(disk)).unwrap().len() - (2 << 20)).to_string();
    Loop::attach(&place.path(disk), &[&["--offset", "1048576", "--sizelimit", &len], more].concat())
}

fn moved(kind: &str, mib: u64, maker: &[&str], identity: &str) {
    if !programs(&[maker[0], "sfdisk", "cpio", "python3"]) {
        return;
    }
    let place = Place::new();
    let empty = place.path("empty");
    fs::File::create(&empty).and_then(|file| file.set_len(mib << 20)).unwrap();
    let part = Part { kind: "83", more: "bootable", content: &empty };
    assemble(&place.path("disk"), "dos", "0x1234abcd", &[part]);
    let Some(device) = partition(&place, "disk", &[]) else { return };
    must(maker[0], &[&maker[1..], &[arg(&device.path)]].concat());
    let Some(mounted) = Mounted::new(&device.path, &place.path("mnt")) else { return };
    put_guest(&mounted.point);
    drop((mounted, device));

    let Some(device) = Loop::attach(&place.path("disk"), &[]) else { return };
    let before = sha256_file(&place.path("disk"));
    let from = arg(&device.path);
    let line = format!("p2v {from} vm.vhdx --target kvm --identity {identity} --output json");
    let done = place.run(&line).code(0).json();
    drop(device);
    assert_eq!(sha256_file(&place.path("disk")), before, "the source was written to");
    place.run("convert vm.vhdx after.raw").ok();
    let plan: Plan = serde_json::from_value(done["disks"][0]["plan"].clone()).unwrap();
    assert!(plan.actions.len() > 2, "{plan:?}");
    compare(&files(&place, "disk", kind), &files(&place, "after.raw", kind), &plan);
}

fn compare(old: &Files, new: &Files, plan: &Plan) {
    let said = |path: &str| {
        plan.actions.iter().any(|action| {
            let rest = path.strip_prefix(&action.place);
            rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".pub")
        })
    };
    let mut differ = 0;
    for path in old.keys().chain(new.keys()) {
        let (before, after) = (old.get(path), new.get(path));
        if before == after {
            continue;
        }
        differ += 1;
        // A folder's time and links change with the names in it.
        let below = |other: &String| {
            Path::new(other).parent() == Some(Path::new(path.trim_end_matches("/.")))
                && old.contains_key(other) != new.contains_key(other)
                && said(other)
        };
        let names_changed = old.keys().chain(new.keys()).any(below);
        assert!(said(path) || names_changed, "{path} differs, and no action says so");
        if let (Some(before), Some(after)) = (before, after) {
            assert_eq!(before[0], after[0], "{path}: mode, owner and attributes stay");
        }
    }
    assert!(differ > 2, "something was to change");
}

#[test]
fn a_copy_on_ext4_differs_only_where_the_report_says() {
    moved("ext4", 64, &["mke2fs", "-q", "-t", "ext4"], "new");
}

#[test]
fn a_move_on_ext4_differs_only_where_the_report_says() {
    moved("ext4", 64, &["mke2fs", "-q", "-t", "ext4", "-b", "4096"], "keep");
}

#[test]
fn a_copy_on_xfs_differs_only_where_the_report_says() {
    moved("xfs", 320, &["mkfs.xfs", "-q", "-f"], "new");
}
