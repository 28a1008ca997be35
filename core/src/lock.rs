//! Locks that keep other programs from changing a file under us, and us from changing it under
//! them.
//!
//! Advisory locks on single bytes of the file, as QEMU takes them (`block/file-posix.c` of its
//! sources describes the scheme), so that the two respect each other: the byte at `100 + n` is held
//! shared by who uses permission *n*, and the byte at `200 + n` by who does not want others to use
//! it. They belong to the open file (Linux's OFD locks): they go when it is closed, however the
//! program ends.

use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use crate::error::{Error, ErrorKind, Result};
use crate::layer::Access;

/// First byte of the permissions in use.
const USED: i64 = 100;
/// First byte of the permissions that others shall not use.
const UNSHARED: i64 = 200;

/// To read what is there as long as nobody writes.
const READ: i64 = 0;
/// To change what is read.
const WRITE: i64 = 1;
/// To change the length.
const RESIZE: i64 = 3;

/// An open file and the locks it has, which go with it.
#[derive(Debug)]
pub struct LockedFile {
    file: File,
    locked: AtomicBool,
}

impl LockedFile {
    pub(crate) fn new(file: File) -> Self {
        Self { file, locked: AtomicBool::new(false) }
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn lock(&self, access: Access, path: &Path) -> Result<()> {
        self.locked.store(true, Ordering::Relaxed);
        lock(&self.file, access, path)
    }
}

impl Drop for LockedFile {
    fn drop(&mut self) {
        // Closing does not let go while a process being started still has a copy of the handle.
        if *self.locked.get_mut() {
            let all = libc::flock {
                l_len: UNSHARED - USED + RESIZE + 1,
                ..one_byte(libc::F_UNLCK, USED)
            };
            let _ = fcntl(&self.file, FcntlArg::F_OFD_SETLK(&all));
        }
    }
}

/// Takes the locks of somebody who reads, or reads and writes, `file`; they replace none that it
/// has. Where the file system knows no locks, none are taken.
///
/// # Errors
/// [`InUse`](ErrorKind::InUse) where another program's locks forbid it; the host's.
fn lock(file: &File, access: Access, path: &Path) -> Result<()> {
    let used: &[i64] = match access {
        Access::Read => &[READ],
        Access::Write => &[READ, WRITE, RESIZE],
    };
    let unshared = [WRITE, RESIZE];
    let taken = used.iter().map(|one| USED + one).chain(unshared.map(|one| UNSHARED + one));
    let forbidden = used.iter().map(|one| UNSHARED + one).chain(unshared.map(|one| USED + one));
    match take(file, taken).and_then(|()| is_free(file, forbidden)) {
        Ok(true) => Ok(()),
        Ok(false) => Err(in_use(access, path)),
        Err(Errno::EINVAL | Errno::ENOLCK | Errno::EOPNOTSUPP | Errno::ENOSYS) => {
            tracing::warn!(path = %path.display(), "its file system knows no locks");
            Ok(())
        }
        Err(errno) => Err(Error::io(io::Error::from(errno), "lock it").in_file(path)),
    }
}

/// Holds each byte shared.
fn take(file: &File, bytes: impl Iterator<Item = i64>) -> Result<(), Errno> {
    for byte in bytes {
        fcntl(file, FcntlArg::F_OFD_SETLK(&one_byte(libc::F_RDLCK, byte)))?;
    }
    Ok(())
}

/// Whether no other open file holds any of the bytes.
fn is_free(file: &File, bytes: impl Iterator<Item = i64>) -> Result<bool, Errno> {
    for byte in bytes {
        let mut found = one_byte(libc::F_WRLCK, byte);
        fcntl(file, FcntlArg::F_OFD_GETLK(&mut found))?;
        if i32::from(found.l_type) != libc::F_UNLCK {
            return Ok(false);
        }
    }
    Ok(true)
}

fn one_byte(kind: i32, start: i64) -> libc::flock {
    libc::flock {
        l_type: i16::try_from(kind).unwrap_or_default(),
        l_whence: i16::try_from(libc::SEEK_SET).unwrap_or_default(),
        l_start: start,
        l_len: 1,
        l_pid: 0,
    }
}

fn in_use(access: Access, path: &Path) -> Error {
    let (message, hint) = match access {
        Access::Read => (
            "another program has it open for writing",
            "stop that program first; to read it all the same, perhaps half changed, add \
             --force-share",
        ),
        Access::Write => (
            "it is in use, by another program, as part of a chain, or as an input",
            "stop that program first (a virtual machine, a conversion, a backup)",
        ),
    };
    Error::new(ErrorKind::InUse, message).in_file(path).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(path: &Path) -> LockedFile {
        LockedFile::new(File::open(path).unwrap())
    }

    fn attempt(path: &Path, first: Access, second: Access) -> Result<()> {
        let [one, two] = [(); 2].map(|()| open(path));
        one.lock(first, path).unwrap();
        two.lock(second, path)
    }

    #[test]
    fn readers_share_and_writers_do_not() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let path = file.path();
        attempt(path, Access::Read, Access::Read).unwrap();
        for (first, second) in [
            (Access::Read, Access::Write),
            (Access::Write, Access::Read),
            (Access::Write, Access::Write),
        ] {
            let error = attempt(path, first, second).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InUse);
        }
    }

    #[test]
    fn what_is_dropped_is_free_even_if_the_file_is_still_open() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let locked = open(file.path());
        locked.lock(Access::Write, file.path()).unwrap();
        // As a process has it between its start and its program's.
        let _copy = locked.file().try_clone().unwrap();
        drop(locked);
        open(file.path()).lock(Access::Write, file.path()).unwrap();
    }

    #[test]
    fn one_open_file_may_go_from_reading_to_writing() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let one = open(file.path());
        one.lock(Access::Read, file.path()).unwrap();
        one.lock(Access::Write, file.path()).unwrap();
        open(file.path()).lock(Access::Read, file.path()).unwrap_err();
    }
}
