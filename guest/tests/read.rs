//! Volumes that other programs made and filled, read by ours: every name, kind and byte.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use common::{open, tree_of};
use vdisk_testkit::tools::{arg, must};
use vdisk_testkit::tree::{self, fill};
use vdisk_testkit::volumes::{Make, VOLUMES, Volume, make, mounted, read_by_others};

#[test]
fn every_file_reads_as_it_was_written() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("tree");
    fill(&source);
    let expected = tree::tree_on_host(&source);
    for volume in VOLUMES {
        let image = folder.path().join("volume");
        if !make(volume, &image, Some(&source)) {
            continue;
        }
        let fs = open(&image);
        let info = fs.info();
        assert_eq!(info.kind.name(), volume.kind, "{volume:?}");
        assert_eq!(info.label, volume.label(), "{volume:?}");
        assert_eq!(info.state.name(), "clean", "{volume:?}");
        assert!(fs.used().unwrap() < info.total, "{volume:?}");
        let mut found = tree_of(&*fs);
        found.retain(|path, _| !volume.own_names().contains(&path.as_str()));
        let mut expected = expected.clone();
        if !volume.has_links() {
            expected.retain(|_, node| !node.starts_with("link"));
        }
        tree::assert_same_tree(&found, &expected, &format!("{volume:?}"));
        std::fs::remove_file(&image).unwrap();
    }
}

#[test]
fn links_and_names_lead_where_they_should() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("tree");
    fill(&source);
    for volume in VOLUMES.iter().filter(|volume| volume.has_links()) {
        let image = folder.path().join("volume");
        if !make(volume, &image, Some(&source)) {
            continue;
        }
        let fs = open(&image);
        // The links of the tree: see `fill`.
        assert_eq!(fs.read(b"/links/relative", 100).unwrap(), b"small\n", "{volume:?}");
        assert_eq!(fs.read_link(b"/links/relative").unwrap(), b"../small.txt");
        assert_eq!(fs.read(b"links/../links/./relative", 100).unwrap(), b"small\n");
        assert_eq!(fs.read(b"/../../small.txt", 100).unwrap(), b"small\n");
        assert_eq!(fs.resolve(b"/links/outside").unwrap(), b"/passwd", "inside the volume");
        assert!(!fs.exists(b"/links/outside").unwrap());
        assert_eq!(fs.read(b"/links/absolute", 100).unwrap(), b"small\n");
        assert!(fs.read(b"/links/circle", 100).is_err());
        assert!(!fs.exists(b"/nothing").unwrap());
        assert!(!fs.exists(b"/small.txt/nothing").unwrap());
        assert!(fs.read(b"/small.txt", 3).is_err(), "longer than the limit");
        assert!(fs.read(b"/links", 100).is_err(), "a directory");
        std::fs::remove_file(&image).unwrap();
    }
}

/// The master file table in so many pieces that several of its records tell of them.
#[test]
fn ntfs_with_its_table_in_many_pieces() {
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("volume");
    let volume = Volume { tool: Make::Ntfs, kind: "ntfs", mib: 12, args: &["-c", "512"] };
    if !make(&volume, &image, None) {
        return;
    }
    let filled = mounted(Make::Ntfs, &image, false, |root| {
        let path = |name: &str, number: usize| root.join(format!("{}/{name}{number}", number / 40));
        (0..100).for_each(|number| std::fs::create_dir(root.join(number.to_string())).unwrap());
        let write = |name, len| {
            let some = |number: &usize| std::fs::write(path(name, *number), vec![7; len]).is_ok();
            (0..4000).take_while(some).count()
        };
        let count = write("old", 1500);
        // Holes for the table to grow into.
        (0..count).step_by(2).for_each(|number| std::fs::remove_file(path("old", number)).unwrap());
        let _ = write("new", 0);
    });
    if !filled {
        return;
    }
    let told = must("ntfsinfo", &["-i", "0", arg(&image)]);
    assert!(told.matches("Dumping attribute $DATA").count() > 1, "{told}");
    let ours = tree_of(&*open(&image));
    read_by_others(Make::Ntfs, &image, |theirs| {
        assert!(theirs.len() > 3000);
        tree::assert_same_tree(&ours, &theirs, "a table in pieces");
    });
}

/// Windows made this volume, with its journal in two pieces.
#[test]
fn ntfs_with_a_journal_in_pieces() {
    let Some(corpus) = vdisk_testkit::corpus::folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("ntfs.vhd");
    let packed = corpus.join("vhd_fixed_ntfs-win10_dfvfs.vhd.xz");
    let output = std::fs::File::create(&image).unwrap();
    let done = std::process::Command::new("xz").arg("-dc").arg(packed).stdout(output).status();
    assert!(done.unwrap().success());
    // A fixed VHD is a raw disk with a footer behind it; its one partition begins at 64 KiB.
    let bytes = std::fs::read(&image).unwrap();
    let volume = std::sync::Arc::new(vdisk_testkit::VecDisk(bytes[65536..].to_vec()));
    let fs = vdisk_guest::fs::open(volume).unwrap().expect("NTFS");
    assert_eq!(fs.info().state.name(), "clean");
    assert!(fs.read_dir(b"/").unwrap().iter().any(|entry| entry.name == b"passwords.txt"));
}

/// A link that ntfs-3g made, as Interix has them: ntfs-3g shows where it leads.
#[test]
fn ntfs_with_a_link_of_interix() {
    let Some(corpus) = vdisk_testkit::corpus::folder() else { return };
    let packed = corpus.join("raw_ntfs_dfvfs.raw.xz");
    let image = std::process::Command::new("xz").arg("-dc").arg(packed).output().unwrap().stdout;
    let fs = vdisk_guest::fs::open(std::sync::Arc::new(vdisk_testkit::VecDisk(image)));
    let fs = fs.unwrap().expect("NTFS");
    let stat = fs.stat(b"/a_link").unwrap();
    assert_eq!(stat.kind, vdisk_guest::fs::FileKind::Symlink);
    assert_eq!(fs.read_link(b"/a_link").unwrap(), b"a_directory/another_file");
    let content = fs.read(b"/a_directory/another_file", 100).unwrap();
    assert_eq!(fs.read(b"/a_link", 100).unwrap(), content);
    assert!(content.starts_with(b"This is another "));
}
