//! What was seen of a deployment, before anybody judges it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::docker::Engine;
use crate::config::types::{Config, Kind};
use crate::config::{Diagnostic, Diagnostics};
use crate::fleet::process::Sample;
use crate::fleet::snapshot::Snapshot;

/// Everything that was seen.
pub struct Facts {
    /// The configuration file.
    pub file: PathBuf,
    /// What it says.
    pub config: ConfigFacts,
    /// What the running process says.
    pub running: Result<Running, String>,
    /// Where it was looked for.
    pub admin: String,
    /// Listeners of the configuration that do not take connections, and why.
    pub closed_listeners: Vec<(String, String)>,
    /// A fault in how the admin listener is protected.
    pub open_admin: Option<OpenAdmin>,
    /// The servers.
    pub servers: Vec<ServerFacts>,
    /// Docker.
    pub engine: Engine,
    /// What this process sees of the machine.
    pub machine: Sample,
    /// Folders of the configuration that cannot be written: which key, where, and why.
    pub bad_folders: Vec<(&'static str, PathBuf, String)>,
    /// Seconds since 1970, here.
    pub now: i64,
}

/// How the admin listener is open to others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OpenAdmin {
    /// On an address that others reach, without a token.
    NoToken(String),
    /// On such an address, with a token.
    WithToken(String),
    /// The unix socket may be written by everybody.
    Socket(PathBuf),
}

/// The configuration file.
pub enum ConfigFacts {
    /// There is none.
    Missing,
    /// It is refused.
    Invalid(Diagnostics),
    /// It may be used.
    Good(Box<Good>),
}

/// A configuration that may be used.
pub struct Good {
    /// As it was typed.
    pub config: Config,
    /// Compiled, all defaults resolved.
    pub snapshot: Snapshot,
    /// What is probably not meant.
    pub warnings: Vec<Diagnostic>,
}

impl ConfigFacts {
    /// The configuration, where it may be used.
    pub fn good(&self) -> Option<&Good> {
        match self {
            Self::Good(good) => Some(good),
            Self::Missing | Self::Invalid(_) => None,
        }
    }
}

/// What the running process says, path by path below `/api/orchestrator`; empty where it does not know the path.
#[derive(Default)]
pub struct Running {
    /// `health`
    pub health: Health,
    /// Why it is not ready, if it is not.
    pub not_ready: Option<String>,
    /// `servers`
    pub servers: Vec<SeenServer>,
    /// `circuit-breakers`
    pub circuits: Vec<SeenCircuit>,
    /// `bans`
    pub bans: Vec<SeenBan>,
    /// `queue`
    pub queues: Vec<SeenQueue>,
    /// `gpus`
    pub gpus: Vec<SeenGpu>,
    /// `recovery-failures`: servers that fall ill and get well again and again.
    pub flapping: Vec<String>,
    /// `logs`: messages of level `warn` and worse.
    pub messages: Vec<SeenMessage>,
}

/// `health`, as far as it is needed.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Health {
    /// The health score.
    pub score: u8,
    /// What it means.
    pub band: String,
    /// Seconds since the start.
    pub uptime: u64,
    /// Version of the running program.
    pub version: String,
    /// The commit that it was built from, where it knows.
    pub revision: Option<String>,
    /// Requests.
    pub requests: SeenRequests,
    /// The process.
    pub process: SeenProcess,
    /// The configuration.
    pub config: SeenConfig,
    /// Certificates.
    pub certificates: Vec<SeenCertificate>,
}

/// Requests of the last minutes.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenRequests {
    /// Requests that run.
    pub in_flight: u64,
    /// Over how many seconds.
    pub window_seconds: u64,
    /// Requests that ended.
    pub ended: u64,
    /// By reason, `ok` left out.
    pub by_reason: BTreeMap<String, u64>,
}

/// The process, as it sees itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenProcess {
    /// Memory.
    pub memory: Option<SeenShare>,
    /// A control group limits the memory.
    pub limited: bool,
    /// Processor time in hundredths.
    pub cpu_percent: Option<f64>,
    /// File descriptors.
    pub files: Option<SeenShare>,
    /// Disks.
    pub disks: Vec<SeenDisk>,
    /// Thresholds in hundredths.
    pub thresholds: BTreeMap<String, u8>,
}

/// So much of so much.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeenShare {
    /// What is used.
    pub used: u64,
    /// What there is.
    pub limit: u64,
    /// In hundredths.
    pub percent: f64,
}

/// A folder and its disk.
#[derive(Clone, Debug, Deserialize)]
pub struct SeenDisk {
    /// `data_dir` or `temp_dir`.
    pub folder: String,
    /// Where it is.
    pub path: String,
    /// Its disk.
    #[serde(flatten)]
    pub share: SeenShare,
}

/// The configuration of the running process.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenConfig {
    /// Hash of what is in force.
    pub hash: String,
    /// The file on disk is in force.
    pub in_force: bool,
    /// Why not.
    pub error: Option<String>,
}

/// A certificate of the running process.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SeenCertificate {
    /// Its first name.
    pub name: String,
    /// Its last second, since 1970.
    pub not_after: i64,
}

/// A server as the running process sees it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenServer {
    /// How operators call it.
    pub id: String,
    /// Its upstream.
    pub upstream: String,
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// What its checks say: `up`, `down`, `unknown`.
    pub health: String,
    /// What an operator decided.
    pub operation: SeenOperation,
    /// Requests that run there.
    pub in_flight: u32,
    /// Most requests at a time.
    pub max_concurrency: Option<u32>,
    /// It has Ollama's API.
    pub supports_ollama: bool,
    /// It has OpenAI's API.
    pub supports_v1: bool,
}

/// What an operator decided about a server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenOperation {
    /// `active`, `draining` or `maintenance`.
    pub state: String,
    /// Why.
    pub reason: Option<String>,
    /// Who.
    pub who: Option<String>,
    /// Since when.
    pub since: Option<String>,
    /// Until when.
    pub until: Option<String>,
}

/// A circuit.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenCircuit {
    /// Its server.
    pub server_id: String,
    /// Its model, or `server-level`.
    pub model: String,
    /// `closed`, `open` or `half_open`.
    pub state: String,
    /// An operator holds it open.
    pub forced: bool,
    /// Failures in a row.
    pub failure_count: u32,
    /// When it becomes half open.
    pub next_retry_at: Option<String>,
}

/// The GPU of a server.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenGpu {
    /// Which server.
    pub server_id: String,
    /// How it is.
    pub state: String,
    /// Whether its source answers, where it has one.
    pub source_up: Option<bool>,
    /// Why not.
    pub source_fault: Option<String>,
    /// What speaks against it.
    pub reasons: Vec<SeenReason>,
}

/// What speaks against a GPU.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SeenReason {
    /// One sentence.
    pub detail: String,
}

/// A ban.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenBan {
    /// Which server; all where there is none.
    pub server_id: Option<String>,
    /// Which model; all where there is none.
    pub model: Option<String>,
    /// Why.
    pub reason: Option<String>,
    /// Until when.
    pub until: Option<String>,
}

/// The queue of an upstream.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenQueue {
    /// The upstream.
    pub upstream: String,
    /// Somebody paused it.
    pub paused: bool,
    /// Most requests that may wait for a model.
    pub max_pending_per_model: u64,
    /// How many wait for each model.
    pub by_model: BTreeMap<String, u64>,
}

/// A message of the process itself.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SeenMessage {
    /// When.
    pub at: String,
    /// How bad.
    pub level: String,
    /// What.
    pub message: String,
    /// More about it.
    pub fields: Value,
}

/// A server, as it answers here.
#[derive(Clone, Debug)]
pub struct ServerFacts {
    /// `UPSTREAM/NAME`.
    pub id: String,
    /// Its upstream.
    pub upstream: String,
    /// What it is.
    pub kind: Kind,
    /// Its name.
    pub name: String,
    /// Its URL.
    pub url: String,
    /// Its host name or address.
    pub host: String,
    /// Its port.
    pub port: u16,
    /// The addresses of its host, and how long that took.
    pub addresses: Result<(Vec<IpAddr>, Duration), String>,
    /// What it answered.
    pub answer: Result<Answered, Silence>,
    /// Its certificate, where it speaks TLS.
    pub certificate: Option<ServerCertificate>,
    /// Its models, where it told them.
    pub models: Option<Vec<String>>,
}

/// An answer of a server.
#[derive(Clone, Debug)]
pub struct Answered {
    /// Status code.
    pub status: u16,
    /// From connecting to the last byte.
    pub took: Duration,
    /// Its clock minus this one, in seconds, where it told the time.
    pub clock: Option<i64>,
    /// Version of Ollama.
    pub version: Option<String>,
}

/// Why a server did not answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Silence {
    /// Its name is not known.
    Unknown,
    /// It took no connection.
    Refused(String),
    /// No TLS was spoken.
    Tls(String),
    /// It took the connection and did not answer.
    Silent(String),
}

/// The certificate of a server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerCertificate {
    /// Its last second, since 1970.
    pub not_after: i64,
    /// Why it is not trusted.
    pub refused: Option<String>,
}
