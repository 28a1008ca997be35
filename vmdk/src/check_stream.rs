//! Checking a compressed extent: the markers one after the other, and whether the tables say the
//! same.

use vdisk_core::{ErrorKind, Findings, Result, Severity, StoreExt};

use crate::header::SparseHeader;
use crate::marker::{EOS, Marker, Walk};
use crate::stream::{Index, Stream, find_footer};
use crate::tables::{Entry, GrainTables, Holes};
use crate::unit::SECTOR;

/// Reports what breaks the rules of streams.
pub(crate) fn check_stream(stream: &Stream, findings: &mut Findings) -> Result<()> {
    let walked = walk(stream, findings)?;
    check_footer(stream, findings)?;
    match &stream.index {
        Index::Tables(tables) => compare(tables, &walked, findings),
        Index::Walked(_) => {
            findings.add(
                Severity::Note,
                "vmdk-stream-directory-missing",
                56,
                "there is no usable grain directory; the grains were found by their markers",
            );
            Ok(())
        }
    }
}

/// What a walk over the markers found.
struct Walked {
    /// Marker offset and guest byte of each grain, in file order.
    grains: Vec<(u64, u64)>,
    /// Whether the walk got through, so that what it did not meet is not there.
    complete: bool,
}

fn walk(stream: &Stream, findings: &mut Findings) -> Result<Walked> {
    let header = &stream.header;
    let mut walk = Walk::new(stream.store.clone(), header.overhead)?;
    let mut found = Walked { grains: Vec::new(), complete: false };
    let size = stream.store.size()?;
    loop {
        if walk.position() >= size {
            missing_end(header, walk.position(), findings);
            found.complete = true;
            return Ok(found);
        }
        match walk.step() {
            Ok((at, Marker::Grain { start, size })) => {
                check_grain(stream, at, start, size, findings);
                if found.grains.last().is_some_and(|(_, before)| *before >= start) {
                    // qemu writes them as they come; programs that read as they go need order.
                    findings.add(
                        Severity::Note,
                        "vmdk-stream-order",
                        at,
                        format!("the grain of guest byte {start} does not come in order"),
                    );
                }
                found.grains.push((at, start));
            }
            Ok((at, Marker::Metadata { kind: EOS, .. })) => {
                found.complete = true;
                if at + SECTOR < size {
                    findings.add(
                        Severity::Note,
                        "vmdk-stream-trailing",
                        at + SECTOR,
                        format!("{} bytes follow the end of the stream", size - at - SECTOR),
                    );
                }
                return Ok(found);
            }
            Ok(_) => {}
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated) => {
                findings.corruption("vmdk-stream-marker", error.offset(), error.message());
                return Ok(found);
            }
            Err(error) => return Err(error),
        }
    }
}

/// Without a directory in front, what follows the end mark is found from it.
fn missing_end(header: &SparseHeader, at: u64, findings: &mut Findings) {
    let severity = match header.directory {
        None => Severity::Corruption,
        Some(_) => Severity::Note,
    };
    let message = "there is no end-of-stream marker; VMware's importers refuse the file";
    findings.add(severity, "vmdk-stream-eos-missing", at, message);
}

fn check_grain(stream: &Stream, at: u64, start: u64, size: u32, findings: &mut Findings) {
    if !start.is_multiple_of(stream.header.grain) || start >= stream.header.capacity {
        findings.corruption(
            "vmdk-stream-grain-lba",
            at,
            format!("a grain marker says guest byte {start}"),
        );
    }
    if u64::from(size) > stream.most_compressed() {
        findings.corruption(
            "vmdk-stream-grain-size",
            at + 8,
            format!("a grain of {size} compressed bytes"),
        );
    }
}

fn check_footer(stream: &Stream, findings: &mut Findings) -> Result<()> {
    if stream.header.directory.is_some() {
        return Ok(());
    }
    let size = stream.store.size()?;
    match find_footer(&stream.store, &stream.header) {
        Ok(Some((at, _))) if at + 2 * SECTOR != size => findings.add(
            Severity::Note,
            "vmdk-stream-footer-place",
            at,
            "the footer is not the last sector but one; other programs do not find it",
        ),
        Ok(Some((at, footer))) => {
            let mut expected = stream.header.raw;
            expected.gd_offset = footer.raw.gd_offset;
            if zerocopy::IntoBytes::as_bytes(&expected)
                != zerocopy::IntoBytes::as_bytes(&footer.raw)
            {
                findings.add(
                    Severity::Note,
                    "vmdk-stream-footer-differs",
                    at,
                    "the footer differs from the header in more than the directory's place",
                );
            }
        }
        Ok(None) => findings.corruption(
            "vmdk-stream-footer-missing",
            size.saturating_sub(2 * SECTOR),
            "there is no footer, but the header says the directory's place is there",
        ),
        Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Unsupported) => {
            findings.corruption("vmdk-stream-footer-invalid", error.offset(), error.message());
        }
        Err(error) => return Err(error),
    }
    Ok(())
}

/// Whether the tables name just the grains that the markers announce.
fn compare(tables: &GrainTables, walked: &Walked, findings: &mut Findings) -> Result<()> {
    let shape = tables.shape;
    let mut named = vec![false; walked.grains.len()];
    let (mut index, mut holes) = (0, Holes::default());
    while index < shape.tables() {
        let table = tables.table(index, &mut holes);
        let (at, bytes) = match table {
            Ok(Some(table)) => table,
            Ok(None) => {
                index = tables.next_table(index)?;
                continue;
            }
            Err(error) if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated) => {
                findings.corruption("vmdk-gd-entry-invalid", error.offset(), error.message());
                index += 1;
                continue;
            }
            Err(error) => return Err(error),
        };
        let first = index * shape.per_table;
        for slot in 0..shape.per_table.min(shape.grains().saturating_sub(first)) {
            let Ok(Entry::At(place)) = tables.entry(&bytes, slot * 4, at) else { continue };
            let entry_at = at + slot * 4;
            let start = (first + slot) * shape.grain;
            match walked.grains.binary_search_by_key(&place, |(marker, _)| *marker) {
                Ok(found) => {
                    let says = walked.grains.get(found).map_or(start, |(_, says)| *says);
                    if says != start {
                        findings.corruption(
                            "vmdk-stream-grain-lba",
                            place,
                            format!("the marker says guest byte {says}, the grain table {start}"),
                        );
                    }
                    if let Some(seen) = named.get_mut(found)
                        && std::mem::replace(seen, true)
                    {
                        findings.corruption(
                            "vmdk-grain-overlap",
                            entry_at,
                            format!("the grain at {place} is used twice"),
                        );
                    }
                }
                Err(_) if walked.complete || place.saturating_add(SECTOR) > tables.end => findings
                    .corruption(
                        "vmdk-stream-grain-missing",
                        entry_at,
                        format!(
                            "guest byte {start} is said to stand at {place}, where no grain is"
                        ),
                    ),
                Err(_) => {}
            }
        }
        index += 1;
    }
    for ((at, start), _) in walked.grains.iter().zip(&named).filter(|(_, named)| !**named) {
        findings.add(
            Severity::Leak,
            "vmdk-stream-grain-unused",
            *at,
            format!("no table names this grain of guest byte {start}"),
        );
    }
    Ok(())
}
