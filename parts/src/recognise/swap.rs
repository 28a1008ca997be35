//! Linux swap space, and what a suspended system left in it.

use vdisk_core::Result;

use super::{View, Volume, VolumeKind};
use crate::block::Block;

/// Page sizes of the machines that Linux swaps on.
const PAGES: [u64; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// Bytes of the signature at the end of the first page.
const SIGNATURE: u64 = 10;

const NEW: &[u8] = b"SWAPSPACE2";
/// Of the first format, which has no header.
const OLD: &[u8] = b"SWAP-SPACE";
/// What suspending puts in its place; the last is TuxOnIce's.
const HIBERNATED: [&[u8]; 5] =
    [b"S1SUSPEND", b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001", b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c"];

/// Swap space with a header (Linux `include/linux/swap.h`).
pub(super) fn with_header(view: &View<'_>) -> Result<Option<Volume>> {
    let Some(header) = view.block(1024, 512)?.filter(is_first_version) else { return Ok(None) };
    let volume = |kind| Volume::new(kind).label(header.text(28..44)).uuid(header.uuid(12));
    Ok(signed(view, NEW)?.map(volume))
}

/// Swap space of which only the signature tells.
pub(super) fn without_header(view: &View<'_>) -> Result<Option<Volume>> {
    Ok(signed(view, OLD)?.map(Volume::new))
}

/// What the signature at the end of the first page says: `plain`, or what suspending replaces it by.
fn signed(view: &View<'_>, plain: &[u8]) -> Result<Option<VolumeKind>> {
    for page in PAGES {
        let Some(end) = view.block(page - SIGNATURE, 10)? else { continue };
        if HIBERNATED.iter().any(|magic| end.has(magic, 0)) {
            return Ok(Some(VolumeKind::SwapHibernated));
        }
        if end.has(plain, 0) {
            return Ok(Some(VolumeKind::Swap));
        }
    }
    Ok(None)
}

/// Whether a header is of the only version there is, in the order of either kind of machine.
fn is_first_version(header: &Block) -> bool {
    [1, 1_u32.swap_bytes()].contains(&header.u32(0))
}
