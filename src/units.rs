//! Values with units, as people write them in YAML: `300s`, `64MiB`, `100/m`, `50%`.
//!
//! A bare number is refused on purpose: `timeout: 30` says nothing about seconds or milliseconds.
//! The parsers return a sentence that shows the right spelling; `config` adds file, line and column.
//!
//! Invariants: what `Display` prints, `FromStr` reads back as the same value; nothing wraps or saturates.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer, Error, Visitor};
use serde::ser::{Serialize, Serializer};

mod count;
mod percent;
mod rate;

pub use count::Count;
pub use percent::Percent;
pub use rate::Rate;

/// A length of time written with a unit: `250ms`, `30s`, `5m`, `1h30m`, `7d`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Duration(pub StdDuration);

/// A number of bytes written with a unit: `512KiB`, `100MiB`, `1GiB`, `50MB`, `0`.
///
/// `KiB`, `MiB`, `GiB` are powers of 1024; `KB`, `MB`, `GB` are powers of 1000.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct ByteSize(pub u64);

/// Why a text is not a value with a unit: one sentence that shows the right spelling.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnitError(String);

/// Units of time and their nanoseconds, largest first.
const TIMES: [(&str, u64); 7] = [
    ("d", 86_400_000_000_000),
    ("h", 3_600_000_000_000),
    ("m", 60_000_000_000),
    ("s", 1_000_000_000),
    ("ms", 1_000_000),
    ("us", 1_000),
    ("ns", 1),
];

/// Units of size and their bytes, in the order in which `Display` tries them.
const SIZES: [(&str, u64); 9] = [
    ("TiB", 1 << 40),
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("TB", 1_000_000_000_000),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("KB", 1_000),
    ("B", 1),
];

impl FromStr for Duration {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.bytes().all(|byte| byte == b'0') && !text.is_empty() {
            return Ok(Self(StdDuration::ZERO));
        }
        let mut total = StdDuration::ZERO;
        let mut last_rank = None;
        let mut rest = text;
        loop {
            let (digits, unit, after) = split_number(rest, text, "duration", "30s")?;
            if unit.is_empty() {
                return Err(UnitError(format!("a duration needs a unit: write `{text}s`")));
            }
            let Some(rank) = TIMES.iter().position(|(name, _)| *name == unit) else {
                return Err(UnitError(unknown_time_unit(digits, unit)));
            };
            if last_rank.is_some_and(|last| rank <= last) {
                return Err(UnitError(format!(
                    "in the duration `{text}` each unit may stand once, the larger first: write it like `1h30m`"
                )));
            }
            last_rank = Some(rank);
            let part = span_of(digits, rank).and_then(|part| total.checked_add(part));
            total = part.ok_or_else(|| UnitError(format!("the duration `{text}` is too long")))?;
            if after.is_empty() {
                return Ok(Self(total));
            }
            rest = after;
        }
    }
}

/// `digits` times the unit at `rank` of [`TIMES`], or `None` when it does not fit.
fn span_of(digits: &str, rank: usize) -> Option<StdDuration> {
    let number: u64 = digits.parse().ok()?;
    let nanos = TIMES[rank].1;
    if nanos >= 1_000_000_000 {
        return number.checked_mul(nanos / 1_000_000_000).map(StdDuration::from_secs);
    }
    let per_second = 1_000_000_000 / nanos;
    let below = u32::try_from((number % per_second) * nanos).ok()?;
    Some(StdDuration::new(number / per_second, below))
}

fn unknown_time_unit(digits: &str, unit: &str) -> String {
    let meant = match unit.to_ascii_lowercase().as_str() {
        "sec" | "secs" | "second" | "seconds" | "s" => "s",
        "min" | "mins" | "minute" | "minutes" | "m" => "m",
        "hr" | "hrs" | "hour" | "hours" | "h" => "h",
        "day" | "days" | "d" => "d",
        "msec" | "millis" | "milliseconds" | "ms" => "ms",
        _ => return format!("`{unit}` is not a unit of time: use `ms`, `s`, `m`, `h` or `d`"),
    };
    format!("`{unit}` is not a unit of time: write `{digits}{meant}`")
}

impl FromStr for ByteSize {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        if text.bytes().all(|byte| byte == b'0') && !text.is_empty() {
            return Ok(Self(0));
        }
        let (digits, unit, after) = split_number(text, text, "size", "100MiB")?;
        if unit.is_empty() {
            return Err(UnitError(format!("a size needs a unit: write `{text}MiB`, or `{text}B` for bytes")));
        }
        if !after.is_empty() {
            return Err(UnitError(format!("`{text}` is not a size: write one number and one unit, like `100MiB`")));
        }
        let Some((_, bytes)) = SIZES.iter().find(|(name, _)| *name == unit) else {
            return Err(UnitError(unknown_size_unit(digits, unit)));
        };
        let number: Option<u64> = digits.parse().ok();
        number
            .and_then(|number| number.checked_mul(*bytes))
            .map(Self)
            .ok_or_else(|| UnitError(format!("the size `{text}` is too large")))
    }
}

fn unknown_size_unit(digits: &str, unit: &str) -> String {
    let known = SIZES.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(name, _)| *name);
    let meant = known.or_else(|| match unit.to_ascii_lowercase().as_str() {
        "k" | "ki" => Some("KiB"),
        "m" | "mi" => Some("MiB"),
        "g" | "gi" => Some("GiB"),
        "t" | "ti" => Some("TiB"),
        "byte" | "bytes" => Some("B"),
        _ => None,
    });
    match meant {
        Some(meant) => format!("`{unit}` is not a unit of size: write `{digits}{meant}`"),
        None => format!("`{unit}` is not a unit of size: use `KiB`, `MiB` or `GiB`"),
    }
}

/// Splits the first `NUMBER UNIT` off `rest`: the digits, the unit (may be empty), what follows.
fn split_number<'a>(
    rest: &'a str,
    whole: &str,
    what: &str,
    example: &str,
) -> Result<(&'a str, &'a str, &'a str), UnitError> {
    let digits_end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    let (digits, tail) = rest.split_at(digits_end);
    let unit_end = tail.find(|c: char| !c.is_alphabetic()).unwrap_or(tail.len());
    let (unit, after) = tail.split_at(unit_end);
    let refuse = |why: &str| Err(UnitError(format!("`{whole}` is not a {what}: {why} `{example}`")));
    if whole.is_empty() {
        return Err(UnitError(format!("an empty text is not a {what}: write it like `{example}`")));
    }
    if whole.starts_with('-') {
        return refuse("it cannot be negative, write it like");
    }
    if whole.contains(char::is_whitespace) {
        return refuse("write it without spaces, like");
    }
    if after.starts_with(['.', ',']) {
        return refuse("only whole numbers are allowed, like");
    }
    if digits.is_empty() || (!after.is_empty() && !after.starts_with(|c: char| c.is_ascii_digit())) {
        return refuse("write it like");
    }
    Ok((digits, unit, after))
}

impl fmt::Display for Duration {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, below) = (self.0.as_secs(), u64::from(self.0.subsec_nanos()));
        if below == 0 {
            if seconds == 0 {
                return formatter.write_str("0s");
            }
            let whole = TIMES.iter().take(4).find(|(_, nanos)| seconds.is_multiple_of(nanos / 1_000_000_000));
            let (unit, nanos) = whole.copied().unwrap_or(("s", 1_000_000_000));
            return write!(formatter, "{}{unit}", seconds / (nanos / 1_000_000_000));
        }
        if seconds > 0 {
            write!(formatter, "{seconds}s")?;
        }
        let part = TIMES.iter().skip(4).find(|(_, nanos)| below.is_multiple_of(*nanos));
        let (unit, nanos) = part.copied().unwrap_or(("ns", 1));
        write!(formatter, "{}{unit}", below / nanos)
    }
}

impl fmt::Display for ByteSize {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0 == 0 {
            return formatter.write_str("0");
        }
        let whole = SIZES.iter().find(|(_, bytes)| self.0.is_multiple_of(*bytes));
        let (unit, bytes) = whole.copied().unwrap_or(("B", 1));
        write!(formatter, "{}{unit}", self.0 / bytes)
    }
}

/// Reads either unit type from a text, and from a number only to say that a unit is missing.
struct UnitVisitor<T> {
    expecting: &'static str,
    kind: std::marker::PhantomData<T>,
}

impl<T: FromStr<Err = UnitError>> Visitor<'_> for UnitVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expecting)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        text.parse().map_err(E::custom)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_f64<E: Error>(self, number: f64) -> Result<T, E> {
        self.visit_str(&number.to_string())
    }
}

macro_rules! unit_in_text {
    ($name:ident, $expecting:literal, $pattern:literal, $description:literal) => {
        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                deserializer.deserialize_any(UnitVisitor { expecting: $expecting, kind: std::marker::PhantomData })
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl JsonSchema for $name {
            fn schema_name() -> Cow<'static, str> {
                stringify!($name).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({
                    "type": ["string", "integer"],
                    "description": $description,
                    "pattern": $pattern,
                    "minimum": 0,
                    "maximum": 0
                })
            }
        }
    };
}

unit_in_text!(
    Duration,
    "a duration with a unit, such as `30s`",
    r"^(0+|(?=.)([0-9]+d)?([0-9]+h)?([0-9]+m)?([0-9]+s)?([0-9]+ms)?([0-9]+us)?([0-9]+ns)?)$",
    "A length of time with its unit: `250ms`, `30s`, `5m`, `1h30m`, `7d`."
);
unit_in_text!(
    ByteSize,
    "a size with a unit, such as `100MiB`",
    r"^(0+|[0-9]+([KMGT]i?)?B)$",
    "A number of bytes with its unit: `512KiB`, `100MiB`, `1GiB` (powers of 1024), `50MB` (powers of 1000)."
);

#[cfg(test)]
mod tests {
    use super::*;

    fn duration(text: &str) -> Result<StdDuration, String> {
        text.parse::<Duration>().map(|value| value.0).map_err(|error| error.to_string())
    }

    fn size(text: &str) -> Result<u64, String> {
        text.parse::<ByteSize>().map(|value| value.0).map_err(|error| error.to_string())
    }

    #[test]
    fn durations_are_read_with_every_unit() {
        assert_eq!(duration("250ms"), Ok(StdDuration::from_millis(250)));
        assert_eq!(duration("30s"), Ok(StdDuration::from_secs(30)));
        assert_eq!(duration("5m"), Ok(StdDuration::from_secs(300)));
        assert_eq!(duration("1h30m"), Ok(StdDuration::from_secs(5400)));
        assert_eq!(duration("7d"), Ok(StdDuration::from_secs(604_800)));
        assert_eq!(duration("1s1ns"), Ok(StdDuration::new(1, 1)));
        assert_eq!(duration("1500ms"), Ok(StdDuration::from_millis(1500)));
        assert_eq!(duration("0"), Ok(StdDuration::ZERO));
        assert_eq!(duration("0s"), Ok(StdDuration::ZERO));
    }

    #[test]
    fn a_wrong_duration_shows_the_right_spelling() {
        let cases = [
            ("30", "a duration needs a unit: write `30s`"),
            ("", "an empty text is not a duration: write it like `30s`"),
            ("5min", "`min` is not a unit of time: write `5m`"),
            ("30S", "`S` is not a unit of time: write `30s`"),
            ("3w", "`w` is not a unit of time: use `ms`, `s`, `m`, `h` or `d`"),
            ("1.5s", "`1.5s` is not a duration: only whole numbers are allowed, like `30s`"),
            ("30 s", "`30 s` is not a duration: write it without spaces, like `30s`"),
            ("-1s", "`-1s` is not a duration: it cannot be negative, write it like `30s`"),
            ("soon", "`soon` is not a duration: write it like `30s`"),
            ("30m1h", "in the duration `30m1h` each unit may stand once, the larger first: write it like `1h30m`"),
            ("99999999999999999999s", "the duration `99999999999999999999s` is too long"),
            ("300000000000000000d", "the duration `300000000000000000d` is too long"),
        ];
        for (text, message) in cases {
            assert_eq!(duration(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_with_every_unit() {
        assert_eq!(size("512KiB"), Ok(512 << 10));
        assert_eq!(size("100MiB"), Ok(100 << 20));
        assert_eq!(size("1GiB"), Ok(1 << 30));
        assert_eq!(size("50MB"), Ok(50_000_000));
        assert_eq!(size("7B"), Ok(7));
        assert_eq!(size("0"), Ok(0));
    }

    #[test]
    fn a_wrong_size_shows_the_right_spelling() {
        let cases = [
            ("100", "a size needs a unit: write `100MiB`, or `100B` for bytes"),
            ("100m", "`m` is not a unit of size: write `100MiB`"),
            ("100mb", "`mb` is not a unit of size: write `100MB`"),
            ("1XB", "`XB` is not a unit of size: use `KiB`, `MiB` or `GiB`"),
            ("1MiB2B", "`1MiB2B` is not a size: write one number and one unit, like `100MiB`"),
            ("99999999999TiB", "the size `99999999999TiB` is too large"),
            ("1.5GiB", "`1.5GiB` is not a size: only whole numbers are allowed, like `100MiB`"),
        ];
        for (text, message) in cases {
            assert_eq!(size(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        let durations = [0, 1, 1_000, 1_500_000, 75_000_000_000, 300_000_000_000, 90_061_000_000_001, u64::MAX];
        for nanos in durations {
            let value = Duration(StdDuration::from_nanos(nanos));
            assert_eq!(value.to_string().parse(), Ok(value), "{value}");
        }
        let longest = Duration(StdDuration::MAX);
        assert_eq!(longest.to_string().parse(), Ok(longest));
        for bytes in [0, 1, 1000, 1024, 50_000_000, 1 << 20, 3 << 30, u64::MAX] {
            let value = ByteSize(bytes);
            assert_eq!(value.to_string().parse(), Ok(value), "{value}");
        }
    }

    #[test]
    fn printed_values_are_short() {
        assert_eq!(Duration(StdDuration::from_secs(300)).to_string(), "5m");
        assert_eq!(Duration(StdDuration::from_secs(75)).to_string(), "75s");
        assert_eq!(Duration(StdDuration::from_millis(1500)).to_string(), "1s500ms");
        assert_eq!(ByteSize(100 << 20).to_string(), "100MiB");
        assert_eq!(ByteSize(50_000_000).to_string(), "50MB");
    }

    #[test]
    fn json_numbers_are_refused_unless_zero() {
        assert!(serde_json::from_str::<Duration>("30").is_err());
        assert_eq!(serde_json::from_str::<Duration>("0").ok(), Some(Duration(StdDuration::ZERO)));
        assert_eq!(serde_json::from_str::<ByteSize>("\"1KiB\"").ok(), Some(ByteSize(1024)));
    }
}
