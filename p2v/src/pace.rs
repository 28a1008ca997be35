//! Reading no faster than allowed.

use std::num::NonZeroU64;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vdisk::{Cancel, Disk, Extent, Extents, Result};

/// How long a request to stop may wait.
const NAP: Duration = Duration::from_millis(100);

/// A disk that is read at most at a given rate. It names no stores, so nobody reads ahead of it.
#[derive(Debug)]
pub struct Paced {
    base: Arc<dyn Disk>,
    /// Bytes a second.
    rate: u64,
    cancel: Cancel,
    /// When the next read may begin.
    free: Mutex<Instant>,
}

impl Paced {
    /// `base`, of which `rate` bytes a second are read; a read that waits ends in an error where
    /// `cancel` asks for it.
    #[must_use]
    pub fn new(base: Arc<dyn Disk>, rate: NonZeroU64, cancel: Cancel) -> Self {
        Self { base, rate: rate.get(), cancel, free: Mutex::new(Instant::now()) }
    }

    /// Waits for the turn of `bytes` more.
    fn wait(&self, bytes: u64) -> Result<()> {
        let mine = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            turn(&mut free, Instant::now(), bytes, self.rate)
        };
        loop {
            self.cancel.check()?;
            let left = mine.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
        }
    }
}

/// When `bytes` may be read that are asked for `now`; what comes after them is free later.
fn turn(free: &mut Instant, now: Instant, bytes: u64, rate: u64) -> Instant {
    let mine = (*free).max(now);
    *free = mine + Duration::from_secs_f64(bytes as f64 / rate as f64);
    mine
}

impl Disk for Paced {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        self.wait(buf.len() as u64)?;
        self.base.read_at(buf, offset)
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        self.base.extent_at(offset, end)
    }

    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        self.base.extents(range)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdisk_testkit::VecDisk;

    #[test]
    fn reads_are_spread() {
        let start = Instant::now();
        let mut free = start;
        let after = |milliseconds| start + Duration::from_millis(milliseconds);
        // The first one waits for nobody, the next ones for those before them.
        assert_eq!(turn(&mut free, start, 50_000, 1_000_000), start);
        assert_eq!(turn(&mut free, after(10), 50_000, 1_000_000), after(50));
        assert_eq!(turn(&mut free, after(10), 50_000, 1_000_000), after(100));
        // What was not used is not saved up.
        assert_eq!(turn(&mut free, after(400), 50_000, 1_000_000), after(400));
        assert_eq!(turn(&mut free, after(400), 50_000, 1_000_000), after(450));
    }

    #[test]
    fn a_read_that_waits_can_be_stopped() {
        let cancel = Cancel::default();
        let disk = Paced::new(Arc::new(VecDisk(vec![7; 100_000])), NonZeroU64::MIN, cancel.clone());
        let mut bytes = vec![0; 50_000];
        disk.read_at(&mut bytes, 0).unwrap();
        cancel.cancel();
        assert!(disk.read_at(&mut bytes, 0).is_err());
    }
}
