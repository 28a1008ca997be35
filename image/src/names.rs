//! What a path written into an image may mean on this host.

use std::path::{Path, PathBuf};

use vdisk_core::PathStyle;

/// Most places tried for one name.
const MOST: usize = 64;
/// Most parts of a path: a longer one is meant to keep us busy.
const MOST_PARTS: usize = 256;
/// Most bytes of a path; no host has longer ones.
const MOST_BYTES: usize = 32 << 10;
/// Most entries of a folder looked at when only the letters' case may differ.
const MOST_ENTRIES: usize = 65_536;

/// The places on this host that `text`, found in an image in folder `base`, may mean; best first.
///
/// Relative paths are taken from `base`. A file of that name beside the image comes next, since
/// folders move as a whole. Absolute paths of this host follow, then what remains of a foreign
/// absolute path (`C:\VMs\base\a.vhdx`, a VMFS path) when its leading parts are dropped one by one,
/// below `base` and below each of `roots`. Names from Windows also match when only the case of
/// letters differs.
pub(crate) fn candidates(
    base: &Path,
    roots: &[PathBuf],
    style: PathStyle,
    text: &str,
) -> Vec<PathBuf> {
    if text.is_empty() || text.len() > MOST_BYTES || text.contains('\0') {
        return Vec::new();
    }
    let name = Name::parse(style, text);
    let Some(file) = name.parts.last().filter(|file| *file != "..") else { return Vec::new() };
    if name.parts.len() > MOST_PARTS {
        return Vec::new();
    }
    let mut found = Places { windows: name.windows, list: Vec::new() };
    if !name.absolute {
        found.add(base, &name.parts);
    }
    found.add(base, std::slice::from_ref(file));
    if name.absolute && !name.windows {
        found.add(Path::new("/"), &name.parts);
    }
    let after_climbing = name.parts.iter().rposition(|part| part == "..").map_or(0, |at| at + 1);
    for folder in std::iter::once(base).chain(roots.iter().map(PathBuf::as_path)) {
        for from in (after_climbing..name.parts.len()).rev() {
            if let Some(tail) = name.parts.get(from..) {
                found.add(folder, tail);
            }
        }
    }
    found.list
}

struct Places {
    windows: bool,
    list: Vec<PathBuf>,
}

impl Places {
    fn add(&mut self, folder: &Path, parts: &[String]) {
        if self.list.len() >= MOST {
            return;
        }
        let mut path = folder.to_owned();
        for part in parts {
            if part == ".." {
                path.pop();
            } else {
                path.push(part);
            }
        }
        self.push(path.clone());
        if self.windows
            && !path.exists()
            && let Some(path) = other_case(folder, parts)
        {
            self.push(path);
        }
    }

    fn push(&mut self, path: PathBuf) {
        if self.list.len() < MOST && !self.list.contains(&path) {
            self.list.push(path);
        }
    }
}

/// The existing path that differs from `parts` below `folder` only in the case of letters.
fn other_case(folder: &Path, parts: &[String]) -> Option<PathBuf> {
    let mut path = folder.to_owned();
    for part in parts {
        if part == ".." {
            path.pop();
        } else if path.join(part).exists() {
            path.push(part);
        } else {
            let wanted = part.to_lowercase();
            let entry =
                std::fs::read_dir(&path).ok()?.take(MOST_ENTRIES).flatten().find(|entry| {
                    entry.file_name().to_str().is_some_and(|name| name.to_lowercase() == wanted)
                })?;
            path.push(entry.file_name());
        }
    }
    Some(path)
}

/// A path cut into its parts, without `.`; drive, share and volume prefixes are dropped.
struct Name {
    windows: bool,
    absolute: bool,
    parts: Vec<String>,
}

impl Name {
    fn parse(style: PathStyle, text: &str) -> Self {
        match style {
            PathStyle::Url => Self::url(text),
            PathStyle::WindowsAbsolute => Self::windows(text, true),
            PathStyle::WindowsRelative => Self::windows(text, false),
            PathStyle::Native if looks_windows(text) => Self::windows(text, has_drive(text)),
            PathStyle::Native => Self::unix(text),
        }
    }

    fn unix(text: &str) -> Self {
        Self { windows: false, absolute: text.starts_with('/'), parts: cut(text, &['/']) }
    }

    fn windows(text: &str, absolute: bool) -> Self {
        // A host path may have been written into a Windows field by a program on Unix.
        if text.starts_with('/') && !text.contains('\\') {
            return Self { windows: true, ..Self::unix(text) };
        }
        let absolute = absolute || text.starts_with('\\') || has_drive(text);
        let mut parts = cut(text, &['\\', '/']);
        while absolute
            && parts.first().is_some_and(|first| {
                first == "?" || has_drive(first) || first.starts_with("Volume{")
            })
        {
            parts.remove(0);
        }
        Self { windows: true, absolute, parts }
    }

    fn url(text: &str) -> Self {
        let path = text.strip_prefix("file://").unwrap_or(text);
        let path = path.strip_prefix("localhost").unwrap_or(path);
        let path = percent_decoded(path);
        // file:///C:/VMs/a.vhd
        match path.strip_prefix('/').filter(|rest| has_drive(rest)) {
            Some(windows) => Self::windows(windows, true),
            None => Self::unix(&path),
        }
    }
}

fn cut(text: &str, separators: &[char]) -> Vec<String> {
    let parts = text.split(separators).filter(|part| !part.is_empty() && *part != ".");
    parts.map(str::to_owned).collect()
}

fn has_drive(text: &str) -> bool {
    let mut letters = text.chars();
    letters.next().is_some_and(|c| c.is_ascii_alphabetic()) && letters.next() == Some(':')
}

fn looks_windows(text: &str) -> bool {
    has_drive(text) || (text.contains('\\') && !text.contains('/'))
}

fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) if *first == b'%' => {
                bytes.push(byte);
                rest = tail.get(2..).unwrap_or_default();
            }
            _ => {
                bytes.push(*first);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(style: PathStyle, text: &str) -> Vec<String> {
        candidates(Path::new("/vm/child"), &[PathBuf::from("/other")], style, text)
            .iter()
            .map(|path| path.display().to_string())
            .collect()
    }

    #[test]
    fn relative_paths_from_windows() {
        assert_eq!(first(PathStyle::WindowsRelative, r".\base.vhdx")[..1], ["/vm/child/base.vhdx"]);
        assert_eq!(
            first(PathStyle::WindowsRelative, r"..\base\p.vhd")[..3],
            ["/vm/base/p.vhd", "/vm/child/p.vhd", "/vm/child/base/p.vhd"]
        );
    }

    #[test]
    fn foreign_absolute_paths_lose_their_leading_parts() {
        for text in
            [r"C:\VMs\base\p.vhdx", r"\\?\C:\VMs\base\p.vhdx", r"\\?\Volume{12-34}\VMs\base\p.vhdx"]
        {
            let places = first(PathStyle::WindowsAbsolute, text);
            assert_eq!(
                places[..3],
                ["/vm/child/p.vhdx", "/vm/child/base/p.vhdx", "/vm/child/VMs/base/p.vhdx"]
            );
            assert!(places.contains(&"/other/base/p.vhdx".to_owned()), "{places:?}");
        }
        let places = first(PathStyle::Native, "/vmfs/volumes/ds/vm/p.vmdk");
        assert_eq!(places[..2], ["/vm/child/p.vmdk", "/vmfs/volumes/ds/vm/p.vmdk"]);
    }

    #[test]
    fn long_names_mean_nothing() {
        for part in ["a/", "../a/", "A\\..\\", "/"] {
            let text = part.repeat(500_000) + "p.vmdk";
            for style in [PathStyle::Native, PathStyle::WindowsRelative, PathStyle::Url] {
                assert!(first(style, &text).is_empty(), "{part}");
            }
        }
        assert_eq!(first(PathStyle::WindowsRelative, &"a/".repeat(200)).len(), MOST);
        assert!(first(PathStyle::WindowsRelative, &"a/".repeat(300)).is_empty());
    }

    #[test]
    fn urls_and_odd_names() {
        assert_eq!(
            first(PathStyle::Url, "file:///a%20b/p.vhd")[..2],
            ["/vm/child/p.vhd", "/a b/p.vhd"]
        );
        assert_eq!(first(PathStyle::Url, "file:///C:/x/p.vhd")[..1], ["/vm/child/p.vhd"]);
        for nothing in ["", "..", "../..", "a\0b", "/"] {
            assert!(first(PathStyle::Native, nothing).is_empty(), "{nothing:?}");
        }
    }
}
