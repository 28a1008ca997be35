//! A hive, open for reading.

use vdisk_core::{Error, Result};

use crate::base::{BASE, BaseBlock};
use crate::image::{Image, Offset};
use crate::key::{Key, KeyId, Security};
use crate::node::{Node, Shared};

/// A registry hive in memory.
///
/// Bins and cells were checked when it was opened; keys and values are when they are read.
#[derive(Clone, Debug)]
pub struct Hive {
    pub(crate) image: Image,
    pub(crate) base: BaseBlock,
    /// The highest sequence number in the hive and the logs seen with it.
    pub(crate) sequence: u32,
}

impl Hive {
    /// Opens a hive file as it stands, its logs left out. Where it [is dirty](BaseBlock::is_dirty)
    /// that is an old state, or a mixture: use [`Hive::recover`] wherever there are logs.
    ///
    /// # Errors
    /// `Corrupt` or `Truncated` where it is no whole hive, `Unsupported` for the hives of NT 3.
    pub fn parse(bytes: Vec<u8>) -> Result<Self> {
        let base = BaseBlock::parse(bytes.get(..BASE).unwrap_or(&bytes))?;
        let sequence = base.primary_sequence.max(base.secondary_sequence);
        let hive = Self { image: Image::parse(bytes, &base)?, base, sequence };
        Node::parse(&hive.image, hive.root_at())?;
        Ok(hive)
    }

    /// What the base block says.
    #[must_use]
    pub fn base(&self) -> &BaseBlock {
        &self.base
    }

    /// The bytes of the file: after [`Hive::recover`], with the logs replayed.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.image.bytes
    }

    /// The root key.
    ///
    /// # Errors
    /// `Corrupt` where it cannot be read.
    pub fn root(&self) -> Result<Key<'_>> {
        Key::load(self, self.root_at(), 0)
    }

    /// The key at a path below the root; see [`Key::open`].
    ///
    /// # Errors
    /// As [`Key::subkeys`].
    pub fn open(&self, path: &str) -> Result<Option<Key<'_>>> {
        self.root()?.open(path)
    }

    /// The key that `id` was taken from.
    ///
    /// # Errors
    /// `Corrupt` where it is not there any more.
    pub fn key(&self, id: KeyId) -> Result<Key<'_>> {
        let mut depth = 0;
        let mut at = id.0;
        while at != self.root_at() {
            let node = Node::parse(&self.image, at)?;
            at = Offset(node.parent);
            depth += 1;
            if depth > crate::key::MAX_DEPTH {
                let message = "leads to no root through its parents";
                return Err(Error::corrupt(Node::STRUCTURE, id.0.in_file(), message));
            }
        }
        Key::load(self, id.0, depth)
    }

    /// All security descriptors, each once, in the order of their ring.
    ///
    /// # Errors
    /// `Corrupt` where one cannot be read, or the ring is none.
    pub fn securities(&self) -> Result<Vec<Security<'_>>> {
        match self.root()?.node().security {
            Some(first) => {
                Ok(Shared::ring(&self.image, first)?.into_iter().map(Security::of).collect())
            }
            None => Ok(Vec::new()),
        }
    }

    /// Calls `visit` with every key below and with the root, parents first, in the order of the
    /// lists.
    ///
    /// # Errors
    /// The first of a key that cannot be read, or of `visit`.
    pub fn walk<'h>(&'h self, mut visit: impl FnMut(&Key<'h>) -> Result<()>) -> Result<()> {
        let root = self.root()?;
        visit(&root)?;
        let mut open = vec![root.subkeys()?];
        while let Some(keys) = open.last_mut() {
            match keys.next() {
                Some(key) => {
                    let key = key?;
                    visit(&key)?;
                    open.push(key.subkeys()?);
                }
                None => drop(open.pop()),
            }
        }
        Ok(())
    }

    pub(crate) fn root_at(&self) -> Offset {
        Offset(self.base.root)
    }
}
