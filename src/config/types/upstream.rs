//! The block `upstreams`: servers, how one is chosen, and how their health is known.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{Gpu, ModelRule, Queue, RecoveryAction, StickyCookie, UpstreamTls, secs};
use crate::units::{Duration, Percent};

/// What the servers of an upstream are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// Ollama servers: models are known from /api/tags and /api/ps.
    Ollama,
    /// Servers with OpenAI's API (llama.cpp, vLLM): models are known from /v1/models.
    Openai,
    /// Any HTTP servers.
    Http,
}

/// A named group of servers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Upstream {
    /// What its servers are.
    pub kind: Kind,
    /// Its members.
    pub servers: Vec<ServerEntry>,
    /// Speak HTTP/2 to the servers (without TLS: with prior knowledge).
    #[serde(default)]
    pub http2: bool,
    /// TLS towards servers with an `https://` URL. Without it the system's authorities are trusted.
    pub tls: Option<UpstreamTls>,
    /// How a server is chosen.
    #[serde(default)]
    pub balance: Balance,
    /// When a failing server is left alone.
    #[serde(default)]
    pub circuit: Circuit,
    /// When a model that never went well on a server is banned from it; without this never (kinds `ollama` and `openai`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bans: Option<Bans>,
    /// How long a request that made a runner crash is tried at no server; `0s` is not at all. 10 minutes for ollama and
    /// openai.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quarantine: Option<Duration>,
    /// Background checks.
    #[serde(default)]
    pub health: Health,
    /// Tests of servers that are down or have an open circuit (kinds `ollama` and `openai`).
    #[serde(default)]
    pub recovery: Recovery,
    /// Idle connections to the servers.
    #[serde(default)]
    pub keepalive: Keepalive,
    /// How the models of the servers are learned (kinds `ollama` and `openai`).
    #[serde(default)]
    pub inventory: Inventory,
    /// Where requests wait that find no free slot.
    #[serde(default)]
    pub queue: Queue,
    /// Where models may be and where they stay (`policy: expected_wait`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models: Vec<ModelRule>,
    /// Models that are loaded at the start and when a server has come back: `MODEL@SERVER` (`policy: expected_wait`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub warm: Vec<String>,
}

impl Upstream {
    /// The rule in force. Where a model need not be in memory (`model_affinity: off`), nothing is scheduled by it.
    #[must_use]
    pub fn policy(&self) -> BalancePolicy {
        self.balance.policy.unwrap_or(match self.kind {
            Kind::Http => BalancePolicy::RoundRobin,
            Kind::Ollama if self.balance.model_affinity != ModelAffinity::Off => BalancePolicy::ExpectedWait,
            Kind::Ollama | Kind::Openai => BalancePolicy::LeastRequests,
        })
    }
}

/// One member of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct ServerEntry {
    /// `http://HOST:PORT` or `https://HOST:PORT`, without a path.
    pub url: String,
    /// Name in logs and metrics; unique in its upstream; host and port by default.
    pub name: Option<String>,
    /// Share of the requests relative to the others.
    #[serde(default = "one")]
    #[schemars(range(min = 1, max = 1000))]
    pub weight: u32,
    /// Most requests at a time; a server that is full is passed over.
    #[schemars(range(min = 1))]
    pub max_in_flight: Option<u32>,
    /// Most requests at a time for one model: its `OLLAMA_NUM_PARALLEL`. Learned by default (`policy: expected_wait`).
    #[schemars(range(min = 1))]
    pub max_in_flight_per_model: Option<u32>,
    /// Most models in memory: its `OLLAMA_MAX_LOADED_MODELS`; 3 by default, as Ollama has it for one card
    /// (`policy: expected_wait`).
    #[schemars(range(min = 1))]
    pub max_loaded: Option<u32>,
    /// Its cards, and who tells how they are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gpu: Option<Gpu>,
    /// Whether its URL was set at run time and stands in no file: then it is kept to `admin.server_networks`.
    #[serde(skip)]
    pub at_run_time: bool,
    /// What is done to make it well again when its checks fail; nothing by default. How it is tested meanwhile stands in
    /// `recovery` of its upstream.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub recovery: Option<RecoveryAction>,
}

const fn one() -> u32 {
    1
}

/// How a server is chosen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Balance {
    /// The rule among the candidates. `expected_wait` for ollama, `least_requests` for openai, `round_robin` for http.
    pub policy: Option<BalancePolicy>,
    /// What `consistent_hash` hashes: `client_ip`, `model`, `header:NAME` or `cookie:NAME`. Without the field or the
    /// cookie it is the client's address.
    pub hash_on: Option<String>,
    /// With `consistent_hash`: give a client that has no such cookie one, and hash it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sticky_cookie: Option<StickyCookie>,
    /// Whether servers that have the model in memory come first.
    pub model_affinity: ModelAffinity,
    /// With `expected_wait`: whether a placement of the models is learned from the traffic, against which evicting a model
    /// costs more.
    pub plan: Plan,
}

/// Whether something is learned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// Nothing.
    #[default]
    Off,
    /// From the traffic of the last minutes.
    Learned,
}

/// The rule that picks one of the candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum BalancePolicy {
    /// In turn, by weight.
    RoundRobin,
    /// The fewest requests in flight for its weight.
    LeastRequests,
    /// The same key goes to the same server as long as it is there.
    ConsistentHash,
    /// Where the first token will come soonest, all servers and their models considered.
    ExpectedWait,
    /// Where answers begin soonest, by what was seen lately and what the server has to do.
    PeakEwma,
    /// The one of two by lot that has fewer requests in flight for its weight.
    RandomTwo,
    /// By lot, each as often as its weight says.
    Weighted,
}

/// Whether servers that have the model in memory come first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum ModelAffinity {
    /// Servers with the model in memory first, then those that have it on disk.
    #[default]
    PreferLoaded,
    /// Only servers with the model in memory; 503 when there is none.
    RequireLoaded,
    /// Memory or disk alike.
    Off,
}

/// When a failing server is left alone.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Circuit {
    /// Failures in a row that open the circuit.
    #[schemars(range(min = 1))]
    pub consecutive_failures: u32,
    /// Failures in a row to reach the server at all that open it. By default three fifths of `consecutive_failures`: 3.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(range(min = 1))]
    pub connect_failures: Option<u32>,
    /// Share of failures among the requests of the last `window` that opens it, if they are not fewer than
    /// `consecutive_failures`.
    pub failure_rate: Percent,
    /// The time over which that share is measured. Where requests take longer, it is longer by itself.
    pub window: Duration,
    /// Requests in that time below which the share says nothing.
    #[schemars(range(min = 1))]
    pub min_requests: u32,
    /// How long it stays open the first time; it doubles each time it opens again.
    pub open_for: Duration,
    /// The longest that it stays open.
    pub max_open_for: Duration,
    /// How long it takes until a server that came back has its whole share of the requests; `0s` is at once.
    pub slow_start: Duration,
    /// Share of the servers with a model that is left alone at most. The last one never is.
    pub max_ejected: Percent,
}

impl Default for Circuit {
    fn default() -> Self {
        Self {
            consecutive_failures: 5,
            connect_failures: None,
            failure_rate: Percent::new(50),
            window: secs(300),
            min_requests: 10,
            open_for: secs(30),
            max_open_for: secs(300),
            slow_start: secs(30),
            max_ejected: Percent::new(50),
        }
    }
}

/// When a model that never went well on a server is banned from it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Bans {
    /// Failures of the model there without any success.
    #[schemars(range(min = 1))]
    pub after: u32,
    /// How long the ban lasts.
    #[serde(rename = "for", default = "an_hour")]
    pub lasts: Duration,
}

const fn an_hour() -> Duration {
    secs(3600)
}

/// Background checks of the servers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Health {
    /// `off`, or how to check. On by default for ollama and openai, off for http.
    pub active: Option<Active>,
}

/// `off`, or how a server is checked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum Active {
    /// No checks: a server counts as healthy.
    Off(Off),
    /// Check with these numbers.
    Check(Check),
}

/// The word `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Off {
    /// `off`
    Off,
}

/// How a server is checked: a GET that must be answered with a status from 200 to 399.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Check {
    /// Path to get. `/api/version` for ollama, `/v1/models` for openai, `/` for http.
    pub path: Option<String>,
    /// Time between two checks.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Good checks in a row that make a server healthy again.
    #[schemars(range(min = 1))]
    pub healthy: u32,
    /// Bad checks in a row that make it unhealthy.
    #[schemars(range(min = 1))]
    pub unhealthy: u32,
    /// After a server appears, how long bad checks are not counted unless a check was good before.
    pub start_period: Duration,
}

impl Default for Check {
    fn default() -> Self {
        Self { path: None, interval: secs(5), timeout: secs(2), healthy: 2, unhealthy: 3, start_period: secs(0) }
    }
}

/// Idle connections to the servers of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Keepalive {
    /// Connections kept for each server; more are closed after their request.
    pub max_idle: u32,
    /// How long an idle one is kept.
    pub idle_timeout: Duration,
}

impl Default for Keepalive {
    fn default() -> Self {
        Self { max_idle: 128, idle_timeout: secs(30) }
    }
}

/// How the models of the servers are learned.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Inventory {
    /// Time between two looks at each server.
    pub interval: Duration,
}

impl Default for Inventory {
    fn default() -> Self {
        Self { interval: secs(5) }
    }
}

/// Tests of servers that are down or have an open circuit: liveness, then the models, then one token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Recovery {
    /// From the moment a server goes down or its circuit opens to the first test; doubles with each test.
    pub interval: Duration,
    /// The longest time between two tests.
    pub max_interval: Duration,
    /// Whether tests ask a model for one token (`kind: ollama`). Only one that is in memory, so nothing is loaded; when
    /// it answers, an open circuit becomes half open at once.
    pub probe: Switch,
    /// How long no request may have run on the server before a test asks for a token.
    pub quiet: Duration,
    /// How long the model may take to give it.
    pub timeout: Duration,
}

impl Default for Recovery {
    fn default() -> Self {
        Self { interval: secs(10), max_interval: secs(300), probe: Switch::On, quiet: secs(60), timeout: secs(30) }
    }
}

/// `on` or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Switch {
    /// It is done.
    On,
    /// It is not done.
    Off,
}
