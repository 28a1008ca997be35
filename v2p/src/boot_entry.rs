//! An entry of this machine's firmware that starts a disk.
//!
//! The kernel shows UEFI's variables as files: four bytes of attributes, then the content. An entry
//! is `Boot` with a number in hexadecimal digits; `BootOrder` lists the numbers (UEFI
//! specification 2.10, sections 3.1.3, 3.3 and 10.3).

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::{ErrorKind as Io, Write};
use std::path::Path;
use std::sync::Arc;

use vdisk::{Disk, Error, ErrorKind, Result};
use vdisk_guest::fs::{FileKind, open};
use vdisk_parts::{Partition, Role, Table, TableKind};

/// Where the kernel shows the variables of the firmware.
pub const VARIABLES: &str = "/sys/firmware/efi/efivars";
/// The vendor of the variables that the specification itself names.
const GLOBAL: &str = "8be4df61-93ca-11d2-aa0d-00e098032b8c";
/// They outlast a restart, and are seen by the firmware and by systems.
const ATTRIBUTES: [u8; 4] = [7, 0, 0, 0];
/// An entry that is used.
const ACTIVE: u32 = 1;
/// Most bytes of a variable.
const MOST: u64 = 64 << 10;

/// Fails where entries cannot be added: before anything is written to the disk.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported) where this machine was not started by UEFI.
pub fn insist_on_variables(variables: &Path) -> Result<()> {
    if variables.is_dir() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Unsupported, "there are no variables of a UEFI")
        .in_file(variables)
        .hint(
            "this system was started by a BIOS, or efivarfs is not mounted; without a boot entry \
             a UEFI finds the disk by its fallback loader",
        ))
}

/// Adds an entry called `label` that starts `disk`, whose sectors have `sector` bytes, before all
/// others, and gives its name, such as `Boot0003`. One that is there already is used again.
///
/// # Errors
/// [`Unsupported`](ErrorKind::Unsupported) where the disk has no loader for this machine's UEFI on
/// an EFI system partition of a GPT; the host's.
pub fn add_boot_entry(
    variables: &Path,
    disk: &Arc<dyn Disk>,
    sector: u64,
    label: &str,
) -> Result<String> {
    insist_on_variables(variables)?;
    let table = Table::read(&**disk, sector)?;
    let (partition, loader) = loader(disk, &table)?.ok_or_else(|| {
        Error::unsupported("the disk has no loader for this machine's UEFI")
            .hint("the entry names a loader on the EFI system partition of a GPT")
    })?;
    let option = load_option(partition, table.sector_size, loader, label);
    let number = free_number(variables, &option)?;
    let name = format!("Boot{number:04X}");
    write(variables, &name, &option)?;
    let old = read(variables, "BootOrder")?.unwrap_or_default();
    let others = old.chunks_exact(2).filter(|one| **one != number.to_le_bytes());
    let order: Vec<u8> =
        number.to_le_bytes().into_iter().chain(others.flatten().copied()).collect();
    if order != old {
        write(variables, "BootOrder", &order)?;
    }
    Ok(name)
}

/// The program that is started, and the partition it is on.
fn loader<'a>(
    disk: &Arc<dyn Disk>,
    table: &'a Table,
) -> Result<Option<(&'a Partition, &'static str)>> {
    if !matches!(table.kind, TableKind::Gpt { .. }) {
        return Ok(None);
    }
    let fallback = match std::env::consts::ARCH {
        "x86_64" => "/EFI/BOOT/BOOTX64.EFI",
        "x86" => "/EFI/BOOT/BOOTIA32.EFI",
        "aarch64" => "/EFI/BOOT/BOOTAA64.EFI",
        "riscv64" => "/EFI/BOOT/BOOTRISCV64.EFI",
        _ => return Ok(None),
    };
    for partition in table.partitions.iter().filter(|one| one.kind.role() == Some(Role::EfiSystem))
    {
        let Some(fs) = open(Arc::new(partition.open(disk.clone())?))? else { continue };
        for path in [fallback, "/EFI/Microsoft/Boot/bootmgfw.efi"] {
            if fs.stat(path.as_bytes()).is_ok_and(|found| found.kind == FileKind::File) {
                return Ok(Some((partition, path)));
            }
        }
    }
    Ok(None)
}

/// `EFI_LOAD_OPTION`: what is started, and what people see.
fn load_option(partition: &Partition, sector: u64, loader: &str, label: &str) -> Vec<u8> {
    let path = device_path(partition, sector, loader);
    let len = u16::try_from(path.len()).unwrap_or(u16::MAX);
    let mut option = ACTIVE.to_le_bytes().to_vec();
    option.extend(len.to_le_bytes());
    option.extend(utf16(label));
    option.extend(path);
    option
}

/// The partition, wherever its disk is plugged in, and the file on it.
fn device_path(partition: &Partition, sector: u64, loader: &str) -> Vec<u8> {
    const MEDIA: u8 = 4;
    const GPT: u8 = 2;
    const GUID: u8 = 2;
    let mut drive = partition.number.to_le_bytes().to_vec();
    drive.extend((partition.start / sector).to_le_bytes());
    drive.extend((partition.len / sector).to_le_bytes());
    drive.extend(partition.uuid.unwrap_or_default().to_bytes_le());
    drive.extend([GPT, GUID]);
    let mut path = node(MEDIA, 1, &drive);
    path.extend(node(MEDIA, 4, &utf16(&loader.replace('/', "\\"))));
    path.extend(node(0x7f, 0xff, &[]));
    path
}

fn node(kind: u8, subtype: u8, content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len() + 4).unwrap_or(u16::MAX);
    let mut node = vec![kind, subtype];
    node.extend(len.to_le_bytes());
    node.extend(content);
    node
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().chain([0]).flat_map(u16::to_le_bytes).collect()
}

/// The number of the same entry, or the first that no entry has.
fn free_number(variables: &Path, option: &[u8]) -> Result<u16> {
    let failed = |error| Error::io(error, "list the firmware's variables").in_file(variables);
    let mut taken = BTreeSet::new();
    for entry in fs::read_dir(variables).map_err(failed)? {
        let name = entry.map_err(failed)?.file_name();
        let Some(number) = name.to_str().and_then(number_of) else { continue };
        if read(variables, &format!("Boot{number:04X}"))?.as_deref() == Some(option) {
            return Ok(number);
        }
        taken.insert(number);
    }
    (0..=u16::MAX)
        .find(|number| !taken.contains(number))
        .ok_or_else(|| Error::new(ErrorKind::NoSpace, "the firmware has no room for another entry"))
}

/// The number of an entry by the name of its file.
fn number_of(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("Boot")?.strip_suffix(GLOBAL)?.strip_suffix('-')?;
    let number = (digits.len() == 4).then(|| u16::from_str_radix(digits, 16).ok())??;
    (digits == format!("{number:04X}")).then_some(number)
}

/// A variable's content; `None` where it is not there.
fn read(variables: &Path, name: &str) -> Result<Option<Vec<u8>>> {
    let path = variables.join(format!("{name}-{GLOBAL}"));
    let mut bytes = Vec::new();
    let read = fs::File::open(&path).and_then(|file| {
        std::io::Read::read_to_end(&mut std::io::Read::take(file, MOST), &mut bytes)
    });
    match read {
        Ok(_) => Ok(bytes.get(ATTRIBUTES.len()..).map(<[u8]>::to_vec)),
        Err(error) if error.kind() == Io::NotFound => Ok(None),
        Err(error) => Err(Error::io(error, "read it").in_file(path)),
    }
}

/// Gives a variable its content, which the firmware takes in one piece.
fn write(variables: &Path, name: &str, content: &[u8]) -> Result<()> {
    let path = variables.join(format!("{name}-{GLOBAL}"));
    let bytes = [&ATTRIBUTES[..], content].concat();
    // The kernel takes what is written for all of the variable; it is never cut.
    let opened = OpenOptions::new().write(true).create(true).truncate(false).open(&path);
    opened
        .and_then(|mut file| file.write_all(&bytes))
        .map_err(|error| Error::io(error, "set it").in_file(path))
}
