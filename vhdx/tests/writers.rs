//! New images hold what was put into them, have the layout they promise, and cost little.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::path::Path;

use common::{MIB, child, image, link, read_only, small, writable};
use uuid::Uuid;
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{ErrorKind, Format, Layer, LayerKind, LayerMut, MemFiles, PathStyle, Store};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::model::{assert_clean, assert_reads};
use vdisk_vhdx::{
    ChildOptions, CreateOptions, Ids, MAX_SIZE, create, create_child, file_size, probe,
};

const GIB: u64 = 1 << 30;
const TIB: u64 = 1 << 40;

fn options() -> Vec<CreateOptions> {
    let mut list = Vec::new();
    for size in [4096, 3 * MIB, 5 * MIB + 4096, 8 * MIB] {
        for block_size in [MIB, 4 * MIB] {
            for logical_sector in [512, 4096] {
                for fixed in [false, true] {
                    let base = CreateOptions::new(size);
                    list.push(CreateOptions { block_size, logical_sector, fixed, ..base });
                }
            }
        }
    }
    list.push(CreateOptions::new(512));
    list
}

#[test]
fn hold_what_was_put_into_them() {
    for (options, seed) in options().iter().zip(0..) {
        let size = options.virtual_size;
        for content in
            [Content::random(size, seed), Content::empty(size), Content::full(size, seed)]
        {
            let store = image(options, &content);
            let context = format!("{options:?}");
            assert!(probe(&*store).unwrap());
            let layer = read_only(store.clone()).unwrap();
            assert_reads(&layer, &ZeroDisk(0), content.bytes(), &context);
            assert_clean(&layer, &context);
            let blocks = content.data().iter().flat_map(|range| {
                range.start / options.block_size..range.end.div_ceil(options.block_size)
            });
            let blocks = blocks.collect::<std::collections::BTreeSet<_>>().len() as u64;
            assert_eq!(store.len().unwrap(), file_size(options, blocks).unwrap(), "{context}");
        }
    }
}

#[test]
fn a_run_gets_one_place_even_behind_a_gap() {
    let mut files = MemFiles::new("a.vhdx");
    let mut writer = create(&mut files, &small(40 * MIB)).unwrap();
    let first = writer.place(512..MIB + 512).unwrap();
    assert_eq!((first.len, first.at % 4096), (MIB, 512));
    let second = writer.place(MIB + 4096..30 * MIB + 5).unwrap();
    assert_eq!(second.len, 29 * MIB + 5 - 4096);
    assert_eq!(second.at, first.at + MIB + 4096 - 512);
    assert!(writer.place(0..5).is_err());
    writer.finish().unwrap();
}

#[test]
fn the_same_options_give_the_same_bytes() {
    let ids = Ids {
        file_write: Uuid::from_u128(1),
        data_write: Uuid::from_u128(2),
        virtual_disk: Uuid::from_u128(3),
    };
    let options = CreateOptions { ids: Some(ids), ..small(3 * MIB) };
    let content = Content::random(3 * MIB, 5);
    assert!(image(&options, &content).to_bytes() == image(&options, &content).to_bytes());
    let layer = read_only(image(&options, &content)).unwrap();
    assert_eq!(layer.info().identity, Some(ids.data_write.to_string()));
}

#[test]
fn impossible_options_are_refused() {
    let good = CreateOptions::new(MIB);
    let bad = [
        CreateOptions::new(0),
        CreateOptions::new(513),
        CreateOptions::new(MAX_SIZE + 512),
        CreateOptions { logical_sector: 4096, ..CreateOptions::new(512) },
        CreateOptions { logical_sector: 1024, ..good.clone() },
        CreateOptions { physical_sector: 0, ..good.clone() },
        CreateOptions { block_size: 3 * MIB, ..good.clone() },
        CreateOptions { block_size: MIB / 2, ..good.clone() },
        CreateOptions { block_size: 512 * MIB, ..good.clone() },
        CreateOptions { log_size: 0, ..good.clone() },
        CreateOptions { log_size: 4096, ..good },
    ];
    for options in bad {
        let error = create(&mut MemFiles::new("a"), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{options:?}");
        assert!(error.advice().is_some());
        assert!(file_size(&options, 0).is_err());
    }
}

/// Creating, opening (for writing too), mapping and checking the largest disks takes next
/// to no space.
#[test]
fn size_costs_nothing() {
    for block_size in [MIB, 32 * MIB] {
        let options = CreateOptions { block_size, ..CreateOptions::new(MAX_SIZE) };
        let store = image_of(&options);
        let mut layer = writable(store.clone()).unwrap();
        let whole = layer.extent_at(0, MAX_SIZE).unwrap();
        assert_eq!((whole.len, whole.kind), (MAX_SIZE, LayerKind::Zero { explicit: false }));
        layer.write(b"end", MAX_SIZE - 3, &ZeroDisk(0)).unwrap();
        let before = layer.extent_at(512, MAX_SIZE).unwrap();
        assert_eq!(before.len, MAX_SIZE - block_size - 512);
        layer.close().unwrap();
        assert_clean(&layer, "64 TiB");
        let mut used = 0;
        let mut at = 0;
        let len = store.len().unwrap();
        while at < len {
            let run = store.run_at(at, len).unwrap();
            used += if run.hole { 0 } else { run.len };
            at += run.len;
        }
        assert!(used < 2 * MIB, "{used} bytes");
    }
}

fn image_of(options: &CreateOptions) -> std::sync::Arc<vdisk_core::MemStore> {
    let mut files = MemFiles::new("a.vhdx");
    create(&mut files, options).unwrap().finish().unwrap();
    files.get("a.vhdx").unwrap()
}

/// Zeroing a whole large child marks every block; a second time there is nothing to do.
#[test]
fn zeroing_everything() {
    let size = 16 * TIB;
    let store = child(&image_of(&CreateOptions::new(size)), 32 * MIB);
    let below = ZeroDisk(size);
    let mut layer = writable(store.clone()).unwrap();
    layer.write(&[1; 4096], 5 * TIB + 512, &below).unwrap();
    for _ in 0..2 {
        layer.zero(512..size, &below).unwrap();
        let rest = layer.extent_at(32 * MIB, size).unwrap();
        assert_eq!((rest.len, rest.kind), (size - 32 * MIB, LayerKind::Zero { explicit: true }));
    }
    assert_eq!(layer.extent_at(0, size).unwrap().len, 512);
    layer.close().unwrap();
    assert_clean(&layer, "zeroed");
}

/// A session with more changed metadata than one commit takes, and than the log holds.
#[test]
fn long_sessions_commit_on_their_way() {
    let below = vdisk_core::disk::ZeroDisk(8 * GIB);
    let parent = image_of(&CreateOptions::new(8 * GIB));
    let store = child(&parent, MIB);
    let mut layer = writable(store.clone()).unwrap();
    let places: Vec<u64> = (0..512).map(|n| n * 16 * MIB + n * 512 + 7).collect();
    for at in &places {
        layer.write(&at.to_le_bytes(), *at, &below).unwrap();
    }
    layer.flush().unwrap();
    drop(layer);
    // As after a power cut: the log is full of entries, of which only the last count.
    let layer = writable(store).unwrap();
    assert_clean(&layer, "child");
    for at in &places {
        let mut found = [0; 8];
        vdisk_core::layer::read(&layer, &below, &mut found, *at).unwrap();
        assert_eq!(u64::from_le_bytes(found), *at);
        let sector = at / 512 * 512;
        let extent = layer.extent_at(sector, 8 * GIB).unwrap();
        assert_eq!((extent.start, extent.len), (sector, 512));
    }
}

#[test]
fn zeroing_gives_space_back() {
    let store = image(&small(16 * MIB), &Content::full(16 * MIB, 1));
    let full = store.len().unwrap();
    let mut layer = writable(store.clone()).unwrap();
    layer.zero(3 * MIB..16 * MIB, &ZeroDisk(0)).unwrap();
    layer.close().unwrap();
    assert_eq!(store.len().unwrap(), full - 13 * MIB);
    assert_eq!(
        layer.extent_at(3 * MIB, 16 * MIB).unwrap().kind,
        LayerKind::Zero { explicit: true }
    );
    // Freed space is reused only after a flush, and then the file need not grow.
    layer.zero(0..MIB, &ZeroDisk(0)).unwrap();
    layer.write(&[1; 512], 9 * MIB, &ZeroDisk(0)).unwrap();
    assert_eq!(store.len().unwrap(), full - 12 * MIB);
    layer.flush().unwrap();
    layer.write(&[2; 512], 10 * MIB, &ZeroDisk(0)).unwrap();
    layer.close().unwrap();
    assert_eq!(store.len().unwrap(), full - 12 * MIB);
    let mut rest = vec![9; MIB as usize - 512];
    vdisk_core::layer::read(&layer, &ZeroDisk(0), &mut rest, 10 * MIB + 512).unwrap();
    assert!(rest.iter().all(|byte| *byte == 0), "bytes of another block");
}

/// Growing far enough moves the table to a larger region.
#[test]
fn growing_moves_the_table() {
    for fixed in [false, true] {
        let options = CreateOptions { fixed, ..small(8 * MIB) };
        let content = Content::random(8 * MIB, 4);
        let store = image(&options, &content);
        let size = if fixed { 140 * GIB } else { 8 * TIB };
        let mut layer = writable(store.clone()).unwrap();
        layer.resize(size).unwrap();
        layer.write(b"far", size - 3, &ZeroDisk(0)).unwrap();
        layer.close().unwrap();
        let mut layer = writable(store.clone()).unwrap();
        assert_clean(&layer, "grown");
        assert_eq!(layer.info().virtual_size, size);
        let mut start = vec![0; 8 * MIB as usize];
        vdisk_core::layer::read(&layer, &ZeroDisk(0), &mut start, 0).unwrap();
        assert!(start == content.bytes());
        layer.resize(8 * MIB).unwrap();
        layer.close().unwrap();
        let layer = read_only(store).unwrap();
        assert_reads(&layer, &ZeroDisk(0), content.bytes(), "shrunk again");
        assert_clean(&layer, "shrunk again");
    }
}

#[test]
fn children() {
    for (logical_sector, block_size) in [(512, MIB), (512, 32 * MIB), (4096, 2 * MIB)] {
        let options = CreateOptions { logical_sector, ..CreateOptions::new(6 * GIB) };
        let store = child(&image_of(&options), block_size);
        let layer = read_only(store.clone()).unwrap();
        assert_clean(&layer, "new child");
        let info = layer.info();
        assert_eq!((&*info.subformat, info.logical_sector), ("differencing", logical_sector));
        let whole = layer.extent_at(0, 6 * GIB).unwrap();
        assert_eq!((whole.len, whole.kind), (6 * GIB, LayerKind::Hole));
        let error = writable(store).unwrap().resize(7 * GIB).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
    }
}

#[test]
fn a_child_records_its_parent() {
    let parent = read_only(image_of(&small(MIB))).unwrap();
    for (relative, expected) in [("a.vhdx", r".\a.vhdx"), ("../x/a.vhdx", r"..\x\a.vhdx")] {
        let mut link = link(&parent, "a.vhdx", Path::new("/images/x"));
        link.relative = relative.to_owned();
        let mut files = MemFiles::new("b.vhdx");
        create_child(&mut files, &ChildOptions::new(&link)).unwrap();
        let layer = read_only(files.get("b.vhdx").unwrap()).unwrap();
        let found = layer.info().parent.clone().unwrap();
        assert_eq!(found.identities, [parent.info().identity.clone().unwrap()]);
        let hints: Vec<_> = found.hints.iter().map(|h| (h.kind, h.style, &*h.path)).collect();
        assert_eq!(
            hints,
            [
                ("relative_path", PathStyle::WindowsRelative, expected),
                ("absolute_win32_path", PathStyle::WindowsAbsolute, r"\images\x\a.vhdx"),
            ]
        );
        let fact = |info: &vdisk_core::LayerInfo| {
            info.facts.iter().find(|(name, _)| *name == "virtual-disk-id").cloned().unwrap()
        };
        assert_eq!(fact(layer.info()), fact(parent.info()));
    }
    let mut foreign = link(&parent, "a.vhd", Path::new("/"));
    foreign.info.format = Format::Vhd;
    let error = create_child(&mut MemFiles::new("b"), &ChildOptions::new(&foreign)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    let mut long = link(&parent, "a.vhdx", Path::new("/"));
    long.relative = "x".repeat(40_000);
    let error = create_child(&mut MemFiles::new("b"), &ChildOptions::new(&long)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
}

/// A block of which every sector was written needs its bitmap no more.
#[test]
fn a_full_block_is_promoted() {
    let below = Content::full(2 * MIB, 3);
    let store = child(&image(&small(2 * MIB), &below), MIB);
    let below = VecDisk(below.bytes().to_vec());
    let mut layer = writable(store).unwrap();
    for at in (0..2 * MIB).step_by(65536) {
        layer.write(&[5; 65536], at, &below).unwrap();
    }
    let extent = layer.extent_at(0, 2 * MIB).unwrap();
    assert!(matches!(extent.kind, LayerKind::Data { .. }));
    assert_eq!(extent.len, 2 * MIB);
    layer.close().unwrap();
    assert_clean(&layer, "promoted");
}

#[test]
fn reading_layers_cannot_be_changed() {
    let store = image_of(&small(MIB));
    let mut layer = read_only(store).unwrap();
    let below = ZeroDisk(0);
    let errors = [
        layer.write(&[1], 0, &below).unwrap_err(),
        layer.zero(0..1, &below).unwrap_err(),
        layer.resize(2 * MIB).unwrap_err(),
        layer.flush().unwrap_err(),
        layer.close().unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
}

#[test]
fn bounds_are_kept() {
    let mut layer = writable(image_of(&small(MIB))).unwrap();
    let below = ZeroDisk(0);
    let errors = [
        layer.write(&[1, 2], MIB - 1, &below).unwrap_err(),
        layer.write(&[1], u64::MAX, &below).unwrap_err(),
        layer.zero(0..MIB + 1, &below).unwrap_err(),
        layer.extent_at(0, MIB + 1).unwrap_err(),
        layer.extent_at(MIB, MIB).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::OutOfRange);
    }
    for size in [0, 100, MAX_SIZE + 512] {
        assert_eq!(layer.resize(size).unwrap_err().kind(), ErrorKind::Usage);
    }
}

#[test]
fn probing_knows_only_the_signature() {
    assert!(!probe(&vdisk_core::MemStore::from_bytes("t", b"vhdxfil")).unwrap());
    assert!(!probe(&vdisk_core::MemStore::from_bytes("t", b"conectix")).unwrap());
    assert!(probe(&vdisk_core::MemStore::from_bytes("t", b"vhdxfile")).unwrap());
}
