//! XFS, by `rust-fs-xfs`.

use std::ops::Range;
use std::sync::Arc;

use fs_xfs::Filesystem;
use fs_xfs::extent::Extent;
use fs_xfs::fs::File;
use fs_xfs::inode::FileType;
use fs_xfs::log::{self, LogState};
use fs_xfs::log_write::{self, unmount_op};
use fs_xfs::superblock::Superblock;
use fs_xfs::write::AttrChange;
use vdisk_core::{CowDisk, Disk, Error, ErrorKind, Result};

use super::device::Device;
use super::edit::Changer;
use super::guard::guarded;
use super::resolve::split;
use super::text::unix_time;
use super::volume::{Driver, Vitals};
use super::{DirEntry, Edit, FileKind, FsState, Place, Stat, Unix};

pub(super) struct Xfs(Filesystem);

impl Xfs {
    fn file(&self, path: &[u8]) -> Result<File<'_>> {
        self.0.open_bytes(path).map_err(error)
    }

    fn number(&self, path: &[u8]) -> Result<u64> {
        Ok(self.file(path)?.inode().ino)
    }
}

impl Driver for Xfs {
    fn open(device: Arc<Device>) -> Result<(Self, Vitals)> {
        let this = Self(Filesystem::mount(device).map_err(error)?);
        let superblock = this.0.superblock();
        let vitals = Vitals {
            label: None,
            state: if this.0.was_replayed() { FsState::Journal } else { FsState::Clean },
            total: superblock.dblocks.saturating_mul(superblock.blocksize.into()),
            block_size: superblock.blocksize,
        };
        Ok((this, vitals))
    }

    fn used(&self) -> Result<u64> {
        let superblock = self.0.superblock();
        let blocks = superblock.dblocks.saturating_sub(superblock.fdblocks);
        Ok(blocks.saturating_mul(superblock.blocksize.into()))
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let file = self.file(path)?;
        let inode = file.inode();
        Ok(Stat {
            kind: kind(inode.file_type()),
            size: inode.size,
            modified: unix_time(inode.mtime.sec, inode.mtime.nsec),
            created: (inode.version >= 3)
                .then(|| unix_time(inode.crtime.sec, inode.crtime.nsec))
                .flatten(),
            unix: Some(Unix { mode: inode.permissions(), uid: inode.uid, gid: inode.gid }),
            attributes: None,
            links: inode.nlink,
        })
    }

    fn read_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>> {
        let mut listed = Vec::new();
        for entry in self.file(path)?.entries().map_err(error)? {
            let kind = match entry.ftype {
                Some(known) => kind(Some(known)),
                None => kind(self.0.read_inode(entry.ino).map_err(error)?.file_type()),
            };
            listed.push(DirEntry { name: entry.name, kind });
        }
        Ok(listed)
    }

    fn read_at(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let file = self.file(path)?;
        let kind = kind(file.inode().file_type());
        if kind != FileKind::File {
            return Err(Error::usage(format!("it is no file but a {}", kind.name())));
        }
        file.read_at(offset, buf).map_err(error)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let file = self.file(path)?;
        if !file.is_symlink() {
            return Err(Error::usage("it is no link"));
        }
        file.link_target().map_err(error)
    }
}

/// Where the content of the file at `path`, without links in it, stands on the volume: first bytes in
/// the file, and bytes of the disk. Runs that were never written are left out; `None` for a file
/// whose blocks others may share, or are on another device.
///
/// # Errors
/// As reading the file.
pub(crate) fn places(disk: Arc<dyn Disk>, path: &[u8]) -> Result<Option<Vec<Place>>> {
    let device = Device::read_only(disk);
    device.run(0, || {
        let xfs = Filesystem::mount(device.clone()).map_err(error)?;
        let number = xfs.open_bytes(path).map_err(error)?.inode().ino;
        let (inode, raw) = xfs.read_inode_raw(number).map_err(error)?;
        let elsewhere = inode.has_shared_extents() || inode.is_realtime();
        if kind(inode.file_type()) != FileKind::File || elsewhere {
            return Ok(None);
        }
        let (superblock, block) = (xfs.superblock(), u64::from(xfs.superblock().blocksize));
        let extents = xfs.data_extents(&inode, &raw).map_err(error)?.into_iter();
        let place = |extent: Extent| {
            let start = superblock.fsblock_offset(extent.startblock);
            let end = start.saturating_add(extent.blockcount.saturating_mul(block));
            (extent.startoff.saturating_mul(block), start..end)
        };
        Ok(Some(extents.filter(|extent| !extent.is_unwritten()).map(place).collect()))
    })
}

impl Changer for Xfs {
    fn edit(device: Arc<Device>, edit: &Edit<'_>) -> Result<()> {
        let this = Self(Filesystem::mount_rw(device.clone()).map_err(error)?);
        let made = this.change(edit)?;
        this.0.unmount().map_err(error)?;
        made.map_or(Ok(()), |inode| mend_new_inodes(&device, inode))
    }
}

impl Xfs {
    /// Makes the change; the inode of what is new.
    fn change(&self, edit: &Edit<'_>) -> Result<Option<u64>> {
        match *edit {
            Edit::Create { path, content, unix } => {
                let (parent, name) = self.place(path)?;
                let mode = unix.mode & 0o7777;
                let (file, _) = self.0.create_file(parent, name, mode).map_err(error)?;
                self.own(file, unix)?;
                self.write(file, 0, content)?;
                return Ok(Some(file));
            }
            Edit::CreateDir { path, unix } => {
                let (parent, name) = self.place(path)?;
                let mode = unix.mode & 0o7777;
                let (made, _) = self.0.create_directory(parent, name, mode).map_err(error)?;
                self.own(made, unix)?;
                return Ok(Some(made));
            }
            Edit::Replace { path, content } => {
                let file = self.number(path)?;
                self.0.truncate_to(file, 0).map_err(error)?;
                self.write(file, 0, content)
            }
            Edit::Write { path, offset, data } => self.write(self.number(path)?, offset, data),
            Edit::SetLen { path, len } => {
                self.0.truncate_to(self.number(path)?, len).map(drop).map_err(error)
            }
            Edit::Remove { path } => {
                let (parent, name) = self.place(path)?;
                if self.file(path)?.is_dir() {
                    self.0.remove_directory(parent, name).map(drop).map_err(error)
                } else {
                    self.0.unlink_file(parent, name).map(drop).map_err(error)
                }
            }
            Edit::Rename { from, to } => {
                let ((from, old), (to, new)) = (self.place(from)?, self.place(to)?);
                self.0.rename(from, old, to, new).map(drop).map_err(error)
            }
        }?;
        Ok(None)
    }

    /// The directory's inode, and the name in it.
    fn place<'a>(&self, path: &'a [u8]) -> Result<(u64, &'a [u8])> {
        let (directory, name) =
            split(path).ok_or_else(|| Error::usage("the root directory itself is not changed"))?;
        Ok((self.number(directory)?, name))
    }

    fn write(&self, file: u64, offset: u64, data: &[u8]) -> Result<()> {
        if data.is_empty() {
            return Ok(());
        }
        self.0.write(file, offset, data).map(drop).map_err(error)
    }

    fn own(&self, inode: u64, unix: Unix) -> Result<()> {
        let change = AttrChange {
            permissions: Some(unix.mode & 0o7777),
            uid: Some(unix.uid),
            gid: Some(unix.gid),
            ..AttrChange::default()
        };
        self.0.change_attributes(inode, &change).map(drop).map_err(error)
    }
}

/// Inodes of a chunk, which are made together.
const CHUNK: u64 = 64;
/// Where an inode of version 3 has the next of the inodes nobody names, its checksum and its
/// number; big-endian, but for the checksum.
const NEXT_UNLINKED: usize = 96;
const CHECKSUM: usize = 100;
const NUMBER: usize = 152;
/// No next one.
const NONE: [u8; 4] = [0xff; 4];

/// Makes the inodes of the chunk of `made` say that none comes after them in the list of inodes
/// nobody names. The crate leaves zero there in a new chunk, which `xfs_repair` takes for damage;
/// in a sound one no inode has it.
fn mend_new_inodes(device: &Arc<Device>, made: u64) -> Result<()> {
    let fs = Filesystem::mount(device.clone()).map_err(error)?;
    let mut inode = vec![0; usize::from(fs.superblock().inodesize)];
    for number in made.saturating_sub(CHUNK - 1)..made.saturating_add(CHUNK) {
        let Ok(at) = fs.inode_offset(number) else { continue };
        if fs_core::BlockRead::read_at(&**device, at, &mut inode).is_err() {
            continue;
        }
        let is_new = inode.starts_with(b"IN")
            && inode.get(NUMBER..NUMBER + 8) == Some(&number.to_be_bytes())
            && inode.get(NEXT_UNLINKED..CHECKSUM) == Some(&[0; 4]);
        if !is_new {
            continue;
        }
        put(&mut inode, NEXT_UNLINKED, NONE);
        put(&mut inode, CHECKSUM, [0; 4]);
        let sum = crc32c::crc32c(&inode);
        put(&mut inode, CHECKSUM, sum.to_le_bytes());
        fs_core::BlockDevice::write_at(&**device, at, &inode)
            .map_err(|why| Error::new(ErrorKind::Corrupt, why.to_string()))?;
    }
    Ok(())
}

fn put(bytes: &mut [u8], at: usize, value: [u8; 4]) {
    if let Some(field) = bytes.get_mut(at..at + 4) {
        field.copy_from_slice(&value);
    }
}

fn kind(known: Option<FileType>) -> FileKind {
    match known {
        Some(FileType::Regular) => FileKind::File,
        Some(FileType::Directory) => FileKind::Directory,
        Some(FileType::Symlink) => FileKind::Symlink,
        _ => FileKind::Special,
    }
}

fn error(error: fs_xfs::Error) -> Error {
    use fs_xfs::Error as Xfs;
    let kind = match &error {
        Xfs::NotFound | Xfs::NotADirectory => ErrorKind::NotFound,
        Xfs::NotAFile => ErrorKind::Usage,
        Xfs::AlreadyExists | Xfs::DirectoryNotEmpty | Xfs::DirtyLog => ErrorKind::Refused,
        Xfs::NoSpace(_) => ErrorKind::NoSpace,
        Xfs::UnsupportedFeature(_) | Xfs::ReadOnly | Xfs::RealtimeDeviceAbsent { .. } => {
            ErrorKind::Unsupported
        }
        Xfs::Internal(_) => ErrorKind::Unsupported,
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, error.to_string()).caused_by(error)
}

/// The log of an XFS that was not unmounted, and what is to be known to call it empty.
#[derive(Debug)]
pub(crate) struct XfsLog {
    superblock: Superblock,
    /// Where it stands on the volume, bytes.
    pub(crate) place: Range<u64>,
    /// Where its newest record begins, in sectors of 512 bytes from its beginning.
    pub(crate) newest: u64,
    /// Bytes of a sector of the volume.
    pub(crate) sector: u64,
}

impl XfsLog {
    /// The log on `disk`; `None` where nothing waits in it.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] for a log on another disk or of another byte order; damage; the
    /// disk's.
    pub(crate) fn waiting(disk: Arc<dyn Disk>) -> Result<Option<Self>> {
        let device = Device::read_only(disk);
        device.run(0, || {
            let mut head = vec![0; 4096];
            device.fetch(&mut head, 0)?;
            let superblock = Superblock::parse(&head).map_err(error)?;
            if log::inspect(&*device, &superblock).map_err(error)? != LogState::NeedsReplay {
                return Ok(None);
            }
            if !superblock.is_v5() {
                return Err(Error::unsupported("the log of an XFS of version 4 is not replayed"));
            }
            if superblock.features_log_incompat != 0 {
                return Err(Error::unsupported("its log has features that are not known"));
            }
            let block = u64::from(superblock.blocksize);
            let start = superblock.fsblock_offset(superblock.logstart);
            let end = start.saturating_add(block.saturating_mul(superblock.logblocks.into()));
            let sector = u64::from(superblock.sectsize);
            let newest = log::head(&*device, &superblock).map_err(error)?.prev_block.into();
            Ok(Some(Self { superblock, place: start..end, newest, sector }))
        })
    }

    /// Where the heads of the allocation groups' inodes stand, bytes.
    pub(crate) fn inode_heads(&self) -> impl Iterator<Item = u64> + use<> {
        let blocks = u64::from(self.superblock.agblocks);
        let group = blocks.saturating_mul(self.superblock.blocksize.into());
        let within = 2 * self.sector;
        let groups = 0..u64::from(self.superblock.agcount);
        groups.map(move |number| number.saturating_mul(group).saturating_add(within))
    }

    /// The checksum that the record with this head and these bytes has.
    pub(crate) fn sum(head: &[u8], data: &[u8]) -> Result<u32> {
        guarded(|| Ok(log::record_checksum(head, data)))
    }

    /// Ends the log with the record of an unmount.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where there is no room before the log's end; the disk's.
    pub(crate) fn end(&self, after: Arc<CowDisk>) -> Result<()> {
        let device = Device::writable(after);
        device.run(0, || {
            let ended = log_write::append(&*device, &self.superblock, |_| vec![unmount_op()]);
            ended.map_err(error)?;
            match log::inspect(&*device, &self.superblock).map_err(error)? {
                LogState::CleanlyUnmounted => Ok(()),
                _ => Err(Error::internal("a log that was ended is not")),
            }
        })
    }
}
