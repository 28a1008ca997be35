//! NTFS: read by [`crate::ntfs`], changed by `rust-fs-ntfs`.

mod change;
mod picture;
mod state;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vdisk_core::{Disk, Error, ErrorKind, Extent, Result};

use super::device::Device;
use super::resolve::split;
use super::text::{filetime, shown};
use super::volume::{Driver, Vitals};
use super::{DirEntry, FileKind, Stat};
use crate::ntfs::{
    Body, DATA, Directory, Ntfs as Reader, REPARSE_POINT, ROOT, Record, STANDARD_INFORMATION,
    Stream, UpCase, VOLUME_NAME, damaged, from_units, le32, le64, text, to_units,
};

/// `FILE_ATTRIBUTE_SYSTEM`, `_REPARSE_POINT` and `_ENCRYPTED`.
const SYSTEM: u32 = 0x4;
const REPARSE: u32 = 0x400;
const ENCRYPTED: u32 = 0x4000;

/// Reparse tags: a symbolic link, and a junction or mount point.
const TAG_SYMLINK: u32 = 0xa000_000c;
const TAG_MOUNT_POINT: u32 = 0xa000_0003;
/// Most bytes of a reparse point.
const MOST_REPARSE: usize = 1 << 15;

/// What a link of Interix, which ntfs-3g makes too, begins with: a system file whose content goes on
/// with the target in UTF-16.
const INTERIX_LINK: &[u8; 8] = b"IntxLNK\x01";
/// Longest target of such a link, bytes.
const MOST_TARGET: usize = 2 * 4096;

/// `$Volume` and `$Bitmap`.
const VOLUME: u64 = 3;
const BITMAP: u64 = 6;
/// The first record of a file that is not NTFS' own.
const FIRST_FILE: u64 = 16;
/// Most bytes of the volume's name.
const MOST_LABEL: usize = 1 << 12;
/// Bytes of the bitmap that are read at once.
const PIECE: usize = 1 << 18;
/// As many paths and directories as are remembered.
const MOST_PATHS: usize = 4096;
const MOST_DIRECTORIES: usize = 16;

impl Disk for Device {
    fn len(&self) -> u64 {
        Self::len(self)
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.fetch(buf, offset)
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        self.disk().extent_at(offset, end)
    }
}

pub(super) struct Ntfs {
    reader: Reader<Arc<Device>>,
    case: UpCase,
    known: Mutex<Known>,
}

/// What was looked up before.
#[derive(Default)]
struct Known {
    /// Numbers of file records by path.
    numbers: HashMap<Vec<u8>, u64>,
    directories: HashMap<u64, Arc<Directory>>,
    /// The last file.
    file: Option<Arc<File>>,
}

/// A file, a directory or a link, as its records tell of it.
struct File {
    record: Record,
    attributes: u32,
    /// When it was made and changed, as FILETIME.
    created: u64,
    modified: u64,
    data: Option<Stream>,
}

impl Ntfs {
    fn new(device: Arc<Device>) -> Result<Self> {
        let reader = Reader::open(device)?;
        let case = UpCase::read(&reader)?;
        Ok(Self { reader, case, known: Mutex::default() })
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The number of the file record at `path`.
    fn number(&self, path: &[u8]) -> Result<u64> {
        let mut number = ROOT;
        let ends = path.iter().enumerate().skip(1).filter(|(_, byte)| **byte == b'/');
        for end in ends.map(|(at, _)| at).chain([path.len()]) {
            let path = path.get(..end).unwrap_or_default();
            let Some((_, name)) = split(path) else { continue };
            let known = self.known().numbers.get(path).copied();
            number = match known {
                Some(known) => known,
                None => self.below(number, name)?,
            };
            let numbers = &mut self.known().numbers;
            if numbers.len() >= MOST_PATHS {
                numbers.clear();
            }
            numbers.insert(path.to_vec(), number);
        }
        Ok(number)
    }

    /// The number of the file record that `name` in a directory stands for.
    fn below(&self, directory: u64, name: &[u8]) -> Result<u64> {
        let nothing = || Error::new(ErrorKind::NotFound, format!("there is no {}", shown(name)));
        let directory = match self.directory(directory) {
            Err(error) if error.kind() == ErrorKind::Usage => return Err(nothing()),
            directory => directory?,
        };
        let name = to_units(name).ok_or_else(nothing)?;
        let found = self.reader.find(&directory, &self.case, &name)?.ok_or_else(nothing)?;
        let sequence = self.file(found.file)?.record.sequence();
        if found.sequence != 0 && found.sequence != sequence {
            let at = self.reader.record_place(found.file);
            let what = format!("record {} is of another file than its name says", found.file);
            return Err(damaged("NTFS file record", at, what));
        }
        Ok(found.file)
    }

    fn directory(&self, number: u64) -> Result<Arc<Directory>> {
        let known = self.known().directories.get(&number).cloned();
        if let Some(known) = known {
            return Ok(known);
        }
        let directory = Arc::new(self.reader.directory(&self.file(number)?.record)?);
        let directories = &mut self.known().directories;
        if directories.len() >= MOST_DIRECTORIES {
            directories.clear();
        }
        directories.insert(number, directory.clone());
        Ok(directory)
    }

    fn file(&self, number: u64) -> Result<Arc<File>> {
        let known = self.known().file.clone();
        if let Some(known) = known.filter(|known| known.record.number == number) {
            return Ok(known);
        }
        let file = Arc::new(self.read_file(number)?);
        self.known().file = Some(file.clone());
        Ok(file)
    }

    fn read_file(&self, number: u64) -> Result<File> {
        let record = self.reader.record(number)?;
        let wrong = |what: &str| {
            let at = self.reader.record_place(number);
            damaged("NTFS file record", at, format!("record {number} {what}"))
        };
        if !record.in_use() || record.base() != number {
            return Err(wrong("is of no file"));
        }
        let facts = match record.find(STANDARD_INFORMATION, "").map(|found| found.body) {
            Some(Body::Resident(range)) => record.bytes.get(range).unwrap_or_default(),
            _ => return Err(wrong("has no $STANDARD_INFORMATION")),
        };
        let (created, modified, attributes) = (le64(facts, 0), le64(facts, 8), le32(facts, 32));
        let data = self.reader.stream(&record, DATA, "")?;
        Ok(File { record, attributes, created, modified, data })
    }

    fn at(&self, path: &[u8]) -> Result<Arc<File>> {
        self.file(self.number(path)?)
    }

    /// What stands in the file's reparse point, where there is one.
    fn reparse(&self, file: &File) -> Result<Option<Vec<u8>>> {
        if file.attributes & REPARSE == 0 {
            return Ok(None);
        }
        let stream = self.reader.stream(&file.record, REPARSE_POINT, "")?;
        stream.map(|stream| self.reader.whole_stream(&stream, MOST_REPARSE)).transpose()
    }

    /// Where a link of Interix leads.
    fn interix_target(&self, file: &File) -> Result<Option<Vec<u8>>> {
        let Some(data) = &file.data else { return Ok(None) };
        let begin = INTERIX_LINK.len();
        let len = usize::try_from(data.size()).unwrap_or(usize::MAX);
        let fits = len > begin && len <= begin + MOST_TARGET;
        if file.record.is_directory() || file.attributes & SYSTEM == 0 || !fits {
            return Ok(None);
        }
        let content = self.reader.whole_stream(data, len)?;
        let Some(target) = content.strip_prefix(INTERIX_LINK) else { return Ok(None) };
        let units: Vec<u16> =
            target.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
        Ok(Some(from_units(&units)))
    }

    fn label(&self) -> Result<String> {
        let record = self.reader.record(VOLUME)?;
        let Some(name) = self.reader.stream(&record, VOLUME_NAME, "")? else {
            return Ok(String::new());
        };
        Ok(text(&self.reader.whole_stream(&name, MOST_LABEL)?))
    }
}

impl Driver for Ntfs {
    fn open(device: Arc<Device>) -> Result<(Self, Vitals)> {
        let ntfs = Self::new(device)?;
        let boot = *ntfs.reader.boot();
        let vitals = Vitals {
            label: Some(ntfs.label()?),
            state: ntfs.state()?,
            total: boot.clusters * boot.cluster,
            block_size: u32::try_from(boot.cluster).unwrap_or_default(),
        };
        Ok((ntfs, vitals))
    }

    fn used(&self) -> Result<u64> {
        let boot = self.reader.boot();
        let bitmap = self.reader.stream(&self.reader.record(BITMAP)?, DATA, "")?;
        let bitmap = bitmap.ok_or_else(|| damaged("NTFS $Bitmap", 0, "it has no content"))?;
        let (mut used, mut at) = (0_u64, 0_u64);
        let mut piece = vec![0; PIECE];
        while at * 8 < boot.clusters {
            let len = self.reader.read_stream(&bitmap, at, &mut piece)?;
            if len == 0 {
                return Err(damaged(
                    "NTFS $Bitmap",
                    0,
                    "it tells of fewer clusters than there are",
                ));
            }
            let bytes = piece.get(..len).unwrap_or_default();
            used += bytes.iter().map(|byte| u64::from(byte.count_ones())).sum::<u64>();
            at += len as u64;
            // Bits behind the last cluster are set, or not.
            let beyond = (at * 8).saturating_sub(boot.clusters);
            let behind =
                bytes.iter().rev().flat_map(|byte| (0..8).rev().map(move |bit| byte >> bit));
            let beyond = usize::try_from(beyond).unwrap_or_default();
            used -= behind.take(beyond).filter(|bit| bit & 1 == 1).count() as u64;
        }
        Ok(used * boot.cluster)
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let file = self.at(path)?;
        let link = self.reparse(&file)?.as_deref().and_then(tag).is_some_and(is_link)
            || self.interix_target(&file)?.is_some();
        Ok(Stat {
            kind: match file.record.is_directory() {
                _ if link => FileKind::Symlink,
                true => FileKind::Directory,
                false => FileKind::File,
            },
            size: file.data.as_ref().map_or(0, Stream::size),
            modified: filetime(file.modified),
            created: filetime(file.created),
            unix: None,
            attributes: Some(file.attributes),
            links: u32::try_from(file.record.links()).unwrap_or_default(),
        })
    }

    fn read_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>> {
        let directory = self.directory(self.number(path)?)?;
        let names = self.reader.names(&directory)?.into_iter();
        let shown = names.filter(|one| !one.is_short && one.file >= FIRST_FILE);
        Ok(shown
            .map(|one| DirEntry {
                name: from_units(&one.name),
                kind: if one.is_directory { FileKind::Directory } else { FileKind::File },
            })
            .collect())
    }

    fn read_at(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let file = self.at(path)?;
        if file.record.is_directory() {
            return Err(Error::usage("it is no file but a directory"));
        }
        if file.attributes & ENCRYPTED != 0 {
            return Err(Error::new(ErrorKind::Encrypted, "it is encrypted (EFS)"));
        }
        if let Some(tag) = self.reparse(&file)?.as_deref().and_then(tag) {
            return Err(Error::unsupported(format!(
                "its content stands elsewhere (reparse tag {tag:#010x}: a link, CompactOS, \
                 deduplication, a cloud store)"
            )));
        }
        let Some(data) = &file.data else { return Ok(0) };
        self.reader.read_stream(data, offset, buf)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let file = self.at(path)?;
        if let Some(target) = self.interix_target(&file)? {
            return Ok(target);
        }
        fs_ntfs::reparse_link_target(&self.reparse(&file)?.unwrap_or_default())
            .map(String::into_bytes)
            .ok_or_else(|| Error::usage("it is no link"))
    }

    /// A relative target comes with `/`; others name a drive, which may be any volume.
    fn link_inside(&self, target: Vec<u8>) -> Result<Vec<u8>, Vec<u8>> {
        if target.contains(&b':') || target.contains(&b'\\') { Err(target) } else { Ok(target) }
    }
}

/// The tag of a reparse point.
fn tag(reparse: &[u8]) -> Option<u32> {
    reparse.first_chunk().map(|tag| u32::from_le_bytes(*tag))
}

fn is_link(tag: u32) -> bool {
    matches!(tag, TAG_SYMLINK | TAG_MOUNT_POINT)
}
