//! The original of a copy: a Windows that names its machine in every way there is.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use vdisk_fixup::windows::identity::rewrite::rewrite;
use vdisk_fixup::windows::identity::sid::MachineSid;
use vdisk_fixup::windows::identity::swap::Swap;
use vdisk_hive::{Editor, FileTime, Hive, ValueKind};
use vdisk_testkit::regf::{empty_hive, seal_header};
use vdisk_testkit::tools::{arg, sha256};

use super::volume::{GIVE, dressed};
use super::{DISK, PARTITION, Registry, Spec, utf16, windows_dressed};

/// The SID of the corpus' SAM of Windows 7.
pub(crate) const OLD: MachineSid = MachineSid([1_760_460_187, 1_592_185_332, 161_725_925]);
/// Its MachineGuid, and the id its update server knows it by.
pub(crate) const GUID: &str = "0f1e2d3c-4b5a-4968-8776-655443322110";
/// Where the hives are, on its volume.
pub(crate) const CONFIG: &str = "Windows/System32/config";
/// A scheduled task that names a user.
pub(crate) const TASK: &str = "Windows/System32/Tasks/Backup";
/// An entry of the boot configuration that names the partition of Windows.
pub(crate) const ELEMENT: &str =
    "Objects\\{11111111-1111-1111-1111-111111111111}\\Elements\\21000001";
/// The signature of an MBR disk, and where its only partition begins.
pub(crate) const SIGNATURE: u32 = 0x5cbe_a03e;
const START: u64 = 1 << 20;
/// Files with descriptors of their own making.
const DESCRIPTORS: &str = "200";

/// Hives that are changed by another identity, by their paths on the volume and their names in
/// plans.
pub(crate) const HIVES: [(&str, &str); 9] = [
    ("Windows/System32/config/SAM", "SAM"),
    ("Windows/System32/config/SECURITY", "SECURITY"),
    ("Windows/System32/config/SYSTEM", "SYSTEM"),
    ("Windows/System32/config/SOFTWARE", "SOFTWARE"),
    ("Windows/System32/config/RegBack/SOFTWARE", "RegBack"),
    ("Users/bob/NTUSER.DAT", "NTUSER.DAT"),
    ("Users/bob/AppData/Local/Microsoft/Windows/UsrClass.dat", "UsrClass.dat"),
    ("Users/ghost/NTUSER.DAT", "NTUSER.DAT"),
    ("Users/ghost/AppData/Local/Microsoft/Windows/UsrClass.dat", "UsrClass.dat"),
];

/// A disk with the Windows of `spec`, its hives of one machine with a user, in `folder`.
pub(crate) fn original(
    folder: &Path,
    spec: &Spec<'_>,
    prepare: impl FnOnce(&mut Registry),
) -> Option<PathBuf> {
    let own_partition = |bcd: &mut Registry| {
        let element = if spec.gpt { gpt_element(DISK, PARTITION) } else { mbr_element(SIGNATURE) };
        bcd.set(ELEMENT, "Element", ValueKind::BINARY, &element);
    };
    let system = |system: &mut Registry| {
        name_accounts(system);
        prepare(system);
    };
    let disk = windows_dressed(folder, spec, system, own_partition, dress)?;
    let [a, b, c] = OLD.0.map(|word| word.to_string());
    dressed(&disk, spec.root(), GIVE, &[DESCRIPTORS, &a, &b, &c])?;
    Some(disk)
}

/// What SYSTEM of a Windows says of its accounts: rules of its firewall, names of values and keys.
fn name_accounts(system: &mut Registry) {
    let sid = format!("{OLD}-1000");
    let set = "ControlSet001";
    let policy = format!("{set}\\Services\\SharedAccess\\Parameters\\FirewallPolicy");
    let rule = format!("v2.26|Action=Allow|Active=TRUE|Dir=Out|LUOwn={sid}|");
    system.text(&format!("{policy}\\FirewallRules"), "{1}", &rule);
    let name = format!("S-1-15-2-1-2-3-4-5-6-2960383310{sid}");
    system.set(&format!("{set}\\Services\\MpsSvc\\Parameters\\AppCs"), &name, ValueKind::SZ, &[]);
    let user = format!("{set}\\Services\\bam\\State\\UserSettings\\{sid}");
    system.number(&user, "Version", 1);
    system.set(&user, "descriptor", ValueKind(0xffff_0013), &account());
}

/// Puts what names the machine into a tree of Windows' files.
fn dress(tree: &Path) {
    let at = |path: &str| tree.join(path);
    adopt(&at(&format!("{CONFIG}/SECURITY")));
    let sid = format!("{OLD}-1000");
    let task = format!("<Task><UserId>{sid}</UserId></Task>");
    let task = [&[0xff, 0xfe][..], &utf16(&task)].concat();
    let software = at(&format!("{CONFIG}/SOFTWARE"));
    let mut registry = Registry::open(&software);
    let nt = "Microsoft\\Windows NT\\CurrentVersion";
    registry.text(nt, "SystemRoot", "C:\\Windows");
    let list = format!("{nt}\\ProfileList");
    registry.set(&list, "ProfilesDirectory", ValueKind::EXPAND_SZ, &utf16("%SystemDrive%\\Users"));
    let profile = format!("{list}\\{sid}");
    registry.text(&profile, "ProfileImagePath", "%SystemDrive%\\Users\\bob");
    registry.set(&profile, "Sid", ValueKind::BINARY, &account());
    let cache = format!("{nt}\\Schedule\\TaskCache");
    registry.text(&format!("{cache}\\Tree\\Backup"), "Id", "{1}");
    registry.set(
        &format!("{cache}\\Tasks\\{{1}}"),
        "Hash",
        ValueKind::BINARY,
        &unhex(&sha256(&task)),
    );
    registry.text("Microsoft\\Cryptography", "MachineGuid", GUID);
    registry.text("Microsoft\\SQMClient", "MachineId", "{OLD}");
    let update = "Microsoft\\Windows\\CurrentVersion\\WindowsUpdate";
    registry.text(update, "SusClientId", GUID);
    registry.save(&software);
    // The profile of one of them is no longer on the list.
    for user in ["bob", "ghost"] {
        user_hive(&at(&format!("Users/{user}/NTUSER.DAT")));
        user_hive(&at(&format!("Users/{user}/AppData/Local/Microsoft/Windows/UsrClass.dat")));
    }
    user_hive(&at(&format!("{CONFIG}/RegBack/SOFTWARE")));
    // Of this one only the log names anybody.
    fs::write(at(&format!("{CONFIG}/DRIVERS")), empty_hive(5)).unwrap();
    log(&at(&format!("{CONFIG}/DRIVERS")));
    for (path, content) in [
        (TASK.to_owned(), task),
        (format!("$Recycle.Bin/{sid}/desktop.ini"), b"x".to_vec()),
        (format!("Users/bob/AppData/Roaming/Microsoft/Protect/{sid}/Preferred"), vec![1]),
        (format!("Users/bob/AppData/Roaming/Microsoft/Crypto/RSA/{sid}/{sid}_key"), vec![2]),
    ] {
        fs::create_dir_all(at(&path).parent().unwrap()).unwrap();
        fs::write(at(&path), content).unwrap();
    }
}

/// The policy of another machine becomes that of this one.
fn adopt(security: &Path) {
    let hive = Hive::parse(fs::read(security).unwrap()).unwrap();
    let value = hive.open("Policy\\PolAcDmS").unwrap().unwrap().value("").unwrap().unwrap();
    let own = MachineSid::at_end(&value.data().unwrap()).unwrap();
    let mut editor = Editor::new(hive, now()).unwrap();
    rewrite(&mut editor, &Swap::new(own, OLD)).unwrap();
    fs::write(security, editor.finish().unwrap()).unwrap();
}

/// A hive that names the user in every way there is, and the same in its log.
fn user_hive(path: &Path) {
    let mut editor = Editor::new(Hive::parse(empty_hive(5)).unwrap(), now()).unwrap();
    let root = editor.hive().root().unwrap().id();
    let sid = format!("{OLD}-1000");
    for name in [sid.as_str(), "S-1-5-18", "S-1-5-21-9-9-9-500", "Software"] {
        editor.create_key(root, name).unwrap();
    }
    editor.set_value(root, sid.as_str(), ValueKind::SZ, &utf16(&sid)).unwrap();
    editor.set_value(root, "binary", ValueKind::BINARY, &account()).unwrap();
    editor.set_value(root, "gone", ValueKind::SZ, &utf16(&sid)).unwrap();
    editor.set_class(root, &utf16(&sid)).unwrap();
    let head = [1, 0, 4, 0x80, 20, 0, 0, 0, 20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    editor.set_security(root, &[&head[..], &account()].concat()).unwrap();
    editor.delete_value(root, "gone").unwrap();
    let mut bytes = editor.finish().unwrap();
    // The end of the only bin is a free cell, as another tool would leave it.
    let dead = utf16(&sid);
    let at = bytes.len() - dead.len() - 2;
    assert!(bytes[at - 8..].iter().all(|byte| *byte == 0));
    bytes[at..at + dead.len()].copy_from_slice(&dead);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, bytes).unwrap();
    log(path);
}

/// A log of the hive at `path`, which Windows left behind: it begins like a hive, and names the user.
fn log(path: &Path) {
    let mut head = fs::read(path).unwrap()[..512].to_vec();
    head[28] = 6;
    seal_header(&mut head);
    let log = [head, utf16(&format!("{OLD}-1000")), vec![0; 600]].concat();
    fs::write(format!("{}.LOG1", arg(path)), log).unwrap();
}

/// The user's SID in binary.
fn account() -> Vec<u8> {
    let head = [1, 5, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0];
    [&head[..], &OLD.words(), &1000_u32.to_le_bytes()].concat()
}

/// A device of the boot configuration: the partition of the test's MBR disk.
pub(crate) fn mbr_element(signature: u32) -> Vec<u8> {
    let mut bytes = device();
    bytes[32..40].copy_from_slice(&START.to_le_bytes());
    bytes[52] = 1;
    bytes[56..60].copy_from_slice(&signature.to_le_bytes());
    bytes
}

/// The same of a GPT disk.
pub(crate) fn gpt_element(disk: &str, partition: &str) -> Vec<u8> {
    let mut bytes = device();
    bytes[32..48].copy_from_slice(&guid(partition));
    bytes[56..72].copy_from_slice(&guid(disk));
    bytes
}

fn device() -> Vec<u8> {
    let mut bytes = vec![0; 88];
    bytes[16] = 6;
    bytes[24] = 0x48;
    bytes
}

/// What MountedDevices says of the partition of an MBR disk.
pub(crate) fn mounted_as(signature: u32) -> Vec<u8> {
    [&signature.to_le_bytes()[..], &START.to_le_bytes()].concat()
}

/// A GUID as Windows keeps it: its first three numbers little-endian.
fn guid(text: &str) -> Vec<u8> {
    let mut bytes = unhex(&text.replace('-', ""));
    bytes[..4].reverse();
    bytes[4..6].reverse();
    bytes[6..8].reverse();
    bytes
}

fn unhex(hex: &str) -> Vec<u8> {
    let byte = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).unwrap();
    (0..hex.len()).step_by(2).map(byte).collect()
}

fn now() -> FileTime {
    FileTime::from(SystemTime::now())
}
