//! Security cells under an edit: shared by keys, counted, in a ring.

use vdisk_core::{Error, Result};

use super::space::Space;
use crate::image::Offset;
use crate::node::{Node, Shared, nk, sk};

/// One more key uses the cell.
pub(super) fn retain(space: &mut Space, at: Offset) -> Result<()> {
    let references = Shared::parse(&space.hive.image, at)?.references;
    let more = references.checked_add(1);
    let more = more.ok_or_else(|| Error::refused("too many keys share a security descriptor"))?;
    space.put_u32(at, sk::REFERENCES, more)
}

/// One key less uses the cell; the last one takes it out of the ring.
pub(super) fn release(space: &mut Space, at: Offset) -> Result<()> {
    let Shared { next, previous, references, .. } = Shared::parse(&space.hive.image, at)?;
    if references > 1 {
        return space.put_u32(at, sk::REFERENCES, references - 1);
    }
    if next != at {
        space.put_u32(previous, sk::NEXT, next.0)?;
        space.put_u32(next, sk::PREVIOUS, previous.0)?;
    }
    space.release(at)
}

/// Gives a key the descriptor: the cell that has it already, or a new one.
pub(super) fn set(space: &mut Space, key: Offset, descriptor: &[u8]) -> Result<()> {
    let old = Node::parse(&space.hive.image, key)?.security;
    let cell = find_or_add(space, descriptor)?;
    retain(space, cell)?;
    space.put_u32(key, nk::SECURITY, cell.0)?;
    old.map_or(Ok(()), |old| release(space, old))
}

/// Changes a descriptor for all keys that use it.
pub(super) fn replace(space: &mut Space, at: Offset, descriptor: &[u8]) -> Result<()> {
    let shared = Shared::parse(&space.hive.image, at)?;
    let Shared { next, previous, references, .. } = shared;
    let bytes = shared_bytes(next, previous, references, descriptor)?;
    if space.room(at)? >= bytes.len() {
        return space.fill(at, &bytes);
    }
    let mut users = Vec::new();
    space.hive.walk(|key| {
        if key.node().security == Some(at) {
            users.push(key.id().0);
        }
        Ok(())
    })?;
    let new = space.add(&bytes)?;
    let alone = next == at;
    space.put_u32(if alone { new } else { previous }, sk::NEXT, new.0)?;
    space.put_u32(if alone { new } else { next }, sk::PREVIOUS, new.0)?;
    for key in users {
        space.put_u32(key, nk::SECURITY, new.0)?;
    }
    space.release(at)
}

fn find_or_add(space: &mut Space, descriptor: &[u8]) -> Result<Offset> {
    let ring = space.hive.securities()?;
    if let Some(same) = ring.iter().find(|one| one.descriptor() == descriptor) {
        return Ok(same.id().0);
    }
    let Some(first) = ring.first().map(|one| one.id().0) else {
        let new = space.add(&shared_bytes(Offset(0), Offset(0), 0, descriptor)?)?;
        space.put_u32(new, sk::NEXT, new.0)?;
        space.put_u32(new, sk::PREVIOUS, new.0)?;
        return Ok(new);
    };
    let next = Shared::parse(&space.hive.image, first)?.next;
    let new = space.add(&shared_bytes(next, first, 0, descriptor)?)?;
    space.put_u32(first, sk::NEXT, new.0)?;
    space.put_u32(next, sk::PREVIOUS, new.0)?;
    Ok(new)
}

fn shared_bytes(
    next: Offset,
    previous: Offset,
    references: u32,
    descriptor: &[u8],
) -> Result<Vec<u8>> {
    let len = u32::try_from(descriptor.len())
        .map_err(|_| Error::usage("the security descriptor is too long"))?;
    let words = [next.0, previous.0, references, len].map(u32::to_le_bytes);
    Ok([b"sk\0\0".as_slice(), words.as_flattened(), descriptor].concat())
}
