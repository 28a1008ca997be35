//! `vdisk v2p`

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::io::{BufRead, IsTerminal, Write};
use std::num::NonZeroU64;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::json;
use vdisk::{Disk, Error, Format, Image, OpenOptions, Ranges, Result, human_size};
use vdisk_fixup::{MachineDisk, Plan, Target};
use vdisk_p2v::{DiskInfo, Machine, fingerprint};
use vdisk_v2p::{
    FitOptions, WriteReport, WriteRequest, add_boot_entry, choose, confirm, insist_on_variables,
    write,
};

use super::p2v::{IN_PART, page};
use super::{Context, Outcome, fixup, passage};
use crate::args::V2pArgs;
use crate::show;

pub(super) fn run(args: &V2pArgs, context: &Context<'_>) -> Result<Outcome> {
    let image = Arc::new(args.source.open_options().open(&args.image)?);
    let device = choose(&Machine::default(), &args.device)?;
    refuse_itself(&image, &device)?;
    if args.boot_entry {
        insist_on_variables(&args.efivars)?;
    }
    let sector = u64::from(image.info().logical_sector);
    let fit = FitOptions { grow: args.grow, shrink: args.shrink };
    let target = (!args.as_is).then_some(Target::Physical);
    let request = WriteRequest {
        image_id: identity(&image, sector)?,
        image,
        sector,
        fit,
        options: passage::as_text(&args.passage, target),
        state: state(args, &device),
        rate_limit: args.rate_limit.and_then(NonZeroU64::new),
        verify: !args.no_verify,
        checkpoint: args.passage.checkpoint,
        restart: args.passage.restart,
        device,
    };
    let steps = vdisk_v2p::plan(&request)?.steps;
    let mut plan = None;
    if target.is_some() {
        plan = planned(request.image.clone(), args, &request)?.map(|(_, plan)| plan);
        match &plan {
            Some(_) => passage::tell_identity(&args.passage, context),
            None => context.note("no guest system was found: the bytes are written as they are"),
        }
    }
    if args.passage.dry_run {
        return tell_plan(args, &request.device, &steps, plan.unwrap_or_default(), context);
    }
    if let Some(plan) = plan {
        fixup::warn(&plan, context);
        plan.refuse().map_err(|error| error.in_file(&args.image))?;
    }
    insist(args, &request.device, context)?;
    let progress = context.progress(false);
    // What is done is planned on the disk as it will be; an earlier run may have done that.
    let mut done = None;
    let prepare = |disk: Arc<dyn Disk>| {
        let found = target.map(|_| planned(disk, args, &request)).transpose()?;
        let Some((machine, plan)) = found.flatten() else { return Ok(Vec::new()) };
        plan.refuse()?;
        done = Some(plan);
        machine.changes()
    };
    let report = write(&request, prepare, context.watch(&*progress))?;
    reread(&request.device.path);
    let entry = args.boot_entry.then(|| add_entry(args, &request.device, done.as_ref()));
    let entry = entry.transpose().unwrap_or_else(|error| {
        context.note(&format!("warning: the firmware got no boot entry: {error}"));
        None
    });
    tell(args, &request.device, &report, done.as_ref(), entry.as_deref(), context)?;
    let lacks_entry = args.boot_entry && entry.is_none();
    Ok(if lacks_entry { Outcome::Code(IN_PART) } else { Outcome::Done })
}

/// Has this machine's firmware start the disk; the entry's name.
fn add_entry(args: &V2pArgs, device: &DiskInfo, plan: Option<&Plan>) -> Result<String> {
    let disk: Arc<dyn Disk> = Arc::new(OpenOptions::new().format(Format::Raw).open(&device.path)?);
    let label = plan.and_then(|plan| plan.system.as_deref()).unwrap_or("vdisk");
    add_boot_entry(&args.efivars, &disk, device.logical_sector_size, label)
}

fn planned(
    disk: Arc<dyn Disk>,
    args: &V2pArgs,
    request: &WriteRequest,
) -> Result<Option<(vdisk_fixup::Machine, Plan)>> {
    let disks = vec![MachineDisk::new(disk, request.sector)];
    passage::planned(disks, &args.passage, Target::Physical)
        .map_err(|error| error.in_file(&args.image))
}

/// What is written over must not be read from: the disk itself, a partition of it, or a file that a
/// loop device stands for.
fn refuse_itself(image: &Image, device: &DiskInfo) -> Result<()> {
    let refused = || {
        Err(Error::refused("is also the image")
            .in_file(&device.path)
            .hint("name another disk, or copy the image first"))
    };
    let number = |path: &Path| std::fs::metadata(path).map_or(0, |found| found.rdev());
    let own: Vec<u64> = device.nodes().map(number).filter(|number| *number != 0).collect();
    if files(image).iter().any(|file| own.contains(&number(file))) {
        return refused();
    }
    match device.backing_id().is_some_and(|id| image.host_ids().contains(&id)) {
        true => refused(),
        false => Ok(()),
    }
}

/// All files of an image's chain, each once.
fn files(image: &Image) -> BTreeSet<PathBuf> {
    let stores = image.layers().iter().flat_map(|layer| layer.stores());
    let stores = stores.filter_map(|store| store.host().map(|file| file.path().to_owned()));
    image.files().iter().map(|file| file.path.clone()).chain(stores).collect()
}

/// What tells the image in its present state: its files, and because a device's say nothing of what
/// is written to it, some of its bytes.
fn identity(image: &Image, sector: u64) -> Result<String> {
    let mut text = format!("{}; ", fingerprint(image, sector, &Ranges::new()));
    for file in files(image) {
        let failed = |error| Error::io(error, "look at it").in_file(&file);
        let path = file.canonicalize().map_err(failed)?;
        let found = path.metadata().map_err(failed)?;
        text += &format!(
            "{} of {} bytes, {}.{:09}; ",
            path.display(),
            found.len(),
            found.mtime(),
            found.mtime_nsec()
        );
    }
    Ok(text)
}

/// Where a job that is cut off leaves how far it was: a folder of its own, beside the image or where
/// the user says.
fn state(args: &V2pArgs, device: &DiskInfo) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(args.image.file_name().unwrap_or_default());
    let tag: String = device
        .confirmation()
        .chars()
        .map(|one| if one.is_ascii_alphanumeric() { one } else { '-' })
        .take(64)
        .collect();
    name.push(format!(".vdisk-v2p-{tag}"));
    match &args.state {
        Some(folder) => folder.join(name),
        None => args.image.with_file_name(name),
    }
}

/// Shows what would be lost, and goes on only if the disk is confirmed.
fn insist(args: &V2pArgs, device: &DiskInfo, context: &Context<'_>) -> Result<()> {
    context.note(&format!("all that is on this disk will be lost:\n{}", contents(device)));
    if args.confirm.is_none() && std::io::stdin().is_terminal() {
        let mut out = std::io::stderr().lock();
        let asked =
            write!(out, "type {} to go on: ", device.confirmation()).and_then(|()| out.flush());
        let mut answer = String::new();
        let read = asked.and_then(|()| std::io::stdin().lock().read_line(&mut answer));
        read.map_err(|error| Error::io(error, "ask"))?;
        return confirm(device, Some(answer.trim()));
    }
    confirm(device, args.confirm.as_deref())
}

/// The disk and what stands on it, for people.
fn contents(device: &DiskInfo) -> String {
    let mut text = page(device);
    let open = OpenOptions::new().format(Format::Raw).open(&device.path);
    // What cannot be read is lost all the same.
    let found =
        open.and_then(|disk| vdisk_guest::inspect(Arc::new(disk), device.logical_sector_size));
    let Ok(found) = found else { return text };
    for part in &found.partitions {
        let file_system = part.filesystem.as_ref();
        let kind = file_system.map_or("nothing known", |one| one.kind);
        let label = file_system.and_then(|one| one.label.as_deref()).unwrap_or_default();
        text += &format!(
            "    partition {}: {}, {kind} {label}\n",
            part.number,
            human_size(part.length)
        );
    }
    for system in &found.systems {
        let name = system.hostname.as_deref().unwrap_or("a machine without a name");
        let product = system.product.as_deref().unwrap_or("an unknown system");
        text += &format!("    {name}: {product}\n");
    }
    text
}

/// Has the kernel look at the new partitions. Where it cannot, it does at the next start.
fn reread(device: &Path) {
    let mut command = std::process::Command::new("blockdev");
    let command = command.arg("--rereadpt").arg(device);
    let _ =
        command.stdout(std::process::Stdio::null()).stderr(std::process::Stdio::null()).status();
}

fn tell_plan(
    args: &V2pArgs,
    device: &DiskInfo,
    steps: &[String],
    plan: Plan,
    context: &Context<'_>,
) -> Result<Outcome> {
    if context.json() {
        let details = json!({"filename": args.image, "device": device, "steps": steps});
        show::json(&fixup::document(&plan, details))?;
    } else {
        let mut text = format!("all that is on this disk would be lost:\n{}", contents(device));
        steps.iter().for_each(|step| text += &format!("{step}\n"));
        show::text(&(text + &fixup::page(&plan)))?;
    }
    Ok(fixup::outcome(&plan))
}

fn tell(
    args: &V2pArgs,
    device: &DiskInfo,
    report: &WriteReport,
    plan: Option<&Plan>,
    entry: Option<&str>,
    context: &Context<'_>,
) -> Result<()> {
    if context.json() {
        return show::json(&json!({
            "schema": "vdisk.v2p/1",
            "image": args.image,
            "device": device.path,
            "serial": device.serial,
            "written": report.written,
            "resumed-at": report.resumed_at,
            "steps": report.steps,
            "verified": report.verified,
            "boot-entry": entry,
            "plan": plan,
        }));
    }
    if let Some(at) = report.resumed_at {
        context.note(&format!("went on at {} of an earlier run", human_size(at)));
    }
    report.steps.iter().for_each(|step| context.note(step));
    let verified = if report.verified { ", verified" } else { "" };
    context.remark(&format!("{} written{verified}", human_size(report.written)));
    if let Some(entry) = entry {
        context.note(&format!("{entry} of this machine's firmware starts the disk from now on"));
    }
    Ok(())
}
