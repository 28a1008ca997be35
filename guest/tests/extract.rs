//! Trees that are written to the host: no more of them than may be.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

mod common;

use vdisk_core::{Cancel, ErrorKind};
use vdisk_guest::extract::{NAME, extract_at_most};
use vdisk_testkit::tools::must;
use vdisk_testkit::tree::{fill, tree_on_host};
use vdisk_testkit::volumes::{VOLUMES, make};

#[test]
fn a_tree_is_written_as_far_as_it_may_be() {
    let folder = tempfile::tempdir().unwrap();
    let (image, source) = (folder.path().join("volume"), folder.path().join("tree"));
    fill(&source);
    // Read as zeros, and longer than what may be written.
    let huge = std::fs::File::create(source.join("deep/huge")).unwrap();
    huge.set_len(1 << 33).unwrap();
    let ext4 = VOLUMES.iter().find(|volume| volume.kind == "ext4").unwrap();
    if !make(ext4, &image, Some(&source)) {
        return;
    }
    let fs = common::open(&image);
    let write = |path: &[u8], name, most| {
        extract_at_most(&*fs, path, &folder.path().join(name), false, most, &Cancel::default())
    };
    let error = write(b"/deep", "first", 64 << 20).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
    assert!(error.to_string().contains("/deep/huge"), "{error}");
    let error = write(b"/many", "second", 10 * NAME).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");

    let done = write(b"/many", "third", 64 << 20).unwrap();
    assert_eq!(done.failures.len(), 0);
    assert_eq!(done.counted, done.bytes + NAME * (done.files + done.directories + done.links));
    assert_eq!(tree_on_host(&folder.path().join("third")), tree_on_host(&source.join("many")));
}

/// What a damaged inode says of its size is not added to anything.
#[test]
fn a_file_as_long_as_a_number_can_say_is_too_large() {
    let folder = tempfile::tempdir().unwrap();
    let (image, source) = (folder.path().join("volume"), folder.path().join("tree"));
    fill(&source);
    std::fs::write(source.join("endless"), "x").unwrap();
    let ext4 = VOLUMES.iter().find(|volume| volume.kind == "ext4").unwrap();
    if !make(ext4, &image, Some(&source)) {
        return;
    }
    let size = "sif endless size 0xffffffffffffffff";
    must("debugfs", &["-w", "-R", size, image.to_str().unwrap()]);
    let fs = common::open(&image);
    assert_eq!(fs.stat(b"/endless").unwrap().size, u64::MAX);
    let target = folder.path().join("endless");
    let error = extract_at_most(&*fs, b"/endless", &target, false, 1 << 40, &Cancel::default())
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoSpace, "{error}");
}
