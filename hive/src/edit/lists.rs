//! Sub-key lists under an edit: one key in, or one out.

use std::cmp::Ordering;

use vdisk_core::{Error, Result};

use super::space::Space;
use crate::image::{Offset, raw_offset};
use crate::list::{Entry, Leaf, LeafKind, SubkeyList};
use crate::name::Name;
use crate::node::{Node, nk};

/// Entries of a leaf up to Windows 7: as many as one page holds.
const LEAF_MAX: usize = 507;
/// Entries where a later Windows has let a leaf grow: as many as two pages hold.
const LARGE_LEAF_MAX: usize = 1012;

/// The key of this name in the list of `parent`.
pub(super) fn find(space: &Space, parent: Offset, name: &Name) -> Result<Option<Offset>> {
    let node = Node::parse(&space.hive.image, parent)?;
    let list = SubkeyList::read(&space.hive.image, node.list, node.subkeys)?;
    let Some(leaf) = list.leaves.get(leaf_for(space, &list, name)?) else { return Ok(None) };
    let place = place_in(space, leaf, name)?.ok().and_then(|place| leaf.entries.get(place));
    Ok(place.map(|entry| entry.key))
}

/// Puts a key into the list of `parent`, where its name belongs.
pub(super) fn insert(space: &mut Space, parent: Offset, key: Offset, name: &Name) -> Result<()> {
    let node = Node::parse(&space.hive.image, parent)?;
    let count = node.subkeys;
    let mut list = SubkeyList::read(&space.hive.image, node.list, count)?;
    if list.leaves.is_empty() {
        let kind = if space.hive.base.minor >= 5 { LeafKind::Hash } else { LeafKind::Hint };
        let entries = vec![Entry { key, found_by: kind.key_of(name) }];
        let at = space.add(&leaf_bytes(kind, &entries)?)?;
        return set(space, parent, Some(at), count + 1);
    }
    let which = leaf_for(space, &list, name)?;
    let leaf = list.leaves.get_mut(which).ok_or_else(lost)?;
    let Err(place) = place_in(space, leaf, name)? else {
        return Err(Error::usage(format!("the key \"{name}\" is there")));
    };
    leaf.entries.insert(place, Entry { key, found_by: leaf.kind.key_of(name) });
    let before = leaf.entries.len() - 1;
    let most = if before > LEAF_MAX { LARGE_LEAF_MAX } else { LEAF_MAX };
    if leaf.entries.len() > most {
        // Keys that are added in order leave full leaves behind them.
        let cut = if place == before { before } else { leaf.entries.len().div_ceil(2) };
        let (kind, entries) = (leaf.kind, leaf.entries.split_off(cut));
        let at = space.add(&leaf_bytes(kind, &entries)?)?;
        list.leaves.insert(which + 1, Leaf { at, kind, entries });
    }
    store(space, &mut list, which)?;
    let at = root(space, &list)?;
    set(space, parent, Some(at), count + 1)
}

/// Takes a key out of the list of `parent`.
pub(super) fn remove(space: &mut Space, parent: Offset, key: Offset) -> Result<()> {
    let node = Node::parse(&space.hive.image, parent)?;
    let count = node.subkeys;
    let mut list = SubkeyList::read(&space.hive.image, node.list, count)?;
    let is_key = |entry: &Entry| entry.key == key;
    let which = list.leaves.iter().position(|leaf| leaf.entries.iter().any(is_key));
    let which = which.ok_or_else(lost)?;
    let leaf = list.leaves.get_mut(which).ok_or_else(lost)?;
    leaf.entries.retain(|entry| !is_key(entry));
    if !leaf.entries.is_empty() {
        store(space, &mut list, which)?;
        let at = root(space, &list)?;
        return set(space, parent, Some(at), count - 1);
    }
    space.release(leaf.at)?;
    list.leaves.remove(which);
    let at = if list.leaves.is_empty() {
        list.root.map_or(Ok(()), |at| space.release(at))?;
        None
    } else {
        Some(root(space, &list)?)
    };
    set(space, parent, at, count - 1)
}

fn lost() -> Error {
    Error::internal("a sub-key list lost a key")
}

/// The leaf whose names surround `name`: the last that begins at or before it.
fn leaf_for(space: &Space, list: &SubkeyList, name: &Name) -> Result<usize> {
    let mut found = 0;
    for (number, leaf) in list.leaves.iter().enumerate() {
        let Some(first) = leaf.entries.first() else { continue };
        if order(space, first, name)? == Ordering::Greater {
            break;
        }
        found = number;
    }
    Ok(found)
}

/// Where in the leaf the name is, or else where it belongs.
fn place_in(space: &Space, leaf: &Leaf, name: &Name) -> Result<Result<usize, usize>> {
    let (mut low, mut high) = (0, leaf.entries.len());
    while low < high {
        let middle = low + (high - low) / 2;
        let entry = leaf.entries.get(middle).ok_or_else(lost)?;
        match order(space, entry, name)? {
            Ordering::Less => low = middle + 1,
            Ordering::Equal => return Ok(Ok(middle)),
            Ordering::Greater => high = middle,
        }
    }
    Ok(Err(low))
}

fn order(space: &Space, entry: &Entry, name: &Name) -> Result<Ordering> {
    Ok(Node::parse(&space.hive.image, entry.key)?.name().order(name))
}

/// Writes a leaf, into a new cell where its own is too small.
fn store(space: &mut Space, list: &mut SubkeyList, which: usize) -> Result<()> {
    let leaf = list.leaves.get_mut(which).ok_or_else(lost)?;
    leaf.at = fit(space, leaf.at, &leaf_bytes(leaf.kind, &leaf.entries)?)?;
    Ok(())
}

/// The cell that the key's list field leads to: the one leaf, or the `ri` cell, now written.
fn root(space: &mut Space, list: &SubkeyList) -> Result<Offset> {
    match (list.root, list.leaves.as_slice()) {
        (None, [leaf]) => Ok(leaf.at),
        (None, leaves) => space.add(&root_bytes(leaves)?),
        (Some(at), leaves) => fit(space, at, &root_bytes(leaves)?),
    }
}

/// Puts `bytes` into the cell, or into a new one in its place.
pub(super) fn fit(space: &mut Space, cell: Offset, bytes: &[u8]) -> Result<Offset> {
    if space.room(cell)? >= bytes.len() {
        space.fill(cell, bytes)?;
        return Ok(cell);
    }
    let new = space.add(bytes)?;
    space.release(cell)?;
    Ok(new)
}

fn counted(signature: &[u8; 2], count: usize) -> Result<Vec<u8>> {
    let count = u16::try_from(count)
        .map_err(|_| Error::refused("more sub-keys than a list of the hive can hold"))?;
    Ok([signature.as_slice(), &count.to_le_bytes()].concat())
}

fn leaf_bytes(kind: LeafKind, entries: &[Entry]) -> Result<Vec<u8>> {
    let mut bytes = counted(kind.signature(), entries.len())?;
    for entry in entries {
        bytes.extend_from_slice(&entry.key.0.to_le_bytes());
        if kind != LeafKind::Plain {
            bytes.extend_from_slice(&entry.found_by);
        }
    }
    Ok(bytes)
}

fn root_bytes(leaves: &[Leaf]) -> Result<Vec<u8>> {
    let mut bytes = counted(b"ri", leaves.len())?;
    for leaf in leaves {
        bytes.extend_from_slice(&leaf.at.0.to_le_bytes());
    }
    Ok(bytes)
}

fn set(space: &mut Space, parent: Offset, list: Option<Offset>, count: u32) -> Result<()> {
    space.put_u32(parent, nk::LIST, raw_offset(list))?;
    space.put_u32(parent, nk::SUBKEYS, count)
}
