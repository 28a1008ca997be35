//! The machine's disks, from made trees of `/sys` and `/proc` and from this machine.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::ffi::OsStr;
use std::fs;
use std::path::Path;

use vdisk::ErrorKind;
use vdisk_p2v::{Machine, Use};
use vdisk_testkit::loops::Loop;

/// A machine with a SATA disk (LVM on it, root on that), an NVMe disk that nothing uses, a loop
/// device and an optical drive.
fn made(root: &Path) {
    let write = |path: &str, text: &str| {
        let path = root.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    let sda = "sys/block/sda";
    for (file, text) in [
        ("dev", "8:0\n"),
        ("size", "2048000\n"),
        ("ro", "0\n"),
        ("removable", "0\n"),
        ("queue/logical_block_size", "512\n"),
        ("queue/physical_block_size", "4096\n"),
        ("queue/rotational", "1\n"),
        ("device/vendor", "ATA     \n"),
        ("device/model", "WDC WD10EZEX-00B\n"),
        ("device/vpd_pg80", "\0\u{1}\0\u{10}     WD-WCC3F123"),
        ("sda1/partition", "1\n"),
        ("sda1/dev", "8:1\n"),
        ("sda1/start", "2048\n"),
        ("sda1/size", "204800\n"),
        ("sda2/partition", "2\n"),
        ("sda2/dev", "8:2\n"),
        ("sda2/start", "206848\n"),
        ("sda2/size", "1024000\n"),
        ("sda2/holders/dm-0/x", ""),
    ] {
        write(&format!("{sda}/{file}"), text);
    }
    write("sys/block/dm-0/dev", "253:0\n");
    write("sys/block/dm-0/size", "1024\n");
    write("sys/block/dm-0/dm/uuid", "LVM-abc\n");
    for (file, text) in [
        ("dev", "259:0\n"),
        ("size", "1000\n"),
        ("queue/logical_block_size", "4096\n"),
        ("queue/rotational", "0\n"),
        ("device/model", "Samsung SSD 980\n"),
        ("device/serial", "S64DNX0 \n"),
    ] {
        write(&format!("sys/block/nvme0n1/{file}"), text);
    }
    // The first path to that disk, which has no node.
    for (file, text) in [("hidden", "1\n"), ("size", "1000\n"), ("device/serial", "S64DNX0 \n")] {
        write(&format!("sys/block/nvme0c0n1/{file}"), text);
    }
    write("sys/block/loop0/size", "99\n");
    write("sys/block/sr0/size", "99\n");
    write(
        "proc/self/mountinfo",
        "22 1 253:0 / / rw,relatime shared:1 - ext4 /dev/mapper/vg-root rw\n\
         23 22 8:1 / /boot/a\\040b ro,relatime - vfat /dev/sda1 rw\n\
         24 22 0:21 / /proc rw - proc proc rw\n",
    );
    write("proc/swaps", "Filename Type Size Used Priority\n");
    let by_id = root.join("dev/disk/by-id");
    fs::create_dir_all(&by_id).unwrap();
    std::os::unix::fs::symlink("../../sda", by_id.join("ata-WDC_WD-WCC3F123")).unwrap();
    std::os::unix::fs::symlink("../../sda1", by_id.join("ata-WDC_WD-WCC3F123-part1")).unwrap();
}

#[test]
fn a_made_machine_is_told_as_it_is() {
    let root = tempfile::tempdir().unwrap();
    made(root.path());
    let machine = Machine::at(root.path());
    let disks = machine.disks().unwrap();
    let names: Vec<&str> = disks.iter().map(|disk| disk.name.as_str()).collect();
    assert_eq!(names, ["sda", "nvme0n1"]);
    let (sda, nvme) = (&disks[0], &disks[1]);
    assert_eq!(sda.path, Path::new("/dev/sda"));
    assert_eq!(sda.model.as_deref(), Some("WDC WD10EZEX-00B"));
    assert_eq!(sda.serial.as_deref(), Some("WD-WCC3F123"));
    assert_eq!(sda.by_id, ["ata-WDC_WD-WCC3F123"]);
    assert_eq!(
        (sda.size, sda.logical_sector_size, sda.physical_sector_size),
        (2_048_000 * 512, 512, 4096)
    );
    assert_eq!((sda.rotational, nvme.rotational), (Some(true), Some(false)));
    assert_eq!(sda.partitions.len(), 2);
    assert_eq!((sda.partitions[1].start, sda.partitions[1].size), (206_848 * 512, 1_024_000 * 512));
    assert_eq!(
        sda.partitions[0].uses,
        [Use::Mount { point: "/boot/a b".into(), filesystem: "vfat".into(), read_only: true }]
    );
    assert_eq!(
        sda.partitions[1].uses,
        [
            Use::Holder { name: "dm-0".into(), layer: "lvm" },
            Use::Mount { point: "/".into(), filesystem: "ext4".into(), read_only: false },
        ]
    );
    assert!(sda.is_of_system() && !nvme.is_of_system());
    let error = sda.refuse_used().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InUse);
    assert!(error.message().contains("/dev/sda2 is held by dm-0 (lvm)"), "{error}");
    nvme.refuse_used().unwrap();
    assert_eq!(nvme.serial.as_deref(), Some("S64DNX0"));
    assert_eq!(nvme.logical_sector_size, 4096);

    let found = |name: &str| machine.find(OsStr::new(name)).unwrap().map(|disk| disk.name);
    assert_eq!(found("S64DNX0").as_deref(), Some("nvme0n1"));
    assert_eq!(found("ata-WDC_WD-WCC3F123").as_deref(), Some("sda"));
    assert_eq!(found("nothing"), None);
    assert_eq!(nvme.confirmation(), "S64DNX0");
    // Two disks of one serial number, as cheap ones have.
    fs::write(root.path().join("sys/block/nvme0n1/device/serial"), "WD-WCC3F123").unwrap();
    let disks = machine.disks().unwrap();
    let confirmed: Vec<String> = disks.iter().map(|disk| disk.confirmation()).collect();
    assert_eq!(confirmed, ["/dev/sda", "/dev/nvme0n1"]);
    let error = machine.find(OsStr::new("WD-WCC3F123")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}

#[test]
fn this_machine_can_be_told() {
    let machine = Machine::default();
    machine.disks().unwrap();
    let file = tempfile::NamedTempFile::new().unwrap();
    file.as_file().set_len(3 << 20).unwrap();
    let Some(device) = Loop::attach(file.path(), &["--sector-size", "4096"]) else { return };
    let found = machine.find(device.path.as_os_str()).unwrap().unwrap();
    assert_eq!(
        (found.path, found.size, found.logical_sector_size),
        (device.path.clone(), 3 << 20, 4096)
    );
    assert!(found.model.unwrap().starts_with("loop of"));
    assert_eq!(found.backing_file.as_deref(), Some(file.path()));
    // A loop device over it uses it, though the kernel does not say so.
    let Some(_upper) = Loop::attach(&device.path, &[]) else { return };
    let used = machine.find(device.path.as_os_str()).unwrap().unwrap();
    assert!(matches!(&used.uses[..], [Use::Holder { layer: "loop", .. }]), "{:?}", used.uses);
}
