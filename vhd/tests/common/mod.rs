//! What the tests share.

#![allow(dead_code)] // every test file uses another part

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use uuid::Uuid;
use vdisk_core::disk::ZeroDisk;
use vdisk_core::layer::read;
use vdisk_core::{
    Access, Disk, Findings, Layer, MemFiles, MemStore, ParentLink, Result, Store, StoreExt,
};
use vdisk_testkit::content::Content;
use vdisk_testkit::fill::fill;
use vdisk_vhd::{
    ChildOptions, CreateOptions, OpenOptions, Subformat, VhdLayer, create, create_child, open,
};

/// The options most tests use: a fixed id and time, so that bytes can be compared.
pub(crate) fn options(size: u64, subformat: Subformat, block_size: u32) -> CreateOptions {
    CreateOptions {
        subformat,
        block_size,
        unique_id: Some(Uuid::from_u128(0x1234_5678)),
        timestamp: Some(700_000_000),
        ..CreateOptions::new(size)
    }
}

/// A new image that holds `content`.
pub(crate) fn image(options: &CreateOptions, content: &Content) -> Arc<MemStore> {
    let mut files = MemFiles::new("disk.vhd");
    fill(create(&mut files, options).unwrap(), content).unwrap();
    files.get("disk.vhd").unwrap()
}

/// A new, empty image.
pub(crate) fn empty(options: &CreateOptions) -> Arc<MemStore> {
    let mut files = MemFiles::new("disk.vhd");
    create(&mut files, options).unwrap().finish().unwrap();
    files.get("disk.vhd").unwrap()
}

/// What a child needs to know of `parent`.
pub(crate) fn link(parent: &VhdLayer, relative: &str) -> ParentLink {
    ParentLink {
        info: parent.info().clone(),
        relative: relative.to_owned(),
        absolute: PathBuf::from("/images").join(relative),
        modified: SystemTime::UNIX_EPOCH + Duration::from_secs(1_600_000_000),
    }
}

/// A new, empty child of the image in `parent`.
pub(crate) fn child(parent: Arc<dyn Store>, block_size: u32) -> Arc<MemStore> {
    let link = link(&open_read(parent).unwrap(), "base.vhd");
    let mut files = MemFiles::new("child.vhd");
    let options = ChildOptions {
        block_size,
        unique_id: Some(Uuid::from_u128(0x9999)),
        timestamp: Some(700_000_001),
        ..ChildOptions::new(&link)
    };
    create_child(&mut files, &options).unwrap();
    files.get("child.vhd").unwrap()
}

pub(crate) fn open_read(store: Arc<dyn Store>) -> Result<VhdLayer> {
    open(store, &OpenOptions::default())
}

pub(crate) fn open_write(store: Arc<dyn Store>) -> Result<VhdLayer> {
    open(store, &OpenOptions { access: Access::Write, ..OpenOptions::default() })
}

/// Everything a guest would read.
pub(crate) fn contents(layer: &VhdLayer, below: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0; layer.info().virtual_size as usize];
    read(layer, below, &mut bytes, 0).unwrap();
    bytes
}

pub(crate) fn nothing(layer: &VhdLayer) -> ZeroDisk {
    ZeroDisk(layer.info().virtual_size)
}

/// The codes a check finds, each once, sorted.
pub(crate) fn codes(layer: &VhdLayer) -> Vec<&'static str> {
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap();
    let mut codes: Vec<_> = findings.list().iter().map(|finding| finding.code).collect();
    codes.sort_unstable();
    codes.dedup();
    codes
}

/// Whether a missing tool or folder must fail the test; else says that it was skipped.
pub(crate) fn skip(tool: &str, why: &str) {
    let required = std::env::var("VDISK_REQUIRE").unwrap_or_default();
    assert!(!required.split(',').any(|name| name.trim() == tool), "{tool} is required: {why}");
    eprintln!("SKIPPED({tool}): {why}");
}

pub(crate) fn put(store: &MemStore, at: u64, bytes: &[u8]) {
    store.put(bytes, at, "test").unwrap();
}

/// Makes the checksum of the footer or header at `at` right again.
pub(crate) fn seal(store: &MemStore, at: u64, len: usize, field: u64) {
    put(store, at + field, &[0; 4]);
    let mut bytes = vec![0; len];
    store.fetch(&mut bytes, at, "test").unwrap();
    let sum: u32 = bytes.iter().map(|byte| u32::from(*byte)).sum();
    put(store, at + field, &(!sum).to_be_bytes());
}

pub(crate) fn seal_footers(store: &MemStore) {
    let len = store.size().unwrap();
    seal(store, 0, 512, 64);
    seal(store, len - 512, 512, 64);
}

pub(crate) fn seal_header(store: &MemStore) {
    seal(store, 512, 1024, 36);
}
