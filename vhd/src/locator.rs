//! Parent locators: the places where a child's parent may be.
//!
//! VHD 1.0, "Dynamic Disk Header Format", *Parent Locator Entries*. The header's own fields are
//! big-endian, but the paths that locators lead to are UTF-16 **little-endian**, without a NUL.
//! Of an entry's two lengths only *Platform Data Length* counts: *Platform Data Space* is in
//! sectors by the specification, and in bytes in what Microsoft writes.

use std::ops::Range;

use vdisk_core::{Error, ParentHint, ParentLink, PathStyle, Result, Store, StoreExt};
use zerocopy::byteorder::big_endian::{U32, U64};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::shape::to_usize;

/// Locators in a header.
pub(crate) const LOCATORS: usize = 8;
/// Bytes of locator data read; a path has at most 32767 UTF-16 units.
pub(crate) const MAX_DATA: u64 = 64 << 10;

/// A locator entry as it stands in the header.
#[derive(
    Clone, Copy, Debug, Default, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned, PartialEq,
)]
#[repr(C)]
pub(crate) struct RawLocator {
    platform_code: [u8; 4],
    platform_data_space: U32,
    platform_data_length: U32,
    reserved: U32,
    platform_data_offset: U64,
}

const _: () = assert!(size_of::<RawLocator>() == 24);

/// How the data of a platform code is to be read.
#[derive(Clone, Copy)]
enum Encoding {
    Utf16Le,
    Utf8,
    Ansi,
}

type Platform = (&'static [u8; 4], &'static str, PathStyle, Encoding);

/// The platform codes with a path, best first. A Macintosh alias (`Mac `) holds none.
const PLATFORMS: [Platform; 5] = [
    (b"W2ru", "W2ru", PathStyle::WindowsRelative, Encoding::Utf16Le),
    (b"W2ku", "W2ku", PathStyle::WindowsAbsolute, Encoding::Utf16Le),
    (b"MacX", "MacX", PathStyle::Url, Encoding::Utf8),
    (b"Wi2r", "Wi2r", PathStyle::WindowsRelative, Encoding::Ansi),
    (b"Wi2k", "Wi2k", PathStyle::WindowsAbsolute, Encoding::Ansi),
];

impl RawLocator {
    /// A locator whose `len` bytes of data stand at byte `at`.
    pub(crate) fn new(code: [u8; 4], at: u64, len: u32) -> Self {
        Self {
            platform_code: code,
            // In bytes, as Microsoft does.
            platform_data_space: len.next_multiple_of(512).into(),
            platform_data_length: len.into(),
            reserved: 0.into(),
            platform_data_offset: at.into(),
        }
    }

    /// Whether the entry is in use.
    pub(crate) fn is_used(&self) -> bool {
        self.platform_code != [0; 4]
    }

    /// The platform code, for people.
    pub(crate) fn code(&self) -> String {
        self.platform_code.escape_ascii().to_string()
    }

    /// Whether the platform code is one that vdisk can read, or the alias that nobody can.
    pub(crate) fn is_known(&self) -> bool {
        self.platform_code == *b"Mac " || self.platform().is_some()
    }

    /// Byte offset of the data.
    pub(crate) fn at(&self) -> u64 {
        self.platform_data_offset.get()
    }

    /// Bytes of the data.
    pub(crate) fn len(&self) -> u64 {
        self.platform_data_length.get().into()
    }

    /// The bytes of the file that it claims; `None` where it is not in use, or claims more than any
    /// path has.
    pub(crate) fn range(&self) -> Option<Range<u64>> {
        let end = self.at().checked_add(self.len())?;
        (self.is_used() && self.len() <= MAX_DATA).then(|| self.at()..end)
    }

    fn platform(&self) -> Option<&'static Platform> {
        PLATFORMS.iter().find(|(code, ..)| **code == self.platform_code)
    }

    /// The path it leads to; `None` where it leads to none that can be read.
    fn path(&self, store: &dyn Store, encoding: Encoding) -> Option<String> {
        if self.len() > MAX_DATA || self.at() > i64::MAX as u64 {
            return None;
        }
        let mut data = vec![0; to_usize(self.len())];
        store.fetch(&mut data, self.at(), "VHD parent locator").ok()?;
        let text = match encoding {
            Encoding::Utf16Le => {
                let units = data.chunks_exact(2).filter_map(|pair| pair.first_chunk::<2>());
                text_of(units.map(|pair| u16::from_le_bytes(*pair)))
            }
            Encoding::Utf8 | Encoding::Ansi => {
                let data = data.split(|byte| *byte == 0).next().unwrap_or_default();
                match (std::str::from_utf8(data), encoding) {
                    (Ok(text), _) => text.to_owned(),
                    (Err(_), Encoding::Ansi) => data.iter().copied().map(char::from).collect(),
                    (Err(_), _) => return None,
                }
            }
        };
        (!text.is_empty()).then_some(text)
    }
}

/// The text of UTF-16 units up to the first NUL.
pub(crate) fn text_of(units: impl Iterator<Item = u16>) -> String {
    char::decode_utf16(units.take_while(|unit| *unit != 0))
        .map(|decoded| decoded.unwrap_or(char::REPLACEMENT_CHARACTER))
        .collect()
}

/// The places where the parent may be, best first: what the locators say, then the header's own
/// *Parent Unicode Name*. Locators that lead nowhere are left out; a check reports them.
pub(crate) fn hints(store: &dyn Store, locators: &[RawLocator], name: &[u16]) -> Vec<ParentHint> {
    let mut hints = Vec::new();
    for (code, kind, style, encoding) in PLATFORMS {
        for locator in locators.iter().filter(|locator| locator.platform_code == *code) {
            if let Some(path) = locator.path(store, encoding) {
                hints.push(ParentHint { kind, style, path });
            }
        }
    }
    let path = text_of(name.iter().copied());
    if !path.is_empty() {
        let absolute = path.contains(':') || path.starts_with('\\');
        let style = if absolute { PathStyle::WindowsAbsolute } else { PathStyle::WindowsRelative };
        hints.push(ParentHint { kind: "parent_unicode_name", style, path });
    }
    hints
}

/// The parent's path as Windows would write it, relative to the child and absolute.
///
/// A host path has no drive: `/a/b/c` becomes `\a\b\c`, which Windows takes as a path on the
/// current drive.
///
/// # Errors
/// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for names that hold a backslash or are not
/// Unicode.
pub(crate) fn windows_paths(parent: &ParentLink) -> Result<(String, String)> {
    let unsuited = |what: &str| {
        Error::unsupported(format!("{what}, which a path in a VHD cannot say"))
            .in_file(&parent.absolute)
            .hint("rename the parent or its folder")
    };
    let absolute = parent.absolute.to_str().ok_or_else(|| unsuited("its path is not Unicode"))?;
    if absolute.contains('\\') || parent.relative.contains('\\') {
        return Err(unsuited("its path holds a backslash"));
    }
    let up = parent.relative == ".." || parent.relative.starts_with("../");
    let start = if up { "" } else { ".\\" };
    Ok((format!("{start}{}", parent.relative.replace('/', "\\")), absolute.replace('/', "\\")))
}

/// The data of a `W2ru` or `W2ku` locator.
pub(crate) fn encode(path: &str) -> Vec<u8> {
    path.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

#[cfg(test)]
mod tests {
    use vdisk_core::MemStore;

    use super::*;

    #[test]
    fn reads_every_platform_and_survives_nonsense() {
        let store = MemStore::new("t");
        store.put(&encode(".\\ä.vhd"), 512, "path").unwrap();
        store.put(b"file:///a%20b.vhd\0\0", 1024, "path").unwrap();
        store.put(b"C:\\\xE4.vhd", 1536, "path").unwrap();
        let locators = [
            RawLocator::new(*b"Wi2k", 1536, 8),
            RawLocator::new(*b"MacX", 1024, 19),
            RawLocator::new(*b"W2ru", 512, 14),
            RawLocator::new(*b"W2ku", u64::MAX, 14),
            RawLocator::new(*b"W2ku", 512, 1 << 20),
            RawLocator::new(*b"Mac ", 512, 8),
        ];
        let name: Vec<u16> = "p.vhd\0x".encode_utf16().chain([0xD800]).collect();
        let hints = hints(&store, &locators, &name);
        let found: Vec<_> = hints.iter().map(|hint| (hint.kind, hint.path.as_str())).collect();
        let expected = [
            ("W2ru", ".\\ä.vhd"),
            ("MacX", "file:///a%20b.vhd"),
            ("Wi2k", "C:\\ä.vhd"),
            ("parent_unicode_name", "p.vhd"),
        ];
        assert_eq!(found, expected);
        assert_eq!(text_of([0xD800, 65].into_iter()), "\u{FFFD}A");
    }
}
