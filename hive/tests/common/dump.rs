//! All of a hive as text, in a form that `tests/judge.py` makes too.
//!
//! ```text
//! K <path> <time>     a key; its names between backslashes
//! C <hex>             its class name, where it has one
//! S <hex>             its security descriptor
//! V <name> <type> <hex>  a value
//! ```
//! In names, UTF-16 units that are no printable ASCII are `%XXXX`. Fields stand between tabs.

use std::fmt::Write;

use vdisk_hive::{Hive, Key, Name};

/// The text, or the first error.
pub(crate) fn dump(hive: &Hive) -> vdisk_core::Result<String> {
    let mut text = String::new();
    let mut path: Vec<String> = Vec::new();
    hive.walk(|key| {
        let depth = depth_of(key)?;
        path.truncate(depth);
        path.push(escape(&key.name()));
        one(key, &path.join("\\"), &mut text)
    })?;
    Ok(text)
}

fn depth_of(key: &Key<'_>) -> vdisk_core::Result<usize> {
    let (mut depth, mut above) = (0, key.parent()?);
    while let Some(key) = above {
        depth += 1;
        above = key.parent()?;
    }
    Ok(depth)
}

fn one(key: &Key<'_>, path: &str, text: &mut String) -> vdisk_core::Result<()> {
    let _ = writeln!(text, "K\t{path}\t{}", key.written().0);
    let class = key.class()?;
    if !class.is_empty() {
        let _ = writeln!(text, "C\t{}", hex(class));
    }
    if let Some(security) = key.security()? {
        let _ = writeln!(text, "S\t{}", hex(security.descriptor()));
    }
    for value in key.values()? {
        let value = value?;
        let (name, kind) = (escape(&value.name()), value.kind().0);
        let _ = writeln!(text, "V\t{name}\t{kind}\t{}", hex(&value.data()?));
    }
    Ok(())
}

pub(crate) fn escape(name: &Name) -> String {
    let mut text = String::new();
    for unit in name.units() {
        match u8::try_from(*unit) {
            Ok(byte) if byte.is_ascii_graphic() && !b"%\\".contains(&byte) || byte == b' ' => {
                text.push(char::from(byte));
            }
            _ => drop(write!(text, "%{unit:04X}")),
        }
    }
    text
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    digits.map(|digit| char::from(DIGITS[usize::from(digit)])).collect()
}
