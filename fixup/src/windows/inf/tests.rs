use super::super::guest::{Arch, Nt};
use super::*;

/// After the form of virtio-win's, with what people also write.
const VIOSTOR: &str = r#"
; comment
[Version]
Signature = "$WINDOWS NT$"
Class = SCSIAdapter
ClassGUID = {4D36E97B-E325-11CE-BFC1-08002BE10318}
Provider = %VENDOR%
DriverVer = 07/29/2024,100.95.104.26200 ; newest
CatalogFile = viostor.cat
CatalogFile.NTx86 = viostor32.cat
PnpLockdown = 1

[SourceDisksNames]
1 = %DISK%,,,""
[SourceDisksFiles]
viostor.sys = 1,,
[DestinationDirs]
DefaultDestDir = 12 ; drivers

[Manufacturer]
%VENDOR% = VirtIO, NTamd64, \
    NTamd64.10.0...19041, NTx86
[VirtIO.NTamd64]
%SCSI% = rhelscsi_inst, PCI\VEN_1AF4&DEV_1001&SUBSYS_00021AF4&REV_00, PCI\VEN_1AF4&DEV_1001
[VirtIO.NTamd64.10.0...19041]
%SCSI% = rhelscsi_inst, PCI\VEN_1AF4&DEV_1042&REV_01
[VirtIO.NTx86]
"Quoted = ; name" = rhelscsi_inst, PCI\VEN_1AF4&DEV_1001

[rhelscsi_inst.NT]
CopyFiles = @viostor.sys
[rhelscsi_inst.NTamd64.10.0]
CopyFiles = copied
[copied]
viostor.sys,,,2
..\evil.sys
[rhelscsi_inst.NTamd64.10.0.Services]
AddService = viostor, %SPSVCINST_ASSOCSERVICE%, service, events
[rhelscsi_inst.NTamd64.10.0.HW]
AddReg = hw
[service]
DisplayName = "The ""disk"" service"
ServiceType = %SERVICE_KERNEL_DRIVER%
StartType = 0
ErrorControl = 0x1
ServiceBinary = %12%\viostor.sys
LoadOrderGroup = SCSI miniport
AddReg = params
[params]
HKR, "Parameters", "BusType", 0x00010001, 0x00000001
HKR, "Parameters\PnpInterface", "5", %REG_DWORD%, 1
HKR, "Parameters", "Text", , a text
HKR, "Parameters", "List", 0x00010000, "a", "b"
HKR, "Parameters", "Bytes", 1, 01,ff
HKR, "Parameters", "Gone", 0x4
HKLM, "Software\X", "Y", 0x10001, 7
nonsense
[hw]
HKR, "Interrupt Management",, 0x00000010
HKR, "Interrupt Management\MessageSignaledInterruptProperties", MSISupported, 0x00010001, 1
[Strings]
VENDOR = "Red Hat, Inc."
SCSI = "Red Hat VirtIO SCSI controller"
SPSVCINST_ASSOCSERVICE = 0x00000002
SERVICE_KERNEL_DRIVER = 1
REG_DWORD = 0x00010001
DISK = "100 %% sure"
"#;

fn os(version: &str, arch: Arch) -> Os {
    Os { version: Nt::parse(version).unwrap(), arch, server: false }
}

#[test]
fn a_driver_is_understood() {
    let inf = Inf::parse(VIOSTOR.as_bytes()).unwrap();
    let ten = os("10.0.19045", Arch::Amd64);
    let header = inf.header(ten);
    assert_eq!(header.provider.as_deref(), Some("Red Hat, Inc."));
    assert_eq!(header.catalog.as_deref(), Some("viostor.cat"));
    assert_eq!(header.date, Some((2024, 7, 29)));
    assert_eq!(header.version, Some([100, 95, 104, 26200]));
    let (_, models) = inf.models(ten).unwrap();
    assert_eq!(models.len(), 1);
    assert_eq!(models[0].ids, ["PCI\\VEN_1AF4&DEV_1042&REV_01"]);
    assert_eq!(models[0].description, "Red Hat VirtIO SCSI controller");
    let install = inf.install(&models[0].section, ten).unwrap();
    assert_eq!(install.section, "rhelscsi_inst.ntamd64.10.0");
    assert_eq!(install.files, ["viostor.sys"], "a path is no file of the package");
    let service = &install.services[0];
    assert_eq!((service.name.as_str(), service.kind, service.error_control), ("viostor", 1, 1));
    assert_eq!((service.binary.as_str(), service.drives), ("viostor.sys", true));
    assert_eq!(service.display_name.as_deref(), Some("The \"disk\" service"));
    let values: Vec<_> = service.registry.iter().map(|one| one.data.clone().unwrap()).collect();
    assert_eq!(
        values,
        [
            Data::Dword(1),
            Data::Dword(1),
            Data::Sz("a text".into()),
            Data::MultiSz(vec!["a".into(), "b".into()]),
            Data::binary([1, 0xff]),
            Data::Dword(7),
        ]
    );
    assert_eq!(service.registry[5].root, Root::Other);
    assert_eq!(install.hardware[0].data, None);
    assert_eq!(inf.source_files(ten), [("viostor.sys".to_owned(), String::new())]);
    assert_eq!(inf.put_in("%DISK% %12% %"), "100 %% sure %12% %");
}

#[test]
fn other_windows_get_other_sections() {
    let inf = Inf::parse(VIOSTOR.as_bytes()).unwrap();
    let seven = os("6.1.7601", Arch::Amd64);
    let (old, models) = inf.models(seven).unwrap();
    assert_eq!(models[0].ids.len(), 2);
    assert_eq!(inf.install("rhelscsi_inst", seven).unwrap().section, "rhelscsi_inst.nt");
    let (new, _) = inf.models(os("10.0.19045", Arch::Amd64)).unwrap();
    assert!(new > old);
    let (_, models) = inf.models(os("6.1.7601", Arch::X86)).unwrap();
    assert_eq!(models[0].description, "Quoted = ; name");
    assert_eq!(inf.header(os("6.1.0", Arch::X86)).catalog.as_deref(), Some("viostor32.cat"));
    assert_eq!(inf.models(os("10.0.0", Arch::Arm64)), None);
}

#[test]
fn every_encoding_reads_the_same() {
    let text = VIOSTOR.replace("Red Hat,", "Röd Hat,");
    let utf16 = |mark: [u8; 2], bytes: fn(u16) -> [u8; 2]| -> Vec<u8> {
        mark.into_iter().chain(text.encode_utf16().flat_map(bytes)).collect()
    };
    let latin: Vec<u8> = text.chars().map(|c| u8::try_from(u32::from(c)).unwrap()).collect();
    for bytes in [
        text.as_bytes().to_vec(),
        [&[0xef, 0xbb, 0xbf], text.as_bytes()].concat(),
        utf16([0xff, 0xfe], u16::to_le_bytes),
        utf16([0xfe, 0xff], u16::to_be_bytes),
        latin,
    ] {
        let inf = Inf::parse(&bytes).unwrap();
        let provider = inf.header(os("10.0.0", Arch::Amd64)).provider;
        assert_eq!(provider.as_deref(), Some("Röd Hat, Inc."));
    }
    assert!(Inf::parse(b"[Version]\nClass=x").is_err());
    assert!(Inf::parse(b"").is_err());
}
