//! How the types that are not plain structs are read: words, one or many, statuses.
//!
//! `off` is a word in YAML 1.2 and the boolean false in YAML 1.1; both mean off here. serde's own
//! `untagged` would lose positions and say "did not match any variant"; these visitors keep both.

use std::borrow::Cow;
use std::fmt;
use std::marker::PhantomData;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer, StrDeserializer, U64Deserializer};
use serde::de::{Deserialize, Deserializer, Error, MapAccess, SeqAccess, Unexpected, Visitor};
use serde::ser::{Serialize, Serializer};

use super::{
    AccessLog, Active, Check, ClientAuth, Coding, Compress, ModelAffinity, Off, OneOrMany, Plan, ProxyProtocol,
    QueueKeepalive, RetryOn, Switch,
};

impl<'de, T: Deserialize<'de>> Deserialize<'de> for OneOrMany<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(OneOrManyVisitor(PhantomData))
    }
}

struct OneOrManyVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for OneOrManyVisitor<T> {
    type Value = OneOrMany<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a value or a list of values")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        T::deserialize(StrDeserializer::new(text)).map(OneOrMany::One)
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Self::Value, E> {
        // A number where numbers are meant; a text that looks like one otherwise.
        let meant = T::deserialize(U64Deserializer::<E>::new(number)).map(OneOrMany::One);
        meant.or_else(|_| self.visit_str(&number.to_string()))
    }

    fn visit_i64<E: Error>(self, number: i64) -> Result<Self::Value, E> {
        self.visit_str(&number.to_string())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        self.visit_str(if value { "true" } else { "false" })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Self::Value, A::Error> {
        Vec::deserialize(SeqAccessDeserializer::new(sequence)).map(OneOrMany::Many)
    }
}

/// Reads one of a closed list of words; false stands for the word `off`.
struct WordVisitor<T: 'static> {
    words: &'static [(&'static str, T)],
    expecting: &'static str,
}

impl<T: Copy> Visitor<'_> for WordVisitor<T> {
    type Value = T;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.expecting)
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        let found = self.words.iter().find(|(word, _)| *word == text);
        found.map(|(_, value)| *value).ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<T, E> {
        if value { Err(E::invalid_value(Unexpected::Bool(true), &self)) } else { self.visit_str("off") }
    }
}

impl<'de> Deserialize<'de> for AccessLog {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor {
            words: &[("json", Self::Json), ("combined", Self::Combined), ("off", Self::Off)],
            expecting: "`json`, `combined` or `off`",
        })
    }
}

impl<'de> Deserialize<'de> for ClientAuth {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor {
            words: &[("off", Self::Off), ("optional", Self::Optional), ("required", Self::Required)],
            expecting: "`off`, `optional` or `required`",
        })
    }
}

impl<'de> Deserialize<'de> for ProxyProtocol {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor {
            words: &[("off", Self::Off), ("accept", Self::Accept)],
            expecting: "`off` or `accept`",
        })
    }
}

impl<'de> Deserialize<'de> for ModelAffinity {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor {
            words: &[
                ("prefer_loaded", Self::PreferLoaded),
                ("require_loaded", Self::RequireLoaded),
                ("off", Self::Off),
            ],
            expecting: "`prefer_loaded`, `require_loaded` or `off`",
        })
    }
}

impl<'de> Deserialize<'de> for Plan {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(WordVisitor {
            words: &[("learned", Self::Learned), ("off", Self::Off)],
            expecting: "`learned` or `off`",
        })
    }
}

impl<'de> Deserialize<'de> for Switch {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(SwitchVisitor)
    }
}

struct SwitchVisitor;

impl Visitor<'_> for SwitchVisitor {
    type Value = Switch;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("`on` or `off`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Switch, E> {
        match text {
            "on" => Ok(Switch::On),
            "off" => Ok(Switch::Off),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Switch, E> {
        Ok(if value { Switch::On } else { Switch::Off })
    }
}

impl<'de> Deserialize<'de> for Active {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ActiveVisitor)
    }
}

struct ActiveVisitor;

impl<'de> Visitor<'de> for ActiveVisitor {
    type Value = Active;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("`off` or a mapping such as `{ interval: 5s }`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Active, E> {
        if text == "off" {
            return Ok(Active::Off(Off::Off));
        }
        Err(E::invalid_value(Unexpected::Str(text), &self))
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Active, E> {
        if value { Err(E::invalid_value(Unexpected::Bool(true), &self)) } else { self.visit_str("off") }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Active, A::Error> {
        Check::deserialize(MapAccessDeserializer::new(map)).map(Active::Check)
    }
}

impl<'de> Deserialize<'de> for QueueKeepalive {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(QueueKeepaliveVisitor)
    }
}

struct QueueKeepaliveVisitor;

impl Visitor<'_> for QueueKeepaliveVisitor {
    type Value = QueueKeepalive;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("`off` or a duration with a unit, such as `15s`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<QueueKeepalive, E> {
        if text == "off" {
            return Ok(QueueKeepalive::Off(Off::Off));
        }
        text.parse().map(QueueKeepalive::Every).map_err(E::custom)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<QueueKeepalive, E> {
        if value { Err(E::invalid_value(Unexpected::Bool(true), &self)) } else { self.visit_str("off") }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<QueueKeepalive, E> {
        self.visit_str(&number.to_string())
    }
}

impl<'de> Deserialize<'de> for Compress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CompressVisitor)
    }
}

struct CompressVisitor;

impl<'de> Visitor<'de> for CompressVisitor {
    type Value = Compress;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("`true`, `false` or a list of `zstd`, `br` and `gzip`")
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Compress, E> {
        Ok(Compress::Switch(value))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Compress, E> {
        match text {
            "off" => Ok(Compress::Switch(false)),
            _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, sequence: A) -> Result<Compress, A::Error> {
        Vec::<Coding>::deserialize(SeqAccessDeserializer::new(sequence)).map(Compress::These)
    }
}

impl fmt::Display for RetryOn {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connect => formatter.write_str("connect"),
            Self::Reset => formatter.write_str("reset"),
            Self::FirstByteTimeout => formatter.write_str("first_byte_timeout"),
            Self::ServerError => formatter.write_str("5xx"),
            Self::Status(status) => write!(formatter, "{status}"),
        }
    }
}

impl Serialize for RetryOn {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for RetryOn {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RetryOnVisitor)
    }
}

struct RetryOnVisitor;

impl Visitor<'_> for RetryOnVisitor {
    type Value = RetryOn;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("`connect`, `reset`, `first_byte_timeout`, `5xx` or a status from 400 to 599")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<RetryOn, E> {
        match text {
            "connect" => Ok(RetryOn::Connect),
            "reset" => Ok(RetryOn::Reset),
            "first_byte_timeout" => Ok(RetryOn::FirstByteTimeout),
            "5xx" => Ok(RetryOn::ServerError),
            _ => match text.parse() {
                Ok(status @ 400..=599) if text.len() == 3 => Ok(RetryOn::Status(status)),
                _ => Err(E::invalid_value(Unexpected::Str(text), &self)),
            },
        }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<RetryOn, E> {
        self.visit_str(&number.to_string())
    }
}

impl JsonSchema for RetryOn {
    fn schema_name() -> Cow<'static, str> {
        "RetryOn".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "A failure that may be tried again: a word, or a status from 400 to 599.",
            "anyOf": [
                { "type": "string", "enum": ["connect", "reset", "first_byte_timeout", "5xx"] },
                { "type": "string", "pattern": "^[45][0-9][0-9]$" },
                { "type": "integer", "minimum": 400, "maximum": 599 }
            ]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read<T: serde::de::DeserializeOwned>(json: &str) -> Result<T, String> {
        serde_json::from_str(json).map_err(|error| error.to_string())
    }

    #[test]
    fn retry_conditions_are_words_or_statuses() {
        let all = r#"["connect", "reset", "first_byte_timeout", "5xx", "503", 429]"#;
        let expected = vec![
            RetryOn::Connect,
            RetryOn::Reset,
            RetryOn::FirstByteTimeout,
            RetryOn::ServerError,
            RetryOn::Status(503),
            RetryOn::Status(429),
        ];
        assert_eq!(read::<Vec<RetryOn>>(all), Ok(expected));
        for wrong in ["\"200\"", "600", "399", "\"timeout\"", "\"0503\"", "\"+503\"", "-503", "true"] {
            assert!(read::<RetryOn>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn off_is_a_word_and_the_boolean_false() {
        for off in ["\"off\"", "false"] {
            assert_eq!(read::<AccessLog>(off), Ok(AccessLog::Off));
            assert_eq!(read::<ModelAffinity>(off), Ok(ModelAffinity::Off));
            assert_eq!(read::<ClientAuth>(off), Ok(ClientAuth::Off));
            assert_eq!(read::<ProxyProtocol>(off), Ok(ProxyProtocol::Off));
            assert_eq!(read::<Active>(off), Ok(Active::Off(Off::Off)));
            assert_eq!(read::<Switch>(off), Ok(Switch::Off));
            assert_eq!(read::<QueueKeepalive>(off), Ok(QueueKeepalive::Off(Off::Off)));
        }
        assert_eq!(
            read::<QueueKeepalive>("\"15s\"").map(|read| read.every()),
            "15s".parse().map(Some).map_err(|_| String::new())
        );
        for wrong in ["\"on\"", "true", "15"] {
            assert!(read::<QueueKeepalive>(wrong).is_err(), "{wrong}");
        }
        assert_eq!((read("\"on\""), read("true")), (Ok(Switch::On), Ok(Switch::On)));
        assert!(read::<Switch>("\"yes\"").is_err());
        assert!(read::<AccessLog>("true").is_err());
        assert!(read::<Active>("true").is_err());
        assert!(read::<Active>("\"on\"").is_err());
    }

    #[test]
    fn one_value_and_a_list_of_values_are_both_lists() {
        let one: OneOrMany<String> = read("\"a\"").unwrap_or_default();
        let many: OneOrMany<String> = read("[\"a\", \"b\"]").unwrap_or_default();
        assert_eq!(one.as_slice(), ["a"]);
        assert_eq!(many.as_slice(), ["a", "b"]);
    }
}
