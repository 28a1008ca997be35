//! Damaged volumes: whatever stands there, reading and changing them ends, and in order.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::sync::Arc;

use fastrand::Rng;
use vdisk_core::{CowDisk, Disk};
use vdisk_guest::fs::{Edit, FileKind, GuestFs, Unix, open, open_mut};
use vdisk_testkit::tree;
use vdisk_testkit::volumes::{VOLUMES, make};

/// Damaged copies of each volume. `VDISK_FS_DAMAGES` asks for more.
fn damages() -> u64 {
    std::env::var("VDISK_FS_DAMAGES").map_or(8, |number| number.parse().unwrap())
}

#[test]
fn damage_is_an_error_and_nothing_worse() {
    let folder = tempfile::tempdir().unwrap();
    let source = folder.path().join("tree");
    tree::fill(&source);
    for volume in VOLUMES {
        let image = folder.path().join("volume");
        if !make(volume, &image, Some(&source)) {
            continue;
        }
        let base = common::disk(&image);
        let used = used_sectors(&*base);
        for seed in 0..damages() {
            let mut rng = Rng::with_seed(seed);
            let disk = Arc::new(CowDisk::new(base.clone(), 256 << 20));
            damage(&disk, &used, &mut rng);
            if let Ok(Some(fs)) = open(disk.clone()) {
                let _ = fs.used();
                walk(&*fs, b"/", &mut 60);
            }
            let Ok(Some(mut fs)) = open_mut(disk.clone()) else { continue };
            let unix = Unix { mode: 0o644, uid: 0, gid: 0 };
            for edit in [
                Edit::Create { path: b"/new", content: &[1; 5000], unix },
                Edit::Replace { path: b"/small.txt", content: &[2; 9000] },
                Edit::Remove { path: b"/medium.bin" },
            ] {
                let before = disk.changes().unwrap();
                if fs.apply(&edit).is_err() {
                    assert!(disk.changes().unwrap() == before, "{volume:?} {seed}: {edit:?}");
                }
            }
        }
    }
}

/// Sectors that hold something: flips elsewhere change nothing.
fn used_sectors(disk: &dyn Disk) -> Vec<u64> {
    let mut piece = vec![0; 1 << 20];
    let mut used = Vec::new();
    for start in (0..disk.len()).step_by(piece.len()) {
        let len = piece.len().min((disk.len() - start) as usize);
        disk.read_at(&mut piece[..len], start).unwrap();
        let sectors = piece[..len].chunks(512).enumerate();
        used.extend(
            sectors
                .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
                .map(|(number, _)| start + number as u64 * 512),
        );
    }
    used
}

/// Some bytes changed, mostly near the start, where the structures are that lead to the others.
fn damage(disk: &CowDisk, used: &[u64], rng: &mut Rng) {
    for _ in 0..rng.usize(1..12) {
        let near = if rng.bool() { used.len().min(200) } else { used.len() };
        let at = used[rng.usize(..near)] + rng.u64(..508);
        let value = match rng.u8(..4) {
            0 => [0; 4],
            1 => [0xff; 4],
            2 => rng.u32(..).to_le_bytes(),
            _ => {
                disk.write_at(&[rng.u8(..)], at).unwrap();
                continue;
            }
        };
        disk.write_at(&value, at).unwrap();
    }
}

fn walk(fs: &dyn GuestFs, path: &[u8], left: &mut usize) {
    let Ok(entries) = fs.read_dir(path) else { return };
    for entry in entries {
        if *left == 0 {
            return;
        }
        *left -= 1;
        let inner = [path, b"/", &entry.name].concat();
        let mut piece = vec![0; 20_000];
        let _ = fs.stat(&inner);
        let _ = fs.read_link(&inner);
        let _ = fs.read_at(&inner, 0, &mut piece);
        let _ = fs.read_at(&inner, 599_000, &mut piece);
        if entry.kind == FileKind::Directory {
            walk(fs, &inner, left);
        }
    }
}
