//! Reading no faster than allowed.

use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use vdisk::{Cancel, Disk, Extent, Extents, Result};

/// How long a request to stop may wait.
const NAP: Duration = Duration::from_millis(100);

/// A disk that is read at most at a given rate. It names no stores, so nobody reads ahead of it.
#[derive(Debug)]
pub(crate) struct Paced {
    base: Arc<dyn Disk>,
    /// Bytes a second.
    rate: u64,
    cancel: Cancel,
    /// When the next read may begin.
    free: Mutex<Instant>,
}

impl Paced {
    pub(crate) fn new(base: Arc<dyn Disk>, rate: u64, cancel: Cancel) -> Self {
        Self { base, rate: rate.max(1), cancel, free: Mutex::new(Instant::now()) }
    }

    /// Waits for the turn of `bytes` more.
    fn wait(&self, bytes: u64) -> Result<()> {
        let took = Duration::from_secs_f64(bytes as f64 / self.rate as f64);
        let mine = {
            let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
            let mine = (*free).max(Instant::now());
            *free = mine + took;
            mine
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
    fn reads_are_spread_and_can_be_stopped() {
        let cancel = Cancel::default();
        let disk = Paced::new(Arc::new(VecDisk(vec![7; 100_000])), 1_000_000, cancel.clone());
        let begun = Instant::now();
        let mut bytes = vec![0; 50_000];
        for _ in 0..3 {
            disk.read_at(&mut bytes, 0).unwrap();
        }
        // The first one waits for nobody.
        assert!(begun.elapsed() >= Duration::from_millis(100));
        cancel.cancel();
        assert!(disk.read_at(&mut bytes, 0).is_err());
    }
}
