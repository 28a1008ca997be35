//! The vocabulary that every vdisk crate shares.
//!
//! # Design
//!
//! A disk image is looked at through four small traits, each one idea:
//!
//! | trait | is | implemented by |
//! | --- | --- | --- |
//! | [`Store`] | bytes on the host at an offset | [`HostFile`], [`MemStore`], test doubles |
//! | [`Layer`] / [`LayerMut`] | one image file: *where* each guest byte stands | the format crates |
//! | [`Disk`] | what a guest would read: a whole chain | the `vdisk` crate's `Chain` |
//! | [`ImageWriter`] | a new image being made: *where* each guest byte shall go | the format crates |
//!
//! A format crate **translates, it does not copy**. [`Layer::extent_at`] says where guest bytes
//! stand, and reading is built on that answer in one place, so the extent map and the reads of a
//! format cannot disagree, and whoever moves the bytes is free to let the kernel do it.
//!
//! # Invariants
//!
//! * Everything is in bytes, as `u64`, unless a name says sectors.
//! * Reading takes `&self` and may happen on many threads at once; changing takes `&mut self`.
//! * `Hole` ("ask my parent") exists only in [`LayerKind`]; a [`Disk`] never shows one, so nobody
//!   can forget the parent.
//! * A read past the end is an error, never a short read and never zeros.
//! * Nothing in this crate opens a path found inside an image. Formats ask an [`Opener`] for the
//!   files they name and a [`Files`] for those they create.
//!
//! # What is not here
//!
//! Formats, chains, probing, threads, JSON, the command line.
//!
//! # Example
//!
//! ```
//! use vdisk_core::{MemStore, Store, StoreExt};
//!
//! # fn main() -> vdisk_core::Result<()> {
//! let store = MemStore::new("example");
//! store.put(b"conectix", 512, "footer")?;
//! let mut cookie = [0; 8];
//! store.fetch(&mut cookie, 512, "footer")?;
//! assert_eq!(&cookie, b"conectix");
//! // Reading what is not there is an error that says where.
//! let error = store.fetch(&mut cookie, 4096, "block table").unwrap_err();
//! assert_eq!(error.offset(), Some(4096));
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

pub mod check;
pub mod compact;
pub mod cow;
pub mod disk;
pub mod error;
pub mod folder;
mod hex;
pub mod host;
pub mod job;
pub mod layer;
mod lock;
pub mod mask;
pub mod mem;
pub mod output;
pub mod overlay;
pub mod ranges;
pub mod recorder;
pub mod repair;
pub mod store;
pub mod table;
pub mod window;
pub mod writer;
pub mod zeros;

pub use check::{Claims, Finding, Findings, Severity};
pub use compact::{Compaction, Packing, Vacant};
pub use cow::{Change, CowDisk};
pub use disk::{Disk, Extent, ExtentKind, Extents, Grain};
pub use error::{Error, ErrorKind, Result};
pub use folder::{Host, RealHost};
pub use hex::hex;
pub use host::HostFile;
pub use job::{Cancel, NoProgress, Progress, Watch};
pub use layer::{
    Access, Fact, Format, Layer, LayerExtent, LayerInfo, LayerKind, LayerMut, Opener, ParentHint,
    ParentLink, ParentRef, PathStyle,
};
pub use lock::LockedFile;
pub use mask::Masked;
pub use mem::{MemFiles, MemStore};
pub use output::{Files, Output, move_into_place, refuse_taken, refuse_used, write_file};
pub use overlay::OverlayStore;
pub use ranges::Ranges;
pub use recorder::Recorder;
pub use repair::{Mend, Mends};
pub use store::{Run, Store, StoreExt, whole_pages};
pub use table::PagedTable;
pub use window::Window;
pub use writer::{Encoder, ImageWriter, Placement};
