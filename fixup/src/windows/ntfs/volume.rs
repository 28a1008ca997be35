//! The volume: where file records and the contents of attributes stand, read and written.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use vdisk_core::{CowDisk, Disk, Error, Result};

use super::record::{Body, DATA, LIST, Record};
use super::{damaged, le16, le32, le64, put};

/// Where bytes of an attribute stand on the volume, in order.
pub(super) type Runs = Vec<Range<u64>>;

/// Bytes of a stride whose end an update sequence keeps, whatever the sectors are.
const STRIDE: usize = 512;
/// Most bytes of an attribute that are read at once.
const MOST: u64 = 1 << 30;

/// An NTFS volume, open for changing its bytes.
#[derive(Debug)]
pub struct Ntfs {
    disk: Arc<CowDisk>,
    /// Bytes of a cluster.
    pub(super) cluster: u64,
    clusters: u64,
    /// Bytes of a file record.
    pub(super) record: usize,
    /// Bytes of an index block.
    pub(super) index: usize,
    mft: Runs,
    /// Copies of the first records.
    mirror: Runs,
}

/// What an attribute holds.
#[derive(Clone, Debug)]
pub(super) enum Content {
    /// It stands in the file record of this number, at these bytes.
    Resident(u64, Range<usize>),
    /// It stands at these bytes of the volume; so many of them count.
    Runs(Runs, u64),
}

impl Ntfs {
    /// Reads the boot sector and finds the master file table.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`](vdisk_core::ErrorKind::Corrupt) where they cannot be; the disk's.
    pub fn open(disk: Arc<CowDisk>) -> Result<Self> {
        let mut boot = [0; 512];
        disk.read_at(&mut boot, 0)?;
        let wrong = |what: &str| damaged("NTFS boot sector", 0, what);
        if !boot.get(3..).is_some_and(|rest| rest.starts_with(b"NTFS    ")) {
            return Err(wrong("it is not one"));
        }
        let [sector, per_cluster] = [le16(&boot, 0x0B) as u64, coded(boot[0x0D], 1)];
        let cluster = sector.saturating_mul(per_cluster);
        let clusters = le64(&boot, 0x28) / per_cluster.max(1);
        if !cluster.is_power_of_two()
            || !(512..=2 << 20).contains(&cluster)
            || clusters.saturating_mul(cluster) > disk.len()
        {
            return Err(wrong("its sizes are not possible"));
        }
        let size = |at: usize| {
            let bytes = coded(boot.get(at).copied().unwrap_or_default(), cluster);
            let size = usize::try_from(bytes).ok();
            let size = size.filter(|size| size.is_power_of_two() && (512..=1 << 16).contains(size));
            size.ok_or_else(|| wrong("its records have no possible size"))
        };
        let (record, index) = (size(0x40)?, size(0x44)?);
        let start = le64(&boot, 0x30).saturating_mul(cluster);
        let mft = std::iter::once(start..start.saturating_add(record as u64)).collect();
        let mut ntfs = Self { disk, cluster, clusters, record, index, mft, mirror: Runs::new() };
        ntfs.mft = ntfs.record(0)?.first_runs(DATA, &ntfs)?;
        let Some(Content::Runs(mft, _)) = ntfs.attribute(0, DATA, "")? else {
            return Err(damaged("NTFS master file table", start, "it does not say where it is"));
        };
        ntfs.mft = mft;
        if let Some(Content::Runs(mirror, _)) = ntfs.attribute(1, DATA, "")? {
            ntfs.mirror = mirror;
        }
        Ok(ntfs)
    }

    /// File records that there is room for.
    pub(super) fn records(&self) -> u64 {
        length(&self.mft) / self.record as u64
    }

    /// A file record.
    pub(super) fn record(&self, number: u64) -> Result<Record> {
        let offset = number.saturating_mul(self.record as u64);
        let bytes = self.read(&self.mft, offset, self.record)?;
        Record::parse(number, bytes)
            .ok_or_else(|| damaged("NTFS file record", offset, "it is torn or none"))
    }

    /// So many records from `first` on that can be read, those out of use too.
    pub(super) fn records_at(&self, first: u64, count: usize) -> Result<Vec<Record>> {
        let offset = first.saturating_mul(self.record as u64);
        let bytes = self.read(&self.mft, offset, count.saturating_mul(self.record))?;
        let all = bytes.chunks_exact(self.record).zip(first..);
        Ok(all.filter_map(|(bytes, number)| Record::parse(number, bytes.to_vec())).collect())
    }

    /// Writes a file record, and its copy where it has one.
    pub(super) fn write_record(&self, record: &Record) -> Result<()> {
        let offset = record.number.saturating_mul(self.record as u64);
        let bytes = sealed(&record.bytes).ok_or_else(lost)?;
        self.write(&self.mft, offset, &bytes)?;
        if offset + bytes.len() as u64 <= length(&self.mirror) {
            self.write(&self.mirror, offset, &bytes)?;
        }
        Ok(())
    }

    /// The attribute of a kind and name of a file, wherever its records tell of it.
    pub(super) fn attribute(&self, file: u64, kind: u32, name: &str) -> Result<Option<Content>> {
        let base = self.record(file)?;
        let Some(list) = base.find(LIST, "") else {
            let Some(found) = base.find(kind, name) else { return Ok(None) };
            return self.gather(&[(base.clone(), found)]).map(Some);
        };
        let list = match list.body {
            Body::Resident(range) => base.bytes.get(range).map(<[u8]>::to_vec),
            Body::Runs { at, size, .. } => {
                let runs = base.runs(at, self)?;
                Some(self.read(&runs, 0, bounded(size)?)?)
            }
        };
        let list = list.ok_or_else(|| base.wrong("its list of attributes cannot be read"))?;
        let mut pieces = BTreeMap::new();
        for (vcn, number) in listed(&list, kind, name) {
            let record = self.record(number)?;
            for found in record.attributes() {
                if found.kind == kind && found.name == name && found.first_vcn() == vcn {
                    pieces.insert(vcn, (record.clone(), found));
                }
            }
        }
        let pieces: Vec<_> = pieces.into_values().collect();
        if pieces.is_empty() { Ok(None) } else { self.gather(&pieces).map(Some) }
    }

    fn gather(&self, pieces: &[(Record, super::record::Attribute)]) -> Result<Content> {
        let mut all = Runs::new();
        let mut told = 0;
        for (record, attribute) in pieces {
            match &attribute.body {
                Body::Resident(range) => {
                    return Ok(Content::Resident(record.number, range.clone()));
                }
                Body::Runs { at, vcn, size, plain } => {
                    if !plain || vcn.saturating_mul(self.cluster) != length(&all) {
                        return Err(record.wrong("an attribute is coded, or a piece is missing"));
                    }
                    told = told.max(if *vcn == 0 { *size } else { 0 });
                    all.extend(record.runs(*at, self)?);
                }
            }
        }
        if told > length(&all) {
            let at = all.first().map_or(0, |run| run.start);
            return Err(damaged("NTFS attribute", at, "it is longer than its clusters"));
        }
        Ok(Content::Runs(all, told))
    }

    /// All bytes of an attribute.
    pub(super) fn content(&self, content: &Content) -> Result<Vec<u8>> {
        match content {
            Content::Resident(number, range) => {
                let record = self.record(*number)?;
                record.bytes.get(range.clone()).map(<[u8]>::to_vec).ok_or_else(lost)
            }
            Content::Runs(runs, size) => self.read(runs, 0, bounded(*size)?),
        }
    }

    /// Writes bytes into an attribute, which keeps its length.
    pub(super) fn write_content(&self, content: &Content, at: u64, bytes: &[u8]) -> Result<()> {
        match content {
            Content::Resident(number, range) => {
                let mut record = self.record(*number)?;
                let start = usize::try_from(at).unwrap_or(usize::MAX);
                let place = record.bytes.get_mut(range.clone());
                place.and_then(|place| put(place, start, bytes)).ok_or_else(lost)?;
                self.write_record(&record)
            }
            Content::Runs(runs, _) => self.write(runs, at, bytes),
        }
    }

    /// The run of clusters `first..first + count` as bytes of the volume.
    pub(super) fn run(&self, first: i64, count: i64) -> Option<Range<u64>> {
        let (first, count) = (u64::try_from(first).ok()?, u64::try_from(count).ok()?);
        let end = first.checked_add(count).filter(|end| *end <= self.clusters)?;
        Some(first * self.cluster..end * self.cluster)
    }

    fn read(&self, runs: &Runs, offset: u64, len: usize) -> Result<Vec<u8>> {
        let pieces = pieces(runs, offset, len as u64)?;
        let mut bytes = vec![0; len];
        let mut done = 0;
        for piece in pieces {
            let count = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
            let place = bytes.get_mut(done..).and_then(|rest| rest.get_mut(..count));
            self.disk.read_at(place.ok_or_else(lost)?, piece.start)?;
            done += count;
        }
        Ok(bytes)
    }

    fn write(&self, runs: &Runs, offset: u64, bytes: &[u8]) -> Result<()> {
        let mut rest = bytes;
        for piece in pieces(runs, offset, bytes.len() as u64)? {
            let count = usize::try_from(piece.end - piece.start).unwrap_or(usize::MAX);
            let (now, later) = rest.split_at_checked(count).ok_or_else(lost)?;
            self.disk.write_at(now, piece.start)?;
            rest = later;
        }
        Ok(())
    }
}

/// Puts the ends of a block's strides back; `None` where it is torn, or not a block of this magic.
pub(super) fn opened(mut bytes: Vec<u8>, magic: &[u8; 4]) -> Option<Vec<u8>> {
    let (array, count) = (le16(&bytes, 4), le16(&bytes, 6));
    let strides = bytes.len() / STRIDE;
    if !bytes.starts_with(magic) || count != strides + 1 || array + count * 2 > STRIDE {
        return None;
    }
    let mark = le16(&bytes, array);
    for stride in 1..count {
        let (end, kept) =
            (stride * STRIDE - 2, bytes.get(array + stride * 2..)?.first_chunk::<2>());
        let kept = *kept?;
        if le16(&bytes, end) != mark {
            return None;
        }
        put(&mut bytes, end, &kept)?;
    }
    Some(bytes)
}

/// The block as it is written: with the next mark at the ends of its strides.
pub(super) fn sealed(bytes: &[u8]) -> Option<Vec<u8>> {
    let mut bytes = bytes.to_vec();
    let (array, count) = (le16(&bytes, 4), le16(&bytes, 6));
    let mark = match u16::from_le_bytes(super::le(&bytes, array)) {
        0xFFFE.. => 1,
        mark => mark + 1,
    };
    let mark = mark.to_le_bytes();
    put(&mut bytes, array, &mark)?;
    for stride in 1..count {
        let end = stride * STRIDE - 2;
        let kept: [u8; 2] = *bytes.get(end..)?.first_chunk()?;
        put(&mut bytes, array + stride * 2, &kept)?;
        put(&mut bytes, end, &mark)?;
    }
    Some(bytes)
}

/// The pieces of an attribute's list that tell of this kind and name: first cluster, file record.
fn listed(list: &[u8], kind: u32, name: &str) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut rest = list;
    while rest.len() >= 26 {
        let (len, units) = (le16(rest, 4), usize::from(super::le::<1>(rest, 6)[0]));
        let start = usize::from(super::le::<1>(rest, 7)[0]);
        let told =
            rest.get(start..).and_then(|rest| rest.get(..units * 2)).map(super::record::text);
        if le32(rest, 0) == kind && (units == 0 && name.is_empty() || told.as_deref() == Some(name))
        {
            found.push((le64(rest, 8), le64(rest, 16) & 0xFFFF_FFFF_FFFF));
        }
        if len < 26 {
            break;
        }
        rest = rest.get(len..).unwrap_or_default();
    }
    found
}

/// A size in the boot sector: units, or where negative, the power of two of bytes.
fn coded(byte: u8, unit: u64) -> u64 {
    match byte {
        0..=0x80 => unit.saturating_mul(byte.into()),
        _ => 1_u64.checked_shl(256 - u32::from(byte)).unwrap_or_default(),
    }
}

pub(super) fn length(runs: &Runs) -> u64 {
    runs.iter().fold(0, |sum, run| sum.saturating_add(run.end - run.start))
}

/// Bytes `offset..offset + len` of what stands at `runs`, as bytes of the volume.
fn pieces(runs: &Runs, offset: u64, len: u64) -> Result<Runs> {
    let (mut skip, mut left) = (offset, len);
    let mut found = Runs::new();
    for run in runs {
        let size = run.end - run.start;
        if skip >= size {
            skip -= size;
            continue;
        }
        let start = run.start + skip;
        let end = run.end.min(start.saturating_add(left));
        skip = 0;
        left -= end - start;
        found.push(start..end);
        if left == 0 {
            return Ok(found);
        }
    }
    if left == 0 {
        return Ok(found);
    }
    let at = runs.first().map_or(0, |run| run.start);
    Err(damaged(
        "NTFS attribute",
        at,
        format!("it ends before byte {}", offset.saturating_add(len)),
    ))
}

fn bounded(size: u64) -> Result<usize> {
    usize::try_from(size).ok().filter(|_| size <= MOST).ok_or_else(|| {
        Error::unsupported(format!("an attribute of {size} bytes is more than is read at once"))
    })
}

fn lost() -> Error {
    Error::internal("a write beyond the end of an NTFS structure")
}
