//! What a firmware can start from a disk.

use vdisk_core::{Disk, Result};
use vdisk_parts::{Role, Table, TableKind};

use crate::fs::FileKind;
use crate::inspect::{Volume, problem};
use crate::inventory::{Boot, BootMode, Problem};
use crate::notes::Notes;
use crate::tree::Tree;

/// Bytes of the first sector that are a program, if not zero.
const BOOT_CODE: usize = 440;
/// Folders below `/EFI` that are looked into, at most.
const MOST_FOLDERS: usize = 64;

pub(crate) fn find(
    disk: &dyn Disk,
    table: Option<&Table>,
    volumes: &[Volume],
    problems: &mut Vec<Problem>,
) -> Boot {
    let mut loaders = Vec::new();
    for volume in volumes.iter().filter(|one| one.role == Some(Role::EfiSystem)) {
        let Some(fs) = volume.fs.as_deref() else { continue };
        let notes = Notes::default();
        loaders.extend(efi_programs(&Tree::new(fs, "", &notes)));
        let told = notes.into_list().into_iter();
        problems.extend(told.map(|message| Problem { volume: volume.name(), message }));
    }
    let bios = table.is_some_and(|table| {
        bios_starts(disk, table, volumes).unwrap_or_else(|error| {
            problems.push(problem("disk", &error));
            false
        })
    });
    let mode = match (bios, !loaders.is_empty()) {
        (true, true) => Some(BootMode::Both),
        (true, false) => Some(BootMode::Bios),
        (false, true) => Some(BootMode::Uefi),
        (false, false) => None,
    };
    let fallback_loader = loaders.iter().any(|path| is_fallback(path));
    Boot { mode, loaders, fallback_loader }
}

/// The programs in `/EFI/FOLDER/` and, for Windows, `/EFI/Microsoft/Boot/`.
fn efi_programs(esp: &Tree<'_>) -> Vec<String> {
    let mut programs = Vec::new();
    let folders = esp.list("/EFI").into_iter().filter(|(_, kind)| *kind == FileKind::Directory);
    for (folder, _) in folders.take(MOST_FOLDERS) {
        for path in [format!("/EFI/{folder}"), format!("/EFI/{folder}/Boot")] {
            let files = esp.list(&path).into_iter().filter(|(name, kind)| {
                *kind == FileKind::File && name.to_ascii_lowercase().ends_with(".efi")
            });
            programs.extend(files.map(|(name, _)| format!("{path}/{name}")));
        }
    }
    programs
}

/// UEFI specification 2.10, table 3.5: what is started where nothing else is set up.
fn is_fallback(path: &str) -> bool {
    path.to_ascii_lowercase().strip_prefix("/efi/boot/boot").is_some_and(|rest| {
        matches!(rest, "ia32.efi" | "x64.efi" | "arm.efi" | "aa64.efi" | "ia64.efi" | "riscv64.efi")
    })
}

/// Whether a BIOS finds a program in the first sector, and that one something to go on with: an
/// active partition that begins with a program, or the rest of GRUB.
fn bios_starts(disk: &dyn Disk, table: &Table, volumes: &[Volume]) -> Result<bool> {
    let Some(sector) = first_sector(disk)? else { return Ok(false) };
    let code = sector.get(..BOOT_CODE).unwrap_or_default();
    if code.iter().all(|byte| *byte == 0) || !sector.ends_with(&[0x55, 0xaa]) {
        return Ok(false);
    }
    if table.kind == TableKind::None {
        // A volume over all of the disk: its first sector is the program of its file system, which
        // is there even where nothing can start.
        return Ok(false);
    }
    // On a GPT its rest has a partition of its own. Where that is missing, the program is left from
    // an earlier system: who makes another table keeps those bytes.
    let has_rest = !matches!(table.kind, TableKind::Gpt { .. })
        || table.partitions.iter().any(|one| one.kind.role() == Some(Role::BiosBoot));
    if has_rest && code.windows(4).any(|word| word == b"GRUB") {
        return Ok(true);
    }
    for volume in volumes.iter().filter(|one| one.active) {
        let Some(disk) = &volume.disk else { continue };
        let starts = first_sector(&**disk)?
            .is_some_and(|sector| matches!(sector, [0xeb | 0xe9 | 0xfa | 0x33, .., 0x55, 0xaa]));
        if starts {
            return Ok(true);
        }
    }
    Ok(false)
}

fn first_sector(disk: &dyn Disk) -> Result<Option<[u8; 512]>> {
    let mut sector = [0; 512];
    if disk.len() < 512 {
        return Ok(None);
    }
    disk.read_at(&mut sector, 0)?;
    Ok(Some(sector))
}
