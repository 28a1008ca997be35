//! Chains of images with random content.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};

use tempfile::TempDir;
use vdisk::{CopyOptions, Disk, Format, Image, NewImage, OpenOptions, Watch, create_child};
use vdisk_testkit::content::Content;
use vdisk_testkit::tools::{Tool, dissect_digest, libvhdi_digest, qemu, sha256};

/// The formats that have children, with the options of base and child that keep tests small.
pub const FORMATS: [(Format, &str, &str); 3] = [
    (Format::Vhd, "block_size=512k", "block_size=512k"),
    (Format::Vhdx, "block_size=1M", "block_size=1M"),
    (Format::Vmdk, "", ""),
];

/// Bytes of the disks; no whole number of blocks or grains.
pub const SIZE: u64 = (3 << 20) + 7 * 512;

/// A chain on the host.
pub struct Chain {
    pub format: Format,
    folder: TempDir,
    /// Base first.
    pub paths: Vec<PathBuf>,
    /// What each image reads like.
    pub views: Vec<Vec<u8>>,
}

impl Chain {
    /// A base and `depth` children one on the other, in folders of their own, made from `seed`.
    pub fn new(format: (Format, &str, &str), depth: usize, seed: u64) -> Self {
        let (format, base_options, child_options) = format;
        let folder = quick_folder();
        let mut chain = Self { format, folder, paths: Vec::new(), views: Vec::new() };
        chain.add_base("base", base_options, SIZE, seed);
        for number in 1..=depth {
            chain.add_child(&format!("child{number}"), child_options, seed + number as u64);
        }
        chain
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.{}", self.format))
    }

    pub fn top(&self) -> &Path {
        self.paths.last().unwrap()
    }

    pub fn add_base(&mut self, name: &str, options: &str, size: u64, seed: u64) {
        let content = Content::random(size, seed);
        let raw = self.folder().join("content.raw");
        std::fs::write(&raw, content.bytes()).unwrap();
        let path = self.path(name);
        let mut new = NewImage::new(self.format, size);
        new.set_list(options).unwrap();
        let source = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
        vdisk::convert(&source, &path, &new, false, &CopyOptions::default(), Watch::default())
            .unwrap();
        std::fs::remove_file(&raw).unwrap();
        self.paths.push(path);
        self.views.push(content.bytes().to_vec());
    }

    /// A child of the last image, changed at random.
    pub fn add_child(&mut self, name: &str, options: &str, seed: u64) {
        let path = self.path(name);
        let options: Vec<String> =
            [options.to_owned()].into_iter().filter(|o| !o.is_empty()).collect();
        create_child(&path, self.format, self.top(), &OpenOptions::new(), &options, false).unwrap();
        let mut view = self.views.last().unwrap().clone();
        scribble(&path, &mut view, seed);
        self.paths.push(path);
        self.views.push(view);
    }

    /// Asserts that image `index` reads like its view, and has no fault.
    pub fn assert_view(&self, index: usize, context: &str) {
        assert_reads(&self.paths[index], &self.views[index], context);
    }

    /// Asserts that a foreign program reads the image at the top of `paths` (base first) as `view`.
    pub fn judge(&self, paths: &[PathBuf], view: &[u8], context: &str) {
        let top = paths.last().unwrap();
        match self.format {
            Format::Vhd if Tool::Libvhdi.there() => {
                let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
                assert_eq!(libvhdi_digest(&paths), sha256(view), "{context}: libvhdi");
            }
            Format::Vhdx if Tool::Dissect.there() => {
                assert_eq!(dissect_digest("vhdx.VHDX", top), sha256(view), "{context}: dissect");
            }
            Format::Vmdk if Tool::Qemu.there() => {
                let raw = self.folder().join("judged.raw");
                std::fs::write(&raw, view).unwrap();
                qemu::assert_reads(top, "vmdk", &raw, context);
                std::fs::remove_file(&raw).unwrap();
            }
            _ => {}
        }
    }
}

/// A folder in memory where the host has one: flushing costs nothing there.
fn quick_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(folder).unwrap()
}

/// Changes the image at `path` at random, and `view` alike.
pub fn scribble(path: &Path, view: &mut [u8], seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut image = OpenOptions::new().open_rw(path).unwrap();
    // dissect.hypervisor 3.21 reads too little of a sector bitmap that it enters inside a byte.
    let step = if image.info().format == Format::Vhdx { 4096 } else { 1 };
    for _ in 0..rng.usize(0..25) {
        let scale = [512, 5000, 70_000, 700_000][rng.usize(0..4)];
        let start = rng.usize(0..view.len()) / step * step;
        let end = (start + rng.usize(1..scale).next_multiple_of(step)).min(view.len());
        let bytes = &mut view[start..end];
        match rng.u32(0..4) {
            0 => {
                bytes.fill(0);
                image.zero(start as u64..end as u64).unwrap();
            }
            _ => {
                rng.fill(bytes);
                image.write_at(bytes, start as u64).unwrap();
            }
        }
    }
    image.close().unwrap();
}

pub fn bytes_of(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xEE; disk.len() as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Asserts that the image reads like `view`, and has no fault.
pub fn assert_reads(path: &Path, view: &[u8], context: &str) {
    let image = Image::open(path).unwrap_or_else(|e| panic!("{context}: {}: {e}", path.display()));
    assert_holds(&image, view, &format!("{context}: {}", path.display()));
    let report = vdisk::check(path, &OpenOptions::new()).unwrap();
    let faults = (report.corruptions, report.leaks);
    assert_eq!(faults, (0, 0), "{context}: {}: {:?}", path.display(), report.findings);
}

pub fn assert_holds(disk: &dyn Disk, view: &[u8], context: &str) {
    let found = bytes_of(disk);
    assert_eq!(found.len(), view.len(), "{context}: size");
    if found != view {
        let first = found.iter().zip(view).position(|(a, b)| a != b);
        panic!("{context}: byte {first:?} differs");
    }
}
