//! What the user typed, one struct per YAML block, defaults included.
//!
//! These types are the single source of the keys, of their documentation (`conf/schema.json`,
//! `conf/reference.yaml`) and of their defaults. They hold no resolved value: `fleet::compile`
//! turns them into a snapshot. A key that is absent is `None` where another block may supply it
//! (`defaults` for routes) and a plain value where it may not.

use std::collections::BTreeMap;
use std::time::Duration as StdDuration;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::units::{ByteSize, Duration};

mod access;
mod admin;
mod cache;
mod cluster;
mod content;
mod fleet;
mod gpu;
mod history;
mod limits;
mod models;
mod notification;
mod quotas;
mod recovery_action;
mod thresholds;
mod tls;
mod tracing;
mod upstream;
mod words;

pub use access::{Access, Auth, Cors, ProxyProtocol, RouteAuth};
pub use admin::{Admin, AdminScope, AdminToken, WithoutToken};
pub use cache::{Cache, CacheKey, CacheScope, EmbeddingsCache};
pub use cluster::{Cluster, RedisMode};
pub use content::{
    Coding, Compress, Files, HeaderChanges, HeaderRules, Redirect, RequestEncoding, Respond, Rewrite, StickyCookie,
};
pub use fleet::{ModelRule, Priority, Queue, QueueKeepalive};
pub use gpu::{Gpu, GpuMetric, GpuMetrics};
pub use history::History;
pub use limits::{ConcurrencyLimit, Delay, ListenerLimits, Preset, RateLimit};
pub use models::{Caps, Permission};
pub use notification::Notification;
pub use quotas::{Quota, QuotaBeyond, QuotaTokens, QuotaWindow};
pub use recovery_action::RecoveryAction;
pub use thresholds::Thresholds;
pub use tls::{CertificateFiles, ClientAuth, ListenerTls, MinVersion, UpstreamTls};
pub use tracing::{OtlpProtocol, TraceParent, Tracing};
pub use upstream::{
    Active, Balance, BalancePolicy, Check, Circuit, Health, Inventory, Keepalive, Kind, ModelAffinity, Off, Plan,
    Recovery, ServerEntry, Switch, Upstream,
};

const fn secs(n: u64) -> Duration {
    Duration(StdDuration::from_secs(n))
}

/// One Arriero configuration file.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// Version of this format. Always 1.
    pub version: u32,
    /// Addresses that clients connect to.
    pub listeners: Vec<Listener>,
    /// Which request goes where. The first route that matches wins.
    pub routes: Vec<Route>,
    /// Named groups of servers; none where all routes answer by themselves.
    #[serde(default)]
    pub upstreams: BTreeMap<String, Upstream>,
    /// Values for every route that does not set its own.
    #[serde(default)]
    pub defaults: Defaults,
    /// API keys.
    #[serde(default)]
    pub auth: Auth,
    /// How many tokens may be used; at most 32. Each must allow a request.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub quotas: Vec<Quota>,
    /// Several instances that act as one; each is alone by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cluster: Option<Cluster>,
    /// Webhooks that are told what happens; none by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub notifications: Vec<Notification>,
    /// Health, metrics and control, on a listener of their own.
    #[serde(default)]
    pub admin: Admin,
    /// The process itself.
    #[serde(default)]
    pub server: Server,
    /// What is kept of what happened, and how long.
    #[serde(default)]
    pub history: History,
    /// Logs and traces.
    #[serde(default)]
    pub telemetry: Telemetry,
}

/// An address that clients connect to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// `HOST:PORT`, for example `0.0.0.0:8080` or `[::]:8080`. Port 0 takes a free one.
    pub address: String,
    /// Also speak HTTP/2 without TLS to clients that start with its preface.
    #[serde(default)]
    pub h2c: bool,
    /// Speak TLS (HTTP/2 and HTTP/1.1 alike) and nothing else.
    pub tls: Option<ListenerTls>,
    /// Whether connections begin with a PROXY protocol header: `accept` requires one from `trusted_proxies` and refuses
    /// everybody else.
    #[serde(default)]
    pub proxy_protocol: ProxyProtocol,
    /// Networks of proxies that are believed about the client's address (`X-Forwarded-For`, `Forwarded`, `X-Real-IP`,
    /// PROXY protocol); none by default.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub trusted_proxies: Vec<String>,
    /// Host names that are answered, `*.example.com` for one or more labels in front; all by default, others get 421.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub hosts: Vec<String>,
    /// How long this listener waits for its clients.
    #[serde(default)]
    pub timeouts: ListenerTimeouts,
    /// What this listener takes at most.
    #[serde(default)]
    pub limits: ListenerLimits,
}

/// How long a listener waits for its clients.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct ListenerTimeouts {
    /// Longest time from the first byte of a request head to its last, and from connecting to the first byte.
    pub request_header: Duration,
    /// Longest time from connecting to the end of the TLS handshake.
    pub tls: Duration,
    /// Longest silence between two reads of a request body.
    pub request_body: Duration,
    /// How long an idle connection is kept between requests.
    pub keepalive: Duration,
    /// How long a client may take to read what waits for it, or 1 KiB of that; then the request is cut.
    pub write: Duration,
}

impl Default for ListenerTimeouts {
    fn default() -> Self {
        Self { request_header: secs(10), tls: secs(5), request_body: secs(30), keepalive: secs(75), write: secs(60) }
    }
}

/// A match, the policies that hold for it, and exactly one target: `upstream`, `respond`, `redirect` or `files`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Route {
    /// Name in logs and metrics; unique.
    pub name: String,
    /// What a request must look like. An empty match takes every request.
    #[serde(default, rename = "match")]
    pub matches: Match,
    /// Name of the upstream that answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upstream: Option<String>,
    /// Answer with a fixed text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub respond: Option<Respond>,
    /// Send the client elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// Answer with files from a folder.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub files: Option<Files>,
    /// Another path for the server, or below the folder, than the client asked for.
    #[serde(default)]
    pub rewrite: Rewrite,
    /// Fields that are removed, set or added.
    #[serde(default)]
    pub headers: HeaderRules,
    /// Bodies, by file, for errors that arise here: the key is a status such as `"404"`, or `4xx` or `5xx`. Read
    /// when the configuration is; the ending of the name says the Content-Type.
    #[serde(default)]
    pub error_pages: BTreeMap<String, String>,
    /// Use `error_pages` for errors of the servers too.
    #[serde(default)]
    pub intercept_errors: bool,
    /// Compress ordinary answers for clients that take it: `true`, or a list of `zstd`, `br`, `gzip`. Never streams of
    /// NDJSON or events, ranges, and what is small or compressed already.
    #[serde(default, skip_serializing_if = "Compress::is_no")]
    pub compress: Compress,
    /// What becomes of a request body with a Content-Encoding. `deny` for ollama and openai; for http it is passed on.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub request_encoding: Option<RequestEncoding>,
    /// Time limits towards the upstream.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Size limits.
    #[serde(default)]
    pub limits: Limits,
    /// How often requests may come. Each limit must allow a request; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub rate_limits: Vec<RateLimit>,
    /// How many requests may run at a time. Each limit must allow a request; at most 8.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub concurrency: Vec<ConcurrencyLimit>,
    /// When a failed attempt is tried again. Only connect failures by default.
    #[serde(default)]
    pub retry: Retry,
    /// Whether an API key is needed: `required` (the default with `auth.keys_file`), `optional` or `none`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<RouteAuth>,
    /// Client addresses that may use this route; all by default.
    #[serde(default)]
    pub access: Access,
    /// What web pages of other origins may do. Without it the servers' own rules hold, and to servers that are asked
    /// for models no foreign page may send anything but plain reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cors: Option<Cors>,
    /// Who goes first when requests wait for a slot: `high`, `normal` or `low`.
    #[serde(default, skip_serializing_if = "Priority::is_default")]
    pub priority: Priority,
    /// Whether a request may choose its priority by the header field `X-Priority`.
    #[serde(default, skip_serializing_if = "Permission::is_default")]
    pub priority_header: Permission,
    /// Whether a request with `X-Arriero-Explain: 1` is told in the answer's field `X-Arriero-Decision` why its server was
    /// chosen.
    #[serde(default, skip_serializing_if = "Permission::is_default")]
    pub explain: Permission,
    /// Whether pull, push, create, copy, delete, blobs, account and debug calls are passed on (kind `ollama`).
    #[serde(default, skip_serializing_if = "Permission::is_default")]
    pub management: Permission,
    /// Whether models are allowed that run elsewhere: tags `cloud` and `-cloud`, names with a host (kind `ollama`).
    #[serde(default, skip_serializing_if = "Permission::is_default")]
    pub cloud_models: Permission,
    /// The most that a request may ask of a server (kinds `ollama` and `openai`).
    #[serde(default, skip_serializing_if = "Caps::is_default")]
    pub caps: Caps,
    /// Keep embeddings that servers computed and answer from them (kind `ollama`); nothing is kept without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub embeddings_cache: Option<EmbeddingsCache>,
    /// Keep answers of the servers to GET and answer from them, as they allow it (RFC 9111); nothing is kept without it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cache: Option<Cache>,
}

impl Route {
    /// Whether anybody answers.
    pub(super) fn has_target(&self) -> bool {
        self.upstream.is_some() || self.respond.is_some() || self.redirect.is_some() || self.files.is_some()
    }
}

/// Conditions on a request; all that are given must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Match {
    /// `http` or `https`: whether the client spoke TLS, to a listener or to one of its `trusted_proxies`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub scheme: Option<Scheme>,
    /// Host names without port, any letter case; `*.example.com` matches one or more labels in front.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub host: OneOrMany<String>,
    /// Paths. One that ends in `/` matches everything below it, any other exactly itself.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub path: OneOrMany<String>,
    /// Methods, in capitals.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub method: OneOrMany<String>,
    /// Names of models as Ollama knows them; `*` stands for any characters. `llava` means `llava:latest`.
    #[serde(skip_serializing_if = "OneOrMany::is_empty")]
    pub model: OneOrMany<String>,
    /// Header fields and the value that each must have; `*` stands for any characters.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub header: BTreeMap<String, String>,
}

/// How a client spoke.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum Scheme {
    /// Without TLS.
    Http,
    /// With TLS.
    Https,
}

/// A single value or a list of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(untagged)]
pub enum OneOrMany<T> {
    /// One value.
    One(T),
    /// Several values.
    Many(Vec<T>),
}

impl<T> Default for OneOrMany<T> {
    fn default() -> Self {
        Self::Many(Vec::new())
    }
}

impl<T> OneOrMany<T> {
    /// The values, in the order in which they were written.
    pub fn as_slice(&self) -> &[T] {
        match self {
            Self::One(one) => std::slice::from_ref(one),
            Self::Many(many) => many,
        }
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.as_slice().is_empty()
    }
}

/// Time limits towards an upstream. A limit that is absent comes from `defaults.timeouts`, then from Arriero.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// Opening the TCP connection (2s).
    pub connect: Option<Duration>,
    /// The TLS handshake (5s).
    pub tls: Option<Duration>,
    /// From the request sent to the first byte of the answer (600s: a cold vision model is silent for minutes).
    pub first_byte: Option<Duration>,
    /// Longest silence between two reads of the answer (300s).
    pub read: Option<Duration>,
    /// Longest time for a server to take what waits of the request body, or 1 KiB of that (60s).
    pub write: Option<Duration>,
    /// Silence of both sides of a connection that was upgraded, a WebSocket say (7d).
    pub upgrade: Option<Duration>,
    /// The whole request, from its head to the last byte of the answer (no limit).
    pub request: Option<Duration>,
}

/// Size limits of a route.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Largest request body (100MiB); a larger one is answered 413, also while it streams.
    pub request_body: Option<ByteSize>,
}

/// When a failed attempt is tried again at another server.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Retry {
    /// Attempts in all, the first included.
    #[schemars(range(min = 1, max = 10))]
    pub attempts: u32,
    /// Failures that are tried again: `connect`, `reset`, `first_byte_timeout`, `5xx`, or a status such as `"503"`.
    pub on: Vec<RetryOn>,
    /// Also send a POST again after a server may have begun to work on it.
    pub replay_post: bool,
}

impl Default for Retry {
    fn default() -> Self {
        Self { attempts: 3, on: vec![RetryOn::Connect], replay_post: false }
    }
}

/// A failure that may be tried again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// No connection: nothing was sent.
    Connect,
    /// The connection broke before the first byte of an answer.
    Reset,
    /// No byte of an answer within `timeouts.first_byte`.
    FirstByteTimeout,
    /// Any status from 500 to 599.
    ServerError,
    /// This status, 400 to 599.
    Status(u16),
}

/// Values for every route that does not set its own.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Defaults {
    /// Time limits.
    pub timeouts: Timeouts,
    /// Size limits.
    pub limits: Limits,
}

/// The process itself. A change of `threads` or `temp_dir` needs a restart.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Server {
    /// Worker threads; one per core by default.
    #[schemars(range(min = 1, max = 256))]
    pub threads: Option<u32>,
    /// Bytes of request bodies that may be held at a time, in memory and on disk, in the whole process.
    pub body_budget: ByteSize,
    /// Bytes up to which one held body stays in memory; a longer one goes to an unlinked temporary file.
    pub body_memory: ByteSize,
    /// Folder for those files; the system's by default.
    pub temp_dir: Option<String>,
    /// Folder for what is kept over restarts: what was learned of the fleet, the history, what operators changed. Without
    /// it nothing is kept.
    pub data_dir: Option<String>,
    /// How long requests in flight may take to finish after SIGTERM; then they are cut off.
    pub drain: Duration,
    /// How long listeners still accept after SIGTERM, while `/health/ready` says 503 already: for load balancers that
    /// learn late that no more requests are to come (5s to 15s on Kubernetes).
    pub drain_delay: Duration,
    /// File descriptors that connections of clients leave free, for reloads, health checks and the admin listener.
    #[schemars(range(min = 1, max = 65536))]
    pub reserved_files: u32,
    /// When to warn that memory, disks, processor time or file descriptors run out.
    pub thresholds: Thresholds,
}

impl Default for Server {
    fn default() -> Self {
        Self {
            threads: None,
            body_budget: ByteSize(512 << 20),
            body_memory: ByteSize(1 << 20),
            temp_dir: None,
            data_dir: None,
            drain: secs(300),
            drain_delay: secs(0),
            reserved_files: 32,
            thresholds: Thresholds::default(),
        }
    }
}

/// Logs and traces.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// One line for each request on standard output.
    pub access_log: AccessLog,
    /// Least severe message that is logged on standard error.
    pub log_level: LogLevel,
    /// Traces of requests, told to an OpenTelemetry collector; none by default.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tracing: Option<Tracing>,
}

impl Default for Telemetry {
    fn default() -> Self {
        Self { access_log: AccessLog::Json, log_level: LogLevel::Info, tracing: None }
    }
}

/// Form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    /// One JSON object a line.
    Json,
    /// The `combined` format of nginx; without the query, which may hold secrets.
    Combined,
    /// No access log.
    Off,
}

/// Severity of a log message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum LogLevel {
    /// Something failed.
    Error,
    /// Something is odd.
    Warn,
    /// What happens.
    Info,
    /// Why it happens.
    Debug,
}

impl LogLevel {
    /// The word as it is written.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Error => "error",
            Self::Warn => "warn",
            Self::Info => "info",
            Self::Debug => "debug",
        }
    }
}
