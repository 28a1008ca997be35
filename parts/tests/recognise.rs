//! Volumes made by programs that are not ours, and by hand where no program is at hand, as blkid
//! tells them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::Path;
use std::process::Command;

use common::{blank, open, there};
use vdisk_core::Disk;
use vdisk_parts::{Volume, VolumeKind, recognise};
use vdisk_testkit::VecDisk;
use vdisk_testkit::tools::{arg, must};

const MIB: u64 = 1 << 20;

/// What blkid says: its type (with FAT's and LUKS's version), label, UUID.
#[derive(Debug, PartialEq)]
struct Told {
    kind: String,
    label: Option<String>,
    uuid: Option<String>,
}

fn theirs(path: &Path) -> Told {
    let told = Command::new("blkid").args(["-p", "-o", "export", arg(path)]).output().unwrap();
    let told = String::from_utf8_lossy(&told.stdout).into_owned();
    let field = |name: &str| {
        let found = told.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        // Exported values are quoted for a shell.
        found.map(|value| value.replace('\\', ""))
    };
    let kind = field("TYPE").unwrap_or_else(|| panic!("{}: {told}", path.display()));
    let kind = match kind.as_str() {
        "vfat" => field("VERSION").unwrap(),
        "crypto_LUKS" => format!("LUKS{}", field("VERSION").unwrap()),
        _ => kind,
    };
    Told { kind, label: field("LABEL"), uuid: field("UUID") }
}

fn ours(volume: Volume) -> Told {
    let kind = match volume.kind {
        VolumeKind::Fat12 => "FAT12",
        VolumeKind::Fat16 => "FAT16",
        VolumeKind::Fat32 => "FAT32",
        VolumeKind::Luks1 => "LUKS1",
        VolumeKind::Luks2 => "LUKS2",
        VolumeKind::BitLocker | VolumeKind::BitLockerToGo => "BitLocker",
        VolumeKind::Refs => "ReFS",
        VolumeKind::ExtJournal => "jbd",
        VolumeKind::SwapHibernated => "swsuspend",
        VolumeKind::Lvm2 => "LVM2_member",
        VolumeKind::MdRaid => "linux_raid_member",
        VolumeKind::Zfs => "zfs_member",
        VolumeKind::Vmfs => "VMFS",
        VolumeKind::VmfsMember => "VMFS_volume_member",
        VolumeKind::HfsPlus => "hfsplus",
        known => known.name(),
    };
    Told { kind: kind.into(), label: volume.label, uuid: volume.uuid }
}

#[test]
fn what_mkfs_makes() {
    if !there("blkid", &["blkid"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("files");
    std::fs::create_dir(&dir).unwrap();
    std::fs::write(dir.join("a"), "a").unwrap();
    let dir = arg(&dir);
    // The size in MiB; the command, to which the image's name is added.
    let commands: &[(u64, &[&str])] = &[
        (8, &["mkfs.ntfs", "-q", "-F", "-L", "volume"]),
        (8, &["mkfs.ntfs", "-q", "-F", "-c", "65536", "-s", "4096"]),
        (2, &["mkfs.vfat", "-F", "12", "-n", "SMALL"]),
        (32, &["mkfs.vfat", "-F", "16", "-n", "A LABEL", "-i", "1234abcd"]),
        (40, &["mkfs.vfat", "-F", "32", "-n", "ESP"]),
        (300, &["mkfs.vfat", "-F", "32", "-S", "4096"]),
        (8, &["mkfs.vfat", "--mbr=y"]),
        (8, &["mkfs.exfat", "-L", "eleven char"]),
        (8, &["mkfs.exfat"]),
        (8, &["mkfs.ext2", "-q", "-L", "two"]),
        (8, &["mkfs.ext3", "-q", "-L", "sixteen letters!"]),
        (8, &["mkfs.ext4", "-q", "-L", "four"]),
        (8, &["mke2fs", "-q", "-O", "journal_dev"]),
        (320, &["mkfs.xfs", "-q", "-L", "twelve bytes"]),
        (320, &["mkfs.xfs", "-q", "-f"]),
        (128, &["mkfs.btrfs", "-q", "-L", "a label"]),
        (8, &["mkswap", "-q", "-L", "pages"]),
        (8, &["mkswap", "-q", "-p", "65536"]),
        (
            32,
            &[
                "cryptsetup",
                "-q",
                "luksFormat",
                "--type",
                "luks1",
                "--pbkdf-force-iterations",
                "1000",
                "--key-file",
                "/etc/hostname",
            ],
        ),
        (
            32,
            &[
                "cryptsetup",
                "-q",
                "luksFormat",
                "--type",
                "luks2",
                "--pbkdf",
                "pbkdf2",
                "--pbkdf-force-iterations",
                "1000",
                "--label",
                "secret",
                "--key-file",
                "/etc/hostname",
            ],
        ),
        (0, &["mksquashfs", dir]),
        (0, &["genisoimage", "-quiet", "-V", "A CD", "DIR", "-o"]),
    ];
    for (index, (size, command)) in commands.iter().enumerate() {
        if !there("mkfs", &command[..1]) {
            continue;
        }
        let path = folder.path().join(format!("{index}.img"));
        if *size > 0 {
            blank(folder.path(), &format!("{index}.img"), size * MIB);
        }
        // genisoimage has what it is made from before the option for its output.
        let mut args: Vec<&str> =
            command[1..].iter().map(|part| if *part == "DIR" { dir } else { part }).collect();
        args.push(arg(&path));
        if command[0] == "genisoimage" {
            args = vec!["-quiet", "-V", "A CD", "-o", arg(&path), dir];
        }
        must(command[0], &args);
        let volume = recognise(&*open(&path)).unwrap();
        let volume = volume.unwrap_or_else(|| panic!("{command:?}"));
        let mut told = theirs(&path);
        if volume.kind == VolumeKind::Ntfs {
            // Its label is a file's attribute.
            told.label = None;
        }
        if volume.kind == VolumeKind::Iso9660 {
            // blkid takes the time it was made for a UUID.
            told.uuid = None;
        }
        assert_eq!(ours(volume), told, "{command:?}");
        let table = vdisk_parts::Table::read(&*open(&path), 512).unwrap();
        assert_eq!(table.kind, vdisk_parts::TableKind::None, "{command:?}");
        std::fs::remove_file(&path).unwrap();
    }
}

/// A blank disk with bytes here and there.
fn with(len: u64, pieces: &[(u64, &[u8])]) -> Vec<u8> {
    let mut bytes = vec![0; len as usize];
    for (at, piece) in pieces {
        bytes[*at as usize..*at as usize + piece.len()].copy_from_slice(piece);
    }
    bytes
}

/// What blkid wants more of than the magic number that we make.
const UNJUDGED: [VolumeKind; 5] = [
    VolumeKind::Zfs,
    VolumeKind::BitLocker,
    VolumeKind::BitLockerToGo,
    VolumeKind::HfsPlus,
    VolumeKind::Hfs,
];

/// Bytes and where they stand.
type Pieces = Vec<(u64, Vec<u8>)>;

#[test]
fn what_is_made_by_hand() {
    if !there("blkid", &["blkid"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let id: &[u8] = b"0123456789abcdef";
    let magic = &0xa92b_4efc_u32.to_le_bytes();
    let md = |at: u64| -> Pieces {
        vec![
            (at, magic.to_vec()),
            (at + 4, vec![1]),
            (at + 16, id.to_vec()),
            (at + 32, b"host:0".to_vec()),
            (at + 144, (at / 512).to_le_bytes().to_vec()),
        ]
    };
    let old = 3 * MIB + (1 << 16) * 15;
    let uber: Pieces = (0..8)
        .map(|index| ((128 << 10) + index * 1024, 0x00ba_b10c_u64.to_le_bytes().to_vec()))
        .collect();
    let to_go: &[u8] = b"\x3b\xd6\x67\x49\x29\x2e\xd8\x4a\x83\x99\xf6\xa3\x39\xe3\xd0\x01";
    let bcache: &[u8] = b"\xc6\x85\x73\xf6\x4e\x1a\x45\xca\x82\x65\xf5\x7f\x48\xba\x6d\x81";
    let swap = |mark: &'static [u8]| -> Pieces {
        vec![(1024, vec![1, 0, 0, 0, 99]), (1036, id.to_vec()), (4086, mark.to_vec())]
    };
    let owned = |pieces: &[(u64, &[u8])]| -> Pieces {
        pieces.iter().map(|(at, bytes)| (*at, bytes.to_vec())).collect()
    };
    let cases: Vec<(VolumeKind, Pieces)> = vec![
        (VolumeKind::MdRaid, md(4096)),
        (VolumeKind::MdRaid, md(0)),
        (VolumeKind::MdRaid, md(4 * MIB - 8192)),
        (
            VolumeKind::MdRaid,
            owned(&[(old, magic), (old + 8, &[90]), (old + 20, &id[..4]), (old + 52, &id[4..])]),
        ),
        (VolumeKind::Zfs, uber),
        (VolumeKind::Bcache, owned(&[(4096 + 24, bcache), (4096 + 40, id), (4096 + 8, &[8])])),
        (VolumeKind::SwapHibernated, swap(b"S1SUSPEND\0")),
        (VolumeKind::SwapHibernated, swap(b"S2SUSPEND\0")),
        (VolumeKind::SwapHibernated, swap(b"ULSUSPEND\0")),
        (VolumeKind::SwapHibernated, swap(b"LINHIB0001")),
        (VolumeKind::BitLocker, owned(&[(0, b"\xeb\x58\x90-FVE-FS-"), (510, b"\x55\xaa")])),
        (
            VolumeKind::BitLockerToGo,
            owned(&[(0, b"\xeb\x58\x90MSWIN4.1"), (424, to_go), (510, b"\x55\xaa")]),
        ),
        (VolumeKind::Refs, owned(&[(3, b"ReFS")])),
        (VolumeKind::VmfsMember, owned(&[(MIB, b"\x0d\xd0\x01\xc0")])),
        (VolumeKind::Vmfs, owned(&[(2 * MIB, b"\x5e\xf1\xab\x2f")])),
        (VolumeKind::Ufs, owned(&[(8192 + 0x55c, &0x0001_1954_u32.to_le_bytes())])),
        (VolumeKind::Ufs, owned(&[(65536 + 0x55c, &0x1954_0119_u32.to_le_bytes())])),
        (VolumeKind::HfsPlus, owned(&[(1024, b"H+\0\x04")])),
        (VolumeKind::Hfs, owned(&[(1024, b"BD")])),
    ];
    for (kind, pieces) in cases {
        let pieces: Vec<(u64, &[u8])> = pieces.iter().map(|(at, b)| (*at, &b[..])).collect();
        let bytes = with(4 * MIB, &pieces);
        let path = folder.path().join("hand.img");
        std::fs::write(&path, &bytes).unwrap();
        let volume = recognise(&VecDisk(bytes)).unwrap().unwrap();
        assert_eq!(volume.kind, kind);
        let told = Command::new("blkid").args(["-p", "-o", "export", arg(&path)]).output().unwrap();
        if !String::from_utf8_lossy(&told.stdout).contains("\nTYPE=") {
            assert!(UNJUDGED.contains(&kind), "blkid does not know our {kind}");
            continue;
        }
        let mut told = theirs(&path);
        if volume.uuid.is_none() {
            // What blkid makes up from other fields.
            told.uuid = None;
        }
        assert_eq!(ours(volume), told);
    }
}

#[test]
fn what_is_gone_in_part() {
    let second =
        with(MIB, &[(0x4000, b"SKUL\xba\xbe\0\x02"), (0x4000 + 256, &0x4000_u64.to_be_bytes())]);
    assert_eq!(recognise(&VecDisk(second)).unwrap().unwrap().kind, VolumeKind::Luks2);
    let dynamic = with(MIB, &[(3072, b"PRIVHEAD")]);
    assert_eq!(recognise(&VecDisk(dynamic)).unwrap().unwrap().kind, VolumeKind::Ldm);
}

/// Where they begin, and what a file system has there.
const BEGINNINGS: [(u64, &[u8], VolumeKind); 5] = [
    (0, b"XFSB", VolumeKind::Xfs),
    (0, b"hsqs\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x04", VolumeKind::Squashfs),
    (0x8001, b"CD001", VolumeKind::Iso9660),
    (65536 + 64, b"_BHRfS_M", VolumeKind::Btrfs),
    (8192 + 0x55c, &0x0001_1954_u32.to_le_bytes(), VolumeKind::Ufs),
];
const PAGES: [u64; 5] = [4096, 8192, 16384, 32768, 65536];

/// What a file holds may end in what swap space does: of these ten bytes a file system is none.
#[test]
fn ten_bytes_are_no_swap() {
    for page in PAGES {
        let mark: (u64, &[u8]) = (page - 10, b"SWAPSPACE2");
        assert_eq!(recognise(&VecDisk(with(MIB, &[mark]))).unwrap(), None);
        for mark in [&b"SWAPSPACE2"[..], b"SWAP-SPACE", b"S1SUSPEND"] {
            for (at, magic, kind) in BEGINNINGS {
                let disk = with(MIB, &[(at, magic), (page - 10, mark)]);
                assert_eq!(recognise(&VecDisk(disk)).unwrap().unwrap().kind, kind);
            }
        }
    }
}

/// `mkswap` of BusyBox and toybox leaves what was there before, but for the header.
#[test]
fn swap_with_a_header_is_swap_whatever_was_there_before() {
    for page in PAGES {
        for (mark, kind) in [
            (&b"SWAPSPACE2"[..], VolumeKind::Swap),
            (b"S1SUSPEND", VolumeKind::SwapHibernated),
            (b"\xed\xc3\x02\xe9\x98\x56\xe5\x0c", VolumeKind::SwapHibernated),
        ] {
            let (header, mark) = ((1024, &[1, 0, 0, 0][..]), (page - 10, mark));
            let swap = with(MIB, &[header, mark]);
            assert_eq!(recognise(&VecDisk(swap)).unwrap().unwrap().kind, kind);
            for (at, magic, old) in BEGINNINGS {
                let swap = with(MIB, &[(at, magic), header, mark]);
                assert_eq!(recognise(&VecDisk(swap)).unwrap().unwrap().kind, kind, "{old}");
            }
        }
    }
}

#[test]
fn nothing_is_nothing() {
    for len in [0, 1, 511, 4096, 65536, 1 << 20] {
        assert_eq!(recognise(&VecDisk(vec![0; len])).unwrap(), None);
        assert_eq!(recognise(&VecDisk(vec![0xff; len])).unwrap(), None);
    }
}

#[test]
fn any_bytes_are_looked_at_in_peace() {
    let random = &mut fastrand::Rng::with_seed(7);
    let magics: [(usize, &[u8]); 12] = [
        (3, b"NTFS    "),
        (3, b"EXFAT   "),
        (510, &[0x55, 0xaa]),
        (0, b"LABELONE"),
        (0, b"LUKS\xba\xbe\0\x01"),
        (1080, &[0x53, 0xef]),
        (4096, &[0xfc, 0x4e, 0x2b, 0xa9, 1]),
        (0, &[0xeb, 0x3c, 0x90]),
        (11, &[0, 2, 4, 1, 0, 2]),
        (4086, b"SWAPSPACE2"),
        (0x8001, b"CD001"),
        (0, b"hsqs"),
    ];
    for round in 0..2000 {
        let mut bytes = vec![0; random.usize(0..70_000)];
        for _ in 0..random.usize(0..200) {
            if !bytes.is_empty() {
                let at =
                    random.usize(0..bytes.len().min(if round % 2 == 0 { 600 } else { 70_000 }));
                bytes[at] = random.u8(..);
            }
        }
        let (at, magic) = magics[random.usize(0..magics.len())];
        if let Some(target) = bytes.get_mut(at..at + magic.len()) {
            target.copy_from_slice(magic);
        }
        let disk = VecDisk(bytes);
        let _ = recognise(&disk).unwrap();
        if let Ok(table) = vdisk_parts::Table::read(&disk, 512) {
            assert!(table.partitions.iter().all(|one| one.range().end >= one.start));
        }
        assert!(disk.len() < 70_000);
    }
}
