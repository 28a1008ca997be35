//! Volumes of every kind, made and filled by the programs of the field.
#![allow(dead_code)]

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use vdisk_core::Disk;
use vdisk_guest::fs::{FileKind, GuestFs, open as open_fs};
use vdisk_testkit::VecDisk;
use vdisk_testkit::tools::{arg, must, said, skip};

/// The family of programs that makes a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Make {
    Ext,
    Xfs,
    Btrfs,
    Ntfs,
    Fat,
}

/// A volume to make.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Volume {
    pub(crate) tool: Make,
    /// What `GuestFs::info` should call it.
    pub(crate) kind: &'static str,
    pub(crate) mib: u64,
    pub(crate) args: &'static [&'static str],
}

pub(crate) const VOLUMES: &[Volume] = &[
    Volume { tool: Make::Ext, kind: "ext2", mib: 24, args: &["-t", "ext2", "-b", "1024"] },
    Volume { tool: Make::Ext, kind: "ext3", mib: 32, args: &["-t", "ext3", "-b", "4096"] },
    Volume { tool: Make::Ext, kind: "ext4", mib: 40, args: &["-t", "ext4"] },
    Volume { tool: Make::Ext, kind: "ext4", mib: 32, args: &["-t", "ext4", "-b", "1024"] },
    Volume {
        tool: Make::Ext,
        kind: "ext4",
        mib: 40,
        args: &["-t", "ext4", "-b", "2048", "-O", "inline_data,^has_journal"],
    },
    Volume {
        tool: Make::Ext,
        kind: "ext4",
        mib: 40,
        args: &["-t", "ext4", "-I", "128", "-O", "^metadata_csum,^64bit,^flex_bg"],
    },
    Volume { tool: Make::Xfs, kind: "xfs", mib: 320, args: &[] },
    Volume { tool: Make::Xfs, kind: "xfs", mib: 320, args: &["-b", "size=1024", "-m", "rmapbt=1"] },
    Volume { tool: Make::Xfs, kind: "xfs", mib: 320, args: &["-m", "crc=0"] },
    Volume { tool: Make::Btrfs, kind: "btrfs", mib: 128, args: &[] },
    Volume { tool: Make::Ntfs, kind: "ntfs", mib: 24, args: &[] },
    Volume { tool: Make::Ntfs, kind: "ntfs", mib: 24, args: &["-c", "2048"] },
    Volume { tool: Make::Ntfs, kind: "ntfs", mib: 24, args: &["-c", "512"] },
    Volume { tool: Make::Fat, kind: "fat12", mib: 12, args: &["-F", "12", "-s", "8"] },
    Volume { tool: Make::Fat, kind: "fat16", mib: 24, args: &["-F", "16"] },
    Volume { tool: Make::Fat, kind: "fat32", mib: 40, args: &["-F", "32", "-s", "1"] },
];

impl Volume {
    pub(crate) fn label(&self) -> &'static str {
        "VDISKTEST"
    }

    /// XFS of version 4, which new kernels do not mount.
    pub(crate) fn is_old_xfs(&self) -> bool {
        self.args.contains(&"crc=0")
    }

    /// Whether the links of the tree come to it as links.
    pub(crate) fn has_links(&self) -> bool {
        matches!(self.tool, Make::Ext | Make::Xfs | Make::Btrfs)
    }

    /// What the programs put there by themselves.
    pub(crate) fn own_names(&self) -> &'static [&'static str] {
        match self.tool {
            Make::Ext => &["/lost+found"],
            _ => &[],
        }
    }
}

/// Makes the volume, with the tree `source` in it; `false` where a program for it is missing.
pub(crate) fn make(volume: &Volume, image: &Path, source: Option<&Path>) -> bool {
    let file = fs::File::create(image).unwrap();
    file.set_len(volume.mib << 20).unwrap();
    drop(file);
    let label = volume.label();
    let (program, own): (&str, &[&str]) = match volume.tool {
        Make::Ext => ("mke2fs", &["-q", "-F", "-L", label]),
        Make::Xfs => ("mkfs.xfs", &["-q", "-f", "-L", label]),
        Make::Btrfs => ("mkfs.btrfs", &["-q", "-f", "-L", label]),
        Make::Ntfs => ("mkntfs", &["-q", "-F", "-p", "0", "-H", "255", "-S", "63", "-L", label]),
        Make::Fat => ("mkfs.fat", &["-n", label]),
    };
    if !there(program) {
        return false;
    }
    let mut args = [own, volume.args].concat();
    let proto = image.with_extension("proto");
    if let (true, Some(source)) = (volume.is_old_xfs(), source) {
        fs::write(&proto, prototype(source)).unwrap();
        args.extend(["-p", arg(&proto)]);
    }
    if let (Make::Ext | Make::Btrfs, Some(source)) = (volume.tool, source) {
        args.extend([if volume.tool == Make::Ext { "-d" } else { "--rootdir" }, arg(source)]);
    }
    args.push(arg(image));
    must(program, &args);
    match (volume.tool, source) {
        (Make::Xfs, _) if volume.is_old_xfs() => true,
        (Make::Xfs | Make::Ntfs, Some(source)) => copy_into(volume.tool, image, source),
        (Make::Fat, Some(source)) => copy_by_mtools(image, source),
        _ => true,
    }
}

/// Whether a program is there; says that a test was left out where not.
pub(crate) fn there(program: &str) -> bool {
    let found = Command::new("sh").args(["-c", &format!("command -v {program}")]).output().unwrap();
    if !found.status.success() {
        skip(program, "it is not installed");
    }
    found.status.success()
}

/// Mounts the volume, or says what is missing.
pub(crate) fn mounted(tool: Make, image: &Path, read_only: bool, work: impl FnOnce(&Path)) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let (program, options) = match tool {
        Make::Ntfs => ("ntfs-3g", if read_only { "ro" } else { "rw" }),
        _ => ("mount", if read_only { "loop,ro" } else { "loop" }),
    };
    let needed = if tool == Make::Ntfs { "ntfs-3g" } else { "loop" };
    if tool == Make::Ntfs && !there("ntfs-3g") {
        return false;
    }
    let done = Command::new(program)
        .args(["-o", options, arg(image), arg(folder.path())])
        .output()
        .unwrap();
    if !done.status.success() {
        skip(needed, &said(&done));
        return false;
    }
    work(folder.path());
    must("umount", &[arg(folder.path())]);
    if tool == Make::Ntfs {
        // FUSE lets go of the image a moment after the unmount.
        while Command::new("fuser").arg(arg(image)).output().is_ok_and(|o| o.status.success()) {
            std::thread::sleep(std::time::Duration::from_millis(10));
        }
    }
    true
}

/// The tree as `mkfs.xfs -p` takes it.
fn prototype(source: &Path) -> String {
    fn walk(path: &Path, text: &mut String) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_str().unwrap();
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            if kind.is_symlink() {
                let target = fs::read_link(&path).unwrap();
                *text += &format!("{name} l--777 0 0 {}\n", target.display());
            } else if kind.is_dir() {
                *text += &format!("{name} d--755 0 0\n");
                walk(&path, text);
                *text += "$\n";
            } else {
                *text += &format!("{name} ---644 0 0 {}\n", path.display());
            }
        }
    }
    let mut text = "/\n0 0\nd--755 0 0\n".to_owned();
    walk(source, &mut text);
    text + "$\n"
}

fn copy_into(tool: Make, image: &Path, source: &Path) -> bool {
    mounted(tool, image, false, |target| {
        must("cp", &["-a", &format!("{}/.", arg(source)), arg(target)]);
        if tool == Make::Ntfs {
            // It would keep links in a form that only it knows.
            fs::remove_dir_all(target.join("links")).unwrap();
            fs::create_dir(target.join("links")).unwrap();
        }
    })
}

fn copy_by_mtools(image: &Path, source: &Path) -> bool {
    if !there("mcopy") {
        return false;
    }
    for entry in fs::read_dir(source).unwrap() {
        let path = entry.unwrap().path();
        if path.file_name().unwrap() != "links" {
            must("mcopy", &["-s", "-i", arg(image), arg(&path), "::/"]);
        }
    }
    must("mmd", &["-i", arg(image), "::/links"]);
    true
}

/// A tree with what file systems keep in different ways: empty and small files, files of many
/// blocks, holes, long names, a directory of many names, links.
pub(crate) fn fill(root: &Path) {
    let mut rng = fastrand::Rng::with_seed(7);
    fs::create_dir_all(root.join("many")).unwrap();
    fs::create_dir_all(root.join("deep/er/and/deeper")).unwrap();
    fs::create_dir_all(root.join("links")).unwrap();
    fs::write(root.join("small.txt"), "small\n").unwrap();
    fs::write(root.join("empty"), "").unwrap();
    let mut bytes = |len: usize| -> Vec<u8> { (0..len).map(|_| rng.u8(..)).collect() };
    fs::write(root.join("medium.bin"), bytes(70_001)).unwrap();
    fs::write(root.join("big.bin"), bytes(3 << 20)).unwrap();
    fs::write(root.join("deep/er/and/deeper/Größe_und_Länge.txt"), bytes(700)).unwrap();
    fs::write(root.join(format!("deep/{}", "n".repeat(200))), bytes(5000)).unwrap();
    for number in 0..300 {
        fs::write(root.join(format!("many/file_number_{number}")), bytes(number)).unwrap();
    }
    let hole = fs::File::create(root.join("hole")).unwrap();
    std::os::unix::fs::FileExt::write_all_at(&hole, b"end", 600_000).unwrap();
    let link = |target: &str, name: &str| {
        std::os::unix::fs::symlink(target, root.join("links").join(name)).unwrap();
    };
    link("../small.txt", "relative");
    link("/small.txt", "absolute");
    link("/../../../../passwd", "outside");
    link("circle", "circle");
    link(&"long/".repeat(40), "long");
}

/// What stands at each path: `dir`, `link TARGET`, or the digest of a file.
pub(crate) type Tree = BTreeMap<String, String>;

pub(crate) fn tree_on_host(root: &Path) -> Tree {
    fn walk(root: &Path, path: &Path, tree: &mut Tree) {
        for entry in fs::read_dir(path).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("/{}", path.strip_prefix(root).unwrap().to_str().unwrap());
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let node = if kind.is_symlink() {
                format!("link {}", fs::read_link(&path).unwrap().display())
            } else if kind.is_dir() {
                walk(root, &path, tree);
                "dir".to_owned()
            } else {
                digest(&fs::read(&path).unwrap())
            };
            tree.insert(name, node);
        }
    }
    let mut tree = Tree::new();
    walk(root, root, &mut tree);
    tree
}

pub(crate) fn tree_of(guest: &dyn GuestFs) -> Tree {
    fn walk(guest: &dyn GuestFs, path: &str, tree: &mut Tree) {
        for entry in guest.read_dir(path.as_bytes()).unwrap() {
            let name = String::from_utf8(entry.name).unwrap();
            let path = format!("{}/{name}", path.trim_end_matches('/'));
            let stat = guest.stat(path.as_bytes()).unwrap_or_else(|e| panic!("{path}: {e}"));
            let node = match stat.kind {
                FileKind::Directory => {
                    walk(guest, &path, tree);
                    "dir".to_owned()
                }
                FileKind::Symlink => {
                    let target = guest.read_link(path.as_bytes()).unwrap();
                    format!("link {}", String::from_utf8(target).unwrap())
                }
                FileKind::File => {
                    let content = guest.read(path.as_bytes(), u64::MAX).unwrap();
                    assert_eq!(content.len() as u64, stat.size, "{path}");
                    digest(&content)
                }
                FileKind::Special => "special".to_owned(),
            };
            tree.insert(path, node);
        }
    }
    let mut tree = Tree::new();
    walk(guest, "/", &mut tree);
    tree
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("{} {}", bytes.len(), vdisk_testkit::tools::sha256(bytes))
}

pub(crate) fn assert_same_tree(found: &Tree, expected: &Tree, context: &str) {
    for (path, node) in expected {
        assert_eq!(found.get(path), Some(node), "{context}: {path}");
    }
    for path in found.keys() {
        assert!(expected.contains_key(path), "{context}: {path} should not be there");
    }
}

/// The image as a disk in memory.
pub(crate) fn disk(image: &Path) -> Arc<dyn Disk> {
    Arc::new(VecDisk(fs::read(image).unwrap()))
}

pub(crate) fn open(image: &Path) -> Box<dyn GuestFs> {
    open_fs(disk(image)).unwrap().expect("it is recognised")
}

/// The file system's own checker finds nothing.
pub(crate) fn judge(tool: Make, image: &Path, context: &str) {
    let (program, args): (&str, &[&str]) = match tool {
        Make::Ext => ("e2fsck", &["-fn"]),
        Make::Xfs => ("xfs_repair", &["-n", "-f"]),
        Make::Btrfs => ("btrfs", &["check"]),
        Make::Ntfs => ("ntfsfix", &["-n"]),
        Make::Fat => ("fsck.fat", &["-n"]),
    };
    if !there(program) {
        return;
    }
    let done = Command::new(program).args(args).arg(image).output().unwrap();
    let text = said(&done);
    let clean = match tool {
        // It tells only by words that it would change something.
        Make::Ntfs => !text.contains("FAILED") && !text.to_lowercase().contains("error"),
        _ => true,
    };
    if !(done.status.success() && clean) {
        let kept = std::env::temp_dir().join("vdisk-guest-failed.img");
        drop(fs::copy(image, &kept));
        panic!("{context}: {program} on {}: {text}", kept.display());
    }
}

/// What others read of the volume.
pub(crate) fn read_by_others(tool: Make, image: &Path, look: impl FnOnce(Tree)) {
    if tool == Make::Fat {
        let folder = tempfile::tempdir().unwrap();
        if there("mcopy") {
            must("mcopy", &["-s", "-n", "-Q", "-i", arg(image), "::/*", arg(folder.path())]);
            look(tree_on_host(folder.path()));
        }
        return;
    }
    mounted(tool, image, true, |path| look(tree_on_host(path)));
}
