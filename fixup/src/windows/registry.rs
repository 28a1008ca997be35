//! A hive under change: what is changed is noted as an action, and read back.

use vdisk_core::{Error, Result};
use vdisk_hive::{Editor, Hive, Key, KeyId, Value, ValueKind};

use super::identity::rewrite::{Counts, rewrite};
use super::identity::swap::Swap;
use crate::{Action, Plan};

/// Bytes of data that are shown in a plan.
const SHOWN: usize = 512;

/// Which rule a change comes from, in the words of its [`Action`].
#[derive(Clone, Copy, Debug)]
pub struct Reason<'a> {
    /// The rule; stable.
    pub id: &'a str,
    /// What is done.
    pub what: &'a str,
    /// The reason.
    pub why: &'a str,
}

/// A hive under change.
///
/// Paths are keys from the hive's root, names between backslashes. A place in a plan is
/// `SYSTEM\Key\Sub-key: Value`, where the default value is called `@`.
#[derive(Debug)]
pub struct Registry {
    name: String,
    editor: Editor,
    /// What is also to be swapped where nothing lives, once the hive is written.
    swap: Option<Swap>,
}

impl Registry {
    /// A hive that is called `name` in plans.
    #[must_use]
    pub fn new(name: &str, editor: Editor) -> Self {
        Self { name: name.to_owned(), editor, swap: None }
    }

    /// What it is called in plans, such as `SYSTEM`.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The hive as it is now.
    #[must_use]
    pub fn hive(&self) -> &Hive {
        self.editor.hive()
    }

    /// The editor itself. Whoever changes through it notes the actions.
    pub fn editor(&mut self) -> &mut Editor {
        &mut self.editor
    }

    /// Puts one machine SID in the place of another, wherever the hive has it; in what is not in
    /// use too, when it is written.
    ///
    /// # Errors
    /// As [`rewrite`].
    pub fn swap(&mut self, swap: &Swap) -> Result<Counts> {
        self.swap = Some(swap.clone());
        rewrite(&mut self.editor, swap)
    }

    pub(super) fn into_parts(self) -> (Editor, Option<Swap>) {
        (self.editor, self.swap)
    }

    /// The key at `path`.
    ///
    /// # Errors
    /// Damage of the hive.
    pub fn key(&self, path: &str) -> Result<Option<Key<'_>>> {
        self.hive().open(path)
    }

    /// A value, where its key has one of that name.
    ///
    /// # Errors
    /// Damage of the hive.
    pub fn value(&self, path: &str, name: &str) -> Result<Option<Value<'_>>> {
        self.key(path)?.map_or(Ok(None), |key| key.value(name))
    }

    /// A number, where there is one.
    ///
    /// # Errors
    /// Damage of the hive.
    pub fn number(&self, path: &str, name: &str) -> Result<Option<u32>> {
        self.value(path, name)?.map_or(Ok(None), |value| value.as_u32())
    }

    /// A text, where there is one.
    ///
    /// # Errors
    /// Damage of the hive.
    pub fn text(&self, path: &str, name: &str) -> Result<Option<String>> {
        self.value(path, name)?.map_or(Ok(None), |value| value.as_string())
    }

    /// The texts of a list, or a text as a list of one; none where there is neither.
    ///
    /// # Errors
    /// Damage of the hive.
    pub fn texts(&self, path: &str, name: &str) -> Result<Vec<String>> {
        let Some(value) = self.value(path, name)? else { return Ok(Vec::new()) };
        if let Some(list) = value.as_multi_string()? {
            return Ok(list);
        }
        Ok(value.as_string()?.filter(|text| !text.is_empty()).into_iter().collect())
    }

    /// Names of the keys right below `path`; none where it is not there.
    ///
    /// # Errors
    /// Damage of the hive.
    pub fn children(&self, path: &str) -> Result<Vec<String>> {
        let Some(key) = self.key(path)? else { return Ok(Vec::new()) };
        key.subkeys()?.map(|key| Ok(key?.name().to_string())).collect()
    }

    /// Names of the values of the key at `path`; none where it is not there.
    ///
    /// # Errors
    /// Damage of the hive.
    pub fn value_names(&self, path: &str) -> Result<Vec<String>> {
        let Some(key) = self.key(path)? else { return Ok(Vec::new()) };
        key.values()?.map(|value| Ok(value?.name().to_string())).collect()
    }

    /// Of SYSTEM: the control sets that are used, `Current` and `Default` of `Select`, such as
    /// `ControlSet001`.
    ///
    /// # Errors
    /// [`Refused`](vdisk_core::ErrorKind::Refused) where it does not say, or none is there; damage
    /// of the hive.
    pub fn control_sets(&self) -> Result<Vec<String>> {
        let mut sets = Vec::new();
        let current = self.number("Select", "Current")?.ok_or_else(|| {
            Error::refused(format!(
                "{} does not tell which control set is in use (Select: Current)",
                self.name
            ))
            .hint("let Windows start once, or take a sound copy of the hive")
        })?;
        let default = self.number("Select", "Default")?.unwrap_or(current);
        for number in [current, default] {
            let set = format!("ControlSet{number:03}");
            if !sets.contains(&set) && self.key(&set)?.is_some() {
                sets.push(set);
            }
        }
        if sets.is_empty() {
            return Err(Error::refused(format!("{} has no control set that is in use", self.name)));
        }
        Ok(sets)
    }

    /// Sets a value, with all keys on the way to it; nothing is done and noted where it is so
    /// already. Whether anything changed.
    ///
    /// # Errors
    /// As [`Editor::set_value`].
    pub fn set(
        &mut self,
        plan: &mut Plan,
        reason: Reason<'_>,
        path: &str,
        name: &str,
        data: &Data,
    ) -> Result<bool> {
        let before = self.value(path, name)?.map(|value| Data::of(&value)).transpose()?;
        if before.as_ref() == Some(data) {
            return Ok(false);
        }
        let key = self.create(path)?;
        let (kind, bytes) = data.to_raw();
        self.editor.set_value(key, name, kind, &bytes)?;
        let now = self.value(path, name)?.map(|value| Data::of(&value)).transpose()?;
        if now.as_ref() != Some(data) {
            return Err(Error::internal(format!("{} does not read back", self.place(path, name))));
        }
        let mut action = self.action(reason, path, name).after(data.show());
        action.before = before.map(|data| data.show());
        plan.act(action);
        Ok(true)
    }

    /// Deletes a value; whether it was there.
    ///
    /// # Errors
    /// As [`Editor::delete_value`].
    pub fn delete_value(
        &mut self,
        plan: &mut Plan,
        reason: Reason<'_>,
        path: &str,
        name: &str,
    ) -> Result<bool> {
        let Some(key) = self.key(path)? else { return Ok(false) };
        let (Some(value), id) = (key.value(name)?, key.id()) else { return Ok(false) };
        let before = Data::of(&value)?.show();
        self.editor.delete_value(id, name)?;
        plan.act(self.action(reason, path, name).before(before));
        Ok(true)
    }

    /// Deletes a key with all below it; whether it was there.
    ///
    /// # Errors
    /// As [`Editor::delete_key`].
    pub fn delete_key(&mut self, plan: &mut Plan, reason: Reason<'_>, path: &str) -> Result<bool> {
        let Some(key) = self.key(path)? else { return Ok(false) };
        let before =
            format!("key with {} sub-keys, {} values", key.subkey_count(), key.value_count());
        let id = key.id();
        self.editor.delete_key(id)?;
        let place = format!("{}\\{path}", self.name);
        plan.act(Action::new(reason.id, reason.what, place).why(reason.why).before(before));
        Ok(true)
    }

    /// The place of a value, as plans name it.
    #[must_use]
    pub fn place(&self, path: &str, name: &str) -> String {
        format!("{}\\{path}: {}", self.name, if name.is_empty() { "@" } else { name })
    }

    fn action(&self, reason: Reason<'_>, path: &str, name: &str) -> Action {
        Action::new(reason.id, reason.what, self.place(path, name)).why(reason.why)
    }

    fn create(&mut self, path: &str) -> Result<KeyId> {
        let mut key = self.hive().root()?.id();
        for name in path.split('\\').filter(|name| !name.is_empty()) {
            key = match self.hive().key(key)?.subkey(name)? {
                Some(there) => there.id(),
                None => self.editor.create_key(key, name)?,
            };
        }
        Ok(key)
    }
}

/// The data of a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Data {
    /// `REG_SZ`.
    Sz(String),
    /// `REG_EXPAND_SZ`.
    ExpandSz(String),
    /// `REG_MULTI_SZ`.
    MultiSz(Vec<String>),
    /// `REG_DWORD`.
    Dword(u32),
    /// Anything else: its type and its bytes.
    Raw(ValueKind, Vec<u8>),
}

impl Data {
    /// `REG_BINARY`.
    #[must_use]
    pub fn binary(bytes: impl Into<Vec<u8>>) -> Self {
        Self::Raw(ValueKind::BINARY, bytes.into())
    }

    /// What a value holds. Only what [`Data::to_raw`] would write again byte for byte is told as
    /// text or number.
    ///
    /// # Errors
    /// Damage of the hive.
    pub fn of(value: &Value<'_>) -> Result<Self> {
        let bytes = value.data()?.into_owned();
        let read = match value.kind() {
            ValueKind::SZ => value.as_string()?.map(Self::Sz),
            ValueKind::EXPAND_SZ => value.as_string()?.map(Self::ExpandSz),
            ValueKind::MULTI_SZ => value.as_multi_string()?.map(Self::MultiSz),
            ValueKind::DWORD => value.as_u32()?.map(Self::Dword),
            _ => None,
        };
        let raw = Self::Raw(value.kind(), bytes);
        Ok(read.filter(|data| data.to_raw() == raw.to_raw()).unwrap_or(raw))
    }

    /// Its type and its bytes.
    #[must_use]
    pub fn to_raw(&self) -> (ValueKind, Vec<u8>) {
        match self {
            Self::Sz(text) => (ValueKind::SZ, utf16(&[text])),
            Self::ExpandSz(text) => (ValueKind::EXPAND_SZ, utf16(&[text])),
            Self::MultiSz(texts) => {
                let mut bytes = utf16(texts);
                bytes.extend([0, 0]);
                (ValueKind::MULTI_SZ, bytes)
            }
            Self::Dword(number) => (ValueKind::DWORD, number.to_le_bytes().to_vec()),
            Self::Raw(kind, bytes) => (*kind, bytes.clone()),
        }
    }

    /// For a plan: numbers and texts as they are, lists with `; ` between, else bytes.
    #[must_use]
    pub fn show(&self) -> String {
        match self {
            Self::Sz(text) | Self::ExpandSz(text) => text.clone(),
            Self::MultiSz(texts) => texts.join("; "),
            Self::Dword(number) => number.to_string(),
            Self::Raw(kind, bytes) => {
                let shown = bytes.iter().take(SHOWN).map(|byte| format!("{byte:02x}"));
                let shown: Vec<String> = shown.collect();
                let more = if bytes.len() > SHOWN { " …" } else { "" };
                format!("type {:#x}: {}{more}", kind.0, shown.join(" "))
            }
        }
    }
}

/// Each text with a NUL behind it.
fn utf16(texts: &[impl AsRef<str>]) -> Vec<u8> {
    let units = texts.iter().flat_map(|text| text.as_ref().encode_utf16().chain([0]));
    units.flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use vdisk_hive::FileTime;
    use vdisk_testkit::regf::empty_hive;

    use super::*;

    const REASON: Reason<'_> = Reason { id: "test.rule", what: "set it", why: "to see" };

    fn registry() -> Registry {
        let hive = Hive::parse(empty_hive(5)).unwrap();
        Registry::new("SYSTEM", Editor::new(hive, FileTime::from(UNIX_EPOCH)).unwrap())
    }

    #[test]
    fn what_changes_is_noted_and_what_stands_is_not() {
        let (mut registry, mut plan) = (registry(), Plan::default());
        let path = "ControlSet001\\Services\\storvsc";
        let all = [
            Data::Dword(3),
            Data::Sz("text".into()),
            Data::ExpandSz("%a%".into()),
            Data::MultiSz(vec!["a".into(), "b".into()]),
            Data::MultiSz(vec![]),
            Data::binary([1, 0xff]),
        ];
        for data in &all {
            assert!(registry.set(&mut plan, REASON, path, "Start", data).unwrap());
            assert!(!registry.set(&mut plan, REASON, path, "Start", data).unwrap());
        }
        assert_eq!(plan.actions.len(), all.len());
        let second = &plan.actions[1];
        assert_eq!(second.place, "SYSTEM\\ControlSet001\\Services\\storvsc: Start");
        assert_eq!((second.before.as_deref(), second.after.as_deref()), (Some("3"), Some("text")));
        assert!(registry.delete_value(&mut plan, REASON, path, "start").unwrap());
        assert!(!registry.delete_value(&mut plan, REASON, path, "start").unwrap());
        assert!(registry.delete_key(&mut plan, REASON, "ControlSet001").unwrap());
        assert!(!registry.delete_key(&mut plan, REASON, "ControlSet001").unwrap());
        assert_eq!(plan.actions.len(), all.len() + 2);
    }

    #[test]
    fn the_control_sets_in_use_are_found() {
        let (mut registry, mut plan) = (registry(), Plan::default());
        assert!(registry.control_sets().is_err());
        for (path, name, number) in [
            ("Select", "Current", 2),
            ("Select", "Default", 1),
            ("ControlSet001", "a", 0),
            ("ControlSet002", "a", 0),
            ("ControlSet003", "a", 0),
        ] {
            registry.set(&mut plan, REASON, path, name, &Data::Dword(number)).unwrap();
        }
        assert_eq!(registry.control_sets().unwrap(), ["ControlSet002", "ControlSet001"]);
    }
}
