//! Work on many pieces at once, with a part of each piece done in order.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use vdisk_core::{Cancel, Error, ErrorKind, Result};

/// Threads to use where the caller does not say: enough to keep reading and writing at the same
/// time even on one core.
#[must_use]
pub fn default_threads() -> usize {
    std::thread::available_parallelism().map_or(4, |cores| cores.get().clamp(1, 8) * 2)
}

/// Takes jobs one after the other and works on up to `threads` of them at once, until there are no
/// more, one fails, or `cancel` is set. Memory is bounded by what `threads` jobs hold.
///
/// Jobs are numbered in the order taken; `work` gets its number as a [`Turn`].
pub(crate) fn for_each<J: Send>(
    jobs: impl Iterator<Item = Result<J>> + Send,
    threads: usize,
    cancel: &Cancel,
    work: impl Fn(J, Turn<'_>) -> Result<()> + Sync,
) -> Result<()> {
    let jobs = Mutex::new(jobs.enumerate());
    let gate = Turnstile::default();
    let failure = Mutex::new(None);
    let worker = || {
        while !gate.stopped.load(Ordering::Relaxed) {
            let Some((number, job)) = lock(&jobs).next() else { return };
            let turn = Turn { gate: &gate, number: number as u64, taken: false };
            let done = cancel.check().and(job).and_then(|job| work(job, turn));
            if let Err(error) = done {
                // Who only stopped because another failed has nothing to tell.
                let mut kept = lock(&failure);
                if kept.as_ref().is_none_or(|kept: &Error| kept.kind() == ErrorKind::Cancelled) {
                    *kept = Some(error);
                }
                drop(kept);
                gate.stop();
            }
        }
    };
    let pool = rayon::ThreadPoolBuilder::new()
        .num_threads(threads.max(1))
        .build()
        .map_err(|e| Error::internal("could not start threads").caused_by(e))?;
    pool.scope(|scope| (0..threads.max(1)).for_each(|_| scope.spawn(|_| worker())));
    failure.into_inner().unwrap_or_else(PoisonError::into_inner).map_or(Ok(()), Err)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[derive(Debug, Default)]
struct Turnstile {
    next: AtomicU64,
    lock: Mutex<()>,
    moved: Condvar,
    stopped: AtomicBool,
}

impl Turnstile {
    fn wait_for(&self, number: u64) {
        let mut guard = lock(&self.lock);
        while self.next.load(Ordering::Acquire) != number && !self.stopped.load(Ordering::Relaxed) {
            guard = self.moved.wait(guard).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn pass(&self, number: u64) {
        let _guard = lock(&self.lock);
        self.next.store(number + 1, Ordering::Release);
        self.moved.notify_all();
    }

    fn stop(&self) {
        let _guard = lock(&self.lock);
        self.stopped.store(true, Ordering::Relaxed);
        self.moved.notify_all();
    }
}

/// A job's place in the order.
#[derive(Debug)]
#[must_use]
pub(crate) struct Turn<'a> {
    gate: &'a Turnstile,
    number: u64,
    taken: bool,
}

impl Turn<'_> {
    /// Does `act` after that of every job before this one, and before that of every job after it.
    pub(crate) fn take<T>(mut self, act: impl FnOnce() -> Result<T>) -> Result<T> {
        self.gate.wait_for(self.number);
        if self.gate.stopped.load(Ordering::Relaxed) {
            // Another job failed; its error is the one to report.
            self.taken = true;
            return Err(Error::new(ErrorKind::Cancelled, "stopped by another failure"));
        }
        let done = act();
        self.taken = true;
        match done {
            Ok(_) => self.gate.pass(self.number),
            Err(_) => self.gate.stop(),
        }
        done
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if self.taken {
            return;
        }
        // After a panic nobody else may wait for this turn, or the panic would never come out.
        if std::thread::panicking() {
            self.gate.stop();
            return;
        }
        // A job that needs no turn still has to let the next one through.
        self.gate.wait_for(self.number);
        self.gate.pass(self.number);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_in_order_whatever_the_work_takes() {
        let seen = Mutex::new(Vec::new());
        let jobs = (0..200u64).map(Ok);
        for_each(jobs, 8, &Cancel::default(), |job, turn| {
            std::thread::sleep(std::time::Duration::from_micros((job * 7919) % 300));
            if job % 3 == 0 {
                return Ok(()); // no turn taken
            }
            turn.take(|| {
                lock(&seen).push(job);
                Ok(())
            })
        })
        .unwrap();
        let expected: Vec<u64> = (0..200).filter(|job| job % 3 != 0).collect();
        assert_eq!(*lock(&seen), expected);
    }

    #[test]
    fn the_first_failure_stops_all() {
        let jobs = (0..u64::MAX).map(Ok);
        let failed = for_each(jobs, 4, &Cancel::default(), |job, turn| {
            turn.take(|| if job == 50 { Err(Error::usage("fifty")) } else { Ok(()) })
        });
        assert_eq!(failed.unwrap_err().message(), "fifty");

        // Also where many wait for their turn when it happens.
        for round in 0..300 {
            let failed = for_each((0..64).map(Ok), 8, &Cancel::default(), |job: u64, turn| {
                turn.take(|| if job == 20 { Err(Error::usage("twenty")) } else { Ok(()) })
            });
            assert_eq!(failed.unwrap_err().message(), "twenty", "round {round}");
        }

        let cancel = Cancel::default();
        cancel.cancel();
        let failed = for_each((0..9).map(Ok), 2, &cancel, |_, _| Ok(()));
        assert_eq!(failed.unwrap_err().kind(), ErrorKind::Cancelled);
    }

    #[test]
    fn a_panic_in_a_turn_comes_out() {
        let caught = std::panic::catch_unwind(|| {
            for_each((0..64).map(Ok), 4, &Cancel::default(), |job: u64, turn| {
                turn.take(|| if job == 9 { panic!("nine") } else { Ok(()) })
            })
        });
        assert!(caught.is_err());
    }
}
