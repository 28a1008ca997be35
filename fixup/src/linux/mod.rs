//! Linux: Debian, Ubuntu, RHEL, Fedora, Alma, SUSE and their families.

use vdisk_core::Result;

use crate::{AdaptOptions, Machine, Plan, StripOptions};

/// Strips the Linux that is guest number `index` of the machine's inventory.
///
/// # Errors
/// The disk's; what stands in the way is a refusal of the plan.
pub fn strip(
    _machine: &mut Machine,
    _index: usize,
    _options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    plan.stop("linux.not-built", "Linux guests are not stripped yet", "");
    Ok(())
}

/// Adapts the Linux that is guest number `index` of the machine's inventory.
///
/// # Errors
/// The disk's; what stands in the way is a refusal of the plan.
pub fn adapt(
    _machine: &mut Machine,
    _index: usize,
    _options: &AdaptOptions,
    plan: &mut Plan,
) -> Result<()> {
    plan.stop("linux.not-built", "Linux guests are not adapted yet", "");
    Ok(())
}
