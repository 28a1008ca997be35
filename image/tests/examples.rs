//! The examples do what they say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::path::PathBuf;
use std::process::{Command, Stdio};

use vdisk_testkit::tools::{arg, said, skip};

/// Where cargo puts an example; it builds them with every test run that names no single test.
fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("examples").join(name)
}

fn run(name: &str, args: &[&str]) -> String {
    let program = program(name);
    let done = Command::new(program).args(args).stdin(Stdio::null()).output().unwrap();
    assert!(done.status.success(), "{name} {args:?}: {}", said(&done));
    String::from_utf8(done.stdout).unwrap()
}

#[test]
fn examples_run() {
    if !program("create_and_write").exists() {
        return skip("examples", "not built; run cargo test without --test");
    }
    let folder = tempfile::tempdir().unwrap();
    let path = |name: &str| folder.path().join(name);
    let told = run("create_and_write", &[arg(folder.path())]);
    assert!(told.contains("\"written first\"") && told.contains("\"changed first\""), "{told}");
    let snapshot = path("snapshot.vhdx");
    let told = run("list_extents", &[arg(&snapshot)]);
    assert!(told.contains("layer 1: ") && told.contains("8192 of 12884901888 bytes"), "{told}");
    let copy = path("copy.vmdk");
    let told = run("convert", &[arg(&snapshot), arg(&copy), "subformat=streamOptimized"]);
    assert!(told.contains("of 12 GiB written"), "{told}");
    let told = run("read_at", &[arg(&copy)]);
    assert!(told.starts_with("vmdk (streamOptimized), 12884901888 bytes\n"), "{told}");
    assert_eq!(told.lines().count(), 1 + 64);
}
