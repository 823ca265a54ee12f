//! Loading, memory, slots, queues and clients that leave.

use super::*;
use crate::demo::{DemoModel, Outcome};

const GENERATE: &str = r#"{"model":"llava:13b","prompt":"x"}"#;

#[tokio::test]
async fn empty_requests_load_and_unload() {
    let host = host(1).await;
    let load = post(&host, "/api/generate", r#"{"model":"llava:13b"}"#).await;
    assert_eq!((&load.json()["done_reason"], &load.json()["response"]), (&"load".into(), &"".into()));
    let ps = get(&host, "/api/ps").await.json();
    assert_eq!((&ps["models"][0]["name"], &ps["models"][0]["context_length"]), (&"llava:13b".into(), &4096.into()));
    let unload = post(&host, "/api/chat", r#"{"model":"llava:13b","messages":[],"keep_alive":0}"#).await;
    assert_eq!(unload.json()["done_reason"], "unload");
    assert!(host.loaded().is_empty());
    post(&host, "/api/generate", r#"{"model":"llava:13b","prompt":"x","keep_alive":"0s"}"#).await;
    host.ledger().wait_until(LIMIT, |_| host.loaded().is_empty()).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_slot_serves_in_order_and_a_vanished_client_frees_it() {
    let host = host(4).await;
    post(&host, "/api/generate", r#"{"model":"llava:13b"}"#).await;
    host.token_gate().close();
    let first = send(&host, "POST", "/api/generate", "X-Request-Id: first\r\n", GENERATE).await;
    let begun = |count: usize| {
        move |ledger: &crate::demo::Ledger| ledger.find(|entry| entry.body_sha256.is_some()).len() >= count
    };
    host.ledger().wait_until(LIMIT, begun(2)).await.unwrap();
    let second = send(&host, "POST", "/api/generate", "X-Request-Id: second\r\n", GENERATE).await;
    host.ledger().wait_until(LIMIT, begun(3)).await.unwrap();
    drop(first);
    let gone =
        |ledger: &crate::demo::Ledger| !ledger.find(|entry| entry.outcome() == Some(Outcome::ClientGone)).is_empty();
    host.ledger().wait_until(LIMIT, gone).await.unwrap();
    assert_eq!(host.ledger().in_flight(), 1);
    host.token_gate().open();
    let answer = receive(second, false).await;
    assert!(answer.whole && answer.chunks.len() == 5);
    let tokens: Vec<usize> = host.ledger().by_path("/api/generate").iter().map(|entry| entry.tokens).collect();
    assert_eq!(tokens, [0, 0, 4]);
}

#[tokio::test]
async fn a_client_that_leaves_mid_stream_stops_the_generation() {
    let config =
        HostConfig::new("slow").tokens(1_000_000).small_model("llava:13b").token_interval(Duration::from_millis(1));
    let host = Host::start(config).await.unwrap();
    let stream = send(&host, "POST", "/api/generate", "", GENERATE).await;
    host.ledger().wait_until(LIMIT, |ledger| ledger.entries().iter().any(|entry| entry.tokens > 2)).await.unwrap();
    drop(stream);
    host.ledger().wait_until(LIMIT, |ledger| ledger.in_flight() == 0).await.unwrap();
    let entry = &host.ledger().entries()[0];
    assert_eq!(entry.outcome(), Some(Outcome::ClientGone));
    assert!(entry.tokens < 1_000_000);
}

#[tokio::test]
async fn one_load_at_a_time_and_a_bounded_queue() {
    let mut config = HostConfig::new("queue").small_model("a").small_model("b").small_model("c").tokens(1);
    config.max_queue = 1;
    let host = Host::start(config).await.unwrap();
    host.load_gate().close();
    let ask = |name: &str| format!(r#"{{"model":"{name}","prompt":"x","stream":false}}"#);
    let first = send(&host, "POST", "/api/generate", "", &ask("a")).await;
    host.ledger().wait_until(LIMIT, |_| host.loaded() == ["a:latest"]).await.unwrap();
    let second = send(&host, "POST", "/api/generate", "", &ask("b")).await;
    let queued = tokio::time::timeout(LIMIT, async {
        while host.pending() < 1 {
            tokio::task::yield_now().await;
        }
    });
    queued.await.unwrap();
    let third = post(&host, "/api/generate", &ask("c")).await;
    assert_eq!(third.status, 503);
    assert_eq!(third.text(), r#"{"error":"server busy, please try again.  maximum pending requests exceeded"}"#);
    assert_eq!(host.loaded(), ["a:latest"]);
    let ps = send(&host, "GET", "/api/ps", "", "").await;
    host.ledger().wait_until(LIMIT, |ledger| ledger.by_path("/api/ps").len() == 1).await.unwrap();
    assert_eq!(host.ledger().by_path("/api/ps")[0].finished, None);
    host.load_gate().open();
    assert_eq!((receive(first, false).await.status, receive(second, false).await.status), (200, 200));
    assert_eq!(receive(ps, false).await.status, 200);
    assert_eq!(host.loaded(), ["a:latest", "b:latest"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_does_not_fit_evicts_the_idle_and_waits_for_the_busy() {
    let config = HostConfig::new("tight").vram(3_000_000_000).tokens(1);
    let config = config.model(DemoModel::new("a", 2_000_000_000)).model(DemoModel::new("b", 2_000_000_000));
    let host = Host::start(config).await.unwrap();
    let ask = |name: &str| format!(r#"{{"model":"{name}","prompt":"x","stream":false}}"#);
    post(&host, "/api/generate", &ask("a")).await;
    post(&host, "/api/generate", &ask("b")).await;
    assert_eq!(host.loaded(), ["b:latest"]);
    host.token_gate().close();
    let busy = send(&host, "POST", "/api/generate", "", &ask("b")).await;
    host.ledger()
        .wait_until(LIMIT, |ledger| ledger.by_model("b").iter().filter(|entry| entry.slot_at.is_some()).count() == 2)
        .await
        .unwrap();
    let waits = send(&host, "POST", "/api/generate", "", &ask("a")).await;
    host.ledger().wait_until(LIMIT, |ledger| ledger.by_model("a").len() == 2).await.unwrap();
    host.token_gate().open();
    assert_eq!((receive(busy, false).await.status, receive(waits, false).await.status), (200, 200));
    assert_eq!(host.loaded(), ["a:latest"]);
}
