//! One model of a machine for all hypervisors.

use std::fmt;

use uuid::Uuid;
use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::Inventory;
use vdisk_guest::inventory::{BootMode, Family, System};

use crate::guest::{self, Bus, Nic};

/// Bytes of a MiB.
pub(crate) const MIB: u64 = 1 << 20;

/// What runs virtual machines.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hypervisor {
    /// Microsoft Hyper-V.
    HyperV,
    /// VMware ESXi, Workstation, Fusion.
    Vmware,
    /// QEMU and KVM under libvirt.
    Kvm,
    /// Oracle VirtualBox.
    VirtualBox,
}

impl Hypervisor {
    /// Whether it runs disks in images of that format, as vdisk calls it.
    #[must_use]
    pub fn takes(self, format: &str) -> bool {
        match self {
            Self::HyperV => matches!(format, "vhd" | "vhdx"),
            Self::Vmware => format == "vmdk",
            // VirtualBox reads VHDX, but does not write it.
            Self::VirtualBox => matches!(format, "vhd" | "vmdk"),
            Self::Kvm => matches!(format, "raw" | "vhd" | "vmdk"),
        }
    }

    /// The format it is best given.
    #[must_use]
    pub fn preferred(self) -> &'static str {
        match self {
            Self::HyperV => "vhdx",
            Self::Vmware | Self::VirtualBox => "vmdk",
            Self::Kvm => "raw",
        }
    }
}

/// What starts the guest.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Firmware {
    /// A PC's BIOS; on Hyper-V, generation 1.
    Bios,
    /// UEFI; on Hyper-V, generation 2.
    Uefi,
}

/// A network address of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mac(pub [u8; 6]);

/// A virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Vm {
    /// As its hypervisor lists it.
    pub name: String,
    /// Its own identifier, as its firmware tells it to the guest.
    pub uuid: Uuid,
    /// What starts it.
    pub firmware: Firmware,
    /// Whose keys UEFI trusts; `None` without Secure Boot.
    pub secure_boot: Option<Family>,
    /// Bytes; a multiple of a MiB.
    pub memory: u64,
    /// Processors, at least 1.
    pub processors: u32,
    /// In the order of their controller; the guest starts from the first.
    pub disks: Vec<VmDisk>,
    /// What the disks are attached to.
    pub bus: Bus,
    /// Network adapters.
    pub nics: Vec<VmNic>,
    /// What it is.
    pub family: Option<Family>,
    /// Its processor: 64-bit.
    pub wide: bool,
    /// Windows: 5.1 is XP, 10.0 is 10 and 11.
    pub windows: Option<guest::WindowsVersion>,
    /// What the one who sets it up should know.
    pub remarks: Vec<String>,
}

/// A disk of a virtual machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VmDisk {
    /// The image's file, as the definition names it.
    pub file: String,
    /// What the guest sees, bytes.
    pub size: u64,
    /// The image's format, as vdisk calls it.
    pub format: String,
    /// Bytes of the sectors that its partition table counts in, 512 or 4096.
    pub sector_size: u64,
}

/// A network adapter.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VmNic {
    /// What the guest sees.
    pub model: Nic,
    /// Its address; the hypervisor gives one where there is none.
    pub mac: Option<Mac>,
}

/// How large a machine is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Sizing {
    /// Bytes; raised to the guest's least.
    pub memory: Option<u64>,
    /// Processors.
    pub processors: Option<u32>,
    /// One adapter for each; one with an address of its own where empty.
    pub macs: Vec<Mac>,
    /// It is to start from the network: Hyper-V's generation 1 needs its legacy adapter for that.
    pub network_boot: bool,
    /// What is to start it, where its disk leaves the choice.
    pub firmware: Option<Firmware>,
}

impl VmDisk {
    /// The image in `file`, of `size` bytes for the guest, in sectors of 512; its name's end tells
    /// the format.
    #[must_use]
    pub fn new(file: impl Into<String>, size: u64) -> Self {
        let file = file.into();
        let end = file.rsplit_once('.').map_or("raw", |(_, end)| end).to_ascii_lowercase();
        let format = match end.as_str() {
            "vhd" | "vhdx" | "vmdk" => end,
            "avhdx" => "vhdx".to_owned(),
            "avhd" => "vhd".to_owned(),
            _ => "raw".to_owned(),
        };
        Self { file, size, format, sector_size: 512 }
    }
}

impl Vm {
    /// A machine without disks or guest, with 2 GiB of memory and one adapter.
    #[must_use]
    pub fn new(name: impl Into<String>, firmware: Firmware) -> Self {
        Self {
            name: name.into(),
            uuid: Uuid::new_v4(),
            firmware,
            secure_boot: None,
            memory: 2048 * MIB,
            processors: 2,
            disks: Vec::new(),
            bus: Bus::Sata,
            nics: vec![VmNic { model: Nic::E1000, mac: None }],
            family: None,
            wide: true,
            windows: None,
            remarks: Vec::new(),
        }
    }

    /// The machine for the guest on `disks`, in their order, under `hypervisor`; its disks are left
    /// to the caller.
    ///
    /// # Errors
    /// [`ErrorKind::Unsupported`] where the guest cannot run with the firmware that it needs there, or
    /// is for another kind of processor; [`ErrorKind::Usage`] for more memory than can be counted.
    pub fn for_guest(
        name: &str,
        disks: &[Inventory],
        hypervisor: Hypervisor,
        sizing: &Sizing,
    ) -> Result<Self> {
        let found = disks.iter().find_map(|disk| Some((disk, disk.systems.first()?)));
        let system = found.map(|(_, system)| system);
        let table = found.map(|(disk, _)| disk).or(disks.first());
        let table = table.map_or("none", |disk| disk.disk.partition_table);
        let mut vm = Self::new(name, firmware(system, table, sizing.firmware));
        if let Some(system) = system {
            vm.suit(system, hypervisor, sizing)?;
            vm.trust(disks, system.family, hypervisor);
        } else {
            vm.remarks.push("no guest system was found: sizes and devices are guesses".to_owned());
        }
        vm.size(system, sizing)?;
        let model = vm.nics.first().map_or(Nic::E1000, |nic| nic.model);
        if !sizing.macs.is_empty() {
            let nic = |mac: &Mac| VmNic { model, mac: Some(*mac) };
            vm.nics = sizing.macs.iter().map(nic).collect();
        }
        Ok(vm)
    }

    /// Devices that the guest has drivers for.
    fn suit(&mut self, system: &System, hypervisor: Hypervisor, sizing: &Sizing) -> Result<()> {
        if let Some(arch) = system.arch.filter(|arch| !matches!(*arch, "x86" | "x86_64")) {
            return Err(Error::unsupported(format!(
                "the guest is for {arch} processors, and the machines defined here are PCs"
            ))
            .hint("make its machine by hand"));
        }
        self.family = Some(system.family);
        self.wide = system.arch != Some("x86");
        self.windows = guest::WindowsVersion::of(system);
        let needs_gen1 = self.windows.is_some_and(|version| version.before(6, 2)) || !self.wide;
        if hypervisor == Hypervisor::HyperV && self.firmware == Firmware::Uefi && needs_gen1 {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "the guest starts by UEFI, which on Hyper-V means generation 2, and that takes \
                 64-bit guests from Windows 8 and Server 2012 on",
            )
            .hint("choose another target, or convert the guest to BIOS by its own means first"));
        }
        self.bus = guest::bus(system, self.windows, self.firmware, hypervisor);
        self.nics = vec![VmNic { model: guest::nic(system, self.windows, hypervisor), mac: None }];
        if sizing.network_boot
            && hypervisor == Hypervisor::HyperV
            && self.firmware == Firmware::Bios
        {
            self.nics = vec![VmNic { model: Nic::Legacy, mac: None }];
        }
        Ok(())
    }

    /// Secure Boot, where the loader has a signature that the firmware knows: Windows' own has, and
    /// of a Linux the shim alone.
    fn trust(&mut self, disks: &[Inventory], family: Family, hypervisor: Hypervisor) {
        if self.firmware != Firmware::Uefi || hypervisor != Hypervisor::HyperV {
            return;
        }
        let mut loaders = disks.iter().flat_map(|disk| &disk.boot.loaders);
        // SUSE leaves out the processor.
        let is_shim = |path: &String| {
            let path = path.to_ascii_lowercase();
            path.ends_with("/shimx64.efi") || path.ends_with("/shim.efi")
        };
        if family == Family::Windows || loaders.any(is_shim) {
            self.secure_boot = Some(family);
        } else {
            self.remarks.push(
                "Secure Boot is off: no shim, the loader that is signed, is on its disk".to_owned(),
            );
        }
    }

    fn size(&mut self, system: Option<&System>, sizing: &Sizing) -> Result<()> {
        let least = system.map_or(512 * MIB, |system| guest::least_memory(system, self.windows));
        let asked = sizing.memory.unwrap_or(least.max(2048 * MIB));
        if asked < least {
            let (asked, least) = (asked / MIB, least / MIB);
            self.remarks.push(format!(
                "memory raised from {asked} to {least} MiB: the guest needs as much"
            ));
        }
        self.memory = asked
            .max(least)
            .checked_next_multiple_of(4 * MIB)
            .ok_or_else(|| Error::usage("no machine has that much memory"))?;
        self.processors = sizing.processors.unwrap_or(2).max(1);
        Ok(())
    }

    /// Memory, MiB.
    pub(crate) fn memory_mib(&self) -> u64 {
        self.memory / MIB
    }
}

/// What the disk starts with; where it is both, what is wished for, or else a BIOS, which needs no
/// entry in any firmware.
fn firmware(system: Option<&System>, table: &str, wished: Option<Firmware>) -> Firmware {
    match system.and_then(|system| system.boot_mode) {
        Some(BootMode::Uefi) => Firmware::Uefi,
        Some(BootMode::Bios) => Firmware::Bios,
        Some(BootMode::Both) => wished.unwrap_or(Firmware::Bios),
        None if table == "gpt" => Firmware::Uefi,
        None => Firmware::Bios,
    }
}

impl Mac {
    /// The address in `text`: six bytes in hexadecimal, with colons, dashes or nothing between.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: String = text.chars().filter(|c| !matches!(c, ':' | '-' | '.')).collect();
        if digits.len() != 12 || !digits.is_ascii() {
            return None;
        }
        let mut bytes = [0; 6];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(digits.get(2 * index..2 * index + 2)?, 16).ok()?;
        }
        Some(Self(bytes))
    }

    /// An address that no maker gave: locally administered, of one device.
    #[must_use]
    pub fn random() -> Self {
        let mut bytes = [0; 6];
        bytes.fill_with(|| fastrand::u8(..));
        if let Some(first) = bytes.first_mut() {
            *first = (*first & 0xFC) | 0x02;
        }
        Self(bytes)
    }

    /// In capitals, with nothing between.
    pub(crate) fn plain(self) -> String {
        self.0.iter().map(|byte| format!("{byte:02X}")).collect()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let bytes: Vec<String> = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
        f.write_str(&bytes.join(":"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_in_all_spellings() {
        let mac = Mac([0, 0x15, 0x5D, 1, 2, 0xAF]);
        for text in ["00:15:5d:01:02:af", "00-15-5D-01-02-AF", "00155d0102af", "0015.5d01.02af"] {
            assert_eq!(Mac::parse(text), Some(mac), "{text}");
        }
        for text in ["", "00:15:5d:01:02", "00:15:5d:01:02:ag", "é0155d0102af"] {
            assert_eq!(Mac::parse(text), None, "{text}");
        }
        assert_eq!(
            (mac.to_string(), mac.plain()),
            ("00:15:5d:01:02:af".into(), "00155D0102AF".into())
        );
        assert_eq!(Mac::random().0[0] & 3, 2);
    }

    #[test]
    fn the_end_of_a_name_tells_the_format() {
        let format = |file: &str| VmDisk::new(file, 1).format;
        assert_eq!(format("a.VHDX"), "vhdx");
        assert_eq!(format("a.avhd"), "vhd");
        assert_eq!(format("a.b.img"), "raw");
        assert_eq!(format("a"), "raw");
    }
}
