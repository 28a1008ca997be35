//! What a file is like on the way from its old state to the mended one: a power cut may leave any
//! of it.

use std::collections::BTreeMap;
use std::ops::Range;

use sha2::{Digest, Sha256};
use vdisk_core::recorder::Change;
use vdisk_core::{Recorder, Result};

use super::{digest_text, read_padded};

/// What a disk writes whole or not at all: pieces begin and end with one.
pub(super) const SECTOR: u64 = 512;

/// A sector as it is for a while, between two changes of a repair.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Between {
    pub(super) file: usize,
    pub(super) at: u64,
    pub(super) digest: String,
}

/// The whole sectors of what was touched, neighbours joined.
pub(super) fn sectors(touched: Vec<Range<u64>>) -> Vec<Range<u64>> {
    let mut whole: Vec<Range<u64>> = Vec::new();
    for range in touched {
        let start = range.start / SECTOR * SECTOR;
        let end = range.end.checked_next_multiple_of(SECTOR).unwrap_or(range.end);
        match whole.last_mut() {
            Some(last) if last.end >= start => last.end = last.end.max(end),
            _ => whole.push(start..end),
        }
    }
    whole
}

/// What sectors of file number `file` are for a while, between the recorded changes.
pub(super) fn between(file: usize, recorder: &Recorder) -> Result<Vec<Between>> {
    let (changes, base) = (recorder.changes(), recorder.base());
    // Only what is written is looked at one by one: what is zeroed may be large.
    let mut touching: BTreeMap<u64, Vec<&Change>> = BTreeMap::new();
    for change in &changes {
        if let Change::Write { at, bytes } = change {
            for number in sector_numbers(&(*at..at.saturating_add(bytes.len() as u64))) {
                touching.entry(number).or_default();
            }
        }
    }
    for change in &changes {
        if let Some(range) = range_of(change) {
            let touched = touching.range_mut(sector_numbers(&range));
            touched.for_each(|(_, changes)| changes.push(change));
        }
    }
    let mut found = Vec::new();
    for (number, changes) in touching {
        let start = number * SECTOR;
        let mut sector = read_padded(&**base, start, SECTOR)?;
        // It may be cut off in the end.
        let after = read_padded(recorder, start, SECTOR)?;
        for change in changes {
            overlay(&mut sector, start, change);
            if sector != after {
                let digest = digest_text(Sha256::new_with_prefix(&sector));
                found.push(Between { file, at: start, digest });
            }
        }
    }
    Ok(found)
}

/// The least and the greatest length of a file of `before` bytes while the changes are made.
pub(super) fn lengths(before: u64, recorder: &Recorder) -> (u64, u64) {
    let (mut now, mut least, mut most) = (before, before, before);
    for change in recorder.changes() {
        now = match &change {
            Change::SetLen(len) => *len,
            Change::Write { at, bytes } => now.max(at.saturating_add(bytes.len() as u64)),
            Change::Zero(_) | Change::Sync => now,
        };
        (least, most) = (least.min(now), most.max(now));
    }
    (least, most)
}

fn sector_numbers(range: &Range<u64>) -> Range<u64> {
    range.start / SECTOR..range.end.div_ceil(SECTOR)
}

/// The bytes that a change writes or zeroes.
fn range_of(change: &Change) -> Option<Range<u64>> {
    match change {
        Change::Write { at, bytes } => Some(*at..at.saturating_add(bytes.len() as u64)),
        Change::Zero(range) => Some(range.clone()),
        Change::SetLen(_) | Change::Sync => None,
    }
}

/// Makes a change in the bytes of a file from `start` on.
fn overlay(sector: &mut [u8], start: u64, change: &Change) {
    let Some(range) = range_of(change) else { return };
    for (at, byte) in (start..).zip(sector).filter(|(at, _)| range.contains(at)) {
        *byte = match change {
            Change::Write { bytes, .. } => {
                let index = usize::try_from(at - range.start).unwrap_or(usize::MAX);
                bytes.get(index).copied().unwrap_or(0)
            }
            _ => 0,
        };
    }
}
