//! Connections of clients: used again, pipelined, and answers whose end is plain to see.

mod support;

use arriero::demo::{Host, HostConfig, RawUpstream, Script, Step};
use support::wire::{H1, H2, Upload, ask, get, post, proxy};
use support::{Proxy, eventually, http_yaml, ollama_yaml};

const H2C: &str = "\nlisteners: [{ address: \"127.0.0.1:0\", h2c: true }]\n";
const GENERATE: &str = r#"{"model":"llava:13b","prompt":"hi","options":{"num_predict":3}}"#;

async fn host() -> (Host, Proxy) {
    let host = Host::start(HostConfig::new("gpu").small_model("llava:13b")).await.expect("a host");
    let proxy = proxy(ollama_yaml(&[host.url()], "") + H2C).await;
    (host, proxy)
}

/// A plain server that answers everything with these bytes.
async fn answering(bytes: &'static str) -> (RawUpstream, Proxy) {
    let server = RawUpstream::start(Script::answer(bytes)).await.expect("a server");
    let proxy = proxy(http_yaml(&[server.url()], "", "") + H2C).await;
    (server, proxy)
}

#[tokio::test]
async fn head_is_answered_without_a_body_and_the_connection_stays() {
    let (_host, proxy) = host().await;
    let mut client = H1::connect(proxy.address()).await;
    for path in ["/", "/api/version", "/api/tags", "/"] {
        client.send(format!("HEAD {path} HTTP/1.1\r\nHost: a.test\r\n\r\n")).await;
        let head = client.reader.head().await;
        assert_eq!(head.status, 200, "{path}");
        assert!(head.field("content-type").is_some(), "{path}: {}", head.text);
    }
    let answer = client.ask(get("/")).await;
    assert_eq!(answer.text(), "Ollama is running");
}

#[tokio::test]
async fn head_of_a_plain_server_keeps_its_length() {
    let server = RawUpstream::start(Script::answer("HTTP/1.1 200 OK\r\nContent-Length: 12345\r\n\r\n")).await;
    let server = server.expect("a server");
    let proxy = proxy(http_yaml(&[server.url()], "", "")).await;
    let mut client = H1::connect(proxy.address()).await;
    for _ in 0..3 {
        client.send("HEAD /file HTTP/1.1\r\nHost: a.test\r\n\r\n").await;
        let head = client.reader.head().await;
        assert_eq!((head.status, head.field("content-length")), (200, Some("12345")), "{}", head.text);
    }
}

#[tokio::test]
async fn one_connection_of_a_client_serves_many_requests() {
    let (host, proxy) = host().await;
    let before = proxy.metric("arriero_connections_accepted_total").await;
    let mut client = H1::connect(proxy.address()).await;
    for number in 0..50 {
        let request = if number % 2 == 0 { post("/api/generate", GENERATE) } else { get("/api/version") };
        let answer = client.ask(request).await;
        assert_eq!((answer.head.status, answer.whole), (200, true), "{number}");
        assert_ne!(answer.head.field("connection"), Some("close"), "{number}");
    }
    assert_eq!(proxy.metric("arriero_connections_accepted_total").await - before, 1.0);
    let mut connections: Vec<_> = host.ledger().inference().iter().map(|entry| entry.connection).collect();
    connections.dedup();
    assert_eq!(connections.len(), 1, "the connection to the server is used again too");
}

#[tokio::test]
async fn a_connection_stays_after_a_body_that_was_held() {
    let (host, proxy) = host().await;
    let mut client = H1::connect(proxy.address()).await;
    let late = format!(r#"{{"prompt":"hi","images":["{}"],"model":"llava:13b"}}"#, "A".repeat(300_000));
    for _ in 0..3 {
        assert_eq!(client.ask(post("/api/generate", &late)).await.head.status, 200);
        assert_eq!(client.ask(get("/api/version")).await.head.status, 200);
    }
    assert_eq!(host.ledger().inference().len(), 3);
}

#[tokio::test]
async fn one_http2_connection_serves_many_requests_at_a_time() {
    let (host, proxy) = host().await;
    let client = H2::connect(proxy.address()).await;
    let all = (0..20).map(|_| {
        let mut sender = client.sender.clone();
        async move {
            let (feeder, upload) = Upload::new(None);
            let answer = sender.send_request(H2::request("POST", "/api/generate", upload));
            feeder.send(GENERATE.into()).await.expect("sent");
            drop(feeder);
            support::wire::read(answer.await.expect("an answer")).await
        }
    });
    for answer in futures_util::future::join_all(all).await {
        assert_eq!((answer.head.status, answer.whole), (200, true));
        for forbidden in ["connection", "transfer-encoding", "keep-alive"] {
            assert_eq!(answer.head.field(forbidden), None, "{}", answer.head.text);
        }
    }
    assert_eq!(host.ledger().inference().len(), 20);
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let (host, proxy) = host().await;
    let mut requests = Vec::new();
    for number in 1..=10 {
        let body = format!(r#"{{"model":"llava:13b","prompt":"hi","options":{{"num_predict":{number}}}}}"#);
        requests.extend(post("/api/generate", body));
        requests.extend(get("/api/version"));
    }
    let mut client = H1::connect(proxy.address()).await;
    client.send(&requests).await;
    for number in 1..=10 {
        let answer = client.reader.answer().await;
        let tokens = answer.text().lines().count() - 1;
        assert_eq!((answer.head.status, tokens), (200, number), "{}", answer.text());
        let answer = client.reader.answer().await;
        assert!(answer.text().contains("version"), "{}", answer.text());
    }
    assert_eq!(host.ledger().inference().len(), 10, "each was executed once");
}

#[tokio::test]
async fn a_pipelined_request_that_comes_during_a_stream_does_not_disturb_it() {
    let (host, proxy) = host().await;
    host.token_gate().close();
    let mut client = H1::connect(proxy.address()).await;
    client.send(post("/api/generate", GENERATE)).await;
    eventually("the server has the request", async || host.ledger().inference().len() == 1).await;
    client.send(get("/api/version")).await;
    host.token_gate().open();
    let answer = client.reader.answer().await;
    assert_eq!((answer.head.status, answer.whole, answer.text().lines().count()), (200, true, 4));
    assert!(client.reader.answer().await.text().contains("version"));
}

#[tokio::test]
async fn connection_close_is_obeyed() {
    let (_host, proxy) = host().await;
    let mut client = H1::connect(proxy.address()).await;
    client.send("GET /api/version HTTP/1.1\r\nHost: a.test\r\nConnection: close\r\n\r\n").await;
    let answer = client.reader.answer().await;
    assert_eq!((answer.head.status, answer.head.field("connection")), (200, Some("close")));
    assert_eq!(client.reader.rest().await, b"");
}

#[tokio::test]
async fn an_http_1_0_client_gets_an_answer_that_it_understands() {
    let (_host, proxy) = host().await;
    let body = GENERATE;
    let mut client = H1::connect(proxy.address()).await;
    client.send(format!("POST /api/generate HTTP/1.0\r\nContent-Length: {}\r\n\r\n{body}", body.len())).await;
    let answer = client.reader.answer().await;
    assert_eq!((answer.head.status, answer.head.field("transfer-encoding")), (200, None), "{}", answer.head.text);
    assert_eq!(answer.text().lines().filter(|line| line.starts_with('{')).count(), 4, "{}", answer.text());
    assert_eq!(client.reader.rest().await, b"");
}

#[tokio::test]
async fn trailers_of_an_answer_do_not_break_it() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n";
    let (_server, proxy) = answering(chunked).await;
    let mut client = H1::connect(proxy.address()).await;
    for _ in 0..3 {
        client.send(get("/")).await;
        let head = client.reader.head().await;
        assert_eq!(head.field("transfer-encoding"), Some("chunked"), "{}", head.text);
        // Both are right: to pass the trailers on, or to drop them.
        let mut raw = String::new();
        while !raw.ends_with("\r\n\r\n") {
            raw.push(char::from(client.reader.byte().await));
        }
        assert!(["5\r\nhello\r\n0\r\n\r\n", "5\r\nhello\r\n0\r\nX-Sum: 1\r\n\r\n"].contains(&raw.as_str()), "{raw:?}");
    }
    let mut client = H2::connect(proxy.address()).await;
    let answer = client.ask(H2::request("GET", "/", Upload::empty()), "".into()).await;
    assert_eq!((answer.text().as_str(), answer.whole), ("hello", true));
}

#[tokio::test]
async fn an_answer_that_ends_with_its_connection_gets_an_end_of_its_own() {
    let script = Script::new(vec![
        Step::ReadRequest,
        Step::Write("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\n\r\nuntil the end".into()),
        Step::Close,
    ]);
    let server = RawUpstream::start(script).await.expect("a server");
    let proxy = proxy(http_yaml(&[server.url()], "", "")).await;
    let answer = ask(proxy.address(), get("/")).await;
    assert_eq!((answer.text().as_str(), answer.whole), ("until the end", true));
    assert!(
        answer.head.field("transfer-encoding") == Some("chunked") || answer.head.field("connection") == Some("close"),
        "{}",
        answer.head.text
    );
}

#[tokio::test]
async fn answers_without_a_body_leave_the_connection_usable() {
    for status in ["204 No Content", "304 Not Modified"] {
        let text: &'static str = format!("HTTP/1.1 {status}\r\nX-One: two\r\n\r\n").leak();
        let (_server, proxy) = answering(text).await;
        let mut client = H1::connect(proxy.address()).await;
        for _ in 0..3 {
            let answer = client.ask(get("/")).await;
            assert_eq!((answer.head.field("x-one"), answer.body.len()), (Some("two"), 0), "{}", answer.head.text);
            assert_eq!(answer.head.field("transfer-encoding"), None, "{}", answer.head.text);
        }
    }
}

#[tokio::test]
async fn an_informational_answer_does_not_take_the_place_of_the_final_one() {
    let text = "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
    let (_server, proxy) = answering(text).await;
    let mut client = H1::connect(proxy.address()).await;
    for _ in 0..2 {
        assert_eq!(client.ask(get("/")).await.text(), "ok");
    }
}
