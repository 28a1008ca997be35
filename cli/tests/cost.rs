//! What the hot paths cost, in system calls: a number that is the same on a busy machine and an
//! idle one, so that a path that becomes slower by doing more is noticed. `strace` counts.
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
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use vdisk_testkit::tools::skip;

const MIB: u64 = 1 << 20;

/// Calls by name that `vdisk` makes when run with `args` in `folder`; `None` where strace is not
/// there.
fn calls(folder: &Path, args: &[&str]) -> Option<BTreeMap<String, u64>> {
    let told = folder.join("strace.out");
    let run = Command::new("strace")
        .args(["-f", "-qq", "-c", "-U", "name,calls", "-o"])
        .arg(&told)
        .arg(env!("CARGO_BIN_EXE_vdisk"))
        .args(args)
        .current_dir(folder)
        .output();
    let Ok(run) = run else {
        skip("strace", "no system calls were counted");
        return None;
    };
    assert!(run.status.success(), "{run:?}");
    let table = std::fs::read_to_string(told).unwrap();
    let rows = table.lines().filter_map(|line| {
        let (name, count) = line.split_once(char::is_whitespace)?;
        Some((name.to_owned(), count.trim().parse().ok()?))
    });
    Some(rows.collect())
}

fn count(calls: &BTreeMap<String, u64>, name: &str) -> u64 {
    calls.get(name).copied().unwrap_or_default()
}

/// A raw disk of `size` bytes with `data` MiB of bytes that are not zero from byte `at`.
fn disk(folder: &Path, size: u64, at: u64, data: u64) {
    let file = std::fs::File::create(folder.join("disk.img")).unwrap();
    file.set_len(size).unwrap();
    for n in 0..data {
        file.write_all_at(&[n as u8 | 1; MIB as usize], at + n * MIB).unwrap();
    }
}

#[test]
fn a_copy_reads_and_writes_each_mebibyte_once() {
    let folder = tempfile::tempdir().unwrap();
    disk(folder.path(), 64 * MIB, 0, 64);
    for (format, blocks) in [("raw", 0), ("vhdx", 0), ("vhd", 32), ("vmdk", 0)] {
        // Sharing blocks would need no reads at all; asked for a search, every byte is looked at.
        let args = ["convert", "-f", "raw", "-O", format, "-S", "4k", "disk.img", "out"];
        let Some(calls) = calls(folder.path(), &args) else { return };
        std::fs::remove_file(folder.path().join("out")).unwrap();
        let (reads, writes) = (count(&calls, "pread64"), count(&calls, "pwrite64"));
        assert!((64..64 + 8).contains(&reads), "{format}: {reads} reads");
        // The bytes, a bitmap for each block of a VHD, and the format's own tables.
        let most = 64 + blocks + 24;
        assert!((64..most).contains(&writes), "{format}: {writes} writes");
        assert!(count(&calls, "lseek") < 16, "{format}: {calls:?}");
        assert!(count(&calls, "fdatasync") <= 1, "{format}: {calls:?}");
    }
}

#[test]
fn the_host_is_asked_for_holes_once_a_run_of_data() {
    let folder = tempfile::tempdir().unwrap();
    disk(folder.path(), 128 * MIB, 0, 128);
    for format in ["vhd", "vmdk"] {
        let name = format!("image.{format}");
        let there = ["convert", "-f", "raw", "-S", "0", "disk.img", &name];
        let Some(_) = calls(folder.path(), &there) else { return };
        let back = ["convert", "-O", "raw", &name, "back.img"];
        let Some(calls) = calls(folder.path(), &back) else { return };
        std::fs::remove_file(folder.path().join("back.img")).unwrap();
        assert!(count(&calls, "lseek") < 24, "{format}: {calls:?}");
    }
}

#[test]
fn holes_cost_nothing() {
    let folder = tempfile::tempdir().unwrap();
    disk(folder.path(), 100 << 30, 70 << 30, 4);
    for args in [
        &["convert", "-f", "raw", "disk.img", "out.vhdx"][..],
        &["checksum", "--algorithm", "tree", "-f", "raw", "disk.img"],
        &["compare", "-f", "raw", "disk.img", "out.vhdx"],
        &["map", "out.vhdx"],
    ] {
        let Some(calls) = calls(folder.path(), args) else { return };
        let io = ["pread64", "pwrite64", "lseek", "fadvise64"];
        let made: u64 = io.iter().map(|name| count(&calls, name)).sum();
        assert!(made < 120, "{args:?}: {made} calls, {calls:?}");
    }
}

#[test]
fn a_table_of_half_a_gigabyte_is_not_read() {
    let folder = tempfile::tempdir().unwrap();
    let create = ["create", "-f", "vhdx", "-o", "block_size=1M", "big.vhdx", "64T"];
    let Some(_) = calls(folder.path(), &create) else { return };
    let Some(calls) = calls(folder.path(), &["map", "big.vhdx"]) else { return };
    assert!(count(&calls, "pread64") < 20, "{calls:?}");
}

/// What `inspect` reads of a Windows is its hives, once, and little more, however much there is.
#[test]
fn a_windows_is_looked_at_without_reading_it() {
    let Some(place) = common::windows("disk.img") else { return };
    let Some(reads) = reads(place.folder(), &["inspect", "-f", "raw", "disk.img"]) else { return };
    let told = place.json("ls -f raw disk.img:1:/Windows/System32/config");
    let files = told["entries"].as_array().unwrap().iter();
    let hives: u64 = files.map(|file| file["size"].as_u64().unwrap()).sum();
    assert!(hives > 30 * MIB, "{hives}");
    let bytes: u64 = reads.iter().sum();
    // The journal, where nothing was ever logged, is read once; the table of capitals has 128 KiB.
    assert!(bytes < hives + 4 * MIB, "{bytes} bytes are read, of which {hives} are of hives");
    assert!(reads.len() < 260, "{} reads", reads.len());
}

/// How many bytes each read of `vdisk` got.
fn reads(folder: &Path, args: &[&str]) -> Option<Vec<u64>> {
    let told = folder.join("strace.out");
    let run = Command::new("strace")
        .args(["-f", "-qq", "-e", "trace=pread64", "-e", "signal=none", "-o"])
        .arg(&told)
        .arg(env!("CARGO_BIN_EXE_vdisk"))
        .args(args)
        .current_dir(folder)
        .output();
    let Ok(run) = run else {
        skip("strace", "no system calls were counted");
        return None;
    };
    // The hives of the corpus are of two machines, which is a problem that is told.
    assert!(matches!(run.status.code(), Some(0 | 3)), "{run:?}");
    let lines = std::fs::read_to_string(told).unwrap();
    let got = |line: &str| line.rsplit_once(" = ")?.1.trim().parse().ok();
    Some(lines.lines().filter_map(got).collect())
}
