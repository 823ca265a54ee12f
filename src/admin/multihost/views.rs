//! What is told of instances, of their link, and of what this one does.

use schemars::JsonSchema;
use serde::Serialize;

use crate::admin::State;
use crate::admin::caches::{answers, embeddings, share};
use crate::admin::time::{Present, milliseconds};
use crate::clock;
use crate::fleet::{embeddings_cache, response_cache};
use crate::policy::failure::Reason;
use crate::version;

/// An instance of the cluster.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct InstanceView {
    /// Its name, and four letters that another process of this name would not have.
    pub id: String,
    /// It is the one that answers.
    pub current: bool,
    /// It does what one alone should do.
    pub leader: bool,
    /// `active` or `stopping`.
    pub status: &'static str,
    /// Its version.
    pub version: String,
    /// Hash of its configuration, but for what each instance has for itself: names, addresses, its host.
    pub config_hash: String,
    /// Whether its configuration is that of the one that answers.
    pub same_config: bool,
    /// When it started.
    pub started_at: String,
    /// Seconds since then.
    pub uptime_seconds: u64,
    /// Milliseconds since its last sign of life.
    pub last_seen_ms: f64,
}

/// The name of the one that answers.
pub fn own(state: &State) -> String {
    let snapshot = state.store.load();
    let view = snapshot.lasting.cluster.view();
    if !view.own.is_empty() {
        return view.own.clone();
    }
    let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    snapshot.cluster.as_ref().map_or_else(host, |plan| plan.instance.clone())
}

/// All that are alive, by name; the one that answers alone where it knows of no other.
pub fn instances(state: &State) -> Vec<InstanceView> {
    let present = Present::read();
    let unix = clock::unix_time().as_secs_f64();
    let snapshot = state.store.load();
    let cluster = &snapshot.lasting.cluster;
    let (view, leads) = (cluster.view(), cluster.leads(present.now));
    let stopping = *state.stopping.borrow();
    if view.members.is_empty() {
        let uptime = present.now.saturating_duration_since(state.started);
        return vec![InstanceView {
            id: own(state),
            current: true,
            leader: leads,
            status: word(stopping),
            version: version::VERSION.to_owned(),
            config_hash: snapshot.common_hash.clone(),
            same_config: true,
            started_at: present.text(state.started),
            uptime_seconds: uptime.as_secs(),
            last_seen_ms: 0.0,
        }];
    }
    let leader = view.leader.as_ref().map(|leader| leader.id.as_str());
    let one = |member: &crate::fleet::cluster::Member| {
        let current = member.id == view.own;
        InstanceView {
            id: member.id.clone(),
            current,
            // What it knows of itself is newer than what Redis said.
            leader: if current { leads } else { leader == Some(&member.id) && cluster.is_linked() },
            status: word(if current { stopping } else { member.stopping }),
            version: member.version.clone(),
            config_hash: if current { snapshot.common_hash.clone() } else { member.config.clone() },
            same_config: current || member.config == snapshot.common_hash,
            started_at: present.unix_text(member.started),
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "seconds since a start")]
            uptime_seconds: (unix - member.started).max(0.0) as u64,
            last_seen_ms: if current { 0.0 } else { milliseconds(present.now.saturating_duration_since(member.heard)) },
        }
    };
    let mut all: Vec<InstanceView> = view.members.iter().map(one).collect();
    all.sort_unstable_by(|one, other| one.id.cmp(&other.id));
    all
}

const fn word(stopping: bool) -> &'static str {
    if stopping { "stopping" } else { "active" }
}

/// How this instance is linked with the others.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CoordinationView {
    /// There is a cluster.
    pub enabled: bool,
    /// `healthy`, `degraded` while Redis cannot be used, or `disabled` without a cluster.
    pub status: &'static str,
    /// Name of the cluster.
    pub cluster: Option<String>,
    /// The one that answers.
    pub instance: String,
    /// Redis can be used.
    pub linked: bool,
    /// Where it is.
    pub redis: Option<String>,
    /// Why it cannot be used.
    pub fault: Option<String>,
    /// How many instances are alive, as far as this one knows.
    pub instances: u32,
    /// How many different configurations they have.
    pub configurations: usize,
    /// Who leads.
    pub leader: Option<String>,
    /// Grows with each change of hands.
    pub leader_token: Option<u64>,
    /// Whether the one that answers does what one alone should do.
    pub leads: bool,
    /// The decisions that are shared.
    pub decisions: DecisionFigures,
}

/// The decisions of the cluster, as this instance knows them.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct DecisionFigures {
    /// The highest version that was seen.
    pub version: u64,
    /// All that are known, lifted ones of the last day among them.
    pub known: usize,
    /// Those that hold.
    pub in_force: usize,
    /// Those that were made here and are not told yet.
    pub untold: usize,
    /// How often all of them were compared with Redis.
    pub comparisons: u64,
    /// When that was last.
    pub compared_at: Option<String>,
}

/// How this instance is linked with the others.
pub fn coordination(state: &State) -> CoordinationView {
    let present = Present::read();
    let snapshot = state.store.load();
    let cluster = &snapshot.lasting.cluster;
    let (view, enabled, linked) = (cluster.view(), cluster.is_configured(), cluster.is_linked());
    let known = cluster.asking.known();
    let mut configurations: Vec<String> = instances(state).into_iter().map(|one| one.config_hash).collect();
    configurations.sort_unstable();
    configurations.dedup();
    CoordinationView {
        enabled,
        status: match (enabled, linked) {
            (false, _) => "disabled",
            (true, true) => "healthy",
            (true, false) => "degraded",
        },
        cluster: snapshot.cluster.as_ref().map(|plan| plan.typed.name.clone()),
        instance: own(state),
        linked,
        redis: view.redis.clone().filter(|_| linked),
        fault: view.fault.clone(),
        instances: cluster.instances(),
        configurations: configurations.len(),
        leader: view.leader.as_ref().map(|leader| leader.id.clone()),
        leader_token: view.leader.as_ref().map(|leader| leader.token),
        leads: cluster.leads(present.now),
        decisions: DecisionFigures {
            version: known.version,
            known: known.decisions,
            in_force: known.in_force,
            untold: known.untold,
            comparisons: known.comparisons,
            compared_at: known.compared.map(|at| present.unix_text(at)),
        },
    }
}

/// The requests of this instance in the last 5 minutes, or since the start if that is later.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "InstanceRequests")]
pub struct Requests {
    /// Those that run.
    in_flight: u64,
    /// Over how many seconds the following is counted.
    window_seconds: u64,
    /// Those that ended.
    ended: u64,
    /// Those that failed though they were right.
    failed: u64,
    /// Those that ended, in a second.
    per_second: f64,
}

/// What this instance did lately.
pub fn requests(state: &State) -> Requests {
    let lately = state.store.process.lately(state.metrics.ended_so_far(), clock::now());
    let ended: u64 = lately.by.iter().sum();
    let failed =
        Reason::ALL.iter().zip(lately.by).filter(|(reason, _)| reason.is_failure()).map(|(_, count)| count).sum();
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    let per_second = (ended as f64 / lately.over.as_secs_f64().max(1.0) * 1e3).round() / 1e3;
    let in_flight = state.store.load().upstreams.iter().map(|upstream| upstream.in_flight()).sum();
    Requests { in_flight, window_seconds: lately.over.as_secs(), ended, failed, per_second }
}

/// What a route keeps of answers, on this instance.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct CacheFigures {
    /// The route.
    route: String,
    /// What is kept: `embeddings` or `answers`.
    kind: &'static str,
    entries: usize,
    bytes: u64,
    /// Inputs, or requests, that were known, or that another request was asking for, since the start.
    hits: u64,
    /// Those that a server was asked for.
    misses: u64,
    /// From 0 to 1; null before the first request.
    hit_rate: Option<f64>,
}

/// What routes keep of answers.
pub fn caches(state: &State) -> Vec<CacheFigures> {
    let snapshot = state.store.load();
    let of_embeddings = embeddings(&snapshot.routes).map(|(route, cache)| {
        let embeddings_cache::Figures { entries, bytes, hits, misses, .. } = cache.store.figures();
        let (route, hit_rate) = (route.name.clone(), share(hits, misses));
        CacheFigures { route, kind: "embeddings", entries, bytes, hits, misses, hit_rate }
    });
    let of_answers = answers(&snapshot.routes).map(|(route, cache)| {
        let response_cache::Figures { entries, bytes, hits, misses, .. } = cache.store.figures();
        let (route, hit_rate) = (route.name.clone(), share(hits, misses));
        CacheFigures { route, kind: "answers", entries, bytes, hits, misses, hit_rate }
    });
    of_embeddings.chain(of_answers).collect()
}
