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
    /// What each row is about.
    #[arg(long, value_enum, value_delimiter = ',', default_value = "key,model")]
    by: Vec<By>,
    /// How much time each row sums up.
    #[arg(long, value_enum, default_value_t = Per::Day)]
    per: Per,
    /// Only from this moment on: `2026-02-03T04:05:06Z`, or `7d` for the last seven days.
    #[arg(long, value_name = "MOMENT")]
    from: Option<String>,
    /// Only until this moment.
    #[arg(long, value_name = "MOMENT")]
    to: Option<String>,
}

#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
enum By {
    /// The id of the API key.
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
    let by: Vec<String> =
        By::value_variants().iter().filter(|by| arguments.by.contains(by)).map(|by| word(*by)).collect();
    let wish = [
        ("by", Some(by.join(","))),
        ("per", Some(word(arguments.per))),
        ("from", arguments.from.clone()),
        ("to", arguments.to.clone()),
    ];
    arguments
        .asking
        .tell(Question::get("usage").asking(&wish), |answer: &Answer, look| show(answer, arguments.per, look))
}

impl Per {
    /// A beginning of one, as far as it says something.
    fn name(self, begin: &str) -> String {
        let length = match self {
            Self::Hour => "2026-02-03T04:05".len(),
            Self::Day => "2026-02-03".len(),
            Self::Month => "2026-02".len(),
            Self::Total => begin.len(),
        };
        begin.chars().take(length).collect::<String>().replace('T', " ")
    }
}

fn show(answer: &Answer, per: Per, look: &Look) -> Page {
    let mut table =
        Table::new(["PERIOD", "KEY", "MODEL", "REQUESTS", "ERRORS", "PROMPT TOKENS", "OUTPUT TOKENS", "IN", "OUT"]);
    for row in &answer.usage {
        table.row([
            Cell::maybe(row.period.as_ref().map(|begin| per.name(begin))),
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

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_period_is_as_long_as_what_is_summed_up() {
        let told = [Per::Hour, Per::Day, Per::Month].map(|per| per.name("2026-02-03T04:00:00Z"));
        assert_eq!(told, ["2026-02-03 04:00", "2026-02-03", "2026-02"]);
    }

    #[test]
    fn usage_is_a_table_and_none_is_a_sentence() {
        let look = Look { colour: false, width: usize::MAX, now: time::OffsetDateTime::UNIX_EPOCH };
        let told = json!({ "usage": [{
            "key": "ana", "model": "m:latest", "period": "2026-02-03T00:00:00Z", "requests": 3, "errors": 1,
            "promptTokens": 12, "outputTokens": 345, "bytesIn": 512, "bytesOut": 2048,
        }]});
        let page = show(&serde_json::from_value(told).unwrap(), Per::Day, &look);
        let wanted = "PERIOD      KEY  MODEL     REQUESTS  ERRORS  PROMPT TOKENS  OUTPUT TOKENS     IN      OUT
2026-02-03  ana  m:latest         3       1             12            345  512 B  2.0 KiB
";
        assert_eq!(page.text, wanted);
        let none = show(&serde_json::from_value(json!({ "usage": [] })).unwrap(), Per::Day, &look);
        assert_eq!(none.text, "no requests in that time\n");
    }
}
