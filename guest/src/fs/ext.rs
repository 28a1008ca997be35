//! ext2, ext3 and ext4, by `rust-fs-ext4`.

use std::sync::Arc;

use fs_ext4::bgd::BlockGroupDescriptor;
use fs_ext4::dir::{DirBlockIter, DirEntryType};
use fs_ext4::extent::collect_all;
use fs_ext4::features::Incompat;
use fs_ext4::fs::Filesystem;
use fs_ext4::fs_core_bridge::CoreDevice;
use fs_ext4::indirect::map_logical_any;
use fs_ext4::indirect_mut::collect_for_free;
use fs_ext4::inode::{Inode, InodeFlags, S_IFDIR, S_IFLNK, S_IFMT, S_IFREG};
use fs_ext4::superblock::{EXT4_ERROR_FS, EXT4_VALID_FS};
use vdisk_core::{CowDisk, Disk, Error, ErrorKind, Result};

use super::device::Device;
use super::edit::Changer;
use super::resolve::split;
use super::text::{as_text, unix_time};
use super::volume::{Driver, Vitals};
use super::{DirEntry, Edit, FileKind, FsState, Place, Stat, Unix};

/// Bytes of a directory: a million of the longest names, and more.
const MOST_OF_DIRECTORY: u64 = 1 << 29;
/// Removed files in use at once.
const MOST_ORPHANS: usize = 1 << 16;
/// Bytes of a file whose blocks are mapped the old way that are written anew for a change in it.
const REWRITTEN: u64 = 64 << 20;

/// Where the content of the file at `path`, without links in it, stands on the volume. Runs that
/// were never written are left out; `None` where blocks are not mapped by extents.
///
/// # Errors
/// As reading the file.
pub(crate) fn places(disk: Arc<dyn Disk>, path: &[u8]) -> Result<Option<Vec<Place>>> {
    let device = Device::read_only(disk);
    device.run(0, || {
        let ext = Ext::mount(device.clone())?;
        let (_, inode) = ext.inode(path)?;
        if kind(&inode) != FileKind::File || !inode.has_extents() {
            return Ok(None);
        }
        not_encrypted(&inode)?;
        let size = ext.0.sb.block_size();
        let disk = CoreDevice::new(device.clone());
        let mut places = Vec::new();
        for extent in collect_all(&inode.block, &disk, size).map_err(error)? {
            // This way the checksums of the tree are looked at.
            let logical = u64::from(extent.logical_block);
            let mapped = ext.0.map_inode_logical(&inode, logical).map_err(error)?;
            if extent.uninitialized || mapped != Some(extent.physical_block) {
                continue;
            }
            let block = u64::from(size);
            let start = extent.physical_block.saturating_mul(block);
            let end = start.saturating_add(u64::from(extent.length) * block);
            places.push((logical * block, start..end));
        }
        Ok(Some(places))
    })
}

/// Removes the files of the volume whose last names went while they were open; nothing may wait in
/// its journal. After an error, and where the crate does not know how, some of them are still there.
///
/// # Errors
/// [`ErrorKind::Unsupported`] where the crate would do it by halves, before anything is changed;
/// damage; the disk's.
pub(crate) fn remove_orphans(disk: Arc<CowDisk>) -> Result<()> {
    let device = Device::read_only(disk.clone());
    device.run(0, || Ext::mount(device.clone())?.insist_on_plain_orphans(&device))?;
    let device = Device::writable(disk);
    // The crate does that when it mounts a volume for writing.
    device.run(0, || Ext::mount(device.clone())?.0.finish().map_err(error))
}

/// A file of a volume that is not mounted: its own journal may be waiting for a replay.
#[derive(Debug)]
pub(crate) struct ExtFile {
    device: Arc<Device>,
    inode: Inode,
    block_size: u32,
}

impl ExtFile {
    /// The file with this inode, one of those that the file system keeps for itself.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where there is none; the disk's.
    pub(crate) fn open(disk: Arc<dyn Disk>, number: u32) -> Result<Self> {
        let device = Device::read_only(disk);
        let (inode, block_size) = device.run(0, || {
            let disk = CoreDevice::new(device.clone());
            let head = fs_ext4::superblock::Superblock::read(&disk).map_err(error)?;
            // Group 0 is described in the block behind the superblock's.
            let size = usize::from(head.desc_size).clamp(32, 1024);
            let block = u64::from(head.block_size());
            let at = (1024_u64.checked_div(block).unwrap_or_default() + 1) * block;
            let mut raw = vec![0; size];
            device.fetch(&mut raw, at)?;
            let group = BlockGroupDescriptor::parse(&raw, head.desc_size).map_err(error)?;
            let wrong = || Error::corrupt("ext4 inode", number.into(), "it is not in the table");
            let index = number.checked_sub(1).filter(|index| *index < head.inodes_per_group);
            let size = u64::from(head.inode_size);
            let within = index.map(|index| u64::from(index) * size).ok_or_else(wrong)?;
            let table = group.inode_table;
            let start = table.checked_mul(head.block_size().into()).ok_or_else(wrong)?;
            let mut raw = vec![0; usize::from(head.inode_size)];
            device.fetch(&mut raw, start.checked_add(within).ok_or_else(wrong)?)?;
            Ok((Inode::parse(&raw).map_err(error)?, head.block_size()))
        })?;
        Ok(Self { device, inode, block_size })
    }

    /// Its length in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.inode.size
    }

    /// The block of the volume that holds its block `number`; `None` for a hole.
    ///
    /// # Errors
    /// Damage; the disk's.
    pub(crate) fn block(&self, number: u64) -> Result<Option<u64>> {
        let Inode { block, flags, .. } = &self.inode;
        self.device.run(0, || {
            let disk = CoreDevice::new(self.device.clone());
            map_logical_any(block, *flags, &disk, self.block_size, number).map_err(error)
        })
    }
}

pub(super) struct Ext(Filesystem);

impl Ext {
    fn mount(device: Arc<Device>) -> Result<Self> {
        Filesystem::mount(Arc::new(CoreDevice::new(device))).map(Self).map_err(error)
    }

    fn inode(&self, path: &[u8]) -> Result<(u32, Inode)> {
        let number = self.0.lookup_path_bytes(path).map_err(error)?;
        let (inode, _) = self.0.read_inode_verified(number).map_err(error)?;
        Ok((number, inode))
    }

    fn directory(&self, path: &[u8]) -> Result<u32> {
        self.0.lookup_path_bytes(path).map_err(error)
    }

    /// Fails unless all files that wait to be removed are such that the crate removes whole.
    fn insist_on_plain_orphans(&self, device: &Arc<Device>) -> Result<()> {
        let unsupported =
            |what: &str| Err(Error::unsupported(format!("{what} wait to be removed")));
        let mut next = self.0.sb.last_orphan;
        for _ in 0..MOST_ORPHANS {
            if next == 0 {
                return Ok(());
            }
            let raw = self.0.read_inode_raw(next).map_err(error)?;
            let inode = Inode::parse(&raw).map_err(error)?;
            if kind(&inode) == FileKind::Directory {
                // The crate goes on counting them as directories.
                return unsupported("directories");
            }
            if is_mapped_the_old_way(&inode) {
                if inode.links_count != 0 {
                    // The crate leaves the blocks behind their ends.
                    return unsupported("ends of files whose blocks are mapped the old way");
                }
                if !self.is_mapped_within_its_size(&inode, device)? {
                    return unsupported("blocks behind the end of a file");
                }
            }
            // The time of its removal is the number of the next one.
            let link = raw.get(0x14..).and_then(<[u8]>::first_chunk).copied().unwrap_or_default();
            next = u32::from_le_bytes(link);
        }
        unsupported("too many files")
    }

    /// Whether a file whose blocks are mapped the old way has none behind its end.
    fn is_mapped_within_its_size(&self, inode: &Inode, device: &Arc<Device>) -> Result<bool> {
        let size = self.0.sb.block_size();
        let sectors = u64::from(size) / 512;
        let xattr = if inode.file_acl == 0 { 0 } else { sectors };
        if inode.blocks == xattr {
            // A short link has its target in the place of pointers.
            return Ok(true);
        }
        let Ok(blocks) = u32::try_from(inode.size.div_ceil(size.into())) else { return Ok(false) };
        let disk = CoreDevice::new(device.clone());
        let tree = collect_for_free(&inode.block, size, blocks, &disk).map_err(error)?;
        let data: u64 = tree.data_runs.iter().map(|run| u64::from(run.len)).sum();
        let mapped = data + tree.indirect_blocks.len() as u64;
        Ok(mapped.saturating_mul(sectors).saturating_add(xattr) == inode.blocks)
    }

    /// The entries of a directory whose blocks are mapped the old way, which the crate leaves out.
    fn entries_by_pointers(&self, inode: &Inode) -> Result<Vec<fs_ext4::dir::DirEntry>> {
        let with_kind = self.0.sb.feature_incompat & Incompat::FILETYPE.bits() != 0;
        let mut entries = Vec::new();
        for block in 0..inode.size.div_ceil(self.0.sb.block_size().into()) {
            let Some(at) = self.0.map_inode_logical(inode, block).map_err(error)? else { continue };
            let bytes = self.0.read_block(at).map_err(error)?;
            for entry in DirBlockIter::new(&bytes, with_kind) {
                entries.push(entry.map_err(error)?);
            }
        }
        Ok(entries)
    }
}

impl Driver for Ext {
    fn open(device: Arc<Device>) -> Result<(Self, Vitals)> {
        // The state is that on the disk: a journal is replayed in memory when it is mounted.
        let disk = CoreDevice::new(device.clone());
        let found = fs_ext4::superblock::Superblock::read(&disk).map_err(error)?;
        let recover = found.feature_incompat & Incompat::RECOVER.bits() != 0;
        let state = if recover || found.last_orphan != 0 {
            FsState::Journal
        } else if found.state & EXT4_VALID_FS == 0 || found.state & EXT4_ERROR_FS != 0 {
            FsState::Dirty
        } else {
            FsState::Clean
        };
        let this = Self::mount(device)?;
        let superblock = &this.0.sb;
        let vitals = Vitals {
            label: None,
            state,
            total: superblock.filesystem_bytes().unwrap_or_default(),
            block_size: superblock.block_size(),
        };
        Ok((this, vitals))
    }

    fn used(&self) -> Result<u64> {
        let superblock = &self.0.sb;
        let blocks = superblock.blocks_count.saturating_sub(superblock.free_blocks_count);
        Ok(blocks.saturating_mul(superblock.block_size().into()))
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        let (_, inode) = self.inode(path)?;
        Ok(Stat {
            kind: kind(&inode),
            size: inode.size,
            modified: unix_time(inode.mtime, inode.mtime_nsec),
            created: (inode.crtime != 0)
                .then(|| unix_time(inode.crtime, inode.crtime_nsec))
                .flatten(),
            unix: Some(Unix { mode: inode.mode & 0o7777, uid: inode.uid, gid: inode.gid }),
            attributes: None,
            links: inode.links_count.into(),
        })
    }

    fn read_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>> {
        let (number, inode) = self.inode(path)?;
        not_encrypted(&inode)?;
        if inode.size > MOST_OF_DIRECTORY {
            return Err(Error::new(ErrorKind::Corrupt, "its directory is too large to be one"));
        }
        let entries = if is_mapped_the_old_way(&inode) {
            self.entries_by_pointers(&inode)?
        } else {
            self.0.read_dir_ino(number).map_err(error)?
        };
        let mut listed = Vec::with_capacity(entries.len());
        for entry in entries {
            if matches!(&entry.name[..], b"." | b"..") {
                continue;
            }
            let kind = match entry.file_type {
                DirEntryType::RegFile => FileKind::File,
                DirEntryType::Directory => FileKind::Directory,
                DirEntryType::Symlink => FileKind::Symlink,
                // File systems without the feature do not say it in the directory.
                DirEntryType::Unknown => kind(&self.0.stat_ino(entry.inode).map_err(error)?),
                _ => FileKind::Special,
            };
            listed.push(DirEntry { name: entry.name, kind });
        }
        Ok(listed)
    }

    fn read_at(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let (number, inode) = self.inode(path)?;
        let kind = kind(&inode);
        if kind != FileKind::File {
            return Err(Error::usage(format!("it is no file but a {}", kind.name())));
        }
        not_encrypted(&inode)?;
        self.0.read_ino(number, offset, buf).map_err(error)
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        let (number, inode) = self.inode(path)?;
        if kind(&inode) != FileKind::Symlink {
            return Err(Error::usage("it is no link"));
        }
        not_encrypted(&inode)?;
        self.0.read_link_ino(number).map_err(error)
    }
}

impl Changer for Ext {
    fn edit(device: Arc<Device>, edit: &Edit<'_>) -> Result<()> {
        let this = Self::mount(device)?;
        this.change(edit)?;
        this.0.finish().map_err(error)
    }
}

impl Ext {
    fn change(&self, edit: &Edit<'_>) -> Result<()> {
        match *edit {
            Edit::Create { path, content, unix } => {
                let (directory, name) = parts(path)?;
                let parent = self.directory(directory)?;
                let mode = unix.mode & 0o7777;
                let file = self.0.apply_create_at(parent, name, mode).map_err(error)?;
                self.own(file, unix)?;
                self.write_all(path, file, content)
            }
            Edit::CreateDir { path, unix } => {
                let (directory, name) = parts(path)?;
                let parent = self.directory(directory)?;
                let mode = unix.mode & 0o7777;
                let made = self.0.apply_mkdir_at(parent, name, mode).map_err(error)?;
                self.own(made, unix)
            }
            Edit::Replace { path, content } => {
                let (file, _) = self.inode(path)?;
                self.write_all(path, file, content)
            }
            Edit::Write { path, offset, data } => self.write(path, offset, data),
            Edit::SetLen { path, len } => self.set_len(path, len),
            Edit::Remove { path } => {
                let (directory, name) = parts(path)?;
                let parent = self.directory(directory)?;
                let (_, inode) = self.inode(path)?;
                match kind(&inode) {
                    FileKind::Directory => self.0.apply_rmdir_at(parent, name),
                    _ => self.0.apply_unlink_at(parent, name),
                }
                .map_err(error)
            }
            Edit::Rename { from, to } => {
                let ((from, old), (to, new)) = (parts(from)?, parts(to)?);
                let (from, to) = (self.directory(from)?, self.directory(to)?);
                self.rename(from, old, to, new)
            }
        }
    }

    fn rename(&self, from: u32, old: &[u8], to: u32, new: &[u8]) -> Result<()> {
        match self.0.apply_rename_at(from, old, to, new, false) {
            // Where the new name gives its directory a fifth extent, the crate looks for the old
            // one through a block that it has not written yet. A directory that has the room needs
            // no fifth extent.
            Err(fs_ext4::error::Error::CorruptExtentTree(_)) if from == to => {
                self.0.apply_create_at(to, new, 0).map_err(error)?;
                self.0.apply_unlink_at(to, new).map_err(error)?;
                self.0.apply_rename_at(from, old, to, new, false).map_err(error)
            }
            done => done.map_err(error),
        }
    }

    fn own(&self, inode: u32, unix: Unix) -> Result<()> {
        self.0.apply_chown_ino(inode, unix.uid, unix.gid).map_err(error)?;
        // The owner's change clears set-id bits.
        self.0.apply_chmod_ino(inode, unix.mode & 0o7777).map_err(error)
    }

    fn write_all(&self, path: &[u8], file: u32, content: &[u8]) -> Result<()> {
        let inode = self.0.stat_ino(file).map_err(error)?;
        if !is_mapped_the_old_way(&inode) {
            self.0.apply_truncate_ino(file, 0).map_err(error)?;
            return self.0.apply_pwrite_ino(file, 0, content).map(drop).map_err(error);
        }
        let path = as_text(path).map_err(|_| {
            Error::unsupported("files of ext2 and ext3 with such a name cannot be changed")
        })?;
        self.0.apply_replace_file_content(path, content).map(drop).map_err(error)
    }

    fn write(&self, path: &[u8], offset: u64, data: &[u8]) -> Result<()> {
        let (file, inode) = self.inode(path)?;
        if !is_mapped_the_old_way(&inode) {
            return self.0.apply_pwrite_ino(file, offset, data).map(drop).map_err(error);
        }
        let end = offset.saturating_add(data.len() as u64);
        if end <= inode.size && self.write_in_place(&inode, offset, data)? {
            return Ok(());
        }
        let mut content = self.content(file, end.max(inode.size))?;
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        if let Some(target) = content.get_mut(at..).and_then(|rest| rest.get_mut(..data.len())) {
            target.copy_from_slice(data);
        }
        self.write_all(path, file, &content)
    }

    /// Writes into the blocks that a file mapped the old way has; false, and nothing is done, where
    /// one of them is a hole. Its times stay.
    fn write_in_place(&self, inode: &Inode, offset: u64, data: &[u8]) -> Result<bool> {
        let block = u64::from(self.0.sb.block_size());
        let end = offset.saturating_add(data.len() as u64);
        let (mut pieces, mut rest, mut at) = (Vec::new(), data, offset);
        while at < end {
            let within = at % block;
            let len = (block - within).min(end - at);
            let mapped = self.0.map_inode_logical(inode, at / block).map_err(error)?;
            let cut = usize::try_from(len).ok().and_then(|len| rest.split_at_checked(len));
            let (Some(mapped), Some((piece, after))) = (mapped, cut) else { return Ok(false) };
            pieces.push((mapped.saturating_mul(block).saturating_add(within), piece));
            (rest, at) = (after, at + len);
        }
        for (at, piece) in pieces {
            self.0.dev.write_at(at, piece).map_err(error)?;
        }
        Ok(true)
    }

    fn set_len(&self, path: &[u8], len: u64) -> Result<()> {
        let (file, inode) = self.inode(path)?;
        if !is_mapped_the_old_way(&inode) {
            return self.0.apply_truncate_ino(file, len).map_err(error);
        }
        let content = self.content(file, len)?;
        self.write_all(path, file, &content)
    }

    /// The first `len` bytes of a file, and zeros after its end.
    fn content(&self, file: u32, len: u64) -> Result<Vec<u8>> {
        let whole = usize::try_from(len).ok().filter(|_| len <= REWRITTEN).ok_or_else(|| {
            Error::unsupported(format!(
                "a file of ext2 or ext3 of more than {REWRITTEN} bytes is not changed in part"
            ))
        })?;
        let mut content = vec![0; whole];
        self.0.read_ino(file, 0, &mut content).map_err(error)?;
        Ok(content)
    }
}

fn parts(path: &[u8]) -> Result<(&[u8], &[u8])> {
    split(path).ok_or_else(|| Error::usage("the root directory itself is not changed"))
}

/// Block pointers instead of extents: all files of ext2 and ext3, and old ones of ext4.
fn is_mapped_the_old_way(inode: &Inode) -> bool {
    !inode.has_extents() && !inode.has_inline_data()
}

fn kind(inode: &Inode) -> FileKind {
    match inode.mode & S_IFMT {
        S_IFREG => FileKind::File,
        S_IFDIR => FileKind::Directory,
        S_IFLNK => FileKind::Symlink,
        _ => FileKind::Special,
    }
}

fn not_encrypted(inode: &Inode) -> Result<()> {
    if inode.flags & InodeFlags::ENCRYPT.bits() == 0 {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Encrypted, "it is encrypted (fscrypt)"))
}

fn error(error: fs_ext4::error::Error) -> Error {
    use fs_ext4::error::Error as Ext4;
    let kind = match &error {
        Ext4::NotFound | Ext4::NotADirectory => ErrorKind::NotFound,
        Ext4::IsADirectory | Ext4::NameTooLong => ErrorKind::Usage,
        Ext4::AlreadyExists | Ext4::DirectoryNotEmpty | Ext4::JournalNotReplayed => {
            ErrorKind::Refused
        }
        Ext4::NoSpaceLeftOnDevice => ErrorKind::NoSpace,
        Ext4::UnsupportedIncompat(_)
        | Ext4::UnsupportedRoCompat(_)
        | Ext4::InvalidArgument(_)
        | Ext4::ReadOnly
        | Ext4::TooManyLinks
        | Ext4::Unsupported(_) => ErrorKind::Unsupported,
        _ => ErrorKind::Corrupt,
    };
    Error::new(kind, error.to_string()).caused_by(error)
}
