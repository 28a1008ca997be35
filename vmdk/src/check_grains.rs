//! Checking the grains of uncompressed extents: each inside the file, outside the metadata, used
//! once; and the space that nothing uses.

use vdisk_core::check::Claims;
use vdisk_core::{Error, Findings, Result, Severity, StoreExt, whole_pages};

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
        let gap = start..start + len;
        // The end of the file can be cut off as it is.
        let gap = if gap.end == tables.end { gap } else { whole_pages(&gap) };
        // Less than a grain is what is left of tables.
        let stored = tables.store.stored(gap, unit)?;
        if stored >= unit {
            found.push(Unused { start, len, stored });
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use vdisk_core::{MemStore, Store};

    use super::*;
    use crate::tables::{Coding, Shape};

    #[test]
    fn what_a_host_cannot_give_back_is_no_leak() {
        // Grains smaller than pages, of which one in the middle is not used.
        let coding = Coding::Sectors { zero_grain: false };
        let (grain, floor) = (512, 66_048);
        let shape = Shape { coding, per_table: 512, grain, stored: grain, len: 1 << 20, floor };
        let store = Arc::new(MemStore::from_bytes("extent", &[1; 81_920]));
        let tables = GrainTables::open(store.clone(), shape, 1024, [0..512, 512..1024]).unwrap();
        let mut claims = Claims::new();
        assert!(claims.take(73_728, 8192));
        let found = unused(&tables, &claims).unwrap();
        assert_eq!(
            found.iter().map(|one| (one.start, one.len)).collect::<Vec<_>>(),
            [(floor, 7680)]
        );
        // As a host does it.
        store.zero(69_632, 4096).unwrap();
        assert!(unused(&tables, &claims).unwrap().is_empty());
    }
}
