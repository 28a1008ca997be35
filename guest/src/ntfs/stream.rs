//! The content of an attribute: in its record, in clusters, with holes, compressed.

use std::ops::{Deref, Range};

use fs_ntfs::compression::decompress_unit;
use vdisk_core::{Disk, Error, ErrorKind, Result};

use super::record::{Attribute, Body, Form, Record};
use super::{Boot, Extents, Ntfs, Runs, damaged};

/// Most clusters of a unit of compression, as a power of two.
const MOST_UNIT: u8 = 4;
/// Most bytes of one.
const MOST_UNIT_BYTES: u64 = 1 << 20;

/// Where the content of an attribute is, and how it is kept.
#[derive(Clone, Debug)]
pub enum Stream {
    /// In the file record.
    Resident(Vec<u8>),
    /// In clusters.
    Clusters(Clusters),
}

/// Content in clusters.
#[derive(Clone, Debug)]
pub struct Clusters {
    /// Where they stand.
    pub extents: Extents,
    /// How it is kept.
    pub form: Form,
    /// Bytes of a cluster.
    cluster: u64,
}

impl Stream {
    pub(super) fn begin(record: &Record, piece: &Attribute, boot: &Boot) -> Result<Self> {
        match &piece.body {
            Body::Resident(range) => {
                let bytes = record.bytes.get(range.clone()).map(<[u8]>::to_vec);
                bytes.map(Self::Resident).ok_or_else(|| record.wrong("an attribute ends outside"))
            }
            Body::Runs { form, .. } => {
                let (extents, cluster) = (Extents::default(), boot.cluster);
                let mut stream = Self::Clusters(Clusters { extents, form: *form, cluster });
                stream.add(record, piece, boot)?;
                Ok(stream)
            }
        }
    }

    /// Adds the next piece.
    pub(super) fn add(&mut self, record: &Record, piece: &Attribute, boot: &Boot) -> Result<()> {
        let (Self::Clusters(clusters), Body::Runs { at, vcn, .. }) = (self, &piece.body) else {
            return Err(record.wrong("an attribute is both in it and in clusters"));
        };
        if vcn.saturating_mul(boot.cluster) != clusters.extents.len() {
            return Err(record.wrong("a piece of an attribute is missing"));
        }
        record.add_extents(*at, boot, &mut clusters.extents)
    }

    /// Bytes of content.
    #[must_use]
    pub fn size(&self) -> u64 {
        match self {
            Self::Resident(bytes) => bytes.len() as u64,
            Self::Clusters(clusters) => clusters.form.size,
        }
    }
}

impl Clusters {
    /// Where these bytes stand, if they were written before and are kept as they are.
    #[must_use]
    pub fn places(&self, range: Range<u64>) -> Option<Runs> {
        if !self.form.is_plain() || range.end > self.form.valid.min(self.form.size) {
            return None;
        }
        let (mut at, mut places) = (range.start, Runs::new());
        while at < range.end {
            let (place, len) = self.extents.at(at)?;
            let len = len.min(range.end - at);
            places.push(place?..place? + len);
            at += len;
        }
        Some(places)
    }

    /// Bytes of a unit of compression.
    fn unit(&self) -> Result<Option<u64>> {
        let Some(power) = self.form.compressed else { return Ok(None) };
        let unit = self.cluster << power.min(MOST_UNIT);
        if power > MOST_UNIT || unit > MOST_UNIT_BYTES {
            let what = format!("compression in units of 2^{power} clusters is not read");
            return Err(Error::unsupported(what));
        }
        Ok(Some(unit))
    }
}

impl<D: Deref<Target: Disk>> Ntfs<D> {
    /// Reads from byte `offset` of a stream; how many bytes there were.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) where it ends before its size says; [`ErrorKind::Encrypted`];
    /// [`ErrorKind::Unsupported`] where it is compressed in a way that is not known; the disk's.
    pub fn read_stream(&self, stream: &Stream, offset: u64, buf: &mut [u8]) -> Result<usize> {
        let left = stream.size().saturating_sub(offset);
        let len = usize::try_from(left).unwrap_or(usize::MAX).min(buf.len());
        let buf = buf.get_mut(..len).unwrap_or_default();
        match stream {
            Stream::Resident(bytes) => {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let there = bytes.get(start..).and_then(|rest| rest.get(..len));
                buf.copy_from_slice(there.unwrap_or_default());
            }
            Stream::Clusters(clusters) => self.read_clusters(clusters, offset, buf)?,
        }
        Ok(len)
    }

    /// All bytes of a stream, at most `limit`.
    ///
    /// # Errors
    /// As [`Ntfs::read_stream`]; [`Corrupt`](ErrorKind::Corrupt) where it is longer.
    pub fn whole_stream(&self, stream: &Stream, limit: usize) -> Result<Vec<u8>> {
        let len = usize::try_from(stream.size()).ok().filter(|len| *len <= limit);
        let len = len.ok_or_else(|| {
            let what =
                format!("it has {} bytes, and no more than {limit} make sense", stream.size());
            damaged("NTFS attribute", 0, what)
        })?;
        let mut bytes = vec![0; len];
        self.read_stream(stream, 0, &mut bytes)?;
        Ok(bytes)
    }

    fn read_clusters(&self, clusters: &Clusters, offset: u64, buf: &mut [u8]) -> Result<()> {
        if clusters.form.encrypted {
            return Err(Error::new(ErrorKind::Encrypted, "it is encrypted (EFS)"));
        }
        let written = clusters.form.valid.saturating_sub(offset);
        let written = usize::try_from(written).unwrap_or(usize::MAX).min(buf.len());
        let (buf, never) = buf.split_at_mut(written);
        never.fill(0);
        match clusters.unit()? {
            Some(unit) => self.read_units(&clusters.extents, unit, offset, buf),
            None => self.read_extents(&clusters.extents, offset, buf),
        }
    }

    fn read_units(&self, extents: &Extents, unit: u64, offset: u64, buf: &mut [u8]) -> Result<()> {
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let content = self.unit_at(extents, at - at % unit, unit)?;
            let skip = usize::try_from(at % unit).unwrap_or_default();
            let content = content.get(skip..).unwrap_or_default();
            let (piece, later) = rest.split_at_mut(content.len().min(rest.len()));
            piece.copy_from_slice(content.get(..piece.len()).unwrap_or_default());
            at += piece.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// The content of the unit that starts at byte `start`: without a hole as it stands there, else
    /// packed before the hole.
    fn unit_at(&self, extents: &Extents, start: u64, unit: u64) -> Result<Vec<u8>> {
        let len = usize::try_from(unit).unwrap_or_default();
        let (mut packed, mut at) = (Vec::new(), start);
        while at < start + unit {
            let (place, count) = match extents.at(at) {
                Some(found) => found,
                // The last unit need not be whole.
                None if at > start => break,
                None => return Err(extents.ends_before(at)),
            };
            let count = count.min(start + unit - at);
            if let Some(place) = place {
                let there = packed.len();
                packed.resize(there + usize::try_from(count).unwrap_or_default(), 0);
                self.disk().read_at(packed.get_mut(there..).unwrap_or_default(), place)?;
            }
            at += count;
        }
        if packed.len() < len && !packed.is_empty() {
            packed = decompress_unit(&packed, len).map_err(|error| {
                let at = extents.at(start).and_then(|(place, _)| place).unwrap_or_default();
                damaged("NTFS compressed unit", at, error.message())
            })?;
        }
        packed.resize(len, 0);
        Ok(packed)
    }
}
