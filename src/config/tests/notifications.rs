//! Rules about webhooks and recovery actions.

use super::rules::{add, edit, hint};
use super::{GOOD, found};

const URL: &str = "      - url: http://127.0.0.1:11434";
const KIND: &str = "    kind: ollama";

#[test]
fn a_webhook_has_a_url_that_can_be_posted_to() {
    let hook = |keys: &str| format!("{GOOD}notifications:\n  - {{ url: {keys} }}\n");
    let good = ["https://a.test/x?y=z", "http://127.0.0.1:9, events: [server_down, server_up]", "http://a, window: 0s"];
    for keys in good {
        assert_eq!(found(&hook(keys)), Vec::<String>::new(), "{keys}");
    }
    for (keys, expected) in [
        ("ftp://a", "E095 13:12 notifications[0].url"),
        ("\"http://u:p@a/\"", "E095 13:12 notifications[0].url"),
        ("http://a, events: []", "E021 13:30 notifications[0].events"),
        ("http://a, events: [server_gone]", "E013 13:31 notifications[0].events[0]"),
        ("http://a, timeout: 0s", "E035 13:31 notifications[0].timeout"),
        ("http://a, attempts: 101", "E034 13:32 notifications[0].attempts"),
        ("http://a, secret_file: /no/such/file", "E096 13:35 notifications[0].secret_file"),
        ("http://a, secret_file: /dev/null", "E096 13:35 notifications[0].secret_file"),
    ] {
        assert_eq!(found(&hook(keys)), [expected], "{keys}");
    }
    hint(&hook("http://a, secret_file: /no/such/file"), "openssl rand -hex 32");
    hint(&hook("\"http://u:p@a/\""), "what is sent is signed instead");
}

#[test]
fn a_recovery_action_does_exactly_one_thing() {
    let one = |keys: &str, expected: &[&str]| add(URL, &format!("        recovery: {{ {keys} }}"), expected);
    one("exec: [systemctl, restart, ollama], max_attempts: 5, backoff: 2s", &[]);
    one("webhook: \"https://a.test/restart\", after: 1", &[]);
    one("docker_restart: ollama-1, docker_socket: /run/docker.sock", &[]);
    let place = "E097 12:9 upstreams.fleet.servers[0].recovery";
    one("max_attempts: 3", &[place]);
    one("exec: [a], docker_restart: b", &[place]);
    one("exec: []", &["E097 12:27 upstreams.fleet.servers[0].recovery.exec"]);
    one("webhook: a.test", &["E095 12:30 upstreams.fleet.servers[0].recovery.webhook"]);
    one("docker_restart: ../a", &["E097 12:37 upstreams.fleet.servers[0].recovery.docker_restart"]);
    one("exec: [a], secret_file: /dev/null", &["E036 12:32 upstreams.fleet.servers[0].recovery.secret_file"]);
    one("exec: [a], docker_socket: /a", &["E036 12:32 upstreams.fleet.servers[0].recovery.docker_socket"]);
    one("exec: [a], max_attempts: 0", &["E034 12:46 upstreams.fleet.servers[0].recovery.max_attempts"]);
    one("exec: [a], backoff: 10m", &["E038 12:41 upstreams.fleet.servers[0].recovery.backoff"]);
    one("exec: [a], verify: 0s", &["E035 12:40 upstreams.fleet.servers[0].recovery.verify"]);
}

#[test]
fn a_recovery_action_needs_checks() {
    let text = GOOD.replacen(URL, &format!("{URL}\n        recovery: {{ exec: [a] }}"), 1);
    let off = text.replacen(KIND, "    kind: ollama\n    health: { active: off }", 1);
    assert_eq!(found(&off), ["E036 13:9 upstreams.fleet.servers[0].recovery"]);
    let http = text.replacen(KIND, "    kind: http", 1);
    assert_eq!(found(&http), ["E036 12:9 upstreams.fleet.servers[0].recovery"]);
    let checked = text.replacen(KIND, "    kind: http\n    health: { active: { path: /up } }", 1);
    assert_eq!(found(&checked), Vec::<String>::new());
    edit(URL, &format!("{URL}\n        recovery: {{ exec: [a] }}"), &[]);
}
