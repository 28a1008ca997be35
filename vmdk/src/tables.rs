//! Grain directory and grain tables ("Grain Directory and Grain Table" of the specification):
//! where each grain of an extent stands. One walker for the hosted, COWD and seSparse kinds, which
//! differ only in the width and meaning of their entries.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use vdisk_core::{Error, ErrorKind, PagedTable, Result, Store, StoreExt};

use crate::unit::{SECTOR, to_usize};

/// Bytes of grain tables kept in memory of a disk that is one extent.
const CACHE_BYTES: u64 = 2 << 20;
/// Bytes of grain tables kept in memory of a disk of many extents, about.
const SHARED_CACHE_BYTES: u64 = 8 << 20;
/// Tables kept of each extent at least: more than the windows that a copy reads at once touch.
const LEAST_KEPT: usize = 4;
/// Directory entries on one page of a [`PagedTable`]; hole searches start at its edges.
const PAGE_BYTES: u64 = 64 << 10;
const DIRECTORY: &str = "VMDK grain directory";
const TABLE: &str = "VMDK grain table";

/// How entries are written.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Coding {
    /// 32-bit sectors; with `zero_grain` an entry of 1 means zeros.
    Sectors {
        /// Whether the extent's header announces zero grains.
        zero_grain: bool,
    },
    /// 64-bit entries of seSparse, by number of table and grain.
    SeSparse {
        /// Byte offset of the first table.
        tables_at: u64,
        /// Byte offset of the first grain.
        grains_at: u64,
    },
}

impl Coding {
    /// Bytes of an entry of directory and table.
    pub(crate) fn entry_bytes(self) -> u64 {
        match self {
            Self::Sectors { .. } => 4,
            Self::SeSparse { .. } => 8,
        }
    }
}

/// What a grain table says of a grain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entry {
    /// Nothing: zeros, or the parent's.
    Absent,
    /// Zeros.
    Zero,
    /// It stands at this byte of the file.
    At(u64),
}

/// The shape of an extent's tables.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// How entries are written.
    pub(crate) coding: Coding,
    /// Entries of a grain table.
    pub(crate) per_table: u64,
    /// Bytes of a grain, a power of two.
    pub(crate) grain: u64,
    /// Bytes that the file must hold of a grain: all of it, or the marker of a compressed one.
    pub(crate) stored: u64,
    /// Guest bytes covered.
    pub(crate) len: u64,
    /// The first byte of the file where a grain may stand.
    pub(crate) floor: u64,
}

impl Shape {
    /// Grains covered.
    pub(crate) fn grains(&self) -> u64 {
        self.len.div_ceil(self.grain)
    }

    /// Grain tables that cover them.
    pub(crate) fn tables(&self) -> u64 {
        self.grains().div_ceil(self.per_table)
    }

    /// Bytes of a grain table.
    pub(crate) fn table_bytes(&self) -> u64 {
        self.per_table * self.coding.entry_bytes()
    }

    /// Bytes of the directory.
    pub(crate) fn directory_bytes(&self) -> u64 {
        self.tables() * self.coding.entry_bytes()
    }
}

/// The tables of one extent.
#[derive(Debug)]
pub(crate) struct GrainTables {
    /// The extent's file.
    pub(crate) store: Arc<dyn Store>,
    /// Their shape.
    pub(crate) shape: Shape,
    /// The directory.
    pub(crate) directory: PagedTable,
    /// Bytes of the file.
    pub(crate) end: u64,
    /// Where header, descriptor and directories stand: no table may.
    pub(crate) reserved: Vec<Range<u64>>,
    /// Tables that were changed and wait to be written, by number.
    pub(crate) changed: BTreeMap<u64, Arc<[u8]>>,
    /// Tables that the directory on disk does not name yet: byte offsets by number.
    pub(crate) added: BTreeMap<u64, u64>,
    cache: Mutex<LruCache<u64, Arc<[u8]>>>,
}

impl GrainTables {
    /// The tables whose directory starts at byte `directory` of `store`; none of them may stand
    /// on header or descriptor.
    ///
    /// # Errors
    /// [`Truncated`](ErrorKind::Truncated) where the file ends before the directory does.
    pub(crate) fn open(
        store: Arc<dyn Store>,
        shape: Shape,
        directory: u64,
        [header, descriptor]: [Range<u64>; 2],
    ) -> Result<Self> {
        let end = store.size()?;
        let len = shape.directory_bytes();
        if directory.checked_add(len).is_none_or(|stop| stop > end) {
            return Err(Error::new(
                ErrorKind::Truncated,
                format!("a directory of {len} bytes does not fit into a file of {end} bytes"),
            )
            .at(DIRECTORY, directory)
            .in_file(store.name()));
        }
        let kept = tables_in(CACHE_BYTES, shape);
        Ok(Self {
            directory: PagedTable::new(store.clone(), DIRECTORY, directory, len),
            store,
            shape,
            end,
            reserved: vec![header, descriptor, directory..directory + len],
            changed: BTreeMap::new(),
            added: BTreeMap::new(),
            cache: Mutex::new(LruCache::new(kept)),
        })
    }

    /// Keeps no more tables in memory than is fair among `extents` extents of a disk.
    pub(crate) fn share_cache(&self, extents: u64) {
        let part = (SHARED_CACHE_BYTES / extents.max(1)).min(CACHE_BYTES);
        self.cache().resize(tables_in(part, self.shape));
    }

    /// What grain `first` is, and how many grains from it on, before `stop`, go on in the same
    /// way: absent, zero, or one after the other in the file.
    ///
    /// # Errors
    /// [`Corrupt`](ErrorKind::Corrupt) where the entry of `first` points into metadata,
    /// [`Truncated`](ErrorKind::Truncated) where it points beyond the file; the host's.
    pub(crate) fn run(&self, first: u64, stop: u64) -> Result<(Entry, u64)> {
        let mut holes = Holes::default();
        let mut run = Run { first, count: 0, entry: Entry::Absent, grain: self.shape.grain };
        while run.next() < stop {
            let index = run.next() / self.shape.per_table;
            let table_stop = stop.min((index + 1).saturating_mul(self.shape.per_table));
            let more = match self.table(index, &mut holes) {
                Ok(None) => {
                    let skip = self.absent_until(index)?.saturating_mul(self.shape.per_table);
                    let until = table_stop.max(skip.min(stop));
                    run.extend(Entry::Absent, until - run.next())
                }
                Ok(Some((at, bytes))) => self.run_in_table(&mut run, table_stop, at, &bytes)?,
                Err(error) if run.count == 0 => return Err(error),
                Err(_) => false,
            };
            if !more {
                break;
            }
        }
        Ok((run.entry, run.count))
    }

    /// Goes on with `run` through one table; whether it may go on in the next.
    fn run_in_table(&self, run: &mut Run, stop: u64, at: u64, bytes: &[u8]) -> Result<bool> {
        let width = self.shape.coding.entry_bytes();
        // A directory may name one and the same table a million times, so those of one value are
        // taken as a whole.
        if let Some(entry) = self.uniform(bytes, run.next(), stop, at) {
            return Ok(run.extend(entry, stop - run.next()));
        }
        while run.next() < stop {
            let within = run.next() % self.shape.per_table * width;
            let entry = self
                .entry(bytes, within, at)
                .and_then(|entry| self.validate(run.next(), entry, at + within).map(|()| entry));
            match entry {
                Ok(entry) if run.extend(entry, 1) => {}
                Ok(_) => return Ok(false),
                Err(error) if run.count == 0 => return Err(error),
                Err(_) => return Ok(false),
            }
        }
        Ok(true)
    }

    /// The value of the entries of grains `first` to `stop` in their table, which stands at `at`,
    /// where they are all the same and no place.
    fn uniform(&self, table: &[u8], first: u64, stop: u64, at: u64) -> Option<Entry> {
        let width = self.shape.coding.entry_bytes();
        let within = first % self.shape.per_table * width;
        let part = table.get(to_usize(within)..to_usize(within + (stop - first) * width))?;
        let shifted = part.get(to_usize(width)..)?;
        if part.get(..shifted.len())? != shifted {
            return None;
        }
        self.entry(table, within, at).ok().filter(|entry| !matches!(entry, Entry::At(_)))
    }

    /// Where grain table `index` stands and its bytes; `None` where it is absent or all zeros.
    pub(crate) fn table(&self, index: u64, holes: &mut Holes) -> Result<Option<(u64, Arc<[u8]>)>> {
        let Some(at) = self.table_at(index)? else { return Ok(None) };
        if let Some(bytes) = self.changed.get(&index) {
            return Ok(Some((at, bytes.clone())));
        }
        if let Some(bytes) = self.cache().get(&at) {
            return Ok(Some((at, bytes.clone())));
        }
        if holes.covers(&*self.store, at, self.shape.table_bytes(), self.end)? {
            return Ok(None);
        }
        let bytes: Arc<[u8]> = Self::load(&*self.store, at, self.shape.table_bytes())?.into();
        self.cache().put(at, bytes.clone());
        Ok(Some((at, bytes)))
    }

    /// Where grain table `index` stands; `None` where there is none. The table lies in the file.
    pub(crate) fn table_at(&self, index: u64) -> Result<Option<u64>> {
        if let Some(at) = self.added.get(&index) {
            return Ok(Some(*at));
        }
        let width = self.shape.coding.entry_bytes();
        let at = match self.shape.coding {
            Coding::Sectors { .. } => {
                let entry = u32::from_le_bytes(self.directory.entry(index * width)?);
                (entry != 0).then(|| u64::from(entry) * SECTOR)
            }
            Coding::SeSparse { tables_at, .. } => {
                let entry = u64::from_le_bytes(self.directory.entry(index * width)?);
                self.sesparse_table(entry, tables_at, index)?
            }
        };
        let Some(at) = at else { return Ok(None) };
        let fits = at.checked_add(self.shape.table_bytes()).is_some_and(|stop| stop <= self.end);
        if !fits {
            return Err(Error::new(
                ErrorKind::Truncated,
                format!("grain table {index} is said to stand at {at}, beyond the file's end"),
            )
            .at(DIRECTORY, self.directory.offset() + index * width)
            .in_file(self.store.name())
            .hint("the file was cut short; copy it again"));
        }
        let stop = at.saturating_add(self.shape.table_bytes());
        if self.reserved.iter().any(|taken| taken.start < stop && at < taken.end) {
            return Err(self.bad_table(index, "points into other metadata"));
        }
        Ok(Some(at))
    }

    fn sesparse_table(&self, entry: u64, tables_at: u64, index: u64) -> Result<Option<u64>> {
        match (entry >> 32, entry & 0xFFFF_FFFF) {
            (0, 0) => Ok(None),
            (0x1000_0000, number) => Ok(tables_at.checked_add(number * self.shape.table_bytes())),
            _ => Err(self.bad_table(index, "has an unknown type")),
        }
    }

    fn bad_table(&self, index: u64, what: &str) -> Error {
        let at = self.directory.offset() + index * self.shape.coding.entry_bytes();
        Error::corrupt(DIRECTORY, at, format!("the entry of grain table {index} {what}"))
            .in_file(self.store.name())
    }

    /// The first table from absent table `index` on that may be there, looking no further than
    /// the host file's hole around the directory entry reaches.
    fn absent_until(&self, index: u64) -> Result<u64> {
        let width = self.shape.coding.entry_bytes();
        if !self.added.is_empty() || !(index * width).is_multiple_of(PAGE_BYTES) {
            return Ok(index + 1);
        }
        Ok((self.directory.hole_end(index * width)? / width).max(index + 1))
    }

    /// Decodes the entry at byte `within` of the table that stands at `at`.
    pub(crate) fn entry(&self, table: &[u8], within: u64, at: u64) -> Result<Entry> {
        let rest = table.get(to_usize(within)..).unwrap_or_default();
        match self.shape.coding {
            Coding::Sectors { zero_grain } => {
                let entry = rest.first_chunk().map_or(0, |bytes| u32::from_le_bytes(*bytes));
                Ok(match entry {
                    0 => Entry::Absent,
                    1 if zero_grain => Entry::Zero,
                    sector => Entry::At(u64::from(sector) * SECTOR),
                })
            }
            Coding::SeSparse { grains_at, .. } => {
                let entry = rest.first_chunk().map_or(0, |bytes| u64::from_le_bytes(*bytes));
                let index = (entry >> 48 & 0xFFF) | (entry & 0xFFFF_FFFF_FFFF) << 12;
                let place =
                    index.checked_mul(self.shape.grain).and_then(|n| n.checked_add(grains_at));
                match (entry >> 60, place) {
                    (0, _) if entry == 0 => Ok(Entry::Absent),
                    (1 | 2, _) => Ok(Entry::Zero),
                    (3, Some(place)) => Ok(Entry::At(place)),
                    _ => Err(Error::corrupt(
                        TABLE,
                        at + within,
                        format!("{entry:#018x} is no entry"),
                    )
                    .in_file(self.store.name())),
                }
            }
        }
    }

    /// Fails where grain `grain` cannot stand where its entry, at byte `at` of the file, says.
    pub(crate) fn validate(&self, grain: u64, entry: Entry, at: u64) -> Result<()> {
        let Entry::At(place) = entry else { return Ok(()) };
        if place < self.shape.floor {
            return Err(Error::corrupt(
                TABLE,
                at,
                format!(
                    "grain {grain} is said to stand at {place}, inside the metadata, which ends at {}",
                    self.shape.floor
                ),
            )
            .in_file(self.store.name()));
        }
        let needed = self.needed(grain);
        if place.checked_add(needed).is_none_or(|stop| stop > self.end) {
            return Err(Error::new(
                ErrorKind::Truncated,
                format!(
                    "grain {grain} is said to stand at {place}, but the file ends at {}",
                    self.end
                ),
            )
            .at(TABLE, at)
            .in_file(self.store.name())
            .hint("the file was cut short; copy it again, or restore it from a backup"));
        }
        Ok(())
    }

    /// Bytes that the file must hold of the grain: of the last one only what the guest can see.
    pub(crate) fn needed(&self, grain: u64) -> u64 {
        self.shape.len.saturating_sub(grain * self.shape.grain).min(self.shape.stored)
    }

    /// The first table after absent or empty table `index` that may be there.
    pub(crate) fn next_table(&self, index: u64) -> Result<u64> {
        Ok(self.absent_until(index)?.min(self.shape.tables()))
    }

    /// Reads the table of `bytes` bytes at byte `at`.
    pub(crate) fn load(store: &dyn Store, at: u64, bytes: u64) -> Result<Vec<u8>> {
        let mut table = vec![0; to_usize(bytes)];
        store.fetch(&mut table, at, TABLE)?;
        Ok(table)
    }

    /// Forgets the tables read, after the file was changed.
    pub(crate) fn forget(&self) {
        self.cache().clear();
        self.directory.forget();
    }

    fn cache(&self) -> std::sync::MutexGuard<'_, LruCache<u64, Arc<[u8]>>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tables that fit into so many bytes.
fn tables_in(bytes: u64, shape: Shape) -> NonZeroUsize {
    let kept = to_usize(bytes / shape.table_bytes().max(1)).max(LEAST_KEPT);
    NonZeroUsize::new(kept).unwrap_or(NonZeroUsize::MIN)
}

/// A run of grains being put together.
struct Run {
    first: u64,
    count: u64,
    entry: Entry,
    grain: u64,
}

impl Run {
    fn next(&self) -> u64 {
        self.first + self.count
    }

    /// Adds `count` grains where they go on as the run does.
    fn extend(&mut self, entry: Entry, count: u64) -> bool {
        let goes_on = match (self.entry, entry) {
            _ if self.count == 0 => {
                self.entry = entry;
                true
            }
            (Entry::At(start), Entry::At(next)) => {
                self.count.checked_mul(self.grain).and_then(|n| n.checked_add(start)) == Some(next)
            }
            (a, b) => a == b,
        };
        if goes_on {
            self.count += count;
        }
        goes_on
    }
}

/// The host file's run around the place last asked for, so that a walk asks once a run.
#[derive(Debug, Default)]
pub(crate) struct Holes {
    range: Range<u64>,
    hole: bool,
}

impl Holes {
    /// Whether `len` bytes at `at` lie in one hole of the host file of `end` bytes.
    pub(crate) fn covers(
        &mut self,
        store: &dyn Store,
        at: u64,
        len: u64,
        end: u64,
    ) -> Result<bool> {
        if !self.range.contains(&at) && at < end {
            let run = store
                .run_at(at, end)
                .map_err(|e| Error::io(e, "look for holes").at(TABLE, at).in_file(store.name()))?;
            self.range = at..at.saturating_add(run.len);
            self.hole = run.hole;
        }
        Ok(self.hole && self.range.contains(&at) && at.saturating_add(len) <= self.range.end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdisk_core::MemStore;

    #[test]
    fn a_disk_of_many_extents_keeps_no_more_tables_than_one_of_a_few() {
        let coding = Coding::Sectors { zero_grain: false };
        let shape =
            Shape { coding, per_table: 512, grain: 65536, stored: 65536, len: 2 << 30, floor: 0 };
        let store = Arc::new(MemStore::from_bytes("extent", &[0; 8192]));
        let tables = GrainTables::open(store, shape, 1024, [0..512, 512..1024]).unwrap();
        for (extents, most) in [(1, CACHE_BYTES), (100, SHARED_CACHE_BYTES), (1000, 8_192_000)] {
            tables.share_cache(extents);
            let kept = tables.cache().cap().get() as u64 * shape.table_bytes();
            assert!(kept * extents <= most, "{extents} extents keep {kept} bytes each");
            assert!(kept >= 4 * shape.table_bytes());
        }
    }
}
