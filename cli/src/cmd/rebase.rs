//! `vdisk rebase`

use std::path::Path;

use vdisk::{Error, RebaseReport, RebaseRequest, Result, default_threads};

use super::Context;
use crate::args::RebaseArgs;
use crate::show::{self, Outcome};

pub(super) fn run(args: &RebaseArgs, context: &Context<'_>) -> Result<Outcome> {
    if args.backing.is_empty() {
        let image = args.image.display();
        return Err(Error::usage("a rebase leads to another parent, never to none")
            .hint(format!("to make an image that needs no parent: vdisk convert {image} NEW")));
    }
    let request = RebaseRequest {
        parent: Path::new(&args.backing),
        link_only: args.link_only,
        dry_run: args.dry_run,
        threads: args.threads.unwrap_or_else(default_threads),
    };
    let progress = context.progress(false);
    let open = args.source.open_options();
    let report = vdisk::rebase(&args.image, &open, &request, context.watch(&*progress))?;
    if context.json() {
        show::json(&report)?;
    } else {
        show::text(&human(&report))?;
    }
    Ok(Outcome::Done)
}

fn human(report: &RebaseReport) -> String {
    let RebaseReport { backing_filename, copied, .. } = report;
    let would = if report.dry_run { "would be " } else { "" };
    if report.link_only {
        return format!("{would}linked to {backing_filename}\n");
    }
    format!("{would}moved onto {backing_filename}, with {copied} bytes of its old parents\n")
}
