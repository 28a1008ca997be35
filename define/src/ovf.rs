//! VMware: an OVF descriptor (DSP0243 1.1), for disks in streamOptimized VMDKs.

use std::fmt::Write;

use quick_xml::escape::escape;
use vdisk_guest::inventory::Family;

use crate::Definition;
use crate::guest::{Bus, Nic};
use crate::vm::{Firmware, Vm};
use crate::vmware;

const FORMAT: &str = "http://www.vmware.com/interfaces/specifications/vmdk.html#streamOptimized";

/// The descriptor; `None` where a disk is in no VMDK.
pub(crate) fn descriptor(vm: &Vm) -> Option<Definition> {
    if vm.disks.iter().any(|disk| disk.format != "vmdk") {
        return None;
    }
    let mut text = String::from(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Envelope xmlns=\"http://schemas.dmtf.org/ovf/envelope/1\"\n  \
         xmlns:ovf=\"http://schemas.dmtf.org/ovf/envelope/1\"\n  \
         xmlns:rasd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_ResourceAllocationSettingData\"\n  \
         xmlns:vssd=\"http://schemas.dmtf.org/wbem/wscim/1/cim-schema/2/CIM_VirtualSystemSettingData\"\n  \
         xmlns:vmw=\"http://www.vmware.com/schema/ovf\">\n",
    );
    files(vm, &mut text);
    text += "  <NetworkSection>\n    <Info>The networks it is attached to</Info>\n    \
             <Network ovf:name=\"VM Network\"/>\n  </NetworkSection>\n";
    system(vm, &mut text);
    text += "</Envelope>\n";
    let mut remarks = vm.remarks.clone();
    remarks.push(
        "the OVF wants streamOptimized disks: vdisk convert -O vmdk -o subformat=streamOptimized"
            .to_owned(),
    );
    Some(Definition { extension: "ovf", text, remarks })
}

fn files(vm: &Vm, text: &mut String) {
    text.push_str("  <References>\n");
    for (index, disk) in vm.disks.iter().enumerate() {
        let number = index + 1;
        let _ = writeln!(
            text,
            "    <File ovf:id=\"file{number}\" ovf:href=\"{}\"/>",
            escape(&disk.file)
        );
    }
    text.push_str("  </References>\n  <DiskSection>\n    <Info>Its disks</Info>\n");
    for (index, disk) in vm.disks.iter().enumerate() {
        let number = index + 1;
        let _ = writeln!(
            text,
            "    <Disk ovf:diskId=\"disk{number}\" ovf:fileRef=\"file{number}\" \
             ovf:capacity=\"{}\" ovf:capacityAllocationUnits=\"byte\" ovf:format=\"{FORMAT}\"/>",
            disk.size
        );
    }
    text.push_str("  </DiskSection>\n");
}

fn system(vm: &Vm, text: &mut String) {
    let name = escape(&vm.name);
    let _ = write!(
        text,
        "  <VirtualSystem ovf:id=\"{name}\">\n    <Info>A virtual machine</Info>\n    \
         <Name>{name}</Name>\n    <OperatingSystemSection ovf:id=\"{}\">\n      \
         <Info>What it runs</Info>\n    </OperatingSystemSection>\n    \
         <VirtualHardwareSection>\n      <Info>Its hardware</Info>\n      <System>\n        \
         <vssd:ElementName>Virtual Hardware Family</vssd:ElementName>\n        \
         <vssd:InstanceID>0</vssd:InstanceID>\n        \
         <vssd:VirtualSystemIdentifier>{name}</vssd:VirtualSystemIdentifier>\n        \
         <vssd:VirtualSystemType>vmx-{}</vssd:VirtualSystemType>\n      </System>\n",
        os_id(vm),
        vmware::HARDWARE
    );
    items(vm, text);
    let firmware = if vm.firmware == Firmware::Uefi { "efi" } else { "bios" };
    let _ = write!(
        text,
        "      <vmw:Config ovf:required=\"false\" vmw:key=\"firmware\" vmw:value=\"{firmware}\"/>\n    \
         </VirtualHardwareSection>\n  </VirtualSystem>\n"
    );
}

/// Instance ids of what the disks are attached to begin here.
const CONTROLLER: usize = 10;
const DISK: usize = 100;
const NETWORK: usize = 200;

fn items(vm: &Vm, text: &mut String) {
    let processors = vm.processors.to_string();
    let memory = vm.memory_mib().to_string();
    item(
        text,
        &[
            ("AllocationUnits", "hertz * 10^6"),
            ("ElementName", "Processors"),
            ("InstanceID", "1"),
            ("ResourceType", "3"),
            ("VirtualQuantity", &processors),
        ],
    );
    item(
        text,
        &[
            ("AllocationUnits", "byte * 2^20"),
            ("ElementName", "Memory"),
            ("InstanceID", "2"),
            ("ResourceType", "4"),
            ("VirtualQuantity", &memory),
        ],
    );
    let (kind, sub_kind) = match vm.bus {
        Bus::Ide => ("5", None),
        Bus::Sata => ("20", Some("vmware.sata.ahci")),
        Bus::LsiScsi => ("6", Some("lsilogic")),
        Bus::PvScsi => ("6", Some("VirtualSCSI")),
        _ => ("6", Some("lsilogicsas")),
    };
    let places: Vec<(usize, usize)> =
        (0..vm.disks.len()).map(|index| vmware::place(vm.bus, index)).collect();
    let controllers = places.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
    for number in 0..controllers {
        let (address, id) = (number.to_string(), (CONTROLLER + number).to_string());
        let mut fields = vec![
            ("Address", address.as_str()),
            ("ElementName", "Disk controller"),
            ("InstanceID", &id),
        ];
        if let Some(sub_kind) = sub_kind {
            fields.push(("ResourceSubType", sub_kind));
        }
        fields.push(("ResourceType", kind));
        item(text, &fields);
    }
    for (index, (number, place)) in places.iter().enumerate() {
        item(
            text,
            &[
                ("AddressOnParent", &place.to_string()),
                ("ElementName", "Disk"),
                ("HostResource", &format!("ovf:/disk/disk{}", index + 1)),
                ("InstanceID", &(DISK + index).to_string()),
                ("Parent", &(CONTROLLER + number).to_string()),
                ("ResourceType", "17"),
            ],
        );
    }
    for (index, nic) in vm.nics.iter().enumerate() {
        let mac = nic.mac.map(|mac| mac.to_string());
        let id = (NETWORK + index).to_string();
        let mut fields = Vec::new();
        if let Some(mac) = &mac {
            fields.push(("Address", mac.as_str()));
        }
        fields.extend([
            ("AutomaticAllocation", "true"),
            ("Connection", "VM Network"),
            ("ElementName", "Network adapter"),
            ("InstanceID", id.as_str()),
            ("ResourceSubType", adapter(nic.model)),
            ("ResourceType", "10"),
        ]);
        item(text, &fields);
    }
}

/// One device; the schema wants its fields in the order of their names.
fn item(text: &mut String, fields: &[(&str, &str)]) {
    text.push_str("      <Item>\n");
    for (name, value) in fields {
        let _ = writeln!(text, "        <rasd:{name}>{}</rasd:{name}>", escape(*value));
    }
    text.push_str("      </Item>\n");
}

fn adapter(nic: Nic) -> &'static str {
    match nic {
        Nic::Native => "VmxNet3",
        Nic::E1000 => "E1000",
        Nic::E1000e => "E1000e",
        Nic::Legacy => "PCNet32",
    }
}

/// CIM_OperatingSystem.OsType: kinds that all readers know.
fn os_id(vm: &Vm) -> u32 {
    match (vm.family, vm.wide) {
        (Some(Family::Linux), true) => 101,
        (Some(Family::Linux), false) => 36,
        (Some(Family::Windows), _) if vm.windows.is_some_and(|version| version.server) => 103,
        (Some(Family::Windows), true) => 105,
        (Some(Family::Windows), false) => 67,
        (None, _) => 1,
    }
}
