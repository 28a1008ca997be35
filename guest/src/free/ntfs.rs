//! NTFS: `$Bitmap`, and the files of Windows that a start makes anew.

use std::ops::Range;

use vdisk_core::{Disk, ErrorKind, Result};

use super::bits::ClearRuns;
use super::field::Fields;
use super::runs::Runs;
use super::{Found, Scope, contradiction};
use crate::ntfs::{Content, DATA, Ntfs, ROOT, Runs as Places, UpCase, to_units};

/// The record of `$Bitmap`.
const BITMAP: u64 = 6;
/// Bytes read at once.
const PIECE: u64 = 1 << 20;
/// Where the volume says whether it has shadow copies, and what such a place begins with.
const SHADOW: u64 = 0x1E00;
const SHADOW_ID: [u8; 16] = [
    0x6B, 0x87, 0x08, 0x38, 0x76, 0xC1, 0x48, 0x4E, 0xB7, 0xAE, 0x04, 0x04, 0x6E, 0x6C, 0xC7, 0x52,
];
/// Their content is of no use to the next start.
const MADE_ANEW: [&str; 3] = ["pagefile.sys", "swapfile.sys", "hiberfil.sys"];

/// Adds the free runs of the volume, bytes.
///
/// # Errors
/// [`Corrupt`](vdisk_core::ErrorKind::Corrupt) where its parts do not fit.
pub(super) fn free(volume: &dyn Disk, scope: Scope, free: &mut Runs) -> Result<Found> {
    let ntfs = Ntfs::open(volume)?;
    if has_shadow_copies(volume)? {
        let why = "its shadow copies use what is free; delete them first (vssadmin delete shadows)";
        return Ok(Err(why.to_owned()));
    }
    let Some(bitmap) = runs(&ntfs, BITMAP)? else {
        return Ok(Err("its $Bitmap is kept in a way that is not known".to_owned()));
    };
    clear_bits(&ntfs, &bitmap, free)?;
    if scope == Scope::All {
        made_anew(&ntfs)?.into_iter().for_each(|run| free.push(run));
    }
    Ok(Ok(()))
}

/// Whether Windows keeps shadow copies (System Restore's, backups') of the NTFS on `volume`: they
/// read from it what was not changed since, so that what is written to it by others is theirs too.
///
/// # Errors
/// The disk's.
pub fn has_shadow_copies(volume: &dyn Disk) -> Result<bool> {
    const LEN: u64 = 64;
    if volume.len() < SHADOW + LEN {
        return Ok(false);
    }
    let shadow = Fields::read(volume, SHADOW, usize::try_from(LEN).unwrap_or_default())?;
    Ok(shadow.has(&SHADOW_ID, 0) && shadow.le64(48) != 0)
}

/// Where a file's content stands; `None` where it stands in a record, or in a way that is not known:
/// with holes, coded, or in pieces that do not fit.
fn runs(ntfs: &Ntfs<&dyn Disk>, file: u64) -> Result<Option<Places>> {
    match ntfs.attribute(file, DATA, "") {
        Ok(Some(Content::Runs(runs, _))) => Ok(Some(runs)),
        Ok(_) => Ok(None),
        Err(error) if error.kind() == ErrorKind::Corrupt => Ok(None),
        Err(error) => Err(error),
    }
}

/// Adds the clusters whose bits are clear in the bitmap at `runs`.
fn clear_bits(ntfs: &Ntfs<&dyn Disk>, runs: &Places, free: &mut Runs) -> Result<()> {
    let cluster = ntfs.boot().cluster;
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
    Ok(())
}

/// The bytes of the files that the next start makes anew.
fn made_anew(ntfs: &Ntfs<&dyn Disk>) -> Result<Vec<Range<u64>>> {
    let (root, case) = (ntfs.directory(&ntfs.record(ROOT)?)?, UpCase::read(ntfs)?);
    let mut found = Vec::new();
    for name in MADE_ANEW {
        let name = to_units(name.as_bytes()).unwrap_or_default();
        if let Some(entry) = ntfs.find(&root, &case, &name)? {
            found.extend(runs(ntfs, entry.file)?.unwrap_or_default());
        }
    }
    Ok(found)
}
