//! Volumes of the corpus, most of them made by Windows: every name, kind and byte as ntfs-3g, the
//! kernel, debugfs and mtools read them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::fs;
use std::sync::Arc;

use common::{open, tree_of};
use vdisk::{Disk, OpenOptions};
use vdisk_parts::Table;
use vdisk_testkit::corpus::{Sample, folder, unpack};
use vdisk_testkit::tree::{Tree, assert_same_tree};
use vdisk_testkit::volumes::{Make, by_debugfs, read_by_others};

/// The images with file systems, the file system, and how many names there are at least.
const SAMPLES: &[(&str, Make, usize)] = &[
    ("raw_ntfs_dfvfs.raw", Make::Ntfs, 5),
    ("raw_ntfs_index_dfir_ntfs.raw", Make::Ntfs, 5),
    ("raw_ntfs_ntfs-crate.raw", Make::Ntfs, 500),
    ("vhd_dynamic_ntfs-win10_dfvfs.vhd", Make::Ntfs, 3),
    ("vhd_fixed_ntfs-win10_dfvfs.vhd", Make::Ntfs, 3),
    ("vhdx_dynamic_ntfs-win10_dfvfs.vhdx", Make::Ntfs, 3),
    ("vhdx_fixed_ntfs-win10_dfvfs.vhdx", Make::Ntfs, 3),
    ("raw_ext4_dfvfs.raw", Make::Ext, 3),
    ("vmdk_monolithicSparse_ext2-qemu_dfvfs.vmdk", Make::Ext, 3),
    ("raw_fat12_dfvfs.raw", Make::Fat, 3),
    ("raw_fat16_dfir_ntfs.raw", Make::Fat, 1),
    ("raw_fat-50K_velociraptor.dd", Make::Fat, 1),
    ("vhd_diff_fat-win10_dfvfs/fat-parent.vhd", Make::Fat, 1),
    ("vhd_diff_fat-win10_dfvfs/fat-differential.vhd", Make::Fat, 1),
    ("vhdx_diff_fat-win10_dfvfs/fat-parent.vhdx", Make::Fat, 1),
    ("vhdx_diff_fat-win10_dfvfs/fat-differential.vhdx", Make::Fat, 1),
];

#[test]
fn every_volume_reads_as_others_read_it() {
    let Some(corpus) = folder() else { return };
    let temp = tempfile::tempdir().unwrap();
    let samples = unpack(&corpus, temp.path());
    for (name, tool, least) in SAMPLES {
        let sample = samples.iter().find(|sample| sample.name == *name).expect(name);
        let volume = temp.path().join("volume");
        fs::write(&volume, bytes_of_volume(sample)).unwrap();
        let ours = tree_of(&*open(&volume));
        let mut compared = false;
        read_by_others(*tool, &volume, |theirs| {
            let ours = with_drive_letters_as(&ours, &theirs);
            assert!(theirs.len() >= *least, "{name}: {} names", theirs.len());
            assert_same_tree(&ours, &theirs, name);
            compared = true;
        });
        if *tool == Make::Ext {
            assert_same_tree(&ours, &by_debugfs(&volume), &format!("{name}, debugfs"));
        }
        println!("{name}: {} names, compared: {compared}", ours.len());
    }
}

/// ntfs-3g shows a link to a drive as a path below the folder where it mounted the volume.
fn with_drive_letters_as(ours: &Tree, theirs: &Tree) -> Tree {
    let shown = |path: &String, node: &String| {
        let (_, below) = node.strip_prefix("link ")?.split_once(":\\")?;
        let there = theirs.get(path)?.strip_prefix("link ")?;
        there.ends_with(&format!("/{}", below.replace('\\', "/"))).then(|| format!("link {there}"))
    };
    let same = |(path, node): (&String, &String)| {
        (path.clone(), shown(path, node).unwrap_or_else(|| node.clone()))
    };
    ours.iter().map(same).collect()
}

/// The file system: the whole disk, or its first partition.
fn bytes_of_volume(sample: &Sample) -> Vec<u8> {
    let image = OpenOptions::new().format(sample.format).open(&sample.path).unwrap();
    let disk: Arc<dyn Disk> = Arc::new(image);
    let table = Table::read(&*disk, 512).unwrap();
    let range = table.partitions.first().map_or(0..disk.len(), vdisk_parts::Partition::range);
    let mut bytes = vec![0; (range.end - range.start) as usize];
    disk.read_at(&mut bytes, range.start).unwrap();
    bytes
}
