//! Variants that are read, not made: device disks, COWD, seSparse, zero grains, odd descriptors.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use common::{filled, for_writing, open_mem, open_mem_with, open_path, open_path_rw};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::layer::read;
use vdisk_core::output::Output;
use vdisk_core::{ErrorKind, Files, Layer, LayerKind, LayerMut, MemFiles, StoreExt};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::model::{assert_clean, assert_reads};
use vdisk_vmdk::{CreateOptions, Subformat, create};

fn described(head: &str, extents: &str, files: &[(&str, &[u8])]) -> MemFiles {
    let mut folder = MemFiles::new("disk.vmdk");
    let text = format!("# Disk DescriptorFile\nversion=1\nCID=1234abcd\n{head}\n{extents}\n");
    folder.create("disk.vmdk").unwrap().put(text.as_bytes(), 0, "text").unwrap();
    for (name, bytes) in files {
        folder.create(name).unwrap().put(bytes, 0, "extent").unwrap();
    }
    folder
}

const BASE: &str = "parentCID=ffffffff\ncreateType=\"custom\"";
const DELTA: &str = "parentCID=1234abce\ncreateType=\"vmfsSparse\"\nparentFileNameHint=\"p.vmdk\"";

#[test]
fn a_partitioned_device_is_put_together() {
    let mut disk = vec![0; 40 * 512];
    disk[..512].fill(1);
    disk[512 * 10..512 * 20].fill(2);
    let mut device = vec![9; 30 * 512];
    device[512 * 12..512 * 22].fill(2);
    let extents = "RW 1 FLAT \"disk-pt.vmdk\" 0\nRW 9 ZERO\n\
        RDONLY 10 FLAT \"device\" 12\nNOACCESS 20 FLAT \"elsewhere\" 0";
    let files = described(BASE, extents, &[("disk-pt.vmdk", &[1; 512]), ("device", &device)]);
    let layer = open_mem(&files).unwrap();
    assert_reads(&layer, &ZeroDisk(0), &disk, "partitioned device");
    assert_eq!(layer.info().subformat, "custom");
    assert_eq!(layer.stores().len(), 3);
    assert_clean(&layer, "partitioned device");
    let mut layer = open_mem_with(&files, &for_writing()).unwrap();
    layer.write(&[5; 512], 0, &ZeroDisk(0)).unwrap();
    for offset in [512, 512 * 12, 512 * 30] {
        let error = layer.write(&[5; 512], offset, &ZeroDisk(0)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
    layer.zero(0..512 * 10, &ZeroDisk(0)).unwrap();
    layer.close().unwrap();
    disk[..512].fill(0);
    assert_reads(&open_mem(&files).unwrap(), &ZeroDisk(0), &disk, "changed");
}

fn le32(numbers: &[u32]) -> Vec<u8> {
    numbers.iter().flat_map(|n| n.to_le_bytes()).collect()
}

#[test]
fn cowd_shows_its_grains_and_the_parent() {
    let mut cowd = [b"COWD".to_vec(), le32(&[1, 3, 64, 1, 4, 1, 40])].concat();
    cowd.resize(64 * 512, 0);
    cowd[2048..2052].copy_from_slice(&le32(&[8]));
    cowd[8 * 512 + 12..8 * 512 + 20].copy_from_slice(&le32(&[40, 41]));
    cowd[40 * 512..42 * 512].fill(6);
    let mut expected = vec![7; 64 * 512];
    expected[3 * 512..5 * 512].fill(6);
    let files = described(DELTA, "RW 64 VMFSSPARSE \"d\"", &[("d", &cowd)]);
    let layer = open_mem(&files).unwrap();
    assert_reads(&layer, &VecDisk(vec![7; 64 * 512]), &expected, "cowd");
    assert_eq!(layer.extent_at(3 * 512, 64 * 512).unwrap().len, 1024, "grains in a row are one");
    assert_clean(&layer, "cowd");
    let error = open_mem_with(&files, &for_writing()).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);

    for (at, bytes) in [(4, 2), (12, 63), (16, 3), (24, 0)] {
        let mut bad = cowd.clone();
        bad[at] = bytes;
        let files = described(DELTA, "RW 64 VMFSSPARSE \"d\"", &[("d", &bad)]);
        assert!(open_mem(&files).unwrap_err().offset().is_some(), "{at}");
    }
}

fn sesparse(replay: u64) -> Vec<u8> {
    let mut file = vec![0; 300 * 512];
    let mut header = [0u64; 26];
    header[..5].copy_from_slice(&[0xCAFE_BABE, 0x2_0000_0001, 512, 8, 64]);
    header[10..12].copy_from_slice(&[1, 1]);
    header[16..20].copy_from_slice(&[2, 1, 8, 64]);
    header[24..26].copy_from_slice(&[100, 200]);
    let put = |file: &mut Vec<u8>, at: usize, words: &[u64]| {
        let bytes: Vec<u8> = words.iter().flat_map(|w| w.to_le_bytes()).collect();
        file[at..at + bytes.len()].copy_from_slice(&bytes);
    };
    put(&mut file, 0, &header);
    put(&mut file, 512, &[0xCAFE_CAFE, 0, 0, replay]);
    put(&mut file, 1024, &[0x1000_0000_0000_0000]);
    let entries = [0, 1 << 60, 2 << 60, 3 << 60 | 1 << 48, 3 << 60 | 2 << 48, 5 << 60];
    put(&mut file, 8 * 512, &entries);
    file[108 * 512..116 * 512].fill(3);
    file[116 * 512..124 * 512].fill(4);
    file
}

#[test]
fn sesparse_shows_grains_zeros_and_the_parent() {
    let open = |bytes: &[u8]| open_mem(&described(DELTA, "RW 512 SESPARSE \"d\"", &[("d", bytes)]));
    let layer = open(&sesparse(0)).unwrap();
    let mut buf = vec![0; 5 * 4096];
    read(&layer, &VecDisk(vec![7; 512 * 512]), &mut buf, 0).unwrap();
    let shown: Vec<u8> = buf.chunks(4096).map(|grain| grain[100]).collect();
    assert_eq!(shown, [7, 0, 0, 3, 4]);
    assert_eq!(layer.extent_at(4096, 512 * 512).unwrap().kind, LayerKind::Zero { explicit: true });
    assert_eq!(layer.extent_at(5 * 4096, 512 * 512).unwrap_err().kind(), ErrorKind::Corrupt);
    let error = open(&sesparse(1)).map(|_| ()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.to_string().contains("journal"), "{error}");
}

#[test]
fn zero_grains_count_only_where_they_are_announced() {
    let files = filled(&CreateOptions::new(1 << 20), &Content::full(1 << 20, 1));
    let store = files.get("disk.vmdk").unwrap();
    for table in [22u64, 27] {
        store.put(&le32(&[1, 1]), table * 512, "entries").unwrap();
    }
    assert_eq!(open_mem(&files).unwrap().extent_at(0, 512).unwrap_err().kind(), ErrorKind::Corrupt);
    store.put(&le32(&[2, 7]), 4, "version and flags").unwrap();
    let layer = open_mem(&files).unwrap();
    let extent = layer.extent_at(0, 1 << 20).unwrap();
    assert_eq!((extent.len, extent.kind), (131_072, LayerKind::Zero { explicit: true }));
}

#[test]
fn the_name_in_an_embedded_descriptor_does_not_matter() {
    let content = Content::random(1 << 20, 3);
    let files = filled(&CreateOptions::new(1 << 20), &content);
    let mut renamed = MemFiles::new("other.vmdk");
    let bytes = files.get("disk.vmdk").unwrap().to_bytes();
    renamed.create("other.vmdk").unwrap().put(&bytes, 0, "image").unwrap();
    assert_reads(&open_mem(&renamed).unwrap(), &ZeroDisk(0), content.bytes(), "renamed");
}

#[test]
fn aliases_and_line_ends_are_taken() {
    let extents = "rw 2 flat \"a.vmdk\" 0\r\nRW 2 FLAT \"a.vmdk\" 2\r\n";
    let head = "parentCID=FFFFFFFF\r\nCreateType = \"2GbMaxExtentFlat\"\r\n";
    let data: Vec<u8> = (0..2048u32).map(|n| n as u8).collect();
    let files = described(head, extents, &[("a.vmdk", &data)]);
    let layer = open_mem(&files).unwrap();
    assert_eq!(layer.info().subformat, "twoGbMaxExtentFlat");
    assert_reads(&layer, &ZeroDisk(0), &data, "alias");
}

#[test]
fn the_largest_disks_open_at_once_on_the_host() {
    let folder = tempfile::tempdir().unwrap();
    for subformat in [Subformat::MonolithicSparse, Subformat::Vmfs { thin: true }] {
        // The host's file system may end at 16 TiB.
        let size = subformat.max_size().min(15 << 40);
        let path = folder.path().join("disk.vmdk");
        let mut files = Output::new(&path, true).unwrap();
        let options = CreateOptions { subformat, ..CreateOptions::new(size) };
        create(&mut files, &options).unwrap().finish().unwrap();
        files.commit().unwrap();
        let layer = open_path(&path).unwrap();
        assert_eq!(layer.extent_at(0, size).unwrap().len, size);
        assert_clean(&layer, "large");
        let mut layer = open_path_rw(&path).unwrap();
        layer.write(&[1; 10_000], size - 10_000, &ZeroDisk(0)).unwrap();
        layer.close().unwrap();
    }
}
