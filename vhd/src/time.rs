//! VHD times: seconds since 2000-01-01T00:00:00Z in 32 bits.
//!
//! VHD 1.0, "Hard Disk Footer Format", field *Time Stamp*.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// The VHD epoch in seconds after the Unix epoch.
const EPOCH: u64 = 946_684_800;

/// `time` as a VHD time, moved into the years 2000 to 2136 where it lies outside.
pub(crate) fn from_system(time: SystemTime) -> u32 {
    let unix = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    u32::try_from(unix.saturating_sub(EPOCH)).unwrap_or(u32::MAX)
}

/// The host's time of a VHD time.
pub(crate) fn to_system(stamp: u32) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(EPOCH + u64::from(stamp))
}

/// A VHD time as `YYYY-MM-DDThh:mm:ssZ`.
pub(crate) fn to_text(stamp: u32) -> String {
    let (days, seconds) = (stamp / 86_400, stamp % 86_400);
    let (year, day_of_year) = year_of(days);
    let (month, day) = month_of(year, day_of_year);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// The year that holds a day counted from 2000-01-01, and the days of that year before it.
fn year_of(mut days: u32) -> (u32, u32) {
    let mut year = 2000;
    while days >= 365 + leap_day(year) {
        days -= 365 + leap_day(year);
        year += 1;
    }
    (year, days)
}

fn month_of(year: u32, mut days: u32) -> (u32, u32) {
    let lengths = [31, 28 + leap_day(year), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    let mut month = 1;
    for length in lengths {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (month, days + 1)
}

fn leap_day(year: u32) -> u32 {
    u32::from(year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_go_round_and_read_well() {
        let known = [
            (0, "2000-01-01T00:00:00Z"),
            (59 * 86_400, "2000-02-29T00:00:00Z"),
            (631_152_000 + 86_399, "2020-01-01T23:59:59Z"),
            (u32::MAX, "2136-02-07T06:28:15Z"),
        ];
        for (stamp, text) in known {
            assert_eq!(to_text(stamp), text);
            assert_eq!(from_system(to_system(stamp)), stamp);
        }
        assert_eq!(from_system(UNIX_EPOCH), 0);
    }
}
