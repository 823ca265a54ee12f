//! The servers: by name, connection, answer, models; and what the running process thinks of them.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::codes;
use super::super::facts::{Answered, Facts, Running, SeenServer, ServerFacts, Silence};
use super::super::finding::Finding;
use super::{Lines, count};
use crate::config::types::Kind;

mod gpus;
mod models;

/// An answer to a check that takes longer is slow: the checks of Arriero give up soon after.
const SLOW: Duration = Duration::from_secs(1);
/// The same for looking a name up.
const SLOW_NAME: Duration = Duration::from_secs(1);

/// Judges them.
pub fn judge(facts: &Facts) -> (Lines, Vec<Finding>) {
    let mut found = Vec::new();
    let lines = facts.servers.iter().map(line).collect();
    facts.servers.iter().for_each(|server| reach(server, &mut found));
    models::judge(facts, &mut found);
    versions(facts, &mut found);
    if let Ok(running) = &facts.running {
        running.servers.iter().for_each(|seen| standing(facts, running, seen, &mut found));
        gpus::judge(running, &mut found);
        empty_upstreams(running, &mut found);
        circuits(running, &mut found);
        queues(running, &mut found);
    }
    (lines, found)
}

fn line(server: &ServerFacts) -> String {
    let models =
        server.models.as_ref().map(|models| format!(", {}", count(models.len() as u64, "model"))).unwrap_or_default();
    match &server.answer {
        Ok(answer) => {
            let version = answer.version.as_deref().map(|version| format!(", Ollama {version}")).unwrap_or_default();
            let milliseconds = answer.took.as_secs_f64() * 1e3;
            format!("{} ({}): {} in {milliseconds:.0} ms{version}{models}", server.id, server.url, answer.status)
        }
        Err(silence) => format!("{} ({}): {}", server.id, server.url, words(silence)),
    }
}

fn words(silence: &Silence) -> &str {
    match silence {
        Silence::Unknown => "its name is not known",
        Silence::Refused(why) | Silence::Tls(why) | Silence::Silent(why) => why,
    }
}

/// Whether it can be reached.
fn reach(server: &ServerFacts, found: &mut Vec<Finding>) {
    let ServerFacts { id, url, host, port, .. } = server;
    match &server.addresses {
        Err(why) => found.push(Finding::new(
            codes::DNS_UNRESOLVED,
            format!("the host name `{host}` of the server `{id}` is not known: {why}"),
            format!("correct `url: {url}`, or make the name known (DNS, `/etc/hosts`, the network of the container)"),
        )),
        Ok((_, took)) if *took > SLOW_NAME => found.push(Finding::new(
            codes::DNS_SLOW,
            format!("looking up `{host}` took {:.1} s", took.as_secs_f64()),
            "see `/etc/resolv.conf`: a name server that does not answer is asked first",
        )),
        Ok(_) => {}
    }
    match &server.answer {
        Err(Silence::Unknown) => {}
        Err(Silence::Refused(why)) => found.push(Finding::new(
            codes::SERVER_UNREACHABLE,
            format!("the server `{id}` takes no connections at `{url}`: {why}"),
            unreachable(server),
        )),
        // The section `tls` says more where a certificate was shown.
        Err(Silence::Tls(_)) if server.certificate.is_some() => {}
        Err(Silence::Tls(why)) => found.push(Finding::new(
            codes::SERVER_UNREACHABLE,
            format!("the server `{id}` does not speak TLS at `{url}`: {why}"),
            format!("write `http://` if it speaks none, or see with `openssl s_client -connect {host}:{port}`"),
        )),
        Err(Silence::Silent(why)) => found.push(Finding::new(
            codes::SERVER_SILENT,
            format!("the server `{id}` takes the connection and gives no proper answer: {why}"),
            "restart it (`systemctl restart ollama`); until then `arriero drain` keeps requests away",
        )),
        Ok(answer) => answered(server, answer, found),
    }
}

fn unreachable(server: &ServerFacts) -> String {
    match server.kind {
        Kind::Ollama => format!(
            "start it (`systemctl start ollama`) and let it listen for others: `OLLAMA_HOST=0.0.0.0:{}`; then a firewall is left",
            server.port
        ),
        Kind::Openai | Kind::Http => {
            "start it, see on which address it listens, and whether a firewall is in between".to_owned()
        }
    }
}

fn answered(server: &ServerFacts, answer: &Answered, found: &mut Vec<Finding>) {
    let id = &server.id;
    if !(200..400).contains(&answer.status) {
        let fix = match answer.status {
            403 => {
                "Ollama refuses foreign host names on loopback: let it listen on `OLLAMA_HOST=0.0.0.0`, or allow them with `OLLAMA_ORIGINS`"
            }
            401 => {
                "it wants credentials that Arriero does not have: take them off, or add a field in the route's `headers.request.set`"
            }
            404 => {
                "the path of `health.active.path` is not there: name another one, or see whether this is the right server"
            }
            _ => "its own log says why: `journalctl -u ollama -n 50`",
        };
        found.push(Finding::new(
            codes::SERVER_ERROR,
            format!("the server `{id}` answers checks with status {}", answer.status),
            fix,
        ));
    } else if answer.took > SLOW {
        found.push(Finding::new(
            codes::SERVER_SLOW,
            format!("the server `{id}` took {:.1} s to answer a check", answer.took.as_secs_f64()),
            "see what it does (`ollama ps`, `nvidia-smi`, `top`); raise `health.active.timeout` where that is normal",
        ));
    }
}

fn versions(facts: &Facts, found: &mut Vec<Finding>) {
    let mut all: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for server in &facts.servers {
        let version = server.answer.as_ref().ok().and_then(|answer| answer.version.as_deref());
        all.entry(&server.upstream).or_default().extend(version);
    }
    for (upstream, versions) in all.into_iter().filter(|(_, versions)| versions.len() > 1) {
        let list: Vec<&str> = versions.into_iter().collect();
        found.push(Finding::new(
            codes::VERSIONS_DIFFER,
            format!("the servers of `{upstream}` have different versions of Ollama: {}", list.join(", ")),
            "bring them to the same one, so that a request does the same wherever it runs",
        ));
    }
}

/// What the running process, or an operator, decided about a server.
fn standing(facts: &Facts, running: &Running, seen: &SeenServer, found: &mut Vec<Finding>) {
    let id = &seen.id;
    let here = facts.servers.iter().find(|server| server.upstream == seen.upstream && server.name == seen.name);
    let answers = here.and_then(|server| server.answer.as_ref().ok()).is_some_and(|answer| answer.status < 400);
    if seen.health == "down" && answers {
        found.push(Finding::new(
            codes::SERVER_DOWN,
            format!("Arriero's checks of the server `{id}` fail, though it answers here"),
            "it may be coming back: try again; else see whether Arriero reaches it from where it runs, and `health.active`",
        ));
    }
    let operation = &seen.operation;
    if matches!(operation.state.as_str(), "draining" | "maintenance") {
        let who =
            operation.who.as_deref().filter(|who| !who.is_empty()).map(|who| format!(" by {who}")).unwrap_or_default();
        let since = operation.since.as_deref().map(|since| format!(" since {since}")).unwrap_or_default();
        let why = operation
            .reason
            .as_deref()
            .filter(|why| !why.is_empty())
            .map(|why| format!(" ({why})"))
            .unwrap_or_default();
        let state = if operation.state == "draining" { "drained" } else { "in maintenance" };
        let finding = Finding::new(
            codes::SERVER_DRAINING,
            format!("the server `{id}` is {state}{who}{since}{why}, {} there", running_there(seen.in_flight)),
            format!("`arriero undrain {id}` when the work is done"),
        );
        let is_expected = operation.until.is_some() || seen.in_flight > 0;
        found.push(if is_expected { finding.noted() } else { finding });
    }
    if running.flapping.contains(id) {
        found.push(Finding::new(
            codes::SERVER_FLAPPING,
            format!("the server `{id}` falls ill and gets well again and again"),
            format!("`arriero drain {id}` until its log says why; GET /api/orchestrator/recovery-failures/{id}/history lists its tests"),
        ));
    }
}

fn running_there(count: u32) -> String {
    match count {
        0 => "nothing runs".to_owned(),
        1 => "1 request still runs".to_owned(),
        many => format!("{many} requests still run"),
    }
}

fn empty_upstreams(running: &Running, found: &mut Vec<Finding>) {
    let mut works: BTreeMap<&str, bool> = BTreeMap::new();
    for seen in &running.servers {
        let takes = seen.health != "down" && seen.operation.state == "active";
        *works.entry(&seen.upstream).or_default() |= takes;
    }
    for (upstream, _) in works.into_iter().filter(|(_, works)| !works) {
        found.push(Finding::new(
            codes::NO_SERVER,
            format!("the upstream `{upstream}` has no server that takes requests: they are answered 503"),
            "bring one back: the other findings say what is wrong with each",
        ));
    }
}

fn circuits(running: &Running, found: &mut Vec<Finding>) {
    for circuit in running.circuits.iter().filter(|circuit| circuit.state != "closed") {
        let server = &circuit.server_id;
        let (what, path) = match circuit.model.as_str() {
            "server-level" => (format!("the server `{server}`"), format!("{server}/server")),
            model => (format!("the model `{model}` on the server `{server}`"), format!("{server}/{model}")),
        };
        let why = match (circuit.forced, circuit.failure_count) {
            (true, _) => "an operator holds it open".to_owned(),
            (false, 0) => "too many of its requests failed".to_owned(),
            (false, failures) => format!("{} in a row", count(failures.into(), "failure")),
        };
        let until = circuit.next_retry_at.as_deref().map(|until| format!(", until {until}")).unwrap_or_default();
        let finding = Finding::new(
            codes::CIRCUIT_OPEN,
            format!("the circuit of {what} is {}: {why}{until}", circuit.state.replace('_', " ")),
            format!(
                "mend what fails there, then POST /api/orchestrator/circuit-breakers/{path}/reset; by itself it tries again"
            ),
        );
        // One request is let through as a trial: it is on its way back.
        found.push(if circuit.state == "half_open" { finding.noted() } else { finding });
    }
    for ban in &running.bans {
        let words = |name: &str, value: Option<&str>| value.map(|value| format!("{name} `{value}`"));
        let what = [words("the server", ban.server_id.as_deref()), words("the model", ban.model.as_deref())];
        let what: Vec<String> = what.into_iter().flatten().collect();
        let until = ban.until.as_deref().map(|until| format!(" until {until}")).unwrap_or_default();
        let why =
            ban.reason.as_deref().filter(|why| !why.is_empty()).map(|why| format!(" ({why})")).unwrap_or_default();
        found.push(Finding::new(
            codes::BANNED,
            format!("{} is banned{until}{why}", what.join(" with ")),
            "DELETE /api/orchestrator/bans/SERVER/MODEL lifts it",
        ));
    }
}

fn queues(running: &Running, found: &mut Vec<Finding>) {
    for queue in &running.queues {
        let upstream = &queue.upstream;
        if queue.paused {
            found.push(Finding::new(
                codes::QUEUE_PAUSED,
                format!("the queue of `{upstream}` is paused: requests wait until `queue.timeout` and then fail"),
                "POST /api/orchestrator/queue/resume",
            ));
        }
        let most = queue.max_pending_per_model;
        for (model, waiting) in queue.by_model.iter().filter(|(_, waiting)| most > 0 && **waiting * 10 >= most * 9) {
            found.push(Finding::new(
                codes::QUEUE_FULL,
                format!("{waiting} of at most {most} requests wait for the model `{model}` in `{upstream}`"),
                format!(
                    "put `{model}` on more servers, raise `max_in_flight` where there is room, or `queue.max_pending`"
                ),
            ));
        }
    }
}
