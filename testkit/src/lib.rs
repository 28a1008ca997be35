//! What the tests of every format share: one model of a disk, one harness that drives a writable
//! layer against it, one that fills a new image, generators of content; programs that are not ours
//! as judges, and the folder of real images.
//!
//! A dev-dependency only. Failures panic with the seed, so that a run can be repeated.
//!
//! ```
//! use vdisk_testkit::content::Content;
//!
//! let disk = Content::random(1 << 20, 42);
//! assert_eq!(disk.bytes().len(), 1 << 20);
//! ```

pub mod boot;
pub mod content;
pub mod corpus;
pub mod exercise;
pub mod faulty;
pub mod fill;
pub mod loops;
pub mod lvm;
pub mod machines;
pub mod model;
pub mod power;
pub mod regf;
pub mod tools;
pub mod tree;
pub mod vacant;
pub mod volumes;

use vdisk_core::disk::in_range;
use vdisk_core::{Disk, Extent, ExtentKind, Result};

/// A disk held in a vector: the parent of a layer under test.
#[derive(Debug, Clone)]
pub struct VecDisk(pub Vec<u8>);

impl Disk for VecDisk {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        in_range(offset, buf.len() as u64, self.len())?;
        let start = offset as usize;
        buf.copy_from_slice(&self.0[start..start + buf.len()]);
        Ok(())
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        Ok(Extent { start: offset, len: end - offset, depth: 0, kind: ExtentKind::Opaque })
    }
}
