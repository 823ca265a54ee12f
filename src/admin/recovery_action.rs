//! What may make servers well again, and how far that is.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::Json;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::State;
use super::find::{self, Place};
use super::openapi::about;
use super::problem::Problem;
use super::request::Named;
use super::time::{Present, milliseconds};
use crate::fleet::recovery_action::Attempt;

type Shared = Extract<Arc<State>>;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route(
            "/recovery-actions",
            get_with(list, about("listRecoveryActions", "What was tried to make servers well")),
        )
        .api_route(
            "/recovery-actions/{server}",
            get_with(one, about("getRecoveryAction", "What was tried to make a server well")),
        )
        .api_route(
            "/recovery-actions/{server}/reset",
            post_with(reset, about("resetRecoveryAction", "Begin anew with a server that was given up")),
        )
}

/// An attempt that was made.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct AttemptView {
    /// When it began (RFC 3339).
    at: String,
    /// How long the action took.
    duration_ms: f64,
    /// Whether the action itself went well; whether it helped is told by `state`.
    success: bool,
    /// What it said, cut.
    detail: String,
}

/// The recovery action of a server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ActionView {
    /// The server.
    server_id: String,
    /// Its upstream.
    upstream: String,
    /// `exec`, `webhook` or `docker_restart`.
    action: &'static str,
    /// `watching`, `running`, `verifying`, `backing_off` or `given_up`.
    state: &'static str,
    /// When that ends by itself (RFC 3339).
    until: Option<String>,
    /// Failed checks in a row.
    failed_checks: u32,
    /// Failed checks before the first attempt.
    after: u32,
    /// Attempts of this round.
    attempts: u32,
    /// Attempts before it is given up.
    max_attempts: u32,
    /// Why it is not run although it is due.
    #[serde(skip_serializing_if = "Option::is_none")]
    held: Option<&'static str>,
    /// The last attempt.
    #[serde(skip_serializing_if = "Option::is_none")]
    last_attempt: Option<AttemptView>,
}

/// The recovery actions of all servers that have one.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ActionsView {
    /// Always true.
    success: bool,
    /// How many are listed.
    count: usize,
    /// One for each server that has one.
    actions: Vec<ActionView>,
}

/// The recovery action of one server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OneView {
    /// Always true.
    success: bool,
    /// What goes on.
    action: ActionView,
}

fn view(place: &Place, present: Present) -> Option<ActionView> {
    let plan = place.member().action.as_ref()?;
    let known = place.state().acting.with(|known| known.clone());
    let attempt = |last: Attempt| AttemptView {
        at: present.text(last.at),
        duration_ms: milliseconds(last.took),
        success: last.good,
        detail: last.detail,
    };
    Some(ActionView {
        server_id: place.id.clone(),
        upstream: place.upstream.name.clone(),
        action: plan.action.as_str(),
        state: known.action.state().as_str(),
        until: known.action.state().until().map(|until| present.text(until)),
        failed_checks: known.action.failed_checks(),
        after: plan.policy.after,
        attempts: known.action.attempts(),
        max_attempts: plan.policy.max_attempts,
        held: known.held.map(crate::fleet::recovery_action::Held::as_str),
        last_attempt: known.last.map(attempt),
    })
}

async fn list(Extract(state): Shared) -> Json<ActionsView> {
    let present = Present::read();
    let actions: Vec<_> = find::all(&state.store.load()).iter().filter_map(|place| view(place, present)).collect();
    Json(ActionsView { success: true, count: actions.len(), actions })
}

async fn one(Extract(state): Shared, Named(id): Named<String>) -> Result<Json<OneView>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    answer(&place)
}

/// Forgets the attempts: one that was given up begins anew with the next failed checks.
async fn reset(Extract(state): Shared, Named(id): Named<String>) -> Result<Json<OneView>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    let acting = &place.state().acting;
    let forgotten = acting.with(|known| {
        let may = !known.action.is_under_way();
        if may {
            known.action.forget();
        }
        may
    });
    if !forgotten {
        return Err(Problem::conflict(format!("the recovery action of `{}` is under way", place.id)));
    }
    acting.stir();
    tracing::info!(server = place.state().name(), upstream = place.upstream.name, "recovery attempts forgotten");
    answer(&place)
}

fn answer(place: &Place) -> Result<Json<OneView>, Problem> {
    let nothing = || Problem::not_found(format!("the server `{}` has no `recovery` in the configuration", place.id));
    view(place, Present::read()).map(|action| Json(OneView { success: true, action })).ok_or_else(nothing)
}
