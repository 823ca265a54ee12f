//! Addresses: `listen`, TLS, and what holds for the clients of an address.

use serde_json::{Map, Value, json};

use super::report::{Outcome, Report};
use super::scope::Scope;
use super::tree::Directive;
use super::values;

/// One `listen`.
pub(super) struct Listen<'t> {
    pub(super) directive: Option<&'t Directive>,
    pub(super) address: String,
    pub(super) port: u16,
    pub(super) tls: bool,
    pub(super) is_default: bool,
    pub(super) proxy_protocol: bool,
}

/// The addresses of a server block; port 80 when it names none.
pub(super) fn listens<'t>(server: &'t Directive, report: &mut Report) -> Vec<Listen<'t>> {
    let mut found = Vec::new();
    for directive in server.children().iter().filter(|directive| directive.name == "listen") {
        match address(directive.arg(0)) {
            Some((address, port)) => {
                let has = |word: &str| directive.args[1..].iter().any(|arg| arg == word);
                found.push(Listen {
                    directive: Some(directive),
                    address,
                    port,
                    tls: has("ssl"),
                    is_default: has("default_server") || has("default"),
                    proxy_protocol: has("proxy_protocol"),
                });
            }
            None => report.note(directive, Outcome::Unsupported, "listeners have a TCP address and one port"),
        }
    }
    if found.is_empty() {
        let address = "0.0.0.0:80".to_owned();
        found.push(Listen { directive: None, address, port: 80, tls: false, is_default: false, proxy_protocol: false });
    }
    found
}

fn address(text: &str) -> Option<(String, u16)> {
    if let Ok(port) = text.parse::<u16>() {
        return Some((format!("0.0.0.0:{port}"), port));
    }
    let has_port = text.rsplit_once(':').is_some_and(|(host, _)| !host.contains(':') || host.ends_with(']'));
    let (host, port) = if has_port { text.rsplit_once(':')? } else { (text, "80") };
    let port = port.parse::<u16>().ok()?;
    let host = if host == "*" { "0.0.0.0" } else { host };
    (!host.starts_with("unix") && !host.is_empty()).then(|| (format!("{host}:{port}"), port))
}

/// Adds the listeners of a server block to those that are there.
pub(super) fn add(listens: &[Listen<'_>], scope: &Scope<'_>, listeners: &mut Vec<Value>, report: &mut Report) {
    for listen in listens {
        let known = listeners.iter_mut().find(|listener| listener["address"] == json!(listen.address));
        let listener = match known {
            Some(listener) => listener,
            None => {
                listeners.push(fresh(listen, scope, report));
                let Some(last) = listeners.last_mut() else { continue };
                last
            }
        };
        if listen.tls {
            tls(scope, listener, report);
        }
        if let Some(directive) = listen.directive {
            report.note(directive, Outcome::Converted, "listeners.address");
        }
    }
}

fn fresh(listen: &Listen<'_>, scope: &Scope<'_>, report: &mut Report) -> Value {
    let mut out = Map::from_iter([("address".to_owned(), json!(listen.address))]);
    if listen.proxy_protocol {
        out.insert("proxy_protocol".to_owned(), json!("accept"));
    }
    let trusted = scope.every("set_real_ip_from");
    if !trusted.is_empty() {
        let from: Vec<&str> = trusted.iter().map(|directive| directive.arg(0)).collect();
        out.insert("trusted_proxies".to_owned(), json!(from));
        trusted.iter().for_each(|directive| report.note(directive, Outcome::Converted, "listeners.trusted_proxies"));
    }
    if let Some(directive) = scope.last("real_ip_header") {
        let known = matches!(
            directive.arg(0).to_ascii_lowercase().as_str(),
            "x-forwarded-for" | "proxy_protocol" | "forwarded"
        );
        let (outcome, reason) = if known {
            (Outcome::Converted, "X-Forwarded-For, Forwarded and PROXY are read from trusted_proxies")
        } else {
            (Outcome::Unsupported, "addresses are read from X-Forwarded-For, Forwarded and the PROXY protocol")
        };
        report.note(directive, outcome, reason);
    }
    let mut timeouts = Map::new();
    let times = [
        ("client_header_timeout", "request_header", "the time for the whole head, not between two reads"),
        ("client_body_timeout", "request_body", ""),
        ("keepalive_timeout", "keepalive", ""),
        ("send_timeout", "write", ""),
    ];
    for (theirs, ours, differs) in times {
        let Some(directive) = scope.last(theirs) else { continue };
        let Some(time) = values::time(directive.arg(0)) else { continue };
        timeouts.insert(ours.to_owned(), json!(time));
        let outcome = if differs.is_empty() { Outcome::Converted } else { Outcome::Approximated };
        let reason = format!("listeners.timeouts.{ours}{}{differs}", if differs.is_empty() { "" } else { ": " });
        report.note(directive, outcome, reason);
    }
    if !timeouts.is_empty() {
        out.insert("timeouts".to_owned(), Value::Object(timeouts));
    }
    if let Some(directive) = scope.last("large_client_header_buffers") {
        let (count, size) = (directive.arg(0).parse::<u64>().ok(), values::size(directive.arg(1)));
        let bytes = size.and_then(|size| size.parse::<crate::units::ByteSize>().ok()).map(|size| size.0);
        if let (Some(count), Some(bytes)) = (count, bytes) {
            let total = crate::units::ByteSize(count.saturating_mul(bytes));
            out.insert("limits".to_owned(), json!({ "header_bytes": total.to_string() }));
            report.note(
                directive,
                Outcome::Approximated,
                "listeners.limits.header_bytes: the whole head, not one line",
            );
        }
    }
    Value::Object(out)
}

fn tls(scope: &Scope<'_>, listener: &mut Value, report: &mut Report) {
    if !listener["tls"].is_object() {
        listener["tls"] = json!({ "certificates": [] });
    }
    let tls = &mut listener["tls"];
    if let (Some(cert), Some(key)) = (scope.last("ssl_certificate"), scope.last("ssl_certificate_key")) {
        let mut pair = json!({ "cert": cert.arg(0), "key": key.arg(0) });
        if let Some(staple) = scope.last("ssl_stapling_file") {
            pair["ocsp"] = json!(staple.arg(0));
            report.note(staple, Outcome::Converted, "tls.certificates.ocsp");
        }
        if let Some(list) = tls["certificates"].as_array_mut().filter(|list| !list.contains(&pair)) {
            list.push(pair);
        }
        report.note(
            cert,
            Outcome::Converted,
            "tls.certificates: by the names in the certificate; the first is the default",
        );
        report.note(key, Outcome::Converted, "tls.certificates");
    }
    if let Some(directive) = scope.last("ssl_protocols") {
        let has = |version: &str| directive.args.iter().any(|arg| arg == version);
        tls["min_version"] = json!(if has("TLSv1.2") || !has("TLSv1.3") { "1.2" } else { "1.3" });
        let old = directive.args.iter().any(|arg| matches!(arg.as_str(), "TLSv1" | "TLSv1.1" | "SSLv3" | "SSLv2"));
        let (outcome, reason) = if old {
            (Outcome::Approximated, "tls.min_version; what is older than 1.2 is not spoken")
        } else {
            (Outcome::Converted, "tls.min_version")
        };
        report.note(directive, outcome, reason);
    }
    if let Some(directive) = scope.last("ssl_client_certificate") {
        tls["client_ca"] = json!(directive.arg(0));
        report.note(directive, Outcome::Converted, "tls.client_ca");
    }
    if let Some(directive) = scope.last("ssl_verify_client") {
        let word = match directive.arg(0) {
            "on" => "required",
            "optional" | "optional_no_ca" => "optional",
            _ => "off",
        };
        tls["client_auth"] = json!(word);
        report.note(directive, Outcome::Converted, format!("tls.client_auth: {word}"));
    }
    for name in ["ssl_stapling", "ssl_stapling_verify", "ssl_trusted_certificate"] {
        if let Some(directive) = scope.last(name) {
            report.note(directive, Outcome::Approximated, "a staple comes from a file: tls.certificates.ocsp");
        }
    }
    if let Some(directive) = scope.last("http2") {
        report.note(directive, Outcome::Converted, "HTTP/2 is offered wherever TLS is");
    }
}
