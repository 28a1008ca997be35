//! The files as a power cut leaves them.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use fastrand::Rng;
use vdisk_core::{MemStore, Store};

use super::record::{Event, SECTOR};

/// Which of the operations that no flush covers survive a cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// All: a process that was killed, on a host that goes on.
    Everything,
    /// None.
    Nothing,
    /// Any of them.
    Some,
    /// One alone.
    One,
    /// All but one.
    AllButOne,
    /// All, one of them torn: only its first sectors, or only its last.
    Torn,
    /// Any of them, torn or whole.
    SomeTorn,
    /// Any sectors of any of them.
    Sectors,
}

impl Fate {
    /// Every fate.
    pub const ALL: [Self; 8] = [
        Self::Everything,
        Self::Nothing,
        Self::Some,
        Self::One,
        Self::AllButOne,
        Self::Torn,
        Self::SomeTorn,
        Self::Sectors,
    ];
}

/// All that happened to files, and what they were before.
#[derive(Clone, Debug, Default)]
pub struct Recording {
    /// The files as they were when first seen.
    start: Vec<MemStore>,
    names: BTreeMap<PathBuf, usize>,
    pub(super) events: Vec<Event>,
}

impl Recording {
    pub(super) fn add(&mut self, start: MemStore, path: Option<PathBuf>) -> usize {
        let number = self.start.len();
        self.start.push(start);
        if let Some(path) = path {
            self.names.insert(path, number);
        }
        number
    }

    /// Operations.
    #[must_use]
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Whether nothing happened.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.events.is_empty()
    }

    /// Numbers of the operations that are flushes: right before one, most can be lost.
    #[must_use]
    pub fn syncs(&self) -> Vec<usize> {
        let is_sync = |at: &usize| matches!(self.events[*at], Event::Sync { .. });
        (0..self.len()).filter(is_sync).collect()
    }

    /// The names of the files that were changed, as far as they have one.
    #[must_use]
    pub fn changed(&self) -> Vec<&Path> {
        let changed = |number: usize| {
            self.events.iter().any(|event| match event {
                Event::Write { file, .. } | Event::Zero { file, .. } => *file == number,
                Event::SetLen { file, .. } => *file == number,
                _ => false,
            })
        };
        let names = self.names.iter().filter(|(_, number)| changed(**number));
        names.map(|(path, _)| path.as_path()).collect()
    }

    /// Begins before the first operation.
    #[must_use]
    pub fn replay(&self) -> Replay<'_> {
        let pending = Vec::new();
        Replay {
            recording: self,
            at: 0,
            files: self.start.clone(),
            names: self.names.clone(),
            pending,
        }
    }
}

/// Goes through a recording.
#[derive(Debug)]
pub struct Replay<'a> {
    recording: &'a Recording,
    at: usize,
    /// What is durable.
    files: Vec<MemStore>,
    names: BTreeMap<PathBuf, usize>,
    /// The operations before `at` that are not.
    pending: Vec<&'a Event>,
}

impl<'a> Replay<'a> {
    /// Goes on to where `to` operations are done.
    pub fn advance(&mut self, to: usize) {
        let recording = self.recording;
        for event in &recording.events[self.at.min(to)..to] {
            match event {
                Event::Sync { file } => {
                    self.settle(|event| file_of(event) == Some(*file));
                }
                Event::SyncFolder { path } => {
                    self.settle(|event| name_of(event).and_then(Path::parent) == Some(path));
                }
                _ => self.pending.push(event),
            }
        }
        self.at = self.at.max(to);
    }

    fn settle(&mut self, covers: impl Fn(&Event) -> bool) {
        let (durable, pending) = self.pending.iter().partition(|event| covers(event));
        self.pending = pending;
        for event in <Vec<&Event>>::into_iter(durable) {
            apply(event, &mut self.files, &mut self.names, |_| true);
        }
    }

    /// The files by name, as a cut here may leave them.
    #[must_use]
    pub fn files(&self, fate: Fate, rng: &mut Rng) -> BTreeMap<PathBuf, MemStore> {
        let (mut files, mut names) = (self.files.clone(), self.names.clone());
        let chosen = rng.usize(0..self.pending.len().max(1));
        for (number, event) in self.pending.iter().enumerate() {
            let sectors = sectors_of(event);
            let part = match fate {
                Fate::Everything => Part::All,
                Fate::Nothing => Part::None,
                Fate::Some => Part::all_if(rng.bool()),
                Fate::One => Part::all_if(number == chosen),
                Fate::AllButOne => Part::all_if(number != chosen),
                Fate::Torn if number == chosen => Part::torn(sectors, rng),
                Fate::Torn => Part::All,
                Fate::SomeTorn if rng.bool() => Part::None,
                Fate::SomeTorn if rng.bool() => Part::torn(sectors, rng),
                Fate::SomeTorn => Part::All,
                Fate::Sectors if sectors > 1 => Part::Any,
                Fate::Sectors => Part::all_if(rng.bool()),
            };
            if part != Part::None {
                apply(event, &mut files, &mut names, |sector| part.holds(sector, rng));
            }
        }
        let mut found = BTreeMap::new();
        for (path, number) in names {
            found.insert(path, files[number].clone());
        }
        found
    }
}

/// What survives of one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Part {
    None,
    All,
    Head(u64),
    Tail(u64),
    Any,
}

impl Part {
    fn all_if(all: bool) -> Self {
        if all { Self::All } else { Self::None }
    }

    fn torn(sectors: u64, rng: &mut Rng) -> Self {
        if sectors < 2 {
            return Self::all_if(rng.bool());
        }
        let at = rng.u64(1..sectors);
        if rng.bool() { Self::Head(at) } else { Self::Tail(at) }
    }

    fn holds(self, sector: u64, rng: &mut Rng) -> bool {
        match self {
            Self::None => false,
            Self::All => true,
            Self::Head(end) => sector < end,
            Self::Tail(start) => sector >= start,
            Self::Any => rng.bool(),
        }
    }
}

fn file_of(event: &Event) -> Option<usize> {
    match event {
        Event::Write { file, .. } | Event::Zero { file, .. } | Event::SetLen { file, .. } => {
            Some(*file)
        }
        _ => None,
    }
}

fn name_of(event: &Event) -> Option<&Path> {
    match event {
        Event::Name { path, .. } | Event::Unname { path } => Some(path),
        _ => None,
    }
}

/// Sectors of an operation that can be torn; 1 for all others.
fn sectors_of(event: &Event) -> u64 {
    match event {
        Event::Write { bytes, .. } => (bytes.len() as u64).div_ceil(SECTOR),
        Event::Zero { len, .. } => len.div_ceil(SECTOR),
        _ => 1,
    }
}

/// Does again what `event` did, with those of its sectors that `holds` names by number.
fn apply(
    event: &Event,
    files: &mut [MemStore],
    names: &mut BTreeMap<PathBuf, usize>,
    mut holds: impl FnMut(u64) -> bool,
) {
    let done = match event {
        Event::Write { file, at, bytes } => {
            let pieces = bytes.chunks(SECTOR as usize).zip(0..);
            let mut kept = pieces.filter(|(_, number)| holds(*number));
            kept.try_for_each(|(piece, number)| {
                files[*file].write_all_at(piece, at + number * SECTOR)
            })
        }
        Event::Zero { file, at, len } => {
            let mut kept = (0..len / SECTOR).filter(|number| holds(*number));
            kept.try_for_each(|number| files[*file].zero(at + number * SECTOR, SECTOR))
        }
        Event::SetLen { file, len } => files[*file].set_len(*len),
        Event::Name { path, file } => {
            names.insert(path.clone(), *file);
            Ok(())
        }
        Event::Unname { path } => {
            names.remove(path);
            Ok(())
        }
        Event::Sync { .. } | Event::SyncFolder { .. } => Ok(()),
    };
    done.expect("memory");
}
