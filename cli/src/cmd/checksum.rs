//! `vdisk checksum`

use serde_json::json;
use vdisk::{Disk, Result, default_threads};

use super::{Context, Outcome};
use crate::args::ChecksumArgs;
use crate::show;

pub(super) fn run(args: &ChecksumArgs, context: &Context<'_>) -> Result<Outcome> {
    let image = args.source.open_options().open(&args.image)?;
    let progress = context.progress(false);
    let watch = context.watch(&*progress);
    let digest = vdisk::checksum(&image, args.algorithm, default_threads(), watch)?;
    if context.json() {
        show::json(&json!({
            "schema": "vdisk.checksum/1",
            "algorithm": args.algorithm.name(),
            "digest": digest,
            "virtual-size": image.len(),
        }))?;
    } else {
        show::text(&format!("{digest}  {}\n", args.image.display()))?;
    }
    Ok(Outcome::Done)
}
