//! New differencing images.
//!
//! Layout: footer copy, dynamic header, block table, the data of the two locators, footer.

use uuid::Uuid;
use vdisk_core::{Error, Files, Format, ParentLink, Result, StoreExt};

use crate::create::{
    DEFAULT_BLOCK_SIZE, HEADER_AT, MAX_SIZE, Plan, TABLE_AT, TableStream, new_footer, write_frame,
};
use crate::footer::DiskType;
use crate::header::{Header, NAME_UNITS, ParentFields};
use crate::locator::{self, MAX_DATA, RawLocator};
use crate::shape::SECTOR;
use crate::time;

/// What a new differencing image shall be. Its size is the parent's.
#[derive(Clone, Debug)]
pub struct ChildOptions<'a> {
    /// The parent: a VHD of any kind.
    pub parent: &'a ParentLink,
    /// Bytes of a block, as [`CreateOptions::block_size`](crate::CreateOptions::block_size); the
    /// parent's may be another.
    pub block_size: u32,
    /// The image's own unique id; a random one if not given.
    pub unique_id: Option<Uuid>,
    /// When the image was made, in seconds since 2000-01-01T00:00:00Z; now if not given.
    pub timestamp: Option<u32>,
}

impl<'a> ChildOptions<'a> {
    /// A child of `parent` with blocks of 2 MiB.
    #[must_use]
    pub fn new(parent: &'a ParentLink) -> Self {
        Self { parent, block_size: DEFAULT_BLOCK_SIZE, unique_id: None, timestamp: None }
    }
}

/// Makes a complete differencing image that holds nothing yet.
///
/// It names its parent three times: a `W2ru` locator (`.\name`, `..\folder\name`), a `W2ku`
/// locator and the header's *Parent Unicode Name* (the absolute path). A path of this host has no
/// drive letter and is written as Windows would write it on the current drive: `/a/b` as `\a\b`.
/// A path too long for the *Parent Unicode Name* is cut down to its file name there.
///
/// # Errors
/// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where the parent is no VHD, has no usable
/// unique id, is too large, or has a name that cannot be written;
/// [`Usage`](vdisk_core::ErrorKind::Usage) for a bad block size; those of `files`.
pub fn create_child(files: &mut dyn Files, options: &ChildOptions<'_>) -> Result<()> {
    let parent_id = parent_id(options.parent)?;
    let size = options.parent.info.virtual_size;
    if size == 0 || size > MAX_SIZE || !size.is_multiple_of(SECTOR) {
        return Err(Error::unsupported(format!("a parent of {size} bytes"))
            .in_file(&options.parent.absolute)
            .hint(format!("a differencing VHD has at most {MAX_SIZE} bytes")));
    }
    let plan = Plan::new(size, options.block_size)?;
    let (relative, absolute) = locator::windows_paths(options.parent)?;
    let mut end = plan.table_end();
    let mut paths = Vec::new();
    for (code, path) in [(*b"W2ru", &relative), (*b"W2ku", &absolute)] {
        let data = locator::encode(path);
        let len = u32::try_from(data.len()).ok().filter(|len| u64::from(*len) <= MAX_DATA);
        let len = len.ok_or_else(|| Error::unsupported("the parent's path is too long"))?;
        paths.push((RawLocator::new(code, end, len), data));
        end += u64::from(len).next_multiple_of(SECTOR);
    }

    let mut header = Header::new(HEADER_AT, TABLE_AT, plan.entries, plan.shape);
    header.set_parent(&ParentFields {
        unique_id: parent_id,
        time_stamp: time::from_system(options.parent.modified),
        name: unicode_name(&absolute),
        locators: paths.iter().map(|(locator, _)| *locator).collect(),
    });
    let footer = new_footer(DiskType::Differencing, size, options.unique_id, options.timestamp);

    let name = files.main_name().to_owned();
    let store = files.create(&name)?;
    TableStream::new(store.clone(), TABLE_AT).finish(plan.entries)?;
    for (locator, data) in &paths {
        store.put(data, locator.at(), "VHD parent locator")?;
    }
    store.resize(end)?;
    write_frame(&*store, &footer, &header, end)
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
