//! A new hosted sparse file: header, descriptor, both directories with all their tables, grains.

use std::ops::Range;
use std::sync::Arc;

use byteorder::{ByteOrder, LittleEndian};
use vdisk_core::{Error, ErrorKind, Placement, Result, Store, StoreExt};
use zerocopy::IntoBytes;

use super::DESCRIPTOR_SECTORS;
use crate::header::{FLAG_REDUNDANT, GTES, RawHeader};
use crate::unit::{SECTOR, round_up, to_usize};

/// Grains start at multiples of this in the file, so that the host can share them.
const ALIGNMENT: u64 = 64 << 10;
const TABLE_BYTES: u64 = GTES * 4;

/// Where everything stands in a new sparse file, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Layout {
    /// Guest bytes.
    pub(crate) len: u64,
    /// Bytes of a grain.
    pub(crate) grain: u64,
    /// Whether sectors 1 to 20 hold the descriptor.
    pub(crate) descriptor: bool,
    /// Grain tables.
    pub(crate) tables: u64,
    /// The redundant directory; its tables follow.
    pub(crate) redundant: u64,
    /// The directory; its tables follow.
    pub(crate) directory: u64,
    /// The first grain.
    pub(crate) overhead: u64,
}

impl Layout {
    /// The layout for `len` guest bytes. All tables have their place from the start: qemu writes
    /// over the header where one is missing.
    pub(crate) fn new(len: u64, grain: u64, descriptor: bool) -> Self {
        let tables = len.div_ceil(grain).div_ceil(GTES);
        let copy = round_up(tables * 4, SECTOR) + tables * TABLE_BYTES;
        let redundant = if descriptor { (1 + DESCRIPTOR_SECTORS) * SECTOR } else { SECTOR };
        let directory = redundant + copy;
        let overhead = round_up(directory + copy, ALIGNMENT);
        Self { len, grain, descriptor, tables, redundant, directory, overhead }
    }

    /// The first table of the directory that stands at `directory`.
    fn tables_at(&self, directory: u64) -> u64 {
        directory + round_up(self.tables * 4, SECTOR)
    }

    fn header(&self) -> RawHeader {
        let mut header = RawHeader::new(1, FLAG_REDUNDANT, self.len / SECTOR, self.grain / SECTOR);
        if self.descriptor {
            header.descriptor_offset = 1.into();
            header.descriptor_size = DESCRIPTOR_SECTORS.into();
        }
        header.rgd_offset = (self.redundant / SECTOR).into();
        header.gd_offset = (self.directory / SECTOR).into();
        header.overhead = (self.overhead / SECTOR).into();
        header
    }
}

/// A new hosted sparse file in the making.
#[derive(Debug)]
pub(crate) struct SparseFile {
    store: Arc<dyn Store>,
    layout: Layout,
    descriptor: Option<Vec<u8>>,
    /// Where the next grain goes.
    next: u64,
    /// The grain placed last.
    last: Option<u64>,
    /// The table being filled, and its number. Grains ascend: those before are complete.
    table: Option<(u64, Vec<u8>)>,
}

impl SparseFile {
    /// A file for `len` guest bytes, with the padded text of its descriptor where it has one.
    pub(crate) fn new(
        store: Arc<dyn Store>,
        grain: u64,
        len: u64,
        descriptor: Option<Vec<u8>>,
    ) -> Self {
        let layout = Layout::new(len, grain, descriptor.is_some());
        Self { store, layout, descriptor, next: layout.overhead, last: None, table: None }
    }

    pub(crate) fn len(&self) -> u64 {
        self.layout.len
    }

    pub(crate) fn store(&self) -> &Arc<dyn Store> {
        &self.store
    }

    /// Room for a range of this file's guest bytes: as many grains in a row as it needs.
    pub(crate) fn place(&mut self, range: Range<u64>) -> Result<Placement> {
        let grain = self.layout.grain;
        let first = range.start / grain;
        let (at, fresh) = match self.last {
            Some(last) if last == first => (self.next - grain, first + 1),
            Some(last) if last > first => {
                return Err(Error::internal("ranges of a new image must ascend"));
            }
            _ => (self.next, first),
        };
        let mut end = fresh.saturating_mul(grain);
        for number in fresh..range.end.div_ceil(grain) {
            if let Err(error) = self.assign(number) {
                if end <= range.start {
                    return Err(error);
                }
                break;
            }
            end = (number + 1).saturating_mul(grain);
        }
        Ok(Placement {
            store: self.store.clone(),
            at: at + range.start % grain,
            len: end.min(range.end) - range.start,
        })
    }

    /// Gives grain `number` the next place.
    fn assign(&mut self, number: u64) -> Result<()> {
        let sector = u32::try_from(self.next / SECTOR).map_err(|_| {
            Error::new(ErrorKind::NoSpace, "a sparse VMDK file ends at 2 TiB")
                .in_file(self.store.name())
                .hint("use a flat variant for a disk this full")
        })?;
        let (index, entry) = (number / GTES, to_usize(number % GTES * 4));
        if self.table.as_ref().is_none_or(|(open, _)| *open != index) {
            self.write_table()?;
            self.table = Some((index, vec![0; to_usize(TABLE_BYTES)]));
        }
        if let Some(place) = self.table.as_mut().and_then(|(_, t)| t.get_mut(entry..entry + 4)) {
            place.copy_from_slice(&sector.to_le_bytes());
        }
        self.next += self.layout.grain;
        self.last = Some(number);
        Ok(())
    }

    fn write_table(&mut self) -> Result<()> {
        let Some((index, bytes)) = self.table.take() else { return Ok(()) };
        for directory in [self.layout.redundant, self.layout.directory] {
            let at = self.layout.tables_at(directory) + index * TABLE_BYTES;
            self.store.put(&bytes, at, "VMDK grain table")?;
        }
        Ok(())
    }

    /// Writes all metadata; the header last.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.write_table()?;
        self.store.resize(self.next)?;
        for directory in [self.layout.redundant, self.layout.directory] {
            let first = self.layout.tables_at(directory);
            let sectors: Result<Vec<u32>> = (0..self.layout.tables)
                .map(|index| sector_of(first + index * TABLE_BYTES))
                .collect();
            let sectors = sectors?;
            let mut entries = vec![0; size_of_val(sectors.as_slice())];
            LittleEndian::write_u32_into(&sectors, &mut entries);
            self.store.put(&entries, directory, "VMDK grain directory")?;
        }
        if let Some(text) = &self.descriptor {
            self.store.put(text, SECTOR, "VMDK descriptor")?;
        }
        self.store.put(self.layout.header().as_bytes(), 0, "VMDK sparse header")
    }
}

fn sector_of(at: u64) -> Result<u32> {
    u32::try_from(at / SECTOR).map_err(|_| Error::internal("metadata beyond 2 TiB"))
}
