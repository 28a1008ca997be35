//! A Windows whose volume has shadow copies is changed, and the plan tells what becomes of them.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::fs;
use std::os::unix::fs::FileExt;

use common::{Spec, machine, windows};
use vdisk_fixup::{AdaptOptions, Identity, Notice, Plan, StripOptions, Target, adapt, strip};

const ID: &str = "windows.shadow-copies";
/// What stands in sector 15 of a volume that has some: what it is, and where their catalog is.
const HEADER: [u8; 16] = [
    0x6B, 0x87, 0x08, 0x38, 0x76, 0xC1, 0x48, 0x4E, 0xB7, 0xAE, 0x04, 0x04, 0x6E, 0x6C, 0xC7, 0x52,
];

#[test]
fn shadow_copies_are_told_of() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = windows(folder.path(), &Spec::SEVEN, |_| {}) else { return };
    let warned = || -> Vec<Notice> {
        let (mut machine, mut plan) = (machine(&disk), Plan::default());
        let options = StripOptions { identity: Identity::Keep, ..StripOptions::default() };
        strip(&mut machine, &options, &mut plan).unwrap();
        adapt(&mut machine, &AdaptOptions::new(Target::HyperVGen1), &mut plan).unwrap();
        assert_eq!(plan.refusals, []);
        assert!(!machine.changes().unwrap().is_empty());
        plan.warnings.into_iter().filter(|one| one.id == ID).collect()
    };
    assert_eq!(warned(), []);
    let place = machine(&disk).table(0).unwrap().partitions[0].start + 0x1E00;
    let file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
    file.write_all_at(&HEADER, place).unwrap();
    assert_eq!(warned(), [], "there were some, and are no more");
    file.write_all_at(&0x4000_u64.to_le_bytes(), place + 48).unwrap();
    let [only] = &warned()[..] else { panic!("told once") };
    assert!(only.message.contains("partition 1"), "{}", only.message);
}
