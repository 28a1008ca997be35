//! Chains of images on the host, and the cuts of what changes them.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use fastrand::Rng;
use tempfile::TempDir;
use vdisk::{Disk, Error, Format, Image, NewImage, OpenOptions, create_child};
use vdisk_testkit::power::{Fate, Fault, Recorder, put_on_host};
use vdisk_testkit::tools::{Tool, dissect_digest, libvhdi_digest, qemu, sha256};

use super::commands::{Commit, Compact, Convert, Edit, Rebase, Write};
use super::machines::{self, Back, Strip};
use super::repairs::{Repair, Undo};
use super::{Scenario, Tally, quick_folder};

/// States of a round.
const STATES: usize = 60;
/// States of which every one is looked at, at the beginning and the end: there the links change.
const EDGE: usize = 30;
/// Bytes of a guest's disk that are written at once.
const PIECE: usize = 64 << 10;

/// Something that changes the files of a chain.
pub trait Command {
    /// Runs it; called again, it finishes what a cut left.
    fn run(&self, recorder: &Recorder) -> Result<(), Error>;

    /// Removes what earlier runs left beside the images under names of their own.
    fn forget(&self) {}

    /// Judges the files as a cut left them, at which `cut` operations were done.
    fn look(&self, cut: usize, context: &str);

    /// Finishes what a cut left.
    fn again(&self, recorder: &Recorder) -> Result<(), Error> {
        self.run(recorder)
    }

    /// Judges the files when all is done.
    fn done(&self, context: &str);

    /// Asks others.
    fn ask(&self, context: &str);

    /// The chain it works on.
    fn chain(&self) -> &Chain;

    /// The images that it may change.
    fn may_change(&self) -> Vec<PathBuf>;
}

/// One scenario for each command and format.
pub fn scenarios() -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |name: String, format, make: fn(Format, &mut Rng) -> Box<dyn Command>| {
        let round = move |seed, tally: &mut Tally| {
            cuts(&*make(format, &mut Rng::with_seed(seed)), seed, tally);
        };
        all.push(Scenario { name, round: Box::new(round) });
    };
    for format in [Format::Vhd, Format::Vhdx, Format::Vmdk] {
        let name = |command: &str| format!("chain-{format}-{command}");
        add(name("commit"), format, |format, rng| Box::new(Commit::random(format, rng)));
        add(name("rebase"), format, |format, rng| Box::new(Rebase::random(format, rng)));
        add(name("compact"), format, |format, rng| Box::new(Compact::random(format, rng)));
        add(name("repair"), format, |format, rng| Box::new(Repair::random(format, rng)));
        add(name("undo"), format, |format, rng| Box::new(Undo::random(format, rng)));
        add(name("edit"), format, |format, rng| Box::new(Edit::random(format, rng)));
        add(name("write"), format, |format, rng| Box::new(Write::random(format, rng)));
        add(name("convert"), format, |format, rng| Box::new(Convert::random(format, rng)));
        if machines::is_there() {
            let name = |command: &str| format!("machine-{format}-{command}");
            add(name("strip"), format, |format, rng| Box::new(Strip::random(format, rng)));
            add(name("back"), format, |format, rng| Box::new(Back::random(format, rng)));
        }
    }
    all
}

/// Records `command`, and judges what cuts leave of it; then what a host leaves that fails.
fn cuts(command: &dyn Command, seed: u64, tally: &mut Tally) {
    let folder = command.chain().folder();
    let recorder = Recorder::new();
    command.run(&recorder).unwrap_or_else(|e| panic!("seed {seed}: {e}"));
    command.done(&format!("seed {seed}"));
    let recording = recorder.recording();
    for changed in recording.changed() {
        let allowed = command.may_change();
        assert!(allowed.iter().any(|path| path == changed), "{} changed", changed.display());
    }
    let total = recording.len();
    let mut rng = Rng::with_seed(seed ^ 0xC07);
    let mut points: Vec<usize> = (0..STATES)
        .map(|_| match rng.u32(0..3) {
            0 => rng.usize(0..=total.min(EDGE)),
            1 => total - rng.usize(0..=total.min(EDGE)),
            _ => rng.usize(0..=total),
        })
        .collect();
    points.sort_unstable();
    let mut replay = recording.replay();
    for (number, cut) in points.into_iter().enumerate() {
        replay.advance(cut);
        if !tally.wants(number) {
            continue;
        }
        let rng = &mut Rng::with_seed(seed ^ ((number as u64) << 32));
        let fate = fate(rng);
        let context = format!("seed {seed} state {number}: cut {cut} of {total}, {fate:?}");
        let files = replay.files(fate, rng);
        command.forget();
        put_on_host(folder, &files);
        let asks = tally.asks(number);
        let judge = || {
            let judged = judge(command, cut, rng, &context);
            if asks {
                command.ask(&context);
            }
            judged
        };
        tally.state(number, judge, |kept| {
            for (path, store) in &files {
                let name = path.file_name().expect("a file");
                std::fs::write(kept.join(name), store.to_bytes()).expect("room for the files");
            }
        });
    }
    for number in STATES..STATES + 4 {
        let start = recording.replay().files(Fate::Nothing, &mut rng);
        let limit = rng.usize(0..total.max(1));
        if !tally.wants(number) {
            continue;
        }
        command.forget();
        put_on_host(folder, &start);
        let judge = || {
            let context = format!("seed {seed} state {number}: fails after {limit} of {total}");
            // What is left of a note at the end may fail to go without harm.
            let _ = command.run(&Recorder::failing(Fault::All(limit)));
            judge(command, limit, &mut rng, &context)
        };
        tally.state(number, judge, |_| {});
    }
}

fn fate(rng: &mut Rng) -> Fate {
    Fate::ALL[rng.usize(0..Fate::ALL.len())]
}

/// Judges what a cut left, finishes the work, sometimes with another cut, and judges that; the
/// number of states judged.
fn judge(command: &dyn Command, cut: usize, rng: &mut Rng, context: &str) -> usize {
    command.look(cut, context);
    let recorder = Recorder::new();
    let run = |recorder: &Recorder, context: &str| {
        command
            .again(recorder)
            .unwrap_or_else(|e| panic!("{context}: run again: {e}; {:?}", e.advice()));
        command.done(context);
    };
    run(&recorder, context);
    let recording = recorder.recording();
    if recording.is_empty() || rng.u32(0..4) > 0 {
        return 1;
    }
    let at = rng.usize(0..=recording.len());
    let fate = fate(rng);
    let mut replay = recording.replay();
    replay.advance(at);
    put_on_host(command.chain().folder(), &replay.files(fate, rng));
    let context = format!("{context}; again at {at} of {}, {fate:?}", recording.len());
    command.look(cut, &context);
    run(&Recorder::new(), &context);
    2
}

/// A chain on the host.
#[derive(Debug)]
pub struct Chain {
    pub format: Format,
    folder: TempDir,
    /// Base first.
    pub paths: Vec<PathBuf>,
    /// What each image reads like.
    pub views: Vec<Vec<u8>>,
}

impl Chain {
    /// A base and `depth` children one on the other, each changed at random.
    pub fn new(format: Format, depth: usize, rng: &mut Rng) -> Self {
        let mut chain =
            Self { format, folder: quick_folder(), paths: Vec::new(), views: Vec::new() };
        let whole = if format == Format::Vhdx { 2 << 20 } else { 400 << 10 };
        chain.add_base("base", whole + 7 * 512, rng);
        for number in 1..=depth {
            chain.add_child(&format!("child{number}"), rng);
        }
        chain
    }

    /// A base that holds `view`, and `depth` children one on the other that hold nothing.
    pub fn holding(format: Format, depth: usize, view: &[u8]) -> Self {
        let mut chain =
            Self { format, folder: quick_folder(), paths: Vec::new(), views: Vec::new() };
        let base = chain.path("base");
        let mut new = NewImage::new(format, view.len() as u64);
        new.set_list(chain.options()).expect("options");
        vdisk::create(&base, &new, false).expect("a base");
        let mut image = OpenOptions::new().open_rw(&base).expect("a new image");
        for (number, piece) in view.chunks(PIECE).enumerate() {
            if piece.iter().any(|byte| *byte != 0) {
                image.write_at(piece, (number * PIECE) as u64).expect("room for the guest");
            }
        }
        image.close().expect("a clean close");
        chain.paths.push(base);
        for number in 1..=depth {
            let path = chain.path(&format!("child{number}"));
            chain.create_child(&path);
            chain.paths.push(path);
        }
        chain.views = vec![view.to_vec(); depth + 1];
        chain
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn top(&self) -> &Path {
        self.paths.last().expect("an image")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().canonicalize().expect("a folder").join(format!("{name}.{}", self.format))
    }

    /// Options of small blocks.
    pub fn options(&self) -> &'static str {
        match self.format {
            Format::Vhd => "block_size=64k",
            Format::Vhdx => "block_size=1M",
            _ => "",
        }
    }

    pub fn add_base(&mut self, name: &str, size: u64, rng: &mut Rng) {
        let path = self.path(name);
        let mut new = NewImage::new(self.format, size);
        new.set_list(self.options()).expect("options");
        vdisk::create(&path, &new, false).expect("a base");
        self.push(path, vec![0; size as usize], rng);
    }

    fn add_child(&mut self, name: &str, rng: &mut Rng) {
        let path = self.path(name);
        self.create_child(&path);
        let view = self.views.last().expect("a parent").clone();
        self.push(path, view, rng);
    }

    /// A child of the top.
    fn create_child(&self, path: &Path) {
        let list: Vec<String> = match self.format {
            // A child's grains are what they are.
            Format::Vmdk => Vec::new(),
            _ => vec![self.options().to_owned()],
        };
        create_child(path, self.format, self.top(), &OpenOptions::new(), &list, false)
            .expect("a child");
    }

    fn push(&mut self, path: PathBuf, mut view: Vec<u8>, rng: &mut Rng) {
        let mut image = OpenOptions::new().open_rw(&path).expect("a new image");
        // dissect.hypervisor 3.21 reads too little of a sector bitmap that it enters inside a byte.
        let (step, unit) = match self.format {
            Format::Vhdx => (4096, 1 << 20),
            _ => (1, 1 << 16),
        };
        for _ in 0..rng.usize(0..12) {
            let scale = [512, 5000, 70_000, 700_000][rng.usize(0..4)];
            let start = rng.usize(0..view.len()) / step * step;
            let end = (start + rng.usize(1..scale).next_multiple_of(step)).min(view.len());
            let bytes = &mut view[start..end];
            let done = match rng.u32(0..5) {
                0 => {
                    bytes.fill(0);
                    image.zero(start as u64..end as u64)
                }
                1 => {
                    // Stored without need.
                    let start = start / unit * unit;
                    let end = (start + unit).min(view.len());
                    view[start..end].fill(0);
                    image.write_at(&view[start..end], start as u64)
                }
                _ => {
                    rng.fill(bytes);
                    image.write_at(bytes, start as u64)
                }
            };
            done.expect("a change");
        }
        image.close().expect("a clean close");
        self.paths.push(path);
        self.views.push(view);
    }

    /// Asserts that image `index` reads like its view.
    pub fn assert_view(&self, index: usize, context: &str) {
        assert_reads(&self.paths[index], &self.views[index], context);
    }

    /// Asserts that others read the last of `paths`, base first, as `view`.
    pub fn ask(&self, paths: &[PathBuf], view: &[u8], context: &str) {
        let top = paths.last().expect("an image");
        match self.format {
            Format::Vhd if Tool::Libvhdi.there() => {
                let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
                assert_eq!(libvhdi_digest(&paths), sha256(view), "{context}: libvhdi");
            }
            Format::Vhdx if Tool::Dissect.there() => {
                assert_eq!(dissect_digest("vhdx.VHDX", top), sha256(view), "{context}: dissect");
            }
            Format::Vmdk if Tool::Qemu.there() => {
                let raw = self.folder().join("expected");
                std::fs::write(&raw, view).expect("room for the image");
                qemu::assert_reads(top, "vmdk", &raw, context);
                std::fs::remove_file(&raw).expect("it was just written");
            }
            _ => {}
        }
    }
}

/// Options under which all passes through `recorder`.
pub fn watched(recorder: &Recorder) -> OpenOptions {
    OpenOptions::new().on(Arc::new(recorder.clone()))
}

pub fn bytes_of(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xEE; disk.len() as usize];
    disk.read_at(&mut bytes, 0).unwrap_or_else(|e| panic!("read: {e}"));
    bytes
}

pub fn assert_reads(path: &Path, view: &[u8], context: &str) {
    let image = Image::open(path).unwrap_or_else(|e| panic!("{context}: {}: {e}", path.display()));
    assert_holds(&image, view, &format!("{context}: {}", path.display()));
}

pub fn assert_holds(disk: &dyn Disk, view: &[u8], context: &str) {
    let found = bytes_of(disk);
    assert_eq!(found.len(), view.len(), "{context}: size");
    if found != view {
        let first = found.iter().zip(view).position(|(a, b)| a != b);
        panic!("{context}: byte {} differs", first.unwrap_or_default());
    }
}

/// Asserts that a check finds leaks at worst.
pub fn assert_sound(path: &Path, context: &str) {
    let report =
        vdisk::check(path, &OpenOptions::new()).unwrap_or_else(|e| panic!("{context}: {e}"));
    assert_eq!(report.corruptions, 0, "{context}: {}: {:?}", path.display(), report.findings);
}
