//! Members of Linux software RAIDs and of ZFS pools.

use uuid::Uuid;
use vdisk_core::Result;

use super::{View, Volume, VolumeKind};
use crate::block::Block;

const MD_MAGIC: u32 = 0xa92b_4efc;

/// md's superblocks: 1.2, 1.1, 1.0, 0.90, by their places (Linux `md_p.h`).
pub(super) fn md(view: &View<'_>) -> Result<Option<Volume>> {
    let sectors = view.len() / 512;
    let near_end = sectors.checked_sub(16).map(|sector| (sector & !7) * 512);
    for place in [Some(4096), Some(0), near_end].into_iter().flatten() {
        let found = view.marked(place, 256, &MD_MAGIC.to_le_bytes(), 0)?;
        // It says itself in which sector it stands.
        let found = found.filter(|block| block.u32(4) == 1 && block.u64(144) == place / 512);
        if let Some(block) = found {
            return Ok(Some(
                Volume::new(VolumeKind::MdRaid).label(block.text(32..64)).uuid(block.uuid(16)),
            ));
        }
    }
    let old = (view.len() & !0xffff).checked_sub(0x1_0000);
    let Some(block) = old.map_or(Ok(None), |place| view.block(place, 4096))? else {
        return Ok(None);
    };
    Ok(old_uuid(&block).map(|uuid| Volume::new(VolumeKind::MdRaid).uuid(uuid)))
}

/// The UUID of a 0.90 superblock, whose numbers stand in the order of the host that made it.
fn old_uuid(block: &Block) -> Option<Uuid> {
    let number = |at: usize| u32::from_le_bytes(block.array(at));
    let words = [20, 52, 56, 60];
    let words = match number(0) {
        MD_MAGIC => words.map(number),
        magic if magic.swap_bytes() == MD_MAGIC => words.map(|at| number(at).swap_bytes()),
        _ => return None,
    };
    let [a, b, c, d] = words.map(u128::from);
    Some(Uuid::from_u128(a << 96 | b << 64 | c << 32 | d))
}

/// ZFS: uberblocks in the ring of the first or second label.
pub(super) fn zfs(view: &View<'_>) -> Result<Option<Volume>> {
    const MAGIC: u64 = 0x00ba_b10c;
    const LABEL: u64 = 256 << 10;
    /// As many uberblocks must be there as libblkid asks for: a stray one is no pool.
    const ENOUGH: usize = 4;
    let mut found = 0;
    for label in [0, LABEL] {
        let Some(ring) = view.block(label + (128 << 10), 128 << 10)? else { continue };
        found += (0..ring.0.len())
            .step_by(1024)
            .filter(|at| [MAGIC, MAGIC.swap_bytes()].contains(&ring.u64(*at)))
            .count();
    }
    Ok((found >= ENOUGH).then(|| Volume::new(VolumeKind::Zfs)))
}
