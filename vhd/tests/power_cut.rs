//! Power cuts at any moment: see `vdisk_testkit::power`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::sync::Arc;

use common::{child, empty, image, link, open_read, options};
use vdisk_core::{Access, LayerMut, MemFiles, MemStore, Opener, Result, Store};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::power::{Sizes, Subject, resize_finishes, survives};
use vdisk_vhd::{OpenOptions, Subformat, open};

fn open_any(store: Arc<dyn Store>, _: &dyn Opener, access: Access) -> Result<Box<dyn LayerMut>> {
    Ok(Box::new(open(store, &OpenOptions { access, ..OpenOptions::default() })?))
}

/// An image that keeps its size.
fn subject(store: Arc<MemStore>, unit: u64) -> Subject<'static> {
    let files = MemFiles::new("disk.vhd");
    files.insert("disk.vhd", store);
    Subject {
        files,
        open: &open_any,
        below: VecDisk(Vec::new()),
        unit,
        sector: 512,
        sizes: None,
        links: Vec::new(),
        first: &[],
        steps: 30,
        until_written: &["vhd-footer-copies-differ", "vhd-footer-missing"],
    }
}

/// Up to 300 sectors.
const SMALL: Option<Sizes> = Some(Sizes { step: 512, most: 300 * 512, often: false });

#[test]
fn dynamic() {
    for seed in 0..8 {
        let start = empty(&options(200 * 512, Subformat::Dynamic, 4096));
        survives(&Subject { sizes: SMALL, ..subject(start, 4096) }, seed, 100);
        let content = Content::random(150 * 1024, seed);
        let start = image(&options(150 * 1024, Subformat::Dynamic, 16384), &content);
        survives(&Subject { sizes: SMALL, ..subject(start, 16384) }, seed, 100);
    }
}

#[test]
fn dynamic_with_a_growing_table() {
    // Beyond 512 entries the table reaches the first block, which must make room.
    for seed in 0..5 {
        let size = 100 * 4096;
        let start = image(&options(size, Subformat::Dynamic, 4096), &Content::full(size, seed));
        let sizes = Some(Sizes { step: 512, most: 6000 * 512, often: true });
        survives(&Subject { sizes, ..subject(start, 4096) }, seed, 60);
    }
}

#[test]
fn differencing() {
    for seed in 0..8 {
        let size = 200 * 1024;
        let parent = Content::full(size, seed);
        let base = image(&options(size, Subformat::Dynamic, 65536), &parent);
        let parents = open_read(base.clone()).unwrap();
        let links = ["base.vhd", "a folder with a long name/of another/base.vhd"];
        let links = links.map(|name| link(&parents, name)).to_vec();
        let below = VecDisk(parent.bytes().to_vec());
        survives(&Subject { below, links, ..subject(child(base, 32768), 32768) }, seed, 100);
    }
}

#[test]
fn fixed() {
    for seed in 0..8 {
        let content = Content::full(150 * 1024, seed);
        let start = image(&options(150 * 1024, Subformat::Fixed, 4096), &content);
        survives(&Subject { sizes: SMALL, ..subject(start, 4096) }, seed, 100);
    }
}

/// Killed anywhere, a shrink or growth is finished by asking for the same size again, and what was
/// cut off never comes back.
#[test]
fn a_resize_that_was_killed_is_finished_by_the_next() {
    for kind in [Subformat::Dynamic, Subformat::Fixed] {
        let large = 600 * 4096;
        let start = image(&options(large, kind, 4096), &Content::full(large, 9));
        for target in [100 * 4096 + 512, large + 300 * 4096] {
            resize_finishes(&subject(start.clone(), 4096), target);
        }
    }
}
