//! `vdisk compact`, also when it is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::process::Stdio;
use std::time::{Duration, Instant};

use common::{Place, assert_keys};
use serde_json::json;

const SIZE: u64 = 32 << 20;

/// An image that stores zeros in every other MiB, and the raw file it was made of.
fn image(place: &Place, name: &str, options: &str) {
    let data = (0..SIZE >> 20).filter(|n| n % 2 == 1).map(|n| n << 20..(n + 1) << 20);
    place.raw("a.img", SIZE, &data.collect::<Vec<_>>());
    place.run(&format!("convert -f raw -S 0 {options} --force a.img {name}")).ok();
}

#[test]
fn tells_what_it_does() {
    let place = Place::new();
    for (name, options, format) in [
        ("a.vhd", "-o block_size=64k", "vhd"),
        ("a.vhdx", "-o block_size=1M", "vhdx"),
        ("a.vmdk", "", "vmdk"),
        ("fixed.vhd", "-o subformat=fixed", "vhd"),
    ] {
        image(&place, name, options);
        let before = place.read(name);
        let digest = place.run(&format!("checksum {name}")).ok().out;
        let plan = place.json(&format!("compact --dry-run {name}"));
        let keys = [
            "schema",
            "filename",
            "format",
            "size-before",
            "size-after",
            "blocks-released",
            "blocks-moved",
            "bytes-punched",
            "dry-run",
            "remarks",
        ];
        assert_keys(&plan, &keys, &["block-size"]);
        assert_eq!((&plan["schema"], &plan["format"]), (&json!("vdisk.compact/1"), &json!(format)));
        assert_eq!(plan["size-before"], before.len());
        assert!(place.read(name) == before, "a dry run changed {name}");
        let human = place.run(&format!("compact --dry-run {name}")).ok().out;
        assert!(human.contains("would be"), "{human}");

        let mut done = place.json(&format!("compact {name}"));
        assert_eq!(done["size-after"], place.read(name).len());
        done["dry-run"] = json!(true);
        assert_eq!(done, plan);
        assert_eq!(place.run(&format!("checksum {name}")).ok().out, digest);
        place.run(&format!("check {name}")).ok();
    }
    place.run("compact nowhere.vhd").fails(8, &["nowhere.vhd"]);
    place.run("compact a.img").fails(1, &["-f raw"]);
    place.run("convert -o subformat=streamOptimized a.vmdk s.vmdk").ok();
    place.run("compact s.vmdk").fails(5, &["s.vmdk", "convert"]);
}

/// Killed at any moment, the image holds what it held, and the next run finishes.
#[test]
fn killed_at_any_moment() {
    let mut rng = fastrand::Rng::with_seed(5);
    for (name, options) in [
        ("a.vhd", "-o block_size=64k"),
        ("a.vhdx", "-o block_size=1M"),
        ("a.vmdk", "-o subformat=monolithicSparse"),
    ] {
        let place = Place::new();
        image(&place, name, options);
        let start = place.read(name);
        let begun = Instant::now();
        place.run(&format!("compact {name}")).ok();
        let (whole, smallest) = (begun.elapsed(), place.read(name).len());
        let mut cut_off = 0;
        for round in 0..8 {
            place.write(name, &start);
            // Once it was killed, the next run may be killed too.
            for _ in 0..=round % 3 {
                let mut run = place.command();
                run.args(["compact", name]).stdout(Stdio::null()).stderr(Stdio::null());
                let mut run = run.spawn().unwrap();
                std::thread::sleep(Duration::from_micros(rng.u64(0..=whole.as_micros() as u64)));
                run.kill().unwrap();
                cut_off += u32::from(!run.wait().unwrap().success());
            }
            place.run(&format!("compare -q -F raw {name} a.img")).code(0);
            let checked = place.run(&format!("check {name}"));
            assert!([0, 3].contains(&checked.code), "{name} round {round}: {checked:?}");
            place.run(&format!("compact {name}")).ok();
            assert_eq!(place.read(name).len(), smallest, "{name} round {round}");
            place.run(&format!("compare -q -F raw {name} a.img")).code(0);
            place.run(&format!("check {name}")).ok();
        }
        eprintln!("{name}: cut off {cut_off} times");
    }
}
