//! The host as the place of files: how an open file becomes a store, and how names change.

use std::fmt::Debug;
use std::io;
use std::path::Path;
use std::sync::Arc;

use tempfile::TempPath;

use crate::host::HostFile;
use crate::store::Store;

/// What passes between vdisk and the host's folders. All that is changed on a host goes through
/// here, so that whoever stands in its place can watch it, fail it, or cut its power.
pub trait Host: Send + Sync + Debug {
    /// The store of an open file.
    fn store(&self, file: HostFile) -> Arc<dyn Store> {
        Arc::new(file)
    }

    /// Gives a finished temporary file its name, in one step; with `overwrite` in place of the
    /// file that has it.
    ///
    /// # Errors
    /// The host's; the temporary file is gone then.
    fn persist(&self, temporary: TempPath, path: &Path, overwrite: bool) -> io::Result<()> {
        let named = match overwrite {
            true => temporary.persist(path),
            false => temporary.persist_noclobber(path),
        };
        named.map_err(|e| e.error)
    }

    /// Removes a file.
    ///
    /// # Errors
    /// The host's.
    fn remove(&self, path: &Path) -> io::Result<()> {
        std::fs::remove_file(path)
    }

    /// Waits until the names in a folder survive a power cut.
    ///
    /// # Errors
    /// The host's.
    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        std::fs::File::open(folder)?.sync_all()
    }
}

/// The host as it is.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealHost;

impl Host for RealHost {}
