//! One machine's SID in place of another's, in any bytes, without a change of length.

use memchr::memmem::Finder;

use super::sid::MachineSid;

/// What a binary SID of a machine or of its accounts begins with: revision, number of parts, the
/// authority 5, and 21. The number of parts is checked apart.
const BINARY: [u8; 12] = [1, 0, 0, 0, 0, 0, 0, 5, 21, 0, 0, 0];
/// Parts of a machine's SID, and of an account's.
const PARTS: [u8; 2] = [4, 5];

/// Puts one machine SID in the place of another of the same digits.
#[derive(Clone, Debug)]
pub struct Swap {
    /// The SID that is replaced.
    pub old: MachineSid,
    /// What it is replaced by.
    pub new: MachineSid,
    words: Form,
    narrow: Form,
    wide: Form,
}

/// One way to write it.
#[derive(Clone, Debug)]
struct Form {
    old: Finder<'static>,
    new: Vec<u8>,
}

impl Form {
    fn new(old: &[u8], new: Vec<u8>) -> Self {
        Self { old: Finder::new(old).into_owned(), new }
    }
}

impl Swap {
    /// `new` in the place of `old`, whose words have as many digits each.
    #[must_use]
    pub fn new(old: MachineSid, new: MachineSid) -> Self {
        let [from, to] = [old, new].map(|sid| tail(&sid));
        let wide = |text: &str| text.encode_utf16().flat_map(u16::to_le_bytes).collect::<Vec<_>>();
        Self {
            old,
            new,
            words: Form::new(&old.words(), new.words().to_vec()),
            narrow: Form::new(from.as_bytes(), to.clone().into_bytes()),
            wide: Form::new(&wide(&from), wide(&to)),
        }
    }

    /// How often the old SID stands in `bytes`: binary, as ASCII or as UTF-16 (little-endian),
    /// alone or with an account's number.
    #[must_use]
    pub fn count(&self, bytes: &[u8]) -> usize {
        self.forms().into_iter().map(|(form, fits)| places(bytes, form, fits).count()).sum()
    }

    /// Writes the new SID wherever the old one stands; how often that was.
    pub fn apply(&self, bytes: &mut [u8]) -> usize {
        let mut count = 0;
        for (form, fits) in self.forms() {
            let found: Vec<usize> = places(bytes, form, fits).collect();
            for at in &found {
                if let Some(place) = bytes.get_mut(*at..at + form.new.len()) {
                    place.copy_from_slice(&form.new);
                }
            }
            count += found.len();
        }
        count
    }

    /// The same with the new SID written wherever the old one stands, where it does.
    #[must_use]
    pub fn applied(&self, bytes: &[u8]) -> Option<Vec<u8>> {
        if self.count(bytes) == 0 {
            return None;
        }
        let mut changed = bytes.to_vec();
        self.apply(&mut changed);
        Some(changed)
    }

    fn forms(&self) -> [(&Form, Fits); 3] {
        [(&self.words, is_binary), (&self.narrow, is_narrow), (&self.wide, is_wide)]
    }
}

/// Whether what stands before and behind makes it the SID.
type Fits = fn(&[u8], &[u8]) -> bool;

/// The text behind the `S`, which may be of either case.
fn tail(sid: &MachineSid) -> String {
    sid.to_string().split_off(1)
}

fn places<'a>(
    bytes: &'a [u8],
    form: &'a Form,
    fits: Fits,
) -> impl Iterator<Item = usize> + use<'a> {
    form.old.find_iter(bytes).filter(move |at| {
        let (before, rest) = bytes.split_at(*at);
        fits(before, rest.get(form.new.len()..).unwrap_or_default())
    })
}

fn is_binary(before: &[u8], _: &[u8]) -> bool {
    before.last_chunk::<12>().is_some_and(|head| {
        let mut expected = BINARY;
        PARTS.iter().any(|parts| {
            expected[1] = *parts;
            *head == expected
        })
    })
}

fn is_narrow(before: &[u8], after: &[u8]) -> bool {
    matches!(before.last(), Some(b'S' | b's')) && !after.first().is_some_and(u8::is_ascii_digit)
}

fn is_wide(before: &[u8], after: &[u8]) -> bool {
    let digit = matches!(after.first_chunk::<2>(), Some([digit, 0]) if digit.is_ascii_digit());
    matches!(before.last_chunk::<2>(), Some([b'S' | b's', 0])) && !digit
}

#[cfg(test)]
mod tests {
    use super::*;

    const OLD: MachineSid = MachineSid([1_760_460_187, 1_592_185_332, 161_725_925]);
    const NEW: MachineSid = MachineSid([1_234_567_890, 2_345_678_901, 345_678_901]);

    fn binary(sid: MachineSid, parts: u8) -> Vec<u8> {
        let mut head = BINARY;
        head[1] = parts;
        [&head[..], &sid.words()].concat()
    }

    fn utf16(text: &str) -> Vec<u8> {
        text.encode_utf16().flat_map(u16::to_le_bytes).collect()
    }

    #[test]
    fn every_form_is_found_and_nothing_else() {
        let swap = Swap::new(OLD, NEW);
        let old = OLD.to_string();
        for (bytes, count) in [
            (binary(OLD, 4), 1),
            (binary(OLD, 5), 1),
            (binary(OLD, 6), 0),
            (binary(OLD, 5)[1..].to_vec(), 0),
            (OLD.words().to_vec(), 0),
            (old.clone().into_bytes(), 1),
            (format!("{old}-1001").into_bytes(), 1),
            (old.to_lowercase().into_bytes(), 1),
            (format!("S-1-15-2-2960383310{old}-1001").into_bytes(), 1),
            (format!("{old}7").into_bytes(), 0),
            (old.as_bytes()[1..].to_vec(), 0),
            (utf16(&old), 1),
            ([&[7][..], &utf16(&format!("<{old}-500>{old}"))].concat(), 2),
            (utf16(&format!("{old}0")), 0),
            (NEW.to_string().into_bytes(), 0),
        ] {
            assert_eq!(swap.count(&bytes), count, "{bytes:?}");
            let mut changed = bytes.clone();
            assert_eq!(swap.apply(&mut changed), count);
            assert_eq!(changed.len(), bytes.len());
            assert_eq!(swap.applied(&bytes).is_some(), count > 0);
            let back = Swap::new(NEW, OLD);
            let new_ones = back.apply(&mut changed);
            if count > 0 {
                assert_eq!((new_ones, &changed), (count, &bytes));
            }
        }
    }
}
