//! Every key of the schema is read: each has a row here whose proof fails when the key is ignored, and a key
//! without a row, or a row without a key, fails too.

mod support;

use std::collections::{BTreeSet, HashMap};
use std::fmt::Debug;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use arriero::demo::{Host, HostConfig};
use arriero::fleet::compile::{Surroundings, compile};
use arriero::fleet::content::{Answer, Files, Target};
use arriero::fleet::snapshot::{Snapshot, Upstream};
use arriero::policy::balance::sticky::StickyCookie;
use arriero::policy::cors;
use arriero::routing::table::Head;
use arriero::routing::{Facts, HeaderRules, Scheme};
use arriero::telemetry::metrics::Metrics;
use arriero::{clock, config};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use http::{HeaderMap, HeaderValue, Method};
use rustix::process::Signal;
use serde_json::{Value, json};
use support::authority::Authority;
use support::eventually;
use support::fleet::{Small, generate, send, send_with, sized};
use support::process::Program;
use support::wire::{H1, ask, get};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What is seen of a compiled configuration, as text.
type Look = fn(&Snapshot) -> String;

/// A key, a value for it in JSON, and what is then seen. Without it something else is.
type Row = (&'static str, &'static str, &'static str, Look);

/// Panics when a key is ignored.
type Proof = fn() -> BoxFuture<'static, ()>;

fn text(value: impl Debug) -> String {
    format!("{value:?}")
}

fn fleet(snapshot: &Snapshot) -> &Upstream {
    &snapshot.upstreams[0]
}

/// Which routes take two requests that differ in everything that a match can ask for.
fn taken(snapshot: &Snapshot) -> String {
    let look = |scheme, method, host, path, team: &'static str, model| {
        let headers = HeaderMap::from_iter([(http::HeaderName::from_static("x-team"), HeaderValue::from_static(team))]);
        snapshot.table.lookup(&Head { scheme, method: &method, host, path, headers: &headers }, Some(model))
    };
    let one = look(Scheme::Http, Method::GET, "a.test", "/in/x", "red", "llava:latest");
    let other = look(Scheme::Https, Method::POST, "b.test", "/out", "blue", "mistral:latest");
    text((one.map(|route| &snapshot.routes[route].name), other.map(|route| &snapshot.routes[route].name)))
}

/// Whether two clients may use the first route.
fn reached(snapshot: &Snapshot) -> String {
    let may = |ip: [u8; 4]| snapshot.routes[0].access.permits(ip.into());
    text((may([10, 0, 0, 1]), may([127, 0, 0, 1])))
}

fn from_a(more: &[(&'static str, &'static str)]) -> HeaderMap {
    let fields = [("origin", "https://a.test")].into_iter().chain(more.iter().copied());
    fields.map(|(name, value)| (http::HeaderName::from_static(name), HeaderValue::from_static(value))).collect()
}

/// The answer to a preflight for the first route.
fn preflight(snapshot: &Snapshot) -> String {
    let fields = from_a(&[("access-control-request-method", "PUT")]);
    let asked = cors::Asked { method: &Method::OPTIONS, host: Some("c.test"), fields: &fields };
    text(cors::judge(snapshot.routes[0].cors.as_ref(), true, &asked))
}

/// The fields of an answer to a page of another origin.
fn exposed(snapshot: &Snapshot) -> String {
    text(snapshot.routes[0].cors.as_ref().map(|cors| cors.fields(&from_a(&[]))))
}

const BOTH: &str = "(Some(\"first\"), Some(\"second\"))";

const COMPILED: &[Row] = &[
    ("listeners[].h2c", "true", "true", |s| text(s.listeners[0].h2c)),
    ("listeners[].proxy_protocol", "\"accept\"", "true", |s| text(s.listeners[0].proxy_protocol)),
    ("listeners[].trusted_proxies", "[\"10.0.0.0/8\"]", "true", |s| {
        text(s.listeners[0].trusted_proxies.contains([10, 0, 0, 1].into()))
    }),
    ("listeners[].hosts", "[\"a.test\"]", "(true, false)", |s| {
        let allows = |host| s.listeners[0].hosts.allows(&arriero::routing::host::parse(host, 80).expect("a host"));
        text((allows("a.test"), allows("b.test")))
    }),
    ("listeners[].timeouts.request_header", "\"7s\"", "7s", |s| text(s.listeners[0].header_timeout)),
    ("listeners[].timeouts.tls", "\"7s\"", "7s", |s| text(s.listeners[0].tls_timeout)),
    ("listeners[].timeouts.request_body", "\"7s\"", "7s", |s| text(s.listeners[0].body_timeout)),
    ("listeners[].timeouts.keepalive", "\"7s\"", "7s", |s| text(s.listeners[0].keepalive)),
    ("listeners[].timeouts.write", "\"7s\"", "7s", |s| text(s.listeners[0].write_timeout)),
    ("listeners[].limits.header_bytes", "\"16KiB\"", "16384", |s| text(s.listeners[0].header_bytes)),
    ("listeners[].limits.header_fields", "42", "42", |s| text(s.listeners[0].header_fields)),
    ("listeners[].limits.connections", "7", "7", |s| text(s.listeners[0].connection_limits.connections)),
    ("listeners[].limits.connections_per_ip", "7", "7", |s| text(s.listeners[0].connection_limits.connections_per_ip)),
    ("listeners[].limits.requests", "7", "7", |s| text(s.listeners[0].connection_limits.requests)),
    ("listeners[].limits.body_rate", "\"7KiB\"", "7168", |s| text(s.listeners[0].body_rate.bytes_per_second)),
    ("listeners[].limits.target_bytes", "\"4KiB\"", "4096", |s| text(s.listeners[0].target_bytes)),
    ("routes[].name", "\"renamed\"", "\"renamed\"", |s| text(&s.routes[0].name)),
    ("routes[].match.scheme", "\"http\"", BOTH, taken),
    ("routes[].match.host", "[\"a.test\"]", BOTH, taken),
    ("routes[].match.path", "\"/in/\"", BOTH, taken),
    ("routes[].match.method", "\"GET\"", BOTH, taken),
    ("routes[].match.model", "[\"llava\"]", BOTH, taken),
    ("routes[].match.header.*", "\"r*d\"", BOTH, taken),
    ("routes[].upstream", "\"other\"", "Some(\"other\")", |s| text(s.routes[0].upstream().map(|u| &u.name))),
    ("routes[].rewrite.strip_prefix", "\"/a\"", "Some(\"/b\")", rewritten),
    ("routes[].rewrite.add_prefix", "\"/z\"", "Some(\"/z/a/b\")", rewritten),
    ("routes[].headers.request.set.*", "\"{path}\"", "{\"x-team\": \"/a/b\"}", |s| {
        changed(&s.routes[0].content.request)
    }),
    ("routes[].headers.request.add.*", "\"{model}!\"", "{\"x-team\": \"red\", \"x-team\": \"m!\"}", |s| {
        changed(&s.routes[0].content.request)
    }),
    ("routes[].headers.request.remove", "[\"x-team\"]", "{}", |s| changed(&s.routes[0].content.request)),
    ("routes[].headers.response.set.*", "\"{path}\"", "{\"x-team\": \"/a/b\"}", |s| {
        changed(&s.routes[0].content.response)
    }),
    ("routes[].headers.response.add.*", "\"blue\"", "{\"x-team\": \"red\", \"x-team\": \"blue\"}", |s| {
        changed(&s.routes[0].content.response)
    }),
    ("routes[].headers.response.remove", "\"x-team\"", "{}", |s| changed(&s.routes[0].content.response)),
    ("routes[].compress", "[\"br\", \"gzip\"]", "[Br, Gzip]", |s| text(&s.routes[0].content.compress)),
    ("routes[].request_encoding", "\"decode\"", "Some(Decode)", |s| text(s.routes[0].content.request_encoding)),
    ("routes[].error_pages.*", "\"conf/arriero.yaml\"", "Some(true)", |s| {
        let page = s.routes[0].content.error_pages.page(404, false);
        text(page.map(|page| page.body.starts_with(b"# yaml-language-server")))
    }),
    ("upstreams.*.balance.sticky_cookie.name", "\"a\"", "(Cookie(\"a\"), \"a\")", |s| {
        text((&fleet(s).balance.hash_on, fleet(s).balance.sticky.as_ref().map_or("", |cookie| &cookie.name)))
    }),
    ("upstreams.*.balance.sticky_cookie.ttl", "\"7s\"", "Some(7s)", |s| text(sticky(s).map(|cookie| cookie.ttl))),
    ("upstreams.*.balance.sticky_cookie.secure", "true", "Some(true)", |s| text(sticky(s).map(|cookie| cookie.secure))),
    ("upstreams.*.balance.sticky_cookie.path", "\"/a\"", "Some(\"/a\")", |s| {
        text(sticky(s).map(|cookie| &cookie.path))
    }),
    ("routes[].timeouts.connect", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.connect)),
    ("routes[].timeouts.tls", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.tls)),
    ("routes[].timeouts.first_byte", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.first_byte)),
    ("routes[].timeouts.read", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.read)),
    ("routes[].timeouts.write", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.write)),
    ("routes[].timeouts.upgrade", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.upgrade)),
    ("routes[].timeouts.request", "\"7s\"", "Some(7s)", |s| text(s.routes[0].timeouts.request)),
    ("routes[].limits.request_body", "\"7KiB\"", "7168", |s| text(s.routes[0].body_limit)),
    ("routes[].rate_limits[].key", "[\"api_key\", \"header:x-user\"]", "LimitKey([ApiKey, Header(\"x-user\")])", |s| {
        text(&s.routes[0].limits.rates[0].key)
    }),
    ("routes[].rate_limits[].rate", "\"7/h\"", "(7, 3600s, 5, 0)", |s| rate(s)),
    ("routes[].rate_limits[].burst", "7", "(9, 1s, 7, 0)", |s| rate(s)),
    ("routes[].rate_limits[].delay", "\"all\"", "(9, 1s, 5, 5)", |s| rate(s)),
    ("routes[].rate_limits[].preset", "\"general\"", "(100, 60s, 20, 0)", |s| rate(s)),
    ("routes[].concurrency[].key", "\"model\"", "LimitKey([Model])", |s| text(&s.routes[0].limits.at_a_time[0].key)),
    ("routes[].concurrency[].max", "7", "7", |s| text(s.routes[0].limits.at_a_time[0].most)),
    ("routes[].retry.attempts", "2", "2", |s| text(s.routes[0].retry.attempts)),
    ("routes[].retry.on", "[\"reset\", \"503\"]", "([Reset, Status(503)], true)", |s| {
        text((&s.routes[0].retry.on, s.routes[0].holds))
    }),
    ("routes[].retry.replay_post", "true", "true", |s| text(s.routes[0].retry.replay_post)),
    ("routes[].access.allow", "[\"10.0.0.0/8\"]", "(true, false)", reached),
    ("routes[].access.deny", "[\"127.0.0.1\"]", "(true, false)", reached),
    ("routes[].cors.origins", "[\"https://b.test\"]", "false", |s| text(preflight(s).contains("https://a.test"))),
    ("routes[].cors.methods", "[\"PUT\"]", "true", |s| text(preflight(s).contains("PUT"))),
    ("routes[].cors.headers", "[\"x-hue\"]", "true", |s| text(preflight(s).contains("x-hue"))),
    ("routes[].cors.expose", "[\"x-b\"]", "true", |s| text(exposed(s).contains("x-b"))),
    ("routes[].cors.max_age", "\"77s\"", "true", |s| text(preflight(s).contains("77"))),
    ("routes[].cors.credentials", "true", "true", |s| text(preflight(s).contains("allow-credentials"))),
    ("routes[].management", "\"allow\"", "true", |s| text(s.routes[0].management)),
    ("routes[].cloud_models", "\"allow\"", "true", |s| text(s.routes[0].cloud)),
    ("routes[].caps.keep_alive", "\"1h\"", "Some(3600s)", |s| text(s.routes[0].caps.keep_alive)),
    ("routes[].caps.num_ctx", "7", "Some(7)", |s| text(s.routes[0].caps.num_ctx)),
    ("routes[].caps.num_predict", "7", "Some(7)", |s| text(s.routes[0].caps.num_predict)),
    ("routes[].caps.num_gpu", "7", "Some(7)", |s| text(s.routes[0].caps.num_gpu)),
    ("upstreams.*.kind", "\"openai\"", "(Openai, Some(\"/v1/models\"))", |s| {
        text((fleet(s).kind, fleet(s).check.as_ref().map(|check| &check.path)))
    }),
    ("upstreams.*.servers[].url", "\"https://a.test\"", "(\"a.test\", 443, true, \"a.test\")", |s| {
        let at = &fleet(s).servers[0].state.location;
        text((&at.host, at.port, at.tls, &at.authority))
    }),
    ("upstreams.*.servers[].name", "\"a100\"", "\"a100\"", |s| text(fleet(s).servers[0].state.name())),
    ("upstreams.*.servers[].weight", "5", "5", |s| text(fleet(s).servers[0].weight)),
    ("upstreams.*.servers[].max_in_flight", "3", "3", |s| text(fleet(s).servers[0].max_in_flight)),
    ("upstreams.*.http2", "true", "true", |s| text(fleet(s).http2)),
    ("upstreams.*.balance.policy", "\"round_robin\"", "RoundRobin", |s| text(fleet(s).balance.policy)),
    ("upstreams.*.balance.hash_on", "\"header:x-user\"", "Header(\"x-user\")", |s| text(&fleet(s).balance.hash_on)),
    ("upstreams.*.balance.model_affinity", "\"require_loaded\"", "RequireLoaded", |s| text(fleet(s).balance.affinity)),
    ("upstreams.*.circuit.consecutive_failures", "7", "7", |s| text(fleet(s).circuit.consecutive_failures)),
    ("upstreams.*.circuit.open_for", "\"7s\"", "7s", |s| text(fleet(s).circuit.open_for)),
    ("upstreams.*.circuit.max_open_for", "\"700s\"", "700s", |s| text(fleet(s).circuit.max_open_for)),
    ("upstreams.*.health.active", "\"off\"", "None", |s| text(&fleet(s).check)),
    ("upstreams.*.health.active.path", "\"/up\"", "\"/up\"", |s| text(&checked(s).path)),
    ("upstreams.*.health.active.interval", "\"7s\"", "7s", |s| text(checked(s).interval)),
    ("upstreams.*.health.active.timeout", "\"1s\"", "1s", |s| text(checked(s).timeout)),
    ("upstreams.*.health.active.healthy", "7", "7", |s| text(fleet(s).health.healthy)),
    ("upstreams.*.health.active.unhealthy", "7", "7", |s| text(fleet(s).health.unhealthy)),
    ("upstreams.*.health.active.start_period", "\"7s\"", "7s", |s| text(fleet(s).health.start_period)),
    ("upstreams.*.keepalive.max_idle", "7", "7", |s| text(fleet(s).max_idle)),
    ("upstreams.*.keepalive.idle_timeout", "\"7s\"", "7s", |s| text(fleet(s).idle_timeout)),
    ("upstreams.*.inventory.interval", "\"7s\"", "7s", |s| text(fleet(s).inventory_interval)),
    ("defaults.timeouts.connect", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.connect)),
    ("defaults.timeouts.tls", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.tls)),
    ("defaults.timeouts.first_byte", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.first_byte)),
    ("defaults.timeouts.read", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.read)),
    ("defaults.timeouts.write", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.write)),
    ("defaults.timeouts.upgrade", "\"7s\"", "7s", |s| text(s.routes[0].timeouts.upgrade)),
    ("defaults.timeouts.request", "\"7s\"", "Some(7s)", |s| text(s.routes[0].timeouts.request)),
    ("defaults.limits.request_body", "\"7KiB\"", "7168", |s| text(s.routes[0].body_limit)),
    ("server.drain", "\"7s\"", "7s", |s| text(s.drain)),
    ("server.drain_delay", "\"7s\"", "7s", |s| text(s.drain_delay)),
    ("server.reserved_files", "7", "7", |s| text(s.reserved_files)),
    ("server.body_memory", "\"7KiB\"", "7168", |s| text(s.body_memory)),
];

/// Keys that name certificates, which the proofs make first.
const TLS: &[(&str, Proof)] = &[
    ("listeners[].tls.certificates[].cert", || listener_certificates().boxed()),
    ("listeners[].tls.certificates[].key", || listener_certificates().boxed()),
    ("listeners[].tls.certificates[].ocsp", || listener_staple().boxed()),
    ("listeners[].tls.min_version", || listener_versions().boxed()),
    ("listeners[].tls.client_ca", || listener_clients().boxed()),
    ("listeners[].tls.client_auth", || listener_clients().boxed()),
    ("upstreams.*.tls.ca", || upstream_trust().boxed()),
    ("upstreams.*.tls.server_name", || upstream_trust().boxed()),
    ("upstreams.*.tls.verify", || upstream_trust().boxed()),
    ("upstreams.*.tls.client_cert", || upstream_client().boxed()),
    ("upstreams.*.tls.client_key", || upstream_client().boxed()),
];

/// Keys of targets without a server: the key, the target that it is set in, and what is then seen of the second route.
const TARGETS: &[(&str, &str, &str, Look)] = &[
    ("routes[].respond.status", r#"{ "status": 418 }"#, "418", |s| text(answer(s).status)),
    ("routes[].respond.body", r#"{ "body": "hi" }"#, "b\"hi\"", |s| text(answer(s).body)),
    ("routes[].respond.content_type", r#"{ "body": "hi", "content_type": "text/x" }"#, "Some(\"text/x\")", |s| {
        text(answer(s).headers.get("content-type"))
    }),
    ("routes[].respond.headers.*", r#"{ "headers": { "x-a": "{path}" } }"#, "Some(\"/a/b\")", |s| {
        text(answer(s).headers.get("x-a"))
    }),
    ("routes[].redirect.to", r#"{ "to": "/n{uri}" }"#, "Some(\"/n/a/b\")", |s| text(answer(s).headers.get("location"))),
    ("routes[].redirect.status", r#"{ "to": "/", "status": 303 }"#, "303", |s| text(answer(s).status)),
    ("routes[].files.root", r#"{ "root": "/www" }"#, "\"/www\"", |s| text(&files(s).root)),
    ("routes[].files.index", r#"{ "root": "/", "index": "a.html" }"#, "\"a.html\"", |s| text(&files(s).index)),
    ("routes[].files.fallback", r#"{ "root": "/", "fallback": "/a" }"#, "Some(\"/a\")", |s| text(&files(s).fallback)),
    ("routes[].files.cache_control", r#"{ "root": "/", "cache_control": "no-cache" }"#, "Some(\"no-cache\")", |s| {
        text(&files(s).cache_control)
    }),
    ("routes[].files.immutable", r#"{ "root": "/", "immutable": "*.js" }"#, "[true]", |s| {
        text(files(s).immutable.iter().map(|glob| glob.matches(b"/a.js")).collect::<Vec<_>>())
    }),
];

/// Keys of the process: the running program shows that it reads them.
const PROCESS: &[(&str, Proof)] = &[
    ("version", || version().boxed()),
    ("routes[].auth", || route_auth().boxed()),
    ("auth.keys_file", || keys_file().boxed()),
    ("routes[].intercept_errors", || async { intercept_errors() }.boxed()),
    ("listeners[].address", || listener_address().boxed()),
    ("admin.address", || admin_address().boxed()),
    ("admin.token_file", || admin_token().boxed()),
    ("server.threads", || threads().boxed()),
    ("server.temp_dir", || temp_dir().boxed()),
    ("server.body_budget", || body_budget().boxed()),
    ("telemetry.access_log", || access_log().boxed()),
    ("telemetry.log_level", || log_level().boxed()),
];

/// The facts of a request.
fn facts(headers: &HeaderMap) -> Facts<'_> {
    Facts {
        host: "h",
        path: "/a/b",
        query: None,
        method: "GET",
        scheme: "http",
        client_ip: None,
        request_id: "1",
        route: "first",
        upstream: "",
        server: "",
        model: "m",
        status: None,
        headers,
    }
}

/// What rules make of one field.
fn changed(rules: &HeaderRules) -> String {
    let mut headers =
        HeaderMap::from_iter([(http::HeaderName::from_static("x-team"), HeaderValue::from_static("red"))]);
    let before = headers.clone();
    rules.changes(&facts(&before)).apply(&mut headers);
    text(headers)
}

fn rewritten(snapshot: &Snapshot) -> String {
    text(snapshot.routes[0].content.rewrite.as_ref().map(|rewrite| rewrite.path("/a/b")))
}

fn sticky(snapshot: &Snapshot) -> Option<&StickyCookie> {
    fleet(snapshot).balance.sticky.as_ref()
}

fn answer(snapshot: &Snapshot) -> Answer {
    let headers = HeaderMap::new();
    match &snapshot.routes[1].target {
        Target::Respond(respond) => respond.answer(&facts(&headers)),
        Target::Redirect(redirect) => redirect.answer(&facts(&headers)).expect("a location"),
        _ => panic!("another target"),
    }
}

fn files(snapshot: &Snapshot) -> &Files {
    match &snapshot.routes[1].target {
        Target::Files(files) => files,
        _ => panic!("another target"),
    }
}

#[test]
fn each_key_of_a_target_without_a_server_changes_what_runs() {
    for (key, value, wanted, look) in TARGETS {
        let name = key.split('.').nth(1).expect("a target");
        let mut config = base("http://127.0.0.1:9");
        config["upstreams"].as_object_mut().expect("a mapping").remove("other");
        config["routes"][1] = json!({ "name": "second", "match": { "path": "/x" } });
        config["routes"][1][name] = serde_json::from_str(value).expect("JSON");
        config["routes"].as_array_mut().expect("a list").swap(0, 1);
        config["routes"][1]["name"] = json!("last");
        let mut snapshot = compiled(&config);
        snapshot.routes.swap(0, 1);
        assert_eq!(look(&snapshot), *wanted, "{key}: {value}");
    }
}

fn intercept_errors() {
    let mut config = base("http://127.0.0.1:9");
    config["routes"][0]["error_pages"] = json!({ "4xx": "conf/arriero.yaml" });
    for intercept in [false, true] {
        config["routes"][0]["intercept_errors"] = json!(intercept);
        let snapshot = compiled(&config);
        assert_eq!(snapshot.routes[0].content.error_pages.page(404, true).is_some(), intercept);
        assert!(snapshot.routes[0].content.error_pages.page(404, false).is_some());
    }
}

fn checked(snapshot: &Snapshot) -> &arriero::fleet::snapshot::Check {
    fleet(snapshot).check.as_ref().expect("servers of this kind are checked")
}

/// The numbers of the first rate limit: requests, their time, burst, how many of it are delayed.
fn rate(snapshot: &Snapshot) -> String {
    let limit = &snapshot.routes[0].limits.rates[0].limit;
    text(format_args!("({}, {:?}, {}, {})", limit.count(), limit.period(), limit.burst(), limit.delayed()))
}

/// A configuration with as little as can be; JSON is YAML.
fn base(url: &str) -> Value {
    json!({
        "version": 1,
        // Without trusted proxies `proxy_protocol` would have no meaning.
        "listeners": [{ "address": "127.0.0.1:0", "trusted_proxies": ["192.0.2.1"] }],
        "routes": [
            // Keys of limits can be set only where there is one.
            {
                "name": "first", "upstream": "fleet", "cors": { "origins": ["https://a.test"] },
                "rate_limits": [{ "rate": "9/s", "burst": 5 }], "concurrency": [{ "max": 9 }],
            },
            { "name": "second", "upstream": "other" },
        ],
        "upstreams": {
            "fleet": {
                "kind": "ollama", "servers": [{ "url": url }],
                // Without it `hash_on` would have no meaning.
                "balance": { "policy": "consistent_hash" },
            },
            "other": { "kind": "http", "servers": [{ "url": "http://127.0.0.1:9" }] },
        },
        "admin": { "address": "127.0.0.1:0" },
    })
}

/// The first thing that a key of the schema stands for in [`base`], set to a value.
fn set(config: &mut Value, key: &str, value: Value) {
    if key == "routes[].rate_limits[].preset" {
        // It stands in the place of these.
        let limit = config["routes"][0]["rate_limits"][0].as_object_mut().expect("a limit");
        limit.retain(|key, _| key != "rate" && key != "burst");
    }
    let key = key.replace("upstreams.*", "upstreams.fleet").replace("error_pages.*", "error_pages.404");
    let key = key.replace(".*", ".x-team").replace("[]", ".0");
    let slot = key.split('.').fold(config, |at, step| match step.parse::<usize>() {
        Ok(index) if at.is_array() => &mut at[index],
        Ok(_) => &mut at[step],
        Err(_) => &mut at[step],
    });
    *slot = value;
}

fn compiled(config: &Value) -> Snapshot {
    let loaded = config::parse("keys", &config.to_string(), &|_| None);
    let loaded = loaded.unwrap_or_else(|found| panic!("{}", found.render(false)));
    let metrics = Arc::new(Metrics::default());
    let around = Surroundings { servers: HashMap::new(), metrics: &metrics, now: clock::now(), unix_time: 0.0 };
    compile(&loaded.config, loaded.hash, &around).expect("it compiles")
}

/// Every key below this part of the schema that has a value of its own.
fn leaves(schema: &Value, part: &Value, path: &str, found: &mut BTreeSet<String>) {
    if let Some(target) = part["$ref"].as_str() {
        return leaves(schema, schema.pointer(target.trim_start_matches('#')).expect("a definition"), path, found);
    }
    let choices = ["anyOf", "oneOf", "allOf"].into_iter().filter_map(|word| part[word].as_array()).flatten();
    let choices: Vec<&Value> = choices.filter(|choice| choice["type"] != "null").collect();
    if !choices.is_empty() {
        return choices.into_iter().for_each(|choice| leaves(schema, choice, path, found));
    }
    let below = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    if let Some(properties) = part["properties"].as_object() {
        properties.iter().for_each(|(name, property)| leaves(schema, property, &below(name), found));
    } else if part["additionalProperties"].is_object() {
        leaves(schema, &part["additionalProperties"], &below("*"), found);
    } else if part["items"].is_object() {
        let (mut items, path) = (BTreeSet::new(), format!("{path}[]"));
        leaves(schema, &part["items"], &path, &mut items);
        // A list of plain values is one value.
        found.extend(items.into_iter().map(|item| item.strip_suffix("[]").map_or(item.clone(), str::to_owned)));
    } else {
        found.insert(path.to_owned());
    }
}

#[test]
fn every_key_of_the_schema_has_a_proof_and_every_proof_its_key() {
    let (schema, mut found) = (config::schema(), BTreeSet::new());
    leaves(&schema, &schema, "", &mut found);
    let proofs = PROCESS.iter().chain(TLS).map(|row| row.0);
    let rows = COMPILED.iter().map(|row| row.0).chain(proofs);
    let rows: Vec<&str> = rows.chain(TARGETS.iter().map(|row| row.0)).collect();
    let known: BTreeSet<&str> = rows.iter().copied().collect();
    assert_eq!(known.len(), rows.len(), "a key has two rows");
    let without: Vec<_> = found.iter().filter(|key| !known.contains(key.as_str())).collect();
    let gone: Vec<_> = known.iter().filter(|key| !found.contains(**key)).collect();
    assert!(without.is_empty() && gone.is_empty(), "keys without a proof: {without:?}; proofs without a key: {gone:?}");
}

#[test]
fn each_key_that_is_compiled_changes_what_runs() {
    let before = compiled(&base("http://127.0.0.1:9"));
    let mut wrong = Vec::new();
    for (key, value, wanted, look) in COMPILED {
        let mut config = base("http://127.0.0.1:9");
        set(&mut config, key, serde_json::from_str(value).expect("JSON"));
        let (without, with) = (look(&before), look(&compiled(&config)));
        if without == *wanted || with != *wanted {
            wrong.push(format!("{key}: {value}: without it {without}, with it {with}, wanted {wanted}"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[tokio::test]
async fn each_key_of_the_process_changes_what_it_does() {
    for (key, proof) in PROCESS.iter().chain(TLS) {
        let shown = std::panic::AssertUnwindSafe(proof()).catch_unwind().await;
        assert!(shown.is_ok(), "the proof of `{key}` failed: see above");
    }
}

/// Starts the program with these keys set.
async fn with(folder: &Path, url: &str, keys: &[(&str, Value)]) -> Program {
    let mut config = base(url);
    keys.iter().for_each(|(key, value)| set(&mut config, key, value.clone()));
    fs::write(folder.join("arriero.yaml"), config.to_string()).expect("written");
    Program::run(&folder.join("arriero.yaml")).await
}

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a folder")
}

async fn version() {
    let mut config = base("http://127.0.0.1:9");
    config["version"] = json!(2);
    let found = config::parse("keys", &config.to_string(), &|_| None).expect_err("a version that is not known");
    assert!(found.render(false).contains("version"), "{}", found.render(false));
}

async fn route_auth() {
    let folder = folder();
    fs::write(folder.path().join("keys.yaml"), "keys: []").expect("written");
    let mut config = base("http://127.0.0.1:9");
    let look = |config: &Value| text(compiled(config).routes[0].auth);
    assert_eq!(look(&config), "None");
    set(&mut config, "auth.keys_file", json!(folder.path().join("keys.yaml")));
    assert_eq!(look(&config), "Required");
    for (word, mode) in [("required", "Required"), ("optional", "Optional"), ("none", "None")] {
        set(&mut config, "routes[].auth", json!(word));
        assert_eq!(look(&config), mode);
    }
}

async fn keys_file() {
    let folder = folder();
    let mut config = base("http://127.0.0.1:9");
    set(&mut config, "auth.keys_file", json!(folder.path().join("nowhere.yaml")));
    fs::write(folder.path().join("arriero.yaml"), config.to_string()).expect("written");
    let ended = support::process::finish(support::process::arriero(&["run"], folder.path())).await;
    assert!(ended.code == Some(1) && ended.err.contains("nowhere.yaml"), "{ended:?}");
}

async fn listener_address() {
    let folder = folder();
    let program = with(folder.path(), "http://127.0.0.1:9", &[("listeners[].address", json!("127.0.0.2:0"))]).await;
    assert_eq!(program.address().ip().to_string(), "127.0.0.2");
    assert!(ask(program.address(), get("/")).await.head.status > 0);
}

async fn admin_address() {
    let folder = folder();
    let program = with(folder.path(), "http://127.0.0.1:9", &[("admin.address", json!("127.0.0.2:0"))]).await;
    assert_eq!(program.admin().ip().to_string(), "127.0.0.2");
    assert_eq!(send(program.admin(), "GET", "/health/live", "").await.head.status, 200);
}

async fn admin_token() {
    let folder = folder();
    fs::write(folder.path().join("token"), "secret\n").expect("written");
    let token = json!(folder.path().join("token"));
    let program = with(folder.path(), "http://127.0.0.1:9", &[("admin.token_file", token)]).await;
    let reload = async |field: &str| {
        send_with(program.admin(), "POST", "/api/orchestrator/config/reload", field, "").await.head.status
    };
    assert_eq!(reload("").await, 401);
    assert_eq!(reload("Authorization: Bearer secrets\r\n").await, 401);
    assert_eq!(reload("Authorization: Bearer secret\r\n").await, 200);
}

async fn threads() {
    let (one, other, url) = (folder(), folder(), "http://127.0.0.1:9");
    let few = with(one.path(), url, &[("server.threads", json!(4))]).await;
    let many = with(other.path(), url, &[("server.threads", json!(9))]).await;
    // Those that requests run on have a name, which each takes soon after it has begun.
    let count = |program: &Program| {
        let tasks = fs::read_dir(format!("/proc/{}/task", program.id())).expect("its threads").flatten();
        tasks.filter(|task| fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name == "data\n")).count()
    };
    eventually("five more threads", || async { count(&few) > 0 && count(&many) == count(&few) + 5 }).await;
}

/// A host with a model, and a body for it that must be held: the model comes last.
async fn host() -> Host {
    Host::start(HostConfig::new("a").small_model("llava")).await.expect("a host")
}

async fn temp_dir() {
    let (host, folder, temporary) = (host().await, folder(), folder());
    let keys = [("server.temp_dir", json!(temporary.path())), ("server.body_memory", json!("64KiB"))];
    let program = with(folder.path(), &host.url(), &keys).await;
    let body = sized("llava", 1 << 20, false);
    let mut client = H1::connect(program.address()).await;
    client.send(format!("POST /api/generate HTTP/1.1\r\nHost: a\r\nContent-Length: {}\r\n\r\n", body.len())).await;
    client.send(&body[..body.len() - 100]).await;
    let there = || {
        let open = fs::read_dir(format!("/proc/{}/fd", program.id())).expect("its files");
        open.flatten().filter_map(|file| fs::read_link(file.path()).ok()).any(|file| file.starts_with(temporary.path()))
    };
    eventually("a body is held in the folder", || async { there() }).await;
    assert_eq!(fs::read_dir(temporary.path()).expect("a folder").count(), 0, "the file has no name");
    client.send(&body[body.len() - 100..]).await;
    assert_eq!(client.reader.answer().await.head.status, 200);
}

async fn body_budget() {
    let (host, folder) = (host().await, folder());
    let keys = [("server.body_budget", json!("64KiB")), ("server.body_memory", json!("32KiB"))];
    let program = with(folder.path(), &host.url(), &keys).await;
    let ask = async |size| send(program.address(), "POST", "/api/generate", sized("llava", size, false)).await;
    let refused = ask(1 << 20).await;
    assert_eq!(refused.head.status, 503, "{}", refused.text());
    assert!(refused.head.field("retry-after").is_some(), "{}", refused.head.text);
    let small = send(program.address(), "POST", "/api/generate", generate("llava")).await;
    assert_eq!(small.head.status, 200, "{}", small.text());
}

async fn access_log() {
    let (server, folder) = (Small::named("a").await, folder());
    for (value, begin) in [("json", "{"), ("combined", "127.0.0.1 - - ["), ("off", "")] {
        let keys = [("upstreams.*.kind", json!("http")), ("telemetry.access_log", json!(value))];
        let mut program = with(folder.path(), &server.url(), &keys).await;
        assert_eq!(ask(program.address(), get("/")).await.head.status, 200);
        program.signal(Signal::TERM);
        let ended = program.ended().await;
        let lines: Vec<&str> = ended.out.lines().collect();
        assert_eq!(lines.len(), usize::from(value != "off"), "{value}: {ended:?}");
        assert!(lines.iter().all(|line| line.starts_with(begin)), "{value}: {ended:?}");
    }
}

async fn log_level() {
    let reloaded = async |level: &str| {
        let folder = folder();
        let mut program = with(folder.path(), "http://127.0.0.1:9", &[("telemetry.log_level", json!(level))]).await;
        let file = folder.path().join("arriero.yaml");
        let text = fs::read_to_string(&file).expect("a text");
        fs::write(&file, format!("# again\n{text}")).expect("written");
        // The second one changes nothing, which is worth a word only at `debug`.
        for _ in 0..2 {
            assert_eq!(send(program.admin(), "POST", "/api/orchestrator/config/reload", "").await.head.status, 200);
        }
        program.signal(Signal::TERM);
        program.ended().await.err
    };
    let (info, error, debug) = (reloaded("info").await, reloaded("error").await, reloaded("debug").await);
    assert!(info.contains("INFO") && !info.contains("DEBUG"), "{info}");
    assert!(!error.contains("INFO") && !error.contains("WARN"), "{error}");
    assert!(debug.contains("DEBUG"), "{debug}");
}

/// A folder with the files of a certificate for `a.test`, whose authority's is `ca.pem`.
fn certificate() -> (tempfile::TempDir, Authority) {
    let (folder, authority) = (folder(), Authority::new("ca"));
    authority.issue(&["a.test"]).write(folder.path(), "a");
    fs::write(folder.path().join("ca.pem"), authority.pem()).expect("written");
    (folder, authority)
}

/// The good configuration with settings of TLS; `@` stands for the folder.
fn with_tls(folder: &Path, key: &str, tls: &str) -> Value {
    let mut config = base("https://127.0.0.1:9");
    let tls = tls.replace('@', &folder.display().to_string());
    set(&mut config, key, serde_json::from_str(&tls).expect("JSON"));
    config
}

/// A handshake of a client with a listener of these settings, both ends of it.
async fn handshake(folder: &Path, more: &str, client: ClientConfig) -> std::io::Result<Vec<u8>> {
    let tls = format!("{{ \"certificates\": [{{ \"cert\": \"@/a.pem\", \"key\": \"@/a.key\" }}]{more} }}");
    let snapshot = compiled(&with_tls(folder, "listeners[].tls", &tls));
    let server = snapshot.listeners[0].tls.as_ref().expect("TLS").server_config();
    let (near, far) = tokio::io::duplex(1 << 16);
    let name = "a.test".try_into().expect("a name");
    let connecting = TlsConnector::from(Arc::new(client)).connect(name, near);
    let (connected, accepted) = tokio::join!(connecting, TlsAcceptor::from(server).accept(far));
    accepted?;
    Ok(connected?.get_ref().1.peer_certificates().expect("a certificate")[0].to_vec())
}

async fn listener_certificates() {
    let (folder, authority) = certificate();
    let shown = handshake(folder.path(), "", authority.client(&[&TLS13], None)).await.expect("a handshake");
    let written = fs::read_to_string(folder.path().join("a.pem")).expect("a file");
    let der: CertificateDer<'_> = PemObject::from_pem_slice(written.as_bytes()).expect("PEM");
    assert_eq!(shown, der.to_vec());
    let other = authority.issue(&["a.test"]);
    fs::write(folder.path().join("a.key"), &other.key).expect("written");
    let tls = "{ \"certificates\": [{ \"cert\": \"@/a.pem\", \"key\": \"@/a.key\" }] }";
    let config = with_tls(folder.path(), "listeners[].tls", tls);
    config::parse("keys", &config.to_string(), &|_| None).expect_err("another certificate's key");
}

async fn listener_staple() {
    let (folder, authority) = certificate();
    let issued = authority.issue(&["a.test"]);
    issued.write(folder.path(), "a");
    let tls = "{ \"certificates\": [{ \"cert\": \"@/a.pem\", \"key\": \"@/a.key\", \"ocsp\": \"@/a.ocsp\" }] }";
    let config = with_tls(folder.path(), "listeners[].tls", tls).to_string();
    for (until, held_back) in [("20990101000000Z", false), ("20250101000000Z", true)] {
        fs::write(folder.path().join("a.ocsp"), issued.staple(until)).expect("written");
        let loaded = config::parse("keys", &config, &|_| None).expect("it loads");
        assert_eq!(loaded.warnings.iter().any(|warning| warning.code == "W022"), held_back, "{until}");
    }
}

async fn listener_versions() {
    let (folder, authority) = certificate();
    let old = || authority.client(&[&TLS12], None);
    handshake(folder.path(), "", old()).await.expect("1.2");
    handshake(folder.path(), ", \"min_version\": \"1.3\"", old()).await.expect_err("1.2");
}

async fn listener_clients() {
    let (folder, authority) = certificate();
    let nobody = || authority.client(&[&TLS13], None);
    handshake(folder.path(), ", \"client_ca\": \"@/ca.pem\"", nobody()).await.expect_err("no certificate");
    let optional = ", \"client_ca\": \"@/ca.pem\", \"client_auth\": \"optional\"";
    handshake(folder.path(), optional, nobody()).await.expect("none is needed");
}

async fn upstream_trust() {
    let (folder, _) = certificate();
    let look = |tls: &str| {
        let snapshot = compiled(&with_tls(folder.path(), "upstreams.*.tls", tls));
        let tls = fleet(&snapshot).tls.as_ref().expect("TLS");
        text((tls.trust().ca.as_ref().map(Vec::len), tls.name("url.test"), tls.verify()))
    };
    assert_eq!(look("{}"), "(None, \"url.test\", true)");
    let all = "{ \"ca\": \"@/ca.pem\", \"server_name\": \"a.test\", \"verify\": false }";
    assert_eq!(look(all), "(Some(1), \"a.test\", false)");
}

async fn upstream_client() {
    let (folder, _) = certificate();
    let tls = "{ \"client_cert\": \"@/a.pem\", \"client_key\": \"@/a.key\" }";
    let snapshot = compiled(&with_tls(folder.path(), "upstreams.*.tls", tls));
    let trust = fleet(&snapshot).tls.as_ref().expect("TLS").trust();
    let client = trust.client.as_ref().expect("a certificate");
    let written = fs::read(folder.path().join("a.key")).expect("a file");
    let key: PrivateKeyDer<'_> = PemObject::from_pem_slice(&written).expect("PEM");
    assert_eq!((client.chain.len(), client.key.secret_der()), (1, key.secret_der()));
}
