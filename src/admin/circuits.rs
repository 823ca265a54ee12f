//! Circuits: what state each is in, and what an operator orders.
//!
//! Paths name a server, or a server and a model. In the place of a model, `server` means the circuit of the server
//! itself, as in `circuit-breakers/a100-1/server/open`.

use std::sync::Arc;

use axum::extract::State as Extract;
use axum::http::StatusCode;
use axum::routing::{get, post};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::State as Admin;
use super::find::{self, Place};
use super::problem::Problem;
use super::request::{Named, Wanted, end_of};
use super::time::Present;
use crate::fleet::circuits::{self, CircuitOrder};
use crate::ollama::name::canonical;
use crate::policy::circuit::State;
use crate::units::Duration;

type Shared = Extract<Arc<Admin>>;
type Answer = Result<Json<serde_json::Value>, Problem>;

/// Stands for the circuit of a server where a path has a model.
const SERVER: &str = "server";

/// The paths of this topic.
pub fn routes() -> Router<Arc<Admin>> {
    Router::new()
        .route("/circuit-breakers", get(list))
        .route("/circuit-breakers/{server}", get(of_server))
        .route("/circuit-breakers/{server}/{model}", get(one).post(order_server))
        .route("/circuit-breakers/{server}/{model}/{verb}", post(order_model))
}

/// What is known of one circuit.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Stats {
    state: &'static str,
    /// Failures in a row, as far as they count towards opening it.
    failure_count: u32,
    /// When it becomes half open by itself.
    next_retry_at: Option<String>,
    /// An operator holds it open.
    forced: bool,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct CircuitView {
    key: String,
    server_id: String,
    model: String,
    #[serde(flatten)]
    stats: Stats,
}

fn stats(place: &Place, circuit: &circuits::CircuitView, present: Present) -> Stats {
    let until = if let State::Open { until } = circuit.state { Some(present.text(until)) } else { None };
    Stats {
        state: circuit.state.as_str(),
        failure_count: circuit.failures,
        next_retry_at: until,
        forced: circuit.model.is_none() && place.state().circuit_is_held(present.now),
    }
}

fn view(place: &Place, circuit: &circuits::CircuitView, present: Present) -> CircuitView {
    let id = &place.id;
    CircuitView {
        key: circuit.model.as_ref().map_or_else(|| id.clone(), |model| format!("{id}:{model}")),
        server_id: id.clone(),
        model: circuit.model.clone().unwrap_or_else(|| "server-level".to_owned()),
        stats: stats(place, circuit, present),
    }
}

/// All circuits there are.
async fn list(Extract(state): Shared) -> Json<serde_json::Value> {
    let present = Present::read();
    let places = find::all(&state.store.load());
    let circuits: Vec<_> = places
        .iter()
        .flat_map(|place| {
            place.state().circuit_views(present.now).into_iter().map(move |one| view(place, &one, present))
        })
        .collect();
    Json(json!({ "success": true, "count": circuits.len(), "circuitBreakers": circuits }))
}

/// The circuit of a server, and those of its models.
async fn of_server(Extract(state): Shared, Named(id): Named<String>) -> Answer {
    let place = find::one(&state.store.load(), &id)?;
    let present = Present::read();
    let (mut own, mut models) = (None, Vec::new());
    for circuit in place.state().circuit_views(present.now) {
        match circuit.model {
            None => own = Some(stats(&place, &circuit, present)),
            Some(_) => models.push(view(&place, &circuit, present)),
        }
    }
    Ok(Json(json!({ "success": true, "serverId": place.id, "stats": own, "models": models })))
}

/// The circuit of a model on a server.
async fn one(Extract(state): Shared, Named((id, model)): Named<(String, String)>) -> Answer {
    let place = find::one(&state.store.load(), &id)?;
    let present = Present::read();
    let model = wanted_model(&model);
    let found = place.state().circuit_views(present.now).into_iter().find(|circuit| circuit.model == model);
    // The circuit of a model is made when it first fails; until then it is closed.
    let is_there = || model.as_deref().is_some_and(|model| place.state().inventory().has(model));
    let found = found.or_else(|| is_there().then(|| circuits::CircuitView::closed(model.clone())));
    let view = found.map(|circuit| view(&place, &circuit, present)).ok_or_else(|| {
        let model = model.as_deref().unwrap_or(SERVER);
        Problem::not_found(format!("the server `{}` has no model `{model}`, and no circuit for it", place.id))
    })?;
    Ok(Json(json!({
        "success": true, "key": view.key, "serverId": view.server_id, "model": view.model, "stats": view.stats,
    })))
}

fn wanted_model(text: &str) -> Option<String> {
    (text != SERVER).then(|| canonical(text).into_owned())
}

/// What a circuit is. One that is not kept is closed.
fn state_of(place: &Place, model: Option<&str>, present: Present) -> State {
    let circuits = place.state().circuit_views(present.now);
    circuits
        .into_iter()
        .find(|circuit| circuit.model.as_deref() == model)
        .map_or(State::Closed, |circuit| circuit.state)
}

/// How long, why and who.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct Words {
    /// How long it stays open; the upstream's `circuit.max_open_for` by default.
    r#for: Option<Duration>,
    reason: Option<String>,
    who: Option<String>,
}

async fn order_server(
    Extract(state): Shared,
    Named((id, verb)): Named<(String, String)>,
    Wanted(words): Wanted<Words>,
) -> Answer {
    order(&state, &id, None, &verb, &words).await
}

async fn order_model(
    Extract(state): Shared,
    Named((id, model, verb)): Named<(String, String, String)>,
    Wanted(words): Wanted<Words>,
) -> Answer {
    order(&state, &id, wanted_model(&model), &verb, &words).await
}

async fn order(state: &Arc<Admin>, id: &str, model: Option<String>, verb: &str, words: &Words) -> Answer {
    let place = find::one(&state.store.load(), id)?;
    let present = Present::read();
    let now = present.now;
    let order = match verb {
        "open" => {
            let time = words.r#for.map_or(place.upstream.circuit.max_open_for, |time| time.0);
            let until = end_of(time, now)?;
            CircuitOrder::Open { until }
        }
        "close" => CircuitOrder::Close,
        "half-open" => CircuitOrder::HalfOpen,
        "reset" => CircuitOrder::Reset,
        _ => return Err(Problem::not_found(format!("`{verb}` is no order: use open, close, half-open or reset"))),
    };
    if words.r#for.is_some() && verb != "open" {
        return Err(Problem::new(StatusCode::BAD_REQUEST, "`for` is only about `open`"));
    }
    let before = state_of(&place, model.as_deref(), present);
    place.state().force_circuit(order, model.as_deref(), now);
    let after = state_of(&place, model.as_deref(), present);
    if after == State::Closed && matches!(order, CircuitOrder::Open { .. } | CircuitOrder::HalfOpen) {
        return Err(Problem::conflict(format!("no circuit can be kept for this model on the server `{}`", place.id)));
    }
    tracing::info!(
        server = place.state().name(),
        upstream = place.upstream.name,
        model,
        order = verb,
        from = before.as_str(),
        to = after.as_str(),
        reason = words.reason,
        who = words.who,
        "circuit ordered"
    );
    let kept = state.keep().await;
    Ok(Json(json!({
        "success": true,
        "kept": kept.kept,
        "warning": kept.warning,
        "message": format!("Circuit breaker of {}: {verb}", place.id),
        "serverId": place.id,
        "model": model,
        "previousState": before.as_str(),
        "currentState": after.as_str(),
    })))
}
