//! Hyper-V: a PowerShell script.

use std::fmt::Write;

use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::inventory::Family;

use crate::Definition;
use crate::guest::Nic;
use crate::vm::{Firmware, Hypervisor, MIB, Vm};

/// Disks that IDE has room for.
const IDE_PLACES: usize = 4;

/// The script that makes the machine and attaches its disks.
pub(crate) fn script(vm: &Vm) -> Result<Definition> {
    for disk in &vm.disks {
        if !Hypervisor::HyperV.takes(&disk.format) {
            return Err(Error::new(ErrorKind::Unsupported, "Hyper-V takes VHD and VHDX only")
                .in_file(&disk.file)
                .hint("convert it first: vdisk convert -O vhdx"));
        }
        if vm.firmware == Firmware::Uefi && disk.format == "vhd" {
            return Err(Error::new(
                ErrorKind::Unsupported,
                "a machine of generation 2 takes VHDX only",
            )
            .in_file(&disk.file)
            .hint("convert it first: vdisk convert -O vhdx"));
        }
    }
    // Without this mark Windows PowerShell 5.1 reads the script in the host's code page, in which
    // letters of a name become quotes that end it.
    let mut text = String::from("\u{FEFF}");
    head(vm, &mut text);
    disks(vm, &mut text);
    network(vm, &mut text);
    firmware(vm, &mut text);
    text += "Get-VMIntegrationService -VM $vm | Enable-VMIntegrationService\n";
    text += "$vm\n";
    Ok(Definition { extension: "ps1", text, remarks: vm.remarks.clone() })
}

fn head(vm: &Vm, text: &mut String) {
    let generation = if vm.firmware == Firmware::Uefi { 2 } else { 1 };
    let _ = write!(
        text,
        "# Makes a virtual machine for the disks beside this script. Run it as an administrator\n\
         # on the Hyper-V host. It starts nothing.\n\
         [CmdletBinding()]\n\
         param(\n    [string]$Name = {},\n    [string]$SwitchName = '',\n    \
         [string]$Path = $PSScriptRoot\n)\n\
         $ErrorActionPreference = 'Stop'\n\
         $vm = New-VM -Name $Name -Generation {generation} -MemoryStartupBytes {}MB -NoVHD\n\
         Set-VM -VM $vm -ProcessorCount {} -StaticMemory -CheckpointType Production\n",
        quoted(&vm.name),
        vm.memory / MIB,
        vm.processors,
    );
}

fn disks(vm: &Vm, text: &mut String) {
    for (index, disk) in vm.disks.iter().enumerate() {
        let place = match vm.firmware {
            Firmware::Bios if index < IDE_PLACES => format!(
                "-ControllerType IDE -ControllerNumber {} -ControllerLocation {}",
                index / 2,
                index % 2
            ),
            Firmware::Bios => format!(
                "-ControllerType SCSI -ControllerNumber 0 -ControllerLocation {}",
                index - IDE_PLACES
            ),
            Firmware::Uefi => {
                format!("-ControllerType SCSI -ControllerNumber 0 -ControllerLocation {index}")
            }
        };
        let _ = writeln!(
            text,
            "Add-VMHardDiskDrive -VM $vm -Path (Join-Path $Path {}) {place}",
            quoted(&disk.file)
        );
    }
}

fn network(vm: &Vm, text: &mut String) {
    text.push_str("Get-VMNetworkAdapter -VM $vm | Remove-VMNetworkAdapter\n");
    for (index, nic) in vm.nics.iter().enumerate() {
        let legacy = if nic.model == Nic::Legacy { " -IsLegacy $true" } else { "" };
        let mac =
            nic.mac.map_or_else(String::new, |mac| format!(" -StaticMacAddress '{}'", mac.plain()));
        let name = format!("Network {}", index + 1);
        let _ = writeln!(
            text,
            "$adapter = Add-VMNetworkAdapter -VM $vm -Name {}{legacy}{mac} -Passthru\n\
             if ($SwitchName) {{ Connect-VMNetworkAdapter -VMNetworkAdapter $adapter \
             -SwitchName $SwitchName }}",
            quoted(&name)
        );
    }
}

fn firmware(vm: &Vm, text: &mut String) {
    if vm.firmware == Firmware::Bios {
        text.push_str(
            "Set-VMBios -VM $vm -StartupOrder @('IDE', 'CD', 'LegacyNetworkAdapter', 'Floppy')\n",
        );
        return;
    }
    let secure_boot = match vm.secure_boot {
        Some(Family::Windows) => "On -SecureBootTemplate 'MicrosoftWindows'",
        Some(Family::Linux) => "On -SecureBootTemplate 'MicrosoftUEFICertificateAuthority'",
        None => "Off",
    };
    let _ = writeln!(
        text,
        "$first = Get-VMHardDiskDrive -VM $vm | Select-Object -First 1\n\
         Set-VMFirmware -VM $vm -EnableSecureBoot {secure_boot} -FirstBootDevice $first"
    );
}

/// A string of PowerShell in which nothing has a meaning of its own. Its typographic quotes end a
/// string as well as the plain one.
fn quoted(text: &str) -> String {
    let mut quoted = String::from("'");
    for c in text.chars() {
        quoted.push(c);
        if matches!(c, '\'' | '\u{2018}' | '\u{2019}' | '\u{201A}' | '\u{201B}') {
            quoted.push(c);
        }
    }
    quoted.push('\'');
    quoted
}
