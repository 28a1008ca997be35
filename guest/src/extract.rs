//! Files and trees of a volume, written to the host.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Permissions};
use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use vdisk_core::{Cancel, Error, ErrorKind, Result, zeros};

use crate::fs::{FileKind, GuestFs, Stat};

/// Bytes moved at once.
const PIECE: usize = 1 << 20;
/// Directories inside each other; more of them lead round in circles.
const DEEPEST: usize = 200;

/// What a name counts, for [`extract_at_most`], beside the bytes of its file.
pub const NAME: u64 = 4096;

/// What was written, and what was not.
#[derive(Debug, Default)]
pub struct Extracted {
    /// Files written.
    pub files: u64,
    /// Directories made.
    pub directories: u64,
    /// Links made.
    pub links: u64,
    /// Bytes of the files.
    pub bytes: u64,
    /// The same with what names count.
    pub counted: u64,
    /// What failed, each with its path in the volume; the rest was written all the same.
    pub failures: Vec<Error>,
    /// Devices, pipes and sockets, which are left out.
    pub special: Vec<Vec<u8>>,
}

/// Writes the file, link or tree at `path` of the volume to `target` on the host; where that is a
/// directory, into it under its own name.
///
/// Each file appears whole or not at all. Links are made as links, and no link of the host is
/// followed below `target`. What exists is replaced only with `force`, and a directory never by
/// something else. Permission bits and times are kept, owners are not, nor set-id bits.
///
/// # Errors
/// Where `path` itself cannot be written: as [`GuestFs::stat`]; [`ErrorKind::Refused`] where
/// `target` is there already; the host's. What fails inside a tree is in the result.
pub fn extract(
    fs: &dyn GuestFs,
    path: &[u8],
    target: &Path,
    force: bool,
    cancel: &Cancel,
) -> Result<Extracted> {
    extract_at_most(fs, path, target, force, u64::MAX, cancel)
}

/// As [`extract`], of a tree of no more than `most` bytes: zeros count like others, and each name as
/// much as [`NAME`].
///
/// # Errors
/// As [`extract`]; [`ErrorKind::NoSpace`] where there is more. What came before is on the host then.
pub fn extract_at_most(
    fs: &dyn GuestFs,
    path: &[u8],
    target: &Path,
    force: bool,
    most: u64,
    cancel: &Cancel,
) -> Result<Extracted> {
    let stat = fs.stat(path)?;
    let name = path.rsplit(|byte| *byte == b'/').find(|name| !name.is_empty());
    let target = match name {
        Some(name) if target.is_dir() => target.join(safe_name(name)?),
        _ => target.to_owned(),
    };
    let mut job = Job { fs, force, cancel, left: Some(most), done: Extracted::default() };
    job.node(path, &stat, &target, 0)?;
    job.done.counted = most.saturating_sub(job.left.unwrap_or_default());
    Ok(job.done)
}

struct Job<'a> {
    fs: &'a dyn GuestFs,
    force: bool,
    cancel: &'a Cancel,
    /// Bytes that may still be written; none where there were more.
    left: Option<u64>,
    done: Extracted,
}

impl Job<'_> {
    fn node(&mut self, path: &[u8], stat: &Stat, target: &Path, depth: usize) -> Result<()> {
        self.cancel.check()?;
        let size = if stat.kind == FileKind::File { stat.size } else { 0 };
        let cost = NAME.saturating_add(size);
        self.left = self.left.and_then(|left| left.checked_sub(cost));
        if self.left.is_none() {
            let shown = String::from_utf8_lossy(path);
            return Err(Error::new(ErrorKind::NoSpace, format!("{shown}: the tree is too large")));
        }
        match stat.kind {
            FileKind::File => self.file(path, stat, target),
            FileKind::Directory => self.directory(path, stat, target, depth),
            FileKind::Symlink => self.link(path, target),
            FileKind::Special => {
                self.done.special.push(path.to_vec());
                Ok(())
            }
        }
    }

    fn file(&mut self, path: &[u8], stat: &Stat, target: &Path) -> Result<()> {
        self.may_write(target)?;
        let folder = target.parent().filter(|folder| !folder.as_os_str().is_empty());
        let mut file = tempfile::Builder::new()
            .prefix(".vdisk-")
            .tempfile_in(folder.unwrap_or(Path::new(".")))
            .map_err(|error| host(error, "create it", target))?;
        let len = self.copy(path, file.as_file_mut(), target)?;
        dress(file.as_file(), stat).map_err(|error| host(error, "set its times", target))?;
        let placed = if self.force { file.persist(target) } else { file.persist_noclobber(target) };
        placed.map_err(|error| host(error.error, "give it its name", target))?;
        self.done.files += 1;
        self.done.bytes += len;
        Ok(())
    }

    /// Copies the content, leaving holes for zeros; its length.
    fn copy(&self, path: &[u8], file: &mut File, target: &Path) -> Result<u64> {
        let failed = |error| host(error, "write it", target);
        let mut piece = vec![0; PIECE];
        let mut at = 0;
        loop {
            self.cancel.check()?;
            let len = self.fs.read_at(path, at, &mut piece)?;
            let bytes = piece.get(..len).unwrap_or_default();
            if zeros::is_zero(bytes) {
                file.seek(SeekFrom::Current(len.try_into().unwrap_or_default())).map_err(failed)?;
            } else {
                file.write_all(bytes).map_err(failed)?;
            }
            at += len as u64;
            if len < PIECE {
                file.set_len(at).map_err(failed)?;
                return Ok(at);
            }
        }
    }

    fn directory(&mut self, path: &[u8], stat: &Stat, target: &Path, depth: usize) -> Result<()> {
        if depth >= DEEPEST {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{}: directories without end", String::from_utf8_lossy(path)),
            ));
        }
        match fs::create_dir(target) {
            Ok(()) => self.done.directories += 1,
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && self.force => {
                let there = fs::symlink_metadata(target);
                if !there.map_err(|error| host(error, "look at it", target))?.is_dir() {
                    return Err(Error::refused("it is there, and no directory").in_file(target));
                }
            }
            Err(error) => return Err(exists_or(error, "create it", target)),
        }
        for entry in self.fs.read_dir(path)? {
            let inner = [path, b"/", &entry.name].concat();
            let done = safe_name(&entry.name).and_then(|name| {
                let stat = self.fs.stat(&inner)?;
                self.node(&inner, &stat, &target.join(name), depth + 1)
            });
            match done {
                Err(error) if error.kind() == ErrorKind::Cancelled || self.left.is_none() => {
                    return Err(error);
                }
                Err(error) => self.done.failures.push(error),
                Ok(()) => {}
            }
        }
        // Last, since it may take away our own right to write there.
        let dressed = File::open(target).and_then(|folder| dress(&folder, stat));
        dressed.map_err(|error| host(error, "set its times", target))
    }

    fn link(&mut self, path: &[u8], target: &Path) -> Result<()> {
        self.may_write(target)?;
        let to = self.fs.read_link(path)?;
        if self.force && fs::symlink_metadata(target).is_ok() {
            fs::remove_file(target).map_err(|error| host(error, "replace it", target))?;
        }
        symlink(OsStr::from_bytes(&to), target)
            .map_err(|error| exists_or(error, "create it", target))?;
        self.done.links += 1;
        Ok(())
    }

    fn may_write(&self, target: &Path) -> Result<()> {
        match fs::symlink_metadata(target) {
            Ok(there) if there.is_dir() => {
                Err(Error::refused("it is there, and a directory").in_file(target))
            }
            Ok(_) if !self.force => Err(Error::refused("it is there already")
                .in_file(target)
                .hint("--force replaces what is there")),
            _ => Ok(()),
        }
    }
}

/// The name on the host, where it is one name.
fn safe_name(name: &[u8]) -> Result<PathBuf> {
    let unsafe_name =
        matches!(name, b"" | b"." | b"..") || name.iter().any(|b| matches!(b, b'/' | 0));
    if unsafe_name {
        let shown = String::from_utf8_lossy(name);
        return Err(Error::refused(format!("a file called {shown:?} is not written to the host")));
    }
    Ok(PathBuf::from(OsStr::from_bytes(name)))
}

/// Gives what was written its permission bits and time.
fn dress(file: &File, stat: &Stat) -> io::Result<()> {
    if let Some(modified) = stat.modified {
        file.set_times(FileTimes::new().set_modified(modified))?;
    }
    let default = if stat.kind == FileKind::Directory { 0o755 } else { 0o644 };
    let mode = stat.unix.map_or(default, |unix| unix.mode & 0o777);
    file.set_permissions(Permissions::from_mode(mode.into()))
}

fn host(error: io::Error, doing: &str, path: &Path) -> Error {
    Error::io(error, doing).in_file(path)
}

fn exists_or(error: io::Error, doing: &str, path: &Path) -> Error {
    if error.kind() == io::ErrorKind::AlreadyExists {
        return Error::refused("it is there already")
            .in_file(path)
            .hint("--force writes over what is there");
    }
    host(error, doing, path)
}
