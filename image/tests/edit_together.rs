//! Changes of several images, the disks of one machine: all of them or none, whenever the power
//! goes.
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
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::bytes_of;
use vdisk::{
    Change, EditOf, EditReport, ErrorKind, Format, NewImage, OpenOptions, UndoOf, edit,
    edit_together, finish_edit, undo_edit, undo_together,
};
use vdisk_testkit::power::{Fate, Recorder, put_on_host};

const SIZE: u64 = 1 << 20;

/// Three disks of a machine, each in another format.
struct Machine {
    folder: tempfile::TempDir,
    images: Vec<(PathBuf, Format)>,
    changes: Vec<Vec<Change>>,
}

impl Machine {
    fn new() -> Self {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut images = Vec::new();
        for (name, format) in
            [("a b.vhdx", Format::Vhdx), ("b.img", Format::Raw), ("c.vmdk", Format::Vmdk)]
        {
            let path = folder.path().join(name);
            vdisk::create(&path, &NewImage::new(format, SIZE), false).unwrap();
            let open = OpenOptions::new().format(format);
            edit(&path, &open, &[change(4096, &[1; 8192])], false).unwrap();
            images.push((path, format));
        }
        let changes = vec![
            vec![change(5000, &[2; 100]), change(70_000, &[3; 9000])],
            vec![change(4096, &[4; 512])],
            vec![change(0, b"first"), change(SIZE - 5, b"last!")],
        ];
        Self { folder, images, changes }
    }

    fn open(&self, number: usize) -> OpenOptions {
        OpenOptions::new().format(self.images[number].1)
    }

    fn path(&self, number: usize) -> &Path {
        &self.images[number].0
    }

    fn edit(&self, recorder: &Recorder, undo: bool) -> vdisk::Result<EditReport> {
        let opens: Vec<OpenOptions> =
            (0..3).map(|number| self.open(number).on(Arc::new(recorder.clone()))).collect();
        let undos: Vec<PathBuf> = (0..3).map(|number| self.undo_of(number)).collect();
        let edits: Vec<EditOf<'_>> = (0..3)
            .map(|number| EditOf {
                image: self.path(number),
                open: &opens[number],
                changes: &self.changes[number],
                undo: undo.then_some(&*undos[number]),
            })
            .collect();
        edit_together(&edits, false, |_| Ok(()))
    }

    fn undo_of(&self, number: usize) -> PathBuf {
        self.folder.path().join(format!("{number}.undo"))
    }

    fn contents(&self) -> Vec<Vec<u8>> {
        (0..3).map(|number| bytes_of(&self.open(number).open(self.path(number)).unwrap())).collect()
    }
}

fn change(offset: u64, bytes: &[u8]) -> Change {
    Change { offset, bytes: bytes.to_vec() }
}

#[test]
fn all_disks_or_none_at_any_cut() {
    let machine = Machine::new();
    let before = machine.contents();
    let recorder = Recorder::new();
    let done = machine.edit(&recorder, false).unwrap();
    assert_eq!(done.changes, 5);
    let after = machine.contents();
    assert!(before.iter().zip(&after).all(|(old, new)| old != new));

    let recording = recorder.recording();
    let mut rng = fastrand::Rng::with_seed(5);
    let (mut old, mut new, mut begun) = (0, 0, 0);
    let mut replay = recording.replay();
    for cut in 0..=recording.len() {
        replay.advance(cut);
        for fate in Fate::ALL {
            put_on_host(machine.folder.path(), &replay.files(fate, &mut rng));
            let context = format!("cut {cut} of {}, {fate:?}", recording.len());
            // Until all is well, whichever image is found to be unfinished is named.
            let mut order = [0, 1, 2];
            rng.shuffle(&mut order);
            for number in order {
                let open = machine.open(number);
                if let Err(error) = open.open(machine.path(number)) {
                    assert_eq!(error.kind(), ErrorKind::Refused, "{context}: {error}");
                    begun += 1;
                    finish_edit(machine.path(number), &open).unwrap().expect("a journal");
                }
            }
            let found = machine.contents();
            if found == before {
                old += 1;
            } else {
                assert!(found == after, "{context}: some disks are changed, and some are not");
                new += 1;
            }
        }
    }
    assert!(old > 0 && new > 0 && begun > 0, "{old} old, {new} new, {begun} begun");
}

#[test]
fn they_are_taken_back_together() {
    let machine = Machine::new();
    let before = machine.contents();
    machine.edit(&Recorder::new(), true).unwrap();
    let after = machine.contents();
    let opens: Vec<OpenOptions> = (0..3).map(|number| machine.open(number)).collect();
    let undos: Vec<PathBuf> = (0..3).map(|number| machine.undo_of(number)).collect();
    let back = |number: usize| UndoOf {
        image: machine.path(number),
        open: &opens[number],
        undo: &undos[number],
    };
    for parted in [&[back(0)][..], &[back(0), back(2)], &[back(0), back(1), back(1)]] {
        let error = undo_together(parted, false, || panic!()).unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::Refused | ErrorKind::InUse), "{error}");
    }
    let error = undo_edit(machine.path(1), &opens[1], false, &undos[1], || panic!()).unwrap_err();
    assert!(error.to_string().contains("together"), "{error}");
    assert!(machine.contents() == after);

    // One of them is used meanwhile.
    edit(machine.path(1), &opens[1], &[change(4096, b"used")], false).unwrap();
    let all = [back(0), back(1), back(2)];
    assert_eq!(undo_together(&all, false, || panic!()).unwrap_err().kind(), ErrorKind::Refused);
    edit(machine.path(1), &opens[1], &[change(4096, &[4; 4])], false).unwrap();
    assert_eq!(undo_together(&all, false, || Ok(())).unwrap().changes, 5);
    assert!(machine.contents() == before);
    assert!(undos.iter().all(|undo| !undo.exists()));
}

/// The journals of an edit that was cut off before any image was written.
fn cut_off(machine: &Machine) {
    let recorder = Recorder::new();
    machine.edit(&recorder, false).unwrap();
    let recording = recorder.recording();
    let mut replay = recording.replay();
    let mut rng = fastrand::Rng::with_seed(1);
    for cut in 0..=recording.len() {
        replay.advance(cut);
        put_on_host(machine.folder.path(), &replay.files(Fate::Everything, &mut rng));
        if (0..3).all(|number| machine.open(number).open(machine.path(number)).is_err()) {
            return;
        }
    }
    panic!("there was no moment with all journals");
}

#[test]
fn an_image_that_is_gone_is_waited_for() {
    let machine = Machine::new();
    cut_off(&machine);
    let away = machine.folder.path().join("away");
    fs::rename(machine.path(1), &away).unwrap();
    let error = finish_edit(machine.path(0), &machine.open(0)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert!(error.advice().unwrap().contains("vdisk recover"), "{error}");
    fs::rename(&away, machine.path(1)).unwrap();
    assert_eq!(finish_edit(machine.path(2), &machine.open(2)).unwrap().unwrap().changes, 5);
    machine.contents();
}

#[test]
fn a_disk_that_was_changed_meanwhile_stops_all() {
    let machine = Machine::new();
    cut_off(&machine);
    let mut bytes = fs::read(machine.path(1)).unwrap();
    bytes[4096] = 99;
    fs::write(machine.path(1), &bytes).unwrap();
    for number in 0..3 {
        let error = finish_edit(machine.path(number), &machine.open(number)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    }
    assert_eq!(fs::read(machine.path(1)).unwrap(), bytes);
}
