//! The commands that look: info, map, check, compare, checksum, measure.
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

use common::{Place, assert_keys};
use serde_json::{Value, json};
use vdisk_testkit::tools::sha256;

const INFO: [&str; 11] = [
    "schema",
    "filename",
    "format",
    "subformat",
    "virtual-size",
    "actual-size",
    "logical-sector-size",
    "physical-sector-size",
    "dirty",
    "format-specific",
    "children",
];
const INFO_OPTIONAL: [&str; 6] = [
    "cluster-size",
    "backing-filename",
    "full-backing-filename",
    "identity",
    "parent-identity",
    "backing-error",
];

/// An image of every kind in the folder, each with the same content.
fn gallery(place: &Place) -> Vec<(&'static str, &'static str, &'static str)> {
    place.raw("source.img", 5 << 20, &[100_000..300_000, (4 << 20) - 77..(4 << 20) + 9000]);
    let kinds = [
        ("raw.img", "raw", "file"),
        ("dynamic.vhd", "vhd", "dynamic"),
        ("fixed.vhd", "vhd", "fixed"),
        ("dynamic.vhdx", "vhdx", "dynamic"),
        ("fixed.vhdx", "vhdx", "fixed"),
        ("sparse.vmdk", "vmdk", "monolithicSparse"),
        ("flat.vmdk", "vmdk", "monolithicFlat"),
        ("split.vmdk", "vmdk", "twoGbMaxExtentSparse"),
        ("splitflat.vmdk", "vmdk", "twoGbMaxExtentFlat"),
        ("stream.vmdk", "vmdk", "streamOptimized"),
        ("esx.vmdk", "vmdk", "vmfs"),
    ];
    for (name, format, subformat) in kinds {
        let option =
            if format == "raw" { String::new() } else { format!("-o subformat={subformat}") };
        place.run(&format!("convert -f raw source.img {option} {name}")).ok();
    }
    kinds.to_vec()
}

fn f_raw(format: &str) -> &str {
    if format == "raw" { "-f raw" } else { "" }
}

#[test]
fn info_of_every_kind() {
    let place = Place::new();
    for (name, format, subformat) in gallery(&place) {
        let info = place.json(&format!("info {} {name}", f_raw(format)));
        assert_keys(&info, &INFO, &INFO_OPTIONAL);
        assert_eq!(info["schema"], "vdisk.info/1");
        assert_eq!(info["filename"], name);
        assert_eq!((&info["format"], &info["subformat"]), (&json!(format), &json!(subformat)));
        assert_eq!(info["virtual-size"], 5 << 20);
        assert!(info["actual-size"].as_u64().unwrap() >= 200_000, "{info}");
        assert_eq!(info["logical-sector-size"], 512);
        assert_eq!(info["dirty"], false);
        assert!(info["format-specific"].is_object());
        let extents = info["children"].as_array().unwrap();
        let split = matches!(subformat, "monolithicFlat" | "vmfs") || subformat.starts_with("two");
        assert_eq!(extents.len(), usize::from(split), "{info}");
        for extent in extents {
            assert_keys(extent, &["filename", "actual-size"], &[]);
            assert!(extent["filename"].as_str().unwrap().ends_with(".vmdk"), "{extent}");
        }
        let blocks = matches!(
            subformat,
            "dynamic" | "monolithicSparse" | "twoGbMaxExtentSparse" | "streamOptimized"
        );
        assert!(!blocks || info["cluster-size"].as_u64().is_some(), "{info}");
        assert_eq!(info.get("identity").is_some(), format != "raw", "{info}");
        assert!(info.get("backing-filename").is_none(), "{info}");

        let human = place.run(&format!("info {} {name}", f_raw(format))).ok();
        for word in [name, subformat, "5 MiB (5242880 bytes)", "virtual size"] {
            assert!(human.out.contains(word), "{word}: {human:#?}");
        }
    }
}

#[test]
fn info_of_chains() {
    for ending in ["vhd", "vhdx", "vmdk"] {
        let place = Place::new();
        place.run(&format!("create a.{ending} 8M")).ok();
        place.run(&format!("create -b a.{ending} b.{ending}")).ok();
        place.run(&format!("create -f {ending} -b b.{ending} c.{ending}")).ok();
        let one = place.json(&format!("info c.{ending}"));
        assert_keys(&one, &INFO, &INFO_OPTIONAL);
        assert!(one["backing-filename"].as_str().unwrap().ends_with(&format!("b.{ending}")));
        let found = one["full-backing-filename"].as_str().unwrap();
        assert_eq!(found, place.path(&format!("b.{ending}")).to_str().unwrap());
        let chain = place.json(&format!("info --backing-chain c.{ending}"));
        let chain = chain.as_array().unwrap();
        assert_eq!(chain.len(), 3);
        assert_eq!(chain[0], one);
        for (child, parent) in chain.iter().zip(&chain[1..]) {
            assert_keys(parent, &INFO, &INFO_OPTIONAL);
            let (wanted, is) = (&child["parent-identity"], &parent["identity"]);
            assert!(wanted.as_str().unwrap().eq_ignore_ascii_case(is.as_str().unwrap()));
        }
        assert!(chain[2].get("backing-filename").is_none());
        let human = place.run(&format!("info --backing-chain c.{ending}")).ok().out;
        assert_eq!(human.matches("virtual size").count(), 3, "{human}");

        // Broken further down: told, not fatal.
        std::fs::remove_file(place.path(&format!("a.{ending}"))).unwrap();
        let chain = place.json(&format!("info --backing-chain c.{ending}"));
        assert_eq!(chain.as_array().unwrap().len(), 2);
        assert!(chain[1]["backing-error"].as_str().unwrap().contains("--parent"), "{chain}");
        place.json(&format!("info b.{ending}"));
        place.run(&format!("map b.{ending}")).fails(6, &["a.", "hint", "--parent FILE"]);
    }
}

#[test]
fn map_of_every_kind() {
    let place = Place::new();
    for (name, format, _) in gallery(&place) {
        let source = place.read("source.img");
        let map = place.json(&format!("map {} {name}", f_raw(format)));
        let mut at = 0;
        let keys = ["start", "length", "depth", "present", "zero", "data", "compressed"];
        for entry in map.as_array().unwrap() {
            assert_keys(entry, &keys, &["offset", "filename"]);
            assert_eq!(entry["start"], at);
            let length = entry["length"].as_u64().unwrap();
            let bytes = &source[at as usize..(at + length) as usize];
            at += length;
            let zero = entry["zero"] == true;
            assert!(!zero || bytes.iter().all(|byte| *byte == 0), "{name}: {entry}");
            assert_eq!(entry["data"], !zero, "{name}: {entry}");
            assert_eq!(entry.get("offset").is_some(), entry.get("filename").is_some());
            assert_eq!(
                entry.get("offset").is_some(),
                entry["data"] == true && entry["compressed"] == false
            );
            if let (Some(offset), Some(file)) =
                (entry["offset"].as_u64(), entry["filename"].as_str())
            {
                let file = place.read(file);
                assert!(file[offset as usize..][..bytes.len()] == *bytes, "{name}: {entry}");
            }
        }
        assert_eq!(at, 5 << 20, "{name}");
        let compressed = map.as_array().unwrap().iter().any(|entry| entry["compressed"] == true);
        assert_eq!(compressed, name.starts_with("stream"));
        let human = place.run(&format!("map {} {name}", f_raw(format))).ok();
        assert_eq!(human.out.lines().count(), 1 + map.as_array().unwrap().len());
    }
}

#[test]
fn map_tells_layers_apart() {
    let place = Place::new();
    place.raw("a.img", 4 << 20, &[0..1 << 20]);
    place.run("convert -f raw a.img a.vmdk").ok();
    let mut bytes = place.read("a.img");
    bytes[65536..131_072].fill(9);
    bytes[131_072..196_608].fill(0);
    place.write("b.img", &bytes);
    place.run("convert -f raw -b a.vmdk b.img b.vmdk").ok();
    let map = place.json("map b.vmdk");
    let seen: Vec<Value> = map
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| json!([entry["start"], entry["depth"], entry["present"], entry["data"]]))
        .collect();
    // From the parent, from the child, zeroed by the child, from the parent, never written.
    let expected = [
        json!([0, 1, true, true]),
        json!([65536, 0, true, true]),
        json!([131_072, 0, true, false]),
        json!([196_608, 1, true, true]),
        json!([1 << 20, 1, false, false]),
    ];
    assert_eq!(seen, expected, "{map}");
}

#[test]
fn checksum_is_that_of_the_raw_disk() {
    let place = Place::new();
    let kinds = gallery(&place);
    let digest = sha256(&place.read("source.img"));
    let tree = place.json("checksum --algorithm tree -f raw source.img")["digest"].clone();
    for (name, format, _) in kinds {
        let raw = f_raw(format);
        let found = place.json(&format!("checksum {raw} {name}"));
        assert_keys(&found, &["schema", "algorithm", "digest", "virtual-size"], &[]);
        assert_eq!(found["schema"], "vdisk.checksum/1");
        assert_eq!(found["algorithm"], "sha256");
        assert_eq!(found["digest"], digest, "{name}");
        assert_eq!(found["virtual-size"], 5 << 20);
        let human = place.run(&format!("checksum {raw} {name}")).ok();
        assert_eq!(human.out, format!("{digest}  {name}\n"));
        let found = place.json(&format!("checksum --algorithm tree {raw} {name}"));
        assert_eq!((&found["algorithm"], &found["digest"]), (&json!("tree"), &tree), "{name}");
    }
    // As a line that sha256sum takes.
    let line = place.run("checksum stream.vmdk").ok().out.replace("stream.vmdk", "source.img");
    place.write("SUMS", line.as_bytes());
    let mut command = std::process::Command::new("sha256sum");
    let checked = command.args(["-c", "SUMS"]).current_dir(place.folder()).output().unwrap();
    assert!(checked.status.success(), "{checked:?}");
}

#[test]
fn check_tells_by_its_exit_code() {
    let place = Place::new();
    let keys = ["schema", "filename", "format", "corruptions", "leaks", "repaired", "findings"];
    for (name, format, _) in gallery(&place) {
        let code = if format == "raw" { 63 } else { 0 };
        let line = format!("check {} {name}", f_raw(format));
        let ran = place.run(&format!("{line} --output json")).code(code);
        let report = ran.json();
        assert_keys(&report, &keys, &[]);
        assert_eq!(report["schema"], "vdisk.check/1");
        assert_eq!((&report["filename"], &report["format"]), (&json!(name), &json!(format)));
        assert_eq!((&report["corruptions"], &report["leaks"]), (&json!(0), &json!(0)));
        assert_eq!(report["repaired"], 0);
        let human = place.run(&line).code(code).out;
        assert!(human.contains(if format == "raw" { "no structures" } else { "no errors" }));
    }

    // Leaks: a MiB that no block uses.
    let mut bytes = place.read("dynamic.vhdx");
    bytes.extend(vec![0x5A; 1 << 20]);
    place.write("leaky.vhdx", &bytes);
    let report = place.run("check --output json leaky.vhdx").code(3).json();
    assert_eq!((&report["corruptions"], &report["leaks"]), (&json!(0), &json!(1)), "{report}");
    let finding = report["findings"].as_array().unwrap();
    let finding = finding.iter().find(|finding| finding["severity"] == "leak").unwrap();
    assert_keys(finding, &["code", "severity", "message"], &["offset"]);
    assert_eq!(finding["offset"], bytes.len() - (1 << 20));
    let human = place.run("check leaky.vhdx").code(3).out;
    assert!(human.contains("leak: ") && human.contains("0 corruptions, 1 leaks"), "{human}");
    assert!(human.contains("vdisk compact"), "{human}");
    place.run("compact leaky.vhdx").ok();
    place.run("check leaky.vhdx").ok();

    // Corruption: one of the two headers, both headers, a footer.
    bytes[0x1_0004] ^= 1;
    place.write("one.vhdx", &bytes);
    let report = place.run("check --output json one.vhdx").code(2).json();
    assert!(report["corruptions"].as_u64().unwrap() > 0);
    bytes[0x2_0004] ^= 1;
    place.write("both.vhdx", &bytes);
    let report = place.run("check --output json both.vhdx").code(2).json();
    assert_keys(&report, &keys, &[]);
    assert!(place.run("check both.vhdx").code(2).out.contains("corruption: "));
    let mut bytes = place.read("dynamic.vhd");
    let len = bytes.len();
    bytes[len - 500] ^= 1;
    place.write("footer.vhd", &bytes);
    place.run("check footer.vhd").code(2);

    // Not checked at all.
    place.run("check nowhere.vhdx").fails(1, &["nowhere.vhdx"]);
    place.run("check source.img").fails(1, &["source.img", "-f raw"]);
}

#[test]
fn compare_tells_by_its_exit_code() {
    let place = Place::new();
    let kinds = gallery(&place);
    let keys = ["schema", "identical", "differing-bytes", "ranges", "truncated"];
    for (name, format, _) in &kinds {
        let line =
            format!("compare -f raw {} source.img {name}", f_raw(format).replace("-f", "-F"));
        let found = place.json(&line);
        assert_keys(&found, &keys, &["strict-differences"]);
        assert_eq!(found["schema"], "vdisk.compare/1");
        assert_eq!(found["identical"], true, "{name}");
        assert_eq!(found["differing-bytes"], 0);
        assert_eq!(found["ranges"], json!([]));
        assert_eq!(place.run(&line).ok().out, "identical\n");
    }
    let mut bytes = place.read("source.img");
    bytes[2_000_000] ^= 0xFF;
    bytes[2_000_100] ^= 0xFF;
    bytes[3_000_000..3_000_500].fill(0xA5);
    place.write("other.img", &bytes);
    let line = "compare -F raw stream.vmdk other.img";
    let found = place.run(&format!("{line} --output json")).code(1).json();
    assert_eq!(found["identical"], false);
    assert_eq!(found["differing-bytes"], 502);
    let ranges = json!([{"start": 2_000_000, "length": 101}, {"start": 3_000_000, "length": 500}]);
    assert_eq!(found["ranges"], ranges);
    assert_eq!(found["truncated"], false);
    let human = place.run(line).code(1).out;
    assert!(human.contains("502 bytes differ") && human.contains("2000000"), "{human}");

    // A longer one whose rest is zero is the same, but not strictly.
    bytes = place.read("source.img");
    bytes.extend(vec![0; 1 << 20]);
    place.write("longer.img", &bytes);
    let same = place.run("compare -F raw sparse.vmdk longer.img").code(0);
    assert!(same.err.contains("sizes differ"), "{same:?}");
    assert_eq!(place.run("-q compare -F raw sparse.vmdk longer.img").ok().out, "identical\n");
    let strict = place.run("compare -s -F raw sparse.vmdk longer.img").code(1);
    assert!(strict.out.contains("sizes are"), "{strict:?}");
    // So is what is allocated.
    place.run("compare -s -f raw -F raw source.img source.img").ok();
    place.run("compare -s -F raw fixed.vhd longer.img").code(1);

    // Many ranges are cut.
    let speckled: Vec<u8> = (0..5 << 20).map(|at| u8::from(at % 2048 == 0)).collect();
    place.write("speckled.img", &speckled);
    place.write("zeros.img", &vec![0; 5 << 20]);
    let line = "compare -f raw -F raw --output json speckled.img zeros.img";
    let found = place.run(line).code(1).json();
    assert_eq!(found["truncated"], true);
    assert_eq!(found["ranges"].as_array().unwrap().len(), 1000);
    assert_eq!(found["differing-bytes"], 2560);

    place.run("compare -f raw source.img nowhere.vhd").fails(2, &["nowhere.vhd"]);
    place.run("compare source.img stream.vmdk").fails(2, &["source.img", "-f raw"]);
    let mut bytes = place.read("stream.vmdk");
    let middle = bytes.len() / 2;
    bytes[middle..middle + 2000].fill(0);
    place.write("damaged.vmdk", &bytes);
    place.run("compare -f raw source.img damaged.vmdk").fails(4, &["damaged.vmdk"]);
}

#[test]
fn measure_is_what_the_output_takes() {
    let place = Place::new();
    let kinds = gallery(&place);
    for (name, format, subformat) in kinds {
        let option =
            if format == "raw" { String::new() } else { format!("-o subformat={subformat}") };
        for source in ["-f raw source.img", "fixed.vhd"] {
            let line = format!("measure -O {format} {option} {source}");
            let found = place.json(&line);
            assert_keys(&found, &["schema", "required", "fully-allocated"], &[]);
            assert_eq!(found["schema"], "vdisk.measure/1");
            let required = found["required"].as_u64().unwrap();
            assert!(found["fully-allocated"].as_u64().unwrap() >= required, "{name}: {found}");
            let human = place.run(&line).ok().out;
            assert!(human.contains(&format!("required size: {required}\n")), "{human}");
            // A fixed image that has been written as one with holes measures as its data.
            place.run(&format!("convert {source} --force {option} out.{format}")).ok();
            let made: u64 = place
                .names()
                .iter()
                .filter(|name| name.starts_with("out"))
                .map(|name| place.path(name).metadata().unwrap().len())
                .sum();
            assert!(made <= required, "{name}: {made} bytes made, {required} measured");
            // The size of a descriptor or of deflated bytes is not known beforehand.
            let exact = !matches!(subformat, "streamOptimized");
            assert!(!exact || required - made <= 4096, "{name}: {made} of {required}");
            for name in place.names().iter().filter(|name| name.starts_with("out")) {
                std::fs::remove_file(place.path(name)).unwrap();
            }
        }
    }
    let empty = place.json("measure --size 1T -O vhdx");
    assert!(empty["required"].as_u64().unwrap() < 32 << 20, "{empty}");
    assert!(empty["fully-allocated"].as_u64().unwrap() > 1 << 40, "{empty}");
    assert_eq!(place.json("measure --size 10M")["required"], 10 << 20);
    place.run("measure --size 10M source.img").code(64);
    place.run("measure").code(64);
    place.run("measure --size 10M -O vhd -o block_size=3").code(64);
}
