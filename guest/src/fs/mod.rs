//! File systems behind one small interface.
//!
//! [`open`] finds out what file system a volume holds and opens it for reading; [`open_mut`] does
//! so for changing, over a [`CowDisk`] that keeps the changes until the caller carries them over.
//!
//! Paths are bytes, with `/` between names, from the root of the volume: Linux names are bytes,
//! NTFS and FAT names are UTF-8 here. Names are compared as the file system does (NTFS and FAT:
//! without regard to case). Links inside a path are followed, never out of the volume; an absolute
//! one begins at the top of the Btrfs subvolume that it is in.

mod btrfs;
mod device;
mod edit;
mod ext;
mod fat;
mod guard;
mod ntfs;
mod recognise;
mod resolve;
mod text;
mod volume;
mod xfs;

use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::SystemTime;

use vdisk_core::{CowDisk, Disk, Error, ErrorKind, Result};

pub(crate) use ext::{ExtFile, places as ext_places, remove_orphans};
pub(crate) use xfs::{XfsLog, places as xfs_places};

use device::Device;
use edit::Editor;
use recognise::recognise;
use text::shown;
use volume::Volume;

/// A run of a file: its first byte in the file, and its bytes on the disk.
type Place = (u64, Range<u64>);

/// The file systems that are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum FsKind {
    /// NTFS.
    Ntfs,
    /// Linux's second extended file system, without a journal.
    Ext2,
    /// The third, with one.
    Ext3,
    /// The fourth, with extents.
    Ext4,
    /// XFS.
    Xfs,
    /// Btrfs.
    Btrfs,
    /// FAT with entries of 12 bits.
    Fat12,
    /// FAT with entries of 16 bits.
    Fat16,
    /// FAT with entries of 32 bits.
    Fat32,
}

impl FsKind {
    /// The name in messages and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Ntfs => "ntfs",
            Self::Ext2 => "ext2",
            Self::Ext3 => "ext3",
            Self::Ext4 => "ext4",
            Self::Xfs => "xfs",
            Self::Btrfs => "btrfs",
            Self::Fat12 => "fat12",
            Self::Fat16 => "fat16",
            Self::Fat32 => "fat32",
        }
    }
}

impl fmt::Display for FsKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// How a volume was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FsState {
    /// Closed in order.
    Clean,
    /// Its journal holds work that is not done in place yet. It reads as if it were done, but for
    /// NTFS and Btrfs, which read as they stand without it.
    Journal,
    /// Marked as not closed in order, or as damaged.
    Dirty,
    /// A hibernated Windows holds parts of it in its memory image.
    Hibernated,
}

impl FsState {
    /// The name in messages and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Journal => "journal",
            Self::Dirty => "dirty",
            Self::Hibernated => "hibernated",
        }
    }

    /// Fails unless the volume may be changed.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`], with the way out.
    pub fn may_change(self) -> Result<()> {
        let (why, way_out) = match self {
            Self::Clean => return Ok(()),
            Self::Journal => (
                "its journal holds work that was never done in place",
                "start the guest once and shut it down, or let its own tool replay the journal \
                 (e2fsck, mount and umount, chkdsk)",
            ),
            Self::Dirty => (
                "it is marked as not closed in order",
                "start the guest once and shut it down, or check it with its own tool (e2fsck, \
                 xfs_repair, fsck.fat, chkdsk)",
            ),
            Self::Hibernated => (
                "Windows is hibernated on it, or was shut down with fast startup",
                "start it and shut it down with: shutdown /s /f /t 0",
            ),
        };
        Err(Error::refused(format!("the file system may not be changed: {why}")).hint(way_out))
    }
}

/// What is known of a volume once it is open.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct FsInfo {
    /// The file system.
    pub kind: FsKind,
    /// The name the user gave it; may be empty.
    pub label: String,
    /// The identity as `blkid` tells it: a UUID, or NTFS's and FAT's serial number.
    pub uuid: String,
    /// How it was left.
    pub state: FsState,
    /// Bytes of the file system.
    pub total: u64,
    /// Bytes of its block or cluster.
    pub block_size: u32,
}

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum FileKind {
    /// A file.
    File,
    /// A directory.
    Directory,
    /// A symbolic link (on NTFS: or a junction).
    Symlink,
    /// A device, a socket, a pipe: nothing with content.
    Special,
}

impl FileKind {
    /// The name in messages and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::File => "file",
            Self::Directory => "directory",
            Self::Symlink => "symlink",
            Self::Special => "special",
        }
    }
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirEntry {
    /// The name; as the volume has it, so it may be one that is not safe on a host.
    pub name: Vec<u8>,
    /// What the directory says it stands for.
    pub kind: FileKind,
}

/// What is known of a file, a directory or a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stat {
    /// What it is.
    pub kind: FileKind,
    /// Bytes of content.
    pub size: u64,
    /// When the content last changed. FAT keeps local time, which is taken for UTC.
    pub modified: Option<SystemTime>,
    /// When it was made.
    pub created: Option<SystemTime>,
    /// Who owns it and what it allows, on file systems of Unix.
    pub unix: Option<Unix>,
    /// `FILE_ATTRIBUTE_*` of Windows, on NTFS and FAT.
    pub attributes: Option<u32>,
    /// Names it has.
    pub links: u32,
}

/// Owner and permission bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unix {
    /// The twelve permission bits.
    pub mode: u16,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
}

/// A file system, open for reading.
pub trait GuestFs: Send + fmt::Debug {
    /// What it is.
    fn info(&self) -> &FsInfo;

    /// Bytes in use, as the file system counts them. May read a good part of its tables.
    ///
    /// # Errors
    /// Damage of the file system; the disk's.
    fn used(&self) -> Result<u64>;

    /// What `path` stands for, without following a link in its last part.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; damage of the file system; the disk's.
    fn stat(&self, path: &[u8]) -> Result<Stat>;

    /// The names in the directory `path`, without `.` and `..`, in the file system's order.
    ///
    /// # Errors
    /// As [`GuestFs::stat`]; [`ErrorKind::Usage`] for what is no directory.
    fn read_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>>;

    /// Reads the file `path` from byte `offset` into `buf`; how many bytes there were, fewer than
    /// asked for only at its end.
    ///
    /// # Errors
    /// As [`GuestFs::stat`]; [`ErrorKind::Usage`] for what has no content;
    /// [`ErrorKind::Encrypted`] and [`ErrorKind::Unsupported`] for content that cannot be told.
    fn read_at(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize>;

    /// Where the link `path` leads, as it says it.
    ///
    /// # Errors
    /// As [`GuestFs::stat`]; [`ErrorKind::Usage`] for what is no link.
    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>>;

    /// The path without links, `.` and `..`; a link in the last part is followed too.
    ///
    /// # Errors
    /// As [`GuestFs::stat`]; [`ErrorKind::Unsupported`] for a link to another volume;
    /// [`ErrorKind::Corrupt`] for links that lead round in circles.
    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>>;

    /// The directory that is mounted where no other is asked for: empty for the top, else a path
    /// that begins with `/`, such as `/@/.snapshots/1/snapshot` for Btrfs' default subvolume.
    ///
    /// # Errors
    /// Damage of the file system; the disk's.
    fn default_root(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// Whether something is there; a link that leads nowhere is not.
    ///
    /// # Errors
    /// As [`GuestFs::stat`], but for [`ErrorKind::NotFound`].
    fn exists(&self, path: &[u8]) -> Result<bool> {
        match self.resolve(path).and_then(|path| self.stat(&path)) {
            Ok(_) => Ok(true),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// All bytes of the file `path`.
    ///
    /// # Errors
    /// As [`GuestFs::read_at`]; [`ErrorKind::Refused`] where it is longer than `limit` bytes.
    fn read(&self, path: &[u8], limit: u64) -> Result<Vec<u8>> {
        let path = self.resolve(path)?;
        let size = self.stat(&path)?.size;
        if size > limit {
            return Err(Error::refused(format!(
                "{} has {size} bytes, more than the {limit} that are read at once",
                shown(&path)
            )));
        }
        // The size is only believed as far as bytes come.
        let mut content = Vec::new();
        let room = usize::try_from(size).unwrap_or_default().min(MOST_RESERVED);
        content.reserve_exact(room + 1);
        loop {
            let have = content.len();
            // One byte more than there should be shows the end.
            let left = usize::try_from(size.saturating_sub(have as u64)).unwrap_or(PIECE);
            let most = PIECE.min(left.saturating_add(1));
            content.resize(have + most, 0);
            let piece = content.get_mut(have..).unwrap_or_default();
            let len = self.read_at(&path, have as u64, piece)?;
            content.truncate(have + len);
            if len < most {
                return Ok(content);
            }
        }
    }
}

/// Bytes that are read at once where all of a file is read.
const PIECE: usize = 1 << 20;
/// Bytes that room is made for at once, where a file says it has more.
const MOST_RESERVED: usize = 256 << 20;

/// One change of a file system. Links are followed in the directory part of paths; in the last
/// part only by [`Edit::Replace`], [`Edit::Write`] and [`Edit::SetLen`].
#[derive(Clone, Copy, Debug)]
pub enum Edit<'a> {
    /// A new file.
    Create {
        /// Its path, where nothing is yet.
        path: &'a [u8],
        /// Its bytes.
        content: &'a [u8],
        /// Its owner and permissions. NTFS takes those of the directory it is in, FAT has none.
        unix: Unix,
    },
    /// A new empty directory.
    CreateDir {
        /// Its path, where nothing is yet.
        path: &'a [u8],
        /// As in [`Edit::Create`].
        unix: Unix,
    },
    /// Other content for a file; all else of it stays.
    Replace {
        /// The file.
        path: &'a [u8],
        /// Its new bytes.
        content: &'a [u8],
    },
    /// Bytes written into a file, which grows where they reach beyond its end.
    Write {
        /// The file.
        path: &'a [u8],
        /// The first byte changed; not beyond the file's end.
        offset: u64,
        /// What is written.
        data: &'a [u8],
    },
    /// Another length for a file; what is new reads as zero.
    SetLen {
        /// The file.
        path: &'a [u8],
        /// Its new length in bytes.
        len: u64,
    },
    /// A file, a link or an empty directory goes.
    Remove {
        /// What goes.
        path: &'a [u8],
    },
    /// Another name or directory for a file, a link or a directory.
    Rename {
        /// Its path.
        from: &'a [u8],
        /// Its new path, where nothing is yet.
        to: &'a [u8],
    },
}

/// A file system, open for changing.
pub trait GuestFsMut: GuestFs {
    /// Makes one change, whole or not at all, and reads it back before it counts.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] where something is in the way, [`ErrorKind::Unsupported`] where the
    /// file system cannot be changed like that, [`ErrorKind::NoSpace`] where it is full; otherwise
    /// as [`GuestFs::stat`]. Nothing was changed then.
    fn apply(&mut self, edit: &Edit<'_>) -> Result<()>;
}

/// Opens the file system on `disk`; `None` where none is recognised.
///
/// # Errors
/// [`ErrorKind::Encrypted`] for BitLocker and LUKS; [`ErrorKind::Unsupported`] for file systems
/// that are recognised but not read, and features of others; damage; the disk's.
pub fn open(disk: Arc<dyn Disk>) -> Result<Option<Box<dyn GuestFs>>> {
    let Some((volume, kind)) = recognise(&*disk)? else { return Ok(None) };
    let device = Device::read_only(disk);
    Ok(Some(match kind {
        FsKind::Ntfs => Box::new(Volume::<ntfs::Ntfs>::open(device, volume, kind)?),
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => {
            Box::new(Volume::<ext::Ext>::open(device, volume, kind)?)
        }
        FsKind::Xfs => Box::new(Volume::<xfs::Xfs>::open(device, volume, kind)?),
        FsKind::Btrfs => Box::new(Volume::<btrfs::Btrfs>::open(device, volume, kind)?),
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => {
            Box::new(Volume::<fat::Fat>::open(device, volume, kind)?)
        }
    }))
}

/// Opens the file system on `disk` for changing; `None` where none is recognised. The changes are
/// in `disk` alone.
///
/// # Errors
/// As [`open`]; [`ErrorKind::Refused`] where it was not closed in order ([`FsState`]).
pub fn open_mut(disk: Arc<CowDisk>) -> Result<Option<Box<dyn GuestFsMut>>> {
    let Some((_, kind)) = recognise(&*disk)? else { return Ok(None) };
    Ok(Some(match kind {
        FsKind::Ntfs => Box::new(Editor::<ntfs::Ntfs>::open(disk)?),
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 => Box::new(Editor::<ext::Ext>::open(disk)?),
        FsKind::Xfs => Box::new(Editor::<xfs::Xfs>::open(disk)?),
        FsKind::Btrfs => Box::new(Editor::<btrfs::Btrfs>::open(disk)?),
        FsKind::Fat12 | FsKind::Fat16 | FsKind::Fat32 => Box::new(Editor::<fat::Fat>::open(disk)?),
    }))
}
