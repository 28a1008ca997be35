//! Random edits of real hives, against a model; hivex and regipy must read exactly the model.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use common::dump::dump;
use common::model::{Model, Place, upper};
use common::{assert_agrees, corpus};
use fastrand::Rng;
use vdisk_core::{ErrorKind, Severity};
use vdisk_hive::{Change, Editor, FileTime, Hive, Name, ValueKind, changes};
use vdisk_testkit::tools::Tool;

/// A hive and its model, under edit.
struct Run {
    editor: Editor,
    model: Model,
    random: Rng,
    now: u64,
    /// Keys are made below this one, mostly, so that it gets many.
    crowd: Place,
    /// Whether names may have lone surrogates, which hivex cannot tell.
    lone: bool,
}

impl Run {
    fn of(bytes: Vec<u8>, seed: u64, lone: bool) -> Self {
        let hive = Hive::parse(bytes).unwrap();
        let (model, now) = (Model::of(&hive), (1 << 56) + seed);
        let editor = Editor::new(hive, FileTime(now)).unwrap();
        Self { editor, model, random: Rng::with_seed(seed), now, crowd: 0, lone }
    }

    fn name(&mut self, longest: usize) -> Name {
        const LETTERS: [&str; 4] = ["abcXYZ019 _-.", "ABCäöüßÿé", "яЖщ漢字ıſ", "%/{}"];
        if self.lone && self.random.u8(..50) == 0 {
            return Name::from_units([u16::from(b'x'), 0xd800 + self.random.u16(..0x800)]);
        }
        let letters: Vec<char> =
            LETTERS[usize::from(self.random.u8(..16)) % 5 % 4].chars().collect();
        let len = 1 + self.random.usize(..longest);
        let text: String = (0..len).map(|_| letters[self.random.usize(..letters.len())]).collect();
        // Letters whose upper case Windows and Unicode do not agree on stay out of the model.
        Name::from(text.replace(['ı', 'ſ'], "i").as_str())
    }

    fn data(&mut self) -> Vec<u8> {
        let most = match self.random.u8(..) {
            0..100 => 5,
            100..240 => 200,
            240..250 => 5000,
            _ => 70_000,
        };
        let len = self.random.usize(..most);
        let byte = self.random.u8(..);
        // Data that begins like a list of segments is data all the same; the judges do not think so
        // where it is long and in a hive of version 1.3.
        let start: &[u8] = if byte < 20 && len < 16_344 { b"db\x02\0" } else { &[] };
        let mut data: Vec<u8> = (0..len).map(|n| byte.wrapping_add(n as u8)).collect();
        let common = start.len().min(len);
        data[..common].copy_from_slice(&start[..common]);
        data
    }

    fn step(&mut self) {
        let place =
            if self.random.u8(..4) == 0 { self.crowd } else { self.model.pick(&mut self.random) };
        let place = if self.model.keys[place].is_some() { place } else { 0 };
        let id = self.model.key(place).id;
        match self.random.u8(..100) {
            0..30 => self.set_value(place),
            30..38 => self.delete_value(place),
            38..44 => self.rename_value(place),
            44..66 => {
                let name = self.name(8);
                let known = self.model.key(place).children.contains_key(&upper(&name));
                let made = self.editor.create_key(id, name.clone()).unwrap();
                if known {
                    let child = self.model.key(place).children[&upper(&name)];
                    assert_eq!(self.model.key(child).id, made);
                }
                self.model.child(place, made, &name, self.now);
            }
            66..72 => self.delete_key(place),
            72..82 => self.rename_key(place),
            82..86 => {
                let class = self.data();
                let class = &class[..class.len().min(300) & !1];
                self.editor.set_class(id, class).unwrap();
                let key = self.model.key(place);
                (key.class, key.written) = (class.to_vec(), self.now);
            }
            86..94 => {
                let descriptor = self.descriptor();
                self.editor.set_security(id, &descriptor).unwrap();
                let key = self.model.key(place);
                (key.security, key.written) = (descriptor, self.now);
            }
            94 => {
                let descriptor = self.descriptor();
                let one = self.editor.hive().key(id).unwrap().security().unwrap().unwrap();
                let (one, old) = (one.id(), one.descriptor().to_vec());
                // Only where no other cell of the same content is in the way of the model.
                let all = self.editor.hive().securities().unwrap();
                if all.iter().filter(|other| other.descriptor() == old).count() > 1 {
                    return;
                }
                self.editor.replace_security(one, &descriptor).unwrap();
                let keys = self.model.keys.iter_mut().flatten();
                for key in keys.filter(|key| key.security == old) {
                    key.security.clone_from(&descriptor);
                }
            }
            _ => {
                // hivex takes no time with the highest bit set.
                let time = self.random.u64(..1 << 63);
                self.editor.set_written(id, FileTime(time)).unwrap();
                self.model.key(place).written = time;
            }
        }
    }

    fn descriptor(&mut self) -> Vec<u8> {
        let mut descriptor = self.model.key(0).security.clone();
        descriptor.truncate(20);
        descriptor.resize(20 + 4 * self.random.usize(..12), self.random.u8(..6));
        descriptor
    }

    fn set_value(&mut self, place: Place) {
        let (name, data, kind) = (self.name(12), self.data(), ValueKind(self.random.u32(..)));
        // Half of the time one that is there.
        let values = &self.model.key(place).values;
        let there = values.first().map(|(name, ..)| name.clone());
        let name = there.filter(|_| self.random.bool()).unwrap_or(name);
        let name = if self.random.u8(..20) == 0 { Name::default() } else { name };
        self.editor.set_value(self.model.key(place).id, name.clone(), kind, &data).unwrap();
        let known = self.model.find(place, &name);
        let (key, now) = (self.model.key(place), self.now);
        match known {
            Some(found) => {
                let old = key.values[found].0.clone();
                key.values[found] = (old, kind, data);
            }
            None => key.values.push((name, kind, data)),
        }
        key.written = now;
    }

    fn delete_value(&mut self, place: Place) {
        let key = self.model.key(place).clone();
        let Some(which) = self.random.usize(..1 << 30).checked_rem(key.values.len()) else {
            assert!(!self.editor.delete_value(key.id, "no such value").unwrap());
            return;
        };
        assert!(self.editor.delete_value(key.id, &key.values[which].0).unwrap());
        let now = self.now;
        let key = self.model.key(place);
        key.values.remove(which);
        key.written = now;
    }

    fn rename_value(&mut self, place: Place) {
        let (key, name) = (self.model.key(place).clone(), self.name(30));
        let Some(which) = self.random.usize(..1 << 30).checked_rem(key.values.len()) else {
            return;
        };
        let done = self.editor.rename_value(key.id, &key.values[which].0, name.clone());
        if self.model.find(place, &name).is_some_and(|found| found != which) {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::Usage);
            return;
        }
        done.unwrap();
        let now = self.now;
        let key = self.model.key(place);
        key.values[which].0 = name;
        key.written = now;
    }

    fn delete_key(&mut self, place: Place) {
        let key = self.model.key(place).clone();
        // Whole trees only now and then, or nothing would be left.
        if place == 0 || (key.children.len() > 2 && self.random.u8(..30) != 0) {
            return;
        }
        self.editor.delete_key(key.id).unwrap();
        self.model.delete(place, self.now);
    }

    fn rename_key(&mut self, place: Place) {
        let (key, name) = (self.model.key(place).clone(), self.name(30));
        let Some(parent) = key.parent else { return };
        let taken = self.model.key(parent).children.get(&upper(&name)).copied();
        let done = self.editor.rename_key(key.id, name.clone());
        if taken.is_some_and(|other| other != place) {
            assert_eq!(done.unwrap_err().kind(), ErrorKind::Usage);
            return;
        }
        self.model.rename(place, done.unwrap(), &name, self.now);
    }

    /// Ends the edit; what the hive holds must be the model. Goes on from there.
    fn reopen(mut self) -> (Self, Vec<u8>) {
        let bytes = self.editor.finish().unwrap();
        let hive = Hive::parse(bytes.clone()).unwrap();
        assert_eq!(hive.check().count(Severity::Corruption), 0);
        let (ours, model) = (dump(&hive).unwrap(), self.model.dump());
        if let Some((our, theirs)) = ours.lines().zip(model.lines()).find(|(a, b)| a != b) {
            panic!("seed {}: {our:.200} is not the model's {theirs:.200}", self.random.get_seed());
        }
        assert_eq!(ours.len(), model.len());
        self.editor = Editor::new(hive, FileTime(self.now)).unwrap();
        (self, bytes)
    }
}

fn run(part: &str, seed: u64, rounds: usize, steps: usize, judges: &[Tool]) {
    let Some(samples) = corpus(part) else { return };
    let [sample] = samples.as_slice() else { panic!("{part} is not one hive") };
    let mut run = Run::of(sample.bytes.clone(), seed, !judges.contains(&Tool::Hivex));
    let leaks = Hive::parse(sample.bytes.clone()).unwrap().check().count(Severity::Leak);
    for _ in 0..rounds {
        run.crowd = run.model.pick(&mut run.random);
        for _ in 0..steps {
            run.step();
        }
        let (next, bytes) = run.reopen();
        run = next;
        let hive = Hive::parse(bytes.clone()).unwrap();
        assert_eq!(hive.check().count(Severity::Leak), leaks, "{part}");
        for judge in judges.iter().filter(|judge| judge.there()) {
            assert_agrees(*judge, &run.model.dump(), &bytes, part);
        }
    }
}

const BOTH: [Tool; 2] = [Tool::Hivex, Tool::Regipy];

#[test]
fn minor_5_from_nothing() {
    run("minimal_hivex", 1, 4, 700, &BOTH);
}

#[test]
fn minor_3_from_nothing() {
    run("EmptyHive", 2, 4, 700, &BOTH);
}

#[test]
fn a_sam() {
    run("SAM_win7", 3, 3, 500, &BOTH);
}

#[test]
fn a_bcd() {
    run("BCD-Template", 4, 3, 500, &BOTH);
}

#[test]
fn names_that_are_no_unicode() {
    run("BigDataHive", 6, 3, 500, &[Tool::Regipy]);
}

#[test]
fn a_system() {
    run("SYSTEM_win10_dissect", 5, 1, 2000, &[Tool::Hivex]);
}

/// Writing four bytes of a value writes those, the key's time, and the base block.
#[test]
fn a_driver_is_switched_in_place() {
    let Some(samples) = corpus("SYSTEM_win7sp1") else { return };
    let before = &samples[0].bytes;
    let hive = Hive::parse(before.clone()).unwrap();
    let service = hive.open("ControlSet001\\services\\intelide").unwrap().unwrap();
    let (key, start) = (service.id(), service.value("Start").unwrap().unwrap());
    assert_eq!(start.as_u32().unwrap(), Some(0));
    let mut editor = Editor::new(hive, FileTime(1 << 56)).unwrap();
    editor.set_value(key, "Start", ValueKind::DWORD, &3_u32.to_le_bytes()).unwrap();
    let after = editor.finish().unwrap();
    assert_eq!(before.len(), after.len());
    let differ: Vec<usize> = (4096..after.len()).filter(|at| before[*at] != after[*at]).collect();
    assert!(differ.len() <= 1 + 8, "{differ:?}");
    let base: Vec<usize> = (0..4096).filter(|at| before[*at] != after[*at]).collect();
    assert!(base.iter().all(|at| (4..20).contains(at) || (508..512).contains(at)), "{base:?}");
    let pages = changes(before, &after);
    assert!(pages.len() <= 3 && pages.last().unwrap().offset == 0);
    let mut file = before.clone();
    for Change { offset, bytes } in pages {
        file[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    assert_eq!(file, after);
    let hive = Hive::parse(file).unwrap();
    let start = hive.key(key).unwrap().value("start").unwrap().unwrap();
    assert_eq!(start.as_u32().unwrap(), Some(3));
}

/// A new machine SID of the same width: as many nodes as before, and nothing but SIDs changed.
#[test]
fn a_machine_sid_is_replaced() {
    let Some(samples) = corpus("SAM_win7") else { return };
    let before = &samples[0].bytes;
    let hive = Hive::parse(before.clone()).unwrap();
    let account = hive.open("SAM\\Domains\\Account").unwrap().unwrap();
    let v = account.value("V").unwrap().unwrap().data().unwrap();
    let old: [u8; 12] = v[v.len() - 12..].try_into().unwrap();
    let new = [0x11; 12];
    let text = |sid: &[u8; 12]| {
        let words = sid.as_chunks().0.iter().map(|word| u32::from_le_bytes(*word).to_string());
        format!("S-1-5-21-{}", words.collect::<Vec<_>>().join("-"))
    };
    let mut edits = Vec::new();
    hive.walk(|key| {
        for value in key.values()? {
            let value = value?;
            let mut data = value.data()?.into_owned();
            let found: Vec<_> =
                (0..data.len()).filter(|at| data[*at..].starts_with(&old)).collect();
            for at in &found {
                data[*at..at + 12].copy_from_slice(&new);
            }
            if !found.is_empty() {
                edits.push((key.id(), value.name(), value.kind(), data));
            }
        }
        Ok(())
    })
    .unwrap();
    assert!(edits.len() >= 5);
    let members = hive.open("SAM\\Domains\\Builtin\\Aliases\\Members").unwrap().unwrap();
    let member = members.subkey(text(&old).as_str()).unwrap().unwrap().id();
    let mut editor = Editor::new(hive, FileTime(1 << 56)).unwrap();
    for (key, name, kind, data) in edits {
        editor.set_value(key, name, kind, &data).unwrap();
    }
    editor.rename_key(member, text(&new).as_str()).unwrap();
    let after = editor.finish().unwrap();
    let find = |bytes: &[u8], needle: &[u8]| {
        bytes.windows(needle.len()).filter(|window| *window == needle).count()
    };
    assert!(find(before, &old) >= 7);
    assert_eq!((find(&after, &old), find(&after, &new)), (0, find(before, &old)));
    assert_eq!(after.len(), before.len());
    let hive = Hive::parse(after.clone()).unwrap();
    assert_eq!(hive.check().list(), []);
    for judge in BOTH.into_iter().filter(|judge| judge.there()) {
        assert_agrees(judge, &dump(&hive).unwrap(), &after, "SAM");
    }
}
