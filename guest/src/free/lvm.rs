//! The file systems on logical volumes of LVM2.

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::{Disk, Error, Result};
use vdisk_parts::lvm::{VolumeGroup, scan};

use super::{Scope, VolumeFree, measure};

/// A physical volume: its first byte on the disk, and itself.
pub(super) type Member = (u64, Arc<dyn Disk>);

/// What is free on the logical volumes of the groups whose `members` are on the disk, as bytes of
/// the disk. What no logical volume has is kept.
///
/// # Errors
/// As [`free_space`](super::free_space).
pub(super) fn look(members: &[Member], scope: Scope) -> Result<(Vec<VolumeFree>, Vec<Range<u64>>)> {
    let disks: Vec<Arc<dyn Disk>> = members.iter().map(|(_, disk)| disk.clone()).collect();
    let (mut volumes, mut ranges) = (Vec::new(), Vec::new());
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
                let free = of_volume(&group, info.name, &mut volume, scope)?;
                ranges.extend(free.into_iter().map(|(disk, range)| {
                    let start = members.get(disk).map_or(0, |(start, _)| *start);
                    start + range.start..start + range.end
                }));
            }
            volumes.push(volume);
        }
    }
    Ok((volumes, ranges))
}

/// The free runs of a logical volume, each with the number of the physical volume it is on.
fn of_volume(
    group: &VolumeGroup,
    name: &str,
    volume: &mut VolumeFree,
    scope: Scope,
) -> Result<Vec<(usize, Range<u64>)>> {
    let named = |error: Error| super::of(&format!("{}/{name}", group.name()), error);
    let logical = Arc::new(group.open(name).map_err(named)?);
    let disk: Arc<dyn Disk> = logical.clone();
    let mut places = Vec::new();
    for run in measure(&disk, volume, scope).map_err(named)? {
        for piece in logical.map(run)? {
            places.push((piece.disk, piece.offset..piece.offset + piece.len));
        }
    }
    Ok(places)
}
