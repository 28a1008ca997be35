//! The ways of other families: SUSE, Red Hat, Arch, Alpine; and several network adapters.

use std::process::Command;

use tempfile::NamedTempFile;
use vdisk_fixup::{AdaptOptions, Identity, Machine, Plan, StripOptions, Target, adapt, strip};
use vdisk_testkit::VecDisk;
use vdisk_testkit::tools::{arg, must};

use crate::guest::{Guest, UUID, adapted, carry_out, cat, ids, text, tools};

/// As p2v does it: stripped as one that moves, and adapted.
fn moved(image: &std::path::Path, target: Target) -> Plan {
    let disk = std::sync::Arc::new(VecDisk(std::fs::read(image).unwrap()));
    let mut machine = Machine::open(disk, 512).unwrap();
    let mut plan = Plan::default();
    let options = StripOptions { identity: Identity::Keep, ..StripOptions::default() };
    strip(&mut machine, &options, &mut plan).unwrap();
    adapt(&mut machine, &AdaptOptions::new(target), &mut plan).unwrap();
    assert_eq!(plan.refusals, []);
    carry_out(&machine, image);
    plan
}

/// The names in the last archive of an initramfs, as gzip and cpio read it.
fn last_archive(image: &std::path::Path, path: &str) -> String {
    let whole = cat(image, path);
    let head = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let start = whole.windows(head.len()).rposition(|bytes| bytes == head).unwrap();
    let packed = NamedTempFile::new().unwrap();
    std::fs::write(packed.path(), &whole[start..]).unwrap();
    let script = format!("gzip -dc {} | cpio -t --quiet", arg(packed.path()));
    must("sh", &["-c", &script])
}

/// SLES 15: names by the disks' serial numbers, `initrd-VERSION`, wicked with two adapters that a
/// rule of udev names.
#[test]
fn a_suse_with_names_by_id_and_two_adapters() {
    if !tools() || Command::new("zstd").arg("--version").output().is_err() {
        return;
    }
    let guest = Guest::new("sles");
    let disk = "/dev/disk/by-id/scsi-3600508b1001c7e3d";
    guest.file("etc/os-release", "ID=\"sles\"\nID_LIKE=\"suse\"\nPRETTY_NAME=\"SLES 15 SP5\"\n");
    guest.file(
        "etc/fstab",
        &format!(
            "{disk}-part1  /  ext4  acl,user_xattr  1 1\n\
             proc  /proc  proc  defaults  0 0\n\
             debugfs  /sys/kernel/debug  debugfs  noauto  0 0\n"
        ),
    );
    std::fs::rename(
        guest.0.path().join("boot/vmlinuz-6.1"),
        guest.0.path().join("boot/vmlinuz-6.1-default"),
    )
    .unwrap();
    std::fs::rename(
        guest.0.path().join("lib/modules/6.1"),
        guest.0.path().join("lib/modules/6.1-default"),
    )
    .unwrap();
    // The same kernel for who looks into crash dumps, which has no initramfs.
    guest.file("boot/vmlinux-6.1-default.gz", "kernel");
    guest.initramfs(
        "boot/initrd-6.1-default",
        &[
            ("usr/lib/dracut/build-parameter.txt", " --hostonly --hostonly-cmdline"),
            ("usr/lib/modules/6.1-default/kernel/ahci.ko.zst", "ahci"),
            ("etc/cmdline.d/95root-dev.conf", &format!(" root={disk}-part1 rootfstype=ext4\n")),
            ("etc/cmdline.d/95resume.conf", &format!(" resume={disk}-part1\n")),
        ],
        &["zstd", "-q"],
    );
    guest.file(
        "etc/default/grub",
        &format!(
            "GRUB_CMDLINE_LINUX_DEFAULT=\"splash=silent resume={disk}-part1 mitigations=auto\"\n"
        ),
    );
    guest.file(
        "boot/grub2/grub.cfg",
        &format!(
            "linux /boot/vmlinuz-6.1-default root={disk}-part1 splash=silent resume={disk}-part1\n"
        ),
    );
    guest.file("boot/grub2/device.map", &format!("(hd0)\t{disk}\n"));
    guest.file("usr/lib/systemd/systemd-udevd", "");
    for (name, address) in [("eth0", "3c:a8:2a:11:22:33"), ("eth1", "3c:a8:2a:11:22:34")] {
        guest.file(
            &format!("etc/sysconfig/network/ifcfg-{name}"),
            "BOOTPROTO='static'\nSTARTMODE='auto'\nIPADDR='192.168.1.5/24'\n",
        );
        let rules = guest.0.path().join("etc/udev/rules.d/70-persistent-net.rules");
        let old = std::fs::read_to_string(&rules).unwrap_or_default();
        guest.file(
            "etc/udev/rules.d/70-persistent-net.rules",
            &format!(
                "{old}SUBSYSTEM==\"net\", ACTION==\"add\", DRIVERS==\"?*\", \
                 ATTR{{address}}==\"{address}\", ATTR{{dev_id}}==\"0x0\", ATTR{{type}}==\"1\", \
                 KERNEL==\"eth*\", NAME=\"{name}\"\n"
            ),
        );
    }
    let image = guest.disk();
    let path = image.path();
    let plan = moved(path, Target::Kvm);
    let uuid = format!("UUID={UUID}");
    assert!(text(path, "/etc/fstab").starts_with(&format!("{uuid}  /  ext4")));
    assert!(text(path, "/etc/default/grub").contains(&format!("resume={uuid} ")));
    assert!(
        text(path, "/boot/grub2/grub.cfg")
            .contains(&format!("root={uuid} splash=silent resume={uuid}\n"))
    );
    assert_eq!(text(path, "/boot/grub2/device.map"), "");
    let names = last_archive(path, "/boot/initrd-6.1-default");
    for name in [
        "usr/lib/modules/6.1-default/kernel/virtio_scsi.ko",
        "etc/cmdline.d/95root-dev.conf",
        "etc/cmdline.d/95resume.conf",
        "etc/cmdline.d/90-vdisk.conf",
    ] {
        assert!(names.lines().any(|line| line == name), "{name}: {names}");
    }
    // The rule is gone with the old hardware, the names stay with the addresses that p2v keeps.
    assert!(ids(&plan).contains(&"linux.net.udev-rules"), "{plan:?}");
    for (name, address) in [("eth0", "3c:a8:2a:11:22:33"), ("eth1", "3c:a8:2a:11:22:34")] {
        assert_eq!(
            text(path, &format!("/etc/systemd/network/10-vdisk-{name}.link")),
            format!("[Match]\nMACAddress={address}\n\n[Link]\nName={name}\n")
        );
    }
    let told = plan.warnings.iter().find(|one| one.id == "linux.network.name").unwrap();
    let hint = told.hint.as_ref().unwrap();
    assert!(hint.contains("--mac 3c:a8:2a:11:22:33 --mac 3c:a8:2a:11:22:34"), "{hint}");
    assert_eq!(ids(&moved(path, Target::Kvm)), Vec::<&str>::new());
}

/// RHEL 9: boot loader entries with `$tuned`, a rescue kernel, device lists of LVM, keyfiles.
#[test]
fn a_red_hat_with_entries_and_a_rescue_kernel() {
    if !tools() {
        return;
    }
    let guest = Guest::new("rhel");
    let id = "0123456789abcdef0123456789abcdef";
    guest.file("etc/machine-id", &format!("{id}\n"));
    guest.file("etc/fstab", "/dev/sda1 / ext4 defaults 0 0\n");
    guest.file("etc/kernel/cmdline", "root=/dev/sda1 ro crashkernel=1G-4G:192M\n");
    guest.file("etc/lvm/devices/system.devices", "IDTYPE=sys_wwid IDNAME=naa.5\n");
    guest.file("etc/dracut.conf.d/empty.conf", "");
    let dracut = ("usr/lib/dracut/build-parameter.txt", "");
    let ahci = ("usr/lib/modules/6.1/kernel/ahci.ko", "ahci");
    guest.initramfs("boot/initramfs-6.1.img", &[dracut, ahci], &["gzip"]);
    // The rescue image is for all hardware.
    let all = ["virtio_pci", "virtio", "virtio_scsi"]
        .map(|name| (format!("usr/lib/modules/6.1/kernel/{name}.ko"), name));
    let mut rescue = vec![dracut, ahci];
    rescue.extend(all.iter().map(|(path, name)| (path.as_str(), *name)));
    guest.initramfs(&format!("boot/initramfs-0-rescue-{id}.img"), &rescue, &["gzip"]);
    guest.file(&format!("boot/vmlinuz-0-rescue-{id}"), "kernel");
    for (name, file) in [("6.1", "6.1".to_owned()), ("0-rescue", format!("0-rescue-{id}"))] {
        guest.file(
            &format!("boot/loader/entries/{id}-{name}.conf"),
            &format!(
                "title RHEL ({file})\nversion {file}\nlinux /vmlinuz-{file}\n\
                 initrd /initramfs-{file}.img $tuned_initrd\n\
                 options root=/dev/sda1 ro $tuned_params\ngrub_users $grub_users\n"
            ),
        );
    }
    let head = format!("# GRUB Environment Block\nsaved_entry={id}-6.1\nboot_success=0\n");
    guest.file("boot/grub2/grubenv", &format!("{head}{}", "#".repeat(1024 - head.len())));
    guest.file("usr/lib/systemd/systemd-udevd", "");
    for name in ["eno1", "eno2"] {
        guest.file(
            &format!("etc/NetworkManager/system-connections/{name}.nmconnection"),
            &format!(
                "[connection]\nid={name}\ntype=ethernet\ninterface-name={name}\n\n[ethernet]\n"
            ),
        );
    }
    let image = guest.disk();
    let path = image.path();
    let before = text(path, "/boot/grub2/grubenv");
    let plan = moved(path, Target::Kvm);
    for name in ["6.1", "0-rescue"] {
        let entry = text(path, &format!("/boot/loader/entries/{id}-{name}.conf"));
        assert!(entry.contains(&format!("options root=UUID={UUID} ro $tuned_params\n")), "{entry}");
        assert!(entry.contains(".img $tuned_initrd\n"), "{entry}");
    }
    assert_eq!(text(path, "/boot/grub2/grubenv"), before);
    assert!(text(path, "/etc/kernel/cmdline").starts_with(&format!("root=UUID={UUID} ro")));
    assert_eq!(text(path, "/etc/lvm/devices/system.devices"), "");
    let made: Vec<&str> = plan
        .actions
        .iter()
        .filter(|one| one.id == "linux.initramfs.modules")
        .map(|one| one.place.as_str())
        .collect();
    assert_eq!(made, ["/boot/initramfs-6.1.img"], "the rescue image has them: {plan:?}");
    assert!(text(path, "/etc/dracut.conf.d/90-vdisk.conf").contains("virtio_scsi"));
    // Nothing tells which of the two is which.
    let told = plan.warnings.iter().find(|one| one.id == "linux.network.name").unwrap();
    assert!(told.message.contains("eno1, eno2"), "{told:?}");
    assert_eq!(ids(&moved(path, Target::Kvm)), Vec::<&str>::new());
}

/// Their kernels have no version in their names, so the modules in the archive tell it.
#[test]
fn an_arch_and_an_alpine_get_their_modules() {
    if !tools() {
        return;
    }
    for (id, kernel, initramfs, files) in [
        (
            "arch",
            "boot/vmlinuz-linux",
            "boot/initramfs-linux.img",
            [("config", "MODULES=\"ext4\"\n"), ("hooks/udev", "")],
        ),
        (
            "alpine",
            "boot/vmlinuz-lts",
            "boot/initramfs-lts",
            [("sbin/nlplug-findfs", ""), ("etc/mdev.conf", "")],
        ),
    ] {
        let guest = Guest::new(id);
        std::fs::remove_file(guest.0.path().join("boot/vmlinuz-6.1")).unwrap();
        guest.file(kernel, "kernel");
        let mut inside = vec![("usr/lib/modules/6.1/kernel/ahci.ko", "ahci")];
        inside.extend(files);
        guest.initramfs(initramfs, &inside, &["gzip"]);
        let image = guest.disk();
        let plan = adapted(image.path(), Target::Kvm);
        assert_eq!(plan.refusals, [], "{id}");
        let names = last_archive(image.path(), &format!("/{initramfs}"));
        for module in ["virtio", "virtio_pci", "virtio_scsi"] {
            let path = format!("usr/lib/modules/6.1/kernel/{module}.ko");
            assert!(names.lines().any(|line| line == path), "{id}: {path}: {names}");
        }
        assert_eq!(ids(&adapted(image.path(), Target::Kvm)), Vec::<&str>::new(), "{id}");
    }
}

/// Names that the kernel gives anyway are left to it.
#[test]
fn adapters_that_the_kernel_names_keep_their_order() {
    if !tools() {
        return;
    }
    let guest = Guest::new("debian");
    guest.initramfs("boot/initrd.img-6.1", &[("scripts/init-top/udev", "")], &["gzip"]);
    guest.file("lib/systemd/systemd-udevd", "");
    guest.file(
        "etc/network/interfaces",
        "auto eth0 eth1\niface eth0 inet dhcp\niface eth1 inet static\n",
    );
    let image = guest.disk();
    let plan = adapted(image.path(), Target::Vmware);
    assert_eq!(
        text(image.path(), "/etc/systemd/network/10-vdisk.link"),
        "[Match]\nDriver=vmxnet3 e1000 e1000e\n\n[Link]\nNamePolicy=\n"
    );
    assert!(plan.warnings.iter().any(|one| one.message.contains("order")), "{plan:?}");
    assert_eq!(ids(&adapted(image.path(), Target::Vmware)), Vec::<&str>::new());
}

/// What only addresses tell apart is not made to fit all of them.
#[test]
fn two_adapters_that_only_addresses_tell_stay_two() {
    if !tools() {
        return;
    }
    let address = |number| format!("3c:a8:2a:11:22:3{number}");
    let netplan = |number| {
        let mac = address(number);
        format!(
            "    lan{number}:\n      match:\n        macaddress: {mac}\n      set-name: lan{number}\n"
        )
    };
    let both = format!("network:\n  ethernets:\n{}{}", netplan(1), netplan(2));
    let one = format!("network:\n  ethernets:\n{}", netplan(1));
    let network = |number| format!("[Match]\nMACAddress={}\n\n[Network]\n", address(number));
    let (first, second) = (network(1), network(2));
    let wired = "[connection]\ntype=ethernet\n[ethernet]\n";
    let keyfile = |number| format!("{wired}mac-address={}\n", address(number));
    let (key1, key2) = (keyfile(1), keyfile(2));
    const NETPLAN: &str = "etc/netplan/50-cloud-init.yaml";
    const NETWORKD: [&str; 2] =
        ["etc/systemd/network/10-a.network", "etc/systemd/network/20-b.network"];
    const KEYS: [&str; 2] =
        ["etc/NetworkManager/system-connections/a", "etc/NetworkManager/system-connections/b"];
    let bridge = "[Match]\nName=lan\n\n[Network]\nDHCP=yes\n";
    let cases: [(&[(&str, &str)], bool); 8] = [
        (&[(NETPLAN, &both)], true),
        (&[(NETPLAN, &one)], false),
        (&[(NETWORKD[0], &first), (NETWORKD[1], &second)], true),
        (&[(NETWORKD[0], &first)], false),
        (&[(NETWORKD[0], &first), (NETWORKD[1], "[Match]\nName=eno2\n")], true),
        // What is made of the one is no other.
        (
            &[
                (NETWORKD[0], &first),
                (NETWORKD[1], bridge),
                ("etc/systemd/network/lan.netdev", "[NetDev]\nName=lan\nKind=bridge\n"),
            ],
            false,
        ),
        (&[(KEYS[0], &key1), (KEYS[1], &key2)], true),
        (&[(KEYS[0], &key1)], false),
    ];
    for (files, stays) in cases {
        let guest = Guest::new("ubuntu");
        guest.initramfs("boot/initrd.img-6.1", &[("scripts/init-top/udev", "")], &["gzip"]);
        guest.file("lib/systemd/systemd-udevd", "");
        for (path, content) in files {
            guest.file(path, content);
        }
        let image = guest.disk();
        let plan = moved(image.path(), Target::Kvm);
        let told = plan.warnings.iter().any(|one| one.id == "linux.net.mac-pin");
        assert_eq!(told, stays, "{files:?}: {plan:?}");
        assert_eq!(!ids(&plan).contains(&"linux.net.mac-pin"), stays, "{files:?}: {plan:?}");
        let is_same =
            |(path, content): &(&str, &str)| text(image.path(), &format!("/{path}")) == **content;
        assert_eq!(files.iter().all(is_same), stays, "{files:?}: {plan:?}");
    }
}

#[test]
fn more_names_than_a_machine_has_adapters_are_only_told() {
    if !tools() {
        return;
    }
    let guest = Guest::new("ubuntu");
    guest.initramfs("boot/initrd.img-6.1", &[("scripts/init-top/udev", "")], &["gzip"]);
    guest.file("lib/systemd/systemd-udevd", "");
    let mut netplan = "network:\n  ethernets:\n".to_owned();
    for number in 0..10_000_u32 {
        let [_, _, high, low] = number.to_be_bytes();
        netplan.push_str(&format!(
            "    lan{number}:\n      match:\n        macaddress: 52:54:00:00:{high:02x}:{low:02x}\n      \
             set-name: lan{number}\n"
        ));
    }
    guest.file("etc/netplan/all.yaml", &netplan);
    let plan = adapted(guest.disk().path(), Target::Kvm);
    assert!(!ids(&plan).contains(&"linux.network.name"));
    let told = plan.warnings.iter().find(|one| one.id == "linux.network.name").unwrap();
    assert!(told.message.contains("10000"), "{told:?}");
}
