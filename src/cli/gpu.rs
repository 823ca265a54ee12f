//! `arriero gpu`: how the GPUs of the servers are.

use std::process::ExitCode;
use std::time::Duration as StdDuration;

use serde::Deserialize;

use super::admin_client::{Question, segment};
use super::asking::Asking;
use super::output::{Look, Page};
use super::table::{Cell, Table, facts};
use super::words;
use crate::units::Duration;

/// Of which servers.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Only this one, with its cards; `UPSTREAM/NAME` where several upstreams have one of that name.
    server: Option<String>,
    /// Show it again and again, until it is interrupted.
    #[arg(long, value_name = "TIME", num_args = 0..=1, default_missing_value = "2s")]
    watch: Option<Duration>,
}

#[derive(Debug, Deserialize)]
struct List {
    servers: Vec<Server>,
}

#[derive(Debug, Deserialize)]
struct One {
    server: Server,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Server {
    server_id: String,
    upstream: String,
    state: String,
    since: Option<String>,
    source: String,
    source_up: Option<bool>,
    source_fault: Option<String>,
    without_card: bool,
    reasons: Vec<Reason>,
    models: Vec<Model>,
    notes: Vec<String>,
    memory_total: Option<u64>,
    memory_used: Option<u64>,
    cards: Vec<Card>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Reason {
    signal: String,
    state: String,
    card: Option<String>,
    model: Option<String>,
    detail: String,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Model {
    model: String,
    state: String,
    on_card: f64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Card {
    uuid: Option<String>,
    index: Option<u32>,
    name: Option<String>,
    memory_total: Option<u64>,
    memory_used: Option<u64>,
    utilisation: Option<f64>,
    temperature: Option<f64>,
    power: Option<f64>,
    last_xid: Option<u32>,
}

/// Shows them.
pub fn run(arguments: &Arguments) -> ExitCode {
    loop {
        if arguments.watch.is_some() && !arguments.asking.json {
            // Home, and what was there is gone.
            print!("\x1b[H\x1b[2J");
        }
        let code = match &arguments.server {
            None => arguments.asking.tell(Question::get("gpus"), list),
            Some(name) => arguments.asking.tell(Question::get(&format!("gpus/{}", segment(name))), one),
        };
        let Some(pause) = arguments.watch else { return code };
        if code != ExitCode::SUCCESS {
            return code;
        }
        std::thread::sleep(pause.0.max(StdDuration::from_millis(200)));
    }
}

fn share(used: Option<u64>, total: Option<u64>) -> Cell {
    match (used, total) {
        (Some(used), Some(total)) => {
            let cell = Cell::size(used);
            Cell { text: format!("{} / {}", cell.text, Cell::size(total).text), ..cell }
        }
        (None, Some(total)) => Cell::size(total),
        _ => Cell::none(),
    }
}

fn source(server: &Server) -> Cell {
    let silent = if server.source_up == Some(false) { " (silent)" } else { "" };
    Cell::text(format!("{}{silent}", server.source))
}

fn why(server: &Server) -> Cell {
    let first = server.reasons.first().map(|reason| reason.detail.clone());
    let none = server.without_card.then(|| "computes by the processor".to_owned());
    Cell::maybe(first.or_else(|| server.source_fault.clone()).or(none))
}

fn list(answer: &List, look: &Look) -> Page {
    let mut table = Table::new(["SERVER", "UPSTREAM", "GPU", "SOURCE", "CARDS", "MEMORY", "HOTTEST", "BECAUSE"]);
    for server in &answer.servers {
        let hottest = server.cards.iter().filter_map(|card| card.temperature).max_by(f64::total_cmp);
        table.row([
            Cell::text(&server.server_id),
            Cell::text(&server.upstream),
            Cell::state(&server.state),
            source(server),
            if server.cards.is_empty() { Cell::none() } else { Cell::count(server.cards.len() as u64) },
            share(server.memory_used, server.memory_total),
            Cell::maybe(hottest.map(|celsius| format!("{celsius:.0} °C"))),
            why(server),
        ]);
    }
    Page::of(table.render(look, "no servers: the configuration has no upstreams"))
}

fn one(answer: &One, look: &Look) -> Page {
    let server = &answer.server;
    let rows = [
        ("server", Cell::text(&server.server_id)),
        ("upstream", Cell::text(&server.upstream)),
        ("gpu", Cell::state(&server.state)),
        ("since", Cell::maybe(server.since.as_ref().map(|at| words::distance(at, look.now)))),
        ("source", source(server)),
        ("memory", share(server.memory_used, server.memory_total)),
    ];
    let mut text = facts(&rows, look);
    let mut section = |table: &Table, any: bool| {
        if any {
            text.push('\n');
            text.push_str(&table.render(look, ""));
        }
    };
    let mut cards = Table::new(["CARD", "NAME", "UUID", "MEMORY", "BUSY", "TEMPERATURE", "POWER", "LAST XID"]);
    for card in &server.cards {
        cards.row([
            Cell::maybe(card.index.map(|index| index.to_string())),
            Cell::maybe(card.name.as_ref()),
            Cell::maybe(card.uuid.as_ref()),
            share(card.memory_used, card.memory_total),
            Cell::maybe(card.utilisation.map(|percent| format!("{percent:.0} %"))),
            Cell::maybe(card.temperature.map(|celsius| format!("{celsius:.0} °C"))),
            Cell::maybe(card.power.map(|watts| format!("{watts:.0} W"))),
            Cell::maybe(card.last_xid.map(|xid| xid.to_string())),
        ]);
    }
    section(&cards, !server.cards.is_empty());
    let mut reasons = Table::new(["SIGNAL", "STATE", "OF", "DETAIL"]);
    for reason in &server.reasons {
        reasons.row([
            Cell::text(&reason.signal),
            Cell::state(&reason.state),
            Cell::maybe(reason.model.as_ref().or(reason.card.as_ref())),
            Cell::text(&reason.detail),
        ]);
    }
    section(&reasons, !server.reasons.is_empty());
    let mut models = Table::new(["MODEL", "STATE", "ON CARD"]);
    for model in &server.models {
        let on_card = format!("{:.0} %", model.on_card * 100.0);
        models.row([Cell::text(&model.model), Cell::state(&model.state), Cell::text(on_card)]);
    }
    section(&models, !server.models.is_empty());
    let notes = server.source_fault.iter().chain(&server.notes);
    let notes: String = notes.map(|note| format!("note: {}\n", words::plain(note))).collect();
    Page::of(text + &notes)
}
