//! Keys: the tree.

use vdisk_core::{Error, Result};

use crate::hive::Hive;
use crate::image::Offset;
use crate::list::SubkeyList;
use crate::name::Name;
use crate::node::{Node, Shared};
use crate::time::FileTime;
use crate::value::{Value, Values};

/// Keys below one another, at most: Windows' own limit.
pub const MAX_DEPTH: u16 = 512;

/// Which key of a hive it is: holds for as long as the key is there, through edits too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KeyId(pub(crate) Offset);

/// A key.
///
/// Walking down from the root ends, whatever the hive holds: a key is only handed out below the one
/// that it names as its parent, at most [`MAX_DEPTH`] deep, and never twice.
#[derive(Clone, Copy, Debug)]
pub struct Key<'h> {
    hive: &'h Hive,
    node: Node<'h>,
    depth: u16,
}

impl<'h> Key<'h> {
    pub(crate) fn load(hive: &'h Hive, at: Offset, depth: u16) -> Result<Self> {
        Ok(Self { hive, node: Node::parse(&hive.image, at)?, depth })
    }

    /// Which key it is.
    #[must_use]
    pub fn id(&self) -> KeyId {
        KeyId(self.node.at)
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> Name {
        self.node.name()
    }

    /// The bytes of its name and whether they are Latin-1 (else UTF-16, little-endian).
    #[must_use]
    pub fn raw_name(&self) -> (&'h [u8], bool) {
        (self.node.raw_name, self.node.compressed())
    }

    /// Its flags as they stand: `0x4` the root, `0x8` not to be deleted, `0x10` a symbolic link,
    /// `0x20` the name is Latin-1.
    #[must_use]
    pub fn flags(&self) -> u16 {
        self.node.flags
    }

    /// Whether it is a symbolic link: its value `SymbolicLinkValue` tells where to. Links are not
    /// followed, for they lead by the names of a running system.
    #[must_use]
    pub fn is_symlink(&self) -> bool {
        self.flags() & 0x10 != 0
    }

    /// When it was last written to.
    #[must_use]
    pub fn written(&self) -> FileTime {
        self.node.written
    }

    /// Its class name as bytes (UTF-16, little-endian); empty where it has none.
    ///
    /// # Errors
    /// `Corrupt` where the name does not stand where the key says.
    pub fn class(&self) -> Result<&'h [u8]> {
        self.node.class_bytes(&self.hive.image)
    }

    /// Its security descriptor (self-relative); none where the hive keeps none for it.
    ///
    /// # Errors
    /// `Corrupt` where the descriptor does not stand where the key says.
    pub fn security(&self) -> Result<Option<Security<'h>>> {
        let Some(at) = self.node.security else { return Ok(None) };
        Shared::parse(&self.hive.image, at).map(|shared| Some(Security { shared }))
    }

    /// How many sub-keys it counts.
    #[must_use]
    pub fn subkey_count(&self) -> u32 {
        self.node.subkeys
    }

    /// How many values it counts.
    #[must_use]
    pub fn value_count(&self) -> u32 {
        self.node.values
    }

    /// Its sub-keys in the order of the list, which is that of upper-case names.
    ///
    /// # Errors
    /// `Corrupt` where the list cannot be read; a sub-key that cannot be is an error of its own.
    pub fn subkeys(&self) -> Result<Subkeys<'h>> {
        let list = self.list()?;
        let keys: Vec<_> = list.keys().collect();
        if !keys.is_empty() && self.depth >= MAX_DEPTH {
            let message = format!("has sub-keys below a depth of {MAX_DEPTH}");
            return Err(Error::corrupt(Node::STRUCTURE, self.node.at.in_file(), message));
        }
        Ok(Subkeys { parent: *self, list: keys.into_iter() })
    }

    pub(crate) fn list(&self) -> Result<SubkeyList> {
        SubkeyList::read(&self.hive.image, self.node.list, self.node.subkeys).map_err(|error| {
            match error.offset() {
                Some(_) => error,
                None => error.at(Node::STRUCTURE, self.node.at.in_file()),
            }
        })
    }

    /// The sub-key of this name, whatever its case.
    ///
    /// # Errors
    /// As [`Key::subkeys`].
    pub fn subkey(&self, name: impl Into<Name>) -> Result<Option<Self>> {
        let name = name.into();
        for key in self.subkeys()? {
            let key = key?;
            if key.name().matches(&name) {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// The key at a path below this one, its names between backslashes. An empty path is this key.
    ///
    /// # Errors
    /// As [`Key::subkeys`].
    pub fn open(&self, path: &str) -> Result<Option<Self>> {
        let mut key = *self;
        for name in path.split('\\').filter(|name| !name.is_empty()) {
            match key.subkey(name)? {
                Some(next) => key = next,
                None => return Ok(None),
            }
        }
        Ok(Some(key))
    }

    /// The key above it; none for the root.
    ///
    /// # Errors
    /// `Corrupt` where there is no key above it.
    pub fn parent(&self) -> Result<Option<Self>> {
        match self.depth.checked_sub(1) {
            Some(depth) => Self::load(self.hive, Offset(self.node.parent), depth).map(Some),
            None => Ok(None),
        }
    }

    /// Its values, in the order of the list.
    ///
    /// # Errors
    /// `Corrupt` where the list cannot be read; a value that cannot be is an error of its own.
    pub fn values(&self) -> Result<Values<'h>> {
        Values::of(&self.hive.image, &self.node)
    }

    /// The value of this name, whatever its case; `""` is the default value.
    ///
    /// # Errors
    /// As [`Key::values`].
    pub fn value(&self, name: impl Into<Name>) -> Result<Option<Value<'h>>> {
        let name = name.into();
        for value in self.values()? {
            let value = value?;
            if value.name().matches(&name) {
                return Ok(Some(value));
            }
        }
        Ok(None)
    }

    pub(crate) fn node(&self) -> &Node<'h> {
        &self.node
    }

    pub(crate) fn depth(&self) -> u16 {
        self.depth
    }
}

/// The sub-keys of a key.
#[derive(Clone, Debug)]
pub struct Subkeys<'h> {
    parent: Key<'h>,
    list: std::vec::IntoIter<Offset>,
}

impl<'h> Iterator for Subkeys<'h> {
    type Item = Result<Key<'h>>;

    fn next(&mut self) -> Option<Self::Item> {
        let at = self.list.next()?;
        let Key { hive, node, depth } = self.parent;
        Some(Key::load(hive, at, depth.saturating_add(1)).and_then(|key| {
            if key.node.parent == node.at.0 && at != hive.root_at() {
                return Ok(key);
            }
            let message = format!(
                "is listed below the key at byte {}, and names the one at byte {} as its parent",
                node.at.in_file(),
                Offset(key.node.parent).in_file()
            );
            Err(Error::corrupt(Node::STRUCTURE, at.in_file(), message))
        }))
    }
}

/// A security descriptor, which many keys share.
#[derive(Clone, Copy, Debug)]
pub struct Security<'h> {
    shared: Shared<'h>,
}

/// Which security descriptor of a hive it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SecurityId(pub(crate) Offset);

impl<'h> Security<'h> {
    pub(crate) fn of(shared: Shared<'h>) -> Self {
        Self { shared }
    }

    /// Which one it is.
    #[must_use]
    pub fn id(&self) -> SecurityId {
        SecurityId(self.shared.at)
    }

    /// The self-relative `SECURITY_DESCRIPTOR`.
    #[must_use]
    pub fn descriptor(&self) -> &'h [u8] {
        self.shared.descriptor
    }

    /// How many keys it counts as its users.
    #[must_use]
    pub fn references(&self) -> u32 {
        self.shared.references
    }
}
