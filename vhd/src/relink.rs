//! Naming another parent.
//!
//! The dynamic header has no copy, and a power cut may tear it between its two sectors. So where
//! both change, it is never rewritten while it counts: a new one is put behind the blocks, the
//! footers lead there, the old place gets the same header, and the footers lead back. Each of
//! these steps is durable before the next, and a footer is one sector: at any moment one whole
//! header counts. The paths' data goes to fresh space.

use vdisk_core::{Error, ParentLink, Result, StoreExt};

use crate::facts;
use crate::footer::{FOOTER, Footer};
use crate::footers::Footers;
use crate::header::{HEADER, Header};
use crate::open::{Body, VhdLayer};
use crate::parent::Parent;
use crate::shape::{SECTOR, to_usize};
use crate::sparse::{Sparse, metadata};

impl VhdLayer {
    /// See [`vdisk_core::LayerMut::relink`].
    pub(crate) fn relink_to(&mut self, link: &ParentLink) -> Result<()> {
        let no_child = || {
            Error::unsupported("only a differencing image names a parent")
                .in_file(self.stores[0].name())
                .hint("make a child that keeps what differs with: vdisk convert -b PARENT")
        };
        let sparse = match &mut self.body {
            Body::Sparse(sparse) if sparse.differencing => sparse,
            _ => return Err(no_child()),
        };
        let parent = Parent::new(link)?;
        self.failed = true;
        sparse.relink(&parent)?;
        self.failed = false;
        self.refresh()
    }

    /// Tells anew what the layer is.
    fn refresh(&mut self) -> Result<()> {
        let store = &*self.stores[0];
        if let Some(footers) = Footers::find(store)? {
            self.info = facts::describe(store, &footers, &self.body, self.info.virtual_size);
        }
        Ok(())
    }
}

impl Sparse {
    fn relink(&mut self, parent: &Parent) -> Result<()> {
        self.flush()?;
        self.prepare()?;
        let old = self.header.parent().locators;
        let mut end = self.end;
        let mut fresh = Vec::new();
        let places = parent.paths.each_ref().map(|path| {
            path.place_in(&*self.store, &old).unwrap_or_else(|| {
                let at = end;
                fresh.push((path, at));
                end += path.room();
                at
            })
        });
        let mut header = self.header.clone();
        header.set_parent(&parent.fields(places));
        let sector = to_usize(SECTOR);
        let (bytes, was) = (header.to_bytes(), self.header.to_bytes());
        if bytes.get(sector..) == was.get(sector..) {
            let first = bytes.get(..sector).unwrap_or(&bytes);
            self.store.put(first, header.at, "VHD dynamic header")?;
        } else {
            self.refuse_stray_locators(self.end, end + HEADER + FOOTER)?;
            self.move_end(end + HEADER)?;
            for (path, at) in fresh {
                path.put(&*self.store, at)?;
            }
            self.replace_header(&header, end)?;
        }
        self.store.flush()?;
        self.metadata = metadata(&header, true, self.store.size()?);
        self.header = header;
        Ok(())
    }

    /// Replaces the header by way of byte `detour`, where the file then ends.
    fn replace_header(&mut self, header: &Header, detour: u64) -> Result<()> {
        let mut led_away = self.footer.clone();
        led_away.set_data_offset(detour);
        for (at, footer) in [(detour, led_away), (header.at, self.footer.clone())] {
            self.store.put(&header.to_bytes(), at, "VHD dynamic header")?;
            self.store.flush()?;
            self.put_footers(&footer)?;
        }
        self.end = detour;
        self.put_tail()
    }

    /// Writes a footer to both of its places, one after the other.
    fn put_footers(&self, footer: &Footer) -> Result<()> {
        for (at, what) in [(0, "VHD footer copy"), (self.end, "VHD footer")] {
            self.store.put(&footer.to_bytes(), at, what)?;
            self.store.flush()?;
        }
        Ok(())
    }
}
