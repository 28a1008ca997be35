//! The metadata region (\[MS-VHDX\] 2.2.6): what the disk is. Its table has no checksum.

use uuid::{Uuid, uuid};
use vdisk_core::{Error, ErrorKind, Result, Store, StoreExt};
use zerocopy::little_endian::{U16, U32};
use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned};

use crate::locator::Locator;
use crate::region::Region;
use crate::{KIB, MAX_BLOCK, MAX_SIZE, MIB, MIN_BLOCK};

/// Bytes of the table at the start of the region; items stand behind it.
pub(crate) const TABLE_BYTES: u64 = 64 * KIB;
/// Where the entries begin, bytes from the start of the table.
pub(crate) const ENTRIES_AT: u64 = 32;
/// Most entries of the table.
const MAX_ENTRIES: u16 = 2047;
/// Most bytes of an item.
const MAX_ITEM: u32 = 1 << 20;
const WHAT: &str = "VHDX metadata";

/// The items that there are (2.2.6.2), and those that Windows writes besides.
pub(crate) mod item {
    use super::{Uuid, uuid};

    pub(crate) const FILE_PARAMETERS: Uuid = uuid!("caa16737-fa36-4d43-b3b6-33f0aa44e76b");
    pub(crate) const VIRTUAL_DISK_SIZE: Uuid = uuid!("2fa54224-cd1b-4876-b211-5dbed83bf4b8");
    pub(crate) const VIRTUAL_DISK_ID: Uuid = uuid!("beca12ab-b2e6-4523-93ef-c309e000c746");
    pub(crate) const LOGICAL_SECTOR: Uuid = uuid!("8141bf1d-a96f-4709-ba47-f233a8faab5f");
    pub(crate) const PHYSICAL_SECTOR: Uuid = uuid!("cda348c7-445d-4471-9cc9-e9885251c556");
    pub(crate) const PARENT_LOCATOR: Uuid = uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c");
    /// Cylinders, heads, sectors; Windows' own.
    pub(crate) const CHS: Uuid = uuid!("da02d7bc-3d3a-423c-ac88-2a36ab21479b");
    /// Label area of a persistent memory disk.
    pub(crate) const PMEM_LABEL: Uuid = uuid!("10e1ae8a-4b7e-4169-a40f-cd70de928393");
    /// Windows has not finished making the file.
    pub(crate) const INCOMPLETE: Uuid = uuid!("71cc85f0-1b69-4e28-9558-c3bf83ae75d3");
    /// All items whose meaning is known here or does not matter.
    pub(crate) const KNOWN: [Uuid; 8] = [
        FILE_PARAMETERS,
        VIRTUAL_DISK_SIZE,
        VIRTUAL_DISK_ID,
        LOGICAL_SECTOR,
        PHYSICAL_SECTOR,
        PARENT_LOCATOR,
        CHS,
        PMEM_LABEL,
    ];
}

/// Entry flag: the item belongs to the user of the file, not to the format.
pub(crate) const IS_USER: u32 = 1;
/// Entry flag: the item is about the disk, not about the file.
pub(crate) const IS_VIRTUAL_DISK: u32 = 2;
/// Entry flag: who does not know the item must not open the file.
pub(crate) const IS_REQUIRED: u32 = 4;
/// File parameters: all blocks stay allocated.
const LEAVE_BLOCKS_ALLOCATED: u32 = 1;
/// File parameters: the disk stands on a parent.
const HAS_PARENT: u32 = 2;

/// The start of the table (2.2.6.1.1).
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct TableHead {
    signature: [u8; 8],
    reserved: U16,
    entry_count: U16,
    reserved2: [u8; 20],
}
const _: () = assert!(size_of::<TableHead>() == 32);

/// One entry (2.2.6.1.2); the offset is from the start of the region.
#[derive(FromBytes, IntoBytes, KnownLayout, Immutable, Unaligned)]
#[repr(C)]
struct DiskEntry {
    item_id: [u8; 16],
    offset: U32,
    length: U32,
    flags: U32,
    reserved: U32,
}
const _: () = assert!(size_of::<DiskEntry>() == 32);

/// One entry of the table.
#[derive(Clone, Debug)]
pub(crate) struct Item {
    /// What it is.
    pub(crate) id: Uuid,
    /// Bytes from the start of the region.
    pub(crate) offset: u32,
    /// Bytes.
    pub(crate) length: u32,
    /// See `IS_USER` and its fellows.
    pub(crate) flags: u32,
}

/// What the metadata says.
#[derive(Clone, Debug)]
pub(crate) struct Metadata {
    /// Bytes of a payload block.
    pub(crate) block_size: u64,
    /// All blocks stay allocated: a fixed disk.
    pub(crate) leave_allocated: bool,
    /// The disk stands on a parent.
    pub(crate) has_parent: bool,
    /// Bytes of the disk.
    pub(crate) virtual_size: u64,
    /// Where the size stands in the file.
    pub(crate) virtual_size_at: u64,
    /// The disk's SCSI identity; a child has its parent's.
    pub(crate) disk_id: Uuid,
    /// Bytes of a logical sector.
    pub(crate) logical_sector: u32,
    /// Bytes of a physical sector.
    pub(crate) physical_sector: u32,
    /// Where the parent is.
    pub(crate) locator: Option<Locator>,
    /// All entries of the table, in its order.
    pub(crate) items: Vec<Item>,
}

impl Metadata {
    /// Reads the table and the items.
    ///
    /// # Errors
    /// [`ErrorKind::Corrupt`] where they break the rules, [`ErrorKind::Unsupported`] for a
    /// required item that is not known.
    pub(crate) fn read(store: &dyn Store, region: &Region) -> Result<Self> {
        let reader = Reader { store, region, items: read_table(store, region)? };
        let (block_size, flags) = reader.file_parameters()?;
        let (size, size_at) = reader.fixed::<8>(item::VIRTUAL_DISK_SIZE, "virtual disk size")?;
        let (id, _) = reader.fixed::<16>(item::VIRTUAL_DISK_ID, "virtual disk id")?;
        let logical_sector = reader.sector(item::LOGICAL_SECTOR, "logical sector size")?;
        let physical_sector = reader.sector(item::PHYSICAL_SECTOR, "physical sector size")?;
        let virtual_size = u64::from_le_bytes(size);
        if virtual_size == 0
            || virtual_size > MAX_SIZE
            || !virtual_size.is_multiple_of(logical_sector.into())
        {
            return Err(Error::corrupt(
                WHAT,
                size_at,
                format!(
                    "virtual disk size {virtual_size}, expected a multiple of {logical_sector} \
                     bytes up to 64 TiB"
                ),
            ));
        }
        let has_parent = flags & HAS_PARENT != 0;
        Ok(Self {
            block_size,
            leave_allocated: flags & LEAVE_BLOCKS_ALLOCATED != 0,
            has_parent,
            virtual_size,
            virtual_size_at: size_at,
            disk_id: Uuid::from_bytes_le(id),
            logical_sector,
            physical_sector,
            locator: if has_parent { Some(reader.locator()?) } else { None },
            items: reader.items,
        })
    }
}

impl Metadata {
    /// Where the parent locator's entry stands in the table, and the entry.
    pub(crate) fn locator_entry(&mut self) -> Option<(u64, &mut Item)> {
        let mut entries = (ENTRIES_AT..).step_by(size_of::<DiskEntry>()).zip(&mut self.items);
        entries.find(|(_, item)| item.id == item::PARENT_LOCATOR && item.flags & IS_USER == 0)
    }

    /// Bytes from the start of the region where no other item than the parent locator stands any
    /// more.
    pub(crate) fn end_of_others(&self) -> u64 {
        let others = self.items.iter().filter(|item| item.id != item::PARENT_LOCATOR);
        let ends = others.map(|item| u64::from(item.offset) + u64::from(item.length));
        ends.fold(TABLE_BYTES, u64::max)
    }
}

impl Item {
    /// The entry's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let entry = DiskEntry {
            item_id: self.id.to_bytes_le(),
            offset: self.offset.into(),
            length: self.length.into(),
            flags: self.flags.into(),
            reserved: U32::ZERO,
        };
        entry.as_bytes().to_vec()
    }
}

fn read_table(store: &dyn Store, region: &Region) -> Result<Vec<Item>> {
    let mut raw = vec![0; usize::try_from(TABLE_BYTES).unwrap_or_default()];
    store.fetch(&mut raw, region.offset, WHAT)?;
    let bad = |at: u64, message: String| Err(Error::corrupt(WHAT, at, message));
    let Ok((head, entries)) = TableHead::ref_from_prefix(&raw) else {
        return bad(region.offset, "the table is too short".to_owned());
    };
    if &head.signature != b"metadata" {
        let found = head.signature;
        return bad(region.offset, format!("signature {found:02x?}, expected \"metadata\""));
    }
    let count = head.entry_count.get();
    let entries = <[DiskEntry]>::ref_from_prefix_with_elems(entries, count.into());
    let Some((entries, _)) = entries.ok().filter(|_| count <= MAX_ENTRIES) else {
        return bad(region.offset, format!("{count} entries, expected at most {MAX_ENTRIES}"));
    };
    let items: Vec<Item> = entries
        .iter()
        .map(|entry| Item {
            id: Uuid::from_bytes_le(entry.item_id),
            offset: entry.offset.get(),
            length: entry.length.get(),
            flags: entry.flags.get(),
        })
        .collect();
    for (index, item) in (0u64..).zip(&items) {
        check_item(item, region, region.offset + ENTRIES_AT + index * 32)?;
    }
    check_together(&items, region)?;
    Ok(items)
}

fn check_item(item: &Item, region: &Region, at: u64) -> Result<()> {
    let Item { id, offset, length, flags } = item;
    let bad = |message: String| Err(Error::corrupt(WHAT, at, message));
    let user = flags & IS_USER != 0;
    if *id == item::INCOMPLETE && !user {
        return Err(Error::corrupt(WHAT, at, "the file is marked as incomplete")
            .hint("whatever created it was interrupted: create it again"));
    }
    if flags & IS_REQUIRED != 0 {
        if user {
            return bad(format!("item {id} is both of the user and required"));
        }
        if !item::KNOWN.contains(id) {
            return Err(
                Error::unsupported(format!("item {id} is required but not known")).at(WHAT, at)
            );
        }
    }
    if *length == 0 {
        return match offset {
            0 => Ok(()),
            _ => bad(format!("item {id} is empty but has the offset {offset}")),
        };
    }
    let end = u64::from(*offset) + u64::from(*length);
    if *length > MAX_ITEM || u64::from(*offset) < TABLE_BYTES || end > region.length {
        return bad(format!(
            "item {id} of {length} bytes at {offset}, expected up to 1 MiB between {TABLE_BYTES} \
             and the region's end at {}",
            region.length
        ));
    }
    Ok(())
}

fn check_together(items: &[Item], region: &Region) -> Result<()> {
    let bad = |message: String| Err(Error::corrupt(WHAT, region.offset, message));
    let mut keys: Vec<_> = items.iter().map(|item| (item.id, item.flags & IS_USER)).collect();
    keys.sort_unstable();
    if let Some((twice, _)) = keys.iter().zip(keys.iter().skip(1)).find(|(a, b)| a == b) {
        return bad(format!("item {} appears twice", twice.0));
    }
    let mut ranges: Vec<_> = items
        .iter()
        .filter(|item| item.length > 0)
        .map(|item| (item.offset, item.offset.saturating_add(item.length)))
        .collect();
    ranges.sort_unstable();
    match ranges.iter().zip(ranges.iter().skip(1)).find(|(one, next)| next.0 < one.1) {
        Some((_, next)) => bad(format!("two items hold the bytes from {} of the region", next.0)),
        None => Ok(()),
    }
}

/// Fetches items by their id.
struct Reader<'a> {
    store: &'a dyn Store,
    region: &'a Region,
    items: Vec<Item>,
}

impl Reader<'_> {
    fn find(&self, id: Uuid, name: &str) -> Result<(&Item, u64)> {
        let item = self.items.iter().find(|item| item.id == id && item.flags & IS_USER == 0);
        let item = item.ok_or_else(|| {
            Error::corrupt(WHAT, self.region.offset, format!("there is no {name} item"))
        })?;
        Ok((item, self.region.offset + u64::from(item.offset)))
    }

    /// The item's bytes, and where they stand in the file.
    fn fixed<const N: usize>(&self, id: Uuid, name: &str) -> Result<([u8; N], u64)> {
        let (item, at) = self.find(id, name)?;
        if usize::try_from(item.length) != Ok(N) {
            return Err(Error::corrupt(
                WHAT,
                at,
                format!("the {name} has {} bytes, expected {N}", item.length),
            ));
        }
        let mut bytes = [0; N];
        self.store.fetch(&mut bytes, at, WHAT)?;
        Ok((bytes, at))
    }

    /// Block size and flags.
    fn file_parameters(&self) -> Result<(u64, u32)> {
        let ([a, b, c, d, e, f, g, h], at) =
            self.fixed(item::FILE_PARAMETERS, "file parameters")?;
        let block_size = u64::from(u32::from_le_bytes([a, b, c, d]));
        if !block_size.is_power_of_two() || !(MIN_BLOCK..=MAX_BLOCK).contains(&block_size) {
            return Err(Error::corrupt(
                WHAT,
                at,
                format!("block size {block_size}, expected a power of two, 1 MiB to 256 MiB"),
            ));
        }
        Ok((block_size, u32::from_le_bytes([e, f, g, h])))
    }

    fn sector(&self, id: Uuid, name: &str) -> Result<u32> {
        let (bytes, at) = self.fixed(id, name)?;
        match u32::from_le_bytes(bytes) {
            size @ (512 | 4096) => Ok(size),
            size => {
                let message = format!("{name} {size}, expected 512 or 4096");
                Err(Error::corrupt(WHAT, at, message))
            }
        }
    }

    fn locator(&self) -> Result<Locator> {
        let (item, at) = self.find(item::PARENT_LOCATOR, "parent locator")?;
        let mut bytes = vec![0; usize::try_from(item.length).unwrap_or_default()];
        self.store.fetch(&mut bytes, at, WHAT)?;
        Locator::parse(&bytes).map_err(|why| Error::corrupt("VHDX parent locator", at, why))
    }
}

/// What a new file's metadata says.
#[derive(Clone, Debug)]
pub(crate) struct NewMetadata {
    pub(crate) block_size: u64,
    pub(crate) leave_allocated: bool,
    pub(crate) virtual_size: u64,
    pub(crate) disk_id: Uuid,
    pub(crate) logical_sector: u32,
    pub(crate) physical_sector: u32,
    /// Makes it a child.
    pub(crate) locator: Option<Locator>,
}

impl NewMetadata {
    /// The bytes of the region's beginning: table and items. Fits in 1 MiB.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where the parent's paths are too long for that.
    pub(crate) fn encode(&self) -> Result<Vec<u8>> {
        let mut flags = 0;
        if self.leave_allocated {
            flags |= LEAVE_BLOCKS_ALLOCATED;
        }
        if self.locator.is_some() {
            flags |= HAS_PARENT;
        }
        let block_size = u32::try_from(self.block_size).unwrap_or_default();
        let parameters = [block_size.to_le_bytes(), flags.to_le_bytes()].concat();
        let disk = IS_REQUIRED | IS_VIRTUAL_DISK;
        let mut items = vec![
            (item::FILE_PARAMETERS, IS_REQUIRED, parameters),
            (item::VIRTUAL_DISK_SIZE, disk, self.virtual_size.to_le_bytes().to_vec()),
            (item::LOGICAL_SECTOR, disk, self.logical_sector.to_le_bytes().to_vec()),
            (item::PHYSICAL_SECTOR, disk, self.physical_sector.to_le_bytes().to_vec()),
            (item::VIRTUAL_DISK_ID, disk, self.disk_id.to_bytes_le().to_vec()),
        ];
        if let Some(locator) = &self.locator {
            items.push((item::PARENT_LOCATOR, IS_REQUIRED, locator.encode()));
        }
        encode_items(&items)
    }
}

fn encode_items(items: &[(Uuid, u32, Vec<u8>)]) -> Result<Vec<u8>> {
    let head = TableHead {
        signature: *b"metadata",
        reserved: U16::ZERO,
        entry_count: u16::try_from(items.len()).unwrap_or_default().into(),
        reserved2: [0; 20],
    };
    let mut table = head.as_bytes().to_vec();
    let mut bodies = Vec::new();
    for (id, flags, body) in items {
        let at = TABLE_BYTES + bodies.len() as u64;
        let item = Item {
            id: *id,
            offset: u32::try_from(at).unwrap_or_default(),
            length: u32::try_from(body.len()).unwrap_or_default(),
            flags: *flags,
        };
        table.extend_from_slice(&item.encode());
        bodies.extend_from_slice(body);
    }
    table.resize(usize::try_from(TABLE_BYTES).unwrap_or_default(), 0);
    table.extend_from_slice(&bodies);
    if table.len() as u64 > MIB {
        return Err(Error::new(ErrorKind::Usage, "the parent's path is too long"));
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::region;
    use vdisk_core::MemStore;

    fn new() -> NewMetadata {
        NewMetadata {
            block_size: 2 << 20,
            leave_allocated: false,
            virtual_size: 10 << 20,
            disk_id: Uuid::from_u128(77),
            logical_sector: 4096,
            physical_sector: 4096,
            locator: Some(Locator::new(Uuid::from_u128(3), [("relative_path", "x".to_owned())])),
        }
    }

    fn read(bytes: &[u8]) -> Result<Metadata> {
        let store = MemStore::from_bytes("t", bytes);
        store.set_len(MIB).unwrap();
        let region = Region { guid: region::METADATA, offset: 0, length: MIB, required: true };
        Metadata::read(&store, &region)
    }

    #[test]
    fn reads_what_it_writes() {
        let read = read(&new().encode().unwrap()).unwrap();
        assert_eq!((read.block_size, read.virtual_size), (2 << 20, 10 << 20));
        assert_eq!((read.logical_sector, read.physical_sector), (4096, 4096));
        assert_eq!((read.leave_allocated, read.has_parent), (false, true));
        assert_eq!(read.locator, new().locator);
        assert_eq!((read.disk_id, read.items.len()), (Uuid::from_u128(77), 6));
    }

    #[test]
    fn damage_is_refused_with_its_place() {
        let entry = |n: usize| 32 + n * 32;
        let cases: [(&str, usize, &[u8], ErrorKind); 13] = [
            ("signature", 0, b"n", ErrorKind::Corrupt),
            ("entry count", 10, &[0xFF, 0xFF], ErrorKind::Corrupt),
            ("unknown required", entry(4), &[0], ErrorKind::Unsupported),
            ("user and required", entry(4) + 24, &[7], ErrorKind::Corrupt),
            ("item in the table", entry(1) + 16, &[0, 0, 0, 0], ErrorKind::Corrupt),
            ("item past the region", entry(1) + 16, &[0, 0, 32, 0], ErrorKind::Corrupt),
            ("items overlap", entry(1) + 16, &[0, 0, 1, 0], ErrorKind::Corrupt),
            ("wrong length", entry(2) + 20, &[3], ErrorKind::Corrupt),
            ("huge length", entry(2) + 23, &[0xFF], ErrorKind::Corrupt),
            ("block size", 65536, &[1], ErrorKind::Corrupt),
            ("disk size 0", 65544, &[0; 8], ErrorKind::Corrupt),
            ("disk size odd", 65544, &[1], ErrorKind::Corrupt),
            ("sector size", 65552, &[1], ErrorKind::Corrupt),
        ];
        for (name, at, patch, kind) in cases {
            let mut bytes = new().encode().unwrap();
            bytes[at..at + patch.len()].copy_from_slice(patch);
            let error = read(&bytes).unwrap_err();
            assert_eq!(error.kind(), kind, "{name}: {error}");
            assert!(error.offset().is_some(), "{name}");
        }
    }

    #[test]
    fn marks_of_windows() {
        let with = |id: Uuid| {
            let mut bytes = new().encode().unwrap();
            let entry = DiskEntry {
                item_id: id.to_bytes_le(),
                offset: U32::ZERO,
                length: U32::ZERO,
                flags: IS_REQUIRED.into(),
                reserved: U32::ZERO,
            };
            bytes[10] = 7;
            bytes[32 + 6 * 32..][..32].copy_from_slice(entry.as_bytes());
            read(&bytes)
        };
        assert!(with(item::CHS).is_ok());
        assert_eq!(with(item::INCOMPLETE).unwrap_err().kind(), ErrorKind::Corrupt);
        assert_eq!(with(item::PARENT_LOCATOR).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
