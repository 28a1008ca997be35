//! The volume: where file records and the contents of attributes stand.

use std::collections::BTreeMap;
use std::ops::{Deref, Range};

use vdisk_core::{Disk, Error, Result};

use super::record::{ATTRIBUTE_LIST, Attribute, Body, DATA, FILE_NAME, Record, text};
use super::{Boot, Extents, Stream, damaged, le, le16, le32, le64};

/// Where bytes of an attribute stand on the volume, in order.
pub type Runs = Vec<Range<u64>>;

/// Most bytes of an attribute that are read at once.
const MOST: u64 = 1 << 30;
/// Most bytes of a list of attributes (ntfs-3g's bound).
const MOST_LIST: u64 = 256 << 10;
/// The number of a file record without the count of its uses.
const NUMBER: u64 = 0xFFFF_FFFF_FFFF;

/// An NTFS volume; `D` points to its bytes.
#[derive(Debug)]
pub struct Ntfs<D> {
    disk: D,
    boot: Boot,
    mft: Runs,
    /// The same, to look up records in.
    table: Extents,
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
        let mft = vec![first];
        let mut ntfs = Self { disk, boot, table: Extents::of(&mft), mft };
        // The first record tells where those are that may tell of more.
        ntfs.table = Extents::of(&ntfs.record(0)?.first_runs(DATA, &boot)?);
        let Some(Content::Runs(mft, _)) = ntfs.attribute(0, DATA, "")? else {
            return Err(damaged("NTFS master file table", start, "it does not say where it is"));
        };
        ntfs.table = Extents::of(&mft);
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
        let mut bytes = vec![0; self.boot.record];
        self.read_extents(&self.table, offset, &mut bytes)?;
        Record::parse(number, bytes).ok_or_else(|| {
            let at = self.record_place(number);
            damaged("NTFS file record", at, format!("record {number} is torn, or none"))
        })
    }

    /// Where a file record stands on the volume; zero where it is none.
    #[must_use]
    pub fn record_place(&self, number: u64) -> u64 {
        let offset = number.saturating_mul(self.boot.record as u64);
        self.table.at(offset).and_then(|(place, _)| place).unwrap_or_default()
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
        let mut content = None;
        self.each_piece(&base, kind, name, |record, piece| {
            content = Some(self.with_piece(content.take(), record, piece)?);
            Ok(())
        })?;
        whole(content)
    }

    /// An attribute of the file of record `base` that may have holes or be compressed.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where a piece of it is missing; the disk's.
    pub fn stream(&self, base: &Record, kind: u32, name: &str) -> Result<Option<Stream>> {
        let mut stream: Option<Stream> = None;
        self.each_piece(base, kind, name, |record, piece| {
            match &mut stream {
                Some(stream) => stream.add(record, piece, &self.boot)?,
                None => stream = Some(Stream::begin(record, piece, &self.boot)?),
            }
            Ok(())
        })?;
        Ok(stream)
    }

    /// The attributes `$FILE_NAME` of the file of record `base`: their values.
    ///
    /// # Errors
    /// As [`Ntfs::stream`].
    pub fn file_names(&self, base: &Record) -> Result<Vec<Vec<u8>>> {
        let list = self.list(base)?.unwrap_or_default();
        let mut numbers: Vec<u64> =
            entries(&list).filter(|one| one.kind == FILE_NAME).map(|one| one.record).collect();
        numbers.push(base.number);
        numbers.sort_unstable();
        numbers.dedup();
        let mut names = Vec::new();
        for number in numbers {
            let record = self.part_of(base, number)?;
            let attributes = record.attributes().into_iter().filter(|one| one.kind == FILE_NAME);
            names.extend(attributes.filter_map(|one| match one.body {
                Body::Resident(range) => record.bytes.get(range).map(<[u8]>::to_vec),
                Body::Runs { .. } => None,
            }));
        }
        Ok(names)
    }

    /// How many records tell of an attribute.
    ///
    /// # Errors
    /// As [`Ntfs::stream`].
    pub fn piece_count(&self, base: &Record, kind: u32, name: &str) -> Result<usize> {
        let mut count = 0;
        self.each_piece(base, kind, name, |_, _| {
            count += 1;
            Ok(())
        })?;
        Ok(count)
    }

    /// Looks at the pieces of an attribute in order, each in the record that tells of it.
    pub(super) fn each_piece(
        &self,
        base: &Record,
        kind: u32,
        name: &str,
        mut look: impl FnMut(&Record, &Attribute) -> Result<()>,
    ) -> Result<()> {
        let Some(list) = self.list(base)? else {
            return base.find(kind, name).map_or(Ok(()), |piece| look(base, &piece));
        };
        let listed = entries(&list).filter(|one| one.kind == kind && one.name == name);
        let places: BTreeMap<u64, u64> = listed.map(|one| (one.vcn, one.record)).collect();
        for (vcn, number) in places {
            let record = self.part_of(base, number)?;
            let mut pieces = record.attributes().into_iter();
            let piece =
                pieces.find(|one| one.kind == kind && one.name == name && one.first_vcn() == vcn);
            if let Some(piece) = piece {
                look(&record, &piece)?;
                if let Body::Resident(_) = piece.body {
                    break;
                }
            }
        }
        Ok(())
    }

    /// A record that goes on where `base` begins.
    fn part_of(&self, base: &Record, number: u64) -> Result<Record> {
        if number == base.number {
            return Ok(base.clone());
        }
        let record = self.record(number)?;
        // The first file's number is zero, which is what others say who go on nowhere.
        if base.number != 0 && record.base() != base.number {
            return Err(base.wrong(&format!("it goes on in record {number}, which is another's")));
        }
        Ok(record)
    }

    /// The list of attributes, where the file has one.
    fn list(&self, base: &Record) -> Result<Option<Vec<u8>>> {
        let Some(list) = base.find(ATTRIBUTE_LIST, "") else { return Ok(None) };
        let bytes = match list.body {
            Body::Resident(range) => base.bytes.get(range).map(<[u8]>::to_vec),
            Body::Runs { form, .. } if form.size > MOST_LIST => None,
            Body::Runs { at, form, .. } => {
                Some(self.read(&base.runs(at, &self.boot)?, 0, bounded(form.size)?)?)
            }
        };
        bytes.map(Some).ok_or_else(|| base.wrong("its list of attributes cannot be read"))
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
        let (at, vcn, form) = match &piece.body {
            Body::Resident(range) => return Ok(Content::Resident(record.number, range.clone())),
            Body::Runs { at, vcn, form } => (*at, *vcn, form),
        };
        let (mut runs, told) = match so_far {
            Some(Content::Runs(runs, told)) => (runs, told),
            _ => (Runs::new(), form.size),
        };
        if !form.is_plain() || vcn.saturating_mul(self.boot.cluster) != length(&runs) {
            return Err(record.wrong("an attribute is coded, or a piece is missing"));
        }
        runs.extend(record.runs(at, &self.boot)?);
        if runs.len() > Extents::MOST {
            return Err(record.wrong("an attribute is in more pieces than are looked at"));
        }
        Ok(Content::Runs(runs, told))
    }

    /// Fills `buf` from byte `offset` of what stands at `extents`; holes read as zeros.
    pub(super) fn read_extents(
        &self,
        extents: &Extents,
        offset: u64,
        buf: &mut [u8],
    ) -> Result<()> {
        let (mut at, mut rest) = (offset, buf);
        while !rest.is_empty() {
            let (place, len) = extents.at(at).ok_or_else(|| extents.ends_before(at))?;
            let count = usize::try_from(len).unwrap_or(usize::MAX).min(rest.len());
            let (piece, later) = rest.split_at_mut(count);
            match place {
                Some(place) => self.disk.read_at(piece, place)?,
                None => piece.fill(0),
            }
            at = at.saturating_add(count as u64);
            rest = later;
        }
        Ok(())
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

/// What a list of attributes says of a piece.
struct Listed {
    kind: u32,
    name: String,
    /// Its first cluster.
    vcn: u64,
    /// The file record that tells of it.
    record: u64,
}

/// The pieces in a list of attributes.
fn entries(list: &[u8]) -> impl Iterator<Item = Listed> + '_ {
    let mut rest = list;
    std::iter::from_fn(move || {
        let (len, units) = (le16(rest, 4), usize::from(le::<1>(rest, 6)[0]));
        if rest.len() < 26 || len < 26 {
            return None;
        }
        let start = usize::from(le::<1>(rest, 7)[0]);
        let name = rest.get(start..).and_then(|rest| rest.get(..units * 2)).map(text);
        let found = Listed {
            kind: le32(rest, 0),
            name: name.unwrap_or_default(),
            vcn: le64(rest, 8),
            record: le64(rest, 16) & NUMBER,
        };
        rest = rest.get(len..).unwrap_or_default();
        Some(found)
    })
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
