//! Putting an image, sound or hostile, through everything a layer does, in bounded time; and
//! driving a sound one by operations that an input spells. What the fuzz targets share.
//!
//! Any fault is a panic. Nothing is random: the same input does the same again.

use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use vdisk_core::disk::in_range;
use vdisk_core::layer::read;
use vdisk_core::{
    Access, Disk, Error, ErrorKind, Extent, ExtentKind, Files, Findings, LayerKind, LayerMut,
    MemFiles, MemStore, Opener, Result, Run, Severity, Store,
};

use crate::VecDisk;
use crate::model::{assert_clean, assert_reads};

/// Extents looked at in one walk.
const MOST_EXTENTS: usize = 256;
/// Places read before and after a change.
const MOST_SAMPLES: usize = 24;
/// Bytes of a sample.
const SAMPLE: u64 = 4096;
/// The longest file that a store of the exercise becomes: far beyond what any test asks for.
const MOST_BYTES: u64 = 1 << 46;

/// Opens the image whose main file is the store, its extents through the opener.
pub type Open<'a> = &'a dyn Fn(Arc<dyn Store>, &dyn Opener, Access) -> Result<Box<dyn LayerMut>>;

/// A disk that holds no zero and of which every byte differs from its neighbours: a parent whose
/// bytes are recognised wherever they turn up.
#[derive(Clone, Copy, Debug)]
pub struct Pattern(pub u64);

impl Pattern {
    /// The byte at `offset`.
    #[must_use]
    pub fn byte(offset: u64) -> u8 {
        (offset % 251) as u8 + 1
    }
}

impl Disk for Pattern {
    fn len(&self) -> u64 {
        self.0
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        in_range(offset, buf.len() as u64, self.0)?;
        buf.iter_mut().zip(offset..).for_each(|(byte, at)| *byte = Self::byte(at));
        Ok(())
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        Ok(Extent { start: offset, len: end - offset, depth: 0, kind: ExtentKind::Opaque })
    }
}

/// A store as the exercise lends it: for reading only it panics when changed, and it never
/// becomes absurdly long.
#[derive(Debug)]
struct Lent {
    store: Arc<MemStore>,
    access: Access,
}

impl Lent {
    fn allow(&self, end: Option<u64>) -> io::Result<()> {
        assert!(self.access == Access::Write, "{} is open for reading only", self.name().display());
        match end {
            Some(end) if end <= MOST_BYTES => Ok(()),
            _ => Err(io::ErrorKind::StorageFull.into()),
        }
    }
}

impl Store for Lent {
    fn name(&self) -> &Path {
        self.store.name()
    }

    fn len(&self) -> io::Result<u64> {
        self.store.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.store.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.allow(offset.checked_add(buf.len() as u64))?;
        self.store.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.allow(Some(len))?;
        self.store.set_len(len)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        let end = offset.checked_add(len);
        self.allow(end)?;
        assert!(end.is_some_and(|end| end <= self.store.len().unwrap()), "zeroed beyond the end");
        self.store.zero(offset, len)
    }

    fn run_at(&self, offset: u64, end: u64) -> io::Result<Run> {
        assert!(offset < end, "an empty run asked for");
        self.store.run_at(offset, end)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

/// Opens the extents of a folder in memory, lent as above.
struct Lender<'a>(&'a MemFiles);

impl Lender<'_> {
    fn lend(&self, name: &str, access: Access) -> Option<Arc<dyn Store>> {
        let store = self.0.get(name)?;
        Some(Arc::new(Lent { store, access }))
    }
}

impl Opener for Lender<'_> {
    fn open(&self, name: &str, what: &'static str, access: Access) -> Result<Arc<dyn Store>> {
        self.lend(name, access).ok_or_else(|| {
            Error::new(ErrorKind::ParentMissing, format!("{what} {name:?} is not there"))
        })
    }
}

fn open_in(files: &MemFiles, open: Open<'_>, access: Access) -> Result<Box<dyn LayerMut>> {
    let lender = Lender(files);
    let main = lender.lend(files.main_name(), access).expect("the main file is there");
    open(main, &lender, access)
}

/// Asserts that an error says what a person needs: damage has its place.
pub fn assert_error(error: &Error) {
    let shown = error.to_string();
    assert!(!error.message().is_empty(), "{shown}");
    assert!(error.kind() != ErrorKind::Internal, "{shown}");
    if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated) {
        assert!(error.offset().is_some(), "no offset: {shown}");
    }
}

/// A place of the disk and what reading it gave: bytes, or the error as text.
#[derive(Debug, PartialEq)]
struct Sample {
    at: u64,
    found: Result<Vec<u8>, String>,
}

fn sample(layer: &dyn LayerMut, at: u64) -> Sample {
    let size = layer.info().virtual_size;
    let mut buf = vec![0xEE; SAMPLE.min(size - at) as usize];
    let found = match read(layer, &Pattern(size), &mut buf, at) {
        Ok(()) => Ok(buf),
        Err(error) => {
            assert_error(&error);
            Err(error.to_string())
        }
    };
    Sample { at, found }
}

/// Walks the map from `from`, at most [`MOST_EXTENTS`]; returns where extents start.
fn walk(layer: &dyn LayerMut, from: u64) -> Vec<u64> {
    let size = layer.info().virtual_size;
    let mut starts = Vec::new();
    let mut at = from;
    while at < size && starts.len() < MOST_EXTENTS {
        starts.push(at);
        let extent = match layer.extent_at(at, size) {
            Ok(extent) => extent,
            Err(error) => {
                assert_error(&error);
                break;
            }
        };
        assert_eq!(extent.start, at, "extents must tile");
        assert!(extent.len > 0 && extent.len <= size - at, "{extent:?} of {size}");
        match extent.kind {
            LayerKind::Data { store, at } => {
                let len = layer.stores()[store].len().unwrap();
                let end = at.checked_add(extent.len);
                assert!(end.is_some_and(|end| end <= len), "{extent:?} beyond {len}");
            }
            LayerKind::Compressed(grain) => {
                assert!(grain.start <= at && at + extent.len <= grain.start + grain.len);
                assert!(grain.store < layer.stores().len());
            }
            LayerKind::Hole => assert!(layer.info().parent.is_some(), "a hole without parent"),
            LayerKind::Zero { .. } => {}
        }
        at += extent.len;
    }
    starts
}

/// Samples a layer at the starts of extents, near the end, and at `seeds`.
fn look(layer: &dyn LayerMut, seeds: &[u64]) -> Vec<Sample> {
    let size = layer.info().virtual_size;
    if size == 0 {
        return Vec::new();
    }
    let mut places = walk(layer, 0);
    places.truncate(MOST_SAMPLES);
    for seed in seeds.iter().map(|seed| seed % size).chain([size - 1, size.saturating_sub(SAMPLE)])
    {
        places.extend(walk(layer, seed).into_iter().take(4));
    }
    places.sort_unstable();
    places.dedup();
    places.into_iter().map(|at| sample(layer, at)).collect()
}

/// Puts the image in `files` through everything, with reads and one change at places that `seeds`
/// choose. The image may be damaged in any way.
///
/// Asserts that errors say where, that the map tiles and lies inside the files, that reading
/// changes nothing and is always the same; and, where the image lets itself be written, that it
/// opens afterwards with the change, and everything else is as it was.
///
/// # Panics
/// Where one of these does not hold.
pub fn exercise(files: &MemFiles, open: Open<'_>, seeds: [u64; 3]) {
    let layer = match open_in(files, open, Access::Read) {
        Ok(layer) => layer,
        Err(error) => return assert_error(&error),
    };
    let before = look(&*layer, &seeds);
    assert_eq!(before, look(&*layer, &seeds), "reading twice differs");
    let mut findings = Findings::new();
    if let Err(error) = layer.check(&mut findings) {
        assert_error(&error);
    }
    drop(layer);

    let mut layer = match open_in(files, open, Access::Write) {
        Ok(layer) => layer,
        Err(error) => return assert_error(&error),
    };
    let size = layer.info().virtual_size;
    assert_eq!(before, look(&*layer, &seeds), "opening for writing changes what is read");
    if size == 0 {
        return;
    }
    let place = |seed: u64, most: u64| {
        let at = seed % size;
        at..(at + 1 + (seed >> 40) % most).min(size)
    };
    let (written, zeroed) = (place(seeds[0], 9000), place(seeds[1], 70_000));
    let bytes = vec![0xA7; (written.end - written.start) as usize];
    let below = Pattern(size);
    let changed = layer
        .write(&bytes, written.start, &below)
        .and_then(|()| layer.zero(zeroed.clone(), &below))
        .and_then(|()| layer.close());
    drop(layer);
    let done = match changed {
        Ok(()) => true,
        Err(error) => {
            assert_error(&error);
            false
        }
    };
    let layer = open_in(files, open, Access::Read)
        .unwrap_or_else(|e| panic!("does not open after a change ({done}): {e}"));
    let expect = |at: u64, old: u8| match at {
        at if zeroed.contains(&at) => 0,
        at if written.contains(&at) => 0xA7,
        _ => old,
    };
    let touched = |range: &Range<u64>, at: u64| range.start < at + SAMPLE && at < range.end;
    for old in &before {
        let (Ok(bytes), true) = (&old.found, done) else { continue };
        let new = sample(&*layer, old.at).found;
        let new = new.unwrap_or_else(|e| panic!("byte {} reads no more: {e}", old.at));
        for ((at, old), new) in (old.at..).zip(bytes).zip(new) {
            assert_eq!(new, expect(at, *old), "byte {at} after a change");
        }
    }
    if !done {
        // A change that failed in the middle may be there in part, but nowhere else.
        for old in before.iter().filter(|old| old.found.is_ok()) {
            if !touched(&written, old.at) && !touched(&zeroed, old.at) {
                assert_eq!(*old, sample(&*layer, old.at), "after a change that failed");
            }
        }
    }
}

/// Changes a file as `input` says: a list of changes, each at a place near one of `anchors` (or
/// the end), which are the format's structures.
pub fn patch(store: &MemStore, anchors: &[u64], input: &[u8]) {
    const NUMBERS: [u64; 8] = [0, 1, u64::MAX, 1 << 63, 0xFFFF_FFFE, 1 << 20, 512, 1 << 40];
    let mut rest = input;
    for _ in 0..64 {
        let Some((&[op, anchor, low, high], tail)) = rest.split_first_chunk::<4>() else { return };
        rest = tail;
        let len = store.len().unwrap();
        let base = anchors.get(usize::from(anchor) % (anchors.len() + 1)).copied().unwrap_or(len);
        // Forwards from a structure, but backwards from the end.
        let shift = u64::from(u16::from_le_bytes([low, high]));
        let at = if base == len { base.saturating_sub(shift) } else { base + shift };
        let count = usize::from(op >> 3) + 1;
        match op & 7 {
            0..=3 => {
                let (bytes, tail) = rest.split_at(count.min(rest.len()));
                rest = tail;
                if !bytes.is_empty() {
                    store.write_all_at(bytes, at).unwrap();
                }
            }
            4 => {
                let number = NUMBERS[count % 8].wrapping_add(u64::from(op >> 6)).to_be_bytes();
                store.write_all_at(&number[8 - (1 << (count % 4))..], at).unwrap();
            }
            5 => {
                let number = NUMBERS[count % 8].wrapping_add(u64::from(op >> 6)).to_le_bytes();
                store.write_all_at(&number[..1 << (count % 4)], at).unwrap();
            }
            6 => {
                // What already stands elsewhere: entries, sectors, headers twice.
                let Some((&[from, low], tail)) = rest.split_first_chunk::<2>() else { return };
                rest = tail;
                let from = anchors.get(usize::from(from) % anchors.len().max(1)).unwrap_or(&0);
                let bytes = [4, 8, 512, 4096][count % 4];
                let mut buf = vec![0; bytes];
                if store.read_exact_at(&mut buf, from + u64::from(low) * 4).is_ok() {
                    store.write_all_at(&buf, at).unwrap();
                }
            }
            _ => store.set_len(at.min(1 << 33)).unwrap(),
        }
    }
}

/// A sound image to be driven by [`drive_input`].
pub struct Driven<'a> {
    /// Opens it for writing, as it stands; called again after each close or cut.
    pub open: Box<dyn FnMut() -> Result<Box<dyn LayerMut>> + 'a>,
    /// What its parents hold.
    pub below: VecDisk,
    /// Whether the virtual size may be changed: the step, and the largest.
    pub resize: Option<(u64, u64)>,
}

/// What one operation made of some bytes since the last flush.
struct Change {
    range: Range<u64>,
    /// Empty: zeros.
    bytes: Vec<u8>,
}

impl Change {
    fn byte(&self, at: u64) -> u8 {
        self.bytes.get((at - self.range.start) as usize).copied().unwrap_or(0)
    }
}

/// Does what `input` spells, six bytes an operation, and compares with a plain vector. A cut
/// (dropped without close) must leave each byte as it was flushed or as some later operation made
/// it.
///
/// # Panics
/// Where the image differs, or an operation fails.
pub fn drive_input(mut driven: Driven<'_>, input: &[u8]) {
    let mut layer = (driven.open)().unwrap_or_else(|e| panic!("open: {e}"));
    let mut model = driven.below.0.clone();
    model.resize(layer.info().virtual_size as usize, 0);
    // The first read is the content, whatever the image was made with.
    read(&*layer, &driven.below, &mut model, 0).unwrap_or_else(|e| panic!("read: {e}"));
    let mut flushed = model.clone();
    let mut since: Vec<Change> = Vec::new();
    // What a cut leaves unused stays.
    let mut cut = false;

    for (step, record) in input.chunks_exact(6).take(64).enumerate() {
        let &[op, a, b, c, d, value] = record else { continue };
        let size = model.len() as u64;
        let context = format!("step {step}");
        let fail = |what: &str, e: Error| -> ! { panic!("{context}: {what}: {e}") };
        let odd = if op & 0x80 != 0 { u64::from(value) } else { 0 };
        let at = (u64::from(u16::from_le_bytes([a, b])) * 512 + odd) % size;
        let scale = if op & 0x40 != 0 { 16 } else { 1 };
        let len = (1 + u64::from(u16::from_le_bytes([c, d]))) * scale;
        let range = at..(at + len.min(3 << 20)).min(size);
        let (start, end) = (range.start as usize, range.end as usize);
        match op & 7 {
            0..=2 => {
                let bytes: Vec<u8> = match value {
                    0 => vec![0; end - start],
                    _ => (0..end - start).map(|n| value ^ (n / 512) as u8).collect(),
                };
                layer.write(&bytes, at, &driven.below).unwrap_or_else(|e| fail("write", e));
                model[start..end].copy_from_slice(&bytes);
                since.push(Change { range, bytes });
            }
            3 => {
                layer.zero(range.clone(), &driven.below).unwrap_or_else(|e| fail("zero", e));
                model[start..end].fill(0);
                since.push(Change { range, bytes: Vec::new() });
            }
            4 => {
                layer.flush().unwrap_or_else(|e| fail("flush", e));
                flushed.clone_from(&model);
                since.clear();
            }
            5 => {
                let Some((step, most)) = driven.resize else { continue };
                let new = ((at / step + 1) * step).min(most);
                layer.resize(new).unwrap_or_else(|e| fail("resize", e));
                layer.flush().unwrap_or_else(|e| fail("flush", e));
                model.resize(new as usize, 0);
                driven.below.0.truncate(new as usize);
                flushed.clone_from(&model);
                since.clear();
            }
            6 => {
                layer.close().unwrap_or_else(|e| fail("close", e));
                drop(layer);
                layer = (driven.open)().unwrap_or_else(|e| fail("reopen", e));
                assert_reads(&*layer, &driven.below, &model, &context);
                if !cut {
                    assert_clean(&*layer, &context);
                }
                flushed.clone_from(&model);
                since.clear();
            }
            _ => {
                cut = true;
                drop(layer);
                layer = (driven.open)().unwrap_or_else(|e| fail("open after a cut", e));
                assert_eq!(layer.info().virtual_size, size, "{context}: size after a cut");
                let mut found = vec![0; model.len()];
                read(&*layer, &driven.below, &mut found, 0).unwrap_or_else(|e| fail("read", e));
                for (sector, start) in found.chunks(512).zip((0..).step_by(512)) {
                    if sector == &flushed[start..start + sector.len()] {
                        continue;
                    }
                    for (at, byte) in (start..).zip(sector) {
                        let (at, was) = (at as u64, flushed[at]);
                        let known = |c: &Change| c.range.contains(&at) && c.byte(at) == *byte;
                        assert!(
                            *byte == was || since.iter().any(known),
                            "{context}: byte {at} is {byte} after a cut, was {was}"
                        );
                    }
                }
                let mut findings = Findings::new();
                layer.check(&mut findings).unwrap_or_else(|e| fail("check", e));
                let broken = findings.count(Severity::Corruption);
                assert_eq!(broken, 0, "{context}: {:?}", findings.list());
                flushed.clone_from(&found);
                model = found;
                since.clear();
            }
        }
    }
    layer.close().unwrap_or_else(|e| panic!("close: {e}"));
    drop(layer);
    let layer = (driven.open)().unwrap_or_else(|e| panic!("open at the end: {e}"));
    assert_reads(&*layer, &driven.below, &model, "at the end");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patches_are_repeatable_and_take_any_input() {
        for seed in 0..200 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let input: Vec<u8> = (0..rng.usize(0..300)).map(|_| rng.u8(..)).collect();
            let made = || {
                let store = MemStore::from_bytes("t", &[7; 5000]);
                patch(&store, &[0, 512, 4000], &input);
                store
            };
            let (one, other) = (made(), made());
            assert_eq!(one.len().unwrap(), other.len().unwrap());
            if one.len().unwrap() < 1 << 20 {
                assert_eq!(one.to_bytes(), other.to_bytes());
            }
        }
    }

    #[test]
    #[should_panic(expected = "reading only")]
    fn a_reader_that_writes_is_found() {
        let mut files = MemFiles::new("a");
        files.create("a").unwrap();
        exercise(
            &files,
            &|store, _, _| {
                store.write_all_at(b"x", 0).unwrap();
                Err(Error::refused("no"))
            },
            [0; 3],
        );
    }
}
