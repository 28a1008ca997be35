//! Images of the largest sizes: opened, mapped, read and written in little memory.
//!
//! Memory is that of a process of its own: each case runs this test binary again for the one test
//! `worker`, which works on the image and then asks the kernel for its own peak.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;

use common::open_as;
use vdisk::{Disk, Format, MapEntry, NewImage, OpenOptions, Result};
use vdisk_testkit::tools::{said, skip};

const TIB: u64 = 1 << 40;
const GIB: u64 = 1 << 30;

/// Peak memory allowed, KiB.
const MOST_KIB: u64 = 64 << 10;

fn work_on(path: &Path, list: &str, size: u64) -> Result<()> {
    let format = vdisk::format_of_name(path).unwrap();
    let mut new = NewImage::new(format, size);
    new.set_list(list)?;
    vdisk::create(path, &new, true)?;

    // Empty: one hole, or as many as the image has files.
    let options = open_as(format);
    let image = options.open(path)?;
    assert_eq!(image.len(), size);
    let entries = entries(&image)?;
    assert!(entries.iter().all(|entry| entry.zero), "{:?}", entries.first());
    assert_eq!(entries.iter().map(|entry| entry.length).sum::<u64>(), size);
    assert!(entries.len() <= 2000, "{} entries for an empty disk", entries.len());
    drop(image);

    // Some data far apart, the last byte included.
    let spots = [0, 12_345, size / 2 - 3, size / 3 * 2, size - 7000];
    let bytes = |at: u64| -> Vec<u8> { (0..7000).map(|i| (at ^ i) as u8 | 1).collect() };
    let mut image = options.open_rw(path)?;
    for at in spots {
        image.write_at(&bytes(at), at)?;
    }
    image.zero(size / 4..size / 4 + (1 << 20))?;
    image.close()?;

    let image = options.open(path)?;
    for at in spots {
        let mut found = vec![0; 7000];
        image.read_at(&mut found, at)?;
        assert!(found == bytes(at), "other bytes at {at}");
    }
    let mut zeros = vec![1; 1 << 20];
    image.read_at(&mut zeros, size / 5 * 2)?;
    assert!(zeros.iter().all(|byte| *byte == 0));
    let mut at = 0;
    let mut data = 0;
    vdisk::map(&image, |entry| {
        assert_eq!(entry.start, at);
        at += entry.length;
        data += if entry.zero { 0 } else { entry.length };
        Ok(())
    })?;
    assert_eq!(at, size);
    // What is not a hole is blocks around the five spots.
    assert!((4 * 7000..=6 * (64 << 20)).contains(&data), "{data} bytes of data");
    Ok(())
}

fn entries(image: &dyn Disk) -> Result<Vec<MapEntry>> {
    let mut entries = Vec::new();
    vdisk::map(image, |entry| {
        entries.push(entry.clone());
        Ok(())
    })?;
    Ok(entries)
}

/// The most memory this process ever had, KiB.
fn peak_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[test]
#[ignore = "runs in a process of its own, started by the other tests"]
fn worker() {
    let Ok(job) = std::env::var("VDISK_SCALE_JOB") else { return };
    let [path, list, size] = job.split('|').collect::<Vec<_>>()[..] else { panic!("{job}") };
    work_on(Path::new(path), list, size.parse().unwrap()).unwrap();
    println!("PEAK {}", peak_kib());
}

fn run(path: &Path, list: &str, size: u64) {
    let done = Command::new(std::env::current_exe().unwrap())
        .args(["worker", "--exact", "--ignored", "--nocapture", "--test-threads=1"])
        .env("VDISK_SCALE_JOB", format!("{}|{list}|{size}", path.display()))
        .output()
        .unwrap();
    let context = format!("{} {list} of {size} bytes", path.display());
    assert!(done.status.success(), "{context}: {}", said(&done));
    let output = said(&done);
    let (_, peak) = output.split_once("PEAK ").unwrap_or_else(|| panic!("{context}: {output}"));
    let peak: u64 = peak.split_whitespace().next().unwrap().parse().unwrap();
    eprintln!("{context}: {peak} KiB");
    assert!(peak <= MOST_KIB, "{context}: {peak} KiB of memory");
}

/// A folder whose file system holds files of `size` bytes (ext4 ends at 16 TiB).
fn folder_for(size: u64) -> Option<tempfile::TempDir> {
    let places = [std::env::temp_dir(), PathBuf::from("/dev/shm")];
    places.into_iter().find_map(|place| {
        let folder = tempfile::tempdir_in(place).ok()?;
        let file = std::fs::File::create(folder.path().join("probe")).ok()?;
        file.set_len(size).ok()?;
        std::fs::remove_file(folder.path().join("probe")).ok()?;
        Some(folder)
    })
}

#[test]
fn vhdx_of_64_tib() {
    let folder = tempfile::tempdir().unwrap();
    for list in ["block_size=1M", "block_size=32M", "block_size=1M,logical_sector_size=4096"] {
        run(&folder.path().join("disk.vhdx"), list, 64 * TIB);
    }
}

#[test]
fn vhd_of_2040_gib() {
    let folder = tempfile::tempdir().unwrap();
    for list in ["subformat=dynamic", "subformat=dynamic,block_size=512k", "subformat=fixed"] {
        run(&folder.path().join("disk.vhd"), list, 2040 * GIB);
    }
}

#[test]
fn vmdk_of_2_tib() {
    let folder = tempfile::tempdir().unwrap();
    for list in ["monolithicSparse", "monolithicFlat", "twoGbMaxExtentSparse", "twoGbMaxExtentFlat"]
    {
        let list = format!("subformat={list}");
        run(&folder.path().join("disk.vmdk"), &list, 1900 * GIB);
    }
}

#[test]
fn flat_vmdk_of_62_tib() {
    let Some(folder) = folder_for(62 * TIB) else {
        skip("large-files", "no file system at hand holds a file of 62 TiB");
        return;
    };
    for list in ["subformat=monolithicFlat", "subformat=vmfs"] {
        run(&folder.path().join("disk.vmdk"), list, 62 * TIB);
    }
    run(&folder.path().join("disk.img"), "", 62 * TIB);
}

/// A chain of large images, and a conversion of one, with data at both ends only.
#[test]
fn large_chains_and_conversions() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let size = 64 * TIB;
    vdisk::create(&path("base.vhdx"), &NewImage::new(Format::Vhdx, size), false).unwrap();
    let open = OpenOptions::new();
    let mut base = open.open_rw(path("base.vhdx")).unwrap();
    base.write_at(b"at the end", size - 10).unwrap();
    base.close().unwrap();
    let parent = path("base.vhdx");
    vdisk::create_child(&path("child.vhdx"), Format::Vhdx, &parent, &open, &[], false).unwrap();
    let mut child = open.open_rw(path("child.vhdx")).unwrap();
    child.write_at(b"at the start", 0).unwrap();
    child.close().unwrap();

    let chain = open.open(path("child.vhdx")).unwrap();
    let copy = path("copy.vhdx");
    let new = NewImage::new(Format::Vhdx, size);
    let report = common::convert(&chain, &copy, &new).unwrap();
    assert!(report.written <= 256 << 20, "{report:?}");
    let copy = open.open(copy).unwrap();
    common::assert_same(&chain, &copy, "64 TiB");
    let mut bytes = [0; 12];
    copy.read_at(&mut bytes, 0).unwrap();
    assert_eq!(&bytes, b"at the start");
    copy.read_at(&mut bytes[..10], size - 10).unwrap();
    assert_eq!(&bytes[..10], b"at the end");
}
