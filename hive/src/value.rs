//! Values of keys.

use std::borrow::Cow;
use std::fmt;

use vdisk_core::Result;

use crate::bytes::{index, u32_at, utf16_units};
use crate::image::{Image, Offset};
use crate::list::value_list;
use crate::name::Name;
use crate::node::{Node, vk};

/// The type of a value. Any number stands for itself: the SAM keeps account numbers here, and
/// device properties numbers such as `0xffff0013`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ValueKind(pub u32);

impl ValueKind {
    /// `REG_NONE`.
    pub const NONE: Self = Self(0);
    /// `REG_SZ`: text.
    pub const SZ: Self = Self(1);
    /// `REG_EXPAND_SZ`: text with `%variables%`.
    pub const EXPAND_SZ: Self = Self(2);
    /// `REG_BINARY`.
    pub const BINARY: Self = Self(3);
    /// `REG_DWORD`: 32 bits, little-endian.
    pub const DWORD: Self = Self(4);
    /// `REG_DWORD_BIG_ENDIAN`.
    pub const DWORD_BIG_ENDIAN: Self = Self(5);
    /// `REG_LINK`: the path a symbolic link leads to.
    pub const LINK: Self = Self(6);
    /// `REG_MULTI_SZ`: several texts.
    pub const MULTI_SZ: Self = Self(7);
    /// `REG_RESOURCE_LIST`.
    pub const RESOURCE_LIST: Self = Self(8);
    /// `REG_QWORD`: 64 bits, little-endian.
    pub const QWORD: Self = Self(11);
}

impl fmt::Display for ValueKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = match self.0 {
            0 => "REG_NONE",
            1 => "REG_SZ",
            2 => "REG_EXPAND_SZ",
            3 => "REG_BINARY",
            4 => "REG_DWORD",
            5 => "REG_DWORD_BIG_ENDIAN",
            6 => "REG_LINK",
            7 => "REG_MULTI_SZ",
            8 => "REG_RESOURCE_LIST",
            9 => "REG_FULL_RESOURCE_DESCRIPTOR",
            10 => "REG_RESOURCE_REQUIREMENTS_LIST",
            11 => "REG_QWORD",
            other => return write!(f, "{other:#x}"),
        };
        f.write_str(name)
    }
}

/// A value of a key.
#[derive(Clone, Copy, Debug)]
pub struct Value<'h> {
    image: &'h Image,
    pub(crate) at: Offset,
    raw_name: &'h [u8],
    compressed: bool,
    kind: ValueKind,
    /// As it stands: with [`vk::INLINE`] where the data is in `data` itself.
    len: u32,
    data: Offset,
    small: &'h [u8],
}

impl<'h> Value<'h> {
    pub(crate) const STRUCTURE: &'static str = "registry value";

    pub(crate) fn load(image: &'h Image, at: Offset) -> Result<Self> {
        let cell = image.cell(Self::STRUCTURE, at)?;
        if !cell.bytes.starts_with(b"vk") {
            return Err(cell.corrupt(Self::STRUCTURE, "the signature is not \"vk\""));
        }
        let name_len = usize::from(cell.u16(Self::STRUCTURE, vk::NAME_LEN)?);
        let len = cell.u32(Self::STRUCTURE, vk::DATA_LEN)?;
        let mut small: &[u8] = &[];
        if len & vk::INLINE != 0 {
            let len = index(len & !vk::INLINE);
            if len > 4 {
                let message = format!("{len} bytes of data cannot stand in a field of four");
                return Err(cell.corrupt(Self::STRUCTURE, message));
            }
            small = cell.slice(Self::STRUCTURE, vk::DATA, len)?;
        }
        // NT 3.1 had no flags; the byte is there all the same.
        let flags = cell.u16(Self::STRUCTURE, vk::FLAGS)?;
        Ok(Self {
            image,
            at,
            raw_name: cell.slice(Self::STRUCTURE, vk::NAME, name_len)?,
            compressed: flags & vk::COMPRESSED != 0,
            kind: ValueKind(cell.u32(Self::STRUCTURE, vk::KIND)?),
            len,
            data: Offset(cell.u32(Self::STRUCTURE, vk::DATA)?),
            small,
        })
    }

    /// Its name; empty for the key's default value.
    #[must_use]
    pub fn name(&self) -> Name {
        Name::from_raw(self.raw_name, self.compressed)
    }

    /// The bytes of its name and whether they are Latin-1 (else UTF-16, little-endian).
    #[must_use]
    pub fn raw_name(&self) -> (&'h [u8], bool) {
        (self.raw_name, self.compressed)
    }

    /// Its type.
    #[must_use]
    pub fn kind(&self) -> ValueKind {
        self.kind
    }

    /// Bytes of data.
    #[must_use]
    pub fn len(&self) -> u32 {
        self.len & !vk::INLINE
    }

    /// Whether it has no data.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its data.
    ///
    /// # Errors
    /// `Corrupt` where the data does not stand where the value says.
    pub fn data(&self) -> Result<Cow<'h, [u8]>> {
        match self.place() {
            Place::Inline => Ok(Cow::Borrowed(self.small)),
            Place::Cell(at) => {
                const STRUCTURE: &str = "registry value data";
                let cell = self.image.cell(STRUCTURE, at)?;
                if self.len() > BIG && cell.bytes.starts_with(b"db") && self.may_be_big(&cell) {
                    return BigData::read(self.image, at, self.len())?.join().map(Cow::Owned);
                }
                cell.slice(STRUCTURE, 0, index(self.len())).map(Cow::Borrowed)
            }
        }
    }

    /// A cell that holds all of the data is no list of segments, however it begins.
    fn may_be_big(&self, cell: &crate::image::Cell<'_>) -> bool {
        cell.bytes.len() < index(self.len())
    }

    /// The cells that hold its data.
    pub(crate) fn data_cells(&self) -> Result<Vec<Offset>> {
        let Place::Cell(at) = self.place() else { return Ok(Vec::new()) };
        let cell = self.image.cell("registry value data", at)?;
        if self.len() > BIG && cell.bytes.starts_with(b"db") && self.may_be_big(&cell) {
            let big = BigData::read(self.image, at, self.len())?;
            return Ok([vec![at, big.list], big.segments].concat());
        }
        Ok(vec![at])
    }

    fn place(&self) -> Place {
        if self.len & vk::INLINE != 0 || self.len == 0 {
            Place::Inline
        } else {
            Place::Cell(self.data)
        }
    }

    /// A number of 32 bits: a `REG_DWORD` of either byte order with four bytes of data.
    ///
    /// # Errors
    /// As [`Value::data`].
    pub fn as_u32(&self) -> Result<Option<u32>> {
        let data = self.data()?;
        let Ok(bytes) = <[u8; 4]>::try_from(&*data) else { return Ok(None) };
        Ok(match self.kind {
            ValueKind::DWORD => Some(u32::from_le_bytes(bytes)),
            ValueKind::DWORD_BIG_ENDIAN => Some(u32::from_be_bytes(bytes)),
            _ => None,
        })
    }

    /// A number: a `REG_QWORD` with eight bytes of data, or what [`Value::as_u32`] takes.
    ///
    /// # Errors
    /// As [`Value::data`].
    pub fn as_u64(&self) -> Result<Option<u64>> {
        if self.kind != ValueKind::QWORD {
            return Ok(self.as_u32()?.map(u64::from));
        }
        let data = self.data()?;
        Ok(<[u8; 8]>::try_from(&*data).ok().map(u64::from_le_bytes))
    }

    /// The text of a `REG_SZ`, `REG_EXPAND_SZ` or `REG_LINK`: up to the first NUL or the end, for
    /// many have none; an odd last byte is left out, and a lone surrogate becomes U+FFFD.
    ///
    /// # Errors
    /// As [`Value::data`].
    pub fn as_string(&self) -> Result<Option<String>> {
        if ![ValueKind::SZ, ValueKind::EXPAND_SZ, ValueKind::LINK].contains(&self.kind) {
            return Ok(None);
        }
        let units = utf16_units(&self.data()?);
        let text = units.split(|unit| *unit == 0).next().unwrap_or_default();
        Ok(Some(String::from_utf16_lossy(text)))
    }

    /// The texts of a `REG_MULTI_SZ`, up to the first empty one or the end.
    ///
    /// # Errors
    /// As [`Value::data`].
    pub fn as_multi_string(&self) -> Result<Option<Vec<String>>> {
        if self.kind != ValueKind::MULTI_SZ {
            return Ok(None);
        }
        let units = utf16_units(&self.data()?);
        let texts = units.split(|unit| *unit == 0).take_while(|text| !text.is_empty());
        Ok(Some(texts.map(String::from_utf16_lossy).collect()))
    }
}

enum Place {
    Inline,
    Cell(Offset),
}

/// Data of more bytes than this stands in segments, from minor version 4 on.
pub(crate) const BIG: u32 = 16_344;

/// Data in segments (`db`), each of [`BIG`] bytes but the last.
pub(crate) struct BigData<'h> {
    image: &'h Image,
    len: usize,
    pub(crate) list: Offset,
    pub(crate) segments: Vec<Offset>,
}

impl<'h> BigData<'h> {
    const STRUCTURE: &'static str = "registry big data";

    fn read(image: &'h Image, at: Offset, len: u32) -> Result<Self> {
        let cell = image.cell(Self::STRUCTURE, at)?;
        let count = cell.u16(Self::STRUCTURE, 2)?;
        let list = Offset(cell.u32(Self::STRUCTURE, 4)?);
        if u32::from(count) != len.div_ceil(BIG) {
            let message = format!("{count} segments do not make {len} bytes");
            return Err(cell.corrupt(Self::STRUCTURE, message));
        }
        let segments = value_list(image, Some(list), u32::from(count))?;
        Ok(Self { image, len: index(len), list, segments })
    }

    /// Segments are distinct, so the whole is no larger than the hive.
    fn join(&self) -> Result<Vec<u8>> {
        let mut data = Vec::new();
        for segment in &self.segments {
            let cell = self.image.cell(Self::STRUCTURE, *segment)?;
            let len = (self.len - data.len()).min(index(BIG));
            data.extend_from_slice(cell.slice(Self::STRUCTURE, 0, len)?);
        }
        Ok(data)
    }
}

/// The values of a key, in the order of its list.
#[derive(Clone, Debug)]
pub struct Values<'h> {
    image: &'h Image,
    list: std::vec::IntoIter<Offset>,
}

impl<'h> Values<'h> {
    pub(crate) fn of(image: &'h Image, node: &Node<'_>) -> Result<Self> {
        let list = value_list(image, node.value_list, node.values)
            .map_err(|error| error.at(Node::STRUCTURE, node.at.in_file()))?;
        Ok(Self { image, list: list.into_iter() })
    }
}

impl<'h> Iterator for Values<'h> {
    type Item = Result<Value<'h>>;

    fn next(&mut self) -> Option<Self::Item> {
        self.list.next().map(|at| Value::load(self.image, at))
    }
}

/// The first four bytes of inline data as the data field holds them.
pub(crate) fn inline(data: &[u8]) -> u32 {
    let mut field = [0; 4];
    for (place, byte) in field.iter_mut().zip(data) {
        *place = *byte;
    }
    u32_at(&field, 0).unwrap_or_default()
}
