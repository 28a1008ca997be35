//! Naming another parent: two lines of the descriptor.
//!
//! A power cut may tear a write between two sectors. A change within one sector is written as it
//! is. Otherwise an embedded descriptor is replaced by way of the second half of its area, which
//! its text leaves free: there the new text is put, the sparse header (one sector) leads there,
//! the first half gets the text too, and the header leads back. At any moment one whole text
//! counts. A descriptor in a file of its own has no such way and is written at once.

use vdisk_core::{Error, ParentLink, Result, StoreExt};
use zerocopy::IntoBytes;

use crate::create::content_id;
use crate::descriptor::Descriptor;
use crate::extent::Body;
use crate::header::RawHeader;
use crate::layer::VmdkLayer;
use crate::template::check_name;
use crate::unit::{SECTOR, round_up, to_usize};

const WHAT: &str = "VMDK descriptor";

impl VmdkLayer {
    /// See [`vdisk_core::LayerMut::relink`].
    pub(crate) fn relink_to(&mut self, link: &ParentLink) -> Result<()> {
        self.refuse_change()?;
        if !self.is_delta() {
            return Err(Error::unsupported("only a differencing image names a parent")
                .in_file(self.store_name(0))
                .hint("make a child that keeps what differs with: vdisk convert -b PARENT"));
        }
        check_name(&link.relative)?;
        let mut changed = self.descriptor.clone();
        changed.set_parent(content_id(&link.info)?, &link.relative)?;
        self.change(|layer| {
            for extent in &mut layer.extents {
                extent.flush()?;
            }
            layer.put_descriptor(&changed)?;
            layer.descriptor = changed;
            layer.refresh();
            Ok(())
        })
    }

    /// Replaces the descriptor, so that a power cut leaves the old text or the new one where the
    /// module's introduction says so.
    pub(crate) fn put_descriptor(&mut self, changed: &Descriptor) -> Result<()> {
        let (old, new) = (self.descriptor.to_bytes(), changed.to_bytes());
        if old == new {
            return Ok(());
        }
        match self.place.room {
            Some(room) if new.len() as u64 > room => {
                Err(Error::unsupported("the descriptor has no room for a longer text")
                    .in_file(self.store_name(0))
                    .hint("give a parent in a folder with a shorter path, or convert the disk"))
            }
            Some(room) => match one_sector(&old, &new, self.place.at) {
                Some((at, bytes)) => self.put_text(&bytes, self.place.at + at),
                None => self.replace_embedded(&new, room),
            },
            None => {
                // Empty lines where it was longer: a text cut in a second step could be left with
                // the old one's end.
                let mut text = new;
                text.resize(text.len().max(to_usize(self.descriptor_len()?)), b'\n');
                self.put_text(&text, 0)
            }
        }
    }

    /// Replaces the text in the area of `room` bytes, or in its second half where a power cut
    /// left it.
    fn replace_embedded(&mut self, text: &[u8], room: u64) -> Result<()> {
        let stranded = self.is_stranded(room)?;
        let (first, area) = if stranded { (SECTOR, 2 * room) } else { (self.place.at, room) };
        let half = area / 2 / SECTOR * SECTOR;
        let whole = first..first + area;
        if text.len() as u64 > half || self.descriptor.len() > half {
            self.put_text(&padded(text, area), first)?;
            return self.lead_to(whole);
        }
        let second = first + (area - half)..first + area;
        let text = padded(text, half);
        if !stranded {
            self.put_text(&text, second.start)?;
            self.lead_to(second.clone())?;
        }
        self.put_text(&text, first)?;
        self.lead_to(whole)?;
        self.put_text(&padded(&[], half), second.start)
    }

    /// Whether the descriptor stands in the second half of an area, and the first half, from the
    /// second sector of the file on, begins with a descriptor too.
    fn is_stranded(&self, room: u64) -> Result<bool> {
        let Some(store) = self.stores.first().filter(|_| self.place.at == SECTOR + room) else {
            return Ok(false);
        };
        let mut found = [0; 16];
        store.fetch(&mut found, SECTOR, WHAT)?;
        Ok(self.descriptor.to_bytes().starts_with(&found))
    }

    fn descriptor_len(&self) -> Result<u64> {
        self.stores.first().ok_or_else(|| Error::internal("no descriptor file"))?.size()
    }

    fn put_text(&self, text: &[u8], at: u64) -> Result<()> {
        let store = self.stores.first().ok_or_else(|| Error::internal("no descriptor file"))?;
        store.put(text, at, WHAT)?;
        store.flush()
    }

    /// Has the sparse header say that the descriptor stands at `range`.
    fn lead_to(&mut self, range: std::ops::Range<u64>) -> Result<()> {
        let room = range.end - range.start;
        let set = |raw: &mut RawHeader| {
            raw.descriptor_offset = (range.start / SECTOR).into();
            raw.descriptor_size = (room / SECTOR).into();
        };
        let Some(Body::Hosted(hosted)) = self.extents.first_mut().map(|first| &mut first.body)
        else {
            return Err(Error::internal("an embedded descriptor outside of a sparse file"));
        };
        let mut raw = hosted.header.raw;
        set(&mut raw);
        if raw.as_bytes() != hosted.header.raw.as_bytes() {
            hosted.tables.store.put(raw.as_bytes(), 0, "VMDK sparse header")?;
            hosted.tables.store.flush()?;
            hosted.header.raw = raw;
            hosted.header.descriptor = Some(range.clone());
            self.place.at = range.start;
            self.place.room = Some(room);
        }
        Ok(())
    }
}

fn padded(text: &[u8], len: u64) -> Vec<u8> {
    let mut bytes = text.to_vec();
    bytes.resize(to_usize(len), 0);
    bytes
}

/// The only sector in which two texts that stand at byte `at` of a file differ: where it starts,
/// from the text's start, and its new bytes.
fn one_sector(old: &[u8], new: &[u8], at: u64) -> Option<(u64, Vec<u8>)> {
    let len = round_up(old.len().max(new.len()) as u64, SECTOR);
    let (old, new) = (padded(old, len), padded(new, len));
    let size = to_usize(SECTOR);
    let pairs = (0u64..).step_by(size).zip(old.chunks(size).zip(new.chunks(size)));
    let mut differing = pairs.filter(|(_, (old, new))| old != new);
    let (start, (_, bytes)) = differing.next()?;
    let alone = differing.next().is_none() && at.is_multiple_of(SECTOR);
    alone.then(|| (start, bytes.to_vec()))
}
