//! The gate: which files an image may make us open.
//!
//! Paths inside images are hostile until proven otherwise. A file that an image names is opened
//! only inside the folder trees that the user's own words allow: the folder of the image, and the
//! folders given outright. Resolution happens in the kernel (`openat2` with `RESOLVE_BENEATH`), so
//! no symbolic link leads out and nothing can be swapped between check and use. Only regular files
//! are opened; a device node or a FIFO is looked at without being opened.

use std::fs::File;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use vdisk_core::{
    Access, Error, ErrorKind, Host, HostFile, Opener, ParentHint, PathStyle, RealHost, Result,
    Store,
};

use crate::locks::Session;
use crate::names::candidates;

const NEVER_OPENED: &str = "devices, FIFOs and folders named by an image are never opened";

/// The folder trees that files named by images may be opened in.
#[derive(Clone, Debug)]
pub struct Gate {
    roots: Vec<PathBuf>,
    host: Arc<dyn Host>,
    locks: Option<Arc<Session>>,
}

/// What became of the candidates for one name.
#[derive(Debug, Default)]
pub(crate) struct Search {
    /// The first file that exists but may not be opened.
    outside: Option<PathBuf>,
    /// The first path that was looked for.
    first: Option<PathBuf>,
}

impl Gate {
    /// A gate that allows the trees of `folders` (which must exist).
    ///
    /// # Errors
    /// The host's, naming the folder.
    pub fn new(folders: impl IntoIterator<Item = PathBuf>) -> Result<Self> {
        let roots = folders.into_iter().map(real_folder).collect::<Result<Vec<_>>>()?;
        Ok(Self { roots, host: Arc::new(RealHost), locks: None })
    }

    /// Lets every file that is opened pass through `host`.
    pub(crate) fn on(mut self, host: Arc<dyn Host>) -> Self {
        self.host = host;
        self
    }

    /// Locks the files it opens, for the job of that session.
    pub(crate) fn with_locks(mut self, locks: Arc<Session>) -> Self {
        self.locks = Some(locks);
        self
    }

    /// The store of an open file, which is locked first.
    ///
    /// # Errors
    /// As [`HostFile::lock`].
    pub(crate) fn store(&self, file: HostFile, access: Access) -> Result<Arc<dyn Store>> {
        if let Some(locks) = &self.locks {
            locks.lock(&file, access)?;
        }
        Ok(self.host.store(file))
    }

    /// Allows one more tree.
    ///
    /// # Errors
    /// The host's.
    pub fn allow(&mut self, folder: PathBuf) -> Result<()> {
        let folder = real_folder(folder)?;
        if !self.roots.contains(&folder) {
            self.roots.push(folder);
        }
        Ok(())
    }

    /// Tries every place that `hint`, found in an image in folder `base`, may mean, in order, and
    /// gives each file that opens to `accept` until it returns a value.
    pub(crate) fn find<T>(
        &self,
        base: &Path,
        hint: &ParentHint,
        access: Access,
        search: &mut Search,
        mut accept: impl FnMut(HostFile) -> Result<Option<T>>,
    ) -> Result<Option<T>> {
        for path in candidates(base, &self.roots, hint.style, &hint.path) {
            if let Some(file) = self.try_open(&path, access, search)?
                && let Some(found) = accept(file)?
            {
                return Ok(Some(found));
            }
        }
        Ok(None)
    }

    /// Opens `path` if it exists within the gate; `None` where it does not.
    fn try_open(
        &self,
        path: &Path,
        access: Access,
        search: &mut Search,
    ) -> Result<Option<HostFile>> {
        search.first.get_or_insert_with(|| path.to_owned());
        if let Some((root, rest)) = self.split(path) {
            match open_beneath(root, &rest, access) {
                // A link leads out of this tree; where to, is looked at below.
                Err(Errno::XDEV | Errno::LOOP) => {}
                opened => return found(opened, &root.join(&rest)),
            }
        }
        let Ok(real) = path.canonicalize() else { return Ok(None) };
        let opened = self.split(&real).map(|(root, rest)| open_beneath(root, &rest, access));
        match opened {
            None | Some(Err(Errno::XDEV | Errno::LOOP)) => {
                search.outside.get_or_insert(real);
                Ok(None)
            }
            Some(opened) => found(opened, &real),
        }
    }

    /// The root that holds `path`, and the path within it.
    fn split(&self, path: &Path) -> Option<(&Path, PathBuf)> {
        self.roots.iter().find_map(|root| {
            let rest = path.strip_prefix(root).ok()?;
            Some((root.as_path(), rest.to_owned()))
        })
    }
}

impl Search {
    /// The error for a name that led to no file; `what` says what it was for, `flag` is the
    /// option that names such a file outright.
    pub(crate) fn failed(self, what: &str, name: &str, image: &Path, flag: &str) -> Error {
        if let Some(outside) = self.outside {
            let folder = outside.parent().unwrap_or(Path::new("/")).display().to_string();
            // To look is not to open.
            let hint = match outside.is_file() {
                true => format!("if you trust it, add --parent-dir {folder}"),
                false => NEVER_OPENED.to_owned(),
            };
            return Error::new(
                ErrorKind::Confined,
                format!(
                    "its {what} {} lies outside the folders that may be opened",
                    outside.display()
                ),
            )
            .in_file(image)
            .hint(hint);
        }
        let looked = self.first.map(|path| format!(" (looked for {} and nearby)", path.display()));
        Error::new(
            ErrorKind::ParentMissing,
            format!("its {what} {name:?} was not found{}", looked.unwrap_or_default()),
        )
        .in_file(image)
        .hint(format!("put it beside the image, or add {flag}"))
    }
}

/// The file at `path`, if it was there to be opened.
fn found(opened: Result<File, Errno>, path: &Path) -> Result<Option<HostFile>> {
    match opened {
        Ok(file) => HostFile::new(file, path).map(Some),
        Err(Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::INVAL) => Ok(None),
        Err(Errno::NODEV) => Err(Error::new(
            ErrorKind::Confined,
            "the image names this, and it is not a regular file",
        )
        .in_file(path)
        .hint(NEVER_OPENED)),
        Err(errno) => Err(Error::io(errno.into(), "open").in_file(path)),
    }
}

fn real_folder(folder: PathBuf) -> Result<PathBuf> {
    folder.canonicalize().map_err(|e| Error::io(e, "find the folder").in_file(folder))
}

/// Opens a regular file below `root` without ever leaving it; `NODEV` for anything else.
fn open_beneath(root: &Path, rest: &Path, access: Access) -> Result<File, Errno> {
    let folder =
        rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    // A path-only handle shows what it is without opening it: opening a FIFO or a device can block
    // or act.
    let handle: OwnedFd = rustix::fs::openat2(
        &folder,
        rest,
        OFlags::PATH | OFlags::CLOEXEC,
        Mode::empty(),
        ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS,
    )?;
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&handle)?.st_mode);
    if kind != FileType::RegularFile {
        return Err(Errno::NODEV);
    }
    let mode = match access {
        Access::Read => OFlags::RDONLY,
        Access::Write => OFlags::RDWR,
    };
    let again = format!("/proc/self/fd/{}", handle.as_raw_fd());
    Ok(rustix::fs::open(again, mode | OFlags::CLOEXEC, Mode::empty())?.into())
}

/// Opens the extents that one image names.
#[derive(Debug)]
pub(crate) struct ExtentOpener<'a> {
    pub(crate) gate: &'a Gate,
    pub(crate) image: &'a Path,
}

impl Opener for ExtentOpener<'_> {
    fn open(&self, name: &str, what: &'static str, access: Access) -> Result<Arc<dyn Store>> {
        let mut search = Search::default();
        let hint = extent_hint(name);
        let found = self.gate.find(&folder_of(self.image), &hint, access, &mut search, |file| {
            self.gate.store(file, access).map(Some)
        })?;
        found.ok_or_else(|| search.failed(what, name, self.image, "--parent-dir DIR"))
    }

    fn locate(&self, name: &str) -> PathBuf {
        let hint = extent_hint(name);
        let mut places = candidates(&folder_of(self.image), &[], hint.style, name).into_iter();
        places.next().unwrap_or_else(|| PathBuf::from(name))
    }
}

fn extent_hint(name: &str) -> ParentHint {
    ParentHint { kind: "extent", style: PathStyle::Native, path: name.to_owned() }
}

/// The folder an image file lies in, absolute where it can be.
pub(crate) fn folder_of(image: &Path) -> PathBuf {
    let real = image.canonicalize().unwrap_or_else(|_| image.to_owned());
    match real.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder.to_owned(),
        _ => PathBuf::from("."),
    }
}
