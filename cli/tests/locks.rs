//! Two programs at one image: ours and QEMU's respect each other's locks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, Command, Stdio};

use common::Place;
use vdisk::OpenOptions;
use vdisk_testkit::tools::Tool;

/// `qemu-io` with an image open, until dropped.
struct Held(Child);

impl Held {
    /// Opens `image` with the flags given; waits until it is open.
    fn open(place: &Place, image: &str, flags: &[&str]) -> Self {
        let mut child = Command::new("qemu-io")
            .args(flags)
            .arg(image)
            .current_dir(place.folder())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        child.stdin.as_mut().unwrap().write_all(b"length\n").unwrap();
        let mut answer = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut answer).unwrap();
        assert!(answer.contains("MiB"), "qemu-io did not open {image}: {answer:?}");
        Self(child)
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        drop(self.0.stdin.take());
        let _ = self.0.stdout.take().unwrap().read_to_end(&mut Vec::new());
        self.0.wait().unwrap();
    }
}

const FORMATS: [&str; 3] = ["vpc", "vhdx", "vmdk"];

fn images(place: &Place) {
    place.raw("base.raw", 4 << 20, std::slice::from_ref(&(0..100_000)));
    for format in FORMATS {
        place.run(&format!("convert -f raw -O {format} base.raw base.{format}")).ok();
        place.run(&format!("create -f {format} -b base.{format} child.{format}")).ok();
    }
}

#[test]
fn what_qemu_writes_to_is_refused() {
    if !Tool::Qemu.there() {
        return;
    }
    let place = Place::new();
    images(&place);
    for format in FORMATS {
        let base = format!("base.{format}");
        let child = format!("child.{format}");
        let writing = Held::open(&place, &base, &["-f", format]);
        for line in [
            format!("info {base}"),
            format!("checksum {base}"),
            format!("convert {base} out.raw"),
            format!("resize --force {base} +1M"),
            format!("convert --force -f raw base.raw {base} -O {format}"),
            format!("map {child}"),
            format!("commit {child}"),
        ] {
            place.run(&line).fails(7, &[&base]);
        }
        place.run(&format!("check {base}")).fails(1, &[&base, "--force-share"]);
        place.run(&format!("info --force-share {base}")).code(0);
        place.run(&format!("compare -U {base} {base}")).code(0);
        drop(writing);
        place.run(&format!("checksum {child}")).ok();
        // What QEMU only reads may be read, and not written.
        let reading = Held::open(&place, &base, &["-r", "-f", format]);
        place.run(&format!("checksum {child}")).ok();
        place.run(&format!("resize --force {base} +1M")).fails(7, &[&base, "in use"]);
        drop(reading);
        place.run(&format!("resize --force {base} +1M")).ok();
    }
}

#[test]
fn qemu_refuses_what_is_written_here() {
    if !Tool::Qemu.there() {
        return;
    }
    let place = Place::new();
    images(&place);
    let qemu = |flags: &[&str], image: &str| {
        let done = Command::new("qemu-io")
            .args(flags)
            .args(["-c", "length", image])
            .current_dir(place.folder())
            .output()
            .unwrap();
        (done.status.success(), String::from_utf8_lossy(&done.stderr).into_owned())
    };
    for format in FORMATS {
        let base = format!("base.{format}");
        let writing = OpenOptions::new().open_rw(place.path(&base)).unwrap();
        let (opened, why) = qemu(&["-r", "-f", format], &base);
        assert!(!opened && why.contains("lock"), "{format}: {why}");
        writing.close().unwrap();
        // A child that is being read keeps its parent from being written.
        let reading = OpenOptions::new().open(place.path(&format!("child.{format}"))).unwrap();
        let (opened, why) = qemu(&["-f", format], &base);
        assert!(!opened && why.contains("lock"), "{format}: {why}");
        let (opened, why) = qemu(&["-r", "-f", format], &base);
        assert!(opened, "{format}: {why}");
        drop(reading);
        let (opened, why) = qemu(&["-f", format], &base);
        assert!(opened, "{format}: {why}");
    }
}

#[test]
fn two_of_ours_do_not_write_to_one() {
    let place = Place::new();
    images(&place);
    for format in FORMATS {
        let base = place.path(&format!("base.{format}"));
        let child = place.path(&format!("child.{format}"));
        let writing = OpenOptions::new().open_rw(&base).unwrap();
        for path in [&base, &child] {
            let error = OpenOptions::new().open(path).unwrap_err();
            assert_eq!(error.kind(), vdisk::ErrorKind::InUse, "{error}");
        }
        OpenOptions::new().open_rw(&base).unwrap_err();
        OpenOptions::new().force_share(true).open(&child).unwrap();
        writing.close().unwrap();
        OpenOptions::new().open_rw(&child).unwrap().close().unwrap();
        OpenOptions::new().open_rw(&base).unwrap().close().unwrap();
    }
}
