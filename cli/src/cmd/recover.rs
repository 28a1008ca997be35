//! `vdisk recover`

use serde_json::json;
use vdisk::Result;

use super::{Context, Outcome};
use crate::args::RecoverArgs;
use crate::show;

pub(super) fn run(args: &RecoverArgs, context: &Context<'_>) -> Result<Outcome> {
    let report = vdisk::finish_edit(&args.image, &args.source.open_options())?;
    if context.json() {
        show::json(&json!({
            "schema": "vdisk.recover/1",
            "filename": args.image.display().to_string(),
            "finished": report.is_some(),
            "changes": report.as_ref().map_or(0, |report| report.changes),
            "bytes": report.as_ref().map_or(0, |report| report.bytes),
        }))?;
        return Ok(Outcome::Done);
    }
    show::text(&match report {
        Some(report) => format!("finished: {} bytes in {} places\n", report.bytes, report.changes),
        None => "nothing waits to be finished\n".to_owned(),
    })?;
    Ok(Outcome::Done)
}
