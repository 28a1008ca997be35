//! Changed partition tables, judged by sgdisk and sfdisk; and what a power cut leaves of a change.
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

use common::{Loop, blank, sfdisk, there};
use uuid::{Uuid, uuid};
use vdisk_core::{Change, ErrorKind};
use vdisk_parts::{DiskId, Edit, Table};
use vdisk_testkit::VecDisk;
use vdisk_testkit::tools::{arg, must};

const MIB: usize = 1 << 20;
const DISK: Uuid = uuid!("01234567-89ab-4cde-8f01-23456789abcd");
const PART: Uuid = uuid!("fedcba98-7654-4321-8fed-cba987654321");

/// A disk that sfdisk partitioned.
fn made(folder: &Path, script: &str, len: usize, sector: u64) -> Option<Vec<u8>> {
    if !there("sfdisk", &["sfdisk"]) || !there("sgdisk", &["sgdisk"]) {
        return None;
    }
    let path = blank(folder, "made.img", len as u64);
    if sector == 512 {
        sfdisk(&path, script);
    } else {
        let device = Loop::over(&path, sector)?;
        sfdisk(&device.0, script);
        must("sync", &[arg(&device.0)]);
    }
    Some(std::fs::read(&path).unwrap())
}

fn apply(bytes: &mut Vec<u8>, len: usize, changes: &[Change]) {
    bytes.resize(len, 0);
    for change in changes {
        let at = change.offset as usize;
        bytes[at..at + change.bytes.len()].copy_from_slice(&change.bytes);
    }
}

fn read(bytes: &[u8], sector: u64) -> Table {
    Table::read(&VecDisk(bytes.to_vec()), sector).unwrap()
}

/// Asserts that the table is whole for all who look.
fn assert_sound(folder: &Path, bytes: &[u8], sector: u64, context: &str) {
    let table = read(bytes, sector);
    assert_eq!(table.findings, [], "{context}");
    let path = folder.join("judged.img");
    std::fs::write(&path, bytes).unwrap();
    let device = if sector == 512 { None } else { Some(Loop::over(&path, sector).unwrap()) };
    let name = arg(device.as_ref().map_or(&path, |device| &device.0));
    if table.kind.name() == "gpt" {
        let told = must("sgdisk", &["-v", name]);
        assert!(told.contains("No problems found"), "{context}: {told}");
    }
    must("sfdisk", &["--verify", name]);
}

/// Asserts that after each change, and with each one torn, the table reads as before or after.
fn assert_power_cuts(before: &[u8], len: usize, changes: &[Change], sector: u64) {
    let plain = |bytes: &[u8]| {
        let table = read(bytes, sector);
        (table.id, table.partitions)
    };
    let mut old = before.to_vec();
    old.resize(len.max(before.len()), 0);
    let mut new = before.to_vec();
    apply(&mut new, len.max(before.len()), changes);
    let (old_table, new_table) = (plain(&old), plain(&new));
    for (index, change) in changes.iter().enumerate() {
        for part in [0, 1, change.bytes.len() / sector as usize / 2, usize::MAX] {
            let mut cut = old.clone();
            let done = change.bytes.len().min(part.saturating_mul(sector as usize));
            let torn = Change { offset: change.offset, bytes: change.bytes[..done].to_vec() };
            let len = cut.len();
            apply(&mut cut, len, &changes[..index]);
            apply(&mut cut, len, &[torn]);
            let found = plain(&cut);
            assert!(found == old_table || found == new_table, "change {index}, {part} sectors");
        }
    }
}

const GPT: &str =
    "label: gpt\nsize=1MiB,type=uefi,name=esp\nsize=2MiB,name=\"r\u{00f6}\u{00f6}t\"\n";

#[test]
fn a_gpt_gets_a_new_end_and_new_identities() {
    let folder = tempfile::tempdir().unwrap();
    for (sector, growth) in [(512, 5 * MIB + 512), (4096, 5 * MIB), (512, 0), (4096, 0)] {
        let Some(mut bytes) = made(folder.path(), GPT, 6 * MIB, sector) else { return };
        let before = bytes.clone();
        let disk = VecDisk(before.clone());
        let mut edit = Edit::new(&disk, sector).unwrap();
        assert_eq!(edit.changes(), [], "nothing was asked for");
        let len = before.len() + growth;
        edit.fit_to(len as u64).unwrap();
        assert_eq!(edit.changes().is_empty(), growth == 0);
        edit.set_disk_id(DiskId::Gpt(DISK)).unwrap();
        edit.set_partition_uuid(2, PART).unwrap();
        assert_eq!(edit.grow_last().unwrap(), Some(2));
        assert_eq!(edit.grow_last().unwrap(), None);
        let changes = edit.changes();
        assert_power_cuts(&before, len, &changes, sector);
        apply(&mut bytes, len, &changes);
        let context = format!("{sector}, {growth}");
        assert_sound(folder.path(), &bytes, sector, &context);
        let (old, new) = (read(&before, sector), read(&bytes, sector));
        assert_eq!(new.id, Some(DiskId::Gpt(DISK)));
        assert_eq!(new.partitions[0], old.partitions[0]);
        assert_eq!(new.partitions[1].uuid, Some(PART));
        assert_eq!(new.partitions[1].name, old.partitions[1].name);
        assert_eq!(new.partitions[1].start, old.partitions[1].start);
        let end = new.partitions[1].range().end;
        assert!(end % MIB as u64 == 0 && end + 2 * MIB as u64 > len as u64, "{end} of {len}");
    }
}

#[test]
fn a_gpt_shrinks_down_to_its_partitions() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut bytes) = made(folder.path(), GPT, 6 * MIB, 512) else { return };
    let disk = VecDisk(bytes.clone());
    let mut edit = Edit::new(&disk, 512).unwrap();
    let end = read(&bytes, 512).partitions[1].range().end as usize;
    let least = end + 33 * 512;
    let error = edit.fit_to(least as u64 - 1).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    edit.fit_to(least as u64).unwrap();
    let changes = edit.changes();
    assert_power_cuts(&bytes.clone(), bytes.len(), &changes, 512);
    apply(&mut bytes, 6 * MIB, &changes);
    bytes.truncate(least);
    assert_sound(folder.path(), &bytes, 512, "shrunk");
}

#[test]
fn a_lost_copy_is_made_anew() {
    let folder = tempfile::tempdir().unwrap();
    let Some(sound) = made(folder.path(), GPT, 6 * MIB, 512) else { return };
    let last = sound.len() - 512;
    for (at, len) in [(512, 512), (1024, 16384), (512, 16896), (last, 512), (last - 16384, 16384)] {
        let mut bytes = sound.clone();
        bytes[at..at + len].fill(0x5a);
        let disk = VecDisk(bytes.clone());
        let changes = Edit::new(&disk, 512).unwrap().changes();
        apply(&mut bytes, sound.len(), &changes);
        assert_sound(folder.path(), &bytes, 512, &format!("{at}+{len}"));
        assert!(bytes == sound);
    }
    // An image that was cut has no backup at all.
    let mut bytes = sound[..5 * MIB].to_vec();
    let disk = VecDisk(bytes.clone());
    let changes = Edit::new(&disk, 512).unwrap().changes();
    apply(&mut bytes, 5 * MIB, &changes);
    assert_sound(folder.path(), &bytes, 512, "cut");
}

#[test]
fn an_mbr_gets_another_signature_and_a_larger_partition() {
    let folder = tempfile::tempdir().unwrap();
    let script = "label: dos\nsize=4MiB,type=7,bootable\nsize=8MiB,type=83\n";
    for sector in [512, 4096] {
        let Some(mut bytes) = made(folder.path(), script, 24 * MIB, sector) else { return };
        let before = bytes.clone();
        let disk = VecDisk(before.clone());
        let mut edit = Edit::new(&disk, sector).unwrap();
        assert_eq!(edit.changes(), []);
        assert_eq!(edit.fit_to(13 * MIB as u64 - 1).unwrap_err().kind(), ErrorKind::Refused);
        edit.fit_to(40 * MIB as u64).unwrap();
        edit.set_disk_id(DiskId::Mbr(0x1234_abcd)).unwrap();
        assert_eq!(edit.grow_last().unwrap(), Some(2));
        apply(&mut bytes, 40 * MIB, &edit.changes());
        assert_sound(folder.path(), &bytes, sector, "mbr");
        let (old, new) = (read(&before, sector), read(&bytes, sector));
        assert_eq!(new.id, Some(DiskId::Mbr(0x1234_abcd)));
        assert_eq!(new.partitions[0], old.partitions[0]);
        assert_eq!(new.partitions[1].range(), old.partitions[1].start..40 * MIB as u64);
        // sfdisk, asked for the same, writes the same.
        let path = folder.path().join("theirs.img");
        std::fs::write(&path, &before).unwrap();
        std::fs::OpenOptions::new()
            .write(true)
            .open(&path)
            .unwrap()
            .set_len(40 * MIB as u64)
            .unwrap();
        if sector == 512 {
            must("sh", &["-c", &format!("echo ,+ | sfdisk -q -N 2 {}", arg(&path))]);
            must("sfdisk", &["--disk-id", arg(&path), "0x1234abcd"]);
            assert!(std::fs::read(&path).unwrap()[..512] == bytes[..512]);
        }
    }
}

#[test]
fn what_others_know_the_size_of_is_not_grown() {
    let folder = tempfile::tempdir().unwrap();
    for script in [
        "label: dos\nsize=4MiB\nsize=8MiB,type=5\n5: size=7MiB\n",
        "label: dos\nsize=4MiB\nsize=8MiB,type=5\n5: size=1MiB\n",
        "label: dos\nsize=4MiB,type=42\n",
        "label: gpt\nsize=4MiB,type=AF9B60A0-1431-4F62-BC68-3311714A69AD\n",
        "label: gpt\nsize=4MiB,type=E75CAF8F-F680-4CEE-AFA3-B001E56EFC2D\n",
    ] {
        let Some(bytes) = made(folder.path(), script, 24 * MIB, 512) else { return };
        let disk = VecDisk(bytes);
        let mut edit = Edit::new(&disk, 512).unwrap();
        assert_eq!(edit.grow_last().unwrap_err().kind(), ErrorKind::Unsupported, "{script}");
        assert_eq!(edit.changes(), []);
        let id = Table::read(&disk, 512).unwrap().id.unwrap();
        let wrong = match id {
            DiskId::Gpt(_) => DiskId::Mbr(1),
            DiskId::Mbr(_) => DiskId::Gpt(DISK),
        };
        assert_eq!(edit.set_disk_id(wrong).unwrap_err().kind(), ErrorKind::Usage);
        assert_eq!(edit.set_partition_uuid(9, PART).unwrap_err().kind(), ErrorKind::Usage);
    }
    let empty = VecDisk(vec![0; MIB]);
    assert_eq!(Edit::new(&empty, 512).unwrap_err().kind(), ErrorKind::Usage);
}

/// Sets the sectors of an entry in both copies, behind right checksums.
fn set_range(bytes: &mut [u8], index: usize, first: u64, end: u64) {
    let last = bytes.len() / 512 - 1;
    let sums = crc::Crc::<u32>::new(&crc::CRC_32_ISO_HDLC);
    for (header, entries) in [(512, 1024), (last * 512, (last - 32) * 512)] {
        let at = entries + index * 128;
        bytes[at + 32..at + 40].copy_from_slice(&first.to_le_bytes());
        bytes[at + 40..at + 48].copy_from_slice(&end.to_le_bytes());
        let sum = sums.checksum(&bytes[entries..entries + 16384]);
        bytes[header + 88..header + 92].copy_from_slice(&sum.to_le_bytes());
        bytes[header + 16..header + 20].fill(0);
        let sum = sums.checksum(&bytes[header..header + 92]);
        bytes[header + 16..header + 20].copy_from_slice(&sum.to_le_bytes());
    }
}

#[test]
fn an_entry_that_ends_before_it_starts_is_not_grown() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut bytes) = made(folder.path(), GPT, 6 * MIB, 512) else { return };
    set_range(&mut bytes, 1, 8000, 7999);
    let before = read(&bytes, 512);
    assert_eq!(before.findings[0].code, "partition-bad-range");
    let disk = VecDisk(bytes.clone());
    let mut edit = Edit::new(&disk, 512).unwrap();
    assert_eq!(edit.grow_last().unwrap(), Some(1));
    let changes = edit.changes();
    apply(&mut bytes, 6 * MIB, &changes);
    assert_eq!(read(&bytes, 512).partitions.len(), before.partitions.len());
}

#[test]
fn a_table_that_lies_on_a_partition_is_not_changed() {
    let folder = tempfile::tempdir().unwrap();
    let Some(mut bytes) = made(folder.path(), GPT, 6 * MIB, 512) else { return };
    // The first partition begins where the backup's entries stand.
    let last = bytes.len() as u64 / 512 - 1;
    set_range(&mut bytes, 0, last - 9, last - 5);
    assert_eq!(read(&bytes, 512).findings[0].code, "partition-outside-usable");
    let error = Edit::new(&VecDisk(bytes), 512).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
}
