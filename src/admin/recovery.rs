//! The tests of servers that are ill: what came of them, what they add up to, and another one now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::State;
use super::find::{self, Place};
use super::problem::Problem;
use super::request::{Asked, Named};
use super::time::{Present, milliseconds};
use crate::ollama::name::canonical;
use crate::policy::recovery::{Class, Recovery, Test, WINDOW};

type Shared = Extract<Arc<State>>;
type Answer = Result<Json<serde_json::Value>, Problem>;

/// How long an ordered test may take beyond the time of the model: the other steps, and another test before it.
const MARGIN: Duration = Duration::from_mins(1);

/// The paths of this topic.
pub fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/recovery-failures", get(summary))
        .route("/recovery-failures/stats/all", get(all))
        .route("/recovery-failures/recent", get(recent))
        .route("/recovery-failures/{server}", get(one))
        .route("/recovery-failures/{server}/history", get(history))
        .route("/recovery-failures/{server}/analysis", get(analysis))
        .route("/recovery-failures/{server}/circuit-breaker-impact", get(impact))
        .route("/recovery-failures/{server}/reset", post(reset))
        .route("/servers/{server}/recovery-test", post(test_server))
        .route("/servers/{server}/models/{model}/recovery-test", post(test_model))
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct FailureView {
    step: &'static str,
    class: &'static str,
    detail: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct TestView {
    server_id: String,
    timestamp: String,
    duration_ms: f64,
    trigger: &'static str,
    success: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    model: Option<String>,
    /// Why no model was asked for a token.
    #[serde(skip_serializing_if = "Option::is_none")]
    left_out: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    failure: Option<FailureView>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct ServerView {
    server_id: String,
    ill: bool,
    ill_since: Option<String>,
    next_test_at: Option<String>,
    total_tests: u64,
    total_failures: u64,
    total_successes: u64,
    consecutive_failures: u32,
    failures_by_class: BTreeMap<&'static str, u64>,
    pattern: &'static str,
    last_test: Option<TestView>,
}

fn test_view(id: &str, test: &Test, present: Present) -> TestView {
    TestView {
        server_id: id.to_owned(),
        timestamp: present.text(test.at),
        duration_ms: milliseconds(test.took),
        trigger: if test.ordered { "operator" } else { "schedule" },
        success: test.failure.is_none(),
        model: test.model.clone(),
        left_out: test.left_out,
        failure: test.failure.as_ref().map(|failure| FailureView {
            step: failure.step.as_str(),
            class: failure.class.as_str(),
            detail: failure.detail.clone(),
        }),
    }
}

fn view(place: &Place, recovery: &Recovery, present: Present) -> ServerView {
    let by_class: BTreeMap<_, _> = Class::ALL
        .iter()
        .map(|class| (class.as_str(), recovery.failures(*class)))
        .filter(|(_, count)| *count > 0)
        .collect();
    let failures = by_class.values().sum();
    ServerView {
        server_id: place.id.clone(),
        ill: recovery.ill_since().is_some(),
        ill_since: recovery.ill_since().map(|since| present.text(since)),
        next_test_at: recovery.due().map(|due| present.text(due)),
        total_tests: recovery.tests(),
        total_failures: failures,
        total_successes: recovery.tests() - failures,
        consecutive_failures: recovery.failures_in_a_row(),
        failures_by_class: by_class,
        pattern: recovery.analysis(present.now).pattern.as_str(),
        last_test: recovery.history().next_back().map(|test| test_view(&place.id, test, present)),
    }
}

fn views(state: &State) -> Vec<ServerView> {
    let present = Present::read();
    let places = find::all(&state.store.load());
    places.iter().map(|place| place.state().recovery.with(|recovery| view(place, recovery, present))).collect()
}

/// The servers that are ill or whose tests have failed, and what the tests of all add up to.
async fn summary(Extract(state): Shared) -> Json<serde_json::Value> {
    let mut servers = views(&state);
    let tests: u64 = servers.iter().map(|server| server.total_tests).sum();
    let failures: u64 = servers.iter().map(|server| server.total_failures).sum();
    let ill = servers.iter().filter(|server| server.ill).count();
    servers.retain(|server| server.ill || server.total_failures > 0);
    Json(json!({
        "success": true,
        "totalTests": tests,
        "totalFailures": failures,
        "illServers": ill,
        "count": servers.len(),
        "servers": servers,
    }))
}

async fn all(Extract(state): Shared) -> Json<serde_json::Value> {
    let servers = views(&state);
    Json(json!({ "success": true, "count": servers.len(), "servers": servers }))
}

/// The last failed tests of all servers, the youngest first.
async fn recent(Extract(state): Shared, Asked(window): Asked<Window>) -> Json<serde_json::Value> {
    let present = Present::read();
    let mut failed: Vec<(String, Test)> = Vec::new();
    for place in find::all(&state.store.load()) {
        place.state().recovery.with(|recovery| {
            let tests = recovery.history().filter(|test| test.failure.is_some());
            failed.extend(tests.map(|test| (place.id.clone(), test.clone())));
        });
    }
    failed.sort_by_key(|(_, test)| std::cmp::Reverse(test.at));
    let records = window.of(failed.iter().map(|(id, test)| test_view(id, test, present)));
    Json(json!({ "success": true, "count": records.len(), "records": records }))
}

async fn one(Extract(state): Shared, Named(id): Named<String>) -> Answer {
    let place = find::one(&state.store.load(), &id)?;
    let view = place.state().recovery.with(|recovery| view(&place, recovery, Present::read()));
    Ok(Json(json!({ "success": true, "server": view })))
}

/// Which part of a long list is wanted.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Window {
    limit: usize,
    offset: usize,
}

impl Default for Window {
    fn default() -> Self {
        Self { limit: 100, offset: 0 }
    }
}

impl Window {
    fn of<T>(&self, rows: impl Iterator<Item = T>) -> Vec<T> {
        rows.skip(self.offset).take(self.limit).collect()
    }
}

/// The tests of a server, the youngest first.
async fn history(Extract(state): Shared, Named(id): Named<String>, Asked(window): Asked<Window>) -> Answer {
    let place = find::one(&state.store.load(), &id)?;
    let present = Present::read();
    let history = place
        .state()
        .recovery
        .with(|recovery| window.of(recovery.history().rev().map(|test| test_view(&place.id, test, present))));
    Ok(Json(json!({
        "success": true,
        "serverId": place.id,
        "count": history.len(),
        "limit": window.limit,
        "offset": window.offset,
        "history": history,
    })))
}

/// What the tests of a server add up to, and what to do about it.
async fn analysis(Extract(state): Shared, Named(id): Named<String>) -> Answer {
    let place = find::one(&state.store.load(), &id)?;
    let now = Present::read().now;
    let analysis = place.state().recovery.with(|recovery| recovery.analysis(now));
    Ok(Json(json!({
        "success": true,
        "serverId": place.id,
        "pattern": analysis.pattern.as_str(),
        "basis": analysis.basis,
        "changes": analysis.changes,
        "windowMs": WINDOW.as_millis(),
    })))
}

/// What the circuit of a server and its tests have to do with each other.
async fn impact(Extract(state): Shared, Named(id): Named<String>) -> Answer {
    let place = find::one(&state.store.load(), &id)?;
    let present = Present::read();
    let server = place.state();
    let (tokens, due) = server.recovery.with(|recovery| {
        let tokens = recovery.history().filter(|test| test.failure.is_none() && test.model.is_some()).count();
        (tokens, recovery.due())
    });
    Ok(Json(json!({
        "success": true,
        "serverId": place.id,
        "circuitBreaker": server.circuit_state(present.now).as_str(),
        "forced": server.circuit_is_held(present.now),
        "healthy": server.is_up(),
        "takesRequests": server.exclusion(None, present.now).is_none(),
        "testsThatGaveAToken": tokens,
        "nextTestAt": due.map(|due| present.text(due)),
    })))
}

async fn reset(Extract(state): Shared, Named(id): Named<String>) -> Answer {
    let place = find::one(&state.store.load(), &id)?;
    place.state().recovery.with(Recovery::reset);
    tracing::info!(server = place.state().name(), upstream = place.upstream.name, "recovery tests forgotten");
    Ok(Json(json!({ "success": true, "message": format!("Recovery failure stats reset for server {}", place.id) })))
}

async fn test_server(Extract(state): Shared, Named(id): Named<String>) -> Answer {
    test(&state, &id, None).await
}

async fn test_model(Extract(state): Shared, Named((id, model)): Named<(String, String)>) -> Answer {
    test(&state, &id, Some(canonical(&model).into_owned())).await
}

/// Orders a test and waits for its outcome.
async fn test(state: &State, id: &str, model: Option<String>) -> Answer {
    let place = find::one(&state.store.load(), id)?;
    let outcome = place.state().recovery.order(model);
    let id = place.id.clone();
    let limit = place.upstream.recovery.timeout.saturating_mul(2).saturating_add(MARGIN);
    // The server must not be kept by us: when it is gone nobody makes the test.
    drop(place);
    let view = match tokio::time::timeout(limit, outcome).await {
        Ok(Ok(test)) => test_view(&id, &test, Present::read()),
        Ok(Err(_)) => return Err(Problem::conflict(format!("the server `{id}` was removed meanwhile"))),
        Err(_) => return Err(Problem::new(StatusCode::GATEWAY_TIMEOUT, "another test of the server takes too long")),
    };
    Ok(Json(json!({ "success": true, "serverId": id, "test": view })))
}
