//! For every version of Windows and every target: which drivers start, which devices the loader
//! knows, what Windows is told of a driver that it did not bring along, and what is refused. The
//! table was written from the project's notes on Windows, not from the program; hivex reads what
//! came of it.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use common::{Registry, Spec, X64, X86, machine, windows};
use serde_json::Value;
use vdisk_fixup::{AdaptOptions, Machine, Plan, Target, adapt};
use vdisk_testkit::tools::{Tool, arg, must};

const HDC: &str = "{4D36E96A-E325-11CE-BFC1-08002BE10318}";
const SCSI: &str = "{4D36E97B-E325-11CE-BFC1-08002BE10318}";
const SYSTEM: &str = "{4D36E97D-E325-11CE-BFC1-08002BE10318}";
const DISK: &str = "{4D36E967-E325-11CE-BFC1-08002BE10318}";

/// Devices that Windows 7 and before look up, with class and service.
const DEVICES: [(&str, &str, &str); 14] = [
    ("Primary_IDE_Channel", HDC, "atapi"),
    ("Secondary_IDE_Channel", HDC, "atapi"),
    ("*PNP0600", HDC, "atapi"),
    ("PCI#CC_0101", HDC, "pciide"),
    ("PCI#VEN_8086&DEV_7010", HDC, "intelide"),
    ("PCI#VEN_8086&DEV_7111", HDC, "intelide"),
    ("PCI#CC_010601", HDC, "msahci"),
    ("PCI#VEN_1000&DEV_0030", SCSI, "LSI_SCSI"),
    ("PCI#VEN_1000&DEV_0030", SCSI, "symmpi"),
    ("PCI#VEN_1000&DEV_0054", SCSI, "LSI_SAS"),
    ("ACPI#VMBus", SYSTEM, "vmbus"),
    ("root#VMBus", SYSTEM, "vmbus"),
    ("VMBUS#{ba6163d9-04a1-4d29-b605-72e2ffb1dc7f}", SCSI, "storvsc"),
    // Whatever drives it.
    ("GenDisk", DISK, "disk"),
];

/// A version of Windows.
struct Version {
    /// `MAJOR.MINOR.BUILD`.
    version: &'static str,
    machine: u16,
    /// Services of disks that it has, with files of their names.
    services: &'static str,
    /// By target, those that start at boot afterwards. Generation 2 is asked of a GPT disk, the
    /// others of an MBR one.
    starts: &'static [(Target, &'static str)],
    /// Targets that are refused, with the rules that do and words to be told.
    refused: &'static [(Target, &'static [&'static str], &'static str)],
}

use Target::{HyperVGen1, HyperVGen2, Kvm, Physical, VirtualBox, Vmware};

const IDE: &str = "intelide pciide atapi";
const NO_GEN2: (Target, &[&str], &str) =
    (HyperVGen2, &["windows.gen2.version"], "does not start on generation 2");
const NO_GEN2_X86: (Target, &[&str], &str) =
    (HyperVGen2, &["windows.gen2.version", "windows.gen2.arch"], "does not start on generation 2");

const XP: Version = Version {
    version: "5.1.2600",
    machine: X86,
    services: IDE,
    starts: &[(HyperVGen1, IDE), (Kvm, IDE), (Vmware, IDE), (VirtualBox, IDE), (Physical, IDE)],
    refused: &[NO_GEN2_X86],
};

const SERVER_2003: Version = Version {
    version: "5.2.3790",
    machine: X64,
    services: "intelide pciide atapi symmpi",
    starts: &[
        (HyperVGen1, IDE),
        (Kvm, IDE),
        (Vmware, "intelide pciide atapi symmpi"),
        (VirtualBox, "intelide pciide atapi symmpi"),
        (Physical, IDE),
    ],
    refused: &[NO_GEN2],
};

/// Without Hyper-V's integration services, which it does not bring along.
const VISTA: Version = Version {
    version: "6.0.6002",
    machine: X86,
    services: "intelide pciide atapi msahci LSI_SAS LSI_SCSI iaStorV megasas",
    starts: &[
        (HyperVGen1, IDE),
        (Kvm, "intelide pciide atapi msahci"),
        (Vmware, "intelide pciide atapi msahci LSI_SAS LSI_SCSI"),
        (VirtualBox, "intelide pciide atapi msahci LSI_SAS LSI_SCSI"),
        (Physical, "intelide pciide atapi msahci LSI_SAS iaStorV megasas"),
    ],
    refused: &[NO_GEN2_X86],
};

const SEVEN: Version = Version {
    version: "6.1.7601",
    machine: X64,
    services: "intelide pciide atapi msahci LSI_SAS LSI_SAS2 LSI_SCSI vmbus storvsc storflt iaStorV \
               megasas MegaSR HpSAMD",
    starts: &[
        (HyperVGen1, "intelide pciide atapi vmbus storvsc storflt"),
        (Kvm, "intelide pciide atapi msahci"),
        (Vmware, "intelide pciide atapi msahci LSI_SAS LSI_SCSI"),
        (VirtualBox, "intelide pciide atapi msahci LSI_SAS LSI_SCSI"),
        (Physical, "intelide pciide atapi msahci LSI_SAS LSI_SAS2 iaStorV megasas MegaSR HpSAMD"),
    ],
    refused: &[NO_GEN2],
};

/// Without a driver for NVMe, which came with 8.1.
const EIGHT: Version = Version {
    version: "6.2.9200",
    machine: X64,
    services: "intelide pciide atapi storahci LSI_SAS LSI_SAS2 vmbus storvsc storflt iaStorV megasas \
               HpSAMD",
    starts: &[
        (HyperVGen1, "intelide pciide atapi vmbus storvsc storflt"),
        (HyperVGen2, "vmbus storvsc storflt"),
        (Kvm, "intelide pciide atapi storahci"),
        (Vmware, "intelide pciide atapi storahci LSI_SAS"),
        (VirtualBox, "intelide pciide atapi storahci LSI_SAS"),
        (Physical, "intelide pciide atapi storahci LSI_SAS LSI_SAS2 iaStorV megasas HpSAMD"),
    ],
    refused: &[],
};

const EIGHT_ONE: Version = Version {
    version: "6.3.9600",
    services: "intelide pciide atapi storahci stornvme LSI_SAS LSI_SAS2 LSI_SAS3 vmbus storvsc \
               storflt iaStorV megasas HpSAMD",
    starts: &[
        (HyperVGen1, "intelide pciide atapi vmbus storvsc storflt"),
        (HyperVGen2, "vmbus storvsc storflt"),
        (Kvm, "intelide pciide atapi storahci stornvme"),
        (Vmware, "intelide pciide atapi storahci stornvme LSI_SAS"),
        (VirtualBox, "intelide pciide atapi storahci stornvme LSI_SAS"),
        (
            Physical,
            "intelide pciide atapi storahci stornvme LSI_SAS LSI_SAS2 LSI_SAS3 iaStorV megasas \
             HpSAMD",
        ),
    ],
    ..EIGHT
};

/// Windows 10, Server 2016, 2019 and 2022.
const TEN: Version = Version {
    version: "10.0.19045",
    services: "intelide pciide atapi storahci stornvme LSI_SAS LSI_SAS2i LSI_SAS3i vmbus storvsc \
               storflt iaStorV megasas megasas2i megasas35i megasr percsas2i percsas3i HpSAMD \
               SmartSAMD",
    starts: &[
        (HyperVGen1, "intelide pciide atapi vmbus storvsc storflt"),
        (HyperVGen2, "vmbus storvsc storflt"),
        (Kvm, "intelide pciide atapi storahci stornvme"),
        (Vmware, "intelide pciide atapi storahci stornvme LSI_SAS"),
        (VirtualBox, "intelide pciide atapi storahci stornvme LSI_SAS"),
        (
            Physical,
            "intelide pciide atapi storahci stornvme LSI_SAS LSI_SAS2i LSI_SAS3i iaStorV megasas \
             megasas2i megasas35i megasr percsas2i percsas3i HpSAMD SmartSAMD",
        ),
    ],
    ..EIGHT
};

/// Windows 11 and Server 2025.
const ELEVEN: Version = Version { version: "10.0.26100", ..TEN };

/// What every Windows has besides, and what is never touched.
const OTHERS: [(&str, u32); 5] =
    [("disk", 0), ("netvsc", 3), ("hyperkbd", 3), ("vmicheartbeat", 3), ("intelppm", 3)];

impl Version {
    fn is_before_eight(&self) -> bool {
        self.version < "6.2" && !self.version.starts_with("10.")
    }

    /// As it is installed on a machine that has none of the controllers.
    fn prepare(&self, system: &mut Registry) {
        for name in self.services.split_whitespace() {
            if self.is_before_eight() {
                system.driver(name, 3);
            } else {
                system.driver(name, 0);
                let over = format!("ControlSet001\\Services\\{name}\\StartOverride");
                system.number(&over, "0", 3);
            }
        }
        OTHERS.iter().for_each(|(name, start)| system.driver(name, *start));
    }

    fn guest(&self, folder: &Path, gpt: bool) -> Option<std::path::PathBuf> {
        let files: Vec<&str> =
            self.services.split_whitespace().chain(["disk", "pciidex"]).collect();
        let spec = Spec {
            system: None,
            version: self.version,
            machine: self.machine,
            gpt,
            drivers: &files,
            files: &[],
        };
        fs::create_dir(folder).unwrap();
        windows(folder, &spec, |system| self.prepare(system))
    }

    /// Plans for every target, and compares what comes of it.
    fn check(&self) {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let mut hives = Vec::new();
        for gpt in [false, true] {
            let place = folder.path().join(if gpt { "gpt" } else { "mbr" });
            let Some(disk) = self.guest(&place, gpt) else { return };
            for (target, ids, words) in
                self.refused.iter().filter(|row| (row.0 == HyperVGen2) == gpt)
            {
                let (machine, plan) = planned(&disk, &AdaptOptions::new(*target));
                let found: Vec<&str> = plan.refusals.iter().map(|one| one.id.as_str()).collect();
                assert_eq!(found, *ids, "{} {}", self.version, target.name());
                assert!(plan.refusals[0].message.contains(words), "{:?}", plan.refusals);
                assert_eq!(machine.changes().unwrap(), []);
            }
            let starts = self.starts.iter().filter(|row| (row.0 == HyperVGen2) == gpt);
            for (target, starts) in starts {
                let (mut machine, plan) = planned(&disk, &AdaptOptions::new(*target));
                assert_eq!(plan.refusals, [], "{} {}", self.version, target.name());
                let hive = place.join(target.name());
                system_to(&mut machine, if gpt { 2 } else { 1 }, &hive);
                hives.push((*target, starts.split_whitespace().collect::<Vec<_>>(), hive));
            }
        }
        let paths: Vec<&Path> = hives.iter().map(|(.., hive)| hive.as_path()).collect();
        let Some(told) = told(&paths) else { return };
        for ((target, starts, _), told) in hives.iter().zip(told) {
            self.compare(&format!("{} {}", self.version, target.name()), starts, &told);
        }
    }

    fn compare(&self, context: &str, starts: &[&str], told: &Told) {
        for name in self.services.split_whitespace() {
            let on = starts.contains(&name);
            let expected = match (on, self.is_before_eight()) {
                (true, true) => (0, None),
                (true, false) => (0, Some(0)),
                (false, true) => (3, None),
                (false, false) => (0, Some(3)),
            };
            assert_eq!(told.services[name], expected, "{context}: {name}");
        }
        for (name, start) in OTHERS {
            assert_eq!(
                told.services[name],
                (start.into(), None),
                "{context}: {name} is left alone"
            );
        }
        let known = |service: &str| service == "disk" || starts.contains(&service);
        let mut devices: Vec<(String, String, String)> = DEVICES
            .into_iter()
            .filter(|(.., service)| self.is_before_eight() && known(service))
            .map(|(id, class, service)| (id.into(), class.into(), service.into()))
            .collect();
        devices.sort();
        assert_eq!(told.devices, devices, "{context}: devices of the loader's table");
        assert_eq!(told.viostor, BTreeMap::new(), "{context}");
    }

    /// The same on KVM with a folder of drivers.
    fn check_with_drivers(&self) {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let drivers = folder.path().join("drivers");
        virtio(&drivers, self.machine);
        let Some(disk) = self.guest(&folder.path().join("guest"), false) else { return };
        let options = AdaptOptions { drivers: vec![drivers], ..AdaptOptions::new(Kvm) };
        let (mut machine, plan) = planned(&disk, &options);
        assert_eq!(plan.refusals, [], "{}", self.version);
        let hive = folder.path().join("hive");
        system_to(&mut machine, 1, &hive);
        let Some(told) = told(&[&hive]).map(|mut all| all.remove(0)) else { return };
        let set = "ControlSet001";
        let service = format!("{set}\\Services\\viostor");
        let text = |path: &str, text: &str| (path.to_owned(), format!("1 {text}"));
        let number = |path: &str, number: u32| (path.to_owned(), format!("4 {number}"));
        let mut expected = vec![
            number(&format!("{service}:Type"), 1),
            number(&format!("{service}:Start"), 0),
            number(&format!("{service}:ErrorControl"), 1),
            text(&format!("{service}:Group"), "SCSI miniport"),
            (format!("{service}:ImagePath"), "2 System32\\drivers\\viostor.sys".to_owned()),
        ];
        let device = "VEN_1AF4&DEV_1001&REV_00";
        if self.is_before_eight() {
            let key = format!("{set}\\Control\\CriticalDeviceDatabase\\PCI#{device}");
            expected.push(text(&format!("{key}:ClassGUID"), SCSI));
            expected.push(text(&format!("{key}:Service"), "viostor"));
        } else {
            let arch = if self.machine == X64 { "amd64" } else { "x86" };
            let label = format!("viostor.inf_{arch}_0000000000000000");
            let database = "DriverDatabase";
            let file = format!("{database}\\DriverInfFiles\\viostor.inf");
            expected.push((format!("{file}:"), format!("7 {label}")));
            expected.push(text(&format!("{file}:Active"), &label));
            expected.push((format!("{file}:Configurations"), "7 inst".to_owned()));
            let id = format!("{database}\\DeviceIds\\PCI\\{device}:viostor.inf");
            expected.push((id, "3 01ff0000".to_owned()));
            let package = format!("{database}\\DriverPackages\\{label}");
            let version = told.viostor[&format!("{package}:Version")].clone();
            // Mark, class; then date and version, which are the package's own.
            assert!(version.starts_with("3 00ff0900000000007be9364d25e3ce11bfc108002be10318"));
            assert_eq!(version.len(), 2 + 96);
            let configuration = format!("{package}\\Configurations\\inst");
            expected.push(number(&format!("{configuration}:ConfigFlags"), 0));
            expected.push(text(&format!("{configuration}:Service"), "viostor"));
            let descriptor = format!("{package}\\Descriptors\\PCI\\{device}:Configuration");
            expected.push(text(&descriptor, "inst"));
        }
        for (path, value) in expected {
            assert_eq!(told.viostor.get(&path), Some(&value), "{}: {path}", self.version);
        }
        let database = told.viostor.keys().any(|path| path.starts_with("DriverDatabase"));
        assert_eq!(database, !self.is_before_eight(), "{}", self.version);
        let (again, second) = {
            let after = folder.path().join("after.raw");
            common::write_out(&machine, &disk, &after);
            planned(&after, &options)
        };
        assert_eq!(
            (second.actions, again.changes().unwrap()),
            (vec![], vec![]),
            "{}",
            self.version
        );
    }
}

/// A driver for one device, as virtio-win has it.
fn virtio(folder: &Path, machine: u16) {
    fs::create_dir(folder).unwrap();
    let inf = format!(
        r#"[Version]
Signature="$WINDOWS NT$"
Class=SCSIAdapter
ClassGUID={SCSI}
Provider="Red Hat"
DriverVer=07/29/2024,100.95.104.26200
[SourceDisksNames]
1="disk"
[SourceDisksFiles]
viostor.sys = 1
[DestinationDirs]
DefaultDestDir = 12
[Manufacturer]
"Red Hat" = VirtIO, NTx86, NTamd64
[VirtIO.NTx86]
"virtio block" = inst, PCI\VEN_1AF4&DEV_1001&REV_00
[VirtIO.NTamd64]
"virtio block" = inst, PCI\VEN_1AF4&DEV_1001&REV_00
[inst]
CopyFiles = @viostor.sys
[inst.Services]
AddService = viostor, 0x00000002, service
[service]
ServiceType = 1
StartType = 0
ErrorControl = 1
ServiceBinary = %12%\viostor.sys
LoadOrderGroup = SCSI miniport
"#
    );
    fs::write(folder.join("viostor.inf"), inf).unwrap();
    let mut program = vec![0; 512];
    program[0x3c] = 0x80;
    program[0x80..0x84].copy_from_slice(b"PE\0\0");
    program[0x84..0x86].copy_from_slice(&machine.to_le_bytes());
    fs::write(folder.join("viostor.sys"), program).unwrap();
}

fn planned(disk: &Path, options: &AdaptOptions) -> (Machine, Plan) {
    let mut machine = machine(disk);
    let mut plan = Plan::default();
    adapt(&mut machine, options, &mut plan).unwrap();
    (machine, plan)
}

/// Takes SYSTEM out of what was planned.
fn system_to(machine: &mut Machine, partition: u32, hive: &Path) {
    let volume = machine.volume(&vdisk_guest::Place::Partition(partition)).unwrap();
    let bytes = volume.fs().read(b"/Windows/System32/config/SYSTEM", 64 << 20).unwrap();
    fs::write(hive, bytes).unwrap();
}

/// By service, `Start` and `StartOverride`.
type Starts = BTreeMap<String, (u64, Option<u64>)>;

/// What hivex tells of a SYSTEM.
struct Told {
    services: Starts,
    /// The loader's table: device, class, service.
    devices: Vec<(String, String, String)>,
    /// Every value that has to do with viostor: `KEY:NAME`, its type and data.
    viostor: BTreeMap<String, String>,
}

const TELL: &str = r#"
import hivex, json, struct, sys

def number(node, name):
    try:
        kind, data = hive.value_value(hive.node_get_value(node, name))
    except RuntimeError:
        return None
    return struct.unpack("<I", data)[0] if kind == 4 and len(data) == 4 else None

def show(value):
    kind, data = hive.value_value(value)
    if kind == 4:
        return f"4 {struct.unpack('<I', data)[0]}"
    if kind in (1, 2, 7):
        return f"{kind} " + data.decode("utf-16-le", "replace").rstrip("\0")
    return f"{kind} {data.hex()}"

def below(node, *path):
    for name in path:
        node = node and hive.node_get_child(node, name)
    return node

all = []
for name in sys.argv[1:]:
    hive = hivex.Hivex(name)
    services, devices, viostor = {}, [], {}
    for node in hive.node_children(below(hive.root(), "ControlSet001", "Services")):
        over = below(node, "StartOverride")
        start = number(node, "Start")
        if start is not None:
            services[hive.node_name(node)] = [start, over and number(over, "0")]
    table = below(hive.root(), "ControlSet001", "Control", "CriticalDeviceDatabase")
    for node in hive.node_children(table) if table else []:
        texts = {hive.value_key(v): show(v)[2:] for v in hive.node_values(node)}
        devices.append([hive.node_name(node), texts.get("ClassGUID", ""), texts.get("Service", "")])
    todo = [(hive.root(), "")]
    while todo:
        node, path = todo.pop()
        for value in hive.node_values(node):
            entry = [path + ":" + hive.value_key(value), show(value)]
            if any("viostor" in one for one in entry) or "DEV_1001" in path:
                viostor[entry[0]] = entry[1]
        for child in hive.node_children(node):
            below_it = hive.node_name(child)
            todo.append((child, path + "\\" + below_it if path else below_it))
    all.append([services, sorted(devices), viostor])
print(json.dumps(all))
"#;

fn told(hives: &[&Path]) -> Option<Vec<Told>> {
    if !Tool::Hivex.there() {
        return None;
    }
    let mut args = vec!["-c", TELL];
    args.extend(hives.iter().map(|hive| arg(hive)));
    let said = must(Tool::Hivex.python(), &args);
    let all: Vec<(Starts, Value, BTreeMap<String, String>)> = serde_json::from_str(&said).unwrap();
    let told = |(services, devices, viostor)| Told {
        services,
        devices: serde_json::from_value(devices).unwrap(),
        viostor,
    };
    Some(all.into_iter().map(told).collect())
}

macro_rules! versions {
    ($($name:ident: $version:expr),* $(,)?) => {$(
        #[test]
        fn $name() {
            $version.check();
            $version.check_with_drivers();
        }
    )*};
}

versions! {
    windows_xp: XP,
    server_2003: SERVER_2003,
    vista_and_server_2008: VISTA,
    windows_7_and_server_2008_r2: SEVEN,
    windows_8_and_server_2012: EIGHT,
    windows_8_1_and_server_2012_r2: EIGHT_ONE,
    windows_10_and_servers_to_2022: TEN,
    windows_11_and_server_2025: ELEVEN,
}

/// What 7 and 10 really have in their registries.
#[test]
fn real_registries() {
    for (spec, target, version, root) in [
        (Spec::SEVEN, HyperVGen1, &SEVEN, 1),
        (Spec::TEN, HyperVGen2, &TEN, 2),
        (Spec::SEVEN, Physical, &SEVEN, 1),
        (Spec::TEN, Physical, &TEN, 2),
    ] {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let files: Vec<&str> =
            version.services.split_whitespace().chain(["vmstorfl", "disk"]).collect();
        let spec = Spec { drivers: &files, ..spec };
        let Some(disk) = windows(folder.path(), &spec, |_| {}) else { return };
        let (mut machine, plan) = planned(&disk, &AdaptOptions::new(target));
        assert_eq!(plan.refusals, []);
        let hive = folder.path().join("hive");
        system_to(&mut machine, root, &hive);
        let Some(told) = told(&[&hive]) else { return };
        let starts = version.starts.iter().find(|row| row.0 == target).unwrap().1;
        for name in starts.split_whitespace() {
            let of_hive = told[0].services.iter().find(|(one, _)| one.eq_ignore_ascii_case(name));
            let (start, over) = of_hive.unwrap_or_else(|| panic!("no {name}")).1;
            assert_eq!((*start, over.unwrap_or(0)), (0, 0), "{} {name}", target.name());
        }
        for (id, class, service) in DEVICES.iter().filter(|row| starts.contains(row.2)) {
            let found = told[0].devices.iter().find(|(one, ..)| one == id);
            if version.is_before_eight() {
                let (_, of_class, by) = found.unwrap_or_else(|| panic!("no {id}"));
                assert!(of_class.eq_ignore_ascii_case(class) && by.eq_ignore_ascii_case(service));
            } else {
                assert_eq!(found, None, "8 and later have no such table");
            }
        }
    }
}

/// XP does not make the services of drivers that no device ever asked for; with their files there
/// they are made, and without them a word is said.
#[test]
fn xp_on_a_disk_that_was_not_ide() {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let spec = Spec {
        system: None,
        version: XP.version,
        machine: X86,
        drivers: &["atapi", "intelide", "pciide", "pciidex"],
        ..Spec::SEVEN
    };
    let Some(disk) = windows(folder.path(), &spec, |system| system.driver("atapi", 3)) else {
        return;
    };
    let (mut machine, plan) = planned(&disk, &AdaptOptions::new(HyperVGen1));
    assert_eq!(plan.refusals, []);
    let hive = folder.path().join("hive");
    system_to(&mut machine, 1, &hive);
    let Some(told) = told(&[&hive]) else { return };
    for name in ["atapi", "intelide", "pciide"] {
        assert_eq!(told[0].services[name], (0, None), "{name}");
    }
    for missing in ["intelide", "pciidex"] {
        let folder = tempfile::tempdir_in("/dev/shm").unwrap();
        let files: Vec<&str> = spec.drivers.iter().copied().filter(|one| *one != missing).collect();
        let spec = Spec { drivers: &files, ..spec };
        let disk = windows(folder.path(), &spec, |system| XP.prepare(system)).unwrap();
        let (_, plan) = planned(&disk, &AdaptOptions::new(HyperVGen1));
        assert_eq!(plan.refusals[0].id, "windows.driver.none", "without {missing}");
        let hint = plan.refusals[0].hint.as_ref().unwrap();
        assert!(hint.contains("pciidex.sys") && hint.contains("driver.cab"), "{hint}");
    }
}
