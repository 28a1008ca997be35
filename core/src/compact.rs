//! Making image files smaller: what may be given up, and how what is left moves together.
//!
//! A format says where its allocation units stand ([`Units`]) and what else takes the file;
//! [`Packing`] then tells which unit moves where. It takes units from the end of the file and puts
//! them into gaps in front, so no place is used twice: what a unit leaves behind is only cut off.
//! A format that makes a unit's new place durable before it uses the old one for anything, and
//! cuts the file last, loses nothing in a power cut.

use std::ops::Range;

use crate::error::{Error, Result};
use crate::ranges::Ranges;
use crate::store::{Store, StoreExt};
use crate::zeros::is_zero;

/// Host bytes that a file system gives back at the least; smaller holes are not worth it.
pub const PUNCH: u64 = 4096;

/// Guest ranges whose space an image may give up. Where the two overlap, the first counts.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vacant {
    /// Bytes that read the same if the image says nothing of them: zeros where there is no parent
    /// or the parents hold zeros too, and what is the parents' already.
    pub unsaid: Ranges,
    /// Bytes that read as zeros while the parents hold something else. Empty without a parent.
    pub zeros: Ranges,
}

impl Vacant {
    /// The allocation units of `unit` bytes that lie in one range as a whole, as ranges of their
    /// numbers, each unit in one list only. They are counted from guest byte `start`, in a stretch
    /// of `len` bytes; the last may be short.
    #[must_use]
    pub fn units(&self, start: u64, len: u64, unit: u64) -> Self {
        let unsaid = whole_units(&self.unsaid, start, len, unit);
        let zeros = whole_units(&self.zeros, start, len, unit).without(&unsaid);
        Self { unsaid, zeros }
    }
}

/// What compacting does to an image, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Compaction {
    /// Allocation units given up.
    pub released: u64,
    /// Allocation units moved towards the start of their file.
    pub moved: u64,
    /// Bytes of guest data whose space inside the files goes back to the host as holes.
    pub punched: u64,
    /// Bytes by which the image's files get shorter.
    pub cut: u64,
}

impl std::ops::AddAssign for Compaction {
    fn add_assign(&mut self, more: Self) {
        self.released += more.released;
        self.moved += more.moved;
        self.punched += more.punched;
        self.cut += more.cut;
    }
}

/// See [`Vacant::units`].
fn whole_units(ranges: &Ranges, start: u64, len: u64, unit: u64) -> Ranges {
    let mut units = Ranges::new();
    let mut next = ranges.at_or_after(start);
    while let Some(range) = next.filter(|range| range.start < start.saturating_add(len)) {
        let end = range.end - start;
        let from = range.start.saturating_sub(start).div_ceil(unit);
        units.push(from..if end >= len { len.div_ceil(unit) } else { end / unit });
        next = ranges.at_or_after(range.end);
    }
    units
}

/// Gives the space of a range of the file back to the host, in whole pages, unless it is a hole
/// already; it reads as zeros afterwards. Returns the bytes that were given back.
///
/// # Errors
/// The host's.
pub fn punch(store: &dyn Store, range: Range<u64>, what: &'static str) -> Result<u64> {
    let stored = stored(store, range)?;
    for data in &stored {
        store.clear(data.start, data.end - data.start, what)?;
    }
    Ok(total(&stored))
}

/// The bytes that [`punch`] would give back.
///
/// # Errors
/// The host's.
pub fn punchable(store: &dyn Store, range: Range<u64>) -> Result<u64> {
    stored(store, range).map(|stored| total(&stored))
}

/// The parts of a range, in whole pages, that are no holes.
fn stored(store: &dyn Store, range: Range<u64>) -> Result<Vec<Range<u64>>> {
    let mut at = range.start.next_multiple_of(PUNCH);
    let end = range.end.min(store.size()?) / PUNCH * PUNCH;
    let mut found = Vec::new();
    while at < end {
        let run = store
            .run_at(at, end)
            .map_err(|e| Error::io(e, "look for holes").in_file(store.name()))?;
        if !run.hole {
            found.push(at..at + run.len);
        }
        at += run.len.max(1);
    }
    Ok(found)
}

fn total(ranges: &[Range<u64>]) -> u64 {
    ranges.iter().map(|range| range.end - range.start).sum()
}

/// Copies `len` bytes of a file from byte `from` to byte `to`, which do not overlap. What lies
/// behind the file's end is zeros, and zeros become holes.
///
/// # Errors
/// The host's.
pub fn copy_within(
    store: &dyn Store,
    from: u64,
    to: u64,
    len: u64,
    what: &'static str,
) -> Result<()> {
    const PIECE: u64 = 1 << 20;
    let there = store.size()?.saturating_sub(from);
    let mut buf = Vec::new();
    let mut done = 0;
    while done < len {
        let step = PIECE.min(len - done);
        buf.clear();
        buf.resize(usize::try_from(step).unwrap_or_default(), 0);
        let inside = usize::try_from(there.saturating_sub(done)).unwrap_or(usize::MAX);
        let inside = inside.min(buf.len());
        if let Some(piece) = buf.get_mut(..inside).filter(|piece| !piece.is_empty()) {
            store.fetch(piece, from + done, what)?;
        }
        if is_zero(&buf) {
            store.clear(to + done, step, what)?;
        } else {
            store.put(&buf, to + done, what)?;
        }
        done += step;
    }
    Ok(())
}

/// Allocation units of one length that stand one after the other, numbered in the same order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Units {
    /// Byte of the file where the first one starts.
    pub at: u64,
    /// Its number.
    pub first: u64,
    /// How many there are, at least 1.
    pub count: u64,
    /// Bytes of the file that each of them takes, at least 1.
    pub len: u64,
}

impl Units {
    /// Takes the units with these numbers, which are in order, out of the list and returns them.
    pub fn take_out(list: &mut Vec<Self>, numbers: &Ranges) -> Vec<Self> {
        let (mut kept, mut taken) = (Vec::new(), Vec::new());
        for units in list.iter() {
            let all = units.first..units.first.saturating_add(units.count);
            let stay = Ranges::from_iter([all.clone()]).without(numbers);
            taken.extend(numbers.within(all).map(|n| units.part(&n)));
            kept.extend(stay.iter().map(|n| units.part(n)));
        }
        *list = kept;
        taken
    }

    /// How many units there are in a list.
    #[must_use]
    pub fn count(list: &[Self]) -> u64 {
        list.iter().map(|units| units.count).sum()
    }

    fn part(&self, numbers: &Range<u64>) -> Self {
        Self {
            at: self.at + (numbers.start - self.first) * self.len,
            first: numbers.start,
            count: numbers.end - numbers.start,
            len: self.len,
        }
    }

    /// Adds one unit to a list, to its last run where it goes on there.
    pub fn add(list: &mut Vec<Self>, unit: Self) {
        match list.last_mut() {
            Some(last)
                if last.end() == unit.at
                    && last.len == unit.len
                    && last.first.saturating_add(last.count) == unit.first =>
            {
                last.count += unit.count;
            }
            _ => list.push(unit),
        }
    }

    /// Where the last one ends, bytes.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.at.saturating_add(self.count.saturating_mul(self.len))
    }
}

/// A unit that moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// Its number.
    pub unit: u64,
    /// Byte of the file where it stands.
    pub from: u64,
    /// Byte of the file where it goes: free, and apart from where it stands.
    pub to: u64,
    /// Bytes that it takes.
    pub len: u64,
}

/// Where a unit may stand in a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fit {
    /// Best at multiples of so many bytes.
    pub align: u64,
    /// The byte of the unit that is to stand there.
    pub skew: u64,
    /// Where that leaves no room, its start may stand at multiples of so many bytes.
    pub least: u64,
}

impl Fit {
    /// Where a unit of `len` bytes goes in a gap; `None` where it has no room.
    fn place(&self, gap: &Range<u64>, len: u64) -> Option<u64> {
        let skewed = gap.start.saturating_add(self.skew).checked_next_multiple_of(self.align);
        let best = skewed.map(|at| at - self.skew);
        let packed = gap.start.checked_next_multiple_of(self.least);
        let places = [best, packed].into_iter().flatten();
        places.into_iter().find(|at| at.saturating_add(len) <= gap.end)
    }
}

/// The moves that bring the units of a file together; an iterator, so that a plan takes no memory
/// of its own. Once it has ended, [`Packing::end`] is where the file may be cut.
#[derive(Clone, Debug)]
pub struct Packing {
    /// Units that have not moved, by place.
    units: Vec<Units>,
    /// Free stretches in front of the last unit, in order; they shrink from their starts.
    gaps: Vec<Range<u64>>,
    /// For each length of unit the first gap that may still hold one.
    cursors: Vec<(u64, usize)>,
    /// The end of all that does not move.
    floor: u64,
    /// The end of all units that have moved.
    moved_end: u64,
    fit: Fit,
}

impl Packing {
    /// The packing of a file of `units` among `fixed` ranges, which do not move.
    #[must_use]
    pub fn new(mut units: Vec<Units>, mut fixed: Vec<Range<u64>>, fit: Fit) -> Self {
        units.sort_unstable_by_key(|units| units.at);
        fixed.retain(|range| !range.is_empty());
        fixed.sort_unstable_by_key(|range| range.start);
        let floor = fixed.iter().map(|range| range.end).max().unwrap_or(0);
        let gaps = gaps(&units, &fixed);
        Self { units, gaps, cursors: Vec::new(), floor, moved_end: 0, fit }
    }

    /// Where everything ends that stays in the file, as far as it has moved.
    #[must_use]
    pub fn end(&self) -> u64 {
        let units = self.units.last().map_or(0, Units::end);
        self.floor.max(self.moved_end).max(units)
    }

    /// The stretches that are still free in front of [`Packing::end`].
    pub fn free(&self) -> impl Iterator<Item = Range<u64>> + '_ {
        let end = self.end();
        let ahead = self.gaps.iter().take_while(move |gap| gap.start < end);
        ahead.filter(|gap| !gap.is_empty()).map(move |gap| gap.start..gap.end.min(end))
    }

    /// The number of the first gap in front of byte `limit` that holds a unit of `len` bytes, and
    /// where in it the unit goes.
    fn gap_for(&mut self, len: u64, limit: u64) -> Option<(usize, u64)> {
        let known = self.cursors.iter().position(|(known, _)| *known == len);
        let known = known.unwrap_or_else(|| {
            self.cursors.push((len, 0));
            self.cursors.len() - 1
        });
        let (_, cursor) = self.cursors.get_mut(known)?;
        loop {
            let gap = self.gaps.get(*cursor).filter(|gap| gap.start < limit)?;
            if let Some(to) = self.fit.place(gap, len) {
                return Some((*cursor, to));
            }
            *cursor += 1;
        }
    }
}

impl Iterator for Packing {
    type Item = Move;

    fn next(&mut self) -> Option<Move> {
        let last = *self.units.last()?;
        let from = last.end() - last.len;
        if last.end() <= self.floor {
            // Something behind it stays: moving it would not make the file shorter.
            return None;
        }
        let (index, to) = self.gap_for(last.len, from)?;
        let gap = self.gaps.get_mut(index)?;
        gap.start = to + last.len;
        self.moved_end = self.moved_end.max(gap.start);
        if last.count > 1 {
            if let Some(units) = self.units.last_mut() {
                units.count -= 1;
            }
        } else {
            self.units.pop();
        }
        Some(Move { unit: last.first + last.count - 1, from, to, len: last.len })
    }
}

/// What neither units nor fixed ranges take in front of the last unit; both are in order.
fn gaps(units: &[Units], fixed: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut fixed = fixed.iter().peekable();
    let mut gaps = Vec::new();
    let mut at = 0;
    let mut take = |range: Range<u64>| {
        if range.start > at {
            gaps.push(at..range.start);
        }
        at = at.max(range.end);
    };
    for units in units {
        while let Some(range) = fixed.next_if(|range| range.start < units.at) {
            take(range.clone());
        }
        take(units.at..units.end());
    }
    fixed.cloned().for_each(take);
    gaps
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANYWHERE: Fit = Fit { align: 1, skew: 0, least: 1 };

    #[test]
    fn units_are_aligned_where_there_is_room() {
        let fit = Fit { align: 100, skew: 30, least: 10 };
        assert_eq!(fit.place(&(0..200), 50), Some(70));
        assert_eq!(fit.place(&(71..200), 30), Some(170));
        assert_eq!(fit.place(&(71..199), 30), Some(80));
        assert_eq!(fit.place(&(71..109), 30), None);
        assert_eq!(fit.place(&(u64::MAX - 4..u64::MAX), 1), None);
    }

    #[test]
    fn units_move_from_the_end_into_gaps() {
        let unit = |at, first| Units { at, first, count: 1, len: 10 };
        let units = vec![unit(50, 3), unit(20, 1), unit(90, 2), unit(70, 7)];
        let mut packing = Packing::new(units, vec![0..5, 30..38], ANYWHERE);
        let moves: Vec<_> = packing.by_ref().map(|m| (m.unit, m.from, m.to)).collect();
        // 5..20 holds one, 38..50 one, 60..70 none of what is left behind it.
        assert_eq!(moves, [(2, 90, 5), (7, 70, 38)]);
        assert_eq!(packing.end(), 60);
        assert_eq!(packing.free().collect::<Vec<_>>(), [15..20, 48..50]);
    }

    #[test]
    fn what_stays_behind_pins_the_file() {
        let units = vec![Units { at: 20, first: 0, count: 3, len: 10 }];
        let mut packing = Packing::new(units, vec![0..5, 50..51], ANYWHERE);
        assert_eq!(packing.next(), None);
        assert_eq!(packing.end(), 51);
        assert!(packing.free().eq(std::iter::once(5..20)));
    }

    /// Random files: units never overlap at any time, nothing that moves could move further.
    #[test]
    fn packing_is_sound_and_tight() {
        for seed in 0..500 {
            let mut rng = fastrand::Rng::with_seed(seed);
            let (mut units, mut fixed, mut at, mut number) = (Vec::new(), Vec::new(), 0, 0);
            let small = rng.bool();
            for _ in 0..rng.u64(1..40) {
                let len = if small && rng.bool() { 1 } else { 4 };
                let count = rng.u64(1..4);
                match rng.u32(0..5) {
                    0 => fixed.push(at..at + rng.u64(1..5)),
                    1 => at += rng.u64(1..20),
                    _ => {
                        units.push(Units { at, first: number, count, len });
                        number += count;
                        at += len * count;
                    }
                }
                at = at.max(fixed.last().map_or(0, |range: &Range<u64>| range.end));
            }
            let mut taken: Vec<(u64, u64)> = units
                .iter()
                .flat_map(|u| (0..u.count).map(move |n| (u.at + n * u.len, u.len)))
                .chain(fixed.iter().map(|range| (range.start, range.end - range.start)))
                .collect();
            rng.shuffle(&mut units);
            let mut packing = Packing::new(units, fixed, ANYWHERE);
            for step in packing.by_ref() {
                assert!(step.to + step.len <= step.from, "seed {seed}: {step:?}");
                let new = step.to..step.to + step.len;
                let free = taken.iter().all(|(at, len)| new.end <= *at || at + len <= new.start);
                assert!(free, "seed {seed}: {step:?} goes over what is there");
                // The old place is only cut off, never used: it stays taken.
                taken.push((step.to, step.len));
            }
            let end = packing.end();
            assert!(packing.free().all(|gap| gap.end <= end), "seed {seed}");
            let last = packing.units.last().filter(|last| last.end() == end);
            if let Some(last) = last.filter(|last| last.end() > packing.floor) {
                let mut gaps = packing.free().filter(|gap| gap.start < last.end() - last.len);
                assert!(gaps.all(|gap| gap.end - gap.start < last.len), "seed {seed}");
            }
        }
    }

    #[test]
    fn whole_units_lie_in_one_range() {
        let found = |ranges: &[(u64, u64)]| {
            let ranges: Ranges = ranges.iter().map(|(start, end)| *start..*end).collect();
            let units = whole_units(&ranges, 100, 95, 10);
            units.iter().map(|units| (units.start, units.end)).collect::<Vec<_>>()
        };
        assert_eq!(found(&[(0, 300)]), [(0, 10)]);
        let many = [(0, 120), (121, 140), (185, 195), (200, 300)];
        assert_eq!(found(&many), [(0, 2), (3, 4), (9, 10)]);
        assert_eq!(found(&[(0, 100), (101, 109), (180, 194)]), [(8, 9)]);
        assert_eq!(found(&[(195, 300)]), []);
    }

    #[test]
    fn units_are_taken_out_of_their_runs() {
        let mut list = Vec::new();
        for first in [0, 1, 2, 3, 4, 7] {
            Units::add(&mut list, Units { at: 100 + first * 10, first, count: 1, len: 10 });
        }
        assert_eq!(list.len(), 2);
        let taken = Units::take_out(&mut list, &Ranges::from_iter([1..3, 4..6, 7..9]));
        let told =
            |list: &[Units]| list.iter().map(|u| (u.at, u.first, u.count)).collect::<Vec<_>>();
        assert_eq!(told(&taken), [(110, 1, 2), (140, 4, 1), (170, 7, 1)]);
        assert_eq!(told(&list), [(100, 0, 1), (130, 3, 1)]);
        assert_eq!((Units::count(&taken), Units::count(&list)), (4, 2));
    }
}
