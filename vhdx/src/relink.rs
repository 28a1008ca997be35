//! Naming another parent: a new parent locator item. It goes through the log together with its
//! entry in the metadata table, so one or the other parent is named, never half of each.

use vdisk_core::{Error, ParentLink, Result, StoreExt};

use crate::locator::Locator;
use crate::log::SECTOR;
use crate::metadata::{Item, TABLE_BYTES};
use crate::open::VhdxLayer;

const WHAT: &str = "VHDX parent locator";

impl VhdxLayer {
    /// See [`vdisk_core::LayerMut::relink`]. The data write GUID stays: the content does.
    pub(crate) fn relink_to(&mut self, link: &ParentLink) -> Result<()> {
        self.writer_mut()?;
        let locator = Locator::of(link)?;
        let body = locator.encode();
        let (entry_at, entry) = self.place_locator(body.len())?;
        self.begin_aside()?;
        self.make_room(body.len() as u64 / SECTOR + 4)?;
        let region = self.regions.metadata.offset;
        let journal = self.writer_mut()?.view();
        journal.put(&body, region + u64::from(entry.offset), WHAT)?;
        journal.put(&entry.encode(), region + entry_at, WHAT)?;
        self.commit()?;
        if let Some((_, listed)) = self.metadata.locator_entry() {
            *listed = entry;
        }
        self.metadata.locator = Some(locator);
        self.refresh_info()
    }

    /// The entry of the table for a locator of `len` bytes, and where in the region it stands: in
    /// the old one's place, or behind all other items.
    fn place_locator(&mut self, len: usize) -> Result<(u64, Item)> {
        let no_child = || {
            Error::unsupported("only a differencing image names a parent")
                .hint("make a child that keeps what differs with: vdisk convert -b PARENT")
        };
        if !self.metadata.has_parent {
            return Err(no_child());
        }
        let behind = self.metadata.end_of_others().max(TABLE_BYTES);
        let region = self.regions.metadata.length;
        let (at, entry) = self.metadata.locator_entry().ok_or_else(no_child)?;
        let length = u32::try_from(len).unwrap_or(u32::MAX);
        let offset = if length <= entry.length { u64::from(entry.offset) } else { behind };
        match u32::try_from(offset) {
            Ok(offset) if u64::from(offset) + u64::from(length) <= region => {
                Ok((at, Item { offset, length, ..entry.clone() }))
            }
            _ => Err(Error::unsupported("the metadata region has no room for the parent's path")
                .hint("convert the image to a new one with: vdisk convert -b PARENT")),
        }
    }
}
