//! Carrying a plan out on images: in one step, read back, with a report and the way back.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use vdisk::{EditOf, EditReport, OpenOptions, UndoOf, edit_together};
use vdisk_core::{Change, Disk, Error, ErrorKind, Files, Output, Result, StoreExt};

use crate::{Machine, Plan};

const SCHEMA: &str = "vdisk.report/1";
/// Most bytes of a report that is read.
const MOST: u64 = 64 << 20;
/// Most reports beside one image.
const MOST_REPORTS: u32 = 10_000;

/// What was done to an image, as it is written beside it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Report {
    /// `vdisk.report/1`.
    pub schema: String,
    /// The command, such as `strip`.
    pub command: String,
    /// The image's file, in the report's own folder.
    pub image: String,
    /// Places of the disk that were written.
    pub places: usize,
    /// Bytes in them.
    pub bytes: u64,
    /// The file, in the report's own folder, that takes all of it back; empty where only others
    /// were changed.
    pub undo: String,
    /// The images of the machine's other disks.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub others: Vec<OtherImage>,
    /// What was written was read back. The report is there before anything is written, so one
    /// without this tells of a run that was cut off: the guest is as it was, or `vdisk recover`
    /// finishes, and either way the report takes it back.
    #[serde(default)]
    pub verified: bool,
    /// It was taken back.
    #[serde(default)]
    pub undone: bool,
    /// What was done.
    #[serde(flatten)]
    pub plan: Plan,
}

/// The image of another disk of the same machine, as a report tells of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub struct OtherImage {
    /// Its file's name.
    pub image: String,
    /// The file beside it that takes its changes back; empty where there were none.
    pub undo: String,
}

/// The image of one disk of a machine.
#[derive(Clone, Copy, Debug)]
pub struct ImageOf<'a> {
    /// Its file.
    pub path: &'a Path,
    /// How it is opened.
    pub open: &'a OpenOptions,
}

/// Writes what `machine` changed to the image at `image`, which it was opened from with `open`: all
/// of it or nothing, then reads it back. The report and the way back are there before that. Gives
/// the report's file and what is in it; `None` where nothing was to be done. Open the image with
/// [`OpenOptions::in_one_session`], so that nobody can change it between plan and deed.
///
/// # Errors
/// [`ErrorKind::Refused`] for a plan with refusals; [`ErrorKind::Internal`] where the image reads
/// otherwise than what was written; as [`vdisk::edit`].
pub fn apply(
    image: &Path,
    open: &OpenOptions,
    machine: &Machine,
    plan: &Plan,
    command: &str,
    force: bool,
) -> Result<Option<(PathBuf, Report)>> {
    apply_together(&[ImageOf { path: image, open }], machine, plan, command, force)
}

/// As [`apply`], to the images of all disks of the machine, in its order: all of them are changed or
/// none. The report lies beside the first.
///
/// # Errors
/// As [`apply`].
pub fn apply_together(
    images: &[ImageOf<'_>],
    machine: &Machine,
    plan: &Plan,
    command: &str,
    force: bool,
) -> Result<Option<(PathBuf, Report)>> {
    plan.refuse()?;
    let changes = machine.changes_of_disks()?;
    if changes.len() != images.len() {
        return Err(Error::usage("each disk of the machine needs its image"));
    }
    let Some(first) = images.first().filter(|_| changes.iter().any(|one| !one.is_empty())) else {
        return Ok(None);
    };
    let (report_file, _) = free_names(first.path, command)?;
    let mut undo_files = Vec::new();
    for image in images {
        undo_files.push(free_names(image.path, command)?.1);
    }
    let parts = images.iter().zip(&changes).zip(&undo_files);
    let edits: Vec<EditOf<'_>> = parts
        .map(|((image, changes), undo)| EditOf {
            image: image.path,
            open: image.open,
            changes,
            undo: Some(undo),
        })
        .collect();
    let mut parts = images.iter().zip(&changes).zip(&undo_files).map(|((image, changes), undo)| {
        let undo = if changes.is_empty() { String::new() } else { name_of(undo) };
        OtherImage { image: name_of(image.path), undo }
    });
    let OtherImage { image, undo } = parts.next().unwrap_or_default();
    let mut report = Report {
        schema: SCHEMA.to_owned(),
        command: command.to_owned(),
        image,
        places: 0,
        bytes: 0,
        undo,
        others: parts.collect(),
        verified: false,
        undone: false,
        plan: plan.clone(),
    };
    let done = edit_together(&edits, force, |edit| {
        (report.places, report.bytes) = (edit.changes, edit.bytes);
        write(&report_file, &report, first.open, false)
    })?;
    if done.changes == 0 {
        return Ok(None);
    }
    for (image, changes) in images.iter().zip(&changes) {
        read_back(image.path, image.open, changes)?;
    }
    report.verified = true;
    write(&report_file, &report, first.open, true)?;
    Ok(Some((report_file, report)))
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Takes back what `report` tells of, in the image at `image`, as long as nobody has used it since;
/// the report says so from then on.
///
/// # Errors
/// [`ErrorKind::Refused`] where the image was changed since, or it was taken back before;
/// [`ErrorKind::Corrupt`] where the report is none; as [`vdisk::edit`].
pub fn undo(image: &Path, open: &OpenOptions, report: &Path, force: bool) -> Result<EditReport> {
    undo_together(&[ImageOf { path: image, open }], report, force)
}

/// As [`undo`], of what [`apply_together`] did to several images, which are given in the same order.
/// What takes each of them back is expected beside it.
///
/// # Errors
/// As [`undo`]; [`ErrorKind::Refused`] where these are not the images.
pub fn undo_together(images: &[ImageOf<'_>], report: &Path, force: bool) -> Result<EditReport> {
    let mut content = read(report)?;
    if content.undone {
        return Err(Error::refused("it was taken back already").in_file(report));
    }
    if images.len() != content.others.len() + 1 {
        let others: Vec<&str> = content.others.iter().map(|one| one.image.as_str()).collect();
        return Err(Error::refused(format!("it tells of {} images", others.len() + 1))
            .in_file(report)
            .hint(format!("name the others in their order: --with {}", others.join(" --with "))));
    }
    let names = std::iter::once(&content.undo).chain(content.others.iter().map(|one| &one.undo));
    let mut undos = Vec::new();
    for (number, (image, name)) in images.iter().zip(names).enumerate() {
        // Nothing was changed in one of several.
        if name.is_empty() && images.len() > 1 {
            continue;
        }
        if Path::new(name).file_name() != Some(name.as_ref()) {
            return Err(not_a_report(report, 0));
        }
        let beside = if number == 0 { report } else { image.path };
        undos.push((image, beside.with_file_name(name)));
    }
    let parts =
        undos.iter().map(|(ImageOf { path, open }, undo)| UndoOf { image: path, open, undo });
    let parts: Vec<UndoOf<'_>> = parts.collect();
    let Some(first) = images.first() else { return Err(not_a_report(report, 0)) };
    content.undone = true;
    vdisk::undo_together(&parts, force, || write(report, &content, first.open, true))
}

/// Names for a report and the way back that no file has yet.
fn free_names(image: &Path, command: &str) -> Result<(PathBuf, PathBuf)> {
    for number in 1..=MOST_REPORTS {
        let named = |end: &str| {
            let mut name = image.file_name().map(OsString::from).unwrap_or_default();
            name.push(format!(".{command}-{number}.{end}"));
            image.with_file_name(name)
        };
        let (report, undo) = (named("json"), named("undo"));
        if !report.exists() && !undo.exists() {
            return Ok((report, undo));
        }
    }
    Err(Error::refused("there are too many reports beside the image")
        .in_file(image)
        .hint("move the old ones away"))
}

fn read_back(image: &Path, open: &OpenOptions, changes: &[Change]) -> Result<()> {
    let disk = open.open(image)?;
    for Change { offset, bytes } in changes {
        let mut found = vec![0; bytes.len()];
        disk.read_at(&mut found, *offset)?;
        if found != *bytes {
            return Err(Error::new(ErrorKind::Internal, "what was written reads otherwise")
                .at("guest byte", *offset)
                .in_file(image));
        }
    }
    Ok(())
}

fn write(path: &Path, report: &Report, open: &OpenOptions, overwrite: bool) -> Result<()> {
    let text = serde_json::to_vec_pretty(report)
        .map_err(|error| Error::new(ErrorKind::Internal, error.to_string()).in_file(path))?;
    let mut output = Output::on(open.host().clone(), path, overwrite)?;
    let name = output.main_name().to_owned();
    output.create(&name)?.put(&text, 0, "report")?;
    output.commit()
}

fn read(path: &Path) -> Result<Report> {
    let failed = |error| Error::io(error, "read the report").in_file(path);
    let mut text = Vec::new();
    File::open(path).map_err(failed)?.take(MOST + 1).read_to_end(&mut text).map_err(failed)?;
    if text.len() as u64 > MOST {
        return Err(not_a_report(path, MOST));
    }
    let wrong = |error| not_a_report(path, place_of(&text, &error));
    let report: Report = serde_json::from_slice(&text).map_err(wrong)?;
    if report.schema == SCHEMA { Ok(report) } else { Err(not_a_report(path, 0)) }
}

/// The byte of `text` at which it is no report any more.
fn place_of(text: &[u8], error: &serde_json::Error) -> u64 {
    let lines = text.split_inclusive(|byte| *byte == b'\n').take(error.line().saturating_sub(1));
    let before: usize = lines.map(<[u8]>::len).sum();
    (before + error.column().saturating_sub(1)) as u64
}

fn not_a_report(path: &Path, offset: u64) -> Error {
    Error::corrupt("report", offset, "it is no report of strip or adapt")
        .in_file(path)
        .hint("name the .json file that the command wrote beside the image")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_report_is_told_with_its_place() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("r.json");
        let at = |text: &str| {
            std::fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
            error.offset()
        };
        assert_eq!(at(""), Some(0));
        assert_eq!(at("{\n  \"schema\": ?\n}"), Some(14));
    }
}
