//! File systems that begin with a superblock.

use vdisk_core::Result;

use super::{View, Volume, VolumeKind};
use crate::block::Block;

/// ext2, ext3, ext4, XFS, Btrfs, VMFS.
pub(super) fn linux(view: &View<'_>) -> Result<Option<Volume>> {
    if let Some(block) = view.marked(1024, 1024, &[0x53, 0xef], 56)? {
        let volume = Volume::new(ext_kind(&block));
        return Ok(Some(volume.label(block.text(120..136)).uuid(block.uuid(104))));
    }
    if let Some(block) = view.marked(0, 512, b"XFSB", 0)? {
        let volume = Volume::new(VolumeKind::Xfs);
        return Ok(Some(volume.label(block.text(108..120)).uuid(block.uuid(32))));
    }
    if let Some(block) = view.marked(0x1_0000, 4096, b"_BHRfS_M", 64)? {
        let volume = Volume::new(VolumeKind::Btrfs);
        return Ok(Some(volume.label(block.text(299..555)).uuid(block.uuid(32))));
    }
    Ok(None)
}

/// Which ext it is, by the features that older drivers do not know (Linux `ext4.h`, `ext2_fs.h`).
fn ext_kind(block: &Block) -> VolumeKind {
    const HAS_JOURNAL: u32 = 4;
    const JOURNAL_DEVICE: u32 = 8;
    // File types, recovery, meta block groups; sparse superblocks, large files, B-trees.
    const EXT3_INCOMPATIBLE: u32 = 2 | 4 | 0x10;
    const EXT3_READ_ONLY: u32 = 1 | 2 | 4;
    let [compatible, incompatible, read_only] = [92, 96, 100].map(|at| block.u32(at));
    if incompatible & JOURNAL_DEVICE != 0 {
        VolumeKind::ExtJournal
    } else if incompatible & !EXT3_INCOMPATIBLE != 0 || read_only & !EXT3_READ_ONLY != 0 {
        VolumeKind::Ext4
    } else if compatible & HAS_JOURNAL != 0 {
        VolumeKind::Ext3
    } else {
        VolumeKind::Ext2
    }
}

/// UFS1 and UFS2, in either byte order, where their superblocks may stand.
pub(super) fn bsd(view: &View<'_>) -> Result<Option<Volume>> {
    const MAGICS: [u32; 2] = [0x0001_1954, 0x1954_0119];
    for place in [8 << 10, 64 << 10, 256 << 10] {
        let Some(block) = view.block(place, 2048)? else { continue };
        let magic = block.u32(0x55c);
        if MAGICS.contains(&magic) || MAGICS.contains(&magic.swap_bytes()) {
            return Ok(Some(Volume::new(VolumeKind::Ufs)));
        }
    }
    Ok(None)
}

/// HFS, HFS+ and APFS.
pub(super) fn apple(view: &View<'_>) -> Result<Option<Volume>> {
    if let Some(block) = view.marked(0, 512, b"NXSB", 32)? {
        return Ok(Some(Volume::new(VolumeKind::Apfs).uuid(block.uuid(72))));
    }
    let Some(block) = view.block(1024, 512)? else { return Ok(None) };
    Ok(if block.has(b"H+\0\x04", 0) || block.has(b"HX\0\x05", 0) {
        Some(Volume::new(VolumeKind::HfsPlus))
    } else if block.has(b"BD", 0) {
        // An HFS that only wraps an HFS+ says so.
        let wraps = block.has(b"H+", 0x7c);
        Some(Volume::new(if wraps { VolumeKind::HfsPlus } else { VolumeKind::Hfs }))
    } else {
        None
    })
}

/// Squashfs, ISO 9660, VMFS.
pub(super) fn images(view: &View<'_>) -> Result<Option<Volume>> {
    if view.marked(0, 96, b"hsqs", 0)?.is_some_and(|block| block.u16(28) == 4) {
        return Ok(Some(Volume::new(VolumeKind::Squashfs)));
    }
    if let Some(block) = view.marked(0x8000, 2048, b"CD001", 1)? {
        return Ok(Some(Volume::new(VolumeKind::Iso9660).label(block.text(40..72))));
    }
    if view.marked(2 << 20, 512, b"\x5e\xf1\xab\x2f", 0)?.is_some() {
        return Ok(Some(Volume::new(VolumeKind::Vmfs)));
    }
    Ok(None)
}
