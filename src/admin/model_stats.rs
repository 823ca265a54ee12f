//! What the models of the fleet add up to: those of one server, those that nobody uses, all of them.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::State as Extract;
use axum::routing::get;
use axum::{Json, Router};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::State;
use super::find::{self, Place};
use super::problem::Problem;
use super::request::{Asked, Named};
use super::time::milliseconds;
use crate::fleet::jobs::guard;

type Shared = Extract<Arc<State>>;

/// The paths of this topic.
pub fn routes() -> Router<Arc<State>> {
    Router::new().route("/models/idle", get(idle)).route("/models/fleet-stats", get(fleet))
}

/// A model of a server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct Held {
    /// Its canonical name.
    name: String,
    /// Bytes on disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    /// Which bytes the name stands for.
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    /// Where it runs, when that is elsewhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    remote_host: Option<String>,
    /// It is in memory.
    loaded: bool,
    /// Bytes in video memory.
    #[serde(skip_serializing_if = "Option::is_none")]
    size_vram: Option<u64>,
    /// When the server takes it out of memory, if nobody uses it.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<String>,
    /// Milliseconds that a load is expected to take.
    #[serde(skip_serializing_if = "Option::is_none")]
    estimated_load_time: Option<f64>,
    /// The rule of the configuration that keeps it there, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<&'static str>,
}

/// The models of a server.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct HeldModels {
    /// Always true.
    success: bool,
    /// The server.
    server_id: String,
    /// How many there are.
    count: usize,
    /// Whether the server has told them at all.
    known: bool,
    /// The models.
    models: Vec<Held>,
}

/// The models of a server, as it told them last.
pub async fn on_server(Extract(state): Shared, Named(id): Named<String>) -> Result<Json<HeldModels>, Problem> {
    let place = find::one(&state.store.load(), &id)?;
    let inventory = place.state().inventory();
    let models: Vec<_> = names(&place).into_iter().map(|name| held(&place, name)).collect();
    Ok(Json(HeldModels {
        success: true,
        server_id: place.id.clone(),
        count: models.len(),
        known: inventory.is_known(),
        models,
    }))
}

/// The names of its models: on disk and in memory, or as OpenAI's API lists them.
fn names(place: &Place) -> Vec<String> {
    let inventory = place.state().inventory();
    let mut names: Vec<String> = inventory.loaded.iter().map(|row| row.name.to_string()).collect();
    match &inventory.available {
        Some(rows) => names.extend(rows.iter().map(|row| row.name.to_string())),
        None => names.extend(inventory.openai.iter().map(|row| row.name.to_string())),
    }
    names.sort();
    names.dedup();
    names
}

fn held(place: &Place, name: String) -> Held {
    let inventory = place.state().inventory();
    let disk = inventory.available.iter().flatten().find(|row| row.name.as_str() == name);
    let memory = inventory.loaded.iter().find(|row| row.name.as_str() == name);
    let load = place.upstream.dispatcher.expected_load(place.state(), &name);
    Held {
        size: disk.map(|row| row.size),
        digest: disk.and_then(|row| row.digest.clone()),
        remote_host: disk.and_then(|row| row.remote_host.clone()),
        loaded: memory.is_some() || inventory.available.is_none(),
        size_vram: memory.map(|row| row.size_vram),
        expires_at: memory.and_then(|row| row.expires_at.clone()),
        estimated_load_time: load.filter(|_| inventory.available.is_some()).map(milliseconds),
        kept: guard::kept(&place.upstream, place.state(), &name),
        name,
    }
}

/// How long a model must have been idle.
#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields, default)]
struct Threshold {
    /// In milliseconds; half an hour by default.
    threshold: u64,
}

impl Default for Threshold {
    fn default() -> Self {
        Self { threshold: 1_800_000 }
    }
}

/// A model in memory that nobody uses.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct IdleModel {
    /// The server.
    server_id: String,
    /// Its canonical name.
    model: String,
    /// Milliseconds since a request for it ended here, or since it was seen in memory first.
    idle_time: u64,
    /// The same in minutes.
    idle_time_minutes: u64,
    /// Bytes in video memory.
    size_vram: Option<u64>,
    /// The rule of the configuration that keeps it there, in words.
    #[serde(skip_serializing_if = "Option::is_none")]
    kept: Option<&'static str>,
}

/// Models in memory that nobody uses, the longest first.
#[derive(Serialize, JsonSchema)]
struct IdleModels {
    /// Always true.
    success: bool,
    /// Milliseconds.
    threshold: u64,
    /// How many there are.
    count: usize,
    /// The models, of upstreams with `balance.policy: expected_wait`; elsewhere nobody notes who uses what.
    models: Vec<IdleModel>,
}

async fn idle(Extract(state): Shared, Asked(wanted): Asked<Threshold>) -> Json<IdleModels> {
    let places = find::all(&state.store.load());
    let mut models = Vec::new();
    let least = std::time::Duration::from_millis(wanted.threshold);
    for place in places.iter().filter(|place| place.upstream.is_scheduled()) {
        let idle = place.upstream.dispatcher.idle(least);
        for one in idle.into_iter().filter(|one| Arc::ptr_eq(&one.server, place.state())) {
            let inventory = place.state().inventory();
            let memory = inventory.loaded.iter().find(|row| row.name.as_str() == &*one.model);
            models.push(IdleModel {
                server_id: place.id.clone(),
                idle_time: u64::try_from(one.time.as_millis()).unwrap_or(u64::MAX),
                idle_time_minutes: one.time.as_secs() / 60,
                size_vram: memory.map(|row| row.size_vram),
                kept: guard::kept(&place.upstream, place.state(), &one.model),
                model: one.model.to_string(),
            });
        }
    }
    models.sort_by_key(|one| std::cmp::Reverse(one.idle_time));
    Json(IdleModels { success: true, threshold: wanted.threshold, count: models.len(), models })
}

/// A model of the fleet.
#[derive(Default, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct FleetModel {
    /// Servers that have it.
    servers: usize,
    /// Those of them that have it in memory.
    loaded_on: usize,
    /// Bytes in video memory, over all servers.
    size_vram: u64,
    /// Bytes on disk, over all servers.
    size_on_disk: u64,
    /// Requests that run.
    in_flight: usize,
    /// Requests that wait.
    waiting: usize,
}

/// What the models of the fleet add up to.
#[derive(Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
struct FleetStats {
    /// Always true.
    success: bool,
    /// Servers.
    total_servers: usize,
    /// Models, each counted once.
    total_models: usize,
    /// Those of them that are in memory somewhere.
    loaded_models: usize,
    /// Models in memory, counted on each server.
    loaded_copies: usize,
    /// Bytes in video memory.
    size_vram: u64,
    /// Bytes on disk; files that two models of a server share count twice.
    size_on_disk: u64,
    /// The models by name.
    models: BTreeMap<String, FleetModel>,
}

async fn fleet(Extract(state): Shared) -> Json<FleetStats> {
    let snapshot = state.store.pin();
    let places = find::all(&snapshot);
    let mut models: BTreeMap<String, FleetModel> = BTreeMap::new();
    for place in &places {
        for name in names(place) {
            let held = held(place, name);
            let model = models.entry(held.name).or_default();
            model.servers += 1;
            model.loaded_on += usize::from(held.loaded);
            model.size_vram += held.size_vram.unwrap_or(0);
            model.size_on_disk += held.size.unwrap_or(0);
        }
        for request in place.state().requests.requests() {
            if let Some(model) = request.model.as_deref().and_then(|model| models.get_mut(model)) {
                model.in_flight += 1;
            }
        }
    }
    for (name, waiting) in snapshot.upstreams.iter().flat_map(|upstream| upstream.queues()) {
        if let Some(model) = models.get_mut(&name) {
            model.waiting += waiting;
        }
    }
    let sum = |of: fn(&FleetModel) -> u64| models.values().map(of).sum();
    Json(FleetStats {
        success: true,
        total_servers: places.len(),
        total_models: models.len(),
        loaded_models: models.values().filter(|model| model.loaded_on > 0).count(),
        loaded_copies: models.values().map(|model| model.loaded_on).sum(),
        size_vram: sum(|model| model.size_vram),
        size_on_disk: sum(|model| model.size_on_disk),
        models,
    })
}
