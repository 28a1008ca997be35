//! Partition tables, recognised volumes and LVM2 metadata.

use std::sync::{Arc, OnceLock};

use crc::{Algorithm, CRC_32_ISO_HDLC, Crc};
use uuid::Uuid;
use vdisk_core::disk::in_range;
use vdisk_core::{CowDisk, Disk, Extent, ExtentKind, MemStore, Result, Store, StoreExt};
use vdisk_parts::{DiskId, Edit, Table, TableKind, lvm, recognise};
use vdisk_testkit::exercise::{assert_error, patch};

use crate::Head;

/// Bytes of the disks that inputs change.
const LEN: u64 = 1 << 20;
const GPT: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
const LVM: Crc<u32> = Crc::<u32>::new(&Algorithm {
    init: 0xf597_a6cf_u32.reverse_bits(),
    xorout: 0,
    ..CRC_32_ISO_HDLC
});

/// A store as a disk.
#[derive(Debug)]
struct Stored(MemStore);

impl Disk for Stored {
    fn len(&self) -> u64 {
        self.0.len().expect("memory")
    }

    fn read_at(&self, buf: &mut [u8], offset: u64) -> Result<()> {
        in_range(offset, buf.len() as u64, Disk::len(self))?;
        self.0.fetch(buf, offset, "disk")
    }

    fn extent_at(&self, offset: u64, end: u64) -> Result<Extent> {
        Ok(Extent { start: offset, len: end - offset, depth: 0, kind: ExtentKind::Opaque })
    }
}

/// A disk with a GPT (sectors of 512 or 4096 bytes), an MBR with logical partitions, or nothing.
pub fn parts(input: &[u8]) {
    static BASES: OnceLock<Vec<MemStore>> = OnceLock::new();
    let Some(head) = Head::parse(input) else { return };
    let bases = BASES.get_or_init(|| vec![gpt(512), gpt(4096), mbr(), MemStore::new("disk")]);
    let base = &bases[head.image % bases.len()];
    let store = MemStore::from_bytes("disk", &base.to_bytes());
    if head.image % bases.len() == 3 {
        store.resize(LEN).expect("memory");
    }
    patch(&store, &[0, 512, 1024, 4096, 8192, 1 << 16, 32 << 9, 40 << 9], head.rest);
    if head.seal {
        seal_gpt(&store);
    }
    let disk: Arc<dyn Disk> = Arc::new(Stored(store));
    let len = disk.len();
    if let Err(error) = recognise(&*disk) {
        assert_error(&error);
    }
    for sector in [512, 4096] {
        let table = match Table::read(&*disk, sector) {
            Ok(table) => table,
            Err(error) => {
                assert_error(&error);
                continue;
            }
        };
        let beyond = table.partitions.iter().any(|one| one.range().end > len);
        let told = table.findings.iter().any(|found| found.code == "partition-beyond-disk");
        assert!(!beyond || told || table.findings.len() >= 1000);
        edit(&disk, sector, &table);
        for partition in table.partitions.iter().take(16) {
            match partition.open(disk.clone()) {
                Ok(window) => {
                    let _ = recognise(&window).map_err(|error| assert_error(&error));
                }
                Err(error) => assert_error(&error),
            }
        }
    }
}

/// Changes the table as a copy to another disk does; it must read back without damage.
fn edit(disk: &Arc<dyn Disk>, sector: u64, table: &Table) {
    let result = Edit::new(&**disk, sector).and_then(|mut edit| {
        edit.fit_to(disk.len())?;
        let id = match table.id {
            Some(DiskId::Mbr(_)) => DiskId::Mbr(0x1234),
            _ => DiskId::Gpt(Uuid::from_bytes([3; 16])),
        };
        edit.set_disk_id(id)?;
        let _ = edit.grow_last().map_err(|error| assert_error(&error));
        let changed = CowDisk::new(disk.clone(), 1 << 24);
        for change in edit.changes() {
            changed.write_at(&change.bytes, change.offset)?;
        }
        let found = Table::read(&changed, sector).expect("it was sound");
        assert_eq!((found.kind, found.id), (table.kind, Some(id)));
        assert_eq!(found.partitions.len(), table.partitions.len());
        let damaged = |code: &str| code.starts_with("gpt-") && code != "gpt-no-protective-mbr";
        if matches!(table.kind, TableKind::Gpt { .. }) {
            assert!(!found.findings.iter().any(|found| damaged(found.code)));
        }
        Ok(())
    });
    if let Err(error) = result {
        assert_error(&error);
    }
}

/// A physical volume; the input is its metadata's text too, where bit 0 of the image is set.
pub fn lvm(input: &[u8]) {
    static BASE: OnceLock<MemStore> = OnceLock::new();
    let Some(head) = Head::parse(input) else { return };
    let base = BASE.get_or_init(|| physical_volume(TEXT));
    let store = if head.image & 1 == 0 {
        let store = MemStore::from_bytes("disk", &base.to_bytes());
        patch(&store, &[0, 512, 4096, 4608], head.rest);
        store
    } else {
        physical_volume(&head.rest[..head.rest.len().min(60_000)])
    };
    if head.seal {
        seal_lvm(&store);
    }
    let disk: Arc<dyn Disk> = Arc::new(Stored(store));
    let groups = match lvm::scan(&[disk.clone()]) {
        Ok(groups) => groups,
        Err(error) => return assert_error(&error),
    };
    for group in &groups {
        for info in group.volumes().take(16) {
            let volume = match group.open(info.name) {
                Ok(volume) => volume,
                Err(error) => {
                    assert_error(&error);
                    continue;
                }
            };
            let end = volume.len().min(1 << 16);
            let mut at = 0;
            for piece in volume.map(0..end).expect("it is inside").take(300) {
                assert_eq!(piece.start, at);
                assert!(piece.offset + piece.len <= disk.len());
                at += piece.len;
            }
            let mut bytes = [0; 4096];
            let seed = head.seeds[0] % volume.len().max(1);
            let len = (volume.len() - seed).min(4096) as usize;
            volume.read_at(&mut bytes[..len], seed).expect("it lies on the disk");
        }
    }
}

fn put(store: &MemStore, at: u64, bytes: &[u8]) {
    store.write_all_at(bytes, at).expect("memory");
}

fn get(store: &MemStore, at: u64, len: usize) -> Option<Vec<u8>> {
    let mut bytes = vec![0; len];
    store.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

fn number(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().expect("eight"))
}

fn gpt(sector: u64) -> MemStore {
    let store = MemStore::new("disk");
    store.resize(LEN).expect("memory");
    mbr_entry(&store, 0, 0, 0xee, 1, u32::MAX);
    let last = LEN / sector - 1;
    let array = (128 * 128) / sector;
    for (lba, other, entries) in [(1, last, 2), (last, 1, last - array)] {
        let at = lba * sector;
        put(&store, at, b"EFI PART\0\0\x01\0\x5c\0\0\0");
        let usable = (2 + array, last - array - 1);
        for (field, value) in
            [(24, lba), (32, other), (40, usable.0), (48, usable.1), (72, entries)]
        {
            put(&store, at + field, &value.to_le_bytes());
        }
        put(&store, at + 56, &[7; 16]);
        put(&store, at + 80, &[128, 0, 0, 0, 128, 0, 0, 0]);
        for index in 0..3u8 {
            let entry = entries * sector + u64::from(index) * 128;
            put(&store, entry, &[0xaf + index; 32]);
            let first = 2 + array + u64::from(index) * 10;
            put(&store, entry + 32, &first.to_le_bytes());
            put(&store, entry + 40, &(first + 9).to_le_bytes());
            put(&store, entry + 48, &[0; 8]);
            put(&store, entry + 56, &[b'a' + index, 0]);
        }
    }
    seal_gpt(&store);
    store
}

fn mbr_entry(store: &MemStore, sector: u64, index: u64, kind: u8, first: u32, sectors: u32) {
    let at = sector * 512 + 446 + index * 16;
    put(store, at + 4, &[kind]);
    put(store, at + 8, &first.to_le_bytes());
    put(store, at + 12, &sectors.to_le_bytes());
    put(store, sector * 512 + 510, &[0x55, 0xaa]);
}

fn mbr() -> MemStore {
    let store = MemStore::new("disk");
    store.resize(LEN).expect("memory");
    mbr_entry(&store, 0, 0, 7, 8, 24);
    mbr_entry(&store, 0, 1, 5, 32, 1000);
    mbr_entry(&store, 32, 0, 0x83, 2, 6);
    mbr_entry(&store, 32, 1, 5, 8, 100);
    mbr_entry(&store, 40, 0, 0x8e, 2, 90);
    store
}

/// Makes the checksums of all headers right that still look like one.
fn seal_gpt(store: &MemStore) {
    let len = store.len().expect("memory");
    for sector in [512, 4096] {
        for at in [Some(sector), (len / sector * sector).checked_sub(sector)] {
            let Some(mut header) = at.and_then(|at| get(store, at, sector as usize)) else {
                continue;
            };
            if !header.starts_with(b"EFI PART") {
                continue;
            }
            let count = number(&header, 80) as u32 as usize;
            let entries = number(&header, 72).checked_mul(sector).filter(|at| *at < len);
            if let Some(entries) = entries.and_then(|at| get(store, at, count.min(4096) * 128)) {
                header[88..92].copy_from_slice(&GPT.checksum(&entries).to_le_bytes());
            }
            let size = (number(&header, 12) as u32 as usize).clamp(92, header.len());
            header[16..20].fill(0);
            let sum = GPT.checksum(&header[..size]);
            header[16..20].copy_from_slice(&sum.to_le_bytes());
            put(store, at.expect("it was read"), &header);
        }
    }
}

const TEXT: &[u8] = b"vg {\nid = \"g\"\nseqno = 3\nextent_size = 8\nphysical_volumes {\n\
pv0 {\nid = \"abcdef-ghij-klmn-opqr-stuv-wxyz-012345\"\npe_start = 256\npe_count = 200\n}\n}\n\
logical_volumes {\na {\nid = \"x\"\nstatus = [\"READ\", \"VISIBLE\"]\nsegment1 {\n\
start_extent = 0\nextent_count = 3\ntype = \"striped\"\nstripe_count = 1\nstripes = [\"pv0\", 5]\n\
}\nsegment2 {\nstart_extent = 3\nextent_count = 4\ntype = \"striped\"\nstripe_count = 2\n\
stripe_size = 8\nstripes = [\"pv0\", 20, \"pv0\", 40]\n}\n}\n\
t {\nsegment1 {\nstart_extent = 0\nextent_count = 1\ntype = \"thin\"\n}\n}\n}\n}\nversion = 1\n";

fn physical_volume(text: &[u8]) -> MemStore {
    let store = MemStore::new("disk");
    store.resize(LEN).expect("memory");
    put(&store, 512, b"LABELONE\x01\0\0\0\0\0\0\0\0\0\0\0\x20\0\0\0LVM2 001");
    put(&store, 544, b"abcdefghijklmnopqrstuvwxyz012345");
    for (at, value) in [(576, LEN), (584, 1 << 17), (616, 4096), (624, 126_976)] {
        put(&store, at, &value.to_le_bytes());
    }
    put(&store, 4100, b" LVM2 x[5A%r0N*>\x01\0\0\0");
    // The text runs around the end of its area.
    let first = text.len().min(100);
    let offset = 126_976 - first;
    for (at, value) in [(4120, 4096), (4128, 126_976), (4136, offset), (4144, text.len())] {
        put(&store, at, &(value as u64).to_le_bytes());
    }
    put(&store, 4096 + offset as u64, &text[..first]);
    put(&store, 4608, &text[first..]);
    seal_lvm(&store);
    store
}

/// Makes the checksums of the label, the area and the text right.
fn seal_lvm(store: &MemStore) {
    if let Some(label) = get(store, 512, 512) {
        put(store, 528, &LVM.checksum(&label[20..]).to_le_bytes());
    }
    let Some(mut header) = get(store, 4096, 512) else { return };
    let (size, offset, len) = (number(&header, 32), number(&header, 40), number(&header, 48));
    let place = |at: u64| 4096_u64.checked_add(at).filter(|at| *at < LEN);
    if size <= LEN && offset <= size && len <= LEN {
        let before = len.min(size - offset);
        let head = place(offset).and_then(|at| get(store, at, before as usize));
        let tail = get(store, 4608, (len - before) as usize);
        if let (Some(head), Some(tail)) = (head, tail) {
            let sum = LVM.checksum(&[head, tail].concat());
            header[56..60].copy_from_slice(&sum.to_le_bytes());
        }
    }
    let sum = LVM.checksum(&header[4..]);
    header[..4].copy_from_slice(&sum.to_le_bytes());
    put(store, 4096, &header);
}
