//! Checking a disk: the descriptor, every extent, every table entry.

use std::collections::BTreeMap;

use vdisk_core::check::Claims;
use vdisk_core::{Findings, Result, Severity};

use crate::check_grains::{Grains, leaks};
use crate::check_stream::check_stream;
use crate::descriptor::{NO_PARENT, UNSET_CID};
use crate::extent::{Body, Extent, Flat};
use crate::extent_line::ExtentAccess;
use crate::header::SparseHeader;
use crate::hosted::Hosted;
use crate::layer::VmdkLayer;
use crate::tables::{Entry, GrainTables, Holes};
use crate::unit::SECTOR;

/// The code of redundant tables that name more than the others.
pub(crate) const COPY_AHEAD: &str = "vmdk-rgd-ahead";

/// Reports all that breaks the format's rules.
pub(crate) fn check(layer: &VmdkLayer, findings: &mut Findings) -> Result<()> {
    check_descriptor(layer, findings);
    for index in sharing_extents(layer) {
        findings.corruption(
            "vmdk-extents-overlap",
            layer.line_at(index),
            "it shares a part of its file with another extent",
        );
    }
    for extent in &layer.extents {
        match &extent.body {
            Body::Zero => {}
            Body::Flat(file) => check_flat(extent, file, findings),
            Body::Hosted(hosted) => {
                check_header(&hosted.header, extent, findings);
                check_hosted(hosted, findings)?;
            }
            Body::Foreign(tables) => {
                let mut claims = Claims::new();
                // What freed grains and bitmaps take is not known: no leak can be told.
                Grains::new(tables, &mut claims, findings).check()?;
            }
            Body::Stream(stream) => {
                check_header(&stream.header, extent, findings);
                check_stream(stream, findings)?;
            }
        }
    }
    Ok(())
}

fn check_descriptor(layer: &VmdkLayer, findings: &mut Findings) {
    let at = layer.place.at;
    let descriptor = &layer.descriptor;
    let mut note = |code, message: String| findings.add(Severity::Note, code, at, message);
    if descriptor.cid >= UNSET_CID {
        note("vmdk-cid-reserved", format!("the content id {:08x} is reserved", descriptor.cid));
    }
    for key in ["CID", "parentCID", "createType", "parentFileNameHint"] {
        if descriptor.count(key) > 1 {
            note("vmdk-descriptor-duplicate-key", format!("{key} is given more than once"));
        }
    }
    let hints = descriptor.parent_hints().len();
    if (descriptor.parent_cid == NO_PARENT) != (hints == 0) {
        note(
            "vmdk-parent-incomplete",
            "only one of parentCID and parentFileNameHint names a parent".to_owned(),
        );
    }
    if let Some(path) = descriptor.get("changeTrackPath") {
        note(
            "vmdk-change-tracking",
            format!("changes are tracked in {path:?}, which is not read here"),
        );
    }
    for line in descriptor.extents.iter().filter(|line| line.access == ExtentAccess::None) {
        let name = line.file.as_deref().unwrap_or("ZERO");
        note("vmdk-extent-no-access", format!("the guest may not access {name:?}: reads as zeros"));
    }
}

fn check_header(header: &SparseHeader, extent: &Extent, findings: &mut Findings) {
    if header.unclean() {
        findings.add(
            Severity::Note,
            "vmdk-unclean-shutdown",
            crate::header::UNCLEAN_AT,
            "the file was not closed after the last writing",
        );
    }
    if header.zero_grain() && header.raw.version.get() < 2 {
        findings.add(
            Severity::Note,
            "vmdk-version-flags",
            4,
            "grains of zeros are announced, which version 1 does not know",
        );
    }
    if header.capacity != extent.len {
        let mut message =
            format!("the header says {} bytes, the descriptor {}", header.capacity, extent.len);
        if header.capacity > extent.len {
            message += "; if a resize was cut off, finish it with: vdisk resize";
        }
        findings.add(Severity::Note, "vmdk-capacity-differs", 12, message);
    }
}

/// The numbers of the extents that share bytes of a file with one before them.
pub(crate) fn sharing_extents(layer: &VmdkLayer) -> Vec<usize> {
    let mut files: BTreeMap<usize, Claims> = BTreeMap::new();
    let mut sharing = Vec::new();
    for (index, extent) in layer.extents.iter().enumerate() {
        let (start, len) = match &extent.body {
            Body::Zero => continue,
            Body::Flat(flat) => (flat.offset, extent.len),
            // Tables and grains may stand anywhere in the file.
            Body::Hosted(_) | Body::Foreign(_) | Body::Stream(_) => (0, u64::MAX),
        };
        if !files.entry(layer.file_number(extent.store)).or_default().take(start, len) {
            sharing.push(index);
        }
    }
    sharing
}

fn check_flat(extent: &Extent, flat: &Flat, findings: &mut Findings) {
    let needed = flat.offset + extent.len;
    if needed > flat.end {
        findings.corruption(
            "vmdk-flat-too-short",
            flat.end,
            format!(
                "{} ends at {}, the extent in it at {needed}",
                flat.store.name().display(),
                flat.end
            ),
        );
    }
}

/// Checks directories, tables and grains of a hosted sparse extent; whether all of it could be
/// checked.
pub(crate) fn check_hosted(hosted: &Hosted, findings: &mut Findings) -> Result<bool> {
    let mut claims = Claims::new();
    claim_all(hosted, &mut claims, findings)?;
    leaks(&hosted.tables, &claims, findings)?;
    Ok(!claims.is_full())
}

/// Claims all that a hosted sparse extent uses of its file, and reports what is wrong with it.
pub(crate) fn claim_all(
    hosted: &Hosted,
    claims: &mut Claims,
    findings: &mut Findings,
) -> Result<()> {
    let tables = &hosted.tables;
    claims.take(0, SECTOR);
    if let Some(range) = &hosted.header.descriptor
        && !claims.take(range.start, range.end - range.start)
    {
        findings.corruption("vmdk-metadata-overlap", 28, "the descriptor stands on the header");
    }
    let directory_bytes = tables.shape.directory_bytes();
    for directory in std::iter::once(&tables.directory).chain(&hosted.redundant) {
        if !claims.take(directory.offset(), directory_bytes) {
            findings.corruption(
                "vmdk-metadata-overlap",
                directory.offset(),
                "a grain directory stands on other metadata",
            );
        }
    }
    claim_tables(hosted, claims, findings)?;
    Grains::new(tables, claims, findings).check()?;
    compare_copies(hosted, claims, findings)
}

/// Claims the room of every table, in runs, and reports those that cannot be.
fn claim_tables(hosted: &Hosted, claims: &mut Claims, findings: &mut Findings) -> Result<()> {
    let tables = &hosted.tables;
    let bytes = tables.shape.table_bytes();
    let mut absent = 0u64;
    for redundant in [true, false] {
        let directory = match (&hosted.redundant, redundant) {
            (Some(directory), true) => directory,
            (None, true) => continue,
            (_, false) => &tables.directory,
        };
        if directory.offset().saturating_add(tables.shape.directory_bytes()) > tables.end {
            findings.corruption(
                "vmdk-rgd-invalid",
                directory.offset(),
                "the redundant grain directory lies beyond the file's end",
            );
            continue;
        }
        for index in 0..tables.shape.tables() {
            let entry_at = directory.offset() + index * 4;
            let place = match redundant {
                true => hosted.redundant_at(index)?.map(Ok),
                false => tables.table_at(index).transpose(),
            };
            match place {
                None => absent += u64::from(!redundant),
                Some(Ok(at)) if at.saturating_add(bytes) > tables.end => findings.corruption(
                    "vmdk-rgd-invalid",
                    entry_at,
                    format!("redundant grain table {index} lies beyond the file's end"),
                ),
                Some(Ok(at)) if !claims.take(at, bytes) => findings.corruption(
                    "vmdk-gt-overlap",
                    entry_at,
                    format!("grain table {index} stands on other metadata, at {at}"),
                ),
                Some(Ok(_)) => {}
                Some(Err(error)) => findings.corruption(
                    "vmdk-gd-entry-invalid",
                    error.offset(),
                    error.message().to_owned(),
                ),
            }
        }
    }
    if absent > 0 {
        findings.add(
            Severity::Note,
            "vmdk-gt-absent",
            tables.directory.offset(),
            format!("{absent} grain tables are not allocated; qemu up to 10.0 destroys the file when it writes there"),
        );
    }
    Ok(())
}

/// Compares both copies of every table, and claims the grains that only the second one names:
/// nobody may take them for unused.
fn compare_copies(hosted: &Hosted, claims: &mut Claims, findings: &mut Findings) -> Result<()> {
    let tables = &hosted.tables;
    if hosted.redundant.is_none() {
        return Ok(());
    }
    let bytes = tables.shape.table_bytes();
    let (mut holes, mut other_holes) = (Holes::default(), Holes::default());
    for index in 0..tables.shape.tables() {
        // What is not where it should be was reported already.
        let Ok(Some(other)) = hosted.redundant_at(index) else { continue };
        if other.saturating_add(bytes) > tables.end {
            continue;
        }
        let Ok(table) = tables.table(index, &mut holes) else { continue };
        if table.is_none() && other_holes.covers(&*tables.store, other, bytes, tables.end)? {
            continue;
        }
        let copy = GrainTables::load(&*tables.store, other, bytes)?;
        let table = table.map_or_else(|| vec![0; copy.len()].into(), |(_, table)| table);
        if *table != *copy {
            compare_table(hosted, index, [&table, &copy], claims)?.report(hosted, other, findings);
        }
    }
    Ok(())
}

/// How the two copies of a grain table differ.
#[derive(Default)]
struct Difference {
    table: u64,
    /// The second copy says less: a power cut between the two leaves that.
    stale: u64,
    /// Only the second copy names a grain.
    ahead: u64,
    /// Both make sense alone, or the second makes none.
    differs: u64,
}

fn compare_table(
    hosted: &Hosted,
    index: u64,
    [table, copy]: [&[u8]; 2],
    claims: &mut Claims,
) -> Result<Difference> {
    let tables = &hosted.tables;
    let mut found = Difference { table: index, ..Difference::default() };
    let entries = table.as_chunks::<4>().0.iter().zip(copy.as_chunks::<4>().0);
    for (slot, _) in (0u64..).zip(entries).filter(|(_, (one, other))| one != other) {
        let grain = index * tables.shape.per_table + slot;
        let entry = |bytes| tables.entry(bytes, slot * 4, 0);
        let sound =
            |entry| grain >= tables.shape.grains() || tables.validate(grain, entry, 0).is_ok();
        match (entry(table)?, entry(copy)?) {
            // Reported with the grains.
            (one, _) if !sound(one) => {}
            (_, other) if !sound(other) => found.differs += 1,
            (Entry::At(_), Entry::At(_)) => found.differs += 1,
            (Entry::Absent, Entry::At(place)) if claims.take(place, tables.shape.grain) => {
                found.ahead += 1;
            }
            _ => found.stale += 1,
        }
    }
    Ok(found)
}

impl Difference {
    fn report(&self, hosted: &Hosted, at: u64, findings: &mut Findings) {
        let Self { table, stale, ahead, differs } = *self;
        if stale > 0 {
            let message =
                format!("the redundant copy of grain table {table} says less in {stale} entries");
            findings.add(Severity::Note, "vmdk-rgd-stale", at, message);
        }
        if differs > 0 {
            let message = format!(
                "{differs} entries of grain table {table} differ from its redundant copy: every \
                 reader goes by the first"
            );
            findings.corruption("vmdk-rgd-differs", at, message);
        }
        if ahead == 0 {
            return;
        }
        // A session that was cut off explains it. A file that was closed lost a table.
        let (severity, why) = match hosted.header.unclean() {
            true => (Severity::Note, "a write that was cut off, or a table that was lost"),
            false => (Severity::Corruption, "the file was closed, so the table seems lost"),
        };
        let message = format!(
            "only the redundant copy of grain table {table} names {ahead} grains: {why}; nothing \
             tells which copy is right, so both stay"
        );
        findings.add(severity, COPY_AHEAD, at, message);
    }
}
