//! Guests that are tied to their hardware, started on other hardware.
//!
//! By default one disk is shown to start where it was built, not to start elsewhere, and to start
//! there once it was stripped and adapted. `VDISK_BOOT=all` starts all disks on all targets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod linux;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use linux::{Facts, fixed, judge};
use vdisk_fixup::{AdaptOptions, Identity, Machine, Plan, Target};
use vdisk_testkit::boot::{self, Bus, Firmware, Hardware};
use vdisk_testkit::machines::programs;

/// The adapter that the guests are tied to, and another.
const OLD: &str = "52:54:00:aa:bb:01";
const NEW: &str = "52:54:00:cc:dd:02";
const LIMIT: Duration = Duration::from_secs(600);

fn all() -> bool {
    std::env::var("VDISK_BOOT").is_ok_and(|what| what == "all")
}

fn hardware(firmware: Firmware, bus: Bus, network: &'static str) -> Hardware {
    Hardware { firmware, bus, network, mac: NEW }
}

fn firmware(layout: &str) -> Firmware {
    if layout.starts_with("mbr") { Firmware::Bios } else { Firmware::Uefi }
}

/// Starts a machine with these disks, which must come up whole; what it tells.
fn starts(disks: &[&Path], hardware: &Hardware) -> Facts {
    let log = boot::run(disks, hardware, &[], LIMIT);
    let tail = log.get(log.len().saturating_sub(3000)..).unwrap_or(&log);
    assert!(log.contains("FACT end"), "it did not start on {hardware:?}:\n{tail}");
    let facts = Facts::read(&log);
    assert_eq!(facts.one("network"), "up lan0 10.0.2.77/24", "{hardware:?}");
    assert_eq!(facts.one("ssh"), "active", "{hardware:?}");
    assert_eq!(facts.one("failed"), "", "{hardware:?}");
    facts
}

#[test]
fn the_old_machine_starts() {
    if !boot::possible() {
        return;
    }
    let layouts: &[&str] = if all() { &["mbr-ext4", "gpt-ext4", "gpt-xfs"] } else { &["mbr-ext4"] };
    for layout in layouts {
        let firmware = match firmware(layout) {
            Firmware::Bios => Firmware::Bios,
            _ => Firmware::UefiWithEntry,
        };
        let old = Hardware { firmware, bus: Bus::Ahci, network: "e1000", mac: OLD };
        let facts = starts(&[&boot::guest(layout)], &old);
        assert_eq!(facts.one("machine-id"), "0123456789abcdef0123456789abcdef");
    }
}

#[test]
fn it_does_not_start_elsewhere() {
    if !boot::possible() {
        return;
    }
    let image = boot::guest("mbr-ext4");
    let log = boot::run(
        &[&image],
        &hardware(Firmware::Bios, Bus::VirtioScsi, "virtio-net-pci"),
        &["does not exist.  Dropping to a shell"],
        LIMIT,
    );
    assert!(log.contains("/dev/sda1 does not exist"), "{log}");
    if all() {
        // No loader is found at all.
        let uefi = hardware(Firmware::Uefi, Bus::VirtioScsi, "virtio-net-pci");
        let log =
            boot::run(&[&boot::guest("gpt-ext4")], &uefi, &["Shell>", "UEFI Interactive"], LIMIT);
        assert!(!log.contains("Linux version"), "{log}");
    }
}

#[test]
fn a_copy_starts_on_kvm() {
    if !boot::possible() {
        return;
    }
    let layouts: &[&str] = if all() { &["mbr-ext4", "gpt-ext4", "gpt-xfs"] } else { &["mbr-ext4"] };
    let buses: &[Bus] = if all() { &[Bus::VirtioScsi, Bus::VirtioBlk] } else { &[Bus::VirtioScsi] };
    for layout in layouts {
        let source = boot::guest(layout);
        let (image, plan) = fixed(&source, &[Target::Kvm], Identity::New);
        judge(&source, image.path(), layout, &plan);
        for bus in buses {
            let facts =
                starts(&[image.path()], &hardware(firmware(layout), *bus, "virtio-net-pci"));
            is_another_machine(&facts, &source);
        }
    }
}

#[test]
fn a_move_starts_on_vmware() {
    if !all() || !boot::possible() {
        return;
    }
    for layout in ["mbr-ext4", "gpt-ext4", "gpt-xfs"] {
        let source = boot::guest(layout);
        let (image, plan) = fixed(&source, &[Target::Vmware], Identity::Keep);
        judge(&source, image.path(), layout, &plan);
        // Debian's OVMF sees no disk behind QEMU's pvscsi; SeaBIOS does. VMware has SATA, too.
        let bus = if layout.starts_with("mbr") { Bus::Pvscsi } else { Bus::Ahci };
        let facts = starts(&[image.path()], &hardware(firmware(layout), bus, "vmxnet3"));
        assert_eq!(facts.one("machine-id"), "0123456789abcdef0123456789abcdef");
    }
}

#[test]
fn and_back_to_a_physical_machine() {
    if !all() || !boot::possible() {
        return;
    }
    for layout in ["mbr-ext4", "gpt-ext4", "gpt-xfs"] {
        let source = boot::guest(layout);
        let (image, plan) = fixed(&source, &[Target::Kvm, Target::Physical], Identity::Keep);
        judge(&source, image.path(), layout, &plan);
        for (bus, network) in [(Bus::Ahci, "e1000e"), (Bus::Nvme, "e1000")] {
            starts(&[image.path()], &hardware(firmware(layout), bus, network));
        }
    }
}

fn kvm() -> Hardware {
    hardware(Firmware::Bios, Bus::VirtioScsi, "virtio-net-pci")
}

/// Shows that the guest of a layout starts on its old machine, not on another, where it says `words`
/// or nothing in twice the time, and there once it was adapted with `options`.
fn is_needed(layout: &str, words: Option<&str>, options: &AdaptOptions) -> Plan {
    let source = boot::guest(layout);
    let old = Hardware { bus: Bus::Ahci, network: "e1000", mac: OLD, ..kvm() };
    let begun = Instant::now();
    starts(&[&source], &old);
    let limit = if words.is_some() { LIMIT } else { begun.elapsed() * 2 };
    let last_words: Vec<&str> = words.into_iter().chain(["FACT"]).collect();
    let log = boot::run(&[&source], &kvm(), &last_words, limit);
    assert!(log.contains("Linux version") && !log.contains("FACT"), "{layout}: {log}");
    assert!(words.is_none_or(|words| log.contains(words)), "{layout}: {log}");
    let (image, plan) = linux::fixed_with(&source, options);
    judge(&source, image.path(), layout, &plan);
    starts(&[image.path()], &kvm());
    plan
}

/// Nothing can be put behind its initramfs, and it is not made anew unless that is allowed.
#[test]
fn a_guest_whose_tools_are_run_starts_on_kvm() {
    if !all() || !boot::possible() || !programs(&["bwrap"]) {
        return;
    }
    let mut options = AdaptOptions::new(Target::Kvm);
    let mut machine = Machine::open(linux::raw(&boot::guest("mbr-lzma")), 512).unwrap();
    let mut plan = Plan::default();
    vdisk_fixup::adapt(&mut machine, &options, &mut plan).unwrap();
    assert!(plan.refusals[0].message.contains("LZMA"), "{plan:?}");
    assert!(plan.refusals[0].hint.as_ref().unwrap().contains("--run-guest-tools"), "{plan:?}");

    options.run_guest_tools = true;
    let plan = is_needed("mbr-lzma", Some("/dev/sda1 does not exist"), &options);
    let made = plan.actions.iter().find(|one| one.id == "linux.initramfs.made").unwrap();
    assert!(made.after.as_ref().unwrap().contains("virtio_scsi"), "{made:?}");
}

#[test]
fn a_guest_of_dracut_starts_on_kvm() {
    if !all() || !boot::possible() {
        return;
    }
    let options = AdaptOptions::new(Target::Kvm);
    // Its systemd waits for the disk without a word.
    let plan = is_needed("mbr-dracut", None, &options);
    let settings = plan.actions.iter().find(|one| one.id == "linux.initramfs.settings").unwrap();
    assert_eq!(settings.place, "/etc/dracut.conf.d/90-vdisk.conf");

    // The same, packed so that only dracut itself can make it anew.
    if !programs(&["bwrap", "xz"]) {
        return;
    }
    let packed = linux::with_lzma(&boot::guest("mbr-dracut"), "mbr-dracut");
    let options = AdaptOptions { run_guest_tools: true, ..options };
    let (image, plan) = linux::fixed_with(packed.path(), &options);
    assert!(plan.actions.iter().any(|one| one.id == "linux.initramfs.made"), "{plan:?}");
    starts(&[image.path()], &kvm());
}

/// Its root is a logical volume over both disks.
#[test]
fn a_guest_over_two_disks_starts_on_kvm() {
    if !all() || !boot::possible() {
        return;
    }
    let first = boot::guest("lvm-two");
    let sources = [first.clone(), first.with_file_name("lvm-two-b.raw")];
    let sources: Vec<&Path> = sources.iter().map(PathBuf::as_path).collect();
    let old = Hardware { bus: Bus::Ahci, network: "e1000", mac: OLD, ..kvm() };
    // The kernel looks at both disks at once, and now and then the second is the first: then
    // /dev/sdb1 is another partition.
    assert!((0..3).any(|_| starts(&sources, &old).one("srv") == "second"));
    let words = "/dev/mapper/vg0-root does not exist";
    let log = boot::run(&sources, &kvm(), &[words], LIMIT);
    assert!(log.contains(words), "{log}");

    let images = linux::fixed_together(&sources, &AdaptOptions::new(Target::Kvm));
    let images: Vec<&Path> = images.iter().map(|image| image.path()).collect();
    for bus in [Bus::VirtioScsi, Bus::VirtioBlk] {
        let facts = starts(&images, &Hardware { bus, ..kvm() });
        assert_eq!(facts.one("root"), "/dev/mapper/vg0-root");
        assert_eq!(facts.one("srv"), "second");
        assert_ne!(facts.one("machine-id"), "0123456789abcdef0123456789abcdef");
    }
}

/// QEMU has no VMBus: that the modules are in the initramfs, and in order, is what can be shown.
#[test]
fn hyper_v_finds_its_modules() {
    if !boot::possible() {
        return;
    }
    let source = boot::guest("mbr-ext4");
    let (image, plan) = fixed(&source, &[Target::HyperVGen1], Identity::Keep);
    judge(&source, image.path(), "mbr-ext4", &plan);
    let (names, loaded) = linux::initramfs(image.path(), "mbr-ext4");
    for module in ["hv_vmbus", "hv_storvsc", "scsi_transport_fc", "ata_piix", "hyperv-keyboard"] {
        assert!(names.iter().any(|name| name.ends_with(&format!("/{module}.ko"))), "{module}");
    }
    let place = |name: &str| loaded.lines().position(|line| line.trim() == name);
    assert!(place("hv_storvsc").is_some() && place("ata_piix").is_some(), "{loaded}");
    assert!(place("ahci").is_some(), "{loaded}");
}

/// Everything that tells machines apart is another than on the source.
fn is_another_machine(facts: &Facts, source: &Path) {
    let id = facts.one("machine-id");
    assert_eq!(id.len(), 32, "{id}");
    assert_ne!(id, "0123456789abcdef0123456789abcdef");
    let keys = facts.all("key");
    let old = linux::host_keys(source);
    assert_eq!((keys.len(), old.len()), (3, 3));
    for key in keys {
        assert!(!old.iter().any(|old| old.contains(&key)), "{key} is an old key");
    }
}
