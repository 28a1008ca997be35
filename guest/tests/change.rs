//! Seeded changes of every file system through the interface, against a model; other programs
//! judge what became of the volume.
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
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;

use fastrand::Rng;
use vdisk_core::{CowDisk, ErrorKind};
use vdisk_guest::fs::{Edit, FileKind, GuestFs, GuestFsMut, Unix, open_mut};
use vdisk_testkit::tree::{self, Tree};
use vdisk_testkit::volumes::{Make, VOLUMES, Volume, judge, make, read_by_others};

/// Changes made on each volume. `VDISK_FS_EDITS` asks for more.
fn edits() -> usize {
    std::env::var("VDISK_FS_EDITS").map_or(120, |number| number.parse().unwrap())
}

/// Changes between two looks of the judges.
const ROUND: usize = 60;

const UNIX: Unix = Unix { mode: 0o640, uid: 1000, gid: 100 };

#[test]
fn changes_of_ext() {
    VOLUMES.iter().filter(|volume| volume.tool == Make::Ext).for_each(change);
}

#[test]
fn changes_of_xfs() {
    let new = |volume: &&Volume| volume.tool == Make::Xfs && !volume.is_old_xfs();
    VOLUMES.iter().filter(new).for_each(change);
}

#[test]
fn changes_of_ntfs() {
    VOLUMES.iter().filter(|volume| volume.tool == Make::Ntfs).for_each(change);
}

#[test]
fn changes_of_fat() {
    VOLUMES.iter().filter(|volume| volume.tool == Make::Fat).for_each(change);
}

/// The model: a file's bytes, or `None` for a directory.
type Model = BTreeMap<String, Option<Vec<u8>>>;

/// Makes changes on a volume, half of it filled by others before.
fn change(volume: &Volume) {
    let seed = std::env::var("VDISK_FS_SEED").map_or(1, |seed| seed.parse().unwrap());
    change_with(volume, edits(), seed);
}

/// The same with so many changes, from a seed; why some were refused.
fn change_with(volume: &Volume, edits: usize, seed: u64) -> Vec<String> {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("volume");
    let source = folder.path().join("tree");
    tree::fill(&source);
    if !make(volume, &image, Some(&source)) {
        return Vec::new();
    }
    let mut rng = Rng::with_seed(seed);
    let mut model = read_model(&*common::open(&image));
    let (mut done, mut refused) = (0, Vec::new());
    for round in 0..edits.div_ceil(ROUND) {
        let context = format!("{volume:?}, seed {seed}, round {round}");
        let disk = Arc::new(CowDisk::new(common::disk(&image), 256 << 20));
        let mut fs = open_mut(disk.clone()).unwrap().unwrap();
        let mut before = disk.changes().unwrap();
        for _ in 0..ROUND {
            let edit = Random::new(&mut rng, &model, volume);
            match fs.apply(&edit.edit()) {
                Ok(()) => {
                    done += 1;
                    edit.carry_out(&mut model);
                    before = disk.changes().unwrap();
                }
                Err(error) => {
                    let kind = error.kind();
                    assert!(
                        matches!(
                            kind,
                            ErrorKind::Unsupported | ErrorKind::NoSpace | ErrorKind::Refused
                        ),
                        "{context}: {edit:?}: {error} ({kind:?})"
                    );
                    assert!(disk.changes().unwrap() == before, "{context}: {edit:?} left a trace");
                    refused.push(error.to_string());
                }
            }
        }
        drop(fs);
        let file = std::fs::File::options().write(true).open(&image).unwrap();
        for change in disk.changes().unwrap() {
            file.write_all_at(&change.bytes, change.offset).unwrap();
        }
        drop(file);
        judge(volume.tool, &image, &context);
        compare(volume, &image, &model, &context);
    }
    eprintln!("{volume:?}: {done} done, {} refused", refused.len());
    refused.sort();
    for reason in refused.iter().take(200) {
        eprintln!("  {reason}");
    }
    assert!(done > 4 * refused.len(), "{volume:?}: most was refused: {refused:#?}");
    refused
}

fn read_model(fs: &dyn GuestFs) -> Model {
    fn walk(fs: &dyn GuestFs, folder: &str, model: &mut Model) {
        for entry in fs.read_dir(folder.as_bytes()).unwrap() {
            let name = String::from_utf8(entry.name).unwrap();
            let path = format!("{}/{name}", folder.trim_end_matches('/'));
            match entry.kind {
                FileKind::Directory => {
                    walk(fs, &path, model);
                    model.insert(path, None);
                }
                FileKind::File => {
                    let content = fs.read(path.as_bytes(), u64::MAX).unwrap();
                    model.insert(path, Some(content));
                }
                _ => {}
            }
        }
    }
    let mut model = Model::new();
    walk(fs, "/", &mut model);
    // Not ours to change, and links stand in the other.
    model.retain(|path, _| !path.starts_with("/lost+found") && !path.starts_with("/links"));
    model
}

/// What others read of the volume is the model.
fn compare(volume: &Volume, image: &Path, model: &Model, context: &str) {
    let expected: Tree = model
        .iter()
        .map(|(path, node)| {
            (path.clone(), node.as_ref().map_or("dir".to_owned(), |bytes| tree::digest(bytes)))
        })
        .collect();
    read_by_others(volume.tool, image, |mut found| {
        found.retain(|path, _| !path.starts_with("/lost+found") && !path.starts_with("/links"));
        tree::assert_same_tree(&found, &expected, context);
    });
}

/// A random change that the model allows.
#[derive(Debug)]
enum Random {
    Create(String, Vec<u8>),
    CreateDir(String),
    Replace(String, Vec<u8>),
    Write(String, u64, Vec<u8>),
    SetLen(String, u64),
    Remove(String),
    Rename(String, String),
}

impl Random {
    fn new(rng: &mut Rng, model: &Model, volume: &Volume) -> Self {
        loop {
            let found = match rng.u8(..100) {
                0..22 => Some(Self::Create(free(rng, model), bytes(rng))),
                22..30 => Some(Self::CreateDir(free(rng, model))),
                30..50 => file(rng, model).map(|path| Self::Replace(path, bytes(rng))),
                50..63 => file(rng, model).map(|path| {
                    let size = model[&path].as_ref().unwrap().len() as u64;
                    Self::Write(path, rng.u64(..=size), bytes(rng))
                }),
                63..73 => file(rng, model).map(|path| {
                    let size = model[&path].as_ref().unwrap().len() as u64;
                    Self::SetLen(
                        path,
                        if rng.bool() { rng.u64(..=size) } else { size + rng.u64(..90_000) },
                    )
                }),
                73..90 => removable(rng, model).map(Self::Remove),
                _ => any(rng, model).map(|from| Self::Rename(from, free(rng, model))),
            };
            let makes_sense = |edit: &Self| match edit {
                Self::Rename(from, to) => {
                    let inside = to.starts_with(&format!("{from}/"));
                    let moved_folder = model[from].is_none() && parent(from) != parent(to);
                    // These two cannot do that; a test of their own says so.
                    !(inside || moved_folder && matches!(volume.tool, Make::Ntfs | Make::Fat))
                }
                _ => true,
            };
            if let Some(edit) = found.filter(makes_sense) {
                return edit;
            }
        }
    }

    fn edit(&self) -> Edit<'_> {
        match self {
            Self::Create(path, content) => {
                Edit::Create { path: path.as_bytes(), content, unix: UNIX }
            }
            Self::CreateDir(path) => {
                Edit::CreateDir { path: path.as_bytes(), unix: Unix { mode: 0o755, ..UNIX } }
            }
            Self::Replace(path, content) => Edit::Replace { path: path.as_bytes(), content },
            Self::Write(path, offset, data) => {
                Edit::Write { path: path.as_bytes(), offset: *offset, data }
            }
            Self::SetLen(path, len) => Edit::SetLen { path: path.as_bytes(), len: *len },
            Self::Remove(path) => Edit::Remove { path: path.as_bytes() },
            Self::Rename(from, to) => Edit::Rename { from: from.as_bytes(), to: to.as_bytes() },
        }
    }

    fn carry_out(self, model: &mut Model) {
        match self {
            Self::Create(path, content) | Self::Replace(path, content) => {
                model.insert(path, Some(content));
            }
            Self::CreateDir(path) => {
                model.insert(path, None);
            }
            Self::Write(path, offset, data) => {
                let content = model.get_mut(&path).unwrap().as_mut().unwrap();
                let (start, end) = (offset as usize, offset as usize + data.len());
                content.resize(content.len().max(end), 0);
                content[start..end].copy_from_slice(&data);
            }
            Self::SetLen(path, len) => {
                model.get_mut(&path).unwrap().as_mut().unwrap().resize(len as usize, 0);
            }
            Self::Remove(path) => {
                model.remove(&path);
            }
            Self::Rename(from, to) => {
                let inside = format!("{from}/");
                let moved: Vec<String> = model
                    .keys()
                    .filter(|path| **path == from || path.starts_with(&inside))
                    .cloned()
                    .collect();
                for path in moved {
                    let node = model.remove(&path).unwrap();
                    model.insert(format!("{to}{}", &path[from.len()..]), node);
                }
            }
        }
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').unwrap().0
}

fn pick<'a>(rng: &mut Rng, from: impl Iterator<Item = &'a String>) -> Option<String> {
    let all: Vec<&String> = from.collect();
    rng.choice(all).cloned()
}

fn file(rng: &mut Rng, model: &Model) -> Option<String> {
    pick(rng, model.iter().filter(|(_, node)| node.is_some()).map(|(path, _)| path))
}

fn any(rng: &mut Rng, model: &Model) -> Option<String> {
    pick(rng, model.keys())
}

/// A file or an empty directory.
fn removable(rng: &mut Rng, model: &Model) -> Option<String> {
    any(rng, model).filter(|path| {
        let inside = format!("{path}/");
        !model.keys().any(|other| other.starts_with(&inside))
    })
}

/// A path where nothing is, in a directory that is there.
fn free(rng: &mut Rng, model: &Model) -> String {
    let folders = model.iter().filter(|(_, node)| node.is_none()).map(|(path, _)| path);
    let folder = if rng.u8(..4) == 0 { None } else { pick(rng, folders) }.unwrap_or_default();
    loop {
        let name = match rng.u8(..5) {
            0 => format!("new{}.txt", rng.u32(..)),
            1 => format!("a longer name, with spaces {}", rng.u32(..)),
            2 => format!("ünï çødé {}", rng.u32(..)),
            3 => format!("{}{}", "long".repeat(40), rng.u32(..)),
            _ => format!("N{}", rng.u16(..)),
        };
        let path = format!("{folder}/{name}");
        let lower = path.to_lowercase();
        if !model.keys().any(|there| there.to_lowercase() == lower) {
            return path;
        }
    }
}

fn bytes(rng: &mut Rng) -> Vec<u8> {
    let len = match rng.u8(..10) {
        0 => 0,
        1..5 => rng.usize(..800),
        5..8 => rng.usize(..9000),
        8 => rng.usize(..60_000),
        _ => rng.usize(..400_000),
    };
    let mut bytes = vec![0; len];
    rng.fill(&mut bytes);
    bytes
}

/// Everything that is refused leaves the disk as it was.
#[test]
fn what_cannot_be_done_is_refused_with_nothing_written() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("volume");
    let source = folder.path().join("tree");
    tree::fill(&source);
    for volume in VOLUMES {
        if !make(volume, &image, Some(&source)) {
            continue;
        }
        let disk = Arc::new(CowDisk::new(common::disk(&image), 64 << 20));
        let mut fs = open_mut(disk.clone()).unwrap().unwrap();
        let unix = UNIX;
        let mut refuses = |edit: Edit<'_>, kind: ErrorKind| {
            let error = fs.apply(&edit).unwrap_err();
            assert_eq!(error.kind(), kind, "{volume:?}: {edit:?}: {error}");
            assert_eq!(disk.changes().unwrap(), [], "{volume:?}: {edit:?}");
        };
        let content = &b"x"[..];
        refuses(Edit::Create { path: b"/small.txt", content, unix }, ErrorKind::Refused);
        refuses(Edit::Create { path: b"/no/where", content, unix }, ErrorKind::NotFound);
        refuses(Edit::Create { path: b"/", content, unix }, ErrorKind::Usage);
        refuses(Edit::CreateDir { path: b"/many", unix }, ErrorKind::Refused);
        refuses(Edit::Replace { path: b"/nothing", content }, ErrorKind::NotFound);
        refuses(Edit::Replace { path: b"/many", content }, ErrorKind::Usage);
        refuses(Edit::Write { path: b"/empty", offset: 1, data: content }, ErrorKind::Usage);
        refuses(Edit::SetLen { path: b"/empty", len: 1 << 40 }, ErrorKind::Refused);
        refuses(Edit::Remove { path: b"/nothing" }, ErrorKind::NotFound);
        refuses(Edit::Rename { from: b"/many", to: b"/many/more" }, ErrorKind::Usage);
        refuses(Edit::Rename { from: b"/many", to: b"/deep" }, ErrorKind::Refused);
        let not_empty = match volume.tool {
            Make::Btrfs => ErrorKind::Unsupported,
            Make::Xfs if volume.is_old_xfs() => ErrorKind::Unsupported,
            _ => ErrorKind::Refused,
        };
        refuses(Edit::Remove { path: b"/many" }, not_empty);
        if matches!(volume.tool, Make::Ntfs | Make::Fat) {
            let moved = Edit::Rename { from: b"/many", to: b"/deep/many" };
            refuses(moved, ErrorKind::Unsupported);
        }
        let too_much = vec![1; (volume.mib as usize + 1) << 20];
        let full = fs.apply(&Edit::Replace { path: b"/small.txt", content: &too_much });
        assert!(full.is_err(), "{volume:?}");
        assert_eq!(disk.changes().unwrap(), [], "{volume:?}");
    }
}

/// On Btrfs bytes inside of files can be changed.
#[test]
fn changes_of_btrfs() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("volume");
    let source = folder.path().join("tree");
    tree::fill(&source);
    let volume = VOLUMES.iter().find(|volume| volume.tool == Make::Btrfs).unwrap();
    if !make(volume, &image, Some(&source)) {
        return;
    }
    let mut model = read_model(&*common::open(&image));
    let mut rng = Rng::with_seed(3);
    let disk = Arc::new(CowDisk::new(common::disk(&image), 64 << 20));
    let mut fs = open_mut(disk.clone()).unwrap().unwrap();
    let (mut done, mut refused) = (0, 0);
    for _ in 0..80 {
        let path = file(&mut rng, &model).unwrap();
        let size = model[&path].as_ref().unwrap().len();
        let start = rng.usize(..=size);
        let mut data = vec![0; rng.usize(..=size - start)];
        rng.fill(&mut data);
        let edit = Random::Write(path, start as u64, data);
        match fs.apply(&edit.edit()) {
            Ok(()) => {
                done += 1;
                edit.carry_out(&mut model);
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{edit:?}: {error}");
                refused += 1;
            }
        }
    }
    eprintln!("btrfs: {done} done, {refused} refused");
    drop(fs);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    for change in disk.changes().unwrap() {
        file.write_all_at(&change.bytes, change.offset).unwrap();
    }
    judge(volume.tool, &image, "btrfs");
    compare(volume, &image, &model, "btrfs");
}

/// A directory's record may have no room for its first name.
#[test]
fn the_first_name_of_a_directory_on_ntfs_may_be_long() {
    let ntfs = Volume { tool: Make::Ntfs, kind: "ntfs", mib: 24, args: &[] };
    let long = "n".repeat(200);
    let folders = ["created", "moved"].map(|name| format!("/{name:_>150}"));
    let paths = folders.clone().map(|folder| format!("{folder}/{long}"));
    changed_as_told(&ntfs, |fs| {
        for folder in &folders {
            fs.apply(&Edit::CreateDir { path: folder.as_bytes(), unix: UNIX }).unwrap();
        }
        for path in [&paths[0], "/file"] {
            fs.apply(&Edit::Create { path: path.as_bytes(), content: b"x", unix: UNIX }).unwrap();
        }
        fs.apply(&Edit::Rename { from: b"/file", to: paths[1].as_bytes() }).unwrap();
    });
}

/// From this seed a rename gives its directory a fifth extent, for which its inode has no room.
#[test]
fn a_directory_of_ext4_grows_while_a_name_in_it_changes() {
    let ext4 = VOLUMES.iter().find(|volume| volume.kind == "ext4").unwrap();
    assert_eq!(change_with(ext4, 1000, 12), [""; 0]);
}

/// Makes changes on an empty volume; others read what became of it as we do, and find no fault.
fn changed_as_told(volume: &Volume, change: impl FnOnce(&mut dyn GuestFsMut)) {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("volume");
    if !make(volume, &image, None) {
        return;
    }
    let disk = Arc::new(CowDisk::new(common::disk(&image), 64 << 20));
    let mut fs = open_mut(disk.clone()).unwrap().unwrap();
    change(&mut *fs);
    let file = std::fs::File::options().write(true).open(&image).unwrap();
    for change in disk.changes().unwrap() {
        file.write_all_at(&change.bytes, change.offset).unwrap();
    }
    drop(file);
    judge(volume.tool, &image, volume.kind);
    let ours = common::tree_of(&*fs);
    read_by_others(volume.tool, &image, |theirs| {
        tree::assert_same_tree(&ours, &theirs, volume.kind);
    });
}
