//! Real images, made by other people's software: what they hold is known, and stays the same in
//! every format we write.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use common::{VARIANTS, assert_clean, assert_same, convert, digests_below, open_as};
use vdisk::{
    Algorithm, CompactRequest, Disk, ErrorKind, Format, Image, OpenOptions, Watch, checksum,
};
use vdisk_testkit::corpus::{Sample, folder, unpack};
use vdisk_testkit::tools::{Tool, libvhdi_digest, qemu, sha256_file};

/// Beyond this size an image without data is judged by its map: hashing zeros takes minutes.
const MOST_HASHED: u64 = 16 << 30;

fn open(sample: &Sample) -> vdisk::Result<Image> {
    open_as(sample.format).open(&sample.path)
}

fn is_all_zero(image: &Image) -> bool {
    image.extents(0..image.len()).all(|extent| extent.unwrap().is_zero())
}

fn sha256(image: &Image) -> vdisk::Result<String> {
    checksum(image, Algorithm::Sha256, 4, Watch::default())
}

/// Unpacking takes seconds, so that all that only reads shares it.
#[test]
fn every_image_holds_what_the_manifest_says() {
    let Some(corpus) = folder() else { return };
    let temp = tempfile::tempdir().unwrap();
    let samples = unpack(&corpus, temp.path());
    let before = digests_below(temp.path());
    contents_are_right(&samples);
    damage_is_named(&samples);
    a_truncated_image_never_reads_as_zeros(&samples);
    raw_images_are_not_guessed(&samples);
    sound_images_check_clean(&samples);
    assert_eq!(digests_below(temp.path()), before, "reading changed a file");
    compacted_images_hold_the_same(&samples);
}

/// Compacts every image where it stands; its children are among the others.
fn compacted_images_hold_the_same(samples: &[Sample]) {
    let mut smaller = 0;
    for sample in samples.iter().filter(|sample| sample.digest.is_some()) {
        let name = &sample.name;
        let options = open_as(sample.format);
        let request = CompactRequest { threads: 4, ..CompactRequest::default() };
        match vdisk::compact(&sample.path, &options, &request, Watch::default()) {
            Ok(report) => {
                assert!(report.size_after <= report.size_before, "{name}: {report:?}");
                smaller += u32::from(report.size_after < report.size_before);
                let again = vdisk::compact(&sample.path, &options, &request, Watch::default());
                let again = again.unwrap_or_else(|e| panic!("{name}: {e}"));
                let left = (again.blocks_released, again.blocks_moved);
                assert_eq!((left, again.size_after), ((0, 0), report.size_after), "{name}");
            }
            // What cannot be written: streams, foreign extents, damage that reading tolerates.
            Err(error) => {
                eprintln!("{name}: {error}");
                assert!(error.advice().is_some() || sample.may_fail, "{name}: {error}");
            }
        }
    }
    eprintln!("{smaller} images of the corpus got smaller");
    assert!(smaller > 5, "{smaller}");
    contents_are_right(samples);
    sound_images_check_clean(samples);
}

fn contents_are_right(samples: &[Sample]) {
    assert!(samples.len() >= 45, "only {} images", samples.len());
    let mut wrong = Vec::new();
    for sample in samples {
        let name = &sample.name;
        let opened = open(sample);
        if let (Ok(image), Some(size)) = (&opened, sample.virtual_size)
            && image.len() != size
        {
            wrong.push(format!("{name}: {} bytes instead of {size}", image.len()));
        }
        let found = match opened {
            Ok(image) if image.len() > MOST_HASHED && is_all_zero(&image) => {
                assert!(sample.digest.is_some(), "{name}");
                continue;
            }
            Ok(image) => sha256(&image),
            Err(error) => Err(error),
        };
        match (found, &sample.digest) {
            (Ok(found), Some(expected)) if found == *expected => {}
            (Ok(found), expected) => wrong.push(format!("{name}: {found}, not {expected:?}")),
            (Err(error), _) if sample.may_fail => {
                let kinds = [
                    ErrorKind::Corrupt,
                    ErrorKind::Truncated,
                    ErrorKind::ParentMissing,
                    ErrorKind::Unsupported,
                ];
                let named = error.path().is_some_and(|path| path == sample.path);
                if !kinds.contains(&error.kind()) || !named || error.message().is_empty() {
                    wrong.push(format!("{name}: a poor error: {error} ({:?})", error.kind()));
                }
                eprintln!("{name}: {error}");
            }
            (Err(error), _) => wrong.push(format!("{name}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

fn named<'a>(samples: &'a [Sample], name: &str) -> &'a Sample {
    samples.iter().find(|sample| sample.name == name).unwrap_or_else(|| panic!("no {name}"))
}

fn damage_is_named(samples: &[Sample]) {
    use ErrorKind::{Corrupt, ParentMissing, Truncated};
    for (name, kind, word) in [
        ("vhd_corrupt_afl5_qemu-iotests.vhd", Truncated, "dynamic header"),
        ("vhdx_derived-bothhdr-badcrc.vhdx", Corrupt, "header"),
        ("vmdk_missing-extents_ms3-win_vmdk-forensic.vmdk", ParentMissing, "-s001.vmdk"),
        ("vmdk_vmfs-thick_vmdk-rs/vmfs_thick-000001.vmdk", ParentMissing, "-000001-delta.vmdk"),
    ] {
        let sample = named(samples, name);
        let error = open(sample).unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
        assert!(error.to_string().contains(word), "{error}");
        assert_eq!(error.path(), Some(&*sample.path), "{error}");
        if kind == ParentMissing {
            assert!(error.advice().unwrap().contains("--parent-dir"), "{:?}", error.advice());
        } else {
            assert!(error.offset().is_some() && error.structure().is_some(), "{error}");
        }
    }
}

/// This damage may show only once the block is read.
fn a_truncated_image_never_reads_as_zeros(samples: &[Sample]) {
    let sample = named(samples, "vhdx_derived-truncated.vhdx");
    let error = match open(sample) {
        Ok(image) => sha256(&image).unwrap_err(),
        Err(error) => error,
    };
    assert!(matches!(error.kind(), ErrorKind::Truncated | ErrorKind::Corrupt), "{error}");
    assert_eq!(error.path(), Some(&*sample.path), "{error}");
    let report = vdisk::check(&sample.path, &OpenOptions::new()).unwrap();
    assert!(report.corruptions > 0, "{report:?}");
}

fn raw_images_are_not_guessed(samples: &[Sample]) {
    let raws: Vec<_> = samples.iter().filter(|sample| sample.format == Format::Raw).collect();
    assert!(raws.len() >= 9);
    for sample in raws {
        let error = Image::open(&sample.path).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::UnknownFormat, "{error}");
        assert!(error.advice().unwrap().contains("-f raw"), "{error}");
    }
}

fn sound_images_check_clean(samples: &[Sample]) {
    for sample in samples {
        // Footers that are missing or of 511 bytes are findings, and rightly so.
        if sample.may_fail || sample.name.contains("derived") {
            continue;
        }
        let report = vdisk::check(&sample.path, &open_as(sample.format)).unwrap();
        // The one's writer was killed before it came to use the space it had made, the other's
        // leaves half a KiB behind the last block.
        let leaks = ["dirtylog", "disk2vhd"].iter().any(|name| sample.name.contains(name));
        let clean = report.corruptions == 0 && (leaks || report.leaks == 0);
        assert!(clean, "{}: {:?}", sample.name, report.findings);
    }
}

/// Every image in every format we write, read again by us and by programs that are not ours.
#[test]
fn every_image_becomes_every_format() {
    let Some(corpus) = folder() else { return };
    let (has_qemu, has_libvhdi) = (Tool::Qemu.there(), Tool::Libvhdi.there());
    let temp = tempfile::tempdir().unwrap();
    let (sources, outputs) = (temp.path().join("in"), temp.path().join("out"));
    std::fs::create_dir(&outputs).unwrap();
    let samples = unpack(&corpus, &sources);
    let before = digests_below(&sources);
    let mut judged_contents = Vec::new();
    for sample in &samples {
        let Some(digest) = &sample.digest else { continue };
        let Ok(source) = open(sample) else { continue };
        // Programs that do not see holes would read all of a large empty disk; and to judge the
        // same content once is enough.
        let judged = source.len() <= 64 << 20 && !judged_contents.contains(digest);
        judged_contents.push(digest.clone());
        let raw = outputs.join("judge.raw");
        if judged {
            convert(&source, &raw, &VARIANTS[0].new_image(source.len())).unwrap();
            assert_eq!(sha256_file(&raw), *digest, "{}", sample.name);
        }
        for variant in VARIANTS {
            let context = format!("{} to {}", sample.name, variant.name());
            let path = outputs.join(variant.name());
            let new = variant.new_image(source.len());
            convert(&source, &path, &new).unwrap_or_else(|e| panic!("{context}: {e}"));
            let copy = open_as(variant.format).open(&path).unwrap();
            assert_eq!(copy.len(), new.virtual_size(), "{context}");
            assert_same(&source, &copy, &context);
            assert_clean(&path, &open_as(variant.format), &context);
            // What was rounded up to whole sectors is another disk to the judges.
            if !judged || copy.len() != source.len() {
                continue;
            }
            if has_qemu && let Some(format) = variant.qemu() {
                qemu::assert_reads(&path, format, &raw, &context);
            }
            if has_libvhdi && variant.is_4k() {
                assert_eq!(libvhdi_digest(&[&path]), *digest, "{context}");
            }
        }
    }
    assert_eq!(digests_below(&sources), before, "converting changed a source");
}
