//! Replaying transaction logs, in memory.

use std::ops::Range;

use vdisk_core::{Error, ErrorKind, Result};

use crate::base::{BASE, BASE_USED, BaseBlock, MAX_BINS, field, put, seal};
use crate::hive::Hive;
use crate::image::{BIN_UNIT, Offset};
use crate::log::{Generation, Log};

/// What [`Hive::recover`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Recovery {
    /// The hive was written to the end, so no log belongs to it and none was replayed.
    pub was_clean: bool,
    /// The base block was damaged and was taken from a log.
    pub header_from_log: bool,
    /// What was replayed, in that order.
    pub replayed: Vec<Replayed>,
    /// Logs (by their place in the list given) that were not replayed, and why.
    pub left_out: Vec<(usize, String)>,
    /// Entries of the new generation were replayed from a single log. Windows writes two of them in
    /// turn: where the other one exists and was not given, later entries may be missing.
    pub single_log: bool,
}

/// What was replayed from a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Replayed {
    /// The log's place in the list given.
    pub log: usize,
    /// Which kind of log it is.
    pub generation: Generation,
    /// Sequence numbers of the first entry replayed, and of the one after the last.
    pub sequences: Range<u32>,
    /// Pieces of the hive that were written.
    pub pages: usize,
    /// Bytes in them.
    pub bytes: u64,
}

impl Hive {
    /// Opens a hive with its transaction logs (`.LOG1` and `.LOG2`, or `.LOG`), in any order. Where
    /// the hive is dirty they are replayed, in memory: what comes out is the hive as Windows itself
    /// would have recovered it, but for the sequence numbers, which are one above those replayed.
    ///
    /// Empty logs are no logs. Old logs that a clean hive has beside it are not looked at, except
    /// for their sequence numbers.
    ///
    /// # Errors
    /// `Corrupt` where the hive is dirty and no log fits it, where the logs leave a gap between
    /// them, or where what comes out is no hive; else as [`Hive::parse`]. [`Hive::parse`] still
    /// reads the old state where it is sound.
    pub fn recover(bytes: Vec<u8>, logs: &[&[u8]]) -> Result<(Self, Recovery)> {
        let mut recovery = Recovery::default();
        let head = bytes.get(..BASE).unwrap_or(&bytes);
        let base = BaseBlock::parse(head);
        let logs = readable(logs, &mut recovery);
        if let Ok(base) = &base
            && !base.is_dirty()
        {
            let mut hive = Self::parse(bytes)?;
            hive.note_sequences(&logs);
            recovery.was_clean = true;
            return Ok((hive, recovery));
        }
        let plan = plan(base.as_ref().ok(), &logs, &mut recovery);
        let Some(Some(last)) = plan.as_ref().ok().map(|steps| steps.last().copied()) else {
            return Err(unusable(base, plan.err(), &recovery));
        };
        let steps = plan?;
        recovery.single_log =
            steps.len() == 1 && last.log.generation == Generation::New && logs.len() == 1;
        let limit = bytes.len() + logs.iter().map(|log| log.size).sum::<usize>();
        let mut target = Target { bytes, limit, bins_size: last.log.base.bins_size };
        if let Ok(base) = &base {
            target.bins_size = base.bins_size;
        } else {
            recovery.header_from_log = true;
            target.take_header(last.log.header)?;
        }
        for given in steps {
            recovery.replayed.push(target.replay(given)?);
        }
        seal(&mut target.bytes, last.log.last().wrapping_add(1), target.bins_size);
        let mut hive = Self::parse(target.bytes)?;
        hive.note_sequences(&logs);
        if let Ok(base) = &base {
            hive.sequence = hive.sequence.max(base.primary_sequence).max(base.secondary_sequence);
        }
        Ok((hive, recovery))
    }

    /// Later writes count on from the highest number anywhere, so that no old log can fit again.
    fn note_sequences(&mut self, logs: &[Given<'_>]) {
        for given in logs {
            self.sequence = self.sequence.max(given.log.last());
        }
    }
}

/// A log that can be read.
struct Given<'l> {
    place: usize,
    size: usize,
    log: Log<'l>,
}

fn readable<'l>(logs: &[&'l [u8]], recovery: &mut Recovery) -> Vec<Given<'l>> {
    let mut found = Vec::new();
    for (place, bytes) in logs.iter().enumerate() {
        if bytes.iter().all(|byte| *byte == 0) {
            recovery.left_out.push((place, "it is empty".into()));
            continue;
        }
        match Log::parse(bytes) {
            Ok(log) => found.push(Given { place, size: bytes.len(), log }),
            Err(error) => recovery.left_out.push((place, error.to_string())),
        }
    }
    found
}

fn unusable(base: Result<BaseBlock>, gap: Option<Error>, recovery: &Recovery) -> Error {
    if let Some(gap) = gap {
        return gap;
    }
    let reasons: Vec<String> =
        recovery.left_out.iter().map(|(place, why)| format!("log {}: {why}", place + 1)).collect();
    let why = if reasons.is_empty() { "none was given".to_owned() } else { reasons.join("; ") };
    let error = match base {
        Err(error) => {
            let message = format!("{}; no log can mend it ({why})", error.message());
            Error::new(error.kind(), message).at("registry hive header", 0)
        }
        Ok(base) => {
            let message = format!(
                "the hive was not written to the end (sequence {} of {}), and no log can be \
                 replayed ({why})",
                base.secondary_sequence, base.primary_sequence
            );
            Error::corrupt("registry hive header", 4, message)
        }
    };
    error.hint("give the .LOG1 and .LOG2 files that were beside the hive at the same moment")
}

/// Which logs are replayed, in which order: entries that follow on one another, from the hive's
/// secondary number on; or the newest log of the old generation. The new generation goes first.
fn plan<'s, 'l>(
    base: Option<&BaseBlock>,
    logs: &'s [Given<'l>],
    recovery: &mut Recovery,
) -> Result<Vec<&'s Given<'l>>> {
    let (mut new, mut old) = (Vec::new(), Vec::new());
    for given in logs {
        match fits(base, &given.log) {
            Ok(()) if given.log.generation == Generation::New => new.push(given),
            Ok(()) => old.push(given),
            Err(why) => recovery.left_out.push((given.place, why)),
        }
    }
    if new.is_empty() {
        old.sort_by_key(|given| std::cmp::Reverse(given.log.last()));
        for given in old.iter().skip(1) {
            recovery.left_out.push((given.place, "another log is newer".into()));
        }
        old.truncate(1);
        return Ok(old);
    }
    new.sort_by_key(|given| given.log.first());
    for (before, after) in new.iter().zip(new.iter().skip(1)) {
        let (last, first) = (before.log.last(), after.log.first());
        if first != last.wrapping_add(1) {
            let message = format!(
                "the logs do not follow on one another: one ends with entry {last}, the next \
                 begins with {first}"
            );
            return Err(Error::corrupt(Log::STRUCTURE, BASE_USED as u64, message)
                .hint("give the logs that were beside the hive at the same moment"));
        }
    }
    Ok(new)
}

/// Whether a log belongs to the state the hive is in; else why not.
fn fits(base: Option<&BaseBlock>, log: &Log<'_>) -> Result<(), String> {
    let Some(base) = base else { return Ok(()) };
    if log.first() < base.secondary_sequence {
        return Err(format!(
            "its entries begin with {}, and the hive already holds {}",
            log.first(),
            base.secondary_sequence
        ));
    }
    if log.generation == Generation::Old && log.base.written != base.written {
        return Err("it was written at another time than the hive".into());
    }
    Ok(())
}

/// The hive that is being recovered.
struct Target {
    bytes: Vec<u8>,
    /// Bytes it may grow to: no more than hive and logs have together, so that a false size cannot
    /// take all memory.
    limit: usize,
    bins_size: u32,
}

impl Target {
    /// Takes a log's copy of the base block.
    fn take_header(&mut self, header: &[u8]) -> Result<()> {
        if self.bytes.len() < BASE {
            let message = format!("the file has only {} bytes", self.bytes.len());
            return Err(Error::new(ErrorKind::Truncated, message).at("registry hive header", 0));
        }
        put(&mut self.bytes, 0, header);
        put(&mut self.bytes, field::TYPE, &[0; 4]);
        Ok(())
    }

    fn replay(&mut self, given: &Given<'_>) -> Result<Replayed> {
        let (mut pages, mut bytes) = (0, 0);
        for entry in &given.log.entries {
            self.resize(entry.bins_size)?;
            for page in &entry.pages {
                self.write(page.at, page.bytes)?;
                pages += 1;
                bytes += page.bytes.len() as u64;
            }
        }
        let log = &given.log;
        let sequences = log.first()..log.last().wrapping_add(1);
        Ok(Replayed { log: given.place, generation: log.generation, sequences, pages, bytes })
    }

    fn resize(&mut self, bins_size: u32) -> Result<()> {
        let end = Offset(bins_size).index();
        let fits = bins_size > 0 && bins_size.is_multiple_of(BIN_UNIT) && bins_size <= MAX_BINS;
        if !fits || end > self.limit.max(self.bytes.len()) {
            let message = format!("an entry gives the hive {bins_size} bytes of bins");
            return Err(Error::corrupt(Log::STRUCTURE, BASE_USED as u64, message));
        }
        if self.bytes.len() < end {
            self.bytes.resize(end, 0);
        }
        self.bins_size = bins_size;
        Ok(())
    }

    fn write(&mut self, at: u32, page: &[u8]) -> Result<()> {
        let start = Offset(at).index();
        let within = start.saturating_add(page.len()) <= Offset(self.bins_size).index();
        let place = self.bytes.get_mut(start..).and_then(|rest| rest.get_mut(..page.len()));
        match place.filter(|_| within) {
            Some(place) => place.copy_from_slice(page),
            None => {
                let message = format!("an entry has a page at {at:#x}, outside the bins");
                return Err(Error::corrupt(Log::STRUCTURE, BASE_USED as u64, message));
            }
        }
        Ok(())
    }
}
