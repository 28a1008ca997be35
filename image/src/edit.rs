//! Changing what a guest reads in several places at once: all of it or nothing.
//!
//! Whoever edits the files of a guest works on a copy in memory ([`vdisk_core::CowDisk`]) and
//! brings the outcome here as a list of changes. They are written to a journal beside the image
//! first, old bytes and new, durable under its name in one step; then into the image; then the
//! journal goes. A run that is cut off in between leaves the journal: the image is not opened until
//! [`finish_edit`] has made all of the changes. Sectors that hold neither the old bytes nor the new
//! show that somebody else has been there; then nothing is touched.
//!
//! Images that are changed together (the disks of one machine) have a journal each, which names the
//! others. No image is written before all journals are durable, and no journal goes before all
//! images are flushed. So where all are there, all is done again; and where one is missing, no image
//! was begun, or each is finished, which its own bytes tell.

mod journal;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};
use vdisk_core::{Change, Error, ErrorKind, Format, Result};

use self::journal::{Journal, Partner, digest_text, not_ours, path_of};
use crate::open::{ImageMut, OpenOptions};
use crate::siblings::refuse_children;

/// What an edit did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct EditReport {
    /// Places that were written.
    pub changes: usize,
    /// Bytes in them.
    pub bytes: u64,
}

/// An image of several that are changed together, and what is to change in it.
#[derive(Clone, Copy, Debug)]
pub struct EditOf<'a> {
    /// The image.
    pub image: &'a Path,
    /// How it is opened.
    pub open: &'a OpenOptions,
    /// Bytes of the guest's disk.
    pub changes: &'a [Change],
    /// Where to put what takes it back; it must not be there yet.
    pub undo: Option<&'a Path>,
}

/// An edit of one image of several that is to be taken back.
#[derive(Clone, Copy, Debug)]
pub struct UndoOf<'a> {
    /// The image.
    pub image: &'a Path,
    /// How it is opened.
    pub open: &'a OpenOptions,
    /// What takes it back.
    pub undo: &'a Path,
}

/// Makes all of `changes`, in bytes of the guest's disk, in the image at `path`, opened with
/// `open`. When it returns they are durable. Whatever stands on the image becomes invalid, so it is
/// refused while such an image is found beside it, unless `force` says so.
///
/// # Errors
/// Those of opening the image for writing; [`Refused`](ErrorKind::Refused) while an earlier edit
/// waits to be finished, or where children of the image were found; the host's. After a failure the
/// image is as it was, or [`finish_edit`] finishes.
pub fn edit(
    path: &Path,
    open: &OpenOptions,
    changes: &[Change],
    force: bool,
) -> Result<EditReport> {
    edit_together(&[EditOf { image: path, open, changes, undo: None }], force, |_| Ok(()))
}

/// As [`edit`]; before anything changes, what is needed to take the edit back is written to a file
/// named `undo`, which must not be there yet, and `announce` is told what is about to be done: where
/// it fails, nothing is. Where nothing would change there is no such file, and no announcement.
///
/// # Errors
/// As [`edit`]; those of `announce`.
pub fn edit_undoable(
    path: &Path,
    open: &OpenOptions,
    changes: &[Change],
    force: bool,
    undo: &Path,
    announce: impl FnOnce(&EditReport) -> Result<()>,
) -> Result<EditReport> {
    edit_together(&[EditOf { image: path, open, changes, undo: Some(undo) }], force, announce)
}

/// As [`edit_undoable`], of several images: all of them are changed or none. An image in which
/// nothing changes is left alone.
///
/// # Errors
/// As [`edit_undoable`]; [`Unsupported`](ErrorKind::Unsupported) for an image whose name no line of
/// text can hold.
pub fn edit_together(
    edits: &[EditOf<'_>],
    force: bool,
    announce: impl FnOnce(&EditReport) -> Result<()>,
) -> Result<EditReport> {
    let mut parts = Vec::new();
    for EditOf { image, open, changes, undo } in edits {
        let open = (*open).clone().in_one_session();
        let opened = open.open(image)?;
        if !force {
            refuse_children(image, opened.info(), opened.files())?;
        }
        let format = opened.info().format;
        let journal = Journal::new(Arc::new(opened), changes)?;
        if !journal.changes.is_empty() {
            let image = (*image).to_owned();
            parts.push((Part { image, open, journal }, format, *undo));
        }
    }
    let formats: Vec<Format> = parts.iter().map(|(_, format, _)| *format).collect();
    let undos: Vec<Option<&Path>> = parts.iter().map(|(_, _, undo)| *undo).collect();
    let mut parts: Vec<Part> = parts.into_iter().map(|(part, _, _)| part).collect();
    introduce(&mut parts, &formats)?;
    if parts.is_empty() {
        return Ok(EditReport::default());
    }
    insist_writable(&parts)?;
    let mut written = Vec::new();
    let prepare = || {
        for (part, undo) in parts.iter().zip(undos) {
            if let Some(undo) = undo {
                part.journal.write_to(undo, &part.open)?;
                written.push((undo, &part.open));
            }
        }
        announce(&report(&parts))
    };
    if let Err(error) = prepare() {
        written.into_iter().try_for_each(|(undo, open)| remove(undo, open))?;
        return Err(error);
    }
    begin(&parts)
}

/// Takes the edit back that [`edit_undoable`] made, calls `noted`, and removes `undo`. All of the
/// changed sectors must be as the edit left them: an image that was used since is not touched. Where
/// the edit was never made nothing changes.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) where the image was changed since, it was changed together with
/// others, or `undo` is no such file; as [`edit`]; those of `noted`, after which a second call goes
/// on.
pub fn undo_edit(
    path: &Path,
    open: &OpenOptions,
    force: bool,
    undo: &Path,
    noted: impl FnOnce() -> Result<()>,
) -> Result<EditReport> {
    undo_together(&[UndoOf { image: path, open, undo }], force, noted)
}

/// As [`undo_edit`], of all images that [`edit_together`] changed.
///
/// # Errors
/// As [`undo_edit`]; [`Refused`](ErrorKind::Refused) where one of them is missing.
pub fn undo_together(
    undos: &[UndoOf<'_>],
    force: bool,
    noted: impl FnOnce() -> Result<()>,
) -> Result<EditReport> {
    let (mut parts, mut formats) = (Vec::new(), Vec::new());
    let (mut old, mut new) = (0, 0);
    for UndoOf { image, open, undo } in undos {
        let open = (*open).clone().in_one_session();
        let journal = Journal::read(undo)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the file that takes the edit back is not there")
                .in_file(undo)
        })?;
        let opened = open.open(image)?;
        if !force {
            refuse_children(image, opened.info(), opened.files())?;
        }
        if journal.holds(&opened, |entry| &entry.before)? {
            old += 1;
        } else if journal.holds(&opened, |entry| &entry.after)? {
            new += 1;
        } else {
            return Err(Error::refused("the image was changed since: started, or edited again")
                .in_file(image)
                .hint(
                    "take later edits back first; a guest that has started cannot be taken back",
                ));
        }
        formats.push(opened.info().format);
        parts.push(Part { image: (*image).to_owned(), open, journal: journal.reversed() });
    }
    refuse_parted(&parts, old, new)?;
    let report = if new == 0 {
        EditReport::default()
    } else {
        introduce(&mut parts, &formats)?;
        insist_writable(&parts)?;
        begin(&parts)?
    };
    noted()?;
    for (UndoOf { undo, .. }, part) in undos.iter().zip(&parts) {
        remove(undo, &part.open)?;
    }
    Ok(report)
}

/// Finishes the edit of the image at `path` that was cut off, and of those that were to be changed
/// together with it; `None` where there is none. Where not all of them had been told, none was
/// begun, and the image stays as it was.
///
/// # Errors
/// As [`edit`]; [`Refused`](ErrorKind::Refused) where an image was changed since, or one that
/// belongs to it is not where it was.
pub fn finish_edit(path: &Path, open: &OpenOptions) -> Result<Option<EditReport>> {
    let open = open.clone().in_one_session();
    let Some(journal) = Journal::read(&path_of(path))? else { return Ok(None) };
    let mut parts = Vec::new();
    for partner in &journal.partners {
        let image = partner.beside(path);
        if path.canonicalize().is_ok_and(|own| own == image) {
            return Err(not_ours(&path_of(path)));
        }
        if !image.exists() {
            return Err(Error::refused("an image that is changed together with it is not there")
                .in_file(&image)
                .hint(format!("put it back there, then: vdisk recover {}", path.display())));
        }
        let theirs = Journal::read(&path_of(&image))?;
        let of_group = theirs.filter(|theirs| theirs.group() == journal.group());
        let Some(theirs) = of_group else { return settle(path, &open, &journal).map(Some) };
        let open = open.for_another().format(partner.format);
        parts.push(Part { image, open, journal: theirs });
    }
    parts.push(Part { image: path.to_owned(), open, journal });
    finish(&parts).map(Some)
}

/// Fails while an edit of `image` waits to be finished.
pub(crate) fn refuse_unfinished(image: &Path) -> Result<()> {
    if !path_of(image).exists() {
        return Ok(());
    }
    Err(Error::refused("a change of the guest's files was cut off and waits to be finished")
        .in_file(image)
        .hint(format!("finish it with: vdisk recover {}", image.display())))
}

/// An image and its journal.
#[derive(Debug)]
struct Part {
    image: PathBuf,
    open: OpenOptions,
    journal: Journal,
}

/// Has the journals of several images name each other.
fn introduce(parts: &mut [Part], formats: &[Format]) -> Result<()> {
    parts.iter_mut().for_each(|part| part.journal.partners.clear());
    if parts.len() < 2 {
        return Ok(());
    }
    let mut group = Sha256::new();
    for part in parts.iter() {
        group.update(part.image.canonicalize().unwrap_or_default().as_os_str().as_encoded_bytes());
        group.update(part.journal.text());
    }
    let group = digest_text(group);
    let known: Vec<PathBuf> = parts.iter().map(|part| part.image.clone()).collect();
    for (index, part) in parts.iter_mut().enumerate() {
        let others = known.iter().zip(formats).enumerate().filter(|(other, _)| *other != index);
        for (_, (path, format)) in others {
            part.journal.partners.push(Partner::new(&group, *format, path, &part.image)?);
        }
    }
    Ok(())
}

/// Fails unless `parts` are all that were changed together, `old` of them taken back already, and
/// `new` not.
fn refuse_parted(parts: &[Part], old: usize, new: usize) -> Result<()> {
    let Some(first) = parts.first() else { return Ok(()) };
    let group = first.journal.group();
    let whole = |part: &Part| {
        part.journal.group() == group && part.journal.partners.len() + 1 == parts.len()
    };
    if let Some(part) = parts.iter().find(|part| !whole(part)) {
        return Err(Error::refused("it was changed together with other images")
            .in_file(&part.image)
            .hint("name all of them, to take all of it back"));
    }
    if old > 0 && new > 0 {
        return Err(Error::refused("one of the images was put back without the others")
            .in_file(&first.image));
    }
    Ok(())
}

/// Fails where an image cannot be opened for writing: no journal shall wait for that.
fn insist_writable(parts: &[Part]) -> Result<()> {
    parts.iter().try_for_each(|part| part.open.insist_writable(&part.image))
}

/// Writes the journals and makes their changes.
fn begin(parts: &[Part]) -> Result<EditReport> {
    for (done, part) in parts.iter().enumerate() {
        if let Err(error) = part.journal.write_to(&path_of(&part.image), &part.open) {
            // Nothing was begun: those that stay would be taken away by the next `finish_edit`.
            for part in parts.iter().take(done) {
                let _ = remove(&path_of(&part.image), &part.open);
            }
            return Err(error);
        }
    }
    finish(parts)
}

/// Brings the images to what their journals say, and removes the journals.
fn finish(parts: &[Part]) -> Result<EditReport> {
    let mut images = Vec::new();
    for Part { image, open, journal } in parts {
        let opened = open.clone().unfinished().open_rw(image)?;
        journal.refuse_strangers(&opened, image)?;
        images.push(opened);
    }
    for (part, image) in parts.iter().zip(&mut images) {
        for change in &part.journal.changes {
            image.write_at(&change.after, change.offset)?;
        }
        image.flush()?;
    }
    images.into_iter().try_for_each(ImageMut::close)?;
    for Part { image, open, .. } in parts {
        remove(&path_of(image), open)?;
    }
    Ok(report(parts))
}

/// What making all changes comes to.
fn report(parts: &[Part]) -> EditReport {
    let mut all = EditReport::default();
    for report in parts.iter().map(|part| part.journal.report()) {
        all.changes += report.changes;
        all.bytes += report.bytes;
    }
    all
}

/// Takes away the journal of an image whose partners have none: nothing was begun, or all is done.
fn settle(path: &Path, open: &OpenOptions, journal: &Journal) -> Result<EditReport> {
    let image = open.clone().unfinished().open(path)?;
    let mut report = EditReport::default();
    if journal.holds(&image, |entry| &entry.after)? {
        report = journal.report();
    } else if !journal.holds(&image, |entry| &entry.before)? {
        return Err(Error::refused("the image was changed after an edit of it was cut off")
            .in_file(path)
            .hint(format!("if it is to stay as it is, remove {}", path_of(path).display())));
    }
    drop(image);
    remove(&path_of(path), open)?;
    Ok(report)
}

fn remove(file: &Path, open: &OpenOptions) -> Result<()> {
    let failed = |e| Error::io(e, "remove it").in_file(file);
    open.host().remove(file).map_err(failed)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    open.host().sync_folder(folder.unwrap_or(Path::new("."))).map_err(failed)
}
