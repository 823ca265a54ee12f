//! How the GPUs of the servers are, what speaks against them, and who says so.

use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::extract::{Path, State as Extract};
use schemars::JsonSchema;
use serde::Serialize;

use super::State;
use super::find::{self, Place};
use super::openapi::{Done, about};
use super::problem::Problem;
use super::time::Present;
use crate::fleet::gpu::GpuSource;
use crate::policy::gpu::cards::memory_of;
use crate::policy::gpu::reading::Card;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/gpus", get_with(list, about("listGpus", "How the GPUs of all servers are")))
        .api_route("/gpus/{server}", get_with(one, about("getGpu", "How the GPUs of a server are")))
}

/// What speaks against a server, or a model on it.
#[derive(Clone, Debug, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "GpuReason")]
pub struct ReasonView {
    /// What it is, such as `xid` or `temperature`.
    signal: &'static str,
    /// The state that it asks for.
    state: &'static str,
    /// The card that it is about, by its uuid or number.
    card: Option<String>,
    /// The model that it is about; then only this model is judged by it.
    model: Option<String>,
    /// One sentence with the numbers.
    detail: String,
}

/// A model that is worse off on a server than the server itself.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "GpuModel")]
struct ModelView {
    /// Its name.
    model: String,
    /// Its state there.
    state: &'static str,
    /// Share of it that is on the card, from 0 to 1.
    on_card: f64,
    /// What its share of the requests there is multiplied with.
    weight: f64,
}

/// A card. What its source does not tell is null.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "GpuCard")]
struct CardView {
    /// Its identity, without `GPU-`.
    uuid: Option<String>,
    /// Its number on its host.
    index: Option<u32>,
    /// Its model.
    name: Option<String>,
    /// Bytes of its memory; what cards of this name have where its source does not tell.
    memory_total: Option<u64>,
    /// Bytes in use, by whomever.
    memory_used: Option<u64>,
    /// Percent of the time that something ran on it.
    utilisation: Option<f64>,
    /// °C.
    temperature: Option<f64>,
    /// °C left until its clocks are slowed down.
    margin: Option<f64>,
    /// Watts.
    power: Option<f64>,
    /// Watts that it may take.
    power_limit: Option<f64>,
    /// Errors of its memory since the last reset that could not be corrected.
    ecc_uncorrected: Option<u64>,
    /// The last error of the driver, by its number.
    last_xid: Option<u32>,
    /// Processes that compute on it.
    processes: usize,
}

/// How the GPUs of a server are.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ServerGpus")]
struct ServerView {
    /// Id of the server.
    server_id: String,
    /// Name of its upstream.
    upstream: String,
    /// `healthy`, `degraded`, `draining` or `failed`.
    state: &'static str,
    /// Since when.
    since: Option<String>,
    /// Who tells: `nvml`, `agent`, `exporter`, or `ollama` where only its own answers do.
    source: &'static str,
    /// Whether that source answers; null where there is none.
    source_up: Option<bool>,
    /// Why it does not.
    source_fault: Option<String>,
    /// Whether its models are computed by the processor alone.
    without_card: bool,
    /// What speaks against it or a model on it, worst first.
    reasons: Vec<ReasonView>,
    /// Models that are worse off there than the server itself.
    models: Vec<ModelView>,
    /// What is worth knowing and changes nothing.
    notes: Vec<String>,
    /// Bytes of the memory of all cards, as the source tells it or the configuration says.
    memory_total: Option<u64>,
    /// Bytes of it in use.
    memory_used: Option<u64>,
    /// Its cards.
    cards: Vec<CardView>,
}

/// All of them.
#[derive(Serialize, JsonSchema)]
struct Gpus {
    /// How many servers.
    count: usize,
    /// By server.
    servers: Vec<ServerView>,
}

/// One of them.
#[derive(Serialize, JsonSchema)]
struct OneServer {
    /// The server.
    server: ServerView,
}

async fn list(Extract(state): Extract<Arc<State>>) -> Done<Gpus> {
    let present = Present::read();
    let servers: Vec<_> = find::all(&state.store.load()).iter().map(|place| view(place, present)).collect();
    Done(Gpus { count: servers.len(), servers })
}

async fn one(Extract(state): Extract<Arc<State>>, Path(id): Path<String>) -> Result<Done<OneServer>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    Ok(Done(OneServer { server: view(&place, Present::read()) }))
}

/// What speaks against a server, for whoever shows it.
pub fn reasons(place: &Place) -> Vec<ReasonView> {
    let view = place.state().gpu.view();
    let reason = |reason: &crate::policy::gpu::verdict::Reason| ReasonView {
        signal: reason.signal.as_str(),
        state: reason.state.as_str(),
        card: reason.card.clone(),
        model: reason.model.clone(),
        detail: reason.detail.clone(),
    };
    view.verdict.reasons.iter().map(reason).collect()
}

fn view(place: &Place, present: Present) -> ServerView {
    let (member, state) = (place.member(), place.state());
    let view = state.gpu.view();
    let source = member.gpu.as_ref().and_then(|plan| plan.source.as_ref());
    ServerView {
        server_id: place.id.clone(),
        upstream: place.upstream.name.clone(),
        state: view.verdict.state.as_str(),
        since: view.since.map(|since| present.text(since)),
        source: source.map_or("ollama", GpuSource::as_str),
        source_up: view.source_up.filter(|_| source.is_some()),
        source_fault: view.source_fault.clone(),
        without_card: view.without_card || member.memory == Some(0),
        reasons: reasons(place),
        models: (view.verdict.models.iter())
            .map(|model| ModelView {
                model: model.model.clone(),
                state: model.state.as_str(),
                on_card: model.on_card,
                weight: model.weight,
            })
            .collect(),
        notes: view.verdict.notes.clone(),
        memory_total: view.memory.map(|memory| memory.total).or(member.memory),
        memory_used: view.memory.map(|memory| memory.used),
        cards: view.cards.iter().map(card).collect(),
    }
}

fn card(card: &Card) -> CardView {
    CardView {
        uuid: card.uuid.clone(),
        index: card.index,
        name: card.name.clone(),
        memory_total: card.memory_total.or_else(|| card.name.as_deref().and_then(memory_of)),
        memory_used: card.memory_used,
        utilisation: card.utilisation,
        temperature: card.temperature,
        margin: card.margin,
        power: card.power,
        power_limit: card.power_limit,
        ecc_uncorrected: card.ecc_uncorrected,
        last_xid: card
            .xids
            .iter()
            .max_by_key(|xid| xid.at)
            .map(|xid| xid.code)
            .or(card.last_xid.filter(|xid| *xid > 0)),
        processes: card.processes.len(),
    }
}
