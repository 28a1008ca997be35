//! What a differencing image records of its parent.

use uuid::Uuid;
use vdisk_core::{Error, Format, ParentLink, Result, Store, StoreExt};

use crate::header::{NAME_UNITS, ParentFields};
use crate::locator::{self, MAX_DATA, RawLocator};
use crate::shape::{SECTOR, to_usize};
use crate::time;

/// The paths recorded: relative and absolute.
pub(crate) const PATHS: usize = 2;

/// The record of a parent, before it is known where its paths will stand.
#[derive(Clone, Debug)]
pub(crate) struct Parent {
    unique_id: Uuid,
    time_stamp: u32,
    /// *Parent Unicode Name*.
    name: Vec<u16>,
    pub(crate) paths: [LocatorData; PATHS],
}

/// The data of a locator.
#[derive(Clone, Debug)]
pub(crate) struct LocatorData {
    code: [u8; 4],
    data: Vec<u8>,
    len: u32,
}

impl LocatorData {
    fn new(code: [u8; 4], path: &str) -> Result<Self> {
        let data = locator::encode(path);
        let len = u32::try_from(data.len()).ok().filter(|len| u64::from(*len) <= MAX_DATA);
        let len = len.ok_or_else(|| Error::unsupported("the parent's path is too long"))?;
        Ok(Self { code, data, len })
    }

    /// Bytes it takes in the file: whole sectors.
    pub(crate) fn room(&self) -> u64 {
        u64::from(self.len).next_multiple_of(SECTOR)
    }

    /// Where one of `locators` has just this data in `store` already.
    pub(crate) fn place_in(&self, store: &dyn Store, locators: &[RawLocator]) -> Option<u64> {
        locators.iter().map(RawLocator::at).find(|at| {
            let mut found = vec![0; to_usize(self.len.into())];
            locators.contains(&self.at(*at))
                && store.fetch(&mut found, *at, "VHD parent locator").is_ok()
                && found == self.data
        })
    }

    /// Writes it, to the end of its last sector.
    pub(crate) fn put(&self, store: &dyn Store, at: u64) -> Result<()> {
        let mut sectors = self.data.clone();
        sectors.resize(to_usize(self.room()), 0);
        store.put(&sectors, at, "VHD parent locator")
    }

    fn at(&self, at: u64) -> RawLocator {
        RawLocator::new(self.code, at, self.len)
    }
}

impl Parent {
    /// The record of the parent that `link` leads to.
    ///
    /// # Errors
    /// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where it is no VHD, has no usable
    /// unique id, or a path that cannot be written.
    pub(crate) fn new(link: &ParentLink) -> Result<Self> {
        let unique_id = parent_id(link)?;
        let (relative, absolute) = locator::windows_paths(link)?;
        Ok(Self {
            unique_id,
            time_stamp: time::from_system(link.modified),
            name: unicode_name(&absolute),
            paths: [LocatorData::new(*b"W2ru", &relative)?, LocatorData::new(*b"W2ku", &absolute)?],
        })
    }

    /// The header's fields, with the paths' data at `places`.
    pub(crate) fn fields(&self, places: [u64; PATHS]) -> ParentFields {
        ParentFields {
            unique_id: self.unique_id,
            time_stamp: self.time_stamp,
            name: self.name.clone(),
            locators: self.paths.iter().zip(places).map(|(path, at)| path.at(at)).collect(),
        }
    }
}

fn parent_id(parent: &ParentLink) -> Result<Uuid> {
    let id = parent.info.identity.as_deref().and_then(|text| Uuid::parse_str(text).ok());
    match id {
        Some(id) if parent.info.format == Format::Vhd && !id.is_nil() => Ok(id),
        _ => Err(Error::unsupported(format!(
            "a differencing VHD on a parent in format {}, or without a unique id",
            parent.info.format
        ))
        .in_file(&parent.absolute)
        .hint("the parent of a VHD must be a VHD; convert it first")),
    }
}

/// The path, or its last part where it is too long; a NUL follows in any case.
fn unicode_name(absolute: &str) -> Vec<u16> {
    let whole: Vec<u16> = absolute.encode_utf16().collect();
    if whole.len() < NAME_UNITS {
        return whole;
    }
    let name = absolute.rsplit('\\').next().unwrap_or_default();
    name.encode_utf16().take(NAME_UNITS - 1).collect()
}
