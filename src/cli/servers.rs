//! `arriero servers`: the servers of the fleet, or all that is known of one.

use std::process::ExitCode;

use serde::Deserialize;

use super::admin_client::{Question, segment};
use super::asking::Asking;
use super::output::{Look, Page};
use super::table::{Cell, Table, facts};
use super::words;

/// Which servers.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Only this one, with all that is known of it; `UPSTREAM/NAME` where several upstreams have one of that name.
    server: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Server {
    id: String,
    upstream: String,
    url: String,
    health: String,
    last_response_time: Option<f64>,
    operation: Operation,
    in_flight: u64,
    max_concurrency: Option<u64>,
    weight: u64,
    circuit_breaker: String,
    models: Vec<String>,
    loaded: Vec<String>,
    version: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Operation {
    state: String,
    reason: Option<String>,
    who: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

#[derive(Debug, Deserialize)]
struct List {
    servers: Vec<Server>,
}

#[derive(Debug, Deserialize)]
struct One {
    server: Server,
}

/// Shows them.
pub fn run(arguments: &Arguments) -> ExitCode {
    match &arguments.server {
        None => arguments.asking.tell(Question::get("servers"), list),
        Some(name) => arguments.asking.tell(Question::get(&format!("servers/{}", segment(name))), one),
    }
}

/// How many requests run there, of how many that may.
pub fn in_flight(running: u64, most: Option<u64>) -> Cell {
    let cell = Cell::count(running);
    let Some(most) = most else { return cell };
    Cell { text: format!("{running}/{most}"), ..cell }
}

fn list(answer: &List, look: &Look) -> Page {
    let mut table =
        Table::new(["SERVER", "UPSTREAM", "HEALTH", "OPERATION", "CIRCUIT", "IN-FLIGHT", "RESPONSE", "LOADED", "URL"]);
    for server in &answer.servers {
        table.row([
            Cell::text(&server.id),
            Cell::text(&server.upstream),
            Cell::state(&server.health),
            Cell::state(&server.operation.state),
            Cell::state(&server.circuit_breaker),
            in_flight(server.in_flight, server.max_concurrency),
            Cell::milliseconds(server.last_response_time),
            Cell::maybe(Some(server.loaded.join(", "))),
            Cell::text(&server.url),
        ]);
    }
    Page::of(table.render(look, "no servers: the configuration has no upstreams"))
}

fn one(answer: &One, look: &Look) -> Page {
    let server = &answer.server;
    let operation = &server.operation;
    let distance = |at: &Option<String>| Cell::maybe(at.as_ref().map(|at| words::distance(at, look.now)));
    let mut rows = vec![
        ("server", Cell::text(&server.id)),
        ("upstream", Cell::text(&server.upstream)),
        ("url", Cell::text(&server.url)),
        ("version", Cell::maybe(server.version.as_ref())),
        ("health", Cell::state(&server.health)),
        ("circuit", Cell::state(&server.circuit_breaker)),
        ("operation", Cell::state(&operation.state)),
    ];
    if operation.since.is_some() {
        rows.push(("  reason", Cell::maybe(operation.reason.as_ref())));
        rows.push(("  by", Cell::maybe(operation.who.as_ref())));
        rows.push(("  since", distance(&operation.since)));
        rows.push(("  until", distance(&operation.until)));
    }
    rows.extend([
        ("in flight", in_flight(server.in_flight, server.max_concurrency)),
        ("response", Cell::milliseconds(server.last_response_time)),
        ("weight", Cell::count(server.weight)),
        ("loaded", Cell::maybe(Some(server.loaded.join(", ")))),
        ("models", Cell::maybe(Some(server.models.join(", ")))),
    ]);
    Page::of(facts(&rows, look))
}
