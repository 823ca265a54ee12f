//! The servers: what is known of each, and what an operator decides about it.

use std::sync::Arc;
use std::time::Instant;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::find::{self, Place};
use super::openapi::{Done, about};
use super::problem::Problem;
use super::request::{Asked, Named, Wanted, end_of};
use super::time::{Present, milliseconds};
use super::{Kept, State};
use crate::config::types::Kind;
use crate::fleet::operation::{Decision, Operation, Standing};
use crate::units::Duration;

type Shared = Extract<Arc<State>>;
type Settled = Result<Done<SettledView>, Problem>;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/servers", get_with(list, about("listServers", "All servers")))
        .api_route("/servers/{server}", get_with(one, about("getServer", "One server")))
        .api_route("/servers/{server}/drain", post_with(drain, about("drainServer", "Give it no new requests")))
        .api_route(
            "/servers/{server}/undrain",
            post_with(undrain, about("undrainServer", "Give it new requests again")),
        )
        .api_route(
            "/servers/{server}/maintenance",
            post_with(maintenance, about("maintainServer", "Begin or end maintenance")),
        )
}

/// What was decided about a server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OperationView {
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    who: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    until: Option<String>,
}

/// A server as operators see it.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ServerView {
    id: String,
    upstream: String,
    name: String,
    url: String,
    healthy: bool,
    health: &'static str,
    /// Milliseconds that the last liveness check took.
    last_response_time: Option<f64>,
    operation: OperationView,
    in_flight: u32,
    /// Nothing runs on it.
    empty: bool,
    max_concurrency: Option<u32>,
    weight: u32,
    circuit_breaker: &'static str,
    models: Vec<String>,
    loaded: Vec<String>,
    version: Option<String>,
    supports_ollama: bool,
    supports_v1: bool,
    v1_models: Vec<String>,
}

/// All servers.
#[derive(Serialize, JsonSchema)]
struct ServerList {
    count: usize,
    servers: Vec<ServerView>,
}

/// One server.
#[derive(Serialize, JsonSchema)]
struct OneServer {
    server: ServerView,
}

/// How a server is after an order.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct SettledView {
    message: String,
    server_id: String,
    operation: OperationView,
    in_flight_requests: u32,
    /// Nothing runs on it.
    empty: bool,
    #[serde(flatten)]
    kept: Kept,
}

fn operation(operation: &Operation, present: Present) -> OperationView {
    let decision = operation.decision();
    OperationView {
        state: operation.standing().as_str(),
        reason: decision.map(|decision| decision.reason.clone()),
        who: decision.map(|decision| decision.who.clone()),
        since: decision.map(|decision| present.text(decision.since)),
        until: operation.until().map(|until| present.text(until)),
    }
}

fn view(place: &Place, present: Present) -> ServerView {
    let (member, state) = (place.member(), place.state());
    let inventory = state.inventory();
    let in_flight = state.in_flight();
    ServerView {
        id: place.id.clone(),
        upstream: place.upstream.name.clone(),
        name: state.name().to_owned(),
        url: state.identity.url.clone(),
        healthy: state.is_up(),
        health: state.health().as_str(),
        last_response_time: state.response_time().map(milliseconds),
        operation: operation(&state.operation(present.now), present),
        in_flight,
        empty: in_flight == 0,
        max_concurrency: Some(member.max_in_flight).filter(|limit| *limit != u32::MAX),
        weight: member.weight,
        circuit_breaker: state.circuit_state(present.now).as_str(),
        models: inventory.available.iter().flatten().map(|row| row.name.to_string()).collect(),
        loaded: inventory.loaded.iter().map(|row| row.name.to_string()).collect(),
        version: inventory.version.clone(),
        supports_ollama: place.upstream.kind == Kind::Ollama,
        supports_v1: place.upstream.kind == Kind::Openai || !inventory.openai.is_empty(),
        v1_models: inventory.openai.iter().map(|row| row.id.clone()).collect(),
    }
}

/// All servers.
async fn list(Extract(state): Shared) -> Done<ServerList> {
    let present = Present::read();
    let servers: Vec<_> = find::all(&state.store.load()).iter().map(|place| view(place, present)).collect();
    Done(ServerList { count: servers.len(), servers })
}

/// One server; for whoever waits until it is empty.
async fn one(Extract(state): Shared, Named(id): Named<String>) -> Result<Done<OneServer>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    Ok(Done(OneServer { server: view(&place, Present::read()) }))
}

/// How long the answer may wait until the server is empty.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Patience {
    /// Answer when the server is empty, or after this time.
    wait: Option<Duration>,
}

/// Why and who, in the operator's words.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Words {
    /// Why; 200 characters are kept.
    reason: Option<String>,
    /// Who decided it.
    who: Option<String>,
}

impl Words {
    fn decision(self, since: Instant) -> Decision {
        // They stand in log lines and lists.
        let short = |text: Option<String>| text.unwrap_or_default().chars().take(200).collect::<String>();
        let who = Some(self.who.unwrap_or_else(|| "admin".to_owned()));
        Decision { reason: short(self.reason), who: short(who), since }
    }
}

/// No new requests; those that run finish. A server that takes none already stays as it is.
async fn drain(
    Extract(state): Shared,
    Named(id): Named<String>,
    Asked(patience): Asked<Patience>,
    Wanted(words): Wanted<Words>,
) -> Settled {
    let place = find::one(&state.store.load(), &id)?;
    let now = Present::read().now;
    let standing = place.state().standing(now);
    if standing == Standing::Active {
        decide(&place, Operation::Draining(words.decision(now)), now);
        return settled(&state, &place, patience, format!("Server {id} is now draining")).await;
    }
    settled(&state, &place, patience, format!("Server {id} takes no new requests already: {}", standing.as_str())).await
}

/// New requests again.
async fn undrain(Extract(state): Shared, Named(id): Named<String>, Wanted(words): Wanted<Words>) -> Settled {
    let place = find::one(&state.store.load(), &id)?;
    activate(&state, &place, words).await
}

async fn activate(state: &Arc<State>, place: &Place, words: Words) -> Settled {
    let now = Present::read().now;
    let decision = words.decision(now);
    let before = place.state().operate(Operation::Active, now);
    if before == Operation::Active {
        return settled(state, place, Patience::default(), format!("Server {} was active already", place.id)).await;
    }
    log(place, before.standing(), Standing::Active, &decision);
    place.upstream.dispatcher.appeared(place.state());
    settled(state, place, Patience::default(), format!("Server {} takes new requests again", place.id)).await
}

/// Whether maintenance begins, how long it may last, why and who.
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Maintenance {
    /// `false` ends it.
    enabled: Option<bool>,
    /// How long; until further notice by default.
    r#for: Option<Duration>,
    /// Why; 200 characters are kept.
    reason: Option<String>,
    /// Who decided it.
    who: Option<String>,
}

/// No new requests until further notice, or for some time.
async fn maintenance(
    Extract(state): Shared,
    Named(id): Named<String>,
    Asked(patience): Asked<Patience>,
    Wanted(wanted): Wanted<Maintenance>,
) -> Settled {
    let place = find::one(&state.store.load(), &id)?;
    let words = Words { reason: wanted.reason, who: wanted.who };
    if wanted.enabled == Some(false) {
        return activate(&state, &place, words).await;
    }
    let now = Present::read().now;
    let until = wanted.r#for.map(|time| end_of(time.0, now)).transpose()?;
    decide(&place, Operation::Maintenance(words.decision(now), until), now);
    settled(&state, &place, patience, format!("Server {id} is in maintenance")).await
}

fn decide(place: &Place, next: Operation, now: Instant) {
    let decision = next.decision().cloned();
    let to = next.standing();
    let before = place.state().operate(next, now);
    if let Some(decision) = decision {
        log(place, before.standing(), to, &decision);
    }
}

fn log(place: &Place, from: Standing, to: Standing, decision: &Decision) {
    tracing::info!(
        server = place.state().name(),
        upstream = place.upstream.name,
        from = from.as_str(),
        to = to.as_str(),
        reason = decision.reason,
        who = decision.who,
        in_flight = place.state().in_flight(),
        "operation changed"
    );
}

/// Keeps the decision, waits, if that was asked for, until the server is empty or everything ends; tells how it is then.
async fn settled(state: &Arc<State>, place: &Place, patience: Patience, message: String) -> Settled {
    let kept = state.keep().await;
    if let Some(limit) = patience.wait {
        let mut closing = state.closing.clone();
        tokio::select! {
            () = place.state().until_empty() => {}
            () = tokio::time::sleep(limit.0) => {}
            // Another process answers from here on; it knows nothing of this wait.
            _ = closing.wait_for(|closing| *closing) => {}
        }
    }
    let present = Present::read();
    let in_flight = place.state().in_flight();
    Ok(Done(SettledView {
        message,
        server_id: place.id.clone(),
        operation: operation(&place.state().operation(present.now), present),
        in_flight_requests: in_flight,
        empty: in_flight == 0,
        kept,
    }))
}
