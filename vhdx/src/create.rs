//! Making new images without a parent. Layout: header area, log, metadata, BAT, payload.

use std::ops::Range;
use std::sync::Arc;

use uuid::Uuid;
use vdisk_core::disk::in_range;
use vdisk_core::{Error, Files, HostFile, ImageWriter, Placement, Result, Store, StoreExt};

use crate::bat::{ENTRY, Geometry, Payload, State};
use crate::header::{self, Header};
use crate::metadata::NewMetadata;
use crate::region::{self, Region};
use crate::resize::check_size;
use crate::{MAX_BLOCK, MIB, MIN_BLOCK};

/// Default of [`CreateOptions::log_size`]: what Windows and qemu use.
const LOG_SIZE: u32 = 1 << 20;
/// Bytes of the metadata region.
const METADATA_BYTES: u64 = MIB;
/// Blocks of this size are the default up to [`SMALL_DISK`].
const SMALL_BLOCK: u64 = 2 << 20;
/// Blocks of this size, Windows' default, are the default beyond.
const LARGE_BLOCK: u64 = 32 << 20;
/// With small blocks, the table of such a disk has 16 MiB, which many readers load as a whole.
const SMALL_DISK: u64 = 4 << 40;

/// What a new image shall be. [`CreateOptions::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Bytes of the disk: a multiple of the logical sector, at most [`crate::MAX_SIZE`].
    pub virtual_size: u64,
    /// All blocks have their place from the beginning. Default: no, the file grows.
    pub fixed: bool,
    /// Bytes of a block: a power of two from 1 MiB to 256 MiB.
    ///
    /// Default: 2 MiB up to 4 TiB, beyond that 32 MiB. Windows takes 32 MiB for every dynamic
    /// disk, and 2 MiB for fixed and differencing ones. A block is the unit in which the file
    /// grows, and a file system scatters small writes over the whole disk: with 2 MiB the file
    /// stays near the size of what is in it, even where it is copied without its holes. What that
    /// costs is 4 bytes of table for each MiB of disk.
    pub block_size: u64,
    /// Bytes of a logical sector: 512 (default) or 4096.
    pub logical_sector: u32,
    /// Bytes of a physical sector: 512 or 4096 (default, as in Windows).
    pub physical_sector: u32,
    /// Bytes of the log: a multiple of 1 MiB up to 1 GiB. Default: 1 MiB.
    pub log_size: u32,
    /// Who made the file: text for people, cut after 255 UTF-16 units.
    pub creator: String,
    /// The file's GUIDs, for output that is the same every time. Default: random ones.
    pub ids: Option<Ids>,
}

/// The GUIDs of a new file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ids {
    /// Changes whenever the file changes.
    pub file_write: Uuid,
    /// Changes whenever the content changes: what a child knows its parent by.
    pub data_write: Uuid,
    /// The disk's SCSI identity (page 83); a child has its parent's.
    pub virtual_disk: Uuid,
}

impl Ids {
    /// Random GUIDs.
    #[must_use]
    pub fn random() -> Self {
        Self {
            file_write: Uuid::new_v4(),
            data_write: Uuid::new_v4(),
            virtual_disk: Uuid::new_v4(),
        }
    }
}

impl CreateOptions {
    /// A dynamic disk of so many bytes.
    #[must_use]
    pub fn new(virtual_size: u64) -> Self {
        Self {
            virtual_size,
            fixed: false,
            block_size: if virtual_size <= SMALL_DISK { SMALL_BLOCK } else { LARGE_BLOCK },
            logical_sector: 512,
            physical_sector: 4096,
            log_size: LOG_SIZE,
            creator: default_creator(),
            ids: None,
        }
    }

    /// Refuses what no image can be.
    pub(crate) fn check(&self) -> Result<()> {
        for sector in [self.logical_sector, self.physical_sector] {
            if ![512, 4096].contains(&sector) {
                return Err(Error::usage(format!("sectors of {sector} bytes are not possible"))
                    .hint("choose 512 or 4096"));
            }
        }
        check_size(self.virtual_size, self.logical_sector)?;
        let block = self.block_size;
        if !block.is_power_of_two() || !(MIN_BLOCK..=MAX_BLOCK).contains(&block) {
            return Err(Error::usage(format!("blocks of {block} bytes are not possible"))
                .hint("choose a power of two from 1 MiB to 256 MiB"));
        }
        let log = u64::from(self.log_size);
        if log == 0 || !log.is_multiple_of(MIB) || log > 1 << 30 {
            return Err(Error::usage(format!("a log of {log} bytes is not possible"))
                .hint("choose a multiple of 1 MiB up to 1 GiB"));
        }
        Ok(())
    }

    pub(crate) fn geometry(&self, has_parent: bool) -> Geometry {
        Geometry {
            virtual_size: self.virtual_size,
            block_size: self.block_size,
            logical_sector: self.logical_sector.into(),
            has_parent,
        }
    }
}

/// The creator text of files made by this crate.
pub(crate) fn default_creator() -> String {
    concat!("vdisk ", env!("CARGO_PKG_VERSION")).to_owned()
}

/// Begins a new image under the main name of `files`.
///
/// Blocks that get no data are left NOT_PRESENT, which is 0, rather than marked as ZERO: their
/// part of the table stays a hole of the host file, however large the disk. Both read as zeros
/// in a disk without parent, with every reader.
///
/// # Errors
/// [`Usage`](vdisk_core::ErrorKind::Usage) for impossible options, the host's.
pub fn create(files: &mut dyn Files, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    options.check()?;
    let name = files.main_name().to_owned();
    let file = files.create(&name)?;
    Ok(Box::new(Writer {
        layout: Layout::new(options.geometry(false), options.log_size),
        options: options.clone(),
        file,
        placed: 0,
        next_block: 0,
        page: TablePage::default(),
    }))
}

/// Bytes of the file when so many blocks hold data.
///
/// # Errors
/// [`Usage`](vdisk_core::ErrorKind::Usage) for impossible options.
pub fn file_size(options: &CreateOptions, units_with_data: u64) -> Result<u64> {
    options.check()?;
    let layout = Layout::new(options.geometry(false), options.log_size);
    let blocks = layout.geometry.blocks();
    let placed = if options.fixed { blocks } else { units_with_data.min(blocks) };
    Ok(layout.payload + placed * options.block_size)
}

/// Where the parts of a new file stand, bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    pub(crate) geometry: Geometry,
    pub(crate) log_size: u32,
    pub(crate) metadata: u64,
    pub(crate) bat: u64,
    /// What comes first behind the BAT.
    pub(crate) payload: u64,
}

impl Layout {
    pub(crate) fn new(geometry: Geometry, log_size: u32) -> Self {
        let metadata = header::AREA + u64::from(log_size);
        let bat = metadata + METADATA_BYTES;
        let payload = bat + geometry.table_bytes().next_multiple_of(MIB);
        Self { geometry, log_size, metadata, bat, payload }
    }

    /// Writes everything but BAT and payload. The identifier comes last: without it the file is
    /// no image yet.
    pub(crate) fn write(
        &self,
        file: &dyn Store,
        ids: &Ids,
        metadata: &NewMetadata,
        creator: &str,
    ) -> Result<()> {
        file.put(&metadata.encode()?, self.metadata, "VHDX metadata")?;
        let region = |guid, offset, length| Region { guid, offset, length, required: true };
        let regions = region::encode(&[
            region(region::BAT, self.bat, self.payload - self.bat),
            region(region::METADATA, self.metadata, METADATA_BYTES),
        ]);
        for at in region::COPIES {
            file.put(&regions, at, "VHDX region table")?;
        }
        for (at, sequence) in header::SLOTS.into_iter().zip(1..) {
            let header = Header {
                sequence,
                file_write: ids.file_write,
                data_write: ids.data_write,
                log: Uuid::nil(),
                log_version: 0,
                version: 1,
                log_length: self.log_size,
                log_offset: header::AREA,
            };
            file.put(&header.encode(), at, "VHDX header")?;
        }
        file.put(&header::encode_identifier(creator), 0, "VHDX file identifier")
    }
}

/// A new image. Blocks get their places one after the other, in the order of the disk, so that
/// only the page of the table under way has to be in memory.
#[derive(Debug)]
struct Writer {
    options: CreateOptions,
    layout: Layout,
    file: Arc<dyn Store>,
    /// Blocks that have a place.
    placed: u64,
    /// The block after the last that has a place.
    next_block: u64,
    page: TablePage,
}

impl Writer {
    fn offset(&self, placed: u64) -> u64 {
        self.layout.payload + placed * self.options.block_size
    }

    /// Gives a place to every block from `first` (or the first that has none) up to `end`.
    fn assign(&mut self, first: u64, end: u64) -> Result<()> {
        for block in first.max(self.next_block)..end {
            let payload = Payload { state: State::Full, offset: self.offset(self.placed) };
            let at = self.layout.geometry.payload_index(block) * ENTRY;
            self.page.set(&*self.file, self.layout.bat, at, payload.encode())?;
            self.placed += 1;
        }
        self.next_block = self.next_block.max(end);
        Ok(())
    }
}

impl ImageWriter for Writer {
    fn virtual_size(&self) -> u64 {
        self.options.virtual_size
    }

    fn unit(&self) -> u64 {
        self.options.block_size
    }

    fn place(&mut self, range: Range<u64>) -> Result<Placement> {
        let len = range.end.saturating_sub(range.start);
        in_range(range.start, len, self.options.virtual_size)?;
        let size = self.options.block_size;
        let first = range.start / size;
        let within = range.start % size;
        let store = self.file.clone();
        if self.options.fixed {
            return Ok(Placement { store, at: self.offset(first) + within, len });
        }
        if first + 1 < self.next_block {
            return Err(Error::internal("ranges to place must ascend"));
        }
        // The first block is either new or the last that got a place; the others follow it.
        let known = u64::from(first < self.next_block);
        let at = self.offset(self.placed - known) + within;
        self.assign(first, range.end.div_ceil(size))?;
        Ok(Placement { store, at, len })
    }

    fn host(&self) -> Option<&HostFile> {
        self.file.host()
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        if self.options.fixed {
            self.assign(0, self.layout.geometry.blocks())?;
        }
        self.page.flush(&*self.file, self.layout.bat)?;
        let CreateOptions { virtual_size, block_size, .. } = self.options;
        self.file.resize(self.offset(self.placed))?;
        let ids = self.options.ids.unwrap_or_else(Ids::random);
        let metadata = NewMetadata {
            block_size,
            leave_allocated: self.options.fixed,
            virtual_size,
            disk_id: ids.virtual_disk,
            logical_sector: self.options.logical_sector,
            physical_sector: self.options.physical_sector,
            locator: None,
        };
        self.layout.write(&*self.file, &ids, &metadata, &self.options.creator)
    }
}

/// Bytes of a [`TablePage`].
const PAGE: u64 = 65536;

/// The part of a table that is being filled, in ascending order.
#[derive(Debug, Default)]
pub(crate) struct TablePage {
    /// Table offset of the first byte.
    start: u64,
    bytes: Vec<u8>,
}

impl TablePage {
    /// Sets the entry at byte `at` of the table that stands at `table` in the file.
    pub(crate) fn set(&mut self, file: &dyn Store, table: u64, at: u64, raw: u64) -> Result<()> {
        if at >= self.start + PAGE {
            self.flush(file, table)?;
        }
        if self.bytes.is_empty() {
            self.start = at;
        }
        let within = usize::try_from(at - self.start).unwrap_or(0);
        self.bytes.resize(within, 0);
        self.bytes.extend_from_slice(&raw.to_le_bytes());
        Ok(())
    }

    /// Writes what is in memory.
    pub(crate) fn flush(&mut self, file: &dyn Store, table: u64) -> Result<()> {
        if !self.bytes.is_empty() {
            file.put(&self.bytes, table + self.start, "VHDX BAT")?;
            self.bytes.clear();
        }
        Ok(())
    }
}
