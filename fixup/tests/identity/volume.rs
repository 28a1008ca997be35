//! NTFS volumes made by mkntfs and filled through ntfs-3g.

use std::fs;
use std::path::Path;
use std::process::Command;

use vdisk_testkit::tools::{arg, must, said, skip};

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

/// ntfsfix finds nothing to do, and ntfssecaudit finds `$Secure` whole.
pub(crate) fn judge(raw: &Path) {
    must("ntfsfix", &["-n", arg(raw)]);
    let done = Command::new("ntfssecaudit").args(["-a", arg(raw)]).output().unwrap();
    let said = said(&done);
    for expected in ["0 errors in $SDH", "0 errors in $SII", "No errors were found"] {
        assert!(said.contains(expected), "{said}");
    }
}
