//! Looking at a whole disk.

use std::sync::Arc;

use vdisk_core::{Disk, Error, ErrorKind, Result, Severity};
use vdisk_parts::lvm::{self, VolumeGroup};
use vdisk_parts::{Partition, Role, Table, TableKind, VolumeKind, recognise};

use crate::boot;
use crate::fs::{self, FsState, GuestFs};
use crate::inventory::{
    Boot, DiskFacts, FilesystemFacts, Inventory, Mount, PartitionFacts, Problem, State, System,
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
    let mut found = inspect_together(&[(disk, sector_size)])?;
    found.pop().ok_or_else(|| Error::internal("a disk was looked at, and nothing is told of it"))
}

/// The same of all disks of one machine, each with the size of its sectors: volume groups that lie
/// on several of them are whole. What stands on such a group is told with the first of its disks.
///
/// # Errors
/// As [`inspect`].
pub fn inspect_together(disks: &[(Arc<dyn Disk>, u64)]) -> Result<Vec<Inventory>> {
    let mut looked = Vec::new();
    for (disk, sector_size) in disks {
        looked.push(Looked::at(disk, *sector_size)?);
    }
    add_logical(&mut looked);
    let boots: Vec<Boot> = looked.iter_mut().map(Looked::boot).collect();
    let systems: Vec<Vec<System>> =
        (0..looked.len()).map(|index| systems(&mut looked, index, &boots)).collect();
    let all = looked.into_iter().zip(boots).zip(systems);
    Ok(all.map(|((looked, boot), systems)| looked.tell(boot, systems)).collect())
}

/// A disk that was looked at.
#[derive(Debug)]
struct Looked {
    disk: Arc<dyn Disk>,
    sector_size: u64,
    table: Option<Table>,
    volumes: Volumes,
}

impl Looked {
    fn at(disk: &Arc<dyn Disk>, sector_size: u64) -> Result<Self> {
        let mut volumes = Volumes::default();
        let table = match Table::read(&**disk, sector_size) {
            Ok(table) => Some(table),
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                volumes.problems.push(problem("disk", &error));
                None
            }
            Err(error) => return Err(error),
        };
        if let Some(table) = &table {
            note_findings(table, &mut volumes.problems);
            volumes.add_partitions(table, disk);
            if table.kind == TableKind::None {
                volumes.add_whole(disk);
            }
        }
        Ok(Self { disk: disk.clone(), sector_size, table, volumes })
    }

    fn boot(&mut self) -> Boot {
        let Volumes { list, problems } = &mut self.volumes;
        boot::find(&*self.disk, self.table.as_ref(), list, problems)
    }

    fn tell(self, boot: Boot, systems: Vec<System>) -> Inventory {
        let Self { disk, sector_size, table, volumes } = self;
        let facts = DiskFacts {
            virtual_size: disk.len(),
            sector_size: table.as_ref().map_or(sector_size, |table| table.sector_size),
            partition_table: table.as_ref().map_or("none", |table| table.kind.name()),
            disk_id: table.as_ref().and_then(|table| table.id).map(|id| id.to_string()),
        };
        let partitions = table.iter().flat_map(|table| {
            table
                .partitions
                .iter()
                .map(|partition| partition_facts(table, partition, &volumes.list))
        });
        Inventory {
            disk: facts,
            partitions: partitions.collect(),
            volumes: volumes.list.iter().filter_map(Volume::facts_beside_partitions).collect(),
            boot,
            systems,
            problems: volumes.problems,
        }
    }
}

/// Adds the logical volumes of all disks, each to the first disk of its group.
fn add_logical(looked: &mut [Looked]) {
    let (mut owners, mut members) = (Vec::new(), Vec::new());
    for (index, one) in looked.iter().enumerate() {
        for disk in one.volumes.physical() {
            owners.push(index);
            members.push(disk);
        }
    }
    let Some(first) = owners.first().copied() else { return };
    match lvm::scan(&members) {
        Ok(groups) => {
            for group in groups {
                let owner = group.disks().filter_map(|member| owners.get(member).copied()).min();
                if let Some(one) = looked.get_mut(owner.unwrap_or(first)) {
                    one.volumes.add_group(&group);
                }
            }
        }
        Err(error) => {
            if let Some(one) = looked.get_mut(first) {
                one.volumes.problems.push(problem("LVM", &error));
            }
        }
    }
}

/// The operating systems on disk number `index`.
fn systems(looked: &mut [Looked], index: usize, boots: &[Boot]) -> Vec<System> {
    let (mut systems, mut problems) = (Vec::new(), Vec::new());
    let Some(own) = looked.get(index) else { return systems };
    let boot = |mounts: &[Mount]| {
        let mount = linux::mounts_at(mounts, "/boot")?;
        find_volume(looked, index, &mount.device)?.fs.as_deref()
    };
    for volume in &own.volumes.list {
        let Some(fs) = volume.fs.as_deref() else { continue };
        let found = windows::inspect(fs).or_else(|| linux::inspect(fs, boot));
        let Some((mut system, told)) = found else { continue };
        match volume.place {
            Place::Partition(number) => system.root_partition = Some(number),
            _ => system.root_volume = Some(volume.name()),
        }
        // The firmware starts the machine from another disk where it cannot from this one.
        let own = boots.get(index).and_then(|boot| boot.mode);
        system.boot_mode = own.or_else(|| boots.iter().find_map(|boot| boot.mode));
        systems.push(system);
        let told = told.into_iter();
        problems.extend(told.map(|message| Problem { volume: volume.name(), message }));
    }
    if let Some(own) = looked.get_mut(index) {
        own.volumes.problems.append(&mut problems);
    }
    systems
}

/// The volume that a guest on disk number `own` calls `device`.
fn find_volume<'v>(looked: &'v [Looked], own: usize, device: &str) -> Option<&'v Volume> {
    let on = |disk: usize| looked.get(disk)?.volumes.list.iter().find(|one| one.is_called(device));
    // Of several disks, `/dev/sdb` is the second; where that has none, the guest's own.
    let named = ordinal(device).filter(|_| looked.len() > 1);
    named.and_then(on).or_else(|| on(own)).or_else(|| (0..looked.len()).find_map(on))
}

/// Which disk a name of the kernel's is, by its order.
fn ordinal(device: &str) -> Option<usize> {
    let letters = ["/dev/sd", "/dev/vd", "/dev/hd", "/dev/xvd"]
        .iter()
        .find_map(|prefix| device.strip_prefix(prefix))?;
    let letter = letters.bytes().next().filter(u8::is_ascii_lowercase)?;
    Some(usize::from(letter - b'a'))
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
            Place::Disk | Place::OnDisk(..) => "disk".to_owned(),
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
            Place::Disk | Place::OnDisk(..) => false,
        }
    }
}

/// The volumes of a disk, and what was wrong with them.
#[derive(Debug, Default)]
struct Volumes {
    list: Vec<Volume>,
    problems: Vec<Problem>,
}

/// How many volumes of a disk, and of its volume groups, are looked into: each stays open.
const MOST_VOLUMES: usize = 256;

impl Volumes {
    fn add_partitions(&mut self, table: &Table, disk: &Arc<dyn Disk>) {
        let mut looked: Vec<&Partition> = Vec::new();
        let mut left = 0;
        for partition in table.partitions.iter().filter(|one| holds_a_volume(one)) {
            if looked.len() == MOST_VOLUMES {
                left += 1;
            } else if let Some(other) = looked.iter().find(|one| overlap(one, partition)) {
                let message =
                    format!("is not looked into, as it overlaps partition {}", other.number);
                let volume = format!("partition {}", partition.number);
                self.problems.push(Problem { volume, message });
            } else {
                looked.push(partition);
                self.add_partition(partition, table, disk);
            }
        }
        self.tell_left(left, "partitions");
    }

    fn tell_left(&mut self, left: usize, what: &str) {
        if left > 0 {
            let message = format!("{left} more {what} are not looked into");
            self.problems.push(Problem { volume: "disk".into(), message });
        }
    }

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

    /// Those that are physical volumes.
    fn physical(&self) -> impl Iterator<Item = Arc<dyn Disk>> {
        let is_member =
            |one: &&Volume| one.facts.as_ref().is_some_and(|facts| facts.kind == "lvm2");
        self.list.iter().filter(is_member).filter_map(|one| one.disk.clone())
    }

    fn add_group(&mut self, group: &VolumeGroup) {
        let mut left = 0;
        for info in group.volumes().filter(|info| info.visible) {
            if self.list.len() >= 2 * MOST_VOLUMES {
                left += 1;
                continue;
            }
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
        self.tell_left(left, "logical volumes");
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

fn overlap(one: &Partition, other: &Partition) -> bool {
    let end = |part: &Partition| part.start.saturating_add(part.len);
    one.start < end(other) && other.start < end(one)
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
