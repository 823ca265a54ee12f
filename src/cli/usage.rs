//! `arriero usage`: who used how much.

use std::process::ExitCode;

use clap::ValueEnum;
use serde::Deserialize;

use super::admin_client::Question;
use super::asking::Asking;
use super::output::{Look, Page};
use super::table::{Cell, Table};

/// What is summed up.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
    /// For whom or what there is a row.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "key,model")]
    by: Vec<By>,
    /// For which stretch of time there is a row.
    #[arg(long, value_enum, default_value_t = Per::Day)]
    per: Per,
    /// Only from this moment on, such as `2026-02-03` or `2026-02-03T04:05:06Z`.
    #[arg(long, value_name = "MOMENT")]
    from: Option<String>,
    /// Only until this moment.
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// The name of the API key.
    Key,
    /// The model.
    Model,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Per {
    /// An hour.
    Hour,
    /// A day, in UTC.
    Day,
    /// A month, in UTC.
    Month,
    /// All of it.
    Total,
}

#[derive(Debug, Deserialize)]
struct Answer {
    usage: Vec<Row>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Row {
    key: Option<String>,
    model: Option<String>,
    period: Option<String>,
    requests: u64,
    errors: u64,
    prompt_tokens: u64,
    output_tokens: u64,
    bytes_in: u64,
    bytes_out: u64,
}

/// The word of a choice as it is typed.
fn word(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}

/// Shows it.
pub fn run(arguments: &Arguments) -> ExitCode {
    let by: Vec<String> = arguments.by.iter().copied().map(word).collect();
    let wish = [
        ("by", Some(by.join(","))),
        ("per", Some(word(arguments.per))),
        ("from", arguments.from.clone()),
        ("to", arguments.to.clone()),
    ];
    arguments.asking.tell(Question::get("usage").asking(&wish), show)
}

fn show(answer: &Answer, look: &Look) -> Page {
    let mut table =
        Table::new(["PERIOD", "KEY", "MODEL", "REQUESTS", "ERRORS", "PROMPT TOKENS", "OUTPUT TOKENS", "IN", "OUT"]);
    for row in &answer.usage {
        table.row([
            Cell::maybe(row.period.as_ref()),
            Cell::maybe(row.key.as_ref()),
            Cell::maybe(row.model.as_ref()),
            Cell::count(row.requests),
            Cell::count(row.errors),
            Cell::count(row.prompt_tokens),
            Cell::count(row.output_tokens),
            Cell::size(row.bytes_in),
            Cell::size(row.bytes_out),
        ]);
    }
    Page::of(table.render(look, "no requests in that time"))
}
