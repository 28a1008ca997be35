//! stub
use crate::open::VhdxLayer;
use vdisk_core::{Findings, Result};
pub(crate) fn check(_layer: &VhdxLayer, _findings: &mut Findings) -> Result<()> {
    Ok(())
}
