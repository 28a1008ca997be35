//! Programs that are not ours, as judges of what we write and read.
//!
//! A tool that is missing makes its test print `SKIPPED(tool): why` and pass, unless the
//! environment variable `VDISK_REQUIRE` (a comma list: `qemu`, `libvhdi`, `libvmdk`, `dissect`,
//! `hivex`, `regipy`, `corpus`, `loop`) asks for it: then the test fails.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Mutex, PoisonError};

use sha2::{Digest, Sha256};

/// Whether `VDISK_REQUIRE` asks for `what`, so that it must not be skipped.
#[must_use]
pub fn required(what: &str) -> bool {
    let list = std::env::var("VDISK_REQUIRE").unwrap_or_default();
    list.split(',').any(|name| name.trim() == what)
}

/// Says that something was left out for want of `what`; panics where that is not allowed.
pub fn skip(what: &str, why: &str) {
    assert!(!required(what), "{what} is required: {why}");
    eprintln!("SKIPPED({what}): {why}");
}

/// A judge: a program or Python module that reads disk images.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Tool {
    /// `qemu-img` (Debian: qemu-utils).
    Qemu,
    /// `pyvhdi` (PyPI: libvhdi-python): VHD and VHDX.
    Libvhdi,
    /// `pyvmdk` (PyPI: libvmdk-python).
    Libvmdk,
    /// `dissect.hypervisor` (PyPI): VHD, VHDX, VMDK.
    Dissect,
    /// `hivex` (Debian: python3-hivex), for the system's Python: registry hives.
    Hivex,
    /// `regipy` (PyPI): registry hives.
    Regipy,
    /// `virt-xml-validate` (Debian: libvirt-clients): libvirt's domains.
    Libvirt,
    /// `tree-sitter-powershell` (PyPI): the grammar of PowerShell.
    PowershellGrammar,
}

impl Tool {
    /// Its name in `VDISK_REQUIRE`.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Qemu => "qemu",
            Self::Libvhdi => "libvhdi",
            Self::Libvmdk => "libvmdk",
            Self::Dissect => "dissect",
            Self::Hivex => "hivex",
            Self::Regipy => "regipy",
            Self::Libvirt => "libvirt",
            Self::PowershellGrammar => "powershell",
        }
    }

    /// The Python that has the tool's module.
    #[must_use]
    pub fn python(self) -> &'static str {
        if self == Self::Hivex { "/usr/bin/python3" } else { "python3" }
    }

    fn version_command(self) -> (&'static str, Vec<&'static str>) {
        match self {
            Self::Qemu => ("qemu-img", vec!["--version"]),
            Self::Libvhdi => {
                ("python3", vec!["-c", "import pyvhdi; print('pyvhdi', pyvhdi.get_version())"])
            }
            Self::Libvmdk => {
                ("python3", vec!["-c", "import pyvmdk; print('pyvmdk', pyvmdk.get_version())"])
            }
            Self::Dissect => (
                "python3",
                vec![
                    "-c",
                    "import dissect.hypervisor, importlib.metadata as m; \
                     print('dissect.hypervisor', m.version('dissect.hypervisor'))",
                ],
            ),
            Self::Hivex => (self.python(), vec!["-c", "import hivex; print(hivex.__file__)"]),
            Self::Regipy => (
                self.python(),
                vec![
                    "-c",
                    "import regipy, importlib.metadata as m; print('regipy', m.version('regipy'))",
                ],
            ),
            // It tells no version.
            Self::Libvirt => ("sh", vec!["-c", "command -v virt-xml-validate xmllint"]),
            Self::PowershellGrammar => (
                self.python(),
                vec![
                    "-c",
                    "import tree_sitter, tree_sitter_powershell, importlib.metadata as m; \
                     print('tree-sitter-powershell', m.version('tree-sitter-powershell'))",
                ],
            ),
        }
    }

    /// Whether the tool is there. Looks, and prints its version, once in a run; where it is not
    /// there, says that something was skipped, or panics (see [`skip`]).
    #[must_use]
    pub fn there(self) -> bool {
        static KNOWN: Mutex<BTreeMap<Tool, bool>> = Mutex::new(BTreeMap::new());
        let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
        let there = *known.entry(self).or_insert_with(|| self.look());
        drop(known);
        if !there {
            let (program, args) = self.version_command();
            skip(self.name(), &format!("{program} {} does not work", args.join(" ")));
        }
        there
    }

    fn look(self) -> bool {
        let (program, args) = self.version_command();
        let done = Command::new(program).args(&args).output();
        let Some(done) = done.ok().filter(|done| done.status.success()) else { return false };
        let version = said(&done);
        eprintln!("{}: {}", self.name(), version.lines().next().unwrap_or_default());
        true
    }
}

/// All that a program printed.
#[must_use]
pub fn said(done: &Output) -> String {
    String::from_utf8_lossy(&[&done.stdout[..], &done.stderr[..]].concat()).into_owned()
}

/// Runs a program that must succeed; what it printed to standard output.
pub fn must(program: &str, args: &[&str]) -> String {
    let done = Command::new(program)
        .args(args)
        .output()
        .unwrap_or_else(|e| panic!("{program} {args:?}: {e}"));
    assert!(done.status.success(), "{program} {args:?}: {}", said(&done));
    String::from_utf8_lossy(&done.stdout).into_owned()
}

/// A path as an argument.
///
/// # Panics
/// Where it is not UTF-8.
#[must_use]
pub fn arg(path: &Path) -> &str {
    path.to_str().expect("test paths are UTF-8")
}

/// SHA-256 in lower-case hex.
#[must_use]
pub fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file, in lower-case hex.
#[must_use]
pub fn sha256_file(path: &Path) -> String {
    let mut file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut hash = Sha256::new();
    let mut piece = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut piece) {
            Ok(0) => return hex(&hash.finalize()),
            Ok(n) => hash.update(&piece[..n]),
            Err(e) => panic!("{}: {e}", path.display()),
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `qemu-img` and what to ask it.
pub mod qemu {
    use super::{Command, Path, arg, must, said};

    /// Asserts that qemu reads the image (of qemu's `format`) as the raw file `raw`, byte for byte
    /// and in its exact size.
    pub fn assert_reads(image: &Path, format: &str, raw: &Path, context: &str) {
        let args = ["compare", "-f", format, "-F", "raw", arg(image), arg(raw)];
        let done = Command::new("qemu-img").args(args).output().expect("qemu-img");
        // "Warning: Image size mismatch!" is all that qemu says where the rest is zero.
        let clean = done.status.success() && !said(&done).to_lowercase().contains("size");
        assert!(clean, "{context}: {args:?}: {}", said(&done));
    }

    /// The virtual size as qemu sees it.
    #[must_use]
    pub fn virtual_size(image: &Path, format: &str) -> u64 {
        let info = must("qemu-img", &["info", "-f", format, "--output=json", arg(image)]);
        // Four spaces in: the image's own, not that of an extent.
        let (_, own) = info.split_once("\n    \"virtual-size\":").expect("virtual-size");
        let own = own.split([',', '\n', '}']).next().expect("a number");
        own.trim().parse().expect("a number")
    }

    /// Asserts that `qemu-img check` finds nothing. Not for VHD, which qemu does not check.
    pub fn assert_clean(image: &Path, format: &str, context: &str) {
        let args = ["check", "-f", format, arg(image)];
        let done = Command::new("qemu-img").args(args).output().expect("qemu-img");
        assert!(done.status.success(), "{context}: {args:?}: {}", said(&done));
    }
}

/// The digest of the content of the last image of `chain`, each one being the parent of the next,
/// as libvhdi reads it: VHD and VHDX.
///
/// It is read in pieces of 64 KiB: 1 MiB at once through a child makes libvhdi 20260901 return
/// zeros where smaller reads of the same file return data.
#[must_use]
pub fn libvhdi_digest(chain: &[&Path]) -> String {
    const SCRIPT: &str = "
import hashlib, pyvhdi, sys
files = []
for name in sys.argv[1:]:
    file = pyvhdi.file()
    file.open(name)
    if files:
        file.set_parent(files[-1])
    files.append(file)
top, sha = files[-1], hashlib.sha256()
left = top.get_media_size()
while left:
    piece = top.read_buffer(min(left, 1 << 16))
    assert piece
    sha.update(piece)
    left -= len(piece)
print(sha.hexdigest())
";
    python(SCRIPT, chain)
}

/// As [`libvhdi_digest`], by libvmdk.
#[must_use]
pub fn libvmdk_digest(chain: &[&Path]) -> String {
    const SCRIPT: &str = "
import hashlib, pyvmdk, sys
files = []
for name in sys.argv[1:]:
    file = pyvmdk.handle()
    file.open(name)
    file.open_extent_data_files()
    if files:
        file.set_parent(files[-1])
    files.append(file)
top, sha = files[-1], hashlib.sha256()
left = top.get_media_size()
while left:
    piece = top.read_buffer(min(left, 1 << 16))
    assert piece
    sha.update(piece)
    left -= len(piece)
print(sha.hexdigest())
";
    python(SCRIPT, chain)
}

/// The digest of an image's content as dissect.hypervisor reads it, which finds parents and
/// extents by itself. `class` is its name there: `vhd.VHD` (no children), `vhdx.VHDX`,
/// `vmdk.VMDK`.
#[must_use]
pub fn dissect_digest(class: &str, image: &Path) -> String {
    const SCRIPT: &str = "
import hashlib, importlib, pathlib, sys
module, name = CLASS.split('.')
open_disk = getattr(importlib.import_module('dissect.hypervisor.disk.' + module), name)
path = pathlib.Path(sys.argv[1])
disk = open_disk(path.open('rb') if module == 'vhd' else path)
sha, left = hashlib.sha256(), disk.size
while left:
    piece = disk.read(min(left, 1 << 20))
    assert piece
    sha.update(piece)
    left -= len(piece)
print(sha.hexdigest())
";
    python(&format!("CLASS = '{class}'\n{SCRIPT}"), &[image])
}

fn python(script: &str, paths: &[&Path]) -> String {
    let mut args = vec!["-c", script];
    args.extend(paths.iter().map(|path| arg(path)));
    must("python3", &args).trim().to_owned()
}
