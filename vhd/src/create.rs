//! New images without a parent.

use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use uuid::Uuid;
use vdisk_core::disk::in_range;
use vdisk_core::{Error, Files, HostFile, ImageWriter, Placement, Result, Store, StoreExt};

use crate::bat::ENTRY;
use crate::footer::{DiskType, FOOTER, Footer};
use crate::header::{HEADER, Header};
use crate::shape::{GRANULE, SECTOR, Shape, to_usize};
use crate::time;

/// The largest virtual size in bytes: 2040 GiB. A fixed disk may be larger where
/// [`CreateOptions::allow_large`] says so.
pub const MAX_SIZE: u64 = 2040 << 30;
/// The largest virtual size of a fixed disk with [`CreateOptions::allow_large`]: 64 TiB.
pub const MAX_LARGE_SIZE: u64 = 64 << 40;
/// The block size that Windows takes if not told otherwise: 2 MiB.
pub const DEFAULT_BLOCK_SIZE: u32 = 2 << 20;

/// Where the header of a new image stands.
pub(crate) const HEADER_AT: u64 = FOOTER;
/// Where the block table of a new image stands.
pub(crate) const TABLE_AT: u64 = HEADER_AT + HEADER;

/// What a new image without a parent stores.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Subformat {
    /// Every byte from the start.
    Fixed,
    /// Blocks, once they are written.
    #[default]
    Dynamic,
}

/// What a new image shall be.
#[derive(Clone, Debug)]
pub struct CreateOptions {
    /// Virtual size in bytes, a multiple of 512.
    pub virtual_size: u64,
    /// Fixed or dynamic.
    pub subformat: Subformat,
    /// Bytes of a block of a dynamic disk: a power of two from 4 KiB to 256 MiB. Windows itself
    /// makes 2 MiB and 512 KiB.
    pub block_size: u32,
    /// Lets a fixed disk be larger than [`MAX_SIZE`], which only Azure is known to read.
    pub allow_large: bool,
    /// The image's unique id; a random one if not given.
    pub unique_id: Option<Uuid>,
    /// When the image was made, in seconds since 2000-01-01T00:00:00Z; now if not given.
    pub timestamp: Option<u32>,
}

impl CreateOptions {
    /// A dynamic disk of `virtual_size` bytes with blocks of 2 MiB.
    #[must_use]
    pub fn new(virtual_size: u64) -> Self {
        Self {
            virtual_size,
            subformat: Subformat::default(),
            block_size: DEFAULT_BLOCK_SIZE,
            allow_large: false,
            unique_id: None,
            timestamp: None,
        }
    }

    fn check(&self) -> Result<()> {
        let size = self.virtual_size;
        if size == 0 || !size.is_multiple_of(SECTOR) {
            return Err(Error::usage(format!("{size} bytes is no size of a VHD"))
                .hint("give a multiple of 512 bytes"));
        }
        let large = self.allow_large && self.subformat == Subformat::Fixed;
        let most = if large { MAX_LARGE_SIZE } else { MAX_SIZE };
        if size > most {
            return Err(Error::usage(format!("a VHD of {size} bytes is too large"))
                .hint(format!("at most {most} bytes fit; use VHDX for larger disks")));
        }
        Ok(())
    }

    fn footer(&self) -> Footer {
        let kind = match self.subformat {
            Subformat::Fixed => DiskType::Fixed,
            Subformat::Dynamic => DiskType::Dynamic,
        };
        new_footer(kind, self.virtual_size, self.unique_id, self.timestamp)
    }
}

/// A footer with the id and time given, or else new ones.
pub(crate) fn new_footer(
    kind: DiskType,
    size: u64,
    unique_id: Option<Uuid>,
    timestamp: Option<u32>,
) -> Footer {
    let unique_id = unique_id.unwrap_or_else(Uuid::new_v4);
    let timestamp = timestamp.unwrap_or_else(|| time::from_system(SystemTime::now()));
    Footer::new(kind, size, unique_id, timestamp)
}

/// Starts a new image; one that is finished at once is empty.
///
/// Every reader sees exactly the size asked for: the creator is `win ` 10.0, for which all
/// versions of qemu go by the current size, not by the geometry.
///
/// # Errors
/// [`Usage`](vdisk_core::ErrorKind::Usage) for options that make no image; those of `files`.
pub fn create(files: &mut dyn Files, options: &CreateOptions) -> Result<Box<dyn ImageWriter>> {
    options.check()?;
    let plan = match options.subformat {
        Subformat::Fixed => None,
        Subformat::Dynamic => Some(Plan::new(options.virtual_size, options.block_size)?),
    };
    let name = files.main_name().to_owned();
    let store = files.create(&name)?;
    let (size, footer) = (options.virtual_size, options.footer());
    Ok(match plan {
        None => Box::new(FixedWriter { store, size, footer }),
        Some(plan) => Box::new(DynamicWriter {
            size,
            footer,
            end: plan.table_end(),
            current: None,
            bitmaps: Bitmaps::new(store.clone(), plan.shape.bitmap),
            table: TableStream::new(store.clone(), TABLE_AT),
            plan,
            store,
        }),
    })
}

/// The length in bytes of the file that [`create`] makes when `units_with_data` blocks hold data.
///
/// # Errors
/// As [`create`].
pub fn file_size(options: &CreateOptions, units_with_data: u64) -> Result<u64> {
    options.check()?;
    if options.subformat == Subformat::Fixed {
        return Ok(options.virtual_size + FOOTER);
    }
    let plan = Plan::new(options.virtual_size, options.block_size)?;
    let blocks = units_with_data.min(plan.entries.into());
    // Blocks follow each other at one distance.
    let first = plan.place_from(plan.table_end());
    let distance = plan.place_from(first + plan.shape.slot()) - first;
    Ok(match blocks {
        0 => plan.table_end() + FOOTER,
        _ => first + (blocks - 1) * distance + plan.shape.slot() + FOOTER,
    })
}

/// The lengths and places of an image with blocks, made before anything is written.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Plan {
    pub(crate) shape: Shape,
    pub(crate) entries: u32,
}

impl Plan {
    /// Plans an image of `size` bytes with blocks of `block_size`.
    ///
    /// # Errors
    /// [`Usage`](vdisk_core::ErrorKind::Usage) where there is no such image.
    pub(crate) fn new(size: u64, block_size: u32) -> Result<Self> {
        let bad = |message: String| {
            Error::usage(message).hint("give a power of two from 4 KiB to 256 MiB, such as 2 MiB")
        };
        let shape = Shape::new(block_size)
            .filter(|shape| shape.block >= GRANULE)
            .ok_or_else(|| bad(format!("{block_size} bytes is no block size of a VHD")))?;
        let blocks = shape.blocks(size);
        if !shape.fits(blocks) {
            return Err(bad(format!(
                "{size} bytes in blocks of {block_size} would take more than the 2 TiB a VHD file \
                 can have"
            )));
        }
        let entries = u32::try_from(blocks).map_err(|_| bad("too many blocks".to_owned()))?;
        Ok(Self { shape, entries })
    }

    /// The end of the block table, which is padded to a sector.
    pub(crate) fn table_end(&self) -> u64 {
        TABLE_AT + (u64::from(self.entries) * ENTRY).next_multiple_of(SECTOR)
    }

    fn place_from(&self, from: u64) -> u64 {
        self.shape.place_from(from, self.entries.into())
    }
}

#[derive(Debug)]
struct FixedWriter {
    store: Arc<dyn Store>,
    size: u64,
    footer: Footer,
}

impl ImageWriter for FixedWriter {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        4096
    }

    fn place(&mut self, range: Range<u64>) -> Result<Placement> {
        let len = range.end.saturating_sub(range.start);
        in_range(range.start, len, self.size)?;
        Ok(Placement { store: self.store.clone(), at: range.start, len })
    }

    fn host(&self) -> Option<&HostFile> {
        self.store.host()
    }

    fn finish(self: Box<Self>) -> Result<()> {
        self.store.resize(self.size)?;
        self.store.put(&self.footer.to_bytes(), self.size, "VHD footer")
    }
}

#[derive(Debug)]
struct DynamicWriter {
    store: Arc<dyn Store>,
    size: u64,
    footer: Footer,
    plan: Plan,
    table: TableStream,
    /// Where the next structure may go.
    end: u64,
    /// The last block handed out, and where its data stands.
    current: Option<(u64, u64)>,
    bitmaps: Bitmaps,
}

impl DynamicWriter {
    fn allocate(&mut self, block: u64) -> Result<u64> {
        let shape = self.plan.shape;
        let at = self.plan.place_from(self.end);
        self.table.push(block, shape.entry(at)?)?;
        self.bitmaps.put(at, self.end)?;
        self.end = at + shape.slot();
        let data = at + shape.bitmap;
        self.current = Some((block, data));
        Ok(data)
    }
}

impl ImageWriter for DynamicWriter {
    fn virtual_size(&self) -> u64 {
        self.size
    }

    fn unit(&self) -> u64 {
        self.plan.shape.block
    }

    fn place(&mut self, range: Range<u64>) -> Result<Placement> {
        in_range(range.start, range.end.saturating_sub(range.start), self.size)?;
        let unit = self.unit();
        let block = range.start / unit;
        let data = match self.current {
            Some((current, data)) if current == block => data,
            _ => self.allocate(block)?,
        };
        let within = range.start % unit;
        let len = (range.end - range.start).min(unit - within);
        Ok(Placement { store: self.store.clone(), at: data + within, len })
    }

    fn host(&self) -> Option<&HostFile> {
        self.store.host()
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.table.finish(self.plan.entries)?;
        // What is left of the last block, and all that was never written, becomes zeros.
        self.store.resize(self.end)?;
        let Plan { entries, shape } = self.plan;
        let header = Header::new(HEADER_AT, TABLE_AT, entries, shape);
        write_frame(&*self.store, &self.footer, &header, self.end)
    }
}

/// Writes the sector bitmaps of new blocks, which are all alike: where the host's files can share
/// blocks, all but one are shared, or the flush at the end would write each by itself.
#[derive(Debug)]
struct Bitmaps {
    store: Arc<dyn Store>,
    /// Bytes of one.
    len: u64,
    sharing: bool,
    /// Where one stands that can be shared, with the unused bytes before it.
    model: Option<u64>,
}

impl Bitmaps {
    fn new(store: Arc<dyn Store>, len: u64) -> Self {
        let sharing = store.host().is_some_and(HostFile::shares_blocks);
        Self { store, len, sharing, model: None }
    }

    /// Writes one at byte `at`; the bytes from `free` up to there are not used.
    fn put(&mut self, at: u64, free: u64) -> Result<()> {
        let room = self.len.next_multiple_of(GRANULE);
        let start = (at + self.len).checked_sub(room).filter(|start| *start >= free);
        if let (Some(model), Some(start)) = (self.model, start)
            && self.share(model, start, room)
        {
            return Ok(());
        }
        self.store.put(&vec![0xFF; to_usize(self.len)], at, "VHD sector bitmap")?;
        self.model = self.model.or(start.filter(|_| self.sharing));
        Ok(())
    }

    fn share(&self, from: u64, to: u64, len: u64) -> bool {
        let copied = |file: &HostFile| file.copy_range(from, file, to, to_usize(len));
        self.store.host().is_some_and(|file| copied(file).is_ok_and(|copied| copied as u64 == len))
    }
}

/// Writes what stands around the blocks: header, footer copy, and the footer at `end`.
pub(crate) fn write_frame(
    store: &dyn Store,
    footer: &Footer,
    header: &Header,
    end: u64,
) -> Result<()> {
    store.put(&header.to_bytes(), header.at, "VHD dynamic header")?;
    store.put(&footer.to_bytes(), 0, "VHD footer copy")?;
    store.put(&footer.to_bytes(), end, "VHD footer")
}

/// Writes a new block table whose entries come in ascending order, in large pieces.
#[derive(Debug)]
pub(crate) struct TableStream {
    store: Arc<dyn Store>,
    /// Byte offset in the file of the first byte that waits.
    at: u64,
    /// Bytes of the table written or waiting.
    len: u64,
    waiting: Vec<u8>,
}

impl TableStream {
    const MOST: usize = 256 << 10;

    /// A table at byte `at` of `store`.
    pub(crate) fn new(store: Arc<dyn Store>, at: u64) -> Self {
        Self { store, at, len: 0, waiting: Vec::new() }
    }

    /// Adds the entry of `block`; the blocks before it that were left out are absent.
    fn push(&mut self, block: u64, sector: u32) -> Result<()> {
        if block * ENTRY < self.len {
            return Err(Error::internal("blocks of a new VHD must ascend"));
        }
        self.pad_to(block * ENTRY)?;
        self.waiting.extend_from_slice(&sector.to_be_bytes());
        self.len += ENTRY;
        Ok(())
    }

    /// Completes the table to `entries` entries and whole sectors, and writes what waits.
    pub(crate) fn finish(&mut self, entries: u32) -> Result<()> {
        self.pad_to((u64::from(entries) * ENTRY).next_multiple_of(SECTOR))?;
        self.write()
    }

    fn pad_to(&mut self, len: u64) -> Result<()> {
        while self.len < len {
            if self.waiting.len() >= Self::MOST {
                self.write()?;
            }
            let step = to_usize(len - self.len).min(Self::MOST - self.waiting.len());
            self.waiting.resize(self.waiting.len() + step, 0xFF);
            self.len += step as u64;
        }
        Ok(())
    }

    fn write(&mut self) -> Result<()> {
        self.store.put(&self.waiting, self.at, "VHD block table")?;
        self.at += self.waiting.len() as u64;
        self.waiting.clear();
        Ok(())
    }
}
