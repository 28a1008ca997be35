//! Registry hives and their logs.

use std::sync::OnceLock;

use vdisk_core::{MemStore, Store, StoreExt};
use vdisk_hive::{Editor, FileTime, Hive, ValueKind};
use vdisk_testkit::exercise::patch;
use vdisk_testkit::regf::{empty_hive, make_dirty, new_log, old_log, seal_header, seal_log};

#[path = "../../hive/tests/common/dump.rs"]
mod dump;
#[path = "../../hive/tests/common/exercise.rs"]
mod exercise;

use exercise::exercise;

/// Files larger than this come from a changed length only.
const MOST: u64 = 1 << 20;

/// Hives with changes in their structures: read, checked, and edited where they are sound.
pub fn hive_open(input: &[u8]) {
    static BASES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let Some((&[first, a, b, c, d], rest)) = input.split_first_chunk::<5>() else { return };
    let Some(mut bytes) = changed(BASES.get_or_init(bases), usize::from(first >> 1), rest) else {
        return;
    };
    if first & 1 != 0 {
        seal_header(&mut bytes);
    }
    if let Ok(hive) = Hive::parse(bytes) {
        exercise(hive, &[a, b, c, d, b, d, c, a]);
    }
}

/// Dirty hives with changes in their logs.
pub fn hive_log(input: &[u8]) {
    static LOGS: OnceLock<(Vec<u8>, Vec<Vec<u8>>)> = OnceLock::new();
    let Some((&[first], rest)) = input.split_first_chunk::<1>() else { return };
    let (dirty, logs) = LOGS.get_or_init(|| {
        let states = states();
        let mut dirty = states[0].clone();
        make_dirty(&mut dirty);
        let old = old_log(&dirty, &states[4]);
        (dirty, vec![old, new_log(&states, 7), new_log(&states[..3], 7), new_log(&states[2..], 9)])
    });
    let which = usize::from(first >> 1);
    let Some(mut log) = changed(logs, which, rest) else { return };
    if first & 1 != 0 {
        seal_log(&mut log);
    }
    // Beside a sound one, and alone, and with a hive whose header is lost.
    let other = &logs[(which + 1) % logs.len()];
    let mut headless = dirty.clone();
    headless[40] ^= 1;
    for (hive, logs) in
        [(dirty, vec![&log[..]]), (dirty, vec![&log, other]), (&headless, vec![&log])]
    {
        if let Ok((found, recovery)) = Hive::recover(hive.clone(), &logs) {
            assert!(!found.base().is_dirty() && !recovery.replayed.is_empty());
            let most = hive.len() + logs.iter().map(|log| log.len()).sum::<usize>();
            assert!(found.bytes().len() <= most);
            exercise(found, &[4, 1, 9, 7]);
        }
    }
}

/// Sound hives, edited as the input says.
pub fn hive_edit(input: &[u8]) {
    static BASES: OnceLock<Vec<Vec<u8>>> = OnceLock::new();
    let bases = BASES.get_or_init(bases);
    let Some((&first, steps)) = input.split_first() else { return };
    let bytes = bases[usize::from(first) % bases.len()].clone();
    exercise(Hive::parse(bytes).expect("it was made"), steps);
}

/// One of `bases` with the changes that `input` lists.
fn changed(bases: &[Vec<u8>], which: usize, input: &[u8]) -> Option<Vec<u8>> {
    let base = &bases[which % bases.len()];
    let store = MemStore::new("hive");
    store.put(base, 0, "hive").expect("memory");
    patch(&store, &anchors(base), input);
    let len = store.len().expect("memory");
    (len <= MOST).then(|| store.to_bytes())
}

/// Headers, bins, and what looks like a cell of a key, value, list or descriptor.
fn anchors(bytes: &[u8]) -> Vec<u64> {
    const SIGNATURES: [&[u8]; 12] = [
        b"regf", b"hbin", b"nk", b"vk", b"sk", b"lf", b"lh", b"li", b"ri", b"db", b"DIRT", b"HvLE",
    ];
    let places = (0..bytes.len()).step_by(4);
    let found = places.filter(|at| SIGNATURES.iter().any(|name| bytes[*at..].starts_with(name)));
    // An anchor is chosen by one byte.
    let mut found: Vec<u64> = found.map(|at| at as u64).collect();
    let step = found.len().div_ceil(250).max(1);
    found = found.into_iter().step_by(step).collect();
    found
}

fn bases() -> Vec<Vec<u8>> {
    [3, 5].into_iter().flat_map(|minor| [empty_hive(minor), small(minor), crowded(minor)]).collect()
}

fn editor(bytes: Vec<u8>) -> Editor {
    Editor::new(Hive::parse(bytes).expect("it was made"), FileTime(5)).expect("it is sound")
}

/// Some keys and values of each kind.
fn small(minor: u8) -> Vec<u8> {
    let mut editor = editor(empty_hive(minor));
    let root = editor.hive().root().expect("root").id();
    for name in ["a", "B", "c"] {
        let key = editor.create_key(root, name).expect("new");
        let below = editor.create_key(key, "ä я").expect("new");
        editor.set_security(below, name.as_bytes()).expect("new");
        for len in [0_u32, 4, 5, 17_000] {
            let data = vec![7; len as usize];
            let value = len.to_string();
            editor.set_value(below, value.as_str(), ValueKind(len), &data).expect("new");
        }
        editor.set_class(key, b"c\0").expect("new");
    }
    editor.finish().expect("sound")
}

/// A list of more than one leaf.
fn crowded(minor: u8) -> Vec<u8> {
    let mut editor = editor(empty_hive(minor));
    let root = editor.hive().root().expect("root").id();
    for number in 0..509 {
        editor.create_key(root, format!("{number:03}").as_str()).expect("new");
    }
    editor.finish().expect("sound")
}

/// A hive in five states, each an edit further.
fn states() -> Vec<Vec<u8>> {
    let mut states = vec![empty_hive(5)];
    for number in 0..4_u8 {
        let mut editor = editor(states[usize::from(number)].clone());
        let root = editor.hive().root().expect("root").id();
        let key = editor.create_key(root, format!("key {number}").as_str()).expect("new");
        let data = vec![number; 3000 * usize::from(number)];
        editor.set_value(key, "value", ValueKind::BINARY, &data).expect("new");
        states.push(editor.finish().expect("sound"));
    }
    states
}
