//! KVM: a libvirt domain.

use std::fmt::Write;

use quick_xml::escape::escape;
use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::inventory::Family;

use crate::Definition;
use crate::guest::{Bus, Nic};
use crate::vm::{Firmware, Hypervisor, Vm, VmDisk};

/// The domain, for `virsh define`.
pub(crate) fn domain(vm: &Vm) -> Result<Definition> {
    let mut text = String::new();
    let machine = if vm.bus == Bus::Ide { "pc" } else { "q35" };
    let arch = if vm.wide { "x86_64" } else { "i686" };
    let firmware = if vm.firmware == Firmware::Uefi { " firmware='efi'" } else { "" };
    let _ = write!(
        text,
        "<domain type='kvm'>\n  <name>{}</name>\n  <uuid>{}</uuid>\n  \
         <memory unit='MiB'>{}</memory>\n  <vcpu>{}</vcpu>\n  <os{firmware}>\n    \
         <type arch='{arch}' machine='{machine}'>hvm</type>\n    <boot dev='hd'/>\n  </os>\n",
        escape(name_of(vm)),
        vm.uuid,
        vm.memory_mib(),
        vm.processors,
    );
    features(vm, &mut text);
    text.push_str("  <devices>\n");
    disks(vm, &mut text)?;
    network(vm, &mut text);
    text.push_str(
        "    <console type='pty'/>\n    <graphics type='vnc' autoport='yes'/>\n    <video>\n      \
         <model type='vga'/>\n    </video>\n    <input type='tablet' bus='usb'/>\n  \
         </devices>\n</domain>\n",
    );
    Ok(Definition { extension: "xml", text, remarks: vm.remarks.clone() })
}

/// A domain's name is a file's name, too: libvirt refuses slashes.
fn name_of(vm: &Vm) -> String {
    vm.name.replace('/', "-")
}

fn features(vm: &Vm, text: &mut String) {
    let windows = vm.family == Some(Family::Windows);
    text.push_str("  <features>\n    <acpi/>\n    <apic/>\n");
    if windows {
        text.push_str(
            "    <hyperv>\n      <relaxed state='on'/>\n      <vapic state='on'/>\n      \
             <spinlocks state='on' retries='8191'/>\n    </hyperv>\n",
        );
    }
    text.push_str("  </features>\n  <cpu mode='host-model'/>\n");
    let clock = if windows { "localtime" } else { "utc" };
    let _ = writeln!(text, "  <clock offset='{clock}'/>");
}

fn disks(vm: &Vm, text: &mut String) -> Result<()> {
    let (bus, prefix) = match vm.bus {
        Bus::Ide => ("ide", "hd"),
        Bus::Sata => ("sata", "sd"),
        Bus::VirtioBlock => ("virtio", "vd"),
        _ => ("scsi", "sd"),
    };
    if bus == "scsi" {
        text.push_str("    <controller type='scsi' index='0' model='virtio-scsi'/>\n");
    }
    for (index, disk) in vm.disks.iter().enumerate() {
        if !Hypervisor::Kvm.takes(&disk.format) {
            let what = format!("libvirt runs raw, VHD and VMDK, but not {}", disk.format);
            return Err(Error::new(ErrorKind::Unsupported, what)
                .in_file(&disk.file)
                .hint("convert it first: vdisk convert -O raw"));
        }
        // libvirt calls VHD by QEMU's name for it.
        let format = if disk.format == "vhd" { "vpc" } else { &disk.format };
        let starts = index == 0 && vm.firmware == Firmware::Bios;
        let sectors = sectors(disk, bus, starts)?;
        let _ = write!(
            text,
            "    <disk type='file' device='disk'>\n      <driver name='qemu' type='{format}'/>\n      \
             <source file='{}'/>\n{sectors}      <target dev='{prefix}{}' bus='{bus}'/>\n    \
             </disk>\n",
            escape(&disk.file),
            letters(index),
        );
    }
    Ok(())
}

/// The disk's sectors, where they are not of the 512 bytes that QEMU gives by itself; whether a BIOS
/// `starts` from it.
fn sectors(disk: &VmDisk, bus: &str, starts: bool) -> Result<String> {
    let size = disk.sector_size;
    if size == 512 {
        return Ok(String::new());
    }
    if starts || !matches!(bus, "scsi" | "virtio") {
        return Err(Error::unsupported(format!(
            "its partition table counts in sectors of {size} bytes, which QEMU gives to virtio \
             disks only, and from which no BIOS starts"
        ))
        .in_file(&disk.file)
        .hint("a VHDX on Hyper-V's generation 2 keeps such sectors"));
    }
    Ok(format!("      <blockio logical_block_size='{size}' physical_block_size='{size}'/>\n"))
}

/// `a` to `z`, then `aa`.
fn letters(mut index: usize) -> String {
    let mut letters = String::new();
    loop {
        let letter = u8::try_from(index % 26).unwrap_or_default();
        letters.insert(0, char::from(b'a' + letter));
        if index < 26 {
            return letters;
        }
        index = index / 26 - 1;
    }
}

fn network(vm: &Vm, text: &mut String) {
    for nic in &vm.nics {
        let model = match nic.model {
            Nic::Native => "virtio",
            Nic::E1000 => "e1000",
            Nic::E1000e => "e1000e",
            Nic::Legacy => "rtl8139",
        };
        let mac = nic.mac.map_or_else(String::new, |mac| format!("      <mac address='{mac}'/>\n"));
        let _ = write!(
            text,
            "    <interface type='network'>\n{mac}      <source network='default'/>\n      \
             <model type='{model}'/>\n    </interface>\n"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::letters;

    #[test]
    fn disks_are_lettered_as_linux_does() {
        let named: Vec<String> = [0, 25, 26, 51, 52, 701, 702].map(letters).to_vec();
        assert_eq!(named, ["a", "z", "aa", "az", "ba", "zz", "aaa"]);
    }
}
