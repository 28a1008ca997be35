//! `--skip-free`: what a guest does not use is left out, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::os::unix::fs::FileExt;
use std::process::Command;

use common::Place;
use serde_json::json;
use vdisk_testkit::tools::{arg, must, skip};

const MIB: u64 = 1 << 20;

/// A disk full of junk, with an ext4 in a partition of 48 MiB that holds 6 MiB of files; `false`
/// where the programs for it are missing.
fn disk(place: &Place) -> bool {
    let there = |program| Command::new(program).arg("-V").output().is_ok();
    if !there("mke2fs") || !there("sfdisk") {
        skip("mke2fs", "it is not installed");
        return false;
    }
    std::fs::create_dir(place.path("tree")).unwrap();
    let mut rng = fastrand::Rng::with_seed(8);
    for number in 0..6 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(MIB as usize).collect();
        std::fs::write(place.path(&format!("tree/file{number}")), bytes).unwrap();
    }
    place.raw("disk.img", 64 * MIB, &[0..MIB, MIB..64 * MIB]);
    let script = place.path("script");
    std::fs::write(&script, "label: gpt\nstart=2048, size=98304\n").unwrap();
    let line = format!(
        "sfdisk -q --no-reread --wipe never {} < {}",
        arg(&place.path("disk.img")),
        arg(&script)
    );
    must("sh", &["-c", &line]);
    let (disk, tree) = (place.path("disk.img"), place.path("tree"));
    let options = format!("offset={MIB},nodiscard");
    must(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-E", &options, "-d", arg(&tree), arg(&disk), "48m"],
    );
    true
}

/// The volume on the raw disk is sound, and holds the files.
fn assert_whole(place: &Place, raw: &str) {
    let mut volume = vec![0; 48 << 20];
    std::fs::File::open(place.path(raw)).unwrap().read_exact_at(&mut volume, MIB).unwrap();
    std::fs::write(place.path("volume"), &volume).unwrap();
    must("e2fsck", &["-fn", arg(&place.path("volume"))]);
    for number in 0..6 {
        let cat =
            place.command().args(["cat", &format!("{raw}:1:/file{number}"), "-f", "raw"]).output();
        let expected = std::fs::read(place.path(&format!("tree/file{number}"))).unwrap();
        assert!(cat.unwrap().stdout == expected, "file{number}");
    }
}

#[test]
fn convert_and_compact_leave_out_what_is_free() {
    let place = Place::new();
    if !disk(&place) {
        return;
    }
    let told =
        place.run("convert -f raw --skip-free --verify disk.img small.vhdx --output json").code(0);
    assert!(told.err.contains("partition 1 (ext4)"), "{told:?}");
    let report = told.json();
    let skipped = &report["skipped"][0];
    assert_eq!((&skipped["partition"], &skipped["type"]), (&json!(1), &json!("ext4")));
    let free = skipped["free"].as_u64().unwrap();
    assert!(free > 25 * MIB && free < 42 * MIB, "{report}");
    place.run("convert small.vhdx small.img").ok();
    assert_whole(&place, "small.img");
    // What is outside of the partition, and every byte that differs, is accounted for.
    let (before, after) = (place.read("disk.img"), place.read("small.img"));
    let outside = |bytes: &[u8]| [&bytes[..MIB as usize], &bytes[49 << 20..]].concat();
    assert!(outside(&before) == outside(&after), "something outside of the partition changed");
    let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count() as u64;
    assert!(changed <= free && after.iter().zip(&before).all(|(a, b)| a == b || *a == 0));

    place.run("convert -f raw disk.img full.vhdx").ok();
    let whole = std::fs::metadata(place.path("full.vhdx")).unwrap().len();
    let plan = place.run("compact --skip-free --dry-run full.vhdx --output json").code(0).json();
    place.run("compact --skip-free full.vhdx").code(0);
    let compacted = std::fs::metadata(place.path("full.vhdx")).unwrap().len();
    assert!(compacted < whole, "{compacted} of {whole}");
    assert_eq!(plan["size-after"], compacted);
    place.run("convert full.vhdx full.img").ok();
    assert_whole(&place, "full.img");
    place.run("check full.vhdx").code(0);
}

#[test]
fn what_was_not_closed_in_order_is_refused() {
    let place = Place::new();
    if !disk(&place) {
        return;
    }
    let disk = place.path("disk.img");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&disk).unwrap();
    let mut volume = vec![0; 48 << 20];
    file.read_exact_at(&mut volume, MIB).unwrap();
    std::fs::write(place.path("volume"), &volume).unwrap();
    must("debugfs", &["-w", "-R", "feature needs_recovery", arg(&place.path("volume"))]);
    file.write_all_at(&place.read("volume"), MIB).unwrap();
    let before = place.read("disk.img");
    place
        .run("convert -f raw --skip-free disk.img out.vhdx")
        .fails(7, &["partition 1", "without --skip-free"]);
    assert!(!place.path("out.vhdx").exists());
    assert!(place.read("disk.img") == before);
    place.run("convert -f raw --skip-free -b x disk.img out.vhdx").code(64);
}
