//! The disks of the machine this runs on: what they are, and what uses them.

mod sysfs;
mod uses;

use std::ffi::OsStr;
use std::fs::File;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::Serialize;
use vdisk::{Error, ErrorKind, HostFile, Result};

use self::sysfs::Entry;
use self::uses::Users;

/// Kinds of devices that are no disks of the machine, by the beginning of their names.
const NO_DISKS: [&str; 8] = ["loop", "ram", "zram", "dm-", "md", "sr", "fd", "nbd"];

/// A running machine, as its kernel describes it under `/sys`, `/proc`, `/dev` and `/run`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Machine {
    root: PathBuf,
}

impl Default for Machine {
    fn default() -> Self {
        Self::at("/")
    }
}

/// A disk of the machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct DiskInfo {
    /// The kernel's name, such as `sda`.
    pub name: String,
    /// Its device node.
    pub path: PathBuf,
    /// What its maker calls it.
    pub model: Option<String>,
    /// Its serial number.
    pub serial: Option<String>,
    /// Its names in `/dev/disk/by-id`.
    pub by_id: Vec<String>,
    /// Bytes.
    pub size: u64,
    /// Bytes of a sector that it is addressed by.
    pub logical_sector_size: u64,
    /// Bytes of a sector of the medium.
    pub physical_sector_size: u64,
    /// It turns; `None` where the kernel does not say.
    pub rotational: Option<bool>,
    /// It can be taken out.
    pub removable: bool,
    /// It cannot be written to.
    pub read_only: bool,
    /// The partitions that the kernel sees.
    pub partitions: Vec<PartitionInfo>,
    /// What uses the disk as a whole.
    pub uses: Vec<Use>,
    /// The file that a loop device stands for.
    #[serde(skip)]
    pub backing_file: Option<PathBuf>,
    /// Another disk of the machine has the same serial number, as have the namespaces of one NVMe
    /// controller, and disks behind one USB bridge.
    #[serde(skip)]
    pub shares_serial: bool,
}

/// A partition as the kernel sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct PartitionInfo {
    /// Its number.
    pub number: u32,
    /// Its device node.
    pub path: PathBuf,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes.
    pub size: u64,
    /// What uses it.
    pub uses: Vec<Use>,
}

/// Something of the running system that uses a disk or partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
#[non_exhaustive]
pub enum Use {
    /// A file system is mounted.
    #[serde(rename_all = "kebab-case")]
    Mount {
        /// Where.
        point: PathBuf,
        /// Its type.
        filesystem: String,
        /// It can only be read from.
        read_only: bool,
    },
    /// The kernel swaps to it.
    Swap,
    /// Another device stands on it.
    Holder {
        /// Its name, such as `dm-0`.
        name: String,
        /// `lvm`, `crypt`, `multipath`, `dm`, `raid`, `loop` or `device`.
        layer: &'static str,
    },
}

impl std::fmt::Display for Use {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Mount { point, .. } => write!(f, "mounted at {}", point.display()),
            Self::Swap => f.write_str("swap space"),
            Self::Holder { name, layer } => write!(f, "held by {name} ({layer})"),
        }
    }
}

impl DiskInfo {
    /// All that uses the disk and its partitions, each with the device it uses.
    pub fn all_uses(&self) -> impl Iterator<Item = (&Path, &Use)> {
        let own = self.uses.iter().map(|one| (&*self.path, one));
        let of_partitions =
            self.partitions.iter().flat_map(|part| part.uses.iter().map(|one| (&*part.path, one)));
        own.chain(of_partitions)
    }

    /// Whether the running system stands on it: its root, or what it needs to start or run.
    #[must_use]
    pub fn is_of_system(&self) -> bool {
        const OF_SYSTEM: [&str; 6] = ["/", "/usr", "/boot", "/boot/efi", "/efi", "/var"];
        self.all_uses().any(|(_, one)| match one {
            Use::Mount { point, .. } => OF_SYSTEM.iter().any(|path| point == Path::new(path)),
            Use::Swap => true,
            Use::Holder { .. } => false,
        })
    }

    /// What a person confirms it by: its serial number, or its path where it has none of its own.
    #[must_use]
    pub fn confirmation(&self) -> String {
        let own = self.serial.clone().filter(|_| !self.shares_serial);
        own.unwrap_or_else(|| self.path.display().to_string())
    }

    /// The nodes through which its bytes can be reached.
    pub fn nodes(&self) -> impl Iterator<Item = &Path> {
        std::iter::once(&*self.path).chain(self.partitions.iter().map(|part| &*part.path))
    }

    /// Device and inode of the file that a loop device stands for.
    #[must_use]
    pub fn backing_id(&self) -> Option<(u64, u64)> {
        HostFile::open(self.backing_file.as_ref()?).ok().map(|file| file.id())
    }

    /// Nodes that something in the kernel holds though no use of them is known: ZFS, or a mount that
    /// is seen from another namespace only.
    #[must_use]
    pub fn held_unseen(&self) -> Vec<&Path> {
        let free = self.partitions.iter().filter(|part| part.uses.is_empty());
        let whole = self.all_uses().next().is_none().then_some(&*self.path);
        let nodes = whole.into_iter().chain(free.map(|part| &*part.path));
        let is_held = |path: &&Path| claim(path).is_err_and(|e| e.kind() == ErrorKind::InUse);
        nodes.filter(is_held).collect()
    }

    /// Takes the disk for this program as long as what is returned lives: nothing can be mounted of
    /// it meanwhile. It is opened for reading only.
    ///
    /// # Errors
    /// [`InUse`](ErrorKind::InUse) where something in the kernel holds it, also what
    /// [`DiskInfo::all_uses`] does not know of; the host's.
    pub fn claim(&self) -> Result<File> {
        claim(&self.path)
    }

    /// Has the host read the disk's bytes anew: what it keeps of the disk as a whole may be older
    /// than what file systems wrote through its partitions.
    ///
    /// # Errors
    /// The host's.
    pub fn forget_cached(&self) -> Result<()> {
        HostFile::open(&self.path)?.give_up(0, self.size);
        Ok(())
    }

    /// Fails while anything uses it, naming what does.
    ///
    /// # Errors
    /// [`InUse`](ErrorKind::InUse).
    pub fn refuse_used(&self) -> Result<()> {
        let uses: Vec<String> =
            self.all_uses().map(|(device, one)| format!("{} is {one}", device.display())).collect();
        if uses.is_empty() {
            return Ok(());
        }
        Err(Error::new(ErrorKind::InUse, uses.join("; ")).in_file(&self.path))
    }
}

fn claim(path: &Path) -> Result<File> {
    let flags = i32::try_from((OFlags::EXCL | OFlags::NONBLOCK).bits()).unwrap_or_default();
    let opened = File::options().read(true).custom_flags(flags).open(path);
    opened.map_err(|error| Error::io(error, "open it for this program alone").in_file(path))
}

impl Machine {
    /// The machine whose `/sys`, `/proc`, `/dev` and `/run` are under `root`.
    #[must_use]
    pub fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// Its disks, by name. Loop devices, RAM disks, optical drives and what stands on other disks
    /// are not among them.
    ///
    /// # Errors
    /// The host's.
    pub fn disks(&self) -> Result<Vec<DiskInfo>> {
        let users = Users::read(&self.root)?;
        let is_disk = |name: &String| NO_DISKS.iter().all(|kind| !name.starts_with(kind));
        let mut disks: Vec<DiskInfo> = sysfs::block_devices(&self.root)?
            .iter()
            .filter(|name| is_disk(name))
            .map(|name| Entry::of_disk(&self.root, name))
            // One path to an NVMe disk that has several.
            .filter(|entry| entry.number("hidden") != Some(1))
            .filter_map(|entry| self.describe(&entry, &users))
            .filter(|disk| disk.size > 0)
            .collect();
        let serials: Vec<Option<String>> = disks.iter().map(|disk| disk.serial.clone()).collect();
        for disk in &mut disks {
            let same = serials.iter().filter(|one| **one == disk.serial).count();
            disk.shares_serial = disk.serial.is_some() && same > 1;
        }
        disks.sort_by(|one, other| order(&one.name).cmp(&order(&other.name)));
        Ok(disks)
    }

    /// The block device that the user means by a path, a serial number, or a name in
    /// `/dev/disk/by-id`; `None` where it is none of these.
    ///
    /// # Errors
    /// [`Refused`](ErrorKind::Refused) where several disks have that serial number, or the path is
    /// that of a partition; the host's.
    pub fn find(&self, name: &OsStr) -> Result<Option<DiskInfo>> {
        let path = Path::new(name);
        let by_id = self.root.join("dev/disk/by-id").join(path);
        let plain = path.components().count() == 1;
        for path in [Some(path), Some(&*by_id).filter(|_| plain)].into_iter().flatten() {
            if let Some(number) = sysfs::device_number(path) {
                let Some(entry) = Entry::of_number(&self.root, &number) else { continue };
                if entry.number("partition").is_some() {
                    return Err(Error::refused("is a partition, not a whole disk")
                        .in_file(path)
                        .hint("name the disk it is on; see: vdisk p2v --list"));
                }
                let users = Users::read(&self.root)?;
                let mut found = self.describe(&entry, &users);
                for disk in found.iter_mut().filter(|disk| disk.serial.is_some()) {
                    let others = self.disks()?.into_iter().filter(|one| one.name != disk.name);
                    disk.shares_serial = others.into_iter().any(|one| one.serial == disk.serial);
                }
                return Ok(found);
            }
        }
        let Some(text) = name.to_str() else { return Ok(None) };
        let mut same = self.disks()?.into_iter().filter(|disk| {
            disk.serial.as_deref() == Some(text) || disk.by_id.iter().any(|id| id == text)
        });
        match (same.next(), same.next()) {
            (Some(one), Some(other)) => Err(Error::refused(format!(
                "{} and {} both have the serial number {text}",
                one.path.display(),
                other.path.display()
            ))
            .hint("name the disk by its path")),
            (found, _) => Ok(found),
        }
    }

    /// Where the file system that holds `path` is mounted; `None` where that cannot be told.
    ///
    /// # Errors
    /// The host's.
    pub fn mount_of(&self, path: &Path) -> Result<Option<PathBuf>> {
        let whole = path.canonicalize();
        let whole = whole.map_err(|error| Error::io(error, "find it").in_file(path))?;
        Ok(Users::read(&self.root)?.mount_of(&whole))
    }

    /// What tells the file systems apart that are mounted at `points`, in their order: the same for
    /// two places at which one is mounted, `None` where nothing is.
    ///
    /// # Errors
    /// The host's.
    pub fn mounted_at<'a>(
        &self,
        points: impl IntoIterator<Item = &'a Path>,
    ) -> Result<Vec<Option<String>>> {
        let users = Users::read(&self.root)?;
        let device = |point| users.device_at(point).map(str::to_owned);
        Ok(points.into_iter().map(device).collect())
    }

    fn describe(&self, entry: &Entry, users: &Users) -> Option<DiskInfo> {
        let partitions = entry.partitions();
        let partitions = partitions.iter().filter_map(|(number, part)| {
            Some(PartitionInfo {
                number: *number,
                path: Path::new("/dev").join(part.node()),
                start: part.number("start")?.checked_mul(512)?,
                size: part.size()?,
                uses: users.of(part),
            })
        });
        Some(DiskInfo {
            name: entry.name().to_owned(),
            path: Path::new("/dev").join(entry.node()),
            model: entry.model(),
            serial: entry.serial(),
            by_id: entry.by_id(),
            size: entry.size()?,
            logical_sector_size: entry.number("queue/logical_block_size").unwrap_or(512),
            physical_sector_size: entry.number("queue/physical_block_size").unwrap_or(512),
            rotational: entry.number("queue/rotational").map(|value| value != 0),
            removable: entry.number("removable") == Some(1),
            read_only: entry.number("ro") == Some(1),
            partitions: partitions.collect(),
            uses: users.of(entry),
            backing_file: entry.text("loop/backing_file").map(PathBuf::from),
            shares_serial: false,
        })
    }
}

/// So that `sdaa` comes after `sdz`.
fn order(name: &str) -> (usize, &str) {
    (name.len(), name)
}
