//! Does a request body come fast enough?
//!
//! A limit on the silence between two reads lets a client send one byte each 29 seconds for days. With a least
//! rate over the whole upload, a body of a given size has an end that can be calculated. The first seconds are
//! free, so that a slow start costs nobody anything.

use std::time::{Duration, Instant};

/// How long a body may take whatever its rate.
const GRACE: Duration = Duration::from_secs(10);

/// The least rate of uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UploadRate {
    /// Bytes a second; 0 allows any rate.
    pub bytes_per_second: u64,
}

impl UploadRate {
    /// When a body must have more than the `received` bytes that came since `started`; `None` when it need not.
    #[must_use]
    pub fn deadline(self, started: Instant, received: u64) -> Option<Instant> {
        if self.bytes_per_second == 0 {
            return None;
        }
        let millis = u128::from(received) * 1000 / u128::from(self.bytes_per_second);
        let earned = Duration::from_millis(u64::try_from(millis).unwrap_or(u64::MAX));
        started.checked_add(earned.saturating_add(GRACE))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock;

    #[test]
    fn each_byte_earns_its_time_after_the_first_seconds() {
        let (rate, started) = (UploadRate { bytes_per_second: 1024 }, clock::now());
        let after = |received| rate.deadline(started, received).map(|deadline| deadline - started);
        assert_eq!(after(0), Some(Duration::from_secs(10)));
        assert_eq!(after(1024), Some(Duration::from_secs(11)));
        assert_eq!(after(512), Some(Duration::from_millis(10_500)));
        assert_eq!(after(100 << 20), Some(Duration::from_secs(10 + 100 * 1024)));
    }

    #[test]
    fn no_rate_is_no_deadline_and_no_size_overflows() {
        let started = clock::now();
        assert_eq!(UploadRate { bytes_per_second: 0 }.deadline(started, 1), None);
        let longest = UploadRate { bytes_per_second: 1 }.deadline(started, u64::MAX);
        assert!(longest.is_none_or(|longest| longest > started + Duration::from_hours(1 << 20)));
    }
}
