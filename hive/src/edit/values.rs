//! Values under an edit: their cells, their data, their list.

use vdisk_core::{Error, Result};

use super::lists::fit;
use super::space::Space;
use crate::bytes::index;
use crate::image::{Offset, raw_offset};
use crate::list::value_list;
use crate::name::Name;
use crate::node::{Node, nk, vk};
use crate::value::{BIG, Value, ValueKind, Values, inline};

/// The value of this name.
pub(super) fn find(space: &Space, key: Offset, name: &Name) -> Result<Option<Offset>> {
    let node = Node::parse(&space.hive.image, key)?;
    for value in Values::of(&space.hive.image, &node)? {
        let value = value?;
        if value.name().matches(name) {
            return Ok(Some(value.at));
        }
    }
    Ok(None)
}

/// Gives a value other data.
pub(super) fn replace(space: &mut Space, at: Offset, kind: ValueKind, data: &[u8]) -> Result<()> {
    let value = Value::load(&space.hive.image, at)?;
    let cells = value.data_cells()?;
    let small = data.len() <= 4;
    if let (&[cell], false, false) = (cells.as_slice(), small, is_big(space, data))
        && space.room(cell)? >= data.len()
    {
        space.fill(cell, data)?;
        space.put_u32(at, vk::DATA_LEN, length(data)?)?;
    } else {
        let (len, field) = data_cells(space, data)?;
        space.put_u32(at, vk::DATA_LEN, len)?;
        space.put_u32(at, vk::DATA, field)?;
        for cell in cells {
            space.release(cell)?;
        }
    }
    space.put_u32(at, vk::KIND, kind.0)
}

/// Adds a value that is not there yet.
pub(super) fn add(
    space: &mut Space,
    key: Offset,
    name: &Name,
    kind: ValueKind,
    data: &[u8],
) -> Result<()> {
    let (len, field) = data_cells(space, data)?;
    let at = space.add(&value_bytes(name, [len, field, kind.0])?)?;
    let node = Node::parse(&space.hive.image, key)?;
    let (old, count) = (node.value_list, node.values);
    let mut list = value_list(&space.hive.image, old, count)?;
    list.push(at);
    store_list(space, key, old.filter(|_| count > 0), &list)
}

/// Takes a value out of its key's list and frees its cells.
pub(super) fn remove(space: &mut Space, key: Offset, at: Offset) -> Result<()> {
    let node = Node::parse(&space.hive.image, key)?;
    let old = node.value_list;
    let mut list = value_list(&space.hive.image, old, node.values)?;
    list.retain(|value| *value != at);
    store_list(space, key, old, &list)?;
    release(space, at)
}

/// Frees a value's cells.
pub(super) fn release(space: &mut Space, at: Offset) -> Result<()> {
    for cell in Value::load(&space.hive.image, at)?.data_cells()? {
        space.release(cell)?;
    }
    space.release(at)
}

/// Gives a value another name.
pub(super) fn rename(space: &mut Space, key: Offset, at: Offset, name: &Name) -> Result<()> {
    let cell = space.hive.image.cell(Value::STRUCTURE, at)?;
    let [len, data, kind] =
        [vk::DATA_LEN, vk::DATA, vk::KIND].map(|field| cell.u32(Value::STRUCTURE, field));
    let new = fit(space, at, &value_bytes(name, [len?, data?, kind?])?)?;
    let node = Node::parse(&space.hive.image, key)?;
    let old = node.value_list;
    let mut list = value_list(&space.hive.image, old, node.values)?;
    for value in list.iter_mut().filter(|value| **value == at) {
        *value = new;
    }
    store_list(space, key, old, &list)
}

/// Keeps the key's longest name and data of a value true; they never shrink, as with Windows.
pub(super) fn note_longest(space: &mut Space, key: Offset, name: &Name, len: usize) -> Result<()> {
    let name_len = name.units().len().saturating_mul(2);
    for (field, len) in [(nk::LONGEST_VALUE_NAME, name_len), (nk::LONGEST_VALUE_DATA, len)] {
        let len = u32::try_from(len).unwrap_or(u32::MAX);
        if space.hive.image.cell(Node::STRUCTURE, key)?.u32(Node::STRUCTURE, field)? < len {
            space.put_u32(key, field, len)?;
        }
    }
    Ok(())
}

fn value_bytes(name: &Name, [len, data, kind]: [u32; 3]) -> Result<Vec<u8>> {
    let (raw, compressed) = name.to_raw();
    let name_len = u16::try_from(raw.len()).map_err(|_| too_long(name))?;
    let flags = if compressed && !name.is_empty() { vk::COMPRESSED } else { 0 };
    let mut bytes = [b"vk".as_slice(), &name_len.to_le_bytes()].concat();
    for word in [len, data, kind] {
        bytes.extend_from_slice(&word.to_le_bytes());
    }
    bytes.extend_from_slice(&flags.to_le_bytes());
    bytes.extend_from_slice(&[0; 2]);
    bytes.extend_from_slice(&raw);
    Ok(bytes)
}

pub(super) fn too_long(name: &Name) -> Error {
    let units = name.units().len();
    Error::usage(format!("a name of {units} characters is too long for the registry"))
}

fn store_list(space: &mut Space, key: Offset, old: Option<Offset>, list: &[Offset]) -> Result<()> {
    let bytes: Vec<u8> = list.iter().flat_map(|at| at.0.to_le_bytes()).collect();
    let cell = match old {
        _ if list.is_empty() => {
            old.map_or(Ok(()), |old| space.release(old))?;
            None
        }
        Some(old) => Some(fit(space, old, &bytes)?),
        None => Some(space.add(&bytes)?),
    };
    let count = u32::try_from(list.len()).map_err(|_| Error::refused("too many values"))?;
    space.put_u32(key, nk::VALUES, count)?;
    space.put_u32(key, nk::VALUE_LIST, raw_offset(cell))
}

fn length(data: &[u8]) -> Result<u32> {
    // The highest bit says that the data stands in the value's own cell.
    let len = u32::try_from(data.len()).ok().filter(|len| len & vk::INLINE == 0);
    len.ok_or_else(|| Error::usage(format!("{} bytes are too many for a value", data.len())))
}

/// Whether data of this length stands in segments: hives below 1.4 keep it in one cell.
fn is_big(space: &Space, data: &[u8]) -> bool {
    space.hive.base.minor >= 4 && data.len() > index(BIG)
}

/// Puts data into new cells; the value's fields of length and data.
fn data_cells(space: &mut Space, data: &[u8]) -> Result<(u32, u32)> {
    let len = length(data)?;
    if data.len() <= 4 {
        return Ok((len | vk::INLINE, inline(data)));
    }
    if !is_big(space, data) {
        return Ok((len, space.add(data)?.0));
    }
    let mut list = Vec::new();
    for segment in data.chunks(index(BIG)) {
        // The last one is as large as the others, as with Windows: hivex, for one, cuts off what
        // stands in the last four bytes of a cell.
        let mut segment = segment.to_vec();
        segment.resize(index(BIG), 0);
        list.extend_from_slice(&space.add(&segment)?.0.to_le_bytes());
    }
    let count = u16::try_from(list.len() / 4)
        .map_err(|_| Error::usage(format!("{len} bytes are too many for a value")))?;
    let list = space.add(&list)?;
    let big = [b"db".as_slice(), &count.to_le_bytes(), &list.0.to_le_bytes()].concat();
    Ok((len, space.add(&big)?.0))
}
