//! Power cuts at any moment: see `vdisk_testkit::power`. And what is close to them: an image that
//! was not closed, a disk that fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::path::Path;
use std::sync::Arc;

use common::{MIB, child, content, image, link, read_only, small, writable};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{
    Access, ErrorKind, Layer, LayerMut, MemFiles, MemStore, Opener, Result, Store, Vacant, Watch,
};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::power::{Fault, Recorder, Sizes, Step, Subject, resize_finishes, survives};
use vdisk_vhdx::{CreateOptions, OpenOptions, open};

fn open_any(store: Arc<dyn Store>, _: &dyn Opener, access: Access) -> Result<Box<dyn LayerMut>> {
    Ok(Box::new(open(store, &OpenOptions { access, ..OpenOptions::default() })?))
}

/// An image that keeps its size.
fn subject(store: Arc<MemStore>) -> Subject<'static> {
    let files = MemFiles::new("a.vhdx");
    files.insert("a.vhdx", store);
    Subject {
        files,
        open: &open_any,
        below: VecDisk(Vec::new()),
        unit: MIB,
        sector: 512,
        sizes: None,
        links: Vec::new(),
        first: &[],
        steps: 14,
        until_written: &[],
    }
}

/// Up to 5.5 MiB.
const SMALL: Option<Sizes> = Some(Sizes { step: 512 * 1024, most: 11 << 19, often: false });

#[test]
fn dynamic() {
    for seed in 0..8 {
        let options = small(3 * MIB + 512);
        let start = image(&options, &Content::random(options.virtual_size, seed));
        survives(&Subject { sizes: SMALL, ..subject(start) }, seed, 25);
    }
}

#[test]
fn sectors_of_4096_bytes() {
    for seed in 0..4 {
        let options =
            CreateOptions { logical_sector: 4096, physical_sector: 4096, ..small(3 * MIB) };
        let start = image(&options, &Content::random(options.virtual_size, seed));
        survives(&Subject { sizes: SMALL, sector: 4096, ..subject(start) }, seed, 25);
    }
}

#[test]
fn fixed() {
    let options = CreateOptions { fixed: true, ..small(2 * MIB) };
    let start = image(&options, &Content::random(options.virtual_size, 1));
    survives(&Subject { sizes: SMALL, ..subject(start) }, 77, 25);
}

#[test]
fn differencing() {
    for seed in 100..108 {
        let options = small(3 * MIB);
        let below = Content::full(options.virtual_size, seed);
        let parent = image(&options, &below);
        let parents = read_only(parent.clone()).unwrap();
        let links = ["a.vhdx", "a folder with a long name/of another/a.vhdx"];
        let links = links.map(|name| link(&parents, name, Path::new("/images"))).to_vec();
        let below = VecDisk(below.bytes().to_vec());
        survives(&Subject { below, links, ..subject(child(&parent, MIB)) }, seed, 25);
    }
}

/// Blocks and sector bitmaps that move.
#[test]
fn compacted() {
    for (seed, parent) in [(200, false), (201, true), (202, true)] {
        let options = small(7 * MIB);
        let below = if parent { Content::random(7 * MIB, seed) } else { Content::empty(7 * MIB) };
        let store = image(&options, &below);
        let store = if parent { child(&store, MIB) } else { store };
        let below = VecDisk(if parent { below.bytes().to_vec() } else { Vec::new() });
        let mut layer = writable(store.clone()).unwrap();
        let mut rng = fastrand::Rng::with_seed(seed);
        for block in 0..7 {
            let len = if rng.bool() { MIB as usize } else { rng.usize(1..MIB as usize) };
            let byte = if block % 2 == 0 { 0 } else { rng.u8(1..) };
            layer.write(&vec![byte; len], block * MIB, &below).unwrap();
        }
        layer.close().unwrap();
        drop(layer);
        survives(&Subject { below, first: &[Step::Compact], steps: 0, ..subject(store) }, seed, 60);
    }
}

#[test]
fn a_settled_identity_outlasts_compacting() {
    let store = image(&small(4 * MIB), &Content::full(4 * MIB, 1));
    let mut layer = writable(store).unwrap();
    let identity = layer.info().identity.clone().unwrap();
    layer.set_identity(&identity).unwrap();
    layer.compact(&Vacant::default(), Watch::default()).unwrap();
    layer.write(&[7; 512], 0, &ZeroDisk(0)).unwrap();
    layer.close().unwrap();
    assert_eq!(layer.info().identity, Some(identity));
}

/// A session that ends without a close: what was flushed is there, and the log is replayed.
#[test]
fn dropped_without_close() {
    let store = image(&small(4 * MIB), &Content::empty(4 * MIB));
    let mut layer = writable(store.clone()).unwrap();
    layer.write(&[7; 5000], MIB - 100, &ZeroDisk(0)).unwrap();
    layer.flush().unwrap();
    drop(layer);
    let layer = read_only(store.clone()).unwrap();
    assert!(layer.info().dirty);
    let bytes = content(&layer, &ZeroDisk(0)).unwrap();
    assert!(bytes[MIB as usize - 100..][..5000].iter().all(|byte| *byte == 7));
}

/// After a flush that failed nobody knows what is durable: nothing more is written, and opening
/// the image again shows what was flushed before.
#[test]
fn a_failed_flush_ends_the_writing() {
    let start = image(&small(4 * MIB), &Content::empty(4 * MIB));
    let mut failed = 0;
    for syncs in 0..12 {
        let files = MemFiles::new("a.vhdx");
        files.insert("a.vhdx", Arc::new((*start).clone()));
        let failing = Recorder::failing(Fault::Syncs(syncs)).over(&files);
        let mut layer = writable(failing.open("a.vhdx", "image", Access::Write).unwrap()).unwrap();
        let below = ZeroDisk(0);
        let first = layer.write(&[1; 512], 0, &below).and_then(|()| layer.flush());
        let second =
            first.is_ok().then(|| layer.write(&[2; 512], MIB, &below).and_then(|()| layer.flush()));
        if let Some(Err(_)) = second {
            failed += 1;
            let error = layer.write(&[3; 512], 2 * MIB, &below).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.advice().is_some());
            assert!(layer.close().is_err());
        }
        drop(layer);
        let layer = read_only(files.get("a.vhdx").unwrap()).unwrap();
        let found = content(&layer, &below).unwrap();
        assert!(first.is_err() || found[..512] == [1; 512]);
        assert!(found[2 * MIB as usize..].iter().all(|byte| *byte == 0));
    }
    assert!(failed > 0);
}

/// Killed anywhere, a shrink or growth is finished by asking for the same size again, and what was
/// cut off never comes back.
#[test]
fn a_resize_that_was_killed_is_finished_by_the_next() {
    let large = 5 * MIB;
    let start = image(&small(large), &Content::full(large, 9));
    for target in [2 * MIB + 4096, 9 * MIB] {
        resize_finishes(&subject(start.clone()), target);
    }
}
