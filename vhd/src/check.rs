//! Checking an image: every rule of the format, with a stable code for each.
//!
//! What keeps an image from being opened at all is reported by [`open`](crate::open()) and so has
//! no code here.

use std::ops::Range;

use vdisk_core::check::Claims;
use vdisk_core::{Findings, Result, Severity, Store, StoreExt, whole_pages};

use crate::facts::geometry_size;
use crate::footer::{Damage, FOOTER, Footer};
use crate::footers::{Footers, Place};
use crate::geometry::Geometry;
use crate::locator::{MAX_DATA, hints};
use crate::open::{Body, Fixed, VhdLayer};
use crate::shape::{ALIGNMENT, SECTOR};
use crate::sparse::{Misplaced, Sparse};

/// Checks an open image.
///
/// Codes of corruptions: `vhd-footer-missing`, `vhd-footer-checksum`, `vhd-footer-copy-missing`,
/// `vhd-footer-copy-checksum`, `vhd-footer-copies-differ`, `vhd-header-checksum`,
/// `vhd-block-outside`, `vhd-block-in-metadata`, `vhd-block-overlap`, `vhd-parent-id-missing`,
/// `vhd-parent-unnamed`, `vhd-locator-outside`, `vhd-locator-too-long`, `vhd-locator-overlap`.
///
/// Of leaks: `vhd-orphan-space`, `vhd-block-beyond-disk`.
///
/// Of notes: `vhd-footer-short`, `vhd-footer-gap`, `vhd-features`, `vhd-size-unaligned`,
/// `vhd-size-below-file`, `vhd-original-size`, `vhd-geometry`, `vhd-unique-id-missing`, `vhd-saved-state`, `vhd-reserved`, `vhd-header-unused`,
/// `vhd-table-long`, `vhd-too-many-blocks`, `vhd-bitmap-partial`, `vhd-bitmap-odd`,
/// `vhd-parent-unused`, `vhd-locator-unknown`, `vhd-space-free`.
pub(crate) fn check(layer: &VhdLayer, findings: &mut Findings) -> Result<()> {
    let Some(footers) = Footers::find(&*layer.stores[0])? else { return Ok(()) };
    match &layer.body {
        Body::Fixed(fixed) => {
            check_footer(&fixed.footer, &footers.tail, findings);
            check_fixed(fixed, findings);
        }
        Body::Sparse(sparse) => {
            check_footer(&sparse.footer, &footers.tail, findings);
            check_copies(&footers, findings);
            check_header(sparse, findings);
            check_parent(sparse, &footers, findings);
            check_blocks(sparse, &footers, findings)?;
        }
    }
    Ok(())
}

fn note(findings: &mut Findings, code: &'static str, at: u64, message: String) {
    findings.add(Severity::Note, code, at, message);
}

fn check_footer(footer: &Footer, tail: &Place, findings: &mut Findings) {
    let at = tail.at;
    if tail.len != FOOTER {
        let message = "a footer of 511 bytes, as Virtual PC wrote before 2004".to_owned();
        note(findings, "vhd-footer-short", at, message);
    }
    if footer.features() & !1 != 2 {
        let message = format!("features are {:#x}, not 2", footer.features());
        note(findings, "vhd-features", at, message);
    }
    let size = footer.current_size();
    if !size.is_multiple_of(SECTOR) {
        let message = format!("current size {size} is no multiple of 512; the rest is not seen");
        note(findings, "vhd-size-unaligned", at, message);
    }
    let original = footer.original_size();
    if original != size {
        let message = format!("libvhdi takes the original size {original} for the current {size}");
        note(findings, "vhd-original-size", at, message);
    }
    check_geometry(footer, at, findings);
    if footer.unique_id().is_nil() {
        note(findings, "vhd-unique-id-missing", at, "the unique id is zero".to_owned());
    }
    if !footer.reserved_is_zero() {
        note(findings, "vhd-reserved", at, "reserved bytes are not zero".to_owned());
    }
    if footer.saved_state() {
        let message = "the disk belongs to a machine in saved state".to_owned();
        note(findings, "vhd-saved-state", at, message);
    }
}

/// The specification's geometry may fall short of the size by a cylinder, which matters to nobody
/// but Virtual PC, and to qemu for the creators whose geometry it believes.
fn check_geometry(footer: &Footer, at: u64, findings: &mut Findings) {
    let (geometry, size) = (footer.geometry(), footer.current_size());
    let usual = [Geometry::MAX, Geometry::of(size)].contains(&geometry) || geometry.size() == size;
    let believed = [*b"vpc ", *b"qemu"].contains(&footer.creator_application());
    if !usual || (believed && geometry_size(footer).is_some_and(|by_geometry| by_geometry != size))
    {
        let message = format!(
            "the geometry gives {} bytes, the current size is {size}: programs that go by the \
             geometry see another disk",
            geometry.size()
        );
        note(findings, "vhd-geometry", at, message);
    }
}

fn check_fixed(fixed: &Fixed, findings: &mut Findings) {
    let size = fixed.footer.current_size();
    if fixed.footer_at > size.next_multiple_of(SECTOR) {
        let message =
            format!("{} bytes stand before the footer, the disk has {size}", { fixed.footer_at });
        note(findings, "vhd-size-below-file", size, message);
    }
}

fn check_copies(footers: &Footers, findings: &mut Findings) {
    let places = [
        (&footers.tail, "vhd-footer-missing", "vhd-footer-checksum"),
        (&footers.copy, "vhd-footer-copy-missing", "vhd-footer-copy-checksum"),
    ];
    for (place, missing, checksum) in places {
        match place.found {
            Ok(_) => {}
            Err(Damage::Cookie) => {
                findings.corruption(missing, place.at, "there is no footer");
            }
            Err(Damage::Checksum { found, expected }) => {
                let message = format!("checksum {found:#010x}, the content gives {expected:#010x}");
                findings.corruption(checksum, place.at, message);
            }
        }
    }
    if let (Ok(tail), Ok(copy)) = (&footers.tail.found, &footers.copy.found)
        && tail.to_bytes() != copy.to_bytes()
    {
        let message = "the footer differs from its copy at byte 0";
        findings.corruption("vhd-footer-copies-differ", footers.tail.at, message);
    }
}

fn check_header(sparse: &Sparse, findings: &mut Findings) {
    let header = &sparse.header;
    if !header.checksum_ok {
        findings.corruption("vhd-header-checksum", header.at, "the checksum is wrong");
    }
    if !sparse.differencing && sparse.header.parent().unique_id.is_nil() && !header.is_plain() {
        let message = "fields that mean nothing in a disk without parent are not empty".to_owned();
        note(findings, "vhd-header-unused", header.at, message);
    }
    let (entries, needed) = (header.entries(), sparse.shape.blocks(sparse.size));
    if u64::from(entries) > needed {
        let message = format!("{entries} table entries where {needed} are needed: Azure refuses");
        note(findings, "vhd-table-long", header.at, message);
    }
}

fn check_parent(sparse: &Sparse, footers: &Footers, findings: &mut Findings) {
    let at = sparse.header.at;
    let parent = sparse.header.parent();
    if !sparse.differencing {
        if !parent.unique_id.is_nil() {
            let message = "a dynamic disk names a parent, which nobody reads".to_owned();
            note(findings, "vhd-parent-unused", at, message);
        }
        return;
    }
    if parent.unique_id.is_nil() {
        findings.corruption("vhd-parent-id-missing", at, "the parent's unique id is zero");
    }
    if hints(&*sparse.store, &parent.locators, &parent.name).is_empty() {
        let message = "no locator and no name leads to the parent";
        findings.corruption("vhd-parent-unnamed", at, message);
    }
    for locator in parent.locators.iter().filter(|locator| locator.is_used()) {
        let (code, start, len) = (locator.code(), locator.at(), locator.len());
        let range = start..start.saturating_add(len);
        let header = at..at + crate::header::HEADER;
        if !locator.is_known() {
            let message = format!("locator {code:?} is of an unknown platform");
            note(findings, "vhd-locator-unknown", at, message);
        }
        if len > MAX_DATA {
            let message = format!("locator {code:?} has {len} bytes, more than any path");
            findings.corruption("vhd-locator-too-long", start, message);
        } else if range.end > footers.file_len {
            let message = format!("locator {code:?} reaches beyond the end of the file");
            findings.corruption("vhd-locator-outside", start, message);
        } else if [0..FOOTER, header, sparse.bat.range()].iter().any(|taken| meet(taken, &range)) {
            let message = format!("locator {code:?} lies over footer, header or block table");
            findings.corruption("vhd-locator-overlap", start, message);
        }
    }
}

fn meet(a: &Range<u64>, b: &Range<u64>) -> bool {
    a.start < b.end && b.start < a.end
}

/// Checks each block's place and bitmap, and that all space is taken by something.
fn check_blocks(sparse: &Sparse, footers: &Footers, findings: &mut Findings) -> Result<()> {
    let Some(blocks) = sparse.survey()? else {
        let message = "more blocks than are looked at; their places were not checked".to_owned();
        note(findings, "vhd-too-many-blocks", sparse.bat.entry_at(0), message);
        return Ok(());
    };
    let mut space = Space::new(sparse);
    let mut bitmaps = BitmapCounts::default();
    let needed = sparse.shape.blocks(sparse.size);
    for (sector, block) in blocks {
        let place = sparse.place_of(block, sector);
        let (entry_at, at) = (sparse.bat.entry_at(block), place.bitmap);
        match sparse.misplaced(place) {
            Some(Misplaced::Outside) => {
                let message = format!(
                    "block {block} at byte {at} reaches beyond the file's end: its bytes are not \
                     in this file; take the whole file again, or a backup"
                );
                findings.corruption("vhd-block-outside", entry_at, message);
                continue;
            }
            Some(Misplaced::InMetadata) => {
                let message = format!(
                    "block {block} at byte {at} lies over other structures: the entry is wrong, \
                     and what it was is not known"
                );
                findings.corruption("vhd-block-in-metadata", entry_at, message);
                continue;
            }
            None => {}
        }
        if let Some(other) = space.take_block(at, block) {
            let message = format!(
                "block {block} at byte {at} overlaps block {other}: one of the two is not this \
                 block's content; convert the image and see which"
            );
            findings.corruption("vhd-block-overlap", entry_at, message);
            continue;
        }
        if u64::from(block) >= needed {
            let message = format!("block {block} lies beyond the disk's end");
            findings.add(Severity::Leak, "vhd-block-beyond-disk", entry_at, message);
        }
        bitmaps.count(sparse, at)?;
    }
    bitmaps.report(sparse, findings);
    report_free(&space.free(footers), &*sparse.store, findings)
}

/// What no block and nothing else uses, in an image whose blocks are where they may be; `None`
/// where there are more blocks than are looked at.
pub(crate) fn free_space(sparse: &Sparse, footers: &Footers) -> Result<Option<Free>> {
    let Some(blocks) = sparse.survey()? else { return Ok(None) };
    let mut space = Space::new(sparse);
    for (sector, block) in blocks {
        let _ = space.take_block(sparse.place_of(block, sector).bitmap, block);
    }
    Ok(Some(space.free(footers)))
}

/// A stretch that nothing takes and that is as long as a block is a leak: what a power cut leaves
/// behind. Less than that is padding, and holes of the host file take no space.
fn report_free(free: &Free, store: &dyn Store, findings: &mut Findings) -> Result<()> {
    let mut holes = 0;
    for gap in &free.gaps {
        let stored = free.stored(store, gap)?;
        if stored > 0 {
            let message = format!("{} bytes that no block uses", gap.end - gap.start);
            findings.add(Severity::Leak, "vhd-orphan-space", gap.start, message);
        } else {
            holes += gap.end - gap.start;
        }
    }
    if let Some(first) = free.gaps.first().filter(|_| holes > 0) {
        let message = format!("{holes} bytes that no block uses are holes, which take no space");
        note(findings, "vhd-space-free", first.start, message);
    }
    // Windows keeps the file's length a multiple of 4 KiB.
    if (ALIGNMENT + 1..free.slot).contains(&free.padding) {
        let message = format!("{} bytes stand between the last block and the footer", free.padding);
        note(findings, "vhd-footer-gap", free.end, message);
    }
    Ok(())
}

/// The space of the file that nothing takes.
pub(crate) struct Free {
    /// Stretches in which a block has room, in order.
    pub(crate) gaps: Vec<Range<u64>>,
    /// Bytes between all that is used and the footer.
    padding: u64,
    /// Where all that is used ends.
    end: u64,
    slot: u64,
    /// Where the footer at the end stands, or should.
    footer_at: u64,
}

impl Free {
    /// Bytes of a gap that could be given back: before the footer all of them, elsewhere what the
    /// host stores of whole pages.
    pub(crate) fn stored(&self, store: &dyn Store, gap: &Range<u64>) -> Result<u64> {
        if gap.end == self.footer_at {
            return Ok(gap.end - gap.start);
        }
        store.stored(whole_pages(gap), 1)
    }
}

/// The space of the file that something takes, followed from its start to its end.
struct Space {
    slot: u64,
    /// Footer copy, header, table and locators, which are few and may stand anywhere.
    fixed: Claims,
    /// Blocks come in ascending order; gaps before them are known at once.
    gaps: Vec<Range<u64>>,
    end: u64,
    last_block: Option<u32>,
}

impl Space {
    /// Gaps kept; those beyond wait for the next look.
    const MOST_GAPS: usize = 1 << 16;

    fn new(sparse: &Sparse) -> Self {
        let mut fixed = Claims::new();
        for range in
            sparse.metadata.iter().chain(sparse.batmap_ranges()).chain([&sparse.bat.range()])
        {
            fixed.take(range.start, range.end - range.start);
        }
        Self { slot: sparse.shape.slot(), fixed, gaps: Vec::new(), end: 0, last_block: None }
    }

    /// Takes the slot of a block; returns the block that has part of it already.
    fn take_block(&mut self, at: u64, block: u32) -> Option<u32> {
        if at < self.end {
            return self.last_block;
        }
        self.gap(at);
        self.end = at + self.slot;
        self.last_block = Some(block);
        None
    }

    /// Remembers what lies between the last block and `to`, if a lost block could.
    fn gap(&mut self, to: u64) {
        if to.saturating_sub(self.end) < self.slot || self.gaps.len() >= Self::MOST_GAPS {
            return;
        }
        let free = self.fixed.gaps(self.end..to);
        let free = free.into_iter().filter(|(_, len)| *len >= self.slot);
        self.gaps.extend(free.map(|(start, len)| start..start + len));
    }

    /// What is left once all blocks are taken.
    fn free(mut self, footers: &Footers) -> Free {
        let footer_at = if footers.tail.found.is_ok() { footers.tail.at } else { footers.file_len };
        let end = self.end.max(self.fixed.end());
        self.gap(footer_at);
        let padding = footer_at.saturating_sub(end);
        Free { gaps: self.gaps, padding, end, slot: self.slot, footer_at }
    }
}

/// What bitmaps say that some programs do not understand.
#[derive(Default)]
struct BitmapCounts {
    partial: u64,
    odd: u64,
    first: Option<u64>,
}

impl BitmapCounts {
    fn count(&mut self, sparse: &Sparse, at: u64) -> Result<()> {
        let bits = sparse.bitmaps.read(at)?;
        let sectors = sparse.shape.sectors();
        let (mut sector, mut partial, mut odd) = (0, false, false);
        while sector < sectors {
            let (present, stop) = bits.run(sector, sectors);
            partial |= !present;
            // libvhdi takes the rest of a byte for present after its first set bit.
            odd |= present && stop < sectors && !stop.is_multiple_of(8);
            sector = stop;
        }
        self.partial += u64::from(partial);
        self.odd += u64::from(odd);
        if partial || odd {
            self.first.get_or_insert(at);
        }
        Ok(())
    }

    fn report(&self, sparse: &Sparse, findings: &mut Findings) {
        let at = self.first.unwrap_or_default();
        if self.odd > 0 {
            let message = format!("{} blocks have bitmaps that libvhdi misreads", self.odd);
            note(findings, "vhd-bitmap-odd", at, message);
        }
        if self.partial > 0 && !sparse.differencing {
            let message = format!(
                "{} blocks have sectors that are not present, which qemu reads nevertheless",
                self.partial
            );
            note(findings, "vhd-bitmap-partial", at, message);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vdisk_core::{Layer, MemFiles, MemStore};

    use super::*;
    use crate::{CreateOptions, OpenOptions, create, open};

    #[test]
    fn a_new_image_is_clean_and_a_wrong_geometry_is_noted() {
        let mut files = MemFiles::new("a.vhd");
        create(&mut files, &CreateOptions::new(10 << 20)).unwrap().finish().unwrap();
        let bytes = files.get("a.vhd").unwrap().to_bytes();
        let codes = |bytes: &[u8]| {
            let store = Arc::new(MemStore::from_bytes("t", bytes));
            let layer = open(store, &OpenOptions::default()).unwrap();
            let mut findings = Findings::new();
            layer.check(&mut findings).unwrap();
            findings.list().iter().map(|finding| finding.code).collect::<Vec<_>>()
        };
        assert!(codes(&bytes).is_empty());
        let mut cut = bytes.clone();
        cut.truncate(bytes.len() - 512);
        assert_eq!(codes(&cut), ["vhd-footer-missing"]);
    }
}
