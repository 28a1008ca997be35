//! `vdisk inspect`: what machine lives on a disk, in any format, and what several machines share.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use common::{Place, assert_error, assert_keys, linux};
use serde_json::Value;

/// The document without the file's name.
fn inventory(place: &Place, line: &str) -> Value {
    let mut document = place.json(&format!("inspect {line}"));
    assert!(document.as_object_mut().unwrap().remove("filename").is_some());
    document
}

#[test]
fn every_format_tells_the_same() {
    let Some(place) = linux("disk.img") else { return };
    let raw = inventory(&place, "-f raw disk.img");
    assert_eq!(raw["systems"][0]["product"], "Debian GNU/Linux 12 (bookworm)");
    for (name, options) in [
        ("disk.vhd", ""),
        ("disk.vhdx", ""),
        ("fixed.vhdx", "-o subformat=fixed"),
        ("disk.vmdk", ""),
        ("stream.vmdk", "-o subformat=streamOptimized"),
    ] {
        place.run(&format!("convert -f raw {options} disk.img {name}")).code(0);
        assert_eq!(inventory(&place, name), raw, "{name}");
    }
    // The top of a chain, and a change that is in the top alone.
    place.run("create -f vhdx -b disk.vhdx top.vhdx").code(0);
    assert_eq!(inventory(&place, "top.vhdx"), raw);
}

#[test]
fn the_document_keeps_its_keys() {
    let Some(place) = linux("disk.img") else { return };
    let found = place.json("inspect -f raw disk.img");
    let keys = ["schema", "filename", "disk", "partitions", "boot", "systems", "problems"];
    assert_keys(&found, &keys, &["volumes"]);
    assert_eq!(found["schema"], "vdisk.inspect/1");
    let disk = ["virtual-size", "sector-size", "partition-table", "disk-id"];
    assert_keys(&found["disk"], &disk, &[]);
    let partition = ["number", "start", "length", "type", "uuid", "active", "filesystem"];
    assert_keys(&found["partitions"][1], &partition, &["name", "type-name"]);
    let filesystem = ["type", "label", "uuid", "used", "state"];
    assert_keys(&found["partitions"][1]["filesystem"], &filesystem, &["journal-pending"]);
    let system = [
        "family",
        "product",
        "version",
        "arch",
        "hostname",
        "root-partition",
        "boot-mode",
        "identity",
        "drivers",
    ];
    assert_keys(&found["systems"][0], &system, &["time-zone", "linux"]);
    assert_eq!(found["systems"][0]["boot-mode"], "uefi");
    assert_eq!(found["boot"]["fallback-loader"], false);
    let page = place.run("inspect -f raw disk.img").ok().out;
    for words in [
        "table: gpt, aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee",
        "boot: uefi: /EFI/debian/shimx64.efi, without the fallback loader",
        "partition 2: 16 MiB at",
        "system: Debian GNU/Linux 12 (bookworm)",
        "kernel: 6.1.0-18-amd64, initramfs 4 B (zstd)",
    ] {
        assert!(page.contains(words), "no {words:?} in {page}");
    }
}

#[test]
fn machines_that_share_what_they_should_not() {
    let Some(place) = linux("disk.img") else { return };
    place.run("convert -f raw disk.img clone.vhdx").code(0);
    place.run("convert -f raw disk.img clone.vmdk").code(0);
    let found = place.json("inspect clone.vhdx clone.vmdk");
    assert_keys(&found, &["schema", "images", "shared", "failures"], &[]);
    assert_eq!(found["images"].as_array().unwrap().len(), 2);
    let shared = found["shared"].as_array().unwrap();
    let what: Vec<&str> = shared.iter().map(|one| one["what"].as_str().unwrap()).collect();
    let expected = [
        "machine-id",
        "hostname",
        "disk-id",
        "partition-uuid",
        "partition-uuid",
        "filesystem-uuid",
        "filesystem-uuid",
    ];
    assert_eq!(what, expected);
    assert_keys(&shared[0], &["what", "value", "images", "effect"], &[]);
    assert_eq!(shared[0]["value"], "0123456789abcdef0123456789abcdef");
    assert_eq!(shared[0]["images"], serde_json::json!(["clone.vhdx", "clone.vmdk"]));
    let told = place.run("inspect clone.vhdx clone.vmdk").fails(0, &["warning"]);
    assert!(told.out.contains("machine-id: 0123456789abcdef0123456789abcdef"), "{}", told.out);
}

#[test]
fn a_chain_is_one_machine() {
    let Some(place) = linux("disk.img") else { return };
    std::fs::create_dir(place.path("folder")).unwrap();
    place.run("convert -f raw disk.img folder/base.vhdx").code(0);
    place.run("create -f vhdx -b folder/base.vhdx folder/top.vhdx").code(0);
    place.write("folder/notes.txt", b"no image");
    let found = place.json("inspect folder");
    let names: Vec<_> =
        found["images"].as_array().unwrap().iter().map(|one| &one["filename"]).collect();
    assert_eq!(names, ["folder/base.vhdx", "folder/top.vhdx"]);
    assert_eq!(found["shared"], serde_json::json!([]));
    // Twice the same image is one machine too.
    let found = place.json("inspect folder/base.vhdx folder/base.vhdx");
    assert_eq!(found["shared"], serde_json::json!([]));
}

#[test]
fn what_cannot_be_looked_at() {
    let place = Place::new();
    place.run("inspect nowhere.vhdx").fails(8, &["nowhere.vhdx"]);
    place.write("text", &[7; 4096]);
    place.run("inspect text").fails(1, &["text"]);
    assert_error(&place.run("inspect text --output json").code(1).json(), "unknown-format");
    std::fs::create_dir(place.path("empty")).unwrap();
    place.run("inspect empty").fails(8, &["no image"]);
    place.run("inspect").fails(64, &[]);
    // One of two: the other is told, and the exit code says so.
    place.run("create -f vhdx blank.vhdx 64M").code(0);
    let found = place.run("inspect blank.vhdx nowhere.vhdx --output json").code(3).json();
    assert_eq!(found["images"][0]["disk"]["partition-table"], "none");
    assert_eq!(found["failures"][0]["filename"], "nowhere.vhdx");
    // A GPT of which both copies are damaged.
    let mut sector = [0; 512];
    sector[446 + 4] = 0xee;
    sector[446 + 8] = 1;
    sector[446 + 12] = 0xff;
    sector[510..].copy_from_slice(&[0x55, 0xaa]);
    let mut disk = vec![0; 1 << 20];
    disk[..512].copy_from_slice(&sector);
    place.write("gpt.img", &disk);
    let found = place.run("inspect -f raw gpt.img --output json").code(3).json();
    assert_eq!(found["problems"][0]["volume"], "disk");
}
