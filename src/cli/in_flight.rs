//! `arriero in-flight`: the requests that run.

use std::process::ExitCode;

use serde::Deserialize;

use super::admin_client::Question;
use super::asking::Asking;
use super::output::{Look, Page};
use super::table::{Cell, Table};
use super::words;

/// Where to ask.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Running {
    total: u64,
    answering: u64,
    in_flight: Vec<OnServer>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct OnServer {
    server_id: String,
    requests: Vec<Request>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Request {
    id: Option<String>,
    model: Option<String>,
    age_seconds: f64,
    phase: String,
}

/// Shows them.
pub fn run(arguments: &Arguments) -> ExitCode {
    arguments.asking.tell(Question::get("in-flight"), show)
}

fn show(answer: &Running, look: &Look) -> Page {
    let mut table = Table::new(["SERVER", "MODEL", "PHASE", "SINCE", "REQUEST"]);
    for server in &answer.in_flight {
        for request in &server.requests {
            table.row([
                Cell::text(&server.server_id),
                Cell::maybe(request.model.as_ref()),
                Cell::text(&request.phase),
                Cell::milliseconds(Some(request.age_seconds * 1e3)),
                Cell::maybe(request.id.as_ref()),
            ]);
        }
    }
    let text = table.render(look, "no requests run");
    let running = words::count(answer.total, "request runs", "requests run");
    let sum = if answer.total == 0 { String::new() } else { format!("{running}, {} answering\n", answer.answering) };
    Page::of(text + &sum)
}
