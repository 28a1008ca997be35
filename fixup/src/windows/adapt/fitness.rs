//! Whether a Windows can start on a target at all.

use vdisk_core::Result;
use vdisk_guest::inventory::BootMode;
use vdisk_parts::{Role, Table};

use super::super::Hives;
use super::super::guest::{Arch, Guest, Nt};
use crate::{Machine, Plan, Target};

/// Drivers of disk encryption that starts before Windows: nothing behind them can be reached from
/// another machine, and without them nothing starts.
const ENCRYPTION: [&str; 8] =
    ["MfeEpePC", "SGNDrv", "PGPwded", "Prot_2k", "veracrypt", "truecrypt", "SafeBoot", "dlpcrypt"];

/// Notes what stands in the way as refusals.
pub(super) fn check(
    machine: &Machine,
    guest: &Guest,
    target: Target,
    plan: &mut Plan,
) -> Result<()> {
    version(guest, target, plan);
    firmware(guest, target, plan);
    volumes(machine, plan)
}

fn version(guest: &Guest, target: Target, plan: &mut Plan) {
    let Guest { version, product, .. } = guest;
    if *version < Nt::XP {
        plan.stop(
            "windows.version",
            format!("{product} is version {version}, and only XP (5.1) and later are changed"),
            "start it with an IDE disk, which it has drivers for, or install it anew",
        );
    }
    if guest.arch == Arch::Arm64 {
        plan.stop(
            "windows.arch",
            format!("{product} is for ARM processors, and {} is a PC", target.name()),
            "keep it on a machine with an ARM processor",
        );
    }
    if target != Target::HyperVGen2 {
        return;
    }
    if *version < Nt::EIGHT {
        plan.stop(
            "windows.gen2.version",
            format!(
                "{product} ({version}) does not start on generation 2: that takes Windows 8 or \
                     Server 2012 (6.2), the first without need of a BIOS and a VGA"
            ),
            "adapt it to hyper-v-gen1 instead; a GPT disk must be converted to MBR first",
        );
    }
    if guest.arch == Arch::X86 {
        plan.stop(
            "windows.gen2.arch",
            format!("{product} has 32 bits, and the firmware of generation 2 starts 64 bits only"),
            "adapt it to hyper-v-gen1 instead",
        );
    }
}

fn firmware(guest: &Guest, target: Target, plan: &mut Plan) {
    let (bios, uefi) = match guest.boot {
        Some(BootMode::Both) => (true, true),
        Some(BootMode::Bios) => (true, false),
        Some(BootMode::Uefi) => (false, true),
        None => {
            plan.warn(
                "windows.boot",
                "nothing is found on this disk that a BIOS or UEFI could start",
                "where another disk of the machine holds the boot files, move it as well",
            );
            return;
        }
    };
    match target {
        Target::HyperVGen1 if !bios => plan.stop(
            "windows.firmware",
            "the disk starts by UEFI only, and generation 1 has a BIOS",
            "adapt it to hyper-v-gen2",
        ),
        Target::HyperVGen2 if !uefi => plan.stop(
            "windows.firmware",
            "the disk starts by BIOS only, and generation 2 has UEFI",
            "adapt it to hyper-v-gen1, or run mbr2gpt in the guest first",
        ),
        Target::HyperVGen1 | Target::HyperVGen2 => {}
        _ if bios != uefi => {
            let which = if uefi { "UEFI" } else { "BIOS (or UEFI with CSM)" };
            let message =
                format!("the machine's firmware must be {which}, as it is on the old one");
            plan.warn("windows.firmware", message, "set it before the first start");
        }
        _ => {}
    }
}

fn volumes(machine: &Machine, plan: &mut Plan) -> Result<()> {
    let table = Table::read(&**machine.disk(), machine.sector_size())?;
    if let Some(role) = table.volume_manager() {
        let (what, hint) = if role == Role::LdmData {
            ("dynamic disks", "convert it to a basic disk in the guest first")
        } else {
            ("storage pools", "move the volumes to a plain disk first")
        };
        plan.stop("windows.volume-manager", format!("the disk belongs to {what}"), hint);
    }
    Ok(())
}

/// Notes what the registry tells.
pub(super) fn check_registry(
    machine: &mut Machine,
    hives: &mut Hives,
    plan: &mut Plan,
) -> Result<()> {
    let system = hives.config(machine, "SYSTEM")?;
    for set in system.control_sets()? {
        for name in ENCRYPTION {
            let path = format!("{set}\\Services\\{name}");
            if system.number(&path, "Start")?.is_some_and(|start| start < 2) {
                plan.stop(
                    "windows.encryption",
                    format!("{name} encrypts the disk below Windows"),
                    "decrypt the disk in the guest first",
                );
            }
        }
        if system.number(&format!("{set}\\Services\\clusdisk"), "Start")?.is_some_and(|s| s < 4) {
            plan.warn(
                "windows.cluster",
                "it is a node of a failover cluster",
                "take it out of the cluster, or expect shared disks to be missing",
            );
        }
    }
    let software = hives.config(machine, "SOFTWARE")?;
    if software.key("Policies\\Microsoft\\Windows\\DeviceInstall\\Restrictions")?.is_some() {
        plan.warn(
            "windows.device-policy",
            "a group policy restricts the installation of devices: it may keep the new machine's \
             devices from working, its disks among them (stop 0x7B)",
            "lift the policy in the guest first",
        );
    }
    Ok(())
}
