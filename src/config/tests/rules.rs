//! Every rule once, with the position of what it finds. Codes E010 to E013, E020 and above, warnings.

use super::{GOOD, found, load};

/// Replaces `from` in the good file, and holds that exactly `expected` is found.
#[track_caller]
pub(super) fn edit(from: &str, to: &str, expected: &[&str]) {
    assert!(GOOD.contains(from), "{from}");
    let text = GOOD.replacen(from, to, 1);
    assert_eq!(found(&text), expected, "\n{text}");
}

/// Adds `more` below a line of the good file.
#[track_caller]
pub(super) fn add(below: &str, more: &str, expected: &[&str]) {
    edit(below, &format!("{below}\n{more}"), expected);
}

#[track_caller]
pub(super) fn hint(text: &str, expected: &str) {
    let printed = match load(text) {
        Ok(loaded) => super::Diagnostics(loaded.warnings).render(false),
        Err(found) => found.render(false),
    };
    assert!(printed.contains(expected), "{printed}");
}

pub(super) const ADDRESS: &str = "  - address: 127.0.0.1:0";
pub(super) const ROUTE: &str = "    upstream: fleet";
const URL: &str = "      - url: http://127.0.0.1:11434";
const KIND: &str = "    kind: ollama";

#[test]
fn the_good_file_is_good() {
    assert_eq!(found(GOOD), Vec::<String>::new());
}

#[test]
fn unknown_keys_are_all_found_with_a_suggestion() {
    let text = GOOD.replace(ROUTE, "    upstraem: fleet\n    timeouts: { first_bite: 3s }") + "telemtry: {}\n";
    let expected = [
        "E011 5:5 routes[0]",
        "E010 6:5 routes[0].upstraem",
        "E010 7:17 routes[0].timeouts.first_bite",
        "E010 13:1 telemtry",
    ];
    // The missing `upstream` follows from the slip and is not said.
    assert_eq!(found(&text), expected[1..]);
    hint(&text, "help: did you mean `upstream`?");
    hint(&text, "help: did you mean `first_byte`?");
    hint(&text, "help: did you mean `telemetry`?");
    add(ROUTE, "    zzzzzz: 1", &["E010 7:5 routes[0].zzzzzz"]);
    hint(&GOOD.replace(ROUTE, "    upstream: fleet\n    zzzzzz: 1"), "known keys: `name`, `match`, `upstream`");
    add(KIND, "    health: { active: { intervall: 1s } }", &["E010 10:25 upstreams.fleet.health.active.intervall"]);
}

#[test]
fn missing_keys_are_found() {
    edit("version: 1\n", "", &["E011 1:1 "]);
    edit("\n    upstream: fleet", "", &["E011 5:5 routes[0]"]);
    hint(&GOOD.replace("version: 1\n", ""), "help: add `version: 1`");
    let text = GOOD.replace("version: 1\n", "").replace("    kind: ollama\n", "");
    assert!(found(&text).contains(&"E011 1:1 ".to_owned()));
}

#[test]
fn wrong_types_are_all_found() {
    let text = GOOD
        .replace(ADDRESS, "  - address: [a]\n    h2c: yes")
        .replace(ROUTE, "    upstream: fleet\n    retry: { attempts: \"3\" }");
    assert_eq!(
        found(&text),
        ["E012 3:14 listeners[0].address", "E012 4:10 listeners[0].h2c", "E012 8:24 routes[0].retry.attempts"]
    );
    hint(&text, "expected `true` or `false`, found the text `yes`");
    hint(&text, "help: write `true`");
    hint(&text, "help: remove the quotes");
    add(ROUTE, "    retry:", &["E012 7:5 routes[0].retry"]);
    add(ROUTE, "    match: [/api/]", &["E012 7:12 routes[0].match"]);
    add(KIND, "    health: { active: [1] }", &["E012 10:23 upstreams.fleet.health.active"]);
}

#[test]
fn wrong_values_show_the_right_spelling() {
    add(ROUTE, "    timeouts: { connect: 30 }", &["E013 7:26 routes[0].timeouts.connect"]);
    hint(
        &GOOD.replace(ROUTE, "    upstream: fleet\n    timeouts: { connect: 30 }"),
        "a duration needs a unit: write `30s`",
    );
    add(ROUTE, "    limits: { request_body: 100M }", &["E013 7:29 routes[0].limits.request_body"]);
    edit("ollama", "olama", &["E013 9:11 upstreams.fleet.kind"]);
    hint(&GOOD.replace("ollama", "olama"), "did you mean `ollama`?");
    add(
        ROUTE,
        "    retry: { on: [connect, 200, timeout] }",
        &["E013 7:28 routes[0].retry.on[1]", "E013 7:33 routes[0].retry.on[2]"],
    );
    add(URL, "        weight: -1", &["E013 12:17 upstreams.fleet.servers[0].weight"]);
    add(URL, "        weight: 99999999999", &["E013 12:17 upstreams.fleet.servers[0].weight"]);
    edit("version: 1", "version: 1\nadmin: { token_file: \"\" }", &["E013 2:22 admin.token_file"]);
    edit("version: 1", "version: 1\nserver: { temp_dir: \"\" }", &["E013 2:21 server.temp_dir"]);
}

#[test]
fn versions_and_empty_lists_are_refused() {
    edit("version: 1", "version: 2", &["E020 1:10 version"]);
    edit("listeners:\n  - address: 127.0.0.1:0", "listeners: []", &["E021 2:1 listeners"]);
    edit("servers:\n      - url: http://127.0.0.1:11434", "servers: []", &["E021 10:5 upstreams.fleet.servers"]);
    add(ROUTE, "    match: { host: [] }", &["E021 7:14 routes[0].match.host"]);
    edit("routes:\n  - name: all\n    upstream: fleet", "routes: []", &["W006 4:1 routes", "W002 6:3 upstreams.fleet"]);
}

#[test]
fn a_server_that_is_a_listener_is_refused() {
    let listens = |address: &str, url: &str, expected: &[&str]| {
        let text = GOOD.replace("127.0.0.1:0", address).replace("http://127.0.0.1:11434", url);
        assert_eq!(found(&text), expected, "{address} {url}");
    };
    let itself = ["E043 11:14 upstreams.fleet.servers[0].url"];
    for (address, url) in [
        ("127.0.0.1:11434", "http://127.0.0.1:11434"),
        ("127.0.0.1:11434", "http://localhost:11434"),
        ("localhost:11434", "http://[::1]:11434"),
        ("0.0.0.0:11434", "https://127.0.0.9:11434"),
        ("\"[::]:11434\"", "http://localhost:11434"),
        ("\"[::]:11434\"", "http://[::1]:11434"),
        ("10.0.0.1:80", "http://10.0.0.1"),
    ] {
        listens(address, url, &itself);
    }
    for (address, url) in [
        ("127.0.0.1:11434", "http://127.0.0.1:11435"),
        ("127.0.0.1:11434", "http://127.0.0.2:11434"),
        ("127.0.0.1:0", "http://127.0.0.1:11434"),
        ("0.0.0.0:11434", "http://10.0.0.1:11434"),
        ("10.0.0.1:11434", "http://localhost:11434"),
        ("\"[::]:11434\"", "http://127.0.0.1:11434"),
        ("0.0.0.0:11434", "http://[::1]:11434"),
        ("127.0.0.2:11434", "http://localhost:11434"),
    ] {
        listens(address, url, &[]);
    }
}

#[test]
fn addresses_are_checked() {
    edit("127.0.0.1:0", "8080", &["E022 3:14 listeners[0].address"]);
    edit(ADDRESS, "  - address: 0.0.0.0:80\n  - address: \"0.0.0.0:80\"", &["E023 4:14 listeners[1].address"]);
    add(ADDRESS, "  - address: 127.0.0.1:0", &[]);
    edit("127.0.0.1:0", "127.0.0.1:5100", &["E023 3:14 listeners[0].address"]);
    edit("version: 1", "version: 1\nadmin: { address: \"unix:a\" }", &["E022 2:19 admin.address"]);
    edit("version: 1", "version: 1\nadmin: { address: \"0.0.0.0:5100\" }", &["E039 2:19 admin.address"]);
    edit("version: 1", "version: 1\nadmin: { address: \"0.0.0.0:5100\", token_file: /t }", &[]);
    edit("version: 1", "version: 1\nadmin: { address: \"unix:/run/a.sock\" }", &[]);
}

#[test]
fn names_are_checked() {
    edit("name: all", "name: a b", &["E024 5:11 routes[0].name"]);
    edit("name: all", "name: \"\"", &["E024 5:11 routes[0].name"]);
    edit("name: all", "name: a.B-c_1", &[]);
    let text = GOOD.replace("  fleet:", "  \"a/b\":").replace("upstream: fleet", "upstream: a/b");
    assert_eq!(found(&text), ["E024 8:3 upstreams[\"a/b\"]"]);
    add(URL, "        name: a/b", &["E024 12:15 upstreams.fleet.servers[0].name"]);
    edit(
        ROUTE,
        "    match: { path: /a }\n    upstream: fleet\n  - name: all\n    upstream: fleet",
        &["E025 8:11 routes[1].name"],
    );
    add(
        URL,
        "        name: a\n      - { url: \"http://b\", name: a }",
        &["E025 13:34 upstreams.fleet.servers[1].name"],
    );
    edit("upstream: fleet", "upstream: fleat", &["E026 6:15 routes[0].upstream", "W002 8:3 upstreams.fleet"]);
    hint(&GOOD.replace("upstream: fleet", "upstream: fleat"), "did you mean `fleet`?");
}

#[test]
fn conditions_are_checked() {
    for path in ["api", "/a?b", "/a#b", "/a//b", "//", "/a/./b", "/a/..", "/a%20b", "/api/*", "/a b"] {
        add(ROUTE, &format!("    match: {{ path: [/, \"{path}\"] }}"), &["E027 7:24 routes[0].match.path[1]"]);
    }
    for path in ["/", "/a", "/a/", "/a/b.c/~d"] {
        add(ROUTE, &format!("    match: {{ path: \"{path}\" }}"), &[]);
    }
    for method in ["get", "\"\"", "\"G T\""] {
        add(ROUTE, &format!("    match: {{ method: {method} }}"), &["E028 7:22 routes[0].match.method"]);
    }
    for host in ["\"*\"", "\"a.*.b\"", "\"a:80\"", "\"http://a\"", "\"a b\"", "\"\"", "\"*.\""] {
        add(ROUTE, &format!("    match: {{ host: {host} }}"), &["E029 7:20 routes[0].match.host"]);
    }
    for host in ["Example.com", "\"*.example.com\"", "localhost", "10.0.0.1", "\"[::1]\""] {
        add(ROUTE, &format!("    match: {{ host: {host} }}"), &[]);
    }
    add(ROUTE, "    match: { header: { \"x y\": a } }", &["E030 7:24 routes[0].match.header[\"x y\"]"]);
    add(ROUTE, "    match: { header: { x: \"a\\nb\" } }", &["E030 7:27 routes[0].match.header.x"]);
    add(ROUTE, "    match: { model: [a, \"\"] }", &["E031 7:25 routes[0].match.model[1]"]);
}

#[test]
fn servers_are_checked() {
    for url in ["10.0.0.1:80", "http://a/v1", "http://u:hidden@a", "http://a:70000"] {
        edit("http://127.0.0.1:11434", url, &["E032 11:14 upstreams.fleet.servers[0].url"]);
    }
    let printed = load(&GOOD.replace("127.0.0.1:11434", "u:p@a")).err().unwrap_or_default();
    assert!(!printed.0[0].message.contains("u:p"));
    add(URL, "      - url: http://127.0.0.1:11434", &["E033 12:14 upstreams.fleet.servers[1].url"]);
    add(URL, "        weight: 0", &["E034 12:17 upstreams.fleet.servers[0].weight"]);
    add(URL, "        max_in_flight: 0", &["E034 12:24 upstreams.fleet.servers[0].max_in_flight"]);
}

#[test]
fn numbers_and_durations_are_in_their_ranges() {
    add(ROUTE, "    retry: { attempts: 11 }", &["E034 7:24 routes[0].retry.attempts"]);
    edit("version: 1", "version: 1\nserver: { threads: 0 }", &["E034 2:20 server.threads"]);
    add(KIND, "    circuit: { consecutive_failures: 0 }", &["E034 10:38 upstreams.fleet.circuit.consecutive_failures"]);
    add(KIND, "    circuit: { open_for: 0s }", &["E035 10:26 upstreams.fleet.circuit.open_for"]);
    add(KIND, "    keepalive: { idle_timeout: 0 }", &["E035 10:32 upstreams.fleet.keepalive.idle_timeout"]);
    add(KIND, "    inventory: { interval: 0s }", &["E035 10:28 upstreams.fleet.inventory.interval"]);
    add(KIND, "    recovery: { interval: 0s }", &["E035 10:27 upstreams.fleet.recovery.interval"]);
    add(KIND, "    recovery: { timeout: 0s }", &["E035 10:26 upstreams.fleet.recovery.timeout"]);
    add(KIND, "    recovery: { quiet: 0s, probe: off }", &[]);
    add(KIND, "    recovery: { interval: 10m }", &["E038 10:27 upstreams.fleet.recovery.interval"]);
    add(KIND, "    recovery: { max_interval: 5s }", &["E038 10:31 upstreams.fleet.recovery.max_interval"]);
    add(KIND, "    recovery: { probe: yes }", &["E013 10:24 upstreams.fleet.recovery.probe"]);
    add(ROUTE, "    timeouts: { request: 0s }", &["E035 7:26 routes[0].timeouts.request"]);
    hint(&GOOD.replace(ROUTE, "    upstream: fleet\n    timeouts: { request: 0s }"), "help: leave it out for no limit");
    edit("version: 1", "version: 1\ndefaults: { timeouts: { connect: 0 } }", &["E035 2:34 defaults.timeouts.connect"]);
    add(ADDRESS, "    limits: { header_bytes: 0 }", &["E035 4:29 listeners[0].limits.header_bytes"]);
    add(ADDRESS, "    timeouts: { request_header: 0s }", &["E035 4:33 listeners[0].timeouts.request_header"]);
}

#[test]
fn keys_that_do_not_apply_are_refused() {
    add(KIND, "    balance: { hash_on: model }", &["E036 10:16 upstreams.fleet.balance.hash_on"]);
    add(KIND, "    balance: { policy: consistent_hash, hash_on: model }", &[]);
    add(KIND, "    balance: { policy: consistent_hash, hash_on: \"header:x-id\" }", &[]);
    add(KIND, "    balance: { policy: consistent_hash, hash_on: ip }", &["E037 10:50 upstreams.fleet.balance.hash_on"]);
    edit(KIND, "    kind: http\n    inventory: { interval: 5s }", &["E036 10:5 upstreams.fleet.inventory"]);
    edit(KIND, "    kind: http\n    recovery: { interval: 5s }", &["E036 10:5 upstreams.fleet.recovery"]);
    edit(KIND, "    kind: openai\n    recovery: { probe: on }", &["E036 10:17 upstreams.fleet.recovery.probe"]);
    edit(KIND, "    kind: openai\n    recovery: { interval: 5s }", &[]);
    edit(
        KIND,
        "    kind: http\n    balance: { model_affinity: off }",
        &["E036 10:16 upstreams.fleet.balance.model_affinity"],
    );
    edit(
        KIND,
        "    kind: openai\n    balance: { model_affinity: require_loaded }",
        &["E036 10:32 upstreams.fleet.balance.model_affinity"],
    );
    add(KIND, "    balance: { model_affinity: require_loaded }", &[]);
}

#[test]
fn contradictions_are_found() {
    add(KIND, "    circuit: { open_for: 10m }", &["E038 10:26 upstreams.fleet.circuit.open_for"]);
    edit("version: 1", "version: 1\nserver: { body_budget: 1KiB }", &["E038 2:24 server.body_budget"]);
    add(KIND, "    health: { active: { path: version } }", &["E027 10:31 upstreams.fleet.health.active.path"]);
}

#[test]
fn what_is_probably_not_meant_is_a_warning() {
    add(ROUTE, "  - { name: b, match: { path: /api/ }, upstream: fleet }", &["W001 7:13 routes[1].name"]);
    let covered = "    match: { path: [/api/, /x] }\n  - { name: b, match: { path: [/api/chat, /x], method: GET }, upstream: fleet }";
    add(ROUTE, covered, &["W001 8:13 routes[1].name"]);
    let apart = "    match: { path: /api/ }\n  - { name: b, match: { path: [/api/chat, /y] }, upstream: fleet }\n  - { name: c, upstream: fleet }";
    add(ROUTE, apart, &[]);
    add(URL, "  spare: { kind: http, servers: [{ url: \"http://b\" }] }", &["W002 12:3 upstreams.spare"]);
    add(KIND, "    health: { active: { timeout: 6s } }", &["W003 10:34 upstreams.fleet.health.active.timeout"]);
    let encrypted = "    match: { scheme: https }";
    add(ROUTE, encrypted, &["W001 7:22 routes[0].match.scheme"]);
    let behind = GOOD.replace(":0\n", ":0\n    trusted_proxies: [10.0.0.0/8]\n");
    assert_eq!(found(&behind.replace(ROUTE, &format!("{ROUTE}\n{encrypted}"))), Vec::<String>::new());
    add(ROUTE, "    match: { scheme: http }", &[]);
    add(ROUTE, "    retry: { replay_post: true }", &["W004 7:14 routes[0].retry.replay_post"]);
    assert!(load(&GOOD.replace(ROUTE, "    upstream: fleet\n    retry: { replay_post: true }")).is_ok());
}

#[test]
fn all_rules_report_at_once() {
    let text =
        GOOD.replace("127.0.0.1:0", "x").replace("name: all", "name: a b").replace("http://127", "127") + "zzz: 1\n";
    let codes: Vec<String> = found(&text).iter().map(|one| one[..4].to_owned()).collect();
    assert_eq!(codes, ["E022", "E024", "E032", "E010"]);
}

#[test]
fn a_large_file_with_one_error_in_each_route_ends_soon_and_says_enough() {
    let mut text = GOOD.to_owned();
    let more = "  - { name: r, upstream: fleet, match: { path: x } }\n".repeat(5_000);
    text = text.replace("upstreams:", &format!("{more}upstreams:"));
    assert_eq!(found(&text).len(), 100);
}

#[test]
fn what_models_may_is_said_only_where_there_are_models() {
    let web = |more: &str| {
        let upstream = "  web:\n    kind: http\n    servers: [{ url: \"http://127.0.0.1:9\" }]\n";
        let route = format!("  - name: app\n    upstream: web\n{more}");
        GOOD.replacen("upstreams:\n", &format!("upstreams:\n{upstream}"), 1).replacen(
            "routes:\n",
            &format!("routes:\n{route}"),
            1,
        )
    };
    let codes = |text: &str| found(text).into_iter().filter(|found| !found.starts_with('W')).collect::<Vec<_>>();
    assert_eq!(codes(&web("")), Vec::<String>::new());
    assert_eq!(codes(&web("    request_encoding: decode\n")), Vec::<String>::new());
    for (key, value) in
        [("management", "deny"), ("management", "allow"), ("cloud_models", "allow"), ("caps", "{ num_ctx: 1 }")]
    {
        let found = codes(&web(&format!("    {key}: {value}\n")));
        assert!(
            found.len() == 1 && found[0].starts_with("E036") && found[0].ends_with(&format!("routes[0].{key}")),
            "{found:?}"
        );
    }
    add(ROUTE, "    management: allow\n    cloud_models: allow\n    caps: { keep_alive: 1h, num_gpu: 0 }", &[]);
    add(ROUTE, "    caps: { keep_alive: 0s }", &["E035 7:25 routes[0].caps.keep_alive"]);
    add(
        ROUTE,
        "    caps: { num_ctx: 0, num_predict: 0 }",
        &["E034 7:22 routes[0].caps.num_ctx", "E034 7:38 routes[0].caps.num_predict"],
    );
    add(ROUTE, "    caps: { num_ctx: -1 }", &["E013 7:22 routes[0].caps.num_ctx"]);
    add(ROUTE, "    caps: { keep_alive: -1 }", &["E013 7:25 routes[0].caps.keep_alive"]);
    add(ROUTE, "    management: yes", &["E013 7:17 routes[0].management"]);
    add(ROUTE, "    request_encoding: pass", &["E013 7:23 routes[0].request_encoding"]);
}

#[test]
fn comments_for_who_waits_need_a_time_and_streams_that_are_known() {
    edit(KIND, "    kind: ollama\n    queue: { keepalive: 15s }", &[]);
    edit(KIND, "    kind: http\n    queue: { keepalive: off }", &[]);
    edit(KIND, "    kind: ollama\n    queue: { keepalive: 0s }", &["E035 10:25 upstreams.fleet.queue.keepalive"]);
    edit(KIND, "    kind: http\n    queue: { keepalive: 15s }", &["E036 10:14 upstreams.fleet.queue.keepalive"]);
    hint(&GOOD.replace(KIND, "    kind: ollama\n    queue: { keepalive: 15 }"), "write `15s`");
}
