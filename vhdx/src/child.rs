//! Making a differencing image on a parent.

use uuid::Uuid;
use vdisk_core::{Error, Fact, Files, ParentLink, Result, StoreExt};

use crate::bat::{self, BITMAP_BYTES, ENTRY};
use crate::create::{CreateOptions, Ids, Layout, TablePage, default_creator};
use crate::locator::Locator;
use crate::metadata::NewMetadata;

/// Default block size of a child, as in Windows.
const BLOCK_SIZE: u64 = 2 << 20;

/// What a new differencing image shall be. [`ChildOptions::new`] gives the defaults.
#[derive(Clone, Debug)]
pub struct ChildOptions<'a> {
    /// The VHDX image it stands on; size, sector sizes and disk id are taken from it.
    pub parent: &'a ParentLink,
    /// Bytes of a block: a power of two from 1 MiB to 256 MiB. Default: 2 MiB, as in Windows.
    pub block_size: u64,
    /// Who made the file: text for people, cut after 255 UTF-16 units.
    pub creator: String,
    /// The file's GUIDs, for output that is the same every time; the disk id among them is not
    /// used. Default: random ones.
    pub ids: Option<Ids>,
}

impl<'a> ChildOptions<'a> {
    /// A child of that parent.
    #[must_use]
    pub fn new(parent: &'a ParentLink) -> Self {
        Self { parent, block_size: BLOCK_SIZE, creator: default_creator(), ids: None }
    }
}

/// Makes a complete differencing image without any data under the main name of `files`.
///
/// The sector bitmap of every chunk (4 GiB of disk) gets its 1 MiB at once, although that could
/// wait: libvhdi takes the file's first bytes for the bitmap where there is none. They are holes
/// of the host file.
///
/// The parent is recorded by its data write GUID, as `relative_path` (`.\parent.vhdx`), and as
/// `absolute_win32_path`. A path of this host has no drive: `/a/b.vhdx` is written as
/// `\a\b.vhdx`, which means the same here, and the current drive's `\a\b.vhdx` on Windows, where
/// the relative path is tried first.
///
/// # Errors
/// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where the parent is no VHDX,
/// [`Usage`](vdisk_core::ErrorKind::Usage) for impossible options, the host's.
pub fn create_child(files: &mut dyn Files, options: &ChildOptions<'_>) -> Result<()> {
    let parent = &options.parent.info;
    let locator = Locator::of(options.parent)?;
    let shape = CreateOptions {
        block_size: options.block_size,
        logical_sector: parent.logical_sector,
        physical_sector: parent.physical_sector,
        creator: options.creator.clone(),
        ..CreateOptions::new(parent.virtual_size)
    };
    shape.check()?;
    let metadata = NewMetadata {
        block_size: shape.block_size,
        leave_allocated: false,
        virtual_size: shape.virtual_size,
        disk_id: disk_id(options.parent)?,
        logical_sector: shape.logical_sector,
        physical_sector: shape.physical_sector,
        locator: Some(locator),
    };
    let layout = Layout::new(shape.geometry(true), shape.log_size);
    let name = files.main_name().to_owned();
    let file = files.create(&name)?;
    let chunks = layout.geometry.chunks();
    file.resize(layout.payload + chunks * BITMAP_BYTES)?;
    let mut page = TablePage::default();
    for chunk in 0..chunks {
        let raw = bat::encode_bitmap(layout.payload + chunk * BITMAP_BYTES);
        let at = layout.geometry.bitmap_index(chunk) * ENTRY;
        page.set(&*file, layout.bat, at, raw)?;
    }
    page.flush(&*file, layout.bat)?;
    let ids = options.ids.unwrap_or_else(Ids::random);
    layout.write(&*file, &ids, &metadata, &shape.creator)
}

/// The parent's disk id, which the child shares.
fn disk_id(parent: &ParentLink) -> Result<Uuid> {
    let fact = parent.info.facts.iter().find(|(name, _)| *name == "virtual-disk-id");
    match fact {
        Some((_, Fact::Text(text))) => Uuid::try_parse(text).ok(),
        _ => None,
    }
    .ok_or_else(|| Error::internal("the parent's facts lack its virtual disk id"))
}
