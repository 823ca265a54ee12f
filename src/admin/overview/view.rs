//! The form of the overview.

use schemars::JsonSchema;
use serde::Serialize;

use crate::config::types::Kind;

/// Everything that a live view shows. Times are RFC 3339 in UTC, durations in milliseconds, sizes in bytes. Nothing of what
/// requests say is in it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Overview {
    /// When this was so.
    pub at: String,
    /// Version of the program.
    pub version: &'static str,
    /// The commit that it was built from; null where that is not known.
    pub revision: Option<&'static str>,
    /// How long the process has run.
    pub uptime_seconds: u64,
    /// `healthy`, `degraded` (a server is missing), `unhealthy` (none takes requests) or `stopping`.
    pub status: &'static str,
    /// The configuration in force.
    pub config: ConfigView,
    /// The cluster; null without one.
    pub cluster: Option<ClusterView>,
    /// What goes on.
    pub requests: Rates,
    /// How long it takes.
    pub latency: Latency,
    /// All servers, in the order of the file.
    pub servers: Vec<ServerView>,
    /// All models by name.
    pub models: Vec<ModelView>,
    /// Requests that run on servers, the oldest first, at most 200.
    pub in_flight: Vec<RequestView>,
    /// Who waits, by upstream.
    pub queues: Vec<QueueView>,
    /// Circuits that are not closed, at most 500.
    pub circuits: Vec<CircuitView>,
    /// Bans that hold, at most 200.
    pub bans: Vec<BanView>,
    /// The last choices of a server, the latest first, at most 20.
    pub decisions: Vec<DecisionView>,
    /// How many more there are of those of which not all are listed.
    pub omitted: Omitted,
}

/// The configuration in force.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConfigView {
    /// Hash of the file's bytes.
    pub hash: String,
    /// When it came into force.
    pub loaded_at: String,
    /// Whether the file on disk is in force.
    pub in_force: bool,
    /// Why it is not.
    pub error: Option<String>,
}

/// The cluster, as this instance knows it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "OverviewCluster")]
pub struct ClusterView {
    /// Its name.
    pub name: String,
    /// Names of the instances that are alive.
    pub instances: Vec<String>,
    /// How many different configurations they have.
    pub configurations: usize,
    /// Whether Redis can be used.
    pub linked: bool,
    /// Why it cannot.
    pub fault: Option<String>,
    /// Whether this instance does what one alone should do.
    pub leads: bool,
}

/// What goes on. Rates are over the last ten seconds.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Rates {
    /// Requests on servers.
    pub in_flight: usize,
    /// Those of them whose answer comes.
    pub answering: usize,
    /// Requests that wait for a slot.
    pub queued: usize,
    /// Requests that ended.
    pub per_second: f64,
    /// Those of them that failed: not answered by a server as they should have been. Errors of clients (4xx) do not count.
    pub errors_per_second: f64,
    /// Tokens of answers that servers told when requests ended.
    pub tokens_per_second: f64,
    /// Tokens of prompts.
    pub prompt_tokens_per_second: f64,
}

/// How long requests took in the last minute.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Latency {
    /// From the head of a request to the first byte of a server's answer, waiting included; `null` when there was none.
    pub ttfb_ms: Option<PercentilesView>,
    /// From the head of a request to the end of its answer; `null` when none ended.
    pub duration_ms: Option<PercentilesView>,
}

/// Milliseconds that so many of a hundred requests took at most, to 7 %.
#[derive(Clone, Copy, Debug, Serialize, JsonSchema)]
pub struct PercentilesView {
    /// Half of them.
    pub p50: f64,
    /// 95 of a hundred.
    pub p95: f64,
    /// 99 of a hundred.
    pub p99: f64,
}

/// A server.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ServerView {
    /// How operators call it.
    pub id: String,
    /// Its upstream.
    pub upstream: String,
    /// What it is.
    pub kind: Kind,
    /// Where it is.
    pub url: String,
    /// Its version, where it told one.
    pub version: Option<String>,
    /// Whether it counts as up.
    pub healthy: bool,
    /// `up`, `down` or `unknown`.
    pub health: &'static str,
    /// `active`, `draining` or `maintenance`.
    pub operation: &'static str,
    /// Why an operator took it out.
    pub reason: Option<String>,
    /// When its maintenance ends by itself.
    pub until: Option<String>,
    /// State of its circuit: `closed`, `open` or `half_open`.
    pub circuit: &'static str,
    /// Requests that run on it.
    pub in_flight: u32,
    /// Most requests at a time, where that is laid down.
    pub max_in_flight: Option<u32>,
    /// How long its last health check took.
    pub last_response_ms: Option<f64>,
    /// How many models it has.
    pub models: usize,
    /// Models in its memory.
    pub loaded: Vec<LoadedView>,
    /// Video memory of these, as the server tells it.
    pub vram_used: u64,
    /// Memory of its cards, as their source tells it or the configuration says.
    pub vram_total: Option<u64>,
    /// State of its GPU: `healthy`, `degraded`, `draining` or `failed`.
    pub gpu: &'static str,
    /// What speaks against its GPU most.
    pub gpu_reason: Option<String>,
    /// °C of the hottest of its cards.
    pub gpu_temperature: Option<f64>,
    /// Percent of the time that something ran on its cards, the mean of them.
    pub gpu_utilisation: Option<f64>,
}

/// A model in memory.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadedView {
    /// Its name.
    pub name: String,
    /// Bytes in video memory.
    pub size_vram: u64,
    /// When it is to be unloaded, as the server wrote it.
    pub expires_at: Option<String>,
}

/// A model of the fleet.
#[derive(Clone, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ModelView {
    /// Its name.
    pub name: String,
    /// Servers that have it.
    pub servers: usize,
    /// Those that are up and take requests.
    pub available: usize,
    /// Those that have it in memory.
    pub loaded: usize,
    /// Requests for it that run.
    pub in_flight: usize,
    /// Requests for it that wait.
    pub waiting: usize,
    /// Video memory that it takes on all servers.
    pub vram: u64,
}

/// A request that runs on a server.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct RequestView {
    /// Its id, where it has one.
    pub id: Option<String>,
    /// Where it runs.
    pub server_id: String,
    /// Its model.
    pub model: Option<String>,
    /// `connecting`, `waiting` or `answering`.
    pub phase: &'static str,
    /// How long this attempt has run.
    pub age_ms: f64,
}

/// Who waits at an upstream.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QueueView {
    /// Its name.
    pub upstream: String,
    /// Nobody may begin.
    pub paused: bool,
    /// How many wait.
    pub waiting: usize,
    /// How many may wait for one model.
    pub max: usize,
    /// How long one waits at most.
    pub timeout_ms: f64,
    /// For which models they wait.
    pub models: Vec<WaitingView>,
}

/// Who waits for a model.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct WaitingView {
    /// The model; `-` for none.
    pub model: String,
    /// How many.
    pub waiting: usize,
    /// How long the first of them has waited; `null` where requests are not scheduled by expected wait.
    pub oldest_ms: Option<f64>,
}

/// A circuit that is not closed.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CircuitView {
    /// The server.
    pub server_id: String,
    /// The model on it; `null` for the server's own.
    pub model: Option<String>,
    /// `open` or `half_open`.
    pub state: &'static str,
    /// Failures in a row that were counted.
    pub failures: u32,
    /// When it becomes half open by itself.
    pub next_retry_at: Option<String>,
    /// An operator holds it open.
    pub forced: bool,
}

/// A ban.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct BanView {
    /// The upstream for which it holds.
    pub upstream: String,
    /// The server; `null` for all.
    pub server_id: Option<String>,
    /// The model; `null` for all.
    pub model: Option<String>,
    /// Why.
    pub reason: String,
    /// Who wanted it.
    pub who: String,
    /// Since when.
    pub since: String,
    /// When it ends; `null` when it is lifted.
    pub until: Option<String>,
}

/// A choice of a server.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecisionView {
    /// When.
    pub at: String,
    /// The upstream.
    pub upstream: String,
    /// For which model.
    pub model: String,
    /// Who was chosen; `null` when nobody could be.
    pub server: Option<String>,
    /// Why, in a sentence.
    pub reason: String,
    /// How many were looked at.
    pub considered: usize,
    /// The best of them, at most six.
    pub candidates: Vec<CandidateView>,
}

/// A server that has the model. What it would have cost is in seconds; the score is the sum.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CandidateView {
    /// Its name.
    pub server: String,
    /// What the model was there: `cold`, `loading` or `ready`.
    pub model_is: &'static str,
    /// What the choice went by.
    pub score: Option<f64>,
    /// For a slot.
    pub wait: Option<f64>,
    /// For the model to come into memory.
    pub load: Option<f64>,
    /// For the prompt.
    pub prefill: Option<f64>,
    /// What others lose whose model is thrown out.
    pub eviction: Option<f64>,
    /// What others lose who share the card.
    pub crowding: Option<f64>,
    /// Because it is a bad moment.
    pub penalty: Option<f64>,
    /// Why it was not asked.
    pub excluded: Option<&'static str>,
}

/// What is not listed because there is too much of it.
#[derive(Clone, Copy, Debug, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Omitted {
    /// Requests that run.
    pub in_flight: usize,
    /// Circuits that are not closed.
    pub circuits: usize,
    /// Bans.
    pub bans: usize,
}

/// The numbers of the last ten minutes.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Trend {
    /// Always true.
    pub success: bool,
    /// How many there are.
    pub count: usize,
    /// One a second, the oldest first.
    pub points: Vec<Point>,
}

/// The numbers of a second, as they stand in an overview.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Point {
    /// When.
    pub at: String,
    /// Requests on servers.
    pub in_flight: u64,
    /// Requests that wait.
    pub queued: usize,
    /// Requests that ended, each second.
    pub per_second: f64,
    /// Those of them that failed.
    pub errors_per_second: f64,
    /// Tokens of answers, each second.
    pub tokens_per_second: f64,
    /// How long requests took in the minute before.
    pub latency: Latency,
}
