//! One power-cut machine for everything that is changed in place.
//!
//! A [`Recorder`] stands between vdisk and its files, in memory or on the host, and remembers every
//! write, zeroing, change of length, flush, and change of a name, in order across files. From the
//! [`Recording`] it then builds the files as a power cut may leave them: what was flushed is there,
//! and of the rest whatever a [`Fate`] lets survive. The model is the page cache over a disk that
//! writes whole sectors of 512 bytes:
//!
//! * a flush of a file makes durable what was written to that file before, and nothing else;
//! * writes that were not flushed arrive in any selection, and torn between any two sectors;
//! * a change of length that was not flushed has happened or not;
//! * a name that was given or taken is durable once its folder was flushed; giving it is atomic.
//!
//! [`History`] knows what each sector of the guest's disk may hold after a cut. [`Session`] drives
//! one image at random and judges the states; commands that change several files at once are
//! driven by `cargo xtask crash`, on files of the host.
//!
//! ```
//! use std::sync::Arc;
//! use vdisk_core::{Access, MemFiles, MemStore, Opener, Store};
//! use vdisk_testkit::power::{Fate, Recorder};
//!
//! let files = MemFiles::new("a");
//! files.insert("a", Arc::new(MemStore::from_bytes("a", &[0; 1024])));
//! let recorder = Recorder::new();
//! let store = recorder.over(&files).open("a", "image", Access::Write).unwrap();
//! store.write_all_at(&[1; 512], 0).unwrap();
//! store.sync().unwrap();
//! store.write_all_at(&[2; 1024], 0).unwrap();
//!
//! let recording = recorder.recording();
//! let mut replay = recording.replay();
//! replay.advance(3);
//! let lost = replay.files(Fate::Nothing, &mut fastrand::Rng::with_seed(1));
//! let bytes = lost.values().next().unwrap().to_bytes();
//! assert!(bytes[..512] == [1; 512] && bytes[512..] == [0; 512]);
//! ```

mod cut;
mod history;
mod host;
mod record;
mod resize;
mod session;

pub use cut::{Fate, Recording, Replay};
pub use history::{Change, History, Values};
pub use host::put_on_host;
pub use record::{Fault, Recorder, Watched};
pub use resize::resize_finishes;
pub use session::{Session, Sizes, Step, Subject, survives};
