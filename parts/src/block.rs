//! A few bytes of a disk, and the numbers in them.

use std::ops::Range;

use uuid::Uuid;
use vdisk_core::{Disk, Result};

/// Bytes read from a disk. Fields that lie outside of them read as zero, so what is asked for
/// must lie within what was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Block(pub(crate) Vec<u8>);

impl Block {
    /// The bytes `offset .. offset + len` of `disk`; `None` where they are not all there. `len` is
    /// the caller's own constant or bounded by it.
    pub(crate) fn read(disk: &dyn Disk, offset: u64, len: usize) -> Result<Option<Self>> {
        let there = offset.checked_add(len as u64).is_some_and(|end| end <= disk.len());
        if !there {
            return Ok(None);
        }
        let mut bytes = vec![0; len];
        disk.read_at(&mut bytes, offset)?;
        Ok(Some(Self(bytes)))
    }

    pub(crate) fn has(&self, magic: &[u8], at: usize) -> bool {
        self.0.get(at..).is_some_and(|bytes| bytes.starts_with(magic))
    }

    pub(crate) fn slice(&self, range: Range<usize>) -> &[u8] {
        self.0.get(range).unwrap_or_default()
    }

    pub(crate) fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..).and_then(|bytes| bytes.first_chunk()).copied().unwrap_or([0; N])
    }

    pub(crate) fn byte(&self, at: usize) -> u8 {
        self.0.get(at).copied().unwrap_or_default()
    }

    /// Little-endian.
    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    /// Little-endian.
    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    /// Little-endian.
    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }

    /// A UUID whose bytes stand in the order they are written in.
    pub(crate) fn uuid(&self, at: usize) -> Uuid {
        Uuid::from_bytes(self.array(at))
    }

    /// Text up to the first NUL, spaces at its end cut; `None` where that leaves nothing.
    pub(crate) fn text(&self, range: Range<usize>) -> Option<String> {
        let bytes = self.slice(range);
        let bytes = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = String::from_utf8_lossy(bytes);
        let text = text.trim_end();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// Puts `bytes` at `at`; both must lie within the block.
    pub(crate) fn put(&mut self, at: usize, bytes: &[u8]) {
        if let Some(target) = self.0.get_mut(at..at + bytes.len()) {
            target.copy_from_slice(bytes);
        }
    }
}
