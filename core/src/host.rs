//! A file or block device of the host.

use std::fs::{File, OpenOptions};
use std::io::{self, IoSliceMut};
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Advice, FallocateFlags, OFlags, SeekFrom};
use rustix::io::{Errno, ReadWriteFlags};

use crate::error::{Error, ErrorKind, Result};
use crate::layer::Access;
use crate::lock::LockedFile;
use crate::store::{Run, Store};

/// Magic numbers of file systems that share blocks between files (`statfs(2)`): XFS, Btrfs,
/// bcachefs, OCFS2.
const SHARING: [u64; 4] = [0x5846_5342, 0x9123_683E, 0xCA45_1A4E, 0x7461_636F];

/// An open host file or block device; all access is at an offset, so that threads may share it.
#[derive(Debug)]
pub struct HostFile {
    file: Arc<LockedFile>,
    path: PathBuf,
    device: bool,
    id: (u64, u64),
    /// A run of data that was found. XFS looks through all extents up to the next hole each time
    /// it is asked for one, so that asking again for each block takes the square of the blocks.
    data: Mutex<Range<u64>>,
}

impl HostFile {
    /// Opens `path` for reading only.
    ///
    /// # Errors
    /// The host's; [`ErrorKind::Refused`] for anything but a regular file or a block device.
    pub fn open(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), OpenOptions::new().read(true))
    }

    /// Opens `path` for reading and writing.
    ///
    /// # Errors
    /// As [`HostFile::open`].
    pub fn open_rw(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_with(path.as_ref(), OpenOptions::new().read(true).write(true))
    }

    /// Opens a block device for reading and writing, for this program alone: a device that is
    /// mounted or otherwise held by the kernel is refused.
    ///
    /// # Errors
    /// As [`HostFile::open`]; [`ErrorKind::InUse`] where something holds the device.
    pub fn open_device_exclusive(path: impl AsRef<Path>) -> Result<Self> {
        Self::open_flagged(path.as_ref(), OpenOptions::new().read(true).write(true), OFlags::EXCL)
            .map_err(|e| {
                e.hint("unmount it and stop what uses it (swap, RAID, LVM), then try again")
            })
    }

    fn open_with(path: &Path, options: &mut OpenOptions) -> Result<Self> {
        Self::open_flagged(path, options, OFlags::empty())
    }

    fn open_flagged(path: &Path, options: &mut OpenOptions, flags: OFlags) -> Result<Self> {
        // Opening a FIFO would wait for its other end, and opening a device can act: so the kind is
        // looked at before, and again after; what comes between must not block either.
        let flags = i32::try_from((flags | OFlags::NONBLOCK).bits()).unwrap_or_default();
        options.custom_flags(flags);
        let metadata = std::fs::metadata(path).map_err(|e| Error::io(e, "open").in_file(path))?;
        refuse_odd_kinds(&metadata, path)?;
        let file = options.open(path).map_err(|e| Error::io(e, "open").in_file(path))?;
        Self::new(file, path)
    }

    /// Wraps a file that is already open; `path` is only its name in messages.
    ///
    /// # Errors
    /// As [`HostFile::open`].
    pub fn new(file: File, path: impl Into<PathBuf>) -> Result<Self> {
        let path = path.into();
        let metadata = file.metadata().map_err(|e| Error::io(e, "stat").in_file(&path))?;
        refuse_odd_kinds(&metadata, &path)?;
        let device = metadata.file_type().is_block_device();
        Ok(Self {
            file: Arc::new(LockedFile::new(file)),
            path,
            device,
            id: (metadata.dev(), metadata.ino()),
            data: Mutex::default(),
        })
    }

    /// The path it was opened by.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is a block device.
    #[must_use]
    pub fn is_device(&self) -> bool {
        self.device
    }

    /// Device and inode: equal for two paths to one file.
    #[must_use]
    pub fn id(&self) -> (u64, u64) {
        self.id
    }

    /// Locks the file for reading, or for reading and writing, as QEMU does: many may read, one may
    /// write. The locks last until the file is closed.
    ///
    /// # Errors
    /// [`ErrorKind::InUse`] where another open file's locks forbid it; the host's.
    pub fn lock(&self, access: Access) -> Result<()> {
        self.file.lock(access, &self.path)
    }

    /// As [`HostFile::lock`], through another open file of the same path that has locks already.
    ///
    /// # Errors
    /// As [`HostFile::lock`].
    pub fn lock_through(&self, other: &LockedFile, access: Access) -> Result<()> {
        other.lock(access, &self.path)
    }

    /// The open file, to keep it open and locked.
    #[must_use]
    pub fn handle(&self) -> Arc<LockedFile> {
        self.file.clone()
    }

    /// Bytes the file takes on its disk; for a device its length.
    ///
    /// # Errors
    /// The host's.
    pub fn allocated(&self) -> io::Result<u64> {
        if self.device { self.len() } else { Ok(self.file().metadata()?.blocks() * 512) }
    }

    /// The file system's preferred block size in bytes, on which shared extents must start and end.
    ///
    /// # Errors
    /// The host's.
    pub fn block_size(&self) -> io::Result<u64> {
        Ok(self.file().metadata()?.blksize())
    }

    /// Whether its file system can let files share blocks, so that a copy of whole blocks by
    /// [`HostFile::copy_range`] moves no bytes.
    #[must_use]
    pub fn shares_blocks(&self) -> bool {
        let found = rustix::fs::fstatfs(self.file()).ok();
        let kind = found.and_then(|found| u64::try_from(found.f_type).ok());
        !self.device && kind.is_some_and(|kind| SHARING.contains(&kind))
    }

    /// Lets the kernel copy up to `len` bytes from `offset` to `to` at `to_offset`, by sharing
    /// them where the file system can. Returns the bytes copied, which may be fewer, or 0 at the
    /// end of this file.
    ///
    /// # Errors
    /// The host's, also where the pair of files cannot be copied this way.
    pub fn copy_range(
        &self,
        offset: u64,
        to: &Self,
        to_offset: u64,
        len: usize,
    ) -> io::Result<usize> {
        let (mut from_offset, mut to_offset) = (offset, to_offset);
        Ok(rustix::fs::copy_file_range(
            self.file(),
            Some(&mut from_offset),
            to.file(),
            Some(&mut to_offset),
            len,
        )?)
    }

    /// Has the host reserve room for `len` bytes from `offset`, which read as zero until written.
    ///
    /// # Errors
    /// The host's, also where the file system cannot do this.
    pub fn allocate(&self, offset: u64, len: u64) -> io::Result<()> {
        Ok(rustix::fs::fallocate(self.file(), FallocateFlags::empty(), offset, len)?)
    }

    /// Has the host begin to bring what was written in a range to the disk, without waiting for
    /// it: so the disk works while the program does, not only in the last flush. A mere hint.
    pub fn start_writeback(&self, offset: u64, len: u64) {
        // The advice starts writing dirty pages at once and drops only clean ones. Whether it is
        // taken or not, the flush at the end is what counts.
        let _ = rustix::fs::fadvise(self.file(), offset, NonZeroU64::new(len), Advice::DontNeed);
    }

    /// Tells the host that a range will be read soon. A mere hint, which is not given where both
    /// ends of the range are in memory: the host would look for every page between them.
    pub fn will_need(&self, offset: u64, len: u64) {
        if self.is_cached(offset) && self.is_cached(offset.saturating_add(len).saturating_sub(1)) {
            return;
        }
        let _ = rustix::fs::fadvise(self.file(), offset, NonZeroU64::new(len), Advice::WillNeed);
    }

    fn known_data(&self) -> MutexGuard<'_, Range<u64>> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a byte can be read without waiting for the disk.
    fn is_cached(&self, offset: u64) -> bool {
        let mut byte = [0];
        let mut parts = [IoSliceMut::new(&mut byte)];
        let read = rustix::io::preadv2(self.file(), &mut parts, offset, ReadWriteFlags::NOWAIT);
        read.is_ok_and(|read| read > 0)
    }

    /// Tells the host that a range will not be needed again: what of it is on the disk need not
    /// stay in memory. A mere hint.
    pub fn give_up(&self, offset: u64, len: u64) {
        self.start_writeback(offset, len);
    }

    /// The open file, for what this type does not offer.
    #[must_use]
    pub fn file(&self) -> &File {
        self.file.file()
    }
}

fn refuse_odd_kinds(metadata: &std::fs::Metadata, path: &Path) -> Result<()> {
    let kind = metadata.file_type();
    if kind.is_file() || kind.is_block_device() {
        return Ok(());
    }
    let what = if kind.is_dir() {
        "a folder"
    } else if kind.is_fifo() {
        "a FIFO"
    } else if kind.is_char_device() {
        "a character device"
    } else {
        "not a file"
    };
    Err(Error::new(ErrorKind::Refused, format!("is {what}, not a disk image"))
        .in_file(path)
        .hint("name a regular file or a block device"))
}

impl Store for HostFile {
    fn name(&self) -> &Path {
        &self.path
    }

    fn len(&self) -> io::Result<u64> {
        if self.device {
            Ok(rustix::fs::seek(self.file(), SeekFrom::End(0))?)
        } else {
            Ok(self.file().metadata()?.len())
        }
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file().read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.file().write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if self.device {
            // A device has the length it has; asking for no more than that is no change.
            return if len <= self.len()? {
                Ok(())
            } else {
                Err(io::Error::from(io::ErrorKind::StorageFull))
            };
        }
        *self.known_data() = 0..0;
        self.file().set_len(len)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        if len == 0 {
            return Ok(());
        }
        *self.known_data() = 0..0;
        let punch = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        match rustix::fs::fallocate(self.file(), punch, offset, len) {
            Ok(()) => Ok(()),
            Err(Errno::OPNOTSUPP | Errno::NOSYS | Errno::INVAL | Errno::NODEV) => {
                write_zeros(self, offset, len)
            }
            Err(errno) => Err(errno.into()),
        }
    }

    fn run_at(&self, offset: u64, end: u64) -> io::Result<Run> {
        let all_data = Run { len: end - offset, hole: false };
        if self.device {
            return Ok(all_data);
        }
        let known = self.known_data().clone();
        if known.contains(&offset) {
            return Ok(Run { len: known.end.min(end) - offset, hole: false });
        }
        match rustix::fs::seek(self.file(), SeekFrom::Data(offset)) {
            Ok(data) if data > offset => Ok(Run { len: data.min(end) - offset, hole: true }),
            Ok(_) => match rustix::fs::seek(self.file(), SeekFrom::Hole(offset)) {
                Ok(hole) if hole > offset => {
                    // What has become a hole since may be told as data: it reads as zeros.
                    *self.known_data() = offset..hole;
                    Ok(Run { len: hole.min(end) - offset, hole: false })
                }
                Ok(_) | Err(_) => Ok(all_data),
            },
            // No data from here to the end of the file; past its end nothing is known.
            Err(Errno::NXIO) => match self.len()? {
                len if len >= end => Ok(Run { len: end - offset, hole: true }),
                len if len > offset => Ok(Run { len: len - offset, hole: true }),
                _ => Ok(all_data),
            },
            Err(_) => Ok(all_data),
        }
    }

    fn sync(&self) -> io::Result<()> {
        self.file().sync_data()
    }

    fn host(&self) -> Option<&HostFile> {
        Some(self)
    }
}

fn write_zeros(file: &HostFile, offset: u64, len: u64) -> io::Result<()> {
    let zeros = vec![0; 1 << 20];
    let (mut offset, mut left) = (offset, len);
    while left > 0 {
        let step = left.min(1 << 20);
        let piece = usize::try_from(step).ok().and_then(|n| zeros.get(..n)).unwrap_or(&zeros);
        file.file().write_all_at(piece, offset)?;
        offset += step;
        left -= step;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_of_data_are_remembered_until_they_change() {
        const PAGE: u64 = 64 << 10;
        let file = tempfile::NamedTempFile::new().unwrap();
        let host = HostFile::open_rw(file.path()).unwrap();
        host.set_len(8 * PAGE).unwrap();
        host.write_all_at(&vec![1; 4 * PAGE as usize], 2 * PAGE).unwrap();
        let runs = |from: u64| host.run_at(from * PAGE, 8 * PAGE).unwrap();
        let run = |pages, hole| Run { len: pages * PAGE, hole };
        assert_eq!(runs(0), run(2, true), "the folder for temporary files knows no holes");
        assert_eq!(runs(2), run(4, false));
        assert_eq!(runs(3), run(3, false));
        assert_eq!(host.run_at(3 * PAGE, 4 * PAGE).unwrap(), run(1, false));
        assert_eq!(runs(6), run(2, true));
        host.zero(4 * PAGE, PAGE).unwrap();
        assert_eq!([runs(3), runs(4)], [run(1, false), run(1, true)]);
        host.set_len(4 * PAGE).unwrap();
        host.set_len(8 * PAGE).unwrap();
        assert_eq!(runs(4), run(4, true));
    }
}
