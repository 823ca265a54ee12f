//! One configuration, compiled: every value resolved, every name looked up, ready to serve.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;

use super::admin_access::AdminAccess;
use super::cluster::{ClusterPlan, ClusterState};
use super::concurrency::Concurrency;
use super::connections::{AllConnections, ConnectionLimits, Connections};
use super::content::{Content, Target};
use super::dispatch::{Dispatcher, Dispatchers};
use super::gpu::GpuPlan;
use super::inventory::ModelIndex;
use super::jobs::Jobs;
use super::keys::Keys;
use super::limiter::Limiter;
use super::limits::RouteLimits;
use super::listener_tls::ListenerTls;
use super::notifications::{Hook, Telling};
use super::placement::Placement;
use super::quotas::{Quota, RouteQuota};
use super::recovery_action::ActionPlan;
use super::server::ServerState;
use super::shared_answers::Tier;
use super::tracing::Tracing;
use super::upstream_state::UpstreamState;
use super::upstream_tls::UpstreamTls;
use crate::config::types::{BalancePolicy, Kind};
use crate::policy::auth;
use crate::policy::balance::affinity::Affinity;
use crate::policy::balance::consistent_hash::ConsistentHash;
use crate::policy::balance::round_robin::RoundRobin;
use crate::policy::balance::sticky::StickyCookie;
use crate::policy::ban::BanRule;
use crate::policy::caps::Caps;
use crate::policy::cidr::{Access, Networks};
use crate::policy::circuit::CircuitPolicy;
use crate::policy::cors::Cors;
use crate::policy::health::HealthPolicy;
use crate::policy::queue::Class;
use crate::policy::reach::Reach;
use crate::policy::recovery::RecoveryPolicy;
use crate::policy::resources::Thresholds;
use crate::policy::retry::RetryPolicy;
use crate::policy::schedule::{Scheduler, Settings};
use crate::policy::upload_rate::UploadRate;
use crate::routing::host::HostList;
use crate::routing::table::RouteTable;
use crate::telemetry::access_log::Format;
use crate::telemetry::metrics::{Metrics, RouteMetrics};

pub use super::kept::{Cache, Cookies, Embeddings};

/// One configuration in its compiled form.
pub struct Snapshot {
    /// Hash of the file's bytes.
    pub hash: String,
    /// Hash of what all instances of a cluster should have in common.
    pub common_hash: String,
    /// When it came into force, seconds since 1970.
    pub loaded_at: f64,
    /// Which request goes where; the numbers index `routes`.
    pub table: RouteTable,
    /// Routes in the order of the file.
    pub routes: Vec<Arc<Route>>,
    /// Upstreams by name.
    pub upstreams: Vec<Arc<Upstream>>,
    /// The API keys, where there are any.
    pub keys: Option<Arc<Keys>>,
    /// Who may do what on the admin listener.
    pub admin: Arc<AdminAccess>,
    /// Where servers may be that are added at run time.
    pub reach: Arc<Reach>,
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
    /// How requests are logged, if they are.
    pub access_log: Option<Format>,
    /// How requests are told as traces, if they are.
    pub tracing: Option<Arc<Tracing>>,
    /// The cluster that it belongs to, if to any.
    pub cluster: Option<Arc<ClusterPlan>>,
    /// Changes with any byte of an error page.
    pub pages: u64,
    /// How long requests in flight may take to finish when the process stops.
    pub drain: Duration,
    /// How long listeners still accept when the process is told to stop.
    pub drain_delay: Duration,
    /// File descriptors that connections of clients leave free.
    pub reserved_files: u32,
    /// How many tokens may be used, in the order of the file.
    pub quotas: Vec<Arc<Quota>>,
    /// Webhooks that are told what happens.
    pub hooks: Vec<Hook>,
    /// When memory, disks, processor time or file descriptors are said to run out.
    pub thresholds: Thresholds,
    /// What all snapshots of the process share.
    pub lasting: Lasting,
}

/// What limits count, for the whole process and beyond a reload.
#[derive(Clone)]
pub struct Lasting {
    /// The keys of rate limits.
    pub limiter: Arc<Limiter>,
    /// Requests that run, by the keys of concurrency limits.
    pub running: Arc<Concurrency>,
    /// Connections of clients, over all listeners.
    pub connections: Arc<AllConnections>,
    /// The schedulers of the upstreams.
    pub dispatchers: Arc<Dispatchers>,
    /// What happens, and who is told.
    pub telling: Telling,
    /// Orders of operators about models.
    pub jobs: Arc<Jobs>,
    /// What instances of the cluster keep together.
    pub answers: Arc<Tier>,
    /// The other instances of the cluster, as far as they are known.
    pub cluster: Arc<ClusterState>,
}

impl Snapshot {
    /// A listener as it is in this configuration; as it was, if it is there no more.
    #[must_use]
    pub fn listener(&self, known: &Arc<ListenerSettings>) -> Arc<ListenerSettings> {
        let is_same = |one: &&Arc<ListenerSettings>| Arc::ptr_eq(&one.connections, &known.connections);
        Arc::clone(self.listeners.iter().find(is_same).unwrap_or(known))
    }

    /// Keeps what the listeners of the snapshot before have for TLS where the settings are the same, so
    /// that clients can resume their sessions.
    pub fn keep_tls(&mut self, before: &Self) {
        let known: Vec<_> = before.listeners.iter().filter_map(|listener| listener.tls.as_ref()).collect();
        for listener in &mut self.listeners {
            let same = |tls: &Arc<ListenerTls>| known.iter().find(|known| known.same_settings(tls));
            if let Some(tls) = listener.tls.as_ref().and_then(same) {
                *listener =
                    Arc::new(ListenerSettings { tls: Some(Arc::clone(tls)), ..ListenerSettings::clone(listener) });
            }
        }
    }

    /// Looks at all files of certificates and takes what changed; `now` is in seconds since 1970.
    pub fn refresh_certificates(&self, now: i64, metrics: &Metrics) {
        self.listeners.iter().filter_map(|listener| listener.tls.as_ref()).for_each(|tls| tls.refresh(now, metrics));
        self.client_tls().for_each(|tls| tls.refresh(metrics));
    }

    /// TLS wherever we are the client.
    fn client_tls(&self) -> impl Iterator<Item = &UpstreamTls> {
        let collector = self.tracing.as_ref().and_then(|tracing| tracing.collector.tls.as_ref());
        let cluster = self.cluster.as_ref().and_then(|cluster| cluster.tls.as_ref());
        self.upstreams.iter().filter_map(|upstream| upstream.tls.as_ref()).chain(collector).chain(cluster)
    }

    /// What each certificate is called, and the last second of its validity since 1970. Of several that
    /// are called the same, the one that ends first.
    pub fn certificate_expiries(&self) -> BTreeMap<String, i64> {
        let listeners = self.listeners.iter().filter_map(|listener| listener.tls.as_ref());
        let mut all = BTreeMap::new();
        for (name, end) in
            listeners.flat_map(|tls| tls.expiries()).chain(self.client_tls().filter_map(UpstreamTls::expiry))
        {
            all.entry(name).and_modify(|known: &mut i64| *known = end.min(*known)).or_insert(end);
        }
        all
    }
}

/// What may change about a listener while it runs.
#[derive(Clone, Debug)]
pub struct ListenerSettings {
    /// Its address, as it stands in the file.
    pub address: String,
    /// Its connections and requests, which it keeps in the next snapshot.
    pub connections: Arc<Connections>,
    /// How many there may be; in force once the snapshot is.
    pub connection_limits: ConnectionLimits,
    /// Whether HTTP/2 without TLS is spoken.
    pub h2c: bool,
    /// What handshakes need; `None` on a listener without TLS.
    pub tls: Option<Arc<ListenerTls>>,
    /// Longest time from connecting to the end of the handshake.
    pub tls_timeout: Duration,
    /// Whether connections from trusted proxies begin with a PROXY header, and no others are taken.
    pub proxy_protocol: bool,
    /// Proxies that are believed about the client's address.
    pub trusted_proxies: Networks,
    /// Host names that are answered.
    pub hosts: HostList,
    /// Longest time for a request head.
    pub header_timeout: Duration,
    /// Longest silence inside a request body.
    pub body_timeout: Duration,
    /// Least rate of a request body.
    pub body_rate: UploadRate,
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
    /// Who answers.
    pub target: Target,
    /// What is changed on the way.
    pub content: Content,
    /// Time limits.
    pub timeouts: Timeouts,
    /// Largest request body in bytes.
    pub body_limit: u64,
    /// How often requests may come, and how many at a time.
    pub limits: RouteLimits,
    /// How many tokens they may use, in the order of the file.
    pub quotas: Vec<RouteQuota>,
    /// When an attempt is made again.
    pub retry: RetryPolicy,
    /// Whether that may be after something was sent, so that the body must be held before the first attempt.
    pub holds: bool,
    /// Whether it asks for an API key.
    pub auth: auth::Mode,
    /// Client addresses that may use it.
    pub access: Access,
    /// What web pages of other origins may do, where that is set.
    pub cors: Option<Cors>,
    /// Whether calls that change a server or an account are passed on.
    pub management: bool,
    /// Whether models that run elsewhere are allowed.
    pub cloud: bool,
    /// Who goes first when requests wait.
    pub priority: Class,
    /// Whether a request may say so itself.
    pub priority_header: bool,
    /// Whether a request may ask why its server was chosen.
    pub explain: bool,
    /// The most that a request may ask of a server.
    pub caps: Caps,
    /// What it keeps of embeddings.
    pub embeddings: Option<Embeddings>,
    /// What it keeps of answers.
    pub cache: Option<Cache>,
    /// Its metrics.
    pub metrics: RouteMetrics,
}

impl Route {
    /// The upstream that answers; `None` where the answer arises here.
    pub fn upstream(&self) -> Option<&Arc<Upstream>> {
        match &self.target {
            Target::Upstream(upstream) => Some(upstream),
            Target::Respond(_) | Target::Redirect(_) | Target::Files(_) => None,
        }
    }
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
    /// Silence of both sides of a connection that was upgraded.
    pub upgrade: Duration,
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
    /// TLS towards its servers; `None` when no URL begins with `https://`.
    pub tls: Option<UpstreamTls>,
    /// Its members in the order of the file.
    pub servers: Vec<Member>,
    /// How one is chosen.
    pub balance: Balance,
    /// Numbers for the health of its servers.
    pub health: HealthPolicy,
    /// Numbers for the circuits of its servers.
    pub circuit: CircuitPolicy,
    /// Numbers for the tests of its servers.
    pub recovery: RecoveryPolicy,
    /// How many hundredths of the servers that could have a request are left alone because of their circuits.
    pub max_ejected: u8,
    /// When a model that never went well on a server is banned from it.
    pub ban_rule: Option<BanRule>,
    /// How long a request that made a runner crash is tried at no server; zero is not at all.
    pub quarantine: Duration,
    /// What changes by itself, and outlives this snapshot.
    pub state: Arc<UpstreamState>,
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
    /// Schedules its requests where `balance.policy` is `expected_wait`.
    pub dispatcher: Arc<Dispatcher>,
    /// Numbers for it.
    pub schedule: Settings,
    /// Where models may be and where they stay.
    pub placements: Arc<[Placement]>,
    /// How long a request waits for a slot.
    pub queue_timeout: Duration,
    /// How often a client of a stream is told that it waits.
    pub queue_keepalive: Option<Duration>,
}

impl Upstream {
    /// Whether its servers are chosen by model.
    pub fn has_models(&self) -> bool {
        self.kind != Kind::Http
    }

    /// Requests that run on its servers.
    pub fn in_flight(&self) -> u64 {
        self.servers.iter().map(|member| u64::from(member.state.in_flight())).sum()
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
            let index = Arc::new(ModelIndex::of(&self.servers));
            self.models.store(Arc::clone(&index));
            self.state.digests.observe(|model| index.digest(model));
        }
    }

    /// Requests that wait for a slot.
    pub fn waiting(&self) -> usize {
        self.dispatcher.room.len() + self.dispatcher.look(Scheduler::all_pending)
    }

    /// How many wait, by model.
    pub fn queues(&self) -> BTreeMap<String, usize> {
        let mut all = self.dispatcher.room.queues();
        self.dispatcher.look(|scheduler| {
            for (model, waiting) in scheduler.queues() {
                *all.entry(model.to_owned()).or_default() += waiting;
            }
        });
        all
    }

    /// Whether its requests are scheduled.
    pub fn is_scheduled(&self) -> bool {
        self.balance.policy == BalancePolicy::ExpectedWait
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
    /// Most requests at a time for one model, where that is laid down.
    pub max_in_flight_per_model: Option<u32>,
    /// Most models in memory.
    pub max_loaded: u32,
    /// Bytes of its card's memory.
    pub memory: Option<u64>,
    /// Its cards, and who tells how they are.
    pub gpu: Option<GpuPlan>,
    /// Where it may be, if it was added at run time.
    pub reach: Option<Arc<Reach>>,
    /// What may make it well again.
    pub action: Option<ActionPlan>,
}

impl Member {
    /// Whether it has as many requests as it may.
    pub fn is_full(&self) -> bool {
        self.state.in_flight() >= self.max_in_flight
    }

    /// Whether it certainly has room for a request: below its limit, or, where none is known, without any.
    pub fn has_free_slot(&self) -> bool {
        let most = if self.max_in_flight == u32::MAX { 1 } else { self.max_in_flight };
        self.state.in_flight() < most
    }
}

/// How a server is chosen.
pub struct Balance {
    /// The rule.
    pub policy: BalancePolicy,
    /// Whether servers with the model in memory come first.
    pub affinity: Affinity,
    /// What `consistent_hash` hashes.
    pub hash_on: HashOn,
    /// The cookie that a client gets that has none.
    pub sticky: Option<StickyCookie>,
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
    /// A cookie.
    Cookie(String),
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
