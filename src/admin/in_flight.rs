//! The requests that run now: how many, where, and how far they are. Nothing of what they say.

use std::collections::BTreeMap;
use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::State;
use super::find::{self, Place};
use super::openapi::{Done, about};
use super::time::Present;
use crate::fleet::running::Phase;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new().api_route("/in-flight", get_with(list, about("listInFlight", "The requests that run now")))
}

/// Requests for one model; none passes a circuit by, so `bypass` is always 0.
#[derive(Default, Serialize, JsonSchema)]
struct Count {
    regular: u32,
    bypass: u32,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RunningRequest")]
struct RequestView {
    id: Option<String>,
    model: Option<String>,
    start_time: String,
    age_seconds: f64,
    phase: &'static str,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ServerInFlight")]
struct ServerView {
    server_id: String,
    server_url: String,
    healthy: bool,
    operation: &'static str,
    total: usize,
    by_model: BTreeMap<String, Count>,
    /// All of them, the oldest first.
    requests: Vec<RequestView>,
}

/// What stands for the model of a request that has none.
const NO_MODEL: &str = "-";

/// All requests that run.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct InFlight {
    /// How many.
    total: usize,
    /// How many of them get their answer.
    answering: usize,
    /// By server.
    in_flight: Vec<ServerView>,
}

async fn list(Extract(state): Extract<Arc<State>>) -> Done<InFlight> {
    let present = Present::read();
    let servers: Vec<_> = find::all(&state.store.load()).iter().map(|place| view(place, present)).collect();
    let total: usize = servers.iter().map(|server| server.total).sum();
    let answering = servers.iter().flat_map(|server| &server.requests);
    let answering = answering.filter(|request| request.phase == Phase::Answering.as_str()).count();
    Done(InFlight { total, answering, in_flight: servers })
}

fn view(place: &Place, present: Present) -> ServerView {
    let state = place.state();
    let mut requests = state.requests.requests();
    requests.sort_by_key(|request| request.since);
    let mut by_model: BTreeMap<String, Count> = BTreeMap::new();
    for request in &requests {
        by_model.entry(request.model.clone().unwrap_or_else(|| NO_MODEL.to_owned())).or_default().regular += 1;
    }
    ServerView {
        server_id: place.id.clone(),
        server_url: state.identity.url.clone(),
        healthy: state.is_up(),
        operation: state.standing(present.now).as_str(),
        total: requests.len(),
        by_model,
        requests: requests
            .iter()
            .map(|request| RequestView {
                id: request.id.as_ref().map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned()),
                model: request.model.clone(),
                start_time: present.text(request.since),
                age_seconds: present.now.saturating_duration_since(request.since).as_secs_f64(),
                phase: request.phase().as_str(),
            })
            .collect(),
    }
}
