//! Linux swap space, and what a suspended system left in it.

use vdisk_core::Result;

use super::{View, Volume, VolumeKind};
use crate::block::Block;

/// Page sizes of the machines that Linux swaps on.
const PAGES: [u64; 5] = [4 << 10, 8 << 10, 16 << 10, 32 << 10, 64 << 10];
/// Bytes of the signature at the end of the first page.
const SIGNATURE: u64 = 10;

/// The signature at the end of the first page (Linux `include/linux/swap.h`), which suspending
/// replaces by its own.
pub(super) fn swap(view: &View<'_>) -> Result<Option<Volume>> {
    const TUX_ON_ICE: &[u8] = b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c";
    for page in PAGES {
        let Some(end) = view.block(page - SIGNATURE, 10)? else { continue };
        let is = |magic: &[u8]| end.has(magic, 0);
        let hibernated = [&b"S1SUSPEND"[..], b"S2SUSPEND", b"ULSUSPEND", b"LINHIB0001", TUX_ON_ICE]
            .into_iter()
            .any(is);
        let header = view.block(1024, 512)?.filter(is_first_version);
        let (kind, header) = if hibernated {
            (VolumeKind::SwapHibernated, header)
        } else if is(b"SWAP-SPACE") {
            // The first format has no header.
            (VolumeKind::Swap, None)
        } else if is(b"SWAPSPACE2") && header.is_some() {
            (VolumeKind::Swap, header)
        } else {
            continue;
        };
        let volume = Volume::new(kind);
        return Ok(Some(match header {
            Some(header) => volume.label(header.text(28..44)).uuid(header.uuid(12)),
            None => volume,
        }));
    }
    Ok(None)
}

/// Whether a header is of the only version there is, in the order of either kind of machine.
fn is_first_version(header: &Block) -> bool {
    [1, 1_u32.swap_bytes()].contains(&header.u32(0))
}
