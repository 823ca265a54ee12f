//! `arriero queue`: who waits for a slot, and a pause for all of them.

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::admin_client::Question;
use super::asking::{Asking, who};
use super::output::{Look, Page};
use super::table::{Cell, Table, Tone};
use super::words;

/// What to do; shows the queues by default.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Subcommand)]
enum Verb {
    /// Give no request a slot until it is resumed; those that run finish.
    Pause(Order),
    /// Give slots again.
    Resume(Order),
}

#[derive(clap::Args)]
struct Order {
    /// Only that of this upstream.
    #[arg(long, value_name = "NAME")]
    upstream: Option<String>,
    /// Why; stands in the log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Queues {
    upstreams: Vec<Queue>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Queue {
    upstream: String,
    paused: bool,
    size: u64,
    max_pending_per_model: Option<u64>,
    timeout_seconds: f64,
    by_model: BTreeMap<String, u64>,
}

/// Does it, and shows how the queues are then.
pub fn run(arguments: &Arguments) -> ExitCode {
    let question = match &arguments.verb {
        None => Question::get("queue"),
        Some(Verb::Pause(order)) => ordered("queue/pause", order),
        Some(Verb::Resume(order)) => ordered("queue/resume", order),
    };
    arguments.asking.tell(question, show)
}

fn ordered(path: &str, order: &Order) -> Question {
    let body = json!({ "upstream": order.upstream, "reason": order.reason, "who": who() });
    Question::order(Method::POST, path, &body)
}

fn show(answer: &Queues, look: &Look) -> Page {
    let mut table = Table::new(["UPSTREAM", "STATE", "WAITING", "MOST PER MODEL", "TIMEOUT", "MODELS"]);
    for queue in &answer.upstreams {
        let models: Vec<String> = queue.by_model.iter().map(|(model, waiting)| format!("{model} {waiting}")).collect();
        table.row([
            Cell::text(&queue.upstream),
            if queue.paused { Cell::state("paused") } else { Cell::text("running").toned(Tone::Good) },
            Cell::count(queue.size),
            queue.max_pending_per_model.map_or_else(Cell::none, Cell::count),
            Cell::milliseconds(Some(queue.timeout_seconds * 1e3)),
            Cell::maybe(Some(models.join(", "))),
        ]);
    }
    let text = table.render(look, "no queues: the configuration has no upstreams");
    let waiting: u64 = answer.upstreams.iter().map(|queue| queue.size).sum();
    Page::of(format!("{text}{}\n", words::count(waiting, "request waits", "requests wait")))
}
