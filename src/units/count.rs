//! A large number of things, as people write it in YAML: `1M`, `500K`, `250000`.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserialize, Deserializer};
use serde::ser::{Serialize, Serializer};

use super::{UnitError, UnitVisitor};

/// A whole number, with a thousand (`K`), a million (`M`) or a billion (`G`) written by their letters.
///
/// At most 10^15, so that sums of such numbers stay far from the end of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Count(pub u64);

/// The largest number.
const MOST: u64 = 1_000_000_000_000_000;

const LETTERS: [(&str, u64); 3] = [("G", 1_000_000_000), ("M", 1_000_000), ("K", 1_000)];

impl FromStr for Count {
    type Err = UnitError;

    fn from_str(text: &str) -> Result<Self, UnitError> {
        let refuse = |why: String| Err(UnitError(why));
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let letters = &text[digits.len()..];
        if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
            return refuse(format!("`{text}` is not a number: write a whole number like `500K`, `1M` or `250000`"));
        }
        let factor = match LETTERS.iter().find(|(letter, _)| *letter == letters) {
            Some((_, factor)) => *factor,
            None if letters.is_empty() => 1,
            None => {
                let meant = LETTERS.iter().find(|(letter, _)| letter.eq_ignore_ascii_case(letters));
                return refuse(match meant {
                    Some((letter, _)) => format!("`{text}` is not a number: write `{digits}{letter}`"),
                    None => format!("`{letters}` is not a letter of a number: use `K`, `M` or `G`"),
                });
            }
        };
        let number = digits.parse::<u64>().ok().and_then(|number| number.checked_mul(factor));
        match number.filter(|number| *number <= MOST) {
            Some(number) => Ok(Self(number)),
            None => refuse(format!("the number `{text}` is too large: at most `{}G`", MOST / 1_000_000_000)),
        }
    }
}

impl fmt::Display for Count {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let whole = LETTERS.iter().find(|(_, factor)| self.0 > 0 && self.0.is_multiple_of(*factor));
        match whole {
            Some((letter, factor)) => write!(formatter, "{}{letter}", self.0 / factor),
            None => write!(formatter, "{}", self.0),
        }
    }
}

impl<'de> Deserialize<'de> for Count {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let expecting = "a whole number such as `1M`";
        deserializer.deserialize_any(UnitVisitor { expecting, kind: std::marker::PhantomData })
    }
}

impl Serialize for Count {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl JsonSchema for Count {
    fn schema_name() -> Cow<'static, str> {
        "Count".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "type": ["string", "integer"],
            "description": "A whole number; `K` is a thousand, `M` a million, `G` a billion: `500K`, `1M`, `250000`.",
            "pattern": "^[0-9]+[KMG]?$",
            "minimum": 0
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> Result<u64, String> {
        text.parse::<Count>().map(|count| count.0).map_err(|error| error.to_string())
    }

    #[test]
    fn numbers_are_read_with_and_without_letters() {
        for (text, wanted) in
            [("0", 0), ("250000", 250_000), ("500K", 500_000), ("1M", 1_000_000), ("1000000G", 1_000_000_000_000_000)]
        {
            assert_eq!(read(text), Ok(wanted), "{text}");
        }
        assert_eq!(serde_json::from_str::<Count>("1500").unwrap(), Count(1500));
    }

    #[test]
    fn a_wrong_number_shows_the_right_spelling() {
        for (text, wanted) in [
            ("1m", "write `1M`"),
            ("1.5M", "write a whole number"),
            ("1_000", "write a whole number"),
            ("", "write a whole number"),
            ("-1", "write a whole number"),
            ("1T", "use `K`, `M` or `G`"),
            ("1000001G", "too large"),
            ("99999999999999999999", "too large"),
        ] {
            let said = read(text).unwrap_err();
            assert!(said.contains(wanted), "{text}: {said}");
        }
    }

    proptest! {
        #[test]
        fn what_is_shown_is_read_back(number in 0..=MOST) {
            prop_assert_eq!(read(&Count(number).to_string()), Ok(number));
        }
    }
}
