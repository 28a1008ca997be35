//! Mending what has one right answer, and giving back space that nothing uses.
//!
//! The two footers stand in for each other, so one that is missing, damaged or another is written
//! anew from the one that counts. The dynamic header has no copy: its checksum alone is put right,
//! where all that it says agrees with the rest of the file. Which block is the right one where two
//! overlap, or where a block went that the file does not hold, nobody can know.

use std::sync::Arc;

use vdisk_core::repair::Scope;
use vdisk_core::{Error, Findings, Mends, Result, Severity, Store, StoreExt};

use crate::check::{check, free_space};
use crate::footer::{Damage, FOOTER};
use crate::footers::Footers;
use crate::header::CHECKSUM_AT;
use crate::open::{Body, OpenOptions, VhdLayer, open};
use crate::shape::SECTOR;
use crate::sparse::Sparse;

/// Mends in `store` what has one right answer, in an order that leaves an image that opens at
/// every step. With [`Scope::Leaks`] there is nothing to do.
///
/// # Errors
/// Those of opening the image; [`Refused`](vdisk_core::ErrorKind::Refused) for a disk in saved
/// state; the host's.
pub fn mend(store: &Arc<dyn Store>, scope: Scope, mends: &mut Mends) -> Result<()> {
    if scope == Scope::Leaks {
        return Ok(());
    }
    let layer = open_awake(store)?;
    let Some(footers) = Footers::find(&**store)? else { return Ok(()) };
    if let Body::Sparse(sparse) = &layer.body {
        mend_copy(sparse, &footers, mends)?;
        mend_tail(sparse, &footers, mends)?;
        mend_header(store, mends)?;
    }
    Ok(())
}

/// Gives back the space of `store` that no block uses: at the end by a shorter file, elsewhere as
/// holes. The image must be free of corruptions.
///
/// # Errors
/// As [`mend`].
pub fn reclaim(store: &Arc<dyn Store>, mends: &mut Mends) -> Result<()> {
    let mut layer = open_awake(store)?;
    let Some(footers) = Footers::find(&**store)? else { return Ok(()) };
    let Body::Sparse(sparse) = &mut layer.body else { return Ok(()) };
    drop_beyond(sparse, mends)?;
    let Some(free) = free_space(sparse, &footers)? else { return Ok(()) };
    for gap in free.gaps.iter().filter(|gap| gap.end < footers.tail.at) {
        if free.stored(&**store, gap)? > 0 {
            store.clear(gap.start, gap.end - gap.start, "free space")?;
            let what = format!("gave back {} bytes as a hole", gap.end - gap.start);
            mends.add("vhd-orphan-space", gap.start, what);
        }
    }
    store.flush()?;
    if let Some(tail) = free.gaps.last().filter(|gap| gap.end == footers.tail.at)
        && sparse.tail_good
    {
        sparse.end = tail.start;
        sparse.put_tail()?;
        store.flush()?;
        let what = format!("cut {} bytes off the file", tail.end - tail.start);
        mends.add("vhd-orphan-space", tail.start, what);
    }
    Ok(())
}

/// Opens the image for looking, unless a sleeping machine relies on it as it is.
fn open_awake(store: &Arc<dyn Store>) -> Result<VhdLayer> {
    let layer = open(store.clone(), &OpenOptions::default())?;
    if let Body::Sparse(sparse) = &layer.body
        && sparse.footer.saved_state()
    {
        return Err(Error::refused("the disk belongs to a machine in saved state")
            .at("VHD footer", 0)
            .in_file(store.name())
            .hint("start the machine and shut it down, then repair the disk"));
    }
    Ok(layer)
}

fn mend_copy(sparse: &Sparse, footers: &Footers, mends: &mut Mends) -> Result<()> {
    if sparse.copy_good {
        return Ok(());
    }
    let code = match footers.copy.found {
        Ok(_) => "vhd-footer-copies-differ",
        Err(Damage::Cookie) => "vhd-footer-copy-missing",
        Err(Damage::Checksum { .. }) => "vhd-footer-copy-checksum",
    };
    sparse.store.put(&sparse.footer.to_bytes(), 0, "VHD footer copy")?;
    sparse.store.flush()?;
    mends.add(code, 0, "wrote the footer's copy anew from the footer at the end");
    Ok(())
}

fn mend_tail(sparse: &Sparse, footers: &Footers, mends: &mut Mends) -> Result<()> {
    let tail = &footers.tail;
    let code = match &tail.found {
        Ok(found) if found.to_bytes() == sparse.footer.to_bytes() => return Ok(()),
        Ok(_) => "vhd-footer-copies-differ",
        Err(Damage::Cookie) => "vhd-footer-missing",
        Err(Damage::Checksum { .. }) => "vhd-footer-checksum",
    };
    // Where a block lies beyond the end, the file lost a part that may come back.
    let Some(used) = used_end(sparse)? else { return Ok(()) };
    // Behind all that is used, and where the old one stood if that is so.
    let at = tail.at.next_multiple_of(SECTOR).max(used);
    sparse.store.put(&sparse.footer.to_bytes(), at, "VHD footer")?;
    sparse.store.flush()?;
    if sparse.store.size()? != at + FOOTER {
        sparse.store.resize(at + FOOTER)?;
        sparse.store.flush()?;
    }
    mends.add(code, at, "wrote the footer anew from its copy at byte 0");
    Ok(())
}

/// Where all that is used ends; `None` where a block is not where it could be.
fn used_end(sparse: &Sparse) -> Result<Option<u64>> {
    let Some(blocks) = sparse.survey()? else { return Ok(None) };
    let mut end = sparse.metadata_end();
    for (sector, block) in blocks {
        let place = sparse.place_of(block, sector);
        if sparse.misplaced(place).is_some() {
            return Ok(None);
        }
        end = end.max(place.bitmap + sparse.shape.slot());
    }
    Ok(Some(end))
}

/// Puts the dynamic header's checksum right where nothing it covers can be wrong unseen: in a disk
/// without a parent, of which every other structure agrees with it.
fn mend_header(store: &Arc<dyn Store>, mends: &mut Mends) -> Result<()> {
    let layer = open(store.clone(), &OpenOptions::default())?;
    let Body::Sparse(sparse) = &layer.body else { return Ok(()) };
    let header = &sparse.header;
    if header.checksum_ok || sparse.differencing || !header.is_plain() {
        return Ok(());
    }
    let mut findings = Findings::new();
    check(&layer, &mut findings)?;
    let agrees = u64::from(header.entries()) == sparse.shape.blocks(sparse.size)
        && findings.count(Severity::Corruption) == 1
        && findings.count(Severity::Leak) == 0
        && findings.list().iter().all(|finding| finding.code != "vhd-too-many-blocks");
    if agrees {
        let bytes = header.to_bytes();
        let sum = bytes.get(CHECKSUM_AT..CHECKSUM_AT + 4).unwrap_or_default();
        let at = header.at + CHECKSUM_AT as u64;
        store.put(sum, at, "VHD dynamic header")?;
        store.flush()?;
        mends.add("vhd-header-checksum", header.at, "put the checksum right");
    }
    Ok(())
}

/// Gives up the blocks that lie beyond the disk's end.
fn drop_beyond(sparse: &mut Sparse, mends: &mut Mends) -> Result<()> {
    let needed = sparse.shape.blocks(sparse.size);
    let Ok(first) = u32::try_from(needed) else { return Ok(()) };
    if first < sparse.bat.entries() && sparse.bat.drop_from(first)? {
        sparse.store.flush()?;
        let at = sparse.bat.entry_at(first);
        mends.add("vhd-block-beyond-disk", at, "gave up the blocks beyond the disk's end");
    }
    Ok(())
}
