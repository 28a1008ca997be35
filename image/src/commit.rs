//! Merging an image down into its parent, or into an ancestor.
//!
//! The target is made to read like the image by writing into it what the image and the layers
//! between hold themselves. What the image reads like never changes: every byte that is written is
//! one that some layer above the target covers, so whoever reads through the image never asks the
//! target for it. The merge may therefore stop anywhere and be done again.
//!
//! What could break is the link. A format whose identity changes with the content (VHDX, VMDK)
//! wants it changed before the first byte, so that other children of the target find out. The
//! order, each step durable before the next:
//!
//! 1. a note beside the image says which identity follows on which ([`Journal`]);
//! 2. the target takes its new identity, and the layer above it the new link;
//! 3. the merge;
//! 4. where there are layers between: the image is linked to the target itself, and the layer
//!    above the target gets its old link back, so that nobody takes it for what it was;
//! 5. the note goes.
//!
//! Only between the two parts of step 2 is the chain broken; the note tells the next run so.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{
    Disk, Error, ErrorKind, Extent, ExtentKind, Format, HostFile, Layer, LayerInfo, LayerMut,
    Result, zeros,
};

use crate::chain::Chain;
use crate::convert::{Watch, buffer};
use crate::create::parent_link;
use crate::journal::Journal;
use crate::open::{Image, ImageMut, LayerFile, OpenOptions};
use crate::parallel::{default_threads, for_each};
use crate::siblings::standing_on;
use crate::windows::WINDOW;

/// What to commit into, and how.
#[derive(Clone, Copy, Debug)]
pub struct CommitRequest<'a> {
    /// The file of the chain to merge into; the parent if not given.
    pub into: Option<&'a Path>,
    /// Only find out what would be done.
    pub dry_run: bool,
    /// Go on although other images are known to stand on what changes: they become invalid.
    pub force: bool,
    /// Pieces worked on at once.
    pub threads: usize,
}

impl Default for CommitRequest<'_> {
    fn default() -> Self {
        Self { into: None, dry_run: false, force: false, threads: default_threads() }
    }
}

/// What a commit did: `vdisk commit --output json`.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct CommitReport {
    /// `vdisk.commit/1`.
    pub schema: &'static str,
    /// The image.
    pub filename: String,
    /// What it was merged into.
    pub target: String,
    /// Guest bytes that the layers above the target hold.
    pub data: u64,
    /// Guest bytes that they hide behind zeros.
    pub zeros: u64,
    /// An earlier run was cut off, and this one finished its work.
    pub resumed: bool,
    /// Nothing was changed.
    pub dry_run: bool,
    /// Images between the two, which no longer hold what they did.
    pub invalid: Vec<String>,
    /// Other images found beside these that stand on what changes, and become invalid.
    pub siblings: Vec<String>,
    /// What the user should know.
    pub remarks: Vec<String>,
}

/// Merges the image at `path`, opened with `open`, down into its parent or the ancestor that
/// `request` names. The image itself keeps its content, and then holds the same as the target.
///
/// Whatever else stands on the target, or on an image between the two, is invalid afterwards.
///
/// # Errors
/// Those of opening the chain; [`Usage`](ErrorKind::Usage) for an image without parent or a target
/// that is not in its chain; [`Refused`](ErrorKind::Refused) where the target is too small;
/// [`Unsupported`](ErrorKind::Unsupported) where it cannot be written; the host's. After a run that
/// failed or was cut off the image reads as before, and the next run finishes; at most it has to be
/// run before the image opens again.
pub fn commit(
    path: &Path,
    open: &OpenOptions,
    request: &CommitRequest<'_>,
    watch: Watch<'_>,
) -> Result<CommitReport> {
    let open = &open.clone().in_one_session();
    let earlier = Journal::read(path)?;
    let chain = open_chain(path, open, earlier.as_ref())?;
    let target = target_of(path, &chain, request.into)?;
    let job = Job::new(path, open, &chain, target, earlier)?;
    if !request.dry_run && !request.force {
        job.refuse_siblings()?;
    }
    let above = Chain::upper(upper(chain, target));
    let plan = Plan::of(&above, job.target_info.virtual_size, &job.target.path)?;
    if !request.dry_run {
        drop(above);
        job.run(&plan, request.threads, watch)?;
    }
    Ok(job.report(&plan, request.dry_run))
}

/// Opens the chain, also where an earlier run was cut off between the target's new identity and
/// the new link.
fn open_chain(path: &Path, open: &OpenOptions, earlier: Option<&Journal>) -> Result<Image> {
    let begun = earlier.and_then(|note| Some((note.link.as_deref()?, note.identity.as_deref()?)));
    match (open.open_chain(path), begun) {
        (Err(error), Some((link, identity))) if error.kind() == ErrorKind::ParentMismatch => {
            open.clone().renewed(link, identity).open_chain(path)
        }
        (opened, _) => opened,
    }
}

/// The number of the layer to merge into.
fn target_of(path: &Path, chain: &Image, into: Option<&Path>) -> Result<usize> {
    if chain.files().len() < 2 {
        return Err(Error::usage("it has no parent to commit into")
            .in_file(path)
            .hint("only a differencing image can be committed"));
    }
    let Some(into) = into else { return Ok(1) };
    let id = HostFile::open(into)?.id();
    let mut ancestors = chain.files().iter().skip(1);
    ancestors.position(|file| file.id == id).map(|index| index + 1).ok_or_else(|| {
        let names = chain.files().iter().skip(1).map(|file| file.path.display().to_string());
        Error::usage(format!("{} is not among its parents", into.display()))
            .in_file(path)
            .hint(format!("its parents are: {}", names.collect::<Vec<_>>().join(", ")))
    })
}

/// The layers above number `target`.
fn upper(chain: Image, target: usize) -> Vec<Box<dyn Layer>> {
    let mut layers = chain.into_layers();
    layers.truncate(target);
    layers
}

/// What the layers above the target hold.
#[derive(Clone, Copy, Debug, Default)]
struct Plan {
    data: u64,
    zeros: u64,
}

impl Plan {
    /// Looks at the layers `above` a target of `size` bytes, without changing anything.
    fn of(above: &Chain, size: u64, target: &Path) -> Result<Self> {
        let mut plan = Self::default();
        for work in works(above, size) {
            let Work { start, end, zero } = work?;
            *(if zero { &mut plan.zeros } else { &mut plan.data }) += end - start;
        }
        if above.len() > size {
            refuse_data(above, size, target)?;
        }
        Ok(plan)
    }
}

/// Fails where the layers hold anything but zeros beyond the target's end.
fn refuse_data(above: &Chain, size: u64, target: &Path) -> Result<()> {
    let beyond = above.extents(size..above.len());
    for work in runs(beyond).flat_map(cut) {
        let Work { start, end, zero } = work?;
        let mut bytes = if zero { Vec::new() } else { buffer(end - start) };
        above.read_at(&mut bytes, start)?;
        if !zeros::is_zero(&bytes) {
            return Err(Error::refused(format!(
                "it has {size} bytes, too few for what stands at byte {start} and after"
            ))
            .in_file(target)
            .hint("convert the image instead, which makes a new one of the full size"));
        }
    }
    Ok(())
}

/// A run of bytes that the layers above the target hold.
#[derive(Clone, Copy, Debug)]
struct Work {
    start: u64,
    end: u64,
    zero: bool,
}

/// What of the first `size` bytes the layers `above` hold themselves: data in pieces that fit a
/// buffer, zeros in one.
fn works(above: &Chain, size: u64) -> impl Iterator<Item = Result<Work>> + Send + '_ {
    runs(above.extents(0..above.len().min(size))).flat_map(cut)
}

/// Joins extents of one kind; those that nobody above the target holds are left out.
fn runs(
    extents: impl Iterator<Item = Result<Extent>> + Send,
) -> impl Iterator<Item = Result<Work>> + Send {
    let held = |extent: &Result<Extent>| {
        extent.as_ref().map_or(true, |extent| extent.kind != ExtentKind::Opaque)
    };
    let mut extents = extents.filter(held).peekable();
    std::iter::from_fn(move || {
        let first = match extents.next()? {
            Ok(first) => first,
            Err(error) => return Some(Err(error)),
        };
        let mut work = Work { start: first.start, end: first.end(), zero: first.is_zero() };
        while let Some(Ok(next)) = extents.peek()
            && next.start == work.end
            && next.is_zero() == work.zero
            && (work.zero || work.end - work.start < WINDOW)
        {
            work.end = next.end();
            extents.next();
        }
        Some(Ok(work))
    })
}

/// Cuts data into pieces.
fn cut(work: Result<Work>) -> impl Iterator<Item = Result<Work>> + Send {
    let (mut failed, rest) = match work {
        Ok(work) => (None, Some(work)),
        Err(error) => (Some(error), None),
    };
    let step = rest.filter(|work| !work.zero).map_or(u64::MAX, |_| WINDOW);
    let mut at = rest.map_or(0, |work| work.start);
    std::iter::from_fn(move || {
        if let Some(error) = failed.take() {
            return Some(Err(error));
        }
        let whole = rest.filter(|work| at < work.end)?;
        let piece = Work { start: at, end: whole.end.min(at.saturating_add(step)), ..whole };
        at = piece.end;
        Some(Ok(piece))
    })
}

/// A commit that was found possible.
#[derive(Debug)]
struct Job<'a> {
    path: &'a Path,
    open: &'a OpenOptions,
    /// The number of the target's layer.
    depth: usize,
    target: LayerFile,
    target_info: LayerInfo,
    /// The layer right above the target.
    lower: LayerFile,
    /// The identity it names.
    link: Option<String>,
    /// Its link is broken, because an earlier run was cut off.
    broken: bool,
    /// Images between the two.
    between: Vec<PathBuf>,
    /// Images that stand on the target, or on one between, and are not in this chain.
    siblings: Vec<PathBuf>,
    earlier: Option<Journal>,
}

impl<'a> Job<'a> {
    fn new(
        path: &'a Path,
        open: &'a OpenOptions,
        chain: &Image,
        depth: usize,
        earlier: Option<Journal>,
    ) -> Result<Self> {
        let lost = || Error::internal("a chain shorter than it was");
        let file = |depth: usize| chain.files().get(depth).cloned().ok_or_else(lost);
        let layer = |depth: usize| chain.layers().get(depth).ok_or_else(lost);
        let target_info = layer(depth)?.info().clone();
        let named = layer(depth - 1)?.info().parent.as_ref();
        let identities = named.map(|parent| parent.identities.clone()).unwrap_or_default();
        let present = target_info.identity.as_deref().unwrap_or_default();
        Ok(Self {
            path,
            open,
            depth,
            target: file(depth)?,
            lower: file(depth - 1)?,
            broken: !identities.is_empty()
                && !identities.iter().any(|one| one.eq_ignore_ascii_case(present)),
            link: identities.into_iter().next(),
            between: chain.files().iter().take(depth).skip(1).map(|f| f.path.clone()).collect(),
            siblings: standing_on(
                chain.layers().iter().take(depth + 1).skip(1).map(|layer| layer.info()),
                chain.files(),
            ),
            // A note of a commit into another image says nothing of this one.
            earlier: earlier.filter(|note| {
                let mut known = note.identity.iter().chain(&note.link);
                known.any(|one| one.eq_ignore_ascii_case(present))
            }),
            target_info,
        })
    }

    fn refuse_siblings(&self) -> Result<()> {
        // What an earlier run began is finished: that does the least harm to all of them.
        if self.earlier.is_some() {
            return Ok(());
        }
        let Some(first) = self.siblings.first() else { return Ok(()) };
        let more = match self.siblings.len() {
            1 => String::new(),
            count => format!(" and {} more", count - 1),
        };
        Err(Error::refused(format!(
            "{}{more} would become invalid: it stands on what would change",
            first.display()
        ))
        .in_file(self.path)
        .hint(
            "convert it to an image of its own, or rebase it, or delete it; if it is not needed, \
             add --force",
        ))
    }

    fn run(&self, plan: &Plan, threads: usize, watch: Watch<'_>) -> Result<()> {
        // Whatever cannot be written shall fail before anything is changed.
        let others = self.open.for_another().format(self.target_info.format);
        let mut target = others.open_alone_rw(&self.target.path)?;
        let mut lower = match self.between.is_empty() {
            true => self.open.open_alone_rw(self.path)?,
            false => others.open_alone_rw(&self.lower.path)?,
        };
        if self.broken {
            self.link(&mut *lower, &self.lower.path, target.info())?;
        }
        let fresh = target.fresh_identity();
        let note = self.note(fresh.clone(), &*target);
        note.write(self.open.host(), self.path)?;
        if let Some(identity) = &fresh {
            target.set_identity(identity)?;
            self.link(&mut *lower, &self.lower.path, target.info())?;
        }
        lower.close()?;
        drop(lower);
        let target_info = self.merge(target, plan, threads, watch)?;
        // A VHD records when its parent was last changed.
        if note.lower.is_some() || fresh.is_none() {
            let mut top = self.open.open_alone_rw(self.path)?;
            self.link(&mut *top, self.path, &target_info)?;
            top.close()?;
        }
        self.disown(&note, &target_info)?;
        Journal::remove(&**self.open.host(), self.path)
    }

    /// The note of this run, which goes on with what an earlier one left.
    fn note(&self, fresh: Option<String>, target: &dyn LayerMut) -> Journal {
        let earlier = self.earlier.clone().unwrap_or_default();
        let present = target.info().identity.clone();
        let link = if self.broken { present.clone() } else { self.link.clone() };
        let lower = (!self.between.is_empty()).then(|| self.lower.path.display().to_string());
        Journal {
            original: earlier.original.or_else(|| link.clone()),
            lower: lower.or(earlier.lower),
            identity: fresh.or(present),
            link,
        }
    }

    fn link(&self, layer: &mut dyn LayerMut, path: &Path, parent: &LayerInfo) -> Result<()> {
        let path = path.canonicalize().map_err(|e| Error::io(e, "find it").in_file(path))?;
        layer.relink(&parent_link(&path, &self.target.path, parent)?)
    }

    /// Makes `target` read like the image; what it is afterwards.
    fn merge(
        &self,
        target: Box<dyn LayerMut>,
        plan: &Plan,
        threads: usize,
        watch: Watch<'_>,
    ) -> Result<LayerInfo> {
        let mut above = self.open.open(self.path)?.into_layers();
        let mut below = above.split_off(self.depth);
        below.remove(0);
        let below: Box<dyn Disk> =
            if below.is_empty() { Box::new(ZeroDisk(0)) } else { Box::new(Chain::new(below)) };
        let mut target = ImageMut::on(target, below);
        merge(&Chain::upper(above), &mut target, plan, threads, watch)?;
        let info = target.info().clone();
        target.close()?;
        Ok(info)
    }

    /// Gives the layer above the target its first link back: it does not hold any more what it did
    /// when others were made of it.
    fn disown(&self, note: &Journal, target: &LayerInfo) -> Result<()> {
        let (Some(lower), Some(original)) = (&note.lower, &note.original) else { return Ok(()) };
        if target.identity.as_ref().is_none_or(|now| now.eq_ignore_ascii_case(original)) {
            return Ok(());
        }
        let mut layer = match self.open.open_named_rw(self.path, lower) {
            // Somebody has tidied up meanwhile.
            Err(error) if error.kind() == ErrorKind::ParentMissing => return Ok(()),
            opened => opened?,
        };
        let old = LayerInfo { identity: Some(original.clone()), ..target.clone() };
        self.link(&mut *layer, Path::new(lower), &old)?;
        layer.close()
    }

    fn report(&self, plan: &Plan, dry_run: bool) -> CommitReport {
        let invalid: Vec<String> =
            self.between.iter().map(|path| path.display().to_string()).collect();
        CommitReport {
            schema: "vdisk.commit/1",
            filename: self.path.display().to_string(),
            target: self.target.path.display().to_string(),
            data: plan.data,
            zeros: plan.zeros,
            resumed: self.broken || self.earlier.is_some(),
            dry_run,
            siblings: self.siblings.iter().map(|path| path.display().to_string()).collect(),
            remarks: self.remarks(&invalid),
            invalid,
        }
    }

    fn remarks(&self, invalid: &[String]) -> Vec<String> {
        let target = self.target.path.display();
        let told = match self.target_info.format {
            Format::Vhd => "nothing in a VHD tells, so do not use them",
            _ => "vdisk refuses to open them",
        };
        let mut remarks =
            vec![format!("other images that stand on {target} become invalid: {told}")];
        if !invalid.is_empty() {
            let names = invalid.join(", ");
            remarks.push(format!("{names}: mixed with later content now, to be deleted"));
        }
        remarks
    }
}

/// Writes what the layers `above` hold into `target`, and flushes it.
fn merge(
    above: &Chain,
    target: &mut ImageMut,
    plan: &Plan,
    threads: usize,
    watch: Watch<'_>,
) -> Result<()> {
    watch.progress.begin("commit", plan.data + plan.zeros);
    let size = target.len();
    let shared = Mutex::new(&mut *target);
    let done = AtomicU64::new(0);
    for_each(works(above, size), threads, watch.cancel, |work, turn| {
        let Work { start, end, zero } = work;
        let mut bytes = if zero { Vec::new() } else { buffer(end - start) };
        above.read_at(&mut bytes, start)?;
        turn.take(|| {
            let mut target = shared.lock().unwrap_or_else(PoisonError::into_inner);
            if zeros::is_zero(&bytes) {
                target.zero(start..end)
            } else {
                target.write_at(&bytes, start)
            }
        })?;
        done.fetch_add(end - start, Ordering::Relaxed);
        watch.progress.advance(end - start);
        Ok(())
    })?;
    target.flush()?;
    watch.progress.end();
    Ok(())
}
