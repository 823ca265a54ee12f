//! Words for people: lengths of time, sizes, moments; and names of others made safe for a terminal.

use std::time::Duration;

use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::clock;

/// Units of size, smallest first, each 1024 of the one before.
const SIZES: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];

/// A text of others on one line, with nothing in it that a terminal obeys.
///
/// Servers, models and clients choose their names. Control characters could move the cursor or change colours, and
/// characters that turn the direction of writing could make one name look like another: they are written as escapes.
pub fn plain(text: &str) -> String {
    let mut shown = String::with_capacity(text.len());
    for c in text.chars() {
        if is_obeyed(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
    }
    shown
}

/// Whether a terminal does something else with it than to show it.
pub fn is_obeyed(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{2069}' | '\u{feff}')
}

/// A length of time: `850ms`, `4.2s`, `12s`, `3m 12s`, `2h 5m`, `4d 3h`.
pub fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let two = |large: u64, one: &str, small: u64, other: &str| {
        if small == 0 { format!("{large}{one}") } else { format!("{large}{one} {small}{other}") }
    };
    match seconds {
        0 => format!("{}ms", time.as_millis()),
        1..10 if time.subsec_millis() < 100 => format!("{seconds}s"),
        1..10 => format!("{seconds}.{}s", time.subsec_millis() / 100),
        10..60 => format!("{seconds}s"),
        60..3600 => two(seconds / 60, "m", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "m"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}

/// A length of time in milliseconds; nothing below zero.
pub fn milliseconds(time: f64) -> Duration {
    Duration::try_from_secs_f64(time.max(0.0) / 1e3).unwrap_or(Duration::MAX)
}

/// A number of bytes: `0 B`, `512 B`, `4.2 GiB`.
pub fn size(bytes: u64) -> String {
    let mut unit = None;
    let (mut whole, mut rest) = (bytes, 0);
    for name in SIZES {
        if whole < 1024 {
            break;
        }
        (whole, rest) = (whole / 1024, whole % 1024);
        unit = Some(name);
    }
    match unit {
        None => format!("{bytes} B"),
        Some(unit) if whole < 100 => format!("{whole}.{} {unit}", rest * 10 / 1024),
        Some(unit) => format!("{whole} {unit}"),
    }
}

/// A rate: `0`, `0.25`, `4.2`, `210`.
pub fn rate(number: f64) -> String {
    match number {
        _ if number == 0.0 => "0".to_owned(),
        _ if number < 1.0 => format!("{number:.2}"),
        _ if number < 100.0 => format!("{number:.1}"),
        _ => format!("{number:.0}"),
    }
}

/// One or several of something.
pub fn count(number: u64, one: &str, several: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { several })
}

/// The wall clock.
pub fn now() -> OffsetDateTime {
    let since_1970 = i128::try_from(clock::unix_time().as_nanos()).unwrap_or(0);
    OffsetDateTime::from_unix_timestamp_nanos(since_1970).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// A moment as the admin listener writes it.
pub fn moment(text: &str) -> Option<OffsetDateTime> {
    OffsetDateTime::parse(text, &Rfc3339).ok()
}

/// How far away a moment is: `3m 12s ago`, `now`, `in 4d 3h`. What is no moment is shown as it is.
pub fn distance(text: &str, now: OffsetDateTime) -> String {
    let Some(at) = moment(text) else { return plain(text) };
    let away = (at - now).unsigned_abs();
    if away < Duration::from_secs(1) {
        return "now".to_owned();
    }
    let away = span(Duration::from_secs(away.as_secs()));
    if at > now { format!("in {away}") } else { format!("{away} ago") }
}

/// A moment for a list: `2026-02-03 04:05:06.789`, in UTC as all of Arriero's moments.
pub fn stamp(text: &str) -> String {
    let Some(at) = moment(text) else { return plain(text) };
    let at = at.to_offset(time::UtcOffset::UTC);
    let format =
        time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second].[subsecond digits:3]");
    at.format(format).unwrap_or_else(|_| plain(text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lengths_of_time_have_two_units_at_most() {
        let told: Vec<_> = [0, 850, 1_000, 4_250, 12_900, 60_000, 192_000, 7_500_000, 356_400_000]
            .map(|time| span(Duration::from_millis(time)))
            .into();
        assert_eq!(told, ["0ms", "850ms", "1s", "4.2s", "12s", "1m", "3m 12s", "2h 5m", "4d 3h"]);
        assert_eq!(milliseconds(-1.0), Duration::ZERO);
        assert_eq!(milliseconds(f64::NAN), Duration::ZERO);
        assert_eq!(milliseconds(1.5), Duration::from_micros(1500));
        assert_eq!(milliseconds(f64::INFINITY), Duration::MAX);
    }

    #[test]
    fn sizes_have_one_digit_behind_the_point_while_they_are_small() {
        let told = [0, 512, 1024, 4_509_715_660, 1 << 40, 150 << 30, u64::MAX].map(size);
        assert_eq!(told, ["0 B", "512 B", "1.0 KiB", "4.1 GiB", "1.0 TiB", "150 GiB", "16383 PiB"]);
    }

    #[test]
    fn names_cannot_speak_to_the_terminal() {
        assert_eq!(plain("llama3.2:3b"), "llama3.2:3b");
        assert_eq!(plain("\u{1b}[2Jm\n\t\u{7f}\u{9b}31m"), "\\u{1b}[2Jm\\n\\t\\u{7f}\\u{9b}31m");
        assert_eq!(plain("a\u{202e}b\u{200b}c\u{feff}"), "a\\u{202e}b\\u{200b}c\\u{feff}");
        assert_eq!(plain("größe 模型"), "größe 模型");
    }

    #[test]
    fn moments_are_told_by_their_distance() {
        let now = moment("2026-02-03T04:05:06Z").expect("a moment");
        assert_eq!(distance("2026-02-03T04:01:54Z", now), "3m 12s ago");
        assert_eq!(distance("2026-02-03T06:10:06.5Z", now), "in 2h 5m");
        assert_eq!(distance("2026-02-03T04:05:04.2Z", now), "1s ago");
        assert_eq!(distance("2026-02-03T04:05:05.9Z", now), "now");
        assert_eq!(distance("never", now), "never");
        assert_eq!(stamp("2026-02-03T04:05:06.789123Z"), "2026-02-03 04:05:06.789");
        assert_eq!(stamp("\u{1b}c"), "\\u{1b}c");
    }
}
