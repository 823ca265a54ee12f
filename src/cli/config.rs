//! `arriero config`: the configuration in force, and what was changed at run time.

use std::process::ExitCode;

use clap::Subcommand;
use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin_client::Question;
use super::asking::{Asking, who};
use super::output::{Look, Page, indented};
use super::table::{Cell, Table, Tone};
use super::words::{distance, plain};

/// What to do.
#[derive(clap::Args)]
#[command(subcommand_required = true, arg_required_else_help = true)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Verb,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Subcommand)]
enum Verb {
    /// Show the configuration in force, secrets masked.
    Show {
        /// With all that it leaves out filled in.
        #[arg(long)]
        effective: bool,
    },
    /// Show what was changed at run time and does not stand in the file.
    Diff,
    /// Write what was changed at run time into the file.
    Save,
}

#[derive(Debug, Deserialize)]
struct Diff {
    changes: Vec<Change>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Change {
    path: String,
    file: Value,
    now: Value,
    who: Option<String>,
    since: Option<String>,
    lost: bool,
}

/// Does it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let asking = &arguments.asking;
    match arguments.verb {
        Verb::Show { effective } => {
            let wish = [("effective", effective.then(|| "true".to_owned()))];
            asking.tell(Question::get("config").asking(&wish), show)
        }
        Verb::Diff => asking.tell(Question::get("config/diff"), diff),
        Verb::Save => asking.tell(Question::order(Method::POST, "config/save", &json!({ "who": who() })), saved),
    }
}

/// The configuration alone, without what the answer says beside it.
fn show(answer: &Value, _: &Look) -> Page {
    Page::of(indented(answer.get("config").unwrap_or(answer)))
}

fn diff(answer: &Diff, look: &Look) -> Page {
    let mut table = Table::new(["WHAT", "FILE", "NOW", "BY", "SINCE", "HOLDS"]);
    for change in &answer.changes {
        table.row([
            Cell::text(&change.path),
            value(&change.file),
            value(&change.now),
            Cell::maybe(change.who.as_ref()),
            Cell::maybe(change.since.as_ref().map(|at| distance(at, look.now))),
            // The file may have lost the place that was changed.
            if change.lost { Cell::text("no").toned(Tone::Warning) } else { Cell::text("yes") },
        ]);
    }
    Page::of(table.render(look, "no changes: what is in force stands in the file"))
}

fn value(value: &Value) -> Cell {
    match value {
        Value::Null => Cell::none(),
        Value::String(text) => Cell::text(text),
        other => Cell::text(other.to_string()),
    }
}

fn saved(answer: &Value, _: &Look) -> Page {
    let message = answer["message"].as_str().unwrap_or("saved");
    Page::of(format!("{}\n", plain(message)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_a_table_and_none_are_a_sentence() {
        let look = Look { colour: false, width: usize::MAX, now: time::OffsetDateTime::UNIX_EPOCH };
        let told = json!({ "success": true, "changes": [
            { "path": "upstreams.fleet.servers.a.weight", "file": 1, "now": 2, "who": "ana", "since": "1969-12-31T23:00:00Z" },
            { "path": "upstreams.fleet.servers.b", "now": { "url": "http://b" }, "lost": true },
        ]});
        let page = diff(&serde_json::from_value(told).unwrap(), &look);
        let wanted = "WHAT                              FILE  NOW                 BY   SINCE   HOLDS
upstreams.fleet.servers.a.weight  1     2                   ana  1h ago  yes
upstreams.fleet.servers.b         -     {\"url\":\"http://b\"}  -    -       no
";
        assert_eq!(page.text, wanted);
        let none = diff(&serde_json::from_value(json!({ "changes": [] })).unwrap(), &look);
        assert_eq!(none.text, "no changes: what is in force stands in the file\n");
    }

    #[test]
    fn the_configuration_is_shown_without_the_envelope() {
        let look = Look { colour: false, width: usize::MAX, now: time::OffsetDateTime::UNIX_EPOCH };
        let page = show(&json!({ "success": true, "config": { "version": 1 } }), &look);
        assert_eq!(page.text, "{\n  \"version\": 1\n}\n");
    }
}
