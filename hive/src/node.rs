//! The cells of keys (`nk`), values (`vk`) and security descriptors (`sk`), as they stand.

use vdisk_core::Result;

use crate::image::{Image, Offset};
use crate::name::Name;
use crate::time::FileTime;

/// Places of fields in a key's cell.
pub(crate) mod nk {
    pub(crate) const FLAGS: usize = 2;
    pub(crate) const TIME: usize = 4;
    pub(crate) const PARENT: usize = 16;
    pub(crate) const SUBKEYS: usize = 20;
    pub(crate) const LIST: usize = 28;
    pub(crate) const VOLATILE_LIST: usize = 32;
    pub(crate) const VALUES: usize = 36;
    pub(crate) const VALUE_LIST: usize = 40;
    pub(crate) const SECURITY: usize = 44;
    pub(crate) const CLASS: usize = 48;
    pub(crate) const LONGEST_NAME: usize = 52;
    pub(crate) const LONGEST_CLASS: usize = 56;
    pub(crate) const LONGEST_VALUE_NAME: usize = 60;
    pub(crate) const LONGEST_VALUE_DATA: usize = 64;
    pub(crate) const NAME_LEN: usize = 72;
    pub(crate) const CLASS_LEN: usize = 74;
    pub(crate) const NAME: usize = 76;

    pub(crate) const COMPRESSED: u16 = 0x20;
}

/// Places of fields in a value's cell.
pub(crate) mod vk {
    pub(crate) const NAME_LEN: usize = 2;
    pub(crate) const DATA_LEN: usize = 4;
    pub(crate) const DATA: usize = 8;
    pub(crate) const KIND: usize = 12;
    pub(crate) const FLAGS: usize = 16;
    pub(crate) const NAME: usize = 20;

    pub(crate) const COMPRESSED: u16 = 1;
    /// Set in the length of data that stands in the data field itself.
    pub(crate) const INLINE: u32 = 0x8000_0000;
}

/// Places of fields in a security cell.
pub(crate) mod sk {
    pub(crate) const NEXT: usize = 4;
    pub(crate) const PREVIOUS: usize = 8;
    pub(crate) const REFERENCES: usize = 12;
    pub(crate) const LEN: usize = 16;
    pub(crate) const DESCRIPTOR: usize = 20;
}

/// A key's cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node<'h> {
    pub(crate) at: Offset,
    pub(crate) flags: u16,
    pub(crate) written: FileTime,
    pub(crate) parent: u32,
    pub(crate) subkeys: u32,
    pub(crate) list: Option<Offset>,
    pub(crate) values: u32,
    pub(crate) value_list: Option<Offset>,
    pub(crate) security: Option<Offset>,
    pub(crate) class: Option<Offset>,
    pub(crate) class_len: u16,
    pub(crate) raw_name: &'h [u8],
}

impl<'h> Node<'h> {
    pub(crate) const STRUCTURE: &'static str = "registry key";

    pub(crate) fn parse(image: &'h Image, at: Offset) -> Result<Self> {
        let cell = image.cell(Self::STRUCTURE, at)?;
        if !cell.bytes.starts_with(b"nk") {
            return Err(cell.corrupt(Self::STRUCTURE, "the signature is not \"nk\""));
        }
        let word = |at| cell.u32(Self::STRUCTURE, at);
        let half = |at| cell.u16(Self::STRUCTURE, at);
        let name_len = usize::from(half(nk::NAME_LEN)?);
        Ok(Self {
            at,
            flags: half(nk::FLAGS)?,
            written: FileTime(cell.u64(Self::STRUCTURE, nk::TIME)?),
            parent: word(nk::PARENT)?,
            subkeys: word(nk::SUBKEYS)?,
            list: Offset::parse(word(nk::LIST)?),
            values: word(nk::VALUES)?,
            value_list: Offset::parse(word(nk::VALUE_LIST)?),
            security: Offset::parse(word(nk::SECURITY)?),
            class: Offset::parse(word(nk::CLASS)?),
            class_len: half(nk::CLASS_LEN)?,
            raw_name: cell.slice(Self::STRUCTURE, nk::NAME, name_len)?,
        })
    }

    pub(crate) fn compressed(&self) -> bool {
        self.flags & nk::COMPRESSED != 0
    }

    pub(crate) fn name(&self) -> Name {
        Name::from_raw(self.raw_name, self.compressed())
    }

    /// The class name's bytes, none where there is no class.
    pub(crate) fn class_bytes(&self, image: &'h Image) -> Result<&'h [u8]> {
        match self.class {
            Some(at) if self.class_len > 0 => {
                let cell = image.cell("registry class name", at)?;
                cell.slice("registry class name", 0, usize::from(self.class_len))
            }
            _ => Ok(&[]),
        }
    }
}

/// A security cell: a descriptor shared by keys, in a ring of all of them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shared<'h> {
    pub(crate) at: Offset,
    pub(crate) next: Offset,
    pub(crate) previous: Offset,
    pub(crate) references: u32,
    pub(crate) descriptor: &'h [u8],
}

impl<'h> Shared<'h> {
    pub(crate) const STRUCTURE: &'static str = "registry security";

    pub(crate) fn parse(image: &'h Image, at: Offset) -> Result<Self> {
        let cell = image.cell(Self::STRUCTURE, at)?;
        if !cell.bytes.starts_with(b"sk") {
            return Err(cell.corrupt(Self::STRUCTURE, "the signature is not \"sk\""));
        }
        let word = |at| cell.u32(Self::STRUCTURE, at);
        let len = crate::bytes::index(word(sk::LEN)?);
        Ok(Self {
            at,
            next: Offset(word(sk::NEXT)?),
            previous: Offset(word(sk::PREVIOUS)?),
            references: word(sk::REFERENCES)?,
            descriptor: cell.slice(Self::STRUCTURE, sk::DESCRIPTOR, len)?,
        })
    }

    /// All of them, each once, from the one at `first`.
    pub(crate) fn ring(image: &'h Image, first: Offset) -> Result<Vec<Self>> {
        let mut found = vec![Self::parse(image, first)?];
        let mut seen = crate::image::Marks::new();
        seen.set(first);
        while let Some(last) = found.last().copied() {
            if last.next == first {
                break;
            }
            let next = Self::parse(image, last.next)?;
            if !seen.set(next.at) {
                let cell = image.cell(Self::STRUCTURE, last.at)?;
                return Err(cell.corrupt(Self::STRUCTURE, "the list of descriptors is no ring"));
            }
            found.push(next);
        }
        Ok(found)
    }
}
