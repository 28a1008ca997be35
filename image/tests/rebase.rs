//! Another parent: every view before and after, foreign programs as judges. Power cuts and hosts
//! that fail: `cargo xtask crash`.
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

use chains::{Chain, FORMATS, SIZE};
use vdisk::{ErrorKind, Image, OpenOptions, RebaseReport, RebaseRequest, Result, Watch};

fn rebase(path: &Path, parent: &Path, options: &OpenOptions) -> Result<RebaseReport> {
    let request = RebaseRequest { threads: 2, ..RebaseRequest::new(parent) };
    vdisk::rebase(path, options, &request, Watch::default())
}

fn relink(path: &Path, parent: &Path) -> Result<RebaseReport> {
    let request = RebaseRequest { link_only: true, ..RebaseRequest::new(parent) };
    vdisk::rebase(path, &OpenOptions::new(), &request, Watch::default())
}

fn identity(path: &Path) -> Option<String> {
    Image::open(path).unwrap().info().identity.clone()
}

/// A chain, and beside it a base of other content whose name is longer.
fn with_another_base(
    format: (vdisk::Format, &'static str, &'static str),
    depth: usize,
    seed: u64,
) -> (Chain, usize) {
    let mut chain = Chain::new(format, depth, seed);
    let folder = chain.folder().join("a folder with a rather long name, so that the path moves");
    std::fs::create_dir(&folder).unwrap();
    let name = format!("a folder with a rather long name, so that the path moves/other {seed}");
    chain.add_base(&name, format.1, SIZE, seed + 1000);
    (chain, depth)
}

#[test]
fn content_is_kept_on_any_parent() {
    for format in FORMATS {
        for depth in 1..=4 {
            let (chain, top) = with_another_base(format, depth, 40 + depth as u64);
            let path = &chain.paths[top];
            let before = identity(path);
            // To another base, to each ancestor of the old chain, and back to where it stood.
            let mut parents = vec![top + 1];
            parents.extend((0..top).rev());
            for parent in parents {
                let context = format!("{} depth {depth} onto {parent}", format.0);
                let report = rebase(path, &chain.paths[parent], &OpenOptions::new()).unwrap();
                assert!(!report.link_only && !report.dry_run, "{context}");
                assert_eq!(identity(path), before, "{context}");
                chain.assert_view(top, &context);
                let image = Image::open(path).unwrap();
                assert!(image.files()[1].path.ends_with(chain.paths[parent].file_name().unwrap()));
                drop(image);
                chain.assert_view(parent, &context);
                let mut judged = match parent > top {
                    true => vec![chain.paths[parent].clone()],
                    false => chain.paths[..=parent].to_vec(),
                };
                judged.push(path.clone());
                chain.judge(&judged, &chain.views[top], &context);
                let again = rebase(path, &chain.paths[parent], &OpenOptions::new()).unwrap();
                assert_eq!(again.copied, 0, "{context}");
            }
        }
    }
}

#[test]
fn children_of_the_image_stay_valid() {
    for format in FORMATS {
        let (chain, top) = with_another_base(format, 3, 51);
        let middle = top - 1;
        rebase(&chain.paths[middle], chain.top(), &OpenOptions::new()).unwrap();
        chain.assert_view(middle, "rebased");
        chain.assert_view(top, "its child");
    }
}

#[test]
fn a_link_alone_mends_a_moved_folder_and_a_changed_identity() {
    for format in FORMATS {
        let chain = Chain::new(format, 2, 61);
        let moved = chain.folder().join("moved");
        std::fs::create_dir(&moved).unwrap();
        let base = moved.join("renamed base");
        std::fs::rename(&chain.paths[0], &base).unwrap();
        assert_eq!(Image::open(chain.top()).unwrap_err().kind(), ErrorKind::ParentMissing);
        relink(&chain.paths[1], &base).unwrap();
        chain.assert_view(2, "moved");
        // A write of what is there already changes nothing but the identity.
        let mut image = OpenOptions::new().open_rw(&base).unwrap();
        image.write_at(&chain.views[0][..512], 0).unwrap();
        image.close().unwrap();
        let broken = Image::open(chain.top()).err().map(|error| error.kind());
        let expected = (format.0 != vdisk::Format::Vhd).then_some(ErrorKind::ParentMismatch);
        assert_eq!(broken, expected);
        let report = relink(&chain.paths[1], &base).unwrap();
        assert!(report.link_only && report.copied == 0);
        for index in 1..3 {
            chain.assert_view(index, "identity");
        }
    }
}

#[test]
fn a_dry_run_tells_the_work_and_changes_nothing() {
    for format in FORMATS {
        let (chain, top) = with_another_base(format, 2, 71);
        let before = std::fs::read(&chain.paths[top]).unwrap();
        let parent = chain.top();
        let request = RebaseRequest { dry_run: true, ..RebaseRequest::new(parent) };
        let options = OpenOptions::new();
        let told = vdisk::rebase(&chain.paths[top], &options, &request, Watch::default()).unwrap();
        assert!(told.dry_run);
        assert!(std::fs::read(&chain.paths[top]).unwrap() == before);
        let done = rebase(&chain.paths[top], parent, &options).unwrap();
        // Whole granules are taken over, so less may be left to do than was told.
        assert!(done.copied > 0 && done.copied <= told.copied, "{done:?} {told:?}");
    }
}

#[test]
fn what_cannot_be_is_refused() {
    for format in FORMATS {
        let mut chain = Chain::new(format, 2, 81);
        let small = if format.0 == vdisk::Format::Vhdx { "block_size=1M" } else { "" };
        chain.add_base("larger", small, SIZE + (1 << 20), 1);
        let [base, child, top, larger] = [0, 1, 2, 3].map(|index| chain.paths[index].clone());
        let other = if format.0 == vdisk::Format::Vhd { FORMATS[1] } else { FORMATS[0] };
        let foreign = Chain::new(other, 0, 1);
        for only_link in [false, true] {
            let kind = |path: &Path, parent: &Path| {
                let request = RebaseRequest { link_only: only_link, ..RebaseRequest::new(parent) };
                vdisk::rebase(path, &OpenOptions::new(), &request, Watch::default())
                    .unwrap_err()
                    .kind()
            };
            assert_eq!(kind(&child, &child), ErrorKind::ParentCycle);
            assert_eq!(kind(&child, &top), ErrorKind::ParentCycle);
            assert_eq!(kind(&base, &top), ErrorKind::Unsupported);
            assert_eq!(kind(&top, &larger), ErrorKind::Refused);
            assert_eq!(kind(&top, foreign.top()), ErrorKind::Unsupported);
            assert_eq!(kind(&top, Path::new("/nowhere")), ErrorKind::NotFound);
        }
        for index in 0..3 {
            chain.assert_view(index, "refused");
        }
    }
}

#[test]
fn the_old_parent_is_needed_to_keep_content() {
    for format in FORMATS {
        let (chain, top) = with_another_base(format, 1, 91);
        let away = chain.folder().join("away");
        std::fs::rename(&chain.paths[0], &away).unwrap();
        let error = rebase(&chain.paths[top], chain.top(), &OpenOptions::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ParentMissing);
        assert!(error.advice().unwrap().contains("-u"), "{error}");
        let named = OpenOptions::new().parent(&away);
        rebase(&chain.paths[top], chain.top(), &named).unwrap();
        chain.assert_view(top, "old parent named");
    }
}
