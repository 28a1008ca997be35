//! Programs that are not ours, asked about what a cut left.

use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use vdisk_core::layer::read;
use vdisk_core::{Access, Files, Findings, Format, MemFiles, Opener};
use vdisk_testkit::VecDisk;
use vdisk_testkit::exercise::Open;
use vdisk_testkit::tools::{Tool, arg, dissect_digest, libvhdi_digest, qemu, said, sha256};

/// Asserts that others read the image, mended and closed by us, as we do.
pub fn ask(files: &MemFiles, open: Open<'_>, context: &str) {
    finish(files, open);
    let (folder, path) = put(files);
    let (format, sector, bytes) = contents(files, open);
    let raw = folder.path().join("expected");
    std::fs::write(&raw, &bytes).expect("room for the image");
    let digest = sha256(&bytes);
    match format {
        Format::Vhd => {
            if Tool::Qemu.there() {
                qemu::assert_reads(&path, "vpc", &raw, context);
            }
            if Tool::Libvhdi.there() {
                assert_eq!(libvhdi_digest(&[&path]), digest, "{context}: libvhdi");
            }
        }
        Format::Vhdx => {
            // qemu knows only sectors of 512 bytes.
            if sector == 512 && Tool::Qemu.there() {
                qemu::assert_reads(&path, "vhdx", &raw, context);
                qemu::assert_clean(&path, "vhdx", context);
            }
            if Tool::Dissect.there() {
                assert_eq!(dissect_digest("vhdx.VHDX", &path), digest, "{context}: dissect");
            }
            if Tool::Libvhdi.there() {
                assert_eq!(libvhdi_digest(&[&path]), digest, "{context}: libvhdi");
            }
        }
        Format::Vmdk => {
            if Tool::Qemu.there() {
                qemu::assert_reads(&path, "vmdk", &raw, context);
            }
        }
        Format::Raw => {}
    }
}

/// Finishes a change of the size of a VMDK that was cut off: until then the header, which others
/// believe, counts more sectors than the descriptor.
fn finish(files: &MemFiles, open: Open<'_>) {
    let main = files.open(files.main_name(), "image", Access::Write).expect("the main file");
    let mut layer = open(main, files, Access::Write).unwrap_or_else(|e| panic!("open: {e}"));
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap_or_else(|e| panic!("check: {e}"));
    if findings.list().iter().any(|finding| finding.code == "vmdk-capacity-differs") {
        let size = layer.info().virtual_size;
        layer
            .resize(size)
            .and_then(|()| layer.close())
            .unwrap_or_else(|e| panic!("finish the resize: {e}"));
    }
}

/// Asserts that qemu, replaying the log of a VHDX as a cut left it, comes to what we read.
pub fn ask_to_replay(files: &MemFiles, open: Open<'_>, context: &str) {
    let (format, sector, bytes) = contents(files, open);
    if format != Format::Vhdx || sector != 512 || !Tool::Qemu.there() {
        return;
    }
    let (folder, path) = put(files);
    let args = ["check", "-f", "vhdx", "-r", "all", arg(&path)];
    let done = Command::new("qemu-img").args(args).output().expect("qemu-img");
    assert!(done.status.success(), "{context}: {args:?}: {}", said(&done));
    let raw = folder.path().join("expected");
    std::fs::write(&raw, &bytes).expect("room for the image");
    qemu::assert_reads(&path, "vhdx", &raw, context);
}

/// The files in a folder of the host, and the path of the main one.
fn put(files: &MemFiles) -> (TempDir, PathBuf) {
    let folder = super::quick_folder();
    for (name, store) in files.all() {
        write(&folder.path().join(name), &store.to_bytes());
    }
    let path = folder.path().join(files.main_name());
    (folder, path)
}

fn write(path: &Path, bytes: &[u8]) {
    std::fs::write(path, bytes).expect("room for the image");
}

/// The image's format, its guest's sector, and all it holds.
fn contents(files: &MemFiles, open: Open<'_>) -> (Format, u32, Vec<u8>) {
    let main = files.open(files.main_name(), "image", Access::Read).expect("the main file");
    let layer = open(main, files, Access::Read).unwrap_or_else(|e| panic!("open: {e}"));
    let info = layer.info().clone();
    let mut bytes = vec![0; info.virtual_size as usize];
    read(&*layer, &VecDisk(Vec::new()), &mut bytes, 0).unwrap_or_else(|e| panic!("read: {e}"));
    (info.format, info.logical_sector, bytes)
}
