//! `strip` and `adapt` of an image: the power may go at any moment.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use common::original::original;
use common::{Spec, X64, windows};
use vdisk::{
    Change, CopyOptions, Disk, ErrorKind, Format, Image, NewImage, OpenOptions, Watch, finish_edit,
};
use vdisk_core::MemStore;
use vdisk_fixup::{
    AdaptOptions, Identity, Machine, Plan, Report, StripOptions, Target, adapt, apply, strip, undo,
};
use vdisk_testkit::power::{Fate, Recorder, Recording, put_on_host};

const CUTS: usize = 8;

/// A Windows whose storage drivers are off, and which had a filter of its old disks.
fn guest(folder: &Path) -> Option<std::path::PathBuf> {
    let spec = Spec {
        system: None,
        version: "6.1.7601",
        machine: X64,
        gpt: false,
        drivers: &["atapi", "intelide", "msahci", "iaStor"],
        files: &[],
    };
    windows(folder, &spec, |system| {
        for name in ["atapi", "intelide", "msahci"] {
            system.driver(name, 3);
        }
        system.driver("iaStor", 0);
    })
}

fn planned(image: &Path, open: &OpenOptions) -> (Machine, Plan) {
    let disk: Arc<dyn Disk> = Arc::new(open.open(image).unwrap());
    let mut machine = Machine::open(disk, 512).unwrap();
    let mut plan = Plan::default();
    let options = StripOptions { identity: Identity::Keep, ..StripOptions::default() };
    strip(&mut machine, &options, &mut plan).unwrap();
    adapt(&mut machine, &AdaptOptions::new(Target::Kvm), &mut plan).unwrap();
    (machine, plan)
}

/// What the guest reads where something changes.
fn there(image: &Image, changes: &[Change]) -> Vec<Vec<u8>> {
    let read = |change: &Change| {
        let mut bytes = vec![0; change.bytes.len()];
        image.read_at(&mut bytes, change.offset).unwrap();
        bytes
    };
    changes.iter().map(read).collect()
}

#[test]
fn the_old_guest_or_the_new_one() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let Some(raw) = guest(folder.path()) else { return };
    let source = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
    for format in FORMATS {
        let place = folder.path().join(format.name());
        let image = image(&place, format, &source);

        let recorder = Recorder::new();
        let watched = OpenOptions::new().on(Arc::new(recorder.clone())).in_one_session();
        let (machine, plan) = planned(&image, &watched);
        let changes = machine.changes().unwrap();
        assert!(!changes.is_empty(), "{plan:?}");
        let before = there(&Image::open(&image).unwrap(), &changes);
        let done = apply(&image, &watched, &machine, &plan, "adapt", false).unwrap();
        let (_, Report { plan: told, .. }) = done.expect("a report");
        assert_eq!(told, plan);
        drop((machine, watched));
        let after: Vec<Vec<u8>> = changes.iter().map(|change| change.bytes.clone()).collect();

        let recording = recorder.recording();
        let (mut old, mut new) = (0, 0);
        cut(&place, &recording, |cut, fate| {
            let context = format!("{format} cut {cut} of {}, {fate:?}", recording.len());
            let opened = opened_or_finished(&image, &context);
            let found = there(&opened, &changes);
            drop(opened);
            if found == before {
                let (_, again) = planned(&image, &OpenOptions::new());
                assert_eq!(again.actions, plan.actions, "{context}: the same is to be done");
                old += 1;
            } else {
                assert!(found == after, "{context}: neither the old guest nor the new one");
                let (machine, again) = planned(&image, &OpenOptions::new());
                assert_eq!(again.actions, [], "{context}: nothing is left to do");
                assert_eq!(machine.changes().unwrap(), [], "{context}");
                new += 1;
            }
        });
        assert!(old > 0 && new > 0, "{format}: {old} old, {new} new");
    }
}

/// Another identity, which changes hives, descriptors of files and ids of the disk all at once;
/// then the way back. Whenever the guest is another one, a report is there that takes it back.
#[test]
fn the_original_or_the_copy_and_a_way_back() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let spec = Spec { system: None, version: "6.3.9600", ..Spec::TEN };
    let Some(raw) = original(folder.path(), &spec, |_| {}) else { return };
    let source = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
    for format in FORMATS {
        let place = folder.path().join(format.name());
        let image = image(&place, format, &source);
        let (open, recorder) = (OpenOptions::new, Recorder::new());
        let watched = open().on(Arc::new(recorder.clone())).in_one_session();
        let (machine, plan) = another(&image, &watched);
        for id in ["windows.sid.hive", "windows.sid.acl", "windows.disk-id"] {
            assert!(plan.actions.iter().any(|action| action.id == id), "{id}");
        }
        let changes = machine.changes().unwrap();
        let before = there(&Image::open(&image).unwrap(), &changes);
        let after: Vec<Vec<u8>> = changes.iter().map(|change| change.bytes.clone()).collect();
        let (report, _) =
            apply(&image, &watched, &machine, &plan, "strip", false).unwrap().expect("a report");
        drop((machine, watched));
        let backwards = Recorder::new();
        undo(&image, &open().on(Arc::new(backwards.clone())), &report, false).unwrap();

        let (mut old, mut new) = (0, 0);
        cut(&place, &recorder.recording(), |cut, fate| {
            let context = format!("{format} cut {cut}, {fate:?}");
            let opened = opened_or_finished(&image, &context);
            let found = there(&opened, &changes);
            drop(opened);
            if found == before {
                old += 1;
            } else {
                assert!(found == after, "{context}: neither the original nor the copy");
                new += 1;
                undo(&image, &open(), &report, false)
                    .unwrap_or_else(|error| panic!("{context}: back: {error}"));
                assert!(there(&Image::open(&image).unwrap(), &changes) == before, "{context}");
            }
            if old + new == 1 {
                let (_, again) = another(&image, &open());
                assert_eq!(again.actions.len(), plan.actions.len(), "{context}: as much is to do");
            }
        });
        assert!(old > 0 && new > 0, "{format}: {old} old, {new} new");

        let (mut back, mut not_yet) = (0, 0);
        cut(&place, &backwards.recording(), |cut, fate| {
            let context = format!("{format} back cut {cut}, {fate:?}");
            let opened = opened_or_finished(&image, &context);
            let found = there(&opened, &changes);
            drop(opened);
            assert!(found == before || found == after, "{context}: neither of them");
            if found == before {
                back += 1
            } else {
                not_yet += 1
            }
            match undo(&image, &open(), &report, false) {
                Ok(_) => {}
                Err(error) => {
                    let done = error.to_string().contains("taken back already");
                    assert!(done && found == before, "{context}: {error}");
                }
            }
            assert!(there(&Image::open(&image).unwrap(), &changes) == before, "{context}");
        });
        assert!(back > 0 && not_yet > 0, "{format}: {back} back, {not_yet} not yet");
    }
}

const FORMATS: [Format; 3] = [Format::Vhd, Format::Vhdx, Format::Vmdk];

/// A new image in a new folder, with the bytes of `source`.
fn image(place: &Path, format: Format, source: &Image) -> PathBuf {
    fs::create_dir(place).unwrap();
    let image = place.join(format!("disk.{format}"));
    let (new, options) = (NewImage::new(format, source.len()), CopyOptions::default());
    vdisk::convert(source, &image, &new, false, &options, Watch::default()).unwrap();
    image
}

fn another(image: &Path, open: &OpenOptions) -> (Machine, Plan) {
    let disk: Arc<dyn Disk> = Arc::new(open.open(image).unwrap());
    let mut machine = Machine::open(disk, 512).unwrap();
    let mut plan = Plan::default();
    strip(&mut machine, &StripOptions::default(), &mut plan).unwrap();
    assert_eq!(plan.refusals, []);
    (machine, plan)
}

/// Puts the files of `place` as cuts at random moments leave them, and has each state judged.
fn cut(place: &Path, recording: &Recording, mut judge: impl FnMut(usize, Fate)) {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut cuts: Vec<usize> = (0..CUTS).map(|_| rng.usize(0..=recording.len())).collect();
    // The names of report and journal come at the beginning, the journal goes at the end.
    cuts.extend((0..CUTS).map(|_| recording.len() - rng.usize(0..recording.len().min(12))));
    cuts.sort_unstable();
    let mut replay = recording.replay();
    for cut in cuts {
        replay.advance(cut);
        let fate = Fate::ALL[rng.usize(0..Fate::ALL.len())];
        put(place, &replay.files(fate, &mut rng));
        judge(cut, fate);
    }
}

/// These files and no others.
fn put(place: &Path, files: &BTreeMap<PathBuf, MemStore>) {
    for entry in fs::read_dir(place.canonicalize().unwrap()).unwrap() {
        let path = entry.unwrap().path();
        if !files.contains_key(&path) {
            fs::remove_file(path).unwrap();
        }
    }
    put_on_host(place, files);
}

/// The image after a cut; where it says so, when what was begun is finished.
fn opened_or_finished(image: &Path, context: &str) -> Image {
    match Image::open(image) {
        Ok(opened) => opened,
        Err(error) => {
            assert_eq!(error.kind(), ErrorKind::Refused, "{context}: {error}");
            assert!(error.advice().unwrap_or_default().contains("vdisk recover"), "{context}");
            finish_edit(image, &OpenOptions::new()).unwrap().expect("a journal");
            Image::open(image).unwrap()
        }
    }
}
