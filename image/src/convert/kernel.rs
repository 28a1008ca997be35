//! Copies that the kernel makes: the bytes never pass through this program.

use std::sync::atomic::{AtomicBool, Ordering};

use vdisk_core::{HostFile, Store};

/// Bytes asked of the kernel at once; small enough to notice a request to stop.
const STEP: usize = 64 << 20;

/// Whether the file systems of `from` and `to` can share blocks between them.
pub(super) fn can_share(from: &HostFile, to: &HostFile) -> bool {
    from.id().0 == to.id().0 && from.shares_blocks() && to.shares_blocks()
}

/// Lets the kernel copy, until it says that it cannot.
#[derive(Debug, Default)]
pub(super) struct KernelCopy {
    failed: AtomicBool,
}

impl KernelCopy {
    /// Copies as many of `len` bytes as the kernel will; returns how many.
    pub(super) fn copy(
        &self,
        from: &HostFile,
        at: u64,
        to: &dyn Store,
        to_at: u64,
        len: u64,
    ) -> u64 {
        let Some(to) = to.host() else { return 0 };
        let mut done = 0;
        while done < len && !self.failed.load(Ordering::Relaxed) {
            let step = usize::try_from(len - done).unwrap_or(STEP).min(STEP);
            match from.copy_range(at + done, to, to_at + done, step) {
                Ok(copied) if copied > 0 => done += copied as u64,
                // The caller copies the rest itself, and meets the host's error if there is one.
                _ => self.failed.store(true, Ordering::Relaxed),
            }
        }
        done
    }
}
