//! Opening a disk: descriptor, extents, facts.

use std::collections::BTreeMap;
use std::sync::Arc;

use vdisk_core::{
    Access, Error, Fact, Format, LayerInfo, Opener, ParentRef, Result, Store, StoreExt,
};

use crate::descriptor::{Descriptor, MOST_BYTES, NO_PARENT};
use crate::extent::{Body, Extent, Flat};
use crate::extent_line::{ExtentAccess, ExtentLine, ExtentType};
use crate::header::{self, SparseHeader};
use crate::hosted::Hosted;
use crate::layer::VmdkLayer;
use crate::stream::{Index, Stream};
use crate::unit::{SECTOR, to_usize};
use crate::{cowd, sesparse};

/// How to open a disk.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// For reading (the default) or also for writing. Files are opened accordingly.
    pub access: Access,
    /// Shows the grains before the damage of a stream that was cut short, with zeros for the
    /// rest, where otherwise opening it fails. The markers are believed, not the tables.
    pub recover_stream: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { access: Access::Read, recover_stream: false }
    }
}

/// Where the descriptor stands in the file the user named.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// First byte.
    pub(crate) at: u64,
    /// Bytes it may take where it is embedded; `None` in a file of its own.
    pub(crate) room: Option<u64>,
}

/// Opens the disk whose descriptor is in `store`: a descriptor file, or a sparse file that embeds
/// one. The files that the descriptor names are opened through `opener`.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) and
/// [`Truncated`](vdisk_core::ErrorKind::Truncated) for damage, with file, structure and offset;
/// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) for a bare extent, a raw device mapping,
/// an unknown version, and for writing to a variant that is only read; the opener's.
pub fn open(
    store: Arc<dyn Store>,
    opener: &dyn Opener,
    options: &OpenOptions,
) -> Result<VmdkLayer> {
    let header = embedding_header(&store)?;
    let (place, descriptor) = read_descriptor(&*store, header.as_ref())?;
    let mut files =
        Files { stores: vec![store], names: BTreeMap::new(), grained: Vec::new(), opener, options };
    let mut extents = Vec::with_capacity(descriptor.extents.len());
    let mut start = 0;
    for (index, line) in descriptor.extents.iter().enumerate() {
        let len = line.sectors * SECTOR;
        // The name in an embedded descriptor is often wrong: the file may have been renamed.
        let own = header.clone().filter(|_| index == 0);
        let (store, body) = files.body(line, own, len)?;
        let writable = line.access == ExtentAccess::ReadWrite;
        extents.push(Extent { start, len, store, writable, body });
        start += len;
    }
    let info = info(&descriptor, &extents);
    let mut layer = VmdkLayer::new(info, files.stores, extents, descriptor, place);
    if options.access == Access::Write {
        layer.allow_writing()?;
    }
    Ok(layer)
}

/// The header of a sparse file; `None` for what may be a descriptor file.
fn embedding_header(store: &Arc<dyn Store>) -> Result<Option<SparseHeader>> {
    let mut magic = [0; 8];
    let there = store.size()?.min(8);
    let (head, _) = magic.split_at_mut(to_usize(there));
    store.fetch(head, 0, "VMDK magic number")?;
    if magic.starts_with(&cowd::MAGIC) || magic == sesparse::MAGIC {
        return Err(bare_extent(&**store));
    }
    if !magic.starts_with(&header::MAGIC) && !magic.starts_with(&header::UNFINISHED_MAGIC) {
        return Ok(None);
    }
    let header = SparseHeader::read(&**store, 0)?;
    if header.descriptor.is_none() {
        return Err(bare_extent(&**store));
    }
    Ok(Some(header))
}

fn bare_extent(store: &dyn Store) -> Error {
    Error::unsupported("this is an extent, a part of a disk; open its descriptor")
        .in_file(store.name())
        .hint("the descriptor is a small text file beside it, named like it without -s001, -delta or -sesparse")
}

fn read_descriptor(
    store: &dyn Store,
    header: Option<&SparseHeader>,
) -> Result<(Place, Descriptor)> {
    let size = store.size()?;
    let range = header.and_then(|header| header.descriptor.clone()).unwrap_or(0..size);
    let len = range.end - range.start;
    if len > MOST_BYTES {
        return Err(Error::corrupt(
            "VMDK descriptor",
            range.start,
            format!("it takes {len} bytes, expected at most {MOST_BYTES}"),
        )
        .in_file(store.name()));
    }
    let mut bytes = vec![0; to_usize(len)];
    store.fetch(&mut bytes, range.start, "VMDK descriptor")?;
    let descriptor = Descriptor::parse(&bytes).map_err(|e| {
        // The parser counts from the start of the text.
        match (e.structure(), e.offset()) {
            (Some(structure), Some(at)) => e.at(structure, range.start + at),
            _ => e,
        }
        .in_file(store.name())
    })?;
    Ok((Place { at: range.start, room: header.map(|_| len) }, descriptor))
}

/// The files of a disk while it is opened.
struct Files<'a> {
    stores: Vec<Arc<dyn Store>>,
    names: BTreeMap<String, usize>,
    /// Files that serve a sparse extent: those serve no other.
    grained: Vec<usize>,
    opener: &'a dyn Opener,
    options: &'a OpenOptions,
}

impl Files<'_> {
    /// Opens what an extent line names; `own` is the header of the file that embeds the
    /// descriptor, for its first extent.
    fn body(
        &mut self,
        line: &ExtentLine,
        own: Option<SparseHeader>,
        len: u64,
    ) -> Result<(usize, Body)> {
        let name = match (&line.file, line.access) {
            (None, _) | (_, ExtentAccess::None) => return Ok((0, Body::Zero)),
            (Some(name), _) => name,
        };
        if line.kind == ExtentType::Device {
            return Err(Error::unsupported(format!(
                "{name:?} maps a device of its storage (raw device mapping)"
            ))
            .hint("copy the device itself, or have ESXi clone the disk into a flat one"));
        }
        if let Some(header) = own {
            if line.kind != ExtentType::Sparse {
                return Err(Error::corrupt(
                    "VMDK descriptor",
                    header.descriptor.map_or(0, |range| range.start),
                    "an embedded descriptor whose first extent is not SPARSE",
                )
                .in_file(self.stores.first().map(|s| s.name()).unwrap_or("".as_ref())));
            }
            self.grained.push(0);
            return Ok((0, self.sparse(0, header, len)?));
        }
        let index = self.open(name, line)?;
        let store = self.store(index)?;
        if line.kind == ExtentType::Flat {
            let offset = crate::unit::sectors(line.offset)
                .filter(|offset| offset.checked_add(len).is_some())
                .ok_or_else(|| {
                    Error::corrupt("VMDK descriptor", 0, format!("{name:?} starts beyond any file"))
                })?;
            let end = store.size()?;
            return Ok((index, Body::Flat(Flat { store, offset, end })));
        }
        if self.grained.contains(&index) {
            return Err(Error::corrupt("VMDK descriptor", 0, "two sparse extents share a file")
                .in_file(store.name()));
        }
        self.grained.push(index);
        let mut magic = [0; 4];
        store.fetch(&mut magic, 0, "VMDK extent")?;
        let body = match line.kind {
            ExtentType::SeSparse => Body::Foreign(Box::new(sesparse::open(store, len)?)),
            _ if magic == cowd::MAGIC => Body::Foreign(Box::new(cowd::open(store, len)?)),
            _ => {
                let header = SparseHeader::read(&*store, 0)?;
                self.sparse(index, header, len)?
            }
        };
        Ok((index, body))
    }

    fn sparse(&self, index: usize, header: SparseHeader, len: u64) -> Result<Body> {
        let store = self.store(index)?;
        if header.capacity < len {
            return Err(Error::corrupt(
                "VMDK sparse header",
                12,
                format!("it covers {} bytes, but the descriptor says {len}", header.capacity),
            )
            .in_file(store.name()));
        }
        Ok(if header.compressed() {
            Body::Stream(Box::new(Stream::open(store, header, len, self.options.recover_stream)?))
        } else {
            Body::Hosted(Box::new(Hosted::open(store, header, len)?))
        })
    }

    /// The number of the file called `name`, opened once.
    fn open(&mut self, name: &str, line: &ExtentLine) -> Result<usize> {
        if let Some(index) = self.names.get(name) {
            return Ok(*index);
        }
        let access = match line.access {
            ExtentAccess::ReadWrite => self.options.access,
            _ => Access::Read,
        };
        let store = self.opener.open(name, "extent", access)?;
        if self.stores.first().is_some_and(|first| same_file(first, &store)) {
            return Err(Error::corrupt("VMDK descriptor", 0, "it names itself as an extent")
                .in_file(store.name()));
        }
        self.stores.push(store);
        let index = self.stores.len() - 1;
        self.names.insert(name.to_owned(), index);
        Ok(index)
    }

    fn store(&self, index: usize) -> Result<Arc<dyn Store>> {
        self.stores.get(index).cloned().ok_or_else(|| Error::internal("a file that is not open"))
    }
}

/// Whether two stores are one file, by identity where the host tells, else by name.
fn same_file(a: &Arc<dyn Store>, b: &Arc<dyn Store>) -> bool {
    match (a.host(), b.host()) {
        (Some(a), Some(b)) => a.id() == b.id(),
        _ => Arc::ptr_eq(a, b) || a.name() == b.name(),
    }
}

/// What the layer is.
pub(crate) fn info(descriptor: &Descriptor, extents: &[Extent]) -> LayerInfo {
    let sector = |key| match descriptor.number(key) {
        Some(4096) => 4096,
        _ => 512,
    };
    let parent = (descriptor.parent_cid != NO_PARENT).then(|| ParentRef {
        identities: vec![format!("{:08x}", descriptor.parent_cid)],
        modified: None,
        hints: descriptor.parent_hints(),
    });
    LayerInfo {
        format: Format::Vmdk,
        subformat: canonical_type(&descriptor.create_type),
        virtual_size: extents.last().map_or(0, Extent::end),
        logical_sector: sector("ddb.logicalSectorSize"),
        physical_sector: sector("ddb.physicalSectorSize").max(sector("ddb.logicalSectorSize")),
        block_size: extents.iter().find_map(Extent::grain),
        identity: identity(descriptor),
        parent,
        dirty: unclean(extents),
        facts: facts(descriptor, extents),
    }
}

/// What a child records of this content.
pub(crate) fn identity(descriptor: &Descriptor) -> Option<String> {
    (descriptor.cid != NO_PARENT).then(|| format!("{:08x}", descriptor.cid))
}

/// Whether some extent was not closed after the last writing.
pub(crate) fn unclean(extents: &[Extent]) -> bool {
    extents.iter().any(|extent| match &extent.body {
        Body::Hosted(hosted) => hosted.header.unclean(),
        Body::Stream(stream) => stream.header.unclean(),
        _ => false,
    })
}

/// The usual spelling of a `createType`.
pub(crate) fn canonical_type(text: &str) -> String {
    const KNOWN: &[&str] = &[
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
        "vmfs",
        "vmfsSparse",
        "vmfsThin",
        "vmfsPreallocated",
        "vmfsEagerZeroedThick",
        "vmfsRDM",
        "vmfsRDMP",
        "vmfsRaw",
        "seSparse",
        "fullDevice",
        "partitionedDevice",
        "custom",
    ];
    match text.to_ascii_lowercase().as_str() {
        "2gbmaxextentsparse" => "twoGbMaxExtentSparse".to_owned(),
        "2gbmaxextentflat" => "twoGbMaxExtentFlat".to_owned(),
        "vmfssesparse" => "seSparse".to_owned(),
        lower => KNOWN
            .iter()
            .find(|known| known.to_ascii_lowercase() == lower)
            .map_or_else(|| text.to_owned(), |known| (*known).to_owned()),
    }
}

/// What a user may want to know, cheap to gather.
pub(crate) fn facts(descriptor: &Descriptor, extents: &[Extent]) -> Vec<(&'static str, Fact)> {
    let mut facts: Vec<(&'static str, Fact)> = vec![
        ("create-type", descriptor.create_type.as_str().into()),
        ("cid", format!("{:08x}", descriptor.cid).into()),
        ("parent-cid", format!("{:08x}", descriptor.parent_cid).into()),
        ("extents", (extents.len() as u64).into()),
    ];
    let text = [
        ("descriptor-version", "version"),
        ("encoding", "encoding"),
        ("adapter-type", "ddb.adapterType"),
        ("hardware-version", "ddb.virtualHWVersion"),
        ("tools-version", "ddb.toolsVersion"),
        ("uuid", "ddb.uuid"),
        ("long-content-id", "ddb.longContentID"),
        ("change-tracking", "changeTrackPath"),
        ("native-snapshot", "isNativeSnapshot"),
    ];
    facts.extend(text.iter().filter_map(|(name, key)| Some((*name, descriptor.get(key)?.into()))));
    let geometry = ["cylinders", "heads", "sectors"]
        .map(|part| descriptor.number(&format!("ddb.geometry.{part}")));
    if let [Some(c), Some(h), Some(s)] = geometry {
        facts.push(("geometry", format!("{c}/{h}/{s}").into()));
    }
    if let Some(thin) = descriptor.get("ddb.thinProvisioned") {
        facts.push(("thin-provisioned", (thin == "1").into()));
    }
    facts.extend(sparse_facts(extents));
    facts
}

/// The facts of the first sparse header.
fn sparse_facts(extents: &[Extent]) -> Vec<(&'static str, Fact)> {
    let header = extents.iter().find_map(|extent| match &extent.body {
        Body::Hosted(hosted) => Some(&hosted.header),
        Body::Stream(stream) => Some(&stream.header),
        _ => None,
    });
    let Some(header) = header else { return Vec::new() };
    let mut facts: Vec<(&'static str, Fact)> = vec![
        ("sparse-version", header.raw.version.get().into()),
        ("compressed", header.compressed().into()),
        ("markers", header.markers().into()),
        ("zero-grains", header.zero_grain().into()),
        ("redundant-directory", header.redundant.is_some().into()),
        ("unclean-shutdown", unclean(extents).into()),
    ];
    let walked = extents
        .iter()
        .any(|extent| matches!(&extent.body, Body::Stream(stream) if matches!(stream.index, Index::Walked(_))));
    if header.compressed() {
        let at = match header.directory {
            _ if walked => "none",
            None => "footer",
            Some(_) => "header",
        };
        facts.push(("directory", at.into()));
    }
    facts
}
