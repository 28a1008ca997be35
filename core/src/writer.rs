//! Making a new image: the writer hands out places, the copy engine moves the bytes.

use std::fmt;
use std::ops::Range;
use std::sync::Arc;

use crate::error::{Error, Result};
use crate::host::HostFile;
use crate::store::Store;

/// A new image in the making.
///
/// The engine goes through the guest's bytes in ascending order and leaves out what is zero. For
/// each run of data it either asks for a *place* and puts the bytes there by whatever way is
/// cheapest (at any time before [`finish`](ImageWriter::finish), from any thread), or, where the
/// writer has an [`Encoder`], encodes whole units on any thread and appends them in order.
pub trait ImageWriter: Send + fmt::Debug {
    /// The virtual size in bytes.
    fn virtual_size(&self) -> u64;

    /// Bytes of the writer's allocation unit (block, grain): runs of data that start and end at
    /// multiples of it (or at the disk's end) waste nothing. A power of two.
    fn unit(&self) -> u64;

    /// Reserves room for the guest bytes from `range.start` on, and says where they go: a place
    /// for at least one byte and at most the whole range. Call again for the rest. Ranges ascend
    /// and do not overlap; parts of a reserved unit that are never written read as zero.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange), [`NoSpace`](crate::ErrorKind::NoSpace) where
    /// the format can address no more, the host's.
    fn place(&mut self, range: Range<u64>) -> Result<Placement>;

    /// A host file of the image, where places are in host files; all of an image's files share one
    /// file system. Lets the engine learn whether the kernel can share bytes with it.
    fn host(&self) -> Option<&HostFile> {
        None
    }

    /// The encoder, where units are stored encoded; then [`append`](ImageWriter::append) is used
    /// and [`place`](ImageWriter::place) is not.
    fn encoder(&self) -> Option<Arc<dyn Encoder>> {
        None
    }

    /// Appends the unit that starts at guest byte `start`, encoded. Starts ascend.
    ///
    /// # Errors
    /// As [`ImageWriter::place`].
    fn append(&mut self, start: u64, encoded: &[u8]) -> Result<()> {
        let _ = (start, encoded);
        Err(Error::internal("this writer places, it does not append"))
    }

    /// Writes all that makes the files an image. The caller has put all bytes in their places;
    /// it flushes and names the files afterwards.
    ///
    /// # Errors
    /// The host's.
    fn finish(self: Box<Self>) -> Result<()>;
}

/// Turns the bytes of one unit into what is stored. Pure; called from many threads at once.
pub trait Encoder: Send + Sync + fmt::Debug {
    /// Replaces the content of `out` by the encoded form of `unit` (a whole unit, or the shorter
    /// last one).
    ///
    /// # Errors
    /// Where the unit cannot be encoded.
    fn encode(&self, unit: &[u8], out: &mut Vec<u8>) -> Result<()>;
}

/// Where guest bytes go.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The file.
    pub store: Arc<dyn Store>,
    /// Byte offset in it.
    pub at: u64,
    /// How many bytes of the range go there.
    pub len: u64,
}
