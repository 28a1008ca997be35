//! The machine's own security identifier.

use std::collections::BTreeSet;
use std::fmt;

use vdisk_core::{Error, ErrorKind, Result};
use vdisk_guest::windows::Sid;

/// `S-1-5-21-A-B-C`: what Windows draws at random at setup, and what the accounts of the machine
/// begin with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MachineSid(pub [u32; 3]);

/// Draws before it is given up: none of the words is likely to be drawn twice.
const TRIES: usize = 64;

impl MachineSid {
    /// The SID that `bytes` end with (MS-DTYP 2.4.2.2), where that is one of a machine.
    #[must_use]
    pub fn at_end(bytes: &[u8]) -> Option<Self> {
        Self::of(&Sid::parse(bytes.last_chunk::<24>()?)?)
    }

    /// The machine's part of a SID of the machine, or of an account of it.
    #[must_use]
    pub fn of(sid: &Sid) -> Option<Self> {
        match sid.parts() {
            [21, a, b, c] | [21, a, b, c, _] if sid.to_string().starts_with("S-1-5-") => {
                Some(Self([*a, *b, *c]))
            }
            _ => None,
        }
    }

    /// The machine's part of a SID written out, with what may follow it.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.split_at_checked("S-1-5-21-".len())?;
        let mut parts = rest.split('-').map(|part| part.parse().ok());
        let mut part = || parts.next().flatten();
        head.eq_ignore_ascii_case("S-1-5-21-").then_some(())?;
        Some(Self([part()?, part()?, part()?]))
    }

    /// Another SID, at random, whose words are written with as many digits as those of this one:
    /// so every text that names it keeps its length. It is none of `taken`.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`] where the system has no random bytes, or no SID was found.
    pub fn other(&self, taken: &BTreeSet<Self>) -> Result<Self> {
        for _ in 0..TRIES {
            let mut words = [0; 3];
            for (new, old) in words.iter_mut().zip(self.0) {
                *new = same_digits(old)?;
            }
            let drawn = Self(words);
            if drawn != *self && words != [0; 3] && !taken.contains(&drawn) {
                return Ok(drawn);
            }
        }
        Err(Error::new(ErrorKind::Internal, format!("no other SID was found for {self}")))
    }

    /// The three words as they stand in binary SIDs, little-endian.
    #[must_use]
    pub fn words(&self) -> [u8; 12] {
        let [a, b, c] = self.0.map(u32::to_le_bytes);
        let mut bytes = [0; 12];
        for (place, byte) in bytes.iter_mut().zip([a, b, c].as_flattened()) {
            *place = *byte;
        }
        bytes
    }
}

impl fmt::Display for MachineSid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c] = self.0;
        write!(f, "S-1-5-21-{a}-{b}-{c}")
    }
}

/// A random number with as many decimal digits as `old`, each as likely.
fn same_digits(old: u32) -> Result<u32> {
    let low = if old < 10 { 0 } else { 10_u32.pow(old.ilog10()) };
    let high = low.max(1).checked_mul(10).map_or(u32::MAX, |next| next - 1);
    let span = u64::from(high - low) + 1;
    // What the span does not divide evenly is drawn again: the rest would favour small numbers.
    let fair = (1 << 32) / span * span;
    loop {
        let mut bytes = [0; 4];
        getrandom::fill(&mut bytes).map_err(|error| {
            Error::new(ErrorKind::Internal, "the system gives no random bytes").caused_by(error)
        })?;
        let drawn = u64::from(u32::from_le_bytes(bytes));
        if drawn < fair {
            let offset = u32::try_from(drawn % span).unwrap_or_default();
            return Ok(low.saturating_add(offset));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_one_keeps_every_length() {
        for words in [[4_294_967_295, 1_000_000_000, 999_999_999], [0, 9, 10], [42, 100, 7]] {
            let old = MachineSid(words);
            for _ in 0..200 {
                let new = old.other(&BTreeSet::new()).unwrap();
                assert_ne!(new, old);
                let lengths = |sid: MachineSid| sid.0.map(|word| word.to_string().len());
                assert_eq!(lengths(new), lengths(old));
            }
        }
    }

    #[test]
    fn what_is_taken_is_not_drawn() {
        let all = |a: u32| MachineSid([a, 0, 0]);
        // Words of one digit: a thousand SIDs, of which one is left.
        let mut taken = BTreeSet::new();
        for a in 0..10 {
            taken.extend((0..100).map(|rest| MachineSid([a, rest / 10, rest % 10])));
        }
        assert!(all(1).other(&taken).is_err());
    }

    #[test]
    fn is_read_in_every_form() {
        let sid = MachineSid([1_760_460_187, 1_592_185_332, 161_725_925]);
        let text = "S-1-5-21-1760460187-1592185332-161725925";
        assert_eq!(sid.to_string(), text);
        assert_eq!(MachineSid::parse(text), Some(sid));
        assert_eq!(MachineSid::parse(&format!("{text}-1001")), Some(sid));
        assert_eq!(MachineSid::parse("S-1-5-21-1-2"), None);
        assert_eq!(MachineSid::parse("S-1-5-32-1-2-3"), None);
        let binary = [&[1, 4, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0][..], &sid.words()].concat();
        assert_eq!(MachineSid::at_end(&[&[9; 7][..], &binary].concat()), Some(sid));
        assert_eq!(MachineSid::at_end(&binary[1..]), None);
        let account = [&[1, 5], &binary[2..], &[0xe9, 3, 0, 0]].concat();
        assert_eq!(MachineSid::of(&Sid::parse(&account).unwrap()), Some(sid));
        let users = Sid::parse(&[1, 2, 0, 0, 0, 0, 0, 5, 32, 0, 0, 0, 33, 2, 0, 0]).unwrap();
        assert_eq!(MachineSid::of(&users), None);
    }
}
