//! `vdisk check`

use std::fmt::Write;

use vdisk::{CheckReport, Error, Result};

use super::{Context, Outcome};
use crate::args::CheckArgs;
use crate::show;

const COULD_NOT_CHECK: u8 = 1;
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NOTHING_TO_CHECK: u8 = 63;

pub(super) fn run(args: &CheckArgs, context: &Context<'_>) -> Result<Outcome, (Error, u8)> {
    let failed = |error| (error, COULD_NOT_CHECK);
    let report = vdisk::check(&args.image, &args.source.open_options()).map_err(failed)?;
    if context.json() {
        show::json(&report).map_err(failed)?;
    } else {
        show::text(&human(&report)).map_err(failed)?;
    }
    Ok(Outcome::Code(match &report {
        CheckReport { corruptions: 1.., .. } => CORRUPT,
        CheckReport { leaks: 1.., .. } => LEAKS,
        CheckReport { format: "raw", .. } => NOTHING_TO_CHECK,
        _ => 0,
    }))
}

fn human(report: &CheckReport) -> String {
    let mut text = String::new();
    for finding in &report.findings {
        let place = finding.offset.map(|offset| format!(" at byte {offset}")).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ =
            writeln!(text, "{}: {}{place}: {}", finding.severity, finding.code, finding.message);
    }
    text + &match (report.corruptions, report.leaks) {
        (0, 0) if report.format == "raw" => "a raw image has no structures to check\n".to_owned(),
        (0, 0) => "no errors found\n".to_owned(),
        (corruptions, leaks) => {
            let kept = report.findings.len() as u64;
            let cut = if corruptions + leaks > kept {
                format!(" (the first {kept} shown)")
            } else {
                String::new()
            };
            let advice = match (corruptions, leaks) {
                (0, 1..) => "vdisk compact gives leaked space back\n",
                _ => "",
            };
            format!("{corruptions} corruptions, {leaks} leaks{cut}\n{advice}")
        }
    }
}
