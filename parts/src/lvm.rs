//! LVM2: volume groups over one or several disks, and their logical volumes as disks.
//!
//! [`scan`] reads the labels and the metadata of physical volumes, [`VolumeGroup::open`] opens a
//! logical volume of plain segments, linear or striped. Volumes of other kinds are listed with the
//! name of their kind and not opened.
//!
//! ```no_run
//! # fn disks() -> Vec<std::sync::Arc<dyn vdisk_core::Disk>> { Vec::new() }
//! for group in vdisk_parts::lvm::scan(&disks())? {
//!     for volume in group.volumes().filter(|volume| volume.visible) {
//!         println!("{}/{}: {} ({:?} bytes)", group.name(), volume.name, volume.kind, volume.len);
//!     }
//!     let root = group.open("root")?;
//!     println!("{:?}", vdisk_parts::recognise(&root)?);
//! }
//! # Ok::<(), vdisk_core::Error>(())
//! ```

mod config;
mod group;
mod logical;
mod physical;

use std::collections::BTreeMap;
use std::sync::Arc;

use vdisk_core::{Disk, Error, ErrorKind, Finding, Findings, Result, Severity};

use group::{Description, Layout};
pub use logical::{LogicalVolume, Piece};
use physical::Physical;
pub(crate) use physical::{LABEL_SECTORS, label_uuid};

const WHAT: &str = "LVM2 metadata";

/// A volume group and those of its disks that are there.
#[derive(Clone, Debug)]
pub struct VolumeGroup {
    description: Description,
    /// For each member of the description, the index in `disks`.
    places: Vec<Option<usize>>,
    disks: Vec<Arc<dyn Disk>>,
    findings: Vec<Finding>,
}

/// A logical volume of a group, as its metadata describes it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VolumeInfo<'a> {
    /// Its name in the group.
    pub name: &'a str,
    /// Its UUID as LVM2 prints it.
    pub uuid: &'a str,
    /// What it is made of: `linear`, `striped`, or a kind that is not opened, by LVM2's name of
    /// the segment's type (`thin`, `raid1`, …), `snapshot` or `stacked` (on other volumes).
    pub kind: &'a str,
    /// Whether it is meant to be used, instead of being part of another.
    pub visible: bool,
    /// Bytes, where [`VolumeGroup::open`] can open it.
    pub len: Option<u64>,
}

/// The volume groups of `disks`: whole disks or partitions, of which those that are no physical
/// volumes are passed over. Of a group that several disks describe, the newest description counts.
///
/// # Errors
/// [`Corrupt`](ErrorKind::Corrupt) where a label is damaged, or no disk of a group holds sound
/// metadata; the disks' own.
pub fn scan(disks: &[Arc<dyn Disk>]) -> Result<Vec<VolumeGroup>> {
    let mut places = BTreeMap::new();
    let mut newest: BTreeMap<String, Description> = BTreeMap::new();
    let mut damage = None;
    let mut findings = Findings::new();
    for (index, disk) in disks.iter().enumerate() {
        let Some(physical) = Physical::read(&**disk)? else { continue };
        for error in physical.damage {
            findings.corruption("lvm-metadata-damaged", error.offset(), error.to_string());
            damage = damage.or(Some(error));
        }
        for (area, text) in &physical.metadata {
            let found = Description::parse(*area, text)
                .map_err(|reason| Error::corrupt(WHAT, *area, reason))?;
            let known = newest.get(&found.id).map(|known| known.seqno);
            if known.is_some_and(|known| known != found.seqno) {
                findings.add(
                    Severity::Note,
                    "lvm-metadata-older",
                    None,
                    format!("group {}: not all disks have the newest metadata", found.name),
                );
            }
            if known.is_none_or(|known| known < found.seqno) {
                newest.insert(found.id.clone(), found);
            }
        }
        if let Some(other) = places.insert(physical.uuid.clone(), index) {
            // LVM2 goes no further either: the bytes of a volume would be one's or the other's.
            let message =
                format!("disks {other} and {index} are both physical volume {}", physical.uuid);
            return Err(Error::corrupt(WHAT, 0, message).hint("leave out the copy of a disk"));
        }
    }
    if let (true, Some(error)) = (newest.is_empty(), damage) {
        return Err(error.hint("no disk that was given holds a sound copy of the metadata"));
    }
    let groups = newest.into_values().map(|description| VolumeGroup {
        places: description
            .members
            .iter()
            .map(|member| places.get(&member.uuid).copied())
            .collect(),
        description,
        disks: disks.to_vec(),
        findings: findings.list().to_vec(),
    });
    Ok(groups.collect())
}

impl VolumeGroup {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.description.name
    }

    /// Its UUID as LVM2 prints it.
    #[must_use]
    pub fn uuid(&self) -> &str {
        &self.description.id
    }

    /// Grows by one with each change of the group.
    #[must_use]
    pub fn sequence_number(&self) -> u64 {
        self.description.seqno
    }

    /// The logical volumes in the order of the metadata, those that are parts of others too.
    pub fn volumes(&self) -> impl Iterator<Item = VolumeInfo<'_>> {
        self.description.volumes.iter().map(|volume| VolumeInfo {
            name: &volume.name,
            uuid: &volume.uuid,
            kind: &volume.kind,
            visible: volume.visible,
            len: match &volume.layout {
                Layout::Known(segments) => Some(logical::end(segments)),
                Layout::Unsupported | Layout::Corrupt(_) => None,
            },
        })
    }

    /// The disks it stands on, by their place among those that were scanned.
    pub fn disks(&self) -> impl Iterator<Item = usize> {
        self.places.iter().flatten().copied()
    }

    /// The UUIDs of the physical volumes that were not among the disks.
    pub fn missing(&self) -> impl Iterator<Item = &str> {
        let members = self.description.members.iter().zip(&self.places);
        members.filter(|(_, place)| place.is_none()).map(|(member, _)| member.uuid.as_str())
    }

    /// What was wrong or odd with the metadata, of all groups that were scanned together.
    #[must_use]
    pub fn findings(&self) -> &[Finding] {
        &self.findings
    }

    /// Opens the logical volume `name` for reading.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) where there is none of that name, or a physical volume it
    /// stands on is missing; [`Unsupported`](ErrorKind::Unsupported) for kinds other than linear
    /// and striped; [`Corrupt`](ErrorKind::Corrupt) where its metadata contradicts itself;
    /// [`Truncated`](ErrorKind::Truncated) where a disk is shorter than the volume needs.
    pub fn open(&self, name: &str) -> Result<LogicalVolume> {
        let group = self.name();
        let volumes = &self.description.volumes;
        let volume = volumes.iter().find(|volume| volume.name == name).ok_or_else(|| {
            let message = format!("volume group {group} has no logical volume {name}");
            Error::new(ErrorKind::NotFound, message)
        })?;
        let segments = match &volume.layout {
            Layout::Known(segments) => segments,
            Layout::Corrupt(reason) => {
                let message = format!("of {group}/{name}: {reason}");
                return Err(Error::corrupt(WHAT, self.description.area, message));
            }
            Layout::Unsupported => {
                let message = format!(
                    "{group}/{name} is of the kind {}, which vdisk does not read",
                    volume.kind
                );
                return Err(Error::unsupported(message)
                    .hint("linear and striped volumes are read; copy others inside the machine"));
            }
        };
        let mut placed = segments.clone();
        for segment in &mut placed {
            let each = segment.len / segment.areas.len().max(1) as u64;
            for (member, start) in &mut segment.areas {
                *member = self.place(*member, *start + each, name)?;
            }
        }
        Ok(LogicalVolume::new(placed, self.disks.clone(), volume.has_snapshots))
    }

    /// The disk that holds member `member`, which must reach to byte `end`.
    fn place(&self, member: usize, end: u64, volume: &str) -> Result<usize> {
        let group = self.name();
        let uuid = self.description.members.get(member).map_or("", |member| &member.uuid);
        let place = self.places.get(member).copied().flatten().ok_or_else(|| {
            let message =
                format!("{group}/{volume} stands on physical volume {uuid}, which is missing");
            Error::new(ErrorKind::NotFound, message)
                .hint("name the images of all disks of the group")
        })?;
        let len = self.disks.get(place).map_or(0, |disk| disk.len());
        if len < end {
            let message = format!(
                "{group}/{volume} reaches to byte {end} of physical volume {uuid}, which has {len}"
            );
            return Err(Error::new(ErrorKind::Truncated, message).at("LVM2 physical volume", len));
        }
        Ok(place)
    }
}
