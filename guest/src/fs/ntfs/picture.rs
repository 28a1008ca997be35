//! A volume as `rust-fs-ntfs` can read it.
//!
//! The crate (0.10.2) takes the strides of update sequences for as long as sectors, which is wrong
//! where those have 4096 bytes; it does not read file records that lie across two runs of the
//! master file table, as they may with clusters smaller than records; nor such a table of which
//! several records tell, as on volumes that are old or were full. So the boot sector it sees counts
//! in sectors of 512 bytes, and where the table is in such pieces, it sees one run behind the end of
//! the volume. All other bytes are the volume's own.

use std::sync::Arc;

use fs_core::{BlockDevice, BlockRead};
use vdisk_core::{Disk, Error, Result};

use crate::fs::device::Device;
use crate::ntfs::{
    ATTRIBUTE_LIST, Body, Boot, DATA, Ntfs, Record, Runs, length, pieces, put, sealed,
};

/// Bytes of the sectors that the crate is shown.
const SECTOR: u64 = 512;
/// Bytes of an attribute in one run, which is told in 8 and 8 bytes.
const ONE_RUN: usize = 0x40 + 24;

/// The device behind the picture.
#[derive(Debug)]
pub(super) struct Picture {
    device: Arc<Device>,
    /// The boot sector, where it is another one.
    boot: Option<[u8; Boot::LEN]>,
    table: Option<Table>,
}

/// The master file table in one piece.
#[derive(Debug)]
struct Table {
    /// Where it seems to be, behind the volume's end.
    start: u64,
    /// Its first record, which says so.
    first: Vec<u8>,
    /// Where it is.
    runs: Runs,
}

impl Picture {
    /// For reading.
    pub(super) fn read_only(device: Arc<Device>) -> Result<Self> {
        let disk = device.disk().clone();
        let table = Ntfs::open(&*disk).ok().and_then(|ntfs| Table::of(&ntfs));
        Self::new(device, table)
    }

    /// For changing: only what does not move anything.
    pub(super) fn writable(device: Arc<Device>) -> Result<Self> {
        Self::new(device, None)
    }

    fn new(device: Arc<Device>, table: Option<Table>) -> Result<Self> {
        let boot = boot_sector(&device, table.as_ref())?;
        Ok(Self { device, boot, table })
    }

    fn fetch(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let len = buf.len() as u64;
        if let Some(table) = self.table.as_ref().filter(|table| offset >= table.start) {
            return table.fetch(&self.device, buf, offset - table.start);
        }
        if len > 0 {
            self.device.fetch(buf, offset)?;
        }
        if let (Some(boot), Ok(from)) = (&self.boot, usize::try_from(offset))
            && let Some(shown) = boot.get(from..)
        {
            let count = shown.len().min(buf.len());
            put(buf, 0, shown.get(..count).unwrap_or_default());
        }
        Ok(())
    }
}

impl Table {
    /// The picture of the table, where the crate needs one.
    fn of(ntfs: &Ntfs<&dyn Disk>) -> Option<Self> {
        let (boot, runs) = (*ntfs.boot(), ntfs.mft().clone());
        let record = ntfs.record(0).ok()?;
        let torn = runs.iter().any(|run| !(run.end - run.start).is_multiple_of(boot.record as u64));
        if record.find(ATTRIBUTE_LIST, "").is_none() && !torn {
            return None;
        }
        let start = ntfs.disk().len().checked_next_multiple_of(boot.cluster)?;
        // Runs may be told twice, so that all of them are longer than any disk.
        start.checked_add(length(&runs))?;
        let first = first_record(&record, &boot, start, length(&runs))?;
        Some(Self { start, first, runs })
    }

    fn fetch(&self, device: &Device, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut done = 0;
        for piece in pieces(&self.runs, offset, buf.len() as u64)? {
            let count = usize::try_from(piece.end - piece.start).unwrap_or_default();
            let place = buf.get_mut(done..).and_then(|rest| rest.get_mut(..count));
            device.fetch(place.unwrap_or_default(), piece.start)?;
            done += count;
        }
        if let Ok(from) = usize::try_from(offset)
            && let Some(shown) = self.first.get(from..)
        {
            let count = shown.len().min(buf.len());
            put(buf, 0, shown.get(..count).unwrap_or_default());
        }
        Ok(())
    }
}

/// The boot sector to show; `None` where it is the volume's own.
fn boot_sector(device: &Device, table: Option<&Table>) -> Result<Option<[u8; Boot::LEN]>> {
    let boot = Boot::read(&**device.disk())?;
    if boot.sector <= SECTOR && table.is_none() {
        return Ok(None);
    }
    let mut bytes = [0; Boot::LEN];
    device.fetch(&mut bytes, 0)?;
    let per_cluster = boot.cluster / SECTOR;
    let Ok(coded) = u8::try_from(per_cluster) else {
        return Err(Error::unsupported("NTFS with clusters of more than 64 KiB is not read"));
    };
    let start = table.map_or(boot.mft, |table| table.start) / boot.cluster;
    let end = table
        .map_or(boot.clusters, |table| (table.start + length(&table.runs)).div_ceil(boot.cluster));
    put(&mut bytes, 0x0B, &512_u16.to_le_bytes());
    put(&mut bytes, 0x0D, &[coded]);
    put(&mut bytes, 0x28, &end.saturating_mul(per_cluster).to_le_bytes());
    put(&mut bytes, 0x30, &start.to_le_bytes());
    Ok(Some(bytes))
}

/// The table's first record, with its content in one run at byte `start`, and without a list of
/// other records.
fn first_record(record: &Record, boot: &Boot, start: u64, len: u64) -> Option<Vec<u8>> {
    let head = record.attributes().first()?.at;
    let mut bytes = record.bytes.get(..head)?.to_vec();
    for attribute in record.attributes() {
        match (attribute.kind, &attribute.body) {
            (ATTRIBUTE_LIST, _) => {}
            (DATA, Body::Runs { .. }) if attribute.name.is_empty() => {
                bytes.extend(one_run(record.bytes.get(attribute.at..)?, boot, start, len)?);
            }
            _ => bytes.extend(record.bytes.get(attribute.at..)?.get(..attribute.len)?),
        }
    }
    bytes.extend([0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0]);
    let used = u32::try_from(bytes.len()).ok()?;
    put(&mut bytes, 0x18, &used.to_le_bytes())?;
    if bytes.len() > boot.record {
        return None;
    }
    bytes.resize(boot.record, 0);
    sealed(&bytes)
}

/// An attribute in one run, else as `old`.
fn one_run(old: &[u8], boot: &Boot, start: u64, len: u64) -> Option<Vec<u8>> {
    let mut bytes = old.get(..0x40)?.to_vec();
    bytes.resize(ONE_RUN, 0);
    let clusters = len.div_ceil(boot.cluster);
    put(&mut bytes, 4, &u32::try_from(ONE_RUN).ok()?.to_le_bytes())?;
    // First and last cluster, where the run is told, and lengths: allocated, of content, written.
    put(&mut bytes, 0x10, &0_u64.to_le_bytes())?;
    put(&mut bytes, 0x18, &clusters.checked_sub(1)?.to_le_bytes())?;
    put(&mut bytes, 0x20, &0x40_u16.to_le_bytes())?;
    for at in [0x28, 0x30, 0x38] {
        put(&mut bytes, at, &len.to_le_bytes())?;
    }
    put(&mut bytes, 0x40, &[0x88])?;
    put(&mut bytes, 0x41, &clusters.to_le_bytes())?;
    put(&mut bytes, 0x49, &(start / boot.cluster).to_le_bytes())?;
    Some(bytes)
}

impl BlockRead for Picture {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        self.device.note(self.fetch(buf, offset))
    }

    fn size_bytes(&self) -> u64 {
        self.table.as_ref().map_or(self.device.len(), |table| table.start + length(&table.runs))
    }
}

impl BlockDevice for Picture {
    fn write_at(&self, offset: u64, buf: &[u8]) -> fs_core::Result<()> {
        let shown = self.boot.is_some() && offset < Boot::LEN as u64;
        if self.table.is_some() || shown {
            return self.device.note(Err(Error::internal("a picture of a volume was written to")));
        }
        BlockDevice::write_at(&*self.device, offset, buf)
    }

    fn is_writable(&self) -> bool {
        self.table.is_none() && self.device.is_writable()
    }
}
