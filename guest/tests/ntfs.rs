//! NTFS where the crate that changes it cannot follow: large clusters, directories in many pieces,
//! compression, names that are no text. ntfs-3g says what is there.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use common::{open, tree_of};
use vdisk_core::{CowDisk, Disk, ErrorKind};
use vdisk_guest::fs::{Edit, GuestFs, GuestFsMut, Unix, open as open_fs, open_mut};
use vdisk_guest::ntfs::{INDEX_ALLOCATION, Ntfs};
use vdisk_testkit::tools::{arg, must, said};
use vdisk_testkit::tree::{assert_same_tree, digest, fill, tree_on_host};
use vdisk_testkit::volumes::{Make, Volume, judge, make, mounted, read_by_others, scattered};

const UNIX: Unix = Unix { mode: 0o644, uid: 0, gid: 0 };

fn volume(mib: u64, args: &'static [&'static str]) -> Volume {
    Volume { tool: Make::Ntfs, kind: "ntfs", mib, args }
}

/// Changes the image, and has others find no fault; what they read is what we read.
fn change(image: &Path, change: impl FnOnce(&mut dyn GuestFsMut)) {
    let disk = Arc::new(CowDisk::new(common::disk(image), 256 << 20));
    let mut fs = open_mut(disk.clone()).unwrap().unwrap();
    change(&mut *fs);
    let ours = tree_of(&*fs);
    let file = fs::File::options().write(true).open(image).unwrap();
    for change in disk.changes().unwrap() {
        file.write_all_at(&change.bytes, change.offset).unwrap();
    }
    drop(file);
    judge(Make::Ntfs, image, "changed");
    read_by_others(Make::Ntfs, image, |theirs| assert_same_tree(&ours, &theirs, "changed"));
}

/// From clusters of a block's size up to the largest, which only new Windows make.
#[test]
fn clusters_larger_than_blocks_of_directories() {
    let folder = tempfile::tempdir().unwrap();
    let (image, source) = (folder.path().join("volume"), folder.path().join("tree"));
    fill(&source);
    for (mib, args) in [
        (48, &["-c", "8192"]),
        (48, &["-c", "16384"]),
        (64, &["-c", "32768"]),
        (96, &["-c", "65536"]),
        (192, &["-c", "2097152"]),
    ] {
        if !make(&volume(mib, args), &image, Some(&source)) {
            return;
        }
        let fs = open(&image);
        let ours = tree_of(&*fs);
        assert_eq!(fs.info().block_size.to_string(), args[1]);
        read_by_others(Make::Ntfs, &image, |theirs| {
            assert!(theirs.len() > 300, "{args:?}");
            assert_same_tree(&ours, &theirs, args[1]);
        });
        assert!(fs.exists(b"/MANY/FILE_Number_299").unwrap(), "{args:?}");
        drop(fs);
        change(&image, |fs| {
            let path = &b"/many/file_number_200"[..];
            for edit in [
                Edit::Write { path: b"/big.bin", offset: 70_000, data: &[7; 100_000] },
                Edit::SetLen { path: b"/medium.bin", len: 1_000_000 },
                Edit::Replace { path: b"/medium.bin", content: &[9; 300_000] },
                Edit::Replace { path: b"/big.bin", content: &[8; 30_000] },
            ] {
                fs.apply(&edit).unwrap_or_else(|e| panic!("{args:?}: {e}"));
            }
            for edit in [
                Edit::Create { path: b"/many/new", content: b"x", unix: UNIX },
                Edit::Create { path: b"/new", content: b"x", unix: UNIX },
                Edit::Remove { path },
                Edit::Rename { from: path, to: b"/many/other" },
            ] {
                let error = fs.apply(&edit).unwrap_err();
                assert_eq!(error.kind(), ErrorKind::Unsupported, "{edit:?}");
                assert!(error.to_string().contains("clusters have"), "{error}");
            }
        });
        let cluster: u64 = args[1].parse().unwrap();
        for (name, len) in [("medium.bin", 300_000_u64), ("big.bin", 30_000)] {
            let sizes = (len.next_multiple_of(cluster), len);
            assert_eq!(entry_sizes(&image, "/", name), Some(sizes), "{args:?}: {name}");
        }
    }
}

/// As `scattered` makes it, and several records tell of an index.
fn in_pieces(image: &Path) -> bool {
    let made = scattered(image);
    if made {
        let ntfs = Ntfs::open(common::disk(image)).unwrap();
        let is_in_pieces = |number| {
            let record = ntfs.record(number).unwrap();
            ntfs.piece_count(&record, INDEX_ALLOCATION, "$I30").unwrap() > 1
        };
        assert!((64..72).any(is_in_pieces), "no index is in several records");
    }
    made
}

#[test]
fn a_directory_in_many_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("volume");
    if !in_pieces(&image) {
        return;
    }
    let fs = open(&image);
    read_by_others(Make::Ntfs, &image, |theirs| {
        assert_same_tree(&tree_of(&*fs), &theirs, "in pieces");
    });
    let names = fs.read_dir(b"/Windows/System32").unwrap();
    for entry in names.iter().step_by(37) {
        let name = String::from_utf8(entry.name.clone()).unwrap().to_uppercase();
        let path = format!("/WINDOWS/system32/{name}");
        assert!(fs.exists(path.as_bytes()).unwrap(), "{path}");
        assert!(!fs.exists(format!("{path}x").as_bytes()).unwrap(), "{path}x");
    }
    drop(fs);
    change(&image, |fs| {
        let hive = &b"/Windows/System32/hive"[..];
        let driver = &b"/Windows/System32/drivers/viostor.sys"[..];
        for edit in [
            Edit::Write { path: hive, offset: 4096, data: &[4; 8192] },
            Edit::Write { path: hive, offset: 80_000, data: &[5; 50_000] },
            Edit::Create { path: driver, content: &[6; 40_000], unix: UNIX },
            Edit::CreateDir { path: b"/Windows/System32/drivers/etc", unix: UNIX },
            Edit::Rename { from: driver, to: b"/between/0/moved.sys" },
            Edit::Rename { from: b"/between/0/moved.sys", to: b"/between/0/again.sys" },
            Edit::Remove { path: b"/Windows/System32/drivers/ntfs.sys" },
        ] {
            fs.apply(&edit).unwrap_or_else(|e| panic!("{e}"));
        }
        let there = "0".repeat(97) + "111.dll";
        let there = format!("/Windows/System32/{there}");
        for edit in [
            Edit::Create { path: b"/Windows/System32/new.dll", content: b"", unix: UNIX },
            Edit::Remove { path: there.as_bytes() },
            Edit::Rename { from: b"/between/0/7", to: b"/Windows/System32/5" },
        ] {
            let error = fs.apply(&edit).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Unsupported, "{edit:?}: {error}");
            let told = error.to_string();
            assert!(told.contains("System32") && told.contains("several file records"), "{told}");
        }
    });
    // What a listing says of the file's size, which ntfsinfo does not show of such a directory.
    let bytes = fs::read(&image).unwrap();
    let name: Vec<u8> = "hive".encode_utf16().flat_map(u16::to_le_bytes).collect();
    let key = [&130_048_u64.to_le_bytes()[..], &130_000_u64.to_le_bytes()].concat();
    let told = |at: usize| at > 26 && bytes[at - 26..].starts_with(&key);
    let mut places = bytes.windows(name.len()).enumerate().filter(|(_, there)| *there == name);
    assert!(places.any(|(at, _)| told(at)), "the index tells another size");
}

/// The sizes that a directory's index keeps of a file, as ntfsinfo tells them.
fn entry_sizes(image: &Path, directory: &str, name: &str) -> Option<(u64, u64)> {
    let told = must("ntfsinfo", &["-v", "-F", directory, arg(image)]);
    let wanted = format!("Filename:\t\t '{name}'");
    // The directory's own name and those of its entries come one after another.
    let entry = told.split("Parent directory:").find(|entry| entry.contains(&wanted))?;
    let number = |key: &str| {
        let line = entry.lines().find(|line| line.trim().starts_with(key))?;
        line.split_once(':')?.1.split_whitespace().next()?.parse().ok()
    };
    Some((number("Allocated Size")?, number("Data Size")?))
}

/// Compressed by ntfs-3g: units that are packed, that are not, and holes, up to a size that is not
/// read whole.
#[test]
fn compressed_files() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("volume");
    if !make(&volume(64, &[]), &image, None) {
        return;
    }
    let point = folder.path().join("mounted");
    fs::create_dir(&point).unwrap();
    let done =
        Command::new("ntfs-3g").args(["-o", "compression", arg(&image), arg(&point)]).output();
    let done = done.unwrap();
    assert!(done.status.success(), "{}", said(&done));
    fs::create_dir(point.join("packed")).unwrap();
    let mark =
        "import os, sys; os.setxattr(sys.argv[1], 'system.ntfs_attrib', b'\\x10\\x08\\0\\0')";
    must("python3", &["-c", mark, arg(&point.join("packed"))]);
    let mut rng = fastrand::Rng::with_seed(5);
    let noise: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(300_000).collect();
    let text: Vec<u8> =
        (0..400_000_u32).flat_map(|n| format!("{} ", n % 977).into_bytes()).collect();
    let mixed = [&text[..200_000], &noise, &vec![0; 500_000], &text[..333_333]].concat();
    for (name, content) in [("noise", &noise), ("text", &text), ("mixed", &mixed)] {
        fs::write(point.join("packed").join(name), content).unwrap();
    }
    fs::write(point.join("packed/short"), &text[..5000]).unwrap();
    must("umount", &[arg(&point)]);
    judge(Make::Ntfs, &image, "compressed");
    let told = must("ntfsinfo", &["-F", "/packed/text", arg(&image)]);
    assert!(told.contains("COMPRESSED"), "{told}");

    let fs = open(&image);
    read_by_others(Make::Ntfs, &image, |theirs| {
        assert_same_tree(&tree_of(&*fs), &theirs, "compressed");
    });
    // In pieces that begin and end inside of units.
    let mut piece = vec![0; 123_457];
    for at in (0..mixed.len()).step_by(99_991) {
        let len = fs.read_at(b"/packed/mixed", at as u64, &mut piece).unwrap();
        assert!(piece[..len] == mixed[at..][..len], "at {at}");
        assert_eq!(len, piece.len().min(mixed.len() - at));
    }
    drop(fs);
    let disk = Arc::new(CowDisk::new(common::disk(&image), 64 << 20));
    let mut fs = open_mut(disk.clone()).unwrap().unwrap();
    let error = fs.apply(&Edit::Write { path: b"/packed/text", offset: 7, data: b"x" });
    assert_eq!(error.unwrap_err().kind(), ErrorKind::Unsupported);
    assert_eq!(disk.changes().unwrap(), []);
}

/// NTFS takes surrogates without their partner; ntfs-3g shows them in three bytes, and so do we.
#[test]
fn names_that_are_no_text() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("volume");
    let names = [&b"low \xED\xB2\xA9 alone"[..], b"\xED\xA0\x80", "Größe 𝄞".as_bytes()];
    let made = make(&volume(24, &[]), &image, None)
        && mounted(Make::Ntfs, &image, false, |root| {
            for name in names {
                fs::write(root.join(OsStr::from_bytes(name)), name).unwrap();
            }
        });
    if !made {
        return;
    }
    let fs = open(&image);
    let listed: Vec<Vec<u8>> = fs.read_dir(b"/").unwrap().into_iter().map(|one| one.name).collect();
    for name in names {
        assert!(listed.contains(&name.to_vec()), "{listed:x?}");
        assert_eq!(fs.read(&[b"/", name].concat(), 100).unwrap(), name);
    }
    assert!(!fs.exists(b"/\xFF").unwrap());
}

/// Names that differ in case alone, as Linux makes them, are each found by its own spelling.
#[test]
fn names_that_differ_in_case() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("volume");
    let names: Vec<String> = (0..64)
        .map(|bits| (0..6).map(|at| if bits >> at & 1 == 1 { 'A' } else { 'a' }).collect())
        .collect();
    let made = make(&volume(24, &[]), &image, None)
        && mounted(Make::Ntfs, &image, false, |root| {
            let more = (0..200).map(|number| format!("aaaab{number}"));
            for name in names.iter().cloned().chain(more) {
                fs::write(root.join(&name), &name).unwrap();
            }
        });
    if !made {
        return;
    }
    let fs = open(&image);
    for name in &names {
        assert_eq!(fs.read(format!("/{name}").as_bytes(), 100).unwrap(), name.as_bytes());
    }
    assert_eq!(fs.read(b"/AAAAB77", 100).unwrap(), b"aaaab77");
}

/// Blocks of a directory that lead round in circles, to nowhere, to others, or are torn: an error
/// that tells a byte of the volume, and soon.
#[test]
fn indexes_that_lie() {
    let folder = tempfile::tempdir().unwrap();
    let (image, source) = (folder.path().join("volume"), folder.path().join("tree"));
    fill(&source);
    if !make(&volume(24, &[]), &image, Some(&source)) {
        return;
    }
    let sound = fs::read(&image).unwrap();
    let names = open(&image).read_dir(b"/many").unwrap().len();
    let blocks: Vec<usize> =
        (0..sound.len()).step_by(4096).filter(|at| sound[*at..].starts_with(b"INDX")).collect();
    assert!(blocks.len() > 4, "{blocks:x?}");
    let vcn = |block: usize| u64::from_le_bytes(sound[block + 16..][..8].try_into().unwrap());
    let (mut refused, mut places) = (0, 0);
    for block in &blocks {
        // A leaf becomes a node: its first entry leads to itself, to the next one, beyond the end.
        for target in [vcn(*block), vcn(*block) + 1, 0, 1 << 40, u64::MAX] {
            let mut bytes = sound.clone();
            let first = block + 24 + bytes[block + 24] as usize;
            let len = u16::from_le_bytes(bytes[first + 8..][..2].try_into().unwrap()) as usize;
            bytes[first + 12] |= 1;
            bytes[first + len - 8..][..8].copy_from_slice(&target.to_le_bytes());
            bytes[block + 36] |= 1;
            refused += usize::from(!reads(bytes, names, &mut places));
        }
        // Torn; with another number; with an entry of no length; one that is longer than the block.
        for (at, value) in [(510, 0xEE), (16, 0x77), (24 + 0x28 + 8, 0), (24 + 0x28 + 9, 0xFF)] {
            let mut bytes = sound.clone();
            bytes[block + at] ^= value;
            refused += usize::from(!reads(bytes, names, &mut places));
        }
    }
    // Blocks of directories that are not read, and of other indexes, do no harm.
    assert!(refused > blocks.len(), "{refused} of {} blocks", blocks.len());
    assert!(places > refused / 2, "{places} of {refused} errors tell a place");
}

/// Whether all names can be read, of which there are so many in `/many`; errors are in order.
fn reads(bytes: Vec<u8>, names: usize, places: &mut usize) -> bool {
    let disk: Arc<dyn Disk> = Arc::new(vdisk_testkit::VecDisk(bytes));
    let look = |fs: &dyn GuestFs| {
        let listed = fs.read_dir(b"/many")?;
        assert_eq!(listed.len(), names, "a list that is not whole is no error");
        for entry in listed.iter().take(40) {
            fs.stat(&[b"/many/", &entry.name[..]].concat())?;
        }
        Ok(())
    };
    let done = open_fs(disk).and_then(|fs| look(&*fs.unwrap()));
    if let Err(error) = &done {
        assert_eq!(error.kind(), ErrorKind::Corrupt, "{error}");
        *places += usize::from(error.to_string().contains(" at byte "));
    }
    done.is_ok()
}

/// All of the tree, as it was written; the same through ntfs-3g.
#[test]
fn sparse_files_and_holes() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("volume");
    let mut digests = Vec::new();
    let made = make(&volume(64, &[]), &image, None)
        && mounted(Make::Ntfs, &image, false, |root| {
            for (name, len) in [("a", 5_000_000), ("b", 1 << 20), ("c", 3000)] {
                let file = fs::File::create(root.join(name)).unwrap();
                file.set_len(len).unwrap();
                file.write_all_at(&[1; 700], len / 2).unwrap();
                file.write_all_at(&[2; 70_000], len / 3).unwrap();
                drop(file);
                digests.push(digest(&fs::read(root.join(name)).unwrap()));
            }
            digests.sort();
            assert_eq!(tree_on_host(root).len(), 3);
        });
    if made {
        let mut ours: Vec<String> = tree_of(&*open(&image)).into_values().collect();
        ours.sort();
        assert_eq!(ours, digests);
    }
}
