//! VirtualBox: a shell script of VBoxManage calls.

use std::fmt::Write;

use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::inventory::Family;

use crate::Definition;
use crate::guest::{Bus, Nic};
use crate::vm::{Firmware, Hypervisor, Vm};

/// The script that makes the machine and attaches its disks.
pub(crate) fn script(vm: &Vm) -> Result<Definition> {
    let mut text = String::from(
        "#!/bin/sh\n# Makes a virtual machine for the disks beside this script. It starts nothing.\n\
         set -eu\ncd \"$(dirname \"$0\")\"\n",
    );
    let _ = writeln!(text, "name={}", quoted(&vm.name));
    let _ = writeln!(
        text,
        "VBoxManage createvm --name \"$name\" --ostype {} --uuid {} --register",
        quoted(os_type(vm)),
        vm.uuid
    );
    let firmware = if vm.firmware == Firmware::Uefi { "efi" } else { "bios" };
    let universal_time = if vm.family == Some(Family::Windows) { "off" } else { "on" };
    let _ = writeln!(
        text,
        "VBoxManage modifyvm \"$name\" --memory {} --cpus {} --firmware {firmware} --ioapic on \
         --rtcuseutc {universal_time} --graphicscontroller vboxsvga --vram 32",
        vm.memory_mib(),
        vm.processors,
    );
    disks(vm, &mut text)?;
    network(vm, &mut text);
    Ok(Definition { extension: "sh", text, remarks: vm.remarks.clone() })
}

fn disks(vm: &Vm, text: &mut String) -> Result<()> {
    let (bus, controller) =
        if vm.bus == Bus::Ide { ("ide", "PIIX4") } else { ("sata", "IntelAhci") };
    let ports = vm.disks.len().max(1);
    let count = if bus == "sata" { format!(" --portcount {ports}") } else { String::new() };
    let _ = writeln!(
        text,
        "VBoxManage storagectl \"$name\" --name disks --add {bus} --controller {controller}{count} \
         --bootable on"
    );
    for (index, disk) in vm.disks.iter().enumerate() {
        if !Hypervisor::VirtualBox.takes(&disk.format) {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "VirtualBox takes VHD and VMDK; VHDX it only reads",
            )
            .in_file(&disk.file)
            .hint("convert it first: vdisk convert -O vmdk"));
        }
        let (port, device) = if bus == "ide" { (index / 2, index % 2) } else { (index, 0) };
        let _ = writeln!(
            text,
            "VBoxManage storageattach \"$name\" --storagectl disks --port {port} --device {device} \
             --type hdd --medium {}",
            quoted(&disk.file)
        );
    }
    Ok(())
}

fn network(vm: &Vm, text: &mut String) {
    for (index, nic) in vm.nics.iter().enumerate() {
        let number = index + 1;
        let model = match nic.model {
            Nic::Native => "virtio",
            Nic::E1000 | Nic::E1000e => "82540EM",
            Nic::Legacy => "Am79C973",
        };
        let mac = nic
            .mac
            .map_or_else(String::new, |mac| format!(" --macaddress{number} {}", mac.plain()));
        let _ = writeln!(
            text,
            "VBoxManage modifyvm \"$name\" --nic{number} nat --nictype{number} {model}{mac}"
        );
    }
}

fn os_type(vm: &Vm) -> &'static str {
    match (vm.family, vm.windows, vm.wide) {
        (Some(Family::Linux), _, true) => "Linux26_64",
        (Some(Family::Linux), _, false) => "Linux26",
        (Some(Family::Windows), Some(version), wide) => {
            match (version.major, version.minor, version.server, wide) {
                (5, 1, _, false) => "WindowsXP",
                (5, 1, _, true) => "WindowsXP_64",
                (5, _, _, false) => "Windows2003",
                (5, _, _, true) => "Windows2003_64",
                (6, 0, true, true) => "Windows2008_64",
                (6, 0, true, false) => "Windows2008",
                (6, 0, _, true) => "WindowsVista_64",
                (6, 0, ..) => "WindowsVista",
                (6, 1, true, _) => "Windows2008_64",
                (6, 1, _, true) => "Windows7_64",
                (6, 1, ..) => "Windows7",
                (6, _, true, _) => "Windows2012_64",
                (6, _, _, true) => "Windows81_64",
                (6, ..) => "Windows81",
                (_, _, true, _) => "Windows2016_64",
                (.., true) => "Windows10_64",
                _ => "Windows10",
            }
        }
        (Some(Family::Windows), None, _) => "Windows10_64",
        (None, _, true) => "Other_64",
        (None, _, false) => "Other",
    }
}

/// A word of the shell in which nothing has a meaning of its own.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}
