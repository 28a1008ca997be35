//! Open, read, create, compare and convert disk images: raw, VHD, VHDX and VMDK, with their
//! snapshot chains.
//!
//! # Design
//!
//! The format crates say where guest bytes stand; this crate finds the files, joins layers into
//! chains, and moves the bytes.
//!
//! * [`OpenOptions`] and [`Image`]: one call opens any image with its whole chain. The format is
//!   [probed](probe()) by content; parents and extents are opened through a `gate` that keeps
//!   hostile paths inside the folders the caller allows, and are checked by the identity the
//!   format keeps for them.
//! * [`Disk`]: what an [`Image`] is: reads at an offset from many threads at once, and the map of
//!   its [extents](Disk::extents).
//! * [`convert()`], [`convert_to_child`], [`convert_into`] over one copy engine ([`copy`]);
//!   [`compare()`], [`checksum()`], [`measure`], [`check()`], [`map`], [`info`]: the commands of
//!   the program `vdisk`, as functions.
//! * [`commit()`] and [`rebase()`] change chains in place, links last: a run that is cut off loses
//!   nothing, and the next one finishes it. [`compact()`] gives back what an image stores without
//!   need, in the same way.
//! * [`repair()`] mends what has one right answer, proven before a byte moves; [`undo_repair`] is
//!   the way back.
//! * [`Progress`] hears how long jobs go; [`Cancel`] stops them.
//!
//! # Invariants
//!
//! * What is opened for reading is never written, not even to replay a log.
//! * A new image appears under its name only when it is complete and flushed.
//! * An output is never one of the inputs.
//! * Memory is bounded by threads times a few megabytes, whatever the image's size.
//!
//! # What is not here
//!
//! Anything inside the disk (partitions, file systems, guests); the command line; asynchronous
//! interfaces: the calls block, and threads may share an [`Image`].
//!
//! # Example
//!
//! ```
//! use vdisk::{CopyOptions, Disk, Format, Image, ImageMut, NewImage, OpenOptions, Watch};
//!
//! # fn main() -> vdisk::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let folder = folder.path();
//! // An empty dynamic VHDX of 64 MiB, with something in it.
//! let disk = folder.join("disk.vhdx");
//! vdisk::create(&disk, &NewImage::new(Format::Vhdx, 64 << 20), false)?;
//! let mut writable: ImageMut = OpenOptions::new().open_rw(&disk)?;
//! writable.write_at(b"hello", 1 << 20)?;
//! writable.close()?;
//!
//! // Any image, whatever its format, is a disk.
//! let image = Image::open(&disk)?;
//! let mut bytes = [0; 5];
//! image.read_at(&mut bytes, 1 << 20)?;
//! assert_eq!(&bytes, b"hello");
//!
//! // And becomes any other.
//! let copy = folder.join("copy.vmdk");
//! let new = NewImage::new(Format::Vmdk, image.len());
//! vdisk::convert(&image, &copy, &new, false, &CopyOptions::default(), Watch::default())?;
//! let same = vdisk::compare(&image, &Image::open(&copy)?, 2, Watch::default())?;
//! assert!(same.identical);
//! # Ok(())
//! # }
//! ```

#![cfg_attr(test, allow(clippy::cast_possible_truncation))]

mod chain;
mod check;
mod checksum;
mod commit;
mod compact;
mod compare;
mod convert;
mod create;
mod edit;
mod gate;
mod journal;
mod locks;
mod names;
mod open;
mod options;
mod pair;
mod parallel;
mod probe;
mod raw;
mod readahead;
mod rebase;
mod repair;
mod report;
mod resize;
mod siblings;
mod sidefile;
mod size;
mod windows;

pub use chain::Chain;
pub use check::check;
pub use checksum::{Algorithm, checksum};
pub use commit::{CommitReport, CommitRequest, commit};
pub use compact::{CompactReport, CompactRequest, compact};
pub use compare::{Comparison, MOST_RANGES, compare};
pub use convert::{
    Checkpoints, CopyOptions, CopyReport, Watch, ZeroSearch, copy, copy_differences, copy_into,
    copy_into_by_steps,
};
pub use create::{
    ChildTarget, IntoTarget, Measure, convert, convert_into, convert_to_child, create,
    create_child, measure, refuse_input,
};
pub use edit::{
    EditOf, EditReport, UndoOf, edit, edit_together, edit_undoable, finish_edit, undo_edit,
    undo_together,
};
pub use gate::Gate;
pub use open::{Image, ImageMut, LayerFile, OpenOptions};
pub use options::{NewImage, OptionHelp, format_of_name, option_list, parse_format};
pub use parallel::default_threads;
pub use probe::probe;
pub use raw::{RawLayer, RawWriter};
pub use rebase::{RebaseReport, RebaseRequest, rebase};
pub use repair::{ChangeReport, RepairRequest, repair, undo_repair};
pub use report::{
    CheckReport, Child, FactValue, FindingReport, Info, MapEntry, MendReport, info, map,
};
pub use resize::{ResizeRequest, resize};
pub use size::{human_size, parse_size};
pub use vdisk_core::repair::Scope;
pub use vdisk_core::{
    Cancel, Change, Disk, Error, ErrorKind, Extent, ExtentKind, Extents, Fact, Finding, Findings,
    Format, Host, HostFile, ImageWriter, Layer, LayerInfo, Masked, NoProgress, Progress, Ranges,
    Result, Severity, Store, write_file,
};
