//! A disk becomes an image: what cannot be read is mapped, and a copy that was cut off goes on.
//!
//! The image grows in a hidden folder beside its place, under its own name, so that images of
//! several files name each other rightly. It is an open image from the first moment, written in
//! place and in order through the format's own code, whose flushes survive a power cut; after each
//! flush the file `state.json` says up to which byte it is whole. When all is there, the files
//! move to their place, the main one last.

mod place;

use std::num::NonZeroU64;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use vdisk::{
    Checkpoints, CopyOptions, Disk, Error, ErrorKind, Format, ImageMut, NewImage, OpenOptions,
    Ranges, RepairRequest, Result, Scope, Watch, copy_into_by_steps,
};

use self::place::Place;
use crate::fingerprint::fingerprint;
use crate::mapfile::mapfile;
use crate::pace::Paced;
use crate::rescue::{Probe, Rescue, Scraper};

/// Bytes written between two flushes, unless told otherwise.
pub const CHECKPOINT: u64 = 256 << 20;
/// How often a sector is tried again, unless told otherwise.
pub const RETRIES: u32 = 3;

/// What is captured, and how.
#[derive(Clone, Debug)]
pub struct Capture {
    /// The disk; only ever read.
    pub source: Arc<dyn Disk>,
    /// The file or device that holds the disk's bytes as they are, where one does: it is read past
    /// the page cache where sectors fail.
    pub source_path: Option<PathBuf>,
    /// Device and inode of each file that any disk of the machine is read from: none is replaced.
    pub inputs: Vec<(u64, u64)>,
    /// Bytes of a sector of the source.
    pub sector: u64,
    /// The image that will be.
    pub target: PathBuf,
    /// Its format and options; not smaller than the source.
    pub new: NewImage,
    /// The options as text: a copy that was cut off goes on only with the same.
    pub options: String,
    /// What is left out of the source: it reads as zeros in the image.
    pub skip: Ranges,
    /// Most bytes to read a second.
    pub rate_limit: Option<NonZeroU64>,
    /// How often a bad sector is tried again.
    pub retries: u32,
    /// Bytes written between two flushes.
    pub checkpoint: u64,
    /// Pieces worked on at once.
    pub threads: usize,
    /// Replace an existing image.
    pub overwrite: bool,
    /// Forget a copy that was cut off.
    pub restart: bool,
}

/// What a capture did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct CaptureReport {
    /// Bytes of the disk.
    pub virtual_size: u64,
    /// Where this run took up an earlier one, bytes.
    pub resumed_at: Option<u64>,
    /// Bytes this run wrote.
    pub written: u64,
    /// Bytes left out as free.
    pub skipped: u64,
    /// What could not be read, and is zeros in the image.
    pub bad: Ranges,
    /// The map of that, in ddrescue's form, where there is any.
    pub map: Option<PathBuf>,
}

/// How far a capture is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Phase {
    /// Bytes are being copied.
    Copying,
    /// All bytes are there.
    Captured,
    /// The image was prepared for its new life; only names are missing.
    Prepared,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
struct State {
    schema: String,
    phase: Phase,
    /// What source, as far as its bytes tell, and which parts of it.
    source: String,
    options: String,
    done: u64,
    /// Read again at the end.
    failed: Vec<Range<u64>>,
    /// Given up.
    bad: Vec<Range<u64>>,
}

const SCHEMA: &str = "vdisk.capture/1";

/// Captures a disk into a new image. `prepare` is called with the path of the finished image
/// before it gets its name: what it changes there is part of the image when it appears. Where it
/// fails, the bytes are kept, and the next run calls it again.
///
/// The source is expected not to change between the runs of one capture; where what is looked at
/// of it did, the second run is refused.
///
/// # Errors
/// As [`capture_together`].
pub fn capture(
    request: &Capture,
    prepare: impl FnOnce(&Path) -> Result<()>,
    watch: Watch<'_>,
) -> Result<CaptureReport> {
    let prepare = |images: &[PathBuf]| images.first().map_or(Ok(()), |image| prepare(image));
    let mut reports = capture_together(std::slice::from_ref(request), prepare, watch)?;
    reports.pop().ok_or_else(|| Error::internal("a disk was captured, and nothing is told of it"))
}

/// Captures the disks of one machine, one after the other. `prepare` is called once all are there,
/// with the paths of all images, of which none has its name yet.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) where the image exists, would replace an input, or an earlier
/// capture to it was of something else; [`InUse`](ErrorKind::InUse) while another run works at it,
/// or another program with what it replaces; those of `prepare`; the host's. The source's own bad
/// sectors are no error.
pub fn capture_together(
    requests: &[Capture],
    prepare: impl FnOnce(&[PathBuf]) -> Result<()>,
    watch: Watch<'_>,
) -> Result<Vec<CaptureReport>> {
    let entered: Result<Vec<Job>> = requests.iter().map(Job::enter).collect();
    let mut jobs = entered?;
    for (request, job) in requests.iter().zip(&mut jobs) {
        job.copy(request, watch)?;
    }
    if jobs.iter().any(|job| job.state.phase == Phase::Captured) {
        let images: Vec<PathBuf> = jobs.iter().map(|job| job.place.image()).collect();
        for (request, image) in requests.iter().zip(&images) {
            // An earlier run may have been cut off while it prepared the images.
            vdisk::finish_edit(image, &open_options(request))?;
        }
        prepare(&images)?;
        for job in &mut jobs {
            job.state.phase = Phase::Prepared;
            job.place.save(&job.state)?;
        }
    }
    requests.iter().zip(jobs).map(|(request, job)| job.leave(request)).collect()
}

/// A capture that was begun, now or by an earlier run.
struct Job {
    place: Place,
    state: State,
    fresh: bool,
    report: CaptureReport,
}

impl Job {
    fn enter(request: &Capture) -> Result<Self> {
        if request.new.virtual_size() < request.source.len() {
            return Err(Error::usage("the new image is smaller than the disk"));
        }
        let place = Place::enter(&request.target, request.overwrite, request.restart)?;
        let begun = State {
            schema: SCHEMA.to_owned(),
            phase: Phase::Copying,
            source: fingerprint(&*request.source, request.sector, &request.skip),
            options: request.options.clone(),
            done: 0,
            failed: Vec::new(),
            bad: Vec::new(),
        };
        let earlier: Option<State> = place.load()?;
        let fresh = earlier.is_none();
        let state = match earlier {
            Some(earlier) => {
                insist_same(&earlier, &begun, &request.target)?;
                earlier
            }
            None => {
                let created = vdisk::create(&place.image(), &request.new, true)
                    .and_then(|()| place.refuse_clashes(&request.inputs));
                if let Err(error) = created {
                    place.give_up();
                    return Err(error);
                }
                place.save(&begun)?;
                begun
            }
        };
        let report = CaptureReport {
            virtual_size: request.source.len(),
            resumed_at: (!fresh).then_some(state.done),
            skipped: request.skip.total(),
            ..CaptureReport::default()
        };
        Ok(Self { place, state, fresh, report })
    }

    /// Brings all bytes that are not there yet into the image.
    fn copy(&mut self, request: &Capture, watch: Watch<'_>) -> Result<()> {
        if self.state.phase != Phase::Copying {
            return Ok(());
        }
        let Self { place, state, fresh, report } = self;
        report.written = copy(request, place, state, *fresh, watch)?;
        if !*fresh {
            give_back_leaks(request, place)?;
        }
        state.phase = Phase::Captured;
        place.save(state)
    }

    /// Gives the image its name.
    fn leave(self, request: &Capture) -> Result<CaptureReport> {
        let Self { place, state, mut report, .. } = self;
        report.bad = state.bad.iter().cloned().collect();
        let map = (report.bad.count() > 0)
            .then(|| mapfile(request.source.len(), &report.bad, &request.skip));
        report.map = place.leave(map.as_deref(), &request.inputs)?;
        Ok(report)
    }
}

fn insist_same(earlier: &State, now: &State, target: &Path) -> Result<()> {
    let what = if earlier.schema != now.schema {
        "another version of vdisk"
    } else if earlier.source != now.source {
        "another disk, or this one before it was changed"
    } else if earlier.options != now.options {
        "an image with other options"
    } else {
        return Ok(());
    };
    Err(Error::refused(format!("an earlier capture to it was cut off, of {what}"))
        .in_file(target)
        .hint("to forget that one and begin anew, add --restart"))
}

/// A run that was cut off may leave blocks that nothing refers to, and that the next one does not
/// take up.
fn give_back_leaks(request: &Capture, place: &Place) -> Result<()> {
    if request.new.format() == Format::Raw {
        return Ok(());
    }
    let leaks = RepairRequest { scope: Scope::Leaks, dry_run: false, backup: false };
    vdisk::repair(&place.image(), &open_options(request), leaks).map(drop)
}

fn open_options(request: &Capture) -> OpenOptions {
    OpenOptions::new().format(request.new.format())
}

/// Brings all bytes that can be read into the image; how many were written.
fn copy(
    request: &Capture,
    place: &Place,
    state: &mut State,
    fresh: bool,
    watch: Watch<'_>,
) -> Result<u64> {
    let opened = open_options(request).open_rw(place.image());
    let mut target = opened.map_err(|error| match error.kind() {
        ErrorKind::Unsupported => {
            place.give_up();
            error.hint(
                "a capture is written in place, which this variant cannot be: capture into \
                 another one, then convert",
            )
        }
        _ => error,
    })?;
    let path = request.source_path.as_deref();
    let failed: Ranges = state.failed.iter().cloned().collect();
    let probe = Arc::new(Probe::new(&*request.source, path));
    let rescue = Arc::new(Rescue::new(request.source.clone(), probe.clone(), &failed));
    let source: Arc<dyn Disk> = match request.rate_limit {
        Some(rate) => Arc::new(Paced::new(rescue.clone(), rate, watch.cancel.clone())),
        None => rescue.clone(),
    };
    let options = CopyOptions {
        threads: request.threads,
        skip: Some(Arc::new(request.skip.clone())),
        ..CopyOptions::default()
    };
    let saved = state.clone();
    let reached = |done: u64| {
        let failed = rescue.failed().iter().cloned().collect();
        place.save(&State { done, failed, ..saved.clone() })
    };
    let checkpoints =
        Checkpoints { from: state.done, every: request.checkpoint, reached: &reached };
    let copied = copy_into_by_steps(&*source, &mut target, fresh, checkpoints, &options, watch)
        .map_err(can_go_on)?;
    state.done = request.source.len();
    state.failed = rescue.failed().without(&request.skip).iter().cloned().collect();
    place.save(state)?;
    scrape(request, &probe, place, state, &mut target, watch).map_err(can_go_on)?;
    target.close()?;
    Ok(copied.written)
}

/// Reads what failed again, sector by sector.
fn scrape(
    request: &Capture,
    probe: &Probe,
    place: &Place,
    state: &mut State,
    target: &mut ImageMut,
    watch: Watch<'_>,
) -> Result<()> {
    if state.failed.is_empty() {
        return Ok(());
    }
    let path = request.source_path.as_deref();
    let sector = request.sector.max(512);
    let scraper = Scraper::new(&*request.source, path, probe, sector, request.retries);
    let total = state.failed.iter().map(|range| range.end - range.start).sum();
    watch.progress.begin("retry bad sectors", total);
    let mut bad: Ranges = state.bad.iter().cloned().collect();
    while let Some(range) = state.failed.first().cloned() {
        let mut given_up = Ranges::new();
        for sector in scraper.sectors(range.clone()) {
            watch.cancel.check()?;
            match scraper.read(&sector)? {
                Some(bytes) => target.write_at(&bytes, sector.start)?,
                None => given_up.push(sector.clone()),
            }
            watch.progress.advance(sector.end - sector.start);
        }
        target.flush()?;
        bad = bad.iter().chain(given_up.iter()).cloned().collect();
        state.bad = bad.iter().cloned().collect();
        state.failed.remove(0);
        place.save(state)?;
    }
    watch.progress.end();
    Ok(())
}

fn can_go_on(error: Error) -> Error {
    error.hint("what was copied is kept: run the same command again to go on")
}
