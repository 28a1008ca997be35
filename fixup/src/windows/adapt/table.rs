//! Which drivers which machine needs for its disks.

use super::super::guest::Nt;
use crate::Target;

/// Classes of devices (`Control\Class`): disks, controllers of IDE and SATA, of SCSI, the system's
/// own.
const DISK: &str = "{4D36E967-E325-11CE-BFC1-08002BE10318}";
const HDC: &str = "{4D36E96A-E325-11CE-BFC1-08002BE10318}";
const SCSI: &str = "{4D36E97B-E325-11CE-BFC1-08002BE10318}";
const SYSTEM: &str = "{4D36E97D-E325-11CE-BFC1-08002BE10318}";

/// A controller of disks that a machine may offer.
#[derive(Debug)]
pub(crate) struct Controller {
    /// As the machine's settings call it.
    pub(crate) name: &'static str,
    /// Its drivers by version.
    pub(crate) drivers: &'static [Driver],
    /// Which device gets which driver, for the loader's table of Windows 7 and before.
    pub(crate) devices: &'static [Device],
}

/// What the loader's table has to name besides, whatever the controller: the disk itself.
pub(crate) const ANY_DISK: Device = device("GenDisk", DISK, "disk");

/// A driver that Windows brings along.
#[derive(Debug)]
pub(crate) struct Driver {
    /// The service.
    pub(crate) service: &'static str,
    /// The first version that has it.
    pub(crate) since: Nt,
    /// The first that has it no more.
    pub(crate) until: Nt,
    /// Whether the controller does not work without it.
    pub(crate) needed: bool,
}

/// A device and its driver.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Device {
    /// Its hardware id, `#` for `\`.
    pub(crate) id: &'static str,
    /// Its class.
    pub(crate) class: &'static str,
    /// The service.
    pub(crate) service: &'static str,
}

impl Controller {
    /// What drives it on this version; nothing where that version has no driver for it.
    pub(crate) fn drivers(&self, version: Nt) -> impl Iterator<Item = &'static Driver> {
        let fits = move |driver: &&Driver| driver.since <= version && version < driver.until;
        self.drivers.iter().filter(fits)
    }
}

/// The controllers of a target, the best first.
pub(crate) fn controllers(target: Target) -> Vec<&'static Controller> {
    match target {
        Target::HyperVGen1 => vec![&IDE, &VMBUS],
        Target::HyperVGen2 => vec![&VMBUS],
        Target::Kvm => vec![&VIRTIO_BLK, &VIRTIO_SCSI, &AHCI, &IDE, &NVME],
        Target::Vmware => vec![&PVSCSI, &LSI_SAS, &NVME, &AHCI, &LSI_SCSI, &IDE],
        Target::VirtualBox => vec![&AHCI, &NVME, &LSI_SAS, &LSI_SCSI, &IDE, &VIRTIO_SCSI],
        Target::Physical => vec![&AHCI, &NVME, &IDE, &LSI_SAS, &LSI_SAS2, &LSI_SAS3, &RAID],
    }
}

const fn driver(service: &'static str, since: Nt) -> Driver {
    only(service, since, Nt::NEWEST)
}

const fn only(service: &'static str, since: Nt, until: Nt) -> Driver {
    Driver { service, since, until, needed: true }
}

const fn helpful(service: &'static str, since: Nt) -> Driver {
    Driver { service, since, until: Nt::NEWEST, needed: false }
}

const fn device(id: &'static str, class: &'static str, service: &'static str) -> Device {
    Device { id, class, service }
}

static IDE: Controller = Controller {
    name: "IDE",
    drivers: &[driver("intelide", Nt::XP), helpful("pciide", Nt::XP), driver("atapi", Nt::XP)],
    devices: &[
        device("Primary_IDE_Channel", HDC, "atapi"),
        device("Secondary_IDE_Channel", HDC, "atapi"),
        device("*PNP0600", HDC, "atapi"),
        device("PCI#CC_0101", HDC, "pciide"),
        device("PCI#VEN_8086&DEV_7010", HDC, "intelide"),
        device("PCI#VEN_8086&DEV_7111", HDC, "intelide"),
    ],
};

static AHCI: Controller = Controller {
    name: "SATA (AHCI)",
    drivers: &[only("msahci", Nt::VISTA, Nt::EIGHT), driver("storahci", Nt::EIGHT)],
    devices: &[device("PCI#CC_010601", HDC, "msahci")],
};

static NVME: Controller = Controller {
    name: "NVMe",
    // Windows 7 has it after KB2990941, and then under the same name.
    drivers: &[driver("stornvme", Nt::SEVEN)],
    devices: &[device("PCI#CC_010802", SCSI, "stornvme")],
};

static VMBUS: Controller = Controller {
    name: "Hyper-V SCSI",
    drivers: &[
        driver("vmbus", Nt::VISTA),
        driver("storvsc", Nt::VISTA),
        helpful("storflt", Nt::VISTA),
    ],
    devices: &[
        device("ACPI#VMBus", SYSTEM, "vmbus"),
        device("root#VMBus", SYSTEM, "vmbus"),
        device("VMBUS#{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}", SCSI, "storvsc"),
    ],
};

static LSI_SAS: Controller = Controller {
    name: "LSI Logic SAS",
    drivers: &[driver("LSI_SAS", Nt::VISTA)],
    devices: &[device("PCI#VEN_1000&DEV_0054", SCSI, "LSI_SAS")],
};

static LSI_SAS2: Controller = Controller {
    name: "LSI SAS 2",
    drivers: &[only("LSI_SAS2", Nt::SEVEN, Nt::TEN), driver("LSI_SAS2i", Nt::TEN)],
    devices: &[],
};

static LSI_SAS3: Controller = Controller {
    name: "LSI SAS 3",
    drivers: &[only("LSI_SAS3", Nt::EIGHT_ONE, Nt::TEN), driver("LSI_SAS3i", Nt::TEN)],
    devices: &[],
};

/// Adapters of servers and of Intel's boards. Each has a driver of its own, and one that is there
/// will do; Windows 7 knows their devices by itself.
static RAID: Controller = Controller {
    name: "RAID",
    drivers: &[
        helpful("iaStorV", Nt::VISTA),
        helpful("megasas", Nt::VISTA),
        helpful("megasas2i", Nt::VISTA),
        helpful("megasas35i", Nt::VISTA),
        helpful("megasr", Nt::VISTA),
        helpful("percsas2i", Nt::VISTA),
        helpful("percsas3i", Nt::VISTA),
        helpful("HpSAMD", Nt::VISTA),
        helpful("SmartSAMD", Nt::VISTA),
    ],
    devices: &[],
};

static LSI_SCSI: Controller = Controller {
    name: "LSI Logic Parallel",
    drivers: &[only("symmpi", Nt::XP, Nt::VISTA), only("LSI_SCSI", Nt::VISTA, Nt::EIGHT)],
    devices: &[device("PCI#VEN_1000&DEV_0030", SCSI, "LSI_SCSI")],
};

static PVSCSI: Controller =
    Controller { name: "VMware Paravirtual", drivers: &[driver("pvscsi", Nt::XP)], devices: &[] };

static VIRTIO_BLK: Controller =
    Controller { name: "virtio block", drivers: &[driver("viostor", Nt::XP)], devices: &[] };

static VIRTIO_SCSI: Controller =
    Controller { name: "virtio SCSI", drivers: &[driver("vioscsi", Nt::XP)], devices: &[] };

#[cfg(test)]
mod tests {
    use super::*;

    /// The services expected for the in-box controllers of a target, by version: guest.md 3.4.
    #[test]
    fn every_target_and_version_has_its_services() {
        let versions =
            [(5, 1), (5, 2), (6, 0), (6, 1), (6, 2), (6, 3), (10, 0)].map(|(a, b)| Nt::new(a, b));
        let ide = "intelide pciide atapi";
        let raid =
            "iaStorV megasas megasas2i megasas35i megasr percsas2i percsas3i HpSAMD SmartSAMD";
        let table: [(Target, [String; 7]); 6] = [
            (
                Target::HyperVGen1,
                [
                    ide.into(),
                    ide.into(),
                    format!("{ide} vmbus storvsc storflt"),
                    format!("{ide} vmbus storvsc storflt"),
                    format!("{ide} vmbus storvsc storflt"),
                    format!("{ide} vmbus storvsc storflt"),
                    format!("{ide} vmbus storvsc storflt"),
                ],
            ),
            (
                Target::HyperVGen2,
                [
                    String::new(),
                    String::new(),
                    "vmbus storvsc storflt".into(),
                    "vmbus storvsc storflt".into(),
                    "vmbus storvsc storflt".into(),
                    "vmbus storvsc storflt".into(),
                    "vmbus storvsc storflt".into(),
                ],
            ),
            (
                Target::Kvm,
                [
                    format!("viostor vioscsi {ide}"),
                    format!("viostor vioscsi {ide}"),
                    format!("viostor vioscsi msahci {ide}"),
                    format!("viostor vioscsi msahci {ide} stornvme"),
                    format!("viostor vioscsi storahci {ide} stornvme"),
                    format!("viostor vioscsi storahci {ide} stornvme"),
                    format!("viostor vioscsi storahci {ide} stornvme"),
                ],
            ),
            (
                Target::Vmware,
                [
                    format!("pvscsi symmpi {ide}"),
                    format!("pvscsi symmpi {ide}"),
                    format!("pvscsi LSI_SAS msahci LSI_SCSI {ide}"),
                    format!("pvscsi LSI_SAS stornvme msahci LSI_SCSI {ide}"),
                    format!("pvscsi LSI_SAS stornvme storahci {ide}"),
                    format!("pvscsi LSI_SAS stornvme storahci {ide}"),
                    format!("pvscsi LSI_SAS stornvme storahci {ide}"),
                ],
            ),
            (
                Target::VirtualBox,
                [
                    format!("symmpi {ide} vioscsi"),
                    format!("symmpi {ide} vioscsi"),
                    format!("msahci LSI_SAS LSI_SCSI {ide} vioscsi"),
                    format!("msahci stornvme LSI_SAS LSI_SCSI {ide} vioscsi"),
                    format!("storahci stornvme LSI_SAS {ide} vioscsi"),
                    format!("storahci stornvme LSI_SAS {ide} vioscsi"),
                    format!("storahci stornvme LSI_SAS {ide} vioscsi"),
                ],
            ),
            (
                Target::Physical,
                [
                    ide.into(),
                    ide.into(),
                    format!("msahci {ide} LSI_SAS {raid}"),
                    format!("msahci stornvme {ide} LSI_SAS LSI_SAS2 {raid}"),
                    format!("storahci stornvme {ide} LSI_SAS LSI_SAS2 {raid}"),
                    format!("storahci stornvme {ide} LSI_SAS LSI_SAS2 LSI_SAS3 {raid}"),
                    format!("storahci stornvme {ide} LSI_SAS LSI_SAS2i LSI_SAS3i {raid}"),
                ],
            ),
        ];
        for (target, expected) in table {
            for (version, expected) in versions.into_iter().zip(expected) {
                let drivers = controllers(target).into_iter().flat_map(|one| one.drivers(version));
                let all: Vec<&str> = drivers.map(|driver| driver.service).collect();
                assert_eq!(all.join(" "), expected, "{} {version}", target.name());
            }
        }
    }

    #[test]
    fn devices_go_to_drivers_of_their_controller() {
        for target in Target::ALL {
            for controller in controllers(target) {
                for device in controller.devices {
                    assert!(controller.drivers.iter().any(|one| one.service == device.service));
                }
            }
        }
    }
}
