//! Reading a disk.

use std::sync::Arc;

use vdisk_core::disk::in_range;
use vdisk_core::{
    Compaction, Error, Findings, Grain, Layer, LayerExtent, LayerInfo, Result, Store, Vacant,
};

use crate::check;
use crate::descriptor::{Descriptor, NO_PARENT};
use crate::extent::{Body, Extent};
use crate::open::{Place, same_file};

/// One VMDK disk with its extents, open.
#[derive(Debug)]
pub struct VmdkLayer {
    pub(crate) info: LayerInfo,
    pub(crate) stores: Vec<Arc<dyn Store>>,
    /// In guest order, without gaps.
    pub(crate) extents: Vec<Extent>,
    pub(crate) descriptor: Descriptor,
    pub(crate) place: Place,
    /// Whether writing is allowed.
    pub(crate) writable: bool,
    /// Whether this session has given the content a new id.
    pub(crate) stamped: bool,
    /// A change failed half way: what is in memory is not what is in the file.
    pub(crate) broken: bool,
}

impl VmdkLayer {
    pub(crate) fn new(
        info: LayerInfo,
        stores: Vec<Arc<dyn Store>>,
        extents: Vec<Extent>,
        descriptor: Descriptor,
        place: Place,
    ) -> Self {
        Self {
            info,
            stores,
            extents,
            descriptor,
            place,
            writable: false,
            stamped: false,
            broken: false,
        }
    }

    /// Whether what is absent is the parent's.
    pub(crate) fn is_delta(&self) -> bool {
        self.descriptor.parent_cid != NO_PARENT
    }

    /// The number of the first store that is the same file as store `index`: a file may be named
    /// in more than one way.
    pub(crate) fn file_number(&self, index: usize) -> usize {
        let same = |other: &Arc<dyn Store>| {
            self.stores.get(index).is_some_and(|store| same_file(store, other))
        };
        self.stores.iter().position(same).unwrap_or(index)
    }

    /// Where the line of extent `index` stands in the user's file.
    pub(crate) fn line_at(&self, index: usize) -> u64 {
        let line = self.descriptor.extents.get(index).map_or(0, |extent| extent.line);
        self.place.at + self.descriptor.line_offset(line)
    }

    /// The number of the extent that holds guest byte `offset`.
    pub(crate) fn extent_index(&self, offset: u64) -> usize {
        self.extents.partition_point(|extent| extent.end() <= offset)
    }
}

impl Layer for VmdkLayer {
    fn info(&self) -> &LayerInfo {
        &self.info
    }

    fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<LayerExtent> {
        in_range(offset, end.saturating_sub(offset), self.info.virtual_size)?;
        let extent = self
            .extents
            .get(self.extent_index(offset))
            .ok_or_else(|| Error::internal("extents do not cover the disk"))?;
        extent.extent_at(offset, end.min(extent.end()), self.is_delta())
    }

    fn inflate(&self, grain: &Grain, out: &mut [u8]) -> Result<()> {
        match self.extents.get(self.extent_index(grain.start)).map(|extent| &extent.body) {
            Some(Body::Stream(stream)) => stream.inflate(grain, out),
            _ => Err(Error::internal("a compressed grain of an extent that has none")),
        }
    }

    fn plan_compact(&self, vacant: &Vacant) -> Result<Compaction> {
        self.plan(vacant)
    }

    fn check(&self, findings: &mut Findings) -> Result<()> {
        check::check(self, findings)
    }
}
