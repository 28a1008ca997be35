//! The extents of a disk: which file and which tables serve which guest bytes.

use std::sync::Arc;

use vdisk_core::{Error, ErrorKind, LayerExtent, LayerKind, Result, Store};

use crate::hosted::Hosted;
use crate::stream::Stream;
use crate::tables::{Entry, GrainTables};

/// One extent of a disk.
#[derive(Debug)]
pub(crate) struct Extent {
    /// First guest byte.
    pub(crate) start: u64,
    /// Guest bytes, at least one sector.
    pub(crate) len: u64,
    /// Index of its file among the layer's stores.
    pub(crate) store: usize,
    /// Whether the descriptor allows writing (`RW`) and there is a file to write to.
    pub(crate) writable: bool,
    /// Where its bytes are.
    pub(crate) body: Body,
}

/// Where the bytes of an extent are.
#[derive(Debug)]
pub(crate) enum Body {
    /// Nowhere: zeros (`ZERO`, or `NOACCESS` of whatever type).
    Zero,
    /// As they are, in a file.
    Flat(Flat),
    /// In grains of a hosted sparse file.
    Hosted(Box<Hosted>),
    /// In grains of a COWD or seSparse file.
    Foreign(Box<GrainTables>),
    /// In compressed grains.
    Stream(Box<Stream>),
}

impl Body {
    /// The tables of an extent of grains; none of a stream, which is read by its own.
    pub(crate) fn grain_tables(&self) -> Option<&GrainTables> {
        match self {
            Self::Hosted(hosted) => Some(&hosted.tables),
            Self::Foreign(tables) => Some(tables),
            Self::Zero | Self::Flat(_) | Self::Stream(_) => None,
        }
    }
}

/// A flat extent.
#[derive(Debug)]
pub(crate) struct Flat {
    /// The file.
    pub(crate) store: Arc<dyn Store>,
    /// Byte of the file where the extent starts.
    pub(crate) offset: u64,
    /// Bytes of the file.
    pub(crate) end: u64,
}

impl Flat {
    /// Extent bytes from byte `at` of the extent on that the file holds, of `len` wanted.
    ///
    /// # Errors
    /// [`Truncated`](ErrorKind::Truncated) where it holds none.
    pub(crate) fn available(&self, at: u64, len: u64) -> Result<u64> {
        let place = self.offset.saturating_add(at);
        match self.end.saturating_sub(place).min(len) {
            0 => Err(Error::new(
                ErrorKind::Truncated,
                format!("the extent goes on, but its file ends at {}", self.end),
            )
            .at("VMDK flat extent", place)
            .in_file(self.store.name())
            .hint("the extent file was cut short; copy it again")),
            some => Ok(some),
        }
    }
}

impl Flat {
    /// Fails where the file does not hold all of a part of the extent.
    pub(crate) fn require(&self, at: u64, len: u64) -> Result<()> {
        match self.available(at, len)? {
            held if held < len => self.available(at + held, len - held).map(|_| ()),
            _ => Ok(()),
        }
    }
}

impl Extent {
    /// The guest byte after the last.
    pub(crate) fn end(&self) -> u64 {
        self.start + self.len
    }

    /// What stands at guest byte `offset`, up to `end` at most; both in this extent. `delta`:
    /// what is absent is the parent's.
    pub(crate) fn extent_at(&self, offset: u64, end: u64, delta: bool) -> Result<LayerExtent> {
        let absent = if delta { LayerKind::Hole } else { LayerKind::Zero { explicit: false } };
        let at = offset - self.start;
        let whole = |kind| LayerExtent { start: offset, len: end - offset, kind };
        match &self.body {
            Body::Zero => Ok(whole(LayerKind::Zero { explicit: true })),
            Body::Flat(flat) => {
                let len = flat.available(at, end - offset)?;
                let kind = LayerKind::Data { store: self.store, at: flat.offset + at };
                Ok(LayerExtent { start: offset, len, kind })
            }
            Body::Hosted(hosted) => self.in_tables(&hosted.tables, offset, end, absent),
            Body::Foreign(tables) => self.in_tables(tables, offset, end, absent),
            Body::Stream(stream) => {
                let grain = stream.header.grain;
                let first = at / grain;
                let (entry, count) = stream.run(first, (end - self.start).div_ceil(grain))?;
                let kind = match entry {
                    Entry::Absent => absent,
                    Entry::Zero => LayerKind::Zero { explicit: true },
                    Entry::At(place) => {
                        LayerKind::Compressed(stream.grain(first, place, self.start, self.store)?)
                    }
                };
                Ok(self.cut(offset, end, (first + count).saturating_mul(grain), kind))
            }
        }
    }

    fn in_tables(
        &self,
        tables: &GrainTables,
        offset: u64,
        end: u64,
        absent: LayerKind,
    ) -> Result<LayerExtent> {
        let grain = tables.shape.grain;
        let at = offset - self.start;
        let first = at / grain;
        let (entry, count) = tables.run(first, (end - self.start).div_ceil(grain))?;
        let kind = match entry {
            Entry::Absent => absent,
            Entry::Zero => LayerKind::Zero { explicit: true },
            Entry::At(place) => LayerKind::Data { store: self.store, at: place + at % grain },
        };
        Ok(self.cut(offset, end, (first + count).saturating_mul(grain), kind))
    }

    /// An extent from guest byte `offset` to byte `run_end` of this extent, or to `end`.
    fn cut(&self, offset: u64, end: u64, run_end: u64, kind: LayerKind) -> LayerExtent {
        let stop = self.start.saturating_add(run_end).min(end);
        LayerExtent { start: offset, len: stop - offset, kind }
    }

    /// Bytes of a grain, where it has grains.
    pub(crate) fn grain(&self) -> Option<u64> {
        match &self.body {
            Body::Zero | Body::Flat(_) => None,
            Body::Hosted(hosted) => Some(hosted.tables.shape.grain),
            Body::Foreign(tables) => Some(tables.shape.grain),
            Body::Stream(stream) => Some(stream.header.grain),
        }
    }
}
