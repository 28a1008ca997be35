//! Checking the grains of uncompressed extents: each inside the file, outside the metadata, used
//! once; and the space that nothing uses.

use vdisk_core::check::Claims;
use vdisk_core::{Error, Findings, Result, Severity};

use crate::tables::{Entry, GrainTables, Holes};
use crate::unit::SECTOR;

/// A walk over the grains of one extent.
pub(crate) struct Grains<'a> {
    tables: &'a GrainTables,
    claims: &'a mut Claims,
    findings: &'a mut Findings,
    /// Grains in a row that are not claimed yet: place, bytes, number of the first.
    run: Option<(u64, u64, u64)>,
}

impl<'a> Grains<'a> {
    /// Over `tables`, with the metadata in `claims`.
    pub(crate) fn new(
        tables: &'a GrainTables,
        claims: &'a mut Claims,
        findings: &'a mut Findings,
    ) -> Self {
        Self { tables, claims, findings, run: None }
    }

    /// Checks every entry and claims the grains.
    pub(crate) fn check(mut self) -> Result<()> {
        let shape = self.tables.shape;
        let width = shape.coding.entry_bytes();
        let (mut index, mut holes) = (0, Holes::default());
        while index < shape.tables() {
            // A table that is not in the file was reported with the directory.
            match self.tables.table(index, &mut holes) {
                Ok(Some((at, bytes))) => {
                    for slot in 0..shape.per_table {
                        self.entry(index * shape.per_table + slot, slot * width, at, &bytes);
                    }
                    index += 1;
                }
                Ok(None) => index = self.tables.next_table(index)?,
                Err(error) => {
                    self.bad_table(&error)?;
                    index += 1;
                }
            }
        }
        self.claim();
        if self.claims.is_full() {
            self.findings.add(
                Severity::Note,
                "vmdk-check-partial",
                None,
                "the file is so scattered that not all of it was checked for overlaps",
            );
        }
        Ok(())
    }

    fn bad_table(&mut self, error: &Error) -> Result<()> {
        use vdisk_core::ErrorKind::{Corrupt, Truncated};
        if !matches!(error.kind(), Corrupt | Truncated) {
            return Err(Error::new(error.kind(), error.message()));
        }
        let code = "vmdk-gd-entry-invalid";
        let known =
            self.findings.list().iter().any(|f| f.code == code && f.offset == error.offset());
        if !known {
            self.findings.corruption(code, error.offset(), error.message());
        }
        Ok(())
    }

    fn entry(&mut self, grain: u64, within: u64, at: u64, table: &[u8]) {
        let shape = self.tables.shape;
        let entry_at = at + within;
        let place = match self.tables.entry(table, within, at) {
            Ok(Entry::At(place)) => place,
            Ok(Entry::Absent | Entry::Zero) => return,
            Err(error) => {
                self.findings.corruption("vmdk-gt-entry-invalid", entry_at, error.message());
                return;
            }
        };
        if grain >= shape.grains() {
            self.findings.add(
                Severity::Note,
                "vmdk-grain-beyond-capacity",
                entry_at,
                format!("grain {grain} lies beyond the end of the disk"),
            );
        } else if place < shape.floor {
            self.findings.corruption(
                "vmdk-grain-in-metadata",
                entry_at,
                format!("grain {grain} is said to stand at {place}, inside the metadata"),
            );
        } else if place.saturating_add(self.tables.needed(grain)) > self.tables.end {
            self.findings.corruption(
                "vmdk-grain-past-end",
                entry_at,
                format!(
                    "grain {grain} at {place} lies beyond the file's end at {}",
                    self.tables.end
                ),
            );
        } else {
            self.found(grain, place);
        }
    }

    /// A sound entry: part of the run, or the start of the next.
    fn found(&mut self, grain: u64, place: u64) {
        let bytes = self.tables.shape.grain;
        match &mut self.run {
            Some((start, len, first))
                if *start + *len == place && *first + *len / bytes == grain =>
            {
                *len += bytes;
            }
            _ => {
                self.claim();
                self.run = Some((place, bytes, grain));
            }
        }
    }

    fn claim(&mut self) {
        let Some((place, len, first)) = self.run.take() else { return };
        if self.claims.take(place, len) {
            return;
        }
        let bytes = self.tables.shape.grain;
        for number in 0..len / bytes {
            let at = place + number * bytes;
            if !self.claims.take(at, bytes) {
                self.findings.corruption(
                    "vmdk-grain-overlap",
                    at,
                    format!("grain {} stands where something else does", first + number),
                );
            }
        }
    }
}

/// A stretch of a grain or more that nothing refers to and that the host stores.
pub(crate) struct Unused {
    /// First byte.
    pub(crate) start: u64,
    /// Bytes.
    pub(crate) len: u64,
    /// Bytes of it that the host stores; holes take no space.
    stored: u64,
}

/// Reports what is unused.
pub(crate) fn leaks(tables: &GrainTables, claims: &Claims, findings: &mut Findings) -> Result<()> {
    for Unused { start, len, stored } in unused(tables, claims)? {
        findings.add(
            Severity::Leak,
            "vmdk-grain-leaked",
            start,
            format!("{stored} bytes of {len} at {start} are stored but not used"),
        );
    }
    Ok(())
}

/// What of the file nothing claimed; nothing where not all claims are known.
pub(crate) fn unused(tables: &GrainTables, claims: &Claims) -> Result<Vec<Unused>> {
    let unit = tables.shape.grain.max(SECTOR);
    let mut found = Vec::new();
    if claims.is_full() {
        return Ok(found);
    }
    for (start, len) in claims.gaps(tables.shape.floor..tables.end.max(tables.shape.floor)) {
        if len < unit {
            continue;
        }
        let (mut at, mut stored) = (start, 0);
        while at < start + len {
            let run = tables
                .store
                .run_at(at, start + len)
                .map_err(|e| Error::io(e, "look for holes").in_file(tables.store.name()))?;
            // Less than a grain is what is left of tables and of pages given back in part.
            let len = if start + len == tables.end { run.len } else { whole_pages(at, run.len) };
            stored += if run.hole || len < unit { 0 } else { len };
            at += run.len.max(1);
        }
        if stored >= unit {
            found.push(Unused { start, len, stored });
        }
    }
    Ok(found)
}

/// Bytes of the pages of the host that lie wholly within a range: only those can become holes.
fn whole_pages(start: u64, len: u64) -> u64 {
    const PAGE: u64 = 4096;
    ((start + len) / PAGE * PAGE).saturating_sub(start.next_multiple_of(PAGE))
}

#[cfg(test)]
mod tests {
    use super::whole_pages;

    #[test]
    fn a_page_that_something_else_uses_is_not_given_back() {
        assert_eq!(whole_pages(66_048, 7680), 4096);
        assert_eq!(whole_pages(4097, 8190), 0);
        assert_eq!(whole_pages(4096, 8192), 8192);
        assert_eq!(whole_pages(4608, 512), 0);
    }
}
