//! Power cuts at any moment: see `vdisk_testkit::power`.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::sync::Arc;
use std::time::SystemTime;

use common::{filled, for_writing, open_mem};
use vdisk_core::repair::Scope;
use vdisk_core::{
    Access, ErrorKind, Findings, Layer, LayerMut, MemFiles, Mends, Opener, ParentLink, Result,
    Severity, Store, StoreExt, Vacant, Watch,
};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::model::assert_clean;
use vdisk_testkit::power::{Fate, Recorder, Sizes, Subject, resize_finishes, survives};
use vdisk_vmdk::{
    ChildOptions, CreateOptions, OpenOptions, Subformat, create_child, mend, open, reclaim,
};

fn open_any(
    store: Arc<dyn Store>,
    opener: &dyn Opener,
    access: Access,
) -> Result<Box<dyn LayerMut>> {
    Ok(Box::new(open(store, opener, &OpenOptions { access, ..OpenOptions::default() })?))
}

/// An image that keeps its size.
fn subject(files: MemFiles) -> Subject<'static> {
    Subject {
        files,
        open: &open_any,
        below: VecDisk(Vec::new()),
        unit: 8 << 10,
        sector: 512,
        sizes: None,
        links: Vec::new(),
        first: &[],
        steps: 20,
        until_written: &[],
    }
}

const SMALL: Option<Sizes> = Some(Sizes { step: 4096 * 3, most: 4096 * 3 * 24, often: false });

#[test]
fn sparse_disks_survive() {
    for seed in 0..6 {
        let size = 40_960 * 5;
        let options = CreateOptions { grain_size: 8 << 10, ..CreateOptions::new(size) };
        let files = filled(&options, &Content::random(size, seed));
        let sizes = SMALL.filter(|_| seed % 2 == 1);
        survives(&Subject { sizes, ..subject(files) }, seed, 150);
    }
}

#[test]
fn disks_without_tables_survive() {
    for seed in 0..3 {
        let size = 5 << 20;
        let options = CreateOptions { grain_size: 8 << 10, ..CreateOptions::new(size) };
        let files = filled(&options, &Content::empty(size));
        let store = files.get("disk.vmdk").unwrap();
        let bytes = store.to_bytes();
        for field in [48, 56] {
            let at = u64::from_le_bytes(bytes[field..field + 8].try_into().unwrap()) * 512;
            store.put(&[0; 8], at, "directory").unwrap();
        }
        let options = OpenOptions::default();
        let layer = open(store.clone(), &files, &options).unwrap();
        assert_eq!(layer.info().virtual_size, size);
        // The first 200 KB only, so that comparing stays quick.
        let mut layer = open(store, &files, &for_writing()).unwrap();
        layer.resize(204_800).unwrap();
        layer.close().unwrap();
        survives(&subject(files), seed, 150);
    }
}

#[test]
fn disks_of_several_files_survive() {
    for (seed, subformat) in [
        (0, Subformat::TwoGbMaxExtentSparse),
        (1, Subformat::TwoGbMaxExtentFlat),
        (2, Subformat::MonolithicFlat),
    ] {
        let size = 40_960 * 5;
        let options = CreateOptions { subformat, ..CreateOptions::new(size) };
        survives(&subject(filled(&options, &Content::random(size, seed))), seed, 100);
    }
}

#[test]
fn deltas_survive() {
    for seed in 0..6 {
        let size = 200_192;
        let content = Content::full(size, seed);
        let parent = filled(&CreateOptions::new(size), &Content::empty(size));
        let links =
            ["p.vmdk", "a folder with a long name/of another/p.vmdk"].map(|name| ParentLink {
                info: open_mem(&parent).unwrap().info().clone(),
                relative: name.into(),
                absolute: format!("/{name}").into(),
                modified: SystemTime::now(),
            });
        let mut files = MemFiles::new("disk.vmdk");
        create_child(&mut files, &ChildOptions::new(&links[0])).unwrap();
        let below = VecDisk(content.bytes().to_vec());
        survives(&Subject { below, links: links.to_vec(), ..subject(files) }, seed, 150);
    }
}

/// Killed anywhere, a shrink or growth is finished by asking for the same size again, and what was
/// cut off never comes back.
#[test]
fn a_resize_that_was_killed_is_finished_by_the_next() {
    let (large, small) = (9 << 20, (3 << 20) + 20_480);
    let options = CreateOptions { grain_size: 8 << 10, ..CreateOptions::new(large) };
    let files = filled(&options, &Content::random(large, 5));
    for target in [small, large + (5 << 20)] {
        resize_finishes(&subject(files.clone()), target);
    }
}

/// Killed anywhere, a shrink is finished also where space was reclaimed in between.
#[test]
fn a_shrink_that_was_killed_is_finished_after_a_repair() {
    let (large, small) = (9 << 20, (3 << 20) + 20_480);
    let options = CreateOptions { grain_size: 8 << 10, ..CreateOptions::new(large) };
    let content = Content::random(large, 5);
    let files = filled(&options, &content);
    let recorder = Recorder::new();
    let over = recorder.over(&files);
    let store = over.open("disk.vmdk", "image", Access::Write).unwrap();
    let shrunk = |store: Arc<dyn Store>, opener: &dyn Opener| {
        let mut layer = open(store, opener, &for_writing()).unwrap();
        layer.resize(small).and_then(|()| layer.close())
    };
    shrunk(store, &over).unwrap();
    let recording = recorder.recording();
    let mut replay = recording.replay();
    for cut in 0..=recording.len() {
        replay.advance(cut);
        if cut >= 40 && cut + 40 < recording.len() && !cut.is_multiple_of(13) {
            continue;
        }
        let left = MemFiles::new("disk.vmdk");
        for (name, store) in replay.files(Fate::Everything, &mut fastrand::Rng::with_seed(0)) {
            left.insert(name.display().to_string(), Arc::new(store));
        }
        let store: Arc<dyn Store> = left.get("disk.vmdk").unwrap();
        let mut mends = Mends::default();
        mend(&store, &left, Scope::All, &mut mends).unwrap();
        reclaim(&store, &left, &mut mends).unwrap();
        shrunk(store.clone(), &left).unwrap_or_else(|e| panic!("cut {cut}: {e}"));
        let layer = open(store, &left, &OpenOptions::default()).unwrap();
        assert_clean(&layer, &format!("cut {cut}"));
        let mut bytes = vec![0; small as usize];
        vdisk_core::layer::read(&layer, &VecDisk(Vec::new()), &mut bytes, 0).unwrap();
        assert!(bytes == content.bytes()[..small as usize], "cut {cut}");
    }
}

/// The last grain is one of which a cut left only the redundant entry: a shrink keeps its place.
#[test]
fn a_shrink_does_not_cut_off_what_only_the_copy_names() {
    let (large, small) = (4 << 20, 3 << 20);
    let files = filled(&CreateOptions::new(large), &Content::empty(large));
    let store = files.get("disk.vmdk").unwrap();
    let mut layer = open(store.clone(), &files, &for_writing()).unwrap();
    for grain in [2, 1, 0] {
        layer.write(&[7; 65_536], grain << 16, &VecDisk(Vec::new())).unwrap();
    }
    layer.close().unwrap();
    store.put(&[0; 4], first_table(&*store), "entry").unwrap();
    store.put(&[1], 72, "mark").unwrap();
    let before = store.len().unwrap();
    let mut layer = open(store.clone(), &files, &for_writing()).unwrap();
    layer.resize(small).unwrap();
    layer.close().unwrap();
    let mut layer = open(store.clone(), &files, &for_writing()).unwrap();
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap();
    assert_eq!(findings.count(Severity::Corruption), 0, "{:?}", findings.list());
    assert_eq!(store.len().unwrap(), before);
    // A table that names others still is no lost one: this is settled.
    layer.compact(&Vacant::default(), Watch::default()).unwrap();
    layer.close().unwrap();
    assert_clean(&layer, "compacted");
    assert_eq!(store.len().unwrap(), before - 65_536);
}

/// A table of which only the copy is left may be the only word of its grains.
#[test]
fn compacting_does_not_give_up_what_a_lost_table_may_have_named() {
    let size = 4 << 20;
    let files = filled(&CreateOptions::new(size), &Content::full(size, 1));
    let store = files.get("disk.vmdk").unwrap();
    store.put(&[0; 2048], first_table(&*store), "table").unwrap();
    store.put(&[1], 72, "mark").unwrap();
    let before = store.to_bytes();
    let mut layer = open(store.clone(), &files, &for_writing()).unwrap();
    for error in [
        layer.plan_compact(&Vacant::default()).unwrap_err(),
        layer.compact(&Vacant::default(), Watch::default()).unwrap_err(),
    ] {
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.advice().is_some_and(|advice| advice.contains("convert")), "{error}");
    }
    layer.close().unwrap();
    assert!(store.to_bytes() == before);
}

/// Where the first table stands that counts.
fn first_table(store: &dyn Store) -> u64 {
    let number = |at: u64| {
        let mut bytes = [0; 4];
        store.fetch(&mut bytes, at, "number").unwrap();
        u64::from(u32::from_le_bytes(bytes))
    };
    number(number(56) * 512) * 512
}

/// A cut between the two copies of a table leaves the redundant one ahead. Writing and closing
/// must not make a lost table of that: the mark of the cut stays.
#[test]
fn a_copy_that_a_cut_left_ahead_is_no_damage_after_the_next_close() {
    let size = 4 << 20;
    let files = filled(&CreateOptions::new(size), &Content::full(size, 1));
    let store = files.get("disk.vmdk").unwrap();
    // The first entry of the first table of the directory that counts, and the unclean mark.
    store.put(&[0; 4], first_table(&*store), "entry").unwrap();
    store.put(&[1], 72, "mark").unwrap();
    let mut layer = open(store.clone(), &files, &for_writing()).unwrap();
    layer.write(&[7; 512], 1 << 20, &VecDisk(Vec::new())).unwrap();
    layer.close().unwrap();
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap();
    assert!(layer.info().dirty);
    assert!(findings.list().iter().any(|finding| finding.code == "vmdk-rgd-ahead"));
    assert_eq!(findings.count(Severity::Corruption), 0, "{:?}", findings.list());
}
