//! Files of the guest, put there by noted actions.

use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::fs::{Edit, FileKind, GuestFs, GuestFsMut, Unix};

use super::Reason;
use crate::{Action, Plan};

/// What NTFS and FAT do not keep.
const NOBODY: Unix = Unix { mode: 0o644, uid: 0, gid: 0 };
/// Bytes of a file that is put in place or compared, at most.
pub(super) const MOST: u64 = 64 << 20;
/// `FILE_ATTRIBUTE_REPARSE_POINT`.
const REPARSE_POINT: u32 = 0x400;

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

/// Whether a folder stands at `path` itself. From Vista on Windows has links in many places, from the
/// names of old to where things are now, and most of them name a drive: what they lead to is looked
/// at under its own name.
pub(super) fn is_folder(fs: &dyn GuestFs, path: &str) -> Result<bool> {
    match fs.stat(path.as_bytes()) {
        Ok(stat) => Ok(stat.kind == FileKind::Directory),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether the content of the file at `path` stands elsewhere and cannot be read (CompactOS, WIMBoot).
/// Windows makes an ordinary file of one that it writes to, so it has not done so since.
pub(super) fn is_packed(fs: &dyn GuestFs, path: &str) -> Result<bool> {
    let attributes = fs.stat(&fs.resolve(path.as_bytes())?)?.attributes;
    Ok(attributes.is_some_and(|attributes| attributes & REPARSE_POINT != 0))
}

/// The folders of what all users share: the one of Vista and later, and the one of XP, where later ones
/// have a link to drive C.
pub(super) fn shared(fs: &dyn GuestFs) -> Result<Vec<&'static str>> {
    let mut folders = vec!["/ProgramData"];
    if is_folder(fs, "/Documents and Settings")? {
        folders.push("/Documents and Settings/All Users/Application Data");
    }
    Ok(folders)
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
