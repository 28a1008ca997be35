//! VHDX images: skeleton of the documentation; see the modules.
mod bat;
mod bitmap;
mod check;
mod child;
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
mod replay;
mod resize;
mod session;
mod space;
mod write;
mod writer;

pub use child::{ChildOptions, create_child};
pub use create::{CreateOptions, Ids, create, file_size};
pub use open::{OpenOptions, VhdxLayer, open, probe};

const KIB: u64 = 1 << 10;
const MIB: u64 = 1 << 20;
/// Smallest block, bytes.
const MIN_BLOCK: u64 = MIB;
/// Largest block, bytes.
const MAX_BLOCK: u64 = 256 * MIB;
/// The largest virtual size in bytes: 64 TiB.
pub const MAX_SIZE: u64 = 64 << 40;
/// The longest file that is written to or that a log may ask for, bytes. A full disk of 64 TiB
/// with all its tables stays far below.
const MAX_FILE: u64 = 128 << 40;
