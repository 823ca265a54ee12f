//! How long is kept what happened.

use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

const fn days(n: u64) -> Duration {
    Duration(StdDuration::from_hours(24 * n))
}

/// What is kept of requests that ended: never what they said. In `server.data_dir`; in memory where there is none.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct History {
    /// How long each single request is kept; `0s` keeps none.
    pub requests: Duration,
    /// Single requests that are kept at most, the latest ones; 10000 where there is no `server.data_dir`.
    #[schemars(range(min = 1, max = 10_000_000))]
    pub max_requests: u32,
    /// How long sums by hour, server, model and reason are kept, which analytics are made of; `0s` keeps none.
    pub aggregates: Duration,
    /// How long the usage of each key and model by the hour is kept; `0s` keeps none.
    pub usage: Duration,
}

impl Default for History {
    fn default() -> Self {
        Self { requests: days(1), max_requests: 100_000, aggregates: days(30), usage: days(400) }
    }
}
