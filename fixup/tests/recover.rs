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
use std::path::Path;
use std::sync::Arc;

use vdisk_core::{Disk, ErrorKind};
use vdisk_fixup::{Machine, MachineDisk, recover_journals};
use vdisk_guest::Place;
use vdisk_testkit::VecDisk;
use vdisk_testkit::lvm::Lvm;
use vdisk_testkit::machines::{DISK, LINUX, Part, assemble, programs};
use vdisk_testkit::tools::{arg, must};

/// An ext4 of 16 MiB in the file `name`, in whose journal two blocks wait.
fn with_work_in_its_journal(folder: &Path, name: &str, open: &str, features: &str) {
    let path = |name: &str| folder.join(name);
    let (volume, content, script) = (path(name), path("content"), path("script"));
    fs::write(&content, [7; 8192]).unwrap();
    fs::File::create(&volume).and_then(|file| file.set_len(16 << 20)).unwrap();
    must("mke2fs", &["-q", "-F", "-b", "4096", "-O", features, "-t", "ext4", arg(&volume)]);
    fs::write(&script, format!("{open}\njw -b 3000,3001 {}\njc\n", arg(&content))).unwrap();
    must("debugfs", &["-w", "-f", arg(&script), arg(&volume)]);
}

#[test]
fn all_partitions_are_recovered() {
    if !programs(&["mke2fs", "debugfs", "e2fsck", "sfdisk"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    // The second one's journal has checksums of version 1, which are not replayed.
    let volumes = [("one", "jo -c -v 3", "metadata_csum"), ("two", "jo -c", "^metadata_csum")];
    for (name, open, features) in volumes {
        with_work_in_its_journal(folder.path(), name, open, features);
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

/// What is written to the origin of a snapshot would be the snapshot's too.
#[test]
fn a_volume_with_snapshots_is_left_to_its_guest() {
    if !programs(&["mke2fs", "debugfs", "sfdisk", "vgcfgrestore"]) {
        return;
    }
    for snapshot in [false, true] {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        with_work_in_its_journal(folder.path(), "root", "jo -c -v 3", "metadata_csum");
        let Some(lvm) = Lvm::blank(&[40]) else { return };
        lvm.group("vg");
        for (name, size) in [("root", "16M"), ("snap", "4M")] {
            lvm.volume("vg", &["-L", size, "-n", name]);
        }
        if snapshot {
            make_snapshot(&lvm, &path("metadata"));
        }
        let part = lvm.finish(folder.path()).remove(0);
        let file = fs::OpenOptions::new().write(true).open(&part).unwrap();
        file.write_all_at(&fs::read(path("root")).unwrap(), 1 << 20).unwrap();
        let image = path("disk");
        assemble(&image, "gpt", DISK, &[Part { kind: LINUX, more: "", content: &part }]);
        let disk: Arc<dyn Disk> = Arc::new(VecDisk(fs::read(&image).unwrap()));

        let found = recover_journals(vec![MachineDisk::new(disk.clone(), 512)]).unwrap();
        let root = Place::Logical("vg".into(), "root".into());
        if !snapshot {
            assert_eq!((found.done.len(), found.left.len()), (1, 0), "{found:?}");
            continue;
        }
        assert_eq!(found.done, [], "{found:?}");
        assert_eq!(found.changes, [vec![]]);
        let [(place, error)] = &found.left[..] else { panic!("{found:?}") };
        assert_eq!((place, error.kind()), (&root, ErrorKind::Unsupported), "{error}");
        let error = Machine::open(disk, 512).unwrap().volume(&root).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    }
}

/// Makes `snap` what LVM2's own tools make only with the device mapper: a snapshot of `root`.
fn make_snapshot(lvm: &Lvm, metadata: &Path) {
    lvm.run("vgcfgbackup", &["-f", arg(metadata), "vg"]);
    let text = fs::read_to_string(metadata).unwrap();
    let (head, tail) = text.split_once("logical_volumes {").unwrap();
    let snapshot = "snapshot0 { id = \"aaaaaa-aaaa-aaaa-aaaa-aaaa-aaaa-aaaaaa\" \
                    status = [\"READ\", \"WRITE\", \"VISIBLE\"] flags = [] segment_count = 1 \
                    segment1 { start_extent = 0 extent_count = 16 type = \"snapshot\" \
                    chunk_size = 8 origin = \"root\" cow_store = \"snap\" } }";
    fs::write(metadata, format!("{head}logical_volumes {{ {snapshot} {tail}")).unwrap();
    lvm.run("vgcfgrestore", &["-f", arg(metadata), "vg"]);
}
