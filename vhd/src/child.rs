//! New differencing images.
//!
//! Layout: footer copy, dynamic header, block table, the data of the two locators, footer.

use uuid::Uuid;
use vdisk_core::{Error, Files, ParentLink, Result, StoreExt};

use crate::create::{
    DEFAULT_BLOCK_SIZE, HEADER_AT, MAX_SIZE, Plan, TABLE_AT, TableStream, new_footer, write_frame,
};
use crate::footer::DiskType;
use crate::header::Header;
use crate::parent::Parent;
use crate::shape::SECTOR;

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
    let size = options.parent.info.virtual_size;
    if size == 0 || size > MAX_SIZE || !size.is_multiple_of(SECTOR) {
        return Err(Error::unsupported(format!("a parent of {size} bytes"))
            .in_file(&options.parent.absolute)
            .hint(format!("a differencing VHD has at most {MAX_SIZE} bytes")));
    }
    let plan = Plan::new(size, options.block_size)?;
    let parent = Parent::new(options.parent)?;
    let mut end = plan.table_end();
    let places = parent.paths.each_ref().map(|path| {
        let at = end;
        end += path.room();
        at
    });
    let mut header = Header::new(HEADER_AT, TABLE_AT, plan.entries, plan.shape);
    header.set_parent(&parent.fields(places));
    let footer = new_footer(DiskType::Differencing, size, options.unique_id, options.timestamp);

    let name = files.main_name().to_owned();
    let store = files.create(&name)?;
    TableStream::new(store.clone(), TABLE_AT).finish(plan.entries)?;
    for (path, at) in parent.paths.iter().zip(places) {
        path.put(&*store, at)?;
    }
    store.resize(end)?;
    write_frame(&*store, &footer, &header, end)
}
