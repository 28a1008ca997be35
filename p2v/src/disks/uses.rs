//! What the running system uses devices for.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use vdisk::{Error, Result};

use super::Use;
use super::sysfs::{Entry, block_devices, device_number};

/// How many devices may stand on each other.
const DEEPEST: usize = 16;

/// What is mounted and swapped to, by `MAJOR:MINOR` of the device.
#[derive(Debug, Default)]
pub(super) struct Users {
    by_device: BTreeMap<String, Vec<Use>>,
    /// The device that is mounted at each place.
    mounted: BTreeMap<PathBuf, String>,
}

impl Users {
    pub(super) fn read(root: &Path) -> Result<Self> {
        let mut users = Self::default();
        users.read_mounts(&text(&root.join("proc/self/mountinfo"))?, root);
        users.read_swaps(&text(&root.join("proc/swaps")).unwrap_or_default(), root);
        users.read_loops(root)?;
        Ok(users)
    }

    /// What uses a device, through all that stands on it.
    pub(super) fn of(&self, device: &Entry) -> Vec<Use> {
        let mut uses = Vec::new();
        self.collect(device, &mut uses, 0);
        uses
    }

    /// Where the file system that holds `path`, a path from the root without links, is mounted.
    pub(super) fn mount_of(&self, path: &Path) -> Option<PathBuf> {
        let points = self.by_device.values().flatten().filter_map(|one| match one {
            Use::Mount { point, .. } => Some(point),
            _ => None,
        });
        let holding = points.filter(|point| path.starts_with(point));
        holding.max_by_key(|point| point.components().count()).cloned()
    }

    /// `MAJOR:MINOR` of the device whose file system is mounted at `point`: one for all places where
    /// that is mounted.
    pub(super) fn device_at(&self, point: &Path) -> Option<&str> {
        self.mounted.get(point).map(String::as_str)
    }

    fn collect(&self, device: &Entry, uses: &mut Vec<Use>, depth: usize) {
        let number = device.device().unwrap_or_default();
        uses.extend(self.by_device.get(&number).into_iter().flatten().cloned());
        if depth == DEEPEST {
            return;
        }
        for (holder, layer) in device.holders() {
            uses.push(Use::Holder { name: holder.name().to_owned(), layer });
            self.collect(&holder, uses, depth + 1);
        }
    }

    fn add(&mut self, device: String, one: Use) {
        let list = self.by_device.entry(device).or_default();
        if !list.contains(&one) {
            list.push(one);
        }
    }

    /// The lines of `mountinfo` (proc(5)): `ID PARENT MAJOR:MINOR ROOT POINT OPTIONS … - TYPE
    /// SOURCE OPTIONS`.
    fn read_mounts(&mut self, text: &[u8], root: &Path) {
        for line in text.split(|byte| *byte == b'\n') {
            let fields: Vec<&[u8]> = line.split(|byte| *byte == b' ').collect();
            let Some(dash) = fields.iter().position(|field| *field == b"-") else { continue };
            let (&[_, _, number, _, point, options, ..], Some(&[kind, source, ..])) =
                (&fields[..], fields.get(dash + 1..))
            else {
                continue;
            };
            let point = unescaped(point);
            let one = Use::Mount {
                point: point.clone(),
                filesystem: String::from_utf8_lossy(kind).into_owned(),
                read_only: options.split(|byte| *byte == b',').any(|option| option == b"ro"),
            };
            let number = String::from_utf8_lossy(number).into_owned();
            // Btrfs and others mount under a number of their own, and name a device.
            let named = unescaped(source);
            let other = named.strip_prefix("/").ok();
            let other = other.and_then(|path| device_number(&root.join(path)));
            if let Some(other) = &other {
                self.add(other.clone(), one.clone());
            }
            self.mounted.insert(point, other.unwrap_or_else(|| number.clone()));
            self.add(number, one);
        }
    }

    fn read_swaps(&mut self, text: &[u8], root: &Path) {
        for line in text.split(|byte| *byte == b'\n').skip(1) {
            let Some(name) = line.split(u8::is_ascii_whitespace).next() else { continue };
            let path = unescaped(name);
            let Ok(path) = path.strip_prefix("/") else { continue };
            if let Some(number) = device_number(&root.join(path)) {
                self.add(number, Use::Swap);
            }
        }
    }

    /// Loop devices over devices, which the kernel does not list as holders.
    fn read_loops(&mut self, root: &Path) -> Result<()> {
        for name in block_devices(root)?.iter().filter(|name| name.starts_with("loop")) {
            let entry = Entry::of_disk(root, name);
            let Some(file) = entry.text("loop/backing_file") else { continue };
            let Ok(path) = Path::new(&file).strip_prefix("/") else { continue };
            if let Some(number) = device_number(&root.join(path)) {
                self.add(number, Use::Holder { name: name.clone(), layer: "loop" });
            }
        }
        Ok(())
    }
}

fn text(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).map_err(|error| Error::io(error, "read it").in_file(path))
}

/// A path as the kernel writes it: white space and backslashes as `\` and three octal digits.
fn unescaped(field: &[u8]) -> PathBuf {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((first, later)) = rest.split_first() {
        let digits = later.get(..3).filter(|_| *first == b'\\');
        let value = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match value.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = later.get(3..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = later;
            }
        }
    }
    PathBuf::from(OsString::from_vec(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_the_kernel() {
        assert_eq!(unescaped(b"/mnt/a\\040b\\134c"), Path::new("/mnt/a b\\c"));
        assert_eq!(unescaped(b"/mnt/a\\09"), Path::new("/mnt/a\\09"));
        assert_eq!(unescaped(b"\\"), Path::new("\\"));
    }
}
