//! One configuration, compiled: every value resolved, every name looked up, ready to serve.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::inventory::ModelIndex;
use super::server::ServerState;
use crate::config::types::{BalancePolicy, Kind};
use crate::policy::balance::affinity::Affinity;
use crate::policy::balance::consistent_hash::ConsistentHash;
use crate::policy::balance::round_robin::RoundRobin;
use crate::policy::caps::Caps;
use crate::policy::circuit::CircuitPolicy;
use crate::policy::health::HealthPolicy;
use crate::policy::retry::RetryPolicy;
use crate::routing::table::RouteTable;
use crate::telemetry::metrics::RouteMetrics;

/// One configuration in its compiled form.
pub struct Snapshot {
    /// Hash of the file's bytes.
    pub hash: String,
    /// When it came into force, seconds since 1970.
    pub loaded_at: f64,
    /// Which request goes where; the numbers index `routes`.
    pub table: RouteTable,
    /// Routes in the order of the file.
    pub routes: Vec<Arc<Route>>,
    /// Upstreams by name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// Listeners in the order of the file.
    pub listeners: Vec<Arc<ListenerSettings>>,
    /// The largest `body_limit` of a route.
    pub largest_body: u64,
    /// Whether a route holds bodies for another attempt, and whether one does so for POST.
    pub any_holds: bool,
    /// Whether such a route sends a POST again.
    pub any_replays_post: bool,
    /// Bytes of one held body that stay in memory.
    pub body_memory: usize,
    /// Whether requests are logged.
    pub access_log: bool,
    /// How long requests in flight may take to finish when the process stops.
    pub drain: Duration,
}

/// What may change about a listener while it runs.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Whether HTTP/2 without TLS is spoken.
    pub h2c: bool,
    /// Longest time for a request head.
    pub header_timeout: Duration,
    /// Longest silence inside a request body.
    pub body_timeout: Duration,
    /// How long an idle connection is kept.
    pub keepalive: Duration,
    /// Longest time for one write to the client.
    pub write_timeout: Duration,
    /// Bytes of a request head.
    pub header_bytes: usize,
    /// Fields of a request head.
    pub header_fields: usize,
    /// Bytes of a request target.
    pub target_bytes: usize,
}

/// Where a request goes and what holds for it.
pub struct Route {
    /// Its name.
    pub name: String,
    /// Where it goes.
    pub upstream: Arc<Upstream>,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Largest request body in bytes.
    pub body_limit: u64,
    /// When an attempt is made again.
    pub retry: RetryPolicy,
    /// Whether that may be after something was sent, so that the body must be held before the first attempt.
    pub holds: bool,
    /// Whether calls that change a server or an account are passed on.
    pub management: bool,
    /// Whether models that run elsewhere are allowed.
    pub cloud: bool,
    /// The most that a request may ask of a server.
    pub caps: Caps,
    /// What becomes of a compressed request body.
    pub request_encoding: RequestEncoding,
    /// Its metrics.
    pub metrics: RouteMetrics,
}

/// What becomes of a compressed request body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestEncoding {
    /// Answered 415.
    Deny,
    /// Decoded here.
    Decode,
    /// Passed on as it is.
    Pass,
}

/// Time limits towards an upstream.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Opening the TCP connection.
    pub connect: Duration,
    /// The TLS handshake.
    pub tls: Duration,
    /// From the request sent to the first byte of the answer.
    pub first_byte: Duration,
    /// Silence between two reads of the answer.
    pub read: Duration,
    /// One write of the request body.
    pub write: Duration,
    /// The whole request.
    pub request: Option<Duration>,
}

/// A named group of servers.
pub struct Upstream {
    /// Its name.
    pub name: String,
    /// What its servers are.
    pub kind: Kind,
    /// Whether its servers are spoken to in HTTP/2.
    pub http2: bool,
    /// Its members in the order of the file.
    pub servers: Vec<Member>,
    /// How one is chosen.
    pub balance: Balance,
    /// Numbers for the health of its servers.
    pub health: HealthPolicy,
    /// Numbers for the circuits of its servers.
    pub circuit: CircuitPolicy,
    /// Connections kept for each server.
    pub max_idle: u32,
    /// How long an idle connection is kept.
    pub idle_timeout: Duration,
    /// How its servers are checked; `None` when they are not.
    pub check: Option<Check>,
    /// Time between two looks at the models of a server.
    pub inventory_interval: Duration,
    /// Which server has which model.
    pub models: ArcSwap<ModelIndex>,
}

impl Upstream {
    /// Whether its servers are chosen by model.
    pub fn has_models(&self) -> bool {
        self.kind != Kind::Http
    }

    /// What a server says about a model in OpenAI's form, by the model's canonical name.
    pub fn openai_row(&self, model: &str) -> Option<bytes::Bytes> {
        self.servers.iter().find_map(|member| {
            let inventory = member.state.inventory();
            let row = inventory.openai.iter().find(|row| row.name.as_str() == model)?;
            Some(bytes::Bytes::copy_from_slice(row.raw.get().as_bytes()))
        })
    }

    /// Makes the index of models anew from what the servers are known to have.
    pub fn index_models(&self) {
        if self.has_models() {
            self.models.store(Arc::new(ModelIndex::of(&self.servers)));
        }
    }
}

/// A server as a member of an upstream.
pub struct Member {
    /// The server.
    pub state: Arc<ServerState>,
    /// Its share of the requests.
    pub weight: u32,
    /// Most requests at a time.
    pub max_in_flight: u32,
}

/// How a server is chosen.
pub struct Balance {
    /// The rule.
    pub policy: BalancePolicy,
    /// Whether servers with the model in memory come first.
    pub affinity: Affinity,
    /// What `consistent_hash` hashes.
    pub hash_on: HashOn,
    /// The order of `round_robin`.
    pub schedule: RoundRobin,
    /// The ring of `consistent_hash`.
    pub ring: ConsistentHash,
    /// Counts choices, for `round_robin` and for ties.
    pub turn: std::sync::atomic::AtomicU64,
}

/// What `consistent_hash` hashes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum HashOn {
    /// The client's IP address.
    ClientIp,
    /// The model.
    Model,
    /// A header field.
    Header(http::HeaderName),
}

/// How a server is checked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// Path that is fetched.
    pub path: String,
    /// Time between two checks.
    pub interval: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
}
