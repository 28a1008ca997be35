//! Security identifiers.

use std::fmt;

/// A security identifier (MS-DTYP 2.4.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Sid {
    authority: u64,
    parts: [u32; Self::MOST],
    count: u8,
}

impl Sid {
    /// As many sub-authorities as one may have.
    const MOST: usize = 15;

    /// The binary form: revision, count, authority (six bytes, big-endian), sub-authorities
    /// (little-endian). All of `bytes` must be it.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let (head, rest) = bytes.split_first_chunk::<8>()?;
        let [1, count, authority @ ..] = head else { return None };
        let (words, []) = rest.as_chunks::<4>() else { return None };
        if words.len() != usize::from(*count) {
            return None;
        }
        let mut parts = [0; Self::MOST];
        for (place, word) in parts.get_mut(..words.len())?.iter_mut().zip(words) {
            *place = u32::from_le_bytes(*word);
        }
        let authority = authority.iter().fold(0, |value, byte| value << 8 | u64::from(*byte));
        Some(Self { authority, parts, count: *count })
    }

    /// The sub-authorities.
    #[must_use]
    pub fn parts(&self) -> &[u32] {
        self.parts.get(..usize::from(self.count)).unwrap_or_default()
    }

    /// Whether it is of the form of a machine or domain: `S-1-5-21-A-B-C`.
    #[must_use]
    pub fn is_account_domain(&self) -> bool {
        self.authority == 5 && matches!(self.parts(), [21, _, _, _])
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "S-1-{}", self.authority)?;
        self.parts().iter().try_for_each(|part| write!(f, "-{part}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_binary_form_and_nothing_else() {
        let mut bytes = vec![1, 4, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0];
        for part in [1_760_460_187u32, 1_592_185_332, 161_725_925] {
            bytes.extend(part.to_le_bytes());
        }
        let sid = Sid::parse(&bytes).unwrap();
        assert_eq!(sid.to_string(), "S-1-5-21-1760460187-1592185332-161725925");
        assert!(sid.is_account_domain());
        assert_eq!(Sid::parse(&bytes[..20]), None);
        assert_eq!(Sid::parse(&[&bytes[..], &[0]].concat()), None);
        let system = Sid::parse(&[1, 1, 0, 0, 0, 0, 0, 5, 18, 0, 0, 0]).unwrap();
        assert_eq!(system.to_string(), "S-1-5-18");
        assert!(!system.is_account_domain());
        assert_eq!(Sid::parse(&[1, 255, 0, 0, 0, 0, 0, 5]), None);
        let long = [&[1, 16, 0, 0, 0, 0, 0, 5][..], &[0; 64]].concat();
        assert_eq!(Sid::parse(&long), None, "more parts than there may be");
    }
}
