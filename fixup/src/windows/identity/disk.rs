//! The disk's signature or GUIDs, with all that names its partitions by them.

use uuid::Uuid;
use vdisk_core::{Disk, Error, ErrorKind, Result};
use vdisk_guest::Place;
use vdisk_parts::{DiskId, Edit, Partition, Role, Table};

use super::{cautiously, profiles};
use crate::windows::bcd::{self, PartitionId, retarget};
use crate::windows::{Data, Guest, Hives, Reason, files, is_of_the_disk};
use crate::{Action, Machine, Plan, StripOptions};

const ID: &str = "windows.disk-id";
const SERIAL: &str = "windows.volume-serial";
const WHY: &str = "of two disks with the same one Windows takes one offline";
/// Where an NTFS boot sector keeps bytes of a sector, sectors of the volume, the serial number.
const SECTOR_BYTES: usize = 0x0B;
const SECTORS: usize = 0x28;
const SERIAL_AT: usize = 0x48;

/// Gives the disk and its partitions other ids; in MountedDevices and the boot configuration too.
pub(super) fn change(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    options: &StripOptions,
    plan: &mut Plan,
) -> Result<()> {
    if !options.keeps(SERIAL) {
        cautiously(plan, SERIAL, true, |plan| serials(machine, plan))?;
    }
    if options.keeps(ID) {
        return Ok(());
    }
    let table = Table::read(&**machine.disk(), machine.sector_size())?;
    let Some(old) = table.id.filter(|id| *id != DiskId::Mbr(0)) else { return Ok(()) };
    if let Some(why) = hindrance(machine, hives, guest, &table)? {
        let hint = "do not attach it to a machine that has the original attached";
        plan.warn(ID, format!("the disk keeps its id: {why}"), hint);
        return Ok(());
    }
    let random = Uuid::new_v4();
    let new = match old {
        DiskId::Gpt(_) => DiskId::Gpt(random),
        DiskId::Mbr(_) => DiskId::Mbr(random.as_fields().0.max(1)),
    };
    let ids = partitions(&table, old, new);
    write(machine, new, &ids)?;
    let action = Action::new(ID, "give the disk another id", "the partition table").why(WHY);
    plan.act(action.before(old.to_string()).after(new.to_string()));
    for (before, after) in ids.iter().filter(|(old, _)| matches!(old, PartitionId::Gpt { .. })) {
        let what = "give a partition another GUID";
        let action = Action::new(ID, what, "the partition table").why(WHY);
        plan.act(action.before(before.to_string()).after(after.to_string()));
    }
    mounted(machine, hives, &ids, plan)?;
    retarget(machine, hives, &ids, plan)
}

/// What else names the disk, in a way that is not changed here.
fn hindrance(
    machine: &mut Machine,
    hives: &mut Hives,
    guest: &Guest,
    table: &Table,
) -> Result<Option<String>> {
    let pooled = table.partitions.iter().find(|one| {
        matches!(one.kind.role(), Some(Role::LdmData | Role::LdmMetadata | Role::StorageSpaces))
    });
    if let Some(partition) = pooled {
        return Ok(Some(format!("partition {} belongs to a pool of disks", partition.number)));
    }
    if machine.inventory().systems.len() > 1 {
        return Ok(Some("several systems are on it".to_owned()));
    }
    let here = machine.at_hand();
    for disk in (0..machine.count()).filter(|disk| *disk != here) {
        let number = disk.saturating_add(1);
        match starts_from(machine, hives, disk, table) {
            Ok(false) => {}
            Ok(true) => return Ok(Some(format!("what starts from disk {number} names it"))),
            Err(error) if is_of_the_disk(&error) => return Err(error),
            Err(error) => {
                let what = "whether it is named by what starts from disk";
                return Ok(Some(format!("{what} {number} cannot be told: {error}")));
            }
        }
    }
    let inis = boot_inis(machine, here, Some(&guest.root))?;
    if inis.iter().any(|ini| signs(ini)) {
        return Ok(Some("boot.ini names it".to_owned()));
    }
    let is_started = match guest.version.is_nt5() {
        true => !inis.is_empty(),
        false => {
            let is_root = |one: &&Partition| guest.root == Place::Partition(one.number);
            let root = table.partitions.iter().find(is_root).and_then(|one| bcd::id(table, one));
            bcd::names(machine, hives, here, |id| Some(id) == root)?
        }
    };
    let elsewhere = "nothing on it is seen to start this Windows, so another disk may, by this id";
    Ok((!is_started).then(|| elsewhere.to_owned()))
}

/// Whether what starts from disk number `disk` names the disk of this table.
fn starts_from(
    machine: &mut Machine,
    hives: &mut Hives,
    disk: usize,
    table: &Table,
) -> Result<bool> {
    let of_table = |id| match id {
        PartitionId::Gpt { disk, .. } => table.id == Some(DiskId::Gpt(disk)),
        PartitionId::Mbr { signature, .. } => table.id == Some(DiskId::Mbr(signature)),
    };
    let inis = boot_inis(machine, disk, None)?;
    Ok(inis.iter().any(|ini| signs(ini)) || bcd::names(machine, hives, disk, of_table)?)
}

/// What `boot.ini` says on the active partitions of disk number `disk`, and at `root`.
fn boot_inis(machine: &mut Machine, disk: usize, root: Option<&Place>) -> Result<Vec<Vec<u8>>> {
    let table = machine.table(disk)?;
    let active = table.partitions.iter().filter(|one| one.active);
    let active = active.map(|one| Place::OnDisk(disk, Box::new(Place::Partition(one.number))));
    let mut found = Vec::new();
    for place in active.chain(root.cloned()) {
        match machine.volume(&place) {
            Ok(volume) => found.extend(files::read(volume.fs(), "/boot.ini")?),
            Err(error) if error.kind() == ErrorKind::UnknownFormat => {}
            Err(error) => return Err(error),
        }
    }
    Ok(found)
}

/// Whether a `boot.ini` tells disks by their signatures.
fn signs(ini: &[u8]) -> bool {
    memchr::memmem::find(&ini.to_ascii_lowercase(), b"signature(").is_some()
}

fn partitions(table: &Table, old: DiskId, new: DiskId) -> Vec<(PartitionId, PartitionId)> {
    let ids = table.partitions.iter().filter_map(|partition| match (old, new) {
        (DiskId::Gpt(disk), DiskId::Gpt(other)) => Some((
            PartitionId::Gpt { disk, partition: partition.uuid? },
            PartitionId::Gpt { disk: other, partition: Uuid::new_v4() },
        )),
        (DiskId::Mbr(signature), DiskId::Mbr(other)) => {
            let start = partition.start;
            Some((
                PartitionId::Mbr { signature, start },
                PartitionId::Mbr { signature: other, start },
            ))
        }
        _ => None,
    });
    ids.collect()
}

/// Writes the table, and reads it back.
fn write(machine: &Machine, new: DiskId, ids: &[(PartitionId, PartitionId)]) -> Result<()> {
    let disk = machine.disk();
    let table = Table::read(&**disk, machine.sector_size())?;
    let mut edit = Edit::new(&**disk, machine.sector_size())?;
    edit.set_disk_id(new)?;
    let mut wanted = table.partitions.clone();
    for partition in &mut wanted {
        let found = ids.iter().find_map(|(old, new)| match (old, new) {
            (PartitionId::Gpt { partition: old, .. }, PartitionId::Gpt { partition: new, .. }) => {
                (partition.uuid == Some(*old)).then_some(*new)
            }
            _ => None,
        });
        if let Some(uuid) = found {
            edit.set_partition_uuid(partition.number, uuid)?;
            partition.uuid = Some(uuid);
        }
    }
    let changes = edit.changes();
    for change in changes {
        disk.write_at(&change.bytes, change.offset)?;
    }
    let now = Table::read(&**disk, machine.sector_size())?;
    if now.id == Some(new) && now.partitions == wanted {
        return Ok(());
    }
    Err(Error::internal("the partition table does not read back as it was written"))
}

/// The letters and paths that Windows has given to partitions.
fn mounted(
    machine: &mut Machine,
    hives: &mut Hives,
    ids: &[(PartitionId, PartitionId)],
    plan: &mut Plan,
) -> Result<()> {
    let system = hives.config(machine, "SYSTEM")?;
    let Some(key) = system.key(profiles::MOUNTED)? else { return Ok(()) };
    let mut found = Vec::new();
    for value in key.values()? {
        let value = value?;
        let data = value.data()?;
        if let Some((_, new)) = ids.iter().find(|(old, _)| *named(*old) == *data) {
            found.push((value.name().to_string(), value.kind(), named(*new)));
        }
    }
    let reason = Reason {
        id: ID,
        what: "name a partition by its new id",
        why: "it would get another letter, and the system itself may get none",
    };
    for (name, kind, data) in found {
        system.set(plan, reason, profiles::MOUNTED, &name, &Data::Raw(kind, data))?;
    }
    Ok(())
}

/// A partition as MountedDevices names it.
fn named(id: PartitionId) -> Vec<u8> {
    match id {
        PartitionId::Gpt { partition, .. } => [b"DMIO:ID:", &partition.to_bytes_le()[..]].concat(),
        PartitionId::Mbr { signature, start } => {
            [&signature.to_le_bytes()[..], &start.to_le_bytes()].concat()
        }
    }
}

/// Gives NTFS volumes other serial numbers, in both their boot sectors.
fn serials(machine: &mut Machine, plan: &mut Plan) -> Result<()> {
    let partitions = machine.inventory().partitions.iter();
    let is_ntfs = |kind: Option<&str>| kind == Some("ntfs");
    let ntfs = partitions.filter(|one| is_ntfs(one.filesystem.as_ref().map(|fs| fs.kind)));
    let numbers: Vec<u32> = ntfs.map(|one| one.number).collect();
    for number in numbers {
        let volume = machine.volume(&Place::Partition(number))?;
        let disk = volume.disk().clone();
        let mut boot = [0; 512];
        disk.read_at(&mut boot, 0)?;
        let field = |at: usize| boot.get(at..).and_then(|rest| rest.first_chunk::<8>()).copied();
        let [sectors, serial] = [SECTORS, SERIAL_AT].map(|at| field(at).unwrap_or_default());
        let [low, high, ..] = field(SECTOR_BYTES).unwrap_or_default();
        let sector = u64::from(u16::from_le_bytes([low, high]));
        // The copy stands right behind the volume's last sector.
        let copy = u64::from_le_bytes(sectors).saturating_mul(sector);
        let (_, new) = Uuid::new_v4().as_u64_pair();
        for at in [0, copy] {
            let mut there = [0; 512];
            if at.saturating_add(512) > disk.len() {
                continue;
            }
            disk.read_at(&mut there, at)?;
            if there == boot {
                disk.write_at(&new.to_le_bytes(), at + SERIAL_AT as u64)?;
            }
        }
        volume.reopen()?;
        let place = format!("partition {number}");
        let action = Action::new(SERIAL, "give a volume another serial number", place);
        let action = action.why("it tells volumes apart, and some licences rest on it");
        let before = format!("{:016X}", u64::from_le_bytes(serial));
        plan.act(action.before(before).after(format!("{new:016X}")));
    }
    Ok(())
}
