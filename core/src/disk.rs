//! What a guest would read: a whole chain, or anything that behaves like one.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, ErrorKind, Result};
use crate::store::Store;

/// A readable disk of a fixed length. May be read from many threads at once.
pub trait Disk: Send + Sync + fmt::Debug {
    /// The length in bytes.
    fn len(&self) -> u64;

    /// Whether it has no bytes.
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Fills `buf` from byte `offset`.
    ///
    /// # Errors
    /// [`ErrorKind::OutOfRange`] beyond the end; damage and host errors as they are met.
    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()>;

    /// The extent that starts at `offset`, at most up to `end`. Requires `offset < end <= len`.
    ///
    /// # Errors
    /// As [`Disk::read_at`].
    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent>;

    /// All extents of `range`, in order, merged where they continue each other. Requires
    /// `range.end <= len`. Implementations that can remember more between extents than
    /// [`Disk::extent_at`] override it.
    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        let mut at = range.start;
        Box::new(std::iter::from_fn(move || {
            if at >= range.end {
                return None;
            }
            let extent = self.extent_at(at, range.end);
            at = extent.as_ref().map_or(range.end, Extent::end);
            Some(extent)
        }))
    }

    /// The store that extents call `id`.
    fn store(&self, id: usize) -> Option<&Arc<dyn Store>> {
        let _ = id;
        None
    }
}

/// The extents of a range; ends after the first error.
pub type Extents<'a> = Box<dyn Iterator<Item = Result<Extent>> + Send + 'a>;

/// A run of guest bytes and what is known of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Extent {
    /// First guest byte.
    pub start: u64,
    /// Guest bytes, at least 1.
    pub len: u64,
    /// The layer that decided: 0 is the top.
    pub depth: usize,
    /// What they are.
    pub kind: ExtentKind,
}

impl Extent {
    /// The guest byte after the last.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.start + self.len
    }

    /// Whether it surely reads as zeros.
    #[must_use]
    pub fn is_zero(&self) -> bool {
        matches!(self.kind, ExtentKind::Zero { .. })
    }
}

/// What a run of guest bytes is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum ExtentKind {
    /// Plain bytes of store `store` (see [`Disk::store`]), from byte `at` of it.
    Data {
        /// The store's number.
        store: usize,
        /// Byte offset in the store.
        at: u64,
    },
    /// Part of a compressed grain.
    Compressed(Grain),
    /// Zeros.
    Zero {
        /// Whether some layer's metadata says so; `false` for what nobody ever wrote.
        explicit: bool,
    },
    /// Only readable through [`Disk::read_at`].
    Opaque,
}

/// A compressed grain in a store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grain {
    /// The store's number.
    pub store: usize,
    /// Byte offset of the compressed bytes in that store.
    pub at: u64,
    /// Compressed bytes.
    pub compressed_len: u32,
    /// First guest byte of the grain.
    pub start: u64,
    /// Guest bytes of the whole grain.
    pub len: u64,
}

/// A disk of `len` zeros: what stands below a layer without a parent.
#[derive(Clone, Copy, Debug)]
pub struct ZeroDisk(pub u64);

impl Disk for ZeroDisk {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        in_range(offset, buf.len() as u64, self.0)?;
        buf.fill(0);
        Ok(())
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        let len = end - offset;
        Ok(Extent { start: offset, len, depth: 0, kind: ExtentKind::Zero { explicit: false } })
    }
}

/// Reads from `disk` and goes on with zeros where it ends: how a layer sees a smaller parent.
///
/// # Errors
/// As [`Disk::read_at`].
pub fn read_padded(disk: &dyn Disk, buf: &mut [u8], offset: u64) -> Result<()> {
    let there = disk.len().saturating_sub(offset).min(buf.len() as u64);
    let (inside, beyond) = buf.split_at_mut(usize::try_from(there).unwrap_or(buf.len()));
    beyond.fill(0);
    if inside.is_empty() { Ok(()) } else { disk.read_at(inside, offset) }
}

/// Fails unless `len` bytes from `offset` lie within a disk of `disk_len` bytes.
///
/// # Errors
/// [`ErrorKind::OutOfRange`].
pub fn in_range(offset: u64, len: u64, disk_len: u64) -> Result<()> {
    match offset.checked_add(len) {
        Some(end) if end <= disk_len => Ok(()),
        _ => Err(Error::new(
            ErrorKind::OutOfRange,
            format!("{len} bytes at {offset} reach beyond the disk's end at {disk_len}"),
        )),
    }
}
