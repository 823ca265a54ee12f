//! What a route to servers with models allows.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::Duration;

/// Allowed or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Permission {
    /// Answered 403.
    #[default]
    Deny,
    /// Passed on.
    Allow,
}

/// The most that a request may ask of a server; more is answered 400. What a request does not say is not capped.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Caps {
    /// Longest `keep_alive`; a negative one (for ever) is more than any.
    pub keep_alive: Option<Duration>,
    /// Most tokens of context: `options.num_ctx`.
    #[schemars(range(min = 1))]
    pub num_ctx: Option<u32>,
    /// Most tokens of an answer: `options.num_predict`, `max_tokens`; a negative number (no limit) is more than any.
    #[schemars(range(min = 1))]
    pub num_predict: Option<u32>,
    /// Most layers on the GPU: `options.num_gpu`. Unless it is 0, a request for 0 (the CPU alone) is refused too.
    pub num_gpu: Option<u32>,
}

impl Permission {
    /// Whether it need not be written.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Caps {
    /// Whether it need not be written.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }
}
