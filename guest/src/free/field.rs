//! Numbers in structures of file systems.

use vdisk_core::{Disk, Result};

use super::contradiction;

/// Bytes of one structure; what lies beyond them reads as zero.
#[derive(Debug)]
pub(super) struct Fields(pub(super) Vec<u8>);

impl Fields {
    /// `len` bytes of `disk` from byte `offset`.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) beyond the end of `disk`; the disk's.
    pub(super) fn read(disk: &dyn Disk, offset: u64, len: usize) -> Result<Self> {
        if offset.checked_add(len as u64).is_none_or(|end| end > disk.len()) {
            return Err(contradiction("file system", offset, "it leads beyond its volume"));
        }
        let mut bytes = vec![0; len];
        disk.read_at(&mut bytes, offset)?;
        Ok(Self(bytes))
    }

    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
    }

    pub(super) fn has(&self, magic: &[u8], at: usize) -> bool {
        self.0.get(at..).is_some_and(|rest| rest.starts_with(magic))
    }

    pub(super) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    pub(super) fn le16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(super) fn le32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(super) fn le64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    pub(super) fn be16(&self, at: usize) -> u16 {
        u16::from_be_bytes(self.array(at))
    }

    pub(super) fn be32(&self, at: usize) -> u32 {
        u32::from_be_bytes(self.array(at))
    }

    pub(super) fn be64(&self, at: usize) -> u64 {
        u64::from_be_bytes(self.array(at))
    }
}
