//! Disks with every kind of table and file system, in every format, alone and as the top of a
//! chain: what the program tells of them, against the programs of the field.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use common::Place;
use serde_json::Value;
use vdisk_testkit::loops::{Loop, Mounted};
use vdisk_testkit::lvm::Lvm;
use vdisk_testkit::machines::{DATA, DISK, LINUX, LVM, Part, assemble_in, linux_tree, programs};
use vdisk_testkit::tools::{arg, must};
use vdisk_testkit::tree::{Tree, assert_same_tree, digest, fill_with, tree_on_host};
use vdisk_testkit::volumes::{Make, Volume, by_debugfs, make, read_by_others};

const MIB: u64 = 1 << 20;

const EXT2: Volume =
    Volume { tool: Make::Ext, kind: "ext2", mib: 16, args: &["-t", "ext2", "-b", "1024"] };
const EXT3: Volume =
    Volume { tool: Make::Ext, kind: "ext3", mib: 24, args: &["-t", "ext3", "-b", "2048"] };
const EXT4: Volume = Volume { tool: Make::Ext, kind: "ext4", mib: 24, args: &["-t", "ext4"] };
const XFS: Volume = Volume { tool: Make::Xfs, kind: "xfs", mib: 320, args: &[] };
const BTRFS: Volume = Volume { tool: Make::Btrfs, kind: "btrfs", mib: 128, args: &[] };
const NTFS: Volume = Volume { tool: Make::Ntfs, kind: "ntfs", mib: 16, args: &[] };
const FAT12: Volume =
    Volume { tool: Make::Fat, kind: "fat12", mib: 12, args: &["-F", "12", "-s", "8"] };
const FAT16: Volume = Volume { tool: Make::Fat, kind: "fat16", mib: 20, args: &["-F", "16"] };
const FAT32: Volume =
    Volume { tool: Make::Fat, kind: "fat32", mib: 40, args: &["-F", "32", "-s", "1"] };
/// The same in sectors of 4096 bytes.
const NTFS_4K: Volume = Volume { tool: Make::Ntfs, kind: "ntfs", mib: 24, args: &["-s", "4096"] };
const XFS_4K: Volume =
    Volume { tool: Make::Xfs, kind: "xfs", mib: 320, args: &["-s", "size=4096"] };
const FAT32_4K: Volume =
    Volume { tool: Make::Fat, kind: "fat32", mib: 280, args: &["-F", "32", "-S", "4096"] };

/// A volume on a disk under test.
struct Subject {
    /// As `vdisk` names it: a partition's number, or group and name.
    place: String,
    /// The directory in it that others read: empty, or a subvolume as `/@`.
    root: &'static str,
    volume: Volume,
    /// Its bytes alone.
    image: PathBuf,
    /// What others read of it.
    tree: Tree,
}

#[test]
fn gpt() {
    let volumes = [EXT2, EXT3, EXT4, NTFS, XFS, BTRFS];
    on_partitions("gpt", DISK, 512, &volumes, |volume| match volume.tool {
        Make::Ntfs => DATA,
        _ => LINUX,
    });
}

#[test]
fn mbr_with_logical_partitions() {
    let volumes = [FAT12, EXT4, NTFS, FAT16, EXT2, FAT32, NTFS];
    on_partitions("dos", "0xdeadbeef", 512, &volumes, |volume| match volume.kind {
        "fat12" => "1",
        "fat16" => "e",
        "fat32" => "c",
        "ntfs" => "7",
        _ => "83",
    });
}

#[test]
fn gpt_in_sectors_of_4096_bytes() {
    let volumes = [EXT4, NTFS_4K, FAT32_4K, XFS_4K];
    on_partitions("gpt", DISK, 4096, &volumes, |volume| match volume.tool {
        Make::Ntfs | Make::Fat => DATA,
        _ => LINUX,
    });
}

/// A linear volume, a striped one, and one in two pieces, on two partitions.
#[test]
fn lvm() {
    if !programs(&["sfdisk", "sgdisk", "blkid", "debugfs"]) {
        return;
    }
    let place = Place::new();
    let Some(lvm) = Lvm::blank(&[48, 40]) else { return };
    lvm.group("vg");
    let (first, second) = (lvm.device(0).to_owned(), lvm.device(1).to_owned());
    lvm.volume_on("vg", &["-L", "16M", "-n", "linear"], &[&first]);
    lvm.volume_on("vg", &["-L", "24M", "-i", "2", "-I", "64k", "-n", "striped"], &[]);
    lvm.volume_on("vg", &["-L", "8M", "-n", "pieces"], &[&second]);
    lvm.run("lvextend", &["-q", "-L", "12M", "vg/pieces", &first]);
    let volumes = [("vg/linear", NTFS), ("vg/striped", EXT4), ("vg/pieces", FAT12)];
    let subjects: Option<Vec<Subject>> = volumes
        .into_iter()
        .map(|(name, volume)| subject(&place, name.to_owned(), volume))
        .collect();
    let Some(subjects) = subjects else { return };
    let segments = segments(&lvm, &subjects);
    let files = lvm.finish(place.folder());
    for (file, at, bytes) in segments {
        let file = std::fs::OpenOptions::new().write(true).open(&files[file]).unwrap();
        file.write_all_at(&bytes, at).unwrap();
    }
    let part = |content| Part { kind: LVM, more: "", content };
    assert!(assemble_in(
        512,
        &place.path("disk.img"),
        "gpt",
        DISK,
        &[part(&files[0]), part(&files[1])]
    ));
    in_every_format(&place, 512, &subjects);
}

/// The root as installers make it: a subvolume that is mounted by default (SUSE, where an older
/// system stands beside it), or one that the loader and `/etc/fstab` name.
#[test]
fn systems_in_subvolumes() {
    let named = ["/@", "/@rootfs", "/root"];
    for root in named.into_iter().chain(["/@/.snapshots/1/snapshot", "/other"]) {
        let place = Place::new();
        if !programs(&["mkfs.btrfs", "btrfs"]) || !make(&BTRFS, &place.path("disk.img"), None) {
            return;
        }
        let Some(device) = Loop::attach(&place.path("disk.img"), &[]) else { return };
        let Some(top) = Mounted::new(&device.path, &place.path("top")) else { return };
        let at = |path: &str| format!("{}{path}", arg(&top.point));
        let main = if root.starts_with("/@/") { "/@" } else { root };
        must("btrfs", &["subvolume", "create", &at(main)]);
        must("btrfs", &["subvolume", "create", &at("/@home")]);
        fill_with(Path::new(&at(main)), 20);
        linux_tree(Path::new(&at(main)));
        if main != root {
            must("btrfs", &["subvolume", "create", &at("/@/.snapshots")]);
            std::fs::create_dir(at("/@/.snapshots/1")).unwrap();
            must("btrfs", &["subvolume", "snapshot", &at("/@"), &at(root)]);
            std::fs::write(at("/@/etc/hostname"), "older\n").unwrap();
        }
        std::fs::write(at(root) + "/etc/hostname", "newer\n").unwrap();
        let is_default = !named.contains(&root);
        if is_default {
            must("btrfs", &["subvolume", "set-default", &at(root)]);
        }
        drop(top);
        let point = place.path("root");
        std::fs::create_dir(&point).unwrap();
        let subvolume = format!("subvol={root}");
        let options = if is_default { "ro" } else { &subvolume };
        must("mount", &["-o", options, arg(&device.path), arg(&point)]);
        let mounted = Mounted { point };
        let tree = tree_on_host(&mounted.point);
        drop((mounted, device));

        let found = inventory(&place, "disk.img");
        assert_eq!(found["systems"].as_array().unwrap().len(), 1, "{root}");
        assert_eq!(found["systems"][0]["linux"]["root-subvolume"], root);
        assert_eq!(found["systems"][0]["hostname"], "newer", "{root}");
        let (place_in, image) = ("0".to_owned(), place.path("disk.img"));
        let subject = Subject { place: place_in, root, volume: BTRFS, image, tree };
        assert_files(&place, "disk.img", &subject);
        // An absolute link begins at the top of its subvolume.
        let read = place.run(&format!("cat -f raw disk.img:0:{root}/links/absolute")).ok();
        assert_eq!(read.out, "small\n", "{root}");
    }
}

/// Which bytes of the volumes stand where, as `lvs` says: physical volume, byte, bytes.
fn segments(lvm: &Lvm, subjects: &[Subject]) -> Vec<(usize, u64, Vec<u8>)> {
    let fields = "lv_name,seg_start,seg_size,stripesize,devices";
    let args = ["--segments", "--noheadings", "--units", "b", "--nosuffix", "-o", fields];
    let told = lvm.run("lvs", &args);
    let mut found = Vec::new();
    for line in told.lines() {
        let [name, start, size, stripe, devices] = line.split_whitespace().collect::<Vec<_>>()[..]
        else {
            panic!("{line}")
        };
        let subject = subjects.iter().find(|one| one.place.ends_with(&format!("/{name}"))).unwrap();
        let bytes = std::fs::read(&subject.image).unwrap();
        let number = |text: &str| text.parse::<usize>().unwrap();
        let segment = &bytes[number(start)..][..number(size)];
        let devices: Vec<(usize, u64)> = devices
            .split(',')
            .map(|device| {
                let (path, extent) = device.trim_end_matches(')').split_once('(').unwrap();
                let disk = (0..2).find(|index| lvm.device(*index) == path).unwrap();
                (disk, (extent.parse::<u64>().unwrap() + 1) * MIB)
            })
            .collect();
        let stripe = if devices.len() == 1 { segment.len() } else { number(stripe) };
        for (index, piece) in segment.chunks(stripe).enumerate() {
            let (disk, at) = devices[index % devices.len()];
            let row = (index / devices.len() * stripe) as u64;
            found.push((disk, at + row, piece.to_vec()));
        }
    }
    assert!(found.len() > 100, "striped: {told}");
    found
}

/// Makes a disk with these volumes in partitions, and compares what is told of it.
fn on_partitions(
    table: &str,
    id: &str,
    sector: u64,
    volumes: &[Volume],
    kind: impl Fn(&Volume) -> &'static str,
) {
    if !programs(&["sfdisk", "sgdisk", "blkid", "debugfs"]) {
        return;
    }
    let place = Place::new();
    let numbers = (1..).filter(|number| table != "dos" || volumes.len() <= 4 || *number != 4);
    let subjects: Option<Vec<Subject>> = volumes
        .iter()
        .zip(numbers)
        .map(|(volume, number)| subject(&place, number.to_string(), *volume))
        .collect();
    let Some(subjects) = subjects else { return };
    let parts: Vec<Part<'_>> = subjects
        .iter()
        .map(|one| Part { kind: kind(&one.volume), more: "", content: &one.image })
        .collect();
    if assemble_in(sector, &place.path("disk.img"), table, id, &parts) {
        in_every_format(&place, sector, &subjects);
    }
}

/// A volume with files in it, and what others read of it; none where a program is missing.
fn subject(place: &Place, name: String, volume: Volume) -> Option<Subject> {
    let source = place.path("source");
    fill_with(&source, 20);
    let image = place.path(&format!("{}.volume", name.replace('/', "-")));
    let made = make(&volume, &image, Some(&source));
    std::fs::remove_dir_all(&source).unwrap();
    let mut tree = Tree::new();
    if made {
        read_by_others(volume.tool, &image, |found| tree = found);
    }
    if tree.is_empty() {
        return None;
    }
    if volume.tool == Make::Ext {
        assert_same_tree(&by_debugfs(&image), &tree, "debugfs and the kernel");
    }
    Some(Subject { place: name, root: "", volume, image, tree })
}

/// Compares the raw disk `disk.img`, and what other formats make of it, alone and with a part of
/// its bytes in a parent.
fn in_every_format(place: &Place, sector: u64, subjects: &[Subject]) {
    let raw = inventory(place, "disk.img");
    assert_table(&place.path("disk.img"), sector, &raw);
    for subject in subjects {
        assert_volume(subject, &raw);
        assert_files(place, "disk.img", subject);
    }
    half_of_it(&place.path("disk.img"), &place.path("old.img"));
    for (format, options) in [("vhd", ""), ("vhdx", "-o block_size=1M"), ("vmdk", "")] {
        if sector == 4096 && format != "vhdx" {
            continue;
        }
        let options = match sector {
            4096 => "-o logical_sector_size=4096",
            _ => options,
        };
        let (plain, base, top) =
            (format!("plain.{format}"), format!("base.{format}"), format!("top.{format}"));
        place.run(&format!("convert -f raw {options} disk.img {plain}")).code(0);
        place.run(&format!("convert -f raw {options} old.img {base}")).code(0);
        place.run(&format!("convert -f raw -b {base} disk.img {top}")).code(0);
        for image in [&plain, &top] {
            assert_eq!(inventory(place, image), raw, "{image}");
            for subject in subjects {
                assert_files(place, image, subject);
            }
        }
    }
}

/// The disk with every other piece of it as it never was: the rest is in the child alone.
fn half_of_it(disk: &Path, old: &Path) {
    const PIECE: usize = 96 << 10;
    must("cp", &["--sparse=always", arg(disk), arg(old)]);
    let source = std::fs::File::open(disk).unwrap();
    let target = std::fs::OpenOptions::new().write(true).open(old).unwrap();
    let mut piece = vec![0; PIECE];
    for (index, at) in (0..source.metadata().unwrap().len()).step_by(PIECE).enumerate() {
        let len = source.read_at(&mut piece, at).unwrap();
        let used = piece[..len].iter().any(|byte| *byte != 0);
        // Also where the disk has zeros, which the child must say.
        if index % 2 == 1 && (used || index % 31 == 0) {
            target.write_all_at(&vec![0xA5; len], at).unwrap();
        }
    }
}

fn options(image: &str) -> &'static str {
    if image.ends_with(".img") { "-f raw" } else { "" }
}

/// What `inspect` tells, without the file's name.
fn inventory(place: &Place, image: &str) -> Value {
    let mut found = place.json(&format!("inspect {} {image}", options(image)));
    assert!(found.as_object_mut().unwrap().remove("filename").is_some());
    assert_eq!(found["problems"], serde_json::json!([]), "{image}");
    found
}

/// The partitions are those of sfdisk, and with GPT those of sgdisk.
fn assert_table(disk: &Path, sector: u64, found: &Value) {
    let device = match sector {
        512 => None,
        _ => Loop::attach(disk, &["--sector-size", &sector.to_string()]),
    };
    let path = device.as_ref().map_or(disk, |device| &device.path);
    let theirs: Value = serde_json::from_str(&must("sfdisk", &["--json", arg(path)])).unwrap();
    let table = &theirs["partitiontable"];
    let label = table["label"].as_str().unwrap();
    assert_eq!(table["sectorsize"].as_u64().unwrap_or(512), sector);
    assert_eq!(found["disk"]["sector-size"], sector);
    assert_eq!(found["disk"]["partition-table"], if label == "dos" { "mbr" } else { label });
    assert_eq!(found["disk"]["disk-id"], table["id"].as_str().unwrap().to_lowercase());
    let ours = found["partitions"].as_array().unwrap();
    let theirs = table["partitions"].as_array().unwrap();
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(theirs) {
        let node = theirs["node"].as_str().unwrap();
        let number = ours["number"].as_u64().unwrap();
        assert!(node.ends_with(&number.to_string()), "{node}");
        let bytes = |key: &str| theirs[key].as_u64().unwrap() * sector;
        assert_eq!(ours["start"], bytes("start"), "{node}");
        assert_eq!(ours["length"], bytes("size"), "{node}");
        let kind = theirs["type"].as_str().unwrap().to_lowercase();
        assert_eq!(ours["type"], if label == "dos" { format!("0x{kind:0>2}") } else { kind });
        if label == "gpt" {
            let said = must("sgdisk", &["-i", &number.to_string(), arg(path)]);
            let uuid = ours["uuid"].as_str().unwrap().to_uppercase();
            assert!(said.contains(&format!("Partition unique GUID: {uuid}")), "{said}");
            let first = format!("First sector: {} ", bytes("start") / sector);
            assert!(said.contains(&first), "{said}");
        }
    }
}

/// Kind, label and identity are those of blkid.
fn assert_volume(subject: &Subject, found: &Value) {
    let of_partition = |number: u64| {
        found["partitions"].as_array().unwrap().iter().find(|one| one["number"] == number).unwrap()
    };
    let of_name = || {
        let volumes = found["volumes"].as_array().unwrap();
        volumes.iter().find(|one| one["name"] == subject.place).unwrap()
    };
    let ours = match subject.place.parse() {
        Ok(number) => &of_partition(number)["filesystem"],
        Err(_) => &of_name()["filesystem"],
    };
    let context = format!("{}: {ours}", subject.place);
    assert_eq!(ours["type"], subject.volume.kind, "{context}");
    assert_eq!(ours["state"], "clean", "{context}");
    let said = Command::new("blkid").args(["-p", "-o", "export", arg(&subject.image)]).output();
    let said = String::from_utf8(said.unwrap().stdout).unwrap();
    let value = |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
    let kind = value("TYPE").unwrap();
    assert_eq!(kind, if subject.volume.tool == Make::Fat { "vfat" } else { subject.volume.kind });
    assert_eq!(ours["uuid"].as_str(), value("UUID"), "{context}");
    assert_eq!(ours["label"].as_str(), value("LABEL"), "{context}");
}

/// `ls`, `cat` and `extract` give the names and bytes that others read.
fn assert_files(place: &Place, image: &str, subject: &Subject) {
    let context = format!("{image}:{}:{}", subject.place, subject.root);
    let f = options(image);
    let listed = place.json(&format!("ls -R {f} {context}/"));
    assert_eq!(listed["file-system"], subject.volume.kind, "{context}");
    let ours: Tree = listed["entries"].as_array().unwrap().iter().map(entry).collect();
    let theirs: Tree = subject
        .tree
        .iter()
        .map(|(path, node)| {
            let is_file = node != "dir" && !node.starts_with("link ");
            let node = if is_file { node.split(' ').next().unwrap() } else { node };
            (path.clone(), node.to_owned())
        })
        .collect();
    assert_same_tree(&ours, &theirs, &context);
    for path in ["/small.txt", "/medium.bin", "/hole", "/empty"] {
        let mut command = place.command();
        command.arg("cat").args(f.split_whitespace()).arg(format!("{context}{path}"));
        let done = command.output().unwrap();
        assert!(done.status.success(), "{context}{path}: {done:?}");
        assert_eq!(digest(&done.stdout), subject.tree[path], "{context}{path}");
    }
    place.run(&format!("extract {f} {context}/ out")).ok();
    assert_same_tree(&tree_on_host(&place.path("out")), &subject.tree, &context);
    std::fs::remove_dir_all(place.path("out")).unwrap();
}

/// A name and what stands there: `dir`, `link TARGET`, or the size of a file.
fn entry(entry: &Value) -> (String, String) {
    let node = match entry["kind"].as_str().unwrap() {
        "directory" => "dir".to_owned(),
        "symlink" => format!("link {}", entry["target"].as_str().unwrap()),
        _ => entry["size"].to_string(),
    };
    (format!("/{}", entry["name"].as_str().unwrap()), node)
}
