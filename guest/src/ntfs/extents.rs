//! Where the bytes of an attribute stand, holes included.

use std::ops::Range;

use vdisk_core::Error;

use super::{Runs, damaged};

/// The pieces of an attribute, in order, to be looked up by byte.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extents {
    pieces: Vec<Extent>,
    len: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Extent {
    /// The first byte of the attribute.
    start: u64,
    len: u64,
    /// Where it stands on the volume; none for a hole.
    place: Option<u64>,
}

impl Extents {
    /// Most pieces of an attribute.
    pub const MOST: usize = 1 << 18;

    /// Runs without holes.
    #[must_use]
    pub fn of(runs: &[Range<u64>]) -> Self {
        let mut extents = Self::default();
        for run in runs {
            // Runs end inside the volume, and are no more than come from `add_extents`.
            let _ = extents.push(run.end - run.start, Some(run.start));
        }
        extents
    }

    /// Adds `len` bytes that stand at `place`, or a hole; `None` where that is too much.
    pub fn push(&mut self, len: u64, place: Option<u64>) -> Option<()> {
        let end = self.len.checked_add(len)?;
        if len > 0 {
            (self.pieces.len() < Self::MOST).then_some(())?;
            self.pieces.push(Extent { start: self.len, len, place });
            self.len = end;
        }
        Some(())
    }

    /// Bytes of all pieces.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.len
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Where byte `offset` stands, and how many bytes go on from there; a hole stands nowhere.
    #[must_use]
    pub fn at(&self, offset: u64) -> Option<(Option<u64>, u64)> {
        let next = self.pieces.partition_point(|piece| piece.start <= offset);
        let piece = self.pieces.get(next.checked_sub(1)?)?;
        let inside = offset - piece.start;
        (inside < piece.len).then(|| (piece.place.map(|place| place + inside), piece.len - inside))
    }

    /// The pieces as runs; `None` where there are holes.
    #[must_use]
    pub fn runs(&self) -> Option<Runs> {
        let run = |piece: &Extent| piece.place.map(|place| place..place + piece.len);
        self.pieces.iter().map(run).collect()
    }

    /// Damage: something should stand at byte `offset`.
    #[must_use]
    pub fn ends_before(&self, offset: u64) -> Error {
        let at = self.pieces.iter().find_map(|piece| piece.place).unwrap_or_default();
        damaged("NTFS attribute", at, format!("it ends before byte {offset}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_found_in_their_piece() {
        let mut extents = Extents::default();
        extents.push(100, Some(1000)).unwrap();
        extents.push(0, Some(7)).unwrap();
        extents.push(50, None).unwrap();
        extents.push(10, Some(0)).unwrap();
        assert_eq!(extents.at(0), Some((Some(1000), 100)));
        assert_eq!(extents.at(99), Some((Some(1099), 1)));
        assert_eq!(extents.at(100), Some((None, 50)));
        assert_eq!(extents.at(155), Some((Some(5), 5)));
        assert_eq!(extents.at(160), None);
        assert_eq!(extents.runs(), None);
        assert_eq!(extents.push(u64::MAX, None), None);
        assert_eq!(extents.len(), 160);
    }
}
