//! Volumes that `vdisk_testkit` makes, read by ours.
#![allow(dead_code)]

use std::fs;
use std::path::Path;
use std::sync::Arc;

use vdisk_core::Disk;
use vdisk_guest::fs::{FileKind, GuestFs, open as open_fs};
use vdisk_testkit::VecDisk;
use vdisk_testkit::tree::{Tree, digest};

pub(crate) fn tree_of(guest: &dyn GuestFs) -> Tree {
    fn walk(guest: &dyn GuestFs, path: &str, tree: &mut Tree) {
        for entry in guest.read_dir(path.as_bytes()).unwrap() {
            let name = String::from_utf8(entry.name).unwrap();
            let path = format!("{}/{name}", path.trim_end_matches('/'));
            let stat = guest.stat(path.as_bytes()).unwrap_or_else(|e| panic!("{path}: {e}"));
            let node = match stat.kind {
                FileKind::Directory => {
                    walk(guest, &path, tree);
                    "dir".to_owned()
                }
                FileKind::Symlink => {
                    let target = guest.read_link(path.as_bytes()).unwrap();
                    format!("link {}", String::from_utf8(target).unwrap())
                }
                FileKind::File => {
                    let content = guest.read(path.as_bytes(), u64::MAX).unwrap();
                    assert_eq!(content.len() as u64, stat.size, "{path}");
                    digest(&content)
                }
                FileKind::Special => "special".to_owned(),
            };
            tree.insert(path, node);
        }
    }
    let mut tree = Tree::new();
    walk(guest, "/", &mut tree);
    tree
}

/// The image as a disk in memory.
pub(crate) fn disk(image: &Path) -> Arc<dyn Disk> {
    Arc::new(VecDisk(fs::read(image).unwrap()))
}

pub(crate) fn open(image: &Path) -> Box<dyn GuestFs> {
    open_fs(disk(image)).unwrap().expect("it is recognised")
}
