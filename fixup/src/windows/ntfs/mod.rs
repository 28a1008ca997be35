//! NTFS below its files: the descriptors that all files share, and what records say of themselves.
//!
//! | file | knows |
//! | --- | --- |
//! | `volume.rs` | writing file records and contents; [`vdisk_guest::ntfs`] reads them |
//! | `index.rs` | an index as its entries in order |
//! | `secure.rs` | `$Secure`: descriptors, their hashes and both their indexes |
//! | `files.rs` | all file records: names, descriptors of their own, EFS |
//!
//! All of it is raw access: whoever writes through it opens the file system anew afterwards
//! ([`MachineVolume::reopen`](crate::MachineVolume::reopen)).

pub mod files;
mod index;
pub mod secure;
mod volume;

pub use volume::Ntfs;
