//! Volumes of every kind, made and filled by the programs of the field.

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::machines::programs;
use crate::tools::{arg, must, said, skip};
use crate::tree::{Tree, tree_on_host};

/// The family of programs that makes a volume.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Make {
    /// e2fsprogs.
    Ext,
    /// xfsprogs.
    Xfs,
    /// btrfs-progs.
    Btrfs,
    /// ntfs-3g.
    Ntfs,
    /// dosfstools.
    Fat,
}

/// A volume to make.
#[derive(Clone, Copy, Debug)]
pub struct Volume {
    /// Who makes it.
    pub tool: Make,
    /// What `GuestFs::info` should call it.
    pub kind: &'static str,
    /// Its size, MiB.
    pub mib: u64,
    /// More for the program.
    pub args: &'static [&'static str],
}

/// Volumes of every kind, with large and small blocks, old and new features.
pub const VOLUMES: &[Volume] = &[
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
    Volume { tool: Make::Ntfs, kind: "ntfs", mib: 24, args: &["-s", "4096"] },
    Volume { tool: Make::Fat, kind: "fat12", mib: 12, args: &["-F", "12", "-s", "8"] },
    Volume { tool: Make::Fat, kind: "fat16", mib: 24, args: &["-F", "16"] },
    Volume { tool: Make::Fat, kind: "fat32", mib: 40, args: &["-F", "32", "-s", "1"] },
];

impl Volume {
    /// The label it gets.
    #[must_use]
    pub fn label(&self) -> &'static str {
        "VDISKTEST"
    }

    /// XFS of version 4, which new kernels do not mount.
    #[must_use]
    pub fn is_old_xfs(&self) -> bool {
        self.args.contains(&"crc=0")
    }

    /// Whether the links of the tree come to it as links.
    #[must_use]
    pub fn has_links(&self) -> bool {
        matches!(self.tool, Make::Ext | Make::Xfs | Make::Btrfs)
    }

    /// What the programs put there by themselves.
    #[must_use]
    pub fn own_names(&self) -> &'static [&'static str] {
        match self.tool {
            Make::Ext => &["/lost+found"],
            _ => &[],
        }
    }
}

/// Makes the volume, with the tree `source` in it; `false` where a program for it is missing.
///
/// # Panics
/// Where a program fails.
#[must_use]
pub fn make(volume: &Volume, image: &Path, source: Option<&Path>) -> bool {
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
    if !programs(&[program]) {
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

/// Mounts the volume, or says what is missing.
///
/// # Panics
/// Where it cannot be unmounted.
pub fn mounted(tool: Make, image: &Path, read_only: bool, work: impl FnOnce(&Path)) -> bool {
    let folder = tempfile::tempdir().unwrap();
    let (program, options) = match tool {
        Make::Ntfs => ("ntfs-3g", if read_only { "ro" } else { "rw" }),
        _ => ("mount", if read_only { "loop,ro" } else { "loop" }),
    };
    let needed = if tool == Make::Ntfs { "ntfs-3g" } else { "loop" };
    if tool == Make::Ntfs && !programs(&["ntfs-3g"]) {
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
    let mounted = Mounted { point: folder.path(), image: (tool == Make::Ntfs).then_some(image) };
    work(folder.path());
    drop(mounted);
    true
}

/// Makes an NTFS with a directory whose index is in so many pieces that several file records tell of
/// them, as System32 of a Windows that was often updated: `/Windows/System32`, with a file in
/// clusters, `hive`, and the directory `drivers`. `false` where it cannot be made.
///
/// # Panics
/// Where a program fails.
#[must_use]
pub fn scattered(image: &Path) -> bool {
    const NAMES: usize = 2400;
    let volume = Volume { tool: Make::Ntfs, kind: "ntfs", mib: 16, args: &["-c", "512"] };
    make(&volume, image, None)
        && mounted(Make::Ntfs, image, false, |root| {
            let system = root.join("Windows/System32");
            fs::create_dir_all(system.join("drivers")).unwrap();
            (0..200).for_each(|n| fs::create_dir_all(root.join(format!("between/{n}"))).unwrap());
            fs::write(system.join("drivers/ntfs.sys"), [1; 3000]).unwrap();
            fs::write(system.join("hive"), [2; 90_000]).unwrap();
            fs::write(root.join("ballast"), vec![4; 1 << 20]).unwrap();
            let name = |number: &usize| root.join(format!("between/{}/{number}", number / 60));
            let count = (0..).take_while(|n| fs::write(name(n), [3; 700]).is_ok()).count();
            // Holes for the index to grow into.
            (0..count).step_by(2).for_each(|number| fs::remove_file(name(&number)).unwrap());
            for number in 0..NAMES {
                let name = format!("{:0>100}.dll", number * 7919 % NAMES);
                fs::write(system.join(name), "").unwrap();
            }
            // Room for what the tests do.
            fs::remove_file(root.join("ballast")).unwrap();
            (count - 500..count).for_each(|number| drop(fs::remove_file(name(&number))));
        })
}

/// A mount that ends with it, also where a test fails.
struct Mounted<'a> {
    point: &'a Path,
    /// What FUSE holds.
    image: Option<&'a Path>,
}

impl Drop for Mounted<'_> {
    fn drop(&mut self) {
        // A program that another thread is just starting may hold the folder for a moment.
        let unmounted =
            || Command::new("umount").arg(self.point).status().expect("umount").success();
        let done = patiently(unmounted);
        // FUSE lets go of the image a moment after the unmount.
        let held = |image: &Path| Command::new("fuser").arg(image).output().expect("fuser");
        let free = self.image.is_none_or(|image| patiently(|| !held(image).status.success()));
        if !std::thread::panicking() {
            assert!(done && free, "{} stays busy", self.point.display());
        }
    }
}

/// Whether it comes true within some seconds.
fn patiently(mut is_true: impl FnMut() -> bool) -> bool {
    for _ in 0..200 {
        if is_true() {
            return true;
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    false
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
    if !programs(&["mcopy"]) {
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

/// The file system's own checker finds nothing.
///
/// # Panics
/// Where it does; the volume is kept in the folder for temporary files.
pub fn judge(tool: Make, image: &Path, context: &str) {
    let (program, args): (&str, &[&str]) = match tool {
        Make::Ext => ("e2fsck", &["-fn"]),
        Make::Xfs => ("xfs_repair", &["-n", "-f"]),
        Make::Btrfs => ("btrfs", &["check"]),
        Make::Ntfs => ("ntfsfix", &["-n"]),
        Make::Fat => ("fsck.fat", &["-n"]),
    };
    if !programs(&[program]) {
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

/// What others read of the volume: the kernel, ntfs-3g or mtools.
///
/// # Panics
/// Where they cannot.
pub fn read_by_others(tool: Make, image: &Path, look: impl FnOnce(Tree)) {
    if tool == Make::Fat {
        let folder = tempfile::tempdir().unwrap();
        if programs(&["mcopy"]) {
            must("mcopy", &["-s", "-n", "-Q", "-i", arg(image), "::/*", arg(folder.path())]);
            look(tree_on_host(folder.path()));
        }
        return;
    }
    mounted(tool, image, true, |path| look(tree_on_host(path)));
}

/// What debugfs reads of an ext volume.
///
/// # Panics
/// Where it cannot.
#[must_use]
pub fn by_debugfs(image: &Path) -> Tree {
    let folder = tempfile::tempdir().unwrap();
    must("debugfs", &["-R", &format!("rdump / {}", arg(folder.path())), arg(image)]);
    tree_on_host(folder.path())
}
