//! What all file systems share when they are read: bounds, links, errors with the path.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use vdisk_core::{Error, Result};

use super::device::Device;
use super::resolve::{Last, joined, resolve};
use super::text::shown;
use super::{DirEntry, FsInfo, FsKind, FsState, GuestFs, Stat};

/// One file system's crate, reading. Paths are resolved: `/` and names with `/` between them, and
/// no link is followed.
pub(super) trait Driver: Sized + Send {
    fn open(device: Arc<Device>) -> Result<(Self, Vitals)>;
    fn used(&self) -> Result<u64>;
    fn stat(&self, path: &[u8]) -> Result<Stat>;
    fn read_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>>;
    fn read_at(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize>;
    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>>;

    /// As [`GuestFs::default_root`].
    fn default_root(&self) -> Result<Vec<u8>> {
        Ok(Vec::new())
    }

    /// Whether the directory at `path` is the top of a part of the file system that is mounted by
    /// itself, where absolute links of its files begin.
    fn is_top(&self, _path: &[u8]) -> Result<bool> {
        Ok(false)
    }

    /// A link's target as a path of this volume, or the target again where it is none.
    fn link_inside(&self, target: Vec<u8>) -> Result<Vec<u8>, Vec<u8>> {
        Ok(target)
    }
}

/// What an adapter tells of its file system.
pub(super) struct Vitals {
    /// The name, where it does not stand at the volume's beginning.
    pub(super) label: Option<String>,
    pub(super) state: FsState,
    pub(super) total: u64,
    pub(super) block_size: u32,
}

/// As many paths as are remembered with what stands at them.
const REMEMBERED: usize = 4096;

/// A file system, open for reading; the disk does not change meanwhile.
pub(super) struct Volume<D> {
    driver: D,
    info: FsInfo,
    device: Arc<Device>,
    /// What stands at resolved paths: each path is looked up again for every name below it.
    stats: Mutex<HashMap<Vec<u8>, Stat>>,
}

impl<D: Driver> Volume<D> {
    pub(super) fn open(
        device: Arc<Device>,
        found: vdisk_parts::Volume,
        kind: FsKind,
    ) -> Result<Self> {
        let (driver, vitals) = device.run(0, || D::open(device.clone()))?;
        let info = FsInfo {
            kind,
            label: vitals.label.or(found.label).unwrap_or_default(),
            uuid: found.uuid.unwrap_or_default(),
            state: vitals.state,
            total: vitals.total,
            block_size: vitals.block_size,
        };
        Ok(Self { driver, info, device, stats: Mutex::default() })
    }

    /// The resolved path.
    pub(super) fn resolved(&self, path: &[u8], last: Last) -> Result<Vec<u8>> {
        resolve(self, path, last)
    }

    pub(super) fn driver(&self) -> &D {
        &self.driver
    }

    /// What stands at a resolved path.
    pub(super) fn stat_resolved(&self, path: &[u8]) -> Result<Stat> {
        if let Some(known) = self.stats().get(path) {
            return Ok(known.clone());
        }
        let stat =
            self.device.run(0, || self.driver.stat(path)).map_err(|error| at(error, path))?;
        let mut stats = self.stats();
        if stats.len() >= REMEMBERED {
            stats.clear();
        }
        stats.insert(path.to_vec(), stat.clone());
        Ok(stat)
    }

    pub(super) fn link_resolved(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.device.run(0, || self.driver.read_link(path)).map_err(|error| at(error, path))
    }

    /// How many of the names that lead to a directory lead to the top of the part it is in.
    pub(super) fn top_of(&self, names: &[Vec<u8>]) -> Result<usize> {
        for count in (1..=names.len()).rev() {
            let path = joined(names.get(..count).unwrap_or_default());
            let is_top = self.device.run(0, || self.driver.is_top(&path));
            if is_top.map_err(|error| at(error, &path))? {
                return Ok(count);
            }
        }
        Ok(0)
    }

    fn stats(&self) -> std::sync::MutexGuard<'_, HashMap<Vec<u8>, Stat>> {
        self.stats.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<D> fmt::Debug for Volume<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Volume").field("info", &self.info).finish_non_exhaustive()
    }
}

impl<D: Driver> GuestFs for Volume<D> {
    fn info(&self) -> &FsInfo {
        &self.info
    }

    fn used(&self) -> Result<u64> {
        self.device.run(0, || self.driver.used())
    }

    fn stat(&self, path: &[u8]) -> Result<Stat> {
        self.stat_resolved(&self.resolved(path, Last::Keep)?)
    }

    fn read_dir(&self, path: &[u8]) -> Result<Vec<DirEntry>> {
        let path = self.resolved(path, Last::Follow)?;
        self.device.run(0, || self.driver.read_dir(&path)).map_err(|error| at(error, &path))
    }

    fn read_at(&self, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
        let path = self.resolved(path, Last::Follow)?;
        self.device
            .run(buf.len() as u64, || read_full(&self.driver, &path, offset, buf))
            .map_err(|error| at(error, &path))
    }

    fn read_link(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.link_resolved(&self.resolved(path, Last::Keep)?)
    }

    fn resolve(&self, path: &[u8]) -> Result<Vec<u8>> {
        self.resolved(path, Last::Follow)
    }

    fn default_root(&self) -> Result<Vec<u8>> {
        self.device.run(0, || self.driver.default_root())
    }
}

/// Reads until `buf` is full or the file ends.
fn read_full(driver: &impl Driver, path: &[u8], offset: u64, buf: &mut [u8]) -> Result<usize> {
    let mut done = 0;
    while let Some(rest) = buf.get_mut(done..).filter(|rest| !rest.is_empty()) {
        match driver.read_at(path, offset.saturating_add(done as u64), rest)? {
            0 => break,
            len => done += len.min(rest.len()),
        }
    }
    Ok(done)
}

/// The error with the path in front.
pub(super) fn at(error: Error, path: &[u8]) -> Error {
    let mut told = Error::new(error.kind(), format!("{}: {error}", shown(path)));
    if let Some(hint) = error.advice() {
        told = told.hint(hint);
    }
    told.caused_by(error)
}
