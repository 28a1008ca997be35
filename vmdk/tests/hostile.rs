//! Damaged and malicious files: an error that says where, never a panic, never a wrong byte.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use common::{filled, for_writing, open_mem, open_mem_with};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::layer::read;
use vdisk_core::{
    Error, ErrorKind, Files, Findings, Layer, LayerMut, MemFiles, Result, Severity, Store, StoreExt,
};
use vdisk_testkit::content::Content;
use vdisk_vmdk::{CreateOptions, OpenOptions, Subformat, VmdkLayer, probe};

const SIZE: u64 = 1 << 20;

fn sparse() -> MemFiles {
    filled(&CreateOptions::new(SIZE), &Content::full(SIZE, 1))
}

fn stream() -> MemFiles {
    let options =
        CreateOptions { subformat: Subformat::StreamOptimized, ..CreateOptions::new(SIZE) };
    filled(&options, &Content::full(SIZE, 1))
}

fn put(files: &MemFiles, at: u64, bytes: &[u8]) {
    files.get("disk.vmdk").unwrap().put(bytes, at, "damage").unwrap();
}

fn word(files: &MemFiles, at: usize) -> u32 {
    let bytes = files.get("disk.vmdk").unwrap().to_bytes();
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

/// Where grain table 0 stands: the primary one, and its copy.
fn tables(files: &MemFiles) -> (u64, u64) {
    let table = |field| u64::from(word(files, word(files, field) as usize * 512)) * 512;
    (table(56), table(48))
}

fn codes(layer: &VmdkLayer) -> Vec<(&'static str, Severity)> {
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap();
    findings.list().iter().map(|finding| (finding.code, finding.severity)).collect()
}

fn assert_error(result: Result<VmdkLayer>, kind: ErrorKind, what: &str) {
    let error = result.map(|_| ()).expect_err(what);
    assert_eq!(error.kind(), kind, "{what}: {error}");
    assert!(error.path().is_some(), "{what}: {error}");
}

#[test]
fn headers_that_lie_are_refused() {
    let cases: [(&str, u64, &[u8], ErrorKind); 14] = [
        ("version 4", 4, &[4], ErrorKind::Unsupported),
        ("unknown incompatible flag", 10, &[0x10], ErrorKind::Unsupported),
        ("capacity below the descriptor's", 12, &[0; 8], ErrorKind::Corrupt),
        ("capacity of 2^60 sectors", 12, &[0, 0, 0, 0, 0, 0, 0, 16], ErrorKind::Corrupt),
        ("grain of 0", 20, &[0; 8], ErrorKind::Corrupt),
        ("grain of 100", 20, &[100], ErrorKind::Corrupt),
        ("grain of 2^22", 20, &[0, 0, 64], ErrorKind::Corrupt),
        ("descriptor beyond the file", 28, &[0, 0, 0, 0, 1], ErrorKind::Truncated),
        ("descriptor of 2 MiB", 36, &[0, 16], ErrorKind::Corrupt),
        ("4096 entries", 44, &[0, 16], ErrorKind::Corrupt),
        ("directory beyond the file", 56, &[0, 0, 0, 1], ErrorKind::Truncated),
        ("directory on the header", 56, &[0; 8], ErrorKind::Corrupt),
        ("more metadata than file", 64, &[0, 0, 0, 1], ErrorKind::Truncated),
        ("text mode", 73, b"\n \n\n", ErrorKind::Corrupt),
    ];
    for (what, at, bytes, kind) in cases {
        let files = sparse();
        put(&files, at, bytes);
        assert_error(open_mem(&files), kind, what);
    }
    for len in [0, 3, 4, 100, 511, 512, 5000, 11_000] {
        let files = sparse();
        files.get("disk.vmdk").unwrap().set_len(len).unwrap();
        assert!(open_mem(&files).is_err(), "cut to {len}");
    }
}

#[test]
fn entries_that_point_wrong_are_errors_where_they_are_used() {
    let cases: [(&str, u32, ErrorKind, &str); 4] = [
        ("into the header", 1, ErrorKind::Corrupt, "vmdk-grain-in-metadata"),
        ("into the tables", 22, ErrorKind::Corrupt, "vmdk-grain-in-metadata"),
        ("past the end", 100_000, ErrorKind::Truncated, "vmdk-grain-past-end"),
        ("at the last sector of all", u32::MAX, ErrorKind::Truncated, "vmdk-grain-past-end"),
    ];
    for (what, sector, kind, code) in cases {
        let files = sparse();
        let (primary, redundant) = tables(&files);
        for table in [primary, redundant] {
            put(&files, table + 8, &sector.to_le_bytes());
        }
        let layer = open_mem(&files).unwrap();
        let mut buf = vec![0; 131_072];
        read(&layer, &ZeroDisk(0), &mut buf, 0).unwrap();
        let error = read(&layer, &ZeroDisk(0), &mut buf, 100_000).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (kind, Some(primary + 8)), "{what}: {error}");
        assert!(
            codes(&layer).contains(&(code, Severity::Corruption)),
            "{what}: {:?}",
            codes(&layer)
        );
        assert_error(open_mem_with(&files, &for_writing()), ErrorKind::Corrupt, what);
    }
}

#[test]
fn shared_grains_are_found_and_not_written() {
    let files = sparse();
    let (primary, redundant) = tables(&files);
    let first = word(&files, primary as usize);
    for table in [primary, redundant] {
        put(&files, table + 20, &first.to_le_bytes());
    }
    let layer = open_mem(&files).unwrap();
    assert!(codes(&layer).contains(&("vmdk-grain-overlap", Severity::Corruption)));
    assert_error(open_mem_with(&files, &for_writing()), ErrorKind::Corrupt, "shared grain");
}

#[test]
fn copies_that_differ_are_told_apart() {
    let files = sparse();
    let (_, redundant) = tables(&files);
    put(&files, redundant + 8, &[0; 4]);
    let layer = open_mem(&files).unwrap();
    assert_eq!(codes(&layer), [("vmdk-rgd-stale", Severity::Note)]);
    put(&files, redundant + 8, &word(&files, redundant as usize).to_le_bytes());
    assert_eq!(codes(&layer), [("vmdk-rgd-differs", Severity::Corruption)]);
}

#[test]
fn directories_that_point_wrong_are_errors() {
    let cases: [(u32, ErrorKind); 3] =
        [(1, ErrorKind::Corrupt), (26, ErrorKind::Corrupt), (9_000_000, ErrorKind::Truncated)];
    for (sector, kind) in cases {
        let files = sparse();
        let directory = u64::from(word(&files, 56)) * 512;
        put(&files, directory, &sector.to_le_bytes());
        let layer = open_mem(&files).unwrap();
        let error = layer.extent_at(0, 512).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (kind, Some(directory)), "{error}");
        let found = codes(&layer);
        assert!(found.contains(&("vmdk-gd-entry-invalid", Severity::Corruption)), "{found:?}");
    }
    let files = sparse();
    put(&files, u64::from(word(&files, 48)) * 512, &word(&files, 48).to_le_bytes());
    let found = codes(&open_mem(&files).unwrap());
    assert!(found.contains(&("vmdk-gt-overlap", Severity::Corruption)), "{found:?}");
}

#[test]
fn unused_space_is_a_leak_unless_it_is_a_hole() {
    let files = sparse();
    let (primary, redundant) = tables(&files);
    let grain = u64::from(word(&files, primary as usize + 12)) * 512;
    for table in [primary, redundant] {
        put(&files, table + 12, &[0; 4]);
    }
    let layer = open_mem(&files).unwrap();
    assert_eq!(codes(&layer), [("vmdk-grain-leaked", Severity::Leak)]);
    files.get("disk.vmdk").unwrap().zero(grain, 65536).unwrap();
    assert_eq!(codes(&layer), []);
}

fn described(text: &str) -> MemFiles {
    let mut files = MemFiles::new("disk.vmdk");
    let head = "# Disk DescriptorFile\nversion=1\nCID=12345678\nparentCID=ffffffff\n";
    let text = format!("{head}createType=\"monolithicFlat\"\n{text}\n");
    files.create("disk.vmdk").unwrap().put(text.as_bytes(), 0, "text").unwrap();
    files.create("a-flat.vmdk").unwrap().put(&[7; 1024], 0, "data").unwrap();
    files
}

#[test]
fn descriptors_that_lie_are_refused() {
    let cases = [
        ("no extents", String::new(), ErrorKind::Corrupt),
        ("itself", "RW 1 FLAT \"disk.vmdk\" 0".into(), ErrorKind::Corrupt),
        ("a file that is not there", "RW 1 FLAT \"b.vmdk\" 0".into(), ErrorKind::ParentMissing),
        ("a text as sparse extent", "RW 1 SPARSE \"a-flat.vmdk\"".into(), ErrorKind::Corrupt),
        ("sectors beyond any disk", "RW 36028797018963968 ZERO".into(), ErrorKind::Corrupt),
        ("a sum beyond any disk", "RW 18014398509481983 ZERO\n".repeat(3), ErrorKind::Corrupt),
        ("too many", "RW 1 ZERO\n".repeat(4097), ErrorKind::Corrupt),
        (
            "an offset beyond any file",
            "RW 1 FLAT \"a-flat.vmdk\" 18446744073709551615".into(),
            ErrorKind::Corrupt,
        ),
        ("a raw device mapping", "RW 1 VMFSRDM \"a-flat.vmdk\"".into(), ErrorKind::Unsupported),
    ];
    for (what, text, kind) in cases {
        let error = open_mem(&described(&text)).map(|_| ()).expect_err(what);
        assert_eq!(error.kind(), kind, "{what}: {error}");
    }
    let files = described("RW 1 ZERO");
    let store = files.get("disk.vmdk").unwrap();
    store.set_len((1 << 20) + 1).unwrap();
    assert_error(open_mem(&files), ErrorKind::Corrupt, "more than 1 MiB");
    assert!(!probe(&*store).unwrap());
}

#[test]
fn flat_files_that_are_too_short_are_errors_where_they_end() {
    let files = described("RW 1 FLAT \"a-flat.vmdk\" 0\nRW 5 FLAT \"a-flat.vmdk\" 1\nRW 1 ZERO");
    let layer = open_mem(&files).unwrap();
    let mut buf = [0; 1024];
    read(&layer, &ZeroDisk(0), &mut buf, 0).unwrap();
    assert_eq!(buf, [7; 1024]);
    let error = read(&layer, &ZeroDisk(0), &mut buf, 512).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Truncated, Some(1024)));
    assert_eq!(codes(&layer), [("vmdk-flat-too-short", Severity::Corruption)]);
    let mut layer = open_mem_with(&files, &for_writing()).unwrap();
    assert!(layer.write(&[1; 1024], 512, &ZeroDisk(0)).is_err());
    let overlap = described("RW 2 FLAT \"a-flat.vmdk\" 0\nRW 1 FLAT \"a-flat.vmdk\" 1");
    assert_eq!(
        codes(&open_mem(&overlap).unwrap()),
        [("vmdk-extents-overlap", Severity::Corruption)]
    );
}

#[test]
fn bare_extents_are_told_from_disks() {
    let options =
        CreateOptions { subformat: Subformat::TwoGbMaxExtentSparse, ..CreateOptions::new(SIZE) };
    let split = filled(&options, &Content::empty(SIZE)).get("disk-s001.vmdk").unwrap();
    let cowd = [b"COWD".as_slice(), &[0; 2044]].concat();
    let sesparse = [&0xCAFE_BABE_u64.to_le_bytes()[..], &[0; 2040]].concat();
    for bytes in [split.to_bytes(), cowd, sesparse] {
        let mut files = MemFiles::new("disk.vmdk");
        files.create("disk.vmdk").unwrap().put(&bytes, 0, "extent").unwrap();
        assert!(probe(&*files.get("disk.vmdk").unwrap()).unwrap());
        let error = open_mem(&files).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.to_string().contains("open its descriptor"), "{error}");
    }
}

/// The first grain's marker of a stream.
const MARKER: u64 = 128 * 512;

fn first_grain(files: &MemFiles) -> Error {
    let layer = open_mem(files).unwrap();
    read(&layer, &ZeroDisk(0), &mut [0; 512], 0).unwrap_err()
}

#[test]
fn grains_of_streams_that_lie_are_errors() {
    let cases: [(&str, u64, &[u8], &str); 5] = [
        ("another grain", 0, &[128], "vmdk-stream-grain-lba"),
        ("no grain", 8, &[0; 4], "vmdk-stream"),
        ("a size beyond the file", 8, &[0, 0, 0, 0x10], "vmdk-stream"),
        ("a size beyond any grain", 8, &[0, 0, 4, 0], "vmdk-stream"),
        ("no deflate data", 12, &[0x78, 0x9c, 0xFF, 0xFF, 0xFF], ""),
    ];
    for (what, at, bytes, code) in cases {
        let files = stream();
        put(&files, MARKER + at, bytes);
        let error = first_grain(&files);
        assert!(matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Truncated), "{error}");
        assert!(error.offset().is_some(), "{what}: {error}");
        let found = codes(&open_mem(&files).unwrap());
        assert!(
            code.is_empty() || found.iter().any(|(c, _)| c.starts_with(code)),
            "{what}: {found:?}"
        );
    }
    // A grain that holds more than its size: the bomb stops at the buffer's end.
    let files = stream();
    let mut bomb = vec![0; 70_000];
    let mut compressor = libdeflater::Compressor::new(libdeflater::CompressionLvl::best());
    let len = compressor.zlib_compress(&vec![0; 1 << 20], &mut bomb).unwrap();
    put(&files, MARKER + 8, &(len as u32).to_le_bytes());
    put(&files, MARKER + 12, &bomb[..len]);
    assert_eq!(first_grain(&files).kind(), ErrorKind::Corrupt);
}

#[test]
fn streams_without_an_end_are_recovered_on_demand_only() {
    let whole = stream();
    let store = whole.get("disk.vmdk").unwrap();
    let bytes = store.to_bytes();
    let content = Content::full(SIZE, 1);

    // Without footer and directory the markers say it all.
    let cut = bytes.len() - 512 * 3;
    let mut shortened = bytes[..cut].to_vec();
    shortened.extend_from_slice(&[0; 512]);
    let files = MemFiles::new("disk.vmdk");
    files.clone().create("disk.vmdk").unwrap().put(&shortened, 0, "stream").unwrap();
    let layer = open_mem(&files).unwrap();
    vdisk_testkit::model::assert_reads(&layer, &ZeroDisk(0), content.bytes(), "by markers");
    let found = codes(&layer);
    assert!(found.contains(&("vmdk-stream-directory-missing", Severity::Note)), "{found:?}");

    // Cut short, it opens only when asked to, and shows what is whole.
    store.set_len(bytes.len() as u64 / 2).unwrap();
    let error = open_mem(&whole).map(|_| ()).unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Truncated | ErrorKind::Corrupt), "{error}");
    assert!(error.advice().is_some() && error.offset().is_some());
    let options = OpenOptions { recover_stream: true, ..Default::default() };
    let layer = open_mem_with(&whole, &options).unwrap();
    let mut buf = vec![1; SIZE as usize];
    read(&layer, &ZeroDisk(0), &mut buf, 0).unwrap();
    let same = buf.chunks(65536).zip(content.bytes().chunks(65536)).filter(|(a, b)| a == b).count();
    assert!((4..12).contains(&same), "{same} grains of 16");
    assert!(buf[SIZE as usize - 65536..].iter().all(|byte| *byte == 0));
}

#[test]
fn footers_that_disagree_are_refused() {
    let files = stream();
    let end = files.get("disk.vmdk").unwrap().len().unwrap();
    put(&files, end - 1024 + 12, &[0, 0, 1]);
    assert_error(open_mem(&files), ErrorKind::Corrupt, "footer");
    let files = stream();
    let end = files.get("disk.vmdk").unwrap().len().unwrap();
    put(&files, end, &[0; 512]);
    let found = codes(&open_mem(&files).unwrap());
    assert!(found.contains(&("vmdk-stream-footer-place", Severity::Note)), "{found:?}");
    assert!(found.contains(&("vmdk-stream-trailing", Severity::Note)), "{found:?}");
}

#[test]
fn unfinished_files_are_told() {
    let files = stream();
    put(&files, 0, b"kdmv");
    assert!(probe(&*files.get("disk.vmdk").unwrap()).unwrap());
    let error = open_mem(&files).map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("did not finish"), "{error}");
}

#[test]
fn a_table_that_only_claims_to_be_large_costs_nothing() {
    let files = sparse();
    // Capacity and descriptor agree on 2^50 bytes; the file ends long before such tables.
    put(&files, 12, &(1u64 << 41).to_le_bytes());
    let store = files.get("disk.vmdk").unwrap();
    let text = String::from_utf8_lossy(&store.to_bytes()[512..1536]).into_owned();
    put(&files, 512, text.replace("RW 2048", &format!("RW {}", 1u64 << 41)).as_bytes());
    assert_error(open_mem(&files), ErrorKind::Truncated, "2^50 bytes");
}

/// Opens, maps, reads, checks and writes what may be anything.
fn exercise(files: &MemFiles) {
    if let Some(store) = files.get("disk.vmdk") {
        let _ = probe(&*store);
    }
    for recover_stream in [false, true] {
        let options = OpenOptions { recover_stream, ..Default::default() };
        let Ok(layer) = open_mem_with(files, &options) else { continue };
        let size = layer.info().virtual_size;
        let (mut at, mut steps) = (0, 0);
        while at < size && steps < 200 {
            steps += 1;
            match layer.extent_at(at, size) {
                Ok(extent) => {
                    assert!(extent.start == at && extent.len > 0 && extent.len <= size - at);
                    let len = extent.len.min(8192) as usize;
                    let _ = read(&layer, &ZeroDisk(0), &mut vec![0; len], at);
                    at += extent.len;
                }
                Err(_) => at += 65536,
            }
        }
        let _ = layer.check(&mut Findings::new());
    }
    if let Ok(mut layer) = open_mem_with(files, &for_writing()) {
        let size = layer.info().virtual_size;
        let _ = layer.write(&[1; 5000], size.saturating_sub(6000), &ZeroDisk(0));
        let _ = layer.zero(0..size.min(70_000), &ZeroDisk(0));
        let _ = layer.close();
    }
}

#[test]
fn nothing_panics_on_random_damage() {
    let make = |subformat| {
        let options = CreateOptions { subformat, ..CreateOptions::new(300 << 10) };
        let files = filled(&options, &Content::full(300 << 10, 3));
        let all: Vec<(String, Vec<u8>)> =
            files.all().into_iter().map(|(name, store)| (name, store.to_bytes())).collect();
        all
    };
    let images: Vec<_> = [
        Subformat::MonolithicSparse,
        Subformat::StreamOptimized,
        Subformat::TwoGbMaxExtentSparse,
        Subformat::MonolithicFlat,
    ]
    .map(make)
    .into();
    let mut rng = fastrand::Rng::with_seed(17);
    for round in 0..2500 {
        let mut files = MemFiles::new("disk.vmdk");
        let image = &images[round % images.len()];
        let victim = rng.usize(0..image.len());
        for (index, (name, bytes)) in image.iter().enumerate() {
            let mut bytes = bytes.clone();
            if index == victim {
                damage(&mut bytes, &mut rng);
            }
            files.create(name).unwrap().put(&bytes, 0, "image").unwrap();
        }
        exercise(&files);
    }
}

fn damage(bytes: &mut Vec<u8>, rng: &mut fastrand::Rng) {
    for _ in 0..rng.usize(1..4) {
        // Most structures are near the start; those of a stream also at the end.
        let near = [100, 2048, 20_000, bytes.len()][rng.usize(0..4)].min(bytes.len());
        let mut at = rng.usize(0..near);
        if rng.u32(0..4) == 0 {
            at = bytes.len() - 1 - at;
        }
        match rng.u32(0..6) {
            0 => bytes[at] ^= 1 << rng.u32(0..8),
            1 => bytes[at] = rng.u8(..),
            2 => {
                let values = [0, 1, 2, 127, 128, 0x7FFF_FFFF, 0x8000_0000, u32::MAX];
                let at = at / 4 * 4;
                let value = values[rng.usize(0..values.len())];
                if at + 4 <= bytes.len() {
                    bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
                }
            }
            3 => {
                let len = rng.usize(1..600).min(bytes.len() - at);
                bytes[at..at + len].fill([0, 0xFF][rng.usize(0..2)]);
            }
            4 => {
                let from = rng.usize(0..bytes.len());
                let len = 512.min(bytes.len() - from).min(bytes.len() - at);
                bytes.copy_within(from..from + len, at);
            }
            _ if rng.u32(0..4) == 0 => bytes.truncate(at.max(1)),
            _ => bytes[at] = bytes[at].wrapping_add(1),
        }
    }
}

#[test]
fn extents_that_share_a_file_are_not_written() {
    let sparse =
        CreateOptions { subformat: Subformat::TwoGbMaxExtentSparse, ..CreateOptions::new(SIZE) };
    let sparse = filled(&sparse, &Content::full(SIZE, 1));
    let sparse = sparse.get("disk-s001.vmdk").unwrap().to_bytes();
    let described = |extents: &str| {
        let mut files = MemFiles::new("disk.vmdk");
        let text = format!(
            "# Disk DescriptorFile\nCID=1234abcd\nparentCID=ffffffff\ncreateType=\"vmfs\"\n{extents}"
        );
        files.create("disk.vmdk").unwrap().put(text.as_bytes(), 0, "text").unwrap();
        files.create("a").unwrap().put(&[1; 20 * 512], 0, "flat").unwrap();
        files.create("s").unwrap().put(&sparse, 0, "sparse").unwrap();
        files
    };
    for extents in [
        "RW 10 FLAT \"a\" 0\nRW 10 FLAT \"a\" 9\n",
        "RW 2048 SPARSE \"s\"\nRW 10 FLAT \"s\" 9\n",
        "RDONLY 10 FLAT \"a\" 0\nRW 10 FLAT \"a\" 0\n",
    ] {
        let files = described(extents);
        let line = files.get("disk.vmdk").unwrap().size().unwrap() - 17;
        let found = codes(&open_mem(&files).unwrap());
        assert!(found.contains(&("vmdk-extents-overlap", Severity::Corruption)), "{found:?}");
        let error = open_mem_with(&files, &for_writing()).map(|_| ()).unwrap_err();
        assert_eq!((error.kind(), error.offset()), (ErrorKind::Corrupt, Some(line)), "{extents}");
    }
    // Side by side they may be; but then the last one must not grow over the other.
    let files = described("RW 10 FLAT \"a\" 10\nRW 10 FLAT \"a\" 0\n");
    let mut layer = open_mem_with(&files, &for_writing()).unwrap();
    assert_eq!(layer.resize(21 * 512).unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(files.get("a").unwrap().to_bytes(), [1; 20 * 512]);
}

#[test]
fn a_thousand_notes_do_not_hide_a_shared_grain() {
    let options = CreateOptions { grain_size: 8192, ..CreateOptions::new(6 << 30) };
    let mut files = MemFiles::new("disk.vmdk");
    let mut writer = vdisk_vmdk::create(&mut files, &options).unwrap();
    let place = writer.place(0..16384).unwrap();
    place.store.put(&[7; 16384], place.at, "guest data").unwrap();
    writer.finish().unwrap();
    let bytes = files.get("disk.vmdk").unwrap().to_bytes();
    let number =
        |at: u64| u32::from_le_bytes(bytes[at as usize..at as usize + 4].try_into().unwrap());
    let [redundant, directory] = [48, 56].map(|field| u64::from(number(field)) * 512);
    // Grains of which the redundant copies know nothing.
    let end = (bytes.len() as u64).next_multiple_of(8192);
    files.get("disk.vmdk").unwrap().resize(end + 1500 * 8192).unwrap();
    for table in 1..1500 {
        let at = u64::from(number(directory + table * 4)) * 512;
        let sector = u32::try_from((end + table * 8192) / 512).unwrap();
        put(&files, at, &sector.to_le_bytes());
    }
    for directory in [redundant, directory] {
        let table = u64::from(number(directory)) * 512;
        put(&files, table + 4, &number(table).to_le_bytes());
    }
    let layer = open_mem(&files).unwrap();
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap();
    assert_eq!(findings.count(Severity::Corruption), 1);
    assert_error(open_mem_with(&files, &for_writing()), ErrorKind::Corrupt, "shared grain");
}

/// Found by fuzzing: grains written below a descriptor that an extent claims to have beyond the
/// file's end could not be read again.
#[test]
fn a_descriptor_beyond_the_end_of_an_extent_is_refused() {
    let options =
        CreateOptions { subformat: Subformat::TwoGbMaxExtentSparse, ..CreateOptions::new(SIZE) };
    let files = filled(&options, &Content::empty(SIZE));
    files.get("disk-s001.vmdk").unwrap().put(&[0xFF], 32, "damage").unwrap();
    let error = open_mem(&files).map(|_| ()).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Truncated, Some(28)));
}

/// A directory of 4 MiB whose entries all name one table: a disk of 32 TiB in a small file. Entry
/// by entry that took half a minute.
#[test]
fn one_table_named_a_million_times_is_read_in_a_moment() {
    let options =
        CreateOptions { subformat: Subformat::TwoGbMaxExtentSparse, ..CreateOptions::new(SIZE) };
    let files = filled(&options, &Content::empty(SIZE));
    let tables: u64 = 1 << 20;
    let sectors = tables * 512 * 128;
    let store = files.get("disk-s001.vmdk").unwrap();
    store.put(&sectors.to_le_bytes(), 12, "capacity").unwrap();
    store.put(&1u32.to_le_bytes(), 8, "flags").unwrap();
    store.put(&2048u64.to_le_bytes(), 56, "directory").unwrap();
    let table = (2048 * 512) + tables * 4;
    store.put(&[0; 4096], table, "table").unwrap();
    let directory: Vec<u8> =
        (0..tables).flat_map(|_| u32::try_from(table / 512).unwrap().to_le_bytes()).collect();
    store.put(&directory, 2048 * 512, "directory").unwrap();
    let text = format!(
        "# Disk DescriptorFile\nCID=1234abcd\nparentCID=ffffffff\n\
         createType=\"twoGbMaxExtentSparse\"\nRW {sectors} SPARSE \"disk-s001.vmdk\"\n"
    );
    let main = files.get("disk.vmdk").unwrap();
    main.set_len(0).unwrap();
    main.put(text.as_bytes(), 0, "text").unwrap();
    let layer = open_mem(&files).unwrap();
    let size = layer.info().virtual_size;
    assert_eq!(size, sectors * 512);
    assert_eq!(layer.extent_at(0, size).unwrap().len, size);
}
