//! NTFS: `$Bitmap`, and the files of Windows that a start makes anew.

use std::ops::Range;

use vdisk_core::{Disk, ErrorKind, Ranges, Result};

use super::bits::ClearRuns;
use super::field::Fields;
use super::{Found, Scope, contradiction};
use crate::ntfs::{
    Content, DATA, INDEX_ALLOCATION, INDEX_ROOT, Ntfs, Runs, le, le16, le32, le64, length, opened,
    text,
};

/// Records of the master file table with a fixed meaning.
const ROOT: u64 = 5;
const BITMAP: u64 = 6;
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

/// The free runs of the volume, bytes.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where its parts do not fit.
pub(super) fn free(volume: &dyn Disk, scope: Scope) -> Result<Found> {
    let ntfs = Ntfs::open(volume)?;
    let shadow = Fields::read(volume, SHADOW, 64)?;
    if shadow.has(&SHADOW_ID, 0) && shadow.le64(48) != 0 {
        let why = "its shadow copies use what is free; delete them first (vssadmin delete shadows)";
        return Ok(Err(why.to_owned()));
    }
    let Some(bitmap) = runs(&ntfs, BITMAP, DATA, "")? else {
        return Ok(Err("its $Bitmap is kept in a way that is not known".to_owned()));
    };
    let mut free = clear_bits(&ntfs, &bitmap)?;
    if scope == Scope::All {
        let files = made_anew(&ntfs)?;
        free = free.iter().cloned().chain(files).collect();
    }
    Ok(Ok(free))
}

/// Where an attribute stands; `None` where it stands in a record, or in a way that is not known:
/// with holes, coded, or in pieces that do not fit.
fn runs(ntfs: &Ntfs<&dyn Disk>, file: u64, kind: u32, name: &str) -> Result<Option<Runs>> {
    match ntfs.attribute(file, kind, name) {
        Ok(Some(Content::Runs(runs, _))) => Ok(Some(runs)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

/// The clusters whose bits are clear in the bitmap at `runs`.
fn clear_bits(ntfs: &Ntfs<&dyn Disk>, runs: &Runs) -> Result<Ranges> {
    let cluster = ntfs.boot().cluster;
    let mut free = Ranges::new();
    let mut clear = ClearRuns::default();
    let mut add = |run: Range<u64>| free.push(run.start * cluster..run.end * cluster);
    let mut left = ntfs.boot().clusters;
    for run in runs {
        let mut at = run.start;
        while at < run.end && left > 0 {
            let len = (run.end - at).min(PIECE);
            let bytes = Fields::read(*ntfs.disk(), at, usize::try_from(len).unwrap_or_default())?;
            let bits = left.min(len * 8);
            clear.look(&bytes.0, bits, &mut add);
            left -= bits;
            at += len;
        }
    }
    if left > 0 {
        let at = runs.first().map_or(0, |run| run.start);
        return Err(contradiction("NTFS $Bitmap", at, format!("{left} clusters are not in it")));
    }
    if let Some(run) = clear.end() {
        add(run);
    }
    Ok(free)
}

/// The bytes of the files that the next start makes anew.
fn made_anew(ntfs: &Ntfs<&dyn Disk>) -> Result<Vec<Range<u64>>> {
    let mut found = Vec::new();
    for number in files_in_root(ntfs)? {
        found.extend(runs(ntfs, number, DATA, "")?.unwrap_or_default());
    }
    Ok(found)
}

/// The record numbers of those files.
fn files_in_root(ntfs: &Ntfs<&dyn Disk>) -> Result<Vec<u64>> {
    let mut found = Vec::new();
    if let Some(root) = ntfs.attribute(ROOT, INDEX_ROOT, "$I30")? {
        entries(&ntfs.content(&root)?, 16, &mut found);
    }
    let Some(blocks) = runs(ntfs, ROOT, INDEX_ALLOCATION, "$I30")? else { return Ok(found) };
    let all = Content::Runs(blocks.clone(), length(&blocks).min(MOST_ROOT));
    for block in ntfs.content(&all)?.chunks_exact(ntfs.boot().index) {
        if let Some(block) = opened(block.to_vec(), b"INDX") {
            entries(&block, 24, &mut found);
        }
    }
    Ok(found)
}

/// Adds the records that the index entries name and that are made anew; `header` is where the
/// index header stands.
fn entries(node: &[u8], header: usize, found: &mut Vec<u64>) {
    let number = |at: usize| usize::try_from(le32(node, at)).unwrap_or_default();
    let end = header.saturating_add(number(header + 4)).min(node.len());
    let mut at = header.saturating_add(number(header));
    while at.saturating_add(16) <= end {
        let len = le16(node, at + 8);
        if len < 16 || le16(node, at + 12) & 2 != 0 {
            return;
        }
        let units = usize::from(le::<1>(node, at + 16 + 0x40)[0]);
        let name = node.get(at + 16 + 0x42..).and_then(|rest| rest.get(..units * 2));
        let name = name.map(text).unwrap_or_default();
        if MADE_ANEW.iter().any(|one| one.eq_ignore_ascii_case(&name)) {
            found.push(le64(node, at) & 0xFFFF_FFFF_FFFF);
        }
        at += len;
    }
}
