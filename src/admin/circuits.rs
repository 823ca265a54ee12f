//! Circuits: what state each is in, and what an operator orders.
//!
//! Paths name a server, or a server and a model. In the place of a model, `server` means the circuit of the server
//! itself, as in `circuit-breakers/a100-1/server/open`.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::{get_with, post_with};
use axum::extract::State as Extract;
use axum::http::StatusCode;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::find::{self, Place};
use super::openapi::{Done, about};
use super::problem::Problem;
use super::request::{Named, Wanted, end_of};
use super::time::Present;
use super::{Kept, State as Admin};
use crate::fleet::circuits::{self, CircuitOrder};
use crate::fleet::decisions::facts::About;
use crate::fleet::decisions::overlay::Order;
use crate::ollama::name::canonical;
use crate::policy::circuit::State;
use crate::units::Duration;

type Shared = Extract<Arc<Admin>>;
type Ordered = Result<Done<OrderedView>, Problem>;

/// Stands for the circuit of a server where a path has a model.
const SERVER: &str = "server";

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<Admin>> {
    let of_model = get_with(one, about("getCircuit", "The circuit of a model on a server")).post_with(
        order_server,
        about("orderServerCircuit", "open, close, half-open or reset the circuit of a server"),
    );
    ApiRouter::new()
        .api_route("/circuit-breakers", get_with(list, about("listCircuits", "All circuits")))
        .api_route("/circuit-breakers/{server}", get_with(of_server, about("getServerCircuits", "Those of a server")))
        .api_route("/circuit-breakers/{server}/{model}", of_model)
        .api_route(
            "/circuit-breakers/{server}/{model}/{verb}",
            post_with(order_model, about("orderCircuit", "open, close, half-open or reset the circuit of a model")),
        )
}

/// What is known of one circuit.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "CircuitStats")]
struct Stats {
    state: &'static str,
    /// Failures in a row, as far as they count towards opening it.
    failure_count: u32,
    /// When it becomes half open by itself.
    next_retry_at: Option<String>,
    /// An operator holds it open.
    forced: bool,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CircuitView {
    key: String,
    server_id: String,
    model: String,
    #[serde(flatten)]
    stats: Stats,
}

/// All circuits.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct CircuitList {
    count: usize,
    circuit_breakers: Vec<CircuitView>,
}

/// The circuits of a server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ServerCircuits {
    server_id: String,
    /// Its own.
    stats: Option<Stats>,
    /// Those of its models.
    models: Vec<CircuitView>,
}

/// One circuit.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OneCircuit {
    key: String,
    server_id: String,
    model: String,
    stats: Stats,
}

/// What an order did.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct OrderedView {
    message: String,
    server_id: String,
    /// The model; none for the server's own circuit.
    model: Option<String>,
    previous_state: &'static str,
    current_state: &'static str,
    #[serde(flatten)]
    kept: Kept,
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
async fn list(Extract(state): Shared) -> Done<CircuitList> {
    let present = Present::read();
    let places = find::all(&state.store.load());
    let circuits: Vec<_> = places
        .iter()
        .flat_map(|place| {
            place.state().circuit_views(present.now).into_iter().map(move |one| view(place, &one, present))
        })
        .collect();
    Done(CircuitList { count: circuits.len(), circuit_breakers: circuits })
}

/// The circuit of a server, and those of its models.
async fn of_server(Extract(state): Shared, Named(id): Named<String>) -> Result<Done<ServerCircuits>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    let present = Present::read();
    let (mut own, mut models) = (None, Vec::new());
    for circuit in place.state().circuit_views(present.now) {
        match circuit.model {
            None => own = Some(stats(&place, &circuit, present)),
            Some(_) => models.push(view(&place, &circuit, present)),
        }
    }
    Ok(Done(ServerCircuits { server_id: place.id, stats: own, models }))
}

/// The circuit of a model on a server.
async fn one(Extract(state): Shared, Named((id, model)): Named<(String, String)>) -> Result<Done<OneCircuit>, Problem> {
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
    let CircuitView { key, server_id, model, stats } = view;
    Ok(Done(OneCircuit { key, server_id, model, stats }))
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
#[derive(Debug, Default, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
#[schemars(rename = "CircuitOrder")]
struct Words {
    /// How long it stays open; the upstream's `circuit.max_open_for` by default.
    r#for: Option<Duration>,
    /// Why; 200 characters are kept.
    reason: Option<String>,
    /// Who decided it.
    who: Option<String>,
}

async fn order_server(
    Extract(state): Shared,
    Named((id, verb)): Named<(String, String)>,
    Wanted(words): Wanted<Words>,
) -> Ordered {
    order(&state, &id, None, &verb, &words).await
}

async fn order_model(
    Extract(state): Shared,
    Named((id, model, verb)): Named<(String, String, String)>,
    Wanted(words): Wanted<Words>,
) -> Ordered {
    order(&state, &id, wanted_model(&model), &verb, &words).await
}

async fn order(state: &Arc<Admin>, id: &str, model: Option<String>, verb: &str, words: &Words) -> Ordered {
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
    let told = match order {
        CircuitOrder::Open { .. } => None,
        CircuitOrder::Close => Some(Order::Close),
        CircuitOrder::HalfOpen => Some(Order::HalfOpen),
        CircuitOrder::Reset => Some(Order::Reset),
    };
    if let Some(told) = told {
        let identity = place.state().identity.clone();
        let (upstream, server, url) = (identity.upstream, identity.name, identity.url);
        state.decisions.ordered(About::Circuit { upstream, server, url, model: model.clone() }, told);
    }
    let kept = state.keep().await;
    Ok(Done(OrderedView {
        message: format!("Circuit breaker of {}: {verb}", place.id),
        server_id: place.id,
        model,
        previous_state: before.as_str(),
        current_state: after.as_str(),
        kept,
    }))
}
