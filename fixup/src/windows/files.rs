//! Files of the guest, put there by noted actions.

use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::fs::{Edit, FileKind, GuestFs, GuestFsMut, Unix};

use super::Reason;
use crate::{Action, Plan};

/// What NTFS and FAT do not keep.
const NOBODY: Unix = Unix { mode: 0o644, uid: 0, gid: 0 };
/// Bytes of a file that is put in place or compared, at most.
pub(super) const MOST: u64 = 64 << 20;

/// Makes the file at `path` hold `content`, with all folders on the way; nothing is done and noted
/// where it does already.
pub(super) fn put(
    fs: &mut dyn GuestFsMut,
    path: &str,
    content: &[u8],
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    let old = read(fs, path)?;
    if old.as_deref() == Some(content) {
        return Ok(());
    }
    make_folders(fs, path, reason, plan)?;
    let bytes = path.as_bytes();
    match &old {
        Some(_) => fs.apply(&Edit::Replace { path: bytes, content })?,
        None => fs.apply(&Edit::Create { path: bytes, content, unix: NOBODY })?,
    }
    let mut action = Action::new(reason.id, reason.what, path).why(reason.why);
    action.before = old.map(|old| described(&old));
    plan.act(action.after(described(content)));
    Ok(())
}

/// All of a file; none where it is not there.
pub(super) fn read(fs: &dyn GuestFs, path: &str) -> Result<Option<Vec<u8>>> {
    if !fs.exists(path.as_bytes())? {
        return Ok(None);
    }
    fs.read(path.as_bytes(), MOST).map(Some)
}

fn make_folders(
    fs: &mut dyn GuestFsMut,
    path: &str,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    for (end, _) in path.match_indices('/').skip(1) {
        let folder = path.get(..end).unwrap_or_default();
        match fs.resolve(folder.as_bytes()).and_then(|there| fs.stat(&there)) {
            Ok(stat) if stat.kind == FileKind::Directory => {}
            Ok(_) => return Err(Error::refused(format!("{folder} is there and is no folder"))),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                fs.apply(&Edit::CreateDir { path: folder.as_bytes(), unix: NOBODY })?;
                let action = Action::new(reason.id, "make a folder", folder).why(reason.why);
                plan.act(action.after("folder"));
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

fn described(content: &[u8]) -> String {
    format!("file of {} bytes", content.len())
}
