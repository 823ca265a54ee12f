//! Circuits of models and of servers over real sockets: what opens them, how few may be open, and how they close.

mod support;

use std::sync::Arc;
use std::time::Duration;

use arriero::clock;
use arriero::demo::{Fault, FaultRule, Fleet, Host};
use arriero::fleet::circuits::CircuitOrder;
use arriero::fleet::server::ServerState;
use support::fleet::{circuit_is, fleet, of_server, send};
use support::wire::{Answer, proxy};
use support::{Proxy, eventually, upstream_yaml};

/// Every server in turn, without background checks, and models that are known from the beginning.
const TURNS: &str = "balance: { policy: round_robin, model_affinity: off }\nhealth: { active: off }
inventory: { interval: 300s }\n";

async fn with_circuit(fleet: &Fleet, circuit: &str) -> Proxy {
    proxy(yaml(fleet, circuit)).await
}

fn yaml(fleet: &Fleet, circuit: &str) -> String {
    let route = "timeouts: { read: 1s }";
    upstream_yaml("ollama", &fleet.urls(), route, &format!("{TURNS}circuit: {{ slow_start: 0s, {circuit} }}"))
}

/// A request like no other: one that crashed a runner would not be sent a second time.
async fn ask(proxy: &Proxy, model: &str, stream: bool) -> Answer {
    let unique = clock::unix_time().as_nanos();
    let body = format!(r#"{{"model":"{model}","prompt":"{unique}","stream":{stream},"options":{{"num_predict":4}}}}"#);
    send(proxy.address(), "POST", "/api/generate", body).await
}

fn count(host: &Host) -> usize {
    host.ledger().inference().len()
}

/// Asks until a host has got so many more requests.
async fn until_struck(proxy: &Proxy, host: &Host, model: &str, stream: bool, times: usize) {
    let before = count(host);
    while count(host) < before + times {
        ask(proxy, model, stream).await;
    }
}

async fn models_with_open_circuit(proxy: &Proxy, host: &Host) -> f64 {
    of_server(proxy, "arriero_server_model_circuits", host.address(), ",state=\"open\"").await
}

fn server(proxy: &Proxy, host: &Host) -> Arc<ServerState> {
    let snapshot = proxy.running().store.pin();
    let servers = snapshot.upstreams.iter().flat_map(|upstream| &upstream.servers);
    let found = servers.map(|member| &member.state).find(|state| state.identity.url == host.url());
    Arc::clone(found.expect("a server"))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_model_does_wrong_takes_that_model_from_that_server_and_nothing_else() {
    let cases = [
        (Fault::StreamErrorAfterTokens(2), 2),
        (Fault::RunnerCrash, 2),
        (Fault::CloseAfterTokens(2), 3),
        (Fault::StallAfterTokens(2), 3),
        (Fault::Status(500, "boom".to_owned()), 3),
    ];
    for (fault, failures) in cases {
        let fleet = fleet(2, &["m", "n"]).await;
        let proxy = with_circuit(&fleet, "consecutive_failures: 3, open_for: 300s").await;
        let bad = &fleet.hosts[0];
        bad.faults().add(FaultRule::inference(fault.clone()).on_model("m"));
        until_struck(&proxy, bad, "m", true, failures - 1).await;
        assert_eq!(models_with_open_circuit(&proxy, bad).await, 0.0, "{fault:?}: too early");
        until_struck(&proxy, bad, "m", true, 1).await;
        eventually("the model's circuit is open", || async { models_with_open_circuit(&proxy, bad).await == 1.0 })
            .await;
        assert!(circuit_is(&proxy, bad, "closed").await, "{fault:?}: the server itself is well");
        let struck = count(bad);
        for _ in 0..6 {
            assert_eq!(ask(&proxy, "m", true).await.head.status, 200);
        }
        assert_eq!(count(bad), struck, "{fault:?}: the model is asked for elsewhere");
        until_struck(&proxy, bad, "n", true, 2).await;
        let transitions = "arriero_circuit_transitions_total{upstream=\"fleet\",server=\"";
        let series = format!("{transitions}{}\",of=\"model\",to=\"open\"}}", bad.address());
        assert_eq!(proxy.metric(&series).await, 1.0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_client_did_wrong_counts_nowhere() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 1, open_for: 300s").await;
    let host = &fleet.hosts[0];
    for (status, text) in [(400, "bad"), (404, "no"), (429, "slowly"), (500, "image: unknown format"), (503, "busy")] {
        host.faults().next(1, Fault::Status(status, text.to_owned()));
        assert_eq!(ask(&proxy, "m", true).await.head.status, status);
        assert!(circuit_is(&proxy, host, "closed").await, "{status}");
        assert_eq!(models_with_open_circuit(&proxy, host).await, 0.0, "{status}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_models_half_open_circuit_lets_exactly_one_through() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 1, open_for: 100ms").await;
    let (bad, good) = (&fleet.hosts[0], &fleet.hosts[1]);
    bad.faults().next(1, Fault::Status(500, "boom".to_owned()));
    bad.token_gate().close();
    until_struck(&proxy, bad, "m", true, 1).await;
    let half_open = "arriero_server_model_circuits";
    eventually("it is half open", || async {
        of_server(&proxy, half_open, bad.address(), ",state=\"half_open\"").await == 1.0
    })
    .await;
    let before = count(good);
    let asks: Vec<_> = (0..8).map(|_| ask(&proxy, "m", true)).collect();
    let all = futures_util::future::join_all(asks);
    let seven = async {
        eventually("seven have gone elsewhere", || async { count(good) == before + 7 }).await;
        assert_eq!(count(bad), 2, "one failure, one trial");
        bad.token_gate().open();
    };
    let (answers, ()) = tokio::join!(all, seven);
    assert!(answers.iter().all(|answer| answer.head.status == 200 && answer.whole));
    eventually("the trial closed it", || async {
        of_server(&proxy, half_open, bad.address(), ",state=\"closed\"").await == 1.0
    })
    .await;
    until_struck(&proxy, bad, "m", true, 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_most_half_are_left_alone_and_the_last_one_never() {
    for (servers, used) in [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3)] {
        let fleet = fleet(servers, &["m"]).await;
        let proxy = with_circuit(&fleet, "consecutive_failures: 1, open_for: 300s").await;
        for host in &fleet.hosts {
            host.faults().always(Fault::Status(502, "nobody is there".to_owned()));
        }
        for host in &fleet.hosts {
            // Those whose circuits are open are not asked while others are closed: each gets one.
            let server = server(&proxy, host);
            server.force_circuit(CircuitOrder::HalfOpen, None, clock::now());
        }
        for _ in 0..servers * 4 {
            assert_eq!(ask(&proxy, "m", false).await.head.status, 502);
        }
        let before: Vec<usize> = fleet.hosts.iter().map(count).collect();
        for _ in 0..servers * 4 {
            assert_eq!(ask(&proxy, "m", false).await.head.status, 502, "the server's own words, not ours");
        }
        let asked = fleet.hosts.iter().zip(&before).filter(|(host, before)| count(host) > **before).count();
        assert_eq!(asked, used, "of {servers}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_while_circuits_are_open_keeps_them_open() {
    let fleet = fleet(2, &["m", "n"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 1, open_for: 300s").await;
    let (bad, ill) = (&fleet.hosts[0], &fleet.hosts[1]);
    bad.faults().next(1, Fault::ResetBeforeHeaders);
    until_struck(&proxy, bad, "m", false, 1).await;
    ill.faults().next(1, Fault::Status(500, "boom".to_owned()));
    until_struck(&proxy, ill, "n", false, 1).await;
    eventually("both are open", || async {
        circuit_is(&proxy, bad, "open").await && models_with_open_circuit(&proxy, ill).await == 1.0
    })
    .await;
    proxy.rewrite(&yaml(&fleet, "consecutive_failures: 7, open_for: 1s"));
    eventually("the new file is in force", || async {
        proxy.metric("arriero_config_reloads_total{result=\"applied\"}").await >= 1.0
    })
    .await;
    assert!(circuit_is(&proxy, bad, "open").await);
    assert_eq!(models_with_open_circuit(&proxy, ill).await, 1.0);
    let before = count(bad);
    for _ in 0..6 {
        assert_eq!(ask(&proxy, "m", false).await.head.status, 200);
    }
    assert_eq!(count(bad), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_check_that_is_good_closes_no_circuit() {
    let fleet = fleet(2, &["m"]).await;
    let check =
        "balance: { policy: round_robin, model_affinity: off }\nhealth: { active: { interval: 20ms, timeout: 2s } }";
    let circuit = "circuit: { consecutive_failures: 1, open_for: 300s }";
    let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", &format!("{check}\n{circuit}"))).await;
    let bad = &fleet.hosts[0];
    bad.faults().next(1, Fault::ResetBeforeHeaders);
    until_struck(&proxy, bad, "m", false, 1).await;
    eventually("it is open", || circuit_is(&proxy, bad, "open")).await;
    let series = "arriero_probes_total{kind=\"liveness\",result=\"ok\"}";
    let before = proxy.metric(series).await;
    eventually("ten good checks of each", || async { proxy.metric(series).await >= before + 20.0 }).await;
    // Nor does an answer that ran no model.
    for _ in 0..4 {
        assert_eq!(send(proxy.address(), "POST", "/api/show", r#"{"model":"m"}"#).await.head.status, 200);
    }
    assert!(circuit_is(&proxy, bad, "open").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_came_back_has_a_small_share_at_first() {
    for policy in ["round_robin", "consistent_hash", "least_requests"] {
        let fleet = fleet(2, &["m"]).await;
        let hash = if policy == "consistent_hash" { ", hash_on: \"header:x-client\"" } else { "" };
        let upstream = format!(
            "balance: {{ policy: {policy}, model_affinity: off{hash} }}\nhealth: {{ active: off }}
circuit: {{ slow_start: 100000s }}"
        );
        let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", &upstream)).await;
        let back = &fleet.hosts[0];
        server(&proxy, back).force_circuit(CircuitOrder::HalfOpen, None, clock::now());
        let body = support::fleet::generate("m");
        let mut client = 0;
        let mut ask = async || {
            client += 1;
            let field = format!("X-Client: {client}\r\n");
            let answer = support::fleet::send_with(proxy.address(), "POST", "/api/generate", &field, &body).await;
            assert_eq!(answer.head.status, 200);
        };
        while count(back) == 0 {
            ask().await;
        }
        eventually("it is closed", || circuit_is(&proxy, back, "closed")).await;
        let before = count(back);
        for _ in 0..100 {
            ask().await;
        }
        // A tenth of its half; nearly never more than twenty.
        assert!(count(back) - before <= 20, "{policy}: {} of 100", count(back) - before);
        server(&proxy, back).force_circuit(CircuitOrder::Close, None, clock::now());
        let before = count(back);
        for _ in 0..100 {
            ask().await;
        }
        assert!(count(back) - before >= 30, "{policy}: {} of 100 at last", count(back) - before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_opens_and_closes_circuits_of_servers_and_of_models() {
    let fleet = fleet(2, &["m", "n"]).await;
    let proxy = with_circuit(&fleet, "consecutive_failures: 5").await;
    let host = &fleet.hosts[0];
    let server = server(&proxy, host);
    let until = clock::now() + Duration::from_hours(1);
    for model in [None, Some("m:latest")] {
        server.force_circuit(CircuitOrder::Open { until }, model, clock::now());
        let before = count(host);
        for _ in 0..6 {
            ask(&proxy, "m", false).await;
        }
        assert_eq!(count(host), before, "{model:?}");
        if model.is_some() {
            until_struck(&proxy, host, "n", false, 1).await;
        }
        server.force_circuit(CircuitOrder::Reset, model, clock::now());
        until_struck(&proxy, host, "m", false, 2).await;
    }
}
