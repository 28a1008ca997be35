//! A registry held in plain maps, to compare edits with.

use std::collections::BTreeMap;
use std::fmt::Write;

use vdisk_hive::{Hive, Key, KeyId, Name, ValueKind};

use super::dump::{escape, hex};

/// A key, by its place in [`Model::keys`].
pub(crate) type Place = usize;

#[derive(Clone, Debug)]
pub(crate) struct ModelKey {
    pub(crate) id: KeyId,
    pub(crate) parent: Option<Place>,
    pub(crate) name: Name,
    pub(crate) written: u64,
    pub(crate) class: Vec<u8>,
    pub(crate) security: Vec<u8>,
    pub(crate) values: Vec<(Name, ValueKind, Vec<u8>)>,
    /// By upper-case name, so in the order of the registry.
    pub(crate) children: BTreeMap<Vec<u16>, Place>,
}

/// Keys that were deleted are `None`.
#[derive(Clone, Debug)]
pub(crate) struct Model {
    pub(crate) keys: Vec<Option<ModelKey>>,
}

impl Model {
    pub(crate) fn of(hive: &Hive) -> Self {
        let mut model = Self { keys: Vec::new() };
        model.add(&hive.root().unwrap(), None);
        model
    }

    fn add(&mut self, key: &Key<'_>, parent: Option<Place>) -> Place {
        let place = self.keys.len();
        let values = key.values().unwrap().map(|value| {
            let value = value.unwrap();
            (value.name(), value.kind(), value.data().unwrap().into_owned())
        });
        self.keys.push(Some(ModelKey {
            id: key.id(),
            parent,
            name: key.name(),
            written: key.written().0,
            class: key.class().unwrap().to_vec(),
            security: key.security().unwrap().map(|s| s.descriptor().to_vec()).unwrap_or_default(),
            values: values.collect(),
            children: BTreeMap::new(),
        }));
        for child in key.subkeys().unwrap() {
            let child = child.unwrap();
            let child_place = self.add(&child, Some(place));
            self.key(place).children.insert(upper(&child.name()), child_place);
        }
        place
    }

    pub(crate) fn key(&mut self, place: Place) -> &mut ModelKey {
        self.keys[place].as_mut().unwrap()
    }

    /// Any key.
    pub(crate) fn pick(&self, random: &mut fastrand::Rng) -> Place {
        loop {
            let place = random.usize(..self.keys.len());
            if self.keys[place].is_some() {
                return place;
            }
        }
    }

    pub(crate) fn child(&mut self, above: Place, id: KeyId, name: &Name, now: u64) {
        let parent = self.key(above);
        let security = parent.security.clone();
        if parent.children.contains_key(&upper(name)) {
            return;
        }
        parent.written = now;
        let place = self.keys.len();
        self.key(above).children.insert(upper(name), place);
        self.keys.push(Some(ModelKey {
            id,
            parent: Some(above),
            name: name.clone(),
            written: now,
            class: Vec::new(),
            security,
            values: Vec::new(),
            children: BTreeMap::new(),
        }));
    }

    pub(crate) fn delete(&mut self, place: Place, now: u64) {
        let name = upper(&self.key(place).name);
        let parent = self.key(place).parent.unwrap();
        self.key(parent).children.remove(&name);
        self.key(parent).written = now;
        let mut doomed = vec![place];
        while let Some(place) = doomed.pop() {
            doomed.extend(self.keys[place].take().unwrap().children.into_values());
        }
    }

    pub(crate) fn rename(&mut self, place: Place, id: KeyId, name: &Name, now: u64) {
        let old = upper(&self.key(place).name);
        let parent = self.key(place).parent.unwrap();
        let above = self.key(parent);
        above.children.remove(&old);
        above.children.insert(upper(name), place);
        above.written = now;
        let key = self.key(place);
        (key.id, key.name, key.written) = (id, name.clone(), now);
    }

    pub(crate) fn find(&mut self, place: Place, name: &Name) -> Option<usize> {
        let name = upper(name);
        self.key(place).values.iter().position(|(other, ..)| upper(other) == name)
    }

    /// The form of [`super::dump::dump`].
    pub(crate) fn dump(&self) -> String {
        let mut text = String::new();
        self.dump_key(0, "", &mut text);
        text
    }

    fn dump_key(&self, place: Place, above: &str, text: &mut String) {
        let key = self.keys[place].as_ref().unwrap();
        let path = format!("{above}{}", escape(&key.name));
        writeln!(text, "K\t{path}\t{}", key.written).unwrap();
        if !key.class.is_empty() {
            writeln!(text, "C\t{}", hex(&key.class)).unwrap();
        }
        writeln!(text, "S\t{}", hex(&key.security)).unwrap();
        for (name, kind, data) in &key.values {
            writeln!(text, "V\t{}\t{}\t{}", escape(name), kind.0, hex(data)).unwrap();
        }
        for child in key.children.values() {
            self.dump_key(*child, &format!("{path}\\"), text);
        }
    }
}

/// Upper case by Unicode, for the letters that the tests use.
pub(crate) fn upper(name: &Name) -> Vec<u16> {
    let one = |unit: &u16| {
        let mut upper = char::from_u32(u32::from(*unit)).into_iter().flat_map(char::to_uppercase);
        match (upper.next().and_then(|c| u16::try_from(u32::from(c)).ok()), upper.next()) {
            (Some(upper), None) => upper,
            _ => *unit,
        }
    };
    name.units().iter().map(one).collect()
}
