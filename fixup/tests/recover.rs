//! Journals on the partitions and logical volumes of a disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use vdisk_core::Disk;
use vdisk_fixup::{Machine, MachineDisk, recover_journals};
use vdisk_guest::Place;
use vdisk_testkit::VecDisk;
use vdisk_testkit::machines::{DISK, LINUX, Part, assemble, programs};
use vdisk_testkit::tools::{arg, must};

#[test]
fn all_partitions_are_recovered() {
    if !programs(&["mke2fs", "debugfs", "e2fsck", "sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    fs::write(path("content"), [7; 8192]).unwrap();
    let (content, script) = (path("content"), path("script"));
    // The second one's journal has checksums of version 1, which are not replayed.
    let volumes = [("one", "jo -c -v 3", "metadata_csum"), ("two", "jo -c", "^metadata_csum")];
    for (name, open, features) in volumes {
        let volume = path(name);
        fs::File::create(&volume).and_then(|file| file.set_len(16 << 20)).unwrap();
        must("mke2fs", &["-q", "-F", "-b", "4096", "-O", features, "-t", "ext4", arg(&volume)]);
        let lines = format!("{open}\njw -b 3000,3001 {}\njc\n", arg(&content));
        fs::write(&script, lines).unwrap();
        must("debugfs", &["-w", "-f", arg(&script), arg(&volume)]);
    }
    let parts = volumes.map(|(name, ..)| path(name));
    let parts = [0, 1].map(|at| Part { kind: LINUX, more: "", content: &parts[at] });
    let image = path("disk");
    assemble(&image, "gpt", DISK, &parts);
    let disk: Arc<dyn Disk> = Arc::new(VecDisk(fs::read(&image).unwrap()));
    let refused = Machine::open(disk.clone(), 512).unwrap().volume(&Place::Partition(1)).is_err();
    assert!(refused, "work waits in its journal");

    let found = recover_journals(vec![MachineDisk::new(disk, 512)]).unwrap();
    assert_eq!(found.done.len(), 1, "{found:?}");
    assert_eq!((found.done[0].transactions, found.done[0].blocks), (1, 2));
    assert_eq!(found.left.len(), 1, "{found:?}");
    assert_eq!(found.left[0].0, Place::Partition(2));
    let file = fs::OpenOptions::new().read(true).write(true).open(&image).unwrap();
    for change in &found.changes[0] {
        file.write_all_at(&change.bytes, change.offset).unwrap();
    }
    let mut volume = vec![0; 16 << 20];
    file.read_exact_at(&mut volume, 1 << 20).unwrap();
    fs::write(path("one"), &volume).unwrap();
    must("e2fsck", &["-fn", arg(&path("one"))]);
    assert_eq!(volume[3000 * 4096..3002 * 4096], [7; 8192]);
    let disk: Arc<dyn Disk> = Arc::new(VecDisk(fs::read(&image).unwrap()));
    Machine::open(disk.clone(), 512).unwrap().volume(&Place::Partition(1)).unwrap();
    let again = recover_journals(vec![MachineDisk::new(disk, 512)]).unwrap();
    assert_eq!(again.changes, [vec![]], "a second time nothing is left");
}
