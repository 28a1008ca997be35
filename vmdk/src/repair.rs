//! Mending what has one right answer, and giving back space that nothing uses.
//!
//! The grain directory and its tables are kept twice, and every reader goes by the first copy. So
//! the second is made to say what the first says, wherever that makes sense; and where the first
//! leads to a place where no grain can be, the second's word is taken if it leads to a place that
//! is free. Nothing that could be read reads otherwise afterwards. Two things are left alone:
//! entries of which both copies make sense but differ, and grains that only the second names: a
//! write that a power cut kept from being finished and a table that was lost look the same.

use std::sync::Arc;

use vdisk_core::check::Claims;
use vdisk_core::repair::Scope;
use vdisk_core::{Findings, Mends, Opener, PagedTable, Result, Severity, Store, StoreExt};

use crate::check::{check_hosted, claim_all};
use crate::check_grains::{Unused, unused};
use crate::check_stream::check_stream;
use crate::extent::{Body, Extent};
use crate::header::UNCLEAN_AT;
use crate::hosted::Hosted;
use crate::layer::VmdkLayer;
use crate::open::{OpenOptions, open};
use crate::stream::{Stream, find_footer};
use crate::tables::{Entry, GrainTables, Holes};
use crate::unit::{SECTOR, to_usize};

const TABLE: &str = "VMDK grain table";
/// Bytes behind the end of a stream that are looked at, whether they are zeros.
const MOST_TRAILING: u64 = 1 << 20;

/// Mends in the files of the disk in `store` what has one right answer, in an order that leaves a
/// disk that opens at every step. With [`Scope::Leaks`] there is nothing to do.
///
/// # Errors
/// Those of opening the disk; the host's.
pub fn mend(
    store: &Arc<dyn Store>,
    opener: &dyn Opener,
    scope: Scope,
    mends: &mut Mends,
) -> Result<()> {
    if scope == Scope::Leaks {
        return Ok(());
    }
    for extent in &for_reading(store, opener)?.extents {
        match &extent.body {
            Body::Hosted(hosted) if extent.writable => {
                Copies::new(hosted)?.map_or(Ok(()), |copies| copies.mend(mends))?;
            }
            Body::Stream(stream) if extent.writable && stream.header.directory.is_none() => {
                mend_end(stream, mends)?;
            }
            _ => {}
        }
    }
    // What was mended is read anew.
    for extent in &for_reading(store, opener)?.extents {
        mend_mark(extent, mends)?;
    }
    Ok(())
}

/// Gives back the space that no grain uses in the files of the disk in `store`: at the end by a
/// shorter file, elsewhere as holes. The disk must be free of corruptions.
///
/// # Errors
/// As [`mend`].
pub fn reclaim(store: &Arc<dyn Store>, opener: &dyn Opener, mends: &mut Mends) -> Result<()> {
    for extent in &for_reading(store, opener)?.extents {
        if let Body::Hosted(hosted) = &extent.body
            && extent.writable
        {
            reclaim_hosted(hosted, mends)?;
        }
    }
    Ok(())
}

fn for_reading(store: &Arc<dyn Store>, opener: &dyn Opener) -> Result<VmdkLayer> {
    open(store.clone(), opener, &OpenOptions::default())
}

fn reclaim_hosted(hosted: &Hosted, mends: &mut Mends) -> Result<()> {
    let (tables, store) = (&hosted.tables, &*hosted.tables.store);
    // A shrink that was cut off still needs what the header counts beyond the descriptor's size.
    if hosted.header.capacity > tables.shape.len {
        return Ok(());
    }
    let mut claims = Claims::new();
    claim_all(hosted, &mut claims, &mut Findings::new())?;
    let gaps = unused(tables, &claims)?;
    for Unused { start, len, .. } in gaps.iter().filter(|gap| gap.start + gap.len < tables.end) {
        store.clear(*start, *len, "free space")?;
        mends.add("vmdk-grain-leaked", *start, format!("gave back {len} bytes as a hole"));
    }
    store.flush()?;
    if let Some(Unused { start, len, .. }) =
        gaps.last().filter(|gap| gap.start + gap.len == tables.end)
    {
        store.resize(*start)?;
        store.flush()?;
        mends.add("vmdk-grain-leaked", *start, format!("cut {len} bytes off the file"));
    }
    Ok(())
}

/// Takes the mark of an unclean shutdown away, once everything else is sound and both copies of
/// the tables say the same.
fn mend_mark(extent: &Extent, mends: &mut Mends) -> Result<()> {
    let mut findings = Findings::new();
    let (store, unclean) = match &extent.body {
        Body::Hosted(hosted) => {
            check_hosted(hosted, &mut findings)?;
            (&hosted.tables.store, hosted.header.unclean())
        }
        Body::Stream(stream) => {
            check_stream(stream, &mut findings)?;
            (&stream.store, stream.header.unclean())
        }
        _ => return Ok(()),
    };
    let ahead = findings.list().iter().any(|finding| finding.code == "vmdk-rgd-ahead");
    if unclean && extent.writable && !ahead && findings.count(Severity::Corruption) == 0 {
        store.put(&[0], UNCLEAN_AT, "VMDK sparse header")?;
        store.flush()?;
        mends.add("vmdk-unclean-shutdown", UNCLEAN_AT, "took the mark away: the tables are sound");
    }
    Ok(())
}

/// Takes zeros away that stand behind the end of a stream, where other programs look for its
/// footer.
fn mend_end(stream: &Stream, mends: &mut Mends) -> Result<()> {
    let (store, size) = (&stream.store, stream.store.size()?);
    let Ok(Some((footer, _))) = find_footer(store, &stream.header) else { return Ok(()) };
    // The end mark is zeros as well.
    let (mark, end) = (footer + SECTOR, footer + 2 * SECTOR);
    if size <= end || size - mark > MOST_TRAILING {
        return Ok(());
    }
    let mut rest = vec![0; to_usize(size - mark)];
    store.fetch(&mut rest, mark, "VMDK stream")?;
    if rest.iter().all(|byte| *byte == 0) {
        store.resize(end)?;
        store.flush()?;
        let what = format!("cut {} bytes of zeros off behind the end", size - end);
        mends.add("vmdk-stream-footer-place", footer, what);
    }
    Ok(())
}

/// Both copies of the tables of an extent.
struct Copies<'a> {
    hosted: &'a Hosted,
    redundant: &'a PagedTable,
    /// All that is used by what makes sense.
    claims: Claims,
}

impl<'a> Copies<'a> {
    /// Both copies, unless something stands on something else: then no place is what it seems, and
    /// a table that is written could be the guest's data.
    fn new(hosted: &'a Hosted) -> Result<Option<Self>> {
        let (mut claims, mut findings) = (Claims::new(), Findings::new());
        claim_all(hosted, &mut claims, &mut findings)?;
        let overlaps = findings.list().iter().any(|finding| finding.code.ends_with("-overlap"));
        let unsure = overlaps || claims.is_full() || findings.list().len() >= Findings::KEPT;
        let inside = |directory: &&PagedTable| {
            directory.offset() >= SECTOR
                && directory.offset().saturating_add(directory.len()) <= hosted.tables.end
        };
        let redundant = hosted.redundant.as_ref().filter(|_| !unsure).filter(inside);
        Ok(redundant.map(|redundant| Self { hosted, redundant, claims }))
    }

    fn mend(mut self, mends: &mut Mends) -> Result<()> {
        self.mend_pointers(self.redundant, mends)?;
        // Pointers are read anew.
        self.hosted.tables.forget();
        self.redundant.forget();
        let mut holes = [Holes::default(), Holes::default()];
        for index in 0..self.hosted.tables.shape.tables() {
            self.mend_table(index, &mut holes, mends)?;
        }
        self.hosted.tables.store.flush()
    }

    /// Mends directory entries that lead nowhere, where all the others show that the tables stand
    /// one behind the other: the table's place is then known.
    fn mend_pointers(&mut self, redundant: &PagedTable, mends: &mut Mends) -> Result<()> {
        let places: [Vec<Place>; 2] = [self.places(false)?, self.places(true)?];
        let directories = [&self.hosted.tables.directory, redundant];
        for (own, directory) in directories.into_iter().enumerate() {
            let [Some(mine), Some(others)] = [places.get(own), places.get(1 - own)] else {
                continue;
            };
            let Some(base) = self.base(mine) else { continue };
            for (index, (place, other)) in (0u64..).zip(mine.iter().zip(others)) {
                let (Place::Bad, Place::At(other)) = (place, other) else { continue };
                let at = base + index * self.hosted.tables.shape.table_bytes();
                if self.restore_table(at, *other, own == 1)? {
                    let entry = u32::try_from(at / SECTOR).unwrap_or_default().to_le_bytes();
                    directory.write(index * 4, &entry)?;
                    self.hosted.tables.store.flush()?;
                    let code = if own == 1 { "vmdk-rgd-invalid" } else { "vmdk-gd-entry-invalid" };
                    let what = format!("pointed the entry of grain table {index} to byte {at}");
                    mends.add(code, directory.offset() + index * 4, what);
                }
            }
        }
        Ok(())
    }

    /// Where the tables of one copy stand.
    fn places(&self, redundant: bool) -> Result<Vec<Place>> {
        let tables = &self.hosted.tables;
        let bytes = tables.shape.table_bytes();
        (0..tables.shape.tables())
            .map(|index| {
                let place = if redundant {
                    self.hosted.redundant_at(index)?
                } else {
                    match tables.table_at(index) {
                        Ok(place) => place,
                        Err(_) => return Ok(Place::Bad),
                    }
                };
                Ok(match place {
                    None => Place::Absent,
                    Some(at) if at < SECTOR || at.saturating_add(bytes) > tables.end => Place::Bad,
                    Some(at) => Place::At(at),
                })
            })
            .collect()
    }

    /// Where the first table stands, if all that are somewhere stand one behind the other, and
    /// most are somewhere.
    fn base(&self, places: &[Place]) -> Option<u64> {
        let bytes = self.hosted.tables.shape.table_bytes();
        let mut base = None;
        let mut good = 0;
        for (index, place) in (0u64..).zip(places) {
            if let Place::At(at) = place {
                let first = at.checked_sub(index * bytes)?;
                if base.is_some_and(|base| base != first) {
                    return None;
                }
                base = Some(first);
                good += 1;
            }
        }
        base.filter(|_| good > places.len() / 2)
    }

    /// Makes sure that byte `at` holds the table that also stands at `other`; `write`: it may be
    /// written there. Whether it does.
    fn restore_table(&mut self, at: u64, other: u64, write: bool) -> Result<bool> {
        let (tables, bytes) = (&self.hosted.tables, self.hosted.tables.shape.table_bytes());
        let fits = at.checked_add(bytes).is_some_and(|end| end <= tables.end);
        if !fits || !self.claims.take(at, bytes) {
            return Ok(false);
        }
        let wanted = GrainTables::load(&*tables.store, other, bytes)?;
        if GrainTables::load(&*tables.store, at, bytes)? != wanted {
            if !write {
                return Ok(false);
            }
            tables.store.put(&wanted, at, TABLE)?;
            tables.store.flush()?;
        }
        Ok(true)
    }

    /// Mends the entries of one table, in both copies.
    fn mend_table(&mut self, index: u64, holes: &mut [Holes; 2], mends: &mut Mends) -> Result<()> {
        let (tables, bytes) = (&self.hosted.tables, self.hosted.tables.shape.table_bytes());
        let (Ok(Some(first_at)), Some(second_at)) =
            (tables.table_at(index), self.hosted.redundant_at(index)?)
        else {
            return Ok(());
        };
        let second_fits = second_at >= SECTOR && second_at.saturating_add(bytes) <= tables.end;
        if !second_fits || first_at == second_at {
            return Ok(());
        }
        let [first_holes, second_holes] = holes;
        if first_holes.covers(&*tables.store, first_at, bytes, tables.end)?
            && second_holes.covers(&*tables.store, second_at, bytes, tables.end)?
        {
            return Ok(());
        }
        let first = GrainTables::load(&*tables.store, first_at, bytes)?;
        let second = GrainTables::load(&*tables.store, second_at, bytes)?;
        if first == second {
            return Ok(());
        }
        let (mut to_first, mut to_second) = (0u64, 0u64);
        let entries = first.as_chunks::<4>().0.iter().zip(second.as_chunks::<4>().0);
        for (slot, (one, other)) in (0u64..).zip(entries) {
            let grain = index * tables.shape.per_table + slot;
            match self.judge(grain, slot * 4, [&first, &second], [one, other])? {
                Some(Keep::First) => {
                    self.hosted.tables.store.put(one, second_at + slot * 4, TABLE)?;
                    to_second += 1;
                }
                Some(Keep::Second) => {
                    self.hosted.tables.store.put(other, first_at + slot * 4, TABLE)?;
                    to_first += 1;
                }
                None => {}
            }
        }
        let note = |count: u64, at, code, from: &str, mends: &mut Mends| {
            if count > 0 {
                let what = format!("took {count} entries of grain table {index} from {from}");
                mends.add(code, at, what);
            }
        };
        note(to_first, first_at, "vmdk-grain-past-end", "its redundant copy", mends);
        note(to_second, second_at, "vmdk-rgd-stale", "the table that counts", mends);
        Ok(())
    }

    /// Which of two entries for a grain is the right one; `None` where they are the same or nobody
    /// can tell.
    fn judge(
        &mut self,
        grain: u64,
        within: u64,
        tables: [&Vec<u8>; 2],
        [one, other]: [&[u8; 4]; 2],
    ) -> Result<Option<Keep>> {
        if one == other {
            return Ok(None);
        }
        let [first, second] = tables.map(|table| self.hosted.tables.entry(table, within, 0));
        let (first, second) = (first?, second?);
        let sound = |entry| {
            grain >= self.hosted.tables.shape.grains()
                || self.hosted.tables.validate(grain, entry, 0).is_ok()
        };
        let size = self.hosted.tables.shape.grain;
        Ok(match (sound(first), sound(second), first, second) {
            (true, false, ..) => Some(Keep::First),
            // Both make sense; the first is what everybody reads, and it does not seem lost.
            (true, true, Entry::At(_), Entry::Absent | Entry::Zero)
            | (true, true, Entry::Zero, _)
            | (true, true, Entry::Absent, Entry::Zero) => Some(Keep::First),
            (false, true, _, Entry::At(place)) if self.claims.take(place, size) => {
                Some(Keep::Second)
            }
            _ => None,
        })
    }
}

/// Where a directory says that a table stands.
#[derive(Clone, Copy)]
enum Place {
    Absent,
    Bad,
    At(u64),
}

/// Which copy's entry is right.
enum Keep {
    First,
    Second,
}
