//! The power fails between any two writes, with any of the writes since the last flush lost or
//! torn: the image must open, hold what was flushed, and show nothing that was never written.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use common::{MIB, VecStore, child, content, image, read_only, small, writable};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{Disk, ErrorKind, Findings, Layer, LayerMut, Severity, Store, Vacant, Watch};
use vdisk_testkit::content::Content;
use vdisk_testkit::{VecDisk, vacant};
use vdisk_vhdx::CreateOptions;

const SECTOR: usize = 512;

#[derive(Clone, Debug)]
enum Op {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    SetLen(u64),
    Sync,
    /// The guest's flush returned; the disk held this.
    Flushed(Vec<u8>),
    /// The guest changed the disk; from now on it may hold this.
    Changed(Vec<u8>),
}

/// Remembers every change.
#[derive(Debug)]
struct Recorder {
    inner: Arc<VecStore>,
    ops: Mutex<Vec<Op>>,
}

impl Recorder {
    fn note(&self, op: Op) {
        self.ops.lock().unwrap().push(op);
    }
}

impl Store for Recorder {
    fn name(&self) -> &Path {
        self.inner.name()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.note(Op::Write(offset, buf.to_vec()));
        self.inner.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.note(Op::SetLen(len));
        self.inner.set_len(len)
    }

    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.note(Op::Zero(offset, len));
        self.inner.zero(offset, len)
    }

    fn sync(&self) -> io::Result<()> {
        self.note(Op::Sync);
        Ok(())
    }
}

/// What a power cut leaves of one operation: all, nothing, or some of its sectors.
fn apply(store: &VecStore, op: &Op, rng: Option<&mut fastrand::Rng>) {
    let fate = rng.map(|rng| (rng.u32(0..3), rng));
    match (op, fate) {
        (_, Some((0, _))) => {}
        (Op::Write(at, bytes), Some((1, rng))) => {
            let mut done = 0;
            while done < bytes.len() {
                let step = (SECTOR - (*at as usize + done) % SECTOR).min(bytes.len() - done);
                if rng.bool() {
                    store.write_all_at(&bytes[done..done + step], at + done as u64).unwrap();
                }
                done += step;
            }
        }
        (Op::Write(at, bytes), _) => store.write_all_at(bytes, *at).unwrap(),
        (Op::Zero(at, len), _) => {
            let there = store.len().unwrap().saturating_sub(*at).min(*len);
            store.zero(*at, there).unwrap();
        }
        (Op::SetLen(len), _) => store.set_len(*len).unwrap(),
        _ => {}
    }
}

/// A random session on the image in `start`; all that happened.
fn session(start: Vec<u8>, below: &VecDisk, seed: u64, resize: bool) -> Vec<Op> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let recorder = Arc::new(Recorder { inner: VecStore::new(start), ops: Mutex::new(Vec::new()) });
    let mut layer = writable(recorder.clone()).unwrap();
    let mut model = content(&layer, below).unwrap();
    recorder.note(Op::Flushed(model.clone()));
    for _ in 0..14 {
        let size = model.len();
        let (a, b) = (rng.usize(0..size) / SECTOR, rng.usize(0..=size) / SECTOR);
        let mut range = a.min(b) * SECTOR..a.max(b) * SECTOR;
        if rng.bool() {
            range.end = range.end.min(range.start + 18 * SECTOR);
        }
        match rng.u32(0..10) {
            0..5 => {
                let bytes: Vec<u8> = range.clone().map(|_| rng.u8(1..)).collect();
                model[range.clone()].copy_from_slice(&bytes);
                recorder.note(Op::Changed(model.clone()));
                layer.write(&bytes, range.start as u64, below).unwrap();
            }
            5..7 => {
                model[range.clone()].fill(0);
                recorder.note(Op::Changed(model.clone()));
                layer.zero(range.start as u64..range.end as u64, below).unwrap();
            }
            7 if resize => {
                let size = rng.u64(1..12) * 512 * 1024;
                model.resize(size as usize, 0);
                recorder.note(Op::Changed(model.clone()));
                layer.resize(size).unwrap();
            }
            8 => {
                vacant::compact(&mut layer, below, &model, &format!("seed {seed}"));
                recorder.note(Op::Flushed(model.clone()));
            }
            _ => {
                layer.flush().unwrap();
                recorder.note(Op::Flushed(model.clone()));
            }
        }
    }
    layer.close().unwrap();
    recorder.note(Op::Flushed(model));
    let mut ops = recorder.ops.lock().unwrap();
    std::mem::take(&mut *ops)
}

/// Compacts the image in `start`, in which some blocks hold only zeros; all that happened.
fn compacting(start: Vec<u8>, below: &VecDisk) -> Vec<Op> {
    let recorder = Arc::new(Recorder { inner: VecStore::new(start), ops: Mutex::new(Vec::new()) });
    let mut layer = writable(recorder.clone()).unwrap();
    let content = content(&layer, below).unwrap();
    recorder.note(Op::Flushed(content.clone()));
    vacant::compact(&mut layer, below, &content, "compacting");
    let mut ops = recorder.ops.lock().unwrap();
    std::mem::take(&mut *ops)
}

/// Cuts the power at many points of a session.
fn cut(start: &[u8], below: &VecDisk, seed: u64, cuts: usize, resize: bool) {
    let ops = session(start.to_vec(), below, seed, resize);
    cut_ops(start, below, &ops, seed, cuts);
}

fn cut_ops(start: &[u8], below: &VecDisk, ops: &[Op], seed: u64, cuts: usize) {
    let mut rng = fastrand::Rng::with_seed(seed ^ 0xC07);
    let mut points: Vec<usize> = (0..cuts).map(|_| rng.usize(0..=ops.len())).collect();
    points.sort_unstable();
    let durable = VecStore::new(start.to_vec());
    let mut synced = 0;
    for point in points {
        let last_sync = ops[..point].iter().rposition(|op| matches!(op, Op::Sync)).unwrap_or(0);
        for op in &ops[synced..last_sync.max(synced)] {
            apply(&durable, op, None);
        }
        synced = last_sync.max(synced);
        let after = VecStore::new(durable.bytes());
        for op in &ops[synced..point] {
            apply(&after, op, Some(&mut rng));
        }
        let from = ops[..point].iter().rposition(|op| matches!(op, Op::Flushed(_))).unwrap_or(0);
        let versions: Vec<&Vec<u8>> = ops[from..point.max(1)]
            .iter()
            .filter_map(|op| match op {
                Op::Flushed(disk) | Op::Changed(disk) => Some(disk),
                _ => None,
            })
            .collect();
        verify(&after, below, &versions, &format!("seed {seed}, cut at {point} of {}", ops.len()));
    }
}

fn verify(store: &Arc<VecStore>, below: &VecDisk, versions: &[&Vec<u8>], context: &str) {
    let layer = read_only(store.clone()).unwrap_or_else(|e| panic!("{context}: open: {e}"));
    compare(&layer, below, versions, context);
    drop(layer);
    let layer = writable(store.clone()).unwrap_or_else(|e| panic!("{context}: replay: {e}"));
    compare(&layer, below, versions, context);
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap();
    assert_eq!(findings.count(Severity::Corruption), 0, "{context}: {:?}", findings.list());
}

/// Every sector is as it was flushed, or as it was written since.
fn compare(layer: &dyn Layer, below: &dyn Disk, versions: &[&Vec<u8>], context: &str) {
    let found = content(layer, below).unwrap_or_else(|e| panic!("{context}: read: {e}"));
    assert!(versions.iter().any(|disk| disk.len() == found.len()), "{context}: size");
    for (number, sector) in found.chunks(SECTOR).enumerate() {
        let at = number * SECTOR;
        let known = versions.iter().any(|disk| disk.get(at..at + sector.len()) == Some(sector));
        let start = |disk: &[u8]| disk.get(at..at + 4).map(<[u8]>::to_vec);
        assert!(
            known,
            "{context}: sector {number} holds {:?}, but held only {:?}",
            start(&found),
            versions.iter().map(|disk| start(disk)).collect::<Vec<_>>(),
        );
    }
}

#[test]
fn dynamic() {
    for seed in 0..16 {
        let options = small(3 * MIB + 512);
        let start = image(&options, &Content::random(options.virtual_size, seed)).to_bytes();
        cut(&start, &VecDisk(Vec::new()), seed, 25, true);
    }
}

#[test]
fn fixed() {
    let options = CreateOptions { fixed: true, ..small(2 * MIB) };
    let start = image(&options, &Content::random(options.virtual_size, 1)).to_bytes();
    cut(&start, &VecDisk(Vec::new()), 77, 25, true);
}

#[test]
fn differencing() {
    for seed in 100..116 {
        let options = small(3 * MIB);
        let below = Content::full(options.virtual_size, seed);
        let parent = image(&options, &below);
        let start = child(&parent, MIB).to_bytes();
        cut(&start, &VecDisk(below.bytes().to_vec()), seed, 25, false);
    }
}

/// Blocks and sector bitmaps that move.
#[test]
fn compacted() {
    for (seed, parent) in [(200, false), (201, true), (202, true)] {
        let options = small(7 * MIB);
        let below = if parent { Content::random(7 * MIB, seed) } else { Content::empty(7 * MIB) };
        let store = image(&options, &below);
        let store = if parent { child(&store, MIB) } else { store };
        let below = VecDisk(if parent { below.bytes().to_vec() } else { Vec::new() });
        let mut layer = writable(store.clone()).unwrap();
        let mut rng = fastrand::Rng::with_seed(seed);
        for block in 0..7 {
            let len = if rng.bool() { MIB as usize } else { rng.usize(1..MIB as usize) };
            let byte = if block % 2 == 0 { 0 } else { rng.u8(1..) };
            layer.write(&vec![byte; len], block * MIB, &below).unwrap();
        }
        layer.close().unwrap();
        let start = store.to_bytes();
        let ops = compacting(start.clone(), &below);
        assert!(ops.len() > 30, "{}", ops.len());
        cut_ops(&start, &below, &ops, seed, 60);
    }
}

/// A session that ends without a close: what was flushed is there, and the log is replayed.
#[test]
fn dropped_without_close() {
    let store = image(&small(4 * MIB), &Content::empty(4 * MIB));
    let mut layer = writable(store.clone()).unwrap();
    layer.write(&[7; 5000], MIB - 100, &ZeroDisk(0)).unwrap();
    layer.flush().unwrap();
    drop(layer);
    let layer = read_only(store.clone()).unwrap();
    assert!(layer.info().dirty);
    let bytes = content(&layer, &ZeroDisk(0)).unwrap();
    assert!(bytes[MIB as usize - 100..][..5000].iter().all(|byte| *byte == 7));
}

/// A store whose flush fails from some time on.
#[derive(Debug)]
struct Failing {
    inner: Arc<VecStore>,
    syncs_left: Mutex<u32>,
}

impl Store for Failing {
    fn name(&self) -> &Path {
        self.inner.name()
    }

    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.inner.read_exact_at(buf, offset)
    }

    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.inner.write_all_at(buf, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.inner.set_len(len)
    }

    fn sync(&self) -> io::Result<()> {
        let mut left = self.syncs_left.lock().unwrap();
        *left = left.checked_sub(1).ok_or(io::ErrorKind::Other)?;
        Ok(())
    }
}

/// After a flush that failed nobody knows what is durable: nothing more is written, and opening
/// the image again shows what was flushed before.
#[test]
fn a_failed_flush_ends_the_writing() {
    let start = image(&small(4 * MIB), &Content::empty(4 * MIB)).to_bytes();
    let mut failed = 0;
    for syncs in 0..12 {
        let inner = VecStore::new(start.clone());
        let store = Failing { inner: inner.clone(), syncs_left: Mutex::new(syncs) };
        let mut layer = writable(Arc::new(store)).unwrap();
        let below = ZeroDisk(0);
        let first = layer.write(&[1; 512], 0, &below).and_then(|()| layer.flush());
        let second =
            first.is_ok().then(|| layer.write(&[2; 512], MIB, &below).and_then(|()| layer.flush()));
        if let Some(Err(_)) = second {
            failed += 1;
            let error = layer.write(&[3; 512], 2 * MIB, &below).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Io);
            assert!(error.advice().is_some());
            assert!(layer.close().is_err());
        }
        drop(layer);
        let layer = read_only(inner).unwrap();
        let found = content(&layer, &below).unwrap();
        assert!(first.is_err() || found[..512] == [1; 512]);
        assert!(found[2 * MIB as usize..].iter().all(|byte| *byte == 0));
    }
    assert!(failed > 0);
}

/// Killed anywhere, a shrink or growth is finished by asking for the same size again, and what was
/// cut off never comes back.
#[test]
fn a_resize_that_was_killed_is_finished_by_the_next() {
    let (large, below) = (5 * MIB, VecDisk(Vec::new()));
    let disk = Content::full(large, 9);
    let start = image(&small(large), &disk).to_bytes();
    for target in [2 * MIB + 4096, 9 * MIB] {
        let recorder =
            Arc::new(Recorder { inner: VecStore::new(start.clone()), ops: Mutex::default() });
        let mut layer = writable(recorder.clone()).unwrap();
        layer.resize(target).unwrap();
        layer.close().unwrap();
        let ops = recorder.ops.lock().unwrap().clone();
        let mut expected = disk.bytes().to_vec();
        expected.resize(target as usize, 0);
        for cut in 0..=ops.len() {
            let context = format!("to {target}, killed after {cut} of {}", ops.len());
            let store = VecStore::new(start.clone());
            ops[..cut].iter().for_each(|op| apply(&store, op, None));
            let mut layer = writable(store.clone()).unwrap();
            layer.resize(target).unwrap_or_else(|e| panic!("{context}: {e}"));
            // Where only space was left to be given back, compacting does that.
            layer.compact(&Vacant::default(), Watch::default()).unwrap();
            layer.close().unwrap();
            drop(layer);
            let mut layer = writable(store.clone()).unwrap();
            vdisk_testkit::model::assert_clean(&layer, &context);
            assert!(content(&layer, &below).unwrap() == expected, "{context}");
            if target < large {
                // No entry is left of the blocks that were cut off: they are behind the 3 that stay.
                let mut rest = [0; 64];
                store.read_exact_at(&mut rest, bat_offset(&layer) + 3 * 8).unwrap();
                assert_eq!(rest, [0; 64], "{context}");
                layer.resize(large).unwrap();
                expected.resize(large as usize, 0);
                assert!(content(&layer, &below).unwrap() == expected, "{context}: it came back");
                expected.truncate(target as usize);
            }
        }
    }
}

fn bat_offset(layer: &dyn Layer) -> u64 {
    let facts = &layer.info().facts;
    match facts.iter().find(|(name, _)| *name == "bat-offset") {
        Some((_, vdisk_core::Fact::Int(at))) => *at,
        other => panic!("{other:?}"),
    }
}
