//! A file record and its attributes.

use std::ops::Range;

use vdisk_core::{Error, Result};

use super::{Boot, Extents, Runs, damaged, le, le16, le32, le64, opened};

/// `$STANDARD_INFORMATION`: times, and what Windows calls attributes.
pub const STANDARD_INFORMATION: u32 = 0x10;
/// `$ATTRIBUTE_LIST`: which records tell of which attributes, where there are several.
pub const ATTRIBUTE_LIST: u32 = 0x20;
/// `$FILE_NAME`: a name, and the directory it is in.
pub const FILE_NAME: u32 = 0x30;
/// `$SECURITY_DESCRIPTOR`: a descriptor of the file's own.
pub const SECURITY_DESCRIPTOR: u32 = 0x50;
/// `$VOLUME_NAME`: the label.
pub const VOLUME_NAME: u32 = 0x60;
/// `$VOLUME_INFORMATION`: version and flags.
pub const VOLUME_INFORMATION: u32 = 0x70;
/// `$DATA`: content.
pub const DATA: u32 = 0x80;
/// `$INDEX_ROOT`: the first node of an index.
pub const INDEX_ROOT: u32 = 0x90;
/// `$INDEX_ALLOCATION`: its other nodes.
pub const INDEX_ALLOCATION: u32 = 0xA0;
/// `$REPARSE_POINT`: a link, or content that stands elsewhere.
pub const REPARSE_POINT: u32 = 0xC0;
/// `$LOGGED_UTILITY_STREAM`: what EFS keeps, among others.
pub const LOGGED_STREAM: u32 = 0x100;
const END: u32 = 0xFFFF_FFFF;
/// The method of compression, encrypted, sparse.
const COMPRESSED: usize = 0xFF;
const ENCRYPTED: usize = 0x4000;
const SPARSE: usize = 0x8000;

/// A file record as it reads once the ends of its strides are put back.
#[derive(Clone, Debug)]
pub struct Record {
    /// Its number in the master file table.
    pub number: u64,
    /// All of it.
    pub bytes: Vec<u8>,
}

/// One of its attributes.
#[derive(Clone, Debug)]
pub struct Attribute {
    /// Its type.
    pub kind: u32,
    /// Where it begins in the record.
    pub at: usize,
    /// Its bytes, with the head.
    pub len: usize,
    /// Its name, often none.
    pub name: String,
    /// Its content.
    pub body: Body,
}

/// Where an attribute's content is.
#[derive(Clone, Debug)]
pub enum Body {
    /// At these bytes of the record.
    Resident(Range<usize>),
    /// In clusters.
    Runs {
        /// Where the list of runs begins in the record.
        at: usize,
        /// The first cluster of the attribute that they hold.
        vcn: u64,
        /// How it is kept; told with the first cluster only.
        form: Form,
    },
}

/// How the content of an attribute in clusters is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Form {
    /// Bytes of content.
    pub size: u64,
    /// Bytes of it that were ever written; the others read as zeros.
    pub valid: u64,
    /// Compressed, in units of two to the power of so many clusters.
    pub compressed: Option<u8>,
    /// Encrypted by EFS.
    pub encrypted: bool,
    /// It may have holes.
    pub sparse: bool,
}

impl Form {
    /// Neither compressed nor encrypted nor with holes.
    #[must_use]
    pub fn is_plain(&self) -> bool {
        self.compressed.is_none() && !self.encrypted && !self.sparse
    }
}

impl Attribute {
    /// The first cluster of the whole attribute that this piece tells of.
    #[must_use]
    pub fn first_vcn(&self) -> u64 {
        match self.body {
            Body::Resident(_) => 0,
            Body::Runs { vcn, .. } => vcn,
        }
    }
}

impl Record {
    /// `None` where it is torn, or no file record.
    #[must_use]
    pub fn parse(number: u64, bytes: Vec<u8>) -> Option<Self> {
        Some(Self { number, bytes: opened(bytes, b"FILE")? })
    }

    /// Whether a file has it.
    #[must_use]
    pub fn in_use(&self) -> bool {
        le16(&self.bytes, 0x16) & 1 != 0
    }

    /// Whether that is a directory.
    #[must_use]
    pub fn is_directory(&self) -> bool {
        le16(&self.bytes, 0x16) & 2 != 0
    }

    /// Bytes of the record that count.
    #[must_use]
    pub fn used(&self) -> usize {
        usize::try_from(le32(&self.bytes, 0x18)).unwrap_or(usize::MAX).min(self.bytes.len())
    }

    /// The record that this one goes on; itself where it is the first of its file.
    #[must_use]
    pub fn base(&self) -> u64 {
        match le64(&self.bytes, 0x20) & 0xFFFF_FFFF_FFFF {
            0 => self.number,
            base => base,
        }
    }

    /// How often it was used for another file; zero is not told.
    #[must_use]
    pub fn sequence(&self) -> usize {
        le16(&self.bytes, 0x10)
    }

    /// Names that its file has.
    #[must_use]
    pub fn links(&self) -> usize {
        le16(&self.bytes, 0x12)
    }

    /// Its attributes, as far as they can be read.
    #[must_use]
    pub fn attributes(&self) -> Vec<Attribute> {
        let mut found = Vec::new();
        let mut at = le16(&self.bytes, 0x14);
        while at + 24 <= self.used() {
            let (kind, len) = (le32(&self.bytes, at), le32(&self.bytes, at + 4));
            let len = usize::try_from(len).unwrap_or(usize::MAX);
            let Some(bytes) = self.bytes.get(at..).and_then(|rest| rest.get(..len)) else { break };
            if kind == END || len < 24 {
                break;
            }
            found.extend(attribute(kind, bytes, at));
            at += len;
        }
        found
    }

    /// The first attribute of a type and name.
    #[must_use]
    pub fn find(&self, kind: u32, name: &str) -> Option<Attribute> {
        self.attributes().into_iter().find(|one| one.kind == kind && one.name == name)
    }

    /// The runs of an attribute without a name that this record itself tells of.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where there is none in clusters.
    pub fn first_runs(&self, kind: u32, boot: &Boot) -> Result<Runs> {
        match self.find(kind, "").map(|found| found.body) {
            Some(Body::Runs { at, .. }) => self.runs(at, boot),
            _ => Err(self.wrong("an attribute in clusters is missing")),
        }
    }

    /// The list of runs that begins at byte `at`.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where it has holes, cannot be read, or leads
    /// out of the volume.
    pub fn runs(&self, at: usize, boot: &Boot) -> Result<Runs> {
        let mut extents = Extents::default();
        self.add_extents(at, boot, &mut extents)?;
        extents.runs().ok_or_else(|| self.wrong("an attribute that must have none has holes"))
    }

    /// Adds what the list of runs at byte `at` tells of.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where it cannot be read, or leads out of the
    /// volume.
    pub fn add_extents(&self, mut at: usize, boot: &Boot, extents: &mut Extents) -> Result<()> {
        let mut cluster = 0_i64;
        loop {
            let head = le::<1>(&self.bytes, at)[0];
            let (len_bytes, offset_bytes) = (usize::from(head & 0xF), usize::from(head >> 4));
            if head == 0 {
                return Ok(());
            }
            if !(1..=8).contains(&len_bytes) || offset_bytes > 8 {
                return Err(self.wrong("its runs cannot be read"));
            }
            let len = self.number_at(at + 1, len_bytes, false);
            let place = if offset_bytes == 0 {
                None
            } else {
                let step = self.number_at(at + 1 + len_bytes, offset_bytes, true);
                cluster = cluster.saturating_add(step);
                let run = run(boot, cluster, len);
                Some(run.ok_or_else(|| self.wrong("its runs lead out of the volume"))?.start)
            };
            let len = u64::try_from(len).ok().and_then(|len| len.checked_mul(boot.cluster));
            len.and_then(|len| extents.push(len, place))
                .ok_or_else(|| self.wrong("its runs are longer or more than can be"))?;
            at += 1 + len_bytes + offset_bytes;
        }
    }

    fn number_at(&self, at: usize, len: usize, signed: bool) -> i64 {
        let byte = |index: usize| le::<1>(&self.bytes, at + index)[0];
        let negative = signed && byte(len - 1) & 0x80 != 0;
        let mut bytes = if negative { [0xFF; 8] } else { [0; 8] };
        for (index, place) in bytes.iter_mut().take(len).enumerate() {
            *place = byte(index);
        }
        i64::from_le_bytes(bytes)
    }

    pub(super) fn wrong(&self, what: &str) -> Error {
        let at = self.number.saturating_mul(self.bytes.len() as u64);
        damaged("NTFS file record", at, format!("record {}: {what}", self.number))
    }
}

fn attribute(kind: u32, bytes: &[u8], at: usize) -> Option<Attribute> {
    let units = usize::from(le::<1>(bytes, 9)[0]);
    let name = text(bytes.get(le16(bytes, 10)..)?.get(..units * 2)?);
    let body = if le::<1>(bytes, 8)[0] == 0 {
        let (len, start) = (usize::try_from(le32(bytes, 16)).ok()?, le16(bytes, 20));
        bytes.get(start..)?.get(..len)?;
        Body::Resident(at + start..at + start + len)
    } else {
        Body::Runs {
            at: at + le16(bytes, 32),
            vcn: le64(bytes, 16),
            form: Form {
                size: le64(bytes, 48),
                valid: le64(bytes, 56),
                compressed: (le16(bytes, 12) & COMPRESSED != 0).then(|| le::<1>(bytes, 34)[0]),
                encrypted: le16(bytes, 12) & ENCRYPTED != 0,
                sparse: le16(bytes, 12) & SPARSE != 0,
            },
        }
    };
    Some(Attribute { kind, at, len: bytes.len(), name, body })
}

/// The run of clusters `first..first + count` as bytes of the volume.
fn run(boot: &Boot, first: i64, count: i64) -> Option<Range<u64>> {
    let (first, count) = (u64::try_from(first).ok()?, u64::try_from(count).ok()?);
    let end = first.checked_add(count).filter(|end| *end <= boot.clusters)?;
    Some(first * boot.cluster..end * boot.cluster)
}

/// UTF-16, little-endian.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    let units: Vec<u16> =
        bytes.as_chunks::<2>().0.iter().map(|unit| u16::from_le_bytes(*unit)).collect();
    String::from_utf16_lossy(&units)
}
