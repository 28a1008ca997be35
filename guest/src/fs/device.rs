//! A disk as the file system crates want it, with a bound on what one operation may read.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use vdisk_core::{CowDisk, Disk, Error, ErrorKind, Result};

use super::guard::guarded;

/// What every read costs besides its bytes.
const READ_COST: u64 = 512;
/// What any operation may cost.
const BASE_BUDGET: u64 = 64 << 20;
/// What it may cost more for each byte of the disk: structures that are read a few times over.
const BYTE_BUDGET: u64 = 4;
/// The part of the disk that counts for it.
const COUNTED: u64 = 1 << 30;
/// What an operation may cost more for each byte that it moves.
pub(super) const MOVED_BUDGET: u64 = 64;

/// A volume as a block device: reads inside the disk only, and only so many in one operation, so
/// that structures which lead round in circles end in an error.
#[derive(Debug)]
pub(super) struct Device {
    disk: Arc<dyn Disk>,
    /// The same disk, where it may be written.
    cow: Option<Arc<CowDisk>>,
    /// What the operation under way may still cost.
    left: AtomicU64,
    /// The first failure below us in it; the crates keep only a text of it, if that.
    failure: Mutex<Option<Error>>,
}

impl Device {
    pub(super) fn read_only(disk: Arc<dyn Disk>) -> Arc<Self> {
        Arc::new(Self::new(disk, None))
    }

    pub(super) fn writable(disk: Arc<CowDisk>) -> Arc<Self> {
        Arc::new(Self::new(disk.clone(), Some(disk)))
    }

    fn new(disk: Arc<dyn Disk>, cow: Option<Arc<CowDisk>>) -> Self {
        Self { disk, cow, left: AtomicU64::new(0), failure: Mutex::new(None) }
    }

    pub(super) fn disk(&self) -> &Arc<dyn Disk> {
        &self.disk
    }

    pub(super) fn len(&self) -> u64 {
        self.disk.len()
    }

    /// Runs one operation that moves `moved` bytes for the caller: bounded, its panics caught, and
    /// a failure of the disk below told as what it was.
    pub(super) fn run<T>(&self, moved: u64, operation: impl FnOnce() -> Result<T>) -> Result<T> {
        let budget = BASE_BUDGET + BYTE_BUDGET * self.len().min(COUNTED);
        self.left.store(budget + MOVED_BUDGET * moved.min(COUNTED), Ordering::Relaxed);
        *self.failure() = None;
        let done = guarded(operation);
        // A crate that goes on after a failed read may tell less than there is.
        match self.failure().take() {
            Some(failure) => Err(failure),
            None => done,
        }
    }

    /// Fills `buf` from byte `offset` of the volume.
    pub(super) fn fetch(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let cost = READ_COST + buf.len() as u64;
        let spend = |left: u64| left.checked_sub(cost);
        if self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, spend).is_err() {
            return Err(Error::new(
                ErrorKind::Corrupt,
                "the file system's structures lead round in circles",
            )
            .hint("check the file system with the tools of its operating system"));
        }
        self.disk.read_at(buf, offset)
    }

    pub(super) fn put(&self, bytes: &[u8], offset: u64) -> Result<()> {
        match &self.cow {
            Some(cow) => cow.write_at(bytes, offset),
            None => Err(Error::internal("a volume that is only read was written to")),
        }
    }

    fn failure(&self) -> std::sync::MutexGuard<'_, Option<Error>> {
        self.failure.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps the first failure for [`Device::run`]. A place outside the disk is none: it comes
    /// from the volume's own structures, and some crates just try.
    pub(super) fn note<T>(&self, done: Result<T>) -> fs_core::Result<T> {
        done.map_err(|error| {
            let text = error.to_string();
            if error.kind() != ErrorKind::OutOfRange {
                self.failure().get_or_insert(error);
            }
            fs_core::Error::Custom(text)
        })
    }

    pub(super) fn is_writable(&self) -> bool {
        self.cow.is_some()
    }
}

impl fs_core::BlockRead for Device {
    fn read_at(&self, offset: u64, buf: &mut [u8]) -> fs_core::Result<()> {
        self.note(self.fetch(buf, offset))
    }

    fn size_bytes(&self) -> u64 {
        self.len()
    }
}

impl fs_core::BlockDevice for Device {
    fn write_at(&self, offset: u64, buf: &[u8]) -> fs_core::Result<()> {
        self.note(self.put(buf, offset))
    }

    fn is_writable(&self) -> bool {
        Self::is_writable(self)
    }
}
