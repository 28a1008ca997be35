//! `vdisk strip` and `vdisk adapt`: plan, run, report, the way back, in every format and on chains.
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

use common::{Place, assert_error, assert_keys, windows};
use serde_json::Value;
use vdisk_testkit::loops::Loop;
use vdisk_testkit::tools::{arg, must, sha256};

fn digest(place: &Place, image: &str) -> Value {
    place.json(&format!("checksum {image}"))["digest"].clone()
}

#[test]
fn adapt_plans_runs_reports_and_is_taken_back() {
    let Some(place) = windows("disk.img") else { return };
    for name in ["disk.vhd", "disk.vhdx", "disk.vmdk"] {
        place.run(&format!("convert -f raw disk.img {name}")).code(0);
        let before = digest(&place, name);
        let plan = place.json(&format!("adapt {name} --target kvm --dry-run"));
        assert_keys(
            &plan,
            &["schema", "filename", "system", "actions", "warnings", "refusals"],
            &[],
        );
        let actions = plan["actions"].as_array().unwrap();
        assert!(!actions.is_empty(), "{plan}");
        for action in actions {
            let keys = ["id", "what", "where", "why", "before", "after", "reversible"];
            assert_keys(action, &keys, &[]);
        }
        assert_eq!(digest(&place, name), before, "a dry run changes nothing");

        let adapt = || {
            let line = format!("adapt {name} --target kvm --output json");
            place.run(&line).fails(0, &["warning:"]).json()
        };
        let done = adapt();
        assert_eq!((&done["actions"], &done["command"]), (&plan["actions"], &"adapt".into()));
        let report = format!("{name}.adapt-1.json");
        assert_eq!(done["report-file"], report);
        let written: Value = serde_json::from_slice(&place.read(&report)).unwrap();
        assert_eq!((&written["actions"], &written["image"]), (&plan["actions"], &name.into()));
        let after = digest(&place, name);
        assert_ne!(after, before);
        assert_eq!(adapt()["actions"], serde_json::json!([]), "a second run plans nothing");
        assert_eq!(digest(&place, name), after);

        place.run(&format!("adapt {name} --undo {report}")).code(0);
        assert_eq!(digest(&place, name), before, "{name}");
        let error = place.run(&format!("adapt {name} --undo {report} --output json"));
        assert_error(&error.json(), "refused");
        assert_eq!(error.code, 7);
    }
}

#[test]
fn the_top_of_a_chain_is_changed_and_a_parent_is_not() {
    let Some(place) = windows("disk.img") else { return };
    place.run("convert -f raw disk.img base.vhdx").code(0);
    place.run("create -f vhdx -b base.vhdx top.vhdx").code(0);
    let before = digest(&place, "base.vhdx");
    place.run("adapt base.vhdx --target kvm").fails(7, &["top.vhdx"]);
    place.run("adapt top.vhdx --target kvm").code(0);
    assert_eq!(digest(&place, "base.vhdx"), before);
    assert_ne!(digest(&place, "top.vhdx"), before);
    place.run("check top.vhdx").code(0);
    place.run("adapt top.vhdx --undo top.vhdx.adapt-1.json").code(0);
    assert_eq!(digest(&place, "top.vhdx"), before);
}

#[test]
fn what_cannot_be_done_is_said_before_anything_is_written() {
    let Some(place) = windows("disk.img") else { return };
    place.run("convert -f raw disk.img disk.vhdx").code(0);
    let before = digest(&place, "disk.vhdx");
    place.run("adapt disk.vhdx").fails(64, &["--target"]);
    place.run("adapt disk.vhdx --target qemu").fails(64, &["hyper-v-gen1"]);
    // Windows 7 on an MBR disk does not start in a machine without a BIOS.
    let refused = place.run("adapt disk.vhdx --target hyper-v-gen2 --dry-run --output json");
    assert_eq!(refused.code, 7);
    assert!(!refused.json()["refusals"].as_array().unwrap().is_empty());
    place.run("adapt disk.vhdx --target hyper-v-gen2").fails(7, &[]);
    place.run("create -f vhdx empty.vhdx 64M").code(0);
    place.run("strip empty.vhdx").fails(1, &["no guest system", "vdisk inspect"]);
    assert_eq!(digest(&place, "disk.vhdx"), before);
    place.write("no.json", b"{}");
    place.run("strip disk.vhdx --undo no.json").fails(4, &["no report"]);
    let left = place.names();
    assert!(
        left.iter().all(|name| !name.contains("adapt-") && !name.ends_with(".undo")),
        "{left:?}"
    );
}

#[test]
fn a_device_is_changed_only_where_that_is_allowed() {
    let Some(place) = windows("disk.img") else { return };
    let before = place.read("disk.img");
    let Some(device) = Loop::attach(&place.path("disk.img"), &[]) else { return };
    let path = arg(&device.path);
    for line in [format!("adapt {path} --target kvm"), format!("strip {path} --identity keep")] {
        place.run(&format!("{line} --dry-run")).code(0);
        place.run(&line).fails(7, &[path, "block device", "--allow-device"]);
    }
    must("sync", &[]);
    assert!(place.read("disk.img") == before);
    let line = format!("adapt {path} --target kvm --allow-device --output json");
    let done = place.run(&line).code(0).json();
    assert_ne!(sha256(&place.read("disk.img")), sha256(&before));
    let report = Path::new(done["report-file"].as_str().unwrap());
    place.run(&format!("adapt {path} --undo {}", arg(report))).fails(7, &["--allow-device"]);
    place.run(&format!("adapt {path} --undo {} --allow-device", arg(report))).code(0);
    must("sync", &[]);
    assert!(place.read("disk.img") == before);
    std::fs::remove_file(report).unwrap();
    drop(device);
}
