//! Changing a partition table, as bytes to be written by somebody else.

mod gpt;
mod mbr;

use uuid::Uuid;
use vdisk_core::{Change, Disk, Error, Result};

use crate::block::Block;
use crate::mbr::Mbr;
use crate::table::{DiskId, Table, TableKind, find_gpt};
use crate::types::Role;

/// Where a partition that begins at a whole MiB shall end too, bytes.
const ALIGNMENT: u64 = 1 << 20;

/// A partition table that is being changed. Nothing is written: [`changes`](Edit::changes) tells
/// which bytes would be.
///
/// ```no_run
/// # fn disk() -> Box<dyn vdisk_core::Disk> { unimplemented!() }
/// use vdisk_parts::{DiskId, Edit};
///
/// // A copy of a disk, on a larger one.
/// let disk = disk();
/// let mut edit = Edit::new(&*disk, 512)?;
/// edit.fit_to(500 << 30)?;
/// edit.set_disk_id(DiskId::Mbr(0x1234_abcd))?;
/// edit.grow_last()?;
/// for change in edit.changes() {
///     println!("{} bytes at {}", change.bytes.len(), change.offset);
/// }
/// # Ok::<(), vdisk_core::Error>(())
/// ```
#[derive(Debug)]
pub struct Edit<'a> {
    disk: &'a dyn Disk,
    table: Editable,
}

#[derive(Debug)]
enum Editable {
    Gpt(gpt::Edited),
    Mbr(mbr::Edited),
}

impl<'a> Edit<'a> {
    /// Begins with the table that `disk` has now, read as [`Table::read`] does. Of a GPT, a copy
    /// that is damaged is made anew from the other.
    ///
    /// # Errors
    /// [`Usage`](vdisk_core::ErrorKind::Usage) where there is no table;
    /// [`Refused`](vdisk_core::ErrorKind::Refused) where a GPT lies on itself or on a partition;
    /// as [`Table::read`].
    pub fn new(disk: &'a dyn Disk, sector_size: u64) -> Result<Self> {
        let table = Table::read(disk, sector_size)?;
        let first = Block::read(disk, 0, crate::mbr::BYTES)?;
        let mbr = first.and_then(Mbr::parse);
        let none = || Error::usage("the disk has no partition table to change");
        let edited = match table.kind {
            TableKind::Gpt { .. } => {
                let covering = mbr.as_ref().filter(|mbr| mbr.is_protective());
                let found = find_gpt(disk, sector_size, covering)?.ok_or_else(none)?;
                Editable::Gpt(gpt::Edited::new(disk, &found, mbr)?)
            }
            TableKind::Mbr => Editable::Mbr(mbr::Edited::new(disk, table, mbr.ok_or_else(none)?)),
            TableKind::None => return Err(none()),
        };
        Ok(Self { disk, table: edited })
    }

    /// Fits the table to a disk of `len` bytes: a GPT's backup goes to its new end, and what the
    /// table says of the disk's size is made right. The changes are for the disk of that length.
    ///
    /// # Errors
    /// [`Refused`](vdisk_core::ErrorKind::Refused) where a partition would not fit.
    pub fn fit_to(&mut self, len: u64) -> Result<()> {
        match &mut self.table {
            Editable::Gpt(table) => table.fit_to(len),
            Editable::Mbr(table) => table.fit_to(len),
        }
    }

    /// Gives the disk another identity.
    ///
    /// # Errors
    /// [`Usage`](vdisk_core::ErrorKind::Usage) where it is that of another kind of table.
    pub fn set_disk_id(&mut self, id: DiskId) -> Result<()> {
        match (&mut self.table, id) {
            (Editable::Gpt(table), DiskId::Gpt(guid)) => table.set_disk_guid(guid),
            (Editable::Mbr(table), DiskId::Mbr(signature)) => table.set_signature(signature),
            _ => return Err(Error::usage(format!("{id} is no identity for this kind of table"))),
        }
        Ok(())
    }

    /// Gives partition `number` of a GPT another unique GUID.
    ///
    /// # Errors
    /// [`Usage`](vdisk_core::ErrorKind::Usage) where there is no such partition, or no GPT.
    pub fn set_partition_uuid(&mut self, number: u32, uuid: Uuid) -> Result<()> {
        match &mut self.table {
            Editable::Gpt(table) => table.set_partition_guid(number, uuid),
            Editable::Mbr(_) => Err(Error::usage("partitions of an MBR have no UUID")),
        }
    }

    /// Lets the partition that ends last reach to the end of the disk, as [`Edit::fit_to`] set it.
    /// A partition that begins at a whole MiB will end at one. The file system in it stays as it
    /// is. Returns the partition's number, or `None` where there is no room or no partition.
    ///
    /// # Errors
    /// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where it is an extended or logical
    /// partition, or part of a dynamic disk or a storage pool.
    pub fn grow_last(&mut self) -> Result<Option<u32>> {
        match &mut self.table {
            Editable::Gpt(table) => table.grow_last(),
            Editable::Mbr(table) => table.grow_last(),
        }
    }

    /// Lets partition `number` end at byte `end` of the disk, before where it ends now. The file
    /// system in it must have been made smaller before.
    ///
    /// # Errors
    /// [`Usage`](vdisk_core::ErrorKind::Usage) where there is no such partition, or it would not
    /// become smaller but stay something; [`Unsupported`](vdisk_core::ErrorKind::Unsupported) as in
    /// [`Edit::grow_last`].
    pub fn shrink(&mut self, number: u32, end: u64) -> Result<()> {
        match &mut self.table {
            Editable::Gpt(table) => table.shrink(number, end),
            Editable::Mbr(table) => table.shrink(number, end),
        }
    }

    /// The bytes that differ from what the disk holds now. They are to be written in this order,
    /// each flushed before the next: then a power cut leaves a table that reads as before or as
    /// after.
    #[must_use]
    pub fn changes(&self) -> Vec<Change> {
        let wanted = match &self.table {
            Editable::Gpt(table) => table.content(),
            Editable::Mbr(table) => table.content(),
        };
        wanted.into_iter().filter(|change| !self.holds(change)).collect()
    }

    fn holds(&self, change: &Change) -> bool {
        let there = Block::read(self.disk, change.offset, change.bytes.len());
        there.is_ok_and(|found| found.is_some_and(|found| found.0 == change.bytes))
    }
}

/// The end that a partition from byte `start` may have, where `room` is the end of what is free.
fn aligned_end(start: u64, room: u64) -> u64 {
    if start.is_multiple_of(ALIGNMENT) { room / ALIGNMENT * ALIGNMENT } else { room }
}

/// Refuses to grow what other structures know the size of.
fn growable(number: u32, role: Option<Role>) -> Result<()> {
    let what = match role {
        Some(Role::Extended) => "an extended partition",
        Some(Role::LdmData | Role::LdmMetadata) => "part of a dynamic disk",
        Some(Role::StorageSpaces) => "part of a storage pool",
        _ => return Ok(()),
    };
    Err(Error::unsupported(format!("partition {number} is {what}: its size is not changed"))
        .hint("change it on the running system"))
}

fn not_smaller(number: u32, end: u64) -> Error {
    Error::usage(format!("partition {number} does not become smaller by ending at byte {end}"))
}

fn does_not_fit(number: u32, end: u64, room: u64) -> Error {
    Error::refused(format!(
        "partition {number} ends at byte {end}, the disk would have room up to byte {room}"
    ))
    .hint("shrink the file system and the partition first")
}
