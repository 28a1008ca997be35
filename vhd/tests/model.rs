//! Writable images against a plain vector of bytes.
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

use common::{child, empty, image, open_write, options};
use vdisk_core::{LayerMut, MemStore};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::model::{Subject, drive};
use vdisk_vhd::Subformat;

const SEEDS: u64 = 3;

fn drive_store(
    store: Arc<MemStore>,
    below: Vec<u8>,
    resize: Option<(u64, u64)>,
    unit: u64,
    seed: u64,
) {
    let subject = Subject {
        open: Box::new(move || Ok(Box::new(open_write(store.clone())?) as Box<dyn LayerMut>)),
        below: VecDisk(below),
        resize_step: resize.map(|(step, _)| step),
        max_size: resize.map_or(0, |(_, most)| most),
        unit,
    };
    drive(subject, seed, 300);
}

#[test]
fn fixed() {
    for seed in 0..SEEDS {
        let store = empty(&options(1 << 20, Subformat::Fixed, 4096));
        drive_store(store, Vec::new(), Some((512, 2 << 20)), 65536, seed);
    }
}

#[test]
fn dynamic() {
    for seed in 0..SEEDS {
        for (block, size) in [(4096, 300 * 512), (16384, 1 << 20), (512 << 10, 2 << 20)] {
            let store = empty(&options(size, Subformat::Dynamic, block));
            drive_store(store, Vec::new(), Some((512, 2 << 20)), block.into(), seed);
        }
    }
}

#[test]
fn dynamic_with_many_small_blocks_grows_and_shrinks() {
    // The table takes many sectors, so that growing must move blocks out of its way.
    for seed in 0..SEEDS {
        let store = empty(&options(4 << 20, Subformat::Dynamic, 4096));
        drive_store(store, Vec::new(), Some((1 << 19, 4 << 20)), 4096, seed);
    }
}

#[test]
fn differencing() {
    for seed in 0..SEEDS {
        for (block, size) in [(4096, 300 * 512), (32768, 1 << 20), (1 << 20, 2 << 20)] {
            let parent = Content::random(size, seed);
            let base = image(&options(size, Subformat::Dynamic, 65536), &parent);
            let store = child(base, block);
            drive_store(store, parent.bytes().to_vec(), None, block.into(), seed);
        }
    }
}

#[test]
fn differencing_on_a_smaller_parent() {
    for seed in 0..SEEDS {
        let size = 1 << 20;
        let base = empty(&options(size, Subformat::Fixed, 65536));
        let store = child(base, 65536);
        let below = Content::random(700_000, seed).bytes().to_vec();
        drive_store(store, below, None, 65536, seed);
    }
}
