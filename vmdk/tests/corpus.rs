//! Real images: what they hold must be what others read of them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use common::{Stack, open_path, skipped};
use sha2::{Digest, Sha256};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{Disk, HostFile, Layer, Result};
use vdisk_vmdk::probe;

fn corpus() -> Option<PathBuf> {
    let path = std::env::var_os("VDISK_CORPUS").map_or_else(
        || Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus")).to_owned(),
        PathBuf::from,
    );
    let there = path.join("MANIFEST.tsv").exists();
    if !there {
        skipped("corpus", &format!("{} is missing", path.display()));
    }
    there.then_some(path)
}

/// Unpacks every VMDK file of the corpus into a folder of the same shape.
fn unpack(corpus: &Path, into: &Path) -> Vec<(PathBuf, String)> {
    let manifest = std::fs::read_to_string(corpus.join("MANIFEST.tsv")).unwrap();
    let mut images = Vec::new();
    for line in manifest.lines() {
        let columns: Vec<&str> = line.split('\t').collect();
        let (name, digest) = (columns[0], *columns.get(10).unwrap_or(&""));
        let Some(plain) = name.strip_suffix(".xz").filter(|_| name.starts_with("vmdk_")) else {
            continue;
        };
        let target = into.join(plain);
        std::fs::create_dir_all(target.parent().unwrap()).unwrap();
        let unpacked = Command::new("xz").arg("-dc").arg(corpus.join(name)).output().unwrap();
        assert!(unpacked.status.success(), "{name}");
        std::fs::write(&target, unpacked.stdout).unwrap();
        if !digest.is_empty() {
            images.push((target, digest.to_owned()));
        }
    }
    images
}

/// The image at `path` on its parents, which are looked for in the same folder.
fn open_chain(path: &Path) -> Result<Arc<dyn Disk>> {
    let layer = open_path(path)?;
    let below: Arc<dyn Disk> = match &layer.info().parent {
        Some(parent) => {
            let below = open_chain(&path.with_file_name(&parent.hints[0].path))?;
            let above = open_path(&path.with_file_name(&parent.hints[0].path))?;
            assert_eq!(parent.identities[..], [above.info().identity.clone().unwrap()]);
            below
        }
        None => Arc::new(ZeroDisk(0)),
    };
    Ok(Arc::new(Stack(layer, below)))
}

fn digest(disk: &dyn Disk) -> Result<String> {
    let mut hash = Sha256::new();
    let mut buf = vec![0; 4 << 20];
    let mut at = 0;
    while at < disk.len() {
        let len = (disk.len() - at).min(buf.len() as u64);
        disk.read_at(&mut buf[..len as usize], at)?;
        hash.update(&buf[..len as usize]);
        at += len;
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

#[test]
fn every_image_reads_as_others_read_it() {
    let Some(corpus) = corpus() else { return };
    let folder = tempfile::tempdir().unwrap();
    let images = unpack(&corpus, folder.path());
    assert!(images.len() >= 15, "{}", images.len());
    for (path, expected) in images {
        let found = open_chain(&path).and_then(|disk| digest(&*disk));
        match (expected.as_str(), found) {
            ("error", Err(error)) => eprintln!("{}: {error}", path.display()),
            (expected, Ok(found)) => assert_eq!(found, expected, "{}", path.display()),
            (expected, Err(error)) => panic!("expected {expected}: {error}"),
        }
        assert!(probe(&HostFile::open(&path).unwrap()).unwrap(), "{}", path.display());
    }
}

#[test]
fn sound_images_check_clean() {
    let Some(corpus) = corpus() else { return };
    let folder = tempfile::tempdir().unwrap();
    for (path, expected) in unpack(&corpus, folder.path()) {
        if expected == "error" {
            continue;
        }
        let layer = open_path(&path).unwrap();
        vdisk_testkit::model::assert_clean(&layer, &path.display().to_string());
    }
}
