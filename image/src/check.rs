//! Is an image sound?

use std::path::Path;

use vdisk_core::{
    Access, Error, ErrorKind, Findings, Format, HostFile, Layer, LayerInfo, Result, Severity,
};

use crate::open::OpenOptions;
use crate::report::CheckReport;

/// Checks every structure of the image at `path`, and its link to its parent. Nothing is written.
///
/// # Errors
/// What keeps the check from being made: the host's, a format that is not known. Damage that keeps
/// the image from being opened is a finding.
pub fn check(path: &Path, options: &OpenOptions) -> Result<CheckReport> {
    let mut findings = Findings::new();
    let alone = options.clone().without_parents();
    let Some(info) = check_alone(path, &alone, &mut findings)? else {
        let format = options.format_of(path).map_or("unknown", Format::name);
        return Ok(CheckReport::new(path, format, &findings));
    };
    if info.parent.is_some() {
        check_link(path, options, &info, &mut findings);
    }
    Ok(CheckReport::new(path, info.format.name(), &findings))
}

/// Checks the image without its parents; what it is, unless it does not open.
///
/// # Errors
/// As [`check`].
pub(crate) fn check_alone(
    path: &Path,
    alone: &OpenOptions,
    findings: &mut Findings,
) -> Result<Option<LayerInfo>> {
    match alone.open(path) {
        Ok(image) => {
            image.top().check(findings)?;
            Ok(Some(image.info().clone()))
        }
        Err(error) if is_damage(&error) => {
            findings.corruption("image-does-not-open", error.offset(), described(&error));
            check_damaged(path, alone, findings)?;
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Goes on with what opens only for who accepts a loss: the log, the end of a stream.
fn check_damaged(path: &Path, alone: &OpenOptions, findings: &mut Findings) -> Result<()> {
    alone.with_file(path, Access::Read, |format, store, opener| {
        let access = Access::Read;
        let layer: Result<Box<dyn Layer>> = match format {
            Format::Vhdx => {
                let options = vdisk_vhdx::OpenOptions { access, ignore_empty_log: true };
                vdisk_vhdx::open(store.clone(), &options).map(|layer| Box::new(layer) as _)
            }
            Format::Vmdk => {
                let options = vdisk_vmdk::OpenOptions { access, recover_stream: true };
                vdisk_vmdk::open(store.clone(), opener, &options).map(|layer| Box::new(layer) as _)
            }
            Format::Raw | Format::Vhd => return Ok(()),
        };
        layer.map_or(Ok(()), |layer| layer.check(findings))
    })
}

/// Checks what the image says of its parent against the parent found.
fn check_link(path: &Path, options: &OpenOptions, info: &LayerInfo, findings: &mut Findings) {
    let chain = match options.open(path) {
        Ok(chain) => chain,
        Err(error) => {
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
            return;
        }
    };
    let (Some(parent), Some(file)) = (chain.layers().get(1), chain.files().get(1)) else { return };
    let parent = parent.info();
    if parent.virtual_size != info.virtual_size {
        let message = format!(
            "the parent has {} bytes, the image {}: beyond the parent's end it reads as zeros, \
             where other programs may refuse it",
            parent.virtual_size, info.virtual_size
        );
        findings.add(Severity::Note, "parent-size-differs", None, message);
    }
    if parent.logical_sector != info.logical_sector {
        let message = format!(
            "the parent has sectors of {} bytes, the image of {}",
            parent.logical_sector, info.logical_sector
        );
        findings.add(Severity::Note, "parent-sector-differs", None, message);
    }
    let noted = info.parent.as_ref().and_then(|link| link.modified);
    let modified = HostFile::open(&file.path).ok().and_then(|file| file.file().metadata().ok());
    let modified = modified.and_then(|metadata| metadata.modified().ok());
    if let (Some(noted), Some(modified)) = (noted, modified) {
        let apart = modified.duration_since(noted).unwrap_or_else(|earlier| earlier.duration());
        // The format counts whole seconds, and file systems round as they like.
        if apart.as_secs() > 2 {
            let message = format!(
                "the parent file's time is {} seconds off the one noted: it was copied, or \
                 changed; its identity is the right one",
                apart.as_secs()
            );
            findings.add(Severity::Note, "parent-time-differs", None, message);
        }
    }
}

pub(crate) fn is_damage(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated)
}

fn described(error: &Error) -> String {
    match error.advice() {
        Some(advice) => format!("{error}; {advice}"),
        None => error.to_string(),
    }
}
