//! Linux guests made of a few files: what strip and adapt do to each, judged by e2fsprogs and cpio.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

mod disks;
mod families;
mod guest;
mod tools;

use guest::{Guest, UUID, adapted, cat, ids, stripped, text, tools};
use tempfile::NamedTempFile;
use vdisk_fixup::{Identity, StripOptions, Target};
use vdisk_testkit::tools::{arg, must};

#[test]
fn a_host_only_dracut_gets_its_modules_and_names() {
    if !tools() {
        return;
    }
    let guest = Guest::new("almalinux");
    guest.initramfs(
        "boot/initramfs-6.1.img",
        &[
            ("usr/lib/dracut/build-parameter.txt", "--hostonly"),
            ("usr/lib/modules/6.1/kernel/ahci.ko", "ahci"),
            ("etc/cmdline.d/95root.conf", "root=/dev/sda1 rw\n"),
        ],
        &["xz", "--check=crc32"],
    );
    let entry = "title A\nlinux /boot/vmlinuz-6.1\noptions root=/dev/sda1 ro crashkernel=auto\n";
    guest.file("boot/loader/entries/abc-6.1.conf", entry);
    let head = "# GRUB Environment Block\nkernelopts=root=/dev/sda1 ro\n";
    guest.file("boot/grub2/grubenv", &format!("{head}{}", "#".repeat(1024 - head.len())));
    guest.file("etc/dracut.conf.d/own.conf", "hostonly=yes\n");
    guest.file("etc/modprobe.d/own.conf", "blacklist floppy\nblacklist virtio-scsi\n");
    let image = guest.disk();
    let plan = adapted(image.path(), Target::Kvm);
    assert_eq!(plan.refusals, []);
    // The other disk is not here.
    assert!(plan.warnings.iter().any(|one| one.message.contains("/dev/sdb1")), "{plan:?}");

    let path = image.path();
    assert_eq!(
        text(path, "/etc/fstab"),
        format!("UUID={UUID} / ext4 defaults 0 1\n/dev/sdb1 /data ext4 noauto 0 0\n")
    );
    assert!(
        text(path, "/boot/loader/entries/abc-6.1.conf").contains(&format!("root=UUID={UUID} ro "))
    );
    let environment = text(path, "/boot/grub2/grubenv");
    assert_eq!(environment.len(), 1024);
    assert!(environment.contains(&format!("kernelopts=root=UUID={UUID} ro\n#")));
    assert!(text(path, "/etc/dracut.conf.d/90-vdisk.conf").contains("virtio_scsi"));
    assert_eq!(
        text(path, "/etc/modprobe.d/own.conf"),
        "blacklist floppy\n#blacklist virtio-scsi\n"
    );

    // The second archive, as cpio reads it.
    let whole = cat(path, "/boot/initramfs-6.1.img");
    let second = whole.windows(3).rposition(|bytes| bytes == [0x1f, 0x8b, 8]).unwrap();
    assert_eq!(second % 4, 0);
    let packed = NamedTempFile::new().unwrap();
    std::fs::write(packed.path(), &whole[second..]).unwrap();
    let script = format!("gzip -dc {} | cpio -t --quiet", arg(packed.path()));
    let names = must("sh", &["-c", &script]);
    let names: Vec<&str> = names.lines().collect();
    for name in ["virtio_pci", "virtio", "virtio_scsi"] {
        assert!(
            names.contains(&format!("usr/lib/modules/6.1/kernel/{name}.ko").as_str()),
            "{names:?}"
        );
    }
    assert!(names.contains(&"usr/lib/modules/6.1/modules.alias"));
    assert!(names.contains(&"etc/cmdline.d/95root.conf"));
    assert!(names.contains(&"etc/cmdline.d/90-vdisk.conf"));
    // `lib` is a link there, and the kernel would replace it.
    assert!(names.iter().all(|name| !name.starts_with("lib")), "{names:?}");

    assert_eq!(ids(&adapted(path, Target::Kvm)), Vec::<&str>::new());
}

#[test]
fn a_kernel_without_the_drivers_is_refused_with_the_reason() {
    if !tools() {
        return;
    }
    let guest = Guest::new("debian");
    guest.initramfs("boot/initrd.img-6.1", &[("scripts/init-top/udev", "")], &["gzip"]);
    let image = guest.disk();
    let plan = adapted(image.path(), Target::HyperVGen1);
    let refusal = &plan.refusals[0];
    assert_eq!(refusal.id, "linux.initramfs");
    assert!(refusal.message.contains("kernel 6.1"), "{refusal:?}");
    assert!(refusal.message.contains("no hv_storvsc and no ata_piix"), "{refusal:?}");
    assert!(refusal.hint.as_ref().unwrap().contains("install a kernel"));

    // One whose archive cannot be read is refused too.
    guest.file("boot/initrd.img-6.1", "this is no archive at all");
    assert_eq!(adapted(guest.disk().path(), Target::Kvm).refusals[0].id, "linux.initramfs");
}

/// It knows no UUIDs of file systems: only programs of an initramfs look for those.
#[test]
fn a_kernel_without_an_initramfs_finds_its_root_by_the_partition() {
    if !tools() {
        return;
    }
    let guest = Guest::new("gentoo");
    guest.file(
        "lib/modules/6.1/modules.builtin",
        "kernel/virtio_pci.ko\nkernel/virtio_scsi.ko\nkernel/sd_mod.ko\n",
    );
    guest.file("boot/grub/grub.cfg", "linux /boot/vmlinuz-6.1 root=/dev/sda1 ro\n");
    let image = guest.disk();
    let plan = adapted(image.path(), Target::Kvm);
    assert_eq!(plan.refusals, []);
    let table = must("sfdisk", &["--disk-id", arg(image.path())]);
    let signature = table.trim().trim_start_matches("0x");
    assert_eq!(
        text(image.path(), "/boot/grub/grub.cfg"),
        format!("linux /boot/vmlinuz-6.1 root=PARTUUID={signature}-01 ro\n")
    );
    assert!(text(image.path(), "/etc/fstab").starts_with(&format!("UUID={UUID} /")));
    assert_eq!(ids(&adapted(image.path(), Target::Kvm)), Vec::<&str>::new());
}

#[test]
fn a_copy_forgets_and_a_move_keeps() {
    if !tools() {
        return;
    }
    let guest = Guest::new("ubuntu");
    let id = "0123456789abcdef0123456789abcdef";
    guest.file("etc/machine-id", &format!("{id}\n"));
    guest.file("var/lib/dbus/machine-id", &format!("{id}\n"));
    guest.file("usr/lib/systemd/systemd", "");
    guest.file("etc/hostname", "old\n");
    guest.file("etc/hosts", "127.0.1.1 old.example.org old\n");
    guest.file("etc/udev/rules.d/70-persistent-net.rules", "NAME=eth0\n");
    guest.file(
        "etc/sysconfig/network-scripts/ifcfg-eth0",
        "DEVICE=eth0\nHWADDR=52:54:00:00:00:01\n",
    );
    guest.file("etc/lvm/devices/system.devices", "IDTYPE=sys_wwid\n");
    guest.file("var/lib/systemd/random-seed", "seed");
    guest.file("var/lib/dhcp/dhclient.eth0.leases", "lease {}\n");
    guest.file(&format!("var/log/journal/{id}/system.journal"), "journal");
    guest.file("var/lib/cloud/instances/i-1/sem/x", "");
    guest.file("etc/iscsi/initiatorname.iscsi", "InitiatorName=iqn.1993-08.org.debian:01:abc\n");
    guest.file("etc/salt/minion_id", "old\n");
    guest.file(&format!("boot/loader/entries/{id}-6.1.conf"), "title A\n");
    let dropbear = ("etc/dropbear/dropbear_rsa_host_key", "key");
    guest.initramfs("boot/initrd.img-6.1", &[dropbear], &["gzip"]);
    guest.file("usr/sbin/dropbear", "");
    guest.file("etc/dropbear/initramfs/authorized_keys", "mine");
    let old_keys = [
        "etc/ssh/ssh_host_key",
        "etc/ssh/ssh_host_key.pub",
        "etc/ssh/ssh_host_dsa_key",
        "etc/dropbear/dropbear_rsa_host_key",
        "etc/dropbear/initramfs/dropbear_ed25519_host_key",
        "etc/dropbear-initramfs/dropbear_ecdsa_host_key",
    ];
    old_keys.iter().for_each(|path| guest.file(path, "key"));
    for kind in ["ed25519", "ecdsa"] {
        let path = guest.0.path().join(format!("etc/ssh/ssh_host_{kind}_key"));
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        must("ssh-keygen", &["-q", "-t", kind, "-N", "", "-C", "root@old", "-f", arg(&path)]);
    }

    let keep = StripOptions { identity: Identity::Keep, ..StripOptions::default() };
    let image = guest.disk();
    let plan = stripped(image.path(), &keep);
    assert_eq!(ids(&plan), ["linux.net.udev-rules", "linux.lvm.devices", "linux.net.mac-pin"]);
    assert_eq!(text(image.path(), "/etc/machine-id"), format!("{id}\n"));
    assert_eq!(ids(&stripped(image.path(), &keep)), Vec::<&str>::new());

    let mut options = StripOptions { hostname: Some("new".to_owned()), ..StripOptions::default() };
    options.keep.insert("linux.agent".to_owned());
    let image = guest.disk();
    let path = image.path();
    let plan = stripped(path, &options);
    for id in [
        "linux.dhcp",
        "linux.random-seed",
        "linux.cloud-init",
        "linux.journals",
        "linux.machine-id",
    ] {
        assert!(ids(&plan).contains(&id), "{id}: {plan:?}");
    }
    assert!(!ids(&plan).iter().any(|id| id.starts_with("linux.agent")), "{plan:?}");
    assert_eq!(text(path, "/etc/machine-id"), "");
    assert_eq!(text(path, "/etc/hostname"), "new\n");
    assert_eq!(text(path, "/etc/hosts"), "127.0.1.1 new.example.org new\n");
    assert_eq!(text(path, "/etc/salt/minion_id"), "old\n");
    for gone in ["/var/lib/dbus/machine-id", "/var/lib/systemd/random-seed"] {
        assert_eq!(text(path, gone), "");
    }
    for kind in ["ed25519", "ecdsa"] {
        let name = format!("etc/ssh/ssh_host_{kind}_key.pub");
        let (old, new) = (
            std::fs::read_to_string(guest.0.path().join(&name)).unwrap(),
            text(path, &format!("/{name}")),
        );
        assert_ne!(old, new);
        assert_eq!(old.split(' ').next(), new.split(' ').next());
        assert!(new.ends_with(" root@old\n"), "{new}");
    }
    for path in old_keys {
        assert_eq!(text(image.path(), &format!("/{path}")), "", "{path}");
    }
    assert_eq!(text(image.path(), "/etc/dropbear/initramfs/authorized_keys"), "mine");
    let told = |id: &str, words: &str| {
        plan.warnings.iter().any(|one| one.id == id && one.message.contains(words))
    };
    assert!(told("linux.machine-id", &format!("/boot/loader/entries/{id}-6.1.conf")), "{plan:?}");
    assert!(told("linux.ssh-host-keys", "/boot/initrd.img-6.1"), "{plan:?}");
    // Secrets are not told.
    assert!(!format!("{plan:?}").contains("PRIVATE KEY"));
}

/// What a file system lets go of stays where it stood.
#[test]
fn nothing_of_old_secrets_is_left_on_the_disk() {
    if !tools() {
        return;
    }
    let guest = Guest::new("ubuntu");
    let mut secrets = Vec::new();
    for (number, path) in [
        "var/lib/NetworkManager/secret_key",
        "var/lib/systemd/credential.secret",
        "etc/puppet/ssl/private_keys/old.pem",
        "etc/iscsi/initiatorname.iscsi",
        "etc/ssh/ssh_host_dsa_key",
    ]
    .into_iter()
    .enumerate()
    {
        let secret = format!("{number}-this-is-known-to-nobody-but-the-machine-it-was-made-for");
        guest.file(path, &format!("InitiatorName=iqn.1993-08.org:{secret}\n"));
        secrets.push(secret);
    }
    let id = "0123456789abcdef0123456789abcdef";
    guest.file("etc/machine-id", &format!("{id}\n"));
    guest.file("usr/lib/systemd/systemd", "");
    guest.file("var/log/journal/x/system.journal", "journal");
    secrets.push(id.to_owned());
    // Kept elsewhere, and found by a link.
    let elsewhere = "persist/ssh/ssh_host_ecdsa_key";
    guest.file("persist/ssh/readme", "");
    let link = guest.0.path().join("etc/ssh/ssh_host_ecdsa_key");
    std::os::unix::fs::symlink(format!("/{elsewhere}"), link).unwrap();
    for (kind, path) in [
        ("ed25519", "etc/ssh/ssh_host_ed25519_key"),
        ("rsa", "etc/ssh/ssh_host_rsa_key"),
        ("ecdsa", elsewhere),
    ] {
        let path = guest.0.path().join(path);
        must("ssh-keygen", &["-q", "-t", kind, "-N", "", "-f", arg(&path)]);
        let key = std::fs::read_to_string(&path).unwrap();
        if path.ends_with(elsewhere) {
            // What is no secret is the same in both parts.
            std::fs::remove_file(path.with_extension("pub")).unwrap();
        }
        secrets.extend(key.lines().filter(|line| line.len() == 70).skip(1).map(str::to_owned));
    }
    // A file with another name keeps its bytes there.
    let seed = guest.0.path().join("var/lib/systemd/random-seed");
    std::fs::write(&seed, "seed").unwrap();
    std::fs::hard_link(&seed, guest.0.path().join("other")).unwrap();
    for kind in ["ext4", "ext3"] {
        let image = guest.disk_with(&["-t", kind]);
        let on_disk = || -> Vec<u8> { std::fs::read(image.path()).unwrap() };
        let has =
            |disk: &[u8], text: &String| memchr::memmem::find(disk, text.as_bytes()).is_some();
        let before = on_disk();
        assert!(secrets.iter().all(|secret| has(&before, secret)), "{kind}");
        let plan = stripped(image.path(), &StripOptions::default());
        let after = on_disk();
        let left: Vec<&String> = secrets.iter().filter(|secret| has(&after, secret)).collect();
        assert_eq!(left, Vec::<&String>::new(), "{kind}: {plan:?}");
        assert_eq!(text(image.path(), "/other"), "seed");
        assert!(text(image.path(), &format!("/{elsewhere}")).contains("PRIVATE KEY"));
        let told = plan.warnings.iter().find(|one| one.id == "linux.identity.remains").unwrap();
        for path in ["/var/lib/systemd/random-seed", "/var/log/journal/x"] {
            assert!(told.message.contains(path), "{told:?}");
        }
    }
}
