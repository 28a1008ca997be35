//! A store that reads as if some pages had been written, without writing them.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::Arc;

use crate::store::{Run, Store};

const PAGE_BYTES: usize = 4096;
/// Bytes of an overlay page.
pub const PAGE: u64 = PAGE_BYTES as u64;

/// A read-only view of a store with some 4 KiB pages replaced: how a waiting log is replayed
/// without touching the file.
#[derive(Debug)]
pub struct OverlayStore {
    base: Arc<dyn Store>,
    pages: BTreeMap<u64, Page>,
    len: u64,
}

#[derive(Debug)]
enum Page {
    Zero,
    Data(Box<[u8; PAGE_BYTES]>),
}

impl OverlayStore {
    /// A view of `base` with nothing replaced.
    ///
    /// # Errors
    /// The host's.
    pub fn new(base: Arc<dyn Store>) -> io::Result<Self> {
        let len = base.len()?;
        Ok(Self { base, pages: BTreeMap::new(), len })
    }

    /// Replaces page number `page` (bytes `page * 4096 ..`); `None` replaces it by zeros.
    pub fn replace(&mut self, page: u64, content: Option<Box<[u8; PAGE_BYTES]>>) {
        self.pages.insert(page, content.map_or(Page::Zero, Page::Data));
    }

    /// Makes the view at least `len` bytes long; what the base does not have reads as zero.
    pub fn extend_to(&mut self, len: u64) {
        self.len = self.len.max(len);
    }

    /// How many pages are replaced.
    #[must_use]
    pub fn replaced(&self) -> usize {
        self.pages.len()
    }

    /// Reads from the base, with zeros beyond its end.
    fn read_base(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let there = self.base.len()?.saturating_sub(offset).min(buf.len() as u64);
        let (inside, beyond) = buf.split_at_mut(usize::try_from(there).unwrap_or(buf.len()));
        beyond.fill(0);
        if inside.is_empty() { Ok(()) } else { self.base.read_exact_at(inside, offset) }
    }
}

impl Store for OverlayStore {
    fn name(&self) -> &Path {
        self.base.name()
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let end = match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= self.len => end,
            _ => return Err(io::ErrorKind::UnexpectedEof.into()),
        };
        self.read_base(buf, offset)?;
        for (number, page) in self.pages.range(offset / PAGE..end.div_ceil(PAGE)) {
            let page_start = number * PAGE;
            let (from, to) = (offset.max(page_start), end.min(page_start + PAGE));
            let at =
                |base: u64, position: u64| usize::try_from(position - base).unwrap_or(usize::MAX);
            let Some(target) = buf.get_mut(at(offset, from)..at(offset, to)) else { continue };
            match page {
                Page::Zero => target.fill(0),
                Page::Data(data) => {
                    if let Some(source) = data.get(at(page_start, from)..at(page_start, to)) {
                        target.copy_from_slice(source);
                    }
                }
            }
        }
        Ok(())
    }

    fn write_all_at(&self, _buf: &[u8], _offset: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::ReadOnlyFilesystem.into())
    }

    fn run_at(&self, offset: u64, end: u64) -> io::Result<Run> {
        // A replaced page counts as data; up to the next one the base knows.
        if self.pages.contains_key(&(offset / PAGE)) {
            let stop = (offset / PAGE + 1) * PAGE;
            return Ok(Run { len: stop.min(end) - offset, hole: false });
        }
        let next = self.pages.range(offset / PAGE..).next().map_or(end, |(page, _)| page * PAGE);
        let base_len = self.base.len()?;
        if offset >= base_len {
            return Ok(Run { len: next.min(end) - offset, hole: true });
        }
        self.base.run_at(offset, next.min(end).min(base_len))
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::MemStore;

    #[test]
    fn replaces_pages_in_reads_of_any_shape() {
        let mut model = vec![7u8; 20_000];
        let mut view = OverlayStore::new(Arc::new(MemStore::from_bytes("base", &model))).unwrap();
        view.replace(1, None);
        view.replace(3, Some(Box::new([9; 4096])));
        view.extend_to(30_000);
        model.resize(30_000, 0);
        model[4096..8192].fill(0);
        model[12288..16384].fill(9);
        for offset in (0..30_000).step_by(1237) {
            for len in [1, 4096, 9000] {
                let end = (offset + len).min(30_000);
                let mut buf = vec![1; end - offset];
                view.read_exact_at(&mut buf, offset as u64).unwrap();
                assert_eq!(buf, model[offset..end], "{offset}+{len}");
            }
        }
        assert!(view.read_exact_at(&mut [0; 2], 29_999).is_err());
    }
}
