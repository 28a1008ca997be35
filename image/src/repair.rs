//! Mending an image, with a look at the result before a byte moves.
//!
//! 1. The format's own code mends the image, on stores that only record what is written.
//! 2. The outcome is proven: it is checked like any image, and everything that could be read
//!    before must read the same.
//! 3. What would be overwritten is saved to a side file, durable before anything changes.
//! 4. The recorded changes are made, in their order and with their flushes.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use vdisk_core::disk::ZeroDisk;
use vdisk_core::recorder::Change;
use vdisk_core::repair::Scope;
use vdisk_core::{
    Access, Error, Findings, Format, Host, HostFile, Layer, LayerKind, Mends, Recorder, Result,
    Severity, Store, StoreExt, layer,
};

use crate::check::{check, check_alone};
use crate::open::OpenOptions;
use crate::report::{CheckReport, MendReport};
use crate::sidefile;

/// What to mend, and how.
#[derive(Clone, Copy, Debug)]
pub struct RepairRequest {
    /// Leaks only, or all that has one right answer.
    pub scope: Scope,
    /// Only find out what would be done.
    pub dry_run: bool,
    /// Save what is overwritten to a side file first.
    pub backup: bool,
}

/// One change of a file: `changes` of `vdisk check -r --output json`.
#[derive(Clone, Debug, Serialize)]
#[non_exhaustive]
pub struct ChangeReport {
    /// The file.
    pub filename: String,
    /// `write`, `zero` or `length`.
    pub what: &'static str,
    /// First byte; of `length` the new length.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
}

/// Mends the image at `path` and tells what it is like afterwards; with a dry run, what it is like
/// now. Only the image itself is changed, never a parent.
///
/// # Errors
/// As [`check()`]; [`Internal`](vdisk_core::ErrorKind::Internal) where the result would not read
/// like before, and then nothing was changed; the host's.
pub fn repair(path: &Path, options: &OpenOptions, request: RepairRequest) -> Result<CheckReport> {
    // What is read while the plan is made stays as it is until the changes are done.
    let options = options.clone().in_one_session();
    let alone = options.clone().without_parents();
    let recording = Recording::default();
    let recorded = recording.options(alone.clone());
    let mends = mend(path, &recorded, request.scope)?;
    let recorders = recording.changed();
    if !recorders.is_empty() {
        prove(path, &alone, &recorded, &recording)?;
    }
    let mut backup = None;
    if !recorders.is_empty() && !request.dry_run {
        let reopened = recorders.iter().map(|recorder| reopen(recorder, &options));
        let files = reopened.collect::<Result<Vec<_>>>()?;
        if request.backup {
            backup = Some(sidefile::save(options.host(), path, &ordered(path, &recorders)?)?);
        }
        recorders.iter().zip(&files).try_for_each(|(recorder, file)| apply(recorder, &**file))?;
    }
    let mut report = check(path, &options)?;
    report.backup = backup.map(|path| path.display().to_string());
    report.repaired = if request.dry_run { 0 } else { mends.list().len() as u64 };
    report.dry_run = request.dry_run;
    report.repairs = Some(mends.list().iter().map(MendReport::from).collect());
    report.changes = Some(recorders.iter().flat_map(|recorder| told(recorder)).collect());
    Ok(report)
}

/// Puts back what a repair of the image at `path` overwrote and saved to `side`; returns how many
/// pieces and bytes. With `dry_run` nothing is changed.
///
/// # Errors
/// [`Refused`](vdisk_core::ErrorKind::Refused) where the image was changed since, or `side` is no
/// side file; the host's.
pub fn undo_repair(
    path: &Path,
    side: &Path,
    options: &OpenOptions,
    dry_run: bool,
) -> Result<(u64, u64)> {
    let access = if dry_run { Access::Read } else { Access::Write };
    let undone = options
        .with_file(path, access, |_, store, opener| sidefile::undo(side, store, opener, dry_run))?;
    Ok((undone.pieces, undone.bytes))
}

/// Runs the format's own code on stores that record.
fn mend(path: &Path, options: &OpenOptions, scope: Scope) -> Result<Mends> {
    let mut mends = Mends::new();
    options.with_file(path, Access::Read, |format, store, opener| {
        // What does not open as it is, or only after more than was mended, stays as it is.
        let opens = |done: Result<()>| match done {
            Err(error) if crate::check::is_damage(&error) => Ok(()),
            done => done,
        };
        opens(match format {
            Format::Raw => Ok(()),
            Format::Vhd => vdisk_vhd::mend(store, scope, &mut mends),
            Format::Vhdx => vdisk_vhdx::mend(store, scope, &mut mends),
            Format::Vmdk => vdisk_vmdk::mend(store, opener, scope, &mut mends),
        })?;
        let mut findings = Findings::new();
        check_alone(path, options, &mut findings)?;
        // What nothing refers to may be just what a damaged table should refer to.
        if findings.count(Severity::Corruption) > 0 || findings.count(Severity::Leak) == 0 {
            return Ok(());
        }
        match format {
            Format::Raw => Ok(()),
            Format::Vhd => vdisk_vhd::reclaim(store, &mut mends),
            Format::Vhdx => vdisk_vhdx::reclaim(store, &mut mends),
            Format::Vmdk => vdisk_vmdk::reclaim(store, opener, &mut mends),
        }
    })?;
    Ok(mends)
}

/// The recorders of the files that an image consists of.
#[derive(Clone, Debug, Default)]
struct Recording(Arc<Mutex<Vec<Arc<Recorder>>>>);

impl Recording {
    /// Options that open every file on a recorder.
    fn options(&self, options: OpenOptions) -> OpenOptions {
        options.on(Arc::new(self.clone()))
    }

    /// Those that recorded a change.
    fn changed(&self) -> Vec<Arc<Recorder>> {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().filter(|recorder| !recorder.changes().is_empty()).cloned().collect()
    }

    /// Whether a byte of `range` of a store was changed.
    fn touches(&self, store: &dyn Store, range: &std::ops::Range<u64>) -> bool {
        let all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.iter().any(|one| one.name() == store.name() && one.touches(range))
    }
}

impl Host for Recording {
    /// Always the same recorder for a file.
    fn store(&self, file: HostFile) -> Arc<dyn Store> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let id = file.id();
        if let Some(known) = all.iter().find(|known| is_of(known, id)) {
            return known.clone();
        }
        let file: Arc<dyn Store> = Arc::new(file);
        match Recorder::new(file.clone()) {
            Ok(recorder) => {
                let recorder = Arc::new(recorder);
                all.push(recorder.clone());
                recorder
            }
            // Whose length cannot be told fails when it is read.
            Err(_) => file,
        }
    }
}

/// Fails unless everything that can be read now reads the same once the changes are made.
fn prove(path: &Path, now: &OpenOptions, then: &OpenOptions, recording: &Recording) -> Result<()> {
    let Ok(now) = now.open(path) else { return Ok(()) };
    let (now, size) = (now.top(), now.info().virtual_size);
    let then = then.open(path)?;
    let then = then.top();
    if then.info().virtual_size != size {
        return Err(otherwise(path, 0));
    }
    let unit = now.info().block_size.unwrap_or(1 << 16).max(512);
    let mut at = 0;
    while at < size {
        let Ok(extent) = now.extent_at(at, size) else {
            // What cannot be read can only become better.
            at = (at / unit + 1).saturating_mul(unit).min(size);
            continue;
        };
        let end = at + extent.len.min(MOST_COMPARED);
        let later = then.extent_at(at, end)?;
        let end = end.min(at + later.len);
        if !alike(now, &extent.kind, then, &later.kind, end - at, recording) {
            same_bytes(path, now, then, at..end)?;
        }
        at = end;
    }
    Ok(())
}

/// Guest bytes compared at once.
const MOST_COMPARED: u64 = 1 << 26;

/// Whether two answers surely are the same bytes, without a look at them.
fn alike(
    now: &dyn Layer,
    one: &LayerKind,
    then: &dyn Layer,
    other: &LayerKind,
    len: u64,
    recording: &Recording,
) -> bool {
    let name =
        |layer: &dyn Layer, store: usize| layer.stores().get(store).map(|s| s.name().to_owned());
    match (one, other) {
        (LayerKind::Data { store, at }, LayerKind::Data { store: later, at: place }) => {
            at == place
                && name(now, *store) == name(then, *later)
                && then.stores().get(*later).is_some_and(|store| {
                    !recording.touches(&**store, &(*at..at.saturating_add(len)))
                })
        }
        (LayerKind::Zero { .. }, LayerKind::Zero { .. }) | (LayerKind::Hole, LayerKind::Hole) => {
            true
        }
        _ => false,
    }
}

/// Compares guest bytes themselves; a hole of the layer is no byte.
fn same_bytes(
    path: &Path,
    now: &dyn Layer,
    then: &dyn Layer,
    range: std::ops::Range<u64>,
) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let nothing = ZeroDisk(0);
    let mut at = range.start;
    while at < range.end {
        let (one, other) = (now.extent_at(at, range.end)?, then.extent_at(at, range.end)?);
        let len = one.len.min(other.len).min(PIECE);
        let hole = |kind| matches!(kind, LayerKind::Hole);
        let mut bytes = [vec![0; usize::try_from(len).unwrap_or_default()], Vec::new()];
        bytes[1] = bytes[0].clone();
        let [first, second] = &mut bytes;
        let readable = layer::read(now, &nothing, first, at).is_ok();
        layer::read(then, &nothing, second, at)?;
        if readable && (hole(one.kind) != hole(other.kind) || first != second) {
            return Err(otherwise(path, at));
        }
        at += len;
    }
    Ok(())
}

fn otherwise(path: &Path, at: u64) -> Error {
    Error::internal(format!(
        "mending would change what the guest reads at byte {at}; nothing was done"
    ))
    .in_file(path)
}

/// Whether a recorder stands over the file of device and inode `id`.
fn is_of(recorder: &Recorder, id: (u64, u64)) -> bool {
    recorder.base().host().is_some_and(|file| file.id() == id)
}

/// The recorders with the image's own file first, as side files number them.
fn ordered(path: &Path, recorders: &[Arc<Recorder>]) -> Result<Vec<Arc<Recorder>>> {
    let top = HostFile::open(path)?.id();
    let mut ordered = recorders.to_vec();
    ordered.sort_by_key(|recorder| !is_of(recorder, top));
    if !ordered.first().is_some_and(|first| is_of(first, top)) {
        ordered.insert(0, Arc::new(Recorder::new(Arc::new(HostFile::open(path)?))?));
    }
    Ok(ordered)
}

/// The file of a recorder, for writing, locked.
fn reopen(recorder: &Recorder, options: &OpenOptions) -> Result<Arc<dyn Store>> {
    let read = recorder.base().host();
    let read = read.ok_or_else(|| Error::internal("a recorder that is not over a file"))?;
    let file = options.open_host_rw(read.path())?;
    match file.id() == read.id() {
        true => Ok(options.host().store(file)),
        false => Err(Error::refused("it was replaced by another file").in_file(read.path())),
    }
}

/// Makes the recorded changes.
fn apply(recorder: &Recorder, file: &dyn Store) -> Result<()> {
    recorder.changes().iter().try_for_each(|change| change.apply(file))?;
    file.flush()
}

/// The changes of a file, as data.
fn told(recorder: &Recorder) -> Vec<ChangeReport> {
    let filename = recorder.name().display().to_string();
    let told = |what, offset, length| {
        Some(ChangeReport { filename: filename.clone(), what, offset, length })
    };
    let changes = recorder.changes();
    changes
        .iter()
        .filter_map(|change| match change {
            Change::Write { at, bytes } => told("write", *at, bytes.len() as u64),
            Change::Zero(range) => told("zero", range.start, range.end - range.start),
            Change::SetLen(len) => told("length", *len, 0),
            Change::Sync => None,
        })
        .collect()
}
