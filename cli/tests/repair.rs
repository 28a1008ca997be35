//! `vdisk check -r`: what scripts rely on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use common::{Place, assert_keys};
use serde_json::json;

const KEYS: [&str; 9] = [
    "schema",
    "filename",
    "format",
    "corruptions",
    "leaks",
    "repaired",
    "findings",
    "repairs",
    "changes",
];

/// A VHD with data, whose footer is damaged and which has a leak.
fn damaged(place: &Place) -> Vec<u8> {
    place.raw("source.img", 8 << 20, &[100..5000, 3 << 20..(3 << 20) + 9000]);
    place.run("convert -f raw source.img disk.vhd").ok();
    let mut bytes = place.read("disk.vhd");
    let footer = bytes.split_off(bytes.len() - 512);
    bytes.extend(vec![0x5A; 3 << 20]);
    bytes.extend(footer);
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    place.write("disk.vhd", &bytes);
    bytes
}

#[test]
fn a_damaged_image_is_mended_and_the_exit_code_tells_what_is_left() {
    let place = Place::new();
    let bytes = damaged(&place);
    place.run("check disk.vhd").code(2);

    // Leaks alone do not help: what seems unused may be what is missing.
    let left = place.run("check -r leaks disk.vhd --output json").code(2).json();
    assert_eq!((&left["repaired"], &left["repairs"]), (&json!(0), &json!([])));
    assert_eq!(place.read("disk.vhd"), bytes);

    let dry = place.run("check -r all --dry-run disk.vhd --output json").code(2).json();
    assert_keys(&dry, &KEYS, &["dry-run"]);
    assert_eq!((&dry["dry-run"], &dry["repaired"]), (&json!(true), &json!(0)));
    assert_eq!(dry["repairs"][0]["code"], "vhd-footer-checksum");
    assert_keys(&dry["repairs"][0], &["code", "offset", "message"], &[]);
    assert_keys(&dry["changes"][0], &["filename", "what", "offset", "length"], &[]);
    assert_eq!(
        (&dry["changes"][0]["what"], &dry["changes"][0]["length"]),
        (&json!("write"), &json!(512))
    );
    let human = place.run("check -r all --dry-run disk.vhd").code(2).out;
    assert!(human.contains("would be repaired: vhd-footer-checksum"), "{human}");
    assert_eq!(place.read("disk.vhd"), bytes);
    assert_eq!(place.names(), ["disk.vhd", "source.img"]);

    let done = place.run("check -r all disk.vhd --output json").code(0);
    assert!(done.err.contains("vdisk check --undo disk.vhd.vdisk-repair-1 disk.vhd"), "{done:?}");
    let report = done.json();
    assert_keys(&report, &KEYS, &["backup"]);
    assert_eq!((&report["corruptions"], &report["leaks"]), (&json!(0), &json!(0)));
    assert_eq!(report["repaired"], 2);
    assert_eq!(report["backup"], "disk.vhd.vdisk-repair-1");
    assert!(place.read("disk.vhd").len() < bytes.len() - (2 << 20));
    place.run("check disk.vhd").ok();
    place.run("compare -f raw source.img disk.vhd").ok();

    // The side file says of itself what it is.
    let side = place.read("disk.vhd.vdisk-repair-1");
    let text = String::from_utf8_lossy(&side[..400]).into_owned();
    assert!(text.starts_with("vdisk repair 1\n") && text.contains("--undo"), "{text}");
    assert!(text.contains(&format!("file 0 {} ", bytes.len())), "{text}");

    let line = "check --undo disk.vhd.vdisk-repair-1 disk.vhd";
    let dry = place.json(&format!("{line} --dry-run"));
    assert_keys(&dry, &["schema", "filename", "pieces", "bytes", "dry-run"], &[]);
    assert_ne!(place.read("disk.vhd"), bytes);
    assert!(place.run(line).ok().out.contains("put back"));
    assert_eq!(place.read("disk.vhd"), bytes);
    // A second time it is as it was before: nothing is refused.
    place.run(line).ok();
    // And on: without a side file.
    place.run("check -r all --no-backup disk.vhd").ok();
    assert_eq!(place.names(), ["disk.vhd", "disk.vhd.vdisk-repair-1", "source.img"]);
    place.write("disk.vhd", &[&bytes[..], &[0; 512]].concat());
    place.run(&format!("{line} --output json")).fails(1, &["changed after the repair"]);
}

#[test]
fn what_cannot_be_mended_is_told() {
    let place = Place::new();
    place.raw("source.img", 8 << 20, &[100..5000, 3 << 20..(3 << 20) + 9000]);
    place.run("convert -f raw source.img disk.vhd").ok();
    let mut bytes = place.read("disk.vhd");
    // Two blocks in one place.
    let first: [u8; 4] = bytes[1536..1540].try_into().unwrap();
    bytes[1540..1544].copy_from_slice(&first);
    place.write("disk.vhd", &bytes);
    let human = place.run("check -r all disk.vhd").code(2);
    assert!(human.out.contains("vhd-block-overlap") && human.out.contains("without guessing"));
    assert_eq!(place.read("disk.vhd"), bytes);
    assert_eq!(place.names(), ["disk.vhd", "source.img"]);

    place.run("check -f raw -r all source.img").code(63);
    place.run("check -r all nowhere.vhd").fails(1, &["nowhere.vhd"]);
    place.run("check -r some disk.vhd").code(64);
    place.run("check --no-backup disk.vhd").code(64);
    place.run("check -r all --undo x disk.vhd").code(64);
    place.run("check --undo source.img disk.vhd").fails(1, &["side file"]);
}

/// Looking at what would be done needs no right to do it.
#[test]
fn a_read_only_file_can_be_asked_about() {
    use std::os::unix::fs::PermissionsExt;
    let place = Place::new();
    let bytes = damaged(&place);
    let mode = std::fs::Permissions::from_mode(0o444);
    std::fs::set_permissions(place.path("disk.vhd"), mode).unwrap();
    place.run("check -r all --dry-run disk.vhd").code(2);
    assert_eq!(place.read("disk.vhd"), bytes);
}
