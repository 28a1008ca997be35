//! exFAT: the allocation bitmap (Microsoft's "exFAT file system specification", 3.1 and 7.1).

use vdisk_core::{Disk, Error, Result};

use super::bits::ClearRuns;
use super::field::Fields;
use super::runs::Runs;
use super::{Found, contradiction};

/// Directory entry of an allocation bitmap.
const BITMAP_ENTRY: u8 = 0x81;
/// Longest chain followed for the root directory, clusters.
const MOST_ROOT: usize = 4096;
const PIECE: u64 = 1 << 20;

/// Adds the free runs of the volume, bytes.
///
/// # Errors
/// [`Refused`](vdisk_core::ErrorKind::Refused) for a volume in use when it was left;
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where its parts do not fit.
pub(super) fn free(volume: &dyn Disk, free: &mut Runs) -> Result<Found> {
    let layout = Layout::read(volume)?;
    if layout.is_double {
        return Ok(Err("it has a second allocation bitmap (TexFAT)".to_owned()));
    }
    let (first, len) = layout.find_bitmap(volume)?;
    let mut runs = ClearRuns::default();
    let mut add = |run: std::ops::Range<u64>| {
        let byte = |number: u64| layout.heap + number * layout.cluster;
        free.push(byte(run.start)..byte(run.end));
    };
    let (mut cluster, mut left) = (first, len);
    while left > 0 {
        let mut at = 0;
        let whole = layout.cluster.min(left);
        while at < whole {
            let step = PIECE.min(whole - at);
            let place = layout.place(cluster)? + at;
            let bytes = Fields::read(volume, place, usize::try_from(step).unwrap_or_default())?;
            let seen = (len - left + at) * 8;
            runs.look(&bytes.0, (layout.clusters - seen).min(step * 8), &mut add);
            at += step;
        }
        left -= whole;
        if left > 0 {
            cluster = layout.next(volume, cluster)?;
        }
    }
    if let Some(run) = runs.end() {
        add(run);
    }
    Ok(Ok(()))
}

#[derive(Debug)]
struct Layout {
    /// Bytes of a cluster.
    cluster: u64,
    clusters: u64,
    /// First byte of cluster 2.
    heap: u64,
    /// First byte of the table.
    table: u64,
    root: u64,
    /// Whether there is a second table and bitmap, one of the two being out of date.
    is_double: bool,
}

impl Layout {
    fn read(volume: &dyn Disk) -> Result<Self> {
        let boot = Fields::read(volume, 0, 512)?;
        let (sector_shift, cluster_shift) = (boot.byte(108), boot.byte(109));
        let wrong = |what: &str| contradiction("exFAT boot sector", 0, what);
        if !(9..=12).contains(&sector_shift) || cluster_shift > 25 - sector_shift {
            return Err(wrong("its sectors or clusters have no possible size"));
        }
        if boot.le16(106) & 0x6 != 0 {
            return Err(Error::refused(
                "what the file system does not use is not certain: it was not closed in order",
            )
            .hint("check it with its own tool, or copy the disk whole, without --skip-free"));
        }
        let layout = Self {
            cluster: 1 << (sector_shift + cluster_shift),
            clusters: boot.le32(92).into(),
            heap: u64::from(boot.le32(88)) << sector_shift,
            table: u64::from(boot.le32(80)) << sector_shift,
            root: boot.le32(96).into(),
            is_double: boot.le16(106) & 0x1 != 0 || boot.byte(110) != 1,
        };
        let end = layout.heap.saturating_add(layout.clusters.saturating_mul(layout.cluster));
        if end > volume.len() {
            return Err(wrong("its clusters reach beyond the volume"));
        }
        Ok(layout)
    }

    /// The first byte of cluster number `cluster`.
    fn place(&self, cluster: u64) -> Result<u64> {
        match cluster.checked_sub(2) {
            Some(index) if index < self.clusters => Ok(self.heap + index * self.cluster),
            _ => {
                Err(contradiction("exFAT cluster chain", self.table, "it leads out of the volume"))
            }
        }
    }

    fn next(&self, volume: &dyn Disk, cluster: u64) -> Result<u64> {
        Ok(Fields::read(volume, self.table + cluster * 4, 4)?.le32(0).into())
    }

    /// First cluster and length in bytes of the allocation bitmap, from the root directory.
    fn find_bitmap(&self, volume: &dyn Disk) -> Result<(u64, u64)> {
        let needed = self.clusters.div_ceil(8);
        let mut cluster = self.root;
        for _ in 0..MOST_ROOT {
            let place = self.place(cluster)?;
            let bytes = usize::try_from(self.cluster.min(PIECE)).unwrap_or_default();
            let entries = Fields::read(volume, place, bytes)?;
            for at in (0..bytes).step_by(32) {
                match entries.byte(at) {
                    0 => return Err(no_bitmap(place)),
                    BITMAP_ENTRY if entries.byte(at + 1) & 1 == 0 => {
                        let len = entries.le64(at + 24);
                        if len < needed {
                            return Err(contradiction(
                                "exFAT allocation bitmap",
                                place + at as u64,
                                format!("{len} bytes for {} clusters", self.clusters),
                            ));
                        }
                        return Ok((entries.le32(at + 20).into(), needed));
                    }
                    _ => {}
                }
            }
            cluster = self.next(volume, cluster)?;
        }
        Err(no_bitmap(self.heap))
    }
}

fn no_bitmap(offset: u64) -> Error {
    contradiction("exFAT root directory", offset, "it names no allocation bitmap")
}
