//! Images onto disks: larger, smaller, refused, cut off.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use vdisk::{Cancel, Change, Disk, ErrorKind, Format, Image, OpenOptions, Progress, Result, Watch};
use vdisk_p2v::Machine;
use vdisk_testkit::loops::{Loop, Mounted};
use vdisk_testkit::machines::{Part, assemble, ext4, linux_tree, programs};
use vdisk_testkit::tools::{arg, must, said, sha256_file};
use vdisk_v2p::{FitOptions, WriteReport, WriteRequest, choose, confirm, plan, write};

const MIB: u64 = 1 << 20;

/// A disk with a small partition and an ext4 of `mib` MiB behind it, as a VHDX.
fn image(folder: &TempDir, table: &str, mib: u64) -> PathBuf {
    let tree = folder.path().join("tree");
    linux_tree(&tree);
    let mut rng = fastrand::Rng::with_seed(3);
    let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(3 << 20).collect();
    std::fs::write(tree.join("random"), bytes).unwrap();
    let root = ext4(folder.path(), mib, &tree);
    let boot = folder.path().join("boot.part");
    std::fs::write(&boot, vec![5; MIB as usize]).unwrap();
    let raw = folder.path().join("raw");
    let (kind, id) = match table {
        "gpt" => ("0FC63DAF-8483-4772-8E79-3D69D8477DE4", "11111111-2222-3333-4444-555555555555"),
        _ => ("83", "0x1234abcd"),
    };
    let part = |content| Part { kind, more: "", content };
    assemble(&raw, table, id, &[part(&boot), part(&root)]);
    let image = folder.path().join("image.vhdx");
    let source = OpenOptions::new().format(Format::Raw).open(&raw).unwrap();
    let new = vdisk::NewImage::new(Format::Vhdx, source.len());
    vdisk::convert(&source, &image, &new, true, &vdisk::CopyOptions::default(), Watch::default())
        .unwrap();
    image
}

/// A disk of `len` bytes full of something else.
fn disk(folder: &TempDir, name: &str, len: u64, sector: &str) -> Option<(PathBuf, Loop)> {
    let path = folder.path().join(name);
    std::fs::write(&path, vec![0xa5; len as usize]).unwrap();
    let device = Loop::attach(&path, &["--sector-size", sector])?;
    Some((path, device))
}

fn request(folder: &TempDir, image: &Path, device: &Loop) -> WriteRequest {
    WriteRequest {
        image: Arc::new(Image::open(image).unwrap()),
        sector: 512,
        image_id: image.display().to_string(),
        device: choose(&Machine::default(), device.path.as_os_str()).unwrap(),
        fit: FitOptions::default(),
        options: String::new(),
        state: folder.path().join("state"),
        rate_limit: None,
        verify: true,
        checkpoint: MIB,
        restart: false,
    }
}

fn run(request: &WriteRequest) -> Result<WriteReport> {
    write(request, |_| Ok(Vec::new()), Watch::default())
}

/// The file system at byte `start` of a disk is sound and holds the files; its bytes.
fn assert_sound(folder: &TempDir, disk: &Path, start: u64, len: u64) -> u64 {
    let volume = folder.path().join("volume");
    let (mut from, mut to) = (File::open(disk).unwrap(), File::create(&volume).unwrap());
    std::io::Seek::seek(&mut from, std::io::SeekFrom::Start(start)).unwrap();
    std::io::copy(&mut std::io::Read::take(&mut from, len), &mut to).unwrap();
    must("e2fsck", &["-fn", arg(&volume)]);
    let random = folder.path().join("random");
    must("debugfs", &["-R", &format!("dump /random {}", arg(&random)), arg(&volume)]);
    assert_eq!(sha256_file(&random), sha256_file(&folder.path().join("tree/random")));
    let facts = must("dumpe2fs", &["-h", arg(&volume)]);
    let number = |name: &str| -> u64 {
        let line = facts.lines().find(|line| line.starts_with(name)).unwrap();
        line.rsplit(' ').next().unwrap().parse().unwrap()
    };
    number("Block count:") * number("Block size:")
}

fn assert_verified(disk: &Path) {
    let done = Command::new("sgdisk").args(["-v", arg(disk)]).output().unwrap();
    assert!(said(&done).contains("No problems found"), "{}", said(&done));
}

fn ready() -> bool {
    programs(&["sfdisk", "sgdisk", "mke2fs", "debugfs", "resize2fs", "losetup"])
}

#[test]
fn onto_a_larger_disk() {
    if !ready() {
        return;
    }
    for (table, grow) in [("gpt", false), ("gpt", true), ("dos", true)] {
        let folder = tempfile::tempdir().unwrap();
        let image = image(&folder, table, 24);
        let Some((file, device)) = disk(&folder, "disk", 64 * MIB, "512") else { return };
        let before = sha256_file(&image);
        let mut request = request(&folder, &image, &device);
        request.fit.grow = grow;
        assert!(!plan(&request).unwrap().steps.is_empty() || table == "dos");
        let report = run(&request).unwrap();
        assert!(report.verified && report.resumed_at.is_none());
        // Empty parts were not moved.
        assert!(report.written < 20 * MIB, "{report:?}");
        drop(device);
        if table == "gpt" {
            assert_verified(&file);
        }
        let expected = if grow { 62 * MIB } else { 24 * MIB };
        let partition = must("sfdisk", &["--dump", arg(&file)]);
        let len = if grow && table == "gpt" { 61 * MIB } else { expected };
        assert!(partition.contains(&format!("size= {:>11}", len / 512)), "{len} {partition}");
        assert_eq!(assert_sound(&folder, &file, 2 * MIB, len), len);
        assert_eq!(sha256_file(&image), before, "the image was changed");
        assert!(!request.state.exists());
    }
}

#[test]
fn onto_a_smaller_disk() {
    if !ready() {
        return;
    }
    for table in ["gpt", "dos"] {
        let folder = tempfile::tempdir().unwrap();
        let image = image(&folder, table, 60);
        let Some((file, device)) = disk(&folder, "disk", 32 * MIB, "512") else { return };
        let mut request = request(&folder, &image, &device);
        let error = run(&request).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
        assert!(error.advice().unwrap().contains("--shrink"), "{error:?}");
        assert_eq!(std::fs::read(&file).unwrap(), vec![0xa5; 32 << 20], "it was written to");
        request.fit.shrink = true;
        run(&request).unwrap();
        drop(device);
        if table == "gpt" {
            assert_verified(&file);
        }
        let end = if table == "gpt" { 31 } else { 32 };
        let len = assert_sound(&folder, &file, 2 * MIB, (end - 2) * MIB);
        assert!(len <= (end - 2) * MIB && len > 20 * MIB, "{len}");
        // The end of the image is empty: it fits as it is.
        let Some((file, device)) = disk(&folder, "other", 62 * MIB + 128 * 512, "512") else {
            return;
        };
        let request = WriteRequest {
            device: choose(&Machine::default(), device.path.as_os_str()).unwrap(),
            ..request
        };
        run(&request).unwrap();
        drop(device);
        if table == "gpt" {
            assert_verified(&file);
        }
        assert_sound(&folder, &file, 2 * MIB, 60 * MIB);
    }
}

#[test]
fn other_sectors_are_refused_and_explained() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = image(&folder, "gpt", 24);
    let Some((file, device)) = disk(&folder, "disk", 64 * MIB, "4096") else { return };
    let error = run(&request(&folder, &image, &device)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.message().contains("sectors of 512 bytes, the disk has 4096"), "{error}");
    assert_eq!(std::fs::read(&file).unwrap(), vec![0xa5; 64 << 20]);
}

#[test]
fn what_is_in_use_is_refused() {
    if !ready() {
        return;
    }
    let machine = Machine::default();
    let folder = tempfile::tempdir().unwrap();
    let Some((_, device)) = disk(&folder, "disk", 24 * MIB, "512") else { return };
    let name = device.path.as_os_str();
    let found = choose(&machine, name).unwrap();
    let error = confirm(&found, None).unwrap_err();
    assert!(error.advice().unwrap().contains(device.path.to_str().unwrap()), "{error:?}");
    assert_eq!(confirm(&found, Some("X")).unwrap_err().kind(), ErrorKind::Refused);
    confirm(&found, device.path.to_str()).unwrap();

    must("mke2fs", &["-q", "-F", arg(&device.path)]);
    let image = image(&folder, "gpt", 16);
    let ready = request(&folder, &image, &device);
    {
        let Some(_mounted) = Mounted::new(&device.path, &folder.path().join("mnt")) else { return };
        let error = choose(&machine, name).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InUse);
        assert!(error.message().contains("mounted at"), "{error}");
        // Even for who looked before it was mounted.
        assert_eq!(run(&ready).unwrap_err().kind(), ErrorKind::InUse);
    }
    choose(&machine, name).unwrap();
    let Some(_upper) = Loop::attach(&device.path, &[]) else { return };
    assert_eq!(choose(&machine, name).unwrap_err().kind(), ErrorKind::InUse);
    let missing = choose(&machine, "no such disk".as_ref()).unwrap_err();
    assert_eq!(missing.kind(), ErrorKind::NotFound);
}

/// Stops the job once so many bytes of it are done.
struct StopAt(Cancel, AtomicU64);

impl Progress for StopAt {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, bytes: u64) {
        if self.1.fetch_sub(bytes.min(self.1.load(Ordering::Relaxed)), Ordering::Relaxed) <= bytes {
            self.0.cancel();
        }
    }
}

#[test]
fn a_write_that_was_cut_off_goes_on_with_the_same_changes() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = image(&folder, "gpt", 24);
    let Some((file, device)) = disk(&folder, "disk", 40 * MIB, "512") else { return };
    let request = request(&folder, &image, &device);
    let random = |_: Arc<dyn Disk>| {
        let bytes = vec![fastrand::u8(..); 4096];
        Ok(vec![Change { offset: 1536 * 1024, bytes }])
    };
    let mut expected = None;
    for stop in [6 * MIB, 9 * MIB, 20 * MIB] {
        let cancel = Cancel::default();
        let stop = StopAt(cancel.clone(), AtomicU64::new(stop));
        let watch = Watch { progress: &stop, cancel: &cancel };
        let error = write(&request, random, watch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
        // Nothing could be started or mounted from it.
        let now = std::fs::read(&file).unwrap();
        assert!(now[..MIB as usize].iter().all(|byte| *byte == 0));
        let changed = now[1536 * 1024];
        assert_eq!(*expected.get_or_insert(changed), changed);
    }
    let report = write(&request, random, Watch::default()).unwrap();
    assert!(report.resumed_at.is_some_and(|at| at > MIB), "{report:?}");
    drop(device);
    let now = std::fs::read(&file).unwrap();
    assert_eq!(Some(now[1536 * 1024]), expected);
    assert_verified(&file);
    assert_sound(&folder, &file, 2 * MIB, 24 * MIB);
}

#[test]
fn a_verification_that_was_cut_off_goes_on_without_writing() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = image(&folder, "gpt", 24);
    let Some((file, device)) = disk(&folder, "disk", 40 * MIB, "512") else { return };
    let request = request(&folder, &image, &device);
    cut_off(&request, 50 * MIB);
    let report = run(&request).unwrap();
    assert_eq!((report.resumed_at, report.verified), (Some(40 * MIB), true));
    drop(device);
    assert_verified(&file);
}

#[test]
fn a_disk_that_something_else_wrote_to_meanwhile_is_written_anew() {
    if !ready() {
        return;
    }
    // Emptied, it begins as it was left, and so does another empty disk.
    for byte in [0xA5, 0] {
        let folder = tempfile::tempdir().unwrap();
        let image = image(&folder, "gpt", 24);
        let Some((file, device)) = disk(&folder, "disk", 40 * MIB, "512") else { return };
        let request = WriteRequest { verify: false, ..request(&folder, &image, &device) };
        cut_off(&request, 9 * MIB);
        std::fs::write(&request.device.path, vec![byte; 40 * MIB as usize]).unwrap();
        let report = run(&request).unwrap();
        assert_eq!(report.resumed_at, None);
        drop(device);
        assert_verified(&file);
        assert_sound(&folder, &file, 2 * MIB, 24 * MIB);
        let bytes = std::fs::read(&file).unwrap();
        let left = |page: &[u8]| page.iter().all(|byte| *byte == 0xA5);
        assert!(!bytes.windows(4096).step_by(4096).any(left));
    }
}

/// A run that ends once so many bytes are done.
fn cut_off(request: &WriteRequest, bytes: u64) {
    let cancel = Cancel::default();
    let stop = StopAt(cancel.clone(), AtomicU64::new(bytes));
    let watch = Watch { progress: &stop, cancel: &cancel };
    let error = write(request, |_| Ok(Vec::new()), watch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Cancelled, "{error}");
}

#[test]
fn what_fails_verification_is_written_anew() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = image(&folder, "gpt", 24);
    let Some((file, device)) = disk(&folder, "disk", 40 * MIB, "512") else { return };
    let request = request(&folder, &image, &device);
    // All is written, and not yet read back.
    cut_off(&request, 41 * MIB);
    let mut target = File::options().write(true).open(&request.device.path).unwrap();
    std::io::Seek::seek(&mut target, std::io::SeekFrom::Start(20 * MIB + 4096)).unwrap();
    std::io::Write::write_all(&mut target, &[0xA5; 512]).unwrap();
    target.sync_all().unwrap();
    let error = run(&request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(error.advice().unwrap().contains("the same command again"), "{error:?}");
    let report = run(&request).unwrap();
    assert_eq!((report.resumed_at, report.verified), (None, true));
    drop(device);
    assert_verified(&file);
}

#[test]
fn what_others_keep_in_the_folder_stays() {
    if !ready() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let image = image(&folder, "gpt", 24);
    let Some((_file, device)) = disk(&folder, "disk", 40 * MIB, "512") else { return };
    let request = request(&folder, &image, &device);
    std::fs::create_dir(&request.state).unwrap();
    let mine = request.state.join("mine");
    std::fs::write(&mine, "kept").unwrap();
    run(&request).unwrap();
    assert_eq!(std::fs::read_to_string(&mine).unwrap(), "kept");
    assert_eq!(std::fs::read_dir(&request.state).unwrap().count(), 1);
}
