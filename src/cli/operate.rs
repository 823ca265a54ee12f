//! `arriero drain`, `undrain` and `maintenance`: what an operator decides about a server.

use std::process::ExitCode;
use std::time::Duration as StdDuration;

use http::Method;
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::{AdminArguments, admin_client};
use crate::units::Duration;

/// How long the running Arriero may take to answer beyond the time that it waits.
const MARGIN: StdDuration = StdDuration::from_secs(10);
/// What stands for itself in a part of a path (RFC 3986, unreserved).
pub const SEGMENT: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

/// Which server, and why.
#[derive(clap::Args)]
pub struct Server {
    #[command(flatten)]
    admin: AdminArguments,
    /// Name of the server; `UPSTREAM/NAME` where several upstreams have one of that name.
    server: String,
    /// Why; stands in the log and in the lists of the admin listener.
    #[arg(long, value_name = "TEXT")]
    reason: Option<String>,
}

/// Which server is to empty, and how long to wait for it.
#[derive(clap::Args)]
pub struct Drain {
    #[command(flatten)]
    server: Server,
    /// Wait until nothing runs on it, at most so long; exit status 1 when something still does.
    #[arg(long, value_name = "TIME")]
    wait: Option<Duration>,
}

/// Which server is to rest, and how long.
#[derive(clap::Args)]
pub struct Maintenance {
    #[command(flatten)]
    server: Server,
    /// End it instead.
    #[arg(long, conflicts_with_all = ["for", "wait"])]
    off: bool,
    /// It ends by itself after this time.
    #[arg(long, value_name = "TIME")]
    r#for: Option<Duration>,
    /// Wait until nothing runs on it, at most so long; exit status 1 when something still does.
    #[arg(long, value_name = "TIME")]
    wait: Option<Duration>,
}

/// `arriero drain`
pub fn drain(arguments: &Drain) -> ExitCode {
    order(&arguments.server, "drain", &json!({}), arguments.wait)
}

/// `arriero undrain`
pub fn undrain(arguments: &Server) -> ExitCode {
    order(arguments, "undrain", &json!({}), None)
}

/// `arriero maintenance`
pub fn maintenance(arguments: &Maintenance) -> ExitCode {
    let wanted = json!({ "enabled": !arguments.off, "for": arguments.r#for });
    order(&arguments.server, "maintenance", &wanted, arguments.wait)
}

/// Sends an order, tells how the server is then.
fn order(server: &Server, verb: &str, wanted: &Value, wait: Option<Duration>) -> ExitCode {
    let mut body = wanted.clone();
    body["who"] = json!(who());
    body["reason"] = json!(server.reason);
    let query = wait.map(|limit| format!("?wait={limit}")).unwrap_or_default();
    let id = utf8_percent_encode(&server.server, SEGMENT);
    let question = admin_client::Question {
        method: Method::POST,
        path: format!("/api/orchestrator/servers/{id}/{verb}{query}"),
        body: body.to_string().into(),
        timeout: wait.map_or(StdDuration::ZERO, |limit| limit.0) + MARGIN,
    };
    let answer = match admin_client::ask(&server.admin, question) {
        Ok(answer) => answer,
        Err(problem) => return problem.report(),
    };
    let outcome: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    if answer.status != 200 {
        let text = String::from_utf8_lossy(&answer.body);
        eprintln!("error: {}", outcome["detail"].as_str().unwrap_or(&text));
        return ExitCode::from(1);
    }
    let state = outcome["operation"]["state"].as_str().unwrap_or_default();
    let running = outcome["inFlightRequests"].as_u64().unwrap_or_default();
    println!("{}: {state}, {running} {} in flight", server.server, if running == 1 { "request" } else { "requests" });
    if wait.is_some() && running > 0 {
        eprintln!("error: it is not empty yet");
        return ExitCode::from(1);
    }
    ExitCode::SUCCESS
}

/// Who gives the order, as far as the environment says.
pub fn who() -> String {
    let named = |name: &str| std::env::var(name).ok().filter(|name| !name.is_empty());
    named("SUDO_USER").or_else(|| named("USER")).or_else(|| named("LOGNAME")).unwrap_or_else(|| "cli".to_owned())
}
