//! `arriero drain`, `undrain` and `maintenance`: what an operator decides about a server.

use std::process::ExitCode;
use std::time::Duration as StdDuration;

use http::Method;
use serde::Deserialize;
use serde_json::{Value, json};

use super::admin_client::{Question, segment};
use super::asking::{Asking, who};
use super::output::Page;
use super::words::{count, plain};
use crate::units::Duration;

/// How long the running Arriero may take to answer beyond the time that it waits.
const MARGIN: StdDuration = StdDuration::from_secs(10);

/// Which server, and why.
#[derive(clap::Args)]
pub struct Server {
    #[command(flatten)]
    asking: Asking,
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

/// How the server is then.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Settled {
    operation: Operation,
    in_flight_requests: u64,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Operation {
    state: String,
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
    let path = format!("servers/{}/{verb}", segment(&server.server));
    let question = Question::order(Method::POST, &path, &body)
        .asking(&[("wait", wait.map(|limit| limit.to_string()))])
        .within(wait.map_or(StdDuration::ZERO, |limit| limit.0) + MARGIN);
    server.asking.tell(question, |settled: &Settled, _| {
        let (state, running) = (plain(&settled.operation.state), settled.in_flight_requests);
        let requests = count(running, "request", "requests");
        let wrong = (wait.is_some() && running > 0).then(|| "it is not empty yet".to_owned());
        Page { wrong, ..Page::of(format!("{}: {state}, {requests} in flight\n", plain(&server.server))) }
    })
}
