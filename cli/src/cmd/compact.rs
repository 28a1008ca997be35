//! `vdisk compact`

use std::sync::Arc;

use vdisk::{CompactReport, CompactRequest, Result, default_threads, human_size};

use super::{Context, skip};
use crate::args::CompactArgs;
use crate::show::{self, Outcome};

pub(super) fn run(args: &CompactArgs, context: &Context<'_>) -> Result<Outcome> {
    let open = args.source.open_options();
    let skipped = match args.skip_free {
        Some(skip) => Some(skip::find(&Arc::new(open.open(&args.image)?), skip)?),
        None => None,
    };
    if let Some(found) = &skipped {
        skip::tell(found, context);
    }
    let request = CompactRequest {
        dry_run: args.dry_run,
        free: skipped.as_ref().map(|found| &found.ranges),
        threads: args.threads.unwrap_or_else(default_threads),
    };
    let progress = context.progress(false);
    let report = vdisk::compact(&args.image, &open, &request, context.watch(&*progress))?;
    if context.json() {
        show::json(&report)?;
        return Ok(Outcome::Done);
    }
    show::text(&human(&report))?;
    for remark in &report.remarks {
        context.note(remark);
    }
    Ok(Outcome::Done)
}

fn human(report: &CompactReport) -> String {
    let would = if report.dry_run { "would be " } else { "" };
    let mut text = String::new();
    if report.block_size.is_some() {
        text = format!(
            "{would}compacted from {} to {} bytes: {} blocks given up, {} moved\n",
            report.size_before, report.size_after, report.blocks_released, report.blocks_moved
        );
    }
    if report.bytes_punched > 0 || text.is_empty() {
        let punched = human_size(report.bytes_punched);
        text += &format!("{punched} of zeros {would}given back as holes of the file\n");
    }
    text
}
