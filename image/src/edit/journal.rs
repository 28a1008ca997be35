//! The journal of an edit: what is to change, and what was there.
//!
//! It is text that ends with the line `sum SHA256` (of the lines before it), and from the next
//! multiple of 4096 bytes on, for each line `change OFFSET LENGTH SHA256`, LENGTH old bytes and
//! LENGTH new ones; SHA256 is over both. A line `with GROUP FORMAT PATH` names an image that is
//! changed together with this one, and whose journal is of the same group.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};
use vdisk_core::{
    Change, CowDisk, Disk, Error, ErrorKind, Files, Format, HostFile, Output, Result, StoreExt, hex,
};

use super::EditReport;
use crate::open::{ImageMut, OpenOptions};
use crate::options::parse_format;

const FIRST_LINE: &str = "vdisk edit 1";
const WHAT: &str = "edit journal";
/// Where the bytes begin: at the next multiple of this.
const ALIGNMENT: usize = 4096;
/// What a disk writes whole or not at all.
const SECTOR: usize = 512;
/// Most bytes of a journal read.
const MOST: u64 = 4 << 30;

/// Where the journal of `image` stands.
pub(super) fn path_of(image: &Path) -> PathBuf {
    let image = image.canonicalize().unwrap_or_else(|_| image.to_owned());
    let mut name = OsString::from(".");
    name.push(image.file_name().unwrap_or(OsStr::new("image")));
    name.push(".vdisk-edit");
    image.with_file_name(name)
}

/// What is to change, and what was there.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Journal {
    pub(super) changes: Vec<Entry>,
    /// The images that are changed together with this one.
    pub(super) partners: Vec<Partner>,
}

/// An image that is changed together with the journal's own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Partner {
    /// The same in the journals of all that are changed together, and in no others.
    pub(super) group: String,
    pub(super) format: Format,
    /// From the journal's own folder on.
    pub(super) path: PathBuf,
}

/// One stretch that changes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Entry {
    pub(super) offset: u64,
    pub(super) before: Vec<u8>,
    pub(super) after: Vec<u8>,
}

impl Journal {
    /// In whole pages, each of them once.
    pub(super) fn new(image: Arc<dyn Disk>, changes: &[Change]) -> Result<Self> {
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
    pub(super) fn report(&self) -> EditReport {
        let bytes = self.changes.iter().map(|change| change.after.len() as u64).sum();
        EditReport { changes: self.changes.len(), bytes }
    }

    /// Fails where the image holds what neither of us wrote.
    pub(super) fn refuse_strangers(&self, image: &ImageMut, path: &Path) -> Result<()> {
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
    pub(super) fn reversed(mut self) -> Self {
        for entry in &mut self.changes {
            std::mem::swap(&mut entry.before, &mut entry.after);
        }
        self
    }

    /// Whether the image holds one side of every change.
    pub(super) fn holds(
        &self,
        image: &dyn Disk,
        side: impl Fn(&Entry) -> &Vec<u8>,
    ) -> Result<bool> {
        for entry in &self.changes {
            let mut now = vec![0; side(entry).len()];
            image.read_at(&mut now, entry.offset)?;
            if now != *side(entry) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    pub(super) fn write_to(&self, path: &Path, open: &OpenOptions) -> Result<()> {
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

    pub(super) fn text(&self) -> String {
        let mut text = format!("{FIRST_LINE}\n");
        for Entry { offset, before, after } in &self.changes {
            let digest = digest_text(Sha256::new().chain_update(before).chain_update(after));
            text += &format!("change {offset} {} {digest}\n", before.len());
        }
        for Partner { group, format, path } in &self.partners {
            text += &format!("with {group} {format} {}\n", path.display());
        }
        let sum = digest_text(Sha256::new().chain_update(&text));
        text + &format!("sum {sum}\n")
    }

    /// The journal at `path`; `None` where there is none.
    pub(super) fn read(path: &Path) -> Result<Option<Self>> {
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
        let (mut described, mut partners) = (Vec::new(), Vec::new());
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
            if let Some(partner) = words.strip_prefix("with ") {
                partners.push(Partner::parse(partner.trim_end_matches('\n'))?);
                continue;
            }
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
        Some(Self { changes, partners })
    }

    /// The group that it is of, where several images are changed together.
    pub(super) fn group(&self) -> Option<&str> {
        self.partners.first().map(|partner| partner.group.as_str())
    }
}

impl Partner {
    /// The image at `path`, as the journal of the one at `own` calls it.
    ///
    /// # Errors
    /// [`Unsupported`](ErrorKind::Unsupported) for a name that no line of text can hold.
    pub(super) fn new(group: &str, format: Format, path: &Path, own: &Path) -> Result<Self> {
        let whole = |path: &Path| {
            path.canonicalize().map_err(|error| Error::io(error, "find it").in_file(path))
        };
        let (there, here) = (whole(path)?, whole(own)?);
        if there.to_str().is_none_or(|text| text.contains('\n')) {
            return Err(Error::unsupported("its name has a line break or is not UTF-8")
                .in_file(path)
                .hint("rename it to change it together with others"));
        }
        // Images of one folder stay together when it is moved.
        let beside = there.file_name().filter(|_| there.parent() == here.parent());
        let path = beside.map(PathBuf::from).unwrap_or(there.clone());
        Ok(Self { group: group.to_owned(), format, path })
    }

    /// Where the image is that the journal of the one at `own` calls so.
    pub(super) fn beside(&self, own: &Path) -> PathBuf {
        own.canonicalize().unwrap_or_else(|_| own.to_owned()).with_file_name(&self.path)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut words = text.splitn(3, ' ');
        let (group, format, path) = (words.next()?, words.next()?, words.next()?);
        let format = parse_format(format)?;
        Some(Self { group: group.to_owned(), format, path: PathBuf::from(path) })
    }
}

pub(super) fn not_ours(path: &Path) -> Error {
    Error::new(ErrorKind::Refused, "is no journal of an edit, although it is named like one")
        .in_file(path)
        .hint("move it away")
}

pub(super) fn digest_text(digest: Sha256) -> String {
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
        let partner = |path: &str| Partner {
            group: "ab".to_owned(),
            format: Format::Vhdx,
            path: PathBuf::from(path),
        };
        Journal {
            changes: vec![entry(5, 3), entry(4096, 8192)],
            partners: vec![partner("b c.vhdx"), partner("/elsewhere/d")],
        }
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
