//! Logical volumes of groups that LVM2's own tools made, over loop devices but without the device
//! mapper; `lvs` and GRUB tell what is where.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;

use common::{open, there};
use vdisk_core::{Disk, ErrorKind};
use vdisk_parts::lvm::{self, VolumeGroup};
use vdisk_parts::{VolumeKind, recognise};
use vdisk_testkit::VecDisk;
use vdisk_testkit::lvm::Lvm;
use vdisk_testkit::tools::{must, said, sha256};

const MIB: u64 = 1 << 20;

/// The disks as their files have them now.
fn disks(lvm: &Lvm) -> Vec<Arc<dyn Disk>> {
    must("sync", &[]);
    lvm.files.iter().map(|file| open(file)).collect()
}

fn group(disks: &[Arc<dyn Disk>]) -> VolumeGroup {
    let mut groups = lvm::scan(disks).unwrap();
    assert_eq!(groups.len(), 1);
    groups.remove(0)
}

fn bytes(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; disk.len() as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// The digest of what GRUB reads of a logical volume of `vg_test`.
fn grub(files: &[PathBuf], name: &str, len: u64) -> Option<String> {
    if !there("grub", &["grub-fstest"]) {
        return None;
    }
    let count = files.len().to_string();
    let list = format!("(lvm/vg_test-{name})0+{}", len / 512);
    let mut command = Command::new("grub-fstest");
    let done = command.args(["-c", &count]).args(files).args(["cat", &list]).output().unwrap();
    assert!(done.status.success(), "{}", said(&done));
    assert_eq!(done.stdout.len() as u64, len);
    Some(sha256(&done.stdout))
}

#[test]
fn volumes_over_several_disks() {
    let Some(lvm) = Lvm::blank(&[48; 3]) else { return };
    let all = [lvm.device(0), lvm.device(1), lvm.device(2)];
    lvm.run("pvcreate", &[&["-ff", "-y"][..], &all].concat());
    lvm.run("vgcreate", &[&["--physicalextentsize", "1M", "vg_test"][..], &all].concat());
    let create = |args: &[&str]| {
        lvm.run("lvcreate", &[&["-an", "-Zn", "-Wn", "-y"][..], args, &["vg_test"]].concat());
    };
    create(&["-L", "5M", "-n", "first"]);
    create(&["-i", "3", "-I", "16k", "-L", "12M", "-n", "striped"]);
    create(&["-L", "3M", "-n", "between"]);
    // Grown: more segments, of both kinds, on several disks.
    lvm.run("lvextend", &["-i", "1", "-L", "70M", "vg_test/first"]);
    lvm.run("lvextend", &["-i", "2", "-I", "64k", "-L", "+8M", "vg_test/striped"]);
    // Content by which each place is known.
    let mut random = fastrand::Rng::with_seed(5);
    for file in &lvm.files {
        let mut data = vec![0; 46 * MIB as usize];
        random.fill(&mut data);
        let file = std::fs::OpenOptions::new().write(true).open(file).unwrap();
        std::os::unix::fs::FileExt::write_all_at(&file, &data, 2 * MIB).unwrap();
    }
    let disks = self::disks(&lvm);
    let group = group(&disks);
    assert_eq!((group.name(), group.missing().count()), ("vg_test", 0));
    assert_eq!(group.findings(), []);
    let told = lvm.run("vgs", &["--noheadings", "-o", "vg_uuid,vg_seqno"]);
    let ours = format!("{} {}", group.uuid(), group.sequence_number());
    assert_eq!(told.split_whitespace().collect::<Vec<_>>().join(" "), ours);
    for (disk, device) in disks.iter().zip(&all) {
        let volume = recognise(&**disk).unwrap().unwrap();
        assert_eq!(volume.kind, VolumeKind::Lvm2);
        let told = lvm.run("pvs", &["--noheadings", "-o", "pv_uuid", device]);
        assert_eq!(volume.uuid.as_deref(), Some(told.trim()));
    }
    let fields = "lv_name,lv_uuid,lv_size";
    let told = lvm.run("lvs", &["--noheadings", "--units", "b", "--nosuffix", "-o", fields]);
    let mut told: Vec<String> =
        told.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    told.sort();
    let mut ours: Vec<String> = group
        .volumes()
        .map(|volume| format!("{} {} {}", volume.name, volume.uuid, volume.len.unwrap()))
        .collect();
    ours.sort();
    assert_eq!(ours, told);
    let kinds: Vec<&str> = group.volumes().map(|volume| volume.kind).collect();
    assert_eq!(kinds, ["linear", "striped", "linear"]);
    where_segments_stand(&lvm, &group);
    for info in group.volumes() {
        reads_where_it_says(&group, info.name, &disks);
    }
    for info in group.volumes() {
        let ours = bytes(&group.open(info.name).unwrap());
        if let Some(told) = grub(&lvm.files, info.name, ours.len() as u64) {
            assert_eq!(sha256(&ours), told, "{}", info.name);
        }
    }
    // Without a disk: what does not stand on it can be read.
    let fewer = self::group(&disks[..1]);
    assert_eq!(fewer.missing().count(), 2);
    let error = fewer.open("striped").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert_eq!(fewer.open("nonesuch").unwrap_err().kind(), ErrorKind::NotFound);
    assert_eq!(
        sha256(&bytes(&fewer.open("between").unwrap())),
        sha256(&bytes(&group.open("between").unwrap()))
    );
}

/// Compares where each segment starts with what lvs says of it.
fn where_segments_stand(lvm: &Lvm, group: &VolumeGroup) {
    let first: u64 = {
        let args = ["--noheadings", "--units", "b", "--nosuffix", "-o", "pe_start"];
        lvm.run("pvs", &args).split_whitespace().next().unwrap().parse().unwrap()
    };
    let fields = "lv_name,seg_start,devices";
    let args = ["--segments", "--noheadings", "--units", "b", "--nosuffix", "-o", fields];
    let told = lvm.run("lvs", &args);
    assert!(told.lines().count() >= 5, "{told}");
    for line in told.lines() {
        let [name, start, devices] = line.split_whitespace().collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let start: u64 = start.parse().unwrap();
        let volume = group.open(name).unwrap();
        let piece = volume.map(start..start + 1).unwrap().next().unwrap();
        let (device, extent) = devices.split(',').next().unwrap().split_once('(').unwrap();
        let extent: u64 = extent.trim_end_matches(')').parse().unwrap();
        assert_eq!(lvm.device(piece.disk), device, "{line}");
        assert_eq!(piece.offset, first + extent * MIB, "{line}");
    }
}

/// Reads, maps and extents tell the same, at any place.
fn reads_where_it_says(group: &VolumeGroup, name: &str, disks: &[Arc<dyn Disk>]) {
    let volume = group.open(name).unwrap();
    let whole = bytes(&volume);
    let mut random = fastrand::Rng::with_seed(9);
    for _ in 0..200 {
        let start = random.u64(0..volume.len());
        let end = random.u64(start..=volume.len().min(start + 300_000));
        let mut read = vec![0; (end - start) as usize];
        volume.read_at(&mut read, start).unwrap();
        assert!(read == whole[start as usize..end as usize], "{name} {start}..{end}");
        let mut at = start;
        for piece in volume.map(start..end).unwrap() {
            assert_eq!(piece.start, at);
            let mut bytes = vec![0; piece.len as usize];
            disks[piece.disk].read_at(&mut bytes, piece.offset).unwrap();
            assert!(bytes == whole[at as usize..][..bytes.len()]);
            at += piece.len;
        }
        assert_eq!(at, end);
    }
    let mut at = 0;
    for extent in volume.extents(0..volume.len()) {
        let extent = extent.unwrap();
        assert_eq!(extent.start, at);
        if let vdisk_core::ExtentKind::Data { store, at: place } = extent.kind {
            let mut bytes = vec![0; extent.len as usize];
            volume.store(store).unwrap().read_exact_at(&mut bytes, place).unwrap();
            assert!(bytes == whole[at as usize..][..bytes.len()]);
        }
        at = extent.end();
    }
    assert_eq!(at, volume.len());
    assert!(volume.read_at(&mut [0; 2], volume.len() - 1).is_err());
    assert!(volume.map(0..volume.len() + 1).is_err());
}

#[test]
fn metadata_runs_around_the_end_of_its_area() {
    let Some(lvm) = Lvm::blank(&[48]) else { return };
    lvm.run(
        "pvcreate",
        &[
            "-ff",
            "-y",
            "--metadatasize",
            "16k",
            "--dataalignment",
            "64k",
            "--labelsector",
            "3",
            lvm.device(0),
        ],
    );
    lvm.run("vgcreate", &["vg", lvm.device(0)]);
    lvm.run("lvcreate", &["-an", "-Zn", "-Wn", "-y", "-L", "4M", "-n", "lv0", "vg"]);
    let mut wrapped = 0;
    for round in 1..100 {
        let (old, new) = (format!("lv{}", round - 1), format!("lv{round}"));
        lvm.run("lvrename", &["vg", &old, &new]);
        let group = group(&disks(&lvm));
        assert_eq!(group.volumes().map(|volume| volume.name).collect::<Vec<_>>(), [&new]);
        assert_eq!(group.sequence_number(), round + 2);
        // Where the text starts near the end of the area, it goes on behind the header.
        let file = std::fs::read(&lvm.files[0]).unwrap();
        let at = area(&file);
        let field = |at: usize| u64_at(&file, at);
        wrapped += usize::from(field(at + 40) + field(at + 48) > field(at + 32));
    }
    assert!(wrapped > 0);
}

/// Where the metadata area's header stands.
fn area(disk: &[u8]) -> usize {
    disk.windows(16).position(|bytes| bytes == b" LVM2 x[5A%r0N*>").unwrap() - 4
}

fn u64_at(disk: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(disk[at..at + 8].try_into().unwrap())
}

#[test]
fn damage_is_told_and_another_copy_used() {
    let Some(lvm) = Lvm::blank(&[48; 2]) else { return };
    let all = [lvm.device(0), lvm.device(1)];
    lvm.run("pvcreate", &[&["-ff", "-y"][..], &all].concat());
    lvm.run("vgcreate", &[&["vg"][..], &all].concat());
    lvm.run("lvcreate", &["-an", "-Zn", "-Wn", "-y", "-L", "4M", "-n", "a", "vg"]);
    let old: Vec<Vec<u8>> = disks(&lvm).iter().map(|disk| bytes(&**disk)).collect();
    lvm.run("lvrename", &["vg", "a", "b"]);
    let new: Vec<Vec<u8>> = disks(&lvm).iter().map(|disk| bytes(&**disk)).collect();
    let scan = |images: [&[u8]; 2]| {
        let disks = images.map(|image| Arc::new(VecDisk(image.to_vec())) as Arc<dyn Disk>);
        lvm::scan(&disks)
    };
    let names = |group: &VolumeGroup| group.volumes().next().unwrap().name.to_owned();
    for images in [[&old[0][..], &new[1]], [&new[0], &old[1]]] {
        let groups = scan(images).unwrap();
        assert_eq!(names(&groups[0]), "b");
        assert_eq!(groups[0].findings()[0].code, "lvm-metadata-older");
    }
    // The text, then the area's header.
    let area = area(&new[0]);
    let text = area + u64_at(&new[0], area + 40) as usize;
    for at in [text + 4, area + 40] {
        let mut bad = new[0].clone();
        bad[at] ^= 1;
        let groups = scan([&bad, &new[1]]).unwrap();
        assert_eq!(names(&groups[0]), "b");
        assert_eq!(groups[0].findings()[0].code, "lvm-metadata-damaged");
        let mut other = new[1].clone();
        other[at] ^= 1;
        assert_eq!(scan([&bad, &other]).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    let mut label = new[0].clone();
    label[512 + 40] ^= 1;
    assert_eq!(scan([&label, &new[1]]).unwrap_err().kind(), ErrorKind::Corrupt);
    // Any change at all is survived.
    let mut random = fastrand::Rng::with_seed(3);
    for _ in 0..300 {
        let mut bad = new[0][..2 * MIB as usize].to_vec();
        for _ in 0..random.usize(1..4) {
            let at = random.usize(0..12_000);
            bad[at] = random.u8(..);
        }
        for group in scan([&bad, &new[1][..2 * MIB as usize]]).into_iter().flatten() {
            for volume in group.volumes() {
                let _ = group.open(volume.name);
            }
        }
    }
}
