//! What holds other volumes: LVM2, LUKS, BitLocker, bcache, VMFS extents, LDM.

use vdisk_core::Result;

use super::{View, Volume, VolumeKind};
use crate::lvm;

/// LVM2: a label in one of the first four sectors.
pub(super) fn lvm2(view: &View<'_>) -> Result<Option<Volume>> {
    for sector in lvm::LABEL_SECTORS {
        let found = view.marked(sector * 512, 512, b"LABELONE", 0)?;
        if let Some(label) = found.filter(|label| label.has(b"LVM2 001", 24)) {
            let uuid = lvm::label_uuid(&label);
            return Ok(Some(Volume::new(VolumeKind::Lvm2).id(uuid)));
        }
    }
    Ok(None)
}

/// The private header of a dynamic disk with an MBR, in its sector 6. With a GPT it stands in a
/// partition of its own; the types of partitions tell then.
pub(super) fn ldm(view: &View<'_>) -> Result<Option<Volume>> {
    Ok(view.marked(6 * 512, 16, b"PRIVHEAD", 0)?.map(|_| Volume::new(VolumeKind::Ldm)))
}

/// LUKS: magic, big-endian version, UUID as text. Version 2 keeps a second header, which tells of
/// it where the first is gone.
pub(super) fn luks(view: &View<'_>) -> Result<Option<Volume>> {
    const SECOND: [u64; 9] =
        [0x4000, 0x8000, 0x1_0000, 0x2_0000, 0x4_0000, 0x8_0000, 0x10_0000, 0x20_0000, 0x40_0000];
    let mut found = view.marked(0, 512, b"LUKS\xba\xbe", 0)?;
    for place in SECOND {
        if found.is_none() {
            found = view
                .marked(place, 512, b"SKUL\xba\xbe", 0)?
                .filter(|header| header.array(256) == place.to_be_bytes());
        }
    }
    Ok(found.and_then(|header| {
        let (kind, label) = match u16::from_be_bytes(header.array(6)) {
            1 => (VolumeKind::Luks1, None),
            2 => (VolumeKind::Luks2, header.text(24..72)),
            _ => return None,
        };
        Some(Volume::new(kind).label(label).id(header.text(168..208)))
    }))
}

/// BitLocker: its name in the boot sector, or To Go's GUID in that of a FAT.
pub(super) fn bitlocker(view: &View<'_>) -> Result<Option<Volume>> {
    const TO_GO: [u8; 16] = *b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01";
    let Some(boot) = view.block(0, 512)? else { return Ok(None) };
    Ok(if boot.has(b"-FVE-FS-", 3) {
        Some(Volume::new(VolumeKind::BitLocker))
    } else if boot.has(b"MSWIN4.1", 3) && boot.has(&TO_GO, 424) {
        Some(Volume::new(VolumeKind::BitLockerToGo))
    } else {
        None
    })
}

/// bcache: a cache or backing device.
pub(super) fn bcache(view: &View<'_>) -> Result<Option<Volume>> {
    const MAGIC: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
    Ok(view
        .marked(4096, 512, MAGIC, 24)?
        .map(|found| Volume::new(VolumeKind::Bcache).uuid(found.uuid(40))))
}

/// An extent of a VMFS: the header of its volume manager.
pub(super) fn vmfs_member(view: &View<'_>) -> Result<Option<Volume>> {
    let found = view.marked(1 << 20, 512, b"\x0d\xd0\x01\xc0", 0)?;
    Ok(found.map(|_| Volume::new(VolumeKind::VmfsMember)))
}
