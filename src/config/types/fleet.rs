//! What an upstream knows about its fleet: queues, cards, where models may be.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Off, secs};
use crate::units::Duration;

/// Where requests wait that find no free slot.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Queue {
    /// Most requests that wait for one model; more are answered 503. When it is full, the client that fills it makes
    /// room for others. 0 lets nobody wait.
    pub max_pending: u32,
    /// How long a request waits; then it is answered 503.
    pub timeout: Duration,
    /// Waiting this long lifts a request by one priority.
    pub aging: Duration,
    /// How often a client of a `/v1` stream is sent a comment while it waits for its place, a load or the beginning of
    /// its answer, or `off`. The first one begins the answer: its status is 200 from then on, and what fails is told in
    /// the stream.
    pub keepalive: QueueKeepalive,
}

impl Default for Queue {
    fn default() -> Self {
        Self { max_pending: 100, timeout: secs(30), aging: secs(10), keepalive: QueueKeepalive::Off(Off::Off) }
    }
}

/// How often a client is told that it waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum QueueKeepalive {
    /// Never.
    Off(Off),
    /// Whenever this long has passed.
    Every(Duration),
}

impl QueueKeepalive {
    /// The time between two comments.
    #[must_use]
    pub fn every(self) -> Option<Duration> {
        match self {
            Self::Off(Off::Off) => None,
            Self::Every(time) => Some(time),
        }
    }
}

/// Who goes first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Priority {
    /// Before all others.
    High,
    /// As usual.
    #[default]
    Normal,
    /// When nothing else waits.
    Low,
}

impl Priority {
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

/// Where models may be and where they stay. Of several rules that match, the first one that says something about a
/// point holds; lists of servers add up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelRule {
    /// The models: a name, or a pattern with `*`.
    #[serde(rename = "match")]
    pub matches: String,
    /// Servers that keep them in memory: loaded at the start and after a recovery, never evicted by a choice of ours.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pin: Vec<String>,
    /// The only servers that may have them.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub only: Option<Vec<String>>,
    /// Servers that must not have them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub never: Vec<String>,
    /// Least copies in memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_warm: Option<u32>,
    /// Most copies in memory.
    #[schemars(range(min = 1))]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub max_warm: Option<u32>,
    /// How long they stay in memory at least. By default half as long as its load took.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub min_residency: Option<Duration>,
    /// How long they stay without a request; then they are taken out of memory. Ollama's own `keep_alive` holds besides.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub idle_unload: Option<Duration>,
    /// How much a copy in memory is worth: 4 times as much as others, as much, or a quarter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<Priority>,
}
