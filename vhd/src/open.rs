//! Opening an image, and reading it.

use std::sync::Arc;

use vdisk_core::{
    Access, Compaction, Error, ErrorKind, Findings, Layer, LayerExtent, LayerInfo, LayerKind,
    Result, Store, Vacant,
};

use crate::bat::{Bat, ENTRY};
use crate::batmap::Batmap;
use crate::bitmap::Bitmaps;
use crate::check;
use crate::create::MAX_SIZE;
use crate::facts;
use crate::footer::{DiskType, FOOTER, Footer};
use crate::footers::{Footers, Source};
use crate::header::{HEADER, Header};
use crate::shape::SECTOR;
use crate::sparse::{Sparse, metadata};

/// Which of the footer's two sizes is the disk's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SizeBy {
    /// *Current Size*: what Hyper-V, Azure, Xen, VirtualBox and libvhdi take, and so do we. It is
    /// never smaller than the other where both make sense.
    #[default]
    CurrentSize,
    /// *Disk Geometry*, cylinders × heads × sectors: what Virtual PC takes, and qemu for images
    /// of Virtual PC and its own. Ignored where it is empty, the largest there is, or larger than
    /// the current size.
    Geometry,
}

/// How to open an image.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// Whether it shall be changed. Opening alone changes nothing, ever.
    pub access: Access,
    /// Which size to believe.
    pub size_by: SizeBy,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { access: Access::Read, size_by: SizeBy::default() }
    }
}

/// An open VHD: fixed, dynamic or differencing. Of a chain, it is one link.
#[derive(Debug)]
pub struct VhdLayer {
    pub(crate) stores: [Arc<dyn Store>; 1],
    pub(crate) info: LayerInfo,
    pub(crate) access: Access,
    pub(crate) body: Body,
    /// A flush or a change of size failed: what is on the disk is unknown.
    pub(crate) failed: bool,
}

#[derive(Debug)]
pub(crate) enum Body {
    Fixed(Box<Fixed>),
    Sparse(Box<Sparse>),
}

/// The body of a fixed disk: the guest's bytes from byte 0 on.
#[derive(Debug)]
pub(crate) struct Fixed {
    pub(crate) footer: Footer,
    /// Byte offset of the footer.
    pub(crate) footer_at: u64,
}

/// Opens the VHD in `store`.
///
/// Tolerated, because known writers or mere power cuts leave it so: a missing or damaged footer at
/// the end of a dynamic or differencing disk (its copy at byte 0 counts), a damaged copy (the
/// footer at the end counts), a 511-byte footer, a table longer than needed, and, for reading
/// only, a wrong checksum of the dynamic header.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) and [`Truncated`](ErrorKind::Truncated) for damage,
/// [`Unsupported`](ErrorKind::Unsupported) for other versions and disk types,
/// [`Refused`](ErrorKind::Refused) for writing to a disk in saved state; the host's.
///
/// For writing, the whole block table is looked at first, and an image whose blocks overlap or
/// lie elsewhere than they may is refused as corrupt.
pub fn open(store: Arc<dyn Store>, options: &OpenOptions) -> Result<VhdLayer> {
    let name = store.name().to_owned();
    open_inner(store, options).map_err(|error| error.in_file(name))
}

fn open_inner(store: Arc<dyn Store>, options: &OpenOptions) -> Result<VhdLayer> {
    let footers = Footers::find(&*store)?.ok_or_else(|| {
        Error::new(ErrorKind::Truncated, "the file is shorter than a footer").at("VHD footer", 0)
    })?;
    let (footer, source) = footers.choose().ok_or_else(|| footers.error())?;
    let kind = disk_type(footer, &footers, source)?;
    let size = virtual_size(footer, kind, options.size_by, footer_at(&footers, source))?;
    let body = match kind {
        DiskType::Fixed => open_fixed(footer, &footers, size)?,
        _ => open_sparse(store.clone(), footer, &footers, size, kind)?,
    };
    let info = facts::describe(&*store, &footers, &body, size);
    let mut layer = VhdLayer { stores: [store], info, access: options.access, body, failed: false };
    if options.access == Access::Write {
        layer.admit()?;
    }
    Ok(layer)
}

fn footer_at(footers: &Footers, source: Source) -> u64 {
    match source {
        Source::Tail => footers.tail.at,
        Source::Copy => footers.copy.at,
    }
}

fn disk_type(footer: &Footer, footers: &Footers, source: Source) -> Result<DiskType> {
    let at = footer_at(footers, source);
    let (major, minor) = footer.version();
    if major != 1 {
        let error = Error::unsupported(format!("VHD version {major}.{minor}"));
        return Err(error.at("VHD footer", at).hint("only version 1.0 exists"));
    }
    footer.disk_type().map_err(|code| {
        Error::unsupported(format!("disk type {code}"))
            .at("VHD footer", at)
            .hint("only fixed (2), dynamic (3) and differencing (4) disks are in use")
    })
}

fn virtual_size(footer: &Footer, kind: DiskType, by: SizeBy, at: u64) -> Result<u64> {
    // A size off a sector's end is rounded down: the guest cannot address the rest.
    let current = footer.current_size() / SECTOR * SECTOR;
    if current == 0 {
        return Err(Error::corrupt("VHD footer", at, "the current size is 0"));
    }
    if current > MAX_SIZE && kind != DiskType::Fixed {
        let message = format!("current size {current} is beyond the format's {MAX_SIZE}");
        return Err(Error::corrupt("VHD footer", at, message));
    }
    Ok(match by {
        SizeBy::CurrentSize => current,
        SizeBy::Geometry => facts::geometry_size(footer).unwrap_or(current),
    })
}

fn open_fixed(footer: &Footer, footers: &Footers, size: u64) -> Result<Body> {
    let footer_at = footers.tail.at;
    if size > footer_at {
        return Err(Error::new(
            ErrorKind::Truncated,
            format!("the disk has {size} bytes, but only {footer_at} stand before the footer"),
        )
        .at("VHD footer", footer_at)
        .hint("part of the file is missing"));
    }
    Ok(Body::Fixed(Box::new(Fixed { footer: footer.clone(), footer_at })))
}

fn open_sparse(
    store: Arc<dyn Store>,
    footer: &Footer,
    footers: &Footers,
    size: u64,
    kind: DiskType,
) -> Result<Body> {
    let header = Header::read(&*store, footer.data_offset())?;
    check_table(&header, footer, footers.file_len)?;
    let bytes = footer.to_bytes();
    let same = |found: &Result<Footer, _>| found.as_ref().is_ok_and(|f| f.to_bytes() == bytes);
    let tail_counts = footers.tail.found.as_ref().is_ok_and(|tail| tail.same_image(footer));
    let differencing = kind == DiskType::Differencing;
    let end = if tail_counts { footers.tail.at } else { footers.file_len };
    let bat = Bat::new(store.clone(), header.table_at(), header.entries());
    let metadata = metadata(&header, differencing, footers.file_len);
    let others = [metadata.as_slice(), &[bat.range()]].concat();
    Ok(Body::Sparse(Box::new(Sparse {
        batmap: Batmap::find(&*store, footer, &others, end)?,
        bat,
        bitmaps: Bitmaps::new(store.clone(), header.shape),
        metadata,
        shape: header.shape,
        differencing,
        size,
        end,
        tail_good: same(&footers.tail.found)
            && footers.tail.len == FOOTER
            && footers.tail.at.is_multiple_of(SECTOR),
        copy_good: same(&footers.copy.found),
        footer: footer.clone(),
        header,
        store,
    })))
}

/// The block table must lie inside the file, apart from the header, and cover the disk.
fn check_table(header: &Header, footer: &Footer, file_len: u64) -> Result<()> {
    let (at, entries) = (header.table_at(), header.entries());
    let len = u64::from(entries) * ENTRY;
    let end = at.checked_add(len).filter(|end| *end <= file_len).ok_or_else(|| {
        Error::new(
            ErrorKind::Truncated,
            format!("the block table of {entries} entries reaches beyond the end at {file_len}"),
        )
        .at("VHD block table", at)
        .hint("part of the file is missing, or its header is damaged")
    })?;
    if at < FOOTER || (at < header.at + HEADER && header.at < end) {
        let message = "it lies over the footer's copy or the dynamic header";
        return Err(Error::corrupt("VHD block table", at, message));
    }
    // By the current size, also where the smaller geometry is asked for.
    let needed = header.shape.blocks(footer.current_size() / SECTOR * SECTOR);
    if u64::from(entries) < needed {
        let message = format!("it has {entries} entries, the disk needs {needed}");
        return Err(Error::corrupt("VHD block table", at, message));
    }
    Ok(())
}

impl Layer for VhdLayer {
    fn info(&self) -> &LayerInfo {
        &self.info
    }

    fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<LayerExtent> {
        match &self.body {
            Body::Fixed(_) => {
                let kind = LayerKind::Data { store: 0, at: offset };
                Ok(LayerExtent { start: offset, len: end - offset, kind })
            }
            Body::Sparse(sparse) => sparse.extent_at(offset, end),
        }
    }

    fn plan_compact(&self, vacant: &Vacant) -> Result<Compaction> {
        self.plan(vacant)
    }

    fn check(&self, findings: &mut Findings) -> Result<()> {
        check::check(self, findings)
    }
}
