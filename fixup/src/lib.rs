//! Making a guest forget the machine it ran on, and start on the next one: offline, without
//! mounting anything, and without running any of the guest's code unless that is asked for.
//!
//! # Design
//!
//! A [`Machine`] is its disks with everything changed on them in memory ([`CowDisk`](vdisk_core::CowDisk)).
//! Planning *is* doing it there: [`strip()`] and [`adapt()`] make each change on the copy, read it
//! back, and note it as an [`Action`] of the [`Plan`]. So a plan is known to be possible before a
//! byte of the image is written, and what the plan says is what happened. A plan with a refusal is
//! not carried out. [`Machine::changes`] is then what an image takes up in one step that a power
//! cut cannot tear (`vdisk::edit`).
//!
//! | file | does |
//! | --- | --- |
//! | `plan.rs` | what is to change, where, why: as data |
//! | `machine.rs` | the disks and their volumes, open for changing in memory |
//! | `apply.rs` | carrying a plan out on an image, its report, and taking it back |
//! | `target.rs` | where the guest goes, and what is asked for |
//! | `wipe.rs` | secrets are written over before they go |
//! | `windows/` | registry, drivers, boot configuration, security identifiers |
//! | `linux/` | initramfs, fstab, boot loader, identity |
//!
//! # Invariants
//!
//! * The disks given are only read.
//! * Every changed byte belongs to an action, or to the bookkeeping of the file system it is in.
//! * A second run on the outcome plans nothing, but for a copy's: each run makes another machine.
//! * No code of the guest runs here, unless [`AdaptOptions::run_guest_tools`] allows it: then in a
//!   sandbox, on a copy, to make what cannot be made without. What can only be done in the guest
//!   itself waits for its first start, where that is asked for.
//!
//! # What is not here
//!
//! Images and their formats, the journal of an edit (`vdisk`), disks of the host (`vdisk-p2v`,
//! `vdisk-v2p`), definitions of virtual machines.
//!
//! # Example
//!
//! ```no_run
//! use std::sync::Arc;
//! use vdisk_fixup::{Machine, Plan, StripOptions, Target, AdaptOptions};
//!
//! # fn example(disk: Arc<dyn vdisk_core::Disk>) -> vdisk_core::Result<()> {
//! let mut machine = Machine::open(disk, 512)?;
//! let mut plan = Plan::default();
//! vdisk_fixup::strip(&mut machine, &StripOptions::default(), &mut plan)?;
//! vdisk_fixup::adapt(&mut machine, &AdaptOptions::new(Target::Kvm), &mut plan)?;
//! plan.refuse()?;
//! for change in machine.changes()? {
//!     println!("{} bytes at {}", change.bytes.len(), change.offset);
//! }
//! # Ok(())
//! # }
//! ```

mod apply;
pub mod linux;
mod machine;
mod plan;
mod recover;
mod target;
pub mod windows;
mod wipe;

pub use apply::{ImageOf, OtherImage, Report, apply, apply_together, undo, undo_together};
pub use machine::{Machine, MachineDisk, MachineVolume};
pub use plan::{Action, Notice, Plan};
pub use recover::{Recovered, Recovery, recover_journals};
pub use target::{AdaptOptions, Identity, KeepNetwork, StripOptions, Target};

use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::inventory::Family;

/// Plans and makes, in memory, what takes the guests on `machine` off their old hardware, and with
/// [`Identity::New`] what makes them another machine.
///
/// # Errors
/// [`ErrorKind::UnknownFormat`] where no guest is known; the disk's. What stands in the way of a
/// change is a refusal of the plan, no error.
pub fn strip(machine: &mut Machine, options: &StripOptions, plan: &mut Plan) -> Result<()> {
    for (disk, index, family) in systems(machine, plan)? {
        machine.turn_to(disk);
        match family {
            Family::Windows => windows::strip(machine, index, options, plan)?,
            Family::Linux => linux::strip(machine, index, options, plan)?,
        }
    }
    machine.warn_of_shadow_copies(plan)
}

/// Plans and makes, in memory, what makes the guests on `machine` start on the target.
///
/// # Errors
/// As [`strip`].
pub fn adapt(machine: &mut Machine, options: &AdaptOptions, plan: &mut Plan) -> Result<()> {
    for (disk, index, family) in systems(machine, plan)? {
        machine.turn_to(disk);
        match family {
            Family::Windows => windows::adapt(machine, index, options, plan)?,
            Family::Linux => linux::adapt(machine, index, options, plan)?,
        }
    }
    machine.warn_of_shadow_copies(plan)
}

/// The guests on the disks: the number of the disk, and their place in its inventory.
fn systems(machine: &Machine, plan: &mut Plan) -> Result<Vec<(usize, usize, Family)>> {
    let mut found = Vec::new();
    let mut names = Vec::new();
    for (disk, inventory) in machine.inventories().enumerate() {
        for (index, system) in inventory.systems.iter().enumerate() {
            names.push(system.product.clone().unwrap_or_default());
            found.push((disk, index, system.family));
        }
    }
    if found.is_empty() {
        return Err(Error::new(ErrorKind::UnknownFormat, "no guest system was found on the disk")
            .hint("see what is there with: vdisk inspect"));
    }
    plan.system.get_or_insert_with(|| names.join(", "));
    Ok(found)
}
