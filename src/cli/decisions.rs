//! `arriero decisions`: why servers were chosen.

use std::process::ExitCode;

use serde::Deserialize;

use super::admin_client::Question;
use super::asking::Asking;
use super::output::{Look, Page};
use super::table::{Cell, Table, Tone};
use super::words::{milliseconds, span};

/// Which choices.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// Only those for this model.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// At most so many, the last ones.
    #[arg(long, value_name = "NUMBER", default_value_t = 20)]
    limit: usize,
}

#[derive(Debug, Deserialize)]
struct List {
    decisions: Vec<Decision>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Decision {
    age: f64,
    upstream: String,
    model: String,
    chosen: Option<String>,
    candidates: Vec<Candidate>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Candidate {
    server: String,
    model_is: String,
    score: Option<f64>,
    excluded: Option<String>,
}

/// Shows them, the last one first.
pub fn run(arguments: &Arguments) -> ExitCode {
    let wish = [("limit", Some(arguments.limit.to_string())), ("model", arguments.model.clone())];
    arguments.asking.tell(Question::get("analytics/decisions").asking(&wish), show)
}

fn show(answer: &List, look: &Look) -> Page {
    let mut table = Table::new(["AGO", "UPSTREAM", "MODEL", "CHOSEN", "CANDIDATES"]);
    for decision in &answer.decisions {
        let chosen = decision.chosen.as_ref().map_or_else(|| Cell::text("nobody").toned(Tone::Bad), Cell::text);
        let candidates: Vec<String> = decision.candidates.iter().map(candidate).collect();
        table.row([
            Cell::milliseconds(Some(decision.age * 1e3)),
            Cell::text(&decision.upstream),
            Cell::text(&decision.model),
            chosen,
            Cell::maybe(Some(candidates.join(", "))),
        ]);
    }
    Page::of(table.render(look, "no decisions: no request had to be given a server yet"))
}

/// A server and what choosing it would have cost, or why it was not asked.
fn candidate(one: &Candidate) -> String {
    let cost = one.score.map(|score| span(milliseconds(score * 1e3)));
    let why = one.excluded.clone().or(cost).unwrap_or_default();
    format!("{} ({} {why})", one.server, one.model_is)
}
