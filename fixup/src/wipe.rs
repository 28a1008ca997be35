//! What was secret is written over before it goes: what a file system lets go of stays readable.

use vdisk_core::{ErrorKind, Result};
use vdisk_guest::fs::{Edit, FileKind, GuestFsMut};

/// Bytes of a file that is written over, at most; longer ones are no keys.
const MOST: u64 = 16 << 20;

/// Writes zeros where the content of the file at `path` stands, before it is removed or replaced;
/// a link is not followed. Whether nothing of it stays readable: a file that is long, has another
/// name, or cannot be changed in place is left as it is, which is to be told.
///
/// # Errors
/// As [`GuestFs::stat`](vdisk_guest::fs::GuestFs::stat); the disk's.
pub(crate) fn wipe(fs: &mut dyn GuestFsMut, path: &[u8]) -> Result<bool> {
    let stat = fs.stat(path)?;
    if stat.kind != FileKind::File || stat.size == 0 {
        return Ok(true);
    }
    // On NTFS a short name is another one.
    let is_shared = stat.unix.is_some() && stat.links > 1;
    if is_shared || stat.size > MOST {
        return Ok(false);
    }
    let zeros = vec![0; usize::try_from(stat.size).unwrap_or_default()];
    match fs.apply(&Edit::Write { path, offset: 0, data: &zeros }) {
        Ok(()) => Ok(true),
        Err(error) => match error.kind() {
            ErrorKind::Unsupported | ErrorKind::Encrypted | ErrorKind::NoSpace => Ok(false),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::FileExt as _;
    use std::sync::Arc;

    use memchr::memmem;
    use vdisk_core::CowDisk;
    use vdisk_guest::fs::open_mut;
    use vdisk_testkit::VecDisk;
    use vdisk_testkit::volumes::{Make, VOLUMES, Volume, judge, make};

    use super::*;

    /// Files as short as a key, which some file systems keep with its name, and longer ones.
    const FILES: [(&str, usize); 3] = [("short", 2), ("key", 8), ("long", 9000)];

    #[test]
    fn nothing_is_left_of_what_was_wiped_and_removed() {
        // Nothing is removed from a Btrfs.
        let changes = |volume: &&Volume| !volume.is_old_xfs() && volume.tool != Make::Btrfs;
        for volume in VOLUMES.iter().filter(changes) {
            let folder = tempfile::tempdir().unwrap();
            let (image, source) = (folder.path().join("volume"), folder.path().join("tree"));
            // The maker of volumes expects one.
            fs::create_dir_all(source.join("links")).unwrap();
            for (name, lines) in FILES {
                let line = |number| format!("secret {name:>8} {number:>8} of the old machine");
                let text: Vec<String> = (0..lines).map(line).collect();
                fs::write(source.join(name), text.join("\n")).unwrap();
            }
            if !make(volume, &image, Some(&source)) {
                continue;
            }
            let before = fs::read(&image).unwrap();
            assert!(memmem::find(&before, b"secret ").is_some());
            let disk = Arc::new(CowDisk::new(Arc::new(VecDisk(before)), 64 << 20));
            let mut fs = open_mut(disk.clone()).unwrap().unwrap();
            for (name, _) in FILES {
                let path = format!("/{name}");
                let wiped = wipe(&mut *fs, path.as_bytes()).unwrap();
                assert!(wiped, "{volume:?} {name}");
                fs.apply(&Edit::Remove { path: path.as_bytes() }).unwrap();
            }
            let file = fs::File::options().write(true).open(&image).unwrap();
            for change in disk.changes().unwrap() {
                file.write_all_at(&change.bytes, change.offset).unwrap();
            }
            let after = fs::read(&image).unwrap();
            let left = memmem::find_iter(&after, b"secret ").count();
            assert_eq!(left, 0, "{volume:?}");
            judge(volume.tool, &image, "wiped");
        }
    }
}
