//! New images, read back.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::PathBuf;

use common::{child, codes, contents, empty, image, link, nothing, open_read, options};
use vdisk_core::{
    ErrorKind, Format, HostFile, Layer, LayerKind, MemFiles, Output, PathStyle, Store,
};
use vdisk_testkit::content::Content;
use vdisk_testkit::model::{assert_clean, assert_reads};
use vdisk_vhd::{
    ChildOptions, CreateOptions, MAX_SIZE, Subformat, create, create_child, file_size, probe,
};

#[test]
fn every_content_reads_back() {
    for seed in 0..6 {
        for size in [512, 513 * 512, 1 << 20, (2 << 20) + 512, 5_000_192] {
            for (subformat, block) in [
                (Subformat::Fixed, 2 << 20),
                (Subformat::Dynamic, 4096),
                (Subformat::Dynamic, 512 << 10),
                (Subformat::Dynamic, 2 << 20),
            ] {
                let context = format!("seed {seed} size {size} {subformat:?} {block}");
                let content = match seed {
                    0 => Content::empty(size),
                    1 => Content::full(size, seed),
                    _ => Content::random(size, seed),
                };
                let options = options(size, subformat, block);
                let store = image(&options, &content);
                let layer = open_read(store.clone()).unwrap();
                assert_reads(&layer, &nothing(&layer), content.bytes(), &context);
                assert_clean(&layer, &context);
                assert!(codes(&layer).is_empty(), "{context}: {:?}", codes(&layer));
                assert!(probe(&*store).unwrap(), "{context}");
                let unit = u64::from(block);
                let mut blocks: Vec<u64> = content
                    .data()
                    .iter()
                    .flat_map(|range| range.start / unit..range.end.div_ceil(unit))
                    .collect();
                blocks.dedup();
                let expected = file_size(&options, blocks.len() as u64).unwrap();
                assert_eq!(store.len().unwrap(), expected, "{context}");
            }
        }
    }
}

#[test]
fn data_of_new_blocks_is_aligned() {
    let content = Content::full(5 << 20, 1);
    let layer = open_read(image(&options(5 << 20, Subformat::Dynamic, 2 << 20), &content)).unwrap();
    for block in 0..3 {
        let extent = layer.extent_at(block * (2 << 20), 5 << 20).unwrap();
        let LayerKind::Data { at, .. } = extent.kind else { panic!("{extent:?}") };
        assert_eq!(at % 4096, 0);
    }
}

#[test]
fn output_is_reproducible() {
    let content = Content::random(3 << 20, 5);
    let options = options(3 << 20, Subformat::Dynamic, 512 << 10);
    assert!(image(&options, &content).to_bytes() == image(&options, &content).to_bytes());
    let base = image(&options, &content);
    assert!(child(base.clone(), 65536).to_bytes() == child(base, 65536).to_bytes());
}

#[test]
fn bad_options_are_the_users_fault() {
    let dynamic = CreateOptions::new;
    let bad = [
        dynamic(0),
        dynamic(513),
        dynamic(MAX_SIZE + 512),
        CreateOptions { block_size: 0, ..dynamic(512) },
        CreateOptions { block_size: 2048, ..dynamic(512) },
        CreateOptions { block_size: 3 << 20, ..dynamic(512) },
        CreateOptions { block_size: 512 << 20, ..dynamic(512) },
        // All blocks with their bitmaps would not fit into 2 TiB.
        CreateOptions { block_size: 4096, ..dynamic(MAX_SIZE) },
        CreateOptions { allow_large: true, ..dynamic(MAX_SIZE + 512) },
        CreateOptions { subformat: Subformat::Fixed, ..dynamic(MAX_SIZE + 512) },
    ];
    for options in bad {
        let mut files = MemFiles::new("a.vhd");
        for error in [
            create(&mut files, &options).map(|_| ()).unwrap_err(),
            file_size(&options, 0).map(|_| ()).unwrap_err(),
        ] {
            assert_eq!(error.kind(), ErrorKind::Usage, "{options:?}");
            assert!(error.advice().is_some(), "{options:?}");
        }
        assert!(files.all().is_empty(), "{options:?}");
    }
}

#[test]
fn the_largest_images_are_made_and_opened_in_no_time() {
    let folder = tempfile::tempdir().unwrap();
    let large = CreateOptions {
        subformat: Subformat::Fixed,
        allow_large: true,
        ..CreateOptions::new(8 << 40)
    };
    let fixed = CreateOptions { subformat: Subformat::Fixed, ..CreateOptions::new(MAX_SIZE) };
    let small_blocks = CreateOptions { block_size: 512 << 10, ..CreateOptions::new(MAX_SIZE) };
    for (name, options) in [
        ("large.vhd", large),
        ("fixed.vhd", fixed),
        ("dynamic.vhd", CreateOptions::new(MAX_SIZE)),
        ("small-blocks.vhd", small_blocks),
    ] {
        let path = folder.path().join(name);
        let mut output = Output::new(&path, false).unwrap();
        create(&mut output, &options).unwrap().finish().unwrap();
        output.commit().unwrap();
        let store = std::sync::Arc::new(HostFile::open(&path).unwrap());
        assert!(probe(&*store).unwrap());
        let layer = open_read(store.clone()).unwrap();
        assert_eq!(layer.info().virtual_size, options.virtual_size);
        let extent = layer.extent_at(0, options.virtual_size).unwrap();
        assert_eq!(extent.len, options.virtual_size);
        assert!(codes(&layer).is_empty());
        assert!(store.allocated().unwrap() < 40 << 20, "{name}");
    }
}

#[test]
fn a_child_names_its_parent() {
    let base = empty(&options(5 << 20, Subformat::Dynamic, 2 << 20));
    let parent = open_read(base).unwrap();
    let long = format!("../{}/base.vhd", "x".repeat(300));
    for (relative, windows) in [
        ("base.vhd", ".\\base.vhd"),
        ("dir/base.vhd", ".\\dir\\base.vhd"),
        ("../up/bäse 💽.vhd", "..\\up\\bäse 💽.vhd"),
        (long.as_str(), &long.replace('/', "\\")),
    ] {
        let link = link(&parent, relative);
        let mut files = MemFiles::new("child.vhd");
        create_child(&mut files, &ChildOptions::new(&link)).unwrap();
        let layer = open_read(files.get("child.vhd").unwrap()).unwrap();
        let info = layer.info();
        assert_eq!((info.subformat.as_str(), info.virtual_size), ("differencing", 5 << 20));
        let found = info.parent.as_ref().unwrap();
        assert_eq!(found.identities, [parent.info().identity.clone().unwrap()]);
        assert_eq!(found.modified, Some(link.modified));
        let hints: Vec<_> = found.hints.iter().map(|h| (h.kind, h.style, h.path.clone())).collect();
        assert_eq!(hints[0], ("W2ru", PathStyle::WindowsRelative, windows.to_owned()));
        let absolute = link.absolute.to_str().unwrap().replace('/', "\\");
        assert_eq!(hints[1], ("W2ku", PathStyle::WindowsAbsolute, absolute.clone()));
        let name = if absolute.len() < 256 { &absolute } else { "base.vhd" };
        assert_eq!((hints[2].0, hints[2].2.as_str()), ("parent_unicode_name", name));
        let extent = layer.extent_at(0, 5 << 20).unwrap();
        assert_eq!((extent.len, extent.kind), (5 << 20, LayerKind::Hole));
        assert!(codes(&layer).is_empty(), "{:?}", codes(&layer));
    }
}

#[test]
fn a_child_needs_a_vhd_with_an_id_and_a_writable_name() {
    let parent = open_read(empty(&options(1 << 20, Subformat::Fixed, 4096))).unwrap();
    let good = link(&parent, "base.vhd");
    let mut cases = vec![good.clone(); 5];
    cases[0].info.format = Format::Vhdx;
    cases[1].info.identity = Some("not an id".to_owned());
    cases[2].info.identity = None;
    cases[3].absolute = PathBuf::from("/images/a\\b.vhd");
    cases[4].info.virtual_size = MAX_SIZE + 512;
    for (index, link) in cases.iter().enumerate() {
        let mut files = MemFiles::new("child.vhd");
        let error = create_child(&mut files, &ChildOptions::new(link)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "case {index}: {error}");
        assert!(error.advice().is_some() && files.all().is_empty(), "case {index}");
    }
}

#[test]
fn identity_is_the_unique_id_in_lower_case() {
    let layer = open_read(empty(&options(512, Subformat::Fixed, 4096))).unwrap();
    let identity = layer.info().identity.clone().unwrap();
    assert_eq!(identity, "00000000-0000-0000-0000-000012345678");
    assert_eq!(contents(&layer, &nothing(&layer)), [0; 512]);
}
