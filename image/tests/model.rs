//! Images on the host, changed in place at random, against a plain vector of bytes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::ops::Range;
use std::path::{Path, PathBuf};

use common::{VARIANTS, Variant, bytes_of, convert, digests_below, open_as, write_raw};
use vdisk::{Disk, ErrorKind, Format, Image, ImageMut, OpenOptions};
use vdisk_testkit::content::Content;

/// One image under test, and what it should hold.
struct Subject {
    context: String,
    path: PathBuf,
    open: OpenOptions,
    model: Vec<u8>,
    sector: u64,
    resizes: bool,
    /// Space that nothing refers to is no fault: it was closed without [`ImageMut::close`].
    may_leak: bool,
}

const MOST: u64 = 7 << 20;

impl Subject {
    fn reopen(&self) -> ImageMut {
        self.open.open_rw(&self.path).unwrap_or_else(|e| panic!("{}: open: {e}", self.context))
    }

    /// Reads the file afresh, without writing, and checks it.
    fn inspect(&self, step: usize) {
        let context = format!("{} step {step}", self.context);
        let image = self.open.open(&self.path).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_same_bytes(&image, &self.model, &context);
        assert_map_is_true(&image, &self.model, &context);
        let report = vdisk::check(&self.path, &self.open).unwrap();
        let leaks = if self.may_leak { 0 } else { report.leaks };
        assert_eq!((report.corruptions, leaks), (0, 0), "{context}: {:?}", report.findings);
    }

    fn drive(&mut self, seed: u64, steps: usize) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let mut image = self.reopen();
        assert_same_bytes(&image, &self.model, &self.context);
        for step in 0..steps {
            let context = format!("{} seed {seed} step {step}", self.context);
            let range = self.range(&mut rng);
            let bytes = range.start as usize..range.end as usize;
            let fail = |what: &str, e: vdisk::Error| -> ! { panic!("{context}: {what}: {e}") };
            match rng.u32(0..100) {
                0..45 => {
                    match rng.u32(0..4) {
                        0 => self.model[bytes.clone()].fill(0),
                        1 => self.model[bytes.clone()].fill(rng.u8(..)),
                        _ => rng.fill(&mut self.model[bytes.clone()]),
                    }
                    image
                        .write_at(&self.model[bytes], range.start)
                        .unwrap_or_else(|e| fail("write", e));
                }
                45..60 => {
                    self.model[bytes].fill(0);
                    image.zero(range).unwrap_or_else(|e| fail("zero", e));
                }
                60..84 => {
                    let mut buf = vec![0xEE; bytes.len()];
                    image.read_at(&mut buf, range.start).unwrap_or_else(|e| fail("read", e));
                    assert!(buf == self.model[bytes], "{context}: {range:?} reads otherwise");
                }
                84..87 => image.flush().unwrap_or_else(|e| fail("flush", e)),
                87..92 => {
                    let size = rng.u64(1..=MOST / self.sector) * self.sector;
                    let done = image.resize(size);
                    if self.resizes {
                        done.unwrap_or_else(|e| fail("resize", e));
                        self.model.resize(size as usize, 0);
                    } else {
                        assert_eq!(done.unwrap_err().kind(), ErrorKind::Unsupported, "{context}");
                    }
                    assert_eq!(image.len(), self.model.len() as u64, "{context}");
                }
                92..94 if self.may_leak => {
                    image.flush().unwrap_or_else(|e| fail("flush", e));
                    drop(image);
                    self.inspect(step);
                    image = self.reopen();
                }
                _ => {
                    assert_same_bytes(&image, &self.model, &context);
                    image.close().unwrap_or_else(|e| fail("close", e));
                    self.inspect(step);
                    image = self.reopen();
                }
            }
        }
        image.close().unwrap();
        self.inspect(steps);
    }

    /// A range that likes the edges of blocks, grains and the disk.
    fn range(&self, rng: &mut fastrand::Rng) -> Range<u64> {
        let size = self.model.len() as u64;
        let unit = [512, 4096, 65536, 512 << 10, 1 << 20, 2 << 20][rng.usize(0..6)];
        let base = if rng.u32(0..8) == 0 { size } else { rng.u64(0..=size / unit) * unit };
        let shift = [0, 0, 1, 512, 4096][rng.usize(0..5)];
        let start = if rng.bool() { base.saturating_sub(shift) } else { base + shift }.min(size);
        let longest = [700, 5000, 70_000, 1_200_000][rng.usize(0..4)];
        let len = if rng.bool() { unit.min(longest) } else { rng.u64(1..=longest) };
        start..(start + len).min(size)
    }
}

fn assert_same_bytes(disk: &dyn Disk, model: &[u8], context: &str) {
    assert_eq!(disk.len(), model.len() as u64, "{context}: size");
    let found = bytes_of(disk);
    if found != model {
        let first = found.iter().zip(model).position(|(a, b)| a != b).unwrap();
        let last = found.iter().zip(model).rposition(|(a, b)| a != b).unwrap();
        panic!("{context}: bytes from {first} to {last} are not what was written");
    }
}

/// The map covers the disk, and what it says of zeros and of places in files is true.
fn assert_map_is_true(image: &Image, model: &[u8], context: &str) {
    let mut at = 0;
    vdisk::map(image, |entry| {
        assert_eq!(entry.start, at, "{context}: {entry:?}");
        at += entry.length;
        let bytes = &model[entry.start as usize..at as usize];
        if entry.zero {
            assert!(bytes.iter().all(|byte| *byte == 0), "{context}: {entry:?} is not zero");
        }
        if let (Some(name), Some(offset)) = (&entry.filename, entry.offset) {
            use std::os::unix::fs::FileExt;
            let mut buf = vec![0; bytes.len()];
            let file = std::fs::File::open(name).unwrap();
            file.read_exact_at(&mut buf, offset).unwrap();
            // A log that waits to be replayed may still hold what belongs there.
            assert!(buf == bytes || image.info().dirty, "{context}: {entry:?} stands elsewhere");
        }
        Ok(())
    })
    .unwrap();
    assert_eq!(at, model.len() as u64, "{context}: the map ends early");
}

fn image_with(folder: &Path, variant: &Variant, content: &Content) -> PathBuf {
    let raw = folder.join("content.img");
    write_raw(&raw, content);
    let path = folder.join(variant.name());
    let source = open_as(Format::Raw).open(&raw).unwrap();
    convert(&source, &path, &variant.new_image(source.len())).unwrap();
    std::fs::remove_file(raw).unwrap();
    path
}

fn subject(folder: &Path, variant: &Variant, seed: u64) -> Subject {
    let sector = if variant.is_4k() { 4096 } else { 512 };
    let content = Content::random((3 << 20) + sector, seed);
    Subject {
        context: variant.name(),
        path: image_with(folder, variant, &content),
        open: open_as(variant.format),
        model: content.bytes().to_vec(),
        sector,
        resizes: true,
        may_leak: false,
    }
}

#[test]
fn every_writable_variant() {
    for (seed, variant) in VARIANTS.iter().enumerate().filter(|(_, v)| !v.is_stream()) {
        let folder = tempfile::tempdir().unwrap();
        subject(folder.path(), variant, seed as u64).drive(seed as u64, 500);
    }
}

/// Dropped without being closed: as after a power cut, whatever was flushed is there.
#[test]
fn left_open_after_a_flush() {
    for (seed, variant) in VARIANTS.iter().enumerate().filter(|(_, v)| !v.is_stream()) {
        let folder = tempfile::tempdir().unwrap();
        let mut subject = subject(folder.path(), variant, seed as u64 + 50);
        subject.may_leak = true;
        subject.drive(seed as u64 + 50, 150);
    }
}

#[test]
fn a_stream_is_not_changed_in_place() {
    let folder = tempfile::tempdir().unwrap();
    let variant = VARIANTS.iter().find(|variant| variant.is_stream()).unwrap();
    let path = image_with(folder.path(), variant, &Content::random(1 << 20, 1));
    let before = digests_below(folder.path());
    let error = OpenOptions::new().open_rw(&path).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    assert!(error.advice().unwrap().contains("convert"), "{error}");
    assert_eq!(digests_below(folder.path()), before);
}

/// Children of every kind of parent, two deep; the parents never change.
#[test]
fn every_kind_of_child() {
    for (seed, variant) in VARIANTS.iter().enumerate().filter(|(_, v)| v.format != Format::Raw) {
        let folder = tempfile::tempdir().unwrap();
        let parents = folder.path().join("parents");
        std::fs::create_dir(&parents).unwrap();
        let mut family = subject(&parents, variant, seed as u64 + 20);
        let ending = variant.format.name();
        for depth in 1..=2 {
            let child = parents.join(format!("child{depth}.{ending}"));
            let open = OpenOptions::new();
            vdisk::create_child(&child, variant.format, &family.path, &open, &[], false).unwrap();
            family.path = child;
            family.context = format!("child {depth} of {}", variant.name());
            // Children have the size of their parent.
            family.resizes = false;
            // The top child stands elsewhere, so that all that is beside the parents is theirs.
            let home = folder.path().join(format!("child{depth}"));
            std::fs::create_dir(&home).unwrap();
            let moved = home.join(format!("child{depth}.{ending}"));
            std::fs::rename(&family.path, &moved).unwrap();
            let stays = std::mem::replace(&mut family.path, moved.clone());
            family.open = OpenOptions::new().parent_dir(&parents);
            let before = digests_below(&parents);
            family.drive(seed as u64 * 10 + depth, 250);
            assert_eq!(digests_below(&parents), before, "{}: a parent", family.context);
            std::fs::rename(&moved, &stays).unwrap();
            family.path = stays;
        }
    }
}

#[test]
fn many_threads_read_one_image() {
    let folder = tempfile::tempdir().unwrap();
    for variant in VARIANTS.iter().filter(|variant| variant.format != Format::Raw) {
        let content = Content::random(6 << 20, 3);
        let base = image_with(folder.path(), variant, &content);
        let child = folder.path().join(format!("over-{}", variant.name()));
        let open = OpenOptions::new();
        vdisk::create_child(&child, variant.format, &base, &open, &[], false).unwrap();
        let mut image = open.open_rw(&child).unwrap();
        let mut model = content.bytes().to_vec();
        for at in (0..model.len()).step_by(700_000) {
            model[at..at + 9000].fill(at as u8 | 1);
            image.write_at(&model[at..at + 9000], at as u64).unwrap();
        }
        image.close().unwrap();
        let image = Image::open(&child).unwrap();
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let (image, model) = (&image, &model);
                scope.spawn(move || {
                    let mut rng = fastrand::Rng::with_seed(thread);
                    for _ in 0..150 {
                        let at = rng.usize(0..model.len());
                        let len = rng.usize(1..100_000).min(model.len() - at);
                        let mut buf = vec![0xEE; len];
                        image.read_at(&mut buf, at as u64).unwrap();
                        assert!(buf == model[at..at + len], "{} at {at}", variant.name());
                    }
                });
            }
        });
    }
}

#[test]
fn reading_and_writing_beyond_the_end_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    for variant in VARIANTS.iter().filter(|variant| !variant.is_stream()) {
        let path = image_with(folder.path(), variant, &Content::full(1 << 20, 3));
        let before = digests_below(folder.path());
        let mut image = open_as(variant.format).open_rw(&path).unwrap();
        let size = image.len();
        for (at, len) in [(size, 1_usize), (size - 1, 2), (u64::MAX, 1), (u64::MAX - 1, 2)] {
            let mut buf = vec![0; len];
            let read = image.read_at(&mut buf, at).unwrap_err();
            let written = image.write_at(&buf, at).unwrap_err();
            let kinds = (read.kind(), written.kind());
            assert_eq!(kinds, (ErrorKind::OutOfRange, ErrorKind::OutOfRange), "{at}");
        }
        assert_eq!(image.zero(size - 1..size + 1).unwrap_err().kind(), ErrorKind::OutOfRange);
        image.read_at(&mut [], size).unwrap();
        drop(image);
        assert_eq!(digests_below(folder.path()), before, "{}", variant.name());
    }
}
