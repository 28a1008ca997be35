//! A new `streamOptimized` file in the form that ESXi and ovftool take: grains in order, each
//! table after the last of its grains, then directory, footer and end of stream
//! ("Stream-Optimized Compressed Sparse Extents").

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::{
    Encoder, Error, ErrorKind, HostFile, ImageWriter, Placement, Result, Store, StoreExt,
};
use zerocopy::IntoBytes;

use super::{CreateOptions, DESCRIPTOR_SECTORS};
use crate::codec::GrainEncoder;
use crate::header::{FLAG_COMPRESSED, FLAG_MARKERS, GD_AT_END, GTES, RawHeader};
use crate::marker::{EOS, FOOTER, GRAIN_DIRECTORY, GRAIN_MARKER, GRAIN_TABLE, metadata_marker};
use crate::unit::{SECTOR, round_up, to_usize};

/// Where the first grain stands.
const OVERHEAD: u64 = 128 * SECTOR;
const TABLE_BYTES: u64 = GTES * 4;

/// A new stream in the making.
#[derive(Debug)]
pub(crate) struct StreamWriter {
    store: Arc<dyn Store>,
    size: u64,
    grain: u64,
    encoder: Arc<GrainEncoder>,
    /// Where the next marker goes.
    next: u64,
    /// The first grain that may come.
    expected: u64,
    /// The table being filled, and its number.
    table: Option<(u64, Vec<u8>)>,
    directory: Vec<u8>,
}

impl StreamWriter {
    /// Starts the stream in `store` with the padded text of its descriptor.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        options: &CreateOptions,
        descriptor: Vec<u8>,
    ) -> Result<Self> {
        let grain = options.grain_size;
        let encoder = Arc::new(GrainEncoder::new(to_usize(grain), options.compression_level)?);
        let tables = options.virtual_size.div_ceil(grain).div_ceil(GTES);
        let directory = vec![0; to_usize(round_up(tables * 4, SECTOR))];
        let writer = Self {
            store,
            size: options.virtual_size,
            grain,
            encoder,
            next: OVERHEAD,
            expected: 0,
            table: None,
            directory,
        };
        writer.store.resize(OVERHEAD)?;
        writer.store.put(&descriptor, SECTOR, "VMDK descriptor")?;
        writer.store.put(writer.header(GD_AT_END).as_bytes(), 0, "VMDK sparse header")?;
        Ok(writer)
    }

    fn header(&self, directory: u64) -> RawHeader {
        let flags = FLAG_COMPRESSED | FLAG_MARKERS;
        let mut header = RawHeader::new(3, flags, self.size / SECTOR, self.grain / SECTOR);
        header.descriptor_offset = 1.into();
        header.descriptor_size = DESCRIPTOR_SECTORS.into();
        header.gd_offset = directory.into();
        header.overhead = (OVERHEAD / SECTOR).into();
        header
    }

    /// Appends `bytes`, a whole number of sectors.
    fn put(&mut self, bytes: &[u8], what: &'static str) -> Result<()> {
        self.store.put(bytes, self.next, what)?;
        self.next += bytes.len() as u64;
        Ok(())
    }

    /// Appends metadata behind their marker; the sector where they start.
    fn put_marked(&mut self, kind: u32, bytes: &[u8]) -> Result<u32> {
        let mut block = metadata_marker(kind, bytes.len() as u64 / SECTOR).to_vec();
        block.extend_from_slice(bytes);
        let at = self.sector(SECTOR)?;
        self.put(&block, "VMDK stream metadata")?;
        Ok(at)
    }

    /// The sector `skip` bytes after the next.
    fn sector(&self, skip: u64) -> Result<u32> {
        u32::try_from((self.next + skip) / SECTOR).map_err(|_| {
            Error::new(ErrorKind::NoSpace, "a streamOptimized file ends at 2 TiB")
                .in_file(self.store.name())
        })
    }

    /// Ends the table being filled.
    fn end_table(&mut self) -> Result<()> {
        let Some((index, bytes)) = self.table.take() else { return Ok(()) };
        let sector = self.put_marked(GRAIN_TABLE, &bytes)?;
        let entry = to_usize(index * 4);
        if let Some(place) = self.directory.get_mut(entry..entry + 4) {
            place.copy_from_slice(&sector.to_le_bytes());
        }
        Ok(())
    }
}

impl ImageWriter for StreamWriter {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        self.grain
    }

    fn place(&mut self, _range: Range<u64>) -> Result<Placement> {
        Err(Error::internal("this writer appends, it does not place"))
    }

    fn host(&self) -> Option<&HostFile> {
        self.store.host()
    }

    fn encoder(&self) -> Option<Arc<dyn Encoder>> {
        Some(self.encoder.clone())
    }

    fn append(&mut self, start: u64, encoded: &[u8]) -> Result<()> {
        let number = start / self.grain;
        if !start.is_multiple_of(self.grain) || start >= self.size || number < self.expected {
            return Err(Error::internal(format!("no grain can be appended at {start}")));
        }
        let size = u32::try_from(encoded.len())
            .map_err(|_| Error::internal("a compressed grain beyond any size"))?;
        let index = number / GTES;
        if self.table.as_ref().is_none_or(|(open, _)| *open != index) {
            self.end_table()?;
            self.table = Some((index, vec![0; to_usize(TABLE_BYTES)]));
        }
        let sector = self.sector(0)?;
        let entry = to_usize(number % GTES * 4);
        if let Some(place) = self.table.as_mut().and_then(|(_, t)| t.get_mut(entry..entry + 4)) {
            place.copy_from_slice(&sector.to_le_bytes());
        }
        let whole = round_up(GRAIN_MARKER + u64::from(size), SECTOR);
        let mut block = Vec::with_capacity(to_usize(whole));
        block.extend_from_slice(&(start / SECTOR).to_le_bytes());
        block.extend_from_slice(&size.to_le_bytes());
        block.extend_from_slice(encoded);
        block.resize(to_usize(whole), 0);
        self.expected = number + 1;
        self.put(&block, "VMDK compressed grain")
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.end_table()?;
        let directory = std::mem::take(&mut self.directory);
        let at = self.put_marked(GRAIN_DIRECTORY, &directory)?;
        let footer = self.header(at.into());
        self.put_marked(FOOTER, footer.as_bytes())?;
        self.put(&metadata_marker(EOS, 0), "VMDK end of stream")
    }
}

/// The most bytes a stream can take with so many grains.
pub(crate) fn most_bytes(options: &CreateOptions, grains: u64) -> u64 {
    let tables = options.virtual_size.div_ceil(options.grain_size).div_ceil(GTES);
    // Deflate stores what it cannot shrink, with a few bytes for each 5 KiB or more.
    let grain =
        round_up(GRAIN_MARKER + options.grain_size + options.grain_size / 1024 + 64, SECTOR);
    let metadata = tables.min(grains) * (SECTOR + TABLE_BYTES)
        + SECTOR
        + round_up(tables * 4, SECTOR)
        + 3 * SECTOR;
    OVERHEAD.saturating_add(metadata).saturating_add(grains.saturating_mul(grain))
}
