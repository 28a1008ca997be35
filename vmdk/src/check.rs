//! x
use crate::layer::VmdkLayer;
use vdisk_core::{Findings, Result};
pub(crate) fn check(_layer: &VmdkLayer, _findings: &mut Findings) -> Result<()> {
    Ok(())
}
