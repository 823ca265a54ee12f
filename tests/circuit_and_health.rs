//! Servers that fail are left alone and come back: circuits, background checks, names without an address.

mod support;

use std::time::Duration;

use arriero::clock;
use arriero::demo::{DemoModel, Fault, FaultRule, Fleet, Host, HostConfig, Ledger, Outcome, RawUpstream, Script, Step};
use serde_json::Value;
use support::fleet::{circuit_is, ended, fleet, generate, knows, of_server, send};
use support::wire::{Answer, H1, post, proxy};
use support::{PATIENCE, Proxy, eventually, upstream_yaml};

/// Every server in turn, without background checks.
const TURNS: &str = "balance: { policy: round_robin, model_affinity: off }\nhealth: { active: off }\n";

async fn with_circuit(fleet: &Fleet, circuit: &str) -> Proxy {
    proxy(upstream_yaml("ollama", &fleet.urls(), "", &format!("{TURNS}circuit: {{ slow_start: 0s, {circuit} }}"))).await
}

/// `inventory` is how often models are looked at, which asks for `/api/version` as well.
async fn with_health(fleet: &Fleet, check: &str, inventory: &str) -> Proxy {
    let policy = "balance: { policy: round_robin, model_affinity: off }";
    let more = format!("{policy}\ninventory: {{ interval: {inventory} }}\nhealth: {{ active: {check} }}");
    proxy(upstream_yaml("ollama", &fleet.urls(), "", &more)).await
}

/// How many checks had this result, `ok` or `failed`.
async fn checked(proxy: &Proxy, result: &str) -> f64 {
    proxy.metric(&format!("arriero_probes_total{{kind=\"liveness\",result=\"{result}\"}}")).await
}

async fn ask(proxy: &Proxy) -> Answer {
    send(proxy.address(), "POST", "/api/generate", generate("m")).await
}

async fn until_circuit(proxy: &Proxy, host: &Host, state: &str) {
    eventually(&format!("the circuit is {state}"), || circuit_is(proxy, host, state)).await;
}

async fn is_up(proxy: &Proxy, host: &Host) -> bool {
    of_server(proxy, "arriero_server_up", host.address(), "").await == 1.0
}

fn count(host: &Host) -> usize {
    host.ledger().inference().len()
}

/// Waits until so many more checks have reached a host.
async fn checks(host: &Host, path: &str, more: usize) {
    let before = host.ledger().by_path(path).len();
    let wait = host.ledger().wait_until(PATIENCE, |ledger| ledger.by_path(path).len() >= before + more).await;
    wait.unwrap_or_else(|error| panic!("{more} more of {path}: {error}"));
}

/// Something in front of the server cannot reach it.
fn bad_gateway() -> Fault {
    Fault::Status(502, "nobody is there".to_owned())
}

/// A fault for the checks only.
fn sick(path: &str) -> FaultRule {
    FaultRule::everywhere(Fault::Status(500, "sick".to_owned())).on_path(path)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_opens_after_consecutive_failures_and_the_server_is_left_alone() {
    for fault in [bad_gateway(), Fault::ResetBeforeHeaders, Fault::Garbage] {
        let fleet = fleet(2, &["m"]).await;
        let proxy = with_circuit(&fleet, "consecutive_failures: 3, open_for: 300s").await;
        let (bad, good) = (&fleet.hosts[0], &fleet.hosts[1]);
        bad.faults().always(fault.clone());
        for failures in 0..3 {
            assert!(circuit_is(&proxy, bad, "closed").await, "{fault:?} after {failures}");
            while count(bad) == failures {
                ask(&proxy).await;
            }
        }
        until_circuit(&proxy, bad, "open").await;
        assert!(circuit_is(&proxy, good, "closed").await);
        for _ in 0..10 {
            assert_eq!(ask(&proxy).await.head.status, 200);
        }
        assert_eq!(count(bad), 3, "{fault:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_success_between_failures_keeps_a_circuit_closed() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 2, open_for: 300s").await;
    for _ in 0..4 {
        fleet.hosts[0].faults().next(1, bad_gateway());
        assert_eq!((ask(&proxy).await.head.status, ask(&proxy).await.head.status), (502, 200));
        assert!(circuit_is(&proxy, &fleet.hosts[0], "closed").await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn failed_connections_open_a_circuit_too() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 3, open_for: 300s").await;
    fleet.hosts[0].kill().await;
    let series = format!(
        "arriero_attempts_total{{upstream=\"fleet\",server=\"{}\",outcome=\"connect_failed\"}}",
        fleet.hosts[0].address()
    );
    for _ in 0..12 {
        assert_eq!(ask(&proxy).await.head.status, 200);
    }
    until_circuit(&proxy, &fleet.hosts[0], "open").await;
    assert_eq!(proxy.metric(&series).await, 3.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_open_circuit_lets_exactly_one_through_and_its_success_closes_it() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 1, open_for: 200ms").await;
    let (bad, good) = (&fleet.hosts[0], &fleet.hosts[1]);
    bad.faults().next(1, bad_gateway());
    bad.token_gate().close();
    while count(bad) == 0 {
        ask(&proxy).await;
    }
    until_circuit(&proxy, bad, "half_open").await;
    let before = count(good);
    let mut waiting = tokio::task::JoinSet::new();
    for _ in 0..8 {
        let address = proxy.address();
        waiting.spawn(async move { send(address, "POST", "/api/generate", generate("m")).await.head.status });
    }
    // Seven are answered while the trial is held back; then nobody is left but the trial.
    for _ in 0..7 {
        let done = tokio::time::timeout(PATIENCE, waiting.join_next()).await.expect("the others are not held back");
        assert_eq!(done.expect("eight").expect("no panic"), 200);
    }
    assert_eq!((count(bad), count(good) - before), (2, 7));
    assert!(circuit_is(&proxy, bad, "half_open").await);
    assert_eq!(ask(&proxy).await.head.status, 200);
    assert_eq!(count(bad), 2, "a second one passed while the trial was out");
    bad.token_gate().open();
    assert_eq!(waiting.join_next().await.expect("the trial").expect("no panic"), 200);
    until_circuit(&proxy, bad, "closed").await;
    for _ in 0..4 {
        assert_eq!(ask(&proxy).await.head.status, 200);
    }
    assert_eq!(count(bad), 4, "it has its turns again");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_trial_whose_client_leaves_makes_room_for_the_next() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 1, open_for: 100ms").await;
    let host = &fleet.hosts[0];
    host.faults().next(1, bad_gateway());
    assert_eq!(ask(&proxy).await.head.status, 502);
    until_circuit(&proxy, host, "half_open").await;
    host.token_gate().close();
    let mut client = H1::connect(proxy.address()).await;
    client.send(post("/api/generate", generate("m"))).await;
    let runs = |ledger: &Ledger| ledger.inference().last().is_some_and(|entry| entry.slot_at.is_some());
    host.ledger().wait_until(PATIENCE, runs).await.expect("the trial is there");
    drop(client);
    eventually("the client is gone", || async { ended(&proxy, "client_closed").await == 1.0 }).await;
    host.token_gate().open();
    assert_eq!(ask(&proxy).await.head.status, 200);
    until_circuit(&proxy, host, "closed").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_time_doubles_with_each_failed_trial() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 1, open_for: 200ms").await;
    fleet.hosts[0].faults().always(bad_gateway());
    // Ten per cent less than 200, 400 and 800 ms; how much more it takes depends on this machine.
    for least in [180, 360, 720] {
        let began = clock::now();
        assert_eq!(ask(&proxy).await.head.status, 502);
        until_circuit(&proxy, &fleet.hosts[0], "half_open").await;
        let open = clock::now() - began;
        assert!(open >= Duration::from_millis(least), "{open:?}, not {least} ms");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_open_time_never_exceeds_max_open_for() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 1, open_for: 50ms, max_open_for: 100ms").await;
    fleet.hosts[0].faults().always(bad_gateway());
    // Without the limit the last would stay open for 51 s.
    for _ in 0..11 {
        assert_eq!(ask(&proxy).await.head.status, 502);
        until_circuit(&proxy, &fleet.hosts[0], "half_open").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_the_servers_fault_never_counts() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 1, open_for: 300s").await;
    let host = &fleet.hosts[0];
    for (fault, status) in [
        (Fault::Status(400, "bad".to_owned()), 400),
        (Fault::ModelNotFound, 404),
        (Fault::Status(429, "slowly".to_owned()), 429),
        (Fault::Busy, 503),
    ] {
        host.faults().next(1, fault.clone());
        let body = r#"{"model":"m","prompt":"x"}"#;
        assert_eq!(send(proxy.address(), "POST", "/api/generate", body).await.head.status, status);
        assert!(circuit_is(&proxy, host, "closed").await, "{fault:?}");
    }
    // Clients that leave: while nothing has come, and in the middle of a stream.
    for (number, stall) in [(1, Fault::Hang), (2, Fault::StallAfterTokens(2))] {
        let rule = host.faults().next(1, stall.clone());
        let mut client = H1::connect(proxy.address()).await;
        client.send(post("/api/generate", r#"{"model":"m","prompt":"x"}"#)).await;
        if number == 2 {
            client.reader.head().await;
        }
        eventually("it is there", || async { host.faults().remaining(rule) == Some(0) }).await;
        drop(client);
        let gone = |ledger: &Ledger| ledger.find(|entry| entry.outcome() == Some(Outcome::ClientGone)).len() == number;
        host.ledger().wait_until(PATIENCE, gone).await.expect("the server hears of it");
        let want = f64::from(u32::try_from(number).expect("few"));
        eventually("it is counted", || async { ended(&proxy, "client_closed").await == want }).await;
        assert!(circuit_is(&proxy, host, "closed").await, "{stall:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_circuits_are_open_requests_are_still_tried() {
    for servers in [1, 3] {
        let fleet = fleet(servers, &["m"]).await;
        let proxy = with_circuit(&fleet, "consecutive_failures: 1, open_for: 300s").await;
        for host in &fleet.hosts {
            host.faults().always(bad_gateway());
        }
        for _ in 0..servers {
            assert_eq!(ask(&proxy).await.head.status, 502);
        }
        for host in &fleet.hosts {
            until_circuit(&proxy, host, "open").await;
        }
        let answer = ask(&proxy).await;
        assert_eq!(answer.head.status, 502, "{}", answer.text());
        assert!(answer.text().contains("nobody is there"), "the server's own words: {}", answer.text());
        fleet.hosts.iter().for_each(|host| host.faults().clear());
        for _ in 0..6 {
            assert_eq!(ask(&proxy).await.head.status, 200, "{servers} servers");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_whose_checks_fail_is_left_alone_and_comes_back() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = with_health(&fleet, "{ interval: 30ms, timeout: 2s, healthy: 3, unhealthy: 4 }", "300s").await;
    let (sick_one, good) = (&fleet.hosts[0], &fleet.hosts[1]);
    checks(sick_one, "/api/version", 2).await;
    assert!(is_up(&proxy, sick_one).await);
    let bad_checks = sick_one.ledger().by_path("/api/version").len();
    let rule = sick_one.faults().add(sick("/api/version"));
    eventually("it is down", || async { !is_up(&proxy, sick_one).await }).await;
    assert!(sick_one.ledger().by_path("/api/version").len() >= bad_checks + 4, "down too early");
    let before = (count(sick_one), count(good));
    for _ in 0..8 {
        assert_eq!(ask(&proxy).await.head.status, 200);
    }
    assert_eq!((count(sick_one), count(good)), (before.0, before.1 + 8));
    let bad_checks = sick_one.ledger().by_path("/api/version").len();
    sick_one.faults().remove(rule);
    eventually("it is up again", || is_up(&proxy, sick_one)).await;
    assert!(sick_one.ledger().by_path("/api/version").len() >= bad_checks + 3, "up too early");
    for _ in 0..8 {
        assert_eq!(ask(&proxy).await.head.status, 200);
    }
    assert_eq!(count(sick_one), before.0 + 4, "it has its turns again");
}

#[tokio::test(flavor = "multi_thread")]
async fn fewer_bad_checks_than_unhealthy_do_no_harm() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = with_health(&fleet, "{ interval: 20ms, timeout: 2s, healthy: 1, unhealthy: 3 }", "300s").await;
    for _ in 0..3 {
        fleet.hosts[0].faults().add(sick("/api/version").times(2));
        for _ in 0..4 {
            checks(&fleet.hosts[0], "/api/version", 1).await;
            assert!(is_up(&proxy, &fleet.hosts[0]).await);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_active_checks_a_host_stays_in() {
    let fleet = fleet(2, &["m"]).await;
    fleet.hosts[0].faults().add(sick("/api/version"));
    let proxy = with_health(&fleet, "off", "30ms").await;
    checks(&fleet.hosts[0], "/api/tags", 5).await;
    assert!(is_up(&proxy, &fleet.hosts[0]).await);
    for _ in 0..8 {
        assert_eq!(ask(&proxy).await.head.status, 200);
    }
    assert_eq!((count(&fleet.hosts[0]), count(&fleet.hosts[1])), (4, 4));
    assert_eq!((checked(&proxy, "ok").await, checked(&proxy, "failed").await), (0.0, 0.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn in_its_start_period_a_host_may_fail_its_checks_until_one_is_good() {
    let fleet = fleet(1, &["m"]).await;
    let host = &fleet.hosts[0];
    let rule = host.faults().add(sick("/api/version"));
    let proxy = with_health(&fleet, "{ interval: 20ms, timeout: 2s, unhealthy: 1, start_period: 300s }", "300s").await;
    eventually("some checks fail", || async { checked(&proxy, "failed").await >= 5.0 }).await;
    assert!(is_up(&proxy, host).await);
    assert_eq!(ask(&proxy).await.head.status, 200);
    host.faults().remove(rule);
    eventually("one is good", || async { checked(&proxy, "ok").await >= 1.0 }).await;
    host.faults().add(sick("/api/version"));
    eventually("a bad check counts after a good one", || async { !is_up(&proxy, host).await }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_loads_a_model_is_not_dead_and_stalls_no_list() {
    let config = HostConfig::new("loading").small_model("m").small_model("other");
    let fleet = Fleet::start(vec![config, HostConfig::new("calm").small_model("calm")]).await.expect("a fleet");
    let host = &fleet.hosts[0];
    let proxy = with_health(&fleet, "{ interval: 30ms, timeout: 200ms, unhealthy: 2 }", "30ms").await;
    host.load_gate().close();
    let mut client = H1::connect(proxy.address()).await;
    client.send(post("/api/generate", generate("m"))).await;
    let hangs = |ledger: &Ledger| {
        ledger.by_path("/api/ps").iter().any(|entry| entry.finished.is_none() || entry.status.is_none())
    };
    host.ledger().wait_until(PATIENCE, hangs).await.expect("its /api/ps hangs");
    for round in 0..10 {
        checks(host, "/api/version", 2).await;
        assert!(is_up(&proxy, host).await, "round {round}");
        for (path, name) in [("/api/tags", "other:latest"), ("/api/ps", ""), ("/v1/models", "other:latest")] {
            let waited = tokio::time::timeout(Duration::from_secs(5), send(proxy.address(), "GET", path, "")).await;
            let answer = waited.unwrap_or_else(|_| panic!("{path} stalls, round {round}"));
            assert_eq!(answer.head.status, 200, "{path}");
            assert!(answer.text().contains(name), "{path}: {}", answer.text());
        }
    }
    // What is added on disk meanwhile is learned all the same.
    host.add_model(DemoModel::new("late", 1_000_000_000));
    knows(&proxy, host, "disk", 3).await;
    host.load_gate().open();
    assert_eq!(client.reader.answer().await.head.status, 200);
    knows(&proxy, host, "memory", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_never_answers_stalls_no_list() {
    let silent = RawUpstream::start(Script::new(vec![Step::ReadUntil("never".into())])).await.expect("a server");
    let fleet = fleet(2, &["m"]).await;
    let urls = [silent.url(), fleet.hosts[0].url(), fleet.hosts[1].url()];
    let more = "health: { active: { interval: 50ms, timeout: 100ms } }\ninventory: { interval: 50ms }";
    let proxy = proxy(upstream_yaml("ollama", &urls, "", more)).await;
    fleet.hosts[1].kill().await;
    for _ in 0..5 {
        for path in ["/api/tags", "/api/ps", "/v1/models", "/api/version"] {
            let waited = tokio::time::timeout(Duration::from_secs(5), send(proxy.address(), "GET", path, "")).await;
            let answer = waited.unwrap_or_else(|_| panic!("{path} stalls"));
            assert_eq!(answer.head.status, 200, "{path}: {}", answer.text());
        }
        checks(&fleet.hosts[0], "/api/tags", 1).await;
    }
    let tags: Value = serde_json::from_slice(&send(proxy.address(), "GET", "/api/tags", "").await.body).expect("JSON");
    assert_eq!(tags["models"].as_array().map(Vec::len), Some(1), "{tags}");
    assert_eq!(ask(&proxy).await.head.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_may_be_given_by_name_and_one_without_an_address_is_passed_over() {
    let fleet = fleet(1, &["m"]).await;
    let port = fleet.hosts[0].address().port();
    let (named, nowhere) = (format!("http://localhost:{port}"), "http://nowhere.invalid:11434".to_owned());
    for kind in ["ollama", "http"] {
        let by_name = proxy(upstream_yaml(kind, std::slice::from_ref(&named), "", "")).await;
        assert_eq!(ask(&by_name).await.head.status, 200, "{kind}");
        let turns = "balance: { policy: round_robin }\nhealth: { active: off }";
        let mixed = proxy(upstream_yaml(kind, &[nowhere.clone(), named.clone()], "", turns)).await;
        for _ in 0..6 {
            let answer = ask(&mixed).await;
            assert_eq!(answer.head.status, 200, "{kind}: {}", answer.text());
        }
    }
    let alone = proxy(upstream_yaml("http", &[nowhere], "", "")).await;
    let answer = ask(&alone).await;
    assert_eq!((answer.head.status, answer.reason()), (502, Some("connect_failed")), "{}", answer.text());
}
