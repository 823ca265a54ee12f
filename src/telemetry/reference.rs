//! `docs/reference/metrics.md` is what the table of metrics says; `tests/metrics.rs` holds instances against the table.
//! `ARRIERO_WRITE_GENERATED=1` writes the file anew.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::Path;

use super::names::{GROUPS, Group, Kind, Metric, gpu};

/// The name as it stands in front of a sample, that of a histogram without `_bucket`.
fn told(metric: &Metric) -> String {
    let end = if metric.kind == Kind::Counter { "_total" } else { "" };
    format!("{}{end}", metric.name)
}

/// What its numbers are.
fn unit(metric: &Metric) -> &'static str {
    let units = [
        ("_timestamp_seconds", "seconds since 1970"),
        ("_expiry_seconds", "seconds since 1970"),
        ("_start_time_seconds", "seconds since 1970"),
        ("_tokens_per_second", "tokens per second"),
        ("_seconds", "seconds"),
        ("_bytes", "bytes"),
        ("_ratio", "0 to 1"),
        ("_celsius", "degrees Celsius"),
        ("_watts", "watts"),
    ];
    units.iter().find(|(end, _)| metric.name.ends_with(end)).map_or("", |(_, unit)| unit)
}

fn tables(groups: &[Group]) -> String {
    let mut text = String::new();
    for (title, metrics) in groups {
        let _ =
            writeln!(text, "\n### {title}\n\n| metric | type | unit | labels | what it says |\n|---|---|---|---|---|");
        for metric in *metrics {
            let labels: Vec<String> = metric.labels.iter().map(|label| format!("`{label}`")).collect();
            let only = metric.only.map(|only| format!(". Only {only}")).unwrap_or_default();
            let (name, kind, unit) = (told(metric), metric.kind.as_str(), unit(metric));
            let _ = writeln!(text, "| `{name}` | {kind} | {unit} | {} | {}{only} |", labels.join(", "), metric.help);
        }
    }
    text
}

fn page() -> String {
    format!(
        "# Metrics\n\n\
         <!-- Generated from src/telemetry/names.rs: run the tests once with ARRIERO_WRITE_GENERATED=1. -->\n\n\
         What [monitoring](../monitoring.md) is made of. A histogram has `_bucket`, `_sum` and `_count` behind its name. \
         Labels are told by the configuration or come from closed lists: clients cannot make series. Where it says \
         \"only\", there is no series before or otherwise, and a counter does not begin at 0.\n\n\
         ## Of `arriero run`\n{}\n\
         ## Of `arriero gpu-agent`\n\n\
         Each is of one card, by its `uuid`, `index` and `name`, unless it has no such labels. `arriero_build_info` is \
         there, too. See [the GPU agent](../gpu-agent.md).\n{}",
        tables(GROUPS),
        tables(gpu::GROUPS)
    )
}

#[test]
fn the_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/reference/metrics.md");
    if std::env::var_os("ARRIERO_WRITE_GENERATED").is_some() {
        std::fs::write(&path, page()).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    }
    let written = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(written == page(), "docs/reference/metrics.md is old: run the tests once with ARRIERO_WRITE_GENERATED=1");
}

#[test]
fn names_are_unique_and_say_what_their_numbers_are() {
    for groups in [GROUPS, gpu::GROUPS] {
        let all: Vec<&Metric> = groups.iter().flat_map(|(_, metrics)| *metrics).collect();
        let names: BTreeSet<&str> = all.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), all.len());
        for metric in all {
            assert!(metric.name.starts_with("arriero_") || metric.name.starts_with("process_"), "{metric:?}");
            assert!(!metric.name.ends_with("_total"), "{metric:?}: the encoder adds that");
            assert!(metric.kind != Kind::Histogram || !unit(metric).is_empty(), "{metric:?}: of what?");
            assert!(!metric.help.ends_with('.') && !metric.help.contains('|'), "{metric:?}");
            let labels: BTreeSet<_> = metric.labels.iter().collect();
            assert_eq!(labels.len(), metric.labels.len(), "{metric:?}");
        }
    }
}
