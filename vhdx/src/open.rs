//! Opening an image: headers, log, regions, metadata, in that order.

use std::sync::Arc;

use vdisk_core::{
    Access, Compaction, Error, ErrorKind, Fact, Findings, Format, Layer, LayerExtent, LayerInfo,
    Result, Store, StoreExt, Vacant,
};

use crate::bat::Geometry;
use crate::header::{self, Current, Slots};
use crate::map::Map;
use crate::metadata::Metadata;
use crate::region::Regions;
use crate::replay::Replay;
use crate::session;
use crate::writer::Writer;
use crate::{MAX_FILE, check};

/// How to open an image.
#[derive(Clone, Copy, Debug)]
pub struct OpenOptions {
    /// For reading only, or for writing as well. Opening for writing replays a waiting log into
    /// the file; opening for reading replays it in memory and never changes a byte.
    pub access: Access,
    /// Opens an image whose header names a log of which no entry is left, as if there were no
    /// log. What the log held is lost, so some blocks may be missing or stale.
    pub ignore_empty_log: bool,
}

impl Default for OpenOptions {
    fn default() -> Self {
        Self { access: Access::Read, ignore_empty_log: false }
    }
}

/// An open VHDX image.
#[derive(Debug)]
pub struct VhdxLayer {
    pub(crate) stores: Vec<Arc<dyn Store>>,
    pub(crate) current: Current,
    pub(crate) regions: Regions,
    pub(crate) metadata: Metadata,
    pub(crate) map: Map,
    pub(crate) info: LayerInfo,
    pub(crate) log_state: LogState,
    /// Only where opened for writing.
    pub(crate) writer: Option<Writer>,
}

/// What became of the log that the header names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogState {
    /// It names none, or none any more.
    Clean,
    /// It was replayed in memory; in the file it still waits.
    Replayed,
    /// Nothing is left of it, which the caller was ready to accept.
    Lost,
}

impl LogState {
    fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Replayed => "waiting",
            Self::Lost => "lost",
        }
    }
}

/// Whether the store holds a VHDX image: its first 8 bytes are `vhdxfile`.
///
/// # Errors
/// The host's.
pub fn probe(store: &dyn Store) -> Result<bool> {
    let mut found = [0; 8];
    if store.size()? < found.len() as u64 {
        return Ok(false);
    }
    store.fetch(&mut found, 0, "VHDX file identifier")?;
    Ok(&found == header::IDENTIFIER)
}

/// Opens a VHDX image of any kind: fixed, dynamic, differencing.
///
/// For writing, the whole block table is looked at (holes of the file are skipped), because
/// writing to an image in which two blocks share their bytes would destroy data.
///
/// # Errors
/// [`ErrorKind::Corrupt`] and [`ErrorKind::Truncated`] for damage, [`ErrorKind::Unsupported`]
/// for required parts that are not known, the host's.
pub fn open(store: Arc<dyn Store>, options: &OpenOptions) -> Result<VhdxLayer> {
    let name = store.name().to_owned();
    open_inner(store, options).map_err(|error| {
        let damaged = matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated);
        let error = error.in_file(name);
        if damaged {
            error.hint(
                "look at it with: vdisk check; what is certain is mended by: vdisk check -r all",
            )
        } else {
            error
        }
    })
}

fn open_inner(store: Arc<dyn Store>, options: &OpenOptions) -> Result<VhdxLayer> {
    let writing = options.access == Access::Write;
    let file_len = store.size()?;
    header::check_identifier(&*store)?;
    if file_len < header::AREA {
        let message = format!("the file has {file_len} bytes, expected at least {}", header::AREA);
        return Err(Error::new(ErrorKind::Truncated, message).at("VHDX header area", file_len));
    }
    let mut current = Slots::read(&*store).current(file_len)?;
    if writing {
        refuse_writing(&current, file_len)?;
    }
    let (store, log_state) = replay(store, &mut current, options)?;
    let file_len = store.size()?;
    let header = &current.header;
    let regions = Regions::read(&*store, header.log_range(), file_len)?;
    let metadata = Metadata::read(&*store, &regions.metadata)?;
    let geometry = geometry(&metadata);
    let writer = writing.then(|| Writer::new(store.clone(), header.log_length));
    let view = writer.as_ref().map_or_else(|| store.clone(), Writer::view);
    let map = Map::new(&view, geometry, header, &regions, file_len)?;
    let info = info(&current, &regions, &metadata, &header::read_creator(&*store), log_state)?;
    let mut layer =
        VhdxLayer { stores: vec![store], current, regions, metadata, map, info, log_state, writer };
    if writing {
        layer.claim_space()?;
    }
    Ok(layer)
}

/// What keeps a readable image from being written to.
fn refuse_writing(current: &Current, file_len: u64) -> Result<()> {
    let Current { header, slot, .. } = current;
    let refuse = |message: &str| {
        Err(Error::unsupported(format!("cannot be written to: {message}"))
            .at("VHDX header", header::slot_offset(*slot))
            .hint("convert it to a new image"))
    };
    if header.sequence > u64::MAX - (1 << 32) {
        return refuse("the sequence numbers are used up");
    }
    if header.log_length == 0 {
        return refuse("it has no log");
    }
    if file_len > MAX_FILE {
        return refuse("the file is longer than any VHDX can be");
    }
    Ok(())
}

/// The store with its log replayed, and what became of the log.
fn replay(
    store: Arc<dyn Store>,
    current: &mut Current,
    options: &OpenOptions,
) -> Result<(Arc<dyn Store>, LogState)> {
    let header = &current.header;
    if header.log.is_nil() {
        return Ok((store, LogState::Clean));
    }
    let found = Replay::find(&*store, header, store.size()?)?;
    if found.is_none() && !options.ignore_empty_log {
        return Err(Error::corrupt(
            "VHDX log",
            header.log_offset,
            format!("the header names log {}, but no entry of it is valid", header.log),
        )
        .hint("what the log held is lost; `qemu-img convert` reads the image as if there had been none"));
    }
    if options.access == Access::Write {
        session::replay(&*store, current, found.as_ref())?;
        return Ok((store, LogState::Clean));
    }
    match found {
        Some(found) => Ok((Arc::new(found.in_memory(store.clone())?), LogState::Replayed)),
        None => Ok((store, LogState::Lost)),
    }
}

fn geometry(metadata: &Metadata) -> Geometry {
    Geometry {
        virtual_size: metadata.virtual_size,
        block_size: metadata.block_size,
        logical_sector: metadata.logical_sector.into(),
        has_parent: metadata.has_parent,
    }
}

fn info(
    current: &Current,
    regions: &Regions,
    metadata: &Metadata,
    creator: &str,
    log_state: LogState,
) -> Result<LayerInfo> {
    let subformat = match (metadata.has_parent, metadata.leave_allocated) {
        (true, _) => "differencing",
        (false, true) => "fixed",
        (false, false) => "dynamic",
    };
    let parent =
        match &metadata.locator {
            Some(locator) => Some(locator.parent().map_err(|why| {
                Error::corrupt("VHDX parent locator", regions.metadata.offset, why)
            })?),
            None => None,
        };
    Ok(LayerInfo {
        format: Format::Vhdx,
        subformat: subformat.to_owned(),
        virtual_size: metadata.virtual_size,
        logical_sector: metadata.logical_sector,
        physical_sector: metadata.physical_sector,
        block_size: Some(metadata.block_size),
        identity: Some(current.header.data_write.to_string()),
        parent,
        dirty: log_state != LogState::Clean,
        facts: facts(current, regions, metadata, creator, log_state),
    })
}

fn facts(
    current: &Current,
    regions: &Regions,
    metadata: &Metadata,
    creator: &str,
    log_state: LogState,
) -> Vec<(&'static str, Fact)> {
    let header = &current.header;
    let guid = |guid: &uuid::Uuid| Fact::Text(guid.to_string());
    vec![
        ("creator", creator.into()),
        ("format-version", Fact::Int(header.version.into())),
        ("sequence-number", header.sequence.into()),
        ("file-write-guid", guid(&header.file_write)),
        ("data-write-guid", guid(&header.data_write)),
        ("headers-valid", (current.valid == [true; 2]).into()),
        ("log-state", log_state.name().into()),
        ("log-guid", guid(&header.log)),
        ("log-version", Fact::Int(header.log_version.into())),
        ("log-offset", header.log_offset.into()),
        ("log-length", header.log_length.into()),
        ("region-tables-valid", (regions.faults == [None, None]).into()),
        ("region-tables-identical", regions.identical.into()),
        ("bat-offset", regions.bat.offset.into()),
        ("bat-length", regions.bat.length.into()),
        ("bat-entries", geometry(metadata).entries().into()),
        ("chunk-ratio", geometry(metadata).ratio().into()),
        ("metadata-offset", regions.metadata.offset.into()),
        ("metadata-length", regions.metadata.length.into()),
        ("virtual-disk-id", guid(&metadata.disk_id)),
        ("leave-blocks-allocated", metadata.leave_allocated.into()),
        ("has-parent", metadata.has_parent.into()),
    ]
}

impl VhdxLayer {
    /// The file itself.
    pub(crate) fn file(&self) -> Result<&Arc<dyn Store>> {
        self.stores.first().ok_or_else(|| Error::internal("a layer without a file"))
    }

    /// Brings `info` up to date after a change.
    pub(crate) fn refresh_info(&mut self) -> Result<()> {
        let creator = header::read_creator(&**self.file()?);
        self.info = info(&self.current, &self.regions, &self.metadata, &creator, LogState::Clean)?;
        Ok(())
    }

    /// Names the file in an error.
    pub(crate) fn named(&self, error: Error) -> Error {
        match self.stores.first() {
            Some(store) => error.in_file(store.name()),
            None => error,
        }
    }
}

impl Layer for VhdxLayer {
    fn info(&self) -> &LayerInfo {
        &self.info
    }

    fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<LayerExtent> {
        if offset >= end || end > self.info.virtual_size {
            return Err(Error::new(
                ErrorKind::OutOfRange,
                format!("bytes {offset}..{end} of a disk of {} bytes", self.info.virtual_size),
            ));
        }
        self.map.extent_at(offset, end).map_err(|error| self.named(error))
    }

    fn plan_compact(&self, vacant: &Vacant) -> Result<Compaction> {
        self.plan(vacant).map_err(|error| self.named(error))
    }

    fn check(&self, findings: &mut Findings) -> Result<()> {
        check::check(self, findings).map_err(|error| self.named(error))
    }
}
