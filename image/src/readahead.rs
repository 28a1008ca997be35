//! Asking the host to read what will be needed next.
//!
//! Several threads that each read their own window of one file look like random access to the
//! kernel, which then reads ahead too little: measured on a cold 6 GiB image, half the speed of one
//! reader. So the program says itself what comes next.

use std::iter::Peekable;
use std::sync::{Mutex, PoisonError};

use vdisk_core::{Disk, Extent, ExtentKind, Extents, HostFile};

/// How far ahead of the window being read, in guest bytes. Measured: 8 MiB was slower, 128 MiB no
/// faster.
const AHEAD: u64 = 32 << 20;

/// Bytes advised at once.
const STEP: u64 = 4 << 20;

/// Where the data of an image is larger than this part of the host's memory, what was read is not
/// kept in the page cache: it would only push out what others use.
const LARGE_PART: u64 = 4;

/// How far behind the bytes in work pages are given up.
pub(crate) const BEHIND: u64 = 256 << 20;

/// Reads ahead on one disk.
pub(crate) struct ReadAhead<'a> {
    disk: &'a dyn Disk,
    next: Mutex<Next<'a>>,
    /// Whether pages are given up once they are read.
    large: bool,
}

struct Next<'a> {
    extents: Peekable<Extents<'a>>,
    /// Everything before it was advised.
    done: u64,
}

impl<'a> ReadAhead<'a> {
    /// For reading `disk` from its start to its end.
    pub(crate) fn new(disk: &'a dyn Disk) -> Self {
        Self::starting_at(disk, 0)
    }

    /// For reading `disk` from byte `start` to its end.
    pub(crate) fn starting_at(disk: &'a dyn Disk, start: u64) -> Self {
        let extents = disk.extents(start..disk.len()).peekable();
        let memory = rustix::system::sysinfo().totalram;
        let large = data_bytes(disk) > memory / LARGE_PART;
        Self { disk, next: Mutex::new(Next { extents, done: start }), large }
    }

    /// Whether the disk is so large that its bytes should not stay in the page cache.
    pub(crate) fn is_large(&self) -> bool {
        self.large
    }

    /// Says that a window which ends at `position` is about to be read.
    pub(crate) fn reach(&self, position: u64) {
        let target = position.saturating_add(AHEAD).min(self.disk.len());
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        // In larger steps than windows, so that most calls find nothing to do.
        if next.done.saturating_add(STEP) > target && target < self.disk.len() {
            return;
        }
        while next.done < target {
            // An error will be met, and told, by the one who reads.
            let Some(Ok(extent)) = next.extents.peek() else {
                next.done = self.disk.len();
                return;
            };
            let extent = *extent;
            let end = extent.end().min(target);
            if end > next.done {
                self.advise(&extent, next.done.max(extent.start), end);
                next.done = end;
            }
            if end == extent.end() {
                next.extents.next();
            }
        }
    }

    fn advise(&self, extent: &Extent, from: u64, to: u64) {
        match extent.kind {
            ExtentKind::Data { store, at } => {
                let Some(file) = self.file(store) else { return };
                let at = at + (from - extent.start);
                file.will_need(at, to - from);
                if self.large {
                    file.give_up(at.saturating_sub(AHEAD + BEHIND), to - from);
                }
            }
            ExtentKind::Compressed(grain) => {
                if let Some(file) = self.file(grain.store) {
                    file.will_need(grain.at, grain.compressed_len.into());
                }
            }
            _ => {}
        }
    }

    fn file(&self, store: usize) -> Option<&HostFile> {
        self.disk.store(store)?.host()
    }
}

/// What the files of a disk hold, at most; cheap, unlike counting its extents.
fn data_bytes(disk: &dyn Disk) -> u64 {
    let files = (0..).map_while(|id| disk.store(id)).filter_map(|store| store.host());
    files.filter_map(|file| file.allocated().ok()).fold(0, u64::saturating_add)
}
