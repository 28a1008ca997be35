//! The note beside an image that is being committed: what a run that was cut off had begun.
//!
//! A parent whose format changes the identity with the content loses its child for the moment
//! between the two changes of link and identity. The note, durable before the first of them, tells
//! the next run that this was us, and an open that fails which command mends it.

use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vdisk_core::{Error, ErrorKind, Files, Host, HostFile, Output, Result, StoreExt};

const FIRST_LINE: &str = "vdisk commit 1";
/// Longest note read, bytes.
const MOST: u64 = 64 << 10;

/// What a commit has begun.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Journal {
    /// The identity that the layer above the target names.
    pub(crate) link: Option<String>,
    /// The identity that the target gets.
    pub(crate) identity: Option<String>,
    /// The identity that the target had before the first run.
    pub(crate) original: Option<String>,
    /// The layer above the target, where that is not the image itself.
    pub(crate) lower: Option<String>,
}

impl Journal {
    /// The note beside `image`; `None` where there is none.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) for a file of that name that is no note; the host's.
    pub(crate) fn read(image: &Path) -> Result<Option<Self>> {
        let path = path_of(image);
        if !path.exists() {
            return Ok(None);
        }
        let file = HostFile::open(&path)?;
        let mut bytes = vec![0; usize::try_from(file.size()?.min(MOST)).unwrap_or_default()];
        file.fetch(&mut bytes, 0, "commit note")?;
        let text = String::from_utf8(bytes).ok();
        text.as_deref().and_then(Self::parse).map(Some).ok_or_else(|| {
            Error::refused("is not a note of a commit, although it is named like one")
                .in_file(&path)
                .hint("move it away")
        })
    }

    /// Puts the note beside `image`, in one step that survives a power cut.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn write(&self, host: &Arc<dyn Host>, image: &Path) -> Result<()> {
        let path = path_of(image);
        let mut output = Output::on(host.clone(), &path, true)?;
        let name = output.main_name().to_owned();
        output.create(&name)?.put(self.text().as_bytes(), 0, "commit note")?;
        output.commit()
    }

    /// Takes the note away, for good.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn remove(host: &dyn Host, image: &Path) -> Result<()> {
        let path = path_of(image);
        match host.remove(&path) {
            Ok(()) => {
                // A note that came back would be in nobody's way.
                let _ = path.parent().map(|folder| host.sync_folder(folder));
                Ok(())
            }
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(()),
            Err(e) => Err(Error::io(e, "remove it").in_file(&path)),
        }
    }

    fn fields(&mut self) -> [(&'static str, &mut Option<String>); 4] {
        [
            ("link", &mut self.link),
            ("identity", &mut self.identity),
            ("original", &mut self.original),
            ("lower", &mut self.lower),
        ]
    }

    fn text(&self) -> String {
        let mut copy = self.clone();
        let lines = copy.fields().map(|(key, value)| match value {
            // A name with a line break cannot be noted; nothing depends on it but tidiness.
            Some(value) if !value.contains('\n') => format!("{key} {value}\n"),
            _ => String::new(),
        });
        format!("{FIRST_LINE}\n{}", lines.concat())
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        if lines.next() != Some(FIRST_LINE) {
            return None;
        }
        let mut journal = Self::default();
        for line in lines {
            let (key, value) = line.split_once(' ')?;
            let mut fields = journal.fields().into_iter();
            let (_, field) = fields.find(|(known, _)| *known == key)?;
            *field = Some(value.to_owned());
        }
        Some(journal)
    }
}

/// Where the note of `image` stands.
fn path_of(image: &Path) -> PathBuf {
    let image = image.canonicalize().unwrap_or_else(|_| image.to_owned());
    let mut name = OsString::from(".");
    name.push(image.file_name().unwrap_or(OsStr::new("image")));
    name.push(".vdisk-commit");
    image.with_file_name(name)
}

/// Whether a commit of `image` was begun and not finished.
pub(crate) fn is_there(image: &Path) -> bool {
    path_of(image).exists()
}

/// What was begun on `image` and not finished, and what finishes it.
pub(crate) fn unfinished(image: &Path) -> Option<String> {
    is_there(image)
        .then(|| format!("a commit was cut off; finish it with: vdisk commit {}", image.display()))
}

/// Says of a chain that is broken because a commit was cut off what mends it.
pub(crate) fn explain(image: &Path, error: Error) -> Error {
    if error.kind() != ErrorKind::ParentMismatch || !is_there(image) {
        return error;
    }
    Error::new(error.kind(), "a commit of it was cut off and waits to be finished")
        .in_file(image)
        .hint(format!("finish it with: vdisk commit {}", image.display()))
        .caused_by(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        let image = folder.path().join("a b.vhdx");
        assert_eq!(Journal::read(&image).unwrap(), None);
        let journal = Journal {
            link: Some("one".to_owned()),
            identity: Some("two".to_owned()),
            original: None,
            lower: Some("/folder with spaces/c.vhdx".to_owned()),
        };
        let host: Arc<dyn Host> = Arc::new(vdisk_core::RealHost);
        journal.write(&host, &image).unwrap();
        assert_eq!(Journal::read(&image).unwrap(), Some(journal));
        Journal::remove(&*host, &image).unwrap();
        Journal::remove(&*host, &image).unwrap();
        assert_eq!(Journal::read(&image).unwrap(), None);
        std::fs::write(path_of(&image), "something else").unwrap();
        assert_eq!(Journal::read(&image).unwrap_err().kind(), ErrorKind::Refused);
    }
}
