//! A volume whose structures are changed.

use std::ops::Deref;
use std::sync::Arc;

use vdisk_core::{CowDisk, Error, Result};
use vdisk_guest::ntfs::{self, Content, DATA, Record, Runs, length, pieces, put, sealed};

/// An NTFS volume, open for changing its bytes.
#[derive(Debug)]
pub struct Ntfs {
    volume: ntfs::Ntfs<Arc<CowDisk>>,
    /// Copies of the first records.
    mirror: Runs,
}

impl Deref for Ntfs {
    type Target = ntfs::Ntfs<Arc<CowDisk>>;

    fn deref(&self) -> &Self::Target {
        &self.volume
    }
}

impl Ntfs {
    /// Reads the boot sector and finds the master file table and its mirror.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](vdisk_core::ErrorKind::Corrupt) where they cannot be; the disk's.
    pub fn open(disk: Arc<CowDisk>) -> Result<Self> {
        let volume = ntfs::Ntfs::open(disk)?;
        let mirror = match volume.attribute(1, DATA, "")? {
            Some(Content::Runs(mirror, _)) => mirror,
            _ => Runs::new(),
        };
        Ok(Self { volume, mirror })
    }

    /// Writes a file record, and its copy where it has one.
    pub(super) fn write_record(&self, record: &Record) -> Result<()> {
        let offset = record.number.saturating_mul(self.boot().record as u64);
        let bytes = sealed(&record.bytes).ok_or_else(lost)?;
        self.write(self.mft(), offset, &bytes)?;
        if offset + bytes.len() as u64 <= length(&self.mirror) {
            self.write(&self.mirror, offset, &bytes)?;
        }
        Ok(())
    }

    /// Writes bytes into an attribute, which keeps its length.
    pub(super) fn write_content(&self, content: &Content, at: u64, bytes: &[u8]) -> Result<()> {
        match content {
            Content::Resident(number, range) => {
                let mut record = self.record(*number)?;
                let start = usize::try_from(at).unwrap_or(usize::MAX);
                let place = record.bytes.get_mut(range.clone());
                place.and_then(|place| put(place, start, bytes)).ok_or_else(lost)?;
                self.write_record(&record)
            }
            Content::Runs(runs, _) => self.write(runs, at, bytes),
        }
    }

    fn write(&self, runs: &Runs, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        for piece in pieces(runs, offset, bytes.len() as u64)? {
            let count = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_checked(count).ok_or_else(lost)?;
            self.disk().write_at(now, piece.start)?;
            rest = later;
        }
        Ok(())
    }
}

fn lost() -> Error {
    Error::internal("a write beyond the end of an NTFS structure")
}
