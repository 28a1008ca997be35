//! Mending: every damage that has one right answer, what has none, the way back, chance damage.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::{bytes_of, names_in, qemu_format};
use vdisk::{
    CheckReport, Disk, Error, ErrorKind, Findings, Format, Image, Layer, NewImage, OpenOptions,
    RepairRequest, Scope, check, create, create_child, repair, undo_repair,
};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::recorder::Change;
use vdisk_core::{MemFiles, MemStore, Mends, Recorder, Severity, Store};
use vdisk_testkit::tools::{Tool, dissect_digest, libvhdi_digest, libvmdk_digest, qemu, sha256};

const MIB: u64 = 1 << 20;
/// The disk that is damaged: data in some blocks, the first, the middle and the last.
const SIZE: u64 = 16 * MIB;

const ALL: RepairRequest = RepairRequest { scope: Scope::All, dry_run: false, backup: true };
const LEAKS: RepairRequest = RepairRequest { scope: Scope::Leaks, dry_run: false, backup: true };

/// An image to damage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Base {
    Vhd,
    VhdChild,
    Vhdx,
    VhdxChild,
    Vmdk,
    Stream,
}

impl Base {
    fn format(self) -> Format {
        match self {
            Self::Vhd | Self::VhdChild => Format::Vhd,
            Self::Vhdx | Self::VhdxChild => Format::Vhdx,
            Self::Vmdk | Self::Stream => Format::Vmdk,
        }
    }

    /// Makes the image in `folder`, with its parent if it has one.
    fn make(self, folder: &Path) -> PathBuf {
        let format = self.format();
        let path = folder.join(format!("disk.{format}"));
        let mut new = NewImage::new(format, SIZE);
        new.set_list(match self {
            Self::Vhd | Self::VhdChild => "block_size=512k",
            Self::Vhdx | Self::VhdxChild => "block_size=1M",
            Self::Vmdk => "",
            Self::Stream => "subformat=monolithicSparse",
        })
        .unwrap();
        if matches!(self, Self::VhdChild | Self::VhdxChild) {
            let parent = folder.join(format!("parent.{format}"));
            create(&parent, &new, false).unwrap();
            write(&parent, &[(0, 9), (4 * MIB, 8)], 1);
            let list = if format == Format::Vhd { "block_size=512k" } else { "block_size=1M" };
            let (options, list) = (OpenOptions::new(), [list.to_owned()]);
            create_child(&path, format, &parent, &options, &list, false).unwrap();
        } else {
            create(&path, &new, false).unwrap();
        }
        write(&path, &[(100, 3), (3 * MIB, 700), (7 * MIB + 5, 2), (SIZE - 70_000, 130)], 2);
        if self == Self::Stream {
            let whole = folder.join("whole.vmdk");
            std::fs::rename(&path, &whole).unwrap();
            let mut new = NewImage::new(Format::Vmdk, SIZE);
            new.set_list("subformat=streamOptimized").unwrap();
            common::convert(&Image::open(&whole).unwrap(), &path, &new).unwrap();
            std::fs::remove_file(&whole).unwrap();
        }
        path
    }
}

/// Writes runs of random sectors: from which byte, how many.
fn write(path: &Path, runs: &[(u64, usize)], seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut image = OpenOptions::new().open_rw(path).unwrap();
    for (at, sectors) in runs {
        let bytes: Vec<u8> = (0..sectors * 512).map(|_| rng.u8(1..)).collect();
        image.write_at(&bytes, *at).unwrap();
    }
    image.close().unwrap();
}

/// One way to damage an image.
struct Case {
    code: &'static str,
    base: Base,
    damage: fn(&mut Vec<u8>),
}

const fn case(code: &'static str, base: Base, damage: fn(&mut Vec<u8>)) -> Case {
    Case { code, base, damage }
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn le32(bytes: &[u8], at: usize) -> u32 {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap())
}

fn le64(bytes: &[u8], at: usize) -> u64 {
    u64::from_le_bytes(bytes[at..at + 8].try_into().unwrap())
}

fn put(bytes: &mut [u8], at: usize, new: &[u8]) {
    bytes[at..at + new.len()].copy_from_slice(new);
}

/// Sums a VHD footer anew.
fn seal_footer(bytes: &mut [u8], at: usize) {
    put(bytes, at + 64, &[0; 4]);
    let sum: u32 = bytes[at..at + 512].iter().map(|byte| u32::from(*byte)).sum();
    put(bytes, at + 64, &(!sum).to_be_bytes());
}

/// The VHD block table entries that name a block, as (place of the entry, sector), by sector.
fn vhd_blocks(bytes: &[u8]) -> Vec<(usize, u32)> {
    let table = 1536;
    let entries = (0..32).map(|n| table + n * 4).map(|at| (at, be32(bytes, at)));
    let mut blocks: Vec<_> = entries.filter(|(_, sector)| *sector != u32::MAX).collect();
    blocks.sort_by_key(|(_, sector)| *sector);
    blocks
}

/// The place of the VHDX table, and its entries that name a block, by place.
fn vhdx_blocks(bytes: &[u8]) -> (usize, Vec<(usize, u64)>) {
    const BAT: u128 = 0x2dc2_7766_f623_4200_9d64_115e_9bfd_4a08;
    let region = (0..2).map(|n| 192 * 1024 + 16 + n * 32).find(|at| {
        let guid: [u8; 16] = bytes[*at..at + 16].try_into().unwrap();
        let (a, b, c) = (le32(&guid, 0), &guid[4..6], &guid[6..8]);
        a == (BAT >> 96) as u32 && (b, c) == (&[0x23, 0xf6], &[0x00, 0x42])
    });
    let table = le64(bytes, region.unwrap() + 16) as usize;
    let entries = (0..17).map(|n| table + n * 8).map(|at| (at, le64(bytes, at)));
    let mut blocks: Vec<_> = entries.filter(|(_, raw)| raw & 7 >= 6).collect();
    blocks.sort_by_key(|(_, raw)| *raw);
    (table, blocks)
}

fn vhdx_metadata(bytes: &[u8]) -> usize {
    (MIB as usize..bytes.len())
        .step_by(MIB as usize)
        .find(|at| bytes[*at..].starts_with(b"metadata"))
        .unwrap()
}

/// Sums a VHDX header or region table anew.
fn seal_crc(bytes: &mut [u8], at: usize, len: usize) {
    put(bytes, at + 4, &[0; 4]);
    let mut crc = u32::MAX;
    for byte in &bytes[at..at + len] {
        crc ^= u32::from(*byte);
        for _ in 0..8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ 0x82F6_3B78 } else { crc >> 1 };
        }
    }
    put(bytes, at + 4, &(!crc).to_le_bytes());
}

/// Where the two grain tables of the VMDK stand (the disk has one), the redundant one first.
fn vmdk_tables(bytes: &[u8]) -> [usize; 2] {
    [48, 56].map(|field| {
        let directory = le64(bytes, field) as usize * 512;
        le32(bytes, directory) as usize * 512
    })
}

/// The slots of the grains there are, by place.
fn grains(bytes: &[u8]) -> Vec<usize> {
    let [_, table] = vmdk_tables(bytes);
    let mut slots: Vec<usize> = (0..512).filter(|n| le32(bytes, table + n * 4) > 1).collect();
    slots.sort_by_key(|n| le32(bytes, table + n * 4));
    slots
}

fn tail(bytes: &[u8]) -> usize {
    bytes.len() - 512
}

const MENDED: &[Case] = &[
    case("vhd-footer-missing", Base::Vhd, |b| b.truncate(b.len() - 512)),
    case("vhd-footer-missing", Base::Vhd, |b| b.truncate(b.len() - 100)),
    case("vhd-footer-missing", Base::VhdChild, |b| {
        let at = tail(b);
        b[at..].fill(0);
    }),
    case("vhd-footer-checksum", Base::Vhd, |b| {
        let at = tail(b) + 200;
        b[at] ^= 1;
    }),
    case("vhd-footer-copy-missing", Base::Vhd, |b| b[..512].fill(0)),
    case("vhd-footer-copy-checksum", Base::VhdChild, |b| b[60] ^= 0x10),
    case("vhd-footer-copies-differ", Base::Vhd, |b| {
        b[24] ^= 1;
        seal_footer(b, 0);
    }),
    case("vhd-header-checksum", Base::Vhd, |b| b[512 + 37] ^= 4),
    case("vhd-orphan-space", Base::Vhd, |b| {
        let (at, _) = vhd_blocks(b)[1];
        put(b, at, &[0xFF; 4]);
    }),
    case("vhd-orphan-space", Base::VhdChild, |b| {
        let (at, _) = *vhd_blocks(b).last().unwrap();
        put(b, at, &[0xFF; 4]);
    }),
    case("vhd-block-beyond-disk", Base::Vhd, |b| {
        for at in [0, tail(b)] {
            // Both sizes: libvhdi goes by the original one.
            put(b, at + 40, &(SIZE - MIB / 2).to_be_bytes());
            put(b, at + 48, &(SIZE - MIB / 2).to_be_bytes());
            seal_footer(b, at);
        }
    }),
    case("vhdx-header-invalid", Base::Vhdx, |b| b[64 * 1024 + 9] ^= 1),
    case("vhdx-header-invalid", Base::VhdxChild, |b| b[128 * 1024..132 * 1024].fill(0)),
    case("vhdx-header-stale", Base::Vhdx, |b| {
        let older = [64 * 1024, 128 * 1024].into_iter().min_by_key(|at| le64(b, at + 8)).unwrap();
        b[older + 32] ^= 1;
        seal_crc(b, older, 4096);
    }),
    case("vhdx-region-table-invalid", Base::Vhdx, |b| b[192 * 1024 + 20] ^= 1),
    case("vhdx-region-table-invalid", Base::VhdxChild, |b| b[256 * 1024..320 * 1024].fill(0xAA)),
    case("vhdx-region-tables-differ", Base::Vhdx, |b| {
        b[256 * 1024 + 16 + 28] ^= 1;
        seal_crc(b, 256 * 1024, 65536);
    }),
    case("vhdx-metadata-flags", Base::Vhdx, |b| {
        let at = vhdx_metadata(b) + 32 + 24;
        b[at] ^= 2;
    }),
    case("vhdx-bat-offset-kept", Base::Vhdx, |b| {
        let (table, _) = vhdx_blocks(b);
        put(b, table + 8, &((1 << 30) + 2u64).to_le_bytes());
    }),
    case("vhdx-space-leaked", Base::Vhdx, |b| {
        let (_, blocks) = vhdx_blocks(b);
        put(b, blocks[1].0, &[0; 8]);
    }),
    case("vhdx-space-leaked", Base::Vhdx, |b| {
        let (_, blocks) = vhdx_blocks(b);
        put(b, blocks.last().unwrap().0, &[0; 8]);
    }),
    case("vmdk-unclean-shutdown", Base::Vmdk, |b| b[72] = 1),
    case("vmdk-rgd-stale", Base::Vmdk, |b| {
        let (slot, [copy, _]) = (grains(b)[1], vmdk_tables(b));
        put(b, copy + slot * 4, &[0; 4]);
    }),
    case("vmdk-rgd-differs", Base::Vmdk, |b| {
        let (slot, [copy, _]) = (grains(b)[1], vmdk_tables(b));
        put(b, copy + slot * 4, &[0xFF; 4]);
    }),
    case("vmdk-grain-past-end", Base::Vmdk, |b| {
        let (slot, [_, table]) = (grains(b)[1], vmdk_tables(b));
        put(b, table + slot * 4, &[0xFF; 4]);
    }),
    case("vmdk-grain-in-metadata", Base::Vmdk, |b| {
        let (slot, [_, table]) = (grains(b)[0], vmdk_tables(b));
        put(b, table + slot * 4, &[1, 0, 0, 0]);
    }),
    case("vmdk-grain-leaked", Base::Vmdk, |b| {
        let slot = grains(b)[1];
        vmdk_tables(b).iter().for_each(|table| put(b, table + slot * 4, &[0; 4]));
    }),
    case("vmdk-grain-leaked", Base::Vmdk, |b| {
        let slot = *grains(b).last().unwrap();
        vmdk_tables(b).iter().for_each(|table| put(b, table + slot * 4, &[0; 4]));
    }),
    case("vmdk-stream-footer-place", Base::Stream, |b| b.resize(b.len() + 1536, 0)),
];

/// Damage that has no one right answer: the image stays as it is, to the byte.
const LEFT: &[Case] = &[
    case("vhd-block-overlap", Base::Vhd, |b| {
        let blocks = vhd_blocks(b);
        put(b, blocks[1].0, &blocks[0].1.to_be_bytes());
    }),
    case("vhd-block-outside", Base::Vhd, |b| {
        let (at, _) = vhd_blocks(b)[1];
        put(b, at, &[0x10, 0, 0, 0]);
    }),
    case("vhd-block-in-metadata", Base::VhdChild, |b| {
        let (at, _) = vhd_blocks(b)[1];
        put(b, at, &[0; 4]);
    }),
    case("vhd-header-checksum", Base::VhdChild, |b| b[512 + 37] ^= 4),
    // The header may have lost more than its checksum.
    case("vhd-header-checksum", Base::Vhd, |b| b[512 + 45] ^= 4),
    case("image-does-not-open", Base::Vhd, |b| {
        let at = tail(b);
        b[at + 200] ^= 1;
        b[200] ^= 1;
    }),
    case("vhdx-block-overlap", Base::Vhdx, |b| {
        let (_, blocks) = vhdx_blocks(b);
        put(b, blocks[1].0, &blocks[0].1.to_le_bytes());
    }),
    case("vhdx-block-misplaced", Base::Vhdx, |b| {
        let (_, blocks) = vhdx_blocks(b);
        put(b, blocks[1].0, &(MIB + 6).to_le_bytes());
    }),
    case("vhdx-block-outside-file", Base::Vhdx, |b| {
        let (_, blocks) = vhdx_blocks(b);
        put(b, blocks[1].0, &((1 << 30) + 6u64).to_le_bytes());
    }),
    case("vhdx-bat-entry", Base::Vhdx, |b| {
        let (_, blocks) = vhdx_blocks(b);
        b[blocks[1].0] ^= 3;
    }),
    case("image-does-not-open", Base::Vhdx, |b| {
        // A log that is named, and of which nothing is there.
        for at in [64 * 1024, 128 * 1024] {
            b[at + 48] = 7;
            seal_crc(b, at, 4096);
        }
    }),
    case("vmdk-grain-overlap", Base::Vmdk, |b| {
        let (slots, tables) = (grains(b), vmdk_tables(b));
        for table in tables {
            let first = le32(b, table + slots[0] * 4).to_le_bytes();
            put(b, table + slots[1] * 4, &first);
        }
    }),
    case("vmdk-rgd-differs", Base::Vmdk, |b| {
        let (slots, [copy, _]) = (grains(b), vmdk_tables(b));
        let first = le32(b, copy + slots[0] * 4).to_le_bytes();
        put(b, copy + slots[1] * 4, &first);
    }),
    case("vmdk-grain-past-end", Base::Vmdk, |b| {
        let slot = grains(b)[1];
        vmdk_tables(b).iter().for_each(|table| put(b, table + slot * 4, &[0xFF; 4]));
    }),
    // The table that counts is empty, and the copy is not: which is right cannot be told.
    case("vmdk-rgd-ahead", Base::Vmdk, |b| {
        let [_, table] = vmdk_tables(b);
        b[table..table + 2048].fill(0);
    }),
    case("vmdk-rgd-ahead", Base::Vmdk, |b| {
        let [_, table] = vmdk_tables(b);
        b[table..table + 2048].fill(0);
        b[72] = 1;
    }),
];

fn has(report: &CheckReport, code: &str) -> bool {
    report.findings.iter().any(|finding| finding.code == code)
}

/// What of the disk can be read, in pieces of 4 KiB.
fn readable(path: &Path) -> Option<Vec<Option<Vec<u8>>>> {
    let image = Image::open(path).ok()?;
    let read = |at: u64| {
        let mut piece = vec![0; (image.len() - at).min(4096) as usize];
        image.read_at(&mut piece, at).ok().map(|()| piece)
    };
    Some((0..image.len()).step_by(4096).map(read).collect())
}

/// Asserts that all that `before` could read reads the same in `after`.
fn assert_no_worse(before: &Path, after: &Path, context: &str) {
    let (Some(old), new) = (readable(before), readable(after)) else { return };
    let new = new.unwrap_or_else(|| panic!("{context}: it does not open any more"));
    assert_eq!(old.len(), new.len(), "{context}");
    for (number, (old, new)) in old.iter().zip(&new).enumerate() {
        assert!(old.is_none() || old == new, "{context}: piece {number}");
    }
}

#[test]
fn what_has_one_right_answer_is_mended_and_can_be_undone() {
    for (number, Case { code, base, damage }) in MENDED.iter().enumerate() {
        let context = format!("{number}: {code} of {base:?}");
        let folder = tempfile::tempdir().unwrap();
        let path = base.make(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let names = names_in(folder.path());
        let options = OpenOptions::new();
        let before = check(&path, &options).unwrap();
        assert!(has(&before, code), "{context}: {:?}", before.findings);

        let dry = repair(&path, &options, RepairRequest { dry_run: true, ..ALL }).unwrap();
        assert!(std::fs::read(&path).unwrap() == bytes, "{context}: a dry run changed it");
        assert_eq!(names_in(folder.path()), names, "{context}");
        assert_eq!((dry.corruptions, dry.leaks), (before.corruptions, before.leaks), "{context}");
        let planned = dry.repairs.unwrap();
        assert!(planned.iter().any(|mend| is_for(mend.code, code)), "{context}: {planned:?}");

        let copy = folder.path().join("damaged");
        std::fs::copy(&path, &copy).unwrap();
        let after = repair(&path, &options, ALL).unwrap();
        assert_eq!((after.corruptions, after.leaks), (0, 0), "{context}: {:?}", after.findings);
        assert!(!has(&after, code), "{context}: {:?}", after.findings);
        assert_eq!(after.repaired as usize, planned.len(), "{context}");
        assert_no_worse(&copy, &path, &context);
        judge(*base, &path, &context);
        let again = repair(&path, &options, ALL).unwrap();
        assert_eq!((again.repaired, again.backup), (0, None), "{context}: {:?}", again.repairs);

        let side = PathBuf::from(after.backup.unwrap());
        let mended = std::fs::read(&path).unwrap();
        undo_repair(&path, &side, &options, true).unwrap();
        assert!(std::fs::read(&path).unwrap() == mended, "{context}");
        let (pieces, _) = undo_repair(&path, &side, &options, false).unwrap();
        assert!(pieces > 0 || bytes.len() != mended.len(), "{context}");
        assert!(std::fs::read(&path).unwrap() == bytes, "{context}: the way back");
    }
}

/// Whether the mend of one code takes the finding of another away.
fn is_for(mend: &str, finding: &str) -> bool {
    mend == finding
        || matches!(
            (mend, finding),
            ("vmdk-rgd-stale", "vmdk-rgd-differs")
                | ("vmdk-grain-past-end", "vmdk-grain-in-metadata")
        )
}

/// Others agree that the image is sound and what it holds.
fn judge(base: Base, path: &Path, context: &str) {
    let format = qemu_format(base.format());
    let child = matches!(base, Base::VhdChild | Base::VhdxChild);
    let content = bytes_of(&Image::open(path).unwrap());
    if !child && Tool::Qemu.there() {
        let raw = path.with_extension("raw");
        std::fs::write(&raw, &content).unwrap();
        qemu::assert_reads(path, format, &raw, context);
        std::fs::remove_file(&raw).unwrap();
        if base.format() != Format::Vhd {
            qemu::assert_clean(path, format, context);
        }
    }
    let digest = sha256(&content);
    if !child && base.format() == Format::Vmdk && Tool::Libvmdk.there() {
        assert_eq!(libvmdk_digest(&[path]), digest, "{context}: libvmdk");
    }
    if base.format() != Format::Vmdk && Tool::Libvhdi.there() {
        let parent = path.with_file_name(format!("parent.{}", base.format()));
        let chain = [parent.as_path(), path];
        let found = libvhdi_digest(if child { &chain } else { &chain[1..] });
        assert_eq!(found, digest, "{context}: libvhdi");
    }
    if base == Base::VhdxChild && Tool::Dissect.there() {
        assert_eq!(dissect_digest("vhdx.VHDX", path), digest, "{context}: dissect");
    }
}

#[test]
fn what_has_no_one_answer_is_told_and_left() {
    for (number, Case { code, base, damage }) in LEFT.iter().enumerate() {
        let context = format!("{number}: {code} of {base:?}");
        let folder = tempfile::tempdir().unwrap();
        let path = base.make(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let names = names_in(folder.path());
        for request in [LEAKS, ALL] {
            let report = repair(&path, &OpenOptions::new(), request).unwrap();
            assert!(has(&report, code), "{context}: {:?}", report.findings);
            assert_eq!(report.repaired, 0, "{context}: {:?}", report.repairs);
            assert!(std::fs::read(&path).unwrap() == bytes, "{context}");
            assert_eq!(names_in(folder.path()), names, "{context}");
        }
    }
}

#[test]
fn leaks_alone_are_given_back_and_the_file_shrinks() {
    for Case { code, base, damage } in
        MENDED.iter().filter(|c| c.code.ends_with("leaked") || c.code.contains("orphan"))
    {
        let context = format!("{code} of {base:?}");
        let folder = tempfile::tempdir().unwrap();
        let path = base.make(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        std::fs::write(&path, &bytes).unwrap();
        let allocated = |path: &Path| {
            use std::os::unix::fs::MetadataExt;
            path.metadata().unwrap().blocks()
        };
        let (content, took) = (bytes_of(&Image::open(&path).unwrap()), allocated(&path));
        let report =
            repair(&path, &OpenOptions::new(), RepairRequest { backup: false, ..LEAKS }).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{context}: {:?}", report.findings);
        assert_eq!(report.backup, None);
        assert!(allocated(&path) < took, "{context}: {took} before, {} after", allocated(&path));
        assert!(bytes_of(&Image::open(&path).unwrap()) == content, "{context}");
    }
}

#[test]
fn a_waiting_log_is_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let path = Base::Vhdx.make(folder.path());
    let mut image = OpenOptions::new().open_rw(&path).unwrap();
    image.write_at(&[7; 70_000], 5 * MIB).unwrap();
    image.flush().unwrap();
    drop(image);
    let content = bytes_of(&Image::open(&path).unwrap());
    let report = check(&path, &OpenOptions::new()).unwrap();
    assert!(has(&report, "vhdx-log-dirty"), "{:?}", report.findings);
    let report = repair(&path, &OpenOptions::new(), LEAKS).unwrap();
    assert!(!has(&report, "vhdx-log-dirty"), "{:?}", report.findings);
    assert!(bytes_of(&Image::open(&path).unwrap()) == content);
    judge(Base::Vhdx, &path, "replayed");
}

#[test]
fn a_child_is_mended_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = Base::VhdChild.make(folder.path());
    let parent = folder.path().join("parent.vhd");
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    // The parent is damaged too, and stays so.
    let mut parent_bytes = std::fs::read(&parent).unwrap();
    parent_bytes[61] ^= 1;
    std::fs::write(&parent, &parent_bytes).unwrap();
    let report = repair(&path, &OpenOptions::new(), ALL).unwrap();
    assert_eq!((report.corruptions, report.repaired), (0, 1), "{:?}", report.findings);
    assert!(std::fs::read(&parent).unwrap() == parent_bytes);
    // A link that is broken is told, and is not guessed.
    std::fs::remove_file(&parent).unwrap();
    let report = repair(&path, &OpenOptions::new(), ALL).unwrap();
    assert!(has(&report, "parent-missing") && report.repaired == 0, "{:?}", report.findings);
}

#[test]
fn extents_of_their_own_are_mended_and_put_back() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("split.vmdk");
    let mut new = NewImage::new(Format::Vmdk, SIZE);
    new.set_list("subformat=twoGbMaxExtentSparse").unwrap();
    create(&path, &new, false).unwrap();
    write(&path, &[(0, 300), (9 * MIB, 20)], 5);
    let extent = folder.path().join("split-s001.vmdk");
    let mut bytes = std::fs::read(&extent).unwrap();
    let slot = grains(&bytes)[0];
    let [copy, _] = vmdk_tables(&bytes);
    put(&mut bytes, copy + slot * 4, &[0; 4]);
    std::fs::write(&extent, &bytes).unwrap();
    let report = repair(&path, &OpenOptions::new(), ALL).unwrap();
    assert_eq!(report.repaired, 1, "{:?}", report.findings);
    assert!(std::fs::read(&extent).unwrap() != bytes);
    let side = PathBuf::from(report.backup.unwrap());
    undo_repair(&path, &side, &OpenOptions::new(), false).unwrap();
    assert!(std::fs::read(&extent).unwrap() == bytes);
}

/// A disk of three tables, and directory entries of either copy that lead wherever they like: to
/// where they belong where that is certain, and never are the guest's bytes taken for a table.
#[test]
fn directory_entries_are_mended_where_their_place_is_known() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vmdk");
    create(&path, &NewImage::new(Format::Vmdk, 80 * MIB), false).unwrap();
    write(&path, &[(0, 200), (33 * MIB, 300), (70 * MIB, 10)], 3);
    let sound = std::fs::read(&path).unwrap();
    let content = bytes_of(&Image::open(&path).unwrap());
    let directories = [48, 56].map(|field| le64(&sound, field) as usize * 512);
    let [first, others] = [directories[0], directories[1]].map(|at| le32(&sound, at));
    let grain = le32(&sound, others as usize * 512);
    let copy = folder.path().join("copy");
    for (number, directory) in directories.into_iter().enumerate() {
        for wrong in [u32::MAX, 0x0100_0000, 0, 1, grain, first, others, first + 1, others + 3] {
            for index in 0..3 {
                let context = format!("entry {index} of directory {number} is {wrong}");
                let mut bytes = sound.clone();
                put(&mut bytes, directory + index * 4, &wrong.to_le_bytes());
                std::fs::write(&path, &bytes).unwrap();
                std::fs::write(&copy, &bytes).unwrap();
                let report =
                    repair(&path, &OpenOptions::new(), RepairRequest { backup: false, ..ALL })
                        .unwrap_or_else(|e| panic!("{context}: {e}"));
                assert_no_worse(&copy, &path, &context);
                if [u32::MAX, 0x0100_0000].contains(&wrong) {
                    assert_eq!(
                        (report.corruptions, report.repaired),
                        (0, 1),
                        "{context}: {:?}",
                        report.findings
                    );
                    assert!(std::fs::read(&path).unwrap() == sound, "{context}");
                    assert!(bytes_of(&Image::open(&path).unwrap()) == content, "{context}");
                }
            }
        }
    }
}

#[test]
fn a_way_back_that_is_no_more_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = Base::Vhd.make(folder.path());
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[60] ^= 1;
    std::fs::write(&path, &bytes).unwrap();
    let options = OpenOptions::new();
    let report = repair(&path, &options, ALL).unwrap();
    let side = PathBuf::from(report.backup.unwrap());
    let mended = std::fs::read(&path).unwrap();
    let refused = |what: &str| -> Error {
        let error = undo_repair(&path, &side, &options, false).expect_err(what);
        assert!(std::fs::read(&path).unwrap().len() >= mended.len(), "{what}");
        error
    };
    // The image went on: other bytes in place, another length.
    let mut later = mended.clone();
    later[100] ^= 1;
    std::fs::write(&path, &later).unwrap();
    assert!(refused("changed").to_string().contains("changed after"));
    std::fs::write(&path, [&mended[..], &[0; 512]].concat()).unwrap();
    assert!(refused("longer").to_string().contains("changed after"));
    // The side file is damaged, in its text or in its bytes, or is something else.
    std::fs::write(&path, &mended).unwrap();
    let saved = std::fs::read(&side).unwrap();
    for at in (0..saved.len()).step_by(97).filter(|at| *at < 600 || *at > 4096) {
        let mut damaged = saved.clone();
        damaged[at] ^= 1;
        std::fs::write(&side, &damaged).unwrap();
        let done = undo_repair(&path, &side, &options, false);
        // Between the text and the bytes, and behind them, nothing counts.
        assert!(done.is_err() || std::fs::read(&path).unwrap() == bytes, "byte {at}");
        std::fs::write(&path, &mended).unwrap();
    }
    for nonsense in [&b""[..], b"vdisk repair 1\n", b"\nsum ", &saved[..200]] {
        std::fs::write(&side, nonsense).unwrap();
        refused("nonsense");
    }
    // Cut off half way and run again.
    std::fs::write(&side, &saved).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    undo_repair(&path, &side, &options, false).unwrap();
    assert!(std::fs::read(&path).unwrap() == bytes);
}

/// A power cut at any point of a repair: the image opens, reads as before, and the next run
/// finishes.
#[test]
fn a_repair_that_is_cut_off_leaves_an_image_that_opens() {
    for (number, Case { code, base, damage }) in MENDED.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let path = base.make(folder.path());
        let mut bytes = std::fs::read(&path).unwrap();
        damage(&mut bytes);
        let damaged = Arc::new(MemStore::from_bytes("disk", &bytes));
        let Ok(before) = contents(*base, damaged.clone()) else {
            panic!("{code}: such damage is mended only where the image opens")
        };
        let changes = mend(*base, damaged);
        for cut in 0..=changes.len() {
            let mut rng = fastrand::Rng::with_seed(cut as u64);
            let synced = changes[..cut].iter().rposition(|change| *change == Change::Sync);
            let store = MemStore::from_bytes("disk", &bytes);
            for (index, change) in changes[..cut].iter().enumerate() {
                if synced.is_some_and(|synced| index < synced) || rng.bool() {
                    torn(change, &mut rng).apply(&store).unwrap();
                }
            }
            let context =
                format!("{number}: {code} of {base:?}, cut at {cut} of {}", changes.len());
            let store: Arc<MemStore> = Arc::new(store);
            let found = contents(*base, store.clone()).unwrap_or_else(|e| panic!("{context}: {e}"));
            for (number, (old, new)) in before.iter().zip(&found).enumerate() {
                assert!(old.is_none() || old == new, "{context}: piece {number}");
            }
            // The next run ends like one that was not cut off.
            for change in mend(*base, store.clone()) {
                change.apply(&*store).unwrap();
            }
            let mut findings = Findings::new();
            open_layer(*base, store).unwrap().check(&mut findings).unwrap();
            let bad = |severity| findings.count(severity) > 0;
            assert!(!bad(Severity::Corruption) && !bad(Severity::Leak), "{context}: {findings:?}");
        }
    }
}

/// A change as a power cut may leave it: sectors of a write may arrive apart.
fn torn(change: &Change, rng: &mut fastrand::Rng) -> Change {
    match change {
        Change::Write { at, bytes } if rng.bool() => {
            // Up to the end of a sector of the file.
            let end = (at + rng.u64(0..=bytes.len() as u64)).next_multiple_of(512);
            let len = ((end - at) as usize).min(bytes.len());
            Change::Write { at: *at, bytes: bytes[..len].into() }
        }
        Change::Zero(range) if rng.bool() => {
            Change::Zero(range.start..range.end.min(range.start + 512))
        }
        whole => whole.clone(),
    }
}

fn open_layer(base: Base, store: Arc<MemStore>) -> vdisk::Result<Box<dyn Layer>> {
    Ok(match base.format() {
        Format::Vhd => Box::new(vdisk_vhd::open(store, &vdisk_vhd::OpenOptions::default())?),
        Format::Vhdx => Box::new(vdisk_vhdx::open(store, &vdisk_vhdx::OpenOptions::default())?),
        _ => {
            let options = vdisk_vmdk::OpenOptions::default();
            Box::new(vdisk_vmdk::open(store, &MemFiles::new("none"), &options)?)
        }
    })
}

/// What can be read, in pieces of 64 KiB, the parent's bytes as zeros.
fn contents(base: Base, store: Arc<MemStore>) -> vdisk::Result<Vec<Option<Vec<u8>>>> {
    let layer = open_layer(base, store)?;
    let size = layer.info().virtual_size;
    let pieces = (0..size).step_by(65536).map(|at| {
        let mut piece = vec![0; (size - at).min(65536) as usize];
        vdisk_core::layer::read(&*layer, &ZeroDisk(0), &mut piece, at).ok().map(|()| piece)
    });
    Ok(pieces.collect())
}

/// What a repair would change.
fn mend(base: Base, store: Arc<MemStore>) -> Vec<Change> {
    let recorder = Arc::new(Recorder::new(store).unwrap());
    let (store, files): (Arc<dyn Store>, _) = (recorder.clone(), MemFiles::new("none"));
    let mends = &mut Mends::new();
    match base.format() {
        Format::Vhd => {
            vdisk_vhd::mend(&store, Scope::All, mends).unwrap();
            vdisk_vhd::reclaim(&store, mends).unwrap();
        }
        Format::Vhdx => {
            vdisk_vhdx::mend(&store, Scope::All, mends).unwrap();
            vdisk_vhdx::reclaim(&store, mends).unwrap();
        }
        _ => {
            vdisk_vmdk::mend(&store, &files, Scope::All, mends).unwrap();
            vdisk_vmdk::reclaim(&store, &files, mends).unwrap();
        }
    }
    recorder.changes()
}

/// Chance damage to the structures: mending never fails for a fault of its own, never makes worse
/// what could be read, and can be undone.
#[test]
fn chance_damage_never_gets_worse() {
    let bases = [Base::Vhd, Base::VhdChild, Base::Vhdx, Base::Vmdk, Base::Stream];
    for base in bases {
        let folder = tempfile::tempdir().unwrap();
        let path = base.make(folder.path());
        let sound = std::fs::read(&path).unwrap();
        for seed in 0..40 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let context = format!("{base:?}, seed {seed}");
            let mut bytes = sound.clone();
            let at = interesting(&bytes, &mut rng);
            let len = *rng.choice(&[1, 4, 8, 16, 512, 4096]).unwrap();
            let end = (at + len).min(bytes.len());
            match rng.u32(0..4) {
                0 => bytes[at..end].fill(0),
                1 => bytes[at..end].fill(0xFF),
                2 => bytes[at] ^= 1 << rng.u32(0..8),
                _ => rng.fill(&mut bytes[at..end]),
            }
            std::fs::write(&path, &bytes).unwrap();
            let copy = folder.path().join("damaged");
            std::fs::write(&copy, &bytes).unwrap();
            let format = OpenOptions::new().format(base.format());
            let backup = match repair(&path, &format, ALL) {
                Ok(report) => report.backup,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Unsupported, "{context}: {error}");
                    None
                }
            };
            let Some(side) = backup else {
                assert!(std::fs::read(&path).unwrap() == bytes, "{context}");
                continue;
            };
            assert_no_worse(&copy, &path, &context);
            undo_repair(&path, Path::new(&side), &format, false).unwrap();
            assert!(std::fs::read(&path).unwrap() == bytes, "{context}");
            std::fs::remove_file(&side).unwrap();
        }
    }
}

/// A byte in one of the image's structures.
fn interesting(bytes: &[u8], rng: &mut fastrand::Rng) -> usize {
    let starts: Vec<usize> = match &bytes[..8] {
        b"vhdxfile" => {
            let (table, _) = vhdx_blocks(bytes);
            let metadata = vhdx_metadata(bytes);
            vec![0, 65536, 131_072, 196_608, 262_144, table, metadata, metadata + 65536]
        }
        b"conectix" => vec![0, 512, 1024, 1536, 2048, 2560, tail(bytes)],
        _ if le64(bytes, 56) == u64::MAX => vec![0, 512, 65536, bytes.len() - 4096, tail(bytes)],
        _ => {
            let [copy, table] = vmdk_tables(bytes);
            let directory = le64(bytes, 56) as usize * 512;
            vec![0, 512, copy, table, directory, le64(bytes, 48) as usize * 512]
        }
    };
    let start = *rng.choice(&starts).unwrap();
    let reach = *rng.choice(&[16, 128, 512]).unwrap();
    (start + rng.usize(0..reach)).min(bytes.len() - 1)
}

/// Whoever meets a code finds it in the table.
#[test]
fn every_code_is_explained() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let table = std::fs::read_to_string(root.join("docs/check.md")).unwrap();
    let starts = ["vhd-", "vhdx-", "vmdk-", "parent-", "image-"];
    let mut codes = 0;
    for file in [
        "vhd/src/check.rs",
        "vhd/src/repair.rs",
        "vhdx/src/check.rs",
        "vhdx/src/repair.rs",
        "vmdk/src/check.rs",
        "vmdk/src/check_grains.rs",
        "vmdk/src/check_stream.rs",
        "vmdk/src/repair.rs",
        "image/src/check.rs",
    ] {
        let source = std::fs::read_to_string(root.join(file)).unwrap();
        for word in source.split('"').skip(1).step_by(2) {
            let plain = word.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'-');
            if plain && starts.iter().any(|start| word.starts_with(start)) {
                codes += 1;
                assert!(table.contains(&format!("`{word}`")), "{file}: {word}");
            }
        }
    }
    assert!(codes > 80, "{codes}");
}
