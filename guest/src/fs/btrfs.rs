//! Btrfs, by `rust-fs-btrfs`: reading, and bytes changed inside files.

mod subvolume;

use std::sync::Arc;

use fs_btrfs::Filesystem;
use fs_btrfs::inode::{FIRST_FREE_OBJECTID, FileType, Inode};
use fs_btrfs::subvol::PathTarget;
use vdisk_core::{Error, ErrorKind, Result};

use super::device::Device;
use super::edit::Changer;
use super::text::unix_time;
use super::volume::{Driver, Vitals};
use super::{DirEntry, Edit, FileKind, FsState, Stat, Unix};

/// Paths start at the top of the file system, above its subvolumes.
pub(super) struct Btrfs(Filesystem);

impl Btrfs {
    fn target(&self, path: &[u8]) -> Result<PathTarget> {
        self.0.resolve_path_bytes(path).map_err(error)
    }
}

impl Driver for Btrfs {
    fn open(device: Arc<Device>) -> Result<(Self, Vitals)> {
        let this = Self(Filesystem::mount(device).map_err(error)?);
        let superblock = this.0.superblock();
        let vitals = Vitals {
            label: None,
            state: if superblock.has_dirty_log() {
                FsState::Journal
            } else if superblock.has_error_flag() {
                FsState::Dirty
            } else {
                FsState::Clean
            },
            total: superblock.total_bytes,
            block_size: superblock.sectorsize,
        };
        Ok((this, vitals))
    }

    fn used(&self) -> Result<u64> {
        Ok(self.0.superblock().bytes_used)
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let inode = self.target(path)?.inode;
        Ok(Stat {
            kind: kind(&inode),
            size: inode.size,
            modified: unix_time(inode.mtime.sec, inode.mtime.nsec),
            created: unix_time(inode.otime.sec, inode.otime.nsec),
            unix: Some(Unix {
                mode: u16::try_from(inode.permissions() & 0o7777).unwrap_or_default(),
                uid: inode.uid,
                gid: inode.gid,
            }),
            attributes: None,
            links: inode.nlink,
        })
    }

    fn read_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>> {
        let entries = self.0.list_path_bytes(path).map_err(error)?;
        let kind = |entry: &fs_btrfs::dir::DirEntry| match entry.ftype {
            Some(FileType::Regular) => FileKind::File,
            Some(FileType::Directory) => FileKind::Directory,
            Some(FileType::Symlink) => FileKind::Symlink,
            _ if !entry.is_inode() => FileKind::Directory,
            _ => FileKind::Special,
        };
        Ok(entries
            .into_iter()
            .map(|entry| DirEntry { kind: kind(&entry), name: entry.name })
            .collect())
    }

    fn read_at(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let target = self.target(path)?;
        let kind = kind(&target.inode);
        if kind != FileKind::File {
            return Err(Error::usage(format!("it is no file but a {}", kind.name())));
        }
        target.fs(&self.0).read_at(target.inode.ino, offset, buf).map_err(error)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let target = self.target(path)?;
        if kind(&target.inode) != FileKind::Symlink {
            return Err(Error::usage("it is no link"));
        }
        target.fs(&self.0).read_link(target.inode.ino).map_err(error)
    }

    /// The first directory of every subvolume has the same number.
    fn is_top(&self, path: &[u8]) -> Result<bool> {
        Ok(self.target(path)?.inode.ino == FIRST_FREE_OBJECTID)
    }

    fn default_root(&self) -> Result<Vec<u8>> {
        subvolume::default_root(&self.0).map_err(error)
    }
}

impl Changer for Btrfs {
    fn edit(device: Arc<Device>, edit: &Edit<'_>) -> Result<()> {
        let (path, offset, data) = match *edit {
            Edit::Write { path, offset, data } => (path, offset, data),
            Edit::Replace { path, content } => (path, 0, content),
            _ => return Err(only_in_place()),
        };
        let mut this = Self(Filesystem::mount_rw(device).map_err(error)?);
        let target = this.target(path)?;
        let (number, size) = (target.inode.ino, target.inode.size);
        let end = offset.saturating_add(data.len() as u64);
        let replaced_by_other_size = matches!(edit, Edit::Replace { .. }) && end != size;
        if end > size || replaced_by_other_size {
            return Err(only_in_place());
        }
        let mut tree = target.tree;
        let holder = tree.as_mut().unwrap_or(&mut this.0);
        let written = holder.write(number, offset, data).map_err(error)?;
        if written == data.len() { Ok(()) } else { Err(only_in_place()) }
    }
}

fn only_in_place() -> Error {
    Error::unsupported("on Btrfs only bytes inside a file can be changed, not its length or name")
        .hint("change it in the guest")
}

fn kind(inode: &Inode) -> FileKind {
    match inode.file_type() {
        Some(FileType::Regular) => FileKind::File,
        Some(FileType::Directory) => FileKind::Directory,
        Some(FileType::Symlink) => FileKind::Symlink,
        _ => FileKind::Special,
    }
}

fn error(error: fs_btrfs::Error) -> Error {
    use fs_btrfs::Error as Btrfs;
    let kind = match &error {
        Btrfs::NotFound | Btrfs::NotADirectory => ErrorKind::NotFound,
        Btrfs::NotAFile => ErrorKind::Usage,
        Btrfs::DirtyLog => ErrorKind::Refused,
        Btrfs::UnsupportedFeature(_)
        | Btrfs::UnsupportedChecksum(_)
        | Btrfs::UnsupportedProfile(_)
        | Btrfs::ReadOnly => ErrorKind::Unsupported,
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, error.to_string()).caused_by(error)
}
