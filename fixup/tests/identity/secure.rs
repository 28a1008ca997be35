//! The descriptors that files share.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use vdisk_core::{Change, CowDisk};
use vdisk_fixup::Machine;
use vdisk_fixup::windows::ntfs::{Ntfs, files, secure};
use vdisk_testkit::VecDisk;

use crate::common::original::OLD;
use crate::common::volume::{GIVE, judge, make, mounted};
use crate::swap;

/// Prints the descriptors of the files.
const TELL: &str = r#"
import ctypes, os, sys
# Python asks with a small buffer first, which ntfs-3g takes for a fault.
libc = ctypes.CDLL(None, use_errno=True)
room = ctypes.create_string_buffer(65536)
top = sys.argv[1] + '/files'
for name in sorted(os.listdir(top)):
    path = f'{top}/{name}'.encode()
    got = libc.getxattr(path, b'system.ntfs_acl', room, len(room))
    assert got > 0, (path, ctypes.get_errno())
    print(name, room.raw[:got].hex())
"#;

/// Gives one more file each descriptor there is: ntfs-3g looks them up by their hashes.
const SHARE: &str = r#"
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
room = ctypes.create_string_buffer(65536)
top = sys.argv[1]
open(top + '/one', 'w').write('x')
for name in os.listdir(top + '/files'):
    path = f'{top}/files/{name}'.encode()
    got = libc.getxattr(path, b'system.ntfs_acl', room, len(room))
    os.setxattr(top + '/one', 'system.ntfs_acl', room.raw[:got])
"#;

fn words(raw: &Path) -> usize {
    let volume = fs::read(raw).unwrap();
    memchr::memmem::find_iter(&volume, &OLD.words()).count()
}

fn stream(raw: &Path) -> Vec<u8> {
    let args = ["-f", "-a", "0x80", "-n", "$SDS", raw.to_str().unwrap(), "$Secure"];
    std::process::Command::new("ntfscat").args(args).output().unwrap().stdout
}

fn rewritten(raw: &Path, options: &[&str], count: usize) {
    let swap = swap();
    make(raw, 64, options);
    let [a, b, c] = OLD.0.map(|word| word.to_string());
    let args = [&count.to_string()[..], &a, &b, &c];
    if mounted(raw, GIVE, &args).is_none() {
        return;
    }
    let before = mounted(raw, TELL, &[]).unwrap();
    let hex = |bytes: [u8; 12]| bytes.map(|byte| format!("{byte:02x}")).concat();
    let expected = before.replace(&hex(swap.old.words()), &hex(swap.new.words()));
    assert_ne!(before, expected);

    let disk = Arc::new(CowDisk::new(Arc::new(VecDisk(fs::read(raw).unwrap())), 64 << 20));
    let ntfs = Ntfs::open(disk.clone()).unwrap();
    let all = secure::sound(&ntfs).unwrap();
    let changed = secure::rewrite(&ntfs, &swap).unwrap();
    assert!(changed > 0 && changed < all, "{changed} of {all}");
    assert_eq!(secure::sound(&ntfs).unwrap(), all);
    assert_eq!(secure::rewrite(&ntfs, &swap).unwrap(), 0, "a second run finds nothing");
    assert_eq!(files::rewrite(&ntfs, &swap).unwrap(), (0, 0));
    let mut volume = fs::read(raw).unwrap();
    for Change { offset, bytes } in disk.changes().unwrap() {
        volume[offset as usize..][..bytes.len()].copy_from_slice(&bytes);
    }
    fs::write(raw, volume).unwrap();

    judge(raw);
    assert_eq!(mounted(raw, TELL, &[]).unwrap(), expected);
    assert_eq!(words(raw), 0, "the old SID is nowhere on the volume");
    let descriptors = stream(raw);
    mounted(raw, SHARE, &[]).unwrap();
    assert_eq!(stream(raw), descriptors, "each descriptor was found by its hash");
    judge(raw);
}

#[test]
fn few_descriptors_in_the_record_itself() {
    let folder = tempfile::tempdir().unwrap();
    rewritten(&folder.path().join("few.raw"), &[], 4);
}

#[test]
fn many_descriptors_in_trees_and_several_blocks() {
    let folder = tempfile::tempdir().unwrap();
    rewritten(&folder.path().join("many.raw"), &[], 3000);
}

#[test]
fn clusters_larger_than_index_blocks_and_records() {
    let folder = tempfile::tempdir().unwrap();
    rewritten(&folder.path().join("large.raw"), &["-c", "65536"], 300);
    rewritten(&folder.path().join("small.raw"), &["-c", "512"], 300);
}

/// Volumes of the corpus, some of them Windows' own.
#[test]
fn real_volumes_are_sound() {
    let Some(corpus) = vdisk_testkit::corpus::folder() else { return };
    let folder = tempfile::tempdir().unwrap();
    let mut seen = 0;
    for sample in vdisk_testkit::corpus::unpack(&corpus, folder.path()) {
        if !sample.name.contains("ntfs") {
            continue;
        }
        let open = vdisk::OpenOptions::new().format(sample.format);
        let Ok(image) = open.open(&sample.path) else { continue };
        let Ok(mut machine) = Machine::open(Arc::new(image), 512) else { continue };
        for place in machine.places() {
            let Ok(volume) = machine.volume(&place) else { continue };
            let disk = volume.disk().clone();
            let Ok(ntfs) = Ntfs::open(disk.clone()) else { continue };
            let name = &sample.name;
            let count = secure::sound(&ntfs).unwrap_or_else(|error| panic!("{name}: {error}"));
            let found = files::find(&ntfs, &swap()).unwrap();
            assert!(count >= 2 && found.names.is_empty(), "{name}: {count} descriptors");
            assert_eq!(secure::rewrite(&ntfs, &swap()).unwrap(), 0);
            assert_eq!(files::rewrite(&ntfs, &swap()).unwrap(), (0, 0));
            assert_eq!(disk.changes().unwrap(), []);
            eprintln!("{name}: {count} descriptors");
            seen += 1;
        }
    }
    assert!(seen >= 5, "{seen}");
}

/// Whatever a volume holds: it ends, without a panic, and what is written then is sound.
#[test]
fn damaged_volumes_are_refused_or_sound() {
    let folder = tempfile::tempdir().unwrap();
    let raw = folder.path().join("damaged.raw");
    make(&raw, 8, &[]);
    let [a, b, c] = OLD.0.map(|word| word.to_string());
    if mounted(&raw, GIVE, &["60", &a, &b, &c]).is_none() {
        return;
    }
    let whole = fs::read(&raw).unwrap();
    let used: Vec<usize> = (0..whole.len())
        .step_by(512)
        .filter(|at| whole[*at..*at + 512].iter().any(|b| *b != 0))
        .collect();
    let base = Arc::new(VecDisk(whole));
    let mut rng = fastrand::Rng::with_seed(9);
    let (mut changed, mut refused) = (0, 0);
    for round in 0..400 {
        let disk = Arc::new(CowDisk::new(base.clone(), 64 << 20));
        for _ in 0..rng.usize(1..12) {
            // The boot sector and the first records now and then, else anywhere.
            let sector =
                used[if round % 4 == 0 { rng.usize(..40) } else { rng.usize(..used.len()) }];
            let at = (sector + rng.usize(..512)) as u64;
            let byte = [0, 1, 0x7f, 0xff, rng.u8(..)][rng.usize(..5)];
            disk.write_at(&[byte], at).unwrap();
        }
        let work = || -> vdisk_core::Result<usize> {
            let ntfs = Ntfs::open(disk.clone())?;
            files::find(&ntfs, &swap())?;
            let count = secure::rewrite(&ntfs, &swap())?;
            files::rewrite(&ntfs, &swap())?;
            secure::sound(&ntfs)?;
            Ok(count)
        };
        match work() {
            Ok(count) => changed += usize::from(count > 0),
            Err(error) => {
                assert_ne!(error.kind(), vdisk_core::ErrorKind::Internal, "{error}");
                refused += 1;
            }
        }
    }
    assert!(changed > 50 && refused > 10, "{changed} changed, {refused} refused");
}
