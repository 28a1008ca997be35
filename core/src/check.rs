//! What a check of an image finds.

use std::collections::BTreeMap;

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Severity {
    /// Worth knowing; nothing is wrong with the content.
    Note,
    /// Space that nothing refers to.
    Leak,
    /// A rule of the format is broken.
    Corruption,
}

impl Severity {
    /// The name scripts see.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Note => "note",
            Self::Leak => "leak",
            Self::Corruption => "corruption",
        }
    }
}

/// One thing a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Stable name of the rule, such as `vhd-block-overlap`; lower case, words joined by `-`.
    pub code: &'static str,
    /// How bad it is.
    pub severity: Severity,
    /// Byte offset in the file, where there is one.
    pub offset: Option<u64>,
    /// What is wrong, for a person.
    pub message: String,
}

/// Collects findings; keeps counting where there are too many to keep.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    counts: BTreeMap<Severity, u64>,
}

impl Findings {
    /// Findings kept with their text.
    pub const KEPT: usize = 1000;

    /// Nothing found yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one.
    pub fn add(
        &mut self,
        severity: Severity,
        code: &'static str,
        offset: impl Into<Option<u64>>,
        message: impl Into<String>,
    ) {
        *self.counts.entry(severity).or_default() += 1;
        if self.list.len() < Self::KEPT {
            self.list.push(Finding {
                code,
                severity,
                offset: offset.into(),
                message: message.into(),
            });
        }
    }

    /// Adds a broken rule.
    pub fn corruption(
        &mut self,
        code: &'static str,
        offset: impl Into<Option<u64>>,
        message: impl Into<String>,
    ) {
        self.add(Severity::Corruption, code, offset, message);
    }

    /// The findings kept, in the order found.
    #[must_use]
    pub fn list(&self) -> &[Finding] {
        &self.list
    }

    /// How many of a severity were found, kept or not.
    #[must_use]
    pub fn count(&self, severity: Severity) -> u64 {
        self.counts.get(&severity).copied().unwrap_or_default()
    }
}

/// Which bytes of a file are taken, to find structures that overlap.
#[derive(Debug, Default)]
pub struct Claims {
    /// Disjoint, not adjacent: start to end.
    taken: BTreeMap<u64, u64>,
    /// Something was taken that is not kept.
    dropped: bool,
}

impl Claims {
    /// Intervals kept; a file that needs more is only checked in part (see [`Claims::is_full`]).
    pub const MOST: usize = 1 << 20;

    /// Nothing taken.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes `len` bytes from `start`; `false` where part of them was taken before (then nothing
    /// changes).
    pub fn take(&mut self, start: u64, len: u64) -> bool {
        let mut start = start;
        let mut end = start.saturating_add(len);
        if start == end {
            return true;
        }
        let before = self.taken.range(..end).next_back().map(|(s, e)| (*s, *e));
        if let Some((before_start, before_end)) = before {
            if before_end > start {
                return false;
            }
            if before_end == start {
                self.taken.remove(&before_start);
                start = before_start;
            }
        }
        if let Some(after_end) = self.taken.remove(&end) {
            end = after_end;
        }
        if self.taken.len() < Self::MOST {
            self.taken.insert(start, end);
        } else {
            self.dropped = true;
        }
        true
    }

    /// Whether so many separate intervals were taken that some were not kept: then not every
    /// overlap was found.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.dropped
    }

    /// The end of the last byte taken.
    #[must_use]
    pub fn end(&self) -> u64 {
        self.taken.last_key_value().map_or(0, |(_, end)| *end)
    }

    /// The stretches of `range` that nobody took, as start and length.
    pub fn gaps(&self, range: std::ops::Range<u64>) -> Vec<(u64, u64)> {
        let mut at = range.start;
        let mut gaps = Vec::new();
        for (start, end) in self.taken.range(..range.end) {
            if *start > at {
                gaps.push((at, start - at));
            }
            at = at.max(*end);
        }
        if at < range.end {
            gaps.push((at, range.end - at));
        }
        gaps
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claims_find_overlaps_and_gaps() {
        let mut claims = Claims::new();
        assert!(claims.take(10, 10));
        assert!(claims.take(30, 10));
        assert!(claims.take(20, 10));
        for (start, len) in [(10, 1), (39, 1), (5, 6), (0, 100), (15, 2)] {
            assert!(!claims.take(start, len), "{start}+{len}");
        }
        assert!(claims.take(0, 10));
        assert!(claims.take(50, 5));
        assert_eq!(claims.gaps(0..60), [(40, 10), (55, 5)]);
        assert_eq!(claims.end(), 55);
    }

    #[test]
    fn what_was_not_kept_is_not_forgotten() {
        let mut claims = Claims::new();
        for number in 0..Claims::MOST as u64 {
            assert!(claims.take(number * 4, 2));
        }
        assert!(!claims.is_full());
        assert!(claims.take(u64::MAX - 9, 1));
        // Now intervals grow together, and there is room again.
        for number in 0..100 {
            assert!(claims.take(number * 4 + 2, 2));
        }
        assert!(claims.is_full());
    }
}
