//! `vdisk define`: what is written for a machine, and what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    clippy::single_range_in_vec_init,
    missing_docs
)]

mod common;

use std::path::Path;

use common::{Place, linux_by, windows};
use vdisk_testkit::machines::{DISK, ESP, LINUX, Part, assemble, esp, ext4, linux_tree, programs};
use vdisk_testkit::tools::{arg, must, sha256_file};

/// A Linux that UEFI starts, in `web.vhdx`, `web.vmdk` and `web.img`.
fn linux() -> Option<Place> {
    let place = common::linux("web.img")?;
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

const BIOS_BOOT: &str = "21686148-6449-6E6F-744E-656564454649";

/// A disk `web.img` whose Linux is made by `change`, with partitions of these types before its root.
fn linux_with(before: &[&str], change: impl FnOnce(&Path)) -> Option<Place> {
    if !programs(&["sfdisk", "mke2fs", "mkfs.vfat", "mcopy"]) {
        return None;
    }
    let place = Place::new();
    let parts = tempfile::tempdir().unwrap();
    let tree = parts.path().join("tree");
    linux_tree(&tree);
    change(&tree);
    let root = ext4(parts.path(), 16, &tree);
    let loaders = esp(parts.path(), &["EFI/debian/shimx64.efi"]);
    let rest = parts.path().join("rest");
    std::fs::write(&rest, vec![1; 1 << 20]).unwrap();
    let mut list: Vec<Part<'_>> = before
        .iter()
        .map(|kind| Part { kind, more: "", content: if *kind == ESP { &loaders } else { &rest } })
        .collect();
    list.push(Part { kind: LINUX, more: "", content: &root });
    assemble(&place.path("web.img"), "gpt", DISK, &list);
    Some(place)
}

fn script(place: &Place) -> String {
    let bytes = place.read("web.ps1");
    assert!(bytes.starts_with(&[0xEF, 0xBB, 0xBF]), "Windows PowerShell would misread it");
    String::from_utf8(bytes).unwrap()
}

#[test]
fn secure_boot_is_on_where_a_loader_is_signed() {
    for (loader, on) in [
        ("EFI/debian/shimx64.efi", true),
        ("EFI/opensuse/shim.efi", true),
        ("EFI/systemd/systemd-bootx64.efi", false),
        ("EFI/BOOT/BOOTX64.EFI", false),
    ] {
        let Some(place) = linux_by("web.img", loader) else { return };
        place.run("convert -f raw web.img web.vhdx").ok();
        let ran = place.run("define web.vhdx --target hyper-v-gen2");
        let said = if on { "" } else { "Secure Boot is off" };
        ran.fails(0, &[said]);
        let script = script(&place);
        assert_eq!(script.contains("-EnableSecureBoot On"), on, "{script}");
        assert_eq!(script.contains("-EnableSecureBoot Off"), !on, "{script}");
    }
}

#[test]
fn a_disk_that_starts_both_ways_fits_both_generations() {
    for (before, both) in [(&[BIOS_BOOT, ESP][..], true), (&[ESP][..], false)] {
        let Some(place) = linux_with(before, |_| {}) else { return };
        // As grub-install leaves the first sector, or as it was left by an earlier system.
        let mut disk = place.read("web.img");
        disk[..3].copy_from_slice(&[0xEB, 0x63, 0x90]);
        disk[0x180..0x184].copy_from_slice(b"GRUB");
        place.write("web.img", &disk);
        place.run("convert -f raw web.img web.vhdx").ok();
        place.run("define web.vhdx --target hyper-v-gen2").code(0);
        assert!(script(&place).contains("-Generation 2 "));
        let ran = place.run("define web.vhdx --target hyper-v-gen1 --force");
        if both {
            ran.code(0);
            assert!(script(&place).contains("-Generation 1 "));
        } else {
            ran.fails(7, &["UEFI"]);
        }
    }
}

#[test]
fn the_disk_that_starts_comes_first() {
    let Some(place) = linux() else { return };
    place.raw("data.img", 1 << 20, &[0..512]);
    let ran = place.run("define -f raw data.img web.img --target kvm");
    ran.fails(7, &["data.img", "name the disk first that starts: web.img"]);
    place.run("define -f raw web.img data.img --target kvm").code(0);
}

#[test]
fn names_are_nothing_but_names() {
    // A title for the terminal, and what XML cannot hold.
    let hostname = "a\u{1b}]0;x\u{7}b\n";
    let change = |tree: &Path| std::fs::write(tree.join("etc/hostname"), hostname).unwrap();
    let Some(place) = linux_with(&[ESP], change) else { return };
    let shown = place.run("define -f raw web.img --target kvm --dry-run").ok().out;
    assert!(!shown.contains('\u{1b}') && shown.contains("<name>a]0;xb</name>"), "{shown}");
    place.run("define -f raw web.img --target kvm").code(0);
    if programs(&["xmllint"]) {
        must("xmllint", &["--noout", arg(&place.path("web.xml"))]);
    }
    place.run("convert -f raw web.img web.vhdx").ok();
    std::fs::create_dir(place.path("other")).unwrap();
    place.run("convert -f raw web.img other/web.vhdx").ok();
    place.run("convert -f raw web.img other/b.vhdx").ok();
    place.run("convert -f raw web.img b.vhdx").ok();
    place.run("define web.vhdx ./b.vhdx --target hyper-v-gen2").code(0);
    assert!(script(&place).contains("(Join-Path $Path 'b.vhdx')"));
    let ran = place.run("define web.vhdx other/b.vhdx --target hyper-v-gen2 --force");
    ran.fails(0, &["put other/b.vhdx beside"]);
    assert!(script(&place).contains("(Join-Path $Path 'b.vhdx')"));
    let line = "define web.vhdx other/web.vhdx --target hyper-v-gen2 --force";
    place.run(line).fails(7, &["this name"]);
    let line = "define web.vhdx --target hyper-v-gen2 --force --memory 18446744073709551615";
    place.run(line).fails(64, &["memory"]);
}

#[test]
fn a_definition_does_not_replace_an_image() {
    let Some(place) = linux() else { return };
    std::fs::rename(place.path("web.img"), place.path("web.xml")).unwrap();
    let before = sha256_file(&place.path("web.xml"));
    place.run("define -f raw web.xml --target kvm --force").fails(7, &["input"]);
    assert_eq!(sha256_file(&place.path("web.xml")), before);
}

#[test]
fn no_pc_is_defined_for_another_processor() {
    let change = |tree: &Path| {
        let mut program = [0; 64];
        program[..6].copy_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1]);
        program[18] = 183;
        for name in ["sbin/init", "bin/sh", "bin/busybox", "usr/bin/env", "bin/true"] {
            let path = tree.join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            drop(std::fs::remove_file(&path));
            std::fs::write(path, program).unwrap();
        }
    };
    let Some(place) = linux_with(&[ESP], change) else { return };
    place.run("define -f raw web.img --target kvm").fails(5, &["arm64"]);
}
