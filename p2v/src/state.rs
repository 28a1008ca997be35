//! What a job leaves for the next run: a folder that one run at a time works in, and in it a small
//! file that tells how far the job is: replaced in one step, durable when it is.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use serde::Serialize;
use serde::de::DeserializeOwned;
use vdisk::{Error, HostFile, Result};
use vdisk_core::Access;

/// The file in a job's folder that is locked.
pub const LOCK: &str = "lock";
/// How the names of states begin that are not saved yet.
const TEMPORARY: &str = ".vdisk-state-";
/// Most bytes of a state that is read.
const MOST: u64 = 64 << 20;

/// The folder of a job, in which one run at a time works.
#[derive(Debug)]
pub struct JobFolder {
    path: PathBuf,
    lock: HostFile,
}

impl JobFolder {
    /// Makes the folder, which its owner alone may look into, since it holds bytes of a guest, and
    /// keeps others out of it as long as what is returned lives.
    ///
    /// # Errors
    /// [`InUse`](vdisk::ErrorKind::InUse) while another run works in it; the host's.
    pub fn enter(path: &Path) -> Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(path).map_err(|error| {
            Error::io(error, "make a folder for how far the job is").in_file(path)
        })?;
        let lock = path.join(LOCK);
        let mut options = OpenOptions::new();
        options
            .write(true)
            .create(true)
            .truncate(false)
            .open(&lock)
            .map_err(|error| Error::io(error, "create it").in_file(&lock))?;
        let lock = HostFile::open_rw(&lock)?;
        lock.lock(Access::Write)?;
        let folder = Self { path: path.to_owned(), lock };
        folder.remove_temporaries();
        Ok(folder)
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Removes `files` from it and then the folder, unless there is more in it.
    ///
    /// # Errors
    /// The host's, where one of the files stays.
    pub fn leave(self, files: &[&str]) -> Result<()> {
        let Self { path, lock } = self;
        for name in files.iter().chain([&LOCK]) {
            let file = path.join(name);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != ErrorKind::NotFound => {
                    return Err(Error::io(error, "remove it").in_file(&file));
                }
                _ => {}
            }
        }
        // As long as it is open, a share keeps it in the folder under another name.
        drop(lock);
        let _ = fs::remove_dir(&path);
        Ok(())
    }

    /// Of runs that were killed while they saved.
    fn remove_temporaries(&self) {
        for entry in fs::read_dir(&self.path).into_iter().flatten().flatten() {
            if entry.file_name().as_encoded_bytes().starts_with(TEMPORARY.as_bytes()) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }
}

/// Writes `state` to `path` in place of what was there.
///
/// # Errors
/// The host's.
pub fn save(path: &Path, state: &impl Serialize) -> Result<()> {
    let failed = |error| Error::io(error, "save how far the job is").in_file(path);
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let folder = folder.unwrap_or(Path::new("."));
    let mut file =
        tempfile::Builder::new().prefix(TEMPORARY).tempfile_in(folder).map_err(failed)?;
    let text = serde_json::to_vec_pretty(state)
        .map_err(|error| Error::internal("a state that cannot be written").caused_by(error))?;
    file.write_all(&text).and_then(|()| file.as_file().sync_all()).map_err(failed)?;
    file.persist(path).map_err(|error| failed(error.error))?;
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(failed)
}

/// The state at `path`; `None` where there is none.
///
/// # Errors
/// The host's; [`Corrupt`](vdisk::ErrorKind::Corrupt) where it is none that was saved here.
pub fn load<T: DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    let failed = |error| Error::io(error, "read how far the job is").in_file(path);
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(failed(error)),
    };
    let mut text = Vec::new();
    std::io::Read::read_to_end(&mut std::io::Read::take(file, MOST), &mut text).map_err(failed)?;
    serde_json::from_slice(&text).map(Some).map_err(|error| {
        Error::new(vdisk::ErrorKind::Corrupt, "is not a state that vdisk saved")
            .in_file(path)
            .caused_by(error)
    })
}
