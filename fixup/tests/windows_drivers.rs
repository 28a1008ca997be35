//! Drivers from a folder of the host, laid out as virtio-win is: the right ones are found, and put
//! in with the values of their INF files.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::fs;
use std::path::Path;

use common::volume::dressed;
use common::{
    Spec, X64, X86, assert_exactly, assert_ntfs_sound, cat, machine, partition, windows, write_out,
};
use vdisk_fixup::{AdaptOptions, Machine, Plan, Target, adapt};

/// A driver of disks after the form of virtio-win's; its service, its device and its bus type.
fn inf(service: &str, device: &str, bus: u32, models: &str, class: &str) -> String {
    format!(
        r#"[Version]
Signature="$WINDOWS NT$"
Class={class}
ClassGUID={{{}}}
Provider=%VENDOR%
DriverVer=07/29/2024,100.95.104.26200
CatalogFile={service}.cat
[SourceDisksNames]
1=%DISK%
[SourceDisksFiles]
{service}.sys = 1,,
[DestinationDirs]
DefaultDestDir = 12
[Manufacturer]
%VENDOR% = VirtIO, {models}
[VirtIO.{models}]
%DEVICE% = scsi_inst, PCI\{device}&SUBSYS_00021AF4&REV_00, PCI\{device}&REV_01
[scsi_inst]
CopyFiles = @{service}.sys
[scsi_inst.Services]
AddService = {service}, 0x00000002, scsi_service
[scsi_inst.HW]
AddReg = hw
[hw]
HKR, "Interrupt Management\MessageSignaledInterruptProperties", MSISupported, 0x00010001, 1
[scsi_service]
DisplayName = %DEVICE%
ServiceType = 1
StartType = 0
ErrorControl = 1
ServiceBinary = %12%\{service}.sys
LoadOrderGroup = SCSI miniport
AddReg = params
[params]
HKR, "Parameters", "BusType", 0x00010001, {bus:#010x}
HKR, "Parameters\PnpInterface", "5", 0x00010001, 1
[Strings]
VENDOR = "Red Hat, Inc."
DEVICE = "Red Hat VirtIO {service}"
DISK = "disk"
"#,
        if class == "SCSIAdapter" {
            "4D36E97B-E325-11CE-BFC1-08002BE10318"
        } else {
            "4D36E972-E325-11CE-BFC1-08002BE10318"
        }
    )
}

fn program(machine: u16, more: &[u8]) -> Vec<u8> {
    let mut bytes = vec![0; 512];
    bytes[..2].copy_from_slice(b"MZ");
    bytes[0x3c] = 0x80;
    bytes[0x80..0x84].copy_from_slice(b"PE\0\0");
    bytes[0x84..0x86].copy_from_slice(&machine.to_le_bytes());
    bytes.extend(more);
    bytes
}

/// A folder as virtio-win has it.
fn virtio_win(root: &Path) {
    let package = |folder: &str, service: &str, text: &str, machine, mark: &str| {
        let folder = root.join(folder);
        fs::create_dir_all(&folder).unwrap();
        let utf16: Vec<u8> =
            [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect();
        fs::write(folder.join(format!("{service}.inf")), utf16).unwrap();
        // Names of files differ in case from what the INF says.
        let upper = service.to_uppercase();
        fs::write(folder.join(format!("{upper}.sys")), program(machine, mark.as_bytes())).unwrap();
        fs::write(folder.join(format!("{service}.cat")), format!("signature {mark}")).unwrap();
    };
    for (os, arch, models, machine) in [
        ("w7", "x86", "NTx86", X86),
        ("w7", "amd64", "NTamd64", X64),
        ("w10", "amd64", "NTamd64", X64),
        ("w11", "amd64", "NTamd64", X64),
        ("2k16", "amd64", "NTamd64", X64),
    ] {
        let stor = inf("viostor", "VEN_1AF4&DEV_1001", 1, models, "SCSIAdapter");
        let scsi = inf("vioscsi", "VEN_1AF4&DEV_1004", 10, models, "SCSIAdapter");
        let net = inf("netkvm", "VEN_1AF4&DEV_1000", 0, models, "Net");
        package(&format!("viostor/{os}/{arch}"), "viostor", &stor, machine, os);
        package(&format!("vioscsi/{os}/{arch}"), "vioscsi", &scsi, machine, os);
        package(&format!("NetKVM/{os}/{arch}"), "netkvm", &net, machine, os);
    }
    fs::write(root.join("autorun.inf"), "[AutoRun]\nopen=x.exe\n").unwrap();
}

fn planned(disk: &Path, drivers: &Path) -> (Machine, Plan) {
    let mut machine = machine(disk);
    let mut plan = Plan::default();
    let options = AdaptOptions { drivers: vec![drivers.into()], ..AdaptOptions::new(Target::Kvm) };
    adapt(&mut machine, &options, &mut plan).unwrap();
    (machine, plan)
}

/// Puts the drivers in, has the outcome judged and gives the plan with the new volume.
fn injected(folder: &Path, disk: &Path, drivers: &Path, root: usize, mark: &str) -> Plan {
    let (machine, plan) = planned(disk, drivers);
    assert_eq!(plan.refusals, []);
    let after = folder.join("after.raw");
    write_out(&machine, disk, &after);
    let (old, new) = (folder.join("old.ntfs"), folder.join("new.ntfs"));
    partition(disk, root, &old);
    partition(&after, root, &new);
    assert_ntfs_sound(&new);
    for name in ["SYSTEM", "SOFTWARE"] {
        let hives = [folder.join("old.hive"), folder.join("new.hive")];
        let path = format!("/Windows/System32/config/{name}");
        cat(&old, &path, &hives[0]);
        cat(&new, &path, &hives[1]);
        assert_exactly(&plan, name, &hives[0], &hives[1]);
    }
    let file = folder.join("file");
    for path in [
        "/Windows/System32/drivers/viostor.sys",
        "/Windows/System32/drivers/vioscsi.sys",
        "/Windows/Drivers/vdisk/viostor/viostor.sys",
        "/Windows/Drivers/vdisk/viostor/viostor.cat",
        "/Windows/Drivers/vdisk/netkvm/netkvm.sys",
    ] {
        cat(&new, path, &file);
        assert!(fs::read(&file).unwrap().ends_with(mark.as_bytes()), "{path} is for {mark}");
    }
    let (again, second) = planned(&after, drivers);
    assert_eq!(second.actions, [], "a second run plans nothing");
    assert_eq!(again.changes().unwrap(), []);
    plan
}

fn after<'a>(plan: &'a Plan, place: &str) -> Option<&'a str> {
    plan.actions.iter().rfind(|one| one.place == place)?.after.as_deref()
}

#[test]
fn windows_10_knows_the_drivers_by_its_database() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = windows(folder.path(), &Spec::TEN, |_| {}) else { return };
    let drivers = folder.path().join("virtio-win");
    virtio_win(&drivers);
    let plan = injected(folder.path(), &disk, &drivers, 2, "w10");
    let service = "SYSTEM\\ControlSet001\\Services\\vioscsi";
    assert_eq!(after(&plan, &format!("{service}\\Parameters: BusType")), Some("10"));
    assert_eq!(
        after(&plan, &format!("{service}: ImagePath")),
        Some("System32\\drivers\\vioscsi.sys")
    );
    assert_eq!(after(&plan, &format!("{service}: DisplayName")), Some("Red Hat VirtIO vioscsi"));
    let database = "SYSTEM\\DriverDatabase";
    let label = "viostor.inf_amd64_0000000000000000";
    for (key, value) in [
        ("DriverInfFiles\\viostor.inf: Active", label),
        ("DeviceIds\\PCI\\VEN_1AF4&DEV_1001&REV_01: viostor.inf", "type 0x3: 01 ff 00 00"),
        (&format!("DriverPackages\\{label}\\Configurations\\scsi_inst: Service"), "viostor"),
        (
            &format!(
                "DriverPackages\\{label}\\Descriptors\\PCI\\VEN_1AF4&DEV_1001&REV_01: Configuration"
            ),
            "scsi_inst",
        ),
    ] {
        assert_eq!(after(&plan, &format!("{database}\\{key}")), Some(value), "{key}");
    }
    assert!(
        after(&plan, "SYSTEM\\ControlSet001\\Services\\netkvm: Start").is_none(),
        "a network card is left to Windows"
    );
    let path = after(&plan, "SOFTWARE\\Microsoft\\Windows\\CurrentVersion: DevicePath").unwrap();
    assert!(path.starts_with("%SystemRoot%\\inf;") && path.ends_with("\\Drivers\\vdisk\\viostor"));
    assert!(plan.warnings.iter().any(|one| one.message.contains("autorun.inf")));
}

#[test]
fn windows_7_knows_them_as_critical_devices() {
    let folder = tempfile::tempdir().unwrap();
    let Some(disk) = windows(folder.path(), &Spec::SEVEN, |_| {}) else { return };
    let drivers = folder.path().join("virtio-win");
    virtio_win(&drivers);
    let plan = injected(folder.path(), &disk, &drivers, 1, "w7");
    let key =
        "SYSTEM\\ControlSet001\\Control\\CriticalDeviceDatabase\\PCI#VEN_1AF4&DEV_1004&REV_01";
    assert_eq!(after(&plan, &format!("{key}: Service")), Some("vioscsi"));
    assert!(!plan.actions.iter().any(|one| one.place.contains("DriverDatabase")));
}

#[test]
fn a_driver_of_its_own_is_kept_and_an_incomplete_one_left_out() {
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec { files: &[("Windows/System32/drivers/viostor.sys", b"newer")], ..Spec::TEN };
    let prepare = |system: &mut common::Registry| system.driver("viostor", 3);
    let Some(disk) = windows(folder.path(), &spec, prepare) else { return };
    let drivers = folder.path().join("virtio-win");
    virtio_win(&drivers);
    fs::remove_file(drivers.join("vioscsi/w10/amd64/VIOSCSI.sys")).unwrap();
    let (_, plan) = planned(&disk, &drivers);
    assert_eq!(plan.refusals, []);
    let warned: Vec<&str> = plan.warnings.iter().map(|one| one.id.as_str()).collect();
    assert!(warned.contains(&"windows.driver.kept"), "{warned:?}");
    assert!(warned.contains(&"windows.driver.incomplete"), "{warned:?}");
    assert!(!plan.actions.iter().any(|one| one.id == "windows.driver.inject"));
    assert_eq!(after(&plan, "SYSTEM\\ControlSet001\\Services\\viostor: Start"), Some("0"));
}

/// What CompactOS has packed cannot be read, only seen to be there.
#[test]
fn packed_programs_are_in_nobodys_way() {
    const PACK: &str = r#"
import glob, os, struct, sys
system = sys.argv[1] + '/Windows/System32/'
for path in glob.glob(system + 'drivers/*.sys') + [system + 'ntoskrnl.exe']:
    open(path, 'wb').close()
    os.setxattr(path, 'system.ntfs_reparse_data', struct.pack('<IHH4I', 0x80000017, 16, 0, 1, 2, 1, 0))
"#;
    let folder = tempfile::tempdir().unwrap();
    let spec = Spec { files: &[("Windows/System32/drivers/viostor.sys", b"x")], ..Spec::TEN };
    let prepare = |system: &mut common::Registry| system.driver("viostor", 3);
    let Some(disk) = windows(folder.path(), &spec, prepare) else { return };
    if dressed(&disk, spec.root(), PACK, &[]).is_none() {
        return;
    }
    let drivers = folder.path().join("virtio-win");
    virtio_win(&drivers);
    let (machine, plan) = planned(&disk, &drivers);
    assert_eq!(plan.refusals, []);
    let kept: Vec<&str> = plan
        .warnings
        .iter()
        .filter(|one| one.id == "windows.driver.kept")
        .map(|one| one.message.as_str())
        .collect();
    assert_eq!(kept, ["it has another viostor already, which is kept"]);
    assert!(plan.actions.iter().any(|one| one.place == "/Windows/System32/drivers/VIOSCSI.sys"
        || one.place == "/Windows/System32/drivers/vioscsi.sys"));
    let inventory = machine.inventory();
    assert_eq!(inventory.systems[0].arch, Some("x86_64"));
    let problems: Vec<String> =
        inventory.problems.iter().map(|problem| format!("{problem:?}")).collect();
    assert!(!problems.iter().any(|one| one.contains("ntoskrnl")), "{problems:?}");
}
