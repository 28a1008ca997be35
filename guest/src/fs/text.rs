//! Names and times in the forms the interface has them.

use std::time::{Duration, SystemTime};

use vdisk_core::{Error, ErrorKind, Result};

/// A path or name for people.
pub(super) fn shown(path: &[u8]) -> String {
    String::from_utf8_lossy(path).into_owned()
}

/// The path as text, for file systems whose names are.
pub(super) fn as_text(path: &[u8]) -> Result<&str> {
    std::str::from_utf8(path).map_err(|_| {
        Error::new(ErrorKind::NotFound, "names of this file system are Unicode, and this is none")
    })
}

/// Seconds and nanoseconds since 1970.
pub(super) fn unix_time(seconds: i64, nanoseconds: u32) -> Option<SystemTime> {
    let whole = Duration::from_secs(seconds.unsigned_abs());
    let time = if seconds < 0 {
        SystemTime::UNIX_EPOCH.checked_sub(whole)
    } else {
        SystemTime::UNIX_EPOCH.checked_add(whole)
    };
    time?.checked_add(Duration::from_nanos(nanoseconds.into()))
}

/// Windows's FILETIME: units of 100 nanoseconds since 1601.
pub(super) fn filetime(units: u64) -> Option<SystemTime> {
    const UNITS: u64 = 10_000_000;
    const FROM_1601_TO_1970: i64 = 11_644_473_600;
    let seconds = i64::try_from(units / UNITS).ok()? - FROM_1601_TO_1970;
    unix_time(seconds, u32::try_from(units % UNITS * 100).ok()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_count_from_their_epochs() {
        assert_eq!(filetime(116_444_736_000_000_000), Some(SystemTime::UNIX_EPOCH));
        assert_eq!(
            unix_time(-1, 500_000_000),
            unix_time(0, 0).map(|t| t - Duration::from_millis(500))
        );
        assert!(filetime(u64::MAX).is_some());
    }
}
