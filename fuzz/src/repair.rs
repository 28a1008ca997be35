//! Mending images with changes.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use tempfile::TempDir;
use vdisk::{CheckReport, Error, ErrorKind, OpenOptions, RepairRequest, Scope};
use vdisk_core::layer::read;
use vdisk_core::{Access, Files, MemFiles, MemStore, Opener, StoreExt};
use vdisk_testkit::exercise::{Pattern, assert_error, patch};
use vdisk_testkit::power::put_on_host;

use crate::chain::shared_memory;
use crate::images::{self, Base, OpenFn, open_vhd, open_vhdx, open_vmdk};
use crate::{Head, seal};

const UNIT: u64 = 4096;

/// An image, how it is opened, and what puts its checksums right.
type Subject = (Base, OpenFn, fn(&MemStore));

fn subjects() -> Vec<Subject> {
    let vhd: OpenFn = |store, _, access| open_vhd(store, access);
    let vhdx: OpenFn = |store, _, access| open_vhdx(store, access);
    let mut all: Vec<Subject> = Vec::new();
    all.extend(images::vhd().into_iter().map(|base| (base, vhd, seal::vhd as fn(&MemStore))));
    let logs = images::vhdx().into_iter().chain(images::vhdx_with_log());
    all.extend(logs.map(|base| (base, vhdx, seal::vhdx as fn(&MemStore))));
    all.extend(images::vmdk().into_iter().map(|base| (base, open_vmdk as OpenFn, plain as _)));
    all
}

fn plain(_: &MemStore) {}

/// An image with changes is mended: what could be read reads the same, nothing more is wrong than
/// before, a second run has nothing to do, and the way back leads to the byte to where it began.
pub fn repair(input: &[u8]) {
    static SUBJECTS: OnceLock<Vec<Subject>> = OnceLock::new();
    let subjects = SUBJECTS.get_or_init(subjects);
    let Some(head) = Head::parse(input) else { return };
    let (base, open, seal) = &subjects[head.image % subjects.len()];
    let before = base.files();
    let changed = before.get(&base.changed).expect("it was made");
    patch(&changed, &base.anchors, head.rest);
    if head.seal {
        seal(&changed);
    }
    // Quick to write down.
    if changed.size().expect("memory") > 16 << 20 {
        return;
    }
    let folder = folder();
    put(folder, &before);
    let path = folder.join(before.main_name());
    let options = OpenOptions::new();
    let found = vdisk::check(&path, &options);
    let scope = if head.seeds[0] & 1 == 0 { Scope::All } else { Scope::Leaks };
    let request = RepairRequest { scope, dry_run: false, backup: true };
    match vdisk::repair(&path, &options, request) {
        Ok(report) => {
            let after = load(folder, &before);
            assert_reads_on(&before, &after, *open);
            assert_no_worse(&found, &report);
            let again = vdisk::repair(&path, &options, request).expect("it was mended before");
            assert_eq!(again.repaired, 0, "more to mend: {:?}", again.repairs);
            if let Some(side) = &report.backup {
                vdisk::undo_repair(&path, Path::new(side), &options, false).expect("the way back");
                assert_same(&before, &load(folder, &before));
            }
        }
        Err(error) => {
            assert_error(&error);
            assert_ne!(error.kind(), ErrorKind::Internal, "{error}");
            assert_same(&before, &load(folder, &before));
        }
    }
}

fn assert_no_worse(before: &Result<CheckReport, Error>, after: &CheckReport) {
    if let Ok(before) = before {
        let counts = |report: &CheckReport| {
            format!("{} corruptions, {:?}", report.corruptions, report.findings)
        };
        let worse = after.corruptions > before.corruptions;
        assert!(!worse, "{} became {}", counts(before), counts(after));
    }
}

/// Asserts that what could be read of `before` can be read of `after`.
fn assert_reads_on(before: &MemFiles, after: &MemFiles, open: OpenFn) {
    let Some(old) = layer(before, open) else { return };
    let size = old.info().virtual_size;
    // Where the disk is said to be huge, its start and end.
    let most = 1024 * UNIT;
    let starts = (0..size.min(most)).step_by(UNIT as usize);
    let ends = (size.saturating_sub(most).max(most)..size).step_by(UNIT as usize);
    let below = Pattern(size);
    let new = layer(after, open).expect("it could be opened before");
    assert_eq!(new.info().virtual_size, size);
    for at in starts.chain(ends) {
        let mut bytes = vec![0xEE; UNIT.min(size - at) as usize];
        if read(&*old, &below, &mut bytes, at).is_ok() {
            let mut now = vec![0xDD; bytes.len()];
            read(&*new, &below, &mut now, at).expect("it could be read before");
            assert!(now == bytes, "byte {at} and on read otherwise");
        }
    }
}

fn layer(files: &MemFiles, open: OpenFn) -> Option<Box<dyn vdisk_core::LayerMut>> {
    let main = files.open(files.main_name(), "image", Access::Read).ok()?;
    open(main, files, Access::Read).ok()
}

fn assert_same(one: &MemFiles, other: &MemFiles) {
    for (name, store) in one.all() {
        let found = other.get(&name).expect("a file");
        assert!(store.to_bytes() == found.to_bytes(), "{name} is not as it was");
    }
}

/// A folder that is empty.
fn folder() -> &'static Path {
    static FOLDER: OnceLock<(TempDir, PathBuf)> = OnceLock::new();
    let (_, path) = FOLDER.get_or_init(|| {
        let folder = tempfile::tempdir_in(shared_memory()).expect("a folder");
        let path = folder.path().canonicalize().expect("a folder");
        (folder, path)
    });
    for entry in std::fs::read_dir(path).expect("a folder") {
        std::fs::remove_file(entry.expect("an entry").path()).expect("it is ours");
    }
    path
}

fn put(folder: &Path, files: &MemFiles) {
    let all = files.all().into_iter();
    let all: BTreeMap<PathBuf, MemStore> =
        all.map(|(name, store)| (folder.join(name), (*store).clone())).collect();
    put_on_host(folder, &all);
}

/// The files of the folder that `like` names.
fn load(folder: &Path, like: &MemFiles) -> MemFiles {
    let mut files = MemFiles::new(like.main_name());
    for (name, _) in like.all() {
        let bytes = std::fs::read(folder.join(&name)).expect("a file");
        files.create(&name).expect("memory").put(&bytes, 0, "file").expect("memory");
    }
    files
}
