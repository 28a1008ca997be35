//! A volume with a Windows on it.

use vdisk_core::Result;
use vdisk_hive::{BaseBlock, Hive};

use super::Description;
use crate::fs::{FsKind, GuestFs};
use crate::inventory::{HiveFacts, HiveState, System, Windows};
use crate::notes::Notes;
use crate::tree::Tree;

/// Bytes of a hive or a log, at most: Windows' own limit for SYSTEM is far below.
const MOST: u64 = 512 << 20;
/// Names of the folder that Windows is in, as its setup chooses them.
const FOLDERS: [&str; 3] = ["/Windows", "/WINNT", "/WINDOWS.0"];
const LOGS: [&str; 3] = [".LOG1", ".LOG2", ".LOG"];

/// The Windows on a volume, and what was wrong with it; none where there is none.
pub(crate) fn inspect(fs: &dyn GuestFs) -> Option<(System, Vec<String>)> {
    if !matches!(fs.info().kind, FsKind::Ntfs | FsKind::Fat32 | FsKind::Fat16) {
        return None;
    }
    let notes = Notes::default();
    let tree = Tree::new(fs, "", &notes);
    let system = |folder: &str| format!("{folder}/System32/config/SYSTEM");
    let folder = FOLDERS.into_iter().find(|folder| tree.has(&system(folder)))?;
    let mut description = Description::default();
    let mut hives = Vec::new();
    for (name, add) in HIVES {
        let path = format!("{folder}/System32/config/{name}");
        let loaded = load(fs, &path).map_err(|error| notes.add(error.to_string())).ok();
        let state = loaded.as_ref().map_or(HiveState::Unreadable, |(_, state)| *state);
        if state == HiveState::Stale {
            notes.add(format!("{path} was not written to the end, and its logs do not mend it"));
        }
        hives.push(HiveFacts { name, state });
        if let Some((hive, _)) = loaded {
            add(&mut description, &hive);
        }
    }
    let arch = kernel_arch(&tree, folder);
    let (mut system, mut problems) = description.finish();
    system.arch = arch.or(system.arch);
    let windows = system.windows.get_or_insert_with(Windows::default);
    windows.folder = Some(folder.to_owned());
    windows.hives = hives;
    problems.extend(notes.into_list());
    Some((system, problems))
}

type Add = fn(&mut Description, &Hive);

/// The hives that are needed: one at a time, and the largest first, whose memory the others then
/// use again. SOFTWARE alone can be a hundred megabytes.
const HIVES: [(&str, Add); 4] = [
    ("SOFTWARE", Description::add_software),
    ("SYSTEM", Description::add_system),
    ("SAM", Description::add_sam),
    ("SECURITY", Description::add_security),
];

/// Reads a hive; where it is dirty its logs too, which are replayed in memory.
fn load(fs: &dyn GuestFs, path: &str) -> Result<(Hive, HiveState)> {
    let bytes = fs.read(path.as_bytes(), MOST)?;
    if BaseBlock::parse(&bytes).is_ok_and(|base| !base.is_dirty()) {
        return Ok((Hive::parse(bytes)?, HiveState::Clean));
    }
    let logs: Vec<Vec<u8>> = LOGS
        .iter()
        .filter_map(|ending| fs.read(format!("{path}{ending}").as_bytes(), MOST).ok())
        .collect();
    let logs: Vec<&[u8]> = logs.iter().map(Vec::as_slice).collect();
    match Hive::recover(bytes, &logs) {
        Ok((hive, _)) => Ok((hive, HiveState::Recovered)),
        // An old state tells more than none.
        Err(error) => match Hive::parse(fs.read(path.as_bytes(), MOST)?) {
            Ok(hive) => Ok((hive, HiveState::Stale)),
            Err(_) => Err(error),
        },
    }
}

/// The machine its kernel is for, by the header of the program (PE/COFF 3.3).
fn kernel_arch(tree: &Tree<'_>, folder: &str) -> Option<&'static str> {
    let head = tree.bytes(&format!("{folder}/System32/ntoskrnl.exe"), 0, 4096)?;
    let at = head.get(0x3c..)?.first_chunk::<4>().map(|at| u32::from_le_bytes(*at))?;
    let header = head.get(usize::try_from(at).ok()?..)?;
    let [b'P', b'E', 0, 0, low, high] = *header.first_chunk()? else { return None };
    match u16::from_le_bytes([low, high]) {
        0x014c => Some("x86"),
        0x8664 => Some("x86_64"),
        0xaa64 => Some("arm64"),
        0x01c4 => Some("arm"),
        0x0200 => Some("ia64"),
        _ => None,
    }
}
