//! NTFS: `$Bitmap`, and the files of Windows that a start makes anew.

use std::ops::Range;

use vdisk_core::{Disk, Ranges, Result};

use super::bits::ClearRuns;
use super::field::Fields;
use super::{Found, Scope, contradiction};

/// Records of the master file table with a fixed meaning.
const MFT: u64 = 0;
const ROOT: u64 = 5;
const BITMAP: u64 = 6;
/// Attribute types.
const ATTRIBUTE_LIST: u32 = 0x20;
const DATA: u32 = 0x80;
const INDEX_ROOT: u32 = 0x90;
const INDEX_ALLOCATION: u32 = 0xA0;
const END: u32 = 0xFFFF_FFFF;
/// Bytes read at once.
const PIECE: u64 = 1 << 20;
/// Most bytes of the root directory looked at.
const MOST_ROOT: u64 = 16 << 20;
/// Where the volume says whether it has shadow copies, and what such a place begins with.
const SHADOW: u64 = 0x1E00;
const SHADOW_ID: [u8; 16] = [
    0x6B, 0x87, 0x08, 0x38, 0x76, 0xC1, 0x48, 0x4E, 0xB7, 0xAE, 0x04, 0x04, 0x6E, 0x6C, 0xC7, 0x52,
];
/// Their content is of no use to the next start.
const MADE_ANEW: [&str; 3] = ["pagefile.sys", "swapfile.sys", "hiberfil.sys"];
/// File flags: compressed, encrypted, sparse.
const ODD: u16 = 0xC001;

/// The free runs of the volume, bytes.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where its parts do not fit.
pub(super) fn free(volume: &dyn Disk, scope: Scope) -> Result<Found> {
    let ntfs = Ntfs::read(volume)?;
    let shadow = Fields::read(volume, SHADOW, 64)?;
    if shadow.has(&SHADOW_ID, 0) && shadow.le64(48) != 0 {
        let why = "its shadow copies use what is free; delete them first (vssadmin delete shadows)";
        return Ok(Err(why.to_owned()));
    }
    let Some(bitmap) = ntfs.record(BITMAP)?.runs(DATA, "")? else {
        return Ok(Err("its $Bitmap is kept in a way that is not known".to_owned()));
    };
    let mut free = ntfs.clear_bits(&bitmap)?;
    if scope == Scope::All {
        let files = ntfs.made_anew()?;
        free = free.iter().cloned().chain(files).collect();
    }
    Ok(Ok(free))
}

struct Ntfs<'a> {
    volume: &'a dyn Disk,
    /// Bytes of a cluster.
    cluster: u64,
    clusters: u64,
    /// Bytes of a record of the master file table.
    record: usize,
    /// Bytes of an index block.
    index: usize,
    /// Where the master file table stands, bytes of the volume.
    mft: Vec<Range<u64>>,
}

impl<'a> Ntfs<'a> {
    fn read(volume: &'a dyn Disk) -> Result<Self> {
        let boot = Fields::read(volume, 0, 512)?;
        let wrong = |what: &str| contradiction("NTFS boot sector", 0, what);
        let power = |byte: u8, unit: u64| match byte {
            0 => None,
            1..=0x80 => unit.checked_mul(byte.into()),
            _ => 1u64.checked_shl(256 - u32::from(byte)).filter(|size| *size < 1 << 31),
        };
        let sector = u64::from(boot.le16(0x0B));
        let per_cluster = match boot.byte(0x0D) {
            byte @ 0..=0x80 => u64::from(byte),
            byte => 1u64.checked_shl(256 - u32::from(byte)).unwrap_or_default(),
        };
        let cluster = sector.saturating_mul(per_cluster);
        if !sector.is_power_of_two() || !cluster.is_power_of_two() || cluster > 2 << 20 {
            return Err(wrong("its sectors or clusters have no possible size"));
        }
        let size = |at: usize| {
            power(boot.byte(at), cluster)
                .and_then(|size| usize::try_from(size).ok())
                .filter(|size| size.is_power_of_two() && (512..=1 << 16).contains(size))
                .ok_or_else(|| wrong("its records have no possible size"))
        };
        let clusters = boot.le64(0x28) / per_cluster;
        if clusters.saturating_mul(cluster) > volume.len() {
            return Err(wrong("it is longer than the volume"));
        }
        let mut ntfs = Self {
            volume,
            cluster,
            clusters,
            record: size(0x40)?,
            index: size(0x44)?,
            mft: vec![],
        };
        // The first records tell where the others are.
        let start = boot.le64(0x30).saturating_mul(cluster);
        ntfs.mft.push(start..start.saturating_add(ntfs.record as u64));
        ntfs.mft = ntfs.record(MFT)?.first_runs(DATA)?.ok_or_else(|| {
            contradiction("NTFS master file table", start, "it does not say where it is")
        })?;
        Ok(ntfs)
    }

    fn record(&self, number: u64) -> Result<Record<'_>> {
        let offset = number.saturating_mul(self.record as u64);
        let Some(at) = place(&self.mft, offset) else {
            return Err(contradiction("NTFS master file table", offset, "it ends before a record"));
        };
        let fields = Fields::read(self.volume, at, self.record)?;
        let fields = repaired(fields, b"FILE")
            .ok_or_else(|| contradiction("NTFS file record", at, "it is torn or none"))?;
        Ok(Record { ntfs: self, at, fields })
    }

    /// The clusters whose bits are clear in the bitmap at `runs`.
    fn clear_bits(&self, runs: &[Range<u64>]) -> Result<Ranges> {
        let mut free = Ranges::new();
        let mut clear = ClearRuns::default();
        let mut add = |run: Range<u64>| free.push(run.start * self.cluster..run.end * self.cluster);
        let mut left = self.clusters;
        for run in runs {
            let mut at = run.start;
            while at < run.end && left > 0 {
                let len = (run.end - at).min(PIECE);
                let bytes =
                    Fields::read(self.volume, at, usize::try_from(len).unwrap_or_default())?;
                let bits = left.min(len * 8);
                clear.look(&bytes.0, bits, &mut add);
                left -= bits;
                at += len;
            }
        }
        if left > 0 {
            let at = runs.first().map_or(0, |run| run.start);
            return Err(contradiction(
                "NTFS $Bitmap",
                at,
                format!("{left} clusters are not in it"),
            ));
        }
        if let Some(run) = clear.end() {
            add(run);
        }
        Ok(free)
    }

    /// The bytes of the files that the next start makes anew.
    fn made_anew(&self) -> Result<Vec<Range<u64>>> {
        let mut found = Vec::new();
        for number in self.files_in_root()? {
            let Ok(record) = self.record(number) else { continue };
            found.extend(record.runs(DATA, "")?.unwrap_or_default());
        }
        Ok(found)
    }

    /// The record numbers of those files.
    fn files_in_root(&self) -> Result<Vec<u64>> {
        let root = self.record(ROOT)?;
        let mut found = Vec::new();
        if let Some(value) = root.resident(INDEX_ROOT, "$I30") {
            entries(&Fields(value), 16, &mut found);
        }
        let blocks = root.runs(INDEX_ALLOCATION, "$I30")?.unwrap_or_default();
        let mut left = MOST_ROOT;
        for run in blocks {
            let mut at = run.start;
            while at < run.end && left > 0 {
                let block = Fields::read(self.volume, at, self.index)?;
                if let Some(block) = repaired(block, b"INDX") {
                    entries(&block, 24, &mut found);
                }
                at += self.index as u64;
                left = left.saturating_sub(self.index as u64);
            }
        }
        Ok(found)
    }
}

/// Byte `offset` of what stands at `runs`, as a byte of the volume.
fn place(runs: &[Range<u64>], offset: u64) -> Option<u64> {
    let mut left = offset;
    for run in runs {
        let len = run.end - run.start;
        if left < len {
            return Some(run.start + left);
        }
        left -= len;
    }
    None
}

/// A record or index block with the ends of its sectors put back; `None` where it is none, or
/// was torn.
fn repaired(mut fields: Fields, magic: &[u8]) -> Option<Fields> {
    let (array, count) = (usize::from(fields.le16(4)), usize::from(fields.le16(6)));
    if !fields.has(magic, 0) || count == 0 || (count - 1) * 512 > fields.0.len() {
        return None;
    }
    let mark = fields.le16(array);
    for sector in 1..count {
        let end = sector * 512 - 2;
        let kept = fields.le16(array + sector * 2).to_le_bytes();
        if fields.le16(end) != mark {
            return None;
        }
        fields.0.get_mut(end..end + 2)?.copy_from_slice(&kept);
    }
    Some(fields)
}

/// Adds the records that the index entries name and that are made anew; `header` is where the
/// index header stands.
fn entries(fields: &Fields, header: usize, found: &mut Vec<u64>) {
    let end = header + usize::try_from(fields.le32(header + 4)).unwrap_or_default();
    let mut at = header + usize::try_from(fields.le32(header)).unwrap_or_default();
    while at + 16 <= end.min(fields.0.len()) {
        let len = usize::from(fields.le16(at + 8));
        if len < 16 || fields.le16(at + 12) & 2 != 0 {
            return;
        }
        let units = usize::from(fields.byte(at + 16 + 0x40));
        let name: Vec<u16> =
            (0..units).map(|unit| fields.le16(at + 16 + 0x42 + unit * 2)).collect();
        let name = String::from_utf16_lossy(&name);
        if MADE_ANEW.iter().any(|one| one.eq_ignore_ascii_case(&name)) {
            found.push(fields.le64(at) & 0xFFFF_FFFF_FFFF);
        }
        at += len;
    }
}

/// A file record.
struct Record<'a> {
    ntfs: &'a Ntfs<'a>,
    /// Where it stands, bytes of the volume.
    at: u64,
    fields: Fields,
}

impl Record<'_> {
    /// Where the attributes of a type and name start in the record.
    fn find(&self, kind: u32, name: &str) -> Option<usize> {
        let mut at = usize::from(self.fields.le16(0x14));
        while at + 16 <= self.fields.0.len() {
            let (found, len) = (self.fields.le32(at), self.fields.le32(at + 4));
            if found == END || len < 16 {
                return None;
            }
            if found == kind && self.name(at) == name {
                return Some(at);
            }
            at += usize::try_from(len).ok()?;
        }
        None
    }

    fn name(&self, attribute: usize) -> String {
        let units = usize::from(self.fields.byte(attribute + 9));
        let start = attribute + usize::from(self.fields.le16(attribute + 10));
        let units: Vec<u16> = (0..units).map(|unit| self.fields.le16(start + unit * 2)).collect();
        String::from_utf16_lossy(&units)
    }

    /// The value of an attribute that stands in the record.
    fn resident(&self, kind: u32, name: &str) -> Option<Vec<u8>> {
        let at = self.find(kind, name)?;
        if self.fields.byte(at + 8) != 0 {
            return None;
        }
        let start = at + usize::from(self.fields.le16(at + 20));
        let len = usize::try_from(self.fields.le32(at + 16)).ok()?;
        self.fields.0.get(start..start.checked_add(len)?).map(<[u8]>::to_vec)
    }

    /// Where an attribute's clusters stand, bytes of the volume, in its order; `None` where it
    /// stands in the record, has holes or is coded, or is spread over several records.
    fn runs(&self, kind: u32, name: &str) -> Result<Option<Vec<Range<u64>>>> {
        let Some(at) = self.find(kind, name) else { return Ok(None) };
        let plain = self.fields.byte(at + 8) == 1 && self.fields.le16(at + 12) & ODD == 0;
        let complete = self.fields.le64(at + 16) == 0
            && (self.find(ATTRIBUTE_LIST, "").is_none()
                || self.fields.le64(at + 24).saturating_add(1).saturating_mul(self.ntfs.cluster)
                    >= self.fields.le64(at + 40));
        if !plain || !complete {
            return Ok(None);
        }
        self.decode(at + usize::from(self.fields.le16(at + 32)))
    }

    /// Where the clusters of an attribute without a name stand that the record itself tells of,
    /// even if other records tell of more.
    fn first_runs(&self, kind: u32) -> Result<Option<Vec<Range<u64>>>> {
        match self.find(kind, "").filter(|at| self.fields.byte(at + 8) == 1) {
            Some(at) => self.decode(at + usize::from(self.fields.le16(at + 32))),
            None => Ok(None),
        }
    }

    /// The runs in the list that starts at byte `at` of the record.
    fn decode(&self, mut at: usize) -> Result<Option<Vec<Range<u64>>>> {
        let mut runs = Vec::new();
        let mut cluster = 0i64;
        loop {
            let head = self.fields.byte(at);
            let (len_bytes, offset_bytes) = (usize::from(head & 0xF), usize::from(head >> 4));
            if head == 0 {
                return Ok(Some(runs));
            }
            if len_bytes == 0 || len_bytes > 8 || offset_bytes > 8 {
                return Err(self.wrong());
            }
            if offset_bytes == 0 {
                return Ok(None);
            }
            let len = self.number(at + 1, len_bytes, false);
            cluster = cluster.saturating_add(self.number(at + 1 + len_bytes, offset_bytes, true));
            let start = u64::try_from(cluster).map_err(|_| self.wrong())?;
            let len = u64::try_from(len).map_err(|_| self.wrong())?;
            let end = start.checked_add(len).filter(|end| *end <= self.ntfs.clusters);
            let end = end.ok_or_else(|| self.wrong())?;
            runs.push(start * self.ntfs.cluster..end * self.ntfs.cluster);
            at += 1 + len_bytes + offset_bytes;
        }
    }

    /// A little-endian number of `len` bytes.
    fn number(&self, at: usize, len: usize, signed: bool) -> i64 {
        let negative = signed && self.fields.byte(at + len - 1) & 0x80 != 0;
        let mut bytes = if negative { [0xFF; 8] } else { [0; 8] };
        for (index, byte) in bytes.iter_mut().take(len).enumerate() {
            *byte = self.fields.byte(at + index);
        }
        i64::from_le_bytes(bytes)
    }

    fn wrong(&self) -> vdisk_core::Error {
        contradiction("NTFS file record", self.at, "its runs lead out of the volume")
    }
}
