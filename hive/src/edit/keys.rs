//! Keys under an edit.

use vdisk_core::{Error, Result};

use super::lists;
use super::space::Space;
use super::{security, values};
use crate::bytes::u32_at;
use crate::image::{Offset, raw_offset};
use crate::key::{KeyId, MAX_DEPTH};
use crate::list::{SubkeyList, value_list};
use crate::name::Name;
use crate::node::{Node, nk};
use crate::time::FileTime;

/// Sets the time of a key's last write.
pub(super) fn touch(space: &mut Space, key: Offset, now: FileTime) -> Result<()> {
    space.put(key, nk::TIME, &now.0.to_le_bytes())
}

/// The sub-key of this name, created where there is none.
pub(super) fn create(
    space: &mut Space,
    parent: Offset,
    name: &Name,
    now: FileTime,
) -> Result<Offset> {
    let above = space.hive.key(KeyId(parent))?;
    if let Some(there) = lists::find(space, parent, name)? {
        return Ok(there);
    }
    if above.depth() >= MAX_DEPTH {
        return Err(Error::usage(format!("keys below one another end at a depth of {MAX_DEPTH}")));
    }
    let shared = above.node().security;
    let (raw, compressed) = name.to_raw();
    let mut bytes = vec![0; nk::NAME];
    let flags = if compressed { nk::COMPRESSED } else { 0 };
    let name_len = u16::try_from(raw.len()).map_err(|_| values::too_long(name))?;
    crate::base::put(&mut bytes, 0, b"nk");
    crate::base::put(&mut bytes, nk::FLAGS, &flags.to_le_bytes());
    crate::base::put(&mut bytes, nk::TIME, &now.0.to_le_bytes());
    crate::base::put(&mut bytes, nk::PARENT, &parent.0.to_le_bytes());
    for field in [nk::LIST, nk::VOLATILE_LIST, nk::VALUE_LIST, nk::CLASS] {
        crate::base::put(&mut bytes, field, &Offset::NONE.to_le_bytes());
    }
    crate::base::put(&mut bytes, nk::SECURITY, &raw_offset(shared).to_le_bytes());
    crate::base::put(&mut bytes, nk::NAME_LEN, &name_len.to_le_bytes());
    bytes.extend_from_slice(&raw);
    let key = space.add(&bytes)?;
    shared.map_or(Ok(()), |shared| security::retain(space, shared))?;
    lists::insert(space, parent, key, name)?;
    note_longest_name(space, parent, name)?;
    touch(space, parent, now)?;
    Ok(key)
}

/// Deletes a key and all below it.
pub(super) fn delete(space: &mut Space, key: Offset, now: FileTime) -> Result<()> {
    let parent = parent_of(space, key)?;
    let mut doomed = vec![key];
    let mut next = 0;
    while let Some(at) = doomed.get(next).copied() {
        let node = Node::parse(&space.hive.image, at)?;
        doomed.extend(SubkeyList::read(&space.hive.image, node.list, node.subkeys)?.keys());
        next += 1;
    }
    lists::remove(space, parent, key)?;
    for at in doomed {
        release(space, at)?;
    }
    touch(space, parent, now)
}

/// Frees a key's own cells.
fn release(space: &mut Space, key: Offset) -> Result<()> {
    let node = Node::parse(&space.hive.image, key)?;
    let (shared, value_cell) = (node.security, node.value_list.filter(|_| node.values > 0));
    let class = node.class.filter(|_| node.class_len > 0);
    let values = value_list(&space.hive.image, node.value_list, node.values)?;
    let subkeys = SubkeyList::read(&space.hive.image, node.list, node.subkeys)?;
    for value in values {
        values::release(space, value)?;
    }
    let leaves = subkeys.leaves.iter().map(|leaf| leaf.at);
    let cells = [value_cell, class, subkeys.root].into_iter().flatten().chain(leaves);
    for cell in cells {
        space.release(cell)?;
    }
    shared.map_or(Ok(()), |shared| security::release(space, shared))?;
    space.release(key)
}

/// Gives a key another name, and its place among its siblings.
pub(super) fn rename(space: &mut Space, key: Offset, name: &Name, now: FileTime) -> Result<Offset> {
    let parent = parent_of(space, key)?;
    if lists::find(space, parent, name)?.is_some_and(|sibling| sibling != key) {
        return Err(Error::usage(format!("the key \"{name}\" is there")));
    }
    lists::remove(space, parent, key)?;
    let (raw, compressed) = name.to_raw();
    let node = Node::parse(&space.hive.image, key)?;
    let flags = node.flags & !nk::COMPRESSED | if compressed { nk::COMPRESSED } else { 0 };
    let children: Vec<_> =
        SubkeyList::read(&space.hive.image, node.list, node.subkeys)?.keys().collect();
    let name_len = u16::try_from(raw.len()).map_err(|_| values::too_long(name))?;
    let fixed = space.hive.image.cell(Node::STRUCTURE, key)?.slice(Node::STRUCTURE, 0, nk::NAME)?;
    let bytes = [fixed, raw.as_slice()].concat();
    let new = lists::fit(space, key, &bytes)?;
    space.put(new, nk::FLAGS, &flags.to_le_bytes())?;
    space.put(new, nk::NAME_LEN, &name_len.to_le_bytes())?;
    if new != key {
        for child in children {
            space.put_u32(child, nk::PARENT, new.0)?;
        }
    }
    lists::insert(space, parent, new, name)?;
    note_longest_name(space, parent, name)?;
    touch(space, new, now)?;
    touch(space, parent, now)?;
    Ok(new)
}

/// Gives a key a class name, or none.
pub(super) fn set_class(space: &mut Space, key: Offset, class: &[u8]) -> Result<()> {
    let len = u16::try_from(class.len())
        .map_err(|_| Error::usage(format!("{} bytes are too many for a class", class.len())))?;
    let node = Node::parse(&space.hive.image, key)?;
    let parent = (key != space.hive.root_at()).then_some(Offset(node.parent));
    let old = node.class.filter(|_| node.class_len > 0);
    let cell = match old {
        _ if class.is_empty() => {
            old.map_or(Ok(()), |old| space.release(old))?;
            None
        }
        Some(old) => Some(lists::fit(space, old, class)?),
        None => Some(space.add(class)?),
    };
    space.put_u32(key, nk::CLASS, raw_offset(cell))?;
    space.put(key, nk::CLASS_LEN, &len.to_le_bytes())?;
    match parent {
        Some(parent) => raise(space, parent, nk::LONGEST_CLASS, u32::MAX, u32::from(len)),
        None => Ok(()),
    }
}

fn parent_of(space: &Space, key: Offset) -> Result<Offset> {
    if key == space.hive.root_at() {
        return Err(Error::usage("the root key is neither renamed nor deleted"));
    }
    // Whether it is a key of the tree at all, and not only bytes that look like one.
    space.hive.key(KeyId(key))?;
    Ok(Offset(Node::parse(&space.hive.image, key)?.parent))
}

fn note_longest_name(space: &mut Space, parent: Offset, name: &Name) -> Result<()> {
    // The upper half of the field holds other flags.
    let len = u32::try_from(name.units().len().saturating_mul(2)).unwrap_or(u32::MAX);
    raise(space, parent, nk::LONGEST_NAME, 0xffff, len)
}

/// Raises the part of a field that `mask` names to at least `least`.
fn raise(space: &mut Space, key: Offset, field: usize, mask: u32, least: u32) -> Result<()> {
    let cell = space.hive.image.cell(Node::STRUCTURE, key)?;
    let told = u32_at(cell.slice(Node::STRUCTURE, field, 4)?, 0).unwrap_or_default();
    if told & mask < least {
        space.put_u32(key, field, told & !mask | least & mask)?;
    }
    Ok(())
}
