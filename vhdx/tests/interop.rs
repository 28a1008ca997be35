//! Programs that are not ours judge what we write, and we read what they write.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output as Ran};
use std::sync::Arc;

use common::{MIB, content, link, read_only, skip, small, writable};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::{Files, HostFile, Layer, LayerMut, Output};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::fill::fill;
use vdisk_testkit::model::{assert_clean, assert_reads};
use vdisk_vhdx::{ChildOptions, CreateOptions, VhdxLayer, create, create_child};

/// Prints the content of a VHDX image: program, image, and the parent where it has to be told.
const PYVHDI: &str = "
import sys, pyvhdi
def opened(path):
    f = pyvhdi.file(); f.open(path); return f
f = opened(sys.argv[1])
if len(sys.argv) > 2:
    f.set_parent(opened(sys.argv[2]))
sys.stdout.buffer.write(f.read_buffer_at_offset(f.get_media_size(), 0))
";
const DISSECT: &str = "
import sys, pathlib
from dissect.hypervisor.disk.vhdx import VHDX
v = VHDX(pathlib.Path(sys.argv[1]))
sys.stdout.buffer.write(v.read(v.size))
";

fn run(command: &mut Command) -> Option<Ran> {
    command.output().ok()
}

/// Whether a tool is there; prints its version.
fn have(tool: &str) -> bool {
    let ran = match tool {
        "qemu" => run(Command::new("qemu-img").arg("--version")),
        "libvhdi" => run(python("import pyvhdi; print('pyvhdi', pyvhdi.get_version())")),
        _ => run(python(
            "from importlib.metadata import version; print('dissect', version('dissect.hypervisor'))",
        )),
    };
    match ran {
        Some(ran) if ran.status.success() => {
            let text = String::from_utf8_lossy(&ran.stdout);
            eprintln!("judge: {}", text.lines().next().unwrap_or_default());
            true
        }
        _ => {
            skip(tool, "not installed");
            false
        }
    }
}

fn python(program: &str) -> &mut Command {
    let mut command = Command::new("python3");
    command.arg("-c").arg(program);
    Box::leak(Box::new(command))
}

fn qemu(arguments: &[&str], path: &Path) -> String {
    let ran = Command::new(if arguments[0] == "-c" { "qemu-io" } else { "qemu-img" })
        .args(arguments)
        .arg(path)
        .output()
        .unwrap();
    let text =
        format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "qemu {arguments:?} {}: {text}", path.display());
    text
}

/// What Python prints, without what it says.
fn printed(program: &str, arguments: &[&Path]) -> Vec<u8> {
    let ran = python(program).args(arguments).output().unwrap();
    assert!(ran.status.success(), "{arguments:?}: {}", String::from_utf8_lossy(&ran.stderr));
    ran.stdout
}

fn qemu_reads(path: &Path, expected: &[u8], context: &str) {
    let raw = path.with_extension("raw");
    std::fs::write(&raw, expected).unwrap();
    let both = ["compare", "-f", "vhdx", "-F", "raw", path.to_str().unwrap()];
    let said = qemu(&both, &raw);
    assert!(said.contains("identical"), "{context}: {said}");
    std::fs::remove_file(raw).unwrap();
}

fn file(path: &Path) -> Arc<HostFile> {
    Arc::new(HostFile::open_rw(path).unwrap())
}

fn new_image(path: &Path, options: &CreateOptions, content: &Content) {
    let mut files = Output::new(path, true).unwrap();
    fill(create(&mut files, options).unwrap(), content).unwrap();
    files.commit().unwrap();
}

fn new_child(path: &Path, parent: &VhdxLayer, name: &str, block_size: u64) {
    let link = link(parent, name, path.parent().unwrap());
    let mut files = Output::new(path, true).unwrap();
    assert_eq!(files.main_name(), path.file_name().unwrap());
    create_child(&mut files, &ChildOptions { block_size, ..ChildOptions::new(&link) }).unwrap();
    files.commit().unwrap();
}

/// Random changes to an open layer and to its model.
fn scribble(layer: &mut VhdxLayer, below: &VecDisk, model: &mut [u8], seed: u64, zero: bool) {
    let mut rng = fastrand::Rng::with_seed(seed);
    for _ in 0..30 {
        let start = rng.usize(0..model.len());
        let longest = [600, 9000, 3 << 20][rng.usize(0..3)];
        let end = model.len().min(start + rng.usize(1..longest));
        let range = start as u64..end as u64;
        if zero && rng.u32(0..3) == 0 {
            layer.zero(range, below).unwrap();
            model[start..end].fill(0);
        } else {
            rng.fill(&mut model[start..end]);
            layer.write(&model[start..end], start as u64, below).unwrap();
        }
        if rng.u32(0..8) == 0 {
            layer.flush().unwrap();
        }
    }
}

fn variants() -> Vec<CreateOptions> {
    let mut list = Vec::new();
    for fixed in [false, true] {
        for logical_sector in [512, 4096] {
            for block_size in [MIB, 4 * MIB] {
                let base = CreateOptions::new(9 * MIB + 8192);
                list.push(CreateOptions { fixed, logical_sector, block_size, ..base });
            }
        }
    }
    list
}

/// New images, and images after writing in place, as all three readers see them.
#[test]
fn images_without_parent() {
    let (qemu_there, libvhdi, dissect) = (have("qemu"), have("libvhdi"), have("dissect"));
    let folder = tempfile::tempdir().unwrap();
    for (options, seed) in variants().iter().zip(0..) {
        let path = folder.path().join(format!("{seed}.vhdx"));
        let content = Content::random(options.virtual_size, seed);
        new_image(&path, options, &content);
        let mut model = content.bytes().to_vec();
        let none = VecDisk(Vec::new());
        for written in [false, true] {
            let context = format!("{options:?}, written in place: {written}");
            if written {
                let mut layer = writable(file(&path)).unwrap();
                scribble(&mut layer, &none, &mut model, seed, true);
                layer.close().unwrap();
            }
            assert_clean(&read_only(file(&path)).unwrap(), &context);
            if qemu_there && options.logical_sector == 512 {
                qemu_reads(&path, &model, &context);
                let said = qemu(&["check", "-f", "vhdx"], &path);
                assert!(said.contains("No errors were found"), "{context}: {said}");
                let said = qemu(&["info", "--output=json"], &path);
                assert!(said.contains(&options.virtual_size.to_string()), "{context}: {said}");
            }
            if libvhdi {
                assert!(printed(PYVHDI, &[&path]) == model, "libvhdi: {context}");
            }
            if dissect {
                assert!(printed(DISSECT, &[&path]) == model, "dissect: {context}");
            }
        }
    }
}

/// Children after writing in place; libvhdi does not know blocks of zeros in a child, so it only
/// judges those that have none.
#[test]
fn children() {
    let (libvhdi, dissect) = (have("libvhdi"), have("dissect"));
    let folder = tempfile::tempdir().unwrap();
    for (zero, seed) in [false, true, false, true, false, true].into_iter().zip(0..) {
        let sector = [512, 4096][usize::from(seed > 2)];
        let options = CreateOptions { logical_sector: sector, ..small(7 * MIB) };
        let base = folder.path().join(format!("base{seed}.vhdx"));
        let below = Content::full(options.virtual_size, seed);
        new_image(&base, &options, &below);
        let parent = read_only(file(&base)).unwrap();
        let path = folder.path().join(format!("child{seed}.vhdx"));
        let name = base.file_name().unwrap().to_str().unwrap();
        new_child(&path, &parent, name, [MIB, 2 * MIB][seed as usize % 2]);
        let below = VecDisk(below.bytes().to_vec());
        let mut model = below.0.clone();
        for written in [false, true] {
            if written {
                let mut layer = writable(file(&path)).unwrap();
                scribble(&mut layer, &below, &mut model, seed, zero);
                layer.close().unwrap();
            }
            let context = format!("seed {seed}, written: {written}, zeros: {zero}");
            let layer = read_only(file(&path)).unwrap();
            assert_reads(&layer, &below, &model, &context);
            assert_clean(&layer, &context);
            if libvhdi && !zero {
                let read = printed(PYVHDI, &[&path, &base]);
                assert!(read == model, "libvhdi: {context}");
            }
            if dissect {
                assert!(printed(DISSECT, &[&path]) == model, "dissect: {context}");
            }
        }
    }
}

/// Our log, left behind by a session that never closed, replayed by qemu.
#[test]
fn qemu_replays_our_log() {
    if !have("qemu") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for seed in 0..6 {
        let path = folder.path().join(format!("{seed}.vhdx"));
        let size = 40 * MIB;
        let content = Content::random(size, seed);
        new_image(&path, &small(size), &content);
        let mut model = content.bytes().to_vec();
        let none = VecDisk(Vec::new());
        let mut layer = writable(file(&path)).unwrap();
        // Enough commits that the ring of the log wraps in some of the runs.
        for round in 0..=seed * 30 {
            let at = (round * 7919 * 512 % (size - 512)) as usize;
            model[at..at + 512].fill(round as u8);
            layer.write(&model[at..at + 512], at as u64, &none).unwrap();
            if round % 3 == 0 {
                let block = (round * 5 % 40 * MIB) as usize;
                model[block..block + MIB as usize].fill(0);
                layer.zero(block as u64..block as u64 + MIB, &none).unwrap();
            }
            layer.flush().unwrap();
        }
        scribble(&mut layer, &none, &mut model, seed, true);
        layer.flush().unwrap();
        // A commit that reached only the log: the power failed before the pages were in place.
        let before = std::fs::read(&path).unwrap();
        drop(layer);
        let mut stale = before.clone();
        stale[3 << 20..(3 << 20) + 4096].fill(0);
        std::fs::write(&path, &stale).unwrap();
        let layer = read_only(file(&path)).unwrap();
        assert!(layer.info().dirty);
        let complete = content_of(&layer) == model;
        drop(layer);
        qemu(&["check", "-f", "vhdx", "-r", "all"], &path);
        let layer = read_only(file(&path)).unwrap();
        assert!(!layer.info().dirty);
        assert_eq!(content_of(&layer) == model, complete, "seed {seed}");
        assert!(complete, "seed {seed}: the table has one page, so every entry has all of it");
        qemu_reads(&path, &model, "replayed by qemu");
    }
}

fn content_of(layer: &VhdxLayer) -> Vec<u8> {
    content(layer, &ZeroDisk(0)).unwrap()
}

/// Images that qemu makes and writes to, and ours that qemu writes to.
#[test]
fn qemu_writes_we_read() {
    if !have("qemu") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (options, name) in [
        ("subformat=dynamic,block_size=1M", "dynamic"),
        ("subformat=fixed", "fixed"),
        ("subformat=fixed,block_state_zero=off", "fixed-present"),
        ("subformat=dynamic,block_size=32M,log_size=2M", "large"),
        ("", "ours"),
        ("", "ours-fixed"),
    ] {
        let path: PathBuf = folder.path().join(format!("{name}.vhdx"));
        if name.starts_with("ours") {
            let fixed = name.ends_with("fixed");
            let options = CreateOptions { fixed, ..small(24 * MIB) };
            new_image(&path, &options, &Content::empty(24 * MIB));
        } else {
            let made = Command::new("qemu-img")
                .args(["create", "-q", "-f", "vhdx", "-o", options])
                .arg(&path)
                .arg("24M")
                .status();
            assert!(made.unwrap().success());
        }
        let mut model = vec![0; 24 << 20];
        for (start, len, byte) in [(0, 4096, 0x11), (5 << 20, 3 << 20, 0x22), (23 << 20, 512, 0x33)]
        {
            let command = format!("write -P {byte} {start} {len}");
            qemu(&["-c", &command, "-f", "vhdx"], &path);
            model[start..start + len].fill(byte);
        }
        let layer = read_only(file(&path)).unwrap();
        assert_reads(&layer, &ZeroDisk(0), &model, name);
        assert_clean(&layer, name);
        // And back: what qemu made takes our changes, resizes included.
        let none = VecDisk(Vec::new());
        let mut layer = writable(file(&path)).unwrap();
        scribble(&mut layer, &none, &mut model, 7, true);
        layer.resize(30 * MIB).unwrap();
        model.resize(30 << 20, 0);
        scribble(&mut layer, &none, &mut model, 8, true);
        layer.close().unwrap();
        qemu_reads(&path, &model, name);
    }
}

/// The table in a new region, and a table of several chunks.
#[test]
fn qemu_reads_resized_images() {
    if !have("qemu") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("grown.vhdx");
    new_image(&path, &small(8 * MIB), &Content::full(8 * MIB, 3));
    let mut layer = writable(file(&path)).unwrap();
    let size = 300 * 1024 * MIB;
    layer.resize(size).unwrap();
    layer.write(&[0x77; 4096], size - 4096, &ZeroDisk(0)).unwrap();
    layer.close().unwrap();
    assert_clean(&layer, "grown");
    let said = qemu(&["-c", &format!("read -P 0x77 {} 4096", size - 4096), "-f", "vhdx"], &path);
    assert!(!said.contains("failed"), "{said}");
    let map = qemu(&["check", "-f", "vhdx"], &path);
    assert!(map.contains("No errors"), "{map}");
    if have("dissect") {
        let read = format!(
            "import sys
from dissect.hypervisor.disk.vhdx import VHDX
v = VHDX(open(sys.argv[1], 'rb'))
v.seek({})
sys.stdout.buffer.write(v.read(4096))",
            size - 4096
        );
        assert_eq!(printed(&read, &[&path]), [0x77; 4096]);
    }
}
