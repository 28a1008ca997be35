//! Windows registry hives: read, recover, check, edit.
//!
//! # Design
//!
//! A [`Hive`] is the bytes of a hive file in memory; no function here opens a file. It is opened
//! with its transaction logs by [`Hive::recover`], for a copy from a running machine is nearly
//! always dirty, or alone by [`Hive::parse`]. [`Key`], [`Value`] and [`Security`] are views into
//! those bytes: reading copies nothing but names and data in segments.
//!
//! | module | is |
//! | --- | --- |
//! | `base` | the base block: sequence numbers, sizes, checksum |
//! | `image` | bins and cells, and which cells are allocated |
//! | `node` | the cells of keys, values and security descriptors |
//! | `list` | lists of sub-keys (`li`, `lf`, `lh`, `ri`) and of values |
//! | `hive`, `key`, `value` | the tree, for callers |
//! | `name`, `upcase` | names, their order, hashes and hints as Windows computes them |
//! | `log`, `marvin`, `recover` | transaction logs of both generations, and replaying them |
//! | `check` | every rule of the format, with a code for each |
//! | `edit` | [`Editor`]: values, keys, names, classes, security descriptors; free cells and new bins |
//! | `changes` | what an edit changes in the file, page by page |
//!
//! # Invariants
//!
//! * Nothing that a hive or log holds makes this crate panic, loop for ever, or take more memory
//!   than a small multiple of what it was given.
//! * When a hive is open its bins and cells are sound, and every reference must lead to the start
//!   of an allocated cell: cells cannot overlap.
//! * Walking down from the root visits each key at most once (see [`Key`]).
//! * An edit is made in memory, each call whole or not at all, and its bytes are given away only
//!   after a walk through all of the new hive found no rule broken.
//! * A hive that is dirty or damaged is read as far as it can be, and never edited.
//! * Names keep lone surrogates, values keep any type number and any data.
//! * Offsets in errors are bytes from the start of the file.
//!
//! # What is not here
//!
//! Files, the meaning of keys (which control set is current, what a SID is), the volatile part of
//! the registry, hives of NT 3 (versions below 1.3).
//!
//! # Sources
//!
//! The regf format specification by Maxim Suhanov; what the project saw in real hives.
//!
//! # Example
//!
//! ```no_run
//! use vdisk_hive::Hive;
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let logs = [std::fs::read("SYSTEM.LOG1")?, std::fs::read("SYSTEM.LOG2")?];
//! let (hive, recovery) = Hive::recover(std::fs::read("SYSTEM")?, &[&logs[0], &logs[1]])?;
//! for step in &recovery.replayed {
//!     println!("replayed {:?} of log {}", step.sequences, step.log + 1);
//! }
//! if let Some(select) = hive.open("Select")? {
//!     let current = select.value("Current")?.map(|value| value.as_u32()).transpose()?;
//!     println!("current control set: {current:?}");
//! }
//! for key in hive.root()?.subkeys()? {
//!     println!("{}", key?.name());
//! }
//! # Ok(())
//! # }
//! ```
//!
//! An edit, and what to write:
//!
//! ```
//! use vdisk_hive::{Editor, FileTime, Hive, ValueKind, changes};
//!
//! # fn main() -> vdisk_core::Result<()> {
//! # let before = vdisk_testkit::regf::empty_hive(5);
//! let hive = Hive::parse(before.clone())?;
//! let mut editor = Editor::new(hive, FileTime::from(std::time::SystemTime::now()))?;
//! let root = editor.hive().root()?.id();
//! let key = editor.create_key(root, "Services")?;
//! editor.set_value(key, "Start", ValueKind::DWORD, &3_u32.to_le_bytes())?;
//! let after = editor.finish()?;
//! for change in changes(&before, &after) {
//!     println!("{} bytes at {}", change.bytes.len(), change.offset);
//! }
//! # let value = Hive::parse(after)?.open("services")?.unwrap().value("start")?.unwrap().as_u32()?;
//! # assert_eq!(value, Some(3));
//! # Ok(())
//! # }
//! ```

mod base;
mod bytes;
mod changes;
mod check;
mod edit;
mod hive;
mod image;
mod key;
mod list;
mod log;
mod marvin;
mod name;
mod node;
mod recover;
mod time;
mod upcase;
mod value;

pub use base::{BaseBlock, is_hive};
pub use changes::{Change, LOG_HEADER, changes};
pub use edit::Editor;
pub use hive::Hive;
pub use key::{Key, KeyId, MAX_DEPTH, Security, SecurityId, Subkeys};
pub use log::Generation;
pub use name::Name;
pub use recover::{Recovery, Replayed};
pub use time::FileTime;
pub use value::{Value, ValueKind, Values};
