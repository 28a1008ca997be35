//! `vdisk info`

use std::fmt::Write;

use vdisk::{Info, Result, human_size};

use super::{Context, Outcome};
use crate::args::InfoArgs;
use crate::show;

pub(super) fn run(args: &InfoArgs, context: &Context<'_>) -> Result<Outcome> {
    let options = args.source.open_options();
    let infos = if args.backing_chain || args.source.others.parent.is_some() {
        vdisk::info(&args.image, &options)?
    } else {
        // The image alone is asked for; where its parent stands is told as far as it can be.
        vdisk::info(&args.image, &options)
            .or_else(|_| vdisk::info(&args.image, &options.clone().without_parents()))?
    };
    let shown = if args.backing_chain { &infos[..] } else { infos.get(..1).unwrap_or_default() };
    if context.json() {
        match shown {
            [only] if !args.backing_chain => show::json(only)?,
            _ => show::json(&shown)?,
        }
    } else {
        let texts: Vec<String> = shown.iter().map(human).collect();
        show::text(&texts.join("\n"))?;
    }
    Ok(Outcome::Done)
}

fn human(info: &Info) -> String {
    let mut text = String::new();
    let mut line = |name: &str, value: String| {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}: {value}");
    };
    line("image", info.filename.clone());
    line("format", format!("{} ({})", info.format, info.subformat));
    line("virtual size", both(info.virtual_size));
    let mib = if info.virtual_size.is_multiple_of(1 << 20) { "yes" } else { "no" };
    line("whole MiB", mib.to_owned());
    line("on disk", both(info.actual_size));
    if let Some(size) = info.cluster_size {
        line("block size", both(size));
    }
    line(
        "sectors",
        format!("{} logical, {} physical", info.logical_sector_size, info.physical_sector_size),
    );
    if let Some(identity) = &info.identity {
        line("identity", identity.clone());
    }
    if let Some(name) = &info.backing_filename {
        line("parent", name.clone());
    }
    if let Some(identity) = &info.parent_identity {
        line("parent identity", identity.clone());
    }
    if let Some(name) = &info.full_backing_filename {
        line("parent found", name.clone());
    }
    if let Some(job) = &info.unfinished {
        line("unfinished", job.clone());
    }
    if let Some(error) = &info.backing_error {
        line("chain broken", error.clone());
    }
    line(
        "dirty",
        if info.dirty { "yes: not closed, or a log waits to be replayed" } else { "no" }.to_owned(),
    );
    for child in &info.children {
        line("extent", format!("{} ({} on disk)", child.filename, human_size(child.actual_size)));
    }
    for (name, value) in &info.format_specific {
        line(&format!("  {name}"), value.to_string());
    }
    text
}

fn both(bytes: u64) -> String {
    if bytes < 1024 {
        format!("{bytes} bytes")
    } else {
        format!("{} ({bytes} bytes)", human_size(bytes))
    }
}
