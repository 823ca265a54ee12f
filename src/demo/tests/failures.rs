//! Faults, and hosts that die.

use super::*;
use crate::demo::{Fault, FaultRule, Fleet, Outcome};

const CHAT: &str = r#"{"model":"llava:13b","messages":[{"role":"user","content":"x"}]}"#;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn streams_are_cut_after_exactly_so_many_tokens() {
    let host = host(9).await;
    for _ in 0..20 {
        host.faults().next(1, Fault::ResetAfterTokens(3));
        let reset = post(&host, "/api/chat", CHAT).await;
        assert!(reset.reset && !reset.whole);
        assert_eq!(reset.chunks.len(), 3);
    }
    host.faults().next(1, Fault::CloseAfterTokens(2));
    let closed = post(&host, "/api/chat", CHAT).await;
    assert!(!closed.reset && !closed.whole);
    assert_eq!(closed.chunks.len(), 2);
    host.faults().next(1, Fault::StreamErrorAfterTokens(4));
    let broken = post(&host, "/api/chat", CHAT).await;
    assert!(broken.status == 200 && broken.whole);
    let last = "{\"error\":\"an error was encountered while running the model: unexpected EOF\"}\n";
    assert_eq!(broken.chunks.last().map(String::as_str), Some(last));
    assert_eq!(broken.chunks.len(), 5);
    host.ledger().wait_until(LIMIT, |ledger| ledger.in_flight() == 0).await.unwrap();
    let faults = host.ledger().find(|entry| entry.outcome() == Some(Outcome::Fault));
    assert_eq!(faults.len(), 22);
    assert_eq!(faults[0].tokens, 3);
    assert!(post(&host, "/api/chat", CHAT).await.whole);
}

#[tokio::test]
async fn answers_fail_in_every_other_way() {
    let host = host(2).await;
    host.faults().next(1, Fault::ResetBeforeHeaders);
    let reset = post(&host, "/api/chat", CHAT).await;
    assert!(reset.reset && reset.head.is_empty());
    host.faults().next(1, Fault::CloseBeforeHeaders);
    let closed = post(&host, "/api/chat", CHAT).await;
    assert!(!closed.reset && closed.head.is_empty());
    host.faults().next(1, Fault::RunnerCrash);
    let crash = post(&host, "/api/chat", CHAT).await;
    assert_eq!(
        (crash.status, crash.text().as_str()),
        (500, r#"{"error":"llama runner process has terminated: exit status 2"}"#)
    );
    host.faults().next(1, Fault::Busy);
    assert_eq!(post(&host, "/v1/chat/completions", CHAT).await.status, 503);
    host.faults().next(1, Fault::Garbage);
    assert!(post(&host, "/api/chat", CHAT).await.head.contains("not HTTP"));
    host.faults().next(1, Fault::HugeHeader(100_000));
    assert!(post(&host, "/api/chat", CHAT).await.head.len() > 100_000);
    host.faults().next(1, Fault::StreamErrorAfterTokens(1));
    let whole = post(&host, "/api/generate", r#"{"model":"llava:13b","prompt":"x","stream":false}"#).await;
    assert_eq!(whole.status, 500);
    host.faults().add(FaultRule::everywhere(Fault::ModelNotFound).on_model("llava:13b"));
    assert_eq!(post(&host, "/api/chat", CHAT).await.status, 404);
    host.faults().clear();
    assert_eq!(post(&host, "/api/chat", CHAT).await.status, 200);
}

#[tokio::test]
async fn a_hanging_request_ends_with_its_client() {
    let host = host(1).await;
    host.faults().next(1, Fault::Hang);
    let stream = send(&host, "POST", "/api/chat", "", CHAT).await;
    host.ledger().wait_until(LIMIT, |ledger| !ledger.by_model("llava:13b").is_empty()).await.unwrap();
    assert_eq!(host.ledger().in_flight(), 1);
    drop(stream);
    host.ledger().wait_until(LIMIT, |ledger| ledger.in_flight() == 0).await.unwrap();
    assert_eq!(host.ledger().entries()[0].outcome(), Some(Outcome::ClientGone));
}

#[tokio::test]
async fn an_unread_body_is_backpressure() {
    let host = host(1).await;
    host.faults().add(FaultRule::inference(Fault::StopReading));
    let mut stream = send(&host, "POST", "/api/chat", "", "").await;
    host.ledger().wait_until(LIMIT, |ledger| ledger.count() == 1).await.unwrap();
    assert_eq!(host.ledger().entries()[0].body_bytes, 0);
    host.reset_connections();
    let mut buffer = Vec::new();
    assert!(stream.read_to_end(&mut buffer).await.is_err());
    assert_eq!(host.ledger().entries()[0].outcome(), Some(Outcome::Fault));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_host_refuses_and_comes_back_on_its_port() {
    let host = host(5).await;
    post(&host, "/api/generate", r#"{"model":"llava:13b"}"#).await;
    host.token_gate().close();
    let stream = send(&host, "POST", "/api/chat", "", CHAT).await;
    host.ledger().wait_until(LIMIT, |ledger| ledger.by_model("llava:13b").len() == 2).await.unwrap();
    host.kill().await;
    assert!(receive(stream, false).await.reset);
    let refused = TcpStream::connect(host.address()).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    host.token_gate().open();
    host.restart().await.unwrap();
    assert!(host.loaded().is_empty());
    assert!(post(&host, "/api/chat", CHAT).await.whole);
    assert_eq!(host.ledger().by_path("/api/chat")[0].outcome(), Some(Outcome::Fault));
}

#[tokio::test]
async fn a_graceful_stop_finishes_what_runs() {
    let host = host(5).await;
    host.token_gate().close();
    let (gate, ledger, address) = (host.token_gate().clone(), host.ledger(), host.address());
    let stream = send(&host, "POST", "/api/chat", "", CHAT).await;
    let idle = TcpStream::connect(address).await.unwrap();
    ledger.wait_until(LIMIT, |ledger| !ledger.by_model("llava:13b").is_empty()).await.unwrap();
    let stopping = tokio::spawn(host.stop());
    gate.open();
    assert!(receive(stream, false).await.whole);
    stopping.await.unwrap();
    assert_eq!(ledger.entries()[0].outcome(), Some(Outcome::Completed));
    drop(idle);
    let host = Host::start(HostConfig::new("h2").http2()).await.unwrap();
    let idle = TcpStream::connect(host.address()).await.unwrap();
    host.open_connections().wait_for(|open| *open == 1).await.unwrap();
    tokio::time::timeout(LIMIT, host.stop()).await.unwrap();
    drop(idle);
}

#[tokio::test]
async fn the_demo_fleet_has_three_hosts() {
    let fleet = Fleet::demo().await.unwrap();
    assert_eq!(fleet.urls().len(), 3);
    let tags = get(fleet.host("a100-1").unwrap(), "/api/tags").await;
    assert_eq!(tags.json()["models"].as_array().map(Vec::len), Some(3));
    assert!(fleet.duplicates().is_empty());
    fleet.stop().await;
}
