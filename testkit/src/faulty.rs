//! A disk with bad sectors: one file of a FUSE file system that fails where it is told to.

use std::ffi::OsStr;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, UNIX_EPOCH};

use fuser::{
    BackgroundSession, Config, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags,
    Generation, INodeNo, LockOwner, OpenFlags, ReplyAttr, ReplyData, ReplyEntry, ReplyOpen,
    Request,
};

use crate::tools::skip;

const NAME: &str = "disk";
const FILE: INodeNo = INodeNo(2);
const FOREVER: Duration = Duration::from_secs(3600);

/// What fails, which can be changed while the disk is in use.
#[derive(Debug, Default)]
pub struct Faults {
    /// Bytes that cannot be read.
    pub bad: Vec<Range<u64>>,
    /// How many reads of bad bytes fail before they succeed; 0 for all of them.
    pub heals_after: u64,
    /// Nothing can be read any more.
    pub gone: AtomicBool,
    /// Reads that failed.
    pub failures: AtomicU64,
}

/// The mounted file system.
#[derive(Debug)]
pub struct Faulty {
    /// The file that fails.
    pub path: PathBuf,
    /// What fails.
    pub faults: Arc<Faults>,
    _session: BackgroundSession,
}

impl Faulty {
    /// Shows the file `content` at `point/disk`, with `faults`; `None` where this machine has no
    /// FUSE, which is said. Reads pass by the page cache, as they would on a disk that fails.
    ///
    /// # Panics
    /// Where the files cannot be opened.
    #[must_use]
    pub fn mount(content: &Path, point: &Path, faults: Faults) -> Option<Self> {
        std::fs::create_dir_all(point).expect("folder");
        let file = File::open(content).expect("content");
        let len = file.metadata().expect("length").len();
        let faults = Arc::new(faults);
        let system = System { file, len, faults: faults.clone() };
        match fuser::spawn_mount(system, point, &Config::default()) {
            Ok(session) => Some(Self { path: point.join(NAME), faults, _session: session }),
            Err(error) => {
                skip("fuse", &error.to_string());
                None
            }
        }
    }
}

struct System {
    file: File,
    len: u64,
    faults: Arc<Faults>,
}

impl System {
    fn attributes(&self, inode: INodeNo) -> FileAttr {
        let (kind, perm, size) = match inode {
            FILE => (FileType::RegularFile, 0o444, self.len),
            _ => (FileType::Directory, 0o555, 0),
        };
        FileAttr {
            ino: inode,
            size,
            blocks: size / 512,
            atime: UNIX_EPOCH,
            mtime: UNIX_EPOCH,
            ctime: UNIX_EPOCH,
            crtime: UNIX_EPOCH,
            kind,
            perm,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            flags: 0,
            blksize: 4096,
        }
    }

    fn fails(&self, range: &Range<u64>) -> bool {
        if self.faults.gone.load(Ordering::Relaxed) {
            return true;
        }
        let mut bad = self.faults.bad.iter();
        if !bad.any(|bad| bad.start < range.end && range.start < bad.end) {
            return false;
        }
        let failed = self.faults.failures.fetch_add(1, Ordering::Relaxed);
        self.faults.heals_after == 0 || failed < self.faults.heals_after
    }
}

impl Filesystem for System {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        if parent == INodeNo::ROOT && name == NAME {
            reply.entry(&FOREVER, &self.attributes(FILE), Generation(0));
        } else {
            reply.error(Errno::ENOENT);
        }
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        reply.attr(&FOREVER, &self.attributes(inode));
    }

    fn open(&self, _: &Request, _: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        reply.opened(FileHandle(0), FopenFlags::empty());
    }

    fn read(
        &self,
        _: &Request,
        _: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let end = (offset + u64::from(size)).min(self.len);
        let mut bytes = vec![0; end.saturating_sub(offset) as usize];
        if self.fails(&(offset..end)) || self.file.read_exact_at(&mut bytes, offset).is_err() {
            reply.error(Errno::EIO);
        } else {
            reply.data(&bytes);
        }
    }
}
