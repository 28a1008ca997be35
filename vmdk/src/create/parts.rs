//! The writer of all variants whose guest bytes stand uncompressed in one file or many.

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::disk::in_range;
use vdisk_core::{Error, HostFile, ImageWriter, Placement, Result, Store, StoreExt};

use super::sparse::SparseFile;

/// One file of a new image.
#[derive(Debug)]
pub(crate) enum Part {
    /// Guest bytes in grains.
    Sparse(SparseFile),
    /// Guest bytes as they are, so many.
    Flat(Arc<dyn Store>, u64),
}

impl Part {
    /// A flat file of `len` bytes.
    pub(crate) fn flat(store: Arc<dyn Store>, len: u64) -> Result<Self> {
        store.resize(len)?;
        Ok(Self::Flat(store, len))
    }

    fn len(&self) -> u64 {
        match self {
            Self::Sparse(file) => file.len(),
            Self::Flat(_, len) => *len,
        }
    }

    fn store(&self) -> &Arc<dyn Store> {
        match self {
            Self::Sparse(file) => file.store(),
            Self::Flat(store, _) => store,
        }
    }

    fn place(&mut self, range: Range<u64>) -> Result<Placement> {
        match self {
            Self::Sparse(file) => file.place(range),
            Self::Flat(store, _) => Ok(Placement {
                store: store.clone(),
                at: range.start,
                len: range.end - range.start,
            }),
        }
    }
}

/// A new image of one part or many.
#[derive(Debug)]
pub(crate) struct PartsWriter {
    size: u64,
    unit: u64,
    /// All but the last of the same length.
    parts: Vec<Part>,
    /// The descriptor file and its text, where it is not embedded.
    descriptor: Option<(Arc<dyn Store>, String)>,
}

impl PartsWriter {
    pub(crate) fn new(
        size: u64,
        unit: u64,
        parts: Vec<Part>,
        descriptor: Option<(Arc<dyn Store>, String)>,
    ) -> Self {
        Self { size, unit, parts, descriptor }
    }
}

impl ImageWriter for PartsWriter {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        self.unit
    }

    fn place(&mut self, range: Range<u64>) -> Result<Placement> {
        in_range(range.start, range.end.saturating_sub(range.start).max(1), self.size)?;
        let step = self.parts.first().map_or(1, Part::len);
        let (index, start) = (range.start / step, range.start / step * step);
        let part = self
            .parts
            .get_mut(crate::unit::to_usize(index))
            .ok_or_else(|| Error::internal("parts do not cover the disk"))?;
        let end = range.end.min(start + part.len());
        part.place(range.start - start..end - start)
    }

    fn host(&self) -> Option<&HostFile> {
        self.parts.first().and_then(|part| part.store().host())
    }

    fn finish(self: Box<Self>) -> Result<()> {
        for part in self.parts {
            if let Part::Sparse(file) = part {
                file.finish()?;
            }
        }
        match self.descriptor {
            Some((store, text)) => store.put(text.as_bytes(), 0, "VMDK descriptor"),
            None => Ok(()),
        }
    }
}
