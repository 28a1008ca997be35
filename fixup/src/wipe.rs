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
