//! Another machine SID, in real hives and on volumes that ntfs-3g made, judged by others.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

#[path = "../common/mod.rs"]
mod common;
mod hives;
mod secure;
mod strip;
mod volume;

use vdisk_fixup::windows::identity::sid::MachineSid;
use vdisk_fixup::windows::identity::swap::Swap;

/// The SID of the corpus' SAM of Windows 7.
const OLD: MachineSid = MachineSid([1_760_460_187, 1_592_185_332, 161_725_925]);

fn swap() -> Swap {
    Swap::new(OLD, OLD.other(&[].into()).unwrap())
}
