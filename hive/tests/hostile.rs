//! Hives and logs with changed bytes: errors, never panics; and recovery of made logs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use common::dump;
use common::exercise::exercise;
use fastrand::Rng;
use vdisk_core::ErrorKind;
use vdisk_hive::{Editor, FileTime, Generation, Hive, ValueKind};
use vdisk_testkit::regf::{empty_hive, make_dirty, new_log, old_log, seal_header, seal_log};

/// A hive with some of everything.
fn varied(minor: u8) -> Vec<u8> {
    let mut editor = Editor::new(Hive::parse(empty_hive(minor)).unwrap(), FileTime(5)).unwrap();
    let root = editor.hive().root().unwrap().id();
    let many = editor.create_key(root, "many").unwrap();
    for number in 0..520 {
        editor.create_key(many, format!("{number:03}").as_str()).unwrap();
    }
    let values = editor.create_key(root, "werte ä я").unwrap();
    for len in [0, 3, 4, 5, 60, 17_000, 40_000] {
        let name = format!("length {len}");
        editor.set_value(values, name.as_str(), ValueKind(len), &vec![7; len as usize]).unwrap();
    }
    editor.set_value(values, "", ValueKind::SZ, b"d\0\0\0").unwrap();
    editor.set_class(many, b"c\0").unwrap();
    editor.set_security(values, &[3; 40]).unwrap();
    let gone = editor.create_key(root, "gone").unwrap();
    editor.set_value(gone, "v", ValueKind::BINARY, &[1; 700]).unwrap();
    editor.delete_key(gone).unwrap();
    editor.finish().unwrap()
}

/// States of a hive, each an edit further.
fn states(minor: u8) -> Vec<Vec<u8>> {
    let mut states = vec![empty_hive(minor)];
    for number in 0..4_u8 {
        let hive = Hive::parse(states.last().unwrap().clone()).unwrap();
        let mut editor = Editor::new(hive, FileTime(0)).unwrap();
        let root = editor.hive().root().unwrap().id();
        let key = editor.create_key(root, format!("key {number}").as_str()).unwrap();
        let data = vec![number; 3000 * usize::from(number)];
        editor.set_value(key, "value", ValueKind::BINARY, &data).unwrap();
        states.push(editor.finish().unwrap());
    }
    states
}

fn changed(random: &mut Rng, bytes: &mut [u8], from: usize) {
    for _ in 0..random.usize(1..4) {
        let at = random.usize(from..bytes.len());
        let value = match random.u8(..4) {
            0 => vec![random.u8(..)],
            1 => vec![bytes[at] ^ (1 << random.u8(..8))],
            2 => random.u32(..).to_le_bytes().to_vec(),
            _ => [0_u32, 1, 0xffff_ffff, 0x8000_0000, 0x20, 0x1000][random.usize(..6)]
                .to_le_bytes()
                .to_vec(),
        };
        let at = at.min(bytes.len() - value.len());
        bytes[at..at + value.len()].copy_from_slice(&value);
    }
}

#[test]
fn changed_hives_are_errors_or_hives() {
    let mut random = Rng::with_seed(1);
    let bases = [varied(3), varied(5), empty_hive(5), empty_hive(3)];
    let mut opened = 0;
    for round in 0..400 {
        // The large ones take their time.
        let which = if round % 20 < 2 { round % 20 } else { 2 + round % 2 };
        let mut bytes = bases[which].clone();
        // Structures, more often than data.
        let from = if random.bool() { 0 } else { 4096 };
        let end = bytes.len().min(from + 5000);
        changed(&mut random, &mut bytes[..end], from);
        seal_header(&mut bytes);
        if let Ok(hive) = Hive::parse(bytes) {
            opened += 1;
            let steps: Vec<u8> = (0..16).map(|_| random.u8(..)).collect();
            exercise(hive, &steps);
        }
    }
    assert!(opened > 100, "{opened}");
}

#[test]
fn cut_hives_are_errors() {
    let bytes = varied(5);
    for len in (0..bytes.len()).step_by(1000) {
        let error = Hive::parse(bytes[..len].to_vec()).unwrap_err();
        assert!([ErrorKind::Truncated, ErrorKind::Corrupt].contains(&error.kind()), "{error}");
    }
}

#[test]
fn logs_of_both_generations_are_replayed() {
    for minor in [3, 5] {
        let states = states(minor);
        let mut dirty = states[0].clone();
        make_dirty(&mut dirty);
        let last = states.last().unwrap();
        let expected = dump::dump(&Hive::parse(last.clone()).unwrap()).unwrap();
        let old = old_log(&dirty, last);
        let (hive, recovery) = Hive::recover(dirty.clone(), &[&old]).unwrap();
        assert_eq!(recovery.replayed[0].generation, Generation::Old);
        assert_eq!(dump::dump(&hive).unwrap(), expected);
        // Two logs of the new generation, the second where the first ends.
        let (first, second) = (new_log(&states[..3], 7), new_log(&states[2..], 9));
        let (hive, recovery) = Hive::recover(dirty.clone(), &[&second, &first]).unwrap();
        assert_eq!(recovery.replayed.len(), 2);
        assert_eq!(hive.base().primary_sequence, 11);
        assert_eq!(dump::dump(&hive).unwrap(), expected);
        // A torn last entry was never part of the hive.
        let mut torn = second.clone();
        *torn.last_mut().unwrap() ^= 1;
        let (hive, _) = Hive::recover(dirty.clone(), &[&first, &torn]).unwrap();
        let before = dump::dump(&Hive::parse(states[3].clone()).unwrap()).unwrap();
        assert_eq!(dump::dump(&hive).unwrap(), before);
        // A damaged header comes from the log.
        let mut headless = dirty.clone();
        headless[40] ^= 1;
        let (hive, recovery) = Hive::recover(headless, &[&old]).unwrap();
        assert!(recovery.header_from_log);
        assert_eq!(dump::dump(&hive).unwrap(), expected);
        // Later edits number on from the highest sequence anywhere, so no log fits again.
        let (hive, _) = Hive::recover(states[0].clone(), &[&first, &second]).unwrap();
        let mut editor = Editor::new(hive, FileTime(9)).unwrap();
        let root = editor.hive().root().unwrap().id();
        editor.set_value(root, "v", ValueKind::NONE, b"").unwrap();
        let bytes = editor.finish().unwrap();
        assert_eq!(Hive::parse(bytes).unwrap().base().primary_sequence, 11);
    }
}

#[test]
fn changed_logs_are_errors_or_hives() {
    let mut random = Rng::with_seed(2);
    let states = states(5);
    let mut dirty = states[0].clone();
    make_dirty(&mut dirty);
    let logs = [new_log(&states, 7), old_log(&dirty, states.last().unwrap())];
    let mut opened = 0;
    for round in 0..400 {
        let mut log = logs[round % 2].clone();
        let end = if random.bool() { 700 } else { log.len() };
        changed(&mut random, &mut log[..end], 0);
        seal_log(&mut log);
        let mut bytes = dirty.clone();
        bytes.truncate(if random.u8(..8) == 0 { random.usize(..bytes.len()) } else { bytes.len() });
        if let Ok((hive, _)) = Hive::recover(bytes, &[&log]) {
            opened += 1;
            assert!(hive.bytes().len() <= dirty.len() + log.len());
            exercise(hive, &[0, 1, 2, 3]);
        }
    }
    assert!(opened > 100, "{opened}");
}

#[test]
fn a_log_cannot_take_all_memory() {
    let states = states(5);
    let mut dirty = states[0].clone();
    make_dirty(&mut dirty);
    let mut log = new_log(&states, 7);
    log[512 + 16..512 + 20].copy_from_slice(&0x7fff_f000_u32.to_le_bytes());
    seal_log(&mut log);
    let error = Hive::recover(dirty, &[&log]).unwrap_err();
    assert!(error.to_string().contains("2147479552 bytes of bins"), "{error}");
}

/// Thousands of keys that share one list of thousands of keys: the check ends, and soon.
#[test]
fn shared_lists_do_not_take_for_ever() {
    let mut editor = Editor::new(Hive::parse(empty_hive(5)).unwrap(), FileTime(5)).unwrap();
    let root = editor.hive().root().unwrap().id();
    for number in 0..1500 {
        editor.create_key(root, format!("{number:04}").as_str()).unwrap();
    }
    let mut bytes = editor.finish().unwrap();
    let root = 4096 + 0x24;
    let list: [u8; 12] = bytes[root + 20..root + 32].try_into().unwrap();
    for at in (4096..bytes.len() - 80).step_by(8).map(|at| at + 4) {
        if at != root && bytes[at..].starts_with(b"nk") {
            bytes[at + 20..at + 32].copy_from_slice(&list);
        }
    }
    let hive = Hive::parse(bytes).unwrap();
    let findings = hive.check();
    assert!(findings.count(vdisk_core::Severity::Corruption) > 10);
    // Without the limit there were millions.
    assert!(findings.count(vdisk_core::Severity::Corruption) < 20_000);
    assert!(dump::dump(&hive).is_err());
}

#[test]
fn references_to_nowhere_are_found() {
    let mut editor = Editor::new(Hive::parse(empty_hive(5)).unwrap(), FileTime(5)).unwrap();
    let root = editor.hive().root().unwrap().id();
    editor.create_key(root, "key").unwrap();
    editor.set_value(root, "value", ValueKind::DWORD, &[1; 4]).unwrap();
    let bytes = editor.finish().unwrap();
    let root = 4096 + 0x24;
    for (list, skip) in [(28, 4), (40, 0)] {
        let mut bytes = bytes.clone();
        let at = u32::from_le_bytes(bytes[root + list..root + list + 4].try_into().unwrap());
        let entry = 4096 + at as usize + 4 + skip;
        bytes[entry] ^= 8;
        let hive = Hive::parse(bytes).unwrap();
        let codes: Vec<_> = hive.check().list().iter().map(|found| found.code).collect();
        assert!(codes.contains(&"hive-cell-missing"), "{codes:?}");
        assert!(dump::dump(&hive).is_err());
    }
}
