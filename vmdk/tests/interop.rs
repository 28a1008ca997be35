//! Programs that are not ours read what we write, and we what they write.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![allow(clippy::cast_possible_truncation, missing_docs)]

mod common;

use std::path::{Path, PathBuf};
use std::process::{Command, Output as Finished};
use std::sync::Arc;
use std::time::SystemTime;

use common::{Stack, open_path, open_path_rw, skipped};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::output::Output;
use vdisk_core::{Disk, Layer, LayerMut, ParentLink};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::fill::fill;
use vdisk_testkit::model::{assert_clean, assert_reads};
use vdisk_vmdk::{ChildOptions, CreateOptions, Subformat, create, create_child};

/// Prints the tool's version; `false` where it is not there.
fn there(name: &str, command: &[&str]) -> bool {
    match Command::new(command[0]).args(&command[1..]).output() {
        Ok(done) if done.status.success() => {
            let text = String::from_utf8_lossy(&done.stdout).into_owned();
            eprintln!("{name}: {}", text.lines().next().unwrap_or_default());
            true
        }
        _ => {
            skipped(name, &format!("{} does not run", command[0]));
            false
        }
    }
}

fn qemu() -> bool {
    there("qemu", &["qemu-img", "--version"])
}

fn run(program: &str, arguments: &[&str]) -> Finished {
    let done = Command::new(program).args(arguments).output().unwrap();
    assert!(
        done.status.success(),
        "{program} {arguments:?}: {}{}",
        String::from_utf8_lossy(&done.stdout),
        String::from_utf8_lossy(&done.stderr)
    );
    done
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A new image on the host that holds `content`.
fn write(folder: &Path, options: &CreateOptions, content: &Content) -> PathBuf {
    let path = folder.join("disk.vmdk");
    let mut files = Output::new(&path, true).unwrap();
    fill(create(&mut files, options).unwrap(), content).unwrap();
    files.commit().unwrap();
    path
}

const SIZES: [u64; 3] = [512, (3 << 20) + 1536, 40 << 20];

fn contents(size: u64) -> Vec<Content> {
    match size {
        0..10_000_000 => vec![Content::random(size, size), Content::random(size, 1)],
        _ => vec![Content::empty(size)],
    }
}

#[test]
fn qemu_reads_what_we_write() {
    if !qemu() {
        return;
    }
    for subformat in Subformat::ALL {
        for size in SIZES {
            for content in contents(size) {
                let folder = tempfile::tempdir().unwrap();
                let options = CreateOptions { subformat, ..CreateOptions::new(size) };
                let image = write(folder.path(), &options, &content);
                let raw = folder.path().join("raw");
                std::fs::write(&raw, content.bytes()).unwrap();
                let image = text(&image);
                run("qemu-img", &["compare", "-f", "vmdk", "-F", "raw", image, text(&raw)]);
                run("qemu-img", &["check", "-f", "vmdk", image]);
                let info = run("qemu-img", &["info", "--output=json", image]);
                let info = String::from_utf8(info.stdout).unwrap();
                assert!(info.contains(&format!("\"virtual-size\": {size}")), "{info}");
                assert!(info.contains("\"format\": \"vmdk\""), "{info}");
            }
        }
    }
}

#[test]
fn we_read_what_qemu_writes() {
    if !qemu() {
        return;
    }
    let subformats = [
        "monolithicSparse",
        "monolithicFlat",
        "twoGbMaxExtentSparse",
        "twoGbMaxExtentFlat",
        "streamOptimized",
    ];
    for subformat in subformats {
        for zeroed in ["off", "on"] {
            if zeroed == "on" && !subformat.ends_with("Sparse") {
                continue;
            }
            for size in SIZES {
                let folder = tempfile::tempdir().unwrap();
                let content = Content::random(size, size + 3);
                let (raw, image) = (folder.path().join("raw"), folder.path().join("disk.vmdk"));
                std::fs::write(&raw, content.bytes()).unwrap();
                let options = format!("subformat={subformat},zeroed_grain={zeroed}");
                let arguments = ["convert", "-O", "vmdk", "-o", &options, text(&raw), text(&image)];
                run("qemu-img", &arguments);
                let layer = open_path(&image).unwrap();
                let context = format!("{subformat} of {size} by qemu");
                assert_reads(&layer, &ZeroDisk(0), content.bytes(), &context);
                assert_clean(&layer, &context);
            }
        }
    }
}

#[test]
fn qemu_and_we_change_one_file_in_turn() {
    if !qemu() {
        return;
    }
    let size = (5 << 20) + 512;
    for subformat in
        [Subformat::MonolithicSparse, Subformat::TwoGbMaxExtentSparse, Subformat::MonolithicFlat]
    {
        let folder = tempfile::tempdir().unwrap();
        let mut model = vec![0u8; size as usize];
        let options = CreateOptions { subformat, grain_size: 8 << 10, ..CreateOptions::new(size) };
        let image = write(folder.path(), &options, &Content::empty(size));
        let mut rng = fastrand::Rng::with_seed(size);
        for round in 0..5u8 {
            let mut layer = open_path_rw(&image).unwrap();
            for _ in 0..10 {
                let at = rng.u64(0..size - 70_000);
                let data = vec![round + 1; rng.usize(1..70_000)];
                layer.write(&data, at, &ZeroDisk(0)).unwrap();
                model[at as usize..at as usize + data.len()].copy_from_slice(&data);
            }
            layer.close().unwrap();
            for _ in 0..5 {
                let (at, len) = (rng.u64(0..size / 512 - 200) * 512, rng.u64(1..200) * 512);
                let command = format!("write -P {} {at} {len}", 100 + round);
                run("qemu-io", &["-f", "vmdk", "-c", &command, text(&image)]);
                model[at as usize..(at + len) as usize].fill(100 + round);
            }
            let layer = open_path(&image).unwrap();
            assert_reads(&layer, &ZeroDisk(0), &model, "in turn");
            assert_clean(&layer, "in turn");
        }
        let raw = folder.path().join("raw");
        std::fs::write(&raw, &model).unwrap();
        run("qemu-img", &["compare", text(&image), text(&raw)]);
        run("qemu-img", &["check", text(&image)]);
    }
}

#[test]
fn qemu_reads_resized_disks() {
    if !qemu() {
        return;
    }
    for subformat in [Subformat::MonolithicSparse, Subformat::MonolithicFlat] {
        let folder = tempfile::tempdir().unwrap();
        let content = Content::full(1 << 20, 8);
        let options = CreateOptions { subformat, ..CreateOptions::new(1 << 20) };
        let image = write(folder.path(), &options, &content);
        for size in [9u64 << 30, 3 << 20, 5 << 30] {
            let mut layer = open_path_rw(&image).unwrap();
            layer.resize(size).unwrap();
            layer.close().unwrap();
            run("qemu-img", &["check", text(&image)]);
            let raw = folder.path().join("raw");
            std::fs::write(&raw, content.bytes()).unwrap();
            std::fs::File::options().write(true).open(&raw).unwrap().set_len(size).unwrap();
            run("qemu-img", &["compare", text(&image), text(&raw)]);
            // qemu writes over the header where a table is missing.
            let command = format!("write -P 0 {} 512", size - 512);
            run("qemu-io", &["-f", "vmdk", "-c", &command, text(&image)]);
            assert_clean(&open_path(&image).unwrap(), "resized");
        }
    }
}

/// A chain of three of `size` bytes in `folder`, and what its top holds.
fn chain(folder: &Path, size: u64) -> (PathBuf, Vec<u8>) {
    let content = Content::full(size, 6);
    let mut below: Arc<dyn Disk> = Arc::new(ZeroDisk(0));
    let mut model = content.bytes().to_vec();
    let mut path = write(folder, &CreateOptions::new(size), &content);
    for number in 1..3u8 {
        let layer = open_path(&path).unwrap();
        let link = ParentLink {
            info: layer.info().clone(),
            relative: path.file_name().unwrap().to_str().unwrap().to_owned(),
            absolute: path.clone(),
            modified: SystemTime::now(),
        };
        below = Arc::new(Stack(layer, below));
        path = folder.join(format!("disk-00000{number}.vmdk"));
        let mut files = Output::new(&path, true).unwrap();
        create_child(&mut files, &ChildOptions::new(&link)).unwrap();
        files.commit().unwrap();
        let mut child = open_path_rw(&path).unwrap();
        for (at, len) in [(70_000, 100), (1 << 20, 200_000), (size - 700, 700)] {
            child.write(&vec![number; len], at, &*below).unwrap();
            model[at as usize..at as usize + len].fill(number);
        }
        child.zero((2 << 20)..(2 << 20) + 150_000, &*below).unwrap();
        model[2 << 20..(2 << 20) + 150_000].fill(0);
        child.close().unwrap();
        assert_clean(&child, "child");
    }
    let top = open_path(&path).unwrap();
    assert_reads(&top, &*below, &model, "chain");
    (path, model)
}

#[test]
fn qemu_reads_our_chains() {
    if !qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (top, model) = chain(folder.path(), (4 << 20) + 1536);
    let raw = folder.path().join("raw");
    std::fs::write(&raw, &model).unwrap();
    run("qemu-img", &["compare", text(&top), text(&raw)]);
    run("qemu-img", &["check", text(&top)]);
}

#[test]
fn we_write_into_chains_of_qemu() {
    if !qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let size = 3 << 20;
    let content = Content::full(size, 2);
    let base = write(folder.path(), &CreateOptions::new(size), &content);
    let child = folder.path().join("child.vmdk");
    run("qemu-img", &["create", "-f", "vmdk", "-F", "vmdk", "-b", text(&base), text(&child)]);
    let below = VecDisk(content.bytes().to_vec());
    let mut layer = open_path_rw(&child).unwrap();
    assert_eq!(layer.info().parent.as_ref().unwrap().hints[0].path, text(&base));
    layer.write(&[9; 1000], 100_000, &below).unwrap();
    layer.zero(200_000..500_000, &below).unwrap();
    layer.close().unwrap();
    let mut model = content.bytes().to_vec();
    model[100_000..101_000].fill(9);
    model[200_000..500_000].fill(0);
    let raw = folder.path().join("raw");
    std::fs::write(&raw, &model).unwrap();
    run("qemu-img", &["compare", text(&child), text(&raw)]);
}

/// Reads disks with a Python module and prints a digest of each; arguments: module, then a chain
/// from its top down.
const PYTHON: &str = r#"
import hashlib, sys
name, paths = sys.argv[1], sys.argv[2:]
def parts(stream, size):
    while size > 0:
        data = stream.read(min(size, 1 << 20))
        assert data, "short read"
        size -= len(data)
        yield data
if name == "pyvmdk":
    import pyvmdk
    parent = None
    for path in reversed(paths):
        handle = pyvmdk.handle()
        handle.open(path)
        handle.open_extent_data_files()
        if parent:
            handle.set_parent(parent)
        parent = handle
    stream, size = handle, handle.get_media_size()
else:
    from pathlib import Path
    from dissect.hypervisor.disk.vmdk import VMDK
    disk = VMDK(Path(paths[0]))
    stream, size = disk.open() if hasattr(disk, "open") else disk, disk.size
digest = hashlib.sha256()
for data in parts(stream, size):
    digest.update(data)
print(size, digest.hexdigest())
"#;

fn python_digest(module: &str, paths: &[&Path]) -> String {
    let mut arguments = vec!["-c", PYTHON, module];
    arguments.extend(paths.iter().map(|path| text(path)));
    String::from_utf8(run("python3", &arguments).stdout).unwrap().trim().to_owned()
}

fn digest(bytes: &[u8]) -> String {
    use sha2::{Digest, Sha256};
    let hash: String = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{} {hash}", bytes.len())
}

fn python_reads_what_we_write(module: &str, odd: u64) {
    for subformat in Subformat::ALL {
        for size in [(3 << 20) + odd, 1 << 20] {
            let folder = tempfile::tempdir().unwrap();
            let content = Content::random(size, 11);
            let options = CreateOptions { subformat, ..CreateOptions::new(size) };
            let image = write(folder.path(), &options, &content);
            let found = python_digest(module, &[&image]);
            assert_eq!(found, digest(content.bytes()), "{module} {subformat:?} of {size}");
        }
    }
    let folder = tempfile::tempdir().unwrap();
    let (top, model) = chain(folder.path(), (4 << 20) + odd);
    let names = ["disk-000001.vmdk", "disk.vmdk"].map(|name| folder.path().join(name));
    let found = python_digest(module, &[&top, &names[0], &names[1]]);
    assert_eq!(found, digest(&model), "{module}: chain");
}

#[test]
fn libvmdk_reads_what_we_write() {
    let version = ["python3", "-c", "import pyvmdk; print('pyvmdk', pyvmdk.get_version())"];
    if there("libvmdk", &version) {
        python_reads_what_we_write("pyvmdk", 1536);
    }
}

#[test]
fn vmdkinfo_knows_what_we_write() {
    if !there("libvmdk", &["vmdkinfo", "-V"]) {
        return;
    }
    for subformat in Subformat::ALL {
        let folder = tempfile::tempdir().unwrap();
        let options =
            CreateOptions { subformat, cid: Some(0x0123_4567), ..CreateOptions::new(1 << 20) };
        let image = write(folder.path(), &options, &Content::random(1 << 20, 1));
        let found = String::from_utf8(run("vmdkinfo", &[text(&image)]).stdout).unwrap();
        assert!(found.contains("(1048576 bytes)"), "{found}");
        assert!(found.contains("0x01234567"), "{found}");
    }
}

#[test]
fn dissect_reads_what_we_write() {
    let version = [
        "python3",
        "-c",
        "import importlib.metadata as m; import dissect.hypervisor; print(m.version('dissect.hypervisor'))",
    ];
    if there("dissect", &version) {
        // It reads 8 KiB at a time, and fails where a disk ends inside that.
        python_reads_what_we_write("dissect", 8192);
    }
}
