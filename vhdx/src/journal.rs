//! Pages of metadata that were changed but are not in the file yet: a store that reads through
//! them, so that tables see changes at once, and keeps them until they are committed by the log.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use vdisk_core::store::Run;
use vdisk_core::{Result, Store, StoreExt};

use crate::log::{Page, SECTOR};

/// The file, seen through its changed pages. Writes change pages only, never the file.
#[derive(Debug)]
pub(crate) struct Journal {
    file: Arc<dyn Store>,
    pages: Mutex<BTreeMap<u64, Page>>,
}

impl Journal {
    /// The file as it is.
    pub(crate) fn new(file: Arc<dyn Store>) -> Self {
        Self { file, pages: Mutex::default() }
    }

    /// How many pages were changed.
    pub(crate) fn len(&self) -> u64 {
        self.lock().len() as u64
    }

    /// The changed pages, by page number.
    pub(crate) fn pages(&self) -> MutexGuard<'_, BTreeMap<u64, Page>> {
        self.lock()
    }

    /// Writes the changed pages to their places in the file, where they are then no longer
    /// changed.
    ///
    /// # Errors
    /// The host's.
    pub(crate) fn apply(&self) -> Result<()> {
        let mut pages = self.lock();
        for (number, page) in &*pages {
            self.file.put(&**page, number * SECTOR, "VHDX metadata page")?;
        }
        pages.clear();
        Ok(())
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u64, Page>> {
        self.pages.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Calls `each(page number, range in the page, range in the buffer)` for every page that `len`
/// bytes from `offset` touch, until one fails.
fn for_pages(
    offset: u64,
    len: usize,
    mut each: impl FnMut(u64, std::ops::Range<usize>, std::ops::Range<usize>) -> io::Result<()>,
) -> io::Result<()> {
    let mut done = 0;
    while done < len {
        let at = offset + done as u64;
        let within = usize::try_from(at % SECTOR).unwrap_or_default();
        let step = (usize::try_from(SECTOR).unwrap_or_default() - within).min(len - done);
        each(at / SECTOR, within..within + step, done..done + step)?;
        done += step;
    }
    Ok(())
}

impl Store for Journal {
    fn name(&self) -> &Path {
        self.file.name()
    }

    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        // The lock is held over the read, so that pages do not leave for the file in between.
        let pages = self.lock();
        self.file.read_exact_at(buf, offset)?;
        for_pages(offset, buf.len(), |number, in_page, in_buf| {
            if let (Some(page), Some(target)) = (pages.get(&number), buf.get_mut(in_buf))
                && let Some(source) = page.get(in_page)
            {
                target.copy_from_slice(source);
            }
            Ok(())
        })
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        let mut pages = self.lock();
        for_pages(offset, buf.len(), |number, in_page, in_buf| {
            let source = buf.get(in_buf).unwrap_or_default();
            let mut page = match pages.remove(&number) {
                Some(page) => page,
                None => {
                    let mut page = Box::new([0; 4096]);
                    self.file.read_exact_at(&mut *page, number * SECTOR)?;
                    if page.get(in_page.clone()) == Some(source) {
                        return Ok(());
                    }
                    page
                }
            };
            if let Some(target) = page.get_mut(in_page) {
                target.copy_from_slice(source);
            }
            pages.insert(number, page);
            Ok(())
        })
    }

    fn set_len(&self, _len: u64) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn run_at(&self, offset: u64, end: u64) -> io::Result<Run> {
        let next = {
            let pages = self.lock();
            pages.range(offset / SECTOR..).next().map_or(end, |(number, _)| number * SECTOR)
        };
        if next <= offset {
            let stop = (offset / SECTOR + 1) * SECTOR;
            return Ok(Run { len: stop.min(end) - offset, hole: false });
        }
        self.file.run_at(offset, next.min(end))
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdisk_core::MemStore;

    #[test]
    fn changes_are_seen_but_reach_the_file_only_when_applied() {
        let file = Arc::new(MemStore::from_bytes("t", &[1; 20_000]));
        let journal = Journal::new(file.clone());
        journal.write_all_at(&[2; 5000], 4000).unwrap();
        journal.write_all_at(&[1; 10], 14_000).unwrap();
        assert_eq!(journal.len(), 3, "an unchanged page is not kept");
        let mut buf = [0; 20_000];
        journal.read_exact_at(&mut buf, 0).unwrap();
        assert!(buf[4000..9000].iter().all(|byte| *byte == 2));
        assert!(buf[..4000].iter().chain(&buf[9000..]).all(|byte| *byte == 1));
        assert_eq!(file.to_bytes(), [1; 20_000]);
        journal.apply().unwrap();
        assert_eq!(file.to_bytes(), buf);
        assert_eq!(journal.len(), 0);
    }

    #[test]
    fn changed_pages_are_never_a_hole() {
        let file = Arc::new(MemStore::new("t"));
        file.set_len(65536).unwrap();
        let journal = Journal::new(file);
        journal.write_all_at(&[2], 10_000).unwrap();
        assert_eq!(journal.run_at(0, 65536).unwrap(), Run { len: 8192, hole: true });
        assert_eq!(journal.run_at(9000, 65536).unwrap(), Run { len: 3288, hole: false });
        assert_eq!(journal.run_at(12_288, 65536).unwrap(), Run { len: 53_248, hole: true });
    }
}
