//! Partition tables: as sfdisk and sgdisk make and read them, and damaged ones.
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
use std::process::Command;

use common::{Loop, blank, open, sfdisk, there};
use serde_json::Value;
use vdisk_core::{Disk, ErrorKind};
use vdisk_parts::{PartitionType, Role, Table, TableKind};
use vdisk_testkit::VecDisk;
use vdisk_testkit::tools::{arg, must};

const MIB: u64 = 1 << 20;

/// What both sides say of a table, a line a partition.
#[derive(Debug, PartialEq)]
struct Told {
    kind: String,
    id: String,
    sector: u64,
    partitions: Vec<String>,
}

fn ours(table: &Table) -> Told {
    let partitions = table.partitions.iter().map(|one| {
        let kind = match one.kind {
            PartitionType::Gpt(guid) => guid.to_string(),
            PartitionType::Mbr(byte) => format!("{byte:x}"),
        };
        let uuid = one.uuid.map(|uuid| uuid.to_string()).unwrap_or_default();
        let name = one.name.clone().unwrap_or_default();
        let active = matches!(table.kind, TableKind::Mbr) && one.active;
        line(u64::from(one.number), one.start, one.len, &kind, &uuid, &name, active)
    });
    Told {
        kind: table.kind.name().into(),
        id: table.id.map(|id| id.to_string()).unwrap_or_default(),
        sector: table.sector_size,
        partitions: partitions.collect(),
    }
}

fn line(n: u64, start: u64, len: u64, kind: &str, uuid: &str, name: &str, active: bool) -> String {
    format!("{n}: {start}+{len} {kind} {uuid} {name:?} {active}").to_lowercase()
}

/// What sfdisk says of a file or device.
fn theirs(path: &Path) -> Told {
    let json = must("sfdisk", &["--json", arg(path)]);
    let json: Value = serde_json::from_str(&json).unwrap();
    let table = &json["partitiontable"];
    let sector = table["sectorsize"].as_u64().unwrap();
    let partitions = table["partitions"].as_array().cloned().unwrap_or_default();
    let partitions = partitions.iter().map(|one| {
        let text = |key: &str| one[key].as_str().unwrap_or_default();
        let bytes = |key: &str| one[key].as_u64().unwrap() * sector;
        let node = text("node").strip_prefix(arg(path)).unwrap().trim_start_matches('p');
        line(
            node.parse().unwrap(),
            bytes("start"),
            bytes("size"),
            text("type"),
            text("uuid"),
            text("name"),
            one["bootable"].as_bool().unwrap_or_default(),
        )
    });
    let label = table["label"].as_str().unwrap();
    Told {
        kind: if label == "dos" { "mbr".into() } else { label.into() },
        id: table["id"].as_str().unwrap().to_lowercase(),
        sector,
        partitions: partitions.collect(),
    }
}

fn codes(table: &Table) -> Vec<&'static str> {
    table.findings.iter().map(|finding| finding.code).collect()
}

const SCRIPTS: [&str; 6] = [
    "label: gpt\nsize=8MiB,type=uefi,name=\"EFI – Größe\"\nsize=4MiB,type=E3C9E316-0B5C-4DB8-817D-F92DF00215AE\n,\n",
    "label: gpt\ntable-length: 256\nfirst-lba: 4096\n\n7: size=8MiB,name=seven\n200: size=2MiB\n",
    "label: gpt\n\n",
    "label: dos\nlabel-id: 0x12ab34cd\nsize=8MiB,type=7,bootable\nsize=4MiB,type=c\n",
    "label: dos\nsize=4MiB,type=82\nsize=40MiB,type=5\nsize=4MiB\n5: size=4MiB,type=83\n6: size=4MiB,type=8e\n7: size=4MiB,type=7,bootable\n",
    "label: dos\n4: start=2048,size=8MiB,type=f\n5: size=2MiB\n6: size=2MiB,type=fd\n",
];

#[test]
fn tables_of_sfdisk() {
    if !there("sfdisk", &["sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (index, script) in SCRIPTS.iter().enumerate() {
        let path = blank(folder.path(), &format!("{index}.img"), 64 * MIB);
        sfdisk(&path, script);
        let table = Table::read(&*open(&path), 512).unwrap();
        assert_eq!(ours(&table), theirs(&path), "{script}");
        assert_eq!(codes(&table), <[&str; 0]>::default(), "{script}");
    }
}

#[test]
fn tables_of_large_sectors() {
    if !there("sfdisk", &["sfdisk", "losetup"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    // Offsets in sectors would make the last script's disk too small.
    for (index, script) in SCRIPTS[..5].iter().enumerate() {
        let path = blank(folder.path(), &format!("{index}.img"), 128 * MIB);
        let Some(device) = Loop::over(&path, 4096) else { return };
        sfdisk(&device.0, script);
        must("sync", &[arg(&device.0)]);
        let told = theirs(&device.0);
        let table = Table::read(&*open(&path), 4096).unwrap();
        assert_eq!(ours(&table), told, "{script}");
        assert_eq!(codes(&table), <[&str; 0]>::default(), "{script}");
        if told.kind == "gpt" {
            // The table is found by those who think of sectors of 512 bytes too.
            let table = Table::read(&*open(&path), 512).unwrap();
            assert_eq!(ours(&table), told, "{script}");
            assert_eq!(codes(&table), ["table-sector-size"]);
        } else {
            // Where something stands in a partition, that tells.
            let at = table.partitions[0].start as usize;
            let mut bytes = std::fs::read(&path).unwrap();
            assert_eq!(Table::read(&VecDisk(bytes.clone()), 512).unwrap().sector_size, 512);
            bytes[at..at + 4].copy_from_slice(b"XFSB");
            let table = Table::read(&VecDisk(bytes), 512).unwrap();
            assert_eq!(ours(&table), told, "{script}");
            assert_eq!(codes(&table), ["table-sector-size"]);
        }
    }
}

#[test]
fn tables_of_sgdisk() {
    if !there("sgdisk", &["sgdisk", "sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = blank(folder.path(), "s.img", 64 * MIB);
    let types = ["ef00", "0c01", "0700", "2700", "8300", "8200", "8e00", "fd00", "8304", "ef02"];
    for (index, code) in types.iter().enumerate() {
        let number = index + 1;
        let args = [format!("-n{number}:0:+4M"), format!("-t{number}:{code}")];
        must("sgdisk", &[&args[0], &args[1], "-A", &format!("{number}:set:63"), arg(&path)]);
    }
    must("sgdisk", &["-A", "3:set:2", arg(&path)]);
    let table = Table::read(&*open(&path), 512).unwrap();
    assert_eq!(ours(&table), theirs(&path));
    let roles: Vec<Role> = table.partitions.iter().map(|one| one.kind.role().unwrap()).collect();
    assert_eq!(
        roles,
        [
            Role::EfiSystem,
            Role::MicrosoftReserved,
            Role::BasicData,
            Role::WindowsRecovery,
            Role::LinuxFilesystem,
            Role::LinuxSwap,
            Role::LinuxLvm,
            Role::LinuxRaid,
            Role::LinuxRoot,
            Role::BiosBoot,
        ]
    );
    for one in &table.partitions {
        let told = must("sgdisk", &["-i", &one.number.to_string(), arg(&path)]);
        let field = |name: &str| {
            let line = told.lines().find_map(|line| line.strip_prefix(name)).unwrap();
            line.trim_start_matches(':').trim().to_lowercase()
        };
        assert_eq!(field("Partition unique GUID"), one.uuid.unwrap().to_string());
        assert_eq!(field("Attribute flags"), format!("{:016x}", one.attributes));
        let first = format!("{} (", one.start / 512);
        assert!(field("First sector").starts_with(&first), "{told}");
        assert_eq!(one.active, one.number == 3);
    }
    // A hybrid MBR does not hide the GPT.
    must("sgdisk", &["-h", "3:5", arg(&path)]);
    let table = Table::read(&*open(&path), 512).unwrap();
    assert_eq!(table.kind, TableKind::Gpt { hybrid: true });
    assert_eq!(table.partitions.len(), types.len());
    assert_eq!(codes(&table), ["mbr-hybrid"]);
}

/// A GPT with three partitions, in memory.
fn sample() -> Option<(Vec<u8>, Told)> {
    if !there("sfdisk", &["sfdisk"]) {
        return None;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = blank(folder.path(), "g.img", 8 * MIB);
    sfdisk(&path, "label: gpt\nsize=1MiB,name=a\nsize=2MiB,name=b\n,\n");
    Some((std::fs::read(&path).unwrap(), theirs(&path)))
}

#[test]
fn either_copy_is_enough() {
    let Some((bytes, told)) = sample() else { return };
    let last = bytes.len() - 512;
    // Header signature, header field, entries.
    let primary = [512, 512 + 60, 1024 + 140];
    let backup = [last, last + 60, last - 32 * 512 + 140];
    for at in primary.into_iter().chain(backup) {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        let table = Table::read(&VecDisk(bytes.clone()), 512).unwrap();
        assert_eq!(ours(&table), told, "byte {at}");
        let code = if primary.contains(&at) { "gpt-primary-damaged" } else { "gpt-backup-damaged" };
        assert_eq!(codes(&table), [code], "byte {at}");
        for other in if primary.contains(&at) { backup } else { primary } {
            let mut bytes = bytes.clone();
            bytes[other] ^= 1;
            let error = Table::read(&VecDisk(bytes), 512).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "bytes {at}, {other}: {error}");
        }
    }
}

#[test]
fn disks_that_changed_their_size() {
    let Some((bytes, told)) = sample() else { return };
    let mut longer = bytes.clone();
    longer.resize(bytes.len() + (3 << 20), 0);
    let table = Table::read(&VecDisk(longer.clone()), 512).unwrap();
    assert_eq!((ours(&table), codes(&table)), (told, vec!["gpt-backup-not-at-end"]));
    // The first sector tells where the backup was, when nothing else does.
    longer[520] ^= 1;
    let table = Table::read(&VecDisk(longer), 512).unwrap();
    assert_eq!(codes(&table), ["gpt-primary-damaged", "gpt-backup-not-at-end"]);
    assert_eq!(table.partitions.len(), 3);
    let shorter = VecDisk(bytes[..5 << 20].to_vec());
    let table = Table::read(&shorter, 512).unwrap();
    assert_eq!(
        codes(&table),
        ["gpt-backup-damaged", "gpt-disk-too-short", "partition-beyond-disk"]
    );
    let disk: std::sync::Arc<dyn Disk> = std::sync::Arc::new(shorter);
    let cut = table.partitions[2].open(disk).unwrap();
    assert_eq!(cut.len(), 1 << 20);
    assert!(cut.read_at(&mut [0; 2], cut.len() - 1).is_err());
    let disk: std::sync::Arc<dyn Disk> = std::sync::Arc::new(VecDisk(bytes[..2 << 20].to_vec()));
    let error = table.partitions[2].open(disk).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Truncated);
}

#[test]
fn a_gpt_without_its_mbr_counts_only_where_nothing_else_does() {
    let Some((mut bytes, told)) = sample() else { return };
    bytes[..512].fill(0);
    let table = Table::read(&VecDisk(bytes.clone()), 512).unwrap();
    assert_eq!((ours(&table), codes(&table)), (told, vec!["gpt-no-protective-mbr"]));
    // A plain MBR.
    bytes[510..512].copy_from_slice(&[0x55, 0xaa]);
    bytes[446..462].copy_from_slice(&[0, 0, 2, 0, 0x83, 0, 0, 0, 64, 0, 0, 0, 64, 0, 0, 0]);
    let table = Table::read(&VecDisk(bytes.clone()), 512).unwrap();
    assert_eq!((table.kind, codes(&table)), (TableKind::Mbr, vec!["gpt-stale"]));
    // A volume.
    bytes[..4].copy_from_slice(b"XFSB");
    bytes[446..512].fill(0);
    let table = Table::read(&VecDisk(bytes), 512).unwrap();
    assert_eq!((table.kind, codes(&table)), (TableKind::None, vec!["gpt-stale"]));
}

/// Puts an entry into the sector at `at`.
fn entry(bytes: &mut [u8], at: usize, index: usize, kind: u8, first: u32, sectors: u32) {
    bytes[at + 510..at + 512].copy_from_slice(&[0x55, 0xaa]);
    let at = at + 446 + index * 16;
    bytes[at + 4] = kind;
    bytes[at + 8..at + 12].copy_from_slice(&first.to_le_bytes());
    bytes[at + 12..at + 16].copy_from_slice(&sectors.to_le_bytes());
}

#[test]
fn broken_mbrs() {
    let read = |bytes: &[u8]| Table::read(&VecDisk(bytes.to_vec()), 512).unwrap();
    let numbers = |table: &Table| -> Vec<u32> {
        table.partitions.iter().map(|partition| partition.number).collect()
    };
    let mut bytes = vec![0; 1 << 20];
    entry(&mut bytes, 0, 0, 5, 100, 1000);
    entry(&mut bytes, 100 * 512, 0, 0x83, 1, 9);
    // A loop; a link to the start; a chain that leaves the disk, or ends without a record.
    for (link, code) in [
        (10, "mbr-chain-broken"),
        (0, "mbr-chain-broken"),
        (5000, "mbr-chain-broken"),
        (77, "mbr-chain-broken"),
    ] {
        let mut bytes = bytes.clone();
        entry(&mut bytes, 100 * 512, 1, 5, link, 20);
        entry(&mut bytes, 110 * 512, 0, 0x83, 1, 9);
        entry(&mut bytes, 110 * 512, 1, 5, 10, 20);
        let table = read(&bytes);
        assert_eq!(codes(&table), [code], "{link}");
        assert_eq!(numbers(&table), if link == 10 { vec![1, 5, 6] } else { vec![1, 5] });
    }
    // Overlaps, a stray logical partition, one that leaves the disk.
    entry(&mut bytes, 0, 1, 0x83, 1050, 51);
    entry(&mut bytes, 0, 2, 7, 2000, 100);
    entry(&mut bytes, 100 * 512, 0, 0x83, 1, 1900);
    assert_eq!(
        codes(&read(&bytes)),
        ["partition-beyond-disk", "mbr-logical-outside", "partition-overlap"]
    );
    // Protective, with nothing to protect.
    entry(&mut bytes, 0, 3, 0xee, 1, 9);
    let error = Table::read(&VecDisk(bytes), 512).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt);
}

#[test]
fn no_table_is_an_answer() {
    for len in [0, 1, 511, 512, 513, 1024, 4096, 1 << 20] {
        let table = Table::read(&VecDisk(vec![0; len]), 512).unwrap();
        assert_eq!(table.kind, TableKind::None, "{len}");
        assert!(table.partitions.is_empty() && table.findings.is_empty());
    }
    assert_eq!(Table::read(&VecDisk(vec![]), 520).unwrap_err().kind(), ErrorKind::Usage);
}

#[test]
fn real_disks() {
    let Some(corpus) = vdisk_testkit::corpus::folder() else { return };
    if !there("sfdisk", &["sfdisk", "blkid"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut tables = 0;
    for sample in vdisk_testkit::corpus::unpack(&corpus, folder.path()) {
        let Ok(image) = vdisk::OpenOptions::new().format(sample.format).open(&sample.path) else {
            continue;
        };
        let context = &sample.name;
        let len = image.len();
        if len > 64 << 20 {
            continue;
        }
        let mut bytes = vec![0; len as usize];
        if image.read_at(&mut bytes, 0).is_err() {
            continue;
        }
        let raw = folder.path().join("image.raw");
        std::fs::write(&raw, &bytes).unwrap();
        let table = Table::read(&VecDisk(bytes), 512).unwrap_or_else(|e| panic!("{context}: {e}"));
        // What sfdisk takes for a table may be a boot sector; blkid knows.
        let probed = Command::new("blkid").args(["-p", "-o", "export", arg(&raw)]).output();
        let probed = String::from_utf8_lossy(&probed.unwrap().stdout).into_owned();
        if probed.contains("PTTYPE=") {
            assert_eq!(ours(&table), theirs(&raw), "{context}");
            tables += 1;
        } else {
            assert_eq!(table.kind, TableKind::None, "{context}: {probed}");
        }
        let disk = open(&raw);
        for partition in &table.partitions {
            eprintln!(
                "{context}: {} {:?}",
                partition.number,
                vdisk_parts::recognise(&partition.open(disk.clone()).unwrap()).unwrap()
            );
        }
    }
    assert!(tables >= 4, "{tables}");
}

#[test]
fn any_change_is_survived() {
    let Some((bytes, _)) = sample() else { return };
    let mut random = fastrand::Rng::with_seed(11);
    let sums = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    let last = bytes.len() - 512;
    for round in 0..200 {
        let mut bytes = bytes.clone();
        for _ in 0..random.usize(1..4) {
            let base = [0, 512, 1024, last, last - 32 * 512][random.usize(0..5)];
            bytes[base + random.usize(0..512)] = [0, 1, 0xff, 0x7f][random.usize(0..4)];
        }
        // Changes behind right checksums, every other time.
        for header in [512, last] {
            if round % 2 == 0 {
                let entries = if header == 512 { 1024 } else { last - 32 * 512 };
                let sum = sums.checksum(&bytes[entries..entries + 16384]);
                bytes[header + 88..header + 92].copy_from_slice(&sum.to_le_bytes());
                bytes[header + 16..header + 20].fill(0);
                let sum = sums.checksum(&bytes[header..header + 92]);
                bytes[header + 16..header + 20].copy_from_slice(&sum.to_le_bytes());
            }
        }
        let disk = VecDisk(bytes);
        let Ok(table) = Table::read(&disk, 512) else { continue };
        if let Ok(mut edit) = vdisk_parts::Edit::new(&disk, 512) {
            let _ = edit.fit_to(disk.len() + 4096);
            let _ = edit.grow_last();
            assert!(edit.changes().iter().all(|change| change.bytes.len() <= 1 << 21));
        }
        assert!(table.findings.iter().all(|finding| !finding.message.is_empty()));
    }
}
