//! The base block: the first 4096 bytes of a hive, and the first 512 of its logs.

use vdisk_core::{Error, Result};

use crate::bytes::{u32_at, u64_at};
use crate::time::FileTime;

/// Bytes before the first hive bin.
pub(crate) const BASE: usize = 4096;
/// Bytes of it that mean something; a log holds only these.
pub(crate) const BASE_USED: usize = 512;

/// Places of fields in the base block.
pub(crate) mod field {
    pub(crate) const SEQUENCE_1: usize = 4;
    pub(crate) const SEQUENCE_2: usize = 8;
    pub(crate) const TIME: usize = 12;
    pub(crate) const MAJOR: usize = 20;
    pub(crate) const MINOR: usize = 24;
    pub(crate) const TYPE: usize = 28;
    pub(crate) const FORMAT: usize = 32;
    pub(crate) const ROOT: usize = 36;
    pub(crate) const BINS: usize = 40;
    pub(crate) const CHECKSUM: usize = 508;
}

/// What the base block says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BaseBlock {
    /// Counted up before the hive is written to.
    pub primary_sequence: u32,
    /// Made equal to the primary one when all is written; a hive where they differ is dirty.
    pub secondary_sequence: u32,
    /// When the hive was last written.
    pub written: FileTime,
    /// Minor version: 3 (NT 4, and hives that must stay readable to old Windows) to 6.
    pub minor: u32,
    /// Offset of the root key, counted from byte 4096.
    pub(crate) root: u32,
    /// Bytes of hive bins behind the base block; what follows in the file is slack.
    pub bins_size: u32,
}

impl BaseBlock {
    /// Reads the base block of a hive (its type is 0), whose checksum must be right, from the
    /// beginning of its file: 512 bytes are enough.
    ///
    /// # Errors
    /// `Corrupt` where it is none, `Unsupported` for the hives of NT 3.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        Self::parse_kind(bytes, "registry hive header", |kind| kind == 0)
    }

    /// Reads the base block in front of a log: its kind is 1 or 2 for the old generation, 6 for
    /// the new one.
    pub(crate) fn parse_log(bytes: &[u8]) -> Result<Self> {
        Self::parse_kind(bytes, "registry log header", |kind| matches!(kind, 1 | 2 | 6))
    }

    fn parse_kind(
        bytes: &[u8],
        structure: &'static str,
        kind_fits: impl Fn(u32) -> bool,
    ) -> Result<Self> {
        if !is_hive(bytes) {
            return Err(Error::corrupt(structure, 0, "the signature is not \"regf\""));
        }
        let word = |at: usize| {
            u32_at(bytes, at)
                .ok_or_else(|| Error::corrupt(structure, 0, "the file ends within the header"))
        };
        let (stored, computed) = (word(field::CHECKSUM)?, checksum(bytes));
        if computed != Some(stored) {
            let message = format!("the checksum is {stored:#010x}, which does not fit the content");
            return Err(Error::corrupt(structure, 508, message)
                .hint("recover the hive with its .LOG1 and .LOG2 files"));
        }
        let (major, minor) = (word(field::MAJOR)?, word(field::MINOR)?);
        if major != 1 || !(3..=6).contains(&minor) {
            let message = format!("hive version {major}.{minor} is none of 1.3 to 1.6");
            return Err(Error::unsupported(message).at(structure, 20));
        }
        let kind = word(field::TYPE)?;
        if !kind_fits(kind) {
            let message = format!("file type {kind} does not belong here");
            return Err(Error::corrupt(structure, 28, message)
                .hint("give the hive and its logs, each in its place"));
        }
        if word(field::FORMAT)? != 1 {
            return Err(Error::corrupt(structure, 32, "the format is not 1 (direct memory load)"));
        }
        let bins_size = word(field::BINS)?;
        if bins_size == 0 || !bins_size.is_multiple_of(4096) || bins_size > MAX_BINS {
            let message = format!("a size of {bins_size} bytes for the hive bins cannot be");
            return Err(Error::corrupt(structure, 40, message));
        }
        Ok(Self {
            primary_sequence: word(field::SEQUENCE_1)?,
            secondary_sequence: word(field::SEQUENCE_2)?,
            written: FileTime(u64_at(bytes, field::TIME).unwrap_or_default()),
            minor,
            root: word(field::ROOT)?,
            bins_size,
        })
    }

    /// Whether a write to the hive was begun and not ended, so that its logs must be replayed.
    #[must_use]
    pub fn is_dirty(&self) -> bool {
        self.primary_sequence != self.secondary_sequence
    }
}

/// The most bytes of hive bins: Windows keeps hives below 2 GiB.
pub(crate) const MAX_BINS: u32 = 0x7fff_f000;

/// Whether `bytes` begin like a registry hive (or one of its logs).
#[must_use]
pub fn is_hive(bytes: &[u8]) -> bool {
    bytes.starts_with(b"regf")
}

/// XOR of the first 127 words; 0 and -1 are avoided.
pub(crate) fn checksum(bytes: &[u8]) -> Option<u32> {
    let words = bytes.get(..field::CHECKSUM)?.as_chunks().0;
    Some(match words.iter().fold(0, |sum, word| sum ^ u32::from_le_bytes(*word)) {
        0 => 1,
        0xffff_ffff => 0xffff_fffe,
        sum => sum,
    })
}

/// Writes a number at a field of the base block and nothing where there is no such place.
pub(crate) fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    if let Some(place) = bytes.get_mut(at..).and_then(|rest| rest.get_mut(..value.len())) {
        place.copy_from_slice(value);
    }
}

/// Marks the hive as whole: both sequence numbers, the size of its bins, and the checksum.
pub(crate) fn seal(bytes: &mut [u8], sequence: u32, bins_size: u32) {
    put(bytes, field::SEQUENCE_1, &sequence.to_le_bytes());
    put(bytes, field::SEQUENCE_2, &sequence.to_le_bytes());
    put(bytes, field::BINS, &bins_size.to_le_bytes());
    if let Some(sum) = checksum(bytes) {
        put(bytes, field::CHECKSUM, &sum.to_le_bytes());
    }
}

#[cfg(test)]
mod tests {
    use vdisk_core::ErrorKind;

    use super::*;

    pub(crate) fn sample() -> Vec<u8> {
        let mut bytes = vec![0; BASE];
        put(&mut bytes, 0, b"regf");
        put(&mut bytes, field::MAJOR, &[1]);
        put(&mut bytes, field::MINOR, &[5]);
        put(&mut bytes, field::FORMAT, &[1]);
        put(&mut bytes, field::ROOT, &[0x20]);
        seal(&mut bytes, 7, 4096);
        bytes
    }

    #[test]
    fn what_is_sealed_is_read() {
        let base = BaseBlock::parse(&sample()).unwrap();
        assert_eq!((base.primary_sequence, base.bins_size, base.minor), (7, 4096, 5));
        assert!(!base.is_dirty());
    }

    #[test]
    fn what_is_wrong_is_told() {
        let cases: [(usize, &[u8], ErrorKind); 7] = [
            (0, b"x", ErrorKind::Corrupt),
            (field::MAJOR, &[2], ErrorKind::Unsupported),
            (field::MINOR, &[2], ErrorKind::Unsupported),
            (field::TYPE, &[1], ErrorKind::Corrupt),
            (field::FORMAT, &[2], ErrorKind::Corrupt),
            (field::BINS, &[1], ErrorKind::Corrupt),
            (field::BINS + 3, &[0x80], ErrorKind::Corrupt),
        ];
        for (at, value, kind) in cases {
            let mut bytes = sample();
            put(&mut bytes, at, value);
            assert_eq!(BaseBlock::parse(&bytes).unwrap_err().kind(), ErrorKind::Corrupt);
            let sum = checksum(&bytes).unwrap();
            put(&mut bytes, field::CHECKSUM, &sum.to_le_bytes());
            assert_eq!(BaseBlock::parse(&bytes).unwrap_err().kind(), kind, "{at}");
        }
        assert!(BaseBlock::parse(&sample()[..500]).is_err());
        assert!(BaseBlock::parse_log(&sample()).is_err());
    }
}
