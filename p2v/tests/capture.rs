//! Captures: whole, cut off and taken up again, of disks that fail.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::cell::Cell;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tempfile::TempDir;
use vdisk::{
    Cancel, Disk, ErrorKind, Format, NewImage, NoProgress, OpenOptions, Progress, Ranges, Result,
    Watch,
};
use vdisk_p2v::{Capture, CaptureReport, capture};
use vdisk_testkit::faulty::{Faults, Faulty};
use vdisk_testkit::loops::Loop;
use vdisk_testkit::tools::{Tool, qemu};

const MIB: u64 = 1 << 20;

/// A disk of 12 MiB with a hole of 4 in it.
fn disk(folder: &TempDir) -> (PathBuf, Vec<u8>) {
    let mut rng = fastrand::Rng::with_seed(7);
    let mut bytes: Vec<u8> =
        std::iter::repeat_with(|| rng.u8(1..)).take(12 * MIB as usize).collect();
    bytes[5 * MIB as usize..9 * MIB as usize].fill(0);
    let path = folder.path().join("disk.img");
    std::fs::write(&path, &bytes).unwrap();
    (path, bytes)
}

fn request(source: &Path, target: &Path, format: Format) -> Capture {
    let disk = OpenOptions::new().format(Format::Raw).open(source).unwrap();
    Capture {
        new: NewImage::new(format, disk.len()),
        inputs: disk.host_ids(),
        source: Arc::new(disk),
        source_path: Some(source.to_owned()),
        sector: 512,
        target: target.to_owned(),
        options: format.to_string(),
        skip: Ranges::new(),
        rate_limit: None,
        retries: 1,
        checkpoint: MIB,
        threads: 4,
        overwrite: false,
        restart: false,
    }
}

fn run(request: &Capture) -> Result<CaptureReport> {
    capture(request, |_| Ok(()), Watch::default())
}

fn content(path: &Path, format: Format) -> Vec<u8> {
    let image = OpenOptions::new().format(format).open(path).unwrap();
    let mut bytes = vec![0; image.len() as usize];
    image.read_at(&mut bytes, 0).unwrap();
    bytes
}

fn names(folder: &TempDir) -> Vec<String> {
    let entries = std::fs::read_dir(folder.path()).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Stops the job once so many bytes of it are done.
struct StopAt {
    cancel: Cancel,
    left: AtomicU64,
}

impl Progress for StopAt {
    fn begin(&self, _: &str, _: u64) {}
    fn advance(&self, bytes: u64) {
        let before = self.left.load(Ordering::Relaxed);
        self.left.store(before.saturating_sub(bytes), Ordering::Relaxed);
        if before <= bytes {
            self.cancel.cancel();
        }
    }
}

fn run_until(request: &Capture, bytes: u64) -> Result<CaptureReport> {
    let cancel = Cancel::default();
    let stop = StopAt { cancel: cancel.clone(), left: AtomicU64::new(bytes) };
    capture(request, |_| Ok(()), Watch { progress: &stop, cancel: &cancel })
}

#[test]
fn every_format_holds_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (source, bytes) = disk(&folder);
    for (format, name, list) in [
        (Format::Raw, "a.img", ""),
        (Format::Vhd, "a.vhd", ""),
        (Format::Vhd, "fixed.vhd", "subformat=fixed"),
        (Format::Vhdx, "a.vhdx", ""),
        (Format::Vmdk, "a.vmdk", ""),
        (Format::Vmdk, "flat.vmdk", "subformat=monolithicFlat"),
        (Format::Vmdk, "split.vmdk", "subformat=twoGbMaxExtentSparse"),
    ] {
        let target = folder.path().join(name);
        let mut request = request(&source, &target, format);
        if !list.is_empty() {
            request.new.set_list(list).unwrap();
        }
        request.skip = std::iter::once(MIB..2 * MIB).collect();
        let mut expected = bytes.clone();
        expected[MIB as usize..2 * MIB as usize].fill(0);
        // Cut off twice, at different places.
        for stop in [3 * MIB, 7 * MIB] {
            let error = run_until(&request, stop).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Cancelled, "{name}: {error}");
            assert!(!target.exists());
        }
        let seen = Cell::new(false);
        let report = capture(
            &request,
            |image| {
                seen.set(true);
                assert!(image.exists() && !target.exists());
                assert!(content(image, format) == expected, "{name}: what is prepared differs");
                Ok(())
            },
            Watch::default(),
        )
        .unwrap();
        assert!(seen.get() && report.resumed_at.is_some_and(|at| at > 0), "{report:?}");
        assert_eq!((report.bad.count(), report.skipped), (0, MIB));
        assert!(content(&target, format) == expected, "{name}");
        if Tool::Qemu.there() {
            let raw = folder.path().join("expected");
            std::fs::write(&raw, &expected).unwrap();
            let name = if format == Format::Vhd { "vpc" } else { format.name() };
            qemu::assert_reads(&target, name, &raw, name);
        }
        let checked = vdisk::check(&target, &OpenOptions::new().format(format)).unwrap();
        assert_eq!((checked.corruptions, checked.leaks), (0, 0), "{name}: {checked:?}");
    }
    assert!(!names(&folder).iter().any(|name| name.starts_with('.')), "{:?}", names(&folder));
    // What is there is not overwritten unasked.
    let again = request(&source, &folder.path().join("a.vhdx"), Format::Vhdx);
    assert_eq!(run(&again).unwrap_err().kind(), ErrorKind::Refused);
    run(&Capture { overwrite: true, ..again }).unwrap();
}

#[test]
fn what_changed_in_between_is_not_gone_on_with() {
    let folder = tempfile::tempdir().unwrap();
    let (source, mut bytes) = disk(&folder);
    let target = folder.path().join("a.vhdx");
    run_until(&request(&source, &target, Format::Vhdx), 3 * MIB).unwrap_err();
    bytes[100] ^= 1;
    std::fs::write(&source, &bytes).unwrap();
    let error = run(&request(&source, &target, Format::Vhdx)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(error.advice().unwrap().contains("--restart"));
    let restarted = Capture { restart: true, ..request(&source, &target, Format::Vhdx) };
    assert_eq!(run(&restarted).unwrap().resumed_at, None);
    assert!(content(&target, Format::Vhdx) == bytes);
}

#[test]
fn a_failed_preparation_keeps_the_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let (source, bytes) = disk(&folder);
    let target = folder.path().join("a.vmdk");
    let request = request(&source, &target, Format::Vmdk);
    let refuse = |_: &Path| Err(vdisk::Error::refused("not like this"));
    let error = capture(&request, refuse, Watch::default()).unwrap_err();
    assert_eq!(error.message(), "not like this");
    assert!(!target.exists());
    // Nothing is copied again.
    let report = run(&request).unwrap();
    assert_eq!((report.resumed_at, report.written), (Some(12 * MIB), 0));
    assert!(content(&target, Format::Vmdk) == bytes);
}

fn expect_bad(bytes: &[u8], bad: &[Range<u64>]) -> Vec<u8> {
    let mut expected = bytes.to_vec();
    for range in bad {
        expected[range.start as usize..range.end as usize].fill(0);
    }
    expected
}

#[test]
fn bad_sectors_are_mapped_and_all_others_are_saved() {
    let folder = tempfile::tempdir().unwrap();
    let (source, bytes) = disk(&folder);
    let bad = [MIB + 512..MIB + 1024, 2 * MIB..2 * MIB + 4096, 12 * MIB - 512..12 * MIB];
    let faults = Faults { bad: bad.to_vec(), ..Faults::default() };
    let Some(faulty) = Faulty::mount(&source, &folder.path().join("mnt"), faults) else { return };
    let expected = expect_bad(&bytes, &bad);
    for format in [Format::Vhdx, Format::Vmdk] {
        let target = folder.path().join(format!("a.{format}"));
        let report = run(&request(&faulty.path, &target, format)).unwrap();
        assert_eq!(report.bad.iter().cloned().collect::<Vec<_>>(), bad, "by sectors");
        assert!(content(&target, format) == expected);
        let map = std::fs::read_to_string(report.map.unwrap()).unwrap();
        assert!(map.contains("0x00100200  0x00000200  -\n"), "{map}");
        ddrescuelog_agrees(&folder.path().join(format!("a.{format}.map")), &bad);
    }
    // The same through a block device, whose sectors the kernel reads.
    let Some(device) = Loop::attach(&faulty.path, &["--read-only"]) else { return };
    let target = folder.path().join("b.vhdx");
    let report = run(&request(&device.path, &target, Format::Vhdx)).unwrap();
    // Below the device the page cache of the file system reads whole pages.
    let pages = [MIB..MIB + 4096, 2 * MIB..2 * MIB + 4096, 12 * MIB - 4096..12 * MIB];
    let found: Vec<_> = report.bad.iter().cloned().collect();
    assert!(found == pages || found == bad, "{found:?}");
    assert!(content(&target, Format::Vhdx) == expect_bad(&bytes, &found));
}

/// ddrescue's own tool reads the map.
fn ddrescuelog_agrees(map: &Path, bad: &[Range<u64>]) {
    let done = std::process::Command::new("ddrescuelog").args(["-b1", "-l-"]).arg(map).output();
    let Ok(done) = done else {
        vdisk_testkit::tools::skip("ddrescuelog", "it is not installed");
        return;
    };
    let text = String::from_utf8(done.stdout).unwrap();
    let listed: Vec<u64> = text.lines().map(|line| line.parse().unwrap()).collect();
    let expected: Vec<u64> = bad.iter().cloned().flatten().collect();
    assert!(listed == expected, "{} bytes listed", listed.len());
}

#[test]
fn sectors_that_read_at_last_are_not_lost() {
    let folder = tempfile::tempdir().unwrap();
    let (source, bytes) = disk(&folder);
    let faults = Faults {
        bad: std::iter::once(MIB..MIB + 512).collect(),
        heals_after: 6,
        ..Faults::default()
    };
    let Some(faulty) = Faulty::mount(&source, &folder.path().join("mnt"), faults) else { return };
    let target = folder.path().join("a.vhd");
    let request = Capture { retries: 9, ..request(&faulty.path, &target, Format::Vhd) };
    let report = run(&request).unwrap();
    assert_eq!((report.bad.count(), report.map), (0, None));
    assert!(content(&target, Format::Vhd) == bytes);
}

/// Unplugs a disk when the last pass begins.
struct UnplugLate<'a>(&'a Faulty);

impl Progress for UnplugLate<'_> {
    fn begin(&self, what: &str, _: u64) {
        if what == "retry bad sectors" {
            self.0.faults.gone.store(true, Ordering::Relaxed);
        }
    }
    fn advance(&self, _: u64) {}
}

#[test]
fn a_disk_that_is_gone_while_bad_sectors_are_tried_again_loses_no_others() {
    // The disk's beginning may be what is bad.
    for bad in [MIB + 512..MIB + 1024, 0..512] {
        let folder = tempfile::tempdir().unwrap();
        let (source, bytes) = disk(&folder);
        let faults = Faults { bad: vec![bad.clone()], ..Faults::default() };
        let mount = folder.path().join("mnt");
        let Some(faulty) = Faulty::mount(&source, &mount, faults) else { return };
        let target = folder.path().join("a.vhdx");
        let request = request(&faulty.path, &target, Format::Vhdx);
        let watch = Watch { progress: &UnplugLate(&faulty), cancel: &Cancel::default() };
        let error = capture(&request, |_| Ok(()), watch).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Io, "{error}");
        assert!(!target.exists());
        faulty.faults.gone.store(false, Ordering::Relaxed);
        let report = run(&request).unwrap();
        assert_eq!(report.bad.iter().cloned().collect::<Vec<_>>(), std::slice::from_ref(&bad));
        assert!(content(&target, Format::Vhdx) == expect_bad(&bytes, &[bad]));
    }
}

/// The names are given one after the other: map, extents, image.
#[test]
fn a_capture_cut_off_between_two_names_takes_its_map_for_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let (source, bytes) = disk(&folder);
    let bad = MIB..MIB + 512;
    let faults = Faults { bad: vec![bad.clone()], ..Faults::default() };
    let Some(faulty) = Faulty::mount(&source, &folder.path().join("mnt"), faults) else { return };
    let (target, hidden) = (folder.path().join("a.vhdx"), folder.path().join(".a.vhdx.vdisk-p2v"));
    for image_is_named in [false, true] {
        let request = request(&faulty.path, &target, Format::Vhdx);
        let map = run(&request).unwrap().map.unwrap();
        // As if it had been killed before the last name, or behind it.
        std::fs::create_dir(&hidden).unwrap();
        std::fs::write(hidden.join("state.json"), prepared(&request)).unwrap();
        if !image_is_named {
            std::fs::rename(&target, hidden.join("a.vhdx")).unwrap();
        }
        let report = run(&request).unwrap();
        assert_eq!((report.written, report.map), (0, Some(map.clone())));
        assert!(content(&target, Format::Vhdx) == expect_bad(&bytes, std::slice::from_ref(&bad)));
        assert!(!hidden.exists());
        std::fs::remove_file(&target).unwrap();
        std::fs::remove_file(&map).unwrap();
    }
}

/// The state of a finished capture, of one whose place was taken before its last step.
fn prepared(request: &Capture) -> Vec<u8> {
    let folder = tempfile::tempdir().unwrap();
    let target = folder.path().join("a.vhdx");
    let request = Capture { target: target.clone(), ..request.clone() };
    let take = |_: &Path| {
        std::fs::write(&target, "theirs").unwrap();
        Ok(())
    };
    assert_eq!(capture(&request, take, Watch::default()).unwrap_err().kind(), ErrorKind::Refused);
    assert_eq!(std::fs::read_to_string(&target).unwrap(), "theirs");
    std::fs::read(folder.path().join(".a.vhdx.vdisk-p2v/state.json")).unwrap()
}

#[test]
fn neither_inputs_nor_what_others_use_are_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let (source, bytes) = disk(&folder);
    let refused = |request: &Capture| {
        let error = run(request).unwrap_err();
        assert!(!names(&folder).iter().any(|name| name.starts_with('.')), "{:?}", names(&folder));
        error.kind()
    };
    // The source itself, though replacing is allowed.
    let itself = Capture { overwrite: true, ..request(&source, &source, Format::Raw) };
    assert_eq!(refused(&itself), ErrorKind::Refused);
    assert!(std::fs::read(&source).unwrap() == bytes);
    // A file that another program has open for writing.
    let used = folder.path().join("used.vhdx");
    run(&request(&source, &used, Format::Vhdx)).unwrap();
    let theirs = OpenOptions::new().open_rw(&used).unwrap();
    let over = Capture { overwrite: true, ..request(&source, &used, Format::Vhdx) };
    assert_eq!(refused(&over), ErrorKind::InUse);
    drop(theirs);
    // An extent's name that is taken, a map's, and a device.
    let flat = folder.path().join("a-flat.vmdk");
    std::fs::write(&flat, "theirs").unwrap();
    let mut split = request(&source, &folder.path().join("a.vmdk"), Format::Vmdk);
    split.new.set_list("subformat=monolithicFlat").unwrap();
    assert_eq!(refused(&split), ErrorKind::Refused);
    assert_eq!(std::fs::read_to_string(&flat).unwrap(), "theirs");
    std::fs::write(folder.path().join("b.vhd.map"), "theirs").unwrap();
    let mapped = request(&source, &folder.path().join("b.vhd"), Format::Vhd);
    assert_eq!(refused(&mapped), ErrorKind::Refused);
    let device =
        Capture { overwrite: true, ..request(&source, Path::new("/dev/null"), Format::Raw) };
    assert_eq!(refused(&device), ErrorKind::Refused);
    run(&Capture { overwrite: true, ..split }).unwrap();
    assert!(content(&folder.path().join("a.vmdk"), Format::Vmdk) == bytes);
}

#[test]
fn a_disk_that_is_gone_is_not_taken_for_zeros() {
    let folder = tempfile::tempdir().unwrap();
    let (source, bytes) = disk(&folder);
    let Some(faulty) = Faulty::mount(&source, &folder.path().join("mnt"), Faults::default()) else {
        return;
    };
    let target = folder.path().join("a.vhdx");
    let request = Capture { threads: 1, ..request(&faulty.path, &target, Format::Vhdx) };
    struct Unplug<'a>(&'a Faulty, AtomicU64);
    impl Progress for Unplug<'_> {
        fn begin(&self, _: &str, _: u64) {}
        fn advance(&self, bytes: u64) {
            if self.1.fetch_add(bytes, Ordering::Relaxed) > 3 * MIB {
                self.0.faults.gone.store(true, Ordering::Relaxed);
            }
        }
    }
    let unplug = Unplug(&faulty, AtomicU64::new(0));
    let watch = Watch { progress: &unplug, cancel: &Cancel::default() };
    let error = capture(&request, |_| Ok(()), watch).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Io, "{error}");
    assert!(!target.exists());
    faulty.faults.gone.store(false, Ordering::Relaxed);
    let report =
        capture(&request, |_| Ok(()), Watch { progress: &NoProgress, cancel: &Cancel::default() })
            .unwrap();
    assert!(report.resumed_at.is_some_and(|at| at > 0) && report.bad.count() == 0);
    assert!(content(&target, Format::Vhdx) == bytes);
}
