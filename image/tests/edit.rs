//! Changes of what a guest reads, all or nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use common::bytes_of;
use vdisk::{
    Change, ErrorKind, Format, Host, Image, NewImage, OpenOptions, edit, edit_undoable,
    finish_edit, undo_edit,
};

/// A host that dies before it takes the journal away.
#[derive(Debug, Default)]
struct Dying(AtomicBool);

impl Host for Dying {
    fn remove(&self, _path: &Path) -> io::Result<()> {
        self.0.store(true, Ordering::Relaxed);
        Err(io::Error::other("the power is gone"))
    }
}

fn change(offset: u64, bytes: &[u8]) -> Change {
    Change { offset, bytes: bytes.to_vec() }
}

#[test]
fn an_edit_that_was_cut_off_is_finished_and_nothing_opens_before() {
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::Raw, Format::Vhd, Format::Vhdx, Format::Vmdk] {
        let path = folder.path().join(format!("disk.{format}"));
        vdisk::create(&path, &NewImage::new(format, 4 << 20), false).unwrap();
        let open = || match format {
            Format::Raw => OpenOptions::new().format(Format::Raw),
            _ => OpenOptions::new(),
        };
        let changes = [change(70_000, b"one"), change(3 << 20, &[7; 10_000])];
        let host = Arc::new(Dying::default());
        edit(&path, &open().on(host.clone()), &changes, false).unwrap_err();
        assert!(host.0.load(Ordering::Relaxed));
        for result in [open().open(&path).map(drop), open().open_rw(&path).map(drop)] {
            let error = result.unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
            assert!(error.advice().unwrap().contains("vdisk recover"), "{error}");
        }
        let report = finish_edit(&path, &open()).unwrap().unwrap();
        assert_eq!((report.changes, report.bytes), (2, 4096 * 4));
        assert_eq!(finish_edit(&path, &open()).unwrap(), None);
        let bytes = bytes_of(&open().open(&path).unwrap());
        assert_eq!(&bytes[70_000..70_003], b"one");
        assert!(bytes[3 << 20..(3 << 20) + 10_000].iter().all(|byte| *byte == 7));
        // Once more, it changes nothing.
        assert_eq!(edit(&path, &open(), &changes, false).unwrap().changes, 0);
    }
}

/// A journal that stays would be finished later, though it was said that nothing is done.
#[test]
fn a_refused_edit_leaves_nothing_that_waits() {
    let folder = tempfile::tempdir().unwrap();
    let names = || {
        let names = std::fs::read_dir(folder.path()).unwrap();
        let mut names: Vec<_> = names.map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        names
    };
    let path = folder.path().join("used.vhd");
    vdisk::create(&path, &NewImage::new(Format::Vhd, 4 << 20), false).unwrap();
    let stream = folder.path().join("stream.vmdk");
    let mut new = NewImage::new(Format::Vmdk, 4 << 20);
    new.set_list("subformat=streamOptimized").unwrap();
    vdisk::create(&stream, &new, false).unwrap();
    let before = names();
    let undo = folder.path().join("undo");
    let refused = |path: &Path| {
        let open = OpenOptions::new();
        let done =
            edit_undoable(path, &open, &[change(0, b"new")], false, &undo, |_| panic!("announced"));
        done.unwrap_err().kind()
    };
    // Somebody reads it, and would see half of the change.
    let reader = Image::open(&path).unwrap();
    assert_eq!(refused(&path), ErrorKind::InUse);
    drop(reader);
    assert_eq!(refused(&stream), ErrorKind::Unsupported);
    assert_eq!(names(), before);
    for path in [&path, &stream] {
        assert_eq!(finish_edit(path, &OpenOptions::new()).unwrap(), None);
    }
}

#[test]
fn what_others_changed_meanwhile_is_not_overwritten() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.img");
    std::fs::write(&path, vec![1; 1 << 20]).unwrap();
    let open = || OpenOptions::new().format(Format::Raw);
    edit(&path, &open().on(Arc::new(Dying::default())), &[change(0, &[2; 4096])], false)
        .unwrap_err();
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[1000] = 9;
    std::fs::write(&path, &bytes).unwrap();
    let error = finish_edit(&path, &open()).unwrap_err();
    assert_eq!((error.kind(), error.offset()), (ErrorKind::Refused, Some(512)), "{error}");
    assert_eq!(std::fs::read(&path).unwrap(), bytes);
}

#[test]
fn a_parent_is_not_changed_under_its_children() {
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::Vhd, Format::Vhdx, Format::Vmdk] {
        let [base, child] =
            ["base", "child"].map(|name| folder.path().join(format!("{name}.{format}")));
        vdisk::create(&base, &NewImage::new(format, 4 << 20), false).unwrap();
        vdisk::create_child(&child, format, &base, &OpenOptions::new(), &[], false).unwrap();
        let one = [change(5, b"five")];
        let error = edit(&base, &OpenOptions::new(), &one, false).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("child"), "{error}");
        edit(&child, &OpenOptions::new(), &one, false).unwrap();
        assert_eq!(&bytes_of(&Image::open(&child).unwrap())[5..9], b"five");
        assert!(bytes_of(&Image::open(&base).unwrap()).iter().all(|byte| *byte == 0));
    }
}

#[test]
fn an_edit_is_taken_back_unless_the_guest_has_been_there() {
    let folder = tempfile::tempdir().unwrap();
    for format in [Format::Raw, Format::Vhd, Format::Vhdx, Format::Vmdk] {
        let path = folder.path().join(format!("undo.{format}"));
        vdisk::create(&path, &NewImage::new(format, 4 << 20), false).unwrap();
        let open = OpenOptions::new().format(format);
        edit(&path, &open, &[change(5000, &[1; 9000])], false).unwrap();
        let before = bytes_of(&open.open(&path).unwrap());
        let undo = folder.path().join(format!("{format}.undo"));
        let changes = [change(4000, &[2; 3000]), change(2 << 20, b"three")];
        let edited = || edit_undoable(&path, &open, &changes, false, &undo, |_| Ok(())).unwrap();
        assert_eq!(edited().changes, 2, "{format}");
        // It may hold keys that the edit took out of the guest.
        assert_eq!(std::fs::metadata(&undo).unwrap().permissions().mode() & 0o777, 0o600);
        let after = bytes_of(&open.open(&path).unwrap());
        assert_eq!(undo_edit(&path, &open, false, &undo, || Ok(())).unwrap().changes, 2);
        assert_eq!(bytes_of(&open.open(&path).unwrap()), before, "{format}");
        assert_eq!(
            undo_edit(&path, &open, false, &undo, || Ok(())).unwrap_err().kind(),
            ErrorKind::NotFound
        );

        // Once more, and the guest writes to one of the places.
        edited();
        edit(&path, &open, &[change(2 << 20, b"other")], false).unwrap();
        let error = undo_edit(&path, &open, false, &undo, || Ok(())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        edit(&path, &open, &[change(2 << 20, b"three")], false).unwrap();
        assert_eq!(bytes_of(&open.open(&path).unwrap()), after);
        undo_edit(&path, &open, false, &undo, || Ok(())).unwrap();
        // Nothing to change leaves no file.
        edit_undoable(&path, &open, &[change(2 << 20, &[0; 5])], false, &undo, |_| panic!())
            .unwrap();
        assert!(!undo.exists(), "{format}");
    }
}
