//! Moments as people write them: RFC 3339, in UTC, to the millisecond.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock;

/// The present, in both of its forms, so that all moments of one answer fit together.
#[derive(Clone, Copy, Debug)]
pub struct Present {
    /// For durations.
    pub now: Instant,
    since_1970: Duration,
}

impl Present {
    /// Reads the clock.
    pub fn read() -> Self {
        Self { now: clock::now(), since_1970: clock::unix_time() }
    }

    /// A moment, past or to come.
    pub fn text(&self, at: Instant) -> String {
        let wall = if at > self.now {
            self.since_1970.saturating_add(at - self.now)
        } else {
            self.since_1970.saturating_sub(self.now - at)
        };
        self::wall(wall)
    }
}

/// A moment since 1970.
pub fn wall(since_1970: Duration) -> String {
    let milliseconds = i128::try_from(since_1970.as_millis()).unwrap_or(0);
    let moment = OffsetDateTime::from_unix_timestamp_nanos(milliseconds * 1_000_000);
    // Beyond the year 9999 nobody reads it.
    moment.ok().and_then(|moment| moment.format(&Rfc3339).ok()).unwrap_or_else(|| "never".to_owned())
}

/// Milliseconds, to the microsecond.
pub fn milliseconds(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1e6).round() / 1e3
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_told_in_utc() {
        let present = Present { now: clock::now(), since_1970: Duration::from_millis(1_700_000_000_250) };
        assert_eq!(present.text(present.now), "2023-11-14T22:13:20.25Z");
        assert_eq!(present.text(present.now + Duration::from_mins(2)), "2023-11-14T22:15:20.25Z");
        let before = present.now.checked_sub(Duration::from_secs(20)).unwrap();
        assert_eq!(present.text(before), "2023-11-14T22:13:00.25Z");
    }
}
