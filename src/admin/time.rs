//! Moments as people write them: RFC 3339, in UTC, to the millisecond.

use std::time::{Duration, Instant};

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::problem::Problem;
use crate::{clock, units};

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

    /// A moment of the wall clock, in seconds since 1970.
    pub fn unix_text(&self, at: f64) -> String {
        wall(Duration::try_from_secs_f64(at).unwrap_or_default())
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

/// A moment that somebody asked for, in seconds since 1970: RFC 3339, such seconds themselves, or a length of time back
/// from `now`, such as `15m`.
///
/// # Errors
/// When it is none of these.
pub fn moment_of(key: &str, text: &str, now: f64) -> Result<f64, Problem> {
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        return Ok(seconds);
    }
    if let Ok(back) = text.parse::<units::Duration>() {
        return Ok(now - back.0.as_secs_f64());
    }
    match OffsetDateTime::parse(text, &Rfc3339) {
        #[expect(clippy::cast_precision_loss, reason = "to the microsecond in this century")]
        Ok(moment) => Ok((moment.unix_timestamp_nanos() / 1000) as f64 / 1e6),
        Err(_) => Err(Problem::bad_request(format!(
            "`{key}` is a moment such as `2026-01-31T12:00:00Z`, seconds since 1970, or a time back such as `15m`"
        ))),
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
    fn moments_are_taken_in_three_forms() {
        let of = |text| moment_of("since", text, 1000.0);
        assert_eq!(of("2023-11-14T22:13:20.25Z"), Ok(1_700_000_000.25));
        assert_eq!(of("2023-11-14T23:13:20+01:00"), Ok(1_700_000_000.0));
        assert_eq!(of("1700000000.5"), Ok(1_700_000_000.5));
        assert_eq!(of("15m"), Ok(100.0));
        for bad in ["", "yesterday", "inf", "NaN", "2023-11-14", "-5m"] {
            assert!(of(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn moments_are_told_in_utc() {
        let present = Present { now: clock::now(), since_1970: Duration::from_millis(1_700_000_000_250) };
        assert_eq!(present.text(present.now), "2023-11-14T22:13:20.25Z");
        assert_eq!(present.text(present.now + Duration::from_mins(2)), "2023-11-14T22:15:20.25Z");
        let before = present.now.checked_sub(Duration::from_secs(20)).unwrap();
        assert_eq!(present.text(before), "2023-11-14T22:13:00.25Z");
    }
}
