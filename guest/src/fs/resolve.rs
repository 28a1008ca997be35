//! From a path with links to one without, never out of the volume.

use vdisk_core::{Error, ErrorKind, Result};

use super::FileKind;
use super::text::shown;
use super::volume::{Driver, Volume};

/// As many links as Linux follows in one path.
const MOST_LINKS: usize = 40;
/// As many names as a path may come to have.
const MOST_NAMES: usize = 4096;

/// Whether a link in the last part of a path is followed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Follow,
    Keep,
}

/// The path without links, `.` and `..`: `/` and names with `/` between them. The last part need
/// not be there.
pub(super) fn resolve<D: Driver>(volume: &Volume<D>, path: &[u8], last: Last) -> Result<Vec<u8>> {
    let mut done: Vec<Vec<u8>> = Vec::new();
    let mut todo: Vec<Vec<u8>> = Vec::new();
    push(&mut todo, path)?;
    let mut links = 0;
    while let Some(name) = todo.pop() {
        match &name[..] {
            b".." => drop(done.pop()),
            _ => done.push(name),
        }
        let here = joined(&done);
        let is_last = todo.is_empty();
        if done.is_empty() || (is_last && last == Last::Keep) {
            continue;
        }
        let kind = match volume.stat_resolved(&here) {
            Ok(stat) => stat.kind,
            Err(error) if is_last && error.kind() == ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        if kind != FileKind::Symlink {
            continue;
        }
        links += 1;
        if links > MOST_LINKS {
            return Err(Error::new(
                ErrorKind::Corrupt,
                format!("{}: links lead round in circles", shown(path)),
            ));
        }
        let target =
            volume.driver().link_inside(volume.link_resolved(&here)?).map_err(|target| {
                Error::unsupported(format!(
                    "{} is a link to {}, which may be on another volume",
                    shown(&here),
                    shown(&target)
                ))
            })?;
        done.pop();
        if target.first() == Some(&b'/') {
            done.truncate(volume.top_of(&done)?);
        }
        push(&mut todo, &target)?;
    }
    Ok(joined(&done))
}

/// Puts the names of `path` before those in `todo`, which has its next name last.
fn push(todo: &mut Vec<Vec<u8>>, path: &[u8]) -> Result<()> {
    if path.contains(&0) {
        return Err(Error::usage("a path holds no NUL"));
    }
    let names = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b"."));
    todo.extend(names.rev().map(<[u8]>::to_vec));
    if todo.len() > MOST_NAMES {
        return Err(Error::new(ErrorKind::Corrupt, "links make a path without end"));
    }
    Ok(())
}

/// The path of these names.
pub(super) fn joined(names: &[Vec<u8>]) -> Vec<u8> {
    if names.is_empty() {
        return b"/".to_vec();
    }
    names.iter().flat_map(|name| std::iter::once(b'/').chain(name.iter().copied())).collect()
}

/// The directory and the name of a resolved path; `None` for the root.
pub(super) fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = path.iter().rposition(|byte| *byte == b'/')?;
    let (directory, name) = (path.get(..at)?, path.get(at + 1..)?);
    let directory = if directory.is_empty() { &b"/"[..] } else { directory };
    (!name.is_empty()).then_some((directory, name))
}
