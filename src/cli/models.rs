//! `arriero models`: the models of the fleet and where they are.

use std::collections::BTreeMap;
use std::process::ExitCode;

use serde::Deserialize;

use super::admin_client::{Question, segment};
use super::asking::Asking;
use super::output::{Look, Page};
use super::table::{Cell, Table};
use super::words;

/// Which models.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Only this one, with how it is on each server.
    model: Option<String>,
}

#[derive(Debug, Deserialize)]
struct List {
    models: BTreeMap<String, Model>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Model {
    total_servers: u64,
    loaded_on: u64,
    loading_on: u64,
    failed_on: u64,
    servers: BTreeMap<String, OnServer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OnServer {
    state: String,
    operation: String,
    in_flight: u64,
    digest: Option<String>,
    expires_at: Option<String>,
    size_vram: Option<u64>,
}

#[derive(Debug, Deserialize)]
struct One {
    servers: BTreeMap<String, OnServer>,
}

/// Shows them.
pub fn run(arguments: &Arguments) -> ExitCode {
    match &arguments.model {
        None => arguments.asking.tell(Question::get("models/status"), list),
        Some(model) => arguments.asking.tell(Question::get(&format!("models/{}/status", segment(model))), one),
    }
}

fn list(answer: &List, look: &Look) -> Page {
    let mut table = Table::new(["MODEL", "SERVERS", "LOADED", "LOADING", "FAILED", "IN-FLIGHT", "VRAM", "LOADED ON"]);
    for (name, model) in &answer.models {
        let loaded: Vec<&str> =
            model.servers.iter().filter(|(_, one)| one.state == "loaded").map(|(id, _)| id.as_str()).collect();
        let vram = model.servers.values().filter_map(|one| one.size_vram).fold(0_u64, u64::saturating_add);
        table.row([
            Cell::text(name),
            Cell::count(model.total_servers),
            Cell::count(model.loaded_on),
            Cell::count(model.loading_on),
            Cell::count(model.failed_on),
            Cell::count(model.servers.values().map(|one| one.in_flight).sum()),
            if vram == 0 { Cell::none() } else { Cell::size(vram) },
            Cell::maybe(Some(loaded.join(", "))),
        ]);
    }
    Page::of(table.render(look, "no models: no server has told of any yet"))
}

fn one(answer: &One, look: &Look) -> Page {
    let mut table = Table::new(["SERVER", "STATE", "OPERATION", "IN-FLIGHT", "VRAM", "EXPIRES", "DIGEST"]);
    for (id, on) in &answer.servers {
        table.row([
            Cell::text(id),
            Cell::state(&on.state),
            Cell::state(&on.operation),
            Cell::count(on.in_flight),
            on.size_vram.map_or_else(Cell::none, Cell::size),
            Cell::maybe(on.expires_at.as_ref().map(|at| words::distance(at, look.now))),
            Cell::maybe(on.digest.as_ref().map(|digest| digest.chars().take(12).collect::<String>())),
        ]);
    }
    Page::of(table.render(look, "no server has it"))
}
