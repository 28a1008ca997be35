//! What a volume holds, by its first bytes.

use vdisk_core::{Disk, Error, ErrorKind, Result};

/// A file system that is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    Ntfs,
    Ext,
    Xfs,
    Btrfs,
    Fat,
}

/// The file system on `disk`.
pub(super) fn recognise(disk: &dyn Disk) -> Result<Option<Content>> {
    let head = Head::read(disk)?;
    if head.has(3, b"-FVE-FS-") {
        let error = Error::new(ErrorKind::Encrypted, "the volume is encrypted with BitLocker");
        return Err(error.hint("decrypt it in the guest first (manage-bde -off)"));
    }
    if head.has(0, b"LUKS\xba\xbe") {
        let error = Error::new(ErrorKind::Encrypted, "the volume is encrypted with LUKS");
        return Err(error.hint("open it in the guest; vdisk has no key for it"));
    }
    let unread = [
        ("exFAT", 3, &b"EXFAT   "[..]),
        ("ReFS", 3, b"ReFS\0\0\0\0"),
        ("HFS+", 1024, b"H+\0\x04"),
        ("SquashFS", 0, b"hsqs"),
        ("F2FS", 1024, b"\x10\x20\xf5\xf2"),
    ];
    if let Some((name, ..)) = unread.iter().find(|(_, at, magic)| head.has(*at, magic)) {
        return Err(Error::unsupported(format!("{name} is recognised, but not read")));
    }
    let content = if head.has(3, b"NTFS    ") {
        Content::Ntfs
    } else if head.has(0, b"XFSB") {
        Content::Xfs
    } else if head.has(1080, b"\x53\xef") {
        Content::Ext
    } else if Head::at(disk, BTRFS_SUPERBLOCK)?.has(64, b"_BHRfS_M") {
        Content::Btrfs
    } else if head.is_fat() {
        Content::Fat
    } else {
        return Ok(None);
    };
    Ok(Some(content))
}

/// Where Btrfs keeps its first superblock.
const BTRFS_SUPERBLOCK: u64 = 65536;

/// The first bytes of something, as far as there are any.
struct Head(Vec<u8>);

impl Head {
    fn read(disk: &dyn Disk) -> Result<Self> {
        Self::at(disk, 0)
    }

    fn at(disk: &dyn Disk, offset: u64) -> Result<Self> {
        let len = disk.len().saturating_sub(offset).min(4096);
        let mut bytes = vec![0; usize::try_from(len).unwrap_or_default()];
        if !bytes.is_empty() {
            disk.read_at(&mut bytes, offset)?;
        }
        Ok(Self(bytes))
    }

    fn has(&self, at: usize, magic: &[u8]) -> bool {
        self.0.get(at..).is_some_and(|rest| rest.starts_with(magic))
    }

    fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    /// FAT has no sure mark: a boot sector whose parameters make sense. A partition table's
    /// sector has none there.
    fn is_fat(&self) -> bool {
        let sector = u16::from_le_bytes([self.byte(11), self.byte(12)]);
        let reserved = u16::from_le_bytes([self.byte(14), self.byte(15)]);
        matches!(self.byte(0), 0xeb | 0xe9)
            && self.has(510, b"\x55\xaa")
            && matches!(sector, 512 | 1024 | 2048 | 4096)
            && self.byte(13).is_power_of_two()
            && reserved > 0
            && matches!(self.byte(16), 1 | 2)
            && self.byte(21) >= 0xf0
    }
}
