//! Damaged and malicious images: each is refused, or read with an error that says where.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::sync::Arc;

use common::{
    child, codes, contents, empty, image, link, nothing, open_read, open_write, options, put, seal,
    seal_footers, seal_header,
};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::layer::read;
use vdisk_core::{ErrorKind, Layer, LayerKind, LayerMut, MemStore, Store, StoreExt};
use vdisk_testkit::content::Content;
use vdisk_vhd::{OpenOptions, SizeBy, Subformat, open, probe};

const SIZE: u64 = 40 * 4096;
const TABLE: u64 = 1536;

/// A dynamic image of 40 blocks, all there.
fn dynamic() -> Arc<MemStore> {
    image(&options(SIZE, Subformat::Dynamic, 4096), &Content::full(SIZE, 1))
}

fn fixed() -> Arc<MemStore> {
    image(&options(SIZE, Subformat::Fixed, 4096), &Content::full(SIZE, 1))
}

/// Changes both footers.
fn footers(store: &MemStore, at: u64, bytes: &[u8]) {
    let tail = store.size().unwrap() - 512;
    put(store, at, bytes);
    put(store, tail + at, bytes);
    seal_footers(store);
}

fn header(store: &MemStore, at: u64, bytes: &[u8]) {
    put(store, 512 + at, bytes);
    seal_header(store);
}

fn refused(store: Arc<MemStore>, kind: ErrorKind, what: &str) {
    let error = open_read(store).expect_err(what);
    assert_eq!(error.kind(), kind, "{what}: {error}");
    assert!(error.offset().is_some() && error.path().is_some(), "{what}: {error}");
}

#[test]
fn short_files_are_no_images() {
    for len in [0, 1, 510, 511, 512, 513, 1024] {
        let store = Arc::new(MemStore::from_bytes("t", &vec![0; len]));
        assert!(!probe(&*store).unwrap());
        let error = open_read(store).unwrap_err();
        let kind = if len < 511 { ErrorKind::Truncated } else { ErrorKind::Corrupt };
        assert_eq!(error.kind(), kind, "{len}");
    }
    // Only a footer: the disk's bytes are missing.
    let whole = fixed().to_bytes();
    let footer = &whole[SIZE as usize..];
    refused(Arc::new(MemStore::from_bytes("t", footer)), ErrorKind::Truncated, "a mere footer");
}

#[test]
fn any_cut_of_an_image_is_refused_or_readable_in_part() {
    for whole in [dynamic().to_bytes(), fixed().to_bytes()] {
        for len in (0..whole.len()).step_by(509) {
            let store = Arc::new(MemStore::from_bytes("t", &whole[..len]));
            let Ok(layer) = open_read(store) else { continue };
            for sector in 0..SIZE / 512 {
                let mut buf = [0; 512];
                if let Err(error) = read(&layer, &ZeroDisk(0), &mut buf, sector * 512) {
                    assert_eq!(error.kind(), ErrorKind::Truncated, "{error}");
                    assert!(error.offset().is_some(), "{error}");
                }
            }
            codes(&layer);
        }
    }
}

#[test]
fn footers_stand_in_for_each_other() {
    let good = dynamic().to_bytes();
    let tail = good.len() as u64 - 512;
    let wanted = Content::full(SIZE, 1);
    for (bad, code) in [
        (vec![tail], "vhd-footer-checksum"),
        (vec![0], "vhd-footer-copy-checksum"),
        (vec![0, tail], ""),
    ] {
        let store = Arc::new(MemStore::from_bytes("t", &good));
        for at in &bad {
            put(&store, at + 100, &[1]);
        }
        if code.is_empty() {
            refused(store, ErrorKind::Corrupt, "both footers bad");
            continue;
        }
        assert!(probe(&*store).unwrap());
        let layer = open_read(store.clone()).unwrap();
        assert!(contents(&layer, &nothing(&layer)) == wanted.bytes());
        assert_eq!(codes(&layer), [code]);
        // The first change makes both right.
        let mut layer = open_write(store.clone()).unwrap();
        layer.write(&[wanted.bytes()[0]], 0, &ZeroDisk(0)).unwrap();
        layer.close().unwrap();
        assert!(codes(&layer).is_empty(), "{:?}", codes(&layer));
    }
    let store = fixed();
    put(&store, SIZE + 100, &[1]);
    refused(store, ErrorKind::Corrupt, "the only footer of a fixed disk");
}

#[test]
fn a_wiped_copy_is_found_by_the_tail() {
    let store = dynamic();
    put(&store, 0, &[0; 512]);
    assert!(probe(&*store).unwrap());
    assert_eq!(codes(&open_read(store).unwrap()), ["vhd-footer-copy-missing"]);
}

#[test]
fn the_guest_of_a_fixed_disk_cannot_turn_it_into_another() {
    // The guest writes the start of a dynamic disk into its first sectors.
    let store = fixed();
    let start = dynamic().to_bytes();
    put(&store, 0, &start[..4096]);
    let layer = open_read(store).unwrap();
    assert_eq!(layer.info().subformat, "fixed");
    assert!(contents(&layer, &nothing(&layer))[..4096] == start[..4096]);
}

#[test]
fn the_guest_of_a_dynamic_disk_cannot_turn_it_into_another() {
    // After a power cut the file may end with guest data: here with the footer of another disk.
    let store = dynamic();
    let len = store.size().unwrap();
    let other = empty(&vdisk_vhd::CreateOptions {
        unique_id: Some(uuid::Uuid::from_u128(0xBAD)),
        ..options(1 << 30, Subformat::Dynamic, 4096)
    });
    put(&store, len - 512, &other.to_bytes()[..512]);
    let layer = open_read(store).unwrap();
    assert_eq!(layer.info().virtual_size, SIZE);
    assert_eq!(codes(&layer), ["vhd-footer-copies-differ"]);
}

#[test]
fn a_raw_disk_that_ends_with_a_footer_stays_raw() {
    // A raw disk whose last partition is a VHD file.
    for inner in [fixed(), dynamic()] {
        let mut bytes = vec![0x55; 8192];
        bytes.extend_from_slice(&inner.to_bytes());
        assert!(!probe(&MemStore::from_bytes("t", &bytes)).unwrap());
    }
    let mut damaged = fixed().to_bytes();
    let last = damaged.len() - 1;
    damaged[last] ^= 1;
    assert!(!probe(&MemStore::from_bytes("t", &damaged)).unwrap());
}

#[test]
fn footer_fields() {
    let cases: [(u64, &[u8], ErrorKind, &str); 9] = [
        (12, &[0, 2, 0, 0], ErrorKind::Unsupported, "version 2"),
        (60, &[0, 0, 0, 5], ErrorKind::Unsupported, "disk type 5"),
        (60, &[0, 0, 0, 0], ErrorKind::Unsupported, "disk type 0"),
        (48, &0u64.to_be_bytes(), ErrorKind::Corrupt, "size 0"),
        (48, &511u64.to_be_bytes(), ErrorKind::Corrupt, "size below a sector"),
        (48, &((2040u64 << 30) + 512).to_be_bytes(), ErrorKind::Corrupt, "size beyond 2040 GiB"),
        (48, &u64::MAX.to_be_bytes(), ErrorKind::Corrupt, "size of 64 bits"),
        (16, &0u64.to_be_bytes(), ErrorKind::Corrupt, "header in the footer's copy"),
        (16, &(u64::MAX - 511).to_be_bytes(), ErrorKind::Corrupt, "header beyond any file"),
    ];
    for (at, bytes, kind, what) in cases {
        let store = dynamic();
        footers(&store, at, bytes);
        refused(store, kind, what);
    }
    let store = dynamic();
    footers(&store, 16, &(1u64 << 40).to_be_bytes());
    refused(store, ErrorKind::Truncated, "header beyond the file");
    let store = fixed();
    put(&store, SIZE + 48, &u64::MAX.to_be_bytes());
    seal(&store, SIZE, 512, 64);
    refused(store, ErrorKind::Truncated, "fixed size of 64 bits");
}

#[test]
fn odd_footers_are_read_with_a_note() {
    let size = SIZE - 100;
    let cases: [(u64, &[u8], &str); 5] = [
        (8, &[0, 0, 0, 0], "vhd-features"),
        (48, &size.to_be_bytes(), "vhd-size-unaligned"),
        (56, &[0, 0, 0, 0], "vhd-geometry"),
        (68, &[0; 16], "vhd-unique-id-missing"),
        (84, &[1], "vhd-saved-state"),
    ];
    for (at, bytes, code) in cases {
        let store = dynamic();
        footers(&store, at, bytes);
        let options = OpenOptions { size_by: SizeBy::Geometry, ..OpenOptions::default() };
        assert!(open(store.clone(), &options).unwrap().info().virtual_size > 0);
        let layer = open_read(store.clone()).unwrap();
        assert_eq!(layer.info().virtual_size % 512, 0);
        contents(&layer, &nothing(&layer));
        assert!(codes(&layer).contains(&code), "{code}: {:?}", codes(&layer));
        let writable = open_write(store);
        if code == "vhd-saved-state" {
            let error = writable.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused);
        } else {
            writable.unwrap();
        }
    }
}

#[test]
fn header_fields() {
    let cases: [(u64, &[u8], ErrorKind, &str); 12] = [
        (0, b"cxsparsf", ErrorKind::Corrupt, "cookie"),
        (24, &[0, 2, 0, 0], ErrorKind::Unsupported, "header version"),
        (32, &[0; 4], ErrorKind::Corrupt, "block size 0"),
        (32, &4097u32.to_be_bytes(), ErrorKind::Corrupt, "block size no power of two"),
        (32, &(512u32 << 20).to_be_bytes(), ErrorKind::Corrupt, "block size beyond 256 MiB"),
        (32, &512u32.to_be_bytes(), ErrorKind::Corrupt, "blocks do not cover the disk"),
        (28, &39u32.to_be_bytes(), ErrorKind::Corrupt, "one entry short"),
        (28, &u32::MAX.to_be_bytes(), ErrorKind::Truncated, "a table of 16 GiB"),
        (16, &0u64.to_be_bytes(), ErrorKind::Corrupt, "table over the footer's copy"),
        (16, &1024u64.to_be_bytes(), ErrorKind::Corrupt, "table over the header"),
        (16, &1537u64.to_be_bytes(), ErrorKind::Corrupt, "table off a sector"),
        (16, &(u64::MAX - 511).to_be_bytes(), ErrorKind::Truncated, "table beyond any file"),
    ];
    for (at, bytes, kind, what) in cases {
        let store = dynamic();
        header(&store, at, bytes);
        refused(store, kind, what);
    }
}

#[test]
fn a_wrong_header_checksum_can_be_read_but_not_written() {
    let store = dynamic();
    put(&store, 512 + 800, &[1]);
    let layer = open_read(store.clone()).unwrap();
    assert_eq!(codes(&layer), ["vhd-header-checksum", "vhd-header-unused"]);
    assert_eq!(open_write(store).unwrap_err().kind(), ErrorKind::Corrupt);
}

#[test]
fn block_table_entries() {
    let end = dynamic().size().unwrap() / 512;
    let first = 3584 / 512;
    let cases = [
        (0, ErrorKind::Corrupt, "vhd-block-in-metadata"),
        (1, ErrorKind::Corrupt, "vhd-block-in-metadata"),
        (3, ErrorKind::Corrupt, "vhd-block-in-metadata"),
        (end as u32 - 1, ErrorKind::Truncated, "vhd-block-outside"),
        (0xFFFF_FFFE, ErrorKind::Truncated, "vhd-block-outside"),
        (first, ErrorKind::Corrupt, "vhd-block-overlap"),
        (first + 1, ErrorKind::Corrupt, "vhd-block-overlap"),
    ];
    for (entry, kind, code) in cases {
        let store = dynamic();
        put(&store, TABLE + 5 * 4, &entry.to_be_bytes());
        let layer = open_read(store.clone()).unwrap();
        assert!(codes(&layer).contains(&code), "{entry}: {:?}", codes(&layer));
        let read = layer.extent_at(5 * 4096 + 7, SIZE);
        if code != "vhd-block-overlap" {
            let error = read.unwrap_err();
            assert_eq!(
                (error.kind(), error.offset()),
                (kind, Some(TABLE + 20)),
                "{entry}: {error}"
            );
        }
        // What comes before it can be read.
        let extent = layer.extent_at(4 * 4096, SIZE).unwrap();
        assert!(matches!(extent.kind, LayerKind::Data { .. }) && extent.len == 4096);
        let error = open_write(store).unwrap_err();
        assert_eq!(error.kind(), kind, "{entry}: {error}");
        assert!(error.offset().is_some());
    }
}

#[test]
fn lost_space_and_long_tables_are_found() {
    let store = dynamic();
    put(&store, TABLE + 5 * 4, &[0xFF; 4]);
    assert_eq!(codes(&open_read(store.clone()).unwrap()), ["vhd-orphan-space"]);
    // qemu once wrote one entry more than needed.
    let store = dynamic();
    header(&store, 28, &41u32.to_be_bytes());
    assert_eq!(codes(&open_read(store.clone()).unwrap()), ["vhd-table-long"]);
    let last = store.size().unwrap() - 512;
    // That entry leads to a block, which nobody reads: a disk that grows must not show it.
    let end = last / 512 + 9;
    store.set_len(last + 512 * 19).unwrap();
    let footer = store.to_bytes()[..512].to_vec();
    put(&store, end * 512, &[0xAA; 512]);
    put(&store, last + 512 * 18, &footer);
    put(&store, TABLE + 160, &(end as u32).to_be_bytes());
    let found = codes(&open_read(store.clone()).unwrap());
    assert!(found.contains(&"vhd-block-beyond-disk"), "{found:?}");
    let mut layer = open_write(store).unwrap();
    layer.resize(SIZE + 8192).unwrap();
    let bytes = contents(&layer, &nothing(&layer));
    assert!(bytes[SIZE as usize..].iter().all(|byte| *byte == 0));
    assert!(codes(&layer).is_empty(), "{:?}", codes(&layer));
}

#[test]
fn bitmaps_of_dynamic_disks_are_honoured() {
    let store = dynamic();
    put(&store, 3584, &[0x0F]);
    let layer = open_read(store.clone()).unwrap();
    let bytes = contents(&layer, &nothing(&layer));
    assert!(bytes[..2048].iter().all(|byte| *byte == 0));
    assert!(bytes[2048..] == Content::full(SIZE, 1).bytes()[2048..]);
    assert_eq!(codes(&layer), ["vhd-bitmap-partial"]);
    let mut layer = open_write(store).unwrap();
    layer.write(&[1], 600, &ZeroDisk(0)).unwrap();
    layer.close().unwrap();
    let mut wanted = bytes;
    wanted[600] = 1;
    assert!(contents(&layer, &nothing(&layer)) == wanted);
    assert!(codes(&layer).is_empty());
}

#[test]
fn parents() {
    let make = || child(dynamic(), 4096);
    let cases: [(u64, &[u8], &str); 6] = [
        (40, &[0; 16], "vhd-parent-id-missing"),
        (576 + 8, &0x0002_0000u32.to_be_bytes(), "vhd-locator-too-long"),
        (576 + 8, &u32::MAX.to_be_bytes(), "vhd-locator-too-long"),
        (576 + 16, &(1u64 << 50).to_be_bytes(), "vhd-locator-outside"),
        (576 + 16, &u64::MAX.to_be_bytes(), "vhd-locator-outside"),
        (576 + 16, &512u64.to_be_bytes(), "vhd-locator-overlap"),
    ];
    for (at, bytes, code) in cases {
        let store = make();
        header(&store, at, bytes);
        let layer = open_read(store.clone()).unwrap();
        assert!(codes(&layer).contains(&code), "{code}: {:?}", codes(&layer));
        let mut layer = open_write(store).unwrap();
        layer.write(&[5; 5000], 4000, &ZeroDisk(SIZE)).unwrap();
        layer.close().unwrap();
    }
    let store = make();
    header(&store, 576, &[b'?'; 4]);
    assert_eq!(codes(&open_read(store.clone()).unwrap()), ["vhd-locator-unknown"]);
    header(&store, 64, &[0; 512 + 8 * 24]);
    let layer = open_read(store).unwrap();
    assert_eq!(codes(&layer), ["vhd-parent-unnamed"]);
    assert!(layer.info().parent.as_ref().unwrap().hints.is_empty());
    let store = dynamic();
    header(&store, 40, &[7; 16]);
    let layer = open_read(store).unwrap();
    assert!(layer.info().parent.is_none());
    assert_eq!(codes(&layer), ["vhd-parent-unused"]);
}

#[test]
fn a_locator_beyond_the_end_does_not_come_to_lie_over_new_blocks() {
    for (at, bytes) in
        [(576 + 8, &0x0001_0000u32.to_be_bytes()[..]), (576 + 16, &(1u64 << 30).to_be_bytes()[..])]
    {
        let store = child(dynamic(), 4096);
        header(&store, at, bytes);
        let before = store.to_bytes();
        assert_eq!(codes(&open_read(store.clone()).unwrap()), ["vhd-locator-outside"]);
        let mut layer = open_write(store.clone()).unwrap();
        let error = layer.write(&[5; 5000], 4000, &ZeroDisk(SIZE)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        drop(layer);
        assert!(store.to_bytes() == before);

        // As the error says, its parent can be named anew.
        let mut layer = open_write(store.clone()).unwrap();
        layer.relink(&link(&open_read(dynamic()).unwrap(), "base.vhd")).unwrap();
        layer.write(&[5; 5000], 4000, &ZeroDisk(SIZE)).unwrap();
        layer.close().unwrap();
        let layer = open_read(store).unwrap();
        assert_eq!(codes(&layer), [""; 0]);
        assert!(contents(&layer, &ZeroDisk(SIZE))[4000..9000] == [5; 5000]);
    }
}

#[test]
fn an_image_open_for_reading_is_not_changed() {
    let mut layer = open_read(dynamic()).unwrap();
    let below = ZeroDisk(SIZE);
    for error in [
        layer.write(&[1], 0, &below).unwrap_err(),
        layer.zero(0..1, &below).unwrap_err(),
        layer.resize(512).unwrap_err(),
        layer.flush().unwrap_err(),
        layer.close().unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Denied);
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    let mut layer = open_write(dynamic()).unwrap();
    for size in [0, 513, (2040 << 30) + 512, u64::MAX / 512 * 512, 2039 << 30] {
        assert_eq!(layer.resize(size).unwrap_err().kind(), ErrorKind::Usage, "{size}");
    }
    let mut layer = open_write(child(dynamic(), 4096)).unwrap();
    assert_eq!(layer.resize(512).unwrap_err().kind(), ErrorKind::Unsupported);
    let error = layer.write(&[0; 2], SIZE - 1, &ZeroDisk(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::OutOfRange);
}

#[test]
fn huge_tables_cost_nothing() {
    // 2040 GiB in blocks of 512 bytes: a table of 16 GiB, of which nothing is there.
    let store = dynamic();
    let entries = (2040u64 << 30) / 512;
    footers(&store, 48, &(2040u64 << 30).to_be_bytes());
    header(&store, 28, &u32::try_from(entries).unwrap().to_be_bytes());
    header(&store, 32, &512u32.to_be_bytes());
    header(&store, 16, &(1u64 << 20).to_be_bytes());
    let footer = store.to_bytes()[..512].to_vec();
    put(&store, (1 << 20) + entries * 4 + 512, &footer);
    let layer = open_read(store.clone()).unwrap();
    // Entries of 0 would be blocks over the footer's copy.
    assert_eq!(layer.extent_at(1 << 40, 2 << 40).unwrap_err().kind(), ErrorKind::Corrupt);
    assert!(codes(&layer).contains(&"vhd-too-many-blocks"));
    assert!(open_write(store).is_err());
}

#[test]
fn random_damage_never_panics() {
    let content = Content::random(SIZE, 3);
    let images = [
        image(&options(SIZE, Subformat::Dynamic, 16384), &content).to_bytes(),
        image(&options(SIZE, Subformat::Fixed, 4096), &content).to_bytes(),
        {
            let store = child(dynamic(), 8192);
            let mut layer = open_write(store.clone()).unwrap();
            layer.write(&[1; 50_000], 3000, &ZeroDisk(SIZE)).unwrap();
            layer.close().unwrap();
            store.to_bytes()
        },
    ];
    let mut rng = fastrand::Rng::with_seed(77);
    for round in 0..3000 {
        let bytes = &images[round % images.len()];
        let store = Arc::new(MemStore::from_bytes("t", bytes));
        for _ in 0..rng.usize(1..4) {
            let at = match rng.u32(0..4) {
                0 => rng.u64(0..bytes.len() as u64),
                1 => bytes.len() as u64 - rng.u64(1..=512),
                _ => rng.u64(0..2048),
            };
            let value = *rng.choice(&[0u8, 1, 0x7F, 0x80, 0xFF]).unwrap();
            let run = *rng.choice(&[1usize, 4, 8]).unwrap();
            put(&store, at, &vec![if rng.bool() { value } else { rng.u8(..) }; run]);
        }
        // Most damage must get past the checksums.
        if rng.u32(0..4) > 0 {
            if store.to_bytes().starts_with(b"conectix") {
                seal(&store, 0, 512, 64);
                seal_header(&store);
            }
            let len = store.size().unwrap();
            seal(&store, len - 512, 512, 64);
        }
        try_everything(store);
    }
}

fn try_everything(store: Arc<MemStore>) {
    let _ = probe(&*store);
    for size_by in [SizeBy::CurrentSize, SizeBy::Geometry] {
        let options = OpenOptions { size_by, ..OpenOptions::default() };
        let Ok(layer) = open(store.clone(), &options) else { continue };
        let size = layer.info().virtual_size;
        let mut at = 0;
        for _ in 0..500 {
            match layer.extent_at(at, size) {
                Ok(extent) => {
                    let mut buf = vec![0; extent.len.min(4096) as usize];
                    let _ = read(&layer, &ZeroDisk(0), &mut buf, at);
                    at += extent.len;
                }
                Err(error) => {
                    assert!(error.offset().is_some(), "{error}");
                    at += 512;
                }
            }
            if at >= size {
                break;
            }
        }
        let mut findings = vdisk_core::Findings::new();
        let _ = layer.check(&mut findings);
    }
    if let Ok(mut layer) = open_write(store) {
        let size = layer.info().virtual_size;
        let _ = layer.write(&[1; 700], size.min(5000) / 2, &ZeroDisk(0));
        let _ = layer.zero(0..size.min(3000), &ZeroDisk(0));
        let _ = layer.close();
    }
}
