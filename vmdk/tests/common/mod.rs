//! What the integration tests share.

#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use vdisk_core::disk::in_range;
use vdisk_core::layer::read;
use vdisk_core::{
    Access, Disk, Error, ErrorKind, Extent, ExtentKind, HostFile, Layer, MemFiles, Opener, Result,
    Store,
};
use vdisk_testkit::content::Content;
use vdisk_testkit::fill::fill;
use vdisk_vmdk::{CreateOptions, OpenOptions, VmdkLayer, create, open};

/// Opens extents beside an image.
pub struct Folder(pub PathBuf);

impl Opener for Folder {
    fn open(&self, name: &str, what: &'static str, access: Access) -> Result<Arc<dyn Store>> {
        let path = self.0.join(name);
        if !path.exists() {
            return Err(Error::new(
                ErrorKind::ParentMissing,
                format!("{what} {name:?} is missing"),
            ));
        }
        Ok(match access {
            Access::Read => Arc::new(HostFile::open(path)?),
            Access::Write => Arc::new(HostFile::open_rw(path)?),
        })
    }
}

/// Opens an image on the host.
pub fn open_path(path: &Path) -> Result<VmdkLayer> {
    let store = Arc::new(HostFile::open(path)?);
    open(store, &Folder(path.parent().unwrap().to_owned()), &OpenOptions::default())
}

/// Opens an image on the host for writing.
pub fn open_path_rw(path: &Path) -> Result<VmdkLayer> {
    let store = Arc::new(HostFile::open_rw(path)?);
    let options = OpenOptions { access: Access::Write, ..Default::default() };
    open(store, &Folder(path.parent().unwrap().to_owned()), &options)
}

/// Opens the main file of a folder in memory.
pub fn open_mem(files: &MemFiles) -> Result<VmdkLayer> {
    open_mem_with(files, &OpenOptions::default())
}

/// Opens the main file of a folder in memory.
pub fn open_mem_with(files: &MemFiles, options: &OpenOptions) -> Result<VmdkLayer> {
    use vdisk_core::Files;
    open(files.get(files.main_name()).unwrap(), files, options)
}

/// Options for writing.
pub fn for_writing() -> OpenOptions {
    OpenOptions { access: Access::Write, ..Default::default() }
}

/// A new image in memory that holds `content`.
pub fn filled(options: &CreateOptions, content: &Content) -> MemFiles {
    let mut files = MemFiles::new("disk.vmdk");
    fill(create(&mut files, options).unwrap(), content).unwrap();
    files
}

/// A layer on what its parents hold, as a disk.
#[derive(Debug)]
pub struct Stack(pub VmdkLayer, pub Arc<dyn Disk>);

impl Disk for Stack {
    fn len(&self) -> u64 {
        self.0.info().virtual_size
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        in_range(offset, buf.len() as u64, self.len())?;
        read(&self.0, &*self.1, buf, offset)
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        Ok(Extent { start: offset, len: end - offset, depth: 0, kind: ExtentKind::Opaque })
    }
}

/// Whether `VDISK_REQUIRE` asks for `what`, so that it must not be skipped.
pub fn required(what: &str) -> bool {
    std::env::var("VDISK_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == what))
}

/// Says that a test was skipped for want of `what`, or fails where that is not allowed.
pub fn skipped(what: &str, why: &str) {
    assert!(!required(what), "{what} is required: {why}");
    eprintln!("SKIPPED({what}): {why}");
}
