//! VHDX images (\[MS-VHDX\], format version 1): open, map, write in place, resize, check, create.
//!
//! # Design
//!
//! A VHDX file is a header area of 1 MiB, a log, and regions that start at multiples of 1 MiB: the
//! metadata (what the disk is), the block allocation table, called BAT (where its blocks stand),
//! and the blocks. In a child, a sector bitmap per 4 GiB (32 GiB with sectors of 4 KiB) tells
//! which sectors of a block are in this file. Everything is little endian; GUIDs are in
//! Microsoft's mixed order.
//!
//! The crate never reads the whole table (that of 64 TiB has 512 MiB): pages are read when they
//! are needed, and holes of the host file, whose entries all say "not present", are skipped.
//! Opening and mapping an empty disk of any size takes the same time.
//!
//! Writing keeps changed metadata as 4 KiB pages in memory, [`LayerMut::flush`] makes them durable
//! in one step through the log, and a power cut between any two writes leaves a file that opens
//! with all that was flushed. Guest data never goes through the log.
//!
//! | module | \[MS-VHDX\] | is |
//! | --- | --- | --- |
//! | `crc` | 2.2.2 | the checksum |
//! | `header` | 2.2.1, 2.2.2 | file identifier, headers, which of the two counts |
//! | `region` | 2.2.3 | region tables |
//! | `metadata`, `locator` | 2.2.6 | what the disk is; where its parent is |
//! | `log`, `replay` | 2.3 | log entries; what a waiting log does to the file |
//! | `bat`, `bitmap` | 2.4, 2.5 | arithmetic of the table; runs of bits |
//! | `map` | 2.4, 2.5 | where each guest byte stands |
//! | `open`, `check` | | [`open()`], [`VhdxLayer`]; all rules again, with stable codes |
//! | `repair` | | mending what has one right answer; giving back what nothing uses |
//! | `journal`, `session`, `space`, `writer` | 2.2.2, 2.3 | how changes become durable; free space |
//! | `write`, `resize`, `compact`, `relink` | | the changes |
//! | `create`, `child` | | new images |
//!
//! # Invariants
//!
//! * Opening for reading changes nothing; a waiting log is replayed in memory. No log is ignored.
//! * A log is applied only after all of it was found valid and harmless.
//! * Every entry of the table is checked when it is used; a block beyond the file's end or among
//!   the metadata is an error, never zeros.
//! * The file write GUID changes before the first change of a session, and the data write GUID,
//!   by which children know their parent, before the first change of the content. Replaying a
//!   log changes only the former.
//! * Metadata that refers to bytes is durable only after those bytes. What is given up is reused
//!   only after the metadata that gave it up is durable, and is zeroed before it is reused.
//! * Both region tables and both headers are kept valid and alike, because some readers look at
//!   one copy only.
//!
//! # What is not here
//!
//! Finding and opening parents (the `vdisk` crate does that), shared disks (VHD sets), resizing
//! of children, the persistent-memory label area.
//!
//! # Example
//!
//! ```
//! use vdisk_core::disk::ZeroDisk;
//! use vdisk_core::{Access, Layer, LayerKind, LayerMut, MemFiles};
//! use vdisk_vhdx::{CreateOptions, OpenOptions, create, open};
//!
//! # fn main() -> vdisk_core::Result<()> {
//! let mut files = MemFiles::new("disk.vhdx");
//! create(&mut files, &CreateOptions::new(1 << 40))?.finish()?;
//! let store = files.get("disk.vhdx").expect("just made");
//!
//! let options = OpenOptions { access: Access::Write, ..OpenOptions::default() };
//! let mut layer = open(store.clone(), &options)?;
//! layer.write(b"hello", 5 << 30, &ZeroDisk(0))?;
//! layer.close()?;
//!
//! let layer = open(store, &OpenOptions::default())?;
//! let before = layer.extent_at(0, 1 << 40)?;
//! assert_eq!((before.len, before.kind), (5 << 30, LayerKind::Zero { explicit: false }));
//! let mut word = [0; 5];
//! vdisk_core::layer::read(&layer, &ZeroDisk(0), &mut word, 5 << 30)?;
//! assert_eq!(&word, b"hello");
//! # Ok(())
//! # }
//! ```
//!
//! [`LayerMut::flush`]: vdisk_core::LayerMut::flush

mod bat;
mod bitmap;
mod check;
mod child;
mod compact;
mod crc;
mod create;
mod header;
mod journal;
mod locator;
mod log;
mod map;
mod metadata;
mod open;
mod region;
mod relink;
mod repair;
mod replay;
mod resize;
mod session;
mod space;
mod write;
mod writer;

pub use child::{ChildOptions, create_child};
pub use create::{CreateOptions, Ids, create, file_size};
pub use open::{OpenOptions, VhdxLayer, open, probe};
pub use repair::{mend, reclaim};

/// The largest virtual size in bytes: 64 TiB.
pub const MAX_SIZE: u64 = 64 << 40;

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Smallest block, bytes.
const MIN_BLOCK: u64 = MIB;
/// Largest block, bytes.
const MAX_BLOCK: u64 = 256 * MIB;
/// The longest file that is written to or that a log may ask for, bytes. A full disk of 64 TiB
/// with all its tables stays far below.
const MAX_FILE: u64 = 128 << 40;
