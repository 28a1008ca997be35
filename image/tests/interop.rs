//! Conversions, read by programs that are not ours; and images of theirs, read by us.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::path::{Path, PathBuf};

use common::{
    VARIANTS, Variant, assert_clean, assert_same, bytes_of, convert, names_in, open_as,
    qemu_format, write_raw,
};
use vdisk::{
    ChildTarget, CopyOptions, Disk, Format, Image, NewImage, OpenOptions, Watch, ZeroSearch,
};
use vdisk_testkit::content::Content;
use vdisk_testkit::tools::{
    Tool, arg, dissect_digest, libvhdi_digest, libvmdk_digest, must, qemu, sha256,
};

/// Which judges are there.
struct Judges {
    qemu: bool,
    libvhdi: bool,
    libvmdk: bool,
    dissect: bool,
}

impl Judges {
    fn find() -> Self {
        Self {
            qemu: Tool::Qemu.there(),
            libvhdi: Tool::Libvhdi.there(),
            libvmdk: Tool::Libvmdk.there(),
            dissect: Tool::Dissect.there(),
        }
    }

    /// Asserts that everybody who can read the variant (formats.md §9) reads `path` as the raw
    /// file `raw`. `thorough` asks those written in Python too, which are slow to start.
    fn judge(&self, variant: &Variant, path: &Path, raw: &Path, thorough: bool, context: &str) {
        if self.qemu
            && let Some(format) = variant.qemu()
        {
            qemu::assert_reads(path, format, raw, context);
            // qemu checks no VHD, no raw and no flat disk.
            let tables = matches!(variant.format, Format::Vhdx)
                || ["monolithicSparse", "twoGbMaxExtentSparse", "streamOptimized"]
                    .iter()
                    .any(|name| variant.list.ends_with(name));
            if tables {
                qemu::assert_clean(path, format, context);
            }
        }
        if !thorough || variant.format == Format::Raw {
            return;
        }
        let expected = sha256(&std::fs::read(raw).unwrap());
        if variant.format == Format::Vmdk && self.libvmdk {
            assert_eq!(libvmdk_digest(&[path]), expected, "{context}: libvmdk");
        }
        if variant.format != Format::Vmdk && self.libvhdi {
            assert_eq!(libvhdi_digest(&[path]), expected, "{context}: libvhdi");
        }
        // dissect reads 8 KiB at once and fails where the disk ends within them.
        if self.dissect && std::fs::metadata(raw).unwrap().len().is_multiple_of(8192) {
            assert_eq!(dissect_digest(class(variant.format), path), expected, "{context}: dissect");
        }
    }
}

fn class(format: Format) -> &'static str {
    match format {
        Format::Vhd => "vhd.VHD",
        Format::Vhdx => "vhdx.VHDX",
        Format::Raw | Format::Vmdk => "vmdk.VMDK",
    }
}

/// Contents by name; the last element tells whether slow judges shall look.
fn contents() -> Vec<(&'static str, Content, bool)> {
    vec![
        ("one sector", Content::full(512, 1), true),
        ("one empty sector", Content::empty(512), false),
        ("sectors that fill no page", Content::random(513 * 512, 2), false),
        ("a part of the last block", Content::random(5_000_192, 3), true),
        ("a sector more than blocks", Content::random((4 << 20) + 512, 13), false),
        ("full", Content::full(3 << 20, 5), false),
        ("empty", Content::empty(2 << 20), false),
        ("large", Content::random((17 << 20) - 8192, 6), true),
    ]
}

#[test]
fn others_read_what_we_convert() {
    let judges = Judges::find();
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.img");
    let judge_raw = folder.path().join("judge.raw");
    for (name, content, thorough) in contents() {
        write_raw(&raw, &content);
        let source = open_as(Format::Raw).open(&raw).unwrap();
        for variant in VARIANTS {
            let context = format!("{name} to {}", variant.name());
            let path = folder.path().join(variant.name());
            let new = variant.new_image(source.len());
            convert(&source, &path, &new).unwrap_or_else(|e| panic!("{context}: {e}"));
            let copy = open_as(variant.format).open(&path).unwrap();
            let mut expected = content.bytes().to_vec();
            expected.resize(new.virtual_size() as usize, 0);
            assert!(bytes_of(&copy) == expected, "{context}: other bytes");
            assert_clean(&path, &open_as(variant.format), &context);
            std::fs::write(&judge_raw, &expected).unwrap();
            judges.judge(&variant, &path, &judge_raw, thorough, &context);
        }
    }
    let left = names_in(folder.path());
    assert!(left.iter().all(|name| !name.starts_with('.')), "{left:?}");
}

#[test]
fn a_raw_file_of_any_length_is_rounded_up_with_zeros() {
    let judges = Judges::find();
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.img");
    let judge_raw = folder.path().join("judge.raw");
    for (seed, len) in [(1, 1), (2, 511), (3, 100_001), (4, (2 << 20) + 1)] {
        let content = Content::full(len, seed);
        write_raw(&raw, &content);
        let source = open_as(Format::Raw).open(&raw).unwrap();
        for variant in VARIANTS {
            let context = format!("{len} bytes to {}", variant.name());
            let path = folder.path().join(variant.name());
            convert(&source, &path, &variant.new_image(len)).unwrap();
            let sector = match variant {
                Variant { format: Format::Raw, .. } => 1,
                v if v.is_4k() => 4096,
                _ => 512,
            };
            let mut expected = content.bytes().to_vec();
            expected.resize(len.next_multiple_of(sector) as usize, 0);
            let copy = open_as(variant.format).open(&path).unwrap();
            assert!(bytes_of(&copy) == expected, "{context}");
            if variant.format != Format::Raw {
                std::fs::write(&judge_raw, &expected).unwrap();
                judges.judge(&variant, &path, &judge_raw, false, &context);
            }
        }
    }
}

/// From every variant to every other, without raw between.
#[test]
fn every_variant_becomes_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.img");
    let content = Content::random((6 << 20) + 4096, 77);
    write_raw(&raw, &content);
    let source = open_as(Format::Raw).open(&raw).unwrap();
    for from in VARIANTS {
        let first = folder.path().join(format!("first-{}", from.name()));
        convert(&source, &first, &from.new_image(source.len())).unwrap();
        let first = open_as(from.format).open(&first).unwrap();
        for to in VARIANTS {
            let second = folder.path().join(format!("second-{}", to.name()));
            convert(&first, &second, &to.new_image(first.len())).unwrap();
            let second = open_as(to.format).open(&second).unwrap();
            assert_same(&source, &second, &format!("{} to {}", from.name(), to.name()));
        }
    }
}

/// What the source has allocated stays allocated with no search for zeros; else it does not.
#[test]
fn zeros_are_searched_for_as_asked() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("zeros.img");
    std::fs::write(&raw, vec![0; 4 << 20]).unwrap();
    let source = open_as(Format::Raw).open(&raw).unwrap();
    let allocated = |zero_search, name: &str| {
        let path = folder.path().join(name);
        let options = CopyOptions { zero_search, threads: 3, skip: None };
        let new = NewImage::new(Format::Vmdk, source.len());
        vdisk::convert(&source, &path, &new, true, &options, Watch::default()).unwrap();
        let image = Image::open(&path).unwrap();
        assert!(bytes_of(&image).iter().all(|byte| *byte == 0));
        let extents = image.extents(0..image.len()).map(|extent| extent.unwrap());
        extents.filter(|extent| !extent.is_zero()).map(|extent| extent.len).sum::<u64>()
    };
    assert_eq!(allocated(ZeroSearch::Off, "off.vmdk"), 4 << 20);
    assert_eq!(allocated(ZeroSearch::Auto, "auto.vmdk"), 0);
    assert_eq!(allocated(ZeroSearch::Unit(512), "unit.vmdk"), 0);
}

#[test]
fn we_read_what_qemu_makes() {
    if !Tool::Qemu.there() {
        return;
    }
    let cases = [
        ("vpc", "subformat=dynamic"),
        ("vpc", "subformat=dynamic,force_size=on"),
        ("vpc", "subformat=fixed"),
        ("vpc", "subformat=fixed,force_size=on"),
        ("vhdx", "subformat=dynamic"),
        ("vhdx", "subformat=dynamic,block_size=1M,log_size=2M"),
        ("vhdx", "subformat=dynamic,block_state_zero=off"),
        ("vhdx", "subformat=fixed"),
        ("vmdk", "subformat=monolithicSparse"),
        ("vmdk", "subformat=monolithicSparse,zeroed_grain=on"),
        ("vmdk", "subformat=monolithicSparse,adapter_type=lsilogic,hwversion=21"),
        ("vmdk", "subformat=monolithicFlat"),
        ("vmdk", "subformat=twoGbMaxExtentSparse"),
        ("vmdk", "subformat=twoGbMaxExtentFlat"),
        ("vmdk", "subformat=streamOptimized"),
    ];
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.raw");
    let back = folder.path().join("back.img");
    for (number, (format, list)) in cases.into_iter().enumerate() {
        for (name, content, _) in contents() {
            let context = format!("{name} in {format} {list}");
            // qemu makes no VHDX below a MiB and no VHD of a sector.
            if content.bytes().len() < 1 << 20 {
                continue;
            }
            write_raw(&raw, &content);
            let image = folder.path().join(format!("theirs{number}.{format}"));
            let made = arg(&image);
            must("qemu-img", &["convert", "-f", "raw", "-O", format, "-o", list, arg(&raw), made]);
            let image = Image::open(&image).unwrap_or_else(|e| panic!("{context}: {e}"));
            assert_eq!(qemu_format(image.info().format), format, "{context}");
            // Without force_size, qemu rounds a VHD up to the next geometry.
            let exact = format != "vpc" || list.contains("force_size");
            assert_eq!(image.len(), qemu::virtual_size(Path::new(made), format), "{context}");
            assert!(!exact || image.len() == content.bytes().len() as u64, "{context}");
            assert_clean(Path::new(made), &OpenOptions::new(), &context);
            convert(&image, &back, &NewImage::new(Format::Raw, image.len())).unwrap();
            let mut expected = content.bytes().to_vec();
            expected.resize(image.len() as usize, 0);
            assert!(std::fs::read(&back).unwrap() == expected, "{context}");
        }
    }
}

/// A chain of children over `base`, each described by what it holds.
struct Family {
    folder: PathBuf,
    format: Format,
    ending: &'static str,
    paths: Vec<PathBuf>,
    model: Vec<u8>,
    /// Changes begin and end at multiples of so many bytes.
    grid: u64,
}

impl Family {
    fn new(folder: &Path, variant: &Variant, seed: u64, size: u64) -> Self {
        let content = Content::random(size, seed);
        let raw = folder.join("base.img");
        write_raw(&raw, &content);
        let source = open_as(Format::Raw).open(&raw).unwrap();
        let base = folder.join(variant.name());
        convert(&source, &base, &variant.new_image(size)).unwrap();
        Self {
            folder: folder.to_owned(),
            format: variant.format,
            ending: variant.format.name(),
            paths: vec![base],
            model: content.bytes().to_vec(),
            grid: 1,
        }
    }

    /// A range that is to be changed.
    fn range(&self, rng: &mut fastrand::Rng, most: u64) -> std::ops::Range<usize> {
        let size = self.model.len() as u64;
        let at = rng.u64(0..size) / self.grid * self.grid;
        let end = (at + rng.u64(1..most)).next_multiple_of(self.grid).min(size);
        at as usize..end as usize
    }

    fn top(&self) -> &Path {
        self.paths.last().unwrap()
    }

    fn next_path(&self) -> PathBuf {
        self.folder.join(format!("child{}.{}", self.paths.len(), self.ending))
    }

    /// An empty child, then written to in place.
    fn add_written(&mut self, seed: u64) {
        let path = self.next_path();
        let open = OpenOptions::new();
        vdisk::create_child(&path, self.format, self.top(), &open, &[], false).unwrap();
        let mut image = open.open_rw(&path).unwrap();
        let mut rng = fastrand::Rng::with_seed(seed);
        for _ in 0..25 {
            let range = self.range(&mut rng, 100_000);
            if rng.u32(0..3) > 0 {
                rng.fill(&mut self.model[range.clone()]);
                image.write_at(&self.model[range.clone()], range.start as u64).unwrap();
            } else {
                self.model[range.clone()].fill(0);
                image.zero(range.start as u64..range.end as u64).unwrap();
            }
        }
        image.close().unwrap();
        self.paths.push(path);
    }

    /// A child that keeps what differs between the chain so far and a changed raw disk.
    fn add_converted(&mut self, seed: u64) {
        let mut rng = fastrand::Rng::with_seed(seed);
        let size = self.model.len();
        for _ in 0..6 {
            let range = self.range(&mut rng, 300_000);
            // Of zeros, only those differ that were not zero before: no longer on the grid.
            if self.grid > 4096 || rng.bool() {
                rng.fill(&mut self.model[range]);
            } else {
                self.model[range].fill(0);
            }
        }
        let raw = self.folder.join("changed.img");
        std::fs::write(&raw, &self.model).unwrap();
        let source = open_as(Format::Raw).open(&raw).unwrap();
        let path = self.next_path();
        let target = ChildTarget {
            format: self.format,
            parent: self.top(),
            open: OpenOptions::new(),
            options: &[],
        };
        let (options, watch) = (CopyOptions::default(), Watch::default());
        let report =
            vdisk::convert_to_child(&source, &path, &target, false, &options, watch).unwrap();
        assert!(report.written < size as u64, "everything was copied: {report:?}");
        self.paths.push(path);
    }

    fn assert_read(&self, context: &str) {
        let image = Image::open(self.top()).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_eq!(image.layers().len(), self.paths.len(), "{context}");
        assert!(bytes_of(&image) == self.model, "{context}: other bytes");
        assert_clean(self.top(), &OpenOptions::new(), context);
        let flat = self.folder.join("flat.img");
        convert(&image, &flat, &NewImage::new(Format::Raw, image.len())).unwrap();
        assert!(std::fs::read(&flat).unwrap() == self.model, "{context}: converted");
    }
}

#[test]
fn chains_are_read_by_us_and_others() {
    let judges = Judges::find();
    for (seed, variant) in VARIANTS.into_iter().enumerate() {
        // A stream can be a parent too; raw has no identity to know it by.
        if variant.format == Format::Raw {
            continue;
        }
        let seed = seed as u64;
        let folder = tempfile::tempdir().unwrap();
        let mut family = Family::new(folder.path(), &variant, seed + 100, (5 << 20) + 8192);
        if variant.format == Format::Vhdx {
            // dissect 3.21 misreads a sector bitmap from the middle of a byte on; the model test
            // changes any bytes.
            family.grid = if variant.is_4k() { 8 * 4096 } else { 8 * 512 };
        }
        let digests = |paths: &[PathBuf]| -> Vec<String> {
            paths.iter().map(|path| vdisk_testkit::tools::sha256_file(path)).collect()
        };
        for depth in 1..=3 {
            let before = digests(&family.paths);
            if depth == 2 {
                family.add_converted(seed * 10 + depth);
            } else {
                family.add_written(seed * 10 + depth);
            }
            let parents = family.paths.len() - 1;
            assert_eq!(digests(&family.paths[..parents]), before, "a parent was changed");
            let context = format!("{} with {depth} children", variant.name());
            family.assert_read(&context);

            let chain: Vec<&Path> = family.paths.iter().map(PathBuf::as_path).collect();
            let expected = sha256(&family.model);
            let top = family.top();
            match variant.format {
                Format::Vhd if judges.libvhdi => {
                    assert_eq!(libvhdi_digest(&chain), expected, "{context}: libvhdi");
                }
                Format::Vhdx if judges.dissect => {
                    let found = dissect_digest("vhdx.VHDX", top);
                    assert_eq!(found, expected, "{context}: dissect");
                }
                Format::Vmdk => {
                    let raw = folder.path().join("judge.raw");
                    std::fs::write(&raw, &family.model).unwrap();
                    if judges.qemu {
                        qemu::assert_reads(top, "vmdk", &raw, &context);
                    }
                    if judges.libvmdk {
                        assert_eq!(libvmdk_digest(&chain), expected, "{context}: libvmdk");
                    }
                }
                _ => {}
            }
        }
    }
}

/// qemu's own snapshots over images of ours, and ours over theirs.
#[test]
fn chains_with_layers_of_qemu() {
    if !Tool::Qemu.there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let variant = Variant { format: Format::Vmdk, list: "subformat=monolithicSparse" };
    let mut family = Family::new(folder.path(), &variant, 5, 4 << 20);
    let theirs = family.next_path();
    let backing = family.top().file_name().unwrap().to_str().unwrap().to_owned();
    must("qemu-img", &["create", "-f", "vmdk", "-F", "vmdk", "-b", &backing, arg(&theirs)]);
    let write = ["-c", "write -P 0x33 1k 64k", "-c", "write -z 128k 512k"];
    must("qemu-io", &[&["-f", "vmdk"][..], &write, &[arg(&theirs)]].concat());
    family.model[1024..1024 + 65536].fill(0x33);
    family.model[128 << 10..640 << 10].fill(0);
    family.paths.push(theirs);
    family.assert_read("a layer of qemu");
    family.add_written(9);
    family.assert_read("ours over it");
    let raw = folder.path().join("judge.raw");
    std::fs::write(&raw, &family.model).unwrap();
    qemu::assert_reads(family.top(), "vmdk", &raw, "ours over qemu's");
}

/// qemu and we write to the same image in turns, and neither loses what the other wrote.
#[test]
fn we_and_qemu_write_in_turns() {
    if !Tool::Qemu.there() {
        return;
    }
    for (seed, variant) in VARIANTS.into_iter().enumerate() {
        let Some(format) = variant.qemu().filter(|_| !variant.is_stream()) else { continue };
        let folder = tempfile::tempdir().unwrap();
        let mut rng = fastrand::Rng::with_seed(seed as u64);
        let raw = folder.path().join("judge.raw");
        let content = Content::random(4 << 20, seed as u64);
        write_raw(&raw, &content);
        let source = open_as(Format::Raw).open(&raw).unwrap();
        let path = folder.path().join(variant.name());
        convert(&source, &path, &variant.new_image(source.len())).unwrap();
        let mut model = content.bytes().to_vec();
        for round in 0..4 {
            let context = format!("{} round {round}", variant.name());
            let mut commands = Vec::new();
            for _ in 0..6 {
                let at = rng.usize(0..model.len() / 512) * 512;
                let len = (rng.usize(1..400) * 512).min(model.len() - at);
                let value = rng.u8(1..);
                model[at..at + len].fill(value);
                commands.push(format!("write -P {value} {at} {len}"));
            }
            let mut args = vec!["-f", format];
            commands.iter().for_each(|command| args.extend(["-c", command]));
            args.push(arg(&path));
            must("qemu-io", &args);
            assert_clean(&path, &open_as(variant.format), &context);

            let mut image = open_as(variant.format).open_rw(&path).unwrap();
            assert!(bytes_of(&image) == model, "{context}: what qemu wrote");
            let size = model.len() as u64 + (1 << 20) + 512;
            image.resize(size).unwrap();
            model.resize(size as usize, 0);
            for _ in 0..6 {
                let at = rng.usize(0..model.len());
                let len = rng.usize(1..200_000).min(model.len() - at);
                if rng.bool() {
                    rng.fill(&mut model[at..at + len]);
                    image.write_at(&model[at..at + len], at as u64).unwrap();
                } else {
                    model[at..at + len].fill(0);
                    image.zero(at as u64..(at + len) as u64).unwrap();
                }
            }
            image.close().unwrap();
            std::fs::write(&raw, &model).unwrap();
            qemu::assert_reads(&path, format, &raw, &context);
            if format == "vhdx" || variant.list.ends_with("Sparse") {
                qemu::assert_clean(&path, format, &context);
            }
        }
    }
}

/// Names of files that are hard for descriptors, locators and shells.
#[test]
fn odd_names_are_kept() {
    let has_qemu = Tool::Qemu.there();
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("source.img");
    let content = Content::random(2 << 20, 8);
    write_raw(&raw, &content);
    let source = open_as(Format::Raw).open(&raw).unwrap();
    for name in
        ["with space", "ünïcödé-日本語", "a=b,c", "#hash", "UPPER.lower.more", "-dash", "'q"]
    {
        for variant in VARIANTS {
            let context = format!("{name}: {}", variant.name());
            let path = folder.path().join(format!("{name}.{}", variant.format));
            convert(&source, &path, &variant.new_image(source.len()))
                .unwrap_or_else(|e| panic!("{context}: {e}"));
            let copy = open_as(variant.format).open(&path).unwrap();
            assert!(bytes_of(&copy) == content.bytes(), "{context}");
            if has_qemu && let Some(format) = variant.qemu() {
                qemu::assert_reads(&path, format, &raw, &context);
            }
            if variant.format != Format::Raw {
                let child = folder.path().join(format!("{name} child.{}", variant.format));
                let (open, list) = (OpenOptions::new(), []);
                vdisk::create_child(&child, variant.format, &path, &open, &list, true).unwrap();
                assert!(bytes_of(&Image::open(&child).unwrap()) == content.bytes(), "{context}");
                if has_qemu && variant.format == Format::Vmdk {
                    qemu::assert_reads(&child, "vmdk", &raw, &context);
                }
            }
        }
    }
    // What a descriptor cannot hold is refused rather than mangled.
    let variant = Variant { format: Format::Vmdk, list: "subformat=monolithicFlat" };
    for name in ["quote\".vmdk", "line\nbreak.vmdk"] {
        let path = folder.path().join(name);
        let error = convert(&source, &path, &variant.new_image(source.len())).unwrap_err();
        assert_eq!(error.kind(), vdisk::ErrorKind::Usage, "{error}");
        assert!(!path.exists());
    }
}

/// Sizes around the edges of the formats' geometry, exact for everybody.
#[test]
fn virtual_sizes_are_exact() {
    if !Tool::Qemu.there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for size in [512, 8 << 20, (127 << 30) + 512, (2040 << 30) - 512] {
        for variant in VARIANTS {
            let Some(format) = variant.qemu() else { continue };
            let path = folder.path().join(variant.name());
            vdisk::create(&path, &variant.new_image(size), true).unwrap();
            let context = format!("{size} in {}", variant.name());
            assert_eq!(qemu::virtual_size(&path, format), size, "{context}");
            assert_eq!(open_as(variant.format).open(&path).unwrap().len(), size, "{context}");
        }
    }
}
