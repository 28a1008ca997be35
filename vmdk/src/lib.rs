//! VMDK: reading, writing and checking VMware virtual disks (Virtual Disk Format 5.0).
//!
//! # Design
//!
//! A disk is a *descriptor*, a text that names *extents*: files that each serve a stretch of the
//! guest's bytes. The text has a file of its own or stands inside the only extent. An extent is
//! flat, or holds *grains* that two levels of tables find: a grain directory names grain tables,
//! these name grains. [`open`] puts that together into a [`VmdkLayer`], which answers where guest
//! bytes stand; [`create`] hands out places for those of a new disk.
//!
//! | specification | module |
//! | --- | --- |
//! | "The Descriptor File" | `descriptor`, `extent_line`; new ones `template` |
//! | "Hosted Sparse Extents": header | `header` |
//! | "Grain Directory and Grain Table" | `tables`: one walker for hosted, COWD and seSparse |
//! | "Hosted Sparse Extents" | `hosted`; changing them `allocate`, `resize` |
//! | "ESX Server Sparse Extents" (COWD) | `cowd` |
//! | seSparse (undocumented) | `sesparse` |
//! | "Stream-Optimized Compressed Sparse Extents" | `marker`, `stream`, `codec` |
//!
//! | what is done | module |
//! | --- | --- |
//! | recognising, opening, reading | `probe`, `open`, `facts`, `extent`, `layer` |
//! | changing in place | `write`, and `allocate`, `resize` and `compact` for grains; `relink` |
//! | new images and children | `create` |
//! | checking | `check`, `check_grains`, `check_stream`; mending `repair` |
//!
//! # Invariants
//!
//! * Sizes and offsets are bytes inside the crate; sectors become bytes, checked, where a
//!   structure is read.
//! * An entry is checked when it is used: a grain in metadata or beyond the file's end is an
//!   error, never zeros. What an image claims to be never decides how much memory is taken.
//! * A hosted file is changed so that a power cut at any point leaves at worst unused space: new
//!   grains go behind everything, and are flushed before the tables that show them; tables before
//!   the directory. Both copies of the tables are kept. A place is used for another grain only by
//!   `compact`, after both copies of every table were seen to agree, and the entry that led there
//!   is gone from both: so no stale table can show foreign bytes.
//! * The first change in a session gives the content a new id (CID) before any guest byte moves.
//!   All changes of the descriptor but those of a resize keep its length, so that each is one
//!   write of a few bytes.
//! * A file with an entry that breaks the rules is not opened for writing.
//! * Version 1 has no entry for zeros, and libvmdk takes none: over a parent, zeros are a grain
//!   that is a hole of the host file. Files that announce zero grains get those.
//! * New sparse files have all their tables: qemu destroys files in which one is missing.
//!
//! # What is not here
//!
//! Chains: a grain that a delta has not is a [`Hole`](vdisk_core::LayerKind::Hole). Writing to
//! compressed, COWD and seSparse extents. Raw device mappings. Change tracking files: they are
//! withdrawn at the first change.
//!
//! # Example
//!
//! ```
//! use vdisk_core::disk::ZeroDisk;
//! use vdisk_core::{Layer, MemFiles, StoreExt, layer};
//! use vdisk_vmdk::{CreateOptions, OpenOptions, create, open};
//!
//! # fn main() -> vdisk_core::Result<()> {
//! // A new disk of 1 GiB with one grain of data.
//! let mut files = MemFiles::new("disk.vmdk");
//! let mut writer = create(&mut files, &CreateOptions::new(1 << 30))?;
//! let place = writer.place(0..512)?;
//! place.store.put(&[0x55; 512], place.at, "guest data")?;
//! writer.finish()?;
//!
//! // It is opened by its main file; extents are opened through the folder.
//! let store = files.get("disk.vmdk").expect("it was just made");
//! let disk = open(store, &files, &OpenOptions::default())?;
//! assert_eq!(disk.info().subformat, "monolithicSparse");
//! let mut sector = [0; 512];
//! layer::read(&disk, &ZeroDisk(0), &mut sector, 0)?;
//! assert_eq!(sector, [0x55; 512]);
//! // All after the first grain is zeros that nobody wrote, and one extent says so.
//! assert_eq!(disk.extent_at(65536, 1 << 30)?.len, (1 << 30) - 65536);
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

mod allocate;
mod check;
mod check_grains;
mod check_stream;
mod codec;
mod compact;
mod cowd;
mod create;
mod descriptor;
mod extent;
mod extent_line;
mod facts;
mod header;
mod hosted;
mod layer;
mod marker;
mod open;
mod probe;
mod relink;
mod repair;
mod resize;
mod sesparse;
mod stream;
mod tables;
mod template;
mod unit;
mod write;

pub use create::{
    AdapterType, ChildOptions, CreateOptions, MAX_SIZE, Subformat, create, create_child, file_size,
};
pub use layer::VmdkLayer;
pub use open::{OpenOptions, open};
pub use probe::probe;
pub use repair::{mend, reclaim};
