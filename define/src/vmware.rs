//! VMware: a `.vmx`.

use std::fmt::Write;

use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::inventory::Family;

use crate::Definition;
use crate::guest::{Bus, Nic};
use crate::vm::{Firmware, Hypervisor, Vm};

/// Hardware of ESXi 6.5 and Workstation 12.5, and later.
pub(crate) const HARDWARE: u32 = 13;

/// Keys and values, one a line.
pub(crate) fn vmx(vm: &Vm) -> Result<Definition> {
    let mut lines = Lines(String::from(".encoding = \"UTF-8\"\n"));
    lines.set("config.version", "8");
    lines.set("virtualHW.version", HARDWARE);
    lines.set("displayName", &vm.name);
    lines.set("guestOS", guest_os(vm));
    lines.set("uuid.bios", uuid_of(vm));
    lines.set("firmware", if vm.firmware == Firmware::Uefi { "efi" } else { "bios" });
    lines.set("memsize", vm.memory_mib());
    lines.set("numvcpus", vm.processors);
    for bridge in 4..8 {
        lines.set(&format!("pciBridge{bridge}.present"), "TRUE");
        lines.set(&format!("pciBridge{bridge}.virtualDev"), "pcieRootPort");
        lines.set(&format!("pciBridge{bridge}.functions"), "8");
    }
    lines.set("pciBridge0.present", "TRUE");
    lines.set("vmci0.present", "TRUE");
    disks(vm, &mut lines)?;
    network(vm, &mut lines);
    Ok(Definition { extension: "vmx", text: lines.0, remarks: vm.remarks.clone() })
}

fn disks(vm: &Vm, lines: &mut Lines) -> Result<()> {
    let (controller, device) = match vm.bus {
        Bus::Ide => ("ide", None),
        Bus::Sata => ("sata", None),
        Bus::LsiScsi => ("scsi", Some("lsilogic")),
        Bus::PvScsi => ("scsi", Some("pvscsi")),
        _ => ("scsi", Some("lsisas1068")),
    };
    for (index, disk) in vm.disks.iter().enumerate() {
        if !Hypervisor::Vmware.takes(&disk.format) {
            return Err(Error::new(ErrorKind::Unsupported, "VMware takes VMDK only")
                .in_file(&disk.file)
                .hint("convert it first: vdisk convert -O vmdk"));
        }
        let (number, place) = place(vm.bus, index);
        if place == 0 {
            lines.set(&format!("{controller}{number}.present"), "TRUE");
            if let Some(device) = device {
                lines.set(&format!("{controller}{number}.virtualDev"), device);
            }
        }
        let disk_name = format!("{controller}{number}:{place}");
        lines.set(&format!("{disk_name}.present"), "TRUE");
        lines.set(
            &format!("{disk_name}.deviceType"),
            if controller == "scsi" { "scsi-hardDisk" } else { "disk" },
        );
        lines.set(&format!("{disk_name}.fileName"), &disk.file);
    }
    Ok(())
}

/// The controller and the place on it of disk number `index`.
pub(crate) fn place(bus: Bus, index: usize) -> (usize, usize) {
    match bus {
        Bus::Ide => (index / 2, index % 2),
        Bus::Sata => (index / 30, index % 30),
        // SCSI's place 7 is the controller's own.
        _ => {
            let place = index % 15;
            (index / 15, place + usize::from(place >= 7))
        }
    }
}

fn network(vm: &Vm, lines: &mut Lines) {
    for (index, nic) in vm.nics.iter().enumerate() {
        let name = format!("ethernet{index}");
        lines.set(&format!("{name}.present"), "TRUE");
        lines.set(&format!("{name}.virtualDev"), model(nic.model));
        lines.set(&format!("{name}.connectionType"), "bridged");
        match nic.mac {
            Some(mac) => {
                lines.set(&format!("{name}.addressType"), "static");
                lines.set(&format!("{name}.address"), mac);
                // Only addresses of VMware's own are taken otherwise.
                lines.set(&format!("{name}.checkMACAddress"), "FALSE");
            }
            None => lines.set(&format!("{name}.addressType"), "generated"),
        }
    }
}

/// What VMware calls an adapter.
pub(crate) fn model(nic: Nic) -> &'static str {
    match nic {
        Nic::Native => "vmxnet3",
        Nic::E1000 => "e1000",
        Nic::E1000e => "e1000e",
        Nic::Legacy => "vlance",
    }
}

fn uuid_of(vm: &Vm) -> String {
    let bytes: Vec<String> = vm.uuid.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    let (first, second) = bytes.split_at(8);
    format!("{}-{}", first.join(" "), second.join(" "))
}

fn guest_os(vm: &Vm) -> String {
    let name = match (vm.family, vm.windows) {
        (Some(Family::Windows), Some(version)) => match (version.major, version.minor) {
            (5, 1) => "winXPPro",
            (5, 2) => "winNetStandard",
            (6, 0) if version.server => "longhorn",
            (6, 0) => "winvista",
            (6, 1) if version.server => "windows7srv",
            (6, 1) => "windows7",
            (6, 2 | 3) if version.server => "windows8srv",
            (6, 2 | 3) => "windows8",
            _ if version.server && version.build >= 17_763 => "windows2019srv",
            _ if version.server => "windows9srv",
            _ => "windows9",
        },
        (Some(Family::Windows), None) => "windows9",
        (Some(Family::Linux), _) => "otherlinux",
        (None, _) => "other",
    };
    if vm.wide && name != "winXPPro" { format!("{name}-64") } else { name.to_owned() }
}

struct Lines(String);

impl Lines {
    /// Quotes and what is not printable are written as `|` and the code in hexadecimal.
    fn set(&mut self, key: &str, value: impl std::fmt::Display) {
        let mut escaped = String::new();
        for c in value.to_string().chars() {
            if matches!(c, '"' | '|') || c.is_ascii_control() {
                let _ = write!(escaped, "|{:02X}", u32::from(c));
            } else {
                escaped.push(c);
            }
        }
        let _ = writeln!(self.0, "{key} = \"{escaped}\"");
    }
}
