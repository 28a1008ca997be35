//! Telling what stands on a partition, by the magic numbers of its superblock.
//!
//! The order is libblkid's: what holds other volumes first (RAID, LVM, encryption), since its
//! content may begin with what looks like a file system. So may swap space: not every `mkswap`
//! writes over what was there before. Where no header tells it, it comes last, since its ten bytes
//! may be a file's.

mod boot_sector;
mod container;
mod raid;
mod superblock;
mod swap;

use std::fmt;
use std::ops::Range;

use uuid::Uuid;
use vdisk_core::{Disk, Result};

use crate::block::Block;

/// What stands on a disk or partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Volume {
    /// What it is.
    pub kind: VolumeKind,
    /// The name its owner gave it.
    pub label: Option<String>,
    /// What tells it from others, in the form blkid prints: a UUID, `0CB3-6F08` for FAT,
    /// `6F462FC17DF91EB8` for NTFS, LVM's own for a physical volume.
    pub uuid: Option<String>,
}

/// The kinds of volumes that are recognised.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[allow(missing_docs)] // names that everybody knows
pub enum VolumeKind {
    Ntfs,
    Fat12,
    Fat16,
    Fat32,
    Exfat,
    Refs,
    Ext2,
    Ext3,
    Ext4,
    /// The journal of another ext3 or ext4.
    ExtJournal,
    Xfs,
    Btrfs,
    Squashfs,
    Iso9660,
    Vmfs,
    /// Part of a VMFS.
    VmfsMember,
    Hfs,
    HfsPlus,
    Apfs,
    Ufs,
    /// Linux swap space.
    Swap,
    /// Linux swap space that holds a suspended system.
    SwapHibernated,
    Luks1,
    Luks2,
    BitLocker,
    /// BitLocker on a FAT volume, for old systems to show something.
    BitLockerToGo,
    /// LVM2 physical volume.
    Lvm2,
    /// Member of a Linux software RAID.
    MdRaid,
    Zfs,
    Bcache,
    /// Windows dynamic disk.
    Ldm,
}

/// What stands on `disk`, a whole disk or a partition's [`Window`](vdisk_core::Window); `None`
/// where it is nothing known. Whether it is sound is not looked at.
///
/// # Errors
/// The disk's own.
pub fn recognise(disk: &dyn Disk) -> Result<Option<Volume>> {
    View { disk, range: 0..disk.len() }.recognise()
}

/// Whether `range` of the disk begins with a known volume, as far as it can be read.
pub(crate) fn begins_with_volume(disk: &dyn Disk, range: Range<u64>) -> bool {
    let range = range.start.min(disk.len())..range.end.min(disk.len());
    View { disk, range }.recognise().is_ok_and(|found| found.is_some())
}

/// One look at it.
type Probe = fn(&View<'_>) -> Result<Option<Volume>>;

/// Part of a disk that is looked at.
struct View<'a> {
    disk: &'a dyn Disk,
    range: Range<u64>,
}

impl View<'_> {
    fn recognise(&self) -> Result<Option<Volume>> {
        const PROBES: [Probe; 18] = [
            raid::md,
            container::lvm2,
            container::ldm,
            container::luks,
            container::bitlocker,
            container::bcache,
            container::vmfs_member,
            raid::zfs,
            swap::with_header,
            boot_sector::ntfs,
            boot_sector::exfat,
            boot_sector::refs,
            superblock::linux,
            superblock::bsd,
            superblock::apple,
            superblock::images,
            boot_sector::fat,
            swap::without_header,
        ];
        for probe in PROBES {
            if let Some(volume) = probe(self)? {
                return Ok(Some(volume));
            }
        }
        Ok(None)
    }

    fn len(&self) -> u64 {
        self.range.end - self.range.start
    }

    /// The bytes at `offset`, or nothing where they are not all there.
    fn block(&self, offset: u64, len: usize) -> Result<Option<Block>> {
        match offset.checked_add(len as u64) {
            Some(end) if end <= self.len() => {
                Block::read(self.disk, self.range.start + offset, len)
            }
            _ => Ok(None),
        }
    }

    /// As [`View::block`], where `magic` stands at byte `at` of it.
    fn marked(&self, offset: u64, len: usize, magic: &[u8], at: usize) -> Result<Option<Block>> {
        Ok(self.block(offset, len)?.filter(|block| block.has(magic, at)))
    }
}

impl Volume {
    fn new(kind: VolumeKind) -> Self {
        Self { kind, label: None, uuid: None }
    }

    fn label(self, label: Option<String>) -> Self {
        Self { label, ..self }
    }

    /// A nil UUID is none.
    fn uuid(self, uuid: Uuid) -> Self {
        self.id((!uuid.is_nil()).then(|| uuid.to_string()))
    }

    fn id(self, uuid: Option<String>) -> Self {
        Self { uuid, ..self }
    }
}

impl VolumeKind {
    /// The name scripts see: lower case, words joined by `-`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ntfs => "ntfs",
            Self::Fat12 => "fat12",
            Self::Fat16 => "fat16",
            Self::Fat32 => "fat32",
            Self::Exfat => "exfat",
            Self::Refs => "refs",
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::ExtJournal => "ext-journal",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Squashfs => "squashfs",
            Self::Iso9660 => "iso9660",
            Self::Vmfs => "vmfs",
            Self::VmfsMember => "vmfs-member",
            Self::Hfs => "hfs",
            Self::HfsPlus => "hfs-plus",
            Self::Apfs => "apfs",
            Self::Ufs => "ufs",
            Self::Swap => "swap",
            Self::SwapHibernated => "swap-hibernated",
            Self::Luks1 => "luks1",
            Self::Luks2 => "luks2",
            Self::BitLocker => "bitlocker",
            Self::BitLockerToGo => "bitlocker-to-go",
            Self::Lvm2 => "lvm2",
            Self::MdRaid => "md-raid",
            Self::Zfs => "zfs",
            Self::Bcache => "bcache",
            Self::Ldm => "ldm",
        }
    }

    /// Whether nobody can read its content without a key.
    #[must_use]
    pub fn is_encrypted(self) -> bool {
        matches!(self, Self::Luks1 | Self::Luks2 | Self::BitLocker | Self::BitLockerToGo)
    }

    /// Whether it is part of other volumes instead of being one.
    #[must_use]
    pub fn is_container(self) -> bool {
        matches!(
            self,
            Self::Lvm2 | Self::MdRaid | Self::Zfs | Self::Bcache | Self::Ldm | Self::VmfsMember
        )
    }

    /// Whether its first sector is a boot sector that ends like a master boot record.
    pub(crate) fn has_boot_sector(self) -> bool {
        matches!(
            self,
            Self::Ntfs
                | Self::Fat12
                | Self::Fat16
                | Self::Fat32
                | Self::Exfat
                | Self::Refs
                | Self::BitLocker
                | Self::BitLockerToGo
        )
    }
}

impl fmt::Display for VolumeKind {
    /// As people write it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ntfs => "NTFS",
            Self::Fat12 => "FAT12",
            Self::Fat16 => "FAT16",
            Self::Fat32 => "FAT32",
            Self::Exfat => "exFAT",
            Self::Refs => "ReFS",
            Self::ExtJournal => "ext journal",
            Self::Xfs => "XFS",
            Self::Btrfs => "Btrfs",
            Self::Iso9660 => "ISO 9660",
            Self::Vmfs => "VMFS",
            Self::VmfsMember => "VMFS member",
            Self::Hfs => "HFS",
            Self::HfsPlus => "HFS+",
            Self::Apfs => "APFS",
            Self::Ufs => "UFS",
            Self::SwapHibernated => "swap (hibernated)",
            Self::Luks1 => "LUKS1",
            Self::Luks2 => "LUKS2",
            Self::BitLocker => "BitLocker",
            Self::BitLockerToGo => "BitLocker To Go",
            Self::Lvm2 => "LVM2 physical volume",
            Self::MdRaid => "Linux RAID member",
            Self::Zfs => "ZFS",
            Self::Ldm => "Windows dynamic disk",
            known => known.name(),
        })
    }
}
