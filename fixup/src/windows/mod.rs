//! Windows: from XP and Server 2003 to 11 and Server 2025.
//!
//! | file | does |
//! | --- | --- |
//! | `hives.rs` | the guest's hives: read with their logs, written back as a whole |
//! | `registry.rs` | a hive under change, each change an action |
//! | `guest.rs` | what must be known of the guest first |
//! | `adapt/` | drivers for the target's disks |
//! | `drivers/`, `inf/` | drivers from a folder of the host, and the files that describe them |
//! | `bcd/` | boot configuration data, and the EFI system partition |
//! | `files.rs` | files put in place by noted actions |
//! | `network/` | network adapters that stay behind, and what was set for them |
//! | `devices.rs`, `ghosts.rs` | devices that Windows remembers |
//! | `firstboot.rs` | one thing for Windows to do at its first start |
//! | `identity/` | machine SID, names, disk ids |
//! | `ntfs/` | security descriptors of files, and what file records say |

mod adapt;
pub mod bcd;
mod devices;
mod drivers;
mod files;
mod firstboot;
mod ghosts;
mod guest;
mod hives;
pub mod identity;
pub mod inf;
mod network;
pub mod ntfs;
mod registry;

pub use guest::{Arch, Guest, Nt};
pub use hives::Hives;
pub use registry::{Data, Reason, Registry};

use vdisk_core::{Error, ErrorKind, Result};

use crate::{AdaptOptions, Machine, Plan, StripOptions};

/// Strips the Windows that is guest number `index` of the machine's inventory.
///
/// # Errors
/// The disk's; what stands in the way is a refusal of the plan.
pub fn strip(
    machine: &mut Machine,
    index: usize,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    with_hives(machine, index, plan, |machine, hives, guest, plan| {
        drivers::strip(machine, hives, guest, options, plan)?;
        network::strip(machine, hives, guest, options, plan)?;
        ghosts::strip(machine, hives, options, plan)?;
        identity::strip(machine, hives, guest, options, plan)
    })
}

/// Adapts the Windows that is guest number `index` of the machine's inventory.
///
/// # Errors
/// The disk's; what stands in the way is a refusal of the plan.
pub fn adapt(
    machine: &mut Machine,
    index: usize,
    options: &AdaptOptions,
    plan: &mut Plan,
) -> Result<()> {
    with_hives(machine, index, plan, |machine, hives, guest, plan| {
        adapt::adapt(machine, hives, guest, options, plan)
    })
}

/// Does `work` on the guest's hives and writes them back. What hinders a change is told as a
/// refusal, for it is the guest's doing; only the disk's own failures are errors.
fn with_hives(
    machine: &mut Machine,
    index: usize,
    plan: &mut Plan,
    work: impl FnOnce(&mut Machine, &mut Hives, &Guest, &mut Plan) -> Result<()>,
) -> Result<()> {
    let change = || {
        let guest = Guest::of(machine, index)?;
        let mut hives = Hives::new(guest.root.clone(), &guest.folder);
        work(machine, &mut hives, &guest, plan)?;
        if plan.refusals.is_empty() { hives.finish(machine, plan) } else { Ok(()) }
    };
    refusal(change(), plan)
}

fn refusal(done: Result<()>, plan: &mut Plan) -> Result<()> {
    match done {
        Err(error) if !is_of_the_disk(&error) => {
            plan.stop_for("windows.guest", &error);
            Ok(())
        }
        other => other,
    }
}

fn is_of_the_disk(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Io | ErrorKind::Internal)
}
