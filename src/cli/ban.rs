//! `arriero ban`: keeps servers and models apart.

use std::process::ExitCode;

use clap::{ArgGroup, Subcommand};
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::admin_client::{Question, segment};
use super::asking::{Asking, who};
use super::output::{Look, Page};
use super::table::{Cell, Table};
use super::words;
use crate::units::Duration;

/// What to do; lists the bans by default.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Subcommand)]
enum Verb {
    /// Show what is banned.
    List,
    /// Keep all requests from a server, a model from all servers, or a model from one server.
    Add(Add),
    /// End bans.
    Lift(Lift),
}

#[derive(clap::Args)]
#[command(group(ArgGroup::new("what").args(["server", "model"]).required(true).multiple(true)))]
struct Add {
    /// Name of the server; all servers by default.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// The model; all models by default.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// It ends by itself after this time; it lasts until it is lifted by default.
    #[arg(long, value_name = "TIME")]
    r#for: Option<Duration>,
    /// Why; stands in the log and in the list.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(clap::Args)]
#[command(group(ArgGroup::new("which").args(["server", "model", "all"]).required(true).multiple(true)))]
struct Lift {
    /// Those of this server; with `--model`, only that of the model on it.
    #[arg(long, value_name = "NAME")]
    server: Option<String>,
    /// Those of this model.
    #[arg(long, value_name = "MODEL")]
    model: Option<String>,
    /// All of them.
    #[arg(long, conflicts_with_all = ["server", "model"])]
    all: bool,
}

#[derive(Debug, Deserialize)]
struct Bans {
    bans: Vec<Ban>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Ban {
    upstream: String,
    server_id: Option<String>,
    model: Option<String>,
    reason: Option<String>,
    who: Option<String>,
    since: Option<String>,
    until: Option<String>,
}

/// Does it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let asking = &arguments.asking;
    match &arguments.verb {
        None | Some(Verb::List) => asking.tell(Question::get("bans"), list),
        Some(Verb::Add(add)) => {
            let body = json!({
                "server": add.server, "model": add.model, "for": add.r#for, "reason": add.reason, "who": who(),
            });
            asking.tell(Question::order(Method::POST, "bans", &body), list)
        }
        Some(Verb::Lift(lift)) => {
            let path = match (&lift.server, &lift.model) {
                (Some(server), Some(model)) => format!("bans/{}/{}", segment(server), segment(model)),
                (Some(server), None) => format!("bans/server/{}", segment(server)),
                (None, Some(model)) => format!("bans/model/{}", segment(model)),
                (None, None) => "bans".to_owned(),
            };
            asking.tell(Question::order(Method::DELETE, &path, &json!({})), lifted)
        }
    }
}

fn list(answer: &Bans, look: &Look) -> Page {
    let mut table = Table::new(["UPSTREAM", "SERVER", "MODEL", "SINCE", "UNTIL", "BY", "REASON"]);
    let distance = |at: &Option<String>| Cell::maybe(at.as_ref().map(|at| words::distance(at, look.now)));
    for ban in &answer.bans {
        table.row([
            Cell::text(&ban.upstream),
            Cell::text(ban.server_id.as_deref().unwrap_or("all")),
            Cell::text(ban.model.as_deref().unwrap_or("all")),
            distance(&ban.since),
            if ban.until.is_some() { distance(&ban.until) } else { Cell::text("lifted") },
            Cell::maybe(ban.who.as_ref()),
            Cell::maybe(ban.reason.as_ref()),
        ]);
    }
    Page::of(table.render(look, "no bans"))
}

fn lifted(answer: &Bans, look: &Look) -> Page {
    let mut table = Table::new(["UPSTREAM", "SERVER", "MODEL"]);
    for ban in &answer.bans {
        table.row([
            Cell::text(&ban.upstream),
            Cell::text(ban.server_id.as_deref().unwrap_or("all")),
            Cell::text(ban.model.as_deref().unwrap_or("all")),
        ]);
    }
    let number = u64::try_from(answer.bans.len()).unwrap_or(u64::MAX);
    let text = table.render(look, "nothing of that was banned");
    if number == 0 {
        Page::of(text)
    } else {
        Page::of(format!("{text}{}\n", words::count(number, "ban lifted", "bans lifted")))
    }
}
