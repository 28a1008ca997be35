//! Which subvolume is mounted by default, and the path to it.
//!
//! The root tree has a directory of its own, in which the name `default` stands for the subvolume.
//! A subvolume's `ROOT_BACKREF` tells the subvolume and the directory that it is in, a directory's
//! `INODE_REF` the one above (btrfs(5), "On-disk format" of the kernel's documentation). The crate
//! lists subvolumes too, but leaves the directories out of their paths.

use fs_btrfs::btree::{LeafItem, Tree, TreeGeometry};
use fs_btrfs::dir::parse_dir_items;
use fs_btrfs::inode::{FIRST_FREE_OBJECTID, INODE_REF_KEY};
use fs_btrfs::subvol::FS_TREE_OBJECTID;
use fs_btrfs::{Error, Filesystem};

const DIR_ITEM: u8 = 84;
const ROOT_ITEM: u8 = 132;
const ROOT_BACKREF: u8 = 144;
/// Where a `ROOT_ITEM` has the address of its tree.
const ROOT_ADDRESS: usize = 176;
/// As many directories as a path may lead through.
const MOST_STEPS: usize = 4096;

/// The path to the default subvolume: empty for the top of the file system, also where nothing
/// leads from there to it.
pub(super) fn default_root(fs: &Filesystem) -> Result<Vec<u8>, Error> {
    let read = |at, buf: &mut [u8]| {
        let block = fs.read_tree_block(at)?;
        buf.iter_mut().zip(block.bytes()).for_each(|(to, from)| *to = *from);
        Ok(())
    };
    let superblock = fs.superblock();
    let trees = Trees {
        reader: Tree::new(TreeGeometry::from_superblock(superblock), &read),
        root: superblock.root,
    };
    let Some(default) = trees.default(superblock.root_dir_objectid)? else {
        return Ok(Vec::new());
    };
    Ok(trees.path(default)?.unwrap_or_default())
}

struct Trees<'a> {
    reader: Tree<'a>,
    /// Address of the tree of trees.
    root: u64,
}

impl Trees<'_> {
    fn default(&self, directory: u64) -> Result<Option<u64>, Error> {
        for item in self.reader.find_all(self.root, directory, DIR_ITEM)? {
            let entries = parse_dir_items(&item.data)?;
            if let Some(entry) = entries.iter().find(|entry| entry.name == b"default") {
                return Ok(Some(entry.ino));
            }
        }
        Ok(None)
    }

    /// The path from the top, upwards: through each subvolume to the one it is in.
    fn path(&self, mut subvolume: u64) -> Result<Option<Vec<u8>>, Error> {
        let mut names = Vec::new();
        while subvolume != FS_TREE_OBJECTID {
            let Some(item) = self.first(self.root, subvolume, ROOT_BACKREF)? else {
                return Ok(None);
            };
            subvolume = item.key.offset;
            names.push(name(&item.data, 16).unwrap_or_default().to_vec());
            let Some(directory) = word(&item.data, 0) else { return Ok(None) };
            if !self.climb(subvolume, directory, &mut names)? {
                return Ok(None);
            }
        }
        Ok(Some(names.iter().rev().flat_map(|name| [b"/", &name[..]].concat()).collect()))
    }

    /// Adds the names of a directory and of those above it in its subvolume; false where they lead
    /// nowhere.
    fn climb(
        &self,
        subvolume: u64,
        mut directory: u64,
        names: &mut Vec<Vec<u8>>,
    ) -> Result<bool, Error> {
        let tree = self.first(self.root, subvolume, ROOT_ITEM)?;
        let Some(tree) = tree.and_then(|item| word(&item.data, ROOT_ADDRESS)) else {
            return Ok(false);
        };
        while directory != FIRST_FREE_OBJECTID && names.len() < MOST_STEPS {
            let Some(item) = self.first(tree, directory, INODE_REF_KEY)? else {
                return Ok(false);
            };
            names.push(name(&item.data, 8).unwrap_or_default().to_vec());
            directory = item.key.offset;
        }
        Ok(names.len() < MOST_STEPS)
    }

    fn first(&self, tree: u64, object: u64, kind: u8) -> Result<Option<LeafItem>, Error> {
        Ok(self.reader.find_all(tree, object, kind)?.into_iter().next())
    }
}

fn word(data: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*data.get(at..)?.first_chunk()?))
}

/// A name behind its length in two bytes.
fn name(data: &[u8], at: usize) -> Option<&[u8]> {
    let len = u16::from_le_bytes(*data.get(at..)?.first_chunk()?);
    data.get(at + 2..)?.get(..usize::from(len))
}
