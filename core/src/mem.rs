//! A store and a set of files in memory, for tests and for images that never touch a disk.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::layer::{Access, Opener};
use crate::output::Files;
use crate::store::{Run, Store};

const PAGE_BYTES: usize = 4096;
const PAGE: u64 = PAGE_BYTES as u64;

/// A sparse store in memory: only pages that were written take room. A clone is a store of its own;
/// the two share the pages that neither changes.
#[derive(Debug)]
pub struct MemStore {
    name: PathBuf,
    state: Mutex<Pages>,
}

#[derive(Debug, Default, Clone)]
struct Pages {
    len: u64,
    pages: BTreeMap<u64, Arc<[u8]>>,
}

impl MemStore {
    /// An empty store called `name` in messages.
    #[must_use]
    pub fn new(name: impl Into<PathBuf>) -> Self {
        Self { name: name.into(), state: Mutex::default() }
    }

    /// A store that holds `bytes`.
    #[must_use]
    pub fn from_bytes(name: impl Into<PathBuf>, bytes: &[u8]) -> Self {
        let store = Self::new(name);
        store.lock().write(bytes, 0);
        store
    }

    /// A copy of the whole content; for small stores.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let state = self.lock();
        let mut bytes = vec![0; usize::try_from(state.len).unwrap_or(usize::MAX)];
        state.read(&mut bytes, 0);
        bytes
    }

    fn lock(&self) -> MutexGuard<'_, Pages> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Clone for MemStore {
    fn clone(&self) -> Self {
        Self { name: self.name.clone(), state: Mutex::new(self.lock().clone()) }
    }
}

/// Calls `each(page, offset in page, range of the buffer)` for every page a range touches.
fn for_pages(offset: u64, len: usize, mut each: impl FnMut(u64, usize, std::ops::Range<usize>)) {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let within = usize::try_from(at % PAGE).unwrap_or_default();
        let step = (PAGE_BYTES - within).min(len - done);
        each(at / PAGE, within, done..done + step);
        done += step;
    }
}

#[allow(clippy::indexing_slicing)] // ranges come from for_pages and lie inside by construction
impl Pages {
    fn read(&self, buf: &mut [u8], offset: u64) {
        for_pages(offset, buf.len(), |page, within, range| match self.pages.get(&page) {
            Some(data) => {
                let len = range.len();
                buf[range].copy_from_slice(&data[within..within + len]);
            }
            None => buf[range].fill(0),
        });
    }

    fn write(&mut self, buf: &[u8], offset: u64) {
        for_pages(offset, buf.len(), |page, within, range| {
            let page = self.pages.entry(page).or_insert_with(|| Arc::from([0; PAGE_BYTES]));
            let len = range.len();
            Arc::make_mut(page)[within..within + len].copy_from_slice(&buf[range]);
        });
        self.len = self.len.max(offset + buf.len() as u64);
    }

    fn zero(&mut self, offset: u64, len: u64) {
        let end = offset + len;
        let (first_whole, end_whole) = (offset.div_ceil(PAGE), end / PAGE);
        if first_whole < end_whole {
            let inside: Vec<u64> =
                self.pages.range(first_whole..end_whole).map(|(k, _)| *k).collect();
            for page in inside {
                self.pages.remove(&page);
            }
        }
        for edge in [offset / PAGE, end / PAGE] {
            if let Some(page) = self.pages.get_mut(&edge) {
                let start = offset.max(edge * PAGE) - edge * PAGE;
                let stop = end.min((edge + 1) * PAGE).saturating_sub(edge * PAGE);
                if start < stop {
                    let at = |n| usize::try_from(n).unwrap_or_default();
                    Arc::make_mut(page)[at(start)..at(stop)].fill(0);
                }
            }
        }
    }

    fn set_len(&mut self, len: u64) {
        if len < self.len {
            let old = self.len;
            self.zero(len, old - len);
        }
        self.len = len;
    }
}

impl Store for MemStore {
    fn name(&self) -> &Path {
        &self.name
    }

    fn len(&self) -> io::Result<u64> {
        Ok(self.lock().len)
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        let state = self.lock();
        match offset.checked_add(buf.len() as u64) {
            Some(end) if end <= state.len => {
                state.read(buf, offset);
                Ok(())
            }
            _ => Err(io::ErrorKind::UnexpectedEof.into()),
        }
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        if offset.checked_add(buf.len() as u64).is_none_or(|end| end > i64::MAX as u64) {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.lock().write(buf, offset);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.lock().set_len(len);
        Ok(())
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.lock().zero(offset, len);
        Ok(())
    }

    fn run_at(&self, offset: u64, end: u64) -> io::Result<Run> {
        let state = self.lock();
        let first = offset / PAGE;
        let hole = !state.pages.contains_key(&first);
        let next = if hole {
            state
                .pages
                .range(first..)
                .next()
                .map_or(u64::MAX, |(page, _)| page.saturating_mul(PAGE))
        } else {
            let mut page = first;
            // A run may be cut short: far enough is enough.
            while state.pages.contains_key(&page) && page * PAGE < end && page < first + 1024 {
                page += 1;
            }
            page * PAGE
        };
        Ok(Run { len: next.min(end) - offset, hole })
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// A folder in memory: what a writer creates here, a reader can open by name.
#[derive(Debug, Default, Clone)]
pub struct MemFiles {
    main: String,
    files: Arc<Mutex<BTreeMap<String, Arc<MemStore>>>>,
}

impl MemFiles {
    /// An empty folder whose main file will be called `main`.
    #[must_use]
    pub fn new(main: impl Into<String>) -> Self {
        Self { main: main.into(), files: Arc::default() }
    }

    /// The file called `name`, if it exists.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<Arc<MemStore>> {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).get(name).cloned()
    }

    /// Puts a file called `name` there, in place of one that was.
    pub fn insert(&self, name: impl Into<String>, store: Arc<MemStore>) {
        self.files.lock().unwrap_or_else(PoisonError::into_inner).insert(name.into(), store);
    }

    /// Every file, by name.
    #[must_use]
    pub fn all(&self) -> Vec<(String, Arc<MemStore>)> {
        let files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.iter().map(|(name, store)| (name.clone(), store.clone())).collect()
    }
}

impl Files for MemFiles {
    fn main_name(&self) -> &str {
        &self.main
    }

    fn create(&mut self, name: &str) -> Result<Arc<dyn Store>> {
        let store = Arc::new(MemStore::new(name));
        let mut files = self.files.lock().unwrap_or_else(PoisonError::into_inner);
        files.insert(name.to_owned(), store.clone());
        Ok(store)
    }
}

impl Opener for MemFiles {
    fn open(&self, name: &str, what: &'static str, _access: Access) -> Result<Arc<dyn Store>> {
        match self.get(name) {
            Some(store) => Ok(store),
            None => {
                Err(Error::new(ErrorKind::ParentMissing, format!("{what} {name:?} is not there")))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn behaves_like_a_vector() {
        let store = MemStore::new("t");
        let mut model = vec![0u8; 20_000];
        store.set_len(20_000).unwrap();
        let mut seed = 7u64;
        for _ in 0..500 {
            seed = seed.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            let offset = (seed >> 33) % 19_000;
            let len = (seed >> 20) % 900 + 1;
            let range = offset as usize..(offset + len) as usize;
            if seed & 1 == 0 {
                store.zero(offset, len).unwrap();
                model[range].fill(0);
            } else {
                let bytes = vec![(seed >> 8) as u8; len as usize];
                store.write_all_at(&bytes, offset).unwrap();
                model[range].copy_from_slice(&bytes);
            }
        }
        assert_eq!(store.to_bytes(), model);
        store.set_len(5_000).unwrap();
        store.set_len(6_000).unwrap();
        model.truncate(5_000);
        model.resize(6_000, 0);
        assert_eq!(store.to_bytes(), model);
    }
}
