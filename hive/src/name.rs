//! Names of keys and values.

use std::cmp::Ordering;
use std::fmt;

use crate::bytes::utf16_units;
use crate::upcase::upcase;

/// The name of a key or value: UTF-16 units, kept as they are, lone surrogates too.
///
/// Equality is exact; [`Name::matches`] is what the registry calls the same name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Vec<u16>);

impl Name {
    /// A name of these UTF-16 units.
    #[must_use]
    pub fn from_units(units: impl Into<Vec<u16>>) -> Self {
        Self(units.into())
    }

    /// A name as it stands in a hive: Latin-1 where `compressed`, else UTF-16, little-endian (an
    /// odd last byte is left out).
    #[must_use]
    pub fn from_raw(bytes: &[u8], compressed: bool) -> Self {
        if compressed {
            Self(bytes.iter().map(|byte| u16::from(*byte)).collect())
        } else {
            Self(utf16_units(bytes))
        }
    }

    /// The name as it is written to a hive: Latin-1 and `true` where every unit fits a byte, as
    /// Windows does it, else UTF-16 and `false`.
    #[must_use]
    pub fn to_raw(&self) -> (Vec<u8>, bool) {
        let narrow: Result<Vec<u8>, _> = self.0.iter().map(|unit| u8::try_from(*unit)).collect();
        match narrow {
            Ok(bytes) => (bytes, true),
            Err(_) => (self.0.iter().flat_map(|unit| unit.to_le_bytes()).collect(), false),
        }
    }

    /// Its UTF-16 units.
    #[must_use]
    pub fn units(&self) -> &[u16] {
        &self.0
    }

    /// Whether it has no units, as the default value's name.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether the registry takes both for the same name: equal but for case.
    #[must_use]
    pub fn matches(&self, other: &Self) -> bool {
        self.order(other) == Ordering::Equal
    }

    /// The order of keys in sub-key lists: by upper-case units.
    #[must_use]
    pub fn order(&self, other: &Self) -> Ordering {
        let [ours, theirs] = [self, other].map(|name| name.0.iter().copied().map(upcase));
        ours.cmp(theirs)
    }

    /// The name in upper case.
    pub(crate) fn to_upper(&self) -> Self {
        Self(self.0.iter().copied().map(upcase).collect())
    }

    /// The hash in `lh` lists: `37 * hash + unit` over the upper-case units.
    pub(crate) fn hash(&self) -> u32 {
        self.0
            .iter()
            .fold(0, |hash: u32, unit| hash.wrapping_mul(37).wrapping_add(u32::from(upcase(*unit))))
    }

    /// The hint in `lf` lists: the first four units as bytes. Windows fills it from the end and
    /// stops at a unit that is no byte, so the first byte is zero then.
    pub(crate) fn hint(&self) -> [u8; 4] {
        let mut hint = [0; 4];
        for (place, unit) in hint.iter_mut().zip(&self.0).rev() {
            match u8::try_from(*unit) {
                Ok(byte) => *place = byte,
                Err(_) => break,
            }
        }
        hint
    }
}

impl From<&str> for Name {
    fn from(text: &str) -> Self {
        Self(text.encode_utf16().collect())
    }
}

impl From<&Self> for Name {
    fn from(name: &Self) -> Self {
        name.clone()
    }
}

impl fmt::Display for Name {
    /// Lone surrogates are shown as U+FFFD.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&String::from_utf16_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_and_hints() {
        // From the sub-key lists of a Windows 10 SYSTEM and a Windows 7 SAM.
        assert_eq!(Name::from("ControlSet001").hint(), *b"Cont");
        assert_eq!(Name::from("ab").hint(), *b"ab\0\0");
        assert_eq!(Name::from("a\u{431}cd").hint(), *b"\0\0cd");
        assert_eq!(Name::from("abc\u{431}").hint(), [0; 4]);
        assert_eq!(Name::from("a").hash(), 65);
        assert_eq!(Name::from("Ab").hash(), 65 * 37 + 66);
    }

    #[test]
    fn names_round_trip() {
        for units in [vec![], vec![0x41, 0xff], vec![0xd800], vec![0x41, 0xdc00, 0xd800]] {
            let name = Name::from_units(units);
            let (raw, compressed) = name.to_raw();
            assert_eq!(Name::from_raw(&raw, compressed), name);
        }
        assert!(Name::from("stra\u{df}e").matches(&Name::from("STRA\u{df}E")));
        assert!(!Name::from("a").matches(&Name::from("ab")));
    }

    #[test]
    fn order_is_by_upper_case() {
        assert_eq!(Name::from("_").order(&Name::from("a")), Ordering::Greater);
        assert_eq!(Name::from("a").order(&Name::from("B")), Ordering::Less);
        assert_eq!(Name::from("a").order(&Name::from("A1")), Ordering::Less);
    }
}
