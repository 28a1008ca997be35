//! What an INF file adds to the registry.

use vdisk_hive::ValueKind;

use super::super::Data;
use super::{Inf, Line, MOST_NAMED};

/// The key that a line of an `AddReg` section begins at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Root {
    /// `HKR`: of what the section is for, such as a service.
    Relative,
    /// Another one, such as `HKLM`.
    Other,
}

/// A value to add.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddReg {
    /// Where its key begins.
    pub root: Root,
    /// Its key below that; may be empty.
    pub key: String,
    /// Its name; empty for the default value.
    pub name: String,
    /// What it holds; none where the key alone is asked for.
    pub data: Option<Data>,
}

/// Flags of a line: the type in these bits, and what is no plain setting of a value.
const TYPE: u32 = 0xffff_0001;
const KEY_ONLY: u32 = 0x10;
const DELETES_OR_APPENDS: u32 = 0x4 | 0x8 | 0x20;

impl Inf {
    /// All values of the sections that `AddReg` of `section` names; those that delete something or
    /// append to it are left out.
    #[must_use]
    pub fn add_reg(&self, section: &str) -> Vec<AddReg> {
        let named = self.fields(section, "AddReg").into_iter().flatten();
        named.take(MOST_NAMED).flat_map(|name| self.lines(&name)).filter_map(add_reg).collect()
    }
}

/// `ROOT, KEY, NAME, FLAGS, DATA, …`
fn add_reg(line: Line) -> Option<AddReg> {
    let mut fields = line.fields.into_iter();
    let root = match fields.next()?.to_ascii_uppercase().as_str() {
        "HKR" => Root::Relative,
        "HKLM" | "HKCR" | "HKCU" | "HKU" => Root::Other,
        _ => return None,
    };
    let key = fields.next().unwrap_or_default();
    let name = fields.next().unwrap_or_default();
    let flags = fields.next().filter(|text| !text.is_empty());
    let flags = flags.map_or(Some(0), |text| number(&text))?;
    if flags & DELETES_OR_APPENDS != 0 {
        return None;
    }
    let data = if flags & KEY_ONLY != 0 { None } else { Some(data(flags & TYPE, fields)?) };
    Some(AddReg { root, key, name, data })
}

fn data(kind: u32, mut fields: impl Iterator<Item = String>) -> Option<Data> {
    Some(match kind {
        0x0000_0000 => Data::Sz(fields.next().unwrap_or_default()),
        0x0001_0000 => Data::MultiSz(fields.filter(|text| !text.is_empty()).collect()),
        0x0002_0000 => Data::ExpandSz(fields.next().unwrap_or_default()),
        0x0001_0001 => {
            let fields: Vec<String> = fields.filter(|text| !text.is_empty()).collect();
            match fields.as_slice() {
                [] => Data::Dword(0),
                [one] => Data::Dword(number(one)?),
                bytes => Data::Dword(u32::from_le_bytes(hex(bytes)?.try_into().ok()?)),
            }
        }
        0x0002_0001 => Data::Raw(ValueKind::NONE, hex(&fields.collect::<Vec<_>>())?),
        kind if kind & 1 == 1 => {
            let kind = if kind == 1 { ValueKind::BINARY } else { ValueKind(kind >> 16) };
            Data::Raw(kind, hex(&fields.collect::<Vec<_>>())?)
        }
        _ => return None,
    })
}

fn hex(fields: &[String]) -> Option<Vec<u8>> {
    let fields = fields.iter().filter(|text| !text.is_empty());
    fields
        .map(|text| {
            let text = text.strip_prefix("0x").unwrap_or(text);
            u8::from_str_radix(text, 16).ok()
        })
        .collect()
}

/// A number as INF files write it: decimal, or hexadecimal behind `0x`; may be negative.
pub(super) fn number(text: &str) -> Option<u32> {
    let text = text.trim().to_ascii_lowercase();
    if let Some(hex) = text.strip_prefix("0x") {
        return u32::from_str_radix(hex, 16).ok();
    }
    match text.parse::<i32>() {
        Ok(number) => Some(number.cast_unsigned()),
        Err(_) => text.parse().ok(),
    }
}
