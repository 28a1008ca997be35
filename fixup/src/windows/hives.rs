//! The hives of a guest: read with their logs, changed, and written back as whole.

use std::time::SystemTime;

use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::Place;
use vdisk_guest::fs::{Edit, GuestFs, GuestFsMut};
use vdisk_hive::{Editor, FileTime, Hive, LOG_HEADER, changes};

use super::identity::rewrite::unused;
use super::identity::swap::Swap;
use super::registry::Registry;
use crate::{Action, Machine, Plan};

/// Bytes of a hive or a log, at most.
const MOST: u64 = 512 << 20;
/// The endings of a hive's logs: from Vista on two, before it one.
const LOGS: [&str; 3] = [".LOG1", ".LOG2", ".LOG"];

/// `FILE_ATTRIBUTE_*`: what keeps bytes from standing where the file says, and the way out.
const IN_THE_WAY: [(u32, &str, &str); 4] = [
    (0x0800, "compressed", "uncompress it in the guest with: compact /u"),
    (0x4000, "encrypted", "decrypt it in the guest with: cipher /d"),
    (0x0200, "sparse", "copy it in the guest, so that it becomes an ordinary file"),
    (
        0x0400,
        "kept elsewhere (a reparse point)",
        "uncompress it in the guest with: compact /u /exe",
    ),
];

/// The hives of one Windows, opened when they are first asked for.
///
/// All changes stay in memory until [`Hives::finish`] writes them to the machine's volumes.
#[derive(Debug)]
pub struct Hives {
    root: Place,
    folder: String,
    now: FileTime,
    open: Vec<Open>,
}

#[derive(Debug)]
struct Open {
    place: Place,
    path: String,
    /// The file as it was.
    bytes: Vec<u8>,
    /// What was replayed from its logs, where it was dirty.
    replayed: Option<String>,
    registry: Registry,
}

impl Hives {
    /// Of the Windows in `folder` (such as `/Windows`) of the volume at `root`.
    #[must_use]
    pub fn new(root: Place, folder: &str) -> Self {
        let now = FileTime::from(SystemTime::now());
        Self { root, folder: folder.to_owned(), now, open: Vec::new() }
    }

    /// The volume that Windows is on.
    #[must_use]
    pub fn root(&self) -> &Place {
        &self.root
    }

    /// The folder of Windows on it, such as `/Windows`.
    #[must_use]
    pub fn folder(&self) -> &str {
        &self.folder
    }

    /// When these changes are made.
    #[must_use]
    pub fn now(&self) -> FileTime {
        self.now
    }

    /// The hive `name` in `System32\config`: `SYSTEM`, `SOFTWARE`, `SAM`, `SECURITY`, `DEFAULT`.
    ///
    /// # Errors
    /// As [`Hives::file`].
    pub fn config(&mut self, machine: &mut Machine, name: &str) -> Result<&mut Registry> {
        let path = format!("{}/System32/config/{name}", self.folder);
        let root = self.root.clone();
        self.file(machine, &root, &path, name)
    }

    /// The hive in the file `path` of the volume at `place`, which is called `name` in plans. Where
    /// it is dirty it comes with what its logs hold.
    ///
    /// # Errors
    /// [`ErrorKind::NotFound`]; [`ErrorKind::Refused`] where the file is compressed or encrypted,
    /// the hive is damaged, or dirty and its logs do not mend it; as [`Machine::volume`].
    pub fn file(
        &mut self,
        machine: &mut Machine,
        place: &Place,
        path: &str,
        name: &str,
    ) -> Result<&mut Registry> {
        let same = |one: &Open| one.place == *place && one.path.eq_ignore_ascii_case(path);
        let index = match self.open.iter().position(same) {
            Some(index) => index,
            None => {
                let opened = self.load(machine, place, path, name);
                self.open.push(opened.map_err(|error| of_hive(error, name))?);
                self.open.len() - 1
            }
        };
        let found = self.open.get_mut(index).map(|one| &mut one.registry);
        found.ok_or_else(|| Error::internal("a hive was opened and is not there"))
    }

    /// Writes the changed hives to their files, and reads them back. Their logs, which Windows
    /// does not look at any more, lose their headers.
    ///
    /// # Errors
    /// As [`GuestFsMut::apply`]; [`ErrorKind::Internal`] where a hive does not read back.
    pub fn finish(self, machine: &mut Machine, plan: &mut Plan) -> Result<()> {
        for hive in self.open {
            let name = hive.registry.name().to_owned();
            hive.store(machine, plan).map_err(|error| of_hive(error, &name))?;
        }
        Ok(())
    }

    fn load(&self, machine: &mut Machine, place: &Place, path: &str, name: &str) -> Result<Open> {
        let fs = machine.volume(place)?.fs();
        let attributes = fs.stat(path.as_bytes())?.attributes.unwrap_or_default();
        if let Some((_, what, hint)) = IN_THE_WAY.iter().find(|(bit, ..)| attributes & bit != 0) {
            return Err(Error::refused(format!("the file {path} is {what}")).hint(*hint));
        }
        let bytes = fs.read(path.as_bytes(), MOST)?;
        let mut logs = Vec::new();
        for ending in LOGS {
            match fs.read(format!("{path}{ending}").as_bytes(), MOST) {
                Ok(log) => logs.push(log),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error),
            }
        }
        let logs: Vec<&[u8]> = logs.iter().map(Vec::as_slice).collect();
        let (hive, recovery) = Hive::recover(bytes.clone(), &logs).map_err(needs_windows)?;
        let replayed = recovery.replayed.iter().map(|one| format!("{} pieces", one.pages));
        let replayed = (!recovery.was_clean).then(|| replayed.collect::<Vec<_>>().join(" and "));
        let registry = Registry::new(name, Editor::new(hive, self.now)?);
        Ok(Open { place: place.clone(), path: path.to_owned(), bytes, replayed, registry })
    }
}

impl Open {
    fn store(self, machine: &mut Machine, plan: &mut Plan) -> Result<()> {
        let (editor, swap) = self.registry.into_parts();
        let changed = editor.is_changed();
        let mut content = editor.finish()?;
        let mut count = 0;
        if let Some(swap) = &swap {
            (count, content) = unused(content, swap)?;
        }
        let fs = machine.volume(&self.place)?.fs();
        // A log that names the old machine goes, and with it the hive must be as recovered from it.
        let named = swap.as_ref().map_or(Ok(false), |swap| logs_name(fs, &self.path, swap))?;
        if !changed && count == 0 && !named {
            return Ok(());
        }
        if count > 0 {
            let what = "take the old machine SID out of what the hive does not use";
            let why = "what was deleted stays readable";
            let action = Action::new("windows.sid.unused", what, &self.path).why(why);
            plan.act(action.before(format!("{count} times")));
        }
        write(fs, &self.path, &self.bytes, &content)?;
        if fs.read(self.path.as_bytes(), MOST)? != content {
            return Err(Error::internal(format!("{} does not read back", self.path)));
        }
        if let Some(replayed) = self.replayed {
            let what = "write down what waited in the hive's logs";
            let why = "a hive is changed only as Windows would find it at its start";
            plan.act(
                Action::new("windows.hive.recover", what, &self.path).why(why).after(replayed),
            );
        }
        let logs = LOGS.iter().map(|ending| format!("{}{ending}", self.path));
        logs.into_iter().try_for_each(|path| clear_log(fs, &path, swap.as_ref(), plan))
    }
}

/// Writes from the first page that differs to the last.
fn write(fs: &mut dyn GuestFsMut, path: &str, before: &[u8], after: &[u8]) -> Result<()> {
    let changes = changes(before, after);
    let Some(start) = changes.iter().map(|change| change.offset).min() else { return Ok(()) };
    let end = changes.iter().map(|change| change.offset + change.bytes.len() as u64).max();
    let [from, to] = [Some(start), end].map(|at| at.and_then(|at| usize::try_from(at).ok()));
    let data = from.zip(to).and_then(|(from, to)| after.get(from..to));
    let data = data.ok_or_else(|| Error::internal("a hive changed beyond its end"))?;
    fs.apply(&Edit::Write { path: path.as_bytes(), offset: start, data })
}

/// Whether logs of the hive at `path` name the machine that `swap` takes out.
pub(super) fn logs_name(fs: &dyn GuestFs, path: &str, swap: &Swap) -> Result<bool> {
    for ending in LOGS {
        match fs.read(format!("{path}{ending}").as_bytes(), MOST) {
            Ok(log) if swap.count(&log) > 0 => return Ok(true),
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(false)
}

/// Whether a file's name is one of a hive's log.
pub(super) fn is_log(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    LOGS.iter().any(|ending| name.ends_with(ending))
}

/// Zeros the header of a log; where the log names the machine that `swap` takes out, all of it.
fn clear_log(
    fs: &mut dyn GuestFsMut,
    path: &str,
    swap: Option<&Swap>,
    plan: &mut Plan,
) -> Result<()> {
    let mut log = match fs.read(path.as_bytes(), MOST) {
        Ok(log) => log,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    let header = usize::try_from(LOG_HEADER.end).unwrap_or_default();
    let len = if swap.is_some_and(|swap| swap.count(&log) > 0) { log.len() } else { header };
    let Some(place) = log.get_mut(..len) else { return Ok(()) };
    if place.iter().all(|byte| *byte == 0) {
        return Ok(());
    }
    place.fill(0);
    fs.apply(&Edit::Write { path: path.as_bytes(), offset: 0, data: place })?;
    let action = Action::new("windows.hive.log", "empty the header of a hive's log", path)
        .why("its content is of the hive as it was")
        .before("a log of the hive as it was")
        .after(format!("{len} zeros"));
    plan.act(action);
    Ok(())
}

fn needs_windows(error: Error) -> Error {
    if error.kind() != ErrorKind::Corrupt || error.advice().is_some() {
        return error;
    }
    error.hint("start Windows once and shut it down with: shutdown /s /f /t 0")
}

fn of_hive(error: Error, name: &str) -> Error {
    let told = Error::new(error.kind(), format!("hive {name}: {error}"));
    match error.advice() {
        Some(hint) => told.hint(hint.to_owned()),
        None => told,
    }
}
