//! Sector bitmaps (\[MS-VHDX\] 2.4): which sectors of a partially present block are in this file.
//! The lowest bit of a byte comes first. `table` is the whole file; `base` is where the bitmap of
//! the chunk stands in it; bits count from there.

use std::ops::Range;

use vdisk_core::{PagedTable, Result};

/// The value of the first bit of a range that is not empty, and how many bits from it have it.
///
/// # Errors
/// The host's.
pub(crate) fn run(table: &PagedTable, base: u64, bits: Range<u64>) -> Result<(bool, u64)> {
    let mut at = bits.start;
    let mut value = None;
    while at < bits.end {
        let view = table.rest_of_page(base + at / 8)?;
        for byte in view.iter() {
            let skip = at % 8;
            let wanted = *value.get_or_insert((byte >> skip) & 1 == 1);
            // Ones where a bit differs, from the current bit on.
            let differs = (if wanted { !byte } else { *byte }) >> skip;
            let same = u64::from(differs.trailing_zeros()).min(8 - skip);
            at += same;
            if same + skip < 8 || at >= bits.end {
                let len = at.min(bits.end) - bits.start;
                return Ok((wanted, len));
            }
        }
    }
    Ok((value.unwrap_or_default(), bits.end - bits.start))
}

/// Gives all bits of a range the value.
///
/// # Errors
/// The host's.
pub(crate) fn fill(table: &PagedTable, base: u64, bits: Range<u64>, value: bool) -> Result<()> {
    if bits.is_empty() {
        return Ok(());
    }
    let (first, end) = (bits.start / 8, bits.end.div_ceil(8));
    let mut bytes = vec![if value { 0xFF } else { 0 }; usize::try_from(end - first).unwrap_or(0)];
    let merge = |at: u64, mask: u8| -> Result<u8> {
        let [old] = table.entry(base + at)?;
        Ok(if value { old | mask } else { old & !mask })
    };
    let (mut head, mut tail) = (0xFFu8 << (bits.start % 8), 0xFFu8);
    if !bits.end.is_multiple_of(8) {
        tail = !(0xFF << (bits.end % 8));
    }
    if bytes.len() == 1 {
        head &= tail;
        tail = head;
    }
    if let Some(byte) = bytes.first_mut() {
        *byte = merge(first, head)?;
    }
    if let Some(byte) = bytes.last_mut() {
        *byte = merge(end - 1, tail)?;
    }
    table.write(base + first, &bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use vdisk_core::{MemStore, Store};

    #[test]
    fn agrees_with_a_vector_of_bits() {
        let store = Arc::new(MemStore::new("t"));
        store.set_len(1 << 20).unwrap();
        let table = PagedTable::new(store, "bitmap", 0, 1 << 20);
        let base = 65_000; // so that bits stand on both sides of a cache page
        let mut model = vec![false; 9000];
        let mut rng = fastrand::Rng::with_seed(3);
        for _ in 0..2000 {
            let a = rng.usize(0..=model.len());
            let longest = [9, 9000][rng.usize(0..2)];
            let b = (a + rng.usize(0..longest)).min(model.len());
            let bits = a as u64..b as u64;
            if rng.bool() {
                let value = rng.bool();
                fill(&table, base, bits, value).unwrap();
                model[a..b].fill(value);
            } else if a < b {
                let same = model[a..b].iter().take_while(|bit| **bit == model[a]).count();
                assert_eq!(run(&table, base, bits).unwrap(), (model[a], same as u64));
            }
        }
    }
}
