//! Test guests: disks with a Windows on them, its registry from the corpus, its drivers empty
//! files; and judges of what was changed, none of them ours.
#![allow(dead_code)]

pub(crate) mod exactly;
pub(crate) mod original;
pub(crate) mod volume;

use std::fs;
use std::io::Write;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use serde_json::Value;
use vdisk_fixup::{Action, Machine, Plan};
use vdisk_hive::{Editor, FileTime, Hive, ValueKind};
use vdisk_testkit::machines::{Part, assemble, esp, hive_to, ntfs, programs};
use vdisk_testkit::regf::empty_hive;
use vdisk_testkit::tools::{Tool, arg, must};
use vdisk_testkit::{VecDisk, corpus};

pub(crate) const DATA: &str = "EBD0A0A2-B9E5-4433-87C0-68B6B72699C7";
pub(crate) const ESP: &str = "C12A7328-F81F-11D2-BA4B-00A0C93EC93B";
pub(crate) const DISK: &str = "AAAAAAAA-BBBB-CCCC-DDDD-EEEEEEEEEEEE";
pub(crate) const SIGNATURE: &str = "0x5cbea03e";
pub(crate) const PARTITION: &str = "11112222-3333-4444-5555-666677778888";

pub(crate) const WIN7: &str = "hive_SYSTEM_win7sp1_plaso.hive";
pub(crate) const WIN10: &str = "hive_SYSTEM_win10_dissect-regf.hive";

/// A Windows to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Spec<'a> {
    /// Its SYSTEM hive, by its name in the corpus; none for one with little in it.
    pub(crate) system: Option<&'a str>,
    /// `MAJOR.MINOR.BUILD`.
    pub(crate) version: &'a str,
    /// The machine field of its kernel's header.
    pub(crate) machine: u16,
    /// A GPT disk with an ESP, or an MBR disk.
    pub(crate) gpt: bool,
    /// Files in `System32\drivers`, without `.sys`.
    pub(crate) drivers: &'a [&'a str],
    /// More files of the volume.
    pub(crate) files: &'a [(&'a str, &'a [u8])],
}

pub(crate) const X86: u16 = 0x14c;
pub(crate) const X64: u16 = 0x8664;

impl Spec<'_> {
    pub(crate) const SEVEN: Self = Spec {
        system: Some(WIN7),
        version: "6.1.7601",
        machine: X86,
        gpt: false,
        drivers: &[
            "atapi", "intelide", "pciide", "msahci", "lsi_sas", "lsi_scsi", "vmbus", "storvsc",
            "vmstorfl",
        ],
        files: &[],
    };
    pub(crate) const TEN: Self = Spec {
        system: Some(WIN10),
        version: "10.0.19044",
        machine: X64,
        gpt: true,
        drivers: &[
            "atapi", "intelide", "pciide", "storahci", "stornvme", "lsi_sas", "vmbus", "storvsc",
            "vmstorfl",
        ],
        files: &[],
    };
    /// A Windows 7 whose registry holds little.
    pub(crate) const SMALL: Self = Spec { system: None, ..Self::SEVEN };

    /// The number of its partition.
    pub(crate) fn root(&self) -> usize {
        if self.gpt { 2 } else { 1 }
    }

    /// MiB of its volume.
    fn mib(&self) -> u64 {
        if self.system.is_some() { 80 } else { 16 }
    }
}

/// A disk with that Windows, in `folder`; none where a tool or the corpus is missing.
pub(crate) fn windows(
    folder: &Path,
    spec: &Spec<'_>,
    prepare: impl FnOnce(&mut Registry),
) -> Option<PathBuf> {
    windows_with_bcd(folder, spec, prepare, |_| {})
}

/// The same, with something in its boot configuration data.
pub(crate) fn windows_with_bcd(
    folder: &Path,
    spec: &Spec<'_>,
    prepare: impl FnOnce(&mut Registry),
    prepare_bcd: impl FnOnce(&mut Registry),
) -> Option<PathBuf> {
    windows_dressed(folder, spec, prepare, prepare_bcd, |_| {})
}

/// The same, with more done to the files before they come onto the volume.
pub(crate) fn windows_dressed(
    folder: &Path,
    spec: &Spec<'_>,
    prepare: impl FnOnce(&mut Registry),
    prepare_bcd: impl FnOnce(&mut Registry),
    dress: impl FnOnce(&Path),
) -> Option<PathBuf> {
    let tools = ["sfdisk", "mkntfs", "ntfs-3g", "ntfscat", "mkfs.vfat", "mcopy", "xz"];
    let corpus = corpus::folder().filter(|_| programs(&tools))?;
    let tree = folder.join("tree");
    let config = tree.join("Windows/System32/config");
    fs::create_dir_all(&config).unwrap();
    for (name, hive) in
        [("SAM", "hive_SAM_win7_plaso.hive"), ("SECURITY", "hive_SECURITY_dfwinreg.hive")]
    {
        hive_to(&corpus, hive, &config.join(name));
    }
    let path = config.join("SYSTEM");
    match spec.system {
        Some(name) => hive_to(&corpus, name, &path),
        None => fs::write(&path, empty_hive(if spec.version < "6" { 3 } else { 5 })).unwrap(),
    }
    let mut system = Registry::open(&path);
    if spec.system.is_none() {
        for name in ["Current", "Default"] {
            system.number("Select", name, 1);
        }
        system.text("ControlSet001\\Control\\ProductOptions", "ProductType", "WinNT");
    }
    prepare(&mut system);
    system.save(&path);
    software(&config.join("SOFTWARE"), spec.version);
    let drivers = tree.join("Windows/System32/drivers");
    fs::create_dir_all(&drivers).unwrap();
    for name in spec.drivers {
        fs::write(drivers.join(format!("{name}.sys")), "MZ").unwrap();
    }
    let mut kernel = vec![0; 512];
    kernel[0x3c] = 0x80;
    kernel[0x80..0x84].copy_from_slice(b"PE\0\0");
    kernel[0x84..0x86].copy_from_slice(&spec.machine.to_le_bytes());
    fs::write(tree.join("Windows/System32/ntoskrnl.exe"), kernel).unwrap();
    for (name, content) in spec.files {
        let path = tree.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }
    let bcd = folder.join("BCD");
    hive_to(&corpus, "hive_BCD_ezregistry.hive", &bcd);
    let mut registry = Registry::open(&bcd);
    prepare_bcd(&mut registry);
    registry.save(&bcd);
    if !spec.gpt {
        fs::create_dir_all(tree.join("Boot")).unwrap();
        fs::copy(&bcd, tree.join("Boot/BCD")).unwrap();
    }
    dress(&tree);
    let content = ntfs(folder, spec.mib(), &tree)?;
    let disk = folder.join("disk.raw");
    if spec.gpt {
        let more = format!("uuid={PARTITION}");
        let esp = esp(folder, &["EFI/Microsoft/Boot/bootmgfw.efi"]);
        must("mcopy", &["-i", arg(&esp), arg(&bcd), "::/EFI/Microsoft/Boot/BCD"]);
        let parts = [
            Part { kind: ESP, more: "", content: &esp },
            Part { kind: DATA, more: &more, content: &content },
        ];
        assemble(&disk, "gpt", DISK, &parts);
    } else {
        let part = Part { kind: "7", more: "bootable", content: &content };
        assemble(&disk, "dos", SIGNATURE, &[part]);
        let file = fs::OpenOptions::new().write(true).open(&disk).unwrap();
        file.write_all_at(&[0x33, 0xc0, 0x8e, 0xd0], 0).unwrap();
    }
    Some(disk)
}

/// What SOFTWARE tells of the version.
pub(crate) fn software(path: &Path, version: &str) {
    fs::write(path, empty_hive(5)).unwrap();
    let mut software = Registry::open(path);
    let key = "Microsoft\\Windows NT\\CurrentVersion";
    let [major, minor, build] = version.split('.').collect::<Vec<_>>()[..] else { panic!() };
    software.text(key, "ProductName", &format!("Windows {version}"));
    software.text(key, "CurrentVersion", &format!("{major}.{minor}"));
    software.text(key, "CurrentBuildNumber", build);
    if major == "10" {
        software.number(key, "CurrentMajorVersionNumber", 10);
        software.number(key, "CurrentMinorVersionNumber", 0);
    }
    let key = "Microsoft\\Windows\\CurrentVersion";
    software.set(key, "DevicePath", ValueKind::EXPAND_SZ, &utf16("%SystemRoot%\\inf"));
    software.save(path);
}

/// A hive that a test prepares.
pub(crate) struct Registry(Option<Editor>);

impl Registry {
    pub(crate) fn open(path: &Path) -> Self {
        let hive = Hive::parse(fs::read(path).unwrap()).unwrap();
        Self(Some(Editor::new(hive, FileTime::from(SystemTime::UNIX_EPOCH)).unwrap()))
    }

    pub(crate) fn set(&mut self, path: &str, name: &str, kind: ValueKind, data: &[u8]) {
        let editor = self.0.as_mut().unwrap();
        let mut key = editor.hive().root().unwrap().id();
        for part in path.split('\\') {
            key = editor.create_key(key, part).unwrap();
        }
        editor.set_value(key, name, kind, data).unwrap();
    }

    pub(crate) fn number(&mut self, path: &str, name: &str, number: u32) {
        self.set(path, name, ValueKind::DWORD, &number.to_le_bytes());
    }

    pub(crate) fn text(&mut self, path: &str, name: &str, text: &str) {
        self.set(path, name, ValueKind::SZ, &utf16(text));
    }

    pub(crate) fn texts(&mut self, path: &str, name: &str, texts: &[&str]) {
        let mut bytes: Vec<u8> = texts.iter().flat_map(|text| utf16(text)).collect();
        bytes.extend([0, 0]);
        self.set(path, name, ValueKind::MULTI_SZ, &bytes);
    }

    /// A driver with a service key.
    pub(crate) fn driver(&mut self, name: &str, start: u32) {
        let path = format!("ControlSet001\\Services\\{name}");
        self.number(&path, "Type", 1);
        self.number(&path, "Start", start);
        self.number(&path, "ErrorControl", 1);
        self.text(&path, "ImagePath", &format!("System32\\drivers\\{name}.sys"));
    }

    pub(crate) fn save(&mut self, path: &Path) {
        fs::write(path, self.0.take().unwrap().finish().unwrap()).unwrap();
    }
}

pub(crate) fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

pub(crate) fn machine(disk: &Path) -> Machine {
    Machine::open(Arc::new(VecDisk(fs::read(disk).unwrap())), 512).unwrap()
}

/// Writes the changed disk to another file.
pub(crate) fn write_out(machine: &Machine, from: &Path, to: &Path) {
    fs::copy(from, to).unwrap();
    let file = fs::OpenOptions::new().write(true).open(to).unwrap();
    for change in machine.changes().unwrap() {
        file.write_all_at(&change.bytes, change.offset).unwrap();
    }
}

/// The partition number `number` of a disk as a file of its own.
pub(crate) fn partition(disk: &Path, number: usize, to: &Path) {
    let table: Value = serde_json::from_str(&must("sfdisk", &["--json", arg(disk)])).unwrap();
    let part = &table["partitiontable"]["partitions"][number - 1];
    let [start, size] = ["start", "size"].map(|key| part[key].as_u64().unwrap() * 512);
    let mut bytes = vec![0; size as usize];
    fs::File::open(disk).unwrap().read_exact_at(&mut bytes, start).unwrap();
    fs::write(to, bytes).unwrap();
}

/// A file out of an NTFS volume, by ntfscat.
pub(crate) fn cat(volume: &Path, path: &str, to: &Path) {
    must("sh", &["-c", &format!("ntfscat -f {} '{path}' > {}", arg(volume), arg(to))]);
}

pub(crate) fn assert_ntfs_sound(volume: &Path) {
    let said = must("ntfsfix", &["-n", arg(volume)]);
    assert!(!said.contains("FAILED") && !said.to_lowercase().contains("error"), "{said}");
}

const JUDGE: &str = include_str!("judge.py");

/// All differences of two hives, as hivex sees them, are the actions of the plan and no others.
pub(crate) fn assert_exactly(plan: &Plan, name: &str, before: &Path, after: &Path) {
    if !Tool::Hivex.there() {
        return;
    }
    let said = must(Tool::Hivex.python(), &["-c", JUDGE, "diff", arg(before), arg(after)]);
    let found: Value = serde_json::from_str(&said).unwrap();
    let prefix = format!("{name}\\");
    let planned: Vec<&Action> =
        plan.actions.iter().filter(|action| action.place.starts_with(&prefix)).collect();
    assert_planned(&planned, &prefix, &found);
    by_regipy(&planned, &prefix, after);
}

/// The differences of two hives that a judge found are those of the actions for it.
fn assert_planned(planned: &[&Action], prefix: &str, found: &Value) {
    let key_gone = |path: &str| {
        let path = path.to_lowercase();
        planned.iter().any(|action| {
            action.after.is_none()
                && path
                    .strip_prefix(&action.place[prefix.len()..].to_lowercase())
                    .is_some_and(|rest| rest.is_empty() || rest.starts_with('\\'))
        })
    };
    let mut seen = Vec::new();
    for change in found["values"].as_array().unwrap() {
        let (path, value) = (change[0].as_str().unwrap(), change[1].as_str().unwrap());
        if key_gone(path) {
            continue;
        }
        let place = format!("{prefix}{path}: {value}");
        let mut all = planned.iter().filter(|one| one.place.eq_ignore_ascii_case(&place));
        let first = all.next().unwrap_or_else(|| panic!("{place} changed, and no action says so"));
        let last = all.next_back().unwrap_or(first);
        assert_eq!(first.before, show(&change[2]), "{place} before");
        assert_eq!(last.after, show(&change[3]), "{place} after");
        seen.push(place.to_lowercase());
    }
    for action in planned {
        let place = action.place.to_lowercase();
        let gone = place.split_once('\\').map(|(_, path)| path).unwrap();
        let deleted = found["deleted"].as_array().unwrap().iter();
        let mut deleted = deleted.map(|path| path.as_str().unwrap().to_lowercase());
        // What goes with its key was noted before that.
        let within = gone.rsplit_once(": ").is_some_and(|(key, _)| key_gone(key));
        assert!(
            seen.contains(&place) || within || deleted.any(|path| path == gone),
            "{} is planned and did not happen",
            action.place
        );
    }
    for created in found["created"].as_array().unwrap() {
        let path = format!("{prefix}{}", created.as_str().unwrap()).to_lowercase();
        assert!(seen.iter().any(|place| place.starts_with(&path)), "{path} was created");
    }
    for deleted in found["deleted"].as_array().unwrap() {
        assert!(key_gone(deleted.as_str().unwrap()), "{deleted} was deleted");
    }
}

/// Keys and values of a hive that have one of the texts in their name or data, by hivex. GUIDs in
/// braces are looked for as bytes too.
pub(crate) fn mentions(hive: &Path, texts: &[&str]) -> Vec<String> {
    if !Tool::Hivex.there() {
        return Vec::new();
    }
    let args = [&["-c", JUDGE, "mentions", arg(hive)], texts].concat();
    serde_json::from_str(&must(Tool::Hivex.python(), &args)).unwrap()
}

/// regipy reads numbers and texts of the plan too.
fn by_regipy(planned: &[&Action], prefix: &str, hive: &Path) {
    if !Tool::Regipy.there() {
        return;
    }
    let last = |place: &str| planned.iter().rfind(|one| one.place == place).unwrap().after.clone();
    let mut questions = Vec::new();
    let mut answers = Vec::new();
    for action in planned {
        let Some((path, name)) = action.place[prefix.len()..].rsplit_once(": ") else { continue };
        let after = last(&action.place);
        let is_number =
            |after: &String| !after.is_empty() && after.chars().all(|digit| digit.is_ascii_digit());
        if after.as_ref().is_some_and(is_number) {
            questions.push((path, name));
            answers.push(after.unwrap());
        }
    }
    let mut child = Command::new(Tool::Regipy.python())
        .args(["-c", JUDGE, "regipy", arg(hive)])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let text = serde_json::to_string(&questions).unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    let done = child.wait_with_output().unwrap();
    assert!(done.status.success(), "regipy");
    let found: Vec<Value> = serde_json::from_slice(&done.stdout).unwrap();
    let found: Vec<String> =
        found.iter().map(|one| one.to_string().trim_matches('"').to_owned()).collect();
    assert_eq!(found, answers, "{questions:?}");
}

/// A value as plans show it.
fn show(value: &Value) -> Option<String> {
    let kind = value[0].as_u64()?;
    let hex = value[1].as_str().unwrap();
    let bytes: Vec<u8> = (0..hex.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap())
        .collect();
    let units: Vec<u16> =
        bytes.chunks_exact(2).map(|pair| u16::from_le_bytes([pair[0], pair[1]])).collect();
    let text = String::from_utf16_lossy(&units);
    Some(match kind {
        1 | 2 if text.ends_with('\0') => text.trim_end_matches('\0').to_owned(),
        7 if text.ends_with('\0') => text.trim_end_matches('\0').replace('\0', "; "),
        4 if bytes.len() == 4 => u32::from_le_bytes(bytes[..].try_into().unwrap()).to_string(),
        _ => {
            let shown: Vec<String> =
                bytes.iter().take(512).map(|byte| format!("{byte:02x}")).collect();
            let more = if bytes.len() > 512 { " …" } else { "" };
            format!("type {kind:#x}: {}{more}", shown.join(" "))
        }
    })
}
