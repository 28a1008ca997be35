//! What `strip` and `adapt` share: plan, show, carry out, take back.

use std::fmt::Write;
use std::path::Path;
use std::sync::Arc;

use serde::Serialize;
use serde_json::{Value, json};
use vdisk::{ErrorKind, Result};
use vdisk_fixup::{
    Action, ImageOf, Machine, MachineDisk, Plan, Report, apply_together, undo_together,
};

use super::{Context, Outcome};
use crate::args::Fixup;
use crate::show;

#[derive(Serialize)]
struct PlanDocument {
    schema: &'static str,
    #[serde(flatten)]
    details: Value,
    #[serde(flatten)]
    plan: Plan,
}

#[derive(Serialize)]
#[serde(rename_all = "kebab-case")]
struct DoneDocument<'a> {
    #[serde(flatten)]
    report: &'a Report,
    report_file: String,
}

/// Runs one of the two on the guest of an image; `fix` plans and makes the changes in memory.
pub(super) fn run(
    command: &str,
    args: &Fixup,
    context: &Context<'_>,
    fix: impl FnOnce(&mut Machine, &mut Plan) -> Result<()>,
) -> Result<Outcome> {
    let open = args.source.open_options().in_one_session();
    let paths = std::iter::once(&args.image).chain(&args.with);
    let images: Vec<ImageOf<'_>> = paths.map(|path| ImageOf { path, open: &open }).collect();
    if let Some(report) = &args.undo {
        return take_back(command, args, &images, report, context);
    }
    let (machine, plan) = planned(args, &images, fix)?;
    if args.dry_run {
        return show_plan(args, &plan, context);
    }
    warn(&plan, context);
    let done = apply_together(&images, &machine, &plan, command, args.force)?;
    let Some((file, report)) = done else {
        return nothing_to_do(args, &plan, context);
    };
    if context.json() {
        show::json(&DoneDocument { report: &report, report_file: file.display().to_string() })?;
        return Ok(Outcome::Done);
    }
    let mut text = list(&report.plan.actions);
    let _ = writeln!(text, "{} bytes changed in {} places", report.bytes, report.places);
    show::text(&text)?;
    let (file, image) = (file.display(), args.image.display());
    let others = args.with.iter().map(|path| format!(" --with {}", path.display()));
    let others: String = others.collect();
    context.note(&format!(
        "the way back, until the guest starts: vdisk {command} {image}{others} --undo {file}"
    ));
    Ok(Outcome::Done)
}

/// The images are only read here; their locks stay with the options they are opened with.
fn planned(
    args: &Fixup,
    images: &[ImageOf<'_>],
    fix: impl FnOnce(&mut Machine, &mut Plan) -> Result<()>,
) -> Result<(Machine, Plan)> {
    let named = |error: vdisk::Error| error.in_file(&args.image);
    let mut disks = Vec::new();
    for ImageOf { path, open } in images {
        let image = open.open(path)?;
        let sector_size = u64::from(image.info().logical_sector);
        disks.push(MachineDisk::new(Arc::new(image), sector_size));
    }
    let mut machine = Machine::of_disks(disks).map_err(named)?;
    let mut plan = Plan::default();
    fix(&mut machine, &mut plan).map_err(named)?;
    Ok((machine, plan))
}

fn show_plan(args: &Fixup, plan: &Plan, context: &Context<'_>) -> Result<Outcome> {
    if context.json() {
        show::json(&document(plan, json!({"filename": args.image})))?;
    } else {
        show::text(&page(plan))?;
    }
    Ok(outcome(plan))
}

/// A plan as all commands show it to programs, with what the command has to say besides.
pub(super) fn document(plan: &Plan, details: Value) -> impl Serialize {
    PlanDocument { schema: "vdisk.plan/1", details, plan: plan.clone() }
}

/// How showing a plan ends: a refusal stops everything.
pub(super) fn outcome(plan: &Plan) -> Outcome {
    match plan.refusals.is_empty() {
        true => Outcome::Done,
        false => Outcome::Code(show::exit_code(ErrorKind::Refused)),
    }
}

fn nothing_to_do(args: &Fixup, plan: &Plan, context: &Context<'_>) -> Result<Outcome> {
    if context.json() {
        show::json(&document(plan, json!({"filename": args.image})))?;
    } else {
        show::text("nothing to do\n")?;
    }
    Ok(Outcome::Done)
}

fn take_back(
    command: &str,
    args: &Fixup,
    images: &[ImageOf<'_>],
    report: &Path,
    context: &Context<'_>,
) -> Result<Outcome> {
    let done = undo_together(images, report, args.force)?;
    if context.json() {
        show::json(&json!({
            "schema": "vdisk.undo/1",
            "filename": args.image.display().to_string(),
            "command": command,
            "places": done.changes,
            "bytes": done.bytes,
        }))?;
    } else {
        show::text(&format!("taken back: {} bytes in {} places\n", done.bytes, done.changes))?;
    }
    Ok(Outcome::Done)
}

/// Says what should be known of a plan, and what is in its way besides the first refusal, which is
/// an error's matter.
pub(super) fn warn(plan: &Plan, context: &Context<'_>) {
    for refusal in plan.refusals.iter().skip(1) {
        context.note(&format!("in the way: {}", refusal.message));
    }
    for warning in &plan.warnings {
        let told = told(&warning.message, warning.hint.as_deref());
        context.note(&format!("warning: {told}"));
    }
}

/// The plan, for people.
pub(super) fn page(plan: &Plan) -> String {
    let mut text = String::new();
    if let Some(system) = &plan.system {
        let _ = writeln!(text, "guest: {system}");
    }
    text += &list(&plan.actions);
    if plan.actions.is_empty() && plan.refusals.is_empty() {
        text += "nothing to do\n";
    }
    for (kind, notices) in [("warning", &plan.warnings), ("in the way", &plan.refusals)] {
        for notice in notices {
            let _ = writeln!(text, "{kind}: {}", told(&notice.message, notice.hint.as_deref()));
        }
    }
    text
}

fn told(message: &str, hint: Option<&str>) -> String {
    hint.map_or_else(|| message.to_owned(), |hint| format!("{message}; {hint}"))
}

fn list(actions: &[Action]) -> String {
    let mut text = String::new();
    for action in actions {
        let _ = writeln!(text, "[{}] {}: {}", action.id, action.what, action.place);
        match (&action.before, &action.after) {
            (Some(before), Some(after)) => drop(writeln!(text, "    {before} -> {after}")),
            (Some(before), None) => drop(writeln!(text, "    {before} goes")),
            (None, Some(after)) => drop(writeln!(text, "    {after}")),
            (None, None) => {}
        }
        if !action.why.is_empty() {
            let _ = writeln!(text, "    because {}", action.why);
        }
    }
    text
}
