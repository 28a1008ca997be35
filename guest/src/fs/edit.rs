//! Changes that are tried before they count.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use vdisk_core::{CowDisk, Disk, Error, ErrorKind, Result};

use super::device::Device;
use super::recognise::recognise;
use super::resolve::{Last, split};
use super::text::shown;
use super::volume::{Driver, Volume, at};
use super::{DirEntry, Edit, FileKind, FsInfo, GuestFs, GuestFsMut, PIECE, Stat};

/// One file system's crate, changing.
pub(super) trait Changer: Driver {
    /// Makes one change on a writable device. What it leaves there when it fails is thrown away.
    fn edit(device: Arc<Device>, edit: &Edit<'_>) -> Result<()>;
}

/// Bytes that one change may touch.
const EDIT_LIMIT: u64 = 1 << 30;

/// A file system, open for changing. Each change is made on a copy over the disk, read back from
/// there by a fresh reader, and only then written to the disk.
pub(super) struct Editor<D> {
    reader: Volume<D>,
    disk: Arc<CowDisk>,
}

impl<D: Changer> Editor<D> {
    pub(super) fn open(disk: Arc<CowDisk>) -> Result<Self> {
        let reader: Volume<D> = reader(disk.clone())?;
        reader.info().state.may_change()?;
        Ok(Self { reader, disk })
    }

    /// Makes the change on `trial` and reads it back.
    fn try_out(&self, edit: &Edit<'_>, trial: &Arc<CowDisk>) -> Result<Volume<D>> {
        let before = Directories::of(edit, &self.reader)?;
        let device = Device::writable(trial.clone());
        device.run(moved(edit), || D::edit(device.clone(), edit)).map_err(given_up)?;
        let after: Volume<D> = reader(trial.clone())?;
        after.info().state.may_change().map_err(not_as_said)?;
        check_result(edit, &self.reader, &after)?;
        if Directories::of(edit, &after)? != before.changed_by(edit) {
            return Err(not_as_said("a directory lists other names than it should"));
        }
        Ok(after)
    }

    /// Carries the change over from `trial`, whole or not at all.
    fn keep(&self, trial: &CowDisk) -> Result<()> {
        let changes = trial.changes()?;
        // The disk may come to its limit of changes: only while what stands there is written again.
        for change in &changes {
            let mut old = vec![0; change.bytes.len()];
            self.disk.read_at(&mut old, change.offset)?;
            self.disk.write_at(&old, change.offset)?;
        }
        changes.iter().try_for_each(|change| self.disk.write_at(&change.bytes, change.offset))
    }
}

/// A fresh reader of what is on `disk` now.
fn reader<D: Driver>(disk: Arc<dyn Disk>) -> Result<Volume<D>> {
    let (volume, kind) = recognise(&*disk)?.ok_or_else(|| not_as_said("it is not recognised"))?;
    Volume::open(Device::read_only(disk), volume, kind)
}

impl<D: Changer> GuestFsMut for Editor<D> {
    fn apply(&mut self, edit: &Edit<'_>) -> Result<()> {
        let path = edit.path();
        let paths = Paths::resolve(edit, &self.reader).map_err(|error| at(error, path))?;
        let edit = paths.edit(edit);
        let disk: Arc<dyn Disk> = self.disk.clone();
        let trial = Arc::new(CowDisk::new(disk, EDIT_LIMIT));
        self.try_out(&edit, &trial).map_err(|error| at(error, edit.path()))?;
        self.keep(&trial)?;
        self.reader = reader(self.disk.clone())?;
        Ok(())
    }
}

impl<D> fmt::Debug for Editor<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Editor").field("reader", &self.reader).finish_non_exhaustive()
    }
}

impl<D: Changer> GuestFs for Editor<D> {
    fn info(&self) -> &FsInfo {
        self.reader.info()
    }

    fn used(&self) -> Result<u64> {
        self.reader.used()
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        self.reader.stat(path)
    }

    fn read_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>> {
        self.reader.read_dir(path)
    }

    fn read_at(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        self.reader.read_at(path, offset, buf)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.reader.read_link(path)
    }

    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.reader.resolve(path)
    }

    fn default_root(&self) -> Result<Vec<u8>> {
        self.reader.default_root()
    }
}

impl<'a> Edit<'a> {
    /// The path that is changed, as given.
    fn path(&self) -> &'a [u8] {
        match self {
            Self::Create { path, .. }
            | Self::CreateDir { path, .. }
            | Self::Replace { path, .. }
            | Self::Write { path, .. }
            | Self::SetLen { path, .. }
            | Self::Remove { path }
            | Self::Rename { from: path, .. } => path,
        }
    }
}

/// The paths of a change, resolved, once it is known to make sense.
struct Paths {
    path: Vec<u8>,
    to: Vec<u8>,
}

impl Paths {
    fn resolve<D: Driver>(edit: &Edit<'_>, reader: &Volume<D>) -> Result<Self> {
        let follows =
            matches!(edit, Edit::Replace { .. } | Edit::Write { .. } | Edit::SetLen { .. });
        let last = if follows { Last::Follow } else { Last::Keep };
        let path = reader.resolved(edit.path(), last)?;
        if split(&path).is_none() {
            return Err(Error::usage("the root directory itself is not changed"));
        }
        match edit {
            Edit::Create { .. } | Edit::CreateDir { .. } => nothing_at(reader, &path)?,
            Edit::Remove { .. } | Edit::Rename { .. } => reader.stat(&path).map(drop)?,
            Edit::Replace { .. } | Edit::Write { .. } | Edit::SetLen { .. } => {
                let stat = reader.stat(&path)?;
                if stat.kind != FileKind::File {
                    return Err(Error::usage(format!("it is no file but a {}", stat.kind.name())));
                }
                if let Edit::Write { offset, .. } = edit
                    && *offset > stat.size
                {
                    return Err(Error::usage(format!("byte {offset} is beyond its end")));
                }
                if let Edit::SetLen { len, .. } = edit
                    && len.saturating_sub(stat.size) > EDIT_LIMIT
                {
                    return Err(Error::refused(format!(
                        "a file does not grow by more than {EDIT_LIMIT} bytes at once"
                    )));
                }
            }
        }
        let to = match edit {
            Edit::Rename { to, .. } => {
                let to = reader.resolved(to, Last::Keep)?;
                nothing_at(reader, &to)?;
                if to.strip_prefix(&path[..]).is_some_and(|rest| rest.starts_with(b"/")) {
                    return Err(Error::usage("a directory is not moved into itself"));
                }
                to
            }
            _ => Vec::new(),
        };
        Ok(Self { path, to })
    }

    /// The same change with these paths.
    fn edit<'a>(&'a self, edit: &Edit<'a>) -> Edit<'a> {
        let path = &self.path[..];
        match *edit {
            Edit::Create { content, unix, .. } => Edit::Create { path, content, unix },
            Edit::CreateDir { unix, .. } => Edit::CreateDir { path, unix },
            Edit::Replace { content, .. } => Edit::Replace { path, content },
            Edit::Write { offset, data, .. } => Edit::Write { path, offset, data },
            Edit::SetLen { len, .. } => Edit::SetLen { path, len },
            Edit::Remove { .. } => Edit::Remove { path },
            Edit::Rename { .. } => Edit::Rename { from: path, to: &self.to },
        }
    }
}

fn nothing_at<D: Driver>(reader: &Volume<D>, path: &[u8]) -> Result<()> {
    match reader.stat(path) {
        Ok(_) => Err(Error::refused(format!("{} is there already", shown(path)))),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let directory = split(path).map_or(&b"/"[..], |(directory, _)| directory);
            match reader.stat(directory)?.kind {
                FileKind::Directory => Ok(()),
                _ => Err(Error::usage(format!("{} is no directory", shown(directory)))),
            }
        }
        Err(error) => Err(error),
    }
}

/// Bytes a change moves.
fn moved(edit: &Edit<'_>) -> u64 {
    match edit {
        Edit::Create { content, .. } | Edit::Replace { content, .. } => content.len() as u64,
        Edit::Write { data, .. } => data.len() as u64,
        Edit::SetLen { len, .. } => *len,
        _ => 0,
    }
}

/// The names in the directories that a change is in, sorted.
#[derive(Debug, PartialEq, Eq)]
struct Directories(Vec<(Vec<u8>, Vec<Vec<u8>>)>);

impl Directories {
    fn of<D: Driver>(edit: &Edit<'_>, reader: &Volume<D>) -> Result<Self> {
        let to = if let Edit::Rename { to, .. } = edit { Some(*to) } else { None };
        let mut listed: Vec<(Vec<u8>, Vec<Vec<u8>>)> = Vec::new();
        for (directory, _) in [Some(edit.path()), to].into_iter().flatten().filter_map(split) {
            if listed.iter().any(|(there, _)| there == directory) {
                continue;
            }
            let mut names: Vec<_> =
                reader.read_dir(directory)?.into_iter().map(|entry| entry.name).collect();
            names.sort_unstable();
            listed.push((directory.to_vec(), names));
        }
        Ok(Self(listed))
    }

    /// What they should hold afterwards.
    fn changed_by(mut self, edit: &Edit<'_>) -> Self {
        match edit {
            Edit::Create { path, .. } | Edit::CreateDir { path, .. } => self.add(path),
            Edit::Remove { path } => self.take(path),
            Edit::Rename { from, to } => {
                self.take(from);
                self.add(to);
            }
            Edit::Replace { .. } | Edit::Write { .. } | Edit::SetLen { .. } => {}
        }
        self
    }

    fn names(&mut self, directory: &[u8]) -> Option<&mut Vec<Vec<u8>>> {
        self.0.iter_mut().find(|(there, _)| there == directory).map(|(_, names)| names)
    }

    fn add(&mut self, path: &[u8]) {
        let Some((directory, name)) = split(path) else { return };
        if let Some(names) = self.names(directory) {
            names.push(name.to_vec());
            names.sort_unstable();
        }
    }

    /// The name may be spelled in other cases than the directory has it.
    fn take(&mut self, path: &[u8]) {
        let Some((directory, name)) = split(path) else { return };
        let Some(names) = self.names(directory) else { return };
        let lower = |name: &[u8]| String::from_utf8_lossy(name).to_lowercase();
        let at = names
            .iter()
            .position(|there| there == name)
            .or_else(|| names.iter().position(|there| lower(there) == lower(name)));
        if let Some(at) = at {
            names.remove(at);
        }
    }
}

/// Whether the file a change is about is as it should be.
fn check_result<D: Driver>(edit: &Edit<'_>, before: &Volume<D>, after: &Volume<D>) -> Result<()> {
    let same = match edit {
        Edit::Create { path, content, .. } | Edit::Replace { path, content } => {
            holds(after, path, content)?
        }
        Edit::CreateDir { path, .. } => {
            after.stat(path)?.kind == FileKind::Directory && after.read_dir(path)?.is_empty()
        }
        Edit::Write { path, offset, data } => {
            let end = offset + data.len() as u64;
            let size = before.stat(path)?.size;
            after.stat(path)?.size == size.max(end)
                && same_range(path, before, path, after, 0..*offset)?
                && same_range(path, before, path, after, end.min(size)..size)?
                && range_is(after, path, *offset, data)?
        }
        Edit::SetLen { path, len } => {
            let size = before.stat(path)?.size;
            after.stat(path)?.size == *len
                && same_range(path, before, path, after, 0..size.min(*len))?
                && reads_as_zeros(after, path, size.min(*len)..*len)?
        }
        Edit::Remove { path } => {
            matches!(after.stat(path), Err(error) if error.kind() == ErrorKind::NotFound)
        }
        Edit::Rename { from, to } => {
            let (old, new) = (before.stat(from)?, after.stat(to)?);
            let gone =
                matches!(after.stat(from), Err(error) if error.kind() == ErrorKind::NotFound);
            gone && old.kind == new.kind
                && (old.kind != FileKind::File
                    || (old.size == new.size && same_range(from, before, to, after, 0..old.size)?))
        }
    };
    if same { Ok(()) } else { Err(not_as_said("it does not read back as it was written")) }
}

fn holds<D: Driver>(volume: &Volume<D>, path: &[u8], content: &[u8]) -> Result<bool> {
    let stat = volume.stat(path)?;
    Ok(stat.kind == FileKind::File
        && stat.size == content.len() as u64
        && range_is(volume, path, 0, content)?)
}

fn range_is<D: Driver>(volume: &Volume<D>, path: &[u8], offset: u64, data: &[u8]) -> Result<bool> {
    let mut at = offset;
    for piece in data.chunks(PIECE) {
        if read_range(volume, path, at, piece.len() as u64)? != piece {
            return Ok(false);
        }
        at += piece.len() as u64;
    }
    Ok(true)
}

fn same_range<D: Driver>(
    old_path: &[u8],
    old: &Volume<D>,
    new_path: &[u8],
    new: &Volume<D>,
    range: Range<u64>,
) -> Result<bool> {
    every_piece(range, |at, len| {
        Ok(read_range(old, old_path, at, len)? == read_range(new, new_path, at, len)?)
    })
}

fn reads_as_zeros<D: Driver>(volume: &Volume<D>, path: &[u8], range: Range<u64>) -> Result<bool> {
    every_piece(range, |at, len| {
        let bytes = read_range(volume, path, at, len)?;
        Ok(bytes.len() as u64 == len && bytes.iter().all(|byte| *byte == 0))
    })
}

fn every_piece(range: Range<u64>, mut check: impl FnMut(u64, u64) -> Result<bool>) -> Result<bool> {
    let mut at = range.start;
    while at < range.end {
        let len = (range.end - at).min(PIECE as u64);
        if !check(at, len)? {
            return Ok(false);
        }
        at += len;
    }
    Ok(true)
}

fn read_range<D: Driver>(volume: &Volume<D>, path: &[u8], at: u64, len: u64) -> Result<Vec<u8>> {
    let mut piece = vec![0; usize::try_from(len).unwrap_or(PIECE).min(PIECE)];
    let there = volume.read_at(path, at, &mut piece)?;
    piece.truncate(there);
    Ok(piece)
}

/// The volume was read before without a fault: what a crate takes for damage while it changes it is
/// more often something it does not know.
fn given_up(error: Error) -> Error {
    match error.kind() {
        ErrorKind::Corrupt => not_as_said(&error).caused_by(error),
        _ => error,
    }
}

/// What a change left is not what it should be.
fn not_as_said(why: impl fmt::Display) -> Error {
    Error::unsupported(format!("the change was tried and thrown away: {why}"))
        .hint("nothing was changed; change the file in the guest")
}
