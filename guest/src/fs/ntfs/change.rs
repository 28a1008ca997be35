//! Changes, most of them by `rust-fs-ntfs`.
//!
//! The crate (0.10.2) changes directories and file records. What it cannot do is done here, where
//! nothing but bytes in place change: content that keeps its clusters, and the copies of a file's
//! size that directories keep.

use std::sync::Arc;

use fs_ntfs::error::{Error as NtfsError, Kind};
use fs_ntfs::fs_core_bridge::CoreDevice;
use fs_ntfs::{read, write};
use vdisk_core::{Error, ErrorKind, Result};

use super::Ntfs;
use super::picture::Picture;
use crate::fs::Edit;
use crate::fs::device::Device;
use crate::fs::edit::Changer;
use crate::fs::resolve::split;
use crate::fs::text::{as_text, shown};
use crate::ntfs::{
    Clusters, DATA, Directory, INDEX_ALLOCATION, Place, ROOT, Record, Runs, Stream, le, le64,
    opened, pieces, put, sealed,
};

/// Bytes of a name for which there may be no room in the record of its directory.
const LONG_NAME: usize = 64;
/// Files up to this size are written whole where they cannot grow in place: the crate can then put
/// them elsewhere in one run where the list of their runs has no room for another.
const REWRITTEN: u64 = 64 << 20;
/// Where a key says how many bytes are allocated, and how many there are.
const SIZES: usize = 0x28;
/// The copy of the first file records.
const MIRROR: u64 = 1;
/// Units of FILETIME in a second, and seconds from its epoch to that of Unix.
const UNITS: u64 = 10_000_000;
const FROM_1601_TO_1970: u64 = 11_644_473_600;

type Io = CoreDevice<Arc<Picture>>;

impl Changer for Ntfs {
    fn edit(device: Arc<Device>, edit: &Edit<'_>) -> Result<()> {
        let change = Change { ntfs: Self::new(device.clone())?, device };
        match *edit {
            Edit::Create { path, content, .. } => change.create(path, content),
            Edit::CreateDir { path, .. } => change.create_directory(path),
            Edit::Replace { path, content } => change.replace(path, content),
            Edit::Write { path, offset, data } => change.write(path, offset, data),
            Edit::SetLen { path, len } => change.set_len(path, len),
            Edit::Remove { path } => {
                let (mut io, path) = change.way(path)?.end();
                write::remove_io(&mut io, &path).map_err(refusal)
            }
            Edit::Rename { from, to } => change.rename(from, to),
        }
    }
}

/// A change under way. What it reads is the volume as it was before.
struct Change {
    device: Arc<Device>,
    ntfs: Ntfs,
}

/// A file or directory as the crate comes to it: the directory it is in, and its name there.
struct Way {
    io: Io,
    directory: String,
    name: String,
}

impl Way {
    /// The device and the whole path.
    fn end(self) -> (Io, String) {
        let path = joined(&self.directory, &self.name);
        (self.io, path)
    }
}

fn joined(directory: &str, name: &str) -> String {
    format!("{}/{name}", directory.trim_end_matches('/'))
}

impl Change {
    /// The way to `path`, in whose directory names or sizes may change.
    fn way(&self, path: &[u8]) -> Result<Way> {
        let (io, mut ways) = self.ways(&[path])?;
        let (directory, name) = ways.pop().unwrap_or_default();
        Ok(Way { io, directory, name })
    }

    /// The same for several paths: their directories and names.
    fn ways(&self, paths: &[&[u8]]) -> Result<(Io, Vec<(String, String)>)> {
        let (mut directories, mut ways) = (Vec::new(), Vec::new());
        for path in paths {
            let (directory, name) = split(path)
                .ok_or_else(|| Error::usage("the root directory itself is not changed"))?;
            let record = self.ntfs.at(directory)?.record.clone();
            self.check_index(&record, directory)?;
            let shown = if record.number == ROOT { None } else { Some(directories.len()) };
            let real = (as_text(directory)?.to_owned(), as_text(name)?.to_owned());
            directories.extend(shown.map(|_| record));
            ways.push((shown, real));
        }
        // A root that itself changes is shown as it is, and the others are below it.
        if directories.len() < ways.len() {
            directories.clear();
        }
        let all_shown = !directories.is_empty();
        let picture = Picture::new(self.device.clone(), &self.ntfs.reader, &directories)?;
        let way = |(shown, (directory, name)): (Option<usize>, (String, String))| match shown {
            Some(number) if all_shown => (format!("/{number}"), name),
            _ => (directory, name),
        };
        Ok((CoreDevice::new(Arc::new(picture)), ways.into_iter().map(way).collect()))
    }

    /// Refuses directories whose index the crate would take for another one, or read in part.
    fn check_index(&self, record: &Record, path: &[u8]) -> Result<()> {
        let cluster = self.ntfs.reader.boot().cluster;
        let block = self.ntfs.reader.directory(record)?.block_len();
        let why = if cluster > block as u64 {
            format!("clusters have {cluster} bytes, more than the {block} of its index blocks")
        } else if self.ntfs.reader.piece_count(record, INDEX_ALLOCATION, "$I30")? > 1 {
            "several file records tell where its index is".to_owned()
        } else {
            return Ok(());
        };
        Err(Error::unsupported(format!("no names are changed in {}: {why}", shown(path)))
            .hint("files in it whose content is not in their file record can be changed"))
    }

    fn create(&self, path: &[u8], content: &[u8]) -> Result<()> {
        let Way { mut io, directory, name } = self.way(path)?;
        let (io, directory, name) = (&mut io, &directory[..], &name[..]);
        let owner = like(io, directory)?;
        with_company(io, directory, name, |io| {
            write::create_file_io(io, directory, name).map(drop).map_err(refusal)
        })?;
        let path = joined(directory, name);
        secure(io, &path, owner)?;
        if content.is_empty() {
            return Ok(());
        }
        write::write_file_contents_io(io, &path, content).map(drop).map_err(refusal)
    }

    fn create_directory(&self, path: &[u8]) -> Result<()> {
        let Way { mut io, directory, name } = self.way(path)?;
        let (io, directory, name) = (&mut io, &directory[..], &name[..]);
        let owner = write::read_security_id_io(io, directory).map_err(error)?;
        with_company(io, directory, name, |io| {
            write::mkdir_io(io, directory, name).map(drop).map_err(refusal)
        })?;
        secure(io, &joined(directory, name), owner)
    }

    /// Within a directory by the crate's own operation; a file into another one by a second name,
    /// and the first one goes.
    fn rename(&self, from: &[u8], to: &[u8]) -> Result<()> {
        let (here, there) = (split(from).unwrap_or_default(), split(to).unwrap_or_default());
        if here.0 == there.0 {
            let (mut io, from) = self.way(from)?.end();
            return write::rename_io(&mut io, &from, as_text(there.1)?).map_err(refusal);
        }
        if self.ntfs.at(from)?.record.is_directory() {
            return Err(Error::unsupported(
                "on NTFS a directory can be renamed, but not moved to another one",
            ));
        }
        let (mut io, ways) = self.ways(&[from, to])?;
        let [(old_directory, old_name), (directory, name)] = &ways[..] else {
            return Err(Error::internal("two paths lead along two ways"));
        };
        let old = joined(old_directory, old_name);
        with_company(&mut io, directory, name, |io| {
            write::link_io(io, &old, directory, name).map_err(refusal)
        })?;
        write::unlink_io(&mut io, &old).map_err(refusal)
    }

    fn replace(&self, path: &[u8], content: &[u8]) -> Result<()> {
        let Some(mut file) = self.content(path)? else {
            return self.put(path, content);
        };
        let len = content.len() as u64;
        if len < file.size() {
            file.cut(len)?;
        } else if file.grow(len).is_err() {
            file.cut(0)?;
            file.grow(len)?;
        }
        file.write(0, content)?;
        file.finish()
    }

    fn write(&self, path: &[u8], offset: u64, data: &[u8]) -> Result<()> {
        let Some(mut file) = self.content(path)? else {
            return self.rewrite(path, |content| {
                let start = usize::try_from(offset).unwrap_or(usize::MAX);
                let end = start.saturating_add(data.len());
                content.resize(content.len().max(end), 0);
                put(content, start, data)
            });
        };
        let end = offset.saturating_add(data.len() as u64);
        if let Err(error) = file.grow(end) {
            if end > REWRITTEN {
                return Err(error);
            }
            return file.elsewhere(end, offset, data);
        }
        file.write(offset, data)?;
        file.finish()
    }

    fn set_len(&self, path: &[u8], len: u64) -> Result<()> {
        let Some(mut file) = self.content(path)? else {
            return self.rewrite(path, |content| {
                content.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
                Some(())
            });
        };
        if len < file.size() {
            file.cut(len)?;
        } else if let Err(error) = file.grow(len) {
            if len > REWRITTEN {
                return Err(error);
            }
            return file.elsewhere(len, len, &[]);
        }
        file.finish()
    }

    /// Changes a small file, whose content is in its record, as a whole.
    fn rewrite(&self, path: &[u8], change: impl FnOnce(&mut Vec<u8>) -> Option<()>) -> Result<()> {
        let mut content = match &self.ntfs.at(path)?.data {
            Some(Stream::Resident(content)) => content.clone(),
            _ => Vec::new(),
        };
        change(&mut content).ok_or_else(|| Error::internal("a file is written beyond its end"))?;
        self.put(path, &content)
    }

    /// Puts all of the content of a small file, which may move it to clusters.
    fn put(&self, path: &[u8], content: &[u8]) -> Result<()> {
        let (mut io, path) = self.way(path)?.end();
        write::write_file_contents_io(&mut io, &path, content).map(drop).map_err(refusal)
    }

    /// The content of a file, where it is in clusters.
    fn content(&self, path: &[u8]) -> Result<Option<Content<'_>>> {
        let file = self.ntfs.at(path)?;
        let Some(Stream::Clusters(clusters)) = &file.data else { return Ok(None) };
        let picture = Picture::new(self.device.clone(), &self.ntfs.reader, &[])?;
        Ok(Some(Content {
            change: self,
            io: CoreDevice::new(Arc::new(picture)),
            number: file.record.number,
            clusters: clusters.clone(),
            in_one_record: self.ntfs.reader.piece_count(&file.record, DATA, "")? == 1
                && file.record.find(DATA, "").is_some(),
        }))
    }
}

/// The content of a file in clusters, while it is changed.
struct Content<'a> {
    change: &'a Change,
    io: Io,
    /// The number of the file record.
    number: u64,
    /// As they were after the last change of their number.
    clusters: Clusters,
    in_one_record: bool,
}

impl Content<'_> {
    fn size(&self) -> u64 {
        self.clusters.form.size
    }

    /// Makes it no longer than `len`.
    fn cut(&mut self, len: u64) -> Result<()> {
        self.check_record()?;
        write::truncate_by_record_number_io(&mut self.io, self.number, len).map_err(refusal)?;
        self.read_again()
    }

    /// Makes it no shorter than `len`.
    fn grow(&mut self, len: u64) -> Result<()> {
        if len <= self.size() {
            return Ok(());
        }
        self.check_record()?;
        write::grow_nonresident_by_record_number_io(&mut self.io, self.number, len)
            .map_err(refusal)?;
        self.read_again()
    }

    fn write(&mut self, offset: u64, data: &[u8]) -> Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        if let Some(places) = self.clusters.places(offset..end) {
            return write_pieces(&self.change.device, &places, data);
        }
        self.check_record()?;
        write::write_at_by_record_number_io(&mut self.io, self.number, offset, data)
            .map(drop)
            .map_err(refusal)
    }

    /// Puts all of it elsewhere, with `len` bytes and `data` at `offset`.
    fn elsewhere(mut self, len: u64, offset: u64, data: &[u8]) -> Result<()> {
        let whole = |len: u64| vec![0; usize::try_from(len).unwrap_or_default()];
        let mut content = whole(self.size());
        let stream = Stream::Clusters(self.clusters.clone());
        self.change.ntfs.reader.read_stream(&stream, 0, &mut content)?;
        content.resize(whole(len).len(), 0);
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        put(&mut content, start, data)
            .ok_or_else(|| Error::internal("a file is written beyond its end"))?;
        self.cut(0)?;
        self.grow(len)?;
        self.write(0, &content)?;
        self.finish()
    }

    /// Refuses what the crate would change in part: it knows one record of a file.
    fn check_record(&self) -> Result<()> {
        if self.in_one_record {
            return Ok(());
        }
        Err(Error::unsupported(
            "several file records tell where the file is, and its clusters are not changed then",
        ))
    }

    fn read_again(&mut self) -> Result<()> {
        let ntfs = &self.change.ntfs.reader;
        if let Some(Stream::Clusters(clusters)) =
            ntfs.stream(&ntfs.record(self.number)?, DATA, "")?
        {
            self.clusters = clusters;
        }
        Ok(())
    }

    /// Has the file and its directories say when it changed, and how long it is.
    fn finish(mut self) -> Result<()> {
        let now = now();
        let times = write::FileTimes {
            modification: now,
            mft_record_modification: now,
            ..write::FileTimes::default()
        };
        write::set_times_by_record_number_io(&mut self.io, self.number, times).map_err(refusal)?;
        let sizes = [self.clusters.extents.len(), self.size()].map(u64::to_le_bytes).concat();
        let ntfs = &self.change.ntfs;
        for name in ntfs.reader.file_names(&ntfs.reader.record(self.number)?)? {
            let parent = ntfs.reader.record(le64(&name, 0) & 0xFFFF_FFFF_FFFF)?;
            let directory = ntfs.reader.directory(&parent)?;
            let units = name.get(0x42..).unwrap_or_default().as_chunks::<2>().0;
            let units = units.iter().map(|unit| u16::from_le_bytes(*unit));
            let name: Vec<u16> = units.take(le::<1>(&name, 0x40)[0].into()).collect();
            let entry = ntfs.reader.find(&directory, &ntfs.case, &name)?;
            if let Some(entry) =
                entry.filter(|entry| entry.file == self.number && entry.name == name)
            {
                self.change.put_in_key(&directory, entry.place, &sizes)?;
            }
        }
        Ok(())
    }
}

impl Change {
    /// Writes the sizes in a key of a directory, if they are others.
    fn put_in_key(&self, directory: &Directory, place: Place, sizes: &[u8]) -> Result<()> {
        let lost = || Error::internal("an index entry is no longer where it was");
        let ntfs = &self.ntfs.reader;
        let (mut bytes, at, copies) = match place {
            Place::Record(at) => {
                let record = ntfs.record(directory.root_record)?;
                (record.bytes, at, self.copies(record.number)?)
            }
            Place::Block(start, at) => {
                let Some(Stream::Clusters(blocks)) = directory.blocks() else { return Err(lost()) };
                let end = start + directory.block_len() as u64;
                let places = blocks.places(start..end).ok_or_else(lost)?;
                let mut block = vec![0; directory.block_len()];
                ntfs.read_stream(&Stream::Clusters(blocks.clone()), start, &mut block)?;
                (opened(block, b"INDX").ok_or_else(lost)?, at, vec![places])
            }
        };
        if bytes.get(at + SIZES..).is_some_and(|there| there.starts_with(sizes)) {
            return Ok(());
        }
        put(&mut bytes, at + SIZES, sizes).ok_or_else(lost)?;
        let bytes = sealed(&bytes).ok_or_else(lost)?;
        copies.iter().try_for_each(|places| write_pieces(&self.device, places, &bytes))
    }

    /// Where a file record stands, and its copy where it has one.
    fn copies(&self, number: u64) -> Result<Vec<Runs>> {
        let ntfs = &self.ntfs.reader;
        let len = ntfs.boot().record as u64;
        let start = number.saturating_mul(len);
        let mut copies = vec![pieces(ntfs.mft(), start, len)?];
        if let Some(Stream::Clusters(mirror)) = ntfs.stream(&ntfs.record(MIRROR)?, DATA, "")? {
            copies.extend(mirror.places(start..start + len));
        }
        Ok(copies)
    }
}

fn write_pieces(device: &Device, places: &Runs, bytes: &[u8]) -> Result<()> {
    let mut rest = bytes;
    for place in places {
        let len = usize::try_from(place.end - place.start).unwrap_or(usize::MAX);
        let (now, later) = rest.split_at(len.min(rest.len()));
        device.put(now, place.start)?;
        rest = later;
    }
    Ok(())
}

/// This moment as FILETIME.
fn now() -> Option<u64> {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).ok()?;
    let seconds = since.as_secs().checked_add(FROM_1601_TO_1970)?;
    Some(seconds * UNITS + u64::from(since.subsec_nanos() / 100))
}

/// The security id a new file in `directory` takes: that of a file beside it, or the directory's.
fn like(io: &mut Io, directory: &str) -> Result<Option<u32>> {
    let record = read::resolve_path(io, directory).map_err(error)?;
    let entries = read::read_dir_entries(io, record).map_err(error)?;
    let beside = entries.iter().find(|entry| !entry.is_dir && read::listed_to_hosts(entry));
    let from = match beside {
        Some(entry) => joined(directory, &entry.name),
        None => directory.to_owned(),
    };
    write::read_security_id_io(io, &from).map_err(error)
}

fn secure(io: &mut Io, path: &str, id: Option<u32>) -> Result<()> {
    match id {
        Some(id) if id != 0 => write::set_security_id_io(io, path, id).map_err(refusal),
        _ => Ok(()),
    }
}

/// Puts a name into a directory; a long one into an empty directory beside another name, which goes
/// again. Where the record of a directory has no room for its first name, the crate writes the entry
/// that leads to a block over the end of the empty root, and finds its record damaged.
fn with_company(
    io: &mut Io,
    directory: &str,
    name: &str,
    put: impl FnOnce(&mut Io) -> Result<()>,
) -> Result<()> {
    let record = read::resolve_path(io, directory).map_err(error)?;
    let there = read::read_dir_entries(io, record).map_err(error)?;
    if name.len() <= LONG_NAME || there.len() > 1 {
        return put(io);
    }
    let taken = |name: &str| there.iter().any(|entry| entry.name == name);
    let company = if taken("0") { "1" } else { "0" };
    write::create_file_io(io, directory, company).map_err(refusal)?;
    put(io)?;
    write::remove_io(io, &joined(directory, company)).map_err(refusal)
}

/// A failure while reading.
fn error(error: NtfsError) -> Error {
    told(error, ErrorKind::Corrupt)
}

/// A failure while changing: what the crate cannot do comes under the same kind as damage.
fn refusal(error: NtfsError) -> Error {
    told(error, ErrorKind::Unsupported)
}

fn told(error: NtfsError, other: ErrorKind) -> Error {
    let kind = match error.kind() {
        Kind::NotFound | Kind::NotDirectory => ErrorKind::NotFound,
        Kind::IsDirectory | Kind::Invalid => ErrorKind::Usage,
        Kind::Exists | Kind::NotEmpty | Kind::Refused => ErrorKind::Refused,
        Kind::NoSpace => ErrorKind::NoSpace,
        _ => other,
    };
    Error::new(kind, error.message())
}
