//! The volume: where file records and the contents of attributes stand.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};

use vdisk_core::{Disk, Error, Result};

use super::record::{ATTRIBUTE_LIST, Attribute, Body, DATA, Record, text};
use super::{Boot, damaged, le, le16, le32, le64};

/// Where bytes of an attribute stand on the volume, in order.
pub type Runs = Vec<Range<u64>>;

/// Most bytes of an attribute that are read at once.
const MOST: u64 = 1 << 30;
/// Most bytes of a list of attributes (ntfs-3g's bound).
const MOST_LIST: u64 = 256 << 10;
/// Most runs of an attribute.
const MOST_RUNS: usize = 1 << 18;
/// The number of a file record without the count of its uses.
const NUMBER: u64 = 0xFFFF_FFFF_FFFF;

/// An NTFS volume; `D` points to its bytes.
#[derive(Debug)]
pub struct Ntfs<D> {
    disk: D,
    boot: Boot,
    mft: Runs,
}

/// What an attribute holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Content {
    /// It stands in the file record of this number, at these bytes.
    Resident(u64, Range<usize>),
    /// It stands at these bytes of the volume; so many of them count.
    Runs(Runs, u64),
}

impl<D: Deref<Target: Disk>> Ntfs<D> {
    /// Reads the boot sector and finds the master file table.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where they cannot be read; the disk's.
    pub fn open(disk: D) -> Result<Self> {
        let boot = Boot::read(&*disk)?;
        let start = boot.mft;
        let first = start..start.saturating_add(boot.record as u64);
        let mut ntfs = Self { disk, boot, mft: vec![first] };
        // The first record tells where those are that may tell of more.
        ntfs.mft = ntfs.record(0)?.first_runs(DATA, &boot)?;
        let Some(Content::Runs(mft, _)) = ntfs.attribute(0, DATA, "")? else {
            return Err(damaged("NTFS master file table", start, "it does not say where it is"));
        };
        ntfs.mft = mft;
        Ok(ntfs)
    }

    /// What the boot sector tells.
    #[must_use]
    pub fn boot(&self) -> &Boot {
        &self.boot
    }

    /// The volume's bytes.
    #[must_use]
    pub fn disk(&self) -> &D {
        &self.disk
    }

    /// Where the master file table stands.
    #[must_use]
    pub fn mft(&self) -> &Runs {
        &self.mft
    }

    /// File records that there is room for.
    #[must_use]
    pub fn records(&self) -> u64 {
        length(&self.mft) / self.boot.record as u64
    }

    /// A file record.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where it is torn or none; the disk's.
    pub fn record(&self, number: u64) -> Result<Record> {
        let offset = number.saturating_mul(self.boot.record as u64);
        let bytes = self.read(&self.mft, offset, self.boot.record)?;
        Record::parse(number, bytes).ok_or_else(|| {
            let place = pieces(&self.mft, offset, 1).ok().and_then(|runs| runs.first().cloned());
            let at = place.map_or(offset, |run| run.start);
            damaged("NTFS file record", at, format!("record {number} is torn, or none"))
        })
    }

    /// So many records from `first` on that can be read, those out of use too.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) beyond the end of the table; the disk's.
    pub fn records_at(&self, first: u64, count: usize) -> Result<Vec<Record>> {
        let record = self.boot.record;
        let offset = first.saturating_mul(record as u64);
        let bytes = self.read(&self.mft, offset, count.saturating_mul(record))?;
        let all = bytes.chunks_exact(record).zip(first..);
        Ok(all.filter_map(|(bytes, number)| Record::parse(number, bytes.to_vec())).collect())
    }

    /// The attribute of a kind and name of a file, wherever its records tell of it.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where a piece of it is missing, or it has holes
    /// or is coded; the disk's.
    pub fn attribute(&self, file: u64, kind: u32, name: &str) -> Result<Option<Content>> {
        let base = self.record(file)?;
        let Some(list) = base.find(ATTRIBUTE_LIST, "") else {
            let piece = base.find(kind, name);
            return piece
                .map(|piece| self.with_piece(None, &base, &piece))
                .transpose()
                .and_then(whole);
        };
        let list = match list.body {
            Body::Resident(range) => base.bytes.get(range).map(<[u8]>::to_vec),
            Body::Runs { size, .. } if size > MOST_LIST => None,
            Body::Runs { at, size, .. } => {
                let runs = base.runs(at, &self.boot)?;
                Some(self.read(&runs, 0, bounded(size)?)?)
            }
        };
        let list = list.ok_or_else(|| base.wrong("its list of attributes cannot be read"))?;
        let places: BTreeMap<u64, u64> = listed(&list, kind, name).into_iter().collect();
        let mut content = None;
        for (vcn, number) in places {
            let record = self.record(number)?;
            let mut pieces = record.attributes().into_iter();
            let piece =
                pieces.find(|one| one.kind == kind && one.name == name && one.first_vcn() == vcn);
            if let Some(piece) = piece {
                content = Some(self.with_piece(content, &record, &piece)?);
            }
            if let Some(Content::Resident(..)) = content {
                break;
            }
        }
        whole(content)
    }

    /// All bytes of an attribute.
    ///
    /// # Errors
    /// [`Unsupported`](vdisk_core::ErrorKind::Unsupported) where they are too many to be read at
    /// once; the disk's.
    pub fn content(&self, content: &Content) -> Result<Vec<u8>> {
        match content {
            Content::Resident(number, range) => {
                let record = self.record(*number)?;
                let bytes = record.bytes.get(range.clone()).map(<[u8]>::to_vec);
                bytes.ok_or_else(|| record.wrong("an attribute is longer than it"))
            }
            Content::Runs(runs, size) => self.read(runs, 0, bounded(*size)?),
        }
    }

    /// What the pieces so far tell of an attribute, and one more.
    fn with_piece(
        &self,
        so_far: Option<Content>,
        record: &Record,
        piece: &Attribute,
    ) -> Result<Content> {
        let (at, vcn, size, plain) = match &piece.body {
            Body::Resident(range) => return Ok(Content::Resident(record.number, range.clone())),
            Body::Runs { at, vcn, size, plain } => (*at, *vcn, *size, *plain),
        };
        let (mut runs, told) = match so_far {
            Some(Content::Runs(runs, told)) => (runs, told),
            _ => (Runs::new(), size),
        };
        if !plain || vcn.saturating_mul(self.boot.cluster) != length(&runs) {
            return Err(record.wrong("an attribute is coded, or a piece is missing"));
        }
        runs.extend(record.runs(at, &self.boot)?);
        if runs.len() > MOST_RUNS {
            return Err(record.wrong("an attribute is in more pieces than are looked at"));
        }
        Ok(Content::Runs(runs, told))
    }

    fn read(&self, runs: &Runs, offset: u64, len: usize) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        for piece in pieces(runs, offset, len as u64)? {
            let (start, count) = (bytes.len(), usize::try_from(piece.end - piece.start));
            bytes.resize(start + count.unwrap_or_default(), 0);
            self.disk.read_at(bytes.get_mut(start..).unwrap_or_default(), piece.start)?;
        }
        Ok(bytes)
    }
}

/// Fails where not all of an attribute is there.
fn whole(content: Option<Content>) -> Result<Option<Content>> {
    match &content {
        Some(Content::Runs(runs, told)) if *told > length(runs) => {
            let at = runs.first().map_or(0, |run| run.start);
            Err(damaged("NTFS attribute", at, "it is longer than its clusters"))
        }
        _ => Ok(content),
    }
}

/// The pieces of an attribute's list that tell of this kind and name: first cluster, file record.
fn listed(list: &[u8], kind: u32, name: &str) -> Vec<(u64, u64)> {
    let mut found = Vec::new();
    let mut rest = list;
    while rest.len() >= 26 {
        let (len, units) = (le16(rest, 4), usize::from(le::<1>(rest, 6)[0]));
        let start = usize::from(le::<1>(rest, 7)[0]);
        let told = rest.get(start..).and_then(|rest| rest.get(..units * 2)).map(text);
        if le32(rest, 0) == kind && (units == 0 && name.is_empty() || told.as_deref() == Some(name))
        {
            found.push((le64(rest, 8), le64(rest, 16) & NUMBER));
        }
        if len < 26 {
            break;
        }
        rest = rest.get(len..).unwrap_or_default();
    }
    found
}

/// Bytes of these runs together.
#[must_use]
pub fn length(runs: &Runs) -> u64 {
    runs.iter().fold(0, |sum, run| sum.saturating_add(run.end - run.start))
}

/// Bytes `offset..offset + len` of what stands at `runs`, as bytes of the volume.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) beyond the end of the runs.
pub fn pieces(runs: &Runs, offset: u64, len: u64) -> Result<Runs> {
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
    let end = offset.saturating_add(len);
    Err(damaged("NTFS attribute", at, format!("it ends before byte {end}")))
}

fn bounded(size: u64) -> Result<usize> {
    usize::try_from(size).ok().filter(|_| size <= MOST).ok_or_else(|| {
        Error::unsupported(format!("an attribute of {size} bytes is more than is read at once"))
    })
}
