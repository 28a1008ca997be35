//! Cutting the power at any point of a session: what was flushed is there, what was not is old or
//! new, nothing is anybody else's, and the tables are sound.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::path::Path;
use std::sync::{Arc, Mutex};
use std::{io, time::SystemTime};

use common::{filled, for_writing, open_mem};
use vdisk_core::layer::read;
use vdisk_core::{
    Findings, Layer, LayerMut, MemFiles, MemStore, ParentLink, Run, Severity, Store, StoreExt,
    Vacant, Watch,
};
use vdisk_testkit::content::Content;
use vdisk_testkit::{VecDisk, vacant};
use vdisk_vmdk::{ChildOptions, CreateOptions, OpenOptions, VmdkLayer, create_child, open};

#[derive(Debug, Clone)]
enum Op {
    Write(u64, Vec<u8>),
    SetLen(u64),
    Zero(u64, u64),
    Sync,
}

/// A store that remembers what was asked of it, in order.
#[derive(Debug)]
struct Recorder {
    inner: MemStore,
    log: Mutex<Vec<Op>>,
}

impl Recorder {
    fn note(&self, op: Op) {
        self.log.lock().unwrap().push(op);
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
    fn run_at(&self, offset: u64, end: u64) -> io::Result<Run> {
        self.inner.run_at(offset, end)
    }
    fn sync(&self) -> io::Result<()> {
        self.note(Op::Sync);
        Ok(())
    }
}

/// What the guest asked for, and how many operations of the store were done when it was over.
struct Step {
    guest: Guest,
    done: usize,
}

enum Guest {
    Write(u64, Vec<u8>),
    Zero(u64, u64),
    Resize(u64),
    Flush,
}

/// The file as a power cut after `cut` operations may leave it: all that was synced, and some of
/// the rest.
fn torn(base: &[u8], log: &[Op], cut: usize, rng: &mut fastrand::Rng) -> MemStore {
    let store = MemStore::from_bytes("disk.vmdk", base);
    let synced = log[..cut].iter().rposition(|op| matches!(op, Op::Sync)).map_or(0, |at| at + 1);
    for (index, op) in log[..cut].iter().enumerate() {
        if index >= synced && rng.bool() {
            continue;
        }
        match op {
            Op::Write(at, bytes) => {
                // Sectors of one write may arrive apart.
                let tear = index >= synced && bytes.len() > 512 && rng.bool();
                let len =
                    if tear { 512 * rng.usize(0..bytes.len() / 512 + 1) } else { bytes.len() };
                store.write_all_at(&bytes[..len.min(bytes.len())], *at).unwrap();
            }
            Op::SetLen(len) => store.set_len(*len).unwrap(),
            Op::Zero(at, len) if at + len <= store.len().unwrap() => store.zero(*at, *len).unwrap(),
            Op::Zero(..) | Op::Sync => {}
        }
    }
    store
}

fn session(files: &MemFiles, below: &VecDisk, seed: u64, resizes: bool) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let base = files.get("disk.vmdk").unwrap().to_bytes();
    let recorder = Arc::new(Recorder {
        inner: MemStore::from_bytes("disk.vmdk", &base),
        log: Mutex::default(),
    });
    let mut layer = open(recorder.clone(), files, &for_writing()).unwrap();
    let start = contents(&layer, below);
    let mut size = start.len() as u64;
    let mut steps = Vec::new();
    for number in 0..20u8 {
        let at = rng.u64(0..size);
        let len = rng.u64(1..30_000).min(size - at);
        let guest = match rng.u32(0..10) {
            0..5 => {
                let data = vec![100 + number; len as usize];
                layer.write(&data, at, below).unwrap();
                Guest::Write(at, data)
            }
            5..7 => {
                layer.zero(at..at + len, below).unwrap();
                Guest::Zero(at, len)
            }
            7 if resizes => {
                size = rng.u64(1..24) * 4096 * 3;
                layer.resize(size).unwrap();
                Guest::Resize(size)
            }
            8 => {
                let content = contents(&layer, below);
                vacant::compact(&mut layer, below, &content, &format!("seed {seed}"));
                Guest::Flush
            }
            _ => {
                layer.flush().unwrap();
                Guest::Flush
            }
        };
        steps.push(Step { guest, done: recorder.log.lock().unwrap().len() });
    }
    layer.close().unwrap();
    let log = recorder.log.lock().unwrap().clone();
    for cut in 0..=log.len() {
        let store = torn(&base, &log, cut, &mut rng);
        let context = format!("seed {seed}, cut after {cut} of {}", log.len());
        judge(store, files, below, &start, &steps, cut, &context);
    }
}

fn contents(layer: &VmdkLayer, below: &VecDisk) -> Vec<u8> {
    let mut bytes = vec![0; layer.info().virtual_size as usize];
    read(layer, below, &mut bytes, 0).unwrap();
    bytes
}

fn judge(
    store: MemStore,
    files: &MemFiles,
    below: &VecDisk,
    start: &[u8],
    steps: &[Step],
    cut: usize,
    context: &str,
) {
    let layer = open(Arc::new(store), files, &OpenOptions::default())
        .unwrap_or_else(|e| panic!("{context}: {e}"));
    let found = contents(&layer, below);
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap();
    assert_eq!(findings.count(Severity::Corruption), 0, "{context}: {:?}", findings.list());

    // What was flushed before the cut is certain; what came later may be there or not.
    let mut certain = start.to_vec();
    let flushed = steps
        .iter()
        .rposition(|step| step.done <= cut && matches!(step.guest, Guest::Flush))
        .map_or(0, |at| at + 1);
    let begun = steps.iter().position(|step| step.done > cut).map_or(steps.len(), |at| at + 1);
    for step in &steps[..flushed] {
        apply(&mut certain, &step.guest);
    }
    let mut possible = vec![certain];
    for step in &steps[flushed..begun] {
        let mut next = possible.last().unwrap().clone();
        apply(&mut next, &step.guest);
        possible.push(next);
    }
    assert!(
        possible.iter().any(|state| state.len() == found.len()),
        "{context}: size {}",
        found.len()
    );
    for (at, byte) in found.iter().enumerate() {
        let known = possible.iter().any(|state| state.get(at) == Some(byte));
        let zero = known || *byte == 0 && possible.iter().any(|state| state.len() <= at);
        assert!(zero || known, "{context}: byte {at} is {byte}");
    }
}

fn apply(state: &mut Vec<u8>, guest: &Guest) {
    match guest {
        Guest::Write(at, data) => {
            state[*at as usize..*at as usize + data.len()].copy_from_slice(data)
        }
        Guest::Zero(at, len) => state[*at as usize..(at + len) as usize].fill(0),
        Guest::Resize(size) => state.resize(*size as usize, 0),
        Guest::Flush => {}
    }
}

#[test]
fn sparse_disks_survive() {
    for seed in 0..6 {
        let size = 40_960 * 5;
        let options = CreateOptions { grain_size: 8 << 10, ..CreateOptions::new(size) };
        let files = filled(&options, &Content::random(size, seed));
        session(&files, &VecDisk(Vec::new()), seed, seed % 2 == 1);
    }
}

#[test]
fn disks_without_tables_survive() {
    for seed in 0..3 {
        let size = 5 << 20;
        let options = CreateOptions { grain_size: 8 << 10, ..CreateOptions::new(size) };
        let files = filled(&options, &Content::empty(size));
        let store = files.get("disk.vmdk").unwrap();
        let bytes = store.to_bytes();
        for field in [48, 56] {
            let at = u64::from_le_bytes(bytes[field..field + 8].try_into().unwrap()) * 512;
            store.put(&[0; 8], at, "directory").unwrap();
        }
        let options = OpenOptions::default();
        let layer = open(store, &files, &options).unwrap();
        assert_eq!(layer.info().virtual_size, size);
        shrunk_session(&files, seed);
    }
}

/// A session on the first 200 KB only, so that comparing stays quick.
fn shrunk_session(files: &MemFiles, seed: u64) {
    let store = files.get("disk.vmdk").unwrap();
    let mut layer = open(store, files, &for_writing()).unwrap();
    layer.resize(204_800).unwrap();
    layer.close().unwrap();
    session(files, &VecDisk(Vec::new()), seed, false);
}

#[test]
fn deltas_survive() {
    for seed in 0..6 {
        let size = 200_192;
        let content = Content::full(size, seed);
        let parent = filled(&CreateOptions::new(size), &Content::empty(size));
        let link = ParentLink {
            info: open_mem(&parent).unwrap().info().clone(),
            relative: "p.vmdk".into(),
            absolute: "/p.vmdk".into(),
            modified: SystemTime::now(),
        };
        let mut files = MemFiles::new("disk.vmdk");
        create_child(&mut files, &ChildOptions::new(&link)).unwrap();
        session(&files, &VecDisk(content.bytes().to_vec()), seed, false);
    }
}

/// Killed anywhere, a shrink or growth is finished by asking for the same size again, and what was
/// cut off never comes back.
#[test]
fn a_resize_that_was_killed_is_finished_by_the_next() {
    let (large, small) = (9 << 20, (3 << 20) + 20_480);
    let options = CreateOptions { grain_size: 8 << 10, ..CreateOptions::new(large) };
    let files = filled(&options, &Content::random(large, 5));
    let base = files.get("disk.vmdk").unwrap().to_bytes();
    let below = VecDisk(Vec::new());
    let content = contents(&open_mem(&files).unwrap(), &below);
    for target in [small, large + (5 << 20)] {
        let recorder = Arc::new(Recorder {
            inner: MemStore::from_bytes("disk.vmdk", &base),
            log: Mutex::default(),
        });
        let mut layer = open(recorder.clone(), &files, &for_writing()).unwrap();
        layer.resize(target).unwrap();
        layer.close().unwrap();
        let log = recorder.log.lock().unwrap().clone();
        let mut expected = content.clone();
        expected.resize(target as usize, 0);
        for cut in 0..=log.len() {
            let context = format!("to {target}, killed after {cut} of {}", log.len());
            let store = Arc::new(MemStore::from_bytes("disk.vmdk", &base));
            for op in &log[..cut] {
                match op {
                    Op::Write(at, bytes) => store.write_all_at(bytes, *at).unwrap(),
                    Op::SetLen(len) => store.set_len(*len).unwrap(),
                    Op::Zero(at, len) => store.zero(*at, *len).unwrap(),
                    Op::Sync => {}
                }
            }
            let mut layer = open(store.clone(), &files, &for_writing()).unwrap();
            layer.resize(target).unwrap_or_else(|e| panic!("{context}: {e}"));
            // Where only space was left to be given back, compacting does that.
            layer.compact(&Vacant::default(), Watch::default()).unwrap();
            layer.close().unwrap();
            drop(layer);
            let mut layer = open(store.clone(), &files, &for_writing()).unwrap();
            let mut findings = Findings::new();
            layer.check(&mut findings).unwrap();
            assert!(findings.list().is_empty(), "{context}: {:?}", findings.list());
            assert!(contents(&layer, &below) == expected, "{context}");
            if target == small {
                assert_eq!(store.len().unwrap(), recorder.len().unwrap(), "{context}");
                layer.resize(large).unwrap();
                let mut grown = expected.clone();
                grown.resize(large as usize, 0);
                assert!(contents(&layer, &below) == grown, "{context}: it came back");
            }
        }
    }
}
