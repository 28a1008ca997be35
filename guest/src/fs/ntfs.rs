//! NTFS, by `rust-fs-ntfs`.

mod picture;

use std::sync::{Arc, Mutex, PoisonError};

use fs_ntfs::attr_io::AttrType;
use fs_ntfs::error::{Error as NtfsError, Kind};
use fs_ntfs::fs_core_bridge::CoreDevice;
use fs_ntfs::logfile::{self, LogfileState};
use fs_ntfs::{bitmap, fsck, read, write};
use vdisk_core::{Error, ErrorKind, Result};

use self::picture::Picture;
use super::device::Device;
use super::edit::Changer;
use super::resolve::split;
use super::text::{as_text, filetime};
use super::volume::{Driver, Vitals};
use super::{DirEntry, Edit, FileKind, FsState, Stat};
use crate::ntfs::Boot;

/// `FILE_ATTRIBUTE_SYSTEM`, `_REPARSE_POINT`, `_COMPRESSED` and `_ENCRYPTED`.
const SYSTEM: u32 = 0x4;
const REPARSE_POINT: u32 = 0x400;
const COMPRESSED: u32 = 0x800;
const ENCRYPTED: u32 = 0x4000;

/// Reparse tags: a symbolic link, and a junction or mount point.
const TAG_SYMLINK: u32 = 0xa000_000c;
const TAG_MOUNT_POINT: u32 = 0xa000_0003;

/// What a link of Interix, which ntfs-3g makes too, begins with: a system file whose content goes on
/// with the target in UTF-16.
const INTERIX_LINK: &[u8; 8] = b"IntxLNK\x01";
/// Longest target of such a link, bytes.
const MOST_TARGET: u64 = 2 * 4096;

/// Bytes of a compressed file, which can only be read whole.
const MOST_COMPRESSED: u64 = 256 << 20;
/// Files up to this size may stand in the file record, where bytes in them cannot be changed.
const SMALL: u64 = 4096;
/// Bytes of a name for which there may be no room in the record of its directory.
const LONG_NAME: usize = 64;
/// Bytes of the journal that are looked at in one go.
const LOG_PIECE: usize = 1 << 16;
/// Files up to this size are written whole when they grow: the crate can then put them elsewhere in
/// one run where the list of their runs has no room for another.
const REWRITTEN: u64 = 64 << 20;

type Io = CoreDevice<Arc<Picture>>;

pub(super) struct Ntfs {
    picture: Arc<Picture>,
    /// Bytes of a cluster, and how many there are.
    clusters: (u64, u64),
    /// The compressed file read last, and its content.
    inflated: Mutex<Option<(u64, Vec<u8>)>>,
    /// The path looked up last, and its record: the crate loads its table of cases for each.
    found: Mutex<Option<(String, u64)>>,
}

impl Ntfs {
    fn io(&self) -> Io {
        CoreDevice::new(self.picture.clone())
    }

    /// The number of the file record at `path`.
    fn record(&self, io: &mut Io, path: &[u8]) -> Result<u64> {
        let path = as_text(path)?;
        let mut found = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        match &*found {
            Some((known, record)) if known == path => Ok(*record),
            _ => {
                let record = read::resolve_path(io, path).map_err(error)?;
                *found = Some((path.to_owned(), record));
                Ok(record)
            }
        }
    }
}

impl Driver for Ntfs {
    fn open(device: Arc<Device>) -> Result<(Self, Vitals)> {
        let boot = Boot::read(&**device.disk())?;
        check_index_blocks(&boot)?;
        let picture = Arc::new(Picture::read_only(device)?);
        let mut io = CoreDevice::new(picture.clone());
        let found = read::read_volume_info(&mut io).map_err(error)?;
        let vitals = Vitals {
            label: Some(found.label),
            state: state(&mut io, found.flags)?,
            total: boot.clusters * boot.cluster,
            block_size: found.cluster_size,
        };
        let clusters = (boot.cluster, boot.clusters);
        Ok((
            Self { picture, clusters, inflated: Mutex::default(), found: Mutex::default() },
            vitals,
        ))
    }

    fn used(&self) -> Result<u64> {
        let mut io = self.io();
        let map = bitmap::locate_bitmap_io(&mut io).map_err(error)?;
        let free = bitmap::count_free_io(&mut io, &map).map_err(error)?;
        let (size, count) = self.clusters;
        Ok(count.saturating_sub(free).saturating_mul(size))
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let mut io = self.io();
        let record = self.record(&mut io, path)?;
        let found = read::read_stat(&mut io, record).map_err(error)?;
        let link = tag(&mut io, record, found.file_attributes)?.is_some_and(is_link)
            || interix_target(&mut io, record, &found)?.is_some();
        Ok(Stat {
            kind: match found.is_dir {
                _ if link => FileKind::Symlink,
                true => FileKind::Directory,
                false => FileKind::File,
            },
            size: found.size,
            modified: filetime(found.modified_nt),
            created: filetime(found.created_nt),
            unix: None,
            attributes: Some(found.file_attributes),
            links: found.link_count.into(),
        })
    }

    fn read_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>> {
        let mut io = self.io();
        let record = self.record(&mut io, path)?;
        let mut entries = read::read_dir_entries(&mut io, record).map_err(error)?;
        entries.retain(read::listed_to_hosts);
        let kind = |is_directory| {
            if is_directory { FileKind::Directory } else { FileKind::File }
        };
        Ok(entries
            .into_iter()
            .map(|entry| DirEntry { kind: kind(entry.is_dir), name: entry.name.into_bytes() })
            .collect())
    }

    fn read_at(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let mut io = self.io();
        let record = self.record(&mut io, path)?;
        let found = read::read_stat(&mut io, record).map_err(error)?;
        if found.is_dir {
            return Err(Error::usage("it is no file but a directory"));
        }
        if found.file_attributes & ENCRYPTED != 0 {
            return Err(Error::new(ErrorKind::Encrypted, "it is encrypted (EFS)"));
        }
        if let Some(tag) = tag(&mut io, record, found.file_attributes)? {
            return Err(Error::unsupported(format!(
                "its content stands elsewhere (reparse tag {tag:#010x}: a link, CompactOS, \
                 deduplication, a cloud store)"
            )));
        }
        if found.file_attributes & COMPRESSED != 0 {
            return self.read_compressed(&mut io, record, found.size, offset, buf);
        }
        let bytes =
            read::read_attribute_range(&mut io, record, AttrType::Data, None, offset, buf.len())
                .map_err(error)?;
        Ok(copy(&bytes, buf))
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let mut io = self.io();
        let record = self.record(&mut io, path)?;
        let found = read::read_stat(&mut io, record).map_err(error)?;
        if let Some(target) = interix_target(&mut io, record, &found)? {
            return Ok(target.into_bytes());
        }
        let value =
            read::read_attribute_value_if_present(&mut io, record, AttrType::ReparsePoint, None)
                .map_err(error)?
                .unwrap_or_default();
        fs_ntfs::reparse_link_target(&value)
            .map(String::into_bytes)
            .ok_or_else(|| Error::usage("it is no link"))
    }

    /// A relative target comes with `/`; others name a drive, which may be any volume.
    fn link_inside(&self, target: Vec<u8>) -> Result<Vec<u8>, Vec<u8>> {
        if target.contains(&b':') || target.contains(&b'\\') { Err(target) } else { Ok(target) }
    }
}

impl Ntfs {
    fn read_compressed(
        &self,
        io: &mut Io,
        record: u64,
        size: u64,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<usize> {
        if size > MOST_COMPRESSED {
            return Err(Error::unsupported(format!(
                "it is compressed and has more than {MOST_COMPRESSED} bytes"
            )));
        }
        let mut kept = self.inflated.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|(known, _)| *known != record) {
            let content = read::read_attribute_value(io, record, AttrType::Data, None);
            *kept = Some((record, content.map_err(error)?));
        }
        let content = kept.as_ref().map(|(_, content)| &content[..]).unwrap_or_default();
        let from = usize::try_from(offset).unwrap_or(usize::MAX);
        Ok(copy(content.get(from..).unwrap_or_default(), buf))
    }
}

impl Changer for Ntfs {
    fn edit(device: Arc<Device>, edit: &Edit<'_>) -> Result<()> {
        let io = &mut CoreDevice::new(Arc::new(Picture::writable(device)?));
        match *edit {
            Edit::Create { path, content, .. } => {
                let (directory, name) = parts(path)?;
                let owner = like(io, directory)?;
                with_company(io, directory, name, |io| {
                    write::create_file_io(io, directory, name).map(drop).map_err(refusal)
                })?;
                secure(io, as_text(path)?, owner)?;
                if content.is_empty() {
                    return Ok(());
                }
                write::write_file_contents_io(io, as_text(path)?, content).map(drop)
            }
            Edit::CreateDir { path, .. } => {
                let (directory, name) = parts(path)?;
                let owner = write::read_security_id_io(io, directory).map_err(error)?;
                with_company(io, directory, name, |io| {
                    write::mkdir_io(io, directory, name).map(drop).map_err(refusal)
                })?;
                return secure(io, as_text(path)?, owner);
            }
            Edit::Replace { path, content } => {
                write::write_file_contents_io(io, as_text(path)?, content).map(drop)
            }
            Edit::Write { path, offset, data } => {
                return write_at(io, as_text(path)?, offset, data);
            }
            Edit::SetLen { path, len } => return set_len(io, as_text(path)?, len),
            Edit::Remove { path } => write::remove_io(io, as_text(path)?),
            Edit::Rename { from, to } => return rename(io, from, to),
        }
        .map_err(refusal)
    }
}

/// Refuses clusters larger than an index block: the crate then misses names in directories of more
/// than one block.
fn check_index_blocks(boot: &Boot) -> Result<()> {
    let Boot { cluster, index: index_block, .. } = *boot;
    if index_block as u64 >= cluster {
        return Ok(());
    }
    Err(Error::unsupported(format!(
        "NTFS with clusters of {cluster} bytes, larger than its index blocks of {index_block}, is \
         not read"
    )))
}

/// How the volume was left, with the flags of `$Volume`.
fn state(io: &mut Io, flags: u16) -> Result<FsState> {
    if fsck::hibernation_io(io).map_err(error)?.is_some() || may_resume(io)? {
        return Ok(FsState::Hibernated);
    }
    if log_state(io)?.needs_replay() {
        return Ok(FsState::Journal);
    }
    Ok(if flags & read::VOLUME_IS_DIRTY != 0 { FsState::Dirty } else { FsState::Clean })
}

/// Whether the hibernation file is of a resume that was begun, which Windows offers to try again, or
/// leads to another disk's. The crate, and ntfs-3g, know only those that nobody has begun.
fn may_resume(io: &mut Io) -> Result<bool> {
    let record = match read::resolve_path(io, "/hiberfil.sys") {
        Ok(record) => record,
        Err(e) if e.kind() == Kind::NotFound => return Ok(false),
        Err(e) => return Err(error(e)),
    };
    let begin =
        read::read_attribute_range(io, record, AttrType::Data, None, 0, 4).map_err(error)?;
    Ok([b"rstr", b"link"].iter().any(|mark| begin.eq_ignore_ascii_case(*mark)))
}

/// What the journal holds. The crate's own way wants it in one piece, which it often is not on
/// volumes that Windows made.
fn log_state(io: &mut Io) -> Result<LogfileState> {
    const LOG: u64 = 2;
    let size = read::read_stat(io, LOG).map_err(error)?.size;
    let mut read = |at: u64, len: usize| {
        read::read_attribute_range(io, LOG, AttrType::Data, None, at, len)
            .ok()
            .filter(|bytes| bytes.len() == len)
    };
    let mut at = 0;
    while at < size {
        let len = usize::try_from(size - at).unwrap_or(LOG_PIECE).min(LOG_PIECE);
        match read(at, len) {
            Some(bytes) if bytes.iter().all(|byte| *byte == 0xff) => at += len as u64,
            _ => return Ok(logfile::state_of_nonempty(&mut read)),
        }
    }
    Ok(LogfileState::Empty)
}

/// The reparse tag, where there is one.
fn tag(io: &mut Io, record: u64, attributes: u32) -> Result<Option<u32>> {
    if attributes & REPARSE_POINT == 0 {
        return Ok(None);
    }
    let value = read::read_attribute_value_if_present(io, record, AttrType::ReparsePoint, None)
        .map_err(error)?;
    Ok(value.and_then(|value| value.first_chunk().map(|tag| u32::from_le_bytes(*tag))))
}

/// Where a link of Interix leads.
fn interix_target(io: &mut Io, record: u64, found: &read::Stat) -> Result<Option<String>> {
    let begin = INTERIX_LINK.len() as u64;
    let fits = found.size > begin && found.size <= begin + MOST_TARGET;
    if found.is_dir || found.file_attributes & SYSTEM == 0 || !fits {
        return Ok(None);
    }
    let len = usize::try_from(found.size).unwrap_or_default();
    let content = read::read_attribute_range(io, record, AttrType::Data, None, 0, len);
    let content = content.map_err(error)?;
    let Some(target) = content.strip_prefix(INTERIX_LINK) else { return Ok(None) };
    let units: Vec<u16> = target
        .chunks_exact(2)
        .filter_map(|two| Some(u16::from_le_bytes(*two.first_chunk()?)))
        .collect();
    Ok(String::from_utf16(&units).ok())
}

fn is_link(tag: u32) -> bool {
    matches!(tag, TAG_SYMLINK | TAG_MOUNT_POINT)
}

fn parts(path: &[u8]) -> Result<(&str, &str)> {
    let (directory, name) =
        split(path).ok_or_else(|| Error::usage("the root directory itself is not changed"))?;
    Ok((as_text(directory)?, as_text(name)?))
}

/// The security id a new file in `directory` takes: that of a file beside it, or the directory's.
fn like(io: &mut Io, directory: &str) -> Result<Option<u32>> {
    let record = read::resolve_path(io, directory).map_err(error)?;
    let entries = read::read_dir_entries(io, record).map_err(error)?;
    let beside = entries.iter().find(|entry| !entry.is_dir && read::listed_to_hosts(entry));
    let from = match beside {
        Some(entry) => format!("{}/{}", directory.trim_end_matches('/'), entry.name),
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

fn write_at(io: &mut Io, path: &str, offset: u64, data: &[u8]) -> Result<()> {
    let record = read::resolve_path(io, path).map_err(error)?;
    let size = read::read_stat(io, record).map_err(error)?.size;
    let end = offset.saturating_add(data.len() as u64);
    if size <= SMALL || (end > size && end <= REWRITTEN) {
        let mut content =
            read::read_attribute_value(io, record, AttrType::Data, None).map_err(error)?;
        let (start, end) = (usize::try_from(offset), usize::try_from(end));
        let (start, end) = start.ok().zip(end.ok()).unwrap_or_default();
        content.resize(content.len().max(end), 0);
        if let Some(target) = content.get_mut(start..end) {
            target.copy_from_slice(data);
        }
        return write::write_file_contents_io(io, path, &content).map(drop).map_err(refusal);
    }
    if end > size {
        write::grow_nonresident_io(io, path, end).map_err(refusal)?;
    }
    write::write_at_io(io, path, offset, data).map(drop).map_err(refusal)
}

fn set_len(io: &mut Io, path: &str, len: u64) -> Result<()> {
    let record = read::resolve_path(io, path).map_err(error)?;
    let size = read::read_stat(io, record).map_err(error)?.size;
    match len.cmp(&size) {
        std::cmp::Ordering::Less => write::truncate_io(io, path, len).map(drop),
        std::cmp::Ordering::Equal => Ok(()),
        std::cmp::Ordering::Greater if len <= REWRITTEN => return write_at(io, path, len, &[]),
        std::cmp::Ordering::Greater => write::grow_nonresident_io(io, path, len).map(drop),
    }
    .map_err(refusal)
}

/// Within a directory by its own operation; a file into another one by a second name, and the
/// first one goes.
fn rename(io: &mut Io, from: &[u8], to: &[u8]) -> Result<()> {
    let ((old_directory, _), (directory, name)) = (parts(from)?, parts(to)?);
    let from = as_text(from)?;
    if old_directory == directory {
        return write::rename_io(io, from, name).map_err(refusal);
    }
    let record = read::resolve_path(io, from).map_err(error)?;
    if read::read_stat(io, record).map_err(error)?.is_dir {
        return Err(Error::unsupported(
            "on NTFS a directory can be renamed, but not moved to another one",
        ));
    }
    with_company(io, directory, name, |io| {
        write::link_io(io, from, directory, name).map_err(refusal)
    })?;
    write::unlink_io(io, from).map_err(refusal)
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
    let path = format!("{}/{company}", directory.trim_end_matches('/'));
    write::remove_io(io, &path).map_err(refusal)
}

fn copy(bytes: &[u8], buf: &mut [u8]) -> usize {
    let len = bytes.len().min(buf.len());
    if let (Some(target), Some(source)) = (buf.get_mut(..len), bytes.get(..len)) {
        target.copy_from_slice(source);
    }
    len
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
