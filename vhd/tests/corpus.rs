//! Real images: each must read as its digest in the corpus' manifest says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use common::{codes, contents, nothing, open_read, skip};
use sha2::{Digest, Sha256};
use vdisk_core::layer::read;
use vdisk_core::{
    Disk, ErrorKind, Fact, HostFile, Layer, LayerKind, MemStore, PathStyle, Result, Store,
};
use vdisk_testkit::VecDisk;
use vdisk_vhd::{OpenOptions, SizeBy, VhdLayer, open, probe};

fn corpus() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus");
    let folder = PathBuf::from(std::env::var("VDISK_CORPUS").unwrap_or(default.to_owned()));
    if folder.is_dir() {
        return Some(folder);
    }
    skip("corpus", &format!("{} is not there", folder.display()));
    None
}

/// Decompresses into a sparse file: the images are large and mostly zeros.
fn unpack(folder: &Path, name: &str, into: &Path) -> Arc<HostFile> {
    let path = into.join(name.replace('/', "_"));
    let mut xz = Command::new("xz")
        .arg("-dc")
        .arg(folder.join(format!("{name}.xz")))
        .stdout(Stdio::piped())
        .spawn()
        .expect("xz");
    let dd = Command::new("dd")
        .args(["conv=sparse", "bs=64K", "status=none"])
        .arg(format!("of={}", path.display()))
        .stdin(xz.stdout.take().unwrap())
        .status()
        .expect("dd");
    assert!(dd.success() && xz.wait().unwrap().success(), "{name}");
    Arc::new(HostFile::open(path).unwrap())
}

/// The digest of the content; long zeros are hashed without being read.
fn digest(layer: &VhdLayer, below: &dyn Disk) -> Result<String> {
    let zeros = vec![0u8; 1 << 20];
    let mut sha = Sha256::new();
    let (mut at, size) = (0, layer.info().virtual_size);
    let mut buf = Vec::new();
    while at < size {
        let extent = layer.extent_at(at, size)?;
        let mut left = extent.len;
        while left > 0 {
            let step = left.min(1 << 20) as usize;
            if let LayerKind::Zero { .. } = extent.kind {
                sha.update(&zeros[..step]);
            } else {
                buf.resize(step, 0);
                read(layer, below, &mut buf, at + extent.len - left)?;
                sha.update(&buf);
            }
            left -= step as u64;
        }
        at += extent.len;
    }
    Ok(sha.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

fn fact<'a>(layer: &'a VhdLayer, name: &str) -> &'a Fact {
    &layer.info().facts.iter().find(|(fact, _)| *fact == name).unwrap().1
}

#[test]
fn images_read_as_the_manifest_says() {
    let Some(folder) = corpus() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let manifest = std::fs::read_to_string(folder.join("MANIFEST.tsv")).unwrap();
    let mut seen = 0;
    for line in manifest.lines().skip(1) {
        let fields: Vec<&str> = line.split('\t').collect();
        let (name, size, digest_wanted) = (fields[0], fields[9], fields[10]);
        if fields[4] != "vhd" || fields[5].starts_with("differencing") {
            continue;
        }
        seen += 1;
        // 127 GiB of zeros take minutes to hash; the size and the map must do.
        let hash = !name.contains("127G");
        let name = name.trim_end_matches(".xz");
        let store = unpack(&folder, name, scratch.path());
        let opened = open_read(store.clone());
        if digest_wanted == "error" {
            let error = opened.expect_err(name);
            assert!(error.offset().is_some() && error.path().is_some(), "{error}");
            assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated), "{error}");
            continue;
        }
        let layer = opened.unwrap_or_else(|e| panic!("{name}: {e}"));
        assert!(probe(&*store).unwrap(), "{name}");
        assert_eq!(layer.info().virtual_size.to_string(), size, "{name}");
        if hash {
            assert_eq!(digest(&layer, &nothing(&layer)).unwrap(), digest_wanted, "{name}");
        } else {
            let extent = layer.extent_at(0, layer.info().virtual_size).unwrap();
            assert_eq!(extent.len, layer.info().virtual_size, "{name}");
            assert!(matches!(extent.kind, LayerKind::Zero { .. }), "{name}");
        }
        let found = codes(&layer);
        eprintln!("{name}: {found:?}");
        let damaged = name.contains("nofooter");
        assert_eq!(found.contains(&"vhd-footer-missing"), damaged, "{name}: {found:?}");
    }
    assert!(seen >= 10, "only {seen} images");
}

#[test]
fn a_child_made_by_windows_reads_through_to_its_parent() {
    let Some(folder) = corpus() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let chain = "vhd_diff_fat-win10_dfvfs";
    let parent = unpack(&folder, &format!("{chain}/fat-parent.vhd"), scratch.path());
    let child = unpack(&folder, &format!("{chain}/fat-differential.vhd"), scratch.path());
    let parent = open_read(parent).unwrap();
    let child = open_read(child).unwrap();

    let link = child.info().parent.as_ref().unwrap();
    assert_eq!(link.identities, [parent.info().identity.clone().unwrap()]);
    // Windows 10 left the time stamp 0.
    assert_eq!(link.modified, None);
    let absolute = "C:\\Projects\\dfvfs\\test_data\\fat-parent.vhd";
    let hints: Vec<_> =
        link.hints.iter().map(|hint| (hint.kind, hint.style, hint.path.as_str())).collect();
    let expected = [
        ("W2ru", PathStyle::WindowsRelative, ".\\fat-parent.vhd"),
        ("W2ku", PathStyle::WindowsAbsolute, absolute),
        ("parent_unicode_name", PathStyle::WindowsAbsolute, absolute),
    ];
    assert_eq!(hints, expected);

    let below = VecDisk(contents(&parent, &nothing(&parent)));
    let wanted = "f4b61a33ee2f7e8c19f737792a4107e46340026a9a829e4169b751901cc3ef02";
    assert_eq!(digest(&child, &below).unwrap(), wanted);
    assert_eq!(codes(&child), ["vhd-bitmap-odd"]);
}

#[test]
fn virtual_pc_shows_both_sizes() {
    let Some(folder) = corpus() else { return };
    let scratch = tempfile::tempdir().unwrap();
    let store = unpack(&folder, "vhd_dynamic_virtualpc-127G_qemu-iotests.vhd", scratch.path());
    let layer = open_read(store.clone()).unwrap();
    assert_eq!(layer.info().virtual_size, 136_365_211_648);
    assert_eq!(fact(&layer, "geometry-size"), &Fact::Int(136_363_130_880));
    assert!(codes(&layer).contains(&"vhd-geometry"));
    let options = OpenOptions { size_by: SizeBy::Geometry, ..OpenOptions::default() };
    assert_eq!(open(store, &options).unwrap().info().virtual_size, 136_363_130_880);
}

#[test]
fn opening_for_reading_writes_nothing() {
    let Some(folder) = corpus() else { return };
    let scratch = tempfile::tempdir().unwrap();
    for name in ["vhd_derived-dynamic-nofooter.vhd", "vhd_derived-fixed-511footer.vhd"] {
        let file = unpack(&folder, name, scratch.path());
        let mut bytes = vec![0; file.len().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let store = Arc::new(MemStore::from_bytes("t", &bytes));
        let layer = open_read(store.clone()).unwrap();
        contents(&layer, &nothing(&layer));
        codes(&layer);
        assert!(store.to_bytes() == bytes, "{name}");
    }
}
