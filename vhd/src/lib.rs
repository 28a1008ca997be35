//! VHD images: reading, writing in place, making, checking.
//!
//! The format is Microsoft's *Virtual Hard Disk Image Format Specification* 1.0 (2006), which
//! qemu calls `vpc`. All numbers in a file are big-endian, unique ids are in RFC 4122 order.
//!
//! # Design
//!
//! A VHD is one file, and [`VhdLayer`] is that file open: a [`Layer`](vdisk_core::Layer), and a
//! [`LayerMut`](vdisk_core::LayerMut) where it was opened for writing. There are three kinds:
//!
//! ```text
//! fixed         [ guest bytes …                              ][ footer ]
//! dynamic       [ footer copy ][ header ][ table ][ blocks … ][ footer ]
//! differencing  [ footer copy ][ header ][ table ][ locators ][ blocks … ][ footer ]
//! block         [ sector bitmap, to a sector's end ][ data ]
//! ```
//!
//! | specification | module |
//! | --- | --- |
//! | Hard Disk Footer Format | `footer`, `geometry` (CHS), `time` (time stamps) |
//! | the two places of the footer | `footers`: finding it, [`probe`], [`fixed_end`] |
//! | Dynamic Disk Header Format | `header`, `locator` (parent locators) |
//! | none: tapdisk's map behind the table | `batmap` |
//! | Block Allocation Table and Data Blocks | `bat`, `bitmap`, `shape` (lengths and places) |
//! | Implementing a Dynamic Disk, a Differencing Disk | `sparse` (reading), `write`, `resize`, `compact` |
//!
//! and, across those: `open`, `facts` (what `info` shows), `create`, `child`, `parent` and `relink`
//! (what a child records), `check`, `repair`.
//!
//! # Invariants
//!
//! * Where guest bytes stand has one answer, [`extent_at`](vdisk_core::Layer::extent_at); reads
//!   are built on it. It honours the sector bitmap in dynamic disks too: a sector that is not
//!   present reads as zero there.
//! * A table entry is used only after the block was found to lie inside the file and outside the
//!   image's own structures. Memory is bounded: tables and bitmaps go through small caches.
//! * The disk's size is the footer's current size ([`SizeBy`] has the other rule). What is written
//!   shows that size to every reader, whichever rule it follows.
//! * New blocks start their *data* at a multiple of 4 KiB, the bitmap right before it. In a
//!   dynamic disk the whole bitmap is set and the block is zero where it was not written, so that
//!   programs which ignore bitmaps see the same. In a differencing disk whole bitmap bytes
//!   (8 sectors, 4 KiB) are filled and set, for libvhdi misreads others.
//! * A power cut at any time leaves an image that opens, with everything that was flushed; see
//!   the order of writes in `write`. Zeroing a dynamic disk gives space back as holes in the
//!   blocks, never by taking blocks out of the file; only shrinking and compacting do that, and move
//!   blocks to cut the file.
//!
//! # Not here
//!
//! Finding and opening parents (the chain does that), undo disks, the old split files.
//!
//! # Example
//!
//! ```
//! use vdisk_core::disk::ZeroDisk;
//! use vdisk_core::{Access, Layer, LayerMut, MemFiles};
//! use vdisk_vhd::{CreateOptions, OpenOptions, create, open};
//!
//! # fn main() -> vdisk_core::Result<()> {
//! let mut files = MemFiles::new("disk.vhd");
//! create(&mut files, &CreateOptions::new(64 << 20))?.finish()?;
//!
//! let store = files.get("disk.vhd").unwrap();
//! let mut disk = open(store, &OpenOptions { access: Access::Write, ..OpenOptions::default() })?;
//! assert_eq!(disk.info().virtual_size, 64 << 20);
//!
//! let nothing_below = ZeroDisk(64 << 20);
//! disk.write(b"boot", 510, &nothing_below)?;
//! disk.close()?;
//!
//! let mut sector = [0; 8];
//! vdisk_core::layer::read(&disk, &nothing_below, &mut sector, 508)?;
//! assert_eq!(&sector, b"\0\0boot\0\0");
//! # Ok(())
//! # }
//! ```

mod bat;
mod batmap;
mod bitmap;
mod check;
mod child;
mod compact;
mod create;
mod facts;
mod footer;
mod footers;
mod geometry;
mod header;
mod locator;
mod open;
mod parent;
mod relink;
mod repair;
mod resize;
mod shape;
mod sparse;
mod time;
mod write;

pub use child::{ChildOptions, create_child};
pub use create::{
    CreateOptions, DEFAULT_BLOCK_SIZE, MAX_LARGE_SIZE, MAX_SIZE, Subformat, create, file_size,
};
pub use footers::{FixedEnd, fixed_end, probe};
pub use open::{OpenOptions, SizeBy, VhdLayer, open};
pub use repair::{mend, reclaim};
