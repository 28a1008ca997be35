//! `vdisk resize`

use serde_json::json;
use vdisk::{Disk, Error, ResizeRequest, Result, parse_size};

use super::{Context, Outcome};
use crate::args::ResizeArgs;
use crate::show;

pub(super) fn run(args: &ResizeArgs, context: &Context<'_>) -> Result<Outcome> {
    let options = args.source.open_options();
    let old = options.open(&args.image)?.len();
    let new = new_size(&args.size, old)?;
    if new < old && !args.shrink {
        return Err(Error::refused(format!("{new} bytes are fewer than the {old} it has"))
            .in_file(&args.image)
            .hint("what lies beyond the new end is lost; if that is meant, add --shrink"));
    }
    // Also to the size it has: that finishes a run that was cut off.
    let request = ResizeRequest { size: new, dry_run: args.dry_run, force: args.force };
    vdisk::resize(&args.image, &options, &request)?;
    if context.json() {
        show::json(&json!({
            "schema": "vdisk.resize/1",
            "filename": args.image.display().to_string(),
            "old-size": old,
            "virtual-size": new,
            "dry-run": args.dry_run,
        }))?;
    } else {
        let would = if args.dry_run { "would be resized" } else { "resized" };
        show::text(&format!("{would} from {old} to {new} bytes\n"))?;
    }
    Ok(Outcome::Done)
}

/// The size that `text` asks for: absolute, or `+`/`-` from the old one.
fn new_size(text: &str, old: u64) -> Result<u64> {
    let size = match text.split_at_checked(1) {
        Some(("+", more)) => old.checked_add(parse_size(more)?),
        Some(("-", less)) => old.checked_sub(parse_size(less)?),
        _ => Some(parse_size(text)?),
    };
    size.filter(|size| *size > 0).ok_or_else(|| Error::usage(format!("{text} leaves no disk")))
}
