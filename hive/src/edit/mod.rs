//! Editing a hive in memory.

mod keys;
mod lists;
mod security;
mod space;
mod values;

use vdisk_core::{Error, Findings, Result, Severity};

use crate::hive::Hive;
use crate::key::{KeyId, SecurityId};
use crate::name::Name;
use crate::node::{Node, nk};
use crate::time::FileTime;
use crate::value::ValueKind;
use space::Space;

/// A hive under edit.
///
/// Each call does all that it says or nothing, and [`Editor::finish`] gives the new bytes away only
/// after a walk through all of the hive found no rule broken. What is deleted is zeroed.
///
/// Keys that are written to get the time given to [`Editor::new`], as Windows would do it.
#[derive(Debug)]
pub struct Editor {
    space: Space,
    now: FileTime,
}

/// Characters of a key's name, at most.
const KEY_NAME_MAX: usize = 255;
/// Characters of a value's name, at most.
const VALUE_NAME_MAX: usize = 16_383;

impl Editor {
    /// Begins to edit a hive; `now` becomes the time of what is written.
    ///
    /// # Errors
    /// `Refused` where the hive is dirty, or [`Hive::check`] finds a corruption: what is not
    /// understood is not changed.
    pub fn new(hive: Hive, now: FileTime) -> Result<Self> {
        if hive.base.is_dirty() {
            return Err(Error::refused("the hive was not written to the end")
                .at("registry hive header", 4)
                .hint("recover it with its .LOG1 and .LOG2 files before it is changed"));
        }
        if let Some(found) = corruption(&hive.check()) {
            return Err(Error::refused(format!(
                "the hive is damaged, so it is not changed: {found}"
            ))
            .hint("let Windows load and save the hive, or take a sound copy"));
        }
        Ok(Self { space: Space::of(hive)?, now })
    }

    /// The hive as it is now, to read from.
    #[must_use]
    pub fn hive(&self) -> &Hive {
        &self.space.hive
    }

    /// Whether anything was changed.
    #[must_use]
    pub fn is_changed(&self) -> bool {
        self.space.changed
    }

    /// Sets a value; it is added where the key has none of this name. `""` is the default value.
    ///
    /// # Errors
    /// `Usage` where name or data are longer than the registry allows, `Refused` where the hive
    /// would grow beyond 2 GiB.
    pub fn set_value(
        &mut self,
        key: KeyId,
        name: impl Into<Name>,
        kind: ValueKind,
        data: &[u8],
    ) -> Result<()> {
        let (name, now) = (name.into(), self.now);
        value_name(&name)?;
        self.space.whole(|space| {
            match values::find(space, key.0, &name)? {
                Some(value) => values::replace(space, value, kind, data)?,
                None => values::add(space, key.0, &name, kind, data)?,
            }
            values::note_longest(space, key.0, &name, data.len())?;
            keys::touch(space, key.0, now)
        })
    }

    /// Deletes a value; whether there was one of this name.
    ///
    /// # Errors
    /// `Corrupt` where the key is not there any more.
    pub fn delete_value(&mut self, key: KeyId, name: impl Into<Name>) -> Result<bool> {
        let (name, now) = (name.into(), self.now);
        self.space.whole(|space| {
            let Some(value) = values::find(space, key.0, &name)? else { return Ok(false) };
            values::remove(space, key.0, value)?;
            keys::touch(space, key.0, now)?;
            Ok(true)
        })
    }

    /// Gives a value another name; its place in the list stays.
    ///
    /// # Errors
    /// `Usage` where there is no value of the old name, another one of the new name, or the name is
    /// too long.
    pub fn rename_value(
        &mut self,
        key: KeyId,
        old: impl Into<Name>,
        new: impl Into<Name>,
    ) -> Result<()> {
        let (old, new, now) = (old.into(), new.into(), self.now);
        value_name(&new)?;
        self.space.whole(|space| {
            let found = values::find(space, key.0, &old)?;
            let value = found.ok_or_else(|| Error::usage(format!("no value \"{old}\"")))?;
            if values::find(space, key.0, &new)?.is_some_and(|other| other != value) {
                return Err(Error::usage(format!("the value \"{new}\" is there")));
            }
            values::rename(space, key.0, value, &new)?;
            values::note_longest(space, key.0, &new, 0)?;
            keys::touch(space, key.0, now)
        })
    }

    /// The sub-key of this name; it is created where there is none, with the security descriptor of
    /// the key above it.
    ///
    /// # Errors
    /// `Usage` where the name is empty, too long or has a backslash in it, or the key would be too
    /// deep; `Refused` as for [`Editor::set_value`].
    pub fn create_key(&mut self, parent: KeyId, name: impl Into<Name>) -> Result<KeyId> {
        let (name, now) = (name.into(), self.now);
        key_name(&name)?;
        self.space.whole(|space| keys::create(space, parent.0, &name, now).map(KeyId))
    }

    /// Deletes a key with all keys below it.
    ///
    /// # Errors
    /// `Usage` for the root.
    pub fn delete_key(&mut self, key: KeyId) -> Result<()> {
        let now = self.now;
        self.space.whole(|space| keys::delete(space, key.0, now))
    }

    /// Gives a key another name. Where the new one is too long for its cell the key moves, and the
    /// old id is of no use any more.
    ///
    /// # Errors
    /// `Usage` for the root, where a sibling has the name, and as for [`Editor::create_key`].
    pub fn rename_key(&mut self, key: KeyId, name: impl Into<Name>) -> Result<KeyId> {
        let (name, now) = (name.into(), self.now);
        key_name(&name)?;
        self.space.whole(|space| keys::rename(space, key.0, &name, now).map(KeyId))
    }

    /// Gives a key a class name (bytes of UTF-16, little-endian), or none where it is empty.
    ///
    /// # Errors
    /// `Usage` where it is too long.
    pub fn set_class(&mut self, key: KeyId, class: &[u8]) -> Result<()> {
        let now = self.now;
        self.space.whole(|space| {
            keys::set_class(space, key.0, class)?;
            keys::touch(space, key.0, now)
        })
    }

    /// Gives a key a security descriptor (self-relative); keys with the same one share it.
    ///
    /// # Errors
    /// `Refused` as for [`Editor::set_value`].
    pub fn set_security(&mut self, key: KeyId, descriptor: &[u8]) -> Result<()> {
        let now = self.now;
        self.space.whole(|space| {
            security::set(space, key.0, descriptor)?;
            keys::touch(space, key.0, now)
        })
    }

    /// Changes a security descriptor for all keys that share it; their times stay. Where the new one
    /// is longer the descriptor may move, and its id is of no use any more.
    ///
    /// # Errors
    /// `Refused` as for [`Editor::set_value`].
    pub fn replace_security(&mut self, id: SecurityId, descriptor: &[u8]) -> Result<()> {
        self.space.whole(|space| security::replace(space, id.0, descriptor))
    }

    /// Gives a key another time of its last write.
    ///
    /// # Errors
    /// `Corrupt` where the key is not there any more.
    pub fn set_written(&mut self, key: KeyId, time: FileTime) -> Result<()> {
        self.space.whole(|space| {
            Node::parse(&space.hive.image, key.0)?;
            space.put(key.0, nk::TIME, &time.0.to_le_bytes())
        })
    }

    /// Ends the edit: the bytes of the new hive file, with both sequence numbers one above all that
    /// were seen, so that Windows ignores every log of the old hive. They are longer than the old
    /// ones only where the file had no slack left. Where nothing was changed they are the old ones.
    ///
    /// # Errors
    /// `Internal` where a rule is broken: then a fault in this crate was kept from the file.
    pub fn finish(self) -> Result<Vec<u8>> {
        if !self.space.changed {
            return Ok(self.space.hive.image.bytes);
        }
        let hive = Hive::parse(self.space.sealed(self.now))?;
        match corruption(&hive.check()) {
            Some(found) => Err(Error::internal(format!("the edited hive is damaged: {found}"))),
            None => Ok(hive.image.bytes),
        }
    }
}

/// The first corruption found, as text.
fn corruption(findings: &Findings) -> Option<String> {
    let found = findings.list().iter().find(|found| found.severity == Severity::Corruption);
    if let Some(found) = found {
        let at = found.offset.unwrap_or_default();
        return Some(format!("{} at byte {at}: {}", found.code, found.message));
    }
    // Notes and leaks may have filled the list before it.
    let count = findings.count(Severity::Corruption);
    (count > 0).then(|| format!("{count} corruptions"))
}

fn key_name(name: &Name) -> Result<()> {
    let units = name.units();
    if units.is_empty() || units.len() > KEY_NAME_MAX || units.contains(&u16::from(b'\\')) {
        let message = format!(
            "\"{name}\" cannot name a key: it needs 1 to {KEY_NAME_MAX} characters, no backslash"
        );
        return Err(Error::usage(message));
    }
    Ok(())
}

fn value_name(name: &Name) -> Result<()> {
    if name.units().len() > VALUE_NAME_MAX { Err(values::too_long(name)) } else { Ok(()) }
}

#[cfg(test)]
pub(crate) mod tests;
