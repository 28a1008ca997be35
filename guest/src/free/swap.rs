//! Linux swap space that holds no suspended system: all that its header tells of is free, but for
//! the header. Partitions, and the files that the volume's own `/etc/fstab` names (ext4 and XFS;
//! others are kept).

use std::sync::Arc;

use vdisk_core::{Disk, Result};

use super::Found;
use super::field::Fields;
use super::runs::Runs;
use crate::fs::{self, FsKind, GuestFs};
use crate::linux;

/// What is kept: the header, with pages of up to 64 KiB.
const HEADER: u64 = 64 << 10;
/// What stands at the end of the first page; another word there where a system is suspended.
const IN_ORDER: &[u8] = b"SWAPSPACE2";
/// Sizes of a page.
const PAGES: [u64; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// Where the header's numbers stand: its version, and the last page.
const VERSION: usize = 1024;
const LAST_PAGE: usize = 1028;
/// Most bytes of `/etc/fstab`.
const MOST_FSTAB: u64 = 1 << 20;

/// Adds the free bytes of a swap partition.
///
/// # Errors
/// The disk's.
pub(super) fn free(volume: &dyn Disk, free: &mut Runs) -> Result<Found> {
    let len = usize::try_from(HEADER.min(volume.len())).unwrap_or_default();
    match end(&Fields::read(volume, 0, len)?, volume.len()) {
        Some(end) => free.push(HEADER..end),
        None => return Ok(Err("its header does not tell how much of it is swap".to_owned())),
    }
    Ok(Ok(()))
}

/// The byte after the last page of swap space that has `len` bytes and begins with `header`; `None`
/// where it does not fit, or a suspended system is in it.
fn end(header: &Fields, len: u64) -> Option<u64> {
    let signed = |page: &u64| {
        let page = usize::try_from(*page).unwrap_or(usize::MAX);
        header.0.get(..page).is_some_and(|page| page.ends_with(IN_ORDER))
    };
    let page = PAGES.into_iter().find(signed)?;
    let last = match header.le32(VERSION) {
        1 => header.le32(LAST_PAGE),
        0x0100_0000 => header.le32(LAST_PAGE).swap_bytes(),
        _ => return None,
    };
    let end = (u64::from(last) + 1) * page;
    (end <= len).then_some(end)
}

/// Adds the content of the swap files of an ext4 or XFS volume.
///
/// # Errors
/// Those of reading files.
pub(super) fn files(volume: &Arc<dyn Disk>, opened: &dyn GuestFs, free: &mut Runs) -> Result<()> {
    // What cannot be read names nothing that may go.
    let named = opened.read(b"/etc/fstab", MOST_FSTAB).unwrap_or_default();
    let lines = linux::mounts(&String::from_utf8_lossy(&named));
    let swaps = lines.iter().filter(|line| line.filesystem == "swap");
    for line in swaps.filter(|line| line.device.starts_with('/')) {
        let Ok(path) = opened.resolve(line.device.as_bytes()) else { continue };
        let Ok(Some(end)) = end_of_file(opened, &path) else { continue };
        let places = match opened.info().kind {
            FsKind::Xfs => fs::xfs_places,
            _ => fs::ext_places,
        };
        for (at, run) in places(volume.clone(), &path)?.unwrap_or_default() {
            let byte =
                |number: u64| run.start.saturating_add(number.saturating_sub(at)).min(run.end);
            free.push(byte(HEADER)..byte(end));
        }
    }
    Ok(())
}

/// Where the swap space in the file at `path` ends; `None` where it is none, or a suspended system
/// is in it.
fn end_of_file(opened: &dyn GuestFs, path: &[u8]) -> Result<Option<u64>> {
    let about = opened.stat(path)?;
    if about.kind != fs::FileKind::File {
        return Ok(None);
    }
    let mut header = vec![0; usize::try_from(HEADER).unwrap_or_default()];
    let len = opened.read_at(path, 0, &mut header)?;
    header.truncate(len);
    Ok(end(&Fields(header), about.size))
}
