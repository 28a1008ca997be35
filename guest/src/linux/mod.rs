//! Linux: what its files tell.

mod fstab;
mod kernels;
mod release;

use crate::fs::{FsKind, GuestFs};
use crate::inventory::{Drivers, Family, HypervisorTools, Linux, Mount, System};
use crate::notes::Notes;
use crate::tree::Tree;

pub(crate) use fstab::{mounts, mounts_at};

/// Where Btrfs volumes have the root directory, if not in the default subvolume: themselves, or a
/// subvolume named by the installers of Ubuntu and SUSE, of Debian, of Fedora.
const SUBVOLUMES: [&str; 5] = ["", "/@", "/@rootfs", "/root", "/@/.snapshots/1/snapshot"];

/// The Linux on a volume, and what was wrong with it; none where there is none. `boot` gives the volume that is mounted at `/boot`, where it is another
/// one that is there.
pub(crate) fn inspect<'a>(
    fs: &'a dyn GuestFs,
    boot: impl FnOnce(&[Mount]) -> Option<&'a dyn GuestFs>,
) -> Option<(System, Vec<String>)> {
    let notes = Notes::default();
    let (root, release) = match fs.info().kind {
        FsKind::Ext2 | FsKind::Ext3 | FsKind::Ext4 | FsKind::Xfs => {
            find(fs, &[String::new()], &notes)?
        }
        FsKind::Btrfs => find(fs, &subvolumes(fs, &notes), &notes)?,
        _ => return None,
    };
    let tree = Tree::new(fs, &root, &notes);
    let mounts = tree.text("/etc/fstab").map(|text| fstab::mounts(&text)).unwrap_or_default();
    let boot_fs = boot(&mounts);
    let boot = match boot_fs {
        Some(fs) => kernels::BootFolder { tree: Tree::new(fs, "", &notes), path: "" },
        None => kernels::BootFolder { tree, path: "/boot" },
    };
    let mut system = System::new(Family::Linux);
    system.product = release.product;
    system.version = release.version;
    system.hostname = hostname(&tree);
    system.arch = arch(&tree);
    system.time_zone = time_zone(&tree);
    system.identity.machine_id = machine_id(&tree);
    system.drivers = Drivers { hypervisor_tools: tools(&tree), ..Drivers::default() };
    system.linux = Some(Linux {
        id: release.id,
        id_like: release.id_like,
        root_subvolume: (!root.is_empty()).then(|| root.clone()),
        kernels: kernels::kernels(&tree, &boot),
        initramfs_makers: there(&tree, INITRAMFS_MAKERS),
        boot_loaders: boot_loaders(&tree, &boot),
        mounts,
        cloud_init: CLOUD_INIT.iter().any(|path| tree.has(path)),
    });
    Some((system, notes.into_list()))
}

/// The default subvolume, and those that are named in `/etc/fstab` or by the loader instead.
fn subvolumes(fs: &dyn GuestFs, notes: &Notes) -> Vec<String> {
    let default = notes.found(fs.default_root()).and_then(|path| String::from_utf8(path).ok());
    default.into_iter().chain(SUBVOLUMES.map(str::to_owned)).collect()
}

fn find(fs: &dyn GuestFs, roots: &[String], notes: &Notes) -> Option<(String, release::Release)> {
    roots.iter().find_map(|root| Some((root.clone(), release::read(&Tree::new(fs, root, notes))?)))
}

fn hostname(tree: &Tree<'_>) -> Option<String> {
    let line = |text: String| {
        let mut lines = text.lines().map(str::trim);
        lines.find(|line| !line.is_empty() && !line.starts_with('#')).map(str::to_owned)
    };
    let red_hat = || {
        let text = tree.text("/etc/sysconfig/network")?;
        let value = text.lines().find_map(|line| line.trim().strip_prefix("HOSTNAME="))?;
        Some(value.trim_matches('"').to_owned())
    };
    ["/etc/hostname", "/etc/HOSTNAME"]
        .iter()
        .find_map(|path| line(tree.text(path)?))
        .or_else(red_hat)
        .filter(|name| !name.is_empty())
}

/// The 32 hexadecimal digits; a machine that was never started has none.
fn machine_id(tree: &Tree<'_>) -> Option<String> {
    ["/etc/machine-id", "/var/lib/dbus/machine-id"].iter().find_map(|path| {
        let text = tree.text(path)?;
        let id = text.trim();
        let sound = id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit());
        sound.then(|| id.to_owned())
    })
}

fn time_zone(tree: &Tree<'_>) -> Option<String> {
    let link = tree.link("/etc/localtime");
    let linked = link.as_ref().and_then(|path| Some(path.split_once("zoneinfo/")?.1.to_owned()));
    let line = || tree.text("/etc/timezone").map(|text| text.trim().to_owned());
    linked.or_else(line).filter(|zone| !zone.is_empty())
}

/// Programs that every Linux has one of; its kind of machine is that of the kernel, nearly always.
const PROGRAMS: [&str; 5] = ["/sbin/init", "/bin/sh", "/bin/busybox", "/usr/bin/env", "/bin/true"];

/// The machine of a program's ELF header.
fn arch(tree: &Tree<'_>) -> Option<&'static str> {
    PROGRAMS.iter().find_map(|path| {
        let head = tree.bytes(path, 0, 20)?;
        let [0x7f, b'E', b'L', b'F', class, order, .., low, high] = *head else { return None };
        let machine = [low, high];
        let machine =
            if order == 2 { u16::from_be_bytes(machine) } else { u16::from_le_bytes(machine) };
        match (machine, class) {
            (3, _) => Some("x86"),
            (62, _) => Some("x86_64"),
            (40, _) => Some("arm"),
            (183, _) => Some("arm64"),
            (21, _) => Some("ppc64"),
            (22, 2) => Some("s390x"),
            (243, 2) => Some("riscv64"),
            (258, 2) => Some("loongarch64"),
            _ => None,
        }
    })
}

/// A name, and files any of which shows that what it stands for is there.
type Signs = &'static [(&'static str, &'static [&'static str])];

const INITRAMFS_MAKERS: Signs = &[
    ("initramfs-tools", &["/usr/sbin/update-initramfs"]),
    ("dracut", &["/usr/bin/dracut", "/sbin/dracut"]),
    ("mkinitcpio", &["/usr/bin/mkinitcpio"]),
    ("mkinitfs", &["/sbin/mkinitfs", "/usr/sbin/mkinitfs"]),
    ("booster", &["/usr/bin/booster"]),
    ("mkinitrd", &["/sbin/mkinitrd"]),
];

const CLOUD_INIT: [&str; 2] = ["/usr/bin/cloud-init", "/etc/cloud/cloud.cfg"];

const TOOLS: Signs = &[
    (
        "hyper-v",
        &[
            "/usr/sbin/hv_kvp_daemon",
            "/usr/sbin/hypervkvpd",
            "/usr/lib/hyperv-daemons/hv_kvp_daemon",
            "/usr/sbin/waagent",
            "/usr/bin/waagent",
        ],
    ),
    ("parallels", &["/usr/bin/prltoolsd"]),
    ("qemu", &["/usr/sbin/qemu-ga", "/usr/bin/qemu-ga", "/usr/bin/spice-vdagent"]),
    ("virtualbox", &["/usr/sbin/VBoxService", "/usr/bin/VBoxClient", "/opt/VBoxGuestAdditions"]),
    ("vmware", &["/usr/bin/vmtoolsd", "/usr/sbin/vmtoolsd", "/usr/bin/vmware-toolbox-cmd"]),
    ("xen", &["/usr/sbin/xe-daemon", "/usr/sbin/xe-linux-distribution"]),
];

fn there(tree: &Tree<'_>, signs: Signs) -> Vec<&'static str> {
    let found = signs.iter().filter(|(_, paths)| paths.iter().any(|path| tree.has(path)));
    found.map(|(name, _)| *name).collect()
}

fn tools(tree: &Tree<'_>) -> Vec<HypervisorTools> {
    let found = |(hypervisor, paths): &(&'static str, &[&str])| {
        let parts: Vec<String> =
            paths.iter().filter(|path| tree.has(path)).map(|path| (*path).to_owned()).collect();
        (!parts.is_empty()).then_some(HypervisorTools { hypervisor, parts })
    };
    TOOLS.iter().filter_map(found).collect()
}

/// By their settings, which their programs need at the start; below `/boot` but for LILO's.
const BOOT_LOADERS: &[(&str, &[&str])] = &[
    ("grub2", &["/grub2/grub.cfg", "/grub/grub.cfg", "/efi/EFI/fedora/grub.cfg"]),
    ("grub-legacy", &["/grub/menu.lst", "/grub/grub.conf"]),
    ("systemd-boot", &["/loader/loader.conf", "/efi/loader/loader.conf"]),
    ("extlinux", &["/extlinux/extlinux.conf", "/extlinux.conf", "/syslinux/syslinux.cfg"]),
];

fn boot_loaders(tree: &Tree<'_>, boot: &kernels::BootFolder<'_>) -> Vec<&'static str> {
    let found =
        |paths: &[&str]| paths.iter().any(|path| boot.tree.has(&format!("{}{path}", boot.path)));
    let mut loaders: Vec<_> =
        BOOT_LOADERS.iter().filter(|(_, paths)| found(paths)).map(|(name, _)| *name).collect();
    if tree.has("/etc/lilo.conf") {
        loaders.push("lilo");
    }
    loaders
}
