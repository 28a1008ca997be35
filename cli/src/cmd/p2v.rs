//! `vdisk p2v`

use std::num::NonZeroU64;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Value, json};
use vdisk::{
    EditOf, Error, ErrorKind, Format, NewImage, OpenOptions, Ranges, Result, default_threads,
    edit_together, human_size,
};
use vdisk_fixup::{
    ImageOf, MachineDisk, Plan, Recovered, Recovery, Target, apply_together, recover_journals,
};
use vdisk_guest::free::{FreeSpace, Scope, free_space};
use vdisk_p2v::{Capture, CaptureReport, DiskInfo, Frozen, Held, Hold, Machine, capture_together};

use self::source::{Named, Source, names};
use super::{Context, Outcome, fixup, new_image, passage, skip};
use crate::args::{LeaveOut, P2vArgs};
use crate::show;

mod definition;
mod list;
mod source;

pub(super) use self::list::page;

/// Something is not as it was asked for: sectors that could not be read, a definition not written.
pub(super) const IN_PART: u8 = 3;

pub(super) fn run(args: &P2vArgs, context: &Context<'_>) -> Result<Outcome> {
    let machine = Machine::default();
    if args.list {
        return list::run(&machine, context);
    }
    let Some((target, sources)) = args.paths.split_last().filter(|(_, rest)| !rest.is_empty())
    else {
        return Err(Error::usage("p2v needs a source and a target")
            .hint("vdisk p2v SOURCE... DEST --target TARGET; see vdisk p2v --help"));
    };
    let sources: Vec<Source> =
        sources.iter().map(|name| Source::find(name, &machine, args)).collect::<Result<_>>()?;
    let jobs = names(&sources, Path::new(target), args)?;
    let look = look(&sources, args, context)?;
    let guest = !matches!(look, Look::NoGuest);
    if guest {
        definition::insist(&sources, args)?;
    }
    if args.passage.dry_run {
        return tell_plan(&sources, &jobs, &look, context);
    }
    if args.target.is_some() {
        match guest {
            true => passage::tell_identity(&args.passage, context),
            false => context.note("no guest system was found: the bytes are moved as they are"),
        }
    }
    let (done, whole) = capture_all(&sources, &jobs, args, context)?;
    let mut in_part = !whole;
    let definition = definition::make(&sources, &jobs, args, context);
    if let Err(error) = &definition {
        let advice = error.advice().map(|hint| format!("; {hint}")).unwrap_or_default();
        context.note(&format!("warning: no definition was written: {error}{advice}"));
        in_part |= guest;
    }
    let files = definition.unwrap_or_default();
    if context.json() {
        show::json(&json!({"schema": "vdisk.p2v/1", "disks": done, "definition": files}))?;
    } else {
        files.iter().try_for_each(|file| show::text(&format!("{}\n", file.display())))?;
    }
    Ok(if in_part { Outcome::Code(IN_PART) } else { Outcome::Done })
}

/// What is known of a guest before its disks are copied.
enum Look {
    NoGuest,
    /// What a running system does to its disks meanwhile makes a plan of it worth little.
    Running,
    Plan(Plan),
}

/// Plans what becomes of the guest before any byte is copied.
fn look(sources: &[Source], args: &P2vArgs, context: &Context<'_>) -> Result<Look> {
    let Some(target) = args.target else { return Ok(Look::NoGuest) };
    if sources.iter().any(Source::is_used) {
        return Ok(Look::Running);
    }
    let disks = sources.iter().map(|source| source.of_machine(source.disk.clone())).collect();
    let named = |error: Error| match sources {
        [only] => error.in_file(&only.name),
        _ => error,
    };
    let found = passage::planned(disks, &args.passage, target).map_err(named)?;
    let Some((_, plan)) = found else { return Ok(Look::NoGuest) };
    if !args.passage.dry_run {
        fixup::warn(&plan, context);
        plan.refuse().map_err(named)?;
    }
    Ok(Look::Plan(plan))
}

/// The plan of a machine is told with its first disk.
fn tell_plan(
    sources: &[Source],
    jobs: &[Named],
    look: &Look,
    context: &Context<'_>,
) -> Result<Outcome> {
    let plan = match look {
        Look::Plan(plan) => Some(plan),
        Look::NoGuest | Look::Running => None,
    };
    let (mut text, mut documents) = (String::new(), Vec::new());
    for (number, (source, job)) in sources.iter().zip(jobs).enumerate() {
        text += &format!("{} to {}\n", source.name.display(), job.path.display());
        let plan = plan.filter(|_| number == 0);
        documents.push(json!({"source": source.name, "target": job.path, "plan": plan}));
    }
    text += &plan.map(fixup::page).unwrap_or_default();
    let plan = plan.cloned().unwrap_or_default();
    if context.json() {
        show::json(&fixup::document(&plan, json!({"disks": documents})))?;
    } else {
        show::text(&text)?;
    }
    Ok(fixup::outcome(&plan))
}

/// Captures the disks of a machine; what to tell of each, and whether all of them could be read.
fn capture_all(
    sources: &[Source],
    jobs: &[Named],
    args: &P2vArgs,
    context: &Context<'_>,
) -> Result<(Vec<Value>, bool)> {
    let frozen = hold(sources, jobs, context)?;
    let inputs: Vec<(u64, u64)> = sources.iter().flat_map(|one| one.inputs.clone()).collect();
    let mut requests = Vec::new();
    let mut left_out = Vec::new();
    for (source, job) in sources.iter().zip(jobs) {
        let held = frozen.as_ref().map(|frozen| &*frozen.held).unwrap_or_default();
        let free = leave_out(source, held, args, context)?;
        requests.push(request(source, job, &inputs, free.as_ref(), frozen.is_some(), args)?);
        left_out.push(free);
    }
    let held = frozen.as_ref().map(|frozen| frozen.held.clone());
    let progress = context.progress(false);
    let (mut plan, mut recovered) = (None, Vec::new());
    let reports = capture_together(
        &requests,
        |images| {
            if frozen.is_some() {
                drop(frozen);
                recovered = recover(images, sources, jobs, context)?;
            }
            plan = prepare(images, sources, jobs, args, context)?;
            Ok(())
        },
        context.watch(&*progress),
    )?;
    let live = held.as_deref().map(|held| (held, recovered.as_slice()));
    let (mut documents, mut whole) = (Vec::new(), true);
    for (number, (source, job)) in sources.iter().zip(jobs).enumerate() {
        let Some(report) = reports.get(number) else { continue };
        tell(source, job, report, context);
        whole &= report.bad.count() == 0;
        let plan = plan.as_ref().filter(|_| number == 0);
        let left_out = left_out.get(number).and_then(Option::as_ref);
        let live = live.filter(|_| source.is_used());
        documents.push(document(source, job, report, left_out, live, plan));
    }
    Ok((documents, whole))
}

fn request(
    source: &Source,
    job: &Named,
    inputs: &[(u64, u64)],
    left_out: Option<&FreeSpace>,
    live: bool,
    args: &P2vArgs,
) -> Result<Capture> {
    Ok(Capture {
        source: source.disk.clone(),
        source_path: source.raw_path.clone(),
        inputs: inputs.to_vec(),
        sector: source.sector,
        target: job.path.clone(),
        new: image(source, job, args)?,
        options: format!(
            "{} {:?}, {}",
            job.format,
            args.options,
            passage::as_text(&args.passage, args.target)
        ),
        skip: left_out.map(|found| found.ranges.clone()).unwrap_or_default(),
        rate_limit: args.rate_limit.and_then(NonZeroU64::new),
        retries: args.retries,
        checkpoint: args.passage.checkpoint,
        threads: args.threads.unwrap_or_else(default_threads).clamp(1, 64),
        overwrite: args.force,
        // What was copied of a disk in use belongs to a moment that is gone.
        restart: args.passage.restart || live,
    })
}

/// Holds still what is mounted of the disks in use.
fn hold(sources: &[Source], jobs: &[Named], context: &Context<'_>) -> Result<Option<Frozen>> {
    let used = sources.iter().filter(|source| source.is_used());
    let used: Vec<&DiskInfo> = used.filter_map(|source| source.device.as_ref()).collect();
    let Some(first) = jobs.first().filter(|_| !used.is_empty()) else { return Ok(None) };
    // All images go to one folder.
    let folder = first.path.parent().filter(|folder| !folder.as_os_str().is_empty());
    let frozen = Frozen::hold(&used, folder.unwrap_or(Path::new(".")))?;
    for source in sources.iter().filter(|source| source.unseen) {
        let name = source.name.display();
        context.note(&format!(
            "warning: something uses {name} that cannot be held still: its copy may be half changed"
        ));
    }
    for Held { point, how } in &frozen.held {
        let point = point.display();
        context.note(&match how {
            Hold::Frozen => format!("{point} is frozen: what writes to it waits for the copy"),
            Hold::Remounted => format!("{point} is read-only until the copy is done"),
            Hold::ReadOnly => continue,
            _ => format!("warning: {point} cannot be held still: its copy may be half changed"),
        });
    }
    Ok(Some(frozen))
}

/// What of the source is not copied. Where nobody asked, a disk whose free space is not certain is
/// copied whole; so is one that changes while it is copied, whose free space may be used by then.
fn leave_out(
    source: &Source,
    held: &[Held],
    args: &P2vArgs,
    context: &Context<'_>,
) -> Result<Option<FreeSpace>> {
    if source.may_change(held) && args.skip_free != Some(LeaveOut::None) {
        let name = source.name.display();
        context.note(&format!("{name} is copied whole: not all of it could be held still"));
        return Ok(None);
    }
    let scope = match args.skip_free {
        Some(LeaveOut::None) => return Ok(None),
        Some(LeaveOut::All) => Scope::All,
        Some(LeaveOut::Free) | None => Scope::Free,
    };
    match free_space(&source.disk, source.sector, scope) {
        Ok(found) => {
            skip::tell(&found, context);
            Ok(Some(found))
        }
        Err(error) if args.skip_free.is_none() && error.kind() != ErrorKind::Cancelled => {
            context.note(&format!("{} is copied whole: {error}", source.name.display()));
            Ok(None)
        }
        Err(error) => Err(error.in_file(&source.name)),
    }
}

fn image(source: &Source, job: &Named, args: &P2vArgs) -> Result<NewImage> {
    let mut new = NewImage::new(job.format, source.disk.len());
    let sector = u32::try_from(source.sector).unwrap_or(512);
    new.set_sectors(sector, sector);
    let new = new_image(new, &args.options)?;
    if new.logical_sector() != sector && job.format != Format::Raw {
        return Err(Error::refused(format!(
            "the disk has sectors of {sector} bytes, and {} has {}: the machine would look for \
             everything in the wrong places",
            job.format,
            new.logical_sector()
        ))
        .in_file(&source.name)
        .hint("VHDX holds such disks: -O vhdx"));
    }
    Ok(new)
}

/// The images of a machine's disks, open for reading, each in a session of its own.
fn open_all(
    images: &[PathBuf],
    sources: &[Source],
    jobs: &[Named],
) -> Result<(Vec<OpenOptions>, Vec<MachineDisk>)> {
    let (mut options, mut disks) = (Vec::new(), Vec::new());
    for ((image, source), job) in images.iter().zip(sources).zip(jobs) {
        let open = OpenOptions::new().format(job.format).in_one_session();
        let found = open.open(image)?;
        let sector_size = found.info().logical_sector.into();
        disks.push(MachineDisk { sector_size, ..source.of_machine(Arc::new(found)) });
        options.push(open);
    }
    Ok((options, disks))
}

/// Does in the images what waits in the journals of file systems that were copied while they were
/// in use.
fn recover(
    images: &[PathBuf],
    sources: &[Source],
    jobs: &[Named],
    context: &Context<'_>,
) -> Result<Vec<Recovered>> {
    let (options, disks) = open_all(images, sources, jobs)?;
    let Recovery { changes, done, left, .. } = recover_journals(disks)?;
    let parts = images.iter().zip(&options).zip(&changes);
    let edits = parts.map(|((image, open), changes)| EditOf { image, open, changes, undo: None });
    edit_together(&edits.collect::<Vec<_>>(), false, |_| Ok(()))?;
    for Recovered { volume, blocks, orphans, .. } in &done {
        let more = if *orphans { "; deleted files wait to be removed by the guest" } else { "" };
        context.note(&format!("{volume}: {blocks} blocks of its journal are put in place{more}"));
    }
    for (volume, error) in &left {
        context.note(&format!("warning: the journal of {volume} waits for the guest: {error}"));
    }
    Ok(done)
}

/// Makes the guest in the captured images what it is to become.
fn prepare(
    images: &[PathBuf],
    sources: &[Source],
    jobs: &[Named],
    args: &P2vArgs,
    context: &Context<'_>,
) -> Result<Option<Plan>> {
    let Some(target) = args.target else { return Ok(None) };
    let (options, disks) = open_all(images, sources, jobs)?;
    let Some((machine, plan)) = passage::planned(disks, &args.passage, target)? else {
        return Ok(None);
    };
    if args.live {
        fixup::warn(&plan, context);
    }
    let files: Vec<ImageOf<'_>> =
        images.iter().zip(&options).map(|(path, open)| ImageOf { path, open }).collect();
    apply_together(&files, &machine, &plan, "p2v", false)?;
    Ok(Some(plan))
}

fn tell(source: &Source, job: &Named, report: &CaptureReport, context: &Context<'_>) {
    let name = source.name.display();
    if let Some(at) = report.resumed_at {
        context.note(&format!("went on at {} of an earlier run", human_size(at)));
    }
    context.remark(&format!(
        "{name}: {} written to {}",
        human_size(report.written),
        job.path.display()
    ));
    if report.bad.count() == 0 {
        return;
    }
    let map = report.map.as_ref().map(|map| map.display().to_string()).unwrap_or_default();
    context.note(&format!(
        "WARNING: {} of {name} in {} places could not be read and are ZEROS in {}; they are \
         listed in {map}",
        human_size(report.bad.total()),
        report.bad.count(),
        job.path.display(),
    ));
}

fn document(
    source: &Source,
    job: &Named,
    report: &CaptureReport,
    left_out: Option<&FreeSpace>,
    live: Option<(&[Held], &[Recovered])>,
    plan: Option<&Plan>,
) -> Value {
    json!({
        "source": source.name,
        "target": job.path,
        "format": job.format.name(),
        "virtual-size": report.virtual_size,
        "written": report.written,
        "resumed-at": report.resumed_at,
        "skipped": left_out.map(skip::data),
        "bad": {
            "bytes": report.bad.total(),
            "ranges": ranges(&report.bad),
            "truncated": report.bad.count() > MOST_LISTED,
            "map": report.map,
        },
        "live": live.map(|(held, _)| held),
        "recovered": live.map(|(_, recovered)| recovered),
        "plan": plan,
    })
}

/// How many bad ranges are told; the map has all.
const MOST_LISTED: usize = 1000;

fn ranges(bad: &Ranges) -> Vec<Value> {
    let listed = bad.iter().take(MOST_LISTED);
    listed.map(|one| json!({"start": one.start, "length": one.end - one.start})).collect()
}

/// The format that a target's images have, where nobody says.
fn format_for(target: Option<Target>) -> Option<Format> {
    match target? {
        Target::HyperVGen1 | Target::HyperVGen2 => Some(Format::Vhdx),
        Target::Vmware | Target::VirtualBox => Some(Format::Vmdk),
        Target::Kvm | Target::Physical => Some(Format::Raw),
    }
}

/// The ending of an image's file name.
fn ending(format: Format) -> &'static str {
    if format == Format::Raw { "img" } else { format.name() }
}
