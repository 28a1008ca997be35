//! The commands whose power is cut. What else changes a chain in place belongs here: a struct that
//! says how it is run, what may be seen after a cut, and how it ends.

use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use vdisk::{
    CommitRequest, CompactRequest, CopyOptions, Error, ErrorKind, Format, Image, NewImage,
    RebaseRequest, Watch,
};
use vdisk_core::{Disk, Output};
use vdisk_testkit::power::{Change, History, Recorder};

use super::chains::{Chain, Command, assert_holds, assert_reads, assert_sound, bytes_of, watched};

/// Merging the top of a chain into its parent, or an ancestor.
pub struct Commit {
    chain: Chain,
    /// The number of the image to merge into.
    target: usize,
}

impl Commit {
    pub fn random(format: Format, rng: &mut Rng) -> Self {
        let depth = rng.usize(1..4);
        let target = if rng.bool() { depth - 1 } else { rng.usize(0..depth) };
        Self { chain: Chain::new(format, depth, rng), target }
    }

    fn depth(&self) -> usize {
        self.chain.paths.len() - 1
    }

    fn commit(&self, recorder: &Recorder, force: bool) -> Result<(), Error> {
        // Where the cut came after the image was linked to the target, that is its parent.
        let into = Some(self.chain.paths[self.target].as_path());
        let request = CommitRequest { into, force, threads: 2, ..CommitRequest::default() };
        vdisk::commit(self.chain.top(), &watched(recorder), &request, Watch::default()).map(drop)
    }

    fn note(&self) -> PathBuf {
        let name = self.chain.top().file_name().expect("a file").to_string_lossy();
        self.chain.top().with_file_name(format!(".{name}.vdisk-commit"))
    }
}

impl Command for Commit {
    fn run(&self, recorder: &Recorder) -> Result<(), Error> {
        self.commit(recorder, false)
    }

    /// Once all is done, what was between is a sibling that is in the way.
    fn again(&self, recorder: &Recorder) -> Result<(), Error> {
        self.commit(recorder, true)
    }

    /// The image reads as before, or says which command mends it.
    fn look(&self, _cut: usize, context: &str) {
        match Image::open(self.chain.top()) {
            Ok(image) => assert_holds(&image, &self.chain.views[self.depth()], context),
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::ParentMismatch, "{context}: {error}");
                assert!(self.note().exists(), "{context}: no note: {error}");
                let advice = error.advice().unwrap_or_default();
                assert!(advice.contains("vdisk commit"), "{context}: {advice}");
            }
        }
        for below in 0..self.target {
            self.chain.assert_view(below, context);
        }
    }

    fn done(&self, context: &str) {
        let view = &self.chain.views[self.depth()];
        for path in [self.chain.top(), &self.chain.paths[self.target]] {
            assert_reads(path, view, context);
            assert_sound(path, context);
        }
        for below in 0..self.target {
            self.chain.assert_view(below, context);
        }
        // A VHD cannot tell that its parent has changed.
        let tells = self.chain.format != Format::Vhd;
        for between in &self.chain.paths[self.target + 1..self.depth()] {
            assert_eq!(Image::open(between).is_err(), tells, "{context}: between");
        }
        assert!(!self.note().exists(), "{context}: the note is still there");
    }

    fn ask(&self, context: &str) {
        let view = &self.chain.views[self.depth()];
        let mut paths = self.chain.paths[..=self.target].to_vec();
        self.chain.ask(&paths, view, &format!("{context}: target"));
        paths.push(self.chain.top().to_owned());
        self.chain.ask(&paths, view, &format!("{context}: top"));
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn may_change(&self) -> Vec<PathBuf> {
        self.chain.paths[self.target..].to_vec()
    }
}

/// Making an image of a chain smaller.
pub struct Compact {
    chain: Chain,
    image: usize,
    /// Bytes of the file when all is done.
    size: Cell<Option<u64>>,
}

impl Compact {
    pub fn random(format: Format, rng: &mut Rng) -> Self {
        let depth = rng.usize(0..3);
        let chain = Chain::new(format, depth, rng);
        Self { chain, image: rng.usize(0..=depth), size: Cell::new(None) }
    }

    fn path(&self) -> &Path {
        &self.chain.paths[self.image]
    }
}

impl Command for Compact {
    fn run(&self, recorder: &Recorder) -> Result<(), Error> {
        let request = CompactRequest { threads: 2, ..CompactRequest::default() };
        vdisk::compact(self.path(), &watched(recorder), &request, Watch::default()).map(drop)
    }

    fn look(&self, _cut: usize, context: &str) {
        for index in 0..self.chain.paths.len() {
            self.chain.assert_view(index, context);
        }
    }

    fn done(&self, context: &str) {
        self.look(0, context);
        assert_sound(self.path(), context);
        let size = std::fs::metadata(self.path()).expect("it was opened before").len();
        let first = self.size.get().unwrap_or(size);
        assert_eq!(size, first, "{context}: less was given back");
        self.size.set(Some(size));
    }

    fn ask(&self, context: &str) {
        let top = self.chain.views.last().expect("an image");
        self.chain.ask(&self.chain.paths, top, context);
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn may_change(&self) -> Vec<PathBuf> {
        vec![self.path().to_owned()]
    }
}

/// Giving an image another parent.
pub struct Rebase {
    chain: Chain,
    /// The number of the image.
    image: usize,
    parent: PathBuf,
    link_only: bool,
}

impl Rebase {
    pub fn random(format: Format, rng: &mut Rng) -> Self {
        let image = rng.usize(1..4);
        let mut chain = Chain::new(format, image, rng);
        let link_only = rng.u32(0..3) == 0;
        let parent = match rng.bool() {
            _ if link_only => {
                let copy = chain.path("the same under a longer name, so that the path moves");
                std::fs::copy(&chain.paths[image - 1], &copy).expect("a copy");
                copy
            }
            true if image > 1 => chain.paths[rng.usize(0..image)].clone(),
            _ => {
                let size = chain.views[0].len() as u64;
                chain.add_base("another with a longer name, so that the path moves", size, rng);
                chain.paths[image + 1].clone()
            }
        };
        Self { chain, image, parent, link_only }
    }

    fn path(&self) -> &Path {
        &self.chain.paths[self.image]
    }
}

impl Command for Rebase {
    fn run(&self, recorder: &Recorder) -> Result<(), Error> {
        let link_only = self.link_only;
        let request = RebaseRequest { threads: 2, link_only, ..RebaseRequest::new(&self.parent) };
        vdisk::rebase(self.path(), &watched(recorder), &request, Watch::default()).map(drop)
    }

    fn look(&self, _cut: usize, context: &str) {
        for index in 0..self.chain.paths.len() {
            self.chain.assert_view(index, context);
        }
    }

    fn done(&self, context: &str) {
        self.look(0, context);
        let image = Image::open(self.path()).expect("it was opened before");
        let parent = self.parent.file_name().expect("a file");
        assert!(image.files()[1].path.ends_with(parent), "{context}: not the new parent");
        assert_sound(self.path(), context);
    }

    fn ask(&self, context: &str) {
        let image = Image::open(self.path()).expect("it was opened before");
        let mut paths: Vec<PathBuf> = image.files().iter().map(|file| file.path.clone()).collect();
        paths.reverse();
        self.chain.ask(&paths, &self.chain.views[self.image], context);
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn may_change(&self) -> Vec<PathBuf> {
        vec![self.path().to_owned()]
    }
}

/// Changing what a guest reads in several places, all or nothing.
pub struct Edit {
    chain: Chain,
    changes: Vec<vdisk::Change>,
    after: Vec<u8>,
}

impl Edit {
    pub fn random(format: Format, rng: &mut Rng) -> Self {
        let chain = Chain::new(format, rng.usize(0..3), rng);
        let mut after = chain.views.last().expect("an image").clone();
        let mut changes = Vec::new();
        for _ in 0..rng.usize(1..6) {
            let start = rng.usize(0..after.len());
            let end = (start + rng.usize(1..20_000)).min(after.len());
            let bytes: Vec<u8> = (start..end).map(|_| rng.u8(..)).collect();
            after[start..end].copy_from_slice(&bytes);
            changes.push((start, end));
        }
        // Of places that overlap the last one counts, in all of them.
        let change = |(start, end): (usize, usize)| vdisk::Change {
            offset: start as u64,
            bytes: after[start..end].to_vec(),
        };
        let changes = changes.into_iter().map(change).collect();
        Self { chain, changes, after }
    }

    fn before(&self) -> &[u8] {
        self.chain.views.last().expect("an image")
    }
}

impl Command for Edit {
    fn run(&self, recorder: &Recorder) -> Result<(), Error> {
        vdisk::edit(self.chain.top(), &watched(recorder), &self.changes, false).map(drop)
    }

    /// The guest is the old one or the new one, or the image says which command finishes.
    fn look(&self, _cut: usize, context: &str) {
        match Image::open(self.chain.top()) {
            Ok(image) => {
                let found = bytes_of(&image);
                let whole = found == self.before() || found == self.after;
                assert!(whole, "{context}: neither the old guest nor the new one");
            }
            Err(error) => {
                assert_eq!(error.kind(), ErrorKind::Refused, "{context}: {error}");
                let advice = error.advice().unwrap_or_default();
                assert!(advice.contains("vdisk recover"), "{context}: {advice}");
            }
        }
        for below in 0..self.chain.paths.len() - 1 {
            self.chain.assert_view(below, context);
        }
    }

    fn again(&self, recorder: &Recorder) -> Result<(), Error> {
        let open = watched(recorder);
        vdisk::finish_edit(self.chain.top(), &open)?;
        vdisk::edit(self.chain.top(), &open, &self.changes, false).map(drop)
    }

    fn done(&self, context: &str) {
        assert_reads(self.chain.top(), &self.after, context);
        assert_sound(self.chain.top(), context);
    }

    fn ask(&self, context: &str) {
        // libvhdi takes the bits of a bitmap by whole bytes.
        if self.chain.format == Format::Vmdk || self.chain.paths.len() == 1 {
            self.chain.ask(&self.chain.paths, &self.after, context);
        }
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn may_change(&self) -> Vec<PathBuf> {
        vec![self.chain.top().to_owned()]
    }
}

/// A guest that writes to the top of a chain, and its owner who resizes a base.
pub struct Write {
    chain: Chain,
    seed: u64,
    disk: RefCell<History>,
}

impl Write {
    pub fn random(format: Format, rng: &mut Rng) -> Self {
        let depth = rng.usize(0..3);
        let chain = Chain::new(format, depth, rng);
        let disk = RefCell::new(History::new(chain.views[depth].clone()));
        Self { chain, seed: rng.u64(..), disk }
    }
}

impl Command for Write {
    fn run(&self, recorder: &Recorder) -> Result<(), Error> {
        let mut rng = Rng::with_seed(self.seed);
        let mut history = History::new(self.chain.views[self.chain.paths.len() - 1].clone());
        let mut image = watched(recorder).open_rw(self.chain.top())?;
        let may_resize = self.chain.paths.len() == 1;
        for _ in 0..12 {
            let begun = recorder.len();
            let start = rng.usize(0..history.now().len());
            let end = (start + rng.usize(1..50_000)).min(history.now().len());
            let change = match rng.u32(0..8) {
                0 | 1 => {
                    image.flush()?;
                    Change::Flush
                }
                2 => {
                    image.zero(start as u64..end as u64)?;
                    Change::Zero(start..end)
                }
                3 if may_resize => {
                    let size = rng.usize(1..1500) * 512;
                    image.resize(size as u64)?;
                    Change::Resize(size)
                }
                _ => {
                    let bytes: Vec<u8> = (start..end).map(|_| rng.u8(..)).collect();
                    image.write_at(&bytes, start as u64)?;
                    Change::Write(start, bytes)
                }
            };
            history.note(begun, recorder.len(), change);
        }
        let begun = recorder.len();
        image.close()?;
        history.note(begun, recorder.len(), Change::Flush);
        self.disk.replace(history);
        Ok(())
    }

    fn look(&self, cut: usize, context: &str) {
        let image = Image::open(self.chain.top()).unwrap_or_else(|e| panic!("{context}: {e}"));
        if let Err(fault) = self.disk.borrow().judge(cut, &bytes_of(&image)) {
            panic!("{context}: {fault}");
        }
        for below in 0..self.chain.paths.len() - 1 {
            self.chain.assert_view(below, context);
        }
    }

    /// Opening for writing mends the image, and asking for its size finishes a change of it.
    fn again(&self, recorder: &Recorder) -> Result<(), Error> {
        let mut image = watched(recorder).open_rw(self.chain.top())?;
        if self.chain.paths.len() == 1 {
            image.resize(image.len())?;
        }
        let mut first = [0; 512];
        image.read_at(&mut first, 0)?;
        image.write_at(&first, 0)?;
        image.close()
    }

    fn done(&self, context: &str) {
        assert_sound(self.chain.top(), context);
    }

    fn ask(&self, context: &str) {
        // libvhdi takes the bits of a bitmap by whole bytes; dissect and qemu do not.
        if self.chain.format == Format::Vmdk || self.chain.paths.len() == 1 {
            let view = bytes_of(&Image::open(self.chain.top()).expect("it was opened before"));
            self.chain.ask(&self.chain.paths, &view, context);
        }
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }

    fn may_change(&self) -> Vec<PathBuf> {
        vec![self.chain.top().to_owned()]
    }
}

/// Making a new image of several files, perhaps in place of an old one.
pub struct Convert {
    chain: Chain,
    new: NewImage,
    output: PathBuf,
    old: Option<Vec<u8>>,
}

impl Convert {
    pub fn random(format: Format, rng: &mut Rng) -> Self {
        let chain = Chain::new(format, rng.usize(0..3), rng);
        let list = match format {
            Format::Vhd => ["subformat=fixed", "subformat=dynamic"],
            Format::Vhdx => ["subformat=fixed", "subformat=dynamic,block_size=1M"],
            _ => ["subformat=monolithicFlat", "subformat=twoGbMaxExtentSparse"],
        }[rng.usize(0..2)];
        let mut new = NewImage::new(format, chain.views[0].len() as u64);
        new.set_list(list).expect("options");
        let output = chain.path("output");
        let old = rng.bool().then(|| {
            let mut other = Chain::new(format, 0, rng);
            let source = Image::open(other.top()).expect("a base");
            convert(&source, Output::new(&output, false), &new).expect("an old output");
            other.views.swap_remove(0)
        });
        Self { chain, new, output, old }
    }
}

fn convert(source: &Image, output: Result<Output, Error>, new: &NewImage) -> Result<(), Error> {
    let mut output = output?;
    let writer = new.create(&mut output)?;
    vdisk::copy(source, writer, &CopyOptions::default(), Watch::default())?;
    output.commit()
}

impl Command for Convert {
    fn run(&self, recorder: &Recorder) -> Result<(), Error> {
        let source = watched(recorder).open(self.chain.top())?;
        let host = Arc::new(recorder.clone());
        convert(&source, Output::on(host, &self.output, true), &self.new)
    }

    /// The old image, the new one, or none.
    fn look(&self, _cut: usize, context: &str) {
        if self.output.exists() {
            let image = Image::open(&self.output).unwrap_or_else(|e| panic!("{context}: {e}"));
            let found = bytes_of(&image);
            let new = self.chain.views.last().expect("a source");
            let known = found == *new || self.old.as_ref().is_some_and(|old| found == *old);
            assert!(known, "{context}: neither the old image nor the new one");
        }
        self.chain.assert_view(self.chain.paths.len() - 1, context);
    }

    fn done(&self, context: &str) {
        assert_reads(&self.output, self.chain.views.last().expect("a source"), context);
        assert_sound(&self.output, context);
    }

    fn ask(&self, context: &str) {
        let view = self.chain.views.last().expect("a source");
        self.chain.ask(std::slice::from_ref(&self.output), view, context);
    }

    fn chain(&self) -> &Chain {
        &self.chain
    }

    /// New files only, and those have no name yet.
    fn may_change(&self) -> Vec<PathBuf> {
        Vec::new()
    }
}
