//! What a location says besides who answers: times, sizes, fields, rates, addresses, errors, compression.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::report::{Outcome, Report};
use super::scope::Scope;
use super::values;

/// The zones of `limit_req_zone` and `limit_conn_zone` by their names.
#[derive(Default)]
pub(super) struct Zones {
    pub(super) rates: BTreeMap<String, (Value, String)>,
    pub(super) connections: BTreeMap<String, Value>,
}

/// Reads the zones of the http block.
pub(super) fn zones(http: &Scope<'_>, report: &mut Report) -> Zones {
    let mut zones = Zones::default();
    for directive in http.every("limit_req_zone").into_iter().chain(http.every("limit_conn_zone")) {
        let Some(key) = key(directive.arg(0)) else {
            report.note(directive, Outcome::Unsupported, "requests are not counted by this");
            continue;
        };
        let argument = |name: &str| directive.args.iter().find_map(|arg| arg.strip_prefix(name));
        let zone = argument("zone=").map(|zone| zone.split(':').next().unwrap_or_default().to_owned());
        let kept = "its memory is bounded by itself";
        match (zone, argument("rate=").and_then(values::rate)) {
            (Some(zone), Some(rate)) if directive.name == "limit_req_zone" => {
                zones.rates.insert(zone, (key, rate));
                report.note(directive, Outcome::Converted, format!("rate_limits.key and rate; {kept}"));
            }
            (Some(zone), _) if directive.name == "limit_conn_zone" => {
                zones.connections.insert(zone, key);
                report.note(directive, Outcome::Converted, format!("concurrency.key; {kept}"));
            }
            _ => report.note(directive, Outcome::Unsupported, "the zone or the rate is not known"),
        }
    }
    zones
}

fn key(variable: &str) -> Option<Value> {
    Some(match variable {
        "$binary_remote_addr" | "$remote_addr" => json!("client_ip"),
        "$host" | "$http_host" | "$server_name" => json!("host"),
        "$http_authorization" | "$http_x_api_key" => json!("api_key"),
        "$binary_remote_addr$host" | "$binary_remote_addr$server_name" => json!(["client_ip", "host"]),
        _ => json!(format!("header:{}", variable.strip_prefix("$http_")?.replace('_', "-"))),
    })
}

/// `rate_limits` and `concurrency`.
pub(super) fn rates(scope: &Scope<'_>, zones: &Zones, out: &mut Map<String, Value>, report: &mut Report) {
    let mut limits = Vec::new();
    for directive in scope.list(&["limit_req"]) {
        let argument = |name: &str| directive.args.iter().find_map(|arg| arg.strip_prefix(name));
        let Some((key, rate)) = argument("zone=").and_then(|zone| zones.rates.get(zone)) else {
            report.note(directive, Outcome::Unsupported, "there is no such zone");
            continue;
        };
        let burst = argument("burst=").and_then(|burst| burst.parse::<u32>().ok()).unwrap_or(0);
        let mut limit = json!({ "key": key, "rate": rate, "burst": burst });
        let nodelay = directive.args.iter().any(|arg| arg == "nodelay");
        match argument("delay=").and_then(|delay| delay.parse::<u32>().ok()) {
            Some(free) => limit["delay"] = json!(burst.saturating_sub(free)),
            None if !nodelay && burst > 0 => limit["delay"] = json!("all"),
            None => {}
        }
        limits.push(limit);
        report.note(directive, Outcome::Converted, "rate_limits; what is beyond is answered 429 with Retry-After");
    }
    if !limits.is_empty() {
        out.insert("rate_limits".to_owned(), Value::Array(limits));
    }
    let mut concurrency = Vec::new();
    for directive in scope.list(&["limit_conn"]) {
        match (zones.connections.get(directive.arg(0)), directive.arg(1).parse::<u32>()) {
            (Some(key), Ok(max)) => {
                concurrency.push(json!({ "key": key, "max": max }));
                report.note(directive, Outcome::Converted, "concurrency: of requests");
            }
            _ => report.note(directive, Outcome::Unsupported, "there is no such zone"),
        }
    }
    if !concurrency.is_empty() {
        out.insert("concurrency".to_owned(), Value::Array(concurrency));
    }
}

/// `access`.
pub(super) fn access(scope: &Scope<'_>, out: &mut Map<String, Value>, report: &mut Report) {
    let (mut allow, mut deny) = (Vec::new(), Vec::new());
    for directive in scope.list(&["allow", "deny"]) {
        let (who, allowed) = (directive.arg(0), directive.name == "allow");
        match (who, allowed) {
            ("all", _) => {}
            (_, true) => allow.push(who),
            (_, false) => deny.push(who),
        }
        if !allowed && who != "all" && !allow.is_empty() {
            let reason = "access: addresses of `deny` are refused first, whatever the order";
            report.note(directive, Outcome::Approximated, reason);
        } else {
            report.note(directive, Outcome::Converted, "access");
        }
    }
    let all_denied =
        scope.list(&["allow", "deny"]).last().is_some_and(|last| last.name == "deny" && last.arg(0) == "all");
    let mut access = Map::new();
    if all_denied && !allow.is_empty() {
        access.insert("allow".to_owned(), json!(allow));
    } else if all_denied {
        deny = vec!["0.0.0.0/0", "::/0"];
    }
    if !deny.is_empty() {
        access.insert("deny".to_owned(), json!(deny));
    }
    if !access.is_empty() {
        out.insert("access".to_owned(), Value::Object(access));
    }
}

/// `auth`: who was asked for a password is asked for a key. Nobody is let in by a conversion.
pub(super) fn auth(scope: &Scope<'_>, out: &mut Map<String, Value>) {
    let names = ["auth_basic", "auth_request", "auth_jwt"];
    if names.iter().any(|name| scope.last(name).is_some_and(|directive| directive.arg(0) != "off")) {
        out.insert("auth".to_owned(), json!("required"));
    }
}

/// `timeouts` of a proxied location; `upgrade` when it takes WebSockets.
pub(super) fn timeouts(scope: &Scope<'_>, upgrade: bool, out: &mut Map<String, Value>, report: &mut Report) {
    let mut timeouts = Map::new();
    if let Some(directive) = scope.last("proxy_connect_timeout")
        && let Some(time) = values::milliseconds(directive.arg(0))
    {
        timeouts.insert("connect".to_owned(), json!(values::duration(time.min(75_000))));
        let (outcome, reason) = if time > 75_000 {
            (Outcome::Approximated, "timeouts.connect; systems give up after 75s themselves")
        } else {
            (Outcome::Converted, "timeouts.connect")
        };
        report.note(directive, outcome, reason);
    }
    if let Some(directive) = scope.last("proxy_read_timeout")
        && let Some(time) = values::time(directive.arg(0))
    {
        timeouts.insert("first_byte".to_owned(), json!(time));
        timeouts.insert("read".to_owned(), json!(time));
        let mut reason = "timeouts.first_byte and timeouts.read".to_owned();
        if upgrade {
            timeouts.insert("upgrade".to_owned(), json!(time));
            reason.push_str(", and timeouts.upgrade for WebSockets");
        }
        report.note(directive, Outcome::Converted, reason);
    }
    if let Some(directive) = scope.last("proxy_send_timeout")
        && let Some(time) = values::time(directive.arg(0))
    {
        timeouts.insert("write".to_owned(), json!(time));
        report.note(directive, Outcome::Converted, "timeouts.write");
    }
    if !timeouts.is_empty() {
        out.insert("timeouts".to_owned(), Value::Object(timeouts));
    }
}

/// `limits.request_body` where it is not that of the http block.
pub(super) fn body_limit(scope: &Scope<'_>, http: &Scope<'_>, out: &mut Map<String, Value>, report: &mut Report) {
    let Some(directive) = scope.last("client_max_body_size") else { return };
    let Some(size) = values::size(directive.arg(0)) else { return };
    if http.last("client_max_body_size").is_none_or(|outer| outer.id != directive.id) {
        out.insert("limits".to_owned(), json!({ "request_body": size }));
        report.note(directive, Outcome::Converted, "limits.request_body");
    }
}

/// `retry`.
pub(super) fn retry(scope: &Scope<'_>, out: &mut Map<String, Value>, report: &mut Report) {
    let mut retry = Map::new();
    if let Some(directive) = scope.last("proxy_next_upstream_tries")
        && let Ok(tries @ 1..=10) = directive.arg(0).parse::<u32>()
    {
        retry.insert("attempts".to_owned(), json!(tries));
        report.note(directive, Outcome::Converted, "retry.attempts");
    }
    if let Some(directive) = scope.last("proxy_next_upstream") {
        let mut on: Vec<&str> = Vec::new();
        for word in &directive.args {
            match word.as_str() {
                "off" => _ = retry.insert("attempts".to_owned(), json!(1)),
                "error" => on.extend(["connect", "reset"]),
                "timeout" => on.push("first_byte_timeout"),
                "invalid_header" => on.push("502"),
                "non_idempotent" => _ = retry.insert("replay_post".to_owned(), json!(true)),
                status => on.extend(status.strip_prefix("http_").filter(|status| *status != "404")),
            }
        }
        on.dedup();
        if !on.is_empty() {
            retry.insert("on".to_owned(), json!(on));
        }
        report.note(directive, Outcome::Converted, "retry");
    }
    if !retry.is_empty() {
        out.insert("retry".to_owned(), Value::Object(retry));
    }
}

/// `compress`.
pub(super) fn compress(scope: &Scope<'_>, out: &mut Map<String, Value>, report: &mut Report) {
    let Some(directive) = scope.last("gzip") else { return };
    if directive.arg(0) == "on" {
        out.insert("compress".to_owned(), json!(true));
        report.note(directive, Outcome::Converted, "compress: zstd, br or gzip, what the client likes best");
    } else {
        report.note(directive, Outcome::Converted, "compress is off by default");
    }
}

/// `error_pages` and `intercept_errors`; `file` says which file answers for a path.
pub(super) fn errors(
    scope: &Scope<'_>,
    proxied: bool,
    file: &mut dyn FnMut(&str) -> Option<String>,
    out: &mut Map<String, Value>,
    report: &mut Report,
) {
    let mut pages = Map::new();
    for directive in scope.list(&["error_page"]) {
        let Some((path, statuses)) = directive.args.split_last() else { continue };
        let plain = statuses.iter().all(|status| status.len() == 3 && status.starts_with(['4', '5']));
        match file(path) {
            Some(file) if plain && path.starts_with('/') => {
                // These are all errors from 500 that arise here.
                let own = ["500", "502", "503", "504"].iter().all(|own| statuses.iter().any(|status| status == own));
                let all = own && scope.last("proxy_intercept_errors").is_none_or(|intercept| intercept.arg(0) != "on");
                if all {
                    pages.insert("5xx".to_owned(), json!(file));
                }
                for status in statuses.iter().filter(|status| !all || status.starts_with('4')) {
                    pages.insert(status.clone(), json!(file));
                }
                report.note(directive, Outcome::Converted, "error_pages: the file is read with the configuration");
            }
            _ => report.note(directive, Outcome::Unsupported, "an error keeps its status, and its body is a file"),
        }
    }
    if let Some(directive) = scope.last("proxy_intercept_errors") {
        report.note(directive, Outcome::Converted, "intercept_errors");
        if directive.arg(0) == "on" && proxied && !pages.is_empty() {
            out.insert("intercept_errors".to_owned(), json!(true));
        }
    }
    if !pages.is_empty() {
        out.insert("error_pages".to_owned(), Value::Object(pages));
    }
}
