//! Into a new image whose writer hands out places.

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use vdisk_core::{Disk, Extent, ExtentKind, HostFile, ImageWriter, Placement, Result, StoreExt};

use super::kernel::{KernelCopy, can_share};
use super::{
    CopyOptions, Counts, Watch, ZeroSearch, buffer, nonzero_runs, read_window, slice_of, total,
};
use crate::parallel::{Turn, for_each};
use crate::readahead::{BEHIND, ReadAhead};
use crate::windows::{Piece, WINDOW, pieces};

/// Largest range that one job leaves to the kernel, and that windows are made of at once.
const DIRECT: u64 = 256 << 20;

pub(super) fn run(
    source: &dyn Disk,
    writer: &mut dyn ImageWriter,
    options: &CopyOptions,
    watch: Watch<'_>,
    counts: &Counts,
) -> Result<()> {
    let route = Route::choose(source, writer.host(), options);
    let job = Job {
        source,
        writer: Mutex::new(writer),
        zero_unit: options.zero_unit(),
        kernel: KernelCopy::default(),
        ahead: ReadAhead::new(source),
        watch,
        counts,
    };
    let tasks = tasks(source, |extent| route.direct(extent));
    for_each(tasks, options.threads, watch.cancel, |task, turn| match task {
        Task::Piece(Piece::Zero(range)) => {
            watch.progress.advance(range.end - range.start);
            Ok(())
        }
        Task::Piece(Piece::Window { range, data }) => job.window(range, &data, turn),
        Task::Direct { range, file, at } => job.direct(range, file, at, turn),
    })
}

/// Which extents go to the kernel.
#[derive(Debug)]
struct Route<'a> {
    source: &'a dyn Disk,
    /// Whether the kernel shall copy, by number of the source's store.
    stores: HashMap<usize, bool>,
}

impl<'a> Route<'a> {
    /// Bytes that are searched for zeros must be read, so they never go to the kernel; without a
    /// search all that can does. Left to us, the search is given up where sharing is free.
    fn choose(source: &'a dyn Disk, target: Option<&HostFile>, options: &CopyOptions) -> Self {
        let mut stores = HashMap::new();
        for id in 0.. {
            let (Some(store), Some(target)) = (source.store(id), target) else { break };
            let goes = store.host().is_some_and(|file| match options.zero_search {
                ZeroSearch::Unit(_) => false,
                ZeroSearch::Off => true,
                ZeroSearch::Auto => can_share(file, target),
            });
            tracing::debug!(file = %store.name().display(), by_kernel = goes, "route of the copy");
            stores.insert(id, goes);
        }
        Self { source, stores }
    }

    /// The host file and offset that the kernel shall copy `extent` from.
    fn direct(&self, extent: &Extent) -> Option<(&'a HostFile, u64)> {
        match extent.kind {
            ExtentKind::Data { store, at } if self.stores.get(&store) == Some(&true) => {
                Some((self.source.store(store)?.host()?, at))
            }
            _ => None,
        }
    }
}

enum Task<'a> {
    Piece(Piece),
    /// An extent that the kernel may copy from `at` of `file`.
    Direct {
        range: Range<u64>,
        file: &'a HostFile,
        at: u64,
    },
}

/// The source as tasks: extents that `direct` gives a place for go to the kernel, the others into
/// windows.
fn tasks<'a>(
    source: &'a dyn Disk,
    direct: impl Fn(&Extent) -> Option<(&'a HostFile, u64)> + Send,
) -> impl Iterator<Item = Result<Task<'a>>> + Send {
    let mut extents = source.extents(0..source.len()).flat_map(|extent| {
        let (error, extent) = match extent {
            Ok(extent) => (None, Some(extent)),
            Err(error) => (Some(Err(error)), None),
        };
        extent.into_iter().flat_map(cut).map(Ok).chain(error)
    });
    let mut queue: VecDeque<Result<Task<'a>>> = VecDeque::new();
    std::iter::from_fn(move || {
        loop {
            if let Some(task) = queue.pop_front() {
                return Some(task);
            }
            // Windows are made of the extents between two that the kernel copies.
            let mut between = Vec::new();
            loop {
                match extents.next() {
                    None => break,
                    Some(Err(error)) => {
                        between.push(Err(error));
                        break;
                    }
                    Some(Ok(extent)) => {
                        if let Some((file, at)) = direct(&extent) {
                            queue.extend(
                                pieces(between.drain(..), WINDOW).map(|p| p.map(Task::Piece)),
                            );
                            let range = extent.start..extent.end();
                            queue.push_back(Ok(Task::Direct { range, file, at }));
                            break;
                        }
                        let range = extent.start..extent.end();
                        let full = extent.end().is_multiple_of(WINDOW) || extent.is_zero();
                        between.push(Ok((range, extent.is_zero())));
                        if full || between.len() >= 256 {
                            break;
                        }
                    }
                }
            }
            queue.extend(pieces(between.drain(..), WINDOW).map(|piece| piece.map(Task::Piece)));
            if queue.is_empty() {
                return None;
            }
        }
    })
}

/// Cuts an extent that is not zero at multiples of [`DIRECT`] bytes: what is queued at once must
/// stay small, however long the extents of a disk are.
fn cut(extent: Extent) -> impl Iterator<Item = Extent> {
    let (start, end) = (extent.start, extent.end());
    let stop = move |from: u64| match extent.is_zero() {
        true => end,
        false => (from / DIRECT + 1).saturating_mul(DIRECT).min(end),
    };
    std::iter::successors(Some(start), move |from| Some(stop(*from)))
        .take_while(move |from| *from < end)
        .map(move |from| {
            let kind = match extent.kind {
                ExtentKind::Data { store, at } => {
                    ExtentKind::Data { store, at: at + (from - start) }
                }
                other => other,
            };
            Extent { start: from, len: stop(from) - from, kind, ..extent }
        })
}

struct Job<'a> {
    source: &'a dyn Disk,
    writer: Mutex<&'a mut dyn ImageWriter>,
    zero_unit: Option<u64>,
    kernel: KernelCopy,
    ahead: ReadAhead<'a>,
    watch: Watch<'a>,
    counts: &'a Counts,
}

impl Job<'_> {
    fn window(&self, range: Range<u64>, data: &[Range<u64>], turn: Turn<'_>) -> Result<()> {
        self.ahead.reach(range.end);
        let mut bytes = buffer(range.end - range.start);
        read_window(self.source, &mut bytes, range.start, data)?;
        let runs = match self.zero_unit {
            Some(unit) => nonzero_runs(range.start, &bytes, data, unit),
            None => data.to_vec(),
        };
        let places =
            turn.take(|| runs.iter().map(|run| self.place(run)).collect::<Result<Vec<_>>>())?;
        for (run, places) in runs.iter().zip(places) {
            let mut at = run.start;
            for place in places {
                let part = at..at + place.len;
                place.store.put(slice_of(&bytes, range.start, &part), place.at, "guest data")?;
                self.written(&place, place.at, place.len);
                at = part.end;
            }
        }
        self.counts.written.fetch_add(total(&runs), Ordering::Relaxed);
        self.counts.found_zero.fetch_add(total(data) - total(&runs), Ordering::Relaxed);
        self.watch.progress.advance(range.end - range.start);
        Ok(())
    }

    fn direct(&self, range: Range<u64>, file: &HostFile, at: u64, turn: Turn<'_>) -> Result<()> {
        let places = turn.take(|| self.place(&range))?;
        let mut guest = range.start;
        for place in places {
            let from = at + (guest - range.start);
            let copied = self.kernel.copy(file, from, &*place.store, place.at, place.len);
            self.counts.kernel_copied.fetch_add(copied, Ordering::Relaxed);
            self.written(&place, place.at, copied);
            self.watch.progress.advance(copied);
            self.by_hand(guest + copied..guest + place.len, &place, copied)?;
            guest += place.len;
        }
        self.counts.written.fetch_add(range.end - range.start, Ordering::Relaxed);
        Ok(())
    }

    /// Copies what the kernel did not: `range` of the disk into `place` from byte `done` of it on.
    fn by_hand(&self, range: Range<u64>, place: &Placement, done: u64) -> Result<()> {
        let mut bytes = buffer(WINDOW.min(range.end - range.start));
        let mut at = range.start;
        while at < range.end {
            self.watch.cancel.check()?;
            let len = (range.end - at).min(WINDOW);
            let step = at..at + len;
            let (part, _) = bytes.split_at_mut(usize::try_from(len).unwrap_or_default());
            self.source.read_at(part, step.start)?;
            let target = place.at + done + (at - range.start);
            place.store.put(part, target, "guest data")?;
            self.written(place, target, len);
            self.watch.progress.advance(len);
            at = step.end;
        }
        Ok(())
    }

    /// Keeps the disk at work while bytes still come in.
    fn written(&self, place: &Placement, at: u64, len: u64) {
        let Some(file) = place.store.host() else { return };
        file.start_writeback(at, len);
        if self.ahead.is_large() {
            file.give_up(at.saturating_sub(BEHIND), len);
        }
    }

    fn place(&self, run: &Range<u64>) -> Result<Vec<Placement>> {
        let mut writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut places = Vec::new();
        let mut at = run.start;
        while at < run.end {
            let place = writer.place(at..run.end)?;
            at += place.len;
            places.push(place);
        }
        Ok(places)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A disk of one extent of data.
    #[derive(Debug)]
    struct Huge;

    impl Disk for Huge {
        fn len(&self) -> u64 {
            1 << 60
        }

        fn read_at(&self, _buf: &mut [u8], _offset: u64) -> Result<()> {
            Ok(())
        }

        fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
            let kind = ExtentKind::Data { store: 0, at: offset + 512 };
            Ok(Extent { start: offset, len: end - offset, depth: 0, kind })
        }
    }

    #[test]
    fn long_extents_are_not_queued_at_once() {
        let mut at = 0;
        for task in tasks(&Huge, |_| None).take(1000) {
            let Task::Piece(Piece::Window { range, data }) = task.unwrap() else { panic!("zero?") };
            assert_eq!((range.start, range.end), (at, at + WINDOW));
            assert_eq!(data, std::slice::from_ref(&range));
            at = range.end;
        }
        let extent = Huge.extent_at(1000, DIRECT * 2 + 7).unwrap();
        let cuts: Vec<(u64, u64, ExtentKind)> =
            cut(extent).map(|part| (part.start, part.len, part.kind)).collect();
        let data = |at| ExtentKind::Data { store: 0, at: at + 512 };
        assert_eq!(
            cuts,
            [
                (1000, DIRECT - 1000, data(1000)),
                (DIRECT, DIRECT, data(DIRECT)),
                (DIRECT * 2, 7, data(DIRECT * 2))
            ]
        );
    }
}
