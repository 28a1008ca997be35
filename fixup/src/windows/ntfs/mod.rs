//! NTFS below its files: the descriptors that all files share, and what records say of themselves.
//!
//! | file | knows |
//! | --- | --- |
//! | `volume.rs` | the boot sector, file records, update sequences, runs |
//! | `record.rs` | a file record and its attributes |
//! | `index.rs` | an index as its entries in order |
//! | `secure.rs` | `$Secure`: descriptors, their hashes and both their indexes |
//! | `files.rs` | all file records: names, descriptors of their own, EFS |
//!
//! All of it is raw access: whoever writes through it opens the file system anew afterwards
//! ([`MachineVolume::reopen`](crate::MachineVolume::reopen)).

pub mod files;
mod index;
mod record;
pub mod secure;
mod volume;

pub use volume::Ntfs;

use vdisk_core::Error;

/// Numbers in structures, little-endian; what lies beyond the bytes reads as zero.
fn le<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).copied().unwrap_or([0; N])
}

fn le16(bytes: &[u8], at: usize) -> usize {
    usize::from(u16::from_le_bytes(le(bytes, at)))
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(le(bytes, at))
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(le(bytes, at))
}

/// Writes into a structure; whether all of it fits.
fn put(bytes: &mut [u8], at: usize, value: &[u8]) -> Option<()> {
    bytes.get_mut(at..)?.get_mut(..value.len())?.copy_from_slice(value);
    Some(())
}

/// Damage of the volume, with the way out.
fn damaged(structure: &'static str, offset: u64, what: impl Into<String>) -> Error {
    Error::corrupt(structure, offset, what).hint("check the volume in the guest: chkdsk /f")
}
