//! New files that appear whole or not at all.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use rustix::io::Errno;
use tempfile::TempPath;

use crate::error::{Error, ErrorKind, Result};
use crate::folder::{Host, RealHost};
use crate::host::HostFile;
use crate::layer::Access;
use crate::store::{Store, StoreExt};

/// Creates the files of one new image.
pub trait Files {
    /// The name of the file the user asked for, without its folder: what extents are named after.
    fn main_name(&self) -> &str;

    /// Creates an empty file called `name` beside the main one (`name` may be the main name
    /// itself). The last file created under the main name is the one that makes the image appear.
    ///
    /// # Errors
    /// [`Refused`](crate::ErrorKind::Refused) where the file exists and may not be overwritten;
    /// the host's.
    fn create(&mut self, name: &str) -> Result<Arc<dyn Store>>;
}

/// The files of one new image on the host: written under temporary names, then flushed and given
/// their own, extents first and the main file last. Dropped without [`Output::commit`], nothing
/// stays behind.
#[derive(Debug)]
pub struct Output {
    /// Where the files go; `None` for a bare file name, in the current folder.
    folder: Option<PathBuf>,
    main: String,
    overwrite: bool,
    files: Vec<Pending>,
    host: Arc<dyn Host>,
    /// Who may read it, before the user's own mask.
    mode: u32,
}

#[derive(Debug)]
struct Pending {
    name: String,
    temporary: TempPath,
    store: Arc<dyn Store>,
}

impl Output {
    /// Prepares for an image at `path`; with `overwrite` existing files are replaced at the end.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) for a path without a UTF-8 file name;
    /// [`Refused`](crate::ErrorKind::Refused) where it exists and `overwrite` is not given; the
    /// host's where its folder is not there.
    pub fn new(path: &Path, overwrite: bool) -> Result<Self> {
        Self::on(Arc::new(RealHost), path, overwrite)
    }

    /// As [`Output::new`], on a host that may be watched.
    ///
    /// # Errors
    /// As [`Output::new`].
    pub fn on(host: Arc<dyn Host>, path: &Path, overwrite: bool) -> Result<Self> {
        let main = path
            .file_name()
            .and_then(OsStr::to_str)
            .ok_or_else(|| Error::usage("an output needs a file name in UTF-8").in_file(path))?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.map(Path::to_owned);
        let output =
            Self { folder, main: main.to_owned(), overwrite, files: Vec::new(), host, mode: 0o666 };
        let folder = output.folder();
        std::fs::metadata(folder).map_err(|e| Error::io(e, "find the folder").in_file(folder))?;
        output.refuse_existing(main)?;
        Ok(output)
    }

    /// Makes its files readable for their owner alone: for what holds bytes of a guest that the
    /// guest itself has done away with, such as keys.
    #[must_use]
    pub fn private(mut self) -> Self {
        self.mode = 0o600;
        self
    }

    fn folder(&self) -> &Path {
        self.folder.as_deref().unwrap_or(Path::new("."))
    }

    /// The path of a file of the image, put as the user put that of the main one.
    fn path_of(&self, name: &str) -> PathBuf {
        self.folder.as_ref().map_or_else(|| PathBuf::from(name), |folder| folder.join(name))
    }

    fn refuse_existing(&self, name: &str) -> Result<()> {
        refuse_taken(&self.path_of(name), self.overwrite)
    }

    /// Fails where a file that will be replaced is one that another program works with.
    ///
    /// # Errors
    /// [`InUse`](ErrorKind::InUse).
    pub fn refuse_used(&self) -> Result<()> {
        self.paths().iter().try_for_each(|path| refuse_used(path))
    }

    /// The paths the files will have.
    #[must_use]
    pub fn paths(&self) -> Vec<PathBuf> {
        self.files.iter().map(|pending| self.path_of(&pending.name)).collect()
    }

    /// The file created under the main name, if it was.
    #[must_use]
    pub fn main_file(&self) -> Option<Arc<dyn Store>> {
        let main = self.files.iter().rev().find(|pending| pending.name == self.main);
        main.map(|pending| pending.store.clone())
    }

    /// Flushes all files and gives them their names: the image is there.
    ///
    /// # Errors
    /// The host's; what has not got its name by then is removed.
    pub fn commit(mut self) -> Result<()> {
        for pending in &self.files {
            pending.store.flush()?;
        }
        let main = self.path_of(&self.main);
        let (host, folder) = (self.host.clone(), self.folder().to_owned());
        let files = std::mem::take(&mut self.files).into_iter();
        let files = files.map(|file| (self.path_of(&file.name), file.temporary)).collect();
        let give = |file, path: &Path| host.persist(file, path, self.overwrite);
        appear(&*host, &folder, &main, self.overwrite, files, give)
    }
}

/// Fails where a new file must not take the place of what stands at `path`: a folder, a device, and
/// unless `overwrite` is given any file.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused).
pub fn refuse_taken(path: &Path, overwrite: bool) -> Result<()> {
    // What a link leads to counts; one that leads nowhere is a file.
    let Ok(found) = path.metadata().or_else(|_| path.symlink_metadata()) else { return Ok(()) };
    let refused = |what: &str| Err(Error::refused(what).in_file(path));
    match found.file_type() {
        kind if kind.is_dir() => refused("is a folder"),
        kind if !kind.is_file() && !kind.is_symlink() => {
            refused("is a device or a pipe, in whose place no file may come")
        }
        _ if !overwrite => refused("exists already")
            .map_err(|error| error.hint("name another output, or add --force to replace it")),
        _ => Ok(()),
    }
}

/// Fails where another program works with the file at `path`.
///
/// # Errors
/// [`InUse`](ErrorKind::InUse).
pub fn refuse_used(path: &Path) -> Result<()> {
    // One that cannot even be opened is left to the rename.
    match HostFile::open(path).and_then(|file| file.lock(Access::Write)) {
        Err(error) if error.kind() == ErrorKind::InUse => Err(error),
        _ => Ok(()),
    }
}

/// Gives the finished files of one image, which stand in another folder of the same file system,
/// their places beside `main`, under the names they have; with `overwrite` what has these names is
/// replaced. After an error the files that have no place yet are where they were, and a second call
/// goes on.
///
/// # Errors
/// The host's, which says so where a name is taken.
pub fn move_into_place(files: Vec<PathBuf>, main: &Path, overwrite: bool) -> Result<()> {
    let files: Vec<(PathBuf, PathBuf)> = files
        .into_iter()
        .map(|file| (main.with_file_name(file.file_name().unwrap_or_default()), file))
        .collect();
    let begins = files.iter().any(|(path, _)| path == main);
    let folder = main.parent().filter(|folder| !folder.as_os_str().is_empty());
    let give = |file: PathBuf, path: &Path| match overwrite {
        true => std::fs::rename(file, path),
        false => rename_to_free(&file, path),
    };
    appear(&RealHost, folder.unwrap_or(Path::new(".")), main, begins && overwrite, files, give)
}

/// Renames a file unless the name is taken.
fn rename_to_free(file: &Path, path: &Path) -> io::Result<()> {
    match renameat_with(CWD, file, CWD, path, RenameFlags::NOREPLACE) {
        // A file system that cannot do both in one step.
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP) => match path.symlink_metadata() {
            Ok(_) => Err(io::ErrorKind::AlreadyExists.into()),
            Err(_) => std::fs::rename(file, path),
        },
        renamed => Ok(renamed?),
    }
}

/// Lets finished files appear in `folder`: the main file comes last, since as long as it is missing
/// there is no image to open. One that is replaced goes first, or it would show the extents of the
/// new one.
fn appear<F>(
    host: &dyn Host,
    folder: &Path,
    main: &Path,
    replaces: bool,
    mut files: Vec<(PathBuf, F)>,
    give: impl Fn(F, &Path) -> io::Result<()>,
) -> Result<()> {
    if replaces && files.len() > 1 {
        match host.remove(main) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => {
                return Err(Error::io(e, "remove the file to be replaced").in_file(main));
            }
            _ => {}
        }
    }
    files.sort_by_key(|(path, _)| path == main);
    for (path, file) in files {
        give(file, &path)
            .map_err(|e| Error::io(e, "give the finished file its name").in_file(&path))?;
    }
    host.sync_folder(folder).map_err(|e| Error::io(e, "flush the folder").in_file(folder))
}

impl Files for Output {
    fn main_name(&self) -> &str {
        &self.main
    }

    fn create(&mut self, name: &str) -> Result<Arc<dyn Store>> {
        let path = self.path_of(name);
        if Path::new(name).file_name() != Some(OsStr::new(name)) {
            return Err(Error::internal(format!("{name:?} is not a plain file name")));
        }
        self.refuse_existing(name)?;
        // The temporary name, which the full error tells, means nothing to the user.
        let failed = |e: io::Error| Error::io(e.kind().into(), "create it").in_file(&path);
        let temporary = tempfile::Builder::new()
            .prefix(&format!(".{}.vdisk-partial-", start_of(name)))
            .permissions(std::fs::Permissions::from_mode(self.mode))
            .tempfile_in(self.folder())
            .map_err(failed)?;
        let (file, temporary) = temporary.into_parts();
        let store = self.host.store(HostFile::new(file, path)?);
        self.files.push(Pending { name: name.to_owned(), temporary, store: store.clone() });
        Ok(store)
    }
}

/// As much of a file's name as leaves room for what temporary names have more.
fn start_of(name: &str) -> &str {
    let end = (0..=name.len().min(200)).rev().find(|end| name.is_char_boundary(*end));
    name.get(..end.unwrap_or_default()).unwrap_or_default()
}

/// Writes a small file, whole or not at all; what is there already is written over only if told so.
///
/// # Errors
/// As [`Output::new`], and the host's.
pub fn write_file(path: &Path, content: &[u8], overwrite: bool) -> Result<()> {
    let mut output = Output::new(path, overwrite)?;
    let name = output.main_name().to_owned();
    output.create(&name)?.put(content, 0, "content")?;
    output.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_names_can_be_made_and_an_old_main_file_goes_first() {
        let folder = tempfile::tempdir().unwrap();
        for name in ["a".repeat(255), "\u{e4}".repeat(127)] {
            let path = folder.path().join(&name);
            let mut output = Output::new(&path, false).unwrap();
            output.create(&name).unwrap();
            output.commit().unwrap();
            assert!(path.exists());
        }
        // An extent that cannot get its name, as there is a folder in its place.
        let path = folder.path().join("d.vmdk");
        std::fs::write(&path, b"old").unwrap();
        let mut output = Output::new(&path, true).unwrap();
        output.create("d.vmdk").unwrap();
        output.create("d-flat.vmdk").unwrap();
        std::fs::create_dir(folder.path().join("d-flat.vmdk")).unwrap();
        assert!(output.commit().is_err());
        assert!(!path.exists(), "the old descriptor must not name the new extents");
    }

    #[test]
    fn finished_files_move_into_place_and_a_second_call_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let (from, main) = (folder.path().join("hidden"), folder.path().join("d.vmdk"));
        std::fs::create_dir(&from).unwrap();
        std::fs::write(&main, b"old").unwrap();
        let files = ["d.vmdk", "d-flat.vmdk"].map(|name| from.join(name));
        files.iter().for_each(|file| std::fs::write(file, b"new").unwrap());
        let in_the_way = folder.path().join("d-flat.vmdk");
        std::fs::create_dir(&in_the_way).unwrap();
        assert!(move_into_place(files.to_vec(), &main, false).is_err());
        assert_eq!(std::fs::read(&main).unwrap(), b"old");
        assert!(move_into_place(files.to_vec(), &main, true).is_err());
        assert!(!main.exists() && files.iter().all(|file| file.exists()));
        std::fs::remove_dir(&in_the_way).unwrap();
        // As a run that was cut off between the two leaves it.
        std::fs::rename(&files[1], &in_the_way).unwrap();
        move_into_place(files[..1].to_vec(), &main, false).unwrap();
        assert_eq!(std::fs::read(&main).unwrap(), b"new");
        assert_eq!(std::fs::read(&in_the_way).unwrap(), b"new");
    }

    #[test]
    fn no_file_comes_in_the_place_of_a_device() {
        let folder = tempfile::tempdir().unwrap();
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("/dev/null", &link).unwrap();
        for path in [Path::new("/dev/null"), &link] {
            assert_eq!(Output::new(path, true).unwrap_err().kind(), ErrorKind::Refused);
        }
        // Nor of a file that came meanwhile, unless that is asked for.
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for path in [&from, &to] {
            std::fs::write(path, "bytes").unwrap();
        }
        let taken = rename_to_free(&from, &to).unwrap_err();
        assert_eq!(taken.kind(), io::ErrorKind::AlreadyExists);
        assert!(from.exists());
    }

    #[test]
    fn appears_whole_or_not_at_all() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.img");
        let listing = || std::fs::read_dir(folder.path()).unwrap().count();

        let mut dropped = Output::new(&path, false).unwrap();
        dropped.create("a.img").unwrap().write_all_at(b"half", 0).unwrap();
        drop(dropped);
        assert_eq!(listing(), 0);

        let mut kept = Output::new(&path, false).unwrap();
        kept.create("a.img").unwrap().write_all_at(b"whole", 0).unwrap();
        kept.create("a-flat.img").unwrap();
        assert!(!path.exists());
        kept.commit().unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"whole");
        assert_eq!(listing(), 2);
        assert!(Output::new(&path, false).is_err());
    }
}
