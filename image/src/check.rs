//! Is an image sound?

use std::path::Path;

use vdisk_core::{Error, ErrorKind, Findings, Format, Result, Severity};

use crate::open::OpenOptions;
use crate::report::CheckReport;

/// Checks every structure of the image at `path`, and its link to its parent. Nothing is written.
///
/// # Errors
/// What keeps the check from being made: the host's, a format that is not known. Damage that keeps
/// the image from being opened is a finding.
pub fn check(path: &Path, options: &OpenOptions) -> Result<CheckReport> {
    let mut findings = Findings::new();
    let alone = match options.clone().without_parents().open(path) {
        Ok(image) => image,
        Err(error) if is_damage(&error) => {
            findings.corruption("image-does-not-open", error.offset(), described(&error));
            let format = options.format_of(path).map_or("unknown", Format::name);
            return Ok(CheckReport::new(path, format, &findings));
        }
        Err(error) => return Err(error),
    };
    alone.top().check(&mut findings)?;
    if alone.info().parent.is_some()
        && let Err(error) = options.open(path)
    {
        let code = match error.kind() {
            ErrorKind::ParentMismatch => "parent-mismatch",
            ErrorKind::ParentMissing => "parent-missing",
            ErrorKind::ParentCycle => "parent-cycle",
            ErrorKind::Confined => "parent-confined",
            _ => "parent-does-not-open",
        };
        // Where the folder rules alone hide the parent, nothing is known to be wrong.
        let severity = match error.kind() {
            ErrorKind::Confined => Severity::Note,
            _ => Severity::Corruption,
        };
        findings.add(severity, code, error.offset(), described(&error));
    }
    Ok(CheckReport::new(path, alone.info().format.name(), &findings))
}

fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated)
}

fn described(error: &Error) -> String {
    match error.advice() {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    }
}
