//! Boot configuration data: which partition of which disk Windows is loaded from.
//!
//! It is a hive: `EFI\Microsoft\Boot\BCD` on an EFI system partition, `Boot\BCD` on the active
//! partition. Where ids of a disk or its partitions change, or have changed, what it names is
//! changed with them. Firmware without settings of its own starts only the
//! loader at a fixed place of the EFI system partition, which is put there where it is missing.

mod device;

use vdisk_core::{ErrorKind, Result};
use vdisk_guest::Place;
use vdisk_parts::{DiskId, Partition, Role, Table};

pub use device::PartitionId;

use super::guest::{Arch, Guest};
use super::{Data, Hives, Reason, Registry, files};
use crate::{Machine, Plan};

const UEFI: &str = "/EFI/Microsoft/Boot/BCD";
const BIOS: &str = "/Boot/BCD";
/// The boot manager's object.
const BOOT_MANAGER: &str = "{9dea862c-5cdd-4e70-acc1-f32b344d4795}";
/// Elements: the device an application is loaded from, and the one Windows is on.
const APPLICATION: &str = "11000001";
const OS: &str = "21000001";

/// Boot configuration data that was found.
#[derive(Clone, Debug)]
struct Store {
    place: Place,
    path: &'static str,
    /// What it is called in plans.
    name: String,
    /// The partition that it is on.
    partition: PartitionId,
}

/// Changes every partition that boot configuration data of this machine names, by pairs of old and
/// new ones.
///
/// # Errors
/// The disk's, and damage of the hives.
pub fn retarget(
    machine: &mut Machine,
    hives: &mut Hives,
    ids: &[(PartitionId, PartitionId)],
    plan: &mut Plan,
) -> Result<()> {
    let reason = Reason {
        id: "windows.bcd",
        what: "name a partition by its new id",
        why: "the boot manager looks for partitions by the ids of disk and partition",
    };
    let new = |id| ids.iter().find(|(old, _)| *old == id).map(|(_, new)| *new);
    for store in stores(machine, machine.at_hand())? {
        let registry = hives.file(machine, &store.place, store.path, &store.name)?;
        for element in elements(registry)? {
            replace(registry, &element, new, reason, plan)?;
        }
    }
    Ok(())
}

/// Whether boot configuration data on disk number `disk` names one of the `wanted` partitions.
///
/// # Errors
/// As [`retarget`].
pub(super) fn names(
    machine: &mut Machine,
    hives: &mut Hives,
    disk: usize,
    wanted: impl Fn(PartitionId) -> bool,
) -> Result<bool> {
    for store in stores(machine, disk)? {
        let registry = hives.file(machine, &store.place, store.path, &store.name)?;
        for element in elements(registry)? {
            if named(registry, &element)?.into_iter().any(&wanted) {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

/// Where no entry of the boot configuration data loads from this Windows' partition, and one loads
/// from a partition that is not there, that one is made to name it. Whether Windows' own loader is
/// where firmware looks first is seen to as well.
///
/// # Errors
/// As [`retarget`].
pub(super) fn mend(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    plan: &mut Plan,
) -> Result<()> {
    let table = Table::read(&**machine.disk(), machine.sector_size())?;
    let there: Vec<PartitionId> =
        table.partitions.iter().filter_map(|one| id(&table, one)).collect();
    let Place::Partition(number) = guest.root else { return Ok(()) };
    let root = table.partitions.iter().find(|one| one.number == number);
    let Some(root) = root.and_then(|one| id(&table, one)) else { return Ok(()) };
    let found = stores(machine, machine.at_hand())?;
    for store in &found {
        let registry = hives.file(machine, &store.place, store.path, &store.name)?;
        mend_store(registry, store, root, &there, machine.inventory().systems.len(), plan)?;
    }
    for store in found.iter().filter(|store| store.path == UEFI) {
        fallback(machine, guest, &store.place, plan)?;
    }
    Ok(())
}

fn mend_store(
    registry: &mut Registry,
    store: &Store,
    root: PartitionId,
    there: &[PartitionId],
    systems: usize,
    plan: &mut Plan,
) -> Result<()> {
    let mut loaders = Vec::new();
    for object in registry.children("Objects")? {
        let path = format!("Objects\\{object}\\Elements\\{OS}");
        let named = named(registry, &path)?;
        if let Some(id) = named.first() {
            loaders.push((object, *id));
        }
    }
    let manager = format!("Objects\\{BOOT_MANAGER}\\Elements\\{APPLICATION}");
    let lost = |id: PartitionId| !there.contains(&id);
    let mut changed = Vec::new();
    if named(registry, &manager)?.into_iter().any(lost) {
        changed.push((manager, store.partition));
    }
    if !loaders.iter().any(|(_, id)| *id == root) {
        let lost: Vec<&(String, PartitionId)> =
            loaders.iter().filter(|(_, id)| lost(*id)).collect();
        match lost.as_slice() {
            [] => {}
            [(object, _)] if systems == 1 => {
                for element in [APPLICATION, OS] {
                    changed.push((format!("Objects\\{object}\\Elements\\{element}"), root));
                }
            }
            _ => plan.warn(
                "windows.bcd.unknown",
                "boot configuration data names partitions that are not on this disk",
                "move the machine's other disks too, or repair it from Windows' own medium: bcdboot",
            ),
        }
    }
    let reason = Reason {
        id: "windows.bcd",
        what: "name the partition that is there",
        why: "the one named is not on this disk, and no other entry starts this Windows",
    };
    for (path, new) in changed {
        replace(registry, &path, |id| lost(id).then_some(new), reason, plan)?;
    }
    Ok(())
}

/// The elements of all objects.
fn elements(registry: &Registry) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for object in registry.children("Objects")? {
        let elements = format!("Objects\\{object}\\Elements");
        let inside = registry.children(&elements)?.into_iter();
        found.extend(inside.map(|element| format!("{elements}\\{element}")));
    }
    Ok(found)
}

/// The partitions that an element names.
fn named(registry: &Registry, element: &str) -> Result<Vec<PartitionId>> {
    let Some(value) = registry.value(element, "Element")? else { return Ok(Vec::new()) };
    Ok(PartitionId::find(&value.data()?).into_iter().map(|(_, id)| id).collect())
}

fn replace(
    registry: &mut Registry,
    element: &str,
    new: impl Fn(PartitionId) -> Option<PartitionId>,
    reason: Reason<'_>,
    plan: &mut Plan,
) -> Result<()> {
    let Some(value) = registry.value(element, "Element")? else { return Ok(()) };
    let (kind, data) = (value.kind(), value.data()?.into_owned());
    let Some(data) = PartitionId::replace(&data, new) else { return Ok(()) };
    registry.set(plan, reason, element, "Element", &Data::Raw(kind, data)).map(drop)
}

/// All boot configuration data on disk number `disk`: on EFI system partitions and active ones.
fn stores(machine: &mut Machine, disk: usize) -> Result<Vec<Store>> {
    let table = machine.table(disk)?;
    let mut found: Vec<Store> = Vec::new();
    for partition in &table.partitions {
        let path = match partition.kind.role() {
            Some(Role::EfiSystem) => UEFI,
            _ if partition.active => BIOS,
            _ => continue,
        };
        let place = Place::OnDisk(disk, Box::new(Place::Partition(partition.number)));
        let Some(id) = id(&table, partition) else { continue };
        let there = match machine.volume(&place) {
            Ok(volume) => volume.fs().exists(path.as_bytes())?,
            Err(error) if error.kind() == ErrorKind::UnknownFormat => false,
            Err(error) => return Err(error),
        };
        if !there {
            continue;
        }
        let name = match found.len() {
            0 => "BCD".to_owned(),
            _ => format!("BCD of partition {}", partition.number),
        };
        found.push(Store { place, path, name, partition: id });
    }
    Ok(found)
}

/// The partition as boot configuration data names it.
pub(super) fn id(table: &Table, partition: &Partition) -> Option<PartitionId> {
    Some(match table.id? {
        DiskId::Gpt(disk) => PartitionId::Gpt { disk, partition: partition.uuid? },
        DiskId::Mbr(signature) => PartitionId::Mbr { signature, start: partition.start },
    })
}

/// Puts Windows' boot manager where firmware without settings looks (UEFI 2.10, 3.5.1.1).
fn fallback(machine: &mut Machine, guest: &Guest, esp: &Place, plan: &mut Plan) -> Result<()> {
    let name = match guest.arch {
        Arch::X86 => "BOOTIA32.EFI",
        Arch::Amd64 => "BOOTX64.EFI",
        Arch::Arm64 => "BOOTAA64.EFI",
    };
    let fs = machine.volume(esp)?.fs();
    let path = format!("/EFI/BOOT/{name}");
    if fs.exists(path.as_bytes())? {
        return Ok(());
    }
    let manager = files::read(fs, "/EFI/Microsoft/Boot/bootmgfw.efi")?;
    let Some(manager) = manager else { return Ok(()) };
    let reason = Reason {
        id: "windows.esp.fallback",
        what: "put the boot manager where firmware looks first",
        why: "a new machine's firmware knows no other place",
    };
    files::put(fs, &path, &manager, reason, plan)
}
