//! What is captured, and what the images are called.

use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use vdisk::{Disk, Error, ErrorKind, Format, OpenOptions, Result};
use vdisk_fixup::{MachineDisk, Target};
use vdisk_p2v::{DiskInfo, Held, Hold, Machine, Use};

use super::{ending, format_for};
use crate::args::P2vArgs;
use crate::cmd::output_format;

/// A disk to capture.
pub(super) struct Source {
    /// As it is told.
    pub(super) name: PathBuf,
    pub(super) disk: Arc<dyn Disk>,
    /// Bytes of its sectors.
    pub(super) sector: u64,
    /// The file or device that holds its bytes as they are, where one does.
    pub(super) raw_path: Option<PathBuf>,
    /// A disk of this machine, rather than an image.
    pub(super) device: Option<DiskInfo>,
    /// Device and inode of each file that it is read from.
    pub(super) inputs: Vec<(u64, u64)>,
    /// Keeps the kernel from using a disk of this machine meanwhile; `None` where it does already.
    claim: Option<File>,
    /// Something uses it that cannot be told, nor held still.
    pub(super) unseen: bool,
}

impl Source {
    pub(super) fn find(name: &OsStr, machine: &Machine, args: &P2vArgs) -> Result<Self> {
        let path = PathBuf::from(name);
        if path.is_file() {
            return Self::image(path, args);
        }
        let device = machine.find(name)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "is no image, and no disk of this machine")
                .in_file(&path)
                .hint("see the disks with: vdisk p2v --list")
        })?;
        if !args.live {
            device.refuse_used().map_err(|error| {
                error.hint(
                    "start the machine from another disk (a rescue system), or unmount them; to \
                     copy it while it is in use, add --live",
                )
            })?;
        }
        let claim = match device.claim() {
            Ok(claim) => Some(claim),
            Err(error) if error.kind() != ErrorKind::InUse => return Err(error),
            Err(_) if args.live => None,
            Err(error) => {
                return Err(error.hint(
                    "something uses it that does not say so, such as ZFS or a container: stop \
                     that; to copy it while it is in use, add --live",
                ));
            }
        };
        let unseen = claim.is_none() && !device.held_unseen().is_empty();
        device.forget_cached()?;
        let disk = OpenOptions::new().format(Format::Raw).open(&device.path)?;
        Ok(Self {
            name: device.path.clone(),
            inputs: disk.host_ids().into_iter().chain(device.backing_id()).collect(),
            disk: Arc::new(disk),
            sector: device.logical_sector_size,
            raw_path: Some(device.path.clone()),
            device: Some(device),
            claim,
            unseen,
        })
    }

    fn image(path: PathBuf, args: &P2vArgs) -> Result<Self> {
        let image = args.source.open_options().open(&path)?;
        let raw = image.info().format == Format::Raw;
        Ok(Self {
            sector: image.info().logical_sector.into(),
            inputs: image.host_ids(),
            disk: Arc::new(image),
            raw_path: raw.then(|| path.clone()),
            name: path,
            device: None,
            claim: None,
            unseen: false,
        })
    }

    /// It, or what was copied of it, as a disk of the machine.
    pub(super) fn of_machine(&self, disk: Arc<dyn Disk>) -> MachineDisk {
        let by_id = self.device.iter().flat_map(|device| &device.by_id);
        let names = by_id.map(|id| format!("/dev/disk/by-id/{id}")).collect();
        MachineDisk { names, ..MachineDisk::new(disk, self.sector) }
    }

    /// Whether the running system uses it.
    pub(super) fn is_used(&self) -> bool {
        self.device
            .as_ref()
            .is_some_and(|device| self.claim.is_none() || device.refuse_used().is_err())
    }

    /// Whether something may write to it though all that can be held still is: `held`.
    pub(super) fn may_change(&self, held: &[Held]) -> bool {
        let Some(device) = self.device.as_ref().filter(|_| self.is_used()) else { return false };
        let own = |one: &&Held| {
            let mut uses = device.all_uses();
            uses.any(|(_, used)| matches!(used, Use::Mount { point, .. } if *point == one.point))
        };
        let mut own = held.iter().filter(own).peekable();
        self.unseen || own.peek().is_none() || own.any(|one| one.how == Hold::NotHeld)
    }

    /// What an image of it is called, without ending.
    fn stem(&self) -> OsString {
        let stem = match &self.device {
            Some(device) => Some(OsStr::new(&device.name)),
            None => self.name.file_stem(),
        };
        stem.unwrap_or(OsStr::new("disk")).to_owned()
    }
}

/// An image that will be.
pub(super) struct Named {
    pub(super) path: PathBuf,
    pub(super) format: Format,
}

/// What the images of `sources` are: `target` itself, or where it is a folder or there are several,
/// files in it that are named after their disks.
pub(super) fn names(sources: &[Source], target: &Path, args: &P2vArgs) -> Result<Vec<Named>> {
    let ends_in_slash = target.as_os_str().as_encoded_bytes().ends_with(b"/");
    if sources.len() == 1 && !target.is_dir() && !ends_in_slash {
        let said = args.output_format.or_else(|| vdisk::format_of_name(target));
        let format = output_format(said.or(format_for(args.target)), target)?;
        fits_target(format, args.target, target)?;
        return Ok(vec![Named { path: target.to_owned(), format }]);
    }
    let format = args.output_format.or(format_for(args.target)).ok_or_else(|| {
        Error::usage("the images' format is not known")
            .in_file(target)
            .hint("name the target with --target, or the format with -O")
    })?;
    fits_target(format, args.target, target)?;
    if !args.passage.dry_run {
        std::fs::create_dir_all(target)
            .map_err(|error| Error::io(error, "make the folder").in_file(target))?;
    }
    let mut taken = BTreeSet::new();
    let mut named = Vec::new();
    for source in sources {
        let mut number = 1;
        let path = loop {
            let mut name = source.stem();
            if number > 1 {
                name.push(format!("-{number}"));
            }
            name.push(format!(".{}", ending(format)));
            if taken.insert(name.clone()) {
                break target.join(name);
            }
            number += 1;
        };
        named.push(Named { path, format });
    }
    Ok(named)
}

fn fits_target(format: Format, target: Option<Target>, path: &Path) -> Result<()> {
    if target == Some(Target::HyperVGen2) && format != Format::Vhdx {
        return Err(Error::refused(format!(
            "a Hyper-V machine of generation 2 does not start from {format}"
        ))
        .in_file(path)
        .hint("end the name in .vhdx, or use -O vhdx"));
    }
    Ok(())
}
