//! What is inside a disk image: file systems, found, read and changed without mounting anything,
//! and the operating systems on them.
//!
//! # Design
//!
//! A volume is a [`Disk`](vdisk_core::Disk): a whole image, or a
//! [`Window`](vdisk_core::Window) of one. [`fs::open`] recognises what is on it and gives a
//! [`GuestFs`](fs::GuestFs); [`fs::open_mut`] takes a [`CowDisk`](vdisk_core::CowDisk) and gives a
//! [`GuestFsMut`](fs::GuestFsMut), whose changes are in that disk's memory alone: carrying them to
//! the image in one step that a power cut cannot tear is another part's work.
//!
//! The file systems themselves, but for the reading of NTFS, are other people's crates, young ones,
//! so nothing they do is taken on trust:
//!
//! | file | does |
//! | --- | --- |
//! | `fs/mod.rs` | the interface |
//! | `fs/{ntfs,ext,xfs,btrfs,fat}.rs` | one adapter a crate |
//! | `fs/device.rs`, `guard.rs` | reads inside the disk only, a bound on each operation, panics caught |
//! | `fs/resolve.rs` | links, followed inside the volume only |
//! | `fs/edit.rs` | a change is made on a copy, read back by a fresh reader, then kept |
//! | `fs/recognise.rs` | which adapter reads a volume |
//! | `ntfs/` | NTFS, read by ourselves; its adapter uses a crate for changes only |
//! | `journal/` | the journal of ext3 and ext4, replayed; the log of a frozen XFS, ended |
//! | `location.rs` | `IMAGE:PARTITION:/path` |
//! | `extract.rs` | files and trees to the host |
//!
//! On them stands [`inspect()`], which tells what machine lives on a disk:
//!
//! | file | does |
//! | --- | --- |
//! | `inspect.rs` | goes through partitions and logical volumes |
//! | `inventory.rs` | what is told, as data |
//! | `boot.rs` | what a firmware can start |
//! | `windows/` | the registry's hives, each by itself |
//! | `linux/` | distribution, kernels, initramfs, fstab |
//! | `shared.rs` | what several machines share and should not |
//! | `tree.rs`, `notes.rs` | looking up files; damage is noted, and the rest told |
//!
//! # Invariants
//!
//! * No path and no link of a volume makes anybody read the host, or write elsewhere than where
//!   the caller said.
//! * An operation ends: what it may read is bounded by the volume's size.
//! * A change is kept whole, after it was read back, or not at all.
//! * A volume that was not closed in order is read, but never changed.
//!
//! # What is not here
//!
//! The image formats; partition tables (`vdisk-parts`); replay of other journals than ext's onto the
//! disk, but for what a freeze leaves in that of XFS.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use vdisk_core::CowDisk;
//! use vdisk_guest::fs::{self, Edit, GuestFs, Unix};
//! # use vdisk_testkit::VecDisk;
//!
//! # fn main() -> vdisk_core::Result<()> {
//! # let mut bytes = std::io::Cursor::new(vec![0; 1 << 20]);
//! # fatfs::format_volume(&mut bytes, fatfs::FormatVolumeOptions::new()).unwrap();
//! # let partition = VecDisk(bytes.into_inner());
//! let disk = Arc::new(CowDisk::new(Arc::new(partition), 16 << 20));
//! let mut volume = fs::open_mut(disk.clone())?.expect("a file system");
//! let unix = Unix { mode: 0o644, uid: 0, gid: 0 };
//! volume.apply(&Edit::Create { path: b"/startup.nsh", content: b"boot", unix })?;
//! assert_eq!(volume.read(b"/STARTUP.NSH", 1024)?, b"boot");
//! // The partition itself is as it was; this is what would change in it.
//! assert!(!disk.changes()?.is_empty());
//! # Ok(())
//! # }
//! ```

mod boot;
pub mod extract;
pub mod free;
pub mod fs;
mod inspect;
pub mod inventory;
pub mod journal;
mod linux;
pub mod location;
mod notes;
pub mod ntfs;
mod shared;
mod tree;
pub mod windows;

pub use extract::{Extracted, extract, extract_at_most};
pub use inspect::{inspect, inspect_together};
pub use inventory::Inventory;
pub use location::{Location, Place};
pub use shared::{Shared, shared};
