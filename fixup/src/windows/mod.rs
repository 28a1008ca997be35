//! Windows: from XP and Server 2003 to 11 and Server 2025.

use vdisk_core::Result;

use crate::{AdaptOptions, Machine, Plan, StripOptions};

/// Strips the Windows that is guest number `index` of the machine's inventory.
///
/// # Errors
/// The disk's; what stands in the way is a refusal of the plan.
pub fn strip(
    _machine: &mut Machine,
    _index: usize,
    _options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    plan.stop("windows.not-built", "Windows guests are not stripped yet", "");
    Ok(())
}

/// Adapts the Windows that is guest number `index` of the machine's inventory.
///
/// # Errors
/// The disk's; what stands in the way is a refusal of the plan.
pub fn adapt(
    _machine: &mut Machine,
    _index: usize,
    _options: &AdaptOptions,
    plan: &mut Plan,
) -> Result<()> {
    plan.stop("windows.not-built", "Windows guests are not adapted yet", "");
    Ok(())
}
