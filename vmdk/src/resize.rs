//! Changing the virtual size: of the last extent, in an order that a power cut cannot spoil. What
//! grows is there before the descriptor says so, what shrinks stays until after.

use vdisk_core::{Error, Findings, PagedTable, Result, Severity, StoreExt};
use zerocopy::IntoBytes;

use crate::allocate::sector_bytes;
use crate::check::check_hosted;
use crate::create::{MAX_SIZE, MOST_SPARSE, SPLIT};
use crate::extent::{Body, Extent, Flat};
use crate::hosted::Hosted;
use crate::layer::VmdkLayer;
use crate::tables::{Entry, Holes, Shape};
use crate::template::geometry;
use crate::unit::{SECTOR, round_up, to_usize};

impl VmdkLayer {
    /// Makes the disk `size` bytes long.
    pub(crate) fn resize_to(&mut self, size: u64) -> Result<()> {
        self.refuse_change()?;
        if size == self.info.virtual_size {
            return self.finish_resize();
        }
        let index = self.extents.len().saturating_sub(1);
        let (old, len) = self.refuse_resize(size, index)?;
        self.change(|layer| {
            layer.stamp()?;
            if len > old {
                layer.resize_body(index, len)?;
                layer.resize_descriptor(index, len)?;
            } else {
                layer.resize_descriptor(index, len)?;
                layer.resize_body(index, len)?;
            }
            if let Some(extent) = layer.extents.get_mut(index) {
                extent.len = len;
            }
            layer.refresh();
            Ok(())
        })
    }

    /// Does what is left of a resize that was cut off and asked for the present size.
    fn finish_resize(&mut self) -> Result<()> {
        let unfinished = |extent: &Extent| match &extent.body {
            Body::Hosted(hosted) => extent.writable && hosted.header.capacity > extent.len,
            _ => false,
        };
        if !self.extents.iter().any(unfinished) {
            return Ok(());
        }
        self.change(|layer| {
            for extent in layer.extents.iter_mut().filter(|extent| unfinished(extent)) {
                if let Body::Hosted(hosted) = &mut extent.body {
                    hosted.forget_beyond(extent.len)?;
                }
            }
            Ok(())
        })
    }

    /// Fails where the disk cannot have `size` bytes; else the bytes of its last extent, now and
    /// then.
    fn refuse_resize(&self, size: u64, index: usize) -> Result<(u64, u64)> {
        let sector = u64::from(self.info.logical_sector);
        if size == 0 || !size.is_multiple_of(sector) {
            return Err(Error::usage(format!("a disk of {size} bytes"))
                .hint(format!("give a positive multiple of {sector}")));
        }
        if self.is_delta() {
            return Err(Error::unsupported("a differencing disk has the size of its parent")
                .hint("merge it into its parent first, or convert the chain"));
        }
        let unsupported = |why: &str| Err(Error::unsupported(format!("resizing: {why}")));
        let Some(extent) = self.extents.get(index) else {
            return unsupported("the disk has no extents");
        };
        let file = self.file_number(extent.store);
        let others = self.extents.iter().take(index);
        if others
            .into_iter()
            .any(|other| !matches!(other.body, Body::Zero) && self.file_number(other.store) == file)
        {
            return unsupported("the file of the last extent holds others too");
        }
        let subformat = self.info.subformat.as_str();
        if matches!(subformat, "fullDevice" | "partitionedDevice" | "custom") || !extent.writable {
            return unsupported("the last extent may not be changed");
        }
        let split = matches!(subformat, "twoGbMaxExtentSparse" | "twoGbMaxExtentFlat");
        let most = match (&extent.body, split) {
            (_, true) => extent.start.saturating_add(SPLIT.max(extent.len)),
            (Body::Hosted(_), _) => extent.start.saturating_add(MOST_SPARSE),
            (Body::Flat(_), _) => MAX_SIZE,
            _ => return unsupported("the last extent is of a type that is only read"),
        };
        if size > most || size <= extent.start {
            return Err(Error::unsupported(format!(
                "resizing: without adding or removing files the disk can have from {} to {most} bytes",
                extent.start + sector
            ))
            .hint("convert the disk to another variant"));
        }
        Ok((extent.len, size - extent.start))
    }

    fn resize_body(&mut self, index: usize, len: u64) -> Result<()> {
        let old = self.extents.get(index).map_or(0, |extent| extent.len);
        match self.extents.get_mut(index).map(|extent| &mut extent.body) {
            Some(Body::Flat(flat)) if len > old => flat.grow(old, len),
            Some(Body::Flat(flat)) => flat.shrink(old, len),
            Some(Body::Hosted(hosted)) if len > old => hosted.grow(len),
            Some(Body::Hosted(hosted)) => hosted.shrink(len),
            _ => Err(Error::internal("an extent that cannot be resized")),
        }
    }

    /// Rewrites the descriptor with the new size and geometry.
    fn resize_descriptor(&mut self, index: usize, len: u64) -> Result<()> {
        let mut changed = self.descriptor.clone();
        changed.set_extent_sectors(index, len / SECTOR);
        let sectors: u64 = changed.extents.iter().map(|line| line.sectors).sum();
        let adapter = changed.get("ddb.adapterType").unwrap_or_default().to_ascii_lowercase();
        let (cylinders, heads, track) = geometry(sectors, &adapter);
        changed.set("ddb.geometry.cylinders", &cylinders.to_string());
        changed.set("ddb.geometry.heads", &heads.to_string());
        changed.set("ddb.geometry.sectors", &track.to_string());

        self.put_descriptor(&changed)?;
        self.descriptor = changed;
        Ok(())
    }
}

impl Flat {
    /// Makes the extent longer; what the file may hold there already becomes zeros.
    fn grow(&mut self, old: u64, len: u64) -> Result<()> {
        let (from, to) = (self.offset + old, self.offset + len);
        if from < self.end {
            self.store.clear(from, to.min(self.end) - from, "guest data")?;
        }
        if to > self.end {
            self.store.resize(to)?;
            self.end = to;
        }
        self.store.flush()
    }

    /// Makes the extent shorter, and the file where nothing follows in it.
    fn shrink(&mut self, old: u64, len: u64) -> Result<()> {
        if self.offset + old >= self.end {
            self.end = (self.offset + len).min(self.end);
            self.store.resize(self.end)?;
        }
        self.store.flush()
    }
}

/// Bytes of a directory with the rest of its last sector.
fn directory_room(shape: &Shape) -> u64 {
    round_up(shape.directory_bytes(), SECTOR)
}

impl Hosted {
    /// Makes the extent longer: new tables and, where they have no room, new directories at the
    /// file's end, and then the header, which shows all of it at once.
    fn grow(&mut self, len: u64) -> Result<()> {
        self.mark()?;
        self.clear_beyond_end()?;
        self.flush()?;
        let old = self.tables.shape;
        let new = Shape { len, ..old };
        let mut header = self.header.raw;
        header.capacity = (len / SECTOR).into();
        let mut left = Vec::new();
        if new.tables() > old.tables() {
            let redundant = self.redundant.as_ref().map(PagedTable::offset);
            if let Some(before) = redundant {
                let at = self.lengthen(before, &new)?;
                header.rgd_offset = (at / SECTOR).into();
                left.extend((at != before).then_some(before));
            }
            let before = self.tables.directory.offset();
            let at = self.lengthen(before, &new)?;
            header.gd_offset = (at / SECTOR).into();
            left.extend((at != before).then_some(before));
        }
        self.put_header(header)?;
        for at in left {
            self.tables.store.clear(at, directory_room(&old), "VMDK grain directory")?;
        }
        self.reopen(len)
    }

    /// Adds the empty tables that `new` needs more at the file's end, and writes a directory that
    /// names them behind those there are (now at byte `directory`): in place where its last sector has room, else at the
    /// file's end too. Returns where it stands.
    fn lengthen(&mut self, directory: u64, new: &Shape) -> Result<u64> {
        let old = self.tables.shape;
        let mut bytes = vec![0; to_usize(old.directory_bytes())];
        self.tables.store.fetch(&mut bytes, directory, "VMDK grain directory")?;
        let mut end = round_up(self.tables.end, SECTOR);
        for _ in old.tables()..new.tables() {
            bytes.extend_from_slice(&sector_bytes(end)?);
            end += new.table_bytes();
        }
        let mut at = directory;
        if directory_room(new) > directory_room(&old) {
            bytes.resize(to_usize(directory_room(new)), 0);
            at = end;
            end += directory_room(new);
        }
        self.extend(end)?;
        self.tables.store.put(&bytes, at, "VMDK grain directory")?;
        Ok(at)
    }

    /// Takes out of the file what its header counts beyond the extent's `len` bytes.
    fn forget_beyond(&mut self, len: u64) -> Result<()> {
        let header = crate::header::SparseHeader::read(&*self.tables.store, 0)?;
        let capacity = header.capacity;
        let mut whole = Self::open(self.tables.store.clone(), header, capacity)?;
        let mut findings = Findings::new();
        check_hosted(&whole, &mut findings)?;
        let worst = findings.list().iter().find(|f| f.severity == Severity::Corruption);
        if let Some(worst) = worst {
            let at = worst.offset.unwrap_or_default();
            return Err(Error::corrupt("VMDK grain tables", at, worst.message.clone())
                .in_file(self.tables.store.name())
                .hint("what lies beyond the disk's end is damaged, and was left as it is"));
        }
        (whole.marked, whole.cut_off) = (self.marked, self.cut_off);
        whole.shrink(len)?;
        *self = whole;
        Ok(())
    }

    /// Makes the extent shorter. The descriptor says so already; now what was cut off goes: it
    /// must not come back when the disk grows again.
    fn shrink(&mut self, len: u64) -> Result<()> {
        self.mark()?;
        self.flush()?;
        let old = self.tables.shape;
        self.release(len)?;
        self.tables.shape.len = len;
        self.clear_beyond_end()?;
        self.flush()?;
        let gone = self.tables_of(self.tables.shape.tables()..old.tables())?;
        let mut header = self.header.raw;
        header.capacity = (len / SECTOR).into();
        self.put_header(header)?;
        for at in gone {
            self.tables.store.clear(at, old.table_bytes(), "VMDK grain table")?;
        }
        let (kept, had) = (self.tables.shape.directory_bytes(), old.directory_bytes());
        for directory in std::iter::once(&self.tables.directory).chain(&self.redundant) {
            let at = directory.offset() + kept;
            self.tables.store.clear(at, had - kept, "VMDK grain directory")?;
        }
        self.reopen(len)?;
        let used = self.used_end()?;
        if used < self.tables.end {
            self.tables.store.resize(used)?;
            self.tables.end = used;
        }
        self.tables.store.flush()
    }

    /// Gives back the space of all grains beyond `len`.
    fn release(&mut self, len: u64) -> Result<()> {
        let shape = self.tables.shape;
        let mut next = len.div_ceil(shape.grain);
        while next < shape.grains() {
            let (entry, count) = self.tables.run(next, shape.grains())?;
            if let Entry::At(place) = entry {
                let bytes = (count * shape.grain).min(self.tables.end.saturating_sub(place));
                self.tables.store.clear(place, bytes, "guest data")?;
            }
            next += count;
        }
        Ok(())
    }

    /// Makes what stands beyond the extent's end inside its last grain and its last table zero.
    pub(crate) fn clear_beyond_end(&mut self) -> Result<()> {
        let shape = self.tables.shape;
        let grains = shape.grains();
        if !shape.len.is_multiple_of(shape.grain)
            && let (Entry::At(place), _) = self.tables.run(grains - 1, grains)?
        {
            let from = place + shape.len % shape.grain;
            let to = (place + shape.grain).min(self.tables.end);
            self.tables.store.clear(from, to.saturating_sub(from), "guest data")?;
        }
        let beyond = shape.tables() * shape.per_table - grains;
        let last = self.tables.table(shape.tables() - 1, &mut Holes::default())?;
        let used = to_usize((shape.per_table - beyond) * 4);
        let stale = last.is_some_and(|(_, table)| {
            !vdisk_core::zeros::is_zero(table.get(used..).unwrap_or_default())
        });
        if stale { self.set_entries(grains, beyond, 0, 0) } else { Ok(()) }
    }

    /// Where the tables of `range` stand, in both directories.
    pub(crate) fn tables_of(&self, range: std::ops::Range<u64>) -> Result<Vec<u64>> {
        let mut all = Vec::new();
        for index in range {
            all.extend(self.tables.table_at(index)?);
            all.extend(self.redundant_at(index)?);
        }
        Ok(all)
    }

    /// The end of the last byte of the file that something refers to, if only a redundant table.
    fn used_end(&self) -> Result<u64> {
        let shape = self.tables.shape;
        let mut end = shape.floor.max(self.end_of_copies()?);
        for directory in std::iter::once(&self.tables.directory).chain(&self.redundant) {
            end = end.max(round_up(directory.offset() + directory.len(), SECTOR));
        }
        for at in self.tables_of(0..shape.tables())? {
            end = end.max(at + shape.table_bytes());
        }
        let mut next = 0;
        while next < shape.grains() {
            let (entry, count) = self.tables.run(next, shape.grains())?;
            if let Entry::At(place) = entry {
                end = end.max(place + count * shape.grain);
            }
            next += count;
        }
        Ok(end)
    }

    fn put_header(&mut self, header: crate::header::RawHeader) -> Result<()> {
        self.tables.store.flush()?;
        self.tables.store.put(header.as_bytes(), 0, "VMDK sparse header")?;
        self.tables.store.flush()?;
        self.header.raw = header;
        Ok(())
    }

    /// Starts over with what the header says now, for an extent of `len` bytes.
    fn reopen(&mut self, len: u64) -> Result<()> {
        let header = crate::header::SparseHeader::read(&*self.tables.store, 0)?;
        let (marked, cut_off) = (self.marked, self.cut_off);
        *self = Self::open(self.tables.store.clone(), header, len)?;
        (self.marked, self.cut_off) = (marked, cut_off);
        Ok(())
    }
}
