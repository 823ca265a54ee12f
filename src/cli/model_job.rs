//! What `arriero warm`, `unload` and `pull` share: an order about a model, and watching how far its servers are.

use std::io::{IsTerminal, Write};
use std::process::ExitCode;
use std::time::Duration;

use http::Method;
use percent_encoding::utf8_percent_encode;
use serde_json::{Value, json};

use super::operate::{SEGMENT, who};
use super::{AdminArguments, admin_client};

/// Time between two looks at a job.
const LOOK: Duration = Duration::from_millis(500);
/// Columns of a bar.
const BAR: usize = 24;
/// Columns of a line that is drawn over.
const WIDTH: usize = 79;

/// Which model, where, and how the outcome is told.
#[derive(clap::Args)]
pub struct Order {
    #[command(flatten)]
    admin: AdminArguments,
    /// The model.
    model: String,
    /// Only on this server; may be given several times.
    #[arg(long, value_name = "NAME")]
    server: Vec<String>,
    /// Print the job as JSON.
    #[arg(long)]
    json: bool,
}

/// Gives an order; watches the job to its end where that is wanted, and tells how it went.
pub fn order(order: &Order, verb: &str, mut body: Value, watch: bool) -> ExitCode {
    body["who"] = json!(who());
    if !order.server.is_empty() {
        body["servers"] = json!(order.server);
    }
    let model = utf8_percent_encode(&order.model, SEGMENT);
    let question = admin_client::Question {
        body: body.to_string().into(),
        timeout: Duration::from_secs(30),
        ..admin_client::Question::new(Method::POST, &format!("/api/orchestrator/models/{model}/{verb}"))
    };
    let mut job = match ask(&order.admin, question) {
        Ok(job) => job,
        Err(code) => return code,
    };
    let mut screen = Screen::new(order.json);
    while watch && job["endedAt"].is_null() {
        screen.show(&job);
        std::thread::sleep(LOOK);
        let path = format!("/api/orchestrator/jobs/{}", job["id"]);
        job = match ask(&order.admin, admin_client::Question::new(Method::GET, &path)) {
            Ok(job) => job,
            Err(code) => return code,
        };
    }
    screen.show(&job);
    if order.json {
        println!("{job:#}");
    } else if job["endedAt"].is_null() {
        println!("job {} goes on; GET /api/orchestrator/jobs/{} tells how far it is", job["id"], job["id"]);
    }
    ExitCode::from(u8::from(matches!(job["state"].as_str(), Some("failed" | "cancelled"))))
}

/// The job of an answer.
fn ask(admin: &AdminArguments, question: admin_client::Question) -> Result<Value, ExitCode> {
    let answer = admin_client::ask(admin, question).map_err(|problem| problem.report())?;
    let mut outcome: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if !(200..300).contains(&answer.status) {
        let text = String::from_utf8_lossy(&answer.body);
        eprintln!("error: {}", outcome["detail"].as_str().unwrap_or(&text));
        return Err(ExitCode::from(1));
    }
    Ok(outcome["job"].take())
}

/// Where the progress is shown: drawn over and over on a terminal, else a line for each change.
struct Screen {
    terminal: bool,
    silent: bool,
    lines: usize,
    told: Vec<String>,
}

impl Screen {
    fn new(silent: bool) -> Self {
        Self { terminal: std::io::stdout().is_terminal(), silent, lines: 0, told: Vec::new() }
    }

    fn show(&mut self, job: &Value) {
        let rows = job["servers"].as_array().map(Vec::as_slice).unwrap_or_default();
        if self.silent {
            return;
        }
        let mut out = std::io::stdout().lock();
        // Who closed the pipe has seen enough.
        let _ = if self.terminal { self.draw(&mut out, rows) } else { self.tell(&mut out, rows) };
    }

    fn draw(&mut self, out: &mut impl Write, rows: &[Value]) -> std::io::Result<()> {
        if self.lines > 0 {
            write!(out, "\x1b[{}A", self.lines)?;
        }
        for row in rows {
            let line: String = line(row, true).chars().take(WIDTH).collect();
            writeln!(out, "\x1b[2K{line}")?;
        }
        self.lines = rows.len();
        out.flush()
    }

    fn tell(&mut self, out: &mut impl Write, rows: &[Value]) -> std::io::Result<()> {
        for (number, row) in rows.iter().enumerate() {
            let line = line(row, false);
            if self.told.get(number) != Some(&line) {
                writeln!(out, "{line}")?;
            }
            if number < self.told.len() {
                self.told[number] = line;
            } else {
                self.told.push(line);
            }
        }
        out.flush()
    }
}

/// A server's line. Without a bar it changes once for each tenth.
fn line(row: &Value, bar: bool) -> String {
    let text = |key: &str| row[key].as_str().unwrap_or_default();
    let (server, state) = (text("serverId"), text("state"));
    let (completed, total) = (row["completed"].as_u64().unwrap_or(0), row["total"].as_u64().unwrap_or(0));
    let percent = (completed.saturating_mul(100)).checked_div(total).unwrap_or(0).min(100);
    let seconds = |key: &str| row[key].as_f64().map(|milliseconds| milliseconds / 1e3);
    match state {
        "running" if total > 0 && bar => {
            let full = usize::try_from(percent).unwrap_or(0) * BAR / 100;
            let bar = format!("{}{}", "#".repeat(full), ".".repeat(BAR - full));
            format!("{server:<12} [{bar}] {percent:>3}% {}/{} {}", size(completed), size(total), text("status"))
        }
        "running" if total > 0 => format!("{server}: {}% of {}", percent / 10 * 10, size(total)),
        "running" if bar => format!("{server:<12} {}", if text("status").is_empty() { state } else { text("status") }),
        "waiting" | "running" => match seconds("estimatedTime") {
            Some(time) => format!("{server}: {state}, about {time:.1} s"),
            None => format!("{server}: {state}"),
        },
        "done" => match seconds("loadTime") {
            Some(time) => format!("{server}: done, {time:.1} s"),
            None => format!("{server}: done"),
        },
        _ => format!("{server}: {state} {}", text("error")).trim_end().to_owned(),
    }
}

/// Bytes as people read them.
fn size(bytes: u64) -> String {
    let bytes = bytes as f64;
    if bytes >= 1e9 { format!("{:.1} GB", bytes / 1e9) } else { format!("{:.0} MB", bytes / 1e6) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_a_server_is() {
        let row = json!({ "serverId": "t4", "state": "running", "status": "pulling 6a07", "completed": 1_200_000_000u64,
            "total": 4_800_000_000u64 });
        assert_eq!(line(&row, true), "t4           [######..................]  25% 1.2 GB/4.8 GB pulling 6a07");
        assert_eq!(line(&row, false), "t4: 20% of 4.8 GB");
        let row = json!({ "serverId": "t4", "state": "failed", "error": "down" });
        assert_eq!(line(&row, true), "t4: failed down");
        let row = json!({ "serverId": "t4", "state": "running", "estimatedTime": 2500.0 });
        assert_eq!(line(&row, false), "t4: running, about 2.5 s");
        let row = json!({ "serverId": "t4", "state": "done", "loadTime": 2400.0 });
        assert_eq!(line(&row, true), "t4: done, 2.4 s");
    }

    #[test]
    fn a_terminal_is_drawn_over_and_a_pipe_gets_each_change_once() {
        let row = |state: &str| vec![json!({ "serverId": "a", "state": state })];
        let mut screen = Screen { terminal: true, silent: false, lines: 0, told: Vec::new() };
        let mut out = Vec::new();
        screen.draw(&mut out, &row("waiting")).unwrap();
        screen.draw(&mut out, &row("done")).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "\x1b[2Ka: waiting\n\x1b[1A\x1b[2Ka: done\n");
        let mut out = Vec::new();
        for state in ["waiting", "waiting", "done"] {
            screen.tell(&mut out, &row(state)).unwrap();
        }
        assert_eq!(String::from_utf8(out).unwrap(), "a: waiting\na: done\n");
    }
}
