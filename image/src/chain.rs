//! A chain of layers as one disk: the only place that asks a parent.

use std::num::NonZeroUsize;
use std::ops::Range;
use std::sync::{Arc, Mutex, PoisonError};

use lru::LruCache;
use vdisk_core::disk::in_range;
use vdisk_core::{
    Disk, Error, ErrorKind, Extent, ExtentKind, Extents, Grain, Layer, LayerExtent, LayerKind,
    Result, Run, Store, StoreExt,
};

/// Inflated grains kept for reads smaller than a grain.
const GRAINS: NonZeroUsize = NonZeroUsize::new(16).unwrap();
/// Bytes of them kept, but for the last one: a file may have grains of many megabytes.
const GRAIN_BYTES: usize = 8 << 20;

/// Layers from the top to the last parent, read as one disk of the top's length. A smaller parent
/// goes on with zeros.
#[derive(Debug)]
pub struct Chain {
    layers: Vec<Box<dyn Layer>>,
    /// The stores of all layers, one after the other: extents number them so.
    stores: Vec<Arc<dyn Store>>,
    /// Where each layer's stores start in `stores`.
    first_store: Vec<usize>,
    len: u64,
    beyond: Beyond,
    grains: Mutex<Inflated>,
}

/// What stands where the last layer asks a parent.
#[derive(Clone, Copy, Debug)]
enum Beyond {
    /// Zeros: it has none.
    Nothing,
    /// It names one, which was not opened: an error.
    Missing,
    /// What somebody else knows.
    Unknown,
}

/// Inflated grains by layer and first guest byte.
type Inflated = LruCache<(usize, u64), Arc<[u8]>>;

impl Chain {
    /// Joins `layers`, top first. Whatever the last one asks a parent for is an error if it names
    /// a parent, and zero if it does not.
    #[must_use]
    pub fn new(layers: Vec<Box<dyn Layer>>) -> Self {
        let mut stores = Vec::new();
        let mut first_store = Vec::new();
        for layer in &layers {
            first_store.push(stores.len());
            stores.extend(layer.stores().iter().cloned());
        }
        let len = layers.first().map_or(0, |top| top.info().virtual_size);
        let beyond = match layers.last() {
            Some(last) if last.info().parent.is_some() => Beyond::Missing,
            _ => Beyond::Nothing,
        };
        let grains = Mutex::new(LruCache::new(GRAINS));
        Self { layers, stores, first_store, len, beyond, grains }
    }

    /// Joins the upper `layers` of a chain, top first. Whatever they leave to the layers below them
    /// is an [opaque](ExtentKind::Opaque) extent, which cannot be read.
    #[must_use]
    pub(crate) fn upper(layers: Vec<Box<dyn Layer>>) -> Self {
        Self { beyond: Beyond::Unknown, ..Self::new(layers) }
    }

    /// Takes the layers out again.
    pub(crate) fn into_layers(self) -> Vec<Box<dyn Layer>> {
        self.layers
    }

    /// The layers, top first.
    #[must_use]
    pub fn layers(&self) -> &[Box<dyn Layer>] {
        &self.layers
    }

    fn walk(&self, range: Range<u64>, refine: bool) -> Walk<'_> {
        let cached = vec![None; self.layers.len()];
        Walk { chain: self, at: range.start, end: range.end, cached, refine, run: None }
    }

    fn beyond_last(&self, offset: u64) -> Result<ExtentKind> {
        match self.beyond {
            Beyond::Nothing => return Ok(ExtentKind::Zero { explicit: false }),
            Beyond::Unknown => return Ok(ExtentKind::Opaque),
            Beyond::Missing => {}
        }
        let name = self.stores.last().map(|store| store.name().to_owned()).unwrap_or_default();
        Err(Error::new(
            ErrorKind::ParentMissing,
            format!("guest byte {offset} stands in the parent, which is not open"),
        )
        .in_file(name)
        .hint("open the image together with its parents"))
    }

    fn read_extent(&self, extent: &Extent, buf: &mut [u8]) -> Result<()> {
        match extent.kind {
            ExtentKind::Data { store, at } => {
                self.store_numbered(store)?.fetch(buf, at, "guest data")
            }
            ExtentKind::Compressed(grain) => self.read_grain(extent, &grain, buf),
            ExtentKind::Zero { .. } => {
                buf.fill(0);
                Ok(())
            }
            _ => Err(Error::internal("what other layers hold was asked of these")),
        }
    }

    fn read_grain(&self, extent: &Extent, grain: &Grain, buf: &mut [u8]) -> Result<()> {
        let layer =
            self.layers.get(extent.depth).ok_or_else(|| Error::internal("no such layer"))?;
        let mut local = *grain;
        local.store -= self.first_store.get(extent.depth).copied().unwrap_or_default();
        if extent.start == grain.start && buf.len() as u64 == grain.len {
            return layer.inflate(&local, buf);
        }
        let key = (extent.depth, grain.start);
        let kept = self.grains.lock().unwrap_or_else(PoisonError::into_inner).get(&key).cloned();
        let whole = match kept {
            Some(whole) => whole,
            None => {
                let mut whole = vec![0; usize::try_from(grain.len).unwrap_or_default()];
                layer.inflate(&local, &mut whole)?;
                let whole: Arc<[u8]> = whole.into();
                let mut grains = self.grains.lock().unwrap_or_else(PoisonError::into_inner);
                grains.put(key, whole.clone());
                while grains.len() > 1
                    && grains.iter().map(|(_, grain)| grain.len()).sum::<usize>() > GRAIN_BYTES
                {
                    grains.pop_lru();
                }
                whole
            }
        };
        let skip = usize::try_from(extent.start - grain.start).unwrap_or(usize::MAX);
        let piece = whole.get(skip..).and_then(|rest| rest.get(..buf.len()));
        buf.copy_from_slice(piece.ok_or_else(|| Error::internal("an extent beyond its grain"))?);
        Ok(())
    }

    fn store_numbered(&self, id: usize) -> Result<&Arc<dyn Store>> {
        self.stores.get(id).ok_or_else(|| Error::internal("an extent names no store"))
    }
}

impl Disk for Chain {
    fn len(&self) -> u64 {
        self.len
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        in_range(offset, buf.len() as u64, self.len)?;
        let mut rest = buf;
        for extent in self.walk(offset..offset + rest.len() as u64, false) {
            let extent = extent?;
            let len = usize::try_from(extent.len).unwrap_or(rest.len()).min(rest.len());
            let (piece, later) = rest.split_at_mut(len);
            self.read_extent(&extent, piece)?;
            rest = later;
        }
        Ok(())
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        let first = self.walk(offset..end, true).next();
        first.unwrap_or_else(|| Err(Error::internal("asked for an empty extent")))
    }

    fn extents(&self, range: Range<u64>) -> Extents<'_> {
        Box::new(self.walk(range, true))
    }

    fn store(&self, id: usize) -> Option<&Arc<dyn Store>> {
        self.stores.get(id)
    }
}

/// A walk through the extents. Remembers what each layer last said, so that a long hole in a child
/// is looked up once, however many pieces its parents cut it into.
struct Walk<'a> {
    chain: &'a Chain,
    at: u64,
    end: u64,
    cached: Vec<Option<LayerExtent>>,
    /// Whether data that is a hole of the host file shall be called zero.
    refine: bool,
    /// The host file's run last seen: store, start, run.
    run: Option<(usize, u64, Run)>,
}

impl Walk<'_> {
    fn resolve(&mut self) -> Result<Extent> {
        let start = self.at;
        let mut end = self.end;
        for depth in 0..self.chain.layers.len() {
            let Some(found) = self.ask(depth, start)? else {
                return Ok(Extent {
                    start,
                    len: end - start,
                    depth,
                    kind: ExtentKind::Zero { explicit: false },
                });
            };
            end = end.min(found.start.saturating_add(found.len));
            let skip = start - found.start;
            let base = self.chain.first_store.get(depth).copied().unwrap_or_default();
            let kind = match found.kind {
                LayerKind::Hole => continue,
                LayerKind::Zero { explicit } => ExtentKind::Zero { explicit },
                LayerKind::Compressed(grain) => {
                    ExtentKind::Compressed(Grain { store: base + grain.store, ..grain })
                }
                LayerKind::Data { store, at } => {
                    ExtentKind::Data { store: base + store, at: at + skip }
                }
            };
            let extent = Extent { start, len: end - start, depth, kind };
            return if self.refine { self.see_holes(extent) } else { Ok(extent) };
        }
        let depth = self.chain.layers.len().saturating_sub(1);
        Ok(Extent { start, len: end - start, depth, kind: self.chain.beyond_last(start)? })
    }

    /// What the layer says of guest byte `start`; `None` where it has ended.
    fn ask(&mut self, depth: usize, start: u64) -> Result<Option<LayerExtent>> {
        let (Some(layer), Some(cached)) =
            (self.chain.layers.get(depth), self.cached.get_mut(depth))
        else {
            return Ok(None);
        };
        if let Some(known) = cached
            && known.start <= start
            && start < known.start.saturating_add(known.len)
        {
            return Ok(Some(*known));
        }
        let size = layer.info().virtual_size;
        if start >= size {
            return Ok(None);
        }
        let found = layer.extent_at(start, self.end.min(size))?;
        if found.start != start || found.len == 0 {
            return Err(Error::internal("a layer gave an extent that does not start where asked"));
        }
        *cached = Some(found);
        Ok(Some(found))
    }

    /// Cuts a data extent where the host file changes between data and hole; a hole is zero.
    fn see_holes(&mut self, extent: Extent) -> Result<Extent> {
        let ExtentKind::Data { store, at } = extent.kind else { return Ok(extent) };
        let known = self
            .run
            .filter(|(id, start, run)| *id == store && *start <= at && at - start < run.len);
        let (_, start, run) = match known {
            Some(known) => known,
            None => {
                let file = self.chain.store_numbered(store)?;
                let run = file.run_at(at, at.saturating_add(extent.len)).map_err(|e| {
                    Error::io(e, "look for holes").at("guest data", at).in_file(file.name())
                })?;
                (store, at, run)
            }
        };
        self.run = Some((store, start, run));
        let len = extent.len.min(start.saturating_add(run.len) - at).max(1);
        let kind = if run.hole { ExtentKind::Zero { explicit: true } } else { extent.kind };
        Ok(Extent { len, kind, ..extent })
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<Extent>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.at >= self.end {
            return None;
        }
        let extent = self.resolve();
        self.at = extent.as_ref().map_or(self.end, Extent::end);
        Some(extent)
    }
}
