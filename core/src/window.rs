//! Part of a disk as a disk of its own: a partition, a logical volume's segment.

use std::ops::Range;
use std::sync::Arc;

use crate::disk::{Disk, Extent, ExtentKind, Extents, Grain, in_range};
use crate::error::Result;
use crate::store::Store;

/// The bytes `start .. start + len` of another disk.
#[derive(Clone, Debug)]
pub struct Window {
    base: Arc<dyn Disk>,
    start: u64,
    len: u64,
}

impl Window {
    /// The `range` of `base`, in bytes.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange) where it reaches beyond the end of `base`.
    pub fn new(base: Arc<dyn Disk>, range: Range<u64>) -> Result<Self> {
        let len = range.end.saturating_sub(range.start);
        in_range(range.start, len, base.len())?;
        Ok(Self { base, start: range.start, len })
    }

    /// Where it starts in the disk it is part of, bytes.
    #[must_use]
    pub fn start(&self) -> u64 {
        self.start
    }

    fn shifted(&self, extent: Extent) -> Extent {
        let kind = match extent.kind {
            // A grain that begins before the window can only be read through it.
            ExtentKind::Compressed(grain) => match grain.start.checked_sub(self.start) {
                Some(start) => ExtentKind::Compressed(Grain { start, ..grain }),
                None => ExtentKind::Opaque,
            },
            kind => kind,
        };
        Extent { start: extent.start.saturating_sub(self.start), kind, ..extent }
    }
}

impl Disk for Window {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        in_range(offset, buf.len() as u64, self.len)?;
        self.base.read_at(buf, self.start + offset)
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        in_range(offset, end - offset, self.len)?;
        let found = self.base.extent_at(self.start + offset, self.start + end)?;
        Ok(self.shifted(found))
    }

    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        if let Err(error) = in_range(range.start, range.end - range.start, self.len) {
            return Box::new(std::iter::once(Err(error)));
        }
        let found = self.base.extents(self.start + range.start..self.start + range.end);
        Box::new(found.map(|extent| extent.map(|extent| self.shifted(extent))))
    }

    fn store(&self, id: usize) -> Option<&Arc<dyn Store>> {
        self.base.store(id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::disk::ZeroDisk;

    #[test]
    fn shows_its_part_and_no_more() {
        let window = Window::new(Arc::new(ZeroDisk(10_000)), 1000..3000).unwrap();
        assert_eq!(window.len(), 2000);
        assert!(window.read_at(&mut [1; 2000], 0).is_ok());
        assert!(window.read_at(&mut [1; 2], 1999).is_err());
        let extent = window.extent_at(5, 2000).unwrap();
        assert_eq!((extent.start, extent.end()), (5, 2000));
        assert_eq!(window.extents(0..2000).count(), 1);
        assert!(Window::new(Arc::new(ZeroDisk(10)), 5..11).is_err());
    }
}
