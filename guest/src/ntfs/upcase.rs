//! The volume's own table of capital letters, by which names are compared and sorted.

use std::cmp::Ordering;
use std::ops::Deref;

use vdisk_core::{Disk, Result};

use super::{DATA, Ntfs, damaged};

/// The file `$UpCase`.
const UPCASE: u64 = 10;
/// Bytes of a table of all units of UTF-16.
const LEN: usize = 2 << 16;

/// Capital letters by unit of UTF-16.
#[derive(Clone, Debug)]
pub struct UpCase(Vec<u16>);

impl UpCase {
    /// Reads the table.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where it is not there; the disk's.
    pub fn read<D: Deref<Target: Disk>>(ntfs: &Ntfs<D>) -> Result<Self> {
        let record = ntfs.record(UPCASE)?;
        let stream = ntfs.stream(&record, DATA, "")?;
        let stream = stream.ok_or_else(|| damaged("NTFS $UpCase", 0, "it has no content"))?;
        let bytes = ntfs.whole_stream(&stream, LEN)?;
        Ok(Self(bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect()))
    }

    /// Compares names as a directory sorts them, without regard to case.
    #[must_use]
    pub fn compare(&self, a: &[u16], b: &[u16]) -> Ordering {
        let upper = |unit: &u16| self.0.get(usize::from(*unit)).copied().unwrap_or(*unit);
        a.iter().map(upper).cmp(b.iter().map(upper))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_outside_the_table_are_themselves() {
        let table = UpCase((0..u16::from(b'c')).map(|unit| unit.max(66)).collect());
        assert_eq!(table.compare(&[65, 3000], &[66, 3000]), Ordering::Equal);
        assert_eq!(table.compare(&[65], &[66, 1]), Ordering::Less);
        assert_eq!(table.compare(&[3001], &[3000]), Ordering::Greater);
    }
}
