//! The parent locator (\[MS-VHDX\] 2.2.6.2.6): where a child says its parent is.

use std::collections::BTreeMap;

use uuid::{Uuid, uuid};
use vdisk_core::{Error, Format, ParentHint, ParentLink, ParentRef, PathStyle};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

/// The only type of locator there is.
const VHDX_LOCATOR: Uuid = uuid!("b04aefb7-d19e-4a81-b789-25b8e9445913");
/// Most pairs that are believed; files of Hyper-V have five.
const MAX_PAIRS: usize = 256;
/// Most UTF-16 units of a path, so that its length in bytes fits 16 bits.
const MAX_PATH_UNITS: usize = 32767;
/// The paths, in the order to try them.
const PATHS: [(&str, PathStyle); 3] = [
    ("relative_path", PathStyle::WindowsRelative),
    ("volume_path", PathStyle::WindowsAbsolute),
    ("absolute_win32_path", PathStyle::WindowsAbsolute),
];

/// The start of the item.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct LocatorHead {
    locator_type: [u8; 16],
    reserved: U16,
    key_value_count: U16,
}
const _: () = assert!(size_of::<LocatorHead>() == 20);

/// One pair: offsets are bytes from the start of the item, lengths are bytes.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct Pair {
    key_offset: U32,
    value_offset: U32,
    key_length: U16,
    value_length: U16,
}
const _: () = assert!(size_of::<Pair>() == 12);

/// A parent locator: keys and values.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Locator {
    pairs: BTreeMap<String, String>,
}

impl Locator {
    /// A new locator: the parent's data write GUID, and its paths as `(key, path)`.
    pub(crate) fn new<'a>(
        linkage: Uuid,
        paths: impl IntoIterator<Item = (&'a str, String)>,
    ) -> Self {
        let linkage = ("parent_linkage".to_owned(), format!("{{{linkage}}}"));
        let paths = paths.into_iter().map(|(key, path)| (key.to_owned(), path));
        Self { pairs: std::iter::once(linkage).chain(paths).collect() }
    }

    /// A locator that leads to that parent.
    ///
    /// # Errors
    /// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where it is no VHDX,
    /// [`Usage`](vdisk_core::ErrorKind::Usage) where its path is too long.
    pub(crate) fn of(parent: &ParentLink) -> vdisk_core::Result<Self> {
        if parent.info.format != Format::Vhdx {
            return Err(Error::unsupported(format!(
                "the parent of a VHDX image must be VHDX, not {}",
                parent.info.format
            ))
            .hint("convert the parent, or make the child in the parent's format"));
        }
        let linkage = parent.info.identity.as_deref().and_then(|text| Uuid::try_parse(text).ok());
        let linkage =
            linkage.ok_or_else(|| Error::internal("the parent has no data write GUID"))?;
        let relative = parent.relative.replace('/', r"\");
        let relative =
            if relative.starts_with(r"..\") { relative } else { format!(r".\{relative}") };
        let absolute = parent.absolute.to_string_lossy().replace('/', r"\");
        for path in [&relative, &absolute] {
            if path.encode_utf16().count() > MAX_PATH_UNITS {
                return Err(Error::usage("the parent's path is too long to be recorded"));
            }
        }
        Ok(Self::new(linkage, [("relative_path", relative), ("absolute_win32_path", absolute)]))
    }

    /// Parses the item.
    pub(crate) fn parse(item: &[u8]) -> Result<Self, String> {
        let (head, rest) =
            LocatorHead::ref_from_prefix(item).map_err(|_| "it is too short".to_owned())?;
        let found = Uuid::from_bytes_le(head.locator_type);
        if found != VHDX_LOCATOR {
            return Err(format!("locator type {found}, expected {VHDX_LOCATOR}"));
        }
        let count = usize::from(head.key_value_count.get());
        if count > MAX_PAIRS {
            return Err(format!("{count} pairs, expected at most {MAX_PAIRS}"));
        }
        let (raw, _) = <[Pair]>::ref_from_prefix_with_elems(rest, count)
            .map_err(|_| format!("{count} pairs do not fit in it"))?;
        let mut pairs = BTreeMap::new();
        for pair in raw {
            let key = text(item, pair.key_offset.get(), pair.key_length.get())?;
            let value = text(item, pair.value_offset.get(), pair.value_length.get())?;
            if let Some(twice) = pairs.insert(key, value) {
                return Err(format!("a key appears twice, once with {twice:?}"));
            }
        }
        Ok(Self { pairs })
    }

    /// What it says of the parent.
    pub(crate) fn parent(&self) -> Result<ParentRef, String> {
        let linkage = self.guid("parent_linkage")?.ok_or("it has no parent_linkage")?;
        // Windows 10 adds a second linkage that is mostly nil, and then says nothing.
        let second = self.guid("parent_linkage2")?.filter(|guid| !guid.is_nil());
        let hints = PATHS.into_iter().filter_map(|(kind, style)| {
            self.pairs.get(kind).map(|path| ParentHint { kind, style, path: path.clone() })
        });
        Ok(ParentRef {
            identities: [Some(linkage), second]
                .into_iter()
                .flatten()
                .map(|g| g.to_string())
                .collect(),
            modified: None,
            hints: hints.collect(),
        })
    }

    /// The bytes of the item.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let head = LocatorHead {
            locator_type: VHDX_LOCATOR.to_bytes_le(),
            reserved: U16::ZERO,
            key_value_count: u16::try_from(self.pairs.len()).unwrap_or_default().into(),
        };
        let texts_at = size_of::<LocatorHead>() + self.pairs.len() * size_of::<Pair>();
        let mut item = head.as_bytes().to_vec();
        let mut texts = Vec::new();
        for (key, value) in &self.pairs {
            let mut add = |text: &str| {
                let at = texts_at + texts.len();
                let bytes: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
                texts.extend_from_slice(&bytes);
                let length = u16::try_from(bytes.len()).unwrap_or(u16::MAX);
                (u32::try_from(at).unwrap_or(u32::MAX), length)
            };
            let (key, value) = (add(key), add(value));
            let pair = Pair {
                key_offset: key.0.into(),
                value_offset: value.0.into(),
                key_length: key.1.into(),
                value_length: value.1.into(),
            };
            item.extend_from_slice(pair.as_bytes());
        }
        item.extend_from_slice(&texts);
        item
    }

    /// The value of a key as a GUID, with or without braces.
    fn guid(&self, key: &str) -> Result<Option<Uuid>, String> {
        let Some(value) = self.pairs.get(key) else { return Ok(None) };
        Uuid::try_parse(value.trim_matches(['{', '}']))
            .map(Some)
            .map_err(|_| format!("{key} is {value:?}, expected a GUID"))
    }
}

fn text(item: &[u8], offset: u32, length: u16) -> Result<String, String> {
    let bytes = usize::try_from(offset)
        .ok()
        .and_then(|offset| item.get(offset..)?.get(..usize::from(length)))
        .ok_or_else(|| format!("a text of {length} bytes at {offset} lies outside of it"))?;
    let (units, odd) = bytes.as_chunks::<2>();
    if units.is_empty() || !odd.is_empty() {
        return Err(format!("a text of {length} bytes, expected UTF-16"));
    }
    let units: Vec<u16> = units.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    if units.contains(&0) {
        return Err(format!("the text at {offset} holds a NUL"));
    }
    String::from_utf16(&units).map_err(|_| format!("the text at {offset} is not UTF-16"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PARENT: Uuid = uuid!("f88d4d92-6fcc-408d-9bef-9b7c89f15c89");

    #[test]
    fn says_what_it_was_told() {
        let paths =
            [("absolute_win32_path", r"\a\b.vhdx".into()), ("relative_path", r".\b.vhdx".into())];
        let item = Locator::new(PARENT, paths).encode();
        let parent = Locator::parse(&item).unwrap().parent().unwrap();
        assert_eq!(parent.identities, [PARENT.to_string()]);
        let kinds: Vec<_> = parent.hints.iter().map(|hint| (hint.kind, &*hint.path)).collect();
        assert_eq!(kinds, [("relative_path", r".\b.vhdx"), ("absolute_win32_path", r"\a\b.vhdx")]);
    }

    #[test]
    fn a_nil_second_linkage_says_nothing() {
        let nil = ("parent_linkage2", format!("{{{}}}", Uuid::nil()));
        let parent = Locator::new(PARENT, [nil]).parent().unwrap();
        assert_eq!(parent.identities.len(), 1);
        let upper = ("parent_linkage2", "F88D4D92-6FCC-408D-9BEF-9B7C89F15C8A".to_owned());
        let parent = Locator::new(PARENT, [upper]).parent().unwrap();
        assert_eq!(parent.identities[1], "f88d4d92-6fcc-408d-9bef-9b7c89f15c8a");
    }

    #[test]
    fn damage_is_refused() {
        let good = Locator::new(PARENT, [("relative_path", "x".into())]).encode();
        for len in 0..good.len() {
            assert!(Locator::parse(&good[..len]).is_err(), "cut at {len}");
        }
        let with = |at: usize, value: u8| {
            let mut item = good.clone();
            item[at] = value;
            Locator::parse(&item).and_then(|locator| locator.parent())
        };
        assert!(with(0, 9).is_err(), "type");
        assert!(with(19, 2).is_err(), "count");
        assert!(with(28, 3).is_err(), "odd length");
        assert!(with(23, 1).is_err(), "offset");
        assert!(with(45, 0xD8).is_err(), "lone surrogate");
        assert!(with(44, 0).is_err(), "NUL");
    }
}
