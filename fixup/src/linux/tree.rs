//! The files of a guest as it sees them, on whatever volumes they are.

use std::path::{Path, PathBuf};

use vdisk_core::{Cancel, Error, ErrorKind, Result};
use vdisk_guest::fs::{DirEntry, Edit, FileKind, GuestFsMut, Stat, Unix};
use vdisk_guest::inventory::Mount;
use vdisk_guest::{Place, extract_at_most};

use super::devices::Devices;
use crate::Machine;
use crate::wipe::wipe;

/// Bytes of a text that is read.
const TEXT: u64 = 4 << 20;
/// Names one pattern may stand for.
const MOST_MATCHES: usize = 4096;
/// Folders below each other that are emptied.
const DEEPEST: usize = 32;

/// A guest's tree, with its volumes mounted as its fstab says.
#[derive(Debug)]
pub(crate) struct Tree<'m> {
    machine: &'m mut Machine,
    /// Where volumes are mounted, the longest path first; the root's is empty.
    mounts: Vec<(String, Place)>,
    /// Where the root directory stands in its volume.
    root: String,
    /// What was to be written over, and stays readable.
    remains: Vec<String>,
}

impl<'m> Tree<'m> {
    /// The tree of guest number `index`.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such Linux.
    pub(crate) fn open(machine: &'m mut Machine, index: usize) -> Result<Self> {
        let linux = machine.system(index)?.linux.clone().ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("guest number {index} is no Linux"))
        })?;
        let root = machine.root(index)?;
        let devices = Devices::of(machine, &linux.mounts, &root);
        let placed = |mount: &Mount| {
            let point = mount.mount_point.trim_end_matches('/');
            let is_path = point.starts_with('/');
            let place = devices.place(&mount.device).filter(|_| is_path)?;
            Some((point.to_owned(), place))
        };
        let mut mounts: Vec<_> = linux.mounts.iter().filter_map(placed).collect();
        mounts.push((String::new(), root));
        mounts.sort_by_key(|(point, _)| std::cmp::Reverse(point.len()));
        let root = linux.root_subvolume.unwrap_or_default();
        Ok(Self { machine, mounts, root, remains: Vec::new() })
    }

    /// The machine.
    pub(crate) fn machine(&self) -> &Machine {
        self.machine
    }

    /// The machine, for what no mount point leads to.
    pub(crate) fn machine_mut(&mut self) -> &mut Machine {
        self.machine
    }

    /// The bytes of a file; none where there is none.
    pub(crate) fn read(&mut self, path: &str, limit: u64) -> Result<Option<Vec<u8>>> {
        let (place, path) = self.locate(path);
        found(self.machine.volume(&place)?.fs().read(&path, limit))
    }

    /// A text; none where there is no file, or where it is no UTF-8.
    pub(crate) fn text(&mut self, path: &str) -> Result<Option<String>> {
        Ok(self.read(path, TEXT)?.and_then(|bytes| String::from_utf8(bytes).ok()))
    }

    /// What is there, a link not being followed.
    pub(crate) fn stat(&mut self, path: &str) -> Result<Option<Stat>> {
        let (place, path) = self.locate(path);
        let fs = self.machine.volume(&place)?.fs();
        let parent = path.iter().rposition(|byte| *byte == b'/').unwrap_or_default();
        let (folder, name) = path.split_at(parent);
        // Links on the way are followed, not the last.
        let Some(mut folder) = found(fs.resolve(if folder.is_empty() { b"/" } else { folder }))?
        else {
            return Ok(None);
        };
        if folder.ends_with(b"/") {
            folder.pop();
        }
        folder.extend_from_slice(name);
        found(fs.stat(&folder))
    }

    /// Whether something is there.
    pub(crate) fn has(&mut self, path: &str) -> Result<bool> {
        let (place, path) = self.locate(path);
        self.machine.volume(&place)?.fs().exists(&path)
    }

    /// The names in a directory, sorted; none where there is none.
    pub(crate) fn list(&mut self, path: &str) -> Result<Vec<(String, FileKind)>> {
        let (place, path) = self.locate(path);
        let listed: Option<Vec<DirEntry>> =
            found(self.machine.volume(&place)?.fs().read_dir(&path))?;
        let mut names: Vec<_> = listed
            .unwrap_or_default()
            .into_iter()
            .filter_map(|entry| Some((String::from_utf8(entry.name).ok()?, entry.kind)))
            .collect();
        names.sort_by(|a, b| a.0.cmp(&b.0));
        Ok(names)
    }

    /// The paths a pattern stands for, with `*` for any part of a name.
    pub(crate) fn glob(&mut self, pattern: &str) -> Result<Vec<String>> {
        let mut paths = vec![String::new()];
        for part in pattern.split('/').filter(|part| !part.is_empty()) {
            let mut next = Vec::new();
            for path in paths {
                if part.contains('*') {
                    let names = self.list(&format!("{path}/"))?.into_iter();
                    let fitting = names.filter(|(name, _)| fits(part, name));
                    next.extend(fitting.map(|(name, _)| format!("{path}/{name}")));
                } else {
                    let path = format!("{path}/{part}");
                    if self.stat(&path)?.is_some() {
                        next.push(path);
                    }
                }
            }
            next.truncate(MOST_MATCHES);
            paths = next;
        }
        Ok(paths)
    }

    /// Writes a file: other content for one that is there, or a new one with these permissions.
    pub(crate) fn write(&mut self, path: &str, content: &[u8], mode: u16) -> Result<()> {
        if self.has(path)? {
            return self.edit(path, |fs, path| fs.apply(&Edit::Replace { path, content }));
        }
        self.make_folder(path.rsplit_once('/').map_or("", |(folder, _)| folder))?;
        let unix = Unix { mode, uid: 0, gid: 0 };
        self.edit(path, |fs, path| fs.apply(&Edit::Create { path, content, unix }))
    }

    /// The same, writing over what was there, where a link may lead to it.
    pub(crate) fn write_over(&mut self, path: &str, content: &[u8], mode: u16) -> Result<()> {
        let (place, inner) = self.locate(path);
        let fs = self.machine.volume(&place)?.fs();
        if let Some(real) = found(fs.resolve(&inner))? {
            self.wipe_file(path, &place, &real)?;
        }
        self.write(path, content, mode)
    }

    /// Puts bytes behind a file.
    pub(crate) fn append(&mut self, path: &str, offset: u64, data: &[u8]) -> Result<()> {
        self.edit(path, |fs, path| fs.apply(&Edit::Write { path, offset, data }))
    }

    /// Writes what is `wanted` of the root directory, with the volumes mounted below it, to a folder
    /// of the host that is empty: no more than `most` bytes, as [`extract_at_most`] counts.
    ///
    /// # Errors
    /// [`ErrorKind::NoSpace`] where there is more, or the host has no room; what else could not be
    /// read or written, for a program would take the rest for the whole.
    pub(crate) fn copy_out(&mut self, folder: &Path, wanted: &[&str], most: u64) -> Result<()> {
        let (cancel, mounts, mut left) = (Cancel::default(), self.mounts.clone(), most);
        let home = self.locate("/").0;
        for (point, place) in mounts.iter().rev() {
            // Another part of the root's own volume is a subvolume, and of that nothing is known.
            let is_wanted = *place != home && wanted.iter().any(|name| is_below(point, name));
            if !point.is_empty() && !is_wanted {
                continue;
            }
            let fs = &*self.machine.volume(place)?.fs();
            let mut copy = |from: &str, to: &Path, force| {
                let done = extract_at_most(fs, from.as_bytes(), to, force, left, &cancel)?;
                left = left.saturating_sub(done.counted);
                done.failures.into_iter().next().map_or(Ok(()), Err)
            };
            if point.is_empty() {
                for name in wanted {
                    let from = format!("{}/{name}", self.root);
                    if found(fs.stat(from.as_bytes()))?.is_some() {
                        copy(&from, &folder.join(name), false)?;
                    }
                }
            } else if let Some(target) = folder_below(folder, point) {
                copy("/", &target, true)?;
            }
        }
        Ok(())
    }

    /// Writes over the bytes of a file, or of all in a directory, before it is removed; what
    /// a link leads to stays.
    pub(crate) fn wipe(&mut self, path: &str) -> Result<()> {
        self.wipe_below(path, DEEPEST)
    }

    fn wipe_below(&mut self, path: &str, depth: usize) -> Result<()> {
        let Some(stat) = self.stat(path)? else { return Ok(()) };
        if stat.kind == FileKind::Directory {
            let depth = deeper(path, depth)?;
            for (name, _) in self.list(path)? {
                self.wipe_below(&format!("{path}/{name}"), depth)?;
            }
            return Ok(());
        }
        let (place, inner) = self.locate(path);
        self.wipe_file(path, &place, &inner)
    }

    fn wipe_file(&mut self, path: &str, place: &Place, inner: &[u8]) -> Result<()> {
        if !wipe(self.machine.volume(place)?.fs(), inner)? {
            self.remains.push(path.to_owned());
        }
        Ok(())
    }

    /// What was to be written over, and stays readable.
    pub(crate) fn remains(&mut self) -> &mut Vec<String> {
        &mut self.remains
    }

    /// Removes a file, a link, or a directory with all that is in it.
    pub(crate) fn remove(&mut self, path: &str) -> Result<()> {
        self.remove_below(path, DEEPEST)
    }

    fn remove_below(&mut self, path: &str, depth: usize) -> Result<()> {
        let Some(stat) = self.stat(path)? else { return Ok(()) };
        if stat.kind == FileKind::Directory {
            let depth = deeper(path, depth)?;
            for (name, _) in self.list(path)? {
                self.remove_below(&format!("{path}/{name}"), depth)?;
            }
        }
        self.edit(path, |fs, path| fs.apply(&Edit::Remove { path }))
    }

    fn make_folder(&mut self, path: &str) -> Result<()> {
        if path.is_empty() || self.has(path)? {
            return Ok(());
        }
        self.make_folder(path.rsplit_once('/').map_or("", |(folder, _)| folder))?;
        let unix = Unix { mode: 0o755, uid: 0, gid: 0 };
        self.edit(path, |fs, path| fs.apply(&Edit::CreateDir { path, unix }))
    }

    fn edit(
        &mut self,
        path: &str,
        edit: impl FnOnce(&mut dyn GuestFsMut, &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (place, path) = self.locate(path);
        edit(self.machine.volume(&place)?.fs(), &path)
    }

    /// The volume of a path, and the path there.
    fn locate(&self, path: &str) -> (Place, Vec<u8>) {
        let below = |point: &str| {
            path.strip_prefix(point).filter(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        for (point, place) in &self.mounts {
            let Some(rest) = below(point) else { continue };
            let rest = if rest.is_empty() { "/" } else { rest };
            let root = if point.is_empty() { self.root.as_str() } else { "" };
            return (place.clone(), format!("{root}{rest}").into_bytes());
        }
        (Place::Disk, path.as_bytes().to_vec())
    }
}

/// Whether a path is that of the directory `name` in the root, or below it.
fn is_below(path: &str, name: &str) -> bool {
    let rest = path.strip_prefix('/').and_then(|path| path.strip_prefix(name));
    rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// The directory of the host at `point` below `folder`, if no link is on the way.
fn folder_below(folder: &Path, point: &str) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    for part in point.split('/').filter(|part| !part.is_empty()) {
        path.push(part);
        let plain = !matches!(part, "." | "..");
        path.symlink_metadata().ok().filter(|there| plain && there.is_dir())?;
    }
    Some(path)
}

fn deeper(path: &str, depth: usize) -> Result<usize> {
    depth
        .checked_sub(1)
        .ok_or_else(|| Error::refused(format!("{path} has too many folders below each other")))
}

/// What is not there is no error.
fn found<T>(result: Result<T>) -> Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Whether a name is what a pattern with `*` says.
pub(super) fn fits(pattern: &str, name: &str) -> bool {
    let Some((head, rest)) = pattern.split_once('*') else { return pattern == name };
    let Some(name) = name.strip_prefix(head) else { return false };
    (0..=name.len()).any(|at| name.get(at..).is_some_and(|tail| fits(rest, tail)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn patterns_are_those_of_a_shell() {
        for (pattern, name, fit) in [
            ("*", "x", true),
            ("ssh_host_*_key", "ssh_host_rsa_key", true),
            ("ssh_host_*_key", "ssh_host_rsa_key.pub", false),
            ("a*b*", "axxbyy", true),
            ("a", "ab", false),
        ] {
            assert_eq!(fits(pattern, name), fit, "{pattern} {name}");
        }
    }
}
