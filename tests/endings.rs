//! A stream that breaks after its first byte: its last line or event says so, and the transport shows it still.

mod support;

use arriero::demo::{Fault, Fleet, Host, HostConfig, RawUpstream, Script, Step};
use bytes::Bytes;
use serde_json::Value;
use support::fleet::{ended, fleet, send};
use support::wire::{Answer, H2, Upload, proxy};
use support::{Proxy, eventually, upstream_yaml};

const CALM: &str = "balance: { policy: round_robin, model_affinity: off }\nhealth: { active: off }
circuit: { consecutive_failures: 1000000 }";
const H2C: &str = "\nlisteners: [{ address: \"127.0.0.1:0\", h2c: true }]\n";

/// A path, a body of its own for each case, and the pointer to the message of an error.
const CALLS: [(&str, &str, &str); 4] = [
    ("/api/chat", r#"{"model":"m","messages":[{"role":"user","content":"#, "/error"),
    ("/api/generate", r#"{"model":"m","prompt":"#, "/error"),
    ("/v1/chat/completions", r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"#, "/error/message"),
    (
        "/v1/messages",
        r#"{"model":"m","stream":true,"max_tokens":20,"messages":[{"role":"user","content":"#,
        "/error/message",
    ),
];

fn body(start: &str, number: usize) -> String {
    let end = if start.contains("messages") { "}]}" } else { "}" };
    format!("{start}\"case {number}\"{end}")
}

/// The JSON of the last line or event.
fn last(answer: &Answer) -> Value {
    let text = answer.text();
    let line = text.lines().rev().find(|line| !line.is_empty()).expect("a line");
    let json = line.strip_prefix("data: ").unwrap_or(line);
    serde_json::from_str(json).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[track_caller]
fn assert_broken(answer: &Answer, pointer: &str, case: &str) {
    let text = answer.text();
    assert_eq!((answer.head.status, answer.whole), (200, false), "{case}: {text}");
    assert!(last(answer).pointer(pointer).is_some_and(Value::is_string), "{case}: {text}");
    for done in ["\"done\":true", "[DONE]", "message_stop"] {
        assert!(!text.contains(done), "{case}: {text}");
    }
    assert_eq!(text.matches("\"error\"").count(), if text.contains("event: error") { 2 } else { 1 }, "{case}: {text}");
}

async fn before(fleet: &Fleet, more: &str) -> Proxy {
    let route = "timeouts: { read: 1s }";
    proxy(upstream_yaml("ollama", &fleet.urls(), route, &format!("{CALM}\n{more}")) + H2C).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_stream_ends_with_an_error_in_its_dialect_and_is_cut_off() {
    let fleet = fleet(1, &["m"]).await;
    let proxy = before(&fleet, "").await;
    let faults = [Fault::ResetAfterTokens(3), Fault::CloseAfterTokens(3), Fault::StallAfterTokens(3)];
    let mut number = 0;
    for fault in faults {
        for (path, start, pointer) in CALLS {
            for http2 in [false, true] {
                number += 1;
                fleet.hosts[0].faults().next(1, fault.clone());
                let body = body(start, number);
                let answer = if http2 {
                    let request = H2::request("POST", path, Upload::new(Some(body.len() as u64)).1);
                    H2::connect(proxy.address()).await.ask(request, Bytes::from(body)).await
                } else {
                    send(proxy.address(), "POST", path, body).await
                };
                assert_broken(&answer, pointer, &format!("{fault:?} {path} HTTP/2 {http2}"));
            }
        }
    }
    let truncated = ended(&proxy, "upstream_truncated").await + ended(&proxy, "read_timeout").await;
    assert_eq!(truncated, number as f64);
    assert_eq!(ended(&proxy, "stream_error").await, 0.0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_that_was_cut_is_ended_first() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let cut = "{\"model\":\"m\",\"response\":\"half of a l";
    let chunk = format!("{head}{:x}\r\n{cut}\r\n", cut.len());
    let script = Script::new(vec![Step::ReadRequest, Step::Write(chunk.into()), Step::Close]);
    let server = RawUpstream::start(script).await.expect("a server");
    let proxy = proxy(upstream_yaml("ollama", &[server.url()], "", CALM)).await;
    let answer = send(proxy.address(), "POST", "/api/generate", r#"{"model":"m","prompt":"x"}"#).await;
    let text = answer.text();
    let lines: Vec<&str> = text.lines().collect();
    assert_eq!((lines.len(), lines[0], answer.whole), (2, cut, false), "{text}");
    assert_eq!(lines[1], r#"{"error":"the server's answer broke off"}"#);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_with_a_length_and_one_that_is_no_stream_get_nothing_added() {
    let cases = [
        ("application/x-ndjson", "Content-Length: 100", "{\"response\":\"a\",\"done\":false}\n"),
        ("application/json", "Transfer-Encoding: chunked", "{\"response\":\"a\",\"do"),
    ];
    for (kind, framing, part) in cases {
        let piece =
            if framing.contains("chunked") { format!("{:x}\r\n{part}\r\n", part.len()) } else { part.to_owned() };
        let bytes = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n{piece}");
        let script = Script::new(vec![Step::ReadRequest, Step::Write(bytes.into()), Step::Close]);
        let server = RawUpstream::start(script).await.expect("a server");
        let proxy = proxy(upstream_yaml("ollama", &[server.url()], "", CALM)).await;
        let answer = send(proxy.address(), "POST", "/api/generate", r#"{"model":"m","prompt":"x"}"#).await;
        assert_eq!((answer.text().as_str(), answer.whole), (part, false), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_has_its_end_or_an_error_gets_no_other_one() {
    for last in ["{\"model\":\"m\",\"done\":true}\n", "{\"error\":\"its own\"}\n"] {
        let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
        let bytes = format!("{head}{:x}\r\n{last}\r\n", last.len());
        let script = Script::new(vec![Step::ReadRequest, Step::Write(bytes.into()), Step::Close]);
        let server = RawUpstream::start(script).await.expect("a server");
        let proxy = proxy(upstream_yaml("ollama", &[server.url()], "", CALM)).await;
        let answer = send(proxy.address(), "POST", "/api/generate", r#"{"model":"m","prompt":"x"}"#).await;
        assert_eq!((answer.text().as_str(), answer.whole), (last, false));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_ends_well_before_it_is_done_says_so_and_is_counted() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let line = "{\"model\":\"m\",\"response\":\"half\",\"done\":false}\n";
    let bytes = format!("{head}{:x}\r\n{line}\r\n0\r\n\r\n", line.len());
    let script = Script::new(vec![Step::ReadRequest, Step::Write(bytes.into()), Step::Close]);
    let server = RawUpstream::start(script).await.expect("a server");
    let proxy = proxy(upstream_yaml("ollama", &[server.url()], "", CALM)).await;
    let answer = send(proxy.address(), "POST", "/api/generate", r#"{"model":"m","prompt":"x"}"#).await;
    let said = format!("{line}{{\"error\":\"the server ended the stream before its answer was done\"}}\n");
    assert_eq!((answer.text(), answer.whole), (said, true));
    eventually("it is counted", || async { ended(&proxy, "upstream_truncated").await == 1.0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_that_ollama_lost_in_openais_stream_is_told() {
    let head = "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n";
    let event = |model: &str| {
        format!(
            "data: {{\"id\":\"chatcmpl-1\",\"object\":\"chat.completion.chunk\",\"created\":1,\"model\":\"{model}\",\"system_fingerprint\":\"fp_ollama\",\"choices\":[]}}\n\n"
        )
    };
    let events = event("m") + &event("");
    let bytes = format!("{head}{:x}\r\n{events}\r\n0\r\n\r\n", events.len());
    let script = Script::new(vec![Step::ReadRequest, Step::Write(bytes.into()), Step::Close]);
    let server = RawUpstream::start(script).await.expect("a server");
    let proxy = proxy(upstream_yaml("ollama", &[server.url()], "", CALM)).await;
    let request = r#"{"model":"m","stream":true,"messages":[]}"#;
    let answer = send(proxy.address(), "POST", "/v1/chat/completions", request).await;
    assert!(answer.whole && answer.text().starts_with(&events), "{}", answer.text());
    assert!(last(&answer).pointer("/error/message").is_some_and(Value::is_string), "{}", answer.text());
    eventually("it is counted", || async { ended(&proxy, "stream_error").await == 1.0 }).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_over_http2_that_resets_its_stream_is_told_of_as_well() {
    let host = Host::start(HostConfig::new("gpu").small_model("m").http2()).await.expect("a host");
    let fleet = Fleet { hosts: vec![host] };
    let proxy = before(&fleet, "http2: true").await;
    fleet.hosts[0].faults().next(1, Fault::ResetAfterTokens(3));
    let answer = send(proxy.address(), "POST", "/api/generate", r#"{"model":"m","prompt":"x"}"#).await;
    assert_broken(&answer, "/error", "h2 upstream");
    eventually("it is counted", || async { ended(&proxy, "upstream_truncated").await == 1.0 }).await;
}
