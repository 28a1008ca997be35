//! An image onto a disk: planned once, written in order, read back.
//!
//! The first MiB, where the partition table stands, is emptied at the beginning and written last:
//! a disk that was left half written has no partitions that anything could start from or mount.

use std::num::NonZeroU64;
use std::path::PathBuf;
use std::sync::Arc;

use vdisk::{
    Change, Checkpoints, CopyOptions, Disk, Error, ErrorKind, HostFile, ImageMut, OpenOptions,
    Result, Watch, copy_into_by_steps, default_threads,
};
use vdisk_core::CowDisk;
use vdisk_core::zeros::is_zero;
use vdisk_p2v::{DiskInfo, Machine, Paced};
use vdisk_parts::{Table, recognise};

use crate::fit::{self, Fit, FitOptions, tools, with_scratch};
use crate::place::{Phase, Place, State};
use crate::resized::Resized;
use crate::samples;
use crate::target::choose;

/// Bytes at the start that are written last.
const HEAD: u64 = 1 << 20;
/// Most bytes that may differ from the image.
const MOST_CHANGED: u64 = 2 << 30;
const SCHEMA: &str = "vdisk.write/1";

/// What is written where.
#[derive(Clone, Debug)]
pub struct WriteRequest {
    /// The image's disk; only ever read.
    pub image: Arc<dyn Disk>,
    /// Bytes of its sectors.
    pub sector: u64,
    /// What tells this image, in this state, from others: a job that was cut off goes on only with
    /// the same.
    pub image_id: String,
    /// The disk, as [`choose`](crate::choose) found it.
    pub device: DiskInfo,
    /// What may be done to make the image fit.
    pub fit: FitOptions,
    /// Other options that decide what is written, as text.
    pub options: String,
    /// The folder for what a run that is cut off leaves.
    pub state: PathBuf,
    /// Most bytes to write a second; zeros do not count.
    pub rate_limit: Option<NonZeroU64>,
    /// Read back what was written.
    pub verify: bool,
    /// Bytes written between two flushes.
    pub checkpoint: u64,
    /// Forget a job that was cut off.
    pub restart: bool,
}

/// What was done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct WriteReport {
    /// Bytes that this run wrote; the rest are zeros, or were there.
    pub written: u64,
    /// Where this run took up an earlier one, bytes.
    pub resumed_at: Option<u64>,
    /// What was done to make the image fit, a sentence each.
    pub steps: Vec<String>,
    /// It was read back and is what was meant.
    pub verified: bool,
}

/// What [`plan`] found.
#[derive(Debug)]
#[non_exhaustive]
pub struct FitPlan {
    /// What is done to make the image fit, a sentence each.
    pub steps: Vec<String>,
}

/// Says how the image will fit, and fails where it does not. Nothing is written, and with
/// [`FitOptions::shrink`] nothing is tried.
///
/// # Errors
/// As [`write()`].
pub fn plan(request: &WriteRequest) -> Result<FitPlan> {
    let options = FitOptions { shrink: false, ..request.fit };
    let nowhere = PathBuf::new();
    let (image, device) = (request.image.clone(), &request.device);
    match fit::fit(image, request.sector, device, options, &nowhere, Watch::default()) {
        Ok(fit) => Ok(FitPlan { steps: fit.steps }),
        Err(error) if request.fit.shrink && error.kind() == ErrorKind::Refused => {
            let steps = vec![format!("made smaller, as {error}")];
            Ok(FitPlan { steps })
        }
        Err(error) => Err(error),
    }
}

/// Writes the image to the disk. `prepare` is given the disk as it will be, fitted, and tells what
/// of it shall be otherwise; it is not called again by a run that goes on.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) where the image does not fit;
/// [`InUse`](ErrorKind::InUse) where something uses the disk; [`Io`](ErrorKind::Io) where what is
/// read back is not what was written; the host's.
pub fn write(
    request: &WriteRequest,
    prepare: impl FnOnce(Arc<dyn Disk>) -> Result<Vec<Change>>,
    watch: Watch<'_>,
) -> Result<WriteReport> {
    let mut target = open_device(&request.device)?;
    let place = Place::enter(&request.state)?;
    let job = job(request);
    let earlier = place.load(SCHEMA, &job).filter(|_| !request.restart);
    let resumed = earlier.is_some();
    let (mut state, disk) = match earlier {
        Some((state, changes)) => {
            let base: Arc<dyn Disk> = match &state.shrunk {
                Some(shrunk) => with_scratch(
                    request.image.clone(),
                    request.device.size,
                    shrunk,
                    &place.scratch(),
                )?,
                None => Arc::new(Resized { base: request.image.clone(), len: request.device.size }),
            };
            (state, changed(base, &changes)?)
        }
        None => begin(request, &place, job, prepare, watch)?,
    };
    if state.phase == Phase::Growing {
        // What the host's programs had done by then is not known.
        state.phase = Phase::Writing;
        state.done = 0;
    }
    if state.done > 0 && !is_as_left(&target, &*disk, &state)? {
        // Something else was written since, perhaps all over.
        state.done = 0;
    }
    let mut report = WriteReport {
        resumed_at: (resumed && state.done > 0).then_some(state.done),
        steps: state.steps.clone(),
        ..WriteReport::default()
    };
    report.written =
        copy(request, &disk, &mut target, &place, &mut state, watch).map_err(|error| {
            error.hint("the disk is not whole; run the same command again to go on")
        })?;
    if request.verify {
        verify(&*disk, &target, request, watch).inspect_err(|error| {
            if error.kind() == ErrorKind::Io {
                // The next run writes all of it, wherever this one began.
                let _ = place.save(&State { done: 0, ..state.clone() });
            }
        })?;
        report.verified = true;
    }
    if let Some(number) = state.grow {
        state.phase = Phase::Growing;
        place.save(&state)?;
        grow(&*disk, request, number)?;
    }
    target.close()?;
    place.leave()?;
    Ok(report)
}

/// Settles what the disk will be, and keeps that for a run that goes on.
fn begin(
    request: &WriteRequest,
    place: &Place,
    job: String,
    prepare: impl FnOnce(Arc<dyn Disk>) -> Result<Vec<Change>>,
    watch: Watch<'_>,
) -> Result<(State, Arc<dyn Disk>)> {
    let scratch = place.scratch();
    let (image, device) = (request.image.clone(), &request.device);
    let Fit { disk, mut changes, steps, grow, shrunk } =
        fit::fit(image, request.sector, device, request.fit, &scratch, watch)?;
    changes.extend(prepare(changed(disk.clone(), &changes)?)?);
    let mut state = State {
        schema: SCHEMA.to_owned(),
        phase: Phase::Writing,
        job,
        done: 0,
        changes: Vec::new(),
        digest: String::new(),
        shrunk,
        grow,
        steps,
    };
    place.keep(&changes, &mut state)?;
    Ok((state, changed(disk, &changes)?))
}

fn changed(base: Arc<dyn Disk>, changes: &[Change]) -> Result<Arc<dyn Disk>> {
    let disk = CowDisk::new(base, MOST_CHANGED);
    changes.iter().try_for_each(|change| disk.write_at(&change.bytes, change.offset))?;
    Ok(Arc::new(disk))
}

fn job(request: &WriteRequest) -> String {
    let WriteRequest { device, fit, .. } = request;
    format!(
        "{} onto {} of {} bytes, {fit:?}, {}",
        request.image_id,
        device.confirmation(),
        device.size,
        request.options
    )
}

/// Opens the disk for this program alone, and looks once more whether it is still the one that was
/// chosen, and unused.
fn open_device(device: &DiskInfo) -> Result<ImageMut> {
    let open = OpenOptions::new().format(vdisk::Format::Raw).allow_device(true);
    let target = open.open_rw(&device.path)?;
    let now = choose(&Machine::default(), device.path.as_os_str())?;
    if (target.len(), now.size, &now.serial) == (device.size, device.size, &device.serial) {
        return Ok(target);
    }
    Err(Error::refused("is not the disk any more that it was a moment ago")
        .in_file(&device.path)
        .hint("was another one plugged in? see: vdisk p2v --list"))
}

/// Whether the disk is as an earlier run left it, as far as samples tell: its beginning empty, or
/// where all was written, as meant; and behind that what is meant to be there.
fn is_as_left(target: &ImageMut, disk: &dyn Disk, state: &State) -> Result<bool> {
    let now = head(target)?;
    if !is_zero(&now) && (state.done < disk.len() || now != head(disk)?) {
        return Ok(false);
    }
    samples::agree(disk, target, HEAD.min(state.done)..state.done)
}

/// The bytes that are written last.
fn head(disk: &dyn Disk) -> Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(HEAD.min(disk.len())).unwrap_or_default()];
    disk.read_at(&mut bytes, 0)?;
    Ok(bytes)
}

fn copy(
    request: &WriteRequest,
    disk: &Arc<dyn Disk>,
    target: &mut ImageMut,
    place: &Place,
    state: &mut State,
    watch: Watch<'_>,
) -> Result<u64> {
    let len = disk.len();
    let first = head(&**disk)?;
    let head = first.len() as u64;
    if state.done < head {
        target.zero(0..head)?;
        target.zero(len.saturating_sub(HEAD)..len)?;
        target.flush()?;
        state.done = head;
    }
    let saved = state.clone();
    let reached = |done: u64| place.save(&State { done, ..saved.clone() });
    let every = request.checkpoint;
    let checkpoints = Checkpoints { from: state.done, every, reached: &reached };
    let options = CopyOptions::default();
    let source: Arc<dyn Disk> = match request.rate_limit {
        Some(rate) => Arc::new(Paced::new(disk.clone(), rate, watch.cancel.clone())),
        None => disk.clone(),
    };
    let copied = copy_into_by_steps(&*source, target, false, checkpoints, &options, watch)?;
    state.done = len;
    place.save(state)?;
    target.write_at(&first, 0)?;
    target.flush()?;
    Ok(copied.written + head)
}

fn verify(
    disk: &dyn Disk,
    target: &ImageMut,
    request: &WriteRequest,
    watch: Watch<'_>,
) -> Result<()> {
    let path = &request.device.path;
    // So that the bytes come from the disk, not from memory.
    HostFile::open(path)?.give_up(0, request.device.size);
    let found = vdisk::compare(disk, target, default_threads(), watch)?;
    if found.identical {
        return Ok(());
    }
    let first = found.ranges.first().map_or(0, |range| range.start);
    Err(Error::new(
        ErrorKind::Io,
        format!(
            "verification failed: {} bytes differ from what was written",
            found.differing_bytes
        ),
    )
    .at("byte", first)
    .in_file(path)
    .hint(
        "run the same command again, which writes all of it anew; a disk that fails then too does \
         not keep what it is given",
    ))
}

/// Grows the file system in partition `number` on the disk.
fn grow(disk: &dyn Disk, request: &WriteRequest, number: u32) -> Result<()> {
    let table = Table::read(disk, request.sector)?;
    let partition = table.partitions.iter().find(|one| one.number == number);
    let partition = partition.ok_or_else(|| Error::internal("a partition that is not there"))?;
    let device = &request.device.path;
    let offset = partition.start.to_string();
    let len = partition.len.to_string();
    let args = ["--find", "--show", "--offset", &offset, "--sizelimit", &len];
    let mut args: Vec<&std::ffi::OsStr> = args.iter().map(AsRef::as_ref).collect();
    args.push(device.as_os_str());
    let part = Attached(PathBuf::from(tools::output_of("losetup", &args)?.trim()));
    let opened = OpenOptions::new().format(vdisk::Format::Raw).open(&part.0)?;
    let kind = recognise(&opened)?.map(|volume| volume.kind);
    drop(opened);
    tools::grow(kind, &part.0).map_err(|error| {
        error.in_file(device).hint("run the same command again, or without --grow")
    })
}

/// A loop device, let go of when this is dropped.
struct Attached(PathBuf);

impl Drop for Attached {
    fn drop(&mut self) {
        // Where this fails the device stays until the next start, which does no harm.
        let _ = tools::run("losetup", &["--detach".as_ref(), self.0.as_os_str()]);
    }
}
