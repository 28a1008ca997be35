//! Linux swap space that holds no suspended system: all but its header is free. Partitions, and the
//! files that the volume's own `/etc/fstab` names (ext4 and XFS; others are kept).

use std::sync::Arc;

use vdisk_core::{Disk, Ranges, Result};

use crate::fs::{self, FsKind, GuestFs};
use crate::linux;

/// What is kept: the header, with pages of up to 64 KiB.
const HEADER: u64 = 64 << 10;
/// What stands at the end of the first page; another word there where a system is suspended.
const IN_ORDER: &[u8] = b"SWAPSPACE2";
/// Sizes of a page.
const PAGES: [usize; 4] = [4 << 10, 16 << 10, 32 << 10, 64 << 10];
/// Most bytes of `/etc/fstab`.
const MOST_FSTAB: u64 = 1 << 20;

pub(super) fn free(volume: &dyn Disk) -> Ranges {
    let mut free = Ranges::new();
    free.push(HEADER..volume.len().max(HEADER));
    free
}

/// The content of the swap files of an ext4 or XFS volume.
///
/// # Errors
/// Those of reading files.
pub(super) fn files(volume: &Arc<dyn Disk>, opened: &dyn GuestFs) -> Result<Ranges> {
    let mut free = Vec::new();
    // What cannot be read names nothing that may go.
    let named = opened.read(b"/etc/fstab", MOST_FSTAB).unwrap_or_default();
    let lines = linux::mounts(&String::from_utf8_lossy(&named));
    let swaps = lines.iter().filter(|line| line.filesystem == "swap");
    for line in swaps.filter(|line| line.device.starts_with('/')) {
        let Ok(path) = opened.resolve(line.device.as_bytes()) else { continue };
        if !is_in_order(opened, &path).unwrap_or(false) {
            continue;
        }
        let places = match opened.info().kind {
            FsKind::Xfs => fs::xfs_places,
            _ => fs::ext_places,
        };
        for (at, run) in places(volume.clone(), &path)?.unwrap_or_default() {
            let kept = HEADER.saturating_sub(at);
            free.push(run.start.saturating_add(kept).min(run.end)..run.end);
        }
    }
    Ok(free.into_iter().filter(|run| !run.is_empty()).collect())
}

/// Whether the file at `path` is swap space and no suspended system is in it.
fn is_in_order(opened: &dyn GuestFs, path: &[u8]) -> Result<bool> {
    if opened.stat(path)?.kind != fs::FileKind::File {
        return Ok(false);
    }
    let mut header = vec![0; usize::try_from(HEADER).unwrap_or_default()];
    let len = opened.read_at(path, 0, &mut header)?;
    let header = header.get(..len).unwrap_or_default();
    let ends = |page: &usize| header.get(..*page).is_some_and(|page| page.ends_with(IN_ORDER));
    Ok(PAGES.iter().any(ends))
}
