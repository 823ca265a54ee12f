//! The cluster below `/api/multihost`: who is there, how well they are coordinated, whether they agree, and what mends that.
//!
//! Without a cluster the same calls tell of one instance that is not coordinated with anybody. What differs between
//! this instance and Redis is mended as it is found: the comparison is the one that the cluster makes by itself
//! ([`crate::cluster::decisions`]).

mod consistency;
mod debug;
mod health;
mod kept;
pub mod views;

use std::sync::Arc;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::State;
use super::health::Picture;
use super::openapi::{Done, about};
use super::problem::Problem;
use super::request::Named;
use super::time::milliseconds;
use crate::fleet::cluster::asking::Comparison;
use crate::telemetry::metrics::CLUSTER_RESULTS;

use views::{CoordinationView, InstanceView};

type Shared = Extract<Arc<State>>;

/// Where these calls are.
pub const PREFIX: &str = "/api/multihost";
/// How long a comparison with Redis may take, and how long another connection may.
const PATIENCE: Duration = Duration::from_secs(5);
/// Time between two looks at whether there is another connection.
const LOOK: Duration = Duration::from_millis(20);

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/instances", get_with(instances, about("listInstances", "The instances of the cluster")))
        .api_route(
            "/coordination/health",
            get_with(coordination, about("getCoordination", "How the instances are linked")),
        )
        .merge(health::routes())
        .merge(consistency::routes())
        .merge(debug::routes())
        .merge(kept::routes())
        .api_route("/monitoring/dashboard", get_with(dashboard, about("getClusterDashboard", "Everything in short")))
        .api_route(
            "/monitoring/restart/{service}",
            post_with(restart, about("restartService", "Open another connection to Redis")),
        )
        .api_route("/performance/metrics", get_with(performance, about("getClusterPerformance", "How fast it is")))
}

/// All instances.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct InstanceList {
    /// There is a cluster.
    enabled: bool,
    /// How many instances are alive.
    count: usize,
    /// The one that answers.
    current_instance: String,
    /// The instances by name.
    data: Vec<InstanceView>,
}

async fn instances(Extract(state): Shared) -> Done<InstanceList> {
    let data = views::instances(&state);
    Done(InstanceList {
        enabled: state.store.load().lasting.cluster.is_configured(),
        count: data.len(),
        current_instance: views::own(&state),
        data,
    })
}

/// How the instances are linked.
#[derive(Serialize, JsonSchema)]
struct CoordinationAnswer {
    data: CoordinationView,
}

async fn coordination(Extract(state): Shared) -> Done<CoordinationAnswer> {
    Done(CoordinationAnswer { data: views::coordination(&state) })
}

/// The answer of a comparison with Redis, where there is one.
async fn compare(state: &State) -> Option<Comparison> {
    let cluster = Arc::clone(&state.store.load().lasting.cluster);
    if !cluster.is_configured() {
        return None;
    }
    let outcome = cluster.asking.compare();
    let late = || Comparison { fault: Some(format!("no answer within {PATIENCE:?}")), ..Comparison::default() };
    Some(tokio::time::timeout(PATIENCE, outcome).await.ok().and_then(Result::ok).unwrap_or_else(late))
}

/// Opens another connection; whether there is one in time.
async fn reconnect(state: &State) -> bool {
    let cluster = Arc::clone(&state.store.load().lasting.cluster);
    let before = cluster.links();
    cluster.asking.reconnect();
    let linked = async {
        while cluster.links() == before || !cluster.is_linked() {
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::time::timeout(PATIENCE, linked).await.is_ok()
}

/// Another connection.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RestartView {
    message: String,
    /// Redis can be used.
    linked: bool,
    data: CoordinationView,
}

async fn restart(Extract(state): Shared, Named(service): Named<String>) -> Result<Done<RestartView>, Problem> {
    if service != "coordination" {
        return Err(Problem::not_found(format!("there is no service `{service}`: use `coordination`")));
    }
    if !state.store.load().lasting.cluster.is_configured() {
        return Err(Problem::conflict("no cluster is configured: add the block `cluster`"));
    }
    let linked = reconnect(&state).await;
    let data = views::coordination(&state);
    let message = if linked {
        "There is another connection to Redis".to_owned()
    } else {
        format!("Redis cannot be used: {}", data.fault.as_deref().unwrap_or("it does not answer yet"))
    };
    Ok(Done(RestartView { message, linked, data }))
}

/// Everything in short.
#[derive(Serialize, JsonSchema)]
struct DashboardAnswer {
    data: DashboardView,
}

/// What a page of the whole cluster shows.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct DashboardView {
    health: health::HealthView,
    instances: Vec<InstanceView>,
    coordination: CoordinationView,
    requests: views::Requests,
    servers: super::handlers::Servers,
    /// Requests that wait for a slot, here.
    queue: usize,
    caches: Vec<views::CacheFigures>,
}

async fn dashboard(Extract(state): Shared) -> Done<DashboardAnswer> {
    let picture = Picture::of(&state);
    Done(DashboardAnswer {
        data: DashboardView {
            health: health::view(&state, &picture),
            instances: views::instances(&state),
            coordination: views::coordination(&state),
            requests: views::requests(&state),
            servers: picture.servers,
            queue: picture.waiting,
            caches: views::caches(&state),
        },
    })
}

/// How fast it is.
#[derive(Serialize, JsonSchema)]
struct PerformanceAnswer {
    data: PerformanceView,
}

/// What this instance does, and what Redis does for it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct PerformanceView {
    requests: views::Requests,
    caches: Vec<views::CacheFigures>,
    /// Null without a cluster.
    redis: Option<RedisFigures>,
}

/// What Redis does for this instance.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RedisFigures {
    /// Calls by how they ended, since the start.
    calls: std::collections::BTreeMap<&'static str, u64>,
    /// Milliseconds that a comparison of everything took just now; null while Redis cannot be used.
    comparison_ms: Option<f64>,
    /// Decisions there, lifted ones among them.
    decisions: usize,
}

async fn performance(Extract(state): Shared) -> Done<PerformanceAnswer> {
    let redis = compare(&state).await.map(|found| RedisFigures {
        calls: CLUSTER_RESULTS.into_iter().map(|result| (result, state.metrics.cluster.calls_that(result))).collect(),
        comparison_ms: found.fault.is_none().then(|| milliseconds(found.took)),
        decisions: found.decisions,
    });
    let (requests, caches) = (views::requests(&state), views::caches(&state));
    Done(PerformanceAnswer { data: PerformanceView { requests, caches, redis } })
}
