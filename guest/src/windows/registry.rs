//! Looking things up in a hive, where damage is noted and anything may be absent.

use vdisk_hive::{Hive, Key};

use crate::notes::Notes;

/// A key of a hive.
#[derive(Clone, Copy)]
pub(super) struct Node<'h> {
    key: Key<'h>,
    notes: &'h Notes,
}

impl<'h> Node<'h> {
    pub(super) fn root(hive: &'h Hive, notes: &'h Notes) -> Option<Self> {
        Some(Self { key: notes.take(hive.root())?, notes })
    }

    /// The control set that the loader takes: `Select\Current`, else the first.
    pub(super) fn control_set(&self) -> Option<Self> {
        let current = self.open("Select").and_then(|select| select.number("Current"));
        self.open(&format!("ControlSet{:03}", current.unwrap_or(1)))
    }

    /// The key at `path` below this one.
    pub(super) fn open(&self, path: &str) -> Option<Self> {
        let key = self.notes.take(self.key.open(path))??;
        Some(Self { key, ..*self })
    }

    pub(super) fn name(&self) -> String {
        self.key.name().to_string()
    }

    /// The keys right below this one.
    pub(super) fn children(&self) -> Vec<Self> {
        let keys = self.notes.take(self.key.subkeys()).into_iter().flatten();
        keys.filter_map(|key| self.notes.take(key)).map(|key| Self { key, ..*self }).collect()
    }

    /// A text that is not empty.
    pub(super) fn text(&self, name: &str) -> Option<String> {
        let text = self.notes.take(self.value(name)?.as_string())??;
        let text = text.trim();
        (!text.is_empty()).then(|| text.to_owned())
    }

    /// The texts of a list, or a text as a list of one; without empty ones.
    pub(super) fn texts(&self, name: &str) -> Vec<String> {
        let list = self.value(name).and_then(|value| self.notes.take(value.as_multi_string())?);
        list.unwrap_or_else(|| self.text(name).into_iter().collect())
    }

    pub(super) fn number(&self, name: &str) -> Option<u32> {
        self.notes.take(self.value(name)?.as_u32())?
    }

    pub(super) fn data(&self, name: &str) -> Option<Vec<u8>> {
        Some(self.notes.take(self.value(name)?.data())?.into_owned())
    }

    fn value(&self, name: &str) -> Option<vdisk_hive::Value<'h>> {
        self.notes.take(self.key.value(name))?
    }
}
