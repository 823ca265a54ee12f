//! What the admin listener answers.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::extract::State as Extract;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use schemars::JsonSchema;
use serde::Serialize;

use super::State;
use super::health::{PartView, Picture};
use crate::clock;
use crate::fleet::operation::Standing;
use crate::policy::schedule::Scheduler;
use crate::telemetry::metrics::{ServerSample, UpstreamSample};
use crate::version;

type Shared = Extract<Arc<State>>;

/// How many servers there are, how many of them are up, and how many take no new requests because an operator said so.
#[derive(Clone, Copy, Serialize, JsonSchema)]
pub struct Servers {
    /// Those whose checks are good.
    pub healthy: usize,
    /// All of them.
    pub total: usize,
    /// Those that finish what they have.
    pub draining: usize,
    /// Those that rest.
    pub maintenance: usize,
    /// Up, and neither draining nor in maintenance.
    #[serde(skip)]
    pub working: usize,
}

/// How the fleet is, in a word: `healthy`, `degraded` or `unhealthy`.
pub fn status(state: &State) -> &'static str {
    status_of(&count(state))
}

/// The configuration.
#[derive(Serialize, JsonSchema)]
struct ConfigHealth {
    /// Hash of the configuration in force.
    hash: String,
    /// Whether the file on disk is in force.
    in_force: bool,
    /// Why not.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

/// The whole picture in short.
#[derive(Serialize, JsonSchema)]
struct Health {
    /// `healthy`, `degraded` or `unhealthy`, by the servers alone.
    status: &'static str,
    /// Version of this program.
    version: &'static str,
    /// The commit that it was built from; null where that is not known.
    revision: Option<&'static str>,
    /// Seconds since the start.
    uptime: u64,
    /// The same.
    uptime_seconds: u64,
    /// The servers.
    servers: Servers,
    /// Requests that wait for a slot.
    queue: usize,
    /// What Arriero is made of, each `up`, `degraded` or `down`.
    services: BTreeMap<&'static str, &'static str>,
    /// How well all of it is, from 0 to 100.
    score: u8,
    /// What the score means: `excellent`, `good`, `warning` or `critical`.
    band: &'static str,
    /// What the score is made of.
    parts: Vec<PartView>,
    /// The configuration.
    config: ConfigHealth,
}

/// Counts the servers.
pub fn count(state: &State) -> Servers {
    let snapshot = state.store.load();
    let now = clock::now();
    let mut servers = Servers { healthy: 0, total: 0, draining: 0, maintenance: 0, working: 0 };
    for member in snapshot.upstreams.iter().flat_map(|upstream| &upstream.servers) {
        servers.total += 1;
        let (up, standing) = (member.state.is_up(), member.state.standing(now));
        servers.healthy += usize::from(up);
        servers.draining += usize::from(standing == Standing::Draining);
        servers.maintenance += usize::from(standing == Standing::Maintenance);
        servers.working += usize::from(up && standing.takes_work());
    }
    servers
}

/// The servers in one word.
pub const fn status_of(servers: &Servers) -> &'static str {
    match servers.working {
        _ if servers.total == 0 => "healthy",
        0 => "unhealthy",
        working if working + servers.draining + servers.maintenance < servers.total => "degraded",
        _ => "healthy",
    }
}

/// The whole picture: 503 when there are servers and none of them takes requests. A server that an operator took out
/// does not count as missing.
pub async fn health(Extract(state): Shared) -> Response {
    let picture = Picture::of(&state);
    let servers = picture.servers;
    let status = status_of(&servers);
    let uptime = (clock::now() - state.started).as_secs();
    let reload = state.reloader.status();
    let body = Health {
        status,
        version: version::VERSION,
        revision: version::REVISION,
        uptime,
        uptime_seconds: uptime,
        servers,
        queue: picture.waiting,
        services: picture.services(),
        score: picture.score.value,
        band: picture.score.band.as_str(),
        parts: picture.parts(),
        config: ConfigHealth { hash: state.store.load().hash.clone(), in_force: reload.in_force, error: reload.error },
    };
    let code = if status == "unhealthy" { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (code, Json(body)).into_response()
}

/// The process answers.
pub async fn live() -> &'static str {
    "ok\n"
}

/// Requests are welcome: some server is up and takes requests, unless none is needed, and the process is not stopping.
pub async fn ready(Extract(state): Shared) -> Response {
    let servers = count(&state);
    let reason = if *state.stopping.borrow() {
        Some("stopping")
    } else if servers.healthy == 0 && servers.total > 0 {
        Some("no server is up")
    } else if servers.working == 0 && servers.total > 0 {
        Some("each server that is up is draining or in maintenance")
    } else {
        None
    };
    let body = serde_json::json!({ "ready": reason.is_none(), "reason": reason, "servers": servers });
    let code = if reason.is_none() { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, Json(body)).into_response()
}

/// What Prometheus reads.
pub async fn metrics(Extract(state): Shared) -> Response {
    let snapshot = state.store.pin();
    let fleet = &state.metrics.fleet;
    let now = clock::now();
    fleet.clear();
    state.metrics.gpu.clear();
    state.metrics.caches.clear();
    state.metrics.response_caches.clear();
    for route in &snapshot.routes {
        if let Some(cache) = &route.embeddings {
            let figures = cache.store.figures();
            state.metrics.caches.holds(&route.name, figures.bytes, figures.max_bytes, figures.entries);
        }
        if let Some(cache) = &route.cache {
            let figures = cache.store.figures();
            state.metrics.response_caches.holds(&route.name, figures.bytes, figures.max_bytes, figures.entries);
        }
    }
    for upstream in &snapshot.upstreams {
        let queues = upstream.queues();
        fleet.upstream(&UpstreamSample {
            upstream: &upstream.name,
            bans: upstream.state.bans.list(now).len(),
            quarantined: upstream.state.poison.len(now),
            waiting: upstream.waiting(),
            longest: queues.values().copied().max().unwrap_or(0),
            waiting_for_loads: upstream.dispatcher.look(Scheduler::waiting_for_loads),
            limit: upstream.schedule.max_pending,
        });
        for member in &upstream.servers {
            let inventory = member.state.inventory();
            if upstream.has_models() || member.gpu.is_some() {
                let view = member.state.gpu.view();
                let (name, server) = (&upstream.name, member.state.name());
                state.metrics.gpu.server(name, server, &view.verdict, &view.cards, view.source_up);
            }
            let (loading, slots) = upstream.dispatcher.figures(&member.state);
            let limit = Some(member.max_in_flight).filter(|most| *most < u32::MAX);
            fleet.server(&ServerSample {
                upstream: &upstream.name,
                server: member.state.name(),
                up: member.state.is_up(),
                in_flight: member.state.in_flight(),
                connections: member.state.connections(),
                circuit: member.state.circuit_state(now).as_str(),
                operation: member.state.standing(now).as_str(),
                flapping: member.state.recovery.with(|recovery| recovery.is_flapping(now)),
                model_circuits: member.state.circuits.models_in_states(now),
                models: inventory.counts(),
                loading,
                slots: limit.or(slots.filter(|_| upstream.is_scheduled())),
            });
        }
    }
    for (name, end) in snapshot.certificate_expiries() {
        fleet.certificate(&name, end);
    }
    super::quotas::measure(&state);
    Picture::of(&state).measure(&state.metrics.resources);
    let status = state.reloader.status();
    state.metrics.process.refresh();
    fleet.process(state.store.body_budget.used(), &snapshot.hash, status.in_force, snapshot.loaded_at);
    let content_type = "application/openmetrics-text; version=1.0.0; charset=utf-8";
    ([(header::CONTENT_TYPE, content_type)], state.metrics.encode()).into_response()
}
