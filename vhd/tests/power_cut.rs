//! Power cuts at any moment: after each, the image opens, holds what was flushed, and no sector
//! holds anything that was never written to it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{child, contents, empty, image, open_read, open_write, options};
use vdisk_core::{Findings, Layer, LayerMut, MemStore, Severity, Store, Vacant, Watch};
use vdisk_testkit::content::Content;
use vdisk_testkit::{VecDisk, vacant};
use vdisk_vhd::Subformat;

const SECTOR: usize = 512;

/// What reached the host's cache, in order.
#[derive(Clone, Debug)]
enum Op {
    /// Whole sectors, as they were after the write.
    Write(u64, Vec<u8>),
    SetLen(u64),
    Sync,
}

/// A store that remembers everything done to it.
#[derive(Debug)]
struct LogStore {
    now: MemStore,
    log: Mutex<Vec<Op>>,
}

impl LogStore {
    fn done(&self) -> usize {
        self.log.lock().unwrap().len()
    }

    fn record(&self, op: Op) {
        self.log.lock().unwrap().push(op);
    }

    /// Records the sectors a change touched: the disk writes whole ones.
    fn record_sectors(&self, offset: u64, len: u64) -> io::Result<()> {
        let start = offset / 512 * 512;
        let end = (offset + len).next_multiple_of(512).min(self.now.len()?);
        let mut bytes = vec![0; (end - start) as usize];
        self.now.read_exact_at(&mut bytes, start)?;
        self.record(Op::Write(start, bytes));
        Ok(())
    }
}

impl Store for LogStore {
    fn name(&self) -> &Path {
        self.now.name()
    }
    fn len(&self) -> io::Result<u64> {
        self.now.len()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.now.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.now.write_all_at(buf, offset)?;
        self.record_sectors(offset, buf.len() as u64)
    }
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.now.zero(offset, len)?;
        self.record_sectors(offset, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.now.set_len(len)?;
        self.record(Op::SetLen(len));
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.record(Op::Sync);
        Ok(())
    }
}

/// The guest's view over time: what the disk held, from which store operation on it may show,
/// and up to which older state it is surely gone.
struct Moment {
    started: usize,
    model: Vec<u8>,
    /// The store operations done when a flush that covers this model had returned.
    flushed: Option<usize>,
}

struct Run {
    start: MemStore,
    log: Arc<LogStore>,
    moments: Vec<Moment>,
    below: VecDisk,
}

/// Changes an image at random, remembering every moment; `most` sectors are the largest size.
fn run(start: &MemStore, below: Vec<u8>, most: Option<u64>, seed: u64) -> Run {
    let mut rng = fastrand::Rng::with_seed(seed);
    let bytes = start.to_bytes();
    let now = MemStore::from_bytes("image", &bytes);
    let log = Arc::new(LogStore { now, log: Mutex::default() });
    let below = VecDisk(below);
    let mut layer = open_write(log.clone()).unwrap();
    let model = contents(&layer, &below);
    let mut moments = vec![Moment { started: 0, model, flushed: Some(0) }];
    for _ in 0..30 {
        let mut model = moments.last().unwrap().model.clone();
        let started = log.done();
        let from = rng.usize(0..model.len());
        let to = (from + rng.usize(1..20_000)).min(model.len());
        let mut durable = false;
        let large = most > Some(1000) && rng.bool();
        match if large { rng.u32(6..8) } else { rng.u32(0..10) } {
            0..5 => {
                let mut data = vec![0; to - from];
                rng.fill(&mut data);
                model[from..to].copy_from_slice(&data);
                layer.write(&data, from as u64, &below).unwrap();
            }
            5 => {
                model[from..to].fill(0);
                layer.zero(from as u64..to as u64, &below).unwrap();
            }
            6 if most.is_some() => {
                let size = rng.u64(1..=most.unwrap()) * 512;
                model.resize(size as usize, 0);
                layer.resize(size).unwrap();
                durable = true;
            }
            7 => {
                vacant::compact(&mut layer, &below, &model, &format!("seed {seed}"));
                durable = true;
            }
            _ => {
                layer.flush().unwrap();
                durable = true;
            }
        }
        let flushed = durable.then(|| log.done());
        moments.push(Moment { started, model, flushed });
    }
    let start = MemStore::from_bytes("start", &bytes);
    Run { start, log, moments, below }
}

/// The file after a cut before operation `cut`: everything up to the last sync, and of what came
/// after it any sectors, in any combination.
fn state(run: &Run, cut: usize, rng: &mut fastrand::Rng) -> MemStore {
    let log = run.log.log.lock().unwrap();
    let synced = log[..cut].iter().rposition(|op| matches!(op, Op::Sync)).unwrap_or(0);
    let store = MemStore::from_bytes("cut", &run.start.to_bytes());
    let style = rng.u32(0..4);
    for (index, op) in log[..cut].iter().enumerate() {
        let sure = index < synced || style == 0;
        match op {
            Op::Write(at, bytes) => {
                let all = sure || (style != 3 && rng.bool());
                for (sector, piece) in bytes.chunks(SECTOR).enumerate() {
                    if all || (style != 1 && rng.u32(0..3) == 0) {
                        store.write_all_at(piece, at + (sector * SECTOR) as u64).unwrap();
                    }
                }
            }
            Op::SetLen(len) if sure || rng.bool() => store.set_len(*len).unwrap(),
            Op::SetLen(_) | Op::Sync => {}
        }
    }
    store
}

/// The states that the disk may show after a cut before operation `cut`.
fn possible(moments: &[Moment], cut: usize) -> &[Moment] {
    let first = moments
        .iter()
        .rposition(|moment| moment.flushed.is_some_and(|done| done <= cut))
        .unwrap_or(0);
    let end = moments.iter().position(|moment| moment.started >= cut).unwrap_or(moments.len());
    &moments[first..end.max(first + 1)]
}

fn verify(found: &[u8], possible: &[Moment], context: &str) {
    assert!(
        possible.iter().any(|m| m.model.len() == found.len()),
        "{context}: size {}",
        found.len()
    );
    for (index, sector) in found.chunks(SECTOR).enumerate() {
        let at = index * SECTOR;
        let known = possible.iter().any(|moment| match moment.model.get(at..at + SECTOR) {
            Some(value) => value == sector,
            None => sector.iter().all(|byte| *byte == 0),
        });
        assert!(known, "{context}: sector {index} holds what was never written to it");
    }
}

fn cut_everywhere(start: &MemStore, below: &[u8], most: Option<u64>, seed: u64) {
    let run = run(start, below.to_vec(), most, seed);
    let mut rng = fastrand::Rng::with_seed(seed);
    let ops = run.log.done();
    let log = run.log.log.lock().unwrap().clone();
    let syncs: Vec<_> = (0..ops).filter(|index| matches!(log[*index], Op::Sync)).collect();
    // Large disks take long to compare.
    let cases = if most > Some(1000) { 60 } else { 150 };
    for case in 0..cases {
        // Right before a flush, most can be lost.
        let cut = if rng.bool() { rng.usize(0..=ops) } else { *rng.choice(&syncs).unwrap() };
        let context = format!("seed {seed} case {case} cut {cut} of {ops}");
        let store = Arc::new(state(&run, cut, &mut rng));
        let before = store.to_bytes();
        let layer = open_read(store.clone()).unwrap_or_else(|e| panic!("{context}: {e}"));
        let found = contents(&layer, &run.below);
        verify(&found, possible(&run.moments, cut), &context);
        assert!(store.to_bytes() == before, "{context}: reading wrote");

        // Going on repairs the footers, and costs nothing but space.
        let mut layer = open_write(store.clone()).unwrap_or_else(|e| panic!("{context}: {e}"));
        layer.write(&[7; 512], 0, &run.below).unwrap();
        layer.close().unwrap();
        let layer = open_read(store).unwrap_or_else(|e| panic!("{context}: {e}"));
        let mut findings = Findings::new();
        layer.check(&mut findings).unwrap();
        assert_eq!(findings.count(Severity::Corruption), 0, "{context}: {:?}", findings.list());
        let again = contents(&layer, &run.below);
        assert!(again[..512] == [7; 512] && again[512..] == found[512..], "{context}");
    }
}

#[test]
fn dynamic() {
    for seed in 0..8 {
        let start = empty(&options(200 * 512, Subformat::Dynamic, 4096));
        cut_everywhere(&start, &[], Some(300), seed);
        let content = Content::random(150 * 1024, seed);
        let start = image(&options(150 * 1024, Subformat::Dynamic, 16384), &content);
        cut_everywhere(&start, &[], Some(300), seed);
    }
}

#[test]
fn dynamic_with_a_growing_table() {
    // Beyond 512 entries the table reaches the first block, which must make room.
    for seed in 0..5 {
        let size = 100 * 4096;
        let content = Content::full(size, seed);
        let start = image(&options(size, Subformat::Dynamic, 4096), &content);
        cut_everywhere(&start, &[], Some(6000), seed);
    }
}

#[test]
fn differencing() {
    for seed in 0..8 {
        let size = 200 * 1024;
        let parent = Content::full(size, seed);
        let base = image(&options(size, Subformat::Dynamic, 65536), &parent);
        cut_everywhere(&child(base, 32768), parent.bytes(), None, seed);
    }
}

#[test]
fn fixed() {
    for seed in 0..8 {
        let content = Content::full(150 * 1024, seed);
        let start = image(&options(150 * 1024, Subformat::Fixed, 4096), &content);
        cut_everywhere(&start, &[], Some(300), seed);
    }
}

/// Killed anywhere, a shrink or growth is finished by asking for the same size again, and what was
/// cut off never comes back.
#[test]
fn a_resize_that_was_killed_is_finished_by_the_next() {
    for kind in [Subformat::Dynamic, Subformat::Fixed] {
        let large = 600 * 4096;
        let disk = Content::full(large, 9);
        let bytes = image(&options(large, kind, 4096), &disk).to_bytes();
        for target in [100 * 4096 + 512, large + 300 * 4096] {
            let now = MemStore::from_bytes("image", &bytes);
            let log = Arc::new(LogStore { now, log: Mutex::default() });
            let mut layer = open_write(log.clone()).unwrap();
            layer.resize(target).unwrap();
            layer.close().unwrap();
            let below = VecDisk(Vec::new());
            let mut expected = disk.bytes().to_vec();
            expected.resize(target as usize, 0);
            let ops = log.log.lock().unwrap().clone();
            for cut in 0..=ops.len() {
                // The many moves of blocks are all alike.
                if (40..ops.len().saturating_sub(40)).contains(&cut) && cut % 13 != 0 {
                    continue;
                }
                let context = format!("{kind:?} to {target}, killed after {cut} of {}", ops.len());
                let store = Arc::new(MemStore::from_bytes("cut", &bytes));
                for op in &ops[..cut] {
                    match op {
                        Op::Write(at, bytes) => store.write_all_at(bytes, *at).unwrap(),
                        Op::SetLen(len) => store.set_len(*len).unwrap(),
                        Op::Sync => {}
                    }
                }
                let mut layer = open_write(store.clone()).unwrap();
                layer.resize(target).unwrap_or_else(|e| panic!("{context}: {e}"));
                // Where only space was left to be given back, compacting does that.
                layer.compact(&Vacant::default(), Watch::default()).unwrap();
                layer.close().unwrap();
                let mut layer = open_write(store.clone()).unwrap();
                vdisk_testkit::model::assert_clean(&layer, &context);
                assert!(contents(&layer, &below) == expected, "{context}");
                if target < large {
                    assert_eq!(store.len().unwrap(), log.len().unwrap(), "{context}");
                    layer.resize(large).unwrap();
                    expected.resize(large as usize, 0);
                    assert!(contents(&layer, &below) == expected, "{context}: it came back");
                    expected.truncate(target as usize);
                }
            }
        }
    }
}
