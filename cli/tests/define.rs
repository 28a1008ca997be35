//! `vdisk define`: what is written for a machine, and what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod common;

use common::{Place, linux_by, windows};

/// A Linux that UEFI starts, in `web.vhdx`, `web.vmdk` and `web.img`.
fn linux() -> Option<Place> {
    let place = linux_by("web.img", "EFI/BOOT/BOOTX64.EFI")?;
    for name in ["web.vhdx", "web.vmdk"] {
        place.run(&format!("convert -f raw web.img {name}")).code(0);
    }
    Some(place)
}

#[test]
fn a_linux_gets_a_machine_that_fits() {
    let Some(place) = linux() else { return };
    let sized = "--memory 3G --cpus 4 --mac 52:54:00:aa:bb:cc";
    place.run(&format!("define web.vhdx --target hyper-v-gen2 {sized}")).code(0);
    let script = String::from_utf8(place.read("web.ps1")).unwrap();
    for words in [
        "-Generation 2 -MemoryStartupBytes 3072MB",
        "-ProcessorCount 4",
        "'MicrosoftUEFICertificateAuthority'",
        "(Join-Path $Path 'web.vhdx') -ControllerType SCSI",
        "'525400AABBCC'",
    ] {
        assert!(script.contains(words), "{words}: {script}");
    }
    place.run("define web.vmdk --target vmware").code(0);
    let vmx = String::from_utf8(place.read("web.vmx")).unwrap();
    for line in [
        "firmware = \"efi\"",
        "scsi0.virtualDev = \"pvscsi\"",
        "scsi0:0.fileName = \"web.vmdk\"",
        "ethernet0.virtualDev = \"vmxnet3\"",
    ] {
        assert!(vmx.lines().any(|found| found == line), "{line}: {vmx}");
    }
    assert!(!place.read("web.ovf").is_empty());
    let shown = place.json("define web.img -f raw --target kvm --dry-run");
    let text = shown["files"][0]["text"].as_str().unwrap();
    assert!(text.contains("<os firmware='efi'>") && text.contains("model='virtio-scsi'"), "{text}");
    assert!(!place.path("web.xml").exists(), "a dry run writes nothing");
}

#[test]
fn what_does_not_fit_is_refused() {
    let Some(place) = linux() else { return };
    place.run("define web.vhdx --target hyper-v-gen1").fails(7, &["UEFI", "hyper-v-gen2"]);
    place.run("define web.vhdx --target virtualbox").fails(5, &["VHD and VMDK", "convert"]);
    place.run("define web.vmdk --target hyper-v-gen2").fails(5, &["web.vmdk", "vhdx"]);
    place.run("convert -f raw web.img web.vhd").code(0);
    place.run("define web.vhd --target hyper-v-gen2").fails(5, &["VHDX only", "convert"]);
    place.run("define web.vhdx --target physical").fails(64, &["v2p"]);
    place.run("define web.vhdx --target hyper-v-gen2 --mac 1:2").fails(64, &["six bytes"]);
    place.run("define web.vhdx --target hyper-v-gen2").code(0);
    place.run("define web.vhdx --target hyper-v-gen2").fails(7, &["web.ps1"]);
    place.run("define web.vhdx --target hyper-v-gen2 --force").code(0);
}

#[test]
fn a_windows_never_has_less_memory_than_it_needs() {
    let Some(place) = windows("old.img") else { return };
    place.run("convert -f raw old.img old.vhd").code(0);
    let ran = place.run("define old.vhd --target hyper-v-gen1 --memory 256M");
    let script = String::from_utf8(place.read("old.ps1")).unwrap();
    let (_, memory) = script.split_once("-MemoryStartupBytes ").unwrap();
    let memory: u64 =
        memory.split_whitespace().next().unwrap().trim_end_matches("MB").parse().unwrap();
    assert!(memory >= 1024, "{script}");
    ran.fails(0, &["raised from 256"]);
    assert!(script.contains("-ControllerType IDE -ControllerNumber 0 -ControllerLocation 0"));
}
