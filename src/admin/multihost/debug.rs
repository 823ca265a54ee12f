//! For those who develop against an instance; only where `admin.debug` allows it.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::{Shared, compare, views};
use crate::admin::State;
use crate::admin::openapi::{Done, about};
use crate::admin::problem::Problem;
use crate::clock;
use crate::version;

pub(super) fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/debug/instance-info", get_with(info, about("getInstanceInfo", "What the process is")))
        .api_route(
            "/debug/refresh-cache",
            post_with(refresh, about("refreshCaches", "Look at everything anew that is known of others")),
        )
}

fn allowed(state: &State) -> Result<(), Problem> {
    if state.store.load().admin.allows_debug() {
        return Ok(());
    }
    Err(Problem::not_found("this is not served: set `admin: { debug: allow }` to have it"))
}

/// What the process is.
#[derive(Serialize, JsonSchema)]
struct InfoAnswer {
    data: InfoView,
}

/// A process and what it runs on.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct InfoView {
    instance: views::InstanceView,
    coordination: views::CoordinationView,
    /// Number of the process.
    pid: u32,
    /// The host, as it calls itself.
    host: String,
    /// Its kernel.
    kernel: String,
    /// The commit that the program was built from; null where that is not known.
    revision: Option<&'static str>,
    /// Processors that it may use.
    cpus: usize,
    /// Bytes of memory that it has for itself.
    resident_bytes: Option<u64>,
    /// Seconds since it started.
    uptime_seconds: u64,
}

async fn info(Extract(state): Shared) -> Result<Done<InfoAnswer>, Problem> {
    allowed(&state)?;
    let sample = state.store.process.sample();
    let system = rustix::system::uname();
    let instance = views::instances(&state).into_iter().find(|one| one.current);
    let data = InfoView {
        instance: instance.ok_or_else(|| Problem::internal("this instance does not know itself yet"))?,
        coordination: views::coordination(&state),
        pid: std::process::id(),
        host: system.nodename().to_string_lossy().into_owned(),
        kernel: system.release().to_string_lossy().into_owned(),
        revision: version::REVISION,
        cpus: sample.cpus,
        resident_bytes: sample.resident,
        uptime_seconds: (clock::now() - state.started).as_secs(),
    };
    Ok(Done(InfoAnswer { data }))
}

/// What is looked at anew.
#[derive(Serialize, JsonSchema)]
struct RefreshView {
    message: String,
    /// Servers whose models are looked at.
    servers: usize,
    /// Decisions were compared with Redis.
    compared: bool,
}

async fn refresh(Extract(state): Shared) -> Result<Done<RefreshView>, Problem> {
    allowed(&state)?;
    let mut servers = 0;
    for member in state.store.load().upstreams.iter().flat_map(|upstream| &upstream.servers) {
        member.state.want_inventory();
        servers += 1;
    }
    let compared = compare(&state).await.is_some_and(|found| found.fault.is_none());
    Ok(Done(RefreshView { message: "What is known of others is looked at anew".to_owned(), servers, compared }))
}
