//! `vdisk check`

use std::fmt::Write;
use std::path::Path;

use serde_json::json;
use vdisk::{CheckReport, Error, RepairRequest, Result, Scope, undo_repair};

use super::{Context, Outcome};
use crate::args::{CheckArgs, Repair};
use crate::show;

const COULD_NOT_CHECK: u8 = 1;
const CORRUPT: u8 = 2;
const LEAKS: u8 = 3;
const NOTHING_TO_CHECK: u8 = 63;

pub(super) fn run(args: &CheckArgs, context: &Context<'_>) -> Result<Outcome, (Error, u8)> {
    let done = match &args.undo {
        Some(side) => undo(args, side, context),
        None => check(args, context),
    };
    done.map_err(|error| (error, COULD_NOT_CHECK))
}

fn check(args: &CheckArgs, context: &Context<'_>) -> Result<Outcome> {
    let options = args.source.open_options();
    let report = match args.repair {
        None => vdisk::check(&args.image, &options)?,
        Some(what) => {
            let scope = match what {
                Repair::Leaks => Scope::Leaks,
                Repair::All => Scope::All,
            };
            let (dry_run, backup) = (args.dry_run, !args.no_backup);
            vdisk::repair(&args.image, &options, RepairRequest { scope, dry_run, backup })?
        }
    };
    if context.json() {
        show::json(&report)?;
    } else {
        show::text(&human(&report))?;
    }
    if let Some(backup) = &report.backup {
        let image = args.image.display();
        context.note(&format!("what was overwritten is in {backup}"));
        context.note(&format!("the way back: vdisk check --undo {backup} {image}"));
    }
    Ok(Outcome::Code(match &report {
        CheckReport { corruptions: 1.., .. } => CORRUPT,
        CheckReport { leaks: 1.., .. } => LEAKS,
        CheckReport { format: "raw", .. } => NOTHING_TO_CHECK,
        _ => 0,
    }))
}

fn undo(args: &CheckArgs, side: &Path, context: &Context<'_>) -> Result<Outcome> {
    let options = args.source.open_options();
    let (pieces, bytes) = undo_repair(&args.image, side, &options, args.dry_run)?;
    if context.json() {
        show::json(&json!({
            "schema": "vdisk.check-undo/1",
            "filename": args.image.display().to_string(),
            "pieces": pieces,
            "bytes": bytes,
            "dry-run": args.dry_run,
        }))?;
    } else {
        let done = if args.dry_run { "would be put back" } else { "put back" };
        show::text(&format!("{pieces} pieces of {bytes} bytes {done}\n"))?;
    }
    Ok(Outcome::Done)
}

fn human(report: &CheckReport) -> String {
    let mut text = String::new();
    let place = |offset: Option<u64>| offset.map(|o| format!(" at byte {o}")).unwrap_or_default();
    // Writing to a string cannot fail.
    for mend in report.repairs.iter().flatten() {
        let done = if report.dry_run { "would be repaired" } else { "repaired" };
        let _ = writeln!(text, "{done}: {}{}: {}", mend.code, place(mend.offset), mend.message);
    }
    for finding in &report.findings {
        let at = place(finding.offset);
        let _ = writeln!(text, "{}: {}{at}: {}", finding.severity, finding.code, finding.message);
    }
    if report.repairs.as_ref().is_some_and(Vec::is_empty) && report.corruptions + report.leaks > 0 {
        text += "nothing of this can be repaired without guessing; see docs/check.md\n";
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
                (0, 1..) => "vdisk check -r leaks or vdisk compact gives leaked space back\n",
                _ => "",
            };
            format!("{corruptions} corruptions, {leaks} leaks{cut}\n{advice}")
        }
    }
}
