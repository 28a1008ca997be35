//! `vdisk convert`

use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use serde_json::json;
use vdisk::{
    ChildTarget, CopyOptions, CopyReport, Disk, Error, ErrorKind, Format, Image, IntoTarget,
    Masked, NewImage, OpenOptions, Result, ZeroSearch, default_threads, human_size, parse_size,
};

use super::{Context, Outcome, new_image, output_format, skip, told_options, with_folders};
use vdisk_guest::free::FreeSpace;

use crate::args::ConvertArgs;
use crate::show;

pub(super) fn run(args: &ConvertArgs, context: &Context<'_>) -> Result<Outcome> {
    let named = args.target.as_deref().and_then(vdisk::format_of_name);
    if let Some(format) = args.output_format.or(named)
        && told_options(&args.options, format, context)?
    {
        return Ok(Outcome::Done);
    }
    let (Some(source), Some(target)) = (&args.source_image, &args.target) else {
        return Err(Error::usage("convert needs a source and a target")
            .hint("vdisk convert SRC DST; see vdisk convert --help"));
    };
    let begun = Instant::now();
    let image = Arc::new(args.source.open_options().open(source)?);
    let skipped = args.skip_free.map(|skip| skip::find(&image, skip)).transpose()?;
    let progress = context.progress(args.show_progress);
    let mut options = copy_options(args)?;
    if let Some(found) = &skipped {
        skip::tell(found, context);
        options.skip = Some(Arc::new(found.ranges.clone()));
    }
    let watch = context.watch(&*progress);
    let format = if args.no_create { None } else { Some(target_format(args, target)?) };
    let report = match (format, &args.backing) {
        (None, _) => {
            no_options_with_n(args)?;
            let into = IntoTarget {
                open: into_options(args, target),
                allow_device: args.allow_device,
                known_zero: args.target_is_zero,
                force: args.force,
            };
            vdisk::convert_into(&image, target, &into, &options, watch)?
        }
        (Some(format), Some(parent)) => {
            let open = with_folders(None, &args.source.others.parent_dir);
            let child = ChildTarget { format, parent, open, options: &args.options };
            vdisk::convert_to_child(&image, target, &child, args.force, &options, watch)?
        }
        (Some(format), None) => {
            let new = target_image(format, &image, args, context)?;
            vdisk::convert(&image, target, &new, args.force, &options, watch)?
        }
    };
    if args.verify {
        let hidden = options.skip.as_deref().cloned().unwrap_or_default();
        verify(&Masked::new(&*image, &hidden), target, format, args, context)?;
    }
    tell(args, context, &image, &report, skipped.as_ref(), begun)
}

fn target_format(args: &ConvertArgs, target: &Path) -> Result<Format> {
    let device = vdisk::HostFile::open(target).is_ok_and(|file| file.is_device());
    if device {
        return Err(Error::refused("is a block device, which cannot be created")
            .in_file(target)
            .hint("to overwrite the device add -n and --allow-device"));
    }
    output_format(args.output_format, target)
}

fn no_options_with_n(args: &ConvertArgs) -> Result<()> {
    if args.options.is_empty() && args.backing.is_none() {
        return Ok(());
    }
    Err(Error::usage("with -n nothing is created, so -o and -b have no meaning"))
}

/// How the existing target of `-n` is opened: as its format is said, else by content, and a file
/// named like a raw image as raw.
fn into_options(args: &ConvertArgs, target: &Path) -> OpenOptions {
    let named = vdisk::format_of_name(target).filter(|format| *format == Format::Raw);
    with_folders(args.output_format.or(named), &args.source.others.parent_dir)
}

fn target_image(
    format: Format,
    source: &Image,
    args: &ConvertArgs,
    context: &Context<'_>,
) -> Result<NewImage> {
    let mut new = NewImage::new(format, source.len());
    let (logical, physical) = (source.info().logical_sector, source.info().physical_sector);
    if source.info().format != Format::Raw {
        new.set_sectors(logical, physical);
    }
    let new = new_image(new, &args.options)?;
    if new.virtual_size() != source.len() {
        context.note(&format!(
            "{format} holds whole sectors: the new image is {} bytes, {} more than the source, all zero",
            new.virtual_size(),
            new.virtual_size() - source.len(),
        ));
    }
    if new.logical_sector() != logical && format != Format::Raw {
        context.note(&format!(
            "the source has sectors of {logical} bytes, the new image of {}: \
             the bytes are the same, but a partition table counts in sectors",
            new.logical_sector(),
        ));
    }
    Ok(new)
}

fn copy_options(args: &ConvertArgs) -> Result<CopyOptions> {
    let zero_search = match args.sparse.as_deref().map(parse_size).transpose()? {
        None => ZeroSearch::Auto,
        Some(0) => ZeroSearch::Off,
        Some(unit) if unit.is_power_of_two() && (512..=1 << 20).contains(&unit) => {
            ZeroSearch::Unit(unit)
        }
        Some(_) => {
            return Err(Error::usage("-S takes 0, or a power of two from 512 to 1M"));
        }
    };
    let threads = args.threads.unwrap_or_else(default_threads).clamp(1, 64);
    Ok(CopyOptions { zero_search, threads, skip: None })
}

fn verify(
    source: &dyn Disk,
    target: &Path,
    format: Option<Format>,
    args: &ConvertArgs,
    context: &Context<'_>,
) -> Result<()> {
    let folders = &args.source.others.parent_dir;
    let mut open = match format {
        Some(format) => with_folders(Some(format), folders),
        None => into_options(args, target),
    };
    if let Some(parent) = &args.backing {
        open = open.parent(parent);
    }
    let output = open.open(target)?;
    let progress = context.progress(args.show_progress);
    let found = vdisk::compare(source, &output, default_threads(), context.watch(&*progress))?;
    if found.identical {
        return Ok(());
    }
    let first = found.ranges.first().map_or(0, |range| range.start);
    Err(Error::new(
        ErrorKind::Io,
        format!("verification failed: {} bytes differ from the source", found.differing_bytes),
    )
    .at("guest byte", first)
    .in_file(target)
    .hint("do not use this file; check the disk it is on, then convert again"))
}

fn tell(
    args: &ConvertArgs,
    context: &Context<'_>,
    image: &Image,
    report: &CopyReport,
    skipped: Option<&FreeSpace>,
    begun: Instant,
) -> Result<Outcome> {
    if context.json() {
        let mut told = json!({
            "schema": "vdisk.convert/1",
            "source": args.source_image.as_ref().map(|path| path.display().to_string()),
            "target": args.target.as_ref().map(|path| path.display().to_string()),
            "virtual-size": image.len(),
            "written": report.written,
            "found-zero": report.found_zero,
            "kernel-copied": report.kernel_copied,
            "verified": args.verify,
        });
        if let (Some(found), Some(keys)) = (skipped, told.as_object_mut()) {
            keys.insert("skipped".to_owned(), skip::data(found));
        }
        show::json(&told)?;
    } else {
        context.remark(&format!(
            "{} of {} written ({} by the kernel), {} found to be zero, in {:.2} s{}",
            human_size(report.written),
            human_size(image.len()),
            human_size(report.kernel_copied),
            human_size(report.found_zero),
            begun.elapsed().as_secs_f64(),
            if args.verify { ", verified" } else { "" },
        ));
    }
    Ok(Outcome::Done)
}
