//! Making an image smaller: finding what holds only zeros, and having the format give it back.
//!
//! The image's own data (not that of its parents) is searched for zeros; a format then gives up
//! the blocks that lie in what was found as a whole, moves the last ones into the gaps, and cuts
//! its files. What a guest reads does not change, so the image keeps its identity and its children
//! stay valid. A run that is cut off loses nothing, and the next one finishes it.

use std::ops::Range;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use vdisk_core::{
    Compaction, Disk, Error, Findings, HostFile, Layer, LayerExtent, LayerKind, Ranges, Result,
    Severity, StoreExt, Vacant, zeros,
};

use crate::convert::{Watch, buffer};
use crate::open::{ImageMut, OpenOptions};
use crate::parallel::{default_threads, for_each};
use crate::siblings::standing_on;
use crate::windows::WINDOW;

/// How to compact.
#[derive(Clone, Copy, Debug)]
pub struct CompactRequest<'a> {
    /// Only find out what would be done.
    pub dry_run: bool,
    /// Guest bytes that nobody needs, such as what a file system calls free. Then the content
    /// changes, and with it the identity: children of the image become invalid.
    pub free: Option<&'a Ranges>,
    /// Pieces worked on at once.
    pub threads: usize,
}

impl Default for CompactRequest<'_> {
    fn default() -> Self {
        Self { dry_run: false, free: None, threads: default_threads() }
    }
}

/// What was compacted: `vdisk compact --output json`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct CompactReport {
    /// `vdisk.compact/1`.
    pub schema: &'static str,
    /// The image.
    pub filename: String,
    /// Its format.
    pub format: &'static str,
    /// Bytes of its files before.
    pub size_before: u64,
    /// Bytes of its files afterwards.
    pub size_after: u64,
    /// Bytes of an allocation unit, where the format has them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_size: Option<u64>,
    /// Allocation units given up.
    pub blocks_released: u64,
    /// Allocation units that moved within their file.
    pub blocks_moved: u64,
    /// Bytes inside the files that became holes of the host's file system.
    pub bytes_punched: u64,
    /// Nothing was changed.
    pub dry_run: bool,
    /// What the user should know.
    pub remarks: Vec<String>,
}

/// Gives back what the image at `path`, opened with `open`, stores without need.
///
/// # Errors
/// Those of opening the chain; [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for a variant
/// that is not changed in place; [`Refused`](vdisk_core::ErrorKind::Refused) for a device, except
/// in a dry run; [`Cancelled`](vdisk_core::ErrorKind::Cancelled); the host's. The
/// image is whole after each of them.
pub fn compact(
    path: &Path,
    open: &OpenOptions,
    request: &CompactRequest<'_>,
    watch: Watch<'_>,
) -> Result<CompactReport> {
    if request.dry_run {
        let mut layers = open.open(path)?.into_layers();
        let below = crate::Chain::new(layers.split_off(1));
        let top = layers.pop().ok_or_else(|| Error::internal("a chain without a top"))?;
        let search = Search::new(&*top, &below, request);
        let (vacant, complete) = search.run(watch)?;
        let plan = top.plan_compact(&vacant)?;
        return report(path, &*top, files_len(&*top)?, plan, request, complete);
    }
    refuse_device(path)?;
    let mut image = open.open_rw(path)?;
    if request.free.is_some() {
        refuse_children(path, &image)?;
    }
    let (top, below) = image.split();
    let before = files_len(top)?;
    let (vacant, complete) = Search::new(top, below, request).run(watch)?;
    let mut done = top.plan_compact(&vacant)?;
    if done != Compaction::default() || is_untidy(top)? {
        if let (Some(identity), None) = (top.info().identity.clone(), request.free) {
            top.set_identity(&identity)?;
        }
        let unit = top.info().block_size.unwrap_or_default();
        watch.progress.begin("move", done.moved.saturating_mul(unit));
        done = top.compact(&vacant, watch)?;
        watch.progress.end();
        top.close()?;
        watch.cancel.check()?;
    }
    report(path, top, before, done, request, complete)
}

/// A disk has no file that could get smaller, and may hold what its file systems do not tell of.
fn refuse_device(path: &Path) -> Result<()> {
    if !HostFile::open(path)?.is_device() {
        return Ok(());
    }
    Err(Error::refused("is a block device, which is not compacted").in_file(path).hint(
        "have its own system trim it (fstrim), or convert it to an image, with --skip-free if \
         that shall be small",
    ))
}

/// Whether an earlier writer left marks, or space that nothing uses.
fn is_untidy(layer: &dyn Layer) -> Result<bool> {
    let mut findings = Findings::new();
    if !layer.info().dirty {
        layer.check(&mut findings)?;
    }
    Ok(layer.info().dirty || findings.count(Severity::Leak) > 0)
}

/// With free space given up, the content changes; whoever stands on it must not.
fn refuse_children(path: &Path, image: &ImageMut) -> Result<()> {
    let Some(child) = standing_on([image.info()], image.files()).into_iter().next() else {
        return Ok(());
    };
    Err(Error::refused(format!("{} stands on it and would become invalid", child.display()))
        .in_file(path)
        .hint("compact without giving up free space, or merge or delete that image first"))
}

fn report(
    path: &Path,
    top: &dyn Layer,
    before: u64,
    done: Compaction,
    request: &CompactRequest<'_>,
    complete: bool,
) -> Result<CompactReport> {
    let info = top.info();
    let size_after = match request.dry_run {
        true => before.saturating_sub(done.cut),
        false => files_len(top)?,
    };
    let mut remarks = Vec::new();
    if request.free.is_some() {
        remarks.push("children of this image, if it has any, become invalid".to_owned());
    }
    if !complete {
        remarks.push("there is more to give back: run it again".to_owned());
    }
    Ok(CompactReport {
        schema: "vdisk.compact/1",
        filename: path.display().to_string(),
        format: info.format.name(),
        size_before: before,
        size_after,
        block_size: info.block_size,
        blocks_released: done.released,
        blocks_moved: done.moved,
        bytes_punched: done.punched,
        dry_run: request.dry_run,
        remarks,
    })
}

fn files_len(layer: &dyn Layer) -> Result<u64> {
    layer.stores().iter().map(|store| store.size()).sum()
}

/// What is known of a part of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Known {
    /// It reads the same if the image says nothing of it.
    unsaid: bool,
    /// It reads as zeros.
    zeros: bool,
    /// The image stores it.
    stored: bool,
}

const DATA: Known = Known { unsaid: false, zeros: false, stored: true };

/// Looking for what an image need not store.
struct Search<'a> {
    top: &'a dyn Layer,
    below: &'a dyn Disk,
    /// Whether what the image says nothing of is the parents'.
    child: bool,
    size: u64,
    /// Shorter ranges are not worth knowing of.
    least: u64,
    free: Option<&'a Ranges>,
    threads: usize,
}

impl<'a> Search<'a> {
    fn new(top: &'a dyn Layer, below: &'a dyn Disk, request: &CompactRequest<'a>) -> Self {
        let info = top.info();
        Self {
            top,
            below,
            child: info.parent.is_some(),
            size: info.virtual_size,
            least: info.block_size.unwrap_or(4096),
            free: request.free,
            threads: request.threads,
        }
    }

    /// What was found, and whether that is all.
    fn run(&self, watch: Watch<'_>) -> Result<(Vacant, bool)> {
        watch.progress.begin("search", self.size);
        let found = Mutex::new([Growing::new(self.least), Growing::new(self.least)]);
        for_each(self.pieces(), self.threads, watch.cancel, |piece, turn| {
            let parts = self.parts(&piece)?;
            turn.take(|| {
                let mut found = found.lock().unwrap_or_else(PoisonError::into_inner);
                let [unsaid, zeros] = &mut *found;
                for (range, known) in parts {
                    unsaid.add(&range, known.unsaid, known.stored);
                    zeros.add(&range, known.zeros && self.child, known.stored);
                }
                Ok(())
            })?;
            watch.progress.advance(piece.len);
            Ok(())
        })?;
        watch.progress.end();
        let found = found.into_inner().unwrap_or_else(PoisonError::into_inner);
        let complete = found.iter().all(|ranges| !ranges.full);
        let [unsaid, zeros] = found.map(|ranges| ranges.finish(self.size));
        Ok((Vacant { unsaid, zeros }, complete))
    }

    /// The layer's extents, data in pieces of at most a window.
    fn pieces(&self) -> impl Iterator<Item = Result<LayerExtent>> + Send + use<'_> {
        let (mut at, mut failed) = (0, false);
        std::iter::from_fn(move || {
            if at >= self.size || failed {
                return None;
            }
            let piece = self.piece(at);
            failed = piece.is_err();
            at = piece.as_ref().map_or(at, |piece| piece.start + piece.len);
            Some(piece)
        })
    }

    fn piece(&self, at: u64) -> Result<LayerExtent> {
        let mut extent = self.top.extent_at(at, self.size)?;
        if let LayerKind::Data { store, at: place } = extent.kind {
            let store = self.top.stores().get(store);
            let store = store.ok_or_else(|| Error::internal("an extent names no store"))?;
            let run = store
                .run_at(place, place + extent.len)
                .map_err(|e| Error::io(e, "look for holes").in_file(store.name()))?;
            if run.hole {
                extent.len = extent.len.min(run.len);
            } else {
                let to_edge = WINDOW - at % WINDOW;
                extent.len = extent.len.min(run.len).min(to_edge);
            }
        }
        Ok(extent)
    }

    /// What is known of a piece, in parts.
    fn parts(&self, piece: &LayerExtent) -> Result<Vec<(Range<u64>, Known)>> {
        let range = piece.start..piece.start + piece.len;
        match piece.kind {
            LayerKind::Hole => {
                self.above_zeros(range, false, |zeros| Known { unsaid: true, zeros, stored: false })
            }
            LayerKind::Zero { .. } => self.above_zeros(range, false, |unsaid| Known {
                unsaid,
                zeros: true,
                stored: false,
            }),
            LayerKind::Compressed(_) => Ok(vec![(range, DATA)]),
            LayerKind::Data { store, at } => {
                let mut parts = Vec::new();
                for (range, zero) in self.zeros_of(range, store, at)? {
                    if zero {
                        parts.extend(self.above_zeros(range, true, |unsaid| Known {
                            unsaid,
                            zeros: true,
                            stored: true,
                        })?);
                    } else {
                        parts.push((range, DATA));
                    }
                }
                Ok(parts)
            }
        }
    }

    /// Cuts a range of data, which stands at byte `at` of a store, where zeros begin and end.
    fn zeros_of(
        &self,
        range: Range<u64>,
        store: usize,
        at: u64,
    ) -> Result<Vec<(Range<u64>, bool)>> {
        if range.end - range.start > WINDOW {
            // Only a hole of the host's file is that long.
            return Ok(vec![(range, true)]);
        }
        let store = self.top.stores().get(store);
        let store = store.ok_or_else(|| Error::internal("an extent names no store"))?;
        let mut bytes = buffer(range.end - range.start);
        store.fetch(&mut bytes, at, "guest data")?;
        if let Some(free) = self.free {
            for unneeded in free.within(range.clone()) {
                let place = |guest: u64| {
                    let within = guest.clamp(range.start, range.end) - range.start;
                    usize::try_from(within).unwrap_or(usize::MAX)
                };
                if let Some(part) = bytes.get_mut(place(unneeded.start)..place(unneeded.end)) {
                    part.fill(0);
                }
            }
        }
        // Sectors are what formats tell apart, wherever their blocks begin.
        Ok(zeros::runs(&bytes, 512)
            .map(|(run, zero)| (range.start + run.start as u64..range.start + run.end as u64, zero))
            .collect())
    }

    /// Cuts a range where the parents begin and end to be zeros; without `look`, by what their maps
    /// say alone.
    fn above_zeros(
        &self,
        range: Range<u64>,
        look: bool,
        known: impl Fn(bool) -> Known,
    ) -> Result<Vec<(Range<u64>, Known)>> {
        if !self.child || range.start >= self.below.len() {
            return Ok(vec![(range, known(true))]);
        }
        let mut parts = Vec::new();
        let end = range.end.min(self.below.len());
        for extent in self.below.extents(range.start..end) {
            let extent = extent?;
            if extent.is_zero() || !look {
                parts.push((extent.start..extent.end(), known(extent.is_zero())));
                continue;
            }
            let mut at = extent.start;
            while at < extent.end() {
                let mut bytes = buffer((extent.end() - at).min(WINDOW));
                self.below.read_at(&mut bytes, at)?;
                parts.extend(
                    zeros::runs(&bytes, 512).map(|(run, zero)| {
                        (at + run.start as u64..at + run.end as u64, known(zero))
                    }),
                );
                at += bytes.len() as u64;
            }
        }
        if end < range.end {
            parts.push((end..range.end, known(true)));
        }
        Ok(parts)
    }
}

/// Ranges as they grow together.
struct Growing {
    list: Vec<Range<u64>>,
    /// The range that may go on, and whether something in it is stored.
    last: Option<(Range<u64>, bool)>,
    least: u64,
    /// There were more than are kept.
    full: bool,
}

impl Growing {
    /// 64 MB of memory.
    const MOST: usize = 4 << 20;

    fn new(least: u64) -> Self {
        Self { list: Vec::new(), last: None, least, full: false }
    }

    /// The range that follows on the one before; `taken`: it belongs to the list.
    fn add(&mut self, range: &Range<u64>, taken: bool, stored: bool) {
        if !taken {
            self.end(false);
            return;
        }
        let (last, any) = self.last.get_or_insert((range.start..range.start, false));
        last.end = range.end;
        *any |= stored;
    }

    /// Ends the last range. One that reaches the disk's end may hold a block that is cut short.
    fn end(&mut self, at_disk_end: bool) {
        let Some((range, true)) = self.last.take() else { return };
        if range.end - range.start < self.least && !at_disk_end {
            return;
        }
        self.full |= self.list.len() >= Self::MOST;
        if !self.full {
            self.list.push(range);
        }
    }

    fn finish(mut self, size: u64) -> Ranges {
        let at_disk_end = self.last.as_ref().is_some_and(|(range, _)| range.end == size);
        self.end(at_disk_end);
        self.list.into_iter().collect()
    }
}
