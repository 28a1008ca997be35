//! The file systems on logical volumes of LVM2.

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::{Disk, Error, Result};
use vdisk_parts::lvm::{VolumeGroup, scan};

use super::runs::Runs;
use super::{Scope, VolumeFree, measure};

/// A physical volume: its first byte on the disk, and itself.
pub(super) type Member = (u64, Arc<dyn Disk>);

/// Adds what is free on the logical volumes of the groups whose `members` are on the disk, as bytes
/// of the disk. What no logical volume has is kept.
///
/// # Errors
/// As [`free_space`](super::free_space).
pub(super) fn look(members: &[Member], scope: Scope, free: &mut Runs) -> Result<Vec<VolumeFree>> {
    let disks: Vec<Arc<dyn Disk>> = members.iter().map(|(_, disk)| disk.clone()).collect();
    let mut volumes = Vec::new();
    for group in scan(&disks)? {
        // A snapshot reads from its origin what was not changed since, also what is free there now.
        let why_kept = if group.missing().next().is_some() {
            Some("other disks of the volume group are missing")
        } else if group.volumes().any(|volume| volume.kind == "snapshot") {
            Some("snapshots of the volume group use what is free")
        } else {
            None
        };
        for info in group.volumes().filter(|info| info.visible) {
            let mut volume = VolumeFree {
                volume: Some(format!("{}/{}", group.name(), info.name)),
                len: info.len.unwrap_or_default(),
                ..VolumeFree::default()
            };
            volume.kept = match (why_kept, info.len) {
                (Some(why), _) => Some(why.to_owned()),
                (None, None) => Some(format!("volumes of the kind {} are not read", info.kind)),
                (None, Some(_)) => None,
            };
            if volume.kept.is_none() {
                add(&group, info.name, &mut volume, scope, |disk, range| {
                    let start = members.get(disk).map_or(0, |(start, _)| *start);
                    free.push(start + range.start..start + range.end);
                })?;
            }
            volumes.push(volume);
        }
    }
    Ok(volumes)
}

/// Gives `each` the free runs of a logical volume, with the number of the physical volume they are
/// on.
fn add(
    group: &VolumeGroup,
    name: &str,
    volume: &mut VolumeFree,
    scope: Scope,
    mut each: impl FnMut(usize, Range<u64>),
) -> Result<()> {
    let named = |error: Error| super::of(&format!("{}/{name}", group.name()), error);
    let logical = Arc::new(group.open(name).map_err(named)?);
    let disk: Arc<dyn Disk> = logical.clone();
    for run in &measure(&disk, volume, scope).map_err(named)? {
        for (disk, range) in logical.spans(run.clone())? {
            each(disk, range);
        }
    }
    Ok(())
}
