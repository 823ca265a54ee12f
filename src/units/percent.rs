//! A part of a hundred, as people write it in YAML: `50%`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::{UnitError, UnitVisitor};

/// A whole number of hundredths from 0 to 100: `50%`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Percent(u8);

impl Percent {
    /// So many hundredths, 100 at most.
    #[must_use]
    pub const fn new(hundredths: u8) -> Self {
        Self(if hundredths > 100 { 100 } else { hundredths })
    }

    /// How many hundredths, from 0 to 100.
    #[must_use]
    pub const fn hundredths(self) -> u8 {
        self.0
    }
}

impl FromStr for Percent {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: String| Err(UnitError(why));
        let Some(digits) = text.strip_suffix('%') else {
            let whole = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            let example = if whole { text } else { "50" };
            return refuse(format!("a share needs a percent sign: write it like `{example}%`"));
        };
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return refuse(format!("`{text}` is not a share: write a whole number and a percent sign, like `50%`"));
        }
        match digits.parse() {
            Ok(hundredths @ 0..=100) => Ok(Self(hundredths)),
            _ => refuse(format!("the share `{text}` is more than all: at most `100%`")),
        }
    }
}

impl fmt::Display for Percent {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}%", self.0)
    }
}

impl<'de> Deserialize<'de> for Percent {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a share of a hundred, such as `50%`";
        deserializer.deserialize_any(UnitVisitor { expecting, kind: std::marker::PhantomData })
    }
}

impl Serialize for Percent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Percent {
    fn schema_name() -> Cow<'static, str> {
        "Percent".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": "string",
            "description": "A share of a hundred: `50%`.",
            "pattern": "^(0*[0-9]{1,2}|0*100)%$"
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn percent(text: &str) -> Result<u8, String> {
        text.parse::<Percent>().map(Percent::hundredths).map_err(|error| error.to_string())
    }

    #[test]
    fn shares_are_read_and_printed() {
        for (text, hundredths) in [("0%", 0), ("7%", 7), ("50%", 50), ("100%", 100)] {
            assert_eq!(percent(text), Ok(hundredths));
            assert_eq!(Percent::new(hundredths).to_string(), text);
        }
        assert_eq!(Percent::new(200).hundredths(), 100);
    }

    #[test]
    fn a_wrong_share_shows_the_right_spelling() {
        let cases = [
            ("50", "a share needs a percent sign: write it like `50%`"),
            ("0.5", "a share needs a percent sign: write it like `50%`"),
            ("", "a share needs a percent sign: write it like `50%`"),
            ("half", "a share needs a percent sign: write it like `50%`"),
            ("%", "`%` is not a share: write a whole number and a percent sign, like `50%`"),
            ("5 %", "`5 %` is not a share: write a whole number and a percent sign, like `50%`"),
            ("-1%", "`-1%` is not a share: write a whole number and a percent sign, like `50%`"),
            ("101%", "the share `101%` is more than all: at most `100%`"),
            ("999%", "the share `999%` is more than all: at most `100%`"),
        ];
        for (text, message) in cases {
            assert_eq!(percent(text), Err(message.to_owned()), "{text}");
        }
    }
}
