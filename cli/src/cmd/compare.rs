//! `vdisk compare`

use serde_json::json;
use vdisk::{Comparison, Disk, Error, Image, Result, default_threads};

use super::{Context, Outcome, with_folders};
use crate::args::CompareArgs;
use crate::show;

const DIFFER: u8 = 1;
const COULD_NOT_OPEN: u8 = 2;
const COULD_NOT_READ: u8 = 4;

pub(super) fn run(args: &CompareArgs, context: &Context<'_>) -> Result<Outcome, (Error, u8)> {
    let open = |format, path| {
        with_folders(format, &args.parent_dir)
            .force_share(args.force_share)
            .open(path)
            .map_err(|error| (error, COULD_NOT_OPEN))
    };
    let first = open(args.first_format, &args.first)?;
    let second = open(args.second_format, &args.second)?;
    let progress = context.progress(false);
    let failed = |error| (error, COULD_NOT_READ);
    let found = vdisk::compare(&first, &second, default_threads(), context.watch(&*progress))
        .map_err(failed)?;
    let reasons =
        if args.strict { strict_reasons(&first, &second).map_err(failed)? } else { Vec::new() };
    let same = found.identical && reasons.is_empty();
    if context.json() {
        let ranges = found.ranges.iter();
        let ranges: Vec<_> = ranges
            .map(|range| json!({"start": range.start, "length": range.end - range.start}))
            .collect();
        show::json(&json!({
            "schema": "vdisk.compare/1",
            "identical": same,
            "differing-bytes": found.differing_bytes,
            "ranges": ranges,
            "truncated": found.truncated,
            "strict-differences": reasons,
        }))
        .map_err(failed)?;
    } else {
        show::text(&human(&found, &reasons)).map_err(failed)?;
        if first.len() != second.len() && same {
            context.note(&format!(
                "the sizes differ ({} and {} bytes); the longer one's rest is zero",
                first.len(),
                second.len()
            ));
        }
    }
    Ok(Outcome::Code(if same { 0 } else { DIFFER }))
}

fn human(found: &Comparison, reasons: &[String]) -> String {
    if found.identical && reasons.is_empty() {
        return "identical\n".to_owned();
    }
    let mut text = String::new();
    for range in &found.ranges {
        text += &format!(
            "differ: bytes {} to {} ({})\n",
            range.start,
            range.end - 1,
            range.end - range.start
        );
    }
    if found.truncated {
        text += "differ: more ranges than these\n";
    }
    for reason in reasons {
        text += &format!("differ: {reason}\n");
    }
    text + &format!("{} bytes differ\n", found.differing_bytes)
}

/// What only a strict comparison minds: the sizes, and what is allocated.
fn strict_reasons(first: &Image, second: &Image) -> Result<Vec<String>> {
    let mut reasons = Vec::new();
    if first.len() != second.len() {
        reasons.push(format!("the sizes are {} and {} bytes", first.len(), second.len()));
    }
    let len = first.len().min(second.len());
    let present = |image: &Image| -> Result<Vec<(u64, u64)>> {
        let mut runs: Vec<(u64, u64)> = Vec::new();
        for extent in image.extents(0..len) {
            let extent = extent?;
            if !extent.is_zero() {
                match runs.last_mut() {
                    Some(last) if last.1 == extent.start => last.1 = extent.end(),
                    _ => runs.push((extent.start, extent.end())),
                }
            }
        }
        Ok(runs)
    };
    let (a, b) = (present(first)?, present(second)?);
    if a != b {
        let other = a.iter().zip(&b).find(|(a, b)| a != b).map(|(a, b)| a.0.min(b.0));
        let at = other.or_else(|| a.get(b.len()).or(b.get(a.len())).map(|run| run.0)).unwrap_or(0);
        reasons.push(format!("what is allocated differs from byte {at} on"));
    }
    Ok(reasons)
}
