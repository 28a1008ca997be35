//! Raw images: the guest's bytes and nothing else. Files (with holes) and block devices.

use std::ops::Range;
use std::sync::Arc;

use vdisk_core::compact::{punch, punchable};
use vdisk_core::disk::in_range;
use vdisk_core::{
    Compaction, Disk, Error, ErrorKind, Files, Findings, Format, HostFile, ImageWriter, Layer,
    LayerExtent, LayerInfo, LayerKind, LayerMut, Placement, Result, Severity, Store, StoreExt,
    Vacant, Watch,
};

const SECTOR: u64 = 512;

/// A raw image as a layer without parent.
#[derive(Debug)]
pub struct RawLayer {
    info: LayerInfo,
    stores: [Arc<dyn Store>; 1],
    writable: bool,
    /// A flush failed: the host may have dropped what it could not write.
    failed: bool,
}

impl RawLayer {
    /// Opens `store` as raw. Its length need not be a multiple of a sector.
    ///
    /// # Errors
    /// The host's.
    pub fn open(store: Arc<dyn Store>, writable: bool) -> Result<Self> {
        let device = store.host().is_some_and(vdisk_core::HostFile::is_device);
        let info = LayerInfo {
            format: Format::Raw,
            subformat: if device { "device" } else { "file" }.to_owned(),
            virtual_size: store.size()?,
            logical_sector: 512,
            physical_sector: 512,
            block_size: None,
            identity: None,
            parent: None,
            dirty: false,
            facts: Vec::new(),
        };
        Ok(Self { info, stores: [store], writable, failed: false })
    }

    fn store(&self) -> &Arc<dyn Store> {
        let [store] = &self.stores;
        store
    }

    fn may_write(&self) -> Result<()> {
        if self.failed {
            return Err(Error::new(ErrorKind::Io, "an earlier flush failed")
                .in_file(self.store().name())
                .hint("what was written last may be lost; open the image again and check it"));
        }
        if self.writable {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Denied, "is open for reading only").in_file(self.store().name()))
    }
}

impl Layer for RawLayer {
    fn info(&self) -> &LayerInfo {
        &self.info
    }

    fn stores(&self) -> &[Arc<dyn Store>] {
        &self.stores
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<LayerExtent> {
        let kind = LayerKind::Data { store: 0, at: offset };
        Ok(LayerExtent { start: offset, len: end - offset, kind })
    }

    fn plan_compact(&self, vacant: &Vacant) -> Result<Compaction> {
        let mut plan = Compaction::default();
        for range in &vacant.unsaid {
            plan.punched += punchable(&**self.store(), range.clone())?;
        }
        Ok(plan)
    }

    fn check(&self, findings: &mut Findings) -> Result<()> {
        if !self.info.virtual_size.is_multiple_of(SECTOR) {
            let size = self.info.virtual_size;
            findings.add(
                Severity::Note,
                "raw-odd-length",
                size,
                format!("{size} bytes are not a whole number of 512-byte sectors"),
            );
        }
        Ok(())
    }
}

impl LayerMut for RawLayer {
    fn write(&mut self, data: &[u8], offset: u64, _below: &dyn Disk) -> Result<()> {
        self.may_write()?;
        in_range(offset, data.len() as u64, self.info.virtual_size)?;
        self.store().put(data, offset, "guest data")
    }

    fn zero(&mut self, range: Range<u64>, _below: &dyn Disk) -> Result<()> {
        self.may_write()?;
        in_range(range.start, range.end - range.start, self.info.virtual_size)?;
        self.store().clear(range.start, range.end - range.start, "guest data")
    }

    fn resize(&mut self, virtual_size: u64) -> Result<()> {
        self.may_write()?;
        if self.info.subformat == "device" {
            return Err(Error::unsupported("a block device has the size it has")
                .in_file(self.store().name()));
        }
        self.store().resize(virtual_size)?;
        self.info.virtual_size = virtual_size;
        // A length that gets lost where later writes do not would be neither the old nor the new.
        self.flush()
    }

    fn compact(&mut self, vacant: &Vacant, _watch: Watch<'_>) -> Result<Compaction> {
        self.may_write()?;
        let mut done = Compaction::default();
        for range in &vacant.unsaid {
            done.punched += punch(&**self.store(), range.clone(), "guest data")?;
        }
        self.flush()?;
        Ok(done)
    }

    fn flush(&mut self) -> Result<()> {
        self.may_write()?;
        let flushed = self.store().flush();
        self.failed = flushed.is_err();
        flushed
    }

    fn close(&mut self) -> Result<()> {
        if self.writable { self.flush() } else { Ok(()) }
    }
}

/// A new raw image.
#[derive(Debug)]
pub struct RawWriter {
    store: Arc<dyn Store>,
    virtual_size: u64,
}

impl RawWriter {
    /// Creates a raw image of `virtual_size` bytes, all hole.
    ///
    /// # Errors
    /// The host's.
    pub fn create(files: &mut dyn Files, virtual_size: u64) -> Result<Self> {
        let name = files.main_name().to_owned();
        let store = files.create(&name)?;
        store.resize(virtual_size)?;
        Ok(Self { store, virtual_size })
    }
}

impl ImageWriter for RawWriter {
    fn virtual_size(&self) -> u64 {
        self.virtual_size
    }

    fn unit(&self) -> u64 {
        4096
    }

    fn place(&mut self, range: Range<u64>) -> Result<Placement> {
        in_range(range.start, range.end - range.start, self.virtual_size)?;
        let len = range.end - range.start;
        Ok(Placement { store: self.store.clone(), at: range.start, len })
    }

    fn host(&self) -> Option<&HostFile> {
        self.store.host()
    }

    fn finish(self: Box<Self>) -> Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use vdisk_core::disk::ZeroDisk;
    use vdisk_core::{MemFiles, MemStore};
    use vdisk_testkit::content::Content;
    use vdisk_testkit::model::{Subject, assert_reads, drive};
    use vdisk_testkit::{VecDisk, fill::fill};

    #[test]
    fn writer_and_layer_agree() {
        for (seed, len) in [(1, 512), (2, 100_001), (3, 5 << 20)] {
            let content = Content::random(len, seed);
            let mut files = MemFiles::new("a.img");
            fill(Box::new(RawWriter::create(&mut files, len).unwrap()), &content).unwrap();
            let layer = RawLayer::open(files.get("a.img").unwrap(), false).unwrap();
            assert_reads(&layer, &ZeroDisk(len), content.bytes(), "raw");
        }
    }

    #[test]
    fn model() {
        for seed in 0..4 {
            let store = Arc::new(MemStore::new("a.img"));
            store.set_len(300_000).unwrap();
            let subject = Subject {
                open: Box::new(|| Ok(Box::new(RawLayer::open(store.clone(), true)?))),
                below: VecDisk(Vec::new()),
                resize_step: Some(512),
                max_size: 1 << 20,
                unit: 65536,
            };
            drive(subject, seed, 400);
        }
    }
}
