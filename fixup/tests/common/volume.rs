//! NTFS volumes made by mkntfs and filled through ntfs-3g.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::process::Command;

use vdisk_testkit::tools::{arg, must, said, skip};

use super::partition;

/// Gives files of a new directory descriptors that name accounts of two machines.
pub(crate) const GIVE: &str = r#"
import os, struct, sys
def sid(a, *s):
    return bytes([1, len(s)]) + a.to_bytes(6, 'big') + b''.join(struct.pack('<I', x) for x in s)
def descriptor(owner, group, aces):
    acl = b''.join(struct.pack('<BBHI', 0, 0, 8 + len(s), m) + s for m, s in aces)
    acl = struct.pack('<BBHHH', 2, 0, 8 + len(acl), len(aces), 0) + acl
    at = 20 + len(acl)
    head = struct.pack('<BBHIIII', 1, 0, 0x8004, at, at + len(owner), 0, 20)
    return head + acl + owner + group
top, count, *machine = sys.argv[1], *map(int, sys.argv[2:])
os.mkdir(top + '/files')
system = sid(5, 18)
for i in range(count):
    path = f'{top}/files/{i}'
    open(path, 'w').write('x')
    user = sid(5, 21, *machine, 1000 + i % 7) if i % 3 else sid(5, 21, 1, 2, 3, 1000 + i)
    group = sid(5, 21, *machine, 513) if i % 5 else system
    aces = [(0x1f01ff, system), (0x120089 + i, user)]
    os.setxattr(path, 'system.ntfs_acl', descriptor(user, group, aces))
"#;

/// A new volume of `mib` MiB.
pub(crate) fn make(raw: &Path, mib: u64, options: &[&str]) {
    fs::File::create(raw).unwrap().set_len(mib << 20).unwrap();
    let size = ["-F", "-q", "-s", "512", "-p", "0", "-H", "255", "-S", "63"];
    must("mkntfs", &[&size[..], options, &[arg(raw)]].concat());
}

/// Runs a Python script with the mounted volume as its first argument; what it printed. `None`
/// where nothing can be mounted.
pub(crate) fn mounted(raw: &Path, script: &str, args: &[&str]) -> Option<String> {
    let folder = tempfile::tempdir().unwrap();
    let place = arg(folder.path());
    let mount = Command::new("ntfs-3g").args([arg(raw), place]).output();
    match mount {
        Ok(done) if done.status.success() => {}
        other => {
            skip("ntfs-3g", &format!("cannot mount: {:?}", other.map(|done| said(&done))));
            return None;
        }
    }
    let done = Command::new("python3").args(["-c", script, place]).args(args).output();
    must("umount", &[place]);
    // The driver writes on for a moment after the name is gone.
    must("sh", &["-c", &format!("while fuser -s {}; do sleep 0.05; done", arg(raw))]);
    let done = done.unwrap();
    assert!(done.status.success(), "{}", said(&done));
    Some(String::from_utf8(done.stdout).unwrap())
}

/// Runs a Python script on the mounted partition number `number` of a disk, as [`mounted`] does.
pub(crate) fn dressed(disk: &Path, number: usize, script: &str, args: &[&str]) -> Option<String> {
    let folder = tempfile::tempdir_in("/dev/shm").unwrap();
    let volume = folder.path().join("volume");
    partition(disk, number, &volume);
    let said = mounted(&volume, script, args)?;
    let table = must("sfdisk", &["--json", arg(disk)]);
    let table: serde_json::Value = serde_json::from_str(&table).unwrap();
    let start = table["partitiontable"]["partitions"][number - 1]["start"].as_u64().unwrap();
    let file = fs::OpenOptions::new().write(true).open(disk).unwrap();
    file.write_all_at(&fs::read(&volume).unwrap(), start * 512).unwrap();
    Some(said)
}

/// ntfsfix finds nothing to do, and ntfssecaudit finds `$Secure` whole.
pub(crate) fn judge(raw: &Path) {
    must("ntfsfix", &["-n", arg(raw)]);
    let done = Command::new("ntfssecaudit").args(["-a", arg(raw)]).output().unwrap();
    let said = said(&done);
    for expected in ["0 errors in $SDH", "0 errors in $SII", "No errors were found"] {
        assert!(said.contains(expected), "{said}");
    }
}

/// What a mounted volume holds: prints the path, size, clusters and digest of each file.
const LIST: &str = r#"
import hashlib, os, sys
for top, folders, files in os.walk(sys.argv[1]):
    for name in folders + files:
        path = os.path.join(top, name)
        this = os.lstat(path)
        kind = 'link' if os.path.islink(path) else 'file' if name in files else 'dir'
        is_file = kind == 'file'
        content = hashlib.sha256(open(path, 'rb').read()).hexdigest() if is_file else kind
        size = this.st_size if is_file else 0
        print(path[len(sys.argv[1]):], size, this.st_blocks // 8, content, sep='\t')
"#;

/// What stands on a volume.
#[derive(Debug)]
pub(crate) struct Volume {
    /// By path.
    pub(crate) files: BTreeMap<String, Listed>,
    /// Clusters that are free.
    pub(crate) free: u64,
}

/// A file or folder.
#[derive(Debug)]
pub(crate) struct Listed {
    /// Bytes; 0 for a folder.
    pub(crate) size: u64,
    /// Clusters of 4096 bytes.
    clusters: u64,
    /// Digest of the content.
    pub(crate) content: String,
}

impl Volume {
    /// Clusters of all files and folders.
    pub(crate) fn clusters(&self) -> u64 {
        self.files.values().map(|file| file.clusters).sum()
    }
}

/// What stands on a volume, by ntfs-3g and its tools.
pub(crate) fn listed(raw: &Path) -> Volume {
    let mut files = BTreeMap::new();
    for line in mounted(raw, LIST, &[]).unwrap().lines() {
        let [path, size, clusters, content] = line.split('\t').collect::<Vec<_>>()[..] else {
            panic!("{line}")
        };
        let [size, clusters] = [size, clusters].map(|number| number.parse().unwrap());
        files.insert(path.to_owned(), Listed { size, clusters, content: content.to_owned() });
    }
    Volume { files, free: free_clusters(raw) }
}

fn free_clusters(raw: &Path) -> u64 {
    let said = must("ntfsinfo", &["-m", "-f", arg(raw)]);
    let line = said.lines().find(|line| line.trim().starts_with("Free Clusters:"));
    let line = line.unwrap_or_else(|| panic!("no free clusters: {said}"));
    line.split_whitespace().nth(2).unwrap().parse().unwrap()
}
