//! Reading a disk some of whose sectors cannot be read.
//!
//! What reads well is read first, so that a dying disk gives what it can before the sectors that
//! make it fail are tried again: [`Rescue`] is the disk of the first pass, which leaves out pieces
//! that fail; [`Scraper`] then reads those pieces sector by sector, past the page cache.

use std::error::Error as _;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;
use vdisk::{Disk, Error, ErrorKind, Extent, Extents, HostFile, Ranges, Result, Store};

/// What of a window that failed is read on its own in the first pass, bytes.
const PIECE: usize = 64 << 10;
/// Where a buffer begins that a device reads into directly, and a page of the disk.
const ALIGNMENT: usize = 4096;
const PAGE: u64 = ALIGNMENT as u64;
/// In how many places of a disk one is looked for that can be read.
const PLACES: u64 = 16;

/// Errors of the host (`errno`) by which it says that this part of a medium cannot be read: `EIO`,
/// `ENOLINK`, `ENODATA`, `EILSEQ`, `EREMOTEIO`, `ETIMEDOUT`, `EBADMSG`.
const OF_MEDIUM: [i32; 7] = [5, 67, 61, 84, 121, 110, 74];

/// Tells a bad place from a disk that is gone: that one does not read where it did before either.
#[derive(Debug)]
pub(crate) struct Probe {
    direct: Option<Direct>,
    /// Where a page could be read when the job began.
    first: Option<u64>,
    /// Where one could be read last, or [`NOWHERE`].
    last: AtomicU64,
    /// The file holds the disk's bytes as they are.
    is_disk: bool,
}

const NOWHERE: u64 = u64::MAX;

impl Probe {
    /// For the disk `base`; `path` is the file or device that holds its bytes as they are, where one
    /// does. Of an image its own file is asked.
    pub(crate) fn new(base: &dyn Disk, path: Option<&Path>) -> Self {
        let own = base.store(0).and_then(|store| store.host());
        let (file, len) = match path {
            Some(path) => (Some(path), base.len()),
            None => (own.map(HostFile::path), own.and_then(|own| own.len().ok()).unwrap_or(0)),
        };
        let pages = len / PAGE;
        let direct = file.filter(|_| pages > 0).and_then(Direct::open);
        let reads = |at: &u64| direct.as_ref().is_some_and(|one| one.read(*at, ALIGNMENT).is_ok());
        let first = (0..PLACES).map(|place| pages * place / PLACES * PAGE).find(reads);
        Self { direct, first, last: AtomicU64::new(NOWHERE), is_disk: path.is_some() }
    }

    /// Takes note of a range that was read.
    fn was_read(&self, range: Range<u64>) {
        let at = range.start.next_multiple_of(PAGE);
        if self.is_disk && at + PAGE <= range.end {
            self.last.store(at, Ordering::Relaxed);
        }
    }

    /// Fails with `error`'s cause where none of the places can be read any more.
    fn insist_there(&self, error: Error) -> Result<()> {
        let Some(direct) = &self.direct else { return Ok(()) };
        let last = Some(self.last.load(Ordering::Relaxed)).filter(|at| *at != NOWHERE);
        let mut known = last.into_iter().chain(self.first);
        if known.any(|at| direct.read(at, ALIGNMENT).is_ok()) {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Io, "the disk does not answer any more")
            .hint("see to its cable and power, then run the same command to go on")
            .caused_by(error))
    }
}

/// A disk that reads as zeros where it cannot be read, and remembers where that was.
#[derive(Debug)]
pub(crate) struct Rescue {
    base: Arc<dyn Disk>,
    probe: Arc<Probe>,
    failed: Mutex<Vec<Range<u64>>>,
}

impl Rescue {
    /// `base`, of which the ranges `failed` are known not to read.
    pub(crate) fn new(base: Arc<dyn Disk>, probe: Arc<Probe>, failed: &Ranges) -> Self {
        Self { base, probe, failed: Mutex::new(failed.iter().cloned().collect()) }
    }

    /// What could not be read so far.
    pub(crate) fn failed(&self) -> Ranges {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Reads what can be read of a range that failed as a whole.
    fn read_in_pieces(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let mut at = offset;
        for piece in buf.chunks_mut(PIECE) {
            match self.base.read_at(piece, at) {
                Err(error) if is_of_medium(&error) => {
                    self.probe.insist_there(error)?;
                    piece.fill(0);
                    let range = at..at + piece.len() as u64;
                    self.failed.lock().unwrap_or_else(PoisonError::into_inner).push(range);
                }
                read => {
                    read?;
                    self.probe.was_read(at..at + piece.len() as u64);
                }
            }
            at += piece.len() as u64;
        }
        Ok(())
    }
}

/// Whether the medium cannot be read there, rather than something else being wrong.
fn is_of_medium(error: &Error) -> bool {
    let mut cause = error.source();
    while let Some(found) = cause {
        if let Some(error) = found.downcast_ref::<io::Error>() {
            return error.raw_os_error().is_some_and(|number| OF_MEDIUM.contains(&number));
        }
        cause = found.source();
    }
    false
}

impl Disk for Rescue {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        match self.base.read_at(buf, offset) {
            Err(error) if is_of_medium(&error) => self.read_in_pieces(buf, offset),
            read => {
                read?;
                self.probe.was_read(offset..offset + buf.len() as u64);
                Ok(())
            }
        }
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        self.base.extent_at(offset, end)
    }

    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        self.base.extents(range)
    }

    fn store(&self, id: usize) -> Option<&Arc<dyn Store>> {
        self.base.store(id)
    }
}

/// Reads single sectors, as often as asked.
#[derive(Debug)]
pub(crate) struct Scraper<'a> {
    base: &'a dyn Disk,
    direct: Option<Direct>,
    probe: &'a Probe,
    sector: u64,
    retries: u32,
}

impl<'a> Scraper<'a> {
    /// For sectors of `sector` bytes, each tried `retries` times more after the first.
    pub(crate) fn new(
        base: &'a dyn Disk,
        path: Option<&Path>,
        probe: &'a Probe,
        sector: u64,
        retries: u32,
    ) -> Self {
        Self { base, direct: path.and_then(Direct::open), probe, sector, retries }
    }

    /// The sectors of `range`, which begins and ends at sectors or at the disk's end.
    pub(crate) fn sectors(&self, range: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<> {
        let sector = self.sector;
        let starts = (range.start / sector..range.end.div_ceil(sector)).map(move |n| n * sector);
        starts.map(move |at| at.max(range.start)..(at + sector).min(range.end))
    }

    /// A sector's bytes, or `None` where it cannot be read, though others can.
    pub(crate) fn read(&self, sector: &Range<u64>) -> Result<Option<Vec<u8>>> {
        let len = usize::try_from(sector.end - sector.start).unwrap_or_default();
        let mut failed = None;
        for _ in 0..=self.retries {
            let mut bytes = vec![0; len];
            match self.base.read_at(&mut bytes, sector.start) {
                Ok(()) => return Ok(Some(bytes)),
                Err(error) if is_of_medium(&error) => failed = Some(error),
                Err(error) => return Err(error),
            }
            // The page cache reads whole pages, so that one bad sector hides those around it.
            if let Some(Ok(bytes)) = self.direct.as_ref().map(|one| one.read(sector.start, len)) {
                return Ok(Some(bytes));
            }
        }
        failed.map_or(Ok(()), |error| self.probe.insist_there(error))?;
        Ok(None)
    }
}

/// A file or device that is read past the page cache.
#[derive(Debug)]
struct Direct(File);

impl Direct {
    fn open(path: &Path) -> Option<Self> {
        let flags = i32::try_from((OFlags::DIRECT | OFlags::NONBLOCK).bits()).ok()?;
        OpenOptions::new().read(true).custom_flags(flags).open(path).ok().map(Self)
    }

    fn read(&self, offset: u64, len: usize) -> io::Result<Vec<u8>> {
        let mut buffer = vec![0; len + ALIGNMENT];
        let skip = buffer.as_ptr().align_offset(ALIGNMENT);
        let aligned = buffer.get_mut(skip..).and_then(|rest| rest.get_mut(..len));
        let aligned = aligned.ok_or(io::ErrorKind::InvalidInput)?;
        self.0.read_exact_at(aligned, offset)?;
        Ok(aligned.to_vec())
    }
}
