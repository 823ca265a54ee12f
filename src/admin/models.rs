//! The models of the fleet: which there are, where they are, and in what state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use aide::axum::ApiRouter;
use aide::axum::routing::get_with;
use axum::extract::State as Extract;
use schemars::JsonSchema;
use serde::Serialize;

use super::State;
use super::find::{self, Place};
use super::openapi::{Done, about};
use super::problem::Problem;
use super::request::Named;
use super::time::Present;
use crate::ollama::name::canonical;
use crate::policy::circuit;

type Shared = Extract<Arc<State>>;

/// The paths of this topic.
pub fn routes() -> ApiRouter<Arc<State>> {
    ApiRouter::new()
        .api_route("/models", get_with(list, about("listModels", "The names of all models")))
        .api_route("/model-map", get_with(map, about("getModelMap", "Which server has which models, both ways round")))
        .api_route("/models/status", get_with(all, about("listModelStates", "The state of every model")))
        .api_route("/models/{model}/status", get_with(one, about("getModelState", "The state of one model")))
}

/// A model on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
#[schemars(rename = "ModelIs")]
enum Where {
    /// In memory.
    Loaded,
    /// A request for it runs there, and it is not in memory yet.
    Loading,
    /// On disk.
    Available,
    /// The server is down, or its circuit is open.
    Failed,
}

#[derive(Clone, Copy, Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ModelCounts")]
struct Counts {
    total_servers: usize,
    loaded_on: usize,
    loading_on: usize,
    not_loaded_on: usize,
    failed_on: usize,
}

#[derive(Default, Serialize, JsonSchema)]
#[schemars(rename = "ModelState")]
struct Status {
    #[serde(flatten)]
    counts: Counts,
    servers: BTreeMap<String, OnServer>,
}

#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
#[schemars(rename = "ModelOnServer")]
struct OnServer {
    state: Where,
    operation: &'static str,
    in_flight: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_vram: Option<u64>,
}

/// The models of a server by their canonical names.
fn models(place: &Place) -> BTreeSet<String> {
    let inventory = place.state().inventory();
    let on_disk = inventory.available.iter().flatten().map(|row| row.name.to_string());
    let listed = inventory.openai.iter().map(|row| row.name.to_string());
    let loaded = inventory.loaded.iter().map(|row| row.name.to_string());
    // A server with a list of Ollama's own lists the same ones in OpenAI's form.
    if inventory.available.is_some() { on_disk.chain(loaded).collect() } else { listed.chain(loaded).collect() }
}

fn by_model(places: &[Place]) -> BTreeMap<String, Vec<&Place>> {
    let mut found: BTreeMap<String, Vec<&Place>> = BTreeMap::new();
    for place in places {
        models(place).into_iter().for_each(|model| found.entry(model).or_default().push(place));
    }
    found
}

fn status(model: &str, holders: &[&Place], present: Present) -> Status {
    let counts = Counts { total_servers: holders.len(), ..Counts::default() };
    let mut status = Status { counts, servers: BTreeMap::new() };
    for place in holders {
        let row = on_server(model, place, present);
        match row.state {
            Where::Loaded => status.counts.loaded_on += 1,
            Where::Loading => status.counts.loading_on += 1,
            Where::Available => status.counts.not_loaded_on += 1,
            Where::Failed => status.counts.failed_on += 1,
        }
        status.servers.insert(place.id.clone(), row);
    }
    status
}

fn on_server(model: &str, place: &Place, present: Present) -> OnServer {
    let state = place.state();
    let inventory = state.inventory();
    let in_flight = state.requests.requests().iter().filter(|one| one.model.as_deref() == Some(model)).count();
    let loaded = inventory.loaded.iter().find(|row| row.name.as_str() == model);
    // What serves OpenAI's API alone serves what it has in memory.
    let in_memory = loaded.is_some() || inventory.available.is_none();
    let open = matches!(state.circuit_state(present.now), circuit::State::Open { .. });
    OnServer {
        state: match in_memory {
            _ if !state.is_up() || open => Where::Failed,
            true => Where::Loaded,
            false if in_flight > 0 => Where::Loading,
            false => Where::Available,
        },
        operation: state.standing(present.now).as_str(),
        in_flight,
        digest: inventory
            .available
            .iter()
            .flatten()
            .find(|row| row.name.as_str() == model)
            .and_then(|row| row.digest.clone()),
        expires_at: loaded.and_then(|row| row.expires_at.clone()),
        size_vram: loaded.map(|row| row.size_vram),
    }
}

/// The names of all models.
#[derive(Serialize, JsonSchema)]
struct ModelList {
    count: usize,
    models: BTreeSet<String>,
}

/// Which server has which models.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ModelMap {
    model_to_servers: BTreeMap<String, Vec<String>>,
    server_to_models: BTreeMap<String, BTreeSet<String>>,
    total_models: usize,
    total_servers: usize,
}

/// How many there are.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct ModelSummary {
    total_models: usize,
    loaded_models: usize,
    total_servers: usize,
}

/// The state of every model.
#[derive(Serialize, JsonSchema)]
struct ModelStates {
    summary: ModelSummary,
    models: BTreeMap<String, Status>,
}

/// The state of one model.
#[derive(Serialize, JsonSchema)]
struct OneModel {
    model: String,
    status: Counts,
    servers: BTreeMap<String, OnServer>,
}

/// The names of all models.
async fn list(Extract(state): Shared) -> Done<ModelList> {
    let names: BTreeSet<String> = find::all(&state.store.load()).iter().flat_map(models).collect();
    Done(ModelList { count: names.len(), models: names })
}

/// Which server has which models, both ways round.
async fn map(Extract(state): Shared) -> Done<ModelMap> {
    let places = find::all(&state.store.load());
    let by_model = by_model(&places);
    let ids = |places: Vec<&Place>| places.iter().map(|place| place.id.clone()).collect::<Vec<_>>();
    let total_models = by_model.len();
    Done(ModelMap {
        model_to_servers: by_model.into_iter().map(|(model, on)| (model, ids(on))).collect(),
        server_to_models: places.iter().map(|place| (place.id.clone(), models(place))).collect(),
        total_models,
        total_servers: places.len(),
    })
}

/// The state of every model.
async fn all(Extract(state): Shared) -> Done<ModelStates> {
    let places = find::all(&state.store.load());
    let present = Present::read();
    let models: BTreeMap<String, Status> =
        by_model(&places).into_iter().map(|(model, on)| (model.clone(), status(&model, &on, present))).collect();
    let loaded = models.values().filter(|status| status.counts.loaded_on > 0).count();
    let summary = ModelSummary { total_models: models.len(), loaded_models: loaded, total_servers: places.len() };
    Done(ModelStates { summary, models })
}

/// The state of one model.
async fn one(Extract(state): Shared, Named(model): Named<String>) -> Result<Done<OneModel>, Problem> {
    let places = find::all(&state.store.load());
    let name = canonical(&model).into_owned();
    let mut by_model = by_model(&places);
    let holders = by_model.remove(&name);
    let holders = holders.ok_or_else(|| Problem::not_found(format!("no server has the model `{name}`")))?;
    let Status { counts, servers } = status(&name, &holders, Present::read());
    Ok(Done(OneModel { model: name, status: counts, servers }))
}
