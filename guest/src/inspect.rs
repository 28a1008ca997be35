//! Looking at a whole disk.

use std::sync::Arc;

use vdisk_core::{Disk, Error, ErrorKind, Result, Severity};
use vdisk_parts::lvm::{self, VolumeGroup};
use vdisk_parts::{Partition, Role, Table, TableKind, VolumeKind, recognise};

use crate::boot;
use crate::fs::{self, FsState, GuestFs};
use crate::inventory::{
    DiskFacts, FilesystemFacts, Inventory, Mount, PartitionFacts, Problem, State, System,
    VolumeFacts,
};
use crate::location::Place;
use crate::{linux, windows};

/// What stands on `disk`: partitions, file systems, operating systems. Its sectors are said to have
/// `sector_size` bytes, 512 or 4096; a GPT that counts otherwise is found all the same.
///
/// Nothing is written. What is damaged or cannot be read is told in [`Inventory::problems`], and
/// the rest is looked at all the same.
///
/// # Errors
/// [`Usage`](ErrorKind::Usage) for another sector size; where not even the place of a partition
/// table can be read, the disk's own.
pub fn inspect(disk: Arc<dyn Disk>, sector_size: u64) -> Result<Inventory> {
    let mut problems = Vec::new();
    let table = match Table::read(&*disk, sector_size) {
        Ok(table) => Some(table),
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            problems.push(problem("disk", &error));
            None
        }
        Err(error) => return Err(error),
    };
    let mut volumes = Volumes::default();
    if let Some(table) = &table {
        note_findings(table, &mut problems);
        for partition in table.partitions.iter().filter(|one| holds_a_volume(one)) {
            volumes.add_partition(partition, table, &disk);
        }
        if table.kind == TableKind::None {
            volumes.add_whole(&disk);
        }
        volumes.add_logical();
    }
    let boot = boot::find(&*disk, table.as_ref(), &volumes.list, &mut problems);
    let mut systems = volumes.systems();
    for system in &mut systems {
        system.boot_mode = boot.mode;
    }
    problems.append(&mut volumes.problems);
    let facts = DiskFacts {
        virtual_size: disk.len(),
        sector_size: table.as_ref().map_or(sector_size, |table| table.sector_size),
        partition_table: table.as_ref().map_or("none", |table| table.kind.name()),
        disk_id: table.as_ref().and_then(|table| table.id).map(|id| id.to_string()),
    };
    let partitions = table.iter().flat_map(|table| {
        table.partitions.iter().map(|partition| partition_facts(table, partition, &volumes.list))
    });
    Ok(Inventory {
        disk: facts,
        partitions: partitions.collect(),
        volumes: volumes.list.iter().filter_map(Volume::facts_beside_partitions).collect(),
        boot,
        systems,
        problems,
    })
}

/// A volume that was looked at.
#[derive(Debug)]
pub(crate) struct Volume {
    pub(crate) place: Place,
    /// What it is for, by the partition table.
    pub(crate) role: Option<Role>,
    /// A BIOS starts from it.
    pub(crate) active: bool,
    /// As `PARTUUID=` or LVM tells it.
    uuid: Option<String>,
    len: Option<u64>,
    pub(crate) disk: Option<Arc<dyn Disk>>,
    pub(crate) fs: Option<Box<dyn GuestFs>>,
    facts: Option<FilesystemFacts>,
}

impl Volume {
    fn new(place: Place) -> Self {
        Self {
            place,
            role: None,
            active: false,
            uuid: None,
            len: None,
            disk: None,
            fs: None,
            facts: None,
        }
    }

    /// As problems name it.
    pub(crate) fn name(&self) -> String {
        match &self.place {
            Place::Partition(number) => format!("partition {number}"),
            Place::Logical(group, name) => format!("{group}/{name}"),
            Place::Disk => "disk".to_owned(),
        }
    }

    /// Finds out what stands there.
    fn look(&mut self, disk: Arc<dyn Disk>, problems: &mut Vec<Problem>) {
        self.disk = Some(disk.clone());
        let found = match recognise(&*disk) {
            Ok(Some(found)) => found,
            Ok(None) => return,
            Err(error) => return problems.push(problem(self.name(), &error)),
        };
        let mut facts = FilesystemFacts {
            kind: found.kind.name(),
            label: found.label,
            uuid: found.uuid,
            used: None,
            state: found.kind.is_encrypted().then_some(State::Encrypted),
            journal_pending: false,
        };
        if found.kind == VolumeKind::SwapHibernated {
            facts.kind = VolumeKind::Swap.name();
            facts.state = Some(State::Hibernated);
        }
        if is_read(found.kind) {
            match fs::open(disk) {
                Ok(opened) => self.fs = opened,
                Err(error) => problems.push(problem(self.name(), &error)),
            }
        } else if found.kind.is_container() && found.kind != VolumeKind::Lvm2 {
            let message = format!("{} is not looked into", found.kind);
            problems.push(Problem { volume: self.name(), message });
        }
        if let Some(fs) = &self.fs {
            let (label, state) = (&fs.info().label, fs.info().state);
            // NTFS keeps its label where only its own reader gets at it.
            facts.label = facts.label.or_else(|| Some(label.clone()).filter(|l| !l.is_empty()));
            facts.state = Some(match state {
                FsState::Clean => State::Clean,
                FsState::Journal | FsState::Dirty => State::Dirty,
                FsState::Hibernated => State::Hibernated,
            });
            facts.journal_pending = state == FsState::Journal;
            match fs.used() {
                Ok(used) => facts.used = Some(used),
                Err(error) => problems.push(problem(self.name(), &error)),
            }
        }
        self.facts = Some(facts);
    }

    fn facts_beside_partitions(&self) -> Option<VolumeFacts> {
        let name = match self.place {
            Place::Partition(_) => return None,
            Place::Disk if self.facts.is_none() => return None,
            _ => self.name(),
        };
        Some(VolumeFacts {
            name,
            length: self.len,
            uuid: self.uuid.clone(),
            filesystem: self.facts.clone(),
        })
    }

    /// Whether `device`, as fstab writes it, means this volume.
    fn is_called(&self, device: &str) -> bool {
        let facts = self.facts.as_ref();
        let same = |name: Option<&String>, wanted: &str| {
            name.is_some_and(|name| name.eq_ignore_ascii_case(wanted.trim_matches('"')))
        };
        if let Some((key, value)) = device.split_once('=') {
            return match key {
                "UUID" => same(facts.and_then(|facts| facts.uuid.as_ref()), value),
                "LABEL" => facts.and_then(|facts| facts.label.as_deref()) == Some(value),
                "PARTUUID" => same(self.uuid.as_ref(), value),
                _ => false,
            };
        }
        match &self.place {
            Place::Logical(group, name) => {
                let [mapper_group, mapper_name] = [group, name].map(|part| part.replace('-', "--"));
                device == format!("/dev/{group}/{name}")
                    || device == format!("/dev/mapper/{mapper_group}-{mapper_name}")
            }
            // Which disk `/dev/sda` was cannot be told; the system's own is the best guess.
            Place::Partition(number) => {
                let digits = device.trim_start_matches(|letter: char| !letter.is_ascii_digit());
                ["/dev/sd", "/dev/vd", "/dev/hd", "/dev/xvd"]
                    .iter()
                    .any(|prefix| device.starts_with(prefix))
                    && digits.parse() == Ok(*number)
            }
            Place::Disk => false,
        }
    }
}

/// The volumes of a disk, and what was wrong with them.
#[derive(Debug, Default)]
struct Volumes {
    list: Vec<Volume>,
    problems: Vec<Problem>,
}

impl Volumes {
    fn add_partition(&mut self, partition: &Partition, table: &Table, disk: &Arc<dyn Disk>) {
        let mut volume = Volume::new(Place::Partition(partition.number));
        volume.role = partition.kind.role();
        volume.active = partition.active;
        volume.uuid = table.part_uuid(partition);
        volume.len = Some(partition.len);
        match partition.open(disk.clone()) {
            Ok(window) => volume.look(Arc::new(window), &mut self.problems),
            Err(error) => self.problems.push(problem(volume.name(), &error)),
        }
        self.list.push(volume);
    }

    /// A file system over all of the disk.
    fn add_whole(&mut self, disk: &Arc<dyn Disk>) {
        let mut volume = Volume::new(Place::Disk);
        volume.len = Some(disk.len());
        volume.look(disk.clone(), &mut self.problems);
        self.list.push(volume);
    }

    fn add_logical(&mut self) {
        let is_member =
            |one: &&Volume| one.facts.as_ref().is_some_and(|facts| facts.kind == "lvm2");
        let members: Vec<Arc<dyn Disk>> =
            self.list.iter().filter(is_member).filter_map(|one| one.disk.clone()).collect();
        if members.is_empty() {
            return;
        }
        match lvm::scan(&members) {
            Ok(groups) => groups.iter().for_each(|group| self.add_group(group)),
            Err(error) => self.problems.push(problem("LVM", &error)),
        }
    }

    fn add_group(&mut self, group: &VolumeGroup) {
        for info in group.volumes().filter(|info| info.visible) {
            let place = Place::Logical(group.name().to_owned(), info.name.to_owned());
            let mut volume = Volume::new(place);
            volume.uuid = Some(info.uuid.to_owned());
            volume.len = info.len;
            match group.open(info.name) {
                Ok(opened) => volume.look(Arc::new(opened), &mut self.problems),
                Err(error) => self.problems.push(problem(volume.name(), &error)),
            }
            self.list.push(volume);
        }
    }

    fn systems(&mut self) -> Vec<System> {
        let mut systems = Vec::new();
        let boot = |mounts: &[Mount]| {
            let mount = linux::mounts_at(mounts, "/boot")?;
            self.list.iter().find(|volume| volume.is_called(&mount.device))?.fs.as_deref()
        };
        for volume in &self.list {
            let Some(fs) = volume.fs.as_deref() else { continue };
            let found = windows::inspect(fs).or_else(|| linux::inspect(fs, boot));
            let Some((mut system, problems)) = found else { continue };
            match volume.place {
                Place::Partition(number) => system.root_partition = Some(number),
                _ => system.root_volume = Some(volume.name()),
            }
            systems.push(system);
            let told = problems.into_iter();
            self.problems.extend(told.map(|message| Problem { volume: volume.name(), message }));
        }
        systems
    }
}

pub(crate) fn problem(volume: impl Into<String>, error: &Error) -> Problem {
    Problem { volume: volume.into(), message: error.to_string() }
}

fn note_findings(table: &Table, problems: &mut Vec<Problem>) {
    let wrong = table.findings.iter().filter(|finding| finding.severity > Severity::Note);
    problems.extend(
        wrong.map(|finding| Problem { volume: "disk".into(), message: finding.message.clone() }),
    );
    if let Some(role) = table.volume_manager() {
        let what = if role == Role::LdmData { "dynamic disks" } else { "storage pools" };
        let message = format!("volumes of {what} are not looked into");
        problems.push(Problem { volume: "disk".into(), message });
    }
}

/// The file systems that [`fs`] opens.
fn is_read(kind: VolumeKind) -> bool {
    use VolumeKind::{Btrfs, Ext2, Ext3, Ext4, Fat12, Fat16, Fat32, Ntfs, Xfs};
    matches!(kind, Ntfs | Ext2 | Ext3 | Ext4 | Xfs | Btrfs | Fat12 | Fat16 | Fat32)
}

fn holds_a_volume(partition: &Partition) -> bool {
    partition.len > 0 && partition.kind.role() != Some(Role::Extended)
}

fn partition_facts(table: &Table, partition: &Partition, volumes: &[Volume]) -> PartitionFacts {
    let is_this = |volume: &&Volume| matches!(volume.place, Place::Partition(number) if number == partition.number);
    PartitionFacts {
        number: partition.number,
        start: partition.start,
        length: partition.len,
        kind: partition.kind.to_string(),
        type_name: partition.kind.name(),
        name: partition.name.clone().filter(|name| !name.is_empty()),
        uuid: table.part_uuid(partition),
        active: partition.active,
        filesystem: volumes.iter().find(is_this).and_then(|volume| volume.facts.clone()),
    }
}
