//! Lists of sub-keys (`li`, `lf`, `lh`, and `ri` above them) and of values.

use vdisk_core::{Error, Result};

use crate::bytes::{array, index, u32_at};
use crate::image::{Cell, Image, Offset};
use crate::name::Name;

const STRUCTURE: &str = "registry sub-key list";

/// What a leaf keeps beside each sub-key, to find it sooner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LeafKind {
    /// `li`: nothing.
    Plain,
    /// `lf`: the first four characters.
    Hint,
    /// `lh`: a hash of the upper-case name.
    Hash,
}

impl LeafKind {
    fn parse(signature: &[u8]) -> Option<Self> {
        match signature {
            b"li" => Some(Self::Plain),
            b"lf" => Some(Self::Hint),
            b"lh" => Some(Self::Hash),
            _ => None,
        }
    }

    pub(crate) fn signature(self) -> &'static [u8; 2] {
        match self {
            Self::Plain => b"li",
            Self::Hint => b"lf",
            Self::Hash => b"lh",
        }
    }

    /// Bytes of an entry.
    pub(crate) fn entry_len(self) -> usize {
        match self {
            Self::Plain => 4,
            Self::Hint | Self::Hash => 8,
        }
    }

    /// What stands beside a key of this name.
    pub(crate) fn key_of(self, name: &Name) -> [u8; 4] {
        match self {
            Self::Plain => [0; 4],
            Self::Hint => name.hint(),
            Self::Hash => name.hash().to_le_bytes(),
        }
    }
}

/// A sub-key in a leaf.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) key: Offset,
    /// See [`LeafKind::key_of`].
    pub(crate) found_by: [u8; 4],
}

/// One list cell of sub-keys.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Leaf {
    pub(crate) at: Offset,
    pub(crate) kind: LeafKind,
    pub(crate) entries: Vec<Entry>,
}

impl Leaf {
    fn parse(cell: &Cell<'_>) -> Result<Self> {
        let kind = LeafKind::parse(cell.slice(STRUCTURE, 0, 2)?)
            .ok_or_else(|| cell.corrupt(STRUCTURE, "the signature is none of li, lf, lh, ri"))?;
        let count = usize::from(cell.u16(STRUCTURE, 2)?);
        let body = cell.slice(STRUCTURE, 4, count * kind.entry_len())?;
        let entries = body.chunks_exact(kind.entry_len()).map(|entry| Entry {
            key: Offset(u32_at(entry, 0).unwrap_or_default()),
            found_by: array(entry, 4).unwrap_or_default(),
        });
        Ok(Self { at: cell.at, kind, entries: entries.collect() })
    }
}

/// All sub-keys of a key: one leaf, or several below an `ri`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct SubkeyList {
    /// The `ri` cell.
    pub(crate) root: Option<Offset>,
    pub(crate) leaves: Vec<Leaf>,
}

impl SubkeyList {
    /// Reads the list at `at`, which must hold `count` keys, no key twice.
    pub(crate) fn read(image: &Image, at: Option<Offset>, count: u32) -> Result<Self> {
        let (Some(at), 1..) = (at, count) else {
            return match count {
                0 => Ok(Self::default()),
                _ => {
                    let message = format!("{count} sub-keys are counted, and there is no list");
                    Err(Error::new(vdisk_core::ErrorKind::Corrupt, message))
                }
            };
        };
        let cell = image.cell(STRUCTURE, at)?;
        let list = if cell.bytes.starts_with(b"ri") {
            let count = usize::from(cell.u16(STRUCTURE, 2)?);
            let leaves = cell.slice(STRUCTURE, 4, count * 4)?.as_chunks().0;
            let leaves: Vec<_> = leaves.iter().map(|at| Offset(u32::from_le_bytes(*at))).collect();
            distinct(&cell, leaves.iter().copied())?;
            let read = |at: &Offset| Leaf::parse(&image.cell(STRUCTURE, *at)?);
            Self { root: Some(at), leaves: leaves.iter().map(read).collect::<Result<_>>()? }
        } else {
            Self { root: None, leaves: vec![Leaf::parse(&cell)?] }
        };
        let found = list.len();
        if found != index(count) {
            let message = format!("holds {found} sub-keys, and the key counts {count}");
            return Err(cell.corrupt(STRUCTURE, message));
        }
        distinct(&cell, list.keys())?;
        Ok(list)
    }

    /// The sub-keys, in order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = Offset> {
        self.leaves.iter().flat_map(|leaf| leaf.entries.iter().map(|entry| entry.key))
    }

    pub(crate) fn len(&self) -> usize {
        self.leaves.iter().map(|leaf| leaf.entries.len()).sum()
    }
}

fn distinct(cell: &Cell<'_>, offsets: impl Iterator<Item = Offset>) -> Result<()> {
    let mut sorted: Vec<Offset> = offsets.collect();
    sorted.sort_unstable();
    let twice = sorted.iter().zip(sorted.iter().skip(1)).find(|(before, after)| before == after);
    twice.map_or(Ok(()), |(offset, _)| {
        let message = format!("names the cell at byte {} twice", offset.in_file());
        Err(cell.corrupt(STRUCTURE, message))
    })
}

/// The values of a key: the cells in its value list.
pub(crate) fn value_list(image: &Image, at: Option<Offset>, count: u32) -> Result<Vec<Offset>> {
    const STRUCTURE: &str = "registry value list";
    let Some(at) = at.filter(|_| count > 0) else {
        return if count == 0 {
            Ok(Vec::new())
        } else {
            let message = format!("{count} values are counted, and there is no list");
            Err(Error::new(vdisk_core::ErrorKind::Corrupt, message))
        };
    };
    let cell = image.cell(STRUCTURE, at)?;
    let body = cell.slice(STRUCTURE, 0, index(count).saturating_mul(4))?;
    let list: Vec<_> =
        body.as_chunks().0.iter().map(|at| Offset(u32::from_le_bytes(*at))).collect();
    distinct(&cell, list.iter().copied())?;
    Ok(list)
}
