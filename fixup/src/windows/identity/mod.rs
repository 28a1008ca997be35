//! What makes a Windows another machine than the one it was copied from.

pub mod rewrite;
pub mod sid;
pub mod swap;

use vdisk_core::Result;

use super::Hives;
use crate::{Machine, Plan, StripOptions};

/// Plans and makes the changes of identity in `hives` and on the volumes of `machine`.
///
/// # Errors
/// The disk's; what stands in the way is a refusal of the plan.
pub(super) fn strip(
    _machine: &mut Machine,
    _hives: &mut Hives,
    _options: &StripOptions,
    _plan: &mut Plan,
) -> Result<()> {
    Ok(())
}
