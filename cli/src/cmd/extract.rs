//! `vdisk extract`

use serde_json::json;
use vdisk::Result;

use super::{Context, Outcome, guest};
use crate::args::ExtractArgs;
use crate::show;

/// Finished in part.
const IN_PART: u8 = 3;

pub(super) fn run(args: &ExtractArgs, context: &Context<'_>) -> Result<Outcome> {
    let (fs, path) = guest::open_at(&args.source, &args.location, context)?;
    let done = vdisk_guest::extract(&*fs, &path, &args.target, args.force, &context.cancel)?;
    for failure in &done.failures {
        context.note(&format!("error: {failure}"));
    }
    for path in &done.special {
        context.note(&format!("left out, no file: {}", String::from_utf8_lossy(path)));
    }
    if context.json() {
        show::json(&json!({
            "schema": "vdisk.extract/1",
            "files": done.files,
            "directories": done.directories,
            "links": done.links,
            "bytes": done.bytes,
            "failures": done.failures.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "left-out": done.special.len(),
        }))?;
    } else {
        context.remark(&format!("{} files, {} bytes", done.files, done.bytes));
    }
    Ok(if done.failures.is_empty() { Outcome::Done } else { Outcome::Code(IN_PART) })
}
