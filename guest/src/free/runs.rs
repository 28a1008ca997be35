//! Free runs as they are found, and no more of them than can be remembered.

use std::ops::Range;

use vdisk_core::Ranges;

/// Most runs remembered; where there are more, the shorter ones count as used.
const MOST_RUNS: usize = 1 << 20;

/// Free runs in any order. A damaged or made-up volume may tell of any number of them.
#[derive(Debug)]
pub(super) struct Runs {
    /// Runs start and end at multiples of this.
    grain: u64,
    /// Shortest run that is kept.
    least: u64,
    kept: Vec<Range<u64>>,
    /// The last one, which may still grow.
    open: Range<u64>,
}

impl Runs {
    pub(super) fn new(grain: u64, least: u64) -> Self {
        Self { grain, least, kept: Vec::new(), open: 0..0 }
    }

    /// Adds a run. One that touches the last is joined to it before its length counts.
    pub(super) fn push(&mut self, run: Range<u64>) {
        if run.is_empty() {
            return;
        }
        if run.start <= self.open.end && self.open.start <= run.end {
            self.open = self.open.start.min(run.start)..self.open.end.max(run.end);
        } else {
            self.close();
            self.open = run;
        }
    }

    fn close(&mut self) {
        let run = std::mem::take(&mut self.open);
        if self.is_kept(&run) {
            self.kept.push(run);
        }
        // Half of them may go at once, so that this happens seldom.
        if self.kept.len() >= 2 * MOST_RUNS {
            self.thin();
        }
    }

    /// Forgets the shorter runs until there are not too many.
    fn thin(&mut self) {
        while self.kept.len() >= MOST_RUNS {
            self.least = self.least.saturating_mul(2);
            let mut kept = std::mem::take(&mut self.kept);
            kept.retain(|run| self.is_kept(run));
            self.kept = kept;
        }
    }

    /// The part of a run between multiples of the grain.
    fn whole(&self, run: &Range<u64>) -> Range<u64> {
        let start = run.start.checked_next_multiple_of(self.grain).unwrap_or(u64::MAX);
        start..run.end / self.grain * self.grain
    }

    fn is_kept(&self, run: &Range<u64>) -> bool {
        let Range { start, end } = self.whole(run);
        end.saturating_sub(start) >= self.least
    }

    pub(super) fn finish(mut self) -> Ranges {
        self.close();
        self.thin();
        // Runs that were found apart may still touch.
        let joined: Ranges = std::mem::take(&mut self.kept).into_iter().collect();
        joined.iter().map(|run| self.whole(run)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(pushed: impl IntoIterator<Item = Range<u64>>) -> Vec<Range<u64>> {
        let mut runs = Runs::new(4, 8);
        pushed.into_iter().for_each(|run| runs.push(run));
        runs.finish().iter().cloned().collect()
    }

    #[test]
    fn what_touches_is_one_run() {
        assert_eq!(found([0..4, 4..9, 20..24, 16..20, 40..44]), [0..8, 16..24]);
        assert_eq!(found([100..120, 7..7, 1..30, 120..121]), [4..28, 100..120]);
        assert_eq!(found([0..30, 100..120, 30..50]), [0..48, 100..120]);
        assert_eq!(found([8..10, u64::MAX - 2..u64::MAX]), []);
    }

    #[test]
    fn no_more_are_held_than_can_be_remembered() {
        let mut runs = Runs::new(1, 1);
        let most = 2 * MOST_RUNS;
        for number in 0..3 * most as u64 {
            // A longer one among many short ones.
            let len = if number % 1000 == 0 { 9 } else { 1 + number % 2 };
            runs.push(number * 10..number * 10 + len);
            assert!(runs.kept.len() < most);
        }
        assert!(runs.kept.capacity() <= most);
        let kept = runs.finish();
        assert_eq!(kept.count(), 3 * most / 1000 + 1);
        assert!(kept.iter().all(|run| run.end - run.start == 9));
    }
}
