//! A directory: an index of names, a B-tree whose first node stands in the file record and whose
//! other nodes are blocks of a stream.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::{Deref, Range};

use vdisk_core::{Disk, Error, Result};

use super::record::{Body, FILE_NAME, INDEX_ALLOCATION, INDEX_ROOT, Record};
use super::{Ntfs, Stream, UpCase, damaged, le, le16, le32, le64, opened};

/// The number of the root directory's record.
pub const ROOT: u64 = 5;
/// The index of names.
const I30: &str = "$I30";
/// Most levels of blocks.
const MOST_LEVELS: usize = 24;
/// Bytes of the smallest and largest block.
const BLOCKS: Range<usize> = 512..(1 << 16) + 1;
/// Where the head of the node stands in the root's value and in a block.
const ROOT_NODE: usize = 16;
const BLOCK_NODE: usize = 24;
/// Parts of an entry: where its key begins, and in a key its name.
const KEY: usize = 16;
const NAME: usize = KEY + 0x42;
/// Flags of an entry: a node stands below it; it ends the node.
const BELOW: usize = 1;
const LAST: usize = 2;
/// `FILE_ATTRIBUTE_*` of a directory, as index entries have it.
const IS_DIRECTORY: u32 = 0x1000_0000;
/// The name that DOS sees, beside a longer one.
const DOS: u8 = 2;

/// A directory's index.
#[derive(Clone, Debug)]
pub struct Directory {
    /// The number of its file record.
    pub number: u64,
    /// The record in which the first node stands.
    pub root_record: u64,
    /// The first node, and where it begins in that record.
    root: Vec<u8>,
    root_at: usize,
    /// Bytes of a block.
    block: usize,
    /// Bytes in which blocks are counted.
    unit: u64,
    /// The other nodes.
    blocks: Option<Stream>,
}

/// A name in a directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// The name, in UTF-16.
    pub name: Vec<u16>,
    /// The number of the file's record.
    pub file: u64,
    /// How often that record was used before; zero is not told.
    pub sequence: usize,
    /// Whether the entry says that it is a directory.
    pub is_directory: bool,
    /// Whether it is only the name for DOS of what has a longer one.
    pub is_short: bool,
    /// Where the key, a copy of the file's `$FILE_NAME`, stands.
    pub place: Place,
}

/// Where a key stands: in the root's record or in a block, at this byte of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Place {
    /// In the file record that holds the first node.
    Record(usize),
    /// In the block that begins at this byte of the stream of blocks.
    Block(u64, usize),
}

impl Directory {
    /// Bytes of a block.
    #[must_use]
    pub fn block_len(&self) -> usize {
        self.block
    }

    /// The stream of blocks.
    #[must_use]
    pub fn blocks(&self) -> Option<&Stream> {
        self.blocks.as_ref()
    }
}

/// A node in memory.
struct Node {
    bytes: Vec<u8>,
    /// Where its head stands in these.
    head: usize,
    /// The block it is, by its first byte in the stream; none for the root.
    block: Option<u64>,
    /// Where these begin in the record or block, and on the volume.
    from: usize,
    at: u64,
}

/// An entry of a node.
struct Raw<'n> {
    /// Where it stands in the node's bytes.
    at: usize,
    bytes: &'n [u8],
}

impl Raw<'_> {
    fn is_last(&self) -> bool {
        le16(self.bytes, 12) & LAST != 0
    }

    /// The node with the names before this one.
    fn below(&self) -> Option<u64> {
        let at = self.bytes.len().checked_sub(8)?;
        (le16(self.bytes, 12) & BELOW != 0).then(|| le64(self.bytes, at))
    }

    fn name(&self) -> Vec<u16> {
        let units = usize::from(le::<1>(self.bytes, KEY + 0x40)[0]);
        let name = self.bytes.get(NAME..).and_then(|rest| rest.get(..units * 2));
        let pairs = name.unwrap_or_default().as_chunks::<2>().0;
        pairs.iter().map(|unit| u16::from_le_bytes(*unit)).collect()
    }
}

impl Node {
    /// Its entries in order, the last one included.
    fn entries(&self) -> Result<Vec<Raw<'_>>> {
        let number = |at: usize| usize::try_from(le32(&self.bytes, self.head + at));
        let inside = |at: usize| Some(self.head.saturating_add(number(at).ok()?));
        let end = inside(4).filter(|end| *end <= self.bytes.len());
        let end = end.ok_or_else(|| self.wrong(self.head, "is longer than its block"))?;
        let mut at = inside(0).unwrap_or(usize::MAX);
        let mut entries = Vec::new();
        loop {
            let len = le16(&self.bytes, at.saturating_add(8));
            let stop = at.saturating_add(len);
            let bytes = if stop <= end { self.bytes.get(at..stop) } else { None };
            let Some(bytes) = bytes.filter(|_| len >= KEY) else {
                return Err(self.wrong(at, "has an entry that does not fit"));
            };
            let entry = Raw { at, bytes };
            let short = if entry.is_last() {
                entry.below().is_some() && len < KEY + 8
            } else {
                let tail = if entry.below().is_some() { 8 } else { 0 };
                len < NAME + entry.name().len() * 2 + tail || entry.name().is_empty()
            };
            if short {
                return Err(self.wrong(at, "has an entry that is too short"));
            }
            let is_last = entry.is_last();
            entries.push(entry);
            if is_last {
                return Ok(entries);
            }
            at = stop;
        }
    }

    fn entry(&self, raw: &Raw<'_>) -> Entry {
        let reference = le64(raw.bytes, 0);
        let place = match self.block {
            None => Place::Record(self.from + raw.at + KEY),
            Some(start) => Place::Block(start, raw.at + KEY),
        };
        Entry {
            name: raw.name(),
            file: reference & 0xFFFF_FFFF_FFFF,
            sequence: le16(raw.bytes, 6),
            is_directory: le32(raw.bytes, KEY + 0x38) & IS_DIRECTORY != 0,
            is_short: le::<1>(raw.bytes, KEY + 0x41)[0] == DOS,
            place,
        }
    }

    fn wrong(&self, at: usize, what: &str) -> Error {
        let at = self.at.saturating_add(at as u64);
        damaged("NTFS index", at, format!("a node {what}"))
    }
}

impl<D: Deref<Target: Disk>> Ntfs<D> {
    /// The index of the directory of record `base`.
    ///
    /// # Errors
    /// [`Usage`](vdisk_core::ErrorKind::Usage) for what is no directory;
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where it cannot be read; the disk's.
    pub fn directory(&self, base: &Record) -> Result<Directory> {
        if !base.is_directory() {
            return Err(Error::usage("it is no directory"));
        }
        let number = base.number;
        let (holder, range) = self.root_of(base)?;
        let value = holder.bytes.get(range.clone()).unwrap_or_default();
        let block = usize::try_from(le32(value, 8)).unwrap_or_default();
        if le32(value, 0) != FILE_NAME || !block.is_power_of_two() || !BLOCKS.contains(&block) {
            return Err(base.wrong("its index is none of names, or its blocks have no size"));
        }
        // Where a cluster is larger than a block, blocks are counted in the smallest sectors.
        let cluster = self.boot().cluster;
        let unit = if cluster <= block as u64 { cluster } else { 512 };
        Ok(Directory {
            number,
            root_record: holder.number,
            root: value.to_vec(),
            root_at: range.start,
            block,
            unit,
            blocks: self.stream(base, INDEX_ALLOCATION, I30)?,
        })
    }

    /// The name equal to `name`, else one that differs only in case.
    ///
    /// # Errors
    /// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where the index cannot be read; the disk's.
    pub fn find(&self, dir: &Directory, case: &UpCase, name: &[u16]) -> Result<Option<Entry>> {
        let mut node = self.root_node(dir);
        let mut alike = None;
        for _ in 0..MOST_LEVELS {
            let mut below = None;
            for raw in node.entries()? {
                below = raw.below();
                if raw.is_last() {
                    break;
                }
                let there = raw.name();
                let loosely = case.compare(name, &there);
                if loosely == Ordering::Equal {
                    alike = Some(node.entry(&raw));
                }
                match loosely.then_with(|| name.cmp(&there)) {
                    Ordering::Less => break,
                    Ordering::Equal => return Ok(alike),
                    Ordering::Greater => {}
                }
            }
            node = match below {
                Some(vcn) => self.block(dir, vcn)?,
                None => return Ok(alike),
            };
        }
        Err(too_deep(&node))
    }

    /// All names, in the order of the index.
    ///
    /// # Errors
    /// As [`Ntfs::find`].
    pub fn names(&self, dir: &Directory) -> Result<Vec<Entry>> {
        let mut names = Vec::new();
        let root = self.root_node(dir);
        self.walk(dir, &root, MOST_LEVELS, &mut HashSet::new(), &mut names)?;
        Ok(names)
    }

    fn walk(
        &self,
        dir: &Directory,
        node: &Node,
        levels: usize,
        seen: &mut HashSet<u64>,
        names: &mut Vec<Entry>,
    ) -> Result<()> {
        for raw in node.entries()? {
            if let Some(vcn) = raw.below() {
                if !seen.insert(vcn) {
                    return Err(node.wrong(raw.at, "leads to a block that others lead to"));
                }
                let levels = levels.checked_sub(1).ok_or_else(|| too_deep(node))?;
                self.walk(dir, &self.block(dir, vcn)?, levels, seen, names)?;
            }
            if !raw.is_last() {
                names.push(node.entry(&raw));
            }
        }
        Ok(())
    }

    /// The record with the first node, and where its value stands there.
    fn root_of(&self, base: &Record) -> Result<(Record, Range<usize>)> {
        let mut found = None;
        self.each_piece(base, INDEX_ROOT, I30, |record, piece| {
            if let Body::Resident(range) = &piece.body {
                found = Some((record.clone(), range.clone()));
            }
            Ok(())
        })?;
        found.ok_or_else(|| base.wrong("it is a directory without an index"))
    }

    fn root_node(&self, dir: &Directory) -> Node {
        let at = self.record_place(dir.root_record).saturating_add(dir.root_at as u64);
        let (bytes, from) = (dir.root.clone(), dir.root_at);
        Node { bytes, head: ROOT_NODE, block: None, from, at }
    }

    /// The block of this number.
    fn block(&self, dir: &Directory, vcn: u64) -> Result<Node> {
        let nothing = || {
            let at = self.record_place(dir.number);
            damaged("NTFS index", at, format!("there is no block {vcn} in it"))
        };
        let blocks = dir.blocks.as_ref().ok_or_else(nothing)?;
        let start = vcn.checked_mul(dir.unit).ok_or_else(nothing)?;
        let mut bytes = vec![0; dir.block];
        if self.read_stream(blocks, start, &mut bytes)? < bytes.len() {
            return Err(nothing());
        }
        let at = match blocks {
            Stream::Clusters(clusters) => clusters.extents.at(start).and_then(|(place, _)| place),
            Stream::Resident(_) => None,
        };
        let at = at.unwrap_or_default();
        let bytes = opened(bytes, b"INDX")
            .ok_or_else(|| damaged("NTFS index", at, format!("block {vcn} is torn, or none")))?;
        if le64(&bytes, 16) != vcn {
            let said = le64(&bytes, 16);
            return Err(damaged("NTFS index", at, format!("block {vcn} says it is {said}")));
        }
        Ok(Node { bytes, head: BLOCK_NODE, block: Some(start), from: 0, at })
    }
}

fn too_deep(node: &Node) -> Error {
    node.wrong(node.head, "stands below more levels than can be")
}
