//! Hosted sparse extents ("Hosted Sparse Extents"): the grains of monolithicSparse and
//! twoGbMaxExtentSparse disks, and of their deltas.

use std::sync::Arc;

use vdisk_core::{Error, ErrorKind, PagedTable, Result, Store, StoreExt};

use crate::header::{GTES, SparseHeader};
use crate::tables::{Coding, GrainTables, Shape};
use crate::unit::SECTOR;

/// A hosted sparse extent, open.
#[derive(Debug)]
pub(crate) struct Hosted {
    /// Its header, as it stands in the file.
    pub(crate) header: SparseHeader,
    /// Directory and tables that count.
    pub(crate) tables: GrainTables,
    /// The redundant directory, where it is maintained.
    pub(crate) redundant: Option<PagedTable>,
    /// Redundant tables that the directory on disk does not name yet: byte offsets by number.
    pub(crate) added_redundant: std::collections::BTreeMap<u64, u64>,
    /// Whether this session has set `uncleanShutdown`.
    pub(crate) marked: bool,
    /// Whether it found it set: an earlier session was cut off.
    pub(crate) cut_off: bool,
}

impl Hosted {
    /// Opens the extent of `len` guest bytes in `store`.
    ///
    /// # Errors
    /// [`Truncated`](ErrorKind::Truncated) where the file ends inside its metadata;
    /// [`Corrupt`](ErrorKind::Corrupt) where the directory stands on the header.
    pub(crate) fn open(store: Arc<dyn Store>, header: SparseHeader, len: u64) -> Result<Self> {
        let end = store.size()?;
        if header.overhead > end {
            return Err(Error::new(
                ErrorKind::Truncated,
                format!("{} bytes of metadata in a file of {end}", header.overhead),
            )
            .at("VMDK sparse header", 64)
            .in_file(store.name())
            .hint("the file was cut short; copy it again"));
        }
        let directory = header.directory.filter(|at| *at >= SECTOR).ok_or_else(|| {
            Error::corrupt("VMDK sparse header", 56, "the grain directory stands on the header")
                .in_file(store.name())
        })?;
        let descriptor = header.descriptor.clone().unwrap_or(0..0);
        // New grains go behind the descriptor, so it must not pretend to stand outside the file.
        if descriptor.end > end {
            return Err(Error::new(
                ErrorKind::Truncated,
                format!("a descriptor that ends at {} in a file of {end} bytes", descriptor.end),
            )
            .at("VMDK sparse header", 28)
            .in_file(store.name()));
        }
        let shape = Shape {
            coding: Coding::Sectors { zero_grain: header.zero_grain() },
            per_table: GTES,
            grain: header.grain,
            stored: header.grain,
            len,
            floor: header.overhead.max(descriptor.end).max(SECTOR),
        };
        let reserved = [0..SECTOR, descriptor];
        let tables = GrainTables::open(store.clone(), shape, directory, reserved)?;
        let redundant = header.redundant.map(|at| {
            PagedTable::new(store, "VMDK redundant grain directory", at, shape.directory_bytes())
        });
        Ok(Self {
            header,
            tables,
            redundant,
            added_redundant: std::collections::BTreeMap::new(),
            marked: false,
            cut_off: false,
        })
    }

    /// Where redundant grain table `index` stands; `None` where the redundant directory has none.
    pub(crate) fn redundant_at(&self, index: u64) -> Result<Option<u64>> {
        if let Some(at) = self.added_redundant.get(&index) {
            return Ok(Some(*at));
        }
        let Some(directory) = &self.redundant else { return Ok(None) };
        let sector = u32::from_le_bytes(directory.entry(index * 4)?);
        Ok((sector != 0).then(|| u64::from(sector) * SECTOR))
    }
}
