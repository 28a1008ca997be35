//! Real images of other programs: what they hold is known by its SHA-256.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::path::Path;

use common::{corpus, read_only, sha256, unpack, writable};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{Disk, ErrorKind, Findings, Layer, LayerMut, Result, Severity};
use vdisk_testkit::VecDisk;

/// File, expected hash or `error`.
fn manifest(folder: &Path) -> Vec<(String, String)> {
    let text = std::fs::read_to_string(folder.join("MANIFEST.tsv")).unwrap();
    let mut lines = text.lines().map(|line| line.split('\t').collect::<Vec<_>>());
    let header = lines.next().unwrap();
    let column = |name| header.iter().position(|field| *field == name).unwrap();
    let (file, format, hash) = (column("file"), column("format"), column("virtual_sha256"));
    lines
        .filter(|line| line[format] == "vhdx")
        .map(|line| (line[file].to_owned(), line[hash].to_owned()))
        .collect()
}

/// The disk below, which only the child of the corpus has.
fn below(folder: &Path, file: &str) -> Box<dyn Disk> {
    if !file.contains("fat-differential") {
        return Box::new(ZeroDisk(0));
    }
    let parent = file.replace("fat-differential", "fat-parent");
    let parent = read_only(unpack(&folder.join(parent))).unwrap();
    Box::new(VecDisk(common::content(&parent, &ZeroDisk(0)).unwrap()))
}

fn hash_of(folder: &Path, file: &str) -> Result<String> {
    let layer = read_only(unpack(&folder.join(file)))?;
    sha256(&layer, &*below(folder, file))
}

#[test]
fn contents_are_what_they_are() {
    let Some(folder) = corpus() else { return };
    let files = manifest(&folder);
    assert!(files.len() >= 10);
    for (file, expected) in files {
        match hash_of(&folder, &file) {
            Ok(hash) => assert_eq!(hash, expected, "{file}"),
            Err(error) => {
                assert_eq!(expected, "error", "{file}: {error}");
                assert!(error.offset().is_some() && error.path().is_some(), "{file}: {error}");
                assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated));
            }
        }
    }
}

#[test]
fn checks_find_what_is_wrong_and_nothing_else() {
    let Some(folder) = corpus() else { return };
    for (file, _) in manifest(&folder) {
        if file.contains("bothhdr") {
            continue;
        }
        let layer = read_only(unpack(&folder.join(&file))).unwrap();
        let mut findings = Findings::new();
        layer.check(&mut findings).unwrap();
        let codes: Vec<_> = findings
            .list()
            .iter()
            .filter(|f| f.severity == Severity::Corruption)
            .map(|f| f.code)
            .collect();
        let expected: &[&str] = match &*file {
            file if file.contains("truncated") => &["vhdx-block-outside-file"],
            file if file.contains("activehdr") => &["vhdx-header-invalid"],
            _ => &[],
        };
        assert_eq!(codes, expected, "{file}: {:?}", findings.list());
    }
}

#[test]
fn the_child_names_its_parent() {
    let Some(folder) = corpus() else { return };
    let folder = folder.join("vhdx_diff_fat-win10_dfvfs");
    let child = read_only(unpack(&folder.join("fat-differential.vhdx.xz"))).unwrap();
    let parent = read_only(unpack(&folder.join("fat-parent.vhdx.xz"))).unwrap();
    let wanted = child.info().parent.clone().unwrap();
    assert_eq!(Some(&wanted.identities[0]), parent.info().identity.as_ref());
    assert_eq!(wanted.identities.len(), 1, "a nil parent_linkage2 names nobody");
    let kinds: Vec<_> = wanted.hints.iter().map(|hint| hint.kind).collect();
    assert_eq!(kinds, ["relative_path", "volume_path", "absolute_win32_path"]);
    let fact = |layer: &dyn Layer| {
        layer.info().facts.iter().find(|(name, _)| *name == "virtual-disk-id").cloned()
    };
    assert_eq!(fact(&child), fact(&parent));
}

/// Reading a dirty image changes nothing; opening it for writing makes it clean.
#[test]
fn a_waiting_log_is_replayed() {
    let Some(folder) = corpus() else { return };
    let file = "vhdx_dirtylog_qemu16-10G_qemu-iotests.vhdx.xz";
    let store = unpack(&folder.join(file));
    let before = unpack(&folder.join(file));
    let layer = read_only(store.clone()).unwrap();
    assert!(layer.info().dirty);
    assert!(store.to_bytes() == before.to_bytes(), "reading must change nothing");

    let replayed = writable(store.clone()).unwrap();
    assert!(!replayed.info().dirty);
    assert_eq!(replayed.info().identity, layer.info().identity, "the content is the same");
    drop(replayed);
    let clean = read_only(store).unwrap();
    assert!(!clean.info().dirty);
    let dirty = read_only(before).unwrap();
    common::assert_same(&clean, &dirty);
}

/// Images of others can be written to.
#[test]
fn others_images_take_writes() {
    let Some(folder) = corpus() else { return };
    for (file, expected) in manifest(&folder) {
        if expected == "error" {
            continue;
        }
        let store = unpack(&folder.join(&file));
        let below = below(&folder, &file);
        let before = read_only(store.clone()).unwrap();
        let size = before.info().virtual_size;
        let at = size / 2 - 700;
        let mut layer = writable(store.clone()).unwrap();
        layer.write(&[0xA5; 3000], at, &*below).unwrap();
        layer.close().unwrap();
        let layer = read_only(store.clone()).unwrap();
        assert_ne!(layer.info().identity, before.info().identity, "{file}");
        let mut bytes = vec![0; 5000];
        vdisk_core::layer::read(&layer, &*below, &mut bytes, at - 1000).unwrap();
        assert!(bytes[1000..4000].iter().all(|byte| *byte == 0xA5), "{file}");
        let mut findings = Findings::new();
        layer.check(&mut findings).unwrap();
        assert_eq!(findings.count(Severity::Corruption), 0, "{file}: {:?}", findings.list());
    }
}
