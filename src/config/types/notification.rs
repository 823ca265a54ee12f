//! The block `notifications`: who is told what happens, without asking.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::secs;
use crate::policy::notification::Kind;
use crate::units::Duration;

/// A webhook: a URL that events are posted to, in JSON.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Notification {
    /// `http://` or `https://`, with path and query. They may hold a secret, so they are shown nowhere. Redirects are not
    /// followed.
    pub url: String,
    /// File with the secret that messages are signed with (`X-Arriero-Signature`); it is read for each message. Without
    /// one they are not signed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_file: Option<String>,
    /// Events that it is told of; all by default.
    #[serde(default = "all", skip_serializing_if = "is_all")]
    pub events: Vec<Kind>,
    /// Of one event about one server, model, upstream or certificate at most one message is sent within this time.
    #[serde(default = "window")]
    pub window: Duration,
    /// How long one attempt to send a message may take.
    #[serde(default = "timeout")]
    pub timeout: Duration,
    /// Attempts before a message is given up. The time between two doubles from 1s to 60s; `Retry-After` is heeded.
    #[serde(default = "attempts")]
    #[schemars(range(min = 1, max = 100))]
    pub attempts: u32,
}

fn all() -> Vec<Kind> {
    Kind::ALL.to_vec()
}

fn is_all(events: &[Kind]) -> bool {
    events == Kind::ALL
}

const fn window() -> Duration {
    secs(300)
}

const fn timeout() -> Duration {
    secs(10)
}

const fn attempts() -> u32 {
    8
}
