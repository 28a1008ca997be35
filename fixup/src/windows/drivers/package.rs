//! Packages in a folder of the host, and which of them are for a Windows.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use vdisk_core::{Error, Result};

use super::super::guest::{Arch, Nt};
use super::super::inf::{self, Fit, Header, Inf, Model, Os};
use crate::Plan;

/// Folders below one another, and files looked at, at most.
const MOST_DEPTH: usize = 12;
const MOST_ENTRIES: usize = 100_000;
/// Bytes of a file of a package, at most.
const MOST_FILE: u64 = super::super::files::MOST;

/// Folders of virtio-win for one version of Windows each, whose INF files do not always tell them
/// apart: the folder's name, the version, whether it is a server's.
const FOLDERS: [(&str, u32, u32, u32, bool); 15] = [
    ("xp", 5, 1, 0, false),
    ("2k3", 5, 2, 0, true),
    ("2k8", 6, 0, 0, true),
    ("w7", 6, 1, 0, false),
    ("2k8r2", 6, 1, 0, true),
    ("w8", 6, 2, 0, false),
    ("2k12", 6, 2, 0, true),
    ("w8.1", 6, 3, 0, false),
    ("2k12r2", 6, 3, 0, true),
    ("w10", 10, 0, 0, false),
    ("2k16", 10, 0, 0, true),
    ("2k19", 10, 0, 17_763, true),
    ("2k22", 10, 0, 20_348, true),
    ("w11", 10, 0, 22_000, false),
    ("2k25", 10, 0, 26_100, true),
];

/// A driver package that fits a Windows.
#[derive(Debug)]
pub(super) struct Package {
    /// The INF file's name, in lower case, such as `viostor.inf`.
    pub(super) name: String,
    pub(super) inf: Inf,
    pub(super) header: Header,
    pub(super) models: Vec<Model>,
    folder: PathBuf,
    bytes: Vec<u8>,
    rank: Rank,
}

/// Of two packages of one name the greater is taken: by the folder's Windows, by the INF's, by
/// date and version.
type Rank = (Option<(Nt, bool)>, Fit, Option<(u16, u8, u8)>, Option<[u16; 4]>);

impl Package {
    /// The name without its ending.
    pub(super) fn stem(&self) -> &str {
        self.name.strip_suffix(".inf").unwrap_or(&self.name)
    }

    /// Whether it drives disks, so that Windows cannot start without it.
    pub(super) fn drives_disks(&self) -> bool {
        let class = self.header.class_guid.as_deref().unwrap_or_default().to_ascii_uppercase();
        ["{4D36E96A-E325-11CE-BFC1-08002BE10318}", "{4D36E97B-E325-11CE-BFC1-08002BE10318}"]
            .contains(&class.as_str())
    }

    /// All its files by name: the INF, the catalog where it is there, and what the INF names.
    pub(super) fn files(&self, os: Os) -> Result<BTreeMap<String, Vec<u8>>> {
        let mut files = BTreeMap::from([(self.name.clone(), self.bytes.clone())]);
        for (name, subfolder) in self.inf.source_files(os) {
            let content = self.read(&name, &subfolder)?.ok_or_else(|| {
                Error::refused(format!("{} names {name}, which is not beside it", self.shown()))
            })?;
            files.insert(name, content);
        }
        if let Some(catalog) = &self.header.catalog
            && let Some(content) = self.read(catalog, "")?
        {
            files.insert(catalog.clone(), content);
        }
        Ok(files)
    }

    pub(super) fn shown(&self) -> String {
        self.folder.join(&self.name).display().to_string()
    }

    /// A file of its folder, whatever the case of its name.
    fn read(&self, name: &str, subfolder: &str) -> Result<Option<Vec<u8>>> {
        let mut folder = self.folder.clone();
        for part in subfolder.split(['\\', '/']).filter(|part| !part.is_empty()) {
            match entry(&folder, part)? {
                Some(path) if part != ".." => folder = path,
                _ => break,
            }
        }
        entry(&folder, name)?.map(|path| read(&path)).transpose()
    }
}

/// All packages below `folders` that are for this Windows, one of each name: the one that fits
/// best. INF files that are none are told as warnings.
pub(super) fn find(folders: &[PathBuf], os: Os, plan: &mut Plan) -> Result<Vec<Package>> {
    let mut best: BTreeMap<String, Package> = BTreeMap::new();
    let mut left = MOST_ENTRIES;
    let mut paths = Vec::new();
    for folder in folders {
        walk(folder, MOST_DEPTH, &mut left, &mut paths)?;
    }
    paths.sort();
    for path in paths {
        let package = match load(&path, os) {
            Ok(Some(package)) => package,
            Ok(None) => continue,
            Err(error) => {
                let message = format!("{}: {error}", path.display());
                plan.warn("windows.driver.inf", message, "it is left out");
                continue;
            }
        };
        match best.get(&package.name) {
            Some(there) if there.rank >= package.rank => {}
            _ => drop(best.insert(package.name.clone(), package)),
        }
    }
    Ok(best.into_values().collect())
}

/// The package of an INF file; none where it is for another Windows.
fn load(path: &Path, os: Os) -> Result<Option<Package>> {
    let Some(by_folder) = by_folder(path, os) else { return Ok(None) };
    let bytes = read(path)?;
    let inf = Inf::parse(&bytes)?;
    let Some((fit, models)) = inf.models(os) else { return Ok(None) };
    let header = inf.header(os);
    let name = path.file_name().unwrap_or_default().to_string_lossy().to_lowercase();
    let folder = path.parent().unwrap_or(Path::new("")).to_path_buf();
    let rank = (by_folder, fit, header.date, header.version);
    Ok(Some(Package { name, inf, header, models, folder, bytes, rank }))
}

/// What the names of the folders tell: nothing, or which Windows they are for; none where that is
/// a later Windows or another processor.
fn by_folder(path: &Path, os: Os) -> Option<Option<(Nt, bool)>> {
    let parts = path.iter().map(|part| part.to_string_lossy().to_lowercase());
    let mut found = None;
    for part in parts {
        let arch = match part.as_str() {
            "x86" => Some(Arch::X86),
            "amd64" | "x64" => Some(Arch::Amd64),
            "arm64" => Some(Arch::Arm64),
            _ => None,
        };
        if arch.is_some_and(|arch| arch != os.arch) {
            return None;
        }
        let named = FOLDERS.iter().copied().find(|(name, ..)| *name == part);
        if let Some((_, major, minor, build, server)) = named {
            let version = Nt { major, minor, build };
            if version > os.version {
                return None;
            }
            found = Some((version, server == os.server));
        }
    }
    Some(found)
}

fn walk(folder: &Path, depth: usize, left: &mut usize, found: &mut Vec<PathBuf>) -> Result<()> {
    let failed = |error| Error::io(error, "read the folder").in_file(folder);
    for entry in fs::read_dir(folder).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        *left = left.checked_sub(1).ok_or_else(|| {
            Error::refused(format!(
                "there are more than {MOST_ENTRIES} files in the driver folders"
            ))
            .hint("name a folder with nothing but the drivers that are wanted")
        })?;
        let kind = entry.file_type();
        let kind = kind.map_err(failed)?;
        let path = entry.path();
        let is_inf = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("inf"));
        if kind.is_dir() && depth > 0 {
            walk(&path, depth - 1, left, found)?;
        } else if kind.is_file() && is_inf {
            found.push(path);
        }
    }
    Ok(())
}

/// What is called `name` in a folder, whatever the case.
fn entry(folder: &Path, name: &str) -> Result<Option<PathBuf>> {
    let entries = fs::read_dir(folder)
        .map_err(|error| Error::io(error, "read the folder").in_file(folder))?;
    let is_it = |path: &PathBuf| {
        path.file_name().is_some_and(|there| there.to_string_lossy().eq_ignore_ascii_case(name))
    };
    Ok(entries.filter_map(|entry| Some(entry.ok()?.path())).find(is_it))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |error| Error::io(error, "read it").in_file(path);
    let len = fs::metadata(path).map_err(failed)?.len();
    let is_inf = path.extension().is_some_and(|ending| ending.eq_ignore_ascii_case("inf"));
    let most = if is_inf { inf::MOST as u64 } else { MOST_FILE };
    if len > most {
        return Err(Error::refused(format!("it has more than {most} bytes")).in_file(path));
    }
    fs::read(path).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_of_other_windows_are_passed_over() {
        let os = |version: &str, server| Os {
            version: Nt::parse(version).unwrap(),
            arch: Arch::Amd64,
            server,
        };
        let fits = |path: &str, os| by_folder(Path::new(path), os);
        let ten = os("10.0.19045", false);
        assert_eq!(fits("viostor/w11/amd64/viostor.inf", ten), None);
        assert_eq!(fits("viostor/w10/x86/viostor.inf", ten), None);
        assert_eq!(fits("vendor/viostor.inf", ten), Some(None));
        let [w7, w10, k16] =
            ["w7", "w10", "2k16"].map(|name| fits(&format!("viostor/{name}/amd64/v.inf"), ten));
        assert!(w10 > w7 && w10 > k16);
        let server = os("10.0.17763", true);
        assert!(fits("2k19/v.inf", server) > fits("2k16/v.inf", server));
        assert!(fits("2k16/v.inf", server) > fits("w10/v.inf", server));
    }
}
