//! `arriero status`: how it is, on one screen.

use std::process::ExitCode;
use std::time::Duration;

use super::admin_client::Question;
use super::asking::Asking;
use super::output::{Look, Page};
use super::overview::{Overview, Percentiles};
use super::table::{Cell, Tone, facts};
use super::words::{self, distance, plain};

/// Circuits and bans that are named; `arriero circuit` and `arriero ban` list all.
const NAMED: usize = 5;

/// Where to ask.
#[derive(clap::Args)]
pub struct Arguments {
    #[command(flatten)]
    asking: Asking,
}

/// Shows it; 0 when all is well, 1 when a server is missing or the process is stopping.
pub fn run(arguments: &Arguments) -> ExitCode {
    arguments.asking.tell(Question::get("overview"), show)
}

fn show(overview: &Overview, look: &Look) -> Page {
    let mut rows = vec![
        ("arriero", arriero(overview)),
        ("configuration", Cell::text(overview.config.line()).toned(config_tone(overview))),
        ("servers", Cell::text(overview.servers_line()).toned(servers_tone(overview))),
        ("requests", Cell::text(overview.requests_line())),
        ("rates", Cell::text(overview.rates_line())),
        ("first byte", Cell::text(Percentiles::line(overview.latency.ttfb_ms))),
        ("duration", Cell::text(Percentiles::line(overview.latency.duration_ms))),
        ("circuits", circuits(overview)),
        ("bans", bans(overview)),
    ];
    let paused: Vec<&str> =
        overview.queues.iter().filter(|queue| queue.paused).map(|queue| queue.upstream.as_str()).collect();
    if !paused.is_empty() {
        rows.push(("paused", Cell::text(format!("queues of {}", paused.join(", "))).toned(Tone::Warning)));
    }
    let mut text = facts(&rows, look);
    let ill = overview.servers.iter().filter(|server| !server.healthy || server.operation != "active");
    for server in ill {
        let words = [&server.health, &server.operation].map(|word| Tone::of(word).paint(&plain(word), look.colour));
        text.push_str(&format!("  {}: {}\n", plain(&server.id), words.join(", ")));
    }
    for circuit in overview.circuits.iter().take(NAMED) {
        let model = circuit.model.as_ref().map_or_else(String::new, |model| format!(" {}", plain(model)));
        let next = circuit.next_retry_at.as_ref().map(|at| format!(", half open {}", distance(at, look.now)));
        let state = Tone::of(&circuit.state).paint(&plain(&circuit.state), look.colour);
        text.push_str(&format!(
            "  {}{model}: circuit {state}{}\n",
            plain(&circuit.server_id),
            next.unwrap_or_default()
        ));
    }
    if let Some(error) = overview.config.error.as_ref().filter(|_| !overview.config.in_force) {
        text.push_str("\nthe file on disk:\n");
        error.lines().for_each(|line| text.push_str(&format!("  {}\n", plain(line))));
    }
    Page { text, is_bad: overview.status != "healthy", wrong: None }
}

fn arriero(overview: &Overview) -> Cell {
    let uptime = words::span(Duration::from_secs(overview.uptime_seconds));
    let revision = overview.revision.as_ref().map(|revision| format!(" ({revision})")).unwrap_or_default();
    let text = format!("{}, version {}{revision}, up {uptime}", overview.status, overview.version);
    Cell::text(text).toned(if overview.status == "stopping" { Tone::Warning } else { Tone::of(&overview.status) })
}

/// In which colour the line about the configuration stands.
pub fn config_tone(overview: &Overview) -> Tone {
    if overview.config.in_force { Tone::Good } else { Tone::Bad }
}

/// In which colour the line about the servers stands.
pub fn servers_tone(overview: &Overview) -> Tone {
    let up = overview.servers.iter().filter(|server| server.healthy).count();
    match overview.servers.len() {
        all if up == all => Tone::Good,
        _ if up == 0 => Tone::Bad,
        _ => Tone::Warning,
    }
}

fn circuits(overview: &Overview) -> Cell {
    match overview.circuits_count() {
        0 => Cell::text("all closed").toned(Tone::Good),
        some => Cell::text(words::count(some, "is not closed", "are not closed")).toned(Tone::Warning),
    }
}

fn bans(overview: &Overview) -> Cell {
    match overview.bans_count() {
        0 => Cell::text("none"),
        some => Cell::text(some.to_string()).toned(Tone::Warning),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_refused_file_and_a_missing_server_are_told() {
        let told = json!({
            "version": "1.2.3", "revision": "1a2b3c4d5", "uptimeSeconds": 192, "status": "degraded",
            "config": { "hash": "0123456789abcdef", "inForce": false, "error": "error[E1]: no\n  in line 3\u{1b}[2J" },
            "requests": { "inFlight": 3, "answering": 2, "queued": 1, "perSecond": 4.25, "tokensPerSecond": 210.4 },
            "latency": { "ttfbMs": { "p50": 120.0, "p95": 1250.0, "p99": 61000.0 }, "durationMs": null },
            "servers": [
                { "id": "a", "healthy": true, "health": "up", "operation": "active" },
                { "id": "b", "healthy": false, "health": "down", "operation": "draining" },
            ],
            "queues": [{ "upstream": "fleet", "paused": true }],
            "circuits": [{ "serverId": "a", "model": "m", "state": "open", "nextRetryAt": "1970-01-01T00:00:12Z" }],
            "omitted": { "bans": 2 },
        });
        let overview: Overview = serde_json::from_value(told).unwrap();
        let page = show(&overview, &Look { colour: false, width: 200, now: time::OffsetDateTime::UNIX_EPOCH });
        let wanted = "arriero        degraded, version 1.2.3 (1a2b3c4d5), up 3m 12s
configuration  0123456789ab in force, the file on disk is refused
servers        1 of 2 up, 1 draining
requests       3 in flight, 2 answering, 1 queued
rates          4.2 requests/s, 0 errors/s, 210 tokens/s
first byte     p50 120ms, p95 1.2s, p99 1m 1s
duration       nothing ended in the last minute
circuits       1 is not closed
bans           2
paused         queues of fleet
  b: down, draining
  a m: circuit open, half open in 12s

the file on disk:
  error[E1]: no
    in line 3\\u{1b}[2J
";
        assert_eq!(page.text, wanted);
        assert!(page.is_bad && page.wrong.is_none());
    }
}
