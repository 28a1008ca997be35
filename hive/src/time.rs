//! Windows' count of time.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// A FILETIME: 100-nanosecond steps since 1601-01-01 00:00 UTC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileTime(pub u64);

/// From 1601 to 1970, in steps.
const UNIX: u64 = 11_644_473_600 * 10_000_000;

impl FileTime {
    /// The same moment on the host's clock; none before 1970, which no hive was written in.
    #[must_use]
    pub fn to_system_time(self) -> Option<SystemTime> {
        let steps = self.0.checked_sub(UNIX)?;
        let nanos = u32::try_from(steps % 10_000_000).ok()? * 100;
        UNIX_EPOCH.checked_add(Duration::new(steps / 10_000_000, nanos))
    }
}

impl From<SystemTime> for FileTime {
    /// Moments before 1970 become 1970.
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let steps = since.as_secs().saturating_mul(10_000_000);
        Self(UNIX.saturating_add(steps).saturating_add(u64::from(since.subsec_nanos() / 100)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn epoch_and_back() {
        assert_eq!(FileTime::from(UNIX_EPOCH), FileTime(116_444_736_000_000_000));
        let time = UNIX_EPOCH + Duration::new(1_700_000_000, 123_456_700);
        assert_eq!(FileTime::from(time).to_system_time(), Some(time));
        assert_eq!(FileTime(5).to_system_time(), None);
        assert!(FileTime(u64::MAX).to_system_time().is_some());
    }
}
