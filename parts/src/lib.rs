//! Partition tables and logical volumes: where on a disk the volumes stand, and what they are.
//!
//! # Design
//!
//! Everything here reads a [`Disk`](vdisk_core::Disk) and writes nothing; what is to be changed
//! comes out as [`Change`](vdisk_core::Change)s.
//!
//! | to | use |
//! | --- | --- |
//! | list the partitions of a disk | [`Table::read`] |
//! | read one of them | [`Partition::open`] |
//! | tell what stands there | [`recognise()`] |
//! | find and open logical volumes | [`lvm::scan`] |
//! | change a table | [`Edit`] |
//!
//! # Module map
//!
//! * `table` chooses between the kinds of tables and checks what they all can break; `gpt` and
//!   `mbr` read one kind each; `types` names what partitions are for.
//! * `edit` changes a table in memory and tells which bytes differ.
//! * `recognise` tells volumes by their magic numbers.
//! * `lvm` has a part each for physical volumes, the text of the metadata, what it means, and
//!   logical volumes as disks.
//! * `block` and `crc` are what these share.
//!
//! # Invariants
//!
//! * All offsets and lengths are bytes; [`Table::sector_size`] says what the table counts in.
//! * A table that breaks a rule is still read as far as possible, and [`Table::findings`] tells
//!   which rule. What is no more to be trusted, such as two damaged copies of a GPT, is an error.
//! * Nothing is read through what does not exist: a partition that reaches beyond the disk is cut,
//!   and a read behind its end fails.
//! * Memory is bounded by constants here, never by what a disk claims.
//!
//! # What is not here
//!
//! File systems (`vdisk-guest`), volumes of dynamic disks and storage pools (they are named only),
//! encryption.
//!
//! # Example
//!
//! List the partitions of a disk:
//!
//! ```
//! use vdisk_core::Disk;
//! use vdisk_parts::{Table, recognise};
//!
//! /// The partitions of a disk with sectors of 512 bytes, a line each.
//! fn list(disk: std::sync::Arc<dyn Disk>) -> vdisk_core::Result<Vec<String>> {
//!     let table = Table::read(&*disk, 512)?;
//!     for finding in &table.findings {
//!         eprintln!("{}: {}", finding.code, finding.message);
//!     }
//!     let mut lines = Vec::new();
//!     for partition in &table.partitions {
//!         let volume = recognise(&partition.open(disk.clone())?)?;
//!         lines.push(format!(
//!             "{} at {}, {} bytes, {}: {}",
//!             partition.number,
//!             partition.start,
//!             partition.len,
//!             partition.kind.name().unwrap_or("unknown"),
//!             volume.map_or("nothing known".into(), |volume| volume.kind.to_string()),
//!         ));
//!     }
//!     Ok(lines)
//! }
//! # let empty = std::sync::Arc::new(vdisk_core::disk::ZeroDisk(1 << 20));
//! # assert_eq!(list(empty)?, Vec::<String>::new());
//! # Ok::<(), vdisk_core::Error>(())
//! ```

mod block;
mod crc;
pub mod edit;
mod gpt;
pub mod lvm;
mod mbr;
pub mod recognise;
pub mod table;
pub mod types;

pub use edit::Edit;
pub use recognise::{Volume, VolumeKind, recognise};
pub use table::{DiskId, Partition, Table, TableKind};
pub use types::{PartitionType, Role};
