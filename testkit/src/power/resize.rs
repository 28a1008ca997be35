//! A change of size that was cut off, and finished by asking for the size again.

use fastrand::Rng;
use vdisk_core::{Access, Files, LayerMut, MemFiles, Store, Vacant, Watch};

use super::cut::Fate;
use super::record::Recorder;
use super::session::{Subject, contents, copy, folder, open};
use crate::model::assert_clean;

/// Kills a change of the size to `target` bytes at every moment (of many alike, at some), asks for
/// the size again, and asserts that nothing is left of the old one: not in the tables, not in the
/// file's length, and not when the disk becomes as long as it was.
///
/// # Panics
/// Where something is.
pub fn resize_finishes(subject: &Subject<'_>, target: u64) {
    let files = copy(&subject.files);
    let recorder = Recorder::new();
    let main = files.main_name();
    let opened = |files: &MemFiles| {
        open(subject, &Recorder::new().over(files), main, Access::Write).expect("it opens")
    };
    let mut layer = open(subject, &recorder.over(&files), main, Access::Write).expect("it opens");
    let large = layer.info().virtual_size;
    let mut expected = contents(&*layer, &subject.below);
    expected.resize(target as usize, 0);
    resize(&mut *layer, target, "at once");
    let recording = recorder.recording();
    let mut replay = recording.replay();
    for cut in 0..=recording.len() {
        replay.advance(cut);
        let alike = cut >= 40 && cut + 40 < recording.len() && !cut.is_multiple_of(13);
        if alike {
            continue;
        }
        let context = format!("to {target}, killed after {cut} of {}", recording.len());
        let left = folder(main, replay.files(Fate::Everything, &mut Rng::with_seed(0)));
        let mut layer = opened(&left);
        resize(&mut *layer, target, &context);
        drop(layer);
        let mut layer = opened(&left);
        assert_clean(&*layer, &context);
        assert!(contents(&*layer, &subject.below) == expected, "{context}");
        if target < large {
            assert_eq!(length(&left), length(&files), "{context}");
            layer.resize(large).unwrap_or_else(|e| panic!("{context}: {e}"));
            let grown = contents(&*layer, &subject.below);
            let (kept, new) = grown.split_at(expected.len());
            assert!(kept == expected && new.iter().all(|byte| *byte == 0), "{context}: it is back");
        }
    }
}

fn resize(layer: &mut dyn LayerMut, size: u64, context: &str) {
    layer
        .resize(size)
        // Where only space was left to be given back, compacting does that.
        .and_then(|()| layer.compact(&Vacant::default(), Watch::default()))
        .and_then(|_| layer.close())
        .unwrap_or_else(|e| panic!("{context}: {e}"));
}

fn length(files: &MemFiles) -> u64 {
    files.all().iter().map(|(_, store)| store.len().expect("memory")).sum()
}
