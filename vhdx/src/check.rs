//! Checking an image: every structure again, and what of the file they take together.
//!
//! | code | severity | means |
//! | --- | --- | --- |
//! | `vhdx-header-invalid` | corruption | one of the two headers is not valid |
//! | `vhdx-header-stale` | note | the older header tells of another content or log |
//! | `vhdx-header-equal` | note | both headers have the same sequence number |
//! | `vhdx-guid-nil` | note | the file write or data write GUID is zero |
//! | `vhdx-log-dirty` | note | a log waits to be replayed |
//! | `vhdx-log-empty` | corruption | the header names a log of which nothing is left |
//! | `vhdx-region-table-invalid` | corruption | one of the two region tables is not valid |
//! | `vhdx-region-tables-differ` | corruption | both are valid, but not the same |
//! | `vhdx-region-not-required` | note | BAT or metadata are not marked as required, as by qemu |
//! | `vhdx-region-unknown` | note | a region nobody here knows |
//! | `vhdx-metadata-flags` | corruption | an item has other flags than it must have |
//! | `vhdx-metadata-unknown` | note | an item nobody here knows |
//! | `vhdx-locator-stray` | note | a disk without parent has a parent locator |
//! | `vhdx-locator-no-path` | corruption | the parent locator names no path |
//! | `vhdx-bat-entry` | corruption | an entry has an unknown state or reserved bits |
//! | `vhdx-bat-offset-kept` | note | a block of zeros has an offset, which Hyper-V refuses |
//! | `vhdx-bat-shifted` | corruption | a slot that means nothing names a block: qemu before 8.0.1 moved entries |
//! | `vhdx-bat-unused-slot` | note | a slot that means nothing is not 0 |
//! | `vhdx-partial-without-parent` | corruption | a partially present block, but no parent |
//! | `vhdx-bitmap-missing` | corruption | a partially present block has no sector bitmap |
//! | `vhdx-block-misplaced` | corruption | a block stands where headers, log or regions stand |
//! | `vhdx-block-outside-file` | corruption | a block reaches beyond the file's end |
//! | `vhdx-block-cut` | note | the file ends with the disk, before the last block's end |
//! | `vhdx-block-overlap` | corruption | two blocks share bytes |
//! | `vhdx-space-leaked` | leak | bytes of the file belong to nothing (below 1 MiB a note) |
//! | `vhdx-space-free` | note | as before, but they are holes of the host file |
//! | `vhdx-file-ragged` | note | the file does not end at a multiple of 1 MiB |
//! | `vhdx-file-too-long` | note | the file is longer than any VHDX can be |

use std::ops::Range;

use uuid::Uuid;
use vdisk_core::{Error, Findings, Result, Severity, Store};

use crate::bat::{self, BITMAP_BYTES, ENTRY, Payload, Slot, State};
use crate::header::{self, Slots};
use crate::map::Map;
use crate::metadata::{ENTRIES_AT, IS_REQUIRED, IS_USER, IS_VIRTUAL_DISK, Item, item};
use crate::open::{LogState, VhdxLayer};
use crate::region;
use crate::space::Space;
use crate::{MAX_FILE, MIB};

/// See [`vdisk_core::Layer::check`].
///
/// # Errors
/// The host's.
pub(crate) fn check(layer: &VhdxLayer, findings: &mut Findings) -> Result<()> {
    headers(layer, findings)?;
    log(layer, findings);
    regions(layer, findings);
    items(layer, findings);
    let space = space(layer, findings)?;
    free_space(layer, findings, &space)
}

/// What of the file is taken, with what is wrong with the block table on the way.
pub(crate) fn space(layer: &VhdxLayer, findings: &mut Findings) -> Result<Space> {
    let mut table = Table { map: &layer.map, findings, space: Space::default() };
    table.walk()?;
    Ok(table.space)
}

fn headers(layer: &VhdxLayer, findings: &mut Findings) -> Result<()> {
    let slots = Slots::read(&**layer.file()?).slots;
    for (slot, at) in slots.iter().zip(header::SLOTS) {
        if let Err(why) = slot {
            findings.corruption(
                "vhdx-header-invalid",
                at,
                format!("the header is not valid: {why}"),
            );
        }
    }
    let current = &layer.current;
    if current.header.file_write.is_nil() || current.header.data_write.is_nil() {
        let message = "the file write or data write GUID is zero";
        let at = header::slot_offset(current.slot);
        findings.add(Severity::Note, "vhdx-guid-nil", at, message);
    }
    let [Ok(first), Ok(second)] = &slots else { return Ok(()) };
    let older = header::slot_offset(usize::from(first.sequence > second.sequence));
    if first.sequence == second.sequence {
        let message = format!("both headers have sequence number {}", first.sequence);
        findings.add(Severity::Note, "vhdx-header-equal", older, message);
    } else if (first.data_write, first.log) != (second.data_write, second.log) {
        let message = "the older header tells of another content or log than the current one";
        findings.add(Severity::Note, "vhdx-header-stale", older, message);
    }
    Ok(())
}

fn log(layer: &VhdxLayer, findings: &mut Findings) {
    let at = layer.current.header.log_offset;
    match layer.log_state {
        LogState::Clean => {}
        LogState::Replayed => {
            let message = "the log waits to be replayed; the rest is checked as if it had been";
            findings.add(Severity::Note, "vhdx-log-dirty", at, message);
        }
        LogState::Lost => {
            let message = "the header names a log of which no entry is valid";
            findings.corruption("vhdx-log-empty", at, message);
        }
    }
}

fn regions(layer: &VhdxLayer, findings: &mut Findings) {
    let regions = &layer.regions;
    for (fault, at) in regions.faults.iter().zip(region::COPIES) {
        if let Some(why) = fault {
            let message = format!("the table is not valid: {why}");
            findings.corruption("vhdx-region-table-invalid", at, message);
        }
    }
    let [first, second] = region::COPIES;
    if !regions.identical && regions.faults == [None, None] {
        let message = "the second table differs from the first, which is used";
        findings.corruption("vhdx-region-tables-differ", second, message);
    }
    for listed in &regions.list {
        let known = [region::BAT, region::METADATA].contains(&listed.guid);
        if known && !listed.required {
            let message = format!("region {} is not marked as required", listed.guid);
            findings.add(Severity::Note, "vhdx-region-not-required", first, message);
        }
        if !known {
            let message = format!("unknown region {}, {} bytes", listed.guid, listed.length);
            findings.add(Severity::Note, "vhdx-region-unknown", listed.offset, message);
        }
    }
}

fn items(layer: &VhdxLayer, findings: &mut Findings) {
    let at = layer.regions.metadata.offset;
    for WrongFlags { id, at, found, expected } in wrong_flags(layer) {
        let message = format!("item {id} has flags {found:#x}, expected {expected:#x}");
        findings.corruption("vhdx-metadata-flags", at, message);
    }
    for Item { id, flags, .. } in &layer.metadata.items {
        let user = flags & IS_USER != 0;
        if user || !item::KNOWN.contains(id) {
            let message = format!("unknown item {id}");
            findings.add(Severity::Note, "vhdx-metadata-unknown", at, message);
            continue;
        }
        if *id == item::PARENT_LOCATOR && !layer.metadata.has_parent {
            let message = "a parent locator, but the disk has no parent";
            findings.add(Severity::Note, "vhdx-locator-stray", at, message);
        }
    }
    if layer.info.parent.as_ref().is_some_and(|parent| parent.hints.is_empty()) {
        findings.corruption("vhdx-locator-no-path", at, "the parent locator names no path");
    }
}

/// A metadata item with flags it must not have.
pub(crate) struct WrongFlags {
    /// What it is.
    pub(crate) id: Uuid,
    /// Byte offset of the flags in the file.
    pub(crate) at: u64,
    /// The flags it has.
    pub(crate) found: u32,
    /// The flags it must have.
    pub(crate) expected: u32,
}

/// The known items whose flags are not those of 2.2.4.2.
pub(crate) fn wrong_flags(layer: &VhdxLayer) -> impl Iterator<Item = WrongFlags> + '_ {
    let entries = (0..).map(|index| layer.regions.metadata.offset + ENTRIES_AT + index * 32 + 24);
    layer.metadata.items.iter().zip(entries).filter_map(|(item, at)| {
        let Item { id, flags: found, .. } = *item;
        let expected = match id {
            item::FILE_PARAMETERS | item::PARENT_LOCATOR => IS_REQUIRED,
            item::CHS | item::PMEM_LABEL => found,
            _ => IS_REQUIRED | IS_VIRTUAL_DISK,
        };
        let known = found & IS_USER == 0 && item::KNOWN.contains(&id);
        (known && found != expected).then_some(WrongFlags { id, at, found, expected })
    })
}

/// The check of the block table.
struct Table<'a> {
    map: &'a Map,
    findings: &'a mut Findings,
    /// What of the file is taken.
    space: Space,
}

impl Table<'_> {
    fn walk(&mut self) -> Result<()> {
        for range in self.map.reserved() {
            self.claim(range)?;
        }
        let map = self.map;
        let mut anchors = false;
        map.walk(|index, raw| match map.geometry.slot(index) {
            Slot::Payload(block) if block < map.geometry.blocks() => {
                anchors |= self.payload(block, index, raw)?;
                Ok(())
            }
            Slot::Bitmap(_) if map.geometry.has_parent => self.bitmap(index, raw),
            _ => {
                self.unused(index, raw);
                Ok(())
            }
        })?;
        if anchors { self.claim_anchors() } else { Ok(()) }
    }

    /// Checks the entry of a payload block; whether it reserves space without content.
    fn payload(&mut self, block: u64, index: u64, raw: u64) -> Result<bool> {
        let map = self.map;
        let Payload { state, offset } = match Payload::parse(raw) {
            Ok(payload) => payload,
            Err(why) => {
                self.report("vhdx-bat-entry", map.bad_entry(index, &why));
                return Ok(false);
            }
        };
        if !state.has_block() {
            if offset != 0 && state == State::Zero {
                let message = format!("block {block} is zero but has the offset {offset}");
                self.note("vhdx-bat-offset-kept", index, message);
            }
            return Ok(offset != 0);
        }
        if state == State::Partial {
            if !map.geometry.has_parent {
                let why = "the block is partially present, but the disk has no parent";
                self.report("vhdx-partial-without-parent", map.bad_entry(index, why));
            } else if let Err(error) = map.bitmap_of(block) {
                self.report("vhdx-bitmap-missing", error);
            }
        }
        let size = map.geometry.block_size;
        if let Err(error) = map.check_place(index, offset, size) {
            self.report("vhdx-block-misplaced", error);
            return Ok(false);
        }
        let last = map.geometry.block_range(block).end - 1;
        if let Err(error) = map.within_file(block, offset, last) {
            self.report("vhdx-block-outside-file", error);
        } else if offset + size > map.file_len {
            let message = format!(
                "block {block} ends with the file, {} bytes early",
                offset + size - map.file_len
            );
            self.note("vhdx-block-cut", index, message);
        }
        self.take(index, offset..offset.saturating_add(size))?;
        Ok(false)
    }

    fn bitmap(&mut self, index: u64, raw: u64) -> Result<()> {
        let map = self.map;
        match bat::parse_bitmap(raw) {
            Err(why) => self.report("vhdx-bat-entry", map.bad_entry(index, &why)),
            Ok(None) => {}
            Ok(Some(offset)) => {
                if let Err(error) = map.check_place(index, offset, BITMAP_BYTES) {
                    self.report("vhdx-block-misplaced", error);
                    return Ok(());
                }
                if let Err(error) = map.parse_bitmap(index, raw) {
                    self.report("vhdx-block-outside-file", error);
                }
                self.take(index, offset..offset.saturating_add(BITMAP_BYTES))?;
            }
        }
        Ok(())
    }

    /// Slots of bitmaps in a disk without parent, and of blocks behind the disk's end.
    fn unused(&mut self, index: u64, raw: u64) {
        let bitmap = matches!(self.map.geometry.slot(index), Slot::Bitmap(_));
        match Payload::parse(raw) {
            Ok(payload) if bitmap && payload.state.has_block() => {
                let why = "the slot must be empty but names a block: some entries were moved by \
                           one place, as qemu before 8.0.1 did, and data may be in the wrong place";
                self.report("vhdx-bat-shifted", self.map.bad_entry(index, why));
            }
            _ => {
                let message = format!("the slot means nothing but holds {raw:#x}");
                self.note("vhdx-bat-unused-slot", index, message);
            }
        }
    }

    fn claim_anchors(&mut self) -> Result<()> {
        let map = self.map;
        map.walk(|index, raw| {
            if let (Slot::Payload(_), Ok(payload)) = (map.geometry.slot(index), Payload::parse(raw))
                && !payload.state.has_block()
            {
                let end = payload.offset.saturating_add(map.geometry.block_size);
                self.claim(&(payload.offset..end.min(map.file_len)))?;
            }
            Ok(())
        })
    }

    fn take(&mut self, index: u64, range: Range<u64>) -> Result<()> {
        if !self.claim(&range)? {
            let why = format!("bytes {range:?} are taken twice");
            self.report("vhdx-block-overlap", self.map.bad_entry(index, &why));
        }
        Ok(())
    }

    /// Takes what of a range can be kept account of.
    fn claim(&mut self, range: &Range<u64>) -> Result<bool> {
        if range.end > MAX_FILE || range.is_empty() {
            return Ok(true);
        }
        self.space.claim(range)
    }

    fn note(&mut self, code: &'static str, index: u64, message: String) {
        let at = self.map.bat.offset() + index * ENTRY;
        self.findings.add(Severity::Note, code, at, message);
    }

    fn report(&mut self, code: &'static str, error: Error) {
        self.findings.corruption(code, error.offset(), error.message());
    }
}

/// What of the file nothing takes.
fn free_space(layer: &VhdxLayer, findings: &mut Findings, space: &Space) -> Result<()> {
    let (file, file_len) = (layer.file()?, layer.map.file_len);
    if file_len > MAX_FILE {
        let message = format!("the file has {file_len} bytes, more than any VHDX needs");
        findings.add(Severity::Note, "vhdx-file-too-long", None, message);
        return Ok(());
    }
    if !file_len.is_multiple_of(MIB) {
        let message = format!("the file has {file_len} bytes, not a multiple of 1 MiB");
        findings.add(Severity::Note, "vhdx-file-ragged", None, message);
    }
    let (mut holes, mut first) = (0, None);
    for gap in space.gaps(file_len) {
        let data = stored(&**file, &gap)?;
        if data > 0 {
            // Everything in the file is whole MiBs: a smaller piece was never part of it.
            let lost = gap.end - gap.start >= MIB;
            let severity = if lost { Severity::Leak } else { Severity::Note };
            let message = format!("{data} bytes of {gap:?} belong to nothing");
            findings.add(severity, "vhdx-space-leaked", gap.start, message);
        } else {
            holes += gap.end - gap.start;
            first = first.or(Some(gap.start));
        }
    }
    if holes > 0 {
        let message = format!("{holes} bytes belong to nothing, but take no space either");
        findings.add(Severity::Note, "vhdx-space-free", first, message);
    }
    Ok(())
}

/// Bytes that the host stores of a range.
pub(crate) fn stored(file: &dyn Store, range: &Range<u64>) -> Result<u64> {
    let (mut at, mut data) = (range.start, 0);
    while at < range.end {
        let run = file
            .run_at(at, range.end)
            .map_err(|e| Error::io(e, "look for holes").at("free space", at))?;
        data += if run.hole { 0 } else { run.len };
        at += run.len.max(1);
    }
    Ok(data)
}
