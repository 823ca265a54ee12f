//! `arriero circuit`: the circuits, and what an operator orders about one.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::admin_client::{Question, segment};
use super::asking::{Asking, who};
use super::output::{Look, Page};
use super::table::{Cell, Table, Tone};
use super::words::{self, plain};
use crate::units::Duration;

/// What to do; lists the circuits by default.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Subcommand)]
enum Verb {
    /// Show the circuits of all servers, or of one.
    List {
        /// Name of the server.
        server: Option<String>,
    },
    /// Keep requests away from a server, or from a model on it, for some time.
    Open {
        #[command(flatten)]
        place: Place,
        /// For how long; `circuit.max_open_for` of the upstream by default.
        #[arg(long, value_name = "TIME")]
        r#for: Option<Duration>,
    },
    /// Let requests through.
    Close(Place),
    /// Let one request at a time through as a trial.
    HalfOpen(Place),
    /// Let requests through, and forget what was.
    Reset(Place),
}

#[derive(clap::Args)]
struct Place {
    /// Name of the server; `UPSTREAM/NAME` where several upstreams have one of that name.
    server: String,
    /// The model on it; the circuit of the server itself by default.
    model: Option<String>,
    /// Why; stands in the log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct List {
    circuit_breakers: Vec<Circuit>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct OfServer {
    server_id: String,
    stats: Option<Stats>,
    models: Vec<Circuit>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Circuit {
    server_id: String,
    model: String,
    #[serde(flatten)]
    stats: Stats,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Stats {
    state: String,
    failure_count: u64,
    next_retry_at: Option<String>,
    forced: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ordered {
    server_id: String,
    model: Option<String>,
    previous_state: String,
    current_state: String,
}

/// Does it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let asking = &arguments.asking;
    let (place, verb, time) = match &arguments.verb {
        None | Some(Verb::List { server: None }) => return asking.tell(Question::get("circuit-breakers"), list),
        Some(Verb::List { server: Some(server) }) => {
            return asking.tell(Question::get(&format!("circuit-breakers/{}", segment(server))), of_server);
        }
        Some(Verb::Open { place, r#for }) => (place, "open", *r#for),
        Some(Verb::Close(place)) => (place, "close", None),
        Some(Verb::HalfOpen(place)) => (place, "half-open", None),
        Some(Verb::Reset(place)) => (place, "reset", None),
    };
    let model = place.model.as_deref().map_or_else(String::new, |model| format!("/{}", segment(model)));
    let path = format!("circuit-breakers/{}{model}/{verb}", segment(&place.server));
    let body = json!({ "for": time, "reason": place.reason, "who": who() });
    asking.tell(Question::order(Method::POST, &path, &body), ordered)
}

fn row(table: &mut Table, server: &str, model: Option<&str>, stats: &Stats, look: &Look) {
    let ordered = stats.forced.then(|| Cell::text("by an operator").toned(Tone::Warning));
    table.row([
        Cell::text(server),
        Cell::maybe(model),
        Cell::state(&stats.state),
        Cell::count(stats.failure_count),
        Cell::maybe(stats.next_retry_at.as_ref().map(|at| words::distance(at, look.now))),
        ordered.unwrap_or_else(Cell::none),
    ]);
}

const HEADS: [&str; 6] = ["SERVER", "MODEL", "STATE", "FAILURES", "HALF OPEN", "HELD"];
/// What the list has in the place of a model for the circuit of a server.
const SERVER: &str = "server-level";

fn list(answer: &List, look: &Look) -> Page {
    let mut table = Table::new(HEADS);
    for circuit in &answer.circuit_breakers {
        let model = Some(circuit.model.as_str()).filter(|model| *model != SERVER);
        row(&mut table, &circuit.server_id, model, &circuit.stats, look);
    }
    Page::of(table.render(look, "no circuits: the configuration has no servers"))
}

fn of_server(answer: &OfServer, look: &Look) -> Page {
    let mut table = Table::new(HEADS);
    if let Some(stats) = &answer.stats {
        row(&mut table, &answer.server_id, None, stats, look);
    }
    for circuit in &answer.models {
        row(&mut table, &circuit.server_id, Some(&circuit.model), &circuit.stats, look);
    }
    Page::of(table.render(look, "no circuits"))
}

fn ordered(answer: &Ordered, _: &Look) -> Page {
    let model = answer.model.as_ref().map_or_else(String::new, |model| format!(" {}", plain(model)));
    let (before, after) = (plain(&answer.previous_state), plain(&answer.current_state));
    Page::of(format!("{}{model}: {after}, was {before}\n", plain(&answer.server_id)))
}
