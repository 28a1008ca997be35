//! Definitions read by programs that are not ours.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::fs;
use std::path::Path;
use std::process::Command;

use vdisk_define::{Bus, Definition, Firmware, Hypervisor, Mac, Nic, Vm, VmDisk, VmNic, define};
use vdisk_guest::inventory::Family;
use vdisk_testkit::tools::{Tool, arg, must};

/// What would be something else if it were not quoted.
const NAME: &str = "a 'b' \"c\" $(touch x) `d` & <e> \u{2019}; rm |22 %f";
/// Whose bytes in UTF-8 are quotes in the code page of a host that is told nothing.
const FOREIGN: &str = "\u{451}+$(x), #\u{442}\u{412}";

fn machine(extension: &str, firmware: Firmware, bus: Bus, disks: usize) -> Vm {
    let mut vm = Vm::new(NAME, firmware);
    vm.bus = bus;
    vm.family = Some(Family::Linux);
    for number in 0..disks {
        // libvirt takes nothing but paths from the root.
        let folder = if extension == "img" { "/images/" } else { "" };
        let file = format!("{folder}disk {number} '&\" $HOME.{extension}");
        vm.disks.push(VmDisk::new(file, (number as u64 + 1) << 30));
    }
    let mac = Mac([0x52, 0x54, 0, 1, 2, 3]);
    vm.nics = [Nic::Native, Nic::E1000, Nic::E1000e, Nic::Legacy]
        .map(|model| VmNic { model, mac: (model != Nic::E1000).then_some(mac) })
        .to_vec();
    vm
}

/// All of the files for all kinds of machines.
fn all(hypervisor: Hypervisor, extension: &str, buses: &[Bus]) -> Vec<(Vm, Vec<Definition>)> {
    let mut made = Vec::new();
    for firmware in [Firmware::Bios, Firmware::Uefi] {
        for (bus, disks) in buses.iter().flat_map(|bus| [(*bus, 1), (*bus, 4)]) {
            let vm = machine(extension, firmware, bus, disks);
            let files = define(&vm, hypervisor).unwrap();
            made.push((vm, files));
        }
    }
    made
}

#[test]
fn libvirt_accepts_the_domain() {
    if !Tool::Libvirt.there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let buses = [Bus::Ide, Bus::Sata, Bus::VirtioBlock, Bus::VirtioScsi];
    for (vm, files) in all(Hypervisor::Kvm, "img", &buses) {
        let file = folder.path().join("domain.xml");
        fs::write(&file, &files[0].text).unwrap();
        must("virt-xml-validate", &[arg(&file), "domain"]);
        let read = |path: &str| {
            let expression = format!("string({path})");
            let out = must("xmllint", &["--xpath", &expression, arg(&file)]);
            out.trim_end_matches('\n').to_owned()
        };
        assert_eq!(read("/domain/name"), NAME);
        assert_eq!(read("//disk[last()]/source/@file"), vm.disks.last().unwrap().file);
    }
}

#[test]
fn libvirt_accepts_disks_of_large_sectors() {
    if !Tool::Libvirt.there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    for (firmware, bus, fits) in [
        (Firmware::Uefi, Bus::VirtioScsi, true),
        (Firmware::Uefi, Bus::VirtioBlock, true),
        (Firmware::Uefi, Bus::Sata, false),
        (Firmware::Bios, Bus::VirtioScsi, true),
    ] {
        let mut vm = machine("img", firmware, bus, 2);
        vm.disks[1].sector_size = 4096;
        let made = define(&vm, Hypervisor::Kvm);
        assert_eq!(made.is_ok(), fits, "{firmware:?} {bus:?}");
        // No BIOS starts from such a disk.
        let mut first = vm.clone();
        first.disks.reverse();
        let starts = fits && firmware == Firmware::Uefi;
        assert_eq!(define(&first, Hypervisor::Kvm).is_ok(), starts, "{firmware:?} {bus:?}");
        let Ok(files) = made else { continue };
        let file = folder.path().join("domain.xml");
        fs::write(&file, &files[0].text).unwrap();
        must("virt-xml-validate", &[arg(&file), "domain"]);
        let expression = "concat(count(//blockio), string(//disk[2]/blockio/@logical_block_size))";
        assert_eq!(must("xmllint", &["--xpath", expression, arg(&file)]).trim(), "14096");
    }
}

#[test]
fn dissect_reads_vmx_and_ovf() {
    if !Tool::Dissect.there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let buses = [Bus::Ide, Bus::Sata, Bus::LsiScsi, Bus::LsiSas, Bus::PvScsi];
    for (vm, files) in all(Hypervisor::Vmware, "vmdk", &buses) {
        let [vmx, ovf] = &files[..] else { panic!("two files") };
        let path = |end: &str| folder.path().join(format!("vm.{end}"));
        fs::write(path("vmx"), &vmx.text).unwrap();
        fs::write(path("ovf"), &ovf.text).unwrap();
        let script = "import sys\n\
            from dissect.hypervisor.descriptor.vmx import VMX\n\
            from dissect.hypervisor.descriptor.ovf import OVF\n\
            print(len(VMX.parse(open(sys.argv[1]).read()).disks()))\n\
            print('\\n'.join(OVF(open(sys.argv[2])).disks()))\n";
        let out = must("python3", &["-c", script, arg(&path("vmx")), arg(&path("ovf"))]);
        let mut lines = out.lines();
        assert_eq!(lines.next(), Some(&*vm.disks.len().to_string()));
        let named: Vec<&str> = vm.disks.iter().map(|disk| &*disk.file).collect();
        assert_eq!(lines.collect::<Vec<_>>(), named);
        must("xmllint", &["--noout", arg(&path("ovf"))]);
        assert!(vmx.text.contains(
            "displayName = \"a 'b' |22c|22 $(touch x) `d` & <e> \u{2019}; rm |7C22 %f\""
        ));
    }
}

#[test]
fn the_shell_gives_vboxmanage_what_was_meant() {
    let folder = tempfile::tempdir().unwrap();
    let bin = folder.path().join("bin");
    fs::create_dir(&bin).unwrap();
    let stub = "#!/bin/sh\nfor word; do printf '%s\\n' \"$word\"; done >> \"$CALLS\"\n";
    fs::write(bin.join("VBoxManage"), stub).unwrap();
    must("chmod", &["+x", arg(&bin.join("VBoxManage"))]);
    for (vm, files) in all(Hypervisor::VirtualBox, "vmdk", &[Bus::Ide, Bus::Sata]) {
        let (script, calls) = (folder.path().join("vm.sh"), folder.path().join("calls"));
        fs::write(&script, &files[0].text).unwrap();
        let _ = fs::remove_file(&calls);
        let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
        let mut shell = Command::new("sh");
        let status = shell.arg(&script).env("PATH", path).env("CALLS", &calls).status().unwrap();
        assert!(status.success());
        let words = fs::read_to_string(&calls).unwrap();
        let words: Vec<&str> = words.lines().collect();
        assert_eq!(words.iter().filter(|word| **word == NAME).count(), 3 + vm.disks.len() + 4);
        for disk in &vm.disks {
            assert!(words.contains(&&*disk.file), "{}", disk.file);
        }
        assert!(!Path::new("x").exists(), "nothing of a name was run");
    }
}

#[test]
fn powershell_has_no_error_of_grammar() {
    if !Tool::PowershellGrammar.there() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let mut made = all(Hypervisor::HyperV, "vhdx", &[Bus::HyperVScsi]);
    let mut foreign = machine("vhdx", Firmware::Uefi, Bus::HyperVScsi, 1);
    FOREIGN.clone_into(&mut foreign.name);
    let files = define(&foreign, Hypervisor::HyperV).unwrap();
    made.push((foreign, files));
    for (vm, files) in made {
        let file = folder.path().join("vm.ps1");
        fs::write(&file, &files[0].text).unwrap();
        let script = "import sys, tree_sitter, tree_sitter_powershell as p\n\
            source = open(sys.argv[1], 'rb').read()\n\
            mark = source.startswith(b'\\xef\\xbb\\xbf')\n\
            source = source[3:] if mark else source.decode('cp1252', 'replace').encode()\n\
            tree = tree_sitter.Parser(tree_sitter.Language(p.language())).parse(source)\n\
            assert not tree.root_node.has_error, tree.root_node\n\
            def walk(node):\n    \
                if node.type == 'verbatim_string_characters': print(source[node.start_byte:node.end_byte].decode())\n    \
                for child in node.children: walk(child)\n\
            walk(tree.root_node)\n";
        let out = must("python3", &["-c", script, arg(&file)]);
        let strings: Vec<&str> = out.lines().collect();
        let name =
            format!("'{}'", vm.name.replace('\'', "''").replace('\u{2019}', "\u{2019}\u{2019}"));
        assert!(strings.contains(&&*name), "{out}");
        for disk in &vm.disks {
            assert!(strings.contains(&&*format!("'{}'", disk.file.replace('\'', "''"))), "{out}");
        }
    }
}
