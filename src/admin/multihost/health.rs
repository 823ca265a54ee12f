//! Whether this instance is to get requests, for load balancers, and how well all of it is, for people.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::Json;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Shared, views};
use crate::admin::State;
use crate::admin::handlers;
use crate::admin::health::{PartView, Picture};
use crate::admin::openapi::{Judged, about};
use crate::admin::time::wall;
use crate::clock;

pub(super) fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/health", get_with(whole, about("getClusterHealth", "How well this instance and its cluster are")))
        .api_route("/health/simple", get_with(simple, about("getInstanceHealth", "Whether it takes requests")))
        .api_route("/health/ping", get_with(ping, about("pingInstance", "That it answers")))
}

/// How well this instance and its cluster are.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HealthView {
    /// It takes requests, and some server does.
    healthy: bool,
    /// `healthy`, `degraded` or `unhealthy`. A cluster whose Redis cannot be used is degraded: each instance goes on by itself.
    status: &'static str,
    /// From 0 to 100.
    score: u8,
    /// `excellent` from 90, `good` from 70, `warning` from 50, else `critical`.
    band: &'static str,
    /// What the score is made of.
    parts: Vec<PartView>,
    /// What this instance is made of, each `up`, `degraded` or `down`; `coordination` only with a cluster.
    services: std::collections::BTreeMap<&'static str, &'static str>,
    /// The one that answers.
    instance: String,
    /// How many instances are alive, as far as it knows.
    instances: u32,
    /// Seconds since it started.
    uptime: u64,
    /// When it was looked at.
    timestamp: String,
}

pub(super) fn view(state: &State, picture: &Picture) -> HealthView {
    let coordination = views::coordination(state);
    let servers = handlers::status_of(&picture.servers);
    let healthy = servers != "unhealthy" && !*state.stopping.borrow();
    let mut services = picture.services();
    if coordination.enabled {
        services.insert("coordination", if coordination.linked { "up" } else { "degraded" });
    }
    HealthView {
        healthy,
        status: match (healthy, coordination.status) {
            (false, _) => "unhealthy",
            (true, "degraded") => "degraded",
            (true, _) => servers,
        },
        score: picture.score.value,
        band: picture.score.band.as_str(),
        parts: picture.parts(),
        services,
        instance: coordination.instance,
        instances: coordination.instances,
        uptime: (clock::now() - state.started).as_secs(),
        timestamp: wall(clock::unix_time()),
    }
}

/// How well it is, of this instance.
#[derive(Serialize, JsonSchema)]
struct HealthAnswer {
    /// Whether it is well.
    success: bool,
    data: HealthView,
}

async fn whole(Extract(state): Shared) -> Judged<HealthAnswer> {
    let data = view(&state, &Picture::of(&state));
    Judged { good: data.healthy, view: HealthAnswer { success: data.healthy, data } }
}

/// Whether an instance takes requests.
#[derive(Serialize, JsonSchema)]
struct SimpleHealth {
    /// `healthy` or `unhealthy`.
    status: &'static str,
    /// The one that answers.
    instance: String,
    /// Seconds since it started.
    uptime: u64,
    /// When it was looked at.
    timestamp: String,
}

async fn simple(Extract(state): Shared) -> Judged<SimpleHealth> {
    let servers = handlers::count(&state);
    let good = handlers::status_of(&servers) != "unhealthy" && !*state.stopping.borrow();
    let view = SimpleHealth {
        status: if good { "healthy" } else { "unhealthy" },
        instance: views::own(&state),
        uptime: (clock::now() - state.started).as_secs(),
        timestamp: wall(clock::unix_time()),
    };
    Judged { good, view }
}

/// That an instance answers.
#[derive(Serialize, JsonSchema)]
struct Pong {
    /// Always true.
    success: bool,
    /// Always `pong`.
    message: &'static str,
    /// The one that answers.
    instance: String,
    /// When.
    timestamp: String,
}

async fn ping(Extract(state): Shared) -> Json<Pong> {
    let (instance, timestamp) = (views::own(&state), wall(clock::unix_time()));
    Json(Pong { success: true, message: "pong", instance, timestamp })
}
