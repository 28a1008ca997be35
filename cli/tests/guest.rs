//! The commands that look into a guest: ls, cat, extract.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::os::unix::fs::symlink;
use std::process::Command;

use common::Place;
use vdisk_testkit::tools::{arg, must, skip};

/// A VHDX with an ext4 file system in its first partition, made by others; `false` where they are
/// missing.
fn guest(place: &Place) -> bool {
    for program in ["mke2fs", "sfdisk"] {
        if Command::new(program).arg("-V").output().is_err() {
            skip(program, "it is not installed");
            return false;
        }
    }
    let tree = place.path("tree");
    std::fs::create_dir_all(tree.join("etc/deep")).unwrap();
    std::fs::write(tree.join("etc/hostname"), "guest\n").unwrap();
    std::fs::write(tree.join("etc/deep/colon:name"), vec![7; 3_000_000]).unwrap();
    symlink("etc/hostname", tree.join("link")).unwrap();
    symlink("/../../../etc/passwd", tree.join("outside")).unwrap();
    let (volume, disk) = (place.path("volume"), place.path("disk.img"));
    std::fs::File::create(&volume).unwrap().set_len(15 << 20).unwrap();
    must("mke2fs", &["-q", "-F", "-t", "ext4", "-d", arg(&tree), arg(&volume)]);
    let bytes = [vec![0; 1 << 20], std::fs::read(&volume).unwrap()].concat();
    std::fs::write(&disk, bytes).unwrap();
    must("sh", &["-c", &format!("echo 2048,,83 | sfdisk -q {}", arg(&disk))]);
    place.run("convert -f raw disk.img disk.vhdx").ok();
    true
}

#[test]
fn files_inside_an_image() {
    let place = Place::new();
    if !guest(&place) {
        return;
    }
    let listed = place.run("ls disk.vhdx:1:/").ok();
    assert_eq!(listed.out, "etc\nlink\nlost+found\noutside\n");
    let tree = place.run("ls -R disk.vhdx:1:/etc").ok();
    assert_eq!(tree.out, "deep\ndeep/colon:name\nhostname\n");
    let long = place.run("ls -l disk.vhdx:1:/").ok();
    assert!(long.out.contains("link -> etc/hostname"), "{long:?}");

    let json = place.run("ls --output json disk.vhdx:1:/etc").ok().json();
    assert_eq!(json["schema"], "vdisk.ls/1");
    assert_eq!(json["file-system"], "ext4");
    assert_eq!(json["state"], "clean");
    assert_eq!(json["entries"][1]["name"], "hostname");
    assert_eq!(json["entries"][1]["size"], 6);

    assert_eq!(place.run("cat disk.vhdx:1:/link").ok().out, "guest\n");
    assert_eq!(place.run("cat disk.vhdx:1:/etc/deep/colon:name").ok().out.len(), 3_000_000);
    assert_eq!(place.run("cat -f raw volume:/etc/hostname").ok().out, "guest\n");

    place.run("cat disk.vhdx:1:/nothing").fails(8, &["/nothing"]);
    place.run("cat disk.vhdx:1:/outside").fails(8, &["/etc/passwd", "not found"]);
    place.run("cat disk.vhdx:1:/etc").fails(64, &["directory"]);
    place.run("ls disk.vhdx:2:/").fails(8, &["no partition 2", "it has: 1"]);
    place.run("ls disk.vhdx").fails(64, &["IMAGE:PARTITION:/path"]);
    place.run("ls disk.vhdx:vg/root:/").fails(8, &["volume group"]);
}

#[test]
fn files_and_trees_to_the_host() {
    let place = Place::new();
    if !guest(&place) {
        return;
    }
    place.run("extract disk.vhdx:1:/etc/hostname name").ok();
    assert_eq!(std::fs::read(place.path("name")).unwrap(), b"guest\n");
    place.run("extract disk.vhdx:1:/etc/hostname name").fails(7, &["there already", "--force"]);
    place.run("extract --force disk.vhdx:1:/etc/hostname name").ok();

    // A tree: equal to what went in, links as links.
    place.run("extract disk.vhdx:1:/ out").ok();
    std::fs::remove_dir(place.path("out/lost+found")).unwrap();
    must("diff", &["-r", "--no-dereference", arg(&place.path("tree")), arg(&place.path("out"))]);
    place.run("extract disk.vhdx:1:/etc out").fails(7, &["there already"]);

    // A link of the host where a folder should be is not followed.
    std::fs::create_dir(place.path("elsewhere")).unwrap();
    std::fs::create_dir(place.path("trap")).unwrap();
    symlink(place.path("elsewhere"), place.path("trap/etc")).unwrap();
    place.run("extract --force disk.vhdx:1:/etc trap").fails(7, &["no directory"]);
    assert_eq!(std::fs::read_dir(place.path("elsewhere")).unwrap().count(), 0);
}
