//! What limits how often and how many at a time, as it was typed.

use std::borrow::Cow;
use std::fmt;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Deserializer, Error, Unexpected, Visitor};
use serde::ser::Serializer;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use crate::units::{ByteSize, Rate};

/// What a listener takes at most. More connections are closed; more requests are answered 503.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerLimits {
    /// Bytes of the request line and all header fields together; more is answered 431.
    pub header_bytes: ByteSize,
    /// Number of header fields; more is answered 431.
    pub header_fields: u32,
    /// Bytes of the request target; more is answered 414.
    pub target_bytes: ByteSize,
    /// Open connections; one more is closed at once. 0 is no limit.
    pub connections: u32,
    /// Open connections of one client, an IPv4 address or an IPv6 /64; one more is closed at once. 0 is no limit.
    pub connections_per_ip: u32,
    /// Requests being served; one more is answered 503. No limit by default.
    pub requests: Option<u32>,
    /// Least bytes per second of a request body over its whole upload, after the first 10 s. 0 is no limit.
    pub body_rate: ByteSize,
}

impl Default for ListenerLimits {
    fn default() -> Self {
        Self {
            header_bytes: ByteSize(32 << 10),
            header_fields: 100,
            target_bytes: ByteSize(8 << 10),
            connections: 20_000,
            connections_per_ip: 16_000,
            requests: None,
            body_rate: ByteSize(1 << 10),
        }
    }
}

/// How often requests may come. What comes too often is answered 429.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    /// What is counted by: `client_ip` (IPv6 by /64), `api_key` (the client's address where there is none),
    /// `route`, `model`, `host`, `header:NAME`, or a list of them for their combination. A limit by `model` does
    /// not count requests without a model.
    #[serde(default = "client_ip")]
    pub key: OneOrMany<String>,
    /// A `rate` and `burst` by name: `general` (100/m, 20), `api` (300/m, 50) or `strict` (10/s, 20).
    pub preset: Option<Preset>,
    /// Requests per time: `10/s`, `100/m`, `5/h`, `1000/d`.
    pub rate: Option<Rate>,
    /// Requests that may come at once beyond the rate (0): `rate: 100/m` with `burst: 20` lets 21 pass at once, then one
    /// each 600 ms.
    pub burst: Option<u32>,
    /// How many requests of the burst, the last, wait until the rate allows them: a number or `all`. 0 by default.
    #[serde(default)]
    pub delay: Delay,
}

/// How many requests may run at a time. One more is answered 429.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyLimit {
    /// What is counted by, as in `rate_limits`.
    #[serde(default = "client_ip")]
    pub key: OneOrMany<String>,
    /// Most requests at a time.
    #[schemars(range(min = 1))]
    pub max: u32,
}

fn client_ip() -> OneOrMany<String> {
    OneOrMany::One("client_ip".to_owned())
}

/// A rate and burst by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Preset {
    /// 100 a minute, burst 20.
    General,
    /// 300 a minute, burst 50.
    Api,
    /// 10 a second, burst 20.
    Strict,
}

impl Preset {
    /// Its rate and burst.
    #[must_use]
    pub const fn numbers(self) -> (Rate, u32) {
        match self {
            Self::General => (Rate::per_minute(100), 20),
            Self::Api => (Rate::per_minute(300), 50),
            Self::Strict => (Rate::per_second(10), 20),
        }
    }
}

/// How many requests of a burst are delayed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delay {
    /// So many, the last.
    Last(u32),
    /// All of them.
    All,
}

impl Default for Delay {
    fn default() -> Self {
        Self::Last(0)
    }
}

impl Serialize for Delay {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Last(number) => serializer.serialize_u32(*number),
            Self::All => serializer.serialize_str("all"),
        }
    }
}

impl<'de> Deserialize<'de> for Delay {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(DelayVisitor)
    }
}

struct DelayVisitor;

impl Visitor<'_> for DelayVisitor {
    type Value = Delay;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a number of requests or `all`")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Delay, E> {
        if text == "all" { Ok(Delay::All) } else { Err(E::invalid_value(Unexpected::Str(text), &self)) }
    }

    fn visit_u64<E: Error>(self, number: u64) -> Result<Delay, E> {
        let small = u32::try_from(number).map(Delay::Last);
        small.map_err(|_| E::invalid_value(Unexpected::Unsigned(number), &self))
    }
}

impl JsonSchema for Delay {
    fn schema_name() -> Cow<'static, str> {
        "Delay".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({
            "description": "How many requests of a burst are delayed: a number or `all`.",
            "anyOf": [{ "type": "integer", "minimum": 0 }, { "type": "string", "enum": ["all"] }]
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_is_a_number_or_all() {
        let read = |text: &str| serde_json::from_str::<Delay>(text).ok();
        assert_eq!(read("0"), Some(Delay::default()));
        assert_eq!(read("12"), Some(Delay::Last(12)));
        assert_eq!(read("\"all\""), Some(Delay::All));
        for wrong in ["\"none\"", "-1", "4294967296", "\"12\"", "true"] {
            assert_eq!(read(wrong), None, "{wrong}");
        }
        for delay in [Delay::Last(3), Delay::All] {
            assert_eq!(serde_json::to_string(&delay).ok().and_then(|text| read(&text)), Some(delay));
        }
    }
}
