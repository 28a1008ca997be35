//! Into a new image whose writer hands out places.

use std::collections::HashMap;
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
use crate::windows::{Part, Piece, WINDOW, pieces};

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
    let extents = source
        .extents(0..source.len())
        .map(|extent| extent.map(|extent| (extent.start..extent.end(), route.of(&extent))));
    for_each(pieces(extents, WINDOW), options.threads, watch.cancel, |piece, turn| match piece {
        Piece::Zero(range) => {
            watch.progress.advance(range.end - range.start);
            Ok(())
        }
        Piece::Window { range, data } => job.window(range, &data, turn),
        Piece::Apart(range, direct) => job.direct(range, direct, turn),
    })
}

/// Which extents go to the kernel.
#[derive(Debug)]
struct Route<'a> {
    source: &'a dyn Disk,
    /// The source's stores that the kernel shall copy from, and whether it shares their bytes.
    stores: HashMap<usize, bool>,
}

impl<'a> Route<'a> {
    /// Bytes that are searched for zeros must be read, so they never go to the kernel; without a
    /// search all that can does. Left to us, the search is given up where sharing is free.
    fn choose(source: &'a dyn Disk, target: Option<&HostFile>, options: &CopyOptions) -> Self {
        let mut stores = HashMap::new();
        for id in 0.. {
            let (Some(store), Some(target)) = (source.store(id), target) else { break };
            let Some(file) = store.host() else { continue };
            let shared = can_share(file, target);
            let by_kernel = match options.zero_search {
                ZeroSearch::Unit(_) => false,
                ZeroSearch::Off => true,
                ZeroSearch::Auto => shared,
            };
            tracing::debug!(file = %store.name().display(), by_kernel, shared, "route of the copy");
            if by_kernel {
                stores.insert(id, shared);
            }
        }
        Self { source, stores }
    }

    fn of(&self, extent: &Extent) -> Part<Direct<'a>> {
        match extent.kind {
            ExtentKind::Zero { .. } => Part::Zero,
            ExtentKind::Data { store, at } => {
                let file = self.source.store(store).and_then(|store| store.host());
                match (file, self.stores.get(&store)) {
                    (Some(file), Some(shared)) => {
                        Part::Apart(Direct { file, at, start: extent.start, shared: *shared })
                    }
                    _ => Part::Data,
                }
            }
            _ => Part::Data,
        }
    }
}

/// Bytes that the kernel may copy: where those of an extent stand.
#[derive(Clone, Copy)]
struct Direct<'a> {
    file: &'a HostFile,
    at: u64,
    /// The extent's first guest byte.
    start: u64,
    /// The file system shares the bytes: nothing of them has to be brought to the disk.
    shared: bool,
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

    fn direct(&self, range: Range<u64>, from: Direct<'_>, turn: Turn<'_>) -> Result<()> {
        let places = turn.take(|| self.place(&range))?;
        let mut guest = range.start;
        for place in places {
            self.watch.cancel.check()?;
            let at = from.at + (guest - from.start);
            let copied = self.kernel.copy(from.file, at, &*place.store, place.at, place.len);
            self.counts.kernel_copied.fetch_add(copied, Ordering::Relaxed);
            if !from.shared {
                self.written(&place, place.at, copied);
            }
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
