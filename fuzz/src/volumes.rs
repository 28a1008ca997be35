//! File systems with changes anywhere in what they use.
//!
//! The volumes are made by the programs of the field, without checksums where they can be: so
//! changes reach the code behind them. Btrfs has no such option; there they are put right.
//!
//! ```text
//! byte 0     bit 0: change files too
//! then       changes of 6 bytes: sector in use (2), byte in it (2), kind, value
//! ```

use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, OnceLock};

use vdisk_core::disk::ZeroDisk;
use vdisk_core::{CowDisk, Disk};
use vdisk_guest::fs::{Edit, FileKind, GuestFs, Unix, open, open_mut};
use vdisk_testkit::volumes::{Make, Volume, scattered};

/// A volume, and the sectors of it that hold something.
struct Base {
    disk: Arc<CowDisk>,
    used: Vec<u64>,
}

static NTFS: [OnceLock<Option<Base>>; 4] = [const { OnceLock::new() }; 4];

/// Makes the volumes of NTFS, which takes longer than an input may.
pub fn make_ntfs() {
    (0..NTFS.len()).for_each(|which| _ = ntfs(which));
}

/// NTFS.
pub fn fs_ntfs(input: &[u8]) {
    let which = usize::from(input.first().copied().unwrap_or_default() >> 1) % NTFS.len();
    run(input, ntfs(which), |_, _| ());
}

fn ntfs(which: usize) -> &'static Option<Base> {
    let small = ["-q", "-F", "-p", "0", "-H", "255", "-S", "63", "-c", "512"];
    // In sectors that the crate is not shown.
    let large = ["-q", "-F", "-p", "0", "-H", "255", "-S", "63", "-s", "4096"];
    NTFS[which].get_or_init(|| match which {
        0 => make("mkntfs", &small, 4),
        1 => make("mkntfs", &large, 16),
        2 => made_by(scattered),
        // In clusters that are larger than blocks of directories.
        _ => made_by(|image| {
            let source = tempfile::tempdir().expect("a folder");
            vdisk_testkit::tree::fill(source.path());
            let args = &["-c", "65536"];
            let volume = Volume { tool: Make::Ntfs, kind: "ntfs", mib: 40, args };
            vdisk_testkit::volumes::make(&volume, image, Some(source.path()))
        }),
    })
}

/// ext2 and ext4.
pub fn fs_ext(input: &[u8]) {
    static BASES: [OnceLock<Option<Base>>; 2] = [const { OnceLock::new() }; 2];
    let ext2 = ["-q", "-F", "-t", "ext2", "-b", "1024"];
    let ext4 = ["-q", "-F", "-t", "ext4", "-b", "1024", "-O", "^metadata_csum,inline_data"];
    let second = input.first().is_some_and(|first| first & 2 != 0);
    let base = if second {
        BASES[1].get_or_init(|| make("mke2fs", &ext4, 8))
    } else {
        BASES[0].get_or_init(|| make("mke2fs", &ext2, 2))
    };
    run(input, base, |_, _| ());
}

/// FAT12, FAT16 and FAT32.
pub fn fs_fat(input: &[u8]) {
    static BASES: [OnceLock<Option<Base>>; 3] = [const { OnceLock::new() }; 3];
    let which = usize::from(input.first().copied().unwrap_or_default() >> 1) % 3;
    let base = BASES[which].get_or_init(|| match which {
        0 => make("mkfs.fat", &["-F", "12"], 2),
        1 => make("mkfs.fat", &["-F", "16", "-s", "1"], 4),
        _ => make("mkfs.fat", &["-F", "32", "-s", "1"], 34),
    });
    run(input, base, |_, _| ());
}

/// XFS of version 4.
pub fn fs_xfs(input: &[u8]) {
    static BASE: OnceLock<Option<Base>> = OnceLock::new();
    let args = ["-q", "-f", "-m", "crc=0"];
    run(input, BASE.get_or_init(|| make("mkfs.xfs", &args, 300)), |_, _| ());
}

/// Btrfs.
pub fn fs_btrfs(input: &[u8]) {
    static BASE: OnceLock<Option<Base>> = OnceLock::new();
    run(input, BASE.get_or_init(|| make("mkfs.btrfs", &["-q", "-f"], 110)), seal_btrfs);
}

/// A volume of `mib`, with a few files where they can be written; `None` without the program.
fn make(program: &str, args: &[&str], mib: u64) -> Option<Base> {
    let file = tempfile::NamedTempFile::new().expect("a temporary file");
    file.as_file().set_len(mib << 20).expect("room");
    let done = Command::new(program).args(args).arg(file.path()).output();
    if !done.is_ok_and(|done| done.status.success()) {
        eprintln!("SKIPPED({program}): it does not work here");
        return None;
    }
    let disk = load(file.as_file());
    if let Ok(Some(mut fs)) = open_mut(disk.clone()) {
        let unix = Unix { mode: 0o644, uid: 0, gid: 0 };
        let _ = fs.apply(&Edit::CreateDir { path: b"/folder", unix });
        for number in 0..40u8 {
            let path = format!("/folder/a file with a longer name {number}");
            let content = &vec![number; usize::from(number) * 300];
            let _ = fs.apply(&Edit::Create { path: path.as_bytes(), content, unix });
        }
        let _ = fs.apply(&Edit::Create { path: b"/file", content: &[7; 70_000], unix });
    }
    Some(Base { used: used(&disk), disk })
}

/// A volume that others make and fill; `None` where they cannot.
fn made_by(maker: impl FnOnce(&Path) -> bool) -> Option<Base> {
    // The makers wait until nobody has the image open, and so must we not.
    let folder = tempfile::tempdir().expect("a temporary folder");
    let image = folder.path().join("volume");
    maker(&image).then(|| {
        let disk = load(&std::fs::File::open(&image).expect("it was made"));
        Base { used: used(&disk), disk }
    })
}

fn written(piece: &[u8]) -> bool {
    piece.iter().any(|byte| *byte != 0)
}

/// What is not zero in a file.
fn load(file: &std::fs::File) -> Arc<CowDisk> {
    let len = file.metadata().expect("it was made").len();
    let disk = Arc::new(CowDisk::new(Arc::new(ZeroDisk(len)), 128 << 20));
    // In pieces, since the fuzzer's memory is bounded.
    let mut piece = vec![0; 1 << 16];
    for start in (0..len).step_by(piece.len()) {
        file.read_exact_at(&mut piece, start).expect("it was made");
        for (page, offset) in piece.chunks(4096).zip((start..).step_by(4096)) {
            if written(page) {
                disk.write_at(page, offset).expect("inside");
            }
        }
    }
    disk
}

/// The sectors that hold something, but for content of files that is one byte again and again.
fn used(disk: &CowDisk) -> Vec<u64> {
    disk.changes()
        .expect("memory")
        .iter()
        .flat_map(|change| {
            let sectors = change.bytes.chunks(512).enumerate();
            sectors
                .filter(|(_, sector)| sector.iter().any(|byte| *byte != sector[0]))
                .map(|(number, _)| change.offset + number as u64 * 512)
                .collect::<Vec<_>>()
        })
        .collect()
}

fn run(input: &[u8], base: &Option<Base>, seal: impl Fn(&CowDisk, u64)) {
    let (Some(base), Some((&first, changes))) = (base, input.split_first()) else { return };
    let disk = Arc::new(CowDisk::new(base.disk.clone(), 64 << 20));
    for change in changes.chunks_exact(6).take(64) {
        let &[low, high, byte_low, byte_high, kind, value] = change else { return };
        let sector = usize::from(u16::from_le_bytes([low, high])) % base.used.len().max(1);
        let byte = u64::from(u16::from_le_bytes([byte_low, byte_high]) % 505);
        let at = base.used[sector] + byte;
        let bytes: &[u8] = match kind % 6 {
            0 => &[0; 8][..usize::from(value % 8) + 1],
            1 => &[0xff; 8][..usize::from(value % 8) + 1],
            2 => &[0, 0, 0, value],
            3 => &[value, 0, 0, 0],
            _ => &[value],
        };
        disk.write_at(bytes, at).expect("inside");
        seal(&disk, at);
    }
    if let Ok(Some(fs)) = open(disk.clone()) {
        let _ = fs.used();
        walk(&*fs, b"/", &mut 40);
    }
    if first & 1 == 0 {
        return;
    }
    let Ok(Some(mut fs)) = open_mut(disk.clone()) else { return };
    let unix = Unix { mode: 0o600, uid: 1, gid: 2 };
    for edit in [
        Edit::Create { path: b"/folder/new", content: &[1; 3000], unix },
        Edit::Replace { path: b"/file", content: &[2; 90_000] },
        Edit::Remove { path: b"/folder/a file with a longer name 9" },
        Edit::Write { path: b"/Windows/System32/hive", offset: 80_000, data: &[3; 30_000] },
        Edit::Create { path: b"/Windows/System32/drivers/new", content: &[4; 3000], unix },
    ] {
        let before = disk.changes().expect("memory");
        if fs.apply(&edit).is_err() {
            assert!(disk.changes().expect("memory") == before, "{edit:?} left a trace");
        }
    }
}

fn walk(fs: &dyn GuestFs, path: &[u8], left: &mut usize) {
    let Ok(entries) = fs.read_dir(path) else { return };
    for entry in entries {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let inner = [path, b"/", &entry.name].concat();
        let _ = fs.stat(&inner);
        let _ = fs.read_link(&inner);
        let _ = fs.read_at(&inner, 1000, &mut [0; 9000]);
        if entry.kind == FileKind::Directory {
            walk(fs, &inner, left);
        }
    }
}

/// Puts the checksum of the superblock or tree block at `at` right.
fn seal_btrfs(disk: &CowDisk, at: u64) {
    const SUPERBLOCK: u64 = 65536;
    const NODE: u64 = 16384;
    let (start, len) = match at {
        SUPERBLOCK..69632 => (SUPERBLOCK, 4096),
        _ => (at / NODE * NODE, NODE as usize),
    };
    let mut block = vec![0; len];
    if disk.read_at(&mut block, start).is_ok() {
        let sum = crc32c::crc32c(&block[32..]);
        disk.write_at(&sum.to_le_bytes(), start).expect("inside");
    }
}
