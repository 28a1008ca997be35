//! What `--skip-free` leaves out.

use std::sync::Arc;

use serde_json::{Value, json};
use vdisk::{Disk, Image, Result, human_size};
use vdisk_guest::free::{FreeSpace, Scope, free_space};

use super::Context;
use crate::args::SkipFree;

/// Finds what the guest on `image` does not use.
pub(super) fn find(image: &Arc<Image>, skip: SkipFree) -> Result<FreeSpace> {
    let scope = match skip {
        SkipFree::Free => Scope::Free,
        SkipFree::All => Scope::All,
    };
    let disk: Arc<dyn Disk> = image.clone();
    free_space(&disk, image.info().logical_sector.into(), scope)
}

/// Says what is left out of each volume, and which are kept whole.
pub(super) fn tell(found: &FreeSpace, context: &Context<'_>) {
    for volume in &found.volumes {
        let name = match (&volume.volume, volume.partition) {
            (Some(name), _) => name.clone(),
            (None, Some(number)) => format!("partition {number}"),
            (None, None) => "the disk".to_owned(),
        };
        let kind = if volume.kind.is_empty() { "unknown" } else { &volume.kind };
        context.note(&match &volume.kept {
            Some(why) => format!("{name} ({kind}): kept whole: {why}"),
            None => {
                let (free, len) = (human_size(volume.free), human_size(volume.len));
                format!("{name} ({kind}): {free} of {len} left out as free")
            }
        });
    }
}

/// The same as data.
pub(super) fn data(found: &FreeSpace) -> Value {
    let volumes = found.volumes.iter().map(|volume| {
        json!({
            "partition": volume.partition,
            "volume": volume.volume,
            "type": volume.kind,
            "length": volume.len,
            "free": volume.free,
            "kept": volume.kept,
        })
    });
    volumes.collect()
}
