//! Remembering what is done to files.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tempfile::TempPath;
use vdisk_core::{
    Access, Error, ErrorKind, Host, HostFile, MemFiles, MemStore, Opener, RealHost, Result, Run,
    Store,
};

use super::cut::Recording;

/// Bytes that a disk writes at once or not at all.
pub(super) const SECTOR: u64 = 512;

/// Something that happened to files, which are numbered in the order they were first seen.
#[derive(Clone, Debug)]
pub(super) enum Event {
    /// Whole sectors, as they were after the write.
    Write {
        file: usize,
        at: u64,
        bytes: Vec<u8>,
    },
    Zero {
        file: usize,
        at: u64,
        len: u64,
    },
    SetLen {
        file: usize,
        len: u64,
    },
    Sync {
        file: usize,
    },
    Name {
        path: PathBuf,
        file: usize,
    },
    Unname {
        path: PathBuf,
    },
    SyncFolder {
        path: PathBuf,
    },
}

/// What a host does wrong from some operation on.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    /// Nothing.
    Never,
    /// After that many operations, all fail.
    All(usize),
    /// After that many flushes, flushes fail.
    Syncs(usize),
}

/// Remembers everything that is done to files, and can fail it. Clones share one memory.
#[derive(Clone, Debug)]
pub struct Recorder {
    fault: Fault,
    log: Arc<Mutex<Log>>,
}

#[derive(Debug, Default)]
struct Log {
    recording: Recording,
    /// The files of the host, by device and inode.
    ids: BTreeMap<(u64, u64), usize>,
    syncs: usize,
}

impl Recorder {
    /// Remembers only.
    #[must_use]
    pub fn new() -> Self {
        Self::failing(Fault::Never)
    }

    /// Remembers, and fails what `fault` says.
    #[must_use]
    pub fn failing(fault: Fault) -> Self {
        Self { fault, log: Arc::default() }
    }

    /// The files of a folder in memory, watched. The files themselves are changed.
    #[must_use]
    pub fn over(&self, files: &MemFiles) -> Watched {
        let watch = |(name, store): (String, Arc<MemStore>)| {
            let file = self.log().recording.add((*store).clone(), Some(PathBuf::from(&name)));
            (name, Arc::new(Recorded { inner: store, file, recorder: self.clone() }))
        };
        Watched(files.all().into_iter().map(watch).collect())
    }

    /// Operations so far.
    #[must_use]
    pub fn len(&self) -> usize {
        self.log().recording.events.len()
    }

    /// Whether nothing was changed, nor flushed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What happened so far.
    #[must_use]
    pub fn recording(&self) -> Recording {
        self.log().recording.clone()
    }

    fn log(&self) -> MutexGuard<'_, Log> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The log, if an operation may be done now.
    fn admit(&self) -> io::Result<MutexGuard<'_, Log>> {
        let log = self.log();
        match self.fault {
            Fault::All(most) if log.recording.events.len() >= most => {
                Err(io::Error::other("the power is off"))
            }
            _ => Ok(log),
        }
    }
}

impl Log {
    fn record(&mut self, event: Event) {
        self.recording.events.push(event);
    }

    /// Records the whole sectors that a range touches, as they are now.
    fn record_sectors(
        &mut self,
        inner: &dyn Store,
        file: usize,
        at: u64,
        len: u64,
    ) -> io::Result<()> {
        let start = at / SECTOR * SECTOR;
        let end = (at + len).next_multiple_of(SECTOR).min(inner.len()?);
        let mut bytes = vec![0; (end - start) as usize];
        inner.read_exact_at(&mut bytes, start)?;
        self.record(Event::Write { file, at: start, bytes });
        Ok(())
    }

    /// Remembers the file at `path`, if there is one, which is about to go: or it could not come
    /// back.
    fn know(&mut self, path: &Path) {
        if let Ok(file) = HostFile::open(path) {
            self.number(&file);
        }
    }

    /// The number of an open file of the host; one that is new is remembered as it is.
    fn number(&mut self, file: &HostFile) -> usize {
        if let Some(number) = self.ids.get(&file.id()) {
            return *number;
        }
        // A file that is being made does not have its name yet.
        let named = HostFile::open(file.path()).is_ok_and(|there| there.id() == file.id());
        let path = named.then(|| file.path().canonicalize().expect("a file that is there"));
        let start = if named { copy_of(file).expect("a readable file") } else { MemStore::new("") };
        let number = self.recording.add(start, path);
        self.ids.insert(file.id(), number);
        number
    }
}

/// The file as it is now.
fn copy_of(file: &HostFile) -> io::Result<MemStore> {
    let copy = MemStore::new(file.path());
    let len = file.len()?;
    let mut at = 0;
    while at < len {
        let run = file.run_at(at, len)?;
        if !run.hole {
            let mut bytes = vec![0; run.len as usize];
            file.read_exact_at(&mut bytes, at)?;
            copy.write_all_at(&bytes, at)?;
        }
        at += run.len;
    }
    copy.set_len(len)?;
    Ok(copy)
}

impl Default for Recorder {
    fn default() -> Self {
        Self::new()
    }
}

impl Host for Recorder {
    fn store(&self, file: HostFile) -> Arc<dyn Store> {
        let number = self.log().number(&file);
        Arc::new(Recorded { inner: Arc::new(file), file: number, recorder: self.clone() })
    }

    fn persist(&self, temporary: TempPath, path: &Path, overwrite: bool) -> io::Result<()> {
        let mut log = self.admit()?;
        let file = log.number(&HostFile::open(&temporary).map_err(io::Error::other)?);
        log.know(path);
        RealHost.persist(temporary, path, overwrite)?;
        log.record(Event::Name { path: path.canonicalize()?, file });
        Ok(())
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        let mut log = self.admit()?;
        let real = path.canonicalize()?;
        log.know(path);
        RealHost.remove(path)?;
        log.record(Event::Unname { path: real });
        Ok(())
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        let mut log = self.admit()?;
        log.record(Event::SyncFolder { path: folder.canonicalize()? });
        Ok(())
    }
}

/// A folder in memory whose files are watched.
#[derive(Clone, Debug)]
pub struct Watched(BTreeMap<String, Arc<Recorded>>);

impl Opener for Watched {
    fn open(&self, name: &str, what: &'static str, _access: Access) -> Result<Arc<dyn Store>> {
        match self.0.get(name) {
            Some(store) => Ok(store.clone()),
            None => {
                Err(Error::new(ErrorKind::ParentMissing, format!("{what} {name:?} is not there")))
            }
        }
    }
}

/// A file that is watched.
#[derive(Debug)]
struct Recorded {
    inner: Arc<dyn Store>,
    file: usize,
    recorder: Recorder,
}

impl Store for Recorded {
    fn name(&self) -> &Path {
        self.inner.name()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut log = self.recorder.admit()?;
        self.inner.write_all_at(buf, offset)?;
        log.record_sectors(&*self.inner, self.file, offset, buf.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut log = self.recorder.admit()?;
        self.inner.set_len(len)?;
        log.record(Event::SetLen { file: self.file, len });
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let mut log = self.recorder.admit()?;
        let end = offset + len;
        assert!(end <= self.inner.len()?, "zeroed beyond the end of {}", self.name().display());
        self.inner.zero(offset, len)?;
        let whole = offset.next_multiple_of(SECTOR)..end / SECTOR * SECTOR;
        if whole.is_empty() {
            return log.record_sectors(&*self.inner, self.file, offset, len);
        }
        for edge in [offset..whole.start, whole.end..end] {
            if !edge.is_empty() {
                let len = edge.end - edge.start;
                log.record_sectors(&*self.inner, self.file, edge.start, len)?;
            }
        }
        let len = whole.end - whole.start;
        log.record(Event::Zero { file: self.file, at: whole.start, len });
        Ok(())
    }

    fn run_at(&self, offset: u64, end: u64) -> io::Result<Run> {
        self.inner.run_at(offset, end)
    }

    fn sync(&self) -> io::Result<()> {
        let mut log = self.recorder.admit()?;
        log.syncs += 1;
        if matches!(self.recorder.fault, Fault::Syncs(most) if log.syncs > most) {
            return Err(io::Error::other("the disk does not answer"));
        }
        log.record(Event::Sync { file: self.file });
        Ok(())
    }
}
