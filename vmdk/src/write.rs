//! Changing a disk in place.
//!
//! The first change after opening gives the content a new id and withdraws the change tracking
//! file, both durable before any guest byte moves: a child made from the old content must find
//! out. Grains are written before the entries that show them (see [`crate::allocate`]).

use std::ops::Range;

use vdisk_core::disk::in_range;
use vdisk_core::{
    Compaction, Disk, Error, ErrorKind, Findings, LayerMut, ParentLink, Result, Severity, StoreExt,
    Vacant, Watch,
};

use crate::allocate::Below;
use crate::check::{check_hosted, sharing_extents};
use crate::extent::{Body, Extent};
use crate::facts;
use crate::layer::VmdkLayer;
use crate::template::new_cid;

impl VmdkLayer {
    /// Makes the layer writable, where its variant is one that can be changed and its tables are
    /// sound: a block used twice would carry a change to a place it was not meant for.
    pub(crate) fn allow_writing(&mut self) -> Result<()> {
        if let Some(index) = sharing_extents(self).first() {
            let message = "this extent shares a part of its file with another one";
            return Err(Error::corrupt("VMDK descriptor", self.line_at(*index), message)
                .in_file(self.store_name(0))
                .hint("a change of one extent would change the other; the disk is only read"));
        }
        for extent in &self.extents {
            match &extent.body {
                Body::Zero | Body::Flat(_) => {}
                Body::Hosted(hosted) => {
                    let mut findings = Findings::new();
                    let complete = check_hosted(hosted, &mut findings)?;
                    // The list may have ended before the first corruption came.
                    if findings.count(Severity::Corruption) > 0 {
                        let mut list = findings.list().iter();
                        let worst = list.find(|f| f.severity == Severity::Corruption);
                        let message = worst.map_or("its tables are damaged", |f| &f.message);
                        let at = worst.and_then(|f| f.offset).unwrap_or_default();
                        return Err(Error::corrupt("VMDK grain tables", at, message)
                            .in_file(hosted.tables.store.name())
                            .hint("check the image; while its tables are wrong it is only read"));
                    }
                    if !complete {
                        return Err(Error::unsupported("the file is too scattered to be changed")
                            .in_file(hosted.tables.store.name())
                            .hint("convert it to a new image, which is in order"));
                    }
                }
                Body::Stream(_) | Body::Foreign(_) => {
                    return Err(Error::unsupported(format!(
                        "{} is only read, not changed in place",
                        self.info.subformat
                    ))
                    .in_file(self.store_name(extent.store))
                    .hint("convert it to monolithicSparse or a flat variant first"));
                }
            }
        }
        self.writable = true;
        Ok(())
    }

    pub(crate) fn store_name(&self, index: usize) -> std::path::PathBuf {
        self.stores.get(index).map(|store| store.name().to_owned()).unwrap_or_default()
    }

    /// Fails where changing is not allowed now.
    pub(crate) fn refuse_change(&self) -> Result<()> {
        let refused = if !self.writable {
            "the disk was opened for reading only"
        } else if self.broken {
            "an earlier change failed; open the disk again"
        } else {
            return Ok(());
        };
        Err(Error::new(ErrorKind::Denied, refused).in_file(self.store_name(0)))
    }

    /// Does `action`; where it fails, what is in memory no longer says what is in the files, and
    /// nothing further may be written.
    pub(crate) fn change<T>(&mut self, action: impl FnOnce(&mut Self) -> Result<T>) -> Result<T> {
        let result = action(self);
        self.broken |= result.is_err();
        result
    }

    /// Gives the content its new id, once in a session.
    pub(crate) fn stamp(&mut self) -> Result<()> {
        if self.stamped { Ok(()) } else { self.stamp_as(new_cid()) }
    }

    /// Gives the content this id; no other follows in this session.
    fn stamp_as(&mut self, cid: u32) -> Result<()> {
        let Some(store) = self.stores.first() else { return Ok(()) };
        for (at, bytes) in self.descriptor.stamp(cid) {
            store.put(&bytes, self.place.at + at, "VMDK descriptor")?;
        }
        store.flush()?;
        self.stamped = true;
        self.refresh();
        Ok(())
    }

    /// Tells anew what the layer is.
    pub(crate) fn refresh(&mut self) {
        self.info = facts::info(&self.descriptor, &self.extents);
    }

    /// Calls `action` for each extent that `range` touches, with the part of the extent; `zeros`:
    /// only zeros are to be written, which extents without a file hold already.
    fn each_extent(
        &mut self,
        range: Range<u64>,
        zeros: bool,
        below: &dyn Disk,
        mut action: impl FnMut(&mut Extent, Range<u64>, &Below<'_>) -> Result<()>,
    ) -> Result<()> {
        in_range(range.start, range.end.saturating_sub(range.start), self.info.virtual_size)?;
        self.refuse_change()?;
        if range.is_empty() {
            return Ok(());
        }
        let first = self.extent_index(range.start);
        let delta = self.is_delta();
        for extent in self.extents.iter().skip(first).take_while(|e| e.start < range.end) {
            let nothing = zeros && matches!(extent.body, Body::Zero);
            if !(extent.writable || nothing) {
                return Err(Error::new(ErrorKind::Denied, "this extent of the disk is read-only")
                    .in_file(self.store_name(extent.store)));
            }
        }
        self.change(|layer| {
            layer.stamp()?;
            for extent in layer.extents.iter_mut().skip(first) {
                if extent.start >= range.end {
                    break;
                }
                let part = range.start.max(extent.start)..range.end.min(extent.end());
                let below = Below { disk: below, start: extent.start, delta };
                action(extent, part, &below)?;
            }
            Ok(())
        })
    }
}

impl LayerMut for VmdkLayer {
    fn write(&mut self, data: &[u8], offset: u64, below: &dyn Disk) -> Result<()> {
        let end = offset.saturating_add(data.len() as u64);
        self.each_extent(offset..end, false, below, |extent, part, below| {
            let from = crate::unit::to_usize(part.start - offset);
            let piece = data.get(from..crate::unit::to_usize(part.end - offset));
            let piece = piece.ok_or_else(|| Error::internal("a part outside the data"))?;
            extent.write(piece, part.start - extent.start, below)
        })
    }

    fn zero(&mut self, range: Range<u64>, below: &dyn Disk) -> Result<()> {
        self.each_extent(range, true, below, |extent, part, below| {
            extent.zero(part.start - extent.start..part.end - extent.start, below)
        })
    }

    fn resize(&mut self, virtual_size: u64) -> Result<()> {
        self.resize_to(virtual_size)
    }

    fn fresh_identity(&self) -> Option<String> {
        Some(format!("{:08x}", self.descriptor.fitting_cid(new_cid())))
    }

    fn set_identity(&mut self, identity: &str) -> Result<()> {
        self.refuse_change()?;
        let cid = u32::from_str_radix(identity, 16)
            .map_err(|_| Error::usage(format!("{identity:?} is no content id")))?;
        self.change(|layer| layer.stamp_as(cid))
    }

    fn relink(&mut self, link: &ParentLink) -> Result<()> {
        self.relink_to(link)
    }

    fn compact(&mut self, vacant: &Vacant, watch: Watch<'_>) -> Result<Compaction> {
        self.compact_extents(vacant, watch)
    }

    fn flush(&mut self) -> Result<()> {
        self.refuse_change()?;
        self.change(|layer| {
            for extent in &mut layer.extents {
                extent.flush()?;
            }
            Ok(())
        })
    }

    fn close(&mut self) -> Result<()> {
        if !self.writable {
            return Ok(());
        }
        self.refuse_change()?;
        self.change(|layer| {
            for extent in &mut layer.extents {
                extent.flush()?;
            }
            for extent in &mut layer.extents {
                if let Body::Hosted(hosted) = &mut extent.body {
                    hosted.unmark()?;
                }
            }
            layer.refresh();
            Ok(())
        })
    }
}

impl Extent {
    fn write(&mut self, data: &[u8], at: u64, below: &Below<'_>) -> Result<()> {
        match &mut self.body {
            Body::Flat(flat) => {
                flat.require(at, data.len() as u64)?;
                flat.store.put(data, flat.offset + at, "guest data")
            }
            Body::Hosted(hosted) => hosted.write(data, at, below),
            _ => Err(Error::internal("an extent that cannot be written")),
        }
    }

    fn zero(&mut self, range: Range<u64>, below: &Below<'_>) -> Result<()> {
        match &mut self.body {
            Body::Zero => Ok(()),
            Body::Flat(flat) => {
                flat.require(range.start, range.end - range.start)?;
                flat.store.clear(flat.offset + range.start, range.end - range.start, "guest data")
            }
            Body::Hosted(hosted) => hosted.zero(range, below),
            _ => Err(Error::internal("an extent that cannot be written")),
        }
    }

    pub(crate) fn flush(&mut self) -> Result<()> {
        match &mut self.body {
            Body::Flat(flat) if self.writable => flat.store.flush(),
            Body::Hosted(hosted) if self.writable => hosted.flush(),
            _ => Ok(()),
        }
    }
}
