//! The folder of real images: `VDISK_CORPUS`, or `../shared/corpus` beside the repository.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use vdisk_core::Format;

use crate::tools::skip;

/// One image of the corpus, unpacked.
#[derive(Clone, Debug)]
pub struct Sample {
    /// Its name in the manifest, without `.xz`.
    pub name: String,
    /// Where it was unpacked, its extents and parents beside it.
    pub path: PathBuf,
    /// Its format.
    pub format: Format,
    /// The virtual size the manifest tells, where it does.
    pub virtual_size: Option<u64>,
    /// SHA-256 of what a guest reads, where reading may succeed.
    pub digest: Option<String>,
    /// Whether an error is a right answer too (or, without digest, the only one).
    pub may_fail: bool,
}

/// The corpus, if it is there; else says that tests were skipped, or panics (see
/// [`skip`]).
#[must_use]
pub fn folder() -> Option<PathBuf> {
    let default = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/corpus");
    let folder = std::env::var_os("VDISK_CORPUS").map_or(default, PathBuf::from);
    if folder.join("MANIFEST.tsv").is_file() {
        return Some(folder);
    }
    skip("corpus", &format!("{} has no MANIFEST.tsv", folder.display()));
    None
}

/// Unpacks all disk images (raw, VHD, VHDX, VMDK) into `into`, keeping the names of their folders.
/// Only files that the manifest gives a digest, or an error, for are images; the others are their
/// extents.
///
/// # Panics
/// Where the manifest cannot be understood, or `xz` does not work.
#[must_use]
pub fn unpack(corpus: &Path, into: &Path) -> Vec<Sample> {
    let manifest = std::fs::read_to_string(corpus.join("MANIFEST.tsv")).expect("manifest");
    let mut lines = manifest.lines();
    let header: Vec<&str> = lines.next().unwrap_or_default().split('\t').collect();
    let column = |name: &str| {
        header.iter().position(|found| *found == name).unwrap_or_else(|| panic!("no column {name}"))
    };
    let [file, format, size, digest] =
        ["file", "format", "virtual_size", "virtual_sha256"].map(column);
    let mut samples = Vec::new();
    for line in lines {
        let fields: Vec<&str> = line.split('\t').collect();
        let field = |index: usize| fields.get(index).copied().unwrap_or_default();
        let format = match field(format) {
            "raw" => Format::Raw,
            "vhd" => Format::Vhd,
            "vhdx" => Format::Vhdx,
            "vmdk" => Format::Vmdk,
            _ => continue,
        };
        let packed = field(file);
        let name = packed.strip_suffix(".xz").unwrap_or(packed).to_owned();
        let path = into.join(&name);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        unpack_file(&corpus.join(packed), &path);
        let words: Vec<&str> = field(digest).split('|').filter(|word| !word.is_empty()).collect();
        if words.is_empty() {
            continue;
        }
        samples.push(Sample {
            name,
            path,
            format,
            virtual_size: field(size).parse().ok(),
            digest: words.iter().find(|word| **word != "error").map(|word| (*word).to_owned()),
            may_fail: words.contains(&"error"),
        });
    }
    samples
}

/// Unpacks one file; `xz` leaves holes where it finds zeros.
fn unpack_file(packed: &Path, target: &Path) {
    if packed.extension().is_none_or(|ending| ending != "xz") {
        std::fs::copy(packed, target).expect("copy");
        return;
    }
    let output = File::create(target).expect("create");
    let status = Command::new("xz")
        .arg("-dc")
        .arg(packed)
        .stdout(Stdio::from(output))
        .status()
        .expect("xz (Debian: xz-utils)");
    assert!(status.success(), "xz -dc {}", packed.display());
}
