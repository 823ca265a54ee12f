//! The tests of servers that are ill: what came of them, what they add up to, and another one now.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State as Extract;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::State;
use super::find::{self, Place};
use super::openapi::{Done, about};
use super::problem::Problem;
use super::request::{Asked, Named};
use super::time::{Present, milliseconds};
use crate::ollama::name::canonical;
use crate::policy::recovery::{Class, Recovery, Test, WINDOW};

type Shared = Extract<Arc<State>>;
type Tested = Result<Done<TestOutcome>, Problem>;

/// How long an ordered test may take beyond the time of the model: the other steps, and another test before it.
const MARGIN: Duration = Duration::from_mins(1);

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route(
            "/recovery-failures",
            get_with(summary, about("getRecoveryFailures", "Servers that are ill, and why")),
        )
        .api_route(
            "/recovery-failures/stats/all",
            get_with(all, about("listRecoveryStats", "The tests of all servers")),
        )
        .api_route("/recovery-failures/recent", get_with(recent, about("listRecentFailures", "The last failed tests")))
        .api_route("/recovery-failures/{server}", get_with(one, about("getRecoveryStats", "The tests of a server")))
        .api_route(
            "/recovery-failures/{server}/history",
            get_with(history, about("getRecoveryHistory", "Each test of a server")),
        )
        .api_route(
            "/recovery-failures/{server}/analysis",
            get_with(analysis, about("analyseRecovery", "What the tests of a server add up to")),
        )
        .api_route(
            "/recovery-failures/{server}/circuit-breaker-impact",
            get_with(impact, about("getRecoveryImpact", "What its circuit and its tests have to do with each other")),
        )
        .api_route(
            "/recovery-failures/{server}/reset",
            post_with(reset, about("resetRecovery", "Forget the tests of a server")),
        )
        .api_route("/servers/{server}/recovery-test", post_with(test_server, about("testServer", "Test a server now")))
        .api_route(
            "/servers/{server}/models/{model}/recovery-test",
            post_with(test_model, about("testModel", "Test a model on a server now")),
        )
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "TestFailure")]
struct FailureView {
    step: &'static str,
    class: &'static str,
    detail: String,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecoveryTest")]
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

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "RecoveryStats")]
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

/// What the tests of all servers add up to.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RecoverySummary {
    total_tests: u64,
    total_failures: u64,
    ill_servers: usize,
    count: usize,
    /// Those that are ill or whose tests have failed.
    servers: Vec<ServerView>,
}

/// The tests of all servers.
#[derive(Serialize, JsonSchema)]
struct RecoveryList {
    count: usize,
    servers: Vec<ServerView>,
}

/// Failed tests.
#[derive(Serialize, JsonSchema)]
struct RecentFailures {
    count: usize,
    records: Vec<TestView>,
}

/// The tests of one server.
#[derive(Serialize, JsonSchema)]
struct OneRecovery {
    server: ServerView,
}

/// Each test of a server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RecoveryHistory {
    server_id: String,
    count: usize,
    limit: usize,
    offset: usize,
    history: Vec<TestView>,
}

/// What the tests of a server add up to.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RecoveryAnalysis {
    server_id: String,
    /// `stable`, `degrading`, `flapping` or `persistent`.
    pattern: &'static str,
    /// What that is concluded from.
    basis: String,
    /// How often it fell ill or got well.
    changes: usize,
    window_ms: u64,
}

/// What the circuit of a server and its tests have to do with each other.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct RecoveryImpact {
    server_id: String,
    circuit_breaker: &'static str,
    /// An operator holds it open.
    forced: bool,
    healthy: bool,
    takes_requests: bool,
    tests_that_gave_a_token: usize,
    next_test_at: Option<String>,
}

/// What was done.
#[derive(Serialize, JsonSchema)]
#[schemars(rename = "RecoveryMessage")]
struct Message {
    message: String,
}

/// The outcome of a test.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct TestOutcome {
    server_id: String,
    test: TestView,
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
async fn summary(Extract(state): Shared) -> Done<RecoverySummary> {
    let mut servers = views(&state);
    let tests: u64 = servers.iter().map(|server| server.total_tests).sum();
    let failures: u64 = servers.iter().map(|server| server.total_failures).sum();
    let ill = servers.iter().filter(|server| server.ill).count();
    servers.retain(|server| server.ill || server.total_failures > 0);
    let count = servers.len();
    Done(RecoverySummary { total_tests: tests, total_failures: failures, ill_servers: ill, count, servers })
}

async fn all(Extract(state): Shared) -> Done<RecoveryList> {
    let servers = views(&state);
    Done(RecoveryList { count: servers.len(), servers })
}

/// The last failed tests of all servers, the youngest first.
async fn recent(Extract(state): Shared, Asked(window): Asked<Window>) -> Done<RecentFailures> {
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
    Done(RecentFailures { count: records.len(), records })
}

async fn one(Extract(state): Shared, Named(id): Named<String>) -> Result<Done<OneRecovery>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    let view = place.state().recovery.with(|recovery| view(&place, recovery, Present::read()));
    Ok(Done(OneRecovery { server: view }))
}

/// Which part of a long list is wanted.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "RecoveryWindow")]
struct Window {
    /// Most tests, 100 by default.
    limit: usize,
    /// How many are left out before them.
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
async fn history(
    Extract(state): Shared,
    Named(id): Named<String>,
    Asked(window): Asked<Window>,
) -> Result<Done<RecoveryHistory>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    let present = Present::read();
    let history = place
        .state()
        .recovery
        .with(|recovery| window.of(recovery.history().rev().map(|test| test_view(&place.id, test, present))));
    let Window { limit, offset } = window;
    Ok(Done(RecoveryHistory { server_id: place.id, count: history.len(), limit, offset, history }))
}

/// What the tests of a server add up to, and what to do about it.
async fn analysis(Extract(state): Shared, Named(id): Named<String>) -> Result<Done<RecoveryAnalysis>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    let now = Present::read().now;
    let analysis = place.state().recovery.with(|recovery| recovery.analysis(now));
    Ok(Done(RecoveryAnalysis {
        server_id: place.id,
        pattern: analysis.pattern.as_str(),
        basis: analysis.basis,
        changes: analysis.changes,
        window_ms: u64::try_from(WINDOW.as_millis()).unwrap_or(u64::MAX),
    }))
}

/// What the circuit of a server and its tests have to do with each other.
async fn impact(Extract(state): Shared, Named(id): Named<String>) -> Result<Done<RecoveryImpact>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    let present = Present::read();
    let server = place.state();
    let (tokens, due) = server.recovery.with(|recovery| {
        let tokens = recovery.history().filter(|test| test.failure.is_none() && test.model.is_some()).count();
        (tokens, recovery.due())
    });
    Ok(Done(RecoveryImpact {
        server_id: place.id.clone(),
        circuit_breaker: server.circuit_state(present.now).as_str(),
        forced: server.circuit_is_held(present.now),
        healthy: server.is_up(),
        takes_requests: server.exclusion(None, present.now).is_none(),
        tests_that_gave_a_token: tokens,
        next_test_at: due.map(|due| present.text(due)),
    }))
}

async fn reset(Extract(state): Shared, Named(id): Named<String>) -> Result<Done<Message>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    place.state().recovery.with(Recovery::reset);
    tracing::info!(server = place.state().name(), upstream = place.upstream.name, "recovery tests forgotten");
    Ok(Done(Message { message: format!("Recovery failure stats reset for server {}", place.id) }))
}

async fn test_server(Extract(state): Shared, Named(id): Named<String>) -> Tested {
    test(&state, &id, None).await
}

async fn test_model(Extract(state): Shared, Named((id, model)): Named<(String, String)>) -> Tested {
    test(&state, &id, Some(canonical(&model).into_owned())).await
}

/// Orders a test and waits for its outcome.
async fn test(state: &State, id: &str, model: Option<String>) -> Tested {
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
    Ok(Done(TestOutcome { server_id: id, test: view }))
}
