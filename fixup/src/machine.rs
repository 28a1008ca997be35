//! A machine's disks and their volumes, open for changing in memory.

use std::sync::Arc;

use vdisk_core::{Change, CowDisk, Disk, Error, ErrorKind, Result};
use vdisk_guest::free::has_shadow_copies;
use vdisk_guest::fs::{FsKind, GuestFsMut, open_mut};
use vdisk_guest::inventory::{Inventory, System, VolumeFacts};
use vdisk_guest::location::{logical, members};
use vdisk_guest::{Place, inspect_together};
use vdisk_parts::Table;
use vdisk_parts::lvm::LogicalVolume;

use crate::Plan;

/// Most bytes that may change on a disk.
pub(crate) const LIMIT: u64 = 2 << 30;

/// Disks whose changes are kept in memory, and the volumes on them that are being changed.
///
/// One of the disks is at hand: places without a disk's number are there, and what is asked of
/// *the* disk is asked of that one. Logical volumes are the machine's, on whatever disks they lie.
#[derive(Debug)]
pub struct Machine {
    disks: Vec<Member>,
    at_hand: usize,
    /// By places that tell the disk.
    volumes: Vec<(Place, MachineVolume)>,
}

/// A disk of a machine, for [`Machine::of_disks`].
#[derive(Clone, Debug)]
pub struct MachineDisk {
    /// The disk.
    pub disk: Arc<dyn Disk>,
    /// Bytes of its sectors.
    pub sector_size: u64,
    /// What the guest is known to call it: `/dev/disk/by-id/ata-X`.
    pub names: Vec<String>,
}

impl MachineDisk {
    /// A disk whose sectors have `sector_size` bytes, and of whose names nothing is known.
    #[must_use]
    pub fn new(disk: Arc<dyn Disk>, sector_size: u64) -> Self {
        Self { disk, sector_size, names: Vec::new() }
    }
}

#[derive(Debug)]
struct Member {
    /// What is changed outside of volumes: partition tables, boot code.
    disk: Arc<CowDisk>,
    base: Arc<dyn Disk>,
    sector_size: u64,
    names: Vec<String>,
    inventory: Inventory,
}

/// A volume that is being changed.
#[derive(Debug)]
pub struct MachineVolume {
    fs: Box<dyn GuestFsMut>,
    disk: Arc<CowDisk>,
    area: Area,
}

/// Where a volume's bytes stand on the machine's disks.
#[derive(Debug)]
pub(crate) enum Area {
    /// In one piece on a disk, from this byte on.
    Whole(usize, u64),
    /// In pieces of physical volumes, which begin at these bytes of these disks.
    Logical(Box<LogicalVolume>, Vec<(usize, u64)>),
}

impl Machine {
    /// Looks at `disk`, whose sectors have `sector_size` bytes: a machine of one disk.
    ///
    /// # Errors
    /// As [`vdisk_guest::inspect()`].
    pub fn open(disk: Arc<dyn Disk>, sector_size: u64) -> Result<Self> {
        Self::of_disks(vec![MachineDisk::new(disk, sector_size)])
    }

    /// Looks at all disks of a machine, in the order in which its guest counts them. The first is
    /// at hand.
    ///
    /// # Errors
    /// As [`vdisk_guest::inspect()`]; [`ErrorKind::Usage`] where there is none.
    pub fn of_disks(disks: Vec<MachineDisk>) -> Result<Self> {
        let looked: Vec<_> = disks.iter().map(|one| (one.disk.clone(), one.sector_size)).collect();
        let found = inspect_together(&looked)?;
        if found.is_empty() {
            return Err(Error::usage("a machine has one disk at least"));
        }
        let member = |(one, inventory): (MachineDisk, Inventory)| Member {
            disk: Arc::new(CowDisk::new(one.disk.clone(), LIMIT)),
            base: one.disk,
            sector_size: inventory.disk.sector_size,
            names: one.names,
            inventory,
        };
        let disks = disks.into_iter().zip(found).map(member).collect();
        Ok(Self { disks, at_hand: 0, volumes: Vec::new() })
    }

    /// How many disks it has.
    #[must_use]
    pub fn count(&self) -> usize {
        self.disks.len()
    }

    /// The number of the disk at hand.
    #[must_use]
    pub fn at_hand(&self) -> usize {
        self.at_hand
    }

    /// Takes disk number `disk` to hand; one that is not there changes nothing.
    pub fn turn_to(&mut self, disk: usize) {
        if disk < self.disks.len() {
            self.at_hand = disk;
        }
    }

    /// What stood on each disk before anything changed.
    pub fn inventories(&self) -> impl Iterator<Item = &Inventory> {
        self.disks.iter().map(|one| &one.inventory)
    }

    /// The number of the disk that a firmware starts: the one at hand, or the first that can be.
    #[must_use]
    pub fn starts_from(&self) -> usize {
        let starts = |one: &Inventory| one.boot.mode.is_some();
        match starts(self.inventory()) {
            true => self.at_hand,
            false => self.inventories().position(starts).unwrap_or(self.at_hand),
        }
    }

    /// The partitions of disk number `disk` as they are now.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there is no such disk; damage of the table; the disk's.
    pub fn table(&self, disk: usize) -> Result<Table> {
        let one = self.disks.get(disk).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no disk number {disk}"))
        })?;
        Table::read(&*one.disk, one.sector_size)
    }

    /// What the guest is known to call disk number `disk`.
    pub(crate) fn names(&self, disk: usize) -> &[String] {
        self.disks.get(disk).map_or(&[], |one| &one.names)
    }

    /// What stood on the disk at hand before anything changed.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        &self.here().inventory
    }

    /// Bytes of a sector of the disk at hand.
    #[must_use]
    pub fn sector_size(&self) -> u64 {
        self.here().sector_size
    }

    /// The guest number `index` of the inventory of the disk at hand.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there are fewer.
    pub fn system(&self, index: usize) -> Result<&System> {
        self.inventory().systems.get(index).ok_or_else(|| {
            Error::new(ErrorKind::NotFound, format!("there is no guest number {index}"))
        })
    }

    /// The volume that holds guest number `index`.
    ///
    /// # Errors
    /// As [`Machine::system`].
    pub fn root(&self, index: usize) -> Result<Place> {
        let system = self.system(index)?;
        let logical = system.root_volume.as_deref().and_then(|name| name.split_once('/'));
        Ok(match (system.root_partition, logical) {
            (Some(number), _) => Place::Partition(number),
            (None, Some((group, name))) => Place::Logical(group.to_owned(), name.to_owned()),
            (None, None) => Place::Disk,
        })
    }

    /// All of the disk at hand, for what stands outside of volumes. Bytes of a volume are changed
    /// through [`Machine::volume`].
    #[must_use]
    pub fn disk(&self) -> &Arc<CowDisk> {
        &self.here().disk
    }

    /// The volume at `place`, opened for changing when it is first asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] where it was not closed in order; [`ErrorKind::UnknownFormat`] where
    /// no file system is recognised; as [`Place::open`].
    pub fn volume(&mut self, place: &Place) -> Result<&mut MachineVolume> {
        let place = self.with_disk(place);
        let index = match self.volumes.iter().position(|(there, _)| *there == place) {
            Some(index) => index,
            None => {
                let volume = self.open_volume(&place)?;
                self.volumes.push((place, volume));
                self.volumes.len() - 1
            }
        };
        let found = self.volumes.get_mut(index).map(|(_, volume)| volume);
        found.ok_or_else(|| Error::new(ErrorKind::Internal, "a volume was opened and is not there"))
    }

    /// All places that may hold volumes: partitions of the disk at hand, and logical volumes whose
    /// group begins there.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let inventory = self.inventory();
        let partitions = inventory.partitions.iter();
        let mut places: Vec<Place> = partitions.map(|one| Place::Partition(one.number)).collect();
        places.extend(inventory.volumes.iter().map(VolumeFacts::place));
        places
    }

    /// The place as people are told of it: with the disk's number where there are several.
    #[must_use]
    pub fn name_of(&self, place: &Place) -> String {
        self.told(place).to_string()
    }

    /// The place without the number of a disk, where there is only one.
    pub(crate) fn told(&self, place: &Place) -> Place {
        match self.with_disk(place) {
            Place::OnDisk(_, place) if self.disks.len() == 1 => *place,
            place => place,
        }
    }

    /// What differs from the disk of a machine that has only one, in order.
    ///
    /// # Errors
    /// [`ErrorKind::Usage`] where there are several: see [`Machine::changes_of_disks`]; the disk's.
    pub fn changes(&self) -> Result<Vec<Change>> {
        self.changed()?.changes()
    }

    /// What differs from the disks that were given, in order.
    ///
    /// # Errors
    /// The disks'.
    pub fn changes_of_disks(&self) -> Result<Vec<Vec<Change>>> {
        self.changed_disks()?.iter().map(CowDisk::changes).collect()
    }

    /// The disk of a machine that has only one, with all changes.
    ///
    /// # Errors
    /// As [`Machine::changes`].
    pub fn changed(&self) -> Result<Arc<CowDisk>> {
        let mut all = self.changed_disks()?;
        match (all.pop(), all.is_empty()) {
            (Some(disk), true) => Ok(Arc::new(disk)),
            _ => Err(Error::usage("the machine has several disks, each with its own changes")),
        }
    }

    fn changed_disks(&self) -> Result<Vec<CowDisk>> {
        let mut all = self.untouched();
        for (from, to) in self.disks.iter().zip(&mut all) {
            for Change { offset, bytes } in from.disk.changes()? {
                to.write_at(&bytes, offset)?;
            }
        }
        for (_, volume) in &self.volumes {
            volume.area.carry_over(&volume.disk.changes()?, &all)?;
        }
        Ok(all)
    }

    /// Tells of the volumes that change although they have shadow copies: those read from them what
    /// Windows itself did not change, and are not kept as they were.
    pub(crate) fn warn_of_shadow_copies(&self, plan: &mut Plan) -> Result<()> {
        const ID: &str = "windows.shadow-copies";
        for (place, volume) in &self.volumes {
            let is_ntfs = volume.fs.info().kind == FsKind::Ntfs;
            if !is_ntfs || !has_shadow_copies(&*volume.disk)? || volume.disk.changes()?.is_empty() {
                continue;
            }
            let name = self.name_of(place);
            let message =
                format!("{name} has shadow copies (restore points), which change with it unseen");
            if !plan.warnings.iter().any(|one| one.id == ID && one.message == message) {
                let hint =
                    "do not go back to them; new ones can be made once the guest has started";
                plan.warn(ID, message, hint);
            }
        }
        Ok(())
    }

    /// The same machine as it was before anything changed.
    ///
    /// # Errors
    /// As [`Machine::of_disks`].
    pub(crate) fn before(&self) -> Result<Self> {
        let disk = |one: &Member| MachineDisk {
            disk: one.base.clone(),
            sector_size: one.sector_size,
            names: one.names.clone(),
        };
        let mut before = Self::of_disks(self.disks.iter().map(disk).collect())?;
        before.turn_to(self.at_hand);
        Ok(before)
    }

    /// The disks as they were given, to be changed in memory.
    pub(crate) fn untouched(&self) -> Vec<CowDisk> {
        self.disks.iter().map(|one| CowDisk::new(one.base.clone(), LIMIT)).collect()
    }

    fn open_volume(&self, place: &Place) -> Result<MachineVolume> {
        let (disk, area) = self.area(place)?;
        area.insist_on_no_snapshots()?;
        let disk = Arc::new(CowDisk::new(disk, LIMIT));
        let fs = open_mut(disk.clone())?.ok_or_else(no_file_system)?;
        Ok(MachineVolume { fs, disk, area })
    }

    /// The volume's bytes, and where they stand.
    pub(crate) fn area(&self, place: &Place) -> Result<(Arc<dyn Disk>, Area)> {
        match self.with_disk(place) {
            Place::OnDisk(number, place) => {
                let one = self.disks.get(number).ok_or_else(no_file_system)?;
                let disk = place.open(one.base.clone(), one.sector_size)?;
                let start = match *place {
                    Place::Partition(number) => {
                        let table = Table::read(&*one.base, one.sector_size)?;
                        let found = table.partitions.iter().find(|one| one.number == number);
                        found.map_or(0, |one| one.start)
                    }
                    _ => 0,
                };
                Ok((disk, Area::Whole(number, start)))
            }
            Place::Logical(group, name) => {
                let (mut starts, mut physical) = (Vec::new(), Vec::new());
                for (number, one) in self.disks.iter().enumerate() {
                    for (start, disk) in members(&one.base, one.sector_size)? {
                        starts.push((number, start));
                        physical.push(disk);
                    }
                }
                let volume = logical(&physical, &group, &name)?;
                Ok((Arc::new(volume.clone()), Area::Logical(Box::new(volume), starts)))
            }
            Place::Disk | Place::Partition(_) => Err(no_file_system()),
        }
    }

    /// The place with the number of its disk, if it is on one.
    fn with_disk(&self, place: &Place) -> Place {
        match place {
            Place::Disk | Place::Partition(_) => {
                Place::OnDisk(self.at_hand, Box::new(place.clone()))
            }
            Place::Logical(..) | Place::OnDisk(..) => place.clone(),
        }
    }

    // `at_hand` is the number of a disk from the start on.
    #[allow(clippy::indexing_slicing)]
    fn here(&self) -> &Member {
        &self.disks[self.at_hand]
    }
}

impl MachineVolume {
    /// The file system.
    #[must_use]
    pub fn fs(&mut self) -> &mut dyn GuestFsMut {
        &mut *self.fs
    }

    /// The volume's bytes as they are now. Whoever writes to them calls
    /// [`MachineVolume::reopen`] before using the file system again.
    #[must_use]
    pub fn disk(&self) -> &Arc<CowDisk> {
        &self.disk
    }

    /// Opens the file system anew, after its bytes were changed.
    ///
    /// # Errors
    /// As [`open_mut`].
    pub fn reopen(&mut self) -> Result<()> {
        self.fs = open_mut(self.disk.clone())?.ok_or_else(no_file_system)?;
        Ok(())
    }
}

impl Area {
    /// Fails where snapshots read from the volume: what is written to it would be theirs too.
    pub(crate) fn insist_on_no_snapshots(&self) -> Result<()> {
        match self {
            Self::Logical(volume, _) if volume.has_snapshots() => {
                let why = "the logical volume has snapshots, which would change with it";
                Err(Error::unsupported(why).hint("remove them in the guest first, with lvremove"))
            }
            _ => Ok(()),
        }
    }

    /// Writes what was changed in the volume to where it stands on the disks.
    pub(crate) fn carry_over(&self, changes: &[Change], all: &[CowDisk]) -> Result<()> {
        let nowhere = || Error::internal("a volume lies on a disk that is not there");
        let write = |disk: usize, bytes: &[u8], offset: u64| {
            all.get(disk).ok_or_else(nowhere)?.write_at(bytes, offset)
        };
        for Change { offset, bytes } in changes {
            match self {
                Self::Whole(disk, start) => write(*disk, bytes, start + offset)?,
                Self::Logical(volume, starts) => {
                    let mut rest = bytes.as_slice();
                    for piece in volume.map(*offset..offset + bytes.len() as u64)? {
                        let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
                        let (now, later) = rest.split_at(len.min(rest.len()));
                        let (disk, start) = starts.get(piece.disk).copied().ok_or_else(nowhere)?;
                        write(disk, now, start + piece.offset)?;
                        rest = later;
                    }
                }
            }
        }
        Ok(())
    }
}

fn no_file_system() -> Error {
    Error::new(ErrorKind::UnknownFormat, "no file system is recognised there")
}
