//! How many tokens may be used, as it was typed.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::OneOrMany;
use crate::units::{Count, Percent};

/// How many tokens may be used in a time of the calendar. A request is let in while less is used, and charged when it ends.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Quota {
    /// Name in answers, logs, metrics and the keys file; unique. What was used goes on over a reload for as long as the
    /// name, `every` and `key` stay.
    pub name: String,
    /// What is counted by, as in `rate_limits`: `api_key` (the client's address where there is none), `client_ip`, `model`,
    /// `route` (each route apart), `host`, `header:NAME`, or a list of them for their combination; `all` counts everything
    /// together.
    #[serde(default = "Quota::default_key")]
    pub key: OneOrMany<String>,
    /// Which tokens: `total` (of prompts and answers), `prompt` or `output`.
    #[serde(default)]
    pub tokens: QuotaTokens,
    /// Tokens of each key: `500K`, `1M`. Without it only API keys are limited that have an amount of their own, which
    /// `arriero key new --quota NAME=1M` gives them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<Count>,
    /// `minute`, `hour`, `day` or `month` of the calendar, in UTC.
    pub every: QuotaWindow,
    /// Share of the limit from which on answers and notifications warn; `100%` warns of nothing before the limit.
    #[serde(default = "Quota::default_warn_at")]
    pub warn_at: Percent,
    /// What becomes of requests when all is used: `refuse` (429) or `warn`.
    #[serde(default)]
    pub beyond: QuotaBeyond,
    /// Models that are counted and refused, with `*` for any characters; all by default.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub models: OneOrMany<String>,
    /// Names of the routes that it holds for; all whose servers have models by default.
    #[serde(default, skip_serializing_if = "OneOrMany::is_empty")]
    pub routes: OneOrMany<String>,
}

impl Quota {
    fn default_key() -> OneOrMany<String> {
        OneOrMany::One("api_key".to_owned())
    }

    const fn default_warn_at() -> Percent {
        Percent::new(80)
    }
}

/// Which tokens a quota counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuotaTokens {
    /// Those of prompts and of answers.
    #[default]
    Total,
    /// Those of prompts.
    Prompt,
    /// Those of answers.
    Output,
}

/// How long a quota counts before it begins anew.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuotaWindow {
    /// A minute of the clock.
    Minute,
    /// An hour of the clock.
    Hour,
    /// A day from midnight on, in UTC.
    Day,
    /// A month of the calendar, in UTC.
    Month,
}

/// What becomes of requests when all is used.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum QuotaBeyond {
    /// They are answered 429.
    #[default]
    Refuse,
    /// They are served, and warned.
    Warn,
}
