//! Opening a disk: descriptor, extents, facts.

use std::collections::BTreeMap;
use std::sync::Arc;

use vdisk_core::{Access, Error, Opener, Result, Store, StoreExt};

use crate::descriptor::{Descriptor, MOST_BYTES};
use crate::extent::{Body, Extent, Flat};
use crate::extent_line::{ExtentAccess, ExtentLine, ExtentType};
use crate::facts::info;
use crate::header::{self, SparseHeader};
use crate::hosted::Hosted;
use crate::layer::VmdkLayer;
use crate::stream::Stream;
use crate::unit::{SECTOR, sectors, to_usize};
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
    let mut files = Files {
        stores: vec![store],
        names: BTreeMap::new(),
        grained: Vec::new(),
        line_at: 0,
        opener,
        options,
    };
    let mut extents = Vec::with_capacity(descriptor.extents.len());
    let mut start = 0;
    for (index, line) in descriptor.extents.iter().enumerate() {
        let len = line.sectors * SECTOR;
        // The name in an embedded descriptor is often wrong: the file may have been renamed.
        let own = header.clone().filter(|_| index == 0);
        files.line_at = place.at + descriptor.line_offset(line.line);
        let (store, body) = files.body(line, own, len)?;
        let writable = line.access == ExtentAccess::ReadWrite && !matches!(body, Body::Zero);
        extents.push(Extent { start, len, store, writable, body });
        start += len;
    }
    share_cache(&extents);
    let info = info(&descriptor, &extents);
    let mut layer = VmdkLayer::new(info, files.stores, extents, descriptor, place);
    if options.access == Access::Write {
        layer.allow_writing()?;
    }
    Ok(layer)
}

/// A disk of a thousand extents takes no more memory than one of a few.
fn share_cache(extents: &[Extent]) {
    let tables = || extents.iter().filter_map(|extent| extent.body.grain_tables());
    let count = tables().count() as u64;
    tables().for_each(|tables| tables.share_cache(count));
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
    /// Indices of the files opened, by name and whether they may be written.
    names: BTreeMap<(String, bool), usize>,
    /// Files that serve a sparse extent: those serve no other.
    grained: Vec<usize>,
    /// Where the extent line being looked at stands in the user's file.
    line_at: u64,
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
            .at("VMDK descriptor", self.line_at)
            .hint("copy the device itself, or have ESXi clone the disk into a flat one"));
        }
        if let Some(header) = own {
            if line.kind != ExtentType::Sparse {
                return Err(self.bad_line(
                    "the file that holds the descriptor is its first extent, which must be SPARSE",
                ));
            }
            self.grained.push(0);
            return Ok((0, self.sparse(0, header, len)?));
        }
        let index = self.open(name, line)?;
        let store = self.store(index)?;
        if line.kind == ExtentType::Flat {
            let offset = sectors(line.offset)
                .filter(|offset| offset.checked_add(len).is_some())
                .ok_or_else(|| self.bad_line("it starts beyond the end of any file"))?;
            let end = store.size()?;
            return Ok((index, Body::Flat(Flat { store, offset, end })));
        }
        let others = self.grained.iter().filter_map(|index| self.stores.get(*index));
        if others.into_iter().any(|other| same_file(other, &store)) {
            return Err(self.bad_line("two sparse extents share a file"));
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
        let access = match line.access {
            ExtentAccess::ReadWrite => self.options.access,
            _ => Access::Read,
        };
        let key = (name.to_owned(), access == Access::Write);
        if let Some(index) = self.names.get(&key) {
            return Ok(*index);
        }
        let store = self.opener.open(name, "extent", access)?;
        if self.stores.first().is_some_and(|first| same_file(first, &store)) {
            return Err(self.bad_line("the descriptor names itself as an extent"));
        }
        self.stores.push(store);
        let index = self.stores.len() - 1;
        self.names.insert(key, index);
        Ok(index)
    }

    fn bad_line(&self, message: &str) -> Error {
        let error = Error::corrupt("VMDK descriptor", self.line_at, message);
        match self.stores.first() {
            Some(store) => error.in_file(store.name()),
            None => error,
        }
    }

    fn store(&self, index: usize) -> Result<Arc<dyn Store>> {
        self.stores.get(index).cloned().ok_or_else(|| Error::internal("a file that is not open"))
    }
}

/// Whether two stores are one file, by identity where the host tells, else by name.
pub(crate) fn same_file(a: &Arc<dyn Store>, b: &Arc<dyn Store>) -> bool {
    match (a.host(), b.host()) {
        (Some(a), Some(b)) => a.id() == b.id(),
        _ => Arc::ptr_eq(a, b) || a.name() == b.name(),
    }
}
