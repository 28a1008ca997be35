//! `--skip-free`: what a guest does not use is left out, and nothing else.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::{FileExt, symlink};
use std::path::Path;
use std::process::Command;

use common::{Place, attributes};
use serde_json::json;
use vdisk_testkit::loops::{Loop, Mounted};
use vdisk_testkit::machines::{DATA, DISK, LINUX, Part, assemble, programs};
use vdisk_testkit::tools::{arg, must, said, skip};
use vdisk_testkit::tree::{fill_with, tree_on_host};

const MIB: u64 = 1 << 20;

/// A disk full of junk, with an ext4 in a partition of 48 MiB that holds 6 MiB of files; `false`
/// where the programs for it are missing.
fn disk(place: &Place) -> bool {
    let there = |program| Command::new(program).arg("-V").output().is_ok();
    if !there("mke2fs") || !there("sfdisk") {
        skip("mke2fs", "it is not installed");
        return false;
    }
    std::fs::create_dir(place.path("tree")).unwrap();
    let mut rng = fastrand::Rng::with_seed(8);
    for number in 0..6 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(MIB as usize).collect();
        std::fs::write(place.path(&format!("tree/file{number}")), bytes).unwrap();
    }
    place.raw("disk.img", 64 * MIB, &[0..MIB, MIB..64 * MIB]);
    let script = place.path("script");
    std::fs::write(&script, "label: gpt\nstart=2048, size=98304\n").unwrap();
    let line = format!(
        "sfdisk -q --no-reread --wipe never {} < {}",
        arg(&place.path("disk.img")),
        arg(&script)
    );
    must("sh", &["-c", &line]);
    let (disk, tree) = (place.path("disk.img"), place.path("tree"));
    let options = format!("offset={MIB},nodiscard");
    must(
        "mke2fs",
        &["-q", "-F", "-t", "ext4", "-E", &options, "-d", arg(&tree), arg(&disk), "48m"],
    );
    true
}

/// The volume on the raw disk is sound, and holds the files.
fn assert_whole(place: &Place, raw: &str) {
    let mut volume = vec![0; 48 << 20];
    std::fs::File::open(place.path(raw)).unwrap().read_exact_at(&mut volume, MIB).unwrap();
    std::fs::write(place.path("volume"), &volume).unwrap();
    must("e2fsck", &["-fn", arg(&place.path("volume"))]);
    for number in 0..6 {
        let cat =
            place.command().args(["cat", &format!("{raw}:1:/file{number}"), "-f", "raw"]).output();
        let expected = std::fs::read(place.path(&format!("tree/file{number}"))).unwrap();
        assert!(cat.unwrap().stdout == expected, "file{number}");
    }
}

#[test]
fn convert_and_compact_leave_out_what_is_free() {
    let place = Place::new();
    if !disk(&place) {
        return;
    }
    let told =
        place.run("convert -f raw --skip-free --verify disk.img small.vhdx --output json").code(0);
    assert!(told.err.contains("partition 1 (ext4)"), "{told:?}");
    let report = told.json();
    let skipped = &report["skipped"][0];
    assert_eq!((&skipped["partition"], &skipped["type"]), (&json!(1), &json!("ext4")));
    let free = skipped["free"].as_u64().unwrap();
    assert!(free > 25 * MIB && free < 42 * MIB, "{report}");
    place.run("convert small.vhdx small.img").ok();
    assert_whole(&place, "small.img");
    // What is outside of the partition, and every byte that differs, is accounted for.
    let (before, after) = (place.read("disk.img"), place.read("small.img"));
    let outside = |bytes: &[u8]| [&bytes[..MIB as usize], &bytes[49 << 20..]].concat();
    assert!(outside(&before) == outside(&after), "something outside of the partition changed");
    let changed = before.iter().zip(&after).filter(|(a, b)| a != b).count() as u64;
    assert!(changed <= free && after.iter().zip(&before).all(|(a, b)| a == b || *a == 0));

    place.run("convert -f raw disk.img full.vhdx").ok();
    let whole = std::fs::metadata(place.path("full.vhdx")).unwrap().len();
    let plan = place.run("compact --skip-free --dry-run full.vhdx --output json").code(0).json();
    place.run("compact --skip-free full.vhdx").code(0);
    let compacted = std::fs::metadata(place.path("full.vhdx")).unwrap().len();
    assert!(compacted < whole, "{compacted} of {whole}");
    assert_eq!(plan["size-after"], compacted);
    place.run("convert full.vhdx full.img").ok();
    assert_whole(&place, "full.img");
    place.run("check full.vhdx").code(0);
}

#[test]
fn what_was_not_closed_in_order_is_refused() {
    let place = Place::new();
    if !disk(&place) {
        return;
    }
    let disk = place.path("disk.img");
    let file = std::fs::OpenOptions::new().read(true).write(true).open(&disk).unwrap();
    let mut volume = vec![0; 48 << 20];
    file.read_exact_at(&mut volume, MIB).unwrap();
    std::fs::write(place.path("volume"), &volume).unwrap();
    must("debugfs", &["-w", "-R", "feature needs_recovery", arg(&place.path("volume"))]);
    file.write_all_at(&place.read("volume"), MIB).unwrap();
    let before = place.read("disk.img");
    place
        .run("convert -f raw --skip-free disk.img out.vhdx")
        .fails(7, &["partition 1", "without --skip-free"]);
    assert!(!place.path("out.vhdx").exists());
    assert!(place.read("disk.img") == before);
    place.run("convert -f raw --skip-free -b x disk.img out.vhdx").code(64);
}

/// A file system under test: its maker, and how it is mounted for filling and for looking, if it is.
struct Kind {
    name: &'static str,
    mib: u64,
    maker: &'static [&'static str],
    read_write: &'static [&'static str],
    read_only: &'static [&'static str],
    is_unix: bool,
}

const KINDS: &[Kind] = &[
    Kind {
        name: "ext4",
        mib: 48,
        maker: &["mke2fs", "-q", "-F", "-t", "ext4", "-I", "256"],
        read_write: &["mount", "-t", "ext4", "-o", "acl,user_xattr"],
        read_only: &["mount", "-t", "ext4", "-o", "ro,noload,acl,user_xattr"],
        is_unix: true,
    },
    Kind {
        name: "xfs",
        mib: 320,
        maker: &["mkfs.xfs", "-q", "-f"],
        read_write: &["mount", "-t", "xfs", "-o", "nouuid"],
        read_only: &["mount", "-t", "xfs", "-o", "ro,norecovery,nouuid"],
        is_unix: true,
    },
    Kind {
        name: "ntfs",
        mib: 48,
        maker: &["mkntfs", "-q", "-F", "-p", "0", "-H", "255", "-S", "63"],
        read_write: &["ntfs-3g", "-o", "permissions,acl,streams_interface=xattr"],
        read_only: &["ntfs-3g", "-o", "ro,permissions,acl,streams_interface=xattr"],
        is_unix: false,
    },
    Kind {
        name: "fat32",
        mib: 48,
        maker: &["mkfs.vfat", "-F", "32", "-s", "1"],
        // Few kernels of test machines have it; mtools are everywhere.
        read_write: &[],
        read_only: &[],
        is_unix: false,
    },
];

/// Mounts a device by the program of its kind.
fn mount(line: &[&str], device: &Path, point: &Path) -> Option<Mounted> {
    fs::create_dir_all(point).unwrap();
    let done = Command::new(line[0]).args(&line[1..]).args([device, point]).output().unwrap();
    if done.status.success() {
        return Some(Mounted { point: point.to_owned() });
    }
    skip(if line[0] == "mount" { "loop" } else { line[0] }, &said(&done));
    None
}

/// Files with all that their file system keeps beside content, between junk in what is free.
fn put_files(kind: &Kind, root: &Path) {
    // What was written and removed again stays where it was.
    let junk = vec![0xA5; 1 << 20];
    for number in 0..kind.mib / 2 {
        fs::write(root.join(format!("junk{number}")), &junk).unwrap();
    }
    fs::create_dir(root.join("files")).unwrap();
    if kind.is_unix {
        fill_with(&root.join("files"), 60);
    } else {
        let temp = tempfile::tempdir().unwrap();
        fill_with(temp.path(), 60);
        fs::remove_dir_all(temp.path().join("links")).unwrap();
        must("cp", &["-r", &format!("{}/.", arg(temp.path())), arg(&root.join("files"))]);
    }
    for number in 0..kind.mib / 2 {
        fs::remove_file(root.join(format!("junk{number}"))).unwrap();
    }
    let script = include_str!("common/decorate.py");
    must("python3", &["-c", script, kind.name, arg(&root.join("files"))]);
    if kind.is_unix {
        symlink("small.txt", root.join("files/a link")).unwrap();
        must("mknod", &["-m", "640", arg(&root.join("files/null")), "c", "1", "3"]);
        must("mkfifo", &[arg(&root.join("files/pipe"))]);
    }
}

/// The same on FAT, by mtools.
fn put_files_by_mtools(place: &Place, image: &Path) {
    let tree = place.path("fat-tree");
    fill_with(&tree, 60);
    fs::remove_dir_all(tree.join("links")).unwrap();
    fs::write(place.path("junk"), vec![0xA5; 30 << 20]).unwrap();
    let mtools = |program: &str, args: &[&str]| {
        must(program, &[&["-i", arg(image)], args].concat());
    };
    mtools("mcopy", &[arg(&place.path("junk")), "::/junk"]);
    for entry in fs::read_dir(&tree).unwrap() {
        mtools("mcopy", &["-s", "-m", arg(&entry.unwrap().path()), "::/"]);
    }
    mtools("mdel", &["::/junk"]);
    mtools("mattrib", &["+r", "+h", "::/small.txt"]);
    mtools("mattrib", &["-a", "+s", "::/empty"]);
}

/// Paths of a volume, and what others tell of them.
type Told = BTreeMap<String, String>;

/// The trees of a disk, one a partition, as this machine and mtools read them.
fn trees(place: &Place, disk: &str) -> Option<Vec<Told>> {
    let mut at = MIB;
    let mut found = Vec::new();
    for kind in KINDS {
        if kind.read_only.is_empty() {
            found.push(by_mtools(place, disk, at..at + kind.mib * MIB));
        } else {
            let (offset, size) = (at.to_string(), (kind.mib * MIB).to_string());
            let more = ["--read-only", "--offset", &offset, "--sizelimit", &size];
            let device = Loop::attach(&place.path(disk), &more)?;
            let mounted = mount(kind.read_only, &device.path, &place.path("looked"))?;
            let told = attributes(&mounted.point).into_iter();
            found.push(told.map(|(path, told)| (path, json!(told).to_string())).collect());
        }
        at += kind.mib * MIB;
    }
    Some(found)
}

fn by_mtools(place: &Place, disk: &str, range: Range<u64>) -> Told {
    let mut bytes = vec![0; (range.end - range.start) as usize];
    fs::File::open(place.path(disk)).unwrap().read_exact_at(&mut bytes, range.start).unwrap();
    let image = place.path("fat.volume");
    fs::write(&image, bytes).unwrap();
    let folder = tempfile::tempdir().unwrap();
    must("mcopy", &["-s", "-n", "-Q", "-i", arg(&image), "::/*", arg(folder.path())]);
    let mut told = tree_on_host(folder.path());
    // Dates and sizes; read-only, hidden, system, archive.
    told.insert("dates".into(), must("mdir", &["-/", "-a", "-i", arg(&image), "::/"]));
    told.insert("attributes".into(), must("mattrib", &["-/", "-i", arg(&image), "::/"]));
    told
}

/// Every file of every file system, with all that it keeps beside content, comes through a copy and
/// a compaction that leave out what is free.
#[test]
fn trees_are_the_same_with_their_attributes() {
    let makers: Vec<&str> = KINDS.iter().map(|kind| kind.maker[0]).collect();
    if !programs(&makers) || !programs(&["sfdisk", "ntfs-3g", "python3", "mcopy"]) {
        return;
    }
    let place = Place::new();
    for kind in KINDS {
        let image = place.path(kind.name);
        fs::File::create(&image).and_then(|file| file.set_len(kind.mib * MIB)).unwrap();
        must(kind.maker[0], &[&kind.maker[1..], &[arg(&image)]].concat());
        if kind.read_write.is_empty() {
            put_files_by_mtools(&place, &image);
            continue;
        }
        let Some(device) = Loop::attach(&image, &[]) else { return };
        let Some(mounted) = mount(kind.read_write, &device.path, &place.path("filled")) else {
            return;
        };
        put_files(kind, &mounted.point);
        drop(mounted);
    }
    let images: Vec<_> = KINDS.iter().map(|kind| place.path(kind.name)).collect();
    let part = |(kind, content)| Part { kind, more: "", content };
    let types = [LINUX, LINUX, DATA, DATA];
    let parts: Vec<_> = types.into_iter().zip(images.iter().map(AsRef::as_ref)).map(part).collect();
    assemble(&place.path("disk.img"), "gpt", DISK, &parts);

    let Some(before) = trees(&place, "disk.img") else { return };
    let kept: [&[&str]; 4] = [
        &["system.posix_acl_default", "security.capability", "trusted.note"],
        &["system.posix_acl_access", "security.selinux", "user.colour"],
        &["system.ntfs_acl", "user.Zone.Identifier", "ntfs_reparse_data", "ntfs_object_id"],
        &["::/small.txt", "empty"],
    ];
    for ((kind, tree), kept) in KINDS.iter().zip(&before).zip(kept) {
        assert!(tree.len() > 60, "{}: {tree:?}", kind.name);
        let told: String = tree.values().cloned().collect();
        for what in kept {
            assert!(told.contains(what), "{}: nothing has {what}", kind.name);
        }
    }
    let told = place.run("convert -f raw --skip-free disk.img small.vhdx --output json").code(0);
    for (number, kind) in KINDS.iter().enumerate() {
        let skipped = &told.json()["skipped"][number];
        let free = skipped["free"].as_u64().unwrap();
        assert!(free > kind.mib * MIB / 2, "{}: {skipped}", kind.name);
    }
    place.run("convert small.vhdx copied.img").ok();
    // The junk is gone but for what stood in too small holes.
    let junk = vec![0xA5; 1 << 17];
    let bytes = place.read("copied.img");
    let left = bytes.chunks_exact(junk.len()).filter(|chunk| *chunk == junk).count();
    assert!(left < 8, "{left} pieces of junk");
    place.run("convert -f raw disk.img whole.vhdx").ok();
    place.run("compact --skip-free whole.vhdx").code(0);
    place.run("convert whole.vhdx compacted.img").ok();
    for after in ["copied.img", "compacted.img"] {
        let after_trees = trees(&place, after).unwrap();
        for (kind, (old, new)) in KINDS.iter().zip(before.iter().zip(&after_trees)) {
            assert_eq!(old.keys().collect::<Vec<_>>(), new.keys().collect::<Vec<_>>());
            for (path, told) in old {
                assert_eq!(new[path], *told, "{after}: {}: {path}", kind.name);
            }
        }
        fs::remove_file(place.path(after)).unwrap();
    }
}
