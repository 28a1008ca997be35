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

use std::fs;
use std::path::Path;
use std::sync::Arc;

use common::{Spec, X64, windows};
use vdisk::{
    Change, CopyOptions, Disk, ErrorKind, Format, Image, NewImage, OpenOptions, Watch, finish_edit,
};
use vdisk_fixup::{
    AdaptOptions, Identity, Machine, Plan, Report, StripOptions, Target, adapt, apply, strip,
};
use vdisk_testkit::power::{Fate, Recorder, put_on_host};

const CUTS: usize = 24;

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
    for format in [Format::Vhd, Format::Vhdx, Format::Vmdk] {
        let place = folder.path().join(format.name());
        fs::create_dir(&place).unwrap();
        let image = place.join(format!("disk.{format}"));
        let (new, options) = (NewImage::new(format, source.len()), CopyOptions::default());
        vdisk::convert(&source, &image, &new, false, &options, Watch::default()).unwrap();

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
        let mut rng = fastrand::Rng::with_seed(7);
        let mut cuts: Vec<usize> = (0..CUTS).map(|_| rng.usize(0..=recording.len())).collect();
        cuts.sort_unstable();
        let mut replay = recording.replay();
        let (mut old, mut new) = (0, 0);
        for cut in cuts {
            replay.advance(cut);
            let fate = Fate::ALL[rng.usize(0..Fate::ALL.len())];
            put_on_host(&place, &replay.files(fate, &mut rng));
            let context = format!("{format} cut {cut} of {}, {fate:?}", recording.len());
            let opened = match Image::open(&image) {
                Ok(opened) => opened,
                Err(error) => {
                    assert_eq!(error.kind(), ErrorKind::Refused, "{context}: {error}");
                    finish_edit(&image, &OpenOptions::new()).unwrap().expect("a journal");
                    Image::open(&image).unwrap()
                }
            };
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
        }
        assert!(old > 0 && new > 0, "{format}: {old} old, {new} new");
    }
}
