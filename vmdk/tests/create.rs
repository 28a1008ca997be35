//! New images of every variant hold what was put into them.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::time::SystemTime;

use common::{filled, open_mem};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{
    ErrorKind, Files, Layer, LayerKind, MemFiles, ParentLink, PathStyle, Store, StoreExt,
};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::model::{assert_clean, assert_reads};
use vdisk_vmdk::{
    AdapterType, ChildOptions, CreateOptions, Subformat, create, create_child, file_size,
};

const SIZES: [u64; 7] =
    [512, 65_536 - 512, 65_536, 65_536 + 512, 1 << 20, (1 << 20) + 1536, 5 << 20];

#[test]
fn every_variant_and_size_holds_its_content() {
    for subformat in Subformat::ALL {
        for (index, size) in SIZES.into_iter().enumerate() {
            let mut contents = vec![
                Content::empty(size),
                Content::random(size, index as u64),
                Content::random(size, 77 + index as u64),
                Content::full(size.min(4 << 20), 5),
            ];
            if size > 4 << 20 {
                contents.drain(1..);
                contents.push(Content::random(size, 99));
            }
            for (number, content) in contents.iter().enumerate() {
                let size = content.bytes().len() as u64;
                let context = format!("{subformat:?} of {size}, content {number}");
                // With small grains 5 MiB need two tables.
                let grain_size = [64 << 10, 8 << 10][number % 2];
                let options = CreateOptions { subformat, grain_size, ..CreateOptions::new(size) };
                let files = filled(&options, content);
                let layer = open_mem(&files).unwrap_or_else(|e| panic!("{context}: {e}"));
                assert_reads(&layer, &ZeroDisk(0), content.bytes(), &context);
                assert_clean(&layer, &context);
                let info = layer.info();
                assert_eq!(info.subformat.to_lowercase(), subformat_in_file(subformat));
                assert!(info.parent.is_none() && !info.dirty && info.identity.is_some());
            }
        }
    }
}

fn subformat_in_file(subformat: Subformat) -> String {
    match subformat {
        Subformat::Vmfs { .. } => "vmfs".to_owned(),
        other => other.name().to_lowercase(),
    }
}

#[test]
fn grains_of_every_size() {
    for subformat in [Subformat::MonolithicSparse, Subformat::StreamOptimized] {
        for shift in 13..=20 {
            let size = (6 << 20) + 512;
            let options =
                CreateOptions { subformat, grain_size: 1 << shift, ..CreateOptions::new(size) };
            let content = Content::random(size, shift);
            let files = filled(&options, &content);
            let layer = open_mem(&files).unwrap();
            assert_eq!(layer.info().block_size, Some(1 << shift));
            assert_reads(&layer, &ZeroDisk(0), content.bytes(), "grains");
            assert_clean(&layer, "grains");
        }
    }
}

#[test]
fn split_disks_go_on_in_the_next_file() {
    const SPLIT: u64 = 2047 << 20;
    let size = 2 * SPLIT + (1 << 20);
    for subformat in [Subformat::TwoGbMaxExtentSparse, Subformat::TwoGbMaxExtentFlat] {
        let options = CreateOptions { subformat, ..CreateOptions::new(size) };
        let mut files = MemFiles::new("disk.vmdk");
        let mut writer = create(&mut files, &options).unwrap();
        let range = SPLIT - 70_000..SPLIT + 70_000;
        let mut at = range.start;
        while at < range.end {
            let place = writer.place(at..range.end).unwrap();
            place.store.put(&vec![7; place.len as usize], place.at, "data").unwrap();
            at += place.len;
        }
        writer.finish().unwrap();
        assert_eq!(files.all().len(), 4);
        let layer = open_mem(&files).unwrap();
        let mut buf = vec![0; 140_002];
        vdisk_core::layer::read(&layer, &ZeroDisk(0), &mut buf, range.start - 1).unwrap();
        assert!(buf[0] == 0 && buf[140_001] == 0 && buf[1..140_001].iter().all(|b| *b == 7));
        assert_clean(&layer, "split");
    }
}

#[test]
fn the_largest_images_are_made_and_mapped_at_once() {
    for subformat in Subformat::ALL {
        if subformat == Subformat::TwoGbMaxExtentSparse
            || subformat == Subformat::TwoGbMaxExtentFlat
        {
            continue;
        }
        let size = subformat.max_size();
        let mut files = MemFiles::new("disk.vmdk");
        let options = CreateOptions { subformat, ..CreateOptions::new(size) };
        create(&mut files, &options).unwrap().finish().unwrap();
        let layer = open_mem(&files).unwrap();
        let extent = layer.extent_at(0, size).unwrap();
        assert_eq!(extent.len, size, "{subformat:?}");
        let sparse = extent.kind == LayerKind::Zero { explicit: false };
        assert!(sparse || matches!(extent.kind, LayerKind::Data { .. }));
    }
}

#[test]
fn places_are_long_and_aligned() {
    let mut files = MemFiles::new("disk.vmdk");
    let mut writer = create(&mut files, &CreateOptions::new(1 << 30)).unwrap();
    let place = writer.place(1 << 20..100 << 20).unwrap();
    assert_eq!(place.len, 99 << 20);
    assert!(place.at.is_multiple_of(65536));
    // A range that starts in the grain of the one before goes on there.
    let place = writer.place(200 << 20..(200 << 20) + 512).unwrap();
    let next = writer.place((200 << 20) + 1024..(200 << 20) + 200_000).unwrap();
    assert_eq!(next.at, place.at + 1024);
    assert_eq!(next.len, 200_000 - 1024);
}

#[test]
fn options_that_cannot_be_are_refused() {
    let good = CreateOptions::new(1 << 20);
    let bad = [
        CreateOptions { virtual_size: 0, ..good.clone() },
        CreateOptions { virtual_size: 1000, ..good.clone() },
        CreateOptions { virtual_size: (2 << 40) + 512, ..good.clone() },
        CreateOptions { virtual_size: 512, logical_sector: 4096, ..good.clone() },
        CreateOptions { grain_size: 4096, ..good.clone() },
        CreateOptions { grain_size: 100_000, ..good.clone() },
        CreateOptions { cid: Some(0xFFFF_FFFF), ..good.clone() },
        CreateOptions {
            subformat: Subformat::StreamOptimized,
            compression_level: 0,
            ..good.clone()
        },
    ];
    for options in bad {
        let error = create(&mut MemFiles::new("d.vmdk"), &options).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
    }
    let error = create(&mut MemFiles::new("a\"b.vmdk"), &good).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage, "{error}");
}

#[test]
fn measured_sizes_are_true() {
    let unit = 65536;
    let size = 100 * unit;
    for subformat in Subformat::ALL {
        let options = CreateOptions { subformat, ..CreateOptions::new(size) };
        for units in [0, 1, 37, 100] {
            let content = Content::full(units * unit, 3);
            let mut files = MemFiles::new("disk.vmdk");
            let mut writer = create(&mut files, &options).unwrap();
            let mut out = Vec::new();
            for (index, piece) in content.bytes().chunks(unit as usize).enumerate() {
                let start = index as u64 * unit;
                match writer.encoder() {
                    Some(encoder) => {
                        encoder.encode(piece, &mut out).unwrap();
                        writer.append(start, &out).unwrap();
                    }
                    None => assert_eq!(writer.place(start..start + unit).unwrap().len, unit),
                }
            }
            writer.finish().unwrap();
            let total: u64 = files.all().iter().map(|(_, store)| store.len().unwrap()).sum();
            let units = units * unit / options_unit(&options);
            let measured = file_size(&options, units).unwrap();
            if subformat == Subformat::StreamOptimized {
                assert!(total <= measured, "{subformat:?}: {total} {measured}");
            } else {
                assert_eq!(total, measured, "{subformat:?}");
            }
        }
    }
}

fn options_unit(options: &CreateOptions) -> u64 {
    create(&mut MemFiles::new("disk.vmdk"), options).unwrap().unit()
}

#[test]
fn the_same_options_make_the_same_bytes() {
    let options = CreateOptions {
        subformat: Subformat::StreamOptimized,
        cid: Some(0x0012_3456),
        uuid: Some([0x60; 16]),
        adapter_type: AdapterType::PvScsi,
        logical_sector: 4096,
        physical_sector: 4096,
        ..CreateOptions::new(1 << 20)
    };
    let content = Content::random(1 << 20, 9);
    let bytes = |files: MemFiles| files.get("disk.vmdk").unwrap().to_bytes();
    assert_eq!(bytes(filled(&options, &content)), bytes(filled(&options, &content)));
    let layer = open_mem(&filled(&options, &content)).unwrap();
    let info = layer.info();
    assert_eq!(info.identity.as_deref(), Some("00123456"));
    assert_eq!((info.logical_sector, info.physical_sector), (4096, 4096));
    let fact = |name| info.facts.iter().find(|(found, _)| *found == name).unwrap().1.clone();
    assert_eq!(fact("adapter-type"), "lsilogic".into());
    assert_eq!(fact("directory"), "footer".into());
    assert_eq!(fact("uuid"), "60 60 60 60 60 60 60 60-60 60 60 60 60 60 60 60".into());
}

#[test]
fn a_stream_is_canonical() {
    let options =
        CreateOptions { subformat: Subformat::StreamOptimized, ..CreateOptions::new(40 << 20) };
    let mut content = vec![0u8; 40 << 20];
    content[0] = 1;
    content[35 << 20] = 1;
    let mut files = MemFiles::new("disk.vmdk");
    let mut writer = create(&mut files, &options).unwrap();
    let mut out = Vec::new();
    for start in [0, 35 << 20] {
        let unit = &content[start..start + 65536];
        writer.encoder().unwrap().encode(unit, &mut out).unwrap();
        writer.append(start as u64, &out).unwrap();
    }
    writer.finish().unwrap();
    let bytes = files.get("disk.vmdk").unwrap().to_bytes();
    let word = |at: usize| u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap());
    assert_eq!((word(4), word(8)), (3, 0x30001));
    assert_eq!(bytes[56..64], [0xFF; 8]);
    // Grain, table marker, table, grain, table marker, table, directory marker, directory, footer.
    let kinds: Vec<u32> =
        [129, 135, 140, 142].into_iter().map(|sector| word(sector * 512 + 12)).collect();
    assert_eq!(kinds, [1, 1, 2, 3]);
    assert_eq!(bytes.len(), 145 * 512);
    assert_eq!(&bytes[143 * 512..143 * 512 + 4], b"KDMV");
    assert_eq!(word(143 * 512 + 56), 141);
    assert_eq!(bytes[144 * 512..], [0; 512]);
}

#[test]
fn a_child_shows_its_parent() {
    let size = (5 << 20) + 512;
    let content = Content::random(size, 4);
    let parent = filled(&CreateOptions::new(size), &content);
    let link = ParentLink {
        info: open_mem(&parent).unwrap().info().clone(),
        relative: "../base/disk.vmdk".into(),
        absolute: "/vm/base/disk.vmdk".into(),
        modified: SystemTime::now(),
    };
    let mut files = MemFiles::new("child.vmdk");
    create_child(&mut files, &ChildOptions::new(&link)).unwrap();
    let child = open_mem(&files).unwrap();
    let below = VecDisk(content.bytes().to_vec());
    assert_reads(&child, &below, content.bytes(), "child");
    assert_clean(&child, "child");
    let reference = child.info().parent.clone().unwrap();
    assert_eq!(Some(&reference.identities[0]), link.info.identity.as_ref());
    assert_eq!(reference.hints[0].path, "../base/disk.vmdk");
    assert_eq!(reference.hints[0].style, PathStyle::Native);
    assert_eq!(child.extent_at(0, size).unwrap().kind, LayerKind::Hole);

    let mut other = link.clone();
    other.info.format = vdisk_core::Format::Vhd;
    let error = create_child(&mut files, &ChildOptions::new(&other)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
}

#[test]
fn extents_are_named_after_the_image() {
    let options =
        CreateOptions { subformat: Subformat::Vmfs { thin: true }, ..CreateOptions::new(1 << 20) };
    for (main, flat) in [("a.b.VMDK", "a.b-flat.vmdk"), ("disk", "disk-flat.vmdk")] {
        let mut files = MemFiles::new(main);
        create(&mut files, &options).unwrap().finish().unwrap();
        assert_eq!(files.main_name(), main);
        let text = String::from_utf8(files.get(main).unwrap().to_bytes()).unwrap();
        assert!(text.contains(&format!("RW 2048 VMFS \"{flat}\"\n")), "{text}");
        assert!(text.contains("ddb.thinProvisioned = \"1\"\n"));
        assert!(files.get(flat).is_some());
    }
}
