//! What the file records of a volume say of security identifiers.

use std::collections::BTreeSet;

use vdisk_core::Result;

use vdisk_guest::ntfs::{
    Body, Content, FILE_NAME, INDEX_ALLOCATION, LOGGED_STREAM, Record, SECURITY_DESCRIPTOR, le,
    le32, le64, opened, sealed, text,
};

use super::Ntfs;
use crate::windows::identity::swap::Swap;

/// Records read at once.
const BATCH: usize = 1024;
/// Directories above one another, at most.
const DEPTH: usize = 256;
/// The record of the root directory.
const ROOT: u64 = 5;
/// The name of a file for DOS programs, beside its own.
const DOS: u8 = 2;

/// What was found.
#[derive(Debug, Default)]
pub struct Found {
    /// Files and directories whose own names have the SID in them, and the name they are to get;
    /// what is in a directory comes before it.
    pub names: Vec<Rename>,
    /// Files that are encrypted (EFS).
    pub encrypted: u64,
    /// One of them.
    pub encrypted_file: Option<String>,
}

/// A name that has the SID in it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rename {
    /// The path, with `/` between names.
    pub from: String,
    /// The path with the new name.
    pub to: String,
}

/// Looks through all file records in use.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where the master file table cannot be read; the
/// disk's.
pub fn find(ntfs: &Ntfs, swap: &Swap) -> Result<Found> {
    let mut found = Found::default();
    each(ntfs, |record| {
        if !record.in_use() {
            return Ok(());
        }
        for attribute in record.attributes() {
            match (&attribute.body, attribute.kind) {
                (Body::Resident(range), FILE_NAME) => {
                    let value = record.bytes.get(range.clone()).unwrap_or_default();
                    if swap.count(value) > 0 {
                        found.names.extend(rename(ntfs, value, swap)?);
                    }
                }
                (_, LOGGED_STREAM) if attribute.name == "$EFS" => {
                    found.encrypted += 1;
                    if found.encrypted_file.is_none() {
                        found.encrypted_file = Some(path_of(ntfs, record.base())?);
                    }
                }
                _ => {}
            }
        }
        Ok(())
    })?;
    found.names.sort_by_key(|name| std::cmp::Reverse(name.from.matches('/').count()));
    found.names.dedup();
    Ok(found)
}

/// Puts the new SID into the descriptors that records keep themselves, and into what is left of
/// deleted files and names; how many of each.
///
/// # Errors
/// As [`find`].
pub fn rewrite(ntfs: &Ntfs, swap: &Swap) -> Result<(usize, usize)> {
    let (mut descriptors, mut unused) = (0, 0);
    each(ntfs, |record| {
        let mut new = record.clone();
        if record.in_use() {
            for attribute in
                record.attributes().iter().filter(|one| one.kind == SECURITY_DESCRIPTOR)
            {
                match &attribute.body {
                    Body::Resident(range) => {
                        let value = new.bytes.get_mut(range.clone()).unwrap_or_default();
                        descriptors += usize::from(swap.apply(value) > 0);
                    }
                    Body::Runs { .. } => descriptors += outside(ntfs, record, swap)?,
                }
            }
            if record.is_directory() && record.base() == record.number {
                unused += remnants(ntfs, record.number, swap)?;
            }
        }
        let used = if record.in_use() { record.used() } else { 0 };
        unused += swap.apply(new.bytes.get_mut(used..).unwrap_or_default());
        if new.bytes != record.bytes { ntfs.write_record(&new) } else { Ok(()) }
    })?;
    Ok((descriptors, unused))
}

fn each(ntfs: &Ntfs, mut visit: impl FnMut(&Record) -> Result<()>) -> Result<()> {
    let mut next = 0;
    while next < ntfs.records() {
        let left = ntfs.records() - next;
        let count = usize::try_from(left).unwrap_or(BATCH).min(BATCH);
        for record in ntfs.records_at(next, count)? {
            visit(&record)?;
        }
        next += count as u64;
    }
    Ok(())
}

/// A descriptor in clusters of its own.
fn outside(ntfs: &Ntfs, record: &Record, swap: &Swap) -> Result<usize> {
    let Some(place) = ntfs.attribute(record.base(), SECURITY_DESCRIPTOR, "")? else { return Ok(0) };
    let Some(new) = swap.applied(&ntfs.content(&place)?) else { return Ok(0) };
    ntfs.write_content(&place, 0, &new)?;
    Ok(1)
}

/// Old names behind the entries in use of a directory's blocks.
fn remnants(ntfs: &Ntfs, directory: u64, swap: &Swap) -> Result<usize> {
    let Some(place) = ntfs.attribute(directory, INDEX_ALLOCATION, "$I30")? else { return Ok(0) };
    let Content::Runs(..) = place else { return Ok(0) };
    let blocks = ntfs.content(&place)?;
    let mut count = 0;
    for (number, block) in blocks.chunks_exact(ntfs.boot().index).enumerate() {
        let Some(mut block) = opened(block.to_vec(), b"INDX") else { continue };
        let used = usize::try_from(le32(&block, 28)).unwrap_or(usize::MAX).saturating_add(24);
        let found = swap.apply(block.get_mut(used..).unwrap_or_default());
        if found > 0
            && let Some(bytes) = sealed(&block)
        {
            ntfs.write_content(&place, (number * ntfs.boot().index) as u64, &bytes)?;
            count += found;
        }
    }
    Ok(count)
}

fn rename(ntfs: &Ntfs, value: &[u8], swap: &Swap) -> Result<Option<Rename>> {
    let Some((parent, name)) = name(value) else { return Ok(None) };
    let Some(new) = swap.applied(name) else { return Ok(None) };
    let directory = path_of(ntfs, parent)?;
    let path = |name: &[u8]| format!("{}/{}", directory.trim_end_matches('/'), text(name));
    Ok(Some(Rename { from: path(name), to: path(&new) }))
}

/// The directory and the name in a `$FILE_NAME`, but for those of DOS.
fn name(value: &[u8]) -> Option<(u64, &[u8])> {
    let [units, space] = le::<2>(value, 0x40);
    let name = value.get(0x42..)?.get(..usize::from(units) * 2)?;
    (space != DOS).then_some((le64(value, 0) & 0xFFFF_FFFF_FFFF, name))
}

/// The path of a file by its record.
fn path_of(ntfs: &Ntfs, file: u64) -> Result<String> {
    let mut names = Vec::new();
    let (mut at, mut seen) = (file, BTreeSet::new());
    while at != ROOT && seen.insert(at) && seen.len() < DEPTH {
        let Some((parent, name)) = own_name(ntfs, at)? else { break };
        names.push(name);
        at = parent;
    }
    names.reverse();
    Ok(format!("/{}", names.join("/")))
}

fn own_name(ntfs: &Ntfs, file: u64) -> Result<Option<(u64, String)>> {
    let record = ntfs.record(file)?;
    let of = |record: &Record| {
        let all = record.attributes().into_iter().filter(|one| one.kind == FILE_NAME);
        let mut names = all.filter_map(|one| match one.body {
            Body::Resident(range) => record.bytes.get(range).and_then(name).map(owned),
            Body::Runs { .. } => None,
        });
        names.next()
    };
    if let Some(found) = of(&record) {
        return Ok(Some(found));
    }
    let place = ntfs.attribute(file, FILE_NAME, "")?;
    let value = place.map(|place| ntfs.content(&place)).transpose()?;
    Ok(value.as_deref().and_then(name).map(owned))
}

fn owned((parent, name): (u64, &[u8])) -> (u64, String) {
    (parent, text(name))
}
