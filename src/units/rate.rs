//! Requests per time, as people write them in YAML: `100/m`, `10/s`, `5/h`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;
use std::time::Duration as StdDuration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::{UnitError, UnitVisitor};

/// A number of requests per second, minute, hour or day: `10/s`, `100/m`, `5/h`, `1000/d`.
///
/// `60/m` and `1/s` are the same speed and still two values: each prints as it was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    count: u32,
    per: Per,
}

/// The time that a rate counts in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    Second,
    Minute,
    Hour,
    Day,
}

/// Most requests that a rate may name. Faster ones limit nothing that this program could serve.
const MOST: u32 = 1_000_000;

impl Per {
    const ALL: [(&'static str, Self, u64); 4] =
        [("s", Self::Second, 1), ("m", Self::Minute, 60), ("h", Self::Hour, 3600), ("d", Self::Day, 86_400)];

    fn letter(self) -> &'static str {
        Self::ALL.iter().find(|(_, per, _)| *per == self).map_or("s", |(letter, ..)| letter)
    }
}

impl Rate {
    /// `count` requests a second, at least one.
    #[must_use]
    pub const fn per_second(count: u32) -> Self {
        Self { count: if count == 0 { 1 } else { count }, per: Per::Second }
    }

    /// `count` requests a minute, at least one.
    #[must_use]
    pub const fn per_minute(count: u32) -> Self {
        Self { count: if count == 0 { 1 } else { count }, per: Per::Minute }
    }

    /// How many requests; from 1 to 1,000,000.
    #[must_use]
    pub const fn count(self) -> u32 {
        self.count
    }

    /// In what time: a second, a minute, an hour or a day.
    #[must_use]
    pub fn period(self) -> StdDuration {
        let seconds = Per::ALL.iter().find(|(_, per, _)| *per == self.per).map_or(1, |(_, _, seconds)| *seconds);
        StdDuration::from_secs(seconds)
    }
}

impl FromStr for Rate {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: String| Err(UnitError(why));
        if text.is_empty() {
            return refuse("an empty text is not a rate: write it like `100/m`".to_owned());
        }
        if text.contains(char::is_whitespace) {
            return refuse(format!("`{text}` is not a rate: write it without spaces, like `100/m`"));
        }
        let Some((number, unit)) = text.split_once('/') else {
            let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
            let number = if digits.is_empty() { "100" } else { digits };
            return refuse(format!("a rate needs a time: write `{number}/s`, `{number}/m` or `{number}/h`"));
        };
        let digits = number.strip_suffix('r').unwrap_or(number);
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return refuse(format!("`{text}` is not a rate: write a whole number and a time, like `100/m`"));
        }
        let Some(per) = per(unit) else {
            return refuse(format!("`{unit}` is not a time of a rate: use `s`, `m`, `h` or `d`"));
        };
        if digits != number || per.letter() != unit {
            return refuse(format!("`{text}` is not a rate: write `{digits}/{}`", per.letter()));
        }
        match digits.parse() {
            Ok(0) => refuse(format!("the rate `{text}` lets nothing pass: at least `1/{unit}`")),
            Ok(count) if count <= MOST => Ok(Self { count, per }),
            _ => refuse(format!("the rate `{text}` is too large: at most `{MOST}/{unit}`")),
        }
    }
}

/// What was meant by a unit, also in other spellings.
fn per(unit: &str) -> Option<Per> {
    match unit.to_ascii_lowercase().as_str() {
        "s" | "sec" | "second" => Some(Per::Second),
        "m" | "min" | "minute" => Some(Per::Minute),
        "h" | "hr" | "hour" => Some(Per::Hour),
        "d" | "day" => Some(Per::Day),
        _ => None,
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.count, self.per.letter())
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a number of requests and a time, such as `100/m`";
        deserializer.deserialize_any(UnitVisitor { expecting, kind: std::marker::PhantomData })
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Rate {
    fn schema_name() -> Cow<'static, str> {
        "Rate".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "Requests per second, minute, hour or day: `10/s`, `100/m`, `5/h`, `1000/d`.",
            "pattern": "^0*[1-9][0-9]*/[smhd]$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rate(text: &str) -> Result<(u32, u64), String> {
        let rate: Result<Rate, _> = text.parse();
        rate.map(|rate| (rate.count(), rate.period().as_secs())).map_err(|error| error.to_string())
    }

    #[test]
    fn rates_are_read_with_every_time() {
        assert_eq!(rate("10/s"), Ok((10, 1)));
        assert_eq!(rate("100/m"), Ok((100, 60)));
        assert_eq!(rate("5/h"), Ok((5, 3600)));
        assert_eq!(rate("1000000/d"), Ok((1_000_000, 86_400)));
        assert_eq!(Rate::per_minute(300), "300/m".parse().unwrap());
        assert_eq!(Rate::per_second(10), "10/s".parse().unwrap());
    }

    #[test]
    fn a_wrong_rate_shows_the_right_spelling() {
        let cases = [
            ("", "an empty text is not a rate: write it like `100/m`"),
            ("100", "a rate needs a time: write `100/s`, `100/m` or `100/h`"),
            ("100rpm", "a rate needs a time: write `100/s`, `100/m` or `100/h`"),
            ("fast", "a rate needs a time: write `100/s`, `100/m` or `100/h`"),
            ("100r/m", "`100r/m` is not a rate: write `100/m`"),
            ("100/min", "`100/min` is not a rate: write `100/m`"),
            ("100/M", "`100/M` is not a rate: write `100/m`"),
            ("100 / m", "`100 / m` is not a rate: write it without spaces, like `100/m`"),
            ("1.5/s", "`1.5/s` is not a rate: write a whole number and a time, like `100/m`"),
            ("-1/s", "`-1/s` is not a rate: write a whole number and a time, like `100/m`"),
            ("/s", "`/s` is not a rate: write a whole number and a time, like `100/m`"),
            ("1/w", "`w` is not a time of a rate: use `s`, `m`, `h` or `d`"),
            ("1/", "`` is not a time of a rate: use `s`, `m`, `h` or `d`"),
            ("0/s", "the rate `0/s` lets nothing pass: at least `1/s`"),
            ("1000001/s", "the rate `1000001/s` is too large: at most `1000000/s`"),
            ("99999999999999999999/s", "the rate `99999999999999999999/s` is too large: at most `1000000/s`"),
        ];
        for (text, message) in cases {
            assert_eq!(rate(text), Err(message.to_owned()), "{text}");
        }
    }

    #[test]
    fn what_is_printed_is_read_back() {
        for text in ["1/s", "60/m", "300/m", "5/h", "7/d"] {
            assert_eq!(text.parse::<Rate>().unwrap().to_string(), text);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_text_is_read_other_than_it_is_printed(text in "[0-9r./ smhd]{0,12}") {
            if let Ok(rate) = text.parse::<Rate>() {
                proptest::prop_assert_eq!(rate.to_string(), text.trim_start_matches('0'));
            }
        }
    }
}
