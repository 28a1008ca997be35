//! Merging chains down: every view before and after, foreign programs as judges. Power cuts and
//! hosts that fail: `cargo xtask crash`.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod chains;

use std::path::Path;

use chains::{Chain, FORMATS, SIZE, assert_holds, assert_reads, scribble};
use vdisk::{CommitReport, CommitRequest, ErrorKind, Format, Image, OpenOptions, Result, Watch};

fn commit(path: &Path, into: Option<&Path>, options: &OpenOptions) -> Result<CommitReport> {
    // What was between stays behind as a sibling.
    let request = CommitRequest { into, threads: 2, force: true, ..CommitRequest::default() };
    vdisk::commit(path, options, &request, Watch::default())
}

fn note_of(path: &Path) -> std::path::PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    path.with_file_name(format!(".{name}.vdisk-commit"))
}

/// Whether a child of the format finds out that its parent's content has changed.
fn tells(format: Format) -> bool {
    format != Format::Vhd
}

#[test]
fn into_every_ancestor_of_chains_of_every_depth() {
    for format in FORMATS {
        for depth in 1..=4 {
            for target in 0..depth {
                let seed = depth as u64 * 10 + target as u64;
                let chain = Chain::new(format, depth, seed);
                let context = format!("{} depth {depth} into {target}", format.0);
                let into = (target + 1 < depth).then(|| chain.paths[target].as_path());
                let report = commit(chain.top(), into, &OpenOptions::new()).unwrap();
                assert!(!report.resumed && !report.dry_run, "{context}");
                assert_eq!(report.invalid.len(), depth - target - 1, "{context}");
                check_committed(&chain, target, &context);
                if target == 0 || depth == 2 {
                    judge(&chain, target, &context);
                }
                // Once more: nothing is left to do, and nothing breaks.
                let again = commit(chain.top(), None, &OpenOptions::new()).unwrap();
                assert!(!again.resumed && again.invalid.is_empty(), "{context}");
                check_committed(&chain, target, &context);
            }
        }
    }
}

/// The top and the target read like the top did, what is below the target is as it was, and what
/// was between does not pretend to be.
fn check_committed(chain: &Chain, target: usize, context: &str) {
    let view = chain.views.last().unwrap();
    let depth = chain.paths.len() - 1;
    chain.assert_view(depth, context);
    assert_reads(&chain.paths[target], view, context);
    for below in 0..target {
        chain.assert_view(below, context);
    }
    for between in &chain.paths[target + 1..depth] {
        if tells(chain.format) {
            let error = Image::open(between).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::ParentMismatch, "{context}: {error}");
        }
    }
    assert!(!note_of(chain.top()).exists(), "{context}");
}

/// Foreign programs agree, with the target and with the top on it.
fn judge(chain: &Chain, target: usize, context: &str) {
    let view = chain.views.last().unwrap();
    let mut paths = chain.paths[..=target].to_vec();
    chain.judge(&paths, view, &format!("{context}: target"));
    paths.push(chain.top().to_owned());
    chain.judge(&paths, view, &format!("{context}: top"));
}

#[test]
fn into_parents_of_fixed_length() {
    for (format, fixed, child) in [
        (Format::Vhd, "subformat=fixed", "block_size=2M"),
        (Format::Vhdx, "subformat=fixed,block_size=1M", "block_size=2M"),
        (Format::Vhdx, "logical_sector_size=4096,block_size=1M", "block_size=1M"),
        (Format::Vmdk, "subformat=monolithicFlat", ""),
        (Format::Vmdk, "subformat=twoGbMaxExtentSparse", ""),
    ] {
        for seed in 0..3 {
            let mut chain = Chain::new((format, "", child), 0, seed);
            let size = SIZE / 4096 * 4096;
            chain.add_base("fixed", fixed, size, seed);
            chain.add_child("child", child, seed + 70);
            let context = format!("{format} {fixed} seed {seed}");
            commit(chain.top(), None, &OpenOptions::new()).unwrap();
            chain.assert_view(2, &context);
            assert_reads(&chain.paths[1], &chain.views[2], &context);
        }
    }
}

#[test]
fn siblings_are_told_where_the_format_can() {
    for format in FORMATS {
        let mut chain = Chain::new(format, 1, 5);
        let sibling = chain.path("sibling");
        let base = chain.paths[0].clone();
        vdisk::create_child(&sibling, format.0, &base, &OpenOptions::new(), &[], false).unwrap();
        let path = chain.top().to_owned();
        scribble(&path, &mut chain.views[1], 1);
        let careful = CommitRequest::default();
        let error = vdisk::commit(chain.top(), &OpenOptions::new(), &careful, Watch::default());
        let error = error.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
        assert!(error.to_string().contains("sibling"), "{error}");
        chain.assert_view(1, "refused");
        commit(chain.top(), None, &OpenOptions::new()).unwrap();
        assert_eq!(Image::open(&sibling).is_err(), tells(format.0), "{}", format.0);
    }
}

#[test]
fn grandchildren_of_the_image_stay_valid() {
    for format in FORMATS {
        let chain = Chain::new(format, 3, 17);
        commit(&chain.paths[2], None, &OpenOptions::new()).unwrap();
        chain.assert_view(2, "committed");
        chain.assert_view(3, "its child");
        assert_reads(&chain.paths[1], &chain.views[2], "its parent");
    }
}

#[test]
fn a_dry_run_changes_nothing() {
    for format in FORMATS {
        let chain = Chain::new(format, 2, 3);
        let before: Vec<_> = chain.paths.iter().map(|path| std::fs::read(path).unwrap()).collect();
        let into = Some(chain.paths[0].as_path());
        let request = CommitRequest { into, dry_run: true, ..CommitRequest::default() };
        let report =
            vdisk::commit(chain.top(), &OpenOptions::new(), &request, Watch::default()).unwrap();
        assert!(report.dry_run && report.data > 0, "{report:?}");
        assert_eq!(report.invalid.len(), 1);
        for (path, bytes) in chain.paths.iter().zip(before) {
            assert!(std::fs::read(path).unwrap() == bytes, "{}", path.display());
        }
    }
}

#[test]
fn what_cannot_be_is_refused_before_anything_changes() {
    for format in FORMATS {
        let chain = Chain::new(format, 2, 8);
        let kind = |path: &Path, into: Option<&Path>| {
            commit(path, into, &OpenOptions::new()).unwrap_err().kind()
        };
        assert_eq!(kind(&chain.paths[0], None), ErrorKind::Usage);
        assert_eq!(kind(chain.top(), Some(chain.top())), ErrorKind::Usage);
        assert_eq!(kind(&chain.paths[1], Some(chain.top())), ErrorKind::Usage);
        assert_eq!(kind(chain.top(), Some(Path::new("/nowhere"))), ErrorKind::NotFound);
        std::fs::write(note_of(chain.top()), "mine").unwrap();
        assert_eq!(kind(chain.top(), None), ErrorKind::Refused);
        for index in 0..3 {
            chain.assert_view(index, "refused");
        }
    }
}

#[test]
fn a_parent_that_is_too_small_is_refused_unless_only_zeros_stick_out() {
    let mut chain = Chain::new(FORMATS[0], 0, 4);
    chain.add_child("child", "block_size=512k", 100);
    // The tolerated but odd case of a parent that was made smaller after its child.
    let mut base = OpenOptions::new().open_rw(&chain.paths[0]).unwrap();
    base.resize(1 << 20).unwrap();
    base.close().unwrap();
    let view = chains::bytes_of(&Image::open(chain.top()).unwrap());
    let mut child = OpenOptions::new().open_rw(chain.top()).unwrap();
    child.write_at(b"far", SIZE - 3).unwrap();
    child.close().unwrap();
    let error = commit(chain.top(), None, &OpenOptions::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    let mut child = OpenOptions::new().open_rw(chain.top()).unwrap();
    child.zero(1 << 20..SIZE).unwrap();
    child.close().unwrap();
    commit(chain.top(), None, &OpenOptions::new()).unwrap();
    assert_holds(&Image::open(&chain.paths[0]).unwrap(), &view[..1 << 20], "smaller parent");
}
