//! NTFS, read: the boot sector, file records, attributes and where they stand, directories.
//!
//! All reading of NTFS stands on this: files (`fs/ntfs`), free space ([`free`](crate::free)), what
//! all records of a volume say (`vdisk-fixup`). `rust-fs-ntfs` changes files, and what it changed is
//! read back by this.
//!
//! | file | knows |
//! | --- | --- |
//! | `boot.rs` | the boot sector: sizes, where the master file table begins |
//! | `volume.rs` | file records and contents of attributes, wherever they stand |
//! | `record.rs` | a file record: its attributes, its lists of runs |
//! | `extents.rs` | where the bytes of an attribute stand |
//! | `stream.rs` | their content, with holes, compressed |
//! | `directory.rs` | names in directories: looked up, listed |
//! | `name.rs` | names in UTF-16 and as bytes |
//! | `upcase.rs` | how names compare |
//! | `update.rs` | update sequences, which show torn records and index blocks |
//!
//! Names are those of the NTFS documentation of Microsoft and of ntfs-3g's `layout.h`. Nothing is
//! allocated by a size that a volume claims without a bound, and all lists end.

mod boot;
mod directory;
mod extents;
mod name;
mod record;
mod stream;
mod upcase;
mod update;
mod volume;

pub use boot::Boot;
pub use directory::{Directory, Entry, Place, ROOT};
pub use extents::Extents;
pub use name::{from_units, to_units};
pub use record::{
    ATTRIBUTE_LIST, Attribute, Body, DATA, FILE_NAME, Form, INDEX_ALLOCATION, INDEX_ROOT,
    LOGGED_STREAM, REPARSE_POINT, Record, SECURITY_DESCRIPTOR, STANDARD_INFORMATION,
    VOLUME_INFORMATION, VOLUME_NAME, text,
};
pub use stream::{Clusters, Stream};
pub use upcase::UpCase;
pub use update::{opened, sealed};
pub use volume::{Content, Ntfs, Runs, length, pieces};

use vdisk_core::Error;

/// `N` bytes at `at`; what lies beyond the bytes reads as zero.
#[must_use]
pub fn le<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

/// A little-endian number of 16 bits.
#[must_use]
pub fn le16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(le(bytes, at)))
}

/// A little-endian number of 32 bits.
#[must_use]
pub fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(le(bytes, at))
}

/// A little-endian number of 64 bits.
#[must_use]
pub fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(le(bytes, at))
}

/// Writes into a structure; `None` where it does not fit.
pub fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(at..)?.get_mut(..value.len())?.copy_from_slice(value);
    Some(())
}

/// Damage of the volume, with the way out.
#[must_use]
pub fn damaged(structure: &'static str, offset: u64, what: impl Into<String>) -> Error {
    Error::corrupt(structure, offset, what).hint("check the volume in the guest: chkdsk /f")
}
