//! Disks made of others.

use std::ops::Range;
use std::sync::Arc;

use vdisk::{Disk, Extent, ExtentKind, Result};
use vdisk_core::disk::in_range;

/// A disk of another length: cut, or with zeros behind its end.
#[derive(Debug)]
pub(crate) struct Resized {
    pub(crate) base: Arc<dyn Disk>,
    pub(crate) len: u64,
}

impl Disk for Resized {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        in_range(offset, buf.len() as u64, self.len)?;
        vdisk_core::disk::read_padded(&*self.base, buf, offset)
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        in_range(offset, end - offset, self.len)?;
        if offset < self.base.len() {
            return self.base.extent_at(offset, end.min(self.base.len()));
        }
        let kind = ExtentKind::Zero { explicit: false };
        Ok(Extent { start: offset, len: end - offset, depth: 0, kind })
    }

    fn store(&self, id: usize) -> Option<&Arc<dyn vdisk::Store>> {
        self.base.store(id)
    }
}

/// A disk of which one part is another disk's content.
#[derive(Debug)]
pub(crate) struct Spliced {
    pub(crate) base: Arc<dyn Disk>,
    pub(crate) part: Arc<dyn Disk>,
    /// Where the part stands.
    pub(crate) at: Range<u64>,
}

impl Spliced {
    /// The end of the piece of one kind that starts at `offset`, and whether it is the part.
    fn piece(&self, offset: u64, end: u64) -> (u64, bool) {
        if offset < self.at.start {
            (end.min(self.at.start), false)
        } else if offset < self.at.end {
            (end.min(self.at.end), true)
        } else {
            (end, false)
        }
    }
}

impl Disk for Spliced {
    fn len(&self) -> u64 {
        self.base.len()
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        let end = offset.saturating_add(buf.len() as u64);
        let (mut rest, mut at) = (buf, offset);
        while !rest.is_empty() {
            let (stop, inside) = self.piece(at, end);
            let len = usize::try_from(stop - at).unwrap_or(rest.len()).min(rest.len());
            let (now, later) = rest.split_at_mut(len);
            if inside {
                self.part.read_at(now, at - self.at.start)?;
            } else {
                self.base.read_at(now, at)?;
            }
            rest = later;
            at = stop;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        let (stop, inside) = self.piece(offset, end);
        if !inside {
            // Stores are those of the base; those of the part have other numbers.
            return self.base.extent_at(offset, stop);
        }
        let start = self.at.start;
        let found = self.part.extent_at(offset - start, stop - start)?;
        let kind = if found.is_zero() { found.kind } else { ExtentKind::Opaque };
        Ok(Extent { start: offset, kind, ..found })
    }

    fn store(&self, id: usize) -> Option<&Arc<dyn vdisk::Store>> {
        self.base.store(id)
    }
}

#[cfg(test)]
#[allow(clippy::cast_possible_truncation)]
mod tests {
    use super::*;
    use vdisk_testkit::VecDisk;

    #[test]
    fn made_disks_read_as_they_are_made() {
        let base = Arc::new(VecDisk((0..200u8).collect()));
        let part = Arc::new(VecDisk(vec![255; 40]));
        let whole: Arc<dyn Disk> = Arc::new(Spliced { base, part, at: 50..90 });
        for len in [30, 60, 200, 260] {
            let disk = Resized { base: whole.clone(), len };
            let mut model: Vec<u8> = (0..200).collect();
            model[50..90].fill(255);
            model.resize(len as usize, 0);
            for start in 0..len {
                let mut seen = vec![1; (len - start) as usize];
                disk.read_at(&mut seen, start).unwrap();
                assert_eq!(seen, model[start as usize..]);
            }
            let told: u64 = disk.extents(0..len).map(|extent| extent.unwrap().len).sum();
            assert_eq!(told, len);
        }
    }
}
