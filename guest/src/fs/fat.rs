//! FAT12, FAT16 and FAT32, by `fatfs`.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use fatfs::{Dir, File, FileAttributes, FileSystem, FsOptions};
use jiff::tz::Offset;
use lru::LruCache;
use vdisk_core::{Error, ErrorKind, Result};

use super::device::Device;
use super::edit::Changer;
use super::resolve::split;
use super::text::{as_text, unix_time};
use super::volume::{Driver, Vitals};
use super::{DirEntry, Edit, FileKind, FsState, Stat};

/// The crate's handle belongs to one thread, so it is made for each operation: it costs a sector.
pub(super) struct Fat(Arc<Device>);

/// The file system, mounted for one operation.
struct Mounted {
    files: FileSystem<Stream>,
    device: Arc<Device>,
    /// Where the entry `..` of a new directory was written.
    dots: Arc<AtomicU64>,
}

type Entry<'a> = fatfs::DirEntry<'a, Stream>;

impl Fat {
    fn mounted(&self) -> Result<Mounted> {
        Mounted::mount(self.0.clone())
    }
}

impl Mounted {
    fn mount(device: Arc<Device>) -> Result<Self> {
        let options = FsOptions::new().time_provider(&CLOCK);
        let dots = Arc::new(AtomicU64::new(0));
        let stream = Stream::new(device.clone(), dots.clone());
        let files = FileSystem::new(stream, options).map_err(error)?;
        Ok(Self { files, device, dots })
    }

    /// The directory at `path`.
    fn directory(&self, path: &[u8]) -> Result<Dir<'_, Stream>> {
        match as_text(path)?.trim_matches('/') {
            "" => Ok(self.files.root_dir()),
            path => self.files.root_dir().open_dir(path).map_err(error),
        }
    }

    /// The entry at `path`; `None` for the root, which has none.
    fn entry(&self, path: &[u8]) -> Result<Option<Entry<'_>>> {
        let Some((directory, name)) = split(path) else { return Ok(None) };
        let name = as_text(name)?;
        let upper = name.to_uppercase();
        let is_it = |entry: &Entry<'_>| {
            entry.file_name().to_uppercase() == upper
                || entry.short_file_name().to_uppercase() == upper
        };
        for entry in self.directory(directory)?.iter() {
            let entry = entry.map_err(error)?;
            if is_it(&entry) && !is_dot(&entry.file_name()) {
                return Ok(Some(entry));
            }
        }
        Err(Error::new(ErrorKind::NotFound, "not found"))
    }

    fn file(&self, path: &[u8]) -> Result<File<'_, Stream>> {
        match self.entry(path)? {
            Some(entry) if !entry.is_dir() => Ok(entry.to_file()),
            _ => Err(Error::usage("it is no file but a directory")),
        }
    }
}

impl Driver for Fat {
    fn open(device: Arc<Device>) -> Result<(Self, Vitals)> {
        let len = device.len();
        let this = Mounted::mount(device.clone())?;
        let flags = this.files.read_status_flags().map_err(error)?;
        let vitals = Vitals {
            label: None,
            state: if flags.dirty() || flags.io_error() { FsState::Dirty } else { FsState::Clean },
            total: len,
            block_size: this.files.cluster_size(),
        };
        Ok((Self(device), vitals))
    }

    fn used(&self) -> Result<u64> {
        let stats = self.mounted()?.files.stats().map_err(error)?;
        let clusters = stats.total_clusters().saturating_sub(stats.free_clusters());
        Ok(u64::from(clusters) * u64::from(stats.cluster_size()))
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let mounted = self.mounted()?;
        let Some(entry) = mounted.entry(path)? else {
            let attributes = FileAttributes::DIRECTORY.bits().into();
            return Ok(Stat {
                kind: FileKind::Directory,
                size: 0,
                modified: None,
                created: None,
                unix: None,
                attributes: Some(attributes),
                links: 1,
            });
        };
        Ok(Stat {
            kind: kind(&entry),
            size: entry.len(),
            modified: time(entry.modified()),
            created: time(entry.created()),
            unix: None,
            attributes: Some(entry.attributes().bits().into()),
            links: 1,
        })
    }

    fn read_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>> {
        let mounted = self.mounted()?;
        let mut listed = Vec::new();
        for entry in mounted.directory(path)?.iter() {
            let entry = entry.map_err(error)?;
            let name = entry.file_name();
            if !is_dot(&name) {
                listed.push(DirEntry { kind: kind(&entry), name: name.into_bytes() });
            }
        }
        Ok(listed)
    }

    fn read_at(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mounted = self.mounted()?;
        let mut file = mounted.file(path)?;
        let there = file.seek(SeekFrom::Start(offset)).map_err(error)?;
        if there < offset {
            return Ok(0);
        }
        file.read(buf).map_err(error)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.mounted()?.entry(path)?;
        Err(Error::usage("it is no link"))
    }
}

impl Changer for Fat {
    fn edit(device: Arc<Device>, edit: &Edit<'_>) -> Result<()> {
        let this = Mounted::mount(device)?;
        this.change(edit)?;
        this.files.unmount().map_err(error)
    }
}

impl Mounted {
    fn change(&self, edit: &Edit<'_>) -> Result<()> {
        match *edit {
            Edit::Create { path, content, .. } => {
                let (directory, name) = self.place(path)?;
                let mut file = directory.create_file(name).map_err(error)?;
                file.write_all(content).and_then(|()| file.flush()).map_err(error)
            }
            Edit::CreateDir { path, .. } => {
                let (directory, name) = self.place(path)?;
                directory.create_dir(name).map(drop).map_err(error)?;
                let in_root = split(path).is_none_or(|(parent, _)| parent == b"/");
                self.mend_dots(in_root)
            }
            Edit::Replace { path, content } => {
                let mut file = self.file(path)?;
                file.truncate()
                    .and_then(|()| file.write_all(content))
                    .and_then(|()| file.flush())
                    .map_err(error)
            }
            Edit::Write { path, offset, data } => {
                let mut file = self.file(path)?;
                file.seek(SeekFrom::Start(offset))
                    .and_then(|_| file.write_all(data))
                    .and_then(|()| file.flush())
                    .map_err(error)
            }
            Edit::SetLen { path, len } => set_len(&mut self.file(path)?, len).map_err(error),
            Edit::Remove { path } => {
                let (directory, name) = self.place(path)?;
                directory.remove(name).map_err(error)
            }
            Edit::Rename { from, to } => {
                let (old_directory, new_directory) = (split(from), split(to));
                let moved =
                    old_directory.map(|(path, _)| path) != new_directory.map(|(path, _)| path);
                if moved && self.entry(from)?.is_some_and(|entry| entry.is_dir()) {
                    // Its entry `..` would still name the old one.
                    return Err(Error::unsupported(
                        "on FAT a directory can be renamed, but not moved to another one",
                    ));
                }
                let ((old, from), (new, to)) = (self.place(from)?, self.place(to)?);
                old.rename(from, &new, to).map_err(error)
            }
        }
    }

    /// Puts the entries `.` and `..` of a new directory as they must be: the crate gives them long
    /// names, and the root's `..` on FAT32 the root's cluster instead of none.
    fn mend_dots(&self, in_root: bool) -> Result<()> {
        let parent = self.dots.load(Ordering::Relaxed);
        let start = parent.checked_sub(3 * ENTRY).ok_or_else(dots_missing)?;
        let mut entries = [[0; ENTRY_LEN]; 4];
        self.device.fetch(entries.as_flattened_mut(), start)?;
        let [long, dot, other_long, mut dots] = entries;
        let is_long = |entry: &[u8; ENTRY_LEN]| entry.get(11) == Some(&LONG_NAME);
        let named = |entry: &[u8; ENTRY_LEN], name| entry.starts_with(name);
        if !(is_long(&long) && named(&dot, DOT) && is_long(&other_long) && named(&dots, DOT_DOT)) {
            return Err(dots_missing());
        }
        if in_root {
            for half in [20..22, 26..28] {
                dots.get_mut(half).map(|cluster| cluster.fill(0)).ok_or_else(dots_missing)?;
            }
        }
        let mended = [dot, dots, [0; ENTRY_LEN], [0; ENTRY_LEN]];
        fs_core::BlockDevice::write_at(&*self.device, start, mended.as_flattened())
            .map_err(|why| Error::new(ErrorKind::Corrupt, why.to_string()))
    }

    /// The directory, and the name in it.
    fn place<'a>(&self, path: &'a [u8]) -> Result<(Dir<'_, Stream>, &'a str)> {
        let (directory, name) =
            split(path).ok_or_else(|| Error::usage("the root directory itself is not changed"))?;
        Ok((self.directory(directory)?, as_text(name)?))
    }
}

/// Bytes of a directory entry.
const ENTRY_LEN: usize = 32;
const ENTRY: u64 = ENTRY_LEN as u64;
/// The attributes of an entry that is part of a long name.
const LONG_NAME: u8 = 0x0f;
/// The short names of the entries for the directory itself and the one it is in.
const DOT: &[u8] = b".          ";
const DOT_DOT: &[u8] = b"..         ";

fn dots_missing() -> Error {
    Error::unsupported("a new directory is not as it was expected")
}

fn set_len(file: &mut File<'_, Stream>, len: u64) -> io::Result<()> {
    let end = file.seek(SeekFrom::End(0))?;
    if len < end {
        file.seek(SeekFrom::Start(len))?;
        file.truncate()?;
    }
    let mut missing = len.saturating_sub(end);
    while missing > 0 {
        let step = usize::try_from(missing).unwrap_or(ZEROS.len()).min(ZEROS.len());
        file.write_all(ZEROS.get(..step).unwrap_or(ZEROS))?;
        missing -= step as u64;
    }
    file.flush()
}

const ZEROS: &[u8] = &[0; 4096];

fn is_dot(name: &str) -> bool {
    matches!(name, "." | "..")
}

fn kind(entry: &Entry<'_>) -> FileKind {
    if entry.is_dir() { FileKind::Directory } else { FileKind::File }
}

/// FAT keeps local time of an unknown zone: taken for UTC.
fn time(found: fatfs::DateTime) -> Option<SystemTime> {
    let small = |value: u16| i8::try_from(value).ok();
    let date = jiff::civil::Date::new(
        i16::try_from(found.date.year).ok()?,
        small(found.date.month)?,
        small(found.date.day)?,
    )
    .ok()?;
    let time = jiff::civil::Time::new(
        small(found.time.hour)?,
        small(found.time.min)?,
        small(found.time.sec)?,
        i32::from(found.time.millis) * 1_000_000,
    )
    .ok()?;
    let there = Offset::UTC.to_timestamp(date.to_datetime(time)).ok()?;
    unix_time(there.as_second(), u32::try_from(there.subsec_nanosecond()).ok()?)
}

/// The time of now for what is written.
#[derive(Debug)]
struct Clock;

static CLOCK: Clock = Clock;

impl fatfs::TimeProvider for Clock {
    fn get_current_date(&self) -> fatfs::Date {
        self.get_current_date_time().date
    }

    fn get_current_date_time(&self) -> fatfs::DateTime {
        let now = Offset::UTC.to_datetime(jiff::Timestamp::now());
        let number = |value: i8| u16::try_from(value).unwrap_or_default();
        fatfs::DateTime {
            date: fatfs::Date {
                year: u16::try_from(now.year()).unwrap_or(1980),
                month: number(now.month()),
                day: number(now.day()),
            },
            time: fatfs::Time {
                hour: number(now.hour()),
                min: number(now.minute()),
                sec: number(now.second()),
                millis: 0,
            },
        }
    }
}

fn error(error: io::Error) -> Error {
    let text = error.to_string();
    let kind = match error.kind() {
        io::ErrorKind::NotFound => ErrorKind::NotFound,
        io::ErrorKind::AlreadyExists => ErrorKind::Refused,
        io::ErrorKind::InvalidInput => ErrorKind::Usage,
        _ if text == "Not a directory" => ErrorKind::NotFound,
        _ if text == "Directory not empty" => ErrorKind::Refused,
        io::ErrorKind::WriteZero => ErrorKind::NoSpace,
        _ if text.contains("No space") => ErrorKind::NoSpace,
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, text).caused_by(error)
}

/// Bytes of a page that is kept: tables are read four bytes at a time.
const PAGE: u64 = 4096;
/// Pages kept: of both tables, of directories and of the file.
const PAGES: NonZeroUsize = NonZeroUsize::MIN.saturating_add(31);

/// The volume as a stream, with the pages used last.
struct Stream {
    device: Arc<Device>,
    at: u64,
    pages: LruCache<u64, Vec<u8>>,
    /// Where the short name `..` was written last.
    dots: Arc<AtomicU64>,
}

impl Stream {
    fn new(device: Arc<Device>, dots: Arc<AtomicU64>) -> Self {
        Self { device, at: 0, pages: LruCache::new(PAGES), dots }
    }

    /// The page that byte `at` is in, from `at` on.
    fn page(&mut self) -> io::Result<&[u8]> {
        let start = self.at / PAGE * PAGE;
        let size = self.device.len().saturating_sub(start).min(PAGE);
        let device = &self.device;
        let page = self.pages.try_get_or_insert(start, || {
            let mut page = vec![0; usize::try_from(size).unwrap_or_default()];
            fs_core::BlockRead::read_at(&**device, start, &mut page)
                .map(|()| page)
                .map_err(io::Error::other)
        })?;
        let skip = usize::try_from(self.at - start).unwrap_or_default();
        Ok(page.get(skip..).unwrap_or_default())
    }
}

impl Read for Stream {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let read = self.page()?.read(buf)?;
        self.at += read as u64;
        Ok(read)
    }
}

impl Write for Stream {
    /// Writes up to the end of a page.
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        let start = self.at / PAGE * PAGE;
        let there = self.device.len().min(start + PAGE).saturating_sub(self.at);
        let len = usize::try_from(there).unwrap_or(buf.len()).min(buf.len());
        let piece = buf.get(..len).unwrap_or_default();
        if piece == DOT_DOT {
            self.dots.store(self.at, Ordering::Relaxed);
        }
        fs_core::BlockDevice::write_at(&*self.device, self.at, piece).map_err(io::Error::other)?;
        let skip = usize::try_from(self.at - start).unwrap_or_default();
        if let Some(page) = self.pages.get_mut(&start)
            && let Some(target) = page.get_mut(skip..skip + len)
        {
            target.copy_from_slice(piece);
        }
        self.at += len as u64;
        Ok(len)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Seek for Stream {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let target = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::End(by) => self.device.len().checked_add_signed(by),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
        };
        self.at = target.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
        Ok(self.at)
    }
}
