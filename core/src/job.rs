//! Long work: telling how far it is, and stopping it.

use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use crate::error::{Error, ErrorKind, Result};

/// Hears how a long job goes. Called from several threads at once.
pub trait Progress: Send + Sync {
    /// A phase (such as `"convert"`) begins, of `total` bytes of work.
    fn begin(&self, phase: &str, total: u64);

    /// `bytes` more of the phase are done.
    fn advance(&self, bytes: u64);

    /// The phase is over.
    fn end(&self) {}
}

/// Hears nothing.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl Progress for NoProgress {
    fn begin(&self, _phase: &str, _total: u64) {}
    fn advance(&self, _bytes: u64) {}
}

/// A flag that asks long jobs to stop at the next safe point. Clones share the flag.
#[derive(Clone, Debug, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// Asks the job to stop.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether the job was asked to stop.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// For the inside of loops: fails once the job was asked to stop.
    ///
    /// # Errors
    /// [`ErrorKind::Cancelled`].
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            Err(Error::new(ErrorKind::Cancelled, "stopped before it was done"))
        } else {
            Ok(())
        }
    }
}

/// Who is told of a job's progress, and who can stop it.
#[derive(Clone, Copy)]
pub struct Watch<'a> {
    /// Hears how far it is.
    pub progress: &'a dyn Progress,
    /// Asks it to stop.
    pub cancel: &'a Cancel,
}

impl fmt::Debug for Watch<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Watch").field("cancel", self.cancel).finish_non_exhaustive()
    }
}

impl Default for Watch<'_> {
    /// Nobody.
    fn default() -> Self {
        static CANCEL: OnceLock<Cancel> = OnceLock::new();
        Self { progress: &NoProgress, cancel: CANCEL.get_or_init(Cancel::default) }
    }
}
