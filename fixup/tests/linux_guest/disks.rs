//! Guests over several disks: data on another one, a volume group over both.

use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use vdisk::{Format, OpenOptions};
use vdisk_fixup::{
    AdaptOptions, Identity, ImageOf, Machine, MachineDisk, Plan, Report, StripOptions, Target,
    adapt, apply_together, strip, undo_together,
};
use vdisk_testkit::lvm::Lvm;
use vdisk_testkit::machines::{Part, assemble, programs};
use vdisk_testkit::tools::{arg, must, sha256_file};

use crate::guest::{Guest, START, UUID, ids, text, tools};

const MIB: u64 = 1 << 20;
const DATA: &str = "22222222-2222-3333-4444-555555555555";
const SWAP: &str = "33333333-2222-3333-4444-555555555555";
const WHOLE: &str = "44444444-2222-3333-4444-555555555555";

fn raw() -> OpenOptions {
    OpenOptions::new().format(Format::Raw).in_one_session()
}

fn machine(disks: &[PathBuf], names: &[&[&str]], open: &OpenOptions) -> Machine {
    let disk = |(number, path): (usize, &PathBuf)| {
        let names = names.get(number).copied().unwrap_or_default();
        let names = names.iter().map(|name| (*name).to_owned()).collect();
        MachineDisk { names, ..MachineDisk::new(Arc::new(open.open(path).unwrap()), 512) }
    };
    Machine::of_disks(disks.iter().enumerate().map(disk).collect()).unwrap()
}

fn planned(machine: &mut Machine, identity: Identity) -> Plan {
    let mut plan = Plan::default();
    let options = StripOptions { identity, ..StripOptions::default() };
    strip(machine, &options, &mut plan).unwrap();
    adapt(machine, &AdaptOptions::new(Target::Kvm), &mut plan).unwrap();
    plan
}

fn image(folder: &Path, name: &str, mib: u64) -> PathBuf {
    let path = folder.join(name);
    File::create(&path).unwrap().set_len(mib * MIB).unwrap();
    path
}

/// A system on the first disk, with `/var`, swap and `/data` on the second and third.
fn three_disks(folder: &Path, fstab: &str) -> Vec<PathBuf> {
    let guest = Guest::new("debian");
    guest.initramfs("boot/initrd.img-6.1", &[("scripts/init-top/udev", "")], &["gzip"]);
    guest.file("etc/fstab", fstab);
    guest.file("etc/default/grub", "GRUB_CMDLINE_LINUX=\"resume=/dev/sdb2\"\n");
    guest.file("etc/crypttab", "secret /dev/sdc none luks\n");
    let first = folder.join("first.img");
    fs::copy(guest.disk().path(), &first).unwrap();

    let var = tempfile::tempdir().unwrap();
    fs::create_dir_all(var.path().join("lib/dhcp")).unwrap();
    fs::write(var.path().join("lib/dhcp/dhclient.eth0.leases"), "lease {}\n").unwrap();
    let data = image(folder, "data.part", 16);
    must("mke2fs", &["-q", "-t", "ext4", "-U", DATA, "-d", arg(var.path()), arg(&data)]);
    let swap = image(folder, "swap.part", 4);
    must("mkswap", &["-q", "-U", SWAP, arg(&swap)]);
    let part = |content| Part { kind: "83", more: "", content };
    let second = folder.join("second.img");
    assemble(&second, "dos", "0x22222222", &[part(&data), part(&swap)]);
    let third = image(folder, "third.img", 16);
    must("mke2fs", &["-q", "-t", "ext4", "-U", WHOLE, arg(&third)]);
    vec![first, second, third]
}

const FSTAB: &str = "/dev/sda1 / ext4 defaults 0 1\n/dev/sdb1 /var ext4 defaults 0 2\n\
                     /dev/sdb2 none swap sw 0 0\n/dev/sdc /data ext4 defaults 0 2\n";

fn sound(disks: &[PathBuf]) {
    for (disk, start, len) in
        [(&disks[0], START, 64 * MIB), (&disks[1], MIB, 16 * MIB), (&disks[2], 0, 16 * MIB)]
    {
        let mut bytes = vec![0; len as usize];
        File::open(disk).unwrap().read_exact_at(&mut bytes, start).unwrap();
        let volume = tempfile::NamedTempFile::new().unwrap();
        fs::write(volume.path(), bytes).unwrap();
        must("e2fsck", &["-fn", arg(volume.path())]);
    }
}

#[test]
fn names_of_other_disks_become_identities_and_files_there_are_changed() {
    if !tools() || !programs(&["mkswap"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let disks = three_disks(folder.path(), FSTAB);
    let before: Vec<String> = disks.iter().map(|disk| sha256_file(disk)).collect();
    let (report, told) = changed(&disks);
    let plan = &told.plan;
    assert_eq!((told.image.as_str(), told.others.len()), ("first.img", 2));
    // Nothing was to be changed on the third.
    assert_eq!((told.others[0].undo.is_empty(), told.others[1].undo.is_empty()), (false, true));

    assert_eq!(
        text(&disks[0], "/etc/fstab"),
        format!(
            "UUID={UUID} / ext4 defaults 0 1\nUUID={DATA} /var ext4 defaults 0 2\n\
             UUID={SWAP} none swap sw 0 0\nUUID={WHOLE} /data ext4 defaults 0 2\n"
        )
    );
    assert!(text(&disks[0], "/etc/default/grub").contains(&format!("resume=UUID={SWAP}")));
    assert_eq!(text(&disks[0], "/etc/crypttab"), format!("secret UUID={WHOLE} none luks\n"));
    assert_eq!(text(&disks[1], "/lib/dhcp/dhclient.eth0.leases"), "");
    assert!(ids(plan).contains(&"linux.dhcp"), "{plan:?}");
    sound(&disks);
    let again = planned(&mut machine(&disks, &[], &raw()), Identity::Keep);
    assert_eq!(ids(&again), Vec::<&str>::new());

    let open = raw();
    let images: Vec<ImageOf<'_>> = disks.iter().map(|path| ImageOf { path, open: &open }).collect();
    let error = undo_together(&images[..1], &report, false).unwrap_err();
    assert!(error.advice().unwrap().contains("--with second.img --with third.img"), "{error}");
    undo_together(&images, &report, false).unwrap();
    let after: Vec<String> = disks.iter().map(|disk| sha256_file(disk)).collect();
    assert_eq!(before, after);
}

/// Has the guest on the disks become another machine, for KVM.
fn changed(disks: &[PathBuf]) -> (PathBuf, Report) {
    let open = raw();
    let mut machine = machine(disks, &[], &open);
    let plan = planned(&mut machine, Identity::New);
    assert_eq!(plan.refusals, []);
    let images: Vec<ImageOf<'_>> = disks.iter().map(|path| ImageOf { path, open: &open }).collect();
    let done = apply_together(&images, &machine, &plan, "adapt", false);
    done.unwrap_or_else(|error| panic!("{error}")).expect("changes")
}

/// What no order can tell stays, and is told.
#[test]
fn disks_in_another_order_are_not_guessed() {
    if !tools() || !programs(&["mkswap"]) {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let fstab_of = |disks: &[PathBuf], names: &[&[&str]]| {
        let mut machine = machine(disks, names, &raw());
        let plan = planned(&mut machine, Identity::Keep);
        let fstab = plan.actions.iter().find(|one| one.id == "linux.fstab").cloned();
        (fstab.unwrap().after.unwrap(), plan)
    };
    let disks = three_disks(folder.path(), FSTAB);
    // The root is /dev/sda1, and not on the first of these.
    let turned = [disks[1].clone(), disks[0].clone(), disks[2].clone()];
    let (after, plan) = fstab_of(&turned, &[]);
    assert_eq!(after, format!("UUID={UUID} / ext4 defaults 0 1"));
    assert!(plan.warnings.iter().any(|one| one.message.contains("/dev/sdb1")), "{plan:?}");
    // The second has no file system where the guest has one.
    let (after, _) = fstab_of(&[disks[0].clone(), disks[2].clone(), disks[1].clone()], &[]);
    assert_eq!(after, format!("UUID={UUID} / ext4 defaults 0 1"));

    // Names by the disks' serial numbers, which p2v knows of the disks it reads; as SUSE has them.
    let by_id = "/dev/disk/by-id/scsi-A-part1 / ext4 defaults 0 1\n\
                 /dev/disk/by-id/scsi-B-part1 /var ext4 defaults 0 2\n";
    let other = tempfile::tempdir().unwrap();
    let disks = three_disks(other.path(), by_id);
    let names: [&[&str]; 2] =
        [&["/dev/disk/by-id/scsi-A"], &["/dev/disk/by-id/scsi-B", "/dev/disk/by-id/wwn-0x5"]];
    let (after, _) = fstab_of(&disks, &names);
    assert_eq!(
        after,
        format!("UUID={UUID} / ext4 defaults 0 1\nUUID={DATA} /var ext4 defaults 0 2")
    );
}

/// Disk, start and length of a piece, bytes.
type Piece = (usize, u64, u64);

/// The root's file system lies on two disks; these, and the pieces of it.
fn over_two(folder: &Path, guest: &TempDir) -> Option<(Vec<PathBuf>, Vec<Piece>)> {
    let lvm = Lvm::blank(&[40, 41])?;
    lvm.group("vg0");
    lvm.volume("vg0", &["-l", "100%FREE", "-n", "root"]);
    let told = lvm.run("lvs", &["--noheadings", "--segments", "-o", "seg_pe_ranges", "vg0/root"]);
    let mut pieces = Vec::new();
    for line in told.lines().filter(|line| !line.trim().is_empty()) {
        let (device, range) = line.trim().rsplit_once(':').unwrap();
        let (first, last) = range.split_once('-').unwrap();
        let (first, last): (u64, u64) = (first.parse().unwrap(), last.parse().unwrap());
        let disk = (0..2).find(|index| lvm.device(*index) == device).unwrap();
        pieces.push((disk, MIB + first * MIB, (last - first + 1) * MIB));
    }
    assert_eq!(pieces.len(), 2, "{told}");
    let len: u64 = pieces.iter().map(|piece| piece.2).sum();
    let root = image(folder, "root", len / MIB);
    must("mke2fs", &["-q", "-t", "ext4", "-U", UUID, "-d", arg(guest.path()), arg(&root)]);
    let parts = lvm.finish(folder);
    let mut bytes = &fs::read(&root).unwrap()[..];
    for (disk, start, len) in &pieces {
        let (now, later) = bytes.split_at(*len as usize);
        File::options().write(true).open(&parts[*disk]).unwrap().write_all_at(now, *start).unwrap();
        bytes = later;
    }
    let disks = ["a.img", "b.img"].map(|name| folder.join(name));
    for (disk, part) in disks.iter().zip(&parts) {
        let id = format!("0x{:08x}", 17 + part.as_os_str().len());
        assemble(disk, "dos", &id, &[Part { kind: "8e", more: "", content: part }]);
    }
    // On the disks each physical volume begins at 1 MiB.
    let pieces = pieces.into_iter().map(|(disk, start, len)| (disk, start + MIB, len)).collect();
    Some((disks.to_vec(), pieces))
}

#[test]
fn a_root_over_two_disks_is_changed_on_both() {
    if !tools() {
        return;
    }
    let guest = Guest::new("debian");
    guest.initramfs("boot/initrd.img-6.1", &[("scripts/init-top/udev", "")], &["gzip"]);
    guest.file("etc/fstab", "/dev/mapper/vg0-root / ext4 defaults 0 1\n");
    guest.file("etc/machine-id", "0123456789abcdef0123456789abcdef\n");
    // Enough to reach over to the second disk, and then something to change there.
    for number in 0..24 {
        guest.file(&format!("var/cache/{number}"), &"x".repeat(2_000_000));
    }
    let folder = tempfile::tempdir().unwrap();
    let Some((disks, pieces)) = over_two(folder.path(), &guest.0) else { return };
    let volume = || {
        let mut bytes = Vec::new();
        for (disk, start, len) in &pieces {
            let mut piece = vec![0; *len as usize];
            File::open(&disks[*disk]).unwrap().read_exact_at(&mut piece, *start).unwrap();
            bytes.extend(piece);
        }
        let path = folder.path().join("volume");
        fs::write(&path, bytes).unwrap();
        path
    };
    must("e2fsck", &["-fn", arg(&volume())]);

    // One of them alone is not enough.
    let alone = Machine::open(Arc::new(raw().open(&disks[0]).unwrap()), 512).unwrap();
    assert!(alone.inventory().systems.is_empty());
    assert!(!alone.inventory().problems.is_empty());
    drop(alone);

    let (_, told) = changed(&disks);
    let plan = &told.plan;
    assert!(!told.undo.is_empty() && !told.others[0].undo.is_empty(), "both disks: {told:?}");

    let volume = volume();
    must("e2fsck", &["-fn", arg(&volume)]);
    let request = |what: &str| must("debugfs", &["-R", what, arg(&volume)]);
    let id = request("cat /etc/machine-id");
    assert!(id.len() == 33 && !id.starts_with("0123456789abcdef"), "{id}");
    let listed = request("ls -l /boot");
    assert!(listed.contains("initrd.img-6.1"), "{listed}");
    assert!(ids(plan).contains(&"linux.initramfs.modules"), "{plan:?}");
}
