//! What is called free may hold anything: junk is written there, and nobody finds a difference.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vdisk_core::{Disk, ErrorKind};
use vdisk_guest::free::{FreeSpace, Scope, free_space};
use vdisk_guest::location::{logical, members};
use vdisk_testkit::VecDisk;
use vdisk_testkit::lvm::Lvm;
use vdisk_testkit::machines::{DISK, LINUX, Part, assemble, programs};
use vdisk_testkit::tools::{arg, must, said};
use vdisk_testkit::tree::fill;
use vdisk_testkit::volumes::{Make, VOLUMES, Volume, make, mounted};

/// Layouts that change where the maps are.
const MORE: &[Volume] = &[
    // Groups whose bitmaps were never written.
    Volume { tool: Make::Ext, kind: "ext4", mib: 900, args: &["-t", "ext4"] },
    Volume { tool: Make::Ext, kind: "ext4", mib: 600, args: &["-t", "ext4", "-O", "^flex_bg"] },
    Volume {
        tool: Make::Ext,
        kind: "ext4",
        mib: 600,
        args: &["-t", "ext4", "-O", "meta_bg,^resize_inode", "-b", "1024"],
    },
    Volume {
        tool: Make::Ext,
        kind: "ext4",
        mib: 600,
        args: &["-t", "ext4", "-O", "sparse_super2"],
    },
    Volume { tool: Make::Ext, kind: "ext4", mib: 600, args: &["-t", "ext4", "-O", "bigalloc"] },
    Volume {
        tool: Make::Ext,
        kind: "ext4",
        mib: 600,
        args: &["-t", "ext4", "-O", "bigalloc", "-b", "1024"],
    },
    Volume {
        tool: Make::Ext,
        kind: "ext4",
        mib: 600,
        args: &["-t", "ext4", "-O", "bigalloc,meta_bg,^resize_inode", "-b", "1024"],
    },
    Volume { tool: Make::Ext, kind: "ext2", mib: 64, args: &["-t", "ext2", "-r", "0"] },
    Volume { tool: Make::Ntfs, kind: "ntfs", mib: 400, args: &[] },
    // Clusters larger than blocks of directories.
    Volume { tool: Make::Ntfs, kind: "ntfs", mib: 60, args: &["-c", "8192"] },
    Volume { tool: Make::Ntfs, kind: "ntfs", mib: 120, args: &["-c", "65536"] },
    Volume { tool: Make::Ntfs, kind: "ntfs", mib: 200, args: &["-c", "2097152"] },
    Volume { tool: Make::Fat, kind: "fat32", mib: 300, args: &["-F", "32"] },
];

/// Names and contents of everything on the volume, read by a program that is not ours.
fn content(volume: &Volume, image: &Path) -> Option<String> {
    let mut listed = String::new();
    let list = |folder: &Path| {
        let line = "find . -type f -print0 | sort -z | xargs -0 -r sha256sum; find . -not -type d | sort | xargs stat -c '%n %f %s %Y'; find . -type d | sort";
        let done = Command::new("sh").args(["-c", line]).current_dir(folder).output().unwrap();
        assert!(done.status.success(), "{}", said(&done));
        String::from_utf8_lossy(&done.stdout).into_owned()
    };
    if volume.tool == Make::Fat {
        let folder = tempfile::tempdir().unwrap();
        must("mcopy", &["-i", arg(image), "-s", "-n", "-m", "::*", arg(folder.path())]);
        return Some(list(folder.path()));
    }
    mounted(volume.tool, image, true, |folder| listed = list(folder)).then_some(listed)
}

fn assert_sound(volume: &Volume, image: &Path) {
    let (program, args): (&str, &[&str]) = match volume.tool {
        Make::Ext => ("e2fsck", &["-fn"]),
        Make::Xfs => ("xfs_repair", &["-n", "-f"]),
        Make::Ntfs => ("ntfsfix", &["-n"]),
        Make::Fat => ("fsck.fat", &["-n"]),
        Make::Btrfs => return,
    };
    must(program, &[args, &[arg(image)]].concat());
}

fn free_of(image: &Path, scope: Scope) -> FreeSpace {
    let disk: Arc<dyn Disk> = Arc::new(VecDisk(fs::read(image).unwrap()));
    free_space(&disk, 512, scope).unwrap_or_else(|e| panic!("{}: {e}", image.display()))
}

/// Writes junk into everything that is free.
fn soil(image: &Path, free: &FreeSpace) {
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    let junk = vec![0xA5; 1 << 20];
    for range in free.ranges.iter() {
        let mut at = range.start;
        while at < range.end {
            let len = (range.end - at).min(1 << 20);
            file.write_all_at(&junk[..len as usize], at).unwrap();
            at += len;
        }
    }
}

#[test]
fn junk_in_free_space_changes_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("tree");
    fill(&source);
    for volume in VOLUMES.iter().chain(MORE).filter(|one| one.tool != Make::Btrfs) {
        let context = format!("{} {:?}", volume.kind, volume.args);
        let image = folder.path().join("image");
        if !make(volume, &image, Some(&source)) {
            continue;
        }
        if volume.tool != Make::Fat && !volume.is_old_xfs() {
            // Holes between files.
            mounted(volume.tool, &image, false, |root| {
                for number in (0..300).step_by(3) {
                    fs::remove_file(root.join(format!("many/file_number_{number}"))).unwrap();
                }
            });
        }
        let free = free_of(&image, Scope::Free);
        let [only] = &free.volumes[..] else { panic!("{context}: {:?}", free.volumes) };
        assert_eq!((only.kind.as_str(), &only.kept), (volume.kind, &None), "{context}");
        // Files take some 2 MiB; journals and tables a few more.
        let least = (volume.mib << 20) / 10 * 4;
        assert!(only.free > least, "{context}: only {} bytes are free", only.free);
        let before = content_if_mountable(volume, &image);
        soil(&image, &free);
        assert_sound(volume, &image);
        assert!(content_if_mountable(volume, &image) == before, "{context}: files changed");
        fs::remove_file(&image).unwrap();
    }
}

fn content_if_mountable(volume: &Volume, image: &Path) -> Option<String> {
    if volume.is_old_xfs() { None } else { content(volume, image) }
}

/// A volume in stripes of 4 KiB over two partitions.
#[test]
fn on_stripes_of_a_logical_volume() {
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let volume = Volume { tool: Make::Ext, kind: "ext4", mib: 40, args: &["-t", "ext4"] };
    let Some(lvm) = Lvm::blank(&[32, 32]).filter(|_| programs(&["mke2fs", "sfdisk"])) else {
        return;
    };
    lvm.group("vg");
    lvm.volume("vg", &["-L", "40M", "-i", "2", "-I", "4k", "-n", "root"]);
    let parts = lvm.finish(folder.path());
    fill(&path("tree"));
    assert!(make(&volume, &path("root"), Some(&path("tree"))));
    let image = path("image");
    let parts: Vec<Part<'_>> =
        parts.iter().map(|content| Part { kind: LINUX, more: "", content }).collect();
    assemble(&image, "gpt", DISK, &parts);
    let file = fs::OpenOptions::new().read(true).write(true).open(&image).unwrap();
    // Where the bytes of the volume are.
    let disk: Arc<dyn Disk> = Arc::new(VecDisk(fs::read(&image).unwrap()));
    let (starts, members): (Vec<u64>, Vec<_>) = members(&disk, 512).unwrap().into_iter().unzip();
    let logical = logical(&members, "vg", "root").unwrap();
    let pieces: Vec<_> = logical.map(0..40 << 20).unwrap().collect();
    assert_eq!(pieces.len(), 10240);
    let mut content = fs::read(path("root")).unwrap();
    for piece in &pieces {
        let bytes = &content[piece.start as usize..(piece.start + piece.len) as usize];
        file.write_all_at(bytes, starts[piece.disk] + piece.offset).unwrap();
    }
    let free = free_of(&image, Scope::Free);
    let [only] = &free.volumes[..] else { panic!("{:?}", free.volumes) };
    assert!(only.free > 16 << 20, "{only:?}");
    assert_eq!(free.ranges.total(), only.free);
    assert!(free.ranges.count() < 100, "{}", free.ranges.count());
    let before = self::content(&volume, &path("root"));
    soil(&image, &free);
    for piece in &pieces {
        let bytes = &mut content[piece.start as usize..(piece.start + piece.len) as usize];
        file.read_exact_at(bytes, starts[piece.disk] + piece.offset).unwrap();
    }
    fs::write(path("root"), &content).unwrap();
    assert_sound(&volume, &path("root"));
    assert!(self::content(&volume, &path("root")) == before, "files changed");
}

#[test]
fn exfat() {
    if !programs(&["mkfs.exfat", "fsck.exfat"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    for cluster in ["4096", "131072"] {
        fs::File::create(&image).unwrap().set_len(64 << 20).unwrap();
        must("mkfs.exfat", &["-c", cluster, arg(&image)]);
        let free = free_of(&image, Scope::Free);
        assert_eq!(free.volumes[0].kind, "exfat");
        assert!(free.volumes[0].free > 58 << 20, "{:?}", free.volumes);
        soil(&image, &free);
        must("fsck.exfat", &["-n", arg(&image)]);
        // Of two bitmaps, one may be out of date.
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        for (at, byte, sound) in [(106, 1, 0), (110, 2, 1)] {
            file.write_all_at(&[byte], at).unwrap();
            let free = free_of(&image, Scope::Free);
            assert!(free.volumes[0].kept.is_some(), "{free:?}");
            assert_eq!(free.ranges.count(), 0);
            file.write_all_at(&[sound], at).unwrap();
        }
    }
}

/// Windows' own files lose their content when that is asked for, and no other file does.
#[test]
fn page_files_go_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("tree");
    fill(&source);
    for (name, len) in [("pagefile.sys", 3 << 20), ("Other.sys", 2 << 20), ("swapfile.sys", 400)] {
        fs::write(source.join(name), vec![7; len]).unwrap();
    }
    let volume = Volume { tool: Make::Ntfs, kind: "ntfs", mib: 64, args: &["-c", "4096"] };
    let image = folder.path().join("image");
    if !make(&volume, &image, Some(&source)) {
        return;
    }
    let (free, all) = (free_of(&image, Scope::Free), free_of(&image, Scope::All));
    assert_eq!(all.ranges.total() - free.ranges.total(), 3 << 20);
    let before = content(&volume, &image).unwrap();
    soil(&image, &all);
    let after = content(&volume, &image).unwrap();
    let changed = before.lines().zip(after.lines()).filter(|(a, b)| a != b);
    let changed: Vec<&str> = changed.map(|(line, _)| line).collect();
    assert!(matches!(changed[..], [only] if only.ends_with("pagefile.sys")), "{changed:?}");
}

/// So do the swap files that Linux's `fstab` names, but for their headers; not one that holds a
/// suspended system, and no file that is none.
#[test]
fn swap_files_go_only_when_asked() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("tree");
    fill(&source);
    let fstab = "UUID=1 / ext4 defaults 0 1\n/swapfile none swap sw 0 0\n/data none swap sw 0 0\n\
                 /asleep none swap sw 0 0\n/missing none swap sw 0 0\n/dev/sda3 none swap sw 0 0\n";
    fs::create_dir(source.join("etc")).unwrap();
    fs::write(source.join("etc/fstab"), fstab).unwrap();
    for name in ["swapfile", "data", "asleep", "other"] {
        fs::write(source.join(name), vec![7; 3 << 20]).unwrap();
        if name != "data" {
            must("chmod", &["600", arg(&source.join(name))]);
            must("mkswap", &["-q", arg(&source.join(name))]);
        }
    }
    let asleep = fs::OpenOptions::new().write(true).open(source.join("asleep")).unwrap();
    asleep.write_all_at(b"S1SUSPEND\0", 4086).unwrap();
    let image = folder.path().join("image");
    for volume in [
        Volume { tool: Make::Ext, kind: "ext4", mib: 64, args: &["-t", "ext4"] },
        Volume { tool: Make::Xfs, kind: "xfs", mib: 320, args: &["-m", "reflink=1"] },
    ] {
        if make(&volume, &image, Some(&source)) {
            only_the_swap_file_goes(&volume, &image);
        }
    }
}

fn only_the_swap_file_goes(volume: &Volume, image: &Path) {
    if volume.tool == Make::Xfs {
        // Of another's blocks nothing goes.
        mounted(volume.tool, image, false, |root| {
            let (swap, copy) = (root.join("asleep"), root.join("copy"));
            must("cp", &["--reflink=always", arg(&swap), arg(&copy)]);
            let order = fs::OpenOptions::new().write(true).open(&copy).unwrap();
            order.write_all_at(b"SWAPSPACE2", 4086).unwrap();
            let lines = fs::read_to_string(root.join("etc/fstab")).unwrap();
            fs::write(root.join("etc/fstab"), lines + "/copy none swap sw 0 0\n").unwrap();
        });
    }
    let (free, all) = (free_of(image, Scope::Free), free_of(image, Scope::All));
    assert_eq!(all.ranges.total() - free.ranges.total(), (3 << 20) - (64 << 10));
    let before = content(volume, image).unwrap();
    soil(image, &all);
    assert_sound(volume, image);
    let after = content(volume, image).unwrap();
    let changed = before.lines().zip(after.lines()).filter(|(a, b)| a != b);
    let changed: Vec<&str> = changed.map(|(line, _)| line).collect();
    assert!(matches!(changed[..], [only] if only.ends_with("./swapfile")), "{changed:?}");
    // It is still swap space to others.
    mounted(volume.tool, image, true, |root| {
        let done = Command::new("blkid")
            .args(["-p", "-o", "value", "-s", "TYPE"])
            .arg(root.join("swapfile"))
            .output();
        assert_eq!(String::from_utf8_lossy(&done.unwrap().stdout).trim(), "swap");
    });
}

/// Ten bytes of a file make no swap space of its volume.
#[test]
fn what_ends_like_swap_is_still_a_file_system() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    for volume in [
        Volume { tool: Make::Xfs, kind: "xfs", mib: 320, args: &["-b", "size=4096"] },
        Volume { tool: Make::Ntfs, kind: "ntfs", mib: 24, args: &["-c", "4096"] },
    ] {
        if !make(&volume, &image, None) {
            continue;
        }
        let before = free_of(&image, Scope::All);
        let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
        file.write_all_at(b"SWAPSPACE2", 65526).unwrap();
        let after = free_of(&image, Scope::All);
        assert_eq!(after.volumes[0].kind, volume.kind);
        assert_eq!(after.ranges, before.ranges);
    }
}

/// Of a swap partition goes what its header tells of, and nothing where that does not fit.
#[test]
fn swap_ends_where_its_header_says() {
    if !programs(&["mkswap"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let file = fs::File::create(&image).unwrap();
    file.set_len(8 << 20).unwrap();
    for page in ["4096", "65536"] {
        must("mkswap", &["-q", "-p", page, arg(&image), "4096"]);
        assert_eq!(free_of(&image, Scope::Free).ranges.count(), 0);
        let free = free_of(&image, Scope::All).ranges;
        let place = free.at_or_after(0).map(|run| (run.start, run.end));
        assert_eq!((place, free.count()), (Some((64 << 10, 4 << 20)), 1), "{page}");
    }
    for (at, bytes) in [(1028, [0xff; 4]), (1024, [2, 0, 0, 0])] {
        must("mkswap", &["-q", arg(&image)]);
        file.write_all_at(&bytes, at).unwrap();
        let free = free_of(&image, Scope::All);
        assert!(free.volumes[0].kept.is_some(), "{free:?}");
        assert_eq!(free.ranges.count(), 0);
    }
}

#[test]
fn what_was_not_closed_in_order_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let volume = VOLUMES[2];
    if !make(&volume, &image, None) || !programs(&["debugfs"]) {
        return;
    }
    must("debugfs", &["-w", "-R", "feature needs_recovery", arg(&image)]);
    let disk: Arc<dyn Disk> = Arc::new(VecDisk(fs::read(&image).unwrap()));
    let error = free_space(&disk, 512, Scope::Free).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.advice().unwrap().contains("--skip-free"), "{error}");
}

/// Maps that lie are noticed or do no harm; nothing panics.
#[test]
fn damaged_maps_are_no_danger() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("image");
    let mut rng = fastrand::Rng::with_seed(9);
    for volume in VOLUMES.iter().filter(|one| one.mib < 30) {
        if !make(volume, &image, None) {
            continue;
        }
        let sound = fs::read(&image).unwrap();
        for _ in 0..150 {
            let mut bytes = sound.clone();
            for _ in 0..rng.usize(1..20) {
                let at = rng.usize(0..40_000);
                bytes[at] = rng.u8(..);
            }
            let disk: Arc<dyn Disk> = Arc::new(VecDisk(bytes));
            if let Ok(free) = free_space(&disk, 512, Scope::All) {
                assert!(free.ranges.iter().all(|range| range.end <= disk.len()));
            }
        }
    }
}
