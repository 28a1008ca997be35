//! One hive with another machine SID: names of keys and values, data, classes, descriptors.

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use vdisk_core::{Error, Result};
use vdisk_hive::{Editor, Hive, Key, KeyId, Name, SecurityId, ValueKind};

use super::swap::Swap;

/// The flag of a key whose name is Latin-1: an editor writes all names so that can be.
const NARROW: u16 = 0x20;

/// How much of a hive named the old machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Keys with it in their names.
    pub keys: usize,
    /// Values with it in their names.
    pub value_names: usize,
    /// Values with it in their data.
    pub values: usize,
    /// Keys with it in their class names.
    pub classes: usize,
    /// Security descriptors with it, each shared by keys.
    pub descriptors: usize,
}

impl Counts {
    /// Whether nothing named it.
    #[must_use]
    pub fn is_none(&self) -> bool {
        *self == Self::default()
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let all = [
            (self.keys, "key name", "key names"),
            (self.value_names, "value name", "value names"),
            (self.values, "value", "values"),
            (self.classes, "class name", "class names"),
            (self.descriptors, "security descriptor", "security descriptors"),
        ];
        let told = all.iter().filter(|(count, ..)| *count > 0);
        let told = told.map(|(count, one, many)| {
            let what = if *count == 1 { one } else { many };
            format!("{count} {what}")
        });
        f.write_str(&told.collect::<Vec<_>>().join(", "))
    }
}

/// Swaps the SID everywhere in a hive: what reads back must be what was there, with the new SID in
/// it and nothing else.
///
/// # Errors
/// As the editor's; what reads back otherwise is an
/// [`Internal`](vdisk_core::ErrorKind::Internal) error.
pub fn rewrite(editor: &mut Editor, swap: &Swap) -> Result<Counts> {
    let edits = Edits::find(editor.hive(), swap)?;
    let counts = edits.counts;
    if counts.is_none() {
        return Ok(counts);
    }
    let expected = digest(editor.hive(), Some(swap))?;
    edits.make(editor)?;
    if digest(editor.hive(), None)? == expected { Ok(counts) } else { Err(not_as_written()) }
}

/// Swaps the SID in what a rewritten hive file holds besides: free cells, and what stands behind
/// the ends of cells in use. How often that was, and the file.
///
/// # Errors
/// As [`rewrite`].
pub fn unused(content: Vec<u8>, swap: &Swap) -> Result<(usize, Vec<u8>)> {
    let count = swap.count(&content);
    if count == 0 {
        return Ok((0, content));
    }
    let before = Hive::parse(content)?;
    let expected = digest(&before, None)?;
    let mut content = before.bytes().to_vec();
    swap.apply(&mut content);
    let after = Hive::parse(content)?;
    if digest(&after, None)? != expected {
        return Err(not_as_written());
    }
    Ok((count, after.bytes().to_vec()))
}

fn not_as_written() -> Error {
    Error::internal("a hive does not read back as it was rewritten")
}

/// What is to be changed.
#[derive(Default)]
struct Edits {
    data: Vec<(KeyId, Name, ValueKind, Vec<u8>)>,
    value_names: Vec<(KeyId, Name, Name)>,
    classes: Vec<(KeyId, Vec<u8>)>,
    keys: Vec<(KeyId, Name)>,
    descriptors: Vec<(SecurityId, Vec<u8>)>,
    counts: Counts,
}

impl Edits {
    fn find(hive: &Hive, swap: &Swap) -> Result<Self> {
        let mut edits = Self::default();
        hive.walk(|key| edits.look_at(key, swap))?;
        for security in hive.securities()? {
            if let Some(new) = swap.applied(security.descriptor()) {
                edits.descriptors.push((security.id(), new));
            }
        }
        edits.counts = Counts {
            keys: edits.keys.len(),
            value_names: edits.value_names.len(),
            values: edits.data.len(),
            classes: edits.classes.len(),
            descriptors: edits.descriptors.len(),
        };
        Ok(edits)
    }

    fn look_at(&mut self, key: &Key<'_>, swap: &Swap) -> Result<()> {
        if let Some(name) = renamed(key.raw_name(), swap) {
            self.keys.push((key.id(), name));
        }
        if let Some(class) = swap.applied(key.class()?) {
            self.classes.push((key.id(), class));
        }
        for value in key.values()? {
            let value = value?;
            if let Some(data) = swap.applied(&value.data()?) {
                self.data.push((key.id(), value.name(), value.kind(), data));
            }
            if let Some(name) = renamed(value.raw_name(), swap) {
                self.value_names.push((key.id(), value.name(), name));
            }
        }
        Ok(())
    }

    fn make(self, editor: &mut Editor) -> Result<()> {
        for (key, name, kind, data) in self.data {
            editor.set_value(key, name, kind, &data)?;
        }
        for (key, old, new) in self.value_names {
            editor.rename_value(key, old, new)?;
        }
        for (key, class) in self.classes {
            editor.set_class(key, &class)?;
        }
        for (key, name) in self.keys {
            editor.rename_key(key, name)?;
        }
        for (descriptor, bytes) in self.descriptors {
            editor.replace_security(descriptor, &bytes)?;
        }
        Ok(())
    }
}

fn renamed((raw, narrow): (&[u8], bool), swap: &Swap) -> Option<Name> {
    Some(Name::from_raw(&swap.applied(raw)?, narrow))
}

/// A sum over all keys, whatever their order: what each is, where it stands and what it holds;
/// with `swap`, as that would leave it.
fn digest(hive: &Hive, swap: Option<&Swap>) -> Result<u64> {
    let left = |bytes: &[u8]| swap.and_then(|swap| swap.applied(bytes));
    let name = |(raw, narrow): (&[u8], bool)| match left(raw) {
        Some(new) => Name::from_raw(&new, narrow),
        None => Name::from_raw(raw, narrow),
    };
    let mut sum = 0_u64;
    hive.walk(|key| {
        let mut hash = DefaultHasher::new();
        let parent = key.parent()?.map(|parent| parent.id());
        (key.id(), parent, key.flags() & !NARROW, key.subkey_count()).hash(&mut hash);
        let data = |bytes: &[u8], hash: &mut DefaultHasher| match left(bytes) {
            Some(new) => new.hash(hash),
            None => bytes.hash(hash),
        };
        name(key.raw_name()).hash(&mut hash);
        data(key.class()?, &mut hash);
        if let Some(security) = key.security()? {
            data(security.descriptor(), &mut hash);
        }
        for value in key.values()? {
            let value = value?;
            name(value.raw_name()).hash(&mut hash);
            value.kind().hash(&mut hash);
            data(&value.data()?, &mut hash);
        }
        sum = sum.wrapping_add(hash.finish());
        Ok(())
    })?;
    Ok(sum)
}
