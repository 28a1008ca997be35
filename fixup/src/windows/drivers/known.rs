//! Names of services that are known: data, to be added to.

/// What starts by itself for a hypervisor that the guest leaves. Drivers of its disks and network
/// cards are not here: without their device they do nothing.
pub(super) const TOOLS: [(&str, &[&str]); 4] = [
    (
        "VMware",
        &[
            "giappdef",
            "VGAuthService",
            "vm3dmp_loader",
            "vmci",
            "vmdebug",
            "vmhgfs",
            "VMMemCtl",
            "vmmouse",
            "vmrawdsk",
            "VMTools",
            "VMUpgradeHelper",
            "vmusbmouse",
            "vmvss",
            "vnetWFP",
            "vsepflt",
            "vsock",
        ],
    ),
    ("VirtualBox", &["VBoxGuest", "VBoxMouse", "VBoxService", "VBoxSF"]),
    (
        "Parallels",
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
    ("Xen", &["xenagent", "xenbus", "xencons", "xenfilt", "xeniface", "xenvbd", "xenvif"]),
];

/// Filters over disks that belong to the maker's hardware.
pub(super) const HARDWARE_FILTERS: [(&str, &str); 4] = [
    ("stdcfltn", "Dell's fall sensor"),
    ("hpdskflt", "HP's fall sensor"),
    ("shockprf", "Lenovo's fall sensor"),
    ("tos_sps64", "Toshiba's fall sensor"),
];

/// Programs that watch the maker's hardware.
pub(super) const AGENTS: [(&str, &[&str]); 4] = [
    (
        "HP",
        &[
            "CpqNicMgmt",
            "CqMgHost",
            "CqMgServ",
            "CqMgStor",
            "cpqvcagent",
            "ProLiantMonitor",
            "sysdown",
            "sysmgmthp",
        ],
    ),
    ("Dell", &["dcevt64", "dcevt32", "dcstor64", "dcstor32", "omsad", "Server Administrator"]),
    ("IBM", &["IBMTivoliMonitoring", "tier1slp", "wmicimserver"]),
    ("Intel", &["IAStorDataMgrSvc", "ANSProtocol"]),
];

/// Drivers of the processor's power states, which stop older Windows on other processors.
pub(super) const PROCESSORS: [&str; 6] = ["intelppm", "AmdPPM", "AmdK7", "AmdK8", "P3", "Crusoe"];

/// Drivers by others than Microsoft that Windows Vista and 7 bring along themselves, where nothing
/// else in the registry tells so.
pub(super) const IN_BOX: [&str; 38] = [
    "adp94xx", "adpahci", "adpu160m", "adpu320", "aic78xx", "aliide", "amdide", "amdsata",
    "amdsbs", "amdxata", "arc", "arcsas", "cmdide", "djsvs", "elxstor", "HpCISSs", "HpSAMD",
    "iaStorV", "iirsp", "iteatapi", "iteraid", "LSI_FC", "LSI_SAS", "LSI_SAS2", "LSI_SCSI",
    "megasas", "MegaSR", "mraid35x", "nfrd960", "nvraid", "nvstor", "ql2300", "ql40xx", "SiSRaid2",
    "SiSRaid4", "stexstor", "viaide", "vsmraid",
];

/// Whether `list` has `name`, whatever the case.
pub(super) fn has(list: &[&str], name: &str) -> bool {
    list.iter().any(|one| one.eq_ignore_ascii_case(name))
}
