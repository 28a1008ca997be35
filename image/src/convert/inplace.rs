//! Into an image that exists already: everything, or only what differs from its parents.

use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Mutex, PoisonError};

use vdisk_core::{Disk, Error, Result};

use super::{
    CopyOptions, CopyReport, Counts, Watch, buffer, nonzero_runs, read_window, slice_of, total,
};
use crate::open::ImageMut;
use crate::pair::pairs;
use crate::parallel::for_each;
use crate::readahead::ReadAhead;
use crate::windows::{Part, Piece, WINDOW, pieces};

/// Bytes compared as one when a child keeps only what differs: file systems change whole blocks of
/// this size.
const DIFFERENCE: usize = 4096;

/// A copy into an existing image that can be taken up again where it was cut off.
#[derive(Clone, Copy)]
pub struct Checkpoints<'a> {
    /// Everything before this byte is in the target already.
    pub from: u64,
    /// The target is flushed each time so many bytes were written to it.
    pub every: u64,
    /// Is told, after each flush, up to which byte the target is whole and durable.
    pub reached: &'a (dyn Fn(u64) -> Result<()> + Sync),
}

impl std::fmt::Debug for Checkpoints<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Checkpoints")
            .field("from", &self.from)
            .field("every", &self.every)
            .finish_non_exhaustive()
    }
}

impl Checkpoints<'_> {
    /// From the start to the end in one go.
    pub(super) const NONE: Self = Self { from: 0, every: u64::MAX, reached: &|_| Ok(()) };
}

pub(super) fn overwrite(
    source: &dyn Disk,
    target: &mut ImageMut,
    known_zero: bool,
    checkpoints: Checkpoints<'_>,
    options: &CopyOptions,
    watch: Watch<'_>,
) -> Result<CopyReport> {
    let (len, target_len) = (source.len(), target.len());
    let from = checkpoints.from.min(len);
    if target_len < len {
        return Err(Error::refused(format!(
            "the target holds {target_len} bytes, the source {len}"
        ))
        .hint("choose a larger target, or resize it first"));
    }
    watch.progress.begin("convert", len);
    watch.progress.advance(from);
    let counts = Counts::default();
    let zero_unit = options.zero_unit();
    let shared = Mutex::new((&mut *target, 0));
    let extents = source.extents(from..len).map(|extent| {
        extent.map(|extent| (extent.start..extent.end(), Part::zero_or_data(extent.is_zero())))
    });
    let ahead = ReadAhead::starting_at(source, from);
    for_each(pieces(extents, WINDOW), options.threads, watch.cancel, |piece, turn| {
        let (range, data) = match piece {
            Piece::Zero(range) => (range, Vec::new()),
            Piece::Window { range, data } => (range, data),
        };
        let mut bytes = Vec::new();
        if !data.is_empty() {
            ahead.reach(range.end);
            bytes = buffer(range.end - range.start);
            read_window(source, &mut bytes, range.start, &data)?;
        }
        let runs = match zero_unit {
            Some(unit) => nonzero_runs(range.start, &bytes, &data, unit),
            None => data.clone(),
        };
        turn.take(|| {
            let mut shared = shared.lock().unwrap_or_else(PoisonError::into_inner);
            let (target, unflushed) = &mut *shared;
            for run in &runs {
                target.write_at(slice_of(&bytes, range.start, run), run.start)?;
            }
            if !known_zero {
                for gap in gaps(&range, &runs) {
                    target.zero(gap)?;
                }
            }
            *unflushed += total(&runs);
            if *unflushed >= checkpoints.every {
                *unflushed = 0;
                target.flush()?;
                (checkpoints.reached)(range.end)?;
            }
            Ok(())
        })?;
        counts.written.fetch_add(total(&runs), Ordering::Relaxed);
        counts.found_zero.fetch_add(total(&data) - total(&runs), Ordering::Relaxed);
        watch.progress.advance(range.end - range.start);
        Ok(())
    })?;
    if !known_zero && target_len > len {
        target.zero(len..target_len)?;
    }
    target.flush()?;
    watch.progress.end();
    Ok(counts.report())
}

pub(super) fn differences(
    source: &dyn Disk,
    target: &mut ImageMut,
    options: &CopyOptions,
    watch: Watch<'_>,
) -> Result<CopyReport> {
    let len = source.len();
    if target.len() != len {
        return Err(Error::usage(format!(
            "the source holds {len} bytes, the child of that parent {}",
            target.len()
        ))
        .hint("a child has its parent's size; convert without -b, or to another parent"));
    }
    watch.progress.begin("convert", len);
    let counts = Counts::default();
    // The child is new, so what it reads like is what its parents hold; while it is written to,
    // the parents are looked at by themselves.
    let (top, below) = target.split();
    let top = Mutex::new(top);
    let ranges = pairs(source, below, 0..len).map(|pair| {
        pair.map(|pair| (pair.start..pair.start + pair.len, Part::zero_or_data(pair.same)))
    });
    let ahead = [ReadAhead::new(source), ReadAhead::new(below)];
    for_each(pieces(ranges, WINDOW), options.threads, watch.cancel, |piece, turn| {
        let (range, candidates) = match piece {
            Piece::Zero(range) => {
                watch.progress.advance(range.end - range.start);
                return Ok(());
            }
            Piece::Window { range, data } => (range, data),
        };
        ahead.iter().for_each(|side| side.reach(range.end));
        let mut new = buffer(range.end - range.start);
        let mut old = new.clone();
        source.read_at(&mut new, range.start)?;
        vdisk_core::disk::read_padded(below, &mut old, range.start)?;
        let runs = differing_runs(range.start, &new, &old, &candidates);
        turn.take(|| {
            let mut top = top.lock().unwrap_or_else(PoisonError::into_inner);
            for run in &runs {
                let bytes = slice_of(&new, range.start, run);
                if vdisk_core::zeros::is_zero(bytes) {
                    top.zero(run.clone(), below)?;
                } else {
                    top.write(bytes, run.start, below)?;
                }
            }
            Ok(())
        })?;
        counts.written.fetch_add(total(&runs), Ordering::Relaxed);
        watch.progress.advance(range.end - range.start);
        Ok(())
    })?;
    drop(ahead);
    target.flush()?;
    watch.progress.end();
    Ok(counts.report())
}

/// The parts of `range` that `runs` leave out.
fn gaps(range: &Range<u64>, runs: &[Range<u64>]) -> Vec<Range<u64>> {
    let starts = std::iter::once(range.start).chain(runs.iter().map(|run| run.end));
    let ends = runs.iter().map(|run| run.start).chain(std::iter::once(range.end));
    starts.zip(ends).map(|(start, end)| start..end).filter(|gap| !gap.is_empty()).collect()
}

/// The blocks among `candidates` in which the two windows that start at `start` differ, joined
/// where they touch. A run changes between zero and not zero only at a block.
pub(crate) fn differing_runs(
    start: u64,
    new: &[u8],
    old: &[u8],
    candidates: &[Range<u64>],
) -> Vec<Range<u64>> {
    let mut found: Vec<(Range<u64>, bool)> = Vec::new();
    for range in candidates {
        let blocks = slice_of(new, start, range).chunks(DIFFERENCE);
        let mut at = range.start;
        for (block, was) in blocks.zip(slice_of(old, start, range).chunks(DIFFERENCE)) {
            let run = at..at + block.len() as u64;
            at = run.end;
            if block == was {
                continue;
            }
            let zero = vdisk_core::zeros::is_zero(block);
            match found.last_mut() {
                Some((last, kind)) if last.end == run.start && *kind == zero => last.end = run.end,
                _ => found.push((run, zero)),
            }
        }
    }
    found.into_iter().map(|(run, _)| run).collect()
}
