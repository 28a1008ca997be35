//! One image file of a chain: what it is, and where each guest byte stands.

use std::fmt;
use std::ops::Range;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use crate::check::Findings;
use crate::compact::{Compaction, Vacant};
use crate::disk::{Disk, Grain, in_range, read_padded};
use crate::error::{Error, Result};
use crate::job::Watch;
use crate::store::{Store, StoreExt};

/// The image formats.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Format {
    /// The guest's bytes and nothing else.
    Raw,
    /// Virtual Hard Disk (VHD 1.0; qemu calls it `vpc`).
    Vhd,
    /// Virtual Hard Disk v2 (\[MS-VHDX\]).
    Vhdx,
    /// Virtual Machine Disk (VMware Virtual Disk Format 5.0).
    Vmdk,
}

impl Format {
    /// The name on the command line and in JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Vhd => "vhd",
            Self::Vhdx => "vhdx",
            Self::Vmdk => "vmdk",
        }
    }
}

impl fmt::Display for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// What is known of a layer once it is open.
#[derive(Clone, Debug)]
pub struct LayerInfo {
    /// The format.
    pub format: Format,
    /// The format's own name of the variant: `fixed`, `dynamic`, `differencing`,
    /// `monolithicSparse`, …
    pub subformat: String,
    /// What the guest sees, bytes.
    pub virtual_size: u64,
    /// Bytes of a sector the guest addresses: 512 or 4096.
    pub logical_sector: u32,
    /// Bytes of a sector of the medium: 512 or 4096.
    pub physical_sector: u32,
    /// Bytes of an allocation unit (block, grain); `None` where there is none.
    pub block_size: Option<u64>,
    /// What a child records to recognise this layer: VHD unique id, VHDX data write GUID,
    /// VMDK content id.
    pub identity: Option<String>,
    /// The parent this layer needs, where it is differencing.
    pub parent: Option<ParentRef>,
    /// A log waits to be replayed, or the image was not closed.
    pub dirty: bool,
    /// The format's own facts, in the order to show them; names are in kebab case.
    pub facts: Vec<(&'static str, Fact)>,
}

/// One of a format's own facts.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fact {
    /// A number.
    Int(u64),
    /// Yes or no.
    Bool(bool),
    /// Text.
    Text(String),
}

impl From<u64> for Fact {
    fn from(value: u64) -> Self {
        Self::Int(value)
    }
}

impl From<u32> for Fact {
    fn from(value: u32) -> Self {
        Self::Int(value.into())
    }
}

impl From<bool> for Fact {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<String> for Fact {
    fn from(value: String) -> Self {
        Self::Text(value)
    }
}

impl From<&str> for Fact {
    fn from(value: &str) -> Self {
        Self::Text(value.to_owned())
    }
}

/// How a differencing layer names its parent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    /// Identities, any of which the parent's [`LayerInfo::identity`] must equal (compared without
    /// regard to case). Empty: the format recorded none.
    pub identities: Vec<String>,
    /// When the parent was last changed, where the format records it; a mere hint.
    pub modified: Option<SystemTime>,
    /// Where the parent may be, best first.
    pub hints: Vec<ParentHint>,
}

/// One place where a parent may be, as the image says it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentHint {
    /// The format's own name of the record: `W2ru`, `relative_path`, `parentFileNameHint`, …
    pub kind: &'static str,
    /// How the path is written.
    pub style: PathStyle,
    /// The path as the image says it.
    pub path: String,
}

/// How a path inside an image is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PathStyle {
    /// Windows rules, relative to the image's folder.
    WindowsRelative,
    /// Windows rules, with a drive, a share or a volume.
    WindowsAbsolute,
    /// A `file://` URL.
    Url,
    /// Whatever the writer's host used.
    Native,
}

/// Where a run of guest bytes stands, as one layer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerExtent {
    /// First guest byte.
    pub start: u64,
    /// Guest bytes, at least 1.
    pub len: u64,
    /// What they are.
    pub kind: LayerKind,
}

/// What a run of guest bytes is, as one layer knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerKind {
    /// Plain bytes in store number `store`, starting at byte `at` of it.
    Data {
        /// Index into [`Layer::stores`].
        store: usize,
        /// Byte offset in that store.
        at: u64,
    },
    /// Bytes of a compressed grain; the extent never reaches beyond that grain.
    Compressed(Grain),
    /// Zeros.
    Zero {
        /// Whether the layer's metadata says so; `false` for what nobody ever wrote.
        explicit: bool,
    },
    /// This layer has nothing to say: ask the parent. Only in layers that have one.
    Hole,
}

/// The parent a new child is made on, as every format's `create_child` needs it.
#[derive(Clone, Debug)]
pub struct ParentLink {
    /// What the parent is; its identity goes into the child.
    pub info: LayerInfo,
    /// The parent's path from the child's folder, with `/` between its parts and without a
    /// leading `./`.
    pub relative: String,
    /// The parent's absolute path on this host.
    pub absolute: PathBuf,
    /// When the parent file was last changed.
    pub modified: SystemTime,
}

/// One image file (with its extent files), open for reading.
///
/// A layer knows nothing of its parent's bytes: it answers [`LayerKind::Hole`] for them, and the
/// chain asks the parent.
pub trait Layer: Send + Sync + fmt::Debug {
    /// What it is.
    fn info(&self) -> &LayerInfo;

    /// The files it consists of; the one the user named first. Extents refer to them by index.
    fn stores(&self) -> &[Arc<dyn Store>];

    /// The extent that starts at guest byte `offset`, as long as it cheaply can be and at most up
    /// to `end`. Requires `offset < end <= virtual_size`.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) where the tables break the format's rules there (a
    /// block outside the file or inside metadata …); the host's.
    fn extent_at(&self, offset: u64, end: u64) -> Result<LayerExtent>;

    /// Inflates a whole compressed grain into `out`, which is exactly `grain.len` bytes long.
    ///
    /// # Errors
    /// [`Corrupt`](crate::ErrorKind::Corrupt) where the data does not inflate to just that.
    fn inflate(&self, grain: &Grain, out: &mut [u8]) -> Result<()> {
        let _ = (grain, out);
        Err(Error::internal("this format has no compressed grains"))
    }

    /// What [`LayerMut::compact`] would do. Nothing is written.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the variant cannot be compacted; the
    /// host's.
    fn plan_compact(&self, vacant: &Vacant) -> Result<Compaction> {
        let _ = vacant;
        Ok(Compaction::default())
    }

    /// Checks every structure of the layer and reports what breaks the format's rules.
    ///
    /// # Errors
    /// Only what keeps the check itself from going on, such as the host's.
    fn check(&self, findings: &mut Findings) -> Result<()>;
}

/// One image file, open for changing.
///
/// `below` is what the parents hold (zeros where there is no parent, and beyond the end of a
/// smaller parent it is simply shorter): needed to fill the rest of a block that is only partly
/// written.
pub trait LayerMut: Layer {
    /// Writes `data` at guest byte `offset`; any alignment.
    ///
    /// # Errors
    /// [`OutOfRange`](crate::ErrorKind::OutOfRange) beyond the end; the host's.
    fn write(&mut self, data: &[u8], offset: u64, below: &dyn Disk) -> Result<()>;

    /// Makes a guest range read as zeros, whatever the parents hold; any alignment. Gives space
    /// back where the format can.
    ///
    /// # Errors
    /// As [`LayerMut::write`].
    fn zero(&mut self, range: Range<u64>, below: &dyn Disk) -> Result<()>;

    /// Changes the virtual size in bytes; what is new reads as zero, what is cut off is gone.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the format or variant cannot.
    fn resize(&mut self, virtual_size: u64) -> Result<()>;

    /// Returns once everything written before survives a power cut.
    ///
    /// # Errors
    /// The host's; afterwards the layer refuses further writes.
    fn flush(&mut self) -> Result<()>;

    /// An identity that changed content could take; `None` where the format's identity never
    /// changes. Nothing is written.
    fn fresh_identity(&self) -> Option<String> {
        None
    }

    /// Settles under which identity the content stands from here on until the layer is closed, and
    /// returns once that is durable. Without it the first change of the content takes a random
    /// one. The present identity is a promise: what follows does not change what the guest sees,
    /// so children stay valid. Does nothing where the identity never changes.
    ///
    /// # Errors
    /// [`Usage`](crate::ErrorKind::Usage) for text that is no identity of the format; the host's.
    fn set_identity(&mut self, identity: &str) -> Result<()> {
        let _ = identity;
        Ok(())
    }

    /// Names another parent, or the same one anew. The layer's content and identity stay what they
    /// are. A power cut leaves the old link or the new one, whole; when it returns, the new one is
    /// durable, with everything written before.
    ///
    /// # Errors
    /// [`Unsupported`](crate::ErrorKind::Unsupported) where the layer has no parent, or its format
    /// cannot name this one; the host's.
    fn relink(&mut self, link: &ParentLink) -> Result<()> {
        let _ = link;
        Err(Error::unsupported("an image of this format names no parent"))
    }

    /// Gives up the allocation units that lie in `vacant` as a whole, moves those at the end of the
    /// file into the gaps in front, and cuts the file; what has no such units becomes holes of the
    /// host file. The layer reads as before, save for ranges of `vacant` that are not what it
    /// says of them. A power cut leaves the image whole, with some of it done; doing it again
    /// finishes. So it does where `watch` asks to stop, which is no error: less is done. When it
    /// returns, all of that is durable.
    ///
    /// # Errors
    /// As [`Layer::plan_compact`].
    fn compact(&mut self, vacant: &Vacant, watch: Watch<'_>) -> Result<Compaction> {
        let _ = (vacant, watch);
        Ok(Compaction::default())
    }

    /// Flushes and leaves the marks of a clean close. Not calling it (or dropping the layer) is
    /// like a power cut.
    ///
    /// # Errors
    /// The host's.
    fn close(&mut self) -> Result<()>;
}

/// Reads what a guest would read of `layer` standing on `below`, with zeros where `below` ends.
/// The plain form, for a single layer; a chain keeps caches that this does not.
///
/// # Errors
/// [`OutOfRange`](crate::ErrorKind::OutOfRange) beyond the end; those of the layer and of `below`.
pub fn read(layer: &dyn Layer, below: &dyn Disk, buf: &mut [u8], offset: u64) -> Result<()> {
    let size = layer.info().virtual_size;
    in_range(offset, buf.len() as u64, size)?;
    let end = offset + buf.len() as u64;
    let mut rest = buf;
    let mut at = offset;
    while at < end {
        let extent = layer.extent_at(at, end)?;
        let len = usize::try_from(extent.len).unwrap_or(rest.len()).min(rest.len());
        let (piece, later) = rest.split_at_mut(len);
        read_extent(layer, below, &extent, piece)?;
        rest = later;
        at += len as u64;
    }
    Ok(())
}

fn read_extent(
    layer: &dyn Layer,
    below: &dyn Disk,
    extent: &LayerExtent,
    buf: &mut [u8],
) -> Result<()> {
    match extent.kind {
        LayerKind::Data { store, at } => store_of(layer, store)?.fetch(buf, at, "guest data"),
        LayerKind::Compressed(grain) => {
            let mut whole = vec![0; usize::try_from(grain.len).unwrap_or_default()];
            layer.inflate(&grain, &mut whole)?;
            let skip = usize::try_from(extent.start - grain.start).unwrap_or(usize::MAX);
            let piece = whole.get(skip..).and_then(|rest| rest.get(..buf.len()));
            buf.copy_from_slice(
                piece.ok_or_else(|| Error::internal("an extent reaches beyond its grain"))?,
            );
            Ok(())
        }
        LayerKind::Zero { .. } => {
            buf.fill(0);
            Ok(())
        }
        LayerKind::Hole => read_padded(below, buf, extent.start),
    }
}

fn store_of(layer: &dyn Layer, index: usize) -> Result<&Arc<dyn Store>> {
    layer.stores().get(index).ok_or_else(|| Error::internal("an extent names a store it has not"))
}

/// What a file named by an image is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Access {
    /// Reading only.
    Read,
    /// Reading and writing.
    Write,
}

/// Opens the extent files that an image names, under the caller's rules of what may be opened.
pub trait Opener {
    /// Opens the file that the image calls `name`; `what` says what it is for in messages.
    ///
    /// # Errors
    /// [`ParentMissing`](crate::ErrorKind::ParentMissing) where it is not there,
    /// [`Confined`](crate::ErrorKind::Confined) where it may not be opened, the host's.
    fn open(&self, name: &str, what: &'static str, access: Access) -> Result<Arc<dyn Store>>;

    /// Where the file would be, for messages and `info`.
    fn locate(&self, name: &str) -> PathBuf {
        PathBuf::from(name)
    }
}
