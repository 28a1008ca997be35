//! All that can be done with a hive, whatever it holds: nothing panics, what is written is read.

use vdisk_core::Severity;
use vdisk_hive::{Editor, FileTime, Hive, KeyId, Name, ValueKind, changes};

use super::dump::dump;

/// Reads all of a hive, checks it, and edits it as `steps` say.
pub(crate) fn exercise(hive: Hive, steps: &[u8]) {
    let text = dump(&hive);
    let _ = hive.walk(|key| {
        for value in key.values()?.flatten() {
            let _ = (value.as_u64(), value.as_string(), value.as_multi_string());
        }
        assert_eq!(hive.key(key.id())?.id(), key.id());
        Ok(())
    });
    let securities = hive.securities();
    let findings = hive.check();
    let sound = findings.count(Severity::Corruption) == 0;
    if sound {
        let text = text.as_ref().unwrap_or_else(|error| panic!("a sound hive gives {error}"));
        let securities = securities.unwrap_or_else(|error| panic!("a sound hive gives {error}"));
        assert!(text.len() >= securities.len());
    }
    let (leaks, before) = (findings.count(Severity::Leak), hive.bytes().to_vec());
    let dirty = hive.base().is_dirty();
    let Ok(mut editor) = Editor::new(hive, FileTime(1)) else {
        assert!(!sound || dirty, "a sound hive cannot be edited");
        return;
    };
    for step in steps.as_chunks::<4>().0.iter().take(64) {
        edit(&mut editor, *step);
    }
    let (changed, text) = (editor.is_changed(), dump(editor.hive()).unwrap());
    let after = editor.finish().unwrap();
    assert!(changed || after == before);
    let mut written = before.clone();
    written.resize(after.len(), 0);
    for change in changes(&before, &after) {
        let at = usize::try_from(change.offset).unwrap();
        written[at..at + change.bytes.len()].copy_from_slice(&change.bytes);
    }
    assert_eq!(written, after);
    let hive = Hive::parse(after).unwrap();
    assert!(hive.check().count(Severity::Leak) <= leaks);
    assert_eq!(dump(&hive).unwrap(), text);
}

/// One edit; it may be refused, but then it changes nothing.
fn edit(editor: &mut Editor, [what, which, a, b]: [u8; 4]) {
    let key = any_key(editor.hive(), which);
    let name = Name::from_units(vec![u16::from(a) << (a % 9), u16::from(b)]);
    let data = vec![b; usize::from(a) * usize::from(b % 4) * 60];
    let before = editor.hive().bytes().to_vec();
    let value = any_value(editor.hive(), key, b);
    let result = match what % 11 {
        0 => editor.set_value(key, name, ValueKind(u32::from(b)), &data),
        1 => editor.set_value(key, value, ValueKind::BINARY, &data),
        2 => editor.delete_value(key, value).map(drop),
        3 => editor.rename_value(key, value, name),
        4 => editor.create_key(key, name).map(drop),
        5 => editor.delete_key(key),
        6 => editor.rename_key(key, name).map(drop),
        7 => editor.set_class(key, &data),
        8 => editor.set_security(key, &data),
        9 => match editor.hive().key(key).unwrap().security().unwrap().map(|one| one.id()) {
            Some(one) => editor.replace_security(one, &data),
            None => Ok(()),
        },
        _ => editor.set_written(key, FileTime(u64::from(a))),
    };
    if let Err(error) = result {
        assert_eq!(error.kind(), vdisk_core::ErrorKind::Usage, "{error}");
        assert!(editor.hive().bytes() == before);
    }
}

fn any_key(hive: &Hive, which: u8) -> KeyId {
    let mut keys = Vec::new();
    hive.walk(|key| {
        keys.push(key.id());
        Ok(())
    })
    .unwrap();
    keys[usize::from(which) * 7 % keys.len()]
}

fn any_value(hive: &Hive, key: KeyId, which: u8) -> Name {
    let mut values = hive.key(key).unwrap().values().unwrap();
    let count = values.by_ref().count().max(1);
    let mut values = hive.key(key).unwrap().values().unwrap();
    values.nth(usize::from(which) % count).map(|value| value.unwrap().name()).unwrap_or_default()
}
