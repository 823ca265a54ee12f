//! Header fields: `add_header`, `proxy_set_header`, `proxy_hide_header`, `expires`.

use serde_json::{Map, Value, json};

use super::report::{Outcome, Report};
use super::scope::Scope;
use super::tree::Directive;
use super::values;
use crate::routing::header_rules::refusal;

const ITSELF: &str = "sent by itself";

/// The field of a directive, in small letters.
fn name(directive: &Directive) -> String {
    directive.arg(0).to_ascii_lowercase()
}

/// Whether a location passes upgrades on.
pub(super) fn upgrades(scope: &Scope<'_>) -> bool {
    scope.list(&["proxy_set_header"]).iter().any(|directive| name(directive) == "upgrade")
}

/// `headers.request` of a proxied location.
pub(super) fn request(scope: &Scope<'_>, report: &mut Report) -> Map<String, Value> {
    let (mut set, mut remove) = (Map::new(), Vec::new());
    for directive in scope.list(&["proxy_set_header"]) {
        let (field, value) = (name(directive), directive.arg(1));
        let known = match (field.as_str(), value) {
            ("host", "$host" | "$http_host" | "$host:$server_port") => Some("the client's Host is passed on"),
            ("connection" | "upgrade" | "keep-alive" | "te", _) => {
                Some("kept connections and upgrades, WebSockets among them, need no fields")
            }
            (
                "x-real-ip" | "x-forwarded-for",
                "$remote_addr" | "$proxy_add_x_forwarded_for" | "$realip_remote_addr",
            ) => Some("sent by itself; what clients say is believed only from trusted_proxies"),
            ("x-forwarded-proto" | "x-forwarded-scheme", "$scheme") => Some(ITSELF),
            ("x-forwarded-host", "$host" | "$http_host") => Some(ITSELF),
            ("x-request-id", "$request_id") => Some(ITSELF),
            ("content-length" | "transfer-encoding", _) => Some("the body's length is always told correctly"),
            _ => None,
        };
        if let Some(reason) = known {
            report.note(directive, Outcome::Converted, reason);
            continue;
        }
        if value.is_empty() {
            remove.push(json!(field));
            report.note(directive, Outcome::Converted, "headers.request.remove");
            continue;
        }
        insert(&mut set, directive, &field, value, false, "headers.request.set", report);
    }
    let mut out = Map::new();
    if !set.is_empty() {
        out.insert("set".to_owned(), Value::Object(set));
    }
    if !remove.is_empty() {
        out.insert("remove".to_owned(), Value::Array(remove));
    }
    out
}

fn insert(
    fields: &mut Map<String, Value>,
    directive: &Directive,
    field: &str,
    value: &str,
    response: bool,
    key: &str,
    report: &mut Report,
) -> bool {
    if let Some(why) = refusal(field, response) {
        report.note(directive, Outcome::Unsupported, why);
        return false;
    }
    match values::template(value) {
        Ok(value) => {
            fields.insert(field.to_owned(), json!(value));
            report.note(directive, Outcome::Converted, key);
            true
        }
        Err(variable) => {
            report.note(directive, Outcome::Unsupported, format!("there is no counterpart of the variable {variable}"));
            false
        }
    }
}

/// What the response fields of a location come to.
#[derive(Default)]
pub(super) struct Response {
    /// `headers.response`.
    pub(super) rules: Map<String, Value>,
    /// Content-Type, for an answer of our own.
    pub(super) content_type: Option<String>,
    /// Cache-Control out of `expires` and `add_header`, in one value.
    pub(super) cache_control: Option<String>,
}

/// The response fields that hold at a place. Those of outer blocks stay, which nginx drops where a block has its own.
pub(super) fn response(scope: &Scope<'_>, report: &mut Report) -> Response {
    let mut out = Response::default();
    let (mut set, mut add, mut remove) = (Map::new(), Map::new(), Vec::new());
    let holding: Vec<usize> = scope.list(&["add_header"]).iter().map(|directive| directive.id).collect();
    let mut cache: Vec<String> =
        scope.last("expires").and_then(|directive| expires(directive, report)).into_iter().collect();
    for directive in scope.every("add_header") {
        let (field, value) = (name(directive), directive.arg(1));
        let outer = !holding.contains(&directive.id);
        match field.as_str() {
            // They say something about one location, not about all below it.
            "content-type" | "cache-control" | "vary" | "expires" if outer => continue,
            "content-type" => {
                out.content_type = Some(value.to_owned());
                report.note(directive, Outcome::Converted, "Content-Type");
                continue;
            }
            "cache-control" => {
                cache.extend(value.split(',').map(|part| part.trim().to_owned()));
                report.note(directive, Outcome::Converted, "Cache-Control");
                continue;
            }
            "vary" if value.eq_ignore_ascii_case("accept-encoding") => {
                report.note(directive, Outcome::Converted, "added by itself where the answer depends on it");
                continue;
            }
            _ => {}
        }
        let many = matches!(field.as_str(), "vary" | "set-cookie" | "link");
        let (fields, key) = if many { (&mut add, "headers.response.add") } else { (&mut set, "headers.response.set") };
        if !insert(fields, directive, &field, value, true, key, report) {
            continue;
        }
        if outer {
            let reason =
                "headers.response: also where a block inside has an add_header of its own, which drops it in nginx";
            report.note(directive, Outcome::Approximated, reason);
        } else if directive.arg(2) != "always" {
            report.note(directive, Outcome::Approximated, format!("{key}: also on errors, as with `always`"));
        }
    }
    for directive in scope.list(&["proxy_hide_header"]) {
        remove.push(json!(name(directive)));
        report.note(directive, Outcome::Converted, "headers.response.remove");
    }
    for (key, fields) in [("set", set), ("add", add)] {
        if !fields.is_empty() {
            out.rules.insert(key.to_owned(), Value::Object(fields));
        }
    }
    if !remove.is_empty() {
        out.rules.insert("remove".to_owned(), Value::Array(remove));
    }
    let mut seen = Vec::new();
    cache.retain(|part| {
        let fresh = !part.is_empty() && !seen.contains(part);
        seen.push(part.clone());
        fresh
    });
    out.cache_control = (!cache.is_empty()).then(|| cache.join(", "));
    out
}

fn expires(directive: &Directive, report: &mut Report) -> Option<String> {
    let text = directive.arg(0);
    let value = match text {
        "off" => None,
        "epoch" => Some("no-cache".to_owned()),
        "max" => Some("max-age=315360000".to_owned()),
        _ if text.starts_with('-') => Some("no-cache".to_owned()),
        _ => values::milliseconds(text).map(|time| format!("max-age={}", time / 1000)),
    };
    let (outcome, reason) = if value.is_some() || text == "off" {
        (Outcome::Converted, "Cache-Control; the older Expires is not sent")
    } else {
        (Outcome::Unsupported, "this time is not known")
    };
    report.note(directive, outcome, reason);
    value
}
