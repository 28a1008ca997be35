//! The hive as bytes: the base block, bins, cells.

use vdisk_core::{Error, ErrorKind, Result};

use crate::base::{BASE, BaseBlock};
use crate::bytes::{index, u16_at, u32_at, u64_at};

/// A place in the bins, in bytes from the first bin, as hives count.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Offset(pub(crate) u32);

impl Offset {
    /// What stands where there is no offset.
    pub(crate) const NONE: u32 = u32::MAX;

    /// The offset in a field; none for -1.
    pub(crate) fn parse(field: u32) -> Option<Self> {
        (field != Self::NONE).then_some(Self(field))
    }

    /// Bytes from the start of the file.
    pub(crate) fn in_file(self) -> u64 {
        u64::from(self.0) + BASE as u64
    }

    /// The same as an index of the file's bytes.
    pub(crate) fn index(self) -> usize {
        index(self.0).saturating_add(BASE)
    }
}

/// The place of an offset in a field: -1 where there is none.
pub(crate) fn raw_offset(offset: Option<Offset>) -> u32 {
    offset.map_or(Offset::NONE, |offset| offset.0)
}

/// Bytes of a bin's header.
pub(crate) const BIN_HEADER: u32 = 32;
/// Bins are multiples of this.
pub(crate) const BIN_UNIT: u32 = 4096;

/// The content of an allocated cell, without its size.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell<'h> {
    pub(crate) at: Offset,
    pub(crate) bytes: &'h [u8],
}

impl<'h> Cell<'h> {
    /// An error about this cell.
    pub(crate) fn corrupt(&self, structure: &'static str, message: impl Into<String>) -> Error {
        Error::corrupt(structure, self.at.in_file(), message)
    }

    /// `len` bytes of its content.
    pub(crate) fn slice(&self, structure: &'static str, at: usize, len: usize) -> Result<&'h [u8]> {
        let found = self.bytes.get(at..).and_then(|rest| rest.get(..len));
        found.ok_or_else(|| {
            let have = self.bytes.len();
            self.corrupt(structure, format!("needs {len} bytes at {at}, its cell has only {have}"))
        })
    }

    pub(crate) fn u16(&self, structure: &'static str, at: usize) -> Result<u16> {
        self.slice(structure, at, 2).map(|found| u16_at(found, 0).unwrap_or_default())
    }

    pub(crate) fn u32(&self, structure: &'static str, at: usize) -> Result<u32> {
        self.slice(structure, at, 4).map(|found| u32_at(found, 0).unwrap_or_default())
    }

    pub(crate) fn u64(&self, structure: &'static str, at: usize) -> Result<u64> {
        self.slice(structure, at, 8).map(|found| u64_at(found, 0).unwrap_or_default())
    }
}

/// A cell as its bin holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RawCell {
    pub(crate) at: Offset,
    /// Bytes, its size field included.
    pub(crate) size: u32,
    pub(crate) allocated: bool,
}

/// The bytes of a hive file, whose bins are cells without gaps.
///
/// Where each allocated cell begins is kept, so a reference into the middle of one is an error,
/// and two cells never overlap.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) bytes: Vec<u8>,
    pub(crate) bins_size: u32,
    pub(crate) starts: Marks,
}

impl Image {
    pub(crate) fn parse(bytes: Vec<u8>, base: &BaseBlock) -> Result<Self> {
        let end = Offset(base.bins_size).index();
        if bytes.len() < end {
            let message = format!("the hive needs {end} bytes and the file has {}", bytes.len());
            return Err(Error::new(ErrorKind::Truncated, message)
                .at("registry hive header", 40)
                .hint("take a whole copy of the hive"));
        }
        let mut image = Self { bytes, bins_size: base.bins_size, starts: Marks::new() };
        let mut starts = Marks::new();
        image.each_cell(|cell| {
            if cell.allocated {
                starts.set(cell.at);
            }
        })?;
        image.starts = starts;
        Ok(image)
    }

    /// Walks all cells of all bins, in order.
    pub(crate) fn each_cell(&self, mut visit: impl FnMut(RawCell)) -> Result<()> {
        let mut at = 0;
        while at < self.bins_size {
            let end = self.bin_end(Offset(at))?;
            at += BIN_HEADER;
            while at < end {
                let cell = self.raw_cell(Offset(at), end)?;
                visit(cell);
                at += cell.size;
            }
        }
        Ok(())
    }

    fn bin_end(&self, at: Offset) -> Result<u32> {
        let corrupt = |message: String| Error::corrupt("hive bin", at.in_file(), message);
        let header = self.bytes.get(at.index()..).unwrap_or_default();
        if !header.starts_with(b"hbin") {
            return Err(corrupt("the signature is not \"hbin\"".into()));
        }
        let own = u32_at(header, 4).unwrap_or_default();
        if own != at.0 {
            return Err(corrupt(format!("says it stands at {own:#x}, and is at {:#x}", at.0)));
        }
        let size = u32_at(header, 8).unwrap_or_default();
        let end = at.0.checked_add(size).filter(|end| *end <= self.bins_size);
        match end {
            Some(end) if size >= BIN_UNIT && size.is_multiple_of(BIN_UNIT) => Ok(end),
            _ => Err(corrupt(format!("a size of {size} bytes cannot be"))),
        }
    }

    fn raw_cell(&self, at: Offset, bin_end: u32) -> Result<RawCell> {
        let field = u32_at(&self.bytes, at.index()).unwrap_or_default().cast_signed();
        let size = field.unsigned_abs();
        if size < 8 || !size.is_multiple_of(8) || size > bin_end - at.0 {
            let message = format!("a size of {size} bytes cannot be");
            return Err(Error::corrupt("hive cell", at.in_file(), message));
        }
        Ok(RawCell { at, size, allocated: field < 0 })
    }

    /// The allocated cell that begins at `at`, as `structure` needs it.
    pub(crate) fn cell(&self, structure: &'static str, at: Offset) -> Result<Cell<'_>> {
        let content = self.starts.has(at).then(|| {
            let size = self.size_of(at);
            self.bytes.get(at.index()..).and_then(|rest| rest.get(4..index(size)))
        });
        content.flatten().map(|bytes| Cell { at, bytes }).ok_or_else(|| {
            Error::corrupt(structure, at.in_file(), "there is no allocated cell at this place")
        })
    }

    /// Bytes of a cell, its size field included.
    pub(crate) fn size_of(&self, at: Offset) -> u32 {
        u32_at(&self.bytes, at.index()).unwrap_or_default().cast_signed().unsigned_abs()
    }
}

/// A set of cells, by where they begin: one bit for each eight bytes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks(Vec<u64>);

impl Marks {
    pub(crate) fn new() -> Self {
        Self::default()
    }

    fn place(at: Offset) -> Option<(usize, u64)> {
        at.0.is_multiple_of(8).then(|| (index(at.0 / 512), 1 << (at.0 / 8 % 64)))
    }

    /// Adds a cell; whether it was not there before. Only offsets of the image are given, so it
    /// grows no larger than the image.
    pub(crate) fn set(&mut self, at: Offset) -> bool {
        let Some((word, bit)) = Self::place(at) else { return false };
        if self.0.len() <= word {
            self.0.resize(word + 1, 0);
        }
        self.0.get_mut(word).is_some_and(|found| {
            let new = *found & bit == 0;
            *found |= bit;
            new
        })
    }

    /// Removes a cell.
    pub(crate) fn clear(&mut self, at: Offset) {
        if let Some((word, bit)) = Self::place(at)
            && let Some(found) = self.0.get_mut(word)
        {
            *found &= !bit;
        }
    }

    pub(crate) fn has(&self, at: Offset) -> bool {
        Self::place(at)
            .is_some_and(|(word, bit)| self.0.get(word).is_some_and(|found| found & bit != 0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_a_set() {
        let mut marks = Marks::new();
        assert!(marks.set(Offset(512)));
        assert!(!marks.set(Offset(512)));
        assert!(marks.has(Offset(512)) && !marks.has(Offset(520)) && !marks.has(Offset(0)));
        assert!(!marks.has(Offset(516)) && !marks.set(Offset(516)));
        assert!(!marks.has(Offset(u32::MAX)));
        marks.clear(Offset(512));
        assert!(!marks.has(Offset(512)));
    }
}
