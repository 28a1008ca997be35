//! What the tests of this crate share.
#![allow(dead_code, unreachable_pub)]

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::SystemTime;

use sha2::{Digest, Sha256};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{Access, Disk, Layer, MemFiles, MemStore, ParentLink, Result, Store};
use vdisk_testkit::content::Content;
use vdisk_testkit::fill::fill;
use vdisk_vhdx::{ChildOptions, CreateOptions, OpenOptions, VhdxLayer, create, create_child, open};

pub const MIB: u64 = 1 << 20;

/// Opens for reading.
pub fn read_only(store: Arc<dyn Store>) -> Result<VhdxLayer> {
    open(store, &OpenOptions::default())
}

/// Opens for writing.
pub fn writable(store: Arc<dyn Store>) -> Result<VhdxLayer> {
    open(store, &OpenOptions { access: Access::Write, ..OpenOptions::default() })
}

/// A new image in memory with that content.
pub fn image(options: &CreateOptions, content: &Content) -> Arc<MemStore> {
    let mut files = MemFiles::new("a.vhdx");
    fill(create(&mut files, options).unwrap(), content).unwrap();
    files.get("a.vhdx").unwrap()
}

/// How a child finds `parent`, a VHDX image called `name`.
pub fn link(parent: &dyn Layer, name: &str, folder: &Path) -> ParentLink {
    ParentLink {
        info: parent.info().clone(),
        relative: name.to_owned(),
        absolute: folder.join(name),
        modified: SystemTime::UNIX_EPOCH,
    }
}

/// A new child in memory of the image in `parent`.
pub fn child(parent: &Arc<MemStore>, block_size: u64) -> Arc<MemStore> {
    let parent = read_only(parent.clone()).unwrap();
    let link = link(&parent, "a.vhdx", Path::new("/images"));
    let mut files = MemFiles::new("b.vhdx");
    create_child(&mut files, &ChildOptions { block_size, ..ChildOptions::new(&link) }).unwrap();
    files.get("b.vhdx").unwrap()
}

/// Small blocks, everything else as usual.
pub fn small(virtual_size: u64) -> CreateOptions {
    CreateOptions { block_size: MIB, ..CreateOptions::new(virtual_size) }
}

/// Every byte of a layer on what is below.
pub fn content(layer: &dyn Layer, below: &dyn Disk) -> Result<Vec<u8>> {
    let mut bytes = vec![0; layer.info().virtual_size as usize];
    vdisk_core::layer::read(layer, below, &mut bytes, 0)?;
    Ok(bytes)
}

/// SHA-256 of a layer's content, read in pieces.
pub fn sha256(layer: &dyn Layer, below: &dyn Disk) -> Result<String> {
    let size = layer.info().virtual_size;
    let zeros = vec![0; MIB as usize];
    let mut hash = Sha256::new();
    let mut at = 0;
    while at < size {
        let extent = layer.extent_at(at, size)?;
        let end = at + extent.len;
        let zero = matches!(extent.kind, vdisk_core::LayerKind::Zero { .. });
        while at < end {
            let len = (end - at).min(MIB) as usize;
            if zero {
                hash.update(&zeros[..len]);
            } else {
                let mut bytes = vec![0; len];
                vdisk_core::layer::read(layer, below, &mut bytes, at)?;
                hash.update(&bytes);
            }
            at += len as u64;
        }
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Asserts that two layers have the same extents and the same data, without reading zeros.
pub fn assert_same(one: &dyn Layer, other: &dyn Layer) {
    use vdisk_core::LayerKind::Data;
    let size = one.info().virtual_size;
    assert_eq!(size, other.info().virtual_size);
    let mut at = 0;
    while at < size {
        let extent = one.extent_at(at, size).unwrap();
        let twin = other.extent_at(at, at + extent.len).unwrap();
        assert_eq!(extent.len, twin.len);
        if let Data { .. } = extent.kind {
            let mut bytes = [vec![0; extent.len as usize], vec![1; extent.len as usize]];
            for (layer, bytes) in [one, other].into_iter().zip(&mut bytes) {
                vdisk_core::layer::read(layer, &ZeroDisk(0), bytes, at).unwrap();
            }
            assert!(bytes[0] == bytes[1], "{extent:?}");
        } else {
            assert_eq!(extent, twin);
        }
        at += extent.len;
    }
}

/// A store in a plain vector, quick to copy.
#[derive(Debug)]
pub struct VecStore(pub Mutex<Vec<u8>>);

impl VecStore {
    pub fn new(bytes: Vec<u8>) -> Arc<Self> {
        Arc::new(Self(Mutex::new(bytes)))
    }

    pub fn bytes(&self) -> Vec<u8> {
        self.0.lock().unwrap().clone()
    }
}

impl Store for VecStore {
    fn name(&self) -> &Path {
        Path::new("vec.vhdx")
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().len() as u64)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let bytes = self.0.lock().unwrap();
        let start = usize::try_from(offset).map_err(|_| io::ErrorKind::UnexpectedEof)?;
        let source = bytes.get(start..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(source.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let end = offset + buf.len() as u64;
        if end > 1 << 30 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let mut bytes = self.0.lock().unwrap();
        if bytes.len() < end as usize {
            bytes.resize(end as usize, 0);
        }
        bytes[offset as usize..end as usize].copy_from_slice(buf);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > 1 << 30 {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.0.lock().unwrap().resize(len as usize, 0);
        Ok(())
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a test that needs `what` must not be left out.
fn required(what: &str) -> bool {
    std::env::var("VDISK_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == what))
}

/// Leaves a test out, loudly.
pub fn skip(what: &str, why: &str) {
    assert!(!required(what), "{what} is required: {why}");
    eprintln!("SKIPPED({what}): {why}");
}

/// The folder with real images.
pub fn corpus() -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/corpus");
    let folder = PathBuf::from(std::env::var("VDISK_CORPUS").unwrap_or(default.to_owned()));
    if folder.is_dir() {
        return Some(folder);
    }
    skip("corpus", &format!("{} is not there", folder.display()));
    None
}

/// Unpacks a corpus file into memory.
pub fn unpack(path: &Path) -> Arc<MemStore> {
    let out = Command::new("xz").arg("-dc").arg(path).output().unwrap();
    assert!(out.status.success(), "xz -dc {}", path.display());
    let store = MemStore::new(path.file_stem().unwrap());
    for (page, at) in out.stdout.chunks(4096).zip((0u64..).step_by(4096)) {
        if page.iter().any(|byte| *byte != 0) {
            store.write_all_at(page, at).unwrap();
        }
    }
    store.set_len(out.stdout.len() as u64).unwrap();
    Arc::new(store)
}
