//! Sectors and bytes.

/// Bytes of a sector: every size and offset of the format counts these, whatever the guest sees.
pub(crate) const SECTOR: u64 = 512;

/// Bytes of `count` sectors, where that is a length a file can have.
pub(crate) fn sectors(count: u64) -> Option<u64> {
    count.checked_mul(SECTOR).filter(|bytes| *bytes <= i64::MAX.unsigned_abs())
}

/// As an index into memory; what does not fit is beyond any buffer.
pub(crate) fn to_usize(n: u64) -> usize {
    usize::try_from(n).unwrap_or(usize::MAX)
}

/// `n` rounded up to a multiple of `unit`, or the largest number there is.
pub(crate) fn round_up(n: u64, unit: u64) -> u64 {
    n.checked_next_multiple_of(unit).unwrap_or(u64::MAX)
}
