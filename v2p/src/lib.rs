//! Virtual to physical: an image becomes the disk of a machine.
//!
//! # Design
//!
//! | to | use |
//! | --- | --- |
//! | find the disk, if it may be overwritten at all | [`choose`] |
//! | insist that the user means it | [`confirm`] |
//! | see how the image will fit | [`plan`] |
//! | write | [`write()`] |
//! | have this machine's UEFI start it | [`add_boot_entry`] |
//!
//! What the disk will be is settled first, in memory, over the image: the partition table made to
//! fit, and whatever [`write()`]'s caller has to change (drivers, boot configuration). That is kept
//! in a folder of the job, so that a run that was cut off goes on with just the same. Then the
//! bytes are written in order, zeros without moving any where the disk can do that, flushed every
//! so often, and read back.
//!
//! # Module map
//!
//! * `target`: which disks may be overwritten.
//! * `fit`: larger, smaller, other sectors; `fit/tools` runs the host's programs for file systems.
//! * `boot_entry` writes to the variables of the firmware.
//! * `write` is the job; `place` what it leaves for the next run.
//! * `samples`: whether a disk still holds what an earlier run wrote.
//! * `resized`: disks cut, padded and put together.
//!
//! # Invariants
//!
//! * The image is only read. A file system is made smaller in a copy.
//! * A disk that anything uses is refused, by looking and by opening it for oneself alone.
//! * A disk left half written has no partition table.
//! * File systems are grown on the disk once it is verified; a run cut off there writes anew.
//!
//! # What is not here
//!
//! What makes the guest start on other hardware (`vdisk-fixup`), the command line.
//!
//! # Example
//!
//! ```no_run
//! use std::path::PathBuf;
//! use std::sync::Arc;
//! use vdisk::{Image, Watch};
//! use vdisk_p2v::{CHECKPOINT, Machine};
//! use vdisk_v2p::{FitOptions, WriteRequest, choose, confirm, write};
//!
//! # fn main() -> vdisk::Result<()> {
//! let device = choose(&Machine::default(), "/dev/sdb".as_ref())?;
//! confirm(&device, Some("S64DNX0"))?;
//! let request = WriteRequest {
//!     image: Arc::new(Image::open("vm.vhdx")?),
//!     sector: 512,
//!     image_id: "vm.vhdx of Monday".to_owned(),
//!     device,
//!     fit: FitOptions { grow: true, shrink: false },
//!     options: String::new(),
//!     state: PathBuf::from(".vm.vhdx.vdisk-v2p"),
//!     rate_limit: None,
//!     verify: true,
//!     checkpoint: CHECKPOINT,
//!     restart: false,
//! };
//! write(&request, |_disk| Ok(Vec::new()), Watch::default())?;
//! # Ok(())
//! # }
//! ```

mod boot_entry;
mod fit;
mod place;
mod resized;
mod samples;
mod target;
mod write;

pub use boot_entry::{VARIABLES, add_boot_entry, insist_on_variables};
pub use fit::FitOptions;
pub use target::{choose, confirm};
pub use write::{FitPlan, WriteReport, WriteRequest, plan, write};
