//! Another machine SID, in real hives and on volumes that ntfs-3g made, judged by others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod boot;
#[path = "../common/mod.rs"]
mod common;
mod hives;
mod keys;
mod secure;
mod strip;

use common::original::OLD;
use vdisk_fixup::windows::identity::swap::Swap;

fn swap() -> Swap {
    Swap::new(OLD, OLD.other(&[].into()).unwrap())
}
