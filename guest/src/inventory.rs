//! What [`inspect`](crate::inspect()) tells, as data: stable keys, sizes in bytes.

use serde::Serialize;

use crate::location::Place;

/// What stands on a disk: `vdisk.inspect/1` without the file's name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Inventory {
    /// The disk as a whole.
    pub disk: DiskFacts,
    /// Its partitions, in the order of their numbers.
    pub partitions: Vec<PartitionFacts>,
    /// Volumes that are no partitions: logical volumes, or one over all of the disk.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub volumes: Vec<VolumeFacts>,
    /// What a firmware can start from it.
    pub boot: Boot,
    /// The operating systems.
    pub systems: Vec<System>,
    /// What could not be looked at, or is not as it should be.
    pub problems: Vec<Problem>,
}

/// The disk as a whole.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct DiskFacts {
    /// What the guest sees, bytes.
    pub virtual_size: u64,
    /// What its partition table counts in, bytes.
    pub sector_size: u64,
    /// `gpt`, `mbr` or `none`.
    pub partition_table: &'static str,
    /// A GPT's disk GUID, or an MBR's signature as `0x5b8a2f18`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disk_id: Option<String>,
}

/// A partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct PartitionFacts {
    /// Its number, as Linux counts.
    pub number: u32,
    /// First byte on the disk.
    pub start: u64,
    /// Bytes.
    pub length: u64,
    /// A GUID, or an MBR's byte as `0x83`.
    #[serde(rename = "type")]
    pub kind: String,
    /// What the type is called, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub type_name: Option<&'static str>,
    /// The name a GPT gives it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// As Linux says it in `PARTUUID=`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// A BIOS boots from it.
    pub active: bool,
    /// What stands there, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemFacts>,
}

/// A volume that is no partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct VolumeFacts {
    /// `GROUP/VOLUME` of LVM, or `disk`.
    pub name: String,
    /// Bytes, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub length: Option<u64>,
    /// What LVM tells it by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// What stands there, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filesystem: Option<FilesystemFacts>,
}

impl VolumeFacts {
    /// Where it stands.
    #[must_use]
    pub fn place(&self) -> Place {
        match self.name.split_once('/') {
            Some((group, name)) => Place::Logical(group.to_owned(), name.to_owned()),
            None => Place::Disk,
        }
    }
}

/// What stands on a volume: a file system, or something else that is known.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct FilesystemFacts {
    /// Such as `ntfs`, `ext4`, `bitlocker`, `swap`.
    #[serde(rename = "type")]
    pub kind: &'static str,
    /// The name its owner gave it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// As `blkid` prints it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uuid: Option<String>,
    /// Bytes in use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub used: Option<u64>,
    /// How it was left, where that is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state: Option<State>,
    /// Its journal holds work that was never done in place.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub journal_pending: bool,
}

/// How a volume was left.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// Closed in order.
    Clean,
    /// Not closed in order.
    Dirty,
    /// A system that is hibernated (or was shut down with Fast Startup) holds parts of it.
    Hibernated,
    /// Nobody can tell without a key.
    Encrypted,
}

impl State {
    /// The name in messages and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Clean => "clean",
            Self::Dirty => "dirty",
            Self::Hibernated => "hibernated",
            Self::Encrypted => "encrypted",
        }
    }
}

/// What a firmware can start from a disk.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Boot {
    /// Absent where nothing can start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<BootMode>,
    /// Programs for UEFI on the EFI system partitions, by their paths.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub loaders: Vec<String>,
    /// Whether one of them is what a firmware without settings looks for (`/EFI/BOOT/BOOT*.EFI`).
    pub fallback_loader: bool,
}

/// Which kinds of firmware can start a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum BootMode {
    /// A BIOS.
    Bios,
    /// UEFI.
    Uefi,
    /// Either.
    Both,
}

impl BootMode {
    /// The name in messages and JSON.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Bios => "bios",
            Self::Uefi => "uefi",
            Self::Both => "both",
        }
    }
}

/// The families of operating systems that are looked into.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Family {
    /// Microsoft Windows.
    Windows,
    /// Linux, whatever the distribution.
    Linux,
}

/// An operating system. What could not be found out is absent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct System {
    /// What it is, roughly.
    pub family: Family,
    /// As it calls itself, such as `Windows 11 Pro`, `Debian GNU/Linux 12 (bookworm)`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub product: Option<String>,
    /// Such as `10.0.26100.1742`, `12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// `x86`, `x86_64`, `arm64`, or another.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub arch: Option<&'static str>,
    /// Its name in the network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// The partition that holds it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_partition: Option<u32>,
    /// The volume that holds it, where it is no partition.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_volume: Option<String>,
    /// What can start the disk it is on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub boot_mode: Option<BootMode>,
    /// Its time zone, as it names it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_zone: Option<String>,
    /// What tells it from every other machine.
    pub identity: Identity,
    /// What it drives its hardware with.
    pub drivers: Drivers,
    /// More, for Windows.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub windows: Option<Windows>,
    /// More, for Linux.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub linux: Option<Linux>,
}

impl System {
    pub(crate) fn new(family: Family) -> Self {
        Self {
            family,
            product: None,
            version: None,
            arch: None,
            hostname: None,
            root_partition: None,
            root_volume: None,
            boot_mode: None,
            time_zone: None,
            identity: Identity::default(),
            drivers: Drivers::default(),
            windows: None,
            linux: None,
        }
    }
}

/// What tells a machine from every other.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Identity {
    /// Windows: the security identifier that all local accounts begin with.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_sid: Option<String>,
    /// Windows: `MachineGuid` of its cryptography.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_guid: Option<String>,
    /// Linux: `/etc/machine-id`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub machine_id: Option<String>,
}

/// What a system drives its hardware with.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Drivers {
    /// Windows: the drivers its loader loads, those off by `StartOverride` left out.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub boot: Vec<String>,
    /// Windows: filters in the way of its disks, such as those of antivirus and encryption.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub filters: Vec<Filters>,
    /// What was installed for a hypervisor.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hypervisor_tools: Vec<HypervisorTools>,
}

/// The filter drivers of a class of devices, as services are called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Filters {
    /// `disk`, `volume`, `ide-controller` or `scsi-controller`.
    pub class: &'static str,
    /// Above the function driver.
    pub upper: Vec<String>,
    /// Below it.
    pub lower: Vec<String>,
}

/// What was installed for a hypervisor.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct HypervisorTools {
    /// `hyper-v`, `parallels`, `qemu`, `virtualbox`, `vmware` or `xen`.
    pub hypervisor: &'static str,
    /// Services of Windows, programs of Linux.
    pub parts: Vec<String>,
}

/// What is told of Windows only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Windows {
    /// Such as `Professional`, `ServerStandard`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub edition: Option<String>,
    /// Such as 26100.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub build: Option<u32>,
    /// Such as `24H2`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub release: Option<String>,
    /// Such as `Service Pack 1`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_pack: Option<String>,
    /// Such as `Client`, `Server`, `Server Core`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub installation_type: Option<String>,
    /// What it is in its network.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    /// The domain or workgroup it is in.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub domain: Option<Domain>,
    /// Whether shutting it down hibernates the kernel (Fast Startup).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fast_startup: Option<bool>,
    /// The machine it ran on last, as its firmware called it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hardware: Option<String>,
    /// Its folder on its volume, such as `/Windows`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder: Option<String>,
    /// Network connections.
    pub interfaces: Vec<Interface>,
    /// The registry's files that were read, and how they were left.
    pub hives: Vec<HiveFacts>,
}

/// What a Windows is in its network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// A client edition.
    Workstation,
    /// A server edition.
    Server,
    /// A server that holds a domain's accounts: its machine SID is the domain's.
    DomainController,
}

/// The domain or workgroup of a Windows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Domain {
    /// It is a domain, and the machine is joined to it.
    pub joined: bool,
    /// The short name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The DNS name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dns_name: Option<String>,
    /// The domain's own identifier.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sid: Option<String>,
}

/// A network connection of Windows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Interface {
    /// Its GUID, in braces, as the registry has it.
    pub id: String,
    /// As the user sees it, such as `Ethernet0`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// The adapter, such as `Intel(R) 82574L Gigabit Network Connection`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub adapter: Option<String>,
    /// Its address comes from a server.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dhcp: Option<bool>,
    /// Fixed addresses, or those it was given last.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// A file of the registry.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct HiveFacts {
    /// Such as `SYSTEM`.
    pub name: &'static str,
    /// How it was left.
    pub state: HiveState,
}

/// How a file of the registry was left, and so what was told from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum HiveState {
    /// Written to the end.
    Clean,
    /// Its logs were replayed, in memory.
    Recovered,
    /// Its logs do not help: an old state was read.
    Stale,
    /// It could not be read.
    Unreadable,
}

/// What is told of Linux only.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Linux {
    /// `ID` of os-release, such as `debian`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    /// `ID_LIKE` of it.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub id_like: Vec<String>,
    /// On Btrfs: the subvolume that is its root, by its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub root_subvolume: Option<String>,
    /// Kernels, newest first.
    pub kernels: Vec<Kernel>,
    /// What makes its initramfs: `initramfs-tools`, `dracut`, `mkinitcpio`, `mkinitfs`, `booster`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub initramfs_makers: Vec<&'static str>,
    /// `grub2`, `grub-legacy`, `systemd-boot`, `extlinux`, `lilo`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub boot_loaders: Vec<&'static str>,
    /// Its file systems, as `/etc/fstab` names them.
    pub mounts: Vec<Mount>,
    /// It is set up by cloud-init at its first start.
    pub cloud_init: bool,
}

/// A kernel of Linux.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Kernel {
    /// As `uname -r` prints it.
    pub version: String,
    /// The kernel itself, by its path.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// Its initramfs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub initramfs: Option<Initramfs>,
    /// Its modules are there.
    pub modules: bool,
}

/// The archive a kernel starts from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Initramfs {
    /// Its path.
    pub path: String,
    /// Bytes.
    pub size: u64,
    /// How its last part is packed: `none`, `gzip`, `xz`, `zstd`, `lz4`, `lzma`, `bzip2`, `lzo`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub compression: Option<&'static str>,
}

/// A line of `/etc/fstab`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Mount {
    /// What is mounted, as it stands there.
    pub device: String,
    /// How that names it.
    pub style: DeviceStyle,
    /// Where, or `none` for swap space.
    pub mount_point: String,
    /// The type it names.
    pub filesystem: String,
}

impl Mount {
    /// The lines of an fstab(5).
    #[must_use]
    pub fn of_fstab(text: &str) -> Vec<Self> {
        crate::linux::mounts(text)
    }
}

/// How a device is named, and so what a move to other hardware does to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum DeviceStyle {
    /// `UUID=`: stays right.
    Uuid,
    /// `LABEL=`: stays right.
    Label,
    /// `PARTUUID=` or `PARTLABEL=`: stays right with the partition table.
    PartUuid,
    /// A logical volume: stays right.
    Lvm,
    /// The device's serial number, place or world-wide name: breaks on other hardware.
    Hardware,
    /// A name by kind of driver and order, such as `/dev/sda1`: breaks with another controller.
    KernelName,
    /// No device of the disk: `tmpfs`, a share, a file.
    Other,
}

/// Something that could not be looked at, or is not as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
#[non_exhaustive]
pub struct Problem {
    /// The volume it was met on: `disk`, `partition N`, `GROUP/VOLUME`.
    pub volume: String,
    /// What it is.
    pub message: String,
}
