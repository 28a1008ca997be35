//! Chains of images with random content, and files that are cut off at any moment.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use vdisk::{
    CopyOptions, Disk, Format, HostFile, Image, NewImage, OpenOptions, Store, Watch, create_child,
};
use vdisk_testkit::content::Content;
use vdisk_testkit::tools::{Tool, dissect_digest, libvhdi_digest, qemu, sha256};

/// The formats that have children, with the options of base and child that keep tests small.
pub const FORMATS: [(Format, &str, &str); 3] = [
    (Format::Vhd, "block_size=512k", "block_size=512k"),
    (Format::Vhdx, "block_size=1M", "block_size=1M"),
    (Format::Vmdk, "", ""),
];

/// Bytes of the disks; no whole number of blocks or grains.
pub const SIZE: u64 = (3 << 20) + 7 * 512;

/// A chain on the host.
pub struct Chain {
    pub format: Format,
    folder: TempDir,
    /// Base first.
    pub paths: Vec<PathBuf>,
    /// What each image reads like.
    pub views: Vec<Vec<u8>>,
}

impl Chain {
    /// A base and `depth` children one on the other, in folders of their own, made from `seed`.
    pub fn new(format: (Format, &str, &str), depth: usize, seed: u64) -> Self {
        let (format, base_options, child_options) = format;
        let folder = quick_folder();
        let mut chain = Self { format, folder, paths: Vec::new(), views: Vec::new() };
        chain.add_base("base", base_options, SIZE, seed);
        for number in 1..=depth {
            chain.add_child(&format!("child{number}"), child_options, seed + number as u64);
        }
        chain
    }

    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder().join(format!("{name}.{}", self.format))
    }

    pub fn top(&self) -> &Path {
        self.paths.last().unwrap()
    }

    pub fn add_base(&mut self, name: &str, options: &str, size: u64, seed: u64) {
        let content = Content::random(size, seed);
        let raw = self.folder().join("content.raw");
        std::fs::write(&raw, content.bytes()).unwrap();
        let path = self.path(name);
        let mut new = NewImage::new(self.format, size);
        new.set_list(options).unwrap();
        let source = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
        vdisk::convert(&source, &path, &new, false, &CopyOptions::default(), Watch::default())
            .unwrap();
        std::fs::remove_file(&raw).unwrap();
        self.paths.push(path);
        self.views.push(content.bytes().to_vec());
    }

    /// A child of the last image, changed at random.
    pub fn add_child(&mut self, name: &str, options: &str, seed: u64) {
        let path = self.path(name);
        let options: Vec<String> =
            [options.to_owned()].into_iter().filter(|o| !o.is_empty()).collect();
        create_child(&path, self.format, self.top(), &OpenOptions::new(), &options, false).unwrap();
        let mut view = self.views.last().unwrap().clone();
        scribble(&path, &mut view, seed);
        self.paths.push(path);
        self.views.push(view);
    }

    /// Asserts that image `index` reads like its view, and has no fault.
    pub fn assert_view(&self, index: usize, context: &str) {
        assert_reads(&self.paths[index], &self.views[index], context);
    }

    /// Asserts that a foreign program reads the image at the top of `paths` (base first) as `view`.
    pub fn judge(&self, paths: &[PathBuf], view: &[u8], context: &str) {
        let top = paths.last().unwrap();
        match self.format {
            Format::Vhd if Tool::Libvhdi.there() => {
                let paths: Vec<&Path> = paths.iter().map(PathBuf::as_path).collect();
                assert_eq!(libvhdi_digest(&paths), sha256(view), "{context}: libvhdi");
            }
            Format::Vhdx if Tool::Dissect.there() => {
                assert_eq!(dissect_digest("vhdx.VHDX", top), sha256(view), "{context}: dissect");
            }
            Format::Vmdk if Tool::Qemu.there() => {
                let raw = self.folder().join("judged.raw");
                std::fs::write(&raw, view).unwrap();
                qemu::assert_reads(top, "vmdk", &raw, context);
                std::fs::remove_file(&raw).unwrap();
            }
            _ => {}
        }
    }
}

/// A folder in memory where the host has one: flushing costs nothing there.
fn quick_folder() -> TempDir {
    let memory = Path::new("/dev/shm");
    let folder = if memory.is_dir() { memory.to_owned() } else { std::env::temp_dir() };
    tempfile::tempdir_in(folder).unwrap()
}

/// Changes the image at `path` at random, and `view` alike.
pub fn scribble(path: &Path, view: &mut [u8], seed: u64) {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut image = OpenOptions::new().open_rw(path).unwrap();
    // dissect.hypervisor 3.21 reads too little of a sector bitmap that it enters inside a byte.
    let step = if image.info().format == Format::Vhdx { 4096 } else { 1 };
    for _ in 0..rng.usize(0..25) {
        let scale = [512, 5000, 70_000, 700_000][rng.usize(0..4)];
        let start = rng.usize(0..view.len()) / step * step;
        let end = (start + rng.usize(1..scale).next_multiple_of(step)).min(view.len());
        let bytes = &mut view[start..end];
        match rng.u32(0..4) {
            0 => {
                bytes.fill(0);
                image.zero(start as u64..end as u64).unwrap();
            }
            _ => {
                rng.fill(bytes);
                image.write_at(bytes, start as u64).unwrap();
            }
        }
    }
    image.close().unwrap();
}

pub fn bytes_of(disk: &dyn Disk) -> Vec<u8> {
    let mut bytes = vec![0xEE; disk.len() as usize];
    disk.read_at(&mut bytes, 0).unwrap();
    bytes
}

/// Asserts that the image reads like `view`, and has no fault.
pub fn assert_reads(path: &Path, view: &[u8], context: &str) {
    let image = Image::open(path).unwrap_or_else(|e| panic!("{context}: {}: {e}", path.display()));
    assert_holds(&image, view, &format!("{context}: {}", path.display()));
    let report = vdisk::check(path, &OpenOptions::new()).unwrap();
    let faults = (report.corruptions, report.leaks);
    assert_eq!(faults, (0, 0), "{context}: {}: {:?}", path.display(), report.findings);
}

pub fn assert_holds(disk: &dyn Disk, view: &[u8], context: &str) {
    let found = bytes_of(disk);
    assert_eq!(found.len(), view.len(), "{context}: size");
    if found != view {
        let first = found.iter().zip(view).position(|(a, b)| a != b);
        panic!("{context}: byte {first:?} differs");
    }
}

/// Something that happened to the files of a folder.
#[derive(Clone, Debug)]
enum Event {
    /// Whole sectors, as they were after the write.
    Write(PathBuf, u64, Vec<u8>),
    SetLen(PathBuf, u64),
    Sync(PathBuf),
    /// A small file appeared, changed or went, for good.
    Note(PathBuf, Option<Vec<u8>>),
}

/// Remembers everything that is done to the files of a folder, and fails it from some point on.
#[derive(Debug)]
pub struct Recorder {
    folder: PathBuf,
    start: BTreeMap<PathBuf, Vec<u8>>,
    events: Mutex<Vec<Event>>,
    notes: Mutex<BTreeMap<PathBuf, Vec<u8>>>,
    /// Operations that succeed.
    limit: usize,
}

impl Recorder {
    /// Watches `folder`; after `limit` operations all fail.
    pub fn new(folder: &Path, limit: usize) -> Arc<Self> {
        Arc::new(Self {
            folder: folder.to_owned(),
            start: files_in(folder, false),
            events: Mutex::default(),
            notes: Mutex::default(),
            limit,
        })
    }

    /// Options that let every file pass through.
    pub fn options(self: &Arc<Self>) -> OpenOptions {
        let recorder = self.clone();
        OpenOptions::new()
            .through(move |file| Arc::new(Recorded { file, recorder: recorder.clone() }))
    }

    /// Operations so far.
    pub fn len(&self) -> usize {
        self.look_at_notes();
        self.events.lock().unwrap().len()
    }

    /// Notes are written by rename, behind the back of the stores.
    fn look_at_notes(&self) {
        let now = files_in(&self.folder, true);
        let mut before = self.notes.lock().unwrap();
        let mut events = self.events.lock().unwrap();
        for (path, bytes) in &now {
            if before.get(path) != Some(bytes) {
                events.push(Event::Note(path.clone(), Some(bytes.clone())));
            }
        }
        for path in before.keys().filter(|path| !now.contains_key(*path)) {
            events.push(Event::Note(path.clone(), None));
        }
        *before = now;
    }

    fn record(&self, event: Event) {
        self.look_at_notes();
        self.events.lock().unwrap().push(event);
    }

    fn may(&self) -> io::Result<()> {
        match self.len() < self.limit {
            true => Ok(()),
            false => Err(io::Error::other("the power is off")),
        }
    }

    /// Puts the folder into the state after a cut before operation `cut`: with `rng`, what was
    /// not flushed is there in part; without, all of it is, as after a killed process.
    pub fn cut(&self, cut: usize, mut rng: Option<&mut fastrand::Rng>) {
        let events = self.events.lock().unwrap();
        let mut files = self.start.clone();
        let mut notes: BTreeMap<PathBuf, Vec<u8>> = BTreeMap::new();
        let style = rng.as_mut().map_or(0, |rng| rng.u32(0..4));
        for (index, event) in events[..cut].iter().enumerate() {
            let synced = |path: &PathBuf| {
                let mut later = events[index..cut].iter();
                later.any(|event| matches!(event, Event::Sync(synced) if synced == path))
            };
            match event {
                Event::Write(path, at, bytes) => {
                    let file = files.entry(path.clone()).or_default();
                    let sure = style == 0 || synced(path);
                    for (number, sector) in bytes.chunks(512).enumerate() {
                        let there = sure || rng.as_mut().is_some_and(|rng| rng.bool());
                        let at = *at as usize + number * 512;
                        if there {
                            file.resize(file.len().max(at + sector.len()), 0);
                            file[at..at + sector.len()].copy_from_slice(sector);
                        }
                    }
                }
                Event::SetLen(path, len) => {
                    if style == 0 || synced(path) || rng.as_mut().is_some_and(|rng| rng.bool()) {
                        files.entry(path.clone()).or_default().resize(*len as usize, 0);
                    }
                }
                Event::Sync(_) => {}
                Event::Note(path, Some(bytes)) => drop(notes.insert(path.clone(), bytes.clone())),
                Event::Note(path, None) => drop(notes.remove(path)),
            }
        }
        for path in files_in(&self.folder, true).keys() {
            std::fs::remove_file(path).unwrap();
        }
        for (path, bytes) in files.iter().chain(&notes) {
            std::fs::write(path, bytes).unwrap();
        }
    }

    /// Puts the folder back.
    pub fn restore(&self) {
        self.cut(0, None);
    }
}

/// The files of a folder: images, or notes.
fn files_in(folder: &Path, notes: bool) -> BTreeMap<PathBuf, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let is_note = |path: &PathBuf| path.to_string_lossy().ends_with(".vdisk-commit");
    entries
        .filter(|path| is_note(path) == notes)
        .filter_map(|path| Some((path.clone(), std::fs::read(&path).ok()?)))
        .collect()
}

#[derive(Debug)]
struct Recorded {
    file: HostFile,
    recorder: Arc<Recorder>,
}

impl Recorded {
    fn sectors(&self, offset: u64, len: u64) -> io::Result<()> {
        let start = offset / 512 * 512;
        let end = (offset + len).next_multiple_of(512).min(self.file.len()?);
        let mut bytes = vec![0; (end - start) as usize];
        self.file.read_exact_at(&mut bytes, start)?;
        self.recorder.record(Event::Write(self.file.path().to_owned(), start, bytes));
        Ok(())
    }
}

impl Store for Recorded {
    fn name(&self) -> &Path {
        self.file.name()
    }
    fn len(&self) -> io::Result<u64> {
        self.file.len()
    }
    fn read_exact_at(&self, buf: &mut [u8], offset: u64) -> io::Result<()> {
        self.file.read_exact_at(buf, offset)
    }
    fn write_all_at(&self, buf: &[u8], offset: u64) -> io::Result<()> {
        self.recorder.may()?;
        self.file.write_all_at(buf, offset)?;
        self.sectors(offset, buf.len() as u64)
    }
    fn zero(&self, offset: u64, len: u64) -> io::Result<()> {
        self.recorder.may()?;
        self.file.zero(offset, len)?;
        self.sectors(offset, len)
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.recorder.may()?;
        self.file.set_len(len)?;
        self.recorder.record(Event::SetLen(self.file.path().to_owned(), len));
        Ok(())
    }
    fn sync(&self) -> io::Result<()> {
        self.recorder.may()?;
        self.recorder.record(Event::Sync(self.file.path().to_owned()));
        Ok(())
    }
}
