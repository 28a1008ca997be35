//! Large tables in a file, read on demand.

use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;

use crate::error::{Error, Result};
use crate::store::{Store, StoreExt};

/// Bytes read at once.
const PAGE: u64 = 64 << 10;
/// Pages kept: 4 MiB of table.
const PAGES: NonZeroUsize = NonZeroUsize::new(64).unwrap();

/// A table of fixed-size entries in a file (block table, grain directory, bitmap), of which only
/// the pages in use are in memory, however large the header says it is.
#[derive(Debug)]
pub struct PagedTable {
    store: Arc<dyn Store>,
    what: &'static str,
    offset: u64,
    len: u64,
    pages: Mutex<LruCache<u64, Arc<[u8]>>>,
}

impl PagedTable {
    /// The table of `len` bytes at byte `offset` of `store`; `what` names it in messages.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, what: &'static str, offset: u64, len: u64) -> Self {
        Self { store, what, offset, len, pages: Mutex::new(LruCache::new(PAGES)) }
    }

    /// Bytes of the table.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether it has no bytes.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Byte offset of the table in its file.
    #[must_use]
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// The `N` bytes at byte `at` of the table. An entry must not cross a multiple of 64 KiB,
    /// which no aligned entry of a power-of-two size does.
    ///
    /// # Errors
    /// [`Truncated`](crate::ErrorKind::Truncated) where the file ends before them; the host's.
    pub fn entry<const N: usize>(&self, at: u64) -> Result<[u8; N]> {
        let page = self.page(at / PAGE)?;
        let within = usize::try_from(at % PAGE).unwrap_or(usize::MAX);
        page.get(within..).and_then(|rest| rest.first_chunk()).copied().ok_or_else(|| {
            Error::corrupt(
                self.what,
                self.offset.saturating_add(at),
                "the table ends before this entry",
            )
            .in_file(self.store.name())
        })
    }

    /// The bytes of the table from byte `at` to the end of the page that holds it: for walking
    /// many entries without a lock for each.
    ///
    /// # Errors
    /// As [`PagedTable::entry`].
    pub fn rest_of_page(&self, at: u64) -> Result<PageView> {
        let page = self.page(at / PAGE)?;
        let skip = usize::try_from(at % PAGE).unwrap_or(usize::MAX).min(page.len());
        Ok(PageView { page, skip })
    }

    /// Where the hole of the host file that holds table byte `at` ends, as a table offset; `at`
    /// itself where it stands in data. All entries within a hole are zero.
    ///
    /// # Errors
    /// The host's.
    pub fn hole_end(&self, at: u64) -> Result<u64> {
        let start = self.offset + at;
        let end = self.offset + self.len;
        if start >= end {
            return Ok(at);
        }
        let run = self.store.run_at(start, end).map_err(|e| {
            Error::io(e, "look for holes").at(self.what, start).in_file(self.store.name())
        })?;
        Ok(if run.hole { at + run.len } else { at })
    }

    /// Writes `bytes` at byte `at` of the table, to the file at once.
    ///
    /// # Errors
    /// The host's.
    pub fn write(&self, at: u64, bytes: &[u8]) -> Result<()> {
        let end = at.checked_add(bytes.len() as u64).filter(|end| *end <= self.len);
        let Some(end) = end else {
            return Err(Error::internal(format!("a write beyond the {}", self.what)));
        };
        self.store.put(bytes, self.offset + at, self.what)?;
        let mut pages = self.lock();
        for number in at / PAGE..end.div_ceil(PAGE) {
            if let Some(page) = pages.peek_mut(&number) {
                copy_overlap(page, number * PAGE, bytes, at);
            }
        }
        Ok(())
    }

    /// Forgets what was read, after the file was changed by another way.
    pub fn forget(&self) {
        self.lock().clear();
    }

    fn page(&self, number: u64) -> Result<Arc<[u8]>> {
        if let Some(page) = self.lock().get(&number) {
            return Ok(page.clone());
        }
        let start = number * PAGE;
        let len = self.len.saturating_sub(start).min(PAGE);
        let mut page = vec![0; usize::try_from(len).unwrap_or_default()];
        let place = self.offset.checked_add(start).ok_or_else(|| {
            Error::corrupt(self.what, self.offset, "the table lies beyond any file")
                .in_file(self.store.name())
        })?;
        self.store.fetch(&mut page, place, self.what)?;
        let page: Arc<[u8]> = page.into();
        self.lock().put(number, page.clone());
        Ok(page)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, LruCache<u64, Arc<[u8]>>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies into `page`, which starts at byte `page_at` of the table, what of `bytes` (from byte `at`)
/// lies within it. Views of the page that are still looked at keep the old bytes.
fn copy_overlap(page: &mut Arc<[u8]>, page_at: u64, bytes: &[u8], at: u64) {
    let index = |position: u64| usize::try_from(position).unwrap_or(usize::MAX);
    let from = at.max(page_at);
    let to = (at + bytes.len() as u64).min(page_at + page.len() as u64);
    if from >= to {
        return;
    }
    let source = bytes.get(index(from - at)..index(to - at));
    let target = Arc::make_mut(page).get_mut(index(from - page_at)..index(to - page_at));
    if let (Some(source), Some(target)) = (source, target) {
        target.copy_from_slice(source);
    }
}

/// Part of a table page, kept alive while looked at.
#[derive(Debug, Clone)]
pub struct PageView {
    page: Arc<[u8]>,
    skip: usize,
}

impl std::ops::Deref for PageView {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        self.page.get(self.skip..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mem::MemStore;

    #[test]
    fn reads_entries_across_pages_and_sees_writes() {
        let store = Arc::new(MemStore::new("t"));
        let bytes: Vec<u8> = (0..50_000u32).flat_map(u32::to_le_bytes).collect();
        store.write_all_at(&bytes, 1000).unwrap();
        let table = PagedTable::new(store, "table", 1000, bytes.len() as u64);
        for n in [0u32, 1, 16_383, 16_384, 49_999] {
            assert_eq!(u32::from_le_bytes(table.entry(u64::from(n) * 4).unwrap()), n);
        }
        table.write(16_384 * 4, &77u32.to_le_bytes()).unwrap();
        assert_eq!(u32::from_le_bytes(table.entry(16_384 * 4).unwrap()), 77);
        // Across two pages, one of them in memory, one not; then as a fresh reader sees it.
        let across: Vec<u8> = (0..32_000).flat_map(|n: u32| (n + 9).to_le_bytes()).collect();
        table.write(16_000 * 4, &across).unwrap();
        let fresh = PagedTable::new(table.store.clone(), "table", 1000, bytes.len() as u64);
        for n in [15_999u64, 16_000, 16_384, 32_768, 47_999, 48_000] {
            assert_eq!(table.entry::<4>(n * 4).unwrap(), fresh.entry::<4>(n * 4).unwrap(), "{n}");
        }
        assert_eq!(u32::from_le_bytes(table.entry(16_000 * 4).unwrap()), 9);
        assert!(table.entry::<4>(200_000).is_err());
    }

    #[test]
    fn a_table_that_only_claims_to_be_large_costs_nothing() {
        let store = Arc::new(MemStore::from_bytes("t", &[0; 4096]));
        let table = PagedTable::new(store, "table", 0, u64::MAX / 2);
        assert!(table.entry::<8>(1 << 40).is_err());
    }
}
