//! What a guest's disk may hold after a power cut.

use std::ops::Range;

use super::record::SECTOR;

/// A change of the disk, as the guest asked for it.
#[derive(Clone, Debug)]
pub enum Change {
    /// Bytes at an offset.
    Write(usize, Vec<u8>),
    /// Zeros in a range.
    Zero(Range<usize>),
    /// Another size; what is new reads as zero.
    Resize(usize),
    /// Everything before is durable once this is done.
    Flush,
}

#[derive(Clone, Debug)]
struct Moment {
    /// Operations of the files that were done when it began, and when it was over.
    begun: usize,
    done: usize,
    change: Change,
}

/// The disk at the start, and its changes.
#[derive(Clone, Debug)]
pub struct History {
    start: Vec<u8>,
    moments: Vec<Moment>,
    now: Vec<u8>,
}

impl History {
    /// A disk that holds `start`, durably.
    #[must_use]
    pub fn new(start: Vec<u8>) -> Self {
        Self { now: start.clone(), start, moments: Vec::new() }
    }

    /// What the disk holds now.
    #[must_use]
    pub fn now(&self) -> &[u8] {
        &self.now
    }

    /// Notes a change during which the operations `begun..done` of the files were done.
    pub fn note(&mut self, begun: usize, done: usize, change: Change) {
        apply(&mut self.now, &change);
        self.moments.push(Moment { begun, done, change });
    }

    /// Whether the disk may hold `found` after a cut at which `cut` operations were done: each
    /// sector what was flushed last, or something that was written to it later.
    ///
    /// # Errors
    /// What it holds and should not, in words.
    pub fn judge(&self, cut: usize, found: &[u8]) -> Result<(), String> {
        let flushed =
            |moment: &Moment| matches!(moment.change, Change::Flush) && moment.done <= cut;
        let certain = self.moments.iter().rposition(flushed).map_or(0, |at| at + 1);
        let mut disk = self.start.clone();
        self.moments[..certain].iter().for_each(|moment| apply(&mut disk, &moment.change));

        let mut seen = Seen::new(found);
        seen.look(&disk, 0..found.len());
        for moment in self.moments[certain..].iter().filter(|moment| moment.begun < cut) {
            let before = disk.len();
            apply(&mut disk, &moment.change);
            let touched = match &moment.change {
                Change::Write(at, bytes) => *at..at + bytes.len(),
                Change::Zero(range) => range.clone(),
                Change::Resize(size) => before.min(*size)..found.len(),
                Change::Flush => 0..0,
            };
            seen.look(&disk, touched);
        }
        seen.verdict()
    }
}

fn apply(disk: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(at, bytes) => disk[*at..at + bytes.len()].copy_from_slice(bytes),
        Change::Zero(range) => disk[range.clone()].fill(0),
        Change::Resize(size) => disk.resize(*size, 0),
        Change::Flush => {}
    }
}

/// Which sectors of a disk are explained.
struct Seen<'a> {
    found: &'a [u8],
    explained: Vec<bool>,
    sizes: Vec<usize>,
}

impl<'a> Seen<'a> {
    fn new(found: &'a [u8]) -> Self {
        let explained = vec![false; found.len().div_ceil(SECTOR as usize)];
        Self { found, explained, sizes: Vec::new() }
    }

    /// Marks the sectors of a range that are as `disk` has them.
    fn look(&mut self, disk: &[u8], range: Range<usize>) {
        self.sizes.push(disk.len());
        let step = SECTOR as usize;
        let sectors = range.start / step..range.end.div_ceil(step);
        for (number, explained) in self.explained.iter_mut().enumerate() {
            if *explained || !sectors.contains(&number) {
                continue;
            }
            let at = number * step;
            let sector = &self.found[at..self.found.len().min(at + step)];
            let known = &disk[at.min(disk.len())..disk.len().min(at + sector.len())];
            *explained =
                sector.starts_with(known) && sector[known.len()..].iter().all(|byte| *byte == 0);
        }
    }

    fn verdict(&self) -> Result<(), String> {
        if !self.sizes.contains(&self.found.len()) {
            return Err(format!("{} bytes, but it had only {:?}", self.found.len(), self.sizes));
        }
        match self.explained.iter().position(|explained| !explained) {
            Some(number) => {
                let at = number * SECTOR as usize;
                let start = &self.found[at..self.found.len().min(at + 8)];
                Err(format!("sector {number} holds {start:x?}…, which was never written to it"))
            }
            None => Ok(()),
        }
    }
}

/// The values that something took, each in one durable step.
#[derive(Clone, Debug)]
pub struct Values<T>(Vec<(usize, usize, T)>);

impl<T> Values<T> {
    /// It has one value from the start.
    pub fn new(start: T) -> Self {
        Self(vec![(0, 0, start)])
    }

    /// Notes a change during which the operations `begun..done` were done.
    pub fn note(&mut self, begun: usize, done: usize, value: T) {
        self.0.push((begun, done, value));
    }

    /// The values it may have after a cut at which `cut` operations were done.
    pub fn possible(&self, cut: usize) -> impl Iterator<Item = &T> {
        let certain = self.0.iter().rposition(|(_, done, _)| *done <= cut).unwrap_or(0);
        let later = self.0[certain + 1..].iter().filter(move |(begun, ..)| *begun < cut);
        self.0[certain..=certain].iter().chain(later).map(|(.., value)| value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn history() -> History {
        let mut history = History::new(vec![1; 1024]);
        history.note(0, 2, Change::Write(0, vec![2; 512]));
        history.note(2, 4, Change::Flush);
        history.note(4, 6, Change::Write(100, vec![3; 512]));
        history
    }

    #[test]
    fn a_sector_is_what_was_flushed_or_written_later() {
        let history = history();
        let (first, second) = ([vec![2; 512], vec![1; 512]].concat(), history.now().to_vec());
        let mixed = [&second[..512], &first[512..]].concat();
        assert_eq!(history.judge(0, &[1; 1024]), Ok(()));
        assert!(history.judge(0, &first).is_err(), "not yet written");
        assert_eq!(history.judge(1, &first), Ok(()));
        assert!(history.judge(4, &[1; 1024]).is_err(), "lost what was flushed");
        for bytes in [&first, &second, &mixed] {
            assert_eq!(history.judge(5, bytes), Ok(()));
        }
        assert!(history.judge(4, &second).is_err());
        assert!(history.judge(6, &[vec![9; 1], first[1..].to_vec()].concat()).is_err());
    }

    #[test]
    fn sizes_are_those_it_had() {
        let mut history = history();
        history.note(6, 8, Change::Resize(600));
        assert_eq!(history.judge(7, &history.now()[..600]), Ok(()));
        assert!(history.judge(7, &history.now()[..512]).is_err());
        history.note(8, 9, Change::Resize(1024));
        let mut cut = history.now().to_vec();
        assert_eq!(history.judge(9, &cut), Ok(()));
        cut[700] = 9;
        assert!(history.judge(9, &cut).is_err());
    }

    #[test]
    fn values_change_in_one_step() {
        let mut values = Values::new('a');
        values.note(3, 5, 'b');
        let possible = |cut| values.possible(cut).collect::<String>();
        assert_eq!([possible(3), possible(4), possible(5)], ["a", "ab", "b"]);
    }
}
