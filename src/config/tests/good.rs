//! Files that must load, and what they say.

use super::super::types::{AccessLog, Active, Kind, RetryOn};
use super::load;
use crate::units::Duration;

fn loads(text: &str) -> super::Loaded {
    load(text).unwrap_or_else(|found| panic!("{}", found.render(false)))
}

const HEAD: &str = r#"version: 1
server: { threads: 2 }
listeners: [{ address: "127.0.0.1:9000", timeouts: { keepalive: 600s } }]
admin: { address: "unix:/tmp/run/admin.sock" }
telemetry: { access_log: off }
defaults: { limits: { request_body: 1GiB } }
"#;

#[test]
fn a_balanced_file_with_retries_loads() {
    let text = format!(
        "{HEAD}{}",
        r#"
routes:
  - name: all
    match: { path: / }
    upstream: a
    timeouts: { connect: 1s, first_byte: 3s }
    retry: { attempts: 3, on: [connect, reset, first_byte_timeout, 5xx, "503", 502], replay_post: true }
upstreams:
  a:
    kind: http
    servers: [{ url: "http://127.0.0.1:9001" }, { url: "http://127.0.0.1:9002" }]
    balance: { policy: round_robin }
    circuit: { consecutive_failures: 2, open_for: 5s, max_open_for: 5s }
    keepalive: { max_idle: 256 }
"#
    );
    let loaded = loads(&text);
    assert_eq!(loaded.warnings, []);
    let config = loaded.config;
    assert_eq!(config.telemetry.access_log, AccessLog::Off);
    assert_eq!(config.upstreams["a"].kind, Kind::Http);
    assert_eq!(config.routes[0].retry.on[3..], [RetryOn::ServerError, RetryOn::Status(503), RetryOn::Status(502)]);
    assert_eq!(config.routes[0].timeouts.connect, Some(Duration(std::time::Duration::from_secs(1))));
}

#[test]
fn a_file_that_routes_by_model_loads() {
    let text = format!(
        "{HEAD}{}",
        r#"
routes:
  - { name: b, match: { path: /, method: POST, model: modelB }, upstream: b }
  - { name: a, match: { path: / }, upstream: a }
upstreams:
  a: { kind: http, servers: [{ url: "http://127.0.0.1:9001" }], keepalive: { max_idle: 1024 } }
  b: { kind: http, servers: [{ url: "http://127.0.0.1:9002" }], keepalive: { max_idle: 1024 } }
"#
    );
    let loaded = loads(&text);
    assert_eq!(loaded.warnings, []);
    assert_eq!(loaded.config.routes[0].matches.model.as_slice(), ["modelB"]);
}

#[test]
fn a_file_on_few_lines_loads() {
    let text = format!(
        "{HEAD}{}",
        r#"
routes: [{ name: all, match: { path: / }, upstream: a }]
upstreams:
  a: { kind: http, servers: [{ url: "http://127.0.0.1:9001" }], keepalive: { max_idle: 1024 } }
"#
    );
    assert_eq!(loads(&text).warnings, []);
}

#[test]
fn off_may_be_a_word_or_a_boolean() {
    for off in ["off", "false", "\"off\""] {
        let text = super::GOOD.replace("kind: ollama", &format!("kind: http\n    health: {{ active: {off} }}"))
            + &format!("telemetry: {{ access_log: {off} }}\n");
        let config = loads(&text).config;
        assert_eq!(config.telemetry.access_log, AccessLog::Off);
        assert!(matches!(config.upstreams["fleet"].health.active, Some(Active::Off(_))));
    }
}

#[test]
fn anchors_and_merges_are_expanded_and_own_keys_win() {
    let text = super::GOOD.replace(
        "    upstream: fleet\n",
        "    upstream: fleet
    match: { path: /a }
    retry: &retry { attempts: 4, on: [reset] }
  - name: b
    upstream: fleet
    match: { path: /b }
    retry: { attempts: 2, <<: *retry }
  - name: c
    upstream: fleet
    match: { path: /c }
    retry: { <<: [*retry, { replay_post: true, attempts: 9 }] }
  - name: d
    upstream: fleet
    match: { path: /d }
    retry: *retry
",
    );
    let routes = loads(&text).config.routes;
    assert_eq!((routes[1].retry.attempts, routes[1].retry.on.as_slice()), (2, [RetryOn::Reset].as_slice()));
    assert_eq!((routes[2].retry.attempts, routes[2].retry.replay_post), (4, true));
    assert_eq!(routes[3].retry, routes[0].retry);
}

#[test]
fn a_byte_order_mark_and_windows_line_breaks_do_no_harm() {
    let text = format!("\u{feff}{}", super::GOOD.replace('\n', "\r\n"));
    assert_eq!(loads(&text).config.routes[0].name, "all");
}

#[test]
fn the_hash_changes_with_any_byte() {
    let (one, two) = (loads(super::GOOD), loads(&format!("{}#", super::GOOD)));
    assert_eq!(one.hash.len(), 16);
    assert_ne!(one.hash, two.hash);
    assert_eq!(one.hash, loads(super::GOOD).hash);
}

#[test]
fn what_is_serialized_is_read_back() {
    let mut config = loads(&crate::config::reference_yaml()).config;
    config.upstreams.remove("web");
    config.routes.retain(|route| route.upstream.as_deref() != Some("web"));
    let json = serde_json::to_string(&config).unwrap_or_default();
    assert_eq!(serde_json::from_str::<crate::config::Config>(&json).ok(), Some(config.clone()));
    // JSON is YAML: an effective configuration can be saved and loaded.
    assert_eq!(loads(&json).config, config);
}

#[test]
fn a_change_that_needs_a_restart_is_named() {
    let old = loads(super::GOOD).config;
    assert_eq!(crate::config::restart_reasons(&old, &old), Vec::<String>::new());
    let mut new = old.clone();
    new.listeners[0].address = "127.0.0.1:9".to_owned();
    new.listeners[0].h2c = true;
    new.listeners[0].limits.header_fields = 7;
    // Listeners come and go with a reload.
    new.listeners.push(old.listeners[0].clone());
    new.server.threads = Some(4);
    new.server.temp_dir = Some("/tmp".to_owned());
    new.admin.address = "127.0.0.1:1".to_owned();
    let expected = [
        "admin.address: 127.0.0.1:5100 → 127.0.0.1:1",
        "server.threads: not set → 4",
        "server.temp_dir: not set → /tmp",
    ];
    assert_eq!(crate::config::restart_reasons(&old, &new), expected);
}
