//! Dates as Go writes them: RFC 3339 with nanoseconds, and HTTP dates.

use std::time::Duration;

const WEEKDAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

struct Civil {
    year: i64,
    month: usize,
    day: u64,
    hour: u64,
    minute: u64,
    second: u64,
    weekday: usize,
}

/// The calendar date of a time since 1970, UTC (days to civil, after Howard Hinnant).
fn civil(since_epoch: Duration) -> Civil {
    let seconds = since_epoch.as_secs();
    let days = seconds / 86_400;
    let shifted = days + 719_468;
    let era = shifted / 146_097;
    let day_of_era = shifted % 146_097;
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    Civil {
        year: i64::try_from(year).unwrap_or(i64::MAX),
        month: usize::try_from(month).unwrap_or(1),
        day: day_of_year - (153 * shifted_month + 2) / 5 + 1,
        hour: seconds % 86_400 / 3_600,
        minute: seconds % 3_600 / 60,
        second: seconds % 60,
        weekday: usize::try_from(days % 7).unwrap_or(0),
    }
}

/// `2026-11-22T01:14:19.950638938Z`; trailing zeros of the fraction are left out, as Go does.
pub(super) fn rfc3339(since_epoch: Duration) -> String {
    let Civil { year, month, day, hour, minute, second, .. } = civil(since_epoch);
    let mut text = format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}");
    let nanoseconds = since_epoch.subsec_nanos();
    if nanoseconds > 0 {
        text.push_str(format!(".{nanoseconds:09}").trim_end_matches('0'));
    }
    text.push('Z');
    text
}

/// `Sun, 22 Nov 2026 01:14:19 GMT`.
pub(super) fn http_date(since_epoch: Duration) -> String {
    let Civil { year, month, day, hour, minute, second, weekday } = civil(since_epoch);
    let weekday = WEEKDAYS.get(weekday).unwrap_or(&"Thu");
    let month = MONTHS.get(month.saturating_sub(1)).unwrap_or(&"Jan");
    format!("{weekday}, {day:02} {month} {year:04} {hour:02}:{minute:02}:{second:02} GMT")
}

/// `created_at` for something that happens now.
pub(super) fn created_at() -> String {
    rfc3339(crate::clock::unix_time())
}

/// Nanoseconds as Go's `time.Duration` marshals.
pub(super) fn nanoseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_right_around_leap_days() {
        assert_eq!(rfc3339(Duration::ZERO), "1970-01-01T00:00:00Z");
        assert_eq!(rfc3339(Duration::from_secs(951_782_400)), "2000-02-29T00:00:00Z");
        assert_eq!(rfc3339(Duration::new(1_795_310_059, 950_638_900)), "2026-11-22T01:14:19.9506389Z");
        assert_eq!(http_date(Duration::from_secs(1_795_310_059)), "Sun, 22 Nov 2026 01:14:19 GMT");
        assert_eq!(http_date(Duration::from_secs(1_709_251_199)), "Thu, 29 Feb 2024 23:59:59 GMT");
    }
}
