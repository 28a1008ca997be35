//! Journals of ext3 and ext4, left by the kernel and by debugfs, replayed; e2fsck judges, and
//! replays the same.
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
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use vdisk_core::{CowDisk, Disk, ErrorKind, Result};
use vdisk_guest::journal::{Replay, replay};
use vdisk_testkit::VecDisk;
use vdisk_testkit::loops::{Loop, Mounted};
use vdisk_testkit::machines::programs;
use vdisk_testkit::tools::{arg, must, said};

const MIB: u64 = 1 << 20;
const MAGIC: [u8; 4] = [0xc0, 0x3b, 0x39, 0x98];

fn made(folder: &Path, options: &[&str]) -> PathBuf {
    let image = folder.join("volume");
    fs::File::create(&image).and_then(|file| file.set_len(48 * MIB)).unwrap();
    let block = if options.contains(&"-b") { &[][..] } else { &["-b", "4096"] };
    must("mke2fs", &[&["-q", "-F", "-J", "size=4"], block, options, &[arg(&image)]].concat());
    image
}

/// A volume as it is while the kernel has it mounted and all that was written is in its journal;
/// `None` where nothing can be mounted here.
fn left_by_the_kernel(folder: &Path, options: &[&str], mount: &str) -> Option<PathBuf> {
    if !programs(&["mke2fs", "e2fsck", "debugfs"]) {
        return None;
    }
    let image = made(folder, options);
    let device = Loop::attach(&image, &[])?;
    must("mount", &["-o", mount, arg(&device.path), arg(&point(folder))]);
    let mounted = Mounted { point: point(folder) };
    // Blocks of directories that are gone are revoked, and used again for files.
    for round in 0..40 {
        let deep = mounted.point.join(format!("d{}", round % 3));
        fs::create_dir_all(deep.join("er")).unwrap();
        for number in 0..30 {
            let mut content = MAGIC.repeat(1024);
            content.extend(format!("{round} {number}").bytes());
            fs::write(deep.join(format!("er/f{number}")), content).unwrap();
        }
        must("sync", &["-f", arg(&mounted.point)]);
        if round % 3 == 1 {
            fs::remove_dir_all(&deep).unwrap();
        }
    }
    must("sync", &["-f", arg(&mounted.point)]);
    let left = folder.join("left");
    fs::copy(&image, &left).unwrap();
    Some(left)
}

fn point(folder: &Path) -> PathBuf {
    let point = folder.join("mnt");
    fs::create_dir_all(&point).unwrap();
    point
}

fn replayed(image: &Path) -> Result<Option<Replay>> {
    let disk: Arc<dyn Disk> = Arc::new(VecDisk(fs::read(image).unwrap()));
    replay(&disk)
}

/// Replays a copy of `left` and has e2fsck judge it, and do the same on another copy.
fn judge(folder: &Path, left: &Path) -> Replay {
    let [ours, theirs] = ["ours", "theirs"].map(|name| folder.join(name));
    for copy in [&ours, &theirs] {
        fs::copy(left, copy).unwrap();
    }
    let found = replayed(left).unwrap().expect("work in the journal");
    let file = fs::OpenOptions::new().write(true).open(&ours).unwrap();
    for change in &found.changes {
        file.write_all_at(&change.bytes, change.offset).unwrap();
    }
    must("e2fsck", &["-fn", arg(&ours)]);
    let done = Command::new("e2fsck").args(["-y", "-E", "journal_only", arg(&theirs)]).output();
    let done = done.unwrap();
    assert!(done.status.code().is_some_and(|code| code < 4), "{}", said(&done));
    assert_same(&ours, &theirs);
    assert_eq!(replayed(&ours).unwrap(), None, "a second time there is nothing to do");
    found
}

/// The same bytes, but for what e2fsck notes of itself in the superblocks of the file system (times
/// and counts) and of the journal (the number of its next transaction).
fn assert_same(ours: &Path, theirs: &Path) {
    let journal = must("debugfs", &["-R", "blocks <8>", arg(theirs)]);
    let first: usize = journal.split_whitespace().next().unwrap().parse().unwrap();
    let size = must("dumpe2fs", &["-h", arg(theirs)]);
    let size = size.lines().find(|line| line.starts_with("Block size:")).unwrap();
    let size: usize = size.rsplit(' ').next().unwrap().parse().unwrap();
    let [mut ours, mut theirs] = [ours, theirs].map(|image| fs::read(image).unwrap());
    for image in [&mut ours, &mut theirs] {
        // s_wtime, s_mnt_count to s_lastcheck, s_kbytes_written, s_checksum.
        for (at, len) in [(0x30, 4), (0x34, 0x10), (0x178, 8), (0x274, 2), (0x3fc, 4)] {
            image[1024 + at..1024 + at + len].fill(0);
        }
        for (at, len) in [(0x18, 4), (0xfc, 4)] {
            image[first * size + at..first * size + at + len].fill(0);
        }
    }
    let differ: Vec<String> = (0..ours.len())
        .filter(|at| ours[*at] != theirs[*at])
        .map(|at| format!("{at:#x}"))
        .collect();
    assert!(differ.is_empty(), "{} bytes differ: {:?}", differ.len(), differ.iter().take(20));
}

#[test]
fn journals_of_the_kernel_are_replayed() {
    for (options, mount) in [
        (&["-t", "ext4"][..], "rw"),
        (&["-t", "ext4"], "data=journal"),
        (&["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"], "data=journal"),
        (&["-t", "ext4", "-O", "^metadata_csum,64bit"], "rw"),
        (&["-t", "ext3"], "data=journal"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Some(left) = left_by_the_kernel(folder.path(), options, mount) else { return };
        let found = judge(folder.path(), &left);
        assert!(found.transactions > 1 && found.blocks > 10, "{options:?}: {found:?}");
        assert!(!found.orphans);
    }
}

/// Files that are open while their last name goes, caught in use and frozen.
#[test]
fn removed_files_that_were_open_are_removed() {
    if !programs(&["mke2fs", "e2fsck", "fsfreeze"]) {
        return;
    }
    for options in [
        &["-t", "ext4"][..],
        &["-t", "ext4", "-b", "1024", "-O", "^metadata_csum,^64bit"],
        &["-t", "ext3"],
        &["-t", "ext4", "-O", "orphan_file"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let image = made(folder.path(), options);
        let Some(device) = Loop::attach(&image, &[]) else { return };
        let Some(mounted) = Mounted::new(&device.path, &point(folder.path())) else { return };
        let mut open = Vec::new();
        for (number, len) in [0, 100, 70_000, 3 << 20].into_iter().enumerate() {
            let path = mounted.point.join(format!("f{number}"));
            fs::write(&path, vec![7; len]).unwrap();
            open.push(fs::File::open(&path).unwrap());
            fs::remove_file(path).unwrap();
        }
        fs::write(mounted.point.join("kept"), "all of it").unwrap();
        must("sync", &["-f", arg(&mounted.point)]);
        let copy = |name: &str| fs::copy(&image, folder.path().join(name)).map(drop).unwrap();
        copy("used");
        must("fsfreeze", &["-f", arg(&mounted.point)]);
        copy("frozen");
        must("fsfreeze", &["-u", arg(&mounted.point)]);
        for name in ["used", "frozen"] {
            let image = folder.path().join(name);
            let found = replayed(&image).unwrap().expect("files to remove");
            // A file that lists them is not known.
            assert_eq!(found.orphans, options.contains(&"orphan_file"), "{options:?} {name}");
            if found.orphans {
                continue;
            }
            let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
            for change in &found.changes {
                file.write_all_at(&change.bytes, change.offset).unwrap();
            }
            must("e2fsck", &["-fn", arg(&image)]);
            assert_eq!(must("debugfs", &["-R", "cat /kept", arg(&image)]), "all of it");
            assert_eq!(replayed(&image).unwrap(), None, "{options:?} {name}");
        }
        drop(open);
    }
}

/// A removed directory that is open, as a process has its working directory there.
#[test]
fn removed_directories_are_left_to_the_guest() {
    if !programs(&["mke2fs", "e2fsck", "fsfreeze"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = made(folder.path(), &["-t", "ext4"]);
    let Some(device) = Loop::attach(&image, &[]) else { return };
    let Some(mounted) = Mounted::new(&device.path, &point(folder.path())) else { return };
    let path = mounted.point.join("d");
    fs::create_dir(&path).unwrap();
    let open = fs::File::open(&path).unwrap();
    fs::remove_dir(path).unwrap();
    must("fsfreeze", &["-f", arg(&mounted.point)]);
    let copy = folder.path().join("frozen");
    fs::copy(&image, &copy).unwrap();
    must("fsfreeze", &["-u", arg(&mounted.point)]);
    drop(open);
    orphans_are_left(&copy);
}

/// A shortening that was cut off, and a removal that was, of a file whose blocks are mapped the old
/// way: what is mapped behind its end must go too.
#[test]
fn blocks_behind_the_end_are_left_to_the_guest() {
    if !programs(&["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    for lines in ["sif f size 4096\n", "sif f size 0\nsif f links_count 0\nunlink f\n"] {
        let folder = tempfile::tempdir().unwrap();
        let image = made(folder.path(), &["-t", "ext3"]);
        let [content, script] = ["content", "script"].map(|name| folder.path().join(name));
        fs::write(&content, vec![7; 100_000]).unwrap();
        let lines = format!("write {} f\nssv last_orphan 12\n{lines}", arg(&content));
        fs::write(&script, lines).unwrap();
        must("debugfs", &["-w", "-f", arg(&script), arg(&image)]);
        orphans_are_left(&image);
    }
}

/// What is left is left whole: e2fsck mends it without asking.
fn orphans_are_left(image: &Path) {
    let found = replayed(image).unwrap().expect("something to remove");
    assert!(found.orphans, "they were removed by halves");
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    for change in &found.changes {
        file.write_all_at(&change.bytes, change.offset).unwrap();
    }
    let done = Command::new("e2fsck").args(["-p", arg(image)]).output().unwrap();
    assert!(done.status.code().is_some_and(|code| code < 4), "{}", said(&done));
    must("e2fsck", &["-fn", arg(image)]);
}

/// What debugfs writes: every kind of checksum, revoked blocks, escaped ones.
#[test]
fn journals_of_debugfs_are_replayed() {
    if !programs(&["mke2fs", "e2fsck", "debugfs"]) {
        return;
    }
    for (options, open) in [
        (&["-t", "ext4"][..], "jo -c -v 3"),
        (&["-t", "ext4"], "jo -c -v 2"),
        (&["-t", "ext4", "-O", "^64bit"], "jo -c -v 2"),
        (&["-t", "ext4", "-O", "^metadata_csum"], "jo"),
        (&["-t", "ext4", "-O", "^metadata_csum,^64bit"], "jo"),
    ] {
        let folder = tempfile::tempdir().unwrap();
        let left = left_by_debugfs(folder.path(), options, open);
        let found = judge(folder.path(), &left);
        assert_eq!((found.transactions, found.blocks), (3, 3), "{options:?} {open}");
    }
}

/// Three transactions, with blocks that are free at the end of the volume.
fn left_by_debugfs(folder: &Path, options: &[&str], open: &str) -> PathBuf {
    let image = made(folder, options);
    let content = folder.join("content");
    let mut blocks = vec![0x55; 3 * 4096];
    blocks[4096..4100].copy_from_slice(&MAGIC);
    fs::write(&content, &blocks).unwrap();
    let content = arg(&content);
    let script = folder.join("script");
    let first = format!("jw -b 12000,12001,12002 {content}");
    let more = format!("jw -r 12001,12005\njw -b 12005 {content}");
    fs::write(&script, format!("{open}\n{first}\n{more}\njc\n")).unwrap();
    must("debugfs", &["-w", "-f", arg(&script), arg(&image)]);
    image
}

#[test]
fn what_is_not_known_is_refused() {
    if !programs(&["mke2fs", "debugfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let left = left_by_debugfs(folder.path(), &["-t", "ext4", "-O", "^metadata_csum"], "jo -c");
    let error = replayed(&left).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("version 1"), "{error}");
}

#[test]
fn fast_commits_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let options = ["-t", "ext4", "-O", "fast_commit"];
    let Some(left) = left_by_the_kernel(folder.path(), &options, "rw") else { return };
    let error = replayed(&left).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.message().contains("fast commits"), "{error}");
}

/// An XFS as it is while it is frozen, and one that was only caught while it was in use.
fn xfs_in_use(folder: &Path, options: &[&str], open: bool) -> Option<[PathBuf; 2]> {
    if !programs(&["mkfs.xfs", "xfs_repair", "xfs_logprint", "fsfreeze"]) {
        return None;
    }
    let image = folder.join("volume");
    fs::File::create(&image).and_then(|file| file.set_len(320 * MIB)).unwrap();
    must("mkfs.xfs", &[&["-q", "-f"], options, &[arg(&image)]].concat());
    let device = Loop::attach(&image, &[])?;
    let mounted = Mounted::new(&device.path, &point(folder))?;
    for number in 0..400 {
        let path = mounted.point.join(format!("d{}", number % 7));
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(format!("f{number}")), vec![7; number * 50]).unwrap();
    }
    fs::remove_dir_all(mounted.point.join("d3")).unwrap();
    let kept = fs::File::open(mounted.point.join("d1/f1")).unwrap();
    if open {
        fs::remove_file(mounted.point.join("d1/f1")).unwrap();
    }
    must("sync", &["-f", arg(&mounted.point)]);
    let copy = |name: &str| {
        must("cp", &["--sparse=always", arg(&image), arg(&folder.join(name))]);
        folder.join(name)
    };
    let used = copy("used");
    must("fsfreeze", &["-f", arg(&mounted.point)]);
    let frozen = copy("frozen");
    must("fsfreeze", &["-u", arg(&mounted.point)]);
    drop(kept);
    Some([frozen, used])
}

#[test]
fn the_log_of_a_frozen_xfs_is_ended() {
    for options in [
        &[][..],
        &["-b", "size=1024"],
        &["-m", "rmapbt=1"],
        &["-l", "su=32k"],
        &["-s", "size=4096"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let Some([frozen, used]) = xfs_in_use(folder.path(), options, false) else { return };
        let state = |image: &Path| must("xfs_logprint", &["-t", arg(image)]);
        assert!(state(&frozen).contains("state: <DIRTY>"));
        let found = replayed(&frozen).unwrap().unwrap();
        assert!(found.transactions > 0 && !found.orphans);
        let file = fs::OpenOptions::new().write(true).open(&frozen).unwrap();
        for change in &found.changes {
            file.write_all_at(&change.bytes, change.offset).unwrap();
        }
        assert!(state(&frozen).contains("state: <CLEAN>"), "{options:?}: {}", state(&frozen));
        must("xfs_repair", &["-n", "-f", arg(&frozen)]);
        assert_eq!(replayed(&frozen).unwrap(), None, "a second time there is nothing to do");
        // The kernel has nothing to recover, and goes on with it.
        let device = Loop::attach(&frozen, &[]).unwrap();
        let mounted = Mounted::new(&device.path, &point(folder.path())).unwrap();
        assert!(mounted.point.join("d1/f1").exists() && !mounted.point.join("d3").exists());
        fs::write(mounted.point.join("more"), vec![1; 100_000]).unwrap();
        drop((mounted, device));
        must("xfs_repair", &["-n", "-f", arg(&frozen)]);

        let error = replayed(&used).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

#[test]
fn damaged_logs_of_xfs_are_errors() {
    let folder = tempfile::tempdir().unwrap();
    let Some([frozen, _]) = xfs_in_use(folder.path(), &[], false) else { return };
    let sound: Arc<dyn Disk> = Arc::new(VecDisk(fs::read(&frozen).unwrap()));
    let whole = replay(&sound).unwrap().unwrap();
    // The last change is the record that ends the log: those before it are the ones it reads.
    let end = whole.changes.last().unwrap().offset;
    let mut rng = fastrand::Rng::with_seed(9);
    let mut outcomes = [0; 2];
    for _ in 0..200 {
        let disk = CowDisk::new(sound.clone(), 1 << 20);
        for _ in 0..rng.usize(1..3) {
            let at = match rng.u8(..3) {
                0 => rng.u64(..1536),
                _ => end.saturating_sub(rng.u64(..4096)),
            };
            let byte = if rng.bool() { rng.u8(..) } else { [0, 0x7f, 0xff][rng.usize(..3)] };
            disk.write_at(&[byte], at).unwrap();
        }
        let disk: Arc<dyn Disk> = Arc::new(disk);
        outcomes[usize::from(replay(&disk).is_ok())] += 1;
    }
    assert!(outcomes[0] > 10, "{outcomes:?}");
}

#[test]
fn an_xfs_with_removed_files_is_left_to_the_guest() {
    let folder = tempfile::tempdir().unwrap();
    let Some(copies) = xfs_in_use(folder.path(), &[], true) else { return };
    for copy in copies {
        let error = replayed(&copy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
        assert!(error.message().contains("more than a freeze leaves"), "{error}");
    }
}

#[test]
fn other_volumes_have_nothing_to_replay() {
    for volume in [vec![], vec![0; 100], vec![0xff; 1 << 16]] {
        let disk: Arc<dyn Disk> = Arc::new(VecDisk(volume));
        assert_eq!(replay(&disk).unwrap(), None);
    }
}

/// Damage in a committed transaction is told; no damage does harm.
#[test]
fn damaged_journals_are_errors() {
    for options in [&["-t", "ext4"][..], &["-t", "ext4", "-O", "^metadata_csum"]] {
        let folder = tempfile::tempdir().unwrap();
        let Some(left) = left_by_the_kernel(folder.path(), options, "data=journal") else { return };
        let list = must("debugfs", &["-R", "blocks <8>", arg(&left)]);
        let journal: Vec<usize> =
            list.split_whitespace().map(|block| block.parse().unwrap()).collect();
        let sound = fs::read(&left).unwrap();
        let head = journal[0] * 4096;
        let start = u32::from_be_bytes(sound[head + 0x1c..head + 0x20].try_into().unwrap());
        let try_it = |bytes: &[u8]| {
            let disk: Arc<dyn Disk> = Arc::new(VecDisk(bytes.to_vec()));
            replay(&disk)
        };
        let mut rng = fastrand::Rng::with_seed(8);
        let mut outcomes = [0; 2];
        for _ in 0..150 {
            let mut bytes = sound.clone();
            for _ in 0..rng.usize(1..4) {
                let (block, most) = match rng.u8(..4) {
                    0 => (journal[0], 0x100),
                    1 => (journal[rng.usize(..journal.len())], 4096),
                    2 => (0, 2048),
                    _ => (journal[start as usize], 64),
                };
                let at = block * 4096 + rng.usize(..most);
                bytes[at] = if rng.bool() { rng.u8(..) } else { [0, 0x7f, 0xff][rng.usize(..3)] };
            }
            outcomes[usize::from(try_it(&bytes).is_ok())] += 1;
        }
        assert!(outcomes[0] > 0, "{options:?}: {outcomes:?}");
        if options.len() == 2 {
            // A copy in the first transaction, which others follow.
            let mut bytes = sound.clone();
            bytes[journal[start as usize + 1] * 4096 + 9] ^= 1;
            let error = try_it(&bytes).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        }
    }
}
