//! Sizes as people write and read them.

use vdisk_core::{Error, Result};

/// Bytes in `text`: a number, or one with `k M G T P` (powers of 1024, case-blind, `iB` or `B`
/// allowed), such as `512`, `64k`, `1.5GiB`.
///
/// # Errors
/// [`Usage`](vdisk_core::ErrorKind::Usage) for anything else, or more than 64 bits hold.
pub fn parse_size(text: &str) -> Result<u64> {
    let wrong = || {
        Error::usage(format!("{text:?} is not a size"))
            .hint("write bytes, or a number with k, M, G, T or P (powers of 1024)")
    };
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit = unit.trim();
    let shift = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit) {
        "" => 0,
        "k" => 10,
        "m" => 20,
        "g" => 30,
        "t" => 40,
        "p" => 50,
        _ => return Err(wrong()),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    let unit_bytes = 1u64 << shift;
    let mut bytes = whole.checked_mul(unit_bytes).ok_or_else(wrong)?;
    if number.contains('.') {
        // Exact decimal arithmetic: 0.1G must not depend on binary fractions.
        let scale = u32::try_from(fraction.len()).ok().and_then(|n| 10u128.checked_pow(n));
        let (Ok(part), Some(scale)) = (fraction.parse::<u64>(), scale) else { return Err(wrong()) };
        let extra = u128::from(part) * u128::from(unit_bytes) / scale;
        let extra = u64::try_from(extra).map_err(|_| wrong())?;
        bytes = bytes.checked_add(extra).ok_or_else(wrong)?;
    }
    Ok(bytes)
}

/// `bytes` for people: up to three digits and a unit, `1.5 GiB`.
#[must_use]
pub fn human_size(bytes: u64) -> String {
    const UNITS: [&str; 7] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut shift = 0;
    while shift < 60 && (bytes >> shift) >= 1024 {
        shift += 10;
    }
    let unit = UNITS.get(shift / 10).copied().unwrap_or("EiB");
    if shift == 0 || bytes.trailing_zeros() as usize >= shift {
        return format!("{} {unit}", bytes >> shift);
    }
    // Tenths, rounded down: a size shown must never be larger than the size.
    let tenths = (u128::from(bytes) * 10) >> shift;
    if tenths >= 1000 {
        format!("{} {unit}", tenths / 10)
    } else {
        format!("{}.{} {unit}", tenths / 10, tenths % 10)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_people_write() {
        for (text, bytes) in [
            ("0", 0),
            ("512", 512),
            ("64k", 65536),
            ("64K", 65536),
            ("1MiB", 1 << 20),
            ("1.5G", 3 << 29),
            ("2 TiB", 2 << 40),
            ("10MB", 10 << 20),
            ("16383P", 16383 << 50),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "k", "-1", "1x", "1.2.3G", "99999999999999999999", "20000000P", "."] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn writes_what_people_read() {
        for (bytes, text) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1 KiB"),
            (1536, "1.5 KiB"),
            (10_485_760, "10 MiB"),
            (136_365_211_648, "127 GiB"),
            (u64::MAX, "15.9 EiB"),
        ] {
            assert_eq!(human_size(bytes), text);
        }
    }
}
