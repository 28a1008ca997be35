//! Changing images in place against a model.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::time::SystemTime;

use common::{filled, for_writing, open_mem, open_mem_with};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{ErrorKind, Layer, LayerMut, MemFiles, ParentLink, Store, StoreExt};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::model::{Subject, assert_clean, drive};
use vdisk_vmdk::{ChildOptions, CreateOptions, Subformat, create, create_child};

fn empty(options: &CreateOptions) -> MemFiles {
    filled(options, &Content::empty(options.virtual_size))
}

fn subject(files: &MemFiles, below: Vec<u8>, unit: u64, resize: bool) -> Subject<'_> {
    Subject {
        open: Box::new(|| Ok(Box::new(open_mem_with(files, &for_writing())?))),
        below: VecDisk(below),
        resize_step: resize.then_some(512),
        max_size: 2 << 20,
        unit,
    }
}

#[test]
fn every_writable_variant_behaves_like_a_vector() {
    for subformat in Subformat::ALL {
        if subformat == Subformat::StreamOptimized {
            continue;
        }
        for seed in 0..5 {
            let size = [512, (1 << 20) + 1536, 700 << 10][seed as usize % 3];
            let grain_size = [8 << 10, 64 << 10][seed as usize % 2];
            let options = CreateOptions { subformat, grain_size, ..CreateOptions::new(size) };
            drive(subject(&empty(&options), Vec::new(), grain_size, true), seed, 200);
        }
    }
}

/// A delta on random content, as `create_child` makes it or with zero grains announced.
fn delta(size: u64, seed: u64, zero_grains: bool) -> (MemFiles, Vec<u8>) {
    let content = Content::full(size, seed);
    let parent = empty(&CreateOptions::new(size));
    let link = ParentLink {
        info: open_mem(&parent).unwrap().info().clone(),
        relative: "p.vmdk".into(),
        absolute: "/p.vmdk".into(),
        modified: SystemTime::now(),
    };
    let mut files = MemFiles::new("disk.vmdk");
    create_child(&mut files, &ChildOptions::new(&link)).unwrap();
    if zero_grains {
        let store = files.get("disk.vmdk").unwrap();
        store.put(&[2, 0, 0, 0, 7], 4, "version and flags").unwrap();
    }
    (files, content.bytes().to_vec())
}

#[test]
fn deltas_behave_like_a_vector() {
    for seed in 0..5 {
        for zero_grains in [false, true] {
            let size = [65_536, (1 << 20) + 1536, 34 << 20][seed as usize % 3];
            let (files, mut below) = delta(size, seed, zero_grains);
            if seed == 4 {
                below.truncate(600_000);
            }
            let steps = if size > 4 << 20 { 20 } else { 300 };
            drive(subject(&files, below, 64 << 10, false), seed, steps);
        }
    }
}

/// An image whose tables are not allocated, as some programs leave them.
fn without_tables(size: u64) -> MemFiles {
    let files = empty(&CreateOptions { grain_size: 8 << 10, ..CreateOptions::new(size) });
    let store = files.get("disk.vmdk").unwrap();
    let bytes = store.to_bytes();
    for field in [48, 56] {
        let at = u64::from_le_bytes(bytes[field..field + 8].try_into().unwrap()) * 512;
        let tables = size.div_ceil(8 << 10).div_ceil(512);
        store.put(&vec![0; tables as usize * 4], at, "directory").unwrap();
    }
    files
}

#[test]
fn missing_tables_are_added() {
    for seed in 0..4 {
        let files = without_tables(5 << 20);
        let mut subject = subject(&files, Vec::new(), 8 << 10, true);
        subject.max_size = 9 << 20;
        drive(subject, seed, 100);
    }
}

#[test]
fn the_first_change_marks_the_file_and_renews_the_id() {
    let files = empty(&CreateOptions { cid: Some(5), ..CreateOptions::new(1 << 20) });
    let store = files.get("disk.vmdk").unwrap();
    let before = store.to_bytes();
    let mut layer = open_mem_with(&files, &for_writing()).unwrap();
    assert_eq!(store.to_bytes(), before, "opening changes nothing");
    layer.write(b"x", 3, &ZeroDisk(0)).unwrap();
    assert!(layer.info().dirty || store.to_bytes()[72] == 1);
    let id = layer.info().identity.clone().unwrap();
    assert_ne!(id, "00000005");
    layer.write(b"y", 4, &ZeroDisk(0)).unwrap();
    assert_eq!(layer.info().identity.as_deref(), Some(id.as_str()), "once a session");
    layer.close().unwrap();
    assert!(!layer.info().dirty);
    drop(layer);
    assert_eq!(store.to_bytes()[72], 0);
    let layer = open_mem(&files).unwrap();
    assert_eq!(layer.info().identity.as_deref(), Some(id.as_str()));
    let long = layer.info().facts.iter().find(|(name, _)| *name == "long-content-id").unwrap();
    assert!(format!("{:?}", long.1).contains(&id), "{long:?} {id}");
    assert_clean(&layer, "closed");
}

#[test]
fn reading_layers_and_read_only_variants_refuse_writes() {
    let files = empty(&CreateOptions::new(1 << 20));
    let before = files.get("disk.vmdk").unwrap().to_bytes();
    let mut layer = open_mem(&files).unwrap();
    assert_eq!(layer.write(b"x", 0, &ZeroDisk(0)).unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(layer.zero(0..5, &ZeroDisk(0)).unwrap_err().kind(), ErrorKind::Denied);
    assert_eq!(layer.resize(512).unwrap_err().kind(), ErrorKind::Denied);
    layer.close().unwrap();
    assert_eq!(files.get("disk.vmdk").unwrap().to_bytes(), before);

    let options =
        CreateOptions { subformat: Subformat::StreamOptimized, ..CreateOptions::new(1 << 20) };
    let error = open_mem_with(&empty(&options), &for_writing()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.advice().is_some());
}

#[test]
fn writes_outside_the_disk_or_into_closed_extents_change_nothing() {
    let files = empty(&CreateOptions {
        subformat: Subformat::MonolithicFlat,
        ..CreateOptions::new(1 << 20)
    });
    let text = String::from_utf8(files.get("disk.vmdk").unwrap().to_bytes()).unwrap();
    let text = text.replace(
        "RW 2048 FLAT \"disk-flat.vmdk\" 0",
        "RW 1024 FLAT \"disk-flat.vmdk\" 0\nRDONLY 512 FLAT \"disk-flat.vmdk\" 1024\nRW 512 ZERO",
    );
    let store = files.get("disk.vmdk").unwrap();
    store.set_len(0).unwrap();
    store.put(text.as_bytes(), 0, "text").unwrap();
    let mut layer = open_mem_with(&files, &for_writing()).unwrap();
    let below = ZeroDisk(0);
    let kind = |result: vdisk_core::Result<()>| result.unwrap_err().kind();
    assert_eq!(kind(layer.write(&[1; 10], (1 << 20) - 5, &below)), ErrorKind::OutOfRange);
    assert_eq!(kind(layer.write(&[1; 10], (512 << 10) - 5, &below)), ErrorKind::Denied);
    assert_eq!(store.to_bytes(), text.as_bytes());
    layer.write(&[1; 10], (512 << 10) - 10, &below).unwrap();
    assert_eq!(layer.resize(1 << 21).unwrap_err().kind(), ErrorKind::Unsupported);
}

#[test]
fn change_tracking_is_withdrawn() {
    let options =
        CreateOptions { subformat: Subformat::Vmfs { thin: false }, ..CreateOptions::new(1 << 20) };
    let files = empty(&options);
    let store = files.get("disk.vmdk").unwrap();
    let mut text = store.to_bytes();
    text.extend_from_slice(b"changeTrackPath=\"disk-ctk.vmdk\"\n");
    store.put(&text, 0, "text").unwrap();
    let mut layer = open_mem_with(&files, &for_writing()).unwrap();
    layer.write(b"x", 0, &ZeroDisk(0)).unwrap();
    layer.close().unwrap();
    assert!(!String::from_utf8(store.to_bytes()).unwrap().contains("changeTrackPath"));
    assert_eq!(store.to_bytes().len(), text.len());
    open_mem(&files).unwrap();
}

#[test]
fn sizes_that_need_other_files_are_refused() {
    let delta = delta(1 << 20, 1, false).0;
    let mut layer = open_mem_with(&delta, &for_writing()).unwrap();
    assert_eq!(layer.resize(2 << 20).unwrap_err().kind(), ErrorKind::Unsupported);
    let split = empty(&CreateOptions {
        subformat: Subformat::TwoGbMaxExtentSparse,
        ..CreateOptions::new(1 << 20)
    });
    let mut layer = open_mem_with(&split, &for_writing()).unwrap();
    assert_eq!(layer.resize(2048 << 20).unwrap_err().kind(), ErrorKind::Unsupported);
    layer.resize(2047 << 20).unwrap();
    assert_eq!(layer.resize(0).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(layer.resize(1000).unwrap_err().kind(), ErrorKind::Usage);
    layer.close().unwrap();
    assert_clean(&open_mem(&split).unwrap(), "split");
}

#[test]
fn large_sparse_disks_grow_and_shrink() {
    let files = empty(&CreateOptions::new(1 << 20));
    let mut layer = open_mem_with(&files, &for_writing()).unwrap();
    for size in [5 << 30, 2 << 40, 300 << 30, 1 << 20, 9 << 30] {
        layer.resize(size).unwrap();
        layer.write(b"end", size - 3, &ZeroDisk(0)).unwrap();
        layer.write(b"start", 0, &ZeroDisk(0)).unwrap();
        layer.flush().unwrap();
        assert_clean(&layer, "resized");
        assert_clean(&open_mem(&files).unwrap(), "resized and opened");
    }
    layer.close().unwrap();
    let layer = open_mem(&files).unwrap();
    let mut expected = vec![0; 1 << 20];
    expected[..5].copy_from_slice(b"start");
    let mut buf = vec![0; 1 << 20];
    vdisk_core::layer::read(&layer, &ZeroDisk(0), &mut buf, 0).unwrap();
    // "end" was written at the end of the megabyte while that was the disk's end.
    expected[(1 << 20) - 3..].copy_from_slice(b"end");
    assert!(buf == expected);
    assert_reads_nothing(&layer, 1 << 20..(9 << 30) - 3);
    let error = {
        let mut layer = open_mem_with(&files, &for_writing()).unwrap();
        layer.resize((2 << 40) + 512).unwrap_err()
    };
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

fn assert_reads_nothing(layer: &dyn Layer, range: std::ops::Range<u64>) {
    let mut at = range.start;
    while at < range.end {
        let extent = layer.extent_at(at, range.end).unwrap();
        if !matches!(extent.kind, vdisk_core::LayerKind::Zero { .. }) {
            let mut buf = vec![1; extent.len as usize];
            vdisk_core::layer::read(layer, &ZeroDisk(0), &mut buf, at).unwrap();
            assert!(buf.iter().all(|byte| *byte == 0), "{extent:?}");
        }
        at += extent.len;
    }
}

#[test]
fn an_image_made_by_parts_is_changed_across_them() {
    let size = (2047 << 20) + (1 << 20);
    let options =
        CreateOptions { subformat: Subformat::TwoGbMaxExtentSparse, ..CreateOptions::new(size) };
    let mut files = MemFiles::new("disk.vmdk");
    create(&mut files, &options).unwrap().finish().unwrap();
    let mut layer = open_mem_with(&files, &for_writing()).unwrap();
    let data: Vec<u8> = (0..200_000u32).map(|n| n as u8).collect();
    layer.write(&data, (2047 << 20) - 100_000, &ZeroDisk(0)).unwrap();
    layer.close().unwrap();
    let layer = open_mem(&files).unwrap();
    let mut buf = vec![0; 200_000];
    vdisk_core::layer::read(&layer, &ZeroDisk(0), &mut buf, (2047 << 20) - 100_000).unwrap();
    assert_eq!(buf, data);
    assert_clean(&layer, "parts");
}
