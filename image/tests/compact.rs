//! Making images smaller: content, identity and size before and after, foreign programs as judges,
//! chains whose children stay valid. Power cuts: `cargo xtask crash`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod chains;
mod common;

use std::path::Path;

use chains::{Chain, FORMATS, assert_holds, assert_reads};
use common::{VARIANTS, Variant, bytes_of, open_as};
use vdisk::{
    CompactReport, CompactRequest, CopyOptions, ErrorKind, Format, HostFile, Image, OpenOptions,
    Ranges, Result, Watch, ZeroSearch,
};
use vdisk_testkit::tools::{
    Tool, dissect_digest, libvhdi_digest, libvmdk_digest, qemu, sha256_file,
};

const SIZE: usize = 9 << 20;

fn compact(path: &Path, options: &OpenOptions, dry_run: bool) -> Result<CompactReport> {
    let request = CompactRequest { dry_run, threads: 2, ..CompactRequest::default() };
    vdisk::compact(path, options, &request, Watch::default())
}

/// Data, whole blocks of zeros, and zeros in parts of blocks.
fn content(seed: u64) -> Vec<u8> {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut bytes = vec![0; SIZE];
    rng.fill(&mut bytes);
    for _ in 0..6 {
        let start = rng.usize(0..SIZE / 65536) * 65536;
        let end = (start + rng.usize(1..40) * 65536).min(SIZE);
        bytes[start..end].fill(0);
    }
    for _ in 0..6 {
        let start = rng.usize(0..SIZE - 100_000);
        bytes[start..start + rng.usize(1..100_000)].fill(0);
    }
    bytes
}

/// A new image of the raw file's content; `zeros`: stored as data.
fn make(variant: &Variant, raw: &Path, path: &Path, zeros: bool) {
    let source = open_as(Format::Raw).open(raw).unwrap();
    let new = variant.new_image(SIZE as u64);
    let search = if zeros { ZeroSearch::Off } else { ZeroSearch::Auto };
    let options = CopyOptions { zero_search: search, threads: 2, skip: None };
    vdisk::convert(&source, path, &new, true, &options, Watch::default()).unwrap();
}

fn allocated(path: &Path) -> u64 {
    let folder = path.parent().unwrap();
    let stem = path.file_stem().unwrap().to_str().unwrap();
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let own = files.filter(|file| file.file_name().unwrap().to_str().unwrap().starts_with(stem));
    own.map(|file| HostFile::open(file).unwrap().allocated().unwrap()).sum()
}

#[test]
fn every_variant_gets_as_small_as_a_new_image() {
    for (seed, variant) in VARIANTS.iter().enumerate().filter(|(_, v)| !v.is_stream()) {
        let temp = tempfile::tempdir().unwrap();
        let raw = temp.path().join("raw");
        std::fs::write(&raw, content(seed as u64)).unwrap();
        let context = variant.name();
        let path = temp.path().join(format!("a.{}", variant.format));
        make(variant, &raw, &path, true);
        let options = open_as(variant.format);
        let before = options.open(&path).unwrap();
        let identity = before.info().identity.clone();
        drop(before);

        let file = sha256_file(&path);
        let stored = allocated(&path);
        let plan = compact(&path, &options, true).unwrap();
        assert_eq!(sha256_file(&path), file, "{context}: a dry run wrote");
        let done = compact(&path, &options, false).unwrap();
        assert_eq!(plan.blocks_released, done.blocks_released, "{context}");
        assert_eq!(plan.blocks_moved, done.blocks_moved, "{context}");
        assert_eq!(plan.size_after, done.size_after, "{context}");
        assert_eq!(plan.bytes_punched, done.bytes_punched, "{context}");
        if done.block_size.is_none_or(|size| size <= 1 << 20) {
            let given_back = done.blocks_released > 0 || done.bytes_punched > 0;
            assert!(given_back && allocated(&path) + (1 << 20) <= stored, "{context}: {done:?}");
        }

        let after = options.open(&path).unwrap();
        assert_eq!(after.info().identity, identity, "{context}");
        assert!(bytes_of(&after) == std::fs::read(&raw).unwrap(), "{context}");
        drop(after);
        let fresh = temp.path().join(format!("b.{}", variant.format));
        make(variant, &raw, &fresh, false);
        let length = |path: &Path| std::fs::metadata(path).unwrap().len();
        assert_eq!(length(&path), length(&fresh), "{context}");
        let report = vdisk::check(&path, &options).unwrap();
        assert_eq!((report.corruptions, report.leaks), (0, 0), "{context}: {:?}", report.findings);
        judge(variant, &path, &raw, &context);

        let file = sha256_file(&path);
        let again = compact(&path, &options, false).unwrap();
        assert_eq!((again.blocks_released, again.blocks_moved, again.bytes_punched), (0, 0, 0));
        assert_eq!(sha256_file(&path), file, "{context}: nothing was left to do");
    }
}

fn judge(variant: &Variant, path: &Path, raw: &Path, context: &str) {
    if let Some(format) = variant.qemu()
        && Tool::Qemu.there()
    {
        qemu::assert_reads(path, format, raw, context);
    }
    let digest = sha256_file(raw);
    match variant.format {
        Format::Vmdk if Tool::Libvmdk.there() => {
            assert_eq!(libvmdk_digest(&[path]), digest, "{context}: libvmdk");
        }
        Format::Vhd | Format::Vhdx if Tool::Libvhdi.there() => {
            assert_eq!(libvhdi_digest(&[path]), digest, "{context}: libvhdi");
        }
        _ => {}
    }
    let class = match variant.format {
        Format::Raw => return,
        Format::Vhd => "vhd.VHD",
        Format::Vhdx => "vhdx.VHDX",
        Format::Vmdk => "vmdk.VMDK",
    };
    if Tool::Dissect.there() {
        assert_eq!(dissect_digest(class, path), digest, "{context}: dissect");
    }
}

#[test]
fn what_is_only_read_is_refused_untouched() {
    let temp = tempfile::tempdir().unwrap();
    let raw = temp.path().join("raw");
    std::fs::write(&raw, content(1)).unwrap();
    let stream = VARIANTS.iter().find(|variant| variant.is_stream()).unwrap();
    let path = temp.path().join("a.vmdk");
    make(stream, &raw, &path, true);
    let file = sha256_file(&path);
    for dry_run in [true, false] {
        let error = compact(&path, &OpenOptions::new(), dry_run).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(error.advice().unwrap().contains("convert"), "{error}");
    }
    assert_eq!(sha256_file(&path), file);
}

/// A chain in which every image stores zeros as data, some of them over its parent's bytes.
fn chain(format: (Format, &'static str, &'static str), seed: u64) -> Chain {
    let mut rng = fastrand::Rng::with_seed(seed);
    let mut chain = Chain::new(format, 0, seed);
    for depth in 0..=2 {
        if depth > 0 {
            chain.add_child(&format!("child{depth}"), format.2, seed + depth);
        }
        let view = chain.views.last_mut().unwrap();
        let mut image = OpenOptions::new().open_rw(chain.paths.last().unwrap()).unwrap();
        for _ in 0..5 {
            let unit = [65536, 1 << 19, 1 << 20][rng.usize(0..3)];
            let start = rng.usize(0..view.len() / unit) * unit;
            let end = (start + unit).min(view.len());
            view[start..end].fill(0);
            image.write_at(&vec![0; end - start], start as u64).unwrap();
        }
        image.close().unwrap();
    }
    chain
}

fn assert_views(chain: &Chain, context: &str) {
    for (path, view) in chain.paths.iter().zip(&chain.views) {
        let image = Image::open(path).unwrap_or_else(|e| panic!("{context}: {e}"));
        assert_holds(&image, view, &format!("{context}: {}", path.display()));
    }
}

#[test]
fn every_image_of_a_chain_is_compacted_and_its_children_stay_valid() {
    for format in FORMATS {
        let mut released = 0;
        for seed in 50..54 {
            let chain = chain(format, seed);
            for (index, path) in chain.paths.iter().enumerate() {
                let context = format!("{} seed {seed} image {index}", format.0);
                released += compact(path, &OpenOptions::new(), false).unwrap().blocks_released;
                assert_views(&chain, &context);
                assert_reads(path, &chain.views[index], &context);
            }
            let (top, context) = (chain.views.len() - 1, format!("{} seed {seed}", format.0));
            chain.judge(&chain.paths, &chain.views[top], &context);
        }
        assert!(released > 5, "{}: {released}", format.0);
    }
}

#[test]
fn free_space_goes_where_no_child_stands_on_it() {
    for format in FORMATS {
        let chain = chain(format, 70);
        // What a file system would call free: everything from 1 MiB on, to a crooked end.
        let mut free = Ranges::new();
        free.push(1 << 20..(3 << 20) + 100);
        let request = CompactRequest { free: Some(&free), ..CompactRequest::default() };
        let run =
            |path: &Path| vdisk::compact(path, &OpenOptions::new(), &request, Watch::default());
        let error = run(&chain.paths[0]).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert_views(&chain, "refused");

        let top = chain.top();
        let before = Image::open(top).unwrap().info().identity.clone();
        let done = run(top).unwrap();
        assert!(done.remarks.iter().any(|remark| remark.contains("children")));
        let image = Image::open(top).unwrap();
        let found = bytes_of(&image);
        let view = chain.views.last().unwrap();
        let needed = |at: usize| !(1 << 20..(3 << 20) + 100).contains(&at);
        for (at, (byte, was)) in found.iter().zip(view).enumerate() {
            assert!(byte == was || *byte == 0 && !needed(at), "{}: byte {at}", format.0);
        }
        let changed = image.info().identity != before;
        assert_eq!(changed, done.blocks_released > 0 && format.0 != Format::Vhd, "{done:?}");
    }
}
