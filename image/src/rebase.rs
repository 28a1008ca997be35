//! Another parent for an image: with the content kept, or only the link.
//!
//! To keep the content, the image gets, before anything else, what its old parents hold wherever
//! the new ones hold something else and the image itself has nothing. That changes nothing of what
//! it reads like. Only when it is durable does the link change, in one step. So whenever the work
//! is cut off, the image is as good as before on its old parent, and the next run goes on.

use std::ops::Range;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use vdisk_core::disk::read_padded;
use vdisk_core::{
    Error, ErrorKind, Format, HostFile, Layer, LayerInfo, LayerKind, LayerMut, Result, zeros,
};

use crate::chain::Chain;
use crate::convert::{Watch, buffer, differing_runs, slice_of};
use crate::create::{open_as_parent, parent_link};
use crate::journal;
use crate::open::{Image, OpenOptions};
use crate::pair::pairs;
use crate::parallel::{default_threads, for_each};
use crate::windows::{Part, Piece, WINDOW, pieces};

/// What the new parent is, and how it becomes that.
#[derive(Clone, Copy, Debug)]
pub struct RebaseRequest<'a> {
    /// The new parent.
    pub parent: &'a Path,
    /// Change only the link, whatever the new parent holds: for a parent that was moved, or whose
    /// identity changed although its content did not.
    pub link_only: bool,
    /// Only find out what would be done.
    pub dry_run: bool,
    /// Pieces worked on at once.
    pub threads: usize,
}

impl<'a> RebaseRequest<'a> {
    /// To `parent`, with the content kept.
    #[must_use]
    pub fn new(parent: &'a Path) -> Self {
        Self { parent, link_only: false, dry_run: false, threads: default_threads() }
    }
}

/// What a rebase did: `vdisk rebase --output json`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct RebaseReport {
    /// `vdisk.rebase/1`.
    pub schema: &'static str,
    /// The image.
    pub filename: String,
    /// The parent it named, as it said.
    pub old_backing_filename: Option<String>,
    /// The new parent.
    pub backing_filename: String,
    /// Guest bytes that the image took over from its old parents.
    pub copied: u64,
    /// Only the link was changed.
    pub link_only: bool,
    /// Nothing was changed.
    pub dry_run: bool,
}

/// Gives the image at `path`, opened with `open`, another parent. Its identity stays, so images
/// that stand on it stay valid.
///
/// # Errors
/// Those of opening both chains, of which the old one is only opened to keep the content;
/// [`ParentCycle`](ErrorKind::ParentCycle) where the new parent is the image or stands on it;
/// [`Refused`](ErrorKind::Refused) where its size or sectors are others;
/// [`Unsupported`](ErrorKind::Unsupported) for an image without parent, or a parent that its format
/// cannot name; the host's.
pub fn rebase(
    path: &Path,
    open: &OpenOptions,
    request: &RebaseRequest<'_>,
    watch: Watch<'_>,
) -> Result<RebaseReport> {
    let open = &open.clone().in_one_session();
    let alone = open.clone().without_parents().open(path)?;
    let info = alone.info().clone();
    let Some(link) = &info.parent else {
        return Err(Error::unsupported("it has no parent that could be changed")
            .in_file(path)
            .hint("make an image that keeps what differs with: vdisk convert -b PARENT"));
    };
    let parent = open_parent(path, &alone, &open.for_another().in_doubt(info.format), request)?;
    refuse_mismatch(request.parent, &info, parent.info())?;
    drop(alone);
    let copied = match request.link_only {
        true => relink(path, open, request, parent.info()).map(|()| 0),
        false => move_over(path, open, request, &parent, watch),
    }?;
    Ok(RebaseReport {
        schema: "vdisk.rebase/1",
        filename: path.display().to_string(),
        old_backing_filename: link.hints.first().map(|hint| hint.path.clone()),
        backing_filename: request.parent.display().to_string(),
        copied,
        link_only: request.link_only,
        dry_run: request.dry_run,
    })
}

/// Opens the new parent, with its own parents where their content matters.
fn open_parent(
    path: &Path,
    image: &Image,
    open: &OpenOptions,
    request: &RebaseRequest<'_>,
) -> Result<Image> {
    let cycle = || {
        Error::new(ErrorKind::ParentCycle, "the new parent is the image itself, or stands on it")
            .in_file(path)
            .hint("choose a parent that does not depend on the image")
    };
    let own = image.host_ids();
    if own.contains(&HostFile::open(request.parent)?.id()) {
        return Err(cycle());
    }
    let parent = open_as_parent(request.parent, open)?;
    if parent.host_ids().iter().any(|id| own.contains(id)) {
        return Err(cycle());
    }
    Ok(parent)
}

fn refuse_mismatch(path: &Path, child: &LayerInfo, parent: &LayerInfo) -> Result<()> {
    if parent.virtual_size != child.virtual_size {
        // A VHD keeps its identity when it is resized, so the child still stands on it.
        let force = if parent.format == Format::Vhd { " --force" } else { "" };
        return Err(Error::refused(format!(
            "it has {} bytes, the image {}",
            parent.virtual_size, child.virtual_size
        ))
        .in_file(path)
        .hint(match parent.virtual_size > child.virtual_size {
            true => format!(
                "a parent must have the size of its child; if it was resized since, first: vdisk \
                 resize --shrink{force} {} {}",
                path.display(),
                child.virtual_size
            ),
            false => format!(
                "a parent must have the size of its child; what it lost by a shrink is gone; the \
                 rest can be had with: vdisk resize{force} {} {}",
                path.display(),
                child.virtual_size
            ),
        }));
    }
    if parent.logical_sector != child.logical_sector {
        return Err(Error::refused(format!(
            "it has sectors of {} bytes, the image of {}",
            parent.logical_sector, child.logical_sector
        ))
        .in_file(path)
        .hint("a parent must have the sectors of its child"));
    }
    Ok(())
}

/// Changes only the link.
fn relink(
    path: &Path,
    open: &OpenOptions,
    request: &RebaseRequest<'_>,
    parent: &LayerInfo,
) -> Result<()> {
    if request.dry_run {
        return Ok(());
    }
    let mut layer = open.open_alone_rw(path)?;
    change_link(&mut *layer, path, request.parent, parent)?;
    layer.close()
}

fn change_link(
    layer: &mut dyn LayerMut,
    path: &Path,
    parent_path: &Path,
    parent: &LayerInfo,
) -> Result<()> {
    let real = path.canonicalize().map_err(|e| Error::io(e, "find it").in_file(path))?;
    layer.relink(&parent_link(&real, parent_path, parent)?)
}

/// Takes over what differs, then changes the link; the bytes taken over.
fn move_over(
    path: &Path,
    open: &OpenOptions,
    request: &RebaseRequest<'_>,
    parent: &Image,
    watch: Watch<'_>,
) -> Result<u64> {
    if journal::is_there(path) {
        return Err(Error::refused("a commit of it was cut off and waits to be finished")
            .in_file(path)
            .hint(format!("finish it first with: vdisk commit {}", path.display())));
    }
    let mut layers = open.open(path).map_err(old_parent_needed)?.into_layers();
    let below = Chain::new(layers.split_off(1));
    let run = Run { old: &below, new: parent, threads: request.threads, watch };
    if request.dry_run {
        let image = layers.pop().ok_or_else(|| Error::internal("an image without a layer"))?;
        return run.count(&*image);
    }
    drop(layers);
    let mut image = open.open_alone_rw(path)?;
    if let Some(identity) = image.info().identity.clone() {
        image.set_identity(&identity)?;
    }
    let copied = run.take_over(&mut *image)?;
    image.flush()?;
    change_link(&mut *image, path, request.parent, parent.info())?;
    image.close()?;
    Ok(copied)
}

fn old_parent_needed(error: Error) -> Error {
    match error.kind() {
        ErrorKind::ParentMissing | ErrorKind::ParentMismatch | ErrorKind::Confined => {
            Error::new(error.kind(), format!("its old parents are needed to keep its content: {error}"))
                .hint("name the old parent with --parent FILE; or, if the new one surely holds the same, add -u")
                .caused_by(error)
        }
        _ => error,
    }
}

/// The old and the new parents, side by side.
struct Run<'a> {
    old: &'a Chain,
    new: &'a Image,
    threads: usize,
    watch: Watch<'a>,
}

impl Run<'_> {
    /// Writes into `image` what would change with the parent.
    fn take_over(&self, image: &mut dyn LayerMut) -> Result<u64> {
        let size = image.info().virtual_size;
        let image = Mutex::new(image);
        self.each_difference(size, |run, bytes| {
            let mut image = image.lock().unwrap_or_else(PoisonError::into_inner);
            let mut copied = 0;
            for hole in holes(&**image, run)? {
                let piece = slice_of(bytes, run.start, &hole);
                copied += hole.end - hole.start;
                if zeros::is_zero(piece) {
                    image.zero(hole, self.old)?;
                } else {
                    image.write(piece, hole.start, self.old)?;
                }
            }
            Ok(copied)
        })
    }

    /// Counts what would change with the parent.
    fn count(&self, image: &dyn Layer) -> Result<u64> {
        self.each_difference(image.info().virtual_size, |run, _| {
            Ok(holes(image, run)?.iter().map(|hole| hole.end - hole.start).sum())
        })
    }

    /// Calls `each` with every run of the disk in which the parents differ, in order, and what the
    /// old ones hold there; the sum of what it returns.
    fn each_difference(
        &self,
        size: u64,
        each: impl Fn(&Range<u64>, &[u8]) -> Result<u64> + Sync,
    ) -> Result<u64> {
        self.watch.progress.begin("rebase", size);
        let copied = AtomicU64::new(0);
        let ranges = pairs(self.old, self.new, 0..size).map(|pair| {
            pair.map(|pair| (pair.start..pair.start + pair.len, Part::zero_or_data(pair.same)))
        });
        for_each(pieces(ranges, WINDOW), self.threads, self.watch.cancel, |piece, turn| {
            let (range, candidates) = match piece {
                Piece::Zero(range) => (range, Vec::new()),
                Piece::Window { range, data } => (range, data),
            };
            if !candidates.is_empty() {
                let [mut old, mut new] = [(); 2].map(|()| buffer(range.end - range.start));
                read_padded(self.old, &mut old, range.start)?;
                read_padded(self.new, &mut new, range.start)?;
                let runs = differing_runs(range.start, &old, &new, &candidates);
                turn.take(|| {
                    for run in &runs {
                        let done = each(run, slice_of(&old, range.start, run))?;
                        copied.fetch_add(done, Ordering::Relaxed);
                    }
                    Ok(())
                })?;
            }
            self.watch.progress.advance(range.end - range.start);
            Ok(())
        })?;
        self.watch.progress.end();
        Ok(copied.into_inner())
    }
}

/// The parts of `run` that the image leaves to its parents.
fn holes<L: Layer + ?Sized>(image: &L, run: &Range<u64>) -> Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    let mut at = run.start;
    while at < run.end {
        let extent = image.extent_at(at, run.end)?;
        let end = extent.start + extent.len;
        if extent.kind == LayerKind::Hole {
            found.push(at..end);
        }
        at = end;
    }
    Ok(found)
}
