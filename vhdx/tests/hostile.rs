//! Images made to hurt: each is refused or reported with the place of the fault, never believed.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::sync::Arc;

use common::{MIB, VecStore, child, content, image, read_only, small, writable};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{Access, Error, ErrorKind, Findings, Layer, LayerMut, MemStore, Result, Severity};
use vdisk_testkit::content::Content;
use vdisk_vhdx::{CreateOptions, OpenOptions, VhdxLayer, open};

/// Where this crate puts things.
const HEADERS: [usize; 2] = [65536, 131_072];
const REGIONS: [usize; 2] = [196_608, 262_144];
const LOG: usize = 1 << 20;
const METADATA: usize = 2 << 20;
const BAT: usize = 3 << 20;
const DISK: u64 = 4 * MIB;

fn good() -> Vec<u8> {
    image(&small(DISK), &Content::full(DISK, 1)).to_bytes()
}

fn good_child() -> Vec<u8> {
    child(&image(&small(DISK), &Content::full(DISK, 1)), MIB).to_bytes()
}

fn put(bytes: &mut [u8], at: usize, patch: &[u8]) {
    bytes[at..at + patch.len()].copy_from_slice(patch);
}

fn put_entry(bytes: &mut [u8], index: usize, raw: u64) {
    put(bytes, BAT + index * 8, &raw.to_le_bytes());
}

/// Makes the checksum of a structure right again.
fn seal(bytes: &mut [u8], at: usize, len: usize) {
    put(bytes, at + 4, &[0; 4]);
    let crc = crc32c::crc32c(&bytes[at..at + len]);
    put(bytes, at + 4, &crc.to_le_bytes());
}

/// Changes both headers.
fn patch_headers(bytes: &mut [u8], at: usize, patch: &[u8]) {
    for header in HEADERS {
        put(bytes, header + at, patch);
        seal(bytes, header, 4096);
    }
}

fn patch_regions(bytes: &mut [u8], at: usize, patch: &[u8]) {
    for table in REGIONS {
        put(bytes, table + at, patch);
        seal(bytes, table, 65536);
    }
}

fn read_all(bytes: &[u8]) -> Result<Vec<u8>> {
    content(&read_only(VecStore::new(bytes.to_vec()))?, &ZeroDisk(0))
}

fn codes(bytes: &[u8]) -> Vec<(Severity, &'static str)> {
    let layer = read_only(VecStore::new(bytes.to_vec())).unwrap();
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap();
    findings.list().iter().map(|finding| (finding.severity, finding.code)).collect()
}

/// The error says what, in which file and where.
fn told(error: &Error, kind: ErrorKind, name: &str) {
    assert_eq!(error.kind(), kind, "{name}: {error}");
    assert!(error.offset().is_some() && error.path().is_some(), "{name}: {error}");
    if matches!(kind, ErrorKind::Corrupt | ErrorKind::Truncated) {
        assert!(error.structure().is_some(), "{name}: {error}");
    }
}

fn corrupted(patch: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut bytes = good();
    patch(&mut bytes);
    bytes
}

#[test]
fn bad_entries_of_the_table() {
    use ErrorKind::{Corrupt, Truncated};
    let len = good().len() as u64;
    let cases = [
        ("reserved state", 4, Corrupt, "vhdx-bat-entry"),
        ("state of 0.95", 5, Corrupt, "vhdx-bat-entry"),
        ("reserved bits", 6 | 4 << 20 | 1 << 10, Corrupt, "vhdx-bat-entry"),
        ("no offset", 6, Corrupt, "vhdx-block-misplaced"),
        ("in the log", 6 | 1 << 20, Corrupt, "vhdx-block-misplaced"),
        ("in the BAT", 6 | 3 << 20, Corrupt, "vhdx-block-misplaced"),
        ("beyond the file", 6 | len, Truncated, "vhdx-block-outside-file"),
        ("beyond any file", 6 | 0xFFFF_FFFF_FFF0_0000, Truncated, "vhdx-block-outside-file"),
        ("partial without parent", 7 | 4 << 20, Corrupt, "vhdx-partial-without-parent"),
    ];
    for (name, raw, kind, code) in cases {
        let bytes = corrupted(|bytes| put_entry(bytes, 1, raw));
        told(&read_all(&bytes).unwrap_err(), kind, name);
        assert!(codes(&bytes).contains(&(Severity::Corruption, code)), "{name}");
        let error = writable(VecStore::new(bytes.clone())).unwrap_err();
        told(&error, kind, name);
        // The blocks that are in order can still be read.
        let layer = read_only(VecStore::new(bytes)).unwrap();
        assert_eq!(layer.extent_at(0, DISK).unwrap().len, MIB, "{name}");
    }
}

#[test]
fn blocks_that_share_bytes() {
    let bytes = corrupted(|bytes| put_entry(bytes, 1, 6 | 4 << 20));
    assert!(read_all(&bytes).is_ok());
    assert!(codes(&bytes).contains(&(Severity::Corruption, "vhdx-block-overlap")));
    told(&writable(VecStore::new(bytes)).unwrap_err(), ErrorKind::Corrupt, "overlap");
}

#[test]
fn leaks_and_kept_offsets() {
    let bytes = corrupted(|bytes| put_entry(bytes, 1, 2));
    assert_eq!(codes(&bytes), [(Severity::Leak, "vhdx-space-leaked")]);
    let bytes = corrupted(|bytes| put_entry(bytes, 1, 2 | 5 << 20));
    assert_eq!(codes(&bytes), [(Severity::Note, "vhdx-bat-offset-kept")]);
    // An anchor keeps its space, even from us, and even where it claims another's.
    for anchor in [3 | 5 << 20, 1 | 4 << 20, 3 | 0xFFFF_FFFF_FFF0_0000] {
        let store = VecStore::new(corrupted(|bytes| put_entry(bytes, 1, anchor)));
        let mut layer = writable(store.clone()).unwrap();
        layer.write(&[9; 512], MIB, &ZeroDisk(0)).unwrap();
        layer.zero(2 * MIB..3 * MIB, &ZeroDisk(0)).unwrap();
        layer.close().unwrap();
        let found = read_all(&store.bytes()).unwrap();
        assert!(found[..MIB as usize] == read_all(&good()).unwrap()[..MIB as usize]);
        assert!(found[MIB as usize + 512..3 * MIB as usize].iter().all(|byte| *byte == 0));
    }
}

#[test]
fn a_last_block_cut_after_the_disk_is_fine_but_not_within() {
    let options = CreateOptions { block_size: 4 * MIB, ..small(DISK + MIB) };
    let content = Content::full(DISK + MIB, 1);
    let mut bytes = image(&options, &content).to_bytes();
    bytes.truncate(bytes.len() - 3 * MIB as usize);
    assert!(read_all(&bytes).unwrap() == content.bytes());
    assert_eq!(codes(&bytes), [(Severity::Note, "vhdx-block-cut")]);
    let store = VecStore::new(bytes.clone());
    let mut layer = writable(store.clone()).unwrap();
    layer.write(&[1], DISK, &ZeroDisk(0)).unwrap();
    layer.close().unwrap();
    assert_eq!(codes(&store.bytes()), []);

    bytes.truncate(bytes.len() - 512);
    told(&read_all(&bytes).unwrap_err(), ErrorKind::Truncated, "cut");
    let layer = read_only(VecStore::new(bytes.clone())).unwrap();
    assert_eq!(layer.extent_at(DISK, DISK + MIB).unwrap().len, MIB - 512);
    told(&writable(VecStore::new(bytes)).unwrap_err(), ErrorKind::Truncated, "cut");
}

#[test]
fn sector_bitmaps() {
    // With blocks of 1 MiB the chunk's bitmap is entry 4096.
    let with = |bitmap: u64, block: u64| {
        let mut bytes = good_child();
        put_entry(&mut bytes, 4096, bitmap);
        put_entry(&mut bytes, 0, block);
        bytes.resize(bytes.len() + MIB as usize, 0);
        bytes
    };
    let (bitmap, block) = (6 | 4 << 20, 7 | 5 << 20);
    assert!(read_all(&with(bitmap, block)).is_ok());
    assert_eq!(codes(&with(bitmap, block)), []);
    let bad = "vhdx-bitmap-missing";
    for (name, bytes, code) in [
        ("absent", with(0, block), bad),
        ("odd state", with(7 | 4 << 20, block), bad),
        ("in the log", with(6 | 1 << 20, block), "vhdx-block-misplaced"),
        ("at 0", with(6, block), "vhdx-block-misplaced"),
        ("beyond", with(6 | 99 << 20, block), "vhdx-block-outside-file"),
        ("far beyond", with(6 | 0xFFFF_FFFF_FFF0_0000, block), "vhdx-block-outside-file"),
    ] {
        let error = read_all(&bytes).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated), "{name}");
        assert!(error.offset().is_some(), "{name}");
        assert!(codes(&bytes).contains(&(Severity::Corruption, code)), "{name}");
    }
    let overlap = with(6 | 5 << 20, block);
    assert!(codes(&overlap).contains(&(Severity::Corruption, "vhdx-block-overlap")));
}

#[test]
fn slots_that_mean_nothing() {
    let options = CreateOptions { block_size: 256 * MIB, ..small(17 * 256 * MIB) };
    let new = image_of(&options);
    for (raw, finding) in [
        (2, (Severity::Note, "vhdx-bat-unused-slot")),
        (0x55 << 56, (Severity::Note, "vhdx-bat-unused-slot")),
        (6 | 4 << 20, (Severity::Corruption, "vhdx-bat-shifted")),
    ] {
        let mut bytes = new.clone();
        put_entry(&mut bytes, 16, raw);
        let layer = read_only(VecStore::new(bytes.clone())).unwrap();
        let whole = layer.extent_at(0, options.virtual_size).unwrap();
        assert_eq!(whole.len, options.virtual_size, "the slot must not be looked at");
        assert!(writable(VecStore::new(bytes.clone())).is_ok());
        assert_eq!(codes(&bytes), [finding]);
    }
    let mut padding = good_child();
    put_entry(&mut padding, 100, 6 | 4 << 20);
    assert_eq!(codes(&padding), [(Severity::Note, "vhdx-bat-unused-slot")]);
}

fn image_of(options: &CreateOptions) -> Vec<u8> {
    let mut files = vdisk_core::MemFiles::new("a.vhdx");
    vdisk_vhdx::create(&mut files, options).unwrap().finish().unwrap();
    files.get("a.vhdx").unwrap().to_bytes()
}

#[test]
fn headers() {
    use ErrorKind::{Corrupt, Truncated, Unsupported};
    let cases: [(&str, usize, &[u8], ErrorKind); 6] = [
        ("version", 66, &[2, 0], Unsupported),
        ("log version", 64, &[1, 0], Corrupt),
        ("log length", 68, &[0, 16, 0, 0], Corrupt),
        ("log beyond the file", 72, &[0, 0, 0, 0, 1, 0, 0, 0], Truncated),
        ("log in the header area", 72, &[0; 8], Corrupt),
        ("log over the metadata", 72, &[0, 0, 32, 0, 0, 0, 0, 0], Corrupt),
    ];
    for (name, at, patch, kind) in cases {
        let bytes = corrupted(|bytes| {
            patch_headers(bytes, at, patch);
            if name == "log version" {
                // Only matters where there is a log.
                assert!(read_all(bytes).is_ok());
                patch_headers(bytes, 48, &[7; 16]);
            }
        });
        let error = read_all(&bytes).unwrap_err();
        if name == "log version" {
            told(&error, Unsupported, name);
        } else {
            told(&error, kind, name);
        }
    }
    let both = corrupted(|bytes| {
        bytes[HEADERS[0] + 100] ^= 1;
        bytes[HEADERS[1] + 100] ^= 1;
    });
    told(&read_all(&both).unwrap_err(), Corrupt, "both headers");
    let one = corrupted(|bytes| bytes[HEADERS[0] + 100] ^= 1);
    assert!(read_all(&one).is_ok());
    assert_eq!(codes(&one), [(Severity::Corruption, "vhdx-header-invalid")]);

    let last = corrupted(|bytes| {
        put(bytes, HEADERS[1] + 8, &[0xFF; 8]);
        seal(bytes, HEADERS[1], 4096);
    });
    assert!(read_all(&last).is_ok());
    told(&writable(VecStore::new(last)).unwrap_err(), Unsupported, "sequence numbers");
}

/// A damaged header or region table is made good by the next change.
#[test]
fn copies_are_healed_by_writing() {
    for at in [HEADERS[0] + 9, HEADERS[1] + 9, REGIONS[0] + 9, REGIONS[1] + 9] {
        let store = VecStore::new(corrupted(|bytes| bytes[at] ^= 1));
        assert_eq!(codes(&store.bytes()).len(), 1);
        let mut layer = writable(store.clone()).unwrap();
        layer.write(&[1], 0, &ZeroDisk(0)).unwrap();
        layer.close().unwrap();
        assert_eq!(codes(&store.bytes()), []);
    }
}

#[test]
fn region_tables() {
    let both = corrupted(|bytes| {
        bytes[REGIONS[0] + 100] ^= 1;
        bytes[REGIONS[1] + 100] ^= 1;
    });
    told(&read_all(&both).unwrap_err(), ErrorKind::Corrupt, "both tables");
    let differ = corrupted(|bytes| {
        bytes[REGIONS[1] + 16 + 32 + 28] = 0;
        seal(bytes, REGIONS[1], 65536);
    });
    assert_eq!(codes(&differ), [(Severity::Corruption, "vhdx-region-tables-differ")]);
    let count = corrupted(|bytes| patch_regions(bytes, 8, &[0xFF; 4]));
    told(&read_all(&count).unwrap_err(), ErrorKind::Corrupt, "entry count");
    // The BAT's length, and its offset.
    let small = corrupted(|bytes| {
        bytes[METADATA + 65544 + 5] = 0x40; // 64 TiB
    });
    told(&read_only(VecStore::new(small)).unwrap_err(), ErrorKind::Corrupt, "BAT too small");
    let huge = corrupted(|bytes| patch_regions(bytes, 16 + 24, &[0, 0, 0xF0, 0xFF]));
    told(&read_all(&huge).unwrap_err(), ErrorKind::Truncated, "BAT over everything");
    let away = corrupted(|bytes| patch_regions(bytes, 16 + 16 + 4, &[1]));
    told(&read_all(&away).unwrap_err(), ErrorKind::Truncated, "BAT beyond the file");
    let stranger = corrupted(|bytes| {
        patch_regions(bytes, 8, &[3]);
        patch_regions(bytes, 16 + 64, &[9; 16]);
        patch_regions(bytes, 16 + 64 + 16, &[0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 16, 0]);
    });
    assert_eq!(codes(&stranger), [(Severity::Note, "vhdx-region-unknown")]);
}

#[test]
fn files_that_end_early() {
    let bytes = good();
    let whole = |len: usize| len >= bytes.len();
    for len in [0, 5, 8, 4096, 65536, 140_000, 200_000, 300_000, LOG, METADATA, BAT, BAT + 9] {
        let error = read_all(&bytes[..len]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Truncated, "{len}: {error}");
        assert!(!whole(len) && error.offset().is_some(), "{len}");
    }
}

#[test]
fn metadata_that_is_odd_but_readable() {
    let entry = |number: usize| METADATA + 32 + number * 32;
    let flags = corrupted(|bytes| bytes[entry(1) + 24] = 4);
    assert_eq!(codes(&flags), [(Severity::Corruption, "vhdx-metadata-flags")]);
    let add = |id: [u8; 16], flags: u8| {
        corrupted(|bytes| {
            bytes[METADATA + 10] = 6;
            put(bytes, entry(5), &id);
            bytes[entry(5) + 24] = flags;
        })
    };
    assert_eq!(codes(&add([9; 16], 0)), [(Severity::Note, "vhdx-metadata-unknown")]);
    assert_eq!(codes(&add([9; 16], 1)), [(Severity::Note, "vhdx-metadata-unknown")]);
    let locator = uuid::uuid!("a8d35f2d-b30b-454d-abf7-d3d84834ab0c").to_bytes_le();
    assert_eq!(codes(&add(locator, 4)), [(Severity::Note, "vhdx-locator-stray")]);
    let incomplete = uuid::uuid!("71cc85f0-1b69-4e28-9558-c3bf83ae75d3").to_bytes_le();
    let error = read_all(&add(incomplete, 4)).unwrap_err();
    told(&error, ErrorKind::Corrupt, "incomplete");
    told(&read_all(&add([9; 16], 4)).unwrap_err(), ErrorKind::Unsupported, "required");
}

#[test]
fn parent_locators() {
    let item = METADATA + 65536 + 40;
    let key = |bytes: &[u8], text: &str| {
        let wanted: Vec<u8> = text.encode_utf16().flat_map(u16::to_le_bytes).collect();
        item + bytes[item..item + 4096].windows(wanted.len()).position(|w| w == wanted).unwrap()
    };
    let with = |patch: &dyn Fn(&mut Vec<u8>)| {
        let mut bytes = good_child();
        patch(&mut bytes);
        read_only(VecStore::new(bytes))
    };
    let renamed = |name: &'static str| {
        with(&|bytes| {
            let at = key(bytes, name);
            bytes[at] = b'X';
        })
    };
    told(&renamed("parent_linkage").unwrap_err(), ErrorKind::Corrupt, "no linkage");
    assert_eq!(renamed("relative_path").unwrap().info().parent.clone().unwrap().hints.len(), 1);
    let none = with(&|bytes| {
        for name in ["relative_path", "absolute_win32_path"] {
            let at = key(bytes, name);
            bytes[at] = b'X';
        }
    });
    let mut findings = Findings::new();
    none.unwrap().check(&mut findings).unwrap();
    assert_eq!(findings.list()[0].code, "vhdx-locator-no-path");
    told(&with(&|bytes| bytes[item] ^= 1).unwrap_err(), ErrorKind::Corrupt, "type");
    told(&with(&|bytes| bytes[item + 19] = 9).unwrap_err(), ErrorKind::Corrupt, "count");
    told(&with(&|bytes| bytes[item + 23] = 9).unwrap_err(), ErrorKind::Corrupt, "offset");
}

#[test]
fn states_worth_a_note() {
    let dirty = with_log(&[(0, &LogEntry::new(&[]))]);
    assert_eq!(codes(&dirty), [(Severity::Note, "vhdx-log-dirty")]);
    let mut ragged = good();
    ragged.push(0);
    let codes = codes(&ragged);
    assert!(codes.contains(&(Severity::Note, "vhdx-file-ragged")), "{codes:?}");
}

/// One log entry, written down again from the specification.
struct LogEntry {
    sequence: u64,
    tail: u32,
    flushed: u64,
    last: u64,
    descriptors: Vec<(u64, Option<u64>)>,
}

const LOG_GUID: [u8; 16] = [0xAB; 16];

impl LogEntry {
    fn new(descriptors: &[(u64, Option<u64>)]) -> Self {
        let len = good().len() as u64;
        let descriptors = descriptors.to_vec();
        Self { sequence: 1, tail: 0, flushed: len, last: len, descriptors }
    }

    fn encode(&self) -> Vec<u8> {
        let mut entry = vec![0; 64];
        let mut data = Vec::new();
        for (offset, zeros) in &self.descriptors {
            match zeros {
                Some(length) => {
                    entry.extend_from_slice(b"zero\0\0\0\0");
                    entry.extend_from_slice(&length.to_le_bytes());
                }
                None => {
                    entry.extend_from_slice(b"desc");
                    entry.extend_from_slice(&[0xEE; 12]);
                    data.extend_from_slice(b"data");
                    data.extend_from_slice(&((self.sequence >> 32) as u32).to_le_bytes());
                    data.extend_from_slice(&[0xEE; 4084]);
                    data.extend_from_slice(&(self.sequence as u32).to_le_bytes());
                }
            }
            entry.extend_from_slice(&offset.to_le_bytes());
            entry.extend_from_slice(&self.sequence.to_le_bytes());
        }
        entry.resize(entry.len().next_multiple_of(4096), 0);
        entry.extend_from_slice(&data);
        put(&mut entry, 0, b"loge");
        let length = entry.len() as u32;
        put(&mut entry, 8, &length.to_le_bytes());
        put(&mut entry, 12, &self.tail.to_le_bytes());
        put(&mut entry, 16, &self.sequence.to_le_bytes());
        put(&mut entry, 24, &(self.descriptors.len() as u32).to_le_bytes());
        put(&mut entry, 32, &LOG_GUID);
        put(&mut entry, 48, &self.flushed.to_le_bytes());
        put(&mut entry, 56, &self.last.to_le_bytes());
        seal(&mut entry, 0, length as usize);
        entry
    }
}

/// An image whose log holds these entries, at these places of the log.
fn with_log(entries: &[(usize, &LogEntry)]) -> Vec<u8> {
    corrupted(|bytes| {
        patch_headers(bytes, 48, &LOG_GUID);
        for (at, entry) in entries {
            for (sector, number) in entry.encode().chunks(4096).zip(0..) {
                put(bytes, LOG + (at + number * 4096) % (1 << 20), sector);
            }
        }
    })
}

/// Where the first block of the disk stands.
const BLOCK: u64 = 4 << 20;

#[test]
fn logs_that_are_in_order_are_replayed() {
    let first = LogEntry::new(&[(BLOCK, Some(8192)), (BLOCK + 8192, None)]);
    let second = LogEntry { sequence: 2, ..LogEntry::new(&[(BLOCK, None)]) };
    let second_at = first.encode().len();
    let last = (1 << 20) - 4096;
    let older = LogEntry { sequence: 9, tail: last as u32, ..LogEntry::new(&[(BLOCK, None)]) };
    let grows = LogEntry { last: good().len() as u64 + 5000, ..LogEntry::new(&[]) };
    let before = read_all(&good()).unwrap();
    let expect = |bytes: Vec<u8>, pages: [u8; 3]| {
        for write in [false, true] {
            let store = VecStore::new(bytes.clone());
            let layer = if write { writable(store.clone()) } else { read_only(store.clone()) };
            let found = content(&layer.unwrap(), &ZeroDisk(0)).unwrap();
            for (page, byte) in found.chunks(4096).zip(pages) {
                assert!(page.iter().all(|found| *found == byte), "{pages:?}");
            }
            assert!(found[3 * 4096..] == before[3 * 4096..]);
            assert_eq!(store.bytes() == bytes, !write, "only writing changes the file");
        }
    };
    expect(with_log(&[(0, &first), (second_at, &second)]), [0xEE, 0, 0xEE]);
    // The newest entry stands alone, where its tail is itself.
    let alone = LogEntry { tail: second_at as u32, ..second };
    let bytes = with_log(&[(0, &first), (second_at, &alone)]);
    let found = read_all(&bytes).unwrap();
    assert!(found[..4096].iter().all(|byte| *byte == 0xEE));
    assert!(found[4096..] == before[4096..], "the entry before the tail does not count");
    // Around the end of the ring, and the newest of two sequences.
    let zeros = LogEntry { sequence: 5, ..LogEntry::new(&[(BLOCK, Some(3 * 4096))]) };
    let wrapped = with_log(&[(last, &older), (8192, &zeros)]);
    let found = read_all(&wrapped).unwrap();
    assert!(found[..4096].iter().all(|byte| *byte == 0xEE) && found[4096..] == before[4096..]);
    // The file grows to what the entry says, rounded up.
    let bytes = with_log(&[(0, &grows)]);
    let store = VecStore::new(bytes.clone());
    writable(store.clone()).unwrap();
    assert_eq!(store.bytes().len(), bytes.len() + MIB as usize);
}

#[test]
fn logs_that_reach_too_far_are_refused() {
    let zero = |offset, length| LogEntry::new(&[(offset, Some(length))]);
    let page = |offset| LogEntry::new(&[(offset, None)]);
    let len = good().len() as u64;
    let cases = [
        ("the identifier", page(0)),
        ("the headers", zero(65536, 8192)),
        ("into the region tables from before", zero(131_072, 131_072)),
        ("the log", page(LOG as u64)),
        ("over the log", zero(524_288, 4 << 20)),
        ("beyond the file", zero(BLOCK, 1 << 40)),
        ("a page beyond the file", page(len)),
        ("far beyond", page(1 << 50)),
        ("a huge file", LogEntry { last: 1 << 60, ..page(BLOCK) }),
        ("only the second", LogEntry::new(&[(BLOCK, None), (BLOCK + 4096, None), (4096, None)])),
    ];
    for (name, entry) in cases {
        let bytes = with_log(&[(0, &entry)]);
        for access in [Access::Read, Access::Write] {
            let store = VecStore::new(bytes.clone());
            let options = OpenOptions { access, ..OpenOptions::default() };
            told(&open(store.clone(), &options).unwrap_err(), ErrorKind::Corrupt, name);
            assert!(store.bytes() == bytes, "{name}: nothing may change");
        }
    }
    let cut = LogEntry { flushed: len + 1, ..page(BLOCK) };
    told(&read_all(&with_log(&[(0, &cut)])).unwrap_err(), ErrorKind::Truncated, "flushed");
}

#[test]
fn logs_of_which_nothing_is_valid() {
    let invalid: Vec<(&str, Vec<u8>)> = vec![
        ("nothing there", with_log(&[])),
        ("no sequence number", with_log(&[(0, &LogEntry { sequence: 0, ..LogEntry::new(&[]) })])),
        ("tail elsewhere", with_log(&[(0, &LogEntry { tail: 8192, ..LogEntry::new(&[]) })])),
        ("odd target", with_log(&[(0, &LogEntry::new(&[(BLOCK + 512, None)]))])),
        ("odd length", with_log(&[(0, &LogEntry::new(&[(BLOCK, Some(512))]))])),
        ("overflow", with_log(&[(0, &LogEntry::new(&[(BLOCK, Some(u64::MAX - 4095))]))])),
        ("entry length 0", {
            let mut bytes = with_log(&[(0, &LogEntry::new(&[]))]);
            put(&mut bytes, LOG + 8, &[0; 4]);
            seal(&mut bytes, LOG, 4096);
            bytes
        }),
        ("a million descriptors", {
            let mut bytes = with_log(&[(0, &LogEntry::new(&[]))]);
            put(&mut bytes, LOG + 24, &[0xFF; 4]);
            seal(&mut bytes, LOG, 4096);
            bytes
        }),
    ];
    for (name, bytes) in invalid {
        let error = read_all(&bytes).unwrap_err();
        told(&error, ErrorKind::Corrupt, name);
        assert!(error.advice().unwrap().contains("is lost"), "{name}");
        told(&writable(VecStore::new(bytes.clone())).unwrap_err(), ErrorKind::Corrupt, name);

        let ignore = OpenOptions { ignore_empty_log: true, ..OpenOptions::default() };
        let layer = open(VecStore::new(bytes.clone()), &ignore).unwrap();
        assert!(layer.info().dirty);
        let mut findings = Findings::new();
        layer.check(&mut findings).unwrap();
        assert_eq!(findings.list()[0].code, "vhdx-log-empty", "{name}");
        let store = VecStore::new(bytes);
        open(store.clone(), &OpenOptions { access: Access::Write, ..ignore }).unwrap();
        assert!(!read_only(store).unwrap().info().dirty, "{name}: the log was given up");
    }
}

#[test]
fn sequence_numbers_at_their_end() {
    let at = LogEntry { sequence: u64::MAX, ..LogEntry::new(&[(BLOCK, None)]) };
    let next = at.encode().len();
    let wrapped = LogEntry { sequence: 0, ..LogEntry::new(&[]) };
    assert!(read_all(&with_log(&[(0, &at), (next, &wrapped)])).is_ok());
}

/// A ring full of entries, each the successor of the one before, ends somewhere.
#[test]
fn a_log_that_bites_its_tail() {
    let entries: Vec<LogEntry> =
        (1..=256).map(|sequence| LogEntry { sequence, ..LogEntry::new(&[]) }).collect();
    let places: Vec<(usize, &LogEntry)> =
        entries.iter().enumerate().map(|(number, entry)| (number * 4096, entry)).collect();
    assert!(read_all(&with_log(&places)).is_ok());
}

/// Random damage, with checksums made right again: no panic, no endless loop.
#[test]
fn random_damage() {
    let dirty = with_log(&[(0, &LogEntry::new(&[(BLOCK, None), (BAT as u64, Some(4096))]))]);
    let fixed = CreateOptions { fixed: true, ..small(2 * MIB) };
    let mut partial = good_child();
    put_entry(&mut partial, 2, 7 | 5 << 20);
    partial.resize(partial.len() + MIB as usize, 0x5A);
    let bases = [
        good(),
        partial,
        image(&fixed, &Content::full(2 * MIB, 2)).to_bytes(),
        dirty,
        image(&small(DISK), &Content::empty(DISK)).to_bytes(),
    ];
    let mut rng = fastrand::Rng::with_seed(2024);
    let mut opened = 0;
    for round in 0..2000 {
        let mut bytes = bases[round % bases.len()].clone();
        for _ in 0..rng.usize(1..4) {
            damage(&mut bytes, &mut rng);
        }
        if rng.u32(0..20) == 0 {
            let len = rng.usize(0..bytes.len());
            bytes.truncate(len);
        }
        opened += u32::from(exercise(bytes));
    }
    assert!(opened > 400, "only {opened} opened: the damage is too coarse to test anything");
}

fn damage(bytes: &mut [u8], rng: &mut fastrand::Rng) {
    let (start, len, sealed) = match rng.u32(0..8) {
        0 => (HEADERS[0], 80, Some((HEADERS[0], 4096))),
        1 => (HEADERS[1], 80, Some((HEADERS[1], 4096))),
        2 => (REGIONS[0], 80, Some((REGIONS[0], 65536))),
        3 => (LOG, 200, Some((LOG, 8192))),
        4 => (METADATA, 240, None),
        5 => (METADATA + 65536, 300, None),
        6 => (BAT, 48, None),
        _ => (BAT + 4096 * 8, 8, None),
    };
    let at = start + rng.usize(0..len);
    match rng.u32(0..3) {
        0 => bytes[at] ^= 1 << rng.u32(0..8),
        1 => bytes[at] = rng.u8(..),
        _ => put(bytes, at & !7, &[0, 1, 0xFF][rng.usize(0..3)..][..1].repeat(8)),
    }
    if let Some((at, len)) = sealed
        && rng.u32(0..5) > 0
    {
        seal(bytes, at, len);
    }
}

/// Opens, maps, reads, checks and changes an image; whether it could be opened.
fn exercise(bytes: Vec<u8>) -> bool {
    let Ok(layer) = read_only(VecStore::new(bytes.clone())) else { return false };
    look(&layer);
    if let Ok(mut layer) = writable(VecStore::new(bytes)) {
        let below = ZeroDisk(DISK);
        let size = layer.info().virtual_size;
        let _ = layer.write(&[1; 700], size / 3, &below);
        let _ = layer.zero(0..size.min(2 * MIB), &below);
        if size < 1 << 40 {
            let _ = layer.resize(size + 4096);
            let _ = layer.resize(4096);
        }
        let _ = layer.close();
        look(&layer);
    }
    true
}

fn look(layer: &VhdxLayer) {
    let size = layer.info().virtual_size;
    let mut at = 0;
    let mut buf = vec![0; 8192];
    for _ in 0..20 {
        if at >= size {
            break;
        }
        match layer.extent_at(at, size) {
            Ok(extent) => {
                assert!(extent.start == at && extent.len > 0 && extent.len <= size - at);
                let len = extent.len.min(8192) as usize;
                let _ = vdisk_core::layer::read(layer, &ZeroDisk(size), &mut buf[..len], at);
                at += extent.len;
            }
            Err(_) => at += MIB,
        }
    }
    let _ = layer.check(&mut Findings::new());
}

/// Stores of all sorts may stand below.
#[test]
fn a_log_can_be_replayed_from_a_sparse_store() {
    let bytes = with_log(&[(0, &LogEntry::new(&[(BLOCK, Some(4096))]))]);
    let store = Arc::new(MemStore::from_bytes("t", &bytes));
    let layer = read_only(store).unwrap();
    assert_eq!(layer.stores()[0].len().unwrap(), bytes.len() as u64);
}
