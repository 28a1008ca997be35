//! Changing what a guest reads in several places at once: all of it or nothing.
//!
//! Whoever edits the files of a guest works on a copy in memory ([`vdisk_core::CowDisk`]) and
//! brings the outcome here as a list of changes. They are written to a journal beside the image
//! first, old bytes and new, durable under its name in one step; then into the image; then the
//! journal goes. A run that is cut off in between leaves the journal: the image is not opened until
//! [`finish_edit`] has made all of the changes. Sectors that hold neither the old bytes nor the new
//! show that somebody else has been there; then nothing is touched.
//!
//! The journal is text that ends with the line `sum SHA256` (of the lines before it), and from the
//! next multiple of 4096 bytes on, for each line `change OFFSET LENGTH SHA256`, LENGTH old bytes
//! and LENGTH new ones; SHA256 is over both.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::Serialize;
use sha2::{Digest, Sha256};
use vdisk_core::{
    Change, CowDisk, Disk, Error, ErrorKind, Files, HostFile, Output, Result, StoreExt, hex,
};

use crate::open::{ImageMut, OpenOptions};
use crate::siblings::standing_on;

const FIRST_LINE: &str = "vdisk edit 1";
const WHAT: &str = "edit journal";
/// Where the bytes begin: at the next multiple of this.
const ALIGNMENT: usize = 4096;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Most bytes of a journal read.
const MOST: u64 = 4 << 30;

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
    let open = &open.clone().in_one_session();
    let journal = planned(path, open, changes, force)?;
    begin(path, open, &journal)
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
    let open = &open.clone().in_one_session();
    let journal = planned(path, open, changes, force)?;
    if !journal.changes.is_empty() {
        journal.write_to(undo, open)?;
        if let Err(error) = announce(&journal.report()) {
            remove(undo, open)?;
            return Err(error);
        }
    }
    begin(path, open, &journal)
}

/// Takes the edit back that [`edit_undoable`] made, calls `noted`, and removes `undo`. All of the
/// changed sectors must be as the edit left them: an image that was used since is not touched. Where
/// the edit was never made nothing changes.
///
/// # Errors
/// [`Refused`](ErrorKind::Refused) where the image was changed since, or `undo` is no such file; as
/// [`edit`]; those of `noted`, after which a second call goes on.
pub fn undo_edit(
    path: &Path,
    open: &OpenOptions,
    force: bool,
    undo: &Path,
    noted: impl FnOnce() -> Result<()>,
) -> Result<EditReport> {
    let open = &open.clone().in_one_session();
    let journal = Journal::read(undo)?.ok_or_else(|| {
        Error::new(ErrorKind::NotFound, "the file that takes the edit back is not there")
            .in_file(undo)
    })?;
    let image = open.open(path)?;
    if !force {
        refuse_children(path, &standing_on([image.info()], image.files()))?;
    }
    let report = if journal.holds(&image, |entry| &entry.before)? {
        EditReport::default()
    } else if journal.holds(&image, |entry| &entry.after)? {
        drop(image);
        begin(path, open, &journal.reversed())?
    } else {
        return Err(Error::refused("the image was changed since: started, or edited again")
            .in_file(path)
            .hint("take later edits back first; a guest that has started cannot be taken back"));
    };
    noted()?;
    remove(undo, open)?;
    Ok(report)
}

/// Finishes the edit of the image at `path` that was cut off; `None` where there is none.
///
/// # Errors
/// As [`edit`]; [`Refused`](ErrorKind::Refused) where the image was changed since.
pub fn finish_edit(path: &Path, open: &OpenOptions) -> Result<Option<EditReport>> {
    let open = &open.clone().in_one_session();
    match Journal::read(&path_of(path))? {
        Some(journal) => finish(path, open, &journal).map(Some),
        None => Ok(None),
    }
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

/// What `changes` would change, unless images stand on this one.
fn planned(path: &Path, open: &OpenOptions, changes: &[Change], force: bool) -> Result<Journal> {
    let image = open.open(path)?;
    if !force {
        refuse_children(path, &standing_on([image.info()], image.files()))?;
    }
    Journal::new(Arc::new(image), changes)
}

/// Writes the journal and makes its changes.
fn begin(path: &Path, open: &OpenOptions, journal: &Journal) -> Result<EditReport> {
    if journal.changes.is_empty() {
        return Ok(EditReport::default());
    }
    journal.write_to(&path_of(path), open)?;
    finish(path, open, journal)
}

fn refuse_children(path: &Path, children: &[PathBuf]) -> Result<()> {
    let Some(first) = children.first() else { return Ok(()) };
    Err(Error::refused(format!("{} stands on it and would become invalid", first.display()))
        .in_file(path)
        .hint("work on that image instead, or on a copy; if it is not needed, add --force"))
}

/// Brings the image to what the journal says, and removes the journal.
fn finish(path: &Path, open: &OpenOptions, journal: &Journal) -> Result<EditReport> {
    let mut image = open.clone().unfinished().open_rw(path)?;
    journal.refuse_strangers(&image, path)?;
    for change in &journal.changes {
        image.write_at(&change.after, change.offset)?;
    }
    image.flush()?;
    image.close()?;
    remove(&path_of(path), open)?;
    Ok(journal.report())
}

fn remove(file: &Path, open: &OpenOptions) -> Result<()> {
    let failed = |e| Error::io(e, "remove it").in_file(file);
    open.host().remove(file).map_err(failed)?;
    let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
    open.host().sync_folder(folder.unwrap_or(Path::new("."))).map_err(failed)
}

/// Where the journal of `image` stands.
fn path_of(image: &Path) -> PathBuf {
    let image = image.canonicalize().unwrap_or_else(|_| image.to_owned());
    let mut name = OsString::from(".");
    name.push(image.file_name().unwrap_or(OsStr::new("image")));
    name.push(".vdisk-edit");
    image.with_file_name(name)
}

/// What is to change, and what was there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Journal {
    changes: Vec<Entry>,
}

/// One stretch that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Entry {
    offset: u64,
    before: Vec<u8>,
    after: Vec<u8>,
}

impl Journal {
    /// In whole pages, each of them once.
    fn new(image: Arc<dyn Disk>, changes: &[Change]) -> Result<Self> {
        let tried = CowDisk::new(image.clone(), MOST / 2);
        for Change { offset, bytes } in changes {
            tried.write_at(bytes, *offset)?;
        }
        let mut journal = Self::default();
        for Change { offset, bytes: after } in tried.changes()? {
            let mut before = vec![0; after.len()];
            image.read_at(&mut before, offset)?;
            journal.changes.push(Entry { offset, before, after });
        }
        Ok(journal)
    }

    /// What making its changes comes to.
    fn report(&self) -> EditReport {
        let bytes = self.changes.iter().map(|change| change.after.len() as u64).sum();
        EditReport { changes: self.changes.len(), bytes }
    }

    /// Fails where the image holds what neither of us wrote.
    fn refuse_strangers(&self, image: &ImageMut, path: &Path) -> Result<()> {
        for Entry { offset, before, after } in &self.changes {
            let mut now = vec![0; before.len()];
            image.read_at(&mut now, *offset)?;
            let sectors = now.chunks(SECTOR).zip(before.chunks(SECTOR).zip(after.chunks(SECTOR)));
            for (index, (found, (old, new))) in sectors.enumerate() {
                if found != old && found != new {
                    let at = offset + (index * SECTOR) as u64;
                    return Err(Error::refused(
                        "the image was changed after an edit of it was cut off",
                    )
                    .at("guest byte", at)
                    .in_file(path)
                    .hint(format!(
                        "if it is to stay as it is, remove {}",
                        path_of(path).display()
                    )));
                }
            }
        }
        Ok(())
    }

    /// The same, with what was there as what is to be.
    fn reversed(mut self) -> Self {
        for entry in &mut self.changes {
            std::mem::swap(&mut entry.before, &mut entry.after);
        }
        self
    }

    /// Whether the image holds one side of every change.
    fn holds(&self, image: &dyn Disk, side: impl Fn(&Entry) -> &Vec<u8>) -> Result<bool> {
        for entry in &self.changes {
            let mut now = vec![0; side(entry).len()];
            image.read_at(&mut now, entry.offset)?;
            if now != *side(entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write_to(&self, path: &Path, open: &OpenOptions) -> Result<()> {
        let mut output = Output::on(open.host().clone(), path, false)?.private();
        let name = output.main_name().to_owned();
        let file = output.create(&name)?;
        let text = self.text();
        file.put(text.as_bytes(), 0, WHAT)?;
        let mut at = text.len().next_multiple_of(ALIGNMENT) as u64;
        for entry in &self.changes {
            for bytes in [&entry.before, &entry.after] {
                file.put(bytes, at, WHAT)?;
                at += bytes.len() as u64;
            }
        }
        output.commit()
    }

    fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        for Entry { offset, before, after } in &self.changes {
            let digest = digest_text(Sha256::new().chain_update(before).chain_update(after));
            text += &format!("change {offset} {} {digest}\n", before.len());
        }
        let sum = digest_text(Sha256::new().chain_update(&text));
        text + &format!("sum {sum}\n")
    }

    /// The journal at `path`; `None` where there is none.
    fn read(path: &Path) -> Result<Option<Self>> {
        if !path.exists() {
            return Ok(None);
        }
        let file = HostFile::open(path)?;
        let len = file.size()?;
        if len > MOST {
            return Err(not_ours(path));
        }
        // Room for all of it is taken only for what begins as one.
        let len = usize::try_from(len).unwrap_or_default();
        let mut first = vec![0; FIRST_LINE.len().min(len)];
        file.fetch(&mut first, 0, WHAT)?;
        if first != FIRST_LINE.as_bytes() {
            return Err(not_ours(path));
        }
        let mut bytes = vec![0; len];
        file.fetch(&mut bytes, 0, WHAT)?;
        Self::parse(&bytes).map(Some).ok_or_else(|| not_ours(path))
    }

    fn parse(bytes: &[u8]) -> Option<Self> {
        let mut lines = bytes.split_inclusive(|byte| *byte == b'\n');
        let mut text_len = lines.next().filter(|line| *line == b"vdisk edit 1\n")?.len();
        let mut described = Vec::new();
        loop {
            let line = lines.next()?;
            let words = std::str::from_utf8(line).ok()?;
            if let Some(sum) = words.strip_prefix("sum ") {
                let digest = digest_text(Sha256::new().chain_update(bytes.get(..text_len)?));
                (sum.trim_end() == digest).then_some(())?;
                text_len += line.len();
                break;
            }
            text_len += line.len();
            let mut fields = words.strip_prefix("change ")?.split_whitespace();
            let (offset, len) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
            described.push((offset, len, fields.next()?.to_owned()));
        }
        let mut rest = bytes.get(text_len.next_multiple_of(ALIGNMENT)..)?;
        let mut changes = Vec::new();
        for (offset, len, digest) in described {
            let (before, after) = rest.split_at_checked(len)?;
            let (after, later) = after.split_at_checked(len)?;
            let found = digest_text(Sha256::new().chain_update(before).chain_update(after));
            (found == digest).then_some(())?;
            changes.push(Entry { offset, before: before.to_vec(), after: after.to_vec() });
            rest = later;
        }
        Some(Self { changes })
    }
}

fn not_ours(path: &Path) -> Error {
    Error::new(ErrorKind::Refused, "is no journal of an edit, although it is named like one")
        .in_file(path)
        .hint("move it away")
}

fn digest_text(digest: Sha256) -> String {
    hex(&digest.finalize())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn journal() -> Journal {
        let entry = |offset: u64, len: usize| Entry {
            offset,
            before: vec![1; len],
            after: (0..len).map(|n| n as u8).collect(),
        };
        Journal { changes: vec![entry(5, 3), entry(4096, 8192)] }
    }

    fn bytes_of(journal: &Journal) -> Vec<u8> {
        let mut bytes = journal.text().into_bytes();
        bytes.resize(bytes.len().next_multiple_of(ALIGNMENT), 0);
        for entry in &journal.changes {
            bytes.extend([&entry.before[..], &entry.after[..]].concat());
        }
        bytes
    }

    #[test]
    fn what_is_written_is_read_and_what_was_damaged_is_not() {
        let bytes = bytes_of(&journal());
        assert_eq!(Journal::parse(&bytes), Some(journal()));
        let mut rng = fastrand::Rng::with_seed(1);
        for _ in 0..300 {
            let mut damaged = bytes.clone();
            let at = rng.usize(0..damaged.len());
            damaged[at] ^= 1 << rng.u8(0..8);
            let read = Journal::parse(&damaged);
            // Between the text and the bytes nothing counts.
            assert!(read.is_none() || read == Some(journal()), "{at}");
            Journal::parse(&damaged[..rng.usize(0..damaged.len())]);
        }
    }
}
