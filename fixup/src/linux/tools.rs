//! The guest's own programs make an initramfs, where nothing else can.
//!
//! They run on a copy of the guest's tree, which our own readers write to a temporary folder, so the
//! host mounts nothing of the guest. Bubblewrap (`bwrap(1)`) makes that folder all they see: no
//! network, no devices but `/dev/null` and its like, no other process, and of root's rights only
//! those over files. What they made comes back through a pipe, is read and looked at like any other
//! initramfs, and becomes a change of the plan. The guest itself is not touched by them.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::{JoinHandle, sleep, spawn};
use std::time::{Duration, Instant};

use tempfile::TempDir;
use vdisk_core::{Error, Result};
use vdisk_guest::extract::NAME;

use super::tree::Tree;

/// Bytes of an initramfs, and of what is kept of what a program says.
const MOST_MADE: u64 = 512 << 20;
const MOST_SAID: usize = 2048;
/// How long a program may take; a slow machine needs some minutes.
const LIMIT: Duration = Duration::from_secs(1800);
/// What an initramfs is made from; no other folder of the root is in the copy.
const WANTED: &[&str] = &["bin", "sbin", "lib", "lib32", "lib64", "libx32", "usr", "etc", "boot"];
/// Bytes of the copy: the systems of large machines have some 10 GiB.
const MOST_COPIED: u64 = 32 << 30;
/// Bytes that programs may add to it.
const MOST_ADDED: u64 = 8 << 30;
/// How often they are counted.
const LOOK: Duration = Duration::from_secs(5);
/// Made empty in the copy.
const EMPTY: &[&str] = &["dev", "proc", "sys", "run", "tmp", "var", "var/tmp", "var/lib", "root"];

/// A program that makes initramfs archives.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Maker {
    /// As `inspect` names it.
    pub(super) name: &'static str,
    /// Has it make one for the kernel `$1` with the modules `$2`, packed with gzip, as `/made`.
    script: &'static str,
}

const MAKERS: [Maker; 3] = [
    Maker {
        name: "initramfs-tools",
        // The last file counts.
        script: "printf 'MODULES=most\nCOMPRESS=gzip\n' > /etc/initramfs-tools/conf.d/zz-vdisk
                 mkinitramfs -o /made \"$1\"",
    },
    Maker {
        name: "dracut",
        script: "dracut --force --no-hostonly --no-hostonly-cmdline --gzip --add-drivers \"$2\" \
                 --omit 'squash squash-lib squash-squashfs squash-erofs' /made \"$1\"",
    },
    Maker {
        name: "mkinitcpio",
        script: "cp /etc/mkinitcpio.conf /tmp/conf
                 printf '\nMODULES+=(%s)\nCOMPRESSION=gzip\n' \"$2\" >> /tmp/conf
                 mkinitcpio -c /tmp/conf -k \"$1\" -g /made -S autodetect",
    },
];

/// The one of the guest's makers that is known here.
pub(super) fn maker(there: &[&str]) -> Option<&'static Maker> {
    MAKERS.iter().find(|maker| there.contains(&maker.name))
}

/// What a maker made.
#[derive(Debug)]
pub(super) struct Made {
    pub(super) bytes: Vec<u8>,
    /// The last that it said.
    pub(super) said: String,
}

impl Maker {
    /// An initramfs for the kernel `version` with `modules`, of the guest as it is in `tree`, whose
    /// programs are for `arch`.
    ///
    /// # Errors
    /// [`Refused`](vdisk_core::ErrorKind::Refused) where it cannot be run here, fails, or takes too
    /// long; the volumes'; the host's.
    pub(super) fn make(
        &self,
        tree: &mut Tree<'_>,
        arch: Option<&str>,
        version: &str,
        modules: &[&str],
    ) -> Result<Made> {
        refuse_here(arch)?;
        let (_outer, folder) = workplace()?;
        tree.copy_out(&folder, WANTED, MOST_COPIED).map_err(|error| {
            Error::refused(format!("the guest could not be copied for its {}: {error}", self.name))
        })?;
        furnish(&folder)?;
        let script = format!("set -e\nexec 3>&1 1>&2\n{}\nexec cat /made >&3", self.script);
        let mut sandbox = sandbox(&folder);
        sandbox.args(["/bin/sh", "-c", &script, "sh", version, &modules.join(" ")]);
        let bounds = Bounds::of(&folder, MOST_ADDED)?;
        let (done, made) = Run::start(sandbox)?.finish(bounds)?;
        if !done || made.bytes.is_empty() {
            let Made { said, .. } = made;
            return Err(Error::refused(format!("the guest's {} failed: {said}", self.name)));
        }
        Ok(made)
    }
}

/// Fails where programs of the guest cannot be run.
fn refuse_here(arch: Option<&str>) -> Result<()> {
    let own = match std::env::consts::ARCH {
        "aarch64" => "arm64",
        own => own,
    };
    if arch != Some(own) && !(arch == Some("x86") && own == "x86_64") {
        let arch = arch.unwrap_or("an unknown machine");
        return Err(Error::refused(format!("its tools are for {arch}, and this host is {own}")));
    }
    // What a process is told of itself belongs to whom it runs as.
    if fs::metadata("/proc/self").is_ok_and(|own| own.uid() != 0) {
        return Err(Error::refused("running the guest's tools takes root")
            .hint("run vdisk as root for --run-guest-tools"));
    }
    let bwrap = Command::new("bwrap").arg("--version").stdout(Stdio::null()).status();
    if !bwrap.is_ok_and(|done| done.success()) {
        return Err(Error::refused("the sandbox for the guest's tools is not installed")
            .hint("install bubblewrap (bwrap)"));
    }
    Ok(())
}

/// A folder that only we may enter, and the one in it that the guest's programs see. They may give
/// rights to all that they see: what they make could else be run by anybody on the host.
fn workplace() -> Result<(TempDir, PathBuf)> {
    let failed = |error| Error::io(error, "make a folder for a copy of the guest");
    let outer = tempfile::Builder::new()
        .prefix("vdisk-guest-")
        .permissions(fs::Permissions::from_mode(0o700))
        .tempdir()
        .map_err(failed)?;
    let inner = outer.path().join("root");
    fs::create_dir(&inner).map_err(failed)?;
    Ok((outer, inner))
}

/// Bytes in use below a folder, each name counting too; as far as `most`. What is changing is
/// looked at, so what cannot be read is not there any more.
fn used(folder: &Path, most: u64) -> u64 {
    let mut used = 0_u64;
    let mut folders = vec![folder.to_owned()];
    while let Some(entries) = folders.pop().map(fs::read_dir) {
        for entry in entries.into_iter().flatten().flatten() {
            let Ok(found) = entry.metadata() else { continue };
            used = used.saturating_add(NAME).saturating_add(found.blocks().saturating_mul(512));
            if used > most {
                return used;
            }
            if found.is_dir() {
                folders.push(entry.path());
            }
        }
    }
    used
}

/// What the file system of a folder has left. What no name leads to uses it as well: files that are
/// removed and still open, folders too deep to be walked.
#[derive(Debug, Clone, Copy)]
struct Room {
    bytes: u64,
    /// Of files; always none on file systems that do not count them.
    names: u64,
}

impl Room {
    fn of(folder: &Path) -> Result<Self> {
        let found = rustix::fs::statvfs(folder).map_err(|error| {
            Error::io(error.into(), "see how much room there is").in_file(folder)
        })?;
        let bytes = found.f_bavail.saturating_mul(found.f_frsize);
        Ok(Self { bytes, names: found.f_favail })
    }

    /// What must be left of it where `most` bytes may be used: a tenth in any case.
    fn least(self, most: u64) -> Self {
        let bytes = self.bytes.saturating_sub(most).max(self.bytes / 10);
        Self { bytes, names: self.names / 10 }
    }

    fn is_less_than(self, least: Self) -> bool {
        self.bytes < least.bytes || self.names < least.names
    }
}

/// How much of a folder programs may use.
struct Bounds<'f> {
    folder: &'f Path,
    most: u64,
    least: Room,
    /// When it is counted again.
    look: Instant,
}

impl<'f> Bounds<'f> {
    /// So many bytes more than now.
    fn of(folder: &'f Path, added: u64) -> Result<Self> {
        let least = Room::of(folder)?.least(added);
        let most = used(folder, u64::MAX).saturating_add(added);
        Ok(Self { folder, most, least, look: Instant::now() + LOOK })
    }

    fn are_passed(&mut self) -> bool {
        let has_room = Room::of(self.folder).is_ok_and(|room| !room.is_less_than(self.least));
        if !has_room || Instant::now() < self.look {
            return !has_room;
        }
        let used = used(self.folder, self.most);
        self.look = Instant::now() + LOOK;
        used > self.most
    }
}

/// Makes the directories that programs expect, beside what was copied.
fn furnish(folder: &Path) -> Result<()> {
    for name in EMPTY {
        let path = folder.join(name);
        let made = fs::create_dir(&path).and_then(|()| {
            let mode = if name.ends_with("tmp") { 0o1777 } else { 0o755 };
            fs::set_permissions(&path, fs::Permissions::from_mode(mode))
        });
        made.map_err(|error| Error::io(error, "make it").in_file(&path))?;
    }
    Ok(())
}

/// What runs programs with `folder` as all there is.
fn sandbox(folder: &Path) -> Command {
    let mut command = Command::new("bwrap");
    for part in ["net", "pid", "ipc", "uts", "cgroup-try"] {
        command.arg(format!("--unshare-{part}"));
    }
    command.args(["--die-with-parent", "--new-session", "--cap-drop", "ALL"]);
    for right in ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID"] {
        command.arg("--cap-add").arg(format!("CAP_{right}"));
    }
    command.arg("--bind").arg(folder).arg("/");
    // Root of the host may write settings of the kernel there, whatever rights it has left.
    command.args(["--proc", "/proc", "--remount-ro", "/proc"]);
    command.args(["--dev", "/dev", "--tmpfs", "/run", "--chdir", "/"]);
    command.args(["--clearenv", "--setenv", "HOME", "/root", "--setenv", "LC_ALL", "C"]);
    command.args(["--setenv", "PATH", "/usr/local/sbin:/usr/sbin:/usr/bin:/sbin:/bin", "--"]);
    command
}

/// A program that runs, and what comes from it.
struct Run {
    child: Child,
    made: JoinHandle<Vec<u8>>,
    said: JoinHandle<Vec<u8>>,
    end: Instant,
}

impl Run {
    fn start(mut command: Command) -> Result<Self> {
        let command = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| Error::io(error, "start bwrap"))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let made = spawn(move || {
            let mut bytes = Vec::new();
            // What is cut off here is no archive any more, and so found.
            let _ = out.map(|out| out.take(MOST_MADE).read_to_end(&mut bytes));
            bytes
        });
        let said = spawn(move || err.map(last_of).unwrap_or_default());
        Ok(Self { child, made, said, end: Instant::now() + LIMIT })
    }

    /// Waits for its end; whether it did well, and what came.
    fn finish(mut self, mut bounds: Bounds<'_>) -> Result<(bool, Made)> {
        let failed = |error| Error::io(error, "wait for the guest's tools");
        let done = loop {
            if let Some(status) = self.child.try_wait().map_err(failed)? {
                break status.success();
            }
            if Instant::now() > self.end {
                return Err(self.stop("the guest's tools did not come to an end"));
            }
            if bounds.are_passed() {
                let why =
                    "the guest's tools, or others meanwhile, fill the host's temporary folder";
                return Err(self.stop(why).hint("set TMPDIR to a folder with more room"));
            }
            sleep(Duration::from_millis(50));
        };
        let bytes = self.made.join().unwrap_or_default();
        let said = self.said.join().unwrap_or_default();
        let said = String::from_utf8_lossy(&said).replace(|c: char| c.is_control(), " ");
        Ok((done, Made { bytes, said: said.trim().to_owned() }))
    }

    /// Ends it, and with it everything in the sandbox.
    fn stop(&mut self, why: &str) -> Error {
        let _ = self.child.kill();
        let _ = self.child.wait();
        Error::refused(why)
    }
}

/// The last bytes that can be read.
fn last_of(mut from: impl Read) -> Vec<u8> {
    let mut kept = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(len @ 1..) = from.read(&mut piece) {
        kept.extend_from_slice(piece.get(..len).unwrap_or_default());
        let over = kept.len().saturating_sub(MOST_SAID);
        kept.drain(..over);
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_last_is_kept() {
        let text: Vec<u8> = (0..20_000u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(last_of(&text[..]), text[20_000 - MOST_SAID..]);
        assert_eq!(last_of(&b"all"[..]), b"all");
    }

    #[test]
    fn only_we_may_enter_where_they_work() {
        let (outer, inner) = workplace().unwrap();
        assert_eq!(fs::metadata(outer.path()).unwrap().mode() & 0o7777, 0o700);
        fs::create_dir(inner.join("a")).unwrap();
        fs::write(inner.join("a/b"), vec![1; 100_000]).unwrap();
        std::os::unix::fs::symlink("/", inner.join("link")).unwrap();
        assert!((100_000..200_000).contains(&used(&inner, u64::MAX)));
        assert!(used(&inner, 5000) > 5000);
    }

    #[test]
    fn what_has_no_name_any_more_fills_the_folder_too() {
        let (_outer, inner) = workplace().unwrap();
        let mut command = Command::new("sh");
        let script = "exec 5>x; rm x; head -c 200000000 /dev/zero >&5; exec sleep 10";
        command.args(["-c", script]).current_dir(&inner);
        let bounds = Bounds::of(&inner, 32 << 20).unwrap();
        let error = Run::start(command).unwrap().finish(bounds).unwrap_err();
        assert!(error.to_string().contains("fill"), "{error}");
    }

    #[test]
    fn a_tenth_of_the_room_is_left_in_any_case() {
        let room = |bytes, names| Room { bytes, names };
        let least = room(1000, 50).least(100);
        assert!(room(899, 50).is_less_than(least) && !room(900, 5).is_less_than(least));
        assert!(room(900, 4).is_less_than(least));
        let least = room(1000, 0).least(u64::MAX);
        assert!(room(99, 0).is_less_than(least) && !room(100, 0).is_less_than(least));
    }

    #[test]
    fn another_machine_is_refused() {
        assert!(refuse_here(None).is_err());
        assert!(refuse_here(Some("s390x")).unwrap_err().to_string().contains("s390x"));
    }
}
