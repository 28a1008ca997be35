//! The boot sector.

use vdisk_core::{Disk, Result};

use super::{damaged, le16, le64};

/// Largest cluster, bytes.
const MOST_CLUSTER: u64 = 2 << 20;

/// What the boot sector tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Boot {
    /// Bytes of a sector.
    pub sector: u64,
    /// Bytes of a cluster.
    pub cluster: u64,
    /// Clusters of the volume.
    pub clusters: u64,
    /// Bytes of a file record.
    pub record: usize,
    /// Bytes of an index block.
    pub index: usize,
    /// Where the master file table begins, a byte of the volume.
    pub mft: u64,
}

impl Boot {
    /// Bytes of the boot sector that count.
    pub const LEN: usize = 512;

    /// Reads the boot sector of `volume`.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where it is none, or its sizes are not
    /// possible; the disk's.
    pub fn read(volume: &(impl Disk + ?Sized)) -> Result<Self> {
        let wrong = |what: &str| damaged("NTFS boot sector", 0, what);
        if volume.len() < Self::LEN as u64 {
            return Err(wrong("the volume is shorter"));
        }
        let mut bytes = [0; Self::LEN];
        volume.read_at(&mut bytes, 0)?;
        let boot = Self::parse(&bytes)
            .ok_or_else(|| wrong("it is none, or its sizes are not possible"))?;
        if boot.clusters.saturating_mul(boot.cluster) > volume.len() {
            return Err(wrong("it is longer than the volume"));
        }
        Ok(boot)
    }

    fn parse(bytes: &[u8; Self::LEN]) -> Option<Self> {
        let byte = |at: usize| bytes.get(at).copied().unwrap_or_default();
        bytes.get(3..)?.strip_prefix(b"NTFS    ")?;
        let sector = u64::try_from(le16(bytes, 0x0B)).ok().filter(|size| size.is_power_of_two())?;
        let per_cluster = coded(byte(0x0D), 1);
        let cluster = sector.checked_mul(per_cluster).filter(|size| size.is_power_of_two())?;
        let size = |at: usize| {
            let size = usize::try_from(coded(byte(at), cluster)).ok()?;
            (size.is_power_of_two() && (512..=1 << 16).contains(&size)).then_some(size)
        };
        (512..=MOST_CLUSTER).contains(&cluster).then_some(())?;
        Some(Self {
            sector,
            cluster,
            clusters: le64(bytes, 0x28) / per_cluster,
            record: size(0x40)?,
            index: size(0x44)?,
            mft: le64(bytes, 0x30).saturating_mul(cluster),
        })
    }
}

/// A size in the boot sector: units, or where negative, the power of two of bytes.
fn coded(byte: u8, unit: u64) -> u64 {
    match byte {
        0..=0x80 => unit.saturating_mul(byte.into()),
        _ => 1_u64.checked_shl(256 - u32::from(byte)).unwrap_or_default(),
    }
}
