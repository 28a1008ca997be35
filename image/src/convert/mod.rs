//! One engine for every conversion.
//!
//! The source's extents are walked in order; what is surely zero is skipped; the rest is cut into
//! windows, and several windows are worked on at once: read (inflating where the source is
//! compressed), searched for zeros, given a place in guest order, written. Where source and target
//! are host files, whole extents may be left to the kernel to copy.
//!
//! Three targets differ only in the middle: [`place`] for images whose writer hands out places,
//! [`encode`] for those whose units are encoded and appended, [`inplace`] for images that exist.

mod encode;
mod inplace;
mod kernel;
mod place;

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use vdisk_core::{Disk, ImageWriter, Masked, Ranges, Result, zeros};

pub use self::inplace::Checkpoints;
pub(crate) use self::inplace::differing_runs;
use crate::open::ImageMut;
use crate::parallel::default_threads;
pub use vdisk_core::Watch;

/// Whether allocated data is searched for zeros.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ZeroSearch {
    /// Where the bytes have to be read anyway: not where the file system shares them.
    #[default]
    Auto,
    /// Never: what the source has allocated is allocated in the target.
    Off,
    /// Always, in runs of at least so many bytes, a power of two.
    Unit(u64),
}

/// How to copy.
#[derive(Clone, Debug)]
pub struct CopyOptions {
    /// Whether allocated data is searched for zeros.
    pub zero_search: ZeroSearch,
    /// Windows worked on at once.
    pub threads: usize,
    /// Parts of the source to be taken as zeros, whatever stands there.
    pub skip: Option<Arc<Ranges>>,
}

impl Default for CopyOptions {
    fn default() -> Self {
        Self { zero_search: ZeroSearch::Auto, threads: default_threads(), skip: None }
    }
}

impl CopyOptions {
    /// The source without what shall be left out.
    fn masked<'a>(&'a self, source: &'a dyn Disk) -> Masked<'a> {
        const NOTHING: &Ranges = &Ranges::new();
        Masked::new(source, self.skip.as_deref().unwrap_or(NOTHING))
    }

    /// Bytes below which zeros are not told from data; `None` for no search.
    fn zero_unit(&self) -> Option<u64> {
        match self.zero_search {
            ZeroSearch::Auto => Some(4096),
            ZeroSearch::Off => None,
            ZeroSearch::Unit(unit) => Some(unit.max(1)),
        }
    }
}

/// What a copy did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CopyReport {
    /// Guest bytes written to the target.
    pub written: u64,
    /// Guest bytes of the source's allocated data that turned out to be zero.
    pub found_zero: u64,
    /// Of the bytes written, those that the kernel copied or shared without passing through vdisk.
    pub kernel_copied: u64,
}

/// Counts while threads work.
#[derive(Debug, Default)]
struct Counts {
    written: AtomicU64,
    found_zero: AtomicU64,
    kernel_copied: AtomicU64,
}

impl Counts {
    fn report(&self) -> CopyReport {
        CopyReport {
            written: self.written.load(Ordering::Relaxed),
            found_zero: self.found_zero.load(Ordering::Relaxed),
            kernel_copied: self.kernel_copied.load(Ordering::Relaxed),
        }
    }
}

/// Fills the new image of `writer` with the content of `source` and finishes it. Where the new
/// image is larger, the rest is zero.
///
/// # Errors
/// Those of both sides; [`Usage`](vdisk_core::ErrorKind::Usage) where the new image is smaller.
pub fn copy(
    source: &dyn Disk,
    mut writer: Box<dyn ImageWriter>,
    options: &CopyOptions,
    watch: Watch<'_>,
) -> Result<CopyReport> {
    if writer.virtual_size() < source.len() {
        return Err(vdisk_core::Error::usage("the new image is smaller than the source"));
    }
    let source = &options.masked(source);
    watch.progress.begin("convert", source.len());
    let counts = Counts::default();
    match writer.encoder() {
        Some(encoder) => encode::run(source, &mut *writer, &*encoder, options, watch, &counts)?,
        None => place::run(source, &mut *writer, options, watch, &counts)?,
    }
    writer.finish()?;
    watch.progress.end();
    Ok(counts.report())
}

/// Writes the content of `source` into the existing image `target`, which reads like `source`
/// afterwards (and as zeros beyond its end). With `known_zero` the target is taken to be all zero.
/// The target is flushed, not closed.
///
/// # Errors
/// Those of both sides; [`Refused`](vdisk_core::ErrorKind::Refused) where the target is smaller.
pub fn copy_into(
    source: &dyn Disk,
    target: &mut ImageMut,
    known_zero: bool,
    options: &CopyOptions,
    watch: Watch<'_>,
) -> Result<CopyReport> {
    let all = Checkpoints::NONE;
    inplace::overwrite(&options.masked(source), target, known_zero, all, options, watch)
}

/// As [`copy_into`], in order, from a byte on and with flushes on the way, so that a copy that was
/// cut off can go on. Where it goes on, the target is not `known_zero` any more.
///
/// # Errors
/// As [`copy_into`]; those of [`Checkpoints::reached`].
pub fn copy_into_by_steps(
    source: &dyn Disk,
    target: &mut ImageMut,
    known_zero: bool,
    checkpoints: Checkpoints<'_>,
    options: &CopyOptions,
    watch: Watch<'_>,
) -> Result<CopyReport> {
    inplace::overwrite(&options.masked(source), target, known_zero, checkpoints, options, watch)
}

/// Writes into the new child `target` only what differs between its parents and `source`.
///
/// # Errors
/// Those of both sides; [`Usage`](vdisk_core::ErrorKind::Usage) where the sizes differ.
pub fn copy_differences(
    source: &dyn Disk,
    target: &mut ImageMut,
    options: &CopyOptions,
    watch: Watch<'_>,
) -> Result<CopyReport> {
    inplace::differences(&options.masked(source), target, options, watch)
}

/// The parts of `data` (ranges of the disk within the window that starts at `start` and is held in
/// `bytes`) that are not zero, in runs that begin and end at multiples of `unit`.
fn nonzero_runs(start: u64, bytes: &[u8], data: &[Range<u64>], unit: u64) -> Vec<Range<u64>> {
    let unit_len = usize::try_from(unit).unwrap_or(usize::MAX);
    let mut found: Vec<Range<u64>> = Vec::new();
    for range in data {
        // Units are counted from the disk's start, so the first one may be shorter.
        let to_edge = usize::try_from(range.start.next_multiple_of(unit) - range.start);
        let whole = slice_of(bytes, start, range);
        let (head, tail) = whole.split_at(to_edge.unwrap_or(usize::MAX).min(whole.len()));
        let mut at = range.start;
        for (part, size) in [(head, head.len().max(1)), (tail, unit_len)] {
            for (run, zero) in zeros::runs(part, size) {
                let run = at + run.start as u64..at + run.end as u64;
                match found.last_mut() {
                    _ if zero => {}
                    Some(last) if last.end == run.start => last.end = run.end,
                    _ => found.push(run),
                }
            }
            at += part.len() as u64;
        }
    }
    found
}

/// The bytes of `range` in a window that starts at `start`; empty where it lies outside.
pub(crate) fn slice_of<'a>(bytes: &'a [u8], start: u64, range: &Range<u64>) -> &'a [u8] {
    let at = |position: u64| usize::try_from(position.wrapping_sub(start)).unwrap_or(usize::MAX);
    bytes.get(at(range.start)..at(range.end)).unwrap_or_default()
}

/// Fills `buf` with the window that starts at `start`: what lies outside `data` is zero.
fn read_window(source: &dyn Disk, buf: &mut [u8], start: u64, data: &[Range<u64>]) -> Result<()> {
    let mut filled = 0;
    for range in data {
        let at = |position: u64| usize::try_from(position - start).unwrap_or(usize::MAX);
        let (from, to) = (at(range.start), at(range.end));
        if let Some(gap) = buf.get_mut(filled..from) {
            gap.fill(0);
        }
        if let Some(part) = buf.get_mut(from..to) {
            source.read_at(part, range.start)?;
        }
        filled = to;
    }
    if let Some(gap) = buf.get_mut(filled..) {
        gap.fill(0);
    }
    Ok(())
}

pub(crate) fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// A buffer for a window of `len` bytes.
pub(crate) fn buffer(len: u64) -> Vec<u8> {
    vec![0; usize::try_from(len).unwrap_or_default()]
}

#[cfg(test)]
#[allow(clippy::single_range_in_vec_init)] // lists of runs, most of them short
mod tests {
    use super::*;

    #[test]
    fn nonzero_runs_are_aligned_and_complete() {
        let mut bytes = vec![0u8; 4096];
        bytes[700] = 1;
        bytes[2048] = 1;
        let all = std::slice::from_ref(&(1000..5096));
        assert_eq!(nonzero_runs(1000, &bytes, all, 512), [1536..2048, 3048 / 512 * 512..3072]);
        assert_eq!(nonzero_runs(1000, &bytes, &[1000..1700], 512), [] as [Range<u64>; 0]);
        assert_eq!(nonzero_runs(1000, &bytes, &[1000..1701], 1), [1700..1701]);
    }
}
