//! Volumes that begin with a boot sector: NTFS, exFAT, ReFS, FAT.

use vdisk_core::Result;

use super::{View, Volume, VolumeKind};
use crate::block::Block;

/// Bytes of a boot sector that are looked at.
const BYTES: usize = 512;
/// Most bytes of a root directory that are searched for the volume's label.
const MOST_DIRECTORY: u64 = 1 << 16;

/// NTFS, by its OEM name and a sector size that can be.
pub(super) fn ntfs(view: &View<'_>) -> Result<Option<Volume>> {
    let Some(boot) = view.marked(0, BYTES, b"NTFS    ", 3)? else { return Ok(None) };
    let sound = is_sector_size(boot.u16(11)) && is_cluster(boot.byte(13)) && boot.u64(40) > 0;
    Ok(sound.then(|| Volume::new(VolumeKind::Ntfs).id(Some(format!("{:016X}", boot.u64(72))))))
}

/// NTFS also has clusters of more than 128 sectors, as powers of two below zero.
fn is_cluster(sectors: u8) -> bool {
    sectors.is_power_of_two() || sectors >= 240
}

/// exFAT (Microsoft's specification 1.00, section 3.1).
pub(super) fn exfat(view: &View<'_>) -> Result<Option<Volume>> {
    let Some(boot) = view.marked(0, BYTES, b"EXFAT   ", 3)? else { return Ok(None) };
    let (sector, cluster) = (boot.byte(108), boot.byte(109));
    if boot.slice(11..64).iter().any(|byte| *byte != 0)
        || !(9..=12).contains(&sector)
        || cluster > 25 - sector
    {
        return Ok(None);
    }
    let heap = u64::from(boot.u32(88)) << sector;
    let cluster = sector + cluster;
    let root = u64::from(boot.u32(96)).checked_sub(2).map(|number| heap + (number << cluster));
    let label = match root {
        Some(at) => directory(view, at, 1 << cluster)?.and_then(|root| exfat_label(&root)),
        None => None,
    };
    Ok(Some(Volume::new(VolumeKind::Exfat).label(label).id(Some(serial(boot.u32(100))))))
}

/// The volume label entry (7.3): type, number of UTF-16 units, the units.
fn exfat_label(root: &Block) -> Option<String> {
    let entry = entries(root).find(|entry| entry.byte(0) == 0x83)?;
    let units = (0..usize::from(entry.byte(1)).min(11)).map(|index| entry.u16(2 + index * 2));
    let units: Vec<u16> = units.collect();
    (!units.is_empty()).then(|| String::from_utf16_lossy(&units))
}

/// ReFS, by its name.
pub(super) fn refs(view: &View<'_>) -> Result<Option<Volume>> {
    let found = view.marked(0, BYTES, b"\0\0\0ReFS\0", 0)?;
    Ok(found.map(|boot| {
        let serial = boot.u64(56);
        Volume::new(VolumeKind::Refs).id((serial != 0).then(|| format!("{serial:016X}")))
    }))
}

/// FAT, by a BIOS parameter block that adds up (Microsoft's specification 1.03), since nothing in
/// it is a magic number. Which FAT it is, only the number of clusters tells.
pub(super) fn fat(view: &View<'_>) -> Result<Option<Volume>> {
    let Some(boot) = view.block(0, BYTES)? else { return Ok(None) };
    let Some(fat) = Fat::parse(&boot) else { return Ok(None) };
    let extended = if fat.kind == VolumeKind::Fat32 { 64 } else { 36 };
    let signature = boot.byte(extended + 2);
    let id = matches!(signature, 0x28 | 0x29).then(|| boot.u32(extended + 3));
    let in_boot = (signature == 0x29)
        .then(|| boot.text(extended + 7..extended + 18))
        .flatten()
        .filter(|label| label != "NO NAME");
    let label = directory(view, fat.root, fat.root_len)?.and_then(|root| fat_label(&root));
    Ok(Some(
        Volume::new(fat.kind).label(label.or(in_boot)).id(id.filter(|id| *id != 0).map(serial)),
    ))
}

struct Fat {
    kind: VolumeKind,
    /// Byte offset of the root directory's beginning.
    root: u64,
    /// Its bytes, as far as they stand together.
    root_len: u64,
}

impl Fat {
    fn parse(boot: &Block) -> Option<Self> {
        let sector = u64::from(boot.u16(11));
        let cluster = u64::from(boot.byte(13));
        let reserved = u64::from(boot.u16(14));
        let fats = u64::from(boot.byte(16));
        let root_entries = u64::from(boot.u16(17));
        let media = boot.byte(21);
        let either = |short: u16, long: u32| match short {
            0 => u64::from(long),
            short => u64::from(short),
        };
        let sectors = either(boot.u16(19), boot.u32(32));
        let fat_sectors = either(boot.u16(22), boot.u32(36));
        let plausible = is_sector_size(boot.u16(11))
            && boot.byte(13).is_power_of_two()
            && reserved > 0
            && (1..=2).contains(&fats)
            && (media == 0xf0 || media >= 0xf8)
            && fat_sectors > 0
            && (boot.has(&[0x55, 0xaa], BYTES - 2) || boot.byte(0) == 0xeb || boot.byte(0) == 0xe9);
        if !plausible {
            return None;
        }
        let root_sectors = (root_entries * 32).div_ceil(sector);
        let root = reserved + fats * fat_sectors;
        let clusters = sectors.checked_sub(root + root_sectors)? / cluster;
        let is_32 = boot.u16(22) == 0;
        let kind = match clusters {
            0 => return None,
            _ if is_32 && clusters < 0x0fff_fff6 && root_entries == 0 => VolumeKind::Fat32,
            _ if is_32 => return None,
            1..4085 => VolumeKind::Fat12,
            4085..65525 => VolumeKind::Fat16,
            _ => return None,
        };
        // Each FAT must be able to hold its clusters.
        let bits = match kind {
            VolumeKind::Fat12 => 12,
            VolumeKind::Fat16 => 16,
            _ => 32,
        };
        if (clusters + 2) * bits > fat_sectors * sector * 8 {
            return None;
        }
        Some(if is_32 {
            let first = u64::from(boot.u32(44)).checked_sub(2)?;
            Self { kind, root: (root + first * cluster) * sector, root_len: cluster * sector }
        } else {
            Self { kind, root: root * sector, root_len: root_sectors * sector }
        })
    }
}

/// The entry with the volume attribute that is neither deleted nor part of a long name.
fn fat_label(root: &Block) -> Option<String> {
    let label = entries(root).take_while(|entry| entry.byte(0) != 0).find(|entry| {
        let attributes = entry.byte(11);
        entry.byte(0) != 0xe5 && attributes & 0x3f != 0x0f && attributes & 0x18 == 0x08
    })?;
    label.text(0..11).filter(|label| label != "NO NAME")
}

/// The beginning of a directory.
fn directory(view: &View<'_>, at: u64, len: u64) -> Result<Option<Block>> {
    let len = len.min(MOST_DIRECTORY).min(view.len().saturating_sub(at));
    view.block(at, usize::try_from(len).unwrap_or_default())
}

/// The 32-byte entries of a directory.
fn entries(directory: &Block) -> impl Iterator<Item = Block> {
    directory.0.chunks_exact(32).map(|entry| Block(entry.to_vec()))
}

fn is_sector_size(bytes: u16) -> bool {
    matches!(bytes, 512 | 1024 | 2048 | 4096)
}

/// A volume serial number as DOS writes it.
fn serial(number: u32) -> String {
    format!("{:04X}-{:04X}", number >> 16, number & 0xffff)
}
