//! Bytes on the host.

use std::fmt;
use std::io;
use std::ops::Range;
use std::path::Path;

use crate::error::{Error, Result};
use crate::host::HostFile;

/// Bytes at an offset: a host file, a block device, memory, or a test double.
///
/// All methods take `&self` and may be called from many threads at once. Offsets and lengths are
/// bytes.
pub trait Store: Send + Sync + fmt::Debug {
    /// The name for messages: the file's path, where there is one.
    fn name(&self) -> &Path;

    /// The length in bytes, now.
    ///
    /// # Errors
    /// The host's.
    fn len(&self) -> io::Result<u64>;

    /// Whether it has no bytes.
    ///
    /// # Errors
    /// The host's.
    fn is_empty(&self) -> io::Result<bool> {
        Ok(self.len()? == 0)
    }

    /// Fills `buf` from byte `offset`.
    ///
    /// # Errors
    /// [`io::ErrorKind::UnexpectedEof`] where the store ends first; the host's otherwise.
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()>;

    /// Writes all of `buf` at byte `offset`, growing the store where needed.
    ///
    /// # Errors
    /// The host's.
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()>;

    /// Makes the store `len` bytes long; new bytes read as zero.
    ///
    /// # Errors
    /// The host's.
    fn set_len(&self, len: u64) -> io::Result<()>;

    /// Makes `len` bytes from `offset` read as zero, giving their space back where the host can.
    /// The range must lie inside the store.
    ///
    /// # Errors
    /// The host's.
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        const ZEROS: &[u8] = &[0; 65536];
        let (mut offset, mut left) = (offset, len);
        while left > 0 {
            let step = left.min(ZEROS.len() as u64);
            let piece = usize::try_from(step).map_or(ZEROS, |n| ZEROS.get(..n).unwrap_or(ZEROS));
            self.write_all_at(piece, offset)?;
            offset += step;
            left -= step;
        }
        Ok(())
    }

    /// The run of data or hole that starts at `offset`, at most up to `end`. `offset < end`.
    /// What cannot tell says that all is data.
    ///
    /// # Errors
    /// The host's.
    fn run_at(&self, offset: u64, end: u64) -> io::Result<Run> {
        Ok(Run { len: end - offset, hole: false })
    }

    /// Waits until all that was written survives a power cut.
    ///
    /// # Errors
    /// The host's.
    fn sync(&self) -> io::Result<()>;

    /// The host file behind it, when every byte of the store is that file's byte at the same
    /// offset: the one way for the copy engine to let the kernel move data.
    fn host(&self) -> Option<&HostFile> {
        None
    }
}

/// A stretch of a store that is either data or a hole (which reads as zeros).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// Bytes, at least 1.
    pub len: u64,
    /// Whether it is a hole.
    pub hole: bool,
}

/// Reading and writing named structures, with errors that say which structure, which file, where.
pub trait StoreExt: Store {
    /// The length in bytes.
    ///
    /// # Errors
    /// The host's, with the file's name.
    fn size(&self) -> Result<u64> {
        self.len().map_err(|e| Error::io(e, "find the length").in_file(self.name()))
    }

    /// Fills `buf` from byte `offset`; `what` names the structure read.
    ///
    /// # Errors
    /// [`ErrorKind::Truncated`](crate::ErrorKind::Truncated) where the file ends first; the
    /// host's otherwise.
    fn fetch(&self, buf: &mut [u8], offset: u64, what: &'static str) -> Result<()> {
        self.read_exact_at(buf, offset)
            .map_err(|e| Error::io(e, "read it").at(what, offset).in_file(self.name()))
    }

    /// Writes `buf` at byte `offset`; `what` names the structure written.
    ///
    /// # Errors
    /// The host's.
    fn put(&self, buf: &[u8], offset: u64, what: &'static str) -> Result<()> {
        self.write_all_at(buf, offset)
            .map_err(|e| Error::io(e, "write it").at(what, offset).in_file(self.name()))
    }

    /// Makes the store `len` bytes long.
    ///
    /// # Errors
    /// The host's.
    fn resize(&self, len: u64) -> Result<()> {
        self.set_len(len)
            .map_err(|e| Error::io(e, format_args!("set the length to {len}")).in_file(self.name()))
    }

    /// Makes a range read as zero; `what` names the structure.
    ///
    /// # Errors
    /// The host's.
    fn clear(&self, offset: u64, len: u64, what: &'static str) -> Result<()> {
        self.zero(offset, len)
            .map_err(|e| Error::io(e, "zero it").at(what, offset).in_file(self.name()))
    }

    /// Bytes of `range` that the host stores, in runs of at least `least` bytes; the rest are holes.
    ///
    /// # Errors
    /// The host's.
    fn stored(&self, range: Range<u64>, least: u64) -> Result<u64> {
        let (mut at, mut stored) = (range.start, 0);
        while at < range.end {
            let run = self.run_at(at, range.end).map_err(|e| {
                Error::io(e, "look for holes").at("free space", at).in_file(self.name())
            })?;
            stored += if run.hole || run.len < least { 0 } else { run.len };
            at += run.len.max(1);
        }
        Ok(stored)
    }

    /// Waits until all that was written survives a power cut.
    ///
    /// # Errors
    /// The host's.
    fn flush(&self) -> Result<()> {
        self.sync().map_err(|e| Error::io(e, "flush to the disk").in_file(self.name()))
    }
}

impl<S: Store + ?Sized> StoreExt for S {}

/// The pages of the host (4096 bytes) that lie wholly within `range` of a file: only those can
/// become holes.
#[must_use]
pub fn whole_pages(range: &Range<u64>) -> Range<u64> {
    const PAGE: u64 = 4096;
    let start = range.start.checked_next_multiple_of(PAGE).unwrap_or(range.end);
    start..(range.end / PAGE * PAGE).max(start)
}

#[cfg(test)]
mod tests {
    use super::whole_pages;

    #[test]
    fn a_page_that_something_else_uses_is_no_whole_one() {
        assert_eq!(whole_pages(&(66_048..73_728)), 69_632..73_728);
        assert!(whole_pages(&(4097..12_287)).is_empty());
        assert_eq!(whole_pages(&(4096..12_288)), 4096..12_288);
        assert!(whole_pages(&(4608..5120)).is_empty());
        assert!(whole_pages(&(u64::MAX - 9..u64::MAX)).is_empty());
    }
}
