//! Random changes against a plain vector of bytes, for every kind of image.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::sync::Arc;

use common::{MIB, child, image, small, writable};
use vdisk_core::MemStore;
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::model::{Subject, drive};
use vdisk_vhdx::CreateOptions;

fn subject(store: &Arc<MemStore>, below: VecDisk, unit: u64) -> Subject<'_> {
    let resize = below.0.is_empty();
    Subject {
        open: Box::new(move || Ok(Box::new(writable(store.clone())?))),
        below,
        resize_step: resize.then_some(4096),
        max_size: 6 * MIB,
        unit,
    }
}

fn without_parent(options: &CreateOptions, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let store = image(options, &Content::empty(options.virtual_size));
        let unit = options.block_size;
        drive(subject(&store, VecDisk(Vec::new()), unit), seed, 150);
    }
}

#[test]
fn dynamic() {
    without_parent(&small(3 * MIB + 4096), 0..8);
    let large = CreateOptions { block_size: 4 * MIB, ..small(5 * MIB) };
    without_parent(&large, 10..14);
}

#[test]
fn dynamic_with_large_sectors() {
    without_parent(&CreateOptions { logical_sector: 4096, ..small(4 * MIB) }, 20..24);
}

#[test]
fn fixed() {
    without_parent(&CreateOptions { fixed: true, ..small(3 * MIB) }, 30..35);
}

#[test]
fn differencing() {
    for (seed, sector) in (40..46).zip([512, 4096].into_iter().cycle()) {
        let options = CreateOptions { logical_sector: sector, ..small(3 * MIB + 8192) };
        let below = Content::random(options.virtual_size, seed);
        let parent = image(&options, &below);
        let store = child(&parent, [MIB, 2 * MIB][seed as usize % 3 % 2]);
        drive(subject(&store, VecDisk(below.bytes().to_vec()), MIB), seed, 200);
    }
}
