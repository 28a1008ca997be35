//! x
use crate::layer::VmdkLayer;
use std::ops::Range;
use vdisk_core::{Disk, Error, LayerMut, Result};
impl VmdkLayer {
    pub(crate) fn refuse_unwritable(&self) -> Result<()> {
        Err(Error::unsupported("writing"))
    }
}
impl LayerMut for VmdkLayer {
    fn write(&mut self, _data: &[u8], _offset: u64, _below: &dyn Disk) -> Result<()> {
        Err(Error::unsupported("writing"))
    }
    fn zero(&mut self, _range: Range<u64>, _below: &dyn Disk) -> Result<()> {
        Err(Error::unsupported("writing"))
    }
    fn resize(&mut self, _virtual_size: u64) -> Result<()> {
        Err(Error::unsupported("writing"))
    }
    fn flush(&mut self) -> Result<()> {
        Err(Error::unsupported("writing"))
    }
    fn close(&mut self) -> Result<()> {
        Err(Error::unsupported("writing"))
    }
}
