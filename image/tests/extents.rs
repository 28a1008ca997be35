//! The extent map of a chain and its reads are one and the same.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod chains;

use chains::{Chain, FORMATS};
use vdisk::{Disk, Error, ErrorKind, Extent, ExtentKind, Format, Image, OpenOptions, create_child};
use vdisk_core::LayerKind;

/// The extents of `range`, which they must tile.
fn tiles(image: &Image, range: std::ops::Range<u64>) -> Vec<Extent> {
    let mut at = range.start;
    let mut found = Vec::new();
    for extent in image.extents(range.clone()) {
        let extent = extent.unwrap();
        assert!(extent.start == at && extent.len > 0, "{extent:?} after byte {at}");
        at = extent.end();
        found.push(extent);
    }
    assert_eq!(at, range.end, "the map ends early");
    found
}

/// What an extent says of one of its bytes.
fn said_of(extent: &Extent, byte: u64) -> (usize, ExtentKind) {
    let kind = match extent.kind {
        ExtentKind::Data { store, at } => {
            ExtentKind::Data { store, at: at + (byte - extent.start) }
        }
        kind => kind,
    };
    (extent.depth, kind)
}

#[test]
fn extents_tile_the_disk_and_agree_with_reads_and_layers() {
    let mut rng = fastrand::Rng::with_seed(64);
    for format in FORMATS {
        for seed in 0..6 {
            let depth = rng.usize(0..6);
            let chain = Chain::new(format, depth, seed * 31 + 5);
            let context = format!("{} depth {depth} seed {seed}", format.0);
            let image = Image::open(chain.top()).unwrap();
            let view = chain.views.last().unwrap();
            let whole = tiles(&image, 0..image.len());
            for extent in &whole {
                let expected = &view[extent.start as usize..extent.end() as usize];
                match extent.kind {
                    ExtentKind::Zero { .. } => {
                        assert!(expected.iter().all(|byte| *byte == 0), "{context}: {extent:?}");
                    }
                    ExtentKind::Data { store, at } => {
                        let mut bytes = vec![0; expected.len()];
                        image.store(store).unwrap().read_exact_at(&mut bytes, at).unwrap();
                        assert!(bytes == expected, "{context}: {extent:?}");
                    }
                    other => panic!("{context}: {other:?}"),
                }
                // The layer that decides is the first that does not ask its parent.
                for (number, layer) in image.layers().iter().enumerate().take(extent.depth + 1) {
                    let asks = layer.extent_at(extent.start, extent.end()).unwrap();
                    let hole = asks.kind == LayerKind::Hole;
                    // The base asks nobody, and may be what is left of all of them.
                    let decides = number == extent.depth;
                    assert!(hole != decides, "{context}: layer {number} of {extent:?}: {asks:?}");
                }
            }
            for _ in 0..60 {
                let start = rng.u64(0..image.len());
                let end = rng.u64(start + 1..=image.len());
                for extent in tiles(&image, start..end) {
                    let known = whole.iter().find(|one| one.end() > extent.start).unwrap();
                    let (told, before) =
                        (said_of(&extent, extent.start), said_of(known, extent.start));
                    assert_eq!(told, before, "{context}: {start}..{end}");
                }
                let mut bytes = vec![0; (end - start) as usize];
                image.read_at(&mut bytes, start).unwrap();
                assert!(bytes == view[start as usize..end as usize], "{context}: {start}..{end}");
            }
        }
    }
}

#[test]
fn chains_go_to_64_images_and_no_further() {
    for format in FORMATS {
        let mut chain = Chain::new(format, 0, 3);
        for number in 1..64 {
            let path = chain.path(&format!("deep{number}"));
            create_child(&path, format.0, chain.top(), &OpenOptions::new(), &[], false).unwrap();
            chain.paths.push(path);
            chain.views.push(chain.views[0].clone());
        }
        chain.assert_view(63, "64 images");
        let path = chain.path("too-deep");
        create_child(&path, format.0, chain.top(), &OpenOptions::new(), &[], false).unwrap();
        let error = Image::open(&path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ParentCycle, "{error}");
    }
}

/// None of the formats can name a raw disk, which has no identity, or an image of another format.
#[test]
fn a_parent_of_another_kind_is_refused_with_the_way_out() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("base.raw");
    std::fs::write(&raw, vec![7; 1 << 20]).unwrap();
    let told = |error: Error| {
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.advice().unwrap().contains("convert"), "{error}: {:?}", error.advice());
    };
    for format in FORMATS {
        let child = folder.path().join(format!("child.{}", format.0));
        for open in [OpenOptions::new(), OpenOptions::new().format(Format::Raw)] {
            told(create_child(&child, format.0, &raw, &open, &[], false).unwrap_err());
        }
        for other in FORMATS.iter().filter(|other| other.0 != format.0) {
            let chain = Chain::new(*other, 0, 1);
            let open = OpenOptions::new();
            told(create_child(&child, format.0, chain.top(), &open, &[], false).unwrap_err());
        }
        assert!(!child.exists());
    }
}
