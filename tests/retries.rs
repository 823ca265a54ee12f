//! Who gets a second attempt, where, and how many at a time; and who never gets one.

mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use arriero::demo::{Entry, Fault, FaultRule, Fleet, Host};
use futures_util::StreamExt;
use support::fleet::{Small, ended, fleet, generate, knows, reply, send, send_with, sized};
use support::keys::{KeysFile, bearer};
use support::wire::{Answer, proxy};
use support::{Proxy, eventually, http_yaml, upstream_yaml};

/// Every server in turn, and none ever left out by a circuit.
const TURNS: &str = "balance: { policy: round_robin, model_affinity: off }\nhealth: { active: off }
circuit: { consecutive_failures: 1000000 }";

async fn before(fleet: &Fleet, more: &str) -> Proxy {
    proxy(upstream_yaml("ollama", &fleet.urls(), "", &format!("{TURNS}\n{more}"))).await
}

async fn ask(proxy: &Proxy, body: impl AsRef<[u8]>) -> Answer {
    send(proxy.address(), "POST", "/api/generate", body).await
}

fn executions(fleet: &Fleet) -> Vec<Entry> {
    fleet.hosts.iter().flat_map(|host| host.ledger().inference()).collect()
}

fn count(host: &Host) -> usize {
    host.ledger().inference().len()
}

async fn retries(proxy: &Proxy, reason: &str) -> f64 {
    proxy.metric(&format!("arriero_retries_total{{upstream=\"fleet\",reason=\"{reason}\"}}")).await
}

/// A request on every host, past the proxy, so that the model is in memory everywhere; then the proxy knows.
async fn warm(fleet: &Fleet, proxy: &Proxy) {
    for host in &fleet.hosts {
        send(host.address(), "POST", "/api/generate", generate("m")).await;
    }
    for host in &fleet.hosts {
        knows(proxy, host, "memory", 1).await;
    }
}

/// Strikes all inference of all hosts.
fn strike(fleet: &Fleet, fault: &Fault) {
    for host in &fleet.hosts {
        host.faults().always(fault.clone());
    }
}

/// Asks so many at a time; the statuses.
async fn ask_many(proxy: &Proxy, total: usize, at_a_time: usize) -> Vec<u16> {
    let asks = (0..total).map(|_| async { ask(proxy, generate("m")).await.head.status });
    futures_util::stream::iter(asks).buffer_unordered(at_a_time).collect().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_sends_a_request_on_to_a_warm_one() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "inventory: { interval: 30ms }").await;
    warm(&fleet, &proxy).await;
    let before = executions(&fleet).len();
    let rule = fleet.hosts[0].faults().next(1, Fault::Busy);
    let mut asked = 0;
    while fleet.hosts[0].faults().remaining(rule) == Some(1) {
        assert_eq!(ask(&proxy, generate("m")).await.head.status, 200, "nobody notices");
        asked += 1;
    }
    assert_eq!(executions(&fleet).len() - before, asked + 1);
    eventually("it is counted", || async { retries(&proxy, "server_busy").await == 1.0 }).await;
    eventually("all are counted", || async { ended(&proxy, "ok").await == asked as f64 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_busy_server_keeps_a_request_that_nobody_else_could_have_better() {
    let large = sized("m", 300_000, true);
    let small = generate("m").into_bytes();
    // Cold elsewhere; too large to be sent again; forbidden by the client.
    for (warm_first, body, field) in
        [(false, &small, ""), (true, &large, ""), (true, &small, "X-Arriero-No-Retry: 1\r\n")]
    {
        let fleet = fleet(2, &["m"]).await;
        let proxy = before(&fleet, if warm_first { "inventory: { interval: 30ms }" } else { "" }).await;
        if warm_first {
            warm(&fleet, &proxy).await;
        }
        let before = executions(&fleet).len();
        strike(&fleet, &Fault::Busy);
        let answer = send_with(proxy.address(), "POST", "/api/generate", field, body).await;
        assert_eq!(answer.head.status, 503);
        assert!(answer.text().contains("server busy, please try again"), "the server's own words: {}", answer.text());
        let seconds: u64 = answer.head.field("retry-after").and_then(|text| text.parse().ok()).expect("seconds");
        assert!((1..=5).contains(&seconds));
        assert_eq!(executions(&fleet).len() - before, 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn when_all_servers_are_busy_hardly_a_request_is_sent_twice() {
    let fleet = fleet(4, &["m"]).await;
    let proxy = before(&fleet, "inventory: { interval: 30ms }").await;
    warm(&fleet, &proxy).await;
    strike(&fleet, &Fault::Busy);
    let before = executions(&fleet).len();
    let statuses = ask_many(&proxy, 300, 10).await;
    assert!(statuses.iter().all(|status| *status == 503), "{statuses:?}");
    let calls = executions(&fleet).len() - before;
    assert!((300..=330).contains(&calls), "{calls} calls for 300 requests");
    assert!(proxy.metric("arriero_circuit_transitions_total").await == 0.0, "busy is not ill");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_ten_servers_that_refuses_connections_costs_no_client_an_error() {
    let fleet = fleet(10, &["m"]).await;
    let default = "health: { active: off }";
    let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), "", default)).await;
    fleet.hosts[3].kill().await;
    let statuses = ask_many(&proxy, 600, 40).await;
    assert!(statuses.iter().all(|status| *status == 200), "{statuses:?}");
    assert!(retries(&proxy, "connect_failed").await >= 1.0, "the dead server was never tried");
    assert_eq!(fleet.duplicates(), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lost_the_model_sends_a_request_on_and_is_looked_at_anew() {
    let fleet = fleet(2, &["m", "n"]).await;
    let proxy = before(&fleet, "inventory: { interval: 100000s }").await;
    knows(&proxy, &fleet.hosts[0], "disk", 2).await;
    fleet.hosts[0].remove_model("m");
    for _ in 0..2 {
        assert_eq!(ask(&proxy, generate("m")).await.head.status, 200);
    }
    assert!(retries(&proxy, "model_not_found").await >= 1.0);
    knows(&proxy, &fleet.hosts[0], "disk", 1).await;
    let before = count(&fleet.hosts[0]);
    for _ in 0..4 {
        assert_eq!(ask(&proxy, generate("m")).await.head.status, 200);
    }
    assert_eq!(count(&fleet.hosts[0]), before, "it is known now");
    // The last server that is said to have it tells the client itself.
    fleet.hosts[1].remove_model("m");
    let answer = ask(&proxy, generate("m")).await;
    assert_eq!((answer.head.status, answer.text().as_str()), (404, r#"{"error":"model 'm' not found"}"#));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_wants_one_attempt_gets_one_and_a_second_attempt_says_so_to_the_next_tier() {
    let fleet = fleet(2, &["m"]).await;
    let proxy = before(&fleet, "").await;
    for _ in 0..2 {
        assert_eq!(ask(&proxy, generate("m")).await.head.status, 200);
    }
    fleet.hosts[0].kill().await;
    let mut statuses = Vec::new();
    for _ in 0..2 {
        let field = "X-Arriero-No-Retry: 1\r\n";
        statuses.push(send_with(proxy.address(), "POST", "/api/generate", field, generate("m")).await.head.status);
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 502]);
    for _ in 0..2 {
        assert_eq!(ask(&proxy, generate("m")).await.head.status, 200);
    }
    let mark = |entry: &Entry| entry.header("x-arriero-no-retry").is_some();
    let marks: Vec<_> = fleet.hosts[1].ledger().inference().iter().map(mark).collect();
    assert!(!marks[0] && marks.contains(&true), "{marks:?}: a first attempt says nothing");
    assert!(fleet.hosts[0].ledger().inference().iter().all(|entry| !mark(entry)));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_reads_is_sent_again_after_a_reset_without_being_asked() {
    let fleet = fleet(2, &["m"]).await;
    let plain = proxy(http_yaml(
        &fleet.urls(),
        "",
        "balance: { policy: round_robin }\ncircuit: { consecutive_failures: 1000000 }",
    ))
    .await;
    let ollama = before(&fleet, "").await;
    fleet.hosts[0].faults().add(FaultRule::everywhere(Fault::ResetBeforeHeaders));
    for method in ["GET", "GET", "HEAD", "HEAD"] {
        assert_eq!(send(plain.address(), method, "/api/tags", "").await.head.status, 200, "{method}");
    }
    for _ in 0..2 {
        assert_eq!(send(ollama.address(), "POST", "/api/show", r#"{"model":"m"}"#).await.head.status, 200);
    }
    assert!(retries(&plain, "upstream_reset").await >= 2.0);
    let statuses = [ask(&ollama, generate("m")).await.head.status, ask(&ollama, generate("m")).await.head.status];
    assert!(statuses.contains(&502), "a request that runs a model is not: {statuses:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_changes_a_server_is_never_sent_to_another_one() {
    let fleet = fleet(2, &["m"]).await;
    let route = "management: allow\nretry: { attempts: 3, on: [connect, reset, 5xx], replay_post: true }";
    let keys = KeysFile::new(&[("0000000a", "scopes: [inference, management]")]);
    let proxy = proxy(upstream_yaml("ollama", &fleet.urls(), route, TURNS) + &keys.yaml()).await;
    fleet.hosts[0].faults().add(FaultRule::everywhere(Fault::ResetBeforeHeaders).on_path("/api/pull"));
    for _ in 0..2 {
        // Nobody has it, so it goes to the first.
        let body = r#"{"model":"fresh"}"#;
        let answer = send_with(proxy.address(), "POST", "/api/pull", &bearer("0000000a"), body).await;
        assert_eq!(answer.head.status, 502, "{}", answer.text());
    }
    assert_eq!(fleet.hosts[0].ledger().by_path("/api/pull").len(), 2);
    assert!(fleet.hosts[1].ledger().by_path("/api/pull").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_request_crashes_one_runner_and_no_more() {
    let fleet = fleet(8, &["m"]).await;
    let proxy = before(&fleet, "").await;
    for (number, fault) in [Fault::RunnerCrash, Fault::StreamErrorAfterTokens(2)].into_iter().enumerate() {
        strike(&fleet, &fault);
        let long = format!(r#"{{"model":"m","prompt":"{number} {}"}}"#, "poison ".repeat(20_000));
        let short = format!(r#"{{"model":"m","prompt":"poison {number}"}}"#);
        for body in [short, long] {
            let before = executions(&fleet).len();
            for times in 0..500 {
                let path = if times % 2 == 0 { "/api/generate" } else { "/api/generate?x" };
                let answer = send(proxy.address(), "POST", path, &body).await;
                if times > 0 {
                    assert_eq!((answer.head.status, answer.reason()), (500, Some("quarantined")), "{times}");
                    assert!(answer.text().contains("one request may crash at most one runner"), "{}", answer.text());
                }
            }
            assert_eq!(executions(&fleet).len() - before, 1, "{fault:?}, {} bytes", body.len());
        }
        fleet.hosts.iter().for_each(|host| host.faults().clear());
    }
    assert_eq!(proxy.metric("arriero_quarantined{upstream=\"fleet\"}").await, 4.0);
    assert_eq!(ask(&proxy, generate("m")).await.head.status, 200, "other requests are served");
    let chat = r#"{"model":"m","messages":[{"role":"user","content":"poison 0"}]}"#;
    for (path, pointer) in [("/v1/chat/completions", "/error/message"), ("/v1/messages", "/error/message")] {
        strike(&fleet, &Fault::RunnerCrash);
        let body = chat.replacen('{', "{\"max_tokens\":5,", 1);
        send(proxy.address(), "POST", path, &body).await;
        let answer = send(proxy.address(), "POST", path, &body).await;
        let value: serde_json::Value = serde_json::from_slice(&answer.body).expect("JSON");
        let words = value.pointer(pointer).and_then(serde_json::Value::as_str).unwrap_or_default();
        assert!(words.contains("one request may crash at most one runner"), "{path}: {value}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_quarantine_can_be_switched_off() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = before(&fleet, "quarantine: 0s").await;
    fleet.hosts[0].faults().always(Fault::RunnerCrash);
    for _ in 0..5 {
        assert_eq!(ask(&proxy, generate("m")).await.reason(), None, "the server's own words");
    }
    assert_eq!(count(&fleet.hosts[0]), 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_keeps_a_routes_own_retries_from_doubling_the_load() {
    let calls = Arc::new(AtomicUsize::new(0));
    let mut servers = Vec::new();
    for _ in 0..4 {
        let calls = Arc::clone(&calls);
        servers.push(
            Small::start(move |_| {
                calls.fetch_add(1, Ordering::SeqCst);
                reply(503, "text/plain", "full")
            })
            .await,
        );
    }
    let urls: Vec<String> = servers.iter().map(Small::url).collect();
    let route = "retry: { attempts: 4, on: [\"503\"], replay_post: true }";
    let proxy = proxy(http_yaml(&urls, route, "circuit: { consecutive_failures: 1000000 }")).await;
    let asks = (0..300).map(|_| async { send(proxy.address(), "POST", "/x", "body").await.head.status });
    let statuses: Vec<u16> = futures_util::stream::iter(asks).buffer_unordered(10).collect().await;
    assert!(statuses.iter().all(|status| *status == 503));
    let calls = calls.load(Ordering::SeqCst);
    assert!((300..=330).contains(&calls), "{calls} calls for 300 requests");
    eventually("refused retries are counted", || async {
        proxy.metric("arriero_retries_refused_total{upstream=\"fleet\"}").await >= 100.0
    })
    .await;
}
