//! A disk whose changes are kept in memory: how something is tried before it is done.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use crate::disk::{Disk, Extent, ExtentKind, in_range, read_padded};
use crate::error::{Error, ErrorKind, Result};

/// Bytes of a page, the unit of what is remembered.
const PAGE: usize = 4096;
const PAGE_BYTES: u64 = PAGE as u64;

type Pages = BTreeMap<u64, Box<[u8; PAGE]>>;

/// A disk that reads as its base with everything written to it since; the base is never written.
///
/// What was written comes out as [`changes`](CowDisk::changes), for whoever carries it over to an
/// image in one step.
#[derive(Debug)]
pub struct CowDisk {
    base: Arc<dyn Disk>,
    pages: RwLock<Pages>,
    /// Most pages kept.
    limit: usize,
}

/// Bytes that were written and where.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// First byte on the disk.
    pub offset: u64,
    /// What stands there now.
    pub bytes: Vec<u8>,
}

impl CowDisk {
    /// A disk over `base` that keeps at most `limit` bytes of changes in memory.
    #[must_use]
    pub fn new(base: Arc<dyn Disk>, limit: u64) -> Self {
        let limit = usize::try_from(limit / PAGE_BYTES).unwrap_or(usize::MAX);
        Self { base, pages: RwLock::default(), limit }
    }

    /// Writes `data` at byte `offset`; any alignment.
    ///
    /// # Errors
    /// [`OutOfRange`](ErrorKind::OutOfRange) beyond the end; [`NoSpace`](ErrorKind::NoSpace) where
    /// the changes would exceed the limit; the base's, for the rest of a page partly written.
    pub fn write_at(&self, data: &[u8], offset: u64) -> Result<()> {
        in_range(offset, data.len() as u64, self.len())?;
        let mut pages = self.pages.write().unwrap_or_else(PoisonError::into_inner);
        let (mut at, mut rest) = (offset, data);
        while !rest.is_empty() {
            let number = at / PAGE_BYTES;
            let skip = usize::try_from(at % PAGE_BYTES).unwrap_or_default();
            let (piece, later) = rest.split_at(rest.len().min(PAGE - skip));
            let page = self.page(&mut pages, number, piece.len() == PAGE)?;
            if let Some(target) = page.get_mut(skip..skip + piece.len()) {
                target.copy_from_slice(piece);
            }
            at += piece.len() as u64;
            rest = later;
        }
        Ok(())
    }

    /// What differs from the base, in order, adjacent pages joined; pages that were written with
    /// what stood there already are left out.
    ///
    /// # Errors
    /// The base's.
    pub fn changes(&self) -> Result<Vec<Change>> {
        let mut changes: Vec<Change> = Vec::new();
        for (number, page) in self.read().iter() {
            let offset = number * PAGE_BYTES;
            let there = self.len().saturating_sub(offset).min(PAGE_BYTES);
            let now = page.get(..usize::try_from(there).unwrap_or(PAGE)).unwrap_or_default();
            let mut before = vec![0; now.len()];
            self.base.read_at(&mut before, offset)?;
            if before == now {
                continue;
            }
            match changes.last_mut() {
                Some(last) if last.offset + last.bytes.len() as u64 == offset => {
                    last.bytes.extend_from_slice(now);
                }
                _ => changes.push(Change { offset, bytes: now.to_vec() }),
            }
        }
        Ok(changes)
    }

    /// Forgets everything written.
    pub fn revert(&self) {
        self.pages.write().unwrap_or_else(PoisonError::into_inner).clear();
    }

    fn read(&self) -> RwLockReadGuard<'_, Pages> {
        self.pages.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Page `number`, made from the base unless it is about to be `overwritten` whole.
    fn page<'a>(
        &self,
        pages: &'a mut Pages,
        number: u64,
        overwritten: bool,
    ) -> Result<&'a mut [u8; PAGE]> {
        if !pages.contains_key(&number) && pages.len() >= self.limit {
            let most = self.limit as u64 * PAGE_BYTES;
            return Err(Error::new(
                ErrorKind::NoSpace,
                format!("more than {most} bytes would change at once"),
            ));
        }
        match pages.entry(number) {
            std::collections::btree_map::Entry::Occupied(there) => Ok(there.into_mut()),
            std::collections::btree_map::Entry::Vacant(free) => {
                let mut page = Box::new([0; PAGE]);
                if !overwritten {
                    read_padded(&*self.base, &mut page[..], number * PAGE_BYTES)?;
                }
                Ok(free.insert(page))
            }
        }
    }
}

impl Disk for CowDisk {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        in_range(offset, buf.len() as u64, self.len())?;
        let pages = self.read();
        self.base.read_at(buf, offset)?;
        let end = offset + buf.len() as u64;
        for (number, page) in pages.range(offset / PAGE_BYTES..end.div_ceil(PAGE_BYTES)) {
            let start = number * PAGE_BYTES;
            let (from, to) = (offset.max(start), end.min(start + PAGE_BYTES));
            let at = |base: u64, byte: u64| usize::try_from(byte - base).unwrap_or(usize::MAX);
            if let (Some(target), Some(source)) = (
                buf.get_mut(at(offset, from)..at(offset, to)),
                page.get(at(start, from)..at(start, to)),
            ) {
                target.copy_from_slice(source);
            }
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        in_range(offset, end - offset, self.len())?;
        let pages = self.read();
        let next =
            pages.range(offset / PAGE_BYTES..).next().map_or(end, |(page, _)| page * PAGE_BYTES);
        if next > offset {
            return self.base.extent_at(offset, end.min(next));
        }
        let stop = (offset / PAGE_BYTES + 1) * PAGE_BYTES;
        Ok(Extent {
            start: offset,
            len: end.min(stop) - offset,
            depth: 0,
            kind: ExtentKind::Opaque,
        })
    }

    fn store(&self, id: usize) -> Option<&Arc<dyn crate::store::Store>> {
        self.base.store(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ZeroDisk;

    #[test]
    fn reads_what_was_written_and_tells_only_what_differs() {
        let disk = CowDisk::new(Arc::new(ZeroDisk(20_001)), 1 << 20);
        let mut model = vec![0u8; 20_001];
        for (offset, len, fill) in
            [(4090usize, 10, 1u8), (20_000, 1, 2), (9000, 5000, 3), (0, 9, 0)]
        {
            disk.write_at(&vec![fill; len], offset as u64).unwrap();
            model[offset..offset + len].fill(fill);
        }
        let mut seen = vec![9; model.len()];
        disk.read_at(&mut seen, 0).unwrap();
        assert_eq!(seen, model);
        let mut copy = vec![0; model.len()];
        for change in disk.changes().unwrap() {
            let at = change.offset as usize;
            copy[at..at + change.bytes.len()].copy_from_slice(&change.bytes);
        }
        assert_eq!(copy, model);
        let told: u64 = disk.extents(0..20_001).map(|extent| extent.unwrap().len).sum();
        assert_eq!(told, 20_001);
        disk.revert();
        assert_eq!(disk.changes().unwrap(), []);
    }

    #[test]
    fn what_was_written_back_is_no_change() {
        let disk = CowDisk::new(Arc::new(ZeroDisk(8192)), 1 << 20);
        disk.write_at(&[1; 10], 100).unwrap();
        disk.write_at(&[0; 10], 100).unwrap();
        assert_eq!(disk.changes().unwrap(), []);
    }

    #[test]
    fn keeps_to_its_limit() {
        let disk = CowDisk::new(Arc::new(ZeroDisk(1 << 20)), 8192);
        disk.write_at(&[1; 8192], 0).unwrap();
        assert_eq!(disk.write_at(&[1], 8192).unwrap_err().kind(), ErrorKind::NoSpace);
        disk.write_at(&[2; 8192], 0).unwrap();
    }
}
