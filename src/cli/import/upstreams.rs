//! Groups of servers: `upstream` blocks, and hosts that stand in a `proxy_pass` itself.

use serde_json::{Map, Value, json};

use super::report::{Outcome, Report};
use super::scope::Scope;
use super::tree::Directive;
use super::values;

/// Where Ollama listens unless it is told otherwise.
const OLLAMA_PORT: &str = ":11434";

/// The text of a `proxy_pass`, taken apart.
pub(super) struct Pass<'t> {
    pub(super) tls: bool,
    /// A group, or a host with its port.
    pub(super) host: &'t str,
    /// What stands behind the host, from its `/`.
    pub(super) path: Option<&'t str>,
}

impl<'t> Pass<'t> {
    pub(super) fn parse(text: &'t str) -> Option<Self> {
        let (tls, rest) = match text.strip_prefix("http://") {
            Some(rest) => (false, rest),
            None => (true, text.strip_prefix("https://")?),
        };
        let (host, path) = match rest.find('/') {
            Some(at) => (&rest[..at], Some(&rest[at..])),
            None => (rest, None),
        };
        (!host.is_empty() && !text.contains('$') && host != "unix:").then_some(Self { tls, host, path })
    }
}

/// The name of an upstream made of a host, and the upstream itself. `block` is the group of that name, if there is one.
pub(super) fn upstream(
    pass: &Pass<'_>,
    block: Option<&Directive>,
    scope: &Scope<'_>,
    report: &mut Report,
) -> (String, Value) {
    let name: String = pass.host.chars().map(|c| if c.is_ascii_alphanumeric() || c == '.' { c } else { '_' }).collect();
    let name = name.trim_matches('_').to_owned();
    let mut out = Map::new();
    out.insert("kind".to_owned(), json!("http"));
    match block {
        Some(block) => group(block, pass.tls, &mut out, report),
        None => {
            out.insert("servers".to_owned(), json!([{ "url": url(pass.tls, pass.host) }]));
        }
    }
    let urls: Vec<&str> = out["servers"].as_array().into_iter().flatten().filter_map(|s| s["url"].as_str()).collect();
    let ollama = !urls.is_empty() && urls.iter().all(|url| url.ends_with(OLLAMA_PORT));
    if ollama {
        out.insert("kind".to_owned(), json!("ollama"));
        if let Some(directive) = block.or_else(|| scope.last("proxy_pass")) {
            let reason = "port 11434 is Ollama's: `kind: ollama` chooses servers by model and refuses management; \
                          write `kind: http` for the plain proxy";
            report.note(directive, Outcome::Approximated, reason);
        }
    }
    if pass.tls {
        tls(scope, &mut out, report);
    }
    (name, Value::Object(out))
}

fn url(tls: bool, host: &str) -> String {
    let scheme = if tls { "https" } else { "http" };
    let port = host.rsplit_once(':').is_some_and(|(_, port)| port.bytes().all(|byte| byte.is_ascii_digit()));
    // nginx takes port 80 in a group, whatever the scheme.
    if port || !tls { format!("{scheme}://{host}") } else { format!("{scheme}://{host}:443") }
}

fn group(block: &Directive, tls: bool, out: &mut Map<String, Value>, report: &mut Report) {
    let mut servers = Vec::new();
    let mut circuit = Map::new();
    for directive in block.children() {
        match directive.name.as_str() {
            "server" => servers.extend(server(directive, tls, &mut circuit, report)),
            "keepalive" => {
                if let Ok(number) = directive.arg(0).parse::<u32>() {
                    out.insert("keepalive".to_owned(), json!({ "max_idle": number }));
                    report.note(
                        directive,
                        Outcome::Converted,
                        "keepalive.max_idle; of each server, not of each process",
                    );
                }
            }
            "keepalive_timeout" => {
                let keepalive = out.entry("keepalive").or_insert_with(|| json!({}));
                if let Some(time) = values::time(directive.arg(0)) {
                    keepalive["idle_timeout"] = json!(time);
                    report.note(directive, Outcome::Converted, "keepalive.idle_timeout");
                }
            }
            "least_conn" | "ip_hash" | "hash" | "random" | "least_time" | "sticky" => balance(directive, out, report),
            _ => {}
        }
    }
    out.insert("servers".to_owned(), Value::Array(servers));
    if !circuit.is_empty() {
        out.insert("circuit".to_owned(), Value::Object(circuit));
    }
}

fn server(directive: &Directive, tls: bool, circuit: &mut Map<String, Value>, report: &mut Report) -> Option<Value> {
    let address = directive.arg(0);
    if address.starts_with("unix:") {
        report.note(directive, Outcome::Unsupported, "servers are reached by TCP");
        return None;
    }
    let mut server = Map::from_iter([("url".to_owned(), json!(url(tls, address)))]);
    let (mut outcome, mut reasons) = (Outcome::Converted, vec!["upstreams.servers".to_owned()]);
    for parameter in &directive.args[1..] {
        let (key, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match key {
            "weight" => _ = value.parse::<u32>().map(|weight| server.insert("weight".to_owned(), json!(weight))),
            "max_conns" => {
                _ = value.parse::<u32>().map(|most| server.insert("max_in_flight".to_owned(), json!(most)));
            }
            "max_fails" | "fail_timeout" => {
                outcome = Outcome::Approximated;
                let known = "`max_fails` in a row, not within a time, open the circuit for `fail_timeout`, then longer";
                reasons.extend((!reasons.iter().any(|r| r == known)).then(|| known.to_owned()));
                if key == "max_fails" {
                    let fails = value.parse::<u32>().unwrap_or(1);
                    // Zero switches it off: a number that is not reached.
                    circuit.insert("consecutive_failures".to_owned(), json!(if fails == 0 { u32::MAX } else { fails }));
                } else if let Some(time) = values::time(value) {
                    circuit.insert("open_for".to_owned(), json!(time));
                    if values::milliseconds(value).is_some_and(|time| time > 300_000) {
                        circuit.insert("max_open_for".to_owned(), json!(time));
                    }
                }
            }
            "down" => {
                report.note(directive, Outcome::Converted, "left out, as `down` means");
                return None;
            }
            "backup" => {
                report.note(directive, Outcome::Unsupported, "there are no backup servers: left out");
                return None;
            }
            "resolve" => {}
            _ => {
                outcome = Outcome::Unsupported;
                reasons.push(format!("`{key}` is not known"));
            }
        }
    }
    report.note(directive, outcome, reasons.join("; "));
    Some(Value::Object(server))
}

fn balance(directive: &Directive, out: &mut Map<String, Value>, report: &mut Report) {
    let (balance, outcome, reason) = match (directive.name.as_str(), directive.arg(0)) {
        ("least_conn", _) => {
            (json!({ "policy": "least_requests" }), Outcome::Converted, "balance.policy: least_requests")
        }
        ("ip_hash", _) => (
            json!({ "policy": "consistent_hash", "hash_on": "client_ip" }),
            Outcome::Converted,
            "balance.hash_on: client_ip; of the whole address",
        ),
        ("hash", "$remote_addr" | "$binary_remote_addr") => (
            json!({ "policy": "consistent_hash", "hash_on": "client_ip" }),
            Outcome::Converted,
            "balance.hash_on: client_ip",
        ),
        ("hash", key) if key.starts_with("$cookie_") => (
            json!({ "policy": "consistent_hash", "hash_on": format!("cookie:{}", &key["$cookie_".len()..]) }),
            Outcome::Converted,
            "balance.hash_on: cookie",
        ),
        ("hash", key) if key.starts_with("$http_") => (
            json!({ "policy": "consistent_hash", "hash_on": format!("header:{}", key["$http_".len()..].replace('_', "-")) }),
            Outcome::Converted,
            "balance.hash_on: header",
        ),
        ("sticky", "cookie") => (
            json!({ "policy": "consistent_hash", "sticky_cookie": { "name": directive.arg(1) } }),
            Outcome::Approximated,
            "balance.sticky_cookie: the cookie holds a random number",
        ),
        ("random" | "least_time", _) => (
            json!({ "policy": "least_requests" }),
            Outcome::Approximated,
            "balance.policy: least_requests is the nearest",
        ),
        _ => return report.note(directive, Outcome::Unsupported, "this cannot be hashed"),
    };
    out.insert("balance".to_owned(), balance);
    report.note(directive, outcome, reason);
}

/// How the servers of a `proxy_pass https://…` are verified. nginx does not unless it is told to; here it is always done.
fn tls(scope: &Scope<'_>, out: &mut Map<String, Value>, report: &mut Report) {
    let mut tls = Map::new();
    let keys = [
        ("proxy_ssl_trusted_certificate", "ca"),
        ("proxy_ssl_name", "server_name"),
        ("proxy_ssl_certificate", "client_cert"),
        ("proxy_ssl_certificate_key", "client_key"),
    ];
    for (theirs, ours) in keys {
        if let Some(directive) = scope.last(theirs) {
            tls.insert(ours.to_owned(), json!(directive.arg(0)));
            report.note(directive, Outcome::Converted, format!("upstreams.tls.{ours}"));
        }
    }
    if let Some(directive) = scope.last("proxy_ssl_verify") {
        tls.insert("verify".to_owned(), json!(directive.arg(0) == "on"));
        report.note(directive, Outcome::Converted, "upstreams.tls.verify");
    } else if let Some(directive) = scope.last("proxy_pass") {
        let reason = "the server's certificate is verified, which nginx does not do by default";
        report.note(directive, Outcome::Approximated, reason);
    }
    for name in ["proxy_ssl_server_name", "proxy_ssl_session_reuse", "proxy_ssl_protocols", "proxy_ssl_verify_depth"] {
        if let Some(directive) = scope.last(name) {
            report.note(directive, Outcome::Ignored, "SNI, sessions and versions are always those of rustls");
        }
    }
    if !tls.is_empty() {
        out.insert("tls".to_owned(), Value::Object(tls));
    }
}
