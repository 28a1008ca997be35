//! The course of a writing session (\[MS-VHDX\] 2.2.2.1, 2.3): new GUIDs before the first change,
//! metadata through the log, a clean header at the end.
//!
//! The order of the writes is what makes a power cut harmless:
//!
//! 1. [`begin`]: headers with new GUIDs, before anything else changes;
//! 2. payload goes straight to the file, into places that no durable metadata refers to yet, or
//!    over bytes the guest overwrites;
//! 3. [`Log::commit`]: payload flushed; one log entry with all changed pages, flushed; only then the
//!    pages in their places. One entry, because several could be replayed in part;
//! 4. [`end`]: all flushed; headers without a log.

use std::sync::Arc;

use uuid::Uuid;
use vdisk_core::{Result, Store, StoreExt};

use crate::header::Current;
use crate::journal::Journal;
use crate::log::{self, SECTOR, Stamp};
use crate::replay::Replay;

/// Most pages of a commit, so that they do not take more than 4 MiB of memory.
const MOST_PAGES: u64 = 1024;

/// Replays what waits in the log into the file and clears the log; the guest's data stay what
/// they are, so only the file write GUID changes. With no entries left, only clears it.
///
/// # Errors
/// The host's.
pub(crate) fn replay(
    file: &dyn Store,
    current: &mut Current,
    found: Option<&Replay<'_>>,
) -> Result<()> {
    current.header.file_write = Uuid::new_v4();
    current.write(file)?;
    if let Some(found) = found {
        found.in_place(file)?;
    }
    end(file, current)
}

/// Marks the file as changed, before the first change. With a new `data_write`, who made a child
/// of it notices.
///
/// # Errors
/// The host's.
pub(crate) fn begin(file: &dyn Store, current: &mut Current, data_write: Uuid) -> Result<()> {
    current.header.file_write = Uuid::new_v4();
    current.header.data_write = data_write;
    current.header.log_version = 0;
    current.write(file)
}

/// Leaves a file that needs no log.
///
/// # Errors
/// The host's.
pub(crate) fn end(file: &dyn Store, current: &mut Current) -> Result<()> {
    file.flush()?;
    if current.header.log.is_nil() {
        return Ok(());
    }
    current.header.log = Uuid::nil();
    current.write(file)
}

/// The log of a session.
#[derive(Debug)]
pub(crate) struct Log {
    file: Arc<dyn Store>,
    guid: Uuid,
    /// Number of the next entry.
    sequence: u64,
    /// Where the next entry starts, bytes from the log's start.
    at: u64,
}

impl Log {
    /// An empty log under a new GUID.
    pub(crate) fn new(file: Arc<dyn Store>) -> Self {
        Self { file, guid: Uuid::new_v4(), sequence: 1, at: 0 }
    }

    /// Makes everything durable: what was written to the file, and the journal's pages.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn commit(&mut self, current: &mut Current, journal: &Journal) -> Result<()> {
        // Makes durable the payload that the pages refer to, and the pages of the last commit:
        // no entry but the new one is needed afterwards, so it is its own tail.
        self.file.flush()?;
        if journal.len() == 0 {
            return Ok(());
        }
        let stamp = Stamp {
            guid: self.guid,
            sequence: self.sequence,
            tail: self.at,
            file_len: self.file.size()?,
        };
        let entry = log::encode(&stamp, &journal.pages());
        self.append(current, &entry)?;
        self.file.flush()?;
        if current.header.log != self.guid {
            // The log counts from here on, and it never counts without a valid entry in it.
            current.header.log = self.guid;
            current.write(&*self.file)?;
        }
        journal.apply()
    }

    fn append(&mut self, current: &Current, entry: &[u8]) -> Result<()> {
        let length = u64::from(current.header.log_length);
        for sector in entry.chunks(4096) {
            self.file.put(sector, current.header.log_offset + self.at, "VHDX log")?;
            self.at = (self.at + SECTOR) % length;
        }
        self.sequence += 1;
        Ok(())
    }
}

/// Most pages that one commit takes: the entry must leave the one before it alone, because until
/// the new one is complete the old one has to be there for a valid log.
pub(crate) fn capacity(log_length: u32) -> u64 {
    let half = (u64::from(log_length) / SECTOR).saturating_sub(1) / 2 * SECTOR;
    let mut pages = MOST_PAGES;
    while pages > 0 && log::entry_bytes(pages) > half {
        pages -= 1;
    }
    pages
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_never_takes_more_than_half_of_the_log() {
        assert_eq!(capacity(1 << 20), 126);
        assert_eq!(log::entry_bytes(126), 127 * 4096);
        assert_eq!(capacity(1 << 30), MOST_PAGES);
        assert_eq!(capacity(4096), 0);
    }
}
