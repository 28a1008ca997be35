//! Which modules each target needs.

use crate::Target;

/// What a kernel must have to start on a target, and to be reached there.
#[derive(Debug)]
pub(crate) struct Needs {
    /// Of each group the kernel must have one, or it will not find its disk.
    pub(crate) one_of: &'static [&'static [&'static str]],
    /// What belongs into the initramfs, of what the kernel has; buses before what is on them.
    pub(crate) storage: &'static [&'static str],
    /// What goes along when the initramfs is changed anyway: keyboards for a rescue shell.
    pub(crate) beside: &'static [&'static str],
    /// Adapters of the network: the kernel should have one. They are loaded after the start.
    pub(crate) network: &'static [&'static str],
}

impl Needs {
    /// What `target` needs.
    pub(crate) fn of(target: Target) -> &'static Self {
        match target {
            Target::HyperVGen1 => &HYPER_V_1,
            Target::HyperVGen2 => &HYPER_V_2,
            Target::Kvm => &KVM,
            Target::Vmware => &VMWARE,
            Target::VirtualBox => &VIRTUALBOX,
            Target::Physical => &PHYSICAL,
        }
    }
}

const HYPER_V_1: Needs = Needs {
    one_of: &[&["hv_storvsc", "ata_piix"]],
    storage: &["hv_vmbus", "hv_storvsc", "ata_piix", "sd_mod"],
    beside: &["hyperv_keyboard", "hid_hyperv"],
    network: &["hv_netvsc"],
};

const HYPER_V_2: Needs = Needs {
    one_of: &[&["hv_vmbus"], &["hv_storvsc"]],
    storage: &["hv_vmbus", "hv_storvsc", "sd_mod"],
    beside: &["hyperv_keyboard", "hid_hyperv", "pci_hyperv"],
    network: &["hv_netvsc"],
};

const KVM: Needs = Needs {
    one_of: &[&["virtio_pci"], &["virtio_blk", "virtio_scsi"]],
    storage: &["virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"],
    beside: &[],
    network: &["virtio_net"],
};

const VMWARE: Needs = Needs {
    one_of: &[&["vmw_pvscsi", "mptspi", "ahci", "nvme"]],
    storage: &["vmw_pvscsi", "mptspi", "mptsas", "ahci", "nvme", "sd_mod"],
    beside: &[],
    network: &["vmxnet3", "e1000", "e1000e"],
};

const VIRTUALBOX: Needs = Needs {
    one_of: &[&["ahci", "ata_piix", "mptspi", "mptsas"]],
    storage: &["ahci", "ata_piix", "mptspi", "mptsas", "nvme", "sd_mod"],
    beside: &[],
    network: &["e1000", "virtio_net", "pcnet32"],
};

const PHYSICAL: Needs = Needs {
    one_of: &[&["ahci", "nvme", "ata_piix"]],
    storage: &[
        "ahci",
        "nvme",
        "ata_piix",
        "vmd",
        "megaraid_sas",
        "mpt3sas",
        "hpsa",
        "smartpqi",
        "aacraid",
        "isci",
        "mptsas",
        "sd_mod",
        "xhci_pci",
        "ehci_pci",
        "usb_storage",
        "uas",
    ],
    beside: &["uhci_hcd", "usbhid", "hid_generic"],
    network: &[
        "e1000e",
        "igb",
        "igc",
        "ixgbe",
        "i40e",
        "ice",
        "tg3",
        "bnx2",
        "bnxt_en",
        "r8169",
        "e1000",
        "atlantic",
        "mlx4_en",
        "mlx5_core",
        "forcedeth",
        "sky2",
    ],
};
