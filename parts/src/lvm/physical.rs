//! A physical volume: its label, its metadata areas, and the text in them
//! (LVM2's `lib/format_text/layout.h` and `lib/label/label.h`). Little endian.

use vdisk_core::{Disk, Error, Result};

use super::config::Section;
use crate::block::Block;
use crate::crc::lvm_crc;

/// The sectors of 512 bytes that a label may stand in.
pub(crate) const LABEL_SECTORS: [u64; 4] = [0, 1, 2, 3];
const SECTOR: usize = 512;
/// Areas that are looked at; LVM2 makes no more.
const MOST_AREAS: usize = 2;
/// Longest metadata that is read, bytes.
const MOST_TEXT: u64 = 16 << 20;
const AREA: &str = "LVM2 metadata area";

/// A physical volume and what it says of its group.
#[derive(Debug)]
pub(crate) struct Physical {
    pub(crate) uuid: String,
    /// The metadata of each area that holds some, and where the area stands.
    pub(crate) metadata: Vec<(u64, Section)>,
    /// Why others could not be read.
    pub(crate) damage: Vec<Error>,
}

impl Physical {
    /// Reads the label and all metadata of `disk`; `None` where it is no physical volume.
    pub(crate) fn read(disk: &dyn Disk) -> Result<Option<Self>> {
        for sector in LABEL_SECTORS {
            let at = sector * SECTOR as u64;
            let Some(label) = Block::read(disk, at, SECTOR)? else { break };
            if label.has(b"LABELONE", 0) && label.has(b"LVM2 001", 24) {
                return Self::from_label(disk, &label, at, sector).map(Some);
            }
        }
        Ok(None)
    }

    fn from_label(disk: &dyn Disk, label: &Block, at: u64, sector: u64) -> Result<Self> {
        let corrupt = |message: &str| Error::corrupt("LVM2 label", at, message);
        if label.u64(8) != sector || label.u32(16) != lvm_crc(&[label.slice(20..SECTOR)]) {
            return Err(corrupt("its checksum or place is wrong"));
        }
        let uuid = label_uuid(label).ok_or_else(|| corrupt("it holds no UUID"))?;
        let mut found = Self { uuid, metadata: Vec::new(), damage: Vec::new() };
        for area in metadata_areas(label) {
            match read_text(disk, area) {
                Ok(None) => {}
                Ok(Some(text)) => match Section::parse(&text) {
                    Ok(section) => found.metadata.push((area, section)),
                    Err(reason) => found.damage.push(Error::corrupt(AREA, area, reason)),
                },
                Err(error) => found.damage.push(error),
            }
        }
        Ok(found)
    }
}

/// The physical volume's UUID as LVM2 prints it.
pub(crate) fn label_uuid(label: &Block) -> Option<String> {
    let at = contents(label)?;
    let text = label.text(at..at + 32)?;
    let groups = [0..6, 6..10, 10..14, 14..18, 18..22, 22..26, 26..32];
    let plain = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_graphic());
    plain.then(|| groups.map(|range| text.get(range).unwrap_or_default()).join("-"))
}

/// Where the physical volume's header stands in the label's sector.
fn contents(label: &Block) -> Option<usize> {
    usize::try_from(label.u32(20)).ok().filter(|at| *at < SECTOR)
}

/// The offsets of the metadata areas: the second of two lists of (offset, size), which each end
/// with zeros. The first is of the areas for data.
fn metadata_areas(label: &Block) -> Vec<u64> {
    let start = contents(label).unwrap_or(SECTOR) + 40;
    let offsets: Vec<u64> =
        (start..SECTOR.saturating_sub(16)).step_by(16).map(|at| label.u64(at)).collect();
    let mut lists = offsets.split(|offset| *offset == 0);
    lists.nth(1).unwrap_or_default().iter().copied().take(MOST_AREAS).collect()
}

/// The text in the area at byte `start`; `None` where the physical volume belongs to no group, or
/// is told to let the area be.
fn read_text(disk: &dyn Disk, start: u64) -> Result<Option<Vec<u8>>> {
    const MAGIC: &[u8] = b" LVM2 x[5A%r0N*>";
    const IGNORED: u32 = 1;
    let corrupt = |message: String| Error::corrupt(AREA, start, message);
    let header = Block::read(disk, start, SECTOR)?
        .ok_or_else(|| corrupt("it lies beyond the disk's end".into()))?;
    if header.u32(0) != lvm_crc(&[header.slice(4..SECTOR)]) {
        return Err(corrupt("its header's checksum is wrong".into()));
    }
    if !header.has(MAGIC, 4) || header.u32(20) != 1 || header.u64(24) != start {
        return Err(corrupt("its header is not one of LVM2 as it is known".into()));
    }
    let (size, offset, len) = (header.u64(32), header.u64(40), header.u64(48));
    if offset == 0 || header.u32(60) & IGNORED != 0 {
        return Ok(None);
    }
    let first = SECTOR as u64;
    if !(first..size).contains(&offset) || len > size - first || len > MOST_TEXT {
        return Err(corrupt(format!("its text of {len} bytes at {offset} leaves the area")));
    }
    // The text runs around the end of the area to behind the header.
    let before_end = len.min(size - offset);
    let part = |at: u64, len: u64| {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        let at = start.checked_add(at).filter(|at| *at < disk.len());
        at.map_or(Ok(None), |at| Block::read(disk, at, len))?
            .ok_or_else(|| corrupt("its text lies beyond the disk's end".into()))
    };
    let head = part(offset, before_end)?;
    let tail = if len > before_end { part(first, len - before_end)?.0 } else { Vec::new() };
    if header.u32(56) != lvm_crc(&[&head.0, &tail]) {
        return Err(corrupt("its text's checksum is wrong".into()));
    }
    let mut text = [head.0, tail].concat();
    while text.last() == Some(&0) {
        text.pop();
    }
    Ok(Some(text))
}
