//! A disk that is fixed up, and what others say of it.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;

use tempfile::{NamedTempFile, TempDir};
use vdisk::{Disk, Format, OpenOptions};
use vdisk_fixup::{
    AdaptOptions, Identity, ImageOf, Machine, MachineDisk, Plan, StripOptions, Target,
    apply_together,
};
use vdisk_testkit::loops::Loop;
use vdisk_testkit::tools::{arg, must, said};

/// The raw disk in a file.
pub(crate) fn raw(path: &Path) -> Arc<dyn Disk> {
    Arc::new(OpenOptions::new().format(Format::Raw).open(path).unwrap())
}

/// A copy of the disk, stripped, and adapted to one target after the other; what was planned.
pub(crate) fn fixed(
    source: &Path,
    targets: &[Target],
    identity: Identity,
) -> (NamedTempFile, Plan) {
    let copy = copy_of(source);
    let mut whole = Plan::default();
    for (index, target) in targets.iter().enumerate() {
        let mut machine = Machine::open(raw(copy.path()), 512).unwrap();
        let mut plan = Plan::default();
        if index == 0 {
            let options = StripOptions { identity, ..StripOptions::default() };
            vdisk_fixup::strip(&mut machine, &options, &mut plan).unwrap();
        }
        vdisk_fixup::adapt(&mut machine, &AdaptOptions::new(*target), &mut plan).unwrap();
        plan.refuse().unwrap();
        assert!(!plan.actions.is_empty());
        let file = File::options().write(true).open(copy.path()).unwrap();
        for change in machine.changes().unwrap() {
            file.write_all_at(&change.bytes, change.offset).unwrap();
        }
        whole.actions.append(&mut plan.actions);
        whole.warnings.append(&mut plan.warnings);
        assert_eq!(again(copy.path(), *target), Vec::<String>::new(), "a second run");
    }
    (copy, whole)
}

/// A copy of the disk, stripped as one that moves, and adapted; what was planned.
pub(crate) fn fixed_with(source: &Path, options: &AdaptOptions) -> (NamedTempFile, Plan) {
    let copy = copy_of(source);
    let mut machine = Machine::open(raw(copy.path()), 512).unwrap();
    let plan = planned(&mut machine, Identity::Keep, options);
    let file = File::options().write(true).open(copy.path()).unwrap();
    for change in machine.changes().unwrap() {
        file.write_all_at(&change.bytes, change.offset).unwrap();
    }
    assert_eq!(again(copy.path(), options.target), Vec::<String>::new(), "a second run");
    (copy, plan)
}

/// Copies of all disks of a machine, stripped as those of another one, and adapted.
pub(crate) fn fixed_together(sources: &[&Path], options: &AdaptOptions) -> Vec<NamedTempFile> {
    let copies: Vec<NamedTempFile> = sources.iter().map(|source| copy_of(source)).collect();
    let open = OpenOptions::new().format(Format::Raw).in_one_session();
    let disk = |copy: &NamedTempFile| {
        let opened: Arc<dyn Disk> = Arc::new(open.open(copy.path()).unwrap());
        MachineDisk::new(opened, 512)
    };
    let mut machine = Machine::of_disks(copies.iter().map(disk).collect()).unwrap();
    let plan = planned(&mut machine, Identity::New, options);
    let images: Vec<ImageOf<'_>> =
        copies.iter().map(|copy| ImageOf { path: copy.path(), open: &open }).collect();
    let (report, told) = apply_together(&images, &machine, &plan, "adapt", false).unwrap().unwrap();
    for (number, copy) in copies.iter().enumerate() {
        let undo = number.checked_sub(1).map_or(&told.undo, |other| &told.others[other].undo);
        assert!(!undo.is_empty(), "each disk is changed");
        std::fs::remove_file(copy.path().with_file_name(undo)).unwrap();
    }
    std::fs::remove_file(report).unwrap();
    copies
}

/// A copy of the disk whose initramfs is packed with LZMA instead of gzip.
pub(crate) fn with_lzma(source: &Path, layout: &str) -> NamedTempFile {
    let copy = copy_of(source);
    let volume = &volumes(layout)[0];
    let (start, len) = (volume.start.to_string(), volume.len.to_string());
    let more = ["--offset", &start, "--sizelimit", &len];
    let device = Loop::attach(copy.path(), &more).expect("a loop device");
    let folder = tempfile::tempdir().unwrap();
    let mounted = vdisk_testkit::loops::Mounted::new(&device.path, folder.path()).expect("a mount");
    let script = "cd $0/boot && f=$(echo initrd.img-*) && gzip -dc $f > /tmp/$$ && \
                  xz --format=lzma -1 -c /tmp/$$ > $f && rm /tmp/$$";
    must("sh", &["-c", script, arg(&mounted.point)]);
    drop(mounted);
    copy
}

fn planned(machine: &mut Machine, identity: Identity, options: &AdaptOptions) -> Plan {
    let mut plan = Plan::default();
    let strip = StripOptions { identity, ..StripOptions::default() };
    vdisk_fixup::strip(machine, &strip, &mut plan).unwrap();
    vdisk_fixup::adapt(machine, options, &mut plan).unwrap();
    plan.refuse().unwrap();
    plan
}

fn copy_of(source: &Path) -> NamedTempFile {
    let copy = NamedTempFile::new_in(source.parent().unwrap()).unwrap();
    must("cp", &["--sparse=always", arg(source), arg(copy.path())]);
    copy
}

/// What a second run would do: nothing, for a machine that keeps its identity.
fn again(image: &Path, target: Target) -> Vec<String> {
    let mut machine = Machine::open(raw(image), 512).unwrap();
    let mut plan = Plan::default();
    let keep = StripOptions { identity: Identity::Keep, ..StripOptions::default() };
    vdisk_fixup::strip(&mut machine, &keep, &mut plan).unwrap();
    vdisk_fixup::adapt(&mut machine, &AdaptOptions::new(target), &mut plan).unwrap();
    plan.actions.iter().map(|action| format!("{} {}", action.id, action.place)).collect()
}

/// What a guest told of itself.
pub(crate) struct Facts(Vec<String>);

impl Facts {
    pub(crate) fn read(log: &str) -> Self {
        let facts = log.lines().filter_map(|line| Some(line.split_once("FACT ")?.1.trim()));
        Self(facts.map(str::to_owned).collect())
    }

    pub(crate) fn all(&self, name: &str) -> Vec<String> {
        let of = |fact: &String| {
            let rest = fact.strip_prefix(name)?;
            (rest.is_empty() || rest.starts_with(' ')).then(|| rest.trim().to_owned())
        };
        self.0.iter().filter_map(of).collect()
    }

    pub(crate) fn one(&self, name: &str) -> String {
        self.all(name).first().cloned().unwrap_or_else(|| panic!("no {name} in {:?}", self.0))
    }
}

/// A volume of a layout: partition, kind, mount point; bytes of its start and length.
struct Volume {
    kind: &'static str,
    point: &'static str,
    start: u64,
    len: u64,
}

fn volumes(layout: &str) -> Vec<Volume> {
    let volume = |kind, point, start: u64, len: u64| Volume {
        kind,
        point,
        start: start * 512,
        len: len * 512,
    };
    match layout {
        "mbr-ext4" | "mbr-lzma" | "mbr-dracut" => vec![volume("ext4", "/", 2048, 4_192_256)],
        "gpt-ext4" => {
            vec![
                volume("ext4", "/", 206_848, 3_983_360),
                volume("vfat", "/boot/efi", 2048, 204_800),
            ]
        }
        _ => vec![
            volume("xfs", "/", 616_448, 3_573_760),
            volume("ext4", "/boot", 206_848, 409_600),
            volume("vfat", "/boot/efi", 2048, 204_800),
        ],
    }
}

/// A loop device over a volume.
fn attached(image: &Path, volume: &Volume) -> Loop {
    let (start, len) = (volume.start.to_string(), volume.len.to_string());
    let more = ["--read-only", "--offset", &start, "--sizelimit", &len];
    Loop::attach(image, &more).expect("a loop device")
}

/// A volume, mounted for reading.
struct Mounted(TempDir, #[allow(dead_code)] Loop);

impl Mounted {
    fn new(image: &Path, volume: &Volume) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let device = attached(image, volume);
        let options = if volume.kind == "xfs" { "ro,nouuid,norecovery" } else { "ro,noload" };
        must("mount", &["-t", volume.kind, "-o", options, arg(&device.path), arg(folder.path())]);
        Self(folder, device)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(self.0.path()).status();
    }
}

/// The public host keys of a disk.
pub(crate) fn host_keys(image: &Path) -> Vec<String> {
    let name = image.file_stem().unwrap().to_str().unwrap();
    let root = Mounted::new(image, &volumes(name)[0]);
    let keys = ["rsa", "ecdsa", "ed25519"].map(|kind| {
        let path = root.0.path().join(format!("etc/ssh/ssh_host_{kind}_key.pub"));
        std::fs::read_to_string(path).unwrap()
    });
    keys.to_vec()
}

/// The files in the last archive of the initramfs, as gzip and cpio unpack it, and its list of
/// modules to load. Debian's `unmkinitramfs` stops at the second archive.
pub(crate) fn initramfs(image: &Path, layout: &str) -> (Vec<String>, String) {
    const HEAD: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];
    let root = Mounted::new(image, &volumes(layout)[0]);
    let boot = std::fs::read_dir(root.0.path().join("boot")).unwrap();
    let mut paths = boot.map(|entry| entry.unwrap().path());
    let packed =
        std::fs::read(paths.find(|path| arg(path).contains("initrd.img-")).unwrap()).unwrap();
    let start = packed.windows(HEAD.len()).rposition(|bytes| bytes == HEAD).unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("last.gz"), &packed[start..]).unwrap();
    let script = format!("cd '{}' && gzip -dc last.gz | cpio -id --quiet", arg(folder.path()));
    must("sh", &["-c", &script]);
    let listed = must("find", &[arg(folder.path()), "-type", "f"]);
    let loaded = std::fs::read_to_string(folder.path().join("conf/modules")).unwrap();
    (listed.lines().map(str::to_owned).collect(), loaded)
}

/// The file systems are sound, and files differ only where the plan says so.
pub(crate) fn judge(source: &Path, image: &Path, layout: &str, plan: &Plan) {
    for volume in volumes(layout) {
        let device = attached(image, &volume);
        let (program, args): (_, &[&str]) = match volume.kind {
            "ext4" => ("e2fsck", &["-fn"]),
            "xfs" => ("xfs_repair", &["-n"]),
            _ => ("fsck.fat", &["-n"]),
        };
        let done = Command::new(program).args(args).arg(&device.path).output().unwrap();
        assert!(done.status.success(), "{layout} {}: {}", volume.point, said(&done));
        if volume.kind == "vfat" {
            continue;
        }
        let (old, new) = (Mounted::new(source, &volume), Mounted::new(image, &volume));
        for path in differing(old.0.path(), new.0.path()) {
            let path = format!("{}{path}", volume.point.trim_end_matches('/'));
            assert!(is_planned(&path, plan), "{layout}: {path} differs, and no action says so");
        }
    }
}

fn is_planned(path: &str, plan: &Plan) -> bool {
    plan.actions.iter().any(|action| {
        path.strip_prefix(&action.place)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/') || rest == ".pub")
    })
}

/// The paths whose kind, permissions, owner, link or content differ, or which only one tree has.
fn differing(old: &Path, new: &Path) -> BTreeSet<String> {
    let list = |root: &Path| -> BTreeSet<String> {
        let format = "/%P\t%y %m %U %G %l\n";
        let listed = must("find", &[arg(root), "-mindepth", "1", "-printf", format]);
        listed.lines().map(str::to_owned).collect()
    };
    let (one, other) = (list(old), list(new));
    let path_of = |line: &String| line.split('\t').next().unwrap().to_owned();
    let mut found: BTreeSet<String> = one.symmetric_difference(&other).map(path_of).collect();
    for line in one.intersection(&other).filter(|line| line.contains("\tf ")) {
        let path = path_of(line);
        let read =
            |root: &Path| std::fs::read(PathBuf::from(format!("{}{path}", arg(root)))).unwrap();
        if read(old) != read(new) {
            found.insert(path);
        }
    }
    found
}
