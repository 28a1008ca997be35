//! What the integration tests of this crate share.
#![allow(dead_code, unreachable_pub)]

use std::path::{Path, PathBuf};

use vdisk::{
    CopyOptions, CopyReport, Disk, Format, Image, NewImage, OpenOptions, Result, Watch, compare,
};
use vdisk_testkit::content::Content;

/// A way to write an image.
#[derive(Clone, Copy, Debug)]
pub struct Variant {
    pub format: Format,
    /// `key=value` options.
    pub list: &'static str,
}

const fn variant(format: Format, list: &'static str) -> Variant {
    Variant { format, list }
}

/// Every format and subformat we write.
pub const VARIANTS: [Variant; 14] = [
    variant(Format::Raw, ""),
    variant(Format::Vhd, "subformat=dynamic"),
    variant(Format::Vhd, "subformat=dynamic,block_size=512k"),
    variant(Format::Vhd, "subformat=fixed"),
    variant(Format::Vhdx, "subformat=dynamic,block_size=1M"),
    variant(Format::Vhdx, "subformat=fixed"),
    variant(Format::Vhdx, "logical_sector_size=4096"),
    variant(Format::Vmdk, "subformat=monolithicSparse"),
    variant(Format::Vmdk, "subformat=monolithicFlat"),
    variant(Format::Vmdk, "subformat=twoGbMaxExtentSparse"),
    variant(Format::Vmdk, "subformat=twoGbMaxExtentFlat"),
    variant(Format::Vmdk, "subformat=streamOptimized"),
    variant(Format::Vmdk, "subformat=vmfs"),
    variant(Format::Vmdk, "subformat=vmfsThin"),
];

impl Variant {
    /// A new image of at least `size` bytes.
    pub fn new_image(&self, size: u64) -> NewImage {
        let mut new = NewImage::new(self.format, size);
        new.set_list(self.list).unwrap();
        new.round_up_size();
        new
    }

    /// A name for messages, and for files: the ending is the format's.
    pub fn name(&self) -> String {
        format!("{}-{}.{}", self.format, self.list.replace(['=', ','], "-"), self.format)
    }

    pub fn is_stream(&self) -> bool {
        self.list.contains("streamOptimized")
    }

    pub fn is_4k(&self) -> bool {
        self.list.contains("4096")
    }

    /// qemu's name of the format, where qemu reads the variant (formats.md §9).
    pub fn qemu(&self) -> Option<&'static str> {
        match self.format {
            Format::Vhdx if self.is_4k() => None,
            format => Some(qemu_format(format)),
        }
    }
}

pub fn qemu_format(format: Format) -> &'static str {
    match format {
        Format::Raw => "raw",
        Format::Vhd => "vpc",
        Format::Vhdx => "vhdx",
        Format::Vmdk => "vmdk",
    }
}

/// Options that take a file of `format` for what it is: raw must be said, the others are probed.
pub fn open_as(format: Format) -> OpenOptions {
    match format {
        Format::Raw => OpenOptions::new().format(Format::Raw),
        _ => OpenOptions::new(),
    }
}

pub fn convert(source: &Image, path: &Path, new: &NewImage) -> Result<CopyReport> {
    vdisk::convert(source, path, new, true, &CopyOptions::default(), Watch::default())
}

pub fn assert_same(a: &dyn Disk, b: &dyn Disk, context: &str) {
    let found = compare(a, b, 2, Watch::default()).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert!(found.identical, "{context}: {:?}", found.ranges);
}

/// Writes `content` as a raw file with the holes it says.
pub fn write_raw(path: &Path, content: &Content) {
    use std::os::unix::fs::FileExt;
    let file = std::fs::File::create(path).unwrap();
    file.set_len(content.bytes().len() as u64).unwrap();
    for range in content.data() {
        let piece = &content.bytes()[range.start as usize..range.end as usize];
        file.write_all_at(piece, range.start).unwrap();
    }
}

/// Every byte of a disk.
pub fn bytes_of(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xEE; disk.len() as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Asserts that a check finds nothing worse than a note.
pub fn assert_clean(path: &Path, options: &OpenOptions, context: &str) {
    let report = vdisk::check(path, options).unwrap_or_else(|e| panic!("{context}: check: {e}"));
    assert_eq!((report.corruptions, report.leaks), (0, 0), "{context}: {:?}", report.findings);
}

/// The names in a folder, sorted.
pub fn names_in(folder: &Path) -> Vec<String> {
    let mut names: Vec<String> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

/// Digests of all files below a folder.
pub fn digests_below(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut found = Vec::new();
    for name in names_in(folder) {
        let path = folder.join(name);
        if path.is_dir() {
            found.extend(digests_below(&path));
        } else {
            let digest = vdisk_testkit::tools::sha256_file(&path);
            found.push((path, digest));
        }
    }
    found
}
