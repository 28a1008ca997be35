//! Physical to virtual: the disks of a machine become images.
//!
//! # Design
//!
//! | to | use |
//! | --- | --- |
//! | list the machine's disks, and what uses them | [`Machine`], [`DiskInfo`] |
//! | copy a disk into a new image, or all disks of a machine | [`capture()`], [`capture_together`] |
//!
//! A capture is a conversion (the `vdisk` crate's engine moves the bytes) of a source that may fail
//! and a job that may be cut off. Bad sectors are left for the end, tried again one by one, and
//! what is lost is zeros in the image and named in a map. Every so many bytes the image is flushed
//! and a state file says how far it is; the same call later goes on there.
//!
//! # Module map
//!
//! * `disks` reads `/sys` and `/proc`: what each disk is, what stands on it and is mounted.
//! * `capture` is the job; `capture/place` the hidden folder in which the image grows.
//! * `rescue` reads what fails; `mapfile` writes down what is lost; `pace` holds the rate.
//! * `live` holds still the file systems of a disk in use.
//! * `state` and `fingerprint` are what a job leaves for the next run, and how that one knows that
//!   the disk is still the same.
//!
//! # Invariants
//!
//! * The source is opened for reading only.
//! * An image appears under its name when it is complete, prepared, and flushed.
//! * Only what the host calls a fault of the medium becomes zeros; a disk that is gone, damage of
//!   an image, a lack of rights are errors.
//! * What was frozen is thawed, however the job ends.
//!
//! # What is not here
//!
//! Making the image boot elsewhere (`vdisk-fixup`), the VM's definition, the command line.
//!
//! # Example
//!
//! ```
//! use std::sync::Arc;
//! use vdisk::{Disk, Format, NewImage, OpenOptions, Ranges, Watch};
//! use vdisk_p2v::{CHECKPOINT, Capture, RETRIES, capture};
//!
//! # fn main() -> vdisk::Result<()> {
//! # let folder = tempfile::tempdir().unwrap();
//! # let (device, target) = (folder.path().join("sda"), folder.path().join("vm.vhdx"));
//! # std::fs::write(&device, [7; 1 << 16]).unwrap();
//! let disk = OpenOptions::new().format(Format::Raw).open(&device)?;
//! let request = Capture {
//!     new: NewImage::new(Format::Vhdx, disk.len()),
//!     source: Arc::new(disk),
//!     source_path: Some(device),
//!     inputs: Vec::new(),
//!     sector: 512,
//!     target,
//!     options: String::new(),
//!     skip: Ranges::new(),
//!     rate_limit: None,
//!     retries: RETRIES,
//!     checkpoint: CHECKPOINT,
//!     threads: vdisk::default_threads(),
//!     overwrite: false,
//!     restart: false,
//! };
//! let report = capture(&request, |_image| Ok(()), Watch::default())?;
//! assert_eq!(report.bad.count(), 0);
//! # Ok(())
//! # }
//! ```

pub mod capture;
pub mod disks;
mod fingerprint;
pub mod live;
mod machine;
mod mapfile;
mod pace;
mod rescue;
pub mod state;

pub use capture::{CHECKPOINT, Capture, CaptureReport, RETRIES, capture, capture_together};
pub use disks::{DiskInfo, Machine, PartitionInfo, Use};
pub use fingerprint::fingerprint;
pub use live::{Frozen, Held, Hold};
pub use machine::MachineSize;
pub use pace::Paced;
