use vdisk_core::ErrorKind;
use vdisk_testkit::regf::empty_hive;

use super::*;
use crate::key::MAX_DEPTH;

pub(crate) fn minimal(minor: u8) -> Hive {
    Hive::parse(empty_hive(minor)).unwrap()
}

fn editor(minor: u8) -> Editor {
    Editor::new(minimal(minor), FileTime(1 << 56)).unwrap()
}

fn root(editor: &Editor) -> KeyId {
    editor.hive().root().unwrap().id()
}

fn finished(editor: Editor) -> Hive {
    let hive = Hive::parse(editor.finish().unwrap()).unwrap();
    assert_eq!(hive.check().list(), []);
    hive
}

fn names(hive: &Hive, path: &str) -> Vec<String> {
    let keys = hive.open(path).unwrap().unwrap().subkeys().unwrap();
    keys.map(|key| key.unwrap().name().to_string()).collect()
}

#[test]
fn minimal_is_sound() {
    assert_eq!(minimal(3).check().list(), []);
    let bytes = minimal(5).bytes().to_vec();
    assert_eq!(editor(5).finish().unwrap(), bytes);
}

#[test]
fn values_of_every_size() {
    for minor in [3, 5] {
        let mut editor = editor(minor);
        let key = root(&editor);
        let data: Vec<u8> = (0..u32::from(u16::MAX)).flat_map(u32::to_le_bytes).collect();
        for len in [0, 1, 4, 5, 100, 16_343, 16_344, 16_345, 32_688, 40_000, 3, 20_000, 9] {
            let data = &data[..len];
            editor.set_value(key, "same", ValueKind(0xffff_0013), data).unwrap();
            editor.set_value(key, format!("len {len}").as_str(), ValueKind::BINARY, data).unwrap();
            let hive = Hive::parse(editor.space.sealed(editor.now)).unwrap();
            assert_eq!(hive.check().list(), [], "{minor} {len}");
            let root = hive.root().unwrap();
            for name in ["SAME".to_owned(), format!("Len {len}")] {
                let value = root.value(name.as_str()).unwrap().unwrap();
                assert_eq!(&*value.data().unwrap(), data);
            }
        }
        assert!(editor.delete_value(key, "same").unwrap());
        assert!(!editor.delete_value(key, "same").unwrap());
        let hive = finished(editor);
        assert_eq!(hive.root().unwrap().value_count(), 13);
        assert_eq!((hive.base().primary_sequence, hive.base().secondary_sequence), (8, 8));
    }
}

#[test]
fn lists_split_and_stay_sorted() {
    for minor in [3, 5] {
        let mut editor = editor(minor);
        let key = root(&editor);
        let mut numbers: Vec<u32> = (0..1600).collect();
        fastrand::Rng::with_seed(1).shuffle(&mut numbers);
        let mut ids = Vec::new();
        for number in &numbers {
            let id = editor.create_key(key, format!("k{number:05}").as_str()).unwrap();
            ids.push((*number, id));
        }
        let list = editor.hive().root().unwrap().list().unwrap();
        assert!(list.root.is_some() && list.leaves.iter().all(|leaf| leaf.entries.len() <= 507));
        let expected: Vec<String> = (0..1600).map(|number| format!("k{number:05}")).collect();
        assert_eq!(names(editor.hive(), ""), expected);
        for (number, id) in ids {
            if number % 16 != 0 {
                editor.delete_key(id).unwrap();
            }
        }
        let kept: Vec<String> = (0..1600).step_by(16).map(|n| format!("k{n:05}")).collect();
        let hive = finished(editor);
        assert_eq!(names(&hive, ""), kept);
    }
}

#[test]
fn keys_added_in_order_fill_their_leaves() {
    let mut editor = editor(5);
    let key = root(&editor);
    for number in 0..1100 {
        editor.create_key(key, format!("k{number:05}").as_str()).unwrap();
    }
    let list = editor.hive().root().unwrap().list().unwrap();
    let lens: Vec<_> = list.leaves.iter().map(|leaf| leaf.entries.len()).collect();
    assert_eq!(lens, [507, 507, 86]);
    finished(editor);
}

#[test]
fn keys_are_renamed_with_all_they_have() {
    let mut editor = editor(5);
    let top = root(&editor);
    let key = editor.create_key(top, "b").unwrap();
    for name in ["a", "c"] {
        editor.create_key(top, name).unwrap();
    }
    editor.create_key(key, "child").unwrap();
    editor.set_value(key, "v", ValueKind::SZ, b"x\0y\0z\0\0\0").unwrap();
    editor.set_class(key, b"c\0l\0").unwrap();
    let moved = editor.rename_key(key, "zz, a much longer name than before").unwrap();
    assert_ne!(moved, key);
    let same = editor.rename_key(moved, "ZZ").unwrap();
    assert_eq!(moved, same);
    let taken = editor.rename_key(same, "A").unwrap_err();
    assert_eq!(taken.kind(), ErrorKind::Usage);
    let wide = editor.rename_key(same, Name::from_units([0xd800, 0x431])).unwrap();
    let hive = finished(editor);
    assert_eq!(names(&hive, ""), ["a", "c", "\u{fffd}\u{431}"]);
    let key = hive.key(wide).unwrap();
    assert_eq!(key.name().units(), [0xd800, 0x431]);
    assert_eq!(key.class().unwrap(), b"c\0l\0");
    assert_eq!(key.subkey("CHILD").unwrap().unwrap().parent().unwrap().unwrap().id(), wide);
    assert_eq!(key.value("V").unwrap().unwrap().as_string().unwrap().as_deref(), Some("xyz"));
}

#[test]
fn descriptors_are_shared_counted_and_freed() {
    let mut editor = editor(5);
    let top = root(&editor);
    let keys = ["a", "b", "c"].map(|name| editor.create_key(top, name).unwrap());
    assert_eq!(editor.hive().securities().unwrap()[0].references(), 4);
    for key in keys {
        editor.set_security(key, &[7; 30]).unwrap();
    }
    editor.set_security(keys[2], &[8; 30]).unwrap();
    let told = |editor: &Editor| -> Vec<(usize, u32)> {
        let all = editor.hive().securities().unwrap();
        let mut all: Vec<_> =
            all.iter().map(|one| (one.descriptor().len(), one.references())).collect();
        all.sort_unstable();
        all
    };
    assert_eq!(told(&editor), [(20, 1), (30, 1), (30, 2)]);
    let id = editor.hive().key(keys[0]).unwrap().security().unwrap().unwrap().id();
    editor.replace_security(id, &[9; 300]).unwrap();
    assert_eq!(told(&editor), [(20, 1), (30, 1), (300, 2)]);
    let shared = editor.hive().key(keys[1]).unwrap().security().unwrap().unwrap();
    assert_eq!(shared.descriptor(), [9; 300]);
    let id = shared.id();
    editor.replace_security(id, &[5; 29]).unwrap();
    editor.delete_key(keys[0]).unwrap();
    editor.delete_key(keys[1]).unwrap();
    editor.set_security(top, &[8; 30]).unwrap();
    assert_eq!(told(&editor), [(30, 2)]);
    finished(editor);
}

#[test]
fn a_descriptor_that_is_alone_can_grow() {
    let mut editor = editor(5);
    let id = editor.hive().securities().unwrap()[0].id();
    editor.replace_security(id, &[9; 300]).unwrap();
    let hive = finished(editor);
    assert_eq!(hive.root().unwrap().security().unwrap().unwrap().descriptor(), [9; 300]);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut editor = editor(5);
    let top = root(&editor);
    let before = editor.hive().bytes().to_vec();
    for name in ["", "a\\b", "x".repeat(256).as_str()] {
        assert_eq!(editor.create_key(top, name).unwrap_err().kind(), ErrorKind::Usage);
    }
    assert_eq!(editor.delete_key(top).unwrap_err().kind(), ErrorKind::Usage);
    assert_eq!(editor.rename_key(top, "x").unwrap_err().kind(), ErrorKind::Usage);
    let long = "x".repeat(16_384);
    let error = editor.set_value(top, long.as_str(), ValueKind::SZ, b"").unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Usage);
    assert_eq!(editor.set_class(top, &[0; 70_000]).unwrap_err().kind(), ErrorKind::Usage);
    assert!(!editor.is_changed());
    let key = editor.create_key(top, "gone").unwrap();
    editor.delete_key(key).unwrap();
    let changed = editor.hive().bytes().to_vec();
    assert!(editor.set_value(key, "v", ValueKind::SZ, &[1; 9000]).is_err());
    assert!(editor.delete_key(key).is_err());
    assert_eq!(editor.hive().bytes(), changed);
    assert_ne!(changed, before, "times and longest names stay");
}

#[test]
fn keys_end_at_a_depth() {
    let mut editor = editor(5);
    let mut key = root(&editor);
    for _ in 0..MAX_DEPTH {
        key = editor.create_key(key, "d").unwrap();
    }
    assert_eq!(editor.create_key(key, "d").unwrap_err().kind(), ErrorKind::Usage);
    finished(editor);
}
