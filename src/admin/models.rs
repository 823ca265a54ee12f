//! The models of the fleet: which there are, where they are, and in what state.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use axum::extract::State as Extract;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use serde_json::json;

use super::State;
use super::find::{self, Place};
use super::problem::Problem;
use super::request::Named;
use super::time::Present;
use crate::ollama::name::canonical;
use crate::policy::circuit;

type Shared = Extract<Arc<State>>;

/// The paths of this topic.
pub fn routes() -> Router<Arc<State>> {
    Router::new()
        .route("/models", get(list))
        .route("/model-map", get(map))
        .route("/models/status", get(all))
        .route("/models/{model}/status", get(one))
}

/// A model on a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
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

#[derive(Default, Serialize)]
#[serde(rename_all = "camelCase")]
struct Status {
    total_servers: usize,
    loaded_on: usize,
    loading_on: usize,
    not_loaded_on: usize,
    failed_on: usize,
    servers: BTreeMap<String, OnServer>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
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
    let mut status = Status { total_servers: holders.len(), ..Status::default() };
    for place in holders {
        let row = on_server(model, place, present);
        match row.state {
            Where::Loaded => status.loaded_on += 1,
            Where::Loading => status.loading_on += 1,
            Where::Available => status.not_loaded_on += 1,
            Where::Failed => status.failed_on += 1,
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
async fn list(Extract(state): Shared) -> Json<serde_json::Value> {
    let names: BTreeSet<String> = find::all(&state.store.load()).iter().flat_map(models).collect();
    Json(json!({ "success": true, "count": names.len(), "models": names }))
}

/// Which server has which models, both ways round.
async fn map(Extract(state): Shared) -> Json<serde_json::Value> {
    let places = find::all(&state.store.load());
    let by_model = by_model(&places);
    let ids = |places: &[&Place]| places.iter().map(|place| place.id.clone()).collect::<Vec<_>>();
    let to_servers: BTreeMap<&String, Vec<String>> = by_model.iter().map(|(model, on)| (model, ids(on))).collect();
    let to_models: BTreeMap<&String, BTreeSet<String>> =
        places.iter().map(|place| (&place.id, models(place))).collect();
    Json(json!({
        "success": true,
        "modelToServers": to_servers,
        "serverToModels": to_models,
        "totalModels": by_model.len(),
        "totalServers": places.len(),
    }))
}

/// The state of every model.
async fn all(Extract(state): Shared) -> Json<serde_json::Value> {
    let places = find::all(&state.store.load());
    let present = Present::read();
    let models: BTreeMap<String, Status> =
        by_model(&places).into_iter().map(|(model, on)| (model.clone(), status(&model, &on, present))).collect();
    let loaded = models.values().filter(|status| status.loaded_on > 0).count();
    Json(json!({
        "success": true,
        "summary": { "totalModels": models.len(), "loadedModels": loaded, "totalServers": places.len() },
        "models": models,
    }))
}

/// The state of one model.
async fn one(Extract(state): Shared, Named(model): Named<String>) -> Result<Json<serde_json::Value>, Problem> {
    let places = find::all(&state.store.load());
    let name = canonical(&model).into_owned();
    let mut by_model = by_model(&places);
    let holders = by_model.remove(&name);
    let holders = holders.ok_or_else(|| Problem::not_found(format!("no server has the model `{name}`")))?;
    let mut status = status(&name, &holders, Present::read());
    let servers = std::mem::take(&mut status.servers);
    Ok(Json(json!({
        "success": true,
        "model": name,
        "status": {
            "totalServers": status.total_servers,
            "loadedOn": status.loaded_on,
            "loadingOn": status.loading_on,
            "notLoadedOn": status.not_loaded_on,
            "failedOn": status.failed_on,
        },
        "servers": servers,
    })))
}
