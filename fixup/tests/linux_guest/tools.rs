//! The guest's own program makes an initramfs, in a sandbox.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use vdisk_fixup::{AdaptOptions, Machine, Plan, Target, adapt};
use vdisk_testkit::VecDisk;
use vdisk_testkit::machines::programs;
use vdisk_testkit::tools::{arg, must, skip};

use crate::guest::{Guest, carry_out, cat, ids, tools};

/// Stands for Debian's: says what it sees, tries what it must not, and makes what was made before.
const MKINITRAMFS: &str = r#"#!/bin/sh
echo devices: /dev/*
echo links: $(cut -d: -f1 -s /proc/net/dev)
echo processes: $(cd /proc && echo [0-9]*)
mknod /disk b 7 0 && echo HOLE: a device
mount -t tmpfs none /run && echo HOLE: a mount
(cat /proc/sys/kernel/pid_max > /proc/sys/kernel/pid_max) && echo HOLE: settings of the kernel
(echo b > /proc/sysrq-trigger) && echo HOLE: the machine starts anew
chroot / true && echo HOLE: another root
cat /etc/initramfs-tools/conf.d/zz-vdisk
touch /home && echo written
[ -e /data ] && echo HOLE: more than what it needs
chmod 755 / && cp /bin/sh /shell && chmod 4755 /shell && sleep 1 && chmod 700 /shell
[ "$3" = 6.1 ] && exec cp /usr/prepared "$2"
"#;

/// Puts programs of the host into the guest, with what they are linked to.
fn put_programs(guest: &Guest, names: &[&str]) {
    let root = arg(guest.0.path());
    for name in names {
        let path = must("sh", &["-c", &format!("readlink -f $(which {name})")]);
        let script = format!(
            "mkdir -p {root}/bin && cp {0} {root}/bin/{name} && \
             ldd {0} | grep -o '/[^ ]*' | while read lib; do cp --parents $lib {root}; done",
            path.trim()
        );
        must("sh", &["-c", &script]);
    }
}

/// As of dracut with its module `squash`.
#[test]
fn modules_in_a_squashfs_are_for_the_guests_tools() {
    if !tools() {
        return;
    }
    let guest = Guest::new("fedora");
    guest.file("usr/bin/dracut", "");
    guest.initramfs("boot/initramfs-6.1.img", &[("squashfs-root.img", "hsqs")], &["gzip"]);
    let (_, plan) = adapted(guest.disk().path(), false);
    let refusal = &plan.refusals[0];
    assert!(refusal.message.contains("SquashFS"), "{refusal:?}");
    let hint = refusal.hint.as_ref().unwrap();
    assert!(hint.contains("--run-guest-tools") && hint.contains("dracut"), "{hint}");
    // There is nothing to tell what machine its programs are for.
    let (_, plan) = adapted(guest.disk().path(), true);
    assert!(plan.refusals[0].message.contains("an unknown machine"), "{plan:?}");
}

fn adapted(image: &std::path::Path, allowed: bool) -> (Machine, Plan) {
    let disk = Arc::new(VecDisk(std::fs::read(image).unwrap()));
    let mut machine = Machine::open(disk, 512).unwrap();
    let mut plan = Plan::default();
    let mut options = AdaptOptions::new(Target::Kvm);
    options.run_guest_tools = allowed;
    adapt(&mut machine, &options, &mut plan).unwrap();
    (machine, plan)
}

fn can_run() -> bool {
    let is_root = std::fs::metadata("/proc/self").unwrap().uid() == 0;
    if !is_root {
        skip("bwrap", "running the guest's tools takes root");
    }
    is_root && tools() && programs(&["bwrap", "xz"])
}

#[test]
fn it_runs_if_allowed_within_walls_and_what_it_makes_is_looked_at() {
    if !can_run() {
        return;
    }
    let guest = Guest::new("debian");
    put_programs(
        &guest,
        &["sh", "cat", "cp", "cut", "mknod", "mount", "chroot", "touch", "true", "chmod", "sleep"],
    );
    guest.initramfs(
        "boot/initrd.img-6.1",
        &[("scripts/init-top/udev", "")],
        &["xz", "--format=lzma"],
    );
    guest.file("etc/initramfs-tools/modules", "");
    guest.file("etc/initramfs-tools/conf.d/own", "MODULES=dep\n");
    guest.file("home/secret", "not for tools\n");
    // As on XFS it could have 8 EiB.
    guest.file("data/huge", "");
    let huge = std::fs::File::options().write(true).open(guest.0.path().join("data/huge"));
    huge.unwrap().set_len(1 << 40).unwrap();
    for (name, text) in [("update-initramfs", ""), ("mkinitramfs", MKINITRAMFS)] {
        let path = format!("usr/sbin/{name}");
        guest.file(&path, text);
        let mode = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(guest.0.path().join(path), mode).unwrap();
    }
    // What it makes lacks a module at first.
    guest.initramfs("usr/prepared", &[("usr/lib/modules/6.1/kernel/virtio_pci.ko", "")], &["gzip"]);
    let (_, plan) = adapted(guest.disk().path(), true);
    let refusal = &plan.refusals[0];
    assert!(refusal.message.contains("left virtio_scsi out"), "{refusal:?}");

    let made =
        ["virtio_pci", "virtio_scsi"].map(|name| format!("usr/lib/modules/6.1/kernel/{name}.ko"));
    let made: Vec<(&str, &str)> = made.iter().map(|path| (path.as_str(), "")).collect();
    guest.initramfs("usr/prepared", &made, &["gzip"]);
    let image = guest.disk();
    let (_, plan) = adapted(image.path(), false);
    assert!(plan.refusals[0].hint.as_ref().unwrap().contains("--run-guest-tools"), "{plan:?}");
    let ended = AtomicBool::new(false);
    let ((machine, plan), seen) = std::thread::scope(|scope| {
        let seen = scope.spawn(|| shells(&ended));
        let done = adapted(image.path(), true);
        ended.store(true, Ordering::Relaxed);
        (done, seen.join().unwrap())
    });
    assert_eq!(plan.refusals, []);
    // What it gave rights to can be reached by nobody else.
    assert!(!seen.is_empty());
    assert!(seen.iter().all(|mode| mode & 0o7777 == 0o700), "{seen:?}");
    let action = plan.actions.iter().find(|one| one.id == "linux.initramfs.made").unwrap();
    let said = action.after.as_ref().unwrap();
    assert!(!said.contains("HOLE"), "{said}");
    for words in ["links: lo ", "processes: 1 ", "MODULES=most", "COMPRESS=gzip", "written"] {
        assert!(said.contains(words), "{words}: {said}");
    }
    let devices = said.split_once("devices: ").unwrap().1.split_once(" links").unwrap().0;
    for device in devices.split(' ') {
        let name = device.strip_prefix("/dev/").unwrap();
        let known = [
            "console", "core", "fd", "full", "null", "ptmx", "pts", "random", "shm", "stderr",
            "stdin", "stdout", "tty", "urandom", "zero",
        ];
        assert!(known.contains(&name), "{devices}");
    }

    carry_out(&machine, image.path());
    let prepared = std::fs::read(guest.0.path().join("usr/prepared")).unwrap();
    assert_eq!(cat(image.path(), "/boot/initrd.img-6.1"), prepared);
    // Nothing else that it did is in the guest.
    assert_eq!(cat(image.path(), "/home/secret"), b"not for tools\n");
    assert_eq!(cat(image.path(), "/etc/initramfs-tools/conf.d/zz-vdisk"), b"");
    assert_eq!(ids(&adapted(image.path(), true).1), Vec::<&str>::new());
}

/// The rights of the folders of the host in which a program that all may run as root was seen.
fn shells(ended: &AtomicBool) -> Vec<u32> {
    let mut seen = Vec::new();
    while !ended.load(Ordering::Relaxed) {
        let folders = std::fs::read_dir(std::env::temp_dir()).unwrap().flatten();
        for folder in folders.map(|entry| entry.path()) {
            if !arg(&folder).contains("vdisk-guest-") {
                continue;
            }
            let is_shell = |path: &str| {
                let found = folder.join(path).metadata();
                found.is_ok_and(|found| found.mode() & 0o7777 == 0o4755)
            };
            if is_shell("shell") || is_shell("root/shell") {
                seen.extend(folder.metadata().map(|found| found.mode()));
            }
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    seen
}

/// A name in the guest's root that is a path of the host.
#[test]
fn no_name_in_the_guest_leads_to_the_host() {
    if !can_run() {
        return;
    }
    let hole = format!("/tmp/vdisk-hole-{}", std::process::id());
    let guest = Guest::new("debian");
    let lzma = ["xz", "--format=lzma"];
    guest.initramfs("boot/initrd.img-6.1", &[("scripts/init-top/udev", "")], &lzma);
    put_programs(&guest, &["sh"]);
    guest.file("usr/sbin/mkinitramfs", "");
    guest.file("usr/sbin/update-initramfs", "");
    guest.file(&hole[1..], "from the guest");
    guest.file(&hole.replace('/', "!"), "from the guest");
    // Without checksums of directories a name can be changed in place.
    let image = guest.disk_with(&["-t", "ext4", "-O", "^metadata_csum,^dir_index"]);
    let mut disk = std::fs::read(image.path()).unwrap();
    let name = hole.replace('/', "!");
    let at = memchr::memmem::find(&disk, name.as_bytes()).unwrap();
    disk[at..at + name.len()].copy_from_slice(hole.as_bytes());
    std::fs::write(image.path(), disk).unwrap();
    let (_, plan) = adapted(image.path(), true);
    let there = std::fs::remove_file(&hole).is_ok();
    assert!(!there, "{plan:?}");
    // It came as far as to run them.
    assert!(plan.refusals[0].message.contains("initramfs-tools failed"), "{plan:?}");
}
