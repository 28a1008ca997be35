//! Markers of compressed sparse extents ("Stream-Optimized Compressed Sparse Extents"): what
//! stands before each grain, table, directory and footer, and the walk from one to the next.

use std::sync::Arc;

use vdisk_core::{Error, ErrorKind, Result, Store, StoreExt};
use zerocopy::little_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::unit::{SECTOR, round_up, sectors};

/// Bytes before the compressed data of a grain: `val` and `size`.
pub(crate) const GRAIN_MARKER: u64 = 12;

const STRUCTURE: &str = "VMDK stream marker";

/// A marker as it stands on disk, little-endian. For a grain `value` is the guest sector and the
/// data follow right after `size`; for metadata `size` is 0 and `value` counts the sectors that
/// follow the marker's own.
#[derive(Clone, Copy, Debug, FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
pub(crate) struct RawMarker {
    /// `val`.
    pub(crate) value: U64,
    /// `size`: compressed bytes.
    pub(crate) size: U32,
    /// `type`, where `size` is 0.
    pub(crate) kind: U32,
}

const _: () = assert!(size_of::<RawMarker>() == 16);

/// `MARKER_EOS`: the end of the stream.
pub(crate) const EOS: u32 = 0;
/// `MARKER_GT`: a grain table follows.
pub(crate) const GRAIN_TABLE: u32 = 1;
/// `MARKER_GD`: the grain directory follows.
pub(crate) const GRAIN_DIRECTORY: u32 = 2;
/// `MARKER_FOOTER`: the footer follows.
pub(crate) const FOOTER: u32 = 3;
/// A progress mark of some writers.
const PROGRESS: u32 = 4;

/// The marker sector of metadata of `sectors` sectors.
pub(crate) fn metadata_marker(kind: u32, sectors: u64) -> [u8; 512] {
    let raw = RawMarker { value: sectors.into(), size: 0.into(), kind: kind.into() };
    let mut bytes = [0; 512];
    let (head, _) = bytes.split_at_mut(size_of::<RawMarker>());
    head.copy_from_slice(raw.as_bytes());
    bytes
}

/// What one step of a walk found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Marker {
    /// A compressed grain.
    Grain {
        /// First guest byte.
        start: u64,
        /// Compressed bytes, which follow the 12 bytes of the marker.
        size: u32,
    },
    /// Metadata of a type and so many bytes after the marker's sector.
    Metadata {
        /// One of the constants above.
        kind: u32,
        /// Bytes.
        len: u64,
    },
}

impl Marker {
    /// Reads the marker at byte `at` of `store`.
    ///
    /// # Errors
    /// [`Truncated`](ErrorKind::Truncated) where the file ends before it;
    /// [`Corrupt`](ErrorKind::Corrupt) where it is of no known type.
    pub(crate) fn read(store: &dyn Store, at: u64) -> Result<Self> {
        let mut bytes = [0; size_of::<RawMarker>()];
        store.fetch(&mut bytes, at, STRUCTURE)?;
        let raw: RawMarker = zerocopy::transmute!(bytes);
        let len = sectors(raw.value.get());
        match (raw.size.get(), raw.kind.get(), len) {
            (0, kind @ EOS..=PROGRESS, Some(len)) => Ok(Self::Metadata { kind, len }),
            (size @ 1.., _, Some(start)) => Ok(Self::Grain { start, size }),
            (size, kind, _) => Err(Error::corrupt(
                STRUCTURE,
                at,
                format!("value {}, size {size}, type {kind} is no marker", raw.value),
            )
            .in_file(store.name())),
        }
    }

    /// Bytes from this marker to the next.
    fn stride(self) -> u64 {
        match self {
            Self::Grain { size, .. } => round_up(GRAIN_MARKER + u64::from(size), SECTOR),
            Self::Metadata { len, .. } => len.saturating_add(SECTOR),
        }
    }
}

/// A walk over the markers of a stream, from its first to the end-of-stream marker.
#[derive(Debug)]
pub(crate) struct Walk {
    store: Arc<dyn Store>,
    next: u64,
    end: u64,
}

impl Walk {
    /// Starts at byte `start` of `store`.
    pub(crate) fn new(store: Arc<dyn Store>, start: u64) -> Result<Self> {
        let end = store.size()?;
        Ok(Self { store, next: start.max(SECTOR), end })
    }

    /// Where the next marker should stand; after the last step, where the stream ended.
    pub(crate) fn position(&self) -> u64 {
        self.next
    }

    /// The next marker and where it stands; the end-of-stream marker is the last one given.
    ///
    /// # Errors
    /// As [`Marker::read`]; [`Truncated`](ErrorKind::Truncated) where what the marker announces
    /// does not fit into the file.
    pub(crate) fn step(&mut self) -> Result<(u64, Marker)> {
        let at = self.next;
        let marker = Marker::read(&*self.store, at)?;
        let next = at.saturating_add(marker.stride());
        let needed = match marker {
            Marker::Grain { size, .. } => at + GRAIN_MARKER + u64::from(size),
            Marker::Metadata { .. } => next,
        };
        if needed > self.end {
            return Err(Error::new(
                ErrorKind::Truncated,
                format!("what it announces ends at {needed}, the file at {}", self.end),
            )
            .at(STRUCTURE, at)
            .in_file(self.store.name()));
        }
        self.next = next;
        Ok((at, marker))
    }
}
