//! Byte ranges of a disk that mean something together, such as what nobody uses.

use std::ops::Range;

/// Ranges in ascending order that neither overlap nor touch.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ranges(Vec<Range<u64>>);

impl Ranges {
    /// No range.
    #[must_use]
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Adds a range that does not start before those added so far; what overlaps or touches the
    /// last one is joined to it.
    pub fn push(&mut self, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        match self.0.last_mut() {
            Some(last) if range.start <= last.end => last.end = last.end.max(range.end),
            _ => self.0.push(range),
        }
    }

    /// The range that holds `offset`, or else the next one after it.
    #[must_use]
    pub fn at_or_after(&self, offset: u64) -> Option<&Range<u64>> {
        self.0.get(self.0.partition_point(|range| range.end <= offset))
    }

    /// The ranges, in order.
    pub fn iter(&self) -> std::slice::Iter<'_, Range<u64>> {
        self.0.iter()
    }

    /// Their parts in `whole`, in order.
    pub fn within(&self, whole: Range<u64>) -> impl Iterator<Item = Range<u64>> + use<'_> {
        let first = self.0.partition_point(|range| range.end <= whole.start);
        let here = self.0.get(first..).unwrap_or_default().iter();
        here.take_while(move |range| range.start < whole.end)
            .map(move |range| range.start.max(whole.start)..range.end.min(whole.end))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// Bytes in all of them.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.0.iter().map(|range| range.end - range.start).sum()
    }

    /// Leaves out the parts that lie in `holes`.
    #[must_use]
    pub fn without(&self, holes: &Self) -> Self {
        let mut left = Self::new();
        for range in &self.0 {
            let mut at = range.start;
            while let Some(hole) = holes.at_or_after(at).filter(|hole| hole.start < range.end) {
                left.push(at..hole.start.max(at));
                at = hole.end.min(range.end);
                if at == range.end {
                    break;
                }
            }
            left.push(at..range.end);
        }
        left
    }
}

impl<'a> IntoIterator for &'a Ranges {
    type Item = &'a Range<u64>;
    type IntoIter = std::slice::Iter<'a, Range<u64>>;

    fn into_iter(self) -> Self::IntoIter {
        self.iter()
    }
}

impl FromIterator<Range<u64>> for Ranges {
    /// Collects ranges in any order.
    fn from_iter<T: IntoIterator<Item = Range<u64>>>(ranges: T) -> Self {
        let mut list: Vec<Range<u64>> = ranges.into_iter().collect();
        list.sort_unstable_by_key(|range| range.start);
        let mut ranges = Self::new();
        list.into_iter().for_each(|range| ranges.push(range));
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn joins_and_finds() {
        let ranges: Ranges = [30..40, 0..10, 10..20, 35..50, 7..7].into_iter().collect();
        assert_eq!(ranges.iter().cloned().collect::<Vec<_>>(), [0..20, 30..50]);
        assert_eq!((ranges.count(), ranges.total()), (2, 40));
        for (offset, found) in [(0, Some(0..20)), (19, Some(0..20)), (20, Some(30..50)), (50, None)]
        {
            assert_eq!(ranges.at_or_after(offset).cloned(), found, "{offset}");
        }
    }

    #[test]
    fn cuts_to_a_window() {
        let ranges: Ranges = [0..10, 20..30, 40..50].into_iter().collect();
        let within = |whole| ranges.within(whole).collect::<Vec<_>>();
        assert_eq!(within(5..45), [5..10, 20..30, 40..45]);
        assert_eq!(within(10..20), []);
        assert_eq!(within(22..45), [22..30, 40..45]);
        assert_eq!(within(60..70), []);
    }

    #[test]
    fn leaves_out() {
        let all: Ranges = [0..100, 200..300].into_iter().collect();
        let holes: Ranges = [10..20, 90..210, 250..260, 299..400].into_iter().collect();
        let left = all.without(&holes);
        assert_eq!(left.iter().cloned().collect::<Vec<_>>(), [0..10, 20..90, 210..250, 260..299]);
        assert_eq!(all.without(&Ranges::new()), all);
        assert_eq!(all.without(&all), Ranges::new());
    }
}
