//! Which adapter reads a volume.

use vdisk_core::{Disk, Error, ErrorKind, Result};
use vdisk_parts::{Volume, VolumeKind};

use super::FsKind;

/// What stands on `disk` and the file system it is; `None` where nothing is recognised.
pub(super) fn recognise(disk: &dyn Disk) -> Result<Option<(Volume, FsKind)>> {
    let Some(volume) = vdisk_parts::recognise(disk)? else { return Ok(None) };
    let kind = match volume.kind {
        VolumeKind::Ntfs => FsKind::Ntfs,
        VolumeKind::Ext2 => FsKind::Ext2,
        VolumeKind::Ext3 => FsKind::Ext3,
        VolumeKind::Ext4 => FsKind::Ext4,
        VolumeKind::Xfs => FsKind::Xfs,
        VolumeKind::Btrfs => FsKind::Btrfs,
        VolumeKind::Fat12 => FsKind::Fat12,
        VolumeKind::Fat16 => FsKind::Fat16,
        VolumeKind::Fat32 => FsKind::Fat32,
        kind if kind.is_encrypted() => {
            let error = Error::new(
                ErrorKind::Encrypted,
                format!("the volume is encrypted ({})", kind.name()),
            );
            return Err(error.hint("decrypt it in the guest first; vdisk has no key for it"));
        }
        kind => {
            let name = kind.name();
            return Err(Error::unsupported(format!("no files are read of this volume: {name}")));
        }
    };
    Ok(Some((volume, kind)))
}
