//! `$Secure`: the security descriptors that the files of a volume share.
//!
//! The stream `$SDS` holds each descriptor twice, behind a header that the indexes `$SII` (by
//! number) and `$SDH` (by hash) repeat. Another descriptor has another hash, and another place in
//! `$SDH`: its entries are of one size, so they are sorted anew into the places that the tree has.

use std::collections::BTreeMap;

use vdisk_core::{Error, Result};

use vdisk_guest::ntfs::{Content, DATA, damaged, le32, le64, put};

use super::Ntfs;
use super::index::Index;
use crate::windows::identity::swap::Swap;

/// The file record of `$Secure`.
const SECURE: u64 = 9;
const STRUCTURE: &str = "NTFS $Secure:$SDS";
/// Bytes of entries, and then of their copies.
const BLOCK: u64 = 0x4_0000;
const HEADER: usize = 20;
const ALIGN: u64 = 16;

/// A descriptor's header: hash, number, offset, length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Header([u8; HEADER]);

impl Header {
    fn hash(&self) -> u32 {
        le32(&self.0, 0)
    }

    fn id(&self) -> u32 {
        le32(&self.0, 4)
    }

    fn len(&self) -> u64 {
        le32(&self.0, 16).into()
    }
}

/// The stream, and where its entries are.
#[derive(Debug)]
struct Stream {
    place: Content,
    bytes: Vec<u8>,
    /// By offset.
    entries: BTreeMap<u64, Header>,
}

/// Puts the new SID into every descriptor that names the old one; how many there were. Everything
/// is checked first, and read back afterwards.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where the stream and its indexes do not agree, or
/// cannot be read; the disk's.
pub fn rewrite(ntfs: &Ntfs, swap: &Swap) -> Result<usize> {
    let Some(mut stream) = Stream::read(ntfs)? else { return Ok(0) };
    let [mut by_id, mut by_hash] = [index(ntfs, "$SII")?, index(ntfs, "$SDH")?];
    check(&stream, &by_id, &by_hash)?;
    let changed = stream.swap(swap)?;
    if changed == 0 {
        return Ok(0);
    }
    let mut entries = Vec::new();
    for (key, data) in by_id.entries() {
        let header = stream.standing(le64(data, 8))?;
        entries.push((key.to_vec(), header.0.to_vec()));
    }
    by_id.refill(&entries)?;
    entries.sort_by_key(|(_, header)| (le32(header, 0), le32(header, 4)));
    for (key, header) in &mut entries {
        // Hash and number.
        *key = header.iter().take(8).copied().collect();
    }
    by_hash.refill(&entries)?;
    ntfs.write_content(&stream.place, 0, &stream.bytes)?;
    by_id.write(ntfs)?;
    by_hash.write(ntfs)?;
    verify(ntfs, swap)?;
    Ok(changed)
}

/// How many descriptors are found sound: each where both indexes say, with its hash, and twice.
///
/// # Errors
/// As [`rewrite`].
pub fn sound(ntfs: &Ntfs) -> Result<usize> {
    let Some(stream) = Stream::read(ntfs)? else { return Ok(0) };
    check(&stream, &index(ntfs, "$SII")?, &index(ntfs, "$SDH")?)?;
    Ok(stream.entries.len())
}

fn verify(ntfs: &Ntfs, swap: &Swap) -> Result<()> {
    sound(ntfs)?;
    match Stream::read(ntfs)? {
        Some(stream) if swap.count(&stream.bytes) == 0 => Ok(()),
        _ => Err(Error::internal("$Secure still names the old machine")),
    }
}

fn index(ntfs: &Ntfs, name: &str) -> Result<Index> {
    let found = Index::read(ntfs, SECURE, name)?;
    found.ok_or_else(|| damaged("NTFS $Secure", 0, format!("the index {name} is missing")))
}

/// Whether both indexes name just the entries of the stream, as they stand there.
fn check(stream: &Stream, by_id: &Index, by_hash: &Index) -> Result<()> {
    let mut last = None;
    let mut count = 0;
    for (key, data) in by_id.entries() {
        let id = le32(key, 0);
        if last.is_some_and(|last| last >= id) || stream.at(data)?.id() != id {
            return Err(damaged("NTFS $Secure:$SII", id.into(), "its order is not right"));
        }
        last = Some(id);
        count += 1;
    }
    let mut last = None;
    for (key, data) in by_hash.entries() {
        let header = stream.at(data)?;
        let this = (header.hash(), header.id());
        if last.is_some_and(|last| last >= this) || (le32(key, 0), le32(key, 4)) != this {
            return Err(damaged("NTFS $Secure:$SDH", this.1.into(), "its order is not right"));
        }
        last = Some(this);
        count -= 1;
    }
    if count != 0 {
        return Err(damaged("NTFS $Secure", 0, "its indexes do not name the same descriptors"));
    }
    Ok(())
}

/// The hash of a descriptor.
fn hash(descriptor: &[u8]) -> u32 {
    let words = descriptor.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word));
    words.fold(0, |hash: u32, word| word.wrapping_add(hash.rotate_left(3)))
}

impl Stream {
    fn read(ntfs: &Ntfs) -> Result<Option<Self>> {
        let Some(place) = ntfs.attribute(SECURE, DATA, "$SDS")? else { return Ok(None) };
        let mut stream = Self { bytes: ntfs.content(&place)?, place, entries: BTreeMap::new() };
        stream.find()?;
        Ok(Some(stream))
    }

    /// Finds the entries: those whose header says where it stands, and whose hash is right.
    fn find(&mut self) -> Result<()> {
        let len = self.bytes.len() as u64;
        let mut block = 0;
        while block < len {
            let mut at = block;
            while at < (block + BLOCK).min(len) {
                at += match self.entry(at, block + BLOCK) {
                    Some(header) => {
                        if self.slice(at, header.len()) != self.slice(at + BLOCK, header.len()) {
                            return Err(damaged(STRUCTURE, at, "the two copies are not the same"));
                        }
                        self.entries.insert(at, header);
                        header.len().next_multiple_of(ALIGN)
                    }
                    None => ALIGN,
                };
            }
            block += 2 * BLOCK;
        }
        Ok(())
    }

    fn entry(&self, at: u64, end: u64) -> Option<Header> {
        let header = Header(*self.slice(at, HEADER as u64)?.first_chunk()?);
        let len = header.len();
        let fits = le64(&header.0, 8) == at && len > HEADER as u64 && at.checked_add(len)? <= end;
        let descriptor = self.slice(at, len)?.get(HEADER..)?;
        (fits && hash(descriptor) == header.hash()).then_some(header)
    }

    fn slice(&self, at: u64, len: u64) -> Option<&[u8]> {
        let (at, len) = (usize::try_from(at).ok()?, usize::try_from(len).ok()?);
        self.bytes.get(at..)?.get(..len)
    }

    /// The entry that an index tells of.
    fn at(&self, data: &[u8]) -> Result<Header> {
        let at = le64(data, 8);
        let header = self.standing(at)?;
        if header.0 == data { Ok(header) } else { Err(missing(at)) }
    }

    fn standing(&self, at: u64) -> Result<Header> {
        self.entries.get(&at).copied().ok_or_else(|| missing(at))
    }

    /// Swaps in all descriptors and their copies; how many were changed.
    fn swap(&mut self, swap: &Swap) -> Result<usize> {
        let mut changed = 0;
        for (at, header) in &mut self.entries {
            let start = usize::try_from(*at).unwrap_or(usize::MAX);
            let len = usize::try_from(header.len()).unwrap_or(usize::MAX);
            let entry = self.bytes.get_mut(start..).and_then(|rest| rest.get_mut(..len));
            let entry = entry.ok_or_else(|| damaged(STRUCTURE, *at, "an entry is cut off"))?;
            let (head, descriptor) = entry.split_at_mut(HEADER);
            if swap.apply(descriptor) == 0 {
                continue;
            }
            let new = hash(descriptor).to_le_bytes();
            put(head, 0, &new);
            put(&mut header.0, 0, &new);
            let entry = entry.to_vec();
            let copy = usize::try_from(*at + BLOCK).unwrap_or(usize::MAX);
            put(&mut self.bytes, copy, &entry)
                .ok_or_else(|| damaged(STRUCTURE, *at, "an entry has no copy"))?;
            changed += 1;
        }
        // What is left stands in what no index names.
        Ok(changed + swap.apply(&mut self.bytes))
    }
}

fn missing(at: u64) -> Error {
    damaged(STRUCTURE, at, "an index names a descriptor that does not stand there")
}
