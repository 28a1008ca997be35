//! Real hives with another SID.

use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use vdisk_fixup::windows::identity::rewrite::{Counts, rewrite, unused};
use vdisk_fixup::windows::identity::sid::MachineSid;
use vdisk_fixup::windows::identity::swap::Swap;
use vdisk_hive::{Editor, FileTime, Hive};
use vdisk_testkit::corpus;
use vdisk_testkit::tools::{Tool, arg, must};

use crate::common::original::OLD;

/// A hive of the corpus.
fn load(name: &str) -> Option<Vec<u8>> {
    let packed = corpus::folder()?.join(format!("{name}.xz"));
    Some(Command::new("xz").args(["-dc", arg(&packed)]).output().unwrap().stdout)
}

/// Every key and value as one line, in the words of a judge.
fn told(judge: Tool, path: &Path) -> Vec<String> {
    let script = match judge {
        Tool::Hivex => {
            r"
import hivex, sys
h = hivex.Hivex(sys.argv[1])
def walk(node, path):
    print('key', path)
    for v in h.node_values(node):
        kind, data = h.value_value(v)
        print('value', path, repr(h.value_key(v)), kind, data.hex())
    for child in h.node_children(node):
        walk(child, path + '\\' + h.node_name(child))
walk(h.root(), '')
"
        }
        _ => {
            r"
import sys
from regipy.registry import RegistryHive
h = RegistryHive(sys.argv[1])
for entry in h.recurse_subkeys(fetch_values=True, as_json=False):
    print('key', entry.path)
    for v in entry.values or []:
        print('value', entry.path, repr(v.name), v.value_type, repr(v.value))
"
        }
    };
    let lines = must(judge.python(), &["-c", script, arg(path)]);
    let mut lines: Vec<String> = lines.lines().map(str::to_owned).collect();
    lines.sort_unstable();
    lines
}

/// What a judge's lines must be after the swap: binary data is told in hex.
fn expected(lines: Vec<String>, swap: &Swap) -> Vec<String> {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let wide = |sid: MachineSid| {
        let units = sid.to_string().encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        hex(&units)
    };
    let ascii = |sid: MachineSid| hex(sid.to_string().as_bytes());
    let (old, new) = (swap.old, swap.new);
    let mut lines: Vec<String> = lines
        .into_iter()
        .map(|line| {
            line.replace(&old.to_string(), &new.to_string())
                .replace(&hex(&old.words()), &hex(&new.words()))
                .replace(&wide(old), &wide(new))
                .replace(&ascii(old), &ascii(new))
        })
        .collect();
    lines.sort_unstable();
    lines
}

/// Swaps in a hive of the corpus, and has the outcome judged.
fn swapped(name: &str, old: MachineSid, judges: &[Tool]) -> Option<(Counts, usize)> {
    let before = load(name)?;
    let swap = Swap::new(old, old.other(&[].into()).unwrap());
    let now = FileTime::from(SystemTime::now());
    let mut editor = Editor::new(Hive::parse(before.clone()).unwrap(), now).unwrap();
    let counts = rewrite(&mut editor, &swap).unwrap();
    let (dead, after) = unused(editor.finish().unwrap(), &swap).unwrap();
    assert_eq!(after.len(), before.len(), "{name}: the file keeps its length");
    assert_eq!(swap.count(&after), 0, "{name}");
    assert_eq!(memchr::memmem::find(&after, old.to_string().as_bytes()), None, "{name}");
    let back = Swap::new(swap.new, swap.old);
    assert!(back.count(&after) >= counts.keys + counts.values + counts.descriptors, "{name}");

    assert!(!counts.is_none(), "{name}");
    let folder = tempfile::tempdir().unwrap();
    let [one, other] = ["before", "after"].map(|file| folder.path().join(file));
    std::fs::write(&one, before).unwrap();
    std::fs::write(&other, after).unwrap();
    assert_swapped(name, &one, &other, &swap, judges);
    Some((counts, dead))
}

/// Every key and value of `after` is as the judges read it in `before`, but for the SID.
fn assert_swapped(name: &str, before: &Path, after: &Path, swap: &Swap, judges: &[Tool]) {
    for judge in judges.iter().copied().filter(|judge| judge.there()) {
        let was = told(judge, before);
        let wanted = expected(was.clone(), swap);
        let is = told(judge, after);
        let difference = wanted.iter().zip(&is).find(|(wanted, is)| wanted != is);
        assert_eq!(difference, None, "{name} by {}", judge.name());
        assert_eq!((wanted.len(), wanted != was), (is.len(), true), "{name}");
    }
}

#[test]
fn accounts_of_windows_7() {
    let told = swapped("hive_SAM_win7_plaso.hive", OLD, &[Tool::Hivex, Tool::Regipy]);
    let Some((counts, _)) = told else { return };
    // As found by hand: V of the domain, two users' and three groups' values, one key's name.
    assert_eq!((counts.keys, counts.values), (1, 6), "{counts}");
}

#[test]
fn the_others_of_the_corpus() {
    for name in ["hive_SECURITY_dfwinreg.hive", "hive_SYSTEM_win10_dissect-regf.hive"] {
        let Some(hive) = load(name) else { return };
        let Some(old) = commonest(&hive) else { continue };
        let told = swapped(name, old, &[Tool::Hivex]);
        let (counts, dead) = told.unwrap();
        eprintln!("{name}: {old}: {counts}; {dead} in what is not in use");
        assert!(!counts.is_none(), "{name}: {counts}");
    }
}

/// The machine that a hive names most often in its descriptors and data.
fn commonest(hive: &[u8]) -> Option<MachineSid> {
    let head = [0, 0, 0, 0, 0, 5, 21, 0, 0, 0];
    let mut counts = std::collections::BTreeMap::<MachineSid, usize>::new();
    for at in memchr::memmem::find_iter(hive, &head) {
        if let Some(words) = hive[at + 10..].first_chunk::<12>() {
            let word = |n: usize| u32::from_le_bytes(words[n..n + 4].try_into().unwrap());
            *counts.entry(MachineSid([word(0), word(4), word(8)])).or_default() += 1;
        }
    }
    counts.into_iter().max_by_key(|(_, count)| *count).map(|(sid, _)| sid)
}
