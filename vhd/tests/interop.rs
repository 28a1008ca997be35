//! Images of ours, opened by programs that are not ours, and the other way round.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::Path;
use std::process::{Command, Output as Finished};
use std::sync::Arc;

use common::{
    codes, contents, empty, link, nothing, open_read, open_write, options, put, seal_footers, skip,
};
use sha2::{Digest, Sha256};
use vdisk_core::disk::ZeroDisk;
use vdisk_core::layer::read;
use vdisk_core::{HostFile, Layer, LayerMut, Output, Ranges, Store, StoreExt, Vacant, Watch};
use vdisk_testkit::VecDisk;
use vdisk_testkit::content::Content;
use vdisk_testkit::fill::fill;
use vdisk_testkit::model::{assert_clean, assert_reads};
use vdisk_vhd::{ChildOptions, CreateOptions, Subformat, create, create_child};

/// Runs a program; `None` where it is not there.
fn run(program: &str, args: &[&str]) -> Option<Finished> {
    Command::new(program).args(args).output().ok()
}

fn text(finished: &Finished) -> String {
    let all = [&finished.stdout[..], &finished.stderr[..]].concat();
    String::from_utf8_lossy(&all).into_owned()
}

/// Whether the tool is there; prints its version.
fn has(tool: &str, program: &str, args: &[&str]) -> bool {
    match run(program, args) {
        Some(finished) if finished.status.success() => {
            eprintln!("{tool}: {}", text(&finished).lines().next().unwrap_or_default());
            true
        }
        _ => {
            skip(tool, &format!("{program} {args:?} does not work"));
            false
        }
    }
}

fn has_qemu() -> bool {
    has("qemu", "qemu-img", &["--version"])
}

fn has_pyvhdi() -> bool {
    has("libvhdi", "python3", &["-c", "import pyvhdi; print('pyvhdi', pyvhdi.get_version())"])
}

fn must(program: &str, args: &[&str]) -> String {
    let finished = run(program, args).unwrap();
    assert!(finished.status.success(), "{program} {args:?}: {}", text(&finished));
    String::from_utf8_lossy(&finished.stdout).into_owned()
}

fn str(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn write_image(path: &Path, options: &CreateOptions, content: &Content) {
    let mut output = Output::new(path, true).unwrap();
    fill(create(&mut output, options).unwrap(), content).unwrap();
    output.commit().unwrap();
}

fn open_path(path: &Path) -> vdisk_vhd::VhdLayer {
    open_read(Arc::new(HostFile::open(path).unwrap())).unwrap()
}

fn change_path(path: &Path) -> vdisk_vhd::VhdLayer {
    open_write(Arc::new(HostFile::open_rw(path).unwrap())).unwrap()
}

fn hex(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The digest of what libvhdi reads of the last file, each one being the parent of the next.
/// In pieces of 64 KiB: read 1 MiB at once through a child with blocks of 512 KiB, libvhdi 20260901
/// gives other bytes than in reads of up to 512 KiB of the same files.
fn pyvhdi_digest(chain: &[&Path]) -> String {
    const SCRIPT: &str = "
import hashlib, pyvhdi, sys
files = []
for name in sys.argv[1:]:
    file = pyvhdi.file()
    file.open(name)
    if files:
        file.set_parent(files[-1])
    files.append(file)
top, sha = files[-1], hashlib.sha256()
left = top.get_media_size()
while left:
    piece = top.read_buffer(min(left, 1 << 16))
    assert piece
    sha.update(piece)
    left -= len(piece)
print(sha.hexdigest())
";
    let mut args = vec!["-c", SCRIPT];
    args.extend(chain.iter().map(|path| str(path)));
    must("python3", &args).trim().to_owned()
}

/// Asserts that qemu reads exactly `bytes`, by comparing with a raw file.
fn qemu_reads(path: &Path, bytes: &[u8], context: &str) {
    let raw = path.with_extension("raw");
    std::fs::write(&raw, bytes).unwrap();
    let compare = ["compare", "-f", "vpc", "-F", "raw", str(path), str(&raw)];
    let finished = run("qemu-img", &compare).unwrap();
    let said = text(&finished);
    assert!(finished.status.success() && !said.contains("mismatch"), "{context}: {said}");
}

const VARIANTS: [(Subformat, u32); 4] = [
    (Subformat::Fixed, 2 << 20),
    (Subformat::Dynamic, 2 << 20),
    (Subformat::Dynamic, 512 << 10),
    (Subformat::Dynamic, 4096),
];

#[test]
fn others_read_what_we_make() {
    let (qemu, pyvhdi) = (has_qemu(), has_pyvhdi());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    for (seed, size) in [(1, 512), (2, 513 * 512), (3, 5_000_192), (4, 6 << 20)] {
        for (subformat, block) in VARIANTS {
            let context = format!("{size} {subformat:?} {block}");
            let content = Content::random(size, seed);
            write_image(&path, &options(size, subformat, block), &content);
            if qemu {
                qemu_reads(&path, content.bytes(), &context);
                let info = must("qemu-img", &["info", "-f", "vpc", "--output=json", str(&path)]);
                assert!(info.contains(&format!("\"virtual-size\": {size}")), "{context}: {info}");
            }
            if pyvhdi {
                assert_eq!(pyvhdi_digest(&[&path]), hex(content.bytes()), "{context}");
            }
        }
    }
}

#[test]
fn every_size_is_seen_exactly() {
    let qemu = has_qemu();
    let vhdiinfo = has("libvhdi", "vhdiinfo", &["-V"]);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    // Around the limits of the geometry algorithm, and the largest.
    let edges = [17 * 4 * 1024, 65535 * 16 * 63, 65535 * 16 * 255, (2040 << 30) / 512 - 1];
    let sizes = edges.iter().flat_map(|sectors| [sectors - 1, *sectors, sectors + 1]);
    for size in sizes.map(|sectors| sectors * 512) {
        for subformat in [Subformat::Fixed, Subformat::Dynamic] {
            let options = CreateOptions { subformat, ..CreateOptions::new(size) };
            let mut output = Output::new(&path, true).unwrap();
            create(&mut output, &options).unwrap().finish().unwrap();
            output.commit().unwrap();
            if qemu {
                let info = must("qemu-img", &["info", "-f", "vpc", "--output=json", str(&path)]);
                assert!(info.contains(&format!("\"virtual-size\": {size}")), "{size}: {info}");
            }
            if vhdiinfo {
                let info = must("vhdiinfo", &[str(&path)]);
                let kind = if subformat == Subformat::Fixed { "Fixed" } else { "Dynamic" };
                assert!(info.contains(kind) && info.contains(&format!("({size} bytes)")), "{info}");
            }
        }
    }
}

#[test]
fn others_read_what_we_change_and_resize() {
    let (qemu, pyvhdi) = (has_qemu(), has_pyvhdi());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    for (seed, (subformat, block)) in VARIANTS.into_iter().enumerate() {
        let size = 3 << 20;
        let content = Content::random(size, seed as u64);
        write_image(&path, &options(size, subformat, block), &content);
        let mut model = content.bytes().to_vec();
        let mut layer = change_path(&path);
        let below = ZeroDisk(u64::MAX);
        for (size, at) in [(size, 100_001), (9 << 20, (8 << 20) + 5), (2 << 20, (2 << 20) - 9000)] {
            layer.resize(size).unwrap();
            model.resize(size as usize, 0);
            layer.write(&[0xA5; 9000], at, &below).unwrap();
            model[at as usize..at as usize + 9000].fill(0xA5);
            layer.zero(70_000..80_000, &below).unwrap();
            model[70_000..80_000].fill(0);
            layer.close().unwrap();
            let context = format!("{subformat:?} {block} {size}");
            if qemu {
                qemu_reads(&path, &model, &context);
            }
            if pyvhdi {
                assert_eq!(pyvhdi_digest(&[&path]), hex(&model), "{context}");
            }
        }
    }
}

#[test]
fn we_read_and_change_what_qemu_makes() {
    if !has_qemu() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (raw, path) = (folder.path().join("in.raw"), folder.path().join("disk.vhd"));
    let cases = ["subformat=dynamic", "subformat=fixed", "subformat=dynamic,force_size=on"];
    for (seed, option) in cases.into_iter().enumerate() {
        let content = Content::random(5 << 20, seed as u64 + 20);
        std::fs::write(&raw, content.bytes()).unwrap();
        let args = ["convert", "-f", "raw", "-O", "vpc", "-o", option, str(&raw), str(&path)];
        must("qemu-img", &args);
        let mut model = content.bytes().to_vec();
        let layer = open_path(&path);
        // Without force_size, qemu rounds the size up to the next geometry.
        model.resize(layer.info().virtual_size as usize, 0);
        assert_reads(&layer, &nothing(&layer), &model, option);
        assert_clean(&layer, option);
        drop(layer);

        let mut layer = change_path(&path);
        layer.resize(7 << 20).unwrap();
        model.resize(7 << 20, 0);
        layer.write(&[9; 3 << 20], (4 << 20) - 77, &ZeroDisk(0)).unwrap();
        model[(4 << 20) - 77..(7 << 20) - 77].fill(9);
        layer.close().unwrap();
        drop(layer);
        qemu_reads(&path, &model, option);

        // And qemu goes on from there.
        let write = ["-f", "vpc", "-c", "write -P 0x33 1k 64k", "-c", "write -P 0x44 6M 5k"];
        if run("qemu-io", &["--version"]).is_some() {
            must("qemu-io", &[&write[..], &[str(&path)]].concat());
            model[1024..1024 + 65536].fill(0x33);
            model[6 << 20..(6 << 20) + 5120].fill(0x44);
        }
        let layer = open_path(&path);
        assert_reads(&layer, &nothing(&layer), &model, option);
        assert_clean(&layer, option);
    }
}

#[test]
fn libvhdi_reads_our_chains() {
    if !has_pyvhdi() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    for (seed, (subformat, block)) in VARIANTS.into_iter().enumerate() {
        let size = 3 << 20;
        let content = Content::random(size, seed as u64 + 40);
        let base = path("base.vhd");
        write_image(&base, &options(size, subformat, block), &content);
        let mut model = content.bytes().to_vec();
        let mut names = vec![base];
        let mut rng = fastrand::Rng::with_seed(seed as u64);
        for name in ["one.vhd", "two.vhd"] {
            let parent = open_path(names.last().unwrap());
            let relative = names.last().unwrap().file_name().unwrap().to_str().unwrap().to_owned();
            let mut output = Output::new(&path(name), true).unwrap();
            let link = link(&parent, &relative);
            let options = ChildOptions { block_size: 512 << 10, ..ChildOptions::new(&link) };
            create_child(&mut output, &options).unwrap();
            output.commit().unwrap();

            let mut layer = change_path(&path(name));
            let below = VecDisk(model.clone());
            for _ in 0..20 {
                let at = rng.u64(0..size);
                let len = rng.u64(1..50_000).min(size - at);
                let range = at as usize..(at + len) as usize;
                if rng.bool() {
                    let mut data = vec![0; len as usize];
                    rng.fill(&mut data);
                    layer.write(&data, at, &below).unwrap();
                    model[range].copy_from_slice(&data);
                } else {
                    layer.zero(at..at + len, &below).unwrap();
                    model[range].fill(0);
                }
            }
            layer.close().unwrap();
            assert!(codes(&layer).is_empty(), "{:?}", codes(&layer));
            assert!(contents(&layer, &below) == model);
            names.push(path(name));
            let chain: Vec<&Path> = names.iter().map(|name| name.as_path()).collect();
            assert_eq!(pyvhdi_digest(&chain), hex(&model), "{subformat:?} {name}");
        }
        if has("libvhdi", "vhdiinfo", &["-V"]) {
            let info = must("vhdiinfo", &[str(&names[2])]);
            let parent = open_path(&names[1]).info().identity.clone().unwrap();
            assert!(info.contains("Differential") && info.contains(&parent), "{info}");
        }
    }
}

#[test]
fn dissect_reads_what_we_make() {
    let import = "import dissect.hypervisor.disk.vhd, importlib.metadata as m; \
                  print('dissect.hypervisor', m.version('dissect.hypervisor'))";
    if !has("dissect", "python3", &["-c", import]) {
        return;
    }
    const SCRIPT: &str = "
import hashlib, sys
from dissect.hypervisor.disk.vhd import VHD
disk = VHD(open(sys.argv[1], 'rb'))
sha, left = hashlib.sha256(), disk.size
while left:
    piece = disk.read(min(left, 1 << 20))
    assert piece
    sha.update(piece)
    left -= len(piece)
print(sha.hexdigest())
";
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("disk.vhd");
    for (subformat, block) in VARIANTS {
        let content = Content::random(3 << 20, u64::from(block));
        write_image(&path, &options(3 << 20, subformat, block), &content);
        let found = must("python3", &["-c", SCRIPT, str(&path)]);
        assert_eq!(found.trim(), hex(content.bytes()), "{subformat:?} {block}");
    }
}

/// XenServer and XCP-ng keep a map of the full blocks behind the table, and refuse an image whose
/// map does not fit its checksum, or has blocks that are not there.
#[test]
fn the_batmap_of_tapdisk_stays() {
    const BLOCK: u64 = 2 << 20;
    const MAP: std::ops::Range<u64> = 206_336..213_504;
    let store = empty(&options(100 << 30, Subformat::Dynamic, 2 << 20));
    assert_eq!(store.size().unwrap(), MAP.start + 512);
    let map: Vec<u8> = (0..6656u32).map(|at| at as u8 | 1).collect();
    let sum: u32 = map.iter().map(|byte| u32::from(*byte)).sum();
    let mut header = b"tdbatmap".to_vec();
    header.extend((MAP.start + 512).to_be_bytes());
    header.extend([0, 0, 0, 13, 0, 1, 0, 2]);
    header.extend((!sum).to_be_bytes());
    header.resize(512, 0);
    let mut footer = store.to_bytes()[..512].to_vec();
    footer[28..36].copy_from_slice(b"tap\0\0\x01\0\x03");
    let whole = [header, map].concat();
    put(&store, MAP.start, &whole);
    put(&store, 0, &footer);
    put(&store, MAP.end, &footer);
    seal_footers(&store);

    let mut layer = open_write(store.clone()).unwrap();
    let nothing = ZeroDisk(0);
    for (block, byte) in [(0, 1), (7, 2), (9, 3)] {
        layer.write(&vec![byte; BLOCK as usize], block * BLOCK, &nothing).unwrap();
    }
    let now = || store.to_bytes()[MAP.start as usize..MAP.end as usize].to_vec();
    layer.compact(&Vacant::default(), Watch::default()).unwrap();
    assert!(now() == whole, "the map was changed");
    // What is given up must not count as full: the map says nothing of any block then.
    let mut unsaid = Ranges::new();
    unsaid.push(0..BLOCK);
    let vacant = Vacant { unsaid, ..Vacant::default() };
    assert_eq!(layer.plan_compact(&vacant).unwrap().moved, 1);
    layer.compact(&vacant, Watch::default()).unwrap();
    layer.close().unwrap();
    let blank = [&whole[..24], &[0xFF; 4], &whole[28..512], &[0; 6656]].concat();
    assert!(now() == blank, "the map is not blank");
    let bytes = store.to_bytes();
    assert_eq!(&bytes[28..31], b"tap");
    assert!(codes(&layer).is_empty(), "{:?}", codes(&layer));
    let layer = open_read(store.clone()).unwrap();
    for (block, byte) in [(0, 0), (7, 2), (9, 3)] {
        let mut found = vec![0xEE; BLOCK as usize];
        read(&layer, &nothing, &mut found, block * BLOCK).unwrap();
        assert!(found.iter().all(|one| *one == byte), "block {block}");
    }

    // With the footer at the end lost, new blocks go behind the map all the same.
    let empty = MAP.end;
    store.set_len(empty).unwrap();
    put(&store, 1536, &vec![0xFF; 204_800]);
    let mut layer = open_write(store.clone()).unwrap();
    layer.write(&[1; 512], 0, &nothing).unwrap();
    layer.close().unwrap();
    assert!(now() == blank, "overwritten");

    // A resize takes the name away, and with it the map.
    let mut layer = open_write(store.clone()).unwrap();
    layer.resize(200 << 30).unwrap();
    layer.close().unwrap();
    assert_eq!(&store.to_bytes()[28..32], b"win ");
    assert!(codes(&layer).is_empty(), "{:?}", codes(&layer));
}
