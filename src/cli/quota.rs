//! `arriero quota`: how much each key has used of token quotas, and the order to begin a window anew.

use std::process::ExitCode;

use clap::{ArgGroup, Subcommand, ValueEnum};
use http::Method;
use serde::Deserialize;
use serde_json::json;

use super::admin_client::Question;
use super::asking::{Asking, who};
use super::output::{Look, Page};
use super::table::{Cell, Table, Tone};
use super::words;

/// What to do; shows what was used by default.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(subcommand)]
    verb: Option<Verb>,
    /// Only those of this quota.
    #[arg(long, value_name = "NAME")]
    quota: Option<String>,
    /// Only those of this key: the id or the name of an API key, or a key as it is shown here.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Only those in this state.
    #[arg(long, value_enum)]
    state: Option<State>,
    /// How many lines at most.
    #[arg(long, value_name = "NUMBER")]
    limit: Option<usize>,
    #[command(flatten)]
    asking: Asking,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum State {
    /// Less is used than is warned of.
    Within,
    /// So much is used that it is warned of.
    Warned,
    /// All is used.
    Exceeded,
}

#[derive(Subcommand)]
enum Verb {
    /// Begin the window that runs anew, as if nothing had been used in it.
    Reset(Reset),
}

#[derive(clap::Args)]
#[command(override_usage = "arriero quota reset [OPTIONS] <NAME> <KEY|--all>")]
#[command(group(ArgGroup::new("whose").args(["of", "all"]).required(true)))]
struct Reset {
    /// Name of the quota.
    name: String,
    /// Of this key: the id or the name of an API key, or a key as `arriero quota` shows it.
    #[arg(value_name = "KEY")]
    of: Option<String>,
    /// Of all keys.
    #[arg(long)]
    all: bool,
    /// Why; stands in the log.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

#[derive(Debug, Deserialize)]
struct Quotas {
    quotas: Vec<Quota>,
    #[serde(default)]
    total: Option<u64>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Quota {
    quota: String,
    key: String,
    key_name: Option<String>,
    every: String,
    tokens: String,
    used: u64,
    used_here: Option<u64>,
    limit: Option<u64>,
    left: Option<u64>,
    state: String,
    resets_at: String,
}

/// Does it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let asking = &arguments.asking;
    match &arguments.verb {
        None => {
            let state = arguments.state.and_then(|state| state.to_possible_value());
            let wish = [
                ("quota", arguments.quota.clone()),
                ("key", arguments.key.clone()),
                ("state", state.map(|state| state.get_name().to_owned())),
                ("limit", arguments.limit.map(|limit| limit.to_string())),
            ];
            asking.tell(Question::get("quotas").asking(&wish), list)
        }
        Some(Verb::Reset(reset)) => {
            let body = json!({
                "quota": reset.name, "key": reset.of, "all": reset.all, "reason": reset.reason, "who": who(),
            });
            asking.tell(Question::order(Method::POST, "quotas/reset", &body), begun_anew)
        }
    }
}

fn table(quotas: &[Quota], look: &Look, none: &str) -> String {
    // Where other instances used something too.
    let apart = quotas.iter().any(|quota| quota.used_here.is_some_and(|here| here != quota.used));
    let mut heads = vec!["QUOTA", "KEY", "NAME", "USED", "LIMIT", "LEFT", "SHARE", "TOKENS", "RESETS", "STATE"];
    if apart {
        heads.insert(4, "HERE");
    }
    let mut table = Table::new(heads);
    for quota in quotas {
        let share = |limit: u64| {
            let hundredths = quota.used as f64 * 100.0 / limit.max(1) as f64;
            Cell::measured(hundredths, format!("{}%", hundredths.floor()))
        };
        let tone = match quota.state.as_str() {
            "warned" => Tone::Warning,
            "exceeded" => Tone::Bad,
            _ => Tone::Good,
        };
        let mut row = vec![
            Cell::text(&quota.quota),
            Cell::text(&quota.key),
            Cell::maybe(quota.key_name.as_ref()),
            Cell::count(quota.used),
            quota.limit.map_or_else(Cell::none, Cell::count),
            quota.left.map_or_else(Cell::none, Cell::count),
            quota.limit.map_or_else(Cell::none, share),
            Cell::text(format!("{} a {}", quota.tokens, quota.every)),
            Cell::text(words::distance(&quota.resets_at, look.now)),
            Cell::text(&quota.state).toned(tone),
        ];
        if apart {
            row.insert(4, quota.used_here.map_or_else(Cell::none, Cell::count));
        }
        table.row(row);
    }
    table.render(look, none)
}

fn list(answer: &Quotas, look: &Look) -> Page {
    let text = table(&answer.quotas, look, "nothing is used of any quota");
    let (shown, total) = (answer.quotas.len() as u64, answer.total.unwrap_or(0));
    if total <= shown {
        return Page::of(text);
    }
    Page::of(format!("{text}{shown} of {}\n", words::count(total, "key", "keys")))
}

fn begun_anew(answer: &Quotas, look: &Look) -> Page {
    let text = table(&answer.quotas, look, "nothing was used of it");
    let number = answer.quotas.len() as u64;
    if number == 0 {
        Page::of(text)
    } else {
        Page::of(format!("{text}{}\n", words::count(number, "window begun anew", "windows begun anew")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_used_is_a_table() {
        let look = Look { colour: false, width: usize::MAX, now: time::OffsetDateTime::UNIX_EPOCH };
        let told = json!({ "total": 3, "quotas": [{
            "quota": "daily", "key": "api_key=0a1b2c3d", "keyName": "ana", "every": "day", "tokens": "total", "used": 837,
            "limit": 1000, "left": 163, "state": "warned", "resetsAt": "1970-01-01T02:05:00Z",
        }]});
        let page = list(&serde_json::from_value(told).unwrap(), &look);
        let wanted = "QUOTA  KEY               NAME  USED  LIMIT  LEFT  SHARE  TOKENS       RESETS    STATE
daily  api_key=0a1b2c3d  ana    837   1000   163    83%  total a day  in 2h 5m  warned
1 of 3 keys
";
        assert_eq!(page.text, wanted);
        let told = json!({ "quotas": [{
            "quota": "daily", "key": "all", "every": "day", "tokens": "total", "used": 837, "usedHere": 30,
            "state": "within", "resetsAt": "1970-01-01T02:05:00Z",
        }]});
        let page = list(&serde_json::from_value(told).unwrap(), &look);
        let wanted = "QUOTA  KEY  NAME  USED  HERE  LIMIT  LEFT  SHARE  TOKENS       RESETS    STATE
daily  all  -      837    30  -      -     -      total a day  in 2h 5m  within
";
        assert_eq!(page.text, wanted);
        let none = list(&serde_json::from_value(json!({ "quotas": [] })).unwrap(), &look);
        assert_eq!(none.text, "nothing is used of any quota\n");
    }
}
