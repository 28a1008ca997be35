//! Whether a guest differs from what it was in what the plan says, and in nothing else: every key
//! and value of its hives by hivex and by regipy, its files and its free space by ntfs-3g.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::Value;
use vdisk_fixup::windows::identity::rewrite::Counts;
use vdisk_fixup::windows::identity::sid::MachineSid;
use vdisk_fixup::windows::identity::swap::Swap;
use vdisk_fixup::{Action, Plan};
use vdisk_testkit::tools::{Tool, arg, must};

use super::original::{HIVES, OLD};
use super::volume::{Listed, judge, listed};
use super::{assert_planned, by_regipy, cat, partition};

const JUDGE: &str = include_str!("exactly.py");
/// Bytes of a hive of which regipy tells all: for a SYSTEM of 11 MiB it takes half a minute. Of
/// larger ones it tells what was planned.
const REGIPY_MOST: u64 = 2 << 20;

/// Two states of a disk, and the plans carried out between them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Change<'a> {
    /// Raw disks.
    pub(crate) before: &'a Path,
    pub(crate) after: &'a Path,
    /// The partition that Windows is on, and whether the disk is a GPT one.
    pub(crate) root: usize,
    pub(crate) gpt: bool,
    pub(crate) plan: &'a Plan,
    /// When it began.
    pub(crate) since: SystemTime,
}

impl Change<'_> {
    /// Has others say whether all of it is as the plan says; `folder` is for their files.
    pub(crate) fn assert_exact(&self, folder: &Path) {
        let volumes = ["before.ntfs", "after.ntfs"].map(|name| folder.join(name));
        partition(self.before, self.root, &volumes[0]);
        partition(self.after, self.root, &volumes[1]);
        judge(&volumes[1]);
        self.assert_files(&volumes);
        let hives = ["before.hive", "after.hive"].map(|name| folder.join(name));
        for (path, name) in HIVES {
            cat(&volumes[0], path, &hives[0]);
            cat(&volumes[1], path, &hives[1]);
            self.assert_hive(name, &format!("/{path}"), &hives);
        }
        if self.gpt {
            for (disk, hive) in [self.before, self.after].into_iter().zip(&hives) {
                let part = folder.join("esp");
                partition(disk, 1, &part);
                must(
                    "mcopy",
                    &["-n", "-o", "-i", arg(&part), "::/EFI/Microsoft/Boot/BCD", arg(hive)],
                );
            }
        } else {
            cat(&volumes[0], "Boot/BCD", &hives[0]);
            cat(&volumes[1], "Boot/BCD", &hives[1]);
        }
        self.assert_hive("BCD", "", &hives);
        if self.swap().is_some() {
            assert_nowhere(self.after, &volumes[1]);
        }
        volumes.iter().chain(&hives).for_each(|file| fs::remove_file(file).unwrap());
    }

    /// The machine's old SID and its new one, where it gets one.
    fn swap(&self) -> Option<Swap> {
        let first = self.plan.actions.iter().find(|action| action.id == "windows.sid")?;
        Some(Swap::new(OLD, MachineSid::parse(first.after.as_ref()?).unwrap()))
    }

    /// The paths are those of before with the new SID in them, and the files that were put in; what
    /// another content stands in is named; as much is free as can be.
    fn assert_files(&self, volumes: &[PathBuf; 2]) {
        let [before, after] = [&volumes[0], &volumes[1]].map(|volume| listed(volume));
        let swap = self.swap();
        let swapped = |path: &String| match &swap {
            Some(swap) => path.replace(&swap.old.to_string(), &swap.new.to_string()),
            None => path.clone(),
        };
        let expected: BTreeMap<String, &Listed> =
            before.files.iter().map(|(path, file)| (swapped(path), file)).collect();
        for (path, file) in &after.files {
            let Some(was) = expected.get(path) else {
                let put = self.plan.actions.iter().any(|one| one.place.starts_with(path.as_str()));
                assert!(put, "{path} is new, and no action says so");
                continue;
            };
            if was.content != file.content {
                assert!(self.names(path), "{path} changed, and no action says so");
                assert_eq!(was.size, file.size, "{path}");
            }
        }
        for path in expected.keys() {
            assert!(after.files.contains_key(path), "{path} is gone");
        }
        let taken = after.clusters() - before.clusters();
        assert_eq!(before.free, after.free + taken, "clusters that are free, and of files");
    }

    /// Whether an action is about this file, or a value in this hive.
    fn names(&self, path: &str) -> bool {
        let hive = HIVES.iter().find(|(hive, _)| path[1..].eq_ignore_ascii_case(hive));
        let name = hive.map(|(_, name)| *name).or(path.ends_with("/BCD").then_some("BCD"));
        self.plan.actions.iter().any(|action| {
            action.place.eq_ignore_ascii_case(path)
                || name.is_some_and(|name| action.place.starts_with(&format!("{name}\\")))
        })
    }

    /// The hive at `path`, `name` in plans, in both its states.
    fn assert_hive(&self, name: &str, path: &str, hives: &[PathBuf; 2]) {
        let prefix = format!("{name}\\");
        let planned: Vec<&Action> =
            self.plan.actions.iter().filter(|action| action.place.starts_with(&prefix)).collect();
        let of_file = |id: &str| {
            self.plan.actions.iter().find(|action| action.id == id && action.place == path)
        };
        let swapped = of_file("windows.sid.hive");
        if fs::read(&hives[0]).unwrap() == fs::read(&hives[1]).unwrap() {
            assert!(planned.is_empty() && swapped.is_none(), "{name} did not change");
            return;
        }
        let (mut told, mut values) = (Vec::new(), None);
        for judge in [Tool::Hivex, Tool::Regipy].into_iter().filter(|judge| judge.there()) {
            if judge == Tool::Regipy && fs::metadata(&hives[1]).unwrap().len() > REGIPY_MOST {
                by_regipy(&planned, &prefix, &hives[1]);
                continue;
            }
            let found = self.told(judge, hives);
            let context = format!("{name} by {}", judge.name());
            if judge == Tool::Hivex {
                assert_planned(&planned, &prefix, &found);
            }
            let count = |what: &str| found["swapped"][what].as_u64().unwrap() as usize;
            let counts = Counts {
                keys: count("keys"),
                value_names: count("value names"),
                // regipy does not tell the data of types that it does not know.
                values: *values.get_or_insert_with(|| count("values")),
                classes: count("classes"),
                descriptors: count("descriptors"),
            };
            let named = swapped.and_then(|action| action.after.clone());
            let expected = (!counts.is_none()).then(|| format!("the new SID in {counts}"));
            assert_eq!(named, expected, "{context}");
            let written: BTreeSet<&str> =
                found["times"].as_object().unwrap().keys().map(String::as_str).collect();
            assert_eq!(written, texts(&found["touched"]), "{context}: the times of keys");
            // Where the values are that changed; how their data is told is each judge's own.
            let places = |found: &Value| -> Vec<Value> {
                let values = found["values"].as_array().unwrap().iter();
                values.map(|one| serde_json::json!([one[0], one[1]])).collect()
            };
            told.push((places(&found), found["created"].clone(), found["deleted"].clone()));
            self.assert_head(&found, &context);
        }
        assert!(told.windows(2).all(|pair| pair[0] == pair[1]), "{name}: {told:#?}");
    }

    fn told(&self, judge: Tool, [before, after]: &[PathBuf; 2]) -> Value {
        let swap = self.swap().map(|swap| [swap.old.to_string(), swap.new.to_string()]);
        let mut args = vec!["-c", JUDGE, judge.name(), arg(before), arg(after)];
        args.extend(swap.iter().flatten().map(String::as_str));
        serde_json::from_str(&must(judge.python(), &args)).unwrap()
    }

    /// The hive counts as written to the end, later than any log of it; all times are of this run.
    fn assert_head(&self, found: &Value, context: &str) {
        let number = |side: usize, field: &str| found["heads"][side][field].as_u64().unwrap();
        assert_eq!(number(1, "primary"), number(1, "secondary"), "{context}");
        let before = number(0, "primary").max(number(0, "secondary"));
        assert!(number(1, "primary") > before, "{context}: its sequence is new");
        assert_eq!(found["heads"][1]["sum"], true, "{context}: its checksum");
        assert_eq!(number(0, "len"), number(1, "len"), "{context}: its length");
        let since = self.since.duration_since(UNIX_EPOCH).unwrap().as_nanos() / 100;
        // From 1601 to 1970.
        let since = u64::try_from(since).unwrap() + 116_444_736_000_000_000;
        assert!(number(1, "time") >= since, "{context}: when it was written");
        for (path, time) in found["times"].as_object().unwrap() {
            let time = time.as_u64().unwrap();
            assert!(time >= since, "{context}: {path} was written at {time}, before {since}");
        }
    }
}

fn texts(list: &Value) -> BTreeSet<&str> {
    list.as_array().unwrap().iter().map(|one| one.as_str().unwrap()).collect()
}

/// The old SID is nowhere on the disk, but in what its file system does not use: in no encoding.
fn assert_nowhere(disk: &Path, volume: &Path) {
    must("ntfswipe", &["--force", "--unused", arg(volume)]);
    let text = OLD.to_string()["S-1-5-21".len()..].to_owned();
    let utf16 =
        |endian: fn(u16) -> [u8; 2]| -> Vec<u8> { text.encode_utf16().flat_map(endian).collect() };
    let forms = [
        ("binary", OLD.words().to_vec()),
        ("ASCII", text.clone().into_bytes()),
        ("UTF-16", utf16(u16::to_le_bytes)),
        ("big-endian UTF-16", utf16(u16::to_be_bytes)),
    ];
    let volume = fs::read(volume).unwrap();
    let mut disk = fs::read(disk).unwrap();
    // What is around the volume: the table and an EFI system partition.
    let place = disk.len() - (1 << 20) - volume.len().next_multiple_of(1 << 20);
    disk[place..place + volume.len()].fill(0);
    for (name, form) in &forms {
        for (bytes, what) in [(&volume, "its volume"), (&disk, "the rest of the disk")] {
            let at = bytes.windows(form.len()).position(|piece| piece == &form[..]);
            assert_eq!(at, None, "the old SID is on {what} as {name}");
        }
    }
}
