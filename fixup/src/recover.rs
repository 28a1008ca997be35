//! Journals of a copied disk's file systems, replayed before its guests are changed.

use serde::Serialize;
use vdisk_core::{Change, CowDisk, Error, Result};
use vdisk_guest::Place;
use vdisk_guest::journal::{Replay, replay};

use crate::{Machine, MachineDisk};

/// What became of the journals on a disk.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct Recovery {
    /// What is to be written to each disk, in order.
    pub changes: Vec<Vec<Change>>,
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

/// Replays, in memory, the journals of all ext3 and ext4 volumes on the machine's `disks`, and ends
/// the logs of frozen XFS. Other kinds are left as they are.
///
/// # Errors
/// As [`Machine::of_disks`]. A journal that cannot be replayed is told in [`Recovery::left`].
pub fn recover_journals(disks: Vec<MachineDisk>) -> Result<Recovery> {
    let mut machine = Machine::of_disks(disks)?;
    let all = machine.untouched();
    let mut recovery = Recovery::default();
    for disk in 0..machine.count() {
        machine.turn_to(disk);
        recover_disk(&machine, &all, &mut recovery)?;
    }
    recovery.changes = all.iter().map(|disk| disk.changes()).collect::<Result<_>>()?;
    Ok(recovery)
}

/// The same on the disk at hand.
fn recover_disk(machine: &Machine, all: &[CowDisk], recovery: &mut Recovery) -> Result<()> {
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
                if let Err(error) = area.insist_on_no_snapshots() {
                    recovery.left.push((machine.told(&place), error));
                    continue;
                }
                area.carry_over(&changes, all)?;
                let volume = machine.name_of(&place);
                recovery.done.push(Recovered { volume, transactions, blocks, orphans });
            }
            Err(error) => recovery.left.push((machine.told(&place), error)),
        }
    }
    Ok(())
}
