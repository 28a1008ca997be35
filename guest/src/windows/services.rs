//! Drivers and services, and the filters in the way of disks.

use super::registry::Node;
use crate::inventory::{Drivers, Filters, HypervisorTools};

/// Started by the loader; never.
const BOOT_START: u32 = 0;
const DISABLED: u32 = 4;
/// Kinds of services that are drivers: of devices, of file systems.
const DRIVERS: [u32; 2] = [1, 2];

/// What is installed for a hypervisor, by the names of the services. Only what no Windows has by
/// itself: the drivers for Hyper-V are in every one since 7.
const TOOLS: &[(&str, &[&str])] = &[
    (
        "parallels",
        &[
            "prl_boot",
            "prl_fs",
            "prl_memdev",
            "prl_strg",
            "prl_tg",
            "prl_tools",
            "prl_tools_service",
        ],
    ),
    (
        "qemu",
        &[
            "Balloon",
            "BalloonService",
            "netkvm",
            "pvpanic",
            "QEMU-GA",
            "vdservice",
            "viofs",
            "viorng",
            "vioscsi",
            "VirtioSerial",
            "vioser",
            "viostor",
        ],
    ),
    ("virtualbox", &["VBoxGuest", "VBoxMouse", "VBoxService", "VBoxSF", "VBoxVideo", "VBoxWddm"]),
    (
        "vmware",
        &[
            "giappdef",
            "pvscsi",
            "VGAuthService",
            "vm3dmp",
            "vm3dmp_loader",
            "vmci",
            "vmhgfs",
            "VMMemCtl",
            "vmmouse",
            "vmrawdsk",
            "VMTools",
            "vmusbmouse",
            "vmvss",
            "vmxnet",
            "vmxnet3ndis6",
            "vnetWFP",
            "vsepflt",
            "vsock",
        ],
    ),
    (
        "xen",
        &["xenagent", "xenbus", "xencons", "xenfilt", "xeniface", "xennet", "xenvbd", "xenvif"],
    ),
];

/// Classes of devices between the system and its volumes.
const CLASSES: [(&str, &str); 4] = [
    ("disk", "{4D36E967-E325-11CE-BFC1-08002BE10318}"),
    ("volume", "{71A27CDD-812A-11D0-BEC7-08002BE2092F}"),
    ("ide-controller", "{4D36E96A-E325-11CE-BFC1-08002BE10318}"),
    ("scsi-controller", "{4D36E97B-E325-11CE-BFC1-08002BE10318}"),
];

pub(super) fn drivers(set: &Node<'_>) -> Drivers {
    let services: Vec<Service> = set
        .open("Services")
        .map(|key| key.children().iter().filter_map(Service::read).collect())
        .unwrap_or_default();
    let boot = services.iter().filter(|service| service.is_boot_driver());
    Drivers {
        boot: boot.map(|service| service.name.clone()).collect(),
        filters: CLASSES.iter().filter_map(|(name, class)| filters(set, name, class)).collect(),
        hypervisor_tools: tools(&services),
    }
}

struct Service {
    name: String,
    kind: u32,
    start: u32,
}

impl Service {
    /// None for keys that hold only settings.
    fn read(key: &Node<'_>) -> Option<Self> {
        let start = key.number("Start")?;
        // Windows 8 and later: what starts with the loader only where its device is there.
        let start = match key.open("StartOverride").filter(|_| start == BOOT_START) {
            Some(over) => over.number("0").unwrap_or(start),
            None => start,
        };
        Some(Self { name: key.name(), kind: key.number("Type")?, start })
    }

    fn is_boot_driver(&self) -> bool {
        self.start == BOOT_START && DRIVERS.contains(&self.kind)
    }
}

fn tools(services: &[Service]) -> Vec<HypervisorTools> {
    let used: Vec<&Service> = services.iter().filter(|one| one.start < DISABLED).collect();
    let found = |(hypervisor, names): &(&'static str, &[&str])| {
        let is_part =
            |one: &&&Service| names.iter().any(|name| name.eq_ignore_ascii_case(&one.name));
        let parts: Vec<String> = used.iter().filter(is_part).map(|one| one.name.clone()).collect();
        (!parts.is_empty()).then_some(HypervisorTools { hypervisor, parts })
    };
    TOOLS.iter().filter_map(found).collect()
}

fn filters(set: &Node<'_>, class: &'static str, guid: &str) -> Option<Filters> {
    let key = set.open(&format!("Control\\Class\\{guid}"))?;
    let [upper, lower] = ["UpperFilters", "LowerFilters"].map(|name| key.texts(name));
    (!upper.is_empty() || !lower.is_empty()).then_some(Filters { class, upper, lower })
}
