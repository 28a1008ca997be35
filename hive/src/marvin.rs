//! The Marvin32 checksum of new-generation logs.

use crate::bytes::u32_at;

/// The seed of registry logs: `82 EF 4D 88 7A 4E 55 C5` read as one *number*. Taken as bytes in
/// memory it gives other hashes.
const SEED: (u32, u32) = (0x7a4e_55c5, 0x82ef_4d88);

/// The hash of `bytes`.
pub(crate) fn marvin32(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks::<4>();
    let mut last = [0; 4];
    for (place, byte) in last.iter_mut().zip(rest.iter().chain([&0x80])) {
        *place = *byte;
    }
    let words = words.iter().map(|word| u32::from_le_bytes(*word));
    let ending = [u32_at(&last, 0).unwrap_or_default(), 0];
    let (low, high) = words.chain(ending).fold(SEED, mix);
    u64::from(high) << 32 | u64::from(low)
}

fn mix((mut low, mut high): (u32, u32), word: u32) -> (u32, u32) {
    low = low.wrapping_add(word);
    high ^= low;
    low = low.rotate_left(20).wrapping_add(high);
    high = high.rotate_left(9) ^ low;
    low = low.rotate_left(27).wrapping_add(high);
    high = high.rotate_left(19);
    (low, high)
}
