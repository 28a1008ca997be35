//! Journals of a copied disk's file systems, replayed before its guests are changed.

use std::sync::Arc;

use serde::Serialize;
use vdisk_core::{Change, CowDisk, Disk, Error, Result};
use vdisk_guest::Place;
use vdisk_guest::journal::{Replay, replay};

use crate::Machine;
use crate::machine::LIMIT;

/// What became of the journals on a disk.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// What is to be written to the disk, in order.
    pub changes: Vec<Change>,
    /// The journals that were replayed.
    pub done: Vec<Recovered>,
    /// Volumes whose journals hold work that only the guest can do, and why.
    pub left: Vec<(Place, Error)>,
}

/// A journal that was replayed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Recovered {
    /// The partition or logical volume, as `inspect` names it.
    pub volume: String,
    /// Transactions that were complete.
    pub transactions: u32,
    /// Blocks that were put in their places.
    pub blocks: u64,
    /// Whether deleted files wait to be removed when the guest mounts the volume.
    pub orphans: bool,
}

/// Replays, in memory, the journals of all ext3 and ext4 volumes on `disk`, whose sectors have
/// `sector_size` bytes, and ends the logs of frozen XFS. Other kinds are left as they are.
///
/// # Errors
/// As [`Machine::open`]. A journal that cannot be replayed is told in [`Recovery::left`].
pub fn recover_journals(disk: Arc<dyn Disk>, sector_size: u64) -> Result<Recovery> {
    let machine = Machine::open(disk.clone(), sector_size)?;
    let all = CowDisk::new(disk, LIMIT);
    let mut recovery = Recovery::default();
    let mut places = machine.places();
    if places.is_empty() {
        places.push(Place::Disk);
    }
    for place in places {
        // What cannot be opened, such as a part of a larger volume, has no journal to be read.
        let Ok((volume, area)) = machine.area(&place) else { continue };
        match replay(&volume) {
            Ok(None) => {}
            Ok(Some(Replay { changes, transactions, blocks, orphans, .. })) => {
                area.carry_over(&changes, &all)?;
                let volume = place.to_string();
                recovery.done.push(Recovered { volume, transactions, blocks, orphans });
            }
            Err(error) => recovery.left.push((place, error)),
        }
    }
    recovery.changes = all.changes()?;
    Ok(recovery)
}
