//! What a partition says it is for.

use std::fmt;

use uuid::{Uuid, uuid};

/// The type a partition table gives a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum PartitionType {
    /// GPT: a GUID.
    Gpt(Uuid),
    /// MBR: a byte.
    Mbr(u8),
}

/// What a partition type means, whichever table it stands in. What really stands in the partition
/// is another question: see [`recognise`](crate::recognise()).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Role {
    /// EFI system partition.
    EfiSystem,
    /// Where GRUB stands on a GPT disk that a BIOS boots.
    BiosBoot,
    /// Microsoft reserved partition.
    MicrosoftReserved,
    /// A volume of Windows or another that any system may read: NTFS, FAT, exFAT.
    BasicData,
    /// Windows recovery environment.
    WindowsRecovery,
    /// Metadata of a Windows dynamic disk (LDM).
    LdmMetadata,
    /// Data of a Windows dynamic disk (LDM); in an MBR also the metadata's marker.
    LdmData,
    /// Part of a Windows storage pool.
    StorageSpaces,
    /// A Linux file system.
    LinuxFilesystem,
    /// The root file system of a Linux for this architecture.
    LinuxRoot,
    /// `/home` of a Linux.
    LinuxHome,
    /// `/boot` of a Linux (extended boot loader partition).
    LinuxBoot,
    /// Linux swap space.
    LinuxSwap,
    /// LVM physical volume.
    LinuxLvm,
    /// Member of a Linux software RAID.
    LinuxRaid,
    /// LUKS container.
    LinuxLuks,
    /// MBR: holds logical partitions.
    Extended,
    /// MBR: covers a GPT.
    Protective,
    /// Something of VMware ESX.
    Vmware,
    /// Something of Apple.
    Apple,
    /// Something of a BSD.
    Bsd,
    /// ZFS or another thing of Solaris.
    Solaris,
    /// Known by name only.
    Other,
}

impl PartitionType {
    /// What it means, where it is known.
    #[must_use]
    pub fn role(self) -> Option<Role> {
        self.known().map(|(role, _)| role)
    }

    /// Its usual name, such as `EFI system`, where it is known.
    #[must_use]
    pub fn name(self) -> Option<&'static str> {
        self.known().map(|(_, name)| name)
    }

    fn known(self) -> Option<(Role, &'static str)> {
        match self {
            Self::Gpt(guid) => {
                GPT.iter().find(|(known, ..)| *known == guid).map(|(_, role, name)| (*role, *name))
            }
            Self::Mbr(byte) => {
                MBR.iter().find(|(known, ..)| *known == byte).map(|(_, role, name)| (*role, *name))
            }
        }
    }
}

impl fmt::Display for PartitionType {
    /// The GUID, or the byte as `0x83`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gpt(guid) => guid.fmt(f),
            Self::Mbr(byte) => write!(f, "{byte:#04x}"),
        }
    }
}

/// UEFI specification 2.10, table 5.7; Microsoft `PARTITION_INFORMATION_GPT`; the Discoverable
/// Partitions Specification; the list of gdisk 1.0.9 for the rest.
const GPT: &[(Uuid, Role, &str)] = &[
    (uuid!("c12a7328-f81f-11d2-ba4b-00a0c93ec93b"), Role::EfiSystem, "EFI system"),
    (uuid!("21686148-6449-6e6f-744e-656564454649"), Role::BiosBoot, "BIOS boot"),
    (uuid!("e3c9e316-0b5c-4db8-817d-f92df00215ae"), Role::MicrosoftReserved, "Microsoft reserved"),
    (uuid!("ebd0a0a2-b9e5-4433-87c0-68b6b72699c7"), Role::BasicData, "Microsoft basic data"),
    (uuid!("de94bba4-06d1-4d40-a16a-bfd50179d6ac"), Role::WindowsRecovery, "Windows recovery"),
    (uuid!("5808c8aa-7e8f-42e0-85d2-e1e90434cfb3"), Role::LdmMetadata, "Windows LDM metadata"),
    (uuid!("af9b60a0-1431-4f62-bc68-3311714a69ad"), Role::LdmData, "Windows LDM data"),
    (uuid!("e75caf8f-f680-4cee-afa3-b001e56efc2d"), Role::StorageSpaces, "Windows storage spaces"),
    (uuid!("0fc63daf-8483-4772-8e79-3d69d8477de4"), Role::LinuxFilesystem, "Linux file system"),
    (uuid!("44479540-f297-41b2-9af7-d131d5f0458a"), Role::LinuxRoot, "Linux root (x86)"),
    (uuid!("4f68bce3-e8cd-4db1-96e7-fbcaf984b709"), Role::LinuxRoot, "Linux root (x86-64)"),
    (uuid!("69dad710-2ce4-4e3c-b16c-21a1d49abed3"), Role::LinuxRoot, "Linux root (ARM)"),
    (uuid!("b921b045-1df0-41c3-af44-4c6f280d3fae"), Role::LinuxRoot, "Linux root (ARM64)"),
    (uuid!("933ac7e1-2eb4-4f13-b844-0e14e2aef915"), Role::LinuxHome, "Linux home"),
    (uuid!("bc13c2ff-59e6-4262-a352-b275fd6f7172"), Role::LinuxBoot, "Linux extended boot"),
    (uuid!("3b8f8425-20e0-4f3b-907f-1a25a76f98e8"), Role::Other, "Linux server data"),
    (uuid!("4d21b016-b534-45c2-a9fb-5c16e091fd2d"), Role::Other, "Linux variable data"),
    (uuid!("0657fd6d-a4ab-43c4-84e5-0933c84b4f4f"), Role::LinuxSwap, "Linux swap"),
    (uuid!("e6d6d379-f507-44c2-a23c-238f2a3df928"), Role::LinuxLvm, "Linux LVM"),
    (uuid!("a19d880f-05fc-4d3b-a006-743f0f84911e"), Role::LinuxRaid, "Linux RAID"),
    (uuid!("ca7d7ccb-63ed-4c53-861c-1742536059cc"), Role::LinuxLuks, "Linux LUKS"),
    (uuid!("aa31e02a-400f-11db-9590-000c2911d1b8"), Role::Vmware, "VMware VMFS"),
    (uuid!("9d275380-40ad-11db-bf97-000c2911d1b8"), Role::Vmware, "VMware vmkcore"),
    (uuid!("9198effc-31c0-11db-8f78-000c2911d1b8"), Role::Vmware, "VMware reserved"),
    (uuid!("48465300-0000-11aa-aa11-00306543ecac"), Role::Apple, "Apple HFS+"),
    (uuid!("7c3457ef-0000-11aa-aa11-00306543ecac"), Role::Apple, "Apple APFS"),
    (uuid!("53746f72-6167-11aa-aa11-00306543ecac"), Role::Apple, "Apple Core Storage"),
    (uuid!("426f6f74-0000-11aa-aa11-00306543ecac"), Role::Apple, "Apple boot"),
    (uuid!("83bd6b9d-7f41-11dc-be0b-001560b84f0f"), Role::Bsd, "FreeBSD boot"),
    (uuid!("516e7cb5-6ecf-11d6-8ff8-00022d09712b"), Role::Bsd, "FreeBSD swap"),
    (uuid!("516e7cb6-6ecf-11d6-8ff8-00022d09712b"), Role::Bsd, "FreeBSD UFS"),
    (uuid!("516e7cba-6ecf-11d6-8ff8-00022d09712b"), Role::Bsd, "FreeBSD ZFS"),
    (uuid!("6a898cc3-1dd2-11b2-99a6-080020736631"), Role::Solaris, "Solaris /usr or ZFS"),
    (uuid!("6a945a3b-1dd2-11b2-99a6-080020736631"), Role::Solaris, "Solaris reserved"),
];

/// The types that util-linux's fdisk 2.38 lists, as far as disks of machines that get converted
/// bear them.
const MBR: &[(u8, Role, &str)] = &[
    (0x01, Role::BasicData, "FAT12"),
    (0x04, Role::BasicData, "FAT16 below 32 MiB"),
    (0x05, Role::Extended, "extended"),
    (0x06, Role::BasicData, "FAT16"),
    (0x07, Role::BasicData, "NTFS or exFAT"),
    (0x0b, Role::BasicData, "FAT32"),
    (0x0c, Role::BasicData, "FAT32 (LBA)"),
    (0x0e, Role::BasicData, "FAT16 (LBA)"),
    (0x0f, Role::Extended, "extended (LBA)"),
    (0x11, Role::Other, "hidden FAT12"),
    (0x12, Role::Other, "vendor diagnostics"),
    (0x14, Role::Other, "hidden FAT16 below 32 MiB"),
    (0x16, Role::Other, "hidden FAT16"),
    (0x17, Role::Other, "hidden NTFS"),
    (0x1b, Role::Other, "hidden FAT32"),
    (0x1c, Role::Other, "hidden FAT32 (LBA)"),
    (0x1e, Role::Other, "hidden FAT16 (LBA)"),
    (0x27, Role::WindowsRecovery, "Windows recovery"),
    (0x42, Role::LdmData, "Windows dynamic disk"),
    (0x82, Role::LinuxSwap, "Linux swap"),
    (0x83, Role::LinuxFilesystem, "Linux"),
    (0x84, Role::Other, "hibernation"),
    (0x85, Role::Extended, "Linux extended"),
    (0x8e, Role::LinuxLvm, "Linux LVM"),
    (0xa5, Role::Bsd, "FreeBSD"),
    (0xa6, Role::Bsd, "OpenBSD"),
    (0xa8, Role::Apple, "Darwin UFS"),
    (0xa9, Role::Bsd, "NetBSD"),
    (0xab, Role::Apple, "Darwin boot"),
    (0xaf, Role::Apple, "HFS or HFS+"),
    (0xbe, Role::Solaris, "Solaris boot"),
    (0xbf, Role::Solaris, "Solaris"),
    (0xe7, Role::StorageSpaces, "Windows storage spaces"),
    (0xea, Role::LinuxBoot, "Linux extended boot"),
    (0xee, Role::Protective, "GPT protective"),
    (0xef, Role::EfiSystem, "EFI system"),
    (0xfb, Role::Vmware, "VMware VMFS"),
    (0xfc, Role::Vmware, "VMware vmkcore"),
    (0xfd, Role::LinuxRaid, "Linux RAID"),
];
