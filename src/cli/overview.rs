//! The overview that the running Arriero gives, as `status` and `top` read it.
//!
//! What a version of Arriero does not tell is taken as nothing, so that an older or a newer program can be looked at too.

use serde::Deserialize;

use super::words::{milliseconds, plain, rate, span};

/// Everything that a live view shows.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Overview {
    /// When this was so.
    pub at: String,
    /// Version of the program.
    pub version: String,
    /// The commit that it was built from, where it knows.
    pub revision: Option<String>,
    /// How long it has run.
    pub uptime_seconds: u64,
    /// `healthy`, `degraded`, `unhealthy` or `stopping`.
    pub status: String,
    /// The configuration in force.
    pub config: Config,
    /// What goes on.
    pub requests: Requests,
    /// How long it takes.
    pub latency: Latency,
    /// All servers.
    pub servers: Vec<Server>,
    /// All models.
    pub models: Vec<Model>,
    /// Requests that run.
    pub in_flight: Vec<Running>,
    /// Who waits.
    pub queues: Vec<Queue>,
    /// Circuits that are not closed.
    pub circuits: Vec<Circuit>,
    /// Bans that hold.
    pub bans: Vec<Ban>,
    /// The last choices.
    pub decisions: Vec<Decision>,
    /// How many more there are.
    pub omitted: Omitted,
}

/// The configuration in force.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Config {
    /// Hash of the file's bytes.
    pub hash: String,
    /// Whether the file on disk is in force.
    pub in_force: bool,
    /// Why it is not.
    pub error: Option<String>,
}

/// What goes on.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Requests {
    /// Requests on servers.
    pub in_flight: u64,
    /// Those of them whose answer comes.
    pub answering: u64,
    /// Requests that wait for a slot.
    pub queued: u64,
    /// Requests that ended, each second.
    pub per_second: f64,
    /// Those of them that failed.
    pub errors_per_second: f64,
    /// Tokens of answers, each second.
    pub tokens_per_second: f64,
}

/// How long requests took.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Latency {
    /// To the first byte of the answer.
    pub ttfb_ms: Option<Percentiles>,
    /// To its end.
    pub duration_ms: Option<Percentiles>,
}

/// Milliseconds.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Percentiles {
    /// What half of the requests took at most.
    pub p50: f64,
    /// 95 of a hundred.
    pub p95: f64,
    /// 99 of a hundred.
    pub p99: f64,
}

/// A server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Server {
    /// How operators call it.
    pub id: String,
    /// Its upstream.
    pub upstream: String,
    /// Whether it counts as up.
    pub healthy: bool,
    /// `up`, `down` or `unknown`.
    pub health: String,
    /// `active`, `draining` or `maintenance`.
    pub operation: String,
    /// `closed`, `open` or `half_open`.
    pub circuit: String,
    /// Requests that run on it.
    pub in_flight: u64,
    /// Most of them.
    pub max_in_flight: Option<u64>,
    /// How long its last health check took.
    pub last_response_ms: Option<f64>,
    /// Models in its memory.
    pub loaded: Vec<Loaded>,
    /// Bytes of them in video memory.
    pub vram_used: Option<u64>,
    /// Memory of its card.
    pub vram_total: Option<u64>,
}

/// A model in memory.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Loaded {
    /// Its name.
    pub name: String,
}

/// A model of the fleet.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Model {
    /// Its name.
    pub name: String,
    /// Servers that have it.
    pub servers: u64,
    /// Those that are up and take requests.
    pub available: u64,
    /// Those that have it in memory.
    pub loaded: u64,
    /// Requests for it that run.
    pub in_flight: u64,
    /// Requests for it that wait.
    pub waiting: u64,
    /// Video memory that it takes.
    pub vram: u64,
}

/// A request that runs on a server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Running {
    /// Its id.
    pub id: Option<String>,
    /// Where it runs.
    pub server_id: String,
    /// Its model.
    pub model: Option<String>,
    /// `connecting`, `waiting` or `answering`.
    pub phase: String,
    /// How long this attempt has run.
    pub age_ms: f64,
}

/// Who waits at an upstream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Queue {
    /// Its name.
    pub upstream: String,
    /// Nobody may begin.
    pub paused: bool,
    /// How many may wait for one model.
    pub max: Option<u64>,
    /// For which models they wait.
    pub models: Vec<Waiting>,
}

/// Who waits for a model.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Waiting {
    /// The model.
    pub model: String,
    /// How many.
    pub waiting: u64,
    /// How long the first of them has waited.
    pub oldest_ms: Option<f64>,
}

/// A circuit that is not closed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Circuit {
    /// The server.
    pub server_id: String,
    /// The model on it; none for the server's own.
    pub model: Option<String>,
    /// `open` or `half_open`.
    pub state: String,
    /// Failures in a row.
    pub failures: u64,
    /// When it becomes half open by itself.
    pub next_retry_at: Option<String>,
}

/// A ban.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Ban {
    /// The server; none for all.
    pub server_id: Option<String>,
    /// The model; none for all.
    pub model: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Who wanted it.
    pub who: Option<String>,
    /// When it ends.
    pub until: Option<String>,
}

/// A choice of a server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct Decision {
    /// When.
    pub at: String,
    /// The upstream.
    pub upstream: String,
    /// For which model.
    pub model: String,
    /// Who was chosen.
    pub server: Option<String>,
    /// Why.
    pub reason: Option<String>,
}

/// What is not listed because there is too much of it.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Omitted {
    /// Requests that run.
    pub in_flight: u64,
    /// Circuits that are not closed.
    pub circuits: u64,
    /// Bans.
    pub bans: u64,
}

impl Overview {
    /// The servers in a sentence: `3 of 4 up, 1 draining`.
    pub fn servers_line(&self) -> String {
        let up = self.servers.iter().filter(|server| server.healthy).count();
        let mut line = format!("{up} of {} up", self.servers.len());
        for standing in ["draining", "maintenance"] {
            let there = self.servers.iter().filter(|server| server.operation == standing).count();
            if there > 0 {
                line.push_str(&format!(
                    ", {there} {}",
                    if standing == "maintenance" { "in maintenance" } else { standing }
                ));
            }
        }
        line
    }

    /// The requests in a sentence.
    pub fn requests_line(&self) -> String {
        let Requests { in_flight, answering, queued, .. } = self.requests;
        format!("{in_flight} in flight, {answering} answering, {queued} queued")
    }

    /// What goes on each second in a sentence.
    pub fn rates_line(&self) -> String {
        let Requests { per_second, errors_per_second, tokens_per_second, .. } = self.requests;
        let (requests, errors, tokens) = (rate(per_second), rate(errors_per_second), rate(tokens_per_second));
        format!("{requests} requests/s, {errors} errors/s, {tokens} tokens/s")
    }

    /// Circuits that are not closed, with those that are not listed.
    pub fn circuits_count(&self) -> u64 {
        u64::try_from(self.circuits.len()).unwrap_or(u64::MAX).saturating_add(self.omitted.circuits)
    }

    /// Bans, with those that are not listed.
    pub fn bans_count(&self) -> u64 {
        u64::try_from(self.bans.len()).unwrap_or(u64::MAX).saturating_add(self.omitted.bans)
    }
}

impl Config {
    /// The configuration in a sentence.
    pub fn line(&self) -> String {
        let hash: String = plain(&self.hash).chars().take(12).collect();
        if self.in_force { format!("{hash} in force") } else { format!("{hash} in force, the file on disk is refused") }
    }
}

impl Percentiles {
    /// Percentiles in a sentence.
    pub fn line(times: Option<Self>) -> String {
        let Some(Self { p50, p95, p99 }) = times else { return "nothing ended in the last minute".to_owned() };
        let [p50, p95, p99] = [p50, p95, p99].map(|time| span(milliseconds(time)));
        format!("p50 {p50}, p95 {p95}, p99 {p99}")
    }
}
