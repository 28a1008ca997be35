//! On a file system whose files can share blocks, a conversion moves no bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{assert_same, convert, open_as, write_raw};
use vdisk::{Disk, Format, Image, NewImage};
use vdisk_testkit::content::Content;
use vdisk_testkit::tools::{Tool, arg, qemu, skip};

const SIZE: u64 = 48 << 20;
/// What tables, and the file system's own records of what is shared, may take.
const METADATA: u64 = 3 << 20;

/// A new XFS, mounted until dropped.
struct Xfs(tempfile::TempDir);

impl Xfs {
    fn new() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("xfs");
        std::fs::File::create(&image).unwrap().set_len(400 << 20).unwrap();
        std::fs::create_dir(folder.path().join("mounted")).unwrap();
        let mounted = folder.path().join("mounted");
        let made = Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image).status();
        let mount = || Command::new("mount").args(["-o", "loop"]).args([&image, &mounted]).status();
        match made.and_then(|_| mount()) {
            Ok(status) if status.success() => Some(Self(folder)),
            other => {
                skip("loop", &format!("mounting an XFS: {other:?}"));
                None
            }
        }
    }

    fn path(&self, name: &str) -> std::path::PathBuf {
        self.0.path().join("mounted").join(name)
    }

    /// Bytes in use, once everything written is on its disk.
    fn used(&self) -> u64 {
        rustix::fs::sync();
        let found = rustix::fs::statvfs(self.path(".")).unwrap();
        (found.f_blocks - found.f_bfree) * found.f_frsize
    }
}

impl Drop for Xfs {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.path(".")).status();
    }
}

fn shares(xfs: &Xfs, source: &Image, path: &Path, new: &NewImage) {
    let before = xfs.used();
    convert(source, path, new).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let grown = xfs.used().saturating_sub(before);
    assert!(grown < METADATA, "{}: {grown} bytes are not shared", path.display());
}

#[test]
fn images_share_the_blocks_of_their_source() {
    let Some(xfs) = Xfs::new() else { return };
    let raw = xfs.path("disk.raw");
    write_raw(&raw, &Content::full(SIZE, 11));
    let source = open_as(Format::Raw).open(&raw).unwrap();
    for (format, list, qemu_name) in [
        (Format::Vhd, "", "vpc"),
        (Format::Vhd, "block_size=64k", "vpc"),
        (Format::Vhd, "block_size=16M", "vpc"),
        (Format::Vhd, "subformat=fixed", "vpc"),
        (Format::Vhdx, "", "vhdx"),
        (Format::Vmdk, "", "vmdk"),
        (Format::Vmdk, "subformat=monolithicFlat", "vmdk"),
    ] {
        let context = format!("{format} {list}");
        let mut new = NewImage::new(format, source.len());
        new.set_list(list).unwrap();
        let path = xfs.path(&format!("image.{format}"));
        shares(&xfs, &source, &path, &new);
        let image = Image::open(&path).unwrap();
        assert_same(&source, &image, &context);
        assert!(vdisk::check(&path, &vdisk::OpenOptions::new()).unwrap().findings.is_empty());
        // qemu reads no VHD but those with blocks of 2 MiB as others write them.
        if Tool::Qemu.there() && !list.contains("block_size") {
            qemu::assert_reads(&path, qemu_name, &raw, &context);
        }
        let back = xfs.path("back.raw");
        shares(&xfs, &image, &back, &NewImage::new(Format::Raw, source.len()));
        assert_eq!(std::fs::read(&back).unwrap(), std::fs::read(&raw).unwrap(), "{context}");
        for path in [path, xfs.path("image-flat.vmdk"), back] {
            let _ = std::fs::remove_file(arg(&path));
        }
    }
}
