//! Who holds the locks: one job, however often it opens a file.
//!
//! Locks belong to an open file, so a job that opens a file twice (a commit reads a chain and
//! writes to one of its images) would stand in its own way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use vdisk_core::{Access, HostFile, LockedFile, Result};

/// The files that one job has locked, and for what.
#[derive(Debug, Default)]
pub(crate) struct Session(Mutex<HashMap<(u64, u64), Held>>);

#[derive(Debug)]
struct Held {
    /// Keeps the locks, which go when the last handle of this open file does.
    file: Arc<LockedFile>,
    access: Access,
}

impl Session {
    /// Locks `file` for `access`, unless the job has done so.
    ///
    /// # Errors
    /// As [`HostFile::lock`].
    pub(crate) fn lock(&self, file: &HostFile, access: Access) -> Result<()> {
        let mut files = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match files.get_mut(&file.id()) {
            Some(held) if held.access == Access::Write || access == Access::Read => {}
            Some(held) => {
                file.lock_through(&held.file, access)?;
                held.access = access;
            }
            None => {
                file.lock(access)?;
                files.insert(file.id(), Held { file: file.handle(), access });
            }
        }
        Ok(())
    }
}
