//! The files of a system: what is there is told, what is damaged is noted.

use crate::fs::{DirEntry, FileKind, GuestFs, Stat};
use crate::notes::Notes;

/// Bytes of a text that is read whole.
const TEXT: u64 = 1 << 20;

/// A system's root directory.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tree<'a> {
    fs: &'a dyn GuestFs,
    /// Where it stands in the file system: empty, or a path that begins with `/`.
    root: &'a str,
    notes: &'a Notes,
}

impl<'a> Tree<'a> {
    pub(crate) fn new(fs: &'a dyn GuestFs, root: &'a str, notes: &'a Notes) -> Self {
        Self { fs, root, notes }
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.notes.found(self.fs.exists(&self.path(path))).unwrap_or_default()
    }

    pub(crate) fn stat(&self, path: &str) -> Option<Stat> {
        let resolved = self.notes.found(self.fs.resolve(&self.path(path)))?;
        self.notes.found(self.fs.stat(&resolved))
    }

    /// The content of a text file; what is no UTF-8 in it is replaced.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let bytes = self.notes.found(self.fs.read(&self.path(path), TEXT))?;
        Some(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `len` bytes at `offset` of a file, or what there is of them.
    pub(crate) fn bytes(&self, path: &str, offset: u64, len: usize) -> Option<Vec<u8>> {
        let mut bytes = vec![0; len];
        let have = self.notes.found(self.fs.read_at(&self.path(path), offset, &mut bytes))?;
        bytes.truncate(have);
        Some(bytes)
    }

    /// Where a link leads.
    pub(crate) fn link(&self, path: &str) -> Option<String> {
        let target = self.notes.found(self.fs.read_link(&self.path(path)))?;
        Some(String::from_utf8_lossy(&target).into_owned())
    }

    /// The names in a directory that are UTF-8, with their kinds, sorted.
    pub(crate) fn list(&self, path: &str) -> Vec<(String, FileKind)> {
        let entries: Vec<DirEntry> =
            self.notes.found(self.fs.read_dir(&self.path(path))).unwrap_or_default();
        let mut names: Vec<_> = entries
            .into_iter()
            .filter_map(|entry| Some((String::from_utf8(entry.name).ok()?, entry.kind)))
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        names
    }

    fn path(&self, path: &str) -> Vec<u8> {
        format!("{}{path}", self.root).into_bytes()
    }
}
