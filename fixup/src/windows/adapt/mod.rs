//! Making a Windows start on the next machine.

mod boot;
mod fitness;
mod nt5;
mod table;

use vdisk_core::Result;

use super::guest::Guest;
use super::{Hives, bcd, drivers};
use crate::{AdaptOptions, Machine, Plan};

/// Plans and makes what the target needs.
///
/// # Errors
/// The disk's and the guest's; what stands in the way of the target is a refusal of the plan.
pub(super) fn adapt(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    options: &AdaptOptions,
    plan: &mut Plan,
) -> Result<()> {
    fitness::check(machine, guest, options.target, plan)?;
    fitness::check_registry(machine, hives, plan)?;
    if !plan.refusals.is_empty() {
        return Ok(());
    }
    drivers::inject(machine, hives, guest, options, plan)?;
    boot::enable(machine, hives, guest, options.target, plan)?;
    if plan.refusals.is_empty() { bcd::mend(machine, hives, guest, plan) } else { Ok(()) }
}
