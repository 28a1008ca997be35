//! What a job leaves for the next run: a folder that one run at a time works in, and in it a small
//! file that tells how far the job is: replaced in one step, durable when it is.

use std::fs::{DirBuilder, File};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use serde::Serialize;
use serde::de::DeserializeOwned;
use vdisk::{Error, HostFile, Result};
use vdisk_core::Access;

/// The file in a job's folder that is locked.
pub const LOCK: &str = "lock";
/// Most bytes of a state that is read.
const MOST: u64 = 64 << 20;

/// Makes the folder of a job, which its owner alone may look into, since it holds bytes of a guest,
/// and keeps others out of it as long as what is returned lives.
///
/// # Errors
/// [`InUse`](vdisk::ErrorKind::InUse) while another run works in it; the host's.
pub fn enter(folder: &Path) -> Result<HostFile> {
    DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(|error| {
        Error::io(error, "make a folder for how far the job is").in_file(folder)
    })?;
    let lock = folder.join(LOCK);
    File::create(&lock).map_err(|error| Error::io(error, "create it").in_file(&lock))?;
    let lock = HostFile::open_rw(&lock)?;
    lock.lock(Access::Write)?;
    Ok(lock)
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
        tempfile::Builder::new().prefix(".vdisk-state-").tempfile_in(folder).map_err(failed)?;
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
