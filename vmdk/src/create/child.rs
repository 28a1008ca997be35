//! Differencing images: a hosted sparse file that names its parent.

use vdisk_core::{Error, Fact, Files, Format, LayerInfo, ParentLink, Result};

use super::sparse::SparseFile;
use super::{MOST_SPARSE, embedded};
use crate::template::{Template, check_name, new_cid, new_long_id};
use crate::unit::SECTOR;

/// Bytes of a grain of a child.
const GRAIN: u64 = 64 << 10;

/// What a new child shall be.
#[derive(Clone, Debug)]
pub struct ChildOptions<'a> {
    /// The parent: any VMDK with a content id, of up to 2 TiB.
    pub parent: &'a ParentLink,
    /// The child's own content id; random by default.
    pub cid: Option<u32>,
}

impl<'a> ChildOptions<'a> {
    /// The defaults for a child of `parent`.
    #[must_use]
    pub fn new(parent: &'a ParentLink) -> Self {
        Self { parent, cid: None }
    }
}

/// Makes a complete, empty child: a sparse file of the parent's size in which every grain is
/// still the parent's.
///
/// # Errors
/// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for a parent of another format, without a
/// content id or beyond 2 TiB; [`Usage`](vdisk_core::ErrorKind::Usage) for names a descriptor
/// cannot hold; those of `files`.
pub fn create_child(files: &mut dyn Files, options: &ChildOptions<'_>) -> Result<()> {
    let info = &options.parent.info;
    let parent_cid = content_id(info)?;
    if info.virtual_size > MOST_SPARSE {
        return Err(Error::unsupported(format!(
            "the parent has {} bytes, a sparse child holds at most {MOST_SPARSE}",
            info.virtual_size
        ))
        .hint("only ESXi makes the seSparse snapshots that larger disks need"));
    }
    let main = files.main_name().to_owned();
    check_name(&main)?;
    check_name(&options.parent.relative)?;
    let sectors = info.virtual_size / SECTOR;
    let template = Template {
        cid: options.cid.unwrap_or_else(new_cid),
        parent: Some((parent_cid, options.parent.relative.clone())),
        create_type: "monolithicSparse",
        extents: vec![format!("RW {sectors} SPARSE \"{main}\"")],
        adapter: text_fact(info, "adapter-type").unwrap_or("lsilogic").to_owned(),
        hardware: text_fact(info, "hardware-version").and_then(|n| n.parse().ok()).unwrap_or(4),
        sectors,
        uuid: None,
        thin: false,
        sector_sizes: (info.physical_sector != 512)
            .then_some((info.logical_sector, info.physical_sector)),
        long_id: new_long_id(),
    };
    let text = embedded(&template.text())?;
    let store = files.create(&main)?;
    SparseFile::new(store, GRAIN, info.virtual_size, Some(text)).finish()
}

/// The content id that the child records.
pub(crate) fn content_id(info: &LayerInfo) -> Result<u32> {
    let identity = match (info.format, &info.identity) {
        (Format::Vmdk, Some(identity)) => identity,
        (Format::Vmdk, None) => {
            return Err(Error::unsupported("the parent has no content id"));
        }
        (other, _) => {
            return Err(Error::unsupported(format!("a VMDK child of a {other} parent"))
                .hint("convert the parent to vmdk, or make a child of the parent's own format"));
        }
    };
    u32::from_str_radix(identity, 16)
        .map_err(|_| Error::internal(format!("{identity:?} is no content id")))
}

fn text_fact<'a>(info: &'a LayerInfo, name: &str) -> Option<&'a str> {
    info.facts.iter().find_map(|(found, fact)| match fact {
        Fact::Text(text) if *found == name => Some(text.as_str()),
        _ => None,
    })
}
