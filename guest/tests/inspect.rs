//! Whole disks, made by the programs of the field: what lives on them, against what sfdisk and
//! blkid say of the same disk.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::cast_possible_truncation,
    missing_docs
)]

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use serde_json::{Value, json};
use vdisk_core::Disk;
use vdisk_core::disk::ZeroDisk;
use vdisk_guest::free::{Scope, free_space};
use vdisk_guest::inspect;
use vdisk_testkit::lvm::Lvm;
use vdisk_testkit::machines::{
    DATA, DISK, ESP, LINUX, LVM, Part, assemble, esp, ext4, linux_tree, ntfs, programs,
    windows_tree,
};
use vdisk_testkit::tools::{arg, must};
use vdisk_testkit::{VecDisk, corpus};

/// The inventory as scripts see it.
fn inventory(image: &Path) -> Value {
    let disk = Arc::new(VecDisk(fs::read(image).unwrap()));
    serde_json::to_value(inspect(disk, 512).unwrap()).unwrap()
}

/// What sfdisk and blkid say must be what the inventory says.
fn assert_as_others_see_it(image: &Path, found: &Value) {
    let theirs: Value = serde_json::from_str(&must("sfdisk", &["--json", arg(image)])).unwrap();
    let table = &theirs["partitiontable"];
    let label = table["label"].as_str().unwrap();
    assert_eq!(found["disk"]["partition-table"], if label == "dos" { "mbr" } else { label });
    let id = table["id"].as_str().unwrap().to_lowercase();
    assert_eq!(found["disk"]["disk-id"], id);
    let partitions = table["partitions"].as_array().unwrap();
    let ours = found["partitions"].as_array().unwrap();
    assert_eq!(ours.len(), partitions.len());
    for (ours, theirs) in ours.iter().zip(partitions) {
        let bytes = |key: &str| theirs[key].as_u64().unwrap() * 512;
        assert_eq!(ours["start"], bytes("start"));
        assert_eq!(ours["length"], bytes("size"));
        let kind = theirs["type"].as_str().unwrap().to_lowercase();
        let kind = if label == "dos" { format!("0x{kind:0>2}") } else { kind };
        assert_eq!(ours["type"], kind);
        assert_eq!(ours["active"], theirs["bootable"].as_bool().unwrap_or_default());
        if let Some(uuid) = theirs["uuid"].as_str() {
            assert_eq!(ours["uuid"], uuid.to_lowercase());
        }
        let offset = bytes("start").to_string();
        let size = bytes("size").to_string();
        let said = Command::new("blkid")
            .args(["-p", "-o", "export", "-O", &offset, "-S", &size, arg(image)])
            .output()
            .unwrap();
        let said = String::from_utf8(said.stdout).unwrap();
        let value =
            |key: &str| said.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix('='));
        let kind = match value("TYPE") {
            Some("vfat") => "fat32",
            Some("LVM2_member") => "lvm2",
            Some(kind) => kind,
            None => {
                assert_eq!(ours["filesystem"], Value::Null);
                continue;
            }
        };
        assert_eq!(ours["filesystem"]["type"], kind);
        assert_eq!(ours["filesystem"]["uuid"].as_str(), value("UUID"));
        assert_eq!(ours["filesystem"]["label"].as_str(), value("LABEL"));
    }
}

/// A GPT disk with an EFI system partition and the Windows of the corpus; `change` gets at the
/// NTFS volume before.
fn windows_disk(folder: &Path, change: impl FnOnce(&Path)) -> Option<std::path::PathBuf> {
    let corpus = corpus::folder()?;
    let tools = ["sfdisk", "blkid", "mkntfs", "ntfs-3g", "mkfs.vfat", "mcopy", "fuser", "ntfsinfo"];
    if !programs(&tools) {
        return None;
    }
    let tree = folder.join("windows");
    windows_tree(&corpus, &tree);
    let system = ntfs(folder, 96, &tree)?;
    change(&system);
    let boot = esp(folder, &["EFI/Microsoft/Boot/bootmgfw.efi", "EFI/BOOT/BOOTX64.EFI"]);
    let disk = folder.join("windows.img");
    assemble(
        &disk,
        "gpt",
        DISK,
        &[
            Part { kind: ESP, more: "name=\"EFI system partition\"", content: &boot },
            Part { kind: DATA, more: "", content: &system },
        ],
    );
    Some(disk)
}

#[test]
fn a_windows_on_gpt() {
    let folder = tempfile::tempdir().unwrap();
    let Some(image) = windows_disk(folder.path(), |_| ()) else { return };
    let found = inventory(&image);
    assert_as_others_see_it(&image, &found);
    assert_eq!(found["partitions"][0]["name"], "EFI system partition");
    assert_eq!(found["boot"]["mode"], "uefi");
    assert_eq!(found["boot"]["fallback-loader"], true);
    let ntfs = &found["partitions"][1]["filesystem"];
    assert_eq!(ntfs["state"], "clean");
    let volume = folder.path().join("ntfs.part");
    let said = must("ntfsinfo", &["-m", arg(&volume)]);
    let number = |name: &str| -> u64 {
        let line = said.lines().find_map(|line| line.trim().strip_prefix(name)).unwrap();
        line.split_whitespace().find_map(|word| word.parse().ok()).unwrap()
    };
    let used = number("Volume Size in Clusters:") - number("Free Clusters:");
    assert_eq!(ntfs["used"], used * number("Cluster Size:"));
    let systems = found["systems"].as_array().unwrap();
    assert_eq!(systems.len(), 1);
    let windows = &systems[0];
    let expected = json!({
        "family": "windows",
        "product": "Windows 7 Ultimate",
        "version": "6.1.7601",
        "arch": "x86",
        "hostname": "WKS-WIN732BITA",
        "root-partition": 2,
        "boot-mode": "uefi",
        "time-zone": "Eastern Standard Time",
    });
    for (key, value) in expected.as_object().unwrap() {
        assert_eq!(windows[key], *value, "{key}");
    }
    let sid = windows["identity"]["machine-sid"].as_str().unwrap();
    assert_eq!(sid, "S-1-5-21-1760460187-1592185332-161725925");
    assert_eq!(windows["identity"]["machine-guid"], "61841625-24c4-495b-9080-eccd903b9e6f");
    let more = &windows["windows"];
    assert_eq!(more["folder"], "/Windows");
    assert_eq!(more["domain"]["dns-name"], "internal.greendale.edu");
    let states: Vec<_> =
        more["hives"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["clean"; 4]);
    let tools = &windows["drivers"]["hypervisor-tools"];
    assert!(tools.as_array().unwrap().iter().any(|one| one["hypervisor"] == "vmware"), "{tools}");
    // SAM and SECURITY of the corpus are of two machines.
    let problems = found["problems"].as_array().unwrap();
    assert_eq!(problems.len(), 1, "{problems:?}");
    assert_eq!(problems[0]["volume"], "partition 2");
}

/// Parts of the NTFS volume are in the memory image of what is hibernated.
#[test]
fn a_hibernated_windows() {
    let folder = tempfile::tempdir().unwrap();
    let mounted = folder.path().join("windows");
    fs::create_dir_all(&mounted).unwrap();
    let mut hibernated = vec![0; 65536];
    hibernated[..4].copy_from_slice(b"HIBR");
    fs::write(mounted.join("hiberfil.sys"), hibernated).unwrap();
    let Some(image) = windows_disk(folder.path(), |_| ()) else { return };
    let found = inventory(&image);
    assert_eq!(found["partitions"][1]["filesystem"]["state"], "hibernated");
    assert_eq!(found["systems"][0]["hostname"], "WKS-WIN732BITA");
}

/// One hive in pieces: the others still tell, and what is wrong is said.
#[test]
fn a_damaged_windows() {
    let folder = tempfile::tempdir().unwrap();
    let dirty = |volume: &Path| {
        // Without -d it marks the volume for chkdsk.
        must("ntfsfix", &[arg(volume)]);
    };
    let Some(image) = windows_disk(folder.path(), dirty) else { return };
    let mut bytes = fs::read(&image).unwrap();
    // SAM stands where its header does, and its first bin behind that.
    let sam = fs::read(folder.path().join("windows/Windows/System32/config/SAM")).unwrap();
    let is_sam = |sector: &[u8]| sector == &sam[..512];
    let at = 512 * bytes.chunks(512).position(is_sam).unwrap() + 4096;
    bytes[at..at + 4096].fill(0xff);
    let damaged = Arc::new(VecDisk(bytes));
    let found = serde_json::to_value(inspect(damaged, 512).unwrap()).unwrap();
    assert_eq!(found["partitions"][1]["filesystem"]["state"], "dirty");
    let windows = &found["systems"][0];
    assert_eq!(windows["product"], "Windows 7 Ultimate");
    let states: Vec<_> =
        windows["windows"]["hives"].as_array().unwrap().iter().map(|one| &one["state"]).collect();
    assert_eq!(states, ["clean", "clean", "unreadable", "clean"]);
    // What SAM does not tell, SECURITY does.
    assert_eq!(windows["identity"]["machine-sid"], "S-1-5-21-4070822719-3404542230-2541167049");
    assert!(!found["problems"].as_array().unwrap().is_empty());
}

/// A Linux on an MBR disk that a BIOS starts, not closed in order.
#[test]
fn a_linux_on_mbr() {
    if !programs(&["sfdisk", "blkid", "mke2fs", "debugfs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("linux");
    linux_tree(&tree);
    let root = ext4(folder.path(), 24, &tree);
    must("debugfs", &["-w", "-R", "ssv state 0", arg(&root)]);
    let image = folder.path().join("linux.img");
    let part = Part { kind: "83", more: "bootable", content: &root };
    assemble(&image, "dos", "0xdeadbeef", &[part]);
    let found = inventory(&image);
    assert_as_others_see_it(&image, &found);
    assert_eq!(found["boot"].get("mode"), None, "nothing starts from it");
    assert_eq!(found["partitions"][0]["filesystem"]["state"], "dirty");
    let linux = &found["systems"][0];
    let expected = json!({
        "family": "linux",
        "product": "Debian GNU/Linux 12 (bookworm)",
        "version": "12",
        "arch": "x86_64",
        "hostname": "penguin",
        "root-partition": 1,
        "time-zone": "Europe/Berlin",
        "identity": { "machine-id": "0123456789abcdef0123456789abcdef" },
        "drivers": {
            "hypervisor-tools": [{ "hypervisor": "qemu", "parts": ["/usr/sbin/qemu-ga"] }],
        },
        "linux": {
            "id": "debian",
            "kernels": [
                {
                    "version": "6.1.0-18-amd64",
                    "image": "/boot/vmlinuz-6.1.0-18-amd64",
                    "initramfs": {
                        "path": "/boot/initrd.img-6.1.0-18-amd64",
                        "size": 4,
                        "compression": "zstd",
                    },
                    "modules": true,
                },
                { "version": "6.1.0-9-amd64", "modules": true },
            ],
            "initramfs-makers": ["initramfs-tools"],
            "boot-loaders": ["grub2"],
            "mounts": [{
                "device": "UUID=11111111-2222-3333-4444-555555555555",
                "style": "uuid",
                "mount-point": "/",
                "filesystem": "ext4",
            }],
            "cloud-init": true,
        },
    });
    assert_eq!(*linux, expected);
    assert_eq!(found["problems"], json!([]));

    // With GRUB's first part in the first sector a BIOS starts it.
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(b"\xeb\x63GRUB ", 0).unwrap();
    assert_eq!(inventory(&image)["systems"][0]["boot-mode"], "bios");
}

/// `/boot` on a partition, the root on LVM.
#[test]
fn a_linux_on_lvm() {
    if !programs(&["sfdisk", "blkid", "mke2fs", "pvcreate", "losetup"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("linux");
    linux_tree(&tree);
    let boot_tree = folder.path().join("boot");
    fs::rename(tree.join("boot"), &boot_tree).unwrap();
    fs::create_dir(tree.join("boot")).unwrap();
    let fstab = "/dev/mapper/vg_sys-root / ext4 rw 0 1\nUUID=11111111-2222-3333-4444-555555555555 /boot ext4\n";
    fs::write(tree.join("etc/fstab"), fstab).unwrap();
    let boot = ext4(folder.path(), 8, &boot_tree);
    let boot_part = folder.path().join("boot.part");
    fs::rename(boot, &boot_part).unwrap();
    let root = ext4(folder.path(), 24, &tree);
    let Some(physical) = physical_volume(folder.path(), &root) else { return };
    let image = folder.path().join("linux.img");
    assemble(
        &image,
        "gpt",
        DISK,
        &[
            Part { kind: LINUX, more: "", content: &boot_part },
            Part { kind: LVM, more: "", content: &physical },
        ],
    );
    let found = inventory(&image);
    assert_as_others_see_it(&image, &found);
    assert_eq!(found["problems"], json!([]));
    assert_eq!(found["volumes"][0]["name"], "vg_sys/root");
    assert_eq!(found["volumes"][0]["length"], 24 << 20);
    let linux = &found["systems"][0];
    assert_eq!(linux["root-volume"], "vg_sys/root");
    assert_eq!(linux["hostname"], "penguin");
    let kernel = &linux["linux"]["kernels"][0];
    assert_eq!(kernel["initramfs"]["compression"], "zstd");
    assert_eq!(linux["linux"]["mounts"][0]["style"], "lvm");
    assert_eq!(linux["linux"]["boot-loaders"], json!(["grub2"]));
    junk_in_its_free_space_changes_nothing(&image, &found);
}

fn junk_in_its_free_space_changes_nothing(image: &Path, found: &Value) {
    let disk: Arc<dyn Disk> = Arc::new(VecDisk(fs::read(image).unwrap()));
    let free = free_space(&disk, 512, Scope::Free).unwrap();
    let root = free.volumes.iter().find(|one| one.volume.is_some()).unwrap();
    assert_eq!((root.volume.as_deref(), root.kind.as_str()), (Some("vg_sys/root"), "ext4"));
    assert!(root.kept.is_none() && root.free > 8 << 20, "{root:?}");
    let file = fs::OpenOptions::new().write(true).open(image).unwrap();
    for range in free.ranges.iter() {
        file.write_all_at(&vec![0xA5; (range.end - range.start) as usize], range.start).unwrap();
    }
    assert_eq!(inventory(image), *found);
    // The volume begins 1 MiB into its physical volume.
    let start = found["partitions"][1]["start"].as_u64().unwrap() as usize + (1 << 20);
    let volume = image.with_extension("volume");
    fs::write(&volume, &fs::read(image).unwrap()[start..start + (24 << 20)]).unwrap();
    must("e2fsck", &["-fn", arg(&volume)]);
}

/// A physical volume that holds `vg_sys/root` with the bytes of `root`.
fn physical_volume(folder: &Path, root: &Path) -> Option<std::path::PathBuf> {
    let lvm = Lvm::blank(&[32])?;
    lvm.group("vg_sys");
    lvm.volume("vg_sys", &["-L", "24M", "-n", "root"]);
    let image = lvm.finish(folder).remove(0);
    // The first volume stands where the extents begin: 1 MiB in.
    let file = fs::OpenOptions::new().write(true).open(&image).unwrap();
    file.write_all_at(&fs::read(root).unwrap(), 1 << 20).unwrap();
    Some(image)
}

/// One volume told a thousand times would be opened a thousand times.
#[test]
fn overlapping_partitions_are_looked_into_once() {
    if !programs(&["sfdisk", "mke2fs"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("tree");
    linux_tree(&tree);
    let root = ext4(folder.path(), 16, &tree);
    let image = folder.path().join("disk");
    assemble(&image, "dos", "0x1234abcd", &[Part { kind: "83", more: "", content: &root }]);
    let file = fs::File::options().read(true).write(true).open(&image).unwrap();
    let mut entry = [0; 16];
    file.read_exact_at(&mut entry, 446).unwrap();
    for number in 1..4 {
        file.write_all_at(&entry, 446 + 16 * number).unwrap();
    }
    let found = inventory(&image);
    let partitions = found["partitions"].as_array().unwrap();
    assert_eq!(partitions.len(), 4);
    assert_eq!(partitions.iter().filter(|one| one.get("filesystem").is_some()).count(), 1);
    assert!(found["problems"].to_string().contains("as it overlaps partition 1"), "{found}");
}

#[test]
fn nothing_and_noise() {
    let empty = inspect(Arc::new(ZeroDisk(1 << 20)), 512).unwrap();
    assert_eq!(empty.disk.partition_table, "none");
    assert!(empty.partitions.is_empty() && empty.systems.is_empty() && empty.problems.is_empty());
    assert!(inspect(Arc::new(ZeroDisk(0)), 512).is_ok());
    assert!(inspect(Arc::new(ZeroDisk(1 << 20)), 520).is_err());
}

/// Bytes changed anywhere in what is read: no panic, no hang, and never a failure of the whole.
#[test]
fn damage_anywhere_is_survived() {
    if !programs(&["sfdisk", "mke2fs", "mkfs.vfat", "mcopy"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let tree = folder.path().join("linux");
    linux_tree(&tree);
    let root = ext4(folder.path(), 8, &tree);
    let boot = esp(folder.path(), &["EFI/debian/grubx64.efi"]);
    let image = folder.path().join("linux.img");
    let parts = [
        Part { kind: ESP, more: "", content: &boot },
        Part { kind: LINUX, more: "", content: &root },
    ];
    assemble(&image, "gpt", DISK, &parts);
    let sound = fs::read(&image).unwrap();
    let used: Vec<usize> = sound
        .chunks(512)
        .enumerate()
        .filter(|(_, sector)| sector.iter().any(|byte| *byte != 0))
        .map(|(number, _)| number * 512)
        .collect();
    let mut rng = fastrand::Rng::with_seed(11);
    for round in 0..60 {
        let mut bytes = sound.clone();
        for _ in 0..1 + round % 8 {
            let at = used[rng.usize(..used.len())] + rng.usize(..512);
            bytes[at] = rng.u8(..);
        }
        let found = inspect(Arc::new(VecDisk(bytes)), 512);
        assert!(found.is_ok(), "round {round}: {found:?}");
    }
}
