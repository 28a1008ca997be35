//! The commands on chains: commit, rebase.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use common::{Place, assert_error, assert_keys};
use serde_json::json;

const FORMATS: [&str; 3] = ["vhd", "vhdx", "vmdk"];

/// A base, a child that holds two texts, and the child's child that holds one: `base`, `mid`, `top`.
fn chain(format: &str) -> Place {
    let place = Place::new();
    let size = 2 << 20;
    let mut bytes = vec![0; size];
    for (name, at, text) in
        [("base", 0, "base"), ("mid", 70_000, "middle"), ("top", 500_000, "top")]
    {
        bytes[at..at + text.len()].copy_from_slice(text.as_bytes());
        std::fs::write(place.path(&format!("{name}.raw")), &bytes).unwrap();
    }
    place.run(&format!("convert -f raw base.raw base.{format}")).ok();
    place.run(&format!("convert -f raw -b base.{format} mid.raw mid.{format}")).ok();
    place.run(&format!("convert -f raw -b mid.{format} top.raw top.{format}")).ok();
    place
}

fn same(place: &Place, image: &str, raw: &str) {
    place.run(&format!("compare -F raw {image} {raw}")).code(0);
}

#[test]
fn commit_into_the_parent_and_an_ancestor() {
    for format in FORMATS {
        let place = chain(format);
        let (base, mid, top) =
            (format!("base.{format}"), format!("mid.{format}"), format!("top.{format}"));
        let told = place.json(&format!("commit --dry-run {top}"));
        assert_keys(
            &told,
            &[
                "schema", "filename", "target", "data", "zeros", "resumed", "dry-run", "invalid",
                "siblings", "remarks",
            ],
            &[],
        );
        assert_eq!((&told["schema"], &told["dry-run"]), (&json!("vdisk.commit/1"), &json!(true)));
        same(&place, &mid, "mid.raw");
        let done = place.run(&format!("commit {top}")).code(0);
        assert!(done.out.contains(&mid) && done.err.contains("become invalid"), "{done:?}");
        same(&place, &mid, "top.raw");
        same(&place, &top, "top.raw");
        same(&place, &base, "base.raw");
        place.run(&format!("commit -q --into {base} {top}")).ok();
        same(&place, &base, "top.raw");
        same(&place, &top, "top.raw");
        let info = place.json(&format!("info {top}"));
        assert!(info["full-backing-filename"].as_str().unwrap().ends_with(&base), "{info}");
        place.run(&format!("commit {base}")).fails(64, &["no parent"]);
        place.run(&format!("commit --into {mid} {top}")).fails(64, &["not among its parents"]);
        place.run(&format!("commit --into nowhere {top}")).fails(8, &["nowhere"]);
        place.run("commit").code(64);
    }
}

#[test]
fn a_note_of_a_broken_commit_names_the_command() {
    let place = chain("vmdk");
    // As if the power had failed between the base's new identity and the new link to it.
    let cid =
        |image: &str| place.json(&format!("info {image}"))["identity"].as_str().unwrap().to_owned();
    let old = cid("base.vmdk");
    place.run("convert -n --force -f raw base.raw base.vmdk").ok();
    let new = cid("base.vmdk");
    place.run("map mid.vmdk").fails(6, &["vdisk rebase -u"]);
    let note = format!("vdisk commit 1\nlink {old}\nidentity {new}\noriginal {old}\n");
    std::fs::write(place.path(".mid.vmdk.vdisk-commit"), note).unwrap();
    place.run("map mid.vmdk").fails(6, &["vdisk commit"]);
    let done = place.json("commit -q mid.vmdk");
    assert_eq!(done["resumed"], true);
    same(&place, "mid.vmdk", "mid.raw");
    same(&place, "base.vmdk", "mid.raw");
    assert!(!place.path(".mid.vmdk.vdisk-commit").exists());
}

#[test]
fn rebase_keeps_the_content_or_only_the_link() {
    for format in FORMATS {
        let place = chain(format);
        let (base, mid, top) =
            (format!("base.{format}"), format!("mid.{format}"), format!("top.{format}"));
        let told = place.json(&format!("rebase --dry-run -b {base} {top}"));
        assert_keys(
            &told,
            &[
                "schema",
                "filename",
                "old-backing-filename",
                "backing-filename",
                "copied",
                "link-only",
                "dry-run",
            ],
            &[],
        );
        assert_eq!((&told["schema"], &told["dry-run"]), (&json!("vdisk.rebase/1"), &json!(true)));
        assert!(told["copied"].as_u64().unwrap() > 0);
        let done = place.run(&format!("rebase -b {base} {top}")).ok();
        assert!(done.out.contains(&base), "{done:?}");
        same(&place, &top, "top.raw");
        // With -u what the old parent held is not taken over.
        place.run(&format!("rebase -u -b {base} {mid}")).ok();
        same(&place, &mid, "mid.raw");
        place.run(&format!("rebase -b {top} {top}")).fails(6, &["stands on it"]);
        place.run(&format!("rebase -b {mid} {base}")).fails(5, &["convert -b"]);
        assert_error(
            &place.run(&format!("rebase -b none {top} --output json")).code(8).json(),
            "not-found",
        );
        place.run(&format!("rebase {top}")).code(64);
        let none = place.command().args(["rebase", "-b", "", &top]).output().unwrap();
        common::Ran::from(none).fails(64, &["vdisk convert"]);
        place.run(&format!("create larger.{format} 3M")).ok();
        place.run(&format!("rebase -u -b larger.{format} {top}")).fails(7, &["bytes"]);
    }
}

#[test]
fn what_others_stand_on_is_neither_resized_nor_written_over() {
    for format in FORMATS {
        let place = chain(format);
        let (base, mid) = (format!("base.{format}"), format!("mid.{format}"));
        let before = place.read(&base);
        for line in [
            format!("resize {base} +1M"),
            format!("resize --dry-run {base} +1M"),
            format!("resize --shrink {base} 1M"),
            format!("convert -n -f raw base.raw {base}"),
        ] {
            place.run(&line).fails(7, &[&mid, "--force"]);
        }
        assert!(place.read(&base) == before, "{format}: a refusal changed it");
        // Done all the same, it can be taken back, and the child with it.
        place.run(&format!("resize --force {base} +1M")).ok();
        let force = if format == "vhd" { " --force" } else { "" };
        if format != "vhd" {
            place.run(&format!("map {mid}")).fails(6, &["rebase -u"]);
        }
        let back = format!("resize --shrink{force} {base} 2097152");
        let ran = place.run(&format!("rebase -u -b {base} {mid}"));
        ran.fails(7, &[&format!("vdisk {back}")]);
        place.run(&back).ok();
        place.run(&format!("rebase -u -b {base} {mid}")).ok();
        same(&place, &mid, "mid.raw");
        place.run(&format!("convert -n --force -f raw base.raw {base}")).ok();
    }
}

/// What tells a child from others is which file it stands on, whatever its guest writes.
#[test]
fn children_are_found_and_those_of_copies_are_not() {
    for format in FORMATS {
        let place = chain(format);
        let (base, mid) = (format!("base.{format}"), format!("mid.{format}"));
        std::fs::copy(place.path(&base), place.path(&format!("copy.{format}"))).unwrap();
        place.run(&format!("resize copy.{format} +1M")).ok();
        place.run(&format!("resize --dry-run {base} +1M")).fails(7, &[&mid]);
    }
}

/// The file of a child may end in a sector of its guest's, which may look like a VHD's footer.
#[test]
fn a_guest_does_not_hide_its_image_from_its_parent() {
    for format in ["vhdx", "vmdk"] {
        let place = Place::new();
        place.run(&format!("create base.{format} 8M")).ok();
        let mut bytes = vec![0; 8 << 20];
        for sector in bytes.chunks_mut(512) {
            sector[..8].copy_from_slice(b"conectix");
        }
        std::fs::write(place.path("guest.raw"), &bytes).unwrap();
        place.run(&format!("convert -f raw -b base.{format} guest.raw child.{format}")).ok();
        let ran = place.run(&format!("resize base.{format} +1M"));
        ran.fails(7, &[&format!("child.{format}")]);
    }
}
