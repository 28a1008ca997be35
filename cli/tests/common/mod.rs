//! Running the program.
#![allow(dead_code, unreachable_pub)]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use vdisk_testkit::machines::{
    DISK, ESP, LINUX, Part, assemble, esp, ext4, linux_tree, ntfs, programs, windows_tree,
};

/// What a run of the program came to.
#[derive(Debug)]
pub struct Ran {
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl From<Output> for Ran {
    fn from(done: Output) -> Self {
        Self {
            code: done.status.code().unwrap_or(-1),
            out: String::from_utf8(done.stdout).expect("UTF-8"),
            err: String::from_utf8(done.stderr).expect("UTF-8"),
        }
    }
}

impl Ran {
    /// Asserts the exit code.
    #[track_caller]
    pub fn code(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Asserts that it went well and said nothing on standard error.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.err, "", "{self:#?}");
        self.code(0)
    }

    /// Standard output as one JSON document.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.out).unwrap_or_else(|e| panic!("{e}: {self:#?}"))
    }

    /// Asserts the exit code and that standard error holds all of `words`.
    #[track_caller]
    pub fn fails(self, code: i32, words: &[&str]) -> Self {
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in {self:#?}");
        }
        assert!(!self.err.contains("panicked"), "{self:#?}");
        self.code(code)
    }
}

/// A folder to run the program in.
pub struct Place {
    temp: tempfile::TempDir,
}

impl Place {
    pub fn new() -> Self {
        Self { temp: tempfile::tempdir().unwrap() }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.temp.path().join(name)
    }

    pub fn folder(&self) -> &Path {
        self.temp.path()
    }

    /// The program, to be run in this folder.
    pub fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_vdisk"));
        command.current_dir(self.folder());
        command
    }

    /// Runs the program with the words of `line`.
    pub fn run(&self, line: &str) -> Ran {
        self.command().args(line.split_whitespace()).output().unwrap().into()
    }

    /// Runs it with `--output json`; the document.
    #[track_caller]
    pub fn json(&self, line: &str) -> Value {
        let ran = self.run(&format!("{line} --output json")).ok();
        ran.json()
    }

    /// Writes a file.
    pub fn write(&self, name: &str, bytes: &[u8]) {
        std::fs::write(self.path(name), bytes).unwrap();
    }

    pub fn read(&self, name: &str) -> Vec<u8> {
        std::fs::read(self.path(name)).unwrap()
    }

    /// A raw file of `len` bytes: a hole but for runs of bytes that are not zero.
    pub fn raw(&self, name: &str, len: u64, data: &[std::ops::Range<u64>]) -> Vec<u8> {
        use std::os::unix::fs::FileExt;
        let mut bytes = vec![0; len as usize];
        let mut rng = fastrand::Rng::with_seed(len);
        let file = std::fs::File::create(self.path(name)).unwrap();
        file.set_len(len).unwrap();
        for range in data {
            let part = &mut bytes[range.start as usize..range.end as usize];
            part.iter_mut().for_each(|byte| *byte = rng.u8(1..));
            file.write_all_at(part, range.start).unwrap();
        }
        bytes
    }

    /// The names in the folder, sorted.
    pub fn names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.folder()).unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

/// Asserts that an object has all of `required`, and nothing else but some of `optional`.
#[track_caller]
pub fn assert_keys(value: &Value, required: &[&str], optional: &[&str]) {
    let object = value.as_object().unwrap_or_else(|| panic!("not an object: {value}"));
    for key in required {
        assert!(object.contains_key(*key), "no {key}: {value}");
    }
    for key in object.keys() {
        let known = required.contains(&key.as_str()) || optional.contains(&key.as_str());
        assert!(known, "{key} is new: {value}");
    }
}

/// Asserts that `value` is an error document of `kind`; its inner object.
#[track_caller]
pub fn assert_error(value: &Value, kind: &str) -> Value {
    assert_keys(value, &["schema", "error"], &[]);
    assert_eq!(value["schema"], "vdisk.error/1");
    let error = &value["error"];
    assert_keys(error, &["kind", "message", "path", "offset", "hint"], &["structure"]);
    assert_eq!(error["kind"], kind, "{value}");
    assert!(error["message"].as_str().is_some_and(|message| !message.is_empty()), "{value}");
    error.clone()
}

/// A folder with the raw disk `name`: a Linux that UEFI starts by the loader `loader` of its ESP.
pub fn linux_by(name: &str, loader: &str) -> Option<Place> {
    if !programs(&["sfdisk", "mke2fs", "mkfs.vfat", "mcopy"]) {
        return None;
    }
    let place = Place::new();
    let parts = tempfile::tempdir().unwrap();
    let tree = parts.path().join("tree");
    linux_tree(&tree);
    let root = ext4(parts.path(), 16, &tree);
    let boot = esp(parts.path(), &[loader]);
    let parts = [
        Part { kind: ESP, more: "", content: &boot },
        Part { kind: LINUX, more: "", content: &root },
    ];
    assemble(&place.path(name), "gpt", DISK, &parts);
    Some(place)
}

/// The same by Debian's own loader.
pub fn linux(name: &str) -> Option<Place> {
    linux_by(name, "EFI/debian/shimx64.efi")
}

/// A folder with the raw disk `name`: a Windows 7 on an MBR disk, with files for its drivers.
pub fn windows(name: &str) -> Option<Place> {
    if !programs(&["sfdisk", "mkfs.ntfs", "ntfs-3g"]) {
        return None;
    }
    let corpus = vdisk_testkit::corpus::folder()?;
    let place = Place::new();
    let parts = tempfile::tempdir().unwrap();
    let tree = parts.path().join("tree");
    windows_tree(&corpus, &tree);
    let drivers = tree.join("Windows/System32/drivers");
    std::fs::create_dir(&drivers).unwrap();
    for name in ["atapi", "intelide", "pciide", "msahci", "lsi_sas", "vmbus", "storvsc", "vmstorfl"]
    {
        std::fs::write(drivers.join(format!("{name}.sys")), b"MZ").unwrap();
    }
    let volume = ntfs(parts.path(), 96, &tree)?;
    let parts = [Part { kind: "7", more: "bootable", content: &volume }];
    assemble(&place.path(name), "dos", "0x5cbea03e", &parts);
    Some(place)
}

/// What the host tells of each path below `root`: what stays when content changes (kind, mode, owner,
/// device, extended attributes, those of NTFS); links, time and content; and what only a
/// copy of all blocks keeps (inode, other times, where the content has holes).
pub fn attributes(root: &Path) -> BTreeMap<String, [Value; 3]> {
    const SCRIPT: &str = include_str!("attributes.py");
    let told = Command::new("python3").args(["-c", SCRIPT]).arg(root).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    serde_json::from_slice(&told.stdout).unwrap()
}
