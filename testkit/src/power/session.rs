//! One image, driven at random while its files are recorded, and judged after cuts.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;

use fastrand::Rng;
use vdisk_core::layer::read;
use vdisk_core::{
    Access, Files, Finding, Findings, Layer, LayerMut, MemFiles, MemStore, Opener, ParentLink,
    Severity,
};

use super::cut::{Fate, Recording};
use super::history::{Change, History, Values};
use super::record::Recorder;
use crate::exercise::Open;
use crate::model::random_range;
use crate::{VecDisk, vacant};

/// An image whose power is cut.
pub struct Subject<'a> {
    /// Its files as they stand.
    pub files: MemFiles,
    /// Opens it.
    pub open: Open<'a>,
    /// What its parents hold.
    pub below: VecDisk,
    /// Allocation unit, bytes; changes gather around its edges.
    pub unit: u64,
    /// Bytes of the guest's sector; no change is smaller.
    pub sector: u64,
    /// Sizes it may take; none for an image that keeps its size.
    pub sizes: Option<Sizes>,
    /// Parents it may be linked to.
    pub links: Vec<ParentLink>,
    /// What is done first.
    pub first: &'static [Step],
    /// Random operations after that.
    pub steps: usize,
    /// Faults by their codes that a cut may leave until the image is next written to.
    pub until_written: &'static [&'static str],
}

/// Sizes of a disk.
#[derive(Clone, Copy, Debug)]
pub struct Sizes {
    /// All are multiples of this many bytes.
    pub step: u64,
    /// The largest, bytes.
    pub most: u64,
    /// Whether every other operation changes the size.
    pub often: bool,
}

/// An image that was driven, and all that happened to its files.
#[derive(Debug)]
pub struct Session {
    recording: Recording,
    disk: History,
    /// What it says of its parent.
    link: Values<String>,
    /// Its identity, where it is settled.
    identity: Values<Option<String>>,
    main: String,
}

/// What is done to an image. Whatever else changes an image in place belongs here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Bytes are written.
    Write,
    /// A range is zeroed.
    Zero,
    /// The size changes.
    Resize,
    /// What was written is flushed.
    Flush,
    /// The image is closed, and opened again.
    Reopen,
    /// The identity is settled.
    Identify,
    /// Another parent is named.
    Relink,
    /// What is stored without need is given back.
    Compact,
}

impl Step {
    fn random(rng: &mut Rng, subject: &Subject<'_>) -> Self {
        if subject.sizes.is_some_and(|sizes| sizes.often) && rng.bool() {
            return Self::Resize;
        }
        match rng.u32(0..20) {
            0..9 => Self::Write,
            9..12 => Self::Zero,
            12 | 13 if subject.sizes.is_some() => Self::Resize,
            14 if !subject.links.is_empty() => Self::Relink,
            15 => Self::Identify,
            16 => Self::Reopen,
            17 => Self::Compact,
            _ => Self::Flush,
        }
    }
}

impl Session {
    /// Drives `subject` by operations made from `seed`. Its files are left as they were.
    #[must_use]
    pub fn record(subject: &Subject<'_>, seed: u64) -> Self {
        let mut rng = Rng::with_seed(seed);
        let recorder = Recorder::new();
        let watched = recorder.over(&copy(&subject.files));
        let main = subject.files.main_name().to_owned();
        let open = || open(subject, &watched, &main, Access::Write).expect("a sound image");
        let mut layer = open();
        let mut session = Self {
            recording: Recording::default(),
            disk: History::new(contents(&*layer, &subject.below)),
            link: Values::new(link_of(&*layer)),
            identity: Values::new(layer.info().identity.clone()),
            main: main.clone(),
        };
        let mut settled = false;
        for number in 0..subject.first.len() + subject.steps {
            let first = subject.first.get(number).copied();
            let step = first.unwrap_or_else(|| Step::random(&mut rng, subject));
            let begun = recorder.len();
            let changes =
                !matches!(step, Step::Flush | Step::Reopen | Step::Identify | Step::Relink);
            if changes && !settled {
                // The image takes an identity that only it knows.
                session.identity.note(begun, begun, None);
            }
            let done = match step {
                Step::Reopen => {
                    layer.close().unwrap_or_else(|e| panic!("seed {seed}: close: {e}"));
                    layer = open();
                    settled = false;
                    Ok(Some(Change::Flush))
                }
                Step::Identify => identify(&mut *layer, &mut rng).map(|identity| {
                    settled |= identity.is_some();
                    if identity.is_some() {
                        session.identity.note(begun, recorder.len(), identity);
                    }
                    None
                }),
                Step::Relink => relink(&mut *layer, subject, &mut rng).map(|()| {
                    session.link.note(begun, recorder.len(), link_of(&*layer));
                    Some(Change::Flush)
                }),
                Step::Compact => {
                    let context = format!("seed {seed} step {number}");
                    vacant::compact(&mut *layer, &subject.below, session.disk.now(), &context);
                    Ok(Some(Change::Flush))
                }
                _ => change(&mut *layer, step, subject, &mut rng).map(Some),
            };
            let done = done.unwrap_or_else(|e| panic!("seed {seed} step {number} {step:?}: {e}"));
            if let Some(change) = done {
                session.disk.note(begun, recorder.len(), change);
            }
        }
        let begun = recorder.len();
        layer.close().unwrap_or_else(|e| panic!("seed {seed}: close: {e}"));
        session.disk.note(begun, recorder.len(), Change::Flush);
        assert_eq!(contents(&*layer, &subject.below), session.disk.now(), "seed {seed}");
        session.recording = recorder.recording();
        session
    }

    /// Up to `most` states of the files after cuts: at any moment, and right before flushes.
    /// Calls `each` with the number of operations done, words for messages, and the files.
    pub fn states(
        &self,
        seed: u64,
        most: usize,
        mut each: impl FnMut(usize, &str, &MemFiles, &mut Rng),
    ) {
        let mut rng = Rng::with_seed(seed ^ 0xC07);
        let (ops, syncs) = (self.recording.len(), self.recording.syncs());
        let mut cuts: Vec<usize> = (0..most)
            .map(|_| match rng.choice(&syncs) {
                Some(sync) if rng.bool() => *sync,
                _ => rng.usize(0..=ops),
            })
            .collect();
        cuts.sort_unstable();
        let mut replay = self.recording.replay();
        for (number, cut) in cuts.into_iter().enumerate() {
            // A state must not depend on those before.
            let mut rng = Rng::with_seed(seed ^ ((number as u64) << 32));
            replay.advance(cut);
            let fate = Fate::ALL[rng.usize(0..Fate::ALL.len())];
            let files = folder(&self.main, replay.files(fate, &mut rng));
            let context = format!("seed {seed} state {number}: cut {cut} of {ops}, {fate:?}");
            each(cut, &context, &files, &mut rng);
        }
    }

    /// Judges the image as a cut left it, after `cut` operations: it opens without being changed,
    /// holds what it may, its tables are sound; opening it for writing mends it and changes nothing
    /// else, also when the power fails again meanwhile; and it can be gone on with. Returns the
    /// number of states judged. The files are left mended and closed.
    ///
    /// # Panics
    /// Where one of these is not so.
    pub fn judge(
        &self,
        subject: &Subject<'_>,
        cut: usize,
        files: &MemFiles,
        rng: &mut Rng,
        context: &str,
    ) -> usize {
        let found = self.judge_reading(subject, cut, files, context);
        let mended = copy(files);
        let recovery = recover(subject, &mended, &found, context);
        let mut judged = 1;
        if !recovery.is_empty() && rng.u32(0..3) == 0 {
            let at = rng.usize(0..=recovery.len());
            let fate = Fate::ALL[rng.usize(0..Fate::ALL.len())];
            let mut replay = recovery.replay();
            replay.advance(at);
            let again = folder(&self.main, replay.files(fate, rng));
            let context = format!("{context}; again at {at} of {}, {fate:?}", recovery.len());
            let found = self.judge_reading(subject, cut, &again, &context);
            recover(subject, &again, &found, &context);
            judged += 1;
        }
        let again = recover(subject, &mended, &found, context);
        assert!(
            again.is_empty() || same(&again, &mended),
            "{context}: mending it again changes it"
        );
        go_on(subject, &mended, found, rng, context);
        for (name, store) in mended.all() {
            files.insert(name, store);
        }
        judged
    }

    /// What the image reads like, opened for reading only.
    fn judge_reading(
        &self,
        subject: &Subject<'_>,
        cut: usize,
        files: &MemFiles,
        context: &str,
    ) -> Vec<u8> {
        let watch = Recorder::new();
        let layer = open(subject, &watch.over(files), &self.main, Access::Read)
            .unwrap_or_else(|e| panic!("{context}: open: {e}"));
        let found = contents(&*layer, &subject.below);
        if let Err(fault) = self.disk.judge(cut, &found) {
            panic!("{context}: {fault}");
        }
        assert_sound(&*layer, subject.until_written, context);
        let link = link_of(&*layer);
        assert!(self.link.possible(cut).any(|known| *known == link), "{context}: link {link}");
        let identity = &layer.info().identity;
        let mut known = self.identity.possible(cut);
        assert!(known.any(|known| known.is_none() || known == identity), "{context}: {identity:?}");
        assert!(watch.is_empty(), "{context}: reading wrote");
        found
    }
}

/// Opens the image for writing, which mends it, and drops it; what that did to its files.
fn recover(subject: &Subject<'_>, files: &MemFiles, found: &[u8], context: &str) -> Recording {
    let recorder = Recorder::new();
    let layer = open(subject, &recorder.over(files), files.main_name(), Access::Write)
        .unwrap_or_else(|e| panic!("{context}: open for writing: {e}"));
    assert!(contents(&*layer, &subject.below) == found, "{context}: mending changed what it holds");
    assert_sound(&*layer, subject.until_written, context);
    drop(layer);
    recorder.recording()
}

/// Whether what was recorded left the files as they were.
fn same(recording: &Recording, files: &MemFiles) -> bool {
    let before = recording.replay().files(Fate::Nothing, &mut Rng::new());
    let now = files.all();
    before.values().zip(&now).all(|(before, (_, now))| before.to_bytes() == now.to_bytes())
}

/// Changes a sector, closes, and looks at it all again.
fn go_on(
    subject: &Subject<'_>,
    files: &MemFiles,
    mut expected: Vec<u8>,
    rng: &mut Rng,
    context: &str,
) {
    let main = files.main_name();
    let sector = subject.sector as usize;
    let at = rng.usize(0..expected.len() / sector) * sector;
    expected[at..at + sector].fill(7);
    let mut layer = open(subject, files, main, Access::Write).expect("it was opened before");
    layer
        .write(&expected[at..at + sector], at as u64, &subject.below)
        .and_then(|()| layer.close())
        .unwrap_or_else(|e| panic!("{context}: going on: {e}"));
    drop(layer);
    let layer = open(subject, files, main, Access::Read)
        .unwrap_or_else(|e| panic!("{context}: after going on: {e}"));
    assert!(contents(&*layer, &subject.below) == expected, "{context}: after going on");
    assert_sound(&*layer, &[], context);
}

/// Drives `subject` by `seed` and judges `most` states after cuts: the whole machine in one call.
///
/// # Panics
/// Where a cut loses something.
pub fn survives(subject: &Subject<'_>, seed: u64, most: usize) {
    let session = Session::record(subject, seed);
    session.states(seed, most, |cut, context, files, rng| {
        session.judge(subject, cut, files, rng, context);
    });
}

pub(super) fn open(
    subject: &Subject<'_>,
    opener: &dyn Opener,
    main: &str,
    access: Access,
) -> vdisk_core::Result<Box<dyn LayerMut>> {
    (subject.open)(opener.open(main, "image", access)?, opener, access)
}

pub(super) fn copy(files: &MemFiles) -> MemFiles {
    let copy = MemFiles::new(files.main_name());
    for (name, store) in files.all() {
        copy.insert(name, Arc::new((*store).clone()));
    }
    copy
}

pub(super) fn folder(main: &str, files: BTreeMap<PathBuf, MemStore>) -> MemFiles {
    let folder = MemFiles::new(main);
    for (path, store) in files {
        folder.insert(path.display().to_string(), Arc::new(store));
    }
    folder
}

pub(super) fn contents(layer: &dyn Layer, below: &VecDisk) -> Vec<u8> {
    let mut bytes = vec![0; layer.info().virtual_size as usize];
    read(layer, below, &mut bytes, 0).unwrap_or_else(|e| panic!("read: {e}"));
    bytes
}

fn link_of(layer: &dyn Layer) -> String {
    format!("{:?}", layer.info().parent)
}

/// Asserts that a check finds leaks at worst, and what is named in `but`.
fn assert_sound(layer: &dyn Layer, but: &[&str], context: &str) {
    let mut findings = Findings::new();
    layer.check(&mut findings).unwrap_or_else(|e| panic!("{context}: check: {e}"));
    let corrupt = |finding: &&Finding| finding.severity == Severity::Corruption;
    let mut faults = findings.list().iter().filter(corrupt);
    if let Some(fault) = faults.find(|fault| !but.contains(&fault.code)) {
        panic!("{context}: {fault:?}");
    }
}

fn change(
    layer: &mut dyn LayerMut,
    step: Step,
    subject: &Subject<'_>,
    rng: &mut Rng,
) -> vdisk_core::Result<Change> {
    let size = layer.info().virtual_size;
    if let (Step::Resize, Some(sizes)) = (step, subject.sizes) {
        let size = rng.u64(1..=sizes.most / sizes.step) * sizes.step;
        layer.resize(size)?;
        return Ok(Change::Resize(size as usize));
    }
    if let Step::Flush = step {
        layer.flush()?;
        return Ok(Change::Flush);
    }
    let mut range = random_range(rng, size, subject.unit);
    if rng.bool() {
        // Aligned, as a guest writes.
        range.start = range.start / subject.sector * subject.sector;
        range.end = range.end.next_multiple_of(subject.sector).min(size);
    }
    let at = range.start as usize;
    if let Step::Zero = step {
        layer.zero(range.clone(), &subject.below)?;
        return Ok(Change::Zero(at..range.end as usize));
    }
    let mut bytes = vec![0; range.end as usize - at];
    rng.fill(&mut bytes);
    layer.write(&bytes, range.start, &subject.below)?;
    Ok(Change::Write(at, bytes))
}

/// Settles the identity that the image has, or a new one.
fn identify(layer: &mut dyn LayerMut, rng: &mut Rng) -> vdisk_core::Result<Option<String>> {
    let fresh = layer.fresh_identity();
    let chosen = if rng.bool() { fresh } else { fresh.and(layer.info().identity.clone()) };
    if let Some(identity) = &chosen {
        layer.set_identity(identity)?;
    }
    Ok(chosen)
}

fn relink(
    layer: &mut dyn LayerMut,
    subject: &Subject<'_>,
    rng: &mut Rng,
) -> vdisk_core::Result<()> {
    layer.relink(&subject.links[rng.usize(0..subject.links.len())])
}
