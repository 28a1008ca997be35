//! A machine's disk and its volumes, open for changing in memory.

use std::sync::Arc;

use vdisk_core::{Change, CowDisk, Disk, Error, ErrorKind, Result, Window};
use vdisk_guest::fs::{GuestFsMut, open_mut};
use vdisk_guest::inventory::{Inventory, System, VolumeFacts};
use vdisk_guest::{Place, inspect};
use vdisk_parts::Table;
use vdisk_parts::lvm::{LogicalVolume, scan};

/// Most bytes that may change on a disk.
pub(crate) const LIMIT: u64 = 2 << 30;

/// A disk whose changes are kept in memory, and the volumes on it that are being changed.
#[derive(Debug)]
pub struct Machine {
    /// What is changed outside of volumes: partition tables, boot code.
    disk: Arc<CowDisk>,
    base: Arc<dyn Disk>,
    sector_size: u64,
    inventory: Inventory,
    volumes: Vec<(Place, MachineVolume)>,
}

/// A volume that is being changed.
#[derive(Debug)]
pub struct MachineVolume {
    fs: Box<dyn GuestFsMut>,
    disk: Arc<CowDisk>,
    area: Area,
}

/// Where a volume's bytes stand on the disk.
#[derive(Debug)]
pub(crate) enum Area {
    /// In one piece, from this byte on.
    Whole(u64),
    /// In pieces of physical volumes, which begin at these bytes.
    Logical(Box<LogicalVolume>, Vec<u64>),
}

impl Machine {
    /// Looks at `disk`, whose sectors have `sector_size` bytes.
    ///
    /// # Errors
    /// As [`inspect`].
    pub fn open(disk: Arc<dyn Disk>, sector_size: u64) -> Result<Self> {
        let inventory = inspect(disk.clone(), sector_size)?;
        let sector_size = inventory.disk.sector_size;
        let overlay = Arc::new(CowDisk::new(disk.clone(), LIMIT));
        Ok(Self { disk: overlay, base: disk, sector_size, inventory, volumes: Vec::new() })
    }

    /// What stood on the disk before anything changed.
    #[must_use]
    pub fn inventory(&self) -> &Inventory {
        &self.inventory
    }

    /// Bytes of a sector.
    #[must_use]
    pub fn sector_size(&self) -> u64 {
        self.sector_size
    }

    /// The guest number `index` of the inventory.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`] where there are fewer.
    pub fn system(&self, index: usize) -> Result<&System> {
        self.inventory.systems.get(index).ok_or_else(|| {
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

    /// All of the disk, for what stands outside of volumes. Bytes of a volume are changed through
    /// [`Machine::volume`].
    #[must_use]
    pub fn disk(&self) -> &Arc<CowDisk> {
        &self.disk
    }

    /// The volume at `place`, opened for changing when it is first asked for.
    ///
    /// # Errors
    /// [`ErrorKind::Refused`] where it was not closed in order; [`ErrorKind::UnknownFormat`] where
    /// no file system is recognised; as [`Place::open`].
    pub fn volume(&mut self, place: &Place) -> Result<&mut MachineVolume> {
        let index = match self.volumes.iter().position(|(there, _)| there == place) {
            Some(index) => index,
            None => {
                let volume = self.open_volume(place)?;
                self.volumes.push((place.clone(), volume));
                self.volumes.len() - 1
            }
        };
        let found = self.volumes.get_mut(index).map(|(_, volume)| volume);
        found.ok_or_else(|| Error::new(ErrorKind::Internal, "a volume was opened and is not there"))
    }

    /// All places that may hold volumes: partitions and logical volumes.
    #[must_use]
    pub fn places(&self) -> Vec<Place> {
        let partitions = self.inventory.partitions.iter();
        let mut places: Vec<Place> = partitions.map(|one| Place::Partition(one.number)).collect();
        places.extend(self.inventory.volumes.iter().map(VolumeFacts::place));
        places
    }

    /// What differs from the disk that was given, in order.
    ///
    /// # Errors
    /// The disk's.
    pub fn changes(&self) -> Result<Vec<Change>> {
        self.changed()?.changes()
    }

    /// The disk as it is with all changes.
    ///
    /// # Errors
    /// The disk's.
    pub fn changed(&self) -> Result<Arc<CowDisk>> {
        let all = Arc::new(CowDisk::new(self.base.clone(), LIMIT));
        for Change { offset, bytes } in self.disk.changes()? {
            all.write_at(&bytes, offset)?;
        }
        for (_, volume) in &self.volumes {
            volume.carry_over(&all)?;
        }
        Ok(all)
    }

    fn open_volume(&self, place: &Place) -> Result<MachineVolume> {
        let (disk, area) = self.area(place)?;
        let disk = Arc::new(CowDisk::new(disk, LIMIT));
        let fs = open_mut(disk.clone())?.ok_or_else(no_file_system)?;
        Ok(MachineVolume { fs, disk, area })
    }

    /// The volume's bytes, and where they stand.
    pub(crate) fn area(&self, place: &Place) -> Result<(Arc<dyn Disk>, Area)> {
        let disk = place.open(self.base.clone(), self.sector_size)?;
        let table = Table::read(&*self.base, self.sector_size)?;
        Ok(match place {
            Place::Disk => (disk, Area::Whole(0)),
            Place::Partition(number) => {
                let found = table.partitions.iter().find(|one| one.number == *number);
                (disk, Area::Whole(found.map_or(0, |one| one.start)))
            }
            Place::Logical(group, name) => {
                let mut starts = vec![0];
                let mut disks = vec![self.base.clone()];
                for partition in &table.partitions {
                    starts.push(partition.start);
                    let range = partition.range();
                    disks.push(Arc::new(Window::new(self.base.clone(), range)?));
                }
                let groups = scan(&disks)?;
                let found = groups.iter().find(|one| one.name() == group);
                let volume = found.ok_or_else(no_file_system)?.open(name)?;
                (disk, Area::Logical(Box::new(volume), starts))
            }
        })
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

    fn carry_over(&self, all: &CowDisk) -> Result<()> {
        self.area.carry_over(&self.disk.changes()?, all)
    }
}

impl Area {
    /// Writes what was changed in the volume to where it stands on the disk.
    pub(crate) fn carry_over(&self, changes: &[Change], all: &CowDisk) -> Result<()> {
        for Change { offset, bytes } in changes {
            match self {
                Self::Whole(start) => all.write_at(bytes, start + offset)?,
                Self::Logical(volume, starts) => {
                    let mut rest = bytes.as_slice();
                    for piece in volume.map(*offset..offset + bytes.len() as u64)? {
                        let len = usize::try_from(piece.len).unwrap_or(usize::MAX);
                        let (now, later) = rest.split_at(len.min(rest.len()));
                        let start = starts.get(piece.disk).copied().unwrap_or_default();
                        all.write_at(now, start + piece.offset)?;
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
