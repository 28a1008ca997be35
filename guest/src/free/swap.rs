//! Linux swap space that holds no suspended system: all but its header is free.

use vdisk_core::{Disk, Ranges};

/// What is kept: the header, with pages of up to 64 KiB.
const HEADER: u64 = 64 << 10;

pub(super) fn free(volume: &dyn Disk) -> Ranges {
    let mut free = Ranges::new();
    free.push(HEADER..volume.len().max(HEADER));
    free
}
