//! `vdisk commit`

use vdisk::{CommitReport, CommitRequest, Result, default_threads};

use super::Context;
use crate::args::CommitArgs;
use crate::show::{self, Outcome};

pub(super) fn run(args: &CommitArgs, context: &Context<'_>) -> Result<Outcome> {
    let request = CommitRequest {
        into: args.into.as_deref(),
        dry_run: args.dry_run,
        force: args.force,
        threads: args.threads.unwrap_or_else(default_threads),
    };
    let progress = context.progress(false);
    let open = args.source.open_options();
    let report = vdisk::commit(&args.image, &open, &request, context.watch(&*progress))?;
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

fn human(report: &CommitReport) -> String {
    let CommitReport { target, data, zeros, .. } = report;
    let done = match (report.dry_run, report.resumed) {
        (true, _) => "would be written",
        (false, true) => "written, finishing what an earlier run began",
        (false, false) => "written",
    };
    format!("into {target}: {data} bytes of data and {zeros} of zeros {done}\n")
}
