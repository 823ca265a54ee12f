//! What an operator decides about a server: it empties without cutting anybody off, and takes nothing new on any path.

mod support;

use arriero::demo::{DemoModel, Fault, Fleet, Host, HostConfig, Ledger};
use serde_json::Value;
use support::admin::{order, show};
use support::fleet::{generate, request, send, send_with};
use support::keys::{KeysFile, bearer};
use support::process::{Program, arriero, complete, finish};
use support::wire::{Answer, H1, proxy};
use support::{PATIENCE, Proxy, eventually, upstream_yaml};

/// Hosts of one model each, with room for several requests.
async fn hosts(count: usize) -> Fleet {
    let config = |number: usize| HostConfig::new(&format!("host-{number}")).small_model("m").parallel(16).tokens(4);
    Fleet::start((0..count).map(config).collect()).await.expect("a fleet")
}

/// A configuration with servers called `s0`, `s1`, ...
fn yaml(fleet: &Fleet, route: &str, upstream: &str) -> String {
    let mut text = format!(
        "routes:\n  - name: all\n    upstream: fleet\n{route}upstreams:\n  fleet:\n    kind: ollama\n    servers:\n"
    );
    for (number, url) in fleet.urls().iter().enumerate() {
        text.push_str(&format!("      - {{ name: s{number}, url: \"{url}\" }}\n"));
    }
    text.push_str("    health: { active: off }\n");
    upstream.lines().for_each(|line| text.push_str(&format!("    {line}\n")));
    text
}

const TURNS: &str = "balance: { policy: round_robin, model_affinity: off }";

fn count(host: &Host) -> usize {
    host.ledger().inference().len()
}

async fn ask(proxy: &Proxy) -> Answer {
    send(proxy.address(), "POST", "/api/generate", generate("m")).await
}

/// A stream that a host has begun to work on.
async fn stream(proxy: &Proxy) -> H1 {
    let mut client = H1::connect(proxy.address()).await;
    client.send(request("POST", "/api/generate", "", r#"{"model":"m","prompt":"x"}"#)).await;
    client
}

async fn operation(proxy: &Proxy, server: &str) -> Value {
    show(proxy, &format!("/servers/{server}")).await["server"]["operation"].clone()
}

async fn in_flight(proxy: &Proxy, server: &str) -> u64 {
    show(proxy, &format!("/servers/{server}")).await["server"]["inFlight"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_empties_without_a_cut_while_new_requests_go_elsewhere() {
    let fleet = hosts(2).await;
    let proxy = proxy(yaml(&fleet, "", TURNS)).await;
    let (leaving, staying) = (&fleet.hosts[0], &fleet.hosts[1]);
    leaving.token_gate().close();
    staying.token_gate().close();
    let mut streams = Vec::new();
    for _ in 0..6 {
        streams.push(stream(&proxy).await);
    }
    let begun = |ledger: &Ledger| ledger.inference().iter().filter(|entry| entry.slot_at.is_some()).count() == 3;
    for host in &fleet.hosts {
        host.ledger().wait_until(PATIENCE, begun).await.expect("three streams each");
    }
    let told = order(&proxy, "/servers/s0/drain", r#"{"reason":"new disk","who":"ana"}"#).await;
    assert_eq!((&told["inFlightRequests"], &told["empty"]), (&3.into(), &false.into()), "{told}");
    let seen = operation(&proxy, "s0").await;
    assert_eq!(
        (&seen["state"], &seen["reason"], &seen["who"]),
        (&"draining".into(), &"new disk".into(), &"ana".into())
    );
    assert!(seen["since"].as_str().is_some_and(|since| since.ends_with('Z')), "{seen}");

    // Somebody waits for it, and is not answered while a stream runs.
    let waiting = order(&proxy, "/servers/s0/drain?wait=20s", "");
    tokio::pin!(waiting);
    staying.token_gate().open();
    for _ in 0..6 {
        tokio::select! {
            answer = ask(&proxy) => assert_eq!(answer.head.status, 200),
            told = &mut waiting => panic!("three streams run: {told}"),
        }
    }
    assert_eq!((count(leaving), count(staying), in_flight(&proxy, "s0").await), (3, 9, 3));
    leaving.token_gate().open();
    for client in &mut streams {
        let answer = client.reader.answer().await;
        assert!(answer.whole && answer.text().contains("\"done\":true"), "cut off: {}", answer.text());
    }
    let told = waiting.await;
    assert_eq!((&told["inFlightRequests"], &told["empty"]), (&0.into(), &true.into()), "{told}");
    assert_eq!(operation(&proxy, "s0").await["reason"], "new disk", "the first order stands");

    order(&proxy, "/servers/s0/undrain", "").await;
    assert_eq!(operation(&proxy, "s0").await["state"], "active");
    for _ in 0..2 {
        assert_eq!(ask(&proxy).await.head.status, 200);
    }
    assert_eq!(count(leaving), 4, "it has its turns again");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_waits_too_long_is_told_so() {
    let fleet = hosts(1).await;
    let proxy = proxy(yaml(&fleet, "", "")).await;
    fleet.hosts[0].token_gate().close();
    let mut client = stream(&proxy).await;
    eventually("it runs", || async { in_flight(&proxy, "s0").await == 1 }).await;
    let told = order(&proxy, "/servers/s0/maintenance?wait=50ms", "").await;
    assert_eq!((&told["inFlightRequests"], &told["empty"]), (&1.into(), &false.into()), "{told}");
    fleet.hosts[0].token_gate().open();
    assert!(client.reader.answer().await.whole);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_rule_passes_over_a_server_in_maintenance() {
    let fleet = hosts(2).await;
    let rules = [
        "policy: round_robin",
        "policy: round_robin, model_affinity: off",
        "policy: least_requests",
        "policy: consistent_hash, hash_on: \"header:x-user\"",
        "policy: consistent_hash, sticky_cookie: { name: stick }",
    ];
    for rule in rules {
        let proxy = proxy(yaml(&fleet, "", &format!("balance: {{ {rule} }}\ninventory: {{ interval: 20ms }}"))).await;
        // It has the model in memory, which makes it everybody's first choice.
        send(fleet.hosts[0].address(), "POST", "/api/generate", generate("m")).await;
        eventually("loaded", || async { show(&proxy, "/servers/s0").await["server"]["loaded"][0] == "m:latest" }).await;
        let ask = |number: usize| {
            let fields = format!("x-user: {number}\r\nCookie: stick={number}\r\n");
            let address = proxy.address();
            async move { send_with(address, "POST", "/api/generate", &fields, generate("m")).await }
        };
        let before = count(&fleet.hosts[0]);
        for number in 0..32 {
            assert_eq!(ask(number).await.head.status, 200);
        }
        assert!(count(&fleet.hosts[0]) > before, "{rule}: it is used while it works");
        order(&proxy, "/servers/s0/maintenance", r#"{"enabled": true, "reason": "planned maintenance"}"#).await;
        let before = count(&fleet.hosts[0]);
        for number in 0..32 {
            assert_eq!(ask(number).await.head.status, 200, "{rule}");
        }
        assert_eq!(count(&fleet.hosts[0]), before, "{rule}");
        order(&proxy, "/servers/s0/maintenance", r#"{"enabled": false}"#).await;
        for number in 0..32 {
            assert_eq!(ask(number).await.head.status, 200);
        }
        assert!(count(&fleet.hosts[0]) > before, "{rule}: it is used again");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_tried_again_on_a_server_in_maintenance() {
    let fleet = hosts(2).await;
    let retry = "    retry: { attempts: 3, on: [reset, 5xx], replay_post: true }\n";
    let proxy = proxy(yaml(&fleet, retry, &format!("{TURNS}\ncircuit: {{ consecutive_failures: 1000 }}"))).await;
    fleet.hosts[1].faults().always(Fault::ResetBeforeHeaders);
    order(&proxy, "/servers/s0/maintenance", "").await;
    for _ in 0..4 {
        let answer = ask(&proxy).await;
        assert_eq!((answer.head.status, answer.reason()), (502, Some("upstream_reset")));
    }
    assert_eq!((count(&fleet.hosts[0]), count(&fleet.hosts[1])), (0, 4));
    order(&proxy, "/servers/s0/undrain", "").await;
    assert_eq!(ask(&proxy).await.head.status, 200, "now there is somebody to try again with");
}

#[tokio::test(flavor = "multi_thread")]
async fn no_management_call_goes_to_a_draining_server() {
    let fleet = hosts(2).await;
    let keys = KeysFile::new(&[("0000000a", "scopes: [inference, management]")]);
    let proxy = proxy(format!("{}{}", yaml(&fleet, "    management: allow\n", ""), keys.yaml())).await;
    let pulls = |host: &Host| host.ledger().by_path("/api/pull").len();
    let blobs = |host: &Host| host.ledger().find(|entry| entry.path.starts_with("/api/blobs/")).len();
    let call = |method: &'static str, path: String, body: String| {
        let address = proxy.address();
        async move { send_with(address, method, &path, &bearer("0000000a"), body).await }
    };
    let blob = format!("/api/blobs/sha256:{}", "0".repeat(64));
    order(&proxy, "/servers/s0/drain", "").await;
    // A model that nobody has, one that both have, and a call without a model.
    for model in ["new", "m"] {
        call("POST", "/api/pull".to_owned(), format!(r#"{{"model":"{model}","stream":false}}"#)).await;
    }
    call("HEAD", blob.clone(), String::new()).await;
    assert_eq!((pulls(&fleet.hosts[0]), blobs(&fleet.hosts[0])), (0, 0));
    assert_eq!((pulls(&fleet.hosts[1]), blobs(&fleet.hosts[1])), (2, 1));
    order(&proxy, "/servers/s0/undrain", "").await;
    call("HEAD", blob.clone(), String::new()).await;
    assert_eq!(blobs(&fleet.hosts[0]), 1, "the first in the file is used again");
}

#[tokio::test(flavor = "multi_thread")]
async fn when_nobody_works_requests_are_refused_and_the_process_is_not_ready() {
    let fleet = hosts(2).await;
    fleet.hosts[1].remove_model("m");
    fleet.hosts[1].add_model(DemoModel::new("other", 1_000_000_000));
    let proxy = proxy(yaml(&fleet, "", "")).await;
    order(&proxy, "/servers/s0/drain", "").await;
    // Only this one has the model, and a circuit that is open would be ignored.
    let answer = ask(&proxy).await;
    assert_eq!((answer.head.status, answer.reason()), (503, Some("no_server")));
    let health = |path: &'static str| {
        let admin = support::admin::address(&proxy);
        async move {
            let answer = send(admin, "GET", path, "").await;
            (answer.head.status, support::admin::json(&answer))
        }
    };
    let (status, body) = health("/health").await;
    assert_eq!((status, &body["status"], &body["servers"]["draining"]), (200, &"healthy".into(), &1.into()), "{body}");
    assert_eq!(health("/health/ready").await.0, 200);
    order(&proxy, "/servers/s1/maintenance", "").await;
    let (status, body) = health("/health").await;
    let servers = &body["servers"];
    assert_eq!((status, &body["status"]), (503, &"unhealthy".into()), "{body}");
    assert_eq!((&servers["healthy"], &servers["draining"], &servers["maintenance"]), (&2.into(), &1.into(), &1.into()));
    assert_eq!(health("/health/ready").await.0, 503);
    for (server, now) in [("s0", "draining"), ("s1", "maintenance")] {
        for state in ["active", "draining", "maintenance"] {
            let series =
                format!("arriero_server_operation{{upstream=\"fleet\",server=\"{server}\",state=\"{state}\"}}");
            assert_eq!(proxy.metric(&series).await, f64::from(u8::from(state == now)), "{series}");
        }
    }
    assert_eq!(count(&fleet.hosts[0]), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_outlives_reloads() {
    let fleet = hosts(2).await;
    let text = yaml(&fleet, "", TURNS);
    let proxy = proxy(text.as_str()).await;
    order(&proxy, "/servers/s0/drain", r#"{"reason":"new disk"}"#).await;
    let before = operation(&proxy, "s0").await;
    for number in 0..3 {
        proxy.rewrite(&format!("{text}defaults: {{ timeouts: {{ read: {}s }} }}\n", 100 + number));
        let applied = "arriero_config_reloads_total{result=\"applied\"}";
        eventually("applied", || async { proxy.metric(applied).await == f64::from(number + 1) }).await;
        let now = operation(&proxy, "s0").await;
        assert_eq!((&now["state"], &now["reason"]), (&before["state"], &"new disk".into()));
        for _ in 0..4 {
            assert_eq!(ask(&proxy).await.head.status, 200);
        }
        assert_eq!(count(&fleet.hosts[0]), 0);
    }
    order(&proxy, "/servers/s0/undrain", "").await;
    for _ in 0..2 {
        assert_eq!(ask(&proxy).await.head.status, 200);
    }
    assert_eq!(count(&fleet.hosts[0]), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn maintenance_with_an_end_ends_by_itself() {
    let fleet = hosts(1).await;
    let proxy = proxy(yaml(&fleet, "", "")).await;
    order(&proxy, "/servers/s0/maintenance", r#"{"for":"1h"}"#).await;
    assert!(operation(&proxy, "s0").await["until"].is_string());
    assert_eq!(ask(&proxy).await.head.status, 503);
    // Another order takes the place of the one before.
    order(&proxy, "/servers/s0/maintenance", r#"{"for":"300ms"}"#).await;
    eventually("it is back", || async { ask(&proxy).await.head.status == 200 }).await;
    assert_eq!(operation(&proxy, "s0").await["state"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_connections_to_a_server_are_closed_when_it_leaves() {
    let fleet = hosts(1).await;
    let proxy = proxy(yaml(&fleet, "", "")).await;
    assert_eq!(ask(&proxy).await.head.status, 200);
    let mut open = fleet.hosts[0].open_connections();
    let series = "arriero_server_connections{upstream=\"fleet\",server=\"s0\"}";
    assert!(proxy.metric(series).await >= 1.0);
    order(&proxy, "/servers/s0/drain", "").await;
    eventually("closed", || async { proxy.metric(series).await == 0.0 }).await;
    open.wait_for(|open| *open == 0).await.expect("the host lives");
}

#[tokio::test]
async fn the_command_line_drains_waits_and_brings_back() {
    let fleet = hosts(1).await;
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("arriero.yaml");
    let telemetry = "telemetry: { access_log: off, log_level: info }\n";
    std::fs::write(&file, complete(&format!("{}{telemetry}", yaml(&fleet, "", "")))).expect("written");
    let program = Program::run(&file).await;
    let admin = program.admin().to_string();
    let run = |arguments: &[&str]| {
        let mut command = arriero(arguments, folder.path());
        command.args(["--admin", &admin]).env("USER", "ana").env_remove("SUDO_USER");
        finish(command)
    };
    fleet.hosts[0].token_gate().close();
    let mut client = H1::connect(program.address()).await;
    client.send(request("POST", "/api/generate", "", r#"{"model":"m","prompt":"x"}"#)).await;
    fleet.hosts[0].ledger().wait_until(PATIENCE, |ledger| ledger.inference().len() == 1).await.expect("it runs");

    let ended = run(&["drain", "s0", "--reason", "new disk", "--wait", "50ms"]).await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(1), "s0: draining, 1 request in flight\n"), "{ended:?}");
    let waiting = run(&["drain", "fleet/s0", "--wait", "20s"]);
    fleet.hosts[0].token_gate().open();
    let ended = waiting.await;
    assert_eq!((ended.code, ended.out.as_str()), (Some(0), "fleet/s0: draining, 0 requests in flight\n"), "{ended:?}");
    assert!(client.reader.answer().await.whole);
    let servers = send(program.admin(), "GET", "/api/orchestrator/servers", "").await.text();
    assert!(servers.contains(r#""reason":"new disk","who":"ana""#), "{servers}");

    for (arguments, state) in [
        (&["undrain", "s0"][..], "active"),
        (&["maintenance", "s0", "--for", "2h"], "maintenance"),
        (&["maintenance", "s0", "--off"], "active"),
    ] {
        let ended = run(arguments).await;
        let expected = format!("s0: {state}, 0 requests in flight\n");
        assert_eq!((ended.code, ended.out.as_str()), (Some(0), expected.as_str()), "{ended:?}");
    }
    let ended = run(&["drain", "s9"]).await;
    assert_eq!(ended.code, Some(1));
    assert!(ended.err.contains("there is no server `s9`"), "{ended:?}");
    let log = program.err.text();
    assert!(log.contains("operation changed") && log.contains("new disk"), "{log}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_several_upstreams_use_needs_its_upstream() {
    let fleet = hosts(2).await;
    let urls = fleet.urls();
    let one =
        |name: &str, url: &str| format!("  {name}:\n    kind: ollama\n    servers: [{{ name: s, url: \"{url}\" }}]\n");
    let (a, b) = (one("a", &urls[0]), one("b", &urls[1]));
    let routes = "routes:\n  - { name: a, match: { path: /a/ }, upstream: a }\n  - { name: b, upstream: b }\n";
    let proxy = proxy(format!("{routes}upstreams:\n{a}{b}")).await;
    let answer = support::admin::call(&proxy, "POST", "/servers/s/drain", "").await;
    let (status, detail) = support::admin::problem(&answer);
    assert_eq!(status, 409);
    assert!(detail.contains("`a/s`") && detail.contains("`b/s`"), "{detail}");
    order(&proxy, "/servers/b%2Fs/drain", "").await;
    assert_eq!(ask(&proxy).await.reason(), Some("no_server"));
    assert_eq!(operation(&proxy, "a%2Fs").await["state"], "active");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_http_server_drains_too() {
    let fleet = hosts(2).await;
    let yaml = upstream_yaml("http", &fleet.urls(), "", "balance: { policy: round_robin }");
    let proxy = proxy(yaml).await;
    let arrived = |host: &Host| host.ledger().by_path("/api/version").len();
    let name = fleet.hosts[0].address();
    order(&proxy, &format!("/servers/{name}/drain"), "").await;
    for _ in 0..4 {
        assert_eq!(send(proxy.address(), "GET", "/api/version", "").await.head.status, 200);
    }
    assert_eq!((arrived(&fleet.hosts[0]), arrived(&fleet.hosts[1])), (0, 4));
}
