//! What guests need: memory, and devices they have drivers for.

use vdisk_guest::inventory::{Family, Role, System};

use crate::vm::{Firmware, Hypervisor, MIB};

/// What disks are attached to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The IDE of a PC.
    Ide,
    /// SATA with AHCI.
    Sata,
    /// LSI Logic's parallel SCSI.
    LsiScsi,
    /// LSI Logic's SAS.
    LsiSas,
    /// VMware's own SCSI.
    PvScsi,
    /// A disk of virtio.
    VirtioBlock,
    /// SCSI over virtio.
    VirtioScsi,
    /// Hyper-V's own SCSI.
    HyperVScsi,
}

/// What a guest sees as its network adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nic {
    /// The hypervisor's own: virtio, vmxnet3, Hyper-V's synthetic one.
    Native,
    /// Intel's 82545EM and its relatives.
    E1000,
    /// Intel's 82574L.
    E1000e,
    /// AMD's PCnet, Realtek's 8139 on KVM, DEC's 21140 on Hyper-V: for what is too old for others.
    Legacy,
}

/// The version of a Windows: 6.1 is 7 and Server 2008 R2.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WindowsVersion {
    /// Before the dot.
    pub major: u32,
    /// Behind it.
    pub minor: u32,
    /// Such as 26100.
    pub build: u32,
    /// It is a server.
    pub server: bool,
}

impl WindowsVersion {
    /// Of a guest; `None` where it is no Windows or does not tell.
    #[must_use]
    pub fn of(system: &System) -> Option<Self> {
        let windows = system.windows.as_ref()?;
        let mut numbers = system.version.as_deref()?.split('.').map(|part| part.parse().ok());
        let (major, minor) = (numbers.next()??, numbers.next()??);
        let server = matches!(windows.role, Some(Role::Server | Role::DomainController));
        Some(Self { major, minor, build: windows.build.unwrap_or_default(), server })
    }

    /// Whether it is older than `major.minor`.
    #[must_use]
    pub fn before(self, major: u32, minor: u32) -> bool {
        (self.major, self.minor) < (major, minor)
    }
}

/// The least memory a guest runs with, bytes.
pub(crate) fn least_memory(system: &System, windows: Option<WindowsVersion>) -> u64 {
    let mib = match windows {
        None if system.family == Family::Windows => 2048,
        None => 512,
        Some(version) if version.before(6, 0) => 512,
        Some(version) if version.server => 2048,
        Some(version) if version.before(6, 2) => 1024,
        Some(version) if version.build >= 22_000 => 4096,
        Some(_) => 2048,
    };
    mib * MIB
}

/// What a guest's disks are best attached to: the fastest that it starts from.
pub(crate) fn bus(
    system: &System,
    windows: Option<WindowsVersion>,
    firmware: Firmware,
    hypervisor: Hypervisor,
) -> Bus {
    let starts = |service: &str| {
        system.drivers.boot.iter().any(|driver| driver.eq_ignore_ascii_case(service))
    };
    let linux = system.family == Family::Linux;
    let old = windows.is_some_and(|version| version.before(6, 0));
    match hypervisor {
        Hypervisor::HyperV if firmware == Firmware::Uefi => Bus::HyperVScsi,
        Hypervisor::HyperV => Bus::Ide,
        Hypervisor::Kvm if linux => Bus::VirtioScsi,
        Hypervisor::Kvm if starts("vioscsi") => Bus::VirtioScsi,
        Hypervisor::Kvm if starts("viostor") => Bus::VirtioBlock,
        Hypervisor::Vmware if linux || starts("pvscsi") => Bus::PvScsi,
        Hypervisor::Vmware if starts("symmpi") => Bus::LsiScsi,
        Hypervisor::Vmware if !old => Bus::LsiSas,
        _ if old => Bus::Ide,
        _ => Bus::Sata,
    }
}

/// The network adapter that a guest has a driver for.
pub(crate) fn nic(system: &System, windows: Option<WindowsVersion>, hypervisor: Hypervisor) -> Nic {
    let old = windows.is_some_and(|version| version.before(6, 0));
    let linux = system.family == Family::Linux;
    match hypervisor {
        Hypervisor::HyperV if old => Nic::Legacy,
        Hypervisor::HyperV => Nic::Native,
        _ if linux && hypervisor != Hypervisor::VirtualBox => Nic::Native,
        _ if old => Nic::Legacy,
        Hypervisor::Vmware | Hypervisor::Kvm
            if windows.is_some_and(|version| !version.before(6, 2)) =>
        {
            Nic::E1000e
        }
        _ => Nic::E1000,
    }
}
