//! The commands that make and change images: create, convert, resize.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    missing_docs
)]

mod common;

use common::{Place, assert_error, assert_keys};
use serde_json::json;

fn size_of(place: &Place, line: &str) -> u64 {
    place.json(&format!("info {line}"))["virtual-size"].as_u64().unwrap()
}

#[test]
fn create_by_name_and_by_format() {
    let place = Place::new();
    for (line, name, format, subformat) in [
        ("create a.img 10M", "-f raw a.img", "raw", "file"),
        ("create a.raw 10M", "-f raw a.raw", "raw", "file"),
        ("create a.bin 10M", "-f raw a.bin", "raw", "file"),
        ("create a.dd 10M", "-f raw a.dd", "raw", "file"),
        ("create a.vhd 10M", "a.vhd", "vhd", "dynamic"),
        ("create a.vhdx 10M", "a.vhdx", "vhdx", "dynamic"),
        ("create a.vmdk 10M", "a.vmdk", "vmdk", "monolithicSparse"),
        ("create -f vpc -o subformat=fixed b 10M", "b", "vhd", "fixed"),
        ("create -f avhdx c 10M", "c", "vhdx", "dynamic"),
        ("create -f vmdk -o subformat=vmfs d.img 10M", "d.img", "vmdk", "vmfs"),
        (
            "create -o subformat=monolithicFlat -o adapter_type=ide e.vmdk 10M",
            "e.vmdk",
            "vmdk",
            "monolithicFlat",
        ),
    ] {
        let made = place.json(line);
        assert_keys(&made, &["schema", "filename", "format", "virtual-size"], &[]);
        assert_eq!((&made["schema"], &made["format"]), (&json!("vdisk.create/1"), &json!(format)));
        assert_eq!(made["virtual-size"], 10 << 20);
        let info = place.json(&format!("info {name}"));
        assert_eq!((&info["format"], &info["subformat"]), (&json!(format), &json!(subformat)));
        assert_eq!(info["virtual-size"], 10 << 20, "{line}");
        // A second time it is there already.
        place.run(line).fails(7, &["exists already", "--force"]);
        place.run(&format!("{line} --force")).ok();
    }
    place.run("create noname 10M").fails(64, &["noname", "name the format"]);
    place.run("create a.vhd").fails(64, &["how large"]);
    place.run("create").fails(64, &["which image"]);
    place.run("create nofolder/a.vhd 10M").fails(8, &["nofolder"]);
    place.run("create f.vhd 3T").fails(64, &["too large", "VHDX"]);
    place.run("create f.vhdx 65T").code(64);
    place.run("create f.vmdk 3T").fails(64, &["monolithicFlat"]);
    place.run("create f.vhdx 0").code(64);
    assert!(place.names().iter().all(|name| !name.starts_with(['f', '.'])), "{:?}", place.names());
}

#[test]
fn sizes_as_people_write_them() {
    let place = Place::new();
    for (text, bytes) in [
        ("1048576", 1 << 20),
        ("1024k", 1 << 20),
        ("1M", 1 << 20),
        ("1m", 1 << 20),
        ("1MiB", 1 << 20),
        ("1mb", 1 << 20),
        ("1.5M", 3 << 19),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
    ] {
        place.run(&format!("create --force a.vhdx {text}")).ok();
        assert_eq!(size_of(&place, "a.vhdx"), bytes, "{text}");
    }
    for text in ["1X", "M", "1.2.3", "--", "0x10", "99999999999999999999", "1e6"] {
        let ran = place.command().args(["create", "b.vhdx", text]).output().unwrap();
        assert_eq!(ran.status.code(), Some(64), "{text}");
    }
    // A format of sectors rounds up, and says so.
    let ran = place.run("create c.vhd 1000").code(0);
    assert!(ran.err.contains("1024"), "{ran:?}");
    assert_eq!(size_of(&place, "c.vhd"), 1024);
    assert_eq!(place.run("-q create --force c.vhd 1000").ok().err, "");
    place.run("create -o logical_sector_size=4096 d.vhdx 5000").code(0);
    assert_eq!(size_of(&place, "d.vhdx"), 8192);
}

#[test]
fn options_are_listed_and_checked() {
    let place = Place::new();
    for (format, keys) in [
        ("raw", &["preallocation"][..]),
        ("vhd", &["subformat", "block_size", "force_size"]),
        ("vhdx", &["subformat", "block_size", "logical_sector_size", "log_size"]),
        ("vmdk", &["subformat", "adapter_type", "hwversion", "grain_size", "compression_level"]),
    ] {
        for line in [
            format!("create -f {format} -o help"),
            format!("convert -O {format} -o help"),
            format!("convert -o ? nowhere.img x.{}", if format == "raw" { "img" } else { format }),
        ] {
            let text = place.run(&line).ok().out;
            let options = place.json(&line);
            assert_keys(&options, &["schema", "format", "options"], &[]);
            assert_eq!(options["format"], format);
            for option in options["options"].as_array().unwrap() {
                assert_keys(option, &["key", "default", "meaning"], &[]);
            }
            for key in keys {
                assert!(text.contains(&format!("  {key}=")), "{key}: {text}");
                let listed = options["options"].as_array().unwrap();
                assert!(listed.iter().any(|option| option["key"] == *key), "{key}: {options}");
            }
        }
        // Every default that is listed can be given.
        let options = place.json(&format!("create -f {format} -o help"));
        for option in options["options"].as_array().unwrap() {
            let (key, default) =
                (option["key"].as_str().unwrap(), option["default"].as_str().unwrap());
            if !default.contains(' ') {
                place.run(&format!("create -f {format} -o {key}={default} --force x 10M")).ok();
            }
        }
        place
            .run(&format!("create -f {format} -o bogus=1 y 10M"))
            .fails(64, &["bogus", "known options"]);
        place
            .run(&format!("create -f {format} -o preallocation=maybe y 10M"))
            .fails(64, &["known values"]);
    }
    place.run("create -o subformat=thick y.vhd 10M").fails(64, &["thick", "dynamic, fixed"]);
    place.run("create -o block_size=3M y.vhdx 10M").code(64);
    place.run("create -o compression_level=13 y.vmdk 10M").fails(64, &["1 to 12"]);
    place.run("create -o preallocation=falloc y.vhdx 10M").fails(64, &["preallocated", "fixed"]);
    assert!(!place.path("y.vhdx").exists());
    place.run("create -o preallocation=falloc,subformat=fixed z.vhdx 10M").ok();
    let allocated = place.json("info z.vhdx")["actual-size"].as_u64().unwrap();
    assert!(allocated >= 10 << 20, "{allocated}");
}

#[test]
fn children() {
    let place = Place::new();
    for ending in ["vhd", "vhdx", "vmdk"] {
        let bytes = place.raw("a.img", 4 << 20, &[0..1 << 20, 2 << 20..3 << 20]);
        place.run(&format!("convert -f raw a.img a.{ending}")).ok();
        let before = place.read(&format!("a.{ending}"));
        place.run(&format!("create -b a.{ending} b.{ending}")).ok();
        place.run(&format!("compare a.{ending} b.{ending}")).ok();
        let mut changed = bytes.clone();
        changed[1_500_000..1_600_000].fill(7);
        changed[0..70_000].fill(0);
        place.write("c.img", &changed);
        let line = format!("convert -f raw -b b.{ending} --verify c.img c.{ending}");
        let report = place.json(&line);
        let written = report["written"].as_u64().unwrap();
        assert!((170_000..200_000).contains(&written), "{report}");
        place.run(&format!("compare -F raw c.{ending} c.img")).ok();
        place.run(&format!("check c.{ending}")).ok();
        // The whole chain into one.
        place.run(&format!("convert --verify c.{ending} flat.{ending}")).ok();
        assert!(place.json(&format!("info flat.{ending}")).get("backing-filename").is_none());
        place.run(&format!("compare -F raw flat.{ending} c.img")).ok();
        assert!(place.read(&format!("a.{ending}")) == before, "the parent was changed");

        place.run(&format!("create -b a.{ending} d.{ending} 4M")).fails(64, &["parent's size"]);
        place.run(&format!("create -b nowhere.{ending} d.{ending}")).fails(8, &["nowhere"]);
        place.run(&format!("create -b a.{ending} a.{ending} --force")).fails(7, &["input"]);
        place.run(&format!("create -f raw -b a.{ending} d.img")).fails(64, &["raw"]);
        place.run(&format!("resize c.{ending} +1M")).code(5);
        place.raw("small.img", 1 << 20, &[]);
        place
            .run(&format!("convert -f raw -b a.{ending} small.img d.{ending}"))
            .fails(64, &["parent's size"]);
        assert!(!place.path(&format!("d.{ending}")).exists());
    }
    let mixed = place.run("create -b a.vhd d.vhdx");
    assert_ne!(mixed.code, 0);
    assert!(mixed.err.contains("convert") && !place.path("d.vhdx").exists(), "{mixed:?}");
}

#[test]
fn convert_reports_and_verifies() {
    let place = Place::new();
    let bytes = place.raw("a.img", 6 << 20, &[0..100_000, 5 << 20..6 << 20]);
    let keys = [
        "schema",
        "source",
        "target",
        "virtual-size",
        "written",
        "found-zero",
        "kernel-copied",
        "verified",
    ];
    let report = place.json("convert -f raw --verify a.img a.vmdk");
    assert_keys(&report, &keys, &[]);
    assert_eq!(report["schema"], "vdisk.convert/1");
    assert_eq!((&report["source"], &report["target"]), (&json!("a.img"), &json!("a.vmdk")));
    assert_eq!(report["virtual-size"], 6 << 20);
    assert_eq!(report["verified"], true);
    assert!(report["written"].as_u64().unwrap() >= (1 << 20) + 100_000, "{report}");
    assert_eq!(place.run("convert a.vmdk b.vhdx").ok().out, "", "nothing to say");
    let told = place.run("-v convert a.vmdk c.vhdx").code(0);
    assert!(told.err.contains("written"), "{told:?}");
    // As many threads as asked for, -p for a bar that nobody sees.
    place.run("convert -m 1 -p -q b.vhdx d.vhd").code(0);
    place.run("convert -O raw -S 512 d.vhd e").ok();
    assert!(place.read("e") == bytes);

    place.run("convert -S 3 a.vmdk x.vhd").fails(64, &["-S"]);
    place.run("convert a.vmdk").fails(64, &["source and a target"]);
    place.run("convert a.vmdk x").fails(64, &["name the format"]);
    place.run("convert a.vmdk b.vhdx").fails(7, &["exists already", "--force"]);
    place.run("convert a.vmdk a.vmdk --force").fails(7, &["input"]);
    place.run("convert a.img x.vhd").fails(1, &["a.img", "-f raw"]);
    place.run("convert a.vmdk nofolder/x.vhd").fails(8, &["nofolder"]);
    assert!(place.names().iter().all(|name| !name.starts_with(['x', '.'])), "{:?}", place.names());
    place.run("convert a.vmdk b.vhdx --force").ok();
    place.run("compare a.vmdk b.vhdx").ok();
}

#[test]
fn zeros_stay_or_go() {
    let place = Place::new();
    place.write("zeros.img", &vec![0; 4 << 20]);
    let data = |line: &str| {
        place.run(&format!("convert -f raw {line} --force zeros.img z.vhd")).ok();
        let map = place.json("map z.vhd");
        let data = map.as_array().unwrap().iter().filter(|entry| entry["data"] == true);
        data.map(|entry| entry["length"].as_u64().unwrap()).sum::<u64>()
    };
    assert_eq!(data(""), 0);
    assert_eq!(data("-S 4k"), 0);
    assert_eq!(data("-S 0"), 4 << 20);
}

#[test]
fn into_what_exists() {
    let place = Place::new();
    let bytes = place.raw("a.img", 4 << 20, &[0..100_000, 3 << 20..4 << 20]);
    place.raw("junk.img", 6 << 20, &[0..6 << 20]);
    for (name, raw) in [("t.vhd", ""), ("t.vhdx", ""), ("t.vmdk", ""), ("t.img", "-F raw")] {
        place.run(&format!("convert -f raw junk.img {name}")).ok();
        let identity =
            place.json(&format!("info {} {name}", raw.to_lowercase()))["format-specific"].clone();
        place.run(&format!("convert -f raw -n --verify a.img {name}")).ok();
        // It keeps its size and kind; all else is gone.
        let info = place.json(&format!("info {} {name}", raw.to_lowercase()));
        assert_eq!(info["virtual-size"], 6 << 20);
        assert_eq!(
            info["format-specific"].get("creator-application"),
            identity.get("creator-application")
        );
        place.run(&format!("compare -q -f raw {raw} a.img {name}")).code(0);
        let ran = place.run(&format!("check {} {name}", raw.to_lowercase()));
        assert!(matches!(ran.code, 0 | 63), "{ran:?}");
    }
    assert!(place.read("t.img")[..4 << 20] == bytes);

    place.run("create small.vhd 1M").ok();
    let before = place.read("small.vhd");
    let ran = place.run("convert -f raw -n a.img small.vhd");
    assert!(ran.code != 0 && ran.err.contains("resize"), "{ran:?}");
    assert!(place.read("small.vhd") == before);
    place.run("convert -f raw -n a.img nowhere.vhd").fails(8, &["nowhere.vhd"]);
    place.run("convert -f raw -n -o subformat=fixed a.img t.vhd").fails(64, &["-n"]);
    place.run("convert -f raw --target-is-zero a.img t.vhd").code(64);
    place.run("convert -f raw -O raw -n a.img a.img").fails(7, &["input"]);
    place.write("unknown", &[1; 4096]);
    place.run("convert -f raw -n a.img unknown").fails(1, &["unknown"]);
    // Known to be zero, it is not zeroed again.
    place.run("create zero.vhdx 4M").ok();
    place.run("convert -f raw -n --target-is-zero --verify a.img zero.vhdx").ok();
    place.run("create stream.vmdk -o subformat=streamOptimized 4M").ok();
    place.run("convert -f raw -n a.img stream.vmdk").fails(5, &["stream.vmdk"]);
}

#[test]
fn resize() {
    let place = Place::new();
    for (name, raw) in [("a.vhd", ""), ("a.vhdx", ""), ("a.vmdk", ""), ("a.img", "-f raw")] {
        let bytes = place.raw("source.img", 8 << 20, &[0..100_000, 7 << 20..8 << 20]);
        place.run(&format!("convert -f raw source.img {name}")).ok();
        let before = place.read(name);
        let dry = place.json(&format!("resize {raw} --dry-run {name} +1M"));
        let keys = ["schema", "filename", "old-size", "virtual-size", "dry-run"];
        assert_keys(&dry, &keys, &[]);
        assert_eq!(dry["schema"], "vdisk.resize/1");
        assert_eq!((&dry["old-size"], &dry["virtual-size"]), (&json!(8 << 20), &json!(9 << 20)));
        assert_eq!(dry["dry-run"], true);
        assert!(place.read(name) == before, "a dry run changed {name}");
        let grown = place.json(&format!("resize {raw} {name} +1M"));
        assert_eq!((&grown["virtual-size"], &grown["dry-run"]), (&json!(9 << 20), &json!(false)));
        assert_eq!(size_of(&place, &format!("{raw} {name}")), 9 << 20);

        let before = place.read(name);
        for line in [format!("resize {raw} {name} -2M"), format!("resize {raw} {name} 7M")] {
            place.run(&line).fails(7, &["--shrink", name]);
        }
        assert!(place.read(name) == before, "a refusal changed {name}");
        place.run(&format!("resize {raw} --shrink {name} -2M")).ok();
        let human = place.run(&format!("resize {raw} {name} 10M")).ok().out;
        assert!(human.contains("7340032") && human.contains("10485760"), "{human}");
        let mut expected = bytes;
        expected.truncate(7 << 20);
        expected.resize(10 << 20, 0);
        place.write("expected.img", &expected);
        let raw_too = raw.replace("-f", "-F");
        place.run(&format!("compare -f raw {raw_too} expected.img {name}")).ok();
        assert_eq!(size_of(&place, &format!("{raw} {name}")), 10 << 20);
        for size in ["+x", "-100G", "0", ""] {
            let mut command = place.command();
            command.arg("resize").args(raw.split_whitespace()).args([name, size]);
            let code = command.output().unwrap().status.code();
            assert_eq!(code, Some(64), "{name} {size:?}");
        }
    }
    place.run("create stream.vmdk -o subformat=streamOptimized 4M").ok();
    place.run("resize stream.vmdk 8M").fails(5, &["stream.vmdk"]);
    let error = place.run("resize stream.vmdk 8M --output json").code(5).json();
    assert_error(&error, "unsupported");
}
