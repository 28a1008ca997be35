//! What makes a Windows another machine than the one it was copied from.
//!
//! | file | does |
//! | --- | --- |
//! | `caution.rs` | what stands in the way, and what will be lost |
//! | `machine.rs` | another machine SID, everywhere at once |
//! | `sid.rs`, `swap.rs`, `rewrite.rs` | the SID, its forms in bytes, one hive with another one |
//! | `profiles.rs` | where the users' hives are |
//! | `volumes.rs` | descriptors and names on NTFS volumes |
//! | `tasks.rs` | scheduled tasks, whose files the registry keeps the hashes of |
//! | `name.rs` | the computer's name |
//! | `ids.rs` | other numbers that tell machines apart: a table |
//! | `keys.rs` | files and certificates that only one machine may have |
//! | `disk.rs` | signature and GUIDs of the disk, serial numbers of volumes |
//! | `sysprep.rs` | the same by Windows itself, at its first start |

mod caution;
mod disk;
mod ids;
mod keys;
mod machine;
mod name;
mod profiles;
pub mod rewrite;
pub mod sid;
pub mod swap;
mod sysprep;
mod tasks;
mod volumes;

use vdisk_core::Result;

use super::{Guest, Hives};
use crate::{Identity, Machine, Plan, StripOptions};

/// Plans and makes the changes of identity in `hives` and on the volumes of `machine`.
///
/// # Errors
/// The disk's; what stands in the way is a refusal of the plan.
pub(super) fn strip(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    match options.identity {
        Identity::Keep => {
            return match &options.hostname {
                Some(hostname) => name::change(machine, hives, hostname, options, plan),
                None => Ok(()),
            };
        }
        Identity::Sysprep => return sysprep::prepare(machine, hives, guest, options, plan),
        Identity::New => {}
    }
    caution::services(machine, hives, options, plan)?;
    machine::change(machine, hives, options, plan)?;
    if !plan.refusals.is_empty() {
        return Ok(());
    }
    keys::change(machine, hives, options, plan)?;
    ids::change(machine, hives, options, plan)?;
    disk::change(machine, hives, guest, options, plan)?;
    match &options.hostname {
        Some(hostname) => name::change(machine, hives, hostname, options, plan),
        None => {
            plan.warn(
                "windows.hostname",
                "the computer keeps its name, which the original has too",
                "give it another with: --hostname NAME",
            );
            Ok(())
        }
    }
}

/// Runs what may fail for a reason of the guest alone: that is told as a refusal, or with `force`
/// as a warning. The disk's own failures are errors.
fn cautiously(
    plan: &mut Plan,
    id: &str,
    force: bool,
    work: impl FnOnce(&mut Plan) -> Result<()>,
) -> Result<()> {
    match work(plan) {
        Err(error) if super::is_of_the_disk(&error) => Err(error),
        Err(error) if force => {
            plan.warn(id, error.to_string(), error.advice().unwrap_or_default());
            Ok(())
        }
        Err(error) => {
            plan.stop_for(id, &error);
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}
